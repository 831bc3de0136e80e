#include "ops/ritz.h"

#include <array>
#include <cmath>
#include <string>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/shim_utils.h>

#include "common/check.h"
#include "common/current_stream.h"
#include "cpu/ritz.h"
#include "cuda/ritz.h"

namespace pullback::ops {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// One of torch's own operators, by name; the results are its first `Results` outputs.
template <size_t Results = 1, class... Arguments>
std::array<Tensor, Results> call(const char* op, const char* overload,
                                 const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(arguments)> stack{torch::stable::detail::from(arguments)...};
  static_assert(Results <= sizeof...(arguments), "results take the place of the arguments");
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, overload, stack.data(), TORCH_ABI_VERSION));
  std::array<Tensor, Results> results;
  for (size_t i = 0; i < Results; ++i) {
    results[i] = torch::stable::detail::to<Tensor>(stack[i]);
  }
  return results;
}

// For what the Jacobi kernel does not take: LAPACK or cuSOLVER, brought into the same form.
Ritz by_eigh(const Tensor& t) {
  const auto [values, columns] = call<2>("aten::linalg_eigh", "", t, std::string("L"));
  const std::array<int64_t, 1> last{1}, both{2};
  using Dims = torch::headeronly::IntHeaderOnlyArrayRef;
  const Tensor descending = call("aten::flip", "", values, Dims(last))[0];
  const Tensor turned = call("aten::flip", "", columns, Dims(both))[0];
  const Tensor rows = torch::stable::contiguous(torch::stable::transpose(turned, 1, 2));
  const std::optional<int64_t> across = 2;
  const Tensor size = call("aten::abs", "", rows)[0];
  const Tensor peak = call("aten::argmax", "", size, across, true)[0];
  const Tensor sign =
      call("aten::sign", "", call("aten::gather", "", rows, int64_t{2}, peak, false)[0])[0];
  return {descending, call("aten::mul", "Tensor", rows, sign)[0]};
}

Tensor validate(const Tensor& t) {
  check(t.dim() == 3 && t.size(1) == t.size(2), "ritz", "expected t of shape [B, n, n], got ",
        shape_text(t));
  const ScalarType type = t.scalar_type();
  check(type == ScalarType::Double || type == ScalarType::Float, "ritz",
        "expected t of dtype float64 or float32, got ", dtype_text(t));
  return torch::stable::contiguous(torch::stable::to(t, ScalarType::Double));
}

struct Work {
  Tensor values, vectors;
  RitzParams params;
};

Work prepare(const Tensor& t) {
  const std::array<int64_t, 2> flat{t.size(0), t.size(1)};
  const std::array<int64_t, 3> square{t.size(0), t.size(1), t.size(1)};
  Tensor values = torch::stable::new_empty(t, flat, ScalarType::Double);
  Tensor vectors = torch::stable::new_empty(t, square, ScalarType::Double);
  RitzParams params{};
  params.t = static_cast<const double*>(t.const_data_ptr());
  params.batch = t.size(0);
  params.n = t.size(1);
  params.values = static_cast<double*>(values.mutable_data_ptr());
  params.vectors = static_cast<double*>(vectors.mutable_data_ptr());
  return {values, vectors, params};
}

void check_finite(const RitzParams& params) {
  for (int64_t sample = 0; sample < params.batch; ++sample) {
    const double* const t = params.t + sample * params.n * params.n;
    for (int64_t i = 0; i < params.n; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        check(std::isfinite(t[i * params.n + j]), "ritz",
              "expected finite entries, got NaN or infinity in matrix ", sample, " of t");
      }
    }
  }
}

}  // namespace

Ritz ritz_cpu(const Tensor& any) {
  const Tensor t = validate(any);
  Work work = prepare(t);
  check_finite(work.params);
  if (work.params.batch == 0 || work.params.n == 0) return {work.values, work.vectors};
  if (work.params.n > cpu::kRitzMost) {
    // One matrix a call: LAPACK's last bits depend on how a matrix is aligned, and so would a
    // sample's on its place in the batch.
    const auto place = [](const Tensor& of, int64_t sample) {
      return call("aten::narrow", "", of, int64_t{0}, sample, int64_t{1})[0];
    };
    for (int64_t sample = 0; sample < work.params.batch; ++sample) {
      const auto [values, vectors] = by_eigh(place(t, sample));
      Tensor to_values = place(work.values, sample), to_vectors = place(work.vectors, sample);
      torch::stable::copy_(to_values, values);
      torch::stable::copy_(to_vectors, vectors);
    }
    return {work.values, work.vectors};
  }
  cpu::ritz(work.params);
  return {work.values, work.vectors};
}

#if defined(PULLBACK_WITH_CUDA)
Ritz ritz_cuda(const Tensor& any) {
  const torch::stable::accelerator::DeviceGuard guard(any.get_device_index());
  const Tensor t = validate(any);
  Work work = prepare(t);
  RitzParams& params = work.params;
  if (params.batch == 0 || params.n == 0) return {work.values, work.vectors};
  if (params.n > kRitzMost) return by_eigh(t);
  const std::array<int64_t, 3> square{params.batch, params.n, params.n};
  Tensor workspace = torch::stable::new_empty(t, square, ScalarType::Double);
  params.workspace = static_cast<double*>(workspace.mutable_data_ptr());
  params.device = t.get_device_index();
  const char* error = cuda::ritz(params, current_cuda_stream(params.device));
  check(error == nullptr, "ritz", "CUDA: ", error == nullptr ? "" : error,
        ": `python -m pullback_ext` tells what is usable here");
  return {work.values, work.vectors};
}
#endif

}  // namespace pullback::ops
