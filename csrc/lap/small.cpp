#include "lap/small.hpp"

#include <algorithm>
#include <limits>
#include <memory>

#include "lap/simd/small_kernel.hpp"

namespace rebasin_fast {
namespace {

// One block per thread, made at its first small problem.
simd::SmallWork* work_of_this_thread() {
    thread_local std::unique_ptr<simd::SmallWork> work;
    if (!work) work = std::make_unique_for_overwrite<simd::SmallWork>();
    return work.get();
}

// Path lengths and duals stay below (2 n + 1) times the largest magnitude.
double largest_safe_magnitude(ElementType type, std::int64_t rows) {
    constexpr double exact_double = 9007199254740992.0;  // float64 holds every integer up to here
    const double growth = 8.0 * static_cast<double>(rows);
    if (type == ElementType::f64) return std::numeric_limits<double>::max() / growth;
    if (type == ElementType::i64 || type == ElementType::u64) return exact_double / growth;
    return std::numeric_limits<double>::infinity();
}

// `turned`: the kernel's rows are the caller's columns.
void write_matching(const simd::SmallProblem& problem, const simd::SmallWork& work, bool turned,
                    SmallAnswer* answer) {
    std::int64_t* row_ind = answer->row_ind;
    std::int64_t* col_ind = answer->col_ind;
    if (!turned) {
        for (std::int64_t i = 0; i < problem.rows; ++i) row_ind[i] = i, col_ind[i] = work.col_of_row[i];
        return;
    }
    for (std::int64_t j = 0, k = 0; j < problem.cols; ++j)
        if (!(work.free_columns[j / 64] >> (j % 64) & 1)) row_ind[k] = j, col_ind[k++] = work.row_of_col[j];
}

// u_i = min_j (c_ij - v_j): what the search keeps may be off by its rounding.
void write_duals(const simd::SmallProblem& problem, const simd::SmallWork& work, bool turned,
                 SmallAnswer* answer) {
    const double sign = problem.maximize ? -1.0 : 1.0;
    double* u = turned ? answer->col_duals : answer->row_duals;
    double* v = turned ? answer->row_duals : answer->col_duals;
    for (std::int64_t i = 0; i < problem.rows; ++i) {
        const double* cost = work.cost + i * work.stride;
        double least = std::numeric_limits<double>::infinity();
        for (std::int64_t j = 0; j < problem.cols; ++j) least = std::min(least, cost[j] - work.v[j]);
        answer->gap += cost[work.col_of_row[i]] - work.v[work.col_of_row[i]] - least;
        u[i] = sign * least;
    }
    for (std::int64_t j = 0; j < problem.cols; ++j) v[j] = sign * work.v[j];
}

}  // namespace

bool small_enough(const MatrixView& cost) {
    const std::int64_t shorter = std::min(cost.rows, cost.cols), longer = std::max(cost.rows, cost.cols);
    const std::int64_t longest = shorter <= simd::kScipyRows ? simd::kScipyCols : simd::kSmallCols;
    return shorter > 0 && shorter <= simd::kSmallRows && longer <= longest && cost.type != ElementType::f16;
}

std::optional<Status> solve_small(const MatrixView& cost, bool maximize, SmallAnswer* answer) {
    // A square one in column order is read as its transpose, but not where ties are SciPy's.
    const bool by_columns = cost.rows == cost.cols && cost.row_stride == 1 && !cost.rows_are_contiguous();
    const bool turned = cost.rows > cost.cols || (by_columns && cost.rows > simd::kScipyRows);
    const MatrixView view = turned ? cost.transposed() : cost;
    const simd::SmallProblem problem{view.data,       view.type,
                                     view.rows,       view.cols,
                                     view.row_stride, view.cols == 1 ? 1 : view.col_stride,
                                     maximize,        largest_safe_magnitude(view.type, view.rows)};
    simd::SmallWork* work = work_of_this_thread();
    switch (simd::solve_small_kernel(problem.cols)(problem, work)) {
        case simd::SmallOutcome::infeasible:
            return Status::infeasible;
        case simd::SmallOutcome::invalid_entry:
            return Status::invalid_entry;
        case simd::SmallOutcome::beyond_limit:
        case simd::SmallOutcome::contested:
            return std::nullopt;
        case simd::SmallOutcome::optimal:
            break;
    }
    write_matching(problem, *work, turned, answer);
    if (answer->row_duals != nullptr) write_duals(problem, *work, turned, answer);
    answer->method = problem.rows <= simd::kScipyRows ? Method::shortest_path : Method::dense;
    answer->augmentations = work->augmentations;
    answer->row_scans = problem.rows + work->row_scans + (answer->row_duals != nullptr ? problem.rows : 0);
    return Status::optimal;
}

}  // namespace rebasin_fast
