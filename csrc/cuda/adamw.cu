// The kernels of rules/adamw.h.
#include "cuda/update_launches.h"
#include "rules/adamw.h"

namespace clrfast {

template int update_cuda(const ParamTensors*, std::int64_t, const std::vector<CudaGroupOptions<AdamW>>&, const CudaStep&,
                         std::intptr_t);
template void load_updates<AdamW>();
template std::size_t tensors_per_launch<AdamW>();

}  // namespace clrfast
