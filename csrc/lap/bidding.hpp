// Bidding on candidate lists: a free row takes its best column and lowers that column's price.
//
// With eps = 0 this is the row reduction of Jonker & Volgenant; with eps > 0, the auction of Bertsekas, in
// which no row ends further than eps from its best. Rows whose list no longer decides a bid wait, and are
// read again many at a time, by other threads, where there are any, while bidding goes on: at the prices of
// when reading began, which will do, for prices only fall. So threads do not change the outcome.
//
// D. P. Bertsekas: Auction algorithms for network flow problems: a tutorial introduction. Computational
// Optimization and Applications 1, 7-66 (1992). doi:10.1007/BF00247653
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "lap/list_state.hpp"
#include "lap/tight_matching.hpp"

namespace rebasin_fast {

template <class Source>
class Bidding {
  public:
    using T = typename Source::Element;

    explicit Bidding(ListState<Source>* state)
        : state_(*state), matching_(state->matching), prices_(state->prices), lists_(state->lists) {}

    // Every row in `rows` bids, and whom it displaces, and so on: at most `budget` bids. Returns the rows
    // left free. eps = 0: a row that could only displace another without lowering the price stays free.
    std::vector<std::int32_t> bid_all(std::vector<std::int32_t> rows, double eps, std::int64_t budget) {
        std::vector<std::int32_t> left, reading;
        std::reverse(rows.begin(), rows.end());  // a stack: the last is served first
        stale_.clear();
        for (;;) {
            serve(&rows, eps, kAsLongAsItTakes, &budget, &left);
            const bool ended = budget <= 0 || state_.stopped;
            if (ended || stale_.empty()) break;
            reading.swap(stale_);
            stale_.clear();
            const auto meanwhile = static_cast<std::int64_t>(reading.size()) * state_.m() / kColumnsPerBid;
            lists_.read(reading, prices_, [&] { serve(&rows, eps, meanwhile, &budget, &left); });
            rows.insert(rows.end(), reading.rbegin(), reading.rend());
        }
        left.insert(left.end(), stale_.begin(), stale_.end());
        left.insert(left.end(), rows.rbegin(), rows.rend());
        return left;
    }

    // Gives rows tight columns: their best ones, up to what rounding has made of duals that were optimal.
    // Above its best a row may end a little anyway, after any bid; but if all of that is more than rounding
    // can explain, rows hold their best only to the last bits, or nothing.
    void match_tight() {
        constexpr double unit = 0x1p-52, loose = 0x1p-44, strict = 0x1p-50;
        TightMatching tight(state_.n(), state_.m());
        for (std::int32_t i = 0; i < state_.n(); ++i) {
            const double best = lists_.two_smallest(i, prices_.v()).first;
            const auto list = lists_.of(i);
            if (!(best < kForbidden) || best > list.bound) continue;
            for (std::int32_t k = 0; k < list.size; ++k) {
                const std::int32_t j = list.columns[k];
                const double above = lists_.reduced(list, k, prices_.v()) - best;
                if (above <= loose * (std::abs(best) + std::abs(prices_[j]))) tight.add(i, j);
            }
        }
        double scale = 0.0, gap = 0.0;
        tight.solve([&](std::int32_t i, std::int32_t j) {
            const double best = lists_.two_smallest(i, prices_.v()).first;
            matching_.assign(i, j);
            gap += state_.reduced_at(i, j) - best;
            scale += std::abs(best) + std::abs(prices_[j]);
        });
        if (gap > unit * scale) release_all_beyond(strict * scale / state_.n());
    }

    // The median slack within a list: what separates a row's best column from those it does
    // without. From a sample of rows.
    double typical_slack() const {
        const std::int32_t step = std::max(1, state_.n() / 2048);
        std::vector<double> slack;
        for (std::int32_t i = 0; i < state_.n(); i += step) {
            const double best = lists_.two_smallest(i, prices_.v()).first;
            if (lists_.of(i).bound < kForbidden && best < kForbidden)
                slack.push_back(lists_.of(i).bound - best);
        }
        if (slack.empty()) return 0.0;
        const auto middle = slack.begin() + static_cast<std::ptrdiff_t>(slack.size() / 2);
        std::nth_element(slack.begin(), middle, slack.end());
        return *middle;
    }

    // Whether most rows have a choice of `several` equally good columns. eps would tell them apart only to
    // have it undone: among equals a search finds a free column at once.
    bool full_of_ties(std::int64_t several) const {
        const std::int32_t step = std::max(1, state_.n() / 64);
        std::int64_t tied = 0, seen = 0;
        for (std::int32_t i = 0; i < state_.n(); i += step, ++seen) {
            const double best = lists_.two_smallest(i, prices_.v()).first;
            const auto list = lists_.of(i);
            std::int64_t equal = 0;
            for (std::int32_t k = 0; k < list.size; ++k)
                equal += lists_.reduced(list, k, prices_.v()) == best;
            tied += equal >= several;
        }
        return 2 * tied > seen;
    }

