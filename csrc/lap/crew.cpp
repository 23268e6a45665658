#include "lap/crew.hpp"

#include <chrono>

namespace rebasin_fast {
namespace {

// A pause is some 20 to 50 ns. A helper spins for a few microseconds, less than being woken costs: longer,
// and it would take the core from somebody who has work. The caller has nothing else to do.
constexpr int kHelperSpins = 100;
constexpr int kCallerSpins = 400;
constexpr int kYields = 4;

constexpr std::chrono::milliseconds kWaitingPeriod{10};

constexpr std::uint32_t kEnd = 1;
constexpr std::uint32_t kCall = 2;

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

// Returns whether `ready` came true before the patience ended.
template <class Ready>
bool spin_until(int spins, Ready ready) {
    for (int k = 0; k < spins; ++k) {
        if (ready()) return true;
        pause();
    }
    // Perhaps what is awaited has to happen on this very core.
    for (int k = 0; k < kYields; ++k) {
        if (ready()) return true;
        std::this_thread::yield();
    }
    return ready();
}

}  // namespace

Crew::Crew(int threads) : size_(threads) {}

Crew::~Crew() {
    calls_.fetch_or(kEnd);
    calls_.notify_all();
    for (std::thread& helper : helpers_) helper.join();
}

// The caller's own part or a task.
template <class Task>
void Crew::run(const Task& task) noexcept {
    if (failed_.load(std::memory_order_relaxed)) return;
    try {
        task();
    } catch (...) {
        if (!failed_.exchange(true, std::memory_order_relaxed)) error_ = std::current_exception();
    }
}

void Crew::share(const Loop& loop, const std::function<void()>& own,
                 const std::function<void()>& while_waiting) {
    loop_ = loop;
    error_ = nullptr;
    failed_.store(false, std::memory_order_relaxed);
    done_by_helpers_.store(0, std::memory_order_relaxed);
    left_.store(loop.count, std::memory_order_release);  // from here on the loop is open
    calls_.fetch_add(kCall);
    if (started_)
        calls_.notify_all();
    else
        start_helpers();
    if (own) run(own);
    wait_for_helpers(loop.count - work(0), while_waiting);
    if (error_) std::rethrow_exception(error_);
}

// The loop is open already: a helper is at work while the next one is being made.
void Crew::start_helpers() {
    started_ = true;
    try {
        helpers_.reserve(static_cast<std::size_t>(size_) - 1);
        for (int worker = 1; worker < size_; ++worker) helpers_.emplace_back([=, this] { help(worker); });
    } catch (const std::exception&) {
        // No thread or no memory to be had: those at hand, the caller at least, do all tasks.
    }
}

void Crew::help(int worker) {
    for (std::uint32_t seen = 0;;) {
        if (!spin_until(kHelperSpins, [&] { return calls_.load() != seen; })) calls_.wait(seen);
        seen = calls_.load();
        if (seen & kEnd) return;
        if (const std::int64_t done = work(worker); done > 0) report(done);
    }
}

void Crew::report(std::int64_t tasks) {
    done_by_helpers_.fetch_add(tasks, std::memory_order_release);
    // A caller that found too few done is asleep once the lock is to be had.
    {
        const std::lock_guard lock(reporting_);
    }
    reported_.notify_one();
}

// Takes tasks until none is left; returns how many. The exchange that takes a task synchronises with the
// store that opened the loop, whichever loop that is: every write to `left_` in between is an exchange too.
std::int64_t Crew::work(int worker) {
    std::int64_t done = 0;
    while (left_.load(std::memory_order_relaxed) > 0) {
        const std::int64_t left = left_.fetch_sub(1, std::memory_order_acquire);
        if (left <= 0) break;
        run([&] { loop_.run(loop_.body, worker, loop_.count - left); });
        ++done;
    }
    return done;
}

// `tasks` are with the helpers. All others have been done: who holds one is at work on it now.
void Crew::wait_for_helpers(std::int64_t tasks, const std::function<void()>& while_waiting) {
    const auto done = [&] { return done_by_helpers_.load(std::memory_order_acquire) == tasks; };
    if (spin_until(kCallerSpins, done)) return;
    std::unique_lock lock(reporting_);
    if (!while_waiting) {
        reported_.wait(lock, done);
        return;
    }
    while (!reported_.wait_for(lock, kWaitingPeriod, done)) {
        lock.unlock();
        while_waiting();
        lock.lock();
    }
}

}  // namespace rebasin_fast
