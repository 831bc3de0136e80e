// normalize_tangents for other processors.
#include "cpu/normalize_tangents_kernel.h"
#include "cpu/vectors_portable.h"

namespace pullback::cpu {

void normalize_tangents_items_portable(const NormalizeTangentsParams& params,
                                       const NormalizeTangentsPlan& plan, int64_t begin,
                                       int64_t end, char* scratch) {
  normalize_tangents_items<Lanes<float>, Lanes<double>>(params, plan, begin, end, scratch);
}

}  // namespace pullback::cpu
