// gram on CUDA: a split-K product with plain fused multiply-adds (tile.h), then the sum of the
// splits. Every entry is summed in one order, fixed by N, k and p.
#include "cuda/gram.h"

#include "cuda/launch.h"
#include "cuda/tile.h"

namespace pullback::cuda {
namespace {

template <class T, class Real, int R>
__global__ void __launch_bounds__(kThreads, kBlocks<Real, R>)
    gram_split(GramParams params, int64_t items) {
  PULLBACK_SHARED(shared);
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
    const RowReader<T, Real> a(params.a, sample, row, nullptr);
    const RowReader<T, Real> b(params.b, sample, col, nullptr);
    double total[R][R] = {};
    tile_product<Real, R>(
        shared, begin, end,
        [&](int64_t column, int64_t stop, Real* x, Real* y) {
          stage<Real, R>(a, column, stop, x);
          stage<Real, R>(b, column, stop, y);
        },
        total);
    double* const partial = params.partial + (sample * params.splits.count + part) * k * p;
    store_tile(total, k - row, p - col, p, partial + row * p + col);
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
  PULLBACK_LAUNCH((gram_split<T, Real, R>), grid_of(items), kThreads, (tile_bytes<Real, R>()),
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
