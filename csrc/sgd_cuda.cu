// SGD on CUDA devices: kernels over sgd_math.h and step_control.h, and how they are launched.
//
// An update moves 20 bytes per float32 parameter with momentum (reads p, g, b; writes p, b), 10 per 16-bit one, and
// computes next to nothing, so it is bound by memory. A block of 256 threads updates one chunk of 4,096 elements:
// 2 x 3 loads of 16 bytes are in flight per thread before the first is used, and chunks are small enough for a
// model of middling size to occupy the whole device in one wave. All that a launch needs to know travels by value as
// its argument: a table in device memory would have to be copied there, which a graph capture forbids.
//
// The control's row says on the device whether an update happens and with which values. Kernels of one stream run in
// order, so `advance` needs no more than to come first.
#include "sgd_cuda.h"

#include <cuda_runtime.h>

#include <cstring>
#include <stdexcept>

#include "sgd_math.h"

namespace clrfast {
namespace {

constexpr int block_size = 256;
constexpr int blocks_per_multiprocessor = 4;  // at 64 registers a thread half of all threads are resident
constexpr int advance_block_size = 32;

// ------------------------------------------------------------------------------------------------- what a launch knows

// Hyper-parameters of one group by value, or where to find them.
template <class T>
struct Slot {
  T lr, momentum, weight_decay, gain;  // gain: 1 - dampening
  const T* lr_tensor;                  // replaces lr, if there is one
  std::int32_t group;                  // its row of the control
  bool nesterov, maximize;
};

// One tensor.
struct Entry {
  void* param;
  const void* grad;
  void* buffer;
  std::uint32_t chunk_end;
  std::uint16_t tail;
  std::uint16_t slot : 10, types : 6;

  __host__ __device__ void* master() const { return nullptr; }
  __host__ __device__ std::int64_t* started() const { return nullptr; }
};

// One tensor with master weights, or with an account of its first update; larger, so fewer fit into a launch.
struct FullEntry : Entry {
  void* own_master;
  std::int64_t* own_started;

  __host__ __device__ void* master() const { return own_master; }
  __host__ __device__ std::int64_t* started() const { return own_started; }
};

#if CUDART_VERSION >= 12010
constexpr std::size_t parameter_bytes = 32764;
#else
constexpr std::size_t parameter_bytes = 4096;
#endif
constexpr std::size_t most_slots = 1 << 10;  // `Entry::slot`

// The argument of one update launch: slots, then entries, as many of each as fit.
template <class T, class E>
struct Launch {
  CudaStep step;
  std::uint32_t n_slots, n_entries;
  alignas(8) unsigned char memory[(parameter_bytes - sizeof(CudaStep) - 8) / 8 * 8];

