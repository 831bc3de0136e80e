// orthonormalize on CUDA, stage `apply`: A <- transform [A; P].
//
// A block of 16 x 16 threads owns a slab of columns of one sample. It keeps the slab of A, all k
// rows of it, in shared memory, so that q may be read and written in place; the transform and P
// come in tiles. A thread owns 16 bytes of columns (4 or 2) of the rows ty + 16 r.
#include <cmath>

#include "cuda/orthonormalize_stages.h"
#include "cuda/tile.h"
#include "numerics/random.h"

namespace pullback::cuda {
namespace {

constexpr int kDepth = 32;  // rows of [A; P] per tile

// A slab is 256 bytes wide. With k = 256 rows it takes 64 KB and the tiles 24 KB more: every device
// of compute capability 8.0 or more has that.
template <class Real>
constexpr int kSlab = 16 * Traits<Real>::kVector;

template <class Real>
constexpr int kTilePitch = kDepth + Traits<Real>::kVector;

template <class Real, int R>
struct ApplyShared {
  Real* transform;  // [16 R, kTilePitch]
  Real* other;      // [kDepth, kSlab] rows of P
  Real* slab;       // [k rounded up to kDepth, kSlab] rows of A

  explicit __device__ ApplyShared(char* shared)
      : transform(reinterpret_cast<Real*>(shared)),
        other(transform + 16 * R * kTilePitch<Real>),
        slab(other + kDepth * kSlab<Real>) {}

  static size_t bytes(int64_t k) {
    const int64_t rows = (k + kDepth - 1) / kDepth * kDepth;
    return (16 * R * kTilePitch<Real> + (kDepth + rows) * kSlab<Real>)*sizeof(Real);
  }
};

// rows x kSlab entries from column `column` on; zeros where there is nothing.
template <class Real, class Reader>
__device__ void load_slab(const Reader& from, int64_t rows, int64_t column, int64_t end, Real* to) {
  constexpr int slab = kSlab<Real>;
#pragma unroll 4
  for (int e = static_cast<int>(threadIdx.x); e < rows * slab; e += kThreads) {
    const int c = e % slab;
    to[e] = column + c < end ? from(e / slab, column + c) : 0;
  }
}

// Rows row .. and columns column .. of the transform [k, width]; zeros from row k, column `end` on.
template <class Real, int R>
__device__ void load_transform(const Real* transform, int64_t k, int64_t width, int64_t row,
                               int64_t column, int64_t end, Real* to) {
#pragma unroll 4
  for (int e = static_cast<int>(threadIdx.x); e < 16 * R * kDepth; e += kThreads) {
    const int r = e / kDepth, c = e % kDepth;
    const bool inside = row + r < k && column + c < end;
    to[r * kTilePitch<Real> + c] = inside ? transform[(row + r) * width + column + c] : 0;
  }
}

template <class Real, int R>
__device__ void multiply(const Real* transform, const Real* rows,
                         Real (&acc)[R][Traits<Real>::kVector]) {
  constexpr int vector = Traits<Real>::kVector;
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
#pragma unroll 1
  for (int d = 0; d < kDepth; d += vector) {
    Vector<Real> t[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      t[r] =
          *reinterpret_cast<const Vector<Real>*>(transform + (ty + 16 * r) * kTilePitch<Real> + d);
    }
#pragma unroll
    for (int u = 0; u < vector; ++u) {
      const Vector<Real> x =
          *reinterpret_cast<const Vector<Real>*>(rows + (d + u) * kSlab<Real> + vector * tx);
#pragma unroll
      for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int c = 0; c < vector; ++c) acc[r][c] += t[r].value[u] * x.value[c];
      }
    }
  }
}

