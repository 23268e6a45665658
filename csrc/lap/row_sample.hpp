// A few rows, which tell much of all: above all whether the pass that finds column minima can be spared.
//
// Column minima are prices to begin with. Prices of 0 are as good where columns are all alike, and cost
// nothing. That they are not alike shows in the cheapest columns of a few rows, which are the same ones then,
// or in columns that are dear to all of these rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "lap/price_checks.hpp"
#include "lap/row_reader.hpp"
#include "lap/simd/kernels.hpp"

namespace rebasin_fast {

template <class Source>
class RowSample {
  public:
    using T = typename Source::Element;

    RowSample(const Source& source, bool maximize)
        : cols_(source.cols),
          zero_(static_cast<std::size_t>(simd::padded(source.cols)), 0.0),
          listed_(zero_.size(), false) {
        std::fill(zero_.begin() + cols_, zero_.end(), -kForbidden);
        const Prices<T> prices(&zero_);
        RowReader<Source> reader(source, kEntries);
        const auto& kernels = simd::kernels<T>();
        for (std::int64_t k = 0; k < kSamples; ++k) {
            const std::int64_t i = k * source.rows / kSamples;
            const T* row = reader.row(i);
            if (best_.empty()) best_.assign(row, row + cols_);
            kernels.column_best(row, 0, 1, maximize, best_.data(), cols_, &seen_);
            for (std::int64_t c = k; c < kCosts; c += kSamples)
                costs_[static_cast<std::size_t>(c)] = cost(source, row[c * cols_ / kCosts]);
            if (k % (kSamples / kLeads) == 0) {
                const simd::TwoSmallest two = kernels.reduced_min2(row, source.sign, zero_.data(), cols_);
                leads_.push_back(two.second - two.first);
            }
            reader.announce(k + 1 < kSamples ? (k + 1) * source.rows / kSamples : -1);
            reader.list(i, prices, kEntries, hint_, false);
            hint_ = reader.hint();
            take(reader);
        }
        minima_.resize(best_.size());
        for (std::size_t j = 0; j < best_.size(); ++j) minima_[j] = cost(source, best_[j]);
    }

    bool is_finite() const { return !seen_.invalid && !seen_.forbidden; }

    // Whether column minima only follow the noise (as column_minima() would find of all rows, by its rule).
    // Not where rows have a best column far better than any other: where a permutation is planted, minima
    // decide.
    bool minima_are_noise() const {
        constexpr double apart = 0.3, planted = 0.5;
        std::vector<double> minima(kCosts);
        for (std::int64_t c = 0; c < kCosts; ++c)
            minima[c] = minima_[static_cast<std::size_t>(c * cols_ / kCosts)];
        const double of_costs = spread(costs_);
        return spread(minima) > apart * of_costs && followed(minima, costs_) < kFollowed &&
               median(leads_) < planted * of_costs;
    }

    // Whether most rows have more than one best column.
    bool is_tied() const { return median(leads_) == 0.0; }

    // Whether rows have the same cheapest columns, more often than by chance.
    bool rows_agree() const {
        constexpr double factor = 1.25, deviations = 2.0;
        const auto all = static_cast<double>(entries_), m = static_cast<double>(cols_);
        const double by_chance = all - m * -std::expm1(-all / m);
        return static_cast<double>(again_) > factor * by_chance + deviations * std::sqrt(by_chance);
    }

    // Whether there are columns that all these rows find dear.
    bool some_are_dear() const { return *std::max_element(minima_.begin(), minima_.end()) > median(costs_); }

  private:
    static constexpr std::int64_t kSamples = 64, kLeads = 16, kCosts = 1024, kEntries = 16;

    static double cost(const Source& source, T element) { return source.sign * static_cast<double>(element); }

    void take(const RowReader<Source>& reader) {
        entries_ += reader.found();
        for (std::int64_t k = 0; k < reader.found(); ++k) {
            const auto j = static_cast<std::size_t>(reader.column(k));
            again_ += listed_[j] ? 1 : 0;
            listed_[j] = true;
        }
    }

    const std::int64_t cols_;
    std::vector<double> zero_;
    std::vector<bool> listed_;
    std::int64_t entries_ = 0, again_ = 0;  // of their lists; such as were in another
    simd::Extremes seen_{};
    std::vector<T> best_;
    std::vector<double> minima_, leads_, costs_ = std::vector<double>(kCosts);
    ListHint hint_;
};

// Whether column minima are worth a pass. Where the matrix is small it costs too little to ask.
template <class Source>
bool minima_are_wanted(const Source& source, bool maximize) {
    constexpr std::int64_t few = 2048;
    if (source.rows < few) return true;
    const RowSample<Source> sample(source, maximize);
    if (!sample.is_finite()) return true;
    return (sample.is_tied() || sample.rows_agree() || sample.some_are_dear()) && !sample.minima_are_noise();
}

}  // namespace rebasin_fast
