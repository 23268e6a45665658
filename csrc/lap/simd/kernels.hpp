// Row kernels of the dense solver. One body (kernels_body.hpp) is compiled once per instruction set; the
// choice is made at run time, once per process, and can be forced with the environment variable
// REBASIN_FAST_ISA.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rebasin_fast::simd {

// Work arrays are padded to a multiple of this many elements, so that kernels have no tail on them.
inline constexpr std::int64_t kPadding = 8;

inline constexpr std::int64_t padded(std::int64_t n) {
    return (n + kPadding - 1) / kPadding * kPadding;
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

// `sign` is +1 to minimise and -1 to maximise: every kernel sees the cost sign * row[j].
// `n` is the number of columns; v, key, pred, colmin and argmin are padded arrays.
template <class T>
struct Kernels {
    // Extremes of one row, merged into `seen`.
    void (*scan)(const T* row, double sign, std::int64_t n, Extremes* seen);

    // colmin[j] = min(colmin[j], c_j); argmin[j] = i where that lowered it.
    void (*column_min)(const T* row, double sign, std::int64_t i, double* colmin, std::int32_t* argmin,
                       std::int64_t n);

    // The two smallest of c_j - v[j]. Padding of v must hold -inf.
    TwoSmallest (*reduced_min2)(const T* row, double sign, const double* v, std::int64_t n);

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

const char* active_isa();                   // the one in use: "baseline", "avx2" or "avx512"
std::vector<std::string> available_isas();  // those this processor can run, best last
bool force_isa(const std::string& name);    // for tests; false when this processor lacks it

}  // namespace rebasin_fast::simd
