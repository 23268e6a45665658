// Jonker-Volgenant on candidate lists: the dense algorithm's decisions, made from a few dozen columns a row.
//
// Square problems: column minima (one pass) give prices, one more pass the lists; then a short row reduction
// (bidding with eps = 0). If all but a few rows are matched, shortest augmenting paths do the rest. Else
// those paths would be long, and eps-scaling comes first: bidding with a small part of the typical slack
// within a list as eps, which falls from phase to phase, prices kept. Small, for on most problems a row then
// hardly ever has to be read again, and that costs as much as fifty bids. Where so small an eps leaves many
// rows free (many after the same few columns) it is raised, and bidding goes on from there: what holds to
// within an eps holds to within a larger one. Rectangular problems start from zero prices and go without
// eps-scaling, for a column left unmatched must end with price 0 (Bertsekas & Castanon 1992); where their
// rows turn out to compete, and there are nearly as many as columns, blank rows make them square after all.
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
#include "lap/monge.hpp"
#include "lap/oriented.hpp"
#include "lap/start_prices.hpp"
#include "lap/survey.hpp"

namespace rebasin_fast {
namespace {

// From this share of free rows on eps-scaling is cheaper than paths, which grow long towards the end.
constexpr double kFewFree = 0.001;

// Bids, per row: of the first row reduction, of the last, of a phase of eps-scaling, and of its first phase
// before eps is raised and after. What few rows are free towards the end of the first phase may stay so:
// there the next eps is better spent, while each of their many bids asks for another row to be read again.
constexpr std::int64_t kReductionBids = 2, kFinalBids = 8, kScalingBids = 20, kFirstBids = 8, kLateBids = 6;

// Where eps-scaling begins and ends, as parts of the typical slack. The share of rows that the row reduction
// leaves free tells how much competition there is, and so how far prices have to fall.
constexpr double kMuchCompetition = 0.25;
constexpr double kEpsOfMuch = 0.125, kEpsOfLittle = 0.012, kEpsLeast = 1e-5;
constexpr double kEpsFallOfMuch = 7.0, kEpsFallOfLittle = 14.0;

// So many rows free in the first phase say that its eps is too small. So many raises take it over 28 orders
// of magnitude.
constexpr double kManyLeft = 0.01;
constexpr double kEpsRise = 8.0;
constexpr int kMostRaises = 32;

// Entries of a row's first list. A short one is quick to look through; rows it does not serve are read again
// and get a longer one. Where there are more columns than rows there is less competition.
constexpr std::int64_t kFirstList = 32, kFirstListOfRectangular = 8;

// Rows still free for which it pays to make lists only on demand.
constexpr std::size_t kFewUnread = 32;

// Among ties so many looks at whole rows, per row, are tried before lists are made.
constexpr std::int64_t kScansAmongTies = 2;
constexpr std::int64_t kSeveral = 4;  // equally good columns that count as ties

// The caller's duals, by the share of rows they leave without a column. What is nearly right is corrected in
// a few phases of falling eps, and should have ended before so many rows, per row, were read again.
constexpr double kHopeless = 0.6, kNearlyRight = 0.1;
constexpr int kCorrections = 2;
constexpr double kEpsOfCorrection = 0.025, kCorrectionFall = 20.0;
constexpr std::int64_t kCorrectionReads = 2;

// A rectangular problem is made square from this share of free rows on, and so much more for every share of
// columns that blank rows take; but not with more columns for each row than that.
constexpr double kContested = 0.004, kContestedPerBlank = 2.0, kMostContested = 0.6;
constexpr double kFewColumnsPerRow = 1.125, kMostColumnsPerRow = 4.0;

// Rows read again by the path search, per row, before whole rows take over.
constexpr std::int64_t kPathReads = 6;

template <class Source>
class ListSolver {
  public:
    using T = typename Source::Element;

