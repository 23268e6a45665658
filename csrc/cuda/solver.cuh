// The strategy for one large problem: that of csrc/lap/lists.cpp, its passes and its bidding on the device.
//
// `opening` gives prices, column minima mostly, and one pass the lists; rows bid with eps = 0. If many stay
// free, eps-scaling comes first, prices kept from phase to phase. The last free rows get their columns along
// shortest augmenting paths, exactly, and a pass over the whole matrix proves the answer.
//
// Every phase has a budget of bids, the paths are shortest and each matches a row: everything ends.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "cuda/batch.cuh"
#include "cuda/bidding.cuh"
#include "cuda/host_paths.hpp"
#include "cuda/opening.cuh"
#include "cuda/solver.hpp"

namespace rebasin_fast::cuda {

template <class S>
class DeviceSolver {
  public:
    // `source` has rows <= cols.
    DeviceSolver(RowSource<S> source, bool turned, bool integral, const SolveOptions& options, Stream stream)
        : options_(options),
          stream_(stream),
          turned_(turned),
          integral_(integral),
          source_(std::move(source)),
          rows_(source_.costs().rows),
          cols_(source_.costs().cols),
          memory_(source_, stream),
          state_(memory_.state),
          opening_(&source_, &state_, options_, integral, turned, stream),
          sample_slack_(samples(), stream),
          sample_equal_(samples(), stream) {}
    DeviceSolver(const DeviceSolver&) = delete;
    DeviceSolver& operator=(const DeviceSolver&) = delete;

    SolveOutcome run(const DeviceAnswer& answer) {
        outcome_.status = solve();
        if (outcome_.status == Status::optimal) write(answer);
        return outcome_;
    }

  private:
    // As in csrc/lap/lists.cpp, where it is said what they are for.
    static constexpr double kFewFree = 0.001, kMuchCompetition = 0.25, kEpsOfMuch = 0.125;
    static constexpr double kEpsOfLittle = 0.012, kEpsOfCorrection = 0.025, kEpsLeast = 1e-5,
                            kEpsFallOfMuch = 7.0, kEpsFallOfLittle = 14.0, kEpsRise = 8.0;
    static constexpr double kManyLeft = 0.01, kHopeless = 0.6, kNearlyRight = 0.1, kCorrectionFall = 20.0;
    static constexpr std::int64_t kReductionBids = 2, kFinalBids = 8, kScalingBids = 20, kFirstBids = 8;
    static constexpr std::int64_t kCorrectionReads = 2;
    static constexpr int kMostRaises = 32, kSeveral = 4, kCorrections = 2;
    // Rounds with eps = 0: a few rows that fight on and on for columns are better served by paths.
    static constexpr std::int64_t kReductionRounds = 2048;
    static constexpr std::int64_t kFewLeft = 4,
                                  kFewOf = 256;  // less than kManyLeft, or eps would be raised for ever

    bool square() const { return rows_ == cols_; }
    std::int64_t samples() const { return std::min<std::int64_t>(rows_, 2048); }
    bool more_than(double share, std::int64_t count) const {
        return static_cast<double>(count) > share * static_cast<double>(rows_);
    }

    Status solve() {
        const Status entries = opening_.look();
        if (entries != Status::optimal) return entries;
        control();
        if (stopped_) return Status::interrupted;
        auto start = begin_from(opening_.choose(true));
        if (start == Opening<S>::Prices::given) {
            const std::int64_t free = opening_.give_tight_columns();
            if (free == 0) return Status::optimal;
            const bool nearly_right = !more_than(kNearlyRight, free);
            if (nearly_right && correct()) return finish();
            if (stopped_) return Status::interrupted;
            if (nearly_right || more_than(kHopeless, free)) start = begin_from(opening_.choose(false));
        }
        std::int64_t left = bid(0.0, kReductionBids * rows_);
        if (start == Opening<S>::Prices::zero && !more_than(kLittleCompetition, left) && left > 0 &&
            !stopped_)
            left = bid(0.0, kFinalBids * rows_);
        if (stopped_) return Status::interrupted;
        if (left == 0) return Status::optimal;
        if (square() && !ties_ && more_than(kFewFree, left)) {
            scale(left);
            if (stopped_) return Status::interrupted;
            release_beyond(0.0);
        }
        return finish();
    }

    // Gives the last free rows their columns, exactly: first by bids, then along paths.
    Status finish() {
        const std::int64_t left = bid(0.0, kFinalBids * rows_);
        if (stopped_) return Status::interrupted;
        return left == 0 ? Status::optimal : find_paths();
    }

    typename Opening<S>::Prices begin_from(typename Opening<S>::Prices prices) {
        list_rows();
        take_sample();
        return prices;
    }

