// Many problems at once on the device: a warp or a block each.
#pragma once

#include <vector>

#include "cuda/device_matrix.hpp"
#include "cuda/runtime.hpp"

namespace rebasin_fast::cuda {

struct BatchProblem {
    DeviceMatrix costs;
    DeviceAnswer answer;
};

enum class Outcome : std::uint8_t { optimal, infeasible, invalid_entry };

// Solves every problem exactly, on `stream`, and waits for it: outcomes come back to the host, answers stay
// where the problems say. Of a problem that is not optimal the answer is not written. Any shapes and element
// types, mixed; none empty. Throws Error.
std::vector<Outcome> solve_batch(const std::vector<BatchProblem>& problems, bool maximize, Stream stream);

// Problems of one shape and type, at equal distances: `first` and those after it, whose answers follow one
// another without gaps.
struct BatchStack {
    BatchProblem first;
    std::int64_t count = 0;
    std::int64_t elements_apart = 0;
};

// As solve_batch().
std::vector<Outcome> solve_stack(const BatchStack& stack, bool maximize, Stream stream);

}  // namespace rebasin_fast::cuda
