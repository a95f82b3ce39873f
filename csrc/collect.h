// The memory of an optimizer's parameters, gradients and state, found at every step over every parameter: the part of
// clrfast/optim/native.py that is too slow in Python.
//
// Nothing is taken over from one step to the next but what is compared with what is there now: the optimizer's state
// with the objects that were in it, position by position. Every address is read from its tensor, at every step.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "attribute.h"
#include "dlpack_view.h"
#include "tensor_list.h"

namespace clrfast {

namespace py = pybind11;

// Whether `dict` holds exactly these keys and values, which follow one another in `items`, in this order.
inline bool still_holds(PyObject* dict, PyObject* const* items, Py_ssize_t n_items) {
  if (!PyDict_Check(dict) || 2 * PyDict_GET_SIZE(dict) != n_items) return false;
  Py_ssize_t position = 0;
  PyObject *key, *value;
  for (; PyDict_Next(dict, &position, &key, &value); items += 2)
    if (items[0] != key || items[1] != value) return false;
  return true;
}

// Whether a kernel may read a tensor's memory for what it is: not where its values are stored with the opposite sign, and
// not where its type handles operations itself, and so may show other memory than it stands for.
class Plain {
 public:
  bool operator()(PyObject* tensor) {
    if (!handled_by_torch(tensor)) return false;
    const auto negated = py::reinterpret_steal<py::object>(is_neg_(tensor));
    return negated.ptr() == Py_False;
  }

  // The same for a tensor that was looked at when it was at the address `before`: only with other memory may it have
  // become one of opposite sign, which is slow to ask.
  bool still(PyObject* tensor, std::int64_t before, std::int64_t now) {
    return before == now ? handled_by_torch(tensor) : (*this)(tensor);
  }

 private:
  bool handled_by_torch(PyObject* tensor) {
    if (Py_TYPE(tensor) != type_) look_up(Py_TYPE(tensor));
    return handled_by_torch_;
  }

  void look_up(PyTypeObject* type) {
    static PyObject* const name = PyUnicode_InternFromString("__torch_dispatch__");
    const auto dispatch = [](PyTypeObject* of) {
      return py::reinterpret_steal<py::object>(PyObject_GetAttr(reinterpret_cast<PyObject*>(of), name));
    };
    type_ = type;
    const auto own = dispatch(type), torchs = dispatch(tensor_type);
    handled_by_torch_ = own && own.is(torchs);
  }

  static PyObject* name() {
    static PyObject* const is_neg = PyUnicode_InternFromString("is_neg");
    return is_neg;
  }

  Method is_neg_{name()};
  PyTypeObject* type_ = nullptr;
  bool handled_by_torch_ = false;
};

// The address of a tensor of this type and shape, dense in the usual order, on this device; 0 of any other one.
inline std::int64_t address_if(PyObject* tensor, int type_code, int type_bits, std::initializer_list<std::int64_t> shape,
                               std::pair<std::int32_t, std::int32_t> device, Plain& plain) {
  TensorView view;
  if (!plain(tensor) || !view_of(tensor, view)) return PyErr_Clear(), 0;
  if (view.type_code != type_code || view.type_bits != type_bits || view.device_type != device.first ||
      view.device_id != device.second || view.ndim != static_cast<int>(shape.size()))
    return 0;
  std::int64_t expected = 1;
  for (int i = view.ndim - 1; i >= 0; --i) {
    if (view.shape[i] != shape.begin()[i] || (view.shape[i] != 1 && view.strides[i] != expected)) return 0;
    expected *= view.shape[i];
  }
  return address_of(view);
}

// What the parameters of a group need, and what their tensors may be.
struct Needs {
  bool moving;    // a momentum buffer
  bool tracked;   // the flag `started` of each buffer
  bool mixed;     // whether tensors of one parameter may differ in type
  bool mastered;  // float32 master weights of 16-bit parameters
};

// A parameter, dense in memory. The kernels walk through it and its other tensors in step, so these have its layout.
class DenseParam {
 public:
  // False for what only Python can judge: another layout or type than a kernel knows, no memory of its own.
  bool take(const TensorView& view) {
    const auto type = dtype_of(view);
    if (!type || !is_dense(view)) return false;
    view_ = view, type_ = *type, numel_ = numel_of(view);
    return has_memory(view);
  }

