// What an update rule provides, and what it gets.
//
// A rule is a struct of constants and static functions; rules/sgd.h is the shortest example:
//
//   min_states, n_states the fewest and the most tensors of state that an update uses
//   vector_states        the most states of an update for which a GPU has loops over vectors; others are rare
//   n_constants          numbers of a group beside those of the table's row and `maximize`
//   always_counts        whether every parameter has a counter
//   costly_hyper_params  whether one thread of a block computes the hyper-parameters for all
//   Scalar<T>            the type in which a launch passes a group's numbers
//   Constants<T>         a group's own numbers; `constants(values)` makes them from doubles, in Python's order, and
//                        `as<U>()` converts them
//   HyperParams<T>       what `update` needs, in the type T of the arithmetic: float, or double for float64 parameters
//   n_variants           forms of the update that differ in their operations; `variant(row, constants, has_states)`
//                        chooses one, and `states_used(variant)` is the number of states that it reads and writes
//   hyper_params<T>(row, constants, grad_factor, count)   `count` is the number of this update of the parameter,
//                        1 for the first; 0 where the parameter has no counter
//   update(variant, p, grad, states, h)   updates one element in place
//
// Each operation rounds by itself (build with -ffp-contract=off, nvcc with -fmad=false). An update is bound by memory,
// so fused multiply-adds gain nothing, and without them all backends agree bit for bit.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace clrfast {

constexpr int max_states = 3;

// One group's row of the table. A rule may call its own coefficient `momentum`: for Adam it is beta1.
template <class T>
struct Row {
  T lr, momentum, weight_decay;
};

// Counts the applied updates of one parameter. On a GPU, one access reads both numbers: the blocks of a tensor run in
// any order, so a block that finds the number of this very step knows that the update is already counted.
struct UpdateCounter {
  float count;
  std::uint32_t last_step;  // the `step_count` of the last counted update on a GPU; not used on the CPU

  // Returns the number of the update that runs in step `step_count`.
  CLRFAST_HD float number(std::uint32_t step_count) const { return last_step == step_count ? count : count + 1.0f; }
};
static_assert(sizeof(UpdateCounter) == 8);

// What multiplies each gradient.
template <class T>
CLRFAST_HD T grad_factor(bool maximize, T grad_scale, T clip_factor) {
  const T factor = T(1) / grad_scale * clip_factor;
  return maximize ? -factor : factor;
}

}  // namespace clrfast
