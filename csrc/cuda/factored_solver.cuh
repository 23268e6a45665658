// solve_factored(): the solver for one large problem over rows that are products.
#pragma once

#include <algorithm>

#include "cuda/factored_solver.hpp"
#include "cuda/solver.cuh"

namespace rebasin_fast::cuda {

template <class F>
double largest_of(const void* numbers, std::int64_t count, Stream stream) {
    Buffer<unsigned long long> largest(1, stream);
    largest.fill_with_byte(0);
    if (count > 0)
        launch(find_largest<F>, {blocks_for(count, 4096), 256}, stream, static_cast<const F*>(numbers), count,
               largest.get());
    double found;
    copy_to_host(&found, largest.get(), sizeof found, stream);
    return found;
}

inline SolveOutcome solve_made(const Factors& factors, const DeviceAnswer& answer,
                               const SolveOptions& options, Stream stream) {
    Buffer<double> matrix(std::int64_t{factors.rows} * factors.cols, stream);
    launch_multiply(factors, Wanted{nullptr, nullptr, 0, 1, factors.rows}, matrix.get(), factors.rows,
                    stream);
    return solve_on({matrix.get(), Element::f64, factors.rows, factors.cols, factors.cols, 1}, answer,
                    options, stream);
}

inline SolveOutcome solve_factored_on(const Factors& factors, const DeviceAnswer& answer,
                                      const SolveOptions& options, const FactoredOptions& how,
                                      Stream stream) {
    if (std::int64_t{factors.rows} * factors.cols <= how.small_matrix)
        return solve_made(factors, answer, options, stream);
    const bool turned = factors.rows > factors.cols;
    RowSource<double> source(turned ? factors.transposed() : factors, options.maximize ? -1.0 : 1.0,
                             how.panel_bytes, stream);
    return DeviceSolver<double>(std::move(source), turned, false, options, stream).run(answer);
}

}  // namespace rebasin_fast::cuda
