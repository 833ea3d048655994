// AVX-512 with VNNI: Intel from Cascade Lake and Ice Lake on, AMD from Zen 4 on.
#include "model.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#include <string.h>

#include "target.h"
#define VECTOR_REGISTER "v"
BEGIN_TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")

namespace wavernn {
namespace {

typedef __m512 vf;
typedef __m512i vi;
constexpr int LANES = 16;
constexpr int VECTORS = 2;
constexpr int TILE = 12;
constexpr int INTEGER_TILE = 6;
constexpr int INTEGER_COLUMNS = 4;

inline vf load(const float* at) { return _mm512_loadu_ps(at); }
inline void store(float* at, vf x) { _mm512_storeu_ps(at, x); }
inline vf broadcast(float x) { return _mm512_set1_ps(x); }
inline vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
inline vf larger(vf a, vf b) { return _mm512_max_ps(a, b); }
inline vf smaller(vf a, vf b) { return _mm512_min_ps(a, b); }
inline vf absolute(vf x) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), x); }
inline vf with_sign(vf magnitude, vf sign) {
    return _mm512_or_ps(magnitude, _mm512_and_ps(_mm512_set1_ps(-0.0f), sign));
}
inline vf without_denormals(vf x) {
    const __mmask16 tiny = _mm512_cmp_ps_mask(absolute(x), _mm512_set1_ps(1e-30f), _CMP_LT_OQ);
    return _mm512_mask_blend_ps(tiny, x, _mm512_setzero_ps());
}
inline vf power_of_two(vf x) {
    const vi exponent = _mm512_slli_epi32(_mm512_castps_si512(x), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(0x3f800000)));
}
inline void load_bfloat16(const uint16_t* at, vf& low, vf& high) {
    const vi words = _mm512_loadu_si512(at);
    low = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
    high = _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

// VNNI multiplies unsigned bytes with signed ones. An int16 code of an activation is 256 * (high - 128) + low, with high
// and low unsigned: two sums, modulo 2^32, and a correction by the sum of the row's weights.
struct IntegerSum {
    vi high, low;
};
struct IntegerFactor {
    vi high, low;
};
inline IntegerSum no_sum() { return IntegerSum{_mm512_setzero_si512(), _mm512_setzero_si512()}; }
inline vi load_codes(const int8_t* at) { return _mm512_loadu_si512(at); }
inline void arrange_codes(int16_t* codes, int count) {
    for (int i = 0; i < count; i += 4) {
        uint8_t bytes[8];
        for (int j = 0; j < 4; ++j) {
            bytes[j] = static_cast<uint8_t>(codes[i + j] & 0xff);
            bytes[4 + j] = static_cast<uint8_t>((codes[i + j] >> 8) + 128);
        }
        memcpy(codes + i, bytes, sizeof bytes);
    }
}
inline IntegerFactor broadcast_codes(const CodePair* codes, int group) {
    return IntegerFactor{_mm512_set1_epi32(codes[2 * group + 1]), _mm512_set1_epi32(codes[2 * group])};
}
inline void add_products(IntegerSum& sum, vi weights, const IntegerFactor& x) {
    // Not _mm512_dpbusd_epi32: GCC 12 copies and spills the sums in each step, at a third of the speed.
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum.high) : "v"(x.high), "v"(weights));
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum.low) : "v"(x.low), "v"(weights));
}
inline vf to_float(const IntegerSum& sum, const int32_t* weights) {
    const vi correction = _mm512_slli_epi32(_mm512_loadu_si512(weights), 15);
    const vi high = _mm512_slli_epi32(sum.high, 8);
    return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_sub_epi32(high, correction), sum.low));
}

typedef __m128 vq;
inline vq load_quad(const float* at) { return _mm_loadu_ps(at); }
inline void store_quad(float* at, vq x) { _mm_storeu_ps(at, x); }
inline vq quad_of(float x) { return _mm_set1_ps(x); }
inline vq fma_quad(vq a, vq b, vq c) { return _mm_fmadd_ps(a, b, c); }
inline vq sum_quads(vq a, vq b, vq c, vq d) { return _mm_hadd_ps(_mm_hadd_ps(a, b), _mm_hadd_ps(c, d)); }

#include "kernels.h"

}  // namespace

extern const Path AVX512 = {"avx512", BLOCK, LANES, INTEGER_COLUMNS, thread_bytes, run, apply,
    read_array, multiply_in_registers};

}  // namespace wavernn

END_TARGET
#endif
