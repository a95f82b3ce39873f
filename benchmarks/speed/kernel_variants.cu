// The update kernel with other choices than those of csrc/cuda/kernels.h, each beside the others, without torch.
//
//     nvcc -O3 -std=c++17 -fmad=false -arch=sm_90 -Icsrc benchmarks/speed/kernel_variants.cu -o kernel_variants
//     ./kernel_variants RESULTS.json          about 20 s on an H100; a table goes to the standard output
//     ./kernel_variants RESULTS.json --tiny   checks that it runs, measures nothing
//
// Variants, one change at a time from what is chosen:
//   form      merged (the update decides), two launches, or early: two launches of which the second begins before the
//             first has ended (programmatic dependent launch, from compute capability 9.0 on)
//   search    counting through segments, or bisection of the chunks' ends
//   argument  4, 8 or 32 KB
//   chunk     2,048 to 16,384 elements
// Each is checked against the CPU's loop over the same formulas. Then all take turns: the L2 cache is overwritten, and
// the time between two events around the step is taken. The device is still busy with the cache when the host has
// handed over the step, so no wait for the host is in it; the time of two events with nothing between them is a row.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "cuda/fill_argument.h"
#include "cuda/kernels.h"
#include "cuda/launch_plan.h"

using namespace clrfast;

namespace {

constexpr std::size_t large = 32764;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "kernel_variants: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

// ------------------------------------------------------------------------------------------------------- the variants

template <int n>
struct Chunks : DefaultTuning {
  CLRFAST_HD static int chunk(TensorDtypes) { return n; }
};

struct Bisection : DefaultTuning {
  template <class L>
  __device__ static ChunkLocation find(const L& argument, std::uint32_t block) {
    const auto* ends = reinterpret_cast<const std::uint32_t*>(argument.chunk_ends());
    std::uint32_t low = 0, high = argument.n_tensors - 1;
    while (low < high) {
      const std::uint32_t middle = (low + high) / 2;
      if (ends[middle] <= block)
        low = middle + 1;
      else
        high = middle;
    }
    return {low, block - (low ? ends[low - 1] : 0), block + 1 == ends[low]};
  }
};

struct Early : DefaultTuning {
  static constexpr bool begins_early = true;
  __device__ static void wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  }
};

__global__ void __launch_bounds__(advance_block_size) early_advance_kernel(const __grid_constant__ AdvanceParams a) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
  advance_by_warp(a);
}

enum class Way { merged, two_launches, early };

template <class Argument>
void launch(void (*kernel)(Argument), const Argument& argument, unsigned blocks, unsigned threads, bool early) {
  void* arguments[] = {const_cast<Argument*>(&argument)};
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks), config.blockDim = dim3(threads);
  config.attrs = &attribute, config.numAttrs = early ? 1 : 0;
  check(cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), arguments), "launch");
}

// ----------------------------------------------------------------------------------------------------------- the step

struct Size {
  int count;
  std::int64_t numel;
};

// As in benchmarks/speed/shapes.py, in other order.
const std::map<std::string, std::vector<Size>> models = {
    {"ResNet-56",
     {{1, 10}, {38, 16}, {36, 32}, {36, 64}, {1, 432}, {1, 640}, {18, 2304}, {1, 4608}, {17, 9216}, {1, 18432},
      {17, 36864}}},
    {"ResNet-50",
     {{14, 64},     {16, 128},   {32, 256},    {22, 512},    {1, 1000},    {14, 1024},   {8, 2048},    {1, 4096},
      {1, 9408},    {6, 16384},  {1, 32768},   {3, 36864},   {7, 65536},   {2, 131072},  {4, 147456},  {11, 262144},
      {2, 524288},  {6, 589824}, {5, 1048576}, {1, 2048000}, {1, 2097152}, {3, 2359296}}},
    {"Llama 3.2 1B", {{33, 2048}, {32, 1048576}, {32, 4194304}, {48, 16777216}, {1, 262668288}}},
    {"tiny", {{3, 5}, {1, 4097}, {1, 20000}}},
};

constexpr float lr = 0.01f, momentum = 0.9f, weight_decay = 1e-4f;

