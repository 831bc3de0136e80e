// Kernels that are wrong in ways that the emulation must report.
#include "cuda/launch.h"

namespace {

void meet() {
  __syncthreads();
}

// 0: some threads wait for others that have left. 1: at another barrier. 2: a warp's shuffle waits
// for lanes that have left, 3: for lanes at a barrier. 4: a write behind shared memory.
void wrong(int how) {
  PULLBACK_SHARED(shared);
  const int thread = static_cast<int>(threadIdx.x);
  if (how == 0 && thread < 40) meet();
  if (how == 1) {
    if (thread < 32) {
      meet();
    } else {
      __syncthreads();
    }
  }
  if (how == 2 && thread % 32 != 5) __shfl_xor_sync(0xffffffffu, thread, 1);
  if (how == 3) {
    if (thread % 32 == 5) meet();
    if (thread % 32 != 5) __shfl_xor_sync(0xffffffffu, thread, 1);
  }
  if (how == 4 && thread == 63) shared[64] = 0;
}

}  // namespace

extern "C" const char* misuse(int how) {
  PULLBACK_LAUNCH(wrong, 1, 64, 64, nullptr, how);
  return pullback::cuda::launch_error();
}
