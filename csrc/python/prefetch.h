// Fetches the Python objects of an optimizer's tensors into the cache before they are read. A walk over hundreds of
// tensors otherwise waits for memory several times at each, because every object leads to the next one: the Python
// object to the tensor's header, that to the storage's header.
#pragma once

#include <Python.h>

#include <cstdint>

namespace clrfast {

constexpr int line_bytes = 64;

inline void prefetch(const void* memory, int n_lines) {
  for (int k = 0; k < n_lines; ++k) __builtin_prefetch(static_cast<const char*>(memory) + k * line_bytes);
}

// Addresses that were right when Python last collected the tensors. They are never read from, only fetched, so it does
// not matter if they no longer are.
constexpr int n_hints = 24;
constexpr int hint_lines = 3;      // of each; torch's headers are longer than a line
constexpr int prefetch_ahead = 6;  // parameters, about as many as memory takes to answer

struct MemoryHints {
  std::int64_t addresses[n_hints];  // 0 where there are fewer

  void prefetch() const {
    for (const std::int64_t address : addresses)
      if (address) clrfast::prefetch(reinterpret_cast<const void*>(address), hint_lines);
  }
};

}  // namespace clrfast
