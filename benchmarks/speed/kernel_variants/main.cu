// The update kernel with other tunings than that of csrc/cuda/kernels.h, side by side, without torch.
//
//     nvcc -O3 -std=c++17 -fmad=false -arch=sm_90 -Icsrc benchmarks/speed/kernel_variants/main.cu -o kernel_variants
//     ./kernel_variants RESULTS.json          about 20 s on an H100; a table goes to the standard output
//     ./kernel_variants RESULTS.json --tiny   checks that it runs, measures nothing
//
// Each variant differs from the default tuning in one or two of these:
//   form      merged (the update decides), two launches, or early: two launches of which the second begins before the
//             first has ended (programmatic dependent launch, from compute capability 9.0 on)
//   search    counting through segments, or bisection of the chunks' ends
//   argument  4, 8 or 32 KB
//   chunk     2,048 to 16,384 elements
// Each is checked against the CPU's loop over the same formulas, and then timed in turns: the L2 cache is overwritten,
// and two events around the step give its time. The device is still busy with the cache when the host has submitted the
// step, so the time contains no wait for the host. A row "nothing" is the time of two events without a step.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "model.h"
#include "variants.h"

using namespace kernel_variants;

namespace {

// Returns whether three steps give every element the value of the CPU's loop. Large tensors are not read.
template <class S>
bool agrees(Model& model, const Call& step) {
  using T = typename DtypeTraits<S>::compute_type;
  model.reset();
  S values[3];
  for (int k = 0; k < 3; ++k) std::memset(&values[k], fill_bytes[k], sizeof(S));
  for (int i = 0; i < 3; ++i) {
    step();
    T p = DtypeTraits<S>::load(values[0]), b = DtypeTraits<S>::load(values[2]);
    const Row<T> row{lr, momentum, weight_decay};
    const auto constants = Rule::constants<T>(no_constants);
    const auto h = Rule::hyper_params<T>(row, constants, T(1), 0.0f);
    Rule::update(Rule::variant(row, constants, true), p, DtypeTraits<S>::load(values[1]), &b, h);
    values[0] = DtypeTraits<S>::store(p), values[2] = DtypeTraits<S>::store(b);
  }
  for (const ParamTensors& tensor : model.tensors) {
    if (tensor.numel > 1 << 20) continue;
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

// Checks all variants, times them in turns, prints a table and writes JSON rows to `out`.
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
