// The kernels: the update of a launch's tensors, and the control's `advance`.
//
// A block of 256 threads updates one chunk. The control's row on the device says whether the update is applied and with
// which values. The row is written in one of two ways, with the same result:
//   - `advance_kernel` comes first in the stream and writes the row, which all blocks of the update read;
//   - the update launch advances the control itself. Every block decides from a state that no block changes, and counts
//     itself once all of its threads have read it. The block that is counted last stores state and row. This saves a
//     launch and costs each block a second trip to memory for its row of the table, so it suits launches of few chunks.
//
// The flag `momentum_initialized` of a buffer holds 0 before the buffer's first applied update, and from then on the
// number of that step (`step_count`). Blocks of one tensor run in any order, so in the first update some read 0 and
// others the number of this very step; both mean that the update is the first.
#pragma once

#include "cuda/launch_argument.h"
#include "cuda/update_chunk.h"

namespace clrfast {

constexpr int blocks_per_multiprocessor = 4;  // at 64 registers per thread, half of all threads are resident
constexpr int advance_block_size = 32;

CLRFAST_HD bool is_16_bit(Dtype dtype) { return dtype == Dtype::float16 || dtype == Dtype::bfloat16; }

// The choices that benchmarks/speed/kernel_variants compares with others.
struct DefaultTuning {
  // Elements of a chunk: few enough that a model of medium size occupies the whole device in one wave, enough that a
  // block's loads take longer than its preparations.
  CLRFAST_HD static int chunk(TensorDtypes dtypes) { return is_16_bit(dtypes.param()) ? 8192 : 4096; }

  template <class Argument>
  __device__ static ChunkLocation find(const Argument& argument, std::uint32_t block) {
    return argument.find(block);
  }

