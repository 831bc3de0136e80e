// normalize_tangents on CUDA, channels last: a block of threads has a strip of channels at some
// positions, a thread some neighbouring channels at every kRowsOfBlock-th of these positions.
#include "cuda/normalize_tangents_stages.h"

namespace pullback::cuda {
namespace {

constexpr int kColumns = 16;  // pieces of a strip
constexpr int kRowsOfBlock = kThreads / kColumns;

template <class T>
constexpr int64_t kStripChannels = kColumns * kPiece<T>;

template <class T>
PULLBACK_HD int64_t strips_of(const NormalizeTangentsParams& params) {
  return ceil_divide(params.groups * params.channels, kStripChannels<T>);
}

// What a thread has of item `index` of [B, parts, strips, k].
template <class T>
struct Strip {
  using Real = Working<T>;
  int64_t tangent, sample, part;
  int64_t strip_channel;      // the first of the strip
  int64_t channel, count;     // the first of the thread, and how many follow; 0 or less for none
  int64_t begin, end, pitch;  // positions of the thread, and how far apart they lie
  const T* t;
  T* out;
  const Real *xh, *gain;
  int64_t gain_pitch;

  __device__ Strip(const NormalizeTangentsParams& params, const Splits& splits, int64_t index) {
    const int64_t strips = strips_of<T>(params), row = static_cast<int64_t>(threadIdx.x) / kColumns;
    tangent = index % params.tangents;
    strip_channel = index / params.tangents % strips * kStripChannels<T>;
    part = index / params.tangents / strips % splits.count;
    sample = index / params.tangents / strips / splits.count;
    pitch = params.groups * params.channels;
    channel = strip_channel + static_cast<int64_t>(threadIdx.x) % kColumns * kPiece<T>;
    count = pitch - channel;
    const ColumnRange range = columns_of_part(splits, part, params.positions);
    begin = range.begin + row;
    end = count > 0 ? range.end : range.begin;
    t = static_cast<const T*>(params.t) + tangent * params.t_strides[0] +
        sample * params.t_strides[1] + channel;
    out = static_cast<T*>(params.out) + tangent * params.out_strides[0] +
          sample * params.out_strides[1] + channel;
    xh = static_cast<const Real*>(params.normalized) + sample * params.normalized_strides[0] +
         channel;
    gain = params.gain == nullptr
               ? nullptr
               : static_cast<const Real*>(params.gain) + sample * params.gain_strides[0] + channel;
    gain_pitch = params.gain_strides[3];
  }

