// The target of libFuzzer: `make fuzz`.
#include "tests/fuzz_problem.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    rebasin_fast::fuzzing::check(data, size);
    return 0;
}
