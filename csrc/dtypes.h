// Storage types and their exact conversions: float16 and bfloat16 as 16-bit patterns, computed in float32.
//
// Rounding is to nearest, ties to even; NaN stays NaN. The conversions have no branches, so that they vectorise.
#pragma once

#include <cstdint>
#include <cstring>

namespace clrfast {

enum class Dtype : std::int64_t { float32, float64, float16, bfloat16 };

struct half { std::uint16_t bits; };
struct bfloat { std::uint16_t bits; };

inline float as_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline std::uint32_t as_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// `compute` is the type of the arithmetic on values that are stored as S.
template <class S> struct Stored;

template <> struct Stored<float> {
  using compute = float;
  static float load(float x) { return x; }
  static float store(float x) { return x; }
};

template <> struct Stored<double> {
  using compute = double;
  static double load(double x) { return x; }
  static double store(double x) { return x; }
};

template <> struct Stored<bfloat> {
  using compute = float;
  static float load(bfloat x) { return as_float(std::uint32_t{x.bits} << 16); }
  static bfloat store(float x) {
    const std::uint32_t bits = as_bits(x);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return {static_cast<std::uint16_t>(x != x ? 0x7fc0u : rounded)};
  }
};

template <> struct Stored<half> {
  using compute = float;
  static float load(half x) {
    const std::uint32_t magnitude = (x.bits & 0x7fffu) << 13;
    const std::uint32_t sign = (x.bits & 0x8000u) << 16;
    const std::uint32_t exponent = magnitude & 0x0f800000u;
    const std::uint32_t normal = magnitude + (112u << 23);                       // bias 15 -> bias 127
    const std::uint32_t special = magnitude + (224u << 23);                      // exponent 31 -> 255
    const std::uint32_t small = as_bits(as_float((magnitude >> 13) | (126u << 23)) - 0.5f);  // n * 2^-24
    return as_float(sign | (exponent == 0x0f800000u ? special : exponent == 0 ? small : normal));
  }
  static half store(float x) {
    const std::uint32_t bits = as_bits(x), magnitude = bits & 0x7fffffffu;
    const std::uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const std::uint32_t small = as_bits(as_float(magnitude) + 0.5f) - as_bits(0.5f);  // 0.5 has an ulp of 2^-24
    const std::uint32_t rounded = magnitude < 0x38800000u ? small : magnitude >= 0x47800000u ? 0x7c00u : normal;
    return {static_cast<std::uint16_t>((bits >> 16 & 0x8000u) | (magnitude > 0x7f800000u ? 0x7e00u : rounded))};
  }
};

}  // namespace clrfast
