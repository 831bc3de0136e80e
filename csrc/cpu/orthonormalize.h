// Orthonormal blocks on the CPU: the ladder of numerics/ladder.h over tiles of the block.
#pragma once

#include "common/orthonormalize_params.h"

namespace pullback::cpu {

// N is cut into at most this many parts: enough threads for one sample, little workspace.
constexpr int64_t kOrthonormalizeMostSplits = 16;

// The first entry that is NaN or infinite, in the order of samples and rows.
struct NotFinite {
  bool found;
  bool in_against;  // in the rows of `against`, else in the block
  int64_t sample;
  int64_t row;
};

// Nothing has been written if the block is not finite.
NotFinite orthonormalize(const OrthonormalizeParams& params);

}  // namespace pullback::cpu
