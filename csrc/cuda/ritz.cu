// ritz on CUDA: one block of threads a matrix (numerics/jacobi.h), which stays in shared memory,
// and the eigenvectors with it where every device has as much.
#include "cuda/ritz.h"

#include "cuda/launch.h"
#include "cuda/team.h"
#include "numerics/jacobi.h"

namespace pullback::cuda {
namespace {

constexpr size_t shared_bytes(int64_t n, bool vectors) {
  return (vectors ? 2 : 1) * n * odd_pitch(n) * sizeof(double) +
         2 * (n + 1) * (sizeof(double) + sizeof(int));
}
static_assert(shared_bytes(kLargestRitz, false) <= kSharedOfEveryDevice);

__global__ void __launch_bounds__(kThreads, 2) ritz_jacobi(RitzParams params, bool vectors) {
  PULLBACK_SHARED(shared);
  const ThreadBlock team;
  const int64_t n = params.n, pitch = odd_pitch(n);
  double* const a = reinterpret_cast<double*>(shared);
  double* const v = a + n * pitch;  // where the vectors lie here
  double* const rotations = v + (vectors ? n * pitch : 0);
  int* const pairs = reinterpret_cast<int*>(rotations + 2 * (n + 1));
  for (int64_t sample = blockIdx.x; sample < params.batch; sample += gridDim.x) {
    const double* const t = params.t + sample * n * n;
    __syncthreads();  // the last matrix has been read
    for (int64_t e = team.rank(); e < n * n; e += team.size()) {
      const int64_t i = e / n, j = e % n;
      if (j <= i) a[i * pitch + j] = t[e];
    }
    __syncthreads();
    jacobi(team,
           Jacobi{n, a, pitch, vectors ? v : params.workspace + sample * n * n, vectors ? pitch : n,
                  rotations, pairs, params.values + sample * n, params.vectors + sample * n * n});
  }
}

}  // namespace

const char* ritz(const RitzParams& params, void* stream) {
  if (const char* error = select_device(params.device)) return error;
  const bool vectors = shared_bytes(params.n, true) <= kSharedOfEveryDevice;
  const size_t bytes = shared_bytes(params.n, vectors);
  if (const char* error = allow_shared(ritz_jacobi, bytes, params.device)) return error;
  PULLBACK_LAUNCH(ritz_jacobi, grid_of(params.batch), kThreads, bytes, stream, params, vectors);
  return launch_error();
}

}  // namespace pullback::cuda
