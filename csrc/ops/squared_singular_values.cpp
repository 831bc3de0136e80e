#include "ops/squared_singular_values.h"

#include <array>
#include <optional>
#include <string>
#include <utility>

#include <torch/csrc/stable/accelerator.h>

#include "common/check.h"
#include "common/current_stream.h"
#include "common/rows.h"
#include "cpu/squared_singular_values.h"
#include "cuda/squared_singular_values.h"
#include "ops/call.h"

namespace pullback::ops {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr const char* kOp = "squared_singular_values";

void validate(const Tensor& c) {
  check(c.dim() == 3 && c.size(1) > 0 && c.size(2) > 0, kOp,
        "expected c of shape [P, k, p], k and p from 1 up, got ", shape_text(c));
  const ScalarType type = c.scalar_type();
  check(type == ScalarType::Double || type == ScalarType::Float, kOp,
        "expected c of dtype float64 or float32, got ", dtype_text(c));
}

void check_finite(int64_t not_finite) {
  check(not_finite < 0, kOp, "expected finite entries, got NaN or infinity in matrix ", not_finite,
        " of c");
}

// The result, still empty, and what the kernels are told.
std::pair<Tensor, SquaredSingularValuesParams> prepare(const Tensor& c) {
  SquaredSingularValuesParams params{};
  params.c = rows_of(c);
  params.dtype = dtype_of(kOp, "c", c);
  params.matrices = c.size(0);
  params.columns = c.size(2);
  if (params.columns < params.c.rows) {
    std::swap(params.columns, params.c.rows);
    std::swap(params.c.row_stride, params.c.column_stride);
  }
  const std::array<int64_t, 2> shape{params.matrices, params.c.rows};
  Tensor out = torch::stable::new_empty(c, shape, ScalarType::Double);
  params.out = static_cast<double*>(out.mutable_data_ptr());
  return {out, params};
}

// By torch.linalg.svdvals, which is LAPACK or cuSOLVER; c is finite.
Tensor by_svdvals(const Tensor& c) {
  const std::optional<std::string> driver;
  const Tensor wide = torch::stable::to(c, ScalarType::Double);
  const Tensor values = call("aten::linalg_svdvals", "", wide, driver)[0];
  return call("aten::mul", "Tensor", values, values)[0];
}

}  // namespace

Tensor squared_singular_values_cpu(const Tensor& c) {
  validate(c);
  auto [out, params] = prepare(c);
  if (params.matrices == 0) return out;
  if (params.c.rows <= kLargestInLanes) {
    check_finite(cpu::squared_singular_values(params));
    return out;
  }
  check_finite(cpu::first_not_finite(params));
  // One matrix a call: LAPACK's last bits depend on how a matrix is aligned, and so would a
  // matrix's values on its place in the batch.
  const auto slice = [](const Tensor& of, int64_t matrix) {
    return call("aten::narrow", "", of, int64_t{0}, matrix, int64_t{1})[0];
  };
  for (int64_t matrix = 0; matrix < params.matrices; ++matrix) {
    Tensor to = slice(out, matrix);
    torch::stable::copy_(to, by_svdvals(torch::stable::contiguous(slice(c, matrix))));
  }
  return out;
}

#if defined(PULLBACK_WITH_CUDA)
namespace {

// As by_svdvals(), and the values of a matrix that is not finite are NaN: cuSOLVER sees zeros in
// its place, and nothing waits for the device to know of it.
Tensor by_svdvals_or_nan(const Tensor& c) {
  const std::array<int64_t, 2> sides{1, 2};
  const int64_t last = 2;
  const std::array<int64_t, 3> one{c.size(0), 1, 1};
  const torch::headeronly::IntHeaderOnlyArrayRef both(sides);
  const Tensor zero = torch::stable::new_zeros(c, one);
  const Tensor peak = call("aten::amax", "", call("aten::abs", "", c)[0], both, true)[0];
  const Tensor nothing = call("aten::mul", "Tensor", peak, zero)[0];  // NaN where not finite
  const Tensor finite = call("aten::eq", "Tensor", nothing, zero)[0];
  const Tensor values = by_svdvals(call("aten::where", "self", finite, c, zero)[0]);
  const Tensor factor = call("aten::squeeze", "dim", call("aten::exp", "", nothing)[0], last)[0];
  return call("aten::mul", "Tensor", values, factor)[0];
}

}  // namespace

Tensor squared_singular_values_cuda(const Tensor& c) {
  const torch::stable::accelerator::DeviceGuard guard(c.get_device_index());
  validate(c);
  auto [out, params] = prepare(c);
  if (params.matrices == 0) return out;
  if (params.c.rows > kLargestInShared) return by_svdvals_or_nan(c);
  params.device = c.get_device_index();
  check_launch(kOp, cuda::squared_singular_values(params, current_cuda_stream(params.device)));
  return out;
}
#endif

}  // namespace pullback::ops
