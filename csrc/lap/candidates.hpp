// Per-row short lists of the cheapest columns, each with a proven bound on every column it leaves out.
//
// Column prices v only fall, so reduced costs c_ij - v_j only rise. Whatever was at or above the bound when
// the list was made therefore stays there for ever: as long as a decision needs nothing above the bound, the
// list is as good as the row. When it does not suffice, that one row is read again with today's prices.
// Rounding keeps this: float64 subtraction is monotone, so a lower price never gives a smaller computed
// reduced cost.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "lap/oriented.hpp"
#include "lap/simd/kernels.hpp"

namespace rebasin_fast {

template <class T>
class Candidates {
  public:
    // Room for `width` entries a row to begin with, a multiple of simd::kPadding.
    Candidates(const TypedView<T>& cost, bool maximize, std::int32_t width)
        : cost_(cost),
          sign_(maximize ? -1.0 : 1.0),
          kernels_(simd::kernels<T>()),
          width_(width),
          slots_(static_cast<std::size_t>(cost.rows)),
          columns_(static_cast<std::size_t>(cost.rows * width)),
          costs_(static_cast<std::size_t>(cost.rows * width)) {
        for (std::size_t i = 0; i < slots_.size(); ++i)
            slots_[i] = {static_cast<std::int64_t>(i) * width, 0, width, 0.0};
    }

    struct List {
        const std::int32_t* columns;  // ascending, filled up to a multiple of simd::kPadding with column m
        const T* costs;
        std::int32_t size;
        double bound;  // c_ij - v_j >= bound for every column not listed
    };

    List of(std::int32_t i) const {
        const Slot& slot = slots_[i];
        return {columns_.data() + slot.offset, costs_.data() + slot.offset, slot.size, slot.bound};
    }

    double reduced(const List& list, std::int32_t k, const std::vector<double>& v) const {
        return sign_ * static_cast<double>(list.costs[k]) - v[list.columns[k]];
    }

    // The two smallest reduced costs of row i's list at prices v; `index` is the place in the list.
    simd::TwoSmallest two_smallest(std::int32_t i, const std::vector<double>& v) const {
        const List list = of(i);
        return kernels_.listed_min2(list.columns, list.costs, sign_, v.data(), filled_up(list.size));
    }

    // Reads row i with prices v and lists its cheapest columns, between a quarter of the room for them and
    // all of it.
    void read(std::int32_t i, const std::vector<double>& v) {
        const std::int64_t room = std::min<std::int64_t>(slots_[i].capacity, cost_.cols);
        read_at_least(i, v, room, (room + 3) / 4);
    }

    // The same with room for twice as many; false when the memory set aside for that is used up.
    bool read_longer(std::int32_t i, const std::vector<double>& v) {
        Slot& slot = slots_[i];
        const std::int64_t capacity =
            filled_up(std::min<std::int64_t>(2 * std::int64_t{slot.capacity}, cost_.cols));
        if (static_cast<std::int64_t>(columns_.size()) + capacity > 2 * cost_.rows * width_) return false;
        slot.offset = static_cast<std::int64_t>(columns_.size());
        slot.capacity = static_cast<std::int32_t>(capacity);
        columns_.resize(columns_.size() + static_cast<std::size_t>(capacity));
        costs_.resize(columns_.size());
        // More than before, else the same bound could come up again.
        const std::int64_t room = std::min<std::int64_t>(capacity, cost_.cols);
        read_at_least(i, v, room, std::min<std::int64_t>(room, slot.size + 1));
        return true;
    }

    std::int64_t row_scans() const { return row_scans_; }

  private:
    struct Slot {
        std::int64_t offset;
        std::int32_t size;
        std::int32_t capacity;
        double bound;
    };

    double value(std::int64_t k, const std::vector<double>& v) const {
        return sign_ * static_cast<double>(found_costs_[k]) - v[found_columns_[k]];
    }

    void read_at_least(std::int32_t i, const std::vector<double>& v, std::int64_t room, std::int64_t least) {
        Slot& slot = slots_[i];
        slot.bound = collect(i, v, room, least);
        slot.size = static_cast<std::int32_t>(found_);
        std::int32_t* columns = columns_.data() + slot.offset;
        T* costs = costs_.data() + slot.offset;
        std::copy_n(found_columns_.data(), found_, columns);
        std::copy_n(found_costs_.data(), found_, costs);
        for (std::int64_t k = found_; k < filled_up(found_); ++k) {
            columns[k] = static_cast<std::int32_t>(cost_.cols);
            costs[k] = T{};
        }
        ++row_scans_;
    }

    static std::int64_t filled_up(std::int64_t size) {
        return (size + simd::kPadding - 1) / simd::kPadding * simd::kPadding;
    }

    // Fills found_* with the cheapest columns, `least` to `room` of them, and returns a bound on all others.
    double collect(std::int32_t i, const std::vector<double>& v, std::int64_t room, std::int64_t least) {
        const std::int64_t most = std::min<std::int64_t>(kSpill * room, cost_.cols);
        const std::int64_t aim = least <= room / 2 ? room / 2 : room;
        reserve(most);
        double threshold = kForbidden;
        if (cost_.cols > most) threshold = hint_trust_ > 0 ? hint_ : guess(i, v, aim);
        for (int attempt = 0; attempt < 5; ++attempt) {
            const auto picked = kernels_.select_below(cost_.row(i), sign_, v.data(), cost_.cols, threshold,
                                                      most, found_columns_.data(), found_costs_.data());
            found_ = std::min(picked.count, most);
            if (picked.count <= most && (picked.count >= least || threshold == kForbidden)) {
                learn(threshold, picked.count, aim);
                return trim(room, v, threshold);
            }
            if (attempt == 0) hint_trust_ -= 2;
            if (picked.count > most)
                threshold = tighter(picked.scanned, aim, v);
            else if (attempt < 3)
                threshold = guess(i, v, (attempt + 1) * aim);
            else
                break;
        }
        return collect_by_sorting(i, v, room);
    }

