// The emulated device itself: that barriers, warp operations, shared memory and atomics do what CUDA says,
// and that kernels which lack them are caught.
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cuda/kernel.cuh"
#include "cuda/reduce.cuh"
#include "tests/check.hpp"

namespace rebasin_fast::cuda {
namespace {

constexpr int kThreads = 96;

// out[t] = in[threads - 1 - t] of every block, through shared memory.
template <bool with_barrier>
__global__ void reverse(const int* in, int* out) {
    REBASIN_FAST_SHARED(int, held, kThreads);
    const int t = static_cast<int>(threadIdx.x), base = static_cast<int>(blockIdx.x) * kThreads;
    held[t] = in[base + t];
    if (with_barrier) __syncthreads();
    out[base + t] = held[kThreads - 1 - t];
}

template <bool with_barrier>
bool reverses(int blocks) {
    std::vector<int> in(static_cast<std::size_t>(blocks * kThreads)), out(in.size(), -1);
    for (std::size_t k = 0; k < in.size(); ++k) in[k] = static_cast<int>(k);
    launch(reverse<with_barrier>, {blocks, kThreads}, nullptr, in.data(), out.data());
    bool right = true;
    for (int b = 0; b < blocks; ++b)
        for (int t = 0; t < kThreads; ++t)
            right &= out[static_cast<std::size_t>(b * kThreads + t)] == b * kThreads + kThreads - 1 - t;
    return right;
}

TEST_CASE(barriers_hold, "a barrier holds in any order; a kernel without it is caught at once") {
    for (int seed = 0; seed < 20; ++seed) {
        emulation::settings().seed = static_cast<std::uint64_t>(1000 * seed);
        CHECK(reverses<true>(5));
        CHECK(!reverses<false>(5));
    }
}

// Sums x over the block: by shuffles in a warp, then through shared memory. Without `both` the second barrier
// is missing, so that in a loop one warp overwrites what another has still to read.
template <bool both>
__global__ void sums(const int* x, int* out, int rounds) {
    REBASIN_FAST_SHARED(int, of_warp, kThreads / kWarp);
    const int t = static_cast<int>(threadIdx.x);
    for (int r = 0; r < rounds; ++r) {
        int sum = x[r * kThreads + t];
        for (int by = kWarp / 2; by > 0; by /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, by);
        if (t % kWarp == 0) of_warp[t / kWarp] = sum;
        __syncthreads();
        sum = 0;
        for (int w = 0; w < kThreads / kWarp; ++w) sum += of_warp[w];
        atomicAdd(&out[r], sum);
        if (both) __syncthreads();
    }
}

template <bool both>
bool adds_up() {
    constexpr int rounds = 6;
    std::vector<int> x(static_cast<std::size_t>(rounds * kThreads)), out(rounds, 0);
    for (std::size_t k = 0; k < x.size(); ++k) x[k] = static_cast<int>(k * k % 101);
    launch(sums<both>, {1, kThreads}, nullptr, x.data(), out.data(), rounds);
    bool right = true;
    for (int r = 0; r < rounds; ++r) {
        int want = 0;
        for (int t = 0; t < kThreads; ++t) want += x[static_cast<std::size_t>(r * kThreads + t)];
        right &= out[static_cast<std::size_t>(r)] == want * kThreads;
    }
    return right;
}

TEST_CASE(second_barrier, "a missing second barrier in a loop is caught by every other seed") {
    int caught = 0;
    for (int trial = 0; trial < 20; ++trial) {
        CHECK(adds_up<true>());
        caught += !adds_up<false>();
    }
    CHECK_WITH(caught >= 8, std::to_string(caught));
}

// Every lane through every warp operation, in a partial warp as well.
__global__ void warp_operations(int* out) {
    const int lane = static_cast<int>(threadIdx.x);
    const unsigned mask = blockDim.x == kWarp ? kWholeWarp : (1u << blockDim.x) - 1;
    out[8 * lane] = __shfl_sync(mask, 10 * lane, 3);
    out[8 * lane + 1] = static_cast<int>(__shfl_down_sync(mask, 0.5 + lane, 1, 4));
    out[8 * lane + 2] = __shfl_up_sync(mask, lane, 2, 4);
    out[8 * lane + 3] = static_cast<int>(__ballot_sync(mask, lane % 3 == 0));
    out[8 * lane + 4] = __any_sync(mask, lane == 2);
    out[8 * lane + 5] = __all_sync(mask, lane != 2);
    out[8 * lane + 6] = static_cast<int>(__shfl_xor_sync(mask, static_cast<long long>(lane) << 40, 1) >> 40);
    __syncwarp(mask);
    out[8 * lane + 7] = 1;
}

TEST_CASE(warps, "shuffles and votes are CUDA's, with widths and partial warps") {
    for (const int lanes : {32, 8}) {
        std::vector<int> out(static_cast<std::size_t>(8 * lanes), -1);
        launch(warp_operations, {1, lanes}, nullptr, out.data());
        int thirds = 0;
        for (int lane = 0; lane < lanes; lane += 3) thirds |= 1 << lane;
        for (int lane = 0; lane < lanes; ++lane) {
            const int* got = out.data() + 8 * lane;
            CHECK(got[0] == 30);
            CHECK(got[1] == (lane % 4 == 3 ? lane : lane + 1));
            CHECK(got[2] == (lane % 4 < 2 ? lane : lane - 2));
            CHECK(got[3] == thirds);
            CHECK(got[4] == 1 && got[5] == 0);
            CHECK(got[6] == (lane ^ 1));
            CHECK(got[7] == 1);
        }
    }
}

// What lanes hold, reduced; `by_shuffles` in the way of devices that have no instruction for it.
__global__ void reductions(const double* values, const double* seconds, Least* least, TwoLeast* two,
                           unsigned* by_shuffles, unsigned* by_instruction) {
    const int lane = static_cast<int>(threadIdx.x);
    least[lane] = over_warp(Least{values[lane], 100 + lane});
    two[lane] = over_warp(TwoLeast{values[lane], seconds[lane], 100 + lane});
    const auto number = static_cast<unsigned>(key_of(values[lane]) >> 32);
    by_shuffles[lane] = least_by_shuffles(number);
    by_instruction[lane] = least_over_warp(number);
}

TEST_CASE(reduced, "the least and the second over a warp: ties, both zeros, infinities, negative numbers") {
    std::mt19937_64 random(3);
    constexpr double inf = std::numeric_limits<double>::infinity();
    for (int trial = 0; trial < 60; ++trial) {
        double values[32], seconds[32];
        for (int k = 0; k < 32; ++k) {
            const double x = static_cast<double>(random() % 7) - (trial % 3);
            values[k] = trial % 4 == 3             ? inf
                        : x == 0.0 && random() % 2 ? -0.0
                                                   : x * (trial % 2 ? 1e-310 : 1e300);
            if (trial % 4 == 3 && trial % 8 == 3 && k == 9) values[k] = -inf;
            seconds[k] = values[k] + static_cast<double>(random() % 2) * (trial % 2 ? 3e-320 : 1e299);
        }
        Least least[32];
        TwoLeast two[32];
        unsigned by_shuffles[32], by_instruction[32];
        launch(reductions, {1, 32}, nullptr, static_cast<const double*>(values),
               static_cast<const double*>(seconds), +least, +two, +by_shuffles, +by_instruction);
        TwoLeast want = TwoLeast::none();
        for (int k = 0; k < 32; ++k) want.take(TwoLeast{values[k], seconds[k], 100 + k});
        for (int k = 0; k < 32; ++k) {
            CHECK(least[k].value == want.first && least[k].code == want.code);
            CHECK(two[k].first == want.first && two[k].second == want.second && two[k].code == want.code);
            CHECK(by_shuffles[k] == by_instruction[k]);
        }
    }
}

// Half of the lanes each, in different branches, with masks of their own; some threads have left before.
__global__ void branches(int* out) {
    const int t = static_cast<int>(threadIdx.x);
    if (t >= kWarp) return;
    if (t % 2 == 0)
        out[t] = __shfl_sync(0x55555555u, t, 30);
    else
        out[t] = __shfl_sync(0xaaaaaaaau, t, 31);
    __syncthreads();
    if (t == 0) out[kWarp] = out[1] + out[2];
}

TEST_CASE(masks, "branches with masks of their own; threads that have returned are not waited for") {
    std::vector<int> out(kWarp + 1, -1);
    launch(branches, {1, 2 * kWarp}, nullptr, out.data());
    for (int t = 0; t < kWarp; ++t) CHECK(out[static_cast<std::size_t>(t)] == 30 + t % 2);
    CHECK(out[kWarp] == 61);
}

// Adds into one cell: atomically, or by reading and writing.
template <bool atomic>
__global__ void counting(int* counter) {
    if (atomic) {
        atomicAdd(counter, 1);
    } else {
        const int before = *counter;
        __threadfence();
        *counter = before + 1;
    }
}

TEST_CASE(atomics, "atomics lose nothing; reading and writing in two steps does") {
    int counter = 0, racy = 0;
    launch(counting<true>, {7, 64}, nullptr, &counter);
    launch(counting<false>, {7, 64}, nullptr, &racy);
    CHECK(counter == 7 * 64);
    CHECK(racy < 7 * 64);
    unsigned long long word = 5;
    launch(
        +[](unsigned long long* at) { atomicMin(at, static_cast<unsigned long long>(threadIdx.x) + 2); },
        {1, 32}, nullptr, &word);
    CHECK(word == 2);
}

// Grid and block in three dimensions, and dynamic shared memory of the size asked for.
__global__ void places(int* seen) {
    int* held = reinterpret_cast<int*>(dynamic_shared());
    const unsigned t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    held[t] = static_cast<int>(blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z));
    __syncthreads();
    if (t == 0)
        for (unsigned k = 0; k < blockDim.x * blockDim.y * blockDim.z; ++k) atomicAdd(&seen[held[k]], 1);
}

TEST_CASE(dimensions, "three dimensions, dynamic shared memory") {
    std::vector<int> seen(12, 0);
    launch(places, {dim3(2, 3, 2), dim3(4, 2, 3), 24 * sizeof(int)}, nullptr, seen.data());
    for (const int count : seen) CHECK(count == 24);
}

// What each of these does wrong is in the message.
__global__ void divergent_barriers() {
    if (threadIdx.x < 16)
        __syncthreads();
    else {
        __syncthreads();
    }
}
__global__ void waits_for_ever() {
    if (threadIdx.x == 0)
        __syncwarp();
    else
        __syncthreads();
}
__global__ void reads_from_outside(int* out) {
    if (threadIdx.x < 4) out[threadIdx.x] = __shfl_sync(0xfu, 1, 5);
}
__global__ void wrong_mask(int* out) {
    out[threadIdx.x] = __shfl_sync(0xfu, 1, 0);
}
__global__ void much_shared(int* out) {
    REBASIN_FAST_SHARED(int, held, 1 << 16);
    held[threadIdx.x] = 1;
    out[threadIdx.x] = held[threadIdx.x];
}

TEST_CASE(broken_kernels, "broken kernels are told what is wrong with them, and do no harm to the next") {
    std::vector<int> out(64, 0);
    const auto says = [](const std::string& text, const char* what) {
        CHECK_WITH(text.find(what) != std::string::npos, "said: " + text);
    };
    says(emulation::complaint([] { launch(divergent_barriers, {1, 32}, nullptr); }), "different barriers");
    says(emulation::complaint([] { launch(waits_for_ever, {1, 32}, nullptr); }), "deadlock");
    says(emulation::complaint([&] { launch(reads_from_outside, {1, 32}, nullptr, out.data()); }),
         "takes no part");
    says(emulation::complaint([&] { launch(wrong_mask, {1, 32}, nullptr, out.data()); }), "not in the mask");
    says(emulation::complaint([&] { launch(much_shared, {1, 32}, nullptr, out.data()); }), "shared memory");
    says(emulation::complaint([] { launch(waits_for_ever, {1, 2048}, nullptr); }), "invalid");
    CHECK(reverses<true>(3));
}

TEST_CASE(memory, "device memory is given back, also when there is no more of it") {
    {
        Buffer<double> first(10, nullptr);
        CHECK(emulation::live_allocations() == 1);
        emulation::settings().allocations_left = 1;
        Buffer<double> second(10, nullptr);
        bool refused = false;
        try {
            Buffer<double> third(10, nullptr);
        } catch (const Error& error) {
            refused =
                error.out_of_memory && std::string(error.what()) == "cudaMallocFromPoolAsync: out of memory";
        }
        CHECK(refused);
        emulation::settings().allocations_left = -1;
    }
    CHECK(emulation::live_allocations() == 0);
}

}  // namespace
}  // namespace rebasin_fast::cuda

int main() {
    return rebasin_fast::testing::run_all();
}
