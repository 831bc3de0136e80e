// The gram kernel of every CPU instruction set: included once by each gram_<isa>.cpp, after its
// vector types. cpu/tiles.h says how entries are summed, and why all of this is internal.
#pragma once

#include <cstdint>

#include "common/gram_params.h"
#include "cpu/gram.h"
#include "cpu/tiles.h"
#include "numerics/half.h"

namespace pullback::cpu {
namespace {

template <class V, class T>
void gram_item(const GramParams& params, int64_t item, char* scratch) {
  using Real = typename V::Real;
  const int64_t k = params.a.rows, p = params.b.rows;
  const int64_t sample = item / params.splits.count, part = item % params.splits.count;
  const int64_t begin = part * params.splits.columns;
  const int64_t limit = begin + params.splits.columns;
  const int64_t end = limit < params.columns ? limit : params.columns;

  Real* a = reinterpret_cast<Real*>(scratch);
  Real* b = params.symmetric ? a : a + k * kPitch<Real>;
  double* sums = reinterpret_cast<double*>(scratch + (params.symmetric ? k : k + p) *
                                                         kPitchBytes);  // [k, p, kSums]

  for (int64_t column = begin; column < end; column += kPanel<Real>) {
    const int64_t count = end - column < kPanel<Real> ? end - column : kPanel<Real>;
    const int64_t steps = (count + V::kLanes - 1) / V::kLanes;
    pack<T>(params.a, sample, column, count, steps * V::kLanes, a);
    if (!params.symmetric) pack<T>(params.b, sample, column, count, steps * V::kLanes, b);
    gram_panel<V>(a, k, b, p, params.symmetric, steps, sums, column == begin);
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
    switch (params.dtype) {
      case Dtype::kFloat32:
        gram_item<V32, float>(params, item, scratch);
        break;
      case Dtype::kFloat64:
        gram_item<V64, double>(params, item, scratch);
        break;
      case Dtype::kFloat16:
        gram_item<V32, Half>(params, item, scratch);
        break;
      case Dtype::kBFloat16:
        gram_item<V32, BFloat16>(params, item, scratch);
        break;
    }
  }
}

}  // namespace
}  // namespace pullback::cpu
