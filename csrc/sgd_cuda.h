// SGD and its control on CUDA devices. Pointers inside the structures are device memory; nothing here waits for it.
// Everything is launched on the current device, which is the stream's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "step_control.h"
#include "tensor_list.h"

namespace clrfast {

// What beside the tensors decides one step.
struct CudaStep {
  Advance advance;             // done before the update; its row replaces lr, momentum and weight decay of every group
  const float* grad_scale;     // divides every gradient; or null
  const float* found_inf;      // anything but 0 skips the update; or null, and with a control
  std::uint32_t merged_chunks; // a launch of at most so many chunks does `advance` itself
};

struct CudaGroup {
  Group values;                          // without `apply`
  const float* lr_float32 = nullptr;     // the rate as a tensor, in both types; or null
  const double* lr_float64 = nullptr;
};

// `advance` alone; without a ticket.
void advance_cuda(const Advance& advance, std::intptr_t stream);

// One SGD step over all tensors of a device. Returns the number of kernel launches.
int sgd_cuda(const Tensor* tensors, std::int64_t n_tensors, const std::vector<CudaGroup>& groups, const CudaStep& step,
             std::intptr_t stream);

// Loads every kernel on the device: a first use inside of a capture would be an error. Throws where none fits it.
void load_cuda();

// What the driver says where CUDA cannot be used; empty where it can.
std::string cuda_problem();

// Has the driver call `gone(object)` once the graph that the stream is capturing, and all that was instantiated from
// it, no longer exist; on a thread of its own, where neither CUDA nor Python may be used. Throws, and calls nothing, if
// the stream is not capturing.
void when_graph_is_gone(std::intptr_t stream, void (*gone)(void*), void* object);

// How many tensors of one group fit into a launch.
std::size_t tensors_per_launch();

}  // namespace clrfast
