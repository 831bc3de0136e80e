// Squared singular values of many small matrices on the CPU.
#pragma once

#include <cstdint>

#include "common/squared_singular_values_params.h"

namespace pullback::cpu {

// The first matrix with an entry that is not finite, or -1; params.out is then of no use.
// m <= kLargestInLanes.
int64_t squared_singular_values(const SquaredSingularValuesParams& params);

// The first matrix with an entry that is not finite, or -1, for any m.
int64_t first_not_finite(const SquaredSingularValuesParams& params);

// Does the matrices begin <= matrix < end, and returns the first of them that is not finite, or -1.
// `scratch` is the caller's own, aligned to 64 bytes, squared_singular_values_scratch(m) doubles.
using SquaredSingularValuesItems = int64_t(const SquaredSingularValuesParams& params, int64_t begin,
                                           int64_t end, double* scratch);

SquaredSingularValuesItems squared_singular_values_items_avx2, squared_singular_values_items_avx512,
    squared_singular_values_items_portable;

constexpr int64_t kMostLanes = 8;          // of one vector; two are worked on side by side
constexpr int64_t kColumnsPacked = 64;     // of the longer side, at a time
constexpr int64_t kMatricesOfAnItem = 16;  // a whole number of pairs of vectors

// Columns, the Gram matrix, three vectors of the reflections, and the tridiagonal form of a pair.
inline int64_t squared_singular_values_scratch(int64_t m) {
  const int64_t side = m + 3;  // in whole tiles
  return kMostLanes * (kColumnsPacked * side + side * (side + 1) + 3 * m) + 4 * kMostLanes * m;
}

}  // namespace pullback::cpu
