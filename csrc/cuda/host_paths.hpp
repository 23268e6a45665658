// The last free rows of a problem that lies on the device, matched on the host: the shortest augmenting paths
// of csrc/lap/forest.hpp on lists the device has made. Compiled by the host's compiler.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "lap/lap.hpp"

namespace rebasin_fast::cuda {

// Matching, prices and lists as they come from the device; rows <= cols.
template <class S>
struct HostProblem {
    std::int64_t rows = 0, cols = 0;
    int listed = 0;     // entries there is room for in a list
    double sign = 1.0;  // the cost of a cell is sign * element
    std::vector<double> v;
    std::vector<std::int32_t> row_of_col, col_of_row;  // -1: free
    std::vector<std::int32_t> list_columns;            // (rows, listed)
    std::vector<S> list_costs;                         // (rows, listed)
    std::vector<std::int32_t> list_size;
    std::vector<double> list_bound;
    std::int64_t row_scans = 0;  // rows that were asked for
};

enum class PathsFound { all, infeasible, interrupted, gave_up };

// Gives free rows columns; `problem` holds matching and prices in the end, also if `reads` rows were asked
// for in vain. `fetch(i, row)` copies row i. *found counts the rows matched.
template <class S>
PathsFound find_paths_on_host(HostProblem<S>* problem, const std::function<void(std::int64_t, S*)>& fetch,
                              Interrupt* interrupt, std::int64_t reads, std::int64_t* found);

}  // namespace rebasin_fast::cuda
