// Launches one kernel with one argument.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace clrfast {

// Bytes of the largest argument that a kernel can have. With 12.1 to 12.9, some drivers refuse more than 4 KB inside a
// graph.
#if CUDART_VERSION >= 13000
constexpr std::size_t max_argument_bytes = 32764;
#else
constexpr std::size_t max_argument_bytes = 4096;
#endif

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // clear an error that is not sticky, or the next call from other code would find it
  throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + "), " +
                           what);
}

// The argument is passed by value. The launch copies it, so it may be overwritten afterwards.
template <class Argument>
void launch(void (*kernel)(Argument), const Argument& argument, unsigned blocks, unsigned threads,
            std::intptr_t stream) {
  void* arguments[] = {const_cast<Argument*>(&argument)};
  check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(blocks), dim3(threads), arguments, 0,
                         reinterpret_cast<cudaStream_t>(stream)),
        "when the update was to be launched: either the launch was refused or an earlier kernel failed; "
        "CUDA_LAUNCH_BLOCKING=1 shows which");
}

// Loads a kernel on the current device.
template <class Argument>
void load(void (*kernel)(Argument)) {
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, kernel),
        "when the kernels were loaded; `clrfast doctor` tells for which devices they were built");
}

}  // namespace clrfast
