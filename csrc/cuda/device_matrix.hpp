// A cost matrix in device memory as the caller holds it, or its factors, and the answer to it. Knows no CUDA
// headers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace rebasin_fast::cuda {

enum class Element : std::int32_t { f32, f64, f16, bf16, i8, u8, i16, i32 };

struct DeviceMatrix {
    const void* data = nullptr;
    Element type = Element::f32;
    std::int64_t rows = 0;
    std::int64_t cols = 0;
    std::int64_t row_stride = 0;  // in elements, may be negative
    std::int64_t col_stride = 0;

    DeviceMatrix transposed() const { return {data, type, cols, rows, col_stride, row_stride}; }
};

// c_ij = a_i . b_j. Both factors lie on the device without gaps, floats or, if `wide`, doubles.
struct Factors {
    const void* a = nullptr;  // (rows, depth)
    const void* b = nullptr;  // (cols, depth)
    std::int64_t depth = 0;
    bool wide = false;
    int rows = 0, cols = 0;

    Factors transposed() const { return {b, a, depth, wide, cols, rows}; }
};

// Where the answer goes: device memory of the caller. With k = min(rows, cols):
struct DeviceAnswer {
    std::int64_t* row_ind = nullptr;  // (k,), ascending
    std::int64_t* col_ind = nullptr;  // (k,)
    double* row_duals = nullptr;      // (rows,), or null
    double* col_duals = nullptr;      // (cols,), or null
    double* cost = nullptr;           // one number; of integers the exact one
    double* gap = nullptr;            // one number: sum of reduced costs on the chosen cells
};

inline std::size_t bytes_of(Element type) {
    switch (type) {
        case Element::f64:
            return 8;
        case Element::f32:
        case Element::i32:
            return 4;
        case Element::i8:
        case Element::u8:
            return 1;
        default:
            return 2;
    }
}

// Storage while solving: what holds every element exactly.
inline bool is_double(Element type) {
    return type == Element::f64;
}
inline bool is_int32(Element type) {
    return type == Element::i32;
}
inline bool is_integral(Element type) {
    return type >= Element::i8;
}

}  // namespace rebasin_fast::cuda
