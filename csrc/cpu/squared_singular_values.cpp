#include "cpu/squared_singular_values.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "common/parallel.h"
#include "cpu/allocate.h"
#include "cpu/isa.h"
#include "numerics/entry_type.h"

namespace pullback::cpu {
namespace {

constexpr Version<SquaredSingularValuesItems> kVersions[] = {
#if defined(__x86_64__)
    {Isa::kAvx512, squared_singular_values_items_avx512},
    {Isa::kAvx2, squared_singular_values_items_avx2},
#else
    {Isa::kPortable, squared_singular_values_items_portable},
#endif
};

// The first of the matrices that `find` reports of ranges of them, -1 if it reports none.
template <class Find>
int64_t first_of(int64_t items, int64_t cost, const Find& find) {
  std::atomic<int64_t> first{INT64_MAX};
  parallel_for(items, cost, [&](int64_t begin, int64_t end) {
    const int64_t found = find(begin, end);
    if (found < 0) return;
    int64_t known = first.load();
    while (found < known && !first.compare_exchange_weak(known, found)) {
    }
  });
  return first.load() == INT64_MAX ? -1 : first.load();
}

}  // namespace

int64_t squared_singular_values(const SquaredSingularValuesParams& params) {
  SquaredSingularValuesItems* const matrices = version_in_use("squared_singular_values", kVersions);
  const int64_t m = params.c.rows, items = ceil_divide(params.matrices, kMatricesOfAnItem);
  const int64_t cost = kMatricesOfAnItem * m * m * (params.columns + m + 16);
  return first_of(items, cost, [&](int64_t begin, int64_t end) {
    return matrices(params, begin * kMatricesOfAnItem,
                    std::min(end * kMatricesOfAnItem, params.matrices),
                    allocate<double>(squared_singular_values_scratch(m)).get());
  });
}

int64_t first_not_finite(const SquaredSingularValuesParams& params) {
  const Rows& c = params.c;
  return first_of(params.matrices, c.rows * params.columns, [&](int64_t begin, int64_t end) {
    return with_entry_type(params.dtype, [&](auto entry) -> int64_t {
      const auto* const data = static_cast<const decltype(entry)*>(c.data);
      for (int64_t matrix = begin; matrix < end; ++matrix) {
        for (int64_t i = 0; i < c.rows; ++i) {
          const auto* const row = data + matrix * c.batch_stride + i * c.row_stride;
          for (int64_t j = 0; j < params.columns; ++j) {
            if (!std::isfinite(widen(row[j * c.column_stride]))) return matrix;
          }
        }
      }
      return -1;
    });
  });
}

}  // namespace pullback::cpu
