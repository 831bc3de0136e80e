#include "ops/attention.h"

#include <array>
#include <vector>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include "common/attention_params.h"
#include "common/check.h"
#include "common/current_stream.h"
#include "common/rows.h"
#include "cpu/attention.h"
#include "cuda/attention.h"
#include "ops/call.h"

namespace pullback::ops {
namespace {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

using Sizes = std::vector<int64_t>;

ScalarType working_type(const Tensor& q) {
  return q.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

std::string sizes_text(const Sizes& sizes) {
  std::ostringstream text;
  for (size_t i = 0; i < sizes.size(); ++i) text << (i ? ", " : "") << sizes[i];
  return text.str();
}

Sizes sizes_of(const Tensor& x) {
  Sizes sizes;
  for (int64_t i = 0; i < x.dim(); ++i) sizes.push_back(x.size(i));
  return sizes;
}

// What is checked of the arguments, under the name of one of the ops. Holds on to those that had to
// be copied.
class Call {
 public:
  Call(const char* op, AttentionKind kind, const Tensor& q, const Tensor& k, const Tensor& v,
       const std::optional<Tensor>& bias, double scale, bool causal)
      : op_(op), q_(q) {
    check(q.dim() == 4, op, "expected q of shape [B, H, Sq, d], got ", shape_text(q));
    params_.kind = kind;
    params_.dtype = dtype_of(op, "q", q);
    params_.tangents = 1;
    params_.batch = q.size(0);
    params_.heads = q.size(1);
    params_.queries = q.size(2);
    params_.depth = q.size(3);
    check(k.dim() == 4 && k.size(0) == q.size(0) && k.size(3) == q.size(3), op,
          "expected k of shape [B, Hk, Sk, d] beside q of shape ", shape_text(q), ", got ",
          shape_text(k));
    check(k.size(1) > 0 && q.size(1) % k.size(1) == 0, op,
          "expected a number of heads of k that divides that of q, ", q.size(1), ", got ",
          k.size(1));
    params_.key_heads = k.size(1);
    params_.keys = k.size(2);
    check(
        v.dim() == 4 && v.size(0) == k.size(0) && v.size(1) == k.size(1) && v.size(2) == k.size(2),
        op, "expected v of shape [B, Hk, Sk, e] beside k of shape ", shape_text(k), ", got ",
        shape_text(v));
    params_.width = v.size(3);
    if (bias) check_bias(*bias);
    check_like("k", k, q.scalar_type());
    check_like("v", v, q.scalar_type());
    params_.q = rows(q);
    params_.k = rows(k);
    params_.v = rows(v);
    if (bias) {
      check_like("bias", *bias, q.scalar_type());
      params_.bias = bias->const_data_ptr();
      for (int i = 0; i < 4; ++i) {
        params_.bias_strides[i] = bias->size(i) == 1 ? 0 : bias->stride(i);
      }
    }
    params_.scale = scale;
    params_.causal = causal;
    params_.device = q.is_cpu() ? 0 : q.get_device_index();
  }

  // What attention gave.
  void take(const Tensor& o, const Tensor& lse) {
    check_shape("o", "B, H, Sq, e", o, of_queries(params_.width));
    check_shape("lse", "B, H, Sq", lse, {params_.batch, params_.heads, params_.queries});
    check_like("o", o, q_.scalar_type());
    check_like("lse", lse, ScalarType::Double);
    params_.o = rows(o);
    params_.lse = static_cast<double*>(
        const_cast<void*>(kept(torch::stable::contiguous(lse)).const_data_ptr()));
    if (q_.is_cpu()) return;
    const Sizes rows{params_.batch, params_.heads, params_.queries};
    params_.peaks = static_cast<int*>(kept(new_empty(rows, ScalarType::Int)).mutable_data_ptr());
    if (working_type(q_) != q_.scalar_type()) {
      params_.exact =
          kept(new_empty(of_queries(params_.width), working_type(q_))).mutable_data_ptr();
    }
  }

  // A tangent, or a cotangent, [T, ..]; the first one says how many there are.
  void take(const char* name, const char* letters, const Tensor& x, Sizes sizes, HeadRows* to) {
    if (!counted_) params_.tangents = x.dim() > 0 ? x.size(0) : 0;
    counted_ = true;
    sizes.insert(sizes.begin(), params_.tangents);
    check_shape(name, letters, x, sizes);
    check_like(name, x, q_.scalar_type());
    *to = rows(x);
  }

  Sizes of_queries(int64_t width) const {
    return {params_.batch, params_.heads, params_.queries, width};
  }
  Sizes of_keys(int64_t width) const {
    return {params_.batch, params_.key_heads, params_.keys, width};
  }
  bool counted() const { return counted_; }
  AttentionParams& params() { return params_; }

  // Results: [T, ..] of the call's dtype, and of the one that is computed in.
  Tensor new_tangents(Sizes sizes) const {
    sizes.insert(sizes.begin(), params_.tangents);
    return torch::stable::new_empty(q_, IntHeaderOnlyArrayRef(sizes.data(), sizes.size()));
  }
  Tensor new_sums() const {
    return new_empty({params_.tangents, params_.batch, params_.heads, params_.queries},
                     working_type(q_));
  }
  Tensor new_empty(const Sizes& sizes, ScalarType type) const {
    return torch::stable::new_empty(q_, IntHeaderOnlyArrayRef(sizes.data(), sizes.size()), type);
  }

 private:
  void check_bias(const Tensor& bias) const {
    const Sizes full{params_.batch, params_.heads, params_.queries, params_.keys};
    bool broadcasts = bias.dim() == 4;
    for (int64_t i = 0; broadcasts && i < 4; ++i) {
      broadcasts = bias.size(i) == 1 || bias.size(i) == full[i];
    }
    check(broadcasts, op_, "expected bias of four sizes, each 1 or that of [B, H, Sq, Sk], here [",
          sizes_text(full), "], got ", shape_text(bias));
  }

  void check_shape(const char* name, const char* letters, const Tensor& x,
                   const Sizes& sizes) const {
    check(sizes_of(x) == sizes, op_, "expected ", name, " of shape [", letters, "], here [",
          sizes_text(sizes), "], got ", shape_text(x));
  }

  void check_like(const char* name, const Tensor& x, ScalarType type) const {
    check(x.scalar_type() == type, op_, "expected ", name, " of dtype ",
          type == q_.scalar_type() ? dtype_text(q_)
                                   : (type == ScalarType::Double ? "float64" : "float32"),
          " beside q of dtype ", dtype_text(q_), ", got ", dtype_text(x));
    check(device_text(x) == device_text(q_), op_, "expected ", name, " on ", device_text(q_),
          " like q, got ", device_text(x));
  }

  const Tensor& kept(Tensor x) {
    kept_.push_back(std::move(x));
    return kept_.back();
  }

  // [.., B, H, S, entries] with contiguous entries.
  HeadRows rows(const Tensor& x) {
    const int64_t last = x.dim() - 1;
    const bool in_place = x.size(last) <= 1 || x.stride(last) == 1;
    const Tensor& read = kept(in_place ? x : torch::stable::contiguous(x));
    HeadRows rows{read.const_data_ptr(), {}};
    const int64_t front = 4 - last;  // 0 with tangents, else 1
    for (int64_t i = 0; i < last; ++i) {
      rows.strides[front + i] = read.size(i) == 1 ? 0 : read.stride(i);
    }
    return rows;
  }

  const char* op_;
  const Tensor& q_;
  AttentionParams params_{};
  bool counted_ = false;
  std::vector<Tensor> kept_;
};

// What runs the kernels of a device.
using Run = void (*)(const char* op, AttentionParams& params);

void on_cpu(const char*, AttentionParams& params) {
  cpu::attention(params);
}

std::tuple<Tensor, Tensor> attention(Run run, const Tensor& q, const Tensor& k, const Tensor& v,
                                     const std::optional<Tensor>& bias, double scale, bool causal) {
  Call call("attention", AttentionKind::kForward, q, k, v, bias, scale, causal);
  AttentionParams& params = call.params();
  const Tensor o = call.new_empty(call.of_queries(params.width), q.scalar_type());
  const Tensor lse =
      call.new_empty({params.batch, params.heads, params.queries}, ScalarType::Double);
  params.out = o.mutable_data_ptr();
  params.lse = static_cast<double*>(lse.mutable_data_ptr());
  if (lse.numel() > 0) run("attention", params);
  return {o, lse};
}

Tensor attention_tangents(Run run, const Tensor& q, const Tensor& k, const Tensor& v,
                          const Tensor& o, const Tensor& lse, const std::optional<Tensor>& dq,
                          const std::optional<Tensor>& dk, const std::optional<Tensor>& dv,
                          const std::optional<Tensor>& bias, double scale, bool causal) {
  constexpr const char* op = "attention_tangents";
  Call call(op, AttentionKind::kTangents, q, k, v, bias, scale, causal);
  AttentionParams& params = call.params();
  call.take(o, lse);
  if (dq) call.take("dq", "T, B, H, Sq, d", *dq, call.of_queries(params.depth), &params.dq);
  if (dk) call.take("dk", "T, B, Hk, Sk, d", *dk, call.of_keys(params.depth), &params.dk);
  if (dv) call.take("dv", "T, B, Hk, Sk, e", *dv, call.of_keys(params.width), &params.dv);
  check(call.counted(), op, "expected dq, dk or dv, got none of them");
  const Tensor out = call.new_tangents(call.of_queries(params.width));
  const Tensor sums = q.is_cpu() ? call.new_empty({0}, working_type(q)) : call.new_sums();
  params.sums = sums.mutable_data_ptr();
  params.out = out.mutable_data_ptr();
  if (out.numel() > 0) run(op, params);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> attention_cotangents(Run run, const Tensor& q, const Tensor& k,
                                                        const Tensor& v, const Tensor& o,
                                                        const Tensor& lse, const Tensor& g,
                                                        const std::optional<Tensor>& bias,
                                                        double scale, bool causal, bool with_kv) {
  constexpr const char* op = "attention_cotangents";
  Call call(op, AttentionKind::kCotangentsOfQueries, q, k, v, bias, scale, causal);
  AttentionParams& params = call.params();
  call.take(o, lse);
  call.take("g", "T, B, H, Sq, e", g, call.of_queries(params.width), &params.g);
  const Tensor dq = call.new_tangents(call.of_queries(params.depth));
  const Tensor dk = with_kv ? call.new_tangents(call.of_keys(params.depth))
                            : call.new_empty({0}, q.scalar_type());
  const Tensor dv = with_kv ? call.new_tangents(call.of_keys(params.width))
                            : call.new_empty({0}, q.scalar_type());
  params.out = dq.mutable_data_ptr();
  const Tensor sums = call.new_sums();
  params.sums = sums.mutable_data_ptr();
  if (params.tangents * params.batch * params.heads * params.queries > 0) run(op, params);
  if (with_kv && dk.numel() + dv.numel() > 0) {
    params.kind = AttentionKind::kCotangentsOfKeys;
    params.out_k = dk.mutable_data_ptr();
    params.out_v = dv.mutable_data_ptr();
    run(op, params);
  }
  return {dq, dk, dv};
}

}  // namespace

std::tuple<Tensor, Tensor> attention_cpu(const Tensor& q, const Tensor& k, const Tensor& v,
                                         const std::optional<Tensor>& bias, double scale,
                                         bool causal) {
  return attention(on_cpu, q, k, v, bias, scale, causal);
}

Tensor attention_tangents_cpu(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o,
                              const Tensor& lse, const std::optional<Tensor>& dq,
                              const std::optional<Tensor>& dk, const std::optional<Tensor>& dv,
                              const std::optional<Tensor>& bias, double scale, bool causal) {
  return attention_tangents(on_cpu, q, k, v, o, lse, dq, dk, dv, bias, scale, causal);
}

std::tuple<Tensor, Tensor, Tensor> attention_cotangents_cpu(
    const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o, const Tensor& lse,
    const Tensor& g, const std::optional<Tensor>& bias, double scale, bool causal, bool with_kv) {
  return attention_cotangents(on_cpu, q, k, v, o, lse, g, bias, scale, causal, with_kv);
}

#if defined(PULLBACK_WITH_CUDA)
namespace {

void on_cuda(const char* op, AttentionParams& params) {
  const torch::stable::accelerator::DeviceGuard guard(params.device);
  check_launch(op, cuda::attention(params, current_cuda_stream(params.device)));
}

}  // namespace

std::tuple<Tensor, Tensor> attention_cuda(const Tensor& q, const Tensor& k, const Tensor& v,
                                          const std::optional<Tensor>& bias, double scale,
                                          bool causal) {
  return attention(on_cuda, q, k, v, bias, scale, causal);
}

Tensor attention_tangents_cuda(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o,
                               const Tensor& lse, const std::optional<Tensor>& dq,
                               const std::optional<Tensor>& dk, const std::optional<Tensor>& dv,
                               const std::optional<Tensor>& bias, double scale, bool causal) {
  return attention_tangents(on_cuda, q, k, v, o, lse, dq, dk, dv, bias, scale, causal);
}

std::tuple<Tensor, Tensor, Tensor> attention_cotangents_cuda(
    const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o, const Tensor& lse,
    const Tensor& g, const std::optional<Tensor>& bias, double scale, bool causal, bool with_kv) {
  return attention_cotangents(on_cuda, q, k, v, o, lse, g, bias, scale, causal, with_kv);
}
#endif

}  // namespace pullback::ops
