// The tensors and hyper-parameters of one optimizer step, as the host passes them to a backend.
#pragma once

#include <cstdint>

#include "dtypes.h"
#include "rules/rule.h"

namespace clrfast {

// The tensors of one parameter: one row of the int64 array [n, 10] that Python keeps. All of them are dense and have
// the same layout.
struct ParamTensors {
  std::int64_t param, grad;         // addresses; grad is 0 where this step leaves the parameter out
  std::int64_t states[max_states];  // the rule's state, all of one dtype; 0 where the rule needs none
  std::int64_t master;              // address of float32 master weights, or 0; with them, the states are float32
  std::int64_t counter;             // address of an `UpdateCounter`; 0 where the rule needs none
  std::int64_t numel;
  std::int64_t dtypes;              // `TensorDtypes::bits`
  std::int64_t group;
};
static_assert(sizeof(ParamTensors) == 10 * sizeof(std::int64_t));

// The dtypes of a parameter's tensors, two bits each.
struct TensorDtypes {
  unsigned bits;
  CLRFAST_HD Dtype param() const { return static_cast<Dtype>(bits & 3u); }
  CLRFAST_HD Dtype grad() const { return static_cast<Dtype>(bits >> 2 & 3u); }
  CLRFAST_HD Dtype state() const { return static_cast<Dtype>(bits >> 4 & 3u); }
  CLRFAST_HD bool all(Dtype dtype) const { return bits == static_cast<unsigned>(dtype) * 0b010101u; }
  CLRFAST_HD bool any_float64() const {
    return param() == Dtype::float64 || grad() == Dtype::float64 || state() == Dtype::float64;
  }
};

inline TensorDtypes dtypes_of(const ParamTensors& tensors) { return {static_cast<unsigned>(tensors.dtypes)}; }

inline std::int64_t pack_dtypes(Dtype param, Dtype grad, Dtype state) {
  return static_cast<std::int64_t>(param) | static_cast<std::int64_t>(grad) << 2 |
         static_cast<std::int64_t>(state) << 4;
}

// The options of one parameter group at one step.
template <class Rule>
struct GroupOptions {
  Row<double> row;
  bool apply, maximize;
  double constants[Rule::n_constants];
};

}  // namespace clrfast
