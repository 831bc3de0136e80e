#include "cpu/normalize_tangents.h"

#include <algorithm>

#include "common/parallel.h"
#include "cpu/allocate.h"
#include "cpu/huge_pages.h"
#include "cpu/isa.h"
#include "numerics/entry_type.h"

namespace pullback::cpu {
namespace {

constexpr Version<NormalizeTangentsItems> kVersions[] = {
#if defined(__x86_64__)
    {Isa::kAvx512, normalize_tangents_items_avx512},
    {Isa::kAvx2, normalize_tangents_items_avx2},
#else
    {Isa::kPortable, normalize_tangents_items_portable},
#endif
};

constexpr int64_t kPrimalBytes = 128 * 1024;  // of rows of the primal, in the cache
constexpr int64_t kStreamedBytes =
    32 * 1024 * 1024;  // of results, from which on they are written past it

NormalizeTangentsPlan plan_of(const NormalizeTangentsParams& params) {
  const int64_t entries = params.channels * params.positions;
  const int64_t all = params.tangents * params.batch * params.groups * entries;
  NormalizeTangentsPlan plan{params.batch, 1, 0, all * bytes_of(params.dtype) >= kStreamedBytes};
  if (!params.channels_last) {
    const int64_t real = params.dtype == Dtype::kFloat64 ? 8 : 4;
    plan.rows *= params.groups;
    plan.rows_of_item = std::clamp<int64_t>(kPrimalBytes / (entries * real), 1, plan.rows);
  }
  plan.items = ceil_divide(plan.rows, plan.rows_of_item) * params.tangents;
  return plan;
}

}  // namespace

void normalize_tangents(const NormalizeTangentsParams& params) {
  NormalizeTangentsItems* const work = version_in_use("normalize_tangents", kVersions);
  const NormalizeTangentsPlan plan = plan_of(params);
  const int64_t entries = params.batch * params.groups * params.channels * params.positions;
  prefer_huge_pages(params.out, entries * params.tangents * bytes_of(params.dtype));
  const int64_t cost = 8 * ceil_divide(entries * params.tangents, plan.items);
  parallel_for(plan.items, cost, [&](int64_t begin, int64_t end) {
    const Array<char> scratch = allocate<char>(normalize_tangents_scratch_bytes(params));
    work(params, plan, begin, end, scratch.get());
  });
}

}  // namespace pullback::cpu
