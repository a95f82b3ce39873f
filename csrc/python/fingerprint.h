// Compares modules, dicts and tensors with those that a captured graph was made with. Every replay needs the answer, so
// this is one walk without the interpreter. The comparison is exact: objects are compared by identity, and the
// fingerprint keeps them alive; memory is compared by address, read from the tensor each time.
// clrfast/training/_module_fingerprint.py makes the fingerprint.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "python/attribute.h"
#include "python/dlpack_view.h"

namespace clrfast {

namespace py = pybind11;

using MemoryLocations = py::array_t<std::int64_t, py::array::c_style>;

// The address, dtype and device of a tensor's memory.
struct MemoryLocation {
  std::int64_t address, kind;  // kind: dtype and device

  bool operator==(const MemoryLocation& other) const { return address == other.address && kind == other.kind; }

  // Returns false for a tensor without memory or without a view.
  bool read(PyObject* tensor) {
    TensorView view;
    if (!view_of(tensor, view)) return PyErr_Clear(), false;
    address = address_of(view);
    kind = static_cast<std::int64_t>(view.type_code) << 56 | static_cast<std::int64_t>(view.type_bits) << 48 |
           static_cast<std::int64_t>(view.device_type & 0xffff) << 32 | static_cast<std::uint32_t>(view.device_id);
    return view.data || numel_of(view) == 0;
  }
};

inline MemoryLocation* locations_in(MemoryLocations& locations, const py::list& tensors) {
  if (locations.ndim() != 2 || locations.shape(0) != PyList_GET_SIZE(tensors.ptr()) || locations.shape(1) != 2)
    throw std::invalid_argument("clrfast._C: locations must be [n_tensors, 2]");
  return reinterpret_cast<MemoryLocation*>(locations.mutable_data());
}

// Writes the location of each tensor; returns false if one has none.
inline bool read_locations_(py::list tensors, MemoryLocations locations) {
  MemoryLocation* location = locations_in(locations, tensors);
  if (!exchange_api) return false;
  for (const py::handle tensor : tensors)
    if (!location++->read(tensor.ptr())) return false;
  return true;
}

// Whether each module's own dict has the same `_parameters`, `_buffers` and `_modules`; `modules` lists each module
// followed by these three.
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

// Whether each dict has the same keys and values; `contents` lists each dict followed by its keys, each with its value
// after it. No key is a dict, so another dict or the end follows the last item of a dict only if the dict has neither
// grown nor shrunk.
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

// Whether nothing has changed; `modules_hold`, `contents_hold` and `read_locations_` describe the arguments.
inline bool unchanged(py::list modules, py::list contents, py::list tensors, MemoryLocations locations) {
  const MemoryLocation* location = locations_in(locations, tensors);
  if (!exchange_api || !modules_hold(modules) || !contents_hold(contents)) return false;
  for (Py_ssize_t k = 0; k < PyList_GET_SIZE(tensors.ptr()); ++k) {
    MemoryLocation now;
    if (!now.read(PyList_GET_ITEM(tensors.ptr(), k)) || !(now == location[k])) return false;
  }
  return true;
}

// Returns `training` of each module and `requires_grad` of each parameter as a character each; None if one is no bool.
inline py::object training_flags(py::list modules, py::list params) {
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
  // A module has `training` in its own dict, where the search takes half the time.
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

// Sets `grad` of each parameter to the gradient at its position; returns false if their numbers differ.
inline bool set_gradients_(py::list param_groups, py::list grads) {
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
