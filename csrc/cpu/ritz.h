// Batched eigen-decomposition of small symmetric matrices on the CPU.
#pragma once

#include "common/ritz_params.h"

namespace pullback::cpu {

// Larger matrices are faster by LAPACK.
constexpr int64_t kRitzMost = 4;

void ritz(const RitzParams& params);

}  // namespace pullback::cpu
