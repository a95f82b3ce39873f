// The tensors of one optimizer step, as the host hands them over.
#pragma once

#include <cstdint>

#include "dtypes.h"

namespace clrfast {

// One row of the int64 array [n, 8] that Python keeps. Memory is dense, and laid out alike in all tensors of a row.
struct Tensor {
  std::int64_t param, grad, buffer;  // addresses; grad 0: left out of this step; buffer 0: without momentum
  std::int64_t master;               // address of float32 master weights, or 0; buffer is float32 then
  std::int64_t started;              // address of one int64: 0 until an update of the buffer was applied; or 0: it was
  std::int64_t numel;
  std::int64_t types;                // see `Types`
  std::int64_t group;
};
static_assert(sizeof(Tensor) == 8 * sizeof(std::int64_t));

// The types of a row's tensors, two bits each.
struct Types {
  unsigned bits;
  CLRFAST_HD Dtype param() const { return static_cast<Dtype>(bits & 3u); }
  CLRFAST_HD Dtype grad() const { return static_cast<Dtype>(bits >> 2 & 3u); }
  CLRFAST_HD Dtype buffer() const { return static_cast<Dtype>(bits >> 4 & 3u); }
  CLRFAST_HD bool all(Dtype type) const { return bits == static_cast<unsigned>(type) * 0b010101u; }
  CLRFAST_HD bool any_float64() const {
    return param() == Dtype::float64 || grad() == Dtype::float64 || buffer() == Dtype::float64;
  }
};

inline std::int64_t packed(Dtype param, Dtype grad, Dtype buffer) {
  return static_cast<std::int64_t>(param) | static_cast<std::int64_t>(grad) << 2 |
         static_cast<std::int64_t>(buffer) << 4;
}

// Hyper-parameters of one group at this step.
struct Group {
  double lr, momentum, weight_decay;
  bool apply;
  double dampening;
  bool nesterov, maximize;
};

}  // namespace clrfast
