// Looks for races: two threads of one launch at one byte of memory, one of them writing, and nothing that
// puts one before the other. Kernels that are compiled with -fsanitize=thread call the functions below at
// every access; ThreadSanitizer's own library, which knows nothing of blocks and warps, is not linked.
//
// In one launch threads of different blocks are never ordered. Threads of a block are by a barrier between
// them, threads of a warp also by __syncwarp(): nothing else keeps lanes together since Volta, and shuffles
// and votes order no memory. Atomic operations do not race with each other, but with plain reading and
// writing they do. What is found does not depend on which of the two happened to come first. An access that
// is not aligned to its size is found, too.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <unordered_map>

#include "tests/cuda_emulation/machine.hpp"

namespace rebasin_fast::emulation {
namespace {

// An access by some thread, at its own time.
struct Access {
    std::uint32_t block = 0, thread = 0;
    std::int32_t barriers = -1, warp_steps = 0;  // -1: there was none
    bool atomic = false;

    bool is_known() const { return barriers >= 0; }
    bool by_the_thread_of(const Access& other) const {
        return block == other.block && thread == other.thread;
    }
    // Of two in the order they were run.
    bool comes_before(const Access& other) const {
        if (by_the_thread_of(other)) return true;
        if (block != other.block) return false;
        if (barriers != other.barriers) return true;
        return thread / kWarp == other.thread / kWarp && warp_steps != other.warp_steps;
    }
};

constexpr int kReaders = 3;  // that nothing orders: a fourth would tell nothing new

struct Byte {
    std::uint64_t launch = 0;
    Access written, read[kReaders];
};

constexpr std::uintptr_t kPage = 1024;
using Page = std::unique_ptr<Byte[]>;

Byte& shadow_of(std::uintptr_t address) {
    static std::unordered_map<std::uintptr_t, Page> pages;
    static std::uintptr_t last_key = 0;
    static Byte* last = nullptr;
    if (last == nullptr || last_key != address / kPage) {
        last_key = address / kPage;
        auto& page = pages[last_key];
        if (page == nullptr) page.reset(new Byte[kPage]);
        last = page.get();
    }
    Byte& byte = last[address % kPage];
    if (byte.launch != launches()) byte = Byte{launches(), {}, {}};
    return byte;
}

Access access_here() {
    const Here& h = here();
    return {h.block.x + h.grid_size.x * (h.block.y + h.grid_size.y * h.block.z),
            h.thread.x + h.block_size.x * (h.thread.y + h.block_size.y * h.thread.z), h.barriers,
            h.warp_steps, in_atomic()};
}

const char* verb(const Access& access, bool write) {
    return access.atomic ? "changes atomically" : write ? "writes" : "reads";
}

// `code` is where in the program; addr2line -e knows the line.
void report(const Access& before, bool wrote, const Access& now, bool write, const void* code) {
    static char text[256];
    std::snprintf(
        text, sizeof text,
        "race: thread %u of block %u %s what thread %u of block %u %s, with nothing in between; at %p",
        before.thread, before.block, verb(before, wrote), now.thread, now.block, verb(now, write), code);
    complain(text);
}

void look(const Access& before, bool wrote, const Access& now, bool write, const void* code) {
    if (!before.is_known() || before.comes_before(now) || (before.atomic && now.atomic)) return;
    report(before, wrote, now, write, code);
}

void note_reader(Byte* byte, const Access& now) {
    for (Access& other : byte->read)
        if (!other.is_known() || other.comes_before(now)) {
            other = now;
            return;
        }
}

void access(const void* at, std::size_t bytes, bool write, const void* code) {
    if (!on_device(at)) return;
    const Access now = access_here();
    const auto first = reinterpret_cast<std::uintptr_t>(at);
    if (bytes <= 8 && first % bytes != 0) complain("misaligned address");
    for (std::uintptr_t address = first; address < first + bytes; ++address) {
        Byte& byte = shadow_of(address);
        look(byte.written, true, now, write, code);
        if (write)
            for (const Access& reader : byte.read) look(reader, false, now, true, code);
        if (write)
            byte.written = now;
        else
            note_reader(&byte, now);
    }
}

}  // namespace
}  // namespace rebasin_fast::emulation

#define REBASIN_FAST_ACCESS(name, bytes, write)                                           \
    void name(void* at) {                                                                 \
        ::rebasin_fast::emulation::access(at, bytes, write, __builtin_return_address(0)); \
    }

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
REBASIN_FAST_ACCESS(__tsan_read1, 1, false)
REBASIN_FAST_ACCESS(__tsan_read2, 2, false)
REBASIN_FAST_ACCESS(__tsan_read4, 4, false)
REBASIN_FAST_ACCESS(__tsan_read8, 8, false)
REBASIN_FAST_ACCESS(__tsan_read16, 16, false)
REBASIN_FAST_ACCESS(__tsan_write1, 1, true)
REBASIN_FAST_ACCESS(__tsan_write2, 2, true)
REBASIN_FAST_ACCESS(__tsan_write4, 4, true)
REBASIN_FAST_ACCESS(__tsan_write8, 8, true)
REBASIN_FAST_ACCESS(__tsan_write16, 16, true)
REBASIN_FAST_ACCESS(__tsan_unaligned_read2, 2, false)
REBASIN_FAST_ACCESS(__tsan_unaligned_read4, 4, false)
REBASIN_FAST_ACCESS(__tsan_unaligned_read8, 8, false)
REBASIN_FAST_ACCESS(__tsan_unaligned_read16, 16, false)
REBASIN_FAST_ACCESS(__tsan_unaligned_write2, 2, true)
REBASIN_FAST_ACCESS(__tsan_unaligned_write4, 4, true)
REBASIN_FAST_ACCESS(__tsan_unaligned_write8, 8, true)
REBASIN_FAST_ACCESS(__tsan_unaligned_write16, 16, true)
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* at, unsigned long bytes) {
    ::rebasin_fast::emulation::access(at, bytes, false, __builtin_return_address(0));
}
void __tsan_write_range(void* at, unsigned long bytes) {
    ::rebasin_fast::emulation::access(at, bytes, true, __builtin_return_address(0));
}
}
