// The portable CPU kernels for the tests, with the interface of the files in emulation/. On x86-64
// the library has none of them: the drivers are told that they are those of AVX-512 (portable.py).
#include <cstring>
#include <stdexcept>

#include "cpu/attention.h"
#include "cpu/gram.h"
#include "cpu/isa.h"
#include "cpu/normalize_tangents.h"
#include "cpu/orthonormalize.h"
#include "cpu/splits.h"
#include "cpu/squared_singular_values.h"

namespace pullback::cpu {

Isa isa_in_use() {
#if defined(__x86_64__)
  return Isa::kAvx512;
#else
  return Isa::kPortable;
#endif
}

}  // namespace pullback::cpu

extern "C" {

void set_schedule(int) {}  // there is one thread

int64_t gram_plan(pullback::GramParams* params) {
  params->splits = pullback::split_columns(params->columns, pullback::cpu::kMostSplits);
  return params->splits.count;
}

const char* gram(const pullback::GramParams* params) {
  pullback::cpu::gram(*params);
  return nullptr;
}

size_t orthonormalize_plan(pullback::OrthonormalizeParams* params) {
  params->splits = pullback::split_columns(params->columns, pullback::cpu::kMostSplits);
  return 0;
}

const char* orthonormalize(const pullback::OrthonormalizeParams* params) {
  return pullback::cpu::orthonormalize(*params).found ? "a row is not finite" : nullptr;
}

const char* squared_singular_values(const pullback::SquaredSingularValuesParams* params) {
  return pullback::cpu::squared_singular_values(*params) < 0 ? nullptr : "not finite";
}

int64_t normalize_tangents_plan(const pullback::NormalizeTangentsParams*) {
  return 0;
}

const char* attention(const pullback::AttentionParams* params) {
  pullback::cpu::attention(*params);
  return nullptr;
}

const char* normalize_tangents(const pullback::NormalizeTangentsParams* params) {
  pullback::cpu::normalize_tangents(*params);
  return nullptr;
}
}