// What all bytes of parameters, gradients and buffers are set to: small floats.
constexpr int fill_bytes[] = {0x3d, 0x3c, 0x3b};

template <class T>
T* on_device(std::size_t n, const T* values = nullptr) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, n * sizeof(T)), "memory");
  if (values)
    check(cudaMemcpy(memory, values, n * sizeof(T), cudaMemcpyHostToDevice), "copy");
  else
    check(cudaMemset(memory, 0, n * sizeof(T)), "fill");
  return static_cast<T*>(memory);
}

// Parameters, gradients and buffers of a model, and a control with a schedule of constant values.
struct Model {
  std::string name;
  Dtype dtype;
  std::vector<ParamTensors> tensors;
  std::int64_t numel = 0;
  std::size_t bytes;
  void* memory[3];
  AdvanceParams advance{};

  Model(const std::string& name_, Dtype dtype_) : name(name_), dtype(dtype_) {
    std::int64_t n = 0;  // with gaps, so that each tensor begins where an allocation would
    for (const Size& size : models.at(name)) {
      numel += size.count * size.numel;
      n += size.count * padded(size.numel);
    }
    bytes = n * itemsize();
    for (void*& one : memory) check(cudaMalloc(&one, bytes), "memory");
    std::int64_t begin = 0;
    for (const Size& size : models.at(name))
      for (int i = 0; i < size.count; ++i, begin += padded(size.numel))
        tensors.push_back({at(0, begin), at(1, begin), at(2, begin), 0, 0, size.numel, pack_dtypes(dtype, dtype, dtype), 0});
    reset();
    const float row[] = {lr, momentum, weight_decay};
    std::vector<float> table;
    for (int step = 0; step < 1000; ++step) table.insert(table.end(), row, row + 3);
    const float average[] = {0.0f, 0.0f, 1e30f}, loss = 1.0f;
    advance.control = {on_device(table.size(), table.data()), 1000, 1, on_device<std::int64_t>(1), on_device<float>(1000),
                       on_device(3, average),                 on_device<std::uint8_t>(1), on_device<float>(4), 0.98f, 4.0f};
    advance.loss = on_device(1, &loss);
    advance.blocks_done = on_device<std::uint32_t>(1);
  }
  ~Model() {
    for (void* one : memory) cudaFree(one);
    const StepControl& c = advance.control;
    for (const void* one : std::initializer_list<const void*>{c.table, c.step, c.losses, c.average, c.stop, c.row,
                                                              advance.loss, advance.blocks_done})
      cudaFree(const_cast<void*>(one));
  }

  std::size_t itemsize() const { return dtype == Dtype::float32 ? 4 : 2; }
  static std::int64_t padded(std::int64_t n) { return (n + 127) / 128 * 128; }
  std::int64_t at(int which, std::int64_t begin) const {
    return reinterpret_cast<std::int64_t>(memory[which]) + begin * static_cast<std::int64_t>(itemsize());
  }

  void reset() {
    for (int k = 0; k < 3; ++k) check(cudaMemset(memory[k], fill_bytes[k], bytes), "fill");
  }
};

using Call = std::function<void()>;

template <class L, class Tuning>
Call step_of(const Model& model, Way way) {
  std::vector<TensorSize> sizes;
  std::vector<std::int64_t> list;
  for (const ParamTensors& tensor : model.tensors) {
    sizes.push_back({tensor.numel, 0, Tuning::chunk(dtypes_of(tensor))});
    list.push_back(static_cast<std::int64_t>(list.size()));
  }
  const auto plans = plan_launches(
      sizes, {sizeof(L::memory) - L::padding_bytes, L::tensor_bytes, sizeof(GroupParams<float>), max_groups, 0x7fffffff});
  const std::vector<CudaGroupOptions> groups{{{lr, momentum, weight_decay, true, 0.0, false, false}}};
  struct One {
    L argument;
    unsigned blocks;
  };
  std::vector<One> launches(plans.size());
  for (std::size_t i = 0; i < plans.size(); ++i) {
    fill(launches[i].argument, plans[i], model.tensors.data(), list, groups);
    launches[i].argument.step = {model.advance.control.row, nullptr, nullptr, nullptr};
    launches[i].argument.advance = way == Way::merged && i == 0 ? model.advance : AdvanceParams{};
    launches[i].blocks = plans[i].n_chunks();
  }
  const AdvanceParams advance = model.advance;
  void (*const kernel)(L) = &update_kernel<L, Tuning>;
  void (*const first)(AdvanceParams) = way == Way::early ? &early_advance_kernel : &advance_kernel;
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, kernel), "loading");
  check(cudaFuncGetAttributes(&attributes, first), "loading");
  return [=] {
    if (way != Way::merged) launch(first, advance, 1, advance_block_size, false);
    for (std::size_t i = 0; i < launches.size(); ++i)
      launch(kernel, launches[i].argument, launches[i].blocks, block_size, way == Way::early && i == 0);
  };
}

