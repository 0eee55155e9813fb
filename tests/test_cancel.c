/*
 * test_cancel.c - where cancellations, time-outs, groups and errors meet in one iteration.
 *
 * What random scripts have found (simulate_tasks.c), each by itself.
 */
#include "support.h"

typedef struct cancel_case {
    aioloop_future *future; /* something to wait for */
    aioloop_task *task;     /* whom to cancel */
    aioloop_task_group *group;
    int64_t first;
    int64_t second;
    char text[64];
} cancel_case;

static int64_t cancel_run(aioloop *loop, aioloop_coroutine fn, cancel_case *c) {
    return aioloop_run_until_complete(loop, aioloop_create_task(loop, fn, c, NULL), NULL);
}

static int64_t cancel_failing(aioloop *loop, void *arg, void **out) {
    (void)arg;
    (void)out;
    return aioloop_raise(loop, AIOLOOP_EIO, "on purpose");
}

/* ---- what is reported ---- */

static int64_t cancel_fails_when_cancelled(aioloop *loop, void *arg, void **out) {
    (void)arg;
    (void)out;
    (void)aioloop_await(aioloop_sleep(loop, AIOLOOP_SECONDS(10)), NULL);
    return AIOLOOP_EIO;
}

static int64_t cancel_and_forget(aioloop *loop, void *arg, void **out) {
    aioloop_task *task = aioloop_future_ref(aioloop_create_task(loop, cancel_fails_when_cancelled, NULL, NULL));
    (void)arg;
    (void)out;
    (void)aioloop_await(aioloop_sleep(loop, 0), NULL);
    CHECK(aioloop_future_cancel(task, NULL));
    aioloop_future_unref(task);
    (void)aioloop_await(aioloop_sleep(loop, 0), NULL);
    return aioloop_await(aioloop_sleep(loop, 0), NULL);
}

TEST(cancel_does_not_hide_the_failure_that_answers_it, "FUT-10 ERR-07") {
    aioloop *loop = test_loop();
    cancel_case c = AIOLOOP_ZERO;
    CHECK_EQ(cancel_run(loop, cancel_and_forget, &c), 0);
    CHECK_EQ(test_reports(), 1);
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EIO);
    test_reports_clear();
    test_end(loop);
}
