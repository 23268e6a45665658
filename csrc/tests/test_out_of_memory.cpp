// Every single allocation of a solve fails once: what comes is std::bad_alloc or the right answer, nothing is
// left behind (the leak sanitizer looks), and the next solve is as good as the first.
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "lap/lap.hpp"
#include "tests/check.hpp"

namespace {

// The number of allocations until one fails; negative: none does. Counts those of every thread.
std::atomic<std::int64_t> until_failure{-1};

void* allocate(std::size_t size, std::size_t alignment) {
    if (until_failure.load() >= 0 && until_failure.fetch_sub(1) == 0) throw std::bad_alloc();
    // malloc does for ordinary types; aligned_alloc wants whole multiples of the alignment.
    void* memory = alignment == 1
                       ? std::malloc(size)
                       : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    if (memory == nullptr && size > 0) throw std::bad_alloc();
    return memory;
}

}  // namespace

// Replacing these replaces the array and nothrow forms with them.
void* operator new(std::size_t size) {
    return allocate(size, 1);
}
void* operator new(std::size_t size, std::align_val_t alignment) {
    return allocate(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
    std::free(memory);
}

namespace rebasin_fast {
namespace {

struct Problem {
    std::string name;
    MatrixView view;
    Options options;
};

// Fails the first allocation, then the second, until the solve needs no more than are granted.
void fail_every_allocation(const Problem& problem) {
    const Result want = solve(problem.view, problem.options);
    CHECK_WITH(want.status == Status::optimal, problem.name);
    std::int64_t failed = 0;
    for (bool done = false; !done; ++failed) {
        until_failure = failed;
        try {
            const Result result = solve(problem.view, problem.options);
            done = until_failure.exchange(-1) >= 0;
            CHECK_WITH(result.col_ind == want.col_ind, problem.name);
        } catch (const std::bad_alloc&) {
            until_failure = -1;
        }
    }
    CHECK_WITH(failed > 1, problem.name);  // else nothing was tried
}

TEST_CASE(allocations, "whichever allocation fails, solve() throws std::bad_alloc and leaks nothing") {
    std::mt19937_64 random(1);
    const std::int64_t n = 100;
    std::vector<float> costs(static_cast<std::size_t>(n * (n + 9)));
    // A low rank keeps the lists and the bidding busy for long.
    for (std::size_t k = 0; k < costs.size(); ++k)
        costs[k] = static_cast<float>(static_cast<double>(k / n % 17 * (k % n % 13)) +
                                      1e-3 * static_cast<double>(random() % 1000));
    std::vector<std::int64_t> beyond(40 * 40);
    for (auto& c : beyond) c = (std::int64_t{1} << 60) + static_cast<std::int64_t>(random() % 1000);
    for (const Method method :
         {Method::automatic, Method::jv, Method::auction, Method::dense, Method::shortest_path})
        for (const int threads : {1, 2}) {
            Options options;
            options.with_duals = true;
            options.method = method;
            options.threads = threads;
            const std::string name =
                "method " + std::to_string(static_cast<int>(method)) + ", threads " + std::to_string(threads);
            const MatrixView square{costs.data(), ElementType::f32, n, n, n, 1};
            const MatrixView tall{costs.data(), ElementType::f32, n + 9, n, n, 1};
            const MatrixView few{costs.data(), ElementType::f32, 30, 33, n, 1};
            fail_every_allocation({name + ", square", square, options});
            fail_every_allocation({name + ", tall", tall, options});
            fail_every_allocation({name + ", few", few, options});
            fail_every_allocation(
                {name + ", exact", {beyond.data(), ElementType::i64, 40, 40, 40, 1}, options});
        }
}

}  // namespace
}  // namespace rebasin_fast

int main() {
    return rebasin_fast::testing::run_all();
}
