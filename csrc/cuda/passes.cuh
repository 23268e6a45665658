// Passes over the whole matrix, or over whole rows: column minima, lists, the certificate.
#pragma once

#include "cuda/list_state.cuh"

namespace rebasin_fast::cuda {

// Minima over `rows` rows of all columns as keys, and the flaws of the entries. Blocks of `blockDim.x`
// columns and `strip` rows; minima are kNoBid before. `u`, if there is any, has a price for every row.
template <class S>
__global__ void survey_columns(Costs<S> c, int rows, int strip, double largest, const double* u,
                               unsigned long long* minima, int* flaws) {
    const int j = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    const int first = static_cast<int>(blockIdx.y) * strip;
    const int end = first + strip < rows ? first + strip : rows;
    Bits found = Bits::none();
    if (j < c.cols) {
        double least = kForbidden;
        for (int i = first; i < end; ++i) {
            const double cost = c.at(i, j);
            found.value |= static_cast<unsigned>(flaws_of(cost, largest));
            least = fmin(least, u != nullptr ? cost - u[i] : cost);
        }
        if (least < kForbidden) atomicMin(&minima[j], key_of(least));
    }
    found = over_warp(found);
    if (threadIdx.x % kWarp == 0 && found.value != 0) atomicOr(flaws, static_cast<int>(found.value));
}

// Adds to *holders how many of `samples` rows hold the minimum of a column. A warp a row.
template <class S>
__global__ void count_holders(Costs<S> c, const unsigned long long* minima, int samples, int* holders) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int warps = static_cast<int>(blockDim.x) / kWarp * static_cast<int>(gridDim.x);
    for (int k = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) / kWarp; k < samples; k += warps) {
        const int i = static_cast<int>(static_cast<long long>(k) * c.rows / samples);
        bool holds = false;  // a column without a minimum has NaN for one
        for (int j = lane; j < c.cols; j += kWarp) holds |= c.at(i, j) == of_key(minima[j]);
        holds = __any_sync(kWholeWarp, holds) != 0;
        if (lane == 0 && holds) atomicAdd(holders, 1);
    }
}

// Prices to begin with: those given, or column minima, or 0. Nobody is matched.
template <class S>
__global__ void begin(ListState<S> s, const unsigned long long* minima, const double* given) {
    const int k = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (k < s.costs.cols) {
        double v = 0.0;
        if (given != nullptr)
            v = given[k];
        else if (minima != nullptr && minima[k] != kNoBid)
            v = of_key(minima[k]);
        s.matching.v[k] = v;
        s.matching.row_of_col[k] = -1;
        s.best_bid[k] = kNoBid;
        s.winner[k] = kNothing;
    }
    if (k < s.costs.rows) {
        s.matching.col_of_row[k] = -1;
        s.fresh[k] = 0;
    }
}

// One block lists a row's cheapest columns. A threshold is guessed from what the threads' shares of the row
// have as minima: a quarter to all of a list is below it. Where too much is, a lower one is tried; where ties
// leave too little below any, columns are added whose value is the threshold, from the row's own place on.
// What is listed is the same whatever the order in which threads come.
template <class S>
class RowLister {
  public:
    __device__ explicit RowLister(const ListState<S>& state)
        : s_(state), t_(static_cast<int>(threadIdx.x)), threads_(static_cast<int>(blockDim.x)) {}

    // Shared memory: `minima` has a double for every thread. Nobody looks at any of it after the last barrier
    // in here, so that the next row may follow at once.
    __device__ void list(int i, const S* row, double* minima, int* count, double* threshold) {
        const double* v = s_.matching.v;
        double least = kForbidden;
        for (int j = t_; j < s_.costs.cols; j += threads_) least = fmin(least, s_.costs.cost(row[j]) - v[j]);
        minima[t_] = least;
        __syncthreads();
        int rank = 0;
        for (int k = 0; k < threads_; ++k) rank += minima[k] < least || (minima[k] == least && k < t_);
        const int most = 3 * threads_ / 4, aim = 3 * kListed / 4;
        int wanted = s_.costs.cols <= kListed ? threads_ : aim < most ? aim : most;
        for (;; wanted /= 2) {
            if (t_ == 0) {
                *count = 0;
                if (wanted == threads_) *threshold = kForbidden;
            }
            if (rank == wanted) *threshold = least;
            __syncthreads();
            const double below = *threshold;
            collect(i, row, least, below, count);
            __syncthreads();
            const int found = *count;
            __syncthreads();
            if (found > kListed) continue;
            if (4 * found < kListed && below < kForbidden)
                list_equal(i, row, found, below);
            else
                finish(i, found, below);
            return;
        }
    }

  private:
    __device__ void collect(int i, const S* row, double least, double below, int* count) {
        if (!(least < below)) return;
        const std::int64_t at = static_cast<std::int64_t>(i) * kListed;
        for (int j = t_; j < s_.costs.cols; j += threads_) {
            if (!(s_.costs.cost(row[j]) - s_.matching.v[j] < below)) continue;
            const int place = atomicAdd(count, 1);
            if (place >= kListed) return;  // too many in any case
            s_.list_columns[at + place] = j;
            s_.list_costs[at + place] = row[j];
        }
    }

    // Fills the list up with columns whose reduced cost is `value`: free ones before those that are taken,
    // and of these the first from the row's own place on. Among ties what a row needs is a free column.
    __device__ void list_equal(int i, const S* row, int done, double value) {
        done = add_equal(i, row, done, value, false);
        done = add_equal(i, row, done, value, true);
        finish(i, done < kListed ? done : kListed, value);
    }

