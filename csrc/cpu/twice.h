// Two vectors side by side as one (numerics/lanes.h): while one waits for a division, the other
// works. Internal, because this is compiled once per instruction set.
#pragma once

namespace pullback::cpu {
namespace {

template <class L>
struct Twice {
  static constexpr int kLanes = 2 * L::kLanes;
  struct Mask {
    typename L::Mask low, high;
  };
  struct Reg {
    typename L::Reg low, high;
    friend Reg operator+(Reg x, Reg y) { return {x.low + y.low, x.high + y.high}; }
    friend Reg operator-(Reg x, Reg y) { return {x.low - y.low, x.high - y.high}; }
    friend Reg operator*(Reg x, Reg y) { return {x.low * y.low, x.high * y.high}; }
    friend Reg operator/(Reg x, Reg y) { return {x.low / y.low, x.high / y.high}; }
  };
  static Reg load(const double* p) { return {L::load(p), L::load(p + L::kLanes)}; }
  static void store(double* p, Reg x) {
    L::store(p, x.low);
    L::store(p + L::kLanes, x.high);
  }
  static Reg broadcast(double x) { return {L::broadcast(x), L::broadcast(x)}; }
  static Reg fma(Reg x, Reg y, Reg acc) {
    return {L::fma(x.low, y.low, acc.low), L::fma(x.high, y.high, acc.high)};
  }
  static Reg root(Reg x) { return {L::root(x.low), L::root(x.high)}; }
  static Reg magnitude(Reg x) { return {L::magnitude(x.low), L::magnitude(x.high)}; }
  static Reg larger(Reg x, Reg y) { return {L::larger(x.low, y.low), L::larger(x.high, y.high)}; }
  static Reg smaller(Reg x, Reg y) {
    return {L::smaller(x.low, y.low), L::smaller(x.high, y.high)};
  }
  static Mask above(Reg x, Reg y) { return {L::above(x.low, y.low), L::above(x.high, y.high)}; }
  static Reg choose(Mask mask, Reg x, Reg y) {
    return {L::choose(mask.low, x.low, y.low), L::choose(mask.high, x.high, y.high)};
  }
  static bool any(Mask mask) { return L::any(mask.low) || L::any(mask.high); }
};

}  // namespace
}  // namespace pullback::cpu
