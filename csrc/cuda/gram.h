// Batched Gram products on CUDA: the launcher, as host code sees it.
#pragma once

#include "common/gram_params.h"

namespace pullback::cuda {

// Splits of N times tiles of the result, at most, for one sample.
constexpr int64_t kGramMostBlocks = 64;
constexpr int64_t kGramTile = 64;

// How many parts N may be cut into: more of them where there are few tiles. From k and p only.
inline int64_t gram_most_splits(int64_t k, int64_t p, bool symmetric) {
  const int64_t rows = (k + kGramTile - 1) / kGramTile, cols = (p + kGramTile - 1) / kGramTile;
  const int64_t tiles = symmetric ? rows * (rows + 1) / 2 : rows * cols;
  return tiles >= kGramMostBlocks ? 1 : kGramMostBlocks / tiles;
}

// Enqueues the kernels on `stream` (a cudaStream_t) and returns nullptr, or what CUDA complained
// of. params.partial holds [B, splits, k, p] float64 values on the device.
const char* gram(const GramParams& params, void* stream);

}  // namespace pullback::cuda
