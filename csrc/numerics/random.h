// Gaussian numbers by position: Philox4x32-10 (Salmon et al. 2011) and the Box-Muller transform.
// They depend on the seed, the row, the column and the draw alone: the same on every device up to
// the last bits of log and cos, and in every batch.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"

namespace pullback {

struct Philox {
  uint32_t word[4];
};

PULLBACK_HD static inline Philox philox(uint64_t key, Philox counter) {
  uint32_t low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = static_cast<uint64_t>(counter.word[0]) * 0xD2511F53u;
    const uint64_t b = static_cast<uint64_t>(counter.word[2]) * 0xCD9E8D57u;
    counter = {{static_cast<uint32_t>(b >> 32) ^ counter.word[1] ^ low, static_cast<uint32_t>(b),
                static_cast<uint32_t>(a >> 32) ^ counter.word[3] ^ high, static_cast<uint32_t>(a)}};
    low += 0x9E3779B9u;
    high += 0xBB67AE85u;
  }
  return counter;
}

// A standard normal number for an entry of a block; `draw` tells repeated draws apart.
PULLBACK_HD static inline float gaussian(uint64_t seed, int64_t row, int64_t column, int draw) {
  const uint64_t pair = static_cast<uint64_t>(column) / 2;
  const Philox random =
      philox(seed, {{static_cast<uint32_t>(pair), static_cast<uint32_t>(pair >> 32),
                     static_cast<uint32_t>(row), static_cast<uint32_t>(draw)}});
  // (0, 1): 24 bits and a half, exact in float32
  const float u = (static_cast<float>(random.word[0] >> 9) + 0.5f) * 1.1920928955078125e-7f;
  const float turn = static_cast<float>(random.word[1] >> 8) * 5.9604644775390625e-8f;
  const float radius = sqrtf(-2.0f * logf(u));
  const float angle = 6.2831853071795865f * turn;
  return radius * (column % 2 == 0 ? cosf(angle) : sinf(angle));
}

}  // namespace pullback
