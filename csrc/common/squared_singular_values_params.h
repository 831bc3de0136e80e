// What the kernels of squared_singular_values are told.
#pragma once

#include "common/block.h"

namespace pullback {

constexpr int64_t kLargestInLanes = 128;  // shorter side on the CPU; larger ones: torch's svdvals
constexpr int64_t kLargestInShared = 64;  // and on CUDA

// Matrices whose rows are their shorter side: transposed, by strides alone, where columns are.
struct SquaredSingularValuesParams {
  Rows c;            // [P, m, n], m <= n
  Dtype dtype;       // float32 or float64
  int64_t matrices;  // P
  int64_t columns;   // n
  double* out;       // [P, m], contiguous, descending
  int device;        // CUDA only
};

}  // namespace pullback
