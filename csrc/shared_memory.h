// Parameters of one step that lie in the same memory, as the host finds them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "tensor_list.h"

namespace clrfast {

inline std::int64_t itemsize(Dtype type) {
  return type == Dtype::float64 ? 8 : type == Dtype::float32 ? 4 : 2;
}

// Whether parameters of one step share memory: then they have to be updated one after the other.
inline bool share_memory(const Tensor* tensors, std::int64_t n_tensors) {
  std::vector<std::pair<std::int64_t, std::int64_t>> spans;  // begin, end
  spans.reserve(static_cast<std::size_t>(n_tensors));
  for (const Tensor* t = tensors; t != tensors + n_tensors; ++t)
    if (t->grad && t->numel)
      spans.emplace_back(t->param, t->param + t->numel * itemsize(Types{static_cast<unsigned>(t->types)}.param()));
  std::sort(spans.begin(), spans.end());
  for (std::size_t i = 1; i < spans.size(); ++i)
    if (spans[i].first < spans[i - 1].second) return true;
  return false;
}

}  // namespace clrfast
