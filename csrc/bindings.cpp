// clrfast._C: the native backends as a handful of functions. Python validates values; what memory safety needs is
// validated here. Nothing links torch: csrc/collect.h reads the tensors' memory off their Python objects.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "collect.h"
#include "sgd_cpu.h"
#include "snapshot.h"
#include "step_control.h"
#ifdef CLRFAST_CUDA
#include "sgd_cuda.h"
#endif

namespace py = pybind11;
using namespace clrfast;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

constexpr py::ssize_t tensor_columns = sizeof(Tensor) / sizeof(std::int64_t);

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("clrfast._C: ") + what);
}

template <class T>
T* at(std::int64_t address) {
  return reinterpret_cast<T*>(address);
}

// A StepControl from (table, total_steps, n_groups, step, losses, average, stop, row), all but the two numbers addresses;
// one without a table from None. Python keeps the tensors alive, and reads their addresses at every step.
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

// One group's values of a step: (lr, momentum, weight_decay, dampening, nesterov, maximize), and what else a backend
// needs.
Group group_of(py::handle values, py::size_t size) {
  const auto group = py::reinterpret_borrow<py::tuple>(values);
  require(py::isinstance<py::tuple>(values) && group.size() == size, "a group must be a tuple of numbers");
  const auto value = [&](int k) { return group[k].cast<double>(); };
  return {value(0), value(1), value(2), true, value(3), value(4) != 0, value(5) != 0};
}

const Tensor* checked(const Array<std::int64_t>& tensors, std::int64_t n_groups) {
  require(tensors.ndim() == 2 && tensors.shape(1) == tensor_columns, "tensors must be [n, 8]");
  const auto* list = reinterpret_cast<const Tensor*>(tensors.data());
  for (py::ssize_t i = 0; i < tensors.shape(0); ++i) {
    const Tensor& t = list[i];
    require(t.group >= 0 && t.group < n_groups, "group out of range");
    require(t.types >= 0 && t.types < 64, "unknown dtype");
    require(t.numel >= 0, "negative numel");
    require(t.numel == 0 || !t.param == !t.grad, "a tensor has no memory");
  }
  return list;
}

// With a control, its current row replaces the groups' first three values and decides whether the update is applied;
// without, `apply` does.
void sgd_(Array<std::int64_t> tensors, py::list groups, py::handle given_control, bool apply, double grad_scale,
          int n_threads) {
  const auto n_groups = static_cast<std::int64_t>(groups.size());
  const StepControl control = control_of(given_control);
  require(!control.table || control.n_groups == n_groups, "the control has another number of groups");
  std::vector<Group> rows;
  rows.reserve(groups.size());
  for (const py::handle values : groups) {
    rows.push_back(group_of(values, 6));
    rows.back().apply = apply;
    if (control.table) {
      const float* row = control.row + 4 * (rows.size() - 1);
      rows.back().lr = row[0], rows.back().momentum = row[1], rows.back().weight_decay = row[2];
      rows.back().apply = row[3] != 0;
    }
  }
  const Tensor* list = checked(tensors, n_groups);
  for (py::ssize_t i = 0; i < tensors.shape(0); ++i) {
    const Types types{static_cast<unsigned>(list[i].types)};
    require(!list[i].grad || (types.all(types.param()) && !list[i].master), "tensors of several dtypes");
  }
  py::gil_scoped_release release;
  sgd_cpu(list, tensors.shape(0), rows.data(), grad_scale, n_threads);
}

#ifdef CLRFAST_CUDA
// (control, smoothing, stop_factor, loss, found_inf, tick, ticket), the last four addresses or 0.
Advance advance_of(const py::tuple& given) {
  require(given.size() == 7, "an advance must be a tuple of seven");
  const auto address = [&](int k) { return given[k].cast<std::int64_t>(); };
  Advance advance{control_of(given[0]), at<float>(address(3)), at<float>(address(4)), at<std::int64_t>(address(5)),
                  at<std::uint32_t>(address(6))};
  advance.control.smoothing = given[1].cast<float>();
  advance.control.stop_factor = given[2].cast<float>();
  require(advance.control.table || !advance.ticket, "only a control needs a ticket");
  return advance;
}

void advance_cuda_(const py::tuple& advance, std::intptr_t stream) {
  Advance alone = advance_of(advance);
  alone.ticket = nullptr;
  advance_cuda(alone, stream);
}

