// normalize_tangents on CUDA: a contiguous group of some tangents, as a team of threads reads, sums
// and writes it.
#pragma once

#include "cuda/normalize_tangents_stages.h"

namespace pullback::cuda {
namespace {

constexpr int kTangents = 2;  // that share what is read of the primal

// A group of the primal, and some tangents of it.
struct Item {
  int64_t sample, group, part, tangent;
  int count;  // of tangents
};

PULLBACK_HD int64_t chunks_of(const NormalizeTangentsParams& params) {
  return ceil_divide(params.tangents, kTangents);
}

// Item `index` of [B, G, parts, chunks].
__device__ Item item_at(const NormalizeTangentsParams& params, int64_t parts, int64_t index) {
  const int64_t chunks = chunks_of(params), row = index / chunks / parts;
  const int64_t tangent = index % chunks * kTangents, left = params.tangents - tangent;
  return {row / params.groups, row % params.groups, index / chunks % parts, tangent,
          left < kTangents ? static_cast<int>(left) : kTangents};
}

// Whether a contiguous group's gain is one for every entry, and not one for every channel.
PULLBACK_HD bool gain_is_flat(const NormalizeTangentsParams& params) {
  return (params.positions == 1 || params.gain_strides[3] == 1) &&
         (params.channels == 1 || params.gain_strides[2] == params.positions);
}

// The entries of an item's group.
template <class T>
class Group {
 public:
  using Real = Working<T>;
  static constexpr int N = kPiece<T>;

  __device__ Group(const NormalizeTangentsParams& params, const Item& item)
      : params_(params),
        t_(static_cast<const T*>(params.t) + offset(params.t_strides, item)),
        out_(static_cast<T*>(params.out) + offset(params.out_strides, item)),
        xh_(static_cast<const Real*>(params.normalized) +
            item.sample * params.normalized_strides[0] + item.group * params.normalized_strides[1]),
        gain_(params.gain == nullptr
                  ? nullptr
                  : static_cast<const Real*>(params.gain) + item.sample * params.gain_strides[0] +
                        item.group * params.gain_strides[1]),
        flat_(gain_is_flat(params)),
        count_(item.count) {}

  // The team's sums of z and z xh over begin .. end, not yet added up: those of this thread.
  template <class Team>
  __device__ void sum(const Team& team, int64_t begin, int64_t end,
                      double (&sums)[kTangents][2]) const {
    constexpr int pieces = kRunEntries / N;
    const int64_t step = int64_t{team.size()} * N;
    for (int64_t first = begin + team.rank() * N; first < end; first += pieces * step) {
      Real z[kTangents] = {}, products[kTangents] = {};
#pragma unroll
      for (int u = 0; u < pieces; ++u) {
        const int64_t e = first + u * step, left = end - e;
        if (left <= 0) break;
        Real xh[N], gain[N];
        load_piece(xh_ + e, left, params_.aligned, xh);
        if (params_.transposed) load_gain(e, left, gain);
#pragma unroll
        for (int i = 0; i < kTangents; ++i) {
          if (i >= count_) continue;
          Real t[N];
          load_piece(t_ + i * params_.t_strides[0] + e, left, params_.aligned, t);
#pragma unroll
          for (int j = 0; j < N; ++j) {
            const Real entry = params_.transposed ? t[j] * gain[j] : t[j];
            z[i] += entry;
            products[i] += entry * xh[j];
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kTangents; ++i) {
        sums[i][0] += z[i];
        sums[i][1] += products[i];
      }
    }
  }

  template <class Team>
  __device__ void write(const Team& team, int64_t begin, int64_t end,
                        const Means<Real> (&means)[kTangents]) const {
    const int64_t step = int64_t{team.size()} * N;
    for (int64_t e = begin + team.rank() * N; e < end; e += step) {
      const int64_t left = end - e;
      Real xh[N], gain[N], t[kTangents][N];
#pragma unroll
      for (int i = 0; i < kTangents; ++i) {
        if (i >= count_) continue;
        load_piece(t_ + i * params_.t_strides[0] + e, left, params_.aligned, t[i]);
      }
      load_piece(xh_ + e, left, params_.aligned, xh);
      load_gain(e, left, gain);
#pragma unroll
      for (int i = 0; i < kTangents; ++i) {
        if (i >= count_) continue;
        Means<Real> same[N];
#pragma unroll
        for (int j = 0; j < N; ++j) same[j] = means[i];
        project_piece(params_.transposed, xh, gain, same, t[i]);
        store_piece(t[i], left, params_.aligned, out_ + i * params_.out_strides[0] + e);
      }
    }
  }

 private:
  __device__ static int64_t offset(const int64_t (&strides)[3], const Item& item) {
    return item.tangent * strides[0] + item.sample * strides[1] + item.group * strides[2];
  }

  __device__ int64_t channel_of(int64_t entry) const {
    if (entry <= UINT32_MAX) {  // a division of 64 bits takes five times as long
      return static_cast<uint32_t>(entry) / static_cast<uint32_t>(params_.positions);
    }
    return entry / params_.positions;
  }

  // One for every entry, or one for every channel.
  __device__ void load_gain(int64_t entry, int64_t left, Real (&gain)[N]) const {
    if (gain_ != nullptr && flat_) {
      load_piece(gain_ + entry, left, params_.aligned, gain);
      return;
    }
    const int64_t channel = gain_ == nullptr ? 0 : channel_of(entry);
    const int64_t end = (channel + 1) * params_.positions - entry;  // of the channel
#pragma unroll
    for (int j = 0; j < N; ++j) {
      gain[j] = Real(1);
      if (gain_ == nullptr || j >= left) continue;
      gain[j] = gain_[(j < end ? channel : channel_of(entry + j)) * params_.gain_strides[2]];
    }
  }

  const NormalizeTangentsParams& params_;
  const T* t_;
  T* out_;
  const Real *xh_, *gain_;
  bool flat_;
  int count_;
};

}  // namespace
}  // namespace pullback::cuda
