// Which instruction set the CPU kernels use, decided once per process.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

namespace pullback::cpu {

enum class Isa { kNone, kPortable, kAvx2, kAvx512 };

// The best one that is compiled and that this processor runs; kNone when there is none.
Isa isa_available();

// isa_available(), unless the environment variable PULLBACK_ISA (avx2 or avx512) forces another.
// Throws when it asks for what this processor or this build does not have.
Isa isa_in_use();

const char* isa_name(Isa isa);
std::vector<std::string> isa_compiled();

// A function that is compiled once per instruction set, for one of them.
template <class Function>
struct Version {
  Isa isa;
  Function* function;
};

// The version for the instruction set in use. Throws, naming the op, where there is none.
template <class Function, size_t Count>
Function* version_in_use(const char* op, const Version<Function> (&versions)[Count]) {
  for (const Version<Function>& version : versions) {
    if (version.isa == isa_in_use()) return version.function;
  }
  throw std::runtime_error(std::string(op) +
                           ": expected a processor with AVX2, FMA and F16C, got an older one");
}

}  // namespace pullback::cpu
