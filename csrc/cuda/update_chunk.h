// The update of one chunk of one tensor by the threads of a block, on a CUDA device. rules/sgd.h has the formula.
//
// An update moves 20 bytes per float32 parameter with momentum (reads p, g, b; writes p, b), 10 bytes per 16-bit one,
// and computes little, so it is bound by memory. Accesses are 16 bytes wide, and each thread has 2 x 3 loads in flight
// before it uses the first.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/launch_argument.h"
#include "rules/sgd.h"

namespace clrfast {

constexpr int block_size = 256;

// The parameters of one update; `decay` says that weight_decay is not 0.
template <class T>
struct UpdateParams {
  HyperParams<T> h;
  Form form;
  bool decay;
};

template <class S>
using ParamsFor = UpdateParams<typename DtypeTraits<S>::compute_type>;

// `n` values that one access loads or stores. They are kept as words, because the compiler would use one register for
// each 16-bit value.
template <class S, int n>
struct alignas(16) AlignedVector {
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
template <class S, class W, bool has_master>
__device__ __forceinline__ void update_element(S& p, S g, W& b, W& m, const ParamsFor<W>& update) {
  auto param = DtypeTraits<S>::load(p), buffer = DtypeTraits<W>::load(b);
  if constexpr (has_master) {
    const float master = DtypeTraits<W>::load(m);
    if (DtypeTraits<S>::load(DtypeTraits<S>::store(master)) == param) param = master;
  }
  sgd_update(update.form, update.decay, param, DtypeTraits<S>::load(g), buffer, update.h);
  b = DtypeTraits<W>::store(buffer);
  if constexpr (has_master) m = DtypeTraits<W>::store(param);
  p = DtypeTraits<S>::store(param);
}

// Updates a chunk with parameters and gradients of type S, buffer and master weights of type W, all aligned to 16
// bytes.
template <class S, class W, bool has_buffer, bool has_master>
__device__ __forceinline__ void update_aligned(S* p, const S* g, W* b, W* m, int count,
                                               const ParamsFor<W>& update) {
  constexpr int width = 16 / sizeof(S), unroll = has_master ? 1 : 2;
  using VectorS = AlignedVector<S, width>;
  using VectorW = AlignedVector<W, width>;
  const int n_vectors = count / width;
#pragma unroll 1
  for (int first = threadIdx.x; first < n_vectors; first += unroll * block_size) {
    VectorS ps[unroll], gs[unroll];
    VectorW bs[unroll], ms[unroll];
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      const int i = first + u * block_size;
      if (i < n_vectors) {
        ps[u] = reinterpret_cast<const VectorS*>(p)[i];
        gs[u] = reinterpret_cast<const VectorS*>(g)[i];
        if constexpr (has_buffer) bs[u] = reinterpret_cast<const VectorW*>(b)[i];
        if constexpr (has_master) ms[u] = reinterpret_cast<const VectorW*>(m)[i];
      }
    }
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      const int i = first + u * block_size;
      if (i < n_vectors) {
#pragma unroll
        for (int k = 0; k < width; ++k) {
          S param = ps[u].get(k);
          W buffer = has_buffer ? bs[u].get(k) : W{}, master = has_master ? ms[u].get(k) : W{};
          update_element<S, W, has_master>(param, gs[u].get(k), buffer, master, update);
          ps[u].set(k, param);
          if constexpr (has_buffer) bs[u].set(k, buffer);
          if constexpr (has_master) ms[u].set(k, master);
        }
        reinterpret_cast<VectorS*>(p)[i] = ps[u];
        if constexpr (has_buffer) reinterpret_cast<VectorW*>(b)[i] = bs[u];
        if constexpr (has_master) reinterpret_cast<VectorW*>(m)[i] = ms[u];
      }
    }
  }
  const int i = n_vectors * width + static_cast<int>(threadIdx.x);
  if (i < count) {
    W none{};
    update_element<S, W, has_master>(p[i], g[i], has_buffer ? b[i] : none, has_master ? m[i] : none, update);
  }
}

