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

// What one step does, worked out before anything is written: all threads of a block may decide, then one commits.
struct Decision {
  std::int64_t step;
  bool live, apply, stop;
  bool record, enter;  // the loss: into the history, into the average
  float loss, average, weight, best;
};

CLRFAST_HD Decision decide(const StepControl& c, const float* loss, float found_inf) {
  Decision d{*c.step, !*c.stop, false, *c.stop != 0, false, false, 0.0f, 0.0f, 0.0f, 0.0f};
  if (!d.live) return d;
  if (loss) {
    d.loss = *loss;
    d.record = d.step < c.total_steps;
    d.enter = std::isfinite(d.loss);
    if (d.enter) {
      const float gain = 1.0f - c.smoothing;
      d.average = c.smoothing * c.average[0] + gain * d.loss;
      d.weight = c.smoothing * c.average[1] + gain;
      const float smoothed = d.average / d.weight;
      d.best = smoothed < c.average[2] ? smoothed : c.average[2];
      d.stop = c.stop_factor > 0.0f && smoothed - d.best > (c.stop_factor - 1.0f) * std::fabs(d.best);
    } else {
      d.stop = c.stop_factor > 0.0f;
    }
  }
  d.apply = !d.stop && found_inf == 0.0f;
  return d;
}

CLRFAST_HD void write_row(const StepControl& c, const Decision& d, std::int64_t group) {
  float* row = c.row + 4 * group;
  if (d.live) {
    const std::int64_t last = c.total_steps - 1;
    const float* source = c.table + 3 * (c.n_groups * (d.step < last ? d.step : last) + group);
    for (int k = 0; k < 3; ++k) row[k] = source[k];
  }
  row[3] = d.apply ? 1.0f : 0.0f;
}

CLRFAST_HD void commit(const StepControl& c, const Decision& d) {
  if (d.record) c.losses[d.step] = d.loss;
  if (d.enter) c.average[0] = d.average, c.average[1] = d.weight, c.average[2] = d.best;
  *c.stop = d.stop;
  *c.step = d.step + d.apply;
}

inline void advance(const StepControl& c, const float* loss, float found_inf) {
  const Decision d = decide(c, loss, found_inf);
  for (std::int64_t group = 0; group < c.n_groups; ++group) write_row(c, d, group);
  commit(c, d);
}

}  // namespace clrfast
