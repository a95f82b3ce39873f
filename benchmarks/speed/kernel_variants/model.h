// Models whose parameters the variants update.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <map>
#include <string>
#include <vector>

#include "cuda/kernels.h"
#include "rules/sgd.h"

using namespace clrfast;

namespace kernel_variants {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "kernel_variants: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

struct Size {
  int count;
  std::int64_t numel;
};

// Numbers of tensors and their sizes: those of benchmarks/speed/shapes.py in another order.
inline const std::map<std::string, std::vector<Size>> models = {
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

using Rule = Sgd;
constexpr float lr = 0.01f, momentum = 0.9f, weight_decay = 1e-4f;
constexpr double no_constants[Rule::n_constants] = {};  // no dampening, not Nesterov's form
constexpr int n_steps = 1000;  // of the schedule's table

// Values of all bytes of parameters, gradients and buffers: they make small floats.
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

// Parameters, gradients and buffers of a model, and a step control with a constant schedule.
struct Model {
  std::string name;
  Dtype dtype;
  std::vector<ParamTensors> tensors;
  std::int64_t numel = 0;
  std::size_t bytes;
  void* memory[3];  // parameters, gradients, buffers
  AdvanceParams advance{};

  Model(const std::string& name_, Dtype dtype_) : name(name_), dtype(dtype_) {
    std::int64_t n = 0;  // with gaps: each tensor is aligned like an allocation
    for (const Size& size : models.at(name)) {
      numel += size.count * size.numel;
      n += size.count * padded(size.numel);
    }
    bytes = n * itemsize();
    for (void*& one : memory) check(cudaMalloc(&one, bytes), "memory");
    const auto dtypes = pack_dtypes(dtype, dtype, dtype);
    std::int64_t begin = 0;
    for (const Size& size : models.at(name))
      for (int i = 0; i < size.count; ++i, begin += padded(size.numel))
        tensors.push_back({at(0, begin), at(1, begin), {at(2, begin), 0, 0}, 0, 0, size.numel, dtypes, 0});
    reset();
    make_control();
  }
  ~Model() {
    for (void* one : memory) cudaFree(one);
    const StepControl& c = advance.control;
    for (const void* one : std::initializer_list<const void*>{c.table, c.step, c.losses, c.grad_norms, c.average, c.stop,
                                                              c.row, advance.loss, advance.blocks_done})
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

 private:
  void make_control() {
    const float row[] = {lr, momentum, weight_decay};
    std::vector<float> table;
    for (int step = 0; step < n_steps; ++step) table.insert(table.end(), row, row + 3);
    const float average[] = {0.0f, 0.0f, 1e30f}, loss = 1.0f;
    advance.control = {on_device(table.size(), table.data()),
                       n_steps,
                       1,
                       on_device<std::int64_t>(1),
                       on_device<float>(n_steps),
                       on_device<float>(n_steps),
                       on_device(3, average),
                       on_device<std::uint8_t>(1),
                       on_device<float>(4),
                       0.98f,
                       4.0f};
    advance.loss = on_device(1, &loss);
    advance.blocks_done = on_device<std::uint32_t>(1);
  }
};

}  // namespace kernel_variants
