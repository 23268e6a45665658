// The one body of the solver for more than kScipyRows rows, included after small_body.hpp under the same
// rules.
//
// Jonker and Volgenant's: column reduction, row reduction, shortest augmenting paths. What makes it quick on
// some dozen to some hundred rows: the costs are copied once, into padded rows of float64 that stay in the
// cache; column minima and checks are taken from what was just copied; nothing is a function call of its own;
// and Dijkstra's nearest column is looked for only where the blocks of columns say that it is.
//
// Few rows are left free where costs are random, and many where all rows want the same columns. Paths are
// long then, and candidate lists do better: such problems are given back. Every search scans a column at most
// once, so that what is kept ends after O(n^2 m) whatever the input.
namespace rebasin_fast::simd::REBASIN_FAST_SIMD_NAMESPACE {
namespace {

// a > b ? a : b; see lesser().
inline D greater(D a, D b) {
#if defined(__AVX512F__) && REBASIN_FAST_SIMD_LANES == 8
    return (D)_mm512_maskz_max_pd(0xff, (__m512d)a, (__m512d)b);
#elif defined(__AVX2__) && REBASIN_FAST_SIMD_LANES == 4
    return (D)_mm256_max_pd((__m256d)a, (__m256d)b);
#else
    return a > b ? a : b;
#endif
}

inline I64 greater(I64 a, I64 b) {
#if defined(__AVX512F__) && REBASIN_FAST_SIMD_LANES == 8
    return (I64)_mm512_maskz_max_epi64(0xff, (__m512i)a, (__m512i)b);
#else
    return a > b ? a : b;
#endif
}

// As LaneTwoSmallest, with fewer instructions: `index` counts only where the two differ.
struct LaneTwoLeast {
    D first = splat(kInf), second = splat(kInf);
    I64 index{};

    inline void take(D x, I64 here) {
        index = x < first ? here : index;
        second = lesser(greater(first, x), second);
        first = lesser(x, first);
    }

    template <int Step>
    static inline void merge_with(D* best, D* next) {
        const D other = rotated<Step>(*best);
        *next = lesser(greater(*best, other), lesser(*next, rotated<Step>(*next)));
        *best = lesser(*best, other);
    }

    inline TwoSmallest merged() const {
        D best = first, next = second;
        if constexpr (L == 8) merge_with<L / 2>(&best, &next);
        if constexpr (L >= 4) merge_with<2>(&best, &next);
        merge_with<1>(&best, &next);
        std::int64_t at[L];
        store(at, index);
        return {best[0], next[0], at[__builtin_ctz(bits_where_equal(first, best))]};
    }
};

class JonkerVolgenant : SmallSolver {
  public:
    JonkerVolgenant(const SmallProblem& problem, SmallWork* work)
        : SmallSolver(problem, work), problem_(problem) {}

    template <class T>
    SmallOutcome solve() {
        start();
        read<T>();
        if constexpr (kToBeChecked<T>)
            if (!all_are_safe())
                if (const SmallOutcome found = check_entries(problem_, w_); found != SmallOutcome::optimal)
                    return found;
        if (is_square() && !reduce_columns()) return SmallOutcome::infeasible;
        if (!is_square()) start_from_zero();
        if (contested(reduce_rows())) return SmallOutcome::contested;
        for (std::int64_t row = 0; row < rows_; ++row) {
            if (w_.col_of_row[row] >= 0) continue;
            ++w_.augmentations;
            if (!augment(row)) return SmallOutcome::infeasible;
        }
        return SmallOutcome::optimal;
    }

  private:
    bool is_square() const { return rows_ == cols_; }

    void start() {
        clear_matching((width_ + kWord - 1) / kWord);
        for (std::int64_t j = 0; j < width_; j += L) {
            store(w_.v + j, splat(kInf));
            store(w_.pred + j, I64{});
        }
    }

