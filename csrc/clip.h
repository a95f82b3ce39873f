// Clipping by the norm of all gradients, as torch.nn.utils.clip_grad_norm_ does it:
//
//     norm   = sqrt(sum of the squares of all gradients) / grad_scale
//     factor = min(1, max_norm / (norm + 1e-6))
//
// The update multiplies every gradient by the factor, so the gradients themselves stay as they are. The sum is in
// double: it is exact to float32 whatever its order, and the square of no float32 gradient overflows. A norm that is
// not finite skips the update, as `found_inf` does.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"
#include "step_control.h"

namespace clrfast {

// What a clip writes; one float64 [3] in Python, whose last element holds `found_inf`.
struct ClipResult {
  double norm, factor;
  float found_inf;  // any value but 0 skips the update
};

// The inputs besides the gradients. Pointers may be null, except `result`.
struct ClipParams {
  const float *grad_scale, *found_inf;
  double max_norm;
  StepControl control;  // the norm is recorded in it, if it has a table
  ClipResult* result;
};

CLRFAST_HD void clip(const ClipParams& c, double sum_of_squares) {
  const double norm = std::sqrt(sum_of_squares) / (c.grad_scale ? *c.grad_scale : 1.0f);
  const double ratio = c.max_norm / (norm + 1e-6);
  const bool skip = !std::isfinite(norm) || (c.found_inf && *c.found_inf != 0.0f);
  *c.result = {norm, ratio < 1.0 ? ratio : 1.0, skip ? 1.0f : 0.0f};
  if (c.control.table && !*c.control.stop && *c.control.step < c.control.total_steps)
    c.control.grad_norms[*c.control.step] = static_cast<float>(norm);
}

}  // namespace clrfast
