#include "cpu/gram.h"

#include <algorithm>

#include "common/parallel.h"
#include "cpu/allocate.h"
#include "cpu/isa.h"

namespace pullback::cpu {
namespace {

constexpr Version<GramItems> kVersions[] = {
#if defined(__x86_64__)
    {Isa::kAvx512, gram_items_avx512},
    {Isa::kAvx2, gram_items_avx2},
#else
    {Isa::kPortable, gram_items_portable},
#endif
};

}  // namespace

void gram(const GramParams& params) {
  GramItems* const gram_items = version_in_use("gram", kVersions);
  const int64_t entries = params.a.rows * params.b.rows;
  const int64_t cost = entries * std::min(params.splits.columns, params.columns);
  parallel_for(params.batch * params.splits.count, cost, [&](int64_t begin, int64_t end) {
    gram_items(params, begin, end, allocate<char>(gram_scratch_bytes(params)).get());
  });
  if (params.splits.count == 1) return;
  parallel_for(params.batch, entries * params.splits.count, [&](int64_t begin, int64_t end) {
    for (int64_t sample = begin; sample < end; ++sample) {
      const double* part = params.partial + sample * params.splits.count * entries;
      double* out = params.out + sample * entries;
      for (int64_t e = 0; e < entries; ++e) out[e] = part[e];
      for (int64_t s = 1; s < params.splits.count; ++s) {
        part += entries;
        for (int64_t e = 0; e < entries; ++e) out[e] += part[e];
      }
    }
  });
}

}  // namespace pullback::cpu
