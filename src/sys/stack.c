/*
 * stack.c - fibers: a stack with what tools have to be told of each switch; the memory of stacks; who watches over it.
 */
#ifndef AIOL_SYS_STACK_C
#define AIOL_SYS_STACK_C

#include "base/atomic.h"
#include "sys/switch.c"

#if AIOLOOP_USE_COROUTINES

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

/* valgrind takes the change to another stack for a huge frame, unless it knows of the stack, and what lies below the
 * last stack pointer for memory that nobody may touch. */
#if AIOL_KNOWS_VALGRIND
static void aiol_valgrind_begin(aiol_fiber *fiber) {
    fiber->valgrind = aiol_valgrind_ask(0x1501 /* register a stack */, (uintptr_t)fiber->base,
                                        (uintptr_t)(fiber->base + fiber->size - 1));
}

static void aiol_valgrind_end(aiol_fiber *fiber) {
    aiol_valgrind_ask(0x1502 /* deregister it */, fiber->valgrind, 0);
    aiol_valgrind_ask(0x4D430001 /* memory to be written anew */, (uintptr_t)fiber->base, fiber->size);
}
#else
#define aiol_valgrind_begin(fiber) ((void)(fiber))
#define aiol_valgrind_end(fiber) ((void)(fiber))
#endif

AIOLOOP_INTERNAL void aiol_fiber_begin(aiol_fiber *fiber, char *base, size_t size, void (*entry)(void)) {
    fiber->base = base;
    fiber->size = size;
    aiol_valgrind_begin(fiber);
#if AIOL_ASAN
    __asan_unpoison_memory_region(base, size);
    fiber->fake = NULL;
#endif
#if AIOL_TSAN
    fiber->inner = __tsan_create_fiber(0);
#endif
    aiol_stack_begin(&fiber->sp, base, size, entry);
}

/* What ran on it has left for good, and it is to run something else. */
AIOL_INLINE void aiol_fiber_renew(aiol_fiber *fiber, void (*entry)(void)) {
    (void)entry;
    aiol_stack_renew(&fiber->sp, fiber->base, fiber->size, entry);
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
    aiol_valgrind_end(fiber);
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

/* Makes touching it a fault. Linux 6.13 can do so within a mapping. Else it takes a mapping of its own, of which a
 * process may have 65,530: so only if that is wanted. 0: it is guarded; 1: by a mapping; or the system's error. */
AIOLOOP_INTERNAL int aiol_stack_guard(void *p, size_t size, bool by_mapping) {
#if AIOL_OS_LINUX
    if (AIOL_SYS(madvise, madvise(p, size, 102 /* MADV_GUARD_INSTALL */)) == 0)
        return 0;
#endif
    if (!by_mapping)
        return AIOLOOP_ENOMEM;
    return AIOL_SYS(mprotect, mprotect(p, size, PROT_NONE)) == 0 ? 1 : aiol_error_from_errno(errno);
}

/* Gives the memory back; the addresses stay. */
AIOLOOP_INTERNAL void aiol_stack_discard(void *p, size_t size) {
    (void)madvise(p, size, MADV_DONTNEED);
}

#if defined(__APPLE__)
#define AIOL_STACK_SIGNAL SIGBUS
#else
#define AIOL_STACK_SIGNAL SIGSEGV
#endif

/* What the handler of the signal needs: the one of before, and whom to ask. */
static struct sigaction aiol_stack_fault_before;
static const char *(*aiol_stack_fault_told)(const char *address);

/* Says what it knows and leaves the rest to whoever was there before. */
static void aiol_stack_fault(int number, siginfo_t *info, void *context) {
    const struct sigaction *before = &aiol_stack_fault_before;
    bool sent = info->si_code <= 0; /* by a process, not by a fault */
    const char *text = sent ? NULL : aiol_stack_fault_told((const char *)info->si_addr);
    if (text != NULL && write(2, text, strlen(text)) < 0)
        text = NULL;
    if ((before->sa_flags & SA_SIGINFO) != 0) {
        before->sa_sigaction(number, info, context);
    } else if (before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN) {
        before->sa_handler(number);
    } else if (before->sa_handler == SIG_DFL || !sent) {
        sigaction(number, before, NULL); /* the fault happens again, and ends the program */
        if (sent)
            raise(number);
    }
}

AIOLOOP_INTERNAL void aiol_stack_watch(void *memory, const char *(*fn)(const char *address)) {
    static uint32_t installed;
    stack_t stack;
    if (sigaltstack(NULL, &stack) == 0 && (stack.ss_flags & SS_DISABLE) != 0) { /* else the thread has one already */
        memset(&stack, 0, sizeof(stack));
        stack.ss_sp = (char *)memory;
        stack.ss_size = AIOL_STACK_WATCH_SIZE;
        sigaltstack(&stack, NULL);
    }
    if (aiol_exchange_u32(&installed, 1) == 0) {
        struct sigaction action;
        memset(&action, 0, sizeof(action));
        sigemptyset(&action.sa_mask);
        action.sa_sigaction = aiol_stack_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        aiol_stack_fault_told = fn;
        if (sigaction(AIOL_STACK_SIGNAL, NULL, &aiol_stack_fault_before) == 0)
            sigaction(AIOL_STACK_SIGNAL, &action, NULL);
    }
}

AIOLOOP_INTERNAL void aiol_stack_unwatch(void *memory) {
    stack_t stack;
    if (memory == NULL || sigaltstack(NULL, &stack) != 0 || stack.ss_sp != memory)
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

AIOLOOP_INTERNAL int aiol_stack_guard(void *p, size_t size, bool by_mapping) {
    (void)p;
    (void)size;
    (void)by_mapping;
    return AIOLOOP_ENOTAVAILABLE;
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
