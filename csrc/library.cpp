// Every op: its schema, then its implementations. A device without an entry here is served by the
// plain-torch twin that pullback_ext/_ops.py registers.
#include <torch/csrc/stable/library.h>

#include "cpu/isa.h"
#include "ops/attention.h"
#include "ops/gram.h"
#include "ops/normalize_tangents.h"
#include "ops/orthonormalize.h"
#include "ops/ritz.h"
#include "ops/squared_singular_values.h"

STABLE_TORCH_LIBRARY(pullback, m) {
  // [B, k, N], [B, p, N] -> [B, k, p] float64
  m.def("gram(Tensor a, Tensor? b=None) -> Tensor");
  // [B, k, N], [B, p, N] -> q [B, k, N], rank [B], replaced [B, k], passes [B]
  m.def(
      "orthonormalize(Tensor block, Tensor? against=None, int seed=0) -> "
      "(Tensor, Tensor, Tensor, Tensor)");
  // [B, k, N], [B, p, N], [B, d, N] -> q [B, k, N], projection [B, d + p, k], residual [B, k, k],
  // rank [B], replaced [B, k], passes [B]
  m.def(
      "block_step(Tensor w, Tensor v_old, Tensor basis, int seed=0) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  // [B, n, n] -> values [B, n], vectors [B, n, n], both float64
  m.def("ritz(Tensor t) -> (Tensor, Tensor)");
  // [P, k, p] -> [P, min(k, p)] float64
  m.def("squared_singular_values(Tensor c) -> Tensor");
  // [k, B, G, Cg, P], [B, G, Cg, P], [B, G], [B, G, Cg, P] or 1 for any -> [k, B, G, Cg, P]
  m.def(
      "normalize_tangents(Tensor t, Tensor normalized, Tensor scale, Tensor? gain=None, "
      "bool centered=True, bool transposed=False) -> Tensor");
  // [B, H, Sq, d], [B, Hk, Sk, d], [B, Hk, Sk, e], [B, H, Sq, Sk] or 1 for any -> o [B, H, Sq, e],
  // lse [B, H, Sq]
  m.def(
      "attention(Tensor q, Tensor k, Tensor v, Tensor? bias, float scale, bool causal) -> "
      "(Tensor, Tensor)");
  // The same, o, lse, dq [T, B, H, Sq, d], dk [T, B, Hk, Sk, d], dv [T, B, Hk, Sk, e]
  // -> [T, B, H, Sq, e]
  m.def(
      "attention_tangents(Tensor q, Tensor k, Tensor v, Tensor o, Tensor lse, Tensor? dq, "
      "Tensor? dk, Tensor? dv, Tensor? bias, float scale, bool causal) -> Tensor");
  // The same, o, lse, g [T, B, H, Sq, e] -> dq, dk, dv as above, the last two [0] without with_kv
  m.def(
      "attention_cotangents(Tensor q, Tensor k, Tensor v, Tensor o, Tensor lse, Tensor g, "
      "Tensor? bias, float scale, bool causal, bool with_kv) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(pullback, CPU, m) {
  if (pullback::cpu::isa_available() == pullback::cpu::Isa::kNone) return;
  m.impl("gram", TORCH_BOX(&pullback::ops::gram_cpu));
  m.impl("orthonormalize", TORCH_BOX(&pullback::ops::orthonormalize_cpu));
  m.impl("block_step", TORCH_BOX(&pullback::ops::block_step_cpu));
  m.impl("ritz", TORCH_BOX(&pullback::ops::ritz_cpu));
  m.impl("squared_singular_values", TORCH_BOX(&pullback::ops::squared_singular_values_cpu));
  m.impl("normalize_tangents", TORCH_BOX(&pullback::ops::normalize_tangents_cpu));
  m.impl("attention", TORCH_BOX(&pullback::ops::attention_cpu));
  m.impl("attention_tangents", TORCH_BOX(&pullback::ops::attention_tangents_cpu));
  m.impl("attention_cotangents", TORCH_BOX(&pullback::ops::attention_cotangents_cpu));
}

#if defined(PULLBACK_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(pullback, CUDA, m) {
  m.impl("gram", TORCH_BOX(&pullback::ops::gram_cuda));
  m.impl("orthonormalize", TORCH_BOX(&pullback::ops::orthonormalize_cuda));
  m.impl("block_step", TORCH_BOX(&pullback::ops::block_step_cuda));
  m.impl("ritz", TORCH_BOX(&pullback::ops::ritz_cuda));
  m.impl("squared_singular_values", TORCH_BOX(&pullback::ops::squared_singular_values_cuda));
  m.impl("normalize_tangents", TORCH_BOX(&pullback::ops::normalize_tangents_cuda));
  m.impl("attention", TORCH_BOX(&pullback::ops::attention_cuda));
  m.impl("attention_tangents", TORCH_BOX(&pullback::ops::attention_tangents_cuda));
  m.impl("attention_cotangents", TORCH_BOX(&pullback::ops::attention_cotangents_cuda));
}
#endif