template <class T, class Real, int R>
__global__ void __launch_bounds__(kThreads, 2)
    apply_transform(OrthonormalizeParams params, LadderBlock<Real> block, LadderWork<Real> work,
                    int rung) {
  PULLBACK_SHARED(memory);
  constexpr int slab = kSlab<Real>, vector = Traits<Real>::kVector;
  const ApplyShared<Real, R> shared(memory);
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  const int64_t k = params.block.rows, width = k + against_rows(params), columns = params.columns;
  const int64_t slabs = (columns + slab - 1) / slab, items = params.batch * slabs;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t sample = item / slabs, column = item % slabs * slab;
    const int32_t passes = params.passes[sample];
    if (passes != 0 && passes != rung && passes != -rung) continue;  // done on an earlier rung
    const Real* const transform = work.transform + sample * k * width;
    const bool* const fresh = work.fresh + sample * k;
    Real* const q = static_cast<Real*>(params.q) + sample * k * columns;

    __syncthreads();  // the last slab has been read
    load_slab<Real>(RowReader<T, Real>(block.rows, sample, 0, block.factors),
                    (k + kDepth - 1) / kDepth * kDepth, column, columns, shared.slab);
    for (int64_t row = 0; row < k; row += 16 * R) {
      Real acc[R][vector] = {};
      const int64_t below = row + 16 * R < k ? row + 16 * R : k;  // T is lower triangular
      for (int64_t d = 0; d < below; d += kDepth) {
        __syncthreads();  // the last tile has been read
        load_transform<Real, R>(transform, k, width, row, d, k, shared.transform);
        __syncthreads();  // this tile, and the slab, have been written
        multiply<Real, R>(shared.transform, shared.slab + d * slab, acc);
      }
      int64_t at = k;
#pragma unroll
      for (int which = 0; which < kAgainst; ++which) {
        const Rows against = params.against[which];
        for (int64_t d = 0; d < against.rows; d += kDepth) {
          __syncthreads();  // the last tiles have been read
          load_transform<Real, R>(transform, k, width, row, at + d, at + against.rows,
                                  shared.transform);
          load_slab<Real>(RowReader<Real, Real>(against, sample, d, nullptr), kDepth, column,
                          columns, shared.other);
          __syncthreads();  // these tiles have been written
          multiply<Real, R>(shared.transform, shared.other, acc);
        }
        at += against.rows;
      }
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const int64_t i = row + ty + 16 * r, c = column + vector * tx;
        if (i >= k || fresh[i]) continue;
        Real* const to = q + i * columns + c;
        if (columns % vector == 0 && c < columns) {
          Vector<Real> out;
#pragma unroll
          for (int v = 0; v < vector; ++v) out.value[v] = acc[r][v];
          *reinterpret_cast<Vector<Real>*>(to) = out;
        } else {
#pragma unroll
          for (int v = 0; v < vector; ++v) {
            if (c + v < columns) to[v] = acc[r][v];
          }
        }
      }
    }
    const double size = sqrt(static_cast<double>(columns));
    for (int64_t e = threadIdx.x; e < k * slab; e += kThreads) {
      const int64_t i = e / slab, c = column + e % slab;
      if (c >= columns || !fresh[i]) continue;
      q[i * columns + c] = static_cast<Real>(gaussian(params.seed, i, c, rung) / size);
    }
  }
}

template <class T, class Real, int R>
const char* run(const OrthonormalizeParams& params, const LadderBlock<Real>& block,
                const LadderWork<Real>& work, int rung, void* stream) {
  const size_t bytes = ApplyShared<Real, R>::bytes(params.block.rows);
  if (const char* error = allow_shared(apply_transform<T, Real, R>, bytes, params.device))
    return error;
  const int64_t items = params.batch * ((params.columns + kSlab<Real> - 1) / kSlab<Real>);
  PULLBACK_LAUNCH((apply_transform<T, Real, R>), grid_of(items), kThreads, bytes, stream, params,
                  block, work, rung);
  return launch_error();
}

}  // namespace

template <class Real>
const char* ladder_apply(const OrthonormalizeParams& params, const LadderWork<Real>& work, int rung,
                         void* stream) {
  return with_block(params, work, rung, [&](auto entry, const LadderBlock<Real>& block) {
    using T = decltype(entry);
    return is_narrow(params.block.rows) ? run<T, Real, kNarrow>(params, block, work, rung, stream)
                                        : run<T, Real, kWide>(params, block, work, rung, stream);
  });
}

template const char* ladder_apply(const OrthonormalizeParams&, const LadderWork<float>&, int,
                                  void*);
template const char* ladder_apply(const OrthonormalizeParams&, const LadderWork<double>&, int,
                                  void*);

}  // namespace pullback::cuda
