// Batched Gram products on the CPU.
#pragma once

#include <cstdint>

#include "common/gram_params.h"
#include "cpu/panel.h"

namespace pullback::cpu {

void gram(const GramParams& params);

// Computes the (sample, part) items begin <= item < end; item = sample * splits + part. `scratch`
// is the caller's own, aligned to 64 bytes, gram_scratch_bytes() long.
using GramItems = void(const GramParams& params, int64_t begin, int64_t end, char* scratch);

GramItems gram_items_avx2, gram_items_avx512, gram_items_portable;

inline int64_t gram_scratch_bytes(const GramParams& params) {
  const int64_t rows = params.a.rows + (params.symmetric ? 0 : params.b.rows);
  return rows * kPitchBytes + params.a.rows * params.b.rows * kMostSums * 8;
}

}  // namespace pullback::cpu
