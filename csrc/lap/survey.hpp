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

// Whether, going by a few rows, column minima only follow the noise (as column_minima() would find of all
// rows, by its rule): prices of 0 are as good then, and the pass that finds the minima can be spared. Not
// where rows have a best column far better than any other: where a permutation is planted, minima decide.
template <class Source>
bool minima_are_noise(const Source& source, bool maximize) {
    using T = typename Source::Element;
    constexpr std::int64_t samples = 64, leads = 16, columns = 1024, few = 2048;
    constexpr double apart = 0.3, planted = 0.5;
    const std::int64_t n = source.rows, m = source.cols;
    if (n < few) return false;
    typename Source::Reader reader(source);
    const auto& kernels = simd::kernels<T>();
    std::vector<T> best;
    std::vector<double> costs(columns), lead, zero(static_cast<std::size_t>(simd::padded(m)), 0.0);
    std::fill(zero.begin() + m, zero.end(), -std::numeric_limits<double>::infinity());
    simd::Extremes seen{};
    for (std::int64_t k = 0; k < samples; ++k) {
        const T* row = reader.row(k * n / samples);
        if (best.empty()) best.assign(row, row + m);
        kernels.column_best(row, 0, 1, maximize, best.data(), m, &seen);
        for (std::int64_t c = k; c < columns; c += samples)
            costs[c] = source.sign * static_cast<double>(row[c * m / columns]);
        if (k % (samples / leads) != 0) continue;
        const simd::TwoSmallest two = kernels.reduced_min2(row, source.sign, zero.data(), m);
        lead.push_back(two.second - two.first);
    }
    if (seen.invalid || seen.forbidden) return false;
    std::vector<double> minima(columns), reduced = costs;
    for (std::int64_t c = 0; c < columns; ++c) {
        minima[c] = source.sign * static_cast<double>(best[static_cast<std::size_t>(c * m / columns)]);
        reduced[c] -= minima[c];
    }
    const double of_costs = spread(std::move(costs));
    std::nth_element(lead.begin(), lead.begin() + leads / 2, lead.end());
    return spread(std::move(minima)) > apart * of_costs && spread(std::move(reduced)) > of_costs &&
           lead[leads / 2] < planted * of_costs;
}

}  // namespace rebasin_fast
