// The block work of orthonormalize for every CPU instruction set: included once by each
// orthonormalize_<isa>.cpp. cpu/tiles.h says how entries are summed, and why all of this is
// internal.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "cpu/orthonormalize_items.h"
#include "cpu/tiles.h"
#include "numerics/half.h"
#include "numerics/random.h"

namespace pullback::cpu {
namespace {

// The part of N that an item is.
struct Part {
  int64_t sample, place;  // place: among all parts of all samples
  int64_t begin, end;
};

inline Part part_of(const OrthonormalizeRung& x, int64_t item) {
  const OrthonormalizeParams& params = *x.params;
  const int64_t sample = x.samples[item / params.splits.count], part = item % params.splits.count;
  const int64_t begin = part * params.splits.columns, limit = begin + params.splits.columns;
  return {sample, sample * params.splits.count + part, begin,
          limit < params.columns ? limit : params.columns};
}

// ------------------------------------------------------------------------------------- exponents

// The exponents of a part's rows. Magnitudes are compared as bits, by which infinity and NaN are
// the largest; as signed ones, since that is the comparison which every instruction set has.
template <class T, class Bits>
void measure(const Rows& rows, const Part& part, int* exponent) {
  constexpr Bits magnitude = static_cast<Bits>(~(Bits{1} << (8 * sizeof(Bits) - 1)));
  const T* from = static_cast<const T*>(rows.data) + part.sample * rows.batch_stride +
                  part.begin * rows.column_stride;
  for (int64_t i = 0; i < rows.rows; ++i, from += rows.row_stride) {
    Bits peak = 0;
    const auto look = [&](int64_t at) {
      Bits bits;
      memcpy(&bits, from + at, sizeof bits);
      bits = static_cast<Bits>(bits & magnitude);
      peak = bits > peak ? bits : peak;
    };
    const int64_t count = part.end - part.begin;
    if (rows.column_stride == 1) {
      for (int64_t c = 0; c < count; ++c) look(c);
    } else {
      for (int64_t c = 0; c < count; ++c) look(c * rows.column_stride);
    }
    T largest;
    memcpy(&largest, &peak, sizeof peak);
    const double size = widen(largest);
    exponent[i] = peak == 0 ? kZeroRow : size < HUGE_VAL ? ilogb(size) : kNotFinite;
  }
}

inline void measure(const OrthonormalizeParams& params, const Part& part, int* exponent) {
  switch (params.dtype) {
    case Dtype::kFloat32:
      measure<float, int32_t>(params.block, part, exponent);
      break;
    case Dtype::kFloat64:
      measure<double, int64_t>(params.block, part, exponent);
      break;
    case Dtype::kFloat16:
      measure<Half, int16_t>(params.block, part, exponent);
      break;
    case Dtype::kBFloat16:
      measure<BFloat16, int16_t>(params.block, part, exponent);
      break;
  }
}

// ------------------------------------------------------------------------------------ one rung

// Where the panels of a worker lie in its scratch.
template <class Real>
struct Panels {
  Real* block;    // k rows
  Real* against;  // p rows, right after those of the block: together what a transform applies to
  Real* q;        // k rows
  double* g;      // [k, k, kSums]
  double* h;      // [k, p, kSums]
};

template <class Real>
Panels<Real> panels_in(char* scratch, int64_t k, int64_t p) {
  Real* const block = reinterpret_cast<Real*>(scratch);
  double* const g = reinterpret_cast<double*>(scratch + (2 * k + p) * kPitchBytes);
  return {block, block + k * kPitch<Real>, block + (k + p) * kPitch<Real>, g,
          g + k * k * kMostSums};
}

// Some columns of a part.
struct Window {
  int64_t sample, first, count, padded;
};

// The block as it is given, each row times a power of two. In two factors: one of them alone may
// be out of range.
template <class T, class Real>
void pack_scaled(const Rows& rows, const Window& w, const int* exponent, Real* to) {
  pack<T>(rows, w.sample, w.first, w.count, w.padded, to);
  for (int64_t i = 0; i < rows.rows; ++i, to += kPitch<Real>) {
    if (exponent[i] == 0 || exponent[i] == kZeroRow || exponent[i] == kNotFinite) continue;
    const int half = -exponent[i] / 2;
    const Real near = static_cast<Real>(ldexp(1.0, half));
    const Real rest = static_cast<Real>(ldexp(1.0, -exponent[i] - half));
    for (int64_t c = 0; c < w.count; ++c) to[c] = to[c] * near * rest;
  }
}

template <class Real>
void pack_block(const OrthonormalizeParams& params, const Window& w, const int* exponent,
                Real* to) {
  if constexpr (sizeof(Real) == 8) {
    pack_scaled<double>(params.block, w, exponent, to);
  } else if (params.dtype == Dtype::kFloat32) {
    pack_scaled<float>(params.block, w, exponent, to);
  } else if (params.dtype == Dtype::kFloat16) {
    pack_scaled<Half>(params.block, w, exponent, to);
  } else {
    pack_scaled<BFloat16>(params.block, w, exponent, to);
  }
}

// Random rows where rows were given up, then the panel goes to its place in q.
template <class V>
void finish_panel(const OrthonormalizeRung& x, const Window& w, typename V::Real* panel) {
  using Real = typename V::Real;
  const OrthonormalizeParams& params = *x.params;
  const int64_t k = params.block.rows;
  const double norm = 1.0 / sqrt(static_cast<double>(params.columns));
  const bool* const fresh = x.fresh + w.sample * k;
  Real* q = static_cast<Real*>(params.q) + w.sample * k * params.columns + w.first;
  for (int64_t i = 0; i < k; ++i, panel += kPitch<Real>, q += params.columns) {
    for (int64_t c = 0; fresh[i] && c < w.count; ++c) {
      panel[c] = static_cast<Real>(norm * gaussian(params.seed, i, w.first + c, x.number));
    }
    int64_t c = 0;
    for (; c + V::kLanes <= w.count; c += V::kLanes) V::store_unaligned(q + c, V::load(panel + c));
    for (; c < w.count; ++c) q[c] = panel[c];
  }
}

template <class V>
void write_products(const OrthonormalizeRung& x, const Panels<typename V::Real>& panels, int64_t k,
                    int64_t p, double* to) {
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      to[i * x.layout.pitch + j] = sum_of_lanes<V>(panels.g + (j * k + i) * V::kSums);
    }
  }
  to += x.layout.h;
  for (int64_t e = 0; e < k * p; ++e) to[e] = sum_of_lanes<V>(panels.h + e * V::kSums);
}

