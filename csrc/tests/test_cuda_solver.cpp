// The solver for one large problem, on the emulated device: every family against the CPU's answer, with the
// last rows matched on the host and on the device.
#include <string>
#include <vector>

#include "cuda/solver.cuh"
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

void check_solved(const Stored& s, const std::string& context, SolveOptions options = {}) {
    for (const bool on_host : {false, true}) {
        Room room(s.rows, s.cols);
        options.paths_on_host = on_host;
        const SolveOutcome outcome = solve_here(s, &room, options);
        CHECK_WITH(outcome.status == Status::optimal, context);
        if (outcome.status == Status::optimal) check_answer(s, options.maximize, room, context);
        CHECK(emulation::live_allocations() == 0);
    }
}

std::string name_of(const Family& family, int rows, int cols) {
    return std::string(family.name) + " " + std::to_string(rows) + " x " + std::to_string(cols);
}

TEST_CASE(every_family, "every family, square, wide and tall") {
    Random random(3);
    for (const Family& family : families())
        for (const auto& [rows, cols] : {std::pair{1, 1}, {40, 40}, {96, 96}, {20, 80}, {80, 20}}) {
            if (has_infinities(family) && rows > cols) continue;
            const Stored s = stored(family.make(random, rows, cols), Element::f32, rows, cols, Layout::rows);
            check_solved(s, name_of(family, rows, cols));
        }
}

}  // namespace
}  // namespace rebasin_fast::cuda

int main() {
    return rebasin_fast::testing::run_all();
}
