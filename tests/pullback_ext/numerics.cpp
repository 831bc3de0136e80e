// The k x k numerics as a host library for test_numerics.py.
#include "numerics/jacobi.h"
#include "numerics/ladder.h"
#include "numerics/random.h"

using namespace pullback;

extern "C" {

void philox_words(uint64_t key, uint32_t* counter) {
  const Philox out = philox(key, {{counter[0], counter[1], counter[2], counter[3]}});
  for (int i = 0; i < 4; ++i) counter[i] = out.word[i];
}

void gaussians(uint64_t seed, int64_t row, int64_t columns, int draw, float* out) {
  for (int64_t c = 0; c < columns; ++c) out[c] = gaussian(seed, row, c, draw);
}

// s [k, k | 1], h [k, p], scratch [5, k], distance [k], fresh [k], replaced [k], residual [k, k],
// columns [p, k]; transform [k, k + p]
int rung(int single, int64_t k, int64_t p, double* s, const double* h, double* scratch,
         double* distance, bool* fresh, bool* replaced, double* residual, double* columns,
         int number, void* transform) {
  const Ladder x{k,       p,     s,        ladder_pitch(k), h,      scratch,
                 distance, fresh, replaced, residual,        columns};
  return single ? ladder_rung(OneThread{}, x, number, static_cast<float*>(transform))
                : ladder_rung(OneThread{}, x, number, static_cast<double*>(transform));
}

void start(int64_t k, int64_t p, double* distance, bool* replaced, double* residual,
           double* columns, const int* exponent) {
  const Ladder x{k,        p,       nullptr,  0,        nullptr, nullptr,
                 distance, nullptr, replaced, residual, columns};
  ladder_start(OneThread{}, x, exponent);
}

void eigen(int64_t n, double* a, double* v, double* rotations, int* pairs, double* values,
           double* vectors) {
  jacobi(OneThread{}, Jacobi{n, a, n | 1, v, rotations, pairs, values, vectors});
}
}