struct Variant {
  const char *form, *search;
  std::size_t argument;
  int chunk;
  Call step;
};

std::vector<Variant> variants_of(const Model& model, bool early) {
  using L = UpdateArgument<float, TensorMetadata, large>;
  using L4 = UpdateArgument<float, TensorMetadata, 4096>;
  using L8 = UpdateArgument<float, TensorMetadata, 8192>;
  const int usual = DefaultTuning::chunk(dtypes_of(model.tensors[0]));
  std::vector<Variant> all = {
      {"merged", "segments", large, usual, step_of<L, DefaultTuning>(model, Way::merged)},
      {"two launches", "segments", large, usual, step_of<L, DefaultTuning>(model, Way::two_launches)},
      {"merged", "bisection", large, usual, step_of<L, Bisection>(model, Way::merged)},
      {"merged", "segments", 8192, usual, step_of<L8, DefaultTuning>(model, Way::merged)},
      {"two launches", "segments", 8192, usual, step_of<L8, DefaultTuning>(model, Way::two_launches)},
      {"merged", "segments", 4096, usual, step_of<L4, DefaultTuning>(model, Way::merged)},
      {"merged", "segments", 8192, 2048, step_of<L8, Chunks<2048>>(model, Way::merged)},
      {"merged", "segments", 8192, 4096, step_of<L8, Chunks<4096>>(model, Way::merged)},
      {"merged", "segments", 8192, 8192, step_of<L8, Chunks<8192>>(model, Way::merged)},
      {"merged", "segments", 8192, 16384, step_of<L8, Chunks<16384>>(model, Way::merged)},
      {"two launches", "segments", 8192, 8192, step_of<L8, Chunks<8192>>(model, Way::two_launches)},
      {"two launches", "segments", 8192, 16384, step_of<L8, Chunks<16384>>(model, Way::two_launches)},
  };
  if (early) all.push_back({"early", "segments", 8192, usual, step_of<L8, Early>(model, Way::early)});
  return all;
}

// ------------------------------------------------------------------------------------------------- check and measure

// Whether three steps give each element of the first and the last tensor what the CPU's loop gives.
template <class S>
bool agrees(Model& model, const Call& step) {
  using T = typename DtypeTraits<S>::compute_type;
  model.reset();
  S values[3];
  for (int k = 0; k < 3; ++k) std::memset(&values[k], fill_bytes[k], sizeof(S));
  for (int i = 0; i < 3; ++i) {
    step();
    T p = DtypeTraits<S>::load(values[0]), b = DtypeTraits<S>::load(values[2]);
    const auto h = hyper_params<T>(lr, momentum, weight_decay, 1, false, 1, false);
    sgd_update(Form::momentum, true, p, DtypeTraits<S>::load(values[1]), b, h);
    values[0] = DtypeTraits<S>::store(p), values[2] = DtypeTraits<S>::store(b);
  }
  for (const ParamTensors& tensor : model.tensors) {
    if (tensor.numel > 1 << 20) continue;  // enough is seen
    std::vector<S> found(tensor.numel);
    check(cudaMemcpy(found.data(), reinterpret_cast<void*>(tensor.param), found.size() * sizeof(S),
                     cudaMemcpyDeviceToHost),
          "copy");
    for (const S& one : found)
      if (std::memcmp(&one, &values[0], sizeof one)) return false;
  }
  return true;
}

