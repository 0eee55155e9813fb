/*
 * context.c - context variables, and what a thread remembers.                  (Python: contextvars)
 *
 * A map is an immutable set of values; changing a variable makes a new map, so capturing the current values is taking a
 * counter, and the empty map is NULL and costs nothing. aiol_thread.map is the current one. Where it belongs to
 * something that lives on (a connection, a context object), aiol_thread.place is the pointer that owns it, and a change
 * is stored there too; else (place NULL) aiol_thread.map is itself the owner. Counters are atomic, because work and its
 * context may go to another thread.
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
    aiol_map **outer; /* while it runs: the place that it replaced, */
    struct aioloop_context *outer_run; /* and the run that this one is inside of */
};

typedef struct aiol_thread_state {
    aioloop *running;
    void (*tell)(aioloop *loop, const struct aioloop_error *error); /* the one that runs; NULL: none */
    aioloop *current;     /* asyncio.set_event_loop */
    bool current_was_set; /* also to NULL */
    bool counted;         /* first is known */
    bool first;           /* the process's first thread: see aioloop_get_event_loop */
    uint32_t number;      /* tells it from all others of the process; 0: not needed yet */
    int running_process;  /* whose running is; a forked child has another */
    aiol_map *map;    /* the current values */
    aiol_map **place; /* that owns them; NULL: map does */
    aioloop_context *run; /* the innermost aioloop_context_run */
    const void *pool;      /* the thread pool that it works for */
    const char *site_file; /* where the next object is made */
    int site_line;
    aiol_error_slot error; /* what had no loop to tell */
} aiol_thread_state;

static AIOL_THREAD_LOCAL aiol_thread_state aiol_thread;

/* Remembers why a call fails that has no loop to tell. The loop that runs here is told too: it may be a coroutine that
 * has made the call, and fails with its code. */
AIOLOOP_INTERNAL void aiol_thread_tell(int code, const char *format, va_list arguments) {
    aiol_error_set(&aiol_thread.error, code, format, arguments);
    if (aiol_thread.tell != NULL)
        aiol_thread.tell(aiol_thread.running, &aiol_thread.error.error);
}

/* The same; returns code. */
AIOLOOP_INTERNAL int aiol_thread_fail(int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    aiol_thread_tell(code, format, arguments);
    va_end(arguments);
    return code;
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

/* What was current before something else is. */
typedef struct aiol_context_frame {
    aiol_map *map;
    aiol_map **place;
} aiol_context_frame;

/* Makes the values that place owns the current ones. */
AIOL_INLINE aiol_context_frame aiol_context_enter(aiol_map **place) {
    aiol_context_frame frame;
    frame.map = aiol_thread.map;
    frame.place = aiol_thread.place;
    aiol_thread.map = *place;
    aiol_thread.place = place;
    return frame;
}

/* Reads the place again: what ran inside may have changed what it owns. */
AIOL_INLINE void aiol_context_leave(const aiol_context_frame *frame) {
    aiol_thread.place = frame->place;
    aiol_thread.map = frame->place != NULL ? *frame->place : frame->map;
}

/* Stores at *out a map like old but with cell for var (or, cell NULL, without var); NULL if nothing is left. Takes over
 * the caller's reference to cell when it succeeds. */
static int aiol_map_with(const aiol_map *old, const aioloop_context_var *var, aiol_context_cell *cell, aiol_map **out) {
    uint32_t old_count = old == NULL ? 0 : old->count;
    uint32_t count = cell == NULL ? 0 : 1;
    aiol_map *map;
    uint32_t i;
    for (i = 0; i < old_count; i++)
        if (old->cells[i]->var != var)
            count++;
    *out = NULL;
    if (count == 0)
        return 0;
    map = (aiol_map *)aiol_alloc(&aiol_default_allocator, aiol_map_size(count));
    if (map == NULL)
        return AIOLOOP_ENOMEM;
    map->refs = 1;
    map->count = 0;
    for (i = 0; i < old_count; i++) {
        if (old->cells[i]->var == var)
            continue;
        aiol_add_u32(&old->cells[i]->refs, 1);
        map->cells[map->count++] = old->cells[i];
    }
    if (cell != NULL)
        map->cells[map->count++] = cell;
    *out = map;
    return 0;
}

AIOLOOP_API void *aioloop_context_get(const aioloop_context_var *var) {
    const aiol_map *map = aiol_thread.map;
    uint32_t i;
    if (var == NULL)
        return NULL;
    for (i = 0; map != NULL && i < map->count; i++)
        if (map->cells[i]->var == var)
            return map->cells[i]->value;
    return var->default_value;
}

AIOLOOP_API int aioloop_context_set(const aioloop_context_var *var, void *value, void (*dispose)(void *value)) {
    aiol_map *old = aiol_thread.map;
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
    aiol_thread.map = map;
    if (aiol_thread.place != NULL)
        *aiol_thread.place = map;
    aiol_map_unref(old);
    return 0;
}

AIOLOOP_API aioloop_context *aioloop_copy_context(void) {
    aioloop_context *context = (aioloop_context *)aiol_alloc(&aiol_default_allocator, sizeof(*context));
    if (context == NULL)
        return NULL;
    context->refs = 1;
    context->current = false;
    context->outer = NULL;
    context->outer_run = NULL;
    context->map = aiol_map_ref(aiol_thread.map);
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

/* A callback that runs in a context has entered it too, without a mark in it: its place is the current one, or the one
 * that a run inside of it replaced. */
static bool aiol_context_is_entered(const aioloop_context *context) {
    const aioloop_context *run;
    if (context->current || aiol_thread.place == &context->map)
        return true;
    for (run = aiol_thread.run; run != NULL; run = run->outer_run)
        if (run->outer == &context->map)
            return true;
    return false;
}

AIOLOOP_API int aioloop_context_run(aioloop_context *context, void (*fn)(void *arg), void *arg) {
    aiol_context_frame frame;
    if (context == NULL || fn == NULL)
        return AIOLOOP_EINVAL;
    if (aiol_context_is_entered(context))
        return AIOLOOP_EMISUSE;
    aioloop_context_ref(context);
    context->current = true;
    frame = aiol_context_enter(&context->map);
    context->outer = frame.place;
    context->outer_run = aiol_thread.run;
    aiol_thread.run = context;
    fn(arg);
    aiol_thread.run = context->outer_run;
    aiol_context_leave(&frame);
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
    return (aioloop_time)(ns < 0 ? ns - 0.5 : ns + 0.5);
}

#endif
