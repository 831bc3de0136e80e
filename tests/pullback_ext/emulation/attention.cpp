// Attention for the tests.
#include "cuda/attention.h"

extern "C" {

const char* attention(const pullback::AttentionParams* params) {
  return pullback::cuda::attention(*params, nullptr);
}
}
