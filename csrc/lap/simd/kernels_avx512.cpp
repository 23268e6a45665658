#define REBASIN_FAST_SIMD_NAMESPACE avx512
#define REBASIN_FAST_SIMD_LANES 8
#include "lap/simd/kernels_body.hpp"
#include "lap/simd/product_body.hpp"
#include "lap/simd/small_body.hpp"
#include "lap/simd/small_jv_body.hpp"
