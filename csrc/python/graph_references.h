// Keeps Python objects alive as long as a captured CUDA graph that points at their memory.
//
// The driver reports the end of a graph on a thread of its own, where Python must not run. The interpreter drops the
// references at its next opportunity, or else the next `hold_for_graph` does.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <mutex>
#include <vector>

#include "cuda/update.h"

namespace clrfast {

namespace py = pybind11;

// The objects whose graphs are gone.
struct ReleasedObjects {
  std::mutex mutex;
  std::vector<PyObject*> objects;
};
inline ReleasedObjects& released = *new ReleasedObjects;  // never destroyed: graphs may end later than the module

inline int drop_released(void*) {
  std::vector<PyObject*> objects;
  {
    const std::lock_guard<std::mutex> lock(released.mutex);
    objects.swap(released.objects);
  }
  for (PyObject* object : objects) Py_DECREF(object);  // outside the lock, because this may run any code
  return 0;
}

inline void graph_is_gone(void* object) {
  if (!Py_IsInitialized()) return;
  {
    const std::lock_guard<std::mutex> lock(released.mutex);
    released.objects.push_back(static_cast<PyObject*>(object));
  }
  Py_AddPendingCall(&drop_released, nullptr);
}

// Keeps `objects` alive as long as the graph that `stream` is capturing.
inline void hold_for_graph(std::intptr_t stream, py::object objects) {
  drop_released(nullptr);
  when_graph_is_gone(stream, &graph_is_gone, objects.ptr());
  objects.release();
}

}  // namespace clrfast
