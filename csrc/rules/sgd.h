// SGD with momentum: the update of one element, for every backend.
//
//     g  <- grad_factor * grad
//     g  <- g + weight_decay * p                   left out where weight_decay == 0
//     b  <- buffer_weight * b + grad_weight * g    momentum and 1 - dampening; in the first update 0 and 1, so b <- g
//     d  <- b                                      momentum form
//           g + momentum * b                       Nesterov form
//           g                                      plain form: momentum == 0, and b is neither read nor written
//     p  <- p - lr * d
//
// An update moves 20 bytes per float32 parameter with momentum: it reads p, g and b, and writes p and b.
#pragma once

#include "rules/rule.h"

namespace clrfast {

struct Sgd {
  static constexpr int min_states = 0, n_states = 1, vector_states = 1, n_constants = 2;
  static constexpr bool always_counts = false;
  static constexpr bool costly_hyper_params = false;

  template <class T>
  using Scalar = T;

  template <class T>
  struct Constants {
    T grad_weight;
    bool nesterov;

    template <class U>
    CLRFAST_HD Constants<U> as() const {
      return {static_cast<U>(grad_weight), nesterov};
    }
  };

  // `values`: dampening, nesterov.
  template <class T>
  static Constants<T> constants(const double* values) {
    return {static_cast<T>(1 - values[0]), values[1] != 0};
  }

  template <class T>
  struct HyperParams {
    T grad_factor, weight_decay, buffer_weight, grad_weight, momentum, lr;
  };

  // Three forms, each without and with weight decay.
  enum Form : unsigned { plain = 0, momentum = 2, nesterov = 4 };
  static constexpr unsigned n_variants = 6;
  CLRFAST_HD static constexpr int states_used(unsigned variant) { return variant >= momentum; }

  template <class T>
  CLRFAST_HD static unsigned variant(const Row<T>& row, const Constants<T>& constants, bool has_states) {
    const unsigned form = row.momentum == 0 || !has_states ? plain : constants.nesterov ? nesterov : momentum;
    return form | (row.weight_decay != 0);
  }

  template <class T>
  CLRFAST_HD static HyperParams<T> hyper_params(const Row<T>& row, const Constants<T>& constants, T grad_factor,
                                                float count) {
    const bool first = count == 1.0f;
    return {grad_factor,
            row.weight_decay,
            first ? T(0) : row.momentum,
            first ? T(1) : constants.grad_weight,
            row.momentum,
            row.lr};
  }

  template <class T>
  CLRFAST_HD static void update(unsigned variant, T& p, T grad, T* states, const HyperParams<T>& h) {
    T g = h.grad_factor * grad;
    if (variant & 1u) g = g + h.weight_decay * p;
    T d = g;
    if (states_used(variant)) {
      T& b = states[0];
      b = h.buffer_weight * b + h.grad_weight * g;
      d = variant >= nesterov ? g + h.momentum * b : b;
    }
    p = p - h.lr * d;
  }
};

}  // namespace clrfast
