// Jonker-Volgenant on candidate lists: the dense algorithm's decisions, made from a few dozen columns a row.
//
// Square problems: column minima (one pass) give prices, one more pass the lists; then row reduction (bidding
// with eps = 0). Few rows left free: shortest augmenting paths on the lists. Many (low rank, geometric,
// structured costs): bidding with eps from a quarter of the typical slack within a list, scaled down by ten,
// prices kept, then row reduction again and the paths. Where the first eps is so small that bidding does not
// end within its budget (many rows after the same few columns) it is raised and bidding starts again.
// Rectangular problems start from zero prices and go without eps-scaling, for a column left unmatched must
// end with price 0 (Bertsekas & Castanon 1992).
//
// A bid needs the row's second best column within its bound, else the row is read again with today's prices.
// In the path search a row's bound is an event of its own in the heap: only when it is the smallest key is
// the row read again, with a longer list. When that happens too often, or lists outgrow the memory set aside,
// what is left is done by whole rows: a path costs at most n passes there, so everything ends after O(n^3)
// whatever the input.
//
// D. P. Bertsekas: Auction algorithms for network flow problems: a tutorial introduction. Computational
// Optimization
//   and Applications 1, 7-66 (1992). doi:10.1007/BF00247653
// D. P. Bertsekas, D. A. Castanon: A forward/reverse auction algorithm for asymmetric assignment problems.
//   Computational Optimization and Applications 1, 277-297 (1992). doi:10.1007/BF00249638
// A. Volgenant: Linear and semi-assignment problems: a core oriented approach. Computers & Operations
// Research 23(10),
//   917-932 (1996). doi:10.1016/0305-0548(96)00010-X
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "lap/candidates.hpp"
#include "lap/oriented.hpp"
#include "lap/simd/kernels.hpp"

namespace rebasin_fast {
namespace {

constexpr std::int32_t kWidth = 64;  // entries of a list to begin with
constexpr double kFewFree = 0.02;    // up to this share of free rows, paths are cheaper than eps-scaling
constexpr std::int64_t kReductionBidsPerRow =
    8;  // of one row reduction, before what is left is left to the next step
constexpr std::int64_t kScalingBidsPerRow = 20;  // likewise of one phase of eps-scaling
constexpr std::int64_t kReadsPerRow = 6;  // rows read again by the path search, before whole rows take over
constexpr int kPhases = 4;
constexpr double kEpsFall = 10.0;
constexpr int kRaises = 4;
constexpr double kEpsRise = 8.0;

// The distance between the quartiles.
double spread(std::vector<double> values) {
    const auto low = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 4);
    const auto high = values.begin() + static_cast<std::ptrdiff_t>(3 * values.size() / 4);
    std::nth_element(values.begin(), low, values.end());
    const double first = *low;
    std::nth_element(values.begin(), high, values.end());
    return *high - first;
}

template <class T>
class ListSolver {
  public:
    ListSolver(const TypedView<T>& cost, bool maximize)
        : cost_(cost),
          maximize_(maximize),
          n_(static_cast<std::int32_t>(cost.rows)),
          m_(cost.cols),
          lists_(cost, maximize, kWidth),
          matching_(cost.rows, cost.cols),
          v_(matching_.v) {}

    Matching<double> run(const std::vector<T>& column_best, Stats* stats) {
        if (n_ == m_) start_prices(column_best);
        const Status status = solve(stats);
        stats->row_scans += lists_.row_scans();
        return std::move(matching_).finish(status, m_);
    }

  private:
    Status solve(Stats* stats) {
        for (std::int32_t i = 0; i < n_; ++i) lists_.read(i, v_);
        const double eps = first_eps();
        const std::int64_t budget = kReductionBidsPerRow * n_;
        std::vector<std::int32_t> free_rows = bid_all(matching_.free_rows(), 0.0, budget);
        free_rows = bid_all(std::move(free_rows), 0.0, budget);
        if (n_ == m_ && static_cast<double>(free_rows.size()) > kFewFree * n_) {
            scale(eps);
            free_rows = bid_all(matching_.free_rows(), 0.0, budget);
        }
        return augment_all(free_rows, stats);
    }

    // Every column as cheap as its cheapest row; a column that is forbidden throughout gets price 0. With
    // heavy tails the column minima are outliers that say nothing about the columns, and prices of 0 are far
    // better.
    void start_prices(const std::vector<T>& column_best) {
        const double sign = maximize_ ? -1.0 : 1.0;
        std::vector<double> minima(static_cast<std::size_t>(m_)), sample(static_cast<std::size_t>(m_));
        for (std::int64_t j = 0; j < m_; ++j) {
            const double c = sign * static_cast<double>(column_best[j]);
            minima[j] = c < kForbidden ? c : 0.0;
            sample[j] = sign * static_cast<double>(cost_.row(j)[j * 7919 % m_]);
        }
        constexpr double outlying = 2.0;
        if (!(spread(minima) > outlying * spread(sample)))
            std::copy(minima.begin(), minima.end(), v_.begin());
    }

