// One large problem whose costs are inner products, of which no matrix is ever made.
#pragma once

#include <cstdint>

#include "cuda/device_matrix.hpp"
#include "cuda/solver.hpp"

namespace rebasin_fast::cuda {

struct FactoredOptions {
    // Matrices of up to this many products are made. Tests set it to 0.
    std::int64_t small_matrix = std::int64_t{1} << 18;
    // Bytes of the rows that exist at a time, or so; at least 64 rows do.
    std::int64_t panel_bytes = std::int64_t{1} << 28;
};

// The largest magnitude among `count` floats or doubles: infinity or NaN where there is one. Waits for the
// stream.
double largest_magnitude(const void* numbers, std::int64_t count, bool wide, Stream stream);

// As solve(), for costs that are finite and whose sums fit float64. Memory is linear in rows + cols, beside
// the panel.
SolveOutcome solve_factored(const Factors& factors, const DeviceAnswer& answer, const SolveOptions& options,
                            const FactoredOptions& how, Stream stream);

}  // namespace rebasin_fast::cuda
