/*
 * atomic.h - the few atomic operations the library needs.
 *
 * Three branches: on a firmware port the port's lock keeps interrupts away, since not every core has the instructions;
 * with AIOLOOP_USE_THREADS 0 plain memory will do, which is what compilers without atomics (tcc) get; else the builtins
 * of GCC and Clang.
 */
#ifndef AIOL_BASE_ATOMIC_H
#define AIOL_BASE_ATOMIC_H

#include "api/port.h"
#include "base/platform.h"

#if AIOLOOP_USE_THREADS && AIOLOOP_PORT
/* A load or store of a word is whole on any core, and calling the port's functions keeps the compiler from holding
 * copies. */
#define aiol_load(pointer) (*(pointer))
#define aiol_load_relaxed(pointer) (*(pointer))
#define aiol_store(pointer, value) ((void)(*(pointer) = (value)))
#define aiol_store_relaxed(pointer, value) ((void)(*(pointer) = (value)))
AIOL_INLINE uint32_t aiol_exchange_u32(volatile uint32_t *pointer, uint32_t value) {
    uint32_t state = aioloop_port_lock();
    uint32_t old = *pointer;
    *pointer = value;
    aioloop_port_unlock(state);
    return old;
}
AIOL_INLINE uint32_t aiol_add_u32(volatile uint32_t *pointer, uint32_t value) {
    uint32_t state = aioloop_port_lock();
    uint32_t sum = *pointer + value;
    *pointer = sum;
    aioloop_port_unlock(state);
    return sum;
}
AIOL_INLINE void *aiol_exchange_pointer(void *volatile *pointer, void *value) {
    uint32_t state = aioloop_port_lock();
    void *old = *pointer;
    *pointer = value;
    aioloop_port_unlock(state);
    return old;
}
AIOL_INLINE bool aiol_cas_pointer(void *volatile *pointer, void **expected, void *value) {
    uint32_t state = aioloop_port_lock();
    void *old = *pointer;
    bool same = old == *expected;
    if (same)
        *pointer = value;
    else
        *expected = old;
    aioloop_port_unlock(state);
    return same;
}
#elif !AIOLOOP_USE_THREADS
#define aiol_load(pointer) (*(pointer))
#define aiol_load_relaxed(pointer) (*(pointer))
#define aiol_store(pointer, value) ((void)(*(pointer) = (value)))
#define aiol_store_relaxed(pointer, value) ((void)(*(pointer) = (value)))
AIOL_INLINE uint32_t aiol_exchange_u32(uint32_t *pointer, uint32_t value) {
    uint32_t old = *pointer;
    *pointer = value;
    return old;
}
AIOL_INLINE uint32_t aiol_add_u32(uint32_t *pointer, uint32_t value) {
    return *pointer += value;
}
AIOL_INLINE void *aiol_exchange_pointer(void **pointer, void *value) {
    void *old = *pointer;
    *pointer = value;
    return old;
}
AIOL_INLINE bool aiol_cas_pointer(void **pointer, void **expected, void *value) {
    if (*pointer != *expected) {
        *expected = *pointer;
        return false;
    }
    *pointer = value;
    return true;
}
#elif defined(__GNUC__) || defined(__clang__)
#define aiol_load(pointer) __atomic_load_n(pointer, __ATOMIC_SEQ_CST)
#define aiol_load_relaxed(pointer) __atomic_load_n(pointer, __ATOMIC_RELAXED)
#define aiol_store(pointer, value) __atomic_store_n(pointer, value, __ATOMIC_SEQ_CST)
#define aiol_store_relaxed(pointer, value) __atomic_store_n(pointer, value, __ATOMIC_RELAXED)
AIOL_INLINE uint32_t aiol_exchange_u32(uint32_t *pointer, uint32_t value) {
    return __atomic_exchange_n(pointer, value, __ATOMIC_SEQ_CST);
}
AIOL_INLINE uint32_t aiol_add_u32(uint32_t *pointer, uint32_t value) {
    return __atomic_add_fetch(pointer, value, __ATOMIC_SEQ_CST);
}
AIOL_INLINE void *aiol_exchange_pointer(void **pointer, void *value) {
    return __atomic_exchange_n(pointer, value, __ATOMIC_SEQ_CST);
}
AIOL_INLINE bool aiol_cas_pointer(void **pointer, void **expected, void *value) {
    return __atomic_compare_exchange_n(pointer, expected, value, false, __ATOMIC_SEQ_CST,
                                       __ATOMIC_SEQ_CST);
}
#else
#error "aioloop.h: this compiler has no atomic operations; compile with AIOLOOP_USE_THREADS 0"
#endif

#endif
