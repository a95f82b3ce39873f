// What the tests need beside the bindings: the launch planner by itself, and the emulation's own state.
#include <cuda_runtime.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "launch_plan.h"

namespace py = pybind11;

PYBIND11_MODULE(_emulation, m) {
  m.attr("chunk_size") = clrfast::chunk_size;
  m.def("plan", [](const std::vector<std::pair<std::int64_t, std::int64_t>>& works, std::size_t bytes,
                   std::size_t entry_bytes, std::size_t slot_bytes, std::size_t slots, std::int64_t chunks) {
    std::vector<clrfast::Work> list;
    for (const auto& [numel, group] : works) list.push_back({numel, group});
    py::list plans;
    for (const auto& plan : clrfast::plan_launches(list, {bytes, entry_bytes, slot_bytes, slots, chunks})) {
      py::list entries;
      for (const auto& entry : plan.entries)
        entries.append(py::make_tuple(entry.work, entry.chunk_end, entry.tail, entry.slot));
      plans.append(py::make_tuple(entries, plan.groups));
    }
    return plans;
  });
  m.def("launches", [] { return emulated::launches.exchange(0); });
  m.def("fail_next_launch", [] { emulated::next_error = 1; });
  m.def("ascending", [](bool value) { emulated::ascending = value; });
  m.def("capturing", [](bool value) { emulated::capturing = value; });
  m.def("end_graph", [] { emulated::graph_gone(emulated::graph_object); });
}
