// The one body of the product kernels, included after kernels_body.hpp by one translation unit per
// instruction set, under the same rules: nothing of the standard library.
#include "lap/simd/product_kernels.hpp"

namespace rebasin_fast::simd::REBASIN_FAST_SIMD_NAMESPACE {
namespace {

// Sums that fit the registers beside what they are made of.
#if (defined(__AVX512F__) && REBASIN_FAST_SIMD_LANES == 8) || defined(__aarch64__)
constexpr std::int64_t kSums = 16;
#else
constexpr std::int64_t kSums = 8;
#endif

template <class Out>
using Sums = typename Wide<Out>::type;

// x * y + sum, rounded once where the processor can: the reason why `quick` may differ between them.
inline Sums<float> fused(Sums<float> x, Sums<float> y, Sums<float> sum) {
#if defined(__AVX512F__) && REBASIN_FAST_SIMD_LANES == 8
    return (Sums<float>)_mm512_fmadd_ps((__m512)x, (__m512)y, (__m512)sum);
#elif defined(__FMA__) && REBASIN_FAST_SIMD_LANES == 4
    return (Sums<float>)_mm256_fmadd_ps((__m256)x, (__m256)y, (__m256)sum);
#elif defined(__aarch64__)
    return (Sums<float>)vfmaq_f32((float32x4_t)sum, (float32x4_t)x, (float32x4_t)y);
#else
    return x * y + sum;
#endif
}

inline Sums<double> fused(Sums<double> x, Sums<double> y, Sums<double> sum) {
#if defined(__AVX512F__) && REBASIN_FAST_SIMD_LANES == 8
    return (Sums<double>)_mm512_fmadd_pd((__m512d)x, (__m512d)y, (__m512d)sum);
#elif defined(__FMA__) && REBASIN_FAST_SIMD_LANES == 4
    return (Sums<double>)_mm256_fmadd_pd((__m256d)x, (__m256d)y, (__m256d)sum);
#elif defined(__aarch64__)
    return (Sums<double>)vfmaq_f64((float64x2_t)sum, (float64x2_t)x, (float64x2_t)y);
#else
    return x * y + sum;
#endif
}

template <class In, class Out>
inline Sums<Out> add_product(Sums<Out> x, Sums<Out> y, Sums<Out> sum) {
    if constexpr (sizeof(In) == sizeof(double)) return x * y + sum;
    return fused(x, y, sum);
}

// The products of `Rows` rows of a tile and `Blocks` neighbouring blocks. What is multiplied after these
// blocks is fetched meanwhile: processors do not look ahead beyond a page.
template <class In, class Out, std::int64_t Rows, std::int64_t Blocks>
inline void multiply_tile(const Out* tile, const In* blocks, const In* next, std::int64_t depth,
                          Out* products, std::int64_t stride) {
    constexpr std::int64_t lanes = Wide<Out>::lanes, per_block = kBlockColumns / lanes;
    constexpr std::int64_t vectors = Blocks * per_block, in_line = 64 / static_cast<std::int64_t>(sizeof(In));
    using Loaded = typename VectorOfLanes<In, lanes>::type;
    Sums<Out> sum[Rows][vectors];
#pragma GCC unroll 16
    for (std::int64_t r = 0; r < Rows; ++r)
#pragma GCC unroll 16
        for (std::int64_t v = 0; v < vectors; ++v) sum[r][v] = Sums<Out>{};
    for (std::int64_t k = 0; k < depth; ++k) {
        Sums<Out> x[vectors];
#pragma GCC unroll 16
        for (std::int64_t v = 0; v < vectors; ++v)
            x[v] = __builtin_convertvector(load<Loaded>(blocks + v / per_block * depth * kBlockColumns +
                                                        k * kBlockColumns + v % per_block * lanes),
                                           Sums<Out>);
        if constexpr (Rows > 1) {
#pragma GCC unroll 16
            for (std::int64_t line = 0; line < Blocks * kBlockColumns / in_line; ++line)
                __builtin_prefetch(next + (k * Blocks * kBlockColumns + line * in_line));
        }
#pragma GCC unroll 16
        for (std::int64_t r = 0; r < Rows; ++r) {
            const Sums<Out> y = tile[k * kTileRows + r] - Sums<Out>{};  // less 0, which changes no number
#pragma GCC unroll 16
            for (std::int64_t v = 0; v < vectors; ++v) sum[r][v] = add_product<In, Out>(x[v], y, sum[r][v]);
        }
    }
#pragma GCC unroll 16
    for (std::int64_t r = 0; r < Rows; ++r)
#pragma GCC unroll 16
        for (std::int64_t v = 0; v < vectors; ++v) store(products + r * stride + v * lanes, sum[r][v]);
}

template <class In, class Out, std::int64_t Rows, std::int64_t Blocks>
inline void multiply_blocks(const Out* tiles, std::int64_t rows, const In* blocks, const In* next,
                            std::int64_t depth, Out* products, std::int64_t stride) {
    for (std::int64_t i = 0; i < rows; i += Rows) {
        const Out* tile = tiles + i / kTileRows * kTileRows * depth + i % kTileRows;
        multiply_tile<In, Out, Rows, Blocks>(tile, blocks, next, depth, products + i * stride, stride);
    }
}

template <class In, class Out, std::int64_t Rows, std::int64_t Blocks>
void multiply_rows(const Out* tiles, std::int64_t rows, const In* blocks, std::int64_t count,
                   std::int64_t depth, Out* products, std::int64_t stride) {
    const std::int64_t size = depth * kBlockColumns;
    std::int64_t j = 0;
    for (; j + Blocks <= count; j += Blocks) {
        const In* here = blocks + j * size;
        const In* next = j + 2 * Blocks <= count ? here + Blocks * size : here;
        multiply_blocks<In, Out, Rows, Blocks>(tiles, rows, here, next, depth, products + j * kBlockColumns,
                                               stride);
    }
    for (; j < count; ++j) {
        const In* here = blocks + j * size;
        multiply_blocks<In, Out, Rows, 1>(tiles, rows, here, here, depth, products + j * kBlockColumns,
                                          stride);
    }
}

template <class In, class Out>
void multiply(const Out* tiles, std::int64_t rows, const In* blocks, std::int64_t count, std::int64_t depth,
              Out* products, std::int64_t stride) {
    constexpr std::int64_t per_block = kBlockColumns / Wide<Out>::lanes;
    if (rows == 1) {
        constexpr std::int64_t together = per_block < kSums / 2 ? kSums / 2 / per_block : 1;
        multiply_rows<In, Out, 1, together>(tiles, rows, blocks, count, depth, products, stride);
        return;
    }
    constexpr std::int64_t together = per_block * kTileRows < kSums ? kSums / (per_block * kTileRows) : 1;
    constexpr std::int64_t tile = kSums / (per_block * together);
    multiply_rows<In, Out, tile, together>(tiles, rows, blocks, count, depth, products, stride);
}

// Several sums at a time, for each waits for its last addition.
template <class F>
void multiply_listed(const F* a, const F* b, std::int64_t depth, const std::int32_t* columns,
                     std::int64_t count, double* products) {
    constexpr std::int64_t together = 8;
    for (std::int64_t c = 0; c < count; c += together) {
        const F* row[together];
        double sum[together] = {};
        for (std::int64_t t = 0; t < together; ++t) row[t] = b + columns[c + t < count ? c + t : c] * depth;
        for (std::int64_t k = 0; k < depth; ++k) {
            const double x = static_cast<double>(a[k]);
            for (std::int64_t t = 0; t < together; ++t) sum[t] += x * static_cast<double>(row[t][k]);
        }
        for (std::int64_t t = 0; t < together && c + t < count; ++t) products[c + t] = sum[t];
    }
}

}  // namespace

template <class F>
const ProductKernels<F>& product_table() {
    static constexpr ProductKernels<F> kernels{&multiply<F, F>, &multiply<F, double>, &multiply_listed<F>};
    return kernels;
}

template const ProductKernels<float>& product_table<float>();
template const ProductKernels<double>& product_table<double>();

}  // namespace rebasin_fast::simd::REBASIN_FAST_SIMD_NAMESPACE
