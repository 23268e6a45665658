// The crew: every task once, whoever does it, and nothing of a loop touched after it has returned. Meant for
// the thread sanitizer, and for the address sanitizer, which sees a late helper read a loop's frame.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "lap/crew.hpp"
#include "tests/check.hpp"

namespace rebasin_fast {
namespace {

// One loop with a frame of its own: plain counters, so that a task done twice or too late is a race.
bool all_done_once(Crew& crew, std::int64_t count) {
    std::vector<int> times(static_cast<std::size_t>(count), 0);
    std::vector<std::int64_t> by(static_cast<std::size_t>(crew.size()), 0);
    crew.for_each(count, [&](int worker, std::int64_t k) {
        ++times[static_cast<std::size_t>(k)];
        ++by[static_cast<std::size_t>(worker)];
    });
    for (const int t : times)
        if (t != 1) return false;
    return std::accumulate(by.begin(), by.end(), std::int64_t{0}) == count;
}

TEST_CASE(every_count, "every task is done once, for every size and count") {
    for (int threads = 1; threads <= 9; ++threads) {
        Crew crew(threads);
        CHECK(crew.size() == threads);
        for (const std::int64_t count : {0, 1, 2, 3, 7, 8, 9, 100, 1000})
            CHECK_WITH(all_done_once(crew, count), std::to_string(threads) + " x " + std::to_string(count));
    }
}

TEST_CASE(tiny_loops, "thousands of tiny loops, none of which sees another") {
    for (const int threads : {2, 3, 8}) {
        Crew crew(threads);
        int right = 0;
        for (int loop = 0; loop < 10000; ++loop) right += all_done_once(crew, 2 + loop % 5);
        CHECK(right == 10000);
    }
}

TEST_CASE(late_helpers, "loops that come while helpers fall asleep, sleep, or wake") {
    Crew crew(4);
    for (int loop = 0; loop < 400; ++loop) {
        CHECK(all_done_once(crew, 4));
        std::this_thread::sleep_for(std::chrono::microseconds(loop % 40));
    }
}

TEST_CASE(dynamic, "a long task does not hold up the others") {
    Crew crew(2);
    std::atomic<int> others{0};
    // The first task ends only when all others are done, so they cannot have been dealt beforehand.
    crew.for_each(50, [&](int, std::int64_t k) {
        if (k > 0)
            ++others;
        else
            while (others.load() < 49) std::this_thread::yield();
    });
    CHECK(others.load() == 49);
}

TEST_CASE(one_thread, "alone it is a plain loop, in order, on the calling thread") {
    Crew crew(1);
    const std::thread::id caller = std::this_thread::get_id();
    std::vector<std::int64_t> order;
    crew.for_each(5, [&](int worker, std::int64_t k) {
        CHECK(worker == 0 && std::this_thread::get_id() == caller);
        order.push_back(k);
    });
    CHECK((order == std::vector<std::int64_t>{0, 1, 2, 3, 4}));
}

TEST_CASE(workers, "a worker's number belongs to one thread, 0 to the caller") {
    Crew crew(4);
    std::vector<std::thread::id> threads(4);
    threads[0] = std::this_thread::get_id();
    for (int loop = 0; loop < 200; ++loop)
        crew.for_each(16, [&](int worker, std::int64_t) {
            std::thread::id& owner = threads[static_cast<std::size_t>(worker)];
            if (owner == std::thread::id()) owner = std::this_thread::get_id();
            if (owner != std::this_thread::get_id()) throw std::logic_error("two threads, one number");
            std::this_thread::sleep_for(std::chrono::microseconds(5));
        });
}

std::string what_is_thrown(Crew& crew, std::int64_t count, std::int64_t bad) {
    try {
        crew.for_each(count, [&](int, std::int64_t k) {
            if (k >= bad) throw std::runtime_error("task " + std::to_string(k));
        });
    } catch (const std::runtime_error& error) {
        return error.what();
    }
    return "";
}

TEST_CASE(exceptions, "an exception comes out, whoever threw it, and the crew goes on") {
    for (int threads = 1; threads <= 4; ++threads) {
        Crew crew(threads);
        for (int loop = 0; loop < 500; ++loop) {
            CHECK(what_is_thrown(crew, 20, 19) == "task 19");
            CHECK(what_is_thrown(crew, 20, 20).empty());
            CHECK(what_is_thrown(crew, 20, 0).starts_with("task "));
            CHECK(all_done_once(crew, 5));
        }
    }
}

TEST_CASE(helper_throws, "a helper's exception reaches the caller") {
    Crew crew(2);
    std::atomic<bool> thrown{false};
    std::string caught;
    try {
        crew.for_each(2, [&](int worker, std::int64_t) {
            if (worker == 0) {
                while (!thrown.load()) std::this_thread::yield();
            } else {
                thrown.store(true);
                throw std::runtime_error("helper");
            }
        });
    } catch (const std::runtime_error& error) {
        caught = error.what();
    }
    CHECK(caught == "helper");
}

TEST_CASE(no_task_after, "after an exception no further task is begun") {
    Crew crew(1);
    int begun = 0;
    try {
        crew.for_each(10, [&](int, std::int64_t k) {
            ++begun;
            if (k == 3) throw std::runtime_error("stop");
        });
    } catch (const std::runtime_error&) {
    }
    CHECK(begun == 4);
}

TEST_CASE(nested, "a body may use a crew of its own") {
    Crew outer(3);
    std::vector<std::int64_t> sums(12, 0);
    for (int loop = 0; loop < 20; ++loop)
        outer.for_each(12, [&](int, std::int64_t k) {
            Crew inner(2);
            std::atomic<std::int64_t> sum{0};
            for (int turn = 0; turn < 3; ++turn)
                inner.for_each(10, [&](int, std::int64_t x) { sum += x + k; });
            sums[static_cast<std::size_t>(k)] += sum.load();
        });
    for (std::int64_t k = 0; k < 12; ++k) CHECK(sums[static_cast<std::size_t>(k)] == 20 * 3 * (45 + 10 * k));
}

TEST_CASE(waiting, "a caller that waits is heard of, and its question can end the wait") {
    Crew crew(2);
    for (int loop = 0; loop < 5; ++loop) {
        std::atomic<bool> helper_began{false}, give_up{false};
        int asked = 0;
        const auto body = [&](int worker, std::int64_t) {
            if (worker == 0) {
                while (!helper_began.load()) std::this_thread::yield();
            } else {
                helper_began.store(true);
                while (!give_up.load()) std::this_thread::yield();
            }
        };
        crew.for_each(2, body, [&] { give_up.store(++asked == 3); });
        CHECK(asked >= 3);
    }
}

TEST_CASE(beside, "tasks are done while the caller does its own part, which it does once and by itself") {
    const std::thread::id caller = std::this_thread::get_id();
    for (int threads = 1; threads <= 4; ++threads) {
        Crew crew(threads);
        for (int loop = 0; loop < 200; ++loop) {
            std::atomic<int> done{0};
            int own = 0;
            crew.for_each_beside(
                7, [&](int, std::int64_t) { ++done; },
                [&] {
                    ++own;
                    CHECK(std::this_thread::get_id() == caller);
                    // Of a crew of one all are done by now; else helpers do not wait for the caller.
                    while (done.load() < 7) std::this_thread::yield();
                });
            CHECK(own == 1 && done.load() == 7);
        }
    }
}

TEST_CASE(own_throws, "an exception from the caller's own part comes when the tasks begun have ended") {
    for (int threads = 1; threads <= 3; ++threads) {
        Crew crew(threads);
        std::atomic<int> begun{0}, ended{0};
        std::string caught;
        try {
            crew.for_each_beside(
                50,
                [&](int, std::int64_t) {
                    ++begun;
                    std::this_thread::yield();
                    ++ended;
                },
                [] { throw std::runtime_error("own"); });
        } catch (const std::runtime_error& error) {
            caught = error.what();
        }
        CHECK(caught == "own");
        CHECK(begun.load() == ended.load());
        CHECK(all_done_once(crew, 9));
    }
}

TEST_CASE(side_by_side, "crews of different threads know nothing of each other") {
    std::atomic<int> right{0};
    std::vector<std::thread> callers;
    for (int c = 0; c < 3; ++c)
        callers.emplace_back([&] {
            Crew crew(3);
            for (int loop = 0; loop < 500; ++loop) right += all_done_once(crew, 3 + loop % 3);
        });
    for (std::thread& caller : callers) caller.join();
    CHECK(right.load() == 1500);
}

TEST_CASE(short_lives, "crews that end at once: unused, after one loop, with helpers awake or asleep") {
    for (int k = 0; k < 300; ++k) {
        Crew unused(4), once(3);
        CHECK(all_done_once(once, 6));
        if (k % 10 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
}

}  // namespace
}  // namespace rebasin_fast

int main() {
    return rebasin_fast::testing::run_all();
}
