#pragma once

#include <cstdint>

#include "tensor_list.h"

namespace clrfast {

// One SGD step over all tensors, on up to `n_threads` threads. `grad_scale` divides every gradient.
void sgd_cpu(const Tensor* tensors, std::int64_t n_tensors, const Group* groups, double grad_scale, int n_threads);

}  // namespace clrfast
