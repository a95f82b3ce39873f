// AdamW and Adam: the update of one element, for every backend.
//
//     g  <- grad_factor * grad
//     p  <- p * (1 - lr * weight_decay)            decoupled decay (AdamW)
//     g  <- g + weight_decay * p                   L2 decay (Adam); left out where weight_decay == 0
//     m  <- m + (1 - beta1) * (g - m)              written as g - beta1 * (g - m) where beta1 <= 1/2
//     v  <- beta2 * v + (1 - beta2) * g * g
//     x  <- max(x, v)                              AMSGrad only; else x is v
//     p  <- p - lr / (1 - beta1^t) * m / (sqrt(x) * (1 / sqrt(1 - beta2^t)) + eps)
//
// beta1 is the table's momentum, and t the number of this update of the parameter. An update moves 28 bytes per float32
// parameter: it reads p, g, m and v, and writes p, m and v.
//
// Coefficients are computed in double, as in torch: in float, 1 - 0.999 would be wrong in its fifth digit.
#pragma once

#include <cmath>

#include "rules/rule.h"

namespace clrfast {

struct AdamW {
  static constexpr int min_states = 2, n_states = 3, vector_states = 2, n_constants = 4;
  static constexpr bool always_counts = true;
  static constexpr bool costly_hyper_params = true;

  template <class T>
  using Scalar = double;

  template <class T>
  struct Constants {
    double beta2, eps;
    bool amsgrad, decoupled;

    template <class U>
    CLRFAST_HD Constants<U> as() const {
      return {beta2, eps, amsgrad, decoupled};
    }
  };

  // `values`: beta2, eps, amsgrad, whether the decay is decoupled.
  template <class T>
  static Constants<T> constants(const double* values) {
    return {values[0], values[1], values[2] != 0, values[3] != 0};
  }

  template <class T>
  struct HyperParams {
    T grad_factor, decay, difference_weight, beta2, v_weight, step_size, inverse_root, eps;
    bool from_g;  // beta1 <= 1/2
  };

  enum : unsigned { amsgrad = 1, l2_decay = 2 };
  static constexpr unsigned n_variants = 4;
  CLRFAST_HD static constexpr int states_used(unsigned variant) { return variant & amsgrad ? 3 : 2; }

  CLRFAST_HD static unsigned variant(const Row<double>& row, const Constants<double>& constants, bool) {
    return (constants.amsgrad ? amsgrad : 0u) |
           (!constants.decoupled && row.weight_decay != 0 ? static_cast<unsigned>(l2_decay) : 0u);
  }

  template <class T>
  CLRFAST_HD static HyperParams<T> hyper_params(const Row<double>& row, const Constants<double>& constants,
                                                T grad_factor, float count) {
    const double beta1 = row.momentum, beta2 = constants.beta2, t = count;
    return {grad_factor,
            static_cast<T>(constants.decoupled ? 1 - row.lr * row.weight_decay
                                               : row.weight_decay != 0 ? row.weight_decay : 1.0),
            static_cast<T>(beta1 <= 0.5 ? -beta1 : 1 - beta1),
            static_cast<T>(beta2),
            static_cast<T>(1 - beta2),
            static_cast<T>(row.lr / (1 - std::pow(beta1, t))),
            static_cast<T>(1 / std::sqrt(1 - std::pow(beta2, t))),
            static_cast<T>(constants.eps),
            beta1 <= 0.5};
  }

  template <class T>
  CLRFAST_HD static void update(unsigned variant, T& p, T grad, T* states, const HyperParams<T>& h) {
    T g = h.grad_factor * grad;
    if (variant & l2_decay)
      g = g + h.decay * p;
    else
      p = p * h.decay;
    T &m = states[0], &v = states[1];
    m = (h.from_g ? g : m) + h.difference_weight * (g - m);
    v = h.beta2 * v + h.v_weight * g * g;
    T x = v;
    if (variant & amsgrad) {
      x = states[2] >= v ? states[2] : v;  // a NaN in v stays
      states[2] = x;
    }
    p = p - h.step_size * m / (std::sqrt(x) * h.inverse_root + h.eps);
  }
};

}  // namespace clrfast
