// The runtime of the emulated device: its memory is the host's, its streams are always done, but for what
// they read of the host's memory.
#include "cuda/runtime.hpp"

#include <cstdlib>
#include <cstring>
#include <vector>

#include "tests/cuda_emulation/machine.hpp"

namespace rebasin_fast {
namespace {
std::int64_t live = 0;

// What was sent to the device and may, on a real one, not have been read yet.
struct Sent {
    const void* from;
    std::vector<unsigned char> bytes;
};
std::vector<Sent> sent;

// By now it has been: until now it must have been there, unchanged. AddressSanitizer knows whether it is.
void arrive() {
#ifdef __SANITIZE_ADDRESS__
    for (const Sent& one : sent)
        if (std::memcmp(one.from, one.bytes.data(), one.bytes.size()) != 0)
            throw emulation::Broken("what was copied to the device changed before the stream was waited for");
#endif
    sent.clear();
}

}  // namespace

namespace emulation {
std::int64_t live_allocations() {
    return live;
}
}  // namespace emulation

namespace cuda {

void* allocate(std::size_t bytes, Stream) {
    auto& left = emulation::settings().allocations_left;
    if (left == 0) sent.clear();  // nobody waits for a stream that is given up
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
    if (bytes == 0) return;
    std::memcpy(to, from, bytes);
    const auto* first = static_cast<const unsigned char*>(from);
    sent.push_back({from, {first, first + bytes}});
}

void copy_to_host(void* to, const void* from, std::size_t bytes, Stream) {
    arrive();
    if (bytes > 0) std::memcpy(to, from, bytes);
}

void copy_on_device(void* to, const void* from, std::size_t bytes, Stream) {
    if (bytes > 0) std::memcpy(to, from, bytes);
}

void synchronize(Stream) {
    arrive();
}

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
