// Prices of Monge and rank-one costs (c_ij = x_i y_j, (x_i - y_j)^2, |x_i - y_j| and their like), where every
// shortest augmenting path is long and lists are of no use, but where rows and columns have an order in which
// the optimum pairs them off, and neighbours in that order alone determine the prices. Nothing is trusted:
// the prices are used if a sample of rows finds its own partner best.
//
// Costs come from `Cells`: at(rows, cols) are those of cells (rows[k], cols[k]), row(i) those of a whole row.
// They are asked for many at a time, for they may have to come from a device.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

namespace rebasin_fast {

template <class Cells>
class MongeStart {
  public:
    // Of n rows and columns; `whole`: prices are to be integers.
    MongeStart(std::int64_t n, bool whole, const Cells& cells) : n_(n), whole_(whole), cells_(cells) {}

    // True when `prices` (n,) were found.
    bool find(std::vector<double>* prices) {
        if (!plausible()) return false;
        for (Lines* lines : {&rows_, &cols_}) {
            lines->resize(static_cast<std::size_t>(n_));
            std::iota(lines->begin(), lines->end(), 0);
        }
        order_by_ends();
        const std::int32_t first_row = rows_.front(), last_row = rows_.back();
        const std::int32_t first_col = cols_.front(), last_col = cols_.back();
        const std::vector<double> corners =
            cells_.at({first_row, first_row, last_row, last_row}, {first_col, last_col, first_col, last_col});
        if (!std::isfinite(corners[0] - corners[1] - corners[2] + corners[3])) return false;
        std::reverse(cols_.begin(), cols_.end());  // sums of differences ascend: opposite ends pair off
        chain(prices);
        return holds(*prices);
    }

  private:
    using Lines = std::vector<std::int32_t>;

    static constexpr std::int32_t kSample = 8;

    // Whether a few rows and columns can be ordered so that c_ij + c_i'j' - c_ij' - c_i'j >= 0 throughout.
    bool plausible() {
        if (n_ < 4 * kSample) return false;
        Lines at, rows, cols;
        for (std::int32_t k = 0; k < kSample; ++k)
            at.push_back(static_cast<std::int32_t>((2 * k + 1) * n_ / (2 * kSample)));
        for (const std::int32_t i : at)
            for (const std::int32_t j : at) rows.push_back(i), cols.push_back(j);
        const std::vector<double> costs = cells_.at(rows, cols);
        const auto cost = [&](std::int32_t i, std::int32_t j) {
            return costs[static_cast<std::size_t>(kSample * i + j)];
        };
        Lines i_order(kSample), j_order(kSample);
        std::iota(i_order.begin(), i_order.end(), 0);
        std::iota(j_order.begin(), j_order.end(), 0);
        for (std::int32_t round = 0; round < 2; ++round) {
            const std::int32_t j0 = j_order.front(), j1 = j_order.back();
            sort_by(&i_order, [&](std::int32_t i) { return cost(i, j1) - cost(i, j0); });
            const std::int32_t i0 = i_order.front(), i1 = i_order.back();
            sort_by(&j_order, [&](std::int32_t j) { return cost(i1, j) - cost(i0, j); });
        }
        double least = 0.0, most = 0.0;
        for (std::size_t a = 0; a + 1 < kSample; ++a)
            for (std::size_t b = 0; b + 1 < kSample; ++b) {
                const double d = cost(i_order[a], j_order[b]) + cost(i_order[a + 1], j_order[b + 1]) -
                                 cost(i_order[a], j_order[b + 1]) - cost(i_order[a + 1], j_order[b]);
                if (!std::isfinite(d)) return false;
                least = std::min(least, d);
                most = std::max(most, d);
            }
        constexpr double rounding = 1e-3;
        return most > 0.0 && -least <= rounding * most;
    }

    // Rows by how they differ between the outermost columns, and the other way round.
    void order_by_ends() {
        for (std::int32_t round = 0; round < 2; ++round) {
            order(&rows_, cols_.front(), cols_.back(), false);
            order(&cols_, rows_.front(), rows_.back(), true);
        }
    }

    void order(Lines* lines, std::int32_t first, std::int32_t last, bool columns) {
        Lines all(static_cast<std::size_t>(2 * n_)), ends(static_cast<std::size_t>(2 * n_), first);
        std::iota(all.begin(), all.begin() + n_, 0);
        std::iota(all.begin() + n_, all.end(), 0);
        std::fill(ends.begin() + n_, ends.end(), last);
        const std::vector<double> costs = columns ? cells_.at(ends, all) : cells_.at(all, ends);
        sort_by(lines, [&](std::int32_t k) {
            return costs[static_cast<std::size_t>(n_ + k)] - costs[static_cast<std::size_t>(k)];
        });
    }

    template <class Difference>
    static void sort_by(Lines* lines, Difference difference) {
        std::vector<std::pair<double, std::int32_t>> keyed;
        keyed.reserve(lines->size());
        for (const std::int32_t line : *lines) {
            const double key = difference(line);
            keyed.push_back({std::isfinite(key) ? key : 0.0, line});
        }
        std::sort(keyed.begin(), keyed.end());
        for (std::size_t k = 0; k < keyed.size(); ++k) (*lines)[k] = keyed[k].second;
    }

    // Between what the next row and what this row demand of the difference of two neighbours' prices,
    // halfway.
    void chain(std::vector<double>* prices) const {
        Lines rows, cols;
        for (std::size_t k = 0; k + 1 < rows_.size(); ++k)
            for (const auto& [i, j] : {std::pair{k + 1, k + 1}, {k + 1, k}, {k, k + 1}, {k, k}})
                rows.push_back(rows_[i]), cols.push_back(cols_[j]);
        const std::vector<double> costs = cells_.at(rows, cols);
        prices->assign(static_cast<std::size_t>(n_), 0.0);
        double price = 0.0;
        for (std::size_t k = 0; 4 * k < costs.size(); ++k) {
            const double low = costs[4 * k] - costs[4 * k + 1], high = costs[4 * k + 2] - costs[4 * k + 3];
            const double half = (high - low) / 2.0;
            price += low + (whole_ ? std::floor(half) : half);
            (*prices)[static_cast<std::size_t>(cols_[k + 1])] = price;
        }
    }

    // Nothing is trusted: whether nearly every row of a sample finds its own partner as good as the best.
    bool holds(const std::vector<double>& prices) const {
        constexpr std::int32_t samples = 32;
        constexpr double nearly = 0.01;  // of the way from a row's best to its middling columns
        std::int32_t good = 0;
        for (std::int32_t s = 0; s < samples; ++s) {
            const auto k = static_cast<std::size_t>(std::int64_t{s} * n_ / samples);
            std::vector<double> reduced = cells_.row(rows_[k]);
            for (std::size_t j = 0; j < reduced.size(); ++j) {
                reduced[j] -= prices[j];
                if (std::isnan(reduced[j])) return false;  // entries may not have been checked yet
            }
            const double own = reduced[static_cast<std::size_t>(cols_[k])];
            const auto middle = reduced.begin() + n_ / 2;
            std::nth_element(reduced.begin(), middle, reduced.end());
            const double best = *std::min_element(reduced.begin(), middle);
            good += own - best <= nearly * (*middle - best);
        }
        return 10 * good >= 9 * samples;
    }

    const std::int64_t n_;
    const bool whole_;
    const Cells& cells_;
    Lines rows_, cols_;
};

}  // namespace rebasin_fast
