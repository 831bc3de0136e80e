// Orthonormal blocks on the CPU: the passes of numerics/cholesky_qr.h over panels of the block.
#pragma once

#include "common/orthonormalize_params.h"

namespace pullback::cpu {

// The first row with a NaN or an infinity: in the block, if there is one, else in `against`.
struct NotFinite {
  bool found;
  bool in_against;
  int64_t sample;
  int64_t row;
};

// What is written where something is not finite means nothing.
NotFinite orthonormalize(const OrthonormalizeParams& params);

}  // namespace pullback::cpu
