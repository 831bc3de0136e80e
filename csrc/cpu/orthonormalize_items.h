// What the driver of orthonormalize (orthonormalize.cpp) tells the code that is compiled once per
// instruction set (orthonormalize_kernel.h). An item is a part of N of a sample.
#pragma once

#include <cstdint>

#include "common/orthonormalize_params.h"

namespace pullback::cpu {

// The products of a sample, or of one part of it: the lower triangle of G = A A^T, [k, pitch], from
// entry 0 on, and H = A P^T, [k, p], from entry h on.
struct Products {
  int64_t pitch;
  int64_t h;
  int64_t entries;  // in all
};

// The work on the block between two calls of ladder_rung(). It reads the block, scaled by powers of
// two, as long as nothing has been written (number <= 1), and q from then on.
struct OrthonormalizeRung {
  const OrthonormalizeParams* params;
  int number;              // of the transform that is applied; 0: none, the products alone
  const int64_t* samples;  // those still climbing; item = (place in samples) * splits + part
  const bool* last;        // [B] no products are wanted
  const int* exponent;     // [B, k] row i is multiplied by 2^-exponent[i]
  const void* transform;   // [B, k, k + p] in the dtype of q
  const bool* fresh;       // [B, k] rows to be drawn at random
  Products layout;
  double* products;  // [B, splits, layout.entries], of each part apart
};

// `peaks` [items, k] gets the largest magnitude in each row of the part, as the bits of an entry of
// the block: they compare as the numbers do, and infinity and NaN are largest.
void orthonormalize_peaks_avx2(const OrthonormalizeParams& params, int64_t begin, int64_t end,
                               int64_t* peaks);
void orthonormalize_peaks_avx512(const OrthonormalizeParams& params, int64_t begin, int64_t end,
                                 int64_t* peaks);
void orthonormalize_peaks_portable(const OrthonormalizeParams& params, int64_t begin, int64_t end,
                                   int64_t* peaks);

// `scratch` is the caller's own, aligned to 64 bytes.
void orthonormalize_items_avx2(const OrthonormalizeRung& rung, int64_t begin, int64_t end,
                               char* scratch);
void orthonormalize_items_avx512(const OrthonormalizeRung& rung, int64_t begin, int64_t end,
                                 char* scratch);
void orthonormalize_items_portable(const OrthonormalizeRung& rung, int64_t begin, int64_t end,
                                   char* scratch);

}  // namespace pullback::cpu
