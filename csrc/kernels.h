// The kernels: the update of a launch's tensors, and the control's `advance`.
//
// A block of 256 threads updates one chunk. The control's row says on the device whether an update happens and with
// which values. Two ways to that row, and the same numbers by both:
//   - `advance_kernel` comes first in the stream and writes the row, which all blocks of the update read;
//   - the update launch does it alone: every block decides for itself from a state that nobody changes, counts itself
//     once all of its threads have read it, and the block that is counted last writes state and row. That saves a
//     launch, and costs each block a second trip to memory for its row of the table: for launches of few chunks.
#pragma once

#include "launch_argument.h"
#include "update_chunk.h"

namespace clrfast {

constexpr int blocks_per_multiprocessor = 4;  // at 64 registers a thread half of all threads are resident
constexpr int advance_block_size = 32;

CLRFAST_HD bool is_16_bit(Dtype type) { return type == Dtype::float16 || type == Dtype::bfloat16; }

// What benchmarks/speed/kernel_variants.cu compares with others.
struct Chosen {
  // Elements of a chunk: small enough for a model of middling size to occupy the whole device in one wave, large enough
  // for a block's loads to take longer than its preparations.
  CLRFAST_HD static int chunk(Types types) { return is_16_bit(types.param()) ? 8192 : 4096; }

  template <class L>
  __device__ static ChunkIndex find(const L& launch, std::uint32_t block) {
    return launch.find(block);
  }

  // Whether the launch may begin before the one that writes the row has ended; `wait` waits for that.
  static constexpr bool begins_early = false;
  __device__ static void wait() {}
};

// The values of one group, from wherever they come, and whether they are applied.
template <class T>
struct Values {
  T lr, momentum, weight_decay;
  bool apply;
};

__device__ __forceinline__ Pack<float, 4> load_row(const float* row, std::int64_t group) {
  return *reinterpret_cast<const Pack<float, 4>*>(row + 4 * group);
}

// Counts a block whose reads are done; returns how many had been counted. The answer is not waited for here: it is
// needed at the block's end.
__device__ __forceinline__ std::uint32_t count_block(std::uint32_t* ticket) {
#ifdef __CUDA_ARCH__
  std::uint32_t before;
  asm volatile("atom.add.release.gpu.global.u32 %0, [%1], 1;" : "=r"(before) : "l"(ticket) : "memory");
  return before;
#else
  return (*ticket)++;
#endif
}

// State and rows after a step, by one thread: decided once more, because nothing has changed until now.
__device__ __forceinline__ void commit_step(const Advance& a) {
  __threadfence();  // what follows comes after the reads of the blocks that were counted
  const std::int64_t tick = a.tick ? *a.tick : 0;
  const Decision decision = decide(a.control, observe(a.control, a.loss, a.found_inf));
#pragma unroll 1
  for (std::int64_t group = 0; group < a.control.n_groups; ++group) write_row(a.control, decision, group);
  commit(a.control, decision);
  if (a.tick) *a.tick = tick + 1;
  *a.ticket = 0;
}

template <class L, class Choice = Chosen>
__global__ void __launch_bounds__(block_size, blocks_per_multiprocessor)
    update_kernel(const __grid_constant__ L launch) {
  using T = typename L::Value;
  static_assert(sizeof(L) <= L::bytes_at_most);
  const StepInputs& step = launch.step;
  const Advance& own = launch.advance;
  const bool decides = own.ticket != nullptr, one_slot = launch.n_slots == 1;
  const bool row_first = step.row && one_slot && !Choice::begins_early;
  if (step.found_inf && *step.found_inf != 0.0f) return;

  // What needs no search is loaded before it. One group is the usual case.
  Observed seen{};
  Pack<float, 4> row{};
  std::int64_t tick = step.tick ? *step.tick : 0;
  if (decides)
    seen = observe(own.control, own.loss, own.found_inf);
  else if (row_first)
    row = load_row(step.row, launch.slots()[0].group);

  const ChunkIndex place = Choice::find(launch, blockIdx.x);
  const auto& entry = launch.entries()[place.tensor];
  const Detail detail = launch.details()[place.tensor];
  const Types types = detail.types();
  const int chunk_size = Choice::chunk(types), count = place.last ? detail.tail() : chunk_size;

  const Slot<T>& slot = launch.slots()[one_slot ? 0 : detail.slot()];
  Values<T> values{slot.lr, slot.momentum, slot.weight_decay, true};
  std::uint32_t counted_before = 0;
  if (decides) {
    const Decision decision = decide(own.control, seen);
    const Row chosen = row_of(own.control, decision.step, slot.group);
    values = {chosen.lr, chosen.momentum, chosen.weight_decay, decision.apply};
    ++tick;
    __syncthreads();  // no thread of this block reads the state any more
    if (threadIdx.x == 0) counted_before = count_block(own.ticket);
  } else if (step.row) {
    Choice::wait();
    if (!row_first) row = load_row(step.row, slot.group);
    values = {row.get(0), row.get(1), row.get(2), row.get(3) != 0.0f};
  } else if (slot.lr_tensor) {
    values.lr = *slot.lr_tensor;
  }

  if (values.apply) {
    Rule<T> rule;
    rule.form = values.momentum == 0 || !entry.buffer ? Form::plain : slot.nesterov ? Form::nesterov : Form::momentum;
    rule.decay = values.weight_decay != 0;
    bool first = false;
    if (entry.started() && rule.form != Form::plain) {
      // Blocks of one tensor run in any order: the first update is the one of which some may see the flag unset, and
      // the others this very step's number. It was zero or is written by one thread only, so all agree.
      const std::int64_t started = *entry.started();
      first = started == 0 || started == tick;
      if (started == 0 && place.chunk == 0 && threadIdx.x == 0) *entry.started() = tick;
    }
    rule.h = hyper<T>(values.lr, values.momentum, values.weight_decay, slot.gain, slot.maximize,
                      step.grad_scale ? static_cast<T>(*step.grad_scale) : T(1), first);
    update_chunk(entry, entry.master(), types, static_cast<std::int64_t>(place.chunk) * chunk_size, count, rule);
  }
  if (decides && threadIdx.x == 0 && counted_before + 1 == gridDim.x) commit_step(own);
}

// By one warp: all threads decide, each copies its groups' rows, and the first one commits.
__device__ __forceinline__ void advance_alone(const Advance& a) {
  const std::int64_t tick = a.tick ? *a.tick : 0;
  if (a.control.table) {
    const Observed seen = observe(a.control, a.loss, a.found_inf);
    __syncthreads();  // all threads have read the state; and the compiler puts off no load until it is needed
    const Decision decision = decide(a.control, seen);
#pragma unroll 1
    for (std::int64_t group = threadIdx.x; group < a.control.n_groups; group += advance_block_size)
      write_row(a.control, decision, group);
    if (threadIdx.x == 0) commit(a.control, decision);
  }
  if (a.tick && threadIdx.x == 0) *a.tick = tick + 1;
}

__global__ void __launch_bounds__(advance_block_size) advance_kernel(const __grid_constant__ Advance a) {
  advance_alone(a);
}

}  // namespace clrfast
