// Costs that are inner products, c_ij = a_i . b_j, of which only some rows ever exist.
//
// The element is the float64 number that summing double(a_ik) * double(b_jk) in ascending k gives, as for
// csrc/lap/factored_rows.hpp: the same bits, for no sum is ever split. Of floats every product is exact in
// float64, so that a fused multiplication rounds no differently; products of doubles are not fused.
#pragma once

#include "cuda/device_matrix.hpp"
#include "cuda/kernel.cuh"

namespace rebasin_fast::cuda {

// Adds x * y to a sum. `exact`: the product is exact.
template <bool exact>
__device__ inline double add_product(double sum, double x, double y) {
    if constexpr (exact)
        return __fma_rn(x, y, sum);
    else
        return sum + x * y;
}

template <class F>
__device__ inline double inner_product(const F* a, const F* b, std::int64_t depth) {
    double sum = 0.0;
    for (std::int64_t k = 0; k < depth; ++k)
        sum =
            add_product<std::is_same_v<F, float>>(sum, static_cast<double>(a[k]), static_cast<double>(b[k]));
    return sum;
}

// One element, by one thread.
__device__ inline double product_at(const Factors& f, std::int64_t i, std::int64_t j) {
    const std::int64_t a = i * f.depth, b = j * f.depth;
    if (f.wide)
        return inner_product(static_cast<const double*>(f.a) + a, static_cast<const double*>(f.b) + b,
                             f.depth);
    return inner_product(static_cast<const float*>(f.a) + a, static_cast<const float*>(f.b) + b, f.depth);
}

// Rows that are wanted together: those listed, or every `step`-th from `first` on.
struct Wanted {
    const int* list = nullptr;
    const int* count_at = nullptr;  // how many, on the device; null: `count`
    int first = 0, step = 1;
    int count = 0;

    __device__ int size() const { return count_at != nullptr ? *count_at : count; }
    __device__ int row(int k) const { return list != nullptr ? list[k] : first + k * step; }
};

inline constexpr int kProductTile = 64;      // rows and columns of a tile of products
inline constexpr int kProductDepth = 16;     // factors staged at a time
inline constexpr int kProductThreads = 256;  // 16 x 16, each with 4 x 4 products

// products[k * f.cols + j] = a_row(k) . b_j. Blocks of kProductThreads threads stride over the tiles. A
// thread's products are 16 apart, so that neighbours read neighbouring numbers of shared memory.
template <class F>
__global__ void __launch_bounds__(kProductThreads) multiply(Factors f, Wanted wanted, double* products) {
    constexpr int across = 16, each = kProductTile / across, pitch = kProductTile + 1;
    REBASIN_FAST_SHARED(double, of_a, kProductDepth* pitch);  // [k][row], converted once
    REBASIN_FAST_SHARED(double, of_b, kProductDepth* pitch);  // [k][column]
    const F* const a = static_cast<const F*>(f.a);
    const F* const b = static_cast<const F*>(f.b);
    const int t = static_cast<int>(threadIdx.x), x = t % across, y = t / across;
    const int rows = wanted.size(), tiles_across = (f.cols + kProductTile - 1) / kProductTile;
    const std::int64_t tiles = std::int64_t{(rows + kProductTile - 1) / kProductTile} * tiles_across;
    for (std::int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int i0 = static_cast<int>(tile / tiles_across) * kProductTile;
        const int j0 = static_cast<int>(tile % tiles_across) * kProductTile;
        double sum[each][each] = {};
        for (std::int64_t k0 = 0; k0 < f.depth; k0 += kProductDepth) {
            // kProductDepth neighbouring threads read neighbouring factors of a row.
            const int k = t % kProductDepth;
            for (int line = t / kProductDepth; line < kProductTile; line += kProductThreads / kProductDepth) {
                const bool inside = k0 + k < f.depth;
                double from_a = 0.0, from_b = 0.0;
                if (inside && i0 + line < rows) from_a = a[wanted.row(i0 + line) * f.depth + k0 + k];
                if (inside && j0 + line < f.cols) from_b = b[(j0 + line) * f.depth + k0 + k];
                of_a[k * pitch + line] = from_a;
                of_b[k * pitch + line] = from_b;
            }
            __syncthreads();
            const int depth = f.depth - k0 < kProductDepth ? static_cast<int>(f.depth - k0) : kProductDepth;
            for (int d = 0; d < depth; ++d) {
                double mine_a[each], mine_b[each];
                for (int r = 0; r < each; ++r) mine_a[r] = of_a[d * pitch + y + r * across];
                for (int c = 0; c < each; ++c) mine_b[c] = of_b[d * pitch + x + c * across];
                for (int r = 0; r < each; ++r)
                    for (int c = 0; c < each; ++c)
                        sum[r][c] = add_product<std::is_same_v<F, float>>(sum[r][c], mine_a[r], mine_b[c]);
            }
            __syncthreads();
        }
        for (int r = 0; r < each; ++r)
            for (int c = 0; c < each; ++c) {
                const int i = i0 + y + r * across, j = j0 + x + c * across;
                if (i < rows && j < f.cols) products[static_cast<std::int64_t>(i) * f.cols + j] = sum[r][c];
            }
    }
}

// The largest magnitude of `count` numbers, as the bits of a double: those of infinity or NaN where there is
// one, for they are larger than those of any number.
template <class F>
__global__ void find_largest(const F* numbers, std::int64_t count, unsigned long long* largest) {
    constexpr unsigned long long magnitude = ~0ull >> 1;
    unsigned long long mine = 0;
    const std::int64_t threads = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
    for (std::int64_t k = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < count;
         k += threads) {
        const auto bits =
            static_cast<unsigned long long>(__double_as_longlong(static_cast<double>(numbers[k])));
        mine = (bits & magnitude) > mine ? bits & magnitude : mine;
    }
    for (int flip = kWarp / 2; flip > 0; flip /= 2) {
        const unsigned long long other = __shfl_xor_sync(kWholeWarp, mine, flip);
        mine = other > mine ? other : mine;
    }
    if (threadIdx.x % kWarp == 0) atomicMax(largest, mine);
}

// As Costs, for code that reads whole rows and takes what time it takes.
struct FactoredCosts {
    Factors factors;
    double sign;
    int rows, cols;

    struct Row {
        const Factors& factors;
        int i;
        __device__ double operator[](int j) const { return product_at(factors, i, j); }
    };

    __device__ Row row(int i) const { return {factors, i}; }
    __device__ double cost(double element) const { return sign * element; }
    __device__ double at(int i, int j) const { return cost(row(i)[j]); }
};

}  // namespace rebasin_fast::cuda
