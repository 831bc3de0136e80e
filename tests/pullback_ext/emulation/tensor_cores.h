// Tensor cores on the host: included by csrc/cuda/mma.h, which tells what each lane has.
//
// Products are exact. The sum is cut, not rounded: all addends are brought to the exponent of the
// largest of them and lose the digits below its 24, and so does their sum. Devices keep as many
// digits or more, and add in parts. Doubles are added one after the other, as devices do, but their
// products are rounded before.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "emulation.h"
#include "numerics/half.h"

#define PULLBACK_MULTIPLY(Type, a, b, c) emulation::multiply<Type>(EMULATION_SITE, (a), (b), (c))
#define PULLBACK_LOAD_MATRICES(row, to) emulation::load_matrices<false>(EMULATION_SITE, (row), (to))
#define PULLBACK_LOAD_TRANSPOSED(row, to) \
  emulation::load_matrices<true>(EMULATION_SITE, (row), (to))

namespace emulation {

// A lane's share of a product.
struct Product {
  const uint32_t* a;
  const uint32_t* b;
  float* c;
};

// 16-bit entries, two in a register.
template <class Type>
struct Fragments {
  static constexpr int kLeft = 8, kRight = 4;

  static double entry(const uint32_t* registers, int i) {
    return pullback::widen(Type{static_cast<uint16_t>(registers[i / 2] >> 16 * (i % 2))});
  }
  static int row_of_left(int lane, int i) { return lane / 4 + 8 * (i / 2 % 2); }
  static int column_of_left(int lane, int i) { return 2 * (lane % 4) + i % 2 + 8 * (i / 4); }
  static int row_of_right(int lane, int i) { return 2 * (lane % 4) + i % 2 + 8 * (i / 2); }
};
template <>
struct Fragments<pullback::cuda::Tf32> {
  static constexpr int kLeft = 4, kRight = 2;

  static double entry(const uint32_t* registers, int i) {
    return pullback::detail::float_of_bits(registers[i] & 0xffffe000u);
  }
  static int row_of_left(int lane, int i) { return lane / 4 + 8 * (i % 2); }
  static int column_of_left(int lane, int i) { return lane % 4 + 4 * (i / 2); }
  static int row_of_right(int lane, int i) { return lane % 4 + 4 * i; }
};

inline int exponent_of(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<int>(bits >> 52 & 0x7ff) - 1023;
}

inline float cut_sum(const double* addends, int count) {
  int most = -1023;
  for (int i = 0; i < count; ++i) most = std::max(most, exponent_of(addends[i]));
  if (most == 1024) {  // infinite, or not a number
    double sum = 0;
    for (int i = 0; i < count; ++i) sum += addends[i];
    return static_cast<float>(sum);
  }
  if (most == -1023) return 0;
  const double digit = std::ldexp(1.0, most - 23), digits = std::ldexp(1.0, 23 - most);
  int64_t sum = 0;
  for (int i = 0; i < count; ++i) sum += static_cast<int64_t>(addends[i] * digits);
  int64_t last = 1;
  while (std::abs(sum / last) >= 1 << 24) last *= 2;
  return static_cast<float>(static_cast<double>(sum / last * last) * digit);
}

// c += a b, for all lanes at once.
template <class Type>
void multiply_together(void* const* lanes) {
  using Parts = Fragments<Type>;
  constexpr int depth = pullback::cuda::kDepth<Type>;
  double left[16][depth], right[8][depth], addends[depth + 1];
  for (int lane = 0; lane < static_cast<int>(kWarp); ++lane) {
    const Product& part = *static_cast<Product*>(lanes[lane]);
    for (int i = 0; i < Parts::kLeft; ++i) {
      left[Parts::row_of_left(lane, i)][Parts::column_of_left(lane, i)] = Parts::entry(part.a, i);
    }
    for (int i = 0; i < Parts::kRight; ++i) {
      right[lane / 4][Parts::row_of_right(lane, i)] = Parts::entry(part.b, i);
    }
  }
  for (int lane = 0; lane < static_cast<int>(kWarp); ++lane) {
    float* const c = static_cast<Product*>(lanes[lane])->c;
    for (int i = 0; i < 4; ++i) {
      const double* const row = left[lane / 4 + 8 * (i / 2)];
      const double* const column = right[2 * (lane % 4) + i % 2];
      for (int s = 0; s < depth; ++s) addends[s] = row[s] * column[s];
      addends[depth] = c[i];
      c[i] = cut_sum(addends, depth + 1);
    }
  }
}

template <class Type>
void multiply(int site, const uint32_t (&a)[4], const uint32_t (&b)[2], float (&c)[4]) {
  Product part{a, b, c};
  do_together(site, &part, multiply_together<Type>);
}

// A lane's share of a product of doubles.
struct DoubleProduct {
  const double* a;
  const double* b;
  double* c;
};

inline void multiply_doubles_together(void* const* lanes) {
  using Places = Fragments<pullback::cuda::Tf32>;
  double left[16][8], right[8][8];
  for (int lane = 0; lane < static_cast<int>(kWarp); ++lane) {
    const DoubleProduct& part = *static_cast<DoubleProduct*>(lanes[lane]);
    for (int i = 0; i < Places::kLeft; ++i) {
      left[Places::row_of_left(lane, i)][Places::column_of_left(lane, i)] = part.a[i];
    }
    for (int i = 0; i < Places::kRight; ++i) {
      right[lane / 4][Places::row_of_right(lane, i)] = part.b[i];
    }
  }
  for (int lane = 0; lane < static_cast<int>(kWarp); ++lane) {
    double* const c = static_cast<DoubleProduct*>(lanes[lane])->c;
    for (int i = 0; i < 4; ++i) {
      const double* const row = left[lane / 4 + 8 * (i / 2)];
      const double* const column = right[2 * (lane % 4) + i % 2];
      for (int s = 0; s < 8; ++s) c[i] += row[s] * column[s];
    }
  }
}

template <class Type>
void multiply(int site, const double (&a)[4], const double (&b)[2], double (&c)[4]) {
  static_assert(std::is_same_v<Type, double>);
  DoubleProduct part{a, b, c};
  do_together(site, &part, multiply_doubles_together);
}

// A lane's share of four matrices.
struct Matrices {
  const uint16_t* row;
  uint32_t* to;
};

template <bool kTransposed>
void load_together(void* const* lanes) {
  for (int lane = 0; lane < static_cast<int>(kWarp); ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      uint32_t pair[2];
      for (int j = 0; j < 2; ++j) {
        const int row = kTransposed ? 2 * t + j : g, column = kTransposed ? g : 2 * t + j;
        pair[j] = static_cast<Matrices*>(lanes[8 * i + row])->row[column];
      }
      static_cast<Matrices*>(lanes[lane])->to[i] = pair[1] << 16 | pair[0];
    }
  }
}

template <bool kTransposed>
void load_matrices(int site, const void* row, uint32_t (&to)[4]) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) error = "a row of a matrix is not aligned";
  std::fill(to, to + 4, 0xffffffffu);
  Matrices part{static_cast<const uint16_t*>(row), to};
  do_together(site, &part, load_together<kTransposed>);
}

}  // namespace emulation
