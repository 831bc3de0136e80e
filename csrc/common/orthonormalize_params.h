// What the orthonormalize and block_step kernels of both backends are told.
#pragma once

#include "common/block.h"

namespace pullback {

constexpr int64_t kMostRows = 256;  // of a block
constexpr int kAgainst = 2;         // blocks that the result is made orthogonal to

struct OrthonormalizeParams {
  Rows block;              // [B, k, N], of `dtype`; k <= kMostRows
  Rows against[kAgainst];  // [B, p_i, N], of the dtype of q; all rows of a sample orthonormal; a
                           // block without rows stands where there is none
  Dtype dtype;             // of the block
  Dtype working_dtype;     // of q and of `against`: float64 for a float64 block, else float32
  int64_t batch;           // B
  int64_t columns;         // N
  uint64_t seed;           // of the random rows
  Splits splits;           // of N
  void* q;                 // [B, k, N], contiguous
  int64_t* rank;           // [B] rows that were not replaced
  bool* replaced;          // [B, k]
  int32_t* passes;         // [B]; CUDA only: negative where the block is not finite
  double* residual;        // [B, k, k], or null: block = residual q + projection^T against, ...
  double* projection;      // [B, p, k], or null: ... with p = p_0 + p_1
  void* workspace;         // CUDA only: orthonormalize_workspace() bytes, aligned to 16
  int device;              // CUDA only
};

// p. Static, because this is compiled for several instruction sets.
PULLBACK_HD static inline int64_t against_rows(const OrthonormalizeParams& params) {
  return params.against[0].rows + params.against[1].rows;
}

}  // namespace pullback