  __host__ __device__ const Slot<T>& slot(std::uint32_t i) const {
    return reinterpret_cast<const Slot<T>*>(memory)[i];
  }
  __host__ __device__ const E& entry(std::uint32_t i) const {
    return reinterpret_cast<const E*>(memory + n_slots * sizeof(Slot<T>))[i];
  }
};

// Entries, or slots, that fit into one launch of the larger entries.
template <class T>
constexpr std::size_t full_entries = sizeof(Launch<T, FullEntry>::memory) / sizeof(FullEntry);

// -------------------------------------------------------------------------------------------- the update of one chunk

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
__device__ __forceinline__ void update_any(const Entry& entry, void* master, std::int64_t begin, int count,
                                           const Rule<T>& rule) {
  constexpr int unroll = 4;
  const Types types{entry.types};
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
__device__ __forceinline__ void update_chunk(const Entry& entry, void* master, std::int64_t begin, int count,
                                             const Rule<float>& rule) {
  const Types types{entry.types};
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
  update_any<float, false>(entry, master, begin, count, rule);
}

__device__ __forceinline__ void update_chunk(const Entry& entry, void* master, std::int64_t begin, int count,
                                             const Rule<double>& rule) {
  const Types types{entry.types};
  if (types.all(Dtype::float64) && aligned(entry, nullptr))
    return update_aligned<double, double, false>(entry, nullptr, begin, count, rule);
  if (types.param() == Dtype::float64) return update_any<double, true>(entry, nullptr, begin, count, rule);
  // A float64 gradient or buffer beside a smaller parameter: the arithmetic is the parameter's.
  const Hyper<double>& h = rule.h;
  const Hyper<float> narrow{float(h.grad_factor),  float(h.weight_decay), float(h.buffer_decay),
                            float(h.buffer_gain), float(h.momentum),     float(h.lr)};
  update_any<float, true>(entry, master, begin, count, Rule<float>{narrow, rule.form, rule.decay});
}

template <class T, class E>
__global__ void __launch_bounds__(block_size, blocks_per_multiprocessor)
    update_kernel(const __grid_constant__ Launch<T, E> launch) {
  const CudaStep& step = launch.step;
  if (step.found_inf && *step.found_inf != 0.0f) return;

  std::uint32_t low = 0, high = launch.n_entries - 1;
  while (low < high) {
    const std::uint32_t middle = (low + high) / 2;
    if (launch.entry(middle).chunk_end <= blockIdx.x)
      low = middle + 1;
    else
      high = middle;
  }
  const E& entry = launch.entry(low);
  const std::uint32_t chunk = blockIdx.x - (low ? launch.entry(low - 1).chunk_end : 0);
  const int count = blockIdx.x + 1 == entry.chunk_end ? entry.tail : chunk_size;

  const Slot<T>& slot = launch.slot(entry.slot);
  T lr = slot.lr, momentum = slot.momentum, weight_decay = slot.weight_decay;
  if (step.row) {
    const auto row = *reinterpret_cast<const Pack<float, 4>*>(step.row + 4 * slot.group);
    if (row.get(3) == 0.0f) return;
    lr = row.get(0), momentum = row.get(1), weight_decay = row.get(2);
  } else if (slot.lr_tensor) {
    lr = *slot.lr_tensor;
  }

  Rule<T> rule;
  rule.form = momentum == 0 || !entry.buffer ? Form::plain : slot.nesterov ? Form::nesterov : Form::momentum;
  rule.decay = weight_decay != 0;
  bool first = false;
  if (entry.started() && rule.form != Form::plain) {
    // Blocks of one tensor run in any order: the first update is the one of which some may see the flag unset, and the
    // others this very step's number. It was zero or is written by one thread only, so all come to the same answer.
    const std::int64_t started = *entry.started();
    first = started == 0 || started == *step.tick;
    if (started == 0 && chunk == 0 && threadIdx.x == 0) *entry.started() = *step.tick;
  }
  rule.h = hyper<T>(lr, momentum, weight_decay, slot.gain, slot.maximize,
                    step.grad_scale ? static_cast<T>(*step.grad_scale) : T(1), first);
  update_chunk(entry, entry.master(), static_cast<std::int64_t>(chunk) * chunk_size, count, rule);
}

// --------------------------------------------------------------------------------------------------------- the control

struct Advance {
  StepControl control;
  const float *loss, *found_inf;
  std::int64_t* tick;
};

// One warp: all threads decide, each copies its groups' rows, and the first one commits.
__global__ void __launch_bounds__(advance_block_size) advance_kernel(const __grid_constant__ Advance a) {
  if (a.tick && threadIdx.x == 0) ++*a.tick;
  if (!a.control.table) return;
  const Decision decision = decide(a.control, a.loss, a.found_inf ? *a.found_inf : 0.0f);
  for (std::int64_t group = threadIdx.x; group < a.control.n_groups; group += advance_block_size)
    write_row(a.control, decision, group);
  __syncthreads();
  if (threadIdx.x == 0) commit(a.control, decision);
}

// ---------------------------------------------------------------------------------------------------- the host's side

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // an error that is not sticky must not be found by the next call of somebody else
  throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + "), " +
                           what);
}

// An argument is passed by value; the launch copies it, so it may be overwritten afterwards.
template <class Argument>
void launch(void (*kernel)(Argument), const Argument& argument, unsigned blocks, unsigned threads,
            const CudaQueue& queue) {
  void* arguments[] = {const_cast<Argument*>(&argument)};
  check(cudaLaunchKernel(kernel, dim3(blocks), dim3(threads), arguments, 0,
                         reinterpret_cast<cudaStream_t>(queue.stream)),
        "when the update was to be launched: either the launch was refused or an earlier kernel failed; "
        "CUDA_LAUNCH_BLOCKING=1 shows which");
}

void fill(Entry& entry, const Tensor& tensor) {
  entry.param = reinterpret_cast<void*>(tensor.param);
  entry.grad = reinterpret_cast<const void*>(tensor.grad);
  entry.buffer = reinterpret_cast<void*>(tensor.buffer);
  entry.types = static_cast<std::uint16_t>(tensor.types);
}

void fill(FullEntry& entry, const Tensor& tensor) {
  fill(static_cast<Entry&>(entry), tensor);
  entry.own_master = reinterpret_cast<void*>(tensor.master);
  entry.own_started = reinterpret_cast<std::int64_t*>(tensor.started);
}

template <class T>
Slot<T> slot_of(const CudaGroup& group, std::int64_t index) {
  const Group& values = group.values;
  Slot<T> slot{static_cast<T>(values.lr),
               static_cast<T>(values.momentum),
               static_cast<T>(values.weight_decay),
               static_cast<T>(1 - values.dampening),
               nullptr,
               static_cast<std::int32_t>(index),
               values.nesterov,
               values.maximize};
  if constexpr (sizeof(T) == sizeof(float))
    slot.lr_tensor = group.lr_float32;
  else
    slot.lr_tensor = group.lr_float64;
  return slot;
}

// The tensors of `list` that the kernel for T and E is to update.
template <class T, class E>
int update(const Tensor* tensors, const std::vector<std::int64_t>& list, const std::vector<CudaGroup>& groups,
           const CudaStep& step, const CudaQueue& queue) {
  if (list.empty()) return 0;
  static thread_local Launch<T, E> argument;
  constexpr LaunchLimits limits{sizeof argument.memory, sizeof(E), sizeof(Slot<T>), most_slots, 0x7fffffff};
  std::vector<Work> works;
  works.reserve(list.size());
  for (const std::int64_t i : list) works.push_back({tensors[i].numel, tensors[i].group});
  const auto plans = plan_launches(works, limits);
  for (const LaunchPlan& plan : plans) {
    argument.step = step;
    argument.n_slots = static_cast<std::uint32_t>(plan.groups.size());
    argument.n_entries = static_cast<std::uint32_t>(plan.entries.size());
    auto* slots = reinterpret_cast<Slot<T>*>(argument.memory);
    for (const std::int64_t group : plan.groups) *slots++ = slot_of<T>(groups[group], group);
    auto* entries = reinterpret_cast<E*>(slots);
    for (const LaunchPlan::Entry& planned : plan.entries) {
      E& entry = *entries++;
      fill(entry, tensors[list[planned.work]]);
      entry.chunk_end = planned.chunk_end;
      entry.tail = planned.tail;
      entry.slot = planned.slot;
    }
    launch(&update_kernel<T, E>, argument, plan.n_chunks(), block_size, queue);
  }
  return static_cast<int>(plans.size());
}

class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&before_), "when the current device was asked for");
    if (before_ != device) check(cudaSetDevice(device), "when the parameters' device was to be chosen");
    changed_ = before_ != device;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(before_);
  }

 private:
  int before_ = 0;
  bool changed_ = false;
};

}  // namespace

