// The one body of the solvers for small problems, included after kernels_body.hpp by one translation unit per
// instruction set, under the same rules: nothing of the standard library, the same bits from all of them.
//
// This one is for up to kScipyRows rows: successive shortest augmenting paths (Crouse 2016), equal to SciPy's
// solver bit for bit. That means: the same sums in the same order, and the same column among equally near
// ones. SciPy visits columns through a list that starts in descending order and is kept dense by moving its
// last entry into the gap; a free column beats an assigned one, the last visited wins among free ones, the
// first visited among assigned ones. That list is needed only when several columns tie, and is made only
// then; otherwise columns are relaxed in natural order. More rows: small_jv_body.hpp.
#include "lap/simd/small_kernel.hpp"

namespace rebasin_fast::simd::REBASIN_FAST_SIMD_NAMESPACE {
namespace {

constexpr std::int64_t kWord = 64;  // columns per word of a column set
constexpr std::int64_t kWords = kScipyCols / kWord;

struct ColumnSet {
    std::uint64_t word[kWords];
};

// a < b ? a : b; the masked form for the reason given at gather().
inline D lesser(D a, D b) {
#if defined(__AVX512F__) && REBASIN_FAST_SIMD_LANES == 8
    return (D)_mm512_maskz_min_pd(0xff, (__m512d)a, (__m512d)b);
#elif defined(__AVX2__) && REBASIN_FAST_SIMD_LANES == 4
    return (D)_mm256_min_pd((__m256d)a, (__m256d)b);
#else
    return a < b ? a : b;
#endif
}

// The smallest lane, in every lane.
inline D smallest_everywhere(D x) {
#if REBASIN_FAST_SIMD_LANES == 8
    x = lesser(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3));
    x = lesser(x, __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5));
    return lesser(x, __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6));
#elif REBASIN_FAST_SIMD_LANES == 4
    x = lesser(x, __builtin_shufflevector(x, x, 2, 3, 0, 1));
    return lesser(x, __builtin_shufflevector(x, x, 1, 0, 3, 2));
#else
    return lesser(x, __builtin_shufflevector(x, x, 1, 0));
#endif
}

// One number among zeros, so placed that it can be loaded into any lane.
struct InOneLane {
    double value[2 * L - 1];
    constexpr explicit InOneLane(double x) : value{} { value[L - 1] = x; }

    D operator()(std::int64_t lane) const { return load<D>(value + L - 1 - lane); }
};

// One bit per lane where a == b.
inline unsigned bits_where_equal(D a, D b) {
#if defined(__AVX512F__) && REBASIN_FAST_SIMD_LANES == 8
    return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_EQ_OQ);
#else
    return bits(a == b);
#endif
}

// One row of n >= L adjacent elements: the last vector overlaps the one before it.
template <class T>
inline void convert_row(const T* row, D sign, std::int64_t n, double* out) {
    for (std::int64_t j = 0; j + L <= n; j += L) store(out + j, to_real<T, D>(row + j) * sign);
    store(out + n - L, to_real<T, D>(row + n - L) * sign);
}

// L rows of n >= L elements each, where those of a column are adjacent, `across` from one to the next; the
// last square overlaps the one before it.
template <class T>
inline void convert_turned(const T* first, std::int64_t across, D sign, std::int64_t n, double* out,
                           std::int64_t stride) {
    for (std::int64_t j = 0; j < n; j += L) {
        if (j + L > n) j = n - L;
        D square[L];
        for (std::int64_t l = 0; l < L; ++l) square[l] = to_real<T, D>(first + (j + l) * across) * sign;
        transpose<D, L>(square);
        for (std::int64_t l = 0; l < L; ++l) store(out + l * stride + j, square[l]);
    }
}

// Rows first ... end - 1.
template <class T>
void convert(const SmallProblem& problem, std::int64_t first, std::int64_t end, SmallWork* work) {
    const T* data = static_cast<const T*>(problem.data);
    const double sign = problem.maximize ? -1.0 : 1.0;
    const std::int64_t n = problem.cols, stride = work->stride;
    double* out = work->cost + first * stride;
    for (std::int64_t i = first; i < end; ++i) store(work->cost + (i + 1) * stride - L, splat(kInf));
    if (problem.row_stride == 1 && n >= L)
        for (; first + L <= end; first += L, out += L * stride)
            convert_turned(data + first, problem.col_stride, splat(sign), n, out, stride);
    for (; first < end; ++first, out += stride) {
        const T* row = data + first * problem.row_stride;
        if (problem.col_stride == 1 && n >= L)
            convert_row(row, splat(sign), n, out);
        else
            for (std::int64_t j = 0; j < n; ++j)
                out[j] = static_cast<double>(row[j * problem.col_stride]) * sign;
    }
}

