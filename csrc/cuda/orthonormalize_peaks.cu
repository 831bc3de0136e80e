// orthonormalize on CUDA, stage `peaks`: the largest magnitude of every row, a warp for each part
// of a row, then the powers of two by which rows are scaled.
#include <cmath>

#include "cuda/orthonormalize_stages.h"
#include "cuda/splits.h"

namespace pullback::cuda {
namespace {

constexpr int kWarp = 32, kWarps = kThreads / kWarp;

// Pieces of 16 bytes that a thread has in flight.
constexpr int kInFlight = 8;

template <bool kWhole, class T>
__device__ Working<T> peak_of_part(const RowReader<T>& row, const ColumnRange& part) {
  using Real = Working<T>;
  constexpr Real infinite = INFINITY;
  constexpr int entries = Piece<T>::kEntries;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  Real peak = 0;
  for (int64_t first = part.begin + lane * entries; first < part.end;
       first += kInFlight * kWarp * entries) {
    Piece<T> loaded[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int64_t column = first + i * kWarp * entries;
      if constexpr (kWhole) {  // beyond the row's end once more what is there: it adds no peak
        loaded[i] = whole_piece(row.at(0, column < part.end ? column : first));
      } else {
        loaded[i] = row.scattered(row.at(0, column), column);
      }
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
#pragma unroll
      for (int v = 0; v < entries; ++v) {
        Real size = fabs(widen(loaded[i].value[v]));
        size = size < infinite ? size : infinite;  // NaN as well
        peak = size > peak ? size : peak;
      }
    }
  }
  return peak;
}

template <class T, class Real>
__global__ void __launch_bounds__(kThreads)
    part_peaks(Rows block, int64_t items, int64_t columns, Splits splits, Real* peaks) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  for (int64_t index = first; index < items; index += static_cast<int64_t>(gridDim.x) * kWarps) {
    const Item item = item_at(index, block.rows, splits.count);
    const ColumnRange part = columns_of_part(splits, item.part, columns);
    // A row that ends where the part does: 2048 columns are a whole number of batches of pieces.
    const RowReader<T> row(block, item.sample, item.which, columns, nullptr);
    Real peak = row.whole ? peak_of_part<true>(row, part) : peak_of_part<false>(row, part);
    for (int other = kWarp / 2; other > 0; other /= 2) {
      const Real size = __shfl_xor_sync(0xffffffffu, peak, other);
      peak = size > peak ? size : peak;
    }
    if (threadIdx.x % kWarp == 0) peaks[index] = peak;
  }
}

// Also what the stages that follow find as they begin: no sample done, none in need of late passes.
template <class Real>
__global__ void __launch_bounds__(kThreads) row_scales(Workspace<Real> workspace, int64_t batch,
                                                       int64_t k, int64_t splits, int32_t* passes) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; row < batch * k;
       row += stride) {
    Real peak = 0;
    for (int64_t s = 0; s < splits; ++s) {
      const Real size = workspace.peaks[row * splits + s];
      peak = size > peak ? size : peak;
    }
    const bool finite = peak < static_cast<Real>(INFINITY);
    const int exponent = finite && peak > 0 ? ilogb(peak) : 0;
    workspace.exponent[row] = exponent;
    workspace.scales[2 * row] = finite ? ldexp(Real(1), -(exponent / 2)) : Real(0);
    workspace.scales[2 * row + 1] = finite ? ldexp(Real(1), exponent / 2 - exponent) : Real(0);
    if (row == 0) workspace.late[0] = 0;
    if (row % k != 0) continue;
    passes[row / k] = 0;
    workspace.late[1 + batch + row / k] = 0;
  }
}

}  // namespace

template <class Real>
const char* launch_peaks(const OrthonormalizeParams& params, const Workspace<Real>& workspace,
                         void* stream) {
  const int64_t rows = params.batch * params.block.rows, items = rows * params.splits.count;
  const char* error =
      with_pass_input(params, workspace, 1, [&](auto entry, const PassInput<Real>& input) {
        using T = decltype(entry);
        PULLBACK_LAUNCH((part_peaks<T, Real>), grid_of(items, kWarps), kThreads, 0, stream,
                        input.rows, items, params.columns, params.splits, workspace.peaks);
        return launch_error();
      });
  if (error != nullptr) return error;
  PULLBACK_LAUNCH((row_scales<Real>), grid_of(rows, kThreads), kThreads, 0, stream, workspace,
                  params.batch, params.block.rows, params.splits.count, params.passes);
  return launch_error();
}

template const char* launch_peaks(const OrthonormalizeParams&, const Workspace<float>&, void*);
template const char* launch_peaks(const OrthonormalizeParams&, const Workspace<double>&, void*);

}  // namespace pullback::cuda
