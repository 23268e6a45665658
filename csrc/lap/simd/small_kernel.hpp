// The whole of a small problem as one kernel: what its caller hands over, and the memory it works in.
#pragma once

#include <cstdint>

#include "lap/matrix_view.hpp"

namespace rebasin_fast::simd {

inline constexpr std::int64_t kSmallRows = 640;
inline constexpr std::int64_t kSmallCols = 640;

// Up to this many rows the answer is SciPy's own among equal ones. Beyond, another start is faster.
inline constexpr std::int64_t kScipyRows = 24;
inline constexpr std::int64_t kScipyCols = 256;

struct SmallProblem {
    const void* data;
    ElementType type;
    std::int64_t rows, cols;  // rows <= cols, within the bounds above
    std::int64_t row_stride, col_stride;
    bool maximize;
    double limit;  // a finite entry beyond it in magnitude is not for this solver
};

// The last two: not for this solver, for its entries, or for so many rows wanting the same columns that lists
// are faster.
enum class SmallOutcome : int { optimal, infeasible, invalid_entry, beyond_limit, contested };

// Lives as long as its thread; a problem touches only the part it needs.
struct alignas(64) SmallWork {
    double v[kSmallCols];
    double key[kSmallCols];         // shortest path lengths; NaN on scanned columns
    std::int64_t pred[kSmallCols];  // the row through which a column was reached
    double u[kScipyRows];
    double matched_cost[kSmallCols];  // beyond kScipyRows: what the cell costs that a column is matched in
    double block_least[kSmallCols];   // and the least keys of each block of columns, lane by lane
    std::int64_t col_of_row[kSmallRows];
    std::int64_t row_of_col[kSmallCols];
    std::uint64_t free_columns[kSmallCols / 64];
    std::int64_t scanned[kSmallRows];  // columns of the current search, in order, and their path lengths
    double length[kSmallRows];
    std::uint8_t remaining[kScipyCols];  // the list SciPy visits, and where each column stands in it
    std::uint8_t position[kScipyCols];
    std::uint8_t gap[kScipyRows];  // what taking out the scanned columns changed in the two
    std::uint8_t moved[kScipyRows];
    std::int64_t stride;  // of `cost`
    std::int64_t row_scans;
    std::int64_t augmentations;
    alignas(64) double cost[kSmallRows * kSmallCols];  // signed, rows filled up with infinity
};

using SolveSmall = SmallOutcome (*)(const SmallProblem&, SmallWork*);

// The one for problems of that many columns.
SolveSmall solve_small_kernel(std::int64_t cols);

}  // namespace rebasin_fast::simd
