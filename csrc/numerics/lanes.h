// A vector of doubles, one problem to a lane: algorithms that are written for a type L of this kind
// do the same arithmetic in every lane, whatever the other lanes hold, and decide by masks. This
// one has a single lane; those of an instruction set are in cpu/vectors_*.h. Static, because this
// is compiled for several instruction sets: no copy may serve them all.
//
// L has: Reg, with + - * /, and Mask; kLanes, kTile; load(p), store(p, x), broadcast(x);
// fma(x, y, acc), root(x), magnitude(x), larger(x, y), smaller(x, y); above(x, y), whether x > y;
// choose(mask, x, y), x where the mask holds; any(mask), whether it holds anywhere.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"

namespace pullback {

struct OneLane {
  using Reg = double;
  using Mask = bool;
  static constexpr int kLanes = 1, kTile = 2;
  PULLBACK_HD static Reg load(const double* p) { return *p; }
  PULLBACK_HD static void store(double* p, Reg x) { *p = x; }
  PULLBACK_HD static Reg broadcast(double x) { return x; }
  PULLBACK_HD static Reg fma(Reg x, Reg y, Reg acc) { return x * y + acc; }
  PULLBACK_HD static Reg root(Reg x) { return sqrt(x); }
  PULLBACK_HD static Reg magnitude(Reg x) { return fabs(x); }
  PULLBACK_HD static Reg larger(Reg x, Reg y) { return x > y ? x : y; }
  PULLBACK_HD static Reg smaller(Reg x, Reg y) { return x < y ? x : y; }
  PULLBACK_HD static Mask above(Reg x, Reg y) { return x > y; }
  PULLBACK_HD static Reg choose(Mask mask, Reg x, Reg y) { return mask ? x : y; }
  PULLBACK_HD static bool any(Mask mask) { return mask; }
};

}  // namespace pullback
