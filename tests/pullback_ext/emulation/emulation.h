// Runs CUDA kernels on the host: included by csrc/cuda/launch.h in place of the CUDA runtime when
// PULLBACK_EMULATION is defined.
//
// One fiber per thread, one block after the other, or, of a launch whose blocks meet, each up to
// its next meeting. A fiber runs until it must wait: at a barrier for its block, at a shuffle or a
// warp's barrier for its warp. The order in which fibers run is the schedule. Shared memory starts
// as NaN in every block and is followed by a guard zone. A kernel that is right gives the same bits
// under every schedule; one that lacks a barrier reads NaN or stale values under at least one of
// them. To prove that, every place where threads wait is numbered and can be left out. Threads that
// wait for others which never come are reported. Not modelled: memory fences, warps in lock step,
// the order of rounding inside hardware units.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define PULLBACK_SHARED(name) char* const name = emulation::block().shared
#define PULLBACK_MOST_BLOCKS emulation::most_blocks
#define PULLBACK_LAUNCH(kernel, grid, threads, bytes, stream, ...)                               \
  (static_cast<void>(stream),                                                                    \
   emulation::launch(#kernel, reinterpret_cast<const void*>(kernel), (grid), (threads), (bytes), \
                     [&] { kernel(__VA_ARGS__); }))
#define PULLBACK_LAUNCH_TOGETHER PULLBACK_LAUNCH

// The number of this place.
#define EMULATION_SITE                                                       \
  ([](const char* function) {                                                \
    static const int site = emulation::number(__FILE__, function, __LINE__); \
    return site;                                                             \
  }(__func__))
#define __syncthreads() emulation::barrier(EMULATION_SITE, false)
#define __syncthreads_or(mine) emulation::barrier(EMULATION_SITE, (mine))
#define atomicAdd(to, value) emulation::atomic_add((to), (value))
#define __syncwarp() emulation::warp_barrier(EMULATION_SITE)
#define PULLBACK_MEET(counter, target) emulation::meet(EMULATION_SITE, (counter), (target))
#define __shfl_xor_sync(mask, value, lanes) \
  emulation::shuffle_xor(EMULATION_SITE, (mask), (value), (lanes))
// The host compiler has no multiply-add to round it in one with.
#define __fmul_rn(x, y) ((x) * (y))
#define __dmul_rn(x, y) ((x) * (y))
// A team meets where the algorithm says so, not inside of the team.
#define PULLBACK_SYNC(team) \
  (emulation::called_from(EMULATION_SITE), (team).sync(), emulation::called_from(-1))
#define PULLBACK_ANY(team, mine) (emulation::called_from(EMULATION_SITE), (team).any(mine))

