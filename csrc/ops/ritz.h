#pragma once

#include <tuple>

#include <torch/csrc/stable/tensor.h>

namespace pullback::ops {

// values [B, n], vectors [B, n, n]
using Ritz = std::tuple<torch::stable::Tensor, torch::stable::Tensor>;

Ritz ritz_cpu(const torch::stable::Tensor& t);   // [B, n, n]
Ritz ritz_cuda(const torch::stable::Tensor& t);  // [B, n, n]

}  // namespace pullback::ops
