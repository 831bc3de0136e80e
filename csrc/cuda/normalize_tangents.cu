// normalize_tangents on CUDA, groups that are contiguous. A warp or a block of threads has a group
// of a few tangents to itself: it sums them, then reads them again, mostly from the caches, and
// writes the results; normalized and gain are read once for all of these tangents. Larger groups
// are cut into parts, which are summed by one kernel, added in order by another and written by a
// third. How an entry is summed depends on the size of its group alone.
#include "cuda/normalize_tangents.h"

#include "cuda/normalize_tangents_group.h"
#include "cuda/normalize_tangents_stages.h"
#include "cuda/team.h"

namespace pullback::cuda {
namespace {

constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kLargestGroupOfWarp = 1024;    // entries
constexpr int64_t kLargestGroupOfBlock = 65536;  // entries

__device__ double sum_of_warp(double mine) {
#pragma unroll
  for (int other = kWarp / 2; other > 0; other /= 2) {
    mine += __shfl_xor_sync(0xffffffffu, mine, other);
  }
  return mine;
}

// The sums of all threads of a block, to every thread. `shared`: [warps, kTangents, 2].
__device__ void sum_of_block(double* shared, double (&sums)[kTangents][2]) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll
  for (int i = 0; i < 2 * kTangents; ++i) {
    const double of_warp = sum_of_warp(sums[i / 2][i % 2]);
    if (threadIdx.x % kWarp == 0) shared[warp * 2 * kTangents + i] = of_warp;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 2 * kTangents; ++i) {
    double sum = shared[i];
    for (int w = 1; w < kWarps; ++w) sum += shared[w * 2 * kTangents + i];
    sums[i / 2][i % 2] = sum;
  }
  __syncthreads();  // it may be written again
}

template <class Real>
__device__ void means_of_sums(const NormalizeTangentsParams& params, const Item& item,
                              double (&sums)[kTangents][2], Means<Real> (&means)[kTangents]) {
  const double share = static_cast<double>(params.channels * params.positions);
#pragma unroll
  for (int i = 0; i < kTangents; ++i) {
    const double both[2] = {params.centered ? sums[i][0] / share : 0.0, sums[i][1] / share};
    means[i] = means_of<Real>(params, both, item.sample, item.group);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    normalize_groups_by_warps(NormalizeTangentsParams params) {
  const int64_t items = params.batch * params.groups * chunks_of(params);
  const int64_t entries = params.channels * params.positions;
  for (int64_t index = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp; index < items;
       index += int64_t{gridDim.x} * kWarps) {
    const Item item = item_at(params, 1, index);
    const Group<T> group(params, item);
    double sums[kTangents][2] = {};
    group.sum(Warp(), 0, entries, sums);
#pragma unroll
    for (int i = 0; i < 2 * kTangents; ++i) sums[i / 2][i % 2] = sum_of_warp(sums[i / 2][i % 2]);
    Means<Working<T>> means[kTangents];
    means_of_sums(params, item, sums, means);
    group.write(Warp(), 0, entries, means);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    normalize_groups_by_blocks(NormalizeTangentsParams params) {
  PULLBACK_SHARED(shared);
  const int64_t items = params.batch * params.groups * chunks_of(params);
  const int64_t entries = params.channels * params.positions;
  for (int64_t index = blockIdx.x; index < items; index += gridDim.x) {
    const Item item = item_at(params, 1, index);
    const Group<T> group(params, item);
    double sums[kTangents][2] = {};
    group.sum(ThreadBlock(), 0, entries, sums);
    sum_of_block(reinterpret_cast<double*>(shared), sums);
    Means<Working<T>> means[kTangents];
    means_of_sums(params, item, sums, means);
    group.write(ThreadBlock(), 0, entries, means);
  }
}

// Sums of parts of large groups.
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    sums_of_parts(NormalizeTangentsParams params, Sums to) {
  PULLBACK_SHARED(shared);
  const int64_t parts = to.splits.count;
  const int64_t items = params.batch * params.groups * parts * chunks_of(params);
  const int64_t entries = params.channels * params.positions;
  for (int64_t index = blockIdx.x; index < items; index += gridDim.x) {
    const Item item = item_at(params, parts, index);
    const ColumnRange part = columns_of_part(to.splits, item.part, entries);
    double sums[kTangents][2] = {};
    Group<T>(params, item).sum(ThreadBlock(), part.begin, part.end, sums);
    sum_of_block(reinterpret_cast<double*>(shared), sums);
    const int i = static_cast<int>(threadIdx.x);
    if (i >= item.count) continue;
    double* const partial =
        to.partial +
        ((((item.tangent + i) * params.batch + item.sample) * parts + item.part) * to.width +
         item.group) *
            2;
    partial[0] = i == 0 ? sums[0][0] : sums[1][0];
    partial[1] = i == 0 ? sums[0][1] : sums[1][1];
  }
}
static_assert(kTangents == 2, "sums_of_parts writes those of two");

// The means of every group from the sums of its parts: a warp a group.
__global__ void __launch_bounds__(kThreads)
    means_of_groups(NormalizeTangentsParams params, Sums from) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t rows = params.tangents * params.batch * params.groups;
  const double share = static_cast<double>(params.channels * params.positions);
  for (int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp; row < rows;
       row += int64_t{gridDim.x} * kWarps) {
    const int64_t sample = row / params.groups, group = row % params.groups;  // of all tangents
    const double* const partial =
        from.partial + (sample * from.splits.count * from.width + group * from.span) * 2;
    double z = 0.0, products = 0.0;
    for (int64_t j = lane; j < from.splits.count * from.span; j += kWarp) {
      const int64_t at = (j / from.span * from.width + j % from.span) * 2;
      z += partial[at];
      products += partial[at + 1];
    }
    z = sum_of_warp(z);
    products = sum_of_warp(products);
    if (lane != 0) continue;
    from.means[2 * row] = params.centered ? z / share : 0.0;
    from.means[2 * row + 1] = products / share;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    normalize_parts(NormalizeTangentsParams params, Sums from) {
  const int64_t parts = from.splits.count;
  const int64_t items = params.batch * params.groups * parts * chunks_of(params);
  for (int64_t index = blockIdx.x; index < items; index += gridDim.x) {
    const Item item = item_at(params, parts, index);
    const ColumnRange part =
        columns_of_part(from.splits, item.part, params.channels * params.positions);
    Means<Working<T>> means[kTangents];
#pragma unroll
    for (int i = 0; i < kTangents; ++i) {
      if (i >= item.count) continue;
      const int64_t row =
          ((item.tangent + i) * params.batch + item.sample) * params.groups + item.group;
      means[i] = means_of<Working<T>>(params, from.means + 2 * row, item.sample, item.group);
    }
    Group<T>(params, item).write(ThreadBlock(), part.begin, part.end, means);
  }
}

bool is_cut(const NormalizeTangentsParams& params) {
  return params.channels_last || params.channels * params.positions > kLargestGroupOfBlock;
}

Sums sums_of(const NormalizeTangentsParams& params) {
  Sums sums{};
  if (params.channels_last) {
    constexpr int64_t least = 512;
    const int64_t size = round_up(ceil_divide(params.positions, kMostParts), least);
    sums.splits = {ceil_divide(params.positions, size), size};
    sums.width = params.groups * params.channels;
    sums.span = params.channels;
  } else {
    sums.splits = split_columns(params.channels * params.positions, kMostParts);
    sums.width = params.groups;
    sums.span = 1;
  }
  sums.partial = params.partial;
  sums.means = params.partial + params.tangents * params.batch * sums.splits.count * sums.width * 2;
  return sums;
}

const char* launch_means(const NormalizeTangentsParams& params, const Sums& sums, void* stream) {
  PULLBACK_LAUNCH(means_of_groups, grid_of(params.tangents * params.batch * params.groups, kWarps),
                  kThreads, 0, stream, params, sums);
  return launch_error();
}

template <class T>
const char* run_channels_last(const NormalizeTangentsParams& params, void* stream) {
  const Sums sums = sums_of(params);
  const char* error = launch_channel_sums<T>(params, sums, stream);
  if (error == nullptr) error = launch_means(params, sums, stream);
  return error == nullptr ? launch_channels<T>(params, sums, stream) : error;
}

template <class T>
const char* run(const NormalizeTangentsParams& params, void* stream) {
  constexpr size_t shared = kWarps * kTangents * 2 * sizeof(double);
  const int64_t entries = params.channels * params.positions;
  const int64_t items = params.batch * params.groups * chunks_of(params);
  if (entries <= kLargestGroupOfWarp) {
    PULLBACK_LAUNCH((normalize_groups_by_warps<T>), grid_of(items, kWarps), kThreads, 0, stream,
                    params);
    return launch_error();
  }
  if (!is_cut(params)) {
    PULLBACK_LAUNCH((normalize_groups_by_blocks<T>), grid_of(items), kThreads, shared, stream,
                    params);
    return launch_error();
  }
  const Sums sums = sums_of(params);
  PULLBACK_LAUNCH((sums_of_parts<T>), grid_of(items * sums.splits.count), kThreads, shared, stream,
                  params, sums);
  const char* error = launch_error();
  if (error == nullptr) error = launch_means(params, sums, stream);
  if (error != nullptr) return error;
  PULLBACK_LAUNCH((normalize_parts<T>), grid_of(items * sums.splits.count), kThreads, 0, stream,
                  params, sums);
  return launch_error();
}

// Whether rows, and channels last positions, begin at multiples of 16 bytes. So must those of a
// gain that is read in pieces.
template <class T>
bool is_aligned(const NormalizeTangentsParams& params) {
  constexpr int64_t n = kPiece<T>;  // of Real these are 16 bytes or more
  const auto whole = [&](const void* data, const int64_t* strides, int count) {
    bool aligned = reinterpret_cast<uintptr_t>(data) % 16 == 0;
    for (int i = 0; i < count; ++i) aligned = aligned && strides[i] % n == 0;
    return aligned;
  };
  const int groups = params.channels_last ? 0 : 1;  // whether these have a stride of their own
  const bool pieces = params.channels_last || gain_is_flat(params);
  return whole(params.t, params.t_strides, 2 + groups) &&
         whole(params.out, params.out_strides, 2 + groups) &&
         whole(params.normalized, params.normalized_strides, 1 + groups) &&
         (!pieces || whole(params.gain, params.gain_strides, 1 + groups)) &&
         (!params.channels_last || params.groups * params.channels % n == 0);
}

}  // namespace

int64_t normalize_tangents_partial(const NormalizeTangentsParams& params) {
  if (!is_cut(params)) return 0;
  const Sums sums = sums_of(params);
  return params.tangents * params.batch * (sums.splits.count * sums.width + params.groups) * 2;
}

const char* normalize_tangents(const NormalizeTangentsParams& params, void* stream) {
  if (const char* error = select_device(params.device)) return error;
  return with_entry_type(params.dtype, [&](auto entry) {
    using T = decltype(entry);
    NormalizeTangentsParams aligned = params;
    aligned.aligned = is_aligned<T>(params);
    return params.channels_last ? run_channels_last<T>(aligned, stream) : run<T>(aligned, stream);
  });
}

}  // namespace pullback::cuda