    void release_all() {
        std::fill(matching_.col_of_row.begin(), matching_.col_of_row.end(), -1);
        std::fill(matching_.row_of_col.begin(), matching_.row_of_col.end(), -1);
    }

    // Frees the rows whose column is further than `eps` from their best at today's prices.
    void release_all_beyond(double eps) {
        for (std::int32_t i = 0; i < state_.n(); ++i) {
            const std::int32_t j = matching_.col_of_row[i];
            if (j < 0) continue;
            const double best = std::min(lists_.two_smallest(i, prices_.v()).first, lists_.of(i).bound);
            if (state_.reduced_at(i, j) > best + eps) {
                matching_.row_of_col[j] = -1;
                matching_.col_of_row[i] = -1;
            }
        }
    }

    // A bound on how far the matching, if complete, is from the optimum.
    double gap() const {
        double sum = 0.0;
        for (std::int32_t i = 0; i < state_.n(); ++i) {
            const std::int32_t j = matching_.col_of_row[i];
            if (j < 0) return kForbidden;
            const double chosen = state_.reduced_at(i, j);
            sum += chosen - std::min({chosen, lists_.two_smallest(i, prices_.v()).first, lists_.of(i).bound});
        }
        return sum;
    }

  private:
    static constexpr std::int32_t kNobody = -1;

    // A bid takes about as long as to read so many columns, on two threads. While rows are read, no more bids
    // are made than there is time for: those rows are not to wait longer than they must.
    static constexpr std::int64_t kColumnsPerBid = 1024;
    static constexpr std::int64_t kAsLongAsItTakes = std::numeric_limits<std::int64_t>::max();

    // At most `most` bids, until the stack is empty or enough rows wait to be read again.
    void serve(std::vector<std::int32_t>* rows, double eps, std::int64_t most, std::int64_t* budget,
               std::vector<std::int32_t>* left) {
        constexpr std::size_t together = 256;
        for (; most > 0 && *budget > 0 && !rows->empty() && stale_.size() < together; --most) {
            if (state_.stop_requested()) return;
            const std::int32_t i = rows->back();
            rows->pop_back();
            --*budget;
            const std::int32_t displaced = bid(i, eps, left);
            if (displaced >= 0) rows->push_back(displaced);
        }
    }

    // Returns the displaced row, or kNobody; a row that bids in vain goes to `left`, one whose list no longer
    // decides to those that wait to be read again.
    std::int32_t bid(std::int32_t i, double eps, std::vector<std::int32_t>* left) {
        simd::TwoSmallest best = lists_.two_smallest(i, prices_.v());
        const auto list = lists_.of(i);
        if (best.second > list.bound) {
            if (best.first > list.bound || (best.first == list.bound && eps == 0.0)) {
                stale_.push_back(i);
                return kNobody;
            }
            best.second = list.bound;  // what is not listed is no better than this
        }
        if (best.index < 0) return stay(i, left);  // everything forbidden; the path search will report it
        std::int64_t j = list.columns[best.index];
        double decrement = 0.0;
        if (best.first < best.second) {
            if (best.second < kForbidden) decrement = best.second - best.first;
        } else if (matching_.row_of_col[j] >= 0) {
            const std::int64_t tie = free_tie(i, best.first);
            if (tie >= 0) j = tie;
        }
        if (decrement > 0.0 || matching_.row_of_col[j] >= 0) decrement += eps;
        const double price = prices_[j] - decrement;
        const std::int32_t displaced = matching_.row_of_col[j];
        if (displaced >= 0 && !(price < prices_[j])) return stay(i, left);
        if (decrement > 0.0) prices_.set(j, price);
        if (displaced >= 0) matching_.col_of_row[displaced] = -1;
        matching_.assign(i, j);
        return displaced;
    }

    static std::int32_t stay(std::int32_t i, std::vector<std::int32_t>* left) {
        left->push_back(i);
        return kNobody;
    }

    // A free column of row i with reduced cost `value`, the first of its list if it has one; -1 if none.
    std::int64_t free_tie(std::int32_t i, double value) {
        const auto list = lists_.of(i);
        for (std::int32_t k = 0; k < list.size; ++k)
            if (matching_.row_of_col[list.columns[k]] < 0 && lists_.reduced(list, k, prices_.v()) == value)
                return list.columns[k];
        if (list.bound > value) return -1;
        return simd::kernels<T>().find_free_reduced(lists_.row(i), state_.source.sign, prices_.v().data(),
                                                    value, matching_.row_of_col.data(), state_.m());
    }

    ListState<Source>& state_;
    PartialMatching& matching_;
    Prices<T>& prices_;
    Candidates<Source>& lists_;
    std::vector<std::int32_t> stale_;
};

}  // namespace rebasin_fast
