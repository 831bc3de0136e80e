#include "common/rows.h"

#include "common/check.h"

namespace pullback {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Dtype dtype_of(const char* op, const char* name, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return Dtype::kFloat32;
    case ScalarType::Double:
      return Dtype::kFloat64;
    case ScalarType::Half:
      return Dtype::kFloat16;
    case ScalarType::BFloat16:
      return Dtype::kBFloat16;
    default:
      fail(op, "expected ", name, " of dtype float32, float64, float16 or bfloat16, got ",
           dtype_text(tensor));
  }
}

Rows rows_of(const Tensor& tensor) {
  return {tensor.const_data_ptr(), tensor.size(1), tensor.stride(0), tensor.stride(1),
          tensor.stride(2)};
}

}  // namespace pullback
