#pragma once

#include <cstdint>

#include "tensor_list.h"

namespace clrfast {

// Takes one step over all parameters on up to `n_threads` threads. Each gradient is divided by `grad_scale` and
// multiplied by `clip_factor`. Defined for the rules of rules/.
template <class Rule>
void update_cpu(const ParamTensors* list, std::int64_t n_params, const GroupOptions<Rule>* groups, double grad_scale,
                double clip_factor, int n_threads);

// Returns the sum of the squares of all gradients, computed in double; the order of summation does not depend on the
// number of threads.
double squared_norm_cpu(const ParamTensors* list, std::int64_t n_params, int n_threads);

}  // namespace clrfast
