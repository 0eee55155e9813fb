/*
 * stack.c - changing from one stack to another, and the memory of stacks.
 *
 * aiol_stack_switch stores the pointer of the stack that it leaves at *sp and goes on with the one that was there. So one
 * word stands for whichever side does not run.
 *
 * It is inlined, and jumps: a call would leave its place on the processor's own stack of return addresses, and a return would
 * look there for its target, so that not only the switch but each function that returns behind it would be mispredicted.
 */
#ifndef AIOL_SYS_STACK_C
#define AIOL_SYS_STACK_C

#include "base/atomic.h"
#include "sys/sys.h"

#if AIOLOOP_USE_COROUTINES

/* ---- switching ---- */

#if AIOL_STACK_SWITCH == AIOL_SWITCH_X86_64

/* The registers that AVX-512 adds. */
#if defined(__AVX512F__)
#define AIOL_MORE_VECTORS                                                                                        \
    "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27",  \
        "xmm28", "xmm29", "xmm30", "xmm31", "k1", "k2", "k3", "k4", "k5", "k6", "k7",
#else
#define AIOL_MORE_VECTORS
#endif

/* On each stack that does not run there are, from its pointer on: the rounding modes of floating point, where it goes on, and
 * what the code there expects. The compiler keeps what it needs of the other registers (of floating point the library uses
 * nothing else). Below the pointer lie 128 bytes that a function may use. */