    ListSolver(const Source& source, const Options& options, Crew* crew)
        : options_(options), source_(source), state_(source, crew, options.interrupt), bidding_(&state_) {}

    // False when the problem is contested, the caller's duals led nowhere, or integer prices have grown too
    // large for float64.
    bool run(const std::vector<T>& column_best, bool turned, simd::Extremes* seen, Stats* stats,
             Matching<double>* matching) {
        if (state_.is_square()) start(column_best, turned);
        matching->status = solve(column_best, seen, stats);
        stats->row_scans += state_.lists.row_scans();
        if (hopeless_ || contested_) return false;
        if constexpr (std::is_integral_v<T>) {
            if (state_.prices.largest() >= 0x1p52 * source_.price_step) return false;
            if (matching->status == Status::optimal && source_.price_step < 1.0) make_prices_whole();
        }
        if (matching->status == Status::optimal && options_.with_duals) row_duals(&matching->u);
        matching->col_of_row = std::move(state_.matching.col_of_row);
        state_.matching.v.resize(static_cast<std::size_t>(state_.m()));
        matching->v = std::move(state_.matching.v);
        return true;
    }

    // Whether a rectangular problem's rows compete for columns so much that eps-scaling is worth having.
    bool contested() const { return contested_; }

  private:
    enum class Start { zero, given, monge, minima, deciding_minima };

    void start(const std::vector<T>& column_best, bool turned) {
        std::vector<double> prices;
        if (options_.col_duals != nullptr && !tail_is_heavy(source_) &&
            given_prices(source_, options_.col_duals, turned, &prices))
            start_ = Start::given;
        else if (MongeStart(source_.rows, std::is_integral_v<T>, SourceCells<Source>{source_}).find(&prices))
            start_ = Start::monge;
        else if (!column_best.empty()) {
            const bool decide = minima_decide(column_best);
            if (column_minima(source_, column_best, decide, &prices))
                start_ = decide ? Start::deciding_minima : Start::minima;
        }
        if (start_ == Start::zero) return;
        for (std::int64_t j = 0; j < state_.m(); ++j) state_.prices.set(j, prices[j]);
    }

    Status solve(const std::vector<T>& column_best, simd::Extremes* seen, Stats* stats) {
        const bool matched = start_ == Start::deciding_minima;
        if (matched) {
            match_minima(column_best);
            stats->row_scans += state_.n();
            if (ties_) {
                const Status status = augment_among_ties(stats);
                if (status != Status::optimal) return status;
            }
            state_.lists.list_nothing(0.0);
        }
        const bool read = !matched || state_.matching.free_rows().size() > kFewUnread;
        if (read) {
            const std::int64_t entries = state_.is_square() ? kFirstList : kFirstListOfRectangular;
            if (!state_.lists.read_all(state_.prices, entries, seen, options_.interrupt))
                return Status::interrupted;
            if (seen != nullptr && seen->invalid) return Status::invalid_entry;
        }
        if (start_ == Start::given) {
            bidding_.match_tight();
            const double left = static_cast<double>(state_.matching.free_rows().size());
            const bool nearly_right = left <= kNearlyRight * state_.n();
            hopeless_ = nearly_right ? !correct() : left > kHopeless * state_.n();
            if (hopeless_) return Status::optimal;
            if (nearly_right) return close_enough() ? Status::optimal : finish(stats);
        }
        if (!matched) ties_ = bidding_.full_of_ties(kSeveral);
        const double slack = read ? bidding_.typical_slack() : 0.0;
        std::size_t left = bid_exactly(kReductionBids);
        // From prices of zero bids settle nearly all where there is little competition.
        if (start_ == Start::zero && static_cast<double>(left) <= kLittleCompetition * state_.n())
            left = bid_exactly(kFinalBids);
        if (state_.is_square() && options_.method != Method::jv && worth_scaling(left)) {
            scale(read ? slack : bidding_.typical_slack(), left);
            if (close_enough()) return Status::optimal;
            bidding_.release_all_beyond(0.0);
        }
        return finish(stats);
    }

