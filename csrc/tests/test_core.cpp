// The core without Python: every method on every instruction set against brute force and against its own
// certificate.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "lap/lap.hpp"
#include "lap/simd/kernels.hpp"
#include "tests/check.hpp"

namespace rebasin_fast {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr Method kMethods[] = {Method::automatic, Method::jv, Method::dense, Method::shortest_path};

template <class T>
constexpr ElementType element_type() {
    if constexpr (std::is_same_v<T, float>) return ElementType::f32;
    if constexpr (std::is_same_v<T, double>) return ElementType::f64;
    if constexpr (std::is_same_v<T, std::int8_t>) return ElementType::i8;
    if constexpr (std::is_same_v<T, std::uint8_t>) return ElementType::u8;
    if constexpr (std::is_same_v<T, std::int16_t>) return ElementType::i16;
    if constexpr (std::is_same_v<T, std::uint16_t>) return ElementType::u16;
    if constexpr (std::is_same_v<T, std::int32_t>) return ElementType::i32;
    if constexpr (std::is_same_v<T, std::uint32_t>) return ElementType::u32;
    if constexpr (std::is_same_v<T, std::int64_t>) return ElementType::i64;
    return ElementType::u64;
}

// A matrix that ends where its memory ends, so that the sanitizer sees any read past it.
template <class T>
struct Matrix {
    std::int64_t rows, cols;
    std::vector<T> data;

