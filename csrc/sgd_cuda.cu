// SGD on CUDA devices: how the kernels of kernels.h are launched. Everything goes to the current device.
#include "sgd_cuda.h"

#include <cuda_runtime.h>

#include <cstring>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "fill_launch.h"
#include "kernels.h"
#include "launch_plan.h"
#include "shared_memory.h"

namespace clrfast {
namespace {

// The sizes of a launch's argument. Small ones take less time to hand over; the largest that a kernel can have covers a
// thousand tensors. It needs CUDA 13: with 12.1 to 12.9 some drivers refuse more than 4 KB inside of a graph.
#if CUDART_VERSION >= 13000
constexpr std::size_t most_bytes = 32764;
#else
constexpr std::size_t most_bytes = 4096;
#endif
constexpr std::size_t larger(std::size_t bytes) { return bytes < 8192 ? 2 * bytes : most_bytes; }

// The usual launch has small sizes as well.
template <class T, class E>
constexpr std::size_t smallest = std::is_same_v<T, float> && std::is_same_v<E, Entry> ? 4096 : most_bytes;

// Groups whose rows one thread may write at the end of an update launch without holding it up.
constexpr std::size_t most_groups_merged = 32;

template <class T, class E>
using Largest = Launch<T, E, most_bytes>;

template <class L>
struct Type {
  using type = L;
};

// Calls `use(Type<Launch<...>>)` with each size, from the smallest, until it returns true.
template <class T, class E, std::size_t bytes = smallest<T, E>, class Use>
void for_each_size(const Use& use) {
  if (use(Type<Launch<T, E, bytes>>{})) return;
  if constexpr (bytes < most_bytes) for_each_size<T, E, larger(bytes)>(use);
}

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // an error that is not sticky must not be found by the next call of somebody else
  throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + "), " +
                           what);
}

// An argument is passed by value; the launch copies it, so it may be overwritten afterwards.
template <class Argument>
void launch(void (*kernel)(Argument), const Argument& argument, unsigned blocks, unsigned threads,
            std::intptr_t stream) {
  void* arguments[] = {const_cast<Argument*>(&argument)};
  check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(blocks), dim3(threads), arguments, 0,
                         reinterpret_cast<cudaStream_t>(stream)),
        "when the update was to be launched: either the launch was refused or an earlier kernel failed; "
        "CUDA_LAUNCH_BLOCKING=1 shows which");
}

// One step on its way to the device.
class Step {
 public:
  // `tracked`: some tensors keep account of their first update.
  Step(const Tensor* tensors, const std::vector<CudaGroup>& groups, const CudaStep& step, bool tracked,
       std::intptr_t stream)
      : tensors_(tensors),
        groups_(groups),
        step_(step),
        stream_(stream),
        pending_(step.advance.control.table || tracked) {
    inputs_ = {step.advance.control.row, step.grad_scale, step.found_inf, step.advance.tick};
  }

  // Updates the tensors that `chosen` names, in as few launches as can be.
  void update(const std::vector<std::int64_t>& chosen) {
    std::vector<std::int64_t> narrow, narrow_full, wide, wide_full;
    for (const std::int64_t i : chosen) {
      const bool full = tensors_[i].master || tensors_[i].started;
      if (types_of(tensors_[i]).any_float64())
        (full ? wide_full : wide).push_back(i);
      else
        (full ? narrow_full : narrow).push_back(i);
    }
    using Full = Largest<float, FullEntry>;
    constexpr std::size_t full_entries = sizeof(Full::memory) / Full::entry_bytes;
    if (!narrow_full.empty() && narrow.size() + narrow_full.size() + 2 * groups_.size() < full_entries) {
      narrow_full.insert(narrow_full.end(), narrow.begin(), narrow.end());  // one launch instead of two
      narrow.clear();
    }
    update<float, Entry>(narrow);
    update<float, FullEntry>(narrow_full);
    update<double, Entry>(wide);
    update<double, FullEntry>(wide_full);
  }

  // The control's `advance`, unless an update does it or has done it.
  void advance() {
    if (!pending_) return;
    advance_cuda(step_.advance, stream_);
    ++launches_;
    pending_ = false;
  }

  int launches() const { return launches_; }

 private:
  // Updates the tensors that `list` names, by the kernel for T and E.
  template <class T, class E>
  void update(const std::vector<std::int64_t>& list) {
    using L = Largest<T, E>;
    constexpr LaunchLimits limits{sizeof(L::memory) - L::spare_bytes, L::entry_bytes, sizeof(Slot<T>), most_slots,
                                  0x7fffffff};
    std::vector<Work> works;
    works.reserve(list.size());
    for (const std::int64_t i : list)
      works.push_back({tensors_[i].numel, tensors_[i].group, Chosen::chunk(types_of(tensors_[i]))});
    for (const LaunchPlan& plan : plan_launches(works, limits)) {
      for_each_size<T, E>([&](auto size) {
        using Sized = typename decltype(size)::type;
        if (!fits<Sized>(plan)) return false;
        issue<Sized>(plan, list);
        return true;
      });
    }
  }

