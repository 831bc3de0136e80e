// Panels: some columns of all rows of a sample, widened and packed, from which the CPU kernels
// work. Shared by the files that are compiled once per instruction set, hence internal linkage for
// everything that is code.
#pragma once

#include <cstdint>

#include "common/block.h"
#include "numerics/half.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace pullback::cpu {

// A row of a panel is 4 KiB and one cache line, the line so that rows do not fall on the same sets
// of the first-level cache.
constexpr int64_t kPanelBytes = 4096;
constexpr int64_t kPitchBytes = kPanelBytes + 64;
constexpr int64_t kMostSums = 8;  // float64 sums that a Gram product keeps per entry, at most

namespace {

template <class Real>
constexpr int64_t kPanel = kPanelBytes / static_cast<int64_t>(sizeof(Real));
template <class Real>
constexpr int64_t kPitch = kPitchBytes / static_cast<int64_t>(sizeof(Real));
static_assert(kSplitColumns % kPanel<float> == 0 && kSplitColumns % kPanel<double> == 0);

template <class T, class Real>
void widen_row(const T* from, int64_t stride, int64_t count, Real* to) {
  if (stride == 1) {
    for (int64_t c = 0; c < count; ++c) to[c] = widen(from[c]);
  } else {
    for (int64_t c = 0; c < count; ++c) to[c] = widen(from[c * stride]);
  }
}

#if defined(__F16C__)
inline void widen_row(const Half* from, int64_t stride, int64_t count, float* to) {
  int64_t c = 0;
  if (stride == 1) {
    for (; c + 8 <= count; c += 8) {
      const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + c));
      _mm256_storeu_ps(to + c, _mm256_cvtph_ps(bits));
    }
  }
  for (; c < count; ++c) to[c] = widen(from[c * stride]);
}
#endif

// Columns first .. first + count of every row of one sample, zero up to `padded`.
template <class T, class Real>
void pack(const Rows& rows, int64_t sample, int64_t first, int64_t count, int64_t padded,
          Real* to) {
  const T* from =
      static_cast<const T*>(rows.data) + sample * rows.batch_stride + first * rows.column_stride;
  for (int64_t r = 0; r < rows.rows; ++r, to += kPitch<Real>) {
    widen_row(from + r * rows.row_stride, rows.column_stride, count, to);
    for (int64_t c = count; c < padded; ++c) to[c] = 0;
  }
}

}  // namespace
}  // namespace pullback::cpu
