// The matching that duals leave behind: every row of an optimal solution sits on a tight column, one whose
// reduced cost is the row's least. Solvers leave most rows with two of those or more, for a price falls until
// the second best column is as good, so that a row's first tight column says little; all of them together say
// nearly everything.
//
// Rows and columns with one way left are served first, for there is no choice to be got wrong (Karp & Sipser
// 1981). On a graph without cycles, such as the tight columns of generic costs form, that finds a largest
// matching.
//
// R. M. Karp, M. Sipser: Maximum matching in sparse random graphs. 22nd Annual Symposium on Foundations of
// Computer Science, 364-375 (1981). doi:10.1109/SFCS.1981.21
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace rebasin_fast {

class TightMatching {
  public:
    TightMatching(std::int64_t rows, std::int64_t cols)
        : rows_(rows),
          first_(static_cast<std::size_t>(rows + cols + 1)),
          degree_(static_cast<std::size_t>(rows + cols)) {}

    void add(std::int64_t row, std::int64_t col) {
        ends_.push_back({static_cast<std::int32_t>(row), static_cast<std::int32_t>(rows_ + col)});
        ++degree_[row];
        ++degree_[rows_ + col];
    }

    // Calls match(row, col) for every pair.
    template <class Match>
    void solve(Match match) {
        link();
        for (std::size_t x = 0; x < degree_.size(); ++x)
            if (degree_[x] == 1) single_.push_back(static_cast<std::int32_t>(x));
        for (std::int64_t next = 0; next < rows_;) {
            std::int32_t x;
            if (!single_.empty()) {
                x = single_.back();
                single_.pop_back();
                if (degree_[x] != 1) continue;
            } else {
                x = static_cast<std::int32_t>(next++);
                if (degree_[x] <= 0) continue;
            }
            const std::int32_t y = partner_of(x);
            match(std::min(x, y), static_cast<std::int32_t>(std::max(x, y) - rows_));
            remove(x);
            remove(y);
        }
    }

  private:
    static constexpr std::int32_t kGone = -1;

    struct Edge {
        std::int32_t row, col;
    };

    // Lists every vertex's neighbours, one after the other.
    void link() {
        for (std::size_t x = 0; x < degree_.size(); ++x) first_[x + 1] = first_[x] + degree_[x];
        neighbours_.resize(2 * ends_.size());
        std::vector<std::int64_t> at(first_.begin(), first_.end() - 1);
        for (const Edge& edge : ends_) {
            neighbours_[at[edge.row]++] = edge.col;
            neighbours_[at[edge.col]++] = edge.row;
        }
    }

    std::int32_t partner_of(std::int32_t x) const {
        std::int64_t k = first_[x];
        while (degree_[neighbours_[k]] == kGone) ++k;
        return neighbours_[k];
    }

    void remove(std::int32_t x) {
        degree_[x] = kGone;
        for (std::int64_t k = first_[x]; k < first_[x + 1]; ++k) {
            std::int32_t& degree = degree_[neighbours_[k]];
            if (degree != kGone && --degree == 1) single_.push_back(neighbours_[k]);
        }
    }

    const std::int64_t rows_;
    std::vector<Edge> ends_;
    std::vector<std::int64_t> first_;   // of a vertex's neighbours; columns follow the rows
    std::vector<std::int32_t> degree_;  // ways left, or kGone
    std::vector<std::int32_t> neighbours_;
    std::vector<std::int32_t> single_;  // with one way left, perhaps gone since
};

}  // namespace rebasin_fast
