// gram for the tests.
#include "cuda/gram.h"

extern "C" {

// Sets params.splits; `partial` is [B, splits, k, p].
int64_t gram_plan(pullback::GramParams* params) {
  const int64_t most =
      pullback::cuda::gram_most_splits(params->a.rows, params->b.rows, params->symmetric);
  params->splits = pullback::split_columns(params->columns, most);
  return params->splits.count;
}

const char* gram(const pullback::GramParams* params) {
  return pullback::cuda::gram(*params, nullptr);
}
}
