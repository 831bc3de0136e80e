// Transposes of small blocks, for both instruction sets of x86-64.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace pullback::cpu {
namespace {

// 8 x 8.
inline void transpose_floats(const float* from, int64_t pitch, float* to, int64_t to_pitch) {
  __m256 x[8], y[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) x[i] = _mm256_loadu_ps(from + i * pitch);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    y[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
    y[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    x[i] = _mm256_shuffle_ps(y[i], y[i + 2], 0x44);
    x[i + 1] = _mm256_shuffle_ps(y[i], y[i + 2], 0xee);
    x[i + 2] = _mm256_shuffle_ps(y[i + 1], y[i + 3], 0x44);
    x[i + 3] = _mm256_shuffle_ps(y[i + 1], y[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(to + i * to_pitch, _mm256_permute2f128_ps(x[i], x[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * to_pitch, _mm256_permute2f128_ps(x[i], x[i + 4], 0x31));
  }
}

// 4 x 4.
inline void transpose_doubles(const double* from, int64_t pitch, double* to, int64_t to_pitch) {
  __m256d x[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) x[i] = _mm256_loadu_pd(from + i * pitch);
  const __m256d a = _mm256_unpacklo_pd(x[0], x[1]), b = _mm256_unpackhi_pd(x[0], x[1]);
  const __m256d c = _mm256_unpacklo_pd(x[2], x[3]), d = _mm256_unpackhi_pd(x[2], x[3]);
  _mm256_storeu_pd(to, _mm256_permute2f128_pd(a, c, 0x20));
  _mm256_storeu_pd(to + to_pitch, _mm256_permute2f128_pd(b, d, 0x20));
  _mm256_storeu_pd(to + 2 * to_pitch, _mm256_permute2f128_pd(a, c, 0x31));
  _mm256_storeu_pd(to + 3 * to_pitch, _mm256_permute2f128_pd(b, d, 0x31));
}

}  // namespace
}  // namespace pullback::cpu
