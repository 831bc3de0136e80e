// One rung of the ladder by which a block of rows becomes orthonormal: the k x k part.
//
// With A the block as it stands (rows scaled by powers of two), P the orthonormal rows that it must
// also be orthogonal to, G = A A^T and H = A P^T, a rung finds lower triangular T with
//
//   Q = T (A - H P)    orthonormal, and orthogonal to P, up to what G and H resolve
//
// from the Cholesky factor of S = D (G - H H^T) D, D = diag(G)^-1/2: CholeskyQR with the projection
// by the Pythagorean theorem. Where a direction is weaker than S resolves, its pivot is clamped:
// the direction is amplified, not replaced, and the next rung sees it better. Only a row whose
// distance from the span of P and of the rows before it is known to be rounding noise is given up
// and replaced by a random one. Rungs are climbed until the loss of orthogonality, estimated from
// trace(S^-1), is at most `tolerance`.
//
// A row of T is 1 / sqrt(pivot) times what the row takes of the rows before it, whose norm is its
// `growth`; it leaves the row with an error of unit sqrt(growth / pivot), growth squared. Other
// rows are freed from a row for which that is large only on the next rung, when it is stored and
// its error is part of it; freed from it at once, strong rows would take that error on, and the
// span with them, and along many rows of middling pivots errors would grow without bound.
//
// Unpivoted on purpose: row i of the result depends on rows 0 .. i alone, so bases stay continuous
// along an iteration.
#pragma once

#include <cmath>
#include <cstdint>

#include "numerics/team.h"

