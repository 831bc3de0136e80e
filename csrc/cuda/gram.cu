// gram on CUDA: a split-K product with plain fused multiply-adds, then the sum of the splits.
//
// A block of 16 x 16 threads computes a tile of 16 R x 16 R entries over one part of N. Columns
// come in stages through shared memory, row by row as they lie; a thread owns rows ty + 16 r and
// columns tx + 16 c, and reads 16 bytes (4 or 2 columns of N) at a time. An accumulator holds at
// most kChunk products before it is added to a float64 one. Every entry is summed in one order,
// fixed by N, k and p.
#include "cuda/gram.h"

#include "cuda/launch.h"
#include "numerics/half.h"

namespace pullback::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kChunk = 128;  // products per float32 accumulator

template <class Real>
struct Traits {
  static constexpr int kVector = 16 / sizeof(Real);
  static constexpr int kStage = 256 / sizeof(Real);  // columns per stage: 64 or 32
  static constexpr int kPitch = kStage + kVector;    // 8 rows apart by 16 bytes touch all 32 banks
  static_assert(kChunk % kStage == 0 && kSplitColumns % kChunk == 0);
  static_assert(kStage % kVector == 0 && kPitch % kVector == 0);  // 16-byte reads stay aligned
};

// Blocks that are to share a multiprocessor: bounds the registers, and none of these spill.
template <class Real, int R>
constexpr int kBlocks = sizeof(Real) == 4 ? (R == 1 ? 4 : 2) : (R == 4 ? 1 : 2);

template <class Real>
struct alignas(16) Vector {
  Real value[16 / sizeof(Real)];
};

template <class Real, int R>
constexpr unsigned shared_bytes() {
  return 2u * 16u * R * Traits<Real>::kPitch * sizeof(Real);
}

// One stage of 16 R rows into shared memory; what lies outside of the block is zero.
template <class T, class Real, int R>
__device__ void stage(const Rows& rows, int64_t sample, int64_t row, int64_t column, int64_t end,
                      Real* to) {
  constexpr int columns = Traits<Real>::kStage;
  const T* from = static_cast<const T*>(rows.data) + sample * rows.batch_stride;
#pragma unroll 4
  for (int e = static_cast<int>(threadIdx.x); e < 16 * R * columns; e += kThreads) {
    const int r = e / columns, c = e % columns;
    Real value = 0;
    if (row + r < rows.rows && column + c < end) {
      value = widen(from[(row + r) * rows.row_stride + (column + c) * rows.column_stride]);
    }
    to[r * Traits<Real>::kPitch + c] = value;
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

template <class T, class Real, int R>
__global__ void __launch_bounds__(kThreads, kBlocks<Real, R>)
    gram_split(GramParams params, int64_t items) {
  PULLBACK_SHARED(shared);
  constexpr int pitch = Traits<Real>::kPitch, vector = Traits<Real>::kVector;
  Real* const a = reinterpret_cast<Real*>(shared);
  Real* const b = a + 16 * R * pitch;
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  const int64_t k = params.a.rows, p = params.b.rows;
  const int64_t tile_rows = (k + 16 * R - 1) / (16 * R), tile_cols = (p + 16 * R - 1) / (16 * R);
  const int64_t tiles = params.symmetric ? tile_rows * (tile_rows + 1) / 2 : tile_rows * tile_cols;

  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t part = item % params.splits.count;
    const int64_t tile = item / params.splits.count % tiles;
    const int64_t sample = item / params.splits.count / tiles;
    int64_t ti, tj;
    if (params.symmetric) {
      upper_tile(tile, tile_rows, &ti, &tj);
    } else {
      ti = tile / tile_cols;
      tj = tile % tile_cols;
    }
    const int64_t row = ti * 16 * R, col = tj * 16 * R;
    const int64_t begin = part * params.splits.columns;
    const int64_t end = begin + params.splits.columns < params.columns
                            ? begin + params.splits.columns
                            : params.columns;

    double total[R][R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int c = 0; c < R; ++c) total[r][c] = 0.0;
    }

    for (int64_t chunk = begin; chunk < end; chunk += kChunk) {
      Real acc[R][R];
#pragma unroll
      for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int c = 0; c < R; ++c) acc[r][c] = 0;
      }
      const int64_t chunk_end = chunk + kChunk < end ? chunk + kChunk : end;
      for (int64_t column = chunk; column < chunk_end; column += Traits<Real>::kStage) {
        __syncthreads();  // the last stage has been read
        stage<T, Real, R>(params.a, sample, row, column, chunk_end, a);
        stage<T, Real, R>(params.b, sample, col, column, chunk_end, b);
        __syncthreads();  // this stage has been written
#pragma unroll 1
        for (int q = 0; q < Traits<Real>::kStage; q += vector) {
          Vector<Real> x[R], y[R];
#pragma unroll
          for (int r = 0; r < R; ++r) {
            x[r] = *reinterpret_cast<const Vector<Real>*>(a + (ty + 16 * r) * pitch + q);
            y[r] = *reinterpret_cast<const Vector<Real>*>(b + (tx + 16 * r) * pitch + q);
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
      }
#pragma unroll
      for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int c = 0; c < R; ++c) total[r][c] += acc[r][c];
      }
    }

    double* partial = params.partial + (sample * params.splits.count + part) * k * p;
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int c = 0; c < R; ++c) {
        const int64_t i = row + ty + 16 * r, j = col + tx + 16 * c;
        if (i < k && j < p) partial[i * p + j] = total[r][c];
      }
    }
  }
}

