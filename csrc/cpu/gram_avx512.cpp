// gram for AVX-512.
#include "cpu/gram_kernel.h"
#include "cpu/vectors_avx512.h"

namespace pullback::cpu {

void gram_items_avx512(const GramParams& params, int64_t begin, int64_t end, char* scratch) {
  gram_items<Float16, Double8>(params, begin, end, scratch);
}

}  // namespace pullback::cpu
