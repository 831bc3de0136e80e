// orthonormalize on CUDA, stage `gram`: parts of G = A A^T and H = A P^T in one launch, by the
// tiles of tile.h. Of G only tiles of the upper triangle are computed.
#include "cuda/orthonormalize_stages.h"
#include "cuda/tile.h"

namespace pullback::cuda {
namespace {

template <class T, class Real, int R>
__global__ void __launch_bounds__(kThreads, kBlocks<Real, R>)
    ladder_products(OrthonormalizeParams params, LadderBlock<Real> block, LadderTiles tiles,
                    double* partial) {
  PULLBACK_SHARED(shared);
  constexpr int64_t side = 16 * R;
  const int64_t k = params.block.rows, width = k + against_rows(params);
  const int64_t count = tiles.count(), items = params.batch * count * params.splits.count;

  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t part = item % params.splits.count;
    const int64_t tile = item / params.splits.count % count;
    const int64_t sample = item / params.splits.count / count;
    if (params.passes[sample] != 0) continue;  // done

    const bool of_g = tile < tiles.upper;
    int64_t ti, tj, out_column = 0;  // of the tile, and where its block of [G, H] begins
    Rows other = block.rows;
    if (of_g) {
      upper_tile(tile, tiles.rows, &ti, &tj);
    } else {
      const int64_t across = tiles.against[0] + tiles.against[1];
      ti = (tile - tiles.upper) / across;
      tj = (tile - tiles.upper) % across;
      other = params.against[0];
      out_column = k;
      if (tj >= tiles.against[0]) {
        tj -= tiles.against[0];
        other = params.against[1];
        out_column = k + params.against[0].rows;
      }
    }
    const int64_t row = ti * side, column = tj * side;
    const int64_t begin = part * params.splits.columns;
    const int64_t end = begin + params.splits.columns < params.columns
                            ? begin + params.splits.columns
                            : params.columns;
    const RowReader<T, Real> a(block.rows, sample, row, block.factors);
    const RowReader<T, Real> b(block.rows, sample, column, block.factors);
    const RowReader<Real, Real> p(other, sample, column, nullptr);
    double total[R][R] = {};
    tile_product<Real, R>(
        shared, begin, end,
        [&](int64_t from, int64_t stop, Real* x, Real* y) {
          stage<Real, R>(a, from, stop, x);
          if (of_g) {
            stage<Real, R>(b, from, stop, y);
          } else {
            stage<Real, R>(p, from, stop, y);
          }
        },
        total);
    double* const to = partial + (sample * params.splits.count + part) * k * width;
    store_tile(total, k - row, other.rows - column, width, to + row * width + out_column + column);
  }
}

template <class T, class Real, int R>
const char* run(const OrthonormalizeParams& params, const LadderBlock<Real>& block, double* partial,
                void* stream) {
  const LadderTiles tiles =
      ladder_tiles(params.block.rows, params.against[0].rows, params.against[1].rows);
  const int64_t items = params.batch * tiles.count() * params.splits.count;
  PULLBACK_LAUNCH((ladder_products<T, Real, R>), grid_of(items), kThreads, (tile_bytes<Real, R>()),
                  stream, params, block, tiles, partial);
  return launch_error();
}

}  // namespace

template <class Real>
const char* ladder_gram(const OrthonormalizeParams& params, const LadderWork<Real>& work, int rung,
                        void* stream) {
  return with_block(params, work, rung, [&](auto entry, const LadderBlock<Real>& block) {
    using T = decltype(entry);
    return is_narrow(params.block.rows) ? run<T, Real, kNarrow>(params, block, work.partial, stream)
                                        : run<T, Real, kWide>(params, block, work.partial, stream);
  });
}

template const char* ladder_gram(const OrthonormalizeParams&, const LadderWork<float>&, int, void*);
template const char* ladder_gram(const OrthonormalizeParams&, const LadderWork<double>&, int,
                                 void*);

}  // namespace pullback::cuda
