// SGD on CUDA devices: launches the kernels of kernels.h. Every launch goes to the current device.
#include "cuda/sgd.h"

#include <cuda_runtime.h>

#include <cstring>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "cuda/fill_argument.h"
#include "cuda/kernels.h"
#include "cuda/launch_plan.h"
#include "overlap.h"

namespace clrfast {
namespace {

// The sizes of a launch's argument. Small ones take less time to pass. The largest that a kernel can have holds a
// thousand tensors and needs CUDA 13: with 12.1 to 12.9, some drivers refuse more than 4 KB inside a graph.
#if CUDART_VERSION >= 13000
constexpr std::size_t max_argument_bytes = 32764;
#else
constexpr std::size_t max_argument_bytes = 4096;
#endif
constexpr std::size_t next_size(std::size_t bytes) { return bytes < 8192 ? 2 * bytes : max_argument_bytes; }

// Only the usual launch has small sizes; each size is a kernel of its own.
template <class T, class Metadata>
constexpr std::size_t min_argument_bytes =
    std::is_same_v<T, float> && std::is_same_v<Metadata, TensorMetadata> ? 4096 : max_argument_bytes;

// Maximum number of groups whose rows one thread can write at the end of an update launch without delaying it.
constexpr std::size_t max_merged_groups = 32;

template <class T, class Metadata>
using LargestArgument = UpdateArgument<T, Metadata, max_argument_bytes>;

template <class Argument>
struct Type {
  using type = Argument;
};

// Calls `use(Type<UpdateArgument<...>>)` with each size, from the smallest, until it returns true.
template <class T, class Metadata, std::size_t bytes = min_argument_bytes<T, Metadata>, class Use>
void for_each_size(const Use& use) {
  if (use(Type<UpdateArgument<T, Metadata, bytes>>{})) return;
  if constexpr (bytes < max_argument_bytes) for_each_size<T, Metadata, next_size(bytes)>(use);
}

void check(cudaError_t error, const char* what) {
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

// Launches the kernels of one step.
class StepLauncher {
 public:
  // `any_flag`: some buffers have the flag of their first update, so `step_count` must advance.
  StepLauncher(const ParamTensors* list, const std::vector<CudaGroupOptions>& groups, const CudaStep& step,
               bool any_flag, std::intptr_t stream)
      : list_(list),
        groups_(groups),
        step_(step),
        stream_(stream),
        advance_pending_(step.advance.control.table || any_flag) {
    inputs_ = {step.advance.control.row, step.grad_scale, step.found_inf, step.advance.step_count};
  }

  // Updates the parameters at the positions `chosen` in the list, in as few launches as possible.
  void update(const std::vector<std::int64_t>& chosen) {
    std::vector<std::int64_t> narrow, narrow_full, wide, wide_full;  // wide: float64; full: FullTensorMetadata
    for (const std::int64_t i : chosen) {
      const bool full = list_[i].master || list_[i].momentum_initialized;
      if (dtypes_of(list_[i]).any_float64())
        (full ? wide_full : wide).push_back(i);
      else
        (full ? narrow_full : narrow).push_back(i);
    }
    using Full = LargestArgument<float, FullTensorMetadata>;
    constexpr std::size_t max_full_tensors = sizeof(Full::memory) / Full::tensor_bytes;
    if (!narrow_full.empty() && narrow.size() + narrow_full.size() + 2 * groups_.size() < max_full_tensors) {
      narrow_full.insert(narrow_full.end(), narrow.begin(), narrow.end());  // one launch instead of two
      narrow.clear();
    }
    update<float, TensorMetadata>(narrow);
    update<float, FullTensorMetadata>(narrow_full);
    update<double, TensorMetadata>(wide);
    update<double, FullTensorMetadata>(wide_full);
  }

  // Advances the control, unless a launch of this step has done so.
  void advance() {
    if (!advance_pending_) return;
    advance_cuda(step_.advance, stream_);
    ++launches_;
    advance_pending_ = false;
  }

  int launches() const { return launches_; }

 private:
  // Updates the parameters at the positions `chosen`, by the kernel for T and Metadata.
  template <class T, class Metadata>
  void update(const std::vector<std::int64_t>& chosen) {
    using Largest = LargestArgument<T, Metadata>;
    constexpr LaunchLimits limits{sizeof(Largest::memory) - Largest::padding_bytes, Largest::tensor_bytes,
                                  sizeof(GroupParams<T>), max_groups, 0x7fffffff};
    std::vector<TensorSize> sizes;
    sizes.reserve(chosen.size());
    for (const std::int64_t i : chosen)
      sizes.push_back({list_[i].numel, list_[i].group, DefaultTuning::chunk(dtypes_of(list_[i]))});
    for (const LaunchPlan& plan : plan_launches(sizes, limits)) {
      for_each_size<T, Metadata>([&](auto size) {
        using Argument = typename decltype(size)::type;
        if (!fits<Argument>(plan)) return false;
        launch_update<Argument>(plan, chosen);
        return true;
      });
    }
  }

  template <class Argument>
  static bool fits(const LaunchPlan& plan) {
    return plan.groups.size() * sizeof(GroupParams<typename Argument::Value>) +
               plan.tensors.size() * Argument::tensor_bytes + Argument::padding_bytes <=
           sizeof(Argument::memory);
  }

  // Whether the launch advances the control itself.
  bool merges(const LaunchPlan& plan) const {
    return step_.advance.blocks_done && plan.n_chunks() <= step_.max_merged_chunks &&
           groups_.size() <= max_merged_groups;
  }

  template <class Argument>
  void launch_update(const LaunchPlan& plan, const std::vector<std::int64_t>& chosen) {
    static thread_local Argument argument;
    argument.step = inputs_;
    argument.advance = {};
    if (advance_pending_ && merges(plan))
      argument.advance = step_.advance;
    else
      advance();
    advance_pending_ = false;
    fill(argument, plan, list_, chosen, groups_);
    launch(&update_kernel<Argument>, argument, plan.n_chunks(), block_size, stream_);
    ++launches_;
  }

  const ParamTensors* list_;
  const std::vector<CudaGroupOptions>& groups_;
  const CudaStep& step_;
  std::intptr_t stream_;
  StepInputs inputs_;
  bool advance_pending_;
  int launches_ = 0;
};

}  // namespace

void advance_cuda(const AdvanceParams& advance, std::intptr_t stream) {
  launch(&advance_kernel, advance, 1, advance_block_size, stream);
}

int sgd_cuda(const ParamTensors* list, std::int64_t n_params, const std::vector<CudaGroupOptions>& groups,
             const CudaStep& step, std::intptr_t stream) {
  std::vector<std::int64_t> chosen;
  bool any_flag = false;
  for (std::int64_t i = 0; i < n_params; ++i) {
    if (!list[i].grad) continue;
    chosen.push_back(i);
    any_flag |= list[i].momentum_initialized != 0;
  }
  StepLauncher launcher(list, groups, step, any_flag, stream);
  if (any_overlap(list, n_params))
    for (const std::int64_t i : chosen) launcher.update({i});  // blocks of one launch run in any order
  else
    launcher.update(chosen);
  launcher.advance();  // where there was nothing to update
  return launcher.launches();
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
  for_each_size<float, TensorMetadata>(load_update);
  for_each_size<float, FullTensorMetadata>(load_update);
  for_each_size<double, TensorMetadata>(load_update);
  for_each_size<double, FullTensorMetadata>(load_update);
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
  using Largest = LargestArgument<float, TensorMetadata>;
  return (sizeof(Largest::memory) - Largest::padding_bytes - sizeof(GroupParams<float>)) / Largest::tensor_bytes;
}

}  // namespace clrfast
