// One block solves one problem: Jonker-Volgenant, every row looked at by all threads at once.
//
// Column reduction (square problems), augmenting row reduction, and shortest augmenting paths for the rows
// left, as in csrc/lap/dense.cpp. Duals and path lengths are float64. The same code is the last resort of the
// solver for one large problem, which brings prices and a matching along.
//
// R. Jonker, A. Volgenant: A shortest augmenting path algorithm for dense and sparse linear assignment
// problems. Computing 38, 325-340 (1987). doi:10.1007/BF02278710
#pragma once

#include "cuda/elements.cuh"
#include "cuda/reduce.cuh"

namespace rebasin_fast::cuda {

// A matching under construction, in shared or global memory.
struct Matching {
    double* v;               // (cols,) prices
    double* length;          // (cols,) of the shortest path known to a column
    int* pred;               // (cols,) the row through which that path comes
    int* row_of_col;         // (cols,) -1: free
    int* col_of_row;         // (rows,) -1: free
    unsigned char* settled;  // (cols,)

    __host__ __device__ static std::size_t bytes(std::int64_t rows, std::int64_t cols) {
        return static_cast<std::size_t>(cols) * (2 * sizeof(double) + 2 * sizeof(int) + 1) +
               static_cast<std::size_t>(rows) * sizeof(int);
    }

    // Lays the arrays out in `memory`, which is aligned to 8 bytes.
    __host__ __device__ static Matching in(unsigned char* memory, int rows, int cols) {
        Matching at;
        at.v = reinterpret_cast<double*>(memory);
        at.length = at.v + cols;
        at.pred = reinterpret_cast<int*>(at.length + cols);
        at.row_of_col = at.pred + cols;
        at.col_of_row = at.row_of_col + cols;
        at.settled = reinterpret_cast<unsigned char*>(at.col_of_row + rows);
        return at;
    }
};

// Of equal values a free column comes first, then the lower one.
inline constexpr int kTaken = 1 << 30;

// `Rows` is Costs<S>, or FactoredCosts.
template <class Rows>
class BlockSolver {
  public:
    __device__ BlockSolver(const Rows& costs, const Matching& state)
        : c_(costs), s_(state), t_(static_cast<int>(threadIdx.x)), threads_(static_cast<int>(blockDim.x)) {}

    // Looks at every element; prices start at the column minima of a square problem, at 0 otherwise, and
    // rows take the columns whose minimum they hold. Returns the flaws of the entries.
    __device__ int start(double largest) {
        for (int i = t_; i < c_.rows; i += threads_) s_.col_of_row[i] = c_.cols;
        const bool square = c_.rows == c_.cols;
        Bits flaws = Bits::none();
        for (int j = t_; j < c_.cols; j += threads_) {
            Least best = Least::none();
            const auto look = [&](int i, auto element) {
                const double cost = c_.cost(element);
                flaws.value |= static_cast<unsigned>(flaws_of(cost, largest));
                best.take({cost, i == j ? -1 : i});  // a constant matrix gives the identity
            };
            fetch_ahead<4>(0, 1, c_.rows, [&](int i) { return c_.row(i)[j]; }, look);
            const bool usable = square && best.value < kForbidden;
            s_.v[j] = usable ? best.value : 0.0;
            s_.row_of_col[j] = usable ? (best.code < 0 ? j : best.code) : -1;
        }
        const int found = static_cast<int>(bits_over_block_(flaws).value);
        __syncthreads();
        // A row that holds several minima takes the lowest column, but its own place first.
        for (int j = t_; j < c_.cols; j += threads_)
            if (s_.row_of_col[j] >= 0)
                atomicMin(&s_.col_of_row[s_.row_of_col[j]], s_.row_of_col[j] == j ? -1 : j);
        __syncthreads();
        for (int i = t_; i < c_.rows; i += threads_) {
            const int j = s_.col_of_row[i];
            s_.col_of_row[i] = j < 0 ? i : j == c_.cols ? -1 : j;
        }
        __syncthreads();
        for (int j = t_; j < c_.cols; j += threads_) {
            const int i = s_.row_of_col[j];
            if (i >= 0 && s_.col_of_row[i] != j) s_.row_of_col[j] = -1;
        }
        __syncthreads();
        return found;
    }

