// Whether a kernel may use a tensor's memory, and where that memory lies. clrfast/optim/_backends/native.py has the
// same rules in Python, and both must agree.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <utility>

#include "python/attribute.h"
#include "python/dlpack_view.h"
#include "tensor_list.h"

namespace clrfast {

namespace py = pybind11;

using Device = std::pair<std::int32_t, std::int32_t>;  // DLPack's device type and device id

inline bool is_on(const TensorView& view, const Device& device) {
  return view.device_type == device.first && view.device_id == device.second;
}

// Whether a tensor's memory holds the tensor's values. It does not where the values are stored negated, nor where the
// tensor's class handles operations itself and so may show other memory.
class PlainTensorCheck {
 public:
  bool operator()(PyObject* tensor) {
    if (!handled_by_torch(tensor)) return false;
    const auto negated = py::reinterpret_steal<py::object>(is_neg_(tensor));
    return negated.ptr() == Py_False;
  }

  // The same check for a tensor that passed it at the address `before`. Whether the values are negated is slow to ask,
  // and it changes only together with the memory.
  bool again(PyObject* tensor, std::int64_t before, std::int64_t now) {
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

// A parameter that is dense in memory. The kernels walk through it and its other tensors in step, so all must have the
// same layout.
class DenseParam {
 public:
  // Returns false for what a kernel cannot use: another layout or dtype, or no memory.
  bool take(const TensorView& view) {
    const auto dtype = dtype_of(view);
    if (!dtype || !is_dense(view)) return false;
    view_ = view, dtype_ = *dtype, numel_ = numel_of(view);
    return has_memory(view);
  }

  // Whether `tensor` has the parameter's layout; if so, `view` shows it.
  bool fits(PyObject* tensor, TensorView& view) const {
    return view_of(tensor, view) && laid_out_alike(view_, view) && has_memory(view);
  }

  // The dtype of another tensor of this parameter; none if it must be the parameter's and is not.
  std::optional<Dtype> dtype_with(const TensorView& other, bool mixed_dtypes) const {
    if (other.type_code == view_.type_code && other.type_bits == view_.type_bits) return dtype_;
    return mixed_dtypes ? dtype_of(other) : std::nullopt;
  }

  std::int64_t address() const { return address_of(view_); }
  std::int64_t numel() const { return numel_; }
  Dtype dtype() const { return dtype_; }
  bool is_16_bit() const { return view_.type_bits == 16; }

 private:
  // Wrappers around other tensors, such as torch's DTensor, have a shape and no memory.
  bool has_memory(const TensorView& view) const { return view.data || numel_ == 0; }

  TensorView view_;
  Dtype dtype_;
  std::int64_t numel_;
};

// The address of a contiguous tensor of the given dtype and shape on the given device; 0 for any other tensor.
inline std::int64_t address_if(PyObject* tensor, int type_code, int type_bits,
                               std::initializer_list<std::int64_t> shape, const Device& device,
                               PlainTensorCheck& is_plain) {
  TensorView view;
  if (!is_plain(tensor) || !view_of(tensor, view)) return PyErr_Clear(), 0;
  if (view.type_code != type_code || view.type_bits != type_bits || !is_on(view, device) ||
      view.ndim != static_cast<int>(shape.size()))
    return 0;
  std::int64_t expected = 1;
  for (int i = view.ndim - 1; i >= 0; --i) {
    if (view.shape[i] != shape.begin()[i] || (view.shape[i] != 1 && view.strides[i] != expected)) return 0;
    expected *= view.shape[i];
  }
  return address_of(view);
}

}  // namespace clrfast
