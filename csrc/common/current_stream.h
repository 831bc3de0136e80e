// torch's current CUDA stream, without needing any CUDA symbol at load time.
#pragma once

#include <cstdint>

namespace pullback {

// Whether the torch in this process has a CUDA library.
bool torch_has_cuda();

// The current stream (a cudaStream_t) of a device. Throws when torch has no CUDA library.
void* current_cuda_stream(int32_t device);

}  // namespace pullback
