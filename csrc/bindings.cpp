// clrfast._C: the native backends as a handful of functions. Python validates values; what memory safety needs is
// validated here. Nothing links torch: `collect_` reads the tensors' memory off their Python objects.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "dlpack_view.h"
#include "sgd_cpu.h"
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
    require(!list[i].buffer || !list[i].numel || list[i].started, "a momentum buffer needs its flag");
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

// torch's exchange API; null before `set_exchange_api_`.
const ExchangeApi* exchange_api = nullptr;

// Takes `torch.Tensor.__dlpack_c_exchange_api__`; false if its version is another one than is known here.
bool set_exchange_api_(py::capsule capsule) {
  const auto* api = static_cast<const ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!api) throw py::error_already_set();
  if (api->version.major != 1) return false;
  exchange_api = api;
  return true;
}

PyObject* interned(const char* text) { return PyUnicode_InternFromString(text); }

// Wrappers around other tensors (torch's DTensor, for example) have a shape and no memory of their own.
bool has_memory(const TensorView& view) { return view.data || numel_of(view) == 0; }

bool view_of(PyObject* tensor, TensorView& view) {
  return exchange_api->view_from_object(tensor, &view) == 0;  // fails for a sparse tensor, for example
}

std::optional<Dtype> dtype_of(const TensorView& view) {
  if (view.type_code == float_code && view.type_bits == 32) return Dtype::float32;
  if (view.type_code == float_code && view.type_bits == 64) return Dtype::float64;
  if (view.type_code == float_code && view.type_bits == 16) return Dtype::float16;
  if (view.type_code == bfloat_code && view.type_bits == 16) return Dtype::bfloat16;
  return std::nullopt;
}

