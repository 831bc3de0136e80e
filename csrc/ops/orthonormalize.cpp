// orthonormalize and block_step: the same kernels; the second also tells what the block was.
#include "ops/orthonormalize.h"

#include <array>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include "common/check.h"
#include "common/current_stream.h"
#include "common/rows.h"
#include "cpu/orthonormalize.h"
#include "cuda/orthonormalize.h"

namespace pullback::ops {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kMostRows = 256;

// An argument and what messages call it.
struct Named {
  const char* name;
  const Tensor& rows;
};

ScalarType work_type(const Tensor& block) {
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
  check(b.scalar_type() == work_type(a), op, "expected ", against.name, " of dtype ",
        work_type(a) == ScalarType::Double ? "float64" : "float32", " beside ", block.name,
        " of dtype ", dtype_text(a), ", got ", dtype_text(b));
  check(device_text(b) == device_text(a), op, "expected ", against.name, " on ", device_text(a),
        " like ", block.name, ", got ", device_text(b));
}

void check_room(const char* op, const Named& block, int64_t others) {
  const int64_t k = block.rows.size(1), columns = block.rows.size(2);
  check(k <= kMostRows, op, "expected at most ", kMostRows, " rows in ", block.name, ", got ", k);
  check(k + others <= columns, op, "expected at most N = ", columns, " rows in all, got ", k,
        " in ", block.name, " and ", others, " to be orthogonal to");
}

// Everything that an op gives back, allocated, and the parameters that point to it.
struct Work {
  Tensor q, rank, replaced, passes;
  OrthonormalizeParams params;
  bool empty;
};

Work prepare(const Tensor& block, int64_t seed) {
  const std::array<int64_t, 3> shape{block.size(0), block.size(1), block.size(2)};
  const std::array<int64_t, 2> flags{shape[0], shape[1]};
  const std::array<int64_t, 1> samples{shape[0]};
  const bool empty = shape[0] == 0 || shape[1] == 0;
  const auto fresh = [&](auto size, ScalarType type) {
    return empty ? torch::stable::new_zeros(block, size, type)
                 : torch::stable::new_empty(block, size, type);
  };
  OrthonormalizeParams params{};
  params.block = rows_of(block);
  params.dtype = dtype_of("orthonormalize", "block", block);
  params.work = params.dtype == Dtype::kFloat64 ? Dtype::kFloat64 : Dtype::kFloat32;
  params.batch = shape[0];
  params.columns = shape[2];
  params.seed = static_cast<uint64_t>(seed);
  Work work{fresh(shape, work_type(block)),
            fresh(samples, ScalarType::Long),
            fresh(flags, ScalarType::Bool),
            fresh(samples, ScalarType::Int),
            params,
            empty};
  work.params.q = work.q.mutable_data_ptr();
  work.params.rank = static_cast<int64_t*>(work.rank.mutable_data_ptr());
  work.params.replaced = static_cast<bool*>(work.replaced.mutable_data_ptr());
  work.params.passes = static_cast<int32_t*>(work.passes.mutable_data_ptr());
  return work;
}

void run_cpu(const char* op, const char* block, Work& work,
             const std::array<const char*, 2>& names) {
  OrthonormalizeParams& params = work.params;
  params.splits = split_columns(params.columns, cpu::kOrthonormalizeMostSplits);
  const cpu::NotFinite bad = cpu::orthonormalize(params);
  if (!bad.found) return;
  const bool second = bad.in_against && bad.row >= params.against[0].rows;
  fail(op, "expected finite rows, got NaN or infinity in row ",
       second ? bad.row - params.against[0].rows : bad.row, " of sample ", bad.sample, " of ",
       bad.in_against ? names[second ? 1 : 0] : block);
}

#if defined(PULLBACK_WITH_CUDA)
void run_cuda(const char* op, Work& work) {
  OrthonormalizeParams& params = work.params;
  params.splits = split_columns(
      params.columns, cuda::orthonormalize_most_splits(params.block.rows, params.against_rows()));
  params.device = work.q.get_device_index();
  const std::array<int64_t, 1> bytes{static_cast<int64_t>(cuda::orthonormalize_workspace(params))};
  Tensor workspace = torch::stable::new_empty(work.q, bytes, ScalarType::Byte);
  params.workspace = workspace.mutable_data_ptr();
  const char* error = cuda::orthonormalize(params, current_cuda_stream(params.device));
  check(error == nullptr, op, "CUDA: ", error == nullptr ? "" : error,
        ": `python -m pullback_ext` tells what is usable here");
}
#endif

void check_orthonormalize(const Tensor& block, const std::optional<Tensor>& against) {
  check_block("orthonormalize", {"block", block});
  if (against) check_against("orthonormalize", {"block", block}, {"against", *against});
  check_room("orthonormalize", {"block", block}, against ? against->size(1) : 0);
}

Work prepare_orthonormalize(const Tensor& block, const std::optional<Tensor>& against,
                            int64_t seed) {
  Work work = prepare(block, seed);
  if (against) work.params.against[0] = rows_of(*against);
  return work;
}

Orthonormalized result(const Work& work) {
  return {work.q, work.rank, work.replaced, work.passes};
}

void check_block_step(const Tensor& w, const Tensor& v_old, const Tensor& basis) {
  check_block("block_step", {"w", w});
  check_against("block_step", {"w", w}, {"v_old", v_old});
  check_against("block_step", {"w", w}, {"basis", basis});
  check_room("block_step", {"w", w}, v_old.size(1) + basis.size(1));
}

struct Step {
  Work work;
  Tensor projection, residual;
};

Step prepare_step(const Tensor& w, const Tensor& v_old, const Tensor& basis, int64_t seed) {
  Work work = prepare(w, seed);
  work.params.against[0] = rows_of(basis);
  work.params.against[1] = rows_of(v_old);
  const std::array<int64_t, 3> tall{w.size(0), work.params.against_rows(), w.size(1)};
  const std::array<int64_t, 3> square{w.size(0), w.size(1), w.size(1)};
  Tensor projection = torch::stable::new_empty(w, tall, ScalarType::Double);
  Tensor residual = torch::stable::new_empty(w, square, ScalarType::Double);
  work.params.projection = static_cast<double*>(projection.mutable_data_ptr());
  work.params.residual = static_cast<double*>(residual.mutable_data_ptr());
  return {work, projection, residual};
}

BlockStep result(const Step& step) {
  const Work& work = step.work;
  return {work.q, step.projection, step.residual, work.rank, work.replaced, work.passes};
}

}  // namespace

