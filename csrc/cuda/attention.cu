// Attention, its tangents and its cotangents on CUDA, in one kernel: weights p of a block's rows
// with a tile of others, shared by a group of tangents; from products with their rows, h = p
// (products - the row's center); and sums of h and of p times rows of the others. What o, its
// tangents, dq, dk and dv are in these terms is told by the jobs below.
#include "cuda/attention.h"

#include "cuda/attention_job.h"
#include "cuda/attention_stages.h"
#include "cuda/attention_tile.h"
#include "numerics/entry_type.h"

namespace pullback::cuda {
namespace {

// Tangents in a group: as many sums as registers hold.
template <class Real, int kColumns>
constexpr int kGroup = sizeof(Real) == 4 ? 128 / kColumns : 1;

template <class Real, int kColumns>
__global__ void __launch_bounds__(kThreads, kAttentionBlocks<Real>)
    attention_sums(AttentionParams params, AttentionJob job) {
  constexpr int kMost = kGroup<Real, kColumns>, kWide = kColumns / 16;
  PULLBACK_SHARED(memory);
  const AttentionShared<Real, kColumns> shared(memory);
  const int y = threadIdx.x / 16, x = threadIdx.x % 16;
  const int length = job.of_keys ? params.keys : params.queries;
  const int others = job.of_keys ? params.queries : params.keys;
  const int64_t heads = job.of_keys ? params.key_heads : params.heads;
  const int64_t served = params.heads / params.key_heads;
  const int64_t blocks = ceil_divide(length, kBlockRows), chunks = ceil_divide(job.width, kColumns);
  const int64_t groups = ceil_divide(params.tangents, kMost);
  const int64_t items = groups * chunks * params.batch * heads * blocks;

  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int first = static_cast<int>(item % blocks) * kBlockRows;
    const int64_t head = item / blocks % heads;
    const int64_t sample = item / blocks / heads % params.batch;
    const int64_t which = item / blocks / heads / params.batch;
    const int column = static_cast<int>(which % chunks) * kColumns;
    const int64_t begin = which / chunks * kMost;
    const int group = params.tangents - begin < kMost ? params.tangents - begin : kMost;
    Real sum[kMost][kOfThread][kWide] = {};
    Real mu[kMost][kOfThread] = {};

    for (int64_t other = 0; other < (job.of_keys ? served : 1); ++other) {
      const int64_t their_head = job.of_keys ? head * served + other : head / served;
      const int64_t query_head = job.of_keys ? their_head : head;
      const int64_t row = (sample * params.heads + query_head) * params.queries;
      // Of causal attention tiles that see nothing of each other are left out.
      const int from = params.causal && job.of_keys ? first : 0;
      const int end = params.causal && !job.of_keys && first + kBlockRows < others
                          ? first + kBlockRows
                          : others;
      for (int tile = from; tile < end; tile += kBlockRows) {
        const auto mine = [&](const HeadRows& rows, int64_t tangent) {
          return HeadTile<Real>(rows, tangent, sample, head, first, length - first);
        };
        const auto theirs = [&](const HeadRows& rows, int64_t tangent) {
          return HeadTile<Real>(rows, tangent, sample, their_head, tile, others - tile);
        };
        Real p[kOfThread][kOfThread] = {};
        add_products(shared, mine(job.mine, 0), theirs(job.theirs, 0), params.depth, p);
#pragma unroll
        for (int i = 0; i < kOfThread; ++i) {
#pragma unroll
          for (int j = 0; j < kOfThread; ++j) {
            const int own = first + y + 16 * i, their = tile + x + 16 * j;
            const int query = job.of_keys ? their : own;
            const Real value =
                logit<Real>(params, p[i][j], sample, query_head, query, job.of_keys ? own : their);
            p[i][j] = query < params.queries ? LogSum<Real>(params.lse[row + query]).weight(value)
                                             : Real(0);
          }
        }
        if (job.times_weights.data != nullptr) keep(p, shared.weights);
#pragma unroll
        for (int t = 0; t < kMost; ++t) {
          if (t >= group) continue;
          const int64_t tangent = begin + t;
          if (job.times_products.data != nullptr) {
            Real h[kOfThread][kOfThread] = {};
#pragma unroll 1
            for (int n = 0; n < 2; ++n) {
              if (job.products[n].mine.data == nullptr) continue;
              add_products(shared, mine(job.products[n].mine, tangent),
                           theirs(job.products[n].theirs, tangent), job.products[n].width, h);
            }
            const Real* const centers = static_cast<const Real*>(params.sums) +
                                        tangent * params.batch * params.heads * params.queries +
                                        row;
#pragma unroll
            for (int i = 0; i < kOfThread; ++i) {
#pragma unroll
              for (int j = 0; j < kOfThread; ++j) {
                const int query = job.of_keys ? tile + x + 16 * j : first + y + 16 * i;
                Real value = h[i][j] * static_cast<Real>(job.products_scale);
                if (query < params.queries) value -= centers[query];
                h[i][j] = p[i][j] * value;
                mu[t][i] += h[i][j];
              }
            }
            keep(h, shared.products);
            add_rows(shared, shared.products, theirs(job.times_products, tangent), column,
                     job.width, sum[t]);
          }
          if (job.times_weights.data != nullptr) {
            add_rows(shared, shared.weights, theirs(job.times_weights, tangent), column, job.width,
                     sum[t]);
          }
        }
      }
    }

#pragma unroll
    for (int t = 0; t < kMost; ++t) {
      if (t >= group) continue;
      const int64_t place = ((begin + t) * params.batch + sample) * heads + head;
#pragma unroll
      for (int i = 0; i < kOfThread; ++i) {
        const Real total = job.o.data == nullptr ? Real(0) : sum_of_row(mu[t][i]);
        const int own = first + y + 16 * i;
        if (own >= length) continue;
#pragma unroll
        for (int j = 0; j < kWide; ++j) {
          const int c = column + x + 16 * j;
          if (c >= job.width) continue;
          Real value = sum[t][i][j];
          if (job.o.data != nullptr) {
            value -= total * HeadTile<Real>(job.o, 0, sample, head, own, 1).data[c];
          }
          static_cast<Real*>(job.out)[(place * length + own) * job.width + c] =
              value * static_cast<Real>(job.out_scale);
        }
      }
    }
  }
}

template <class Real, int kColumns>
const char* run_job(const AttentionParams& params, const AttentionJob& job, void* stream) {
  const auto kernel = attention_sums<Real, kColumns>;
  constexpr size_t bytes = AttentionShared<Real, kColumns>::kBytes;
  const int64_t groups = ceil_divide(params.tangents, kGroup<Real, kColumns>);
  const int64_t chunks = ceil_divide(job.width, kColumns);
  const int64_t rows = job.of_keys ? params.key_heads * ceil_divide(params.keys, kBlockRows)
                                   : params.heads * ceil_divide(params.queries, kBlockRows);
  const int64_t items = groups * chunks * params.batch * rows;
  if (items == 0) return nullptr;
  if (const char* error = allow_shared(kernel, bytes, params.device)) return error;
  PULLBACK_LAUNCH((attention_sums<Real, kColumns>), grid_of(items), kThreads, bytes, stream, params,
                  job);
  return launch_error();
}

// Products of 16-bit entries are the tensor cores' work. Of others a block has 64 columns of the
// result, or, where there are more, 128 of float32.
template <class T>
const char* run(const AttentionParams& params, const AttentionJob& job, void* stream) {
  if constexpr (sizeof(T) == 2) {
    return attention_sums_by_tensor_cores(params, job, stream);
  } else {
    if constexpr (sizeof(T) == 4) {
      if (job.width > 64) return run_job<T, 128>(params, job, stream);
    }
    return run_job<T, 64>(params, job, stream);
  }
}

AttentionJob job_of(const AttentionParams& params, bool of_keys) {
  AttentionJob job{};
  job.mine = of_keys ? params.k : params.q;
  job.theirs = of_keys ? params.q : params.k;
  job.of_keys = of_keys;
  job.products_scale = job.out_scale = 1;
  job.width = params.width;
  job.out = params.out;
  return job;
}

// o = p v
AttentionJob attended(const AttentionParams& params) {
  AttentionJob job = job_of(params, false);
  job.times_weights = params.v;
  return job;
}

// h = p (scale (dq k^T + q dk^T) - center), h v + p dv - sums of h o
AttentionJob tangents(const AttentionParams& params, const HeadRows& o) {
  AttentionJob job = job_of(params, false);
  if (params.dq.data != nullptr) job.products[0] = {params.dq, params.k, params.depth};
  if (params.dk.data != nullptr) job.products[1] = {params.q, params.dk, params.depth};
  if (params.dq.data != nullptr || params.dk.data != nullptr) {
    job.times_products = params.v;
    job.o = o;
    job.products_scale = params.scale;
  }
  job.times_weights = params.dv;
  return job;
}

// h = p (g v^T - center), scale h k; for keys scale h^T q
AttentionJob cotangents(const AttentionParams& params, bool of_keys) {
  AttentionJob job = job_of(params, of_keys);
  job.products[0] = {of_keys ? params.v : params.g, of_keys ? params.g : params.v, params.width};
  job.times_products = job.theirs;
  job.out_scale = params.scale;
  job.width = params.depth;
  job.out = of_keys ? params.out_k : params.out;
  return job;
}

// p^T g
AttentionJob cotangents_of_values(const AttentionParams& params) {
  AttentionJob job = job_of(params, true);
  job.times_weights = params.g;
  job.out = params.out_v;
  return job;
}

// o as Real: what was given, or for 16-bit types computed anew.
template <class T>
const char* exact(const AttentionParams& params, void* stream, HeadRows* o) {
  *o = params.o;
  if (sizeof(T) > 2) return nullptr;
  const int64_t head = params.queries * params.width;
  *o = {params.exact, {0, params.heads * head, head, params.width}};
  AttentionParams one = params;
  one.tangents = 1;
  one.out = params.exact;
  AttentionJob job = attended(one);
  job.exact = true;
  return run<T>(one, job, stream);
}

template <class T>
const char* run_kind(const AttentionParams& params, void* stream) {
  HeadRows o;
  AttentionJob job;
  switch (params.kind) {
    case AttentionKind::kForward:
      if (const char* error = attention_log_sums(params, stream)) return error;
      return run<T>(params, attended(params), stream);
    case AttentionKind::kTangents:
      if (const char* error = exact<T>(params, stream, &o)) return error;
      job = tangents(params, o);
      if (const char* error = attention_centers_of_tangents(params, job, stream)) return error;
      return run<T>(params, job, stream);
    case AttentionKind::kCotangentsOfQueries:
      if (const char* error = exact<T>(params, stream, &o)) return error;
      job = cotangents(params, false);
      if (const char* error = attention_centers_of_cotangents(params, job, o, stream)) return error;
      return run<T>(params, job, stream);
    case AttentionKind::kCotangentsOfKeys:
      break;
  }
  if (const char* error = run<T>(params, cotangents(params, true), stream)) return error;
  return run<T>(params, cotangents_of_values(params), stream);
}

}  // namespace

const char* attention(const AttentionParams& params, void* stream) {
  if (const char* error = select_device(params.device)) return error;
  return with_entry_type(params.dtype, [&](auto entry) {
    using T = decltype(entry);
    return run_kind<T>(params, stream);
  });
}

}  // namespace pullback::cuda
