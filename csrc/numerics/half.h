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

PULLBACK_HD static inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
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

// Rounds to the nearest number, ties to even; what is too large becomes infinity, NaN stays NaN.
PULLBACK_HD static inline void narrow(float value, float* to) {
  *to = value;
}
PULLBACK_HD static inline void narrow(double value, double* to) {
  *to = value;
}
PULLBACK_HD static inline void narrow(float value, BFloat16* to) {
  const uint32_t bits = detail::bits_of_float(value);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  to->bits = static_cast<uint16_t>(nan ? bits >> 16 | 0x40u : rounded);
}
PULLBACK_HD static inline void narrow(float value, Half* to) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to->bits) : "f"(value));
#else
  const uint32_t bits = detail::bits_of_float(value), magnitude = bits & 0x7fffffffu;
  const uint32_t sign = bits >> 16 & 0x8000u;
  uint32_t narrowed;
  if (magnitude > 0x7f800000u) {  // NaN
    narrowed = 0x7e00u;
  } else if (magnitude >= 0x47800000u) {  // 2^16 and more
    narrowed = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: 2^-24 is the last digit of 0.5 + magnitude
    narrowed = detail::bits_of_float(detail::float_of_bits(magnitude) + 0.5f) - 0x3f000000u;
  } else {  // another exponent bias, and 13 digits less
    narrowed = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  to->bits = static_cast<uint16_t>(sign | narrowed);
#endif
}

}  // namespace pullback
