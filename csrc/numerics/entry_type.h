// The C++ type of a block's entries, from its dtype.
#pragma once

#include "common/block.h"
#include "numerics/half.h"

namespace pullback {

// What entries of type T are multiplied in: float64 for float64, else float32.
template <class T>
struct WorkingType {
  using Real = float;
};
template <>
struct WorkingType<double> {
  using Real = double;
};
template <class T>
using Working = typename WorkingType<T>::Real;

// body(T()), where T is the type. Static, because this is compiled for several instruction sets.
template <class Body>
static inline auto with_entry_type(Dtype dtype, const Body& body) {
  switch (dtype) {
    case Dtype::kFloat64:
      return body(double());
    case Dtype::kFloat16:
      return body(Half());
    case Dtype::kBFloat16:
      return body(BFloat16());
    case Dtype::kFloat32:
      break;
  }
  return body(float());
}

// Of an entry.
static inline int64_t bytes_of(Dtype dtype) {
  return with_entry_type(dtype, [](auto entry) { return static_cast<int64_t>(sizeof entry); });
}

}  // namespace pullback
