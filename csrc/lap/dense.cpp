// Dense Jonker-Volgenant on SIMD row passes: column reduction, row reduction with prices, shortest augmenting
// paths.
//
// Differences from the 1987 code: every step is a whole-row kernel (no index lists, so no gathers); among
// equal best columns a free one is taken, the lowest first (a constant matrix gives the identity); a row
// whose best column is tied and taken stays free instead of chasing another out; row reduction has a budget,
// because with float64 prices a chain of ever smaller decrements could go on for very long. The augmentation
// needs no such guard: every pass fixes one column, so a path costs at most n passes and the whole at most
// n^2 passes, O(n^3), whatever the input.
//
// Rectangular problems start from zero prices (no column reduction): prices only fall on columns that are
// taken, and a column once taken stays taken, so a column left unmatched ends with price 0, as optimality
// demands.
#include <algorithm>
#include <cstring>
#include <utility>

#include "lap/certificate.hpp"
#include "lap/factored_rows.hpp"
#include "lap/oriented.hpp"
#include "lap/simd/kernels.hpp"

namespace rebasin_fast {
namespace {

template <class Source>
class DenseSolver {
  public:
    using T = typename Source::Element;

    DenseSolver(const Source& source, PartialMatching* matching, Interrupt* interrupt)
        : source_(source),
          reader_(source),
          interrupt_(interrupt),
          n_(static_cast<std::int32_t>(source.rows)),
          m_(source.cols),
          sign_(source.sign),
          kernels_(simd::kernels<T>()),
          find_key_(simd::find_key()),
          matching_(*matching),
          v_(matching->v),
          col_of_row_(matching->col_of_row),
          row_of_col_(matching->row_of_col) {}

    Status solve(Stats* stats) {
        std::vector<std::int32_t> free_rows = n_ == m_ ? reduce_columns() : matching_.free_rows();
        return augment_all(reduce_rows(std::move(free_rows)), stats, kWithoutLimit);
    }

    Status augment_all(const std::vector<std::int32_t>& free_rows, Stats* stats, std::int64_t most_scans) {
        open_v_.resize(v_.size());
        key_.resize(v_.size());
        pred_.assign(v_.size(), -1);
        Status status = Status::optimal;
        for (std::size_t k = 0; k < free_rows.size() && status == Status::optimal; ++k) {
            if (row_scans_ >= most_scans) break;
            if (augment(free_rows[k]))
                ++stats->augmentations;
            else
                status = stopped_ ? Status::interrupted : Status::infeasible;
        }
        stats->row_scans += row_scans_;
        return status;
    }

  private:
    static constexpr std::int64_t kRowReductionBudget = 3;  // row scans per row

    // v_j = min_i c_ij; each row takes the lowest column whose minimum it holds. Returns the rows left free.
    std::vector<std::int32_t> reduce_columns() {
        std::vector<double> colmin(v_.size(), kForbidden);
        std::vector<std::int32_t> argmin(v_.size(), -1);
        for (std::int32_t i = 0; i < n_; ++i)
            kernels_.column_min(reader_.row(i), sign_, i, colmin.data(), argmin.data(), m_);
        row_scans_ += n_;
        for (std::int64_t j = 0; j < m_; ++j) {
            if (argmin[j] < 0) continue;  // all forbidden: price 0, and infeasible in the end
            v_[j] = colmin[j];
            if (col_of_row_[argmin[j]] < 0) matching_.assign(argmin[j], j);
        }
        return matching_.free_rows();
    }

    // One round of bidding with eps = 0: a free row takes its best column and lowers its price until the
    // second best is as good; the row it displaces goes on at once. Returns the rows still free.
    std::vector<std::int32_t> reduce_rows(std::vector<std::int32_t> rows) {
        std::vector<std::int32_t> left;
        std::int64_t budget = kRowReductionBudget * n_;
        for (std::size_t k = 0; k < rows.size();) {
            const std::int32_t i = rows[k++];
            if (budget-- <= 0) {
                left.push_back(i);
                continue;
            }
            const std::int32_t displaced = bid(i, &left);
            if (displaced >= 0) rows[--k] = displaced;
        }
        return left;
    }

    // Returns the row to continue with, -1 if none; a row that stays or becomes free for now goes to `left`.
    std::int32_t bid(std::int32_t i, std::vector<std::int32_t>* left) {
        const simd::TwoSmallest best = kernels_.reduced_min2(reader_.row(i), sign_, v_.data(), m_);
        ++row_scans_;
        if (best.index < 0) {  // everything forbidden; the augmentation will report it
            left->push_back(i);
            return -1;
        }
        std::int64_t j = best.index;
        double decrement = 0.0;
        if (best.first == best.second) {
            if (row_of_col_[j] >= 0)
                j = kernels_.find_free_reduced(reader_.row(i), sign_, v_.data(), best.first,
                                               row_of_col_.data(), m_);
        } else if (best.second < kForbidden) {
            decrement = best.second - best.first;
        }
        // A taken column is worth fighting for only if its price falls: not when no free column ties, not
        // when this is the only column allowed (no finite price decides that), not when the fall is lost in
        // rounding.
        const bool falls = j >= 0 && v_[j] - decrement < v_[j];
        if (j < 0 || (row_of_col_[j] >= 0 && !falls)) {
            left->push_back(i);
            return -1;
        }
        const std::int32_t displaced = row_of_col_[j];
        v_[j] -= decrement;
        if (displaced >= 0) col_of_row_[displaced] = -1;
        matching_.assign(i, j);
        return displaced;
    }