  // Whether the launch may begin before the one that writes the row has ended. If so, `wait` waits for that end.
  static constexpr bool begins_early = false;
  __device__ static void wait() {}
};

// The hyper-parameters that one group uses in this step, and whether the update is applied.
template <class T>
struct GroupValues {
  T lr, momentum, weight_decay;
  bool apply;
};

__device__ __forceinline__ AlignedVector<float, 4> load_row(const float* row, std::int64_t group) {
  return *reinterpret_cast<const AlignedVector<float, 4>*>(row + 4 * group);
}

// Counts a block whose reads are done, and returns how many were counted before it. The block needs the answer only at
// its end, so nothing here waits for it.
__device__ __forceinline__ std::uint32_t count_block(std::uint32_t* blocks_done) {
#ifdef __CUDA_ARCH__
  std::uint32_t before;
  asm volatile("atom.add.release.gpu.global.u32 %0, [%1], 1;" : "=r"(before) : "l"(blocks_done) : "memory");
  return before;
#else
  return (*blocks_done)++;
#endif
}

// Stores state and rows after a step; one thread runs it. It computes the decision again from the unchanged state.
__device__ __forceinline__ void commit_step(const AdvanceParams& a) {
  __threadfence();  // the stores below come after the reads of all counted blocks
  const std::int64_t step_count = a.step_count ? *a.step_count : 0;
  const Decision decision = decide(a.control, load_state(a.control, a.loss, a.found_inf));
#pragma unroll 1
  for (std::int64_t group = 0; group < a.control.n_groups; ++group) store_row(a.control, decision, group);
  commit(a.control, decision);
  if (a.step_count) *a.step_count = step_count + 1;
  *a.blocks_done = 0;
}

template <class Argument, class Tuning = DefaultTuning>
__global__ void __launch_bounds__(block_size, blocks_per_multiprocessor)
    update_kernel(const __grid_constant__ Argument argument) {
  using T = typename Argument::Value;
  static_assert(sizeof(Argument) <= Argument::max_bytes);
  const StepInputs& step = argument.step;
  const AdvanceParams& advance = argument.advance;
  const bool advances = advance.blocks_done != nullptr, one_group = argument.n_groups == 1;
  const bool row_first = step.row && one_group && !Tuning::begins_early;
  if (step.found_inf && *step.found_inf != 0.0f) return;

  // Everything that does not depend on the search is loaded before it. One group is the usual case.
  ControlState state{};
  AlignedVector<float, 4> row{};
  std::int64_t step_count = step.step_count ? *step.step_count : 0;
  if (advances)
    state = load_state(advance.control, advance.loss, advance.found_inf);
  else if (row_first)
    row = load_row(step.row, argument.groups()[0].control_row);

  const ChunkLocation location = Tuning::find(argument, blockIdx.x);
  const auto& metadata = argument.tensors()[location.tensor];
  const TensorLayout layout = argument.layouts()[location.tensor];
  const TensorDtypes dtypes = layout.dtypes();
  const int chunk_size = Tuning::chunk(dtypes), count = location.last ? layout.tail() : chunk_size;

  const GroupParams<T>& group = argument.groups()[one_group ? 0 : layout.group_index()];
  GroupValues<T> values{group.lr, group.momentum, group.weight_decay, true};
  std::uint32_t counted_before = 0;
  if (advances) {
    const Decision decision = decide(advance.control, state);
    const TableRow chosen = table_row(advance.control, decision.step, group.control_row);
    values = {chosen.lr, chosen.momentum, chosen.weight_decay, decision.apply};
    ++step_count;
    __syncthreads();  // all threads of this block have read the state
    if (threadIdx.x == 0) counted_before = count_block(advance.blocks_done);
  } else if (step.row) {
    Tuning::wait();
    if (!row_first) row = load_row(step.row, group.control_row);
    values = {row.get(0), row.get(1), row.get(2), row.get(3) != 0.0f};
  } else if (group.lr_tensor) {
    values.lr = *group.lr_tensor;
  }

  if (values.apply) {
    UpdateParams<T> update;
    update.form =
        values.momentum == 0 || !metadata.buffer ? Form::plain : group.nesterov ? Form::nesterov : Form::momentum;
    update.decay = values.weight_decay != 0;
    bool first = false;
    if (metadata.momentum_initialized() && update.form != Form::plain) {
      const std::int64_t flag = *metadata.momentum_initialized();
      first = flag == 0 || flag == step_count;
      if (flag == 0 && location.chunk == 0 && threadIdx.x == 0) *metadata.momentum_initialized() = step_count;
    }
    update.h = hyper_params<T>(values.lr, values.momentum, values.weight_decay, group.grad_weight, group.maximize,
                               step.grad_scale ? static_cast<T>(*step.grad_scale) : T(1), first);
    update_chunk(metadata, metadata.master(), dtypes, static_cast<std::int64_t>(location.chunk) * chunk_size, count,
                 update);
  }
  if (advances && threadIdx.x == 0 && counted_before + 1 == gridDim.x) commit_step(advance);
}

// Advances the control by one warp: all threads decide, each stores the rows of its groups, and the first one commits.
__device__ __forceinline__ void advance_by_warp(const AdvanceParams& a) {
  const std::int64_t step_count = a.step_count ? *a.step_count : 0;
  if (a.control.table) {
    const ControlState state = load_state(a.control, a.loss, a.found_inf);
    __syncthreads();  // all threads have read the state; the barrier also keeps the compiler from delaying a load
    const Decision decision = decide(a.control, state);
#pragma unroll 1
    for (std::int64_t group = threadIdx.x; group < a.control.n_groups; group += advance_block_size)
      store_row(a.control, decision, group);
    if (threadIdx.x == 0) commit(a.control, decision);
  }
  if (a.step_count && threadIdx.x == 0) *a.step_count = step_count + 1;
}

__global__ void __launch_bounds__(advance_block_size) advance_kernel(const __grid_constant__ AdvanceParams a) {
  advance_by_warp(a);
}

}  // namespace clrfast
