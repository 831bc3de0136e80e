// Sums of attention (attention.cu) where entries have 16 bits: by tensor cores.
#include "cuda/attention_fragments.h"
#include "cuda/attention_job.h"

namespace pullback::cuda {
namespace {

// Tangents in a group: as many sums as registers hold.
template <int kColumns>
constexpr int kTensorGroup = 128 / kColumns;

template <int kColumns>
constexpr size_t kTensorBytes =
    sizeof(uint16_t) * (kTensorGroup<kColumns> * kMineStrip + kTheirStrip);

template <class T, class Out, int kColumns, bool kOfKeys>
__global__ void __launch_bounds__(kThreads)
    attention_sums_of_warps(AttentionParams params, AttentionJob job) {
  constexpr int kMost = kTensorGroup<kColumns>;
  PULLBACK_SHARED(bytes);
  T* const memory = reinterpret_cast<T*>(bytes);
  const LanePlace at;
  const int length = kOfKeys ? params.keys : params.queries;
  const int others = kOfKeys ? params.queries : params.keys;
  const int64_t heads = kOfKeys ? params.key_heads : params.heads;
  const int64_t served = params.heads / params.key_heads;
  const int64_t blocks = ceil_divide(length, kMineRows), chunks = ceil_divide(job.width, kColumns);
  const int64_t groups = ceil_divide(params.tangents, kMost);
  const int64_t items = groups * chunks * params.batch * heads * blocks;
  const int64_t rows = params.batch * params.heads * params.queries;
  const bool multiplies = job.times_products.data != nullptr;

  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int first = static_cast<int>(item % blocks) * kMineRows;
    const int64_t head = item / blocks % heads;
    const int64_t sample = item / blocks / heads % params.batch;
    const int64_t which = item / blocks / heads / params.batch;
    const int column = static_cast<int>(which % chunks) * kColumns;
    const int64_t begin = which / chunks * kMost;
    const int group = params.tangents - begin < kMost ? params.tangents - begin : kMost;
    const bool busy = first + kWarpRows * at.warp < length;
    float sum[kMost][kColumns / 8][4] = {};
    float mu[kMost][2] = {};

    for (int64_t other = 0; other < (kOfKeys ? served : 1); ++other) {
      const int64_t their_head = kOfKeys ? head * served + other : head / served;
      const int64_t query_head = kOfKeys ? their_head : head;
      const int64_t row = (sample * params.heads + query_head) * params.queries;
      // Of causal attention tiles that see nothing of each other are left out.
      const int from = params.causal && kOfKeys ? first : 0;
      const int end =
          params.causal && !kOfKeys && first + kMineRows < others ? first + kMineRows : others;
      for (int tile = from; tile < end; tile += kTheirRows) {
        const auto mine = [&](const HeadRows& x) {
          return HeadStrips<T>(x, begin, sample, head, first, length - first);
        };
        const auto theirs = [&](const HeadRows& x) {
          return HeadStrips<T>(x, begin, sample, their_head, tile, others - tile);
        };
        const auto query_of = [&](int j, int n) {
          return kOfKeys ? tile + at.column(j, n) : first + at.row(n);
        };
        Fragments p[1] = {};
        add_products<false, false>(memory, mine(job.mine), theirs(job.theirs), 1, params.depth,
                                   busy, p);
#pragma unroll
        for (int j = 0; j < kFragments; ++j) {
#pragma unroll
          for (int n = 0; n < 4; ++n) {
            const int query = query_of(j, n);
            const int key = kOfKeys ? first + at.row(n) : tile + at.column(j, n);
            const float value = logit<T>(params, p[0][j][n], sample, query_head, query, key);
            p[0][j][n] = query < params.queries
                             ? LogSum<float>(params.lse[row + query]).weight(value)
                             : 0.0f;
          }
        }
        if (multiplies) {
          Fragments h[kMost] = {};
          // Mine are those of tangents in the first product, in the second theirs; of keys theirs.
          if (job.products[0].mine.data != nullptr) {
            add_products<!kOfKeys, kOfKeys>(memory, mine(job.products[0].mine),
                                            theirs(job.products[0].theirs), group,
                                            job.products[0].width, busy, h);
          }
          if constexpr (!kOfKeys) {
            if (job.products[1].mine.data != nullptr) {
              add_products<false, true>(memory, mine(job.products[1].mine),
                                        theirs(job.products[1].theirs), group,
                                        job.products[1].width, busy, h);
            }
          }
#pragma unroll
          for (int i = 0; i < kMost; ++i) {
            if (i >= group) continue;
            const float* const centers =
                static_cast<const float*>(params.sums) + (begin + i) * rows + row;
#pragma unroll
            for (int j = 0; j < kFragments; ++j) {
#pragma unroll
              for (int n = 0; n < 4; ++n) {
                const int query = query_of(j, n);
                float value = rounded_product(h[i][j][n], static_cast<float>(job.products_scale));
                if (query < params.queries) value -= centers[query];
                h[i][j][n] = as_multiplied<T>(p[0][j][n] * value);
                mu[i][n / 2] += h[i][j][n];
              }
            }
          }
          add_rows<false, kColumns>(memory, h, theirs(job.times_products), group, column, job.width,
                                    busy, sum);
        }
        if (job.times_weights.data != nullptr) {
#pragma unroll
          for (int j = 0; j < kFragments; ++j) {
#pragma unroll
            for (int n = 0; n < 4; ++n) {
              p[0][j][n] = as_multiplied<T>(p[0][j][n]);
              if (!multiplies) mu[0][n / 2] += p[0][j][n];
            }
          }
          add_rows<true, kColumns>(memory, p, theirs(job.times_weights), group, column, job.width,
                                   busy, sum);
        }
      }
    }

    if (!busy) continue;
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      if (i >= group) continue;
      const int64_t place = ((begin + i) * params.batch + sample) * heads + head;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        // Of h, or of the weights: these add up to 1 but for the rounding of each.
        float total = 0;
        if constexpr (!kOfKeys) total = sum_of_lanes(multiplies ? mu[i][half] : mu[0][half]);
        const int own = first + at.row(2 * half);
        if (own >= length) continue;
        const float scale = static_cast<float>(job.out_scale);
#pragma unroll
        for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
          for (int m = 0; m < 2; ++m) {
            const int c = column + at.column(n, m);
            if (c >= job.width) continue;
            float value = sum[i][n][2 * half + m];
            if constexpr (!kOfKeys) {
              if (job.o.data != nullptr) {
                value -= total * HeadTile<float>(job.o, 0, sample, head, own, 1).data[c];
              } else if (!multiplies && total != 0) {
                value /= total;
              }
            }
            narrow(value * scale,
                   static_cast<Out*>(job.out) + (place * length + own) * job.width + c);
          }
        }
      }
    }
  }
}

