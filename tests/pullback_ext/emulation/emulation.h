// Runs CUDA kernels on the host: included by csrc/cuda/launch.h in place of the CUDA runtime when
// PULLBACK_EMULATION is defined.
//
// One fiber per thread, one block after the other. A fiber runs until its next __syncthreads(); the
// order in which fibers run between two barriers is the schedule. Shared memory starts as NaN in
// every block and is followed by a guard zone. A kernel that is right gives the same bits under
// every schedule; one that lacks a barrier reads NaN or stale values under at least one of them.
// Not modelled: memory fences, warps in lock step, the order of rounding inside hardware units.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __syncthreads() emulation::barrier()
#define PULLBACK_SHARED(name) char* const name = emulation::block().shared
#define PULLBACK_LAUNCH(kernel, grid, threads, bytes, stream, ...) \
  (static_cast<void>(stream),                                      \
   emulation::launch((grid), (threads), (bytes), [&] { kernel(__VA_ARGS__); }))

struct Index {
  unsigned x = 0, y = 0, z = 0;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

enum Schedule { kAscending, kDescending, kWarpsShuffled, kSchedules };

constexpr size_t kStack = 128 * 1024, kGuard = 256, kWarp = 32;
constexpr unsigned char kPoison = 0xff;  // every float of these bytes is NaN

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(kStack);
  enum { kReady, kWaiting, kDone } state = kReady;
};

struct Block {
  ucontext_t scheduler;
  std::vector<Fiber> fibers;
  size_t running = 0;
  char* shared = nullptr;
  std::function<void()> kernel;
};

inline Schedule schedule = kAscending;
inline std::string error;       // of the last launch; empty when it went well
inline long long barriers = 0;  // passed by whole blocks since the start

inline Block& block() {
  static Block instance;
  return instance;
}

inline void barrier() {
  Block& b = block();
  Fiber& self = b.fibers[b.running];
  self.state = Fiber::kWaiting;
  swapcontext(&self.context, &b.scheduler);
}

inline void fiber_main() {
  Block& b = block();
  b.kernel();
  b.fibers[b.running].state = Fiber::kDone;
  swapcontext(&b.fibers[b.running].context, &b.scheduler);
}

// The order in which the fibers run up to their next barrier.
inline std::vector<size_t> order(size_t threads, long long phase) {
  std::vector<size_t> result;
  const size_t warps = (threads + kWarp - 1) / kWarp;
  for (size_t w = 0; w < warps; ++w) {
    // kWarpsShuffled: other warps lead after every barrier
    const size_t shift = schedule == kWarpsShuffled ? static_cast<size_t>(phase) * 3 + 1 : 0;
    const size_t warp = (w + shift) % warps;
    for (size_t t = warp * kWarp; t < std::min(threads, (warp + 1) * kWarp); ++t) {
      result.push_back(t);
    }
  }
  if (schedule == kDescending) std::reverse(result.begin(), result.end());
  return result;
}

inline bool run_block(unsigned threads) {
  Block& b = block();
  if (b.fibers.size() < threads) b.fibers = std::vector<Fiber>(threads);
  for (unsigned t = 0; t < threads; ++t) {
    Fiber& fiber = b.fibers[t];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    fiber.state = Fiber::kReady;
    makecontext(&fiber.context, fiber_main, 0);
  }
  for (long long phase = 0;; ++phase) {
    size_t waiting = 0, done = 0;
    for (const size_t t : order(threads, phase)) {
      b.running = t;
      threadIdx.x = static_cast<unsigned>(t);
      if (b.fibers[t].state == Fiber::kReady) swapcontext(&b.scheduler, &b.fibers[t].context);
    }
    for (unsigned t = 0; t < threads; ++t) {
      waiting += b.fibers[t].state == Fiber::kWaiting;
      done += b.fibers[t].state == Fiber::kDone;
    }
    if (done == threads) return true;
    if (waiting != threads) {
      error = "divergent barrier: " + std::to_string(waiting) + " of " + std::to_string(threads) +
              " threads wait, " + std::to_string(done) + " have left";
      return false;
    }
    ++barriers;
    for (unsigned t = 0; t < threads; ++t) b.fibers[t].state = Fiber::kReady;
  }
}

template <class Kernel>
void launch(unsigned grid, unsigned threads, size_t bytes, const Kernel& kernel) {
  error.clear();
  if (grid == 0 || threads == 0 || threads > 1024 || bytes > 48 * 1024) {
    error = "invalid launch configuration";
    return;
  }
  std::vector<char> memory(bytes + 2 * kGuard);
  char* const aligned = memory.data() + (16 - reinterpret_cast<uintptr_t>(memory.data()) % 16) % 16;
  Block& b = block();
  b.kernel = kernel;
  gridDim.x = grid;
  blockDim.x = threads;
  for (unsigned i = 0; i < grid && error.empty(); ++i) {
    blockIdx.x = i;
    std::memset(memory.data(), kPoison, memory.size());
    b.shared = aligned;
    if (!run_block(threads)) return;
    for (const char* p = aligned + bytes; p < memory.data() + memory.size(); ++p) {
      if (static_cast<unsigned char>(*p) != kPoison) error = "write behind shared memory";
    }
  }
}

}  // namespace emulation

// What the launchers use of the CUDA runtime.
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
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
