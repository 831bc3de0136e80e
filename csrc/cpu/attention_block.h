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
  for (int64_t left = ceil_divide(end - begin, kAttentionTile); left > 0; --left) {
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

// Logarithms of row sums as they are subtracted: a row of -inf alone gets weights of 0.
template <class Real>
Real subtracted(Real lse) {
  const Real infinity = static_cast<Real>(__builtin_inf());
  return lse == -infinity ? infinity : lse;
}

// Products of q and k become logits, scale q k + mask, less a number for each lane.
template <class V>
typename V::Reg logit(typename V::Reg product, typename V::Reg scale, const typename V::Real* mask,
                      typename V::Reg less) {
  if (mask == nullptr) return V::subtract(V::multiply(product, scale), less);
  return V::subtract(V::fma(product, scale, V::load(mask)), less);
}

// Products of q and k become weights. `lse` are subtracted() ones, of lanes or of rows.
template <class V>
void weigh(const Panel<typename V::Real>& tile, int64_t rows, typename V::Real scale,
           const typename V::Real* mask, const typename V::Real* lse, bool of_rows) {
  const typename V::Reg times = V::broadcast(scale);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t l = 0; l < tile.lanes; l += V::kLanes) {
      typename V::Real* const at = tile.row(r) + l;
      const typename V::Reg less = of_rows ? V::broadcast(lse[r]) : V::load(lse + l);
      V::store(at, exponential<V>(logit<V>(V::load(at), times,
                                           mask == nullptr ? nullptr : mask + r * tile.lanes + l,
                                           less)));
    }
  }
}

// The last key, exclusive, that a block of queries sees.
static inline int64_t keys_seen(const AttentionParams& params, const Place& place) {
  const int64_t end = place.first + place.count;
  return params.causal && end < params.keys ? end : params.keys;
}

template <class T, class Real>
constexpr bool kIsRounded = !std::is_same_v<T, Real>;  // entries hold less than Real does

}  // namespace
}  // namespace pullback::cpu
