// clrfast._C: the native backends as functions. Python validates values; this file validates what memory safety needs.
// Nothing links torch: the headers in python/ read the tensors' memory from their Python objects.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "clip.h"
#include "cpu/update.h"
#include "python/fingerprint.h"
#include "python/tensor_collector.h"
#include "rules/all.h"
#include "step_control.h"
#ifdef CLRFAST_CUDA
#include "cuda/update.h"
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

// Makes a StepControl from (table, total_steps, n_groups, step, losses, grad_norms, average, stop, row), where all but
// the two numbers are addresses; from None, one without a table. Python keeps the tensors alive and reads the addresses
// at every step.
StepControl control_of(py::handle given) {
  if (given.is_none()) return {};
  const auto values = given.cast<std::vector<std::int64_t>>();
  require(values.size() == 9 && std::all_of(values.begin(), values.end(), [](std::int64_t value) { return value > 0; }),
          "a control needs all of its memory");
  return {at<float>(values[0]),        values[1],           values[2],
          at<std::int64_t>(values[3]), at<float>(values[4]), at<float>(values[5]),
          at<float>(values[6]),        at<std::uint8_t>(values[7]), at<float>(values[8]), 0, 0};
}

// Advances the control in (control, smoothing, stop_factor, loss, found_inf), where `loss` may be None, and returns it.
StepControl advance_(const py::tuple& given) {
  require(given.size() == 5, "an advance must be a tuple of five");
  StepControl control = control_of(given[0]);
  require(control.table && *control.step >= 0, "step must not be negative");
  control.smoothing = given[1].cast<float>();
  control.stop_factor = given[2].cast<float>();
  const auto loss = given[3].cast<std::optional<float>>();
  const float found_inf = given[4].cast<float>();
  advance(control, loss ? &*loss : nullptr, &found_inf);
  return control;
}

// Numbers of a group's options: lr, momentum, weight_decay, maximize, and those of the rule.
template <class Rule>
constexpr py::size_t n_options = 4 + Rule::n_constants;

// Makes one group's options from a tuple of `n_options` numbers, after which a backend may need more.
template <class Rule>
GroupOptions<Rule> group_of(py::handle values, py::size_t size) {
  const auto group = py::reinterpret_borrow<py::tuple>(values);
  require(py::isinstance<py::tuple>(values) && group.size() == size, "a group must be a tuple of numbers");
  const auto value = [&](int k) { return group[k].cast<double>(); };
  GroupOptions<Rule> options{{value(0), value(1), value(2)}, true, value(3) != 0, {}};
  for (int k = 0; k < Rule::n_constants; ++k) options.constants[k] = value(4 + k);
  return options;
}

using Rows = Array<std::int64_t>;

const ParamTensors* checked(const Rows& rows, std::int64_t n_groups) {
  require(rows.ndim() == 2 && rows.shape(1) == tensor_columns, "rows must be [n, 10]");
  const auto* list = reinterpret_cast<const ParamTensors*>(rows.data());
  for (py::ssize_t i = 0; i < rows.shape(0); ++i) {
    const ParamTensors& t = list[i];
    require(t.group >= 0 && t.group < n_groups, "group out of range");
    require(t.dtypes >= 0 && t.dtypes < 64, "unknown dtype");
    require(t.numel >= 0, "negative numel");
    require(t.numel == 0 || !t.param == !t.grad, "a tensor has no memory");
    require(t.counter % 8 == 0, "a counter must be aligned");
  }
  return list;
}

// The same, and whether the rule has the state that it needs.
template <class Rule>
const ParamTensors* checked_for(const Rows& rows, const std::vector<GroupOptions<Rule>>& groups) {
  const ParamTensors* list = checked(rows, static_cast<std::int64_t>(groups.size()));
  for (py::ssize_t i = 0; i < rows.shape(0); ++i) {
    const ParamTensors& t = list[i];
    if (!t.grad) continue;
    const unsigned variant =
        Rule::variant({1, 1, 1}, Rule::template constants<double>(groups[t.group].constants), t.states[0] != 0);
    for (int k = 0; k < std::max(Rule::states_used(variant), Rule::min_states); ++k)
      require(t.states[k], "a state has no memory");
    require(t.counter || !Rule::always_counts, "a counter has no memory");
  }
  return list;
}

