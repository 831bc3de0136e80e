// orthonormalize for AVX-512.
#include "cpu/orthonormalize_kernel.h"
#include "cpu/vectors_avx512.h"

namespace pullback::cpu {

void orthonormalize_items_avx512(const OrthonormalizePass& pass, int64_t begin, int64_t end,
                                 char* scratch) {
  pass_items<Float16, Double8>(pass, begin, end, scratch);
}

}  // namespace pullback::cpu
