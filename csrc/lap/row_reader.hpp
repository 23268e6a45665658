// Reading one row into a list: its cheapest columns at given prices, and a bound on all others.
//
// One pass over the row gives the minima of small groups of columns. The k-th smallest of these minima has at
// least k columns at or below it, so a threshold between two of them lets through about as many columns as
// wanted, and only groups whose minimum lies below it are looked at again, while they are still in cache. The
// pass is made in float where costs and prices nearly fit it; the bound is lowered by what that may round.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <type_traits>
#include <vector>

#include "lap/oriented.hpp"
#include "lap/simd/kernels.hpp"

namespace rebasin_fast {

// Column prices in float64 and, where rows are first looked at in float, once more in float; padded with
// -inf.
template <class T>
class Prices {
  public:
    using F = simd::Fast<T>;
    static constexpr bool kTwice = !std::is_same_v<F, double>;

    explicit Prices(std::vector<double>* v) : v_(*v), fast_(kTwice ? v->size() : 0) {
        for (std::size_t j = 0; j < fast_.size(); ++j) fast_[j] = static_cast<F>(v_[j]);
    }

    // Prices as they are elsewhere, to be read while they change there.
    void copy(const Prices& other) {
        v_ = other.v_;
        fast_ = other.fast_;
        largest_ = other.largest_;
        rounded_ = other.rounded_;
    }

    const std::vector<double>& v() const { return v_; }
    double operator[](std::int64_t j) const { return v_[j]; }

    void set(std::int64_t j, double x) {
        v_[j] = x;
        largest_ = std::max(largest_, std::abs(x));
        if constexpr (kTwice) {
            fast_[j] = static_cast<F>(x);
            rounded_ |= static_cast<double>(fast_[j]) != x;
        }
    }

    template <class Wanted>
    const Wanted* as() const {
        if constexpr (std::is_same_v<Wanted, double>)
            return v_.data();
        else
            return fast_.data();
    }

    double largest() const { return largest_; }  // magnitude so far

    // How far a value of c_ij - v_j near x, computed in F, may be from the float64 one.
    double rounding(double x) const {
        if constexpr (!kTwice) return 0.0;
        constexpr bool costs_rounded = !simd::kExactInFast<T>;
        constexpr double unit = costs_rounded ? 0x1p-22 : 0x1p-23;
        constexpr double least = std::numeric_limits<float>::denorm_min();
        constexpr double most = 1e37;  // so that sums do not overflow float
        if (largest_ > most) return kForbidden;
        return std::abs(x) * unit + (costs_rounded || rounded_ ? largest_ * unit + least : 0.0);
    }

  private:
    std::vector<double>& v_;
    std::vector<F> fast_;
    double largest_ = 0.0;
    bool rounded_ = false;
};

// What the list of one row tells of the next: rows of one matrix are often alike, in how far the bound lies
// above the best, or else in the bound itself, as where heavy tails put the best anywhere.
struct ListHint {
    double spread = 0.0;
    double bound = kForbidden;
};

// Reads rows for one thread.
template <class Source>
class RowReader {
  public:
    using T = typename Source::Element;

    RowReader(const Source& source, std::int64_t width)
        : rows_(source), source_(source), kernels_(simd::kernels<T>()) {
        constexpr std::int64_t deepest = 8, minima_per_entry = 4;
        depth_ = std::clamp<std::int64_t>(source.cols / (minima_per_entry * width), 1, deepest);
    }

    const T* row(std::int64_t i) { return rows_.row(i); }

    // Announces the rows that will be listed next, neighbours or not.
    void fetch(std::int64_t first, std::int64_t count, const Prices<T>&) {
        std::int64_t stride;
        rows_.rows(first, count, &stride);
    }
    void fetch(const std::int32_t*, std::int64_t, const Prices<T>&) {}

    // The row that will be listed after the next one, -1 if it is not known: it is read ahead.
    void announce(std::int64_t i) { next_ = i < 0 ? nullptr : rows_.row_in_memory(i); }

    // Finds between `room` / 4 and `room` of row i's cheapest columns; returns a bound on all others. `check`
    // looks for invalid entries on the way. Room for one means the best and what is hardly to be told from
    // it.
    double list(std::int64_t i, const Prices<T>& prices, std::int64_t room, const ListHint& hint,
                bool check) {
        row_ = rows_.row(i);
        if (next_ == nullptr)
            next_ = rows_.row_in_memory(i);  // a row by itself is fetched ahead all the same
        start_ = i * source_.cols / source_.rows;
        simd::Extremes* seen = check ? &seen_ : nullptr;
        if constexpr (Prices<T>::kTwice) {
            double bound = 0.0;
            if (list_as(fast_, kernels_.fast, prices, room, hint, seen, &bound)) return bound;
            seen = nullptr;
        }
        double bound = 0.0;
        list_as(exact_, kernels_.exact, prices, room, hint, seen, &bound);
        return bound;
    }

