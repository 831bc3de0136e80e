// What the attention kernels share: an item's place, its scratch memory, a tile's mask and weights.
#pragma once

#include "cpu/attention_product.h"

namespace pullback::cpu {
namespace {

// Pieces of a thread's scratch memory, one after the other.
template <class Real>
class Scratch {
 public:
  Scratch(char* memory, int64_t lanes) : next_(reinterpret_cast<Real*>(memory)), lanes_(lanes) {}

  Panel<Real> panel(int64_t rows) { return {take(rows * lanes_), lanes_}; }
  Real* rows(int64_t count) { return take(count); }

 private:
  Real* take(int64_t count) {
    Real* const piece = next_;
    next_ += round_up(count, kMostVectorBytes / static_cast<int64_t>(sizeof(Real)));
    return piece;
  }

  Real* next_;
  int64_t lanes_;
};

// The lanes `first` to `first + count` of a sample's head.
struct Place {
  int64_t sample;
  int64_t head;
  int64_t first;
  int64_t count;
};

static inline Place place_of(const AttentionPlan& plan, int64_t item, int64_t heads,
                             int64_t length) {
  const int64_t first = item % plan.blocks * kAttentionLanes, left = length - first;
  return {item / plan.blocks / heads, item / plan.blocks % heads, first,
          left < kAttentionLanes ? left : kAttentionLanes};
}

// Rows of a sample's head, from `first` on.
template <class T>
const T* rows_of(const HeadRows& x, int64_t tangent, int64_t sample, int64_t head, int64_t first) {
  return static_cast<const T*>(x.data) + tangent * x.strides[0] + sample * x.strides[1] +
         head * x.strides[2] + first * x.strides[3];
}

// body(first, count) for tiles of nearly equal size from `begin` on.
template <class Body>
void for_tiles(int64_t begin, int64_t end, const Body& body) {
  const int64_t most =
      end - begin <= kLargestAttentionTile ? kLargestAttentionTile : kAttentionTile;
  for (int64_t left = ceil_divide(end - begin, most); left > 0; --left) {
    const int64_t count = ceil_divide(end - begin, left);
    body(begin, count);
    begin += count;
  }
}

// Fills the first `rows` rows, lane by lane.
template <class V>
void fill(const Panel<typename V::Real>& panel, int64_t rows, typename V::Real value) {
  const typename V::Reg all = V::broadcast(value);
  for (int64_t e = 0; e < rows * panel.lanes; e += V::kLanes) V::store(panel.data + e, all);
}

// What is added to the logits of a tile. Rows are keys and lanes queries, or, `of_keys`, the other
// way round. False where nothing is.
template <class T, class Real>
bool fill_mask(const AttentionParams& params, int64_t sample, int64_t head, int64_t first_row,
               int64_t rows, const Place& place, bool of_keys, const Panel<Real>& mask) {
  const int64_t first_query = of_keys ? first_row : place.first;
  const int64_t last_key = of_keys ? place.first + place.count - 1 : first_row + rows - 1;
  const bool cut = params.causal && last_key > first_query;
  if (params.bias == nullptr && !cut) return false;
  const int64_t* const strides = params.bias_strides;
  const T* const bias = static_cast<const T*>(params.bias);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t l = 0; l < mask.lanes; ++l) {
      Real value = 0;
      if (l < place.count) {
        const int64_t query = of_keys ? first_row + r : place.first + l;
        const int64_t key = of_keys ? place.first + l : first_row + r;
        if (bias != nullptr) {
          value = widen(bias[sample * strides[0] + head * strides[1] + query * strides[2] +
                             key * strides[3]]);
        }
        if (params.causal && key > query) value = static_cast<Real>(-__builtin_inf());
      }
      mask.row(r)[l] = value;
    }
  }
  return true;
}

// Logarithms of row sums as they are subtracted, one after the other: large, and what Real has no
// digits for beside that. A row of -inf alone gets weights of 0.
template <class Real>
struct LogSums {
  Real* large;
  Real* rest;

