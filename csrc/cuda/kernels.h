// The kernels: the update of a launch's tensors, and the control's `advance`.
//
// A block of 256 threads updates one chunk. The control's row on the device says whether the update is applied and with
// which values. The row is written in one of two ways, with the same result:
//   - `advance_kernel` comes first in the stream and writes the row, which all blocks of the update read;
//   - the update launch advances the control itself. Every block decides from a state that no block changes, and counts
//     itself once all of its threads have read it. The block that is counted last stores state and row. This saves a
//     launch and costs each block a second trip to memory for its row of the table, so it suits launches of few chunks.
//
// A rule's hyper-parameters follow from the row. Where they take long to compute, one thread of the block does it.
#pragma once

#include "cuda/launch_argument.h"
#include "cuda/update_chunk.h"

namespace clrfast {

// Resident blocks: with four, a thread has 64 registers, and half of all threads are resident. Roots and quotients of
// doubles need more registers.
template <class Rule, class T>
constexpr int blocks_per_multiprocessor = Rule::costly_hyper_params && sizeof(T) == sizeof(double) ? 2 : 4;
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

// Loads a counter with one access, so that its two numbers belong together.
__device__ __forceinline__ UpdateCounter load_counter(const UpdateCounter* counter) {
  UpdateCounter loaded;
  const auto bits = *reinterpret_cast<const std::uint64_t*>(counter);
  std::memcpy(&loaded, &bits, sizeof loaded);
  return loaded;
}

__device__ __forceinline__ void store_counter(UpdateCounter* counter, const UpdateCounter& value) {
  std::uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  *reinterpret_cast<std::uint64_t*>(counter) = bits;
}

// What the update of one block needs to compute a rule's hyper-parameters.
template <class Argument>
struct BlockInputs {
  using Rule = typename Argument::Rule;
  Row<typename Argument::Group::Scalar> row;
  const typename Argument::Group* group;
  float grad_scale;
  double clip_factor;
  float count;  // number of this update of the tensor; 0 if it has no counter
};

template <class T, class Argument>
__device__ __forceinline__ typename Argument::Rule::template HyperParams<T> hyper_params_of(
    const BlockInputs<Argument>& in) {
  using Scalar = typename Argument::Rule::template Scalar<T>;
  const auto compute = [&in] {
    const Row<Scalar> row{static_cast<Scalar>(in.row.lr), static_cast<Scalar>(in.row.momentum),
                          static_cast<Scalar>(in.row.weight_decay)};
    const T factor =
        grad_factor(in.group->maximize, static_cast<T>(in.grad_scale), static_cast<T>(in.clip_factor));
    return Argument::Rule::template hyper_params<T>(row, in.group->constants.template as<Scalar>(), factor, in.count);
  };
  if constexpr (Argument::Rule::costly_hyper_params) {
    __shared__ typename Argument::Rule::template HyperParams<T> shared;
    if (threadIdx.x == block_size - 1) shared = compute();
    __syncthreads();
    return shared;
  } else {
    return compute();
  }
}

template <class Argument, class Tuning = DefaultTuning>
__global__ void
__launch_bounds__(block_size, (blocks_per_multiprocessor<typename Argument::Rule, typename Argument::Value>))
    update_kernel(const __grid_constant__ Argument argument) {
  using Rule = typename Argument::Rule;
  using T = typename Argument::Value;
  using Group = typename Argument::Group;
  using Scalar = typename Group::Scalar;
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

  const Group& group = argument.groups()[one_group ? 0 : layout.group_index()];
  BlockInputs<Argument> in{group.row, &group, 1.0f, 1.0, 0.0f};
  bool apply = true;
  std::uint32_t counted_before = 0;
  if (advances) {
    const Decision decision = decide(advance.control, state);
    const TableRow chosen = table_row(advance.control, decision.step, group.control_row);
    in.row = {static_cast<Scalar>(chosen.lr), static_cast<Scalar>(chosen.momentum),
              static_cast<Scalar>(chosen.weight_decay)};
    apply = decision.apply;
    ++step_count;
    __syncthreads();  // all threads of this block have read the state
    if (threadIdx.x == 0) counted_before = count_block(advance.blocks_done);
  } else if (step.row) {
    Tuning::wait();
    if (!row_first) row = load_row(step.row, group.control_row);
    in.row = {static_cast<Scalar>(row.get(0)), static_cast<Scalar>(row.get(1)), static_cast<Scalar>(row.get(2))};
    apply = row.get(3) != 0.0f;
  } else if (group.lr_tensor) {
    in.row.lr = *group.lr_tensor;
  }

  if (apply) {
    if (step.grad_scale) in.grad_scale = *step.grad_scale;
    if (step.clip_factor) in.clip_factor = *step.clip_factor;
    const unsigned variant = Rule::variant(in.row, group.constants, metadata.states[0] != nullptr);
    UpdateCounter* const counter = metadata.counter();
    if (counter && Rule::states_used(variant)) {
      const auto now = static_cast<std::uint32_t>(step_count);
      in.count = load_counter(counter).number(now);
      if (location.chunk == 0 && threadIdx.x == 0) store_counter(counter, {in.count, now});
    }
    const std::int64_t begin = static_cast<std::int64_t>(location.chunk) * chunk_size;
    if constexpr (sizeof(T) == sizeof(float)) {
      update_chunk<Rule>(metadata, metadata.master(), dtypes, begin, count, {hyper_params_of<float>(in), variant});
    } else if (dtypes.param() == Dtype::float64) {
      update_chunk<Rule>(metadata, dtypes, begin, count, {hyper_params_of<double>(in), variant});
    } else {  // the gradient or a state is float64, and the arithmetic is in the parameter's type
      update_any<Rule, float, true>(metadata, metadata.master(), dtypes, begin, count,
                                    {hyper_params_of<float>(in), variant});
    }
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

}  // namespace clrfast