void advance_cuda(const StepControl& control, const float* loss, const float* found_inf, std::int64_t* tick,
                  const CudaQueue& queue) {
  const DeviceGuard guard(queue.device);
  launch(&advance_kernel, Advance{control, loss, found_inf, tick}, 1, advance_block_size, queue);
}

int sgd_cuda(const Tensor* tensors, std::int64_t n_tensors, const std::vector<CudaGroup>& groups, const CudaStep& step,
             const CudaQueue& queue) {
  const DeviceGuard guard(queue.device);
  std::vector<std::int64_t> narrow, narrow_full, wide, wide_full;
  for (std::int64_t i = 0; i < n_tensors; ++i) {
    const Tensor& t = tensors[i];
    if (!t.grad) continue;
    const bool full = t.master || t.started;
    if (Types{static_cast<unsigned>(t.types)}.any_float64())
      (full ? wide_full : wide).push_back(i);
    else
      (full ? narrow_full : narrow).push_back(i);
  }
  if (!narrow_full.empty() && narrow.size() + narrow_full.size() + groups.size() <= full_entries<float>) {
    narrow_full.insert(narrow_full.end(), narrow.begin(), narrow.end());  // one launch instead of two
    narrow.clear();
  }
  return update<float, Entry>(tensors, narrow, groups, step, queue) +
         update<float, FullEntry>(tensors, narrow_full, groups, step, queue) +
         update<double, Entry>(tensors, wide, groups, step, queue) +
         update<double, FullEntry>(tensors, wide_full, groups, step, queue);
}

