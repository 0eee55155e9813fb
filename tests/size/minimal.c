/*
 * minimal.c - callbacks, a timer and a future: what a small program needs of the library. See tools/size.py.
 */
#define AIOLOOP_IMPLEMENTATION
#define AIOLOOP_STATIC
#include "aioloop.h"

static void answer(aioloop *loop, void *arg) {
    (void)loop;
    aioloop_future_set_result((aioloop_future *)arg, 42, NULL, NULL);
}

static void soon(aioloop *loop, void *arg) {
    aioloop_call_later(loop, AIOLOOP_MS(1), answer, arg);
}

int main(void) {
    aioloop *loop = aioloop_new_event_loop(NULL);
    aioloop_future *future;
    int64_t result;
    if (loop == NULL)
        return 1;
    future = aioloop_create_future(loop);
    aioloop_call_soon(loop, soon, future);
    result = aioloop_run_until_complete(loop, future, NULL);
    aioloop_future_unref(future);
    aioloop_free(loop);
    return result == 42 ? 0 : 2;
}
