// Products of tensor cores, and what brings matrices into the registers that they are taken from.
//
// A warp adds a product of 16 x k by k x 8 to 16 x 8 sums of float32, or of double where factors
// are; k is kDepth: 16 of Half and BFloat16, 8 of Tf32 and double. Of lane l let g = l / 4 and
// t = l % 4. It has
//   of the sums       float c[4]: row g, columns 2t and 2t + 1; row g + 8, the same columns
//   of the left       uint32_t a[4], 16-bit: row g, columns 2t and 2t + 1; row g + 8, the same;
//                       row g, columns 2t + 8 and 2t + 9; row g + 8, the same
//                     Tf32: rows g and g + 8 of column t, then of column t + 4
//   of the right      uint32_t b[2], 16-bit: column g, rows 2t and 2t + 1; then 2t + 8 and 2t + 9
//                     Tf32: column g, rows t and t + 4
// the first of two in the lower half of a register; doubles c[4], a[4] and b[2] are placed as Tf32.
// Two neighbouring tiles of sums, once rounded by packed(), are the left factor of a next product.
//
//   PULLBACK_MULTIPLY(Type, a, b, c)       c += a b
//   PULLBACK_LOAD_MATRICES(row, to)        to[4]: 8 x 8 matrices of 16-bit entries from shared
//                                          memory. Lane l tells where row l % 8 of matrix l / 8
//                                          begins, 16 bytes, aligned to as many; it gets of each
//                                          row g, columns 2t and 2t + 1
//   PULLBACK_LOAD_TRANSPOSED(row, to)      as above, of the transposed matrices: column g, rows 2t
//                                          and 2t + 1
//
// All lanes of a warp take part. Compute capability 8.0 is needed.
#pragma once

#include "cuda/launch.h"
#include "numerics/half.h"

namespace pullback::cuda {

struct Tf32 {};  // a float whose last 13 digits are 0

template <class Type>
constexpr int kDepth = 16;
template <>
constexpr int kDepth<Tf32> = 8;
template <>
constexpr int kDepth<double> = 8;

// The nearest number of Tf32, the larger of two that are as near; as the bits of a float.
__device__ inline uint32_t tf32(float x) {
#if defined(PULLBACK_EMULATION)
  const uint32_t bits = pullback::detail::bits_of_float(x);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return (finite ? bits + 0x1000u : bits | (bits & 0x1fffu) << 9) & 0xffffe000u;
#else
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
#endif
}

// x in two parts: x = big + small but for 2^-23 |x|. Of x y three products of parts are enough:
// big big, big small and small big leave out no more than 2^-22 |x y|.
struct SplitTf32 {
  uint32_t big, small;

  __device__ explicit SplitTf32(float x)
      : big(tf32(x)), small(tf32(x - pullback::detail::float_of_bits(big))) {}
};

// Two numbers, rounded to the nearest, in one register.
template <class Type>
__device__ inline uint32_t packed(float low, float high) {
  Type first, second;
  narrow(low, &first);
  narrow(high, &second);
  return static_cast<uint32_t>(second.bits) << 16 | first.bits;
}
#if !defined(PULLBACK_EMULATION)
template <>
__device__ inline uint32_t packed<Half>(float low, float high) {
  uint32_t both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
template <>
__device__ inline uint32_t packed<BFloat16>(float low, float high) {
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
#endif

}  // namespace pullback::cuda

#if defined(PULLBACK_EMULATION)

#include "tensor_cores.h"

#else

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "the CUDA kernels need compute capability 8.0: build for no older architecture"
#endif

#define PULLBACK_MULTIPLY(Type, a, b, c) ::pullback::cuda::multiply(Type(), (a), (b), (c))
#define PULLBACK_LOAD_MATRICES(row, to) ::pullback::cuda::load_matrices((row), (to))
#define PULLBACK_LOAD_TRANSPOSED(row, to) ::pullback::cuda::load_transposed((row), (to))

namespace pullback::cuda {

#define PULLBACK_MULTIPLY_AS(Type, shape)                                               \
  __device__ inline void multiply(Type, const uint32_t (&a)[4], const uint32_t (&b)[2], \
                                  float (&c)[4]) {                                      \
    asm("mma.sync.aligned." shape                                                       \
        " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "                               \
        "{%0, %1, %2, %3};"                                                             \
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));            \
  }
PULLBACK_MULTIPLY_AS(Half, "m16n8k16.row.col.f32.f16.f16.f32")
PULLBACK_MULTIPLY_AS(BFloat16, "m16n8k16.row.col.f32.bf16.bf16.f32")
PULLBACK_MULTIPLY_AS(Tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef PULLBACK_MULTIPLY_AS

// Each product is added as by fma(), rounded to the nearest. Below compute capability 9.0 tensor
// cores take half of the rows and half of the depth at a time.
__device__ inline void multiply(double, const double (&a)[4], const double (&b)[2],
                                double (&c)[4]) {
#if __CUDA_ARCH__ >= 900
  asm("mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
      : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(b[0]), "d"(b[1]));
#else
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // columns t of rows g and g + 8, then columns t + 4
    double* const of = c + i % 2 * 2;
    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+d"(of[0]), "+d"(of[1])
        : "d"(a[i]), "d"(b[i / 2]));
  }
#endif
}

#define PULLBACK_LOAD_AS(name, how)                                                        \
  __device__ inline void name(const void* row, uint32_t (&to)[4]) {                        \
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));              \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4" how ".shared.b16 {%0, %1, %2, %3}, [%4];" \
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])                      \
                 : "r"(at)                                                                 \
                 : "memory");                                                              \
  }
PULLBACK_LOAD_AS(load_matrices, "")
PULLBACK_LOAD_AS(load_transposed, ".trans")
#undef PULLBACK_LOAD_AS

}  // namespace pullback::cuda

#endif
