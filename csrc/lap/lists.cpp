// Jonker-Volgenant on candidate lists: the dense algorithm's decisions, made from a few dozen columns a row.
//
// Square problems: column minima (one pass) give prices, one more pass the lists; then a short row reduction
// (bidding with eps = 0). If all but a few rows are matched, shortest augmenting paths do the rest. Else those
// paths would be long, and eps-scaling comes first: bidding with eps from a quarter of the typical slack within
// a list, divided by five from phase to phase, prices kept, and rows within eps of their best keep their
// columns. Where the first eps is so small that bidding ends far from its goal (many rows after the same few
// columns) it is raised and bidding goes on.
// Rectangular problems start from zero prices and go without eps-scaling, for a column left unmatched must
// end with price 0 (Bertsekas & Castanon 1992).
//
// When rows have to be read again too often, or lists outgrow the memory set aside, what is left is done by
// whole rows: a path costs at most n passes there, so everything ends after O(n^3) whatever the input.
//
// D. P. Bertsekas, D. A. Castanon: A forward/reverse auction algorithm for asymmetric assignment problems.
// Computational Optimization and Applications 1, 277-297 (1992). doi:10.1007/BF00249638
// A. Volgenant: Linear and semi-assignment problems: a core oriented approach. Computers & Operations
// Research 23(10), 917-932 (1996). doi:10.1016/0305-0548(96)00010-X
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "lap/bidding.hpp"
#include "lap/factored_reader.hpp"
#include "lap/forest.hpp"
#include "lap/list_state.hpp"
#include "lap/oriented.hpp"
#include "lap/start_prices.hpp"

namespace rebasin_fast {
namespace {

// From this share of free rows on eps-scaling is cheaper than paths, which grow long towards the end.
constexpr double kFewFree = 0.001;
constexpr std::int64_t kReductionBidsPerRow = 2;  // of the first row reduction, before the next step takes over
constexpr std::int64_t kFinalBidsPerRow = 8;      // of the one after eps-scaling
constexpr std::int64_t kScalingBidsPerRow = 20;   // of one phase of eps-scaling
constexpr std::int64_t kReadsPerRow = 6;  // rows read again by the path search, before whole rows take over
constexpr int kPhases = 6;
constexpr double kEpsFall = 5.0;
constexpr double kManyLeft = 0.02;  // so many rows free after the first phase say that its eps was too small
constexpr int kRaises = 3;
constexpr double kEpsRise = 32.0;
constexpr std::int64_t kWarmEntries = 8;  // listed at first when nearly every row is expected to keep its column
constexpr int kWarmPhases = 3;

template <class Source>
class ListSolver {
  public:
    using T = typename Source::Element;

    ListSolver(const Source& source, const Options& options, Crew* crew)
        : options_(options), source_(source), state_(source, crew, options.interrupt), bidding_(&state_) {}

    // False when integer prices have grown too large for float64.
    bool run(const std::vector<T>& column_best, bool turned, simd::Extremes* seen, Stats* stats,
             Matching<double>* matching) {
        const bool warm = state_.is_square() && start(column_best, turned);
        matching->status = solve(warm, seen, stats);
        stats->row_scans += state_.lists.row_scans();
        if (std::is_integral_v<T> && state_.prices.largest() >= 0x1p52) return false;
        if (matching->status == Status::optimal && options_.with_duals) row_duals(&matching->u);
        matching->col_of_row = std::move(state_.matching.col_of_row);
        state_.matching.v.resize(static_cast<std::size_t>(state_.m()));
        matching->v = std::move(state_.matching.v);
        return true;
    }

  private:
    // Sets the first prices; true when they are the caller's.
    bool start(const std::vector<T>& column_best, bool turned) {
        std::vector<double> prices;
        const bool warm = options_.col_duals != nullptr &&
                          given_prices(source_, options_.col_duals, turned, &prices);
        if (!warm && !MongeStart<Source>(source_).find(&prices) && !column_minima(source_, column_best, &prices))
            return false;
        for (std::int64_t j = 0; j < state_.m(); ++j) state_.prices.set(j, prices[j]);
        return warm;
    }

