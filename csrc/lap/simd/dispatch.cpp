#include <atomic>
#include <cstdlib>
#include <cstring>

#include "lap/simd/kernels.hpp"
#include "lap/simd/processor.hpp"
#include "lap/simd/product_kernels.hpp"
#include "lap/simd/small_kernel.hpp"

namespace rebasin_fast::simd {

#define REBASIN_FAST_DECLARE_ISA(name)        \
    namespace name {                          \
    template <class T>                        \
    const Kernels<T>& table();                \
    FindKey find_key();                       \
    Widen widen();                            \
    SolveSmall solve_small_kernel();          \
    template <class F>                        \
    const ProductKernels<F>& product_table(); \
    }
REBASIN_FAST_DECLARE_ISA(scalar)
#ifdef REBASIN_FAST_X86_KERNELS
REBASIN_FAST_DECLARE_ISA(avx2)
REBASIN_FAST_DECLARE_ISA(avx512)
#endif
#ifdef REBASIN_FAST_NEON_KERNELS
REBASIN_FAST_DECLARE_ISA(neon)
#endif

namespace {

// Those this build holds kernels of, best last.
enum class Isa : int {
    scalar,
#ifdef REBASIN_FAST_X86_KERNELS
    avx2,
    avx512,
#endif
#ifdef REBASIN_FAST_NEON_KERNELS
    neon,
#endif
};
constexpr const char* kNames[] = {
    "scalar",
#ifdef REBASIN_FAST_X86_KERNELS
    "avx2",
    "avx512",
#endif
#ifdef REBASIN_FAST_NEON_KERNELS
    "neon",
#endif
};
constexpr int kCount = sizeof(kNames) / sizeof(kNames[0]);

bool supported(Isa isa) {
    switch (isa) {
#ifdef REBASIN_FAST_X86_KERNELS
        case Isa::avx2:
            return processor().avx2;
        case Isa::avx512:
            return processor().avx512;
#endif
#ifdef REBASIN_FAST_NEON_KERNELS
        case Isa::neon:  // part of every 64-bit ARM processor
            return true;
#endif
        case Isa::scalar:
            break;
    }
    return true;
}

bool parse(const char* name, Isa* isa) {
    for (int k = 0; k < kCount; ++k)
        if (std::strcmp(name, kNames[k]) == 0) {
            *isa = static_cast<Isa>(k);
            return supported(*isa);
        }
    return false;
}

// An unknown or unsupported name in the environment falls back to the best one: a stale variable must not
// stop a program from starting. build_info() shows what is in use.
Isa choose() {
    Isa isa;
    const char* wanted = std::getenv("REBASIN_FAST_ISA");
    if (wanted != nullptr && parse(wanted, &isa)) return isa;
    int best = kCount - 1;
    while (!supported(static_cast<Isa>(best))) --best;
    return static_cast<Isa>(best);
}

std::atomic<Isa>& active() {
    static std::atomic<Isa> isa{choose()};
    return isa;
}

}  // namespace

// What `member` is in the namespace of the instruction set in use.
#ifdef REBASIN_FAST_X86_KERNELS
#define REBASIN_FAST_X86_CASES(member) \
    case Isa::avx512:                  \
        return avx512::member;         \
    case Isa::avx2:                    \
        return avx2::member;
#else
#define REBASIN_FAST_X86_CASES(member)
#endif
#ifdef REBASIN_FAST_NEON_KERNELS
#define REBASIN_FAST_NEON_CASES(member) \
    case Isa::neon:                     \
        return neon::member;
#else
#define REBASIN_FAST_NEON_CASES(member)
#endif
#define REBASIN_FAST_RETURN_ACTIVE(member)              \
    switch (active().load(std::memory_order_relaxed)) { \
        REBASIN_FAST_X86_CASES(member)                  \
    REBASIN_FAST_NEON_CASES(member) case Isa::scalar:   \
        break;                                          \
    }                                                   \
    return scalar::member

template <class T>
const Kernels<T>& kernels() {
    REBASIN_FAST_RETURN_ACTIVE(table<T>());
}

FindKey find_key() {
    REBASIN_FAST_RETURN_ACTIVE(find_key());
}

Widen widen() {
    REBASIN_FAST_RETURN_ACTIVE(widen());
}

SolveSmall solve_small_kernel(std::int64_t cols) {
#ifdef REBASIN_FAST_X86_KERNELS
    // Where two vectors hold a row, latency decides, and shorter vectors have less of it.
    if (cols <= 16 && active().load(std::memory_order_relaxed) == Isa::avx512)
        return avx2::solve_small_kernel();
#else
    (void)cols;
#endif
    REBASIN_FAST_RETURN_ACTIVE(solve_small_kernel());
}

template <class F>
const ProductKernels<F>& product_kernels() {
    REBASIN_FAST_RETURN_ACTIVE(product_table<F>());
}
template const ProductKernels<float>& product_kernels<float>();
template const ProductKernels<double>& product_kernels<double>();

const char* active_isa() {
    return kNames[static_cast<int>(active().load())];
}

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (int k = 0; k < kCount; ++k)
        if (supported(static_cast<Isa>(k))) names.emplace_back(kNames[k]);
    return names;
}

bool force_isa(const std::string& name) {
    Isa isa;
    if (!parse(name.c_str(), &isa)) return false;
    active().store(isa);
    return true;
}

#define REBASIN_FAST_INSTANTIATE(T) template const Kernels<T>& kernels<T>();
#include "lap/simd/element_types.inc"
#undef REBASIN_FAST_INSTANTIATE

}  // namespace rebasin_fast::simd
