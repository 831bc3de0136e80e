// The vector types of other processors, as cpu/tiles.h wants them: plain loops that the compiler
// vectorises as it can.
#pragma once

#include <cstdint>

#include "numerics/half.h"

namespace pullback::cpu {
namespace {

template <class T>
struct Lanes {
  using Real = T;
  static constexpr int kLanes = 8, kRows = 3, kCols = 2, kSums = 8;
  static constexpr int kProductRows = 3, kProductCols = 2;
  struct Reg {
    T lane[kLanes];
  };
  static Reg zero() { return Reg{}; }
  static Reg load(const T* p) {
    Reg x;
    for (int l = 0; l < kLanes; ++l) x.lane[l] = p[l];
    return x;
  }
  static void store(T* p, Reg x) {
    for (int l = 0; l < kLanes; ++l) p[l] = x.lane[l];
  }
  template <class Entry>
  static Reg load_unaligned(const Entry* p) {
    Reg x;
    for (int l = 0; l < kLanes; ++l) x.lane[l] = widen(p[l]);
    return x;
  }
  template <class Entry>
  static void store_unaligned(Entry* p, Reg x) {
    for (int l = 0; l < kLanes; ++l) narrow(x.lane[l], p + l);
  }
  template <class Entry>
  static void stream(Entry* p, Reg x) {
    store_unaligned(p, x);
  }
  static void end_of_stream() {}
  static Reg broadcast(T value) {
    Reg x;
    for (int l = 0; l < kLanes; ++l) x.lane[l] = value;
    return x;
  }
  static Reg add(Reg x, Reg y) {
    for (int l = 0; l < kLanes; ++l) x.lane[l] += y.lane[l];
    return x;
  }
  static Reg subtract(Reg x, Reg y) {
    for (int l = 0; l < kLanes; ++l) x.lane[l] -= y.lane[l];
    return x;
  }
  static Reg multiply(Reg x, Reg y) {
    for (int l = 0; l < kLanes; ++l) x.lane[l] *= y.lane[l];
    return x;
  }
  static Reg fma(Reg x, Reg y, Reg acc) {
    for (int l = 0; l < kLanes; ++l) acc.lane[l] += x.lane[l] * y.lane[l];
    return acc;
  }
  static Reg fnma(Reg x, Reg y, Reg acc) {
    for (int l = 0; l < kLanes; ++l) acc.lane[l] -= x.lane[l] * y.lane[l];
    return acc;
  }
  static Reg larger(Reg x, Reg y) {  // y if one is NaN
    for (int l = 0; l < kLanes; ++l) x.lane[l] = x.lane[l] > y.lane[l] ? x.lane[l] : y.lane[l];
    return x;
  }
  static Reg smaller(Reg x, Reg y) {  // likewise
    for (int l = 0; l < kLanes; ++l) x.lane[l] = x.lane[l] < y.lane[l] ? x.lane[l] : y.lane[l];
    return x;
  }
  static Reg times_power_of_two(Reg x, Reg power) {
    for (int l = 0; l < kLanes; ++l) {
      // Where x is not finite the result is not used, and no number is a power.
      const T p = power.lane[l];
      const int whole = p > -2000 && p < 2000 ? static_cast<int>(p) : 0;
      x.lane[l] = p == p ? static_cast<T>(__builtin_ldexp(x.lane[l], whole)) : p;
    }
    return x;
  }
  static Reg unless_below(Reg x, Reg limit, Reg value) {
    for (int l = 0; l < kLanes; ++l) value.lane[l] = x.lane[l] < limit.lane[l] ? 0 : value.lane[l];
    return value;
  }
  static constexpr int kTransposed = 8;
  static void transpose(const T* from, int64_t pitch, T* to, int64_t to_pitch) {
    for (int i = 0; i < kTransposed; ++i) {
      for (int j = 0; j < kTransposed; ++j) to[j * to_pitch + i] = from[i * pitch + j];
    }
  }
  static void add_lanes(Reg acc, double* sums) { flush(acc, sums, false); }
  static void flush(Reg acc, double* sums, bool first) {
    for (int l = 0; l < kLanes; ++l) sums[l] = (first ? 0.0 : sums[l]) + acc.lane[l];
  }
};

}  // namespace
}  // namespace pullback::cpu
