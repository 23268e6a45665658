// Any bytes, read as one call of solve(), and everything its contract promises about the answer. The answer
// is held against a Hungarian method of a few lines that shares nothing with the solver.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "lap/lap.hpp"
#include "lap/simd/kernels.hpp"

namespace rebasin_fast::fuzzing {

// Reads values off the front of the input; zeros once it has ended.
class Bytes {
  public:
    Bytes(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {}

    template <class T>
    T take() {
        T value{};
        const std::size_t size = std::min(sizeof(T), static_cast<std::size_t>(end_ - at_));
        if (size > 0) std::memcpy(&value, at_, size);
        at_ += size;
        return value;
    }

    std::int64_t below(std::int64_t limit) { return take<std::uint8_t>() % limit; }
    bool one_in(std::int64_t n) { return below(n) == n - 1; }
    bool ended() const { return at_ == end_; }

  private:
    const std::uint8_t *at_, *end_;
};

template <class T>
constexpr bool kReal = std::is_floating_point_v<Widened<T>>;

// The number as an element of a matrix, to the nearest.
template <class T>
T element(double x) {
    return static_cast<T>(x);
}

template <>
inline Half element<Half>(double x) {
    const auto sign = static_cast<std::uint16_t>(std::signbit(x) ? 0x8000 : 0);
    if (std::isnan(x)) return {0x7E00};
    const double magnitude = std::abs(x);
    const int exponent = magnitude < 0x1p-14 ? -14 : magnitude >= 0x1p16 ? 16 : std::ilogb(magnitude);
    if (exponent == 16) return {static_cast<std::uint16_t>(sign | 0x7C00)};
    // The leading bit of what is not denormal counts one exponent up, and so does a carry.
    const auto steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
    return {static_cast<std::uint16_t>(sign | (((exponent + 14) << 10) + steps))};
}

// What every problem of one element type has in common, as read from the input.
struct Header {
    std::int64_t rows = 1, cols = 1;
    bool by_columns = false, backwards_rows = false, backwards_cols = false;
    bool same_rows = false, same_cols = false;  // stride 0
    std::int64_t step = 1, margin = 0;          // elements from one to the next, unused ones after each line
    Options options;
    std::int64_t interrupt_after = -1;  // how many questions to answer with no; negative: all of them
    std::int64_t start = 0;             // where the duals to start from come from
    std::string isa;

    explicit Header(Bytes* in) {
        constexpr Method methods[] = {Method::automatic, Method::jv, Method::auction, Method::dense,
                                      Method::shortest_path};
        const std::int64_t kind = in->below(8);
        if (kind == 0) {
            rows = 1 + in->below(3);
            cols = 1 + in->take<std::uint16_t>() % 300;
        } else {
            rows = 1 + in->below(kind < 4 ? 70 : 12);
            if (kind == 1 && in->one_in(8)) rows += 120;  // where lists begin
            cols = kind % 2 ? rows : 1 + in->below(kind < 4 ? 70 : 12);
        }
        if (in->one_in(2)) std::swap(rows, cols);
        by_columns = in->one_in(2);
        backwards_rows = in->one_in(4);
        backwards_cols = in->one_in(4);
        same_rows = in->one_in(32);
        same_cols = in->one_in(32);
        if (in->one_in(4)) step = 1 + in->below(3);
        if (in->one_in(4)) margin = in->below(4);
        options.method = methods[in->below(5)];
        options.maximize = in->one_in(2);
        options.with_duals = !in->one_in(8);
        options.threads = 1 + static_cast<int>(in->below(2));
        if (in->one_in(8)) options.max_gap = std::ldexp(1.0, static_cast<int>(in->below(40)) - 20);
        if (in->one_in(8)) interrupt_after = in->below(64);
        start = in->below(8);
        const auto isas = simd::available_isas();
        isa = isas[static_cast<std::size_t>(in->below(static_cast<std::int64_t>(isas.size())))];
    }

