// For g++ in the place of nvcc's front end: the CUDA headers of one version as they are for nvcc, so that g++ reads
// csrc/cuda/sgd.cu with all that they declare. Only the mathematical functions are left out, for g++ has its own.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>  // whose __noinline__ CUDA takes for a macro

template <class A, class B>
auto max(A a, B b) -> decltype(a + b) {
  return a < b ? b : a;
}
template <class A, class B>
auto min(A a, B b) -> decltype(a + b) {
  return b < a ? b : a;
}

#define __CUDACC__
#define __NVCC__
#define __COMMON_FUNCTIONS_H__
#include <cuda_runtime.h>
