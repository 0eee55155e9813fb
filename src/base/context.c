/*
 * context.c - context variables, and what a thread remembers.                  (Python: contextvars)
 *
 * A map is an immutable set of values; changing a variable makes a new map, so capturing the current values is taking a
 * counter, and the empty map is NULL and costs nothing. The current context is a HOME: the place that holds a map
 * pointer. Whoever runs user code makes the place it keeps for that work the thread's home; a change replaces the
 * pointer there. Counters are atomic, because work and its context may go to another thread.
 */
#ifndef AIOL_BASE_CONTEXT_C
#define AIOL_BASE_CONTEXT_C

#include "base/atomic.h"
#include "base/error.c"

typedef struct aiol_context_cell {
    uint32_t refs;
    const aioloop_context_var *var;
    void *value;
    void (*dispose)(void *value);
} aiol_context_cell;

typedef struct aiol_map {
    uint32_t refs;
    uint32_t count;
    aiol_context_cell *cells[1]; /* count of them */
} aiol_map;

struct aioloop_context {
    uint32_t refs;
    bool current; /* some thread runs in it */
    aiol_map *map;
};

typedef struct aiol_thread_state {
    aioloop *running;
    aioloop *current;     /* asyncio.set_event_loop */
    bool current_was_set; /* also to NULL */
    int running_process;  /* whose running is; a forked child has another */
    aiol_map **home;      /* NULL: &base */
    aiol_map *base;
    const char *site_file; /* where the next object is made */
    int site_line;
    aiol_error_slot error; /* what had no loop to tell */
} aiol_thread_state;

static AIOL_THREAD_LOCAL aiol_thread_state aiol_thread;

AIOL_INLINE aiol_map **aiol_context_home(void) {
    return aiol_thread.home != NULL ? aiol_thread.home : &aiol_thread.base;
}

static size_t aiol_map_size(uint32_t count) {
    return sizeof(aiol_map) + (count == 0 ? 0 : count - 1) * sizeof(aiol_context_cell *);
}

AIOL_INLINE aiol_map *aiol_map_ref(aiol_map *map) {
    if (AIOL_UNLIKELY(map != NULL))
        aiol_add_u32(&map->refs, 1);
    return map;
}

static void aiol_context_cell_unref(aiol_context_cell *cell) {
    if (aiol_add_u32(&cell->refs, (uint32_t)-1) != 0)
        return;
    if (cell->dispose != NULL)
        cell->dispose(cell->value);
    aiol_free(&aiol_default_allocator, cell, sizeof(*cell));
}

static AIOL_NOINLINE void aiol_map_release(aiol_map *map) {
    uint32_t i;
    if (aiol_add_u32(&map->refs, (uint32_t)-1) != 0)
        return;
    for (i = 0; i < map->count; i++)
        aiol_context_cell_unref(map->cells[i]);
    aiol_free(&aiol_default_allocator, map, aiol_map_size(map->count));
}

AIOL_INLINE void aiol_map_unref(aiol_map *map) {
    if (AIOL_UNLIKELY(map != NULL))
        aiol_map_release(map);
}

/* Stores at *out a map like old but with cell for var (or, cell NULL, without var). Takes over the caller's reference to
 * cell when it succeeds. */
static int aiol_map_with(aiol_map *old, const aioloop_context_var *var, aiol_context_cell *cell, aiol_map **out) {
    uint32_t old_count = old == NULL ? 0 : old->count;
    aiol_map *map = (aiol_map *)aiol_alloc(&aiol_default_allocator, aiol_map_size(old_count + 1));
    uint32_t i;
    if (map == NULL)
        return AIOLOOP_ENOMEM;
    map->refs = 1;
    map->count = 0;
    for (i = 0; i < old_count; i++) {
        if (old->cells[i]->var == var)
            continue;
        map->cells[map->count] = old->cells[i];
        aiol_add_u32(&map->cells[map->count]->refs, 1);
        map->count++;
    }
    if (cell != NULL)
        map->cells[map->count++] = cell;
    if (map->count < old_count + 1) {
        /* Free is told the size, so the block must have the size that its count says. A failure to shrink cannot matter. */
        aiol_map *fit = NULL;
        if (map->count != 0)
            fit = (aiol_map *)aiol_default_allocator.allocate(NULL, map, aiol_map_size(old_count + 1),
                                                              aiol_map_size(map->count));
        else
            aiol_free(&aiol_default_allocator, map, aiol_map_size(old_count + 1));
        if (map->count != 0 && fit == NULL) {
            *out = map;
            return 0;
        }
        map = fit;
    }
    *out = map;
    return 0;
}

