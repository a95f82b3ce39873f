// Lion: the update of one element, for every backend.
//
//     g  <- grad_factor * grad
//     u  <- sign(beta1 * m + (1 - beta1) * g)
//     p  <- p * (1 - lr * weight_decay) - lr * u
//     m  <- beta2 * m + (1 - beta2) * g
//
// beta1 is the table's momentum. An update moves 20 bytes per float32 parameter: it reads p, g and m, and writes p and m.
#pragma once

#include "rules/rule.h"

namespace clrfast {

struct Lion {
  static constexpr int min_states = 1, n_states = 1, vector_states = 1, n_constants = 1;
  static constexpr bool always_counts = false;
  static constexpr bool costly_hyper_params = false;

  template <class T>
  using Scalar = double;

  template <class T>
  struct Constants {
    double beta2;

    template <class U>
    CLRFAST_HD Constants<U> as() const {
      return {beta2};
    }
  };

  // `values`: beta2.
  template <class T>
  static Constants<T> constants(const double* values) {
    return {values[0]};
  }

  template <class T>
  struct HyperParams {
    T grad_factor, decay, lr, beta1, u_weight, beta2, m_weight;
  };

  static constexpr unsigned n_variants = 1;
  CLRFAST_HD static constexpr int states_used(unsigned) { return 1; }
  CLRFAST_HD static unsigned variant(const Row<double>&, const Constants<double>&, bool) { return 0; }

  template <class T>
  CLRFAST_HD static HyperParams<T> hyper_params(const Row<double>& row, const Constants<double>& constants,
                                                T grad_factor, float) {
    return {grad_factor,
            static_cast<T>(1 - row.lr * row.weight_decay),
            static_cast<T>(row.lr),
            static_cast<T>(row.momentum),
            static_cast<T>(1 - row.momentum),
            static_cast<T>(constants.beta2),
            static_cast<T>(1 - constants.beta2)};
  }

  template <class T>
  CLRFAST_HD static void update(unsigned, T& p, T grad, T* states, const HyperParams<T>& h) {
    const T g = h.grad_factor * grad;
    T& m = states[0];
    const T u = h.beta1 * m + h.u_weight * g;
    const T sign = u > 0 ? T(1) : u < 0 ? T(-1) : u;  // 0 and NaN stay
    p = p * h.decay - h.lr * sign;
    m = h.beta2 * m + h.m_weight * g;
  }
};

}  // namespace clrfast
