#include "tests/cuda_emulation/machine.hpp"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "tests/cuda_emulation/switch_stack.hpp"

#if defined(__SANITIZE_ADDRESS__)
#define REBASIN_FAST_FIBERS_UNDER_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace rebasin_fast::emulation {
namespace {

constexpr std::size_t kStackBytes = std::size_t{128} << 10;
constexpr unsigned char kRubbish = 0xA7;

struct Block;

struct Fiber {
    enum class State { ready, at_barrier, in_warp, done };

    Here here;
    Block* block = nullptr;
    int warp = 0, lane = 0;
    State state = State::ready;
    Site site{"", 0};

    // What it brings to an operation of its warp, and what it takes away.
    std::uint32_t mask = 0;
    std::uint64_t value = 0;
    int source = 0;
    bool orders_memory = false;
    Exchanged result{};

    void* place = nullptr;  // on its stack, to go on from; null: it has yet to begin
    std::unique_ptr<unsigned char[]> stack;
    void* fake_stack = nullptr;  // AddressSanitizer's
};

struct Block {
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::map<const void*, std::unique_ptr<unsigned char[]>> memory;
    std::size_t shared_bytes = 0, dynamic_bytes = 0;
    int running = 0;  // fibers that have not returned
    int at_barrier = 0;
    struct Lanes {
        std::uint32_t alive = 0, waiting = 0;
    };
    std::vector<Lanes> warps;
};

enum class Leave { to_come_back, for_good };
void leave(Leave how);

class Machine {
  public:
    Machine(dim3 grid, dim3 block, std::size_t dynamic_bytes, const std::function<void()>& body)
        : grid_(grid), block_(block), dynamic_bytes_(dynamic_bytes), body_(body), random_(settings().seed) {}

    void run();

    Fiber& current() { return *current_; }
    void wait(Fiber::State state, Site site);
    void yield();
    bool draw(unsigned one_in) { return random_() % one_in == 0; }
    void* shared(const void* key, std::size_t bytes);
    void finish_current();
    const std::function<void()>& body() const { return body_; }
    void arrived_on_fiber();
    void before_leaving(Leave how);
    void* scheduler() const { return scheduler_; }
    void fail(const std::string& why) { failure_ = why; }
    bool has_running(const void* at) const {
        if (current_ == nullptr) return false;
        const auto* byte = static_cast<const unsigned char*>(at);
        const unsigned char* stack = current_->stack.get();
        return byte < stack || byte >= stack + kStackBytes;
    }
    void leave_if_failed();

    bool atomic = false;  // the current fiber is within an atomic operation

  private:
    void start_block(unsigned index);
    std::size_t pick();
    void resume(Fiber* fiber);
    void release_barrier(Block* block);
    void release_warp(Fiber* member);
    void release_others_of(Fiber* gone);
    void retire_finished();
    std::string stuck() const;

    const dim3 grid_, block_;
    const std::size_t dynamic_bytes_;
    const std::function<void()>& body_;
    std::minstd_rand random_;
    std::vector<std::unique_ptr<Block>> blocks_;           // at work
    std::vector<std::unique_ptr<unsigned char[]>> spent_;  // shared memory of blocks that are done: no other
                                                           // block's may lie there while races are looked for
    std::vector<Fiber*> ready_;
    Fiber* current_ = nullptr;
    Fiber* last_ = nullptr;  // that ran; of a block at work
    std::string failure_;

