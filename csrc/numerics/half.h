// 16-bit floats as bits, readable by the host and by CUDA code without any vendor header.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace pullback {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

namespace detail {

PULLBACK_HD static inline float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace detail

// Widening is exact in every case, subnormal numbers and NaN payloads included. Static, because
// this is compiled for several instruction sets: no copy may serve them all.
PULLBACK_HD static inline float widen(float value) {
  return value;
}
PULLBACK_HD static inline double widen(double value) {
  return value;
}
PULLBACK_HD static inline float widen(BFloat16 value) {
  return detail::float_of_bits(static_cast<uint32_t>(value.bits) << 16);
}
PULLBACK_HD static inline float widen(Half value) {
#if defined(__CUDA_ARCH__)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
#else
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1fu;
  const uint32_t fraction = value.bits & 0x3ffu;
  if (exponent == 0) {  // zero and subnormal: fraction * 2^-24
    const float magnitude = static_cast<float>(fraction) * 5.9604644775390625e-8f;
    return sign ? -magnitude : magnitude;
  }
  if (exponent == 31) return detail::float_of_bits(sign | 0x7f800000u | (fraction << 13));
  return detail::float_of_bits(sign | ((exponent + 112) << 23) | (fraction << 13));
#endif
}

}  // namespace pullback