    Matrix(std::int64_t n, std::int64_t m) : rows(n), cols(m), data(static_cast<std::size_t>(n * m)) {}
    T& at(std::int64_t i, std::int64_t j) { return data[static_cast<std::size_t>(i * cols + j)]; }
    MatrixView view() const { return {data.data(), element_type<T>(), rows, cols, cols, 1}; }
    MatrixView backwards() const {  // both axes reversed
        return {data.data() + data.size() - 1, element_type<T>(), rows, cols, -cols, -1};
    }
};

using Random = std::mt19937_64;

template <class T, class Draw>
Matrix<T> filled(std::int64_t n, std::int64_t m, Draw draw) {
    Matrix<T> matrix(n, m);
    for (T& x : matrix.data) x = static_cast<T>(draw());
    return matrix;
}

double best_by_force(Matrix<double> c, bool maximize) {
    if (c.rows > c.cols) {
        Matrix<double> turned(c.cols, c.rows);
        for (std::int64_t i = 0; i < c.rows; ++i)
            for (std::int64_t j = 0; j < c.cols; ++j) turned.at(j, i) = c.at(i, j);
        c = turned;
    }
    std::vector<std::int64_t> cols(static_cast<std::size_t>(c.cols));
    std::iota(cols.begin(), cols.end(), 0);
    double best = maximize ? -kInf : kInf;
    do {
        double sum = 0;
        for (std::int64_t i = 0; i < c.rows; ++i) sum += c.at(i, cols[static_cast<std::size_t>(i)]);
        best = maximize ? std::max(best, sum) : std::min(best, sum);
    } while (std::next_permutation(cols.begin(), cols.end()));
    return best;
}

template <class T>
double total(Matrix<T>& c, const Result& r) {
    double sum = 0;
    for (std::size_t k = 0; k < r.row_ind.size(); ++k)
        sum += static_cast<double>(c.at(r.row_ind[k], r.col_ind[k]));
    return sum;
}

void check_proven(const MatrixView& view, const Options& options, const Result& r,
                  const std::string& context) {
    CHECK_WITH(r.status == Status::optimal, context);
    if (r.status != Status::optimal) return;
    const auto n = static_cast<std::size_t>(std::min(view.rows, view.cols));
    CHECK_WITH(r.row_ind.size() == n && r.col_ind.size() == n, context);
    CHECK_WITH(std::is_sorted(r.row_ind.begin(), r.row_ind.end()), context);
    const Proof proof = r.stats.exact_integers ? prove(view, options.maximize, r.row_ind, r.col_ind,
                                                       r.duals.exact_row.data(), r.duals.exact_col.data())
                                               : prove(view, options.maximize, r.row_ind, r.col_ind,
                                                       r.duals.row.data(), r.duals.col.data());
    const double tolerance = r.stats.exact_integers ? 0.0 : 1e-14 * proof.scale;
    CHECK_WITH(proof.gap <= tolerance && proof.violation <= tolerance, context);
}

template <class T>
void solve_every_way(Matrix<T>& matrix, const std::string& context, const double* want = nullptr) {
    for (const Method method : kMethods)
        for (const bool maximize : {false, true}) {
            if (maximize && std::is_floating_point_v<T> &&
                std::any_of(matrix.data.begin(), matrix.data.end(),
                            [](T x) { return !std::isfinite(double(x)); }))
                continue;
            const Options options{maximize, true, method};
            const std::string where = context + " method " + std::to_string(static_cast<int>(method));
            const Result result = solve(matrix.view(), options);
            check_proven(matrix.view(), options, result, where);
            if (want != nullptr && result.status == Status::optimal)
                CHECK_WITH(std::abs(total(matrix, result) - want[maximize]) <= 1e-9, where);
            check_proven(matrix.backwards(), options, solve(matrix.backwards(), options),
                         where + " backwards");
            const MatrixView turned = matrix.view().transposed();
            check_proven(turned, options, solve(turned, options), where + " transposed");
        }
}

template <class Body>
void on_every_isa(Body body) {
    const std::string before = simd::active_isa();
    for (const std::string& isa : simd::available_isas()) {
        CHECK(simd::force_isa(isa));
        body(isa);
    }
    CHECK(simd::force_isa(before));
}

TEST_CASE(brute_force, "small problems equal brute force") {
    Random random(1);
    on_every_isa([&](const std::string& isa) {
        for (std::int64_t n = 1; n <= 6; ++n)
            for (std::int64_t m = 1; m <= 6; ++m) {
                auto c = filled<double>(n, m, [&] { return static_cast<double>(random() % 20); });
                const double want[] = {best_by_force(c, false), best_by_force(c, true)};
                solve_every_way(c, isa, want);
            }
    });
}

template <class T>
void every_shape(const std::string& isa, Random& random) {
    for (const auto& [n, m] : {std::pair<std::int64_t, std::int64_t>{1, 1},
                               {1, 9},
                               {7, 8},
                               {33, 33},
                               {50, 67},
                               {65, 65},
                               {150, 600}}) {
        auto uniform = filled<T>(n, m, [&] { return static_cast<double>(random() % 100); });
        solve_every_way(uniform, isa + " uniform");
        auto ties = filled<T>(n, m, [&] { return static_cast<double>(random() % 2); });
        solve_every_way(ties, isa + " ties");
    }
}

TEST_CASE(element_types, "every element type, shape and instruction set is proven optimal") {
    Random random(2);
    on_every_isa([&](const std::string& isa) {
        every_shape<float>(isa, random);
        every_shape<double>(isa, random);
        every_shape<std::int8_t>(isa, random);
        every_shape<std::uint8_t>(isa, random);
        every_shape<std::int16_t>(isa, random);
        every_shape<std::uint16_t>(isa, random);
        every_shape<std::int32_t>(isa, random);
        every_shape<std::uint32_t>(isa, random);
        every_shape<std::int64_t>(isa, random);
        every_shape<std::uint64_t>(isa, random);
    });
}

TEST_CASE(small, "small problems with ties get the cells of the plain solver, whatever the instruction set") {
    Random random(8);
    on_every_isa([&](const std::string& isa) {
        for (int trial = 0; trial < 200; ++trial) {
            const auto n = static_cast<std::int64_t>(1 + random() % 24);
            const auto m = trial % 2 ? n : static_cast<std::int64_t>(1 + random() % 256);
            auto c = filled<double>(n, m, [&] { return random() % 5 ? double(random() % 6) : kInf; });
            for (const MatrixView& view : {c.view(), c.backwards(), c.view().transposed()}) {
                const Result got = solve(view, {false, true, Method::automatic});
                const Result want = solve(view, {false, true, Method::shortest_path});
                CHECK_WITH(got.status == want.status, isa);
                if (want.status != Status::optimal) continue;
                CHECK_WITH(got.col_ind == want.col_ind && got.row_ind == want.row_ind, isa);
                CHECK_WITH(got.duals.col == want.duals.col && got.duals.row == want.duals.row, isa);
            }
        }
    });
}

TEST_CASE(contested, "where all rows want the same columns lists take over, whatever the instruction set") {
    on_every_isa([&](const std::string& isa) {
        for (const std::int64_t n : {127, 128, 200}) {
            Matrix<float> c(n, n);
            for (std::int64_t i = 0; i < n; ++i)
                for (std::int64_t j = 0; j < n; ++j) c.at(i, j) = static_cast<float>((i + 1) * (j + 1));
            const Options options{false, true, Method::automatic};
            const Result result = solve(c.view(), options);
            CHECK_WITH(result.stats.method == (n < 128 ? Method::dense : Method::jv), isa);
            check_proven(c.view(), options, result, isa);
        }
    });
}

TEST_CASE(heavy_tails,
          "prices start from zero where column minima are outliers, by the same bits everywhere") {
    Random random(9);
    std::cauchy_distribution<double> heavy;
    for (const std::int64_t n : {30, 90, 170}) {
        auto c = filled<double>(n, n, [&] { return heavy(random); });
        const Options options{false, true, Method::automatic};
        const Result first = solve(c.view(), options);
        CHECK(first.stats.row_scans < 10 * n);
        on_every_isa([&](const std::string& isa) {
            const Result result = solve(c.view(), options);
            check_proven(c.view(), options, result, isa);
            CHECK_WITH(result.duals.row == first.duals.row && result.col_ind == first.col_ind, isa);
        });
    }
}

TEST_CASE(survey, "the pass that finds column minima is spared where columns are alike, and only there") {
    constexpr std::int64_t n = 2048;
    Random random(3);
    std::uniform_real_distribution<double> uniform;
    std::vector<double> shift(n);
    const auto passes = [&] {
        auto c = filled<float>(n, n, [&] { return uniform(random); });
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t j = 0; j < n; ++j) c.at(i, j) += static_cast<float>(shift[j]);
        Options options;
        options.with_duals = true;
        const Result r = solve(c.view(), options);
        check_proven(c.view(), options, r, "survey");
        return static_cast<double>(r.stats.row_scans) / n;
    };
    CHECK(passes() < 1.2);
    shift[7] = 10.0;
    const double one_dear = passes();
    CHECK(2.0 <= one_dear && one_dear < 2.2);
    for (double& x : shift) x = 0.3 * uniform(random);
    const double shifted = passes();
    CHECK(2.0 <= shifted && shifted < 2.2);
}

