// The strategy for one large problem: that of csrc/lap/lists.cpp, its passes and its bidding on the device.
//
// Column minima give prices, one pass the lists; rows bid with eps = 0. If many stay free, eps-scaling comes
// first, prices kept from phase to phase. The last free rows get their columns along shortest augmenting
// paths, exactly, and a pass over the whole matrix proves the answer.
//
// Every phase has a budget of bids, the paths are shortest and each matches a row: everything ends.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cuda/batch.cuh"
#include "cuda/bidding.cuh"
#include "cuda/host_paths.hpp"
#include "cuda/pack.cuh"
#include "cuda/passes.cuh"
#include "cuda/solver.hpp"

namespace rebasin_fast::cuda {

inline unsigned blocks_for(std::int64_t work, unsigned per_block) {
    const std::int64_t wanted = (work + per_block - 1) / per_block;
    const std::int64_t most = 32 * static_cast<std::int64_t>(multiprocessors());
    return static_cast<unsigned>(std::max<std::int64_t>(1, std::min(wanted, most)));
}

template <class S>
class DeviceSolver {
  public:
    // `matrix` has rows <= cols.
    DeviceSolver(const DeviceMatrix& matrix, bool turned, const SolveOptions& options, Stream stream)
        : options_(options),
          stream_(stream),
          turned_(turned),
          integral_(is_integral(matrix.type)),
          rows_(matrix.rows),
          cols_(matrix.cols),
          packed_(lies_ready<S>(matrix) ? 0 : rows_ * cols_, stream),
          matching_(static_cast<std::int64_t>(Matching::bytes(rows_, cols_)), stream),
          list_columns_(rows_ * kListed, stream),
          list_costs_(rows_ * kListed, stream),
          list_size_(rows_, stream),
          list_bound_(rows_, stream),
          fresh_(rows_, stream),
          queues_(3 * rows_, stream),
          bid_column_(rows_, stream),
          winner_(cols_, stream),
          bid_key_(rows_, stream),
          best_bid_(cols_, stream),
          minima_(cols_, stream),
          control_(1, stream),
          sample_slack_(samples(), stream),
          sample_equal_(samples(), stream) {
        if (packed_.size() > 0) pack(matrix, packed_.get(), stream);
        const bool ready = packed_.size() == 0;
        state_.costs = {ready ? static_cast<const S*>(matrix.data) : packed_.get(),
                        ready ? matrix.row_stride : cols_, options.maximize ? -1.0 : 1.0,
                        static_cast<int>(rows_), static_cast<int>(cols_)};
        state_.matching = Matching::in(matching_.get(), static_cast<int>(rows_), static_cast<int>(cols_));
        state_.list_columns = list_columns_.get();
        state_.list_costs = list_costs_.get();
        state_.list_size = list_size_.get();
        state_.list_bound = list_bound_.get();
        state_.fresh = fresh_.get();
        state_.queues = queues_.get();
        state_.stale = queues_.get() + 2 * rows_;
        state_.bid_column = bid_column_.get();
        state_.bid_key = bid_key_.get();
        state_.best_bid = best_bid_.get();
        state_.winner = winner_.get();
        state_.control = control_.get();
    }

    SolveOutcome run(const DeviceAnswer& answer) {
        outcome_.status = solve();
        if (outcome_.status == Status::optimal) write(answer);
        return outcome_;
    }

  private:
    // As in csrc/lap/lists.cpp, where it is said what they are for.
    static constexpr double kFewFree = 0.001, kMuchCompetition = 0.25, kEpsOfMuch = 0.125;
    static constexpr double kEpsOfLittle = 0.025, kEpsLeast = 1e-5, kEpsFall = 7.0, kEpsRise = 8.0;
    static constexpr double kManyLeft = 0.01, kHopeless = 0.6;
    static constexpr std::int64_t kReductionBids = 2, kFinalBids = 8, kScalingBids = 20, kFirstBids = 8;
    static constexpr int kMostRaises = 32, kSeveral = 4;
    // Rounds with eps = 0: a few rows that fight on and on for columns are better served by paths.
    static constexpr std::int64_t kReductionRounds = 2048;
    static constexpr std::int64_t kFewOf = 256;  // less than kManyLeft, or eps would be raised for ever

    bool square() const { return rows_ == cols_; }
    std::int64_t samples() const { return std::min<std::int64_t>(rows_, 2048); }

