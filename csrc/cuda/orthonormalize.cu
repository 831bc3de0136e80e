// orthonormalize on CUDA: enqueues the stages (orthonormalize_stages.h).
#include "cuda/orthonormalize.h"

#include "cuda/launch.h"
#include "cuda/orthonormalize_stages.h"
#include "cuda/splits.h"

namespace pullback::cuda {
namespace {

template <class Real>
const char* run(const OrthonormalizeParams& params, void* stream) {
  const Workspace<Real> workspace(params);
  if (const char* error = launch_peaks(params, workspace, stream)) return error;
  for (int pass = 1; pass <= kSeparatePasses; ++pass) {
    if (const char* error = launch_gram(params, workspace, pass, stream)) return error;
    if (const char* error = launch_factor(params, workspace, pass, stream)) return error;
    if (const char* error = launch_apply(params, workspace, pass, stream)) return error;
  }
  return launch_late(params, workspace, stream);
}

}  // namespace

int64_t orthonormalize_most_splits(int64_t k, int64_t p) {
  return most_splits(gram_tiles(k, p, 0).count());
}

size_t orthonormalize_workspace(const OrthonormalizeParams& params) {
  return params.working_dtype == Dtype::kFloat64 ? Workspace<double>(params).bytes
                                                 : Workspace<float>(params).bytes;
}

const char* orthonormalize(const OrthonormalizeParams& params, void* stream) {
  if (const char* error = select_device(params.device)) return error;
  return params.working_dtype == Dtype::kFloat64 ? run<double>(params, stream)
                                                 : run<float>(params, stream);
}

}  // namespace pullback::cuda