// One read of the block and of the rows that it is made orthogonal to, and one write of q.
template <class V>
void rung_item(const OrthonormalizeRung& x, int64_t item, char* scratch) {
  using Real = typename V::Real;
  const OrthonormalizeParams& params = *x.params;
  const int64_t k = params.block.rows, p = params.against[0].rows + params.against[1].rows;
  const Part part = part_of(x, item);
  const Panels<Real> panels = panels_in<Real>(scratch, k, p);
  const bool apply = x.number > 0, multiply = !x.last[part.sample];
  const Rows written{params.q, k, k * params.columns, params.columns, 1};
  const Real* const transform = static_cast<const Real*>(x.transform) + part.sample * k * (k + p);
  const int* exponent = x.exponent + part.sample * k;
  if (!apply) {
    int* const own = x.part_exponent + part.place * k;
    measure(params, part, own);
    exponent = own;
  }

  for (int64_t column = part.begin; column < part.end; column += kPanel<Real>) {
    const int64_t left = part.end - column;
    const int64_t count = left < kPanel<Real> ? left : kPanel<Real>;
    const int64_t steps = (count + V::kLanes - 1) / V::kLanes;
    const Window w{part.sample, column, count, steps * V::kLanes};
    if (x.number > 1) {
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
      finish_panel<V>(x, w, panels.q);
    }
    if (multiply) {
      const Real* const rows = apply ? panels.q : panels.block;
      const bool first = column == part.begin;
      gram_panel<V>(rows, k, rows, k, true, steps, panels.g, first);
      gram_panel<V>(rows, k, panels.against, p, false, steps, panels.h, first);
    }
  }
  if (multiply) write_products<V>(x, panels, k, p, x.products + part.place * x.layout.entries);
}

template <class V32, class V64>
void rung_items(const OrthonormalizeRung& x, int64_t begin, int64_t end, char* scratch) {
  for (int64_t item = begin; item < end; ++item) {
    if (x.params->work == Dtype::kFloat64) {
      rung_item<V64>(x, item, scratch);
    } else {
      rung_item<V32>(x, item, scratch);
    }
  }
}

}  // namespace
}  // namespace pullback::cpu
