// Batched Gram products on CUDA: the launcher, as host code sees it.
#pragma once

#include "common/gram_params.h"

namespace pullback::cuda {

// How many parts N may be cut into, from k and p only.
int64_t gram_most_splits(int64_t k, int64_t p, bool symmetric);

// Enqueues the kernels on `stream` (a cudaStream_t) and returns nullptr, or what CUDA complained
// of. params.partial holds [B, splits, k, p] float64 values on the device.
const char* gram(const GramParams& params, void* stream);

}  // namespace pullback::cuda
