// The solver for one large problem, on the emulated device: every family against the CPU's answer, with the
// last rows matched on the host and on the device.
#include <string>
#include <vector>

#include "cuda/solver.cuh"
#include "tests/cuda_emulation/exhaust.hpp"
#include "tests/cuda_emulation/families.hpp"

namespace rebasin_fast::cuda {
namespace {

using namespace testing;

bool has_infinities(const Family& family) {
    return std::string(family.name) == "half forbidden" || std::string(family.name) == "one permutation";
}

SolveOutcome solve_here(const Stored& s, Room* room, SolveOptions options) {
    options.for_a_block = 0;
    return solve_on(s.view, room->view(), options, nullptr);
}

SolveStats check_solved(const Stored& s, const std::string& context, SolveOptions options) {
    Room room(s.rows, s.cols);
    const SolveOutcome outcome = solve_here(s, &room, options);
    CHECK_WITH(outcome.status == Status::optimal, context);
    if (outcome.status == Status::optimal) check_answer(s, options.maximize, room, context);
    CHECK(emulation::live_allocations() == 0);
    return outcome.stats;
}

// Every way: few bidders at one block or all over the device, paths on the host or on the device.
void check_every_way(const Stored& s, const std::string& context) {
    SolveOptions options;
    check_solved(s, context, options);
    options.few_bidders = 4;
    options.paths_on_host = false;
    check_solved(s, context + ", many bidders, paths on the device", options);
}

std::string name_of(const Family& family, int rows, int cols) {
    return std::string(family.name) + " " + std::to_string(rows) + " x " + std::to_string(cols);
}

TEST_CASE(every_family, "every family, square, wide and tall") {
    Random random(3);
    for (const Family& family : families())
        for (const auto& [rows, cols] : {std::pair{1, 1}, {32, 32}, {20, 70}, {70, 20}}) {
            if (has_infinities(family) && rows > cols) continue;
            const Stored s = stored(family.make(random, rows, cols), Element::f32, rows, cols, Layout::rows);
            check_every_way(s, name_of(family, rows, cols));
        }
}

TEST_CASE(every_type, "every element type and layout, both signs") {
    Random random(4);
    for (const Element type : {Element::f32, Element::f64, Element::f16, Element::bf16, Element::i8,
                               Element::u8, Element::i16, Element::i32}) {
        const Layout layout = static_cast<Layout>(static_cast<int>(type) % 3);
        const Family& family = families()[type == Element::u8 ? 2 : integral(type) ? 1 : 6];
        for (const auto& [rows, cols] : {std::pair{40, 40}, {50, 30}}) {
            const Stored s = stored(family.make(random, rows, cols), type, rows, cols, layout);
            SolveOptions options;
            options.maximize = static_cast<int>(type) % 2 == 0;
            check_solved(s, name_of(family, rows, cols) + " type " + std::to_string(static_cast<int>(type)),
                         options);
        }
    }
}

TEST_CASE(large, "lists that do not hold a whole row: bidding, scaling, rows read again, paths") {
    Random random(5);
    constexpr int n = 128;
    std::int64_t rounds = 0, rescans = 0, augmentations = 0;
    for (const int family : {0, 1, 4, 6, 9}) {
        const Family& f = families()[static_cast<std::size_t>(family)];
        const Stored s = stored(f.make(random, n, n), Element::f32, n, n, Layout::rows);
        SolveOptions options;
        const SolveStats stats = check_solved(s, name_of(f, n, n), options);
        rounds += stats.rounds;
        rescans += stats.row_scans - 3 * n;
        augmentations += stats.augmentations;
    }
    CHECK(rounds > 100);
    CHECK(rescans > 0);
    CHECK(augmentations > 0);
}

TEST_CASE(reads,
          "rows that the host asks for come one by one, then all at once if there is room, or it gives up") {
    Random random(13);  // of these, rows are asked for in vain twice
    constexpr int n = 128;
    const std::vector<double> x = draws(random, n), y = draws(random, n);
    const Entry distances = [&](int i, int j) { return std::abs(x[std::size_t(i)] - y[std::size_t(j)]); };
    const Stored s = stored(distances, Element::f64, n, n, Layout::rows);
    for (const std::int64_t most_bytes : {std::int64_t{1} << 20, std::int64_t{0}})
        for (const std::int64_t first_reads : {std::int64_t{1}, std::int64_t{0}}) {
            SolveOptions options;
            options.first_reads = first_reads;
            options.most_host_bytes = most_bytes;
            check_solved(s, "distances on a line, few reads", options);
        }
}

TEST_CASE(same_answer, "the same answer whatever the order in which threads run") {
    Random random(6);
    for (const int family : {1, 2, 4}) {
        const Family& f = families()[static_cast<std::size_t>(family)];
        const Stored s = stored(f.make(random, 60, 60), Element::f32, 60, 60, Layout::rows);
        std::vector<std::int64_t> first;
        for (int seed = 0; seed < 6; ++seed) {
            emulation::settings().seed = static_cast<std::uint64_t>(77 * seed);
            emulation::settings().blocks_together = 1 + seed % 4;
            Room room(60, 60);
            CHECK(solve_here(s, &room, {}).status == Status::optimal);
            if (seed == 0) first = room.col_ind;
            CHECK_WITH(room.col_ind == first, f.name);
        }
    }
    emulation::settings().blocks_together = 2;
}

TEST_CASE(warm, "a start from given prices, good and bad: exact, and a good one is quicker") {
    Random random(8);
    constexpr int n = 72;
    for (const Layout layout : {Layout::rows, Layout::columns}) {
        const Stored s = stored(families()[0].make(random, n, n), Element::f64, n, n, layout);
        Room room(n, n);
        const SolveStats cold = solve_here(s, &room, {}).stats;
        std::vector<double> prices = room.v;
        SolveOptions options;
        options.col_duals = prices.data();
        const SolveStats again = check_solved(s, "from its own duals", options);
        CHECK(2 * again.rounds < cold.rounds);
        for (double& v : prices) v = 10 * unit(random) - 5;
        check_solved(s, "from bad duals", options);
    }
    const Stored heavy = stored(families()[9].make(random, n, n), Element::f64, n, n, Layout::rows);
    Room room(n, n);
    solve_here(heavy, &room, {});
    SolveOptions options;
    options.col_duals = room.v.data();
    check_solved(heavy, "heavy tails need nobody's duals", options);
}

TEST_CASE(starts, "rank-one, sorted and heavy-tailed costs: the start spares the work, with integers too") {
    Random random(13);
    constexpr int n = 128;
    std::vector<double> x = draws(random, n), y = draws(random, n);
    const Entry distances = [&](int i, int j) { return std::abs(x[std::size_t(i)] - y[std::size_t(j)]); };
    const Entry products = [](int i, int j) { return (i + 1.0) * (j + 1.0); };
    for (const Layout layout : {Layout::rows, Layout::columns})
        for (const Element type : {Element::f32, Element::f64, Element::i32}) {
            const SolveStats stats = check_solved(stored(products, type, n, n, layout), "Machol-Wien", {});
            CHECK_WITH(stats.rounds < 32 && stats.augmentations == 0, std::to_string(stats.rounds));
        }
    check_solved(stored(distances, Element::f64, n, n, Layout::rows), "distances on a line", {});
    const Stored heavy = stored(families()[9].make(random, n, n), Element::f32, n, n, Layout::rows);
    check_solved(heavy, "heavy tails", {});
}

// What column minima of an (n, n) matrix are worth, by the rule the CPU has, and how many rows in 64 hold
// one.
std::pair<Minima, int> minima_of(const Stored& s) {
    const auto n = static_cast<std::size_t>(s.cols);
    std::vector<double> minima(n, kInf), sample(n);
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < n; ++j) minima[j] = std::min(minima[j], s.values[i * n + j]);
    for (std::int64_t k = 0; k < s.cols; ++k)
        sample[std::size_t(k)] = s.values[static_cast<std::size_t>(scattered_row(k, s.rows) * s.cols +
                                                                   scattered_column(k, s.cols))];
    std::vector<unsigned long long> keys;
    for (const double x : minima) keys.push_back(x < kInf ? key_of(x) : kNoBid);
    int holders = 0;
    const Costs<double> costs{s.values.data(), s.cols, 1.0, s.rows, s.cols};
    launch(count_holders<double>, {3, 64}, nullptr, costs, keys.data(), static_cast<int>(kRowsAsked),
           &holders);
    return {look_at_minima(std::move(minima), sample), holders};
}

TEST_CASE(
    minima,
    "minima that are noise, useful, or useful where rows hold them, are told apart, and all is solved") {
    Random random(14);
    constexpr int n = 128;
    const std::vector<double> x = draws(random, n);
    const Entry uniform = families()[0].make(random, n, n);
    const Entry heavy = families()[9].make(random, n, n);
    const Entry normal = [&](int, int) { return std::normal_distribution<double>()(random); };
    const Entry planted = [&](int i, int j) {
        return i == j ? std::abs(x[std::size_t(j)]) / 2 : 5 + unit(random);
    };
    struct {
        Entry entry;
        Minima want;
        bool held;
    } const all[] = {{uniform, Minima::useful, false},
                     {heavy, Minima::noise, false},
                     {normal, Minima::spread, false},
                     {planted, Minima::spread, true}};
    for (const auto& [entry, want, held] : all) {
        const Stored s = stored(entry, Element::f64, n, n, Layout::rows);
        const auto [found, holders] = minima_of(s);
        CHECK(found == want);
        CHECK(nearly_all_hold(holders) == held);
        check_solved(s, "minima", {});
    }
}

TEST_CASE(bad_entries, "NaN, infinities of the wrong sign, infeasible problems, huge numbers") {
    Random random(9);
    const auto status_of = [&](double x, int from, bool maximize, Element type) {
        const Entry entry = [&, x, from](int i, int j) { return i == 5 && j >= from ? x : unit(random); };
        const Stored s = stored(entry, type, 30, 30, Layout::rows);
        Room room(30, 30);
        SolveOptions options;
        options.maximize = maximize;
        const SolveOutcome outcome = solve_here(s, &room, options);
        CHECK(outcome.status == Status::optimal || room.col_ind[0] == -1);
        CHECK(emulation::live_allocations() == 0);
        return outcome.status;
    };
    for (const Element type : {Element::f32, Element::f64}) {
        CHECK(status_of(std::nan(""), 29, false, type) == Status::invalid_entry);
        CHECK(status_of(-kInf, 29, false, type) == Status::invalid_entry);
        CHECK(status_of(kInf, 29, true, type) == Status::invalid_entry);
        CHECK(status_of(kInf, 0, false, type) == Status::infeasible);
        CHECK(status_of(kInf, 29, false, type) == Status::optimal);
        CHECK(status_of(-kInf, 1, true, type) == Status::optimal);
    }
    // Two rows with one and the same column left between them.
    const Entry blocked = [&](int i, int j) { return i < 2 && j > 0 ? kInf : unit(random); };
    const Stored s = stored(blocked, Element::f32, 24, 24, Layout::rows);
    for (const bool on_host : {false, true}) {
        Room room(24, 24);
        SolveOptions options;
        options.paths_on_host = on_host;
        CHECK(solve_here(s, &room, options).status == Status::infeasible);
    }
    const Entry huge = [&](int, int) { return 1.7e308 * (unit(random) - 0.5); };
    check_every_way(stored(huge, Element::f64, 24, 24, Layout::rows), "huge");
}

TEST_CASE(a_block, "a problem of few rows goes to one block") {
    Random random(10);
    const Stored s = stored(families()[0].make(random, 20, 30), Element::f32, 20, 30, Layout::rows);
    Room room(20, 30);
    const SolveOutcome outcome = solve_on(s.view, room.view(), {}, nullptr);
    CHECK(outcome.status == Status::optimal && outcome.stats.by_a_block);
    check_answer(s, false, room, "by a block");
}

class StopAt final : public Interrupt {
  public:
    explicit StopAt(int asked) : left_(asked) {}
    bool requested() override { return --left_ <= 0; }

  private:
    int left_;
};

TEST_CASE(stops, "an interrupt ends it wherever it comes, and nothing is kept") {
    Random random(11);
    const Stored s = stored(families()[6].make(random, 72, 72), Element::f32, 72, 72, Layout::rows);
    for (const int asked : {1, 2, 4, 8}) {
        StopAt stop(asked);
        Room room(72, 72);
        SolveOptions options;
        options.interrupt = &stop;
        CHECK(solve_here(s, &room, options).status == Status::interrupted);
        CHECK(emulation::live_allocations() == 0);
    }
}

TEST_CASE(out_of_memory, "no memory at any step: an error, and nothing is kept") {
    Random random(12);
    const Stored s = stored(families()[0].make(random, 16, 16), Element::f16, 16, 16, Layout::rows);
    const int steps = allocations_refused([&] {
        Room room(16, 16);
        solve_here(s, &room, {});
    });
    CHECK(steps > 10);
}

}  // namespace
}  // namespace rebasin_fast::cuda

int main() {
    return rebasin_fast::testing::run_all();
}
