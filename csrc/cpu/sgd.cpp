// SGD on the CPU: loops over the update in rules/sgd.h.
//
// 20 bytes move per float32 parameter with momentum (read p, g, b; write p, b), so the loop is bound by memory and
// needs no more than the compiler's own vectorisation. Threads draw chunks from a shared counter: a small tensor needs
// no parallel region of its own, and a slow core delays no other. The result does not depend on the number of threads:
// where parameters share memory, one thread updates them all.
#include "cpu/sgd.h"

#include <algorithm>
#include <atomic>
#include <vector>

#ifndef _WIN32
#include <dlfcn.h>
#endif

#include "overlap.h"
#include "rules/sgd.h"

namespace clrfast {
namespace {

constexpr std::int64_t chunk_size = 64 * 1024;    // elements
constexpr std::int64_t serial_below = 32 * 1024;  // elements in all; below it, waking threads costs more than it saves

// Elements in a cache line, and the distance in elements of the prefetches, which never fault. On 25.6M parameters they
// are 5 % faster than the hardware's own prefetching alone.
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

struct Chunk {
  const ParamTensors* tensors;
  std::int64_t begin, end;
};

template <class S, Form form, bool decay>
inline void update(S* __restrict p, const S* __restrict g, S* __restrict b, std::int64_t n,
                   const HyperParams<typename DtypeTraits<S>::compute_type>& h) {
  for (std::int64_t i = 0; i < n; ++i) {
    typename DtypeTraits<S>::compute_type param = DtypeTraits<S>::load(p[i]), buffer = 0;
    if constexpr (form != Form::plain) buffer = DtypeTraits<S>::load(b[i]);
    sgd_update(form, decay, param, DtypeTraits<S>::load(g[i]), buffer, h);
    if constexpr (form != Form::plain) b[i] = DtypeTraits<S>::store(buffer);
    p[i] = DtypeTraits<S>::store(param);
  }
}

template <class S, Form form, bool decay>
void update(const Chunk& chunk, const HyperParams<typename DtypeTraits<S>::compute_type>& h) {
  S* p = reinterpret_cast<S*>(chunk.tensors->param);
  S* b = reinterpret_cast<S*>(chunk.tensors->buffer);
  const S* g = reinterpret_cast<const S*>(chunk.tensors->grad);
  std::int64_t i = chunk.begin;
  for (; i + line<S> <= chunk.end; i += line<S>) {
    __builtin_prefetch(p + i + prefetch_distance<S>);
    __builtin_prefetch(g + i + prefetch_distance<S>);
    if constexpr (form != Form::plain) __builtin_prefetch(b + i + prefetch_distance<S>);
    update<S, form, decay>(p + i, g + i, b + i, line<S>, h);
  }
  update<S, form, decay>(p + i, g + i, b + i, chunk.end - i, h);
}

template <class S>
void update(const Chunk& chunk, const GroupOptions& group, double grad_scale) {
  using T = typename DtypeTraits<S>::compute_type;
  const ParamTensors& tensors = *chunk.tensors;
  const bool with_momentum = group.momentum != 0 && tensors.buffer;
  const auto* flag = reinterpret_cast<const std::int64_t*>(tensors.momentum_initialized);
  const bool first = with_momentum && flag && !*flag;
  const auto h =
      hyper_params(static_cast<T>(group.lr), static_cast<T>(group.momentum), static_cast<T>(group.weight_decay),
                   static_cast<T>(1 - group.dampening), group.maximize, static_cast<T>(grad_scale), first);
  const auto in_form = [&](auto decay) {
    if (!with_momentum) return update<S, Form::plain, decay.value>(chunk, h);
    if (group.nesterov) return update<S, Form::nesterov, decay.value>(chunk, h);
    return update<S, Form::momentum, decay.value>(chunk, h);
  };
  group.weight_decay != 0 ? in_form(std::true_type{}) : in_form(std::false_type{});
}

// The chunks of one step; every thread calls `run`.
struct ChunkQueue {
  std::vector<Chunk> chunks;
  const GroupOptions* groups;
  double grad_scale;
  std::atomic<std::size_t> next{0};

  void run() {
    for (std::size_t k; (k = next.fetch_add(1, std::memory_order_relaxed)) < chunks.size();) {
      const Chunk& chunk = chunks[k];
      const GroupOptions& group = groups[chunk.tensors->group];
      switch (dtypes_of(*chunk.tensors).param()) {
        case Dtype::float32: update<float>(chunk, group, grad_scale); break;
        case Dtype::float64: update<double>(chunk, group, grad_scale); break;
        case Dtype::float16: update<Half>(chunk, group, grad_scale); break;
        case Dtype::bfloat16: update<BFloat16>(chunk, group, grad_scale); break;
      }
    }
  }
};

}  // namespace

void sgd_cpu(const ParamTensors* list, std::int64_t n_params, const GroupOptions* groups, double grad_scale,
             int n_threads) {
  ChunkQueue queue;
  queue.groups = groups;
  queue.grad_scale = grad_scale;
  queue.chunks.reserve(2 * static_cast<std::size_t>(n_params));
  std::int64_t total = 0;
  for (const ParamTensors* t = list; t != list + n_params; ++t) {
    if (!t->grad || !groups[t->group].apply) continue;
    total += t->numel;
    for (std::int64_t begin = 0; begin < t->numel; begin += chunk_size)
      queue.chunks.push_back({t, begin, std::min(begin + chunk_size, t->numel)});
  }
  const bool serial = total < serial_below || n_threads < 2 || any_overlap(list, n_params);
  const ParallelRegion region = serial ? nullptr : torch_parallel_region();
  if (region)
    region([](void* q) { static_cast<ChunkQueue*>(q)->run(); }, &queue, static_cast<unsigned>(n_threads), 0);
  else
    queue.run();
  // The flags are set last, because all chunks of one tensor must see the same value. An empty tensor has no address,
  // and its flag decides nothing.
  for (const ParamTensors* t = list; t != list + n_params; ++t) {
    const GroupOptions& group = groups[t->group];
    if ((t->grad || !t->numel) && t->momentum_initialized && group.apply && group.momentum != 0)
      *reinterpret_cast<std::int64_t*>(t->momentum_initialized) = 1;
  }
}

}  // namespace clrfast
