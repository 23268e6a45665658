// The one body of the row kernels, included by one translation unit per instruction set, which defines
//   REBASIN_FAST_SIMD_NAMESPACE   the namespace of this copy
//   REBASIN_FAST_SIMD_LANES       float64 lanes per vector: 2, 4 or 8
// Written with the compilers' generic vectors. Nothing of the standard library is used here: an inline
// function compiled for a wide instruction set could be the copy the linker keeps for the whole program.
//
// Every operation is a single rounded subtraction, a comparison or a selection, and ties go to the lowest
// column, so all instruction sets return the same bits.

#include "lap/simd/kernels.hpp"

namespace rebasin_fast::simd::REBASIN_FAST_SIMD_NAMESPACE {
namespace {

constexpr std::int64_t L = REBASIN_FAST_SIMD_LANES;
static_assert(kPadding % L == 0);
constexpr double kInf = __builtin_inf();

template <class E>
struct VectorOf {
    typedef E type __attribute__((vector_size(sizeof(E) * L)));
};
using D = VectorOf<double>::type;
using I64 = VectorOf<std::int64_t>::type;
using I32 = VectorOf<std::int32_t>::type;

template <class V, class E>
inline V load(const E* p) {
    V x;
    __builtin_memcpy(&x, p, sizeof(V));
    return x;
}

template <class V, class E>
inline void store(E* p, V x) {
    __builtin_memcpy(p, &x, sizeof(V));
}

inline D splat(double x) {
    return D{} + x;
}

inline I64 lane_numbers() {
    I64 x;
    for (std::int64_t l = 0; l < L; ++l) x[l] = l;
    return x;
}

// Costs j .. j + L - 1 of a row, signed, as float64. The last vector of a row is filled up with zeros.
template <class T>
struct RowReader {
    const T* row;
    double sign;
    std::int64_t n;

    using V = typename VectorOf<T>::type;

