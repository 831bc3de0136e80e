// squared_singular_values on CUDA: a warp a matrix, or a block of threads a larger one, which stays
// in shared memory. The reflections (numerics/tridiagonal.h) are shared out; the iteration, which
// goes from row to row, is one thread's, and the other matrices of the multiprocessor hide its
// waiting.
#include "cuda/squared_singular_values.h"

#include "cuda/launch.h"
#include "cuda/team.h"
#include "numerics/half.h"
#include "numerics/matrix.h"
#include "numerics/tridiagonal.h"

namespace pullback::cuda {
namespace {

constexpr int64_t kLargestOfWarp = 32;  // m
constexpr int64_t kStrip = 8;           // columns of a matrix that are in shared memory at a time

// The Gram matrix, a strip of columns, three vectors of a reflection and the tridiagonal form.
PULLBACK_HD constexpr int64_t doubles_of(int64_t m) {
  return m * odd_pitch(m) + m * (kStrip + 1) + 5 * m;
}
static_assert(kThreads / kWarp * doubles_of(kLargestOfWarp) * sizeof(double) <=
              kSharedOfEveryDevice);
static_assert(doubles_of(kLargestInShared) * sizeof(double) <= kSharedByDefault);

template <class T, class Team>
__device__ void matrix_of_team(const Team& team, const SquaredSingularValuesParams& params,
                               int64_t matrix, double* shared) {
  const Rows& c = params.c;
  const int m = static_cast<int>(c.rows), pitch = static_cast<int>(odd_pitch(m));
  const int64_t n = params.columns;
  double* const a = shared;
  double* const strip = a + m * pitch;
  double* const vectors = strip + m * (kStrip + 1);
  const T* const from = static_cast<const T*>(c.data) + matrix * c.batch_stride;
  PULLBACK_SYNC(team);  // the last matrix has been read
  for (int i = team.rank(); i < m; i += team.size()) {
    double peak = 0.0, nothing = 0.0;  // NaN if an entry is not finite
    for (int64_t j = 0; j < n; ++j) {
      const double entry = widen(from[i * c.row_stride + j * c.column_stride]);
      peak = fmax(peak, fabs(entry));
      nothing += 0.0 * entry;
    }
    vectors[i] = peak + nothing;
  }
  PULLBACK_SYNC(team);
  double peak = 0.0, nothing = 0.0;
  for (int i = 0; i < m; ++i) {
    peak = fmax(peak, vectors[i]);
    nothing += 0.0 * vectors[i];
  }
  double* const out = params.out + matrix * m;
  if (nothing != 0.0) {
    for (int i = team.rank(); i < m; i += team.size()) out[i] = nothing;
    return;
  }
  const int exponent = exponent_of(peak);
  const double scale = power_of_two(-exponent);
  for (int64_t column = 0; column < n; column += kStrip) {
    for (int e = team.rank(); e < m * kStrip; e += team.size()) {
      const int64_t i = e / kStrip, j = column + e % kStrip;
      strip[e + i] = j < n ? scale * widen(from[i * c.row_stride + j * c.column_stride]) : 0.0;
    }
    PULLBACK_SYNC(team);
    for (int e = team.rank(); e < m * m; e += team.size()) {
      const int i = e / m, j = e % m;
      if (j > i) continue;
      double sum = column == 0 ? 0.0 : a[i * pitch + j];
      for (int u = 0; u < kStrip; ++u) {
        sum += strip[i * (kStrip + 1) + u] * strip[j * (kStrip + 1) + u];
      }
      a[i * pitch + j] = sum;
    }
    PULLBACK_SYNC(team);
  }
  double* const diagonal = vectors + 3 * m;
  double* const squares = diagonal + m;
  reduce_to_tridiagonal<OneLane>(
      team, Tridiagonal{m, a, pitch, vectors, vectors + m, vectors + 2 * m, diagonal, squares, 1});
  if (team.rank() != 0) return;
  tridiagonal_eigenvalues<OneLane>(m, diagonal, squares);
  const double power = power_of_two(exponent);
  for (int i = 0; i < m; ++i) out[i] = diagonal[i] * power * power;
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    squared_singular_values_by_warps(SquaredSingularValuesParams params) {
  PULLBACK_SHARED(shared);
  constexpr int warps = kThreads / kWarp;
  const int64_t warp = threadIdx.x / kWarp;
  double* const memory = reinterpret_cast<double*>(shared) + warp * doubles_of(params.c.rows);
  for (int64_t matrix = int64_t{blockIdx.x} * warps + warp; matrix < params.matrices;
       matrix += int64_t{gridDim.x} * warps) {
    matrix_of_team<T>(Warp(), params, matrix, memory);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    squared_singular_values_by_blocks(SquaredSingularValuesParams params) {
  PULLBACK_SHARED(shared);
  for (int64_t matrix = blockIdx.x; matrix < params.matrices; matrix += gridDim.x) {
    matrix_of_team<T>(ThreadBlock(), params, matrix, reinterpret_cast<double*>(shared));
  }
}

template <class T>
const char* run(const SquaredSingularValuesParams& params, void* stream) {
  const size_t bytes = doubles_of(params.c.rows) * sizeof(double);
  if (params.c.rows > kLargestOfWarp) {
    PULLBACK_LAUNCH((squared_singular_values_by_blocks<T>), grid_of(params.matrices), kThreads,
                    bytes, stream, params);
    return launch_error();
  }
  constexpr int warps = kThreads / kWarp;
  const char* error =
      allow_shared(squared_singular_values_by_warps<T>, warps * bytes, params.device);
  if (error != nullptr) return error;
  PULLBACK_LAUNCH((squared_singular_values_by_warps<T>), grid_of(params.matrices, warps), kThreads,
                  warps * bytes, stream, params);
  return launch_error();
}

}  // namespace

const char* squared_singular_values(const SquaredSingularValuesParams& params, void* stream) {
  if (const char* error = select_device(params.device)) return error;
  return params.dtype == Dtype::kFloat64 ? run<double>(params, stream) : run<float>(params, stream);
}

}  // namespace pullback::cuda
