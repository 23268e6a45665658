// Bidding in rounds: all rows that are free bid at the same prices, and the lowest price bid for a column
// wins it (Bertsekas' Jacobi auction). What happens in a round depends on who bids, not on who comes first,
// so that every run gives the same answer.
//
// While many rows bid, a round is four launches over the whole device, for its steps must not overlap: bids,
// claims, awards, and clearing up. Once few do, one block runs round after round: the bids of a round lie in
// its shared memory, where everybody sees who has won, and two barriers a round are enough. Neither needs the
// host, which looks only now and then how far things are.
//
// D. P. Bertsekas: The auction algorithm: a distributed relaxation method for the assignment problem. Annals
// of Operations Research 14, 105-123 (1988). doi:10.1007/BF02186476
#pragma once

#include "cuda/list_state.cuh"

namespace rebasin_fast::cuda {

// So many rows that wait are read again together.
inline constexpr int kWaitTogether = 64;

// What a row does in a round.
struct Bid {
    int column;  // -1: none
    unsigned long long key;
};

// By one warp: row i bids. Lane 0 learns the bid. Where there is none the row waits to be read again, in the
// order in which *waiting is counted up, or rests.
template <class S>
__device__ inline Bid bid_of(const ListState<S>& s, int i, double eps, int* waiting, int* resting) {
    constexpr Bid none{-1, kNoBid};
    const bool decides = threadIdx.x % kWarp == 0;
    const double bound = decides ? s.list_bound[i] : 0.0;  // asked for beside the list, not after it
    const bool fresh = decides && s.fresh[i] != 0;
    TwoLeast best = s.two_least(i);
    if (!decides) return none;
    if (fresh) s.fresh[i] = 0;
    if (best.second > bound) {
        // A list made at today's prices holds the best column, also if others not listed are as good.
        if (!fresh && (best.first > bound || (best.first == bound && eps == 0.0))) {
            s.stale[atomicAdd(waiting, 1)] = i;
            return none;
        }
        best.second = bound;  // what is not listed is no better than this
    }
    if (best.first < kForbidden) {
        const bool taken = (best.code & kTaken) != 0;
        const int j = s.column_at(i, best.code & ~kTaken);
        double decrement = best.second < kForbidden ? best.second - best.first : 0.0;
        if (decrement > 0.0 || taken) decrement += eps;
        const double now = s.matching.v[j], price = now - decrement;
        if (!taken || price < now) return {j, key_of(price)};
    }
    atomicAdd(resting, 1);
    return none;
}

// A round over the whole device.
template <class S>
class Round {
  public:
    __device__ Round(const ListState<S>& state, int count)
        : s_(state), active_(state.control->active), count_(count) {}

    // By one warp: the row at place k of the queue bids, or goes to where it waits or rests.
    __device__ void bid(int k, double eps) const {
        const Bid made = bid_of(s_, s_.queue(active_)[k], eps, &s_.control->stale, &s_.control->resting);
        if (threadIdx.x % kWarp != 0) return;
        s_.bid_column[k] = made.column;
        if (made.column < 0) return;
        s_.bid_key[k] = made.key;
        atomicMin(&s_.best_bid[made.column], made.key);
    }

    // By one thread each: of those who bid the lowest price, the lowest row wins.
    __device__ void claim(int k) const {
        const int j = s_.bid_column[k];
        if (j >= 0 && s_.best_bid[j] == s_.bid_key[k]) atomicMin(&s_.winner[j], s_.queue(active_)[k]);
    }

    __device__ void award(int k) const {
        const int j = s_.bid_column[k], i = s_.queue(active_)[k];
        if (j < 0) return;
        int next = i;
        if (s_.winner[j] == i) {
            next = s_.matching.row_of_col[j];
            s_.matching.v[j] = of_key(s_.bid_key[k]);
            s_.matching.row_of_col[j] = i;
            s_.matching.col_of_row[i] = j;
            if (next < 0) return;
            s_.matching.col_of_row[next] = -1;
        }
        s_.queue(1 - active_)[atomicAdd(&s_.control->count[1 - active_], 1)] = next;
    }

    // By the one that has won the column.
    __device__ void clear(int k) const {
        const int j = s_.bid_column[k];
        if (j < 0 || s_.matching.row_of_col[j] != s_.queue(active_)[k]) return;
        s_.best_bid[j] = kNoBid;
        s_.winner[j] = kNothing;
    }

    // By one thread, after all that.
    __device__ void advance() const {
        Control& c = *s_.control;
        c.bids += count_;
        ++c.rounds;
        c.count[active_] = 0;
        c.active = 1 - active_;
    }