    std::string text() const {
        char line[400];
        std::snprintf(line, sizeof(line),
                      "%ld x %ld, method %d, maximize %d, duals %d, threads %d, max_gap %g, interrupt %ld, "
                      "start %ld, by columns %d, backwards %d %d, same %d %d, step %ld, margin %ld, %s",
                      static_cast<long>(rows), static_cast<long>(cols), static_cast<int>(options.method),
                      options.maximize, options.with_duals, options.threads, options.max_gap,
                      static_cast<long>(interrupt_after), static_cast<long>(start), by_columns,
                      backwards_rows, backwards_cols, same_rows, same_cols, static_cast<long>(step),
                      static_cast<long>(margin), isa.c_str());
        return line;
    }
};

// Also checks that no thread but the one that called solve() asks.
class CountDown final : public Interrupt {
  public:
    explicit CountDown(std::int64_t left) : left_(left) {}
    bool requested() override {
        wrong_thread_ |= std::this_thread::get_id() != caller_;
        return left_ >= 0 && left_-- == 0;
    }
    bool wrong_thread() const { return wrong_thread_; }

  private:
    std::int64_t left_;
    std::thread::id caller_ = std::this_thread::get_id();
    bool wrong_thread_ = false;
};

// The numbers sums are formed in: without rounding for integers, with 11 more bits than the solver's for
// floats.
template <class T>
using Sum = std::conditional_t<kReal<T>, long double, int128>;

// Least total cost over all ways to give every row a column; rows <= cols. Successive shortest paths with
// duals, after the well-known 30-line program of A. Lopatin. False when forbidden cells leave no way.
template <class S>
bool slow_optimum(std::size_t n, std::size_t m, const std::vector<S>& cost,
                  const std::vector<char>& forbidden, S* optimum) {
    std::vector<S> u(n + 1, 0), v(m + 1, 0), length(m + 1);
    std::vector<std::size_t> row_of(m + 1, 0), before(m + 1, 0);
    std::vector<char> reached(m + 1), done(m + 1);
    for (std::size_t i = 1; i <= n; ++i) {
        std::fill(reached.begin(), reached.end(), 0);
        std::fill(done.begin(), done.end(), 0);
        std::size_t j0 = 0;
        row_of[0] = i;
        do {
            done[j0] = 1;
            const std::size_t i0 = row_of[j0];
            std::size_t nearest = 0;
            for (std::size_t j = 1; j <= m; ++j) {
                if (done[j]) continue;
                const std::size_t cell = (i0 - 1) * m + j - 1;
                const S reduced = cost[cell] - u[i0] - v[j];
                if (!forbidden[cell] && (!reached[j] || reduced < length[j])) {
                    length[j] = reduced;
                    before[j] = j0;
                    reached[j] = 1;
                }
                if (reached[j] && (nearest == 0 || length[j] < length[nearest])) nearest = j;
            }
            if (nearest == 0) return false;
            const S delta = length[nearest];
            for (std::size_t j = 0; j <= m; ++j) {
                if (done[j]) {
                    u[row_of[j]] += delta;
                    v[j] -= delta;
                } else if (reached[j]) {
                    length[j] -= delta;
                }
            }
            j0 = nearest;
        } while (row_of[j0] != 0);
        for (; j0 != 0; j0 = before[j0]) row_of[j0] = row_of[before[j0]];
    }
    *optimum = 0;
    for (std::size_t j = 1; j <= m; ++j)
        if (row_of[j] != 0) *optimum += cost[(row_of[j] - 1) * m + j - 1];
    return true;
}

template <class T>
class Call {
  public:
    Call(const Header& header, Bytes* in) : header_(header), options_(header.options) {
        lay_out();
        fill(in);
        choose_start(in);
    }

    void check() {
        const std::vector<T> before = memory_;
        CountDown interrupt(header_.interrupt_after);
        options_.interrupt = &interrupt;
        simd::force_isa(header_.isa);
        const Result result = solve(view_, options_);
        require(std::memcmp(before.data(), memory_.data(), memory_.size() * sizeof(T)) == 0,
                "the matrix is as it was");
        require(!interrupt.wrong_thread(), "only the caller's thread asks whether to stop");
        if (result.status == Status::interrupted) {
            require(header_.interrupt_after >= 0, "interrupted only when asked to");
            return;
        }
        check_against(slow_answer(), result);
    }

  private:
    struct Reference {
        Status status = Status::optimal;
        Sum<T> optimum = 0;
    };

    void require(bool holds, const char* what) const {
        if (holds) return;
        std::fprintf(stderr, "does not hold: %s\n%s, element type %d, actual %Lg, expected %Lg\n", what,
                     header_.text().c_str(), static_cast<int>(view_.type), static_cast<long double>(actual_),
                     static_cast<long double>(expected_));
        std::abort();
    }