template <class S, class W, bool has_master>
__device__ __forceinline__ void update_aligned(const TensorMetadata& metadata, void* master, std::int64_t begin,
                                               int count, const ParamsFor<W>& update) {
  S* p = static_cast<S*>(metadata.param) + begin;
  const S* g = static_cast<const S*>(metadata.grad) + begin;
  W* m = has_master ? static_cast<W*>(master) + begin : nullptr;
  if (update.form == Form::plain)
    update_aligned<S, W, false, has_master>(p, g, nullptr, m, count, update);
  else
    update_aligned<S, W, true, has_master>(p, g, static_cast<W*>(metadata.buffer) + begin, m, count, update);
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
template <class T, bool wide>
__device__ __forceinline__ void update_any(const TensorMetadata& metadata, void* master, TensorDtypes dtypes,
                                           std::int64_t begin, int count, const UpdateParams<T>& update) {
  constexpr int unroll = 4;
#pragma unroll 1
  for (int first = threadIdx.x; first < count; first += unroll * block_size) {
    T ps[unroll], gs[unroll], bs[unroll];
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      const int k = first + u * block_size;
      bs[u] = 0;
      if (k < count) {
        ps[u] = load_any<T, wide>(metadata.param, dtypes.param(), begin + k);
        gs[u] = load_any<T, wide>(metadata.grad, dtypes.grad(), begin + k);
        if (update.form != Form::plain) bs[u] = load_any<T, wide>(metadata.buffer, dtypes.buffer(), begin + k);
      }
    }
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      const int k = first + u * block_size;
      if (k >= count) break;
      if (master) {
        const float own = static_cast<const float*>(master)[begin + k];
        const float rounded = dtypes.param() == Dtype::float16
                                  ? DtypeTraits<Half>::load(DtypeTraits<Half>::store(own))
                                  : DtypeTraits<BFloat16>::load(DtypeTraits<BFloat16>::store(own));
        if (rounded == ps[u]) ps[u] = own;
      }
      sgd_update(update.form, update.decay, ps[u], gs[u], bs[u], update.h);
      if (update.form != Form::plain) store_any<T, wide>(metadata.buffer, dtypes.buffer(), begin + k, bs[u]);
      if (master) static_cast<float*>(master)[begin + k] = static_cast<float>(ps[u]);
      store_any<T, wide>(metadata.param, dtypes.param(), begin + k, ps[u]);
    }
  }
}

__device__ __forceinline__ bool aligned(const TensorMetadata& metadata, const void* master) {
  const auto bits = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p); };
  return (bits(metadata.param) | bits(metadata.grad) | bits(metadata.buffer) | bits(master)) % 16 == 0;
}

// The kernel's type T is double where any tensor of the launch is float64, and float elsewhere.
__device__ __forceinline__ void update_chunk(const TensorMetadata& metadata, void* master, TensorDtypes dtypes,
                                             std::int64_t begin, int count, const UpdateParams<float>& update) {
  if (aligned(metadata, master)) {
    if (!master) {
      if (dtypes.all(Dtype::float32))
        return update_aligned<float, float, false>(metadata, master, begin, count, update);
      if (dtypes.all(Dtype::bfloat16))
        return update_aligned<BFloat16, BFloat16, false>(metadata, master, begin, count, update);
      if (dtypes.all(Dtype::float16))
        return update_aligned<Half, Half, false>(metadata, master, begin, count, update);
    } else if (dtypes.param() == dtypes.grad()) {
      if (dtypes.param() == Dtype::bfloat16)
        return update_aligned<BFloat16, float, true>(metadata, master, begin, count, update);
      return update_aligned<Half, float, true>(metadata, master, begin, count, update);
    }
  }
  update_any<float, false>(metadata, master, dtypes, begin, count, update);
}

__device__ __forceinline__ void update_chunk(const TensorMetadata& metadata, void* master, TensorDtypes dtypes,
                                             std::int64_t begin, int count, const UpdateParams<double>& update) {
  if (dtypes.all(Dtype::float64) && aligned(metadata, nullptr))
    return update_aligned<double, double, false>(metadata, nullptr, begin, count, update);
  if (dtypes.param() == Dtype::float64)
    return update_any<double, true>(metadata, nullptr, dtypes, begin, count, update);
  // The gradient or the buffer is float64 and the parameter is not: compute in the parameter's type.
  const HyperParams<double>& h = update.h;
  const HyperParams<float> narrow{float(h.grad_factor), float(h.weight_decay), float(h.buffer_weight),
                                  float(h.grad_weight), float(h.momentum),     float(h.lr)};
  update_any<float, true>(metadata, master, dtypes, begin, count,
                          UpdateParams<float>{narrow, update.form, update.decay});
}

}  // namespace clrfast