AIOLOOP_API void *aioloop_context_get(const aioloop_context_var *var) {
    const aiol_map *map = *aiol_context_home();
    uint32_t i;
    if (var == NULL)
        return NULL;
    for (i = 0; map != NULL && i < map->count; i++)
        if (map->cells[i]->var == var)
            return map->cells[i]->value;
    return var->default_value;
}

AIOLOOP_API int aioloop_context_set(const aioloop_context_var *var, void *value, void (*dispose)(void *value)) {
    aiol_map **home = aiol_context_home();
    aiol_map *old = *home;
    aiol_map *map = NULL;
    aiol_context_cell *cell = NULL;
    int err;
    if (var == NULL)
        return AIOLOOP_EINVAL;
    if (value != var->default_value || dispose != NULL) { /* else: as if never set */
        cell = (aiol_context_cell *)aiol_alloc(&aiol_default_allocator, sizeof(*cell));
        if (cell == NULL)
            return AIOLOOP_ENOMEM;
        cell->refs = 1;
        cell->var = var;
        cell->value = value;
        cell->dispose = dispose;
    }
    err = aiol_map_with(old, var, cell, &map);
    if (err < 0) {
        aiol_free(&aiol_default_allocator, cell, sizeof(*cell));
        return err;
    }
    *home = map;
    aiol_map_unref(old);
    return 0;
}

AIOLOOP_API aioloop_context *aioloop_copy_context(void) {
    aioloop_context *context = (aioloop_context *)aiol_alloc(&aiol_default_allocator, sizeof(*context));
    if (context == NULL)
        return NULL;
    context->refs = 1;
    context->current = false;
    context->map = aiol_map_ref(*aiol_context_home());
    return context;
}

AIOLOOP_API void aioloop_context_ref(aioloop_context *context) {
    if (context != NULL)
        aiol_add_u32(&context->refs, 1);
}

AIOLOOP_API void aioloop_context_unref(aioloop_context *context) {
    if (context == NULL || aiol_add_u32(&context->refs, (uint32_t)-1) != 0)
        return;
    aiol_map_unref(context->map);
    aiol_free(&aiol_default_allocator, context, sizeof(*context));
}

AIOLOOP_API int aioloop_context_run(aioloop_context *context, void (*fn)(void *arg), void *arg) {
    aiol_map **saved = aiol_thread.home;
    if (context == NULL || fn == NULL)
        return AIOLOOP_EINVAL;
    if (context->current)
        return AIOLOOP_EMISUSE;
    aioloop_context_ref(context);
    context->current = true;
    aiol_thread.home = &context->map;
    fn(arg);
    aiol_thread.home = saved;
    context->current = false;
    aioloop_context_unref(context);
    return 0;
}

AIOLOOP_API void aioloop_site(const char *file, int line) {
    aiol_thread.site_file = file;
    aiol_thread.site_line = line;
}

AIOLOOP_API aioloop_time aioloop_seconds(double seconds) {
    double ns = seconds * 1e9;
    if (ns != ns)
        return AIOLOOP_NOT_A_TIME;
    if (ns >= 9.2e18)
        return AIOLOOP_FOREVER;
    if (ns <= -9.2e18)
        return AIOLOOP_NOT_A_TIME + 1;
    return (aioloop_time)ns;
}

#endif
