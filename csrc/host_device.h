// CLRFAST_HD marks functions that run on the host and, compiled by nvcc, on the device as well.
#pragma once

#ifdef __CUDACC__
#define CLRFAST_HD __host__ __device__ __forceinline__
#else
#define CLRFAST_HD inline
#endif