    // Free rows bid with eps = 0, at most `budget` times.
    __device__ void reduce_rows(int budget) {
        for (int first = 0; first < c_.rows && budget > 0; ++first)
            for (int i = s_.col_of_row[first] < 0 ? first : -1; i >= 0 && budget > 0; --budget) i = bid(i);
    }

    // Shortest augmenting paths for free rows from *next on, at most `paths` of them. False when a row can
    // reach no free column.
    __device__ bool augment(int* next, int paths) {
        for (; *next < c_.rows; ++*next) {
            if (s_.col_of_row[*next] >= 0) continue;
            if (paths-- == 0) return true;
            if (!augment_from(*next)) return false;
        }
        return true;
    }

    // u_i = min_j c_ij - v_j, by reading every element: the duals that are feasible by construction. Calls
    // store(i, u_i, chosen element) in one thread; returns the gap.
    template <class Store>
    __device__ double prove(Store store) {
        double gap = 0.0;
        const int lane = t_ % kWarp, warps = threads_ / kWarp;
        for (int i = t_ / kWarp; i < c_.rows; i += warps) {
            double least = kForbidden;
            const auto row = c_.row(i);
            for (int j = lane; j < c_.cols; j += kWarp) least = fmin(least, c_.cost(row[j]) - s_.v[j]);
            least = least_over_warp(least);
            if (lane == 0) {
                const int j = s_.col_of_row[i];
                const double cost = c_.cost(row[j]);
                gap += cost - s_.v[j] - least;
                store(i, least, static_cast<double>(row[j]));
            }
        }
        return sum_over_block_(Sum{gap}).value;
    }

    __device__ double sum(double mine) { return sum_over_block_(Sum{mine}).value; }

  private:
    // Calls use(k, fetch(k)) for k = first, first + step, ... below `end`. Several are fetched before the
    // first is used: memory takes as long for one.
    template <int ahead, class Fetch, class Use>
    __device__ static void fetch_ahead(int first, int step, int end, Fetch fetch, Use use) {
        for (; first < end; first += ahead * step) {
            decltype(fetch(0)) fetched[ahead] = {};
            REBASIN_FAST_UNROLL
            for (int k = 0; k < ahead; ++k)
                if (first + k * step < end) fetched[k] = fetch(first + k * step);
            REBASIN_FAST_UNROLL
            for (int k = 0; k < ahead; ++k)
                if (first + k * step < end) use(first + k * step, fetched[k]);
        }
    }

    // Calls use(j, element) for this thread's share of row i.
    template <class Use>
    __device__ void each_of_row(int i, Use use) const {
        const auto row = c_.row(i);
        fetch_ahead<4>(t_, threads_, c_.cols, [&](int j) { return row[j]; }, use);
    }

    // Row i takes its best column and lowers the price until the second best is as good. Returns the row to
    // bid next: the one displaced, if that has brought anything.
    __device__ int bid(int i) {
        TwoLeast best = TwoLeast::none();
        each_of_row(i, [&](int j, auto element) {
            best.take(c_.cost(element) - s_.v[j], s_.row_of_col[j] < 0 ? j : j | kTaken);
        });
        best = two_over_block_(best);
        if (!(best.first < kForbidden)) return -1;
        const int j = best.code & ~kTaken, displaced = s_.row_of_col[j];
        const double price = best.second < kForbidden ? s_.v[j] - (best.second - best.first) : s_.v[j];
        const bool lowered = price < s_.v[j];
        __syncthreads();
        if (displaced >= 0 && !lowered) return -1;
        if (t_ == 0) {
            s_.v[j] = price;
            s_.row_of_col[j] = i;
            s_.col_of_row[i] = j;
            if (displaced >= 0) s_.col_of_row[displaced] = -1;
        }
        __syncthreads();
        return displaced;
    }

