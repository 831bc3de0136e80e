// Kernel launches, in one spelling for nvcc and for the host emulation of the tests, and the limits
// of a launch.
//
//   PULLBACK_SHARED(name)    the block's shared memory, a char*, aligned to 16 bytes
//   PULLBACK_LAUNCH(kernel, grid, block, bytes, stream, arguments...)
//   PULLBACK_LAUNCH_TOGETHER(...)   as above, all blocks at once, so that they may meet
#pragma once

#if defined(PULLBACK_EMULATION)
#include "emulation.h"
#else
#include <cuda_runtime.h>
#define PULLBACK_SHARED(name) extern __shared__ __align__(16) char name[]
#define PULLBACK_LAUNCH(kernel, grid, block, bytes, stream, ...) \
  kernel<<<(grid), (block), (bytes), static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#define PULLBACK_LAUNCH_TOGETHER(kernel, grid, block, bytes, stream, ...) \
  ::pullback::cuda::launch_together(kernel, (grid), (block), (bytes), stream, __VA_ARGS__)
#endif

#include <cstddef>
#include <cstdint>

#include "common/integers.h"

namespace pullback::cuda {

constexpr int kThreads = 256;  // of a block, in every kernel

// Limit of gridDim.x; kernels walk over what is beyond. Tests make it small to see them walk.
#if !defined(PULLBACK_MOST_BLOCKS)
#define PULLBACK_MOST_BLOCKS 2147483647
#endif

// Blocks for this many items, `per_block` of them to a block at a time.
inline unsigned grid_of(int64_t items, int64_t per_block = 1) {
  const int64_t blocks = ceil_divide(items, per_block), most = PULLBACK_MOST_BLOCKS;
  return static_cast<unsigned>(blocks < most ? blocks : most);
}

// Multiprocessors of a device.
inline int64_t multiprocessors(int device) {
  int count = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return error == cudaSuccess && count > 0 ? count : 1;
}

#if !defined(PULLBACK_EMULATION)
// A cooperative launch: it fails rather than run with some of its blocks only. An error is what
// launch_error() tells next.
template <class... Parameters, class... Arguments>
void launch_together(void (*kernel)(Parameters...), unsigned grid, unsigned block, size_t bytes,
                     void* stream, const Arguments&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid);
  config.blockDim = dim3(block);
  config.dynamicSmemBytes = bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &attribute;
  config.numAttrs = 1;
  static_cast<void>(cudaLaunchKernelEx(&config, kernel, arguments...));
}
#endif

// nullptr, or the text of the error of the launch just made.
inline const char* launch_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// A block has 48 KB of shared memory, and more, up to the device's limit, for kernels that ask.
// Every device of compute capability 8.0 or more has 99 KB.
constexpr size_t kSharedByDefault = 48 * 1024;
constexpr size_t kSharedOfEveryDevice = 99 * 1024;

inline size_t shared_limit(int device) {
  int bytes = 0;
  const cudaError_t error =
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return error == cudaSuccess ? static_cast<size_t>(bytes) : kSharedByDefault;
}

// Lets a kernel have `bytes`. The permission belongs to the kernel, not to the thread that asks: it
// is always for all that the device has, lest a smaller block in another thread take it away
// between this call and the launch.
template <class Kernel>
const char* allow_shared(Kernel* kernel, size_t bytes, int device) {
  if (bytes <= kSharedByDefault) return nullptr;
  const size_t limit = shared_limit(device), most = limit > bytes ? limit : bytes;
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(most));
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// This library has its own CUDA runtime. It follows the context that torch made current; should it
// not, tell it. Torch's own guard, held by the caller, puts the thread's device back afterwards.
inline const char* select_device(int device) {
  int current = -1;
  cudaError_t error = cudaGetDevice(&current);
  if (error == cudaSuccess && current != device) error = cudaSetDevice(device);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace pullback::cuda
