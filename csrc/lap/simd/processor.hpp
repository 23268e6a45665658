// Which x86 instruction sets the processor has and the operating system keeps the registers of. Asked of the
// processor itself: what compilers offer for it lies in their run-time libraries, which Clang does not link
// on Windows.
#pragma once

#ifdef REBASIN_FAST_X86_KERNELS

#include <cpuid.h>
#include <immintrin.h>

#include <cstdint>

namespace rebasin_fast::simd {

struct Processor {
    bool avx2 = false;    // and FMA
    bool avx512 = false;  // F, DQ, BW, VL
};

__attribute__((target("xsave"))) inline std::uint64_t registers_kept() {
    return static_cast<std::uint64_t>(_xgetbv(0));
}

// Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, sections 14.3 and 15.2 to 15.4.
inline Processor processor() {
    constexpr unsigned fma = 1u << 12, xgetbv = 1u << 27;  // leaf 1, ecx
    constexpr unsigned avx2 = 1u << 5, f = 1u << 16, dq = 1u << 17, bw = 1u << 30,
                       vl = 1u << 31;                                 // leaf 7, ebx
    [[maybe_unused]] constexpr std::uint64_t ymm = 0x06, zmm = 0xe6;  // register 0
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    Processor found;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return found;
    const unsigned features = ecx;
    if (!(features & xgetbv) || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return found;
    const std::uint64_t kept = registers_kept();
#ifdef __APPLE__
    const bool keeps_zmm = (kept & ymm) == ymm;  // macOS keeps the rest from a program's first use of it on
#else
    const bool keeps_zmm = (kept & zmm) == zmm;
#endif
    found.avx2 = (kept & ymm) == ymm && (features & fma) && (ebx & avx2);
    found.avx512 = found.avx2 && keeps_zmm && (ebx & f) && (ebx & dq) && (ebx & bw) && (ebx & vl);
    return found;
}

}  // namespace rebasin_fast::simd

#endif
