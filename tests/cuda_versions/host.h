// Lets g++ replace nvcc's front end: includes the CUDA headers of one version as nvcc does, so that g++ compiles
// csrc/cuda/*.cu with their declarations. The mathematical functions are left out, because g++ has its own.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>  // before CUDA defines __noinline__ as a macro

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
