// csrc/common/parallel.h without torch: everything on the calling thread.
#pragma once

#include <cstdint>

namespace torch::stable {
inline int64_t get_num_threads() {
  return 1;
}
}  // namespace torch::stable

namespace pullback {

template <class Body>
void parallel_for(int64_t items, int64_t, const Body& body) {
  if (items > 0) body(int64_t{0}, items);
}

}  // namespace pullback