  __device__ void load_gain(int64_t position, bool aligned, Real (&to)[kPiece<T>]) const {
    if (gain != nullptr) {
      load_piece(gain + position * gain_pitch, count, aligned, to);
      return;
    }
#pragma unroll
    for (int j = 0; j < kPiece<T>; ++j) to[j] = Real(1);
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    sums_of_channels(NormalizeTangentsParams params, Sums to) {
  PULLBACK_SHARED(shared);
  using Real = Working<T>;
  constexpr int n = kPiece<T>, width = kColumns * n;
  double* const of_rows = reinterpret_cast<double*>(shared);  // [rows, 2, channels of the strip]
  const int64_t items = params.batch * to.splits.count * strips_of<T>(params) * params.tangents;
  for (int64_t index = blockIdx.x; index < items; index += gridDim.x) {
    const Strip<T> strip(params, to.splits, index);
    double z_sums[n] = {}, product_sums[n] = {};
    for (int64_t first = strip.begin; first < strip.end; first += kRunEntries * kRowsOfBlock) {
      Real z[n] = {}, products[n] = {};
#pragma unroll 4
      for (int u = 0; u < kRunEntries; ++u) {
        const int64_t position = first + u * kRowsOfBlock;
        if (position >= strip.end) break;
        Real t[n], xh[n], gain[n];
        load_piece(strip.t + position * strip.pitch, strip.count, params.aligned, t);
        load_piece(strip.xh + position * strip.pitch, strip.count, params.aligned, xh);
        if (params.transposed) strip.load_gain(position, params.aligned, gain);
#pragma unroll
        for (int j = 0; j < n; ++j) {
          const Real entry = params.transposed ? t[j] * gain[j] : t[j];
          z[j] += entry;
          products[j] += entry * xh[j];
        }
      }
#pragma unroll
      for (int j = 0; j < n; ++j) {
        z_sums[j] += z[j];
        product_sums[j] += products[j];
      }
    }
    const int row = static_cast<int>(threadIdx.x) / kColumns;
    const int column = static_cast<int>(threadIdx.x) % kColumns * n;
    __syncthreads();  // the last item's sums have been read
#pragma unroll
    for (int j = 0; j < n; ++j) {
      of_rows[row * 2 * width + column + j] = z_sums[j];
      of_rows[row * 2 * width + width + column + j] = product_sums[j];
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < 2 * width; i += kThreads) {
      const int64_t channel = strip.strip_channel + i % width;
      if (channel >= strip.pitch) continue;
      double sum = of_rows[i];
      for (int r = 1; r < kRowsOfBlock; ++r) sum += of_rows[r * 2 * width + i];
      const int64_t sample = strip.tangent * params.batch + strip.sample;
      to.partial[((sample * to.splits.count + strip.part) * to.width + channel) * 2 + i / width] =
          sum;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    normalize_channels(NormalizeTangentsParams params, Sums from) {
  using Real = Working<T>;
  constexpr int n = kPiece<T>;
  const int64_t items = params.batch * from.splits.count * strips_of<T>(params) * params.tangents;
  for (int64_t index = blockIdx.x; index < items; index += gridDim.x) {
    const Strip<T> strip(params, from.splits, index);
    if (strip.count <= 0) continue;
    const int64_t sample = strip.tangent * params.batch + strip.sample;
    Means<Real> means[n];
#pragma unroll
    for (int j = 0; j < n; ++j) {
      const int64_t channel = strip.channel + (j < strip.count ? j : 0);
      const int64_t group = channel / params.channels;
      means[j] = means_of<Real>(params, from.means + (sample * params.groups + group) * 2,
                                strip.sample, group);
    }
#pragma unroll 2
    for (int64_t position = strip.begin; position < strip.end; position += kRowsOfBlock) {
      Real t[n], xh[n], gain[n];
      load_piece(strip.t + position * strip.pitch, strip.count, params.aligned, t);
      load_piece(strip.xh + position * strip.pitch, strip.count, params.aligned, xh);
      strip.load_gain(position, params.aligned, gain);
      project_piece(params.transposed, xh, gain, means, t);
      store_piece(t, strip.count, params.aligned, strip.out + position * strip.pitch);
    }
  }
}

}  // namespace

template <class T>
const char* launch_channel_sums(const NormalizeTangentsParams& params, const Sums& sums,
                                void* stream) {
  constexpr size_t shared = 2 * kRowsOfBlock * kStripChannels<T> * sizeof(double);
  static_assert(shared <= kSharedByDefault);
  PULLBACK_LAUNCH(
      (sums_of_channels<T>),
      grid_of(params.batch * sums.splits.count * strips_of<T>(params) * params.tangents), kThreads,
      shared, stream, params, sums);
  return launch_error();
}

template <class T>
const char* launch_channels(const NormalizeTangentsParams& params, const Sums& sums, void* stream) {
  PULLBACK_LAUNCH(
      (normalize_channels<T>),
      grid_of(params.batch * sums.splits.count * strips_of<T>(params) * params.tangents), kThreads,
      0, stream, params, sums);
  return launch_error();
}

template const char* launch_channel_sums<float>(const NormalizeTangentsParams&, const Sums&, void*);
template const char* launch_channel_sums<double>(const NormalizeTangentsParams&, const Sums&,
                                                 void*);
template const char* launch_channel_sums<Half>(const NormalizeTangentsParams&, const Sums&, void*);
template const char* launch_channel_sums<BFloat16>(const NormalizeTangentsParams&, const Sums&,
                                                   void*);
template const char* launch_channels<float>(const NormalizeTangentsParams&, const Sums&, void*);
template const char* launch_channels<double>(const NormalizeTangentsParams&, const Sums&, void*);
template const char* launch_channels<Half>(const NormalizeTangentsParams&, const Sums&, void*);
template const char* launch_channels<BFloat16>(const NormalizeTangentsParams&, const Sums&, void*);

}  // namespace pullback::cuda
