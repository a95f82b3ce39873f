// What the tests need beside the bindings: the launch planner by itself, and the emulation's own state.
#include <cuda_runtime.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>

#include "launch_argument.h"
#include "launch_plan.h"

namespace py = pybind11;

PYBIND11_MODULE(_emulation, m) {
  m.def("plan", [](const std::vector<std::tuple<std::int64_t, std::int64_t, int>>& works, std::size_t bytes,
                   std::size_t entry_bytes, std::size_t slot_bytes, std::size_t slots, std::int64_t chunks) {
    std::vector<clrfast::Work> list;
    for (const auto& [numel, group, chunk] : works) list.push_back({numel, group, chunk});
    py::list plans;
    for (const auto& plan : clrfast::plan_launches(list, {bytes, entry_bytes, slot_bytes, slots, chunks})) {
      py::list entries;
      for (const auto& entry : plan.entries)
        entries.append(py::make_tuple(entry.work, entry.chunk_end, entry.tail, entry.slot));
      plans.append(py::make_tuple(entries, plan.groups));
    }
    return plans;
  });
  m.def("places", [](const std::vector<std::uint32_t>& chunk_ends) {
    auto launch = std::make_unique<clrfast::Launch<float, clrfast::Entry, 32764>>();
    launch->n_slots = 1;
    launch->n_entries = static_cast<std::uint32_t>(chunk_ends.size());
    launch->set_ends([&](std::uint32_t i) { return chunk_ends[i]; });
    py::list places;
    for (std::uint32_t block = 0; block < chunk_ends.back(); ++block) {
      const clrfast::ChunkIndex place = launch->find(block);
      places.append(py::make_tuple(place.tensor, place.chunk, place.last));
    }
    return places;
  });
  m.def("launches", [] { return emulated::launches.exchange(0); });
  m.def("fail_next_launch", [] { emulated::next_error = 1; });
  m.def("ascending", [](bool value) { emulated::ascending = value; });
  m.def("capturing", [](bool value) { emulated::capturing = value; });
  m.def("end_graph", [] { emulated::graph_gone(emulated::graph_object); });
}
