// Finds the memory of an optimizer's parameters, gradients and state, at every step, in one walk over the parameters.
// clrfast/optim/_backends/native.py does the same in Python, and makes the state that is missing.
//
// Nothing is reused from the step before without a check. The optimizer's state is compared with the objects that were
// in it, in order, and every address is read from its tensor.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "python/attribute.h"
#include "python/dlpack_view.h"
#include "python/eligibility.h"
#include "python/prefetch.h"
#include "tensor_list.h"

namespace clrfast {

constexpr py::ssize_t tensor_columns = sizeof(ParamTensors) / sizeof(std::int64_t);

// Whether `dict` holds exactly the items that `items` lists, in this order: each key, then its value.
inline bool still_holds(PyObject* dict, PyObject* const* items, Py_ssize_t n_items) {
  if (!PyDict_Check(dict) || 2 * PyDict_GET_SIZE(dict) != n_items) return false;
  Py_ssize_t position = 0;
  PyObject *key, *value;
  for (; PyDict_Next(dict, &position, &key, &value); items += 2)
    if (items[0] != key || items[1] != value) return false;
  return true;
}

// The same for a list.
inline bool still_holds(const py::dict& dict, const py::list& items) {
  return still_holds(dict.ptr(), PySequence_Fast_ITEMS(items.ptr()), PyList_GET_SIZE(items.ptr()));
}

// Requirements of the kernels on one device, the same for all of an optimizer's parameters there.
struct Requirements {
  Device device;                        // of the parameters
  std::vector<std::int32_t> other_ids;  // devices of the same type whose parameters are left out
  bool mixed_dtypes;                    // the tensors of one parameter may differ in dtype
  bool master_weights;                  // 16-bit parameters have float32 master weights
};

// The state that the parameters of one group need.
struct GroupNeeds {
  int n_states;  // tensors of the rule's state
  bool counter;  // an `UpdateCounter` for each parameter
};

// One walk over the parameters.
class CollectorWalk {
 public:
  // `rows`, `cached` and `hints` have one entry per parameter; see `TensorCollector::collect`.
  CollectorWalk(const Requirements& requirements, ParamTensors* rows, PyObject* cached, const MemoryHints* hints)
      : requirements_(requirements),
        rows_(rows),
        cached_(cached),
        hints_(hints),
        params_(py::reinterpret_steal<py::object>(PyList_New(PyList_GET_SIZE(cached)))),
        grads_(py::reinterpret_steal<py::object>(PyList_New(PyList_GET_SIZE(cached)))) {
    if (!params_ || !grads_) throw py::error_already_set();
    for (Py_ssize_t index = 0; index < prefetch_ahead; ++index) prefetch(index);
  }

  // Returns false where Python must decide: a tensor of another kind or layout than its parameter, a state that is not
  // the cached one, a parameter added or removed. A Python error may be set then.
  bool add_group(PyObject* group, const GroupNeeds& needs) {
    static PyObject* const params_name = PyUnicode_InternFromString("params");
    PyObject* params = PyDict_Check(group) ? PyDict_GetItem(group, params_name) : nullptr;
    if (!params || !PyList_Check(params)) return false;
    for (Py_ssize_t k = 0; k < PyList_GET_SIZE(params); ++k)
      if (n_seen_ == PyList_GET_SIZE(cached_) || !add_param(PyList_GET_ITEM(params, k), n_seen_++, needs)) return false;
    ++group_index_;
    return true;
  }

  // Whether the walk has seen all cached parameters.
  bool complete() const { return n_seen_ == PyList_GET_SIZE(cached_); }

  // The parameters with a gradient, and their gradients.
  py::object result() {
    for (PyObject* list : {params_.ptr(), grads_.ptr()})
      if (PyList_SetSlice(list, n_found_, PyList_GET_SIZE(list), nullptr)) throw py::error_already_set();
    return py::make_tuple(std::move(params_), std::move(grads_));
  }

 private:
  // Fetches what `add_param` will read of the parameter at `index`.
  void prefetch(Py_ssize_t index) const {
    if (index >= PyList_GET_SIZE(cached_)) return;
    hints_[index].prefetch();
    clrfast::prefetch(PyList_GET_ITEM(cached_, index), 3);
  }

