// One pass of Cholesky QR, by which a block of rows becomes orthonormal: the k x k part.
//
// With A the block as it stands (rows scaled by powers of two), P the orthonormal rows that it must
// also be orthogonal to, G = A A^T and H = A P^T, a pass finds lower triangular T with
//
//   Q = T (A - H P)    orthonormal, and orthogonal to P, up to what G and H resolve
//
// from the Cholesky factor of S = D (G - H H^T) D, D = diag(G)^-1/2: Cholesky QR with the
// projection by the Pythagorean theorem. Where a direction is weaker than S resolves, its pivot is
// clamped: the direction is amplified, not replaced, and the next pass resolves it better. Only a
// row whose distance from the span of P and of the rows before it is known to be rounding noise is
// given up and replaced by a random one. Passes are made until the loss of orthogonality is at most
// `tolerance`, by a bound that no rounding of the block's products with T can break (loss_bound()).
//
// A row of T is a row of L^-1 times D: 1 / sqrt(pivot) times what the row takes of the rows before
// it, whose norm is sqrt(growth). The row comes out with an error of sqrt(growth / pivot)
// roundings. Where that is large the row is deferred: other rows are freed from it only on the next
// pass, when it is stored and its error is part of it. Freed from it at once, strong rows would
// take that error on, and the span with them, and along many rows of middling pivots errors would
// grow without bound. Hence L^-1 is built along with L. That all of its entries may add up with one
// sign is what Kahan's matrices show: an estimate from the entries of L alone misses it.
//
// Unpivoted on purpose: row i of the result depends on rows 0 .. i alone, so bases stay continuous
// along an iteration.
#pragma once

#include <cmath>
#include <cstdint>

#include "numerics/matrix.h"
#include "numerics/team.h"

