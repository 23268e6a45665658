// Elements of any type, loaded as numbers. float16 and bfloat16 are taken apart here: no header of the
// device's own is needed for that, and the host does the same.
#pragma once

#include <limits>

#include "cuda/device_matrix.hpp"
#include "cuda/kernel.cuh"

namespace rebasin_fast::cuda {

__device__ inline float from_bfloat16(std::uint16_t bits) {
    return __uint_as_float(static_cast<unsigned>(bits) << 16);
}

__device__ inline float from_float16(std::uint16_t bits) {
    const unsigned sign = static_cast<unsigned>(bits & 0x8000u) << 16;
    const unsigned exponent = (bits >> 10) & 0x1fu, fraction = bits & 0x3ffu;
    if (exponent == 0x1fu) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0) return __uint_as_float(sign | (exponent + 112u) << 23 | fraction << 13);
    const float small = static_cast<float>(fraction) * 0x1p-24f;  // exact, and 0 for 0
    return sign != 0 ? -small : small;
}

// Element `index` of `data`, as S, which holds it exactly: float, double or int.
template <class S>
__device__ inline S load_as(const void* data, Element type, std::int64_t index) {
    switch (type) {
        case Element::f64:
            return static_cast<S>(static_cast<const double*>(data)[index]);
        case Element::i32:
            return static_cast<S>(static_cast<const std::int32_t*>(data)[index]);
        case Element::f16:
            return static_cast<S>(from_float16(static_cast<const std::uint16_t*>(data)[index]));
        case Element::bf16:
            return static_cast<S>(from_bfloat16(static_cast<const std::uint16_t*>(data)[index]));
        case Element::i8:
            return static_cast<S>(static_cast<const std::int8_t*>(data)[index]);
        case Element::u8:
            return static_cast<S>(static_cast<const std::uint8_t*>(data)[index]);
        case Element::i16:
            return static_cast<S>(static_cast<const std::int16_t*>(data)[index]);
        default:
            return static_cast<S>(static_cast<const float*>(data)[index]);
    }
}

// A matrix while it is being solved: rows <= cols, rows contiguous. The cost of a cell is sign * element.
template <class S>
struct Costs {
    const S* data;
    std::int64_t row_stride;
    double sign;
    int rows, cols;

    __device__ const S* row(int i) const { return data + i * row_stride; }
    __device__ double cost(S element) const { return sign * static_cast<double>(element); }
    __device__ double at(int i, int j) const { return cost(row(i)[j]); }
};

inline constexpr double kForbidden = __builtin_huge_val();

// What is found wrong with entries, or hard; bits of a status word in device memory.
inline constexpr int kInvalid = 1;     // NaN, or an infinity of the wrong sign
inline constexpr int kOverflows = 2;   // so large that sums of costs may be infinite
inline constexpr int kInfeasible = 4;  // no assignment avoids the forbidden cells

// `largest` is the limit of what can be summed up.
__device__ inline int flaws_of(double cost, double largest) {
    if (!(cost > -kForbidden)) return kInvalid;
    return cost < kForbidden && fabs(cost) > largest ? kOverflows : 0;
}

// The largest magnitude of which sums of some n stay finite.
inline double overflow_limit(std::int64_t rows, bool guarded) {
    return guarded ? std::numeric_limits<double>::infinity()
                   : std::numeric_limits<double>::max() / (8.0 * static_cast<double>(rows));
}

}  // namespace rebasin_fast::cuda
