// orthonormalize on CUDA, stage `late`: all passes after the first kSeparatePasses in one launch,
// for the few samples that need them. The blocks of threads are shared out among these samples;
// those of one sample do the stages together and meet in between.
#include <algorithm>

#include "cuda/meeting.h"
#include "cuda/orthonormalize_products.h"
#include "cuda/orthonormalize_sample.h"
#include "cuda/orthonormalize_slab.h"

namespace pullback::cuda {
namespace {

template <class Real, int R>
__global__ void __launch_bounds__(kThreads, 1)
    late_passes(OrthonormalizeParams params, Workspace<Real> workspace, FactorShared lies) {
  PULLBACK_SHARED(shared);
  const int samples = workspace.late[0], blocks = static_cast<int>(gridDim.x);
  if (samples == 0) return;
  const int of_team = samples < blocks ? blocks / samples : 1, teams = blocks / of_team;
  const int team = static_cast<int>(blockIdx.x) / of_team;
  const int rank = static_cast<int>(blockIdx.x) % of_team;
  if (team >= teams) return;  // left over
  const int64_t k = params.block.rows, slabs = ceil_divide(params.columns, kSlab<Real>);
  const int64_t products = products_of_sample(params, workspace);
  const PassInput<Real> input{{params.q, k, k * params.columns, params.columns, 1}, nullptr};
  for (int i = team; i < samples; i += teams) {
    const int64_t sample = workspace.late[1 + i];
    int* const counter = workspace.late + 1 + params.batch + sample;
    int met = 0;
    for (int pass = kSeparatePasses + 1; pass <= kMostPasses; ++pass) {
      for (int64_t item = rank; item < products; item += of_team) {
        block_product<Real, Real, R>(shared, params, input, workspace, sample, item);
      }
      PULLBACK_MEET(counter, ++met * of_team);  // the products have been written
      if (rank == 0) factor_sample<Real>(shared, lies, params, workspace, sample, pass);
      PULLBACK_MEET(counter, ++met * of_team);  // the transform has been written
      for (int64_t slab = rank; slab < slabs; slab += of_team) {
        apply_slab<Real, Real, R>(shared, params, input, workspace, sample, slab, pass);
      }
      if (params.passes[sample] != 0) break;
      PULLBACK_MEET(counter, ++met * of_team);  // q has been written
    }
  }
}

}  // namespace

template <class Real>
const char* launch_late(const OrthonormalizeParams& params, const Workspace<Real>& workspace,
                        void* stream) {
  const FactorShared lies = factor_shared(params);
  const int64_t of_sample =
      std::max(products_of_sample(params, workspace), slabs_of_sample(params));
  const unsigned grid = grid_of(std::min(params.batch * of_sample, multiprocessors(params.device)));
  return with_tile(params.block.rows, [&](auto tile) -> const char* {
    constexpr int R = decltype(tile)::value;
    const size_t apply = ApplyShared<Real, R>::bytes(params.block.rows, against_rows(params) > 0);
    const size_t bytes = std::max({size_t{product_bytes<R>()}, lies.bytes, apply});
    if (const char* error = allow_shared(late_passes<Real, R>, bytes, params.device)) return error;
    PULLBACK_LAUNCH_TOGETHER((late_passes<Real, R>), grid, kThreads, bytes, stream, params,
                             workspace, lies);
    return launch_error();
  });
}

template const char* launch_late(const OrthonormalizeParams&, const Workspace<float>&, void*);
template const char* launch_late(const OrthonormalizeParams&, const Workspace<double>&, void*);

}  // namespace pullback::cuda