  bool add_param(PyObject* param, Py_ssize_t index, const GroupNeeds& needs) {
    prefetch(index + prefetch_ahead);
    ParamTensors& row = rows_[index];
    const ParamTensors before = row;  // of the last step; zeros where that step left the parameter out
    row = {};
    auto grad = py::reinterpret_steal<py::object>(grad_.of(param));
    if (!grad) return false;
    if (grad.is_none()) return true;
    TensorView view;
    if (!view_of(param, view)) return false;
    if (!is_on(view, requirements_.device)) return is_left_out(view);
    DenseParam dense;
    if (!dense.take(view) || !dense.fits(grad.ptr(), view) || !is_plain_grad_(grad.ptr())) return false;
    const auto grad_dtype = dense.dtype_with(view, requirements_.mixed_dtypes);
    if (!grad_dtype) return false;
    row.grad = address_of(view);
    Dtype state_dtype = dense.dtype();
    PyObject* cached = PyList_GET_ITEM(cached_, index);
    row.param = dense.address();
    if (!is_plain_state_.again(param, before.param, row.param)) return false;
    if (cached == Py_None) {
      if (needs.n_states || needs_master(dense)) return false;
    } else if (!add_state(param, cached, dense, needs, before, row, state_dtype)) {
      return false;
    }
    row.numel = dense.numel();
    row.dtypes = pack_dtypes(dense.dtype(), *grad_dtype, state_dtype);
    row.group = group_index_;
    Py_INCREF(param);
    PyList_SET_ITEM(params_.ptr(), n_found_, param);
    PyList_SET_ITEM(grads_.ptr(), n_found_++, grad.release().ptr());
    return true;
  }

  // Adds what the update needs of the state of `param`. Returns false if the state is not the cached one.
  bool add_state(PyObject* param, PyObject* cached, const DenseParam& dense, const GroupNeeds& needs,
                 const ParamTensors& before, ParamTensors& row, Dtype& state_dtype) {
    enum { param_at, state_at, states_at, counter_at = states_at + max_states, address_at, master_at, items_at };
    const auto at = [cached](Py_ssize_t k) { return PyTuple_GET_ITEM(cached, k); };
    PyObject* const* items = PySequence_Fast_ITEMS(cached) + items_at;
    if (at(param_at) != param || !still_holds(at(state_at), items, PyTuple_GET_SIZE(cached) - items_at)) return false;
    TensorView view;
    for (int k = 0; k < needs.n_states; ++k) {
      PyObject* tensor = at(states_at + k);
      if (tensor == Py_None || !dense.fits(tensor, view)) return false;
      const auto dtype = dense.dtype_with(view, requirements_.mixed_dtypes);
      if (!dtype || (k && *dtype != state_dtype)) return false;
      row.states[k] = address_of(view);
      if (!is_plain_state_.again(tensor, before.states[k], row.states[k])) return false;
      state_dtype = *dtype;
    }
    if (needs.n_states && at(counter_at) != Py_None) {
      // Only memory of Python's own making has room for both numbers of a counter.
      if (!view_of(at(counter_at), view) || address_of(view) != PyLong_AsLongLong(at(address_at))) return false;
      row.counter = address_of(view);
    } else if (needs.n_states && needs.counter && dense.numel()) {
      return false;
    }
    if (needs_master(dense)) {
      if (!requirements_.mixed_dtypes || at(master_at) == Py_None || !dense.fits(at(master_at), view)) return false;
      if (dtype_of(view) != Dtype::float32 || (needs.n_states && state_dtype != Dtype::float32)) return false;
      row.master = address_of(view);
      if (!is_plain_state_.again(at(master_at), before.master, row.master)) return false;
    }
    return true;
  }

  static PyObject* grad_name() {
    static PyObject* const name = PyUnicode_InternFromString("grad");
    return name;
  }

  bool needs_master(const DenseParam& dense) const { return requirements_.master_weights && dense.is_16_bit(); }

  bool is_left_out(const TensorView& view) const {
    const auto& ids = requirements_.other_ids;
    return view.device_type == requirements_.device.first &&
           std::find(ids.begin(), ids.end(), view.device_id) != ids.end();
  }

