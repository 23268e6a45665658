#include "lap/certificate.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <type_traits>

#include "lap/simd/kernels.hpp"

namespace rebasin_fast {
namespace {

// No sum of 2^32 differences overflows after this.
constexpr double kShrink = 0x1p-64;

// What a cost or a dual counts as: times -1 when maximising and, in float64, times a power of two.
template <class Num, class T>
Num scaled(T c, double factor) {
    const Num x = static_cast<Num>(c);
    if constexpr (std::is_same_v<Num, double>)
        return factor * x;
    else
        return factor < 0.0 ? -x : x;
}

template <class T>
std::vector<double> contiguous_row_minima(const TypedView<T>& cost, double factor,
                                          const std::vector<double>& v) {
    std::vector<double> padded_v(simd::padded(cost.cols), -kForbidden);
    std::copy(v.begin(), v.begin() + cost.cols, padded_v.begin());
    const auto& kernels = simd::kernels<T>();
    std::vector<double> minima(cost.rows);
    for (std::int64_t i = 0; i < cost.rows; ++i)
        minima[i] = kernels.reduced_min(cost.row(i), factor, padded_v.data(), cost.cols);
    return minima;
}

template <class Num, class T>
std::vector<Num> minima_of_rows(const TypedView<T>& cost, double factor, const std::vector<Num>& v) {
    if constexpr (std::is_same_v<Num, double> && !std::is_same_v<T, Half>)
        if (cost.col_stride == 1) return contiguous_row_minima(cost, factor, v);
    std::vector<Num> minima(cost.rows, unreachable<Num>());
    const auto lower = [&](std::int64_t i, std::int64_t j) {
        minima[i] = std::min<Num>(minima[i], scaled<Num>(cost.at(i, j), factor) - v[j]);
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

double magnitude(double x) {
    return std::abs(x);
}
double magnitude(int128 x) {
    return to_double(x < 0 ? -x : x);
}

// The check itself, on a problem with rows <= cols, whose column duals must be <= 0 and 0 on unmatched
// columns when there are more columns than rows.
template <class Num, class T>
Proof prove_oriented(const TypedView<T>& cost, double factor, const std::vector<std::int64_t>& col_of_row,
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
    const std::vector<Num> minima = minima_of_rows<Num>(cost, factor, v);
    for (std::int64_t i = 0; i < cost.rows; ++i) {
        const std::int64_t j = col_of_row[i];
        matched[j] = true;
        const Num c = scaled<Num>(cost.at(i, j), factor);
        violation = std::max<Num>(violation, u[i] - minima[i]);
        gap += c - v[j] - std::min(u[i], minima[i]);
        scale += magnitude(c) + magnitude(v[j]) + magnitude(u[i]);
    }
    if (cost.rows < cost.cols)
        for (std::size_t j = 0; j < v.size(); ++j)
            if (!matched[j]) gap -= v[j];
    proof.gap = to_double(gap);
    proof.violation = to_double(violation);
    proof.scale = scale;
    return proof;
}

template <class Num, class Dual>
std::vector<Num> scaled_duals(const Dual* duals, std::int64_t n, double factor) {
    std::vector<Num> out(n);
    for (std::int64_t k = 0; k < n; ++k) out[k] = scaled<Num>(duals[k], factor);
    return out;
}

template <class Num, class Dual>
Proof prove_scaled(double factor, const MatrixView& cost, const std::vector<std::int64_t>& row_ind,
                   const std::vector<std::int64_t>& col_ind, const Dual* u, const Dual* v) {
    const bool turn = cost.rows > cost.cols;
    const MatrixView view = turn ? cost.transposed() : cost;
    std::vector<std::int64_t> col_of_row(view.rows);
    for (std::size_t k = 0; k < row_ind.size(); ++k)
        (turn ? col_of_row[col_ind[k]] : col_of_row[row_ind[k]]) = turn ? row_ind[k] : col_ind[k];
    const auto short_side = scaled_duals<Num>(turn ? v : u, view.rows, factor);
    const auto long_side = scaled_duals<Num>(turn ? u : v, view.cols, factor);
    return visit(view, [&]<class T>(const TypedView<T>& c) {
        if constexpr (std::is_same_v<Num, int128> && std::is_floating_point_v<Widened<T>>)
            return Proof{};  // the caller has seen to it that these are integers
        else
            return prove_oriented<Num>(c, factor, col_of_row, short_side, long_side);
    });
}

}  // namespace

template <class T>
bool holds_in_integers(const TypedView<T>& cost, bool maximize, const Matching<double>& matching) {
    const double factor = maximize ? -1.0 : 1.0;
    const std::vector<std::int64_t> col_of_row(matching.col_of_row.begin(), matching.col_of_row.end());
    const std::vector<int128> v(matching.v.begin(), matching.v.end());
    std::vector<int128> u(col_of_row.size());
    for (std::size_t i = 0; i < u.size(); ++i)
        u[i] = scaled<int128>(cost.at(static_cast<std::int64_t>(i), col_of_row[i]), factor) -
               v[static_cast<std::size_t>(col_of_row[i])];
    const Proof proof = prove_oriented<int128>(cost, factor, col_of_row, u, v);
    return proof.gap == 0.0 && proof.violation == 0.0;
}

template bool holds_in_integers(const TypedView<std::int64_t>&, bool, const Matching<double>&);
template bool holds_in_integers(const TypedView<std::uint64_t>&, bool, const Matching<double>&);

template <class Num, class T>
std::vector<Num> row_minima(const TypedView<T>& cost, bool maximize, const std::vector<Num>& v) {
    return minima_of_rows(cost, maximize ? -1.0 : 1.0, v);
}

Proof prove(const MatrixView& cost, bool maximize, const std::vector<std::int64_t>& row_ind,
            const std::vector<std::int64_t>& col_ind, const double* u, const double* v) {
    const double sign = maximize ? -1.0 : 1.0;
    Proof proof = prove_scaled<double>(sign, cost, row_ind, col_ind, u, v);
    if (std::isfinite(proof.gap) && std::isfinite(proof.violation) && std::isfinite(proof.scale))
        return proof;
    // Something overflowed, maybe on the way only. What a power of two takes from the smallest numbers is
    // nothing beside a scale like this.
    proof = prove_scaled<double>(kShrink * sign, cost, row_ind, col_ind, u, v);
    return {proof.gap / kShrink, proof.violation / kShrink, proof.scale / kShrink};
}

Proof prove(const MatrixView& cost, bool maximize, const std::vector<std::int64_t>& row_ind,
            const std::vector<std::int64_t>& col_ind, const std::int64_t* u, const std::int64_t* v) {
    if (cost.type == ElementType::f16 || cost.type == ElementType::f32 || cost.type == ElementType::f64)
        return prove(cost, maximize, row_ind, col_ind, std::vector<double>(u, u + cost.rows).data(),
                     std::vector<double>(v, v + cost.cols).data());
    return prove_scaled<int128>(maximize ? -1.0 : 1.0, cost, row_ind, col_ind, u, v);
}

#define REBASIN_FAST_INSTANTIATE(T) \
    template std::vector<double> row_minima<double, T>(const TypedView<T>&, bool, const std::vector<double>&);
#include "lap/simd/element_types.inc"
REBASIN_FAST_INSTANTIATE(Half)
#undef REBASIN_FAST_INSTANTIATE
template std::vector<int128> row_minima<int128, std::int64_t>(const TypedView<std::int64_t>&, bool,
                                                              const std::vector<int128>&);
template std::vector<int128> row_minima<int128, std::uint64_t>(const TypedView<std::uint64_t>&, bool,
                                                               const std::vector<int128>&);

}  // namespace rebasin_fast