  // Whether a tensor has this layout; it is seen in `view` then.
  bool fits(PyObject* tensor, TensorView& view) const {
    return view_of(tensor, view) && laid_out_alike(view_, view) && has_memory(view);
  }

  // The type of another tensor; none if it is not to be mixed with that of the parameter.
  std::optional<Dtype> type_of(const TensorView& other, bool mixed) const {
    if (other.type_code == view_.type_code && other.type_bits == view_.type_bits) return type_;
    return mixed ? dtype_of(other) : std::nullopt;
  }

  // The address of a flag `started` of this parameter; 0 if it is none.
  std::int64_t flag_address(PyObject* tensor) const {
    TensorView view;
    if (!view_of(tensor, view) || !on_one_device(view_, view) || numel_of(view) != 1) return 0;
    return view.type_code == int_code && view.type_bits == 64 ? address_of(view) : 0;
  }

  std::int64_t address() const { return address_of(view_); }
  std::int64_t numel() const { return numel_; }
  Dtype type() const { return type_; }
  bool is_16_bit() const { return view_.type_bits == 16; }

 private:
  // Wrappers around other tensors (torch's DTensor, for example) have a shape and no memory of their own.
  bool has_memory(const TensorView& view) const { return view.data || numel_ == 0; }

  TensorView view_;
  Dtype type_;
  std::int64_t numel_;
};

// The tensors of one step.
class Collection {
 public:
  // Arguments as of `collect_`; rows of `tensors` are written in the order of the parameters.
  Collection(Tensor* tensors, PyObject* remembered, std::pair<std::int32_t, std::int32_t> device,
             const std::vector<std::int32_t>& other_ids)
      : tensors_(tensors),
        remembered_(remembered),
        device_(device),
        other_ids_(other_ids),
        updated_(py::reinterpret_steal<py::object>(PyList_New(PyList_GET_SIZE(remembered)))),
        grads_(py::reinterpret_steal<py::object>(PyList_New(PyList_GET_SIZE(remembered)))) {
    if (!updated_ || !grads_) throw py::error_already_set();
  }

  // False if there is anything in the group that only Python can judge: a tensor of another kind or layout than its
  // parameter, a state that is not what is remembered, a parameter more or less. A Python error may be set then.
  bool add(PyObject* group, const Needs& needs) {
    static PyObject* const params_name = PyUnicode_InternFromString("params");
    PyObject* params = PyDict_Check(group) ? PyDict_GetItem(group, params_name) : nullptr;
    if (!params || !PyList_Check(params)) return false;
    for (Py_ssize_t k = 0; k < PyList_GET_SIZE(params); ++k)
      if (seen_ == PyList_GET_SIZE(remembered_) || !add(PyList_GET_ITEM(params, k), seen_++, needs)) return false;
    ++group_index_;
    return true;
  }

  // Whether all remembered parameters were there.
  bool complete() const { return seen_ == PyList_GET_SIZE(remembered_); }

  // The parameters with a gradient, and these gradients.
  py::object result() {
    for (PyObject* list : {updated_.ptr(), grads_.ptr()})
      if (PyList_SetSlice(list, found_, PyList_GET_SIZE(list), nullptr)) throw py::error_already_set();
    return py::make_tuple(std::move(updated_), std::move(grads_));
  }

