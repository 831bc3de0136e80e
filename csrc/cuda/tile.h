// A tile of a product of rows, C = X Y^T over one part of the columns: the inner kernel of gram and
// of orthonormalize.
//
// A block of 16 x 16 threads computes 16 R x 16 R entries. Columns come in strips through shared
// memory, row by row as they lie; a thread owns rows ty + 16 r and columns tx + 16 c, and reads 16
// bytes (4 or 2 columns of N) at a time. Products are added in runs of kRun, the runs of a strip to
// each other, and strips in float64: in float32 a product takes part in at most
// kRun + 64 / kRun - 1 roundings, which is what bounds the error of gram. Every entry is summed in
// one order, fixed by the part.
#pragma once

#include "common/block.h"
#include "cuda/launch.h"
#include "numerics/entry_type.h"

namespace pullback::cuda {

constexpr int kRun = 8;  // products in a chain

constexpr int kSide = 16;  // of the square of threads that a block is
static_assert(kSide * kSide == kThreads);

__device__ inline int thread_x() {
  return static_cast<int>(threadIdx.x) % kSide;
}
__device__ inline int thread_y() {
  return static_cast<int>(threadIdx.x) / kSide;
}

// Rows, and columns, of a tile.
template <int R>
constexpr int kTile = kSide * R;

// A strip: some columns of the rows of a tile, in shared memory.
template <class Real>
struct StripLayout {
  static constexpr int kVector = 16 / sizeof(Real);
  static constexpr int kColumns = 256 / sizeof(Real);  // 64 or 32
  static constexpr int kPitch = kColumns + kVector;  // 8 rows apart by 16 bytes touch all 32 banks
  static_assert(kColumns % kRun == 0 && kSplitColumns % kColumns == 0);
  static_assert(kRun + kColumns / kRun - 1 <= 16);  // roundings: 16 times 2^-24 is less than 1e-6
  static_assert(kRun % kVector == 0 && kPitch % kVector == 0);  // 16-byte reads stay aligned
};

// Blocks that are to share a multiprocessor: bounds the registers, and none of these spill.
template <class Real, int R>
constexpr int kBlocks = sizeof(Real) == 4 ? (R == 1 ? 4 : 2) : (R == 4 ? 1 : 2);

template <class Real>
struct alignas(16) Vector {
  Real value[16 / sizeof(Real)];
};

// Shared memory of tile_product().
template <class Real, int R>
constexpr unsigned tile_bytes() {
  return 2u * kTile<R> * StripLayout<Real>::kPitch * sizeof(Real);
}

// The rows of one sample from `first` on, read as what their entries are worked on in.
template <class T>
struct RowReader {
  using Real = Working<T>;
  const T* data;
  int64_t rows;  // those from the first on
  int64_t row_stride;
  int64_t column_stride;
  const Real* scales;  // [rows, 2] or null: both multiply a row; 0 makes it zero, even from NaN

  __device__ RowReader(const Rows& of, int64_t sample, int64_t first, const Real* scale)
      : data(static_cast<const T*>(of.data) + sample * of.batch_stride + first * of.row_stride),
        rows(of.rows - first),
        row_stride(of.row_stride),
        column_stride(of.column_stride),
        scales(scale == nullptr ? nullptr : scale + 2 * (sample * of.rows + first)) {}

  // Zero below the last row.
  __device__ Real operator()(int64_t row, int64_t column) const {
    if (row >= rows) return 0;
    const Real value = widen(data[row * row_stride + column * column_stride]);
    if (scales == nullptr) return value;
    const Real scale = scales[2 * row];
    return scale == 0 ? 0 : value * scale * scales[2 * row + 1];
  }
};

// The rows of a tile, one strip of them, into shared memory; what lies outside of the block is
// zero.
template <class Real, int R, class Reader>
__device__ void load_strip(const Reader& from, int64_t column, int64_t end, Real* to) {
  constexpr int columns = StripLayout<Real>::kColumns;
#pragma unroll 4
  for (int e = static_cast<int>(threadIdx.x); e < kTile<R> * columns; e += kThreads) {
    const int r = e / columns, c = e % columns;
    to[r * StripLayout<Real>::kPitch + c] = column + c < end ? from(r, column + c) : 0;
  }
}

// total += the products over the columns. load(column, end, x, y) brings one strip of both operands
// by load_strip().
template <class Real, int R, class Load>
__device__ void tile_product(char* shared, const ColumnRange& columns, const Load& load,
                             double (&total)[R][R]) {
  constexpr int pitch = StripLayout<Real>::kPitch, vector = StripLayout<Real>::kVector;
  Real* const a = reinterpret_cast<Real*>(shared);
  Real* const b = a + kTile<R> * pitch;
  const int tx = thread_x(), ty = thread_y();
  for (int64_t column = columns.begin; column < columns.end;
       column += StripLayout<Real>::kColumns) {
    __syncthreads();  // the last strip has been read
    load(column, columns.end, a, b);
    __syncthreads();  // this strip has been written
    Real strip[R][R] = {};
#pragma unroll 1
    for (int run = 0; run < StripLayout<Real>::kColumns; run += kRun) {
      Real acc[R][R] = {};
#pragma unroll 1
      for (int q = run; q < run + kRun; q += vector) {
        Vector<Real> x[R], y[R];
#pragma unroll
        for (int r = 0; r < R; ++r) {
          x[r] = *reinterpret_cast<const Vector<Real>*>(a + (ty + kSide * r) * pitch + q);
          y[r] = *reinterpret_cast<const Vector<Real>*>(b + (tx + kSide * r) * pitch + q);
        }
#pragma unroll
        for (int v = 0; v < vector; ++v) {
#pragma unroll
          for (int r = 0; r < R; ++r) {
#pragma unroll
            for (int c = 0; c < R; ++c) acc[r][c] += x[r].value[v] * y[c].value[v];
          }
        }
      }
#pragma unroll
      for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int c = 0; c < R; ++c) strip[r][c] += acc[r][c];
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int c = 0; c < R; ++c) total[r][c] += strip[r][c];
    }
  }
}

// The entries of a tile that lie within rows x columns, to `out`, whose rows are `pitch` apart.
template <int R>
__device__ void store_tile(const double (&total)[R][R], int64_t rows, int64_t columns,
                           int64_t pitch, double* out) {
  const int tx = thread_x(), ty = thread_y();
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int c = 0; c < R; ++c) {
      const int64_t i = ty + kSide * r, j = tx + kSide * c;
      if (i < rows && j < columns) out[i * pitch + j] = total[r][c];
    }
  }
}

// Tile `index` of the upper triangle of an n x n grid of tiles, counted row by row.
__device__ inline void upper_tile(int64_t index, int64_t n, int64_t* i, int64_t* j) {
  int64_t row = 0;
  while (index >= n - row) {
    index -= n - row;
    ++row;
  }
  *i = row;
  *j = row + index;
}

}  // namespace pullback::cuda
