// Attention, its tangents and its cotangents on the CPU.
#pragma once

#include <cstdint>

#include "common/attention_params.h"

namespace pullback::cpu {

// Computes what params.kind says.
void attention(const AttentionParams& params);

constexpr int64_t kAttentionLanes = 64;        // queries, or keys, that an item has side by side
constexpr int64_t kAttentionTile = 64;         // keys, or queries, that it goes through at a time
constexpr int64_t kLargestAttentionTile = 80;  // at once, where these are all: 77 tokens of text

// How the work is cut: an item is a block of queries of a head, for the cotangents of keys one of
// keys. It takes `group` tangents at a time, which share the weights; no result depends on how
// many.
struct AttentionPlan {
  int64_t blocks;
  int64_t items;  // [B, H, blocks], or [B, Hk, blocks]
  int64_t group;
};

// Computes the items begin <= item < end. `scratch` is the caller's own, aligned to 64 bytes,
// attention_scratch_entries() of Real long.
using AttentionItems = void(const AttentionParams& params, const AttentionPlan& plan, int64_t begin,
                            int64_t end, char* scratch);

AttentionItems attention_items_avx2, attention_items_avx512, attention_items_portable;

// A tangent's own arrays: its block and what is summed of it, and two numbers for each lane.
static inline int64_t attention_tangent_entries(const AttentionParams& params) {
  return kAttentionLanes * (params.depth + params.width + 2);
}

// Three tiles; rows of a tile widened, of k, v and a tangent; arrays of the block, four of the
// depth and two of the width; and five numbers for each lane.
static inline int64_t attention_scratch_entries(const AttentionParams& params,
                                                const AttentionPlan& plan) {
  const int64_t wider = params.depth > params.width ? params.depth : params.width;
  return 3 * kLargestAttentionTile * (kAttentionLanes + wider) +
         kAttentionLanes * (4 * params.depth + 2 * params.width + 5) +
         plan.group * attention_tangent_entries(params);
}

}  // namespace pullback::cpu
