// What attention needs of whole rows (attention_rows.cu) where entries have 16 bits: by tensor
// cores, so that logits and products are the same digit by digit as where sums are taken.
#include "cuda/attention_fragments.h"
#include "cuda/attention_job.h"
#include "cuda/attention_stages.h"

namespace pullback::cuda {
namespace {

// Logarithms of the row sums, or, kPeaks, the keys of the largest logits, the first of equal ones:
// a lane has its own largest logit of each row, its key, and the sum relative to it.
template <class T, bool kPeaks>
__global__ void __launch_bounds__(kThreads, 1) attention_rows_of_warps(AttentionParams params) {
  PULLBACK_SHARED(bytes);
  T* const memory = reinterpret_cast<T*>(bytes);
  const LanePlace at;
  const int queries = static_cast<int>(params.queries), keys = static_cast<int>(params.keys);
  const int64_t blocks = ceil_divide(queries, kMineRows);
  const int64_t items = params.batch * params.heads * blocks;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t head = item / blocks % params.heads, sample = item / blocks / params.heads;
    const int first = static_cast<int>(item % blocks) * kMineRows;
    const int64_t key_head = head / (params.heads / params.key_heads);
    const bool busy = first + kWarpRows * at.warp < queries;
    const HeadStrips<T> mine(params.q, 0, sample, head, first, queries - first);
    float most[2] = {-infinity<float>(), -infinity<float>()}, sum[2] = {};
    int peak[2] = {};
    const int end = params.causal && first + kMineRows < keys ? first + kMineRows : keys;
    for (int tile = 0; tile < end; tile += kTheirRows) {
      Fragments p[1] = {};
      const HeadStrips<T> theirs(params.k, 0, sample, key_head, tile, keys - tile);
      add_products<false, false>(memory, mine, theirs, 1, params.depth, busy, p);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float larger = most[half];
#pragma unroll
        for (int i = 0; i < 2 * kFragments; ++i) {
          const int j = i / 2, n = 2 * half + i % 2, key = tile + at.column(j, n);
          const float value = logit<T>(params, p[0][j][n], sample, head, first + at.row(n), key);
          peak[half] = value > larger ? key : peak[half];
          larger = value > larger ? value : larger;
          p[0][j][n] = value;
        }
        if (!kPeaks) {
          const float less = larger == -infinity<float>() ? 0 : larger;
          sum[half] *= exponential(most[half] - less);
#pragma unroll
          for (int i = 0; i < 2 * kFragments; ++i) {
            sum[half] += exponential(p[0][i / 2][2 * half + i % 2] - less);
          }
        }
        most[half] = larger;
      }
    }
    if (!busy) continue;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float larger = most[half];
#pragma unroll
      for (int lanes = 2; lanes > 0; lanes /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, larger, lanes);
        const int other_peak = __shfl_xor_sync(0xffffffffu, peak[half], lanes);
        const bool other_first = other == larger && other_peak < peak[half];
        peak[half] = other > larger || other_first ? other_peak : peak[half];
        larger = other > larger ? other : larger;
      }
      const int query = first + at.row(2 * half);
      const bool writes = at.lane % 4 == 0 && query < queries;
      const int64_t row = (sample * params.heads + head) * queries + query;
      if (kPeaks) {
        if (writes) params.peaks[row] = peak[half];
        continue;
      }
      const float less = larger == -infinity<float>() ? 0 : larger;
      const float total = sum_of_lanes(sum[half] * exponential(most[half] - less));
      if (writes) params.lse[row] = total == 0 ? -infinity<double>() : less + log(double(total));
    }
  }
}

// Two entries of a row, from column c on, as a register of a fragment; zeros beyond.
template <class T>
__device__ uint32_t pair_of(const T* row, int64_t c, int64_t width) {
  const uint32_t low = c < width ? row[c].bits : 0, high = c + 1 < width ? row[c + 1].bits : 0;
  return high << 16 | low;
}

