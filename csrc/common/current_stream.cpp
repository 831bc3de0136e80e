#include "common/current_stream.h"

#include <dlfcn.h>

#include <stdexcept>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

// Torch's headers show this function to CUDA builds only. It lives in libtorch_cuda.so, which a
// CPU-only torch lacks: hence weak.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace pullback {
namespace {

using GetStream = AOTITorchError (*)(int32_t, void**);

GetStream find() {
  if (aoti_torch_get_current_cuda_stream != nullptr) return aoti_torch_get_current_cuda_stream;
  // Python loads libtorch_cuda.so with local scope, where a weak reference may not see it: ask the
  // library itself, if it is in the process.
  void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return nullptr;
  return reinterpret_cast<GetStream>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
}

GetStream get_stream() {
  static const GetStream function = find();
  return function;
}

}  // namespace

bool torch_has_cuda() {
  return get_stream() != nullptr;
}

void* current_cuda_stream(int32_t device) {
  const GetStream function = get_stream();
  void* stream = nullptr;
  if (function == nullptr) {
    throw std::runtime_error(
        "expected a torch with CUDA, got one without: pip install torch from a CUDA index");
  }
  if (function(device, &stream) != AOTI_TORCH_SUCCESS) {
    throw std::runtime_error("torch gave no current CUDA stream for device " +
                             std::to_string(device));
  }
  return stream;
}

}  // namespace pullback
