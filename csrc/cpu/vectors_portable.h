// The vector types of other processors, as cpu/tiles.h wants them: plain loops that the compiler
// vectorises as it can.
#pragma once

#include <cstdint>

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
  static void store_unaligned(T* p, Reg x) { store(p, x); }
  static Reg broadcast(T value) {
    Reg x;
    for (int l = 0; l < kLanes; ++l) x.lane[l] = value;
    return x;
  }
  static Reg add(Reg x, Reg y) {
    for (int l = 0; l < kLanes; ++l) x.lane[l] += y.lane[l];
    return x;
  }
  static Reg fma(Reg x, Reg y, Reg acc) {
    for (int l = 0; l < kLanes; ++l) acc.lane[l] += x.lane[l] * y.lane[l];
    return acc;
  }
  static void flush(Reg acc, double* sums, bool first) {
    for (int l = 0; l < kLanes; ++l) sums[l] = (first ? 0.0 : sums[l]) + acc.lane[l];
  }
};

}  // namespace
}  // namespace pullback::cpu
