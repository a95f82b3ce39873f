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
//
// In parts, because a GPU pays for every load that waits for another: `observe` loads the state, none of its loads
// depends on another; `row_of` loads the table's row, which depends on the step; `decide` computes; `commit` stores.
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

// `advance` as a GPU does it; each pointer but the control's may be null.
struct Advance {
  StepControl control;      // its table may be null: then nothing but `tick` advances
  const float *loss, *found_inf;
  std::int64_t* tick;       // counts the calls
  std::uint32_t* ticket;    // 0 between launches: counts the blocks of an update that have read the state
};

// The state before a step.
struct Observed {
  std::int64_t step;
  float average, weight, best, loss, found_inf;
  bool stop, has_loss;
};

// `loss` and `found_inf` may be null.
CLRFAST_HD Observed observe(const StepControl& c, const float* loss, const float* found_inf) {
  return {*c.step,
          c.average[0],
          c.average[1],
          c.average[2],
          loss ? *loss : 0.0f,
          found_inf ? *found_inf : 0.0f,
          *c.stop != 0,
          loss != nullptr};
}

// What the step does, computed before anything is written: many threads may decide, then one commits.
struct Decision {
  std::int64_t step;
  bool live, apply, stop;
  bool record, enter;  // the loss: into the history, into the average
  float loss, average, weight, best;
};

CLRFAST_HD Decision decide(const StepControl& c, const Observed& seen) {
  Decision d{seen.step, !seen.stop, false, seen.stop, false, false, seen.loss, 0.0f, 0.0f, 0.0f};
  if (!d.live) return d;
  if (seen.has_loss) {
    d.record = d.step < c.total_steps;
    d.enter = std::isfinite(d.loss);
    if (d.enter) {
      const float gain = 1.0f - c.smoothing;
      d.average = c.smoothing * seen.average + gain * d.loss;
      d.weight = c.smoothing * seen.weight + gain;
      const float smoothed = d.average / d.weight;
      d.best = smoothed < seen.best ? smoothed : seen.best;
      d.stop = c.stop_factor > 0.0f && smoothed - d.best > (c.stop_factor - 1.0f) * std::fabs(d.best);
    } else {
      d.stop = c.stop_factor > 0.0f;
    }
  }
  d.apply = !d.stop && seen.found_inf == 0.0f;
  return d;
}

// One group's values at one step.
struct Row {
  float lr, momentum, weight_decay;
};

// The values of `group` at `step`; past the end of the table its last row stays in force.
CLRFAST_HD Row row_of(const StepControl& c, std::int64_t step, std::int64_t group) {
  const std::int64_t last = c.total_steps - 1;
  const float* values = c.table + 3 * (c.n_groups * (step < last ? step : last) + group);
  return {values[0], values[1], values[2]};
}

CLRFAST_HD void write_row(const StepControl& c, const Decision& d, std::int64_t group) {
  float* row = c.row + 4 * group;
  if (d.live) {
    const Row values = row_of(c, d.step, group);
    row[0] = values.lr, row[1] = values.momentum, row[2] = values.weight_decay;
  }
  row[3] = d.apply ? 1.0f : 0.0f;
}

CLRFAST_HD void commit(const StepControl& c, const Decision& d) {
  if (d.record) c.losses[d.step] = d.loss;
  if (d.enter) c.average[0] = d.average, c.average[1] = d.weight, c.average[2] = d.best;
  *c.stop = d.stop;
  *c.step = d.step + d.apply;
}

CLRFAST_HD void advance(const StepControl& c, const float* loss, const float* found_inf) {
  const Decision d = decide(c, observe(c, loss, found_inf));
  for (std::int64_t group = 0; group < c.n_groups; ++group) write_row(c, d, group);
  commit(c, d);
}

}  // namespace clrfast