template <class T, class Out, int kColumns, bool kOfKeys>
const char* run_job(const AttentionParams& params, const AttentionJob& job, void* stream) {
  const auto kernel = attention_sums_of_warps<T, Out, kColumns, kOfKeys>;
  constexpr size_t bytes = kTensorBytes<kColumns>;
  const int64_t groups = ceil_divide(params.tangents, kTensorGroup<kColumns>);
  const int64_t chunks = ceil_divide(job.width, kColumns);
  const int64_t rows = kOfKeys ? params.key_heads * ceil_divide(params.keys, kMineRows)
                               : params.heads * ceil_divide(params.queries, kMineRows);
  const int64_t items = groups * chunks * params.batch * rows;
  if (items == 0) return nullptr;
  if (const char* error = allow_shared(kernel, bytes, params.device)) return error;
  PULLBACK_LAUNCH((attention_sums_of_warps<T, Out, kColumns, kOfKeys>), grid_of(items), kThreads,
                  bytes, stream, params, job);
  return launch_error();
}

template <class T, class Out, bool kOfKeys>
const char* run_columns(const AttentionParams& params, const AttentionJob& job, void* stream) {
  return job.width > 64 ? run_job<T, Out, 128, kOfKeys>(params, job, stream)
                        : run_job<T, Out, 64, kOfKeys>(params, job, stream);
}

template <class T>
const char* run(const AttentionParams& params, const AttentionJob& job, void* stream) {
  if (job.of_keys) return run_columns<T, T, true>(params, job, stream);
  return job.exact ? run_columns<T, float, false>(params, job, stream)
                   : run_columns<T, T, false>(params, job, stream);
}

}  // namespace

const char* attention_sums_by_tensor_cores(const AttentionParams& params, const AttentionJob& job,
                                           void* stream) {
  return params.dtype == Dtype::kFloat16 ? run<Half>(params, job, stream)
                                         : run<BFloat16>(params, job, stream);
}

}  // namespace pullback::cuda
