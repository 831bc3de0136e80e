#include "cpu/orthonormalize.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>
#include <numeric>
#include <stdexcept>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "common/parallel.h"
#include "cpu/isa.h"
#include "cpu/orthonormalize_items.h"
#include "cpu/panel.h"
#include "numerics/ladder.h"

namespace pullback::cpu {
namespace {

using Worker = void (*)(const OrthonormalizeRung&, int64_t begin, int64_t end, char* scratch);

Worker worker() {
  switch (isa_in_use()) {
#if defined(__x86_64__)
    case Isa::kAvx512:
      return orthonormalize_items_avx512;
    case Isa::kAvx2:
      return orthonormalize_items_avx2;
#else
    case Isa::kPortable:
      return orthonormalize_items_portable;
#endif
    default:
      throw std::runtime_error(
          "orthonormalize: expected a processor with AVX2, FMA and F16C, got an older one");
  }
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};
template <class T>
using Array = std::unique_ptr<T[], Free>;

// Not set to anything, aligned to a cache line.
template <class T>
Array<T> allocate(int64_t count) {
  const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
  Array<T> memory(static_cast<T*>(std::aligned_alloc(64, bytes)));
  if (!memory) throw std::bad_alloc();
  return memory;
}

template <class T>
bool row_is_finite(const Rows& rows, int64_t sample, int64_t row, int64_t columns) {
  const T* const from =
      static_cast<const T*>(rows.data) + sample * rows.batch_stride + row * rows.row_stride;
  for (int64_t c = 0; c < columns; ++c) {
    if (!std::isfinite(from[c * rows.column_stride])) return false;
  }
  return true;
}

// A multiply-add of the k x k work costs as much as this many of the block work.
constexpr int64_t kScalar = 8;

// Samples are worked on a group at a time: what this many bytes per thread hold of their blocks is
// still in the cache on the next rung.
constexpr int64_t kGroupBytes = 4 << 20;

// The blocks of all samples on their way up the ladder.
class Climb {
 public:
  explicit Climb(const OrthonormalizeParams& params);

  // The first products of samples first .. first + count, and the exponents of their rows; finds
  // what is not finite in the block.
  NotFinite start(int64_t first, int64_t count);
  // The same samples, to the top; finds what is not finite in `against`.
  NotFinite finish();
  // Samples to start and finish together.
  int64_t group() const;

 private:
  // Block work: the rung's transform and the next products, or the first products (rung 0).
  void pass(int rung);
  // k x k work of a rung.
  void step(int rung);
  template <class Real>
  void step(int64_t sample, int rung, double* scratch);
  void sum_parts(int64_t sample, int rung);
  NotFinite check_against() const;

