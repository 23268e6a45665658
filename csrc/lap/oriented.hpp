// What the algorithms of this folder share: the problem turned so that rows <= cols, rows contiguous.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "lap/lap.hpp"

namespace rebasin_fast {

inline constexpr double kForbidden = std::numeric_limits<double>::infinity();

// Above every sum of costs: infinity, or for exact integers a bound that 2^31 rows of 64-bit costs stay
// below.
template <class Num>
constexpr Num unreachable() {
    if constexpr (std::is_floating_point_v<Num>)
        return kForbidden;
    else
        return static_cast<Num>(1) << 126;
}

// A matching of every row of an oriented problem, with the column duals that prove it.
template <class Dual>
struct Matching {
    Status status = Status::optimal;
    std::vector<std::int32_t> col_of_row;
    std::vector<Dual> v;
};

// Dense Jonker-Volgenant. `cost` must have rows <= cols and col_stride == 1.
template <class T>
Matching<double> solve_dense(const TypedView<T>& cost, bool maximize, Stats* stats);

// Plain augmentation row by row, any strides. Dual is double, or int128 for exact integers.
template <class Dual, class T>
Matching<Dual> solve_shortest_path(const TypedView<T>& cost, bool maximize, Stats* stats);

}  // namespace rebasin_fast
