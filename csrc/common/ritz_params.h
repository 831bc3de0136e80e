// What the ritz kernels of both backends are told.
#pragma once

#include <cstdint>

namespace pullback {

constexpr int64_t kRitzMost = 96;  // larger matrices go to torch.linalg.eigh

struct RitzParams {
  const double* t;    // [B, n, n], contiguous; the lower triangle is read
  int64_t batch;      // B
  int64_t n;          // 1 <= n <= kRitzMost
  double* values;     // [B, n], descending
  double* vectors;    // [B, n, n], row i belongs to values[i]
  double* workspace;  // CUDA only: [B, n, n]
  int device;         // CUDA only
};

}  // namespace pullback