    std::int64_t found() const { return found_; }
    std::int32_t column(std::int64_t k) const { return columns_[static_cast<std::size_t>(k)]; }
    const ListHint& hint() const { return hint_; }  // for the next row

    // Writes what was found, filled up to `size` entries with column m.
    void copy(std::int32_t* columns, T* costs, std::int64_t size) const {
        for (std::int64_t k = 0; k < found_; ++k) {
            columns[k] = columns_[k];
            costs[k] = row_[columns_[k]];
        }
        for (std::int64_t k = found_; k < size; ++k) {
            columns[k] = static_cast<std::int32_t>(source_.cols);
            costs[k] = T{};
        }
    }

    void merge_seen(simd::Extremes* all) const {
        all->invalid |= seen_.invalid;
        all->largest_magnitude = std::max(all->largest_magnitude, seen_.largest_magnitude);
    }

  private:
    template <class F>
    struct Scratch {
        std::vector<F> minima, values;
    };

    // False when rounding in F is too coarse for this row.
    template <class F>
    bool list_as(Scratch<F>& scratch, const simd::ListKernels<T, F>& kernels, const Prices<T>& prices,
                 std::int64_t room, const ListHint& hint, simd::Extremes* seen, double* bound) {
        constexpr std::int64_t spill = 4;  // columns collected before the list is cut, as a multiple of it
        const std::int64_t n = source_.cols;
        const std::int64_t group = depth_ * simd::kGroupLanes;
        const std::int64_t minima = (n + group - 1) / group * simd::kGroupLanes;
        const auto capacity = static_cast<std::size_t>(filled_up(spill * room + group));
        if (scratch.minima.size() < static_cast<std::size_t>(minima))
            scratch.minima.resize(static_cast<std::size_t>(minima));
        if (scratch.values.size() < capacity) scratch.values.resize(capacity);
        if (columns_.size() < capacity) columns_.resize(capacity);
        const F* v = prices.template as<F>();
        const auto sign = static_cast<F>(source_.sign);
        const T* next_row = std::is_same_v<F, simd::Fast<T>> ? next_ : nullptr;
        kernels.group_minima(row_, sign, v, n, depth_, next_row, scratch.minima.data(), seen);
        const F least = kernels.least_of(scratch.minima.data(), minima);
        F threshold = choose(scratch, kernels, minima, least, room, hint);
        const auto too_coarse = [&] {
            const double gap = static_cast<double>(threshold) - static_cast<double>(least);
            constexpr double share = 0.125;
            return threshold < static_cast<F>(kForbidden) &&
                   prices.rounding(static_cast<double>(threshold)) > share * gap;
        };
        if constexpr (!std::is_same_v<F, double>)
            if (too_coarse()) return false;
        found_ = 0;
        for (std::int64_t next = 0;;) {
            next = kernels.collect_below(row_, sign, v, n, depth_, scratch.minima.data(), threshold, next,
                                         static_cast<std::int64_t>(capacity), next_row, columns_.data(),
                                         scratch.values.data(), &found_);
            if (next >= minima && found_ <= room) break;
            if (found_ > room) threshold = cut(kernels, scratch.values.data(), room, least, threshold);
            if (next >= minima) break;
        }
        if (4 * found_ < room && threshold < static_cast<F>(kForbidden))
            fill_with_equals(kernels, v, sign, threshold, room);
        if constexpr (!std::is_same_v<F, double>)
            if (too_coarse()) return false;
        *bound = static_cast<double>(threshold);
        hint_ = {*bound - static_cast<double>(least), *bound};
        if (threshold < static_cast<F>(kForbidden)) *bound -= error<F>(prices, threshold);
        // What multiples of a step are not below they are not below the next multiple either, and prices
        // stay multiples so.
        if constexpr (std::is_integral_v<T>)
            *bound = source_.price_step * std::ceil(*bound / source_.price_step);
        return true;
    }

    template <class F>
    static double error(const Prices<T>& prices, F threshold) {
        if constexpr (std::is_same_v<F, double>) return 0.0;
        return prices.rounding(static_cast<double>(threshold));
    }

