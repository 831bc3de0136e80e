// orthonormalize on CUDA, stage `factor`: one block of threads a sample makes the k x k part of a
// pass.
#include "cuda/orthonormalize_sample.h"
#include "cuda/orthonormalize_stages.h"

namespace pullback::cuda {
namespace {

template <class Real>
__global__ void __launch_bounds__(kThreads, 2)
    cholesky_factors(OrthonormalizeParams params, Workspace<Real> workspace, int pass,
                     FactorShared lies) {
  PULLBACK_SHARED(shared);
  for (int64_t sample = blockIdx.x; sample < params.batch; sample += gridDim.x) {
    if (params.passes[sample] != 0) continue;  // done
    const bool last = factor_sample<Real>(shared, lies, params, workspace, sample, pass);
    if (last || pass < kSeparatePasses || threadIdx.x != 0) continue;
    workspace.late[1 + atomicAdd(workspace.late, 1)] = static_cast<int>(sample);
  }
}

}  // namespace

template <class Real>
const char* launch_factor(const OrthonormalizeParams& params, const Workspace<Real>& workspace,
                          int pass, void* stream) {
  const FactorShared lies = factor_shared(params);
  if (const char* error = allow_shared(cholesky_factors<Real>, lies.bytes, params.device)) {
    return error;
  }
  PULLBACK_LAUNCH((cholesky_factors<Real>), grid_of(params.batch), kThreads, lies.bytes, stream,
                  params, workspace, pass, lies);
  return launch_error();
}

template const char* launch_factor(const OrthonormalizeParams&, const Workspace<float>&, int,
                                   void*);
template const char* launch_factor(const OrthonormalizeParams&, const Workspace<double>&, int,
                                   void*);

}  // namespace pullback::cuda
