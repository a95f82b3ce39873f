// The machine's own limit of an optimizer step: one OpenMP loop over contiguous arrays, without tensors, schedule or
// Python. benchmarks/speed/bench_step.py builds it and times it beside clrfast. It runs on the OpenMP threads of torch,
// because those of a second runtime would compete with them for the cores.
#include <cmath>
#include <cstdint>

extern "C" {

void flat_sgd(float* __restrict p, const float* __restrict g, float* __restrict b, std::int64_t n, float lr,
              float momentum, float weight_decay) {
#pragma omp parallel for simd schedule(static)
  for (std::int64_t i = 0; i < n; ++i) {
    b[i] = momentum * b[i] + g[i] + weight_decay * p[i];
    p[i] -= lr * b[i];
  }
}

void flat_adamw(float* __restrict p, const float* __restrict g, float* __restrict m, float* __restrict v,
                std::int64_t n, float lr, float beta1, float beta2, float eps, float weight_decay, float root) {
#pragma omp parallel for simd schedule(static)
  for (std::int64_t i = 0; i < n; ++i) {
    m[i] += (1 - beta1) * (g[i] - m[i]);
    v[i] = beta2 * v[i] + (1 - beta2) * g[i] * g[i];
    p[i] = p[i] * (1 - lr * weight_decay) - lr * m[i] / (std::sqrt(v[i]) / root + eps);
  }
}

// Reads n values, as a norm must.
double flat_norm(const float* __restrict g, std::int64_t n) {
  double sum = 0;
#pragma omp parallel for simd schedule(static) reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(g[i]) * g[i];
  return sum;
}

}