    // A few rows at a time: what was just converted is still at hand, and their minima fit into registers.
    template <class T>
    void read() {
        constexpr std::int64_t together = 8;
        std::int64_t i = 0;
        for (; i + together <= rows_; i += together) {
            convert<T>(problem_, i, i + together, &w_);
            look_at<together, kToBeChecked<T>>(i);
        }
        convert<T>(problem_, i, rows_, &w_);
        for (; i < rows_; ++i) look_at<1, kToBeChecked<T>>(i);
    }

    // v_j = min_i c_ij, pred_j the first row that has it; and the largest magnitudes, as bits, among which
    // infinity and NaN are above all numbers.
    template <std::int64_t Count, bool Check>
    void look_at(std::int64_t first) {
        constexpr std::int64_t magnitude = 0x7fffffffffffffff;
        const std::int64_t width = width_, cols = cols_;
        const double* cost = w_.cost + first * width;
        double* v = w_.v;
        std::int64_t* pred = w_.pred;
        I64 largest = largest_;
        for (std::int64_t j = 0; j < width; j += L) {
            const I64 kept = (lane_numbers() + j < cols) & magnitude;
            D best = load<D>(v + j);
            I64 argmin = load<I64>(pred + j);
            for (std::int64_t r = 0; r < Count; ++r) {
                const D c = load<D>(cost + r * width + j);
                if constexpr (Check) largest = greater((I64)c & kept, largest);
                argmin = c < best ? I64{} + (first + r) : argmin;
                best = lesser(c, best);
            }
            store(v + j, best);
            store(pred + j, argmin);
        }
        largest_ = largest;
    }

    // Finite and within the limit. If not, there may be no more than forbidden cells.
    bool all_are_safe() const {
        std::int64_t bits = 0;
        for (std::int64_t l = 0; l < L; ++l) bits = largest_[l] > bits ? largest_[l] : bits;
        double largest;
        __builtin_memcpy(&largest, &bits, sizeof(largest));
        return largest < kInf && largest <= problem_.limit;
    }

    void assign(std::int64_t row, std::int64_t column) {
        SmallSolver::assign(row, column);
        w_.matched_cost[column] = w_.cost[row * width_ + column];
    }

    // Prices from the column minima; each row takes the lowest column whose minimum it is the first to hold.
    // With heavy tails the minima are outliers that say nothing about the columns, and prices of 0 far
    // better. False when a column is all forbidden.
    bool reduce_columns() {
        for (std::int64_t j = 0; j < cols_; ++j)
            if (!(w_.v[j] < kInf)) return false;
        if (minima_are_outlying()) {
            start_from_zero();
            return true;
        }
        for (std::int64_t j = 0; j < cols_; ++j)
            if (w_.col_of_row[w_.pred[j]] < 0) assign(w_.pred[j], j);
        for (std::int64_t j = cols_; j < width_; ++j) w_.v[j] = 0.0;
        return true;
    }

    // Also where there are more columns than rows: a column left unmatched must end with price 0.
    void start_from_zero() {
        for (std::int64_t j = 0; j < width_; j += L) store(w_.v + j, D{});
    }

    // Whether they are spread wider than the costs of a diagonal; of several, for there are outliers in some.
    bool minima_are_outlying() const {
        constexpr double wider = 2.0, not_at_all = 0.25;
        constexpr std::int64_t diagonals = 4;
        const double own = spread([&](std::int64_t j) { return w_.v[j]; });
        for (std::int64_t k = 0; k < diagonals; ++k) {
            const std::int64_t shift = k * cols_ / diagonals;
            const double other = spread([&](std::int64_t i) {
                const std::int64_t j = i + shift;
                return w_.cost[i * width_ + (j < cols_ ? j : j - cols_)];
            });
            if (own > wider * other) return true;
            if (own < not_at_all * other) return false;
        }
        return false;
    }

