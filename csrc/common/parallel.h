// Threads: torch's own pool, so that torch.set_num_threads holds.
#pragma once

#include <algorithm>
#include <cstdint>

#include <torch/csrc/stable/ops.h>

namespace pullback {

// body(begin, end) over [0, items); `cost` is that of an item in multiply-adds. A call smaller
// than a thread's wake-up (a quarter of a million or so) stays on the calling thread.
template <class Body>
void parallel_for(int64_t items, int64_t cost, const Body& body) {
  constexpr int64_t kThreadWakeUp = 1 << 18;
  const int64_t grain = std::max<int64_t>(1, kThreadWakeUp / std::max<int64_t>(1, cost));
  torch::stable::parallel_for(0, items, grain, body);
}

}  // namespace pullback
