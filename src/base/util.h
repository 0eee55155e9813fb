/*
 * util.h - assertions and small arithmetic.
 */
#ifndef AIOL_BASE_UTIL_H
#define AIOL_BASE_UTIL_H

#include "base/platform.h"

/* A broken promise inside the library. Costs nothing in a release build (NDEBUG). */
#ifdef NDEBUG
#define AIOL_ASSERT(x) ((void)0)
#else
#define AIOL_ASSERT(x) ((x) ? (void)0 : aiol_assert_failed(#x, __FILE__, __LINE__))
#endif

/* The same, always on: for aioloop_verify. */
#define AIOL_VERIFY(x) ((x) ? (void)0 : aiol_assert_failed(#x, __FILE__, __LINE__))

AIOLOOP_INTERNAL AIOL_NOINLINE void aiol_assert_failed(const char *what, const char *file, int line) {
    fprintf(stderr, "aioloop: broken: %s (%s:%d)\n", what, file, line);
    abort();
}

/* How a program asks valgrind for something: rotations that come to nothing on a processor. */
#if AIOL_KNOWS_VALGRIND
AIOLOOP_INTERNAL uint64_t aiol_valgrind_ask(uint64_t what, uint64_t a, uint64_t b) {
    volatile uint64_t request[6];
    volatile uint64_t *at = request;
    uint64_t answer = 0;
    request[0] = what;
    request[1] = a;
    request[2] = b;
    request[3] = 0;
    request[4] = 0;
    request[5] = 0;
    __asm__ volatile("rolq $3, %%rdi\n\trolq $13, %%rdi\n\trolq $61, %%rdi\n\trolq $51, %%rdi\n\txchgq %%rbx, %%rbx"
                     : "+d"(answer)
                     : "a"(at)
                     : "cc", "memory");
    return answer;
}
#endif

AIOLOOP_INTERNAL bool aiol_on_valgrind(void) {
#if AIOL_KNOWS_VALGRIND
    return aiol_valgrind_ask(0x1001 /* how many of it there are */, 0, 0) != 0;
#else
    return false;
#endif
}

#define AIOL_STATIC_ASSERT(x, name) typedef char aiol_static_assert_##name[(x) ? 1 : -1] AIOL_UNUSED

#define AIOL_CONTAINER(pointer, type, member)                                                      \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

/* Stores a pointer at out, the address of an object pointer of any type (or NULL). By memcpy: a void ** that points to
 * a T * would break the rules of aliasing. */
AIOL_INLINE void aiol_store_pointer(void *out, void *pointer) {
    if (out != NULL)
        memcpy(out, &pointer, sizeof(pointer));
}

AIOL_INLINE aioloop_time aiol_time_add(aioloop_time a, aioloop_time b) {
    if (b > 0 && a > INT64_MAX - b)
        return INT64_MAX;
    if (b < 0 && a < INT64_MIN + 1 - b)
        return INT64_MIN + 1;
    return a + b;
}

AIOL_INLINE size_t aiol_min_size(size_t a, size_t b) {
    return a < b ? a : b;
}

#endif
