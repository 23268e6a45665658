// Costs that are inner products, on the emulated device: every product against a plain sum, and every answer
// against the CPU's, against the matrix the products make, and against its own proof.
#include <cmath>
#include <string>
#include <vector>

#include "cuda/factored_solver.cuh"
#include "lap/factored.hpp"
#include "tests/cuda_emulation/exhaust.hpp"
#include "tests/cuda_emulation/families.hpp"

namespace rebasin_fast::cuda {
namespace {

using namespace testing;

// Factors as the device holds them, in memory that ends where they end.
template <class F>
struct Given {
    int rows, cols, depth;
    std::vector<F> a, b;

    Factors view() const { return {a.data(), b.data(), depth, std::is_same_v<F, double>, rows, cols}; }
    double product(int i, int j) const {
        double sum = 0.0;
        for (int k = 0; k < depth; ++k)
            sum += static_cast<double>(a[std::size_t(i * depth + k)]) *
                   static_cast<double>(b[std::size_t(j * depth + k)]);
        return sum;
    }
    Stored as_matrix() const {
        return stored([&](int i, int j) { return product(i, j); }, Element::f64, rows, cols, Layout::rows);
    }
};

template <class F>
Given<F> given(int rows, int cols, int depth, const std::function<double(bool of_a, int row, int k)>& entry) {
    Given<F> made{rows, cols, depth, {}, {}};
    for (int i = 0; i < rows; ++i)
        for (int k = 0; k < depth; ++k) made.a.push_back(static_cast<F>(entry(true, i, k)));
    for (int j = 0; j < cols; ++j)
        for (int k = 0; k < depth; ++k) made.b.push_back(static_cast<F>(entry(false, j, k)));
    return made;
}

template <class F>
Given<F> normal(Random& random, int rows, int cols, int depth) {
    return given<F>(rows, cols, depth,
                    [&](bool, int, int) { return std::normal_distribution<double>()(random); });
}

constexpr FactoredOptions kPanels{0, 1};  // nothing is made whole, 64 rows at a time

template <class F>
SolveStats check_solved(const Given<F>& g, const std::string& context, SolveOptions options = {},
                        FactoredOptions how = kPanels) {
    Room room(g.rows, g.cols);
    const SolveOutcome outcome = solve_factored_on(g.view(), room.view(), options, how, nullptr);
    CHECK_WITH(outcome.status == Status::optimal, context);
    CHECK(emulation::live_allocations() == 0);
    check_answer(g.as_matrix(), options.maximize, room, context);

    Options on_cpu;
    on_cpu.maximize = options.maximize;
    const FactorView<F> a{g.a.data(), g.rows, g.depth}, b{g.b.data(), g.cols, g.depth};
    long double want = 0.0, scale = 0.0;
    for (const double x : rebasin_fast::solve_factored(a, b, on_cpu).products)
        want += x, scale += std::abs(x);
    CHECK_WITH(std::abs(room.cost - want) <= 1e-13 * scale, context);
    return outcome.stats;
}

template <class F>
void check_every_way(const Given<F>& g, const std::string& context) {
    SolveOptions options;
    check_solved(g, context, options);
    options.few_bidders = 4;
    options.paths_on_host = false;
    options.maximize = true;
    check_solved(g, context + ", many bidders, paths on the device", options);
}

template <class F>
void check_products(Random& random, int rows, int cols, int depth) {
    const Given<F> g = normal<F>(random, rows, cols, depth);
    std::vector<double> made(std::size_t(rows * cols), std::nan(""));
    launch_multiply(g.view(), Wanted{nullptr, nullptr, 0, 1, rows}, made.data(), rows, nullptr);
    bool same = true;
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < cols; ++j) same &= made[std::size_t(i * cols + j)] == g.product(i, j);
    CHECK(same);