    // Memory that ends where the matrix ends, so that the sanitizer sees a read past it.
    void lay_out() {
        const Header& h = header_;
        const std::int64_t line = h.step * ((h.by_columns ? h.rows : h.cols) - 1) + 1 + h.margin;
        std::int64_t row_stride = h.by_columns ? h.step : line, col_stride = h.by_columns ? line : h.step;
        if (h.same_rows) row_stride = 0;
        if (h.same_cols) col_stride = 0;
        const std::int64_t down = (h.rows - 1) * row_stride, right = (h.cols - 1) * col_stride;
        memory_.resize(static_cast<std::size_t>(down + right + 1));
        const T* first = memory_.data() + (h.backwards_rows ? down : 0) + (h.backwards_cols ? right : 0);
        view_ = {first,
                 element_type(),
                 h.rows,
                 h.cols,
                 h.backwards_rows ? -row_stride : row_stride,
                 h.backwards_cols ? -col_stride : col_stride};
    }

    T& at(std::int64_t i, std::int64_t j) {
        const auto first = static_cast<const T*>(view_.data) - memory_.data();
        return memory_[static_cast<std::size_t>(first + i * view_.row_stride + j * view_.col_stride)];
    }

    // Draws from a palette of few or many values: the input says which while it lasts, then a generator it
    // seeds.
    void fill(Bytes* in) {
        // What lies between the elements must not be read: as a number it would show.
        std::fill(memory_.begin(), memory_.end(),
                  kReal<T> ? element<T>(kNaN) : std::numeric_limits<T>::max());
        std::mt19937_64 random(in->take<std::uint16_t>());
        std::vector<T> palette(in->one_in(3) ? 256 : static_cast<std::size_t>(1 + in->below(8)));
        const std::int64_t kind = in->below(6);
        for (T& value : palette) value = draw(kind, in->ended() ? random() : in->take<std::uint64_t>());
        if (kReal<T> && in->one_in(3)) {
            const T forbidden = element<T>(options_.maximize ? -kInfinity : kInfinity);
            const auto many = static_cast<std::size_t>(1 + in->below(4));
            for (std::size_t k = 0; k < std::min(many * palette.size() / 5 + 1, palette.size()); ++k)
                palette[k] = forbidden;
        }
        const bool permutation = in->one_in(2);  // what keeps most problems with forbidden cells feasible
        const bool invalid = kReal<T> && in->one_in(32);
        for (std::int64_t i = 0; i < view_.rows; ++i)
            for (std::int64_t j = 0; j < view_.cols; ++j)
                at(i, j) = palette[(in->ended() ? random() : in->take<std::uint8_t>()) % palette.size()];
        if (permutation)
            for (std::int64_t k = 0; k < std::min(view_.rows, view_.cols); ++k)
                at(k, (k * 7 + 3) % view_.cols) = element<T>(static_cast<double>(random() % 100));
        if (invalid) {
            const T bad[] = {element<T>(kNaN), element<T>(kInfinity), element<T>(-kInfinity)};
            at(static_cast<std::int64_t>(random() % view_.rows),
               static_cast<std::int64_t>(random() % view_.cols)) = bad[random() % 3];
        }
    }

    T draw(std::int64_t kind, std::uint64_t bits) const {
        if constexpr (kReal<T>) {
            constexpr int exponents = std::is_same_v<T, Half> ? 40 : 80;
            const double unit = static_cast<double>(bits >> 11) * 0x1p-53;
            if (kind == 0) return element<T>(static_cast<double>(bits % 10));
            if (kind == 1) return element<T>(unit - 0.5);
            if (kind == 2) return element<T>(1e4 + unit);
            if (kind == 3) return element<T>(1.0 + 1e-12 * unit);
            if (kind == 4)
                return element<T>(
                    std::ldexp(unit, static_cast<int>(bits % exponents) - (exponents == 40 ? 24 : 40)));
            T raw;  // denormals and every exponent
            std::memcpy(&raw, &bits, sizeof(T));
            const auto value = static_cast<Widened<T>>(raw);
            // Nearer to overflow than this, sums of as many costs as the matrix has rows are infinite.
            constexpr auto far = std::numeric_limits<Widened<T>>::max() / 1024;
            return std::isfinite(value) && std::abs(value) < far ? raw : element<T>(1.0);
        } else {
            if (kind < 3) return static_cast<T>(bits % 10);
            if (kind == 3) return static_cast<T>(bits % 1000);
            if (kind == 4) return static_cast<T>(std::numeric_limits<T>::max() - static_cast<T>(bits % 5));
            return static_cast<T>(bits);
        }
    }