    __device__ bool augment_from(int root) {
        for (int j = t_; j < c_.cols; j += threads_) {
            s_.length[j] = kForbidden;
            s_.settled[j] = 0;
        }
        double reach = 0.0;
        int sink = -1;
        for (int i = root, from = -1; sink < 0;) {
            const Least nearest = relax(i, from, reach);
            if (!(nearest.value < kForbidden)) return false;
            const int j = nearest.code & ~kTaken;
            reach = nearest.value;
            if (!(nearest.code & kTaken)) {
                sink = j;
            } else {
                if (j % threads_ == t_) s_.settled[j] = 1;  // only its own thread looks at it
                i = s_.row_of_col[j];
                from = j;
            }
        }
        __syncthreads();
        for (int j = t_; j < c_.cols; j += threads_)
            if (s_.settled[j]) s_.v[j] += s_.length[j] - reach;
        if (t_ == 0)
            for (int j = sink, i = -1; i != root;) {
                i = s_.pred[j];
                s_.row_of_col[j] = i;
                const int before = s_.col_of_row[i];
                s_.col_of_row[i] = j;
                j = before;
            }
        __syncthreads();
        return true;
    }

    // Extends paths through row i, whose own column `from`, if it has one, is `reach` away; returns the
    // nearest column that is not settled. What the row's own cell costs is fetched along with the others.
    __device__ Least relax(int i, int from, double reach) {
        Least nearest = Least::none();
        const auto own = from >= 0 ? c_.row(i)[from] : decltype(+c_.row(i)[0]){};
        each_of_row(i, [&](int j, auto element) {
            if (s_.settled[j]) return;
            const double offset = from >= 0 ? reach - (c_.cost(own) - s_.v[from]) : 0.0;
            const double through = offset + (c_.cost(element) - s_.v[j]);
            if (through < s_.length[j]) {
                s_.length[j] = through;
                s_.pred[j] = i;
            }
            nearest.take({s_.length[j], s_.row_of_col[j] < 0 ? j : j | kTaken});
        });
        return least_over_block_(nearest);
    }

    const Rows c_;
    const Matching s_;
    const int t_, threads_;
    OverBlock<Least> least_over_block_;
    OverBlock<TwoLeast> two_over_block_;
    OverBlock<Sum> sum_over_block_;
    OverBlock<Bits> bits_over_block_;
};

// Writes the matching as the caller wants it: of a turned problem the longer side holds the rows. Needs whole
// warps; everybody calls it.
__device__ inline void write_cells(const Matching& s, int rows, int cols, bool turned,
                                   const DeviceAnswer& to) {
    const int t = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    if (!turned) {
        for (int i = t; i < rows; i += threads) {
            to.row_ind[i] = i;
            to.col_ind[i] = s.col_of_row[i];
        }
        return;
    }
    REBASIN_FAST_SHARED(int, of_warp, kWarp);
    const int warps = threads / kWarp, lane = t % kWarp, warp = t / kWarp;
    int done = 0;
    for (int from = 0; from < cols; from += threads) {
        const int j = from + t;
        const bool matched = j < cols && s.row_of_col[j] >= 0;
        const unsigned votes = __ballot_sync(kWholeWarp, matched);
        if (lane == 0) of_warp[warp] = __popc(votes);
        __syncthreads();
        int before = done + __popc(votes & ((1u << lane) - 1u));
        for (int w = 0; w < warps; ++w) {
            if (w < warp) before += of_warp[w];
            done += of_warp[w];
        }
        if (matched) {
            to.row_ind[before] = j;
            to.col_ind[before] = s.row_of_col[j];
        }
        __syncthreads();
    }
}

}  // namespace rebasin_fast::cuda
