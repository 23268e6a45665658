// Changing from one stack to another, which no standard function does without system calls.
#pragma once

#include <cstddef>
#include <cstdint>

// Keeps what the calling convention says must be kept on the stack, its top in *save, and goes on where `to`
// was saved.
extern "C" void rebasin_fast_switch_stack(void** save, void* to);

#if defined(__x86_64__)
asm(R"(
.text
.globl rebasin_fast_switch_stack
.type rebasin_fast_switch_stack, @function
rebasin_fast_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size rebasin_fast_switch_stack, .-rebasin_fast_switch_stack
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl rebasin_fast_switch_stack
.type rebasin_fast_switch_stack, @function
rebasin_fast_switch_stack:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size rebasin_fast_switch_stack, .-rebasin_fast_switch_stack
)");
#else
#error "the emulated CUDA device knows the stacks of x86-64 and AArch64 only"
#endif

namespace rebasin_fast::emulation {

// What to switch to for `entry` to begin on an empty stack. It must not return.
inline void* fresh_stack(unsigned char* memory, std::size_t bytes, void (*entry)()) {
    auto* top = reinterpret_cast<std::uintptr_t*>((reinterpret_cast<std::uintptr_t>(memory) + bytes) &
                                                  ~std::uintptr_t{15});
#if defined(__x86_64__)
    top -= 2;  // what a call would have left there: entry is aligned as any function is
    top[0] = reinterpret_cast<std::uintptr_t>(entry);
    top[1] = 0;
    constexpr int registers = 6;
    top -= registers;
    for (int k = 0; k < registers; ++k) top[k] = 0;
#else
    constexpr int registers = 20, link = 11;
    top -= registers;
    for (int k = 0; k < registers; ++k) top[k] = 0;
    top[link] = reinterpret_cast<std::uintptr_t>(entry);
#endif
    return top;
}

}  // namespace rebasin_fast::emulation
