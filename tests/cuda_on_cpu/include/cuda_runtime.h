// A substitute for CUDA's header. With it, g++ compiles csrc/cuda/*.cu and benchmarks/speed/kernel_variants, and
// their kernels run on the CPU.
//
// A launch runs all blocks and all threads of a block one after the other, each block's threads from the last to the
// first. Every barrier of the kernels separates what all threads read from what thread 0 alone writes, or what the last
// thread alone writes from what all read, or what higher threads write from what lower ones read. In this order a thread
// can pass the barrier without waiting. Device memory is the memory of the process, and a block's shared memory a
// static variable.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#define CUDART_VERSION EMULATED_CUDART_VERSION
#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __shared__ static thread_local
#define __launch_bounds__(...)

using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;

struct dim3 {
  unsigned x, y = 1, z = 1;
  explicit dim3(unsigned x_ = 1) : x(x_) {}
};

inline thread_local dim3 blockIdx{0}, threadIdx{0}, gridDim{0};
inline void __syncthreads() {}
inline void __threadfence() {}

// What tests read and set.
namespace emulated {
inline std::atomic<int> launches{0};
inline std::atomic<cudaError_t> next_error{cudaSuccess};
inline std::atomic<bool> ascending{false};  // blocks from the first to the last, or in reverse
}  // namespace emulated

using cudaStream_t = void*;

// A kernel can be launched only after its attributes were read, which loads it on a device.
namespace emulated {
inline std::map<const void*, std::function<void(const void*)>> kernels;
}

struct cudaFuncAttributes {};
template <class Argument>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, void (*kernel)(Argument)) {
  emulated::kernels[reinterpret_cast<const void*>(kernel)] = [kernel](const void* argument) {
    kernel(*static_cast<const Argument*>(argument));
  };
  return cudaSuccess;
}

inline cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, std::size_t,
                                    cudaStream_t) {
  if (const cudaError_t error = emulated::next_error.exchange(cudaSuccess)) return error;
  if (grid.x == 0 || block.x == 0) return 9;  // cudaErrorInvalidConfiguration
  const auto found = emulated::kernels.find(kernel);
  if (found == emulated::kernels.end()) return 98;  // cudaErrorInvalidDeviceFunction
  ++emulated::launches;
  gridDim = grid;
  for (unsigned b = 0; b < grid.x; ++b) {
    blockIdx = dim3(emulated::ascending ? b : grid.x - 1 - b);
    for (unsigned t = block.x; t-- > 0;) {
      threadIdx = dim3(t);
      found->second(arguments[0]);
    }
  }
  return cudaSuccess;
}

enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization = 6 };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim{1}, blockDim{1};
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};
inline cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
  return cudaLaunchKernel(kernel, config->gridDim, config->blockDim, arguments, 0, config->stream);
}

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "an emulated error"; }
inline const char* cudaGetErrorName(cudaError_t) { return "cudaErrorEmulated"; }

inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

enum cudaDeviceAttr { cudaDevAttrL2CacheSize, cudaDevAttrComputeCapabilityMajor };
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  *value = which == cudaDevAttrL2CacheSize ? 1 << 16 : 9;
  return cudaSuccess;
}

template <class T>
cudaError_t cudaMalloc(T** memory, std::size_t bytes) {
  *memory = static_cast<T*>(std::malloc(bytes));
  return *memory ? cudaSuccess : 2;  // cudaErrorMemoryAllocation
}
inline cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
inline cudaError_t cudaMemcpy(void* target, const void* source, std::size_t bytes, cudaMemcpyKind) {
  std::memcpy(target, source, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemset(void* memory, int value, std::size_t bytes) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t) {
  return cudaMemset(memory, value, bytes);
}

// Events take no time.
using cudaEvent_t = void*;
inline cudaError_t cudaEventCreate(cudaEvent_t*) { return cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 0;
  return cudaSuccess;
}

// A graph that tests end explicitly.
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
using cudaGraph_t = void*;
using cudaUserObject_t = void*;
enum { cudaUserObjectNoDestructorSync = 1, cudaGraphUserObjectMove = 1 };

namespace emulated {
inline bool capturing = false;
inline std::vector<std::function<void()>> at_end_of_graph;
inline void end_graph() {
  for (const auto& call : std::exchange(at_end_of_graph, {})) call();
}
}  // namespace emulated

#if CUDART_VERSION < 13000
#define cudaStreamGetCaptureInfo cudaStreamGetCaptureInfo_v2
#endif
template <class... Rest>
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, cudaStreamCaptureStatus* status, Rest...) {
  *status = emulated::capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
inline cudaError_t cudaUserObjectCreate(cudaUserObject_t*, void* object, void (*gone)(void*), unsigned, unsigned) {
  emulated::at_end_of_graph.push_back([=] { gone(object); });
  return cudaSuccess;
}
inline cudaError_t cudaGraphRetainUserObject(cudaGraph_t, cudaUserObject_t, unsigned, unsigned) { return cudaSuccess; }
