// The two products that the CPU kernels are made of, on packed panels (cpu/panel.h): Gram tiles,
// X Y^T, and product tiles, T X with a small matrix T. Included by the files that are compiled once
// per instruction set, after the vector types. Everything here has internal linkage, and no inline
// function of a library header is called: a copy compiled for AVX-512 must never be the one the
// linker keeps for the others.
//
// An entry is summed in one fixed way whatever the tile, batch or thread it falls to. Of a Gram
// product: lane l of a vector takes the products of columns l, l + lanes, ... of one panel, in runs
// of kRun; the sums of kRuns runs are added in a second vector, the lanes of that to float64 sums,
// and these across panels, lanes and parts of N, all in a fixed order. In float32 a product thus
// takes part in at most kRun + kRuns - 1 roundings, which is what bounds the error of gram.
//
// A vector type V has: Real, Reg, kLanes; zero(), load(p), store(p, x), store_unaligned(p, x),
// broadcast(x), add(x, y), fma(x, y, acc); kSums and flush(acc, sums, first), which adds the lanes
// to kSums float64 sums, or sets them; Gram tiles of kRows x kCols entries and product tiles of
// kProductRows rows x kProductCols vectors. For normalize_tangents: load_unaligned(p), which
// widens, store_unaligned(p, x), which rounds, for every dtype that is computed with in Real;
// subtract(x, y), multiply(x, y), fnma(x, y, acc), which is acc - x y; add_lanes(acc, sums), kLanes
// float64 sums; stream(p, x), as store_unaligned() but aligned and past the caches, and then
// end_of_stream().
#pragma once

#include <cstdint>

#include "cpu/panel.h"

namespace pullback::cpu {
namespace {

constexpr int64_t kRun = 8;   // products in a chain
constexpr int64_t kRuns = 8;  // chains that are added in the working precision

// An M x N tile of a Gram product over one panel.
template <class V, int M, int N>
struct GramTile {
  static void run(const typename V::Real* x, const typename V::Real* y, int64_t steps, double* sums,
                  int64_t sums_row, bool first) {
    constexpr int64_t pitch = kPitch<typename V::Real>;
    for (int64_t s = 0; s < steps; s += kRun * kRuns, first = false) {
      const int64_t end = s + kRun * kRuns < steps ? s + kRun * kRuns : steps;
      typename V::Reg total[M][N];
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) total[i][j] = V::zero();
      }
      for (int64_t from = s; from < end; from += kRun) {
        const int64_t count = end - from < kRun ? end - from : kRun;
        typename V::Reg acc[M][N];
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
          for (int j = 0; j < N; ++j) acc[i][j] = V::zero();
        }
        for (int64_t step = 0; step < count; ++step) {
          typename V::Reg column[N];
#pragma GCC unroll 8
          for (int j = 0; j < N; ++j) column[j] = V::load(y + j * pitch);
#pragma GCC unroll 8
          for (int i = 0; i < M; ++i) {
            const typename V::Reg row = V::load(x + i * pitch);
#pragma GCC unroll 8
            for (int j = 0; j < N; ++j) acc[i][j] = V::fma(row, column[j], acc[i][j]);
          }
          x += V::kLanes;
          y += V::kLanes;
        }
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
          for (int j = 0; j < N; ++j) total[i][j] = V::add(total[i][j], acc[i][j]);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) {
          V::flush(total[i][j], sums + i * sums_row + j * V::kSums, first);
        }
      }
    }
  }
};

// One kernel per tile of m <= M by n <= N entries, so that edges cost what they hold.
template <template <class, int, int> class Tile, class V, int M, int N>
auto pick_tile(int64_t m, int64_t n) {
  if constexpr (M > 1) {
    if (m < M) return pick_tile<Tile, V, M - 1, N>(m, n);
  }
  if constexpr (N > 1) {
    if (n < N) return pick_tile<Tile, V, M, N - 1>(m, n);
  }
  return Tile<V, M, N>::run;
}

// The products of k rows x with p rows y over one panel of steps * kLanes columns, added to `sums`
// [k, p, kSums], or set. Symmetric: of tiles with i <= j anywhere only.
template <class V>
void gram_panel(const typename V::Real* x, int64_t k, const typename V::Real* y, int64_t p,
                bool symmetric, int64_t steps, double* sums, bool first) {
  constexpr int64_t pitch = kPitch<typename V::Real>;
  static_assert(V::kSums <= kMostSums && kPanel<typename V::Real> % V::kLanes == 0);
  static_assert(kRun + kRuns - 1 <= 16);  // roundings of 2^-24: 16 of them are less than 1e-6
  for (int64_t i = 0; i < k; i += V::kRows) {
    const int64_t m = k - i < V::kRows ? k - i : V::kRows;
    for (int64_t j = symmetric ? i : 0; j < p; j += V::kCols) {
      const int64_t n = p - j < V::kCols ? p - j : V::kCols;
      pick_tile<GramTile, V, V::kRows, V::kCols>(m, n)(
          x + i * pitch, y + j * pitch, steps, sums + (i * p + j) * V::kSums, p * V::kSums, first);
    }
  }
}

template <class V>
double sum_of_lanes(const double* lanes) {
  double sum = lanes[0];
  for (int l = 1; l < V::kSums; ++l) sum += lanes[l];
  return sum;
}

// An M x N tile of T [rows, width] times the panel of `width` rows, of which columns (of T) `head`
// .. `tail` are zero and left out. What is behind them comes first and the diagonal of T last: when
// T is close to the identity, every sum but the last is small, and so is its rounding.
template <class V, int M, int N>
struct ProductTile {
  static void run(const typename V::Real* t, int64_t width, int64_t head, int64_t tail,
                  const typename V::Real* x, typename V::Real* out) {
    constexpr int64_t pitch = kPitch<typename V::Real>;
    typename V::Reg acc[M][N];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) acc[i][j] = V::zero();
    }
    const auto add = [&](int64_t l) {
      typename V::Reg column[N];
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) column[j] = V::load(x + l * pitch + j * V::kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
        const typename V::Reg factor = V::broadcast(t[i * width + l]);
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) acc[i][j] = V::fma(factor, column[j], acc[i][j]);
      }
    };
    for (int64_t l = tail; l < width; ++l) add(l);
    for (int64_t l = 0; l < head; ++l) add(l);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) V::store(out + i * pitch + j * V::kLanes, acc[i][j]);
    }
  }
};

// out [k rows] = t [k, k + p] x [k + p rows] over one panel, where the first k columns of t are
// lower triangular. A strip of vectors of all rows is read from the first-level cache by all tiles.
template <class V>
void product_panel(const typename V::Real* t, int64_t k, int64_t p, const typename V::Real* x,
                   int64_t steps, typename V::Real* out) {
  constexpr int64_t pitch = kPitch<typename V::Real>;
  for (int64_t s = 0; s < steps; s += V::kProductCols) {
    const int64_t n = steps - s < V::kProductCols ? steps - s : V::kProductCols;
    for (int64_t i = 0; i < k; i += V::kProductRows) {
      const int64_t m = k - i < V::kProductRows ? k - i : V::kProductRows;
      pick_tile<ProductTile, V, V::kProductRows, V::kProductCols>(m, n)(
          t + i * (k + p), k + p, i + m, k, x + s * V::kLanes, out + i * pitch + s * V::kLanes);
    }
  }
}

}  // namespace
}  // namespace pullback::cpu
