// orthonormalize on CUDA: enqueues the stages (orthonormalize_stages.h).
#include "cuda/orthonormalize.h"

#include "cuda/launch.h"
#include "cuda/orthonormalize_stages.h"

namespace pullback::cuda {
namespace {

// Parts of N times tiles of [G, H], at most, for one sample.
constexpr int64_t kMostParts = 64;

template <class Real>
const char* run(const OrthonormalizeParams& params, void* stream) {
  const LadderWork<Real> work(params);
  if (const char* error = ladder_peaks(params, work, stream)) return error;
  for (int rung = 1; rung <= kLadderMostRungs; ++rung) {
    if (const char* error = ladder_gram(params, work, rung, stream)) return error;
    if (const char* error = ladder_small(params, work, rung, stream)) return error;
    if (const char* error = ladder_apply(params, work, rung, stream)) return error;
  }
  return nullptr;
}

}  // namespace

int64_t orthonormalize_most_splits(int64_t k, int64_t p) {
  const int64_t tiles = ladder_tiles(k, p, 0).count();
  return tiles >= kMostParts ? 1 : kMostParts / tiles;
}

size_t orthonormalize_workspace(const OrthonormalizeParams& params) {
  return params.work == Dtype::kFloat64 ? LadderWork<double>(params).bytes
                                        : LadderWork<float>(params).bytes;
}

const char* orthonormalize(const OrthonormalizeParams& params, void* stream) {
  if (const char* error = select_device(params.device)) return error;
  return params.work == Dtype::kFloat64 ? run<double>(params, stream) : run<float>(params, stream);
}

}  // namespace pullback::cuda
