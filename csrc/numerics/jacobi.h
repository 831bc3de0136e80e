// Eigen-decomposition of a small symmetric matrix by cyclic two-sided Jacobi rotations, n / 2
// disjoint pairs at a time (the round-robin order of Brent and Luk 1985).
#pragma once

#include <cmath>
#include <cstdint>

#include "numerics/matrix.h"
#include "numerics/team.h"

namespace pullback {

constexpr int kJacobiMostSweeps = 30;  // 6 to 9 are usual

// One matrix and the arrays of its decomposition; all of it is shared by the team.
struct Jacobi {
  int64_t n;
  double* a;          // [n, pitch], symmetric; destroyed
  int64_t pitch;      // odd_pitch(n)
  double* v;          // [n, v_pitch] workspace: rows become eigenvectors
  int64_t v_pitch;    // n or more
  double* rotations;  // [n + 1, 2] workspace: cosine and sine of every pair of a round
  int* pairs;         // [n + 1, 2] workspace: which rows they turn, the smaller index first
  double* values;     // [n] out, descending; all NaN if an entry of A is not finite
  double* vectors;    // [n, n] out: row i belongs to values[i]; its entry of largest magnitude is
                      // positive
};

// The pair that meets in a round: all n (n - 1) / 2 pairs meet in n - 1 rounds (n rounds for odd
// n, where the partner of one index is n and does not exist).
PULLBACK_HD static inline void jacobi_pair(int even, int round, int pair, int* p, int* q) {
  const int circle = even - 1;
  const int a = pair == 0 ? circle : (round + pair) % circle;
  const int b = (round + circle - pair) % circle;
  *p = a < b ? a : b;
  *q = a < b ? b : a;
}

// Largest magnitude of an entry of a row, its position in *at.
PULLBACK_HD static inline double peak_of(const double* row, int64_t count, int64_t* at) {
  double peak = -1.0;
  for (int64_t j = 0; j < count; ++j) {
    const double size = fabs(row[j]);
    if (size > peak) {
      peak = size;
      *at = j;
    }
  }
  return peak;
}

// Rows p and q of A by one rotation, columns i and j by another, where they meet. An index n does
// not exist and is not rotated.
PULLBACK_HD static inline void jacobi_square(const Jacobi& x, int p, int q, double c, double s,
                                             int i, int j, double d, double t) {
  const bool has_q = q < x.n, has_j = j < x.n;
  if (s == 0.0 && t == 0.0) return;
  double* const row_p = x.a + p * x.pitch;
  double* const row_q = x.a + (has_q ? q : p) * x.pitch;
  const double pi = row_p[i], pj = has_j ? row_p[j] : 0.0;
  const double qi = has_q ? row_q[i] : 0.0, qj = has_q && has_j ? row_q[j] : 0.0;
  const double ri = c * pi - s * qi, rj = c * pj - s * qj;
  const double ti = s * pi + c * qi, tj = s * pj + c * qj;
  const bool own = p == i;  // the entries that the rotation is for become 0
  row_p[i] = d * ri - t * rj;
  if (has_j) row_p[j] = own && s != 0.0 ? 0.0 : t * ri + d * rj;
  if (has_q) row_q[i] = own && s != 0.0 ? 0.0 : d * ti - t * tj;
  if (has_q && has_j) row_q[j] = t * ti + d * tj;
}

// Rotates every pair whose coupling is not negligible; returns whether this thread's pairs had one.
template <class Team>
PULLBACK_HD bool jacobi_sweep(const Team& team, const Jacobi& x, double negligible) {
  const int n = static_cast<int>(x.n), even = n + n % 2, pairs = even / 2;
  bool rotated = false;
  for (int round = 0; round < even - 1; ++round) {
    for (int pair = team.rank(); pair < pairs; pair += team.size()) {
      int p, q;
      jacobi_pair(even, round, pair, &p, &q);
      double c = 1.0, s = 0.0;
      if (q < n) {
        const double app = x.a[p * x.pitch + p], aqq = x.a[q * x.pitch + q];
        const double apq = x.a[p * x.pitch + q];
        if (fabs(apq) > negligible && apq * apq > 0x1p-106 * fabs(app * aqq)) {
          const double cot = (aqq - app) / (2.0 * apq);
          const double t = (cot >= 0.0 ? 1.0 : -1.0) / (fabs(cot) + sqrt(1.0 + cot * cot));
          c = 1.0 / sqrt(1.0 + t * t);
          s = t * c;
          rotated = true;
        }
      }
      x.pairs[2 * pair] = p;
      x.pairs[2 * pair + 1] = q;
      x.rotations[2 * pair] = c;
      x.rotations[2 * pair + 1] = s;
    }
    PULLBACK_SYNC(team);
    // A from both sides, two rows and two columns at a time: the pairs are disjoint, and so are the
    // squares of four entries in which they meet.
    const int lanes = lanes_of(team, 32);
    for (int pair = team.rank() / lanes; pair < pairs; pair += team.size() / lanes) {
      const int p = x.pairs[2 * pair], q = x.pairs[2 * pair + 1];
      const double c = x.rotations[2 * pair], s = x.rotations[2 * pair + 1];
      for (int other = team.rank() % lanes; other < pairs; other += lanes) {
        jacobi_square(x, p, q, c, s, x.pairs[2 * other], x.pairs[2 * other + 1],
                      x.rotations[2 * other], x.rotations[2 * other + 1]);
      }
      if (s == 0.0) continue;
      double* const vp = x.v + p * x.v_pitch;
      double* const vq = x.v + q * x.v_pitch;
      for (int j = team.rank() % lanes; j < n; j += lanes) {
        const double a = vp[j], b = vq[j];
        vp[j] = c * a - s * b;
        vq[j] = s * a + c * b;
      }
    }
    PULLBACK_SYNC(team);
  }
  return rotated;
}

// x.a -> x.values, x.vectors. The lower triangle of x.a is read. On return others of the team may
// still be at work.
template <class Team>
PULLBACK_HD void jacobi(const Team& team, const Jacobi& x) {
  const int64_t n = x.n;
  for (int64_t i = team.rank(); i < n; i += team.size()) {
    for (int64_t j = 0; j < n; ++j) {
      x.v[i * x.v_pitch + j] = i == j ? 1.0 : 0.0;
      if (j > i) x.a[i * x.pitch + j] = x.a[j * x.pitch + i];
    }
    int64_t at = 0;
    double sum = 0.0;  // finite only if all entries are
    for (int64_t j = 0; j <= i; ++j) sum += 0.0 * x.a[i * x.pitch + j];
    x.values[i] = peak_of(x.a + i * x.pitch, i + 1, &at) + sum;
  }
  PULLBACK_SYNC(team);
  // Entries are scaled by an exact power of two: their squares must neither over- nor underflow.
  double peak = 0.0;
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) {
    peak = x.values[i] > peak ? x.values[i] : peak;
    finite = finite && x.values[i] == x.values[i];
  }
  int exponent = 0;
  frexp(peak, &exponent);
  for (int64_t e = team.rank(); e < n * n; e += team.size()) {
    double* const entry = x.a + e / n * x.pitch + e % n;
    *entry = ldexp(*entry, -exponent);
  }
  PULLBACK_SYNC(team);
  for (int sweep = 0; finite && sweep < kJacobiMostSweeps; ++sweep) {
    const bool rotated = jacobi_sweep(team, x, 0x1p-56);
    if (!PULLBACK_ANY(team, rotated)) break;
  }
  // Descending, equal values in the order of their rows.
  for (int64_t i = team.rank(); i < n; i += team.size()) {
    const double value = finite ? x.a[i * x.pitch + i] : NAN;
    int64_t place = finite ? 0 : i;
    for (int64_t j = 0; finite && j < n; ++j) {
      const double other = x.a[j * x.pitch + j];
      place += other > value || (other == value && j < i);
    }
    int64_t at = 0;
    const double* const row = x.v + i * x.v_pitch;
    peak_of(row, n, &at);
    const double sign = !finite ? NAN : row[at] < 0.0 ? -1.0 : 1.0;
    x.values[place] = ldexp(value, exponent);
    for (int64_t j = 0; j < n; ++j) x.vectors[place * n + j] = sign * row[j];
  }
}

}  // namespace pullback