    void choose_start(Bytes* in) {
        if (header_.start < 4) return;
        std::mt19937_64 random(in->take<std::uint16_t>());
        start_.resize(static_cast<std::size_t>(view_.cols));
        if (header_.start == 4) {
            Options plain;
            plain.maximize = options_.maximize;
            plain.with_duals = true;
            const Result result = solve(view_, plain);
            for (std::size_t j = 0; j < start_.size(); ++j)
                start_[j] = result.status != Status::optimal ? 0.0
                            : result.stats.exact_integers    ? static_cast<double>(result.duals.exact_col[j])
                                                             : result.duals.col[j];
        } else {
            const double scale = header_.start == 5 ? 1.0 : header_.start == 6 ? 1e12 : 1e300;
            for (double& v : start_) v = scale * (static_cast<double>(random() >> 11) * 0x1p-52 - 1.0);
        }
        options_.col_duals = start_.data();
    }

    Reference slow_answer() {
        // As the reference wants it: rows <= cols, minimising.
        const bool turned = view_.rows > view_.cols;
        const auto n = static_cast<std::size_t>(std::min(view_.rows, view_.cols));
        const auto m = static_cast<std::size_t>(std::max(view_.rows, view_.cols));
        std::vector<Sum<T>> cost(n * m);
        std::vector<char> forbidden(n * m, 0);
        for (std::size_t i = 0; i < n; ++i)
            for (std::size_t j = 0; j < m; ++j) {
                const auto a = static_cast<std::int64_t>(turned ? j : i);
                const auto b = static_cast<std::int64_t>(turned ? i : j);
                const Sum<T> c =
                    options_.maximize ? -static_cast<Sum<T>>(at(a, b)) : static_cast<Sum<T>>(at(a, b));
                if constexpr (kReal<T>) {
                    if (std::isnan(c) || c == -kInfinity) return {Status::invalid_entry, 0};
                    forbidden[i * m + j] = c == kInfinity;
                }
                cost[i * m + j] = c;
            }
        Reference reference;
        if (!slow_optimum(n, m, cost, forbidden, &reference.optimum)) reference.status = Status::infeasible;
        return reference;
    }

    void check_against(const Reference& reference, const Result& result) {
        actual_ = static_cast<long double>(static_cast<int>(result.status));
        expected_ = static_cast<long double>(static_cast<int>(reference.status));
        require(result.status == reference.status, "the status is the right one");
        if (result.status != Status::optimal) return;
        const Sum<T> cost = check_matching(result);
        actual_ = static_cast<long double>(cost);
        expected_ = static_cast<long double>(reference.optimum);
        const double rounding = options_.with_duals ? check_proof(result) : largest() * kRelative;
        const long double lost = static_cast<long double>(cost - reference.optimum);
        if constexpr (!kReal<T>) {
            require(options_.max_gap > 0.0 || cost == reference.optimum, "the cost is the optimum");
            require(cost >= reference.optimum, "no cost is below the optimum");
            require(lost <= options_.max_gap, "the cost is within the tolerated gap");
        } else {
            require(std::abs(lost) <= options_.max_gap + rounding, "the cost is the optimum");
            require(lost >= -rounding, "no cost is below the optimum");
        }
        if (options_.with_duals) require(lost <= result.gap + rounding, "the gap bounds what is lost");
    }

    // Returns the signed cost of the cells.
    Sum<T> check_matching(const Result& result) {
        const auto n = static_cast<std::size_t>(std::min(view_.rows, view_.cols));
        require(result.row_ind.size() == n && result.col_ind.size() == n, "the shorter side is covered");
        std::vector<char> taken(static_cast<std::size_t>(view_.cols), 0);
        Sum<T> cost = 0;
        for (std::size_t k = 0; k < n; ++k) {
            const std::int64_t i = result.row_ind[k], j = result.col_ind[k];
            require(0 <= i && i < view_.rows && 0 <= j && j < view_.cols, "indices are in range");
            require(k == 0 || result.row_ind[k - 1] < i, "rows ascend");
            require(!taken[static_cast<std::size_t>(j)], "no column is taken twice");
            taken[static_cast<std::size_t>(j)] = 1;
            const auto c = static_cast<Sum<T>>(at(i, j));
            cost += options_.maximize ? -c : c;
        }
        if constexpr (kReal<T>) require(std::isfinite(cost), "no forbidden cell is chosen");
        return cost;
    }