    // Dijkstra from `row` over reduced costs; a scanned column is hidden from relax() by an open price of
    // -inf.
    bool augment(std::int32_t row) {
        std::copy(v_.begin(), v_.end(), open_v_.begin());
        std::fill(key_.begin(), key_.end(), kForbidden);
        scanned_.clear();
        double offset = 0.0;
        double least = 0.0;
        std::int64_t sink = -1;
        for (std::int32_t i = row;;) {
            least = kernels_.relax(reader_.row(i), sign_, offset, open_v_.data(), i, key_.data(),
                                   pred_.data(), m_);
            ++row_scans_;
            if (least == kForbidden || stop_requested()) return false;
            const std::int64_t j = find_key_(key_.data(), least, row_of_col_.data(), somewhere(), m_);
            if (row_of_col_[j] < 0) {
                sink = j;
                break;
            }
            scanned_.push_back({j, least});
            key_[j] = kForbidden;
            open_v_[j] = -kForbidden;
            i = row_of_col_[j];
            offset = source_.at(i, j) - v_[j] - least;
        }
        for (const Scanned& s : scanned_) v_[s.col] += s.length - least;
        matching_.augment(pred_, row, sink);
        return true;
    }

    // Another column each time. Where many are equally near, searches that always went on from the lowest
    // would pass through the same rows over and over, long after these have no free column left.
    std::int64_t somewhere() {
        constexpr std::int64_t golden =
            2654435769;  // 2^32 over the golden ratio: evenly spread at any length
        somewhere_ = (somewhere_ + golden) & 0xFFFFFFFF;
        return somewhere_ * m_ >> 32;
    }

    // Asks every 64 million elements or so.
    bool stop_requested() {
        constexpr std::int64_t every = std::int64_t{1} << 26;
        elements_ += m_;
        if (interrupt_ != nullptr && elements_ >= every) {
            elements_ = 0;
            stopped_ = interrupt_->requested();
        }
        return stopped_;
    }

    struct Scanned {
        std::int64_t col;
        double length;
    };

    const Source& source_;
    typename Source::Reader reader_;
    Interrupt* const interrupt_;
    const std::int32_t n_;
    const std::int64_t m_;
    const double sign_;
    const simd::Kernels<T>& kernels_;
    const simd::FindKey find_key_;
    PartialMatching& matching_;
    std::vector<double>& v_;
    std::vector<std::int32_t>& col_of_row_;
    std::vector<std::int32_t>& row_of_col_;
    std::vector<double> open_v_, key_;
    std::vector<std::int32_t> pred_;
    std::vector<Scanned> scanned_;
    std::int64_t row_scans_ = 0;
    std::int64_t elements_ = 0;
    std::int64_t somewhere_ = 0;
    bool stopped_ = false;
};

}  // namespace

template <class Source>
Matching<double> solve_dense(const Source& source, const Options& options, Stats* stats) {
    PartialMatching matching(source.rows, source.cols);
    Matching<double> found;
    found.status = DenseSolver<Source>(source, &matching, options.interrupt).solve(stats);
    if (options.with_duals && found.status == Status::optimal) found.u = row_minima(source, matching.v);
    matching.v.resize(static_cast<std::size_t>(source.cols));
    found.v = std::move(matching.v);
    found.col_of_row = std::move(matching.col_of_row);
    return found;
}

template <class Source>
Status augment_dense(const Source& source, PartialMatching* matching, Interrupt* interrupt, Stats* stats,
                     std::int64_t most_scans) {
    return DenseSolver<Source>(source, matching, interrupt)
        .augment_all(matching->free_rows(), stats, most_scans);
}

#define REBASIN_FAST_INSTANTIATE(T)                                                                        \
    template Matching<double> solve_dense<DenseRows<T>>(const DenseRows<T>&, const Options&, Stats*);      \
    template Status augment_dense<DenseRows<T>>(const DenseRows<T>&, PartialMatching*, Interrupt*, Stats*, \
                                                std::int64_t);
#include "lap/simd/element_types.inc"
REBASIN_FAST_INSTANTIATE(Half)
#undef REBASIN_FAST_INSTANTIATE

#define REBASIN_FAST_INSTANTIATE(F)                                                                         \
    template Matching<double> solve_dense<FactoredRows<F>>(const FactoredRows<F>&, const Options&, Stats*); \
    template Status augment_dense<FactoredRows<F>>(const FactoredRows<F>&, PartialMatching*, Interrupt*,    \
                                                   Stats*, std::int64_t);
REBASIN_FAST_INSTANTIATE(float)
REBASIN_FAST_INSTANTIATE(double)
#undef REBASIN_FAST_INSTANTIATE

}  // namespace rebasin_fast
