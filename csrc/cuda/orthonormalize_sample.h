// orthonormalize on CUDA, what a block of threads does for stage `factor`: the k x k part of a pass
// of one sample (numerics/cholesky_qr.h).
#pragma once

#include <cfloat>

#include "cuda/orthonormalize_stages.h"
#include "cuda/team.h"

namespace pullback::cuda {

// Up to here S lies in shared memory, where the device has as much: two blocks still fit on a
// multiprocessor of compute capability 8.0 or 9.0. Above, S stays in the second-level cache.
constexpr int64_t kSharedRows = 96;

// What lies in shared memory, and how much that is. H does where every device has as much.
struct FactorShared {
  bool s;
  bool h;
  size_t bytes;
};

inline FactorShared factor_shared(const OrthonormalizeParams& params) {
  const int64_t k = params.block.rows, p = against_rows(params);
  const size_t scratch = kCholeskyQrScratch * k * sizeof(double);
  const size_t with_s = scratch + k * odd_pitch(k) * sizeof(double);
  const size_t with_h = with_s + k * odd_pitch(p) * sizeof(double);
  const size_t limit = shared_limit(params.device);
  if (k > kSharedRows || with_s > limit) return {false, false, scratch};
  if (p == 0 || with_h > kSharedOfEveryDevice || with_h > limit) return {true, false, with_s};
  return {true, true, with_h};
}

// x.s and h from the parts, each entry in the order of the parts, and within a part of its pieces.
// A row whose product with `against` is not finite, because `against` is not, is marked like one
// that is not finite itself: scale 0.
template <class Real>
__device__ void sum_parts(const ThreadBlock& team, const double* partial, int64_t parts,
                          int64_t pieces, const CholeskyQr& x, double* h, Real* scales) {
  const int64_t width = x.k + x.p, entries = x.k * width;
  for (int64_t e = team.rank(); e < entries; e += team.size()) {
    const int64_t i = e / width, j = e % width;
    if (j < i) continue;  // G is symmetric
    double sum = 0.0;
#pragma unroll 4
    for (int64_t part = 0; part < parts; ++part) {
      const double* const from = partial + part * pieces * entries + e;
      double of_part = from[0];
      if (pieces > 1) {
        const double second = from[entries], third = from[2 * entries], last = from[3 * entries];
        of_part = ((of_part + second) + third) + last;
      }
      sum = part == 0 ? of_part : sum + of_part;
    }
    if (j < x.k) {
      x.s[j * x.pitch + i] = sum;
    } else {
      h[i * x.h_pitch + j - x.k] = sum;
      if (!(fabs(sum) <= DBL_MAX)) scales[2 * i] = 0;
    }
  }
}

// Says whether it was the sample's last pass.
template <class Real>
__device__ bool factor_sample(char* shared, const FactorShared& lies,
                              const OrthonormalizeParams& params, const Workspace<Real>& workspace,
                              int64_t sample, int pass) {
  static_assert(kQuarters == 4);  // sum_parts()
  const ThreadBlock team;
  double* const scratch = reinterpret_cast<double*>(shared);
  const int64_t k = params.block.rows, p = against_rows(params), parts = params.splits.count;
  const int64_t pitch = odd_pitch(k), h_pitch = odd_pitch(p);
  double* const in_shared = scratch + kCholeskyQrScratch * k;
  double* const h = lies.h ? in_shared + k * pitch : workspace.h + sample * k * h_pitch;
  const CholeskyQr x{k,
                     p,
                     lies.s ? in_shared : workspace.s + sample * k * pitch,
                     pitch,
                     h,
                     h_pitch,
                     scratch,
                     workspace.distance + sample * k,
                     workspace.given_up + sample * k,
                     params.replaced + sample * k,
                     params.residual == nullptr ? nullptr : params.residual + sample * k * k,
                     params.residual == nullptr ? nullptr : params.projection + sample * p * k};
  Real* const scales = workspace.scales + 2 * sample * k;
  __syncthreads();  // what the last sample, or stage, had in shared memory has been read
  if (pass == 1) cholesky_qr_start(team, x, workspace.exponent + sample * k);
  sum_parts(team, workspace.partial + sample * parts * workspace.pieces * k * (k + p), parts,
            workspace.pieces, x, h, scales);
  __syncthreads();
  const bool last =
      cholesky_qr_pass<Real>(team, x, pass, workspace.transform + sample * k * (k + p));
  if (!last || team.rank() != 0) return last;
  int64_t rank = 0;
  bool finite = true;
  for (int64_t i = 0; i < k; ++i) {
    rank += !x.replaced[i];
    finite = finite && scales[2 * i] != 0;
  }
  params.rank[sample] = rank;
  params.passes[sample] = finite ? pass : -pass;
  return true;
}

}  // namespace pullback::cuda