struct Index {
  unsigned x = 0, y = 0, z = 0;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

// kWarpSkewed: a warp runs ahead through its shuffles to its next barrier before the others start,
// and after every barrier another one leads.
enum Schedule { kAscending, kDescending, kWarpSkewed };

constexpr size_t kStack = 128 * 1024, kGuard = 256, kWarp = 32;
constexpr unsigned char kPoison = 0xff;  // every float of these bytes is NaN

struct Site {
  std::string file, function;
  int line;
  long long passed;  // by whole blocks or warps
};

// What a warp does at once, when all of its threads have come, with what each of them brought.
using Together = void (*)(void* const* parts);

struct Fiber {
  std::unique_ptr<char[]> stack{new char[kStack]};
  ucontext_t start;
  jmp_buf point;
  bool started = false;
  enum { kReady, kAtBarrier, kAtShuffle, kAtMeeting, kDone } state = kDone;
  int site = -1;
  uint64_t value = 0;  // what the thread brings to the others, then what it gets from them
  size_t partner = 0;  // at a shuffle: whose value
  void* part = nullptr;
  Together work = nullptr;  // nullptr at a shuffle
};

struct Block {
  unsigned index = 0;
  jmp_buf scheduler;
  std::vector<Fiber> fibers;
  size_t running = 0;
  std::vector<char> memory;  // shared memory and its guard zone
  char* shared = nullptr;
  std::function<void()> kernel;
  int* counter = nullptr;  // of the meeting at which the block is
  int target = 0;
};

inline Schedule schedule = kAscending;
inline std::string error;  // of the last launch; empty when it went well
inline std::vector<Site> sites;
inline int skipped = -1;  // the site at which nobody waits
inline int caller = -1;   // the site of the team's meeting, -1 outside
inline size_t shared_limit = 227 * 1024;
inline int64_t most_blocks = 3;  // so few that blocks must walk
inline int multiprocessors = 132;
inline bool recording = false;  // launches are written down and nothing runs
inline std::string launches;    // a line for each: kernel, grid, threads and shared memory
inline std::map<const void*, size_t> shared_allowed;  // by kernel; 48 KB where there is none

// Blocks are kept from launch to launch, for their stacks.
inline std::vector<std::unique_ptr<Block>> blocks;
inline Block* current = nullptr;

inline Block& block() {
  return *current;
}

inline int number(const char* path, const char* function, int line) {
  const char* slash = std::strrchr(path, '/');
  const std::string file = slash == nullptr ? path : slash + 1;
  for (size_t i = 0; i < sites.size(); ++i) {
    if (sites[i].file == file && sites[i].line == line) return static_cast<int>(i);
  }
  sites.push_back({file, function, line, 0});
  return static_cast<int>(sites.size()) - 1;
}

inline void called_from(int site) {
  caller = site;
}

// Back to the scheduler, until that resumes this fiber.
inline void leave(Fiber& self) {
  if (_setjmp(self.point) == 0) _longjmp(block().scheduler, 1);
}

inline int barrier(int site, bool mine) {
  if (caller >= 0) site = caller;
  caller = -1;
  if (site == skipped) return mine;
  Fiber& self = block().fibers[block().running];
  self.state = Fiber::kAtBarrier;
  self.site = site;
  self.value = mine;
  leave(self);
  return static_cast<int>(self.value);
}

inline int atomic_add(int* to, int value) {
  const int before = *to;
  *to += value;
  return before;
}

template <class T>
T shuffle_xor(int site, unsigned mask, T value, int lanes) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  if (mask != 0xffffffffu) error = "a shuffle of a part of a warp is not emulated";
  if (site == skipped) return value;
  Fiber& self = block().fibers[block().running];
  self.state = Fiber::kAtShuffle;
  self.site = site;
  self.partner = block().running ^ static_cast<size_t>(lanes);
  self.work = nullptr;
  std::memcpy(&self.value, &value, sizeof value);
  leave(self);
  std::memcpy(&value, &self.value, sizeof value);
  return value;
}

// A shuffle in which every thread gets what it gave.
inline void warp_barrier(int site) {
  if (caller >= 0) site = caller;
  caller = -1;
  if (site == skipped) return;
  Fiber& self = block().fibers[block().running];
  self.state = Fiber::kAtShuffle;
  self.site = site;
  self.partner = block().running;
  self.work = nullptr;
  leave(self);
}

// Nothing happens where nobody waits.
inline void do_together(int site, void* part, Together work) {
  if (site == skipped) return;
  Fiber& self = block().fibers[block().running];
  self.state = Fiber::kAtShuffle;
  self.site = site;
  self.partner = block().running;
  self.part = part;
  self.work = work;
  leave(self);
}

// Blocks of one launch wait until `counter` has come to `target`; each adds one.
inline void meet(int site, int* counter, int target) {
  Block& b = block();
  if (site == skipped) {
    if (b.running == 0) ++*counter;
    return;
  }
  Fiber& self = b.fibers[b.running];
  self.state = Fiber::kAtMeeting;
  self.site = site;
  b.counter = counter;
  b.target = target;
  leave(self);
}

inline void fiber_main() {
  for (;;) {
    Fiber& self = block().fibers[block().running];
    block().kernel();
    self.state = Fiber::kDone;
    leave(self);
  }
}

inline void resume(size_t thread) {
  Block& b = block();
  Fiber& fiber = b.fibers[thread];
  b.running = thread;
  threadIdx.x = static_cast<unsigned>(thread);
  if (_setjmp(b.scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.point, 1);
  fiber.started = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.get();
  fiber.start.uc_stack.ss_size = kStack;
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, fiber_main, 0);
  setcontext(&fiber.start);
}

// Whether all threads in begin .. end are in `state`, and at one site.
inline bool together(size_t begin, size_t end, int state) {
  const std::vector<Fiber>& fibers = block().fibers;
  for (size_t t = begin; t < end; ++t) {
    if (fibers[t].state != state || fibers[t].site != fibers[begin].site) return false;
  }
  return true;
}

