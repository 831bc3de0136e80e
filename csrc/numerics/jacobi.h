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
  double* v;          // [n, n] workspace: rows become eigenvectors
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
        if (fabs(apq) > negligible && fabs(apq) > 0x1p-53 * sqrt(fabs(app)) * sqrt(fabs(aqq))) {
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
    // Rows p and q of A and of V: a large team shares out the entries of a pair.
    const int lanes = lanes_of(team, 32);
    for (int pair = team.rank() / lanes; pair < pairs; pair += team.size() / lanes) {
      const double c = x.rotations[2 * pair], s = x.rotations[2 * pair + 1];
      if (s == 0.0) continue;
      double* const ap = x.a + x.pairs[2 * pair] * x.pitch;
      double* const aq = x.a + x.pairs[2 * pair + 1] * x.pitch;
      double* const vp = x.v + x.pairs[2 * pair] * n;
      double* const vq = x.v + x.pairs[2 * pair + 1] * n;
      for (int j = team.rank() % lanes; j < n; j += lanes) {
        const double a = ap[j], v = vp[j];
        ap[j] = c * a - s * aq[j];
        aq[j] = s * a + c * aq[j];
        vp[j] = c * v - s * vq[j];
        vq[j] = s * v + c * vq[j];
      }
    }
    PULLBACK_SYNC(team);
    // Columns p and q of A: a thread has whole rows to itself.
    for (int i = team.rank(); i < n; i += team.size()) {
      double* const row = x.a + i * x.pitch;
      for (int pair = 0; pair < pairs; ++pair) {
        const double c = x.rotations[2 * pair], s = x.rotations[2 * pair + 1];
        if (s == 0.0) continue;
        const int p = x.pairs[2 * pair], q = x.pairs[2 * pair + 1];
        const double a = row[p], b = row[q];
        row[p] = i == q ? 0.0 : c * a - s * b;  // the entry that the rotation is for
        row[q] = i == p ? 0.0 : s * a + c * b;
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
      x.v[i * n + j] = i == j ? 1.0 : 0.0;
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
  for (int64_t i = team.rank(); i < n; i += team.size()) {
    for (int64_t j = 0; j < n; ++j) x.a[i * x.pitch + j] = ldexp(x.a[i * x.pitch + j], -exponent);
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
    peak_of(x.v + i * n, n, &at);
    const double sign = !finite ? NAN : x.v[i * n + at] < 0.0 ? -1.0 : 1.0;
    x.values[place] = ldexp(value, exponent);
    for (int64_t j = 0; j < n; ++j) x.vectors[place * n + j] = sign * x.v[i * n + j];
  }
}

}  // namespace pullback
