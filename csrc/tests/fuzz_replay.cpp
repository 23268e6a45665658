// The fuzzer's checks without a fuzzer, with any compiler: on the files named, which is how its findings are
// had again, or on pseudo-random inputs, the same ones on every machine.
#include <fstream>
#include <iterator>

#include "tests/fuzz_problem.hpp"

namespace {

constexpr int kInputs = 4000;

std::vector<std::uint8_t> input(int k) {
    std::mt19937_64 random(static_cast<std::uint64_t>(k));
    // Short ones leave most of the matrix to the generator they seed.
    std::vector<std::uint8_t> bytes(32 + random() % 512);
    for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random());
    return bytes;
}

}  // namespace

int main(int argc, char** argv) {
    for (int k = 1; k < argc; ++k) {
        std::ifstream file(argv[k], std::ios::binary);
        if (!file) {
            std::fprintf(stderr, "%s cannot be read\n", argv[k]);
            return 1;
        }
        const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
        rebasin_fast::fuzzing::check(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    }
    if (argc > 1) return 0;
    for (int k = 0; k < kInputs; ++k) {
        const auto bytes = input(k);
        rebasin_fast::fuzzing::check(bytes.data(), bytes.size());
    }
    std::printf("%d inputs hold\n", kInputs);
}
