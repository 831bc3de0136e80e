// orthonormalize for x86-64-v3.
#include "cpu/orthonormalize_kernel.h"
#include "cpu/vectors_avx2.h"

namespace pullback::cpu {

void orthonormalize_items_avx2(const OrthonormalizePass& pass, int64_t begin, int64_t end,
                               char* scratch) {
  pass_items<Float8, Double4>(pass, begin, end, scratch);
}

}  // namespace pullback::cpu
