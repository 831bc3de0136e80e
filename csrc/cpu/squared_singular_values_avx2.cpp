// squared_singular_values for x86-64-v3.
#include "cpu/squared_singular_values_kernel.h"
#include "cpu/vectors_avx2.h"

namespace pullback::cpu {

int64_t squared_singular_values_items_avx2(const SquaredSingularValuesParams& params, int64_t begin,
                                           int64_t end, double* scratch) {
  return squared_singular_values_items<Lanes4>(params, begin, end, scratch);
}

}  // namespace pullback::cpu
