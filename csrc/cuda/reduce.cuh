// The least of what the lanes of a warp, or the threads of a block, hold. Everybody learns the result.
#pragma once

#include "cuda/kernel.cuh"

namespace rebasin_fast::cuda {

// Orders doubles as unsigned integers, for atomicMin and for reductions over a warp.
__device__ inline unsigned long long key_of(double x) {
    const auto bits = static_cast<unsigned long long>(__double_as_longlong(x));
    return bits >> 63 != 0 ? ~bits : bits | 1ull << 63;
}
__device__ inline double of_key(unsigned long long key) {
    return __longlong_as_double(static_cast<long long>(key >> 63 != 0 ? key & ~(1ull << 63) : ~key));
}

// A value and whose it is, a code that is not negative. Equal values go to the lower code.
struct Least {
    double value;
    int code;

    __device__ static Least none() { return {__builtin_huge_val(), 0x7fffffff}; }
    __device__ void take(const Least& other) {
        if (other.value < value || (other.value == value && other.code < code)) *this = other;
    }
};

// The least and the second least value. No two have one code, but for none().
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

__device__ inline unsigned least_by_shuffles(unsigned mine) {
    for (int flip = kWarp / 2; flip > 0; flip /= 2) {
        const unsigned other = __shfl_xor_sync(kWholeWarp, mine, flip);
        mine = other < mine ? other : mine;
    }
    return mine;
}

// One instruction where the device has it, and steps of a search are mostly such reductions, one after the
// other: numbers are reduced half by half as integers, not by five exchanges with a comparison each.
__device__ inline unsigned least_over_warp(unsigned mine) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    return least_by_shuffles(mine);
#else
    return __reduce_min_sync(kWholeWarp, mine);
#endif
}

__device__ inline unsigned long long least_over_warp(unsigned long long mine) {
    const auto high = static_cast<unsigned>(mine >> 32), low = static_cast<unsigned>(mine);
    const unsigned least = least_over_warp(high);
    return static_cast<unsigned long long>(least) << 32 | least_over_warp(high == least ? low : ~0u);
}

// -0 and 0 are one number, and so must their keys be.
__device__ inline unsigned long long key_of_value(double x) {
    return key_of(x + 0.0);
}

__device__ inline double least_over_warp(double mine) {
    return of_key(least_over_warp(key_of_value(mine)));
}

__device__ inline int least_code(bool counts, int code) {
    return static_cast<int>(least_over_warp(static_cast<unsigned>(counts ? code : 0x7fffffff)));
}

__device__ inline Least over_warp(Least mine) {
    const unsigned long long key = key_of_value(mine.value), least = least_over_warp(key);
    return {of_key(least), least_code(key == least, mine.code)};
}

__device__ inline TwoLeast over_warp(TwoLeast mine) {
    const unsigned long long key = key_of_value(mine.first), least = least_over_warp(key);
    const int code = least_code(key == least, mine.code);
    const bool is_first = key == least && mine.code == code;
    return {of_key(least), least_over_warp(is_first ? mine.second : mine.first), code};
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
