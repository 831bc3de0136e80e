// What the attention kernels are made of: products with a small matrix that lies in scratch memory,
// copies into such matrices and out of them, and the exponential. cpu/tiles.h says why all of this
// is internal.
//
// A lane is a query (of the cotangents of keys: a key), so that sums over keys need nothing of
// another lane, and that k, v and their tangents are read as they lie in memory.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/attention.h"
#include "numerics/entry_type.h"

namespace pullback::cpu {
namespace {

// A matrix in scratch memory: `lanes` numbers in a row, a whole number of vectors.
template <class Real>
struct Panel {
  Real* data;
  int64_t lanes;

  Real* row(int64_t i) const { return data + i * lanes; }
};

// A matrix in memory, by strides.
template <class Real>
struct Factor {
  const Real* data;
  int64_t row;
  int64_t column;

  Factor transposed() const { return {data, column, row}; }
};

constexpr int64_t kChain = 128;  // products that are added before their sum is
constexpr int64_t kMostVectorBytes = 64;

// M rows of N vectors: c = a b, or c + a b.
template <class V, int M, int N>
void product_tile(const Factor<typename V::Real>& a, const typename V::Real* b, int64_t steps,
                  typename V::Real* c, int64_t lanes, bool add) {
  typename V::Reg acc[M][N];
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) acc[i][j] = V::zero();
  }
  const typename V::Real* third[(M + 2) / 3];  // every third row: the others are near it
#pragma GCC unroll 4
  for (int g = 0; g < (M + 2) / 3; ++g) third[g] = a.data + 3 * g * a.row;
  const int64_t row = a.row;
  for (int64_t step = 0; step < steps; ++step, b += lanes) {
    typename V::Reg right[N];
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) right[j] = V::load(b + j * V::kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const typename V::Reg left = V::broadcast(third[i / 3][i % 3 * row]);
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) acc[i][j] = V::fma(left, right[j], acc[i][j]);
    }
#pragma GCC unroll 4
    for (int g = 0; g < (M + 2) / 3; ++g) third[g] += a.column;
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
      typename V::Real* const to = c + i * lanes + j * V::kLanes;
      V::store(to, add ? V::add(V::load(to), acc[i][j]) : acc[i][j]);
    }
  }
}

// Up to M rows.
template <class V, int M, int N>
void product_rows(int64_t rows, const Factor<typename V::Real>& a, const typename V::Real* b,
                  int64_t steps, typename V::Real* c, int64_t lanes, bool add) {
  if (rows == M) {
    product_tile<V, M, N>(a, b, steps, c, lanes, add);
  } else if constexpr (M > 1) {
    product_rows<V, M - 1, N>(rows, a, b, steps, c, lanes, add);
  }
}

// All rows, in tiles of nearly equal size. Few columns have more rows, as many sums as fill the
// registers; beyond 12 nothing is gained.
template <class V, int N>
void product_columns(int64_t rows, const Factor<typename V::Real>& a, const typename V::Real* b,
                     int64_t steps, typename V::Real* c, int64_t lanes, bool add) {
  constexpr int kFill = V::kProductRows * V::kProductCols / N, kMost = kFill < 12 ? kFill : 12;
  for (int64_t i = 0, left = ceil_divide(rows, kMost); left > 0; --left) {
    const int64_t count = ceil_divide(rows - i, left);
    product_rows<V, kMost, N>(count, {a.data + i * a.row, a.row, a.column}, b, steps, c + i * lanes,
                              lanes, add);
    i += count;
  }
}

// c = a b, or c + a b; a is [rows, steps], b [steps, lanes], c [rows, lanes]. An entry's products
// are added in order, in chains of kChain.
template <class V>
void product(int64_t rows, int64_t steps, const Factor<typename V::Real>& a,
             const Panel<typename V::Real>& b, const Panel<typename V::Real>& c, bool add) {
  const auto columns = [&](auto vectors, int64_t lane, int64_t step, int64_t count, bool sum) {
    constexpr int N = decltype(vectors)::value;
    product_columns<V, N>(rows, {a.data + step * a.column, a.row, a.column}, b.row(step) + lane,
                          count, c.data + lane, c.lanes, sum);
  };
  int64_t step = 0;
  do {
    const int64_t count = steps - step < kChain ? steps - step : kChain;
    const bool sum = add || step > 0;
    int64_t lane = 0;
    for (; lane + V::kProductCols * V::kLanes <= c.lanes; lane += V::kProductCols * V::kLanes) {
      columns(std::integral_constant<int, V::kProductCols>(), lane, step, count, sum);
    }
    const int64_t left = (c.lanes - lane) / V::kLanes;
    if constexpr (V::kProductCols > 3) {
      if (left == 3) columns(std::integral_constant<int, 3>(), lane, step, count, sum);
      if (left == 2) columns(std::integral_constant<int, 2>(), lane, step, count, sum);
    }
    if (left == 1) columns(std::integral_constant<int, 1>(), lane, step, count, sum);
    step += count;
  } while (step < steps);
}

// -------------------------------------------------------------------------------------- copies

// The rows of a tile as numbers of Real: in place where they are such, else in `to`.
template <class V, class T>
Factor<typename V::Real> widened(const T* from, int64_t stride, int64_t rows, int64_t width,
                                 typename V::Real* to) {
  if constexpr (std::is_same_v<T, typename V::Real>) {
    return {from, stride, 1};
  } else {
    for (int64_t i = 0; i < rows; ++i) {
      int64_t c = 0;
      for (; c + V::kLanes <= width; c += V::kLanes) {
        V::store_unaligned(to + i * width + c, V::load_unaligned(from + i * stride + c));
      }
      for (; c < width; ++c) to[i * width + c] = widen(from[i * stride + c]);
    }
    return {to, width, 1};
  }
}

