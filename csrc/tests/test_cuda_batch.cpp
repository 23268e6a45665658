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
