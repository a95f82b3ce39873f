// Whether modules, dicts and tensors are still those that a captured graph was made with. Every replay has to know it,
// so this is one walk without the interpreter. The comparison is exact: objects are compared by identity, and kept
// alive for that; memory is compared by address, which is read from the tensor at every comparison.
// clrfast/graph/snapshot.py holds what is compared.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "attribute.h"
#include "dlpack_view.h"

namespace clrfast {

namespace py = pybind11;

using Places = py::array_t<std::int64_t, py::array::c_style>;

// Where a tensor lies, and as what.
struct Place {
  std::int64_t address, kind;  // kind: type and device

  bool operator==(const Place& other) const { return address == other.address && kind == other.kind; }

  // False for a tensor without memory of its own, or one that has no view.
  bool read(PyObject* tensor) {
    TensorView view;
    if (!view_of(tensor, view)) return PyErr_Clear(), false;
    address = address_of(view);
    kind = static_cast<std::int64_t>(view.type_code) << 56 | static_cast<std::int64_t>(view.type_bits) << 48 |
           static_cast<std::int64_t>(view.device_type & 0xffff) << 32 | static_cast<std::uint32_t>(view.device_id);
    return view.data || numel_of(view) == 0;
  }
};

inline Place* rows(Places& places, const py::list& tensors) {
  if (places.ndim() != 2 || places.shape(0) != PyList_GET_SIZE(tensors.ptr()) || places.shape(1) != 2)
    throw std::invalid_argument("clrfast._C: places must be [n_tensors, 2]");
  return reinterpret_cast<Place*>(places.mutable_data());
}

// Fills `places` with those of `tensors`; false if one has none.
inline bool find_places_(py::list tensors, Places places) {
  Place* place = rows(places, tensors);
  if (!exchange_api) return false;
  for (const py::handle tensor : tensors)
    if (!place++->read(tensor.ptr())) return false;
  return true;
}

// `modules`: each module, followed by what it had as `_parameters`, `_buffers` and `_modules`, in its own dict.
inline bool modules_hold(const py::list& modules) {
  static PyObject* const names[] = {PyUnicode_InternFromString("_parameters"), PyUnicode_InternFromString("_buffers"),
                                    PyUnicode_InternFromString("_modules")};
  PyObject* const* item = PySequence_Fast_ITEMS(modules.ptr());
  PyObject* const* const end = item + PyList_GET_SIZE(modules.ptr());
  while (item != end) {
    const auto own = py::reinterpret_steal<py::object>(PyObject_GenericGetDict(*item++, nullptr));
    if (!own) throw py::error_already_set();
    for (PyObject* const name : names)
      if (item == end || PyDict_GetItemWithError(own.ptr(), name) != *item++) return false;
  }
  return true;
}

// `contents`: each dict, followed by the keys and values that it had, in turn. As no key is a dict, what follows the
// last entry of a dict is another dict or the end only if the dict has neither grown nor shrunk.
inline bool contents_hold(const py::list& contents) {
  PyObject* const* item = PySequence_Fast_ITEMS(contents.ptr());
  PyObject* const* const end = item + PyList_GET_SIZE(contents.ptr());
  while (item != end) {
    PyObject* dict = *item++;
    if (!PyDict_Check(dict)) return false;
    if (PyDict_GET_SIZE(dict) == 0) continue;
    Py_ssize_t position = 0;
    PyObject *key, *value;
    for (; PyDict_Next(dict, &position, &key, &value); item += 2)
      if (end - item < 2 || item[0] != key || item[1] != value) return false;
  }
  return true;
}

// Whether all is as it was; arguments as of `modules_hold`, `contents_hold` and `find_places_`.
inline bool unchanged(py::list modules, py::list contents, py::list tensors, Places places) {
  const Place* place = rows(places, tensors);
  if (!exchange_api || !modules_hold(modules) || !contents_hold(contents)) return false;
  for (Py_ssize_t k = 0; k < PyList_GET_SIZE(tensors.ptr()); ++k) {
    Place now;
    if (!now.read(PyList_GET_ITEM(tensors.ptr(), k)) || !(now == place[k])) return false;
  }
  return true;
}

// One character for each `training` of a module and each `requires_grad` of a parameter; None if one is no bool.
inline py::object flags(py::list modules, py::list params) {
  static PyObject *const training = PyUnicode_InternFromString("training"),
                  *const requires_grad = PyUnicode_InternFromString("requires_grad");
  std::string found;
  found.reserve(modules.size() + params.size());
  const auto add = [&found](const py::list& objects, const auto& flag_of) {
    for (Py_ssize_t k = 0; k < PyList_GET_SIZE(objects.ptr()); ++k) {
      const auto flag = py::reinterpret_steal<py::object>(flag_of(PyList_GET_ITEM(objects.ptr(), k)));
      if (!flag) throw py::error_already_set();
      if (flag.ptr() != Py_True && flag.ptr() != Py_False) return false;
      found += flag.ptr() == Py_True ? '1' : '0';
    }
    return true;
  };
  // A module has it in its own dict, where it is found in half the time.
  const auto of_module = [](PyObject* module) -> PyObject* {
    const auto own = py::reinterpret_steal<py::object>(PyObject_GenericGetDict(module, nullptr));
    PyObject* flag = own ? PyDict_GetItemWithError(own.ptr(), training) : nullptr;
    PyErr_Clear();
    return flag ? Py_NewRef(flag) : PyObject_GetAttr(module, training);
  };
  Attribute of_param(requires_grad);
  if (!add(modules, of_module)) return py::none();
  if (!add(params, [&of_param](PyObject* param) { return of_param.of(param); })) return py::none();
  return py::bytes(found);
}

// Has `grad` of every parameter be the gradient at its place; false if there are more or fewer parameters.
inline bool show_gradients_(py::list param_groups, py::list grads) {
  static PyObject *const params_name = PyUnicode_InternFromString("params"),
                  *const grad_name = PyUnicode_InternFromString("grad");
  Attribute attribute(grad_name);
  Py_ssize_t index = 0;
  for (const py::handle group : param_groups) {
    PyObject* params = PyDict_Check(group.ptr()) ? PyDict_GetItemWithError(group.ptr(), params_name) : nullptr;
    if (!params || !PyList_Check(params)) return false;
    for (Py_ssize_t k = 0; k < PyList_GET_SIZE(params); ++k, ++index) {
      if (index == PyList_GET_SIZE(grads.ptr())) return false;
      PyObject *param = PyList_GET_ITEM(params, k), *grad = PyList_GET_ITEM(grads.ptr(), index);
      const auto now = py::reinterpret_steal<py::object>(attribute.of(param));
      if (!now || (now.ptr() != grad && PyObject_SetAttr(param, grad_name, grad))) throw py::error_already_set();
    }
  }
  return index == PyList_GET_SIZE(grads.ptr());
}

}  // namespace clrfast
