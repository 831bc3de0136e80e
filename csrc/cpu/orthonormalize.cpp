#include "cpu/orthonormalize.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

#include "common/parallel.h"
#include "cpu/isa.h"
#include "cpu/orthonormalize_items.h"
#include "cpu/panel.h"
#include "numerics/half.h"
#include "numerics/ladder.h"

namespace pullback::cpu {
namespace {

struct Workers {
  void (*peaks)(const OrthonormalizeParams&, int64_t begin, int64_t end, int64_t* peaks);
  void (*items)(const OrthonormalizeRung&, int64_t begin, int64_t end, char* scratch);
};

Workers workers() {
  switch (isa_in_use()) {
#if defined(__x86_64__)
    case Isa::kAvx512:
      return {orthonormalize_peaks_avx512, orthonormalize_items_avx512};
    case Isa::kAvx2:
      return {orthonormalize_peaks_avx2, orthonormalize_items_avx2};
#else
    case Isa::kPortable:
      return {orthonormalize_peaks_portable, orthonormalize_items_portable};
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

// A magnitude that was compared as bits, as a number.
double number_of(Dtype dtype, int64_t bits) {
  switch (dtype) {
    case Dtype::kFloat64: {
      double number;
      std::memcpy(&number, &bits, sizeof number);
      return number;
    }
    case Dtype::kFloat32:
      return detail::float_of_bits(static_cast<uint32_t>(bits));
    case Dtype::kFloat16:
      return widen(Half{static_cast<uint16_t>(bits)});
    default:
      return widen(BFloat16{static_cast<uint16_t>(bits)});
  }
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

// The blocks of all samples on their way up the ladder.
class Climb {
 public:
  explicit Climb(const OrthonormalizeParams& params);

  // Fills in the exponents; finds what is not finite in the block.
  NotFinite measure();
  // Block work with the rung's transform, or the first products (rung 0).
  void pass(int rung);
  // The k x k work of a rung; samples that are done with it are marked.
  void step(int rung);
  // Samples whose block has been written for the last time leave.
  void leave();
  bool climbing() const { return !samples_.empty(); }
  // Finds what is not finite in `against`, after the first step.
  NotFinite check_against() const;

 private:
  template <class Real>
  void step(int64_t sample, int rung, double* scratch);
  void sum_parts(double* products) const;

  const OrthonormalizeParams& params_;
  const Workers workers_;
  const int64_t k_, p_;
  const Products layout_;
  std::vector<int64_t> samples_;  // still climbing
  std::vector<int> exponent_;     // [B, k]
  std::vector<double> distance_;  // [B, k]
  Array<bool> last_, suspect_;    // [B] done after this rung; not finite against P
  Array<bool> fresh_;             // [B, k]
  Array<double> products_;        // [B, splits, layout.entries]
  Array<char> transform_;         // [B, k, k + p] in the dtype of q
};

Climb::Climb(const OrthonormalizeParams& params)
    : params_(params),
      workers_(workers()),
      k_(params.block.rows),
      p_(params.against_rows()),
      layout_{ladder_pitch(k_), k_ * ladder_pitch(k_), k_ * (ladder_pitch(k_) + p_)},
      samples_(params.batch),
      exponent_(params.batch * k_),
      distance_(params.batch * k_),
      last_(allocate<bool>(params.batch)),
      suspect_(allocate<bool>(params.batch)),
      fresh_(allocate<bool>(params.batch * k_)),
      products_(allocate<double>(params.batch * params.splits.count * layout_.entries)),
      transform_(allocate<char>(params.batch * k_ * (k_ + p_) *
                                (params.work == Dtype::kFloat64 ? 8 : 4))) {
  for (int64_t sample = 0; sample < params.batch; ++sample) {
    samples_[sample] = sample;
    last_[sample] = suspect_[sample] = false;
  }
}

NotFinite Climb::measure() {
  const int64_t parts = params_.splits.count;
  std::vector<int64_t> peaks(params_.batch * parts * k_);
  parallel_for(
      params_.batch * parts, k_ * std::min(params_.splits.columns, params_.columns),
      [&](int64_t begin, int64_t end) { workers_.peaks(params_, begin, end, peaks.data()); });
  for (int64_t row = 0; row < params_.batch * k_; ++row) {
    const int64_t sample = row / k_;
    const int64_t* const first = peaks.data() + sample * parts * k_ + row % k_;
    int64_t bits = 0;
    for (int64_t part = 0; part < parts; ++part) bits = std::max(bits, first[part * k_]);
    const double peak = number_of(params_.dtype, bits);
    if (!std::isfinite(peak)) return {true, false, sample, row % k_};
    exponent_[row] = peak > 0.0 ? std::ilogb(peak) : 0;
  }
  return {};
}

void Climb::pass(int rung) {
  const OrthonormalizeRung work{
      &params_,         rung,         samples_.data(), last_.get(),    exponent_.data(),
      transform_.get(), fresh_.get(), layout_,         products_.get()};
  const int64_t cost = k_ * (k_ + p_) * std::min(params_.splits.columns, params_.columns);
  const int64_t bytes = (2 * k_ + p_) * kPitchBytes + k_ * (k_ + p_) * kMostSums * 8;
  parallel_for(static_cast<int64_t>(samples_.size()) * params_.splits.count, cost,
               [&](int64_t begin, int64_t end) {
                 workers_.items(work, begin, end, allocate<char>(bytes).get());
               });
}

void Climb::sum_parts(double* products) const {
  for (int64_t part = 1; part < params_.splits.count; ++part) {
    const double* const other = products + part * layout_.entries;
    for (int64_t e = 0; e < layout_.entries; ++e) products[e] += other[e];
  }
}

template <class Real>
void Climb::step(int64_t sample, int rung, double* scratch) {
  double* const products = products_.get() + sample * params_.splits.count * layout_.entries;
  sum_parts(products);
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
    const Array<double> scratch = allocate<double>(4 * k_);
    for (int64_t i = begin; i < end; ++i) {
      if (params_.work == Dtype::kFloat64) {
        step<double>(samples_[i], rung, scratch.get());
      } else {
        step<float>(samples_[i], rung, scratch.get());
      }
    }
  });
}

void Climb::leave() {
  std::erase_if(samples_, [&](int64_t sample) { return last_[sample]; });
}

NotFinite Climb::check_against() const {
  for (int64_t sample = 0; sample < params_.batch; ++sample) {
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

}  // namespace

NotFinite orthonormalize(const OrthonormalizeParams& params) {
  Climb climb(params);
  const NotFinite in_block = climb.measure();
  if (in_block.found) return in_block;
  climb.pass(0);
  for (int rung = 1; climb.climbing(); ++rung) {
    climb.step(rung);
    if (rung == 1) {
      const NotFinite in_against = climb.check_against();
      if (in_against.found) return in_against;
    }
    climb.pass(rung);
    climb.leave();
  }
  return {};
}

}  // namespace pullback::cpu
