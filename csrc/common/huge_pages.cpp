#include "common/huge_pages.h"

#include <cstdint>

#include <torch/headeronly/core/ScalarType.h>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace pullback {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

// The C library maps blocks of this size and more by themselves, and unmaps them in the end: what
// was asked for ends with them.
[[maybe_unused]] constexpr uintptr_t kLeastBytes = 32 << 20;

[[maybe_unused]] uintptr_t entry_bytes(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return 8;
    case ScalarType::Float:
      return 4;
    default:
      return 2;
  }
}

}  // namespace

const Tensor& in_huge_pages(const Tensor& fresh) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t bytes = static_cast<uintptr_t>(fresh.numel()) * entry_bytes(fresh);
  if (fresh.is_cpu() && bytes >= kLeastBytes) {
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t begin = reinterpret_cast<uintptr_t>(fresh.mutable_data_ptr());
    const uintptr_t first = (begin + page - 1) / page * page, end = (begin + bytes) / page * page;
    madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);  // a wish: it may fail
  }
#endif
  return fresh;
}

}  // namespace pullback