  void set(int64_t i, double lse) const {
    const double infinity = __builtin_inf();
    if (lse == -infinity) lse = infinity;
    large[i] = static_cast<Real>(lse);
    rest[i] = large[i] == lse ? Real(0) : static_cast<Real>(lse - large[i]);
  }
};

// Those of a block of queries; of lanes beyond it, whose weights are 0.
template <class Real>
void load_log_sums(const AttentionParams& params, const Place& place, int64_t row, int64_t lanes,
                   const LogSums<Real>& to) {
  for (int64_t l = 0; l < lanes; ++l)
    to.set(l, l < place.count ? params.lse[row + l] : __builtin_inf());
}

// Products of q and k become logits, scale q k + mask: rounded here, and not in one with what is
// subtracted from them, so that weights are the same digit by digit wherever they are computed.
template <class V>
typename V::Reg logit(typename V::Reg product, typename V::Reg scale,
                      const typename V::Real* mask) {
  return V::fma(product, scale, mask == nullptr ? V::zero() : V::load(mask));
}

// Products of q and k become weights. Logarithms are of lanes or of rows.
template <class V>
void weigh(const Panel<typename V::Real>& tile, int64_t rows, typename V::Real scale,
           const typename V::Real* mask, const LogSums<typename V::Real>& lse, bool of_rows) {
  const auto all = [&](const typename V::Real* of, int64_t r, int64_t l) {
    return of_rows ? V::broadcast(of[r]) : V::load(of + l);
  };
  const typename V::Reg times = V::broadcast(scale);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t l = 0; l < tile.lanes; l += V::kLanes) {
      typename V::Real* const at = tile.row(r) + l;
      const typename V::Reg x =
          logit<V>(V::load(at), times, mask == nullptr ? nullptr : mask + r * tile.lanes + l);
      V::store(at, exponential<V>(
                       V::subtract(V::subtract(x, all(lse.large, r, l)), all(lse.rest, r, l))));
    }
  }
}

// The last key, exclusive, that a block of queries sees.
static inline int64_t keys_seen(const AttentionParams& params, const Place& place) {
  const int64_t end = place.first + place.count;
  return params.causal && end < params.keys ? end : params.keys;
}

// The key of greatest weight of each query of a block, its peak. A number near to what is summed
// with weights, as that of the peak is, is taken off before: where one weight is nearly 1 sums of
// the rest would have no digits left. `mask` is scratch memory, and so is `tile`, unless the block
// sees no more keys than one tile holds: then their products with the queries are in it.
template <class V, class T>
void find_peaks(const AttentionParams& params, const Place& place, const Panel<typename V::Real>& q,
                typename V::Real* keys, const Panel<typename V::Real>& mask,
                const Panel<typename V::Real>& tile, typename V::Real* largest, int64_t* peaks) {
  using Real = typename V::Real;
  const int64_t key_head = place.head / (params.heads / params.key_heads);
  const Real scale = static_cast<Real>(params.scale);
  Real at[kAttentionLanes];  // numbers of keys, of the type that is compared: one vector loop
  for (int64_t l = 0; l < q.lanes; ++l) {
    largest[l] = static_cast<Real>(-__builtin_inf());
    at[l] = 0;
  }
  for_tiles(0, keys_seen(params, place), [&](int64_t first, int64_t count) {
    const Factor<Real> k = widened<V>(rows_of<T>(params.k, 0, place.sample, key_head, first),
                                      params.k.strides[3], count, params.depth, keys);
    const bool masked =
        fill_mask<T>(params, place.sample, place.head, first, count, place, false, mask);
    product<V>(count, params.depth, k, q, tile, false);
    for (int64_t r = 0; r < count; ++r) {
      const Real number = static_cast<Real>(first + r);
      const Real* const x = tile.row(r);
      const Real* const bias = mask.row(r);
      for (int64_t l = 0; l < q.lanes; ++l) {
        const Real value = masked ? x[l] * scale + bias[l] : x[l] * scale;
        const bool more = value > largest[l];
        largest[l] = more ? value : largest[l];
        at[l] = more ? number : at[l];
      }
    }
  });
  for (int64_t l = 0; l < q.lanes; ++l) {
    const int64_t peak = static_cast<int64_t>(at[l]), last = params.keys - 1;
    peaks[l] = peak < last ? peak : last;  // beyond 2^24 keys a float may be the next one's
  }
}

