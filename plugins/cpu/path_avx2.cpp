// AVX2 with FMA: Intel from Haswell on, AMD from Zen on.
#include "model.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#include <string.h>

#include "target.h"
#define VECTOR_REGISTER "x"
BEGIN_TARGET("avx2,fma")

namespace wavernn {
namespace {

typedef __m256 vf;
typedef __m256i vi;
constexpr int LANES = 8;
constexpr int VECTORS = 2;
constexpr int TILE = 6;
constexpr int INTEGER_TILE = 6;
constexpr int INTEGER_COLUMNS = 2;

inline vf load(const float* at) { return _mm256_loadu_ps(at); }
inline void store(float* at, vf x) { _mm256_storeu_ps(at, x); }
inline vf broadcast(float x) { return _mm256_set1_ps(x); }
inline vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
inline vf larger(vf a, vf b) { return _mm256_max_ps(a, b); }
inline vf smaller(vf a, vf b) { return _mm256_min_ps(a, b); }
inline vf absolute(vf x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
inline vf with_sign(vf magnitude, vf sign) {
    return _mm256_or_ps(magnitude, _mm256_and_ps(_mm256_set1_ps(-0.0f), sign));
}
inline vf without_denormals(vf x) {
    return _mm256_andnot_ps(_mm256_cmp_ps(absolute(x), _mm256_set1_ps(1e-30f), _CMP_LT_OQ), x);
}
inline vf power_of_two(vf x) {
    const vi exponent = _mm256_slli_epi32(_mm256_castps_si256(x), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(0x3f800000)));
}
inline void load_bfloat16(const uint16_t* at, vf& low, vf& high) {
    const vi words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    low = _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
    high = _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}

struct IntegerSum {
    vi sum;
};
typedef vi IntegerFactor;
inline IntegerSum no_sum() { return IntegerSum{_mm256_setzero_si256()}; }
inline vi load_codes(const int8_t* at) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}
inline void arrange_codes(int16_t*, int) {}
inline IntegerFactor broadcast_codes(const CodePair* codes, int group) { return _mm256_set1_epi32(codes[group]); }
inline void add_products(IntegerSum& sum, vi weights, IntegerFactor x) {
    // Not _mm256_add_epi32: GCC 12 moves all products in front and spills sums, at two thirds of the speed.
    const vi products = _mm256_madd_epi16(weights, x);
    __asm__("vpaddd %1, %0, %0" : "+x"(sum.sum) : "x"(products));
}
inline vf to_float(const IntegerSum& sum, const int32_t*) { return _mm256_cvtepi32_ps(sum.sum); }

typedef __m128 vq;
inline vq load_quad(const float* at) { return _mm_loadu_ps(at); }
inline void store_quad(float* at, vq x) { _mm_storeu_ps(at, x); }
inline vq quad_of(float x) { return _mm_set1_ps(x); }
inline vq fma_quad(vq a, vq b, vq c) { return _mm_fmadd_ps(a, b, c); }
inline vq sum_quads(vq a, vq b, vq c, vq d) { return _mm_hadd_ps(_mm_hadd_ps(a, b), _mm_hadd_ps(c, d)); }

#include "kernels.h"

}  // namespace

extern const Path AVX2 = {"avx2", BLOCK, LANES, INTEGER_COLUMNS, thread_bytes, run, apply,
    read_array, multiply_in_registers};

}  // namespace wavernn

END_TARGET
#endif
