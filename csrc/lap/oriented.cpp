#include "lap/oriented.hpp"

#include <algorithm>

namespace rebasin_fast {

PartialMatching::PartialMatching(std::int64_t rows, std::int64_t cols)
    : v(simd::padded(cols), 0.0), col_of_row(rows, -1), row_of_col(simd::padded(cols), -1) {
    std::fill(v.begin() + cols, v.end(), -kForbidden);
}

void PartialMatching::augment(const std::vector<std::int32_t>& pred, std::int32_t row, std::int64_t sink) {
    for (std::int64_t j = sink;;) {
        const std::int32_t i = pred[j];
        const std::int32_t next = col_of_row[i];
        assign(i, j);
        if (i == row) return;
        j = next;
    }
}

std::vector<std::int32_t> PartialMatching::free_rows() const {
    std::vector<std::int32_t> rows;
    for (std::size_t i = 0; i < col_of_row.size(); ++i)
        if (col_of_row[i] < 0) rows.push_back(static_cast<std::int32_t>(i));
    return rows;
}

}  // namespace rebasin_fast
