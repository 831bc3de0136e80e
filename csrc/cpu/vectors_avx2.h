// The vector types of x86-64-v3; cpu/tiles.h says what such a type has. 16 registers hold a Gram
// tile of 4 x 3 sums, 3 columns and 1 row, or a product tile of 6 x 2 sums, 2 columns and 1 factor.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/transpose.h"
#include "numerics/half.h"

namespace pullback::cpu {
namespace {

struct Float8 {
  using Real = float;
  using Reg = __m256;
  static constexpr int kLanes = 8, kRows = 4, kCols = 3, kSums = 4;
  static constexpr int kProductRows = 6, kProductCols = 2;
  static Reg zero() { return _mm256_setzero_ps(); }
  static Reg load(const float* p) { return _mm256_load_ps(p); }
  static void store(float* p, Reg x) { _mm256_store_ps(p, x); }
  static Reg load_unaligned(const float* p) { return _mm256_loadu_ps(p); }
  static Reg load_unaligned(const Half* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Reg load_unaligned(const BFloat16* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static void store_unaligned(float* p, Reg x) { _mm256_storeu_ps(p, x); }
  static void store_unaligned(Half* p, Reg x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), half_bits(x));
  }
  static void store_unaligned(BFloat16* p, Reg x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bfloat16_bits(x));
  }
  static void stream(float* p, Reg x) { _mm256_stream_ps(p, x); }
  static void stream(Half* p, Reg x) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(p), half_bits(x));
  }
  static void stream(BFloat16* p, Reg x) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(p), bfloat16_bits(x));
  }
  static void end_of_stream() { _mm_sfence(); }
  static Reg broadcast(float x) { return _mm256_set1_ps(x); }
  static Reg add(Reg x, Reg y) { return _mm256_add_ps(x, y); }
  static Reg subtract(Reg x, Reg y) { return _mm256_sub_ps(x, y); }
  static Reg multiply(Reg x, Reg y) { return _mm256_mul_ps(x, y); }
  static Reg fma(Reg x, Reg y, Reg acc) { return _mm256_fmadd_ps(x, y, acc); }
  static Reg fnma(Reg x, Reg y, Reg acc) { return _mm256_fnmadd_ps(x, y, acc); }
  static Reg larger(Reg x, Reg y) { return _mm256_max_ps(x, y); }   // y if one is NaN
  static Reg smaller(Reg x, Reg y) { return _mm256_min_ps(x, y); }  // likewise
  static Reg times_power_of_two(Reg x, Reg power) {  // from 2^-126 to 2^127; 2^128 is infinity
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(power), _mm256_set1_epi32(127));
    return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23)));
  }
  static Reg unless_below(Reg x, Reg limit, Reg value) {
    return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ), value);
  }
  static constexpr int kTransposed = 8;
  static void transpose(const float* from, int64_t pitch, float* to, int64_t to_pitch) {
    transpose_floats(from, pitch, to, to_pitch);
  }
  static void add_lanes(Reg acc, double* sums) {
    const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(acc));
    const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(acc, 1));
    _mm256_storeu_pd(sums, _mm256_add_pd(_mm256_loadu_pd(sums), low));
    _mm256_storeu_pd(sums + 4, _mm256_add_pd(_mm256_loadu_pd(sums + 4), high));
  }
  static void flush(Reg acc, double* sums, bool first) {
    const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(acc));
    const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(acc, 1));
    __m256d sum = _mm256_add_pd(low, high);
    if (!first) sum = _mm256_add_pd(_mm256_loadu_pd(sums), sum);
    _mm256_storeu_pd(sums, sum);
  }

 private:
  static __m128i half_bits(Reg x) {
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static __m128i bfloat16_bits(Reg x) {  // numerics/half.h: narrow()
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, nan, is_nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  }
};

struct Double4 {
  using Real = double;
  using Reg = __m256d;
  static constexpr int kLanes = 4, kRows = 4, kCols = 3, kSums = 4;
  static constexpr int kProductRows = 6, kProductCols = 2;
  static Reg zero() { return _mm256_setzero_pd(); }
  static Reg load(const double* p) { return _mm256_load_pd(p); }
  static void store(double* p, Reg x) { _mm256_store_pd(p, x); }
  static Reg load_unaligned(const double* p) { return _mm256_loadu_pd(p); }
  static void store_unaligned(double* p, Reg x) { _mm256_storeu_pd(p, x); }
  static void stream(double* p, Reg x) { _mm256_stream_pd(p, x); }
  static void end_of_stream() { _mm_sfence(); }
  static Reg broadcast(double x) { return _mm256_set1_pd(x); }
  static Reg add(Reg x, Reg y) { return _mm256_add_pd(x, y); }
  static Reg subtract(Reg x, Reg y) { return _mm256_sub_pd(x, y); }
  static Reg multiply(Reg x, Reg y) { return _mm256_mul_pd(x, y); }
  static Reg fma(Reg x, Reg y, Reg acc) { return _mm256_fmadd_pd(x, y, acc); }
  static Reg fnma(Reg x, Reg y, Reg acc) { return _mm256_fnmadd_pd(x, y, acc); }
  static Reg larger(Reg x, Reg y) { return _mm256_max_pd(x, y); }
  static Reg smaller(Reg x, Reg y) { return _mm256_min_pd(x, y); }
  static Reg times_power_of_two(Reg x, Reg power) {  // from 2^-1022 to 2^1023; 2^1024 is infinity
    const __m256i biased = _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_cvtpd_epi32(power)),
                                            _mm256_set1_epi64x(1023));
    return _mm256_mul_pd(x, _mm256_castsi256_pd(_mm256_slli_epi64(biased, 52)));
  }
  static Reg unless_below(Reg x, Reg limit, Reg value) {
    return _mm256_and_pd(_mm256_cmp_pd(x, limit, _CMP_NLT_UQ), value);
  }
  static constexpr int kTransposed = 4;
  static void transpose(const double* from, int64_t pitch, double* to, int64_t to_pitch) {
    transpose_doubles(from, pitch, to, to_pitch);
  }
  static void add_lanes(Reg acc, double* sums) { flush(acc, sums, false); }
  static void flush(Reg acc, double* sums, bool first) {
    if (!first) acc = _mm256_add_pd(_mm256_loadu_pd(sums), acc);
    _mm256_storeu_pd(sums, acc);
  }
};

// One problem to a lane (numerics/lanes.h).
struct Lanes4 {
  using Reg = __m256d;
  using Mask = __m256d;
  static constexpr int kLanes = 4, kTile = 3;
  static Reg load(const double* p) { return _mm256_loadu_pd(p); }
  static void store(double* p, Reg x) { _mm256_storeu_pd(p, x); }
  static Reg broadcast(double x) { return _mm256_set1_pd(x); }
  static Reg fma(Reg x, Reg y, Reg acc) { return _mm256_fmadd_pd(x, y, acc); }
  static Reg root(Reg x) { return _mm256_sqrt_pd(x); }
  static Reg magnitude(Reg x) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), x); }
  static Reg larger(Reg x, Reg y) { return _mm256_max_pd(x, y); }
  static Reg smaller(Reg x, Reg y) { return _mm256_min_pd(x, y); }
  static Mask above(Reg x, Reg y) { return _mm256_cmp_pd(x, y, _CMP_GT_OQ); }
  static Reg choose(Mask mask, Reg x, Reg y) { return _mm256_blendv_pd(y, x, mask); }
  static bool any(Mask mask) { return _mm256_movemask_pd(mask) != 0; }
};

}  // namespace
}  // namespace pullback::cpu
