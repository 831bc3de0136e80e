// Who works on one small matrix: a single thread of the host, or all threads of a CUDA block. The
// algorithms in this folder are written once, for a team: they share the work by rank() and size(),
// meet at PULLBACK_SYNC(team), and agree by any(), at which they meet as well.
#pragma once

#include <cstdint>

#include "numerics/half.h"

// Where the team meets. Emulation (tests) numbers these places, to leave out each in turn.
#if !defined(PULLBACK_SYNC)
#define PULLBACK_SYNC(team) (team).sync()
#define PULLBACK_ANY(team, mine) (team).any(mine)
#endif

namespace pullback {

struct OneThread {
  PULLBACK_HD int rank() const { return 0; }
  PULLBACK_HD int size() const { return 1; }
  PULLBACK_HD void sync() const {}
  PULLBACK_HD bool any(bool mine) const { return mine; }
};

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
