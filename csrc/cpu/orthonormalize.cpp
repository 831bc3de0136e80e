#include "cpu/orthonormalize.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "common/parallel.h"
#include "cpu/allocate.h"
#include "cpu/huge_pages.h"
#include "cpu/isa.h"
#include "cpu/orthonormalize_pass.h"
#include "numerics/cholesky_qr.h"

namespace pullback::cpu {
namespace {

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
constexpr int64_t kScalarCost = 8;

// Samples are worked on a group at a time: what this many bytes per thread hold of their blocks is
// still in the cache on the next pass.
constexpr int64_t kGroupBytes = 4 << 20;

constexpr Version<PassItems> kVersions[] = {
#if defined(__x86_64__)
    {Isa::kAvx512, orthonormalize_items_avx512},
    {Isa::kAvx2, orthonormalize_items_avx2},
#else
    {Isa::kPortable, orthonormalize_items_portable},
#endif
};

// Makes the blocks of all samples orthonormal, a group of them after the other.
class Orthonormalizer {
 public:
  explicit Orthonormalizer(const OrthonormalizeParams& params);

  // The first products of samples first .. first + count, and the exponents of their rows; finds
  // what is not finite in the block.
  NotFinite start(int64_t first, int64_t count);
  // All passes of the same samples; finds what is not finite in `against`.
  NotFinite finish();
  // Samples to start and finish together.
  int64_t group_size() const;

 private:
  // The k x k part of a pass.
  void factor(int pass);
  template <class Real>
  void factor(int64_t sample, int pass, double* scratch);
  void sum_parts(int64_t sample, int pass);
  // The block work of a pass: its transform and the next products, or the first products (pass 0).
  void apply_and_multiply(int pass);
  NotFinite check_against() const;

