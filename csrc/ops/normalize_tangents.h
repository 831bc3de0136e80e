#pragma once

#include <optional>

#include <torch/csrc/stable/tensor.h>

namespace pullback::ops {

torch::stable::Tensor normalize_tangents_cpu(
    const torch::stable::Tensor& t,                    // [k, B, G, Cg, P]
    const torch::stable::Tensor& normalized,           // [B, G, Cg, P]
    const torch::stable::Tensor& scale,                // [B, G]
    const std::optional<torch::stable::Tensor>& gain,  // [B, G, Cg, P], or 1 for any of these
    bool centered, bool transposed);
torch::stable::Tensor normalize_tangents_cuda(const torch::stable::Tensor& t,
                                              const torch::stable::Tensor& normalized,
                                              const torch::stable::Tensor& scale,
                                              const std::optional<torch::stable::Tensor>& gain,
                                              bool centered, bool transposed);

}  // namespace pullback::ops
