// Reading rows of inner products into lists: columns are found by sums in the elements' own type, and what is
// listed is then computed exactly.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "lap/factored_rows.hpp"
#include "lap/row_reader.hpp"

namespace rebasin_fast {

// A source of which only one row is at hand: the one somebody has put there.
template <class T>
struct RowAtHand {
    using Element = T;

    const std::int64_t rows, cols;
    const double sign;
    const T* row = nullptr;

    struct Reader {
        explicit Reader(const RowAtHand& from) : source(from) {}
        const T* row(std::int64_t) const { return source.row; }
        const T* row_in_memory(std::int64_t) const { return nullptr; }
        const RowAtHand& source;
    };
};

template <class F>
class RowReader<FactoredRows<F>> {
  public:
    using Source = FactoredRows<F>;

    RowReader(const Source& source, std::int64_t width)
        : source_(source),
          quick_panel_(source),
          exact_panel_(source),
          quick_row_{source.rows, source.cols, source.sign},
          exact_row_{source.rows, source.cols, source.sign},
          quick_(quick_row_, width),
          exact_(exact_row_, width),
          copied_(simd::padded(source.cols), -kForbidden),
          quick_prices_(&copied_) {}

    const double* row(std::int64_t i) { return exact_panel_.row(i); }

    void fetch(std::int64_t first, std::int64_t count, const Prices<double>& prices) {
        wanted_.resize(static_cast<std::size_t>(count));
        std::iota(wanted_.begin(), wanted_.end(), static_cast<std::int32_t>(first));
        fetch(wanted_.data(), count, prices);
    }

    void announce(std::int64_t) {}

    // Must come before list(), with the same prices.
    void fetch(const std::int32_t* rows, std::int64_t count, const Prices<double>& prices) {
        for (std::int64_t j = 0; j < source_.cols; ++j)
            if (copied_[j] != prices[j]) quick_prices_.set(j, prices[j]);
        if (!all_at_hand(quick_panel_, rows, count)) quick_panel_.compute(rows, count);
        // Where the last row was too much for sums in F, others will be, and are cheaper computed together.
        if (too_coarse_ && !all_at_hand(exact_panel_, rows, count)) exact_panel_.compute(rows, count);
    }

    // As for rows in memory.
    double list(std::int64_t i, const Prices<double>& prices, std::int64_t room, const ListHint& hint,
                bool check) {
        row_ = i;
        const double error = source_.error(i);
        quick_row_.row = quick_panel_.row(i);
        const double bound = quick_.list(i, quick_prices_, room, hint, check);
        too_coarse_ = !(error <= kShare * quick_.hint().spread);
        if (!too_coarse_) return lowered(bound, error);
        exact_row_.row = exact_panel_.row(i);
        return exact_.list(i, prices, room, hint, check);
    }

    std::int64_t found() const { return too_coarse_ ? exact_.found() : quick_.found(); }
    const ListHint& hint() const { return too_coarse_ ? exact_.hint() : quick_.hint(); }

    // Writes what was found, filled up to `size` entries with column m.
    void copy(std::int32_t* columns, double* costs, std::int64_t size) {
        if (too_coarse_) return exact_.copy(columns, costs, size);
        if (quick_costs_.size() < static_cast<std::size_t>(size))
            quick_costs_.resize(static_cast<std::size_t>(size));
        quick_.copy(columns, quick_costs_.data(), size);
        source_.listed(row_, columns, found(), costs);
        std::fill(costs + found(), costs + size, 0.0);
    }

    // Factors are checked before any row is read.
    void merge_seen(simd::Extremes*) const {}

  private:
    static constexpr double kShare = 0.125;  // of the way from a row's best to its bound, lost to rounding

    template <class Panel>
    static bool all_at_hand(const Panel& panel, const std::int32_t* rows, std::int64_t count) {
        return std::all_of(rows, rows + count, [&](std::int32_t i) { return panel.find(i) != nullptr; });
    }

    // What c_ij - v_j in float64 cannot be below when the same of the quick sums is not below `bound`.
    static double lowered(double bound, double error) {
        constexpr double rounding = 0x1p-50;
        if (error == 0.0 || bound == kForbidden) return bound;
        return bound - (error + rounding * (std::abs(bound) + error));
    }

    const Source& source_;
    typename Source::template Panel<F> quick_panel_;
    typename Source::template Panel<double> exact_panel_;
    RowAtHand<F> quick_row_;
    RowAtHand<double> exact_row_;
    RowReader<RowAtHand<F>> quick_;
    RowReader<RowAtHand<double>> exact_;
    std::vector<double> copied_;  // the prices, as quick_prices_ holds them
    Prices<F> quick_prices_;
    std::vector<std::int32_t> wanted_;
    std::vector<F> quick_costs_;
    std::int64_t row_ = 0;
    bool too_coarse_ = false;  // sums in F, for the row listed last
};

}  // namespace rebasin_fast
