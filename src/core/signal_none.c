/*
 * signal_none.c - signals where there are none.
 */
#ifndef AIOL_CORE_SIGNAL_NONE_C
#define AIOL_CORE_SIGNAL_NONE_C

#include "core/loop.c"

AIOLOOP_API int(aioloop_add_signal_handler)(aioloop *loop, int number, aioloop_callback fn, void *arg) {
    (void)number;
    (void)fn;
    (void)arg;
    return loop == NULL ? AIOLOOP_EINVAL + 0 : aiol_fail(loop, AIOLOOP_ENOTAVAILABLE, "built without signals");
}

AIOLOOP_API int aioloop_remove_signal_handler(aioloop *loop, int number) {
    (void)number;
    return loop == NULL ? AIOLOOP_EINVAL : AIOLOOP_ENOTAVAILABLE;
}

#endif
