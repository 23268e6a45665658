// Column prices to begin with, for square problems: any prices will do, good ones spare work.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <type_traits>
#include <vector>

#include "lap/list_state.hpp"

namespace rebasin_fast {

// Prices of Monge and rank-one costs (c_ij = x_i y_j, (x_i - y_j)^2, |x_i - y_j| and their like), where every
// shortest augmenting path is long and lists are of no use, but where rows and columns have an order in which
// the optimum pairs them off, and neighbours in that order alone determine the prices. Nothing is trusted:
// the prices are used if a sample of rows finds its own partner best.
template <class Source>
class MongeStart {
  public:
    explicit MongeStart(const Source& source) : source_(source), n_(source.rows) {}

    // True when `prices` (n,) were found.
    bool find(std::vector<double>* prices) {
        if (!plausible()) return false;
        order();
        const double difference = cost(0, 0) - cost(0, n_ - 1) - cost(n_ - 1, 0) + cost(n_ - 1, n_ - 1);
        if (!std::isfinite(difference)) return false;
        std::reverse(cols_.begin(),
                     cols_.end());  // sums of differences ascend: opposite ends belong together
        chain(prices);
        return holds(*prices);
    }

  private:
    double cost(std::int64_t i, std::int64_t j) const { return source_.at(rows_[i], cols_[j]); }

    // Whether a few rows and columns can be ordered so that c_ij + c_i'j' - c_ij' - c_i'j >= 0 throughout.
    bool plausible() {
        constexpr std::int64_t sample = 8;
        if (n_ < 4 * sample) return false;
        for (std::int64_t k = 0; k < sample; ++k) {
            rows_.push_back(static_cast<std::int32_t>((2 * k + 1) * n_ / (2 * sample)));
            cols_.push_back(static_cast<std::int32_t>((2 * k + 1) * n_ / (2 * sample)));
        }
        order_by_ends();
        double least = 0.0, most = 0.0;
        for (std::int64_t a = 0; a + 1 < sample; ++a)
            for (std::int64_t b = 0; b + 1 < sample; ++b) {
                const double d = cost(a, b) + cost(a + 1, b + 1) - cost(a, b + 1) - cost(a + 1, b);
                if (!std::isfinite(d)) return false;
                least = std::min(least, d);
                most = std::max(most, d);
            }
        constexpr double rounding = 1e-3;
        return most > 0.0 && -least <= rounding * most;
    }

    void order() {
        rows_.resize(static_cast<std::size_t>(n_));
        cols_.resize(static_cast<std::size_t>(n_));
        std::iota(rows_.begin(), rows_.end(), 0);
        std::iota(cols_.begin(), cols_.end(), 0);
        order_by_ends();
    }

    // Rows by how they differ between two columns, columns by how they differ between the outermost rows;
    // once more with the outermost columns, for any two may lie so close together that they tell little.
    void order_by_ends() {
        for (int round = 0; round < 2; ++round) {
            sort_by_difference(&rows_, cols_.front(), cols_.back(),
                               [&](std::int32_t i, std::int32_t j) { return source_.at(i, j); });
            sort_by_difference(&cols_, rows_.front(), rows_.back(),
                               [&](std::int32_t j, std::int32_t i) { return source_.at(i, j); });
        }
    }

    template <class Cost>
    void sort_by_difference(std::vector<std::int32_t>* lines, std::int32_t first, std::int32_t last,
                            Cost at) {
        std::vector<std::pair<double, std::int32_t>> keyed;
        keyed.reserve(lines->size());
        for (const std::int32_t line : *lines) {
            const double key = at(line, last) - at(line, first);
            keyed.push_back({std::isfinite(key) ? key : 0.0, line});
        }
        std::sort(keyed.begin(), keyed.end());
        for (std::size_t k = 0; k < keyed.size(); ++k) (*lines)[k] = keyed[k].second;
    }

    // Between what the next row and what this row demand of the difference of two neighbours' prices,
    // halfway.
    void chain(std::vector<double>* prices) const {
        prices->assign(static_cast<std::size_t>(n_), 0.0);
        double price = 0.0;
        for (std::int64_t k = 0; k + 1 < n_; ++k) {
            const double low = cost(k + 1, k + 1) - cost(k + 1, k), high = cost(k, k + 1) - cost(k, k);
            const double half = (high - low) / 2.0;
            price += low + (std::is_integral_v<typename Source::Element> ? std::floor(half) : half);
            (*prices)[cols_[k + 1]] = price;
        }
    }

