#include "lap/certificate.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <type_traits>

#include "lap/oriented.hpp"
#include "lap/simd/kernels.hpp"

namespace rebasin_fast {
namespace {

template <class Num, class T>
Num signed_cost(T c, bool maximize) {
    const Num x = static_cast<Num>(c);
    return maximize ? -x : x;
}

template <class T>
std::vector<double> contiguous_row_minima(const TypedView<T>& cost, bool maximize,
                                          const std::vector<double>& v) {
    std::vector<double> padded_v(simd::padded(cost.cols), -kForbidden);
    std::copy(v.begin(), v.begin() + cost.cols, padded_v.begin());
    const auto& kernels = simd::kernels<T>();
    std::vector<double> minima(cost.rows);
    for (std::int64_t i = 0; i < cost.rows; ++i)
        minima[i] = kernels.reduced_min(cost.row(i), maximize ? -1.0 : 1.0, padded_v.data(), cost.cols);
    return minima;
}

double magnitude(double x) {
    return std::abs(x);
}
double magnitude(int128 x) {
    return static_cast<double>(x < 0 ? -x : x);
}

// The check itself, on a problem with rows <= cols, whose column duals must be <= 0 and 0 on unmatched
// columns when there are more columns than rows.
template <class Num, class T>
Proof prove_oriented(const TypedView<T>& cost, bool maximize, const std::vector<std::int64_t>& col_of_row,
                     const std::vector<Num>& u, std::vector<Num> v) {
    Proof proof;
    Num gap = 0, violation = 0;
    double scale = 0.0;
    if (cost.rows < cost.cols)
        for (Num& vj : v) {
            violation = std::max(violation, vj);
            vj = std::min<Num>(vj, 0);
        }
    std::vector<bool> matched(v.size(), false);
    const std::vector<Num> minima = row_minima<Num>(cost, maximize, v);
    for (std::int64_t i = 0; i < cost.rows; ++i) {
        const std::int64_t j = col_of_row[i];
        matched[j] = true;
        const Num c = signed_cost<Num>(cost.at(i, j), maximize);
        violation = std::max<Num>(violation, u[i] - minima[i]);
        gap += c - v[j] - std::min(u[i], minima[i]);
        scale += magnitude(c) + magnitude(v[j]) + magnitude(u[i]);
    }
    if (cost.rows < cost.cols)
        for (std::size_t j = 0; j < v.size(); ++j)
            if (!matched[j]) gap -= v[j];
    proof.gap = static_cast<double>(gap);
    proof.violation = static_cast<double>(violation);
    proof.scale = scale;
    return proof;
}

template <class Num, class Dual>
std::vector<Num> signed_duals(const Dual* duals, std::int64_t n, bool maximize) {
    std::vector<Num> out(n);
    for (std::int64_t k = 0; k < n; ++k) out[k] = signed_cost<Num>(duals[k], maximize);
    return out;
}

template <class Num, class Dual>
Proof prove_as(const MatrixView& cost, bool maximize, const std::vector<std::int64_t>& row_ind,
               const std::vector<std::int64_t>& col_ind, const Dual* u, const Dual* v) {
    const bool turn = cost.rows > cost.cols;
    const MatrixView view = turn ? cost.transposed() : cost;
    std::vector<std::int64_t> col_of_row(view.rows);
    for (std::size_t k = 0; k < row_ind.size(); ++k)
        (turn ? col_of_row[col_ind[k]] : col_of_row[row_ind[k]]) = turn ? row_ind[k] : col_ind[k];
    const auto short_side = signed_duals<Num>(turn ? v : u, view.rows, maximize);
    const auto long_side = signed_duals<Num>(turn ? u : v, view.cols, maximize);
    return visit(view, [&](const auto& c) {
        return prove_oriented<Num>(c, maximize, col_of_row, short_side, long_side);
    });
}

}  // namespace

template <class Num, class T>
std::vector<Num> row_minima(const TypedView<T>& cost, bool maximize, const std::vector<Num>& v) {
    if constexpr (std::is_same_v<Num, double>)
        if (cost.col_stride == 1) return contiguous_row_minima(cost, maximize, v);
    std::vector<Num> minima(cost.rows, unreachable<Num>());
    const auto lower = [&](std::int64_t i, std::int64_t j) {
        minima[i] = std::min<Num>(minima[i], signed_cost<Num>(cost.at(i, j), maximize) - v[j]);
    };
    if (std::abs(cost.col_stride) <= std::abs(cost.row_stride)) {  // walk along memory
        for (std::int64_t i = 0; i < cost.rows; ++i)
            for (std::int64_t j = 0; j < cost.cols; ++j) lower(i, j);
    } else {
        for (std::int64_t j = 0; j < cost.cols; ++j)
            for (std::int64_t i = 0; i < cost.rows; ++i) lower(i, j);
    }
    return minima;
}

Proof prove(const MatrixView& cost, bool maximize, const std::vector<std::int64_t>& row_ind,
            const std::vector<std::int64_t>& col_ind, const double* u, const double* v) {
    return prove_as<double>(cost, maximize, row_ind, col_ind, u, v);
}

Proof prove(const MatrixView& cost, bool maximize, const std::vector<std::int64_t>& row_ind,
            const std::vector<std::int64_t>& col_ind, const std::int64_t* u, const std::int64_t* v) {
    return prove_as<int128>(cost, maximize, row_ind, col_ind, u, v);
}

#define REBASIN_FAST_INSTANTIATE(T) \
    template std::vector<double> row_minima<double, T>(const TypedView<T>&, bool, const std::vector<double>&);
#include "lap/simd/element_types.inc"
#undef REBASIN_FAST_INSTANTIATE
template std::vector<int128> row_minima<int128, std::int64_t>(const TypedView<std::int64_t>&, bool,
                                                              const std::vector<int128>&);
template std::vector<int128> row_minima<int128, std::uint64_t>(const TypedView<std::uint64_t>&, bool,
                                                               const std::vector<int128>&);

}  // namespace rebasin_fast
