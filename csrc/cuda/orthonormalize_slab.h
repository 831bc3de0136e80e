// orthonormalize on CUDA, what a block of threads does for stage `apply`: A <- transform [A; P] in
// one slab of columns of one sample.
//
// The slab of A, all k rows of it, is kept in shared memory, so that q may be read and written in
// place; the transform and P come in tiles. A thread owns 16 bytes of columns (4 or 2) of the rows
// ty + 16 r. P comes first and the diagonal of the transform last: when the transform is close to
// the identity, every sum but the last is small, and so is its rounding. What lies above the
// diagonal, in squares of 16, is left out.
#pragma once

#include <cmath>

#include "cuda/orthonormalize_stages.h"
#include "numerics/random.h"

namespace pullback::cuda {

// A slab is 256 bytes wide.
template <class Real>
constexpr int kSlab = kSide * Piece<Real>::kEntries;

// Rows of [A; P] per tile.
template <int R>
constexpr int kTileDepth = R == 1 ? kTile<1> : kTile<2>;

template <class Real, int R>
struct ApplyShared {
  static constexpr int kPitch = kTileDepth<R> + Piece<Real>::kEntries;
  Real* transform;  // [kTile<R>, kPitch]
  Real* slab;       // [k rounded up to kTileDepth, kSlab] rows of A
  Real* other;      // [kTileDepth, kSlab] rows of P, where there are any

  __device__ ApplyShared(char* shared, int64_t k)
      : transform(reinterpret_cast<Real*>(shared)),
        slab(transform + kTile<R> * kPitch),
        other(slab + round_up(k, kTileDepth<R>) * kSlab<Real>) {}

  static constexpr size_t bytes(int64_t k, bool has_other) {
    const size_t rows = round_up(k, kTileDepth<R>) + (has_other ? kTileDepth<R> : 0);
    return (kTile<R> * kPitch + rows * kSlab<Real>)*sizeof(Real);
  }
};
static_assert(ApplyShared<float, 4>::bytes(kMostRows, true) <= kSharedOfEveryDevice);
static_assert(ApplyShared<double, 4>::bytes(kMostRows, true) <= kSharedOfEveryDevice);

inline int64_t slabs_of_sample(const OrthonormalizeParams& params) {
  const int64_t columns = params.working_dtype == Dtype::kFloat64 ? kSlab<double> : kSlab<float>;
  return ceil_divide(params.columns, columns);
}

// Rows row .. and columns column .. of the transform [k, width]; zeros from row k, column `end` on.
template <class Real, int R>
__device__ void load_transform(const Real* transform, int64_t k, int64_t width, int64_t row,
                               int64_t column, int64_t end, Real* to) {
  constexpr int depth = kTileDepth<R>, entries = kTile<R> * depth / kThreads;
  constexpr int batch = entries < 8 ? entries : 8;
  static_assert(entries % batch == 0);
  for (int first = 0; first < entries; first += batch) {
    Real loaded[batch];
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      const int e = static_cast<int>(threadIdx.x) + (first + i) * kThreads;
      const int r = e / depth, c = e % depth;
      const bool inside = row + r < k && column + c < end;
      loaded[i] = inside ? transform[(row + r) * width + column + c] : 0;
    }
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      const int e = static_cast<int>(threadIdx.x) + (first + i) * kThreads;
      to[e / depth * ApplyShared<Real, R>::kPitch + e % depth] = loaded[i];
    }
  }
}

// acc += 16 columns of the transform times 16 rows, in the rows ty + 16 r of the tile, r >= kFirst.
template <class Real, int R, int kFirst>
__device__ void multiply(const Real* transform, const Real* rows,
                         Real (&acc)[R][Piece<Real>::kEntries]) {
  constexpr int vector = Piece<Real>::kEntries;
#pragma unroll 1
  for (int d = 0; d < kSide; d += vector) {
    Piece<Real> t[R];
#pragma unroll
    for (int r = kFirst; r < R; ++r) {
      t[r] = *reinterpret_cast<const Piece<Real>*>(transform +
                                                   kSide * r * ApplyShared<Real, R>::kPitch + d);
    }
#pragma unroll
    for (int u = 0; u < vector; ++u) {
      const Piece<Real> x = *reinterpret_cast<const Piece<Real>*>(rows + (d + u) * kSlab<Real>);
#pragma unroll
      for (int r = kFirst; r < R; ++r) {
#pragma unroll
        for (int c = 0; c < vector; ++c) acc[r][c] += t[r].value[u] * x.value[c];
      }
    }
  }
}