// Products of queries with rows of their peaks, by warps: of those of 16 queries with as many peaks
// the diagonal is what is asked for.
template <class T>
__global__ void __launch_bounds__(kThreads)
    products_with_peaks(AttentionParams params, AttentionJob job) {
  const LanePlace at;
  const int64_t pieces = ceil_divide(params.queries, kWarpRows);
  const int64_t all = params.tangents * params.batch * params.heads * pieces;
  const int64_t step = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  for (int64_t i = blockIdx.x * (kThreads / kWarp) + at.warp; i < all; i += step) {
    const int64_t head = i / pieces % params.heads,
                  key_head = head * params.key_heads / params.heads;
    const int64_t sample = i / pieces / params.heads % params.batch;
    const int64_t tangent = i / pieces / params.heads / params.batch;
    const int64_t rows = (i / pieces % (params.batch * params.heads)) * params.queries;
    int64_t query[2], peak[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t mine = i % pieces * kWarpRows + at.lane / 4 + 8 * half;
      query[half] = mine < params.queries ? mine : params.queries - 1;
      peak[half] = params.peaks[rows + query[half]];
    }
    float sum[2][4] = {};  // of the first 8 peaks, of the others
    for (const auto& product : job.products) {
      if (product.mine.data == nullptr) continue;
      const T* mine[2];
      const T* theirs[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        mine[half] = HeadTile<T>(product.mine, tangent, sample, head, query[half], 1).data;
        theirs[half] = HeadTile<T>(product.theirs, tangent, sample, key_head, peak[half], 1).data;
      }
      for (int64_t s = 0; s < product.width; s += kDepth<T>) {
        const int64_t c = s + at.lane % 4 * 2;
        const uint32_t a[4] = {
            pair_of(mine[0], c, product.width), pair_of(mine[1], c, product.width),
            pair_of(mine[0], c + 8, product.width), pair_of(mine[1], c + 8, product.width)};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint32_t b[2] = {pair_of(theirs[half], c, product.width),
                                 pair_of(theirs[half], c + 8, product.width)};
          PULLBACK_MULTIPLY(T, a, b, sum[half]);
        }
      }
    }
    // Row g and column g, row g + 8 and column g + 8.
    if (at.lane % 4 == at.lane / 8) {
      const int odd = at.lane / 4 % 2;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t mine = i % pieces * kWarpRows + at.lane / 4 + 8 * half;
        const float found = odd == 1 ? sum[half][2 * half + 1] : sum[half][2 * half];
        if (mine < params.queries) {
          static_cast<float*>(
              params.sums)[tangent * params.batch * params.heads * params.queries + rows + mine] =
              rounded_product(found, static_cast<float>(job.products_scale));
        }
      }
    }
  }
}

template <class T, bool kPeaks>
const char* run_rows(const AttentionParams& params, void* stream) {
  constexpr size_t bytes = sizeof(T) * (kMineStrip + kTheirStrip);
  const int64_t items = params.batch * params.heads * ceil_divide(params.queries, kMineRows);
  const auto kernel = attention_rows_of_warps<T, kPeaks>;
  if (const char* error = allow_shared(kernel, bytes, params.device)) return error;
  PULLBACK_LAUNCH((attention_rows_of_warps<T, kPeaks>), grid_of(items), kThreads, bytes, stream,
                  params);
  return launch_error();
}

template <class T>
const char* run(const AttentionParams& params, bool peaks, void* stream) {
  return peaks ? run_rows<T, true>(params, stream) : run_rows<T, false>(params, stream);
}

}  // namespace

const char* attention_rows_by_tensor_cores(const AttentionParams& params, bool peaks,
                                           void* stream) {
  return params.dtype == Dtype::kFloat16 ? run<Half>(params, peaks, stream)
                                         : run<BFloat16>(params, peaks, stream);
}

const char* products_with_peaks_by_tensor_cores(const AttentionParams& params,
                                                const AttentionJob& job, void* stream) {
  const int64_t warps =
      params.tangents * params.batch * params.heads * ceil_divide(params.queries, kWarpRows);
  const unsigned grid = grid_of(warps, kThreads / kWarp);
  if (params.dtype == Dtype::kFloat16) {
    PULLBACK_LAUNCH(products_with_peaks<Half>, grid, kThreads, 0, stream, params, job);
  } else {
    PULLBACK_LAUNCH(products_with_peaks<BFloat16>, grid, kThreads, 0, stream, params, job);
  }
  return launch_error();
}

}  // namespace pullback::cuda
