// What bidding and path search on candidate lists share.
#pragma once

#include <cstdint>

#include "lap/candidates.hpp"
#include "lap/crew.hpp"
#include "lap/oriented.hpp"

namespace rebasin_fast {

template <class Source>
struct ListState {
    using T = typename Source::Element;

    ListState(const Source& rows, Crew* crew, Interrupt* stop)
        : source(rows),
          matching(rows.rows, rows.cols),
          prices(&matching.v),
          lists(rows, crew),
          interrupt(stop) {}

    std::int32_t n() const { return static_cast<std::int32_t>(source.rows); }
    std::int64_t m() const { return source.cols; }
    bool is_square() const { return source.rows == source.cols; }

    double reduced_at(std::int32_t i, std::int64_t j) const { return source.at(i, j) - prices[j]; }

    // Asks whether to stop, but only every so many calls, for asking takes a lock.
    bool stop_requested() {
        constexpr std::uint32_t every = 4096;
        if (interrupt != nullptr && ++asked % every == 0) stopped |= interrupt->requested();
        return stopped;
    }

    const Source& source;
    PartialMatching matching;
    Prices<T> prices;
    Candidates<Source> lists;
    Interrupt* const interrupt;
    std::uint32_t asked = 0;
    bool stopped = false;
};

}  // namespace rebasin_fast
