#include "cuda/host_paths.hpp"

#include <algorithm>
#include <utility>

#include "lap/crew.hpp"
#include "lap/forest.hpp"
#include "lap/list_state.hpp"

namespace rebasin_fast::cuda {
namespace {

// A source of rows (see lap/row_source.hpp) whose matrix is on the device. Single cells are asked for where
// a row is matched: these are in its list, or were, and a row that must be fetched for one is kept.
template <class S>
class DeviceRows {
  public:
    using Element = S;
    static constexpr bool kInMemory = false;
    static constexpr std::int64_t kBytes = sizeof(S);
    static constexpr double price_step = 1.0;

    DeviceRows(HostProblem<S>* problem, const std::function<void(std::int64_t, S*)>& fetch)
        : rows(problem->rows), cols(problem->cols), sign(problem->sign), problem_(*problem), fetch_(fetch) {
        known_.resize(static_cast<std::size_t>(rows), {-1, S{}});
    }

    const std::int64_t rows, cols;
    const double sign;

    double at(std::int64_t i, std::int64_t j) const {
        Cell& known = known_[static_cast<std::size_t>(i)];
        if (known.column != j) known = find(i, j);
        return sign * static_cast<double>(known.element);
    }

    std::int64_t rows_together() const { return 1; }
    std::int64_t scattered_together() const { return 1; }

    class Reader {
      public:
        explicit Reader(const DeviceRows& source) : source_(source) {}

        const S* row(std::int64_t i) {
            if (i != at_) source_.read(i, &row_);
            at_ = i;
            return row_.data();
        }
        const S* row_in_memory(std::int64_t) const { return nullptr; }
        const S* rows(std::int64_t first, std::int64_t, std::int64_t* stride) {
            *stride = source_.cols;
            return row(first);
        }

      private:
        const DeviceRows& source_;
        std::vector<S> row_;
        std::int64_t at_ = -1;
    };

  private:
    struct Cell {
        std::int64_t column;
        S element;
    };

    Cell find(std::int64_t i, std::int64_t j) const {
        const std::int64_t first = i * problem_.listed;
        for (std::int64_t k = first; k < first + problem_.list_size[static_cast<std::size_t>(i)]; ++k)
            if (problem_.list_columns[static_cast<std::size_t>(k)] == j)
                return {j, problem_.list_costs[static_cast<std::size_t>(k)]};
        if (fetched_ != i) read(i, &row_);
        fetched_ = i;
        return {j, row_[static_cast<std::size_t>(j)]};
    }

    void read(std::int64_t i, std::vector<S>* row) const {
        row->resize(static_cast<std::size_t>(cols));
        fetch_(i, row->data());
        ++problem_.row_scans;
    }

    HostProblem<S>& problem_;
    const std::function<void(std::int64_t, S*)>& fetch_;
    mutable std::vector<Cell> known_;  // the cell of each row that was last asked for
    mutable std::vector<S> row_;
    mutable std::int64_t fetched_ = -1;
};

}  // namespace

template <class S>
PathsFound find_paths_on_host(HostProblem<S>* problem, const std::function<void(std::int64_t, S*)>& fetch,
                              Interrupt* interrupt, std::int64_t reads, std::int64_t* found) {
    const DeviceRows<S> source(problem, fetch);
    Crew alone(1);
    ListState<DeviceRows<S>> state(source, &alone, interrupt);
    for (std::int64_t j = 0; j < problem->cols; ++j) {
        state.prices.set(j, problem->v[static_cast<std::size_t>(j)]);
        state.matching.row_of_col[static_cast<std::size_t>(j)] =
            problem->row_of_col[static_cast<std::size_t>(j)];
    }
    state.matching.col_of_row = problem->col_of_row;
    for (std::int32_t i = 0; i < state.n(); ++i) {
        const auto at = static_cast<std::size_t>(i) * static_cast<std::size_t>(problem->listed);
        state.lists.adopt(i, problem->list_columns.data() + at, problem->list_costs.data() + at,
                          problem->list_size[static_cast<std::size_t>(i)],
                          problem->list_bound[static_cast<std::size_t>(i)]);
    }
    Forest<DeviceRows<S>> forest(&state, reads);
    const auto outcome = forest.match_all(found);
    std::copy_n(state.matching.v.begin(), problem->cols, problem->v.begin());
    std::copy_n(state.matching.row_of_col.begin(), problem->cols, problem->row_of_col.begin());
    problem->col_of_row = state.matching.col_of_row;
    if (state.stopped) return PathsFound::interrupted;
    switch (outcome) {
        case Forest<DeviceRows<S>>::Outcome::matched:
            return PathsFound::all;
        case Forest<DeviceRows<S>>::Outcome::infeasible:
            return PathsFound::infeasible;
        default:
            return PathsFound::gave_up;
    }
}

#define REBASIN_FAST_INSTANTIATE(S)                                                                          \
    template PathsFound find_paths_on_host<S>(HostProblem<S>*, const std::function<void(std::int64_t, S*)>&, \
                                              Interrupt*, std::int64_t, std::int64_t*);
REBASIN_FAST_INSTANTIATE(float)
REBASIN_FAST_INSTANTIATE(double)
REBASIN_FAST_INSTANTIATE(std::int32_t)
#undef REBASIN_FAST_INSTANTIATE

}  // namespace rebasin_fast::cuda
