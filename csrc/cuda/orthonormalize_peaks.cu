// orthonormalize on CUDA, stage `peaks`: the largest magnitude of every row, a warp for each part
// of a row, then the powers of two by which rows are scaled.
#include <cmath>

#include "cuda/orthonormalize_stages.h"

namespace pullback::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32, kWarps = kThreads / kWarp;

template <class T, class Real>
__global__ void __launch_bounds__(kThreads)
    part_peaks(Rows block, int64_t items, int64_t columns, Splits splits, Real* peaks) {
  constexpr Real infinite = INFINITY;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  for (int64_t item = first; item < items; item += static_cast<int64_t>(gridDim.x) * kWarps) {
    const int64_t part = item % splits.count, row = item / splits.count % block.rows;
    const int64_t sample = item / splits.count / block.rows;
    const T* const from =
        static_cast<const T*>(block.data) + sample * block.batch_stride + row * block.row_stride;
    const int64_t begin = part * splits.columns;
    const int64_t end = begin + splits.columns < columns ? begin + splits.columns : columns;
    Real peak = 0;
#pragma unroll 4
    for (int64_t c = begin + lane; c < end; c += kWarp) {
      Real size = fabs(widen(from[c * block.column_stride]));
      size = size < infinite ? size : infinite;  // NaN as well
      peak = size > peak ? size : peak;
    }
    for (int other = kWarp / 2; other > 0; other /= 2) {
      const Real size = __shfl_xor_sync(0xffffffffu, peak, other);
      peak = size > peak ? size : peak;
    }
    if (lane == 0) peaks[item] = peak;
  }
}

// Two factors because 2^135, for the smallest numbers, is not representable in float32.
template <class Real>
__global__ void __launch_bounds__(kThreads)
    row_factors(LadderWork<Real> work, int64_t batch, int64_t k, int64_t splits, int32_t* passes) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; row < batch * k;
       row += stride) {
    Real peak = 0;
    for (int64_t s = 0; s < splits; ++s) {
      const Real size = work.peaks[row * splits + s];
      peak = size > peak ? size : peak;
    }
    const bool finite = peak < static_cast<Real>(INFINITY);
    const int exponent = finite && peak > 0 ? ilogb(peak) : 0;
    work.exponent[row] = exponent;
    work.factors[2 * row] = finite ? ldexp(Real(1), -(exponent / 2)) : Real(0);
    work.factors[2 * row + 1] = finite ? ldexp(Real(1), exponent / 2 - exponent) : Real(0);
    if (row % k == 0) passes[row / k] = 0;
  }
}

}  // namespace

template <class Real>
const char* ladder_peaks(const OrthonormalizeParams& params, const LadderWork<Real>& work,
                         void* stream) {
  const int64_t rows = params.batch * params.block.rows, items = rows * params.splits.count;
  const char* error = with_block(params, work, 1, [&](auto entry, const LadderBlock<Real>& a) {
    using T = decltype(entry);
    PULLBACK_LAUNCH((part_peaks<T, Real>), grid_of((items + kWarps - 1) / kWarps), kThreads, 0,
                    stream, a.rows, items, params.columns, params.splits, work.peaks);
    return launch_error();
  });
  if (error != nullptr) return error;
  PULLBACK_LAUNCH((row_factors<Real>), grid_of((rows + kThreads - 1) / kThreads), kThreads, 0,
                  stream, work, params.batch, params.block.rows, params.splits.count,
                  params.passes);
  return launch_error();
}

template const char* ladder_peaks(const OrthonormalizeParams&, const LadderWork<float>&, void*);
template const char* ladder_peaks(const OrthonormalizeParams&, const LadderWork<double>&, void*);

}  // namespace pullback::cuda
