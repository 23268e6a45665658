// The kernel of panel.hpp. An element of the panel a thread at a time: consecutive threads write consecutive
// elements, and read consecutive ones wherever the innermost axis is not gathered.
#pragma once

#include <cstdint>

#include "cuda/elements.cuh"

namespace rebasin_fast::cuda {

inline constexpr int kPanelAxes = 8;  // after joining those that are one stretch of memory
inline constexpr int kPanelThreads = 256;

// 16-bit floats as bits: CUDA's own types are not known to a host compiler.
struct Half {
    std::uint16_t bits;
};
struct BFloat16 {
    std::uint16_t bits;
};

__device__ inline double widened(double value) {
    return value;
}
__device__ inline float widened(float value) {
    return value;
}
__device__ inline float widened(BFloat16 value) {
    return from_bfloat16(value.bits);
}
__device__ inline float widened(Half value) {
    return from_float16(value.bits);
}

template <class Out, class Wide>
__device__ inline Out rounded(Wide value) {
    if constexpr (std::is_same_v<Out, BFloat16>) {
        const auto bits = __float_as_uint(static_cast<float>(value));
        if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>(bits >> 16 | 0x40u)};
        return {static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
    } else {
        return static_cast<Out>(value);
    }
}

// Division of numbers below 2^31 by one that is known beforehand, without dividing: Granlund & Montgomery,
// "Division by Invariant Integers using Multiplication", PLDI 1994, doi:10.1145/178243.178249, figure 4.1.
struct Divisor {
    std::uint32_t by = 1;
    std::uint32_t multiplier = 1;
    std::uint32_t shift = 0;

    Divisor() = default;
    explicit Divisor(std::uint32_t divisor) : by(divisor) {
        while ((std::uint64_t{1} << shift) < divisor) ++shift;
        const std::uint64_t excess = (std::uint64_t{1} << shift) - divisor;
        multiplier = static_cast<std::uint32_t>((excess << 32) / divisor + 1);
    }

    __host__ __device__ std::uint32_t quotient(std::uint32_t n) const {
        const auto high = static_cast<std::uint32_t>(static_cast<std::uint64_t>(n) * multiplier >> 32);
        return (high + n) >> shift;  // no overflow below 2^31
    }
};

// What one launch does, by value in the kernel's parameters.
struct PanelPlan {
    const void* source = nullptr;
    void* panel = nullptr;
    std::uint32_t elements = 0;
    int axes = 0;
    Divisor length[kPanelAxes];
    std::int64_t stride[kPanelAxes] = {};
    const std::int64_t* index[kPanelAxes] = {};
    const std::int64_t* less[kPanelAxes] = {};
};

template <class In, class Out, class Wide, bool change>
__global__ void __launch_bounds__(kPanelThreads) panel_kernel(PanelPlan plan) {
    const In* const source = static_cast<const In*>(plan.source);
    Out* const panel = static_cast<Out*>(plan.panel);
    for (std::uint32_t k = blockIdx.x * blockDim.x + threadIdx.x; k < plan.elements;
         k += gridDim.x * blockDim.x) {
        std::int64_t at = 0, less_at = 0;
        std::uint32_t left = k;
        for (int axis = plan.axes - 1; axis >= 0; --axis) {
            const std::uint32_t rest = plan.length[axis].quotient(left);
            const std::uint32_t entry = left - rest * plan.length[axis].by;
            const std::int64_t* const index = plan.index[axis];
            const std::int64_t step = (index == nullptr ? entry : index[entry]) * plan.stride[axis];
            at += step;
            if constexpr (change)
                less_at += plan.less[axis] == nullptr ? step : plan.less[axis][entry] * plan.stride[axis];
            left = rest;
        }
        Wide value = widened(source[at]);
        if constexpr (change) value -= widened(source[less_at]);
        panel[k] = rounded<Out>(value);
    }
}

}  // namespace rebasin_fast::cuda
