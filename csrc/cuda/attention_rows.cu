// What attention needs of whole rows: the logarithms of their sums, their peaks and their centers.
#include "cuda/attention_job.h"
#include "cuda/attention_stages.h"
#include "cuda/attention_tile.h"
#include "numerics/entry_type.h"

namespace pullback::cuda {
namespace {

// Logarithms of the row sums, or, kPeaks, the keys of the largest logits, the first of equal ones:
// a thread has its own largest logit of each row, its key, and the sum relative to it.
template <class Real, bool kPeaks>
__global__ void __launch_bounds__(kThreads, kAttentionBlocks<Real>)
    attention_rows(AttentionParams params) {
  PULLBACK_SHARED(memory);
  const AttentionShared<Real, kBlockRows> shared(memory);
  const int y = threadIdx.x / 16, x = threadIdx.x % 16;
  const int64_t blocks = ceil_divide(params.queries, kBlockRows);
  const int64_t items = params.batch * params.heads * blocks;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t head = item / blocks % params.heads, sample = item / blocks / params.heads;
    const int first = static_cast<int>(item % blocks) * kBlockRows;
    const int64_t key_head = head / (params.heads / params.key_heads);
    const HeadTile<Real> mine(params.q, 0, sample, head, first,
                              static_cast<int>(params.queries) - first);
    Real most[kOfThread], sum[kOfThread];
    int at[kOfThread];
#pragma unroll
    for (int i = 0; i < kOfThread; ++i) {
      most[i] = -infinity<Real>();
      sum[i] = 0;
      at[i] = 0;
    }
    const int keys = static_cast<int>(params.keys);
    const int end = params.causal && first + kBlockRows < keys ? first + kBlockRows : keys;
    for (int tile = 0; tile < end; tile += kBlockRows) {
      Real p[kOfThread][kOfThread] = {};
      const HeadTile<Real> theirs(params.k, 0, sample, key_head, tile, keys - tile);
      add_products(shared, mine, theirs, params.depth, p);
#pragma unroll
      for (int i = 0; i < kOfThread; ++i) {
        Real larger = most[i];
#pragma unroll
        for (int j = 0; j < kOfThread; ++j) {
          const int key = tile + x + 16 * j;
          p[i][j] = logit<Real>(params, p[i][j], sample, head, first + y + 16 * i, key);
          at[i] = p[i][j] > larger ? key : at[i];
          larger = p[i][j] > larger ? p[i][j] : larger;
        }
        if (!kPeaks) {
          const Real less = larger == -infinity<Real>() ? Real(0) : larger;
          sum[i] *= exponential(most[i] - less);
#pragma unroll
          for (int j = 0; j < kOfThread; ++j) sum[i] += exponential(p[i][j] - less);
        }
        most[i] = larger;
      }
    }
#pragma unroll
    for (int i = 0; i < kOfThread; ++i) {
      Real larger = most[i];
#pragma unroll
      for (int lanes = 8; lanes > 0; lanes /= 2) {
        const Real other = __shfl_xor_sync(0xffffffffu, larger, lanes);
        const int other_at = __shfl_xor_sync(0xffffffffu, at[i], lanes);
        const bool other_first = other == larger && other_at < at[i];
        at[i] = other > larger || other_first ? other_at : at[i];
        larger = other > larger ? other : larger;
      }
      const int query = first + y + 16 * i;
      const bool writes = x == 0 && query < params.queries;
      const int64_t row = (sample * params.heads + head) * params.queries + query;
      if (kPeaks) {
        if (writes) params.peaks[row] = at[i];
        continue;
      }
      const Real less = larger == -infinity<Real>() ? Real(0) : larger;
      const Real total = sum_of_row(sum[i] * exponential(most[i] - less));
      if (writes) params.lse[row] = total == 0 ? -infinity<double>() : less + log(double(total));
    }
  }
}

// The place of a row of queries among all of [T, B, H, Sq].
struct QueryRow {
  int64_t tangent, sample, head, key_head, query, peak;

  __device__ QueryRow(const AttentionParams& params, int64_t row) {
    const int64_t rows = params.batch * params.heads * params.queries;
    tangent = row / rows;
    query = row % params.queries;
    head = row / params.queries % params.heads;
    key_head = head / (params.heads / params.key_heads);
    sample = row % rows / params.queries / params.heads;
    peak = params.peaks[row % rows];
  }

