#pragma once

#include <optional>
#include <tuple>

#include <torch/csrc/stable/tensor.h>

namespace pullback::ops {

// o [B, H, Sq, e], lse [B, H, Sq]
std::tuple<torch::stable::Tensor, torch::stable::Tensor> attention_cpu(
    const torch::stable::Tensor& q,                    // [B, H, Sq, d]
    const torch::stable::Tensor& k,                    // [B, Hk, Sk, d]
    const torch::stable::Tensor& v,                    // [B, Hk, Sk, e]
    const std::optional<torch::stable::Tensor>& bias,  // [B, H, Sq, Sk], or 1 for any of these
    double scale, bool causal);
std::tuple<torch::stable::Tensor, torch::stable::Tensor> attention_cuda(
    const torch::stable::Tensor& q, const torch::stable::Tensor& k, const torch::stable::Tensor& v,
    const std::optional<torch::stable::Tensor>& bias, double scale, bool causal);

// [T, B, H, Sq, e]
torch::stable::Tensor attention_tangents_cpu(
    const torch::stable::Tensor& q, const torch::stable::Tensor& k, const torch::stable::Tensor& v,
    const torch::stable::Tensor& o, const torch::stable::Tensor& lse,
    const std::optional<torch::stable::Tensor>& dq,  // [T, B, H, Sq, d]
    const std::optional<torch::stable::Tensor>& dk,  // [T, B, Hk, Sk, d]
    const std::optional<torch::stable::Tensor>& dv,  // [T, B, Hk, Sk, e]
    const std::optional<torch::stable::Tensor>& bias, double scale, bool causal);
torch::stable::Tensor attention_tangents_cuda(
    const torch::stable::Tensor& q, const torch::stable::Tensor& k, const torch::stable::Tensor& v,
    const torch::stable::Tensor& o, const torch::stable::Tensor& lse,
    const std::optional<torch::stable::Tensor>& dq, const std::optional<torch::stable::Tensor>& dk,
    const std::optional<torch::stable::Tensor>& dv,
    const std::optional<torch::stable::Tensor>& bias, double scale, bool causal);

// dq [T, B, H, Sq, d], dk [T, B, Hk, Sk, d], dv [T, B, Hk, Sk, e]; the last two [0] without with_kv
std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor>
attention_cotangents_cpu(const torch::stable::Tensor& q, const torch::stable::Tensor& k,
                         const torch::stable::Tensor& v, const torch::stable::Tensor& o,
                         const torch::stable::Tensor& lse,
                         const torch::stable::Tensor& g,  // [T, B, H, Sq, e]
                         const std::optional<torch::stable::Tensor>& bias, double scale,
                         bool causal, bool with_kv);
std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor>
attention_cotangents_cuda(const torch::stable::Tensor& q, const torch::stable::Tensor& k,
                          const torch::stable::Tensor& v, const torch::stable::Tensor& o,
                          const torch::stable::Tensor& lse, const torch::stable::Tensor& g,
                          const std::optional<torch::stable::Tensor>& bias, double scale,
                          bool causal, bool with_kv);

}  // namespace pullback::ops
