// clrfast._C: the native backends as functions. Python validates values; this file validates what memory safety needs.
// Nothing links torch: the headers in python/ read the tensors' memory from their Python objects.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/sgd.h"
#include "python/fingerprint.h"
#include "python/tensor_collector.h"
#include "step_control.h"
#ifdef CLRFAST_CUDA
#include "cuda/sgd.h"
#include "python/graph_references.h"
#endif

namespace py = pybind11;
using namespace clrfast;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("clrfast._C: ") + what);
}

template <class T>
T* at(std::int64_t address) {
  return reinterpret_cast<T*>(address);
}

// Makes a StepControl from (table, total_steps, n_groups, step, losses, average, stop, row), where all but the two
// numbers are addresses; from None, one without a table. Python keeps the tensors alive and reads the addresses at
// every step.
StepControl control_of(py::handle given) {
  if (given.is_none()) return {};
  const auto values = given.cast<std::vector<std::int64_t>>();
  require(values.size() == 8 && std::all_of(values.begin(), values.end(), [](std::int64_t value) { return value > 0; }),
          "a control needs all of its memory");
  return {at<float>(values[0]), values[1],           values[2],
          at<std::int64_t>(values[3]), at<float>(values[4]), at<float>(values[5]),
          at<std::uint8_t>(values[6]), at<float>(values[7]), 0, 0};
}

void advance_(py::handle given, float smoothing, float stop_factor, std::optional<float> loss, float found_inf) {
  StepControl control = control_of(given);
  require(control.table && *control.step >= 0, "step must not be negative");
  control.smoothing = smoothing;
  control.stop_factor = stop_factor;
  advance(control, loss ? &*loss : nullptr, &found_inf);
}

// Makes one group's options from (lr, momentum, weight_decay, dampening, nesterov, maximize, ...); a backend may need
// more than these six.
GroupOptions group_of(py::handle values, py::size_t size) {
  const auto group = py::reinterpret_borrow<py::tuple>(values);
  require(py::isinstance<py::tuple>(values) && group.size() == size, "a group must be a tuple of numbers");
  const auto value = [&](int k) { return group[k].cast<double>(); };
  return {value(0), value(1), value(2), true, value(3), value(4) != 0, value(5) != 0};
}

const ParamTensors* checked(const Array<std::int64_t>& rows, std::int64_t n_groups) {
  require(rows.ndim() == 2 && rows.shape(1) == tensor_columns, "rows must be [n, 8]");
  const auto* list = reinterpret_cast<const ParamTensors*>(rows.data());
  for (py::ssize_t i = 0; i < rows.shape(0); ++i) {
    const ParamTensors& t = list[i];
    require(t.group >= 0 && t.group < n_groups, "group out of range");
    require(t.dtypes >= 0 && t.dtypes < 64, "unknown dtype");
    require(t.numel >= 0, "negative numel");
    require(t.numel == 0 || !t.param == !t.grad, "a tensor has no memory");
  }
  return list;
}

// With a control, its current row replaces the first three values of each group and decides whether the update is
// applied. Without one, `apply` decides.
void sgd_(Array<std::int64_t> rows, py::list groups, py::handle given_control, bool apply, double grad_scale,
          int n_threads) {
  const auto n_groups = static_cast<std::int64_t>(groups.size());
  const StepControl control = control_of(given_control);
  require(!control.table || control.n_groups == n_groups, "the control has another number of groups");
  std::vector<GroupOptions> options;
  options.reserve(groups.size());
  for (const py::handle values : groups) {
    options.push_back(group_of(values, 6));
    options.back().apply = apply;
    if (control.table) {
      const float* row = control.row + 4 * (options.size() - 1);
      options.back().lr = row[0], options.back().momentum = row[1], options.back().weight_decay = row[2];
      options.back().apply = row[3] != 0;
    }
  }
  const ParamTensors* list = checked(rows, n_groups);
  for (py::ssize_t i = 0; i < rows.shape(0); ++i) {
    const TensorDtypes dtypes = dtypes_of(list[i]);
    require(!list[i].grad || (dtypes.all(dtypes.param()) && !list[i].master), "tensors of several dtypes");
  }
  py::gil_scoped_release release;
  sgd_cpu(list, rows.shape(0), options.data(), grad_scale, n_threads);
}

#ifdef CLRFAST_CUDA
// Makes AdvanceParams from (control, smoothing, stop_factor, loss, found_inf, step_count, blocks_done), where the last
// four are addresses or 0.
AdvanceParams advance_of(const py::tuple& given) {
  require(given.size() == 7, "an advance must be a tuple of seven");
  const auto address = [&](int k) { return given[k].cast<std::int64_t>(); };
  AdvanceParams advance{control_of(given[0]), at<float>(address(3)), at<float>(address(4)),
                        at<std::int64_t>(address(5)), at<std::uint32_t>(address(6))};
  advance.control.smoothing = given[1].cast<float>();
  advance.control.stop_factor = given[2].cast<float>();
  require(advance.control.table || !advance.blocks_done, "only a control needs blocks_done");
  return advance;
}

void advance_cuda_(const py::tuple& advance, std::intptr_t stream) {
  AdvanceParams alone = advance_of(advance);
  alone.blocks_done = nullptr;
  advance_cuda(alone, stream);
}

