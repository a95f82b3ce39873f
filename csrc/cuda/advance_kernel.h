// The kernel that advances the control in a launch of its own.
#pragma once

#include "cuda/kernels.h"

namespace clrfast {

__global__ void __launch_bounds__(advance_block_size) advance_kernel(const __grid_constant__ AdvanceParams a) {
  advance_by_warp(a);
}

}  // namespace clrfast
