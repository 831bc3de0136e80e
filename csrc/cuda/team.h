// Teams of numerics/team.h: all threads of a CUDA block, and those of a warp.
#pragma once

#include "cuda/launch.h"
#include "numerics/team.h"

namespace pullback::cuda {

constexpr int kWarp = 32;

struct ThreadBlock {
  __device__ int rank() const { return static_cast<int>(threadIdx.x); }
  __device__ int size() const { return static_cast<int>(blockDim.x); }
  __device__ void sync() const { __syncthreads(); }
  __device__ bool any(bool mine) const { return __syncthreads_or(mine) != 0; }
};

struct Warp {
  __device__ int rank() const { return static_cast<int>(threadIdx.x) % kWarp; }
  __device__ int size() const { return kWarp; }
  __device__ void sync() const { __syncwarp(); }
};

}  // namespace pullback::cuda
