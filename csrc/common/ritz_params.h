// What the ritz kernel is told. It is a CUDA kernel; on the CPU all matrices go to LAPACK.
#pragma once

#include <cstdint>

namespace pullback {

constexpr int64_t kLargestRitz = 96;  // larger matrices go to torch.linalg.eigh

struct RitzParams {
  const double* t;    // [B, n, n], contiguous; the lower triangle is read
  int64_t batch;      // B
  int64_t n;          // 1 <= n <= kLargestRitz
  double* values;     // [B, n], descending
  double* vectors;    // [B, n, n], row i belongs to values[i]
  double* workspace;  // [B, n, n]
  int device;
};

}  // namespace pullback
