// Who works on one small matrix: a single thread of the host, or all threads of a CUDA block or
// warp. The algorithms in this folder are written once, for a team: they share the work by rank()
// and size(), meet at PULLBACK_SYNC(team), and agree by any(), at which they meet as well.
#pragma once

#include "common/host_device.h"

// Where the team meets. Emulation (tests) numbers these places, to leave out each in turn.
#if !defined(PULLBACK_SYNC)
#define PULLBACK_SYNC(team) (team).sync()
#define PULLBACK_ANY(team, mine) (team).any(mine)
#endif

namespace pullback {

struct OneThread {
  PULLBACK_HD int rank() const { return 0; }
  PULLBACK_HD int size() const { return 1; }
  PULLBACK_HD void sync() const {}
  PULLBACK_HD bool any(bool mine) const { return mine; }
};

// How many threads share a row of a matrix: `most` in a team that has as many, else each thread has
// whole rows to itself.
template <class Team>
PULLBACK_HD inline int lanes_of(const Team& team, int most) {
  return team.size() >= most ? most : 1;
}

}  // namespace pullback