    // Returns by how much costs may differ for rounding alone.
    double check_proof(const Result& result) {
        const Duals& d = result.duals;
        const bool exact = result.stats.exact_integers;
        require((exact ? d.exact_row.size() : d.row.size()) == static_cast<std::size_t>(view_.rows) &&
                    (exact ? d.exact_col.size() : d.col.size()) == static_cast<std::size_t>(view_.cols),
                "every line has a dual");
        if (d.overflow) return 0.0;
        const Proof proof = exact ? prove(view_, options_.maximize, result.row_ind, result.col_ind,
                                          d.exact_row.data(), d.exact_col.data())
                                  : prove(view_, options_.maximize, result.row_ind, result.col_ind,
                                          d.row.data(), d.col.data());
        // What verify_assignment allows for; but duals as large as those it started from would excuse
        // anything.
        const double tolerance =
            exact ? 0.0
                  : std::min(8 * std::numeric_limits<double>::epsilon() * proof.scale, largest() * kRelative);
        require(proof.violation <= tolerance, "the duals break no constraint");
        require(proof.gap <= options_.max_gap + tolerance, "the duals prove the optimum");
        require(result.gap >= 0.0 && result.gap <= options_.max_gap + tolerance,
                "the gap is what was asked for");
        return exact ? 0.0 : std::min(1e-12 * proof.scale, largest() * kRelative);
    }

    double largest() {
        double magnitude = 0.0;
        for (std::int64_t i = 0; i < view_.rows; ++i)
            for (std::int64_t j = 0; j < view_.cols; ++j)
                if (std::isfinite(static_cast<double>(at(i, j))))
                    magnitude = std::max(magnitude, std::abs(static_cast<double>(at(i, j))));
        return magnitude * static_cast<double>(std::min(view_.rows, view_.cols));
    }

    static constexpr ElementType element_type() {
        if constexpr (std::is_same_v<T, Half>) return ElementType::f16;
        if constexpr (std::is_same_v<T, float>) return ElementType::f32;
        if constexpr (std::is_same_v<T, double>) return ElementType::f64;
        constexpr ElementType of_size[2][4] = {
            {ElementType::u8, ElementType::u16, ElementType::u32, ElementType::u64},
            {ElementType::i8, ElementType::i16, ElementType::i32, ElementType::i64}};
        return of_size[std::is_signed_v<T>][sizeof(T) == 1 ? 0 : sizeof(T) == 2 ? 1 : sizeof(T) == 4 ? 2 : 3];
    }

    static constexpr double kInfinity = std::numeric_limits<double>::infinity();
    static constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
    static constexpr double kRelative = 1e-9;  // of the largest cost there could be

    Header header_;
    Options options_;
    std::vector<T> memory_;
    MatrixView view_;
    std::vector<double> start_;
    long double actual_ = 0, expected_ = 0;
};

// Aborts, and says why, when solve() breaks its contract on the problem these bytes stand for.
inline void check(const std::uint8_t* data, std::size_t size) {
    Bytes in(data, size);
    const std::int64_t type = in.below(13);
    const Header header(&in);
    switch (type) {
        case 0:
            return Call<std::int8_t>(header, &in).check();
        case 1:
            return Call<std::uint8_t>(header, &in).check();
        case 2:
            return Call<std::int16_t>(header, &in).check();
        case 3:
            return Call<std::uint16_t>(header, &in).check();
        case 4:
            return Call<std::int32_t>(header, &in).check();
        case 5:
            return Call<std::uint32_t>(header, &in).check();
        case 6:
            return Call<std::int64_t>(header, &in).check();
        case 7:
            return Call<std::uint64_t>(header, &in).check();
        case 8:
        case 9:
            return Call<float>(header, &in).check();
        case 10:
            return Call<Half>(header, &in).check();
        default:
            return Call<double>(header, &in).check();
    }
}

}  // namespace rebasin_fast::fuzzing