SmallOutcome check_entries(const SmallProblem& problem, const SmallWork& work) {
    I64 invalid{};
    D largest{};
    for (std::int64_t k = 0; k < problem.rows * work.stride; k += L) {
        const D c = load<D>(work.cost + k);
        invalid |= ~(c > -kInf);
        const D magnitude = c < 0 ? -c : c;
        largest = ((magnitude > largest) & (magnitude < kInf)) ? magnitude : largest;
    }
    if (any(invalid)) return SmallOutcome::invalid_entry;
    return any(largest > problem.limit) ? SmallOutcome::beyond_limit : SmallOutcome::optimal;
}

// Whether entries of this type can be what a problem must not contain.
template <class T>
constexpr bool kToBeChecked = static_cast<T>(0.5) != 0 || sizeof(T) == 8;

// A matching under construction, and the state of a search for its next path: what both solvers need. Inlined
// into both, for on four rows a call would be felt.
class SmallSolver {
  protected:
    explicit SmallSolver(const SmallProblem& problem, SmallWork* work)
        : w_(*work), rows_(problem.rows), cols_(problem.cols), width_(work->stride) {}

    // `words` of the set of free columns are made; how many is better known beforehand.
    __attribute__((always_inline)) void clear_matching(std::int64_t words) {
        w_.row_scans = w_.augmentations = 0;
        for (std::int64_t i = 0; i < rows_; ++i) w_.col_of_row[i] = -1;
        for (std::int64_t k = 0; k < words; ++k) {
            const std::int64_t here = cols_ - k * kWord;
            w_.free_columns[k] = here >= kWord ? ~std::uint64_t{0}
                                 : here <= 0   ? 0
                                               : (std::uint64_t{1} << here) - 1;
        }
    }

    bool is_free(std::int64_t column) const {
        return w_.free_columns[column / kWord] >> (column % kWord) & 1;
    }

    void assign(std::int64_t row, std::int64_t column) {
        w_.free_columns[column / kWord] &= ~(std::uint64_t{1} << (column % kWord));
        w_.col_of_row[row] = column;
        w_.row_of_col[column] = row;
    }

    // Marks a column scanned. A whole vector is written, by an addition rather than under
    // a mask: a vector load soon after a store of anything less would wait for it.
    __attribute__((always_inline)) void close(std::int64_t column, double length) {
        static constexpr InOneLane nan(__builtin_nan(""));
        w_.scanned[count_] = column;
        w_.length[count_++] = length;
        const std::int64_t lane = column % L;
        double* key = w_.key + (column - lane);
        store(key, load<D>(key) + nan(lane));
    }

    struct Nearest {
        std::int64_t column;
        bool is_free;
    };

    static bool several(std::uint64_t set) { return (set & (set - 1)) != 0; }

    // Gives the columns on the path from `row` to `sink` to the rows before them.
    template <class Assign>
    __attribute__((always_inline)) void flip(std::int64_t row, std::int64_t sink, Assign assign_one) {
        for (std::int64_t j = sink, i = -1; i != row;) {
            i = count_ == 0 ? row : w_.pred[j];
            const std::int64_t next = w_.col_of_row[i];
            assign_one(i, j);
            j = next;
        }
    }

    SmallWork& w_;
    const std::int64_t rows_, cols_, width_;
    std::int64_t count_ = 0;  // columns scanned by the current search
};

class ScipySolver : SmallSolver {
  public:
    ScipySolver(const SmallProblem& problem, SmallWork* work) : SmallSolver(problem, work) {}

    SmallOutcome solve() {
        start();
        for (; w_.augmentations < rows_; ++w_.augmentations)
            if (!augment(w_.augmentations)) return SmallOutcome::infeasible;
        return SmallOutcome::optimal;
    }

  private:
    void start() {
        clear_matching(kWords);
        for (std::int64_t j = 0; j < cols_; ++j)
            w_.position[j] = w_.remaining[j] = static_cast<std::uint8_t>(cols_ - 1 - j);
        for (std::int64_t j = 0; j < width_; j += L) store(w_.v + j, D{});
    }

    // Gives `row` a column; false when no path reaches a free one.
    bool augment(std::int64_t row) {
        count_ = 0;
        restore_list();
        D least = first_lengths(row);
        for (;;) {
            ++w_.row_scans;
            if (!(least[0] < kInf)) return false;
            const Nearest nearest = find(least);
            if (nearest.is_free) {
                update_duals(row, least[0]);
                flip(row, nearest.column, [&](std::int64_t i, std::int64_t j) { assign(i, j); });
                return true;
            }
            if (count_ == 0)
                for (std::int64_t j = 0; j < width_; j += L) store(w_.pred + j, I64{} + row);
            close(nearest.column, least[0]);
            least = relax(nearest.column, least);
        }
    }

    // The lengths of the paths straight from a row whose dual is still 0.
    D first_lengths(std::int64_t row) {
        const double* cost = w_.cost + row * width_;
        D best = splat(kInf);
        for (std::int64_t j = 0; j < width_; j += L) {
            const D x = (D{} + load<D>(cost + j)) - load<D>(w_.v + j);
            store(w_.key + j, x);
            best = lesser(x, best);
        }
        return smallest_everywhere(best);
    }

