// What the attention kernels are made of: products of tiles of 64 x 64 by plain fused
// multiply-adds. Of a tile thread (y, x) has the rows y + 16 i and the columns x + 16 j.
#pragma once

#include <math.h>

#include "common/attention_params.h"
#include "cuda/launch.h"
#include "numerics/half.h"

namespace pullback::cuda {

constexpr int kBlockRows = 64;  // rows of a block, and of a tile that it goes through
constexpr int kStrip = 16;      // entries that are in shared memory at a time
constexpr int kOfThread = 4;    // rows and columns of a tile
constexpr int kPitch = kBlockRows + 1;

// Shared memory of a block: strips of both factors, the weights, and weights times products.
template <class Real, int kColumns>
struct AttentionShared {
  Real* left;     // [kStrip, kPitch]
  Real* right;    // [kStrip, kPitch], or [kStrip, kColumns]
  Real* weights;  // [kBlockRows, kPitch], transposed
  Real* products;

  static constexpr int kRight = kStrip * (kColumns > kPitch ? kColumns : kPitch);
  static constexpr size_t kBytes =
      sizeof(Real) * (kStrip * kPitch + kRight + 2 * kBlockRows * kPitch);

  __device__ explicit AttentionShared(char* memory)
      : left(reinterpret_cast<Real*>(memory)),
        right(left + kStrip * kPitch),
        weights(right + kRight),
        products(weights + kBlockRows * kPitch) {}
};

// Rows of a head, from a first one on.
template <class T>
struct HeadTile {
  const T* data;
  int64_t stride;
  int rows;  // those beyond are zeros

