// Rows of a sample as kernels read and write them: in pieces of 16 bytes. Of those that are read
// several are before the first is used, so that many loads are in flight.
#pragma once

#include <cstring>

#include "common/block.h"
#include "cuda/launch.h"
#include "numerics/entry_type.h"

namespace pullback::cuda {

template <class T>
struct alignas(16) Piece {
  static constexpr int kEntries = 16 / sizeof(T);
  T value[kEntries];
};

// Two factors, because 2^135, for the smallest numbers, is not representable in float32.
template <class Real>
struct RowScale {
  Real first;  // 0 makes the row zero, even from NaN
  Real second;

  __device__ Real operator()(Real value) const { return first == 0 ? 0 : value * first * second; }
};

// The rows of one sample from `first` on, read as what their entries are worked on in.
template <class T>
struct RowReader {
  using Real = Working<T>;
  const T* data;
  int rows;         // those from the first on
  int64_t columns;  // N
  int64_t row_stride;
  int64_t column_stride;
  const RowScale<Real>* scales;  // [rows] or null
  bool whole;  // pieces lie as they are read: contiguous, aligned, and none reaches beyond a row

  __device__ RowReader(const Rows& of, int64_t sample, int64_t first, int64_t width,
                       const Real* scale)
      : data(static_cast<const T*>(of.data) + sample * of.batch_stride + first * of.row_stride),
        rows(static_cast<int>(of.rows - first)),
        columns(width),
        row_stride(of.row_stride),
        column_stride(of.column_stride),
        scales(scale == nullptr
                   ? nullptr
                   : reinterpret_cast<const RowScale<Real>*>(scale) + (sample * of.rows + first)),
        whole(of.column_stride == 1 && width % Piece<T>::kEntries == 0 &&
              of.row_stride % Piece<T>::kEntries == 0 &&
              reinterpret_cast<uintptr_t>(data) % sizeof(Piece<T>) == 0) {}

  __device__ const T* at(int64_t row, int64_t column) const {
    return data + row * row_stride + column * column_stride;
  }

  // Entries from `column` on, the first of which lies at `from`; zeros beyond the row's last.
  __device__ Piece<T> scattered(const T* from, int64_t column) const {
    Piece<T> out = {};
#pragma unroll
    for (int v = 0; v < Piece<T>::kEntries; ++v) {
      if (column + v < columns) out.value[v] = from[v * column_stride];
    }
    return out;
  }
};

// 16 bytes of global memory, loaded here: a compiler that may move the load moves it next to its
// first use, where the next one waits for it.
template <class T>
__device__ Piece<T> whole_piece(const T* from) {
#if defined(__CUDA_ARCH__)
  uint32_t word[4];
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
               : "l"(__cvta_generic_to_global(from))
               : "memory");
  Piece<T> out;
  memcpy(&out, word, sizeof out);
  return out;
#else
  return *reinterpret_cast<const Piece<T>*>(from);
#endif
}

// 16 bytes to global memory: written entry by entry where the compiler may choose.
template <class T>
__device__ void store_piece(const Piece<T>& piece, T* to) {
#if defined(__CUDA_ARCH__)
  uint32_t word[4];
  memcpy(word, &piece, sizeof piece);
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(__cvta_generic_to_global(to)), "r"(word[0]), "r"(word[1]), "r"(word[2]),
                 "r"(word[3])
               : "memory");
#else
  *reinterpret_cast<Piece<T>*>(to) = piece;
#endif
}

namespace detail {

template <class Real, int kColumns, int kPitch, int kBatch, bool kWhole, class T>
__device__ void load_rows(const RowReader<T>& from, int rows, int64_t column, Real* to) {
  constexpr int entries = Piece<T>::kEntries, pieces = kColumns / entries;
  constexpr int vector = Piece<Real>::kEntries, vectors = entries / vector;
  constexpr int step = kThreads / pieces;  // rows between a thread's pieces
  static_assert(kThreads % pieces == 0);
  column += static_cast<int>(threadIdx.x) % pieces * entries;
  to += static_cast<int>(threadIdx.x) % pieces * entries;
  const bool inside = column < from.columns;
  // Loads are made by all threads, whose zeros come from some other piece: none waits in a branch.
  const T* const start = from.at(0, inside ? column : 0);
  for (int row = static_cast<int>(threadIdx.x) / pieces; row < rows; row += kBatch * step) {
    Piece<T> loaded[kBatch];
    RowScale<Working<T>> scale[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int r = row + i * step < from.rows ? row + i * step : from.rows - 1;
      const T* const at = start + r * from.row_stride;
      if constexpr (kWhole) {
        loaded[i] = whole_piece(at);
      } else {
        loaded[i] = from.scattered(at, column);
      }
      scale[i] = from.scales == nullptr ? RowScale<Working<T>>{1, 1} : from.scales[r];
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int r = row + i * step;
      if (r >= rows) break;
      if (!inside || r >= from.rows) scale[i].first = 0;
#pragma unroll
      for (int u = 0; u < vectors; ++u) {
        Piece<Real> wide;
#pragma unroll
        for (int v = 0; v < vector; ++v) {
          wide.value[v] = scale[i](widen(loaded[i].value[u * vector + v]));
        }
        *reinterpret_cast<Piece<Real>*>(to + r * kPitch + u * vector) = wide;
      }
    }
  }
}

}  // namespace detail

// `rows` rows, kColumns entries of each from `column` on, into shared memory, where they lie kPitch
// apart; what lies outside of the block is zero. A thread has kBatch pieces in flight.
template <class Real, int kColumns, int kPitch, int kBatch, class T>
__device__ void load_rows(const RowReader<T>& from, int rows, int64_t column, Real* to) {
  static_assert(kPitch % Piece<Real>::kEntries == 0);  // 16-byte stores stay aligned
  if (from.whole) {
    detail::load_rows<Real, kColumns, kPitch, kBatch, true>(from, rows, column, to);
  } else {
    detail::load_rows<Real, kColumns, kPitch, kBatch, false>(from, rows, column, to);
  }
}

}  // namespace pullback::cuda