Orthonormalized orthonormalize_cpu(const Tensor& block, const std::optional<Tensor>& against,
                                   int64_t seed) {
  check_orthonormalize(block, against);
  Work work = prepare_orthonormalize(block, against, seed);
  if (!work.empty) run_cpu("orthonormalize", "block", work, {"against", "against"});
  return result(work);
}

BlockStep block_step_cpu(const Tensor& w, const Tensor& v_old, const Tensor& basis, int64_t seed) {
  check_block_step(w, v_old, basis);
  Step step = prepare_step(w, v_old, basis, seed);
  if (!step.work.empty) run_cpu("block_step", "w", step.work, {"basis", "v_old"});
  return result(step);
}

#if defined(PULLBACK_WITH_CUDA)
Orthonormalized orthonormalize_cuda(const Tensor& block, const std::optional<Tensor>& against,
                                    int64_t seed) {
  check_orthonormalize(block, against);
  const torch::stable::accelerator::DeviceGuard guard(block.get_device_index());
  Work work = prepare_orthonormalize(block, against, seed);
  if (!work.empty) run_cuda("orthonormalize", work);
  return result(work);
}

BlockStep block_step_cuda(const Tensor& w, const Tensor& v_old, const Tensor& basis, int64_t seed) {
  check_block_step(w, v_old, basis);
  const torch::stable::accelerator::DeviceGuard guard(w.get_device_index());
  Step step = prepare_step(w, v_old, basis, seed);
  if (!step.work.empty) run_cuda("block_step", step.work);
  return result(step);
}
#endif

}  // namespace pullback::ops