    // Of a value per column, the sum of the differences between the first and the second half; four sums side
    // by side, the same on all instruction sets.
    template <class Value>
    double spread(Value value) const {
        constexpr std::int64_t sums = 4;
        const std::int64_t half = cols_ / 2;
        double sum[sums] = {};
        for (std::int64_t j = 0; j + sums <= half; j += sums)
            for (std::int64_t l = 0; l < sums; ++l)
                sum[l] += __builtin_fabs(value(j + l) - value(j + l + half));
        return sum[0] + sum[1] + (sum[2] + sum[3]);
    }

    // Bidding; a displaced row goes on at once. The budget ends chains of ever smaller falls: who bids in
    // vain, or comes too late, stays free. Returns how many do.
    std::int64_t reduce_rows() {
        std::int64_t count = 0, free = 0;
        for (std::int64_t i = 0; i < rows_; ++i)
            if (w_.col_of_row[i] < 0) w_.scanned[count++] = i;
        constexpr std::int64_t worth_another_round = 192;  // rows from which on paths cost more than bids
        std::int64_t budget = (rows_ < worth_another_round ? 1 : 2) * rows_;
        for (std::int64_t k = 0; k < count && budget > 0; --budget) {
            const std::int64_t displaced = bid(w_.scanned[k++]);
            if (displaced >= 0) w_.scanned[--k] = displaced;
        }
        for (std::int64_t i = 0; i < rows_; ++i) free += w_.col_of_row[i] < 0 ? 1 : 0;
        return free;
    }

    // Whether candidate lists are faster, by the share of rows left free.
    bool contested(std::int64_t free) const {
        constexpr std::int64_t medium = 128, large = 384;
        constexpr double nearly_all = 0.9, most = 0.6;
        if (!is_square() || rows_ < medium) return false;
        return static_cast<double>(free) > (rows_ < large ? nearly_all : most) * static_cast<double>(rows_);
    }

    // A row takes its best column, whose price falls until the second best is as good. Among equals it takes
    // a free one; it displaces nobody without making the price fall. Returns the displaced row, or -1.
    std::int64_t bid(std::int64_t i) {
        static constexpr InOneLane one(1.0);
        ++w_.row_scans;
        const TwoSmallest best = two_least_of(i);
        if (!(best.first < kInf)) return -1;
        if (best.first == best.second) {
            const std::int64_t j = free_column_at(i, best.first);
            if (j >= 0) assign(i, j);
            return -1;
        }
        const std::int64_t j = best.index, lane = j % L;
        const double fall = best.second < kInf ? best.second - best.first : 0.0;
        const bool taken = !is_free(j);
        if (taken && !(w_.v[j] - fall < w_.v[j])) return -1;
        double* v = w_.v + (j - lane);  // a whole vector, as in close()
        store(v, load<D>(v) - one(lane) * fall);
        const std::int64_t displaced = taken ? w_.row_of_col[j] : -1;
        if (taken) w_.col_of_row[displaced] = -1;
        assign(i, j);
        return displaced;
    }

    TwoSmallest two_least_of(std::int64_t i) const {
        const std::int64_t width = width_;
        const double* cost = w_.cost + i * width;
        const double* v = w_.v;
        LaneTwoLeast even, odd;  // two chains of dependent operations side by side
        I64 here = lane_numbers();
        std::int64_t j = 0;
        for (; j + L < width; j += 2 * L, here += 2 * L) {
            even.take(load<D>(cost + j) - load<D>(v + j), here);
            odd.take(load<D>(cost + j + L) - load<D>(v + j + L), here + L);
        }
        if (j < width) even.take(load<D>(cost + j) - load<D>(v + j), here);
        even.index = odd.first < even.first ? odd.index : even.index;
        even.second = lesser(greater(even.first, odd.first), lesser(even.second, odd.second));
        even.first = lesser(even.first, odd.first);
        return even.merged();
    }

    // The lowest free column where the row's reduced cost has this value, or -1.
    std::int64_t free_column_at(std::int64_t i, double value) const {
        const double* cost = w_.cost + i * width_;
        for (std::int64_t j = 0; j < width_; j += L) {
            const unsigned equal = bits_where_equal(load<D>(cost + j) - load<D>(w_.v + j), splat(value));
            const unsigned hits = equal & static_cast<unsigned>(w_.free_columns[j / kWord] >> (j % kWord));
            if (hits != 0) return j + __builtin_ctz(hits);
        }
        return -1;
    }

