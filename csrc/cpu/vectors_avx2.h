// The vector types of x86-64-v3; cpu/tiles.h says what such a type has. 16 registers hold a Gram
// tile of 4 x 3 sums, 3 columns and 1 row, or a product tile of 6 x 2 sums, 2 columns and 1 factor.
#pragma once

#include <immintrin.h>

#include <cstdint>

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
  static void store_unaligned(float* p, Reg x) { _mm256_storeu_ps(p, x); }
  static Reg broadcast(float x) { return _mm256_set1_ps(x); }
  static Reg add(Reg x, Reg y) { return _mm256_add_ps(x, y); }
  static Reg fma(Reg x, Reg y, Reg acc) { return _mm256_fmadd_ps(x, y, acc); }
  static void flush(Reg acc, double* sums, bool first) {
    const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(acc));
    const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(acc, 1));
    __m256d sum = _mm256_add_pd(low, high);
    if (!first) sum = _mm256_add_pd(_mm256_loadu_pd(sums), sum);
    _mm256_storeu_pd(sums, sum);
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
  static void store_unaligned(double* p, Reg x) { _mm256_storeu_pd(p, x); }
  static Reg broadcast(double x) { return _mm256_set1_pd(x); }
  static Reg add(Reg x, Reg y) { return _mm256_add_pd(x, y); }
  static Reg fma(Reg x, Reg y, Reg acc) { return _mm256_fmadd_pd(x, y, acc); }
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
