// squared_singular_values for the tests.
#include "cuda/squared_singular_values.h"

extern "C" const char* squared_singular_values(
    const pullback::SquaredSingularValuesParams* params) {
  return pullback::cuda::squared_singular_values(*params, nullptr);
}
