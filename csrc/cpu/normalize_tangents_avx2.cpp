// normalize_tangents for x86-64-v3.
#include "cpu/normalize_tangents_kernel.h"
#include "cpu/vectors_avx2.h"

namespace pullback::cpu {

void normalize_tangents_items_avx2(const NormalizeTangentsParams& params,
                                   const NormalizeTangentsPlan& plan, int64_t begin, int64_t end,
                                   char* scratch) {
  normalize_tangents_items<Float8, Double4>(params, plan, begin, end, scratch);
}

}  // namespace pullback::cpu
