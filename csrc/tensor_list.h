// The tensors of one optimizer step, as the host hands them over.
#pragma once

#include <cstdint>

#include "dtypes.h"

namespace clrfast {

// One row of the int64 array [n, 7] that Python keeps. Memory is dense, and laid out alike in all three tensors.
struct Tensor {
  std::int64_t param, grad, buffer;  // addresses; grad 0: left out of this step; buffer 0: without momentum
  std::int64_t started;              // address of one byte: whether the buffer holds an applied update
  std::int64_t numel;
  Dtype dtype;                       // of all three
  std::int64_t group;
};
static_assert(sizeof(Tensor) == 7 * sizeof(std::int64_t));

// Hyper-parameters of one group at this step.
struct Group {
  double lr, momentum, weight_decay;
  bool apply;
  double dampening;
  bool nesterov, maximize;
};

}  // namespace clrfast