 private:
  bool add(PyObject* param, Py_ssize_t index, const Needs& needs) {
    Tensor& tensor = tensors_[index];
    const Tensor before = tensor;  // of the step before; zeros where it left this parameter out
    tensor = {};
    auto grad = py::reinterpret_steal<py::object>(grad_.of(param));
    if (!grad) return false;
    if (grad.is_none()) return true;
    TensorView view;
    if (!view_of(param, view)) return false;
    if (!is_here(view)) return is_covered(view);
    DenseParam dense;
    if (!dense.take(view) || !dense.fits(grad.ptr(), view) || !plain_grad_(grad.ptr())) return false;
    const auto grad_type = dense.type_of(view, needs.mixed);
    if (!grad_type) return false;
    tensor.grad = address_of(view);
    Dtype buffer_type = dense.type();
    PyObject* own = PyList_GET_ITEM(remembered_, index);
    tensor.param = dense.address();
    if (!plain_state_.still(param, before.param, tensor.param)) return false;
    if (own == Py_None) {
      if (needs.moving || (needs.mastered && dense.is_16_bit())) return false;
    } else if (!add_state(param, own, dense, needs, before, tensor, buffer_type)) {
      return false;
    }
    tensor.numel = dense.numel();
    tensor.types = packed(dense.type(), *grad_type, buffer_type);
    tensor.group = group_index_;
    Py_INCREF(param);
    PyList_SET_ITEM(updated_.ptr(), found_, param);
    PyList_SET_ITEM(grads_.ptr(), found_++, grad.release().ptr());
    return true;
  }

  // What the update needs of the state of `param`, if it is still what `own` remembers.
  bool add_state(PyObject* param, PyObject* own, const DenseParam& dense, const Needs& needs, const Tensor& before,
                 Tensor& tensor, Dtype& buffer_type) {
    enum { its_param, its_state, its_buffer, its_flag, its_master, its_items };
    const auto at = [own](Py_ssize_t k) { return PyTuple_GET_ITEM(own, k); };
    PyObject* const* items = PySequence_Fast_ITEMS(own) + its_items;
    if (at(its_param) != param || !still_holds(at(its_state), items, PyTuple_GET_SIZE(own) - its_items)) return false;
    TensorView view;
    if (needs.moving) {
      if (at(its_buffer) == Py_None || !dense.fits(at(its_buffer), view)) return false;
      const auto type = dense.type_of(view, needs.mixed);
      if (!type) return false;
      tensor.buffer = address_of(view);
      if (!plain_state_.still(at(its_buffer), before.buffer, tensor.buffer)) return false;
      buffer_type = *type;
      if (at(its_flag) == Py_None) {
        if (needs.tracked && dense.numel()) return false;
      } else if (!(tensor.started = dense.flag_address(at(its_flag)))) {
        return false;
      }
    }
    if (needs.mastered && dense.is_16_bit()) {
      if (!needs.mixed || at(its_master) == Py_None || !dense.fits(at(its_master), view)) return false;
      if (dtype_of(view) != Dtype::float32 || (needs.moving && buffer_type != Dtype::float32)) return false;
      tensor.master = address_of(view);
      if (!plain_state_.still(at(its_master), before.master, tensor.master)) return false;
    }
    return true;
  }

  static PyObject* grad_name() {
    static PyObject* const name = PyUnicode_InternFromString("grad");
    return name;
  }

  bool is_here(const TensorView& view) const {
    return view.device_type == device_.first && view.device_id == device_.second;
  }

  // Whether others update what lies there.
  bool is_covered(const TensorView& view) const {
    return view.device_type == device_.first &&
           std::find(other_ids_.begin(), other_ids_.end(), view.device_id) != other_ids_.end();
  }

  Tensor* tensors_;
  PyObject* remembered_;
  std::pair<std::int32_t, std::int32_t> device_;
  const std::vector<std::int32_t>& other_ids_;
  py::object updated_, grads_;
  Attribute grad_{grad_name()};
  Plain plain_grad_, plain_state_;
  Py_ssize_t seen_ = 0, found_ = 0;
  std::int64_t group_index_ = 0;
};

}  // namespace clrfast