    bool holds(const std::vector<double>& prices) const {
        constexpr std::int64_t samples = 32;
        constexpr double nearly = 0.01;  // of the way from a row's best to its middling columns
        std::int64_t good = 0;
        std::vector<double> reduced(static_cast<std::size_t>(n_));
        for (std::int64_t s = 0; s < samples; ++s) {
            const std::int64_t k = s * n_ / samples;
            for (std::int64_t j = 0; j < n_; ++j) reduced[j] = source_.at(rows_[k], j) - prices[j];
            const double own = reduced[cols_[k]];
            const auto middle = reduced.begin() + n_ / 2;
            std::nth_element(reduced.begin(), middle, reduced.end());
            const double best = *std::min_element(reduced.begin(), middle);
            good += own - best <= nearly * (*middle - best);
        }
        return 10 * good >= 9 * samples;
    }

    const Source& source_;
    const std::int64_t n_;
    std::vector<std::int32_t> rows_, cols_;
};

// Every column as cheap as its cheapest row; a column that is forbidden throughout gets price 0. False where
// prices of 0 are far better, for the minima are outliers that say nothing about the columns: they are spread
// out, and the costs no less once they are taken off. `known` to matter are those that nearly every row holds
// one of, as where a permutation is planted: unless tails are heavy.
template <class Source>
bool column_minima(const Source& source, const std::vector<typename Source::Element>& column_best, bool known,
                   std::vector<double>* prices) {
    const std::int64_t m = source.cols;
    std::vector<double> sample(static_cast<std::size_t>(m)), reduced(static_cast<std::size_t>(m));
    prices->resize(static_cast<std::size_t>(m));
    for (std::int64_t j = 0; j < m; ++j) {
        const double c = source.sign * static_cast<double>(column_best[static_cast<std::size_t>(j)]);
        (*prices)[j] = c < kForbidden ? c : 0.0;
    }
    for (std::int64_t i = 0; i < m; ++i) {
        const std::int64_t j = i * 7919 % m;
        sample[i] = source.at(i, j);
        reduced[i] = sample[i] - (*prices)[j];
    }
    // The distance between the quartiles.
    const auto spread = [](std::vector<double> values) {
        const auto low = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 4);
        const auto high = values.begin() + static_cast<std::ptrdiff_t>(3 * values.size() / 4);
        std::nth_element(values.begin(), low, values.end());
        const double first = *low;
        std::nth_element(values.begin(), high, values.end());
        return *high - first;
    };
    constexpr double outlying = 2.0, apart = 0.2;
    const double of_minima = spread(*prices), of_costs = spread(std::move(sample));
    if (of_minima > outlying * of_costs) return false;
    return known || !(of_minima > apart * of_costs && spread(std::move(reduced)) > of_costs);
}

// The caller's duals, brought to this problem's sign, and whole numbers for integers. `of_rows`: they belong
// to the rows of a problem that was turned, and each column gets the highest price they allow. Only their
// differences matter; false when these are so large beside the costs that rounding would swallow the costs.
template <class Source>
bool given_prices(const Source& source, const double* duals, bool of_rows, std::vector<double>* prices) {
    constexpr bool whole = std::is_integral_v<typename Source::Element>;
    constexpr double far =
        256.0;  // optimal duals are seldom further apart than a few times the range of the costs
    const std::int64_t n = source.rows, m = source.cols;
    double lowest = kForbidden, highest = -kForbidden;
    for (std::int64_t k = 0; k < m; ++k) {
        const double c = source.at(k % n, k * 7919 % m);
        if (c < kForbidden) lowest = std::min(lowest, c), highest = std::max(highest, c);
    }
    std::vector<double> given(duals, duals + (of_rows ? n : m));
    std::vector<double> ordered = given;
    const auto middle = ordered.begin() + std::ssize(ordered) / 2;
    std::nth_element(ordered.begin(), middle, ordered.end());
    const double shift = *middle;
    for (double& x : given) {
        x = source.sign * (x - shift);
        if constexpr (whole) x = std::floor(x);
        if (!(std::abs(x) <= far * (highest - lowest))) return false;
    }
    if (!of_rows) {
        *prices = std::move(given);
        return true;
    }
    const std::int64_t width = simd::padded(m);
    std::vector<double> zero(static_cast<std::size_t>(width), 0.0),
        least(static_cast<std::size_t>(width), kForbidden);
    std::fill(zero.begin() + m, zero.end(), -kForbidden);
    std::vector<std::int32_t> unused(static_cast<std::size_t>(width));
    typename Source::Reader reader(source);
    const auto& kernels = simd::kernels<typename Source::Element>();
    for (std::int64_t i = 0; i < n; ++i)
        kernels.relax(reader.row(i), source.sign, given[i], zero.data(), 0, least.data(), unused.data(), m);
    prices->assign(least.begin(), least.begin() + m);
    for (double& v : *prices)
        if (v == kForbidden) v = 0.0;
    return true;
}

}  // namespace rebasin_fast