    // Gives `row` a column by Dijkstra's search; false when no path reaches a free one.
    bool augment(std::int64_t row) {
        count_ = 0;
        D least = first_lengths(row);
        for (;;) {
            ++w_.row_scans;
            if (!(least[0] < kInf)) return false;
            const Nearest nearest = find(least);
            if (nearest.is_free) {
                for (std::int64_t k = 0; k < count_; ++k) w_.v[w_.scanned[k]] += w_.length[k] - least[0];
                flip(row, nearest.column, [&](std::int64_t i, std::int64_t j) { assign(i, j); });
                return true;
            }
            if (count_ == 0)
                for (std::int64_t j = 0; j < width_; j += L) store(w_.pred + j, I64{} + row);
            close(nearest.column, least[0]);
            least = relax(nearest.column, least[0]);
        }
    }

    // The least of key_at(j), L at a time, in every lane; and those of every block of columns, for find().
    template <class KeyAt>
    __attribute__((always_inline)) D least_by_blocks(KeyAt key_at) {
        const std::int64_t width = width_;
        double* block_least = w_.block_least;
        D all = splat(kInf);
        std::int64_t j = 0;
        for (; j + kWord <= width; j += kWord, block_least += L) {
            D best = splat(kInf);
            for (std::int64_t k = 0; k < kWord; k += L) best = lesser(key_at(j + k), best);
            store(block_least, best);
            all = lesser(best, all);
        }
        if (j < width) {
            D best = splat(kInf);
            for (; j < width; j += L) best = lesser(key_at(j), best);
            store(block_least, best);
            all = lesser(best, all);
        }
        return smallest_everywhere(all);
    }

    // The lengths of the paths straight from a row. Pointers here and below are copied, for the compiler must
    // take it that a store could change those of the object.
    D first_lengths(std::int64_t row) {
        const double *cost = w_.cost + row * width_, *v = w_.v;
        double* key = w_.key;
        return least_by_blocks([=](std::int64_t j) {
            const D x = load<D>(cost + j) - load<D>(v + j);
            store(key + j, x);
            return x;
        });
    }

    // Extends the path of length `base` that ends in `column` through its row. A scanned column has length
    // NaN, which nothing is less than, and which is less than nothing.
    D relax(std::int64_t column, double base) {
        const std::int64_t i = w_.row_of_col[column];
        const double *cost = w_.cost + i * width_, *v = w_.v;
        double* key = w_.key;
        std::int64_t* pred = w_.pred;
        const D offset = splat(w_.matched_cost[column] - v[column] - base);
        const I64 me = I64{} + i;
        return least_by_blocks([=](std::int64_t j) {
            const D x = load<D>(cost + j) - load<D>(v + j) - offset;
            const D old = load<D>(key + j);
            const D now = lesser(x, old);
            store(key + j, now);
            store(pred + j, x < old ? me : load<I64>(pred + j));
            return now;
        });
    }

    // A column at that length, a free one if there is. In the common case there is one column, and it is not.
    Nearest find(D least) {
        if (width_ <= 2 * kWord) return find_in_two_blocks(least);
        unsigned blocks = 0;
        for (std::int64_t k = 0; k * kWord < width_; ++k)
            blocks |= (bits_where_equal(load<D>(w_.block_least + k * L), least) != 0 ? 1u : 0u) << k;
        const std::int64_t k = __builtin_ctz(blocks);
        const std::uint64_t equal = columns_at(least, k * kWord);
        if ((blocks & (blocks - 1)) == 0 && !several(equal))
            return {k * kWord + __builtin_ctzll(equal), (equal & w_.free_columns[k]) != 0};
        return find_among_equals(least, blocks);
    }

