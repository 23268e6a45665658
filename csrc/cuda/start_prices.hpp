// Prices and matchings to begin with, as the CPU's engine chooses them (lap/monge.hpp, lap/price_checks.hpp
// and lap/tight_matching.hpp), for costs of which the host sees but a few cells. Compiled by the host's
// compiler.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "lap/price_checks.hpp"

namespace rebasin_fast::cuda {

// Fetches costs, many at a time, for every call waits for the device: those of cells (rows[k], cols[k]), or
// of a whole row.
struct Cells {
    std::function<std::vector<double>(const std::vector<int>& rows, const std::vector<int>& cols)> at;
    std::function<std::vector<double>(int row)> row;
};

// Prices of Monge and rank-one costs (c_ij = x_i y_j, |x_i - y_j| and their like), where shortest paths are
// long and lists of no use. False, for the price of 64 cells, where a matrix (n, n) is nothing of the kind.
bool monge_prices(int n, bool whole, const Cells& cells, std::vector<double>* prices);

// A cell of every column of an (n, m) matrix, scattered over its rows.
std::vector<double> scattered_cells(int n, int m, const Cells& cells);

// Whether tails are so heavy that prices of 0 are better than any (lap/price_checks.hpp).
bool tail_is_heavy_of(int n, int m, const Cells& cells);

// What column minima are worth as prices; infinite ones are made 0.
Minima look_at_minima(std::vector<double> minima, const std::vector<double>& sample);

// The matching that duals leave behind. Bit k of tight[i]: row i's least reduced cost is that of column
// columns[i * listed + k]. Returns the column of every row, -1 for none, and how many have one.
std::int64_t match_tight(const std::vector<unsigned long long>& tight,
                         const std::vector<std::int32_t>& columns, std::int64_t listed, std::int64_t cols,
                         std::vector<std::int32_t>* col_of_row);

}  // namespace rebasin_fast::cuda
