// The gram kernel of every CPU instruction set: included once by each gram_<isa>.cpp, which brings
// the vector types. Everything here has internal linkage, and no inline function of a library
// header is called: a copy compiled for AVX-512 must never be the one the linker keeps for the
// others.
//
// An entry (i, j) is summed in one fixed way whatever the tile, batch or thread it falls to: lane l
// of a float32 vector takes the products of columns l, l + lanes, ... of one panel (at most 128 of
// them), the lanes are then added to float64 sums, and these are added across panels, lanes and
// parts of N in a fixed order.
#pragma once

#include <cstdint>

#include "common/gram_params.h"
#include "cpu/gram.h"
#include "numerics/half.h"

namespace pullback::cpu {
namespace {

// A vector type V has: Real, Reg, kLanes; tile kRows x kCols; zero(), load(p), fma(x, y, acc);
// kSums and flush(acc, sums, first), which adds the lanes to kSums float64 sums, or sets them.

template <class V, int M, int N>
void tile(const typename V::Real* a, const typename V::Real* b, int64_t steps, double* sums,
          int64_t sums_row, bool first) {
  constexpr int64_t pitch = kGramPitchBytes / static_cast<int64_t>(sizeof(typename V::Real));
  typename V::Reg acc[M][N];
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) acc[i][j] = V::zero();
  }
  for (int64_t s = 0; s < steps; ++s) {
    typename V::Reg y[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) y[j] = V::load(b + j * pitch);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const typename V::Reg x = V::load(a + i * pitch);
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) acc[i][j] = V::fma(x, y[j], acc[i][j]);
    }
    a += V::kLanes;
    b += V::kLanes;
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) V::flush(acc[i][j], sums + i * sums_row + j * V::kSums, first);
  }
}

template <class V>
using Tile = void (*)(const typename V::Real*, const typename V::Real*, int64_t, double*, int64_t,
                      bool);

// One kernel per tile of m <= kRows by n <= kCols entries, so that edges cost what they hold.
template <class V, int M = V::kRows, int N = V::kCols>
Tile<V> pick_tile(int64_t m, int64_t n) {
  if constexpr (M > 1) {
    if (m < M) return pick_tile<V, M - 1, N>(m, n);
  }
  if constexpr (N > 1) {
    if (n < N) return pick_tile<V, M, N - 1>(m, n);
  }
  return tile<V, M, N>;
}

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
  constexpr int64_t pitch = kGramPitchBytes / static_cast<int64_t>(sizeof(Real));
  const T* from =
      static_cast<const T*>(rows.data) + sample * rows.batch_stride + first * rows.column_stride;
  for (int64_t r = 0; r < rows.rows; ++r) {
    widen_row(from + r * rows.row_stride, rows.column_stride, count, to + r * pitch);
    for (int64_t c = count; c < padded; ++c) to[r * pitch + c] = 0;
  }
}

template <class V, class T>
void gram_item(const GramParams& params, int64_t item, char* scratch) {
  using Real = typename V::Real;
  constexpr int64_t pitch = kGramPitchBytes / static_cast<int64_t>(sizeof(Real));
  constexpr int64_t panel = kGramPanelBytes / static_cast<int64_t>(sizeof(Real));
  static_assert(V::kSums <= kGramLanes && kSplitColumns % panel == 0 && panel % V::kLanes == 0);
  static_assert(sizeof(Real) == 8 || panel / V::kLanes <= 256);

  const int64_t k = params.a.rows, p = params.b.rows;
  const int64_t sample = item / params.splits.count, part = item % params.splits.count;
  const int64_t begin = part * params.splits.columns;
  const int64_t limit = begin + params.splits.columns;
  const int64_t end = limit < params.columns ? limit : params.columns;

  Real* a = reinterpret_cast<Real*>(scratch);
  Real* b = params.symmetric ? a : a + k * pitch;
  double* sums = reinterpret_cast<double*>(scratch + (params.symmetric ? k : k + p) *
                                                         kGramPitchBytes);  // [k, p, kSums]

  for (int64_t column = begin; column < end; column += panel) {
    const int64_t count = end - column < panel ? end - column : panel;
    const int64_t steps = (count + V::kLanes - 1) / V::kLanes;
    pack<T>(params.a, sample, column, count, steps * V::kLanes, a);
    if (!params.symmetric) pack<T>(params.b, sample, column, count, steps * V::kLanes, b);
    for (int64_t i = 0; i < k; i += V::kRows) {
      const int64_t m = k - i < V::kRows ? k - i : V::kRows;
      for (int64_t j = params.symmetric ? i : 0; j < p; j += V::kCols) {
        const int64_t n = p - j < V::kCols ? p - j : V::kCols;
        pick_tile<V>(m, n)(a + i * pitch, b + j * pitch, steps, sums + (i * p + j) * V::kSums,
                           p * V::kSums, column == begin);
      }
    }
  }

  double* out =
      params.splits.count == 1 ? params.out + sample * k * p : params.partial + item * k * p;
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = params.symmetric ? i : 0; j < p; ++j) {
      const double* lanes = sums + (i * p + j) * V::kSums;
      double sum = lanes[0];
      for (int l = 1; l < V::kSums; ++l) sum += lanes[l];
      out[i * p + j] = sum;
      if (params.symmetric) out[j * p + i] = sum;
    }
  }
}

template <class V32, class V64>
void gram_items(const GramParams& params, int64_t begin, int64_t end, char* scratch) {
  for (int64_t item = begin; item < end; ++item) {
    switch (params.dtype) {
      case Dtype::kFloat32:
        gram_item<V32, float>(params, item, scratch);
        break;
      case Dtype::kFloat64:
        gram_item<V64, double>(params, item, scratch);
        break;
      case Dtype::kFloat16:
        gram_item<V32, Half>(params, item, scratch);
        break;
      case Dtype::kBFloat16:
        gram_item<V32, BFloat16>(params, item, scratch);
        break;
    }
  }
}

}  // namespace
}  // namespace pullback::cpu
