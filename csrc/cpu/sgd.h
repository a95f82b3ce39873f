#pragma once

#include <cstdint>

#include "tensor_list.h"

namespace clrfast {

// Takes one SGD step over all parameters on up to `n_threads` threads. `grad_scale` divides every gradient.
void sgd_cpu(const ParamTensors* list, std::int64_t n_params, const GroupOptions* groups, double grad_scale,
             int n_threads);

}  // namespace clrfast