// Columns that a transpose takes at once: a vector of 16-bit entries.
template <class V, class T>
constexpr int64_t kTaken = std::is_same_v<T, typename V::Real> ? V::kTransposed : V::kLanes;

// The rows as lanes, times `factor`; lanes without a row are 0.
template <class V, class T>
void load_transposed(const T* from, int64_t stride, int64_t rows, int64_t width,
                     typename V::Real factor, const Panel<typename V::Real>& to) {
  using Real = typename V::Real;
  constexpr int64_t side = V::kTransposed, taken = kTaken<V, T>;
  int64_t r = 0;
  for (; r + side <= rows; r += side) {
    int64_t c = 0;
    for (; c + taken <= width; c += taken) {
      if constexpr (std::is_same_v<T, Real>) {
        V::transpose(from + r * stride + c, stride, to.row(c) + r, to.lanes);
      } else {
        alignas(kMostVectorBytes) Real wide[side * taken];
        for (int64_t i = 0; i < side; ++i) {
          V::store(wide + i * taken, V::load_unaligned(from + (r + i) * stride + c));
        }
        for (int64_t part = 0; part < taken; part += side) {
          V::transpose(wide + part, taken, to.row(c + part) + r, to.lanes);
        }
      }
    }
    for (; c < width; ++c) {
      for (int64_t i = 0; i < side; ++i) to.row(c)[r + i] = widen(from[(r + i) * stride + c]);
    }
  }
  for (int64_t c = 0; c < width; ++c) {
    for (int64_t i = r; i < to.lanes; ++i) {
      to.row(c)[i] = i < rows ? static_cast<Real>(widen(from[i * stride + c])) : Real(0);
    }
  }
  if (factor == 1) return;
  const typename V::Reg times = V::broadcast(factor);
  for (int64_t e = 0; e < width * to.lanes; e += V::kLanes) {
    V::store(to.data + e, V::multiply(times, V::load(to.data + e)));
  }
}

// The lanes as rows.
template <class V, class T>
void store_transposed(const Panel<typename V::Real>& from, int64_t rows, int64_t width, T* to) {
  using Real = typename V::Real;
  constexpr int64_t side = V::kTransposed, taken = kTaken<V, T>;
  int64_t r = 0;
  for (; r + side <= rows; r += side) {
    int64_t c = 0;
    for (; c + taken <= width; c += taken) {
      if constexpr (std::is_same_v<T, Real>) {
        V::transpose(from.row(c) + r, from.lanes, to + r * width + c, width);
      } else {
        alignas(kMostVectorBytes) Real wide[side * taken];
        for (int64_t part = 0; part < taken; part += side) {
          V::transpose(from.row(c + part) + r, from.lanes, wide + part, taken);
        }
        for (int64_t i = 0; i < side; ++i) {
          V::store_unaligned(to + (r + i) * width + c, V::load(wide + i * taken));
        }
      }
    }
    for (; c < width; ++c) {
      for (int64_t i = 0; i < side; ++i) narrow(from.row(c)[r + i], to + (r + i) * width + c);
    }
  }
  for (; r < rows; ++r) {
    for (int64_t c = 0; c < width; ++c) narrow(from.row(c)[r], to + r * width + c);
  }
}

// ------------------------------------------------------------------------------- the exponential

template <class Real>
struct Exponential;
template <>
struct Exponential<float> {
  static constexpr int kDegree = 7;  // of a Taylor series, which at log(2) / 2 is off by 5e-9
  static constexpr float kLeast = -87.3f, kMost = 88.8f;  // results are normal numbers, or infinity
  static constexpr float kRound = 12582912.0f;            // 1.5 2^23: no fraction is left beside it
  static constexpr float kHigh = 0.693359375f, kLow = -2.12194440e-4f;  // their sum is log(2)
};
template <>
struct Exponential<double> {
  static constexpr int kDegree = 13;
  static constexpr double kLeast = -708.3, kMost = 709.8;
  static constexpr double kRound = 6755399441055744.0;
  static constexpr double kHigh = 6.93145751953125e-1, kLow = 1.42860682030941723212e-6;
};

// exp(x) to 2 units in the last place; 0 where it would be subnormal; NaN for NaN.
template <class V>
typename V::Reg exponential(typename V::Reg x) {
  using Real = typename V::Real;
  using E = Exponential<Real>;
  const typename V::Reg below = V::smaller(V::broadcast(E::kMost), x);
  const typename V::Reg round = V::broadcast(E::kRound);
  const typename V::Reg power = V::subtract(
      V::fma(below, V::broadcast(static_cast<Real>(1.44269504088896340736)), round), round);
  const typename V::Reg rest =
      V::fnma(power, V::broadcast(E::kLow), V::fnma(power, V::broadcast(E::kHigh), below));
  static constexpr auto kSeries = [] {
    struct {
      Real of[E::kDegree + 1];
    } series{};
    double factorial = 1;
    for (int i = 0; i <= E::kDegree; ++i) {
      factorial *= i > 0 ? i : 1;
      series.of[i] = static_cast<Real>(1 / factorial);
    }
    return series;
  }();
  typename V::Reg sum = V::broadcast(kSeries.of[E::kDegree]);
#pragma GCC unroll 16
  for (int i = E::kDegree - 1; i >= 0; --i) sum = V::fma(sum, rest, V::broadcast(kSeries.of[i]));
  return V::unless_below(x, V::broadcast(E::kLeast), V::times_power_of_two(sum, power));
}

}  // namespace
}  // namespace pullback::cpu
