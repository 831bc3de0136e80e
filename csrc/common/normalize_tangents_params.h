// What the kernels of normalize_tangents are told.
#pragma once

#include "common/block.h"

namespace pullback {

constexpr int64_t kLeastChannels = 16;  // G Cg of channels that are taken as they lie: a vector

// Strides are in elements and may be zero. In memory the entries of a group are either contiguous,
// [Cg, P], or, channels last, [P, G, Cg] for all groups: then position_stride is G Cg. Real is
// float64 for float64 tangents, else float32.
struct NormalizeTangentsParams {
  const void* t;           // [k, B, G, Cg, P]
  const void* normalized;  // [B, G, Cg, P], Real, in the memory order of t
  const void* scale;       // [B, G], Real, contiguous
  const void* gain;        // [B, G, Cg, P], Real; nullptr for 1
  void* out;               // [k, B, G, Cg, P], in the memory order of t
  Dtype dtype;             // of t and out
  int64_t tangents;        // k
  int64_t batch;           // B
  int64_t groups;          // G
  int64_t channels;        // Cg
  int64_t positions;       // P
  int64_t t_strides[3];    // of k, B and G; channels last: of k and B
  int64_t out_strides[3];
  int64_t normalized_strides[2];  // of B and G
  int64_t gain_strides[4];        // of B, G, Cg and P
  bool channels_last;
  bool centered;
  bool transposed;
  double* partial;  // CUDA only: sums of parts, where groups are cut
  bool aligned;     // CUDA only: whether pieces of 16 bytes may be read and written
  int device;       // CUDA only
};

}  // namespace pullback
