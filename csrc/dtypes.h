// Dtypes and their exact conversions. float16 and bfloat16 are stored as 16-bit patterns and computed in float32.
//
// Rounding is to nearest, ties to even. A NaN stays a NaN, not necessarily the same one. The conversions have no
// branches, so that compilers vectorise them; on a GPU, its own instructions give the same results.
#pragma once

#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace clrfast {

enum class Dtype : std::int64_t { float32, float64, float16, bfloat16 };

struct Half { std::uint16_t bits; };
struct BFloat16 { std::uint16_t bits; };

CLRFAST_HD float as_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

CLRFAST_HD std::uint32_t as_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// How a value stored as S is loaded and stored; `compute_type` is the type of the arithmetic on it.
template <class S> struct DtypeTraits;

template <> struct DtypeTraits<float> {
  using compute_type = float;
  CLRFAST_HD static float load(float x) { return x; }
  CLRFAST_HD static float store(float x) { return x; }
};

template <> struct DtypeTraits<double> {
  using compute_type = double;
  CLRFAST_HD static double load(double x) { return x; }
  CLRFAST_HD static double store(double x) { return x; }
};

template <> struct DtypeTraits<BFloat16> {
  using compute_type = float;
  CLRFAST_HD static float load(BFloat16 x) { return as_float(std::uint32_t{x.bits} << 16); }
  CLRFAST_HD static BFloat16 store(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    std::uint32_t pair;  // a packed conversion is one instruction (F2FP) on all of these
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(0.0f), "f"(x));
    return {static_cast<std::uint16_t>(pair)};
#else
    const std::uint32_t bits = as_bits(x);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return {static_cast<std::uint16_t>(x != x ? 0x7fc0u : rounded)};
#endif
  }
};

template <> struct DtypeTraits<Half> {
  using compute_type = float;
  CLRFAST_HD static float load(Half x) {
#ifdef __CUDA_ARCH__
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
    return value;
#else
    const std::uint32_t magnitude = (x.bits & 0x7fffu) << 13;
    const std::uint32_t sign = (x.bits & 0x8000u) << 16;
    const std::uint32_t exponent = magnitude & 0x0f800000u;
    const std::uint32_t normal = magnitude + (112u << 23);                       // bias 15 -> bias 127
    const std::uint32_t special = magnitude + (224u << 23);                      // exponent 31 -> 255
    const std::uint32_t small = as_bits(as_float((magnitude >> 13) | (126u << 23)) - 0.5f);  // n * 2^-24
    return as_float(sign | (exponent == 0x0f800000u ? special : exponent == 0 ? small : normal));
#endif
  }
  CLRFAST_HD static Half store(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    std::uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(0.0f), "f"(x));
    return {static_cast<std::uint16_t>(pair)};
#elif defined(__CUDA_ARCH__)
    std::uint16_t stored;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(stored) : "f"(x));
    return {stored};
#else
    const std::uint32_t bits = as_bits(x), magnitude = bits & 0x7fffffffu;
    const std::uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const std::uint32_t small = as_bits(as_float(magnitude) + 0.5f) - as_bits(0.5f);  // 0.5 has an ulp of 2^-24
    const std::uint32_t rounded = magnitude < 0x38800000u ? small : magnitude >= 0x47800000u ? 0x7c00u : normal;
    return {static_cast<std::uint16_t>((bits >> 16 & 0x8000u) | (magnitude > 0x7f800000u ? 0x7e00u : rounded))};
#endif
  }
};

}  // namespace clrfast
