#include "ops/normalize_tangents.h"

#include <algorithm>
#include <array>
#include <numeric>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include "common/check.h"
#include "common/current_stream.h"
#include "common/normalize_tangents_params.h"
#include "common/rows.h"
#include "cpu/normalize_tangents.h"
#include "cuda/normalize_tangents.h"
#include "ops/call.h"

namespace pullback::ops {
namespace {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr const char* kOp = "normalize_tangents";

void validate_like(const Tensor& t, const char* name, const Tensor& x) {
  const ScalarType work =
      t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  check(x.scalar_type() == work, kOp, "expected ", name, " of dtype ",
        work == ScalarType::Double ? "float64" : "float32", " beside t of dtype ", dtype_text(t),
        ", got ", dtype_text(x));
  check(device_text(x) == device_text(t), kOp, "expected ", name, " on ", device_text(t),
        " like t, got ", device_text(x));
}

void validate(const Tensor& t, const Tensor& normalized, const Tensor& scale,
              const std::optional<Tensor>& gain) {
  check(t.dim() == 5, kOp, "expected t of shape [k, B, G, Cg, P], got ", shape_text(t));
  dtype_of(kOp, "t", t);
  bool same = normalized.dim() == 4;
  for (int64_t i = 0; same && i < 4; ++i) same = normalized.size(i) == t.size(i + 1);
  check(same, kOp, "expected normalized of shape [B, G, Cg, P] beside t of shape ", shape_text(t),
        ", got ", shape_text(normalized));
  check(scale.dim() == 2 && scale.size(0) == t.size(1) && scale.size(1) == t.size(2), kOp,
        "expected scale of shape [B, G] beside t of shape ", shape_text(t), ", got ",
        shape_text(scale));
  if (gain) {
    bool broadcasts = gain->dim() == 4;
    for (int64_t i = 0; broadcasts && i < 4; ++i) {
      broadcasts = gain->size(i) == 1 || gain->size(i) == t.size(i + 1);
    }
    check(broadcasts, kOp, "expected gain of four sizes, each 1 or that of normalized, ",
          shape_text(normalized), ", got ", shape_text(*gain));
  }
  validate_like(t, "normalized", normalized);
  validate_like(t, "scale", scale);
  if (gain) validate_like(t, "gain", *gain);
}

// Whether the entries fill one piece of memory, in any order and each once.
bool is_dense(const Tensor& x) {
  std::array<int64_t, 5> order;
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
    return x.stride(i) != x.stride(j) ? x.stride(i) < x.stride(j) : x.size(i) < x.size(j);
  });
  int64_t expected = 1;
  for (const int64_t i : order) {
    if (x.size(i) == 1) continue;
    if (x.stride(i) != expected) return false;
    expected *= x.size(i);
  }
  return true;
}

// Of the last three dimensions, G, Cg and P. A dimension of one entry has any stride.
bool group_is_contiguous(const Tensor& x) {
  const int64_t c = x.dim() - 2, p = x.dim() - 1;
  return (x.size(p) == 1 || x.stride(p) == 1) && (x.size(c) == 1 || x.stride(c) == x.size(p));
}

bool channels_are_last(const Tensor& x) {
  const int64_t g = x.dim() - 3, c = x.dim() - 2, p = x.dim() - 1;
  const int64_t channels = x.size(g) * x.size(c);
  return channels >= kLeastChannels && (x.size(c) == 1 || x.stride(c) == 1) &&
         (x.size(g) == 1 || x.stride(g) == x.size(c)) &&
         (x.size(p) == 1 || x.stride(p) == channels);
}

// [.., G, Cg, P] of the same numbers, in one of the two memory orders.
Tensor in_order(const Tensor& x, bool channels_last) {
  if (channels_last ? channels_are_last(x) : group_is_contiguous(x)) return x;
  if (!channels_last) return torch::stable::contiguous(x);
  const int64_t g = x.dim() - 3;
  const Tensor inner =
      torch::stable::transpose(torch::stable::transpose(x, g, g + 2), g + 1, g + 2);
  return torch::stable::transpose(
      torch::stable::transpose(torch::stable::contiguous(inner), g + 1, g + 2), g, g + 2);
}

// A gain that the kernels can walk over: contiguous groups have it for every entry, or one for each
// channel; channels last have the channels of a position side by side.
Tensor walkable(const Tensor& gain, const Tensor& t, bool channels_last) {
  std::array<int64_t, 4> sizes{gain.size(0), gain.size(1), gain.size(2), gain.size(3)};
  const bool one_a_channel = sizes[3] == 1;
  if (channels_last) {
    sizes[1] = t.size(2);
    sizes[2] = t.size(3);
  } else if (!one_a_channel) {
    sizes[2] = t.size(3);
  }
  const bool smaller = sizes[1] != gain.size(1) || sizes[2] != gain.size(2);
  const Tensor whole =
      smaller ? call("aten::expand", "", gain, IntHeaderOnlyArrayRef(sizes), false)[0] : gain;
  return !channels_last && one_a_channel ? whole : in_order(whole, channels_last);
}

