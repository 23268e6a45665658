// The contract of the exact linear assignment solver. Knows neither Python nor CUDA.
//
// Problem: given an (n, m) cost matrix c, choose min(n, m) cells, no two in one row or column, of least total
// cost. Duals u (n,), v (m,) prove it: u_i + v_j <= c_ij everywhere, equality on the chosen cells, and every
// line left without a cell (only on the longer side) has dual 0 while all duals of that side are <= 0.
// Maximisation is the same problem on -c; the sign is applied when an element is loaded, never to a copy.
//
// Literature
//   R. Jonker, A. Volgenant: A shortest augmenting path algorithm for dense and sparse linear assignment
//     problems. Computing 38, 325-340 (1987). doi:10.1007/BF02278710
//   D. F. Crouse: On implementing 2D rectangular assignment algorithms. IEEE Transactions on Aerospace and
//     Electronic Systems 52(4), 1679-1696 (2016). doi:10.1109/TAES.2016.140952
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "lap/matrix_view.hpp"
#include "lap/wide_integer.hpp"

namespace rebasin_fast {

enum class Status : std::uint8_t {
    optimal,
    infeasible,     // no assignment avoids the forbidden (infinite) cells
    invalid_entry,  // NaN, or an infinity of the wrong sign
    interrupted,    // Options::interrupt asked to stop
};

enum class Method : std::uint8_t {
    automatic,
    jv,             // Jonker-Volgenant on candidate lists with proven bounds
    auction,        // eps-scaled bidding on candidate lists, finished exactly by augmenting paths
    dense,          // Jonker-Volgenant on SIMD row passes
    shortest_path,  // plain row-by-row augmentation, no initialisation; ties as SciPy breaks them
};

// Asked now and then, by the thread that called solve() and by no other, whether to give up.
class Interrupt {
  public:
    virtual ~Interrupt() = default;
    virtual bool requested() = 0;
};

struct Options {
    bool maximize = false;
    bool with_duals = false;
    Method method = Method::automatic;
    int threads = 1;
    double max_gap = 0.0;  // an answer proven this close to the optimum will do, in units of cost
    const double* col_duals = nullptr;  // (cols,) to start from; any finite numbers give an exact answer
    Interrupt* interrupt = nullptr;
    bool ask_small = true;  // false: solve_small() has been asked already, and declined
};

struct Stats {
    Method method = Method::automatic;
    bool exact_integers = false;     // solved in 128-bit integers because float64 could have rounded
    std::int64_t row_scans = 0;      // how often a whole row was read
    std::int64_t augmentations = 0;  // rows that needed a shortest augmenting path
};

// Duals in float64, or in 64-bit integers when `Stats::exact_integers`.
struct Duals {
    std::vector<double> row, col;
    std::vector<std::int64_t> exact_row, exact_col;
    bool overflow = false;  // the exact duals do not fit 64 bits
};

struct Result {
    Status status = Status::optimal;
    std::vector<std::int64_t> row_ind;  // ascending
    std::vector<std::int64_t> col_ind;
    Duals duals;       // filled when Options::with_duals
    double gap = 0.0;  // sum of reduced costs over the chosen cells: an upper bound on cost - optimum
    Stats stats;
};

// Solves the problem. Throws std::bad_alloc only; reads `cost`, never writes to it.
Result solve(const MatrixView& cost, const Options& options);

struct Proof {
    double gap =
        0.0;  // cost of the assignment minus the best feasible dual bound at or below the given duals
    double violation =
        0.0;             // the largest amount by which the given duals break a constraint; 0 when feasible
    double scale = 0.0;  // sum of the magnitudes added up: float64 rounding is a few ulps of this
};

// Checks (row_ind, col_ind), a complete matching, against duals u (rows,), v (cols,) by reading every element
// once. Exact integers: pass int64 duals; the differences are then formed in 128 bits.
Proof prove(const MatrixView& cost, bool maximize, const std::vector<std::int64_t>& row_ind,
            const std::vector<std::int64_t>& col_ind, const double* u, const double* v);
Proof prove(const MatrixView& cost, bool maximize, const std::vector<std::int64_t>& row_ind,
            const std::vector<std::int64_t>& col_ind, const std::int64_t* u, const std::int64_t* v);

}  // namespace rebasin_fast
