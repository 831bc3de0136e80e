// csrc/cuda/gram.cu as a host library for test_emulation.py.
#include PULLBACK_KERNEL_SOURCE

extern "C" {

// How many parts N is cut into: the size of `partial` is [B, splits, k, p].
int64_t gram_splits(int64_t k, int64_t p, int64_t columns, int symmetric) {
  const int64_t most = pullback::cuda::gram_most_splits(k, p, symmetric != 0);
  return pullback::split_columns(columns, most).count;
}

// nullptr or an error. Strides: batch, row, column, in elements. `b` may be null: symmetric.
const char* gram(int dtype, int schedule, int64_t batch, int64_t k, int64_t p, int64_t columns,
                 const void* a, const int64_t* a_strides, const void* b, const int64_t* b_strides,
                 double* partial, double* out) {
  pullback::GramParams params{};
  params.symmetric = b == nullptr;
  params.a = {a, k, a_strides[0], a_strides[1], a_strides[2]};
  params.b =
      params.symmetric ? params.a : pullback::Rows{b, p, b_strides[0], b_strides[1], b_strides[2]};
  params.dtype = static_cast<pullback::Dtype>(dtype);
  params.batch = batch;
  params.columns = columns;
  const int64_t most = pullback::cuda::gram_most_splits(k, p, params.symmetric);
  params.splits = pullback::split_columns(columns, most);
  params.partial = partial;
  params.out = out;
  emulation::schedule = static_cast<emulation::Schedule>(schedule);
  return pullback::cuda::gram(params, nullptr);
}

int64_t barriers() {
  return emulation::barriers;
}
}
