#define REBASIN_FAST_SIMD_NAMESPACE baseline
#define REBASIN_FAST_SIMD_LANES 2
#include "lap/simd/kernels_body.hpp"
#include "lap/simd/small_body.hpp"
