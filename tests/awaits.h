/*
 * awaits.h - one scenario in three styles: a future is awaited by a callback, by a coroutine with a stack, and by one without.
 */
#ifndef TESTS_AWAITS_H
#define TESTS_AWAITS_H

#include "support.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum await_style { AWAIT_BY_CALLBACK, AWAIT_BY_STACK, AWAIT_BY_FRAME, AWAIT_STYLES } await_style;

/* Who awaits, and what came of it. Zero it; it must live until it is done. */
typedef struct awaiter {
    aioloop_frame frame;
    aioloop *loop;
    aioloop_future *future;
    aioloop_task *task; /* claimed; NULL for a callback */
    int done;           /* how often there was an outcome */
    int64_t number;
    void *pointer;
    int code; /* of the error, */
    char message[256];
    size_t errors; /* and how many it collects */
} awaiter;

/* Awaits the future, which is the one use of an unclaimed one. */
void await_begin(awaiter *a, aioloop *loop, await_style style, aioloop_future *future);
/* Cancels the task, or what the callback waits for. */
void await_cancel(awaiter *a, const char *message);
/* Runs until there is an outcome, checks that it is the only one, and lets go of the task. Returns the number. */
int64_t await_end(awaiter *a);
/* All three at once. */
int64_t await_now(awaiter *a, aioloop *loop, await_style style, aioloop_future *future);

/* Plays the scenario in each style that this build has, each on a loop of its own. */
void await_in_all_styles(void (*scenario)(aioloop *loop, await_style style));
bool await_has_stacks(aioloop *loop);
/* Ends the test as skipped if coroutines have no stacks in this build. */
void await_needs_stacks(aioloop *loop);

/* A task that is really one, not the static future of a failure. Claimed. */
aioloop_task *await_task(aioloop *loop, aioloop_coroutine fn, void *arg, const aioloop_task_options *options);
aioloop_task *await_task_frame(aioloop *loop, aioloop_step fn, aioloop_frame *frame, const aioloop_task_options *options);
/* Runs until the future is done. */
void await_done(aioloop *loop, aioloop_future *future);
/* Runs fn as the main task and returns its outcome. */
int64_t await_run(aioloop *loop, aioloop_coroutine fn, void *arg);

#ifdef __cplusplus
}
#endif

#endif