// Each group is a tuple of eight: the six options, then the addresses of a rate on the device as float32 and as
// float64.
int sgd_cuda_(Array<std::int64_t> rows, py::list groups, const py::tuple& advance, std::int64_t grad_scale,
              std::int64_t found_inf, std::uint32_t max_merged_chunks, std::intptr_t stream) {
  const auto n_groups = static_cast<std::int64_t>(groups.size());
  const CudaStep step{advance_of(advance), at<float>(grad_scale), at<float>(found_inf), max_merged_chunks};
  const StepControl& control = step.advance.control;
  require(!control.table || control.n_groups == n_groups, "the control has another number of groups");
  std::vector<CudaGroupOptions> options;
  options.reserve(groups.size());
  for (const py::handle values : groups) {
    const GroupOptions group = group_of(values, 8);
    const auto address = [&](int k) { return values.cast<py::tuple>()[k].cast<std::int64_t>(); };
    options.push_back({group, at<float>(address(6)), at<double>(address(7))});
  }
  const ParamTensors* list = checked(rows, n_groups);
  for (py::ssize_t i = 0; i < rows.shape(0); ++i) {
    const TensorDtypes dtypes = dtypes_of(list[i]);
    require(!list[i].momentum_initialized || step.advance.step_count, "momentum_initialized needs a step_count");
    require(!list[i].master || dtypes.param() == Dtype::float16 || dtypes.param() == Dtype::bfloat16,
            "master weights are for 16-bit parameters");
    require(!list[i].master || !list[i].buffer || dtypes.buffer() == Dtype::float32,
            "master weights need a float32 buffer");
  }
  py::gil_scoped_release release;
  return sgd_cuda(list, rows.shape(0), options, step, stream);
}
#endif

// Takes torch.Tensor and its `__dlpack_c_exchange_api__`. Returns false if the API has another major version.
bool set_exchange_api_(py::type tensor, py::capsule capsule) {
  const auto* api = static_cast<const ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!api) throw py::error_already_set();
  if (api->version.major != 1) return false;
  exchange_api = api;
  tensor_type = reinterpret_cast<PyTypeObject*>(tensor.ptr());
  return true;
}

// Returns what `control_of` takes, from a control's tensors (table, step, losses, average, stop, row); None if one of
// them does not fit.
py::object control_addresses(py::tuple tensors, std::int64_t total_steps, std::int64_t n_groups, Device device) {
  require(tensors.size() == 6, "a control has six tensors");
  if (!exchange_api) return py::none();
  PlainTensorCheck is_plain;
  const auto floats = [&](int k, std::initializer_list<std::int64_t> shape) {
    return address_if(tensors[k].ptr(), float_code, 32, shape, device, is_plain);
  };
  const std::int64_t table = floats(0, {total_steps, n_groups, 3}), losses = floats(2, {total_steps}),
                     average = floats(3, {3}), row = floats(5, {n_groups, 4}),
                     step = address_if(tensors[1].ptr(), int_code, 64, {}, device, is_plain),
                     stop = address_if(tensors[4].ptr(), bool_code, 8, {}, device, is_plain);
  if (!table || !step || !losses || !average || !stop || !row) return py::none();
  return py::make_tuple(table, total_steps, n_groups, step, losses, average, stop, row);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native backends of clrfast (clrfast/optim/_backends), and the checks of replays (clrfast/training).";
  m.def("advance_", &advance_, py::arg("control"), py::arg("smoothing"), py::arg("stop_factor"), py::arg("loss"),
        py::arg("found_inf"));
  // noconvert: Python uses the array's memory afterwards, so a write to a converted copy would be lost.
  m.def("sgd_", &sgd_, py::arg("rows").noconvert(), py::arg("groups"), py::arg("control").none(true), py::arg("apply"),
        py::arg("grad_scale"), py::arg("n_threads"));
  py::class_<TensorCollector>(m, "TensorCollector", py::module_local())
      .def(py::init<Device, std::vector<std::int32_t>, bool, bool>(), py::arg("device"), py::arg("other_ids"),
           py::arg("mixed_dtypes"), py::arg("master_weights"))
      .def("collect", &TensorCollector::collect, py::arg("param_groups"), py::arg("state"), py::arg("flags"),
           py::arg("momentum_groups"), py::arg("flag_groups"), py::arg("cache"));
  m.def("control_addresses", &control_addresses, py::arg("tensors"), py::arg("total_steps"), py::arg("n_groups"),
        py::arg("device"));
  m.def("set_exchange_api_", &set_exchange_api_, py::arg("tensor"), py::arg("capsule"));
  m.def("read_locations_", &read_locations_, py::arg("tensors"), py::arg("locations").noconvert());
  m.def("unchanged", &unchanged, py::arg("modules"), py::arg("contents"), py::arg("tensors"),
        py::arg("locations").noconvert());
  m.def("training_flags", &training_flags, py::arg("modules"), py::arg("params"));
  m.def("set_gradients_", &set_gradients_, py::arg("param_groups"), py::arg("grads"));
#ifdef CLRFAST_CUDA
  m.attr("cuda_targets") = CLRFAST_CUDA;
  m.attr("tensors_per_launch") = tensors_per_launch();
  m.def("advance_cuda_", &advance_cuda_, py::arg("advance"), py::arg("stream"));
  m.def("sgd_cuda_", &sgd_cuda_, py::arg("rows").noconvert(), py::arg("groups"), py::arg("advance"),
        py::arg("grad_scale"), py::arg("found_inf"), py::arg("max_merged_chunks"), py::arg("stream"));
  m.def("load_cuda", &load_cuda);
  m.def("cuda_problem", &cuda_problem);
  m.def("hold_for_graph", &hold_for_graph, py::arg("stream"), py::arg("objects"));
#endif
}
