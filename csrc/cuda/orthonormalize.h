// Orthonormal blocks on CUDA: the launcher, as host code sees it.
#pragma once

#include <cstddef>

#include "common/orthonormalize_params.h"

namespace pullback::cuda {

// How many parts N may be cut into, from the numbers of rows only.
int64_t orthonormalize_most_splits(int64_t k, int64_t p);

// Bytes of device memory that params.workspace must hold; params.splits is set.
size_t orthonormalize_workspace(const OrthonormalizeParams& params);

// Enqueues the kernels on `stream` (a cudaStream_t) and returns nullptr, or what CUDA complained
// of. Never waits for the device: can be captured into a CUDA graph. A row that is not finite is
// treated as a zero row, is flagged in `replaced`, and makes its sample's `passes` negative.
const char* orthonormalize(const OrthonormalizeParams& params, void* stream);

}  // namespace pullback::cuda
