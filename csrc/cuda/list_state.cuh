// What the kernels for one large problem share: matching, prices, candidate lists, queues of rows.
//
// Lists are those of csrc/lap/candidates.hpp: the cheapest columns of a row with a bound on every column left
// out. Prices only fall, so reduced costs only rise and the bound stays valid for ever.
#pragma once

#include "cuda/block_solver.cuh"
#include "cuda/elements.cuh"
#include "cuda/factors.cuh"
#include "cuda/reduce.cuh"

namespace rebasin_fast::cuda {

inline constexpr int kListed = 64;  // entries of a list at most, two for every lane of a warp
inline constexpr int kNothing = 0x7fffffff;
inline constexpr unsigned long long kNoBid = ~0ull;

// What the host reads after a number of launches. Written by the device.
struct Control {
    int active;    // which of the two queues holds the rows that bid next
    int count[2];  // rows in the queues
    int stale;     // rows whose list decides nothing any more
    int rescan;    // so many of them are to be read again now
    int resting;   // rows that stay free in this phase: no bid of theirs would change anything
    int flaws;     // of the entries
    int few;       // so many bidders at most are left to one block
    int together;  // so many rows at most are read again in one go; more wait for the host
    int next;      // row the path search goes on with
    int infeasible;
    int enough;            // with so many left a phase ends: the next one, or paths, will serve them better
    long long bids;        // in this phase
    long long budget;      // of bids; a phase ends beyond it
    long long last_round;  // and with this round
    long long rescans;     // rows read again, of all phases
    long long rounds;
    double eps;

    __host__ __device__ bool spent() const { return bids >= budget || rounds >= last_round; }
};

template <class S>
struct ListState {
    Costs<S> costs;   // data is null where there are factors
    Factors factors;  // of doubles
    Matching matching;
    int* list_columns;     // (rows, kListed)
    S* list_costs;         // (rows, kListed)
    int* list_size;        // (rows,)
    double* list_bound;    // (rows,) c_ij - v_j >= bound for every column not listed
    unsigned char* fresh;  // (rows,) the list was made at today's prices
    int* queues;           // (2, rows)
    int* stale;            // (rows,)
    int* bid_column;       // by place in the queue; -1: no bid
    unsigned long long* bid_key;
    unsigned long long* best_bid;  // (cols,) key of the lowest price bid this round
    int* winner;                   // (cols,) lowest row that bid it
    Control* control;

    // Where among equals row i begins to look, so that rows full of ties do not all want the same.
    __device__ int place_of(int i) const {
        if (costs.cols == costs.rows) return i;  // a division takes longer than all else that a bid computes
        return static_cast<int>(static_cast<long long>(i) * costs.cols / costs.rows);
    }
    __device__ int distance(int i, int j) const {
        const int d = j - place_of(i);
        return d >= 0 ? d : d + costs.cols;
    }
    __device__ int column_at(int i, int distance) const {
        const int j = place_of(i) + distance;
        return j < costs.cols ? j : j - costs.cols;
    }
    __device__ int* queue(int which) const { return queues + static_cast<std::int64_t>(which) * costs.rows; }
    __device__ double at(int i, int j) const {
        if constexpr (std::is_same_v<S, double>)
            if (costs.data == nullptr) return costs.cost(product_at(factors, i, j));
        return costs.at(i, j);
    }
    __device__ double reduced_at(int i, int j) const { return at(i, j) - matching.v[j]; }

    // By all lanes of a warp: calls use(column, reduced cost) for this lane's share of row i's list. Entries
    // are asked for before it is known how many there are: whoever waits for one waits for the next as well.
    template <class Use>
    __device__ void each_listed(int i, Use use) const {
        constexpr int each = kListed / kWarp;
        const int lane = static_cast<int>(threadIdx.x) % kWarp;
        const std::int64_t at = static_cast<std::int64_t>(i) * kListed + lane;
        int columns[each];
        S elements[each];
        for (int e = 0; e < each; ++e) {
            columns[e] = list_columns[at + e * kWarp];
            elements[e] = list_costs[at + e * kWarp];
        }
        const int size = list_size[i];
        for (int e = 0; e < each; ++e)
            if (e * kWarp + lane < size) use(columns[e], costs.cost(elements[e]) - matching.v[columns[e]]);
    }

    // The smallest reduced cost of row i's list. Looks at no matching.
    __device__ double least(int i) const {
        double best = kForbidden;
        each_listed(i, [&](int, double reduced) { best = fmin(best, reduced); });
        return least_over_warp(best);
    }

    // The two smallest reduced costs of row i's list. The code tells the distance of the column and whether
    // it is taken; free columns come first.
    __device__ TwoLeast two_least(int i) const {
        TwoLeast best = TwoLeast::none();
        each_listed(i, [&](int j, double reduced) {
            best.take(reduced, distance(i, j) | (matching.row_of_col[j] < 0 ? 0 : kTaken));
        });
        return over_warp(best);
    }
};

}  // namespace rebasin_fast::cuda
