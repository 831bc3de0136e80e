// normalize_tangents for the tests.
#include "cuda/normalize_tangents.h"

extern "C" {

// How many float64 numbers params.partial must hold.
int64_t normalize_tangents_plan(const pullback::NormalizeTangentsParams* params) {
  return pullback::cuda::normalize_tangents_partial(*params);
}

const char* normalize_tangents(const pullback::NormalizeTangentsParams* params) {
  return pullback::cuda::normalize_tangents(*params, nullptr);
}
}
