// What every kernel file includes: CUDA's language, shared memory, and the one way to launch.
//
// Kernels are templates in headers, with no `<<< >>>`, so that the very same text is compiled by nvcc for
// the device and, with REBASIN_FAST_EMULATE_CUDA, by any C++ compiler for the emulated device of
// tests/cuda_emulation. Shared memory is declared by REBASIN_FAST_SHARED(type, name, count), dynamic shared
// memory is had from dynamic_shared(). Warp operations that not every device of the list has
// (__reduce_*_sync) are not used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>
#include <utility>

#ifdef REBASIN_FAST_EMULATE_CUDA
#include "tests/cuda_emulation/language.hpp"

#define REBASIN_FAST_UNROLL
#define REBASIN_FAST_SHARED(type, name, count) \
    static const char name##_key = 0;          \
    auto& name =                               \
        *static_cast<type(*)[count]>(::rebasin_fast::emulation::shared(&name##_key, sizeof(type[count])))
#else
#include <cuda_runtime.h>

#define REBASIN_FAST_UNROLL _Pragma("unroll")
#define REBASIN_FAST_SHARED(type, name, count) __shared__ type name[count]
#endif

#include "cuda/runtime.hpp"

namespace rebasin_fast::cuda {

inline constexpr unsigned kWholeWarp = 0xffffffffu;
inline constexpr int kWarp = 32;
inline constexpr int kMostThreads = 1024;  // of a block

struct Launch {
    dim3 blocks;
    dim3 threads;  // of a block
    std::size_t shared_bytes = 0;
};

#ifdef REBASIN_FAST_EMULATE_CUDA

inline unsigned char* dynamic_shared() {
    return static_cast<unsigned char*>(emulation::shared(nullptr, 0));
}

template <class... Params, class... Args>
void launch(void (*kernel)(Params...), const Launch& how, Stream, Args&&... args) {
    const std::tuple<std::decay_t<Params>...> values(std::forward<Args>(args)...);
    emulation::run(how.blocks, how.threads, how.shared_bytes, [&] { std::apply(kernel, values); });
}

#else

__device__ inline unsigned char* dynamic_shared() {
    extern __shared__ __align__(16) unsigned char rebasin_fast_dynamic_shared[];
    return rebasin_fast_dynamic_shared;
}

// Throws Error when the launch is refused; what goes wrong later shows at the next call that waits.
template <class... Params, class... Args>
void launch(void (*kernel)(Params...), const Launch& how, Stream stream, Args&&... args) {
    std::tuple<std::decay_t<Params>...> values(std::forward<Args>(args)...);
    std::apply(
        [&](auto&... each) {
            void* pointers[] = {static_cast<void*>(&each)...};
            launch_pointers(reinterpret_cast<const void*>(kernel), how.blocks.x, how.blocks.y, how.blocks.z,
                            how.threads.x, how.threads.y, how.threads.z, pointers, how.shared_bytes, stream);
        },
        values);
}

#endif

}  // namespace rebasin_fast::cuda
