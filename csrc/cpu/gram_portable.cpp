// gram for processors other than x86-64.
#include "cpu/gram_kernel.h"
#include "cpu/vectors_portable.h"

namespace pullback::cpu {

void gram_items_portable(const GramParams& params, int64_t begin, int64_t end, char* scratch) {
  gram_items<Lanes<float>, Lanes<double>>(params, begin, end, scratch);
}

}  // namespace pullback::cpu