namespace pullback {

// Rungs after which a block is taken as it is. After kLadderPatience of them rows that are still
// weak are given up, whatever they hold: the rungs left make orthonormal what stands in their
// place. Smooth families of a hundred rows and more come that far, other blocks need 7 rungs at
// most.
constexpr int kLadderMostRungs = 16;
constexpr int kLadderPatience = 12;

struct LadderRules {
  double clamp;      // smallest pivot of S that is resolved
  double defer;      // smallest pivot of a row that others are freed from on the same rung ...
  double grown;      // ... and largest growth / pivot
  double dependent;  // distance / norm up to which a row is given up
  double error;      // of an entry of S
  double tolerance;  // || I - Q Q^T ||_2 that is good enough
};

template <class Real>
PULLBACK_HD inline LadderRules ladder_rules(int64_t k) {
  const bool single = sizeof(Real) == 4;
  const double unit = single ? 0x1p-24 : 0x1p-53;
  const double size = static_cast<double>(k);
  return {4 * size * unit,       4 * sqrt(unit),       1e6, (8 + 2 * sqrt(size)) * unit,
          single ? 3e-7 : 3e-15, single ? 3e-6 : 2e-13};
}

constexpr int64_t kLadderScratch = 5;

// The state of one sample's block, and what a rung works with. All of it is shared by the team.
struct Ladder {
  int64_t k;         // rows of the block
  int64_t p;         // rows of P
  double* s;         // [k, pitch]; on entry G, of which the lower triangle is read
  int64_t pitch;     // k rounded up to an odd number: no bank conflicts down a column
  const double* h;   // [k, p] H; may be null if p is 0
  double* scratch;   // [kLadderScratch, k]
  double* distance;  // [k] from the span of the rows before, over the row's norm, so far
  bool* fresh;       // [k] out: given up on this rung, and to be replaced
  bool* replaced;    // [k] given up on any rung
  double* residual;  // [k, k] or null: the block is residual Q + columns^T P
  double* columns;   // [p, k] or null
};

PULLBACK_HD inline int64_t ladder_pitch(int64_t k) {
  return k | 1;
}

// Before the first rung; row i has been multiplied by 2^-exponent[i]. The team meets before the
// rung: after it has written x.s and x.h.
template <class Team>
PULLBACK_HD void ladder_start(const Team& team, const Ladder& x, const int* exponent) {
  for (int64_t i = team.rank(); i < x.k; i += team.size()) {
    x.distance[i] = 1.0;
    x.replaced[i] = false;
    if (x.residual != nullptr) {
      for (int64_t j = 0; j < x.k; ++j) x.residual[i * x.k + j] = 0.0;
      x.residual[i * x.k + i] = ldexp(1.0, exponent[i]);
      for (int64_t l = 0; l < x.p; ++l) x.columns[l * x.k + i] = 0.0;
    }
  }
}

// S = D (G - H H^T) D in the lower triangle of x.s; scale[i] = D_ii, norm[i] = 1 / D_ii.
template <class Team>
PULLBACK_HD void ladder_equilibrate(const Team& team, const Ladder& x, double* scale, double* norm,
                                    double* growth) {
  for (int64_t i = team.rank(); i < x.k; i += team.size()) {
    const double square = x.s[i * x.pitch + i];
    norm[i] = square > 0.0 ? sqrt(square) : 0.0;
    scale[i] = square > 0.0 ? 1.0 / norm[i] : 0.0;
    growth[i] = 1.0;
  }
  PULLBACK_SYNC(team);
  const int lanes = team.size() >= 16 ? 16 : 1;
  for (int64_t i = team.rank() / lanes; i < x.k; i += team.size() / lanes) {
    for (int64_t j = team.rank() % lanes; j <= i; j += lanes) {
      double entry = x.s[i * x.pitch + j];
      if (x.p > 0) entry -= dot(x.h + i * x.p, x.h + j * x.p, x.p);
      x.s[i * x.pitch + j] = scale[i] * entry * scale[j];
    }
  }
  PULLBACK_SYNC(team);
}

// Cholesky factor L of S in the lower triangle of x.s, its diagonal in `diagonal`. Column j is zero
// below the diagonal where the pivot is small or the row is given up: other rows wait for the next
// rung. Returns whether that happened anywhere.
template <class Team>
PULLBACK_HD bool ladder_factor(const Team& team, const Ladder& x, const LadderRules& rules,
                               int rung, const double* norm, double* diagonal, double* column,
                               double* growth) {
  bool weak = false;
  const int lanes = team.size() >= 16 ? 16 : 1;
  for (int64_t j = 0; j < x.k; ++j) {
    const double pivot = x.s[j * x.pitch + j];
    const double kept = pivot > rules.clamp ? pivot : rules.clamp;
    const double root = sqrt(kept);
    const double size = rung == 1 ? (norm[j] > 0.0 ? 1.0 : 0.0) : norm[j];
    const double distance = x.distance[j] * size * root;
    const double grown = growth[j] / kept;
    const bool unsound = !(pivot > rules.defer && grown < rules.grown);
    const bool drop = !(distance > rules.dependent) || (unsound && rung > kLadderPatience);
    const bool defer = drop || unsound;
    weak = weak || defer;
    for (int64_t i = j + 1 + team.rank(); i < x.k; i += team.size()) {
      // |L_ij| <= sqrt(S_ii) holds for every Gram matrix; where rounding breaks it, noise would
      // grow from column to column.
      const double rest = x.s[i * x.pitch + i];
      const double most = rest > 0.0 ? sqrt(rest) : 0.0;
      double entry = defer ? 0.0 : x.s[i * x.pitch + j] / root;
      entry = entry > most ? most : entry;
      entry = entry < -most ? -most : entry;
      column[i] = entry;
      growth[i] += entry * entry * grown;
    }
    PULLBACK_SYNC(team);
    if (team.rank() == 0) {
      diagonal[j] = drop ? 1.0 : root;
      // Others are freed from it now, so what they shared with it must not go with it later.
      x.distance[j] = defer && !drop ? distance : 1.0;
      x.fresh[j] = drop;
      x.replaced[j] = x.replaced[j] || drop;
    }
    for (int64_t i = j + 1 + team.rank() / lanes; i < x.k; i += team.size() / lanes) {
      for (int64_t l = j + 1 + team.rank() % lanes; l <= i; l += lanes) {
        x.s[i * x.pitch + l] -= column[i] * column[l];
      }
    }
    for (int64_t i = j + 1 + team.rank(); i < x.k; i += team.size()) {
      x.s[i * x.pitch + j] = column[i];
    }
    PULLBACK_SYNC(team);
  }
  return weak;
}

// The block in terms of the rows to come: columns += residual H, residual <- residual D^-1 L, where
// what was left of a row that was given up no longer counts. Rows are independent of each other.
template <class Team>
PULLBACK_HD void ladder_account(const Team& team, const Ladder& x, const double* norm,
                                const double* diagonal) {
  for (int64_t i = team.rank(); i < x.k; i += team.size()) {
    double* row = x.residual + i * x.k;
    for (int64_t j = 0; j <= i; ++j) {
      if (row[j] == 0.0) continue;
      for (int64_t l = 0; l < x.p; ++l) x.columns[l * x.k + i] += row[j] * x.h[j * x.p + l];
    }
    for (int64_t j = 0; j <= i; ++j) {
      double sum = x.fresh[j] ? 0.0 : row[j] * norm[j] * diagonal[j];
      for (int64_t l = j + 1; l <= i; ++l) sum += row[l] * norm[l] * x.s[l * x.pitch + j];
      row[j] = sum;
    }
  }
}

// X = L^-1: column j in x.s[j][j + 1 ..], above the diagonal; X_jj = 1 / diagonal[j]. `sums` gets
// each column's share of ||X||_F^2, rows that were given up left out.
template <class Team>
PULLBACK_HD void ladder_invert(const Team& team, const Ladder& x, const double* diagonal,
                               double* sums) {
  for (int64_t j = team.rank(); j < x.k; j += team.size()) {
    double* const column = x.s + j * x.pitch;
    const double first = 1.0 / diagonal[j];
    double sum = x.fresh[j] ? 0.0 : first * first;
    for (int64_t i = j + 1; i < x.k; ++i) {
      const double* const row = x.s + i * x.pitch;
      const double entry =
          -(row[j] * first + dot(row + j + 1, column + j + 1, i - j - 1)) / diagonal[i];
      column[i] = entry;
      if (!x.fresh[i]) sum += entry * entry;
    }
    sums[j] = sum;
  }
  PULLBACK_SYNC(team);
}

// One rung. Writes the transform [k, k + p] that is to be applied to the rows of [A; P]: T, zero
// above its diagonal, beside -T H; rows in x.fresh are zero and stand for random rows of norm one.
// Returns whether Q is good and this was the last rung; `rung` counts from 1. On return x.s is no
// longer read, while others of the team may still read the rest of x and write the transform.
template <class Real, class Team>
PULLBACK_HD bool ladder_rung(const Team& team, const Ladder& x, int rung, Real* transform) {
  const LadderRules rules = ladder_rules<Real>(x.k);
  double* const scale = x.scratch;
  double* const norm = x.scratch + x.k;
  double* const diagonal = x.scratch + 2 * x.k;
  double* const sums = x.scratch + 3 * x.k;
  double* const growth = x.scratch + 4 * x.k;
  ladder_equilibrate(team, x, scale, norm, growth);
  const bool weak = ladder_factor(team, x, rules, rung, norm, diagonal, sums, growth);
  if (x.residual != nullptr) ladder_account(team, x, norm, diagonal);
  ladder_invert(team, x, diagonal, sums);

  const int64_t width = x.k + x.p;
  const int lanes = team.size() >= 16 ? 16 : 1;
  for (int64_t i = team.rank() / lanes; i < x.k; i += team.size() / lanes) {
    for (int64_t j = team.rank() % lanes; j < x.k; j += lanes) {
      double entry = 0.0;
      if (j <= i && !x.fresh[i]) {
        entry = (j == i ? 1.0 / diagonal[i] : x.s[j * x.pitch + i]) * scale[j];
      }
      transform[i * width + j] = static_cast<Real>(entry);
    }
  }
  PULLBACK_SYNC(team);
  // From the rounded T: what it leaves of P is what must be taken away.
  for (int64_t i = team.rank() / lanes; i < x.k && x.p > 0; i += team.size() / lanes) {
    for (int64_t l = 4 * (team.rank() % lanes); l < x.p; l += 4 * lanes) {
      const int64_t count = x.p - l < 4 ? x.p - l : 4;
      double sum[4] = {0, 0, 0, 0};
      for (int64_t j = 0; j <= i; ++j) {
        const double factor = transform[i * width + j];
        for (int64_t u = 0; u < count; ++u) sum[u] -= factor * x.h[j * x.p + l + u];
      }
      for (int64_t u = 0; u < count; ++u) {
        transform[i * width + x.k + l + u] = static_cast<Real>(sum[u]);
      }
    }
  }

  // The largest eigenvalue of S^-1 is at most trace(S^-1) - (k - 1)^2 / k, tight at S = I.
  double trace = 0.0, live = 0.0;
  for (int64_t j = 0; j < x.k; ++j) {
    trace += sums[j];
    live += x.fresh[j] ? 0.0 : 1.0;
  }
  const double inverse = live > 0.0 ? trace - (live - 1.0) * (live - 1.0) / live : 0.0;
  const bool good = !weak && rules.error * inverse <= rules.tolerance && (x.p == 0 || rung >= 2);
  return good || rung == kLadderMostRungs;
}

}  // namespace pullback
