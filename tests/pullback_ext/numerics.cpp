// The k x k numerics as a host library for test_numerics.py.
#include "numerics/cholesky_qr.h"
#include "numerics/jacobi.h"
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

// s [k, k | 1], h [k, p], scratch [6, k], distance [k], given_up [k], replaced [k],
// residual [k, k], projection [p, k]; transform [k, k + p]
int qr_pass(int single, int64_t k, int64_t p, double* s, const double* h, double* scratch,
            double* distance, bool* given_up, bool* replaced, double* residual, double* projection,
            int number, void* transform) {
  const CholeskyQr x{k,       p,        s,        odd_pitch(k), h,        p,
                     scratch, distance, given_up, replaced,     residual, projection};
  return single ? cholesky_qr_pass(OneThread{}, x, number, static_cast<float*>(transform))
                : cholesky_qr_pass(OneThread{}, x, number, static_cast<double*>(transform));
}

void qr_start(int64_t k, int64_t p, double* distance, bool* replaced, double* residual,
              double* projection, const int* exponent) {
  const CholeskyQr x{k,       p,        nullptr, 0,        nullptr,  p,
                     nullptr, distance, nullptr, replaced, residual, projection};
  cholesky_qr_start(OneThread{}, x, exponent);
}

void eigen(int64_t n, double* a, double* v, double* rotations, int* pairs, double* values,
           double* vectors) {
  jacobi(OneThread{}, Jacobi{n, a, odd_pitch(n), v, n, rotations, pairs, values, vectors});
}
}
