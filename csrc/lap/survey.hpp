// What there is to know of the entries beforehand: from one pass over all, shared by the crew, or from a few.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "lap/crew.hpp"
#include "lap/price_checks.hpp"
#include "lap/simd/kernels.hpp"

namespace rebasin_fast {

// What one pass over the entries tells.
template <class T>
struct Survey {
    simd::Extremes seen{};
    std::vector<T> column_best;  // smallest element of every column, the largest when maximising
};

template <class Source>
Survey<typename Source::Element> survey(const Source& source, bool maximize, Crew* crew) {
    using T = typename Source::Element;
    struct Part {
        Survey<T> found;
        std::optional<typename Source::Reader> reader;
    };
    std::vector<Part> parts(static_cast<std::size_t>(crew->size()));
    const std::int64_t together = source.rows_together();
    crew->for_each((source.rows + together - 1) / together, [&](int worker, std::int64_t k) {
        Part& part = parts[static_cast<std::size_t>(worker)];
        if (!part.reader) part.reader.emplace(source);
        const std::int64_t count = std::min(together, source.rows - k * together);
        std::int64_t stride;
        const T* first = part.reader->rows(k * together, count, &stride);
        if (part.found.column_best.empty()) part.found.column_best.assign(first, first + source.cols);
        simd::kernels<T>().column_best(first, stride, count, maximize, part.found.column_best.data(),
                                       source.cols, &part.found.seen);
    });
    Survey<T> all;
    for (const Part& part : parts) {
        if (part.found.column_best.empty()) continue;
        if (all.column_best.empty()) all.column_best = part.found.column_best;
        simd::kernels<T>().column_best(part.found.column_best.data(), 0, 1, maximize, all.column_best.data(),
                                       source.cols, &all.seen);
        all.seen.invalid |= part.found.seen.invalid;
        all.seen.largest_magnitude = std::max(all.seen.largest_magnitude, part.found.seen.largest_magnitude);
    }
    return all;
}

// From a few cells.
template <class Source>
bool tail_is_heavy(const Source& source) {
    std::vector<double> costs(kTailSamples);
    for (std::int64_t k = 0; k < kTailSamples; ++k)
        costs[k] = source.at(k * 7907 % source.rows, k * 7919 % source.cols);
    return tail_is_heavy(std::move(costs));
}

}  // namespace rebasin_fast
