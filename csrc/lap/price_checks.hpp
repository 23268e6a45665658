// What decides whether prices to begin with are worth having.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace rebasin_fast {

// The distance between the quartiles.
inline double spread(std::vector<double> values) {
    const auto low = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 4);
    const auto high = values.begin() + static_cast<std::ptrdiff_t>(3 * values.size() / 4);
    std::nth_element(values.begin(), low, values.end());
    const double first = *low;
    std::nth_element(values.begin(), high, values.end());
    return *high - first;
}

// Column minima that spread more than so many times wider than the costs are outliers, which say nothing
// about their columns: with heavy tails prices of 0 are far better.
inline constexpr double kOutlying = 2.0;

// Brings duals to a problem's sign, whole for integers, around 0: only their differences matter. False when
// these are so large, beside the costs in `sample`, that rounding would swallow the costs.
inline bool centre_duals(double sign, bool whole, const std::vector<double>& sample,
                         std::vector<double>* duals) {
    constexpr double inf = std::numeric_limits<double>::infinity();
    constexpr double far =
        256.0;  // optimal duals are seldom further apart than a few times the range of the costs
    double lowest = inf, highest = -inf;
    for (const double c : sample)
        if (c < inf) lowest = std::min(lowest, c), highest = std::max(highest, c);
    std::vector<double> ordered = *duals;
    const auto middle = ordered.begin() + std::ssize(ordered) / 2;
    std::nth_element(ordered.begin(), middle, ordered.end());
    const double shift = *middle;
    for (double& x : *duals) {
        x = sign * (x - shift);
        if (whole) x = std::floor(x);
        if (!(std::abs(x) <= far * (highest - lowest))) return false;
    }
    return true;
}

}  // namespace rebasin_fast
