// The runtime of the emulated device: its memory is the host's, its streams are always done.
#include "cuda/runtime.hpp"

#include <cstdlib>
#include <cstring>

#include "tests/cuda_emulation/machine.hpp"

namespace rebasin_fast {
namespace {
std::int64_t live = 0;
}

namespace emulation {
std::int64_t live_allocations() {
    return live;
}
}  // namespace emulation

namespace cuda {

void* allocate(std::size_t bytes, Stream) {
    auto& left = emulation::settings().allocations_left;
    if (left == 0) throw Error("cudaMallocFromPoolAsync", "out of memory", true);
    if (left > 0) --left;
    ++live;
    void* memory = std::malloc(bytes);
    std::memset(memory, 0xA7, bytes);  // rubbish, as on a device
    return memory;
}

void release(void* memory, Stream) noexcept {
    if (memory == nullptr) return;
    --live;
    std::free(memory);
}

void fill_bytes(void* at, int byte, std::size_t bytes, Stream) {
    if (bytes > 0) std::memset(at, byte, bytes);
}

void copy_to_device(void* to, const void* from, std::size_t bytes, Stream) {
    if (bytes > 0) std::memcpy(to, from, bytes);
}

void copy_to_host(void* to, const void* from, std::size_t bytes, Stream) {
    if (bytes > 0) std::memcpy(to, from, bytes);
}

void copy_on_device(void* to, const void* from, std::size_t bytes, Stream) {
    if (bytes > 0) std::memcpy(to, from, bytes);
}

void synchronize(Stream) {}

int multiprocessors() {
    return emulation::settings().multiprocessors;
}

std::size_t shared_memory_limit() {
    return emulation::settings().shared_limit;
}

DeviceScope::DeviceScope(int) {}
DeviceScope::~DeviceScope() {}

}  // namespace cuda
}  // namespace rebasin_fast
