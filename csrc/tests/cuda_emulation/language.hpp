// CUDA's words, said to the emulated device. Kernels include cuda/kernel.cuh, which includes this on the
// host.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "tests/cuda_emulation/machine.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)

#define threadIdx (::rebasin_fast::emulation::here().thread)
#define blockIdx (::rebasin_fast::emulation::here().block)
#define blockDim (::rebasin_fast::emulation::here().block_size)
#define gridDim (::rebasin_fast::emulation::here().grid_size)

#define REBASIN_FAST_HERE int line = __builtin_LINE(), const char *file = __builtin_FILE()

inline void __syncthreads(REBASIN_FAST_HERE) {
    ::rebasin_fast::emulation::barrier({file, line});
}

inline int __syncthreads_or(int predicate, REBASIN_FAST_HERE) {
    static const char key = 0;
    auto* any = static_cast<int*>(::rebasin_fast::emulation::shared(&key, sizeof(int)));
    ::rebasin_fast::emulation::barrier({file, line});
    *any = 0;
    ::rebasin_fast::emulation::barrier({file, line});
    if (predicate) *any = 1;
    ::rebasin_fast::emulation::barrier({file, line});
    const int result = *any;
    ::rebasin_fast::emulation::barrier({file, line});
    return result;
}

namespace rebasin_fast::emulation {

inline int lane() {
    const Here& now = here();
    return static_cast<int>(
        (now.thread.x + now.block_size.x * (now.thread.y + now.block_size.y * now.thread.z)) % kWarp);
}

template <class T>
T shuffle(unsigned mask, T value, int source, Site site) {
    static_assert(sizeof(T) <= 8);
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = exchange(mask, bits, source, site).value;
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

// One that others may come before; the operation itself is whole, for one fiber runs at a time.
template <class T, class Change>
T atomically(T* at, Change change) {
    perhaps_yield();
    begin_atomic();
    const T before = *at;
    *at = change(before);
    end_atomic();
    return before;
}

}  // namespace rebasin_fast::emulation

inline void __syncwarp(unsigned mask = 0xffffffffu, REBASIN_FAST_HERE) {
    ::rebasin_fast::emulation::warp_barrier(mask, {file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, REBASIN_FAST_HERE) {
    return ::rebasin_fast::emulation::exchange(mask, predicate != 0, ::rebasin_fast::emulation::lane(),
                                               {file, line})
        .nonzero;
}

inline int __any_sync(unsigned mask, int predicate, REBASIN_FAST_HERE) {
    return __ballot_sync(mask, predicate, line, file) != 0;
}

inline int __all_sync(unsigned mask, int predicate, REBASIN_FAST_HERE) {
    return __ballot_sync(mask, !predicate, line, file) == 0;
}

inline unsigned __reduce_min_sync(unsigned mask, unsigned value, REBASIN_FAST_HERE) {
    return ::rebasin_fast::emulation::exchange(mask, value, ::rebasin_fast::emulation::lane(), {file, line})
        .least;
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, REBASIN_FAST_HERE) {
    const int lane = ::rebasin_fast::emulation::lane();
    return ::rebasin_fast::emulation::shuffle(mask, value, lane / width * width + source % width,
                                              {file, line});
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32, REBASIN_FAST_HERE) {
    const int lane = ::rebasin_fast::emulation::lane(), source = lane ^ flip;
    return ::rebasin_fast::emulation::shuffle(mask, value, source / width > lane / width ? lane : source,
                                              {file, line});
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, REBASIN_FAST_HERE) {
    const int lane = ::rebasin_fast::emulation::lane(), source = lane + static_cast<int>(by);
    return ::rebasin_fast::emulation::shuffle(mask, value, source / width != lane / width ? lane : source,
                                              {file, line});
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, REBASIN_FAST_HERE) {
    const int lane = ::rebasin_fast::emulation::lane(), source = lane - static_cast<int>(by);
    return ::rebasin_fast::emulation::shuffle(mask, value, source < lane / width * width ? lane : source,
                                              {file, line});
}

template <class T>
T atomicAdd(T* at, T value) {
    return ::rebasin_fast::emulation::atomically(at,
                                                 [=](T before) { return static_cast<T>(before + value); });
}
template <class T>
T atomicMin(T* at, T value) {
    return ::rebasin_fast::emulation::atomically(at, [=](T before) { return std::min(before, value); });
}
template <class T>
T atomicMax(T* at, T value) {
    return ::rebasin_fast::emulation::atomically(at, [=](T before) { return std::max(before, value); });
}
template <class T>
T atomicOr(T* at, T value) {
    return ::rebasin_fast::emulation::atomically(at, [=](T before) { return before | value; });
}
template <class T>
T atomicExch(T* at, T value) {
    return ::rebasin_fast::emulation::atomically(at, [=](T) { return value; });
}
template <class T>
T atomicCAS(T* at, T expected, T value) {
    return ::rebasin_fast::emulation::atomically(at, [=](T now) { return now == expected ? value : now; });
}

inline void __threadfence() {
    ::rebasin_fast::emulation::perhaps_yield();
}
inline void __threadfence_block() {
    ::rebasin_fast::emulation::perhaps_yield();
}

template <class T>
T __ldg(const T* at) {
    return *at;
}

inline double __fma_rn(double x, double y, double z) {
    return std::fma(x, y, z);
}

inline int __popc(unsigned x) {
    return std::popcount(x);
}
inline int __ffs(int x) {
    return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1;
}
inline int __clz(int x) {
    return std::countl_zero(static_cast<unsigned>(x));
}
inline long long __double_as_longlong(double x) {
    return std::bit_cast<long long>(x);
}
inline double __longlong_as_double(long long x) {
    return std::bit_cast<double>(x);
}
inline int __float_as_int(float x) {
    return std::bit_cast<int>(x);
}
inline unsigned __float_as_uint(float x) {
    return std::bit_cast<unsigned>(x);
}
inline float __int_as_float(int x) {
    return std::bit_cast<float>(x);
}
inline float __uint_as_float(unsigned x) {
    return std::bit_cast<float>(x);
}

#undef REBASIN_FAST_HERE