    void* scheduler_ = nullptr;  // place to go on from
    [[maybe_unused]] void* fake_stack_ = nullptr;
    [[maybe_unused]] const void* scheduler_stack_ = nullptr;
    [[maybe_unused]] std::size_t scheduler_stack_bytes_ = 0;
};

Machine* machine = nullptr;
std::uint64_t launched = 0;

// Fibers are kept from one launch to the next: those that have returned wait at the end of fiber_main().
std::vector<std::unique_ptr<Fiber>>& idle() {
    static std::vector<std::unique_ptr<Fiber>> all;
    return all;
}

std::unique_ptr<Fiber> take_fiber() {
    if (idle().empty()) {
        auto fiber = std::make_unique<Fiber>();
        fiber->stack.reset(new unsigned char[kStackBytes]);
        return fiber;
    }
    std::unique_ptr<Fiber> fiber = std::move(idle().back());
    idle().pop_back();
    return fiber;
}

void fiber_main() {
    machine->arrived_on_fiber();
    for (;;) {
        machine->body()();
        machine->finish_current();
        leave(Leave::to_come_back);  // for the next launch
    }
}

std::string name_of(const dim3& x) {
    return "(" + std::to_string(x.x) + ", " + std::to_string(x.y) + ", " + std::to_string(x.z) + ")";
}

std::string name_of(Site site) {
    return std::string(site.file) + ":" + std::to_string(site.line);
}

void Machine::start_block(unsigned index) {
    auto block = std::make_unique<Block>();
    const unsigned threads = block_.x * block_.y * block_.z;
    block->dynamic_bytes = dynamic_bytes_;
    for (unsigned t = 0; t < threads; ++t) {
        std::unique_ptr<Fiber> fiber = take_fiber();
        fiber->state = Fiber::State::ready;
        fiber->here.thread = dim3(t % block_.x, t / block_.x % block_.y, t / (block_.x * block_.y));
        fiber->here.block = dim3(index % grid_.x, index / grid_.x % grid_.y, index / (grid_.x * grid_.y));
        fiber->here.block_size = block_;
        fiber->here.grid_size = grid_;
        fiber->here.barriers = fiber->here.warp_steps = 0;
        fiber->orders_memory = false;
        fiber->block = block.get();
        fiber->warp = static_cast<int>(t) / kWarp;
        fiber->lane = static_cast<int>(t) % kWarp;
        ready_.push_back(fiber.get());
        block->fibers.push_back(std::move(fiber));
    }
    block->running = static_cast<int>(threads);
    block->warps.resize((threads + kWarp - 1) / kWarp);
    for (unsigned t = 0; t < threads; ++t) block->warps[t / kWarp].alive |= std::uint32_t{1} << t % kWarp;
    blocks_.push_back(std::move(block));
}

void Machine::run() {
    const unsigned blocks = grid_.x * grid_.y * grid_.z;
    std::vector<unsigned> order(blocks);
    for (unsigned b = 0; b < blocks; ++b) order[b] = b;
    std::shuffle(order.begin(), order.end(), random_);
    for (unsigned next = 0; next < blocks || !blocks_.empty();) {
        while (next < blocks && static_cast<int>(blocks_.size()) < settings().blocks_together)
            start_block(order[next++]);
        while (!ready_.empty() && failure_.empty()) {
            std::swap(ready_[pick()], ready_.back());
            Fiber* fiber = ready_.back();
            ready_.pop_back();
            resume(fiber);
            if (fiber->block->running == 0) break;  // the next block may begin
        }
        if (failure_.empty() && ready_.empty() &&
            std::any_of(blocks_.begin(), blocks_.end(), [](const auto& b) { return b->running > 0; }))
            failure_ = stuck();
        if (!failure_.empty()) {
            // What lies on the stacks of the fibers that are left is trivial: kernels own nothing.
            for (const auto& block : blocks_) block->running = 0;
        }
        retire_finished();
        if (!failure_.empty()) throw Broken(failure_);
    }
}

// In half of all launches a warp that runs goes on running, mostly, and so gets far ahead of the others. In
// the other half anybody may be next.
std::size_t Machine::pick() {
    constexpr std::size_t look_through = 4 * kWarp;
    const std::size_t count = ready_.size();
    if (settings().seed % 2 == 0 && last_ != nullptr && !draw(64))
        for (std::size_t k = count; k-- > (count > look_through ? count - look_through : 0);)
            if (ready_[k]->warp == last_->warp && ready_[k]->block == last_->block) return k;
    return random_() % count;
}

void Machine::retire_finished() {
    last_ = nullptr;
    blocks_.erase(std::remove_if(blocks_.begin(), blocks_.end(),
                                 [this](const auto& block) {
                                     if (block->running > 0) return false;
                                     for (auto& [key, memory] : block->memory)
                                         spent_.push_back(std::move(memory));
                                     for (auto& fiber : block->fibers) {
                                         // One that never returned begins anew.
                                         if (fiber->state != Fiber::State::done) fiber->place = nullptr;
                                         idle().push_back(std::move(fiber));
                                     }
                                     return true;
                                 }),
                  blocks_.end());
}

std::string Machine::stuck() const {
    for (const auto& block : blocks_)
        for (const auto& fiber : block->fibers)
            if (fiber->state == Fiber::State::at_barrier || fiber->state == Fiber::State::in_warp)
                return "deadlock: thread " + name_of(fiber->here.thread) + " of block " +
                       name_of(fiber->here.block) + " waits for ever at " + name_of(fiber->site);
    return "deadlock";
}

void Machine::resume(Fiber* fiber) {
    current_ = last_ = fiber;
    if (fiber->place == nullptr) {
#ifdef REBASIN_FAST_FIBERS_UNDER_ASAN
        __asan_unpoison_memory_region(fiber->stack.get(), kStackBytes);  // what one that never returned left
#endif
        fiber->place = fresh_stack(fiber->stack.get(), kStackBytes, fiber_main);
    }
#ifdef REBASIN_FAST_FIBERS_UNDER_ASAN
    __sanitizer_start_switch_fiber(&fake_stack_, fiber->stack.get(), kStackBytes);
#endif
    rebasin_fast_switch_stack(&scheduler_, fiber->place);
#ifdef REBASIN_FAST_FIBERS_UNDER_ASAN
    __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
    current_ = nullptr;
}

void Machine::arrived_on_fiber() {
#ifdef REBASIN_FAST_FIBERS_UNDER_ASAN
    __sanitizer_finish_switch_fiber(current_->fake_stack, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
}

// Back to the scheduler. Which machine that is may change while a fiber is away.
void leave(Leave how) {
    Fiber& fiber = machine->current();
    machine->before_leaving(how);
    rebasin_fast_switch_stack(&fiber.place, machine->scheduler());
    machine->arrived_on_fiber();
}

void Machine::before_leaving([[maybe_unused]] Leave how) {
#ifdef REBASIN_FAST_FIBERS_UNDER_ASAN
    __sanitizer_start_switch_fiber(how == Leave::for_good ? nullptr : &current_->fake_stack, scheduler_stack_,
                                   scheduler_stack_bytes_);
#endif
}

void Machine::finish_current() {
    Block* block = current_->block;
    current_->state = Fiber::State::done;
    --block->running;
    release_barrier(block);
    release_others_of(current_);
}

// Nothing that owns anything may be alive on the fiber's stack here.
void Machine::leave_if_failed() {
    if (!failure_.empty()) leave(Leave::for_good);
}

void Machine::yield() {
    ready_.push_back(current_);
    leave(Leave::to_come_back);
}

void Machine::wait(Fiber::State state, Site site) {
    current_->state = state;
    current_->site = site;
    if (state == Fiber::State::at_barrier) {
        ++current_->block->at_barrier;
        release_barrier(current_->block);
    } else {
        current_->block->warps[static_cast<std::size_t>(current_->warp)].waiting |= std::uint32_t{1}
                                                                                    << current_->lane;
        release_warp(current_);
    }
    leave_if_failed();
    leave(Leave::to_come_back);
}

void Machine::release_barrier(Block* block) {
    if (block->at_barrier < block->running) return;
    block->at_barrier = 0;
    Site site{nullptr, 0};
    for (const auto& fiber : block->fibers) {
        if (fiber->state == Fiber::State::done) continue;
        if (site.file == nullptr) site = fiber->site;
        if (site.line != fiber->site.line || std::strcmp(site.file, fiber->site.file) != 0) {
            failure_ = "threads of one block are at different barriers, " + name_of(site) + " and " +
                       name_of(fiber->site);
            return;
        }
    }
    for (const auto& fiber : block->fibers)
        if (fiber->state == Fiber::State::at_barrier) {
            fiber->state = Fiber::State::ready;
            ++fiber->here.barriers;
            ready_.push_back(fiber.get());
        }
}

// Lets those lanes go on that share the member's mask, if all of them have come. A lane that has returned is
// not waited for, as on a device.
void Machine::release_warp(Fiber* member) {
    Block::Lanes& lanes = member->block->warps[static_cast<std::size_t>(member->warp)];
    const std::uint32_t members = member->mask & lanes.alive;
    if ((members & ~lanes.waiting) != 0) return;
    const std::unique_ptr<Fiber>* fibers =
        member->block->fibers.data() + static_cast<std::size_t>(member->warp) * kWarp;
    std::uint32_t nonzero = 0, least = ~std::uint32_t{0};
    for (std::uint32_t left = members; left != 0; left &= left - 1) {
        const Fiber& there = *fibers[std::countr_zero(left)];
        if (there.mask != member->mask || there.site.line != member->site.line ||
            (there.site.file != member->site.file && std::strcmp(there.site.file, member->site.file) != 0)) {
            failure_ = "lanes of one mask are at different operations of their warp, " +
                       name_of(member->site) + " and " + name_of(there.site);
            return;
        }
        if (!(members >> there.source & 1)) {
            failure_ = "lane " + std::to_string(there.lane) + " reads from lane " +
                       std::to_string(there.source) + ", which takes no part, at " + name_of(there.site);
            return;
        }
        nonzero |= std::uint32_t{there.value != 0} << there.lane;
        least = std::min(least, static_cast<std::uint32_t>(there.value));
    }
    for (std::uint32_t left = members; left != 0; left &= left - 1) {
        Fiber* there = fibers[std::countr_zero(left)].get();
        there->result = {fibers[there->source]->value, nonzero, least};
        there->state = Fiber::State::ready;
        there->here.warp_steps += there->orders_memory && members == lanes.alive;
        ready_.push_back(there);
    }
    lanes.waiting &= ~members;
}

// A lane has returned: others may have waited for it alone.
void Machine::release_others_of(Fiber* gone) {
    Block::Lanes& lanes = gone->block->warps[static_cast<std::size_t>(gone->warp)];
    lanes.alive &= ~(std::uint32_t{1} << gone->lane);
    const std::size_t first = static_cast<std::size_t>(gone->warp) * kWarp;
    for (int lane = 0; lane < kWarp && lanes.waiting != 0; ++lane)
        if (lanes.waiting >> lane & 1)
            release_warp(gone->block->fibers[first + static_cast<std::size_t>(lane)].get());
}

void* Machine::shared(const void* key, std::size_t bytes) {
    Block& block = *current_->block;
    auto& memory = block.memory[key];
    if (memory == nullptr) {
        if (key == nullptr) bytes = block.dynamic_bytes;
        block.shared_bytes += bytes;
        if (block.shared_bytes > settings().shared_limit)
            fail("a block asks for more shared memory than " + std::to_string(settings().shared_limit) +
                 " bytes");
        leave_if_failed();
        memory.reset(new unsigned char[std::max<std::size_t>(bytes, 1)]);
        std::memset(memory.get(), kRubbish, bytes);
    }
    return memory.get();
}

}  // namespace

Settings& settings() {
    static Settings all;
    return all;
}

const Here& here() {
    return machine->current().here;
}

void run(dim3 grid, dim3 block, std::size_t dynamic_bytes, const std::function<void()>& body) {
    const unsigned threads = block.x * block.y * block.z;
    if (threads == 0 || threads > 1024 || grid.x * grid.y * grid.z == 0 || grid.y > 65535 || grid.z > 65535)
        throw Broken("a launch of " + name_of(grid) + " blocks of " + name_of(block) + " threads is invalid");
    if (dynamic_bytes > settings().shared_limit)
        throw Broken("a launch with " + std::to_string(dynamic_bytes) + " bytes of shared memory");
    ++settings().seed;
    ++launched;
    Machine here(grid, block, dynamic_bytes, body);
    machine = &here;
    try {
        here.run();
    } catch (...) {
        machine = nullptr;
        throw;
    }
    machine = nullptr;
}

bool on_device(const void* at) {
    return machine != nullptr && machine->has_running(at);
}

std::uint64_t launches() {
    return launched;
}

void complain(const char* why) {
    machine->fail(why);
    machine->leave_if_failed();
}

void begin_atomic() {
    machine->atomic = true;
}

void end_atomic() {
    machine->atomic = false;
}

bool in_atomic() {
    return machine->atomic;
}

void* shared(const void* key, std::size_t bytes) {
    return machine->shared(key, bytes);
}

void barrier(Site site) {
    machine->wait(Fiber::State::at_barrier, site);
}

void perhaps_yield() {
    constexpr unsigned one_in = 8;
    if (machine->draw(one_in)) machine->yield();
}

Exchanged exchange(std::uint32_t mask, std::uint64_t value, int source, Site site) {
    Fiber& fiber = machine->current();
    if (!(mask >> fiber.lane & 1))
        machine->fail("lane " + std::to_string(fiber.lane) + " is not in the mask it gives, at " +
                      name_of(site));
    machine->leave_if_failed();
    fiber.mask = mask;
    fiber.value = value;
    fiber.source = source;
    machine->wait(Fiber::State::in_warp, site);
    return machine->current().result;
}

void warp_barrier(std::uint32_t mask, Site site) {
    machine->current().orders_memory = true;
    exchange(mask, 0, machine->current().lane, site);
    machine->current().orders_memory = false;
}

}  // namespace rebasin_fast::emulation
