// Parts of N on the CPU.
#pragma once

#include <cstdint>

namespace pullback::cpu {

// N is cut into at most this many parts: enough threads for one sample, little workspace.
constexpr int64_t kMostSplits = 16;

}  // namespace pullback::cpu
