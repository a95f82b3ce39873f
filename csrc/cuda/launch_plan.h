// Divides the tensors of a step among kernel launches: plain arithmetic on the host, no CUDA.
//
// A tensor is cut into chunks, the last one shorter, and a block updates one chunk. The chunks of a launch have
// consecutive numbers, so a block finds its tensor by searching `chunk_end`. A launch's argument travels by value, and
// its size limits the number of tensors and groups; further tensors go into further launches.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace clrfast {

struct TensorSize {
  std::int64_t numel, group;
  int chunk;  // elements of a chunk of this tensor, at most 65,535
};

struct LaunchLimits {
  std::size_t bytes, tensor_bytes, group_bytes;  // of the argument's memory; of one tensor in it; of one group in it
  std::size_t groups;
  std::int64_t chunks;
};

struct LaunchPlan {
  struct PlannedTensor {
    std::int64_t index;         // in the list that was planned
    std::uint32_t chunk_end;    // one past its last chunk in this launch
    std::uint16_t tail;         // elements of its last chunk, at least 1
    std::uint16_t group_index;  // position of its group in `groups`
  };
  std::vector<PlannedTensor> tensors;
  std::vector<std::int64_t> groups;

  std::uint32_t n_chunks() const { return tensors.empty() ? 0 : tensors.back().chunk_end; }
};

// The plans cover every element of every tensor exactly once, in the given order. Empty tensors are left out.
inline std::vector<LaunchPlan> plan_launches(const std::vector<TensorSize>& sizes, const LaunchLimits& limits) {
  std::vector<LaunchPlan> plans;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const TensorSize& size = sizes[i];
    if (size.numel == 0) continue;
    const std::int64_t chunks = (size.numel + size.chunk - 1) / size.chunk;
    if (plans.empty()) plans.emplace_back();
    // Groups come in order, so a group that the launch has is nearly always its last one.
    const auto position_of = [&](const LaunchPlan& plan) {
      const auto found = std::find(plan.groups.rbegin(), plan.groups.rend(), size.group);
      return found == plan.groups.rend() ? plan.groups.size()
                                         : static_cast<std::size_t>(plan.groups.rend() - found - 1);
    };
    std::size_t group_index = position_of(plans.back());
    const std::size_t n_groups = std::max(group_index + 1, plans.back().groups.size());
    const std::size_t bytes =
        n_groups * limits.group_bytes + (plans.back().tensors.size() + 1) * limits.tensor_bytes;
    if (bytes > limits.bytes || n_groups > limits.groups || plans.back().n_chunks() + chunks > limits.chunks) {
      plans.emplace_back();
      group_index = 0;
    }
    LaunchPlan& plan = plans.back();
    if (group_index == plan.groups.size()) plan.groups.push_back(size.group);
    plan.tensors.push_back({static_cast<std::int64_t>(i), static_cast<std::uint32_t>(plan.n_chunks() + chunks),
                            static_cast<std::uint16_t>(size.numel - (chunks - 1) * size.chunk),
                            static_cast<std::uint16_t>(group_index)});
  }
  return plans;
}

}  // namespace clrfast