void load_cuda(int device) {
  const DeviceGuard guard(device);
  cudaFuncAttributes attributes;
  const auto load = [&](auto* kernel) {
    check(cudaFuncGetAttributes(&attributes, kernel), "when the kernels were loaded; `clrfast doctor` tells for which "
                                                      "devices they were built");
  };
  load(&advance_kernel);
  load(&update_kernel<float, Entry>);
  load(&update_kernel<float, FullEntry>);
  load(&update_kernel<double, Entry>);
  load(&update_kernel<double, FullEntry>);
}

std::string cuda_problem() {
  int driver = 0, devices = 0;
  cudaDriverGetVersion(&driver);
  const auto version = [](int number) {
    return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
  };
  if (driver == 0) return "no driver found";
  if (driver / 1000 < CUDART_VERSION / 1000)
    return "the driver supports CUDA " + version(driver) + ", this build needs " +
           version(CUDART_VERSION / 1000 * 1000);
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return cudaGetErrorString(error);
  }
  return devices ? "" : "no device found";
}

std::shared_ptr<std::atomic<bool>> graph_alive(const CudaQueue& queue) {
  const DeviceGuard guard(queue.device);
  const auto stream = reinterpret_cast<cudaStream_t>(queue.stream);
  constexpr const char* what = "when the captured graph was asked for";
  cudaStreamCaptureStatus status;
  cudaGraph_t graph = nullptr;
#if CUDART_VERSION >= 13000
  check(cudaStreamGetCaptureInfo(stream, &status, nullptr, &graph, nullptr, nullptr, nullptr), what);
#else
  check(cudaStreamGetCaptureInfo_v2(stream, &status, nullptr, &graph), what);
#endif
  if (status != cudaStreamCaptureStatusActive) throw std::runtime_error("CUDA: the stream is not capturing");
  auto alive = std::make_shared<std::atomic<bool>>(true);
  // The driver calls this on a thread of its own, where neither CUDA nor Python may be used: hence no more than a flag.
  auto* shared = new std::shared_ptr<std::atomic<bool>>(alive);
  const auto gone = [](void* pointer) {
    auto* shared = static_cast<std::shared_ptr<std::atomic<bool>>*>(pointer);
    (*shared)->store(false);
    delete shared;
  };
  cudaUserObject_t object;
  check(cudaUserObjectCreate(&object, shared, gone, 1, cudaUserObjectNoDestructorSync), what);
  check(cudaGraphRetainUserObject(graph, object, 1, cudaGraphUserObjectMove), what);
  return alive;
}

std::size_t tensors_per_launch() {
  return (sizeof(Launch<float, Entry>::memory) - sizeof(Slot<float>)) / sizeof(Entry);
}

}  // namespace clrfast
