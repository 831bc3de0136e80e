// orthonormalize for processors other than x86-64.
#include "cpu/orthonormalize_kernel.h"
#include "cpu/vectors_portable.h"

namespace pullback::cpu {

void orthonormalize_items_portable(const OrthonormalizePass& pass, int64_t begin, int64_t end,
                                   char* scratch) {
  pass_items<Lanes<float>, Lanes<double>>(pass, begin, end, scratch);
}

}  // namespace pullback::cpu
