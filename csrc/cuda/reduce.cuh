// The least of what the lanes of a warp, or the threads of a block, hold. Everybody learns the result.
#pragma once

#include "cuda/kernel.cuh"

namespace rebasin_fast::cuda {

// A value and whose it is. Equal values go to the lower code.
struct Least {
    double value;
    int code;

    __device__ static Least none() { return {__builtin_huge_val(), 0x7fffffff}; }
    __device__ void take(const Least& other) {
        if (other.value < value || (other.value == value && other.code < code)) *this = other;
    }
    __device__ Least from_lane(int flip) const {
        return {__shfl_xor_sync(kWholeWarp, value, flip), __shfl_xor_sync(kWholeWarp, code, flip)};
    }
};

// The least and the second least value.
struct TwoLeast {
    double first, second;
    int code;  // of the first

    __device__ static TwoLeast none() { return {__builtin_huge_val(), __builtin_huge_val(), 0x7fffffff}; }
    __device__ void take(const TwoLeast& other) {
        if (other.first < first || (other.first == first && other.code < code)) {
            second = other.second < first ? other.second : first;
            first = other.first;
            code = other.code;
        } else if (other.first < second) {
            second = other.first;
        }
    }
    __device__ void take(double value, int other_code) {
        take(TwoLeast{value, __builtin_huge_val(), other_code});
    }
    __device__ TwoLeast from_lane(int flip) const {
        return {__shfl_xor_sync(kWholeWarp, first, flip), __shfl_xor_sync(kWholeWarp, second, flip),
                __shfl_xor_sync(kWholeWarp, code, flip)};
    }
};

// A sum, or several, in an order that does not depend on who comes first.
struct Sum {
    double value;

    __device__ static Sum none() { return {0.0}; }
    __device__ void take(const Sum& other) { value += other.value; }
    __device__ Sum from_lane(int flip) const { return {__shfl_xor_sync(kWholeWarp, value, flip)}; }
};

struct Bits {
    unsigned value;

    __device__ static Bits none() { return {0}; }
    __device__ void take(const Bits& other) { value |= other.value; }
    __device__ Bits from_lane(int flip) const { return {__shfl_xor_sync(kWholeWarp, value, flip)}; }
};

template <class Item>
__device__ inline Item over_warp(Item mine) {
    for (int flip = kWarp / 2; flip > 0; flip /= 2) mine.take(mine.from_lane(flip));
    return mine;
}

// For blocks of whole warps. One barrier a call, for calls alternate between two buffers: who writes one
// again has passed the barrier of the other, and everybody had read the one before coming there.
template <class Item>
class OverBlock {
  public:
    __device__ Item operator()(Item mine) {
        REBASIN_FAST_SHARED(Item, of_warp, 2 * kWarp);
        mine = over_warp(mine);
        const int warps = static_cast<int>(blockDim.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
        if (warps == 1) return mine;
        Item* buffer = of_warp + turn_ * kWarp;
        turn_ = 1 - turn_;
        if (lane == 0) buffer[threadIdx.x / kWarp] = mine;
        __syncthreads();
        return over_warp(lane < warps ? buffer[lane] : Item::none());
    }

  private:
    int turn_ = 0;
};

}  // namespace rebasin_fast::cuda
