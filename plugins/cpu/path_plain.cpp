// Without vector instructions: the same operations, lane by lane. Slow; tests compare the other paths with it.
#include "model.h"

#include <string.h>

#include "target.h"
#define VECTOR_REGISTER "m"

namespace wavernn {
namespace {

constexpr int LANES = 4;
constexpr int VECTORS = 4;
constexpr int TILE = 2;
constexpr int INTEGER_TILE = 2;
constexpr int INTEGER_COLUMNS = 2;

struct vf {
    float x[LANES];
};

#define EACH_LANE for (int i = 0; i < LANES; ++i)

inline uint32_t lane_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float lane_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

inline vf load(const float* at) {
    vf y;
    memcpy(y.x, at, sizeof y.x);
    return y;
}
inline void store(float* at, vf x) { memcpy(at, x.x, sizeof x.x); }
inline vf broadcast(float x) {
    vf y;
    EACH_LANE { y.x[i] = x; }
    return y;
}
inline vf operator+(vf a, vf b) {
    EACH_LANE { a.x[i] += b.x[i]; }
    return a;
}
inline vf operator-(vf a, vf b) {
    EACH_LANE { a.x[i] -= b.x[i]; }
    return a;
}
inline vf operator*(vf a, vf b) {
    EACH_LANE { a.x[i] *= b.x[i]; }
    return a;
}
inline vf operator/(vf a, vf b) {
    EACH_LANE { a.x[i] /= b.x[i]; }
    return a;
}
inline vf fma(vf a, vf b, vf c) {
    EACH_LANE { c.x[i] = __builtin_fmaf(a.x[i], b.x[i], c.x[i]); }
    return c;
}
inline vf larger(vf a, vf b) {
    EACH_LANE { b.x[i] = a.x[i] > b.x[i] ? a.x[i] : b.x[i]; }
    return b;
}
inline vf smaller(vf a, vf b) {
    EACH_LANE { b.x[i] = a.x[i] < b.x[i] ? a.x[i] : b.x[i]; }
    return b;
}
inline vf absolute(vf x) {
    EACH_LANE { x.x[i] = lane_float(lane_bits(x.x[i]) & 0x7fffffffu); }
    return x;
}
inline vf with_sign(vf magnitude, vf sign) {
    EACH_LANE { magnitude.x[i] = lane_float(lane_bits(magnitude.x[i]) | (lane_bits(sign.x[i]) & 0x80000000u)); }
    return magnitude;
}
inline vf without_denormals(vf x) {
    EACH_LANE { x.x[i] = lane_float(lane_bits(x.x[i]) & 0x7fffffffu) < 1e-30f ? 0.0f : x.x[i]; }
    return x;
}
inline vf power_of_two(vf x) {
    EACH_LANE { x.x[i] = lane_float((lane_bits(x.x[i]) << 23) + 0x3f800000u); }
    return x;
}
inline void load_bfloat16(const uint16_t* at, vf& low, vf& high) {
    EACH_LANE {
        low.x[i] = lane_float(static_cast<uint32_t>(at[2 * i]) << 16);
        high.x[i] = lane_float(static_cast<uint32_t>(at[2 * i + 1]) << 16);
    }
}

struct IntegerSum {
    int32_t x[LANES];
};
struct IntegerCodes {
    int16_t x[2 * LANES];
};
typedef IntegerCodes IntegerFactor;
inline IntegerSum no_sum() { return IntegerSum{{0, 0, 0, 0}}; }
inline IntegerCodes load_codes(const int8_t* at) {
    IntegerCodes y;
    for (int i = 0; i < 2 * LANES; ++i) {
        y.x[i] = at[i];
    }
    return y;
}
inline void arrange_codes(int16_t*, int) {}
inline IntegerFactor broadcast_codes(const CodePair* codes, int group) {
    IntegerFactor y;
    EACH_LANE { memcpy(y.x + 2 * i, codes + group, sizeof(int32_t)); }
    return y;
}
inline void add_products(IntegerSum& sum, const IntegerCodes& weights, const IntegerFactor& x) {
    EACH_LANE { sum.x[i] += weights.x[2 * i] * x.x[2 * i] + weights.x[2 * i + 1] * x.x[2 * i + 1]; }
}
inline vf to_float(const IntegerSum& sum, const int32_t*) {
    vf y;
    EACH_LANE { y.x[i] = static_cast<float>(sum.x[i]); }
    return y;
}

typedef vf vq;
inline vq load_quad(const float* at) { return load(at); }
inline void store_quad(float* at, vq x) { store(at, x); }
inline vq quad_of(float x) { return broadcast(x); }
inline vq fma_quad(vq a, vq b, vq c) { return fma(a, b, c); }
inline float sum_quad(vq x) { return (x.x[0] + x.x[1]) + (x.x[2] + x.x[3]); }
inline vq sum_quads(vq a, vq b, vq c, vq d) { return vq{{sum_quad(a), sum_quad(b), sum_quad(c), sum_quad(d)}}; }

#include "kernels.h"

}  // namespace

extern const Path PLAIN = {"plain", BLOCK, LANES, INTEGER_COLUMNS, thread_bytes, run, apply,
    read_array, multiply_in_registers};

}  // namespace wavernn
