// The update of one chunk of one tensor by the threads of a block, on a CUDA device.
//
// An update moves 20 bytes per float32 parameter with momentum (reads p, g, b; writes p, b), 10 per 16-bit one, and
// computes next to nothing, so it is bound by memory: accesses are 16 bytes wide, and 2 x 3 loads are in flight per
// thread before the first is used.
#pragma once

#include <cstdint>
#include <cstring>

#include "launch_argument.h"
#include "sgd_math.h"

namespace clrfast {

constexpr int block_size = 256;

// Hyper-parameters, form and decay of one update.
template <class T>
struct Rule {
  Hyper<T> h;
  Form form;
  bool decay;
};

// `n` values as they lie in memory, in words: a compiler that sees 16-bit values takes a register for each.
template <class S, int n>
struct alignas(16) Pack {
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

// One element. With master weights these are what is updated, and p becomes their rounded copy; where p is no
// such copy, somebody has changed it since, and its value counts.
template <class S, class W, bool mastered>
__device__ __forceinline__ void update_element(S& p, S g, W& b, W& m, const Rule<typename Stored<W>::compute>& rule) {
  auto param = Stored<S>::load(p), buffer = Stored<W>::load(b);
  if constexpr (mastered) {
    const float master = Stored<W>::load(m);
    if (Stored<S>::load(Stored<S>::store(master)) == param) param = master;
  }
  sgd_update(rule.form, rule.decay, param, Stored<S>::load(g), buffer, rule.h);
  b = Stored<W>::store(buffer);
  if constexpr (mastered) m = Stored<W>::store(param);
  p = Stored<S>::store(param);
}

// A chunk of parameters and gradients of type S, buffer and master weights of type W, all aligned to 16 bytes.
template <class S, class W, bool buffered, bool mastered>
__device__ __forceinline__ void update_aligned(S* p, const S* g, W* b, W* m, int count,
                                               const Rule<typename Stored<W>::compute>& rule) {
  constexpr int width = 16 / sizeof(S), unroll = mastered ? 1 : 2;
  using PackS = Pack<S, width>;
  using PackW = Pack<W, width>;
  const int n_packs = count / width;
#pragma unroll 1
  for (int first = threadIdx.x; first < n_packs; first += unroll * block_size) {
    PackS ps[unroll], gs[unroll];
    PackW bs[unroll], ms[unroll];
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      const int i = first + u * block_size;
      if (i < n_packs) {
        ps[u] = reinterpret_cast<const PackS*>(p)[i];
        gs[u] = reinterpret_cast<const PackS*>(g)[i];
        if constexpr (buffered) bs[u] = reinterpret_cast<const PackW*>(b)[i];
        if constexpr (mastered) ms[u] = reinterpret_cast<const PackW*>(m)[i];
      }
    }
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      const int i = first + u * block_size;
      if (i < n_packs) {
#pragma unroll
        for (int k = 0; k < width; ++k) {
          S param = ps[u].get(k);
          W buffer = buffered ? bs[u].get(k) : W{}, master = mastered ? ms[u].get(k) : W{};
          update_element<S, W, mastered>(param, gs[u].get(k), buffer, master, rule);
          ps[u].set(k, param);
          if constexpr (buffered) bs[u].set(k, buffer);
          if constexpr (mastered) ms[u].set(k, master);
        }
        reinterpret_cast<PackS*>(p)[i] = ps[u];
        if constexpr (buffered) reinterpret_cast<PackW*>(b)[i] = bs[u];
        if constexpr (mastered) reinterpret_cast<PackW*>(m)[i] = ms[u];
      }
    }
  }
  const int i = n_packs * width + static_cast<int>(threadIdx.x);
  if (i < count) {
    W none{};
    update_element<S, W, mastered>(p[i], g[i], buffered ? b[i] : none, mastered ? m[i] : none, rule);
  }
}

template <class S, class W, bool mastered>
__device__ __forceinline__ void update_aligned(const Entry& entry, void* master, std::int64_t begin, int count,
                                               const Rule<typename Stored<W>::compute>& rule) {
  S* p = static_cast<S*>(entry.param) + begin;
  const S* g = static_cast<const S*>(entry.grad) + begin;
  W* m = mastered ? static_cast<W*>(master) + begin : nullptr;
  if (rule.form == Form::plain)
    update_aligned<S, W, false, mastered>(p, g, nullptr, m, count, rule);
  else
    update_aligned<S, W, true, mastered>(p, g, static_cast<W*>(entry.buffer) + begin, m, count, rule);
}

