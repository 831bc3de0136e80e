// Which instruction set the CPU kernels use, decided once per process.
#pragma once

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

}  // namespace pullback::cpu
