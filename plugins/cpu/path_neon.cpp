// NEON, which every 64-bit Arm CPU has.
#include "model.h"

#if defined(__aarch64__) && defined(__GNUC__)
#include <arm_neon.h>
#include <string.h>

#include "target.h"
#define VECTOR_REGISTER "w"

namespace wavernn {
namespace {

typedef float32x4_t vf;
typedef int32x4_t vi;
constexpr int LANES = 4;
constexpr int VECTORS = 4;
constexpr int TILE = 6;
constexpr int INTEGER_TILE = 6;
constexpr int INTEGER_COLUMNS = 2;

inline vf load(const float* at) { return vld1q_f32(at); }
inline void store(float* at, vf x) { vst1q_f32(at, x); }
inline vf broadcast(float x) { return vdupq_n_f32(x); }
inline vf fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
inline vf larger(vf a, vf b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline vf smaller(vf a, vf b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
inline vf absolute(vf x) { return vabsq_f32(x); }
inline vf with_sign(vf magnitude, vf sign) { return vbslq_f32(vdupq_n_u32(0x80000000u), sign, magnitude); }
inline vf without_denormals(vf x) {
    const uint32x4_t tiny = vcltq_f32(vabsq_f32(x), vdupq_n_f32(1e-30f));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(x), tiny));
}
inline vf power_of_two(vf x) {
    const uint32x4_t exponent = vshlq_n_u32(vreinterpretq_u32_f32(x), 23);
    return vreinterpretq_f32_u32(vaddq_u32(exponent, vdupq_n_u32(0x3f800000u)));
}
inline void load_bfloat16(const uint16_t* at, vf& low, vf& high) {
    const uint32x4_t words = vreinterpretq_u32_u16(vld1q_u16(at));
    low = vreinterpretq_f32_u32(vshlq_n_u32(words, 16));
    high = vreinterpretq_f32_u32(vandq_u32(words, vdupq_n_u32(0xffff0000u)));
}

struct IntegerSum {
    vi sum;
};
typedef int16x8_t IntegerFactor;
inline IntegerSum no_sum() { return IntegerSum{vdupq_n_s32(0)}; }
inline int16x8_t load_codes(const int8_t* at) { return vmovl_s8(vld1_s8(at)); }
inline void arrange_codes(int16_t*, int) {}
inline IntegerFactor broadcast_codes(const CodePair* codes, int group) {
    return vreinterpretq_s16_s32(vdupq_n_s32(codes[group]));
}
inline void add_products(IntegerSum& sum, int16x8_t weights, IntegerFactor x) {
    const int32x4_t low = vmull_s16(vget_low_s16(weights), vget_low_s16(x));
    sum.sum = vaddq_s32(sum.sum, vpaddq_s32(low, vmull_high_s16(weights, x)));
}
inline vf to_float(const IntegerSum& sum, const int32_t*) { return vcvtq_f32_s32(sum.sum); }

typedef float32x4_t vq;
inline vq load_quad(const float* at) { return vld1q_f32(at); }
inline void store_quad(float* at, vq x) { vst1q_f32(at, x); }
inline vq quad_of(float x) { return vdupq_n_f32(x); }
inline vq fma_quad(vq a, vq b, vq c) { return vfmaq_f32(c, a, b); }
inline vq sum_quads(vq a, vq b, vq c, vq d) { return vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)); }

#include "kernels.h"

}  // namespace

extern const Path NEON = {"neon", BLOCK, LANES, INTEGER_COLUMNS, thread_bytes, run, apply,
    read_array, multiply_in_registers};

}  // namespace wavernn
#endif
