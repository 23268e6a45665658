// Batches of small problems on the emulated device: every family, element type, layout and size class.
#include <deque>
#include <string>
#include <vector>

#include "cuda/batch.cuh"
#include "tests/cuda_emulation/exhaust.hpp"
#include "tests/cuda_emulation/families.hpp"

namespace rebasin_fast::cuda {
namespace {

using namespace testing;

// Problems, their answers, and what they are called.
struct Batch {
    std::deque<Stored> matrices;
    std::deque<Room> rooms;
    std::vector<std::string> names;
    Random random{7};

    void add(const Family& family, Element type, int rows, int cols, Layout layout) {
        matrices.push_back(stored(family.make(random, rows, cols), type, rows, cols, layout));
        rooms.emplace_back(rows, cols);
        names.push_back(std::string(family.name) + " " + std::to_string(rows) + " x " + std::to_string(cols) +
                        " type " + std::to_string(static_cast<int>(type)));
    }

    std::vector<Outcome> solve(bool maximize) {
        std::vector<BatchProblem> problems;
        for (std::size_t k = 0; k < matrices.size(); ++k)
            problems.push_back({matrices[k].view, rooms[k].view()});
        return solve_batch_on(problems, maximize, nullptr);
    }

    void check(bool maximize) {
        const std::vector<Outcome> outcomes = solve(maximize);
        for (std::size_t k = 0; k < matrices.size(); ++k) {
            CHECK_WITH(outcomes[k] == Outcome::optimal, names[k]);
            if (outcomes[k] == Outcome::optimal) check_answer(matrices[k], maximize, rooms[k], names[k]);
        }
        CHECK(emulation::live_allocations() == 0);
    }
};

bool has_infinities(const Family& family) {
    return std::string(family.name) == "half forbidden" || std::string(family.name) == "one permutation";
}

TEST_CASE(every_family, "every family: square, wide and tall, in one ragged batch") {
    Batch batch;
    for (const Family& family : families())
        for (const auto& [rows, cols] : {std::pair{1, 1}, {2, 2}, {13, 13}, {32, 32}, {9, 21}, {21, 9}}) {
            if (has_infinities(family) && rows > cols) continue;
            batch.add(family, Element::f64, rows, cols, Layout::rows);
        }
    batch.check(false);
}

TEST_CASE(every_type, "every element type and layout, both signs") {
    constexpr Element types[] = {Element::f32, Element::f64, Element::f16, Element::bf16,
                                 Element::i8,  Element::u8,  Element::i16, Element::i32};
    for (const bool maximize : {false, true}) {
        Batch batch;
        for (const Element type : types)
            for (const Layout layout : {Layout::rows, Layout::columns, Layout::backwards}) {
                batch.add(families()[type == Element::u8 ? 2 : 1], type, 17, 17, layout);
                batch.add(families()[integral(type) ? 2 : 6], type, 12, 20, layout);
                batch.add(families()[integral(type) ? 2 : 6], type, 20, 12, layout);
            }
        batch.check(maximize);
    }
}

TEST_CASE(blocks, "problems for a block, in shared memory and beyond it") {
    Batch batch;
    for (const int family : {0, 2, 4, 5, 6}) {
        batch.add(families()[static_cast<std::size_t>(family)], Element::f32, 70, 70, Layout::rows);
        batch.add(families()[static_cast<std::size_t>(family)], Element::f64, 40, 90, Layout::columns);
        batch.add(families()[static_cast<std::size_t>(family)], Element::i16, 100, 20, Layout::rows);
    }
    batch.check(false);
    const std::size_t before = emulation::settings().shared_limit;
    emulation::settings().shared_limit = std::size_t{9} << 10;  // the matrix no longer fits
    batch.check(true);
    batch.add(families()[0], Element::f32, 20, 230, Layout::rows);  // nor does its matching
    batch.check(false);
    emulation::settings().shared_limit = before;
}

TEST_CASE(tall, "more rows than a block has threads") {
    Batch batch;
    batch.add(families()[0], Element::f32, 1100, 3, Layout::rows);
    batch.check(false);
}

TEST_CASE(packing, "a matrix of many tiles is packed, whatever its strides") {
    Random random(13);
    for (const Layout layout : {Layout::columns, Layout::backwards}) {
        const Stored s = stored(families()[0].make(random, 130, 290), Element::f16, 130, 290, layout);
        Buffer<float> packed(130 * 290, nullptr);
        pack(s.view, packed.get(), nullptr);
        const std::vector<float> got = packed.on_host();
        CHECK(std::equal(got.begin(), got.end(), s.values.begin(), s.values.end()));
    }
}

TEST_CASE(same_answer, "the same answer whatever the order in which threads run") {
    Batch batch;
    for (const int family : {1, 2, 4, 5}) {
        batch.add(families()[static_cast<std::size_t>(family)], Element::f32, 30, 30, Layout::rows);
        batch.add(families()[static_cast<std::size_t>(family)], Element::f32, 20, 70, Layout::rows);
    }
    std::vector<std::vector<std::int64_t>> first;
    for (int seed = 0; seed < 8; ++seed) {
        emulation::settings().seed = static_cast<std::uint64_t>(100 + seed);
        batch.solve(false);
        for (std::size_t k = 0; k < batch.rooms.size(); ++k) {
            if (seed == 0) first.push_back(batch.rooms[k].col_ind);
            CHECK_WITH(batch.rooms[k].col_ind == first[k], batch.names[k]);
        }
    }
}

TEST_CASE(identity, "a constant matrix gives the identity") {
    Batch batch;
    batch.add(families()[3], Element::f32, 30, 30, Layout::rows);
    batch.check(false);
    for (std::size_t k = 0; k < 30; ++k) CHECK(batch.rooms[0].col_ind[k] == static_cast<std::int64_t>(k));
}

TEST_CASE(bad_entries, "NaN, infinities of the wrong sign, infeasible problems; the others are solved") {
    const auto with = [](double x, int at) {
        return Family{"bad", [x, at](Random& r, int, int) {
                          return [&r, x, at](int i, int j) { return i == at && j >= at ? x : unit(r); };
                      }};
    };
    for (const Element type : {Element::f32, Element::f64, Element::f16, Element::bf16}) {
        Batch batch;
        batch.add(with(std::nan(""), 8), type, 9, 9, Layout::rows);
        batch.add(with(-kInf, 3), type, 9, 12, Layout::rows);
        batch.add(with(kInf, 0), type, 9, 9, Layout::rows);  // a row all forbidden
        batch.add(families()[0], type, 9, 9, Layout::rows);
        const std::vector<Outcome> found = batch.solve(false);
        CHECK(found[0] == Outcome::invalid_entry || type == Element::f16);
        CHECK(found[1] == Outcome::invalid_entry);
        CHECK(found[2] == Outcome::infeasible);
        CHECK(found[3] == Outcome::optimal);
        check_answer(batch.matrices[3], false, batch.rooms[3], "beside bad ones");
        CHECK(batch.solve(true)[2] == Outcome::invalid_entry);
    }
}

TEST_CASE(huge, "costs whose sums overflow float64") {
    Batch batch;
    batch.add(
        {"huge", [](Random& r, int, int) { return [&r](int, int) { return 1e308 * (unit(r) - 0.5); }; }},
        Element::f64, 16, 16, Layout::rows);
    batch.add(families()[0], Element::f64, 16, 16, Layout::rows);
    batch.check(false);
    batch.check(true);
}

// Problems of one shape one after the other in memory, with a gap, and their answers without one.
struct StackOfProblems {
    std::vector<Stored> problems;
    std::vector<unsigned char> bytes;
    std::vector<std::int64_t> row_ind, col_ind;
    std::vector<double> u, v, cost, gap;
    BatchStack stack;

