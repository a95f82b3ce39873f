// The update of one chunk of one tensor by the threads of a block, on a CUDA device. rules/ has the formulas, and the
// bytes that they move.
//
// An update is bound by memory. Accesses are 16 bytes wide, and each thread has six to eight loads in flight before it
// uses the first.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/launch_argument.h"

namespace clrfast {

constexpr int block_size = 256;

// The parameters of one update. T is the type of the arithmetic.
template <class Rule, class T>
struct UpdateParams {
  typename Rule::template HyperParams<T> h;
  unsigned variant;
};

template <class Rule, class S>
using ParamsFor = UpdateParams<Rule, typename DtypeTraits<S>::compute_type>;

// `n` values that one access loads or stores. They are kept as words, because the compiler would use one register for
// each 16-bit value.
template <class S, int n>
struct alignas(n * sizeof(S) < 16 ? n * sizeof(S) : 16) AlignedVector {
  static constexpr int per_word = sizeof(S) < 4 ? 4 / sizeof(S) : 1, words_per = sizeof(S) < 4 ? 1 : sizeof(S) / 4;
  std::uint32_t words[n * sizeof(S) / 4];

  __device__ __forceinline__ S get(int k) const {
    S value;
    const std::uint32_t word = words[k / per_word * words_per] >> k % per_word * 8 * sizeof(S);
    if constexpr (words_per == 1)
      std::memcpy(&value, &word, sizeof value);
    else
      std::memcpy(&value, &words[k * words_per], sizeof value);
    return value;
  }
  __device__ __forceinline__ void set(int k, S value) {
    if constexpr (per_word == 1) {
      std::memcpy(&words[k * words_per], &value, sizeof value);
    } else {
      const int shift = k % per_word * 8 * sizeof(S);
      std::uint32_t& word = words[k / per_word];
      word = (word & ~(0xffffu << shift)) | std::uint32_t{value.bits} << shift;
    }
  }
};

// Updates one element. Master weights, where they exist, are updated in place of p, and p becomes their rounded copy. A
// p that differs from that copy was written to from outside, and overrides the master weight.
template <class Rule, class S, class W, bool has_master>
__device__ __forceinline__ void update_element(S& p, S g, W* states, W& m, const ParamsFor<Rule, W>& update) {
  using T = typename DtypeTraits<W>::compute_type;
  T param = DtypeTraits<S>::load(p), values[Rule::n_states];
#pragma unroll
  for (int k = 0; k < Rule::n_states; ++k) values[k] = DtypeTraits<W>::load(states[k]);
  if constexpr (has_master) {
    const float master = DtypeTraits<W>::load(m);
    if (DtypeTraits<S>::load(DtypeTraits<S>::store(master)) == param) param = master;
  }
  Rule::update(update.variant, param, static_cast<T>(DtypeTraits<S>::load(g)), values, update.h);
#pragma unroll
  for (int k = 0; k < Rule::n_states; ++k) states[k] = DtypeTraits<W>::store(values[k]);
  if constexpr (has_master) m = DtypeTraits<W>::store(param);
  p = DtypeTraits<S>::store(param);
}

// Keeps the compiler from computing the elements of a vector all at once, for which a rule with roots and quotients has
// too few registers.
__device__ __forceinline__ void one_after_the_other() { asm volatile("" ::: "memory"); }

// Updates a chunk with parameters and gradients of type S, `n_states` states and master weights of type W, all aligned
// to 16 bytes. `unroll` vectors of each are in flight.
template <class Rule, class S, class W, int n_states, bool has_master>
__device__ __forceinline__ void update_aligned_with(const TensorMetadata<Rule::n_states>& metadata, void* master,
                                               std::int64_t begin, int count, const ParamsFor<Rule, W>& update) {
  // Several wide states leave no registers for more elements.
  constexpr int width = 16 / (has_master && n_states > 1 ? sizeof(W) : sizeof(S));
  constexpr int unroll = has_master || n_states > 1 ? 1 : 2;
  using VectorS = AlignedVector<S, width>;
  using VectorW = AlignedVector<W, width>;
  S* const p = static_cast<S*>(metadata.param) + begin;
  const S* const g = static_cast<const S*>(metadata.grad) + begin;
  W* const m = has_master ? static_cast<W*>(master) + begin : nullptr;
  W* states[Rule::n_states];
#pragma unroll
  for (int k = 0; k < n_states; ++k) states[k] = static_cast<W*>(metadata.states[k]) + begin;
  const int n_vectors = count / width;
#pragma unroll 1
  for (int first = threadIdx.x; first < n_vectors; first += unroll * block_size) {
    VectorS ps[unroll], gs[unroll];
    VectorW ss[unroll][Rule::n_states], ms[unroll];
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      const int i = first + u * block_size;
      if (i < n_vectors) {
        ps[u] = reinterpret_cast<const VectorS*>(p)[i];
        gs[u] = reinterpret_cast<const VectorS*>(g)[i];
#pragma unroll
        for (int k = 0; k < n_states; ++k) ss[u][k] = reinterpret_cast<const VectorW*>(states[k])[i];
        if constexpr (has_master) ms[u] = reinterpret_cast<const VectorW*>(m)[i];
      }
    }
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      const int i = first + u * block_size;
      if (i < n_vectors) {
#pragma unroll
        for (int e = 0; e < width; ++e) {
          if constexpr (n_states > 1) one_after_the_other();
          S param = ps[u].get(e);
          W values[Rule::n_states] = {}, own = has_master ? ms[u].get(e) : W{};
#pragma unroll
          for (int k = 0; k < n_states; ++k) values[k] = ss[u][k].get(e);
          update_element<Rule, S, W, has_master>(param, gs[u].get(e), values, own, update);
          ps[u].set(e, param);
#pragma unroll
          for (int k = 0; k < n_states; ++k) ss[u][k].set(e, values[k]);
          if constexpr (has_master) ms[u].set(e, own);
        }
        reinterpret_cast<VectorS*>(p)[i] = ps[u];
#pragma unroll
        for (int k = 0; k < n_states; ++k) reinterpret_cast<VectorW*>(states[k])[i] = ss[u][k];
        if constexpr (has_master) reinterpret_cast<VectorW*>(m)[i] = ms[u];
      }
    }
  }
  const int i = n_vectors * width + static_cast<int>(threadIdx.x);
  if (i < count) {
    W values[Rule::n_states] = {}, none{};
#pragma unroll
    for (int k = 0; k < n_states; ++k) values[k] = states[k][i];
    update_element<Rule, S, W, has_master>(p[i], g[i], values, has_master ? m[i] : none, update);
#pragma unroll
    for (int k = 0; k < n_states; ++k) states[k][i] = values[k];
  }
}

