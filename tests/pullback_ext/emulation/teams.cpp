// The algorithms of csrc/numerics by a CUDA block and by one thread of the host: to be the same to
// the bit.
#include <cstring>

#include "cuda/team.h"
#include "numerics/jacobi.h"
#include "numerics/ladder.h"

namespace {

template <class Team>
void climb(const Team& team, const pullback::Ladder& x, const int* exponent, int rung,
           float* transform, bool* last) {
  if (rung == 1) pullback::ladder_start(team, x, exponent);
  PULLBACK_SYNC(team);
  const bool result = pullback::ladder_rung<float>(team, x, rung, transform);
  if (team.rank() == 0) *last = result;
}

}  // namespace

extern "C" {

// The arrays are those of Ladder and ladder_rung(); threads = 0: on the host.
const char* climb_a_rung(int threads, const pullback::Ladder* x, const int* exponent, int rung,
                         float* transform, bool* last) {
  emulation::error.clear();
  if (threads == 0) {
    climb(pullback::OneThread(), *x, exponent, rung, transform, last);
    return nullptr;
  }
  PULLBACK_LAUNCH((climb<pullback::cuda::ThreadBlock>), 1, threads, 0, nullptr,
                  pullback::cuda::ThreadBlock(), *x, exponent, rung, transform, last);
  return pullback::cuda::launch_error();
}

const char* rotate(int threads, const pullback::Jacobi* x) {
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
