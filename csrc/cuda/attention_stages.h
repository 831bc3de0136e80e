// What comes before the sums of attention (attention.cu).
#pragma once

#include "common/attention_params.h"

namespace pullback::cuda {

// Enqueues the logarithms of the row sums, params.lse.
const char* attention_log_sums(const AttentionParams& params, void* stream);

// Enqueues the sums of g o, params.sums. o is [1, B, H, Sq, e] of Real.
const char* attention_centers(const AttentionParams& params, const HeadRows& o, void* stream);

}  // namespace pullback::cuda
