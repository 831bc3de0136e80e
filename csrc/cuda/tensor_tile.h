// A tile of a product of rows in float64, C = X Y^T over some of the columns, by tensor cores: the
// inner kernel of orthonormalize where there are more rows than 32.
//
// A block of 8 warps computes 64 x 64 entries. Columns come in strips of 32 through shared memory,
// row by row as they lie. A warp has 16 rows and 32 columns of C, in units of 8 columns, for each
// of which it takes products of 8 columns of N at a time. Of a tile on the diagonal of A A^T the
// units on and above the diagonal are computed. Warps w and w + 4 are issued by the same scheduler:
// which of the tile they have is such that there, too, no scheduler has many more units than
// others.
//
// Tensor cores multiply and add float64 as fma() does, rounding to nearest (PTX ISA, mma, .f64): a
// sum is a chain. Every entry is summed in one order, fixed by the columns and the device.
#pragma once

#include "common/block.h"
#include "cuda/launch.h"
#include "cuda/mma.h"
#include "cuda/row_reader.h"
#include "cuda/splits.h"
#include "cuda/team.h"

namespace pullback::cuda {

struct TensorTile {
  static constexpr int kRows = 64, kStep = kDepth<double>, kColumns = 32;
  static constexpr int kPitch = kColumns + 8;  // 2 rows of 4 pieces of a step touch all 32 banks
  static constexpr int kGroup = 16, kUnit = 8, kUnits = 4;
  static constexpr unsigned kBytes = 2u * kRows * kPitch * sizeof(double);
  static_assert(kRows / kGroup * (kRows / kUnit / kUnits) * kWarp == kThreads);
  static_assert(kSplitColumns / kQuarters % kColumns == 0);

  using Sums = double[kUnits][4];
};

// What a thread's warp has of a tile: rows row .. row + 15, columns column + 8 first .. column + 8
// end.
struct WarpShare {
  int row;
  int column;
  int first;
  int end;

  // Of a tile with as many rows and columns.
  __device__ WarpShare(int64_t rows, int64_t columns, bool diagonal) {
    using Tile = TensorTile;
    const int warp = static_cast<int>(threadIdx.x) / kWarp, scheduler = warp % 4;
    row = Tile::kGroup * (warp < 4 ? scheduler / 2 : 2 + scheduler % 2);
    column = Tile::kUnit * Tile::kUnits * ((warp < 4 ? scheduler : scheduler ^ scheduler / 2) % 2);
    first = diagonal && row > column ? (row - column) / Tile::kUnit : 0;
    const int64_t units = row < rows ? ceil_divide(columns - column, Tile::kUnit) : 0;
    end = units < Tile::kUnits ? static_cast<int>(units) : Tile::kUnits;
  }

  __device__ bool has(int unit) const { return unit >= first && unit < end; }
};

// The rows of a tile, one strip of them, into shared memory.
template <class T>
__device__ void load_tensor_strip(const RowReader<T>& from, int64_t column, double* to) {
  using Tile = TensorTile;
  constexpr int pieces = Tile::kRows * Tile::kColumns / (Piece<T>::kEntries * kThreads);
  static_assert(pieces >= 1);
  load_rows<double, Tile::kColumns, Tile::kPitch, pieces>(from, Tile::kRows, column, to);
}

// sums += the products of one strip. A lane reads two columns of N at a time: which of a step's
// columns stands for which of the product's does not matter, as long as it is the same for both.
__device__ inline void add_strip(const double* a, const double* b, const WarpShare& share,
                                 TensorTile::Sums& sums) {
  using Tile = TensorTile;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int own = lane / 4 * Tile::kPitch + 2 * (lane % 4);
  a += share.row * Tile::kPitch + own;
  b += share.column * Tile::kPitch + own;
#pragma unroll 1
  for (int column = 0; column < Tile::kColumns; column += Tile::kStep) {
    const Piece<double> upper = *reinterpret_cast<const Piece<double>*>(a + column);
    const Piece<double> lower =
        *reinterpret_cast<const Piece<double>*>(a + Tile::kGroup / 2 * Tile::kPitch + column);
    const double left[4] = {upper.value[0], lower.value[0], upper.value[1], lower.value[1]};
#pragma unroll
    for (int unit = 0; unit < Tile::kUnits; ++unit) {
      if (!share.has(unit)) continue;
      const Piece<double> right =
          *reinterpret_cast<const Piece<double>*>(b + unit * Tile::kUnit * Tile::kPitch + column);
      PULLBACK_MULTIPLY(double, left, right.value, sums[unit]);
    }
  }
}

// total += the products over the columns. load(column, a, b) brings one strip of both operands by
// load_tensor_strip(); on the diagonal of the first alone. With kChunks the products of a strip
// are added first.
template <bool kDiagonal, bool kChunks, class Load>
__device__ void tensor_product(char* shared, const ColumnRange& columns, const Load& load,
                               const WarpShare& share, TensorTile::Sums& total) {
  using Tile = TensorTile;
  double* const a = reinterpret_cast<double*>(shared);
  double* const b = kDiagonal ? a : a + Tile::kRows * Tile::kPitch;
  for (int64_t column = columns.begin; column < columns.end; column += Tile::kColumns) {
    __syncthreads();  // the last strip has been read
    load(column, a, b);
    __syncthreads();  // this strip has been written
    if constexpr (kChunks) {
      Tile::Sums sums = {};
      add_strip(a, b, share, sums);
#pragma unroll
      for (int unit = 0; unit < Tile::kUnits; ++unit) {
#pragma unroll
        for (int i = 0; i < 4; ++i) total[unit][i] += sums[unit][i];
      }
    } else {
      add_strip(a, b, share, total);
    }
  }
}

// The entries of a tile that lie within rows x columns, to `out`, whose rows are `pitch` apart; or
// added to what is there, by the thread that has put it there.
__device__ inline void store_tensor_tile(const TensorTile::Sums& sums, const WarpShare& share,
                                         int64_t rows, int64_t columns, int64_t pitch, bool add,
                                         double* out) {
  using Tile = TensorTile;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int row = share.row + lane / 4, column = share.column + 2 * (lane % 4);
#pragma unroll
  for (int unit = 0; unit < Tile::kUnits; ++unit) {
    if (!share.has(unit)) continue;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = row + Tile::kGroup / 2 * (i / 2), c = column + unit * Tile::kUnit + i % 2;
      if (r >= rows || c >= columns) continue;
      double* const to = out + r * pitch + c;
      *to = add ? *to + sums[unit][i] : sums[unit][i];
    }
  }
}

}  // namespace pullback::cuda
