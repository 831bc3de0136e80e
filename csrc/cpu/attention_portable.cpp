// Attention for other processors.
#include "cpu/attention_kernel.h"
#include "cpu/vectors_portable.h"

namespace pullback::cpu {

void attention_items_portable(const AttentionParams& params, const AttentionPlan& plan,
                              int64_t begin, int64_t end, char* scratch) {
  attention_items<Lanes<float>, Lanes<double>>(params, plan, begin, end, scratch);
}

}  // namespace pullback::cpu