int sgd_cuda_(Array<std::int64_t> tensors, py::list groups, const py::tuple& advance, std::int64_t grad_scale,
              std::int64_t found_inf, std::uint32_t merged_chunks, std::intptr_t stream) {
  const auto n_groups = static_cast<std::int64_t>(groups.size());
  const CudaStep step{advance_of(advance), at<float>(grad_scale), at<float>(found_inf), merged_chunks};
  const StepControl& control = step.advance.control;
  require(!control.table || control.n_groups == n_groups, "the control has another number of groups");
  std::vector<CudaGroup> rows;
  rows.reserve(groups.size());
  for (const py::handle values : groups) {
    const Group group = group_of(values, 8);
    const auto address = [&](int k) { return values.cast<py::tuple>()[k].cast<std::int64_t>(); };
    rows.push_back({group, at<float>(address(6)), at<double>(address(7))});
  }
  const Tensor* list = checked(tensors, n_groups);
  for (py::ssize_t i = 0; i < tensors.shape(0); ++i) {
    const Types types{static_cast<unsigned>(list[i].types)};
    require(!list[i].started || step.advance.tick, "an account of first updates needs the number of the step");
    require(!list[i].master || types.param() == Dtype::float16 || types.param() == Dtype::bfloat16,
            "master weights are for 16-bit parameters");
    require(!list[i].master || !list[i].buffer || types.buffer() == Dtype::float32,
            "master weights need a float32 buffer");
  }
  py::gil_scoped_release release;
  return sgd_cuda(list, tensors.shape(0), rows, step, stream);
}

// What graphs point at, until they are gone. The driver tells of that on a thread of its own, where Python must not
// run: the interpreter lets go of it at its next opportunity, or else the next `hold_for_graph`.
struct Released {
  std::mutex mutex;
  std::vector<PyObject*> objects;
};
Released& released = *new Released;  // never destroyed: graphs may end later than the module

int let_go(void*) {
  std::vector<PyObject*> objects;
  {
    const std::lock_guard<std::mutex> lock(released.mutex);
    objects.swap(released.objects);
  }
  for (PyObject* object : objects) Py_DECREF(object);  // without the lock: that may run anybody's code
  return 0;
}

void graph_is_gone(void* object) {
  if (!Py_IsInitialized()) return;
  {
    const std::lock_guard<std::mutex> lock(released.mutex);
    released.objects.push_back(static_cast<PyObject*>(object));
  }
  Py_AddPendingCall(&let_go, nullptr);
}

// Keeps `objects` for as long as the graph lives that `stream` is capturing.
void hold_for_graph(std::intptr_t stream, py::object objects) {
  let_go(nullptr);
  when_graph_is_gone(stream, &graph_is_gone, objects.ptr());
  objects.release();
}
#endif

// Takes torch.Tensor, and its `__dlpack_c_exchange_api__`; false if its version is another one than is known here.
bool set_exchange_api_(py::type tensor, py::capsule capsule) {
  const auto* api = static_cast<const ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!api) throw py::error_already_set();
  if (api->version.major != 1) return false;
  exchange_api = api;
  tensor_type = reinterpret_cast<PyTypeObject*>(tensor.ptr());
  return true;
}

// What `control_of` takes, from a control's tensors (table, step, losses, average, stop, row); None if one of them is not
// what a control needs.
py::object control_addresses(py::tuple tensors, std::int64_t total_steps, std::int64_t n_groups,
                             std::pair<std::int32_t, std::int32_t> device) {
  require(tensors.size() == 6, "a control has six tensors");
  if (!exchange_api) return py::none();
  Plain plain;
  const auto floats = [&](int k, std::initializer_list<std::int64_t> shape) {
    return address_if(tensors[k].ptr(), float_code, 32, shape, device, plain);
  };
  const std::int64_t table = floats(0, {total_steps, n_groups, 3}), losses = floats(2, {total_steps}),
                     average = floats(3, {3}), row = floats(5, {n_groups, 4}),
                     step = address_if(tensors[1].ptr(), int_code, 64, {}, device, plain),
                     stop = address_if(tensors[4].ptr(), bool_code, 8, {}, device, plain);
  if (!table || !step || !losses || !average || !stop || !row) return py::none();
  return py::make_tuple(table, total_steps, n_groups, step, losses, average, stop, row);
}

