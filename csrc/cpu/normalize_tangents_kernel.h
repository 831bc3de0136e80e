// normalize_tangents for every CPU instruction set: included once by each
// normalize_tangents_<isa>.cpp, after its vector types. cpu/tiles.h says why all of this is
// internal.
//
// Of a contiguous group lane l of a vector sums entries l, l + lanes, ... in runs of kRun, kChains
// of them side by side; the lanes of these are added to float64 sums. Channels last a lane is a
// channel, which is summed over runs of kRunOfPositions positions, the runs and then the channels
// of a group in float64. In float32 an entry thus takes part in at most 16 roundings.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/normalize_tangents.h"
#include "numerics/entry_type.h"

namespace pullback::cpu {
namespace {

constexpr int kChains = 4;
constexpr int64_t kRun = 8;
constexpr int64_t kRunOfPositions = 16;

// Whether there is a gain, and whether tangents are multiplied by it before or after all else.
enum class Gain { kNone, kBefore, kAfter };

template <class V>
struct Means {
  typename V::Reg of_z, of_products, scale;  // of_z is 0 where the layer is not centered
};

// One vector: z, then what becomes of it.
template <class V, Gain kGain>
typename V::Reg gained(typename V::Reg t, const typename V::Real* gain) {
  if constexpr (kGain == Gain::kBefore) return V::multiply(t, V::load_unaligned(gain));
  return t;
}

template <class V, Gain kGain>
typename V::Reg projected(typename V::Reg t, const typename V::Real* xh,
                          const typename V::Real* gain, const Means<V>& means) {
  const typename V::Reg z = V::subtract(gained<V, kGain>(t, gain), means.of_z);
  const typename V::Reg out =
      V::multiply(means.scale, V::fnma(V::load_unaligned(xh), means.of_products, z));
  if constexpr (kGain == Gain::kAfter) return V::multiply(out, V::load_unaligned(gain));
  return out;
}

// Writes a vector, past the caches if it is aligned to its own size there.
template <class V, bool kStreams, class T>
void put(T* to, typename V::Reg x) {
  if constexpr (kStreams) {
    V::stream(to, x);
  } else {
    V::store_unaligned(to, x);
  }
}

// Fewer entries than a vector has, with zeros behind them.
template <class V, class T>
struct Rest {
  using Real = typename V::Real;
  alignas(kMostVector) T t[V::kLanes] = {};
  alignas(kMostVector) Real xh[V::kLanes] = {};
  alignas(kMostVector) Real gain[V::kLanes] = {};

