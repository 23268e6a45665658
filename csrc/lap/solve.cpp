// From a caller's matrix to a result: check the entries, choose orientation, arithmetic and method, solve,
// map back.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>

#include "lap/answer.hpp"
#include "lap/certificate.hpp"
#include "lap/lap.hpp"
#include "lap/oriented.hpp"
#include "lap/row_sample.hpp"
#include "lap/simd/kernels.hpp"
#include "lap/simd/small_kernel.hpp"
#include "lap/small.hpp"
#include "lap/survey.hpp"

namespace rebasin_fast {
namespace {

// Up to this many rows ties are broken as SciPy breaks them, and the plain solver is used.
constexpr std::int64_t kSmall = simd::kScipyRows;

// The largest integer below which float64 holds every integer.
constexpr double kExactDouble = 9007199254740992.0;

// From this many rows on candidate lists pay for the pass that makes them, beside row passes in float64 on
// the matrix where it lies. Sooner where rows are scattered in memory and every look at one costs a copy, and
// on what the solver for small problems has declined as contested, which square problems of that size are.
constexpr std::int64_t kListsFrom = 480, kListsFromScattered = 128;

// Of integers: how large they and their duals can be in magnitude.
struct Bounds {
    double cost, dual;

    Bounds(double low, double high, std::int64_t n)
        : cost(std::max(std::abs(low), std::abs(high))),
          dual(cost + 4.0 * static_cast<double>(n) * (high - low)) {}
};

// Whether all are in [-2^b, 2^b), small enough for all purposes, shows in the bits of x + 2^b, which
// compilers look at as vectors everywhere.
template <class T>
Bounds bounds_of(const TypedView<T>& cost) {
    constexpr int b = sizeof(T) == 8 ? 24 : 8 * sizeof(T) - std::is_signed_v<T>;
    constexpr std::uint64_t small = std::uint64_t{1} << b, shift = std::is_signed_v<T> ? small : 0;
    const Bounds of_small(-static_cast<double>(shift), static_cast<double>(small), cost.rows);
    if constexpr (sizeof(T) < 8) return of_small;
    std::uint64_t bits = 0;
    for (std::int64_t i = 0; i < cost.rows; ++i)
        for (std::int64_t j = 0; j < cost.cols; ++j)
            bits |= static_cast<std::uint64_t>(cost.at(i, j)) + shift;
    if (bits < small + shift) return of_small;
    T low = std::numeric_limits<T>::max(), high = std::numeric_limits<T>::min();
    for (std::int64_t i = 0; i < cost.rows; ++i)
        for (std::int64_t j = 0; j < cost.cols; ++j) {
            low = std::min(low, cost.at(i, j));
            high = std::max(high, cost.at(i, j));
        }
    return {static_cast<double>(low), static_cast<double>(high), cost.rows};
}

// The finest steps in which float64 can hold duals of this size, down to a thousandth: bidding for integers
// with an eps below 1 leaves less to the search for paths.
double step_for(double largest) {
    constexpr int finest = -10;
    return std::ldexp(1.0, std::clamp(std::ilogb(largest) + 1 - 52, finest, 0));
}

// A power of two that keeps sums of n costs finite. 1 unless costs come within a factor 8n of overflow.
double overflow_guard(const simd::Extremes& seen, std::int64_t n) {
    const double limit = std::numeric_limits<double>::max() / (8.0 * static_cast<double>(n));
    return seen.largest_magnitude > limit ? 0x1p-64 : 1.0;
}

// False when they do not fit.
bool store_exact_duals(const std::vector<int128>& in, double sign, std::vector<std::int64_t>* out) {
    out->resize(in.size());
    bool fits = true;
    for (std::size_t k = 0; k < in.size(); ++k) {
        const int128 x = sign < 0 ? -in[k] : in[k];
        (*out)[k] = static_cast<std::int64_t>(x);
        fits &= (*out)[k] == x;
    }
    return fits;
}

// What is left of a chosen cell after its duals can only be >= 0; the sum of that is the gap.
template <class Num, class T>
double gap_of(const TypedView<T>& cost, double sign, const Matching<Num>& matching) {
    double gap = 0.0;
    for (std::size_t i = 0; i < matching.u.size(); ++i) {
        const std::int32_t j = matching.col_of_row[i];
        Num c = static_cast<Num>(cost.at(static_cast<std::int64_t>(i), j));
        if constexpr (std::is_same_v<Num, double>)
            c *= sign;
        else if (sign < 0)
            c = -c;
        gap += to_double(c - matching.v[j] - matching.u[i]);
    }
    return gap / std::abs(sign);
}

template <class Num, class T>
Result finish(const TypedView<T>& cost, double sign, Matching<Num> matching, bool turned, Stats stats) {
    Result result;
    result.status = matching.status;
    result.stats = stats;
    if (matching.status != Status::optimal) return result;
    if (!matching.u.empty()) {
        result.gap = gap_of(cost, sign, matching);
        Duals& duals = result.duals;
        const auto& row = turned ? matching.v : matching.u;
        const auto& col = turned ? matching.u : matching.v;
        if constexpr (std::is_same_v<Num, double>) {
            const bool rows_fit = store_duals(row, sign, &duals.row);
            duals.overflow = !store_duals(col, sign, &duals.col) || !rows_fit;
        } else {
            const bool rows_fit = store_exact_duals(row, sign, &duals.exact_row);
            duals.overflow = !store_exact_duals(col, sign, &duals.exact_col) || !rows_fit;
        }
    }
    store_cells(matching.col_of_row, cost.cols, turned, &result);
    return result;
}

template <class T>
Method choose_method(const TypedView<T>& cost) {
    if (cost.rows <= kSmall) return Method::shortest_path;
    const bool scattered = cost.col_stride != 1 || std::is_same_v<T, Half>, square = cost.rows == cost.cols;
    return cost.rows < (scattered || square ? kListsFromScattered : kListsFrom) ? Method::dense : Method::jv;
}

// Solves in float64. Nothing where that might have rounded integers, `doubtful` ones, and did.
template <class T>
std::optional<Result> solve_in_float64(const TypedView<T>& cost, const Options& options, bool turned,
                                       double step, bool doubtful, Stats stats) {
    const double sign = options.maximize ? -1.0 : 1.0;
    stats.method = options.method != Method::automatic ? options.method : choose_method(cost);
    const bool by_lists = stats.method == Method::jv || stats.method == Method::auction;
    Crew crew(options.threads);
    Survey<Widened<T>> found;
    const DenseRows<T> rows(cost, sign, step);
    const bool surveyed = !by_lists || (cost.rows == cost.cols && options.col_duals == nullptr &&
                                        !tail_is_heavy(rows) && minima_are_wanted(rows, options.maximize));
    if (surveyed) {
        found = survey(rows, options.maximize, &crew);
        stats.row_scans += cost.rows;
    }
    for (double guard = 1.0;;) {
        if (found.seen.invalid) return with_status(Status::invalid_entry);
        if (std::is_same_v<T, double>) guard = overflow_guard(found.seen, cost.rows);
        const DenseRows<T> source(cost, sign * guard, step);
        Matching<double> matching;
        if (by_lists)
            matching = solve_lists(source, options, &crew, found.column_best, turned,
                                   surveyed ? nullptr : &found.seen, &stats);
        else if (stats.method == Method::dense || guard != 1.0)
            matching = solve_dense(source, options, &stats);
        else
            matching = solve_shortest_path<double>(cost, options, &stats);
        // Without a survey it is known only now whether sums could overflow.
        if (std::is_same_v<T, double> && !surveyed && guard == 1.0 &&
            overflow_guard(found.seen, cost.rows) != 1.0)
            continue;
        if constexpr (std::is_integral_v<T> && sizeof(T) == 8) {
            if (doubtful && matching.status == Status::optimal) {
                stats.row_scans += cost.rows;
                if (!holds_in_integers(cost, options.maximize, matching)) return std::nullopt;
            }
        }
        return finish(cost, sign * guard, std::move(matching), turned, stats);
    }
}

// `cost` has rows <= cols.
template <class T>
Result solve_typed(const TypedView<T>& cost, const Options& options, bool turned) {
    if constexpr (std::is_integral_v<T>) {
        const Bounds bounds = bounds_of(cost);
        const double step = options.max_gap == 0.0 ? step_for(bounds.dual) : 1.0;
        if constexpr (sizeof(T) == 8) {
            Stats stats;
            stats.row_scans = cost.rows;
            // Bounds are for the worst case: where float64 holds all costs it mostly holds duals, too.
            const bool doubtful = bounds.dual >= kExactDouble;
            if (!doubtful || (2.0 * bounds.cost < kExactDouble && options.max_gap == 0.0 &&
                              options.method == Method::automatic))
                if (std::optional<Result> result =
                        solve_in_float64(cost, options, turned, step, doubtful, stats))
                    return *std::move(result);
            stats.method = Method::shortest_path;
            stats.exact_integers = true;
            auto matching = solve_shortest_path<int128>(cost, options, &stats);
            return finish(cost, options.maximize ? -1.0 : 1.0, std::move(matching), turned, stats);
        }
        return *solve_in_float64(cost, options, turned, step, false, {});
    }
    return *solve_in_float64(cost, options, turned, 1.0, false, {});
}

// Nothing when the entries ask for the general path.
std::optional<Result> solve_as_small(const MatrixView& cost, const Options& options) {
    const std::int64_t n = std::min(cost.rows, cost.cols);
    Result result;
    result.row_ind.resize(n);
    result.col_ind.resize(n);
    SmallAnswer answer{result.row_ind.data(), result.col_ind.data()};
    if (options.with_duals) {
        result.duals.row.resize(cost.rows);
        result.duals.col.resize(cost.cols);
        answer.row_duals = result.duals.row.data();
        answer.col_duals = result.duals.col.data();
    }
    const std::optional<Status> status = solve_small(cost, options.maximize, &answer);
    if (!status) return std::nullopt;
    result.status = *status;
    result.gap = answer.gap;
    result.stats.method = answer.method;
    result.stats.row_scans = answer.row_scans;
    result.stats.augmentations = answer.augmentations;
    return result;
}

}  // namespace

Result solve(const MatrixView& cost, const Options& options) {
    if (cost.rows == 0 || cost.cols == 0) {
        Result result;
        if (options.with_duals) {
            result.duals.row.assign(cost.rows, 0.0);
            result.duals.col.assign(cost.cols, 0.0);
        }
        return result;
    }
    // Beyond some size duals to start from spare more than the small solver, which has no use for them.
    const bool warm = options.col_duals != nullptr && std::min(cost.rows, cost.cols) >= kListsFrom;
    if (options.method == Method::automatic && options.ask_small && !warm && small_enough(cost))
        if (std::optional<Result> result = solve_as_small(cost, options)) return *std::move(result);
    // Rows must be the shorter side. A square problem in column order is solved as its transpose where it
    // lies, except when it is small: there ties are broken as SciPy breaks them, which depends on the
    // orientation.
    const bool column_order = cost.rows == cost.cols && cost.row_stride == 1 && !cost.rows_are_contiguous();
    const bool turned = cost.rows > cost.cols || (column_order && cost.rows > kSmall);
    MatrixView view = turned ? cost.transposed() : cost;
    if (view.cols == 1) view.col_stride = 1;
    return visit(view, [&](const auto& typed_view) { return solve_typed(typed_view, options, turned); });
}

}  // namespace rebasin_fast
