// A CUDA device made of fibers, for tests alone: kernels run on the host, on one thread, with the barriers,
// shuffles, shared memory and atomics they would have.
//
// Every CUDA thread is a fiber that runs until it has to wait for others: at a barrier, at an operation of
// its warp, now and then at an atomic. Who runs next is drawn from a seed. A kernel that lacks a barrier thus
// sees what the barrier would have kept from it for some seed, and soon: a fiber runs as far ahead of the
// others as its barriers let it. Several blocks are at work at once, in any order. Shared memory begins as
// rubbish, and every array of it is an allocation of its own, so that AddressSanitizer sees a write past it.
//
// What is an error on a device is one here, with a message: waiting for a thread that will never come, a
// barrier that threads of one block reach at different places, a lane that reads from one outside its mask, a
// warp operation that lanes of the mask call in different places. In a test that is compiled to be watched
// (see races.cpp) so are two threads at one place in memory with nothing between them, whatever order they
// came in.
//
// What it does not show: anything of speed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace rebasin_fast::emulation {

inline constexpr int kWarp = 32;

// What a broken kernel is told.
class Broken : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

// What `body` is told about a broken kernel that it launches; nothing if all is well.
template <class Body>
std::string complaint(Body body) {
    try {
        body();
    } catch (const Broken& error) {
        return error.what();
    }
    return "";
}

struct Settings {
    std::uint64_t seed = 1;                            // of the order in which fibers run
    int blocks_together = 2;                           // at most
    int multiprocessors = 2;                           // what a query of the device answers
    std::size_t shared_limit = std::size_t{99} << 10;  // bytes of shared memory of one block
    std::int64_t allocations_left = -1;  // after so many more device memory is exhausted; -1: never
};
Settings& settings();

// A place in a kernel.
struct Site {
    const char* file;
    int line;
};

// The thread that runs now, and how far it is: barriers of its block and of its whole warp that it has
// passed.
struct Here {
    dim3 thread, block, block_size, grid_size;
    int barriers = 0, warp_steps = 0;
};
const Here& here();

// Runs `body` once for every thread of every block, with `dynamic_bytes` of dynamic shared memory each.
void run(dim3 grid, dim3 block, std::size_t dynamic_bytes, const std::function<void()>& body);

// Shared memory of the running block: what lies under `key`, made at the first call. A null key is the
// dynamic one.
void* shared(const void* key, std::size_t bytes);

// Whether the thread that runs now is one of the device's, and `at` none of its own variables.
bool on_device(const void* at);
std::uint64_t launches();        // so far
void complain(const char* why);  // ends the launch
// Between these the thread that runs now is within an atomic operation: no other comes in between.
void begin_atomic();
void end_atomic();
bool in_atomic();

void barrier(Site site);  // __syncthreads
void perhaps_yield();     // where other threads may well come in between

// An operation of the lanes in `mask`. Every one gives a value and learns that of lane `source` of its warp,
// the mask of those lanes whose value was not 0, and the least of the values as 32-bit numbers.
struct Exchanged {
    std::uint64_t value;
    std::uint32_t nonzero;
    std::uint32_t least;
};
Exchanged exchange(std::uint32_t mask, std::uint64_t value, int source, Site site);
void warp_barrier(std::uint32_t mask, Site site);  // __syncwarp, which alone orders memory, too

// Device memory that has not been given back.
std::int64_t live_allocations();

}  // namespace rebasin_fast::emulation
