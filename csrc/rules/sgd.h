// SGD with momentum: the update of one element, for every backend.
//
//     g  <- grad_factor * grad                     grad_factor = (maximize ? -1 : 1) / grad_scale
//     g  <- g + weight_decay * p                   left out where weight_decay == 0
//     b  <- buffer_weight * b + grad_weight * g    momentum and 1 - dampening; in the first update 0 and 1, so b <- g
//     d  <- b                                      momentum form
//           g + momentum * b                       Nesterov form
//           g                                      plain form: momentum == 0, and b is neither read nor written
//     p  <- p - lr * d
//
// Each operation rounds by itself (build with -ffp-contract=off, nvcc with -fmad=false). The update is bound by memory,
// so fused multiply-adds gain nothing, and without them all backends agree bit for bit.
#pragma once

#include "host_device.h"

namespace clrfast {

enum class Form { plain, momentum, nesterov };

// Hyper-parameters of one group at one step, in the type of the arithmetic: float, or double for float64 tensors.
template <class T>
struct HyperParams {
  T grad_factor, weight_decay, buffer_weight, grad_weight, momentum, lr;
};

// `grad_weight` is 1 - dampening; `first` says that no update of this buffer was applied before.
template <class T>
CLRFAST_HD HyperParams<T> hyper_params(T lr, T momentum, T weight_decay, T grad_weight, bool maximize, T grad_scale,
                                       bool first) {
  const T inverse_scale = T(1) / grad_scale;
  return {maximize ? -inverse_scale : inverse_scale,
          weight_decay,
          first ? T(0) : momentum,
          first ? T(1) : grad_weight,
          momentum,
          lr};
}

// `form` and `decay` are constants in the loops on the CPU, and registers in the kernel, where they cost nothing.
template <class T>
CLRFAST_HD void sgd_update(Form form, bool decay, T& p, T grad, T& b, const HyperParams<T>& h) {
  T g = h.grad_factor * grad;
  if (decay) g = g + h.weight_decay * p;
  T d = g;
  if (form != Form::plain) {
    b = h.buffer_weight * b + h.grad_weight * g;
    d = form == Form::nesterov ? g + h.momentum * b : b;
  }
  p = p - h.lr * d;
}

}  // namespace clrfast
