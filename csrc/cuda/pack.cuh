// A matrix of any element type and any strides becomes one with contiguous rows. Tiles go through shared
// memory, so that both sides are read and written along their lines.
#pragma once

#include "cuda/elements.cuh"

namespace rebasin_fast::cuda {

inline constexpr int kTile = 32, kTileRows = 8;

// to[i * cols + j] = from(i, j). Blocks of kTile x kTileRows threads stride over the tiles.
template <class S>
__global__ void pack_tiles(DeviceMatrix from, S* to) {
    REBASIN_FAST_SHARED(S, tile, kTile * (kTile + 1));  // one more column: no two lanes on one bank
    const std::int64_t across = (from.cols + kTile - 1) / kTile, down = (from.rows + kTile - 1) / kTile;
    const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
    const bool by_columns = (from.row_stride < 0 ? -from.row_stride : from.row_stride) <
                            (from.col_stride < 0 ? -from.col_stride : from.col_stride);
    for (std::int64_t k = blockIdx.x; k < across * down; k += gridDim.x) {
        const std::int64_t i0 = k / across * kTile, j0 = k % across * kTile;
        for (int step = y; step < kTile; step += kTileRows) {
            const int di = by_columns ? x : step, dj = by_columns ? step : x;
            const std::int64_t i = i0 + di, j = j0 + dj;
            if (i < from.rows && j < from.cols)
                tile[di * (kTile + 1) + dj] =
                    load_as<S>(from.data, from.type, i * from.row_stride + j * from.col_stride);
        }
        __syncthreads();
        for (int di = y; di < kTile; di += kTileRows) {
            const std::int64_t i = i0 + di, j = j0 + x;
            if (i < from.rows && j < from.cols) to[i * from.cols + j] = tile[di * (kTile + 1) + x];
        }
        __syncthreads();
    }
}

template <class S>
void pack(const DeviceMatrix& from, S* to, Stream stream) {
    const std::int64_t tiles = ((from.rows + kTile - 1) / kTile) * ((from.cols + kTile - 1) / kTile);
    const std::int64_t most = 16 * static_cast<std::int64_t>(multiprocessors());
    launch(pack_tiles<S>, {dim3(static_cast<unsigned>(tiles < most ? tiles : most)), dim3(kTile, kTileRows)},
           stream, from, to);
}

// Whether a matrix can be read where it lies as rows of S.
template <class S>
bool lies_ready(const DeviceMatrix& matrix) {
    const bool same = std::is_same_v<S, double>         ? is_double(matrix.type)
                      : std::is_same_v<S, std::int32_t> ? is_int32(matrix.type)
                                                        : matrix.type == Element::f32;
    return same && (matrix.col_stride == 1 || matrix.cols <= 1);
}

}  // namespace rebasin_fast::cuda
