// The block work of orthonormalize for every CPU instruction set: included once by each
// orthonormalize_<isa>.cpp. cpu/tiles.h says how entries are summed, and why all of this is
// internal.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "cpu/orthonormalize_pass.h"
#include "cpu/tiles.h"
#include "numerics/entry_type.h"
#include "numerics/random.h"

namespace pullback::cpu {
namespace {

// The part of N that an item is.
struct Part {
  int64_t sample, index;  // index: among all parts of all samples
  ColumnRange columns;
};

inline Part part_of(const OrthonormalizePass& pass, int64_t item) {
  const Splits& splits = pass.params->splits;
  const int64_t sample = pass.samples[item / splits.count], part = item % splits.count;
  return {sample, sample * splits.count + part,
          columns_of_part(splits, part, pass.params->columns)};
}

// ------------------------------------------------------------------------------------- exponents

// A signed integer as wide as T.
template <class T>
using Bits = std::conditional_t<sizeof(T) == 8, int64_t,
                                std::conditional_t<sizeof(T) == 4, int32_t, int16_t>>;

// The exponents of a part's rows. Magnitudes are compared as bits, by which infinity and NaN are
// the largest; as signed ones, since that is the comparison which every instruction set has.
template <class T>
void row_exponents(const Rows& rows, const Part& part, int* exponent) {
  constexpr Bits<T> magnitude = static_cast<Bits<T>>(~(Bits<T>{1} << (8 * sizeof(T) - 1)));
  const T* from = static_cast<const T*>(rows.data) + part.sample * rows.batch_stride +
                  part.columns.begin * rows.column_stride;
  for (int64_t i = 0; i < rows.rows; ++i, from += rows.row_stride) {
    Bits<T> peak = 0;
    const auto include = [&](int64_t at) {
      Bits<T> bits;
      memcpy(&bits, from + at, sizeof bits);
      bits = static_cast<Bits<T>>(bits & magnitude);
      peak = bits > peak ? bits : peak;
    };
    const int64_t count = part.columns.end - part.columns.begin;
    if (rows.column_stride == 1) {
      for (int64_t c = 0; c < count; ++c) include(c);
    } else {
      for (int64_t c = 0; c < count; ++c) include(c * rows.column_stride);
    }
    T largest;
    memcpy(&largest, &peak, sizeof peak);
    const double size = widen(largest);
    exponent[i] = peak == 0 ? kZeroRow : size < HUGE_VAL ? ilogb(size) : kNotFinite;
  }
}

// ------------------------------------------------------------------------------------ one pass

// Where the panels of an item lie in its scratch.
template <class Real>
struct Panels {
  Real* block;    // k rows
  Real* against;  // p rows, right after those of the block: together what a transform applies to
  Real* q;        // k rows
  double* wide;   // k + p rows in float64, where the others are float32
  double* g;      // [k, k, kSums]
  double* h;      // [k, p, kSums]
};

template <class Real>
Panels<Real> panels_in(char* scratch, int64_t k, int64_t p) {
  Real* const block = reinterpret_cast<Real*>(scratch);
  double* const wide = reinterpret_cast<double*>(scratch + (2 * k + p) * kPitchBytes);
  double* const g = wide + (k + p) * kPitch<double>;
  return {block, block + k * kPitch<Real>, block + (k + p) * kPitch<Real>, wide,
          g,     g + k * k * kMostSums};
}

// Some columns of a part.
struct Window {
  int64_t sample, first, count, padded;
};

// The block as it is given, each row times a power of two: by two of them, as one alone may be out
// of range.
template <class T, class Real>
void pack_scaled(const Rows& rows, const Window& w, const int* exponent, Real* to) {
  pack<T>(rows, w.sample, w.first, w.count, w.padded, to);
  for (int64_t i = 0; i < rows.rows; ++i, to += kPitch<Real>) {
    if (exponent[i] == 0 || exponent[i] == kZeroRow || exponent[i] == kNotFinite) continue;
    const int half = -exponent[i] / 2;
    const Real first = static_cast<Real>(ldexp(1.0, half));
    const Real second = static_cast<Real>(ldexp(1.0, -exponent[i] - half));
    for (int64_t c = 0; c < w.count; ++c) to[c] = to[c] * first * second;
  }
}

template <class Real>
void pack_block(const OrthonormalizeParams& params, const Window& w, const int* exponent,
                Real* to) {
  with_entry_type(params.dtype, [&](auto entry) {
    using T = decltype(entry);
    if constexpr (sizeof(Working<T>) == sizeof(Real)) {
      pack_scaled<T>(params.block, w, exponent, to);
    }
  });
}

// Random rows where rows were given up, then the panel goes to its place in q.
template <class V>
void write_panel(const OrthonormalizePass& pass, const Window& w, typename V::Real* panel) {
  using Real = typename V::Real;
  const OrthonormalizeParams& params = *pass.params;
  const int64_t k = params.block.rows;
  const double norm = 1.0 / sqrt(static_cast<double>(params.columns));
  const bool* const given_up = pass.given_up + w.sample * k;
  Real* q = static_cast<Real*>(params.q) + w.sample * k * params.columns + w.first;
  for (int64_t i = 0; i < k; ++i, panel += kPitch<Real>, q += params.columns) {
    for (int64_t c = 0; given_up[i] && c < w.count; ++c) {
      panel[c] = static_cast<Real>(norm * gaussian(params.seed, i, w.first + c, pass.number));
    }
    int64_t c = 0;
    for (; c + V::kLanes <= w.count; c += V::kLanes) V::store_unaligned(q + c, V::load(panel + c));
    for (; c < w.count; ++c) q[c] = panel[c];
  }
}

template <class V, class Real>
void write_products(const OrthonormalizePass& pass, const Panels<Real>& panels, int64_t k,
                    int64_t p, double* to) {
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      to[i * pass.layout.pitch + j] = sum_of_lanes<V>(panels.g + (j * k + i) * V::kSums);
    }
  }
  to += pass.layout.h;
  for (int64_t e = 0; e < k * p; ++e) to[e] = sum_of_lanes<V>(panels.h + e * V::kSums);
}

