// What the attention kernels are made of: products of tiles of 64 x 64 by plain fused
// multiply-adds. Of a tile thread (y, x) has the rows y + 16 i and the columns x + 16 j.
#pragma once

#include "cuda/attention_head.h"

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

}  // namespace pullback::cuda
