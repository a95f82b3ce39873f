// The control of a schedule-driven run: which row of the table the next update uses, and whether it happens.
//
// `advance`, in this order:
//   - if `stop` is set: apply = 0 in every row, nothing else changes;
//   - loss given: losses[step] <- loss; a finite one enters the average
//         average <- smoothing * average + (1 - smoothing) * loss,   weight <- smoothing * weight + (1 - smoothing)
//         smoothed = average / weight,                               best <- min(best, smoothed)
//     and, where divergence is watched (stop_factor > 0), stop <- loss is not finite
//                                              or smoothed - best > (stop_factor - 1) * |best|;
//   - apply = !stop && found_inf == 0           (GradScaler sums found_inf over devices: any value but 0 is a skip)
//   - row  <- table[min(step, total_steps - 1)], apply
//   - step <- step + apply                      a skipped update never moves the schedule
#pragma once

#include <cmath>
#include <cstdint>

#include "sgd_math.h"

namespace clrfast {

struct StepControl {
  const float* table;    // [total_steps, n_groups, 3]: lr, momentum, weight_decay
  std::int64_t total_steps, n_groups;
  std::int64_t* step;    // []
  float* losses;         // [total_steps], NaN where no loss was recorded
  float* average;        // [3]: average, weight, best
  std::uint8_t* stop;    // []
  float* row;            // [n_groups, 4]: lr, momentum, weight_decay, apply
  float smoothing, stop_factor;
};

CLRFAST_HD void advance(const StepControl& c, const float* loss, float found_inf) {
  const std::int64_t step = *c.step;
  if (*c.stop) {
    for (std::int64_t g = 0; g < c.n_groups; ++g) c.row[4 * g + 3] = 0.0f;
    return;
  }
  if (loss) {
    if (step < c.total_steps) c.losses[step] = *loss;
    const bool finite = std::isfinite(*loss);
    float &average = c.average[0], &weight = c.average[1], &best = c.average[2];
    if (finite) {
      const float gain = 1.0f - c.smoothing;
      average = c.smoothing * average + gain * *loss;
      weight = c.smoothing * weight + gain;
      const float smoothed = average / weight;
      best = smoothed < best ? smoothed : best;
      if (c.stop_factor > 0.0f && smoothed - best > (c.stop_factor - 1.0f) * std::fabs(best)) *c.stop = 1;
    } else if (c.stop_factor > 0.0f) {
      *c.stop = 1;
    }
  }
  const bool apply = !*c.stop && found_inf == 0.0f;
  const std::int64_t last = c.total_steps - 1;
  const float* source = c.table + 3 * c.n_groups * (step < last ? step : last);
  for (std::int64_t g = 0; g < c.n_groups; ++g) {
    for (int k = 0; k < 3; ++k) c.row[4 * g + k] = source[3 * g + k];
    c.row[4 * g + 3] = apply ? 1.0f : 0.0f;
  }
  *c.step = step + (apply ? 1 : 0);
}

}  // namespace clrfast