    Status solve() {
        control_.fill_with_byte(0);
        const Status entries = look_at_entries();
        if (entries != Status::optimal) return entries;
        bool warm = square() && options_.col_duals != nullptr;
        std::int64_t left = first_bids(warm ? options_.col_duals : nullptr);
        if (warm && static_cast<double>(left) > kHopeless * static_cast<double>(rows_) && !stopped_) {
            warm = false;
            left = first_bids(nullptr);
        }
        if (stopped_) return Status::interrupted;
        if (square() && !warm && !ties_ &&
            static_cast<double>(left) > kFewFree * static_cast<double>(rows_)) {
            scale(left);
            if (stopped_) return Status::interrupted;
            launch(release_loose<S>, {blocks_for(rows_, 8), 256}, stream_, state_);
            left = -1;
        }
        if (left != 0) left = bid(0.0, kFinalBids * rows_);
        if (stopped_) return Status::interrupted;
        return left == 0 ? Status::optimal : find_paths();
    }

    // From prices `given`, or from column minima of a square problem, to what the row reduction leaves free.
    std::int64_t first_bids(const double* given) {
        launch(begin<S>, {blocks(cols_, 256), 256}, stream_, state_,
               square() ? static_cast<const unsigned long long*>(minima_.get()) : nullptr, given,
               state_.costs.sign);
        launch(list_all<S>, {blocks_for(rows_, 1), listers()}, stream_, state_);
        outcome_.stats.row_scans += rows_;
        take_sample();
        return bid(0.0, kReductionBids * rows_);
    }

    static unsigned blocks(std::int64_t work, unsigned threads) {
        return static_cast<unsigned>((work + threads - 1) / threads);
    }

    unsigned listers() const {
        return static_cast<unsigned>(
            std::clamp<std::int64_t>(cols_ / 8 / kWarp * kWarp, kFewestListers, kMostListers));
    }

    Status look_at_entries() {
        minima_.fill_with_byte(0xff);
        outcome_.stats.row_scans += rows_;
        constexpr int strip = 128;
        int* flaws = &control_.get()->flaws;
        const double limit = overflow_limit(rows_, state_.costs.sign != 1.0 && state_.costs.sign != -1.0);
        launch(survey_columns<S>, {dim3(blocks(cols_, 128), blocks(rows_, strip)), 128}, stream_,
               state_.costs, strip, limit, minima_.get(), flaws);
        int found = control().flaws;
        if (found & kInvalid) return Status::invalid_entry;
        if (!(found & kOverflows)) return Status::optimal;
        // Beside costs that large, what a power of two takes from the smallest is nothing.
        constexpr double guard = 0x1p-64;
        state_.costs.sign *= guard;
        control_.fill_with_byte(0);
        return look_at_entries();
    }

    const Control& control() {
        control_.download(&seen_);
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

    // All free rows bid until none can, or `budget` bids are spent; returns how many are left free.
    std::int64_t bid(double eps, std::int64_t budget) {
        launch(begin_phase<S>, {1, 1}, stream_, state_, eps, static_cast<long long>(budget),
               static_cast<long long>(eps > 0.0 ? budget : kReductionRounds), options_.few_bidders,
               enough(eps));
        launch(enqueue_free<S>, {blocks(rows_, 256), 256}, stream_, state_);
        std::int64_t bidders = rows_;
        for (;;) {
            if (bidders > options_.few_bidders)
                for (int k = 0; k < 8; ++k) round_of_many();
            for (int k = 0; k < 8; ++k) rounds_of_few();
            const Control& now = control();
            bidders = now.count[now.active] + now.stale;
            if (stopped_ || bidders <= enough(eps) || now.spent()) break;
        }
        return bidders + seen_.resting;
    }

    // So many bidders left end a phase of eps-scaling. The last few would go on one after the other for most
    // of its rounds, while the next phase lets everybody bid again in any case.
    int enough(double eps) const { return eps > 0.0 ? static_cast<int>(rows_ / kFewOf) : 0; }

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
        launch(list_stale<S>, {static_cast<unsigned>(std::min(rows_, most)), listers()}, stream_, state_);
        launch(stale_done<S>, {1, 1}, stream_, state_);
    }

    double whole(double eps) const { return integral_ ? std::floor(eps) : eps; }

    void release() { launch(release_all<S>, {blocks(cols_, 256), 256}, stream_, state_); }

