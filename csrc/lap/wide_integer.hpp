// 128-bit integers, and their one conversion that the core needs. It is written out: what a compiler calls
// for it lies in its run-time library, which Clang does not link on Windows.
#pragma once

#include <cstdint>

namespace rebasin_fast {

// Wide enough for any path length over 64-bit integer costs: 2^31 rows times a range of 2^65 stays below
// 2^126.
__extension__ typedef __int128 int128;
__extension__ typedef unsigned __int128 uint128;

inline double to_double(double x) {
    return x;
}

// Rounded once below 2^64 in magnitude, at most twice beyond.
inline double to_double(int128 x) {
    const uint128 magnitude = x < 0 ? -static_cast<uint128>(x) : static_cast<uint128>(x);
    const auto high = static_cast<double>(static_cast<std::uint64_t>(magnitude >> 64));
    const double y = high * 0x1p64 + static_cast<double>(static_cast<std::uint64_t>(magnitude));
    return x < 0 ? -y : y;
}

}  // namespace rebasin_fast
