#include "cuda/batch.cuh"

namespace rebasin_fast::cuda {

std::vector<Outcome> solve_batch(const std::vector<BatchProblem>& problems, bool maximize, Stream stream) {
    return solve_batch_on(problems, maximize, stream);
}

}  // namespace rebasin_fast::cuda
