// What the kernels of attention's sums are told beside the call's parameters.
#pragma once

#include "common/attention_params.h"

namespace pullback::cuda {

// "Mine" are the rows of the block, queries or keys, "theirs" the others. Rows that are not given
// are left out.
struct AttentionJob {
  HeadRows mine, theirs;  // q and k, or k and q
  struct {
    HeadRows mine, theirs;  // of tangents, or not
    int64_t width;
  } products[2];
  HeadRows times_products;  // of theirs: what h is multiplied by
  HeadRows times_weights;   // of theirs: what p is multiplied by
  HeadRows o;               // of mine, Real: what the sums of h are multiplied by
  bool of_keys;             // whether keys are mine
  bool exact;               // whether the result of 16-bit entries is float32
  double products_scale;
  double out_scale;
  int64_t width;  // of the result
  void* out;      // [T, B, heads of mine, mine, width]
};

// Of 16-bit entries. Enqueue
//   the job,
//   the logarithms of the row sums, params.lse, or the peaks of the queries, params.peaks,
//   the job's products of queries with rows of their peaks, times products_scale: params.sums.
const char* attention_sums_by_tensor_cores(const AttentionParams& params, const AttentionJob& job,
                                           void* stream);
const char* attention_rows_by_tensor_cores(const AttentionParams& params, bool peaks, void* stream);
const char* products_with_peaks_by_tensor_cores(const AttentionParams& params,
                                                const AttentionJob& job, void* stream);

}  // namespace pullback::cuda
