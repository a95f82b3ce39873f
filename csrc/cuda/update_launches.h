// Launches the kernels of one step of a rule. Every launch goes to the current device.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>
#include <vector>

#include "cuda/fill_argument.h"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/launch_plan.h"
#include "cuda/update.h"
#include "overlap.h"

namespace clrfast {

// Only the usual launch of a rule has small sizes, which take less time to pass; each size is a kernel of its own.
constexpr std::size_t next_size(std::size_t bytes) { return bytes < 8192 ? 2 * bytes : max_argument_bytes; }

template <class Rule>
using UsualMetadata = std::conditional_t<Rule::always_counts, FullTensorMetadata<1>, TensorMetadata<1>>;

template <class Rule, class T, template <int> class Metadata>
constexpr std::size_t min_argument_bytes =
    std::is_same_v<T, float> && std::is_same_v<Metadata<1>, UsualMetadata<Rule>> ? 4096 : max_argument_bytes;

// Maximum number of groups whose rows one thread can write at the end of an update launch without delaying it.
constexpr std::size_t max_merged_groups = 32;

template <class Rule, class T, template <int> class Metadata>
using LargestArgument = UpdateArgument<Rule, T, Metadata, max_argument_bytes>;

template <class Argument>
struct Type {
  using type = Argument;
};

// Calls `use(Type<UpdateArgument<...>>)` with each size, from the smallest, until it returns true.
template <class Rule, class T, template <int> class Metadata,
          std::size_t bytes = min_argument_bytes<Rule, T, Metadata>, class Use>
void for_each_size(const Use& use) {
  if (use(Type<UpdateArgument<Rule, T, Metadata, bytes>>{})) return;
  if constexpr (bytes < max_argument_bytes) for_each_size<Rule, T, Metadata, next_size(bytes)>(use);
}

// Launches the kernels of one step.
template <class Rule>
class StepLauncher {
 public:
  // `any_counter`: some parameters have a counter, so `step_count` must advance.
  StepLauncher(const ParamTensors* list, const std::vector<CudaGroupOptions<Rule>>& groups, const CudaStep& step,
               bool any_counter, std::intptr_t stream)
      : list_(list),
        groups_(groups),
        step_(step),
        stream_(stream),
        advance_pending_(step.advance.control.table || any_counter) {
    inputs_ = {step.advance.control.row, step.grad_scale, step.clip_factor, step.found_inf, step.advance.step_count};
  }

  // Updates the parameters at the positions `chosen` in the list, in as few launches as possible.
  void update(const std::vector<std::int64_t>& chosen) {
    std::vector<std::int64_t> narrow, narrow_full, wide, wide_full;  // wide: float64; full: FullTensorMetadata
    for (const std::int64_t i : chosen) {
      const bool full = list_[i].master || list_[i].counter;
      if (dtypes_of(list_[i]).any_float64())
        (full ? wide_full : wide).push_back(i);
      else
        (full ? narrow_full : narrow).push_back(i);
    }
    using Full = LargestArgument<Rule, float, FullTensorMetadata>;
    constexpr std::size_t max_full_tensors = sizeof(Full::memory) / Full::tensor_bytes;
    if (!narrow_full.empty() && narrow.size() + narrow_full.size() + 2 * groups_.size() < max_full_tensors) {
      narrow_full.insert(narrow_full.end(), narrow.begin(), narrow.end());  // one launch instead of two
      narrow.clear();
    }
    update<float, FullTensorMetadata>(narrow_full);
    update<double, FullTensorMetadata>(wide_full);
    if constexpr (!Rule::always_counts) {
      update<float, TensorMetadata>(narrow);
      update<double, TensorMetadata>(wide);
    }
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
  template <class T, template <int> class Metadata>
  void update(const std::vector<std::int64_t>& chosen) {
    using Largest = LargestArgument<Rule, T, Metadata>;
    constexpr LaunchLimits limits{sizeof(Largest::memory) - Largest::padding_bytes, Largest::tensor_bytes,
                                  sizeof(GroupParams<Rule, T>), max_groups, 0x7fffffff};
    std::vector<TensorSize> sizes;
    sizes.reserve(chosen.size());
    for (const std::int64_t i : chosen)
      sizes.push_back({list_[i].numel, list_[i].group, DefaultTuning::chunk(dtypes_of(list_[i]))});
    for (const LaunchPlan& plan : plan_launches(sizes, limits)) {
      for_each_size<Rule, T, Metadata>([&](auto size) {
        using Argument = typename decltype(size)::type;
        if (!fits<Argument>(plan)) return false;
        launch_update<Argument>(plan, chosen);
        return true;
      });
    }
  }

  template <class Argument>
  static bool fits(const LaunchPlan& plan) {
    return plan.groups.size() * sizeof(typename Argument::Group) +
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
  const std::vector<CudaGroupOptions<Rule>>& groups_;
  const CudaStep& step_;
  std::intptr_t stream_;
  StepInputs inputs_;
  bool advance_pending_;
  int launches_ = 0;
};

template <class Rule>
int update_cuda(const ParamTensors* list, std::int64_t n_params, const std::vector<CudaGroupOptions<Rule>>& groups,
                const CudaStep& step, std::intptr_t stream) {
  std::vector<std::int64_t> chosen;
  bool any_counter = false;
  for (std::int64_t i = 0; i < n_params; ++i) {
    if (!list[i].grad) continue;
    chosen.push_back(i);
    any_counter |= list[i].counter != 0;
  }
  StepLauncher<Rule> launcher(list, groups, step, any_counter, stream);
  if (any_overlap(list, n_params))
    for (const std::int64_t i : chosen) launcher.update({i});  // blocks of one launch run in any order
  else
    launcher.update(chosen);
  launcher.advance();  // where there was nothing to update
  return launcher.launches();
}

// Loads the kernels of one rule on the current device.
template <class Rule>
void load_updates() {
  const auto load_update = [&](auto size) {
    load(&update_kernel<typename decltype(size)::type>);
    return false;
  };
  for_each_size<Rule, float, FullTensorMetadata>(load_update);
  for_each_size<Rule, double, FullTensorMetadata>(load_update);
  if constexpr (!Rule::always_counts) {
    for_each_size<Rule, float, TensorMetadata>(load_update);
    for_each_size<Rule, double, TensorMetadata>(load_update);
  }
}

template <class Rule>
std::size_t tensors_per_launch() {
  using Largest = std::conditional_t<Rule::always_counts, LargestArgument<Rule, float, FullTensorMetadata>,
                                     LargestArgument<Rule, float, TensorMetadata>>;
  return (sizeof(Largest::memory) - Largest::padding_bytes - sizeof(typename Largest::Group)) / Largest::tensor_bytes;
}

}  // namespace clrfast
