// Writes a launch's groups and tensors into its argument, on the host.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/launch_argument.h"
#include "cuda/launch_plan.h"
#include "cuda/update.h"
#include "tensor_list.h"

namespace clrfast {

template <int n_states>
void fill(TensorMetadata<n_states>& metadata, const ParamTensors& tensors) {
  metadata.param = reinterpret_cast<void*>(tensors.param);
  metadata.grad = reinterpret_cast<const void*>(tensors.grad);
  for (int k = 0; k < n_states; ++k) metadata.states[k] = reinterpret_cast<void*>(tensors.states[k]);
}

template <int n_states>
void fill(FullTensorMetadata<n_states>& metadata, const ParamTensors& tensors) {
  fill(static_cast<TensorMetadata<n_states>&>(metadata), tensors);
  metadata.master_address = reinterpret_cast<void*>(tensors.master);
  metadata.counter_address = reinterpret_cast<UpdateCounter*>(tensors.counter);
}

template <class Rule, class T>
GroupParams<Rule, T> group_params(const CudaGroupOptions<Rule>& group, std::int64_t control_row) {
  using Scalar = typename Rule::template Scalar<T>;
  const Row<double>& row = group.options.row;
  GroupParams<Rule, T> params{
      {static_cast<Scalar>(row.lr), static_cast<Scalar>(row.momentum), static_cast<Scalar>(row.weight_decay)},
      Rule::template constants<Scalar>(group.options.constants),
      nullptr,
      static_cast<std::int32_t>(control_row),
      group.options.maximize};
  if constexpr (sizeof(Scalar) == sizeof(float))
    params.lr_tensor = group.lr_float32;
  else
    params.lr_tensor = group.lr_float64;
  return params;
}

// `planned`: positions in `list` of the tensors that the plan was made for.
template <class Argument>
void fill(Argument& argument, const LaunchPlan& plan, const ParamTensors* list,
          const std::vector<std::int64_t>& planned, const std::vector<CudaGroupOptions<typename Argument::Rule>>& groups) {
  using Rule = typename Argument::Rule;
  using T = typename Argument::Value;
  argument.n_groups = static_cast<std::uint32_t>(plan.groups.size());
  argument.n_tensors = static_cast<std::uint32_t>(plan.tensors.size());
  auto* params = const_cast<typename Argument::Group*>(argument.groups());
  for (const std::int64_t group : plan.groups) *params++ = group_params<Rule, T>(groups[group], group);
  argument.set_chunk_ends([&](std::uint32_t i) { return plan.tensors[i].chunk_end; });
  auto* metadata = const_cast<typename Argument::Metadata*>(argument.tensors());
  auto* layout = const_cast<TensorLayout*>(argument.layouts());
  for (const LaunchPlan::PlannedTensor& tensor : plan.tensors) {
    const ParamTensors& tensors = list[planned[tensor.index]];
    fill(*metadata++, tensors);
    *layout++ = {tensor.tail, tensor.group_index, dtypes_of(tensors)};
  }
}

}  // namespace clrfast
