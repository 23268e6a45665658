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
#include <memory>
#include <utility>
#include <vector>

#include "lap/crew.hpp"
#include "lap/oriented.hpp"
#include "lap/row_reader.hpp"
#include "lap/simd/kernels.hpp"

namespace rebasin_fast {

template <class Source>
class Candidates {
  public:
    using T = typename Source::Element;

    Candidates(const Source& source, Crew* crew)
        : source_(source),
          crew_(crew),
          kernels_(simd::kernels<T>()),
          width_(width_for(source.cols)),
          pool_limit_(source.rows * width_ + source.rows * width_ / 4 + 4 * filled_up(source.cols)),
          slots_(static_cast<std::size_t>(source.rows)),
          scratch_(static_cast<std::size_t>(crew->size())) {
        // Set aside at once, for to grow step by step would take twice the memory at times; what is not used
        // is not touched.
        columns_.reserve(static_cast<std::size_t>(pool_limit_));
        costs_.reserve(static_cast<std::size_t>(pool_limit_));
        columns_.resize(static_cast<std::size_t>(source.rows * width_));
        costs_.resize(columns_.size());
        for (std::size_t i = 0; i < slots_.size(); ++i)
            slots_[i] = {static_cast<std::int64_t>(i) * width_, 0, width_, -kForbidden};
    }

    struct List {
        const std::int32_t* columns;  // filled up to a multiple of simd::kPadding with column m
        const T* costs;
        std::int32_t size;
        double bound;  // c_ij - v_j >= bound for every column not listed
    };

    List of(std::int32_t i) const {
        const Slot& slot = slots_[i];
        return {columns_.data() + slot.offset, costs_.data() + slot.offset, slot.size, slot.bound};
    }

    double reduced(const List& list, std::int32_t k, const std::vector<double>& v) const {
        return source_.sign * static_cast<double>(list.costs[k]) - v[list.columns[k]];
    }

    // The two smallest reduced costs of row i's list at prices v; `index` is the place in the list.
    simd::TwoSmallest two_smallest(std::int32_t i, const std::vector<double>& v) const {
        const List list = of(i);
        return kernels_.listed_min2(list.columns, list.costs, source_.sign, v.data(), filled_up(list.size));
    }

    // The places in row i's list that are nearer than `limit` and than open[column]; see simd::listed_below.
    std::int64_t nearer(std::int32_t i, const Prices<T>& prices, const double* open, double offset,
                        double limit, std::int32_t* places, double* keys) const {
        const List list = of(i);
        return kernels_.listed_below(list.columns, list.costs, source_.sign, prices.v().data(), open, offset,
                                     limit, filled_up(list.size), places, keys);
    }

    // Reads every row, the work shared out, and lists at most `entries` columns of each; false when asked to
    // stop. `seen`, unless null, learns what the entries are like.
    bool read_all(const Prices<T>& prices, std::int64_t entries, simd::Extremes* seen, Interrupt* interrupt) {
        read(0, prices, entries);  // shows how wide a list is, which spares the others the search for it
        const std::int64_t together = source_.rows_together();
        const std::int64_t tasks = (source_.rows + together - 1) / together;
        constexpr std::int64_t stretch = 64;
        for (std::int64_t begin = 0; begin < tasks; begin += stretch) {
            if (interrupt != nullptr && interrupt->requested()) return false;
            crew_->for_each(std::min(stretch, tasks - begin), [&](int worker, std::int64_t k) {
                const std::int64_t first = (begin + k) * together;
                RowReader<Source>& reader = scratch(worker);
                const std::int64_t count = std::min(together, source_.rows - first);
                reader.fetch(first, count, prices);
                for (std::int64_t i = first; i < first + count; ++i) {
                    reader.announce(i + 1 < source_.rows ? i + 1 : -1);
                    store(i, reader, prices, entries, seen != nullptr);
                }
            });
        }
        row_scans_ += source_.rows;
        for (const auto& reader : scratch_)
            if (seen != nullptr && reader != nullptr) reader->merge_seen(seen);
        return true;
    }

    // Lists nothing, for it is known that no c_ij - v_j is below `bound`: rows are read when they are needed.
    void list_nothing(double bound) {
        for (Slot& slot : slots_) slot.bound = bound;
    }

    // Takes over a list made elsewhere: `size` columns and their costs, at most width_for(cols), and the
    // bound on all others.
    void adopt(std::int32_t i, const std::int32_t* columns, const T* costs, std::int32_t size, double bound) {
        Slot& slot = slots_[i];
        slot.size = size;
        slot.bound = bound;
        std::copy_n(columns, size, columns_.data() + slot.offset);
        std::copy_n(costs, size, costs_.data() + slot.offset);
        for (std::int64_t k = size; k < filled_up(size); ++k) {
            columns_[static_cast<std::size_t>(slot.offset + k)] = static_cast<std::int32_t>(source_.cols);
            costs_[static_cast<std::size_t>(slot.offset + k)] = T{};
        }
    }

