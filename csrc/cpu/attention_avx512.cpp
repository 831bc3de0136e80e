// Attention for AVX-512.
#include "cpu/attention_kernel.h"
#include "cpu/vectors_avx512.h"

namespace pullback::cpu {

void attention_items_avx512(const AttentionParams& params, const AttentionPlan& plan, int64_t begin,
                            int64_t end, char* scratch) {
  attention_items<Float16, Double8>(params, plan, begin, end, scratch);
}

}  // namespace pullback::cpu
