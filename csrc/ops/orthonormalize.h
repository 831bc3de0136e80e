#pragma once

#include <optional>
#include <tuple>

#include <torch/csrc/stable/tensor.h>

namespace pullback::ops {

// q [B, k, N], rank [B], replaced [B, k], passes [B]
using Orthonormalized = std::tuple<torch::stable::Tensor, torch::stable::Tensor,
                                   torch::stable::Tensor, torch::stable::Tensor>;
// q [B, k, N], projection [B, d + p, k], residual [B, k, k], rank, replaced, passes
using BlockStep = std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor,
                             torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor>;

Orthonormalized orthonormalize_cpu(
    const torch::stable::Tensor& block,                   // [B, k, N]
    const std::optional<torch::stable::Tensor>& against,  // [B, p, N]
    int64_t seed);
Orthonormalized orthonormalize_cuda(const torch::stable::Tensor& block,
                                    const std::optional<torch::stable::Tensor>& against,
                                    int64_t seed);
BlockStep block_step_cpu(const torch::stable::Tensor& w,      // [B, k, N]
                         const torch::stable::Tensor& v_old,  // [B, p, N]
                         const torch::stable::Tensor& basis,  // [B, d, N]
                         int64_t seed);
BlockStep block_step_cuda(const torch::stable::Tensor& w, const torch::stable::Tensor& v_old,
                          const torch::stable::Tensor& basis, int64_t seed);

}  // namespace pullback::ops