// [k, B, G, Cg, P] in one of the two memory orders.
Tensor new_in_order(const Tensor& t, bool channels_last) {
  if (!channels_last) {
    const std::array<int64_t, 5> sizes{t.size(0), t.size(1), t.size(2), t.size(3), t.size(4)};
    return torch::stable::new_empty(t, sizes);
  }
  const std::array<int64_t, 5> inner{t.size(0), t.size(1), t.size(4), t.size(2), t.size(3)};
  return torch::stable::transpose(
      torch::stable::transpose(torch::stable::new_empty(t, inner), 3, 4), 2, 4);
}

// `out` has the strides of a dense t. `written` is that, or what is copied to it in the end.
struct Prepared {
  Tensor t, normalized, scale, gain, out, written;
  NormalizeTangentsParams params;
};

void set_strides(const Tensor& x, int64_t count, int64_t* strides) {
  for (int64_t i = 0; i < count; ++i) strides[i] = x.size(i) == 1 ? 0 : x.stride(i);
}

Prepared prepare(const Tensor& t, const Tensor& normalized, const Tensor& scale,
                 const std::optional<Tensor>& gain, bool centered, bool transposed) {
  NormalizeTangentsParams params{};
  params.channels_last = !group_is_contiguous(t) && channels_are_last(t);
  Prepared call;
  call.t = in_order(t, params.channels_last);
  call.normalized = in_order(normalized, params.channels_last);
  call.scale = torch::stable::contiguous(scale);
  call.out = is_dense(t) ? torch::stable::empty_like(t) : new_in_order(t, false);
  const bool writable =
      params.channels_last ? channels_are_last(call.out) : group_is_contiguous(call.out);
  call.written = writable ? call.out : new_in_order(t, params.channels_last);
  params.t = call.t.const_data_ptr();
  params.normalized = call.normalized.const_data_ptr();
  params.scale = call.scale.const_data_ptr();
  params.out = call.written.mutable_data_ptr();
  params.dtype = dtype_of(kOp, "t", t);
  params.tangents = t.size(0);
  params.batch = t.size(1);
  params.groups = t.size(2);
  params.channels = t.size(3);
  params.positions = t.size(4);
  set_strides(call.t, 3, params.t_strides);
  set_strides(call.written, 3, params.out_strides);
  set_strides(call.normalized, 2, params.normalized_strides);
  if (gain) {
    call.gain = walkable(*gain, t, params.channels_last);
    params.gain = call.gain.const_data_ptr();
    set_strides(call.gain, 4, params.gain_strides);
  }
  params.centered = centered;
  params.transposed = transposed;
  call.params = params;
  return call;
}

Tensor finish(Prepared& call) {
  if (call.written.const_data_ptr() != call.out.const_data_ptr()) {
    torch::stable::copy_(call.out, call.written);
  }
  return call.out;
}

bool is_empty(const Tensor& x) {
  for (int64_t i = 0; i < x.dim(); ++i) {
    if (x.size(i) == 0) return true;
  }
  return false;
}

}  // namespace

Tensor normalize_tangents_cpu(const Tensor& t, const Tensor& normalized, const Tensor& scale,
                              const std::optional<Tensor>& gain, bool centered, bool transposed) {
  validate(t, normalized, scale, gain);
  Prepared call = prepare(t, normalized, scale, gain, centered, transposed);
  if (is_empty(t)) return call.out;
  cpu::normalize_tangents(call.params);
  return finish(call);
}

#if defined(PULLBACK_WITH_CUDA)
Tensor normalize_tangents_cuda(const Tensor& t, const Tensor& normalized, const Tensor& scale,
                               const std::optional<Tensor>& gain, bool centered, bool transposed) {
  validate(t, normalized, scale, gain);  // first: with t on the CPU there is no device to guard
  const torch::stable::accelerator::DeviceGuard guard(t.get_device_index());
  Prepared call = prepare(t, normalized, scale, gain, centered, transposed);
  if (is_empty(t)) return call.out;
  NormalizeTangentsParams& params = call.params;
  const std::array<int64_t, 1> sums{cuda::normalize_tangents_partial(params)};
  const Tensor partial = torch::stable::new_empty(t, sums, ScalarType::Double);
  params.partial = static_cast<double*>(partial.mutable_data_ptr());
  params.device = t.get_device_index();
  check_launch(kOp, cuda::normalize_tangents(params, current_cuda_stream(params.device)));
  return finish(call);
}
#endif

}  // namespace pullback::ops
