// Reads a tensor's memory, shape and dtype from its Python object in one C call: DLPack's exchange API, as torch
// exposes it. Declared here is the part of DLPack's stable ABI that clrfast uses (dmlc/dlpack, include/dlpack/dlpack.h,
// version 1).
#pragma once

#include <Python.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>

#include "dtypes.h"

namespace clrfast {

struct TensorView {  // DLTensor
  void* data;
  std::int32_t device_type, device_id;
  std::int32_t ndim;
  std::uint8_t type_code, type_bits;
  std::uint16_t lanes;
  std::int64_t *shape, *strides;
  std::uint64_t byte_offset;
};

struct ExchangeApi {  // DLPackExchangeAPI
  struct {
    std::uint32_t major, minor;
  } version;
  void* previous;
  void *allocate, *managed_from_object, *managed_to_object;
  int (*view_from_object)(void* object, TensorView* out);
  void* current_work_stream;
};

constexpr std::uint8_t int_code = 0, float_code = 2, bfloat_code = 4, bool_code = 6;

// torch's exchange API, and torch.Tensor; both are null before `set_exchange_api_`.
inline const ExchangeApi* exchange_api = nullptr;
inline PyTypeObject* tensor_type = nullptr;

// Returns false with a Python error set where a tensor has no view; a sparse one, for example. A view is valid until
// other code runs.
inline bool view_of(PyObject* tensor, TensorView& view) { return exchange_api->view_from_object(tensor, &view) == 0; }

inline std::int64_t address_of(const TensorView& view) {
  return reinterpret_cast<std::int64_t>(view.data) + static_cast<std::int64_t>(view.byte_offset);
}

inline std::int64_t numel_of(const TensorView& view) {
  std::int64_t numel = 1;
  for (int i = 0; i < view.ndim; ++i) numel *= view.shape[i];
  return numel;
}

inline std::optional<Dtype> dtype_of(const TensorView& view) {
  switch (view.type_code << 8 | view.type_bits) {
    case float_code << 8 | 32: return Dtype::float32;
    case float_code << 8 | 64: return Dtype::float64;
    case float_code << 8 | 16: return Dtype::float16;
    case bfloat_code << 8 | 16: return Dtype::bfloat16;
    default: return std::nullopt;
  }
}

inline bool on_one_device(const TensorView& a, const TensorView& b) {
  return a.device_type == b.device_type && a.device_id == b.device_id;
}

// Whether both have the same device, the same shape, and the same strides in all dimensions of more than one element.
inline bool laid_out_alike(const TensorView& a, const TensorView& b) {
  if (!on_one_device(a, b) || a.ndim != b.ndim) return false;
  for (int i = 0; i < a.ndim; ++i) {
    if (a.shape[i] != b.shape[i]) return false;
    if (a.strides[i] != b.strides[i] && a.shape[i] != 1) return false;
  }
  return true;
}

// Whether the elements are in row-major order without gaps.
inline bool is_contiguous(const TensorView& view) {
  std::int64_t expected = 1;
  for (int i = view.ndim - 1; i >= 0; --i) {
    if (view.strides[i] != expected && view.shape[i] != 1) return false;
    expected *= view.shape[i];
  }
  return true;
}

// Whether the elements fill their memory without gaps or overlaps, in any order of dimensions.
inline bool is_dense(const TensorView& view) {
  if (is_contiguous(view)) return true;
  constexpr int max_dims = 16;
  std::pair<std::int64_t, std::int64_t> dims[max_dims];
  int n = 0;
  for (int i = 0; i < view.ndim; ++i) {
    if (view.shape[i] == 1) continue;
    if (view.shape[i] == 0) return true;
    if (n == max_dims) return false;
    dims[n++] = {view.strides[i], view.shape[i]};
  }
  std::sort(dims, dims + n);
  std::int64_t expected = 1;
  for (int i = 0; i < n; ++i) {
    if (dims[i].first != expected) return false;
    expected *= dims[i].second;
  }
  return true;
}

}  // namespace clrfast
