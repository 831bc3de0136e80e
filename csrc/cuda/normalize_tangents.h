// Tangents through normalisation layers on CUDA: the launcher, as host code sees it.
#pragma once

#include <cstdint>

#include "common/normalize_tangents_params.h"

namespace pullback::cuda {

// Whether all rows begin at multiples of 16 bytes, so that pieces of that size may be read.
bool normalize_tangents_aligned(const NormalizeTangentsParams& params);

// How many float64 numbers params.partial must hold, from sizes only.
int64_t normalize_tangents_partial(const NormalizeTangentsParams& params);

// Enqueues the kernels on `stream` (a cudaStream_t) and returns nullptr, or what CUDA complained
// of.
const char* normalize_tangents(const NormalizeTangentsParams& params, void* stream);

}  // namespace pullback::cuda
