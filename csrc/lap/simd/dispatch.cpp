#include <atomic>
#include <cstdlib>
#include <cstring>

#include "lap/simd/kernels.hpp"
#include "lap/simd/small_kernel.hpp"

namespace rebasin_fast::simd {

#define REBASIN_FAST_DECLARE_ISA(name) \
    namespace name {                   \
    template <class T>                 \
    const Kernels<T>& table();         \
    FindKey find_key();                \
    SolveSmall solve_small_kernel();   \
    }
REBASIN_FAST_DECLARE_ISA(baseline)
#ifdef REBASIN_FAST_X86_KERNELS
REBASIN_FAST_DECLARE_ISA(avx2)
REBASIN_FAST_DECLARE_ISA(avx512)
#endif

namespace {

enum class Isa : int { baseline, avx2, avx512 };
constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

bool supported(Isa isa) {
    if (isa == Isa::baseline) return true;
#ifdef REBASIN_FAST_X86_KERNELS
    if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
#else
    return false;
#endif
}

bool parse(const char* name, Isa* isa) {
    for (int k = 0; k < 3; ++k)
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
    if (supported(Isa::avx512)) return Isa::avx512;
    return supported(Isa::avx2) ? Isa::avx2 : Isa::baseline;
}

std::atomic<Isa>& active() {
    static std::atomic<Isa> isa{choose()};
    return isa;
}

}  // namespace

template <class T>
const Kernels<T>& kernels() {
#ifdef REBASIN_FAST_X86_KERNELS
    const Isa isa = active().load(std::memory_order_relaxed);
    if (isa == Isa::avx512) return avx512::table<T>();
    if (isa == Isa::avx2) return avx2::table<T>();
#endif
    return baseline::table<T>();
}

FindKey find_key() {
#ifdef REBASIN_FAST_X86_KERNELS
    const Isa isa = active().load(std::memory_order_relaxed);
    if (isa == Isa::avx512) return avx512::find_key();
    if (isa == Isa::avx2) return avx2::find_key();
#endif
    return baseline::find_key();
}

SolveSmall solve_small_kernel() {
#ifdef REBASIN_FAST_X86_KERNELS
    const Isa isa = active().load(std::memory_order_relaxed);
    if (isa == Isa::avx512) return avx512::solve_small_kernel();
    if (isa == Isa::avx2) return avx2::solve_small_kernel();
#endif
    return baseline::solve_small_kernel();
}

const char* active_isa() {
    return kNames[static_cast<int>(active().load())];
}

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (int k = 0; k < 3; ++k)
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