  Rest(const T* from, const Real* from_xh, const Real* from_gain, int64_t count) {
    for (int64_t e = 0; e < count; ++e) {
      t[e] = from[e];
      xh[e] = from_xh[e];
      if (from_gain != nullptr) gain[e] = from_gain[e];
    }
  }
};

// Lanes' sums of z and of z xh; to be added up in the end.
template <class V>
struct Sums {
  double z[V::kSums] = {};
  double products[V::kSums] = {};
};

template <class V, Gain kGain, class T>
void add_to_sums(const T* t, const typename V::Real* xh, const typename V::Real* gain,
                 int64_t count, Sums<V>& sums) {
  constexpr int64_t lanes = V::kLanes, step = kChains * lanes;
  const auto take = [&](const T* x, const typename V::Real* y, const typename V::Real* g,
                        typename V::Reg& z, typename V::Reg& product) {
    const typename V::Reg entry = gained<V, kGain>(V::load_unaligned(x), g);
    z = V::add(z, entry);
    product = V::fma(entry, V::load_unaligned(y), product);
  };
  int64_t e = 0;
  while (e + step <= count) {
    typename V::Reg z[kChains], products[kChains];
#pragma GCC unroll 4
    for (int u = 0; u < kChains; ++u) z[u] = products[u] = V::zero();
    const int64_t steps = (count - e) / step;
    const int64_t end = e + (steps < kRun ? steps : kRun) * step;
    for (; e < end; e += step) {
#pragma GCC unroll 4
      for (int u = 0; u < kChains; ++u) {
        const int64_t at = e + u * lanes;
        take(t + at, xh + at, kGain == Gain::kBefore ? gain + at : nullptr, z[u], products[u]);
      }
    }
    V::flush(V::add(V::add(z[0], z[1]), V::add(z[2], z[3])), sums.z, false);
    V::flush(V::add(V::add(products[0], products[1]), V::add(products[2], products[3])),
             sums.products, false);
  }
  if (e == count) return;
  typename V::Reg z = V::zero(), products = V::zero();
  for (; e + lanes <= count; e += lanes) {
    take(t + e, xh + e, kGain == Gain::kBefore ? gain + e : nullptr, z, products);
  }
  if (e < count) {
    const Rest<V, T> rest(t + e, xh + e, kGain == Gain::kBefore ? gain + e : nullptr, count - e);
    take(rest.t, rest.xh, rest.gain, z, products);
  }
  V::flush(z, sums.z, false);
  V::flush(products, sums.products, false);
}

template <class V, Gain kGain, bool kStreams, class T>
void project(const T* t, const typename V::Real* xh, const typename V::Real* gain, int64_t count,
             const Means<V>& means, T* out) {
  constexpr int64_t lanes = V::kLanes;
  const auto at = [&](int64_t e) {
    const typename V::Real* const g = kGain == Gain::kNone ? nullptr : gain + e;
    return projected<V, kGain>(V::load_unaligned(t + e), xh + e, g, means);
  };
  int64_t e = 0;
  if (kStreams && count >= lanes) {  // up to where out is aligned, and some entries twice
    V::store_unaligned(out, at(0));
    e = lanes - reinterpret_cast<uintptr_t>(out) / sizeof(T) % lanes;
  }
#pragma GCC unroll 4
  for (; e + lanes <= count; e += lanes) put<V, kStreams>(out + e, at(e));
  if (e == count) return;
  const Rest<V, T> rest(t + e, xh + e, kGain == Gain::kNone ? nullptr : gain + e, count - e);
  alignas(kMostVector) T last[V::kLanes];
  V::store_unaligned(last,
                     projected<V, kGain>(V::load_unaligned(rest.t), rest.xh, rest.gain, means));
  for (int64_t i = 0; e + i < count; ++i) out[e + i] = last[i];
}

template <class Real>
const Real* gain_of(const NormalizeTangentsParams& params, int64_t sample, int64_t group) {
  return static_cast<const Real*>(params.gain) + sample * params.gain_strides[0] +
         group * params.gain_strides[1];
}

// The gain of a contiguous group, a tile at a time; one that channels have in common is written
// out.
template <class Real>
class GroupGain {
 public:
  GroupGain(const NormalizeTangentsParams& params, int64_t sample, int64_t group, Real* tile)
      : from_(gain_of<Real>(params, sample, group)),
        channel_stride_(params.gain_strides[2]),
        positions_(params.positions),
        flat_((positions_ == 1 || params.gain_strides[3] == 1) &&
              (params.channels == 1 || channel_stride_ == positions_)),
        tile_(tile) {}

  const Real* at(int64_t entry, int64_t count) {
    if (flat_) return from_ + entry;
    const int64_t channel = entry / positions_, last = (entry + count - 1) / positions_;
    if (channel == last) {
      if (channel != written_) fill(channel, 0, kTileEntries);
      written_ = channel;
      return tile_;
    }
    written_ = -1;
    for (int64_t c = channel, e = entry; c <= last; ++c) {
      const int64_t end = c < last ? (c + 1) * positions_ : entry + count;
      fill(c, e - entry, end - entry);
      e = end;
    }
    return tile_;
  }

 private:
  void fill(int64_t channel, int64_t begin, int64_t end) {
    const Real value = from_[channel * channel_stride_];
    for (int64_t e = begin; e < end; ++e) tile_[e] = value;
  }

