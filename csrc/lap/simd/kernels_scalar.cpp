// The instruction set every processor of the architecture has; two lanes let compilers use what it has of
// vectors.
#define REBASIN_FAST_SIMD_NAMESPACE scalar
#define REBASIN_FAST_SIMD_LANES 2
#include "lap/simd/kernels_body.hpp"
#include "lap/simd/product_body.hpp"
#include "lap/simd/small_body.hpp"
#include "lap/simd/small_jv_body.hpp"
