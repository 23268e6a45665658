// Batches against single solves: any number of threads, shapes and types mixed, failures kept apart,
// interruption.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "lap/batch.hpp"
#include "tests/check.hpp"

namespace rebasin_fast {
namespace {

// Problems of one element type, each in memory of its own length.
template <class T>
struct Problems {
    ElementType type;
    std::vector<std::vector<T>> data;
    std::vector<MatrixView> views;

    void add(std::int64_t rows, std::int64_t cols, std::mt19937_64& random) {
        std::vector<T>& entries = data.emplace_back(static_cast<std::size_t>(rows * cols));
        for (T& x : entries) x = static_cast<T>(random() % 1009);
        views.push_back({entries.data(), type, rows, cols, cols, 1});
    }
};

// The memory an answer is written to, exactly as long as it has to be.
struct Memory {
    std::vector<std::int64_t> row_ind, col_ind, cost, row_duals, col_duals;
    std::vector<double> gap;

    explicit Memory(const std::vector<MatrixView>& costs) : cost(costs.size()), gap(costs.size()) {
        for (const MatrixView& c : costs) {
            row_ind.resize(row_ind.size() + static_cast<std::size_t>(std::min(c.rows, c.cols)));
            row_duals.resize(row_duals.size() + static_cast<std::size_t>(c.rows));
            col_duals.resize(col_duals.size() + static_cast<std::size_t>(c.cols));
        }
        col_ind.resize(row_ind.size());
    }
    BatchAnswer answer() {
        return {row_ind.data(), col_ind.data(), cost.data(), row_duals.data(), col_duals.data(), gap.data()};
    }
    bool operator==(const Memory&) const = default;
};

std::vector<MatrixView> mixed(Problems<float>& f, Problems<std::int64_t>& i) {
    std::mt19937_64 random(1);
    for (const auto& [n, m] : {std::pair<std::int64_t, std::int64_t>{5, 5},
                               {0, 3},
                               {40, 70},
                               {150, 150},
                               {1, 1},
                               {70, 40},
                               {300, 10},
                               {129, 129}}) {
        f.add(n, m, random);
        i.add(n, m, random);
    }
    std::vector<MatrixView> all = f.views;
    all.insert(all.end(), i.views.begin(), i.views.end());
    return all;
}

template <class Dual>
bool cells_equal(const std::vector<Dual>& want, const std::int64_t* cells) {
    return want.empty() || std::memcmp(want.data(), cells, 8 * want.size()) == 0;
}

void check_as_single(const std::vector<MatrixView>& costs, const Memory& got, Options options) {
    const std::int64_t *rows = got.row_ind.data(), *cols = got.col_ind.data();
    const std::int64_t *u = got.row_duals.data(), *v = got.col_duals.data();
    options.threads = 1;
    for (const MatrixView& cost : costs) {
        Result want = solve(cost, options);
        CHECK(std::equal(want.row_ind.begin(), want.row_ind.end(), rows));
        CHECK(std::equal(want.col_ind.begin(), want.col_ind.end(), cols));
        if (has_integer_duals(cost.type)) {
            const auto to_integers = [](const std::vector<double>& duals) {
                return std::vector<std::int64_t>(duals.begin(), duals.end());
            };
            CHECK(cells_equal(to_integers(want.duals.row), u) && cells_equal(to_integers(want.duals.col), v));
            const Proof proof = prove(cost, options.maximize, want.row_ind, want.col_ind, u, v);
            CHECK(proof.gap == 0 && proof.violation == 0);
        } else {
            CHECK(cells_equal(want.duals.row, u) && cells_equal(want.duals.col, v));
        }
        rows += want.row_ind.size(), cols += want.col_ind.size();
        u += cost.rows, v += cost.cols;
    }
}

TEST_CASE(as_single, "a batch gives what single solves give, on any number of threads") {
    Problems<float> floats{ElementType::f32, {}, {}};
    Problems<std::int64_t> integers{ElementType::i64, {}, {}};
    const std::vector<MatrixView> costs = mixed(floats, integers);
    for (const bool maximize : {false, true}) {
        Options options;
        options.maximize = maximize;
        options.with_duals = true;
        Memory first(costs);
        for (const int threads : {1, 2, 3, 8, 40}) {
            Memory memory(costs);
            options.threads = threads;
            for (const BatchStatus& found : solve_batch(costs, options, memory.answer()))
                CHECK(found.status == Status::optimal && !found.cost_overflow && !found.duals_overflow);
            if (threads == 1) {
                check_as_single(costs, memory, options);
                first = memory;
            }
            CHECK_WITH(memory == first, std::to_string(threads) + " threads");
        }
    }
}

TEST_CASE(failures, "a problem that fails leaves the others alone") {
    std::mt19937_64 random(2);
    Problems<float> problems{ElementType::f32, {}, {}};
    for (int b = 0; b < 60; ++b) problems.add(70, 70, random);
    problems.data[7][100] = std::numeric_limits<float>::quiet_NaN();
    std::fill_n(problems.data[50].begin(), 70, std::numeric_limits<float>::infinity());
    for (const int threads : {1, 4}) {
        Memory memory(problems.views);
        Options options;
        options.threads = threads;
        const auto found = solve_batch(problems.views, options, memory.answer());
        for (std::size_t b = 0; b < found.size(); ++b)
            CHECK(found[b].status == (b == 7    ? Status::invalid_entry
                                      : b == 50 ? Status::infeasible
                                                : Status::optimal));
    }
}

TEST_CASE(overflow, "sums and duals beyond 64 bits are told") {
    const std::uint64_t high = std::numeric_limits<std::uint64_t>::max();
    const std::vector<std::uint64_t> data{0, high, high, 0, 1, 2, 3, 4};
    const std::vector<MatrixView> costs{{data.data(), ElementType::u64, 2, 2, 2, 1},
                                        {data.data() + 4, ElementType::u64, 2, 2, 2, 1}};
    Memory memory(costs);
    Options options;
    options.maximize = true;
    options.with_duals = true;
    const auto found = solve_batch(costs, options, memory.answer());
    CHECK(found[0].status == Status::optimal && found[0].cost_overflow && found[0].duals_overflow);
    CHECK(found[1].status == Status::optimal && !found[1].cost_overflow && !found[1].duals_overflow);
    CHECK(memory.cost[1] == 5);
}

TEST_CASE(sums, "sums of floats lose nothing to cancellation") {
    const std::vector<double> data{1e16, 1e300, 1e300, 1e300, 1.0, 1e300, 1e300, 1e300, -1e16};
    const std::vector<MatrixView> costs{{data.data(), ElementType::f64, 3, 3, 3, 1}};
    Memory memory(costs);
    solve_batch(costs, {}, memory.answer());
    double sum = 0.0;
    std::memcpy(&sum, memory.cost.data(), sizeof sum);
    CHECK(sum == 1.0);
}

class AfterSome final : public Interrupt {
  public:
    explicit AfterSome(int questions) : left_(questions), asker_(std::this_thread::get_id()) {}
    bool requested() override {
        CHECK(std::this_thread::get_id() == asker_);
        return left_-- <= 0;
    }

  private:
    int left_;
    const std::thread::id asker_;
};

TEST_CASE(interruption, "only the caller is asked, and what is left is interrupted") {
    std::mt19937_64 random(3);
    Problems<float> problems{ElementType::f32, {}, {}};
    for (int b = 0; b < 200; ++b) problems.add(60, 60, random);
    for (const int threads : {1, 4})
        for (const int questions : {0, 3, 1000000}) {
            Memory memory(problems.views);
            AfterSome interrupt(questions);
            Options options;
            options.threads = threads;
            options.interrupt = &interrupt;
            const auto found = solve_batch(problems.views, options, memory.answer());
            const auto interrupted = std::count_if(found.begin(), found.end(), [](const BatchStatus& one) {
                return one.status == Status::interrupted;
            });
            if (questions == 1000000) CHECK(interrupted == 0);
            if (questions == 0 && threads == 1) CHECK(interrupted == 200);
            if (questions == 3 && threads == 1) CHECK(interrupted == 197);
        }
}

TEST_CASE(empty, "no problems") {
    CHECK(solve_batch({}, {}, {}).empty());
}

}  // namespace
}  // namespace rebasin_fast

int main() {
    return rebasin_fast::testing::run_all();
}