// Lets a warp whose threads are all at one shuffle go on.
inline bool release_warp(size_t begin, size_t end) {
  if (!together(begin, end, Fiber::kAtShuffle)) return false;
  std::vector<Fiber>& fibers = block().fibers;
  if (fibers[begin].work != nullptr) {
    if (end - begin < kWarp) return false;  // all 32 lanes are needed
    void* parts[kWarp];
    for (size_t t = begin; t < end; ++t) parts[t - begin] = fibers[t].part;
    fibers[begin].work(parts);
  }
  uint64_t given[kWarp];
  for (size_t t = begin; t < end; ++t) given[t - begin] = fibers[t].value;
  for (size_t t = begin; t < end; ++t) {
    if (fibers[t].partner < end) fibers[t].value = given[fibers[t].partner - begin];
    fibers[t].state = Fiber::kReady;
  }
  ++sites[fibers[begin].site].passed;
  return true;
}

inline bool release_block(size_t threads) {
  if (!together(0, threads, Fiber::kAtBarrier)) return false;
  uint64_t any = 0;
  for (size_t t = 0; t < threads; ++t) any |= block().fibers[t].value;
  for (size_t t = 0; t < threads; ++t) {
    block().fibers[t].value = any;
    block().fibers[t].state = Fiber::kReady;
  }
  ++sites[block().fibers[0].site].passed;
  return true;
}

// Every ready thread of a warp runs until it waits; returns whether the warp may go on at once.
inline bool run_warp(size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) {
    const size_t t = schedule == kDescending ? begin + end - 1 - i : i;
    if (block().fibers[t].state == Fiber::kReady) resume(t);
  }
  return release_warp(begin, end);
}

// All threads up to the next barrier.
inline void run_phase(size_t threads, size_t phase) {
  const size_t warps = (threads + kWarp - 1) / kWarp;
  for (bool ready = true; ready;) {
    ready = false;
    for (size_t i = 0; i < warps; ++i) {
      size_t warp = schedule == kDescending ? warps - 1 - i : i;
      if (schedule == kWarpSkewed) warp = (i + 3 * phase + 1) % warps;
      const size_t begin = warp * kWarp, end = std::min(threads, begin + kWarp);
      bool more = run_warp(begin, end);
      while (schedule == kWarpSkewed && more) more = run_warp(begin, end);
      ready = ready || more;
    }
  }
}

inline std::string where_threads_are(size_t threads) {
  size_t done = 0;
  std::map<std::string, size_t> waiting;
  for (size_t t = 0; t < threads; ++t) {
    const Fiber& fiber = block().fibers[t];
    if (fiber.state == Fiber::kDone) {
      ++done;
    } else {
      const Site& site = sites[fiber.site];
      ++waiting[site.file + ":" + std::to_string(site.line)];
    }
  }
  std::string text = "threads wait for ever:";
  for (const auto& [place, count] : waiting) {
    text += " " + std::to_string(count) + " at " + place + ",";
  }
  return text + " " + std::to_string(done) + " of " + std::to_string(threads) + " have left";
}

// What became of a block: its threads have left, are at a meeting, or wait for ever.
enum Outcome { kLeft, kMeets, kStuck };

inline Outcome run_block(Block& b, size_t threads) {
  current = &b;
  blockIdx.x = b.index;
  for (size_t phase = 0;; ++phase) {
    run_phase(threads, phase);
    if (release_block(threads)) continue;
    size_t done = 0;
    for (size_t t = 0; t < threads; ++t) done += b.fibers[t].state == Fiber::kDone;
    if (done == threads) return kLeft;
    if (together(0, threads, Fiber::kAtMeeting)) return kMeets;
    error = where_threads_are(threads);
    b.fibers.clear();  // they will never end
    return kStuck;
  }
}

template <class Kernel>
void start_block(Block& b, unsigned index, size_t threads, size_t bytes, const Kernel& kernel) {
  b.index = index;
  b.kernel = kernel;
  b.counter = nullptr;
  b.memory.assign(bytes + 2 * kGuard, static_cast<char>(kPoison));
  b.shared = b.memory.data() + (16 - reinterpret_cast<uintptr_t>(b.memory.data()) % 16) % 16;
  if (b.fibers.size() < threads) b.fibers = std::vector<Fiber>(threads);
  for (size_t t = 0; t < threads; ++t) b.fibers[t].state = Fiber::kReady;
}

