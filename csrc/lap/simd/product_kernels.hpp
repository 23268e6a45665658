// Inner products of the rows of two matrices, a (n, depth) and b (m, depth), many at a time.
//
// Every product is summed in ascending k, one addition after the other, whatever the instruction set and
// however the work is cut: blocks and tiles never split a sum. In float64 all instruction sets return the
// same bits: the product of two floats is exact there, so that a fused multiplication rounds no differently,
// and products of doubles are never fused.
#pragma once

#include <cstdint>

namespace rebasin_fast::simd {

// b is read in blocks of this many rows (columns of the cost matrix), each stored k by k:
// block[k * kBlockColumns + column].
inline constexpr std::int64_t kBlockColumns = 16;

// a is read in tiles of this many rows, each stored k by k: tile[k * kTileRows + row].
inline constexpr std::int64_t kTileRows = 8;

template <class In, class Out>
using Multiply = void (*)(const Out* tiles, std::int64_t rows, const In* blocks, std::int64_t count,
                          std::int64_t depth, Out* products, std::int64_t stride);

// F is float or double. The first two write `rows` rows of `count` blocks of products, `stride` apart; of a
// last tile that is not full all rows are written, unless `rows` is 1.
template <class F>
struct ProductKernels {
    Multiply<F, F> quick;       // summed in F
    Multiply<F, double> exact;  // summed in float64

    // products[c] = a . b[columns[c]], the same bits as from `exact`; b as the caller holds it, row by row.
    void (*listed)(const F* a, const F* b, std::int64_t depth, const std::int32_t* columns,
                   std::int64_t count, double* products);
};

template <class F>
const ProductKernels<F>& product_kernels();

}  // namespace rebasin_fast::simd
