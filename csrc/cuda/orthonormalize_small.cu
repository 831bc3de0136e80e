// orthonormalize on CUDA, stage `small`: one block of threads a sample climbs a rung of the ladder
// (numerics/ladder.h).
#include "cuda/orthonormalize_stages.h"
#include "cuda/team.h"

namespace pullback::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kSharedRows = 96;  // 75 KB; above, S stays in the second-level cache

// x.s and h from the parts, each entry in the order of the parts. A row whose product with
// `against` is not finite, because `against` is not, is marked like one that is not finite itself:
// factor 0.
template <class Real>
__device__ void sum_parts(const ThreadBlock& team, const double* partial, int64_t parts,
                          const Ladder& x, double* h, Real* factors) {
  const int64_t width = x.k + x.p, entries = x.k * width;
  for (int64_t e = team.rank(); e < entries; e += team.size()) {
    const int64_t i = e / width, j = e % width;
    if (j < i) continue;  // G is symmetric
    double sum = partial[e];
    for (int64_t part = 1; part < parts; ++part) sum += partial[part * entries + e];
    if (j < x.k) {
      x.s[j * x.pitch + i] = sum;
    } else {
      h[i * x.p + j - x.k] = sum;
      if (!(fabs(sum) <= 1.7976931348623157e308)) factors[2 * i] = 0;
    }
  }
}

template <class Real>
__global__ void __launch_bounds__(kThreads, 2)
    climb(OrthonormalizeParams params, LadderWork<Real> work, int rung, bool s_is_shared) {
  PULLBACK_SHARED(shared);
  const ThreadBlock team;
  double* const scratch = reinterpret_cast<double*>(shared);
  const int64_t k = params.block.rows, p = against_rows(params), pitch = ladder_pitch(k);
  for (int64_t sample = blockIdx.x; sample < params.batch; sample += gridDim.x) {
    if (params.passes[sample] != 0) continue;  // done
    double* const h = work.h + sample * k * p;
    const int64_t parts = params.splits.count;
    const Ladder x{k,
                   p,
                   s_is_shared ? scratch + kLadderScratch * k : work.s + sample * k * pitch,
                   pitch,
                   h,
                   scratch,
                   work.distance + sample * k,
                   work.fresh + sample * k,
                   params.replaced + sample * k,
                   params.residual == nullptr ? nullptr : params.residual + sample * k * k,
                   params.residual == nullptr ? nullptr : params.projection + sample * p * k};
    // S of the sample before is no longer read, and its scratch not after the barrier below.
    if (rung == 1) ladder_start(team, x, work.exponent + sample * k);
    sum_parts(team, work.partial + sample * parts * k * (k + p), parts, x, h,
              work.factors + 2 * sample * k);
    __syncthreads();
    const bool last = ladder_rung<Real>(team, x, rung, work.transform + sample * k * (k + p));
    if (!last || team.rank() != 0) continue;
    int64_t rank = 0;
    bool finite = true;
    for (int64_t i = 0; i < k; ++i) {
      rank += !x.replaced[i];
      finite = finite && work.factors[2 * (sample * k + i)] != 0;
    }
    params.rank[sample] = rank;
    params.passes[sample] = finite ? rung : -rung;
  }
}

}  // namespace

template <class Real>
const char* ladder_small(const OrthonormalizeParams& params, const LadderWork<Real>& work, int rung,
                         void* stream) {
  const size_t k = params.block.rows, scratch = kLadderScratch * k * sizeof(double);
  const size_t with_s = scratch + k * ladder_pitch(k) * sizeof(double);
  const bool s_is_shared = k <= kSharedRows && with_s <= shared_limit(params.device);
  const size_t bytes = s_is_shared ? with_s : scratch;
  if (const char* error = allow_shared(climb<Real>, bytes, params.device)) return error;
  PULLBACK_LAUNCH((climb<Real>), grid_of(params.batch), kThreads, bytes, stream, params, work, rung,
                  s_is_shared);
  return launch_error();
}

template const char* ladder_small(const OrthonormalizeParams&, const LadderWork<float>&, int,
                                  void*);
template const char* ladder_small(const OrthonormalizeParams&, const LadderWork<double>&, int,
                                  void*);

}  // namespace pullback::cuda