// Advances the control, if there is one: its row replaces that of each group and decides whether the update is applied.
// Without one, `apply` decides.
template <class Rule>
void update_(Rows rows, py::list groups, py::handle given_advance, bool apply, double grad_scale, double clip_factor,
             int n_threads) {
  const StepControl control = given_advance.is_none() ? StepControl{} : advance_(given_advance.cast<py::tuple>());
  require(!control.table || control.n_groups == static_cast<std::int64_t>(groups.size()),
          "the control has another number of groups");
  std::vector<GroupOptions<Rule>> options;
  options.reserve(groups.size());
  for (const py::handle values : groups) {
    options.push_back(group_of<Rule>(values, n_options<Rule>));
    options.back().apply = apply;
    if (control.table) {
      const float* row = control.row + 4 * (options.size() - 1);
      options.back().row = {row[0], row[1], row[2]};
      options.back().apply = row[3] != 0;
    }
  }
  const ParamTensors* list = checked_for<Rule>(rows, options);
  for (py::ssize_t i = 0; i < rows.shape(0); ++i) {
    const TensorDtypes dtypes = dtypes_of(list[i]);
    require(!list[i].grad || (dtypes.all(dtypes.param()) && !list[i].master), "tensors of several dtypes");
  }
  py::gil_scoped_release release;
  update_cpu(list, rows.shape(0), options.data(), grad_scale, clip_factor, n_threads);
}

// Makes ClipParams from (control, max_norm, grad_scale, found_inf, result), where the last three are addresses; those of
// grad_scale and found_inf may be 0.
ClipParams clip_of(const py::tuple& given) {
  require(given.size() == 5, "a clip must be a tuple of five");
  const auto address = [&](int k) { return given[k].cast<std::int64_t>(); };
  require(address(4) != 0, "a clip needs room for its result");
  return {at<float>(address(2)), at<float>(address(3)), given[1].cast<double>(), control_of(given[0]),
          at<ClipResult>(address(4))};
}