// Fills `tensors` with this step's memory. Returns the parameters that have a gradient and these gradients, as two
// lists; None if there is anything that only Python can judge; see csrc/collect.h.
//
//   param_groups: list of dicts.  state, first_updates: the optimizer's.  states, flags: what they held when `remembered`
//     was made, their keys and values in turn, in their order.
//   remembered: per parameter (parameter, state dict, buffer, started, master weights, then the keys and values of the
//     state dict in turn, in its order), the three tensors of it None where there is none; or None without a state.
//   moves: per group, whether its parameters need a buffer.  tracks: whether buffers need the flag `started`.
//   device: DLPack's type and id of the parameters; those on the devices `other_ids` of that type are left out.
//   mixed: whether tensors of a parameter may differ in type.  mastered: whether 16-bit parameters have master weights.
py::object collect_(py::list param_groups, py::dict state, py::dict first_updates, Array<std::int64_t> tensors,
                    py::list states, py::list flags, py::list remembered, py::list moves, py::list tracks, std::pair<std::int32_t, std::int32_t> device,
                    const std::vector<std::int32_t>& other_ids, bool mixed, bool mastered) {
  require(tensors.ndim() == 2 && tensors.shape(1) == tensor_columns, "tensors must be [n, 8]");
  require(static_cast<py::size_t>(tensors.shape(0)) == remembered.size(), "one remembered entry per tensor");
  require(moves.size() == tracks.size(), "moves and tracks must have one entry per group");
  if (!exchange_api || param_groups.size() != moves.size()) return py::none();
  const auto holds = [](const py::dict& dict, const py::list& items) {
    return still_holds(dict.ptr(), PySequence_Fast_ITEMS(items.ptr()), PyList_GET_SIZE(items.ptr()));
  };
  if (!holds(state, states) || !holds(first_updates, flags)) return py::none();
  Collection found(reinterpret_cast<Tensor*>(tensors.mutable_data()), remembered.ptr(), device, other_ids);
  for (py::size_t k = 0; k < moves.size(); ++k) {
    const auto truth = [k](const py::list& flags) { return PyObject_IsTrue(PyList_GET_ITEM(flags.ptr(), k)) == 1; };
    if (!found.add(PyList_GET_ITEM(param_groups.ptr(), k), {truth(moves), truth(tracks), mixed, mastered})) {
      PyErr_Clear();
      return py::none();
    }
  }
  return found.complete() ? found.result() : py::none();
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native backends of clrfast: clrfast/optim/native.py and cuda.py; quick checks: clrfast/graph/snapshot.py.";
  // noconvert: the arrays are memory of torch tensors, and a converted copy would be written to in vain.
  m.def("advance_", &advance_, py::arg("control"), py::arg("smoothing"), py::arg("stop_factor"), py::arg("loss"),
        py::arg("found_inf"));
  // noconvert: the array is memory that Python goes on using, and a converted copy would be written to in vain.
  m.def("sgd_", &sgd_, py::arg("tensors").noconvert(), py::arg("groups"), py::arg("control").none(true),
        py::arg("apply"), py::arg("grad_scale"), py::arg("n_threads"));
  m.def("collect_", &collect_, py::arg("param_groups"), py::arg("state"), py::arg("first_updates"),
        py::arg("tensors").noconvert(), py::arg("states"), py::arg("flags"), py::arg("remembered"), py::arg("moves"), py::arg("tracks"), py::arg("device"),
        py::arg("other_ids"), py::arg("mixed"), py::arg("mastered"));
  m.def("control_addresses", &control_addresses, py::arg("tensors"), py::arg("total_steps"), py::arg("n_groups"),
        py::arg("device"));
  m.def("set_exchange_api_", &set_exchange_api_, py::arg("tensor"), py::arg("capsule"));
  m.def("find_places_", &find_places_, py::arg("tensors"), py::arg("places").noconvert());
  m.def("unchanged", &unchanged, py::arg("modules"), py::arg("contents"), py::arg("tensors"),
        py::arg("places").noconvert());
  m.def("flags", &flags, py::arg("modules"), py::arg("params"));
  m.def("show_gradients_", &show_gradients_, py::arg("param_groups"), py::arg("grads"));
#ifdef CLRFAST_CUDA
  m.attr("cuda_targets") = CLRFAST_CUDA;
  m.attr("tensors_per_launch") = tensors_per_launch();
  m.def("advance_cuda_", &advance_cuda_, py::arg("advance"), py::arg("stream"));
  m.def("sgd_cuda_", &sgd_cuda_, py::arg("tensors").noconvert(), py::arg("groups"), py::arg("advance"),
        py::arg("grad_scale"), py::arg("found_inf"), py::arg("merged_chunks"), py::arg("stream"));
  m.def("load_cuda", &load_cuda);
  m.def("cuda_problem", &cuda_problem);
  m.def("hold_for_graph", &hold_for_graph, py::arg("stream"), py::arg("objects"));
#endif
}
