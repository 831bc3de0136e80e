#include "cpu/attention.h"

#include <algorithm>

#include "common/parallel.h"
#include "cpu/allocate.h"
#include "cpu/huge_pages.h"
#include "cpu/isa.h"
#include "numerics/entry_type.h"

namespace pullback::cpu {
namespace {

constexpr Version<AttentionItems> kVersions[] = {
#if defined(__x86_64__)
    {Isa::kAvx512, attention_items_avx512},
    {Isa::kAvx2, attention_items_avx2},
#else
    {Isa::kPortable, attention_items_portable},
#endif
};

constexpr int64_t kGroupBytes = 512 * 1024;  // of tangents that stay in the cache

AttentionPlan plan_of(const AttentionParams& params, int64_t real) {
  const bool of_keys = params.kind == AttentionKind::kCotangentsOfKeys;
  AttentionPlan plan;
  plan.blocks = ceil_divide(of_keys ? params.keys : params.queries, kAttentionLanes);
  plan.items = params.batch * (of_keys ? params.key_heads : params.heads) * plan.blocks;
  const int64_t most = kGroupBytes / (real * attention_tangent_entries(params));
  plan.group = std::clamp<int64_t>(most, 1, std::max<int64_t>(1, params.tangents));
  return plan;
}

// Tangents and cotangents are as many as there are tangents, and as large.
void prepare_results(const AttentionParams& params, int64_t entry_bytes) {
  const int64_t bytes = params.tangents * params.batch * entry_bytes;
  const int64_t queries = bytes * params.heads * params.queries;
  const int64_t keys = bytes * params.key_heads * params.keys;
  switch (params.kind) {
    case AttentionKind::kForward:
      break;
    case AttentionKind::kTangents:
      prefer_huge_pages(params.out, queries * params.width);
      break;
    case AttentionKind::kCotangentsOfQueries:
      prefer_huge_pages(params.out, queries * params.depth);
      break;
    case AttentionKind::kCotangentsOfKeys:
      prefer_huge_pages(params.out_k, keys * params.depth);
      prefer_huge_pages(params.out_v, keys * params.width);
      break;
  }
}

}  // namespace

void attention(const AttentionParams& params) {
  AttentionItems* const work = version_in_use("attention", kVersions);
  const int64_t real = params.dtype == Dtype::kFloat64 ? 8 : 4;
  const AttentionPlan plan = plan_of(params, real);
  prepare_results(params, bytes_of(params.dtype));
  const int64_t entries =
      params.batch * params.heads * params.queries * params.keys * (params.tangents + 1);
  const int64_t cost =
      ceil_divide(entries * (params.depth + params.width), std::max<int64_t>(1, plan.items));
  parallel_for(plan.items, cost / 8, [&](int64_t begin, int64_t end) {
    const Array<char> scratch = allocate<char>(real * attention_scratch_entries(params, plan));
    work(params, plan, begin, end, scratch.get());
  });
}

}  // namespace pullback::cpu
