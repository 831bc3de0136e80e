#include "cpu/ritz.h"

#include <memory>

#include "common/parallel.h"
#include "numerics/jacobi.h"

namespace pullback::cpu {

void ritz(const RitzParams& params) {
  const int64_t n = params.n, pitch = n | 1, entries = n * n;
  const int64_t cost = 32 * n * entries;  // some sweeps of rotations, which are slow
  parallel_for(params.batch, cost, [&](int64_t begin, int64_t end) {
    const auto numbers = std::make_unique<double[]>(n * pitch + entries + 2 * (n + 1));
    const auto pairs = std::make_unique<int[]>(2 * (n + 1));
    double* const a = numbers.get();
    double* const v = a + n * pitch;
    for (int64_t sample = begin; sample < end; ++sample) {
      const double* const t = params.t + sample * entries;
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j <= i; ++j) a[i * pitch + j] = t[i * n + j];
      }
      jacobi(OneThread{}, {n, a, pitch, v, v + entries, pairs.get(), params.values + sample * n,
                           params.vectors + sample * entries});
    }
  });
}

}  // namespace pullback::cpu
