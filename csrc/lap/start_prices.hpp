// Column prices to begin with, for square problems: any prices will do, good ones spare work.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "lap/list_state.hpp"
#include "lap/price_checks.hpp"

namespace rebasin_fast {

// The costs of a source, as MongeStart asks for them.
template <class Source>
struct SourceCells {
    const Source& source;

    std::vector<double> at(const std::vector<std::int32_t>& rows,
                           const std::vector<std::int32_t>& cols) const {
        std::vector<double> costs(rows.size());
        for (std::size_t k = 0; k < costs.size(); ++k) costs[k] = source.at(rows[k], cols[k]);
        return costs;
    }

    std::vector<double> row(std::int32_t i) const {
        std::vector<double> costs(static_cast<std::size_t>(source.cols));
        for (std::int64_t j = 0; j < source.cols; ++j) costs[j] = source.at(i, j);
        return costs;
    }
};

// A cell of every column, scattered over the rows.
template <class Source>
std::vector<double> scattered_cells(const Source& source) {
    std::vector<double> costs(static_cast<std::size_t>(source.cols));
    for (std::int64_t k = 0; k < source.cols; ++k)
        costs[k] = source.at(scattered_row(k, source.rows), scattered_column(k, source.cols));
    return costs;
}

// Every column as cheap as its cheapest row; a column that is forbidden throughout gets price 0. False where
// prices of 0 are better. `known` to matter are minima that nearly every row holds one of.
template <class Source>
bool column_minima(const Source& source, const std::vector<typename Source::Element>& column_best, bool known,
                   std::vector<double>* prices) {
    prices->resize(static_cast<std::size_t>(source.cols));
    for (std::int64_t j = 0; j < source.cols; ++j) {
        const double c = source.sign * static_cast<double>(column_best[static_cast<std::size_t>(j)]);
        (*prices)[j] = c < kForbidden ? c : 0.0;
    }
    const Minima found = look_at(*prices, scattered_cells(source));
    return found == Minima::useful || (found == Minima::spread && known);
}

// The caller's duals, brought to this problem's sign, and whole numbers for integers. `of_rows`: they belong
// to the rows of a problem that was turned, and each column gets the highest price they allow. Only their
// differences matter; false when these are so large beside the costs that rounding would swallow the costs.
template <class Source>
bool given_prices(const Source& source, const double* duals, bool of_rows, std::vector<double>* prices) {
    constexpr bool whole = std::is_integral_v<typename Source::Element>;
    const std::int64_t n = source.rows, m = source.cols;
    std::vector<double> given(duals, duals + (of_rows ? n : m));
    if (!centre_duals(source.sign, whole, scattered_cells(source), &given)) return false;
    if (!of_rows) {
        *prices = std::move(given);
        return true;
    }
    const std::int64_t width = simd::padded(m);
    std::vector<double> zero(static_cast<std::size_t>(width), 0.0),
        least(static_cast<std::size_t>(width), kForbidden);
    std::fill(zero.begin() + m, zero.end(), -kForbidden);
    std::vector<std::int32_t> unused(static_cast<std::size_t>(width));
    typename Source::Reader reader(source);
    const auto& kernels = simd::kernels<typename Source::Element>();
    for (std::int64_t i = 0; i < n; ++i)
        kernels.relax(reader.row(i), source.sign, given[i], zero.data(), 0, least.data(), unused.data(), m);
    prices->assign(least.begin(), least.begin() + m);
    for (double& v : *prices)
        if (v == kForbidden) v = 0.0;
    return true;
}

}  // namespace rebasin_fast