// out[B, k, p] = sum of the parts in order; a symmetric result takes both halves from the upper
// one.
__global__ void __launch_bounds__(kThreads) gram_sum(GramParams params) {
  const int64_t k = params.a.rows, p = params.b.rows, entries = k * p;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t e = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       e < params.batch * entries; e += stride) {
    const int64_t sample = e / entries, i = e % entries / p, j = e % p;
    const int64_t from = params.symmetric && j < i ? j * p + i : i * p + j;
    const double* partial = params.partial + sample * params.splits.count * entries + from;
    double sum = partial[0];
    for (int64_t s = 1; s < params.splits.count; ++s) sum += partial[s * entries];
    params.out[e] = sum;
  }
}

template <class T, class Real, int R>
const char* run(const GramParams& params, void* stream) {
  const int64_t rows = (params.a.rows + 16 * R - 1) / (16 * R);
  const int64_t cols = (params.b.rows + 16 * R - 1) / (16 * R);
  const int64_t tiles = params.symmetric ? rows * (rows + 1) / 2 : rows * cols;
  const int64_t items = params.batch * tiles * params.splits.count;
  PULLBACK_LAUNCH((gram_split<T, Real, R>), grid_of(items), kThreads, (shared_bytes<Real, R>()),
                  stream, params, items);
  if (const char* error = launch_error()) return error;
  const int64_t entries = params.batch * params.a.rows * params.b.rows;
  PULLBACK_LAUNCH(gram_sum, grid_of((entries + kThreads - 1) / kThreads), kThreads, 0, stream,
                  params);
  return launch_error();
}

// Tiles of 16, 32 or 64: the smallest that holds the wider side. From k and p only.
template <class T, class Real>
const char* pick(const GramParams& params, void* stream) {
  const int64_t wide = params.a.rows > params.b.rows ? params.a.rows : params.b.rows;
  if (wide <= 16) return run<T, Real, 1>(params, stream);
  if (wide <= 32) return run<T, Real, 2>(params, stream);
  return run<T, Real, 4>(params, stream);
}

}  // namespace

const char* gram(const GramParams& params, void* stream) {
  if (params.batch == 0 || params.a.rows == 0 || params.b.rows == 0 || params.columns == 0) {
    return "an empty product needs no launch";  // the caller has answered it
  }
  if (const char* error = select_device(params.device)) return error;
  switch (params.dtype) {
    case Dtype::kFloat32:
      return pick<float, float>(params, stream);
    case Dtype::kFloat64:
      return pick<double, double>(params, stream);
    case Dtype::kFloat16:
      return pick<Half, float>(params, stream);
    case Dtype::kBFloat16:
      return pick<BFloat16, float>(params, stream);
  }
  return "unknown dtype";
}

}  // namespace pullback::cuda
