// The norm of all gradients in two kernels, and the factor that follows from it (clip.h).
//
// `sum_kernel` reads every gradient once: a block of 256 threads sums the squares of one chunk. `clip_kernel`, one block,
// adds the sums. Neither uses an atomic operation, so the result is the same in every run.
#pragma once

#include "clip.h"
#include "cuda/kernels.h"

namespace clrfast {

template <class Tensors>
struct SumArgument {
  double* sums;  // one for each block of the launch
  Tensors tensors;
};

struct ClipArgument {
  ClipParams params;
  const double* sums;
  std::int64_t n_sums;
};

// Returns the sum of `value` over the threads of a block; right in thread 0 only.
__device__ __forceinline__ double sum_over_block(double value) {
  constexpr int n_lanes = 32;
  __shared__ double values[block_size];
  values[threadIdx.x] = value;
  __syncthreads();
  if (threadIdx.x < n_lanes)
    for (int k = n_lanes; k < block_size; k += n_lanes) value += values[threadIdx.x + k];
  __syncthreads();
  values[threadIdx.x] = value;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int lane = 1; lane < n_lanes; ++lane) value += values[lane];
  return value;
}

template <class S, int width>
__device__ __forceinline__ double sum_of_squares(const S* g, int count) {
  using Vector = AlignedVector<S, width>;
  constexpr int unroll = 2;
  const auto square = [](S x) {
    const double value = DtypeTraits<S>::load(x);
    return value * value;
  };
  double sum = 0;
  const int n_vectors = count / width;
#pragma unroll 1
  for (int first = threadIdx.x; first < n_vectors; first += unroll * block_size) {
    Vector gs[unroll];
#pragma unroll
    for (int u = 0; u < unroll; ++u)
      if (first + u * block_size < n_vectors) gs[u] = reinterpret_cast<const Vector*>(g)[first + u * block_size];
#pragma unroll
    for (int u = 0; u < unroll; ++u)
      if (first + u * block_size < n_vectors)
#pragma unroll
        for (int e = 0; e < width; ++e) sum += square(gs[u].get(e));
  }
  for (int i = n_vectors * width + static_cast<int>(threadIdx.x); i < count; i += block_size) sum += square(g[i]);
  return sum;
}

// Gradients that are not aligned to 16 bytes are read one by one.
template <class S>
__device__ __forceinline__ double sum_of_squares(const void* grad, std::int64_t begin, int count) {
  const S* g = static_cast<const S*>(grad) + begin;
  if (reinterpret_cast<std::uintptr_t>(g) % 16 == 0) return sum_of_squares<S, 16 / sizeof(S)>(g, count);
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += block_size) {
    const double value = DtypeTraits<S>::load(g[i]);
    sum += value * value;
  }
  return sum;
}

__device__ __forceinline__ double sum_of_squares(const void* grad, Dtype dtype, std::int64_t begin, int count) {
  switch (dtype) {
    case Dtype::float64: return sum_of_squares<double>(grad, begin, count);
    case Dtype::float16: return sum_of_squares<Half>(grad, begin, count);
    case Dtype::bfloat16: return sum_of_squares<BFloat16>(grad, begin, count);
    case Dtype::float32: break;
  }
  return sum_of_squares<float>(grad, begin, count);
}

template <class Argument>
__global__ void __launch_bounds__(block_size) sum_kernel(const __grid_constant__ Argument argument) {
  const ChunkLocation location = argument.tensors.find(blockIdx.x);
  const TensorLayout layout = argument.tensors.layouts()[location.tensor];
  const int chunk_size = DefaultTuning::chunk(layout.dtypes()), count = location.last ? layout.tail() : chunk_size;
  const double sum = sum_over_block(sum_of_squares(argument.tensors.tensors()[location.tensor].grad,
                                                   layout.dtypes().grad(),
                                                   static_cast<std::int64_t>(location.chunk) * chunk_size, count));
  if (threadIdx.x == 0) argument.sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(block_size) clip_kernel(const __grid_constant__ ClipArgument argument) {
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < argument.n_sums; i += block_size) sum += argument.sums[i];
  sum = sum_over_block(sum);
  if (threadIdx.x == 0) clip(argument.params, sum);
}

}  // namespace clrfast