  const Real* from_;
  int64_t channel_stride_, positions_;
  bool flat_;
  Real* tile_;
  int64_t written_ = -1;  // the channel whose gain the whole tile is
};

template <class Real>
struct NoGain {
  const Real* at(int64_t, int64_t) { return nullptr; }
};

template <class V>
double sum_of(const double (&lanes)[V::kSums]) {
  double sum = lanes[0];
  for (int l = 1; l < V::kSums; ++l) sum += lanes[l];
  return sum;
}

template <class V, class T, Gain kGain, bool kStreams>
void contiguous_group(const NormalizeTangentsParams& params, int64_t tangent, int64_t sample,
                      int64_t group, char* scratch) {
  using Real = typename V::Real;
  const auto offset = [&](const int64_t (&strides)[3]) {
    return tangent * strides[0] + sample * strides[1] + group * strides[2];
  };
  const T* const t = static_cast<const T*>(params.t) + offset(params.t_strides);
  T* const out = static_cast<T*>(params.out) + offset(params.out_strides);
  const Real* const xh = static_cast<const Real*>(params.normalized) +
                         sample * params.normalized_strides[0] +
                         group * params.normalized_strides[1];
  const int64_t entries = params.channels * params.positions;
  auto gain = [&] {
    if constexpr (kGain == Gain::kNone) {
      return NoGain<Real>();
    } else {
      return GroupGain<Real>(params, sample, group, reinterpret_cast<Real*>(scratch));
    }
  }();
  const auto tiles = [&](const auto& body) {
    for (int64_t e = 0; e < entries; e += kTileEntries) {
      body(e, entries - e < kTileEntries ? entries - e : kTileEntries);
    }
  };
  Sums<V> sums;
  tiles([&](int64_t e, int64_t count) {
    const Real* const g = kGain == Gain::kBefore ? gain.at(e, count) : nullptr;
    add_to_sums<V, kGain>(t + e, xh + e, g, count, sums);
  });
  const double share = static_cast<double>(entries);
  const Means<V> means{
      V::broadcast(params.centered ? static_cast<Real>(sum_of<V>(sums.z) / share) : Real(0)),
      V::broadcast(static_cast<Real>(sum_of<V>(sums.products) / share)),
      V::broadcast(static_cast<const Real*>(params.scale)[sample * params.groups + group])};
  tiles([&](int64_t e, int64_t count) {
    project<V, kGain, kStreams>(t + e, xh + e, gain.at(e, count), count, means, out + e);
  });
}

// Channels last, all groups of a sample. A vector takes as many channels as it has lanes, the last
// one those at the end, which others may have taken as well.
template <class V, class T, Gain kGain, bool kStreams>
void channels_of_sample(const NormalizeTangentsParams& params, int64_t tangent, int64_t sample,
                        char* scratch) {
  using Real = typename V::Real;
  constexpr int64_t lanes = V::kLanes;
  const int64_t width = params.groups * params.channels, positions = params.positions;
  const int64_t vectors = ceil_divide(width, lanes);
  const auto channel_of = [&](int64_t vector) {
    return vector + 1 < vectors || width % lanes == 0 ? vector * lanes : width - lanes;
  };
  const T* const t = static_cast<const T*>(params.t) + tangent * params.t_strides[0] +
                     sample * params.t_strides[1];
  T* const out = static_cast<T*>(params.out) + tangent * params.out_strides[0] +
                 sample * params.out_strides[1];
  const Real* const xh =
      static_cast<const Real*>(params.normalized) + sample * params.normalized_strides[0];
  const Real* gain = nullptr;
  if constexpr (kGain != Gain::kNone) gain = gain_of<Real>(params, sample, 0);
  const auto gain_at = [&](int64_t position, int64_t channel) {
    return kGain == Gain::kNone ? nullptr : gain + position * params.gain_strides[3] + channel;
  };

  double* const z_sums = reinterpret_cast<double*>(scratch);
  double* const product_sums = z_sums + vectors * lanes;
  for (int64_t i = 0; i < 2 * vectors * lanes; ++i) z_sums[i] = 0.0;
  for (int64_t begin = 0; begin < positions; begin += kRunOfPositions) {
    const int64_t end = begin + kRunOfPositions < positions ? begin + kRunOfPositions : positions;
    for (int64_t v = 0; v < vectors; ++v) {
      const int64_t c = channel_of(v);
      typename V::Reg z = V::zero(), products = V::zero();
      for (int64_t p = begin; p < end; ++p) {
        const typename V::Reg entry =
            gained<V, kGain>(V::load_unaligned(t + p * width + c), gain_at(p, c));
        z = V::add(z, entry);
        products = V::fma(entry, V::load_unaligned(xh + p * width + c), products);
      }
      V::add_lanes(z, z_sums + v * lanes);
      V::add_lanes(products, product_sums + v * lanes);
    }
  }

  Real* const means = reinterpret_cast<Real*>(product_sums + vectors * lanes);
  Real* const product_means = means + width;
  Real* const scales = product_means + width;
  const double share = static_cast<double>(params.channels * positions);
  for (int64_t g = 0; g < params.groups; ++g) {
    double z = 0.0, products = 0.0;
    for (int64_t c = g * params.channels; c < (g + 1) * params.channels; ++c) {
      const int64_t v = c / lanes, at = v * lanes + c - channel_of(v);
      z += z_sums[at];
      products += product_sums[at];
    }
    const Real scale = static_cast<const Real*>(params.scale)[sample * params.groups + g];
    for (int64_t c = g * params.channels; c < (g + 1) * params.channels; ++c) {
      means[c] = params.centered ? static_cast<Real>(z / share) : Real(0);
      product_means[c] = static_cast<Real>(products / share);
      scales[c] = scale;
    }
  }

  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t v = 0; v < vectors; ++v) {
      const int64_t c = channel_of(v), at = p * width + c;
      const Means<V> of_channels{V::load_unaligned(means + c), V::load_unaligned(product_means + c),
                                 V::load_unaligned(scales + c)};
      put<V, kStreams>(out + at, projected<V, kGain>(V::load_unaligned(t + at), xh + at,
                                                     gain_at(p, c), of_channels));
    }
  }
}

