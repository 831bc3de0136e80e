// orthonormalize and ritz for the tests.
#include "cuda/orthonormalize.h"
#include "cuda/ritz.h"

extern "C" {

// Sets params.splits; returns the bytes of params.workspace.
size_t orthonormalize_plan(pullback::OrthonormalizeParams* params) {
  const int64_t most =
      pullback::cuda::orthonormalize_most_splits(params->block.rows, against_rows(*params));
  params->splits = pullback::split_columns(params->columns, most);
  params->workspace = nullptr;
  return pullback::cuda::orthonormalize_workspace(*params);
}

const char* orthonormalize(const pullback::OrthonormalizeParams* params) {
  return pullback::cuda::orthonormalize(*params, nullptr);
}

const char* ritz(const pullback::RitzParams* params) {
  return pullback::cuda::ritz(*params, nullptr);
}
}