// A tensor whose values are stored with the opposite sign: an imaginary part of a complex conjugate, whose elements lie
// two apart. Where it is as dense as its parameter it has one element, so only then it is worth asking, which is slow.
bool is_negated(PyObject* tensor, const TensorView& view) {
  if (numel_of(view) != 1) return false;
  static PyObject* const is_neg = interned("is_neg");
  PyObject* arguments[] = {tensor};
  const auto answer = py::reinterpret_steal<py::object>(
      PyObject_VectorcallMethod(is_neg, arguments, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
  return answer.ptr() != Py_False;
}

// Fills `tensors` with this step's memory. Returns the parameters that have a gradient and these gradients, as two
// lists; None if there is anything that only Python can judge: a tensor of another kind or layout than its
// parameter, a state that is not `states`, a parameter more or less. Only `states` and `remembered` are kept from
// step to step, and both are compared with what is there now. Runs at every step over every parameter, hence here and
// not in Python.
//
//   param_groups: list of dicts.  state: the optimizer's.  states: its values, in its order.
//   remembered: per parameter (state dict, buffer, started, address of started, master weights), each of the last four
//     None or 0 where there is none; or None without a state.
//   moves: per group, whether its parameters need a buffer.  tracks: whether buffers need the flag `started`.
//   device: DLPack's type and id of the parameters; those on the devices `other_ids` of that type are left out.
//   mixed: whether tensors of a parameter may differ in type.  mastered: whether 16-bit parameters have master weights.
py::object collect_(py::list param_groups, py::dict state, Array<std::int64_t> tensors, py::list states,
                    py::list remembered, py::list moves, py::list tracks, std::pair<std::int32_t, std::int32_t> device,
                    const std::vector<std::int32_t>& other_ids, bool mixed, bool mastered) {
  static PyObject *const params_name = interned("params"), *const grad_name = interned("grad"),
                  *const buffer_name = interned("momentum_buffer"), *const started_name = interned("started"),
                  *const master_name = interned("master_param");
  require(tensors.ndim() == 2 && tensors.shape(1) == tensor_columns, "tensors must be [n, 8]");
  require(static_cast<py::size_t>(tensors.shape(0)) == remembered.size(), "one remembered entry per tensor");
  const auto give_up = [] {
    PyErr_Clear();
    return py::none();
  };
  require(moves.size() == tracks.size(), "moves and tracks must have one entry per group");
  if (!exchange_api || param_groups.size() != moves.size()) return give_up();

  py::ssize_t position = 0;
  std::size_t seen = 0;
  PyObject *key, *value;
  while (PyDict_Next(state.ptr(), &position, &key, &value))
    if (seen == states.size() || PyList_GET_ITEM(states.ptr(), seen++) != value) return give_up();
  if (seen != states.size()) return give_up();

  auto* list = reinterpret_cast<Tensor*>(tensors.mutable_data());
  py::list updated, grads;
  std::size_t i = 0;
  std::int64_t group_index = 0;
  for (const py::handle group : param_groups) {
    PyObject* params = PyDict_GetItem(group.ptr(), params_name);
    if (!params || !PyList_Check(params)) return give_up();
    const bool moving = PyObject_IsTrue(PyList_GET_ITEM(moves.ptr(), group_index)) == 1;
    const bool tracked = PyObject_IsTrue(PyList_GET_ITEM(tracks.ptr(), group_index)) == 1;
    for (py::ssize_t k = 0; k < PyList_GET_SIZE(params); ++k, ++i) {
      if (i == remembered.size()) return give_up();
      Tensor& tensor = list[i];
      tensor = {};
      PyObject* param = PyList_GET_ITEM(params, k);
      const auto grad = py::reinterpret_steal<py::object>(PyObject_GetAttr(param, grad_name));
      if (!grad) return give_up();
      if (grad.is_none()) continue;
      TensorView p, g, b, m;
      if (!view_of(param, p)) return give_up();
      if (p.device_type != device.first || p.device_id != device.second) {
        const bool covered = p.device_type == device.first &&
                             std::find(other_ids.begin(), other_ids.end(), p.device_id) != other_ids.end();
        if (covered) continue;
        return give_up();
      }
      // Another tensor of this parameter, which the kernels walk through in step with it.
      const auto fits = [&p](PyObject* tensor, TensorView& view) {
        return view_of(tensor, view) && laid_out_alike(p, view) && has_memory(view);
      };
      if (!is_dense(p) || !has_memory(p) || !fits(grad.ptr(), g) || is_negated(grad.ptr(), g)) return give_up();
      const auto param_type = dtype_of(p), grad_type = dtype_of(g);
      if (!param_type || !grad_type || (!mixed && grad_type != param_type)) return give_up();
      auto buffer_type = param_type;
      const std::int64_t numel = numel_of(p);
      PyObject* own = PyList_GET_ITEM(remembered.ptr(), i);
      const bool needs_master = mastered && p.type_bits == 16;
      if (own == Py_None) {
        if (moving || needs_master) return give_up();
      } else {
        PyObject* dict = PyTuple_GET_ITEM(own, 0);
        // Whether the state still holds the tensor that is remembered (None: neither has one), seen in `view` then.
        const auto unchanged = [&](PyObject* name, PyObject* value) {
          PyObject* now = PyDict_GetItem(dict, name);
          return value == Py_None ? !now || now == Py_None : now == value;
        };
        PyObject *buffer = PyTuple_GET_ITEM(own, 1), *master = PyTuple_GET_ITEM(own, 4);
        if (!unchanged(buffer_name, buffer) || !unchanged(started_name, PyTuple_GET_ITEM(own, 2)) ||
            !unchanged(master_name, master))
          return give_up();
        if (moving) {
          if (tracked && numel && PyTuple_GET_ITEM(own, 2) == Py_None) return give_up();
          if (buffer == Py_None || !fits(buffer, b)) return give_up();
          buffer_type = dtype_of(b);
          if (!buffer_type || (!mixed && buffer_type != param_type)) return give_up();
          tensor.buffer = address_of(b);
          tensor.started = PyLong_AsLongLong(PyTuple_GET_ITEM(own, 3));
        }
        if (needs_master) {
          if (!mixed || master == Py_None || !fits(master, m)) return give_up();
          if (dtype_of(m) != Dtype::float32 || (moving && buffer_type != Dtype::float32)) return give_up();
          tensor.master = address_of(m);
        }
      }
      tensor.param = address_of(p);
      tensor.grad = address_of(g);
      tensor.numel = numel;
      tensor.types = packed(*param_type, *grad_type, *buffer_type);
      tensor.group = group_index;
      updated.append(py::handle(param));
      grads.append(grad);
    }
    ++group_index;
  }
  if (i != remembered.size()) return give_up();
  return py::make_tuple(std::move(updated), std::move(grads));
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native backends of clrfast; see clrfast/optim/native.py and cuda.py for their use.";
  // noconvert: the arrays are memory of torch tensors, and a converted copy would be written to in vain.
  m.def("advance_", &advance_, py::arg("control"), py::arg("smoothing"), py::arg("stop_factor"), py::arg("loss"),
        py::arg("found_inf"));
  // noconvert: the array is memory that Python goes on using, and a converted copy would be written to in vain.
  m.def("sgd_", &sgd_, py::arg("tensors").noconvert(), py::arg("groups"), py::arg("control").none(true),
        py::arg("apply"), py::arg("grad_scale"), py::arg("n_threads"));
  m.def("collect_", &collect_, py::arg("param_groups"), py::arg("state"), py::arg("tensors").noconvert(),
        py::arg("states"), py::arg("remembered"), py::arg("moves"), py::arg("tracks"), py::arg("device"),
        py::arg("other_ids"),
        py::arg("mixed"), py::arg("mastered"));
  m.def("set_exchange_api_", &set_exchange_api_, py::arg("capsule"));
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
