// Dual bounds: the part of optimality that can be checked without trusting any solver.
#pragma once

#include <vector>

#include "lap/lap.hpp"
#include "lap/oriented.hpp"
#include "lap/simd/kernels.hpp"

namespace rebasin_fast {

// Whether a matching of 64-bit integers and its prices, whole numbers both, are optimal, in arithmetic that
// cannot round. Of rows <= cols.
template <class T>
bool holds_in_integers(const TypedView<T>& cost, bool maximize, const Matching<double>& matching);

// min_j (sign * c_ij - v[j]) for every row i: the largest u that is feasible beside v. Any strides, one pass.
// Num is double, or int128 for exact integers.
template <class Num, class T>
std::vector<Num> row_minima(const TypedView<T>& cost, bool maximize, const std::vector<Num>& v);

// The same for rows that a source hands out; v is padded as in PartialMatching.
template <class Source>
std::vector<double> row_minima(const Source& source, const std::vector<double>& v) {
    typename Source::Reader reader(source);
    const auto& kernels = simd::kernels<typename Source::Element>();
    std::vector<double> minima(static_cast<std::size_t>(source.rows));
    for (std::int64_t i = 0; i < source.rows; ++i)
        minima[i] = kernels.reduced_min(reader.row(i), source.sign, v.data(), source.cols);
    return minima;
}

}  // namespace rebasin_fast