    void list_rows() {
        source_.all_rows([&](const Costs<S>& panel, int first, int count) {
            launch(list_all<S>, {blocks_for(count, 1), listers()}, stream_, state_, panel, first, count);
        });
        outcome_.stats.row_scans += rows_;
    }

    // Finishes what the caller's duals have nearly settled: eps falls here too, but only rows that it leaves
    // too far from their best bid again, and all others keep what they have. False when that turns out to be
    // no short cut.
    bool correct() {
        const long long most_reads = seen_.rescans + kCorrectionReads * rows_;
        double eps = whole(slack_ * kEpsOfCorrection);
        for (int phase = 0; phase < kCorrections && eps > 0.0; ++phase) {
            bid(eps, kScalingBids * rows_, most_reads);
            if (stopped_ || seen_.rescans > most_reads) return false;
            eps = phase + 1 < kCorrections ? whole(eps / kCorrectionFall) : 0.0;
            release_beyond(eps);
        }
        return true;
    }

    void release_beyond(double eps) {
        launch(release_loose<S>, {blocks_for(rows_, 8), 256}, stream_, state_, eps);
    }

    unsigned listers() const {
        return static_cast<unsigned>(
            std::clamp<std::int64_t>(cols_ / 8 / kWarp * kWarp, kFewestListers, kMostListers));
    }

    const Control& control() {
        copy_to_host(&seen_, state_.control, sizeof seen_, stream_);
        if (options_.interrupt != nullptr && options_.interrupt->requested()) stopped_ = true;
        return seen_;
    }

    void take_sample() {
        launch(sample_lists<S>, {blocks_for(samples(), 8), 256}, stream_, state_, static_cast<int>(samples()),
               sample_slack_.get(), sample_equal_.get());
        std::vector<double> slack = sample_slack_.on_host();
        const std::vector<int> equal = sample_equal_.on_host();
        ties_ = 2 * std::count_if(equal.begin(), equal.end(), [](int e) { return e >= kSeveral; }) >
                static_cast<std::int64_t>(equal.size());
        slack.erase(std::remove_if(slack.begin(), slack.end(), [](double x) { return !(x < kForbidden); }),
                    slack.end());
        slack_ = 0.0;
        if (slack.empty()) return;
        const auto middle = slack.begin() + static_cast<std::ptrdiff_t>(slack.size() / 2);
        std::nth_element(slack.begin(), middle, slack.end());
        slack_ = *middle;
    }

    // All free rows bid until none can, or `budget` bids are spent, or more than `most_reads` rows were read
    // again in all; returns how many are left free.
    std::int64_t bid(double eps, std::int64_t budget,
                     long long most_reads = std::numeric_limits<long long>::max()) {
        launch(begin_phase<S>, {1, 1}, stream_, state_, eps, static_cast<long long>(budget),
               static_cast<long long>(eps > 0.0 ? budget : kReductionRounds), few_bidders(),
               source_.together(), enough(eps));
        launch(enqueue_free<S>, {blocks(rows_, 256), 256}, stream_, state_);
        std::int64_t bidders = rows_;
        for (;;) {
            if (bidders > few_bidders())
                for (int k = 0; k < 8; ++k) round_of_many();
            for (int k = 0; k < 8; ++k) rounds_of_few();
            const Control& now = control();
            bidders = now.count[now.active] + now.stale;
            if (stopped_ || bidders <= enough(eps) || now.spent() || now.rescans > most_reads) break;
            if (now.stale > source_.together()) read_all_stale(now.stale);
        }
        return bidders + seen_.resting;
    }

    // So many bidders left end a phase of eps-scaling. The last of all would go on alone for most of its
    // rounds, while the next phase lets everybody bid again in any case; more of them would be handed on from
    // phase to phase, and end as long paths on the host.
    int enough(double eps) const {
        return eps > 0.0 ? static_cast<int>(std::min<std::int64_t>(kFewLeft, rows_ / kFewOf)) : 0;
    }

    int few_bidders() const { return std::min(options_.few_bidders, kMostFew); }

    void round_of_many() {
        launch(bid_step<S>, {blocks_for(rows_, 8), 256}, stream_, state_);
        const Launch threads{blocks_for(rows_, 256), 256};
        launch(round_step<S, Step::claim>, threads, stream_, state_);
        launch(round_step<S, Step::award>, threads, stream_, state_);
        launch(round_step<S, Step::clear>, threads, stream_, state_);
        launch(advance_step<S>, {1, 1}, stream_, state_);
        read_stale();
    }

    void rounds_of_few() {
        constexpr int rounds = 2048;  // of a launch, so that none takes long
        launch(bid_few<S>, {1, few_threads()}, stream_, state_, rounds);
        read_stale();
    }