    // Extends the path of length `base` that ends in `column` through its row. A scanned column has length
    // NaN, which nothing is less than, and which is less than nothing.
    D relax(std::int64_t column, D base) {
        const std::int64_t i = w_.row_of_col[column];
        const double* cost = w_.cost + i * width_;
        const D u = splat(w_.u[i]);
        const I64 me = I64{} + i;
        D best = splat(kInf);
        for (std::int64_t j = 0; j < width_; j += L) {
            const D x = base + load<D>(cost + j) - u - load<D>(w_.v + j);
            const D old = load<D>(w_.key + j);
            const D now = lesser(x, old);
            store(w_.key + j, now);
            store(w_.pred + j, x < old ? me : load<I64>(w_.pred + j));
            best = lesser(now, best);
        }
        return smallest_everywhere(best);
    }

    // One bit per column whose path has that length, of the columns from `first` on, at most a word of them.
    std::uint64_t columns_at(D length, std::int64_t first) const {
        std::uint64_t hits = 0;
        const std::int64_t end = width_ < first + kWord ? width_ : first + kWord;
        for (std::int64_t j = first; j < end; j += L)
            hits |= static_cast<std::uint64_t>(bits_where_equal(load<D>(w_.key + j), length)) << (j - first);
        return hits;
    }

    // A free column if there is one. In the common case there is one column, and no set is made.
    Nearest find(D least) {
        if (width_ > kWord) return find_among_many(least);
        const std::uint64_t equal = columns_at(least, 0);
        const std::uint64_t free = equal & w_.free_columns[0];
        // Branches, which are foreseen, rather than a selection, which the next row would have to wait for.
        if (free != 0) return {several(free) ? choose({{free}}, true) : __builtin_ctzll(free), true};
        return {several(equal) ? choose({{equal}}, false) : __builtin_ctzll(equal), false};
    }

    Nearest find_among_many(D least) {
        ColumnSet equal{}, free{};
        std::uint64_t some_free = 0;
        for (std::int64_t k = 0; k * kWord < width_; ++k) {
            equal.word[k] = columns_at(least, k * kWord);
            free.word[k] = equal.word[k] & w_.free_columns[k];
            some_free |= free.word[k];
        }
        return {choose(some_free != 0 ? free : equal, some_free != 0), some_free != 0};
    }

    // The column of a set that SciPy visits last, if `last`, else first.
    std::int64_t choose(const ColumnSet& set, bool last) {
        std::int64_t lowest = -1, highest = -1;
        for (std::int64_t k = 0; k * kWord < width_; ++k) {
            if (set.word[k] == 0) continue;
            highest = k * kWord + kWord - 1 - __builtin_clzll(set.word[k]);
            if (lowest < 0) lowest = k * kWord + __builtin_ctzll(set.word[k]);
        }
        if (lowest == highest || count_ == 0) return last ? lowest : highest;
        bring_list_up_to_date();
        std::int64_t chosen = lowest;
        for (std::int64_t k = lowest / kWord; k * kWord < width_; ++k)
            for (std::uint64_t left = set.word[k]; left != 0; left &= left - 1) {
                const std::int64_t j = k * kWord + __builtin_ctzll(left);
                if ((w_.position[j] > w_.position[chosen]) == last) chosen = j;
            }
        return chosen;
    }

    void bring_list_up_to_date() {
        for (; listed_ < count_; ++listed_) {
            const std::uint8_t gap = w_.position[w_.scanned[listed_]];
            const std::uint8_t moved = w_.remaining[cols_ - 1 - listed_];
            w_.remaining[gap] = moved;
            w_.position[moved] = gap;
            w_.gap[listed_] = gap;
            w_.moved[listed_] = moved;
        }
    }

    // The list as it is at the start of every search.
    void restore_list() {
        for (std::int64_t k = 0; k < listed_; ++k) {
            w_.remaining[w_.gap[k]] = static_cast<std::uint8_t>(cols_ - 1 - w_.gap[k]);
            w_.position[w_.moved[k]] = static_cast<std::uint8_t>(cols_ - 1 - w_.moved[k]);
        }
        listed_ = 0;
    }

    void update_duals(std::int64_t row, double least) {
        w_.u[row] = least;
        for (std::int64_t k = 0; k < count_; ++k) {
            const std::int64_t j = w_.scanned[k];
            const double change = least - w_.length[k];
            w_.u[w_.row_of_col[j]] += change;
            w_.v[j] -= change;
        }
    }

    std::int64_t listed_ = 0;  // those of them taken out of `remaining` so far
};

template <class T>
SmallOutcome solve_as_scipy(const SmallProblem& problem, SmallWork* work) {
    convert<T>(problem, 0, problem.rows, work);
    const SmallOutcome readable = kToBeChecked<T> ? check_entries(problem, *work) : SmallOutcome::optimal;
    return readable == SmallOutcome::optimal ? ScipySolver(problem, work).solve() : readable;
}

}  // namespace
}  // namespace rebasin_fast::simd::REBASIN_FAST_SIMD_NAMESPACE
