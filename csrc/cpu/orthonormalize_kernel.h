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
  int64_t begin, end;
};

inline Part part_of(const OrthonormalizeParams& params, int64_t item) {
  const int64_t begin = item % params.splits.count * params.splits.columns;
  const int64_t limit = begin + params.splits.columns;
  return {begin, limit < params.columns ? limit : params.columns};
}

// ------------------------------------------------------------------------------------ magnitudes

// Largest magnitude among `count` entries, as bits. Signed integers: that is the comparison which
// every instruction set has.
template <class Bits>
int64_t peak_bits(const char* from, int64_t stride, int64_t count) {
  constexpr Bits magnitude = static_cast<Bits>(~(Bits{1} << (8 * sizeof(Bits) - 1)));
  Bits peak = 0;
  const auto look = [&](int64_t at) {
    Bits bits;
    memcpy(&bits, from + at * static_cast<int64_t>(sizeof bits), sizeof bits);
    bits = static_cast<Bits>(bits & magnitude);
    peak = bits > peak ? bits : peak;
  };
  if (stride == 1) {
    for (int64_t c = 0; c < count; ++c) look(c);
  } else {
    for (int64_t c = 0; c < count; ++c) look(c * stride);
  }
  return peak;
}

inline void peak_items(const OrthonormalizeParams& params, int64_t begin, int64_t end,
                       int64_t* peaks) {
  const Rows& rows = params.block;
  const int64_t bytes = params.dtype == Dtype::kFloat64   ? 8
                        : params.dtype == Dtype::kFloat32 ? 4
                                                          : 2;
  const auto row_peak = bytes == 8   ? peak_bits<int64_t>
                        : bytes == 4 ? peak_bits<int32_t>
                                     : peak_bits<int16_t>;
  for (int64_t item = begin; item < end; ++item) {
    const Part part = part_of(params, item);
    const char* from =
        static_cast<const char*>(rows.data) +
        bytes * (item / params.splits.count * rows.batch_stride + part.begin * rows.column_stride);
    for (int64_t i = 0; i < rows.rows; ++i) {
      peaks[item * rows.rows + i] =
          row_peak(from + bytes * i * rows.row_stride, rows.column_stride, part.end - part.begin);
    }
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

// The block as it is given, each row times a power of two. In two factors: one of them alone may
// be out of range.
template <class T, class Real>
void pack_scaled(const Rows& rows, const int* exponent, int64_t sample, int64_t first,
                 int64_t count, int64_t padded, Real* to) {
  pack<T>(rows, sample, first, count, padded, to);
  for (int64_t i = 0; i < rows.rows; ++i, to += kPitch<Real>) {
    if (exponent[i] == 0) continue;
    const int half = -exponent[i] / 2;
    const Real near = static_cast<Real>(ldexp(1.0, half));
    const Real rest = static_cast<Real>(ldexp(1.0, -exponent[i] - half));
    for (int64_t c = 0; c < count; ++c) to[c] = to[c] * near * rest;
  }
}

template <class Real>
void pack_block(const OrthonormalizeRung& x, int64_t sample, int64_t first, int64_t count,
                int64_t padded, Real* to) {
  const OrthonormalizeParams& params = *x.params;
  const int64_t k = params.block.rows;
  if (x.number > 1) {
    pack<Real>({params.q, k, k * params.columns, params.columns, 1}, sample, first, count, padded,
               to);
    return;
  }
  const int* const exponent = x.exponent + sample * k;
  if constexpr (sizeof(Real) == 8) {
    pack_scaled<double>(params.block, exponent, sample, first, count, padded, to);
  } else if (params.dtype == Dtype::kFloat32) {
    pack_scaled<float>(params.block, exponent, sample, first, count, padded, to);
  } else if (params.dtype == Dtype::kFloat16) {
    pack_scaled<Half>(params.block, exponent, sample, first, count, padded, to);
  } else {
    pack_scaled<BFloat16>(params.block, exponent, sample, first, count, padded, to);
  }
}

// Random rows where rows were given up, then the panel goes to its place in q.
template <class Real>
void finish_panel(const OrthonormalizeRung& x, int64_t sample, int64_t first, int64_t count,
                  Real* panel) {
  const OrthonormalizeParams& params = *x.params;
  const int64_t k = params.block.rows;
  const double norm = 1.0 / sqrt(static_cast<double>(params.columns));
  Real* q = static_cast<Real*>(params.q) + sample * k * params.columns + first;
  for (int64_t i = 0; i < k; ++i, panel += kPitch<Real>, q += params.columns) {
    for (int64_t c = 0; x.fresh[sample * k + i] && c < count; ++c) {
      panel[c] = static_cast<Real>(norm * gaussian(params.seed, i, first + c, x.number));
    }
    memcpy(q, panel, static_cast<size_t>(count) * sizeof(Real));
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
  const int64_t sample = x.samples[item / params.splits.count];
  const Part part = part_of(params, item);
  const Panels<Real> panels = panels_in<Real>(scratch, k, p);
  const bool apply = x.number > 0, multiply = !x.last[sample];
  const Real* const transform = static_cast<const Real*>(x.transform) + sample * k * (k + p);

  for (int64_t column = part.begin; column < part.end; column += kPanel<Real>) {
    const int64_t left = part.end - column;
    const int64_t count = left < kPanel<Real> ? left : kPanel<Real>;
    const int64_t steps = (count + V::kLanes - 1) / V::kLanes, padded = steps * V::kLanes;
    pack_block(x, sample, column, count, padded, panels.block);
    Real* against = panels.against;
    for (const Rows& rows : params.against) {
      pack<Real>(rows, sample, column, count, padded, against);
      against += rows.rows * kPitch<Real>;
    }
    if (apply) {
      product_panel<V>(transform, k, p, panels.block, steps, panels.q);
      finish_panel(x, sample, column, count, panels.q);
    }
    if (multiply) {
      const Real* const rows = apply ? panels.q : panels.block;
      const bool first = column == part.begin;
      gram_panel<V>(rows, k, rows, k, true, steps, panels.g, first);
      gram_panel<V>(rows, k, panels.against, p, false, steps, panels.h, first);
    }
  }
  if (multiply) {
    const int64_t place = sample * params.splits.count + item % params.splits.count;
    write_products<V>(x, panels, k, p, x.products + place * x.layout.entries);
  }
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
