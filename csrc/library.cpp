// Every op: its schema, then its implementations. A device without an entry here is served by the
// plain-torch twin that pullback_ext/_ops.py registers.
#include <torch/csrc/stable/library.h>

#include "cpu/isa.h"
#include "ops/gram.h"

STABLE_TORCH_LIBRARY(pullback, m) {
  // [B, k, N], [B, p, N] -> [B, k, p] float64
  m.def("gram(Tensor a, Tensor? b=None) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pullback, CPU, m) {
  if (pullback::cpu::isa_available() == pullback::cpu::Isa::kNone) return;
  m.impl("gram", TORCH_BOX(&pullback::ops::gram_cpu));
}

#if defined(PULLBACK_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(pullback, CUDA, m) {
  m.impl("gram", TORCH_BOX(&pullback::ops::gram_cuda));
}
#endif