    Status solve(bool warm, simd::Extremes* seen, Stats* stats) {
        const std::int64_t entries = warm ? kWarmEntries : state_.m();
        if (!state_.lists.read_all(state_.prices, entries, seen, options_.interrupt)) return Status::interrupted;
        if (seen != nullptr && seen->invalid) return Status::invalid_entry;
        const double eps = bidding_.typical_slack();
        std::size_t left =
            bidding_.bid_all(state_.matching.free_rows(), 0.0, kReductionBidsPerRow * state_.n()).size();
        const bool few = static_cast<double>(left) <= kFewFree * state_.n();
        const bool scaled = state_.is_square() && options_.method != Method::jv &&
                            (!few || options_.method == Method::auction);
        if (scaled) {
            scale(eps, warm && static_cast<double>(left) <= kManyLeft * state_.n() ? kWarmPhases : kPhases);
            if (options_.max_gap > 0.0 && bidding_.gap() <= options_.max_gap) return Status::optimal;
            bidding_.release_beyond(0.0);
            bidding_.bid_all(state_.matching.free_rows(), 0.0, kFinalBidsPerRow * state_.n());
        }
        if (state_.stopped) return Status::interrupted;
        return find_paths(stats);
    }

    Status find_paths(Stats* stats) {
        Forest<Source> forest(&state_, kReadsPerRow * state_.n());
        switch (forest.match_all(&stats->augmentations)) {
            case Forest<Source>::Outcome::matched:
                return Status::optimal;
            case Forest<Source>::Outcome::infeasible:
                return Status::infeasible;
            case Forest<Source>::Outcome::gave_up:
                break;
        }
        if (state_.stopped) return Status::interrupted;
        return augment_dense(source_, &state_.matching, options_.interrupt, stats);
    }

    // Integer costs are bid for in integers: every price is then an integer, and float64 holds it exactly.
    static double whole(double eps) { return std::is_integral_v<T> ? std::floor(eps) : eps; }

    // eps-scaled bidding, the last `phases` of its phases; rows within eps of their best keep their columns.
    void scale(double eps, int phases) {
        for (int k = kPhases; k > phases; --k) eps /= kEpsFall;
        if (std::is_integral_v<T> && eps > 0.0) eps = std::max(1.0, whole(eps));
        int raises = 0;
        for (int left = phases; left > 0 && eps > 0.0 && !state_.stopped;) {
            bidding_.release_beyond(eps);
            const std::size_t still_free =
                bidding_.bid_all(state_.matching.free_rows(), eps, kScalingBidsPerRow * state_.n()).size();
            if (still_free == 0 && options_.max_gap > 0.0 && bidding_.gap() <= options_.max_gap) return;
            if (static_cast<double>(still_free) > kManyLeft * state_.n() && left == phases && raises++ < kRaises) {
                eps *= kEpsRise;
            } else {
                eps = whole(eps / kEpsFall);
                --left;
            }
        }
    }

    // u_i = min_j (c_ij - v_j): from the list where it and its bound prove it, else from the whole row.
    void row_duals(std::vector<double>* u) {
        const auto& v = state_.prices.v();
        u->resize(static_cast<std::size_t>(state_.n()));
        for (std::int32_t i = 0; i < state_.n(); ++i) {
            const double chosen = state_.reduced_at(i, state_.matching.col_of_row[i]);
            const double least = state_.lists.two_smallest(i, v).first;
            (*u)[i] = std::min(chosen, least);
            if (!((*u)[i] <= state_.lists.of(i).bound))
                (*u)[i] = simd::kernels<T>().reduced_min(state_.lists.row(i), source_.sign, v.data(), state_.m());
        }
    }

    const Options& options_;
    const Source& source_;
    ListState<Source> state_;
    Bidding<Source> bidding_;
};

}  // namespace

template <class Source>
Matching<double> solve_lists(const Source& source, const Options& options, Crew* crew,
                             const std::vector<typename Source::Element>& column_best, bool turned,
                             simd::Extremes* seen, Stats* stats) {
    Matching<double> matching;
    if (ListSolver<Source>(source, options, crew).run(column_best, turned, seen, stats, &matching)) return matching;
    return solve_dense(source, options, stats);
}

#define REBASIN_FAST_INSTANTIATE(T)                               \
    template Matching<double> solve_lists<DenseRows<T>>(          \
        const DenseRows<T>&, const Options&, Crew*, const std::vector<T>&, bool, simd::Extremes*, Stats*);
#include "lap/simd/element_types.inc"
#undef REBASIN_FAST_INSTANTIATE

#define REBASIN_FAST_INSTANTIATE(F)                     \
    template Matching<double> solve_lists<FactoredRows<F>>( \
        const FactoredRows<F>&, const Options&, Crew*, const std::vector<double>&, bool, simd::Extremes*, Stats*);
REBASIN_FAST_INSTANTIATE(float)
REBASIN_FAST_INSTANTIATE(double)
#undef REBASIN_FAST_INSTANTIATE

}  // namespace rebasin_fast
