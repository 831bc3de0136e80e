// Blocks of row vectors as the kernels of both backends are told of them. No torch and no CUDA type
// in here.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "common/integers.h"

namespace pullback {

enum class Dtype : int { kFloat32, kFloat64, kFloat16, kBFloat16 };

// A block of row vectors. Strides are in elements and may be zero (an expanded dimension).
struct Rows {
  const void* data;
  int64_t rows;
  int64_t batch_stride;
  int64_t row_stride;
  int64_t column_stride;
};

// How N is cut into parts that are summed apart, then in order. Depends on N and, where `most`
// does, on the numbers of rows: never on B, on the number of threads or on the device, so that a
// sample's result does not depend on the rest of its batch.
struct Splits {
  int64_t count;
  int64_t columns;  // in a part
};

constexpr int64_t kSplitColumns = 2048;  // a multiple of every panel and chunk of the kernels

inline Splits split_columns(int64_t columns, int64_t most) {
  int64_t size = round_up(ceil_divide(columns, most), kSplitColumns);
  if (size < kSplitColumns) size = kSplitColumns;
  return {ceil_divide(columns, size), size};
}

// The columns begin .. end of N that a part is.
struct ColumnRange {
  int64_t begin;
  int64_t end;
};

PULLBACK_HD static inline ColumnRange columns_of_part(const Splits& splits, int64_t part,
                                                      int64_t columns) {
  const int64_t begin = part * splits.columns, end = begin + splits.columns;
  return {begin, end < columns ? end : columns};
}

}  // namespace pullback
