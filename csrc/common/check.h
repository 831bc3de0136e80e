// Errors that say which op, what was expected and what came.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include <torch/csrc/stable/tensor.h>

namespace pullback {

template <class... Parts>
[[noreturn]] void fail(const char* op, const Parts&... parts) {
  std::ostringstream text;
  text << op << ": ";
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

// check(holds, "gram", "expected ", ..., ", got ", ...)
template <class... Parts>
void check(bool holds, const char* op, const Parts&... parts) {
  if (!holds) fail(op, parts...);
}

// Throws if a launcher returned what CUDA complained of.
void check_launch(const char* op, const char* error);

// "[8, 50, 16384]"
std::string shape_text(const torch::stable::Tensor& tensor);
// "float32"
std::string dtype_text(const torch::stable::Tensor& tensor);
// "cuda:1"
std::string device_text(const torch::stable::Tensor& tensor);

}  // namespace pullback
