// Batched eigen-decomposition of small symmetric matrices on CUDA: the launcher, as host code sees
// it.
#pragma once

#include "common/ritz_params.h"

namespace pullback::cuda {

// Enqueues the kernel on `stream` (a cudaStream_t) and returns nullptr, or what CUDA complained of.
const char* ritz(const RitzParams& params, void* stream);

}  // namespace pullback::cuda
