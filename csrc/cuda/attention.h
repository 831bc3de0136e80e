// Attention, its tangents and its cotangents on CUDA: the launcher, as host code sees it.
#pragma once

#include "common/attention_params.h"

namespace pullback::cuda {

// Enqueues what params.kind says on `stream` (a cudaStream_t) and returns nullptr, or what CUDA
// complained of.
const char* attention(const AttentionParams& params, void* stream);

}  // namespace pullback::cuda
