// The Python module: what this binary is. Operators are registered in library.cpp, not here.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/headeronly/version.h>

#include <sstream>
#include <string>
#include <vector>

#include "common/current_stream.h"
#include "cpu/isa.h"

namespace {

namespace py = pybind11;

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

std::string torch_target() {
  constexpr unsigned long long target = TORCH_TARGET_VERSION;
  return std::to_string(target >> 56) + "." + std::to_string((target >> 48) & 0xff);
}

py::dict build_info() {
  const std::string cuda = PULLBACK_CUDA_VERSION;
  const auto isa = pullback::cpu::isa_in_use();
  py::dict info;
  info["version"] = PULLBACK_VERSION;
  info["torch_target"] = torch_target();
  info["torch_version"] = TORCH_VERSION;
  info["cuda"] = cuda.empty() ? py::object(py::none()) : py::object(py::str(cuda));
  info["cuda_architectures"] = split(PULLBACK_CUDA_ARCHITECTURES);
  info["isa"] = pullback::cpu::isa_compiled();
  info["isa_in_use"] = isa == pullback::cpu::Isa::kNone
                           ? py::object(py::none())
                           : py::object(py::str(pullback::cpu::isa_name(isa)));
  info["compiler"] = PULLBACK_COMPILER;
#if defined(_OPENMP)
  info["openmp"] = true;
#else
  info["openmp"] = false;  // threads are torch's
#endif
  info["build_type"] = PULLBACK_BUILD_TYPE;
  info["torch_has_cuda"] = pullback::torch_has_cuda();
  return info;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Native operators of pullback; torch.ops.pullback holds them once this is loaded.";
  m.def("build_info", &build_info, "What this binary was built from and what it uses here.");
}
