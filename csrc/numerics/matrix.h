// Small float64 matrices, by rows.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace pullback {

// How far apart the rows of a matrix of n columns lie: an odd number, so that neighbours in a
// column lie in different banks of shared memory.
PULLBACK_HD static constexpr int64_t odd_pitch(int64_t n) {
  return n | 1;
}

// Sum of x_i y_i in four partial sums: an order that the compiler keeps and that both backends
// share.
PULLBACK_HD static inline double dot(const double* x, const double* y, int64_t count) {
  double sum[4] = {0, 0, 0, 0};
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    for (int u = 0; u < 4; ++u) sum[u] += x[i + u] * y[i + u];
  }
  for (int u = 0; u < 3; ++u) {  // sum stays in registers: its indices are known
    if (i + u < count) sum[u] += x[i + u] * y[i + u];
  }
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

}  // namespace pullback
