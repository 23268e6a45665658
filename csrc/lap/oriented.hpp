// What the algorithms of this folder share: the problem turned so that rows <= cols, rows contiguous.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "lap/crew.hpp"
#include "lap/lap.hpp"
#include "lap/row_source.hpp"
#include "lap/simd/kernels.hpp"

namespace rebasin_fast {

inline constexpr double kForbidden = std::numeric_limits<double>::infinity();

// Above every sum of costs: infinity, or for exact integers a bound that 2^31 rows of 64-bit costs stay
// below.
template <class Num>
constexpr Num unreachable() {
    if constexpr (std::is_floating_point_v<Num>)
        return kForbidden;
    else
        return static_cast<Num>(1) << 126;
}

// A matching of every row of an oriented problem, with the duals that prove it.
template <class Dual>
struct Matching {
    Status status = Status::optimal;
    std::vector<std::int32_t> col_of_row;
    std::vector<Dual> u;  // filled when Options::with_duals
    std::vector<Dual> v;
};

// A matching under construction. v and row_of_col are padded for the kernels: padding of v holds -inf, of
// row_of_col -1.
struct PartialMatching {
    std::vector<double> v;
    std::vector<std::int32_t> col_of_row, row_of_col;

    PartialMatching(std::int64_t rows, std::int64_t cols);

    void assign(std::int32_t i, std::int64_t j) {
        col_of_row[i] = static_cast<std::int32_t>(j);
        row_of_col[j] = i;
    }

    // Flips the path that ends in the free column `sink`; pred[j] is the row through which column j was
    // reached.
    void augment(const std::vector<std::int32_t>& pred, std::int32_t row, std::int64_t sink);

    std::vector<std::int32_t> free_rows() const;
};

// Dense Jonker-Volgenant. Needs rows <= cols.
template <class Source>
Matching<double> solve_dense(const Source& source, const Options& options, Stats* stats);

// Gives every free row a column by shortest augmenting paths over whole rows. The matched rows' columns must
// be their best at the prices in `matching`. After `most_scans` rows have been looked at it leaves the rest
// free.
inline constexpr std::int64_t kWithoutLimit = std::numeric_limits<std::int64_t>::max();
template <class Source>
Status augment_dense(const Source& source, PartialMatching* matching, Interrupt* interrupt, Stats* stats,
                     std::int64_t most_scans);

// Jonker-Volgenant on candidate lists, with eps-scaled bidding where many rows stay free. Needs rows <= cols.
// `column_best` holds the smallest element of every column (the largest when maximising) of a square problem;
// of other problems `seen`, not null then, tells what the entries are like. `turned`: Options::col_duals
// belong to the rows here.
template <class Source>
Matching<double> solve_lists(const Source& source, const Options& options, Crew* crew,
                             const std::vector<typename Source::Element>& column_best, bool turned,
                             simd::Extremes* seen, Stats* stats);

// Plain augmentation row by row, any strides. Dual is double, or int128 for exact integers.
template <class Dual, class T>
Matching<Dual> solve_shortest_path(const TypedView<T>& cost, const Options& options, Stats* stats);

}  // namespace rebasin_fast