    __device__ int add_equal(int i, const S* row, int done, double value, bool taken) {
        REBASIN_FAST_SHARED(int, of_warp, kWarp);
        const std::int64_t at = static_cast<std::int64_t>(i) * kListed;
        const int warps = threads_ / kWarp, warp = t_ / kWarp, lane = t_ % kWarp;
        for (int from = 0; from < s_.costs.cols && done < kListed; from += threads_) {
            const int j = from + t_ < s_.costs.cols ? s_.column_at(i, from + t_) : -1;
            const bool equal = j >= 0 && (s_.matching.row_of_col[j] >= 0) == taken &&
                               s_.costs.cost(row[j]) - s_.matching.v[j] == value;
            const unsigned votes = __ballot_sync(kWholeWarp, equal);
            if (lane == 0) of_warp[warp] = __popc(votes);
            __syncthreads();
            int place = done + __popc(votes & ((1u << lane) - 1u));
            for (int w = 0; w < warps; ++w) {
                if (w < warp) place += of_warp[w];
                done += of_warp[w];
            }
            if (equal && place < kListed) {
                s_.list_columns[at + place] = j;
                s_.list_costs[at + place] = row[j];
            }
            __syncthreads();
        }
        return done;
    }

    // Sorts what was listed by column, for threads came in any order. They have passed a barrier since.
    __device__ void finish(int i, int size, double bound) {
        const std::int64_t at = static_cast<std::int64_t>(i) * kListed;
        int column = 0, place = 0;
        S element{};
        if (t_ < size) {
            column = s_.list_columns[at + t_];
            element = s_.list_costs[at + t_];
            for (int k = 0; k < size; ++k) place += s_.list_columns[at + k] < column;
        }
        __syncthreads();
        if (t_ < size) {
            s_.list_columns[at + place] = column;
            s_.list_costs[at + place] = element;
        }
        if (t_ == 0) {
            s_.list_size[i] = size;
            s_.list_bound[i] = bound;
            s_.fresh[i] = 1;
        }
    }

    const ListState<S> s_;
    const int t_, threads_;
};

// Threads of a block that lists rows; at least one for every entry of a list.
inline constexpr int kMostListers = 256, kFewestListers = kListed;

// Lists rows from `first` on, which are those of the panel.
template <class S>
__global__ void list_all(ListState<S> s, Costs<S> panel, int first, int count) {
    REBASIN_FAST_SHARED(double, minima, kMostListers);
    REBASIN_FAST_SHARED(int, found, 1);
    REBASIN_FAST_SHARED(double, threshold, 1);
    RowLister<S> lister(s);
    for (int k = static_cast<int>(blockIdx.x); k < count; k += static_cast<int>(gridDim.x))
        lister.list(first + k, panel.row(k), minima, found, threshold);
}

// Lists those rows again that wait for it, and lets them bid. They are the rows of the panel, one after the
// other, or where there is none those of the matrix.
template <class S>
__global__ void list_stale(ListState<S> s, Costs<S> panel, Wanted wanted) {
    REBASIN_FAST_SHARED(double, minima, kMostListers);
    REBASIN_FAST_SHARED(int, found, 1);
    REBASIN_FAST_SHARED(double, threshold, 1);
    RowLister<S> lister(s);
    const int rows = wanted.size(), active = s.control->active;
    const bool in_place = s.costs.data != nullptr;
    for (int k = static_cast<int>(blockIdx.x); k < rows; k += static_cast<int>(gridDim.x)) {
        const int i = wanted.row(k);
        lister.list(i, panel.row(in_place ? i : k), minima, found, threshold);
        if (threadIdx.x == 0) s.queue(active)[atomicAdd(&s.control->count[active], 1)] = i;
    }
}

// u_i = min_j c_ij - v_j over the whole row, what is left of the chosen cell, and its element, for rows from
// `first` on, which are those of the panel. A warp a row.
template <class S>
__global__ void prove_rows(ListState<S> s, Costs<S> panel, int first, int count, double* u, double back,
                           double* gaps, double* elements) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int warps = static_cast<int>(blockDim.x) / kWarp * static_cast<int>(gridDim.x);
    for (int k = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) / kWarp; k < count; k += warps) {
        double least = kForbidden;
        const S* row = panel.row(k);
        for (int j = lane; j < s.costs.cols; j += kWarp)
            least = fmin(least, s.costs.cost(row[j]) - s.matching.v[j]);
        least = least_over_warp(least);
        if (lane == 0) {
            const int i = first + k, j = s.matching.col_of_row[i];
            gaps[i] = s.costs.cost(row[j]) - s.matching.v[j] - least;
            elements[i] = static_cast<double>(row[j]);
            if (u != nullptr) u[i] = least * back;
        }
    }
}

// Writes the answer. One block.
template <class S>
__global__ void __launch_bounds__(kMostThreads)
    write_answer(ListState<S> s, bool turned, DeviceAnswer to, double back, const double* gaps,
                 const double* elements) {
    OverBlock<Sum> sum;
    Sum gap = Sum::none(), total = Sum::none();
    for (int i = static_cast<int>(threadIdx.x); i < s.costs.rows; i += static_cast<int>(blockDim.x)) {
        gap.value += gaps[i];
        total.value += elements[i];
    }
    gap = sum(gap);
    total = sum(total);
    double* const v = turned ? to.row_duals : to.col_duals;
    if (v != nullptr)
        for (int j = static_cast<int>(threadIdx.x); j < s.costs.cols; j += static_cast<int>(blockDim.x))
            v[j] = s.matching.v[j] * back;
    if (threadIdx.x == 0) {
        *to.cost = total.value;
        *to.gap = gap.value * (back < 0.0 ? -back : back);
    }
    write_cells(s.matching, s.costs.rows, s.costs.cols, turned, to);
}

}  // namespace rebasin_fast::cuda