    unsigned few_threads() const {
        return static_cast<unsigned>(std::clamp<std::int64_t>(rows_ / kWarp * kWarp, kWarp, 1024));
    }

    void read_stale() {
        // Mostly there is nothing to read, and blocks that find that out should be few.
        const auto most = 8 * static_cast<std::int64_t>(multiprocessors());
        const Wanted called{state_.stale, &state_.control->rescan, 0, 1, 0};
        launch(list_stale<S>, {static_cast<unsigned>(std::min(rows_, most)), listers()}, stream_, state_,
               rows_at_hand(called, source_.together()), called);
        launch(stale_done<S>, {1, 1}, stream_, state_, false);
    }

    // More of them than can be at hand at once.
    void read_all_stale(int count) {
        for (int first = 0; first < count; first += source_.together()) {
            const int some = std::min(source_.together(), count - first);
            const Wanted those{state_.stale + first, nullptr, 0, 1, some};
            launch(list_stale<S>, {blocks_for(some, 1), listers()}, stream_, state_,
                   rows_at_hand(those, some), those);
        }
        launch(stale_done<S>, {1, 1}, stream_, state_, true);
    }

    Costs<S> rows_at_hand(const Wanted& wanted, int most) {
        return source_.is_stored() ? source_.costs() : source_.panel(wanted, most);
    }

    double whole(double eps) const { return integral_ ? std::floor(eps) : eps; }

    void release() { launch(release_all<S>, {blocks(cols_, 256), 256}, stream_, state_); }

    // eps-scaled bidding, from scratch in every phase but for the prices.
    void scale(std::int64_t left) {
        const double n = static_cast<double>(rows_);
        const bool much = static_cast<double>(left) > kMuchCompetition * n;
        double eps = slack_ * (much ? kEpsOfMuch : kEpsOfLittle);
        if (integral_ && eps > 0.0) eps = std::max(1.0, whole(eps));
        const double least = slack_ * kEpsLeast;
        for (bool first = true; eps > least && !stopped_; first = false) {
            release();
            std::int64_t free = rows_;
            for (int raises = 0; first && raises < kMostRaises && !stopped_; ++raises) {
                free = bid(eps, kFirstBids * rows_);
                if (static_cast<double>(free) <= kManyLeft * n) break;
                eps = whole(eps * kEpsRise);
            }
            if (free > enough(eps)) bid(eps, kScalingBids * rows_);
            eps = whole(eps / (much ? kEpsFallOfMuch : kEpsFallOfLittle));
        }
    }

    Status find_paths() {
        if (options_.paths_on_host) {
            const Status status = paths_on_host();
            if (status != Status::optimal || complete_) return status;
        }
        return paths_on_device();
    }

    // What is left is steps one after the other, each in a handful of columns: the host's work. It takes
    // matching, prices and fresh lists along, and asks for single rows where it must; when it has had to ask
    // for many it gets fresh lists, and when it would ask for a quarter of them (as where costs are
    // distances, and trees grow large) all rows at once: single ones take longer to come than to be read.
    // Sets complete_ when all rows are matched.
    Status paths_on_host() {
        constexpr int refreshes = 8, patience = 2;
        std::int64_t reads = options_.first_reads > 0 ? options_.first_reads : 64 + rows_ / 16;
        std::unique_ptr<S[]> all;
        const auto fetch = [&](std::int64_t i, S* row) {
            if (all != nullptr)
                std::copy_n(all.get() + i * cols_, cols_, row);
            else
                source_.copy_row(i, row);
        };
        for (int k = 0; k < refreshes; ++k, reads *= 2) {
            list_rows();
            HostProblem<S> problem = on_host();
            if (k == patience) all = source_.all_on_host(options_.most_host_bytes);
            if (all != nullptr) reads = std::max(reads, 4 * rows_);
            std::int64_t found = 0;
            const PathsFound outcome =
                find_paths_on_host<S>(&problem, fetch, options_.interrupt, reads, &found);
            outcome_.stats.augmentations += found;
            outcome_.stats.row_scans += problem.row_scans;
            if (outcome == PathsFound::infeasible) return Status::infeasible;
            if (outcome == PathsFound::interrupted) return Status::interrupted;
            take_back(problem);
            complete_ = outcome == PathsFound::all;
            if (complete_ || (found == 0 && k >= patience)) break;
        }
        return Status::optimal;
    }

    HostProblem<S> on_host() const {
        HostProblem<S> problem;
        problem.rows = rows_;
        problem.cols = cols_;
        problem.listed = kListed;
        problem.sign = state_.costs.sign;
        const auto download = [&](auto* to, const auto* from, std::int64_t count) {
            to->resize(static_cast<std::size_t>(count));
            copy_to_host(to->data(), from, to->size() * sizeof((*to)[0]), stream_);
        };
        download(&problem.v, state_.matching.v, cols_);
        download(&problem.row_of_col, state_.matching.row_of_col, cols_);
        download(&problem.col_of_row, state_.matching.col_of_row, rows_);
        download(&problem.list_columns, state_.list_columns, rows_ * kListed);
        download(&problem.list_costs, state_.list_costs, rows_ * kListed);
        download(&problem.list_size, state_.list_size, rows_);
        download(&problem.list_bound, state_.list_bound, rows_);
        return problem;
    }

