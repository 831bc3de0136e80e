// What all kernels of attention share: rows of a head, logits and weights.
#pragma once

#include <math.h>

#include "common/attention_params.h"
#include "cuda/launch.h"
#include "numerics/half.h"

namespace pullback::cuda {

// Rows of a head, from a first one on.
template <class T>
struct HeadTile {
  const T* data;
  int64_t stride;
  int rows;  // those beyond are zeros

  __device__ HeadTile(const HeadRows& x, int64_t tangent, int64_t sample, int64_t head, int first,
                      int count)
      : data(static_cast<const T*>(x.data) + tangent * x.strides[0] + sample * x.strides[1] +
             head * x.strides[2] + first * x.strides[3]),
        stride(x.strides[3]),
        rows(count) {}
};

template <class Real>
__device__ Real infinity() {
  return static_cast<Real>(HUGE_VAL);
}

// Never in one with what is added or subtracted next: weights are the same digit by digit wherever
// they are computed.
__device__ inline float rounded_product(float x, float y) {
  return __fmul_rn(x, y);
}
__device__ inline double rounded_product(double x, double y) {
  return __dmul_rn(x, y);
}

__device__ inline float exponential(float x) {
  return expf(x);
}
__device__ inline double exponential(double x) {
  return exp(x);
}

// The logarithm of a row's sum. What Real has no digits for beside a large one is taken off by
// itself.
template <class Real>
struct LogSum {
  Real large, rest;

  __device__ explicit LogSum(double lse)
      : large(static_cast<Real>(lse)), rest(static_cast<Real>(lse - large)) {}

  // The weight of a logit; of a row of -inf alone 0.
  __device__ Real weight(Real logit) const {
    if (large == -infinity<Real>()) return Real(0);
    return exponential((logit - large) - rest);
  }
};

// The logit of a query and a key from their product; -inf where the key is not seen.
template <class T, class Real>
__device__ Real logit(const AttentionParams& params, Real product, int64_t sample, int64_t head,
                      int query, int key) {
  if (query >= params.queries || key >= params.keys || (params.causal && key > query)) {
    return -infinity<Real>();
  }
  Real x = rounded_product(product, static_cast<Real>(params.scale));
  if (params.bias != nullptr) {
    const int64_t* const strides = params.bias_strides;
    x += widen(static_cast<const T*>(params.bias)[sample * strides[0] + head * strides[1] +
                                                  query * strides[2] + key * strides[3]]);
  }
  return x;
}

}  // namespace pullback::cuda