TEST_CASE(forbidden, "forbidden cells are avoided, and found infeasible when they cannot be") {
    Random random(3);
    for (int trial = 0; trial < 30; ++trial) {
        auto c =
            filled<double>(60, 60, [&] { return random() % 3 ? kInf : static_cast<double>(random() % 50); });
        for (std::int64_t i = 0; i < 60; ++i) c.at(i, (i * 7 + trial) % 60) = 1000.0;
        solve_every_way(c, "forbidden");
        for (std::int64_t i = 0; i < 60; ++i) c.at(i, 11) = kInf;  // a column nobody may take
        for (const Method method : kMethods)
            CHECK(solve(c.view(), {false, true, method}).status == Status::infeasible);
    }
}

TEST_CASE(invalid, "NaN and infinities of the wrong sign are reported wherever they are") {
    for (const double bad : {std::nan(""), -kInf})
        for (const std::int64_t place : {0, 30, 59}) {
            auto c = filled<double>(60, 60, [] { return 1.0; });
            c.at(place, 59 - place) = bad;
            CHECK(solve(c.view(), {}).status == Status::invalid_entry);
            c.at(place, 59 - place) = -bad;
            CHECK(solve(c.view(), {true, false, Method::automatic}).status == Status::invalid_entry);
        }
}

TEST_CASE(constant, "a constant matrix gives the identity") {
    for (const std::int64_t n : {1, 5, 64, 200}) {
        auto c = filled<float>(n, n, [] { return 2.5; });
        for (const Method method : kMethods) {
            const Result r = solve(c.view(), {false, false, method});
            CHECK(r.col_ind == r.row_ind);
        }
    }
}

TEST_CASE(exact_integers, "integers that float64 would round are solved in integers") {
    Random random(4);
    for (const std::int64_t n : {4, 40}) {
        auto c = filled<std::int64_t>(n, n + 3, [] { return 0; });
        for (auto& x : c.data) x = (std::int64_t{1} << 60) + static_cast<std::int64_t>(random() % 1000);
        const Result r = solve(c.view(), {false, true, Method::automatic});
        CHECK(r.stats.exact_integers);
        check_proven(c.view(), {}, r, "2^60");
        auto whole = filled<std::uint64_t>(n, n, [] { return 0; });
        for (auto& x : whole.data) x = random() % 2 ? std::numeric_limits<std::uint64_t>::max() : 0;
        CHECK(solve(whole.view(), {}).status == Status::optimal);
    }
}

TEST_CASE(magnitudes, "costs near overflow and denormals are solved") {
    Random random(5);
    for (const double scale : {5e-324, 1e-300, 1e300, 1.7e306}) {
        auto c = filled<double>(64, 64, [&] { return scale * static_cast<double>(random() % 100); });
        const Result r = solve(c.view(), {false, true, Method::dense});
        CHECK(r.status == Status::optimal);
        CHECK(r.gap <= 1e-12 * scale * 6400);
    }
}

