// The algorithms of csrc/numerics by a CUDA block and by one thread of the host: to be the same to
// the bit.
#include "cuda/team.h"
#include "numerics/cholesky_qr.h"
#include "numerics/jacobi.h"

namespace {

template <class Team>
void one_pass(const Team& team, const pullback::CholeskyQr& x, const int* exponent, int pass,
              float* transform, bool* last) {
  if (pass == 1) pullback::cholesky_qr_start(team, x, exponent);
  PULLBACK_SYNC(team);
  const bool result = pullback::cholesky_qr_pass<float>(team, x, pass, transform);
  if (team.rank() == 0) *last = result;
}

}  // namespace

extern "C" {

// The arrays are those of CholeskyQr and cholesky_qr_pass(); threads = 0: on the host.
const char* cholesky_qr_by_team(int threads, const pullback::CholeskyQr* x, const int* exponent,
                                int pass, float* transform, bool* last) {
  emulation::error.clear();
  if (threads == 0) {
    one_pass(pullback::OneThread(), *x, exponent, pass, transform, last);
    return nullptr;
  }
  PULLBACK_LAUNCH((one_pass<pullback::cuda::ThreadBlock>), 1, threads, 0, nullptr,
                  pullback::cuda::ThreadBlock(), *x, exponent, pass, transform, last);
  return pullback::cuda::launch_error();
}

const char* jacobi_by_team(int threads, const pullback::Jacobi* x) {
  emulation::error.clear();
  if (threads == 0) {
    pullback::jacobi(pullback::OneThread(), *x);
    return nullptr;
  }
  PULLBACK_LAUNCH((pullback::jacobi<pullback::cuda::ThreadBlock>), 1, threads, 0, nullptr,
                  pullback::cuda::ThreadBlock(), *x);
  return pullback::cuda::launch_error();
}
}
