// Row kernels of the dense solver. One body (kernels_body.hpp) is compiled once per instruction set; the
// choice is made at run time, once per process, and can be forced with the environment variable
// REBASIN_FAST_ISA.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rebasin_fast::simd {

// Work arrays are padded to a multiple of this many elements, so that kernels have no tail on them, and by at
// least one: column n, where nothing is, is what lists are filled up with.
inline constexpr std::int64_t kPadding = 8;

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

struct Selection {
    std::int64_t count;    // elements written; capacity + 1 when there were more
    std::int64_t scanned;  // columns read
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

    // Writes column and raw cost of every element with c_j - v[j] < threshold, ascending columns, until
    // `capacity` would be exceeded. Padding of v must hold -inf.
    Selection (*select_below)(const T* row, double sign, const double* v, std::int64_t n, double threshold,
                              std::int64_t capacity, std::int32_t* columns, T* costs);

    // The two smallest of c_j - v[j]. Padding of v must hold -inf.
    TwoSmallest (*reduced_min2)(const T* row, double sign, const double* v, std::int64_t n);

    // The two smallest of costs[k] - v[columns[k]] over a list; `index` is the place k. `size` is a multiple
    // of kPadding: lists are filled up with a column whose v is -inf.
    TwoSmallest (*listed_min2)(const std::int32_t* columns, const T* costs, double sign, const double* v,
                               std::int64_t size);

    // min over j of c_j - v[j]. Padding of v must hold -inf.
    double (*reduced_min)(const T* row, double sign, const double* v, std::int64_t n);

    // key[j] = min(key[j], c_j - v[j] - offset), pred[j] = i where lowered; returns the smallest key.
    // A column with v[j] = -inf keeps its key: that is how scanned columns and the padding are left out.
    double (*relax)(const T* row, double sign, double offset, const double* v, std::int64_t i, double* key,
                    std::int32_t* pred, std::int64_t n);

    // Lowest j with row_of_col[j] < 0 and c_j - v[j] == value, or -1.
    std::int64_t (*find_free_reduced)(const T* row, double sign, const double* v, double value,
                                      const std::int32_t* row_of_col, std::int64_t n);
};

// Lowest j with key[j] == value and row_of_col[j] < 0; failing that, lowest j with key[j] == value.
using FindKey = std::int64_t (*)(const double* key, double value, const std::int32_t* row_of_col,
                                 std::int64_t n);

template <class T>
const Kernels<T>& kernels();
FindKey find_key();

const char* active_isa();                   // the one in use: "scalar", "avx2", "avx512" or "neon"
std::vector<std::string> available_isas();  // those this processor can run, best last
bool force_isa(const std::string& name);    // for tests; false when this processor lacks it

}  // namespace rebasin_fast::simd
