// orthonormalize on CUDA, stage `factor`: one block of threads a sample makes the k x k part of a
// pass (numerics/cholesky_qr.h).
#include <cfloat>

#include "cuda/orthonormalize_stages.h"
#include "cuda/team.h"

namespace pullback::cuda {
namespace {

// Up to here S lies in shared memory, where the device has as much: two blocks still fit on a
// multiprocessor of compute capability 8.0 or 9.0. Above, S stays in the second-level cache.
constexpr int64_t kSharedRows = 96;

size_t shared_bytes(int64_t k, bool s_is_shared) {
  return (kCholeskyQrScratch * k + (s_is_shared ? k * odd_pitch(k) : 0)) * sizeof(double);
}

// x.s and h from the parts, each entry in the order of the parts. A row whose product with
// `against` is not finite, because `against` is not, is marked like one that is not finite itself:
// scale 0.
template <class Real>
__device__ void sum_parts(const ThreadBlock& team, const double* partial, int64_t parts,
                          const CholeskyQr& x, double* h, Real* scales) {
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
      if (!(fabs(sum) <= DBL_MAX)) scales[2 * i] = 0;
    }
  }
}

template <class Real>
__global__ void __launch_bounds__(kThreads, 2)
    cholesky_factors(OrthonormalizeParams params, Workspace<Real> workspace, int pass,
                     bool s_is_shared) {
  PULLBACK_SHARED(shared);
  const ThreadBlock team;
  double* const scratch = reinterpret_cast<double*>(shared);
  const int64_t k = params.block.rows, p = against_rows(params), pitch = odd_pitch(k);
  for (int64_t sample = blockIdx.x; sample < params.batch; sample += gridDim.x) {
    if (params.passes[sample] != 0) continue;  // done
    double* const h = workspace.h + sample * k * p;
    const int64_t parts = params.splits.count;
    const CholeskyQr x{
        k,
        p,
        s_is_shared ? scratch + kCholeskyQrScratch * k : workspace.s + sample * k * pitch,
        pitch,
        h,
        scratch,
        workspace.distance + sample * k,
        workspace.given_up + sample * k,
        params.replaced + sample * k,
        params.residual == nullptr ? nullptr : params.residual + sample * k * k,
        params.residual == nullptr ? nullptr : params.projection + sample * p * k};
    // S of the sample before is no longer read, and its scratch not after the barrier below.
    if (pass == 1) cholesky_qr_start(team, x, workspace.exponent + sample * k);
    sum_parts(team, workspace.partial + sample * parts * k * (k + p), parts, x, h,
              workspace.scales + 2 * sample * k);
    __syncthreads();
    const bool last =
        cholesky_qr_pass<Real>(team, x, pass, workspace.transform + sample * k * (k + p));
    if (!last || team.rank() != 0) continue;
    int64_t rank = 0;
    bool finite = true;
    for (int64_t i = 0; i < k; ++i) {
      rank += !x.replaced[i];
      finite = finite && workspace.scales[2 * (sample * k + i)] != 0;
    }
    params.rank[sample] = rank;
    params.passes[sample] = finite ? pass : -pass;
  }
}

}  // namespace

template <class Real>
const char* launch_factor(const OrthonormalizeParams& params, const Workspace<Real>& workspace,
                          int pass, void* stream) {
  const int64_t k = params.block.rows;
  const bool s_is_shared = k <= kSharedRows && shared_bytes(k, true) <= shared_limit(params.device);
  const size_t bytes = shared_bytes(k, s_is_shared);
  if (const char* error = allow_shared(cholesky_factors<Real>, bytes, params.device)) return error;
  PULLBACK_LAUNCH((cholesky_factors<Real>), grid_of(params.batch), kThreads, bytes, stream, params,
                  workspace, pass, s_is_shared);
  return launch_error();
}

template const char* launch_factor(const OrthonormalizeParams&, const Workspace<float>&, int,
                                   void*);
template const char* launch_factor(const OrthonormalizeParams&, const Workspace<double>&, int,
                                   void*);

}  // namespace pullback::cuda
