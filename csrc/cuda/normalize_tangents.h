// Tangents through normalisation layers on CUDA: the launcher, as host code sees it.
#pragma once

#include <cstdint>

#include "common/normalize_tangents_params.h"

namespace pullback::cuda {

// How many float64 numbers params.partial must hold.
int64_t normalize_tangents_partial(const NormalizeTangentsParams& params);

// Enqueues the kernels on `stream` (a cudaStream_t) and returns nullptr, or what CUDA complained
// of.
const char* normalize_tangents(const NormalizeTangentsParams& params, void* stream);

}  // namespace pullback::cuda
