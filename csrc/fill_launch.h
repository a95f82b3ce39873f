// Writes a launch's tensors and groups into its argument, on the host.
#pragma once

#include <cstdint>
#include <vector>

#include "launch_argument.h"
#include "launch_plan.h"
#include "sgd_cuda.h"
#include "tensor_list.h"

namespace clrfast {

inline void fill(Entry& entry, const Tensor& tensor) {
  entry.param = reinterpret_cast<void*>(tensor.param);
  entry.grad = reinterpret_cast<const void*>(tensor.grad);
  entry.buffer = reinterpret_cast<void*>(tensor.buffer);
}

inline void fill(FullEntry& entry, const Tensor& tensor) {
  fill(static_cast<Entry&>(entry), tensor);
  entry.own_master = reinterpret_cast<void*>(tensor.master);
  entry.own_started = reinterpret_cast<std::int64_t*>(tensor.started);
}

template <class T>
Slot<T> slot_of(const CudaGroup& group, std::int64_t index) {
  const Group& values = group.values;
  Slot<T> slot{static_cast<T>(values.lr),
               static_cast<T>(values.momentum),
               static_cast<T>(values.weight_decay),
               static_cast<T>(1 - values.dampening),
               nullptr,
               static_cast<std::int32_t>(index),
               values.nesterov,
               values.maximize};
  if constexpr (sizeof(T) == sizeof(float))
    slot.lr_tensor = group.lr_float32;
  else
    slot.lr_tensor = group.lr_float64;
  return slot;
}

inline Types types_of(const Tensor& tensor) { return {static_cast<unsigned>(tensor.types)}; }

// `list`: the tensors that the plan's `work` counts.
template <class L>
void fill(L& argument, const LaunchPlan& plan, const Tensor* tensors, const std::vector<std::int64_t>& list,
          const std::vector<CudaGroup>& groups) {
  using T = typename L::Value;
  argument.n_slots = static_cast<std::uint32_t>(plan.groups.size());
  argument.n_entries = static_cast<std::uint32_t>(plan.entries.size());
  auto* slot = const_cast<Slot<T>*>(argument.slots());
  for (const std::int64_t group : plan.groups) *slot++ = slot_of<T>(groups[group], group);
  argument.set_ends([&](std::uint32_t i) { return plan.entries[i].chunk_end; });
  auto* entry = const_cast<typename L::Tensors*>(argument.entries());
  auto* detail = const_cast<Detail*>(argument.details());
  for (const LaunchPlan::Entry& planned : plan.entries) {
    const Tensor& tensor = tensors[list[planned.work]];
    fill(*entry++, tensor);
    *detail++ = {planned.tail, planned.slot, types_of(tensor)};
  }
}

}  // namespace clrfast
