// From a matching of an oriented problem to the caller's rows and columns.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "lap/lap.hpp"

namespace rebasin_fast {

inline Result with_status(Status status) {
    Result result;
    result.status = status;
    return result;
}

// False when they do not fit: undoing the scale of the overflow guard can make them infinite.
inline bool store_duals(const std::vector<double>& in, double sign, std::vector<double>* out) {
    out->resize(in.size());
    std::transform(in.begin(), in.end(), out->begin(), [=](double x) { return x / sign; });
    return std::all_of(out->begin(), out->end(), [](double x) { return std::isfinite(x); });
}

inline void store_cells(const std::vector<std::int32_t>& col_of_row, std::int64_t cols, bool turned,
                        Result* result) {
    const auto n = static_cast<std::int64_t>(col_of_row.size());
    result->row_ind.resize(static_cast<std::size_t>(n));
    result->col_ind.resize(static_cast<std::size_t>(n));
    if (!turned) {
        for (std::int64_t i = 0; i < n; ++i) result->row_ind[i] = i, result->col_ind[i] = col_of_row[i];
        return;
    }
    std::vector<std::int32_t> col_of_original_row(static_cast<std::size_t>(cols), -1);
    for (std::int64_t i = 0; i < n; ++i) col_of_original_row[col_of_row[i]] = static_cast<std::int32_t>(i);
    for (std::int64_t r = 0, k = 0; r < cols; ++r)
        if (col_of_original_row[r] >= 0) {
            result->row_ind[k] = r;
            result->col_ind[k++] = col_of_original_row[r];
        }
}

}  // namespace rebasin_fast
