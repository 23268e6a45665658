#include "cuda/start_prices.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "lap/tight_matching.hpp"

namespace rebasin_fast::cuda {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

using Lines = std::vector<int>;

// The order in which rows and columns pair off; see MongeStart in lap/start_prices.hpp, whose steps these
// are.
class Monge {
  public:
    Monge(int n, bool whole, const Cells& cells) : n_(n), whole_(whole), cells_(cells) {}

    bool find(std::vector<double>* prices) {
        if (!plausible()) return false;
        for (Lines* lines : {&rows_, &cols_}) {
            lines->resize(static_cast<std::size_t>(n_));
            std::iota(lines->begin(), lines->end(), 0);
        }
        order_by_ends();
        const int first_row = rows_.front(), last_row = rows_.back();
        const int first_col = cols_.front(), last_col = cols_.back();
        const std::vector<double> corners =
            cells_.at({first_row, first_row, last_row, last_row}, {first_col, last_col, first_col, last_col});
        if (!std::isfinite(corners[0] - corners[1] - corners[2] + corners[3])) return false;
        std::reverse(cols_.begin(), cols_.end());  // sums of differences ascend: opposite ends pair off
        chain(prices);
        return holds(*prices);
    }

  private:
    static constexpr int kSample = 8;

    // Whether a few rows and columns can be ordered so that c_ij + c_i'j' - c_ij' - c_i'j >= 0 throughout.
    bool plausible() {
        if (n_ < 4 * kSample) return false;
        Lines at, rows, cols;
        for (int k = 0; k < kSample; ++k)
            at.push_back(static_cast<int>((2 * k + 1) * std::int64_t{n_} / (2 * kSample)));
        for (const int i : at)
            for (const int j : at) rows.push_back(i), cols.push_back(j);
        const std::vector<double> costs = cells_.at(rows, cols);
        const auto cost = [&](int i, int j) { return costs[static_cast<std::size_t>(kSample * i + j)]; };
        Lines i_order(kSample), j_order(kSample);
        std::iota(i_order.begin(), i_order.end(), 0);
        std::iota(j_order.begin(), j_order.end(), 0);
        for (int round = 0; round < 2; ++round) {
            const int j0 = j_order.front(), j1 = j_order.back();
            sort_by(&i_order, [&](int i) { return cost(i, j1) - cost(i, j0); });
            const int i0 = i_order.front(), i1 = i_order.back();
            sort_by(&j_order, [&](int j) { return cost(i1, j) - cost(i0, j); });
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
        for (int round = 0; round < 2; ++round) {
            order(&rows_, cols_.front(), cols_.back(), false);
            order(&cols_, rows_.front(), rows_.back(), true);
        }
    }

    void order(Lines* lines, int first, int last, bool columns) {
        Lines all(static_cast<std::size_t>(2 * n_)), ends(static_cast<std::size_t>(2 * n_), first);
        std::iota(all.begin(), all.begin() + n_, 0);
        std::iota(all.begin() + n_, all.end(), 0);
        std::fill(ends.begin() + n_, ends.end(), last);
        const std::vector<double> costs = columns ? cells_.at(ends, all) : cells_.at(all, ends);
        sort_by(lines, [&](int k) {
            return costs[static_cast<std::size_t>(n_ + k)] - costs[static_cast<std::size_t>(k)];
        });
    }

    template <class Difference>
    static void sort_by(Lines* lines, Difference difference) {
        std::vector<std::pair<double, int>> keyed;
        keyed.reserve(lines->size());
        for (const int line : *lines) {
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
        constexpr int samples = 32;
        constexpr double nearly = 0.01;  // of the way from a row's best to its middling columns
        int good = 0;
        for (int s = 0; s < samples; ++s) {
            const auto k = static_cast<std::size_t>(std::int64_t{s} * n_ / samples);
            std::vector<double> reduced = cells_.row(rows_[k]);
            for (std::size_t j = 0; j < reduced.size(); ++j) reduced[j] -= prices[j];
            const double own = reduced[static_cast<std::size_t>(cols_[k])];
            const auto middle = reduced.begin() + n_ / 2;
            std::nth_element(reduced.begin(), middle, reduced.end());
            const double best = *std::min_element(reduced.begin(), middle);
            good += own - best <= nearly * (*middle - best);
        }
        return 10 * good >= 9 * samples;
    }

    const int n_;
    const bool whole_;
    const Cells& cells_;
    Lines rows_, cols_;
};

// The distance between the quartiles.
double spread(std::vector<double> values) {
    const auto low = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 4);
    const auto high = values.begin() + static_cast<std::ptrdiff_t>(3 * values.size() / 4);
    std::nth_element(values.begin(), low, values.end());
    const double first = *low;
    std::nth_element(values.begin(), high, values.end());
    return *high - first;
}

}  // namespace

bool monge_prices(int n, bool whole, const Cells& cells, std::vector<double>* prices) {
    return Monge(n, whole, cells).find(prices);
}

std::vector<double> scattered_cells(int n, int m, const Cells& cells) {
    Lines rows, cols;
    for (std::int64_t k = 0; k < m; ++k) {
        rows.push_back(static_cast<int>(k % n));
        cols.push_back(static_cast<int>(k * 7919 % m));
    }
    return cells.at(rows, cols);
}

bool are_outlying(std::vector<double>* minima, std::vector<double> sample) {
    for (double& c : *minima)
        if (!(c < kInfinity)) c = 0.0;
    constexpr double outlying = 2.0;
    return spread(*minima) > outlying * spread(std::move(sample));
}

bool centre_duals(double sign, bool whole, const std::vector<double>& sample, std::vector<double>* duals) {
    constexpr double far =
        256.0;  // optimal duals are seldom further apart than a few times the range of the costs
    double lowest = kInfinity, highest = -kInfinity;
    for (const double c : sample)
        if (c < kInfinity) lowest = std::min(lowest, c), highest = std::max(highest, c);
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

std::int64_t match_tight(const std::vector<unsigned long long>& tight,
                         const std::vector<std::int32_t>& columns, std::int64_t listed, std::int64_t cols,
                         std::vector<std::int32_t>* col_of_row) {
    const std::int64_t rows = std::ssize(tight);
    TightMatching graph(rows, cols);
    for (std::int64_t i = 0; i < rows; ++i)
        for (unsigned long long left = tight[static_cast<std::size_t>(i)]; left != 0; left &= left - 1)
            graph.add(i, columns[static_cast<std::size_t>(i * listed + std::countr_zero(left))]);
    col_of_row->assign(static_cast<std::size_t>(rows), -1);
    std::int64_t matched = 0;
    graph.solve([&](std::int32_t i, std::int32_t j) {
        (*col_of_row)[static_cast<std::size_t>(i)] = j;
        ++matched;
    });
    return matched;
}

}  // namespace rebasin_fast::cuda
