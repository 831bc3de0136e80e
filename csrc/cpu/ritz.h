// Batched eigen-decomposition of small symmetric matrices on the CPU.
#pragma once

#include "common/ritz_params.h"

namespace pullback::cpu {

void ritz(const RitzParams& params);

}  // namespace pullback::cpu
