/*
 * switch.c - from one stack to another.
 *
 * aiol_stack_switch(&sp) keeps what a called function must keep on the stack it leaves, stores that stack's pointer at
 * sp and goes on with the one that was there. So one word stands for whichever side does not run. Kept are the
 * registers that a function keeps, and the modes of floating point (rounding and the like), so that each coroutine has
 * its own; flags that say what happened are the thread's, as the calling conventions have it. Modes are written only
 * when they differ, for that is slow.
 *
 * The word at the saved pointer holds the modes. A stack that begins looks as if its function had called the switch;
 * it has no caller, which is where debuggers stop.
 *
 * On x86 it jumps where others return: a processor that predicts where a return goes is wrong here each time, which
 * costs three times what all the rest does. On x86-64 it is inlined too, else the place that its call has left with
 * the processor would mislead the returns behind it. Elsewhere it is a function, aioloop_stack_switch, a weak, hidden
 * symbol: with AIOLOOP_STATIC a program may have it several times. Shadow stacks it does not know of: a program that
 * has them takes AIOLOOP_USE_UCONTEXT.
 */
#ifndef AIOL_SYS_SWITCH_C
#define AIOL_SYS_SWITCH_C

#include "sys/sys.h"

#if AIOLOOP_USE_COROUTINES

#if AIOL_STACK_SWITCH == AIOL_SWITCH_X86_64

#define AIOL_SWITCH_WORDS 3 /* of a stack that begins: what the switch takes from it, and on x86 a return address of 0 */
#define AIOL_SWITCH_PC 1    /* where it goes on */

/* The registers that AVX-512 adds. */
#if defined(__AVX512F__)
#define AIOL_SWITCH_VECTORS                                                                                  \
    "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26",       \
        "xmm27", "xmm28", "xmm29", "xmm30", "xmm31", "k1", "k2", "k3", "k4", "k5", "k6", "k7",
#else
#define AIOL_SWITCH_VECTORS
#endif

/* The compiler keeps what it needs of the registers that are listed; the library uses no others of floating point.
 * Below the pointer lie 128 bytes that a function may use. */