    // At most `bids` a row; returns how many rows are still free.
    std::size_t bid_exactly(std::int64_t bids) {
        return bidding_.bid_all(state_.matching.free_rows(), 0.0, bids * state_.n()).size();
    }

    bool close_enough() const { return options_.max_gap > 0.0 && bidding_.gap() <= options_.max_gap; }

    // Gives the last free rows their columns, exactly: first by bids, then along paths.
    Status finish(Stats* stats) {
        const std::size_t left = bid_exactly(kFinalBids);
        if (state_.stopped) return Status::interrupted;
        contested_ = worth_squaring(left);
        return contested_ ? Status::optimal : find_paths(stats);
    }

    // Finishes what the caller's duals have nearly settled: eps falls here too, but only rows that it leaves
    // too far from their best bid again, and all others keep what they have. False when that turns out to be
    // no short cut.
    bool correct() {
        if (state_.matching.free_rows().empty()) return true;
        constexpr int slices = 5;
        const std::int64_t most_reads = state_.lists.row_scans() + kCorrectionReads * state_.n();
        double eps = options_.method == Method::jv ? 0.0 : whole(bidding_.typical_slack() * kEpsOfCorrection);
        for (int phase = 0; phase < kCorrections && eps > 0.0; ++phase) {
            std::vector<std::int32_t> rows = state_.matching.free_rows();
            for (int slice = 0; slice < slices && !rows.empty(); ++slice) {
                rows = bidding_.bid_all(std::move(rows), eps, kScalingBids / slices * state_.n());
                if (state_.lists.row_scans() > most_reads) return false;
            }
            if (close_enough()) return true;
            eps = phase + 1 < kCorrections ? whole(eps / kCorrectionFall) : 0.0;
            bidding_.release_all_beyond(eps);
        }
        return true;
    }

    bool worth_scaling(std::size_t left) {
        if (options_.method == Method::auction) return true;
        return static_cast<double>(left) > kFewFree * state_.n() && !ties_;
    }

    // Paths would be long, and eps-scaling needs as many rows as columns: blank ones cost no memory. But they
    // compete as well, so there should be few of them, and the more it takes the more has to be gained;
    // unless the order of rows and columns alone tells good prices.
    bool worth_squaring(std::size_t left) const {
        if constexpr (Source::kInMemory) {
            if (state_.is_square() || ties_ || options_.method == Method::jv) return false;
            const double n = state_.n(), m = static_cast<double>(state_.m());
            const double enough = std::min(kContested + kContestedPerBlank * (m - n) / m, kMostContested);
            if (m > kMostColumnsPerRow * n || static_cast<double>(left) <= enough * n) return false;
            return m <= kFewColumnsPerRow * n || is_monge(source_.squared());
        }
        return false;
    }

    static bool is_monge(const Source& source) {
        std::vector<double> prices;
        return MongeStart(source.rows, std::is_integral_v<T>, SourceCells<Source>{source}).find(&prices);
    }

    // Whether nearly every row of a sample holds a column minimum, as where a permutation is planted, or
    // where there are few distinct costs: then most rows can be matched without making a list.
    bool minima_decide(const std::vector<T>& column_best) {
        if constexpr (!Source::kInMemory) {
            return false;  // its column minima are of a sample of rows only
        } else if (source_.has_blank_rows()) {
            return false;  // they are of the other rows
        }
        const std::vector<std::int32_t> all_free(column_best.size(), -1);
        std::int64_t hold = 0, tied = 0;
        for (std::int64_t k = 0; k < kRowsAsked; ++k) {
            const T* row = state_.lists.row(static_cast<std::int32_t>(k * source_.rows / kRowsAsked));
            std::int64_t count = 0;
            for (std::int64_t j = -1; count < kSeveral; ++count) {
                j = simd::kernels<T>().find_free_equal(row, column_best.data(), all_free.data(), j + 1,
                                                       state_.m());
                if (j < 0) break;
            }
            hold += count > 0;
            tied += count == kSeveral;
        }
        ties_ = 2 * tied > kRowsAsked;
        return nearly_all_hold(hold);
    }