    // Reads row i at today's prices and lists its cheapest columns, at most `entries` and what there is room
    // for.
    void read(std::int32_t i, const Prices<T>& prices, std::int64_t entries) {
        RowReader<Source>& reader = scratch(0);
        reader.fetch(&i, 1, prices);
        reader.announce(-1);
        store(i, reader, prices, entries, false);
        learn(reader);
        ++row_scans_;
    }

    // The same for many rows, shared out where that is worth waking anybody.
    void read(const std::vector<std::int32_t>& rows, const Prices<T>& prices) {
        constexpr std::int64_t worth_sharing = std::int64_t{1} << 18;  // elements
        Crew alone(1);
        Crew* crew = static_cast<std::int64_t>(rows.size()) * source_.cols < worth_sharing ? &alone : crew_;
        const auto count = static_cast<std::int64_t>(rows.size()), together = source_.scattered_together();
        crew->for_each((count + together - 1) / together, [&](int worker, std::int64_t k) {
            const std::int64_t first = k * together, last = std::min(first + together, count);
            RowReader<Source>& reader = scratch(worker);
            reader.fetch(rows.data() + first, last - first, prices);
            for (std::int64_t r = first; r < last; ++r) {
                reader.announce(r + 1 < count ? rows[static_cast<std::size_t>(r) + 1] : -1);
                store(rows[r], reader, prices, entries_for(rows[r]), false);
            }
        });
        row_scans_ += count;
    }

    // A row's first list is short: it is quick to look through, and most rows never need another.
    void read(std::int32_t i, const Prices<T>& prices) { read(i, prices, entries_for(i)); }

    // Reads row i with room for twice as many; false when the memory set aside for that is used up.
    bool read_longer(std::int32_t i, const Prices<T>& prices) {
        Slot& slot = slots_[i];
        // A list that was made at other prices may do as it is once it is up to date.
        const double before = slot.bound;
        read(i, prices);
        if (slot.bound > before) return true;
        const std::int64_t capacity =
            filled_up(std::min<std::int64_t>(2 * std::int64_t{slot.capacity}, source_.cols));
        if (static_cast<std::int64_t>(columns_.size()) + capacity > pool_limit_) return false;
        slot.offset = static_cast<std::int64_t>(columns_.size());
        slot.capacity = static_cast<std::int32_t>(capacity);
        columns_.resize(columns_.size() + static_cast<std::size_t>(capacity));
        costs_.resize(columns_.size());
        read(i, prices);
        return slot.bound > before || slot.bound == kForbidden;
    }

    const T* row(std::int32_t i) { return scratch(0).row(i); }
    std::int64_t row_scans() const { return row_scans_; }

    static std::int64_t filled_up(std::int64_t size) {
        return (size + simd::kPadding - 1) / simd::kPadding * simd::kPadding;
    }

    // Entries of a list: a fixed share of the matrix, so that lists of small elements stay small beside it.
    static std::int32_t width_for(std::int64_t cols) {
        constexpr std::int64_t most = 96, usual = 64, least = 16, large = 4096;
        constexpr double share = sizeof(T) <= 2 ? 0.022 : 0.036;
        const double entry = sizeof(T) + sizeof(std::int32_t);
        const auto fit = static_cast<std::int64_t>(share * static_cast<double>(cols) * sizeof(T) / entry);
        const std::int64_t width = cols < large ? usual : std::clamp(fit / 16 * 16, least, most);
        return static_cast<std::int32_t>(filled_up(std::min(width, cols)));
    }

  private:
    static constexpr std::int64_t kFirstOnDemand =
        16;  // entries of a list that is made when a row is first needed

    struct Slot {
        std::int64_t offset;
        std::int32_t size;
        std::int32_t capacity;
        double bound;
    };

    std::int64_t entries_for(std::int32_t i) const {
        return slots_[static_cast<std::size_t>(i)].size == 0 ? kFirstOnDemand : source_.cols;
    }

    void store(std::int64_t i, RowReader<Source>& reader, const Prices<T>& prices, std::int64_t entries,
               bool check) {
        Slot& slot = slots_[i];
        const std::int64_t room = std::min<std::int64_t>({slot.capacity, source_.cols, entries});
        slot.bound = reader.list(i, prices, room, hint_, check);
        slot.size = static_cast<std::int32_t>(reader.found());
        reader.copy(columns_.data() + slot.offset, costs_.data() + slot.offset, filled_up(slot.size));
    }

    void learn(const RowReader<Source>& reader) {
        if (reader.spread() > 0.0 && reader.spread() < kForbidden) hint_ = reader.spread();
    }

    RowReader<Source>& scratch(int worker) {
        auto& reader = scratch_[static_cast<std::size_t>(worker)];
        if (reader == nullptr) reader = std::make_unique<RowReader<Source>>(source_, width_);
        return *reader;
    }

    const Source& source_;
    Crew* const crew_;
    const simd::Kernels<T>& kernels_;
    const std::int32_t width_;
    const std::int64_t pool_limit_;
    std::vector<Slot> slots_;
    std::vector<std::int32_t> columns_;
    std::vector<T> costs_;
    std::vector<std::unique_ptr<RowReader<Source>>> scratch_;
    std::int64_t row_scans_ = 0;
    double hint_ = 0.0;  // from best to bound on the row read last: rows of one matrix are often alike
};

}  // namespace rebasin_fast
