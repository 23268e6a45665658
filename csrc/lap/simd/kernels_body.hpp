// The one body of the row kernels, included by one translation unit per instruction set, which defines
//   REBASIN_FAST_SIMD_NAMESPACE   the namespace of this copy
//   REBASIN_FAST_SIMD_LANES       float64 lanes per vector: 2, 4 or 8
// Written with the compilers' generic vectors. Nothing of the standard library is used here: an inline
// function compiled for a wide instruction set could be the copy the linker keeps for the whole program.
//
// Every operation is a single rounded subtraction, a comparison or a selection, and ties go to the lowest
// column, so all instruction sets return the same bits.

#include "lap/simd/kernels.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace rebasin_fast::simd::REBASIN_FAST_SIMD_NAMESPACE {
namespace {

constexpr std::int64_t L = REBASIN_FAST_SIMD_LANES;
static_assert(kPadding % L == 0);
constexpr double kInf = __builtin_inf();

template <class E>
struct VectorOf {
    typedef E type __attribute__((vector_size(sizeof(E) * L)));
};
template <class E, std::int64_t Lanes>
struct VectorOfLanes {
    typedef E type __attribute__((vector_size(sizeof(E) * Lanes)));
};
using D = VectorOf<double>::type;
using I64 = decltype(D{} < D{});  // 64-bit integers, of whichever such type the compiler compares into
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

// Bytes as 32-bit integers, which gcc 12 would widen one by one.
template <class I>
inline I widened_bytes(const std::int8_t* p) {
#ifdef __AVX2__
    if constexpr (sizeof(I) == 16) return (I)_mm_cvtepi8_epi32(_mm_loadu_si32(p));
    if constexpr (sizeof(I) == 32) return (I)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p));
#ifdef __AVX512F__
    if constexpr (sizeof(I) == 64)
        return (I)_mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128((const __m128i*)p));
#endif
#endif
    return __builtin_convertvector(load<typename VectorOfLanes<std::int8_t, sizeof(I) / 4>::type>(p), I);
}

template <class I>
inline I widened_bytes(const std::uint8_t* p) {
#ifdef __AVX2__
    if constexpr (sizeof(I) == 16) return (I)_mm_cvtepu8_epi32(_mm_loadu_si32(p));
    if constexpr (sizeof(I) == 32) return (I)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
#ifdef __AVX512F__
    if constexpr (sizeof(I) == 64)
        return (I)_mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128((const __m128i*)p));
#endif
#endif
    return __builtin_convertvector(load<typename VectorOfLanes<std::uint8_t, sizeof(I) / 4>::type>(p), I);
}

// As many elements as V has lanes, in floating point; short ones by way of 32-bit integers, for which there
// are instructions.
template <class T, class V>
inline V to_real(const T* p) {
    constexpr std::int64_t lanes = sizeof(V) / sizeof(V{}[0]);
    using I = typename VectorOfLanes<std::int32_t, lanes>::type;
    using Raw = typename VectorOfLanes<T, lanes>::type;
    if constexpr (sizeof(T) == 1)
        return __builtin_convertvector(widened_bytes<I>(p), V);
    else if constexpr (sizeof(T) == 2)
        return __builtin_convertvector(__builtin_convertvector(load<Raw>(p), I), V);
    else
        return __builtin_convertvector(load<Raw>(p), V);
}

// Costs j .. j + L - 1 of a row, signed, as float64. The last vector of a row is filled up with zeros.
template <class T>
struct RowReader {
    const T* row;
    double sign;
    std::int64_t n;

    D operator()(std::int64_t j) const {
        if (j + L <= n) return to_real<T, D>(row + j) * sign;
        T tail[L] = {};
        for (std::int64_t l = 0; j + l < n; ++l) tail[l] = row[j + l];
        return to_real<T, D>(tail) * sign;
    }
};

// One bit per lane of a comparison.
inline unsigned bits(I64 mask) {
#if defined(__AVX512DQ__) && REBASIN_FAST_SIMD_LANES == 8
    return _mm512_movepi64_mask((__m512i)mask);
#elif defined(__AVX2__) && REBASIN_FAST_SIMD_LANES == 4
    return static_cast<unsigned>(_mm256_movemask_pd((__m256d)mask));
#elif defined(__SSE2__) && REBASIN_FAST_SIMD_LANES == 2
    return static_cast<unsigned>(_mm_movemask_pd((__m128d)mask));
#elif defined(__aarch64__) && REBASIN_FAST_SIMD_LANES == 2
    const uint64x2_t sign = vshrq_n_u64((uint64x2_t)mask, 63);
    return static_cast<unsigned>(vgetq_lane_u64(sign, 0) | vgetq_lane_u64(sign, 1) << 1);
#else
    unsigned out = 0;
    for (std::int64_t l = 0; l < L; ++l) out |= mask[l] ? 1u << l : 0u;
    return out;
#endif
}

