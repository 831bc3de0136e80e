// orthonormalize on CUDA, what a block of threads does for stage `gram`: one tile of [G, H] over
// one part of the columns, or a quarter of one: by tensor_tile.h where tiles are of 64 rows, else
// by tile.h. Products are taken in float64 whatever A is: an entry that is made of float32
// products may be off by a millionth, and hundreds of rows by the sum of that. Those of float32
// rows are one chain for a quarter of a part; those of float64 rows, where it counts, go by chunks.
#pragma once

#include "cuda/orthonormalize_stages.h"
#include "cuda/tensor_tile.h"

namespace pullback::cuda {

// Items of a sample: tiles times parts times pieces.
template <class Real>
PULLBACK_HD int64_t products_of_sample(const OrthonormalizeParams& params,
                                       const Workspace<Real>& workspace) {
  return workspace.tiles.count() * params.splits.count * workspace.pieces;
}

// Blocks that are to share a multiprocessor; those of float64 rows have twice as many sums, and a
// wide tile of entries of 16 bits needs more registers to read them.
template <class T, class Real, int R>
constexpr int kBlocksOfProducts =
    sizeof(Real) == 4 && (R < 4 || sizeof(T) == 4) ? kBlocks<Real, R> : (R == 4 ? 1 : 2);

// Shared memory of block_product().
template <int R>
constexpr unsigned product_bytes() {
  return kTile<R> == TensorTile::kRows ? TensorTile::kBytes : tile_bytes<double, R>();
}

// The products of rows a and b, in the quarters first .. end of a part, to `to`.
template <class Real, int R, bool kDiagonal, class A, class B>
__device__ void quarters_of_product(char* shared, const OrthonormalizeParams& params, int64_t part,
                                    int first, int end, const RowReader<A>& a,
                                    const RowReader<B>& b, int64_t pitch, double* to) {
  for (int quarter = first; quarter < end; ++quarter) {
    const ColumnRange columns = columns_of_quarter(params.splits, part, quarter, params.columns);
    if constexpr (kTile<R> == TensorTile::kRows) {
      const WarpShare share(a.rows, b.rows, kDiagonal);
      const auto load = [&](int64_t column, double* x, double* y) {
        load_tensor_strip(a, column, x);
        if constexpr (!kDiagonal) load_tensor_strip(b, column, y);
      };
      TensorTile::Sums sums = {};
      tensor_product<kDiagonal, sizeof(Real) == 8>(shared, columns, load, share, sums);
      store_tensor_tile(sums, share, a.rows, b.rows, pitch, quarter > first, to);
    } else {
      const auto load = [&](int64_t column, double* x, double* y) {
        load_strip<double, R>(a, column, x);
        if constexpr (!kDiagonal) load_strip<double, R>(b, column, y);
      };
      double total[R][R] = {};
      tile_product<double, R, kDiagonal, sizeof(Real) == 8>(shared, columns, load, total);
      store_tile<R, kDiagonal>(total, a.rows, b.rows, pitch, quarter > first, to);
    }
  }
}

// Item `index` of a sample.
template <class T, class Real, int R>
__device__ void block_product(char* shared, const OrthonormalizeParams& params,
                              const PassInput<Real>& input, const Workspace<Real>& workspace,
                              int64_t sample, int64_t index) {
  const GramTiles& tiles = workspace.tiles;
  const int64_t k = params.block.rows, width = k + against_rows(params);
  const int64_t pieces = workspace.pieces, piece = index % pieces;
  const int64_t part = index / pieces % params.splits.count;
  int64_t which = index / pieces / params.splits.count;
  const int first = static_cast<int>(piece), end = pieces == 1 ? kQuarters : first + 1;
  double* const to =
      workspace.partial + ((sample * params.splits.count + part) * pieces + piece) * k * width;
  if (which < tiles.upper) {
    int64_t ti, tj;
    upper_tile(which, tiles.rows, &ti, &tj);
    const int64_t row = ti * kTile<R>, column = tj * kTile<R>;
    const RowReader<T> a(input.rows, sample, row, params.columns, input.scales);
    if (ti == tj) {
      quarters_of_product<Real, R, true>(shared, params, part, first, end, a, a, width,
                                         to + row * width + column);
    } else {
      const RowReader<T> b(input.rows, sample, column, params.columns, input.scales);
      quarters_of_product<Real, R, false>(shared, params, part, first, end, a, b, width,
                                          to + row * width + column);
    }
    return;
  }
  which -= tiles.upper;
  const int64_t across = tiles.against[0] + tiles.against[1];
  const int64_t row = which / across * kTile<R>;
  const bool second = which % across >= tiles.against[0];
  const int64_t column = (which % across - (second ? tiles.against[0] : 0)) * kTile<R>;
  const int64_t out_column = k + (second ? params.against[0].rows : 0) + column;
  const RowReader<T> a(input.rows, sample, row, params.columns, input.scales);
  const RowReader<Real> p(params.against[second ? 1 : 0], sample, column, params.columns, nullptr);
  quarters_of_product<Real, R, false>(shared, params, part, first, end, a, p, width,
                                      to + row * width + out_column);
}

}  // namespace pullback::cuda
