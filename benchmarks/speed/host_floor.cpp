// Lower bounds of the host's time for an optimizer step and before a replay: loops over what any implementation has to
// read from the tensors' Python objects. benchmarks/speed/bench_host.py builds them and times them beside clrfast.
#include <Python.h>

#include "python/attribute.h"
#include "python/dlpack_view.h"

using namespace clrfast;

namespace {

PyObject* named(const char* name) { return PyUnicode_InternFromString(name); }

template <class Read>
bool all(PyObject* list, Read read) {
  for (Py_ssize_t k = 0; k < PyList_GET_SIZE(list); ++k)
    if (!read(PyList_GET_ITEM(list, k))) return false;
  return true;
}

bool sees(PyObject* tensor) {
  TensorView view;
  return view_of(tensor, view);
}

template <class Then>
bool reads(Attribute& attribute, PyObject* object, Then then) {
  PyObject* value = attribute.of(object);
  const bool good = value && then(value);
  Py_XDECREF(value);
  return good;
}

bool ignored(PyObject*) { return true; }

}  // namespace

extern "C" {

// Must be called first, with `torch.Tensor.__dlpack_c_exchange_api__`.
__attribute__((visibility("default"))) int prepare(PyObject* capsule) {
  exchange_api = static_cast<const ExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  return exchange_api != nullptr;
}

// Reads for a step: `grad` of each parameter, and views of parameter, gradient and buffer.
__attribute__((visibility("default"))) int step_floor(PyObject* params, PyObject* buffers) {
  static PyObject* const name = named("grad");
  Attribute grad(name);
  return all(params, [&](PyObject* param) { return sees(param) && reads(grad, param, sees); }) && all(buffers, sees);
}

// Reads before a replay: `training` of each module, `requires_grad` and `grad` of each parameter, views of all tensors.
__attribute__((visibility("default"))) int replay_floor(PyObject* modules, PyObject* params, PyObject* tensors) {
  static PyObject *const names[] = {named("training"), named("requires_grad"), named("grad")};
  Attribute training(names[0]), requires_grad(names[1]), grad(names[2]);
  return all(modules, [&](PyObject* module) { return reads(training, module, ignored); }) &&
         all(params, [&](PyObject* p) { return reads(requires_grad, p, ignored) && reads(grad, p, ignored); }) &&
         all(tensors, sees);
}
}