    // A threshold that between half and seven eighths of `room` minima are below; where ties allow none, the
    // value that would be next.
    template <class F>
    F choose(Scratch<F>& scratch, const simd::ListKernels<T, F>& kernels, std::int64_t minima, F least,
             std::int64_t room, const ListHint& hint) {
        constexpr F inf = static_cast<F>(kForbidden);
        const std::int64_t few = (room + 1) / 2, many = std::max<std::int64_t>(few, 7 * room / 8);
        const F* values = scratch.minima.data();
        if (source_.cols <= room || least == inf) return inf;
        if (kernels.count_below(values, minima, std::nextafter(least, inf)) > many) return least;
        F low = least, high = inf;
        double below_low = 0.0, below_high = 0.0;
        const double aim = 0.5 * static_cast<double>(few + many);
        double step =
            hint.spread > 0.0 ? hint.spread : std::max(1e-3 * std::abs(static_cast<double>(least)), 1e-30);
        for (int attempt = 0; attempt < 16; ++attempt) {
            F at;
            if (attempt == 1 && low < hint.bound && hint.bound < high) {
                at = static_cast<F>(hint.bound);
            } else if (high < inf) {
                const double share = (aim - below_low) / (below_high - below_low);
                at = static_cast<F>(low + (high - low) * std::clamp(share, 0.05, 0.95));
                if (!(low < at && at < high)) break;
            } else {
                at = static_cast<F>(std::min(static_cast<double>(least) + step,
                                             static_cast<double>(std::numeric_limits<F>::max())));
            }
            const std::int64_t count = kernels.count_below(values, minima, at);
            if (few <= count && count <= many) return at;
            if (count > many) {
                high = at;
                below_high = static_cast<double>(count);
            } else {
                if (at == std::numeric_limits<F>::max()) return inf;
                low = at;
                below_low = static_cast<double>(count);
                step *= count > 0 ? std::clamp(1.1 * aim / below_low, 1.2, 16.0) : 16.0;
            }
        }
        order_values_.assign(values, values + minima);
        const auto nth = order_values_.begin() + std::min<std::int64_t>(few, minima - 1);
        std::nth_element(order_values_.begin(), nth, order_values_.end());
        return static_cast<F>(*nth);
    }

    // Columns are preferred from the row's own place on, so that rows full of ties do not all list the same.
    std::int64_t distance(std::int32_t j) const {
        return j >= start_ ? j - start_ : j - start_ + source_.cols;
    }

    // Keeps at most `room` of what was found, all of it in [least, threshold), the cheapest; returns a
    // threshold that nothing left out is below.
    template <class F>
    F cut(const simd::ListKernels<T, F>& kernels, F* values, std::int64_t room, F least, F threshold) {
        std::fill_n(values + found_, filled_up(found_) - found_, threshold);
        const std::int64_t few = 3 * room / 4;
        const double aim = 0.5 * static_cast<double>(few + room);
        F low = least, high = threshold;
        double below_low = 0.0, below_high = static_cast<double>(found_);
        for (int attempt = 0; attempt < 8; ++attempt) {
            const double share = (aim - below_low) / (below_high - below_low);
            const F at = static_cast<F>(low + (high - low) * std::clamp(share, 0.05, 0.95));
            if (!(low < at && at < high)) break;
            const std::int64_t count = kernels.count_below(values, filled_up(found_), at);
            if (few <= count && count <= room) return keep_below(values, at);
            (count > room ? high : low) = at;
            (count > room ? below_high : below_low) = static_cast<double>(count);
        }
        return cut_among_ties(values, room);
    }

    template <class F>
    F keep_below(F* values, F threshold) {
        std::int64_t kept = 0;
        for (std::int64_t k = 0; k < found_; ++k) {
            const F value = values[k];
            columns_[kept] = columns_[k];
            values[kept] = value;
            kept += value < threshold ? 1 : 0;
        }
        found_ = kept;
        return threshold;
    }

    // The `room` cheapest, exactly.
    template <class F>
    F cut_among_ties(F* values, std::int64_t room) {
        order_.resize(static_cast<std::size_t>(found_));
        std::iota(order_.begin(), order_.end(), 0);
        std::nth_element(order_.begin(), order_.begin() + room, order_.end(),
                         [&](std::int32_t a, std::int32_t b) {
                             return values[a] != values[b] ? values[a] < values[b]
                                                           : distance(columns_[a]) < distance(columns_[b]);
                         });
        const F threshold = values[order_[room]];
        std::sort(order_.begin(), order_.begin() + room);
        for (std::int64_t k = 0; k < room; ++k) {  // ascending: nothing still to be read is overwritten
            columns_[k] = columns_[order_[k]];
            values[k] = values[order_[k]];
        }
        found_ = room;
        return threshold;
    }

    static std::int64_t filled_up(std::int64_t size) {
        return (size + simd::kGroupLanes - 1) / simd::kGroupLanes * simd::kGroupLanes;
    }

    template <class F>
    void fill_with_equals(const simd::ListKernels<T, F>& kernels, const F* v, F sign, F value,
                          std::int64_t room) {
        const std::int64_t n = source_.cols;
        found_ += kernels.collect_equal(row_, sign, v, n, value, start_, n, room - found_,
                                        columns_.data() + found_);
        found_ += kernels.collect_equal(row_, sign, v, n, value, 0, start_, room - found_,
                                        columns_.data() + found_);
    }

    typename Source::Reader rows_;
    const Source& source_;
    const simd::Kernels<T>& kernels_;
    std::int64_t depth_;
    const T* row_ = nullptr;
    const T* next_ = nullptr;
    std::int64_t start_ = 0;
    std::int64_t found_ = 0;
    ListHint hint_;
    simd::Extremes seen_{};
    Scratch<simd::Fast<T>> fast_;
    Scratch<double> exact_;
    std::vector<std::int32_t> columns_, order_;
    std::vector<double> order_values_;
};

}  // namespace rebasin_fast
