// squared_singular_values for every CPU instruction set: included once by each
// squared_singular_values_<isa>.cpp, after its vector type (numerics/lanes.h). One matrix to a
// lane; the iteration, which waits for divisions, takes two vectors side by side. cpu/tiles.h says
// why all of this is internal.
#pragma once

#include <cstdint>

#include "cpu/squared_singular_values.h"
#include "cpu/twice.h"
#include "numerics/half.h"
#include "numerics/matrix.h"
#include "numerics/tridiagonal.h"

namespace pullback::cpu {
namespace {

struct Alone {
  int rank() const { return 0; }
  int size() const { return 1; }
  void sync() const {}
};

// Some columns of `count` matrices from `first` on: to [columns, side, lanes], zero where there is
// no row or no matrix.
template <class L, class T>
void pack_lanes(const SquaredSingularValuesParams& params, int64_t first, int64_t count,
                int64_t column, int64_t columns, int64_t side, double* to) {
  const Rows& c = params.c;
  if (count < L::kLanes || side > c.rows) {
    for (int64_t e = 0; e < columns * side; ++e) L::store(to + e * L::kLanes, L::broadcast(0.0));
  }
  for (int64_t lane = 0; lane < count; ++lane) {
    const T* const matrix =
        static_cast<const T*>(c.data) + (first + lane) * c.batch_stride + column * c.column_stride;
    for (int64_t i = 0; i < c.rows; ++i) {
      const T* from = matrix + i * c.row_stride;
      double* entry = to + i * L::kLanes + lane;
      for (int64_t j = 0; j < columns; ++j, from += c.column_stride, entry += side * L::kLanes) {
        *entry = widen(*from);
      }
    }
  }
}

// A kTile x kTile tile of the Gram matrix of packed columns, added to `a` or set.
template <class L>
void gram_of_lanes(const double* x, const double* y, int64_t side, int64_t columns, double* a,
                   int64_t pitch, bool set) {
  constexpr int lanes = L::kLanes, tile = L::kTile;
  typename L::Reg sum[tile][tile];
#pragma GCC unroll 4
  for (int i = 0; i < tile; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < tile; ++j) {
      sum[i][j] = set ? L::broadcast(0.0) : L::load(a + (i * pitch + j) * lanes);
    }
  }
  for (int64_t c = 0; c < columns; ++c, x += side * lanes, y += side * lanes) {
    typename L::Reg row[tile];
#pragma GCC unroll 4
    for (int j = 0; j < tile; ++j) row[j] = L::load(y + j * lanes);
#pragma GCC unroll 4
    for (int i = 0; i < tile; ++i) {
      const typename L::Reg factor = L::load(x + i * lanes);
#pragma GCC unroll 4
      for (int j = 0; j < tile; ++j) sum[i][j] = L::fma(factor, row[j], sum[i][j]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < tile; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < tile; ++j) L::store(a + (i * pitch + j) * lanes, sum[i][j]);
  }
}

// What is known of the matrices of a pair of vectors.
template <class L>
struct OfLanes {
  int exponent[2 * L::kLanes];
  double scale[2 * L::kLanes];   // 2^-exponent
  double finite[2 * L::kLanes];  // 0, else NaN
};

// Up to kLanes matrices: scaled by powers of two, their Gram matrices, and these tridiagonal.
template <class L, class T>
void reduce_lanes(const SquaredSingularValuesParams& params, int64_t first, int64_t count,
                  int64_t half, double* scratch, double* diagonal, double* squares,
                  OfLanes<L>& known) {
  using Reg = typename L::Reg;
  constexpr int lanes = L::kLanes;
  const int64_t m = params.c.rows, n = params.columns, side = round_up(m, L::kTile);
  double* const packed = scratch;
  double* const a = packed + kColumnsPacked * side * lanes;
  double* const vectors = a + side * odd_pitch(side) * lanes;
  const auto pack = [&](int64_t column) {
    const int64_t columns = n - column < kColumnsPacked ? n - column : kColumnsPacked;
    pack_lanes<L, T>(params, first, count, column, columns, side, packed);
    return columns * side;
  };
  Reg peak = L::broadcast(0.0), nothing = peak;
  for (int64_t column = 0; column < n; column += kColumnsPacked) {
    const int64_t entries = pack(column);
    for (int64_t e = 0; e < entries; ++e) {
      const Reg entry = L::load(packed + e * lanes);
      peak = L::larger(peak, L::magnitude(entry));
      nothing = L::fma(L::broadcast(0.0), entry, nothing);
    }
  }
  const int64_t offset = half * lanes;
  L::store(known.scale + offset, peak);
  L::store(known.finite + offset, nothing);
  for (int64_t lane = offset; lane < offset + lanes; ++lane) {
    known.exponent[lane] = exponent_of(known.scale[lane]);
    known.scale[lane] = power_of_two(-known.exponent[lane]);
  }
  const Reg scale = L::load(known.scale + offset);
  for (int64_t column = 0; column < n; column += kColumnsPacked) {
    const int64_t entries =
        n > kColumnsPacked ? pack(column) : n * side;  // still there, if they are all
    for (int64_t e = 0; e < entries; ++e) {
      L::store(packed + e * lanes, scale * L::load(packed + e * lanes));
    }
    for (int64_t i = 0; i < side; i += L::kTile) {
      for (int64_t j = 0; j <= i; j += L::kTile) {
        gram_of_lanes<L>(packed + i * lanes, packed + j * lanes, side, entries / side,
                         a + (i * odd_pitch(side) + j) * lanes, odd_pitch(side), column == 0);
      }
    }
  }
  reduce_to_tridiagonal<L>(Alone(), Tridiagonal{m, a, odd_pitch(side), vectors, vectors + m * lanes,
                                                vectors + 2 * m * lanes, diagonal + offset,
                                                squares + offset, 2 * lanes});
}

template <class L, class T>
int64_t squared_singular_values_of(const SquaredSingularValuesParams& params, int64_t begin,
                                   int64_t end, double* scratch) {
  constexpr int64_t lanes = 2 * L::kLanes;
  const int64_t m = params.c.rows,
                tridiagonal = squared_singular_values_scratch(m) - 4 * kMostLanes * m;
  double* const diagonal = scratch + tridiagonal;
  double* const squares = diagonal + m * lanes;
  int64_t not_finite = -1;
  for (int64_t first = begin; first < end; first += lanes) {
    OfLanes<L> known;
    for (int64_t half = 0; half < 2; ++half) {
      const int64_t from = first + half * L::kLanes, left = end - from < 0 ? 0 : end - from;
      reduce_lanes<L, T>(params, from, left < L::kLanes ? left : L::kLanes, half, scratch, diagonal,
                         squares, known);
    }
    tridiagonal_eigenvalues<Twice<L>>(m, diagonal, squares);
    for (int64_t lane = 0; lane < lanes && first + lane < end; ++lane) {
      if (known.finite[lane] != 0.0) {
        not_finite = not_finite < 0 ? first + lane : not_finite;
        continue;
      }
      const double power = power_of_two(known.exponent[lane]);
      double* const out = params.out + (first + lane) * m;
      for (int64_t i = 0; i < m; ++i) out[i] = diagonal[i * lanes + lane] * power * power;
    }
  }
  return not_finite;
}

template <class L>
int64_t squared_singular_values_items(const SquaredSingularValuesParams& params, int64_t begin,
                                      int64_t end, double* scratch) {
  static_assert(L::kLanes <= kMostLanes && kMatricesOfAnItem % (2 * L::kLanes) == 0);
  return params.dtype == Dtype::kFloat64
             ? squared_singular_values_of<L, double>(params, begin, end, scratch)
             : squared_singular_values_of<L, float>(params, begin, end, scratch);
}

}  // namespace
}  // namespace pullback::cpu
