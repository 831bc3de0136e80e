// Counting in whole numbers. Static, because this is compiled for several instruction sets: no copy
// may serve them all.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace pullback {

// Pieces of `size` that it takes to hold `count`.
PULLBACK_HD static constexpr int64_t ceil_divide(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

// The smallest multiple of `size` that is not below `count`.
PULLBACK_HD static constexpr int64_t round_up(int64_t count, int64_t size) {
  return ceil_divide(count, size) * size;
}

// Entries of a triangle of an n x n matrix, the diagonal included.
PULLBACK_HD static constexpr int64_t triangle(int64_t n) {
  return n * (n + 1) / 2;
}

}  // namespace pullback
