// gram for AVX-512: 32 vector registers hold a tile of 6 x 4 sums, 4 columns and 1 row.
#include <immintrin.h>

#include "cpu/gram_kernel.h"

namespace pullback::cpu {
namespace {

struct Float16 {
  using Real = float;
  using Reg = __m512;
  static constexpr int kLanes = 16, kRows = 6, kCols = 4, kSums = 8;
  static Reg zero() { return _mm512_setzero_ps(); }
  static Reg load(const float* p) { return _mm512_load_ps(p); }
  static Reg fma(Reg x, Reg y, Reg acc) { return _mm512_fmadd_ps(x, y, acc); }
  static void flush(Reg acc, double* sums, bool first) {
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(acc));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(acc, 1));
    __m512d sum = _mm512_add_pd(low, high);
    if (!first) sum = _mm512_add_pd(_mm512_loadu_pd(sums), sum);
    _mm512_storeu_pd(sums, sum);
  }
};

struct Double8 {
  using Real = double;
  using Reg = __m512d;
  static constexpr int kLanes = 8, kRows = 6, kCols = 4, kSums = 8;
  static Reg zero() { return _mm512_setzero_pd(); }
  static Reg load(const double* p) { return _mm512_load_pd(p); }
  static Reg fma(Reg x, Reg y, Reg acc) { return _mm512_fmadd_pd(x, y, acc); }
  static void flush(Reg acc, double* sums, bool first) {
    if (!first) acc = _mm512_add_pd(_mm512_loadu_pd(sums), acc);
    _mm512_storeu_pd(sums, acc);
  }
};

}  // namespace

void gram_items_avx512(const GramParams& params, int64_t begin, int64_t end, char* scratch) {
  gram_items<Float16, Double8>(params, begin, end, scratch);
}

}  // namespace pullback::cpu
