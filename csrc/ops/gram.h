#pragma once

#include <optional>

#include <torch/csrc/stable/tensor.h>

namespace pullback::ops {

torch::stable::Tensor gram_cpu(const torch::stable::Tensor& a,                   // [B, k, N]
                               const std::optional<torch::stable::Tensor>& b);   // [B, p, N]
torch::stable::Tensor gram_cuda(const torch::stable::Tensor& a,                  // [B, k, N]
                                const std::optional<torch::stable::Tensor>& b);  // [B, p, N]

}  // namespace pullback::ops