    // Two blocks are looked through sooner than asked.
    Nearest find_in_two_blocks(D least) {
        const std::uint64_t low = columns_at(least, 0), high = width_ > kWord ? columns_at(least, kWord) : 0;
        if (several(low) || several(high) || (low != 0 && high != 0))
            return find_among_equals(least, (low != 0 ? 1u : 0u) | (high != 0 ? 2u : 0u));
        const std::int64_t column = low != 0 ? __builtin_ctzll(low) : kWord + __builtin_ctzll(high);
        return {column, is_free(column)};
    }

    // The lowest free column, else the first from a place on that is another one each time: searches that
    // went on from the lowest would pass through the same rows over and over (see dense.cpp).
    Nearest find_among_equals(D least, unsigned blocks) {
        constexpr std::uint32_t golden = 2654435769;  // 2^32 over the golden ratio
        somewhere_ += golden;
        const std::int64_t from = static_cast<std::int64_t>(somewhere_) * cols_ >> 32;
        std::int64_t lowest = -1, later = -1;
        for (; blocks != 0; blocks &= blocks - 1) {
            const std::int64_t k = __builtin_ctz(blocks), base = k * kWord;
            const std::uint64_t equal = columns_at(least, base), free = equal & w_.free_columns[k];
            if (free != 0) return {base + __builtin_ctzll(free), true};
            if (lowest < 0) lowest = base + __builtin_ctzll(equal);
            if (later >= 0 || base + kWord <= from) continue;
            const std::uint64_t behind = base >= from ? equal : equal & ~std::uint64_t{0} << (from - base);
            if (behind != 0) later = base + __builtin_ctzll(behind);
        }
        return {later >= 0 ? later : lowest, false};
    }

    // One bit per column whose path has that length, of the block of columns that begins at `first`.
    std::uint64_t columns_at(D length, std::int64_t first) const {
        const double* key = w_.key + first;
        std::uint64_t hits = 0;
        if (first + kWord <= width_) {  // a loop without a condition is unrolled
            for (std::int64_t k = 0; k < kWord; k += L)
                hits |= static_cast<std::uint64_t>(bits_where_equal(load<D>(key + k), length)) << k;
            return hits;
        }
        for (std::int64_t k = 0; first + k < width_; k += L)
            hits |= static_cast<std::uint64_t>(bits_where_equal(load<D>(key + k), length)) << k;
        return hits;
    }

    const SmallProblem& problem_;
    I64 largest_{};
    std::uint32_t somewhere_ = 0;
};

template <class T>
SmallOutcome solve_small_of(const SmallProblem& problem, SmallWork* work) {
    if (problem.rows <= kScipyRows) return solve_as_scipy<T>(problem, work);
    return JonkerVolgenant(problem, work).solve<T>();
}

SmallOutcome solve_small_in(const SmallProblem& problem, SmallWork* work) {
    work->stride = (problem.cols + L - 1) / L * L;
    switch (problem.type) {
        case ElementType::f16:
            return SmallOutcome::beyond_limit;
        case ElementType::f32:
            return solve_small_of<float>(problem, work);
        case ElementType::i8:
            return solve_small_of<std::int8_t>(problem, work);
        case ElementType::u8:
            return solve_small_of<std::uint8_t>(problem, work);
        case ElementType::i16:
            return solve_small_of<std::int16_t>(problem, work);
        case ElementType::u16:
            return solve_small_of<std::uint16_t>(problem, work);
        case ElementType::i32:
            return solve_small_of<std::int32_t>(problem, work);
        case ElementType::u32:
            return solve_small_of<std::uint32_t>(problem, work);
        case ElementType::i64:
            return solve_small_of<std::int64_t>(problem, work);
        case ElementType::u64:
            return solve_small_of<std::uint64_t>(problem, work);
        case ElementType::f64:
            break;
    }
    return solve_small_of<double>(problem, work);
}

}  // namespace

SolveSmall solve_small_kernel() {
    return &solve_small_in;
}

}  // namespace rebasin_fast::simd::REBASIN_FAST_SIMD_NAMESPACE
