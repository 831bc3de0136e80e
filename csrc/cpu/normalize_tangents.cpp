#include "cpu/normalize_tangents.h"

#include <algorithm>
#include <numeric>

#include "common/parallel.h"
#include "cpu/allocate.h"
#include "cpu/isa.h"

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

constexpr int64_t kPrimalBytes = 128 * 1024;  // of rows of the primal that stay in the cache
constexpr int64_t kLine = 64;                 // bytes
constexpr int64_t kTileBytes = 256;           // of a position, at least: whole lines mostly

// Channels last, how many groups are worked on together: as few as fill the lines they touch.
int64_t groups_of_tile(int64_t channels, int64_t entry) {
  const int64_t bytes = channels * entry, whole = std::lcm(bytes, kLine) / bytes;
  return std::max(whole, round_up(ceil_divide(kTileBytes, bytes), whole));
}

NormalizeTangentsPlan plan_of(const NormalizeTangentsParams& params) {
  const bool half = params.dtype == Dtype::kFloat16 || params.dtype == Dtype::kBFloat16;
  const int64_t real = params.dtype == Dtype::kFloat64 ? 8 : 4;
  const int64_t entries = params.channels * params.positions;
  NormalizeTangentsPlan plan{params.batch * params.groups, 1, 1, 0};
  if (params.channels_last) {
    const int64_t together = groups_of_tile(params.channels, half ? 2 : real);
    plan.tiles = std::max<int64_t>(1, params.groups / together);
    plan.rows = params.batch * plan.tiles;
  } else {
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
  const int64_t cost = 8 * ceil_divide(entries * params.tangents, plan.items);
  parallel_for(plan.items, cost, [&](int64_t begin, int64_t end) {
    const Array<char> scratch = allocate<char>(normalize_tangents_scratch_bytes(params, plan));
    work(params, plan, begin, end, scratch.get());
  });
}

}  // namespace pullback::cpu
