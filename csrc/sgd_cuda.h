// SGD and its control on CUDA devices. Pointers inside the structures are device memory; nothing here waits for it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "launch_plan.h"
#include "step_control.h"
#include "tensor_list.h"

namespace clrfast {

// Where the kernels run.
struct CudaQueue {
  int device;
  std::intptr_t stream;  // cudaStream_t
};

// What beside the tensors decides one step; every pointer may be null.
struct CudaStep {
  const float* row;          // a control's current row; replaces lr, momentum and weight decay of every group
  const float* grad_scale;   // divides every gradient
  const float* found_inf;    // anything but 0 skips the update
  const std::int64_t* tick;  // number of this step, see `Tensor::started`
};

struct CudaGroup {
  Group values;                          // without `apply`
  const float* lr_float32 = nullptr;     // the rate as a tensor, in both types; or null
  const double* lr_float64 = nullptr;
};

// StepControl::advance; `tick` (may be null) counts the calls. Without a table it does nothing but count.
void advance_cuda(const StepControl& control, const float* loss, const float* found_inf, std::int64_t* tick,
                  const CudaQueue& queue);

// One SGD step over all tensors of a device. Returns the number of kernel launches.
int sgd_cuda(const Tensor* tensors, std::int64_t n_tensors, const std::vector<CudaGroup>& groups, const CudaStep& step,
             const CudaQueue& queue);

// Loads every kernel on the device: a first use inside of a capture would be an error. Throws where none fits it.
void load_cuda(int device);

// What the driver says where CUDA cannot be used; empty where it can.
std::string cuda_problem();

// A flag that turns false once the graph that the stream is capturing, and all that was instantiated from it, is gone.
// Throws if the stream is not capturing.
std::shared_ptr<std::atomic<bool>> graph_alive(const CudaQueue& queue);

// How many tensors of one group fit into a launch.
std::size_t tensors_per_launch();

}  // namespace clrfast