  template <class T>
  __device__ const T* of_query(const HeadRows& x, int64_t which) const {
    return HeadTile<T>(x, which, sample, head, query, 1).data;
  }
  template <class T>
  __device__ const T* of_peak(const HeadRows& x, int64_t which) const {
    return HeadTile<T>(x, which, sample, key_head, peak, 1).data;
  }
};

// sum += products of two rows, in order, as a tile's products are added: digit by digit the same.
template <class Real, class T>
__device__ void add_products_of_rows(const T* left, const T* right, int64_t width, Real* sum) {
  for (int64_t c = 0; c < width; ++c) {
    *sum += static_cast<Real>(widen(left[c])) * static_cast<Real>(widen(right[c]));
  }
}

// Centers, each by a thread.
template <class Real>
__global__ void __launch_bounds__(kThreads) centers_of_tangents(AttentionParams params) {
  const int64_t all = params.tangents * params.batch * params.heads * params.queries;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < all; i += step) {
    const QueryRow row(params, i);
    Real sum = 0;
    if (params.dq.data != nullptr) {
      add_products_of_rows(row.of_query<Real>(params.dq, row.tangent),
                           row.of_peak<Real>(params.k, 0), params.depth, &sum);
    }
    if (params.dk.data != nullptr) {
      add_products_of_rows(row.of_query<Real>(params.q, 0),
                           row.of_peak<Real>(params.dk, row.tangent), params.depth, &sum);
    }
    static_cast<Real*>(params.sums)[i] = sum * static_cast<Real>(params.scale);
  }
}

// Those of 16-bit entries begin with g v*^T in params.sums.
template <class T, class Real>
__global__ void __launch_bounds__(kThreads)
    centers_of_cotangents(AttentionParams params, HeadRows o) {
  const int64_t all = params.tangents * params.batch * params.heads * params.queries;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < all; i += step) {
    const QueryRow row(params, i);
    const T* const g = row.of_query<T>(params.g, row.tangent);
    const T* const v = row.of_peak<T>(params.v, 0);
    const Real* const mine = row.of_query<Real>(o, 0);
    Real* const center = static_cast<Real*>(params.sums) + i;
    Real sum = 0, rest = 0;
    if constexpr (sizeof(T) == 2) {
      sum = *center;
    } else {
      add_products_of_rows(g, v, params.width, &sum);
    }
    for (int64_t c = 0; c < params.width; ++c) {
      rest += static_cast<Real>(widen(g[c])) * (mine[c] - static_cast<Real>(widen(v[c])));
    }
    *center = sum + rest;
  }
}

template <class Real, bool kPeaks>
const char* run_rows(const AttentionParams& params, void* stream) {
  constexpr size_t bytes = AttentionShared<Real, kBlockRows>::kBytes;
  const int64_t items = params.batch * params.heads * ceil_divide(params.queries, kBlockRows);
  const auto kernel = attention_rows<Real, kPeaks>;
  if (const char* error = allow_shared(kernel, bytes, params.device)) return error;
  PULLBACK_LAUNCH((attention_rows<Real, kPeaks>), grid_of(items), kThreads, bytes, stream, params);
  return launch_error();
}

// Products of 16-bit entries are the tensor cores' work.
template <class T, bool kPeaks>
const char* rows(const AttentionParams& params, void* stream) {
  if constexpr (sizeof(T) == 2) {
    return attention_rows_by_tensor_cores(params, kPeaks, stream);
  } else {
    return run_rows<T, kPeaks>(params, stream);
  }
}

unsigned blocks_of_rows(const AttentionParams& params) {
  return grid_of(params.tangents * params.batch * params.heads * params.queries, kThreads);
}

}  // namespace

const char* attention_log_sums(const AttentionParams& params, void* stream) {
  return with_entry_type(params.dtype,
                         [&](auto entry) { return rows<decltype(entry), false>(params, stream); });
}

const char* attention_centers_of_tangents(const AttentionParams& params, const AttentionJob& job,
                                          void* stream) {
  if (job.times_products.data == nullptr || params.keys == 0) return nullptr;
  return with_entry_type(params.dtype, [&](auto entry) {
    using T = decltype(entry);
    if (const char* error = rows<T, true>(params, stream)) return error;
    if constexpr (sizeof(T) == 2) {
      return products_with_peaks_by_tensor_cores(params, job, stream);
    } else {
      PULLBACK_LAUNCH(centers_of_tangents<T>, blocks_of_rows(params), kThreads, 0, stream, params);
      return launch_error();
    }
  });
}

const char* attention_centers_of_cotangents(const AttentionParams& params, const AttentionJob& job,
                                            const HeadRows& o, void* stream) {
  if (params.keys == 0) return nullptr;
  return with_entry_type(params.dtype, [&](auto entry) {
    using T = decltype(entry);
    if (const char* error = rows<T, true>(params, stream)) return error;
    if constexpr (sizeof(T) == 2) {
      if (const char* error = products_with_peaks_by_tensor_cores(params, job, stream)) {
        return error;
      }
    }
    PULLBACK_LAUNCH((centers_of_cotangents<T, Working<T>>), blocks_of_rows(params), kThreads, 0,
                    stream, params, o);
    return launch_error();
  });
}

}  // namespace pullback::cuda