TEST_CASE(proof, "a proof shows a worse assignment and broken duals for what they are") {
    Random random(6);
    auto c = filled<double>(20, 25, [&] { return static_cast<double>(random() % 1000); });
    Result r = solve(c.view(), {false, true, Method::automatic});
    const double optimum = total(c, r);
    std::swap(r.col_ind[0], r.col_ind[1]);
    const double lost = total(c, r) - optimum;
    CHECK(std::abs(prove(c.view(), false, r.row_ind, r.col_ind, r.duals.row.data(), r.duals.col.data()).gap -
                   lost) < 1e-9);
    r.duals.row[3] += 5.0;
    CHECK(prove(c.view(), false, r.row_ind, r.col_ind, r.duals.row.data(), r.duals.col.data()).violation >=
          5.0 - 1e-9);
}

TEST_CASE(threads, "many threads solve at once") {
    Random random(7);
    auto c = filled<float>(150, 150, [&] { return static_cast<double>(random() % 10007); });
    const Result want = solve(c.view(), {});
    std::vector<std::thread> threads;
    std::vector<int> equal(8, 0);
    for (std::size_t k = 0; k < equal.size(); ++k)
        threads.emplace_back([&, k] { equal[k] = solve(c.view(), {}).col_ind == want.col_ind; });
    for (std::thread& thread : threads) thread.join();
    CHECK(std::count(equal.begin(), equal.end(), 1) == 8);
}

TEST_CASE(shared_work, "threads share the work of one problem, and come to the same answer and duals") {
    constexpr std::int64_t n = 1100, d = 12;
    Random random(8);
    std::normal_distribution<double> normal;
    std::vector<double> a(n * d), b(n * d);
    for (double& x : a) x = normal(random);
    for (double& x : b) x = normal(random);
    Matrix<float> c(n, n);  // rows compete, so that many are read again while others bid
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < n; ++j)
            c.at(i, j) = static_cast<float>(std::inner_product(&a[i * d], &a[i * d] + d, &b[j * d], 0.0));
    Options options;
    options.with_duals = true;
    const Result want = solve(c.view(), options);
    CHECK(want.stats.row_scans > 3 * n);
    for (options.threads = 2; options.threads <= 4; ++options.threads) {
        const Result got = solve(c.view(), options);
        CHECK(got.col_ind == want.col_ind);
        CHECK(got.duals.col == want.duals.col);
        CHECK(got.stats.row_scans == want.stats.row_scans);
    }
}

TEST_CASE(interrupt, "shortest paths ask whether to stop within a search, every few million elements") {
    struct AtOnce final : Interrupt {
        bool requested() override { return true; }
    } stop;
    constexpr std::int64_t n = 64, m = 1 << 17;
    std::vector<std::int8_t> row(m, 100);  // of every row, so that search k reads k rows
    std::iota(row.begin(), row.begin() + n, std::int8_t{0});
    Options options;
    options.method = Method::shortest_path;
    options.interrupt = &stop;
    const Result r = solve({row.data(), ElementType::i8, n, m, 0, 1}, options);
    CHECK(r.status == Status::interrupted);
    CHECK(r.stats.row_scans - n <= (1 << 22) / m + 1);
}

TEST_CASE(wide_integers, "128-bit integers become the float64 numbers the compiler makes of them") {
    const int128 one = 1;
    for (const int128 x : {one * 0, one, -one, (one << 53) + 1, -(one << 63), (one << 64) - 1, one << 64,
                           -(one << 100), (one << 126) + (one << 80), -(one << 126) - 1})
        CHECK(to_double(x) == static_cast<double>(x));
}

TEST_CASE(whole_duals, "integer duals prove an answer to real costs") {
    const double costs[] = {4.0, 1.5, 2.0, 0.5};
    const std::int64_t u[] = {1, 0}, v[] = {1, 0};
    const Proof proof = prove({costs, ElementType::f64, 2, 2, 2, 1}, false, {0, 1}, {1, 0}, u, v);
    CHECK(proof.gap == 1.5 && proof.violation == 0.0);
}

TEST_CASE(empty, "empty problems have empty answers") {
    const double nothing = 0.0;
    for (const auto& [n, m] : {std::pair<std::int64_t, std::int64_t>{0, 0}, {0, 4}, {4, 0}}) {
        const Result r = solve({&nothing, ElementType::f64, n, m, m, 1}, {false, true, Method::automatic});
        CHECK(r.status == Status::optimal && r.row_ind.empty());
        CHECK(r.duals.row.size() == static_cast<std::size_t>(n) &&
              r.duals.col.size() == static_cast<std::size_t>(m));
    }
}

}  // namespace
}  // namespace rebasin_fast

int main() {
    return rebasin_fast::testing::run_all();
}
