// The kernels that make and use candidate lists; part of kernels_body.hpp, which see.

// Lanes of a group of minima: the same on every instruction set, so that all of them make the same lists.
constexpr std::int64_t W = kGroupLanes;

// W values of sign * row[j] - v[j] as F, in as many vectors as that takes.
template <class F>
struct Group {
    static constexpr std::int64_t lanes = L * static_cast<std::int64_t>(sizeof(double) / sizeof(F));
    static constexpr std::int64_t parts = W / lanes;
    typedef F V __attribute__((vector_size(sizeof(double) * L)));
    static_assert(parts >= 1 && parts * lanes == W);
};

template <class T, class F>
struct ReducedReader {
    const T* row;
    F sign;
    const F* v;
    std::int64_t n;

    using V = typename Group<F>::V;
    static constexpr std::int64_t lanes = Group<F>::lanes;

    // Costs j .. j + lanes - 1, signed. The last vector of a row is filled up with zeros.
    V cost(std::int64_t j) const {
        if (j + lanes <= n) return to_real<T, V>(row + j) * sign;
        T tail[lanes] = {};
        for (std::int64_t l = 0; j + l < n; ++l) tail[l] = row[j + l];
        return to_real<T, V>(tail) * sign;
    }

    V operator()(std::int64_t j) const { return cost(j) - load<V>(v + j); }
};

template <class V, class M>
inline V select(M mask, V yes, V no) {
    return mask ? yes : no;
}

// One bit per lane of a comparison of floats.
using FloatMask = decltype(Group<float>::V{} < Group<float>::V{});

#if defined(__AVX512DQ__) && REBASIN_FAST_SIMD_LANES == 8
inline unsigned bits(FloatMask mask) {
    return _mm512_movepi32_mask((__m512i)mask);
}
#elif defined(__AVX2__) && REBASIN_FAST_SIMD_LANES == 4
inline unsigned bits(FloatMask mask) {
    return static_cast<unsigned>(_mm256_movemask_ps((__m256)mask));
}
#elif defined(__SSE2__) && REBASIN_FAST_SIMD_LANES == 2
inline unsigned bits(FloatMask mask) {
    return static_cast<unsigned>(_mm_movemask_ps((__m128)mask));
}
#else
inline unsigned bits(FloatMask mask) {
    unsigned out = 0;
    for (std::int64_t l = 0; l < 2 * L; ++l) out |= mask[l] ? 1u << l : 0u;
    return out;
}
#endif

// Rows longer than a page are not foreseen by the processor across its pages' ends, nor from one row to the
// next: they are fetched so far ahead, the last stretch of this row fetching the first of the next.
constexpr std::int64_t kBytesAhead = 4096;

template <class T>
inline void fetch_ahead(const T* row, std::int64_t n, const T* next, std::int64_t begin, std::int64_t end) {
    constexpr std::int64_t line = 64 / static_cast<std::int64_t>(sizeof(T));
    constexpr std::int64_t ahead = kBytesAhead / static_cast<std::int64_t>(sizeof(T));
    const T* from = begin + ahead < n ? row + ahead : next + (ahead < n ? ahead - n : 0);
    for (std::int64_t j = begin; j < end; j += line) __builtin_prefetch(from + j);
}

template <class T, class F, bool Check>
void group_minima_as(const T* row, F sign, const F* v, std::int64_t n, std::int64_t depth, const T* next,
                     F* minima, Extremes* seen) {
    using V = typename Group<F>::V;
    constexpr std::int64_t lanes = Group<F>::lanes, parts = Group<F>::parts;
    constexpr F inf = static_cast<F>(kInf);
    const ReducedReader<T, F> reduced{row, sign, v, n};
    auto invalid = V{} != V{};
    V largest{};
    for (std::int64_t begin = 0; begin < n; begin += depth * W, minima += W) {
        const std::int64_t end = begin + depth * W < n ? begin + depth * W : n;
        if (next != nullptr) fetch_ahead(row, n, next, begin, end);
        V least[parts];
        for (std::int64_t p = 0; p < parts; ++p) least[p] = V{} + inf;
        for (std::int64_t j = begin; j < end; j += W)
            for (std::int64_t p = 0; p < parts; ++p) {
                if (j + p * lanes >= end) break;
                const V c = reduced.cost(j + p * lanes);
                if constexpr (Check) {
                    invalid |= ~(c > -inf);
                    if constexpr (sizeof(T) == 8) {
                        const V magnitude = c < 0 ? -c : c;
                        largest = ((magnitude > largest) & (magnitude < inf)) ? magnitude : largest;
                    }
                }
                const V x = c - load<V>(v + j + p * lanes);
                least[p] = x < least[p] ? x : least[p];
            }
        for (std::int64_t p = 0; p < parts; ++p) store(minima + p * lanes, least[p]);
    }
    for (std::int64_t l = 0; l < lanes; ++l) {
        seen->invalid |= invalid[l] != 0;
        if (static_cast<double>(largest[l]) > seen->largest_magnitude)
            seen->largest_magnitude = static_cast<double>(largest[l]);
    }
}