AIOL_INLINE void aiol_stack_switch(aiol_stack_pointer *sp) {
    __asm__ volatile("leaq -128(%%rsp), %%rsp\n\t"
                     "pushq %%rbp\n\t"
                     "pushq %%rbx\n\t"
                     "leaq 2f(%%rip), %%rax\n\t"
                     "pushq %%rax\n\t"
                     "subq $8, %%rsp\n\t"
                     "stmxcsr (%%rsp)\n\t"
                     "fnstcw 4(%%rsp)\n\t"
                     "movq (%%rdi), %%rax\n\t"
                     "movq %%rsp, (%%rdi)\n\t"
                     "movl (%%rsp), %%ecx\n\t"
                     "movzwl 4(%%rsp), %%edx\n\t"
                     "movq %%rax, %%rsp\n\t"
                     "cmpl (%%rsp), %%ecx\n\t" /* loading them is slow, and they hardly ever differ */
                     "jne 3f\n\t"
                     "cmpw 4(%%rsp), %%dx\n\t"
                     "jne 3f\n"
                     "1:  addq $8, %%rsp\n\t"
                     "popq %%rcx\n\t"
                     "jmpq *%%rcx\n"
                     "3:  ldmxcsr (%%rsp)\n\t"
                     "fldcw 4(%%rsp)\n\t"
                     "jmp 1b\n"
                     "2:  popq %%rbx\n\t"
                     "popq %%rbp\n\t"
                     "leaq 128(%%rsp), %%rsp"
                     : "+D"(sp)
                     :
                     : "rax", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0",
                       "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                       "xmm12", "xmm13", "xmm14", "xmm15", AIOL_MORE_VECTORS "memory", "cc");
}

/* Makes *sp a stack that begins in entry when it is switched to, as if entry had been called. */
AIOLOOP_INTERNAL void aiol_stack_begin(aiol_stack_pointer *sp, char *base, size_t size, void (*entry)(void)) {
    char *top = base + size;
    uint64_t *words = (uint64_t *)(void *)(top - ((uintptr_t)top & 15)) - 3;
    uint32_t mxcsr;
    uint16_t control;
    __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
    __asm__ volatile("fnstcw %0" : "=m"(control));
    words[0] = mxcsr | (uint64_t)control << 32;
    words[1] = (uint64_t)(uintptr_t)entry;
    words[2] = 0; /* entry returns nowhere: where an unwinder stops */
    *sp = words;
}

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

#endif

/* ---- fibers ---- */

#if AIOL_ASAN
#ifdef __cplusplus
extern "C" {
#endif
void __sanitizer_start_switch_fiber(void **fake, const void *base, size_t size);
void __sanitizer_finish_switch_fiber(void *fake, const void **base, size_t *size);
void __asan_unpoison_memory_region(void const volatile *p, size_t size);
#ifdef __cplusplus
}
#endif
#endif
#if AIOL_TSAN
#ifdef __cplusplus
extern "C" {
#endif
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
#ifdef __cplusplus
}
#endif
#endif

/* valgrind takes the change to another stack for a huge frame, unless it knows of the stack. This is how a program asks it for
 * something: rotations that come to nothing on a processor. */
#if AIOL_KNOWS_VALGRIND
static void aiol_stack_tell_valgrind(const char *base, size_t size) {
    volatile uint64_t request[6];
    volatile uint64_t *at = request;
    uint64_t answer = 0;
    request[0] = 0x1501; /* register a stack */
    request[1] = (uint64_t)(uintptr_t)base;
    request[2] = (uint64_t)(uintptr_t)(base + size - 1);
    request[3] = 0;
    request[4] = 0;
    request[5] = 0;
    __asm__ volatile("rolq $3, %%rdi\n\trolq $13, %%rdi\n\trolq $61, %%rdi\n\trolq $51, %%rdi\n\txchgq %%rbx, %%rbx"
                     : "+d"(answer)
                     : "a"(at)
                     : "cc", "memory");
    (void)answer;
}
#else
#define aiol_stack_tell_valgrind(base, size) ((void)0)
#endif

AIOLOOP_INTERNAL void aiol_fiber_begin(aiol_fiber *fiber, char *base, size_t size, void (*entry)(void)) {
    fiber->base = base;
    fiber->size = size;
    aiol_stack_tell_valgrind(base, size);
#if AIOL_ASAN
    __asan_unpoison_memory_region(base, size);
    fiber->fake = NULL;
#endif
#if AIOL_TSAN
    fiber->inner = __tsan_create_fiber(0);
#endif
    aiol_stack_begin(&fiber->sp, base, size, entry);
}

/* From the loop's side (or another fiber's) onto it. Returns when it leaves. */
AIOL_INLINE void aiol_fiber_enter(aiol_fiber *fiber) {
#if AIOL_ASAN
    void *fake;
    __sanitizer_start_switch_fiber(&fake, fiber->base, fiber->size);
#endif
#if AIOL_TSAN
    fiber->outer = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(fiber->inner, 0);
#endif
    aiol_stack_switch(&fiber->sp);
#if AIOL_ASAN
    __sanitizer_finish_switch_fiber(fake, NULL, NULL);
#endif
}

/* The first thing on it. */
AIOL_INLINE void aiol_fiber_arrive(aiol_fiber *fiber) {
    (void)fiber;
#if AIOL_ASAN
    __sanitizer_finish_switch_fiber(fiber->fake, &fiber->outer_base, &fiber->outer_size);
#endif
}

/* Back to whoever entered it. Returns when it is entered again. */
AIOL_INLINE void aiol_fiber_leave(aiol_fiber *fiber) {
#if AIOL_ASAN
    __sanitizer_start_switch_fiber(&fiber->fake, fiber->outer_base, fiber->outer_size);
#endif
#if AIOL_TSAN
    __tsan_switch_to_fiber(fiber->outer, 0);
#endif
    aiol_stack_switch(&fiber->sp);
    aiol_fiber_arrive(fiber);
}

/* It will not be entered any more. Its memory is the caller's again. */
AIOLOOP_INTERNAL void aiol_fiber_end(aiol_fiber *fiber) {
    (void)fiber;
#if AIOL_ASAN
    __asan_unpoison_memory_region(fiber->base, fiber->size);
#endif
#if AIOL_TSAN
    __tsan_destroy_fiber(fiber->inner);
#endif
}

/* ---- memory ---- */

#if AIOL_OS_POSIX

AIOLOOP_INTERNAL size_t aiol_page_size(void) {
    long size = sysconf(_SC_PAGESIZE);
    return size > 0 ? (size_t)size : 4096;
}

/* Address space of size bytes, of which memory is taken as it is touched; NULL if there is none. */
AIOLOOP_INTERNAL void *aiol_stack_map(const aioloop_allocator *a, size_t size) {
    void *p;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_NORESERVE
    flags |= MAP_NORESERVE;
#endif
#ifdef MAP_STACK
    flags |= MAP_STACK;
#endif
    (void)a;
    if (AIOL_SYS(mmap, 0) < 0)
        return NULL;
    p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
#ifdef MADV_NOHUGEPAGE
    (void)madvise(p, size, MADV_NOHUGEPAGE); /* else the first byte of each stack may take 2 MiB */
#endif
    return p;
}

AIOLOOP_INTERNAL void aiol_stack_unmap(const aioloop_allocator *a, void *p, size_t size) {
    (void)a;
    munmap(p, size);
}

/* Makes touching it a fault. 0 or the system's error. Linux 6.13 can do so without a mapping of its own for each, of which a
 * process may have 65,530. */
AIOLOOP_INTERNAL int aiol_stack_guard(void *p, size_t size) {
#if AIOL_OS_LINUX
    if (AIOL_SYS(madvise, madvise(p, size, 102 /* MADV_GUARD_INSTALL */)) == 0)
        return 0;
#endif
    return AIOL_SYS(mprotect, mprotect(p, size, PROT_NONE)) == 0 ? 0 : aiol_error_from_errno(errno);
}

/* Gives the memory back; the addresses stay. */
AIOLOOP_INTERNAL void aiol_stack_discard(void *p, size_t size) {
    (void)madvise(p, size, MADV_DONTNEED);
}

/* What a signal handler needs: the one of before, and whom to ask. */
static struct sigaction aiol_stack_fault_before;
static const char *(*aiol_stack_fault_told)(const char *address);

static void aiol_stack_fault(int signal_number, siginfo_t *info, void *context) {
    const char *text = aiol_stack_fault_told((const char *)info->si_addr);
    (void)context;
    if (text != NULL && write(2, text, strlen(text)) < 0)
        (void)text;
    sigaction(signal_number, &aiol_stack_fault_before, NULL); /* it happens again, and is the program's own then */
}

AIOLOOP_INTERNAL void aiol_stack_watch(void *memory, const char *(*fn)(const char *address)) {
    static uint32_t installed;
    stack_t stack;
    memset(&stack, 0, sizeof(stack));
    stack.ss_sp = (char *)memory;
    stack.ss_size = AIOL_STACK_WATCH_SIZE;
    sigaltstack(&stack, NULL);
    aiol_stack_fault_told = fn;
    if (aiol_exchange_u32(&installed, 1) == 0) {
        struct sigaction action;
        memset(&action, 0, sizeof(action));
        action.sa_sigaction = aiol_stack_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigaction(SIGSEGV, &action, &aiol_stack_fault_before);
    }
}

AIOLOOP_INTERNAL void aiol_stack_unwatch(void *memory) {
    stack_t stack;
    if (sigaltstack(NULL, &stack) != 0 || stack.ss_sp != memory)
        return;
    stack.ss_flags = SS_DISABLE;
    sigaltstack(&stack, NULL);
}

#else

/* Without an operating system stacks are plain memory, and nothing watches over them. */
AIOLOOP_INTERNAL size_t aiol_page_size(void) {
    return 0;
}

AIOLOOP_INTERNAL void *aiol_stack_map(const aioloop_allocator *a, size_t size) {
    return aiol_alloc(a, size);
}

AIOLOOP_INTERNAL void aiol_stack_unmap(const aioloop_allocator *a, void *p, size_t size) {
    aiol_free(a, p, size);
}

AIOLOOP_INTERNAL int aiol_stack_guard(void *p, size_t size) {
    (void)p;
    (void)size;
    return 0;
}

AIOLOOP_INTERNAL void aiol_stack_discard(void *p, size_t size) {
    (void)p;
    (void)size;
}

AIOLOOP_INTERNAL void aiol_stack_watch(void *memory, const char *(*fn)(const char *address)) {
    (void)memory;
    (void)fn;
}

AIOLOOP_INTERNAL void aiol_stack_unwatch(void *memory) {
    (void)memory;
}

#endif

#endif

#endif
