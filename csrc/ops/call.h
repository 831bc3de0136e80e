// Torch's own operators, from native code.
#pragma once

#include <array>

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/shim_utils.h>

namespace pullback::ops {

// One of torch's own operators, by name; the results are its first `Results` outputs.
template <size_t Results = 1, class... Arguments>
std::array<torch::stable::Tensor, Results> call(const char* op, const char* overload,
                                                const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(arguments)> stack{torch::stable::detail::from(arguments)...};
  static_assert(Results <= sizeof...(arguments), "results take the place of the arguments");
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, overload, stack.data(), TORCH_ABI_VERSION));
  std::array<torch::stable::Tensor, Results> results;
  for (size_t i = 0; i < Results; ++i) {
    results[i] = torch::stable::detail::to<torch::stable::Tensor>(stack[i]);
  }
  return results;
}

}  // namespace pullback::ops
