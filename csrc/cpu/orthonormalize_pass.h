// What the driver of orthonormalize (orthonormalize.cpp) tells the code that is compiled once per
// instruction set (orthonormalize_kernel.h). An item is a part of N of a sample.
#pragma once

#include <climits>
#include <cstdint>

#include "common/orthonormalize_params.h"
#include "cpu/panel.h"

namespace pullback::cpu {

// Where the products of a sample, or of one part of it, lie: the lower triangle of G = A A^T,
// [k, pitch], from entry 0 on, and H = A P^T, [k, p], from entry h on.
struct ProductLayout {
  int64_t pitch;
  int64_t h;
  int64_t entries;  // in all
};

// Exponents of a row's largest magnitude that are none.
constexpr int kZeroRow = INT_MIN;
constexpr int kNotFinite = INT_MAX;

// The work on the block between two calls of cholesky_qr_pass(): q <- transform [A; P], and the
// products of that. A is the block as long as nothing has been written (number <= 1), and q from
// then on. The block's rows are multiplied by powers of two: for the first products (number 0) by
// those of the part, which is thus read from memory once, and for the transform by those of the
// whole row.
struct OrthonormalizePass {
  const OrthonormalizeParams* params;
  int number;              // of the transform that is applied; 0: none, the products alone
  const int64_t* samples;  // those to work on; item = (place in samples) * splits + part
  const bool* last;        // [B] this pass is the sample's last: no products are wanted
  int* part_exponent;      // [B, splits, k] out with number 0: floor(log2 of the largest magnitude)
  const int* exponent;     // [B, k] the same of the whole row; 0 for a zero row
  const void* transform;   // [B, k, k + p] in the dtype of q
  const bool* given_up;    // [B, k] rows to be drawn at random
  ProductLayout layout;
  double* products;  // [B, splits, layout.entries], of each part apart
};

// `scratch` is the caller's own, aligned to 64 bytes, pass_scratch_bytes() long.
using PassItems = void(const OrthonormalizePass& pass, int64_t begin, int64_t end, char* scratch);

PassItems orthonormalize_items_avx2, orthonormalize_items_avx512, orthonormalize_items_portable;

inline int64_t pass_scratch_bytes(int64_t k, int64_t p) {
  return (3 * k + 2 * p) * kPitchBytes + k * (k + p) * kMostSums * 8;
}

}  // namespace pullback::cpu