namespace pullback {

// Passes after which a block is taken as it is. After kAmplifyingPasses of them rows that are still
// weak are given up, whatever they hold: the passes left make orthonormal what stands in their
// place. Smooth families of a hundred rows and more come that far, other blocks need 7 passes at
// most.
constexpr int kMostPasses = 16;
constexpr int kAmplifyingPasses = 12;

struct CholeskyQrThresholds {
  double clamp;          // smallest pivot of S that is resolved
  double defer;          // smallest pivot of a row that others are freed from on the same pass ...
  double squared_error;  // ... and largest growth / pivot: the error of the span, in roundings
  double dependent;      // distance / norm up to which a row is given up
  double unit;           // largest relative error of a rounding in the dtype of q
  double gram_error;     // of an entry of S, whose products are float64 whatever q is
  double tolerance;      // bound on || I - Q Q^T ||_2 that is good enough
};

template <class Real>
PULLBACK_HD inline CholeskyQrThresholds cholesky_qr_thresholds(int64_t k) {
  const bool single = sizeof(Real) == 4;
  const double unit = single ? 0x1p-24 : 0x1p-53;
  const double size = static_cast<double>(k);
  return {4 * size * unit,
          4 * sqrt(unit),
          single ? 1e4 : 1e6,
          (8 + 2 * sqrt(size)) * unit,
          unit,
          32 * 0x1p-53,
          single ? 8.5e-6 : 9.5e-13};
}

// Rows of CholeskyQr::scratch.
constexpr int64_t kCholeskyQrScratch = 6;

// The state of one sample's block, and what a pass works with. All of it is shared by the team.
struct CholeskyQr {
  int64_t k;           // rows of the block
  int64_t p;           // rows of P
  double* s;           // [k, pitch]; on entry G, of which the lower triangle is read
  int64_t pitch;       // odd_pitch(k)
  const double* h;     // [k, h_pitch] H; may be null if p is 0
  int64_t h_pitch;     // p or more
  double* scratch;     // [kCholeskyQrScratch, k]
  double* distance;    // [k] from the span of the rows before, over the row's norm, so far
  bool* given_up;      // [k] out: given up on this pass, and to be replaced
  bool* replaced;      // [k] given up on any pass
  double* residual;    // [k, k] or null: the block is residual Q + projection^T P
  double* projection;  // [p, k] or null
};

// Before the first pass; row i has been multiplied by 2^-exponent[i]. The team meets before the
// pass: after it has written x.s and x.h.
template <class Team>
PULLBACK_HD void cholesky_qr_start(const Team& team, const CholeskyQr& x, const int* exponent) {
  for (int64_t i = team.rank(); i < x.k; i += team.size()) {
    x.distance[i] = 1.0;
    x.replaced[i] = false;
  }
  if (x.residual == nullptr) return;
  for (int64_t e = team.rank(); e < x.k * x.k; e += team.size()) {
    x.residual[e] = e % (x.k + 1) == 0 ? ldexp(1.0, exponent[e / x.k]) : 0.0;
  }
  for (int64_t e = team.rank(); e < x.p * x.k; e += team.size()) x.projection[e] = 0.0;
}

// S = D (G - H H^T) D in the lower triangle of x.s; norm[i] = 1 / D_ii, inverse_norm[i] = D_ii.
template <class Team>
PULLBACK_HD void equilibrate(const Team& team, const CholeskyQr& x, double* norm,
                             double* inverse_norm) {
  for (int64_t i = team.rank(); i < x.k; i += team.size()) {
    const double square = x.s[i * x.pitch + i];
    norm[i] = square > 0.0 ? sqrt(square) : 0.0;
    inverse_norm[i] = square > 0.0 ? 1.0 / norm[i] : 0.0;
  }
  PULLBACK_SYNC(team);
  const int lanes = lanes_of(team, 16);
  for (int64_t i = team.rank() / lanes; i < x.k; i += team.size() / lanes) {
    for (int64_t j = team.rank() % lanes; j <= i; j += lanes) {
      double entry = x.s[i * x.pitch + j];
      if (x.p > 0) entry -= dot(x.h + i * x.h_pitch, x.h + j * x.h_pitch, x.p);
      x.s[i * x.pitch + j] = inverse_norm[i] * entry * inverse_norm[j];
    }
  }
}

// 1 + the sum of x_l^2 over a column of entries `pitch` apart, in four partial sums.
PULLBACK_HD static inline double growth_of(const double* column, int64_t pitch, int64_t count) {
  double sum[4] = {1, 0, 0, 0};
  int64_t l = 0;
  for (; l + 4 <= count; l += 4) {
    for (int u = 0; u < 4; ++u) {
      const double entry = column[(l + u) * pitch];
      sum[u] += entry * entry;
    }
  }
  for (int u = 0; u < 3; ++u) {
    if (l + u >= count) break;
    const double entry = column[(l + u) * pitch];
    sum[u] += entry * entry;
  }
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// sum_u += factor row_u for u < count, 4 of them at most.
PULLBACK_HD static inline void add_multiple(double factor, const double* row, int64_t count,
                                            double (&sum)[4]) {
  if (count == 4) {
    for (int u = 0; u < 4; ++u) sum[u] += factor * row[u];
    return;
  }
  for (int u = 0; u < 3; ++u) {
    if (u < count) sum[u] += factor * row[u];
  }
}

// Cholesky factor L of S in the lower triangle of x.s, its diagonal in `diagonal`, 1 / L_jj in
// `inverse_diagonal`. Column j is zero below the diagonal where row j is deferred or given up.
// Above the diagonal of column i row i of -X L_ii, X = L^-1, which is complete when row i is
// reached. Returns whether any row was deferred.
template <class Team>
PULLBACK_HD bool cholesky_factor(const Team& team, const CholeskyQr& x,
                                 const CholeskyQrThresholds& thresholds, int pass,
                                 const double* norm, double* diagonal, double* inverse_diagonal,
                                 double* column) {
  PULLBACK_SYNC(team);
  bool any_deferred = false;
  const int lanes = lanes_of(team, 16);
  for (int64_t j = 0; j < x.k; ++j) {
    const double pivot = x.s[j * x.pitch + j];
    const double clamped = pivot > thresholds.clamp ? pivot : thresholds.clamp;
    const double root = sqrt(clamped), inverse_root = 1.0 / root;
    // Distances are over the norm that the row came with: on the first pass it cancels, and later
    // a row whose pivot was clamped is shorter than one.
    const double row_norm = pass == 1 ? (norm[j] > 0.0 ? 1.0 : 0.0) : norm[j];
    const double distance = x.distance[j] * row_norm * root;
    const double growth = growth_of(x.s + j, x.pitch, j);  // of row j of X, times its pivot
    const bool noisy = !(pivot > thresholds.defer && growth < thresholds.squared_error * clamped);
    const bool give_up = !(distance > thresholds.dependent) || (noisy && pass > kAmplifyingPasses);
    const bool defer = give_up || noisy;
    any_deferred = any_deferred || defer;
    for (int64_t i = j + 1 + team.rank(); i < x.k; i += team.size()) {
      // |L_ij| <= sqrt(S_ii) holds for every Gram matrix; where rounding breaks it, noise would
      // grow from column to column.
      const double square = x.s[i * x.pitch + i];
      const double bound = square > 0.0 ? sqrt(square) : 0.0;
      double entry = defer ? 0.0 : x.s[i * x.pitch + j] * inverse_root;
      entry = entry > bound ? bound : entry;
      entry = entry < -bound ? -bound : entry;
      column[i] = entry;
    }
    PULLBACK_SYNC(team);
    const double inverse = give_up ? 1.0 : inverse_root;  // X_jj
    if (team.rank() == 0) {
      diagonal[j] = give_up ? 1.0 : root;
      inverse_diagonal[j] = inverse;
      // Others are freed from it now, so what they shared with it must not go with it later.
      x.distance[j] = defer && !give_up ? distance : 1.0;
      x.given_up[j] = give_up;
      x.replaced[j] = x.replaced[j] || give_up;
    }
    for (int64_t i = team.rank() / lanes; i < x.k; i += team.size() / lanes) {
      double* const row = x.s + i * x.pitch;
      if (i > j) {
        for (int64_t l = j + 1 + team.rank() % lanes; l <= i; l += lanes) {
          row[l] -= column[i] * column[l];
        }
      } else {
        const double entry = i == j ? inverse : -row[j] * inverse;
        for (int64_t l = j + 1 + team.rank() % lanes; l < x.k; l += lanes) {
          row[l] = (i == j ? 0.0 : row[l]) + entry * column[l];
        }
      }
    }
    for (int64_t i = j + 1 + team.rank(); i < x.k; i += team.size()) {
      x.s[i * x.pitch + j] = column[i];
    }
    PULLBACK_SYNC(team);
  }
  return any_deferred;
}

// The block in terms of the rows to come: projection += H^T residual^T, residual <- residual D^-1
// L, where what was left of a row that was given up no longer counts. Four rows of projection at a
// time, and as many columns of residual as there are lanes: entries that later ones need have not
// been overwritten.
template <class Team>
PULLBACK_HD void accumulate_factors(const Team& team, const CholeskyQr& x, const double* norm,
                                    const double* diagonal) {
  const int64_t strips = (x.p + 3) / 4;
  for (int64_t e = team.rank(); e < strips * x.k; e += team.size()) {
    const int64_t i = e / strips, l = 4 * (e % strips), count = x.p - l < 4 ? x.p - l : 4;
    const double* const row = x.residual + i * x.k;
    double sum[4] = {0, 0, 0, 0};
    for (int64_t j = 0; j <= i; ++j) {
      if (row[j] != 0.0) add_multiple(row[j], x.h + j * x.h_pitch + l, count, sum);
    }
    for (int u = 0; u < 4; ++u) {
      if (u < count) x.projection[(l + u) * x.k + i] += sum[u];
    }
  }
  const int lanes = lanes_of(team, 16);
  const int64_t rows = team.size() / lanes, lane = team.rank() % lanes;
  for (int64_t first = 0; first < x.k; first += rows) {
    const int64_t i = first + team.rank() / lanes;
    double* const row = x.residual + (i < x.k ? i : 0) * x.k;
    for (int64_t column = 0; column < x.k && column < first + rows; column += lanes) {
      const int64_t j = column + lane;
      const bool mine = i < x.k && j <= i;
      double sum = !mine || x.given_up[j] ? 0.0 : row[j] * norm[j] * diagonal[j];
      for (int64_t l = j + 1; mine && l <= i; ++l) sum += row[l] * norm[l] * x.s[l * x.pitch + j];
      PULLBACK_SYNC(team);  // the first time all of projection has been summed as well
      if (mine) row[j] = sum;
    }
  }
}

// X = L^-1 from what cholesky_factor() has left above the diagonal: column j in x.s[j][j + 1 ..];
// X_jj = inverse_diagonal[j]. `squares` gets each column's share of the sum of X_ij^2 below the
// diagonal, `weighted` that of i (i - j) X_ij^2; others of the team may read these when they have
// met.
template <class Team>
PULLBACK_HD void finish_inverse(const Team& team, const CholeskyQr& x,
                                const double* inverse_diagonal, double* squares, double* weighted) {
  const int lanes = lanes_of(team, 16);
  for (int64_t j = team.rank() / lanes; j < x.k; j += team.size() / lanes) {
    for (int64_t i = j + 1 + team.rank() % lanes; i < x.k; i += lanes) {
      x.s[j * x.pitch + i] *= -inverse_diagonal[i];
    }
  }
  PULLBACK_SYNC(team);
  for (int64_t j = team.rank(); j < x.k; j += team.size()) {
    const double* const column = x.s + j * x.pitch;
    double sum = 0.0, weighted_sum = 0.0;
    for (int64_t i = j + 1; i < x.k; ++i) {
      const double square = column[i] * column[i];
      sum += square;
      weighted_sum += static_cast<double>(i * (i - j)) * square;
    }
    squares[j] = sum;
    weighted[j] = weighted_sum;
  }
}

// The transform [k, k + p] that is to be applied to the rows of [A; P]: T = L^-1 D, zero above its
// diagonal, beside -T H; rows that were given up are zero.
template <class Real, class Team>
PULLBACK_HD void write_transform(const Team& team, const CholeskyQr& x,
                                 const double* inverse_diagonal, const double* inverse_norm,
                                 Real* transform) {
  const int64_t width = x.k + x.p;
  const int lanes = lanes_of(team, 16);
  for (int64_t i = team.rank() / lanes; i < x.k; i += team.size() / lanes) {
    for (int64_t j = team.rank() % lanes; j < x.k; j += lanes) {
      double entry = 0.0;
      if (j <= i && !x.given_up[i]) {
        entry = (j == i ? inverse_diagonal[i] : x.s[j * x.pitch + i]) * inverse_norm[j];
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
        add_multiple(-static_cast<double>(transform[i * width + j]), x.h + j * x.h_pitch + l, count,
                     sum);
      }
      for (int u = 0; u < 4; ++u) {
        if (u < count) transform[i * width + x.k + l + u] = static_cast<Real>(sum[u]);
      }
    }
  }
}

// Bound on || I - Q Q^T ||_2 after a pass on which no row was deferred, to first order in the
// roundings, whichever way each of them goes.
//
// With X = L^-1, and rows of unit norm in place of A: row i of Q is a sum of p products -C_il P_l,
// C = X D H, then of i products X_ij A_j, then of X_ii A_i. Rounded are T, each product (unless it
// is fused), and each sum, by at most `unit` times itself.
//
//   sums with fewer than all terms   i of them; by Cauchy and Schwarz the sum of their norms is at
//                                    most ||A|| sqrt(i sum_j (i - j) X_ij^2), beside those with P
//   products                         at most sqrt(i sum_(j < i) X_ij^2) + X_ii in norm
//   T                                ||A|| (sum_(j < i) X_ij^2)^1/2, and for the diagonal of T,
//                                    in the norm of all rows together, ||A|| max X_ii
//   the last sum                     a row of Q, of norm one
//   sums, products and C, with P     at most 2 p + i + 1 times ||C_i||
//
// As || A ||_F^2 = k is that of D H and L together, m^2 = sum (1 - L_jj^2) is what D H and L have
// beside the diagonal: ||A|| <= 1 + m and ||C||_F <= ||X|| m. An error E of S adds ||X||^2 ||E||,
// and an error of Q counts twice.
PULLBACK_HD inline double loss_bound(const CholeskyQr& x, const CholeskyQrThresholds& thresholds,
                                     const double* diagonal, const double* inverse_diagonal,
                                     const double* squares, const double* weighted) {
  const double k = static_cast<double>(x.k), p = static_cast<double>(x.p);
  double below = 0.0, on = 0.0, largest = 0.0, weights = 0.0, beside = 0.0;
  for (int64_t j = 0; j < x.k; ++j) {
    const double square = diagonal[j] * diagonal[j];
    below += squares[j];
    on += inverse_diagonal[j] * inverse_diagonal[j];
    largest = largest > inverse_diagonal[j] ? largest : inverse_diagonal[j];
    weights += weighted[j];
    beside += 1.0 - square;
  }
  // The largest eigenvalue y of S^-1: the others of S add up to k - 1 / y at most, so that
  // trace(S^-1) >= y + (k - 1)^2 / (k - 1 / y), which is a quadratic inequality; y = 1 at S = I.
  const double trace = below + on;
  const double half = 0.5 * k * (trace + 2.0 - k);
  const double rest = half * half - k * trace;
  const double inverse = (half + sqrt(rest > 0.0 ? rest : 0.0)) / k;
  const double m = sqrt(beside > 0.0 ? beside : 0.0);
  const double with_others = x.p > 0 ? (2.0 * p + k + 1.0) * m * sqrt(inverse) : 0.0;
  const double roundings = (1.0 + m) * (sqrt(weights) + sqrt(below) + largest) + sqrt(weights) +
                           sqrt(on) + sqrt(k) + with_others;
  return 2.0 * thresholds.unit * roundings + k * thresholds.gram_error * inverse;
}

// One pass. Writes the transform; rows in x.given_up stand for random rows of norm one. Returns
// whether Q is good and this was the last pass; `pass` counts from 1. On return others of the team
// may still read x and write the transform.
template <class Real, class Team>
PULLBACK_HD bool cholesky_qr_pass(const Team& team, const CholeskyQr& x, int pass,
                                  Real* transform) {
  const CholeskyQrThresholds thresholds = cholesky_qr_thresholds<Real>(x.k);
  double* const norm = x.scratch;
  double* const inverse_norm = x.scratch + x.k;
  double* const diagonal = x.scratch + 2 * x.k;
  double* const inverse_diagonal = x.scratch + 3 * x.k;
  double* const squares = x.scratch + 4 * x.k;  // and a column of the factor before
  double* const weighted = x.scratch + 5 * x.k;
  equilibrate(team, x, norm, inverse_norm);
  const bool any_deferred =
      cholesky_factor(team, x, thresholds, pass, norm, diagonal, inverse_diagonal, squares);
  if (x.residual != nullptr) accumulate_factors(team, x, norm, diagonal);
  finish_inverse(team, x, inverse_diagonal, squares, weighted);
  write_transform(team, x, inverse_diagonal, inverse_norm, transform);

  const bool good = !any_deferred && (x.p == 0 || pass >= 2) &&
                    loss_bound(x, thresholds, diagonal, inverse_diagonal, squares, weighted) <=
                        thresholds.tolerance;
  return good || pass == kMostPasses;
}

}  // namespace pullback
