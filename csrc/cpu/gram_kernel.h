// The gram kernel of every CPU instruction set: included once by each gram_<isa>.cpp, after its
// vector types. cpu/tiles.h says how entries are summed, and why all of this is internal.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/gram_params.h"
#include "cpu/gram.h"
#include "cpu/tiles.h"
#include "numerics/entry_type.h"

namespace pullback::cpu {
namespace {

template <class V, class T>
void gram_item(const GramParams& params, int64_t item, char* scratch) {
  using Real = typename V::Real;
  const int64_t k = params.a.rows, p = params.b.rows;
  const int64_t sample = item / params.splits.count, part = item % params.splits.count;
  const ColumnRange columns = columns_of_part(params.splits, part, params.columns);

  Real* a = reinterpret_cast<Real*>(scratch);
  Real* b = params.symmetric ? a : a + k * kPitch<Real>;
  double* sums = reinterpret_cast<double*>(scratch + (params.symmetric ? k : k + p) *
                                                         kPitchBytes);  // [k, p, kSums]

  for (int64_t column = columns.begin; column < columns.end; column += kPanel<Real>) {
    const int64_t left = columns.end - column;
    const int64_t count = left < kPanel<Real> ? left : kPanel<Real>;
    const int64_t steps = ceil_divide(count, V::kLanes);
    pack<T>(params.a, sample, column, count, steps * V::kLanes, a);
    if (!params.symmetric) pack<T>(params.b, sample, column, count, steps * V::kLanes, b);
    gram_panel<V>(a, k, b, p, params.symmetric, steps, sums, column == columns.begin);
  }

  double* out =
      params.splits.count == 1 ? params.out + sample * k * p : params.partial + item * k * p;
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = params.symmetric ? i : 0; j < p; ++j) {
      const double sum = sum_of_lanes<V>(sums + (i * p + j) * V::kSums);
      out[i * p + j] = sum;
      if (params.symmetric) out[j * p + i] = sum;
    }
  }
}

template <class V32, class V64>
void gram_items(const GramParams& params, int64_t begin, int64_t end, char* scratch) {
  for (int64_t item = begin; item < end; ++item) {
    with_entry_type(params.dtype, [&](auto entry) {
      using T = decltype(entry);
      using V = std::conditional_t<sizeof(Working<T>) == 8, V64, V32>;
      gram_item<V, T>(params, item, scratch);
    });
  }
}

}  // namespace
}  // namespace pullback::cpu
