// The update and its control on CUDA devices. The pointers in the structures are device memory, and nothing here waits
// for the device. Every launch goes to the current device, to which the stream must belong.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "clip.h"
#include "step_control.h"
#include "tensor_list.h"

namespace clrfast {

// The inputs of one step besides the tensors.
struct CudaStep {
  AdvanceParams advance;            // runs before the update; its row replaces that of every group
  const float* grad_scale;          // divides every gradient; or null
  const double* clip_factor;        // multiplies every gradient; or null
  const float* found_inf;           // any value but 0 skips the update; null without, and with a control
  std::uint32_t max_merged_chunks;  // a launch of at most this many chunks advances the control itself
};

template <class Rule>
struct CudaGroupOptions {
  GroupOptions<Rule> options;          // `apply` is not used
  const float* lr_float32 = nullptr;   // the rate as a tensor, in both dtypes; or null
  const double* lr_float64 = nullptr;
};

// Advances the control by a launch of its own; `blocks_done` must be null.
void advance_cuda(const AdvanceParams& advance, std::intptr_t stream);

// Takes one step over all parameters of a device. Returns the number of kernel launches. Defined for the rules of
// rules/.
template <class Rule>
int update_cuda(const ParamTensors* list, std::int64_t n_params, const std::vector<CudaGroupOptions<Rule>>& groups,
                const CudaStep& step, std::intptr_t stream);

// Measures the norm of all gradients and writes the factor that clips it; clip.h has the formulas. `scratch` has room
// for `clip_scratch` values.
void clip_cuda(const ParamTensors* list, std::int64_t n_params, const ClipParams& params, double* scratch,
               std::intptr_t stream);
std::int64_t clip_scratch(const ParamTensors* list, std::int64_t n_params);

// Loads every kernel on the device: a first use inside a graph capture would be an error. Throws where no kernel
// fits the device.
void load_cuda();

// Returns why CUDA cannot be used, in the driver's words; empty if it can.
std::string cuda_problem();

// Makes the driver call `gone(object)` once the graph that the stream is capturing, and everything instantiated from
// it, no longer exist. The call comes on a separate thread, where neither CUDA nor Python may be used. Throws, and
// calls nothing, if the stream is not capturing.
void when_graph_is_gone(std::intptr_t stream, void (*gone)(void*), void* object);

// Returns how many tensors of one group fit into a launch.
template <class Rule>
std::size_t tensors_per_launch();

}  // namespace clrfast