  template <class L>
  static bool fits(const LaunchPlan& plan) {
    return plan.groups.size() * sizeof(Slot<typename L::Value>) + plan.entries.size() * L::entry_bytes +
               L::spare_bytes <=
           sizeof(L::memory);
  }

  bool merges(const LaunchPlan& plan) const {
    return step_.advance.ticket && plan.n_chunks() <= step_.merged_chunks && groups_.size() <= most_groups_merged;
  }

  template <class L>
  void issue(const LaunchPlan& plan, const std::vector<std::int64_t>& list) {
    static thread_local L argument;
    argument.step = inputs_;
    argument.advance = {};
    if (pending_ && merges(plan))
      argument.advance = step_.advance;
    else
      advance();
    pending_ = false;
    fill(argument, plan, tensors_, list, groups_);
    launch(&update_kernel<L>, argument, plan.n_chunks(), block_size, stream_);
    ++launches_;
  }

  const Tensor* tensors_;
  const std::vector<CudaGroup>& groups_;
  const CudaStep& step_;
  std::intptr_t stream_;
  StepInputs inputs_;
  bool pending_;  // `advance` is still to be done
  int launches_ = 0;
};

}  // namespace

void advance_cuda(const Advance& advance, std::intptr_t stream) {
  launch(&advance_kernel, advance, 1, advance_block_size, stream);
}

int sgd_cuda(const Tensor* tensors, std::int64_t n_tensors, const std::vector<CudaGroup>& groups, const CudaStep& given,
             std::intptr_t stream) {
  std::vector<std::int64_t> chosen;
  bool tracked = false;
  for (std::int64_t i = 0; i < n_tensors; ++i) {
    if (!tensors[i].grad) continue;
    chosen.push_back(i);
    tracked |= tensors[i].started != 0;
  }
  Step step(tensors, groups, given, tracked, stream);
  if (share_memory(tensors, n_tensors))
    for (const std::int64_t i : chosen) step.update({i});  // blocks of one launch run in any order
  else
    step.update(chosen);
  step.advance();  // where there was nothing to update
  return step.launches();
}

void load_cuda() {
  cudaFuncAttributes attributes;
  const auto load = [&](auto* kernel) {
    check(cudaFuncGetAttributes(&attributes, kernel),
          "when the kernels were loaded; `clrfast doctor` tells for which devices they were built");
  };
  load(&advance_kernel);
  const auto load_update = [&](auto size) {
    load(&update_kernel<typename decltype(size)::type>);
    return false;
  };
  for_each_size<float, Entry>(load_update);
  for_each_size<float, FullEntry>(load_update);
  for_each_size<double, Entry>(load_update);
  for_each_size<double, FullEntry>(load_update);
}

std::string cuda_problem() {
  int driver = 0, devices = 0;
  cudaDriverGetVersion(&driver);
  const auto version = [](int number) {
    return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
  };
  if (driver == 0) return "no driver found";
  if (driver / 1000 < CUDART_VERSION / 1000)
    return "the driver supports CUDA " + version(driver) + ", this build needs " +
           version(CUDART_VERSION / 1000 * 1000);
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return cudaGetErrorString(error);
  }
  return devices ? "" : "no device found";
}

void when_graph_is_gone(std::intptr_t stream_handle, void (*gone)(void*), void* object) {
  const auto stream = reinterpret_cast<cudaStream_t>(stream_handle);
  constexpr const char* what = "when the captured graph was asked for";
  cudaStreamCaptureStatus status;
  cudaGraph_t graph = nullptr;
#if CUDART_VERSION >= 13000
  check(cudaStreamGetCaptureInfo(stream, &status, nullptr, &graph, nullptr, nullptr, nullptr), what);
#else
  check(cudaStreamGetCaptureInfo_v2(stream, &status, nullptr, &graph), what);
#endif
  if (status != cudaStreamCaptureStatusActive) throw std::runtime_error("CUDA: the stream is not capturing");
  cudaUserObject_t user_object;
  check(cudaUserObjectCreate(&user_object, object, gone, 1, cudaUserObjectNoDestructorSync), what);
  check(cudaGraphRetainUserObject(graph, user_object, 1, cudaGraphUserObjectMove), what);
}

std::size_t tensors_per_launch() {
  using L = Largest<float, Entry>;
  return (sizeof(L::memory) - L::spare_bytes - sizeof(Slot<float>)) / L::entry_bytes;
}

}  // namespace clrfast
