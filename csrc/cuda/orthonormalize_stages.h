// The stages of orthonormalize, each a launcher in its own file:
//
//   peaks   once: the power of two by which each row is scaled; every sample is still active
//   gram    per pass: parts of G = A A^T and H = A P^T
//   factor  per pass, one CUDA block a sample: sums the parts, finds the transform, tells whether
//           the pass is the last
//   apply   per pass: A <- transform [A; P]
//   late    once: all passes after the first kSeparatePasses, for the samples that need them, by
//           blocks of threads that meet between the stages
//
// The device skips what a sample does not need: its `passes` are zero until its last pass is known.
// A is the block, scaled, on the first pass and q on the others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "common/orthonormalize_params.h"
#include "cuda/launch.h"
#include "cuda/splits.h"
#include "cuda/tile.h"
#include "numerics/cholesky_qr.h"
#include "numerics/entry_type.h"

namespace pullback::cuda {

// Passes whose stages are launches of their own. Most blocks need one or two, few more than three.
constexpr int kSeparatePasses = 3;
static_assert(kSeparatePasses < kMostPasses);

// Blocks for each multiprocessor where it is not known yet whether a pass runs at all.
constexpr int64_t kBlocksOfUnsurePass = 4;

inline unsigned grid_of_pass(int64_t items, int pass, int device) {
  const unsigned all = grid_of(items);
  if (pass == 1) return all;
  const unsigned most = grid_of(kBlocksOfUnsurePass * multiprocessors(device));
  return all < most ? all : most;
}

// body(R): the R of the tiles of gram and apply, as a constant. From k only.
template <class Body>
auto with_tile(int64_t k, const Body& body) {
  if (k <= kTile<1>) return body(std::integral_constant<int, 1>());
  if (k <= kTile<2>) return body(std::integral_constant<int, 2>());
  return body(std::integral_constant<int, 4>());
}

// Tiles of [G, H]: those of G's upper triangle, then those of each block of H.
struct GramTiles {
  int64_t rows;               // tiles down A
  int64_t upper;              // tiles of G
  int64_t against[kAgainst];  // tiles across each block of P

  PULLBACK_HD int64_t count() const { return upper + rows * (against[0] + against[1]); }
};

inline GramTiles gram_tiles(int64_t k, int64_t p0, int64_t p1) {
  const int64_t side = with_tile(k, [](auto R) { return int64_t{kTile<R>}; });
  const int64_t rows = ceil_divide(k, side);
  return {rows, triangle(rows), {ceil_divide(p0, side), ceil_divide(p1, side)}};
}

// What lies in params.workspace.
template <class Real>
struct Workspace {
  double* partial;   // [B, splits, pieces, k, k + p] parts of [G, H]; of G the upper triangle
  double* s;         // [B, k, pitch] where shared memory is too small for it
  double* h;         // [B, k, pitch(p)] likewise
  double* distance;  // [B, k]
  Real* transform;   // [B, k, k + p]
  Real* peaks;       // [B, k, splits] largest magnitudes; infinite where an entry is not finite
  Real* scales;      // [B, k, 2] whose product scales a row; zeros for a row that is not finite
  int* exponent;     // [B, k]
  int* late;         // [1 + 2 B] how many samples need late passes; which; counters of meetings
  bool* given_up;    // [B, k]
  GramTiles tiles;   // of one sample
  int64_t pieces;    // blocks of threads that share a part: kQuarters where items are few, else 1
  size_t bytes;      // of all of it

  explicit Workspace(const OrthonormalizeParams& params)
      : tiles(gram_tiles(params.block.rows, params.against[0].rows, params.against[1].rows)),
        bytes(0) {
    const size_t batch = params.batch, k = params.block.rows, p = against_rows(params);
    const size_t splits = params.splits.count;
    const int64_t items = params.batch * tiles.count() * params.splits.count;
    pieces = items < multiprocessors(params.device) ? kQuarters : 1;
    char* const base = static_cast<char*>(params.workspace);
    take(base, batch * splits * pieces * k * (k + p), &partial);
    take(base, batch * k * odd_pitch(k), &s);
    take(base, p == 0 ? 0 : batch * k * odd_pitch(p), &h);
    take(base, batch * k, &distance);
    take(base, batch * k * (k + p), &transform);
    take(base, batch * k * splits, &peaks);
    take(base, batch * k * 2, &scales);
    take(base, batch * k, &exponent);
    take(base, 1 + 2 * batch, &late);
    take(base, batch * k, &given_up);
  }

 private:
  template <class T>
  void take(char* base, size_t count, T** array) {
    *array = base == nullptr ? nullptr : reinterpret_cast<T*>(base + bytes);
    bytes += round_up(count * sizeof(T), 16);
  }
};

// A as a pass reads it.
template <class Real>
struct PassInput {
  Rows rows;
  const Real* scales;  // null but on the first pass
};

// launch(T(), input): T is the type of the entries of A on this pass.
template <class Real, class Launch>
const char* with_pass_input(const OrthonormalizeParams& params, const Workspace<Real>& workspace,
                            int pass, const Launch& launch) {
  if (pass > 1) {
    const int64_t k = params.block.rows, columns = params.columns;
    return launch(Real(), PassInput<Real>{{params.q, k, k * columns, columns, 1}, nullptr});
  }
  return with_entry_type(params.dtype, [&](auto entry) -> const char* {
    if constexpr (std::is_same_v<Working<decltype(entry)>, Real>) {
      return launch(entry, PassInput<Real>{params.block, workspace.scales});
    } else {
      return "the block is of another dtype than the one it is worked on in";
    }
  });
}

// Each returns nullptr or what CUDA complained of, and is compiled for float and double.
template <class Real>
const char* launch_peaks(const OrthonormalizeParams&, const Workspace<Real>&, void* stream);
template <class Real>
const char* launch_gram(const OrthonormalizeParams&, const Workspace<Real>&, int pass,
                        void* stream);
template <class Real>
const char* launch_factor(const OrthonormalizeParams&, const Workspace<Real>&, int pass,
                          void* stream);
template <class Real>
const char* launch_apply(const OrthonormalizeParams&, const Workspace<Real>&, int pass,
                         void* stream);
template <class Real>
const char* launch_late(const OrthonormalizeParams&, const Workspace<Real>&, void* stream);

}  // namespace pullback::cuda
