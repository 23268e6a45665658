#include "cuda/solver.cuh"

namespace rebasin_fast::cuda {

SolveOutcome solve(const DeviceMatrix& costs, const DeviceAnswer& answer, const SolveOptions& options,
                   Stream stream) {
    return solve_on(costs, answer, options, stream);
}

}  // namespace rebasin_fast::cuda
