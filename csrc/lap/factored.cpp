#include "lap/factored.hpp"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "lap/answer.hpp"
#include "lap/oriented.hpp"
#include "lap/simd/kernels.hpp"

namespace rebasin_fast {
namespace {

// Matrices of up to this many products are made: solving them then takes no longer than making them.
constexpr std::int64_t kSmallMatrix = std::int64_t{1} << 18;

template <class F>
Result solve_as_matrix(const FactoredRows<F>& source, const Options& options, bool turned) {
    typename FactoredRows<F>::Reader reader(source);
    MatrixView matrix{nullptr, ElementType::f64, source.rows, source.cols, 0, 1};
    matrix.data = reader.rows(0, source.rows, &matrix.row_stride);
    return solve(turned ? matrix.transposed() : matrix, options);
}

// The smallest product of every column, the largest when maximising, as good as sums in F give it; nothing
// when asked to stop.
template <class F>
std::vector<double> column_best(const FactoredRows<F>& source, const Options& options, Crew* crew,
                                Stats* stats) {
    using Panel = typename FactoredRows<F>::template Panel<F>;
    std::vector<std::vector<F>> best(static_cast<std::size_t>(crew->size()));
    std::vector<Panel> panels(best.size(), Panel(source));
    constexpr std::int64_t stretch = 64, every = 4;
    const std::int64_t together = source.rows_together(), apart = every * together;
    const std::int64_t tasks = (source.rows + apart - 1) / apart;

    for (std::int64_t begin = 0; begin < tasks; begin += stretch) {
        if (options.interrupt != nullptr && options.interrupt->requested()) return {};
        crew->for_each(std::min(stretch, tasks - begin), [&](int worker, std::int64_t k) {
            std::vector<F>& mine = best[static_cast<std::size_t>(worker)];
            const std::int64_t row = (begin + k) * apart, count = std::min(together, source.rows - row);
            std::int64_t stride;
            const F* first = panels[static_cast<std::size_t>(worker)].rows(row, count, &stride);
            if (mine.empty()) mine.assign(first, first + source.cols);
            simd::Extremes seen{};
            simd::kernels<F>().column_best(first, stride, count, options.maximize, mine.data(), source.cols,
                                           &seen);
        });
    }
    stats->row_scans += std::min(source.rows, tasks * together);
    std::vector<F> all;
    simd::Extremes seen{};
    for (const std::vector<F>& part : best) {
        if (part.empty()) continue;
        if (all.empty()) all = part;
        simd::kernels<F>().column_best(part.data(), 0, 1, options.maximize, all.data(), source.cols, &seen);
    }
    return {all.begin(), all.end()};
}

// What is left of the chosen cells after their duals.
template <class F>
double gap_of(const FactoredRows<F>& source, const Matching<double>& matching) {
    double gap = 0.0;
    for (std::size_t i = 0; i < matching.u.size(); ++i) {
        const std::int32_t j = matching.col_of_row[i];
        gap += source.at(static_cast<std::int64_t>(i), j) - matching.v[j] - matching.u[i];
    }
    return gap;
}

template <class F>
Result solve_by_rows(const FactoredRows<F>& source, const Options& options, bool turned, Crew* crew) {
    Stats stats;
    stats.method = Method::jv;
    std::vector<double> best;
    if (source.rows == source.cols) {
        best = column_best(source, options, crew, &stats);
        if (best.empty()) return with_status(Status::interrupted);
    }
    Matching<double> matching = solve_lists(source, options, crew, best, turned, nullptr, &stats);
    if (matching.status != Status::optimal) return with_status(matching.status);
    Result result;
    result.stats = stats;
    if (options.with_duals) {
        result.gap = gap_of(source, matching);
        const bool rows_fit = store_duals(turned ? matching.v : matching.u, source.sign, &result.duals.row);
        const bool cols_fit = store_duals(turned ? matching.u : matching.v, source.sign, &result.duals.col);
        result.duals.overflow = !rows_fit || !cols_fit;
    }
    store_cells(matching.col_of_row, source.cols, turned, &result);
    return result;
}

}  // namespace

template <class F>
FactoredResult solve_factored(const FactorView<F>& a, const FactorView<F>& b, const Options& options) {
    FactoredResult found;
    if (a.rows == 0 || b.rows == 0) {
        found.result = solve({nullptr, ElementType::f64, a.rows, b.rows, b.rows, 1}, options);
        return found;
    }
    const bool turned = a.rows > b.rows;
    Crew crew(options.threads);
    const FactoredRows<F> source(turned ? b : a, turned ? a : b, options.maximize, &crew);
    if (!source.is_valid()) {
        found.result = with_status(Status::invalid_entry);
        return found;
    }
    const bool small = source.rows * source.cols <= kSmallMatrix;
    found.result =
        small ? solve_as_matrix(source, options, turned) : solve_by_rows(source, options, turned, &crew);
    const auto& row_ind = found.result.row_ind;
    const auto& col_ind = found.result.col_ind;
    for (std::size_t k = 0; k < row_ind.size(); ++k) {
        const std::int64_t i = turned ? col_ind[k] : row_ind[k], j = turned ? row_ind[k] : col_ind[k];
        found.products.push_back(source.sign * source.at(i, j));
    }
    return found;
}

template FactoredResult solve_factored(const FactorView<float>&, const FactorView<float>&, const Options&);
template FactoredResult solve_factored(const FactorView<double>&, const FactorView<double>&, const Options&);

}  // namespace rebasin_fast
