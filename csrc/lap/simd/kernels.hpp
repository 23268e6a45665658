// Row kernels of the dense solver. One body (kernels_body.hpp) is compiled once per instruction set; the
// choice is made at run time, once per process, and can be forced with the environment variable
// REBASIN_FAST_ISA.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

namespace rebasin_fast::simd {

// Work arrays are padded to a multiple of this many elements, so that kernels have no tail on them, and by at
// least one: column n, where nothing is, is what lists are filled up with.
inline constexpr std::int64_t kPadding = 16;

inline constexpr std::int64_t padded(std::int64_t n) {
    return (n / kPadding + 1) * kPadding;
}

struct TwoSmallest {
    double first;
    double second;
    std::int64_t index;  // lowest column that attains `first`
};

struct Extremes {
    double largest_magnitude;  // over finite elements
    bool invalid;              // NaN, or an infinity that would mean an unboundedly good cell
    bool forbidden;            // an infinity that forbids a cell
};

// Reduced costs of a row are looked through in groups of `depth` times this many columns.
inline constexpr std::int64_t kGroupLanes = 16;

// What is turned at once: a cache line of 4-byte elements.
inline constexpr std::int64_t kTurned = 16;

// What reduced costs are first looked at in. float64 costs, small differences of which are to count, in
// float64.
template <class T>
using Fast = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Whether that holds every cost of type T.
template <class T>
inline constexpr bool kExactInFast = !std::is_integral_v<T> || sizeof(T) <= 2;

// Finding a row's cheapest columns. F is float or double; values are sign * row[j] - v[j], computed in F.
// v is padded, its padding -inf.
template <class T, class F>
struct ListKernels {
    // minima[g * kGroupLanes + l] = the least value of columns (g * depth + k) * kGroupLanes + l, k < depth.
    // `seen` collects NaN, wrong infinities and, of 8-byte elements, magnitudes; null when they are known.
    // `next`, unless null, is a row that will be read after this one: it is fetched on the way.
    void (*group_minima)(const T* row, F sign, const F* v, std::int64_t n, std::int64_t depth, const T* next,
                         F* minima, Extremes* seen);

    // Of n values, a multiple of kGroupLanes: how many are below the threshold; the least; the least above
    // `floor`, inf if there is none.
    std::int64_t (*count_below)(const F* values, std::int64_t n, F threshold);
    F (*least_of)(const F* values, std::int64_t n);

    // Appends column and value of everything below the threshold among what the minima from `from` on are of,
    // as long as what one more is of would fit into `capacity`; returns the minimum to go on with.
    std::int64_t (*collect_below)(const T* row, F sign, const F* v, std::int64_t n, std::int64_t depth,
                                  const F* minima, F threshold, std::int64_t from, std::int64_t capacity,
                                  const T* next, std::int32_t* columns, F* values, std::int64_t* count);

    // The first columns in [from, to) whose value is `value`, at most `capacity`; returns how many.
    std::int64_t (*collect_equal)(const T* row, F sign, const F* v, std::int64_t n, F value,
                                  std::int64_t from, std::int64_t to, std::int64_t capacity,
                                  std::int32_t* columns);
};

// `sign` is +1 to minimise and -1 to maximise: every kernel sees the cost sign * row[j].
// `n` is the number of columns; v, key and pred are padded arrays.
template <class T>
struct Kernels {
    // colmin[j] = min(colmin[j], c_j); argmin[j] = i where that lowered it. Padded arrays.
    void (*column_min)(const T* row, double sign, std::int64_t i, double* colmin, std::int32_t* argmin,
                       std::int64_t n);

    // best[j] = min over the rows of row[j] (max when `maximize`), merged into `best`; their extremes into
    // `seen`. `rows` rows from `first`, each `stride` elements after the last. `best` is not padded.
    void (*column_best)(const T* first, std::int64_t stride, std::int64_t rows, bool maximize, T* best,
                        std::int64_t n, Extremes* seen);

    // Lowest j >= from with row[j] == best[j] and row_of_col[j] < 0, or -1. Nothing is padded.
    std::int64_t (*find_free_equal)(const T* row, const T* best, const std::int32_t* row_of_col,
                                    std::int64_t from, std::int64_t n);

    // The two smallest of c_j - v[j]. Padding of v must hold -inf.
    TwoSmallest (*reduced_min2)(const T* row, double sign, const double* v, std::int64_t n);

    // The two smallest of costs[k] - v[columns[k]] over a list; `index` is the place k. `size` is a multiple
    // of kPadding: lists are filled up with a column whose v is -inf.
    TwoSmallest (*listed_min2)(const std::int32_t* columns, const T* costs, double sign, const double* v,
                               std::int64_t size);

    // The places k of a list with key offset + (costs[k] - v[columns[k]]) below both `limit` and
    // open[columns[k]], and those keys; returns how many. `size` as for listed_min2.
    std::int64_t (*listed_below)(const std::int32_t* columns, const T* costs, double sign, const double* v,
                                 const double* open, double offset, double limit, std::int64_t size,
                                 std::int32_t* places, double* keys);

    // min over j of c_j - v[j]. Padding of v must hold -inf.
    double (*reduced_min)(const T* row, double sign, const double* v, std::int64_t n);

    // key[j] = min(key[j], c_j - v[j] - offset), pred[j] = i where lowered; returns the smallest key.
    // A column with v[j] = -inf keeps its key: that is how scanned columns and the padding are left out.
    double (*relax)(const T* row, double sign, double offset, const double* v, std::int64_t i, double* key,
                    std::int32_t* pred, std::int64_t n);

    // Lowest j with row_of_col[j] < 0 and c_j - v[j] == value, or -1.
    std::int64_t (*find_free_reduced)(const T* row, double sign, const double* v, double value,
                                      const std::int32_t* row_of_col, std::int64_t n);

    // Of a square of kTurned rows and columns, to[i * stride + j] = from[i + j * across].
    void (*turn)(const T* from, std::int64_t across, T* to, std::int64_t stride);

    ListKernels<T, Fast<T>> fast;
    ListKernels<T, double> exact;
};

// Lowest j with key[j] == value and row_of_col[j] < 0; failing that, the first j from `from` on, and round
// again, with key[j] == value.
using FindKey = std::int64_t (*)(const double* key, double value, const std::int32_t* row_of_col,
                                 std::int64_t from, std::int64_t n);

// to[k] = the binary16 number whose bits are from[k].
using Widen = void (*)(const std::uint16_t* from, std::int64_t n, float* to);

template <class T>
const Kernels<T>& kernels();
FindKey find_key();
Widen widen();

const char* active_isa();                   // the one in use: "scalar", "avx2", "avx512" or "neon"
std::vector<std::string> available_isas();  // those this processor can run, best last
bool force_isa(const std::string& name);    // for tests; false when this processor lacks it

}  // namespace rebasin_fast::simd
