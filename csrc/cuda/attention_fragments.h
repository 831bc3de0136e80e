// What the attention kernels for 16-bit entries are made of: products of tensor cores (mma.h). A
// block has 128 rows, a warp 16 of them, and goes through tiles of 32 of the others. Of these 16 x
// 32 entries lane l has, in 4 fragments of 4, rows l / 4 and l / 4 + 8, columns 8 j + l % 4 * 2 and
// the next one.
#pragma once

#include "cuda/attention_head.h"
#include "cuda/mma.h"
#include "cuda/row_reader.h"
#include "cuda/team.h"

namespace pullback::cuda {

constexpr int kWarpRows = 16;
constexpr int kMineRows = 128;
constexpr int kTheirRows = 32;
constexpr int kFragments = kTheirRows / 8;
constexpr int kDeep = 64;  // entries of rows that are in shared memory at a time
constexpr int kPad = 8;    // between rows: loads of 8 of them touch every bank once
constexpr int kDeepPitch = kDeep + kPad;
static_assert(kMineRows == kThreads / kWarp * kWarpRows);
constexpr int kMineStrip = kMineRows * kDeepPitch, kTheirStrip = kTheirRows * kDeepPitch;

// 16 x 32 entries, a lane's part of them.
using Fragments = float[kFragments][4];

// How many numbers of Tf32 a factor of a row of 16-bit entries is told by: the rounding of one is
// 2^-12, far from that of BFloat16, and of two 2^-23.
template <class T>
constexpr int kParts = 1;
template <>
constexpr int kParts<Half> = 2;

// Where a lane's entry n of fragment j lies in 16 x 32.
struct LanePlace {
  int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;

  __device__ int row(int n) const { return kWarpRows * warp + lane / 4 + 8 * (n / 2); }
  __device__ int column(int j, int n) const { return 8 * j + lane % 4 * 2 + n % 2; }
};

// Rows of a head from a first one on, those of one tangent and of the next ones.
template <class T>
struct HeadStrips {
  HeadTile<T> first;
  int64_t step;  // between tangents
  bool aligned;  // whether pieces of 16 bytes lie so

  __device__ HeadStrips(const HeadRows& x, int64_t tangent, int64_t sample, int64_t head, int row,
                        int count)
      : first(x, tangent, sample, head, row, count),
        step(x.strides[0]),
        aligned(first.stride % 8 == 0 && step % 8 == 0 &&
                reinterpret_cast<uintptr_t>(first.data) % sizeof(Piece<T>) == 0) {}
};

// kRows rows of tangent `which`, kWide entries from `column` on, to shared memory; zeros beyond.
// Whole pieces are loaded by all threads, whose zeros come from some other piece: none waits in a
// branch.
template <int kRows, int kWide, class T>
__device__ void load_strip(const HeadStrips<T>& from, int which, int column, int width, T* to) {
  constexpr int entries = Piece<T>::kEntries, pieces = kWide / entries;
  constexpr int step = kThreads / pieces, count = kRows / step;
  static_assert(kRows % step == 0);
  const int row = static_cast<int>(threadIdx.x) / pieces;
  const int across = static_cast<int>(threadIdx.x) % pieces * entries;
  const int c = column + across, last = from.first.rows - 1;
  const bool inside = c < width;
  const T* const start = from.first.data + which * from.step + (inside ? c : 0);
  to += row * (kWide + kPad) + across;
  if (from.aligned && width % entries == 0) {
    Piece<T> loaded[count];
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const int r = row + i * step < last ? row + i * step : last;
      loaded[i] = whole_piece(start + r * from.first.stride);
    }
#pragma unroll
    for (int i = 0; i < count; ++i) {
      if (!inside || row + i * step > last) loaded[i] = Piece<T>{};
      *reinterpret_cast<Piece<T>*>(to + i * step * (kWide + kPad)) = loaded[i];
    }
    return;
  }
#pragma unroll 1
  for (int r = row; r < kRows; r += step, to += step * (kWide + kPad)) {
    const T* const at = start + r * from.first.stride;
#pragma unroll 1
    for (int v = 0; v < entries; ++v) to[v] = c + v < width && r <= last ? at[v] : T{};
  }
}

// out[i] += products of rows of mine, the warp's, with theirs, for `group` of kMost tangents. Of
// what all of them share there is one, and it is loaded once. Warps that have no rows are not
// `busy`. An entry's sum is one chain of tensor-core products, whose bits are those of the two
// rows.
template <bool kMinePrivate, bool kTheirsPrivate, int kMost, class T>
__device__ void add_products(T* memory, const HeadStrips<T>& mine, const HeadStrips<T>& theirs,
                             int group, int width, bool busy, Fragments (&out)[kMost]) {
  constexpr int lefts = kMinePrivate ? kMost : 1, rights = kTheirsPrivate ? kMost : 1;
  const LanePlace at;
  T* const left = memory;
  T* const right = memory + lefts * kMineStrip;
  const T* const my_row =
      left + (kWarpRows * at.warp + at.lane % 16) * kDeepPitch + at.lane / 16 * 8;
  const T* const their_row =
      right + (at.lane / 16 * 8 + at.lane % 8) * kDeepPitch + at.lane / 8 % 2 * 8;
#pragma unroll 1
  for (int first = 0; first < width; first += kDeep) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < lefts; ++i) {
      if (i < group) load_strip<kMineRows, kDeep>(mine, i, first, width, left + i * kMineStrip);
    }
