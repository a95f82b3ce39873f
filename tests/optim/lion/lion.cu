// The kernels of lion.h.
#include "lion.h"
#include "cuda/update_launches.h"

namespace clrfast {

template int update_cuda(const ParamTensors*, std::int64_t, const std::vector<CudaGroupOptions<Lion>>&, const CudaStep&,
                         std::intptr_t);
template void load_updates<Lion>();
template std::size_t tensors_per_launch<Lion>();

}  // namespace clrfast
