// Eigenvalues of small symmetric matrices, one to a lane (numerics/lanes.h): Householder
// reflections to tridiagonal form by a team, then the root-free QL iteration of Pal, Walker and
// Kahan (Parlett 1998, The Symmetric Eigenvalue Problem, 8.15) by one thread. A lane's values do
// not depend on the other lanes: where it is done its numbers stay as they are, however long the
// others go on. Entries are of the size of 1 (power_of_two()): squares of squares neither over- nor
// underflow.
#pragma once

#include <cstdint>
#include <cstring>

#include "numerics/lanes.h"
#include "numerics/team.h"

namespace pullback {

constexpr int kTridiagonalMostSweeps = 40;  // for one value; 2 to 3 are usual

// e for a size in [2^(e - 1), 2^e). Within limits: squares beyond them leave the range of float64.
PULLBACK_HD static inline int exponent_of(double size) {
  uint64_t bits;
  memcpy(&bits, &size, sizeof bits);
  const int e = static_cast<int>(bits >> 52 & 0x7ff) - 1022;
  return e < -600 ? -600 : e > 1000 ? 1000 : e;
}

// 2^e, for a normal result.
PULLBACK_HD static inline double power_of_two(int e) {
  const uint64_t bits = static_cast<uint64_t>(1023 + e) << 52;
  double power;
  memcpy(&power, &bits, sizeof power);
  return power;
}

// One matrix to a lane, and the arrays of its reduction; all of it is shared by the team.
struct Tridiagonal {
  int64_t m;
  double* a;         // [m, pitch, lanes], of which the lower triangle is read; destroyed
  int64_t pitch;     // odd_pitch(m) or more
  double* v;         // [m, lanes] workspace: a reflection's vector
  double* p;         // [m, lanes] workspace: A v
  double* w;         // [m, lanes] workspace: A <- A - v w^T - w v^T
  double* diagonal;  // [m, step] out, the first lanes of each row
  double* squares;   // [m, step] out: off-diagonal entries, squared, the last not set
  int64_t step;      // lanes or more
};

// x.a -> x.diagonal, x.squares, which rank 0 has written: other ranks must wait before they read.
template <class L, class Team>
PULLBACK_HD static inline void reduce_to_tridiagonal(const Team& team, const Tridiagonal& x) {
  using Reg = typename L::Reg;
  constexpr int lanes = L::kLanes;
  const auto at = [&](int64_t i, int64_t j) { return x.a + (i * x.pitch + j) * lanes; };
  const Reg zero = L::broadcast(0.0), nothing = L::broadcast(0x1p-400);
  const int64_t m = x.m, first = team.rank(), size = team.size();
  for (int64_t j = 0; j + 2 < m; ++j) {
    // Each thread for itself: the norm of the column and the reflection I - factor v v^T.
    Reg square = zero;
    for (int64_t i = j + 1; i < m; ++i)
      square = L::fma(L::load(at(i, j)), L::load(at(i, j)), square);
    const Reg top = L::load(at(j + 1, j)), norm = L::root(square);
    const typename L::Mask is_there = L::above(square, nothing);
    const Reg head = L::choose(L::above(zero, top), top - norm, top + norm);
    const Reg inverse = L::broadcast(1.0) / L::fma(L::magnitude(top), norm, square);
    const Reg factor = L::choose(is_there, inverse, zero);
    if (team.rank() == 0) {
      L::store(x.diagonal + j * x.step, L::load(at(j, j)));
      L::store(x.squares + j * x.step, L::choose(is_there, square, zero));
    }
    for (int64_t i = j + 1 + first; i < m; i += size) {
      L::store(x.v + i * lanes, i == j + 1 ? head : L::load(at(i, j)));
    }
    PULLBACK_SYNC(team);
    for (int64_t i = j + 1 + first; i < m; i += size) {
      Reg sum = zero;
      for (int64_t c = j + 1; c <= i; ++c)
        sum = L::fma(L::load(at(i, c)), L::load(x.v + c * lanes), sum);
      for (int64_t c = i + 1; c < m; ++c)
        sum = L::fma(L::load(at(c, i)), L::load(x.v + c * lanes), sum);
      L::store(x.p + i * lanes, factor * sum);
    }
    PULLBACK_SYNC(team);
    Reg along = zero;
    for (int64_t i = j + 1; i < m; ++i) {
      along = L::fma(L::load(x.p + i * lanes), L::load(x.v + i * lanes), along);
    }
    along = L::broadcast(-0.5) * factor * along;
    for (int64_t i = j + 1 + first; i < m; i += size) {
      L::store(x.w + i * lanes, L::fma(along, L::load(x.v + i * lanes), L::load(x.p + i * lanes)));
    }
    PULLBACK_SYNC(team);
    for (int64_t i = j + 1 + first; i < m; i += size) {
      const Reg v = zero - L::load(x.v + i * lanes), w = zero - L::load(x.w + i * lanes);
      for (int64_t c = j + 1; c <= i; ++c) {
        const Reg entry = L::fma(v, L::load(x.w + c * lanes), L::load(at(i, c)));
        L::store(at(i, c), L::fma(w, L::load(x.v + c * lanes), entry));
      }
    }
    PULLBACK_SYNC(team);
  }
  if (team.rank() != 0) return;
  for (int64_t j = m < 2 ? 0 : m - 2; j < m; ++j) {
    L::store(x.diagonal + j * x.step, L::load(at(j, j)));
    if (j + 1 == m) break;
    const Reg below = L::load(at(j + 1, j));
    L::store(x.squares + j * x.step, below * below);
  }
}

// One QL sweep over rows l ... m - 1 of a tridiagonal matrix with a shift, in the lanes that are
// `active`. With gamma = the sum of what is left of a row, p = gamma^2 / c and the cosine c = p /
// r, r = p + (off-diagonal)^2; c itself is not needed. gamma is kept from 0, so that nothing is 0 /
// 0.
template <class L>
PULLBACK_HD static inline void tridiagonal_sweep(int64_t l, int64_t m, double* diagonal,
                                                 double* squares, typename L::Reg shift,
                                                 typename L::Mask active,
                                                 typename L::Reg negligible) {
  using Reg = typename L::Reg;
  constexpr int lanes = L::kLanes;
  const Reg zero = L::broadcast(0.0), one = L::broadcast(1.0), tiny = L::broadcast(0x1p-300);
  const auto kept_from_zero = [&](Reg x) {
    return L::choose(L::above(L::magnitude(x), tiny), x, tiny);
  };
  const auto store = [&](double* to, Reg x) { L::store(to, L::choose(active, x, L::load(to))); };
  Reg gamma = kept_from_zero(L::load(diagonal + (m - 1) * lanes) - shift);
  Reg p = gamma * gamma, sine = zero;  // squared
  for (int64_t i = m - 2; i >= l; --i) {
    const Reg square = L::load(squares + i * lanes), entry = L::load(diagonal + i * lanes);
    const Reg off = L::choose(L::above(square, negligible), square, zero);
    const Reg r = p + off, inverse = one / r, growth = r / p;
    if (i < m - 2) store(squares + (i + 1) * lanes, sine * r);
    sine = off * inverse;
    const Reg last = gamma;
    gamma = kept_from_zero((p * (entry - shift) - off * last) * inverse);
    store(diagonal + (i + 1) * lanes, last + (entry - gamma));
    p = gamma * gamma * growth;
  }
  store(squares + l * lanes, sine * p);
  store(diagonal + l * lanes, shift + gamma);
}

// diagonal [m, lanes] -> eigenvalues, descending and not negative; squares [m, lanes] are
// destroyed. By one thread.
template <class L>
PULLBACK_HD static inline void tridiagonal_eigenvalues(int64_t m, double* diagonal,
                                                       double* squares) {
  using Reg = typename L::Reg;
  constexpr int lanes = L::kLanes;
  const Reg zero = L::broadcast(0.0);
  Reg peak = zero;
  for (int64_t i = 0; i < m; ++i) peak = L::larger(peak, L::load(diagonal + i * lanes));
  const Reg negligible = L::broadcast(0x1p-106) * peak * peak;
  for (int64_t l = 0; l + 1 < m; ++l) {
    for (int sweep = 0; sweep < kTridiagonalMostSweeps; ++sweep) {
      const Reg square = L::load(squares + l * lanes);
      const typename L::Mask active = L::above(square, negligible);
      if (!L::any(active)) break;
      // Wilkinson's shift: the eigenvalue of the leading 2 x 2 block that is next to its first
      // entry.
      const Reg entry = L::load(diagonal + l * lanes);
      const Reg half = L::broadcast(0.5) * (L::load(diagonal + (l + 1) * lanes) - entry);
      const Reg root = L::root(L::fma(half, half, square));
      const Reg sum = L::choose(L::above(zero, half), half - root, half + root);
      tridiagonal_sweep<L>(l, m, diagonal, squares, entry - square / sum, active, negligible);
    }
  }
  for (int64_t i = 0; i < m; ++i) {
    Reg value = L::larger(L::load(diagonal + i * lanes), zero);
    for (int64_t j = 0; j < i; ++j) {
      const Reg other = L::load(diagonal + j * lanes);
      L::store(diagonal + j * lanes, L::larger(other, value));
      value = L::smaller(other, value);
    }
    L::store(diagonal + i * lanes, value);
  }
}

}  // namespace pullback
