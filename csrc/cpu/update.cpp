// The update on the CPU: loops over the rules in rules/.
//
// A loop is bound by memory, so it needs no more than the compiler's own vectorisation. Threads draw chunks from a
// shared counter: a small tensor needs no parallel region of its own, and a slow core delays no other. The result does
// not depend on the number of threads: where parameters share memory, one thread updates them all.
#include "cpu/update.h"

#include <algorithm>
#include <atomic>
#include <type_traits>
#include <vector>

#ifndef _WIN32
#include <dlfcn.h>
#endif

#include "overlap.h"
#include "rules/all.h"

namespace clrfast {
namespace {

constexpr std::int64_t chunk_size = 64 * 1024;    // elements
constexpr std::int64_t serial_below = 32 * 1024;  // elements in all; below it, waking threads costs more than it saves

// Elements in a cache line, and the distance in elements of the prefetches, which never fault. On 25.6M parameters SGD
// is 5 % faster with them than with the hardware's own prefetching alone.
template <class S>
constexpr std::int64_t line = 64 / sizeof(S);
template <class S>
constexpr std::int64_t prefetch_distance = 1024 / sizeof(S);

// Runs a function on the OpenMP threads that torch has started. Threads of our own would compete with torch's spinning
// ones for the cores, and so would those of a second OpenMP runtime. Without torch's, the step runs on the calling
// thread.
using ParallelRegion = void (*)(void (*)(void*), void*, unsigned, unsigned);

ParallelRegion torch_parallel_region() {
#ifdef _WIN32
  return nullptr;
#else
  static const auto region = reinterpret_cast<ParallelRegion>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return region;
#endif
}

// Runs `work(queue)` on every thread of a parallel region, or on this thread alone.
template <class Queue>
void run_on_threads(Queue& queue, int n_threads) {
  const ParallelRegion region = n_threads < 2 ? nullptr : torch_parallel_region();
  if (region)
    region([](void* q) { static_cast<Queue*>(q)->run(); }, &queue, static_cast<unsigned>(n_threads), 0);
  else
    queue.run();
}

// Calls `use(begin, end)` with each chunk of a tensor of `numel` elements.
template <class Use>
void for_each_chunk(std::int64_t numel, const Use& use) {
  for (std::int64_t begin = 0; begin < numel; begin += chunk_size) use(begin, std::min(begin + chunk_size, numel));
}

// Calls `use(S{})` with the type of a tensor's elements.
template <class Use>
auto with_type(Dtype dtype, const Use& use) {
  switch (dtype) {
    case Dtype::float64: return use(double{});
    case Dtype::float16: return use(Half{});
    case Dtype::bfloat16: return use(BFloat16{});
    case Dtype::float32: break;
  }
  return use(float{});
}

// The pointers of one tensor's chunk.
template <class S>
struct Pointers {
  S* p;
  const S* g;
  S* states[max_states];