    const std::vector<int> list = {rows - 1, 0, rows / 2};
    const int two = 2;
    std::vector<double> some(std::size_t(3 * cols), -7.0);
    launch_multiply(g.view(), Wanted{list.data(), &two, 0, 1, 0}, some.data(), 3, nullptr);
    for (int j = 0; j < cols; ++j) {
        CHECK(some[std::size_t(j)] == g.product(rows - 1, j));
        CHECK(some[std::size_t(cols + j)] == g.product(0, j));
        CHECK(some[std::size_t(2 * cols + j)] == -7.0);  // the device was told of two
    }
}

TEST_CASE(products, "every product has the bits of the plain sum, whatever the tiles") {
    Random random(1);
    for (const auto& [rows, cols, depth] :
         {std::tuple{1, 1, 1}, {3, 5, 0}, {64, 64, 16}, {65, 130, 17}, {70, 20, 40}}) {
        check_products<float>(random, rows, cols, depth);
        check_products<double>(random, rows, cols, depth);
    }
}

TEST_CASE(magnitudes, "the largest magnitude, infinities and NaN") {
    Random random(2);
    for (const int count : {0, 1, 31, 5000}) {
        std::vector<float> x(static_cast<std::size_t>(count));
        double largest = 0.0;
        for (float& value : x) {
            value = static_cast<float>(unit(random) - 0.7);
            largest = std::max(largest, std::abs(static_cast<double>(value)));
        }
        CHECK(largest_of<float>(x.data(), count, nullptr) == largest);
        if (count == 0) continue;
        x[std::size_t(count / 2)] = -std::numeric_limits<float>::infinity();
        CHECK(largest_of<float>(x.data(), count, nullptr) == kInf);
        x[std::size_t(count / 3)] = std::nanf("");
        CHECK(std::isnan(largest_of<float>(x.data(), count, nullptr)));
    }
    const std::vector<double> wide = {1e300, -2e300, 0.0};
    CHECK(largest_of<double>(wide.data(), 3, nullptr) == 2e300);
}

TEST_CASE(shapes, "square, wide and tall, floats and doubles, any depth") {
    Random random(3);
    for (const auto& [rows, cols] : {std::pair{1, 1}, {40, 40}, {20, 90}, {90, 20}})
        for (const int depth : {0, 1, 3, 20}) {
            const std::string name =
                std::to_string(rows) + " x " + std::to_string(cols) + " depth " + std::to_string(depth);
            check_every_way(normal<float>(random, rows, cols, depth), name + " float");
            check_every_way(normal<double>(random, rows, cols, depth), name + " double");
        }
}

TEST_CASE(panels, "more rows than are at hand at once: unrelated, planted, ties, rank one") {
    Random random(4);
    constexpr int n = 150;
    std::int64_t augmentations = 0;
    for (const int depth : {2, 3, 24}) {
        const auto stats = check_solved(normal<float>(random, n, n, depth), "unrelated");
        augmentations += stats.augmentations;
    }
    CHECK(augmentations > 0);
    check_solved(given<float>(n, n, 1, [](bool, int i, int) { return i + 1.0; }), "Machol-Wien");
    check_solved(given<float>(n, n, 3, [&](bool, int, int) { return std::round(2 * unit(random)); }), "ties");
    check_solved(normal<float>(random, 100, n, 6), "wide");

    Given<float> planted = normal<float>(random, n, n, 8);
    for (int i = 0; i < n; ++i)
        for (int k = 0; k < 8; ++k)
            planted.b[std::size_t((7 * i + 3) % n * 8 + k)] = planted.a[std::size_t(i * 8 + k)];
    SolveOptions most;
    most.maximize = true;
    check_solved(planted, "planted", most);
}

TEST_CASE(waiting, "more rows wait to be read again than are at hand at once") {
    Random random(5);
    constexpr int n = 200;
    SolveOptions options;
    options.few_bidders = 8;
    const SolveStats stats = check_solved(normal<double>(random, n, n, 4), "many wait", options);
    CHECK(stats.row_scans > 3 * n);
}

TEST_CASE(small, "a small problem is solved as a matrix, and by one block") {
    Random random(6);
    const SolveStats stats = check_solved(normal<float>(random, 30, 40, 5), "made", {}, {});
    CHECK(stats.by_a_block);
}

TEST_CASE(same_answer, "the same answer whatever the order in which threads run, and whatever the panel") {
    Random random(7);
    const Given<float> g = normal<float>(random, 130, 130, 3);
    std::vector<std::int64_t> first;
    for (int seed = 0; seed < 4; ++seed) {
        emulation::settings().seed = static_cast<std::uint64_t>(91 * seed);
        emulation::settings().blocks_together = 1 + seed % 3;
        Room room(g.rows, g.cols);
        const FactoredOptions how{0, seed % 2 == 0 ? 1 : 1 << 20};
        CHECK(solve_factored_on(g.view(), room.view(), {}, how, nullptr).status == Status::optimal);
        if (seed == 0) first = room.col_ind;
        CHECK(room.col_ind == first);
    }
    emulation::settings().blocks_together = 2;
}

TEST_CASE(warm, "a start from its own prices needs hardly a bid") {
    Random random(8);
    const Given<float> g = normal<float>(random, 130, 130, 4);
    Room room(g.rows, g.cols);
    const SolveStats cold = solve_factored_on(g.view(), room.view(), {}, kPanels, nullptr).stats;
    const std::vector<double> prices = room.v;
    SolveOptions options;
    options.col_duals = prices.data();
    const SolveStats again = check_solved(g, "warm", options);
    CHECK(4 * again.rounds < cold.rounds);
}

TEST_CASE(out_of_memory, "no memory at any step: an error, and nothing is kept") {
    Random random(9);
    const Given<double> g = normal<double>(random, 20, 20, 2);
    const int steps = allocations_refused([&] {
        Room room(g.rows, g.cols);
        solve_factored_on(g.view(), room.view(), {}, kPanels, nullptr);
    });
    CHECK(steps > 10);
}

}  // namespace
}  // namespace rebasin_fast::cuda

int main() {
    return rebasin_fast::testing::run_all();
}
