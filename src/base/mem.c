/*
 * mem.c - every allocation of the library goes through here.
 *
 * Sizes are passed to free as well, so that an allocator needs no headers of its own.
 */
#ifndef AIOL_BASE_MEM_C
#define AIOL_BASE_MEM_C

#include "base/util.h"

static void *aiol_default_allocate(void *context, void *pointer, size_t old_size, size_t new_size) {
    (void)context;
    (void)old_size;
    if (new_size == 0) {
        AIOLOOP_FREE(pointer);
        return NULL;
    }
    if (pointer == NULL)
        return AIOLOOP_MALLOC(new_size);
    return AIOLOOP_REALLOC(pointer, new_size);
}

static const aioloop_allocator aiol_default_allocator = {aiol_default_allocate, NULL};

AIOLOOP_INTERNAL void *aiol_alloc(const aioloop_allocator *a, size_t size) {
    return a->allocate(a->context, NULL, 0, size);
}

AIOLOOP_INTERNAL void *aiol_alloc_zero(const aioloop_allocator *a, size_t size) {
    void *p = aiol_alloc(a, size);
    if (p != NULL)
        memset(p, 0, size);
    return p;
}

AIOLOOP_INTERNAL void aiol_free(const aioloop_allocator *a, void *p, size_t size) {
    if (p != NULL)
        a->allocate(a->context, p, size, 0);
}

/* Makes an array at *array of *capacity elements hold at least wanted; grows by half. New elements are zeroed. 0 or
 * AIOLOOP_ENOMEM with everything as it was. array is the address of a pointer to the elements. */
AIOLOOP_INTERNAL int aiol_grow(const aioloop_allocator *a, void *array, size_t *capacity, size_t element_size,
                               size_t wanted) {
    void *old;
    void *grown;
    size_t n;
    if (wanted <= *capacity)
        return 0;
    n = *capacity + *capacity / 2;
    if (n < wanted)
        n = wanted;
    if (n < 8)
        n = 8;
    if (n > SIZE_MAX / 2 / element_size)
        return AIOLOOP_ENOMEM;
    memcpy(&old, array, sizeof(old));
    grown = a->allocate(a->context, old, *capacity * element_size, n * element_size);
    if (grown == NULL)
        return AIOLOOP_ENOMEM;
    memset((char *)grown + *capacity * element_size, 0, (n - *capacity) * element_size);
    memcpy(array, &grown, sizeof(grown));
    *capacity = n;
    return 0;
}

#endif
