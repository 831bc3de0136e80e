// orthonormalize for AVX-512.
#include "cpu/orthonormalize_kernel.h"
#include "cpu/vectors_avx512.h"

namespace pullback::cpu {

void orthonormalize_items_avx512(const OrthonormalizeRung& rung, int64_t begin, int64_t end,
                                 char* scratch) {
  rung_items<Float16, Double8>(rung, begin, end, scratch);
}

}  // namespace pullback::cpu
