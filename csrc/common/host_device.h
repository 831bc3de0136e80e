// Functions for the host and for CUDA code.
#pragma once

#if defined(__CUDACC__)
#define PULLBACK_HD __host__ __device__
#else
#define PULLBACK_HD
#endif
