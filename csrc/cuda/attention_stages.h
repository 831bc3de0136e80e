// What comes before the sums of attention (attention.cu).
#pragma once

#include "common/attention_params.h"
#include "cuda/attention_job.h"

namespace pullback::cuda {

// Enqueues the logarithms of the row sums, params.lse.
const char* attention_log_sums(const AttentionParams& params, void* stream);

// Enqueue the centers of the rows of a tangent or a cotangent, params.sums, by way of params.peaks:
//   scale (dq k*^T + q dk*^T)   and   g v*^T + g (o - v*)^T = g o^T,
// k*, dk* and v* those of the query's peak, the key of greatest weight. Where this weight is nearly
// 1 products less their center keep the digits that h is made of. o is [1, B, H, Sq, e] of Real.
// The job is the one whose products are centered.
const char* attention_centers_of_tangents(const AttentionParams& params, const AttentionJob& job,
                                          void* stream);
const char* attention_centers_of_cotangents(const AttentionParams& params, const AttentionJob& job,
                                            const HeadRows& o, void* stream);

}  // namespace pullback::cuda
