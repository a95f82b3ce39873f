// Python access to the launch planner, and to the state of the emulation.
#include <cuda_runtime.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>

#include "cuda/launch_argument.h"
#include "cuda/launch_plan.h"
#include "rules/sgd.h"

namespace py = pybind11;

PYBIND11_MODULE(_emulation, m) {
  m.def("plan", [](const std::vector<std::tuple<std::int64_t, std::int64_t, int>>& tensors, std::size_t bytes,
                   std::size_t tensor_bytes, std::size_t group_bytes, std::size_t groups, std::int64_t chunks) {
    std::vector<clrfast::TensorSize> sizes;
    for (const auto& [numel, group, chunk] : tensors) sizes.push_back({numel, group, chunk});
    py::list plans;
    for (const auto& plan : clrfast::plan_launches(sizes, {bytes, tensor_bytes, group_bytes, groups, chunks})) {
      py::list planned;
      for (const auto& tensor : plan.tensors)
        planned.append(py::make_tuple(tensor.index, tensor.chunk_end, tensor.tail, tensor.group_index));
      plans.append(py::make_tuple(planned, plan.groups));
    }
    return plans;
  });
  m.def("find_chunks", [](const std::vector<std::uint32_t>& chunk_ends) {
    auto argument = std::make_unique<clrfast::UpdateArgument<clrfast::Sgd, float, clrfast::TensorMetadata, 32764>>();
    argument->n_groups = 1;
    argument->n_tensors = static_cast<std::uint32_t>(chunk_ends.size());
    argument->set_chunk_ends([&](std::uint32_t i) { return chunk_ends[i]; });
    py::list found;
    for (std::uint32_t block = 0; block < chunk_ends.back(); ++block) {
      const clrfast::ChunkLocation location = argument->find(block);
      found.append(py::make_tuple(location.tensor, location.chunk, location.last));
    }
    return found;
  });
  m.def("launches", [] { return emulated::launches.exchange(0); });
  m.def("fail_next_launch", [] { emulated::next_error = 1; });
  m.def("ascending", [](bool value) { emulated::ascending = value; });
  m.def("capturing", [](bool value) { emulated::capturing = value; });
  m.def("end_graph", &emulated::end_graph);
}
