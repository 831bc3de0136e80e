// What tensor cores do, by one warp for each 16 x 8 result, for the tests of the emulation.
#include "cuda/mma.h"

namespace {

// c += a b of fragments [warps, 32, 4], [warps, 32, 2] and [warps, 32, 4].
template <class Type>
void of_fragments(const uint32_t* a, const uint32_t* b, float* c) {
  const unsigned lane = blockIdx.x * blockDim.x + threadIdx.x;
  uint32_t left[4], right[2];
  float sum[4];
  std::copy(a + 4 * lane, a + 4 * lane + 4, left);
  std::copy(b + 2 * lane, b + 2 * lane + 2, right);
  std::copy(c + 4 * lane, c + 4 * lane + 4, sum);
  PULLBACK_MULTIPLY(Type, left, right, sum);
  std::copy(sum, sum + 4, c + 4 * lane);
}

// As above, of doubles.
void of_doubles(const double* a, const double* b, double* c) {
  const unsigned lane = blockIdx.x * blockDim.x + threadIdx.x;
  double left[4], right[2], sum[4];
  std::copy(a + 4 * lane, a + 4 * lane + 4, left);
  std::copy(b + 2 * lane, b + 2 * lane + 2, right);
  std::copy(c + 4 * lane, c + 4 * lane + 4, sum);
  PULLBACK_MULTIPLY(double, left, right, sum);
  std::copy(sum, sum + 4, c + 4 * lane);
}

// c [16, 8] = a [16, 16] b [16, 8], by way of shared memory; b is read transposed.
void of_matrices(const uint16_t* a, const uint16_t* b, float* c) {
  PULLBACK_SHARED(memory);
  uint16_t* const left = reinterpret_cast<uint16_t*>(memory);
  uint16_t* const right = left + 16 * 16;  // two columns of tiles of which one is asked for
  const int lane = static_cast<int>(threadIdx.x), row = lane % 16, column = lane / 16 * 8;
  for (int i = 0; i < 8; ++i) {
    left[row * 16 + column + i] = a[row * 16 + column + i];
    right[row * 16 + column + i] = column == 0 ? b[row * 8 + i] : 0;
  }
  __syncwarp();
  uint32_t of_left[4], of_right[4];
  float sum[4] = {};
  PULLBACK_LOAD_MATRICES(left + row * 16 + column, of_left);
  PULLBACK_LOAD_TRANSPOSED(right + row * 16 + column, of_right);
  const uint32_t first[2] = {of_right[0], of_right[1]};
  PULLBACK_MULTIPLY(pullback::BFloat16, of_left, first, sum);
  for (int i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

}  // namespace

extern "C" {

// dtype: 0 Tf32, 2 Half, 3 BFloat16. `threads` of a block; as many blocks as there are warps.
const char* multiply_fragments(int dtype, unsigned warps, unsigned threads, const uint32_t* a,
                               const uint32_t* b, float* c) {
  const unsigned blocks = warps * 32 / threads;
  if (dtype == 0) {
    PULLBACK_LAUNCH((of_fragments<pullback::cuda::Tf32>), blocks, threads, 0, nullptr, a, b, c);
  } else if (dtype == 2) {
    PULLBACK_LAUNCH((of_fragments<pullback::Half>), blocks, threads, 0, nullptr, a, b, c);
  } else {
    PULLBACK_LAUNCH((of_fragments<pullback::BFloat16>), blocks, threads, 0, nullptr, a, b, c);
  }
  return pullback::cuda::launch_error();
}

const char* multiply_doubles(unsigned warps, unsigned threads, const double* a, const double* b,
                             double* c) {
  PULLBACK_LAUNCH(of_doubles, warps * 32 / threads, threads, 0, nullptr, a, b, c);
  return pullback::cuda::launch_error();
}

const char* multiply_matrices(const uint16_t* a, const uint16_t* b, float* c) {
  PULLBACK_LAUNCH(of_matrices, 1, 32, 2 * 16 * 16 * sizeof(uint16_t), nullptr, a, b, c);
  return pullback::cuda::launch_error();
}

uint32_t to_tf32(float x) {
  return pullback::cuda::tf32(x);
}

void split_tf32(float x, uint32_t* parts) {
  const pullback::cuda::SplitTf32 split(x);
  parts[0] = split.big;
  parts[1] = split.small;
}

uint32_t pack(int dtype, float low, float high) {
  return dtype == 2 ? pullback::cuda::packed<pullback::Half>(low, high)
                    : pullback::cuda::packed<pullback::BFloat16>(low, high);
}
}