    D operator()(std::int64_t j) const {
        if (j + L <= n) return __builtin_convertvector(load<V>(row + j), D) * sign;
        T tail[L] = {};
        for (std::int64_t l = 0; j + l < n; ++l) tail[l] = row[j + l];
        return __builtin_convertvector(load<V>(tail), D) * sign;
    }
};

inline bool any(I64 mask) {
    std::int64_t bits = 0;
    for (std::int64_t l = 0; l < L; ++l) bits |= mask[l];
    return bits != 0;
}

inline double smallest(D x) {
    double best = x[0];
    for (std::int64_t l = 1; l < L; ++l) best = x[l] < best ? x[l] : best;
    return best;
}

template <class T>
void scan(const T* row, double sign, std::int64_t n, Extremes* seen) {
    const RowReader<T> cost{row, sign, n};
    D largest = splat(seen->largest_magnitude);
    I64 invalid{}, forbidden{};
    for (std::int64_t j = 0; j < n; j += L) {
        const D c = cost(j);
        const D magnitude = c < 0.0 ? -c : c;
        invalid |= ~(c > -kInf);
        forbidden |= (c == kInf);
        largest = (magnitude > largest) & (magnitude < kInf) ? magnitude : largest;
    }
    seen->largest_magnitude = -smallest(-largest);
    seen->invalid |= any(invalid);
    seen->forbidden |= any(forbidden);
}

template <class T>
void column_min(const T* row, double sign, std::int64_t i, double* colmin, std::int32_t* argmin,
                std::int64_t n) {
    const RowReader<T> cost{row, sign, n};
    const I32 me = I32{} + static_cast<std::int32_t>(i);
    for (std::int64_t j = 0; j < n; j += L) {
        const D c = cost(j);
        const D best = load<D>(colmin + j);
        const I64 lower = c < best;
        store(colmin + j, lower ? c : best);
        store(argmin + j, __builtin_convertvector(lower, I32) ? me : load<I32>(argmin + j));
    }
}

template <class T>
TwoSmallest reduced_min2(const T* row, double sign, const double* v, std::int64_t n) {
    const RowReader<T> cost{row, sign, n};
    D first = splat(kInf), second = splat(kInf);
    I64 index = I64{} - 1, column = lane_numbers();
    for (std::int64_t j = 0; j < n; j += L, column += L) {
        const D x = cost(j) - load<D>(v + j);
        const I64 lower = x < first;
        const D displaced = lower ? first : x;
        second = displaced < second ? displaced : second;
        first = lower ? x : first;
        index = lower ? column : index;
    }
    TwoSmallest best{first[0], second[0], index[0]};
    for (std::int64_t l = 1; l < L; ++l) {
        const bool lower =
            first[l] < best.first || (first[l] == best.first && index[l] >= 0 && index[l] < best.index);
        const double displaced = lower ? best.first : first[l];
        if (lower) best.first = first[l], best.index = index[l];
        if (displaced < best.second) best.second = displaced;
        if (second[l] < best.second) best.second = second[l];
    }
    return best;
}

template <class T>
double reduced_min(const T* row, double sign, const double* v, std::int64_t n) {
    const RowReader<T> cost{row, sign, n};
    D best = splat(kInf);
    for (std::int64_t j = 0; j < n; j += L) {
        const D x = cost(j) - load<D>(v + j);
        best = x < best ? x : best;
    }
    return smallest(best);
}

template <class T>
double relax(const T* row, double sign, double offset, const double* v, std::int64_t i, double* key,
             std::int32_t* pred, std::int64_t n) {
    const RowReader<T> cost{row, sign, n};
    const I32 me = I32{} + static_cast<std::int32_t>(i);
    D best = splat(kInf);
    for (std::int64_t j = 0; j < n; j += L) {
        const D x = cost(j) - load<D>(v + j) - offset;
        const D old = load<D>(key + j);
        const I64 lower = x < old;
        const D now = lower ? x : old;
        store(key + j, now);
        store(pred + j, __builtin_convertvector(lower, I32) ? me : load<I32>(pred + j));
        best = now < best ? now : best;
    }
    return smallest(best);
}

inline std::int64_t lowest_set(I64 mask) {
    for (std::int64_t l = 0; l < L; ++l)
        if (mask[l]) return l;
    return -1;
}

template <class T>
std::int64_t find_free_reduced(const T* row, double sign, const double* v, double value,
                               const std::int32_t* row_of_col, std::int64_t n) {
    const RowReader<T> cost{row, sign, n};
    for (std::int64_t j = 0; j < n; j += L) {
        const I64 equal = (cost(j) - load<D>(v + j)) == value;
        if (!any(equal)) continue;
        const std::int64_t hit =
            lowest_set(equal & __builtin_convertvector(load<I32>(row_of_col + j) < 0, I64));
        if (hit >= 0) return j + hit;
    }
    return -1;
}

std::int64_t find_key_in(const double* key, double value, const std::int32_t* row_of_col, std::int64_t n) {
    std::int64_t fallback = -1;
    for (std::int64_t j = 0; j < n; j += L) {
        const I64 equal = load<D>(key + j) == value;
        if (!any(equal)) continue;
        const std::int64_t hit =
            lowest_set(equal & __builtin_convertvector(load<I32>(row_of_col + j) < 0, I64));
        if (hit >= 0) return j + hit;
        if (fallback < 0) fallback = j + lowest_set(equal);
    }
    return fallback;
}

}  // namespace

FindKey find_key() {
    return &find_key_in;
}

template <class T>
const Kernels<T>& table() {
    static constexpr Kernels<T> kernels{&scan<T>,        &column_min<T>, &reduced_min2<T>,
                                        &reduced_min<T>, &relax<T>,      &find_free_reduced<T>};
    return kernels;
}

#define REBASIN_FAST_INSTANTIATE(T) template const Kernels<T>& table<T>();
#include "lap/simd/element_types.inc"
#undef REBASIN_FAST_INSTANTIATE

}  // namespace rebasin_fast::simd::REBASIN_FAST_SIMD_NAMESPACE
