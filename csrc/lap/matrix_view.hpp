// A cost matrix as the caller holds it: pointer, shape, strides, element type. Nothing is owned here.
#pragma once

#include <cstdint>
#include <utility>

#include "lap/half.hpp"

namespace rebasin_fast {

// The element types the core reads in place. Everything else is converted at the Python border.
enum class ElementType : std::uint8_t { f16, f32, f64, i8, u8, i16, u16, i32, u32, i64, u64 };

struct MatrixView {
    const void* data = nullptr;
    ElementType type = ElementType::f64;
    std::int64_t rows = 0;
    std::int64_t cols = 0;
    std::int64_t row_stride = 0;  // in elements, may be negative
    std::int64_t col_stride = 0;  // in elements, may be negative

    MatrixView transposed() const { return {data, type, cols, rows, col_stride, row_stride}; }
    bool rows_are_contiguous() const { return col_stride == 1 || cols <= 1; }
};

// A view whose element type is known: what the algorithms are instantiated with.
template <class T>
struct TypedView {
    const T* data;
    std::int64_t rows;
    std::int64_t cols;
    std::int64_t row_stride;
    std::int64_t col_stride;

    const T* row(std::int64_t i) const { return data + i * row_stride; }
    T at(std::int64_t i, std::int64_t j) const { return data[i * row_stride + j * col_stride]; }
};

template <class T>
TypedView<T> typed(const MatrixView& view) {
    return {static_cast<const T*>(view.data), view.rows, view.cols, view.row_stride, view.col_stride};
}

// Calls `visitor(TypedView<T>)` with the element type the view carries.
template <class Visitor>
decltype(auto) visit(const MatrixView& view, Visitor&& visitor) {
    switch (view.type) {
        case ElementType::f16:
            return visitor(typed<Half>(view));
        case ElementType::f32:
            return visitor(typed<float>(view));
        case ElementType::i8:
            return visitor(typed<std::int8_t>(view));
        case ElementType::u8:
            return visitor(typed<std::uint8_t>(view));
        case ElementType::i16:
            return visitor(typed<std::int16_t>(view));
        case ElementType::u16:
            return visitor(typed<std::uint16_t>(view));
        case ElementType::i32:
            return visitor(typed<std::int32_t>(view));
        case ElementType::u32:
            return visitor(typed<std::uint32_t>(view));
        case ElementType::i64:
            return visitor(typed<std::int64_t>(view));
        case ElementType::u64:
            return visitor(typed<std::uint64_t>(view));
        case ElementType::f64:
            break;
    }
    return visitor(typed<double>(view));
}

}  // namespace rebasin_fast
