// A few threads that share loops with the calling one.
//
// One counter deals the tasks, and who takes one from it reads the loop's description only afterwards: the
// loop cannot end while a task of it is unreported, so there is nothing stale to read. A helper that wakes
// late takes a task of whichever loop is open by then, or finds none; nobody waits for it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace rebasin_fast {

class Crew {
  public:
    // `threads` >= 1, the calling one included. The helpers start with the first loop of two tasks or more;
    // where the system refuses a thread there are fewer of them.
    explicit Crew(int threads);
    ~Crew();
    Crew(const Crew&) = delete;
    Crew& operator=(const Crew&) = delete;

    int size() const { return size_; }

    // body(worker, k) for every k in [0, count), dealt in ascending order, one at a time; worker in
    // [0, size()) tells scratch apart, 0 is the calling thread. Returns when all are done. After an exception
    // no further task is begun, and the first one is rethrown here. Sharing a loop costs a few microseconds:
    // give it tasks that are worth it. One loop at a time: a body may use another crew, not this one.
    //
    // `while_waiting`, which must not throw, is called every few milliseconds while the calling thread has
    // nothing left to do but to wait for the helpers.
    template <class Body>
    void for_each(std::int64_t count, Body&& body, const std::function<void()>& while_waiting = nullptr) {
        if (size_ == 1 || count <= 1) {
            for (std::int64_t k = 0; k < count; ++k) body(0, k);
            return;
        }
        share(loop_over(count, body), nullptr, while_waiting);
    }

    // The same while the calling thread first does `own`, which must not depend on what the tasks do, and
    // then helps with them. Without helpers the tasks come first.
    template <class Body, class Own>
    void for_each_beside(std::int64_t count, Body&& body, Own&& own) {
        if (size_ == 1) {
            for (std::int64_t k = 0; k < count; ++k) body(0, k);
            own();
            return;
        }
        share(loop_over(count, body), [&] { own(); }, nullptr);
    }

  private:
    struct Loop {
        std::int64_t count = 0;
        void* body = nullptr;
        void (*run)(void* body, int worker, std::int64_t k) = nullptr;
    };

    template <class Body>
    static Loop loop_over(std::int64_t count, Body& body) {
        return {
            count, const_cast<void*>(static_cast<const void*>(std::addressof(body))),
            [](void* callable, int worker, std::int64_t k) { (*static_cast<Body*>(callable))(worker, k); }};
    }

    void share(const Loop& loop, const std::function<void()>& own,
               const std::function<void()>& while_waiting);
    void start_helpers();
    void help(int worker);
    std::int64_t work(int worker);
    template <class Task>
    void run(const Task& task) noexcept;
    void report(std::int64_t tasks);
    void wait_for_helpers(std::int64_t tasks, const std::function<void()>& while_waiting);

    const int size_;
    std::vector<std::thread> helpers_;
    bool started_ = false;

    // Written by the caller while no loop is open, read by who holds a task.
    Loop loop_;
    std::exception_ptr error_;  // of the one who set failed_

    // Each on a cache line of its own: they are written at different times by different threads.
    alignas(64) std::atomic<std::int64_t> left_{0};  // tasks not yet dealt; <= 0 when no loop is open
    std::atomic<bool> failed_{false};
    alignas(64) std::atomic<std::int64_t> done_by_helpers_{0};
    std::mutex reporting_;  // held after done_by_helpers_ has grown, so that no sleeping caller misses it
    std::condition_variable reported_;
    alignas(64) std::atomic<std::uint32_t> calls_{0};  // moves by 2 with every loop, odd at the end: what
                                                       // helpers sleep on
};

}  // namespace rebasin_fast