// Loads an element of any dtype; float64 only where `wide`.
template <class T, bool wide>
__device__ __forceinline__ T load_any(const void* memory, Dtype dtype, std::int64_t i) {
  switch (dtype) {
    case Dtype::float16: return DtypeTraits<Half>::load(static_cast<const Half*>(memory)[i]);
    case Dtype::bfloat16: return DtypeTraits<BFloat16>::load(static_cast<const BFloat16*>(memory)[i]);
    case Dtype::float64:
      if constexpr (wide) return static_cast<T>(static_cast<const double*>(memory)[i]);
      break;
    case Dtype::float32: break;
  }
  return static_cast<const float*>(memory)[i];
}

template <class T, bool wide>
__device__ __forceinline__ void store_any(void* memory, Dtype dtype, std::int64_t i, T value) {
  switch (dtype) {
    case Dtype::float16: static_cast<Half*>(memory)[i] = DtypeTraits<Half>::store(static_cast<float>(value)); return;
    case Dtype::bfloat16:
      static_cast<BFloat16*>(memory)[i] = DtypeTraits<BFloat16>::store(static_cast<float>(value));
      return;
    case Dtype::float64:
      if constexpr (wide) static_cast<double*>(memory)[i] = value;
      return;
    case Dtype::float32: static_cast<float*>(memory)[i] = static_cast<float>(value); return;
  }
}

