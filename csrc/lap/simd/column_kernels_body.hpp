// The kernels that find the best element of every column, and who holds it; part of kernels_body.hpp, which
// see.

// The widest vectors of T: as many bytes as L doubles.
template <class T>
struct Wide {
    static constexpr std::int64_t lanes = L * static_cast<std::int64_t>(sizeof(double) / sizeof(T));
    typedef T type __attribute__((vector_size(sizeof(double) * L)));
};

template <bool Maximize, class T>
void column_best_as(const T* first, std::int64_t stride, std::int64_t rows, T* best, std::int64_t n,
                    Extremes* seen) {
    using V = typename Wide<T>::type;
    constexpr std::int64_t lanes = Wide<T>::lanes;
    constexpr bool real = static_cast<T>(0.5) != 0;
    constexpr T worst = static_cast<T>(real ? kInf : 0);
    V largest{};
    auto invalid = V{} != V{};
    auto forbidden = V{} != V{};
    for (std::int64_t j = 0; j < n; j += lanes) {
        const std::int64_t width = n - j < lanes ? n - j : lanes;
        T edge[lanes] =
            {};  // the last, partial vector goes through here, padded with the first row's last column
        const auto at = [&](const T* p) {
            if (width == lanes) return load<V>(p + j);
            for (std::int64_t l = 0; l < lanes; ++l) edge[l] = p[j + (l < width ? l : 0)];
            return load<V>(edge);
        };
        V low = at(best);
        for (std::int64_t r = 0; r < rows; ++r) {
            const V c = at(first + r * stride);
            low = Maximize ? (c > low ? c : low) : (c < low ? c : low);
            if constexpr (real) {
                invalid |= Maximize ? ~(c < worst) : ~(c > -worst);
                forbidden |= Maximize ? (c == -worst) : (c == worst);
            }
            if constexpr (real && sizeof(T) == 8) {
                const V magnitude = c < 0 ? -c : c;
                largest = ((magnitude > largest) & (magnitude < worst)) ? magnitude : largest;
            }
        }
        for (std::int64_t l = 0; l < width; ++l) best[j + l] = low[l];
    }
    for (std::int64_t l = 0; l < lanes; ++l) {
        seen->invalid |= invalid[l] != 0;
        seen->forbidden |= forbidden[l] != 0;
        if (static_cast<double>(largest[l]) > seen->largest_magnitude)
            seen->largest_magnitude = static_cast<double>(largest[l]);
    }
}

// What the sign bit leaves of a floating-point number is, as an integer, the larger the further it is from
// zero; infinities and NaN are above all else. Integers need no such look: `infinite` is 0.
template <class T>
struct Magnitude {
    using Bits = T;
    static constexpr Bits infinite = 0;
};
template <>
struct Magnitude<float> {
    using Bits = std::int32_t;
    static constexpr Bits infinite = 0x7f800000;
};
template <>
struct Magnitude<double> {
    using Bits = std::int64_t;
    static constexpr Bits infinite = 0x7ff0000000000000;
};

// What column_best_finite() keeps of the entries it has seen: vector by vector the largest magnitude.
template <class T>
using Magnitudes = typename Wide<typename Magnitude<T>::Bits>::type;

// `Rows` rows at once, in vectors.
template <bool Maximize, int Rows, class T>
void column_best_together(const T* first, std::int64_t stride, T* best, std::int64_t n,
                          Magnitudes<T>* largest) {
    constexpr std::int64_t ahead = 2048;  // bytes
    using Bits = typename Magnitude<T>::Bits;
    using V = typename Wide<T>::type;
    Magnitudes<T> most = *largest;
    for (std::int64_t j = 0; j < n; j += Wide<T>::lanes) {
        V low = load<V>(best + j);
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
            const T* p = first + r * stride + j;
            __builtin_prefetch(reinterpret_cast<const char*>(p) + ahead);
            const V c = load<V>(p);
            low = Maximize ? (c > low ? c : low) : (c < low ? c : low);
            if constexpr (Magnitude<T>::infinite != 0) {
                const Magnitudes<T> magnitude =
                    load<Magnitudes<T>>(&c) & static_cast<Bits>(~(Bits{1} << (8 * sizeof(Bits) - 1)));
                most = magnitude > most ? magnitude : most;
            }
        }
        store(best + j, low);
    }
    *largest = most;
}

// column_best_as() for whole vectors of finite elements, at the speed of memory. False, and nothing said of
// their extremes, if there are others among them.
template <bool Maximize, class T>
bool column_best_finite(const T* first, std::int64_t stride, std::int64_t rows, T* best, std::int64_t n,
                        Extremes* seen) {
    constexpr int together = 4;
    constexpr auto infinite = Magnitude<T>::infinite;
    Magnitudes<T> largest{};
    std::int64_t r = 0;
    for (; r + together <= rows; r += together)
        column_best_together<Maximize, together>(first + r * stride, stride, best, n, &largest);
    for (; r < rows; ++r) column_best_together<Maximize, 1>(first + r * stride, stride, best, n, &largest);
    if constexpr (infinite != 0) {
        typename Magnitude<T>::Bits most = 0;
        for (std::int64_t l = 0; l < Wide<T>::lanes; ++l) most = largest[l] > most ? largest[l] : most;
        if (most >= infinite) return false;
        T magnitude;
        __builtin_memcpy(&magnitude, &most, sizeof(T));
        if (sizeof(T) == 8 && static_cast<double>(magnitude) > seen->largest_magnitude)
            seen->largest_magnitude = static_cast<double>(magnitude);
    }
    return true;
}

template <bool Maximize, class T>
void column_best_of(const T* first, std::int64_t stride, std::int64_t rows, T* best, std::int64_t n,
                    Extremes* seen) {
    const std::int64_t whole = n / Wide<T>::lanes * Wide<T>::lanes;
    const bool finite = column_best_finite<Maximize>(first, stride, rows, best, whole, seen);
    const std::int64_t from = finite ? whole : 0;
    if (from < n) column_best_as<Maximize>(first + from, stride, rows, best + from, n - from, seen);
}

template <class T>
void column_best(const T* first, std::int64_t stride, std::int64_t rows, bool maximize, T* best,
                 std::int64_t n, Extremes* seen) {
    if (maximize)
        column_best_of<true>(first, stride, rows, best, n, seen);
    else
        column_best_of<false>(first, stride, rows, best, n, seen);
}

template <class T>
std::int64_t find_free_equal(const T* row, const T* best, const std::int32_t* row_of_col, std::int64_t from,
                             std::int64_t n) {
    using V = typename Wide<T>::type;
    constexpr std::int64_t lanes = Wide<T>::lanes;
    std::int64_t j = from;
    for (; j + lanes <= n; j += lanes) {
        const auto equal = load<V>(row + j) == load<V>(best + j);
        I64 words;
        __builtin_memcpy(&words, &equal, sizeof(words));
        if (!any(words != 0)) continue;
        for (std::int64_t l = 0; l < lanes; ++l)
            if (equal[l] && row_of_col[j + l] < 0) return j + l;
    }
    for (; j < n; ++j)
        if (row[j] == best[j] && row_of_col[j] < 0) return j;
    return -1;
}
