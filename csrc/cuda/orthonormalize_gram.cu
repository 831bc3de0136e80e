// orthonormalize on CUDA, stage `gram`: parts of G = A A^T and H = A P^T in one launch, by the
// tiles of tile.h. Of G only tiles of the upper triangle are computed. Products are taken in
// float64 whatever A is: an entry that is made of float32 products may be off by a millionth, and
// hundreds of rows by the sum of that.
#include "cuda/orthonormalize_stages.h"
#include "cuda/splits.h"

namespace pullback::cuda {
namespace {

template <class T, class Real, int R>
__global__ void __launch_bounds__(kThreads, kBlocks<double, R>)
    block_products(OrthonormalizeParams params, PassInput<Real> input, GramTiles tiles,
                   double* partial) {
  PULLBACK_SHARED(shared);
  const int64_t k = params.block.rows, width = k + against_rows(params);
  const int64_t items = params.batch * tiles.count() * params.splits.count;

  for (int64_t index = blockIdx.x; index < items; index += gridDim.x) {
    const Item item = item_at(index, tiles.count(), params.splits.count);
    if (params.passes[item.sample] != 0) continue;  // done

    const bool of_g = item.which < tiles.upper;
    int64_t ti, tj, out_column = 0;  // of the tile, and where its block of [G, H] begins
    Rows other = input.rows;
    if (of_g) {
      upper_tile(item.which, tiles.rows, &ti, &tj);
    } else {
      const int64_t across = tiles.against[0] + tiles.against[1];
      ti = (item.which - tiles.upper) / across;
      tj = (item.which - tiles.upper) % across;
      other = params.against[0];
      out_column = k;
      if (tj >= tiles.against[0]) {
        tj -= tiles.against[0];
        other = params.against[1];
        out_column = k + params.against[0].rows;
      }
    }
    const int64_t row = ti * kTile<R>, column = tj * kTile<R>;
    const RowReader<T> a(input.rows, item.sample, row, input.scales);
    const RowReader<T> b(input.rows, item.sample, column, input.scales);
    const RowReader<Real> p(other, item.sample, column, nullptr);
    double total[R][R] = {};
    tile_product<double, R>(
        shared, columns_of_part(params.splits, item.part, params.columns),
        [&](int64_t from, int64_t stop, double* x, double* y) {
          load_strip<double, R>(a, from, stop, x);
          if (of_g) {
            load_strip<double, R>(b, from, stop, y);
          } else {
            load_strip<double, R>(p, from, stop, y);
          }
        },
        total);
    double* const to = partial + (item.sample * params.splits.count + item.part) * k * width;
    store_tile(total, k - row, other.rows - column, width, to + row * width + out_column + column);
  }
}

template <class T, class Real, int R>
const char* run(const OrthonormalizeParams& params, const PassInput<Real>& input, double* partial,
                void* stream) {
  const GramTiles tiles =
      gram_tiles(params.block.rows, params.against[0].rows, params.against[1].rows);
  const int64_t items = params.batch * tiles.count() * params.splits.count;
  PULLBACK_LAUNCH((block_products<T, Real, R>), grid_of(items), kThreads, (tile_bytes<double, R>()),
                  stream, params, input, tiles, partial);
  return launch_error();
}

}  // namespace

template <class Real>
const char* launch_gram(const OrthonormalizeParams& params, const Workspace<Real>& workspace,
                        int pass, void* stream) {
  return with_pass_input(params, workspace, pass, [&](auto entry, const PassInput<Real>& input) {
    using T = decltype(entry);
    return is_narrow(params.block.rows)
               ? run<T, Real, kNarrow>(params, input, workspace.partial, stream)
               : run<T, Real, kWide>(params, input, workspace.partial, stream);
  });
}

template const char* launch_gram(const OrthonormalizeParams&, const Workspace<float>&, int, void*);
template const char* launch_gram(const OrthonormalizeParams&, const Workspace<double>&, int, void*);

}  // namespace pullback::cuda
