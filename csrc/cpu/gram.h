// Batched Gram products on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/gram_params.h"
#include "cpu/panel.h"

namespace pullback::cpu {

// N is cut into at most this many parts: enough threads for one sample, little workspace.
constexpr int64_t kGramMostSplits = 16;

void gram(const GramParams& params);

// A worker computes the (sample, part) items begin <= item < end; item = sample * splits + part.
// `scratch` is the worker's own, aligned to 64 bytes, gram_scratch_bytes() long.
using GramWorker = void (*)(const GramParams& params, int64_t begin, int64_t end, char* scratch);

void gram_items_avx2(const GramParams& params, int64_t begin, int64_t end, char* scratch);
void gram_items_avx512(const GramParams& params, int64_t begin, int64_t end, char* scratch);
void gram_items_portable(const GramParams& params, int64_t begin, int64_t end, char* scratch);

inline size_t gram_scratch_bytes(const GramParams& params) {
  const int64_t rows = params.a.rows + (params.symmetric ? 0 : params.b.rows);
  return static_cast<size_t>(rows * kPitchBytes + params.a.rows * params.b.rows * kMostSums * 8);
}

}  // namespace pullback::cpu
