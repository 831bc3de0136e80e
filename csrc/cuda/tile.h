// A tile of a product of rows, C = X Y^T over some of the columns: the inner kernel of gram and of
// orthonormalize.
//
// A block of 16 x 16 threads computes 16 R x 16 R entries. Columns come in strips through shared
// memory, row by row as they lie, 16 KB of each operand whatever R is; a thread owns rows ty + 16 r
// and columns tx + 16 c, and reads 16 bytes (4 or 2 columns of N) at a time. In float32 products
// are added in runs of kRun, the runs of a chunk to each other, and chunks in float64: a product
// takes part in at most kRun + 64 / kRun - 1 roundings, which is what bounds the error of gram. In
// float64 a chunk is one run. Every entry is summed in one order, fixed by the columns.
//
// A tile on the diagonal of A A^T has one operand, and of it the squares of 16 x 16 entries on and
// above the diagonal are computed.
#pragma once

#include "common/block.h"
#include "cuda/launch.h"
#include "cuda/row_reader.h"
#include "numerics/entry_type.h"

namespace pullback::cuda {

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
template <class Real, int R>
struct StripLayout {
  static constexpr int kVector = Piece<Real>::kEntries;
  static constexpr int kChunk = 256 / sizeof(Real);  // 64 or 32: columns between sums in float64
  static constexpr int kRun = sizeof(Real) == 4 ? 8 : kChunk;  // products in a chain
  static constexpr int kColumns = 4 / R * kChunk;
  static constexpr int kPitch = kColumns + kVector;  // 8 rows apart by 16 bytes touch all 32 banks
  static_assert(kChunk % kRun == 0 && kSplitColumns % kColumns == 0 && kRun % kVector == 0);
  static_assert(sizeof(Real) == 8 || kRun + kChunk / kRun - 1 <= 16);  // 16 times 2^-24 < 1e-6
};

// Blocks that are to share a multiprocessor: bounds the registers, and none of these spill.
template <class Real, int R>
constexpr int kBlocks = R == 1 ? 3 : 2;

// Shared memory of tile_product().
template <class Real, int R>
constexpr unsigned tile_bytes() {
  return 2u * kTile<R> * StripLayout<Real, R>::kPitch * sizeof(Real);
}

// The rows of a tile, one strip of them, into shared memory.
template <class Real, int R, class T>
__device__ void load_strip(const RowReader<T>& from, int64_t column, Real* to) {
  using Layout = StripLayout<Real, R>;
  constexpr int pieces = kTile<R> * Layout::kColumns / (Piece<T>::kEntries * kThreads);
  static_assert(pieces >= 1);
  load_rows<Real, Layout::kColumns, Layout::kPitch, pieces>(from, kTile<R>, column, to);
}

// acc += the products of one run.
template <class Real, int R, bool kDiagonal>
__device__ void add_run(const Real* a, const Real* b, Real (&acc)[R][R]) {
  using Layout = StripLayout<Real, R>;
#pragma unroll 1
  for (int q = 0; q < Layout::kRun; q += Layout::kVector) {
    Piece<Real> x[R], y[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      x[r] = *reinterpret_cast<const Piece<Real>*>(a + kSide * r * Layout::kPitch + q);
      y[r] = *reinterpret_cast<const Piece<Real>*>(b + kSide * r * Layout::kPitch + q);
    }
#pragma unroll
    for (int v = 0; v < Layout::kVector; ++v) {
#pragma unroll
      for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int c = kDiagonal ? r : 0; c < R; ++c) acc[r][c] += x[r].value[v] * y[c].value[v];
      }
    }
  }
}

// sum += the products of one chunk; sum is 0.
template <class Real, int R, bool kDiagonal>
__device__ void add_chunk(const Real* a, const Real* b, Real (&sum)[R][R]) {
  using Layout = StripLayout<Real, R>;
  if constexpr (Layout::kRun == Layout::kChunk) {
    add_run<Real, R, kDiagonal>(a, b, sum);
  } else {
#pragma unroll 1
    for (int run = 0; run < Layout::kChunk; run += Layout::kRun) {
      Real acc[R][R] = {};
      add_run<Real, R, kDiagonal>(a + run, b + run, acc);
#pragma unroll
      for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int c = kDiagonal ? r : 0; c < R; ++c) sum[r][c] += acc[r][c];
      }
    }
  }
}

// total += the products over the columns. load(column, a, b) brings one strip of both operands by
// load_strip(); on the diagonal of the first alone. Without kChunks, in float64 only, all of them
// are one chain.
template <class Real, int R, bool kDiagonal, bool kChunks = true, class Load>
__device__ void tile_product(char* shared, const ColumnRange& columns, const Load& load,
                             double (&total)[R][R]) {
  using Layout = StripLayout<Real, R>;
  Real* const a = reinterpret_cast<Real*>(shared);
  Real* const b = kDiagonal ? a : a + kTile<R> * Layout::kPitch;
  const Real* const rows_a = a + thread_y() * Layout::kPitch;
  const Real* const rows_b = b + thread_x() * Layout::kPitch;
  for (int64_t column = columns.begin; column < columns.end; column += Layout::kColumns) {
    __syncthreads();  // the last strip has been read
    load(column, a, b);
    __syncthreads();  // this strip has been written
#pragma unroll 1
    for (int chunk = 0; chunk < Layout::kColumns; chunk += Layout::kChunk) {
      if constexpr (!kChunks) {
        add_run<Real, R, kDiagonal>(rows_a + chunk, rows_b + chunk, total);
      } else {
        Real sum[R][R] = {};
        add_chunk<Real, R, kDiagonal>(rows_a + chunk, rows_b + chunk, sum);
#pragma unroll
        for (int r = 0; r < R; ++r) {
#pragma unroll
          for (int c = kDiagonal ? r : 0; c < R; ++c) total[r][c] += sum[r][c];
        }
      }
    }
  }
}

// The entries of a tile that lie within rows x columns, to `out`, whose rows are `pitch` apart; or
// added to what is there, by the thread that has put it there.
template <int R, bool kDiagonal>
__device__ void store_tile(const double (&total)[R][R], int64_t rows, int64_t columns,
                           int64_t pitch, bool add, double* out) {
  const int tx = thread_x(), ty = thread_y();
  out += ty * pitch + tx;
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int c = kDiagonal ? r : 0; c < R; ++c) {
      if (ty + kSide * r >= rows || tx + kSide * c >= columns) continue;
      double* const to = out + kSide * r * pitch + kSide * c;
      *to = add ? *to + total[r][c] : total[r][c];
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
