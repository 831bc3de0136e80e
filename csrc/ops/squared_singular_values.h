#pragma once

#include <torch/csrc/stable/tensor.h>

namespace pullback::ops {

torch::stable::Tensor squared_singular_values_cpu(const torch::stable::Tensor& c);   // [P, k, p]
torch::stable::Tensor squared_singular_values_cuda(const torch::stable::Tensor& c);  // [P, k, p]

}  // namespace pullback::ops
