// clrfast._C: the native backend as a handful of functions. Python validates values; what memory safety needs is
// validated here. Nothing links torch: `collect_` reads the tensors' memory off their Python objects.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "dlpack_view.h"
#include "sgd_cpu.h"
#include "step_control.h"

namespace py = pybind11;
using namespace clrfast;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

constexpr py::ssize_t tensor_columns = sizeof(Tensor) / sizeof(std::int64_t);

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("clrfast._C: ") + what);
}

// A StepControl over the memory of torch's CPU tensors, which it keeps alive. Made once: the arrays would otherwise be
// checked at every step.
class Control {
 public:
  Control(Array<float> table, Array<std::int64_t> step, Array<float> losses, Array<float> average,
          Array<std::uint8_t> stop, Array<float> row)
      : owners_(py::make_tuple(table, step, losses, average, stop, row)) {
    require(table.ndim() == 3 && table.shape(0) > 0 && table.shape(2) == 3, "table must be [total_steps, n_groups, 3]");
    const std::int64_t total_steps = table.shape(0), n_groups = table.shape(1);
    require(step.size() == 1 && stop.size() == 1 && average.size() == 3, "step, stop, average must have 1, 1, 3 values");
    require(losses.size() == total_steps, "losses must be [total_steps]");
    require(row.size() == 4 * n_groups, "row must be [n_groups, 4]");
    control_ = {table.data(), total_steps, n_groups, step.mutable_data(), losses.mutable_data(),
                average.mutable_data(), stop.mutable_data(), row.mutable_data(), 0, 0};
  }

  std::int64_t advance_(py::object loss, float found_inf, float smoothing, float stop_factor) {
    require(*control_.step >= 0, "step must not be negative");
    control_.smoothing = smoothing;
    control_.stop_factor = stop_factor;
    const float value = loss.is_none() ? 0.0f : loss.cast<float>();
    advance(control_, loss.is_none() ? nullptr : &value, found_inf);
    return *control_.step;
  }

  const StepControl& get() const { return control_; }

 private:
  py::tuple owners_;
  StepControl control_;
};

// `groups`: per group (lr, momentum, weight_decay, dampening, nesterov, maximize). With a control, its current row
// replaces the first three and decides whether the update is applied; without, `apply` does.
void sgd_(Array<std::int64_t> tensors, py::list groups, const Control* control, bool apply, double grad_scale,
          int n_threads) {
  require(tensors.ndim() == 2 && tensors.shape(1) == tensor_columns, "tensors must be [n, 7]");
  const auto n_groups = static_cast<std::int64_t>(groups.size());
  require(!control || control->get().n_groups == n_groups, "the control has another number of groups");
  std::vector<Group> rows;
  rows.reserve(groups.size());
  for (const py::handle values : groups) {
    const auto group = py::reinterpret_borrow<py::tuple>(values);
    require(py::isinstance<py::tuple>(values) && group.size() == 6, "a group must be a tuple of 6 numbers");
    const auto value = [&](int k) { return group[k].cast<double>(); };
    rows.push_back({value(0), value(1), value(2), apply, value(3), value(4) != 0, value(5) != 0});
    if (control) {
      const float* row = control->get().row + 4 * (rows.size() - 1);
      rows.back().lr = row[0], rows.back().momentum = row[1], rows.back().weight_decay = row[2];
      rows.back().apply = row[3] != 0;
    }
  }
  const auto* list = reinterpret_cast<const Tensor*>(tensors.data());
  for (py::ssize_t i = 0; i < tensors.shape(0); ++i) {
    const Tensor& t = list[i];
    require(t.group >= 0 && t.group < n_groups, "group out of range");
    require(t.dtype >= Dtype::float32 && t.dtype <= Dtype::bfloat16, "unknown dtype");
    require(!t.grad || t.numel == 0 || t.param, "a tensor has no memory");
    require(!t.buffer || t.started, "a momentum buffer needs its flag");
  }
  py::gil_scoped_release release;
  sgd_cpu(list, tensors.shape(0), rows.data(), grad_scale, n_threads);
}

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

