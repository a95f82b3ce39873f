// The kernels of rules/sgd.h.
#include "cuda/update_launches.h"
#include "rules/sgd.h"

namespace clrfast {

template int update_cuda(const ParamTensors*, std::int64_t, const std::vector<CudaGroupOptions<Sgd>>&, const CudaStep&,
                         std::intptr_t);
template void load_updates<Sgd>();
template std::size_t tensors_per_launch<Sgd>();

}  // namespace clrfast
