#include "ops/ritz.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include "common/check.h"
#include "common/current_stream.h"
#include "cuda/ritz.h"
#include "ops/call.h"

namespace pullback::ops {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// torch.linalg.eigh, which is LAPACK or cuSOLVER, brought into the form of the kernel's results.
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

// t is in float64 and contiguous; its lower triangle counts.
void check_finite(const Tensor& t) {
  const double* entry = static_cast<const double*>(t.const_data_ptr());
  for (int64_t sample = 0; sample < t.size(0); ++sample) {
    for (int64_t i = 0; i < t.size(1); ++i, entry += t.size(1)) {
      check(std::all_of(entry, entry + i + 1, [](double x) { return std::isfinite(x); }), "ritz",
            "expected finite entries, got NaN or infinity in matrix ", sample, " of t");
    }
  }
}

Ritz allocate(const Tensor& t) {
  const std::array<int64_t, 2> flat{t.size(0), t.size(1)};
  const std::array<int64_t, 3> square{t.size(0), t.size(1), t.size(1)};
  return {torch::stable::new_empty(t, flat, ScalarType::Double),
          torch::stable::new_empty(t, square, ScalarType::Double)};
}

}  // namespace

Ritz ritz_cpu(const Tensor& any) {
  const Tensor t = validate(any);
  check_finite(t);
  Ritz out = allocate(t);
  if (t.size(1) == 0) return out;
  // One matrix a call: LAPACK's last bits depend on how a matrix is aligned, and so would a
  // sample's on its place in the batch.
  const auto slice = [](const Tensor& of, int64_t sample) {
    return call("aten::narrow", "", of, int64_t{0}, sample, int64_t{1})[0];
  };
  for (int64_t sample = 0; sample < t.size(0); ++sample) {
    const auto [values, vectors] = by_eigh(slice(t, sample));
    Tensor to_values = slice(std::get<0>(out), sample);
    Tensor to_vectors = slice(std::get<1>(out), sample);
    torch::stable::copy_(to_values, values);
    torch::stable::copy_(to_vectors, vectors);
  }
  return out;
}

#if defined(PULLBACK_WITH_CUDA)
Ritz ritz_cuda(const Tensor& any) {
  const torch::stable::accelerator::DeviceGuard guard(any.get_device_index());
  const Tensor t = validate(any);
  const int64_t batch = t.size(0), n = t.size(1);
  if (batch > 0 && n > kLargestRitz) return by_eigh(t);
  Ritz out = allocate(t);
  if (batch == 0 || n == 0) return out;
  auto& [values, vectors] = out;
  const std::array<int64_t, 3> square{batch, n, n};
  Tensor workspace = torch::stable::new_empty(t, square, ScalarType::Double);
  const RitzParams params{static_cast<const double*>(t.const_data_ptr()),
                          batch,
                          n,
                          static_cast<double*>(values.mutable_data_ptr()),
                          static_cast<double*>(vectors.mutable_data_ptr()),
                          static_cast<double*>(workspace.mutable_data_ptr()),
                          t.get_device_index()};
  check_launch("ritz", cuda::ritz(params, current_cuda_stream(params.device)));
  return out;
}
#endif

}  // namespace pullback::ops