template <class Real, int R, int kFirst = 0>
__device__ void multiply_from(int64_t first, const Real* transform, const Real* rows,
                              Real (&acc)[R][Piece<Real>::kEntries]) {
  if (first <= kFirst) {
    multiply<Real, R, kFirst>(transform, rows, acc);
  } else if constexpr (kFirst + 1 < R) {
    multiply_from<Real, R, kFirst + 1>(first, transform, rows, acc);
  }
}

// acc += a tile of the transform times `count` rows of a slab. The first of these belongs to the
// diagonal where it meets row `diagonal` of the tile, which may be negative: all is below it.
template <class Real, int R>
__device__ void multiply_tile(const Real* transform, const Real* rows, int64_t count,
                              int64_t diagonal, Real (&acc)[R][Piece<Real>::kEntries]) {
  const Real* const mine = transform + thread_y() * ApplyShared<Real, R>::kPitch;
  const Real* const columns = rows + thread_x() * Piece<Real>::kEntries;
  for (int d = 0; d < kTileDepth<R> && d < count; d += kSide) {
    const int64_t first = (diagonal + d) / kSide;
    multiply_from<Real, R>(first, mine + d, columns + d * kSlab<Real>, acc);
  }
}

// The rows of a tile, one slab of them, to q.
template <class Real, int R>
__device__ void store_slab(const Real (&acc)[R][Piece<Real>::kEntries], int64_t row, int64_t column,
                           int64_t k, int64_t columns, const bool* given_up, Real* q) {
  constexpr int vector = Piece<Real>::kEntries;
  const int64_t c = column + vector * thread_x();
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int64_t i = row + thread_y() + kSide * r;
    if (i >= k || given_up[i]) continue;
    Real* const to = q + i * columns + c;
    if (columns % vector == 0 && c < columns) {
      Piece<Real> out;
#pragma unroll
      for (int v = 0; v < vector; ++v) out.value[v] = acc[r][v];
      store_piece(out, to);
    } else {
#pragma unroll
      for (int v = 0; v < vector; ++v) {
        if (c + v < columns) to[v] = acc[r][v];
      }
    }
  }
}

// Slab `index` of a sample.
template <class T, class Real, int R>
__device__ void apply_slab(char* memory, const OrthonormalizeParams& params,
                           const PassInput<Real>& input, const Workspace<Real>& workspace,
                           int64_t sample, int64_t index, int pass) {
  constexpr int slab = kSlab<Real>, depth = kTileDepth<R>;
  const int64_t k = params.block.rows, width = k + against_rows(params), columns = params.columns;
  const ApplyShared<Real, R> shared(memory, k);
  const int64_t column = index * slab;
  const Real* const transform = workspace.transform + sample * k * width;
  const bool* const given_up = workspace.given_up + sample * k;
  Real* const q = static_cast<Real*>(params.q) + sample * k * columns;

  __syncthreads();  // the last slab has been read
  const RowReader<T> a(input.rows, sample, 0, columns, input.scales);
  load_rows<Real, slab, slab, 4>(a, static_cast<int>(round_up(k, depth)), column, shared.slab);
  for (int64_t row = 0; row < k; row += kTile<R>) {
    Real acc[R][Piece<Real>::kEntries] = {};
    int64_t at = k;
#pragma unroll
    for (int which = 0; which < kAgainst; ++which) {
      const Rows& against = params.against[which];
      for (int64_t d = 0; d < against.rows; d += depth) {
        __syncthreads();  // the last tiles have been read
        load_transform<Real, R>(transform, k, width, row, at + d, at + against.rows,
                                shared.transform);
        const RowReader<Real> p(against, sample, d, columns, nullptr);
        load_rows<Real, slab, slab, depth / kSide>(p, depth, column, shared.other);
        __syncthreads();  // these tiles have been written
        multiply_tile<Real, R>(shared.transform, shared.other, against.rows - d, -depth, acc);
      }
      at += against.rows;
    }
    const int64_t below = row + kTile<R> < k ? row + kTile<R> : k;  // T is lower triangular
    for (int64_t d = 0; d < below; d += depth) {
      __syncthreads();  // the last tile has been read
      load_transform<Real, R>(transform, k, width, row, d, k, shared.transform);
      __syncthreads();  // this tile, and the slab, have been written
      multiply_tile<Real, R>(shared.transform, shared.slab + d * slab, below - d, d - row, acc);
    }
    store_slab<Real, R>(acc, row, column, k, columns, given_up, q);
  }
  const double size = sqrt(static_cast<double>(columns));
  for (int64_t i = thread_y(); i < k; i += kSide) {
    if (!given_up[i]) continue;
    for (int64_t c = column + thread_x(); c < column + slab && c < columns; c += kSide) {
      q[i * columns + c] = static_cast<Real>(gaussian(params.seed, i, c, pass) / size);
    }
  }
}

}  // namespace pullback::cuda
