// What decides whether prices to begin with are worth having.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

namespace rebasin_fast {

// The upper one of two.
inline double median(std::vector<double> values) {
    const auto middle = values.begin() + std::ssize(values) / 2;
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

// The distance between the quartiles.
inline double spread(std::vector<double> values) {
    const auto low = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 4);
    const auto high = values.begin() + static_cast<std::ptrdiff_t>(3 * values.size() / 4);
    std::nth_element(values.begin(), low, values.end());
    const double first = *low;
    std::nth_element(values.begin(), high, values.end());
    return *high - first;
}

// A few cells of an (n, m) matrix: the k-th is in row k % n and column k * 7919 % m, so that m of them are
// one of every column, scattered over the rows.
inline std::int64_t scattered_row(std::int64_t k, std::int64_t n) {
    return k % n;
}
inline std::int64_t scattered_column(std::int64_t k, std::int64_t m) {
    return k * 7919 % m;
}

// What column minima are as prices to begin with.
enum class Minima {
    noise,   // they say nothing about the columns, and prices of 0 are far better
    useful,  // no worse than others
    spread   // as noise, unless nearly every row holds one of them, as where a permutation is planted
};

// How far costs follow the minima of their columns: 1 where these are the levels of whole columns, 0 where
// they tell nothing of any other cost. `costs` has one of every column whose minimum is in `minima`, in the
// same order: the medians of those in the columns with the lower and the higher minima are compared.
inline double followed(const std::vector<double>& minima, const std::vector<double>& costs) {
    std::vector<std::size_t> order(minima.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    const auto middle = order.begin() + std::ssize(order) / 2;
    std::nth_element(order.begin(), middle, order.end(), [&](std::size_t a, std::size_t b) {
        return minima[a] != minima[b] ? minima[a] < minima[b] : a < b;
    });
    const auto typical = [&](auto first, auto last) {
        std::vector<double> part;
        for (auto at = first; at != last; ++at) part.push_back(costs[*at]);
        return median(std::move(part));
    };
    return (typical(middle, order.end()) - typical(order.begin(), middle)) / spread(minima);
}

// Of minima that are spread out.
inline constexpr double kFollowed = 0.5;

// Column minima are noise where they are outliers, for tails are heavy; mostly, too, where they are spread
// out and other costs do not follow them. `sample` is one cell of every column, scattered.
inline Minima look_at(const std::vector<double>& minima, const std::vector<double>& sample) {
    constexpr double outlying = 2.0, apart = 0.2;
    const std::int64_t m = std::ssize(minima);
    const double of_minima = spread(minima), of_costs = spread(sample);
    if (of_minima > outlying * of_costs) return Minima::noise;
    if (!(of_minima > apart * of_costs)) return Minima::useful;
    std::vector<double> of_same(sample.size());
    for (std::int64_t k = 0; k < m; ++k) of_same[k] = minima[scattered_column(k, m)];
    return followed(of_same, sample) < kFollowed ? Minima::spread : Minima::useful;
}

// So many rows of a sample tell whether nearly every row holds a column minimum.
inline constexpr std::int64_t kRowsAsked = 64;
inline bool nearly_all_hold(std::int64_t rows) {
    return 10 * rows >= 9 * kRowsAsked;
}

// For tail_is_heavy(): cells (k * 7907 % n, k * 7919 % m), k < kTailSamples.
inline constexpr std::int64_t kTailSamples = 4096;

// Whether the cheapest hundredth of the costs, in a sample, lies far below all others. Zero prices and a few
// bids a row then give nearly every row its column: neither column minima are needed nor is any other start,
// not even a neighbouring problem's optimal prices, corrected as quickly.
inline bool tail_is_heavy(std::vector<double> costs) {
    constexpr double far = 8.0;
    for (const double cost : costs)
        if (!std::isfinite(cost)) return false;
    auto end = costs.end();
    const auto lowest = [&](std::size_t part) {  // the parts asked for grow smaller
        const auto at = costs.begin() + static_cast<std::ptrdiff_t>(costs.size() / part);
        std::nth_element(costs.begin(), at, end);
        end = at;
        return *at;
    };
    const double middle = lowest(2), quarter = middle - lowest(4);
    return quarter > 0.0 && middle - lowest(100) > far * quarter;
}

// Rows that bids from prices of zero leave free, of those there are: so few that more bids settle nearly all.
inline constexpr double kLittleCompetition = 0.15;

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
    const double shift = median(*duals);
    for (double& x : *duals) {
        x = sign * (x - shift);
        if (whole) x = std::floor(x);
        if (!(std::abs(x) <= far * (highest - lowest))) return false;
    }
    return true;
}

}  // namespace rebasin_fast
