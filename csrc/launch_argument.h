// The argument of one update launch: what its blocks know, and how a block finds its chunk in it.
//
// It travels by value into the constant bank: a table in device memory would have to be copied there, which a graph
// capture forbids. A block that follows one address from another waits for each; so it first counts, in numbers that it
// can all load at once, which tensors end before it: 16 segments of the launch's tensors, then the tensors of its own
// segment. Only then does it read that tensor's entry.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dtypes.h"
#include "step_control.h"
#include "tensor_list.h"

namespace clrfast {

// Hyper-parameters of one group by value, or where to find them.
template <class T>
struct Slot {
  T lr, momentum, weight_decay, gain;  // gain: 1 - dampening
  const T* lr_tensor;                  // replaces lr, if there is one
  std::int32_t group;                  // its row of the control
  bool nesterov, maximize;
};

// The memory of one tensor.
struct Entry {
  void* param;
  const void* grad;
  void* buffer;

  __host__ __device__ void* master() const { return nullptr; }
  __host__ __device__ std::int64_t* started() const { return nullptr; }
};

// One with master weights, or with an account of its first update; larger, so fewer fit into a launch.
struct FullEntry : Entry {
  void* own_master;
  std::int64_t* own_started;

  __host__ __device__ void* master() const { return own_master; }
  __host__ __device__ std::int64_t* started() const { return own_started; }
};

// What else is to know of a tensor, in one word: the elements of its last chunk, its slot, its `Types`.
struct Detail {
  std::uint32_t bits;

  __host__ __device__ Detail(std::uint32_t tail, std::uint32_t slot, Types types)
      : bits(tail | slot << 16 | types.bits << 26) {}
  __device__ int tail() const { return bits & 0xffff; }
  __device__ std::uint32_t slot() const { return bits >> 16 & 0x3ff; }
  __device__ Types types() const { return {bits >> 26}; }
};
constexpr std::size_t most_slots = 1 << 10;

// Everything beside the tensors that decides one step; each pointer may be null.
struct StepInputs {
  const float* row;        // the control's current row; replaces lr, momentum and weight decay of every group
  const float* grad_scale; // divides every gradient
  const float* found_inf;  // anything but 0 skips the update
  std::int64_t* tick;      // number of this step, see `Tensor::started`
};

// Four numbers that are loaded by one access.
struct alignas(16) Four {
  std::uint32_t values[4];
};

// The chunk of a block.
struct ChunkIndex {
  std::uint32_t tensor, chunk;
  bool last;  // the tensor's last chunk
};

constexpr std::uint32_t n_segments = 16;

// `memory` holds the slots, then `chunk_end` of every tensor (ascending; filled up to a multiple of four), then
// entries, then details.
template <class T, class E, std::size_t bytes>
struct Launch {
  using Value = T;
  using Tensors = E;
  static constexpr std::size_t bytes_at_most = bytes;
  static constexpr std::size_t header_bytes =
      sizeof(StepInputs) + sizeof(Advance) + (3 + n_segments) * sizeof(std::uint32_t);

  StepInputs step;
  Advance advance;  // what this launch does as well; without a ticket nothing
  std::uint32_t n_slots, n_entries, segment;  // segment: tensors in each, a multiple of four
  std::uint32_t segment_end[n_segments];      // the last `chunk_end` of each; of those without tensors all ones
  alignas(16) unsigned char memory[(bytes - header_bytes - 16) / 16 * 16];

  // Bytes of `memory` that one tensor takes, and what the rounding of `chunk_end` may take beside.
  static constexpr std::size_t entry_bytes = sizeof(E) + sizeof(std::uint32_t) + sizeof(Detail), spare_bytes = 12;

  __host__ __device__ std::uint32_t n_ends() const { return (n_entries + 3) / 4 * 4; }
  __host__ __device__ const Slot<T>* slots() const { return reinterpret_cast<const Slot<T>*>(memory); }
  __host__ __device__ const Four* ends() const { return reinterpret_cast<const Four*>(slots() + n_slots); }
  __host__ __device__ const E* entries() const {
    return reinterpret_cast<const E*>(reinterpret_cast<const std::uint32_t*>(ends()) + n_ends());
  }
  __host__ __device__ const Detail* details() const { return reinterpret_cast<const Detail*>(entries() + n_entries); }

  // Writes what a search reads; `chunk_end(i)` is that of tensor i.
  template <class ChunkEnd>
  void set_ends(const ChunkEnd& chunk_end) {
    auto* numbers = const_cast<std::uint32_t*>(reinterpret_cast<const std::uint32_t*>(ends()));
    segment = (n_entries + 4 * n_segments - 1) / (4 * n_segments) * 4;
    for (std::uint32_t i = 0; i < n_ends(); ++i) numbers[i] = i < n_entries ? chunk_end(i) : ~0u;
    for (std::uint32_t s = 0; s < n_segments; ++s)
      segment_end[s] = (s + 1) * segment <= n_entries ? numbers[(s + 1) * segment - 1] : ~0u;
  }

  __device__ ChunkIndex find(std::uint32_t block) const {
    std::uint32_t passed = 0, begin = 0, end = ~0u;  // begin, end: chunks of the tensor that `block` lies in
    const auto pass = [&](std::uint32_t end_of_one, std::uint32_t tensors) {
      if (end_of_one <= block) {
        passed += tensors;
        begin = end_of_one;
      } else if (end_of_one < end) {
        end = end_of_one;
      }
    };
#pragma unroll
    for (std::uint32_t s = 0; s < n_segments; ++s) pass(segment_end[s], segment);
    const std::uint32_t first = passed, stop = first + segment < n_ends() ? first + segment : n_ends();
    for (std::uint32_t i = first; i < stop; i += 4) {
      const Four four = ends()[i / 4];
#pragma unroll
      for (int k = 0; k < 4; ++k) pass(four.values[k], 1);
    }
    return {passed, block - begin, block + 1 == end};
  }
};

}  // namespace clrfast