inline bool any(I64 mask) {
    return bits(mask) != 0;
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

// Lane l of the result is lane (l + Step) mod L.
template <int Step>
inline D rotated(D x) {
#if REBASIN_FAST_SIMD_LANES == 8
    return __builtin_shufflevector(x, x, Step, Step + 1, Step + 2, Step + 3, Step + 4, Step + 5, Step + 6,
                                   Step + 7);
#elif REBASIN_FAST_SIMD_LANES == 4
    return __builtin_shufflevector(x, x, Step, Step + 1, Step + 2, Step + 3);
#else
    return __builtin_shufflevector(x, x, Step, Step + 1);
#endif
}

inline D smaller(D a, D b) {
    return a < b ? a : b;
}

inline double smallest(D x) {
    if constexpr (L == 8) x = smaller(x, rotated<L / 2>(x));
    if constexpr (L >= 4) x = smaller(x, rotated<2>(x));
    return smaller(x, rotated<1>(x))[0];
}

inline D larger(D a, D b) {
    return b > a ? b : a;
}

// The two smallest of what has been taken so far, lane by lane, and where the smallest was.
struct LaneTwoSmallest {
    D first = splat(kInf), second = splat(kInf);
    I64 index = I64{} - 1;

    inline void take(D x, I64 here) {
        index = x < first ? here : index;
        second = smaller(larger(first, x), second);
        first = smaller(x, first);
    }

    inline void take(const LaneTwoSmallest& other) {
        const I64 lower =
            (other.first < first) | ((other.first == first) & (other.index < index) & (other.index >= 0));
        index = lower ? other.index : index;
        second = smaller(larger(first, other.first), smaller(second, other.second));
        first = smaller(other.first, first);
    }

    // Over all lanes; among equals the lowest index. Both minima fall together, and no branch depends on the
    // values unless lanes tie, for nobody could foretell it.
    inline TwoSmallest merged() const {
        D best = first, next = second;
        if constexpr (L == 8) merge_with<L / 2>(&best, &next);
        if constexpr (L >= 4) merge_with<2>(&best, &next);
        merge_with<1>(&best, &next);
        unsigned lanes = bits(first == best);
        std::int64_t at[L];
        store(at, index);
        std::int64_t lowest = at[__builtin_ctz(lanes)];
        while ((lanes &= lanes - 1) != 0)
            if (at[__builtin_ctz(lanes)] < lowest) lowest = at[__builtin_ctz(lanes)];
        return {best[0], next[0], lowest};
    }

    template <int Step>
    static inline void merge_with(D* best, D* next) {
        const D other = rotated<Step>(*best);
        *next = smaller(larger(*best, other), smaller(*next, rotated<Step>(*next)));
        *best = smaller(*best, other);
    }
};

// The two smallest of value(0) ... value(n - 1), taken L at a time; among equals the lowest index.
template <class Value>
__attribute__((always_inline)) inline TwoSmallest two_smallest(std::int64_t n, Value value) {
    LaneTwoSmallest even, odd;  // two chains of dependent operations side by side
    I64 here = lane_numbers();
    std::int64_t j = 0;
    for (; j + L < n; j += 2 * L, here += 2 * L) {
        even.take(value(j), here);
        odd.take(value(j + L), here + L);
    }
    if (j < n) even.take(value(j), here);
    even.take(odd);
    return even.merged();
}

template <class T>
TwoSmallest reduced_min2(const T* row, double sign, const double* v, std::int64_t n) {
    const RowReader<T> cost{row, sign, n};
    return two_smallest(n, [&](std::int64_t j) { return cost(j) - load<D>(v + j); });
}

// v at L columns. The masked forms with every lane on: the plain ones draw a false warning from gcc 12.
inline D gather(const double* v, const std::int32_t* columns) {
#if defined(__AVX512F__) && REBASIN_FAST_SIMD_LANES == 8
    return (D)_mm512_mask_i32gather_pd(_mm512_setzero_pd(), 0xff, (__m256i)load<I32>(columns), v, 8);
#elif defined(__AVX2__) && REBASIN_FAST_SIMD_LANES == 4
    return (D)_mm256_mask_i32gather_pd(_mm256_setzero_pd(), v, (__m128i)load<I32>(columns),
                                       (__m256d)(I64{} - 1), 8);
#else
    D x;
    for (std::int64_t l = 0; l < L; ++l) x[l] = v[columns[l]];
    return x;
#endif
}

template <class T>
TwoSmallest listed_min2(const std::int32_t* columns, const T* costs, double sign, const double* v,
                        std::int64_t size) {
    const RowReader<T> cost{costs, sign, size};
    return two_smallest(size, [&](std::int64_t k) { return cost(k) - gather(v, columns + k); });
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

// -1 when no lane is set.
inline std::int64_t lowest_set(I64 mask) {
    const unsigned lanes = bits(mask);
    return lanes ? __builtin_ctz(lanes) : -1;
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

// One bit per column from j on, of at most a word of them, where key == value.
inline std::uint64_t keys_equal(const double* key, double value, std::int64_t j, std::int64_t n) {
    constexpr std::int64_t word = 64;
    std::uint64_t equal = 0;
    if (j + word <= n) {  // a loop without a condition is unrolled
        for (std::int64_t k = 0; k < word; k += L)
            equal |= static_cast<std::uint64_t>(bits(load<D>(key + j + k) == value)) << k;
        return equal;
    }
    for (std::int64_t k = 0; j + k < n; k += L)
        equal |= static_cast<std::uint64_t>(bits(load<D>(key + j + k) == value)) << k;
    return equal;
}

std::int64_t find_key_in(const double* key, double value, const std::int32_t* row_of_col, std::int64_t from,
                         std::int64_t n) {
    constexpr std::int64_t word = 64;
    std::int64_t fallback = -1;
    for (std::int64_t j = 0; j < n; j += word)
        for (std::uint64_t left = keys_equal(key, value, j, n); left != 0; left &= left - 1) {
            const std::int64_t column = j + __builtin_ctzll(left);
            if (row_of_col[column] < 0) return column;
            if (fallback < 0 || (fallback < from && column >= from)) fallback = column;
        }
    return fallback;
}

// Twice L binary16 numbers (see lap/half.hpp) as float. Float's range is larger: the exponent is moved, but
// not of what is denormal, which a processor may be set to flush, nor of infinity and NaN.
inline void widen_vector(const std::uint16_t* from, float* to) {
    using F = VectorOfLanes<float, 2 * L>::type;
    using I = VectorOfLanes<std::int32_t, 2 * L>::type;
    const I x = __builtin_convertvector(load<VectorOfLanes<std::uint16_t, 2 * L>::type>(from), I);
    const I exponent = x & 0x7C00, fraction = x & 0x03FF;
    const I normal = ((x & 0x7FFF) << 13) + (112 << 23);
    const I denormal = (I)(__builtin_convertvector(fraction, F) * 0x1p-24f);
    const I special = 0x7F800000 | fraction << 13;
    const I magnitude = exponent == 0 ? denormal : exponent == 0x7C00 ? special : normal;
    store(to, magnitude | (x & 0x8000) << 16);
}

void widen_half(const std::uint16_t* from, std::int64_t n, float* to) {
    constexpr std::int64_t step = 2 * L;
    std::int64_t k = 0;
    for (; k + step <= n; k += step) widen_vector(from + k, to + k);
    std::uint16_t last[step] = {};
    float widened[step];
    for (std::int64_t l = 0; k + l < n; ++l) last[l] = from[k + l];
    widen_vector(last, widened);
    for (std::int64_t l = 0; k + l < n; ++l) to[k + l] = widened[l];
}

#include "lap/simd/column_kernels_body.hpp"
#include "lap/simd/list_kernels_body.hpp"
#include "lap/simd/turn_body.hpp"

}  // namespace

FindKey find_key() {
    return &find_key_in;
}

Widen widen() {
    return &widen_half;
}

template <class T, class F>
constexpr ListKernels<T, F> list_kernels() {
    return {&group_minima<T, F>, &count_below<F>, &least_of<F>, &collect_below<T, F>, &collect_equal<T, F>};
}

template <class T>
const Kernels<T>& table() {
    static constexpr Kernels<T> kernels{&column_min<T>,
                                        &column_best<T>,
                                        &find_free_equal<T>,
                                        &reduced_min2<T>,
                                        &listed_min2<T>,
                                        &listed_below<T>,
                                        &reduced_min<T>,
                                        &relax<T>,
                                        &find_free_reduced<T>,
                                        &turn<T>,
                                        list_kernels<T, Fast<T>>(),
                                        list_kernels<T, double>()};
    return kernels;
}

#define REBASIN_FAST_INSTANTIATE(T) template const Kernels<T>& table<T>();
#include "lap/simd/element_types.inc"
#undef REBASIN_FAST_INSTANTIATE

}  // namespace rebasin_fast::simd::REBASIN_FAST_SIMD_NAMESPACE
