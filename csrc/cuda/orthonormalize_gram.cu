// orthonormalize on CUDA, stage `gram`: parts of G = A A^T and H = A P^T in one launch. Of G only
// tiles of the upper triangle are computed.
#include "cuda/orthonormalize_products.h"
#include "cuda/orthonormalize_stages.h"

namespace pullback::cuda {
namespace {

template <class T, class Real, int R>
__global__ void __launch_bounds__(kThreads, kBlocksOfProducts<T, Real, R>)
    block_products(OrthonormalizeParams params, PassInput<Real> input, Workspace<Real> workspace) {
  PULLBACK_SHARED(shared);
  const int64_t of_sample = products_of_sample(params, workspace);
  for (int64_t item = blockIdx.x; item < params.batch * of_sample; item += gridDim.x) {
    const int64_t sample = item / of_sample;
    if (params.passes[sample] != 0) continue;  // done
    block_product<T, Real, R>(shared, params, input, workspace, sample, item % of_sample);
  }
}

}  // namespace

template <class Real>
const char* launch_gram(const OrthonormalizeParams& params, const Workspace<Real>& workspace,
                        int pass, void* stream) {
  const int64_t items = params.batch * products_of_sample(params, workspace);
  const unsigned grid = grid_of_pass(items, pass, params.device);
  return with_pass_input(params, workspace, pass, [&](auto entry, const PassInput<Real>& input) {
    return with_tile(params.block.rows, [&](auto tile) {
      constexpr int R = decltype(tile)::value;
      PULLBACK_LAUNCH((block_products<decltype(entry), Real, R>), grid, kThreads,
                      (product_bytes<R>()), stream, params, input, workspace);
      return launch_error();
    });
  });
}

template const char* launch_gram(const OrthonormalizeParams&, const Workspace<float>&, int, void*);
template const char* launch_gram(const OrthonormalizeParams&, const Workspace<double>&, int, void*);

}  // namespace pullback::cuda
