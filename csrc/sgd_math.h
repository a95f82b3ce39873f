// The update of one element by SGD with momentum, for every backend.
//
//     g  <- grad_factor * grad                     grad_factor = (maximize ? -1 : 1) / grad_scale
//     g  <- g + weight_decay * p                   (left out where weight_decay == 0)
//     b  <- buffer_decay * b + buffer_gain * g     momentum, 1 - dampening; first update: 0, 1, so b <- g
//     d  <- b                                      momentum form
//           g + momentum * b                       Nesterov form
//           g                                      plain form (momentum == 0; b is neither read nor written)
//     p  <- p - lr * d
//
// Every operation is rounded by itself (build with -ffp-contract=off, nvcc with -fmad=false): the update is bound
// by memory, so fused multiply-adds gain nothing, and without them all backends agree bit for bit.
#pragma once

#ifdef __CUDACC__
#define CLRFAST_HD __host__ __device__ __forceinline__
#else
#define CLRFAST_HD inline
#endif

namespace clrfast {

enum class Form { plain, momentum, nesterov };

// Hyper-parameters of one group at one step, in the type of the arithmetic (float; double for float64 tensors).
template <class T>
struct Hyper {
  T grad_factor, weight_decay, buffer_decay, buffer_gain, momentum, lr;
};

// `gain` = 1 - dampening; `first`: no update of this buffer has been applied before.
template <class T>
CLRFAST_HD Hyper<T> hyper(T lr, T momentum, T weight_decay, T gain, bool maximize, T grad_scale, bool first) {
  const T inverse_scale = T(1) / grad_scale;
  return {maximize ? -inverse_scale : inverse_scale,
          weight_decay,
          first ? T(0) : momentum,
          first ? T(1) : gain,
          momentum,
          lr};
}

// `form` and `decay` are constants in the CPU's loops and registers in the kernel's, where they cost nothing.
template <class T>
CLRFAST_HD void sgd_update(Form form, bool decay, T& p, T grad, T& b, const Hyper<T>& h) {
  T g = h.grad_factor * grad;
  if (decay) g = g + h.weight_decay * p;
  T d = g;
  if (form != Form::plain) {
    b = h.buffer_decay * b + h.buffer_gain * g;
    d = form == Form::nesterov ? g + h.momentum * b : b;
  }
  p = p - h.lr * d;
}

}  // namespace clrfast
