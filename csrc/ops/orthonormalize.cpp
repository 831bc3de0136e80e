// orthonormalize and block_step: the same kernels; the second also tells what the block was.
#include "ops/orthonormalize.h"

#include <array>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include "common/check.h"
#include "common/current_stream.h"
#include "common/rows.h"
#include "cpu/orthonormalize.h"
#include "cpu/splits.h"
#include "cuda/orthonormalize.h"

namespace pullback::ops {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// An argument and what messages call it.
struct Named {
  const char* name;
  const Tensor& rows;
};

ScalarType working_type(const Tensor& block) {
  return block.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

void check_block(const char* op, const Named& block) {
  check(block.rows.dim() == 3, op, "expected ", block.name, " of shape [B, k, N], got ",
        shape_text(block.rows));
  dtype_of(op, block.name, block.rows);
}

void check_against(const char* op, const Named& block, const Named& against) {
  const Tensor &a = block.rows, &b = against.rows;
  check(b.dim() == 3 && b.size(0) == a.size(0) && b.size(2) == a.size(2), op, "expected ",
        against.name, " of shape [", a.size(0), ", p, ", a.size(2), "] beside ", block.name,
        " of shape ", shape_text(a), ", got ", shape_text(b));
  check(b.scalar_type() == working_type(a), op, "expected ", against.name, " of dtype ",
        working_type(a) == ScalarType::Double ? "float64" : "float32", " beside ", block.name,
        " of dtype ", dtype_text(a), ", got ", dtype_text(b));
  check(device_text(b) == device_text(a), op, "expected ", against.name, " on ", device_text(a),
        " like ", block.name, ", got ", device_text(b));
}

void check_row_counts(const char* op, const Named& block, int64_t against) {
  const int64_t k = block.rows.size(1), columns = block.rows.size(2);
  check(k <= kMostRows, op, "expected at most ", kMostRows, " rows in ", block.name, ", got ", k);
  check(k + against <= columns, op, "expected at most N = ", columns, " rows in all, got ", k,
        " in ", block.name, " and ", against, " to be orthogonal to");
}

// Everything that an op gives back, allocated, and the parameters that point to it.
struct Prepared {
  Tensor q, rank, replaced, passes;
  OrthonormalizeParams params;
  bool empty;
};

Prepared prepare(const Tensor& block, int64_t seed) {
  const std::array<int64_t, 3> shape{block.size(0), block.size(1), block.size(2)};
  const std::array<int64_t, 2> flags{shape[0], shape[1]};
  const std::array<int64_t, 1> samples{shape[0]};
  const bool empty = shape[0] == 0 || shape[1] == 0;
  const auto allocate = [&](auto size, ScalarType type) {
    return empty ? torch::stable::new_zeros(block, size, type)
                 : torch::stable::new_empty(block, size, type);
  };
  OrthonormalizeParams params{};
  params.block = rows_of(block);
  params.dtype = dtype_of("orthonormalize", "block", block);
  params.working_dtype = params.dtype == Dtype::kFloat64 ? Dtype::kFloat64 : Dtype::kFloat32;
  params.batch = shape[0];
  params.columns = shape[2];
  params.seed = static_cast<uint64_t>(seed);
  Prepared call{allocate(shape, working_type(block)),
                allocate(samples, ScalarType::Long),
                allocate(flags, ScalarType::Bool),
                allocate(samples, ScalarType::Int),
                params,
                empty};
  call.params.q = call.q.mutable_data_ptr();
  call.params.rank = static_cast<int64_t*>(call.rank.mutable_data_ptr());
  call.params.replaced = static_cast<bool*>(call.replaced.mutable_data_ptr());
  call.params.passes = static_cast<int32_t*>(call.passes.mutable_data_ptr());
  return call;
}

void run_cpu(const char* op, const char* block, Prepared& call,
             const std::array<const char*, 2>& names) {
  OrthonormalizeParams& params = call.params;
  params.splits = split_columns(params.columns, cpu::kMostSplits);
  const cpu::NotFinite not_finite = cpu::orthonormalize(params);
  if (!not_finite.found) return;
  const bool second = not_finite.in_against && not_finite.row >= params.against[0].rows;
  fail(op, "expected finite rows, got NaN or infinity in row ",
       second ? not_finite.row - params.against[0].rows : not_finite.row, " of sample ",
       not_finite.sample, " of ", not_finite.in_against ? names[second ? 1 : 0] : block);
}

#if defined(PULLBACK_WITH_CUDA)
void run_cuda(const char* op, Prepared& call) {
  OrthonormalizeParams& params = call.params;
  params.splits = split_columns(
      params.columns, cuda::orthonormalize_most_splits(params.block.rows, against_rows(params)));
  params.device = call.q.get_device_index();
  const std::array<int64_t, 1> bytes{static_cast<int64_t>(cuda::orthonormalize_workspace(params))};
  Tensor workspace = torch::stable::new_empty(call.q, bytes, ScalarType::Byte);
  params.workspace = workspace.mutable_data_ptr();
  check_launch(op, cuda::orthonormalize(params, current_cuda_stream(params.device)));
}
#endif

void check_orthonormalize(const Tensor& block, const std::optional<Tensor>& against) {
  check_block("orthonormalize", {"block", block});
  if (against) check_against("orthonormalize", {"block", block}, {"against", *against});
  check_row_counts("orthonormalize", {"block", block}, against ? against->size(1) : 0);
}

Prepared prepare_orthonormalize(const Tensor& block, const std::optional<Tensor>& against,
                                int64_t seed) {
  Prepared call = prepare(block, seed);
  if (against) call.params.against[0] = rows_of(*against);
  return call;
}

Orthonormalized result(const Prepared& call) {
  return {call.q, call.rank, call.replaced, call.passes};
}

void check_block_step(const Tensor& w, const Tensor& v_old, const Tensor& basis) {
  check_block("block_step", {"w", w});
  check_against("block_step", {"w", w}, {"v_old", v_old});
  check_against("block_step", {"w", w}, {"basis", basis});
  check_row_counts("block_step", {"w", w}, v_old.size(1) + basis.size(1));
}

struct PreparedStep {
  Prepared call;
  Tensor projection, residual;
};

PreparedStep prepare_step(const Tensor& w, const Tensor& v_old, const Tensor& basis, int64_t seed) {
  Prepared call = prepare(w, seed);
  call.params.against[0] = rows_of(basis);
  call.params.against[1] = rows_of(v_old);
  const std::array<int64_t, 3> tall{w.size(0), against_rows(call.params), w.size(1)};
  const std::array<int64_t, 3> square{w.size(0), w.size(1), w.size(1)};
  Tensor projection = torch::stable::new_empty(w, tall, ScalarType::Double);
  Tensor residual = torch::stable::new_empty(w, square, ScalarType::Double);
  call.params.projection = static_cast<double*>(projection.mutable_data_ptr());
  call.params.residual = static_cast<double*>(residual.mutable_data_ptr());
  return {call, projection, residual};
}

BlockStep result(const PreparedStep& step) {
  const Prepared& call = step.call;
  return {call.q, step.projection, step.residual, call.rank, call.replaced, call.passes};
}

}  // namespace

Orthonormalized orthonormalize_cpu(const Tensor& block, const std::optional<Tensor>& against,
                                   int64_t seed) {
  check_orthonormalize(block, against);
  Prepared call = prepare_orthonormalize(block, against, seed);
  if (!call.empty) run_cpu("orthonormalize", "block", call, {"against", "against"});
  return result(call);
}

BlockStep block_step_cpu(const Tensor& w, const Tensor& v_old, const Tensor& basis, int64_t seed) {
  check_block_step(w, v_old, basis);
  PreparedStep step = prepare_step(w, v_old, basis, seed);
  if (!step.call.empty) run_cpu("block_step", "w", step.call, {"basis", "v_old"});
  return result(step);
}

#if defined(PULLBACK_WITH_CUDA)
Orthonormalized orthonormalize_cuda(const Tensor& block, const std::optional<Tensor>& against,
                                    int64_t seed) {
  check_orthonormalize(block, against);
  const torch::stable::accelerator::DeviceGuard guard(block.get_device_index());
  Prepared call = prepare_orthonormalize(block, against, seed);
  if (!call.empty) run_cuda("orthonormalize", call);
  return result(call);
}

BlockStep block_step_cuda(const Tensor& w, const Tensor& v_old, const Tensor& basis, int64_t seed) {
  check_block_step(w, v_old, basis);
  const torch::stable::accelerator::DeviceGuard guard(w.get_device_index());
  PreparedStep step = prepare_step(w, v_old, basis, seed);
  if (!step.call.empty) run_cuda("block_step", step.call);
  return result(step);
}
#endif

}  // namespace pullback::ops
