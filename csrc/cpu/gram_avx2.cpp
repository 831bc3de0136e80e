// gram for x86-64-v3.
#include "cpu/gram_kernel.h"
#include "cpu/vectors_avx2.h"

namespace pullback::cpu {

void gram_items_avx2(const GramParams& params, int64_t begin, int64_t end, char* scratch) {
  gram_items<Float8, Double4>(params, begin, end, scratch);
}

}  // namespace pullback::cpu
