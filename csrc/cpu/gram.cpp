#include "cpu/gram.h"

#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>

#include "common/parallel.h"
#include "cpu/isa.h"

namespace pullback::cpu {
namespace {

GramWorker worker() {
  switch (isa_in_use()) {
#if defined(__x86_64__)
    case Isa::kAvx512:
      return gram_items_avx512;
    case Isa::kAvx2:
      return gram_items_avx2;
#else
    case Isa::kPortable:
      return gram_items_portable;
#endif
    default:
      throw std::runtime_error(
          "gram: expected a processor with AVX2, FMA and F16C, got an older one");
  }
}

struct Free {
  void operator()(char* p) const { std::free(p); }
};

}  // namespace

void gram(const GramParams& params) {
  const GramWorker work = worker();
  const int64_t entries = params.a.rows * params.b.rows;
  const int64_t cost = entries * std::min(params.splits.columns, params.columns);
  parallel_for(params.batch * params.splits.count, cost, [&](int64_t begin, int64_t end) {
    const size_t bytes = (gram_scratch_bytes(params) + 63) / 64 * 64;
    const std::unique_ptr<char, Free> scratch(static_cast<char*>(std::aligned_alloc(64, bytes)));
    if (!scratch) throw std::bad_alloc();
    work(params, begin, end, scratch.get());
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
