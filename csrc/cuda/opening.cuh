// What a solve begins with: the entries are looked at, prices chosen, and where they are the caller's the
// matching they leave behind is found.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "cuda/list_memory.cuh"
#include "cuda/passes.cuh"
#include "cuda/solver.hpp"
#include "cuda/start_prices.hpp"

namespace rebasin_fast::cuda {

// Bit k of tight[i]: the reduced cost of the k-th column in row i's list is the row's least, up to rounding.
// A warp a row.
template <class S>
__global__ void find_tight(ListState<S> s, double rounding, unsigned long long* tight) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int warps = static_cast<int>(blockDim.x) / kWarp * static_cast<int>(gridDim.x);
    for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) / kWarp; i < s.costs.rows;
         i += warps) {
        const double best = s.least(i);
        const bool known = best < kForbidden && !(best > s.list_bound[i]);
        const std::int64_t at = static_cast<std::int64_t>(i) * kListed;
        unsigned long long places = 0;
        for (int from = 0; from < kListed; from += kWarp) {
            bool is_tight = false;
            if (known && from + lane < s.list_size[i]) {
                const double v = s.matching.v[s.list_columns[at + from + lane]];
                const double above = s.costs.cost(s.list_costs[at + from + lane]) - v - best;
                is_tight = above <= rounding * (fabs(best) + fabs(v));
            }
            places |= static_cast<unsigned long long>(__ballot_sync(kWholeWarp, is_tight)) << from;
        }
        if (lane == 0) tight[i] = places;
    }
}

// How far above its best every matched row is, and the magnitudes that are the difference of. A warp a row.
template <class S>
__global__ void measure_matched(ListState<S> s, double* above, double* scale) {
    const int warps = static_cast<int>(blockDim.x) / kWarp * static_cast<int>(gridDim.x);
    for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) / kWarp; i < s.costs.rows;
         i += warps) {
        const double best = s.least(i);
        if (threadIdx.x % kWarp != 0) continue;
        const int j = s.matching.col_of_row[i];
        above[i] = j < 0 ? 0.0 : s.reduced_at(i, j) - best;
        scale[i] = j < 0 ? 0.0 : fabs(best) + fabs(s.matching.v[j]);
    }
}

inline unsigned blocks(std::int64_t work, unsigned threads) {
    return static_cast<unsigned>((work + threads - 1) / threads);
}

template <class S>
class Opening {
  public:
    enum class Prices { zero, given, monge, minima };

    // `turned`: the caller's columns are the rows here, and so are the duals to start from. State and source
    // are those of the solver, which may not move.
    Opening(RowSource<S>* source, ListState<S>* state, const SolveOptions& options, bool integral,
            bool turned, Stream stream)
        : source_(*source),
          state_(*state),
          options_(options),
          integral_(integral),
          turned_(turned),
          stream_(stream),
          rows_(state->costs.rows),
          cols_(state->costs.cols),
          minima_(cols_, stream) {}

    // Looks at every entry that is stored. May scale the costs.
    Status look() {
        warm_ = prepare_duals();
        if (!source_.is_stored()) {
            if (square()) survey(row_prices());
            return Status::optimal;
        }
        const bool guarded = state_.costs.sign != 1.0 && state_.costs.sign != -1.0;
        survey(row_prices(), overflow_limit(rows_, guarded));
        int flaws = 0;
        copy_to_host(&flaws, &state_.control->flaws, sizeof flaws, stream_);
        if (flaws & kInvalid) return Status::invalid_entry;
        if (!(flaws & kOverflows)) return Status::optimal;
        // Beside costs that large, what a power of two takes from the smallest is nothing.
        constexpr double guard = 0x1p-64;
        source_.scale(guard);
        state_.costs = source_.costs();
        fill_bytes(&state_.control->flaws, 0, sizeof flaws, stream_);
        return look();
    }

    // Sets prices, and frees everybody. Not `warm`: the caller's have led nowhere.
    Prices choose(bool warm) {
        if (!square()) return begin_with(nullptr, Prices::zero);
        if (warm_ && warm) return begin_with(turned_ ? nullptr : &duals_, Prices::given);
        std::vector<double> prices;
        if (monge_prices(static_cast<int>(rows_), integral_, cells(), &prices))
            return begin_with(&prices, Prices::monge);
        if (warm_ && turned_) survey(nullptr);
        begin_with(nullptr, Prices::minima);
        prices.resize(static_cast<std::size_t>(cols_));
        copy_to_host(prices.data(), state_.matching.v, prices.size() * sizeof(double), stream_);
        const Minima found = look_at_minima(std::move(prices), sample());
        if (found == Minima::useful || (found == Minima::spread && minima_decide())) return Prices::minima;
        return begin_with(nullptr, Prices::zero);
    }

    // Gives rows of fresh lists tight columns; returns how many are left free. Rows may end a little above
    // their best; but if all of that is more than rounding can explain, they hold their best only to the last
    // bits, or nothing.
    std::int64_t give_tight_columns() {
        constexpr double unit = 0x1p-52, loose = 0x1p-44, strict = 0x1p-50;
        const Launch how{blocks_for(rows_, 8), 256};
        Buffer<unsigned long long> places(rows_, stream_);
        launch(find_tight<S>, how, stream_, state_, loose, places.get());
        std::vector<std::int32_t> columns(static_cast<std::size_t>(rows_ * kListed)), col_of_row;
        copy_to_host(columns.data(), state_.list_columns, columns.size() * sizeof(int), stream_);
        std::int64_t matched = match_tight(places.on_host(), columns, kListed, cols_, &col_of_row);
        set_matching(col_of_row);

        Buffer<double> above(rows_, stream_), magnitude(rows_, stream_);
        launch(measure_matched<S>, how, stream_, state_, above.get(), magnitude.get());
        const std::vector<double> excess = above.on_host(), sizes = magnitude.on_host();
        double gap = 0.0, scale = 0.0;
        for (const double x : excess) gap += x;
        for (const double x : sizes) scale += x;
        if (gap > unit * scale) {
            for (std::size_t i = 0; i < excess.size(); ++i)
                if (excess[i] > strict * scale / static_cast<double>(rows_)) col_of_row[i] = -1, --matched;
            set_matching(col_of_row);
        }
        return rows_ - matched;
    }