    // The two best columns of row i at today's prices.
    simd::TwoSmallest two_best(std::int32_t i) {
        simd::TwoSmallest best = lists_.two_smallest(i, v_);
        if (best.second > lists_.of(i).bound) {
            lists_.read(i, v_);
            best = lists_.two_smallest(i, v_);
        }
        return best;
    }

    // Lowest free column of row i with reduced cost `value`, -1 if there is none.
    std::int64_t free_tie(std::int32_t i, double value) {
        const auto list = lists_.of(i);
        std::int64_t best = -1;
        for (std::int32_t k = 0; k < list.size; ++k)
            if (lists_.reduced(list, k, v_) == value && matching_.row_of_col[list.columns[k]] < 0 &&
                (best < 0 || list.columns[k] < best))
                best = list.columns[k];
        if (best >= 0 || list.bound > value) return best;
        return simd::kernels<T>().find_free_reduced(cost_.row(i), maximize_ ? -1.0 : 1.0, v_.data(), value,
                                                    matching_.row_of_col.data(), m_);
    }

    // Gauss-Seidel bidding from `rows`, at most `budget` bids; returns the rows left free.
    std::vector<std::int32_t> bid_all(std::vector<std::int32_t> rows, double eps, std::int64_t budget) {
        std::vector<std::int32_t> left;
        for (std::size_t k = 0; k < rows.size();) {
            const std::int32_t i = rows[k++];
            const std::int32_t displaced = budget-- > 0 ? bid(i, eps, &left) : keep(i, &left);
            if (displaced >= 0) rows[--k] = displaced;
        }
        return left;
    }

    static std::int32_t keep(std::int32_t i, std::vector<std::int32_t>* left) {
        left->push_back(i);
        return -1;
    }

    // Row i takes its best column, whose price falls until the second best is as good, and by eps more.
    // Returns the displaced row, -1 if none; a row that bids in vain goes to `left`.
    std::int32_t bid(std::int32_t i, double eps, std::vector<std::int32_t>* left) {
        const simd::TwoSmallest best = two_best(i);
        if (best.index < 0) return keep(i, left);  // everything forbidden; the path search will report it
        std::int64_t j = lists_.of(i).columns[best.index];
        double decrement = 0.0;
        if (best.first < best.second) {
            if (best.second < kForbidden) decrement = best.second - best.first;
        } else if (matching_.row_of_col[j] >= 0) {
            const std::int64_t tie = free_tie(i, best.first);
            if (tie >= 0) j = tie;
        }
        if (decrement > 0.0 || matching_.row_of_col[j] >= 0) decrement += eps;
        const bool falls = v_[j] - decrement < v_[j];
        const std::int32_t displaced = matching_.row_of_col[j];
        if (displaced >= 0 && !falls) return keep(i, left);
        v_[j] -= decrement;
        if (displaced >= 0) matching_.col_of_row[displaced] = -1;
        matching_.assign(i, j);
        return displaced;
    }

    // Integer costs are bid for in integers: every price is then an integer, and float64 holds it exactly.
    static double whole(double eps) { return std::is_integral_v<T> ? std::floor(eps) : eps; }

    // eps-scaled bidding from scratch at today's prices, then only what holds with eps = 0 is kept.
    void scale(double eps) {
        if (std::is_integral_v<T> && eps > 0.0) eps = std::max(1.0, whole(eps));
        int raises = 0;
        for (int left = kPhases; left > 0 && eps > 0.0;) {
            release_all();
            const bool all_matched = bid_all(matching_.free_rows(), eps, kScalingBidsPerRow * n_).empty();
            if (!all_matched && left == kPhases && raises++ < kRaises) {
                eps *= kEpsRise;
            } else {
                eps = whole(eps / kEpsFall);
                --left;
            }
        }
        for (std::int32_t i = 0; i < n_; ++i) {
            const std::int32_t j = matching_.col_of_row[i];
            if (j >= 0 && reduced_at(i, j) > two_best(i).first) {
                matching_.row_of_col[j] = -1;
                matching_.col_of_row[i] = -1;
            }
        }
    }

    void release_all() {
        std::fill(matching_.col_of_row.begin(), matching_.col_of_row.end(), -1);
        std::fill(matching_.row_of_col.begin(), matching_.row_of_col.end(), -1);
    }

    // A quarter of the median slack within a list: what separates a row's best column from those it does
    // without.
    double first_eps() {
        std::vector<double> slack;
        for (std::int32_t i = 0; i < n_; ++i) {
            const double best = lists_.two_smallest(i, v_).first;
            if (lists_.of(i).bound < kForbidden && best < kForbidden)
                slack.push_back(lists_.of(i).bound - best);
        }
        if (slack.empty()) return 0.0;
        const auto middle = slack.begin() + static_cast<std::ptrdiff_t>(slack.size() / 2);
        std::nth_element(slack.begin(), middle, slack.end());
        return *middle / 4.0;
    }