    // Gives each row a free column whose minimum it holds, from its own place on: a constant matrix gives the
    // identity.
    void match_minima(const std::vector<T>& column_best) {
        const auto find = simd::kernels<T>().find_free_equal;
        for (std::int32_t i = 0; i < state_.n(); ++i) {
            const T* row = state_.lists.row(i);
            std::int64_t j = find(row, column_best.data(), state_.matching.row_of_col.data(), i, state_.m());
            if (j < 0) j = find(row, column_best.data(), state_.matching.row_of_col.data(), 0, i);
            if (j >= 0 && source_.at(i, j) < kForbidden) state_.matching.assign(i, j);
        }
    }

    // Where there are ties everywhere most paths end after a row or two, sooner than lists are made.
    Status augment_among_ties(Stats* stats) {
        const Status status =
            augment_dense(source_, &state_.matching, options_.interrupt, stats, kScansAmongTies * state_.n());
        for (std::int64_t j = 0; j < state_.m(); ++j) state_.prices.set(j, state_.matching.v[j]);
        return status;
    }

    Status find_paths(Stats* stats) {
        Forest<Source> forest(&state_, kPathReads * state_.n());
        switch (forest.match_all(&stats->augmentations)) {
            case Forest<Source>::Outcome::matched:
                return Status::optimal;
            case Forest<Source>::Outcome::infeasible:
                return Status::infeasible;
            case Forest<Source>::Outcome::gave_up:
                break;
        }
        if (state_.stopped) return Status::interrupted;
        return augment_dense(source_, &state_.matching, options_.interrupt, stats, kWithoutLimit);
    }

    // Integer costs are bid for in whole steps: every price is then a multiple of the step, and float64 holds
    // it exactly.
    double whole(double eps) const {
        if constexpr (std::is_integral_v<T>)
            return source_.price_step * std::floor(eps / source_.price_step);
        else
            return eps;
    }

    // Optimal prices for integers stay so when they are rounded down: where c - v is no less than the row's
    // dual, an integer c less a whole v is no less than the dual rounded up.
    void make_prices_whole() {
        for (std::int64_t j = 0; j < state_.m(); ++j) state_.prices.set(j, std::floor(state_.prices[j]));
    }

    // eps-scaled bidding, from scratch in every phase but for the prices. `slack` is the typical one within a
    // list, `left` the rows that the row reduction has left free.
    void scale(double slack, std::size_t left) {
        const double least = slack * kEpsLeast;
        const bool much = static_cast<double>(left) > kMuchCompetition * state_.n();
        double eps = slack * (much ? kEpsOfMuch : kEpsOfLittle);
        if constexpr (std::is_integral_v<T>)
            if (eps > 0.0) eps = std::max(source_.price_step, whole(eps));
        for (bool first = true; eps > least && !state_.stopped; first = false) {
            bidding_.release_all();
            const std::size_t still_free =
                first ? bid_with_rising(&eps)
                      : bidding_.bid_all(state_.matching.free_rows(), eps, kScalingBids * state_.n()).size();
            if (still_free == 0 && close_enough()) return;
            eps = whole(eps / (much ? kEpsFallOfMuch : kEpsFallOfLittle));
        }
    }