// Rows of a panel in float64: where they are, or in `to`. No bound on an entry of S that is made of
// float32 products keeps the norm of hundreds of rows' errors below what is promised.
inline const double* widened(const double* from, int64_t, int64_t, double*) {
  return from;
}
inline const double* widened(const float* from, int64_t rows, int64_t columns, double* to) {
  for (int64_t r = 0; r < rows; ++r) {
    widen_row(from + r * kPitch<float>, 1, columns, to + r * kPitch<double>);
  }
  return to;
}

// One read of the block and of the rows that it is made orthogonal to, and one write of q. V are
// the vectors of q, and Wide those of float64, in which the products are taken.
template <class V, class Wide>
void pass_item(const OrthonormalizePass& pass, int64_t item, char* scratch) {
  using Real = typename V::Real;
  const OrthonormalizeParams& params = *pass.params;
  const int64_t k = params.block.rows, p = against_rows(params);
  const Part part = part_of(pass, item);
  const Panels<Real> panels = panels_in<Real>(scratch, k, p);
  const bool apply = pass.number > 0, multiply = !pass.last[part.sample];
  const Rows written{params.q, k, k * params.columns, params.columns, 1};
  const Real* const transform =
      static_cast<const Real*>(pass.transform) + part.sample * k * (k + p);
  const int* exponent = pass.exponent + part.sample * k;
  if (!apply) {
    int* const of_part = pass.part_exponent + part.index * k;
    with_entry_type(params.dtype, [&](auto entry) {
      row_exponents<decltype(entry)>(params.block, part, of_part);
    });
    exponent = of_part;
  }

  constexpr int64_t panel = kPanel<double>;
  for (int64_t column = part.columns.begin; column < part.columns.end; column += panel) {
    const int64_t left = part.columns.end - column;
    const int64_t count = left < panel ? left : panel;
    const int64_t steps = ceil_divide(count, V::kLanes);
    const Window w{part.sample, column, count, steps * V::kLanes};
    if (pass.number > 1) {
      pack<Real>(written, w.sample, w.first, w.count, w.padded, panels.block);
    } else {
      pack_block(params, w, exponent, panels.block);
    }
    Real* against = panels.against;
    for (const Rows& rows : params.against) {
      pack<Real>(rows, w.sample, w.first, w.count, w.padded, against);
      against += rows.rows * kPitch<Real>;
    }
    if (apply) {
      product_panel<V>(transform, k, p, panels.block, steps, panels.q);
      write_panel<V>(pass, w, panels.q);
    }
    if (multiply) {
      const double* const rows = widened(apply ? panels.q : panels.block, k, w.padded, panels.wide);
      const double* const others =
          widened(panels.against, p, w.padded, panels.wide + k * kPitch<double>);
      const bool first = column == part.columns.begin;
      const int64_t wide_steps = ceil_divide(count, Wide::kLanes);
      gram_panel<Wide>(rows, k, rows, k, true, wide_steps, panels.g, first);
      gram_panel<Wide>(rows, k, others, p, false, wide_steps, panels.h, first);
    }
  }
  if (multiply)
    write_products<Wide>(pass, panels, k, p, pass.products + part.index * pass.layout.entries);
}

template <class V32, class V64>
void pass_items(const OrthonormalizePass& pass, int64_t begin, int64_t end, char* scratch) {
  for (int64_t item = begin; item < end; ++item) {
    if (pass.params->working_dtype == Dtype::kFloat64) {
      pass_item<V64, V64>(pass, item, scratch);
    } else {
      pass_item<V32, V64>(pass, item, scratch);
    }
  }
}

}  // namespace
}  // namespace pullback::cpu
