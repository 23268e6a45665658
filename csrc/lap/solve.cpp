// From a caller's matrix to a result: check the entries, choose orientation, arithmetic and method, solve,
// map back.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "lap/certificate.hpp"
#include "lap/lap.hpp"
#include "lap/oriented.hpp"
#include "lap/simd/kernels.hpp"
#include "lap/small.hpp"

namespace rebasin_fast {
namespace {

// Below this many rows the plain solver wins: initialisation costs more than it saves.
constexpr std::int64_t kSmall = 48;

// The largest integer below which float64 holds every integer.
constexpr double kExactDouble = 9007199254740992.0;

// From this many rows on candidate lists pay for the pass that makes them.
constexpr std::int64_t kListsFrom = 192;

// What one pass over the entries tells.
template <class T>
struct Survey {
    simd::Extremes seen{};
    bool needs_exact_integers = false;
    std::vector<T> column_best;  // smallest entry of every column, the largest when maximising
};

// A matrix turned and, where rows were not contiguous, packed; owns the packed copy.
template <class T>
struct Packed {
    std::vector<T> storage;
    TypedView<T> view;
};

// Copies block by block, so that both sides stay in cache whatever the strides. `change` maps each element.
template <class T, class Change>
Packed<T> pack(const TypedView<T>& source, Change change) {
    constexpr std::int64_t block = 32;
    Packed<T> packed;
    packed.storage.resize(static_cast<std::size_t>(source.rows) * static_cast<std::size_t>(source.cols));
    T* out = packed.storage.data();
    for (std::int64_t i0 = 0; i0 < source.rows; i0 += block)
        for (std::int64_t j0 = 0; j0 < source.cols; j0 += block)
            for (std::int64_t i = i0; i < std::min(i0 + block, source.rows); ++i)
                for (std::int64_t j = j0; j < std::min(j0 + block, source.cols); ++j)
                    out[i * source.cols + j] = change(source.at(i, j));
    packed.view = {out, source.rows, source.cols, source.cols, 1};
    return packed;
}

// Duals stay below largest + 4 n range in magnitude; when float64 holds all integers up to there, it is
// exact.
template <class T>
bool float64_may_round(const TypedView<T>& cost) {
    T low = std::numeric_limits<T>::max(), high = std::numeric_limits<T>::min();
    for (std::int64_t i = 0; i < cost.rows; ++i)
        for (std::int64_t j = 0; j < cost.cols; ++j) {
            low = std::min(low, cost.at(i, j));
            high = std::max(high, cost.at(i, j));
        }
    const double lo = static_cast<double>(low), hi = static_cast<double>(high);
    return std::max(std::abs(lo), std::abs(hi)) + 4.0 * static_cast<double>(cost.rows) * (hi - lo) >=
           kExactDouble;
}

template <class T>
Survey<T> survey(const TypedView<T>& cost, bool maximize) {
    constexpr std::int64_t rows =
        8;  // together, so that the minima travel through the cache an eighth as often
    Survey<T> found;
    if constexpr (std::is_integral_v<T> && sizeof(T) == 8)
        found.needs_exact_integers = float64_may_round(cost);
    found.column_best.assign(cost.row(0), cost.row(0) + cost.cols);
    for (std::int64_t i = 0; i < cost.rows; i += rows)
        simd::kernels<T>().column_best(cost.row(i), cost.row_stride, std::min(rows, cost.rows - i), maximize,
                                       found.column_best.data(), cost.cols, &found.seen);
    return found;
}

// Whether a sample of rows says that whole rows are faster than lists. Either nearly every row holds a column
// minimum (planted permutations, few distinct values): then column reduction alone all but solves the
// problem. Or rows have more equal best entries than a list has room for: short lists say nothing then, and
// among equals a whole-row search finds a free one at once.
template <class T>
bool whole_rows_suffice(const TypedView<T>& cost, bool maximize, const std::vector<T>& column_best) {
    constexpr std::int64_t many = 64;
    constexpr double nearly_all = 0.95;
    const bool square = cost.rows == cost.cols;
    const std::int64_t samples = std::min<std::int64_t>(64, cost.rows);
    std::int64_t rich = 0, hold = 0;
    for (std::int64_t k = 0; k < samples; ++k) {
        const T* row = cost.row(k * cost.rows / samples);
        double best = kForbidden;
        std::int64_t equal = 0;
        for (std::int64_t j = 0; j < cost.cols; ++j) {
            double x = static_cast<double>(row[j]);
            if (square) x -= static_cast<double>(column_best[j]);
            if (maximize) x = -x;
            equal = x < best ? 1 : equal + (x == best);
            best = std::min(best, x);
        }
        rich += equal > many;
        hold += square && best == 0.0;
    }
    return 2 * rich > samples || static_cast<double>(hold) >= nearly_all * static_cast<double>(samples);
}

// A power of two that keeps sums of n costs finite. 1 unless costs come within a factor 8n of overflow.
double overflow_guard(const simd::Extremes& seen, std::int64_t n) {
    const double limit = std::numeric_limits<double>::max() / (8.0 * static_cast<double>(n));
    return seen.largest_magnitude > limit ? std::ldexp(1.0, -64) : 1.0;
}

double sum_of_reduced_costs(const std::vector<double>& slack) {
    double sum = 0.0;
    for (const double s : slack) sum += s;
    return sum;
}

// u_i = min_j (c_ij - v_j); what is left of a chosen cell after its duals can only be >= 0, and its sum is
// the gap.
template <class Num, class T>
std::vector<Num> tight_row_duals(const TypedView<T>& cost, bool maximize, const Matching<Num>& matching,
                                 double* gap) {
    std::vector<Num> u = row_minima<Num>(cost, maximize, matching.v);
    std::vector<double> slack(u.size());
    for (std::size_t i = 0; i < u.size(); ++i) {
        const std::int32_t j = matching.col_of_row[i];
        const Num c = static_cast<Num>(cost.at(static_cast<std::int64_t>(i), j));
        slack[i] = static_cast<double>((maximize ? -c : c) - matching.v[j] - u[i]);
    }
    *gap = sum_of_reduced_costs(slack);
    return u;
}

void store_duals(const std::vector<double>& in, double factor, std::vector<double>* out, Duals*,
                 std::vector<std::int64_t>*) {
    out->resize(in.size());
    std::transform(in.begin(), in.end(), out->begin(), [=](double x) { return x * factor; });
}

void store_duals(const std::vector<int128>& in, double factor, std::vector<double>*, Duals* duals,
                 std::vector<std::int64_t>* out) {
    out->resize(in.size());
    for (std::size_t k = 0; k < in.size(); ++k) {
        const int128 x = factor < 0 ? -in[k] : in[k];
        (*out)[k] = static_cast<std::int64_t>(x);
        duals->overflow |= (*out)[k] != x;
    }
}

template <class Num, class T>
Result finish(const TypedView<T>& cost, const Options& options, Matching<Num> matching, bool turned,
              double scale, Stats stats) {
    Result result;
    result.status = matching.status;
    result.stats = stats;
    if (matching.status != Status::optimal) return result;
    if (options.with_duals) {
        const std::vector<Num> u = tight_row_duals(cost, options.maximize, matching, &result.gap);
        result.gap /= scale;
        const double factor = (options.maximize ? -1.0 : 1.0) / scale;
        Duals& d = result.duals;
        store_duals(turned ? matching.v : u, factor, &d.row, &d, &d.exact_row);
        store_duals(turned ? u : matching.v, factor, &d.col, &d, &d.exact_col);
        result.stats.row_scans += cost.rows;
    }
    const auto n = static_cast<std::int64_t>(matching.col_of_row.size());
    result.row_ind.resize(n);
    result.col_ind.resize(n);
    if (!turned) {
        for (std::int64_t i = 0; i < n; ++i)
            result.row_ind[i] = i, result.col_ind[i] = matching.col_of_row[i];
        return result;
    }
    std::vector<std::int64_t> col_of_original_row(cost.cols, -1);
    for (std::int64_t i = 0; i < n; ++i) col_of_original_row[matching.col_of_row[i]] = i;
    for (std::int64_t r = 0, k = 0; r < cost.cols; ++r)
        if (col_of_original_row[r] >= 0) result.row_ind[k] = r, result.col_ind[k++] = col_of_original_row[r];
    return result;
}

template <class T>
Result solve_in_place(TypedView<T> cost, const Options& options, bool turned, double scale,
                      const Survey<T>& found) {
    Stats stats;
    stats.row_scans = cost.rows;
    if constexpr (std::is_integral_v<T> && sizeof(T) == 8) {
        if (found.needs_exact_integers) {
            stats.method = Method::shortest_path;
            stats.exact_integers = true;
            auto matching = solve_shortest_path<int128>(cost, options.maximize, &stats);
            return finish(cost, options, std::move(matching), turned, scale, stats);
        }
    }
    stats.method = options.method != Method::automatic ? options.method
                   : cost.rows <= kSmall               ? Method::shortest_path
                   : cost.rows < kListsFrom || whole_rows_suffice(cost, options.maximize, found.column_best)
                       ? Method::dense
                       : Method::jv;
    auto matching =
        stats.method == Method::jv      ? solve_lists(cost, options.maximize, found.column_best, &stats)
        : stats.method == Method::dense ? solve_dense(cost, options.maximize, &stats)
                                        : solve_shortest_path<double>(cost, options.maximize, &stats);
    return finish(cost, options, std::move(matching), turned, scale, stats);
}

// `cost` has rows <= cols and contiguous rows.
template <class T>
Result solve_contiguous(const TypedView<T>& cost, const Options& options, bool turned) {
    Survey<T> found = survey(cost, options.maximize);
    if (found.seen.invalid) {
        Result result;
        result.status = Status::invalid_entry;
        return result;
    }
    if constexpr (std::is_same_v<T, double>) {
        const double scale = overflow_guard(found.seen, cost.rows);
        if (scale != 1.0) {
            const Packed<T> scaled = pack(cost, [=](T c) { return c * scale; });
            for (T& c : found.column_best) c *= scale;
            return solve_in_place(scaled.view, options, turned, scale, found);
        }
    }
    return solve_in_place(cost, options, turned, 1.0, found);
}

template <class T>
Result solve_typed(const TypedView<T>& cost, const Options& options, bool turned) {
    if (cost.col_stride == 1) return solve_contiguous(cost, options, turned);
    const Packed<T> packed = pack(cost, [](T c) { return c; });
    return solve_contiguous(packed.view, options, turned);
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
    if (options.method == Method::automatic && small_enough(cost))
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
