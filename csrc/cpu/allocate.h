// Memory of the CPU kernels: aligned to a cache line, not set to anything.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "common/integers.h"

namespace pullback::cpu {

struct Free {
  void operator()(void* p) const { std::free(p); }
};
template <class T>
using Array = std::unique_ptr<T[], Free>;

template <class T>
Array<T> allocate(int64_t count) {
  constexpr int64_t line = 64;
  const int64_t bytes = round_up(count * static_cast<int64_t>(sizeof(T)), line);
  Array<T> memory(static_cast<T*>(std::aligned_alloc(line, bytes)));
  if (!memory) throw std::bad_alloc();
  return memory;
}

}  // namespace pullback::cpu
