// Inner products on every instruction set: the same float64 bits from all kernels, bounds on the quick sums
// that hold, and answers equal to those for the matrix of products.
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "lap/factored.hpp"
#include "lap/simd/kernels.hpp"
#include "tests/check.hpp"

namespace rebasin_fast {
namespace {

using Random = std::mt19937_64;

// Ends where its memory ends, so that the sanitizer sees any read past it.
template <class F>
struct Factor {
    std::int64_t rows, depth;
    std::vector<F> data;

    template <class Draw>
    Factor(std::int64_t n, std::int64_t d, Draw draw) : rows(n), depth(d) {
        for (std::int64_t k = 0; k < n * d; ++k) data.push_back(static_cast<F>(draw()));
    }
    FactorView<F> view() const { return {data.data(), rows, depth}; }
};

// The definition.
template <class F>
double product(const FactorView<F>& a, std::int64_t i, const FactorView<F>& b, std::int64_t j) {
    volatile double sum = 0.0;
    for (std::int64_t k = 0; k < a.depth; ++k) {
        const volatile double term = static_cast<double>(a.row(i)[k]) * static_cast<double>(b.row(j)[k]);
        sum = sum + term;
    }
    return sum;
}

template <class F>
void check_products(std::int64_t n, std::int64_t m, std::int64_t d, double scale, const std::string& where) {
    Random random(static_cast<std::uint64_t>(n + 7 * m + 31 * d));
    std::normal_distribution<double> normal;
    const Factor<F> a(n, d, [&] { return scale * normal(random); });
    const Factor<F> b(m, d, [&] { return normal(random); });
    Crew crew(2);
    const FactoredRows<F> source(a.view(), b.view(), false, &crew);
    CHECK_WITH(source.is_valid(), where);
    typename FactoredRows<F>::Reader exact(source);
    typename FactoredRows<F>::template Panel<F> quick(source);
    for (const std::int64_t count : {std::int64_t{1}, n}) {
        std::int64_t stride, quick_stride;
        const double* rows = exact.rows(n - count, count, &stride);
        const F* sums = quick.rows(n - count, count, &quick_stride);
        for (std::int64_t k = 0; k < count; ++k)
            for (std::int64_t j = 0; j < m; ++j) {
                const std::int64_t i = n - count + k;
                const double want = product(a.view(), i, b.view(), j);
                CHECK_WITH(rows[k * stride + j] == want, where);
                CHECK_WITH(source.at(i, j) == want, where);
                CHECK_WITH(
                    std::abs(static_cast<double>(sums[k * quick_stride + j]) - want) <= source.error(i),
                    where);
            }
    }
}

template <class Body>
void on_every_isa(Body body) {
    const std::string before = simd::active_isa();
    for (const std::string& isa : simd::available_isas()) {
        CHECK(simd::force_isa(isa));
        body(isa);
    }
    simd::force_isa(before);
}

TEST_CASE(same_bits, "every kernel gives the products as defined, and quick sums within their bound") {
    on_every_isa([](const std::string& isa) {
        for (const std::int64_t d : {0, 1, 5, 64})
            for (const std::int64_t n : {1, 3, 8, 19})
                for (const std::int64_t m : {19, 32, 55, 129}) {
                    check_products<float>(n, m, d, 1.0, isa);
                    check_products<double>(n, m, d, 1.0, isa);
                }
        check_products<float>(9, 40, 30, 1e-42, isa);
        check_products<float>(9, 40, 30, 1e30, isa);
    });
}

template <class F>
void check_answer(std::int64_t n, std::int64_t m, bool whole, const std::string& where) {
    Random random(static_cast<std::uint64_t>(n * m));
    std::normal_distribution<double> normal;
    const auto draw = [&] { return whole ? std::round(normal(random)) : normal(random); };
    const Factor<F> a(n, 6, draw), b(m, 6, draw);
    std::vector<double> cost;
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < m; ++j) cost.push_back(product(a.view(), i, b.view(), j));
    const MatrixView matrix{cost.data(), ElementType::f64, n, m, m, 1};
    Options options;
    options.with_duals = true;
    for (const bool maximize : {false, true}) {
        options.maximize = maximize;
        const FactoredResult found = solve_factored(a.view(), b.view(), options);
        const Result& result = found.result;
        CHECK_WITH(result.status == Status::optimal, where);
        double want = 0.0, scale = 0.0;
        const Result dense = solve(matrix, options);
        for (std::size_t k = 0; k < dense.row_ind.size(); ++k) {
            want += cost[static_cast<std::size_t>(dense.row_ind[k] * m + dense.col_ind[k])];
            const double cell = cost[static_cast<std::size_t>(result.row_ind[k] * m + result.col_ind[k])];
            CHECK_WITH(found.products[k] == cell, where);
            scale += std::abs(cell);
        }
        double sum = 0.0;
        for (const double x : found.products) sum += x;
        CHECK_WITH(std::abs(sum - want) <= 1e-12 * scale, where);
        const Proof proof = prove(matrix, maximize, result.row_ind, result.col_ind, result.duals.row.data(),
                                  result.duals.col.data());
        CHECK_WITH(proof.violation <= 1e-14 * proof.scale && proof.gap <= 1e-14 * proof.scale, where);
    }
}

TEST_CASE(equal_to_matrix, "answers and proofs are those for the matrix of products") {
    on_every_isa([](const std::string& isa) {
        for (const bool whole : {false, true}) {
            check_answer<float>(20, 31, whole, isa);
            check_answer<float>(530, 530, whole, isa);
            check_answer<float>(700, 450, whole, isa);
            check_answer<double>(450, 700, whole, isa);
            check_answer<double>(530, 530, whole, isa);
        }
    });
}

TEST_CASE(refused, "factors that are no numbers, or too large, are invalid") {
    for (const double bad : {std::nan(""), HUGE_VAL, 1e200}) {
        Factor<double> a(600, 3, [] { return 1.0; });
        const Factor<double> b(600, 3, [] { return 1e150; });
        a.data[1000] = bad;
        CHECK(solve_factored(a.view(), b.view(), {}).result.status == Status::invalid_entry);
    }
    const Factor<float> a(600, 3, [] { return 1e20; });
    CHECK(solve_factored(a.view(), a.view(), {}).result.status == Status::invalid_entry);
}

class Always final : public Interrupt {
  public:
    bool requested() override { return true; }
};

TEST_CASE(interrupted, "a solve can be stopped") {
    Random random(1);
    std::normal_distribution<double> normal;
    const Factor<float> a(1000, 4, [&] { return normal(random); });
    Always always;
    Options options;
    options.interrupt = &always;
    CHECK(solve_factored(a.view(), a.view(), options).result.status == Status::interrupted);
}

}  // namespace
}  // namespace rebasin_fast

int main() {
    return rebasin_fast::testing::run_all();
}