// All blocks up to their next meeting, or to their end; returns whether any still meets.
inline bool run_blocks(std::vector<Block*>& running, size_t threads, size_t bytes) {
  std::vector<Block*> meeting;
  for (size_t i = 0; i < running.size() && error.empty(); ++i) {
    Block& b = *running[schedule == kDescending ? running.size() - 1 - i : i];
    const Outcome outcome = run_block(b, threads);
    if (outcome == kMeets) {
      ++*b.counter;
      meeting.push_back(&b);
    }
    for (const char* p = b.shared + bytes; p < b.memory.data() + b.memory.size(); ++p) {
      if (static_cast<unsigned char>(*p) != kPoison) error = "write behind shared memory";
    }
  }
  std::sort(meeting.begin(), meeting.end(),
            [](const Block* x, const Block* y) { return x->index < y->index; });
  running = meeting;
  return !running.empty() && error.empty();
}

// Lets the blocks go on whose meeting is complete; the others stay in `waiting`.
inline std::vector<Block*> release_meetings(std::vector<Block*>& waiting, size_t threads) {
  std::vector<Block*> released, kept;
  for (Block* b : waiting) {
    const bool complete = *b->counter >= b->target;
    (complete ? released : kept).push_back(b);
    if (complete) ++sites[b->fibers[0].site].passed;
    for (size_t t = 0; t < threads && complete; ++t) b->fibers[t].state = Fiber::kReady;
  }
  waiting = kept;
  return released;
}

template <class Kernel>
void launch(const char* name, const void* id, unsigned grid, unsigned threads, size_t bytes,
            const Kernel& kernel) {
  error.clear();
  caller = -1;  // a team of one thread may have left it
  const auto allowed = shared_allowed.find(id);
  const size_t most = allowed == shared_allowed.end() ? 48 * 1024 : allowed->second;
  if (grid == 0 || threads == 0 || threads > 1024 || bytes > most) {
    error = "invalid launch configuration";
    return;
  }
  if (recording) {
    const char* const begin = name + std::strspn(name, "(");
    launches += std::string(begin, std::strcspn(begin, "<)")) + " " + std::to_string(grid) + " " +
                std::to_string(threads) + " " + std::to_string(bytes) + "\n";
    return;
  }
  gridDim.x = grid;
  blockDim.x = threads;
  std::vector<Block*> waiting;  // those that are at a meeting
  size_t used = 0;              // blocks with stacks
  for (unsigned i = 0; i < grid && error.empty(); ++i) {
    const unsigned index = schedule == kDescending ? grid - 1 - i : i;
    if (blocks.size() <= used) blocks.push_back(std::make_unique<Block>());
    Block& b = *blocks[used];
    start_block(b, index, threads, bytes, kernel);
    std::vector<Block*> one{&b};
    if (run_blocks(one, threads, bytes)) {
      waiting.push_back(&b);
      ++used;  // its stacks are in use
    }
  }
  while (!waiting.empty() && error.empty()) {
    std::vector<Block*> released = release_meetings(waiting, threads);
    if (released.empty()) error = "blocks wait for ever at a meeting";
    run_blocks(released, threads, bytes);
    waiting.insert(waiting.end(), released.begin(), released.end());
  }
  if (!error.empty()) blocks.clear();  // some will never end
}

}  // namespace emulation

// What the launchers use of the CUDA runtime.
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
constexpr int cudaFuncAttributeMaxDynamicSharedMemorySize = 8;
constexpr int cudaDevAttrMaxSharedMemoryPerBlockOptin = 97;
constexpr int cudaDevAttrMultiProcessorCount = 16;
inline cudaError_t cudaGetLastError() {
  return emulation::error.empty() ? 0 : 1;
}
inline const char* cudaGetErrorString(cudaError_t) {
  return emulation::error.c_str();
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) {
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? emulation::multiprocessors
                                                       : static_cast<int>(emulation::shared_limit);
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, int, int bytes) {
  if (static_cast<size_t>(bytes) > emulation::shared_limit) {
    emulation::error = "more shared memory than the device has";
    return 1;
  }
  emulation::shared_allowed[reinterpret_cast<const void*>(kernel)] = static_cast<size_t>(bytes);
  return cudaSuccess;
}