// Updates a chunk of any dtypes and any alignment.
template <class Rule, class T, bool wide>
__device__ __forceinline__ void update_any(const TensorMetadata<Rule::n_states>& metadata, void* master,
                                           TensorDtypes dtypes, std::int64_t begin, int count,
                                           const UpdateParams<Rule, T>& update) {
  constexpr int unroll = Rule::n_states > 1 ? 1 : 4;
  const int n_states = Rule::states_used(update.variant);
#pragma unroll 1
  for (int first = threadIdx.x; first < count; first += unroll * block_size) {
    T ps[unroll], gs[unroll], ss[unroll][Rule::n_states];
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      const int i = first + u * block_size;
#pragma unroll
      for (int k = 0; k < Rule::n_states; ++k) ss[u][k] = 0;
      if (i < count) {
        ps[u] = load_any<T, wide>(metadata.param, dtypes.param(), begin + i);
        gs[u] = load_any<T, wide>(metadata.grad, dtypes.grad(), begin + i);
#pragma unroll
        for (int k = 0; k < Rule::n_states; ++k)
          if (k < n_states) ss[u][k] = load_any<T, wide>(metadata.states[k], dtypes.state(), begin + i);
      }
    }
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      const int i = first + u * block_size;
      if (i >= count) break;
      if (master) {
        const float own = static_cast<const float*>(master)[begin + i];
        const float rounded = dtypes.param() == Dtype::float16
                                  ? DtypeTraits<Half>::load(DtypeTraits<Half>::store(own))
                                  : DtypeTraits<BFloat16>::load(DtypeTraits<BFloat16>::store(own));
        if (rounded == ps[u]) ps[u] = own;
      }
      Rule::update(update.variant, ps[u], gs[u], ss[u], update.h);
#pragma unroll
      for (int k = 0; k < Rule::n_states; ++k)
        if (k < n_states) store_any<T, wide>(metadata.states[k], dtypes.state(), begin + i, ss[u][k]);
      if (master) static_cast<float*>(master)[begin + i] = static_cast<float>(ps[u]);
      store_any<T, wide>(metadata.param, dtypes.param(), begin + i, ps[u]);
    }
  }
}

// Whether the loops over vectors can update the tensor.
template <class Rule>
__device__ __forceinline__ bool aligned(const TensorMetadata<Rule::n_states>& metadata, const void* master,
                                        unsigned variant) {
  if (Rule::states_used(variant) > Rule::vector_states) return false;
  const auto bits = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p); };
  std::uintptr_t all = bits(metadata.param) | bits(metadata.grad) | bits(master);
#pragma unroll
  for (int k = 0; k < Rule::vector_states; ++k) all |= bits(metadata.states[k]);
  return all % 16 == 0;
}

// Updates an aligned chunk by the loop for the number of states that the variant uses.
template <class Rule, class S, class W, bool has_master, int n_states = Rule::min_states>
__device__ __forceinline__ void update_aligned(const TensorMetadata<Rule::n_states>& metadata, void* master,
                                               std::int64_t begin, int count, const ParamsFor<Rule, W>& update) {
  if constexpr (n_states < Rule::vector_states)
    if (Rule::states_used(update.variant) != n_states)
      return update_aligned<Rule, S, W, has_master, n_states + 1>(metadata, master, begin, count, update);
  update_aligned_with<Rule, S, W, n_states, has_master>(metadata, master, begin, count, update);
}

template <class Rule>
__device__ __forceinline__ void update_chunk(const TensorMetadata<Rule::n_states>& metadata, void* master,
                                             TensorDtypes dtypes, std::int64_t begin, int count,
                                             const UpdateParams<Rule, float>& update) {
  if (aligned<Rule>(metadata, master, update.variant)) {
    if (!master) {
      if (dtypes.all(Dtype::float32))
        return update_aligned<Rule, float, float, false>(metadata, master, begin, count, update);
      if (dtypes.all(Dtype::bfloat16))
        return update_aligned<Rule, BFloat16, BFloat16, false>(metadata, master, begin, count, update);
      if (dtypes.all(Dtype::float16))
        return update_aligned<Rule, Half, Half, false>(metadata, master, begin, count, update);
    } else if (dtypes.param() == dtypes.grad()) {
      if (dtypes.param() == Dtype::bfloat16)
        return update_aligned<Rule, BFloat16, float, true>(metadata, master, begin, count, update);
      return update_aligned<Rule, Half, float, true>(metadata, master, begin, count, update);
    }
  }
  update_any<Rule, float, false>(metadata, master, dtypes, begin, count, update);
}

template <class Rule>
__device__ __forceinline__ void update_chunk(const TensorMetadata<Rule::n_states>& metadata, TensorDtypes dtypes,
                                             std::int64_t begin, int count, const UpdateParams<Rule, double>& update) {
  if (dtypes.all(Dtype::float64) && aligned<Rule>(metadata, nullptr, update.variant))
    return update_aligned<Rule, double, double, false>(metadata, nullptr, begin, count, update);
  update_any<Rule, double, true>(metadata, nullptr, dtypes, begin, count, update);
}

}  // namespace clrfast
