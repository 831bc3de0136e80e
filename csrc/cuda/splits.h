// Parts of N on CUDA: how many there may be, and which a block of threads works on.
#pragma once

#include <cstdint>

#include "common/block.h"
#include "common/host_device.h"

namespace pullback::cuda {

// Parts of N times tiles of the products, at most, for one sample.
constexpr int64_t kMostPartTiles = 64;

// More parts where there are few tiles.
inline int64_t most_splits(int64_t tiles) {
  return tiles >= kMostPartTiles ? 1 : kMostPartTiles / tiles;
}

// A part is summed quarter by quarter, always: by one block of threads, or by four of them where a
// batch is so small that multiprocessors would stand idle.
constexpr int kQuarters = 4;

PULLBACK_HD inline ColumnRange columns_of_quarter(const Splits& splits, int64_t part, int quarter,
                                                  int64_t columns) {
  const int64_t size = splits.columns / kQuarters;
  const int64_t begin = part * splits.columns + quarter * size, end = begin + size;
  return {begin, end < columns ? end : columns};
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
