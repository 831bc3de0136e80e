#include "ops/gram.h"

#include <array>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include "common/check.h"
#include "common/current_stream.h"
#include "common/rows.h"
#include "cpu/gram.h"
#include "cpu/splits.h"
#include "cuda/gram.h"

namespace pullback::ops {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

void validate(const Tensor& a, const std::optional<Tensor>& b) {
  check(a.dim() == 3, "gram", "expected a of shape [B, k, N], got ", shape_text(a));
  dtype_of("gram", "a", a);
  if (!b) return;
  check(b->dim() == 3 && b->size(0) == a.size(0) && b->size(2) == a.size(2), "gram",
        "expected b of shape [", a.size(0), ", p, ", a.size(2), "] beside a of shape ",
        shape_text(a), ", got ", shape_text(*b));
  check(b->scalar_type() == a.scalar_type(), "gram", "expected b of dtype ", dtype_text(a),
        " like a, got ", dtype_text(*b));
  check(device_text(*b) == device_text(a), "gram", "expected b on ", device_text(a),
        " like a, got ", device_text(*b));
}

struct Prepared {
  Tensor out;
  Tensor partial;
  GramParams params;
  bool empty;
};

Prepared prepare(const Tensor& a, const std::optional<Tensor>& b) {
  GramParams params{};
  params.dtype = dtype_of("gram", "a", a);
  params.symmetric = !b;
  params.a = rows_of(a);
  params.b = rows_of(b ? *b : a);
  params.batch = a.size(0);
  params.columns = a.size(2);
  const int64_t k = params.a.rows, p = params.b.rows;
  const std::array<int64_t, 3> shape{params.batch, k, p};
  const bool empty = params.batch == 0 || k == 0 || p == 0 || params.columns == 0;
  Tensor out = empty ? torch::stable::new_zeros(a, shape, ScalarType::Double)
                     : torch::stable::new_empty(a, shape, ScalarType::Double);
  params.out = static_cast<double*>(out.mutable_data_ptr());
  return {out, out, params, empty};
}

void plan_splits(Prepared& call, int64_t most_splits, bool partial_always) {
  GramParams& params = call.params;
  params.splits = split_columns(params.columns, most_splits);
  if (params.splits.count == 1 && !partial_always) return;
  const std::array<int64_t, 4> shape{params.batch, params.splits.count, params.a.rows,
                                     params.b.rows};
  call.partial = torch::stable::new_empty(call.out, shape, ScalarType::Double);
  params.partial = static_cast<double*>(call.partial.mutable_data_ptr());
}

}  // namespace

Tensor gram_cpu(const Tensor& a, const std::optional<Tensor>& b) {
  validate(a, b);
  Prepared call = prepare(a, b);
  if (call.empty) return call.out;
  plan_splits(call, cpu::kMostSplits, false);
  cpu::gram(call.params);
  return call.out;
}

#if defined(PULLBACK_WITH_CUDA)
Tensor gram_cuda(const Tensor& a, const std::optional<Tensor>& b) {
  validate(a, b);  // first: with b on a GPU and a on the CPU there is no device to guard
  const torch::stable::accelerator::DeviceGuard guard(a.get_device_index());
  Prepared call = prepare(a, b);
  if (call.empty) return call.out;
  GramParams& params = call.params;
  plan_splits(call, cuda::gram_most_splits(params.a.rows, params.b.rows, params.symmetric), true);
  params.device = a.get_device_index();
  check_launch("gram", cuda::gram(params, current_cuda_stream(params.device)));
  return call.out;
}
#endif

}  // namespace pullback::ops
