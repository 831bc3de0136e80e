// Large results in huge pages, where the system gives them for the asking.
#pragma once

#include <torch/csrc/stable/tensor.h>

namespace pullback {

// Memory comes from the system page by page, when it is first written: for the tangents of
// attention at 4,096 tokens a fifth of the time. Asks for large pages for a tensor that is to be
// filled as a whole, on the CPU of Linux; elsewhere, and for smaller ones, nothing happens.
const torch::stable::Tensor& in_huge_pages(const torch::stable::Tensor& fresh);

}  // namespace pullback
