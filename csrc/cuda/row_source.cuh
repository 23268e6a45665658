// Where a solver's rows come from: a matrix in device memory, or factors whose products are formed a panel of
// rows at a time. The solver asks for rows; it does not own a matrix, nor need there be one.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "cuda/factors.cuh"
#include "cuda/list_state.cuh"
#include "cuda/pack.cuh"

namespace rebasin_fast::cuda {

inline unsigned blocks_for(std::int64_t work, unsigned per_block) {
    const std::int64_t wanted = (work + per_block - 1) / per_block;
    const std::int64_t most = 32 * static_cast<std::int64_t>(multiprocessors());
    return static_cast<unsigned>(std::max<std::int64_t>(1, std::min(wanted, most)));
}

// Costs of single cells, wherever they come from. A thread a cell.
template <class S>
__global__ void gather_cells(ListState<S> s, const int* rows, const int* cols, int count, double* costs) {
    const int k = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (k < count) costs[k] = s.at(rows[k], cols[k]);
}

inline void launch_multiply(const Factors& factors, const Wanted& wanted, double* products, int most,
                            Stream stream) {
    const std::int64_t tiles = (std::int64_t{most} + kProductTile - 1) / kProductTile *
                               ((factors.cols + kProductTile - 1) / kProductTile);
    const Launch how{static_cast<unsigned>(std::min<std::int64_t>(tiles, 8 * multiprocessors())),
                     kProductThreads};
    if (factors.wide)
        launch(multiply<double>, how, stream, factors, wanted, products);
    else
        launch(multiply<float>, how, stream, factors, wanted, products);
}

template <class S>
class RowSource {
  public:
    // A matrix is read where it lies if it can be.
    RowSource(const DeviceMatrix& matrix, double sign, Stream stream)
        : stream_(stream), buffer_(lies_ready<S>(matrix) ? 0 : matrix.rows * matrix.cols, stream) {
        const bool ready = buffer_.size() == 0;
        if (!ready) pack(matrix, buffer_.get(), stream);
        costs_ = {ready ? static_cast<const S*>(matrix.data) : buffer_.get(),
                  ready ? matrix.row_stride : matrix.cols, sign, static_cast<int>(matrix.rows),
                  static_cast<int>(matrix.cols)};
        together_ = costs_.rows;
    }

    RowSource(const Factors& factors, double sign, std::int64_t panel_bytes, Stream stream)
        : stream_(stream), factors_(factors) {
        static_assert(std::is_same_v<S, double>);
        costs_ = {nullptr, factors.cols, sign, factors.rows, factors.cols};
        const std::int64_t fit = panel_bytes / (std::int64_t{factors.cols} * 8) / kProductTile * kProductTile;
        const std::int64_t padded = (factors.rows + kProductTile - 1) / kProductTile * kProductTile;
        together_ = static_cast<int>(std::clamp<std::int64_t>(fit, kProductTile, padded));
        buffer_ = Buffer<S>(std::int64_t{together_} * factors.cols, stream);
    }

    // Of a matrix that is not stored, `data` is null.
    const Costs<S>& costs() const { return costs_; }
    const Factors& factors() const { return factors_; }
    bool is_stored() const { return costs_.data != nullptr; }

    // So many rows are at hand at once.
    int together() const { return together_; }

    // Calls use(panel, first, count) for stretches of rows: those from `first` on, in `panel` from its row 0.
    template <class Use>
    void all_rows(Use use) {
        if (is_stored()) return use(costs_, 0, costs_.rows);
        for (int first = 0; first < costs_.rows; first += together_) {
            const int count = std::min(together_, costs_.rows - first);
            use(panel(Wanted{nullptr, nullptr, first, 1, count}, count), first, count);
        }
    }

    // Calls use(panel, count) until every row of a matrix, or every `step`-th row of products, was in one.
    template <class Use>
    void sampled_rows(int step, Use use) {
        if (is_stored()) return use(costs_, costs_.rows);
        const int rows = (costs_.rows + step - 1) / step;
        for (int first = 0; first < rows; first += together_) {
            const int count = std::min(together_, rows - first);
            use(panel(Wanted{nullptr, nullptr, first * step, step, count}, count), count);
        }
    }

    // The rows wanted, one after the other, of a matrix that is not stored; at most together() of them.
    Costs<S> panel(const Wanted& wanted, int most) {
        if constexpr (std::is_same_v<S, double>)
            launch_multiply(factors_, wanted, buffer_.get(), most, stream_);
        Costs<S> there = costs_;
        there.data = buffer_.get();
        return there;
    }

    void copy_row(std::int64_t i, S* to) {
        const Costs<S> from =
            is_stored() ? costs_ : panel(Wanted{nullptr, nullptr, static_cast<int>(i), 1, 1}, 1);
        const S* row = is_stored() ? from.data + i * from.row_stride : from.data;
        copy_to_host(to, row, static_cast<std::size_t>(costs_.cols) * sizeof(S), stream_);
    }

    // The whole matrix; null where there is none without gaps, or it is larger than `most_bytes`, or the host
    // has no room for it.
    std::unique_ptr<S[]> all_on_host(std::int64_t most_bytes) const {
        const std::int64_t count = std::int64_t{costs_.rows} * costs_.cols;
        const std::int64_t bytes = count * static_cast<std::int64_t>(sizeof(S));
        if (!is_stored() || costs_.row_stride != costs_.cols || bytes > most_bytes) return nullptr;
        std::unique_ptr<S[]> all(new (std::nothrow) S[static_cast<std::size_t>(count)]);
        if (all != nullptr) copy_to_host(all.get(), costs_.data, static_cast<std::size_t>(bytes), stream_);
        return all;
    }

    void scale(double factor) { costs_.sign *= factor; }

  private:
    const Stream stream_;
    Factors factors_;
    Costs<S> costs_{};
    Buffer<S> buffer_;  // the matrix brought into order, or the panel
    int together_ = 0;
};

}  // namespace rebasin_fast::cuda