  private:
    const ListState<S> s_;
    const int active_, count_;
};

// Rows that wait are read again when there are enough of them, or nobody else is left. By one thread. All of
// them or none, for which come first is chance.
__device__ inline void call_stale(Control& c) {
    const bool now = c.stale >= kWaitTogether || c.count[c.active] == 0;
    c.rescan = now && c.stale <= c.together ? c.stale : 0;
}

// Bidders of a round over the whole device; 0: it is not to take place.
template <class S>
__device__ inline int bidders_of(const ListState<S>& s) {
    const Control& c = *s.control;
    const int count = c.count[c.active];
    return count > c.few && !c.spent() ? count : 0;
}

template <class S>
__global__ void bid_step(ListState<S> s) {
    const int count = bidders_of(s);
    const Round<S> round(s, count);
    const int warps = static_cast<int>(blockDim.x) / kWarp * static_cast<int>(gridDim.x);
    for (int k = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) / kWarp; k < count; k += warps)
        round.bid(k, s.control->eps);
}

enum class Step { claim, award, clear };

template <class S, Step step>
__global__ void round_step(ListState<S> s) {
    const int count = bidders_of(s);
    const Round<S> round(s, count);
    const int threads = static_cast<int>(blockDim.x * gridDim.x);
    for (int k = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); k < count; k += threads) {
        if constexpr (step == Step::claim) round.claim(k);
        if constexpr (step == Step::award) round.award(k);
        if constexpr (step == Step::clear) round.clear(k);
    }
}

// One thread.
template <class S>
__global__ void advance_step(ListState<S> s) {
    const int count = bidders_of(s);
    if (count > 0) Round<S>(s, count).advance();
    call_stale(*s.control);
}

// After list_stale(), of `all` rows that wait or of those called. One thread.
template <class S>
__global__ void stale_done(ListState<S> s, bool all) {
    Control& c = *s.control;
    if (c.rescan == 0 && !all) return;
    c.rescans += c.stale;
    c.stale = 0;
    c.rescan = 0;
}

// Most bidders that one block serves.
inline constexpr int kMostFew = 256;

// Rounds of one block, in its shared memory.
struct FewBids {
    int rows[2][kMostFew];  // who bids in this round, and who in the next
    int count[2];
    int waiting, resting;  // as in Control
    int column[kMostFew], holder[kMostFew];
    unsigned long long key[kMostFew];

    // Of those who bid the lowest price for a column, the lowest row wins it.
    __device__ bool wins(const int* row, int k, int bidders) const {
        for (int other = 0; other < bidders; ++other)
            if (column[other] == column[k] &&
                (key[other] < key[k] || (key[other] == key[k] && row[other] < row[k])))
                return false;
        return true;
    }
};

// Few rows bid: one block, round after round, at most `rounds` of them.
template <class S>
__global__ void __launch_bounds__(kMostThreads) bid_few(ListState<S> s, int rounds) {
    REBASIN_FAST_SHARED(FewBids, few, 1);
    const int t = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    Control& c = *s.control;
    const int active = c.active, queued = c.count[active], enough = c.enough;
    const bool for_a_block = queued <= c.few;
    const long long budget = c.budget, last_round = c.last_round;
    const double eps = c.eps;
    long long bids = c.bids, round = c.rounds;
    int bidders = for_a_block ? queued : 0, waiting = c.stale, turn = 0;
    for (int k = t; k < bidders; k += threads) few->rows[0][k] = s.queue(active)[k];
    if (t == 0) {
        few->count[1] = 0;
        few->waiting = waiting;
        few->resting = c.resting;
    }
    __syncthreads();  // and now everybody has read how things stand
    for (; rounds > 0 && bidders > 0; --rounds) {
        if (bidders + waiting <= enough || waiting >= kWaitTogether) break;
        if (bids >= budget || round >= last_round) break;
        const int* row = few->rows[turn];
        for (int k = t / kWarp; k < bidders; k += threads / kWarp) {
            const Bid made = bid_of(s, row[k], eps, &few->waiting, &few->resting);
            if (t % kWarp != 0) continue;
            few->column[k] = made.column;
            few->key[k] = made.key;
            if (made.column >= 0) few->holder[k] = s.matching.row_of_col[made.column];
        }
        __syncthreads();
        turn = 1 - turn;
        waiting = few->waiting;  // nobody bids between these barriers
        for (int k = t; k < bidders; k += threads) {
            const int j = few->column[k];
            if (j < 0) continue;
            int next = row[k];
            if (few->wins(row, k, bidders)) {
                s.matching.v[j] = of_key(few->key[k]);
                s.matching.row_of_col[j] = next;
                s.matching.col_of_row[next] = j;
                next = few->holder[k];
                if (next < 0) continue;
                s.matching.col_of_row[next] = -1;
            }
            few->rows[turn][atomicAdd(&few->count[turn], 1)] = next;
        }
        if (t == 0) few->count[1 - turn] = 0;  // for the round after the next; the last has been read
        bids += bidders;
        ++round;
        __syncthreads();
        bidders = few->count[turn];
    }
    for (int k = t; k < bidders; k += threads) s.queue(active)[k] = few->rows[turn][k];
    if (t != 0) return;
    if (for_a_block) c.count[active] = bidders;
    c.stale = waiting;
    c.resting = few->resting;
    c.bids = bids;
    c.rounds = round;
    call_stale(c);
}

