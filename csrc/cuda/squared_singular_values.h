// Squared singular values of many small matrices on CUDA: the launcher, as host code sees it.
#pragma once

#include "common/squared_singular_values_params.h"

namespace pullback::cuda {

// Enqueues the kernel on `stream` (a cudaStream_t) and returns nullptr, or what CUDA complained of.
// m <= kLargestInShared.
const char* squared_singular_values(const SquaredSingularValuesParams& params, void* stream);

}  // namespace pullback::cuda
