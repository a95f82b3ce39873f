// Writes a launch's groups and tensors into its argument, on the host.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/launch_argument.h"
#include "cuda/launch_plan.h"
#include "cuda/sgd.h"
#include "tensor_list.h"

namespace clrfast {

inline void fill(TensorMetadata& metadata, const ParamTensors& tensors) {
  metadata.param = reinterpret_cast<void*>(tensors.param);
  metadata.grad = reinterpret_cast<const void*>(tensors.grad);
  metadata.buffer = reinterpret_cast<void*>(tensors.buffer);
}

inline void fill(FullTensorMetadata& metadata, const ParamTensors& tensors) {
  fill(static_cast<TensorMetadata&>(metadata), tensors);
  metadata.master_address = reinterpret_cast<void*>(tensors.master);
  metadata.flag_address = reinterpret_cast<std::int64_t*>(tensors.momentum_initialized);
}

template <class T>
GroupParams<T> group_params(const CudaGroupOptions& group, std::int64_t control_row) {
  const GroupOptions& options = group.options;
  GroupParams<T> params{static_cast<T>(options.lr),
                        static_cast<T>(options.momentum),
                        static_cast<T>(options.weight_decay),
                        static_cast<T>(1 - options.dampening),
                        nullptr,
                        static_cast<std::int32_t>(control_row),
                        options.nesterov,
                        options.maximize};
  if constexpr (sizeof(T) == sizeof(float))
    params.lr_tensor = group.lr_float32;
  else
    params.lr_tensor = group.lr_float64;
  return params;
}

// `planned`: positions in `list` of the tensors that the plan was made for.
template <class Argument>
void fill(Argument& argument, const LaunchPlan& plan, const ParamTensors* list,
          const std::vector<std::int64_t>& planned, const std::vector<CudaGroupOptions>& groups) {
  using T = typename Argument::Value;
  argument.n_groups = static_cast<std::uint32_t>(plan.groups.size());
  argument.n_tensors = static_cast<std::uint32_t>(plan.tensors.size());
  auto* params = const_cast<GroupParams<T>*>(argument.groups());
  for (const std::int64_t group : plan.groups) *params++ = group_params<T>(groups[group], group);
  argument.set_chunk_ends([&](std::uint32_t i) { return plan.tensors[i].chunk_end; });
  auto* metadata = const_cast<typename Argument::TensorMetadataType*>(argument.tensors());
  auto* layout = const_cast<TensorLayout*>(argument.layouts());
  for (const LaunchPlan::PlannedTensor& tensor : plan.tensors) {
    const ParamTensors& tensors = list[planned[tensor.index]];
    fill(*metadata++, tensors);
    *layout++ = {tensor.tail, tensor.group_index, dtypes_of(tensors)};
  }
}

}  // namespace clrfast
