// Cotangents through attention. With p the weights, g cotangents of o and D the rows' sums of g o:
//
//   ds = scale p (g v^T - D),  dq = ds k,  dk = ds^T q,  dv = p^T g.
//
// With the query's peak v* it is D = g v* + g (o - v*): where o is v*, g v - D is 0 to the last
// digit for that key. A block of queries sums dq over the keys, then a block of keys dk and dv over
// the queries.
#pragma once

#include "cpu/attention_block.h"

namespace pullback::cpu {
namespace {

// Results of a tangent, times scale, as rows in memory.
template <class V, class T>
void finish(const Panel<typename V::Real>& sums, int64_t rows, int64_t width,
            typename V::Real factor, T* to) {
  const typename V::Reg times = V::broadcast(factor);
  for (int64_t x = 0; x < width * sums.lanes; x += V::kLanes) {
    V::store(sums.data + x, V::multiply(times, V::load(sums.data + x)));
  }
  store_transposed<V>(sums, rows, width, to);
}

// dq of a block of queries, and D. Where o was rounded to 16 bits D is what it gives, corrected by
// the sums mu of the rows of ds, which a right D makes 0: dq = scale (ds k - mu (p k)).
template <class V, class T>
void cotangents_of_queries(const AttentionParams& params, const AttentionPlan& plan,
                           const Place& place, char* memory) {
  using Real = typename V::Real;
  constexpr bool kCorrects = kIsRounded<T, Real>;
  const int64_t lanes = round_up(place.count, V::kLanes), d = params.depth, e = params.width;
  const int64_t key_head = place.head / (params.heads / params.key_heads);
  const int64_t row = (place.sample * params.heads + place.head) * params.queries + place.first;
  Scratch<Real> scratch(memory, lanes);
  const Panel<Real> q = scratch.panel(d), o = scratch.panel(e), mean = scratch.panel(d);
  const Panel<Real> mask = scratch.panel(kLargestAttentionTile),
                    weights = scratch.panel(kLargestAttentionTile);
  const Panel<Real> tile = scratch.panel(kLargestAttentionTile), g = scratch.panel(e * plan.group);
  const Panel<Real> out = scratch.panel(d * plan.group), mu = scratch.panel(plan.group);
  const Panel<Real> center = scratch.panel(plan.group), at_peak = scratch.panel(e);
  const LogSums<Real> lse{scratch.panel(1).data, scratch.panel(1).data};
  int64_t peaks[kAttentionLanes];
  Real* const keys = scratch.rows(kLargestAttentionTile * d);
  Real* const values = scratch.rows(kLargestAttentionTile * e);
  const Real scale = static_cast<Real>(params.scale);
  const auto queries = [&](const HeadRows& x, int64_t t, int64_t width, const Panel<Real>& to) {
    load_transposed<V>(rows_of<T>(x, t, place.sample, place.head, place.first), x.strides[3],
                       place.count, width, Real(1), to);
  };
  const auto part = [&](const Panel<Real>& all, int64_t width, int64_t i) -> Panel<Real> {
    return {all.row(width * i), lanes};
  };

  queries(params.q, 0, d, q);
  queries(params.o, 0, e, o);
  load_log_sums(params, place, row, lanes, lse);
  fill<V>(at_peak, e, 0);
  const bool one_tile = is_one_tile(params, place);
  if (params.keys > 0) {
    find_peaks<V, T>(params, place, q, keys, mask, weights, mu.row(0), peaks);
    load_peaks<V>(rows_of<T>(params.v, 0, place.sample, key_head, 0), params.v.strides[3], peaks, e,
                  at_peak);
    for (int64_t x = 0; x < e * lanes; x += V::kLanes) {
      V::store(o.data + x, V::subtract(V::load(o.data + x), V::load(at_peak.data + x)));
    }
  }
  for (int64_t begin = 0; begin < params.tangents; begin += plan.group) {
    const int64_t left = params.tangents - begin, group = left < plan.group ? left : plan.group;
    for (int64_t i = 0; i < group; ++i) {
      queries(params.g, begin + i, e, part(g, e, i));
      products_of_lanes<V>(at_peak, part(g, e, i), e, center.row(i), false);
      products_of_lanes<V>(o, part(g, e, i), e, mu.row(i), false);
      for (int64_t l = 0; l < lanes; l += V::kLanes) {
        V::store(center.row(i) + l, V::add(V::load(center.row(i) + l), V::load(mu.row(i) + l)));
      }
    }
    fill<V>(out, d * group, 0);
    fill<V>(mu, group, 0);
    if (kCorrects) fill<V>(mean, d, 0);
    for_tiles(0, keys_seen(params, place), [&](int64_t first, int64_t count) {
      const Factor<Real> k = widened<V>(rows_of<T>(params.k, 0, place.sample, key_head, first),
                                        params.k.strides[3], count, d, keys);
      const Factor<Real> v = widened<V>(rows_of<T>(params.v, 0, place.sample, key_head, first),
                                        params.v.strides[3], count, e, values);
      if (begin == 0 || !one_tile) {
        weigh_keys<V, T>(params, place, first, count, k, q, lse, mask, weights, one_tile);
      }
      if (kCorrects) product<V>(d, count, k.transposed(), weights, mean, true);
      for (int64_t i = 0; i < group; ++i) {
        product<V>(count, e, v, part(g, e, i), tile, false);
        multiply_centered<V>(weights, count, center.row(i), false, tile,
                             kCorrects ? mu.row(i) : nullptr);
        product<V>(d, count, k.transposed(), tile, part(out, d, i), true);
      }
    });
    for (int64_t i = 0; i < group; ++i) {
      const Panel<Real> mine = part(out, d, i);
      for (int64_t c = 0; kCorrects && c < d; ++c) {
        for (int64_t l = 0; l < lanes; l += V::kLanes) {
          Real* const at = mine.row(c) + l;
          V::store(at, V::fnma(V::load(mu.row(i) + l), V::load(mean.row(c) + l), V::load(at)));
        }
      }
      const int64_t rows = (begin + i) * params.batch * params.heads * params.queries + row;
      finish<V>(mine, place.count, d, scale, static_cast<T*>(params.out) + rows * d);
      for (int64_t l = 0; params.sums != nullptr && l < place.count; ++l) {
        static_cast<Real*>(params.sums)[rows + l] = center.row(i)[l] + mu.row(i)[l];
      }
    }
  }
}

// dk and dv of a block of keys, from the queries of all heads that it serves.
template <class V, class T>
void cotangents_of_keys(const AttentionParams& params, const AttentionPlan& plan,
                        const Place& place, char* memory) {
  using Real = typename V::Real;
  const int64_t lanes = round_up(place.count, V::kLanes), d = params.depth, e = params.width;
  const int64_t served = params.heads / params.key_heads;
  Scratch<Real> scratch(memory, lanes);
  const Panel<Real> k = scratch.panel(d), v = scratch.panel(e),
                    mask = scratch.panel(kLargestAttentionTile);
  const Panel<Real> weights = scratch.panel(kLargestAttentionTile),
                    tile = scratch.panel(kLargestAttentionTile);
  const Panel<Real> out_k = scratch.panel(d * plan.group), out_v = scratch.panel(e * plan.group);
  const LogSums<Real> lse{scratch.rows(kLargestAttentionTile), scratch.rows(kLargestAttentionTile)};
  Real* const queries = scratch.rows(kLargestAttentionTile * d);
  Real* const others = scratch.rows(kLargestAttentionTile * e);
  const Real scale = static_cast<Real>(params.scale);
  const auto lanes_of = [&](const HeadRows& x, int64_t width, const Panel<Real>& to) {
    load_transposed<V>(rows_of<T>(x, 0, place.sample, place.head, place.first), x.strides[3],
                       place.count, width, Real(1), to);
  };
  const auto part = [&](const Panel<Real>& all, int64_t width, int64_t i) -> Panel<Real> {
    return {all.row(width * i), lanes};
  };

  lanes_of(params.k, d, k);
  lanes_of(params.v, e, v);
  for (int64_t begin = 0; begin < params.tangents; begin += plan.group) {
    const int64_t left = params.tangents - begin, group = left < plan.group ? left : plan.group;
    fill<V>(out_k, d * group, 0);
    fill<V>(out_v, e * group, 0);
    for (int64_t head = place.head * served; head < (place.head + 1) * served; ++head) {
      const int64_t row = (place.sample * params.heads + head) * params.queries;
      for_tiles(params.causal ? place.first : 0, params.queries, [&](int64_t first, int64_t count) {
        const Factor<Real> q = widened<V>(rows_of<T>(params.q, 0, place.sample, head, first),
                                          params.q.strides[3], count, d, queries);
        const bool masked =
            fill_mask<T>(params, place.sample, head, first, count, place, true, mask);
        for (int64_t r = 0; r < count; ++r) lse.set(r, params.lse[row + first + r]);
        product<V>(count, d, q, k, weights, false);
        weigh<V>(weights, count, scale, masked ? mask.data : nullptr, lse, true);
        for (int64_t i = 0; i < group; ++i) {
          const int64_t rows = (begin + i) * params.batch * params.heads * params.queries + row;
          const Factor<Real> g =
              widened<V>(rows_of<T>(params.g, begin + i, place.sample, head, first),
                         params.g.strides[3], count, e, others);
          product<V>(count, e, g, v, tile, false);
          multiply_centered<V>(weights, count, static_cast<Real*>(params.sums) + rows + first, true,
                               tile, nullptr);
          product<V>(d, count, q.transposed(), tile, part(out_k, d, i), true);
          product<V>(e, count, g.transposed(), weights, part(out_v, e, i), true);
        }
      });
    }
    for (int64_t i = 0; i < group; ++i) {
      const int64_t head = place.sample * params.key_heads + place.head;
      const int64_t all = params.batch * params.key_heads;
      const int64_t rows = ((begin + i) * all + head) * params.keys + place.first;
      finish<V>(part(out_k, d, i), place.count, d, scale, static_cast<T*>(params.out_k) + rows * d);
      finish<V>(part(out_v, e, i), place.count, e, Real(1),
                static_cast<T*>(params.out_v) + rows * e);
    }
  }
}

}  // namespace
}  // namespace pullback::cpu
