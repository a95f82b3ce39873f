// The control of a scheduled run: which row of the table the next update uses, and whether the update is applied.
//
// `advance` takes one step, in this order:
//   - where `stop` is set, apply = 0 in every row, and nothing else changes;
//   - a loss is recorded: losses[step] <- loss. A finite one enters the average:
//         average <- smoothing * average + (1 - smoothing) * loss,   weight <- smoothing * weight + (1 - smoothing)
//         smoothed = average / weight,                               best <- min(best, smoothed)
//     Where divergence is watched (stop_factor > 0), stop <- the loss is not finite
//                                                  or smoothed - best > (stop_factor - 1) * |best|;
//   - apply = !stop && found_inf == 0           GradScaler sums found_inf over devices: any value but 0 is a skip
//   - row  <- table[min(step, total_steps - 1)], apply
//   - step <- step + apply                      a skipped update never moves the schedule
//
// The step has four parts, because each load that depends on another one costs a GPU a trip to memory. `load_state`
// loads the state; none of its loads depends on another. `table_row` loads a row of the table, which depends on the
// step. `decide` computes. `commit` stores.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace clrfast {

struct StepControl {
  const float* table;    // [total_steps, n_groups, 3]: lr, momentum, weight_decay
  std::int64_t total_steps, n_groups;
  std::int64_t* step;    // []
  float* losses;         // [total_steps], NaN where no loss was recorded
  float* grad_norms;     // [total_steps], NaN where no norm was recorded; `advance` does not use it
  float* average;        // [3]: average, weight, best
  std::uint8_t* stop;    // []
  float* row;            // [n_groups, 4]: lr, momentum, weight_decay, apply
  float smoothing, stop_factor;
};

// The arguments of `advance` on a GPU; each pointer but the control's may be null.
struct AdvanceParams {
  StepControl control;          // without a table, only `step_count` advances
  const float *loss, *found_inf;
  std::int64_t* step_count;     // number of calls so far, skipped updates included
  std::uint32_t* blocks_done;   // blocks of a running update that have read the state; 0 between launches
};

// The state before a step.
struct ControlState {
  std::int64_t step;
  float average, weight, best, loss, found_inf;
  bool stop, has_loss;
};

// `loss` and `found_inf` may be null.
CLRFAST_HD ControlState load_state(const StepControl& c, const float* loss, const float* found_inf) {
  return {*c.step,
          c.average[0],
          c.average[1],
          c.average[2],
          loss ? *loss : 0.0f,
          found_inf ? *found_inf : 0.0f,
          *c.stop != 0,
          loss != nullptr};
}

// The outcome of a step, computed before anything is stored: many threads may decide, and one commits.
struct Decision {
  std::int64_t step;
  bool running, apply, stop;  // running: `stop` was not set before this step
  bool record_loss, update_average;
  float loss, average, weight, best;
};

CLRFAST_HD Decision decide(const StepControl& c, const ControlState& before) {
  Decision d{before.step, !before.stop, false, before.stop, false, false, before.loss, 0.0f, 0.0f, 0.0f};
  if (!d.running) return d;
  if (before.has_loss) {
    d.record_loss = d.step < c.total_steps;
    d.update_average = std::isfinite(d.loss);
    if (d.update_average) {
      const float loss_weight = 1.0f - c.smoothing;
      d.average = c.smoothing * before.average + loss_weight * d.loss;
      d.weight = c.smoothing * before.weight + loss_weight;
      const float smoothed = d.average / d.weight;
      d.best = smoothed < before.best ? smoothed : before.best;
      d.stop = c.stop_factor > 0.0f && smoothed - d.best > (c.stop_factor - 1.0f) * std::fabs(d.best);
    } else {
      d.stop = c.stop_factor > 0.0f;
    }
  }
  d.apply = !d.stop && before.found_inf == 0.0f;
  return d;
}

// One group's values at one step.
struct TableRow {
  float lr, momentum, weight_decay;
};

// Returns the values of `group` at `step`; past the end of the table, those of its last row.
CLRFAST_HD TableRow table_row(const StepControl& c, std::int64_t step, std::int64_t group) {
  const std::int64_t last = c.total_steps - 1;
  const float* values = c.table + 3 * (c.n_groups * (step < last ? step : last) + group);
  return {values[0], values[1], values[2]};
}

CLRFAST_HD void store_row(const StepControl& c, const Decision& d, std::int64_t group) {
  float* row = c.row + 4 * group;
  if (d.running) {
    const TableRow values = table_row(c, d.step, group);
    row[0] = values.lr, row[1] = values.momentum, row[2] = values.weight_decay;
  }
  row[3] = d.apply ? 1.0f : 0.0f;
}

CLRFAST_HD void commit(const StepControl& c, const Decision& d) {
  if (d.record_loss) c.losses[d.step] = d.loss;
  if (d.update_average) c.average[0] = d.average, c.average[1] = d.weight, c.average[2] = d.best;
  *c.stop = d.stop;
  *c.step = d.step + d.apply;
}

CLRFAST_HD void advance(const StepControl& c, const float* loss, const float* found_inf) {
  const Decision d = decide(c, load_state(c, loss, found_inf));
  for (std::int64_t group = 0; group < c.n_groups; ++group) store_row(c, d, group);
  commit(c, d);
}

}  // namespace clrfast
