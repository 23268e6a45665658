// Shortest augmenting paths on candidate lists, from all free rows at once.
//
// One Dijkstra search grows a tree from every free row. A tree that reaches a free column has found its path;
// trees share nothing, so after one update of the prices all paths found are shortest and are flipped
// together: many rows are matched for the price of one search (Balas, Miller, Pekny & Toth 1991). In the heap
// a row's bound is an event of its own: what the row does not list may be that near, and only when the bound
// is the smallest key is the row read again, with a longer list.
//
// Only a column that ends matched may have its price lowered when there are more columns than rows; a search
// of a rectangular problem therefore ends where a tree reaches a second free column.
//
// Every search matches at least one row and settles every column at most once, and rereading has a budget,
// after which whole rows take over. So everything ends, after O(n^3) whatever the input.
//
// E. Balas, D. Miller, J. Pekny, P. Toth: A parallel shortest augmenting path algorithm for the assignment
// problem. Journal of the ACM 38(4), 985-1004 (1991). doi:10.1145/115234.115349
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "lap/list_state.hpp"

namespace rebasin_fast {

template <class Source>
class Forest {
  public:
    using T = typename Source::Element;

    // `reads` rows may be read again before match_all() gives up.
    Forest(ListState<Source>* state, std::int64_t reads)
        : state_(*state),
          matching_(state->matching),
          prices_(state->prices),
          lists_(state->lists),
          reads_left_(reads),
          open_(state->prices.v().size(), kForbidden),
          pred_(state->prices.v().size(), -1),
          offset_(static_cast<std::size_t>(state->n())),
          tree_(static_cast<std::size_t>(state->n())) {
        // Room that is not used is not touched; growing step by step would leave what was outgrown behind.
        heap_.reserve(4 * offset_.size());
        now_.reserve(open_.size());
        settled_.reserve(open_.size());
        touched_.reserve(open_.size());
    }

    enum class Outcome { matched, infeasible, gave_up };

    // Gives every free row a column; matched rows must hold their best at today's prices.
    Outcome match_all(std::int64_t* augmentations) {
        std::vector<std::int32_t> roots = matching_.free_rows();
        while (!roots.empty()) {
            if (!search(roots)) return Outcome::gave_up;
            const std::int64_t found = flip(roots);
            if (found == 0) return Outcome::infeasible;
            *augmentations += found;
            roots.erase(std::remove_if(roots.begin(), roots.end(),
                                       [&](std::int32_t i) { return matching_.col_of_row[i] >= 0; }),
                        roots.end());
        }
        return Outcome::matched;
    }

  private:
    // Of equal keys free columns come first, then columns, then bounds: these may prove not to matter.
    enum Rank : std::int32_t { kFree, kColumn, kBound };

    struct Event {
        double key;
        std::int32_t id;  // a column, or for a bound its row
        Rank rank;
        bool operator<(const Event& other) const {  // std heaps keep the largest on top
            if (key != other.key) return key > other.key;
            return rank != other.rank ? rank > other.rank : id > other.id;
        }
    };

    struct Settled {
        std::int32_t column;
        double length;
    };

    // Grows the trees and updates the prices. False when the budget is spent, or on request.
    bool search(const std::vector<std::int32_t>& roots) {
        heap_.clear();
        free_now_.clear();
        now_.clear();
        served_ = 0;
        settled_.clear();
        touched_.clear();
        sinks_.assign(roots.size(), -1);
        reach_ = 0.0;
        const bool done = plant(roots) && grow(roots.size());
        if (done)
            for (const Settled& s : settled_) prices_.set(s.column, prices_[s.column] + (s.length - reach_));
        for (const std::int32_t j : touched_) open_[j] = kForbidden;
        return done;
    }

    bool plant(const std::vector<std::int32_t>& roots) {
        for (std::size_t t = 0; t < roots.size(); ++t) {
            const std::int32_t i = roots[t];
            double best = lists_.two_smallest(i, prices_.v()).first;
            if (best > lists_.of(i).bound) {
                if (--reads_left_ < 0) return false;
                lists_.read(i, prices_);
                best = std::min(lists_.two_smallest(i, prices_.v()).first, lists_.of(i).bound);
            }
            if (best == kForbidden) continue;  // a row without columns grows no tree
            tree_[i] = static_cast<std::int32_t>(t);
            offset_[i] = -best;
            expand(i);
        }
        return true;
    }

