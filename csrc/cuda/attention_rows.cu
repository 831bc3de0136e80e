// What attention needs of whole rows: the logarithms of their sums, and the sums of g o.
#include "cuda/attention_stages.h"
#include "cuda/attention_tile.h"
#include "numerics/entry_type.h"

namespace pullback::cuda {
namespace {

// Logarithms of the row sums: a thread has its own largest logit of each row, and the sum relative
// to that.
template <class T, class Real>
__global__ void __launch_bounds__(kThreads, kAttentionBlocks<Real>)
    attention_row_sums(AttentionParams params) {
  PULLBACK_SHARED(memory);
  const AttentionShared<Real, kBlockRows> shared(memory);
  const int y = threadIdx.x / 16, x = threadIdx.x % 16;
  const int64_t blocks = ceil_divide(params.queries, kBlockRows);
  const int64_t items = params.batch * params.heads * blocks;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t head = item / blocks % params.heads, sample = item / blocks / params.heads;
    const int first = static_cast<int>(item % blocks) * kBlockRows;
    const int64_t key_head = head / (params.heads / params.key_heads);
    const HeadTile<T> mine(params.q, 0, sample, head, first,
                           static_cast<int>(params.queries) - first);
    Real most[kOfThread], sum[kOfThread];
#pragma unroll
    for (int i = 0; i < kOfThread; ++i) {
      most[i] = -infinity<Real>();
      sum[i] = 0;
    }
    const int keys = static_cast<int>(params.keys);
    const int end = params.causal && first + kBlockRows < keys ? first + kBlockRows : keys;
    for (int tile = 0; tile < end; tile += kBlockRows) {
      Real p[kOfThread][kOfThread] = {};
      const HeadTile<T> theirs(params.k, 0, sample, key_head, tile, keys - tile);
      add_products(shared, mine, theirs, params.depth, p);
#pragma unroll
      for (int i = 0; i < kOfThread; ++i) {
        Real larger = most[i];
#pragma unroll
        for (int j = 0; j < kOfThread; ++j) {
          p[i][j] = logit<T>(params, p[i][j], sample, head, first + y + 16 * i, tile + x + 16 * j);
          larger = p[i][j] > larger ? p[i][j] : larger;
        }
        const Real less = larger == -infinity<Real>() ? Real(0) : larger;
        sum[i] *= exponential(most[i] - less);
#pragma unroll
        for (int j = 0; j < kOfThread; ++j) sum[i] += exponential(p[i][j] - less);
        most[i] = larger;
      }
    }
#pragma unroll
    for (int i = 0; i < kOfThread; ++i) {
      Real larger = most[i];
#pragma unroll
      for (int lanes = 8; lanes > 0; lanes /= 2) {
        const Real other = __shfl_xor_sync(0xffffffffu, larger, lanes);
        larger = other > larger ? other : larger;
      }
      const Real less = larger == -infinity<Real>() ? Real(0) : larger;
      const Real total = sum_of_row(sum[i] * exponential(most[i] - less));
      const int query = first + y + 16 * i;
      if (x == 0 && query < params.queries) {
        static_cast<Real*>(params.lse)[(sample * params.heads + head) * params.queries + query] =
            total == 0 ? -infinity<Real>() : static_cast<Real>(less + log(double(total)));
      }
    }
  }
}

// Sums of g o, of a row of queries by a warp.
template <class T, class Real>
__global__ void __launch_bounds__(kThreads) centers_of_rows(AttentionParams params, HeadRows o) {
  const int64_t rows = params.batch * params.heads * params.queries, all = params.tangents * rows;
  const int64_t warps = kThreads / 32, step = static_cast<int64_t>(gridDim.x) * warps;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32; row < all;
       row += step) {
    const int64_t tangent = row / rows, query = row % params.queries;
    const int64_t head = row / params.queries % params.heads;
    const int64_t sample = row % rows / params.queries / params.heads;
    const HeadTile<T> left(params.g, tangent, sample, head, query, 1);
    const HeadTile<Real> right(o, 0, sample, head, query, 1);
    Real sum = 0;
    for (int64_t c = threadIdx.x % 32; c < params.width; c += 32) {
      sum += static_cast<Real>(widen(left.data[c])) * right.data[c];
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 16);
    sum = sum_of_row(sum);
    if (threadIdx.x % 32 == 0) static_cast<Real*>(params.sums)[row] = sum;
  }
}

template <class T, class Real>
const char* run_log_sums(const AttentionParams& params, void* stream) {
  constexpr size_t bytes = AttentionShared<Real, kBlockRows>::kBytes;
  const int64_t items = params.batch * params.heads * ceil_divide(params.queries, kBlockRows);
  const auto kernel = attention_row_sums<T, Real>;
  if (const char* error = allow_shared(kernel, bytes, params.device)) return error;
  PULLBACK_LAUNCH((attention_row_sums<T, Real>), grid_of(items), kThreads, bytes, stream, params);
  return launch_error();
}

}  // namespace

const char* attention_log_sums(const AttentionParams& params, void* stream) {
  return with_entry_type(params.dtype, [&](auto entry) {
    using T = decltype(entry);
    return run_log_sums<T, Working<T>>(params, stream);
  });
}

const char* attention_centers(const AttentionParams& params, const HeadRows& o, void* stream) {
  const int64_t rows = params.tangents * params.batch * params.heads * params.queries;
  return with_entry_type(params.dtype, [&](auto entry) {
    using T = decltype(entry);
    PULLBACK_LAUNCH((centers_of_rows<T, Working<T>>), grid_of(rows, kThreads / 32), kThreads, 0,
                    stream, params, o);
    return launch_error();
  });
}

}  // namespace pullback::cuda
