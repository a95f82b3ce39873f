// The update kernel with other tunings, and one step of each.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "cuda/advance_kernel.h"
#include "cuda/fill_argument.h"
#include "cuda/kernels.h"
#include "cuda/launch_plan.h"
#include "model.h"

using namespace clrfast;

namespace kernel_variants {

constexpr std::size_t large = 32764;  // bytes of the largest kernel argument, from CUDA 13 on

template <int n>
struct Chunks : DefaultTuning {
  CLRFAST_HD static int chunk(TensorDtypes) { return n; }
};

struct Bisection : DefaultTuning {
  template <class L>
  __device__ static ChunkLocation find(const L& argument, std::uint32_t block) {
    const auto* ends = reinterpret_cast<const std::uint32_t*>(argument.chunk_ends());
    std::uint32_t low = 0, high = argument.n_tensors - 1;
    while (low < high) {
      const std::uint32_t middle = (low + high) / 2;
      if (ends[middle] <= block)
        low = middle + 1;
      else
        high = middle;
    }
    return {low, block - (low ? ends[low - 1] : 0), block + 1 == ends[low]};
  }
};

struct Early : DefaultTuning {
  static constexpr bool begins_early = true;
  __device__ static void wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  }
};

__global__ void __launch_bounds__(advance_block_size) early_advance_kernel(const __grid_constant__ AdvanceParams a) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
  advance_by_warp(a);
}

enum class LaunchForm { merged, two_launches, early };

template <class Argument>
void launch(void (*kernel)(Argument), const Argument& argument, unsigned blocks, unsigned threads, bool early) {
  void* arguments[] = {const_cast<Argument*>(&argument)};
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks), config.blockDim = dim3(threads);
  config.attrs = &attribute, config.numAttrs = early ? 1 : 0;
  check(cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), arguments), "launch");
}

using Call = std::function<void()>;

template <class L, class Tuning>
Call step_of(const Model& model, LaunchForm form) {
  std::vector<TensorSize> sizes;
  std::vector<std::int64_t> list;
  for (const ParamTensors& tensor : model.tensors) {
    sizes.push_back({tensor.numel, 0, Tuning::chunk(dtypes_of(tensor))});
    list.push_back(static_cast<std::int64_t>(list.size()));
  }
  const auto plans = plan_launches(
      sizes,
      {sizeof(L::memory) - L::padding_bytes, L::tensor_bytes, sizeof(typename L::Group), max_groups, 0x7fffffff});
  const std::vector<CudaGroupOptions<Rule>> groups{{{{lr, momentum, weight_decay}, true, false, {}}}};
  struct PlannedLaunch {
    L argument;
    unsigned blocks;
  };
  std::vector<PlannedLaunch> launches(plans.size());
  for (std::size_t i = 0; i < plans.size(); ++i) {
    fill(launches[i].argument, plans[i], model.tensors.data(), list, groups);
    launches[i].argument.step = {model.advance.control.row, nullptr, nullptr, nullptr, nullptr};
    launches[i].argument.advance = form == LaunchForm::merged && i == 0 ? model.advance : AdvanceParams{};
    launches[i].blocks = plans[i].n_chunks();
  }
  const AdvanceParams advance = model.advance;
  void (*const kernel)(L) = &update_kernel<L, Tuning>;
  void (*const first)(AdvanceParams) = form == LaunchForm::early ? &early_advance_kernel : &advance_kernel;
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, kernel), "loading");
  check(cudaFuncGetAttributes(&attributes, first), "loading");
  return [=] {
    if (form != LaunchForm::merged) launch(first, advance, 1, advance_block_size, false);
    for (std::size_t i = 0; i < launches.size(); ++i)
      launch(kernel, launches[i].argument, launches[i].blocks, block_size, form == LaunchForm::early && i == 0);
  };
}

struct Variant {
  const char *form, *search;
  std::size_t argument;
  int chunk;
  Call step;
};

inline std::vector<Variant> variants_of(const Model& model, bool early) {
  using L = UpdateArgument<Rule, float, TensorMetadata, large>;
  using L4 = UpdateArgument<Rule, float, TensorMetadata, 4096>;
  using L8 = UpdateArgument<Rule, float, TensorMetadata, 8192>;
  const int usual = DefaultTuning::chunk(dtypes_of(model.tensors[0]));
  std::vector<Variant> all = {
      {"merged", "segments", large, usual, step_of<L, DefaultTuning>(model, LaunchForm::merged)},
      {"two launches", "segments", large, usual, step_of<L, DefaultTuning>(model, LaunchForm::two_launches)},
      {"merged", "bisection", large, usual, step_of<L, Bisection>(model, LaunchForm::merged)},
      {"merged", "segments", 8192, usual, step_of<L8, DefaultTuning>(model, LaunchForm::merged)},
      {"two launches", "segments", 8192, usual, step_of<L8, DefaultTuning>(model, LaunchForm::two_launches)},
      {"merged", "segments", 4096, usual, step_of<L4, DefaultTuning>(model, LaunchForm::merged)},
      {"merged", "segments", 8192, 2048, step_of<L8, Chunks<2048>>(model, LaunchForm::merged)},
      {"merged", "segments", 8192, 4096, step_of<L8, Chunks<4096>>(model, LaunchForm::merged)},
      {"merged", "segments", 8192, 8192, step_of<L8, Chunks<8192>>(model, LaunchForm::merged)},
      {"merged", "segments", 8192, 16384, step_of<L8, Chunks<16384>>(model, LaunchForm::merged)},
      {"two launches", "segments", 8192, 8192, step_of<L8, Chunks<8192>>(model, LaunchForm::two_launches)},
      {"two launches", "segments", 8192, 16384, step_of<L8, Chunks<16384>>(model, LaunchForm::two_launches)},
  };
  if (early) all.push_back({"early", "segments", 8192, usual, step_of<L8, Early>(model, LaunchForm::early)});
  return all;
}

}  // namespace kernel_variants
