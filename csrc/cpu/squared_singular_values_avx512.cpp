// squared_singular_values for AVX-512.
#include "cpu/squared_singular_values_kernel.h"
#include "cpu/vectors_avx512.h"

namespace pullback::cpu {

int64_t squared_singular_values_items_avx512(const SquaredSingularValuesParams& params,
                                             int64_t begin, int64_t end, double* scratch) {
  return squared_singular_values_items<Lanes8>(params, begin, end, scratch);
}

}  // namespace pullback::cpu