    // eps-scaled bidding, from scratch in every phase but for the prices.
    void scale(std::int64_t left) {
        const double n = static_cast<double>(rows_);
        double eps = slack_ * (static_cast<double>(left) > kMuchCompetition * n ? kEpsOfMuch : kEpsOfLittle);
        if (integral_ && eps > 0.0) eps = std::max(1.0, whole(eps));
        const double least = slack_ * kEpsLeast;
        for (bool first = true; eps > least && !stopped_; first = false) {
            release();
            for (int raises = 0; first && raises < kMostRaises && !stopped_; ++raises) {
                if (static_cast<double>(bid(eps, kFirstBids * rows_)) <= kManyLeft * n) break;
                eps = whole(eps * kEpsRise);
            }
            bid(eps, kScalingBids * rows_);
            eps = whole(eps / kEpsFall);
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
    // for many it gets fresh lists. Sets complete_ when all rows are matched.
    Status paths_on_host() {
        constexpr int refreshes = 4;
        const std::int64_t reads = 64 + rows_ / 16;
        for (int k = 0; k < refreshes; ++k) {
            launch(list_all<S>, {blocks_for(rows_, 1), listers()}, stream_, state_);
            HostProblem<S> problem = on_host();
            const auto fetch = [&](std::int64_t i, S* row) {
                copy_to_host(row, state_.costs.data + i * state_.costs.row_stride,
                             static_cast<std::size_t>(cols_) * sizeof(S), stream_);
            };
            std::int64_t found = 0;
            const PathsFound outcome =
                find_paths_on_host<S>(&problem, fetch, options_.interrupt, reads, &found);
            outcome_.stats.augmentations += found;
            outcome_.stats.row_scans += rows_ + problem.row_scans;
            if (outcome == PathsFound::infeasible) return Status::infeasible;
            if (outcome == PathsFound::interrupted) return Status::interrupted;
            take_back(problem);
            complete_ = outcome == PathsFound::all;
            if (complete_ || found == 0) break;
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
            launch(augment_rows<S>, {1, few_threads()}, stream_, state_, together);
            const Control& now = control();
            if (now.infeasible) return Status::infeasible;
            if (stopped_) return Status::interrupted;
            if (now.next == static_cast<int>(rows_)) break;
        }
        return Status::optimal;
    }

    void write(const DeviceAnswer& answer) {
        const double back = 1.0 / state_.costs.sign;
        Buffer<double> gaps(rows_, stream_), elements(rows_, stream_);
        launch(prove_rows<S>, {blocks_for(rows_, 8), 256}, stream_, state_,
               turned_ ? answer.col_duals : answer.row_duals, back, gaps.get(), elements.get());
        launch(write_answer<S>, {1, 1024}, stream_, state_, turned_, answer, back,
               static_cast<const double*>(gaps.get()), static_cast<const double*>(elements.get()));
        outcome_.stats.row_scans += rows_ + seen_.rescans;
        outcome_.stats.rounds = seen_.rounds;
        synchronize(stream_);
    }

    const SolveOptions& options_;
    const Stream stream_;
    const bool turned_, integral_;
    const std::int64_t rows_, cols_;
    Buffer<S> packed_;
    Buffer<unsigned char> matching_;
    Buffer<int> list_columns_;
    Buffer<S> list_costs_;
    Buffer<int> list_size_;
    Buffer<double> list_bound_;
    Buffer<unsigned char> fresh_;
    Buffer<int> queues_, bid_column_, winner_;
    Buffer<unsigned long long> bid_key_, best_bid_, minima_;
    Buffer<Control> control_;
    Buffer<double> sample_slack_;
    Buffer<int> sample_equal_;
    ListState<S> state_{};
    Control seen_{};
    SolveOutcome outcome_;
    double slack_ = 0.0;
    bool ties_ = false, stopped_ = false, complete_ = false;
};

template <class S>
SolveOutcome solve_large(const DeviceMatrix& costs, const DeviceAnswer& answer, const SolveOptions& options,
                         Stream stream) {
    // A square matrix in column order is solved as its transpose, where it lies; but prices to start from
    // belong to its columns.
    const bool in_columns = costs.rows == costs.cols && costs.row_stride == 1 && costs.col_stride != 1;
    const bool turned = costs.rows > costs.cols || (in_columns && options.col_duals == nullptr);
    return DeviceSolver<S>(turned ? costs.transposed() : costs, turned, options, stream).run(answer);
}

inline SolveOutcome solve_on(const DeviceMatrix& costs, const DeviceAnswer& answer,
                             const SolveOptions& options, Stream stream) {
    if (std::min(costs.rows, costs.cols) <= options.for_a_block) {
        const Outcome outcome = solve_batch_on({{costs, answer}}, options.maximize, stream)[0];
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
