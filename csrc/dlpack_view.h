// What a tensor is, read off its Python object in one C call: DLPack's exchange API, as torch exposes it.
//
// Only the part of DLPack's stable ABI that is needed here (dmlc/dlpack, include/dlpack/dlpack.h, version 1).
#pragma once

#include <Python.h>

#include <algorithm>
#include <cstdint>
#include <utility>

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

constexpr std::uint8_t float_code = 2, bfloat_code = 4;

inline std::int64_t address_of(const TensorView& view) {
  return reinterpret_cast<std::int64_t>(view.data) + static_cast<std::int64_t>(view.byte_offset);
}

inline std::int64_t numel_of(const TensorView& view) {
  std::int64_t numel = 1;
  for (int i = 0; i < view.ndim; ++i) numel *= view.shape[i];
  return numel;
}

// Whether both have one device and shape, and the same strides wherever these matter.
inline bool laid_out_alike(const TensorView& a, const TensorView& b) {
  if (a.device_type != b.device_type || a.device_id != b.device_id || a.ndim != b.ndim) return false;
  for (int i = 0; i < a.ndim; ++i) {
    if (a.shape[i] != b.shape[i]) return false;
    if (a.shape[i] != 1 && a.strides[i] != b.strides[i]) return false;
  }
  return true;
}

// Whether the elements fill their memory without gap or overlap, in whatever order of dimensions.
inline bool is_dense(const TensorView& view) {
  constexpr int most = 16;
  std::pair<std::int64_t, std::int64_t> dims[most];
  int n = 0;
  for (int i = 0; i < view.ndim; ++i) {
    if (view.shape[i] == 1) continue;
    if (view.shape[i] == 0) return true;
    if (n == most) return false;
    dims[n++] = {view.strides[i], view.shape[i]};
  }
  std::int64_t expected = 1;
  bool descending = true;
  for (int i = n - 1; i >= 0 && descending; --i) {
    descending = dims[i].first == expected;
    expected *= dims[i].second;
  }
  if (descending) return true;  // contiguous, the usual case
  std::sort(dims, dims + n);
  expected = 1;
  for (int i = 0; i < n; ++i) {
    if (dims[i].first != expected) return false;
    expected *= dims[i].second;
  }
  return true;
}

}  // namespace clrfast