    // Raises eps as long as it leaves many rows free; returns how many are free in the end.
    std::size_t bid_with_rising(double* eps) {
        std::vector<std::int32_t> rows = state_.matching.free_rows();
        for (int raises = 0; raises < kMostRaises && !state_.stopped; ++raises) {
            rows = bidding_.bid_all(std::move(rows), *eps, kFirstBids * state_.n());
            if (static_cast<double>(rows.size()) <= kManyLeft * state_.n()) break;
            *eps = whole(*eps * kEpsRise);
        }
        return bidding_.bid_all(std::move(rows), *eps, kLateBids * state_.n()).size();
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
                (*u)[i] =
                    simd::kernels<T>().reduced_min(state_.lists.row(i), source_.sign, v.data(), state_.m());
        }
    }

    const Options& options_;
    const Source& source_;
    ListState<Source> state_;
    Bidding<Source> bidding_;
    Start start_ = Start::zero;
    bool hopeless_ = false, contested_ = false;
    bool ties_ = false;  // most rows have a choice of equally good columns
};

// Brings a squared problem's answer back to the first `n` rows: the price of a column that is left over
// becomes 0, and the highest, as it must be.
template <class Source>
void drop_blank_rows(const Source& source, Matching<double>* matching) {
    const auto n = static_cast<std::size_t>(source.rows);
    if (matching->status == Status::optimal) {
        const double highest = *std::max_element(matching->v.begin(), matching->v.end());
        for (double& v : matching->v) v -= highest;
        for (std::size_t i = n; i < matching->col_of_row.size(); ++i)
            matching->v[static_cast<std::size_t>(matching->col_of_row[i])] = 0.0;
    }
    matching->col_of_row.resize(n);
    if (matching->u.empty()) return;
    matching->u.resize(n);
    std::vector<double> v = matching->v;
    v.resize(static_cast<std::size_t>(simd::padded(source.cols)), -kForbidden);
    typename Source::Reader reader(source);
    for (std::size_t i = 0; i < n; ++i)
        matching->u[i] = simd::kernels<typename Source::Element>().reduced_min(
            reader.row(static_cast<std::int64_t>(i)), source.sign, v.data(), source.cols);
}

}  // namespace

template <class Source>
Matching<double> solve_lists(const Source& source, const Options& options, Crew* crew,
                             const std::vector<typename Source::Element>& column_best, bool turned,
                             simd::Extremes* seen, Stats* stats) {
    Matching<double> matching;
    bool contested = false;
    {  // what it has listed is gone before anything else is tried
        ListSolver<Source> solver(source, options, crew);
        if (solver.run(column_best, turned, seen, stats, &matching)) return matching;
        contested = solver.contested();
    }
    if constexpr (Source::kInMemory) {
        if (contested) {
            Options cold = options;
            cold.col_duals = nullptr;
            matching = solve_lists(source.squared(), cold, crew,
                                   survey(source, options.maximize, crew).column_best, false, nullptr, stats);
            drop_blank_rows(source, &matching);
            return matching;
        }
    }
    if (options.col_duals == nullptr) return solve_dense(source, options, stats);
    Options cold = options;
    cold.col_duals = nullptr;
    return solve_lists(source, cold, crew, survey(source, options.maximize, crew).column_best, turned, seen,
                       stats);
}

#define REBASIN_FAST_INSTANTIATE(T)                                                                 \
    template Matching<double> solve_lists<DenseRows<T>>(const DenseRows<T>&, const Options&, Crew*, \
                                                        const std::vector<Widened<T>>&, bool,       \
                                                        simd::Extremes*, Stats*);
#include "lap/simd/element_types.inc"
REBASIN_FAST_INSTANTIATE(Half)
#undef REBASIN_FAST_INSTANTIATE

#define REBASIN_FAST_INSTANTIATE(F)                                                                       \
    template Matching<double> solve_lists<FactoredRows<F>>(const FactoredRows<F>&, const Options&, Crew*, \
                                                           const std::vector<double>&, bool,              \
                                                           simd::Extremes*, Stats*);
REBASIN_FAST_INSTANTIATE(float)
REBASIN_FAST_INSTANTIATE(double)
#undef REBASIN_FAST_INSTANTIATE

}  // namespace rebasin_fast
