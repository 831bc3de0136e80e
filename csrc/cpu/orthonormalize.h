// Orthonormal blocks on the CPU: the ladder of numerics/ladder.h over tiles of the block.
#pragma once

#include "common/orthonormalize_params.h"

namespace pullback::cpu {

// N is cut into at most this many parts: enough threads for one sample, little workspace.
constexpr int64_t kOrthonormalizeMostSplits = 16;

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
