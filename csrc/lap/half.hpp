// IEEE 754 binary16, as a caller's matrix may hold it: nothing is computed in it, float holds every value.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

namespace rebasin_fast {

struct Half {
    std::uint16_t bits;

    // Written so that a loop over many becomes vector instructions. The exponent is moved by a
    // multiplication, but not from or to where a processor may be set to flush what is denormal.
    operator float() const {
        const std::uint32_t exponent = bits & 0x7C00u, fraction = bits & 0x03FFu;
        const float normal = std::bit_cast<float>(((exponent + fraction) << 13) + (112u << 23));
        const float denormal = static_cast<float>(static_cast<std::int32_t>(fraction)) * 0x1p-24f;
        const float special = std::bit_cast<float>(0x7F800000u | fraction << 13);
        const float magnitude = exponent == 0 ? denormal : exponent == 0x7C00u ? special : normal;
        return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | (bits & 0x8000u) << 16);
    }
};
static_assert(sizeof(Half) == 2);

// What an element is read as.
template <class T>
using Widened = std::conditional_t<std::is_same_v<T, Half>, float, T>;

}  // namespace rebasin_fast
