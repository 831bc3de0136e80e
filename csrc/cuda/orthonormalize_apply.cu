// orthonormalize on CUDA, stage `apply`: A <- transform [A; P], a slab of columns to a block of
// threads.
#include "cuda/orthonormalize_slab.h"
#include "cuda/orthonormalize_stages.h"

namespace pullback::cuda {
namespace {

// Blocks that are to share a multiprocessor; with entries of 16 bits a wide tile needs more
// registers.
template <class T, class Real, int R>
constexpr int kBlocksOfApply = R == 4 && sizeof(T) < sizeof(Real) ? 1 : 2;

template <class T, class Real, int R>
__global__ void __launch_bounds__(kThreads, kBlocksOfApply<T, Real, R>)
    apply_transform(OrthonormalizeParams params, PassInput<Real> input, Workspace<Real> workspace,
                    int pass) {
  PULLBACK_SHARED(shared);
  const int64_t slabs = ceil_divide(params.columns, kSlab<Real>);
  for (int64_t item = blockIdx.x; item < params.batch * slabs; item += gridDim.x) {
    const int64_t sample = item / slabs;
    const int32_t passes = params.passes[sample];
    if (passes != 0 && passes != pass && passes != -pass) continue;  // done on an earlier pass
    apply_slab<T, Real, R>(shared, params, input, workspace, sample, item % slabs, pass);
  }
}

}  // namespace

template <class Real>
const char* launch_apply(const OrthonormalizeParams& params, const Workspace<Real>& workspace,
                         int pass, void* stream) {
  const int64_t k = params.block.rows;
  const unsigned grid = grid_of_pass(params.batch * slabs_of_sample(params), pass, params.device);
  return with_pass_input(params, workspace, pass, [&](auto entry, const PassInput<Real>& input) {
    return with_tile(k, [&](auto tile) -> const char* {
      using T = decltype(entry);
      constexpr int R = decltype(tile)::value;
      const size_t bytes = ApplyShared<Real, R>::bytes(k, against_rows(params) > 0);
      if (const char* error = allow_shared(apply_transform<T, Real, R>, bytes, params.device)) {
        return error;
      }
      PULLBACK_LAUNCH((apply_transform<T, Real, R>), grid, kThreads, bytes, stream, params, input,
                      workspace, pass);
      return launch_error();
    });
  });
}

template const char* launch_apply(const OrthonormalizeParams&, const Workspace<float>&, int, void*);
template const char* launch_apply(const OrthonormalizeParams&, const Workspace<double>&, int,
                                  void*);

}  // namespace pullback::cuda
