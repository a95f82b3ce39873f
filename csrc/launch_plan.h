// How the tensors of a step are laid over kernel launches: plain arithmetic on the host, no CUDA.
//
// A tensor is cut into chunks, the last one shorter; a block updates one chunk. The chunks of a launch are numbered
// through, so a block finds its tensor by searching `chunk_end`. What a launch knows travels by value as its argument,
// whose size limits how many tensors and groups it covers; more go into further launches.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace clrfast {

struct Work {
  std::int64_t numel, group;
  int chunk;  // elements of a chunk of this tensor, at most 65,535
};

struct LaunchLimits {
  std::size_t bytes, entry_bytes, slot_bytes;  // of the argument's memory; of one tensor; of one group
  std::size_t slots;
  std::int64_t chunks;
};

struct LaunchPlan {
  struct Entry {
    std::int64_t work;        // index of the tensor
    std::uint32_t chunk_end;  // one past its last chunk in this launch
    std::uint16_t tail;       // elements of its last chunk, at least 1
    std::uint16_t slot;       // position of its group in `groups`
  };
  std::vector<Entry> entries;
  std::vector<std::int64_t> groups;

  std::uint32_t n_chunks() const { return entries.empty() ? 0 : entries.back().chunk_end; }
};

// Every element of every tensor is covered exactly once, in the order given. Empty tensors take no part.
inline std::vector<LaunchPlan> plan_launches(const std::vector<Work>& works, const LaunchLimits& limits) {
  std::vector<LaunchPlan> plans;
  for (std::size_t i = 0; i < works.size(); ++i) {
    const Work& work = works[i];
    if (work.numel == 0) continue;
    const std::int64_t chunks = (work.numel + work.chunk - 1) / work.chunk;
    if (plans.empty()) plans.emplace_back();
    // Groups come in order, so a group that this launch knows is nearly always the last one.
    const auto slot_of = [&](const LaunchPlan& plan) {
      const auto found = std::find(plan.groups.rbegin(), plan.groups.rend(), work.group);
      return found == plan.groups.rend() ? plan.groups.size()
                                         : static_cast<std::size_t>(plan.groups.rend() - found - 1);
    };
    std::size_t slot = slot_of(plans.back());
    const std::size_t slots = std::max(slot + 1, plans.back().groups.size());
    const std::size_t bytes =
        slots * limits.slot_bytes + (plans.back().entries.size() + 1) * limits.entry_bytes;
    if (bytes > limits.bytes || slots > limits.slots || plans.back().n_chunks() + chunks > limits.chunks) {
      plans.emplace_back();
      slot = 0;
    }
    LaunchPlan& plan = plans.back();
    if (slot == plan.groups.size()) plan.groups.push_back(work.group);
    plan.entries.push_back({static_cast<std::int64_t>(i), static_cast<std::uint32_t>(plan.n_chunks() + chunks),
                            static_cast<std::uint16_t>(work.numel - (chunks - 1) * work.chunk),
                            static_cast<std::uint16_t>(slot)});
  }
  return plans;
}

}  // namespace clrfast
