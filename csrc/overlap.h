// Finds parameters of one step that lie in the same memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "tensor_list.h"

namespace clrfast {

inline std::int64_t itemsize(Dtype dtype) {
  return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2;
}

// Whether any two parameters share memory. If so, they must be updated one after the other.
inline bool any_overlap(const ParamTensors* list, std::int64_t n_params) {
  std::vector<std::pair<std::int64_t, std::int64_t>> spans;  // begin, end
  spans.reserve(static_cast<std::size_t>(n_params));
  for (const ParamTensors* t = list; t != list + n_params; ++t)
    if (t->grad && t->numel) spans.emplace_back(t->param, t->param + t->numel * itemsize(dtypes_of(*t).param()));
  std::sort(spans.begin(), spans.end());
  for (std::size_t i = 1; i < spans.size(); ++i)
    if (spans[i].first < spans[i - 1].second) return true;
  return false;
}

}  // namespace clrfast
