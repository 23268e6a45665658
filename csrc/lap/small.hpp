// Problems so small that what surrounds the algorithm costs as much as the algorithm: no allocation, one pass
// to read the matrix, then one SIMD kernel. Up to 24 rows (after turning, so that rows are the shorter side)
// answers are SciPy's own, ties included.
#pragma once

#include <cstdint>
#include <optional>

#include "lap/lap.hpp"

namespace rebasin_fast {

// Whether solve_small() takes it: neither empty nor large, and of elements it computes in.
bool small_enough(const MatrixView& cost);

// Where solve_small() writes. Duals are left out when null; both or neither.
struct SmallAnswer {
    std::int64_t* row_ind;  // (min(rows, cols),)
    std::int64_t* col_ind;
    double* row_duals = nullptr;  // (rows,)
    double* col_duals = nullptr;  // (cols,)
    double gap = 0.0;             // with duals: as in Result
    Method method = Method::automatic;
    std::int64_t row_scans = 0;
    std::int64_t augmentations = 0;
};

// Solves a small_enough() problem. Nothing when float64 could round these integers, or overflow on these
// floats, or where nearly all rows want the same columns: solve() takes care of those. Throws std::bad_alloc,
// at a thread's first call only.
std::optional<Status> solve_small(const MatrixView& cost, bool maximize, SmallAnswer* answer);

}  // namespace rebasin_fast