  const Requirements& requirements_;
  ParamTensors* rows_;
  PyObject* cached_;
  const MemoryHints* hints_;
  py::object params_, grads_;
  Attribute grad_{grad_name()};
  PlainTensorCheck is_plain_grad_, is_plain_state_;
  Py_ssize_t n_seen_ = 0, n_found_ = 0;
  std::int64_t group_index_ = 0;
};

class TensorCollector {
 public:
  TensorCollector(Device device, std::vector<std::int32_t> other_ids, bool mixed_dtypes, bool master_weights)
      : requirements_{device, std::move(other_ids), mixed_dtypes, master_weights} {}

  // Fills the rows of this step. Returns the parameters that have a gradient and their gradients, as two lists; None
  // where Python must decide.
  //
  //   param_groups: list of dicts.  state, counters: the optimizer's state, and its counters of updates.
  //   state_counts, counter_groups: per group, how many tensors of state its parameters need, and whether a counter.
  //   cache: what Python found when it last collected the tensors, a tuple of five:
  //     rows: int64 [n_params, 10], one `ParamTensors` each; overwritten here.
  //     state_items, counter_items: the items of `state` and of `counters` in order, each key followed by its value.
  //     per_param: a list with a tuple per parameter: (parameter, its state, `max_states` tensors of state, counter,
  //       the counter's address, master weights, then the items of its state, each key followed by its value). A
  //       tensor that it does not have is None. A parameter without state has None instead of a tuple.
  //     hints: int64 [n_params, 24], one `MemoryHints` each.
  py::object collect(const py::list& param_groups, const py::dict& state, const py::dict& counters,
                     const std::vector<int>& state_counts, const std::vector<bool>& counter_groups,
                     const py::tuple& cache) const {
    if (cache.size() != 5) throw std::invalid_argument("clrfast._C: a cache has five entries");
    // A write to a converted copy would be lost, so the array must have the right dtype and order.
    using Array = py::array_t<std::int64_t, py::array::c_style>;
    if (!py::isinstance<Array>(cache[0]) || !py::isinstance<Array>(cache[4]))
      throw std::invalid_argument("clrfast._C: rows and hints must be int64 arrays in C order");
    auto rows = py::reinterpret_borrow<Array>(cache[0]);
    const auto hints = py::reinterpret_borrow<Array>(cache[4]);
    const auto state_items = cache[1].cast<py::list>(), counter_items = cache[2].cast<py::list>(),
               per_param = cache[3].cast<py::list>();
    if (rows.ndim() != 2 || rows.shape(1) != tensor_columns)
      throw std::invalid_argument("clrfast._C: rows must be [n, 10]");
    if (hints.ndim() != 2 || hints.shape(0) != rows.shape(0) || hints.shape(1) != n_hints)
      throw std::invalid_argument("clrfast._C: hints must be [n, 24]");
    if (static_cast<py::size_t>(rows.shape(0)) != per_param.size())
      throw std::invalid_argument("clrfast._C: one cached entry per row");
    if (state_counts.size() != counter_groups.size())
      throw std::invalid_argument("clrfast._C: state_counts and counter_groups must have one entry per group");
    if (std::any_of(state_counts.begin(), state_counts.end(), [](int n) { return n < 0 || n > max_states; }))
      throw std::invalid_argument("clrfast._C: state_counts out of range");
    if (!exchange_api || static_cast<py::size_t>(param_groups.size()) != state_counts.size()) return py::none();
    if (!still_holds(state, state_items) || !still_holds(counters, counter_items)) return py::none();
    CollectorWalk walk(requirements_, reinterpret_cast<ParamTensors*>(rows.mutable_data()), per_param.ptr(),
                       reinterpret_cast<const MemoryHints*>(hints.data()));
    for (std::size_t k = 0; k < state_counts.size(); ++k) {
      const GroupNeeds needs{state_counts[k], counter_groups[k]};
      if (!walk.add_group(PyList_GET_ITEM(param_groups.ptr(), static_cast<Py_ssize_t>(k)), needs)) {
        PyErr_Clear();
        return py::none();
      }
    }
    return walk.complete() ? walk.result() : py::none();
  }

 private:
  Requirements requirements_;
};

}  // namespace clrfast