struct Timer {
  cudaEvent_t begin, end;
  void* scratch;
  std::size_t bytes;

  Timer() {
    int l2 = 0;
    check(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, 0), "L2");
    bytes = 4 * static_cast<std::size_t>(l2);
    check(cudaMalloc(&scratch, bytes), "memory");
    check(cudaEventCreate(&begin), "event");
    check(cudaEventCreate(&end), "event");
  }
  float microseconds(const Call& step) const {
    for (int i = 0; i < 2; ++i) check(cudaMemsetAsync(scratch, i, bytes, nullptr), "fill");
    check(cudaEventRecord(begin, nullptr), "event");
    step();
    check(cudaEventRecord(end, nullptr), "event");
    check(cudaEventSynchronize(end), "step");
    float milliseconds = 0.0f;
    check(cudaEventElapsedTime(&milliseconds, begin, end), "time");
    return 1e3f * milliseconds;
  }
};

void measure(Model& model, const Timer& timer, int rounds, bool early, std::FILE* out, bool& first_row) {
  const auto variants = variants_of(model, early);
  const char* dtype = model.dtype == Dtype::float32 ? "float32" : "bfloat16";
  for (const Variant& v : variants) {
    const bool right =
        model.dtype == Dtype::float32 ? agrees<float>(model, v.step) : agrees<BFloat16>(model, v.step);
    if (!right) {
      std::fprintf(stderr, "kernel_variants: %s %s: %s, %s, %zu bytes, chunks of %d: wrong numbers\n",
                   model.name.c_str(), dtype, v.form, v.search, v.argument, v.chunk);
      std::exit(1);
    }
  }
  std::vector<std::vector<float>> times(variants.size() + 1);
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < variants.size(); ++i) times[i].push_back(timer.microseconds(variants[i].step));
    times.back().push_back(timer.microseconds([] {}));
  }
  for (std::size_t i = 0; i < times.size(); ++i) {
    auto& all = times[i];
    std::sort(all.begin(), all.end());
    const Variant none{"nothing", "", 0, 0, {}};
    const Variant& v = i < variants.size() ? variants[i] : none;
    const auto at = [&](double q) { return all[static_cast<std::size_t>(q * (all.size() - 1))]; };
    std::printf("%-12s %-8s  %-12s %-9s %5zu bytes %6d elements  %9.2f us (%.2f to %.2f)\n", model.name.c_str(), dtype,
                v.form, v.search, v.argument, v.chunk, at(0.5), at(0.25), at(0.75));
    std::fprintf(out,
                 "%s\n  {\"model\": \"%s\", \"dtype\": \"%s\", \"values\": %lld, \"form\": \"%s\", \"search\": \"%s\", "
                 "\"argument_bytes\": %zu, \"chunk\": %d, \"median_us\": %.3f, \"q25_us\": %.3f, \"q75_us\": %.3f, "
                 "\"n\": %zu}",
                 first_row ? "" : ",", model.name.c_str(), dtype, static_cast<long long>(model.numel), v.form, v.search,
                 v.argument, v.chunk, at(0.5), at(0.25), at(0.75), all.size());
    first_row = false;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool tiny = argc == 3 && std::strcmp(argv[2], "--tiny") == 0;
  if (argc != (tiny ? 3 : 2)) {
    std::fprintf(stderr, "usage: kernel_variants RESULTS.json [--tiny]\n");
    return 2;
  }
  std::FILE* out = std::fopen(argv[1], "w");
  if (!out) {
    std::perror(argv[1]);
    return 1;
  }
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "device");
  const Timer timer;
  bool first_row = true;
  std::fprintf(out, "{\"rows\": [");
  for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16})
    for (const auto& [name, rounds] : std::vector<std::pair<const char*, int>>{
             {"ResNet-56", 300}, {"ResNet-50", 150}, {"Llama 3.2 1B", 15}, {"tiny", 2}}) {
      if (tiny != (std::strcmp(name, "tiny") == 0)) continue;
      Model model(name, dtype);
      measure(model, timer, rounds, major >= 9, out, first_row);
    }
  std::fprintf(out, "\n]}\n");
  return std::fclose(out) ? 1 : 0;
}
