// Where blocks of one launch meet: all of them must be resident, as PULLBACK_LAUNCH_TOGETHER sees
// to.
//
//   PULLBACK_MEET(counter, target)   adds one to the counter for each block and waits until it has
//                                    come to `target`; what the others wrote before can be read
#pragma once

#include "cuda/launch.h"

#if !defined(PULLBACK_EMULATION)

namespace pullback::cuda {

// The fences make what other blocks have written visible to all threads of this one, and drop what
// the first-level cache holds.
__device__ inline void meet(int* counter, int target) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(counter, 1);
    while (*static_cast<volatile int*>(counter) < target) {
    }
    __threadfence();
  }
  __syncthreads();
}

}  // namespace pullback::cuda

#define PULLBACK_MEET(counter, target) ::pullback::cuda::meet((counter), (target))

#endif
