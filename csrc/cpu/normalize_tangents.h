// Tangents through normalisation layers on the CPU.
#pragma once

#include <cstdint>

#include "common/normalize_tangents_params.h"

namespace pullback::cpu {

void normalize_tangents(const NormalizeTangentsParams& params);

// How the work is cut: a tangent's share of some rows of the primal, so many that all tangents
// find them in the cache. A row is a group, or, channels last, a sample.
struct NormalizeTangentsPlan {
  int64_t rows;  // [B, G], or [B]
  int64_t rows_of_item;
  int64_t items;  // [ceil(rows / rows_of_item), k]
  bool streams;   // whether results go past the caches, which could not hold them
};

// Computes the items begin <= item < end. `scratch` is the caller's own, aligned to 64 bytes,
// normalize_tangents_scratch_bytes() long.
using NormalizeTangentsItems = void(const NormalizeTangentsParams& params,
                                    const NormalizeTangentsPlan& plan, int64_t begin, int64_t end,
                                    char* scratch);

NormalizeTangentsItems normalize_tangents_items_avx2, normalize_tangents_items_avx512,
    normalize_tangents_items_portable;

constexpr int64_t kTileEntries = 1024;  // of a group: entries whose gain is written out
constexpr int64_t kMostVector = 64;     // bytes

// The gain of a tile; channels last, for every channel two sums of float64 and three numbers of
// Real, which is no wider.
static inline int64_t normalize_tangents_scratch_bytes(const NormalizeTangentsParams& params) {
  if (!params.channels_last) return kTileEntries * 8;
  return 5 * 8 * (params.groups * params.channels + kMostVector);
}

}  // namespace pullback::cpu
