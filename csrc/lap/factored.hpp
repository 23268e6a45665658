// The assignment problem whose costs are inner products: c_ij = a_i . b_j, of which no matrix is ever made.
#pragma once

#include <vector>

#include "lap/factored_rows.hpp"
#include "lap/lap.hpp"

namespace rebasin_fast {

struct FactoredResult {
    Result result;
    std::vector<double> products;  // of the chosen cells, in their order
};

// Minimises, or maximises, the sum of a_i . b_j over the chosen cells, each product as FactoredRows defines
// it. Status::invalid_entry for factors that are not finite, or so large that sums of products could overflow
// F. Options::method is not looked at. Memory is linear in a.rows + b.rows, except that small matrices are
// made.
template <class F>
FactoredResult solve_factored(const FactorView<F>& a, const FactorView<F>& b, const Options& options);

}  // namespace rebasin_fast