    bool grow(std::size_t trees) {
        constexpr std::size_t patience = 64;
        std::size_t sinks = 0, settled_at_last_sink = 0;
        while (has_events()) {
            const Event event = pop();
            if (event.rank == kBound) {
                if (sinks > 0 && event.key > reach_) return true;  // the paths found may spare the read
                if (--reads_left_ < 0 || !lists_.read_longer(event.id, prices_)) return false;
                expand(event.id);
                continue;
            }
            const std::int32_t j = event.id;
            if (event.key > open_[j]) continue;  // a shorter way was found since, or it is settled
            const std::int32_t tree = tree_[pred_[j]];
            if (event.rank == kFree && sinks_[tree] >= 0 && !state_.is_square()) {
                reach_ = std::max(reach_, event.key);
                return true;
            }
            reach_ = std::max(reach_, event.key);
            open_[j] = -kForbidden;
            settled_.push_back({j, event.key});
            if (event.rank == kFree) {
                if (sinks_[tree] >= 0) continue;
                sinks_[tree] = j;
                settled_at_last_sink = settled_.size();
                if (++sinks == trees) return true;
                continue;
            }
            if (sinks > 0 && settled_.size() > 2 * settled_at_last_sink + patience) return true;
            const std::int32_t i = matching_.row_of_col[j];
            tree_[i] = tree;
            offset_[i] = event.key - state_.reduced_at(i, j);
            expand(i);
            if (state_.stop_requested()) return false;
        }
        return true;
    }

    // Extends paths through row i.
    void expand(std::int32_t i) {
        const auto list = lists_.of(i);
        const double offset = offset_[i];
        if (static_cast<std::size_t>(list.size) > places_.size()) {
            places_.resize(static_cast<std::size_t>(list.size));
            keys_.resize(places_.size());
        }
        const std::int64_t found =
            lists_.nearer(i, prices_, open_.data(), offset, kForbidden, places_.data(), keys_.data());
        for (std::int64_t k = 0; k < found; ++k) {
            const std::int32_t j = list.columns[places_[k]];
            if (open_[j] == kForbidden) touched_.push_back(j);
            open_[j] = keys_[k];
            pred_[j] = i;
            push({keys_[k], j, matching_.row_of_col[j] < 0 ? kFree : kColumn});
        }
        if (list.bound < kForbidden) push({offset + list.bound, i, kBound});
    }

    // Flips the path of every tree that found one; returns how many.
    std::int64_t flip(const std::vector<std::int32_t>& roots) {
        std::int64_t found = 0;
        for (std::size_t t = 0; t < roots.size(); ++t)
            if (sinks_[t] >= 0) {
                matching_.augment(pred_, roots[t], sinks_[t]);
                ++found;
            }
        return found;
    }

    // What is no further than the trees have grown need not be sorted in: first come, first served, so that
    // all trees grow alike, but free columns at once.
    void push(const Event& event) {
        if (event.key <= reach_ && event.rank == kFree) {
            free_now_.push_back(event);
        } else if (event.key <= reach_ && event.rank == kColumn) {
            now_.push_back(event);
        } else {
            heap_.push_back(event);
            std::push_heap(heap_.begin(), heap_.end());
        }
    }

    bool has_events() const { return !heap_.empty() || !free_now_.empty() || served_ < now_.size(); }

    Event pop() {
        if (free_now_.empty() && served_ < now_.size()) return now_[served_++];
        std::vector<Event>& from = free_now_.empty() ? heap_ : free_now_;
        if (free_now_.empty()) std::pop_heap(heap_.begin(), heap_.end());
        const Event event = from.back();
        from.pop_back();
        return event;
    }

    ListState<Source>& state_;
    PartialMatching& matching_;
    Prices<T>& prices_;
    Candidates<Source>& lists_;
    std::int64_t reads_left_;
    double reach_ = 0.0;  // the trees have grown this far

    std::vector<Event> heap_, free_now_, now_;
    std::size_t served_ = 0;  // of now_
    std::vector<Settled> settled_;
    std::vector<std::int32_t> touched_, sinks_;
    std::vector<double> open_;          // length of the shortest way known to a column; -inf once settled
    std::vector<std::int32_t> pred_;    // the row through which a column is reached
    std::vector<double> offset_;        // of a row in a tree: its distance less its reduced cost so far
    std::vector<std::int32_t> tree_;    // the tree a row is in
    std::vector<std::int32_t> places_;  // what expand() has found
    std::vector<double> keys_;
};

}  // namespace rebasin_fast