  Pointers(const ParamTensors& tensors, std::int64_t begin)
      : p(reinterpret_cast<S*>(tensors.param) + begin), g(reinterpret_cast<const S*>(tensors.grad) + begin) {
    for (int k = 0; k < max_states; ++k) states[k] = reinterpret_cast<S*>(tensors.states[k]) + begin;
  }
  void advance(std::int64_t n) {
    p += n, g += n;
    for (S*& state : states) state += n;
  }
};

// Marks a function whose body is compiled for AVX2 as well. Twice as many roots and quotients at once keep Adam bound by
// memory; the numbers are the same, because no multiply-add is fused.
#if defined(__x86_64__) && defined(__GNUC__)
#define CLRFAST_AVX2 __attribute__((target("avx2"), flatten))
const bool has_avx2 = __builtin_cpu_supports("avx2");
#else
#define CLRFAST_AVX2
constexpr bool has_avx2 = false;
#endif

template <class Rule, unsigned variant, class S, class H>
inline void update(S* __restrict p, const S* __restrict g, S* __restrict s0, S* __restrict s1, S* __restrict s2,
                   std::int64_t n, const H& h) {
  using T = typename DtypeTraits<S>::compute_type;
  constexpr int used = Rule::states_used(variant);
  for (std::int64_t i = 0; i < n; ++i) {
    T param = DtypeTraits<S>::load(p[i]), states[max_states] = {};
    if constexpr (used > 0) states[0] = DtypeTraits<S>::load(s0[i]);
    if constexpr (used > 1) states[1] = DtypeTraits<S>::load(s1[i]);
    if constexpr (used > 2) states[2] = DtypeTraits<S>::load(s2[i]);
    Rule::update(variant, param, DtypeTraits<S>::load(g[i]), states, h);
    if constexpr (used > 0) s0[i] = DtypeTraits<S>::store(states[0]);
    if constexpr (used > 1) s1[i] = DtypeTraits<S>::store(states[1]);
    if constexpr (used > 2) s2[i] = DtypeTraits<S>::store(states[2]);
    p[i] = DtypeTraits<S>::store(param);
  }
}

template <class Rule, unsigned variant, class S, class H>
void update_chunk(Pointers<S> at, std::int64_t n, const H& h) {
  const auto step = [&](std::int64_t count) {
    update<Rule, variant>(at.p, at.g, at.states[0], at.states[1], at.states[2], count, h);
    at.advance(count);
  };
  for (; n >= line<S>; n -= line<S>) {
    __builtin_prefetch(at.p + prefetch_distance<S>);
    __builtin_prefetch(at.g + prefetch_distance<S>);
    for (int k = 0; k < Rule::states_used(variant); ++k) __builtin_prefetch(at.states[k] + prefetch_distance<S>);
    step(line<S>);
  }
  step(n);
}

template <class Rule, unsigned variant, class S, class H>
CLRFAST_AVX2 void update_chunk_avx2(const Pointers<S>& at, std::int64_t n, const H& h) {
  update_chunk<Rule, variant>(at, n, h);
}

template <class Rule, class S, class H, unsigned variant = 0>
void update_chunk(unsigned wanted, const Pointers<S>& at, std::int64_t n, const H& h) {
  if (wanted == variant)
    return has_avx2 ? update_chunk_avx2<Rule, variant>(at, n, h) : update_chunk<Rule, variant>(at, n, h);
  if constexpr (variant + 1 < Rule::n_variants) update_chunk<Rule, S, H, variant + 1>(wanted, at, n, h);
}

// One tensor with its hyper-parameters, in the type of its arithmetic.
template <class Rule>
struct PreparedTensor {
  const ParamTensors* tensors;
  unsigned variant;
  union {
    typename Rule::template HyperParams<float> narrow;
    typename Rule::template HyperParams<double> wide;
  };

  template <class T>
  auto& hyper_params() {
    if constexpr (std::is_same_v<T, double>)
      return wide;
    else
      return narrow;
  }
};

float number_of_update(const ParamTensors& tensors) {
  const auto* counter = reinterpret_cast<const UpdateCounter*>(tensors.counter);
  return counter ? counter->count + 1.0f : 0.0f;
}

// The tensors of one step, cut into chunks; every thread calls `run`.
template <class Rule>
struct UpdateQueue {
  struct Chunk {
    std::int32_t tensor;  // index in `prepared`
    std::int64_t begin, end;
  };
  const GroupOptions<Rule>* groups;
  double grad_scale, clip_factor;
  std::vector<PreparedTensor<Rule>> prepared;
  std::vector<Chunk> chunks;
  std::int64_t numel = 0;
  std::atomic<std::size_t> next{0};

  void add(const ParamTensors& tensors) {
    const auto index = static_cast<std::int32_t>(prepared.size());
    prepared.push_back(prepare(tensors));
    numel += tensors.numel;
    for_each_chunk(tensors.numel, [&](auto begin, auto end) { chunks.push_back({index, begin, end}); });
  }

  PreparedTensor<Rule> prepare(const ParamTensors& tensors) const {
    const Dtype dtype = dtypes_of(tensors).param();
    // Tensors of one group mostly have the same number of updates, and the powers of Adam's betas take time.
    if (!prepared.empty() && Rule::costly_hyper_params) {
      const ParamTensors& before = *prepared.back().tensors;
      if (before.group == tensors.group && number_of_update(before) == number_of_update(tensors) &&
          dtypes_of(before).param() == dtype) {
        PreparedTensor<Rule> same = prepared.back();
        same.tensors = &tensors;
        return same;
      }
    }
    PreparedTensor<Rule> one;
    one.tensors = &tensors;
    const GroupOptions<Rule>& group = groups[tensors.group];
    with_type(dtype, [&](auto s) {
      using T = typename DtypeTraits<decltype(s)>::compute_type;
      using Scalar = typename Rule::template Scalar<T>;
      const Row<Scalar> row{static_cast<Scalar>(group.row.lr), static_cast<Scalar>(group.row.momentum),
                            static_cast<Scalar>(group.row.weight_decay)};
      const auto constants = Rule::template constants<Scalar>(group.constants);
      const T factor = grad_factor(group.maximize, static_cast<T>(grad_scale), static_cast<T>(clip_factor));
      one.variant = Rule::variant(row, constants, tensors.states[0] != 0);
      one.template hyper_params<T>() =
          Rule::template hyper_params<T>(row, constants, factor, number_of_update(tensors));
    });
    return one;
  }

