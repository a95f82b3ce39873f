// What does not depend on a rule: the control's launch, the clipping, the state of the driver, and captured graphs.
#include <cuda_runtime.h>

#include <stdexcept>
#include <vector>

#include "cuda/advance_kernel.h"
#include "cuda/clip_kernels.h"
#include "cuda/fill_argument.h"
#include "cuda/launch.h"
#include "cuda/launch_plan.h"
#include "cuda/update.h"
#include "rules/all.h"
#include "rules/sgd.h"

namespace clrfast {

void advance_cuda(const AdvanceParams& advance, std::intptr_t stream) {
  launch(&advance_kernel, advance, 1, advance_block_size, stream);
}

namespace {

using GradArgument = UpdateArgument<Sgd, float, TensorMetadata, max_argument_bytes - sizeof(double*) - 8>;
using SumKernelArgument = SumArgument<GradArgument>;
static_assert(sizeof(SumKernelArgument) <= max_argument_bytes);

std::vector<LaunchPlan> plan_sums(const ParamTensors* list, std::int64_t n_params, std::vector<std::int64_t>& chosen) {
  std::vector<TensorSize> sizes;
  for (std::int64_t i = 0; i < n_params; ++i) {
    if (!list[i].grad) continue;
    chosen.push_back(i);
    sizes.push_back({list[i].numel, 0, DefaultTuning::chunk(dtypes_of(list[i]))});
  }
  return plan_launches(sizes, {sizeof(GradArgument::memory) - GradArgument::padding_bytes, GradArgument::tensor_bytes,
                               sizeof(GradArgument::Group), max_groups, 0x7fffffff});
}

}  // namespace

std::int64_t clip_scratch(const ParamTensors* list, std::int64_t n_params) {
  std::int64_t n = 0;
  for (const ParamTensors* t = list; t != list + n_params; ++t)
    if (t->grad) n += (t->numel + DefaultTuning::chunk(dtypes_of(*t)) - 1) / DefaultTuning::chunk(dtypes_of(*t));
  return n;
}

void clip_cuda(const ParamTensors* list, std::int64_t n_params, const ClipParams& params, double* scratch,
               std::intptr_t stream) {
  static thread_local SumKernelArgument argument;
  const std::vector<CudaGroupOptions<Sgd>> groups(1);
  std::vector<std::int64_t> chosen;
  double* sums = scratch;
  for (const LaunchPlan& plan : plan_sums(list, n_params, chosen)) {
    argument.sums = sums;
    fill(argument.tensors, plan, list, chosen, groups);
    launch(&sum_kernel<SumKernelArgument>, argument, plan.n_chunks(), block_size, stream);
    sums += plan.n_chunks();
  }
  launch(&clip_kernel, ClipArgument{params, scratch, sums - scratch}, 1, block_size, stream);
}

template <class Rule>
void load_updates();  // update_launches.h

void load_cuda() {
  load(&advance_kernel);
  load(&sum_kernel<SumKernelArgument>);
  load(&clip_kernel);
#define CLRFAST_LOAD(Rule, name) load_updates<Rule>();
  CLRFAST_RULES(CLRFAST_LOAD)
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

}  // namespace clrfast
