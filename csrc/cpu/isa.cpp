#include "cpu/isa.h"

#include <cstdlib>
#include <stdexcept>

namespace pullback::cpu {
namespace {

#if defined(__x86_64__)
bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif

Isa choose() {
  const Isa best = isa_available();
  const char* forced = std::getenv("PULLBACK_ISA");
  if (forced == nullptr || *forced == '\0') return best;
  const std::string name = forced;
  Isa asked = Isa::kNone;
  if (name == "avx2") asked = Isa::kAvx2;
  if (name == "avx512") asked = Isa::kAvx512;
  if (asked == Isa::kNone || best == Isa::kPortable || asked > best) {
    throw std::runtime_error("PULLBACK_ISA: expected " +
                             std::string(best == Isa::kAvx512 ? "avx2 or avx512" : isa_name(best)) +
                             " on this processor, got '" + name + "': unset it or correct it");
  }
  return asked;
}

}  // namespace

Isa isa_available() {
#if defined(__x86_64__)
  static const Isa best = has_avx512() ? Isa::kAvx512 : has_avx2() ? Isa::kAvx2 : Isa::kNone;
  return best;
#else
  return Isa::kPortable;
#endif
}

Isa isa_in_use() {
  static const Isa chosen = choose();
  return chosen;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kPortable:
      return "portable";
    default:
      return "none";
  }
}

std::vector<std::string> isa_compiled() {
#if defined(__x86_64__)
  return {"x86-64-v3", "avx512"};
#else
  return {"portable"};
#endif
}

}  // namespace pullback::cpu