    double reduced_at(std::int32_t i, std::int64_t j) const {
        return (maximize_ ? -1.0 : 1.0) * static_cast<double>(cost_.row(i)[j]) - v_[j];
    }

    Status augment_all(const std::vector<std::int32_t>& free_rows, Stats* stats) {
        length_.assign(v_.size(), kForbidden);
        pred_.assign(v_.size(), -1);
        is_scanned_.assign(v_.size(), 0);
        reads_left_ = kReadsPerRow * n_;
        for (const std::int32_t row : free_rows) {
            const Path path = search(row);
            if (path.gave_up) return augment_dense(cost_, maximize_, &matching_, stats);
            ++stats->augmentations;
            if (path.sink < 0) return Status::infeasible;
            matching_.augment(pred_, row, path.sink);
        }
        return Status::optimal;
    }

    struct Path {
        std::int64_t sink = -1;
        bool gave_up = false;
    };

    // An entry of the heap: a column (id >= 0), or the bound of row ~id: what that row does not list may be
    // this near.
    struct Event {
        double key;
        std::int32_t id;
        bool operator<(const Event& other) const {  // std heaps keep the largest on top
            return key != other.key ? key > other.key : id < other.id;
        }
    };

    void push(double key, std::int32_t id) {
        heap_.push_back({key, id});
        std::push_heap(heap_.begin(), heap_.end());
    }

    Event pop() {
        std::pop_heap(heap_.begin(), heap_.end());
        const Event event = heap_.back();
        heap_.pop_back();
        return event;
    }

    // Dijkstra from `row` over reduced costs on the lists. Prices are changed only when a free column was
    // reached.
    Path search(std::int32_t row) {
        Path path;
        heap_.clear();
        scanned_.clear();
        nearest_ = kForbidden;
        nearest_column_ = -1;
        expand(row, 0.0);
        while (!heap_.empty() && heap_.front().key < nearest_) {
            const Event event = pop();
            if (event.id >= 0) {
                if (is_scanned_[event.id] || event.key > length_[event.id])
                    continue;  // a shorter way was found since
                scanned_.push_back(event.id);
                is_scanned_[event.id] = 1;
                const std::int32_t i = matching_.row_of_col[event.id];
                expand(i, event.key - reduced_at(i, event.id));
            } else {
                const std::int32_t i = ~event.id;
                if (--reads_left_ < 0 || !lists_.read_longer(i, v_)) {
                    path.gave_up = true;
                    break;
                }
                const std::int32_t j = matching_.col_of_row[i];
                expand(i, i == row ? 0.0 : length_[j] - reduced_at(i, j));
            }
        }
        if (!path.gave_up && nearest_column_ >= 0) {
            for (const std::int32_t j : scanned_) v_[j] += length_[j] - nearest_;
            path.sink = nearest_column_;
        }
        for (const std::int32_t j : scanned_) is_scanned_[j] = 0;
        for (const std::int32_t j : touched_) length_[j] = kForbidden;
        touched_.clear();
        return path;
    }

    // Extends paths through row i, whose own path length less its reduced cost is `offset`.
    void expand(std::int32_t i, double offset) {
        const auto list = lists_.of(i);
        for (std::int32_t k = 0; k < list.size; ++k) {
            const std::int32_t j = list.columns[k];
            const double key = offset + lists_.reduced(list, k, v_);
            // A scanned column is settled, also when rounding makes a way through it look shorter by a last
            // bit.
            if (key >= length_[j] || key > nearest_ || is_scanned_[j]) continue;
            const bool is_free = matching_.row_of_col[j] < 0;
            if (key == nearest_ && !(is_free && j < nearest_column_)) continue;
            if (length_[j] == kForbidden) touched_.push_back(j);
            length_[j] = key;
            pred_[j] = i;
            if (is_free) {
                nearest_ = key;
                nearest_column_ = j;
            } else {
                push(key, j);
            }
        }
        if (offset + list.bound < nearest_) push(offset + list.bound, ~i);
    }

    const TypedView<T>& cost_;
    const bool maximize_;
    const std::int32_t n_;
    const std::int64_t m_;
    Candidates<T> lists_;
    PartialMatching matching_;
    std::vector<double>& v_;

    // Path search.
    std::vector<Event> heap_;
    std::vector<double> length_;
    std::vector<std::uint8_t> is_scanned_;
    std::vector<std::int32_t> pred_, scanned_, touched_;
    double nearest_ = kForbidden;
    std::int64_t nearest_column_ = -1;
    std::int64_t reads_left_ = 0;
};

}  // namespace

template <class T>
Matching<double> solve_lists(const TypedView<T>& cost, bool maximize, const std::vector<T>& column_best,
                             Stats* stats) {
    return ListSolver<T>(cost, maximize).run(column_best, stats);
}

#define REBASIN_FAST_INSTANTIATE(T) \
    template Matching<double> solve_lists<T>(const TypedView<T>&, bool, const std::vector<T>&, Stats*);
#include "lap/simd/element_types.inc"
#undef REBASIN_FAST_INSTANTIATE

}  // namespace rebasin_fast
