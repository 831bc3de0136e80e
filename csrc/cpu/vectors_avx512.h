// The vector types of AVX-512; cpu/tiles.h says what such a type has. 32 registers hold a Gram tile
// of 6 x 4 sums, 4 columns and 1 row, and a product tile of the same shape.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/transpose.h"
#include "numerics/half.h"

namespace pullback::cpu {
namespace {

struct Float16 {
  using Real = float;
  using Reg = __m512;
  static constexpr int kLanes = 16, kRows = 6, kCols = 4, kSums = 8;
  static constexpr int kProductRows = 6, kProductCols = 4;
  static Reg zero() { return _mm512_setzero_ps(); }
  static Reg load(const float* p) { return _mm512_load_ps(p); }
  static void store(float* p, Reg x) { _mm512_store_ps(p, x); }
  static Reg load_unaligned(const float* p) { return _mm512_loadu_ps(p); }
  static Reg load_unaligned(const Half* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Reg load_unaligned(const BFloat16* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static void store_unaligned(float* p, Reg x) { _mm512_storeu_ps(p, x); }
  static void store_unaligned(Half* p, Reg x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), half_bits(x));
  }
  static void store_unaligned(BFloat16* p, Reg x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bfloat16_bits(x));
  }
  static void stream(float* p, Reg x) { _mm512_stream_ps(p, x); }
  static void stream(Half* p, Reg x) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), half_bits(x));
  }
  static void stream(BFloat16* p, Reg x) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), bfloat16_bits(x));
  }
  static void end_of_stream() { _mm_sfence(); }
  static Reg broadcast(float x) { return _mm512_set1_ps(x); }
  static Reg add(Reg x, Reg y) { return _mm512_add_ps(x, y); }
  static Reg subtract(Reg x, Reg y) { return _mm512_sub_ps(x, y); }
  static Reg multiply(Reg x, Reg y) { return _mm512_mul_ps(x, y); }
  static Reg fma(Reg x, Reg y, Reg acc) { return _mm512_fmadd_ps(x, y, acc); }
  static Reg fnma(Reg x, Reg y, Reg acc) { return _mm512_fnmadd_ps(x, y, acc); }
  static Reg larger(Reg x, Reg y) { return _mm512_max_ps(x, y); }   // y if one is NaN
  static Reg smaller(Reg x, Reg y) { return _mm512_min_ps(x, y); }  // likewise
  static Reg times_power_of_two(Reg x, Reg power) { return _mm512_scalef_ps(x, power); }
  static Reg unless_below(Reg x, Reg limit, Reg value) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), value);
  }
  static constexpr int kTransposed = 8;
  static void transpose(const float* from, int64_t pitch, float* to, int64_t to_pitch) {
    transpose_floats(from, pitch, to, to_pitch);
  }
  static void add_lanes(Reg acc, double* sums) {
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(acc));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(acc, 1));
    _mm512_storeu_pd(sums, _mm512_add_pd(_mm512_loadu_pd(sums), low));
    _mm512_storeu_pd(sums + 8, _mm512_add_pd(_mm512_loadu_pd(sums + 8), high));
  }
  static void flush(Reg acc, double* sums, bool first) {
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(acc));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(acc, 1));
    __m512d sum = _mm512_add_pd(low, high);
    if (!first) sum = _mm512_add_pd(_mm512_loadu_pd(sums), sum);
    _mm512_storeu_pd(sums, sum);
  }

 private:
  static __m256i half_bits(Reg x) {
    return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static __m256i bfloat16_bits(Reg x) {  // numerics/half.h: narrow()
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i nan = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i high = _mm512_srli_epi32(_mm512_mask_blend_epi32(is_nan, rounded, nan), 16);
    return _mm512_cvtepi32_epi16(high);
  }
};

struct Double8 {
  using Real = double;
  using Reg = __m512d;
  static constexpr int kLanes = 8, kRows = 6, kCols = 4, kSums = 8;
  static constexpr int kProductRows = 6, kProductCols = 4;
  static Reg zero() { return _mm512_setzero_pd(); }
  static Reg load(const double* p) { return _mm512_load_pd(p); }
  static void store(double* p, Reg x) { _mm512_store_pd(p, x); }
  static Reg load_unaligned(const double* p) { return _mm512_loadu_pd(p); }
  static void store_unaligned(double* p, Reg x) { _mm512_storeu_pd(p, x); }
  static void stream(double* p, Reg x) { _mm512_stream_pd(p, x); }
  static void end_of_stream() { _mm_sfence(); }
  static Reg broadcast(double x) { return _mm512_set1_pd(x); }
  static Reg add(Reg x, Reg y) { return _mm512_add_pd(x, y); }
  static Reg subtract(Reg x, Reg y) { return _mm512_sub_pd(x, y); }
  static Reg multiply(Reg x, Reg y) { return _mm512_mul_pd(x, y); }
  static Reg fma(Reg x, Reg y, Reg acc) { return _mm512_fmadd_pd(x, y, acc); }
  static Reg fnma(Reg x, Reg y, Reg acc) { return _mm512_fnmadd_pd(x, y, acc); }
  static Reg larger(Reg x, Reg y) { return _mm512_max_pd(x, y); }
  static Reg smaller(Reg x, Reg y) { return _mm512_min_pd(x, y); }
  static Reg times_power_of_two(Reg x, Reg power) { return _mm512_scalef_pd(x, power); }
  static Reg unless_below(Reg x, Reg limit, Reg value) {
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(x, limit, _CMP_NLT_UQ), value);
  }
  static constexpr int kTransposed = 4;
  static void transpose(const double* from, int64_t pitch, double* to, int64_t to_pitch) {
    transpose_doubles(from, pitch, to, to_pitch);
  }
  static void add_lanes(Reg acc, double* sums) { flush(acc, sums, false); }
  static void flush(Reg acc, double* sums, bool first) {
    if (!first) acc = _mm512_add_pd(_mm512_loadu_pd(sums), acc);
    _mm512_storeu_pd(sums, acc);
  }
};

// One problem to a lane (numerics/lanes.h).
struct Lanes8 {
  using Reg = __m512d;
  using Mask = __mmask8;
  static constexpr int kLanes = 8, kTile = 4;
  static Reg load(const double* p) { return _mm512_loadu_pd(p); }
  static void store(double* p, Reg x) { _mm512_storeu_pd(p, x); }
  static Reg broadcast(double x) { return _mm512_set1_pd(x); }
  static Reg fma(Reg x, Reg y, Reg acc) { return _mm512_fmadd_pd(x, y, acc); }
  static Reg root(Reg x) { return _mm512_sqrt_pd(x); }
  static Reg magnitude(Reg x) { return _mm512_andnot_pd(_mm512_set1_pd(-0.0), x); }
  static Reg larger(Reg x, Reg y) { return _mm512_max_pd(x, y); }
  static Reg smaller(Reg x, Reg y) { return _mm512_min_pd(x, y); }
  static Mask above(Reg x, Reg y) { return _mm512_cmp_pd_mask(x, y, _CMP_GT_OQ); }
  static Reg choose(Mask mask, Reg x, Reg y) { return _mm512_mask_blend_pd(mask, y, x); }
  static bool any(Mask mask) { return mask != 0; }
};

}  // namespace
}  // namespace pullback::cpu