// Begins a phase. One thread, before enqueue_free().
template <class S>
__global__ void begin_phase(ListState<S> s, double eps, long long budget, long long rounds, int few,
                            int together, int enough) {
    Control& c = *s.control;
    c.active = 0;
    c.count[0] = c.count[1] = c.stale = c.rescan = c.resting = 0;
    c.bids = 0;
    c.budget = budget;
    c.last_round = c.rounds + rounds;
    c.eps = eps;
    c.few = few;
    c.together = together;
    c.enough = enough;
}

// Every free row is to bid.
template <class S>
__global__ void enqueue_free(ListState<S> s) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < s.costs.rows && s.matching.col_of_row[i] < 0) s.queue(0)[atomicAdd(&s.control->count[0], 1)] = i;
}

template <class S>
__global__ void release_all(ListState<S> s) {
    const int k = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (k < s.costs.cols) s.matching.row_of_col[k] = -1;
    if (k < s.costs.rows) s.matching.col_of_row[k] = -1;
}

// Frees the rows whose column is further than `eps` from their best at today's prices. A warp a row.
template <class S>
__global__ void release_loose(ListState<S> s, double eps) {
    const int warps = static_cast<int>(blockDim.x) / kWarp * static_cast<int>(gridDim.x);
    for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) / kWarp; i < s.costs.rows;
         i += warps) {
        const int j = s.matching.col_of_row[i];
        if (j < 0) continue;
        const double listed = s.least(i), bound = s.list_bound[i];
        __syncwarp();  // everybody has read the column; shuffles order no memory
        if (threadIdx.x % kWarp == 0 && s.reduced_at(i, j) > (listed < bound ? listed : bound) + eps) {
            s.matching.row_of_col[j] = -1;
            s.matching.col_of_row[i] = -1;
        }
    }
}

// Of `samples` rows: what separates the best column from those the list leaves out, and how many listed
// columns are as good as the best. A warp a row.
template <class S>
__global__ void sample_lists(ListState<S> s, int samples, double* slack, int* equal) {
    const int warps = static_cast<int>(blockDim.x) / kWarp * static_cast<int>(gridDim.x);
    for (int k = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) / kWarp; k < samples; k += warps) {
        const int i = static_cast<int>(static_cast<long long>(k) * s.costs.rows / samples);
        const double best = s.least(i);
        const std::int64_t at = static_cast<std::int64_t>(i) * kListed;
        int count = 0;
        for (int from = 0; from < kListed; from += kWarp) {
            const int place = from + static_cast<int>(threadIdx.x) % kWarp;
            bool same = false;
            if (place < s.list_size[i]) {
                const int j = s.list_columns[at + place];
                same = s.costs.cost(s.list_costs[at + place]) - s.matching.v[j] == best;
            }
            count += __popc(__ballot_sync(kWholeWarp, same));
        }
        if (threadIdx.x % kWarp == 0) {
            slack[k] = s.list_bound[i] - best;
            equal[k] = count;
        }
    }
}

// The last resort, and exact: shortest augmenting paths over whole rows, by one block, `paths` at most.
// Whoever is matched holds a best column.
template <class S, class Rows>
__global__ void __launch_bounds__(kMostThreads) augment_rows(ListState<S> s, Rows rows, int paths) {
    BlockSolver<Rows> solver(rows, s.matching);
    int next = s.control->next;
    __syncthreads();
    const bool found = solver.augment(&next, paths);
    if (threadIdx.x == 0) {
        s.control->next = next;
        s.control->infeasible = !found;
    }
}

}  // namespace rebasin_fast::cuda
