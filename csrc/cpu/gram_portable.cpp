// gram for processors other than x86-64: plain loops that the compiler vectorises as it can.
#include "cpu/gram_kernel.h"

namespace pullback::cpu {
namespace {

template <class T>
struct Lanes {
  using Real = T;
  static constexpr int kLanes = 8, kRows = 3, kCols = 2, kSums = 8;
  struct Reg {
    T lane[kLanes];
  };
  static Reg zero() { return Reg{}; }
  static Reg load(const T* p) {
    Reg x;
    for (int l = 0; l < kLanes; ++l) x.lane[l] = p[l];
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

void gram_items_portable(const GramParams& params, int64_t begin, int64_t end, char* scratch) {
  gram_items<Lanes<float>, Lanes<double>>(params, begin, end, scratch);
}

}  // namespace pullback::cpu
