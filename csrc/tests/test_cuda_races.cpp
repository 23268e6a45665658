// No two threads of a kernel meet at one place in memory without a barrier, a warp operation or an atomic
// between them, and every access is aligned: all kernels, on problems that lead through every path, watched
// by cuda_emulation/races.cpp. First that what watches sees what it should.
#include <string>
#include <vector>

#include "cuda/factored_solver.cuh"
#include "cuda/panel.cu"
#include "tests/cuda_emulation/families.hpp"

namespace rebasin_fast::cuda {
namespace {

using namespace testing;

constexpr int kThreads = 64;

enum class Between { nothing, warp, barrier };

// out[t] = what thread t ^ flip has written to shared memory.
template <Between between>
__global__ void swap_pairs(int flip, int* out) {
    REBASIN_FAST_SHARED(int, held, kThreads);
    const int t = static_cast<int>(threadIdx.x);
    held[t] = t;
    if constexpr (between == Between::warp) __syncwarp();
    if constexpr (between == Between::barrier) __syncthreads();
    out[t] = held[t ^ flip];
}

// A loop that lacks its second barrier: one round's reading meets the next one's writing.
template <bool both>
__global__ void rotate(int rounds, int* out) {
    REBASIN_FAST_SHARED(int, held, kThreads);
    const int t = static_cast<int>(threadIdx.x);
    int mine = t;
    for (int r = 0; r < rounds; ++r) {
        held[t] = mine;
        __syncthreads();
        mine = held[(t + 1) % kThreads];
        if (both) __syncthreads();
    }
    out[t] = mine;
}

// Every block writes one place; or adds to it, and then reads it or not.
__global__ void write_all(int* at) {
    if (threadIdx.x == 0) *at = 1;
}
template <bool read>
__global__ void add_all(int* at, int* out) {
    atomicAdd(at, 1);
    if (read) out[blockIdx.x * blockDim.x + threadIdx.x] = *at;
}

__global__ void neighbouring_bytes(unsigned char* bytes) {
    bytes[threadIdx.x] = static_cast<unsigned char>(threadIdx.x);
}

__global__ void misaligned(const unsigned char* bytes, double* out) {
    *out = *reinterpret_cast<const double*>(bytes + 4);
}

TEST_CASE(watching, "what lacks something in between is seen in every order, and nothing else is") {
    std::vector<int> out(5 * kThreads, 0);
    std::vector<unsigned char> bytes(kThreads);
    std::vector<double> doubles(2, 0.0);
    const auto swapped = [&](auto kernel, int flip) {
        return emulation::complaint([&] { launch(kernel, {1, kThreads}, nullptr, flip, out.data()); });
    };
    const auto races = [](const std::string& text) { return text.find("race: thread ") == 0; };
    for (int seed = 0; seed < 10; ++seed) {
        emulation::settings().seed = static_cast<std::uint64_t>(1000 * seed);
        CHECK(races(swapped(swap_pairs<Between::nothing>, 1)));
        CHECK(swapped(swap_pairs<Between::warp>, 1).empty());
        CHECK(races(swapped(swap_pairs<Between::warp>, kWarp)));
        CHECK(swapped(swap_pairs<Between::barrier>, kWarp).empty());
        CHECK(swapped(swap_pairs<Between::nothing>, 0).empty());
        CHECK(emulation::complaint([&] {
                  launch(rotate<true>, {1, kThreads}, nullptr, 4, out.data());
              }).empty());
        CHECK(races(
            emulation::complaint([&] { launch(rotate<false>, {1, kThreads}, nullptr, 4, out.data()); })));
        CHECK(emulation::complaint([&] { launch(write_all, {1, kThreads}, nullptr, out.data()); }).empty());
        CHECK(races(emulation::complaint([&] { launch(write_all, {2, kThreads}, nullptr, out.data()); })));
        int sum = 0;
        CHECK(emulation::complaint([&] {
                  launch(add_all<false>, {5, kThreads}, nullptr, &sum, out.data());
              }).empty());
        CHECK(sum == 5 * kThreads);
        CHECK(races(
            emulation::complaint([&] { launch(add_all<true>, {5, kThreads}, nullptr, &sum, out.data()); })));
        CHECK(emulation::complaint([&] {
                  launch(neighbouring_bytes, {1, kThreads}, nullptr, bytes.data());
              }).empty());
        const auto* at = reinterpret_cast<const unsigned char*>(doubles.data());
        CHECK(emulation::complaint([&] { launch(misaligned, {1, 1}, nullptr, at, doubles.data() + 1); }) ==
              "misaligned address");
    }
}

// Solves on the device and checks the answer.
void check_large(const Stored& s, SolveOptions options, const std::string& context) {
    options.for_a_block = 0;
    Room room(s.rows, s.cols);
    const std::string wrong = emulation::complaint([&] {
        CHECK_WITH(solve_on(s.view, room.view(), options, nullptr).status == Status::optimal, context);
        check_answer(s, options.maximize, room, context);
    });
    CHECK_WITH(wrong.empty(), context + ": " + wrong);
}

Stored draw(int family, Element type, int rows, int cols, Layout layout) {
    Random random(static_cast<std::uint64_t>(family + rows));
    return stored(families()[static_cast<std::size_t>(family)].make(random, rows, cols), type, rows, cols,
                  layout);
}

TEST_CASE(
    large,
    "one large problem: scaling, ties, starts from given prices, rows read again, either kind of paths") {
    SolveOptions many;
    many.few_bidders = 4;
    many.paths_on_host = false;
    for (const int family : {0, 2, 4, 5, 6, 9, 10}) {
        const Stored s = draw(family, Element::f32, 80, 80, Layout::rows);
        check_large(s, {}, families()[static_cast<std::size_t>(family)].name);
        check_large(s, many, families()[static_cast<std::size_t>(family)].name + std::string(", all over"));
    }
    check_large(draw(1, Element::i32, 40, 90, Layout::columns), many, "integers, wide");
    check_large(draw(0, Element::f16, 90, 40, Layout::backwards), {}, "float16, tall");
    const Stored s = draw(0, Element::f64, 72, 72, Layout::columns);
    Room room(72, 72);
    SolveOptions cold;
    cold.for_a_block = 0;
    solve_on(s.view, room.view(), cold, nullptr);
    SolveOptions warm = many;
    warm.col_duals = room.v.data();
    check_large(s, warm, "warm");
    room.v[3] -= 0.5;
    check_large(s, warm, "nearly warm");
}

TEST_CASE(batches, "batches: in shared memory and beyond it") {
    std::vector<Stored> matrices;
    for (const int family : {0, 2, 4, 6}) {
        matrices.push_back(draw(family, Element::f32, 20, 20, Layout::rows));
        matrices.push_back(draw(family, Element::i16, 30, 80, Layout::columns));
        matrices.push_back(draw(family, Element::f64, 80, 30, Layout::rows));
    }
    matrices.push_back(draw(0, Element::f32, 20, 230, Layout::rows));
    std::vector<Room> rooms;
    for (const Stored& s : matrices) rooms.emplace_back(s.rows, s.cols);
    std::vector<BatchProblem> problems;
    for (std::size_t k = 0; k < rooms.size(); ++k) problems.push_back({matrices[k].view, rooms[k].view()});
    const std::size_t before = emulation::settings().shared_limit;
    for (const std::size_t limit : {before, std::size_t{9} << 10}) {
        emulation::settings().shared_limit = limit;
        const std::string wrong = emulation::complaint([&] { solve_batch_on(problems, false, nullptr); });
        CHECK_WITH(wrong.empty(), wrong);
        for (std::size_t k = 0; k < rooms.size(); ++k)
            check_answer(matrices[k], false, rooms[k], "in a batch");
    }
    emulation::settings().shared_limit = before;
}

TEST_CASE(products, "factored costs") {
    Random random(21);
    const std::vector<double> a = draws(random, 70 * 5), b = draws(random, 90 * 5);
    std::vector<double> v(90);
    const Factors factors{a.data(), b.data(), 5, true, 70, 90};
    for (const bool on_host : {false, true}) {
        Room room(70, 90);
        SolveOptions options;
        options.paths_on_host = on_host;
        const std::string wrong = emulation::complaint([&] {
            CHECK(largest_of<double>(a.data(), 350, nullptr) > 0.0);
            CHECK(solve_factored_on(factors, room.view(), options, {0, 1}, nullptr).status ==
                  Status::optimal);
        });
        CHECK_WITH(wrong.empty(), wrong);
        CHECK(room.gap >= 0.0 && room.gap < 1e-12);
    }
}

TEST_CASE(gathering, "panels, gathered and not") {
    std::vector<float> source(40 * 30);
    for (std::size_t k = 0; k < source.size(); ++k) source[k] = static_cast<float>(k);
    std::vector<std::int64_t> index(40), less(40);
    for (std::size_t k = 0; k < index.size(); ++k) {
        index[k] = static_cast<std::int64_t>(7 * k % 40);
        less[k] = static_cast<std::int64_t>(k);
    }
    std::vector<double> panel(source.size());
    PanelJob job{source.data(),
                 Element::f32,
                 panel.data(),
                 Element::f64,
                 {{40, 1, index.data(), less.data()}, {30, 40}}};
    const std::string wrong = emulation::complaint([&] { gather_panel(job, nullptr); });
    CHECK_WITH(wrong.empty(), wrong);
    CHECK(panel[31] == 7.0 - 1.0);
}

}  // namespace
}  // namespace rebasin_fast::cuda

int main() {
    return rebasin_fast::testing::run_all();
}
