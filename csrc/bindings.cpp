// clrfast._C: the native backend as a handful of functions. Python validates values; what memory safety needs is
// validated here. Nothing links torch: tensors arrive as addresses, and `collect_` reads them off Python objects.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <vector>

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

py::object call(PyObject* self, PyObject* method) {
  PyObject* arguments[] = {self};
  return py::reinterpret_steal<py::object>(
      PyObject_VectorcallMethod(method, arguments, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
}

py::object attribute(PyObject* self, PyObject* name) {
  return py::reinterpret_steal<py::object>(PyObject_GetAttr(self, name));
}

PyObject* interned(const char* text) { return PyUnicode_InternFromString(text); }

// Whether `tensor` still is the memory that it was: same address (returned through `address`), dtype and strides.
bool unchanged(PyObject* tensor, PyObject* dtype, PyObject* stride, std::int64_t& address) {
  static PyObject *const data_ptr = interned("data_ptr"), *const dtype_name = interned("dtype"),
                  *const is_contiguous = interned("is_contiguous"), *const stride_name = interned("stride");
  const py::object pointer = call(tensor, data_ptr);  // raises for a sparse tensor
  if (!pointer) return false;
  address = PyLong_AsLongLong(pointer.ptr());
  if (!dtype) return true;
  if (attribute(tensor, dtype_name).ptr() != dtype) return false;
  if (stride == Py_None) return call(tensor, is_contiguous).ptr() == Py_True;
  const py::object now = call(tensor, stride_name);
  return now && PyObject_RichCompareBool(now.ptr(), stride, Py_EQ) == 1;
}

// Refreshes the gradient addresses of `tensors` and returns the parameters that have a gradient; None if anything
// is not as it was when the list was made, and the list must be made anew. Runs at every step over every
// parameter, hence here and not in Python.
//
//   param_groups: list of dicts;  layouts: per parameter (dtype, stride or None if contiguous), or None if it had
//   no gradient;  state, buffers: the optimizer's state and, in its order, (state dict, momentum buffer or None).
py::object collect_(py::list param_groups, py::dict state, Array<std::int64_t> tensors, py::list layouts,
                    py::list buffers) {
  static PyObject *const params_name = interned("params"), *const grad_name = interned("grad"),
                  *const buffer_name = interned("momentum_buffer");
  require(tensors.ndim() == 2 && tensors.shape(1) == tensor_columns, "tensors must be [n, 7]");
  require(static_cast<py::size_t>(tensors.shape(0)) == layouts.size(), "one layout per tensor");
  auto* list = reinterpret_cast<Tensor*>(tensors.mutable_data());
  const auto changed = [] {
    PyErr_Clear();
    return py::none();
  };

  py::ssize_t position = 0;
  std::size_t seen = 0;
  PyObject *key, *value;
  while (PyDict_Next(state.ptr(), &position, &key, &value)) {
    if (seen == buffers.size()) return changed();
    PyObject* expected = PyList_GET_ITEM(buffers.ptr(), seen++);
    if (PyTuple_GET_ITEM(expected, 0) != value) return changed();
    PyObject* buffer = PyDict_GetItem(value, buffer_name);
    if ((buffer ? buffer : Py_None) != PyTuple_GET_ITEM(expected, 1)) return changed();
  }
  if (seen != buffers.size()) return changed();

  py::list updated;
  std::size_t i = 0;
  for (const py::handle group : param_groups) {
    PyObject* params = PyDict_GetItem(group.ptr(), params_name);
    if (!params || !PyList_Check(params)) return changed();
    for (py::ssize_t k = 0; k < PyList_GET_SIZE(params); ++k, ++i) {
      if (i == layouts.size()) return changed();
      PyObject* param = PyList_GET_ITEM(params, k);
      PyObject* layout = PyList_GET_ITEM(layouts.ptr(), i);
      const py::object grad = attribute(param, grad_name);
      if (!grad) return changed();
      if (grad.is_none()) {
        list[i].grad = 0;
        continue;
      }
      if (layout == Py_None) return changed();
      std::int64_t address;
      if (!unchanged(param, nullptr, nullptr, address) || address != list[i].param) return changed();
      if (!unchanged(grad.ptr(), PyTuple_GET_ITEM(layout, 0), PyTuple_GET_ITEM(layout, 1), list[i].grad))
        return changed();
      updated.append(py::handle(param));
    }
  }
  return i == layouts.size() ? py::object(std::move(updated)) : changed();
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
        py::arg("layouts"), py::arg("buffers"));
}