// Whether a block of queries sees no more keys than one tile holds.
static inline bool is_one_tile(const AttentionParams& params, const Place& place) {
  return keys_seen(params, place) <= kLargestAttentionTile;
}

// Weights of a tile of keys; of its products with the queries, where these are there already.
template <class V, class T>
void weigh_keys(const AttentionParams& params, const Place& place, int64_t first, int64_t count,
                const Factor<typename V::Real>& k, const Panel<typename V::Real>& q,
                const LogSums<typename V::Real>& lse, const Panel<typename V::Real>& mask,
                const Panel<typename V::Real>& weights, bool multiplied) {
  const bool masked =
      fill_mask<T>(params, place.sample, place.head, first, count, place, false, mask);
  if (!multiplied) product<V>(count, params.depth, k, q, weights, false);
  weigh<V>(weights, count, static_cast<typename V::Real>(params.scale),
           masked ? mask.data : nullptr, lse, false);
}

// Rows of the peaks' keys as lanes. There are keys.
template <class V, class T>
void load_peaks(const T* from, int64_t stride, const int64_t* peaks, int64_t width,
                const Panel<typename V::Real>& to) {
  for (int64_t l = 0; l < to.lanes; ++l) {
    const T* const row = from + peaks[l] * stride;
    for (int64_t c = 0; c < width; ++c) to.row(c)[l] = widen(row[c]);
  }
}

// out = sums of a b, lane by lane, or out + them: digit by digit what product() finds.
template <class V>
void products_of_lanes(const Panel<typename V::Real>& a, const Panel<typename V::Real>& b,
                       int64_t steps, typename V::Real* out, bool add) {
  for (int64_t l = 0; l < a.lanes; l += V::kLanes) {
    int64_t step = 0;
    bool sum = add;
    do {
      const int64_t end = steps - step < kChain ? steps : step + kChain;
      typename V::Reg chain = V::zero();
      for (; step < end; ++step) {
        chain = V::fma(V::load(a.row(step) + l), V::load(b.row(step) + l), chain);
      }
      V::store(out + l, sum ? V::add(V::load(out + l), chain) : chain);
      sum = true;
    } while (step < steps);
  }
}

// Weights times what products of tangents are above a center: [rows, lanes] in place. Centers are
// of lanes or of rows; the sums of rows, which are lanes, are added to `mu` where it is there.
template <class V>
void multiply_centered(const Panel<typename V::Real>& weights, int64_t rows,
                       const typename V::Real* center, bool of_rows,
                       const Panel<typename V::Real>& tile, typename V::Real* mu) {
  for (int64_t l = 0; l < tile.lanes; l += V::kLanes) {
    typename V::Reg sum = V::zero();
    for (int64_t r = 0; r < rows; ++r) {
      typename V::Real* const at = tile.row(r) + l;
      const typename V::Reg less = of_rows ? V::broadcast(center[r]) : V::load(center + l);
      const typename V::Reg ds =
          V::multiply(V::load(weights.row(r) + l), V::subtract(V::load(at), less));
      V::store(at, ds);
      sum = V::add(sum, ds);
    }
    if (mu != nullptr) V::store(mu + l, V::add(V::load(mu + l), sum));
  }
}

template <class T, class Real>
constexpr bool kIsRounded = !std::is_same_v<T, Real>;  // entries hold less than Real does

}  // namespace
}  // namespace pullback::cpu
