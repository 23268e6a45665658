// Dual bounds: the part of optimality that can be checked without trusting any solver.
#pragma once

#include <vector>

#include "lap/lap.hpp"

namespace rebasin_fast {

// min_j (sign * c_ij - v[j]) for every row i: the largest u that is feasible beside v. Any strides, one pass.
// Num is double, or int128 for exact integers.
template <class Num, class T>
std::vector<Num> row_minima(const TypedView<T>& cost, bool maximize, const std::vector<Num>& v);

}  // namespace rebasin_fast
