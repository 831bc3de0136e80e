// Tensors of row vectors as the kernels see them.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "common/block.h"

namespace pullback {

// Throws, naming the op and the argument, for dtypes that no kernel takes.
Dtype dtype_of(const char* op, const char* name, const torch::stable::Tensor& tensor);

// [B, k, N], any strides.
Rows rows_of(const torch::stable::Tensor& tensor);

}  // namespace pullback