// Loads an element of any type; `wide` admits float64.
template <class T, bool wide>
__device__ __forceinline__ T load_any(const void* memory, Dtype type, std::int64_t i) {
  switch (type) {
    case Dtype::float16: return Stored<half>::load(static_cast<const half*>(memory)[i]);
    case Dtype::bfloat16: return Stored<bfloat>::load(static_cast<const bfloat*>(memory)[i]);
    case Dtype::float64:
      if constexpr (wide) return static_cast<T>(static_cast<const double*>(memory)[i]);
      break;
    case Dtype::float32: break;
  }
  return static_cast<const float*>(memory)[i];
}

template <class T, bool wide>
__device__ __forceinline__ void store_any(void* memory, Dtype type, std::int64_t i, T value) {
  switch (type) {
    case Dtype::float16: static_cast<half*>(memory)[i] = Stored<half>::store(static_cast<float>(value)); return;
    case Dtype::bfloat16: static_cast<bfloat*>(memory)[i] = Stored<bfloat>::store(static_cast<float>(value)); return;
    case Dtype::float64:
      if constexpr (wide) static_cast<double*>(memory)[i] = value;
      return;
    case Dtype::float32: static_cast<float*>(memory)[i] = static_cast<float>(value); return;
  }
}

// A chunk of whatever types and alignment.
template <class T, bool wide>
__device__ __forceinline__ void update_any(const Entry& entry, void* master, Types types, std::int64_t begin,
                                           int count, const Rule<T>& rule) {
  constexpr int unroll = 4;
#pragma unroll 1
  for (int first = threadIdx.x; first < count; first += unroll * block_size) {
    T ps[unroll], gs[unroll], bs[unroll];
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      const int k = first + u * block_size;
      bs[u] = 0;
      if (k < count) {
        ps[u] = load_any<T, wide>(entry.param, types.param(), begin + k);
        gs[u] = load_any<T, wide>(entry.grad, types.grad(), begin + k);
        if (rule.form != Form::plain) bs[u] = load_any<T, wide>(entry.buffer, types.buffer(), begin + k);
      }
    }
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      const int k = first + u * block_size;
      if (k >= count) break;
      if (master) {
        const float own = static_cast<const float*>(master)[begin + k];
        const float copy = types.param() == Dtype::float16 ? Stored<half>::load(Stored<half>::store(own))
                                                           : Stored<bfloat>::load(Stored<bfloat>::store(own));
        if (copy == ps[u]) ps[u] = own;
      }
      sgd_update(rule.form, rule.decay, ps[u], gs[u], bs[u], rule.h);
      if (rule.form != Form::plain) store_any<T, wide>(entry.buffer, types.buffer(), begin + k, bs[u]);
      if (master) static_cast<float*>(master)[begin + k] = static_cast<float>(ps[u]);
      store_any<T, wide>(entry.param, types.param(), begin + k, ps[u]);
    }
  }
}

__device__ __forceinline__ bool aligned(const Entry& entry, const void* master) {
  const auto bits = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p); };
  return (bits(entry.param) | bits(entry.grad) | bits(entry.buffer) | bits(master)) % 16 == 0;
}

// The kernel's own type T is double where any tensor of the launch is float64, else float.
__device__ __forceinline__ void update_chunk(const Entry& entry, void* master, Types types, std::int64_t begin,
                                             int count, const Rule<float>& rule) {
  if (aligned(entry, master)) {
    if (!master) {
      if (types.all(Dtype::float32)) return update_aligned<float, float, false>(entry, master, begin, count, rule);
      if (types.all(Dtype::bfloat16)) return update_aligned<bfloat, bfloat, false>(entry, master, begin, count, rule);
      if (types.all(Dtype::float16)) return update_aligned<half, half, false>(entry, master, begin, count, rule);
    } else if (types.param() == types.grad()) {
      if (types.param() == Dtype::bfloat16)
        return update_aligned<bfloat, float, true>(entry, master, begin, count, rule);
      return update_aligned<half, float, true>(entry, master, begin, count, rule);
    }
  }
  update_any<float, false>(entry, master, types, begin, count, rule);
}

__device__ __forceinline__ void update_chunk(const Entry& entry, void* master, Types types, std::int64_t begin,
                                             int count, const Rule<double>& rule) {
  if (types.all(Dtype::float64) && aligned(entry, nullptr))
    return update_aligned<double, double, false>(entry, nullptr, begin, count, rule);
  if (types.param() == Dtype::float64) return update_any<double, true>(entry, nullptr, types, begin, count, rule);
  // A float64 gradient or buffer beside a smaller parameter: the arithmetic is the parameter's.
  const Hyper<double>& h = rule.h;
  const Hyper<float> narrow{float(h.grad_factor),  float(h.weight_decay), float(h.buffer_decay),
                            float(h.buffer_gain), float(h.momentum),     float(h.lr)};
  update_any<float, true>(entry, master, types, begin, count, Rule<float>{narrow, rule.form, rule.decay});
}

}  // namespace clrfast