  void run() {
    for (std::size_t k; (k = next.fetch_add(1, std::memory_order_relaxed)) < chunks.size();) {
      const Chunk& chunk = chunks[k];
      PreparedTensor<Rule>& one = prepared[chunk.tensor];
      with_type(dtypes_of(*one.tensors).param(), [&](auto s) {
        using S = decltype(s);
        const auto& h = one.template hyper_params<typename DtypeTraits<S>::compute_type>();
        update_chunk<Rule>(one.variant, Pointers<S>(*one.tensors, chunk.begin), chunk.end - chunk.begin, h);
      });
    }
  }
};

// The sums of squares of the gradients' chunks; every thread calls `run`.
struct NormQueue {
  struct Chunk {
    const ParamTensors* tensors;
    std::int64_t begin, end;
    double sum;
  };
  std::vector<Chunk> chunks;
  std::atomic<std::size_t> next{0};

  void run() {
    for (std::size_t k; (k = next.fetch_add(1, std::memory_order_relaxed)) < chunks.size();) {
      Chunk& chunk = chunks[k];
      chunk.sum = with_type(dtypes_of(*chunk.tensors).grad(), [&](auto s) {
        const auto* g = reinterpret_cast<const decltype(s)*>(chunk.tensors->grad) + chunk.begin;
        const std::int64_t n = chunk.end - chunk.begin;
        return has_avx2 ? sum_of_squares_avx2(g, n) : sum_of_squares(g, n);
      });
    }
  }

  // Several sums, because each addition waits for the one before it.
  template <class S>
  static double sum_of_squares(const S* g, std::int64_t n) {
    constexpr int lanes = 16;
    double sums[lanes] = {};
    std::int64_t i = 0;
    for (; i + lanes <= n; i += lanes)
      for (int k = 0; k < lanes; ++k) {
        const double value = DtypeTraits<S>::load(g[i + k]);
        sums[k] += value * value;
      }
    for (int k = 0; i < n; ++i, ++k) {
      const double value = DtypeTraits<S>::load(g[i]);
      sums[k] += value * value;
    }
    double sum = 0;
    for (const double one : sums) sum += one;
    return sum;
  }

  template <class S>
  CLRFAST_AVX2 static double sum_of_squares_avx2(const S* g, std::int64_t n) {
    return sum_of_squares(g, n);
  }
};

}  // namespace

template <class Rule>
void update_cpu(const ParamTensors* list, std::int64_t n_params, const GroupOptions<Rule>* groups, double grad_scale,
                double clip_factor, int n_threads) {
  UpdateQueue<Rule> queue;
  queue.groups = groups, queue.grad_scale = grad_scale, queue.clip_factor = clip_factor;
  queue.prepared.reserve(static_cast<std::size_t>(n_params));
  queue.chunks.reserve(2 * static_cast<std::size_t>(n_params));
  for (const ParamTensors* t = list; t != list + n_params; ++t)
    if ((t->grad || (!t->numel && t->counter)) && groups[t->group].apply) queue.add(*t);  // empty tensors only count
  run_on_threads(queue, queue.numel < serial_below || any_overlap(list, n_params) ? 1 : n_threads);
  // The counters change last, because all chunks of one tensor must see the same number.
  for (const PreparedTensor<Rule>& one : queue.prepared)
    if (one.tensors->counter && Rule::states_used(one.variant))
      reinterpret_cast<UpdateCounter*>(one.tensors->counter)->count += 1.0f;
}

#define CLRFAST_DEFINE(Rule, name) \
  template void update_cpu(const ParamTensors*, std::int64_t, const GroupOptions<Rule>*, double, double, int);
CLRFAST_RULES(CLRFAST_DEFINE)

double squared_norm_cpu(const ParamTensors* list, std::int64_t n_params, int n_threads) {
  NormQueue queue;
  std::int64_t numel = 0;
  for (const ParamTensors* t = list; t != list + n_params; ++t) {
    if (!t->grad) continue;
    numel += t->numel;
    for_each_chunk(t->numel, [&](auto begin, auto end) { queue.chunks.push_back({t, begin, end, 0.0}); });
  }
  run_on_threads(queue, numel < serial_below ? 1 : n_threads);
  double sum = 0;
  for (const NormQueue::Chunk& chunk : queue.chunks) sum += chunk.sum;
  return sum;
}

}  // namespace clrfast
