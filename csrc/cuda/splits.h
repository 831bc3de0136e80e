// Parts of N on CUDA: how many there may be, and which a block of threads works on.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace pullback::cuda {

// Parts of N times tiles of the products, at most, for one sample.
constexpr int64_t kMostPartTiles = 64;

// More parts where there are few tiles.
inline int64_t most_splits(int64_t tiles) {
  return tiles >= kMostPartTiles ? 1 : kMostPartTiles / tiles;
}

// An item of work: one part of one tile, or of one row, of a sample.
struct Item {
  int64_t sample;
  int64_t which;  // tile or row
  int64_t part;
};

// Item `index` of [B, count, parts].
PULLBACK_HD inline Item item_at(int64_t index, int64_t count, int64_t parts) {
  return {index / parts / count, index / parts % count, index % parts};
}

}  // namespace pullback::cuda
