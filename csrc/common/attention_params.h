// What the kernels of the attention ops are told.
#pragma once

#include "common/block.h"

namespace pullback {

// [T, B, H, S, entries] of the call's dtype, the entries of a row contiguous. Strides are of T, B,
// H and S, in elements; they may be zero.
struct HeadRows {
  const void* data;  // nullptr where it is not given
  int64_t strides[4];
};

enum class AttentionKind : int { kForward, kTangents, kCotangentsOfQueries, kCotangentsOfKeys };

// Real is float64 for float64, else float32. Results are contiguous.
struct AttentionParams {
  AttentionKind kind;
  Dtype dtype;
  HeadRows q;               // [1, B, H, Sq, d]
  HeadRows k;               // [1, B, Hk, Sk, d]
  HeadRows v;               // [1, B, Hk, Sk, e]
  HeadRows o;               // [1, B, H, Sq, e]
  HeadRows dq;              // [T, B, H, Sq, d]
  HeadRows dk;              // [T, B, Hk, Sk, d]
  HeadRows dv;              // [T, B, Hk, Sk, e]
  HeadRows g;               // [T, B, H, Sq, e]
  const void* bias;         // [B, H, Sq, Sk]; nullptr for none
  int64_t bias_strides[4];  // of B, H, Sq and Sk
  double* lse;              // [B, H, Sq], contiguous; written by kForward
  void* sums;               // [T, B, H, Sq], Real: centers of rows, see cuda/attention.cu; of
                            // cotangents, rows of g o, which those of keys read
  int* peaks;               // [B, H, Sq]: the key of greatest weight of a query; CUDA only
  void* exact;              // [B, H, Sq, e], Real: o without its rounding; CUDA, 16-bit types only
  void* out;                // o, its tangents, or cotangents of q
  void* out_k;              // [T, B, Hk, Sk, d]
  void* out_v;              // [T, B, Hk, Sk, e]
  int64_t tangents;         // T
  int64_t batch;            // B
  int64_t heads;            // H
  int64_t key_heads;        // Hk
  int64_t queries;          // Sq
  int64_t keys;             // Sk
  int64_t depth;            // d
  int64_t width;            // e
  double scale;
  bool causal;  // key j is seen by the queries i >= j
  int device;   // CUDA only
};

}  // namespace pullback
