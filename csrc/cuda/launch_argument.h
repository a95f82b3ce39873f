// The argument of one update launch: its groups and tensors, and the search by which a block finds its chunk.
//
// The argument travels by value into the constant bank. A table in device memory would need a copy, which a graph
// capture forbids. A block pays for every load that depends on another one, so the search first counts the tensors that
// end before the block, in numbers that it loads all at once: 16 segments of the launch's tensors, then the tensors of
// one segment. Only then does the block read its tensor's metadata.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dtypes.h"
#include "step_control.h"
#include "tensor_list.h"

namespace clrfast {

// The options of one group, by value or by address. The numbers that follow the groups are loaded four at once.
template <class Rule, class T>
struct alignas(16) GroupParams {
  using Scalar = typename Rule::template Scalar<T>;
  Row<Scalar> row;
  typename Rule::template Constants<Scalar> constants;
  const Scalar* lr_tensor;   // replaces row.lr; or null
  std::int32_t control_row;  // the group's index in the control
  bool maximize;
};

// The addresses of one parameter's tensors, for rules with `n_states` of state.
template <int n_states>
struct TensorMetadata {
  void* param;
  const void* grad;
  void* states[n_states];

  __host__ __device__ void* master() const { return nullptr; }
  __host__ __device__ UpdateCounter* counter() const { return nullptr; }
};

// TensorMetadata with master weights and a counter. It is larger, so fewer fit into a launch.
template <int n_states>
struct FullTensorMetadata : TensorMetadata<n_states> {
  void* master_address;
  UpdateCounter* counter_address;

  __host__ __device__ void* master() const { return master_address; }
  __host__ __device__ UpdateCounter* counter() const { return counter_address; }
};

// Three more numbers of one tensor, packed in one word: `tail`, the elements of its last chunk; the index of its group
// in this launch; its dtypes.
struct TensorLayout {
  std::uint32_t bits;

  __host__ __device__ TensorLayout(std::uint32_t tail, std::uint32_t group_index, TensorDtypes dtypes)
      : bits(tail | group_index << 16 | dtypes.bits << 26) {}
  __device__ int tail() const { return bits & 0xffff; }
  __device__ std::uint32_t group_index() const { return bits >> 16 & 0x3ff; }
  __device__ TensorDtypes dtypes() const { return {bits >> 26}; }
};
constexpr std::size_t max_groups = 1 << 10;

// The inputs of a step besides the tensors; each pointer may be null.
struct StepInputs {
  const float* row;          // the control's current row; replaces that of every group
  const float* grad_scale;   // divides every gradient
  const double* clip_factor; // multiplies every gradient
  const float* found_inf;    // any value but 0 skips the update
  std::int64_t* step_count;  // number of this step, see `UpdateCounter`
};

// Four numbers that one access loads.
struct alignas(16) Uint4 {
  std::uint32_t values[4];
};

// The chunk that a block updates.
struct ChunkLocation {
  std::uint32_t tensor, chunk;
  bool last;  // the tensor's last chunk
};

constexpr std::uint32_t n_segments = 16;

// `memory` holds, in this order: the groups; `chunk_end` of every tensor, ascending, padded to a multiple of four; the
// metadata of the tensors; their layouts.
template <class Rule_, class T, template <int> class Metadata_, std::size_t bytes>
struct UpdateArgument {
  using Rule = Rule_;
  using Value = T;
  using Metadata = Metadata_<Rule::n_states>;
  using Group = GroupParams<Rule, T>;
  static constexpr std::size_t max_bytes = bytes;
  static constexpr std::size_t header_bytes =
      sizeof(StepInputs) + sizeof(AdvanceParams) + (3 + n_segments) * sizeof(std::uint32_t);

  StepInputs step;
  AdvanceParams advance;  // where `blocks_done` is not null, this launch advances the control as well
  std::uint32_t n_groups, n_tensors, segment_size;  // segment_size: tensors per segment, a multiple of four
  std::uint32_t segment_end[n_segments];            // the last `chunk_end` of each; all ones where there is none
  alignas(16) unsigned char memory[(bytes - header_bytes - 16) / 16 * 16];

  // Bytes of `memory` that one tensor takes, and bytes that the padding of `chunk_end` may take.
  static constexpr std::size_t tensor_bytes = sizeof(Metadata) + sizeof(std::uint32_t) + sizeof(TensorLayout);
  static constexpr std::size_t padding_bytes = 12;

  __host__ __device__ std::uint32_t n_ends() const { return (n_tensors + 3) / 4 * 4; }
  __host__ __device__ const Group* groups() const { return reinterpret_cast<const Group*>(memory); }
  __host__ __device__ const Uint4* chunk_ends() const { return reinterpret_cast<const Uint4*>(groups() + n_groups); }
  __host__ __device__ const Metadata* tensors() const {
    return reinterpret_cast<const Metadata*>(reinterpret_cast<const std::uint32_t*>(chunk_ends()) + n_ends());
  }
  __host__ __device__ const TensorLayout* layouts() const {
    return reinterpret_cast<const TensorLayout*>(tensors() + n_tensors);
  }

  // Writes the numbers that `find` reads; `chunk_end(i)` belongs to tensor i.
  template <class ChunkEnd>
  void set_chunk_ends(const ChunkEnd& chunk_end) {
    auto* numbers = const_cast<std::uint32_t*>(reinterpret_cast<const std::uint32_t*>(chunk_ends()));
    segment_size = (n_tensors + 4 * n_segments - 1) / (4 * n_segments) * 4;
    for (std::uint32_t i = 0; i < n_ends(); ++i) numbers[i] = i < n_tensors ? chunk_end(i) : ~0u;
    for (std::uint32_t s = 0; s < n_segments; ++s)
      segment_end[s] = (s + 1) * segment_size <= n_tensors ? numbers[(s + 1) * segment_size - 1] : ~0u;
  }

  __device__ ChunkLocation find(std::uint32_t block) const {
    std::uint32_t passed = 0, begin = 0, end = ~0u;  // begin, end: chunks of the tensor that `block` lies in
    const auto pass = [&](std::uint32_t chunk_end, std::uint32_t n) {
      if (chunk_end <= block) {
        passed += n;
        begin = chunk_end;
      } else if (chunk_end < end) {
        end = chunk_end;
      }
    };
#pragma unroll
    for (std::uint32_t s = 0; s < n_segments; ++s) pass(segment_end[s], segment_size);
    const std::uint32_t first = passed, stop = first + segment_size < n_ends() ? first + segment_size : n_ends();
    for (std::uint32_t i = first; i < stop; i += 4) {
      const Uint4 four = chunk_ends()[i / 4];
#pragma unroll
      for (int k = 0; k < 4; ++k) pass(four.values[k], 1);
    }
    return {passed, block - begin, block + 1 == end};
  }
};

}  // namespace clrfast