    std::int64_t row_scans() const { return row_scans_; }

  private:
    // Column minima of products are taken over every fourth row: any prices will do, and these are as good.
    static constexpr int kEvery = 4;

    bool square() const { return rows_ == cols_; }

    const double* row_prices() const { return warm_ && turned_ ? on_device_.get() : nullptr; }

    void survey(const double* u, double limit = std::numeric_limits<double>::infinity()) {
        constexpr int strip = 128;
        minima_.fill_with_byte(0xff);
        source_.sampled_rows(u == nullptr ? kEvery : 1, [&](const Costs<S>& panel, int count) {
            launch(survey_columns<S>, {dim3(blocks(cols_, 128), blocks(count, strip)), 128}, stream_, panel,
                   count, strip, limit, u, minima_.get(), &state_.control->flaws);
            row_scans_ += count;
        });
    }

    // Whether nearly every row of a sample holds a column minimum. Of products the minima are those of a few
    // rows.
    bool minima_decide() {
        if (!source_.is_stored()) return false;
        constexpr int samples = kRowsAsked;
        Buffer<int> holders(1, stream_);
        holders.fill_with_byte(0);
        launch(count_holders<S>, {blocks_for(samples, 1), kWarp}, stream_, state_.costs,
               static_cast<const unsigned long long*>(minima_.get()), samples, holders.get());
        return nearly_all_hold(holders.on_host()[0]);
    }

    Prices begin_with(const std::vector<double>* prices, Prices which) {
        if (prices != nullptr) upload(*prices);
        const bool by_minima = which == Prices::minima || (which == Prices::given && prices == nullptr);
        launch(begin<S>, {blocks(cols_, 256), 256}, stream_, state_,
               by_minima ? static_cast<const unsigned long long*>(minima_.get()) : nullptr,
               prices != nullptr ? static_cast<const double*>(on_device_.get()) : nullptr);
        return which;
    }

    void upload(const std::vector<double>& prices) {
        if (on_device_.size() == 0) on_device_ = Buffer<double>(cols_, stream_);
        on_device_.upload(prices.data());
        synchronize(stream_);  // they may go
    }

    bool prepare_duals() {
        if (!square() || options_.col_duals == nullptr) return false;
        if (tail_is_heavy_of(static_cast<int>(rows_), static_cast<int>(cols_), cells())) return false;
        duals_.resize(static_cast<std::size_t>(cols_));
        copy_to_host(duals_.data(), options_.col_duals, duals_.size() * sizeof(double), stream_);
        if (!centre_duals(state_.costs.sign, integral_, sample(), &duals_)) return false;
        if (turned_) upload(duals_);
        return true;
    }

    std::vector<double> sample() {
        return scattered_cells(static_cast<int>(rows_), static_cast<int>(cols_), cells());
    }

    Cells cells() {
        return {[this](const std::vector<int>& rows, const std::vector<int>& cols) {
                    const auto count = static_cast<std::int64_t>(rows.size());
                    Buffer<int> i(count, stream_), j(count, stream_);
                    Buffer<double> costs(count, stream_);
                    i.upload(rows.data());
                    j.upload(cols.data());
                    launch(gather_cells<S>, {blocks(count, 128), 128}, stream_, state_,
                           static_cast<const int*>(i.get()), static_cast<const int*>(j.get()),
                           static_cast<int>(count), costs.get());
                    return costs.on_host();
                },
                [this](int row) {
                    std::vector<S> elements(static_cast<std::size_t>(cols_));
                    source_.copy_row(row, elements.data());
                    std::vector<double> costs(elements.size());
                    std::transform(elements.begin(), elements.end(), costs.begin(),
                                   [this](S x) { return state_.costs.sign * static_cast<double>(x); });
                    return costs;
                }};
    }

    void set_matching(const std::vector<std::int32_t>& col_of_row) {
        std::vector<std::int32_t> row_of_col(static_cast<std::size_t>(cols_), -1);
        for (std::size_t i = 0; i < col_of_row.size(); ++i)
            if (col_of_row[i] >= 0)
                row_of_col[static_cast<std::size_t>(col_of_row[i])] = static_cast<std::int32_t>(i);
        copy_to_device(state_.matching.col_of_row, col_of_row.data(), col_of_row.size() * sizeof(int),
                       stream_);
        copy_to_device(state_.matching.row_of_col, row_of_col.data(), row_of_col.size() * sizeof(int),
                       stream_);
        synchronize(stream_);  // they may go
    }

    RowSource<S>& source_;
    ListState<S>& state_;
    const SolveOptions& options_;
    const bool integral_, turned_;
    const Stream stream_;
    const std::int64_t rows_, cols_;
    Buffer<unsigned long long> minima_;
    Buffer<double> on_device_;  // prices, or of a turned problem those of its rows
    std::vector<double> duals_;
    bool warm_ = false;
    std::int64_t row_scans_ = 0;
};

}  // namespace rebasin_fast::cuda