template <class T, class F>
void group_minima(const T* row, F sign, const F* v, std::int64_t n, std::int64_t depth, const T* next,
                  F* minima, Extremes* seen) {
    constexpr bool real = static_cast<T>(0.5) != 0;
    if (real && seen != nullptr)
        group_minima_as<T, F, real>(row, sign, v, n, depth, next, minima, seen);
    else {
        Extremes unused{};
        group_minima_as<T, F, false>(row, sign, v, n, depth, next, minima, &unused);
    }
}

template <class F>
std::int64_t count_below(const F* values, std::int64_t n, F threshold) {
    using V = typename Group<F>::V;
    std::int64_t count = 0;
    for (std::int64_t k = 0; k < n; k += Group<F>::lanes)
        count += __builtin_popcount(bits(load<V>(values + k) < threshold));
    return count;
}

template <class F>
F least_of(const F* values, std::int64_t n) {
    using V = typename Group<F>::V;
    V least = load<V>(values);
    for (std::int64_t k = Group<F>::lanes; k < n; k += Group<F>::lanes) {
        const V x = load<V>(values + k);
        least = x < least ? x : least;
    }
    F best = least[0];
    for (std::int64_t l = 1; l < Group<F>::lanes; ++l) best = least[l] < best ? least[l] : best;
    return best;
}

// While minima `begin` to begin + 63 of `all` are looked at, memory has nothing to do but to fetch more of
// the next row: in all so many bytes, from where fetch_ahead() has left off.
constexpr std::int64_t kBytesBetween = 16384;

template <class T>
inline void fetch_stretch(const T* next, std::int64_t n, std::int64_t begin, std::int64_t all) {
    constexpr auto size = static_cast<std::int64_t>(sizeof(T)), line = 64 / size;
    const auto place = [&](std::int64_t k) { return (kBytesAhead + k * kBytesBetween / all) / size; };
    const std::int64_t end = place(begin + 64) < n ? place(begin + 64) : n;
    for (std::int64_t j = place(begin); j < end; j += line) __builtin_prefetch(next + j);
}

// One bit for each of the next 64 minima, or as many as there are, that is below the threshold.
template <class F>
inline std::uint64_t lanes_below(const F* minima, std::int64_t count, F threshold) {
    constexpr std::int64_t lanes = Group<F>::lanes;
    using V = typename Group<F>::V;
    std::uint64_t below = 0;
    for (std::int64_t k = 0; k < 64 && k < count; k += lanes)
        below |= static_cast<std::uint64_t>(bits(load<V>(minima + k) < threshold)) << k;
    return below;
}

// The few columns that a minimum is of are looked at one by one, without a branch on any of them: which of
// them are below the threshold cannot be foreseen, and a branch gone wrong costs as much as all of them.
template <class T, class F>
std::int64_t collect_below(const T* row, F sign, const F* v, std::int64_t n, std::int64_t depth,
                           const F* minima, F threshold, std::int64_t from, std::int64_t capacity,
                           const T* next, std::int32_t* columns, F* values, std::int64_t* count) {
    const std::int64_t all = (n + depth * W - 1) / (depth * W) * W;
    std::int64_t found = *count;
    for (std::int64_t begin = from / 64 * 64; begin < all; begin += 64) {
        if (next != nullptr) fetch_stretch(next, n, begin, all);
        std::uint64_t left = lanes_below(minima + begin, all - begin, threshold);
        if (begin < from) left &= ~std::uint64_t{0} << (from - begin);
        for (; left != 0; left &= left - 1) {
            const std::int64_t k = begin + __builtin_ctzll(left);
            if (found + depth > capacity) {
                *count = found;
                return k;
            }
            const std::int64_t first = k / W * depth * W + k % W;
            const std::int64_t end = first + depth * W < n ? first + depth * W : n;
            for (std::int64_t j = first; j < end; j += W) {
                const F value = static_cast<F>(row[j]) * sign - v[j];
                columns[found] = static_cast<std::int32_t>(j);
                values[found] = value;
                found += value < threshold ? 1 : 0;
            }
        }
    }
    *count = found;
    return all;
}

template <class T, class F>
std::int64_t collect_equal(const T* row, F sign, const F* v, std::int64_t n, F value, std::int64_t from,
                           std::int64_t to, std::int64_t capacity, std::int32_t* columns) {
    constexpr std::int64_t lanes = Group<F>::lanes;
    const ReducedReader<T, F> reduced{row, sign, v, n};
    std::int64_t found = 0;
    for (std::int64_t j = from / lanes * lanes; j < to; j += lanes)
        for (unsigned left = bits(reduced(j) == value); left != 0; left &= left - 1) {
            const std::int64_t column = j + __builtin_ctz(left);
            if (column < from) continue;
            if (column >= to || found == capacity) return found;
            columns[found++] = static_cast<std::int32_t>(column);
        }
    return found;
}

template <class T>
std::int64_t listed_below(const std::int32_t* columns, const T* costs, double sign, const double* v,
                          const double* open, double offset, double limit, std::int64_t size,
                          std::int32_t* places, double* keys) {
    const RowReader<T> cost{costs, sign, size};
    std::int64_t found = 0;
    for (std::int64_t k = 0; k < size; k += L) {
        const D key = offset + (cost(k) - gather(v, columns + k));
        for (unsigned left = bits((key < limit) & (key < gather(open, columns + k))); left != 0;
             left &= left - 1) {
            const int l = __builtin_ctz(left);
            places[found] = static_cast<std::int32_t>(k + l);
            keys[found++] = key[l];
        }
    }
    return found;
}
