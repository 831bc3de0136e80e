// Large results in huge pages, where the system gives them for the asking.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "common/integers.h"

namespace pullback::cpu {

// Asks for huge pages under a large result that nobody has touched yet: a page fault for every 4
// KiB of it takes longer than the work does.
static inline void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
  constexpr int64_t huge = 2 << 20;
  const int64_t from = reinterpret_cast<intptr_t>(data), to = from + bytes;
  const int64_t begin = round_up(from, huge), end = to / huge * huge;
  // It is advice: a system that does not take it loses nothing.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace pullback::cpu
