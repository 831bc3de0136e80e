// squared_singular_values for processors other than x86-64.
#include "cpu/squared_singular_values_kernel.h"

namespace pullback::cpu {

int64_t squared_singular_values_items_portable(const SquaredSingularValuesParams& params,
                                               int64_t begin, int64_t end, double* scratch) {
  return squared_singular_values_items<OneLane>(params, begin, end, scratch);
}

}  // namespace pullback::cpu