    void take_back(const HostProblem<S>& problem) {
        const auto upload = [&](auto* to, const auto& from) {
            copy_to_device(to, from.data(), from.size() * sizeof(from[0]), stream_);
        };
        upload(state_.matching.v, problem.v);
        upload(state_.matching.row_of_col, problem.row_of_col);
        upload(state_.matching.col_of_row, problem.col_of_row);
        synchronize(stream_);  // `problem` may go
    }

    Status paths_on_device() {
        constexpr int together = 16;  // paths of a launch, so that none takes for ever
        for (;;) {
            launch_augment(together);
            const Control& now = control();
            if (now.infeasible) return Status::infeasible;
            if (stopped_) return Status::interrupted;
            if (now.next == static_cast<int>(rows_)) break;
        }
        return Status::optimal;
    }

    void launch_augment(int paths) {
        const Launch one_block{1, few_threads()};
        if (source_.is_stored())
            launch(augment_rows<S, Costs<S>>, one_block, stream_, state_, source_.costs(), paths);
        else if constexpr (std::is_same_v<S, double>)
            launch(augment_rows<S, FactoredCosts>, one_block, stream_, state_,
                   FactoredCosts{source_.factors(), state_.costs.sign, static_cast<int>(rows_),
                                 static_cast<int>(cols_)},
                   paths);
    }

    void write(const DeviceAnswer& answer) {
        const double back = 1.0 / state_.costs.sign;
        Buffer<double> gaps(rows_, stream_), elements(rows_, stream_);
        source_.all_rows([&](const Costs<S>& panel, int first, int count) {
            launch(prove_rows<S>, {blocks_for(count, 8), 256}, stream_, state_, panel, first, count,
                   turned_ ? answer.col_duals : answer.row_duals, back, gaps.get(), elements.get());
        });
        launch(write_answer<S>, {1, 1024}, stream_, state_, turned_, answer, back,
               static_cast<const double*>(gaps.get()), static_cast<const double*>(elements.get()));
        outcome_.stats.row_scans += rows_ + opening_.row_scans() + seen_.rescans;
        outcome_.stats.rounds = seen_.rounds;
        synchronize(stream_);
    }

    const SolveOptions& options_;
    const Stream stream_;
    const bool turned_, integral_;
    RowSource<S> source_;
    const std::int64_t rows_, cols_;
    ListMemory<S> memory_;
    ListState<S>& state_;
    Opening<S> opening_;
    Buffer<double> sample_slack_;
    Buffer<int> sample_equal_;
    Control seen_{};
    SolveOutcome outcome_;
    double slack_ = 0.0;
    bool ties_ = false, stopped_ = false, complete_ = false;
};

template <class S>
SolveOutcome solve_large(const DeviceMatrix& costs, const DeviceAnswer& answer, const SolveOptions& options,
                         Stream stream) {
    // A square matrix in column order is solved as its transpose, where it lies.
    const bool in_columns = costs.rows == costs.cols && costs.row_stride == 1 && costs.col_stride != 1;
    const bool turned = costs.rows > costs.cols || in_columns;
    RowSource<S> source(turned ? costs.transposed() : costs, options.maximize ? -1.0 : 1.0, stream);
    return DeviceSolver<S>(std::move(source), turned, is_integral(costs.type), options, stream).run(answer);
}

inline SolveOutcome solve_on(const DeviceMatrix& costs, const DeviceAnswer& answer,
                             const SolveOptions& options, Stream stream) {
    const std::int64_t few = options.for_a_block;
    if (std::min(costs.rows, costs.cols) <= few && std::max(costs.rows, costs.cols) <= 16 * few) {
        const Outcome outcome = solve_stack_on({{costs, answer}, 1, 0}, options.maximize, stream)[0];
        SolveOutcome result;
        result.status = outcome == Outcome::optimal      ? Status::optimal
                        : outcome == Outcome::infeasible ? Status::infeasible
                                                         : Status::invalid_entry;
        result.stats.by_a_block = true;
        return result;
    }
    if (is_double(costs.type)) return solve_large<double>(costs, answer, options, stream);
    if (is_int32(costs.type)) return solve_large<std::int32_t>(costs, answer, options, stream);
    return solve_large<float>(costs, answer, options, stream);
}

}  // namespace rebasin_fast::cuda
