// normalize_tangents for AVX-512.
#include "cpu/normalize_tangents_kernel.h"
#include "cpu/vectors_avx512.h"

namespace pullback::cpu {

void normalize_tangents_items_avx512(const NormalizeTangentsParams& params,
                                     const NormalizeTangentsPlan& plan, int64_t begin, int64_t end,
                                     char* scratch) {
  normalize_tangents_items<Float16, Double8>(params, plan, begin, end, scratch);
}

}  // namespace pullback::cpu