  const OrthonormalizeParams& params_;
  const Worker worker_;
  const int64_t k_, p_;
  const int64_t bytes_;  // of an entry of q
  const Products layout_;
  std::vector<int64_t> samples_;    // those at work
  std::vector<int> part_exponent_;  // [B, splits, k]
  std::vector<int> exponent_;       // [B, k]
  std::vector<double> distance_;    // [B, k]
  Array<bool> last_;                // [B] nothing to do after this pass
  Array<bool> suspect_;             // [B] the products with `against` are not finite
  Array<bool> fresh_;               // [B, k]
  Array<double> products_;          // [B, splits, layout.entries]
  Array<char> transform_;           // [B, k, k + p] in the dtype of q
};

Climb::Climb(const OrthonormalizeParams& params)
    : params_(params),
      worker_(worker()),
      k_(params.block.rows),
      p_(params.against_rows()),
      bytes_(params.work == Dtype::kFloat64 ? 8 : 4),
      layout_{ladder_pitch(k_), k_ * ladder_pitch(k_), k_ * (ladder_pitch(k_) + p_)},
      part_exponent_(params.batch * params.splits.count * k_),
      exponent_(params.batch * k_),
      distance_(params.batch * k_),
      last_(allocate<bool>(params.batch)),
      suspect_(allocate<bool>(params.batch)),
      fresh_(allocate<bool>(params.batch * k_)),
      products_(allocate<double>(params.batch * params.splits.count * layout_.entries)),
      transform_(allocate<char>(params.batch * k_ * (k_ + p_) * bytes_)) {
  std::fill_n(last_.get(), params.batch, false);
}

int64_t Climb::group() const {
  const int64_t most = kGroupBytes * torch::stable::get_num_threads();
  return std::max<int64_t>(1, most / (k_ * params_.columns * bytes_));
}

NotFinite Climb::start(int64_t first, int64_t count) {
  samples_.resize(count);
  std::iota(samples_.begin(), samples_.end(), first);
  pass(0);
  const int64_t parts = params_.splits.count;
  for (int64_t row = first * k_; row < (first + count) * k_; ++row) {
    const int* const own = part_exponent_.data() + row / k_ * parts * k_ + row % k_;
    int largest = own[0];
    for (int64_t part = 1; part < parts; ++part) largest = std::max(largest, own[part * k_]);
    if (largest == kNotFinite) return {true, false, row / k_, row % k_};
    exponent_[row] = largest == kZeroRow ? 0 : largest;
  }
  return {};
}

void Climb::pass(int rung) {
  const OrthonormalizeRung work{&params_,
                                rung,
                                samples_.data(),
                                last_.get(),
                                part_exponent_.data(),
                                exponent_.data(),
                                transform_.get(),
                                fresh_.get(),
                                layout_,
                                products_.get()};
  const int64_t cost = k_ * (k_ + p_) * std::min(params_.splits.columns, params_.columns);
  const int64_t bytes = (2 * k_ + p_) * kPitchBytes + k_ * (k_ + p_) * kMostSums * 8;
  parallel_for(
      static_cast<int64_t>(samples_.size()) * params_.splits.count, cost,
      [&](int64_t begin, int64_t end) { worker_(work, begin, end, allocate<char>(bytes).get()); });
}

// Into those of the first part. The first products (for rung 1) are of rows that each part has
// scaled for itself.
void Climb::sum_parts(int64_t sample, int rung) {
  const int64_t parts = params_.splits.count;
  double* const sum = products_.get() + sample * parts * layout_.entries;
  std::vector<double> factor(k_, 1.0);
  for (int64_t part = 0; part < parts && parts > 1; ++part) {
    const int* const own = part_exponent_.data() + (sample * parts + part) * k_;
    const int* const common = exponent_.data() + sample * k_;
    for (int64_t i = 0; i < k_ && rung == 1; ++i) {
      factor[i] = own[i] == kZeroRow ? 0.0 : std::ldexp(1.0, own[i] - common[i]);
    }
    const double* const from = sum + part * layout_.entries;
    const auto add = [&](int64_t at, double x) { sum[at] = part == 0 ? x : sum[at] + x; };
    for (int64_t i = 0; i < k_; ++i) {
      for (int64_t j = 0, at = i * layout_.pitch; j <= i; ++j, ++at) {
        add(at, from[at] * factor[i] * factor[j]);
      }
      for (int64_t l = 0, at = layout_.h + i * p_; l < p_; ++l, ++at) add(at, from[at] * factor[i]);
    }
  }
}

template <class Real>
void Climb::step(int64_t sample, int rung, double* scratch) {
  sum_parts(sample, rung);
  double* const products = products_.get() + sample * params_.splits.count * layout_.entries;
  const double* const h = products + layout_.h;
  if (rung == 1) {
    suspect_[sample] = !std::all_of(h, h + k_ * p_, [](double x) { return std::isfinite(x); });
  }
  const bool account = params_.residual != nullptr;
  const Ladder ladder{k_,
                      p_,
                      products,
                      layout_.pitch,
                      h,
                      scratch,
                      distance_.data() + sample * k_,
                      fresh_.get() + sample * k_,
                      params_.replaced + sample * k_,
                      account ? params_.residual + sample * k_ * k_ : nullptr,
                      account ? params_.projection + sample * p_ * k_ : nullptr};
  if (rung == 1) ladder_start(OneThread{}, ladder, exponent_.data() + sample * k_);
  Real* const transform = reinterpret_cast<Real*>(transform_.get()) + sample * k_ * (k_ + p_);
  last_[sample] = ladder_rung(OneThread{}, ladder, rung, transform);
  if (!last_[sample]) return;
  params_.passes[sample] = rung;
  params_.rank[sample] = std::count(ladder.replaced, ladder.replaced + k_, false);
}

void Climb::step(int rung) {
  const int64_t cost = kScalar * k_ * k_ * (k_ + p_) + params_.splits.count * layout_.entries;
  parallel_for(static_cast<int64_t>(samples_.size()), cost, [&](int64_t begin, int64_t end) {
    const Array<double> scratch = allocate<double>(kLadderScratch * k_);
    for (int64_t i = begin; i < end; ++i) {
      if (params_.work == Dtype::kFloat64) {
        step<double>(samples_[i], rung, scratch.get());
      } else {
        step<float>(samples_[i], rung, scratch.get());
      }
    }
  });
}

NotFinite Climb::check_against() const {
  for (const int64_t sample : samples_) {
    int64_t row = 0;
    for (const Rows& rows : params_.against) {
      for (int64_t i = 0; suspect_[sample] && i < rows.rows; ++i, ++row) {
        const bool finite = params_.work == Dtype::kFloat64
                                ? row_is_finite<double>(rows, sample, i, params_.columns)
                                : row_is_finite<float>(rows, sample, i, params_.columns);
        if (!finite) return {true, true, sample, row};
      }
    }
  }
  return {};
}

NotFinite Climb::finish() {
  for (int rung = 1; !samples_.empty(); ++rung) {
    step(rung);
    if (rung == 1) {
      const NotFinite in_against = check_against();
      if (in_against.found) return in_against;
    }
    pass(rung);
    std::erase_if(samples_, [&](int64_t sample) { return last_[sample]; });
  }
  return {};
}

// Asks for huge pages under a large result that nobody has touched yet: a page fault for every 4
// KiB of it takes longer than the work does.
void prefer_huge_pages(void* data, size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t huge = 2 << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + huge - 1) / huge * huge;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / huge * huge;
  // It is advice: a system that does not take it loses nothing.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace

NotFinite orthonormalize(const OrthonormalizeParams& params) {
  Climb climb(params);
  const size_t bytes = params.work == Dtype::kFloat64 ? 8 : 4;
  prefer_huge_pages(params.q, params.batch * params.block.rows * params.columns * bytes);
  NotFinite in_against{};
  const int64_t group = climb.group();
  for (int64_t first = 0; first < params.batch; first += group) {
    const NotFinite in_block = climb.start(first, std::min(group, params.batch - first));
    if (in_block.found) return in_block;
    if (!in_against.found) in_against = climb.finish();
  }
  return in_against;
}

}  // namespace pullback::cpu
