// What the gram kernels of both backends are told.
#pragma once

#include "common/block.h"

namespace pullback {

struct GramParams {
  Rows a;           // [B, k, N]
  Rows b;           // [B, p, N]; equal to a when symmetric
  bool symmetric;   // only i <= j is computed, the rest is its mirror image
  Dtype dtype;      // of a and of b
  int64_t batch;    // B
  int64_t columns;  // N
  Splits splits;    // of N
  double* partial;  // [B, splits, k, p]
  double* out;      // [B, k, p], contiguous
  int device;       // CUDA only
};

}  // namespace pullback
