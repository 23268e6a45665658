#include "cuda/batch.cuh"

namespace rebasin_fast::cuda {

std::vector<Outcome> solve_batch(const std::vector<BatchProblem>& problems, bool maximize, Stream stream) {
    return solve_batch_on(problems, maximize, stream);
}

std::vector<Outcome> solve_stack(const BatchStack& stack, bool maximize, Stream stream) {
    return solve_stack_on(stack, maximize, stream);
}

}  // namespace rebasin_fast::cuda
