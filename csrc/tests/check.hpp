// The few lines of test harness the core needs: named cases, a check that reports where it failed and with
// what.
#pragma once

#include <cstdio>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace rebasin_fast::testing {

struct Case {
    std::string name;
    std::function<void()> body;
};

inline std::vector<Case>& cases() {
    static std::vector<Case> all;
    return all;
}

inline int failures = 0;

struct Register {
    Register(std::string name, std::function<void()> body) {
        cases().push_back({std::move(name), std::move(body)});
    }
};

inline void report(bool holds, const char* what, const char* file, int line, const std::string& context) {
    if (holds) return;
    ++failures;
    std::fprintf(stderr, "%s:%d: does not hold: %s %s\n", file, line, what, context.c_str());
}

inline int run_all() {
    for (const Case& c : cases()) {
        const int before = failures;
        c.body();
        std::printf("%s %s\n", failures == before ? "ok  " : "FAIL", c.name.c_str());
    }
    std::printf("%zu cases, %d checks failed\n", cases().size(), failures);
    return failures == 0 && !cases().empty() ? 0 : 1;
}

}  // namespace rebasin_fast::testing

#define CHECK_WITH(condition, context) \
    ::rebasin_fast::testing::report(static_cast<bool>(condition), #condition, __FILE__, __LINE__, context)
#define CHECK(condition) CHECK_WITH(condition, "")
#define TEST_CASE(identifier, name)                                                          \
    static void identifier();                                                                \
    static const ::rebasin_fast::testing::Register register_##identifier(name, &identifier); \
    static void identifier()
