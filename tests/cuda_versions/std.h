// The parts of C++'s library that the kernels use; NVRTC has none.
#pragma once

using int8_t = signed char;
using int16_t = short;
using int32_t = int;
using int64_t = long;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned;
using uint64_t = unsigned long;
using intptr_t = long;
using uintptr_t = unsigned long;

namespace std {
using ::fabs, ::isfinite, ::memcpy, ::pow, ::sqrt;
using ::int8_t, ::int16_t, ::int32_t, ::int64_t, ::intptr_t;
using ::uint8_t, ::uint16_t, ::uint32_t, ::uint64_t, ::uintptr_t;
using size_t = decltype(sizeof 0);
}  // namespace std