AIOL_INLINE void aiol_stack_switch(aiol_stack_pointer *sp) {
    __asm__ volatile("    leaq -128(%%rsp), %%rsp\n"
                     "    pushq %%rbp\n"
                     "    pushq %%rbx\n"
                     "    leaq 3f(%%rip), %%rax\n"
                     "    pushq %%rax\n"
                     "    subq $8, %%rsp\n"
                     "    stmxcsr (%%rsp)\n"
                     "    fnstcw 4(%%rsp)\n"
                     "    movq (%%rdi), %%rax\n"
                     "    movq %%rsp, (%%rdi)\n"
                     "    movl (%%rsp), %%ecx\n"
                     "    movzwl 4(%%rsp), %%edx\n"
                     "    movq %%rax, %%rsp\n"
                     "    movl (%%rsp), %%eax\n"
                     "    xorl %%ecx, %%eax\n"
                     "    testl $0xffc0, %%eax\n" /* the modes without the flags */
                     "    jne 1f\n"
                     "    cmpw 4(%%rsp), %%dx\n"
                     "    jne 1f\n"
                     "2:  addq $8, %%rsp\n"
                     "    popq %%rcx\n"
                     "    jmpq *%%rcx\n"
                     "1:  andl $0xffc0, %%eax\n"
                     "    xorl %%ecx, %%eax\n"
                     "    movl %%eax, (%%rsp)\n"
                     "    ldmxcsr (%%rsp)\n"
                     "    fldcw 4(%%rsp)\n"
                     "    jmp 2b\n"
                     "3:\n" AIOL_ASM_LANDING
                     "    popq %%rbx\n"
                     "    popq %%rbp\n"
                     "    leaq 128(%%rsp), %%rsp\n"
                     : "+D"(sp)
                     :
                     : "rax", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0",
                       "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                       "xmm12", "xmm13", "xmm14", "xmm15", AIOL_SWITCH_VECTORS "memory", "cc");
}

static void aiol_switch_modes(uintptr_t *sp) {
    uint32_t mxcsr;
    uint16_t control;
    __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
    __asm__ volatile("fnstcw %0" : "=m"(control));
    *sp = mxcsr | (uintptr_t)control << 32;
}

#elif AIOL_STACK_SWITCH == AIOL_SWITCH_I386

#define AIOL_SWITCH_WORDS 8
#define AIOL_SWITCH_PC 6

#if defined(__SSE__)
#define AIOL_SWITCH_SSE(code) code
#else
#define AIOL_SWITCH_SSE(code)
#endif

__asm__(AIOL_ASM_FUNCTION(aioloop_stack_switch)
        AIOL_ASM_LANDING
        "    pushl %ebp\n"
        "    pushl %ebx\n"
        "    pushl %esi\n"
        "    pushl %edi\n"
        "    subl $8, %esp\n"
        "    fnstcw (%esp)\n"
        "    movw (%esp), %dx\n"
        AIOL_SWITCH_SSE("    stmxcsr 4(%esp)\n"
                        "    movl 4(%esp), %ebx\n")
        "    movl (%ecx), %eax\n"
        "    movl %esp, (%ecx)\n"
        "    movl %eax, %esp\n"
        "    cmpw (%esp), %dx\n"
        "    je 1f\n"
        "    fldcw (%esp)\n"
        "1:\n"
        AIOL_SWITCH_SSE("    movl 4(%esp), %eax\n"
                        "    xorl %ebx, %eax\n"
                        "    andl $0xffc0, %eax\n" /* the modes without the flags */
                        "    je 2f\n"
                        "    xorl %ebx, %eax\n"
                        "    movl %eax, 4(%esp)\n"
                        "    ldmxcsr 4(%esp)\n"
                        "2:\n")
        "    addl $8, %esp\n"
        "    popl %edi\n"
        "    popl %esi\n"
        "    popl %ebx\n"
        "    popl %ebp\n"
        "    popl %ecx\n"
        "    " AIOL_ASM_JUMP " *%ecx\n"
        AIOL_ASM_END(aioloop_stack_switch));

static void aiol_switch_modes(uintptr_t *sp) {
    uint16_t control;
    __asm__ volatile("fnstcw %0" : "=m"(control));
    sp[0] = control;
    AIOL_SWITCH_SSE(__asm__ volatile("stmxcsr %0" : "=m"(sp[1]));)
}

#elif AIOL_STACK_SWITCH == AIOL_SWITCH_AARCH64

#define AIOL_SWITCH_PC 1
#if defined(__ARM_FP)
#define AIOL_SWITCH_WORDS 22
#define AIOL_SWITCH_FP(code) code
#else
#define AIOL_SWITCH_WORDS 14
#define AIOL_SWITCH_FP(code)
#endif

/* It returns by x9, so that a function that begins finds no caller in x30. */
__asm__(AIOL_ASM_FUNCTION(aioloop_stack_switch)
        AIOL_ASM_LANDING
        AIOL_SWITCH_FP("    sub sp, sp, #64\n"
                       "    stp d8, d9, [sp]\n"
                       "    stp d10, d11, [sp, #16]\n"
                       "    stp d12, d13, [sp, #32]\n"
                       "    stp d14, d15, [sp, #48]\n"
                       "    mrs x10, fpcr\n")
        "    stp x10, x30, [sp, #-112]!\n"
        "    stp x19, x20, [sp, #16]\n"
        "    stp x21, x22, [sp, #32]\n"
        "    stp x23, x24, [sp, #48]\n"
        "    stp x25, x26, [sp, #64]\n"
        "    stp x27, x28, [sp, #80]\n"
        "    str x29, [sp, #96]\n"
        "    ldr x11, [x0]\n"
        "    mov x12, sp\n"
        "    str x12, [x0]\n"
        "    mov sp, x11\n"
        "    ldp x19, x20, [sp, #16]\n"
        "    ldp x21, x22, [sp, #32]\n"
        "    ldp x23, x24, [sp, #48]\n"
        "    ldp x25, x26, [sp, #64]\n"
        "    ldp x27, x28, [sp, #80]\n"
        "    ldr x29, [sp, #96]\n"
        "    ldp x11, x9, [sp], #112\n"
        AIOL_SWITCH_FP("    ldp d8, d9, [sp]\n"
                       "    ldp d10, d11, [sp, #16]\n"
                       "    ldp d12, d13, [sp, #32]\n"
                       "    ldp d14, d15, [sp, #48]\n"
                       "    add sp, sp, #64\n"
                       "    cmp x10, x11\n"
                       "    b.eq 1f\n"
                       "    msr fpcr, x11\n"
                       "1:\n")
        "    mov x30, xzr\n"
        "    ret x9\n"
        AIOL_ASM_END(aioloop_stack_switch));

static void aiol_switch_modes(uintptr_t *sp) {
    AIOL_SWITCH_FP(__asm__ volatile("mrs %0, fpcr" : "=r"(*sp));)
    (void)sp;
}

#elif AIOL_STACK_SWITCH == AIOL_SWITCH_ARM

#define AIOL_SWITCH_PC 9
#if (defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)) && (!defined(__thumb__) || defined(__thumb2__))
#define AIOL_SWITCH_WORDS 26
#define AIOL_SWITCH_FP(code) code
#else
#define AIOL_SWITCH_WORDS 10
#define AIOL_SWITCH_FP(code)
#endif

/* A function that begins finds no caller in lr. Of the FPSCR the flags are cleared in what is kept. */
#if defined(__thumb__) && !defined(__thumb2__)
__asm__(AIOL_ASM_FUNCTION(aioloop_stack_switch)
        "    push {r4-r7, lr}\n"
        "    mov r4, r8\n"
        "    mov r5, r9\n"
        "    mov r6, r10\n"
        "    mov r7, r11\n"
        "    push {r3-r7}\n" /* r3 for the modes, which there are none of */
        "    ldr r1, [r0]\n"
        "    mov r2, sp\n"
        "    str r2, [r0]\n"
        "    mov sp, r1\n"
        "    pop {r3-r7}\n"
        "    mov r8, r4\n"
        "    mov r9, r5\n"
        "    mov r10, r6\n"
        "    mov r11, r7\n"
        "    pop {r4-r7}\n"
        "    pop {r3}\n"
        "    movs r2, #0\n"
        "    mov lr, r2\n"
        "    bx r3\n"
        AIOL_ASM_END(aioloop_stack_switch));
#else
__asm__(AIOL_ASM_FUNCTION(aioloop_stack_switch)
        AIOL_ASM_LANDING
        AIOL_SWITCH_FP("    vpush {d8-d15}\n"
                       "    vmrs r3, fpscr\n"
                       "    bic r3, r3, #0xf8000000\n"
                       "    bic r3, r3, #0x9f\n")
        "    push {r3-r11, lr}\n"
        "    ldr r1, [r0]\n"
        "    mov r2, sp\n"
        "    str r2, [r0]\n"
        "    mov sp, r1\n"
        "    mov r2, r3\n"
        "    pop {r3-r11, ip}\n"
        AIOL_SWITCH_FP("    vpop {d8-d15}\n"
                       "    eors r2, r2, r3\n"
                       "    beq 1f\n"
                       "    vmrs r3, fpscr\n"
                       "    eor r3, r3, r2\n"
                       "    vmsr fpscr, r3\n"
                       "1:\n")
        "    mov lr, #0\n"
        "    bx ip\n"
        AIOL_ASM_END(aioloop_stack_switch));
#endif

static void aiol_switch_modes(uintptr_t *sp) {
    AIOL_SWITCH_FP(__asm__ volatile("vmrs %0, fpscr" : "=r"(*sp)); *sp &= 0x07ffff60u;)
    (void)sp;
}

#elif AIOL_STACK_SWITCH == AIOL_SWITCH_RISCV

#if __riscv_xlen == 64
#define AIOL_SWITCH_INTEGERS 14
#define AIOL_SWITCH_WORD "8"
#define AIOL_SWITCH_STORE "sd "
#define AIOL_SWITCH_LOAD "ld "
#else
#define AIOL_SWITCH_INTEGERS 16 /* two of them are nothing */
#define AIOL_SWITCH_WORD "4"
#define AIOL_SWITCH_STORE "sw "
#define AIOL_SWITCH_LOAD "lw "
#endif
#define AIOL_SWITCH_PC 1

#if defined(__riscv_float_abi_double)
#define AIOL_SWITCH_FLOATS (96 / (__riscv_xlen / 8))
#define AIOL_SWITCH_FLOAT "8"
#define AIOL_SWITCH_FLOAT_STORE "fsd "
#define AIOL_SWITCH_FLOAT_LOAD "fld "
#elif defined(__riscv_float_abi_single)
#define AIOL_SWITCH_FLOATS (48 / (__riscv_xlen / 8))
#define AIOL_SWITCH_FLOAT "4"
#define AIOL_SWITCH_FLOAT_STORE "fsw "
#define AIOL_SWITCH_FLOAT_LOAD "flw "
#else
#define AIOL_SWITCH_FLOATS 0
#endif
#define AIOL_SWITCH_WORDS (AIOL_SWITCH_INTEGERS + AIOL_SWITCH_FLOATS)

#define AIOL_SWITCH_SAVE(reg, n) "    " AIOL_SWITCH_STORE #reg ", " #n "*" AIOL_SWITCH_WORD "(sp)\n"
#define AIOL_SWITCH_TAKE(reg, n) "    " AIOL_SWITCH_LOAD #reg ", " #n "*" AIOL_SWITCH_WORD "(sp)\n"
#define AIOL_SWITCH_MOVE(by) "    addi sp, sp, " by "\n"
#if __riscv_xlen == 64
#define AIOL_SWITCH_DOWN AIOL_SWITCH_MOVE("-112")
#define AIOL_SWITCH_UP AIOL_SWITCH_MOVE("112")
#else
#define AIOL_SWITCH_DOWN AIOL_SWITCH_MOVE("-64")
#define AIOL_SWITCH_UP AIOL_SWITCH_MOVE("64")
#endif

#if AIOL_SWITCH_FLOATS != 0
#define AIOL_SWITCH_FLOATS_ALL(one)                                                                       \
    one(fs0, 0) one(fs1, 1) one(fs2, 2) one(fs3, 3) one(fs4, 4) one(fs5, 5) one(fs6, 6) one(fs7, 7)       \
    one(fs8, 8) one(fs9, 9) one(fs10, 10) one(fs11, 11)
#define AIOL_SWITCH_FLOAT_SAVE(reg, n) "    " AIOL_SWITCH_FLOAT_STORE #reg ", " #n "*" AIOL_SWITCH_FLOAT "(sp)\n"
#define AIOL_SWITCH_FLOAT_TAKE(reg, n) "    " AIOL_SWITCH_FLOAT_LOAD #reg ", " #n "*" AIOL_SWITCH_FLOAT "(sp)\n"
#define AIOL_SWITCH_FLOATS_SAVE AIOL_SWITCH_MOVE("-12*" AIOL_SWITCH_FLOAT) AIOL_SWITCH_FLOATS_ALL(AIOL_SWITCH_FLOAT_SAVE)
#define AIOL_SWITCH_FLOATS_TAKE AIOL_SWITCH_FLOATS_ALL(AIOL_SWITCH_FLOAT_TAKE) AIOL_SWITCH_MOVE("12*" AIOL_SWITCH_FLOAT)
#else
#define AIOL_SWITCH_FLOATS_SAVE
#define AIOL_SWITCH_FLOATS_TAKE
#endif
#if defined(__riscv_flen)
#define AIOL_SWITCH_FP(code) code
#else
#define AIOL_SWITCH_FP(code)
#endif

#define AIOL_SWITCH_INTEGERS_ALL(one)                                                                     \
    one(s0, 2) one(s1, 3) one(s2, 4) one(s3, 5) one(s4, 6) one(s5, 7) one(s6, 8) one(s7, 9) one(s8, 10)   \
    one(s9, 11) one(s10, 12) one(s11, 13)

/* It returns by t0, so that a function that begins finds no caller in ra. */
__asm__(AIOL_ASM_FUNCTION(aioloop_stack_switch)
        AIOL_SWITCH_FLOATS_SAVE
        AIOL_SWITCH_DOWN
        AIOL_SWITCH_FP("    frrm t1\n"
                       AIOL_SWITCH_SAVE(t1, 0))
        AIOL_SWITCH_SAVE(ra, 1)
        AIOL_SWITCH_INTEGERS_ALL(AIOL_SWITCH_SAVE)
        "    " AIOL_SWITCH_LOAD "t2, 0(a0)\n"
        "    " AIOL_SWITCH_STORE "sp, 0(a0)\n"
        "    mv sp, t2\n"
        AIOL_SWITCH_FP(AIOL_SWITCH_TAKE(t2, 0))
        AIOL_SWITCH_TAKE(t0, 1)
        AIOL_SWITCH_INTEGERS_ALL(AIOL_SWITCH_TAKE)
        AIOL_SWITCH_UP
        AIOL_SWITCH_FLOATS_TAKE
        AIOL_SWITCH_FP("    beq t1, t2, 1f\n"
                       "    fsrm t2\n"
                       "1:\n")
        "    li ra, 0\n"
        "    jr t0\n"
        AIOL_ASM_END(aioloop_stack_switch));

static void aiol_switch_modes(uintptr_t *sp) {
    AIOL_SWITCH_FP(__asm__ volatile("frrm %0" : "=r"(*sp));)
    (void)sp;
}

#endif

#if AIOL_STACK_SWITCH != AIOL_SWITCH_UCONTEXT

#if AIOL_STACK_SWITCH != AIOL_SWITCH_X86_64
#ifdef __cplusplus
extern "C"
#else
extern
#endif
    void AIOL_ASM_CALL aioloop_stack_switch(void **sp) AIOL_ASM_VISIBILITY;

AIOL_INLINE void aiol_stack_switch(aiol_stack_pointer *sp) {
    aioloop_stack_switch(sp);
}
#endif

/* Makes *sp a stack that begins in entry when it is switched to, with the modes that are current now. */
AIOLOOP_INTERNAL void aiol_stack_begin(aiol_stack_pointer *sp, char *base, size_t size, void (*entry)(void)) {
    char *top = base + size;
    uintptr_t *words = (uintptr_t *)(void *)(top - ((uintptr_t)top & 15)) - AIOL_SWITCH_WORDS;
    memset(words, 0, AIOL_SWITCH_WORDS * sizeof(*words));
    words[AIOL_SWITCH_PC] = (uintptr_t)entry;
    aiol_switch_modes(words);
    *sp = words;
}

/* It was left for good, in the loop of entry; it goes on there with the modes that are current now. */
#define aiol_stack_renew(sp, base, size, entry) aiol_switch_modes((uintptr_t *)*(sp))

#else

/* The C library's way: each switch is a system call. */
AIOL_INLINE void aiol_stack_switch(aiol_stack_pointer *sp) {
    sp->inside = !sp->inside;
    if (sp->inside)
        swapcontext(&sp->outer, &sp->inner);
    else
        swapcontext(&sp->inner, &sp->outer);
}

AIOLOOP_INTERNAL void aiol_stack_begin(aiol_stack_pointer *sp, char *base, size_t size, void (*entry)(void)) {
    sp->inside = false;
    getcontext(&sp->inner);
    sp->inner.uc_stack.ss_sp = base;
    sp->inner.uc_stack.ss_size = size;
    sp->inner.uc_link = NULL;
    makecontext(&sp->inner, entry, 0);
}

#define aiol_stack_renew(sp, base, size, entry) aiol_stack_begin(sp, base, size, entry)

#endif

#endif

#endif
