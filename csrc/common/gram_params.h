// What the gram kernels of both backends are told. No torch and no CUDA type in here.
#pragma once

#include <cstdint>

namespace pullback {

enum class Dtype : int { kFloat32, kFloat64, kFloat16, kBFloat16 };

// A block of row vectors. Strides are in elements and may be zero (an expanded dimension).
struct Rows {
  const void* data;
  int64_t rows;
  int64_t batch_stride;
  int64_t row_stride;
  int64_t column_stride;
};

struct GramParams {
  Rows a;           // [B, k, N]
  Rows b;           // [B, p, N]; equal to a when symmetric
  bool symmetric;   // only i <= j is computed, the rest is its mirror image
  Dtype dtype;      // of a and of b
  int64_t batch;    // B
  int64_t columns;  // N
  int64_t splits;   // parts of N that are summed apart, then in order
  int64_t split;    // columns in a part
  double* partial;  // [B, splits, k, p]
  double* out;      // [B, k, p], contiguous
  int device;       // CUDA only
};

// How N is cut. Depends on N and, where it says so, on k and p: never on B, on the number of
// threads or on the device, so that a sample's result does not depend on its company.
struct GramSplits {
  int64_t splits;
  int64_t split;
};

constexpr int64_t kGramSplit = 2048;  // a multiple of every panel and chunk of the kernels

inline GramSplits gram_splits(int64_t columns, int64_t most) {
  int64_t split = (columns + most - 1) / most;
  split = (split + kGramSplit - 1) / kGramSplit * kGramSplit;
  if (split < kGramSplit) split = kGramSplit;
  return {(columns + split - 1) / split, split};
}

}  // namespace pullback
