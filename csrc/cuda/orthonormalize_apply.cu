// orthonormalize on CUDA, stage `apply`: A <- transform [A; P].
//
// A block of 16 x 16 threads owns a slab of columns of one sample. It keeps the slab of A, all k
// rows of it, in shared memory, so that q may be read and written in place; the transform and P
// come in tiles. A thread owns 16 bytes of columns (4 or 2) of the rows ty + 16 r. P comes first
// and the diagonal of the transform last: when the transform is close to the identity, every sum
// but the last is small, and so is its rounding.
#include <cmath>

#include "cuda/orthonormalize_stages.h"
#include "numerics/random.h"

namespace pullback::cuda {
namespace {

constexpr int kDepth = 32;  // rows of [A; P] per tile

// A slab is 256 bytes wide.
template <class Real>
constexpr int kSlab = kSide * StripLayout<Real>::kVector;

template <class Real>
constexpr int kTilePitch = kDepth + StripLayout<Real>::kVector;

template <class Real, int R>
struct ApplyShared {
  Real* transform;  // [kTile<R>, kTilePitch]
  Real* other;      // [kDepth, kSlab] rows of P
  Real* slab;       // [k rounded up to kDepth, kSlab] rows of A

  explicit __device__ ApplyShared(char* shared)
      : transform(reinterpret_cast<Real*>(shared)),
        other(transform + kTile<R> * kTilePitch<Real>),
        slab(other + kDepth * kSlab<Real>) {}

  static constexpr size_t bytes(int64_t k) {
    return (kTile<R> * kTilePitch<Real> +
            (kDepth + round_up(k, kDepth)) * kSlab<Real>)*sizeof(Real);
  }
};
static_assert(ApplyShared<float, kWide>::bytes(kMostRows) <= kSharedOfEveryDevice);
static_assert(ApplyShared<double, kWide>::bytes(kMostRows) <= kSharedOfEveryDevice);

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
  for (int e = static_cast<int>(threadIdx.x); e < kTile<R> * kDepth; e += kThreads) {
    const int r = e / kDepth, c = e % kDepth;
    const bool inside = row + r < k && column + c < end;
    to[r * kTilePitch<Real> + c] = inside ? transform[(row + r) * width + column + c] : 0;
  }
}

template <class Real, int R>
__device__ void multiply(const Real* transform, const Real* rows,
                         Real (&acc)[R][StripLayout<Real>::kVector]) {
  constexpr int vector = StripLayout<Real>::kVector;
  const int tx = thread_x(), ty = thread_y();
#pragma unroll 1
  for (int d = 0; d < kDepth; d += vector) {
    Vector<Real> t[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      t[r] = *reinterpret_cast<const Vector<Real>*>(transform +
                                                    (ty + kSide * r) * kTilePitch<Real> + d);
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
    apply_transform(OrthonormalizeParams params, PassInput<Real> input, Workspace<Real> workspace,
                    int pass) {
  PULLBACK_SHARED(memory);
  constexpr int slab = kSlab<Real>, vector = StripLayout<Real>::kVector;
  const ApplyShared<Real, R> shared(memory);
  const int tx = thread_x(), ty = thread_y();
  const int64_t k = params.block.rows, width = k + against_rows(params), columns = params.columns;
  const int64_t slabs = ceil_divide(columns, slab), items = params.batch * slabs;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t sample = item / slabs, column = item % slabs * slab;
    const int32_t passes = params.passes[sample];
    if (passes != 0 && passes != pass && passes != -pass) continue;  // done on an earlier pass
    const Real* const transform = workspace.transform + sample * k * width;
    const bool* const given_up = workspace.given_up + sample * k;
    Real* const q = static_cast<Real*>(params.q) + sample * k * columns;

    __syncthreads();  // the last slab has been read
    load_slab<Real>(RowReader<T>(input.rows, sample, 0, input.scales), round_up(k, kDepth), column,
                    columns, shared.slab);
    for (int64_t row = 0; row < k; row += kTile<R>) {
      Real acc[R][vector] = {};
      int64_t at = k;
#pragma unroll
      for (int which = 0; which < kAgainst; ++which) {
        const Rows against = params.against[which];
        for (int64_t d = 0; d < against.rows; d += kDepth) {
          __syncthreads();  // the last tiles have been read
          load_transform<Real, R>(transform, k, width, row, at + d, at + against.rows,
                                  shared.transform);
          load_slab<Real>(RowReader<Real>(against, sample, d, nullptr), kDepth, column, columns,
                          shared.other);
          __syncthreads();  // these tiles have been written
          multiply<Real, R>(shared.transform, shared.other, acc);
        }
        at += against.rows;
      }
      const int64_t below = row + kTile<R> < k ? row + kTile<R> : k;  // T is lower triangular
      for (int64_t d = 0; d < below; d += kDepth) {
        __syncthreads();  // the last tile has been read
        load_transform<Real, R>(transform, k, width, row, d, k, shared.transform);
        __syncthreads();  // this tile, and the slab, have been written
        multiply<Real, R>(shared.transform, shared.slab + d * slab, acc);
      }
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const int64_t i = row + ty + kSide * r, c = column + vector * tx;
        if (i >= k || given_up[i]) continue;
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
      if (c >= columns || !given_up[i]) continue;
      q[i * columns + c] = static_cast<Real>(gaussian(params.seed, i, c, pass) / size);
    }
  }
}

template <class T, class Real, int R>
const char* run(const OrthonormalizeParams& params, const PassInput<Real>& input,
                const Workspace<Real>& workspace, int pass, void* stream) {
  const size_t bytes = ApplyShared<Real, R>::bytes(params.block.rows);
  if (const char* error = allow_shared(apply_transform<T, Real, R>, bytes, params.device))
    return error;
  const int64_t items = params.batch * ceil_divide(params.columns, kSlab<Real>);
  PULLBACK_LAUNCH((apply_transform<T, Real, R>), grid_of(items), kThreads, bytes, stream, params,
                  input, workspace, pass);
  return launch_error();
}

}  // namespace

template <class Real>
const char* launch_apply(const OrthonormalizeParams& params, const Workspace<Real>& workspace,
                         int pass, void* stream) {
  return with_pass_input(params, workspace, pass, [&](auto entry, const PassInput<Real>& input) {
    using T = decltype(entry);
    return is_narrow(params.block.rows)
               ? run<T, Real, kNarrow>(params, input, workspace, pass, stream)
               : run<T, Real, kWide>(params, input, workspace, pass, stream);
  });
}

template const char* launch_apply(const OrthonormalizeParams&, const Workspace<float>&, int, void*);
template const char* launch_apply(const OrthonormalizeParams&, const Workspace<double>&, int,
                                  void*);

}  // namespace pullback::cuda
