// gram on CUDA: a split-K product with plain fused multiply-adds (tile.h), then the sum of the
// parts. Every entry is summed in one order, fixed by N, k and p.
#include "cuda/gram.h"

#include "cuda/launch.h"
#include "cuda/splits.h"
#include "cuda/tile.h"
#include "numerics/entry_type.h"

namespace pullback::cuda {
namespace {

// Tiles of the result. Of a symmetric one those of the upper triangle are computed.
struct ResultTiles {
  int64_t rows;
  int64_t columns;
  bool symmetric;

  PULLBACK_HD int64_t count() const { return symmetric ? triangle(rows) : rows * columns; }
};

ResultTiles result_tiles(int64_t k, int64_t p, bool symmetric, int64_t side) {
  return {ceil_divide(k, side), ceil_divide(p, side), symmetric};
}

// Blocks that are to share a multiprocessor: a third one would leave too few registers.
constexpr int kBlocksOfGram = 2;

template <class T, class Real, int R>
__global__ void __launch_bounds__(kThreads, kBlocksOfGram)
    gram_split(GramParams params, ResultTiles tiles) {
  PULLBACK_SHARED(shared);
  const int64_t k = params.a.rows, p = params.b.rows;
  const int64_t items = params.batch * tiles.count() * params.splits.count;

  for (int64_t index = blockIdx.x; index < items; index += gridDim.x) {
    const Item item = item_at(index, tiles.count(), params.splits.count);
    int64_t ti, tj;
    if (tiles.symmetric) {
      upper_tile(item.which, tiles.rows, &ti, &tj);
    } else {
      ti = item.which / tiles.columns;
      tj = item.which % tiles.columns;
    }
    const int64_t row = ti * kTile<R>, col = tj * kTile<R>;
    const RowReader<T> a(params.a, item.sample, row, params.columns, nullptr);
    const RowReader<T> b(params.b, item.sample, col, params.columns, nullptr);
    const ColumnRange part = columns_of_part(params.splits, item.part, params.columns);
    double* const to =
        params.partial + (item.sample * params.splits.count + item.part) * k * p + row * p + col;
    double total[R][R] = {};
    if (tiles.symmetric && ti == tj) {
      const auto load = [&](int64_t column, Real* x, Real*) { load_strip<Real, R>(a, column, x); };
      tile_product<Real, R, true>(shared, part, load, total);
      store_tile<R, true>(total, k - row, p - col, p, false, to);
    } else {
      const auto load = [&](int64_t column, Real* x, Real* y) {
        load_strip<Real, R>(a, column, x);
        load_strip<Real, R>(b, column, y);
      };
      tile_product<Real, R, false>(shared, part, load, total);
      store_tile<R, false>(total, k - row, p - col, p, false, to);
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
  const int64_t k = params.a.rows, p = params.b.rows;
  const ResultTiles tiles = result_tiles(k, p, params.symmetric, kTile<R>);
  const int64_t items = params.batch * tiles.count() * params.splits.count;
  PULLBACK_LAUNCH((gram_split<T, Real, R>), grid_of(items), kThreads, (tile_bytes<Real, R>()),
                  stream, params, tiles);
  if (const char* error = launch_error()) return error;
  PULLBACK_LAUNCH(gram_sum, grid_of(params.batch * k * p, kThreads), kThreads, 0, stream, params);
  return launch_error();
}

// Tiles of 16, 32 or 64: the smallest that holds the wider side. From k and p only.
template <class T, class Real>
const char* pick(const GramParams& params, void* stream) {
  const int64_t wide = params.a.rows > params.b.rows ? params.a.rows : params.b.rows;
  if (wide <= kTile<1>) return run<T, Real, 1>(params, stream);
  if (wide <= kTile<2>) return run<T, Real, 2>(params, stream);
  return run<T, Real, 4>(params, stream);
}

}  // namespace

int64_t gram_most_splits(int64_t k, int64_t p, bool symmetric) {
  // Smaller tiles than the largest are taken only where there is one of them.
  return most_splits(result_tiles(k, p, symmetric, kTile<4>).count());
}

const char* gram(const GramParams& params, void* stream) {
  if (params.batch == 0 || params.a.rows == 0 || params.b.rows == 0 || params.columns == 0) {
    return "an empty product needs no launch";  // the caller has answered it
  }
  if (const char* error = select_device(params.device)) return error;
  return with_entry_type(params.dtype, [&](auto entry) {
    using T = decltype(entry);
    return pick<T, Working<T>>(params, stream);
  });
}

}  // namespace pullback::cuda
