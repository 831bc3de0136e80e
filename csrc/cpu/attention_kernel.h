// Attention for every CPU instruction set: included once by each attention_<isa>.cpp, after its
// vector types. Attention itself and its tangents; cpu/attention_cotangents.h has the transpose.
#pragma once

#include "cpu/attention_block.h"
#include "cpu/attention_cotangents.h"

namespace pullback::cpu {
namespace {

template <class Real>
constexpr Real kLowest =
    static_cast<Real>(std::is_same_v<Real, float> ? -__FLT_MAX__ : -__DBL_MAX__);

// Attention of a block of queries: sums over tiles of keys are kept relative to the largest logit
// so far.
template <class V, class T>
void forward_item(const AttentionParams& params, const Place& place, char* memory) {
  using Real = typename V::Real;
  const int64_t lanes = round_up(place.count, V::kLanes), d = params.depth, e = params.width;
  const int64_t key_head = place.head / (params.heads / params.key_heads);
  Scratch<Real> scratch(memory, lanes);
  const Panel<Real> q = scratch.panel(d), o = scratch.panel(e),
                    mask = scratch.panel(kLargestAttentionTile);
  const Panel<Real> weights = scratch.panel(kLargestAttentionTile), sums = scratch.panel(4);
  Real* const largest = sums.row(0);
  Real* const total = sums.row(1);
  Real* const keys = scratch.rows(kLargestAttentionTile * d);
  Real* const values = scratch.rows(kLargestAttentionTile * e);
  const Real infinity = static_cast<Real>(__builtin_inf());
  const typename V::Reg scale = V::broadcast(static_cast<Real>(params.scale));

  load_transposed<V>(rows_of<T>(params.q, 0, place.sample, place.head, place.first),
                     params.q.strides[3], place.count, d, Real(1), q);
  fill<V>(o, e, 0);
  for (int64_t l = 0; l < lanes; ++l) {
    largest[l] = -infinity;
    total[l] = 0;
  }
  for_tiles(0, keys_seen(params, place), [&](int64_t first, int64_t count) {
    const Factor<Real> k = widened<V>(rows_of<T>(params.k, 0, place.sample, key_head, first),
                                      params.k.strides[3], count, d, keys);
    const Factor<Real> v = widened<V>(rows_of<T>(params.v, 0, place.sample, key_head, first),
                                      params.v.strides[3], count, e, values);
    const bool masked =
        fill_mask<T>(params, place.sample, place.head, first, count, place, false, mask);
    product<V>(count, d, k, q, weights, false);
    for (int64_t l = 0; l < lanes; l += V::kLanes) {
      const typename V::Reg before = V::load(largest + l);
      typename V::Reg most = before;
      for (int64_t r = 0; r < count; ++r) {
        Real* const at = weights.row(r) + l;
        const typename V::Reg x = logit<V>(V::load(at), scale, masked ? mask.row(r) + l : nullptr);
        V::store(at, x);
        most = V::larger(x, most);
      }
      V::store(largest + l, most);
      // All -inf so far: any other number will do in place of it.
      const typename V::Reg less = V::larger(most, V::broadcast(kLowest<Real>));
      typename V::Reg sum = V::zero();
      for (int64_t r = 0; r < count; ++r) {
        Real* const at = weights.row(r) + l;
        const typename V::Reg weight = exponential<V>(V::subtract(V::load(at), less));
        V::store(at, weight);
        sum = V::add(sum, weight);
      }
      const typename V::Reg shrink = exponential<V>(V::subtract(before, less));
      V::store(total + l, V::fma(V::load(total + l), shrink, sum));
      for (int64_t c = 0; c < e; ++c) {
        Real* const at = o.row(c) + l;
        V::store(at, V::multiply(V::load(at), shrink));
      }
    }
    product<V>(e, count, v.transposed(), weights, o, true);
  });
  const int64_t row = (place.sample * params.heads + place.head) * params.queries + place.first;
  for (int64_t l = 0; l < lanes; ++l) {
    const bool none = total[l] == 0;
    if (l < place.count) {
      params.lse[row + l] = none ? -__builtin_inf() : largest[l] + __builtin_log(total[l]);
    }
    total[l] = none ? Real(0) : 1 / total[l];
  }
  for (int64_t c = 0; c < e; ++c) {
    for (int64_t l = 0; l < lanes; l += V::kLanes) {
      V::store(o.row(c) + l, V::multiply(V::load(o.row(c) + l), V::load(total + l)));
    }
  }
  store_transposed<V>(o, place.count, e, static_cast<T*>(params.out) + row * e);
}

// Tangents of a block of queries, with p the weights and mu the sums of the rows of h:
//   s = scale (dq k^T + q dk^T),  h = p (s - r),  do = h v + p dv - mu o
// for any r; it is s of the query's peak. Where o was rounded to 16 bits it is summed anew: an
// offset that v has in common would be lost.
template <class V, class T>
void tangents_item(const AttentionParams& params, const AttentionPlan& plan, const Place& place,
                   char* memory) {
  using Real = typename V::Real;
  const int64_t lanes = round_up(place.count, V::kLanes), d = params.depth, e = params.width;
  const int64_t key_head = place.head / (params.heads / params.key_heads);
  const int64_t row = (place.sample * params.heads + place.head) * params.queries + place.first;
  const bool turns = params.dq.data != nullptr || params.dk.data != nullptr;
  Scratch<Real> scratch(memory, lanes);
  const Panel<Real> q = scratch.panel(d), scaled = scratch.panel(d), o = scratch.panel(e);
  const Panel<Real> mask = scratch.panel(kLargestAttentionTile),
                    weights = scratch.panel(kLargestAttentionTile);
  const Panel<Real> tile = scratch.panel(kLargestAttentionTile), dq = scratch.panel(d * plan.group);
  const Panel<Real> out = scratch.panel(e * plan.group), mu = scratch.panel(plan.group);
  const Panel<Real> r = scratch.panel(plan.group), at_peak = scratch.panel(d);
  const Panel<Real> moved_at_peak = scratch.panel(d);
  const LogSums<Real> lse{scratch.panel(1).data, scratch.panel(1).data};
  Real* const keys = scratch.rows(kLargestAttentionTile * d);
  Real* const values = scratch.rows(kLargestAttentionTile * e);
  Real* const others = scratch.rows(kLargestAttentionTile * (d > e ? d : e));
  int64_t peaks[kAttentionLanes];
  const Real scale = static_cast<Real>(params.scale);
  const auto queries = [&](const HeadRows& x, int64_t t, int64_t width, Real factor,
                           const Panel<Real>& to) {
    load_transposed<V>(rows_of<T>(x, t, place.sample, place.head, place.first), x.strides[3],
                       place.count, width, factor, to);
  };
  const auto rows = [&](const HeadRows& x, int64_t t, int64_t first, int64_t count, int64_t width,
                        Real* to) {
    return widened<V>(rows_of<T>(x, t, place.sample, key_head, first), x.strides[3], count, width,
                      to);
  };

  queries(params.q, 0, d, Real(1), q);
  if (params.dk.data != nullptr) queries(params.q, 0, d, scale, scaled);
  if (!kIsRounded<T, Real>) queries(params.o, 0, e, Real(1), o);
  load_log_sums(params, place, row, lanes, lse);
  fill<V>(at_peak, d, 0);
  const bool one_tile = is_one_tile(params, place), peaked = turns && params.keys > 0;
  if (peaked) {
    find_peaks<V, T>(params, place, q, keys, mask, weights, mu.row(0), peaks);
    load_peaks<V>(rows_of<T>(params.k, 0, place.sample, key_head, 0), params.k.strides[3], peaks, d,
                  at_peak);
  }
  for (int64_t begin = 0; begin < params.tangents; begin += plan.group) {
    const int64_t left = params.tangents - begin, group = left < plan.group ? left : plan.group;
    const auto part = [&](const Panel<Real>& all, int64_t width, int64_t i) -> Panel<Real> {
      return {all.row(width * i), lanes};
    };
    for (int64_t i = 0; params.dq.data != nullptr && i < group; ++i) {
      queries(params.dq, begin + i, d, scale, part(dq, d, i));
      products_of_lanes<V>(at_peak, part(dq, d, i), d, r.row(i), false);
    }
    for (int64_t i = 0; params.dk.data != nullptr && params.keys > 0 && i < group; ++i) {
      load_peaks<V>(rows_of<T>(params.dk, begin + i, place.sample, key_head, 0),
                    params.dk.strides[3], peaks, d, moved_at_peak);
      products_of_lanes<V>(moved_at_peak, scaled, d, r.row(i), params.dq.data != nullptr);
    }
    fill<V>(out, e * group, 0);
    fill<V>(mu, group, 0);
    if (kIsRounded<T, Real>) fill<V>(o, e, 0);
    for_tiles(0, keys_seen(params, place), [&](int64_t first, int64_t count) {
      const Factor<Real> k = rows(params.k, 0, first, count, d, keys);
      const Factor<Real> v = rows(params.v, 0, first, count, e, values).transposed();
      if (begin == 0 || !one_tile) {
        weigh_keys<V, T>(params, place, first, count, k, q, lse, mask, weights, peaked && one_tile);
      }
      if (kIsRounded<T, Real>) product<V>(e, count, v, weights, o, true);
      for (int64_t i = 0; i < group; ++i) {
        if (params.dq.data != nullptr) product<V>(count, d, k, part(dq, d, i), tile, false);
        if (params.dk.data != nullptr) {
          product<V>(count, d, rows(params.dk, begin + i, first, count, d, others), scaled, tile,
                     params.dq.data != nullptr);
        }
        if (turns) {
          multiply_centered<V>(weights, count, r.row(i), false, tile, mu.row(i));
          product<V>(e, count, v, tile, part(out, e, i), true);
        }
        if (params.dv.data != nullptr) {
          product<V>(e, count, rows(params.dv, begin + i, first, count, e, others).transposed(),
                     weights, part(out, e, i), true);
        }
      }
    });
    for (int64_t i = 0; i < group; ++i) {
      const Panel<Real> mine = part(out, e, i);
      for (int64_t c = 0; turns && c < e; ++c) {
        for (int64_t l = 0; l < lanes; l += V::kLanes) {
          Real* const at = mine.row(c) + l;
          V::store(at, V::fnma(V::load(mu.row(i) + l), V::load(o.row(c) + l), V::load(at)));
        }
      }
      const int64_t tangent = (begin + i) * params.batch * params.heads * params.queries;
      store_transposed<V>(mine, place.count, e, static_cast<T*>(params.out) + (tangent + row) * e);
    }
  }
}

template <class V, class T>
void attention_items_of(const AttentionParams& params, const AttentionPlan& plan, int64_t begin,
                        int64_t end, char* scratch) {
  const bool of_keys = params.kind == AttentionKind::kCotangentsOfKeys;
  for (int64_t item = begin; item < end; ++item) {
    const Place place = of_keys ? place_of(plan, item, params.key_heads, params.keys)
                                : place_of(plan, item, params.heads, params.queries);
    switch (params.kind) {
      case AttentionKind::kForward:
        forward_item<V, T>(params, place, scratch);
        break;
      case AttentionKind::kTangents:
        tangents_item<V, T>(params, plan, place, scratch);
        break;
      case AttentionKind::kCotangentsOfQueries:
        cotangents_of_queries<V, T>(params, plan, place, scratch);
        break;
      case AttentionKind::kCotangentsOfKeys:
        cotangents_of_keys<V, T>(params, plan, place, scratch);
        break;
    }
  }
}

template <class Floats, class Doubles>
void attention_items(const AttentionParams& params, const AttentionPlan& plan, int64_t begin,
                     int64_t end, char* scratch) {
  with_entry_type(params.dtype, [&](auto entry) {
    using T = decltype(entry);
    using V = std::conditional_t<std::is_same_v<T, double>, Doubles, Floats>;
    attention_items_of<V, T>(params, plan, begin, end, scratch);
  });
}

}  // namespace
}  // namespace pullback::cpu
