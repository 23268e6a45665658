// Many assignment problems at once, shared by a crew of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "lap/lap.hpp"

namespace rebasin_fast {

// Sums of costs are formed in integers.
bool has_integer_cost(ElementType type);

// Duals are given in integers: where costs have 64 bits, float64 might not hold them.
bool has_integer_duals(ElementType type);

// Where answers are written: one problem's after the other's, without gaps, so that problems of one shape
// fill arrays (problems, length). The cells behind void* hold std::int64_t or double, as the problem's
// element type says by the functions above.
struct BatchAnswer {
    std::int64_t* row_ind = nullptr;  // min(rows, cols) per problem
    std::int64_t* col_ind = nullptr;
    void* cost = nullptr;       // one cell per problem
    void* row_duals = nullptr;  // rows per problem; this and the following only when Options::with_duals
    void* col_duals = nullptr;  // cols per problem
    double* gap = nullptr;      // one per problem
};

struct BatchStatus {
    Status status = Status::optimal;
    bool cost_overflow = false;  // the sum does not fit 64 bits; its cell is undefined
    bool duals_overflow = false;
};

// Solves all problems, whatever becomes of single ones, with Options::threads threads together; the answers
// do not depend on their number. Only the calling thread asks Options::interrupt; problems left are
// `interrupted` then. Options::col_duals is ignored. Throws std::bad_alloc only.
std::vector<BatchStatus> solve_batch(const std::vector<MatrixView>& costs, const Options& options,
                                     const BatchAnswer& answer);

}  // namespace rebasin_fast