  __device__ HeadTile(const HeadRows& x, int64_t tangent, int64_t sample, int64_t head, int first,
                      int count)
      : data(static_cast<const T*>(x.data) + tangent * x.strides[0] + sample * x.strides[1] +
             head * x.strides[2] + first * x.strides[3]),
        stride(x.strides[3]),
        rows(count) {}
};

// Entries from `first` on of 64 rows, as columns of shared memory.
template <class Real, class T>
__device__ void load_strip(const HeadTile<T>& from, int first, int width, Real* to) {
  const int y = threadIdx.x / kStrip, c = threadIdx.x % kStrip;
  const T* at = from.data + y * from.stride + first + c;
  const int64_t step = kThreads / kStrip * from.stride;
#pragma unroll
  for (int r = 0; r < kBlockRows; r += kThreads / kStrip, at += step) {
    const bool there = r + y < from.rows && first + c < width;
    to[c * kPitch + r + y] = there ? static_cast<Real>(widen(*at)) : Real(0);
  }
}

// out += products of rows of two tiles.
template <class Real, class T, class Shared>
__device__ void add_products(const Shared& shared, const HeadTile<T>& mine,
                             const HeadTile<T>& theirs, int width,
                             Real (&out)[kOfThread][kOfThread]) {
  const int y = threadIdx.x / 16, x = threadIdx.x % 16;
  int first = 0;
#pragma unroll 1
  do {  // once at least: what the block wrote before is seen, and read, by all
    __syncthreads();
    load_strip(mine, first, width, shared.left);
    load_strip(theirs, first, width, shared.right);
    __syncthreads();
#pragma unroll 4
    for (int s = 0; s < kStrip; ++s) {
      Real left[kOfThread], right[kOfThread];
#pragma unroll
      for (int i = 0; i < kOfThread; ++i) left[i] = shared.left[s * kPitch + y + 16 * i];
#pragma unroll
      for (int j = 0; j < kOfThread; ++j) right[j] = shared.right[s * kPitch + x + 16 * j];
#pragma unroll
      for (int i = 0; i < kOfThread; ++i) {
#pragma unroll
        for (int j = 0; j < kOfThread; ++j) out[i][j] += left[i] * right[j];
      }
    }
    first += kStrip;
  } while (first < width);
}

// Entries of a tile, to shared memory.
template <class Real>
__device__ void keep(const Real (&tile)[kOfThread][kOfThread], Real* to) {
  const int y = threadIdx.x / 16, x = threadIdx.x % 16;
#pragma unroll
  for (int j = 0; j < kOfThread; ++j) {
#pragma unroll
    for (int i = 0; i < kOfThread; ++i) to[(x + 16 * j) * kPitch + y + 16 * i] = tile[i][j];
  }
}

// sum += a tile that was kept, times rows of `theirs`: 16 R columns of these from `column` on. The
// tile's products are added by themselves first.
template <class Real, class T, class Shared, int R>
__device__ void add_rows(const Shared& shared, const Real* tile, const HeadTile<T>& theirs,
                         int column, int width, Real (&sum)[kOfThread][R]) {
  constexpr int columns = 16 * R;
  const int y = threadIdx.x / 16, x = threadIdx.x % 16;
  const int down = threadIdx.x / columns, across = threadIdx.x % columns;
  Real part[kOfThread][R] = {};
#pragma unroll 1
  for (int first = 0; first < kBlockRows && first < theirs.rows; first += kStrip) {
    __syncthreads();
    const T* at = theirs.data + (first + down) * theirs.stride + column + across;
#pragma unroll
    for (int r = 0; r < kStrip; r += kThreads / columns, at += kThreads / columns * theirs.stride) {
      const bool there = first + r + down < theirs.rows && column + across < width;
      shared.right[(r + down) * columns + across] = there ? static_cast<Real>(widen(*at)) : Real(0);
    }
    __syncthreads();
#pragma unroll 4
    for (int s = 0; s < kStrip; ++s) {
      Real left[kOfThread], right[R];
#pragma unroll
      for (int i = 0; i < kOfThread; ++i) left[i] = tile[(first + s) * kPitch + y + 16 * i];
#pragma unroll
      for (int j = 0; j < R; ++j) right[j] = shared.right[s * columns + x + 16 * j];
#pragma unroll
      for (int i = 0; i < kOfThread; ++i) {
#pragma unroll
        for (int j = 0; j < R; ++j) part[i][j] += left[i] * right[j];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kOfThread; ++i) {
#pragma unroll
    for (int j = 0; j < R; ++j) sum[i][j] += part[i][j];
  }
}

// The sum of what the 16 threads of a row have, in all of them.
template <class Real>
__device__ Real sum_of_row(Real value) {
#pragma unroll
  for (int lanes = 8; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, lanes);
  }
  return value;
}

// Blocks that are to share a multiprocessor: bounds the registers, and none of these spill.
template <class Real>
constexpr int kAttentionBlocks = sizeof(Real) == 4 ? 2 : 1;

template <class Real>
__device__ Real infinity() {
  return static_cast<Real>(HUGE_VAL);
}

// Never in one with what is added or subtracted next: weights are the same digit by digit wherever
// they are computed.
__device__ inline float rounded_product(float x, float y) {
  return __fmul_rn(x, y);
}
__device__ inline double rounded_product(double x, double y) {
  return __dmul_rn(x, y);
}

__device__ inline float exponential(float x) {
  return expf(x);
}
__device__ inline double exponential(double x) {
  return exp(x);
}

// The weight of a logit; of a row of -inf alone 0. What Real has no digits for beside a large
// logarithm is taken off by itself.
template <class Real>
__device__ Real weight(Real logit, double lse) {
  const Real large = static_cast<Real>(lse);
  if (large == -infinity<Real>()) return Real(0);
  return exponential((logit - large) - static_cast<Real>(lse - large));
}

// The logit of a query and a key from their product; -inf where the key is not seen.
template <class T, class Real>
__device__ Real logit(const AttentionParams& params, Real product, int64_t sample, int64_t head,
                      int query, int key) {
  if (query >= params.queries || key >= params.keys || (params.causal && key > query)) {
    return -infinity<Real>();
  }
  Real x = rounded_product(product, static_cast<Real>(params.scale));
  if (params.bias != nullptr) {
    const int64_t* const strides = params.bias_strides;
    x += widen(static_cast<const T*>(params.bias)[sample * strides[0] + head * strides[1] +
                                                  query * strides[2] + key * strides[3]]);
  }
  return x;
}

}  // namespace pullback::cuda
