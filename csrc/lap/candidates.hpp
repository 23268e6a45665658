// Per-row short lists of the cheapest columns, each with a proven bound on every column it leaves out.
//
// Column prices v only fall, so reduced costs c_ij - v_j only rise. Whatever was at or above the bound when
// the list was made therefore stays there for ever: as long as a decision needs nothing above the bound, the
// list is as good as the row. When it does not suffice, that one row is read again with today's prices.
// Rounding keeps this: float64 subtraction is monotone, so a lower price never gives a smaller computed
// reduced cost.
#pragma once

#include <algorithm>
#include <cstddef>
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
          first_room_(width_ > kMiddling ? kFirstRoom : 0),
          reserved_(source.rows * (first_room_ + width_)),
          pool_limit_(reserved_ + source.rows * width_ / 4 + 4 * filled_up(source.cols)),
          slots_(static_cast<std::size_t>(source.rows), Slot{0, 0, 0, -kForbidden}),
          // Set aside at once, for to grow step by step would take twice the memory at times; what is not
          // used is not touched. In one block, larger than all else together: allocators keep that much
          // for the next problem of the size.
          pool_(std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(pool_limit_) *
                                                            (sizeof(T) + sizeof(std::int32_t)))),
          costs_(reinterpret_cast<T*>(pool_.get())),
          columns_(reinterpret_cast<std::int32_t*>(costs_ + pool_limit_)),
          scratch_(static_cast<std::size_t>(crew->size())) {}

    struct List {
        const std::int32_t* columns;  // filled up to a multiple of simd::kPadding with column m
        const T* costs;
        std::int32_t size;
        double bound;  // c_ij - v_j >= bound for every column not listed
    };

    List of(std::int32_t i) const {
        const Slot& slot = slots_[i];
        return {columns_ + slot.offset, costs_ + slot.offset, slot.size, slot.bound};
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
        for (Slot& slot : slots_) give_room(slot, entries);
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
        give_room(slot, size);
        slot.size = size;
        slot.bound = bound;
        std::copy_n(columns, size, columns_ + slot.offset);
        std::copy_n(costs, size, costs_ + slot.offset);
        for (std::int64_t k = size; k < filled_up(size); ++k) {
            columns_[static_cast<std::size_t>(slot.offset + k)] = static_cast<std::int32_t>(source_.cols);
            costs_[static_cast<std::size_t>(slot.offset + k)] = T{};
        }
    }

    // Reads row i at today's prices and lists its cheapest columns, at most `entries` and what there is room
    // for.
    void read(std::int32_t i, const Prices<T>& prices, std::int64_t entries) {
        give_room(slots_[i], entries);
        RowReader<Source>& reader = scratch(0);
        reader.fetch(&i, 1, prices);
        reader.announce(-1);
        store(i, reader, prices, entries, false);
        learn(reader);
        ++row_scans_;
    }

    // The same for many rows, shared out where that is worth waking anybody. Beside it the calling thread
    // does `meanwhile`, which may change prices, but must leave these rows' lists alone: they are made at
    // prices as they were before.
    template <class Meanwhile>
    void read(const std::vector<std::int32_t>& rows, const Prices<T>& prices, Meanwhile&& meanwhile) {
        constexpr std::int64_t worth_sharing = std::int64_t{1} << 18;  // elements
        const auto count = static_cast<std::int64_t>(rows.size()), together = source_.scattered_together();
        const bool alone = crew_->size() == 1 || count * source_.cols < worth_sharing;
        if (!alone) as_before_.copy(prices);
        const Prices<T>& before = alone ? prices : as_before_;
        for (const std::int32_t i : rows) give_room(slots_[i], entries_for(i));
        const auto task = [&](int worker, std::int64_t k) {
            const std::int64_t first = k * together, last = std::min(first + together, count);
            RowReader<Source>& reader = scratch(worker);
            reader.fetch(rows.data() + first, last - first, before);
            for (std::int64_t r = first; r < last; ++r) {
                reader.announce(r + 1 < (alone ? count : last) ? rows[static_cast<std::size_t>(r) + 1] : -1);
                store(rows[r], reader, before, entries_for(rows[r]), false);
            }
        };
        Crew nobody(1);
        (alone ? nobody : *crew_).for_each_beside((count + together - 1) / together, task, meanwhile);
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
        if (used_ + capacity + reserved_ > pool_limit_) return false;
        place(slot, capacity);
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
        constexpr double share = Source::kBytes <= 2 ? 0.022 : 0.036;
        const double row = static_cast<double>(cols) * Source::kBytes,
                     entry = sizeof(T) + sizeof(std::int32_t);
        const auto fit = static_cast<std::int64_t>(share * row / entry);
        const std::int64_t width = cols < large ? usual : std::clamp(fit / 16 * 16, least, most);
        return static_cast<std::int32_t>(filled_up(std::min(width, cols)));
    }

  private:
    static constexpr std::int64_t kFirstOnDemand =
        16;  // entries of a list that is made when a row is first needed

    // Where lists are long, those made first, and for most rows the only ones, are kept close together.
    static constexpr std::int64_t kMiddling = 64, kFirstRoom = 32;

    struct Slot {
        std::int64_t offset;
        std::int32_t size;
        std::int32_t capacity;
        double bound;
    };

    std::int64_t entries_for(std::int32_t i) const {
        return slots_[static_cast<std::size_t>(i)].size == 0 ? kFirstOnDemand : source_.cols;
    }

    // Lists come to lie one after the other as rows are first read, so that rows never read take no memory.
    void give_room(Slot& slot, std::int64_t entries) {
        const std::int64_t wanted = entries <= first_room_ ? first_room_ : width_;
        if (slot.capacity >= wanted) return;
        reserved_ -= wanted;
        place(slot, wanted);
    }

    void place(Slot& slot, std::int64_t capacity) {
        slot.offset = used_;
        slot.capacity = static_cast<std::int32_t>(capacity);
        used_ += capacity;
    }

    void store(std::int64_t i, RowReader<Source>& reader, const Prices<T>& prices, std::int64_t entries,
               bool check) {
        Slot& slot = slots_[i];
        const std::int64_t room = std::min<std::int64_t>({slot.capacity, source_.cols, entries});
        slot.bound = reader.list(i, prices, room, hint_, check);
        slot.size = static_cast<std::int32_t>(reader.found());
        reader.copy(columns_ + slot.offset, costs_ + slot.offset, filled_up(slot.size));
    }

    void learn(const RowReader<Source>& reader) {
        if (reader.hint().spread > 0.0 && reader.hint().spread < kForbidden) hint_ = reader.hint();
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
    const std::int64_t first_room_;
    std::int64_t used_ = 0, reserved_;  // entries in use, and such as rows may still ask for
    const std::int64_t pool_limit_;
    std::vector<Slot> slots_;
    std::unique_ptr<std::byte[]> pool_;
    T* const costs_;  // both in it
    std::int32_t* const columns_;
    std::vector<std::unique_ptr<RowReader<Source>>> scratch_;
    std::int64_t row_scans_ = 0;
    ListHint hint_;
    std::vector<double> before_;
    Prices<T> as_before_{&before_};
};

}  // namespace rebasin_fast