// A tensor whose values are stored with the opposite sign (a view of a complex conjugate).
bool is_negated(PyObject* tensor) {
  static PyObject* const is_neg = interned("is_neg");
  PyObject* arguments[] = {tensor};
  const auto answer = py::reinterpret_steal<py::object>(
      PyObject_VectorcallMethod(is_neg, arguments, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
  return answer.ptr() != Py_False;
}

// Fills `tensors` with this step's memory. Returns the parameters that have a gradient and these gradients, as two
// lists; None if there is anything that only Python can judge: a tensor of another kind or layout than its
// parameter, a state that is not `states`, a parameter more or less. Only `states` and `momentum` are remembered from
// step to step, and both are compared with what is there now. Runs at every step over every parameter, hence here and not in Python.
//
//   param_groups: list of dicts.  state: the optimizer's.  states: its values, in its order.
//   momentum: per parameter (state dict, buffer, started, address of started), or None without.
//   moves: per group, whether its parameters need a buffer.
py::object collect_(py::list param_groups, py::dict state, Array<std::int64_t> tensors, py::list states,
                    py::list momentum, py::list moves) {
  static PyObject *const params_name = interned("params"), *const grad_name = interned("grad"),
                  *const buffer_name = interned("momentum_buffer"), *const started_name = interned("started");
  require(tensors.ndim() == 2 && tensors.shape(1) == tensor_columns, "tensors must be [n, 7]");
  require(static_cast<py::size_t>(tensors.shape(0)) == momentum.size(), "one momentum entry per tensor");
  const auto give_up = [] {
    PyErr_Clear();
    return py::none();
  };
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
    for (py::ssize_t k = 0; k < PyList_GET_SIZE(params); ++k, ++i) {
      if (i == momentum.size()) return give_up();
      Tensor& tensor = list[i];
      tensor = {};
      PyObject* param = PyList_GET_ITEM(params, k);
      const auto grad = py::reinterpret_steal<py::object>(PyObject_GetAttr(param, grad_name));
      if (!grad) return give_up();
      if (grad.is_none()) continue;
      TensorView p, g, b;
      if (!view_of(param, p) || p.device_type != cpu_device || !is_dense(p)) return give_up();
      if (!view_of(grad.ptr(), g) || !alike(p, g) || is_negated(grad.ptr())) return give_up();
      const auto dtype = dtype_of(p);
      if (!dtype) return give_up();
      if (moving) {
        PyObject* own = PyList_GET_ITEM(momentum.ptr(), i);
        if (own == Py_None) return give_up();
        PyObject* dict = PyTuple_GET_ITEM(own, 0);
        PyObject* buffer = PyTuple_GET_ITEM(own, 1);
        if (PyDict_GetItem(dict, buffer_name) != buffer || !view_of(buffer, b) || !alike(p, b)) return give_up();
        if (PyDict_GetItem(dict, started_name) != PyTuple_GET_ITEM(own, 2)) return give_up();
        tensor.buffer = address_of(b);
        tensor.started = PyLong_AsLongLong(PyTuple_GET_ITEM(own, 3));
      }
      tensor.param = address_of(p);
      tensor.grad = address_of(g);
      tensor.numel = numel_of(p);
      tensor.dtype = *dtype;
      tensor.group = group_index;
      updated.append(py::handle(param));
      grads.append(grad);
    }
    ++group_index;
  }
  if (i != momentum.size()) return give_up();
  return py::make_tuple(std::move(updated), std::move(grads));
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native backend of clrfast; see clrfast/optim/native.py for its use.";
  // noconvert: the arrays are memory of torch tensors, and a converted copy would be written to in vain.
  py::class_<Control>(m, "Control")
      .def(py::init<Array<float>, Array<std::int64_t>, Array<float>, Array<float>, Array<std::uint8_t>, Array<float>>(),
           py::arg("table").noconvert(), py::arg("step").noconvert(), py::arg("losses").noconvert(),
           py::arg("average").noconvert(), py::arg("stop").noconvert(), py::arg("row").noconvert())
      .def("advance_", &Control::advance_, py::arg("loss"), py::arg("found_inf"), py::arg("smoothing"),
           py::arg("stop_factor"));
  m.def("sgd_", &sgd_, py::arg("tensors").noconvert(), py::arg("groups"), py::arg("control").none(true),
        py::arg("apply"), py::arg("grad_scale"), py::arg("n_threads"));
  m.def("collect_", &collect_, py::arg("param_groups"), py::arg("state"), py::arg("tensors").noconvert(),
        py::arg("states"), py::arg("momentum"), py::arg("moves"));
  m.def("set_exchange_api_", &set_exchange_api_, py::arg("capsule"));
}