  const OrthonormalizeParams& params_;
  PassItems* const pass_items_;
  const int64_t k_, p_;
  const int64_t bytes_;  // of an entry of q
  const ProductLayout layout_;
  std::vector<int64_t> samples_;     // of the group, those that need another pass
  std::vector<int> part_exponent_;   // [B, splits, k]
  std::vector<int> exponent_;        // [B, k]
  std::vector<double> distance_;     // [B, k]
  Array<bool> last_;                 // [B] the pass at work is the last
  Array<bool> products_are_finite_;  // [B] those with `against`
  Array<bool> given_up_;             // [B, k]
  Array<double> products_;           // [B, splits, layout.entries]
  Array<char> transform_;            // [B, k, k + p] in the dtype of q
};

Orthonormalizer::Orthonormalizer(const OrthonormalizeParams& params)
    : params_(params),
      pass_items_(version_in_use("orthonormalize", kVersions)),
      k_(params.block.rows),
      p_(against_rows(params)),
      bytes_(params.working_dtype == Dtype::kFloat64 ? 8 : 4),
      layout_{odd_pitch(k_), k_ * odd_pitch(k_), k_ * (odd_pitch(k_) + p_)},
      part_exponent_(params.batch * params.splits.count * k_),
      exponent_(params.batch * k_),
      distance_(params.batch * k_),
      last_(allocate<bool>(params.batch)),
      products_are_finite_(allocate<bool>(params.batch)),
      given_up_(allocate<bool>(params.batch * k_)),
      products_(allocate<double>(params.batch * params.splits.count * layout_.entries)),
      transform_(allocate<char>(params.batch * k_ * (k_ + p_) * bytes_)) {
  std::fill_n(last_.get(), params.batch, false);
}

int64_t Orthonormalizer::group_size() const {
  const int64_t most = kGroupBytes * torch::stable::get_num_threads();
  return std::max<int64_t>(1, most / (k_ * params_.columns * bytes_));
}

NotFinite Orthonormalizer::start(int64_t first, int64_t count) {
  samples_.resize(count);
  std::iota(samples_.begin(), samples_.end(), first);
  apply_and_multiply(0);
  const int64_t parts = params_.splits.count;
  for (int64_t row = first * k_; row < (first + count) * k_; ++row) {
    const int* const of_parts = part_exponent_.data() + row / k_ * parts * k_ + row % k_;
    int largest = of_parts[0];
    for (int64_t part = 1; part < parts; ++part) largest = std::max(largest, of_parts[part * k_]);
    if (largest == kNotFinite) return {true, false, row / k_, row % k_};
    exponent_[row] = largest == kZeroRow ? 0 : largest;
  }
  return {};
}

void Orthonormalizer::apply_and_multiply(int pass) {
  const OrthonormalizePass work{&params_,
                                pass,
                                samples_.data(),
                                last_.get(),
                                part_exponent_.data(),
                                exponent_.data(),
                                transform_.get(),
                                given_up_.get(),
                                layout_,
                                products_.get()};
  const int64_t cost = k_ * (k_ + p_) * std::min(params_.splits.columns, params_.columns);
  const int64_t items = static_cast<int64_t>(samples_.size()) * params_.splits.count;
  parallel_for(items, cost, [&](int64_t begin, int64_t end) {
    pass_items_(work, begin, end, allocate<char>(pass_scratch_bytes(k_, p_)).get());
  });
}

// Into those of the first part. The first products (for pass 1) are of rows that each part has
// scaled for itself.
void Orthonormalizer::sum_parts(int64_t sample, int pass) {
  const int64_t parts = params_.splits.count;
  double* const sum = products_.get() + sample * parts * layout_.entries;
  std::vector<double> scale(k_, 1.0);
  for (int64_t part = 0; part < parts && parts > 1; ++part) {
    const int* const of_part = part_exponent_.data() + (sample * parts + part) * k_;
    const int* const of_row = exponent_.data() + sample * k_;
    for (int64_t i = 0; i < k_ && pass == 1; ++i) {
      scale[i] = of_part[i] == kZeroRow ? 0.0 : std::ldexp(1.0, of_part[i] - of_row[i]);
    }
    const double* const from = sum + part * layout_.entries;
    const auto add = [&](int64_t at, double x) { sum[at] = part == 0 ? x : sum[at] + x; };
    for (int64_t i = 0; i < k_; ++i) {
      for (int64_t j = 0, at = i * layout_.pitch; j <= i; ++j, ++at) {
        add(at, from[at] * scale[i] * scale[j]);
      }
      for (int64_t l = 0, at = layout_.h + i * p_; l < p_; ++l, ++at) add(at, from[at] * scale[i]);
    }
  }
}

template <class Real>
void Orthonormalizer::factor(int64_t sample, int pass, double* scratch) {
  sum_parts(sample, pass);
  double* const products = products_.get() + sample * params_.splits.count * layout_.entries;
  const double* const h = products + layout_.h;
  if (pass == 1) {
    products_are_finite_[sample] =
        std::all_of(h, h + k_ * p_, [](double x) { return std::isfinite(x); });
  }
  const bool accumulate = params_.residual != nullptr;
  const CholeskyQr state{k_,
                         p_,
                         products,
                         layout_.pitch,
                         h,
                         p_,
                         scratch,
                         distance_.data() + sample * k_,
                         given_up_.get() + sample * k_,
                         params_.replaced + sample * k_,
                         accumulate ? params_.residual + sample * k_ * k_ : nullptr,
                         accumulate ? params_.projection + sample * p_ * k_ : nullptr};
  if (pass == 1) cholesky_qr_start(OneThread{}, state, exponent_.data() + sample * k_);
  Real* const transform = reinterpret_cast<Real*>(transform_.get()) + sample * k_ * (k_ + p_);
  last_[sample] = cholesky_qr_pass(OneThread{}, state, pass, transform);
  if (!last_[sample]) return;
  params_.passes[sample] = pass;
  params_.rank[sample] = std::count(state.replaced, state.replaced + k_, false);
}

void Orthonormalizer::factor(int pass) {
  const int64_t cost = kScalarCost * k_ * k_ * (k_ + p_) + params_.splits.count * layout_.entries;
  parallel_for(static_cast<int64_t>(samples_.size()), cost, [&](int64_t begin, int64_t end) {
    const Array<double> scratch = allocate<double>(kCholeskyQrScratch * k_);
    for (int64_t i = begin; i < end; ++i) {
      if (params_.working_dtype == Dtype::kFloat64) {
        factor<double>(samples_[i], pass, scratch.get());
      } else {
        factor<float>(samples_[i], pass, scratch.get());
      }
    }
  });
}

NotFinite Orthonormalizer::check_against() const {
  for (const int64_t sample : samples_) {
    if (products_are_finite_[sample]) continue;
    int64_t row = 0;
    for (const Rows& rows : params_.against) {
      for (int64_t i = 0; i < rows.rows; ++i, ++row) {
        const bool finite = params_.working_dtype == Dtype::kFloat64
                                ? row_is_finite<double>(rows, sample, i, params_.columns)
                                : row_is_finite<float>(rows, sample, i, params_.columns);
        if (!finite) return {true, true, sample, row};
      }
    }
  }
  return {};
}

NotFinite Orthonormalizer::finish() {
  for (int pass = 1; !samples_.empty(); ++pass) {
    factor(pass);
    if (pass == 1) {
      const NotFinite in_against = check_against();
      if (in_against.found) return in_against;
    }
    apply_and_multiply(pass);
    std::erase_if(samples_, [&](int64_t sample) { return last_[sample]; });
  }
  return {};
}

}  // namespace

NotFinite orthonormalize(const OrthonormalizeParams& params) {
  Orthonormalizer orthonormalizer(params);
  const size_t bytes = params.working_dtype == Dtype::kFloat64 ? 8 : 4;
  prefer_huge_pages(params.q, params.batch * params.block.rows * params.columns * bytes);
  NotFinite in_against{};
  const int64_t group = orthonormalizer.group_size();
  for (int64_t first = 0; first < params.batch; first += group) {
    const NotFinite in_block = orthonormalizer.start(first, std::min(group, params.batch - first));
    if (in_block.found) return in_block;
    if (!in_against.found) in_against = orthonormalizer.finish();
  }
  return in_against;
}

}  // namespace pullback::cpu
