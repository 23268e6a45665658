// Successive shortest augmenting paths, one row after the other, without any initialisation (Crouse 2016).
//
// Three uses: the fastest choice for a few dozen rows, where every initialisation costs more than it saves;
// the solver for integers that float64 cannot carry (Dual = int128); the oracle of the tests.
//
// Ties are broken as SciPy's solver of the same family breaks them, so that the small problems one meets in
// documentation and golden tests get the very optimum SciPy returns: among equal path lengths an unassigned
// column wins over an assigned one; columns are visited from a list that starts in descending order and is
// kept dense by moving its last entry into the gap; of several unassigned ones the last visited wins.
#include <algorithm>
#include <utility>

#include "lap/certificate.hpp"
#include "lap/oriented.hpp"

namespace rebasin_fast {
namespace {

template <class Dual, class T>
class Augmenter {
  public:
    Augmenter(const TypedView<T>& cost, const Options& options)
        : cost_(cost),
          maximize_(options.maximize),
          interrupt_(options.interrupt),
          u_(cost.rows, 0),
          v_(cost.cols, 0),
          length_(cost.cols),
          pred_(cost.cols, -1),
          col_of_row_(cost.rows, -1),
          row_of_col_(cost.cols, -1),
          remaining_(cost.cols) {}

    // Gives `row` a column, unless no path reaches a free one.
    Status augment(std::int32_t row) {
        Dual least = 0;
        const std::int32_t sink = search(row, &least);
        if (sink < 0) return stopped_ ? Status::interrupted : Status::infeasible;
        update_duals(row, least);
        for (std::int32_t j = sink, i = -1; i != row;) {
            i = pred_[j];
            row_of_col_[j] = i;
            std::swap(col_of_row_[i], j);
        }
        return Status::optimal;
    }

    Matching<Dual> matching(Status status) && { return {status, std::move(col_of_row_), {}, std::move(v_)}; }
    std::int64_t row_scans() const { return row_scans_; }

  private:
    Dual cost_at(std::int32_t i, std::int32_t j) const {
        const Dual c = static_cast<Dual>(cost_.at(i, j));
        return maximize_ ? -c : c;
    }

    std::int32_t search(std::int32_t row, Dual* least) {
        scanned_.clear();
        std::fill(length_.begin(), length_.end(), unreachable<Dual>());
        const auto count = static_cast<std::int32_t>(remaining_.size());
        for (std::int32_t k = 0; k < count; ++k) remaining_[k] = count - 1 - k;
        std::int32_t open = count;
        for (std::int32_t i = row;;) {
            const std::int32_t nearest = relax(i, open, *least);
            ++row_scans_;
            if (nearest < 0 || stop_wanted(open)) return -1;
            const std::int32_t j = remaining_[nearest];
            *least = length_[j];
            if (row_of_col_[j] < 0) return j;
            scanned_.push_back(j);
            remaining_[nearest] = remaining_[--open];
            i = row_of_col_[j];
        }
    }

    // Also within a search: one alone may read the whole matrix.
    bool stop_wanted(std::int64_t elements) {
        constexpr std::int64_t between_questions = std::int64_t{1} << 22;
        if (interrupt_ == nullptr || (unasked_ += elements) < between_questions) return false;
        unasked_ = 0;
        return stopped_ = interrupt_->requested();
    }

    // Extends paths through row i; returns the place in `remaining_` of the nearest open column, -1 if none.
    std::int32_t relax(std::int32_t i, std::int32_t open, Dual base) {
        std::int32_t nearest = -1;
        Dual lowest = unreachable<Dual>();
        for (std::int32_t k = 0; k < open; ++k) {
            const std::int32_t j = remaining_[k];
            const Dual through = base + cost_at(i, j) - u_[i] - v_[j];
            if (through < length_[j]) {
                length_[j] = through;
                pred_[j] = i;
            }
            if (length_[j] < lowest || (length_[j] == lowest && row_of_col_[j] < 0 && nearest >= 0)) {
                lowest = length_[j];
                nearest = k;
            }
        }
        return nearest;
    }

    void update_duals(std::int32_t row, Dual least) {
        u_[row] += least;
        for (const std::int32_t j : scanned_) {
            u_[row_of_col_[j]] += least - length_[j];
            v_[j] -= least - length_[j];
        }
    }

    const TypedView<T>& cost_;
    const bool maximize_;
    Interrupt* const interrupt_;
    bool stopped_ = false;
    std::vector<Dual> u_, v_, length_;
    std::vector<std::int32_t> pred_, col_of_row_, row_of_col_, remaining_, scanned_;
    std::int64_t row_scans_ = 0, unasked_ = 0;  // the latter in elements
};

}  // namespace

template <class Dual, class T>
Matching<Dual> solve_shortest_path(const TypedView<T>& cost, const Options& options, Stats* stats) {
    Augmenter<Dual, T> augmenter(cost, options);
    Status status = Status::optimal;
    for (std::int32_t row = 0; row < cost.rows && status == Status::optimal; ++row)
        status = augmenter.augment(row);
    stats->row_scans += augmenter.row_scans();
    stats->augmentations = cost.rows;
    Matching<Dual> matching = std::move(augmenter).matching(status);
    if (options.with_duals && status == Status::optimal)
        matching.u = row_minima<Dual>(cost, options.maximize, matching.v);
    return matching;
}

#define REBASIN_FAST_INSTANTIATE(T) \
    template Matching<double> solve_shortest_path<double, T>(const TypedView<T>&, const Options&, Stats*);
#include "lap/simd/element_types.inc"
REBASIN_FAST_INSTANTIATE(Half)
#undef REBASIN_FAST_INSTANTIATE
template Matching<int128> solve_shortest_path<int128, std::int64_t>(const TypedView<std::int64_t>&,
                                                                    const Options&, Stats*);
template Matching<int128> solve_shortest_path<int128, std::uint64_t>(const TypedView<std::uint64_t>&,
                                                                     const Options&, Stats*);

}  // namespace rebasin_fast