#pragma unroll
    for (int i = 0; i < rights; ++i) {
      if (i < group) {
        load_strip<kTheirRows, kDeep>(theirs, i, first, width, right + i * kTheirStrip);
      }
    }
    __syncthreads();
    if (!busy) continue;
    const int deep = width - first < kDeep ? width - first : kDeep;
#pragma unroll 1
    for (int s = 0; s < deep; s += kDepth<T>) {
      uint32_t a[lefts][4];
#pragma unroll
      for (int i = 0; i < lefts; ++i) {
        if (i < group) PULLBACK_LOAD_MATRICES(my_row + i * kMineStrip + s, a[i]);
      }
#pragma unroll
      for (int j = 0; j < kFragments; j += 2) {
        if (8 * j >= theirs.first.rows) continue;
        uint32_t b[4];
#pragma unroll
        for (int i = 0; i < kMost; ++i) {
          if (i >= group) continue;
          if (i < rights) {
            PULLBACK_LOAD_MATRICES(their_row + i * kTheirStrip + 8 * j * kDeepPitch + s, b);
          }
          const uint32_t first_columns[2] = {b[0], b[1]}, second_columns[2] = {b[2], b[3]};
          PULLBACK_MULTIPLY(T, a[i < lefts ? i : 0], first_columns, out[i][j]);
          PULLBACK_MULTIPLY(T, a[i < lefts ? i : 0], second_columns, out[i][j + 1]);
        }
      }
    }
  }
}

// What tensor cores will take x for.
template <class T>
__device__ float as_multiplied(float x) {
  return kParts<T> == 1 ? pullback::detail::float_of_bits(tf32(x)) : x;
}

// sum[i] += weights[i], or one for all, times rows of theirs: their columns from `column` on. The
// tile's products are added by themselves first.
template <bool kTheirsPrivate, int kColumns, int kMost, class T, int kWeights>
__device__ void add_rows(T* memory, const Fragments (&weights)[kWeights],
                         const HeadStrips<T>& theirs, int group, int column, int width, bool busy,
                         float (&sum)[kMost][kColumns / 8][4]) {
  constexpr int rights = kTheirsPrivate ? kMost : 1, pitch = kColumns + kPad;
  constexpr int strip = kTheirRows * pitch;
  const LanePlace at;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < rights; ++i) {
    if (i < group) {
      load_strip<kTheirRows, kColumns>(theirs, i, column, width, memory + i * strip);
    }
  }
  __syncthreads();
  if (!busy) return;
#pragma unroll
  for (int n = 0; n < kColumns / 8; ++n) {
    if (column + 8 * n >= width) continue;
    float part[kMost][4] = {};
#pragma unroll
    for (int j = 0; j < kFragments; j += 4) {
      if (8 * j >= theirs.first.rows) continue;
      uint32_t b[4];
#pragma unroll
      for (int i = 0; i < kMost; ++i) {
        if (i >= group) continue;
        if (i < rights) {
          PULLBACK_LOAD_TRANSPOSED(memory + i * strip + (8 * j + at.lane) * pitch + 8 * n, b);
        }
#pragma unroll
        for (int s = 0; s < 4; ++s) {
          // Columns 2t and 2t + 1 of the weights, rows of theirs, are taken for t and t + 4.
          const uint32_t rows[2] = {
              pullback::detail::bits_of_float(widen(T{static_cast<uint16_t>(b[s])})),
              pullback::detail::bits_of_float(widen(T{static_cast<uint16_t>(b[s] >> 16)}))};
          const float (&w)[4] = weights[i < kWeights ? i : 0][j + s];
          if constexpr (kParts<T> == 1) {
            const uint32_t a[4] = {
                pullback::detail::bits_of_float(w[0]), pullback::detail::bits_of_float(w[2]),
                pullback::detail::bits_of_float(w[1]), pullback::detail::bits_of_float(w[3])};
            PULLBACK_MULTIPLY(Tf32, a, rows, part[i]);
          } else {
            const SplitTf32 split[4] = {SplitTf32(w[0]), SplitTf32(w[2]), SplitTf32(w[1]),
                                        SplitTf32(w[3])};
            const uint32_t big[4] = {split[0].big, split[1].big, split[2].big, split[3].big};
            const uint32_t small[4] = {split[0].small, split[1].small, split[2].small,
                                       split[3].small};
            PULLBACK_MULTIPLY(Tf32, small, rows, part[i]);
            PULLBACK_MULTIPLY(Tf32, big, rows, part[i]);
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
#pragma unroll
      for (int m = 0; m < 4; ++m) sum[i][n][m] += part[i][m];
    }
  }
}

// The sum of what the four lanes of a row have, in all of them.
__device__ inline float sum_of_lanes(float value) {
#pragma unroll
  for (int lanes = 2; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, lanes);
  }
  return value;
}

}  // namespace pullback::cuda
