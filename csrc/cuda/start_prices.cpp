#include "cuda/start_prices.hpp"

#include <bit>
#include <limits>
#include <utility>

#include "lap/monge.hpp"
#include "lap/tight_matching.hpp"

namespace rebasin_fast::cuda {

bool monge_prices(int n, bool whole, const Cells& cells, std::vector<double>* prices) {
    return MongeStart<Cells>(n, whole, cells).find(prices);
}

std::vector<double> scattered_cells(int n, int m, const Cells& cells) {
    std::vector<int> rows, cols;
    for (std::int64_t k = 0; k < m; ++k) {
        rows.push_back(static_cast<int>(scattered_row(k, n)));
        cols.push_back(static_cast<int>(scattered_column(k, m)));
    }
    return cells.at(rows, cols);
}

bool tail_is_heavy_of(int n, int m, const Cells& cells) {
    std::vector<int> rows, cols;
    for (std::int64_t k = 0; k < kTailSamples; ++k) {
        rows.push_back(static_cast<int>(k * 7907 % n));
        cols.push_back(static_cast<int>(k * 7919 % m));
    }
    return tail_is_heavy(cells.at(rows, cols));
}

Minima look_at_minima(std::vector<double> minima, const std::vector<double>& sample) {
    for (double& c : minima)
        if (!(c < std::numeric_limits<double>::infinity())) c = 0.0;
    return look_at(minima, sample);
}

std::int64_t match_tight(const std::vector<unsigned long long>& tight,
                         const std::vector<std::int32_t>& columns, std::int64_t listed, std::int64_t cols,
                         std::vector<std::int32_t>* col_of_row) {
    const std::int64_t rows = std::ssize(tight);
    TightMatching graph(rows, cols);
    for (std::int64_t i = 0; i < rows; ++i)
        for (unsigned long long left = tight[static_cast<std::size_t>(i)]; left != 0; left &= left - 1)
            graph.add(i, columns[static_cast<std::size_t>(i * listed + std::countr_zero(left))]);
    col_of_row->assign(static_cast<std::size_t>(rows), -1);
    std::int64_t matched = 0;
    graph.solve([&](std::int32_t i, std::int32_t j) {
        (*col_of_row)[static_cast<std::size_t>(i)] = j;
        ++matched;
    });
    return matched;
}

}  // namespace rebasin_fast::cuda
