#include "cuda/factored_solver.cuh"

namespace rebasin_fast::cuda {

SolveOutcome solve(const DeviceMatrix& costs, const DeviceAnswer& answer, const SolveOptions& options,
                   Stream stream) {
    return solve_on(costs, answer, options, stream);
}

SolveOutcome solve_factored(const Factors& factors, const DeviceAnswer& answer, const SolveOptions& options,
                            const FactoredOptions& how, Stream stream) {
    return solve_factored_on(factors, answer, options, how, stream);
}

double largest_magnitude(const void* numbers, std::int64_t count, bool wide, Stream stream) {
    return wide ? largest_of<double>(numbers, count, stream) : largest_of<float>(numbers, count, stream);
}

}  // namespace rebasin_fast::cuda