    // Rows of one matrix are often alike: the last row's threshold, nudged towards the number aimed at, saves
    // the next row its sample. After a miss samples are taken until the thresholds agree again.
    void learn(double threshold, std::int64_t count, std::int64_t aim) {
        if (threshold == kForbidden) return;
        hint_trust_ = std::min(hint_trust_ + 1, 4);
        const double nudge = std::clamp(static_cast<double>(aim) / static_cast<double>(count + 1), 0.8, 1.25);
        hint_ = threshold > 0.0 ? threshold * nudge : threshold;
    }

    // A threshold that about `below` columns should lie below, from a sample of the row.
    double guess(std::int32_t i, const std::vector<double>& v, std::int64_t below) {
        constexpr std::int64_t run = 8;
        const std::int64_t runs = std::max<std::int64_t>(48, cost_.cols / 160);
        const T* row = cost_.row(i);
        const std::int64_t step = cost_.cols / runs;
        sample_.clear();
        for (std::int64_t j0 = 0; j0 + run <= cost_.cols; j0 += step)
            for (std::int64_t j = j0; j < j0 + run; ++j)
                sample_.push_back(sign_ * static_cast<double>(row[j]) - v[j]);
        const auto rank = static_cast<std::int64_t>(sample_.size()) * below / cost_.cols;
        const auto nth =
            sample_.begin() + std::min<std::int64_t>(rank + 1, static_cast<std::int64_t>(sample_.size()) - 1);
        std::nth_element(sample_.begin(), nth, sample_.end());
        return *nth;
    }

    // Too many were found in the first `scanned` columns: the threshold by which they would have been right.
    double tighter(std::int64_t scanned, std::int64_t aim, const std::vector<double>& v) {
        sample_.resize(static_cast<std::size_t>(found_));
        for (std::int64_t k = 0; k < found_; ++k) sample_[k] = value(k, v);
        const std::int64_t rank = std::clamp<std::int64_t>(aim * scanned / cost_.cols, 1, found_ - 1);
        std::nth_element(sample_.begin(), sample_.begin() + rank, sample_.end());
        return sample_[rank];
    }

    // The sure way, for rows on which a sample misleads: many ties, or very uneven columns.
    double collect_by_sorting(std::int32_t i, const std::vector<double>& v, std::int64_t wanted) {
        const T* row = cost_.row(i);
        order_.resize(static_cast<std::size_t>(cost_.cols));
        sample_.resize(static_cast<std::size_t>(cost_.cols));
        for (std::int64_t j = 0; j < cost_.cols; ++j) sample_[j] = sign_ * static_cast<double>(row[j]) - v[j];
        std::iota(order_.begin(), order_.end(), 0);
        const auto by_value = [&](std::int32_t a, std::int32_t b) {
            return sample_[a] != sample_[b] ? sample_[a] < sample_[b] : a < b;
        };
        double threshold = kForbidden;
        if (wanted < cost_.cols) {
            std::nth_element(order_.begin(), order_.begin() + wanted, order_.end(), by_value);
            threshold = sample_[order_[wanted]];
        }
        std::sort(order_.begin(), order_.begin() + wanted);
        found_ = 0;
        for (std::int64_t k = 0; k < wanted; ++k)
            if (sample_[order_[k]] < kForbidden) {
                found_columns_[found_] = order_[k];
                found_costs_[found_++] = row[order_[k]];
            }
        return threshold;
    }

    // Keeps the `room` cheapest of what was found below `bound`; returns the bound on what is not kept.
    double trim(std::int64_t room, const std::vector<double>& v, double bound) {
        if (found_ <= room) return bound;
        order_.resize(static_cast<std::size_t>(found_));
        sample_.resize(static_cast<std::size_t>(found_));
        for (std::int64_t k = 0; k < found_; ++k) sample_[k] = value(k, v);
        std::iota(order_.begin(), order_.end(), 0);
        std::nth_element(order_.begin(), order_.begin() + room, order_.end(),
                         [&](std::int32_t a, std::int32_t b) {
                             return sample_[a] != sample_[b] ? sample_[a] < sample_[b] : a < b;
                         });
        bound = sample_[order_[room]];
        std::sort(order_.begin(), order_.begin() + room);
        for (std::int64_t k = 0; k < room;
             ++k) {  // order_ ascending: never overwrites what is still to be read
            found_columns_[k] = found_columns_[order_[k]];
            found_costs_[k] = found_costs_[order_[k]];
        }
        found_ = room;
        return bound;
    }

    void reserve(std::int64_t room) {
        if (static_cast<std::int64_t>(found_columns_.size()) >= room) return;
        found_columns_.resize(static_cast<std::size_t>(room));
        found_costs_.resize(static_cast<std::size_t>(room));
    }

    static constexpr std::int64_t kSpill =
        4;  // columns collected before trimming, as a multiple of a list's room

    const TypedView<T>& cost_;
    const double sign_;
    const simd::Kernels<T>& kernels_;
    const std::int32_t width_;
    std::vector<Slot> slots_;
    std::vector<std::int32_t> columns_;
    std::vector<T> costs_;
    std::int64_t row_scans_ = 0;
    double hint_ = 0.0;
    int hint_trust_ = 0;

    // What the last read found, before it is stored.
    std::vector<std::int32_t> found_columns_, order_;
    std::vector<T> found_costs_;
    std::vector<double> sample_;
    std::int64_t found_ = 0;
};

}  // namespace rebasin_fast
