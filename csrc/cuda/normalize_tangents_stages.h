// normalize_tangents on CUDA: what its kernels share. Entries are read and written in pieces of 16
// bytes of t; where these are not aligned, or not whole, the same thread takes the same entries one
// by one, so that the sums do not depend on it.
#pragma once

#include "common/normalize_tangents_params.h"
#include "cuda/launch.h"
#include "numerics/entry_type.h"

namespace pullback::cuda {

constexpr int64_t kMostParts = 64;  // of a group, or of the positions
constexpr int kRunEntries = 16;     // that are added in the working precision

template <class T>
constexpr int kPiece = 16 / static_cast<int>(sizeof(T));

// Where the sums of parts lie, and what becomes of them.
struct Sums {
  Splits splits;    // of a contiguous group, or of the positions
  int64_t width;    // columns of `partial`: groups, or channels last channels
  int64_t span;     // columns of a group: 1 or Cg
  double* partial;  // [k, B, splits, width, 2], sums of z and of z xh
  double* means;    // [k, B, G, 2], the first 0 where the layer is not centered
};

// Channels last: both stages of a split sum, on either side of launch_means().
template <class T>
const char* launch_channel_sums(const NormalizeTangentsParams& params, const Sums& sums,
                                void* stream);
template <class T>
const char* launch_channels(const NormalizeTangentsParams& params, const Sums& sums, void* stream);

// What a row is corrected by.
template <class Real>
struct Means {
  Real of_z, of_products, scale;
};

template <class Real>
__device__ inline Means<Real> means_of(const NormalizeTangentsParams& params, const double* means,
                                       int64_t sample, int64_t group) {
  return {static_cast<Real>(means[0]), static_cast<Real>(means[1]),
          static_cast<const Real*>(params.scale)[sample * params.groups + group]};
}

template <class E, int N>
struct alignas(16) Pack {
  E entry[N];
};

// Up to N entries, widened; zeros where there are no more.
template <int N, class E, class Real>
__device__ inline void load_piece(const E* from, int64_t count, bool aligned, Real (&to)[N]) {
  if (aligned && count >= N) {
    const Pack<E, N> pack = *reinterpret_cast<const Pack<E, N>*>(from);
#pragma unroll
    for (int j = 0; j < N; ++j) to[j] = widen(pack.entry[j]);
    return;
  }
#pragma unroll
  for (int j = 0; j < N; ++j) to[j] = j < count ? widen(from[j]) : Real(0);
}

template <int N, class E, class Real>
__device__ inline void store_piece(const Real (&from)[N], int64_t count, bool aligned, E* to) {
  if (aligned && count >= N) {
    Pack<E, N> pack;
#pragma unroll
    for (int j = 0; j < N; ++j) narrow(from[j], pack.entry + j);
    *reinterpret_cast<Pack<E, N>*>(to) = pack;
    return;
  }
#pragma unroll
  for (int j = 0; j < N; ++j) {
    if (j < count) narrow(from[j], to + j);
  }
}

// t, which becomes the result. The gain is 1 where there is none.
template <int N, class Real>
__device__ inline void project_piece(bool transposed, const Real (&xh)[N], const Real (&gain)[N],
                                     const Means<Real> (&means)[N], Real (&t)[N]) {
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const Real z = (transposed ? t[j] * gain[j] : t[j]) - means[j].of_z;
    const Real out = means[j].scale * (z - means[j].of_products * xh[j]);
    t[j] = transposed ? out : out * gain[j];
  }
}

}  // namespace pullback::cuda
