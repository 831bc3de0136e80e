// Attention for x86-64-v3.
#include "cpu/attention_kernel.h"
#include "cpu/vectors_avx2.h"

namespace pullback::cpu {

void attention_items_avx2(const AttentionParams& params, const AttentionPlan& plan, int64_t begin,
                          int64_t end, char* scratch) {
  attention_items<Float8, Double4>(params, plan, begin, end, scratch);
}

}  // namespace pullback::cpu