template <class V, class T, Gain kGain, bool kStreams>
void normalize_tangents_item(const NormalizeTangentsParams& params,
                             const NormalizeTangentsPlan& plan, int64_t item, char* scratch) {
  const int64_t tangent = item % params.tangents;
  const int64_t begin = item / params.tangents * plan.rows_of_item;
  const int64_t most = begin + plan.rows_of_item, end = most < plan.rows ? most : plan.rows;
  for (int64_t row = begin; row < end; ++row) {
    if (params.channels_last) {
      channels_of_sample<V, T, kGain, kStreams>(params, tangent, row, scratch);
    } else {
      contiguous_group<V, T, kGain, kStreams>(params, tangent, row / params.groups,
                                              row % params.groups, scratch);
    }
  }
}

// Whether vectors of results are aligned to their size. Those of contiguous groups are, from some
// entry on.
template <class V, class T>
bool can_stream(const NormalizeTangentsParams& params) {
  const auto whole = [](int64_t entries) { return entries % V::kLanes == 0; };
  const auto address = reinterpret_cast<uintptr_t>(params.out);
  return !params.channels_last ||
         (address % (V::kLanes * sizeof(T)) == 0 && whole(params.groups * params.channels) &&
          whole(params.out_strides[0]) && whole(params.out_strides[1]));
}

template <class V, class T, Gain kGain>
void normalize_tangents_items_of(const NormalizeTangentsParams& params,
                                 const NormalizeTangentsPlan& plan, int64_t begin, int64_t end,
                                 char* scratch) {
  const bool streams = plan.streams && can_stream<V, T>(params);
  for (int64_t item = begin; item < end; ++item) {
    if (streams) {
      normalize_tangents_item<V, T, kGain, true>(params, plan, item, scratch);
    } else {
      normalize_tangents_item<V, T, kGain, false>(params, plan, item, scratch);
    }
  }
  if (streams) V::end_of_stream();
}

template <class V32, class V64>
void normalize_tangents_items(const NormalizeTangentsParams& params,
                              const NormalizeTangentsPlan& plan, int64_t begin, int64_t end,
                              char* scratch) {
  with_entry_type(params.dtype, [&](auto entry) {
    using T = decltype(entry);
    using V = std::conditional_t<sizeof(Working<T>) == 8, V64, V32>;
    if (params.gain == nullptr) {
      normalize_tangents_items_of<V, T, Gain::kNone>(params, plan, begin, end, scratch);
    } else if (params.transposed) {
      normalize_tangents_items_of<V, T, Gain::kBefore>(params, plan, begin, end, scratch);
    } else {
      normalize_tangents_items_of<V, T, Gain::kAfter>(params, plan, begin, end, scratch);
    }
  });
}

}  // namespace
}  // namespace pullback::cpu
