/*
 * context.h - context variables: values that follow the work.       (Python: contextvars)
 *
 * Whatever schedules work (a callback, a timer, a watcher, a done-callback, a connection, a server) captures the
 * values of all variables at that moment, and the work sees them when it runs. What the work changes is seen
 * by itself and by what it schedules, not by its creator. Capturing costs one counter, nothing when no variable
 * was ever set.
 */
#ifndef AIOLOOP_API_CONTEXT_H
#define AIOLOOP_API_CONTEXT_H

#include "api/base.h"

/* A variable; usually static. Its address is its identity, so it must outlive every loop that uses it. */
typedef struct aioloop_context_var {
    const char *name;     /* for people */
    void *default_value;  /* what aioloop_context_get answers where it was never set */
} aioloop_context_var;

/* A set of values that can be kept and passed on. Counted. */
typedef struct aioloop_context aioloop_context;

/* The value of a variable in the current context. Any thread. */
AIOLOOP_API void *aioloop_context_get(const aioloop_context_var *var);

/* Sets a variable in the current context. dispose (may be NULL) is called with the value when the last context
 * that holds it is gone, in whichever thread lets go of it. 0, or AIOLOOP_ENOMEM and nothing changed (the value
 * is still the caller's). Any thread. */
AIOLOOP_API int aioloop_context_set(const aioloop_context_var *var, void *value, void (*dispose)(void *value));

/* contextvars.copy_context(): a new context with the values current now, owned by the caller; NULL when there
 * is no memory. Any thread. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_context *aioloop_copy_context(void);

/* Another owner, and one less. Any thread. NULL is ignored. */
AIOLOOP_API void aioloop_context_ref(aioloop_context *context);
AIOLOOP_API void aioloop_context_unref(aioloop_context *context);

/* Context.run: calls fn(arg) now with this context current; what fn sets stays in it. AIOLOOP_EMISUSE if
 * it is entered already: current, or around the one that is current. AIOLOOP_EINVAL for NULL. One thread at a time. */
AIOLOOP_API int aioloop_context_run(aioloop_context *context, void (*fn)(void *arg), void *arg);

#endif
