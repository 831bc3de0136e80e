#include "common/check.h"

#include <torch/headeronly/core/ScalarType.h>

namespace pullback {

void check_launch(const char* op, const char* error) {
  if (error == nullptr) return;
  fail(op, "CUDA: ", error, ": `python -m pullback_ext` tells what is usable here");
}

std::string shape_text(const torch::stable::Tensor& tensor) {
  std::ostringstream text;
  text << '[';
  for (int64_t i = 0; i < tensor.dim(); ++i) text << (i ? ", " : "") << tensor.size(i);
  text << ']';
  return text.str();
}

std::string dtype_text(const torch::stable::Tensor& tensor) {
  using torch::headeronly::ScalarType;
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    default:
      return torch::headeronly::toString(tensor.scalar_type());
  }
}

std::string device_text(const torch::stable::Tensor& tensor) {
  if (tensor.is_cpu()) return "cpu";
  std::ostringstream text;
  text << (tensor.is_cuda() ? "cuda" : "device") << ':' << tensor.get_device_index();
  return text.str();
}

}  // namespace pullback