void clip_(Rows rows, std::int64_t n_groups, const py::tuple& given, int n_threads) {
  const ClipParams params = clip_of(given);
  const ParamTensors* list = checked(rows, n_groups);
  py::gil_scoped_release release;
  clip(params, squared_norm_cpu(list, rows.shape(0), n_threads));
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

// Each group is a tuple of `n_options` numbers, then the addresses of a rate on the device as float32 and as float64.
template <class Rule>
int update_cuda_(Rows rows, py::list groups, const py::tuple& advance, std::int64_t grad_scale,
                 std::int64_t clip_factor, std::int64_t found_inf, std::uint32_t max_merged_chunks,
                 std::intptr_t stream) {
  const CudaStep step{advance_of(advance), at<float>(grad_scale), at<double>(clip_factor), at<float>(found_inf),
                      max_merged_chunks};
  const StepControl& control = step.advance.control;
  require(!control.table || control.n_groups == static_cast<std::int64_t>(groups.size()),
          "the control has another number of groups");
  std::vector<CudaGroupOptions<Rule>> options;
  std::vector<GroupOptions<Rule>> numbers;
  options.reserve(groups.size());
  for (const py::handle values : groups) {
    numbers.push_back(group_of<Rule>(values, n_options<Rule> + 2));
    const auto address = [&](py::size_t k) { return values.cast<py::tuple>()[k].cast<std::int64_t>(); };
    options.push_back(
        {numbers.back(), at<float>(address(n_options<Rule>)), at<double>(address(n_options<Rule> + 1))});
  }
  const ParamTensors* list = checked_for<Rule>(rows, numbers);
  for (py::ssize_t i = 0; i < rows.shape(0); ++i) {
    const TensorDtypes dtypes = dtypes_of(list[i]);
    require(!list[i].counter || step.advance.step_count, "a counter needs a step_count");
    require(!list[i].master || dtypes.param() == Dtype::float16 || dtypes.param() == Dtype::bfloat16,
            "master weights are for 16-bit parameters");
    require(!list[i].master || !list[i].states[0] || dtypes.state() == Dtype::float32,
            "master weights need float32 states");
  }
  py::gil_scoped_release release;
  return update_cuda(list, rows.shape(0), options, step, stream);
}

void clip_cuda_(Rows rows, std::int64_t n_groups, const py::tuple& given, std::int64_t scratch, std::intptr_t stream) {
  const ClipParams params = clip_of(given);
  const ParamTensors* list = checked(rows, n_groups);
  require(scratch != 0, "a clip needs scratch memory");
  py::gil_scoped_release release;
  clip_cuda(list, rows.shape(0), params, at<double>(scratch), stream);
}

std::int64_t clip_scratch_(Rows rows) {
  return clip_scratch(checked(rows, std::numeric_limits<std::int64_t>::max()), rows.shape(0));
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

// Returns what `control_of` takes, from a control's tensors (table, step, losses, grad_norms, average, stop, row); None
// if one of them does not fit.
py::object control_addresses(py::tuple tensors, std::int64_t total_steps, std::int64_t n_groups, Device device) {
  require(tensors.size() == 7, "a control has seven tensors");
  if (!exchange_api) return py::none();
  PlainTensorCheck is_plain;
  const auto floats = [&](int k, std::initializer_list<std::int64_t> shape) {
    return address_if(tensors[k].ptr(), float_code, 32, shape, device, is_plain);
  };
  const std::int64_t table = floats(0, {total_steps, n_groups, 3}), losses = floats(2, {total_steps}),
                     grad_norms = floats(3, {total_steps}), average = floats(4, {3}), row = floats(6, {n_groups, 4}),
                     step = address_if(tensors[1].ptr(), int_code, 64, {}, device, is_plain),
                     stop = address_if(tensors[5].ptr(), bool_code, 8, {}, device, is_plain);
  if (!table || !step || !losses || !grad_norms || !average || !stop || !row) return py::none();
  return py::make_tuple(table, total_steps, n_groups, step, losses, grad_norms, average, stop, row);
}

// Defines the functions of one rule, under its name in Python.
template <class Rule>
void define_rule(py::module_& m, const std::string& name) {
  // noconvert: Python uses the array's memory afterwards, so a write to a converted copy would be lost.
  m.def((name + "_").c_str(), &update_<Rule>, py::arg("rows").noconvert(), py::arg("groups"),
        py::arg("advance").none(true), py::arg("apply"), py::arg("grad_scale"), py::arg("clip_factor"),
        py::arg("n_threads"));
#ifdef CLRFAST_CUDA
  m.def((name + "_cuda_").c_str(), &update_cuda_<Rule>, py::arg("rows").noconvert(), py::arg("groups"),
        py::arg("advance"), py::arg("grad_scale"), py::arg("clip_factor"), py::arg("found_inf"),
        py::arg("max_merged_chunks"), py::arg("stream"));
  m.attr((name + "_tensors_per_launch").c_str()) = tensors_per_launch<Rule>();
#endif
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native backends of clrfast (clrfast/optim/_backends), and the checks of replays (clrfast/training).";
  m.def("advance_", [](const py::tuple& advance) { advance_(advance); }, py::arg("advance"));
#define CLRFAST_DEFINE(Rule, name) define_rule<Rule>(m, #name);
  CLRFAST_RULES(CLRFAST_DEFINE)
  m.def("clip_", &clip_, py::arg("rows").noconvert(), py::arg("n_groups"), py::arg("clip"), py::arg("n_threads"));
  py::class_<TensorCollector>(m, "TensorCollector", py::module_local())
      .def(py::init<Device, std::vector<std::int32_t>, bool, bool>(), py::arg("device"), py::arg("other_ids"),
           py::arg("mixed_dtypes"), py::arg("master_weights"))
      .def("collect", &TensorCollector::collect, py::arg("param_groups"), py::arg("state"), py::arg("counters"),
           py::arg("state_counts"), py::arg("counter_groups"), py::arg("cache"));
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
  m.def("advance_cuda_", &advance_cuda_, py::arg("advance"), py::arg("stream"));
  m.def("clip_cuda_", &clip_cuda_, py::arg("rows").noconvert(), py::arg("n_groups"), py::arg("clip"),
        py::arg("scratch"), py::arg("stream"));
  m.def("clip_scratch", &clip_scratch_, py::arg("rows").noconvert());
  m.def("load_cuda", &load_cuda);
  m.def("cuda_problem", &cuda_problem);
  m.def("hold_for_graph", &hold_for_graph, py::arg("stream"), py::arg("objects"));
#endif
}
