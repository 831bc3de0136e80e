// The stages of orthonormalize, each a launcher in its own file:
//
//   peaks   once: the power of two by which each row is scaled; every sample is still active
//   gram    per rung: parts of G = A A^T and H = A P^T
//   small   per rung, one CUDA block a sample: sums the parts, climbs a rung, tells whether it was
//           the last
//   apply   per rung: A <- transform [A; P]
//
// All rungs that there can be are enqueued, and the device skips those that a sample does not need:
// its `passes` are zero until its last rung is known. A is the block, scaled, on the first rung and
// q on the others.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/orthonormalize_params.h"
#include "cuda/launch.h"
#include "numerics/half.h"
#include "numerics/ladder.h"

namespace pullback::cuda {

// What lies in params.workspace.
template <class Real>
struct LadderWork {
  double* partial;   // [B, splits, k, k + p] parts of [G, H]; of G the upper triangle
  double* s;         // [B, k, pitch] where shared memory is too small for it
  double* h;         // [B, k, p]
  double* distance;  // [B, k]
  Real* transform;   // [B, k, k + p]
  Real* peaks;       // [B, k, splits] largest magnitudes; infinite where an entry is not finite
  Real* factors;     // [B, k, 2] whose product scales a row; zeros for a row that is not finite
  int* exponent;     // [B, k]
  bool* fresh;       // [B, k]
  size_t bytes;      // of all of it

  explicit LadderWork(const OrthonormalizeParams& params) : bytes(0) {
    const size_t batch = params.batch, k = params.block.rows, p = params.against_rows();
    const size_t splits = params.splits.count;
    char* const base = static_cast<char*>(params.workspace);
    take(base, batch * splits * k * (k + p), &partial);
    take(base, batch * k * ladder_pitch(k), &s);
    take(base, batch * k * p, &h);
    take(base, batch * k, &distance);
    take(base, batch * k * (k + p), &transform);
    take(base, batch * k * splits, &peaks);
    take(base, batch * k * 2, &factors);
    take(base, batch * k, &exponent);
    take(base, batch * k, &fresh);
  }

 private:
  template <class T>
  void take(char* base, size_t count, T** array) {
    *array = base == nullptr ? nullptr : reinterpret_cast<T*>(base + bytes);
    bytes += (count * sizeof(T) + 15) / 16 * 16;
  }
};

PULLBACK_HD inline int64_t against_rows(const OrthonormalizeParams& params) {
  return params.against[0].rows + params.against[1].rows;
}

// A as a rung reads it.
template <class Real>
struct LadderBlock {
  Rows rows;
  const Real* factors;  // null but on the first rung
};

// launch(T(), block): T is the type of the entries of A on this rung.
template <class Real, class Launch>
const char* with_block(const OrthonormalizeParams& params, const LadderWork<Real>& work, int rung,
                       const Launch& launch) {
  if (rung > 1) {
    const int64_t k = params.block.rows, columns = params.columns;
    return launch(Real(), LadderBlock<Real>{{params.q, k, k * columns, columns, 1}, nullptr});
  }
  const LadderBlock<Real> block{params.block, work.factors};
  if constexpr (sizeof(Real) == 4) {
    if (params.dtype == Dtype::kFloat16) return launch(Half(), block);
    if (params.dtype == Dtype::kBFloat16) return launch(BFloat16(), block);
  }
  return launch(Real(), block);
}

// Each returns nullptr or what CUDA complained of, and is compiled for float and double.
template <class Real>
const char* ladder_peaks(const OrthonormalizeParams&, const LadderWork<Real>&, void* stream);
template <class Real>
const char* ladder_gram(const OrthonormalizeParams&, const LadderWork<Real>&, int rung,
                        void* stream);
template <class Real>
const char* ladder_small(const OrthonormalizeParams&, const LadderWork<Real>&, int rung,
                         void* stream);
template <class Real>
const char* ladder_apply(const OrthonormalizeParams&, const LadderWork<Real>&, int rung,
                         void* stream);

// Rows of A in a tile of gram and apply: 16 times this. From k only.
constexpr int kNarrow = 2, kWide = 4;
inline bool is_narrow(int64_t k) {
  return k <= 16 * kNarrow;
}

// Tiles of [G, H]: those of G's upper triangle, then those of each block of H.
struct LadderTiles {
  int64_t rows;               // tiles down A
  int64_t upper;              // tiles of G
  int64_t against[kAgainst];  // tiles across each block of P

  PULLBACK_HD int64_t count() const { return upper + rows * (against[0] + against[1]); }
};

inline LadderTiles ladder_tiles(int64_t k, int64_t p0, int64_t p1) {
  const int64_t side = 16 * (is_narrow(k) ? kNarrow : kWide);
  const int64_t rows = (k + side - 1) / side;
  return {rows, rows * (rows + 1) / 2, {(p0 + side - 1) / side, (p1 + side - 1) / side}};
}

}  // namespace pullback::cuda
