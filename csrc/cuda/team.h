// All threads of a CUDA block as the team of numerics/team.h.
#pragma once

#include "cuda/launch.h"
#include "numerics/team.h"

namespace pullback::cuda {

struct ThreadBlock {
  __device__ int rank() const { return static_cast<int>(threadIdx.x); }
  __device__ int size() const { return static_cast<int>(blockDim.x); }
  __device__ void sync() const { __syncthreads(); }
  __device__ bool any(bool mine) const { return __syncthreads_or(mine) != 0; }
};

}  // namespace pullback::cuda