    StackOfProblems(const std::vector<Entry>& entries, Element type, int rows, int cols) {
        constexpr int between = 5;  // elements
        for (const Entry& entry : entries) {
            problems.push_back(stored(entry, type, rows, cols, Layout::rows));
            const std::vector<unsigned char>& one = problems.back().bytes;
            bytes.insert(bytes.end(), one.begin(), one.end());
            bytes.resize(bytes.size() + between * size_of(type));
        }
        const std::size_t count = entries.size(), n = std::size_t(rows), m = std::size_t(cols);
        row_ind.assign(count * std::min(n, m), -1);
        col_ind = row_ind;
        u.resize(count * n);
        v.resize(count * m);
        cost.resize(count);
        gap.resize(count);
        stack.first.costs = {bytes.data(), type, rows, cols, cols, 1};
        stack.first.answer = {row_ind.data(), col_ind.data(), u.data(), v.data(), cost.data(), gap.data()};
        stack.count = static_cast<std::int64_t>(count);
        stack.elements_apart = std::int64_t{rows} * cols + between;
    }

    Room room(std::size_t k) const {
        const int rows = problems[k].rows, cols = problems[k].cols;
        Room one(rows, cols);
        const auto part = [k](const auto& all, auto* to) {
            const auto first = all.begin() + static_cast<std::ptrdiff_t>(k * to->size());
            std::copy_n(first, to->size(), to->begin());
        };
        part(row_ind, &one.row_ind);
        part(col_ind, &one.col_ind);
        part(u, &one.u);
        part(v, &one.v);
        one.cost = cost[k];
        one.gap = gap[k];
        return one;
    }
};

TEST_CASE(a_stack, "a stack in one launch, square, wide and tall, with and without room for it") {
    Random random(17);
    const auto launches_for = [&](Element type, int rows, int cols, bool maximize) {
        std::vector<Entry> entries;
        for (const int family : {0, 1, 2, 3}) {
            const Family& f = families()[static_cast<std::size_t>(family)];
            entries.push_back(f.make(random, rows, cols));
        }
        StackOfProblems all(entries, type, rows, cols);
        const std::uint64_t before = emulation::launches();
        const std::vector<Outcome> outcomes = solve_stack_on(all.stack, maximize, nullptr);
        CHECK(emulation::live_allocations() == 0);
        for (std::size_t k = 0; k < entries.size(); ++k) {
            CHECK(outcomes[k] == Outcome::optimal);
            check_answer(all.problems[k], maximize, all.room(k), "stacked");
        }
        return emulation::launches() - before;
    };
    for (const Element type : {Element::f32, Element::f64, Element::f16, Element::i32, Element::i8})
        for (const auto& [rows, cols] : {std::pair{20, 20}, {9, 30}, {30, 9}})
            CHECK(launches_for(type, rows, cols, type == Element::f64) == 1);
    const std::size_t before = emulation::settings().shared_limit;
    emulation::settings().shared_limit = std::size_t{9} << 10;
    CHECK(launches_for(Element::f32, 70, 70, false) == 1);   // read where it lies
    CHECK(launches_for(Element::f16, 70, 70, false) > 1);    // which halves are not
    CHECK(launches_for(Element::f32, 20, 230, false) == 1);  // its matching lies in memory
    emulation::settings().shared_limit = before;
}

TEST_CASE(a_bad_stack, "outcomes of a stack: which problem is bad is told, and huge ones are solved") {
    Random random(18);
    const Entry good = families()[0].make(random, 9, 9);
    const auto row_of = [&](double x) {
        return Entry([&, x](int i, int) { return i == 4 ? x : unit(random); });
    };
    StackOfProblems some({good, row_of(std::nan("")), row_of(kInf), good}, Element::f32, 9, 9);
    const std::vector<Outcome> found = solve_stack_on(some.stack, false, nullptr);
    CHECK(found[0] == Outcome::optimal && found[3] == Outcome::optimal);
    CHECK(found[1] == Outcome::invalid_entry && found[2] == Outcome::infeasible);
    check_answer(some.problems[3], false, some.room(3), "beside bad ones");
    CHECK(some.col_ind[2 * 9] == -1);

    const Entry huge = [&](int, int) { return 1e308 * (unit(random) - 0.5); };
    StackOfProblems large({good, huge}, Element::f64, 9, 9);
    for (const Outcome outcome : solve_stack_on(large.stack, false, nullptr))
        CHECK(outcome == Outcome::optimal);
    for (const std::size_t k : {std::size_t{0}, std::size_t{1}})
        check_answer(large.problems[k], false, large.room(k), "huge");
}

TEST_CASE(out_of_memory, "no memory at any step: an error, and nothing is kept") {
    Batch batch;
    batch.add(families()[0], Element::f32, 12, 12, Layout::rows);
    batch.add(families()[0], Element::f64, 12, 12, Layout::rows);
    const int steps = allocations_refused([&] { batch.solve(false); });
    CHECK(steps == 3);
}

}  // namespace
}  // namespace rebasin_fast::cuda

int main() {
    return rebasin_fast::testing::run_all();
}
