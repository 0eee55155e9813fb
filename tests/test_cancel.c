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

/* ---- uncancel ---- */

static int64_t cancel_takes_back(aioloop *loop, void *arg, void **out) {
    cancel_case *c = (cancel_case *)arg;
    aioloop_task *self = aioloop_current_task(loop);
    (void)out;
    CHECK(aioloop_future_cancel(self, NULL));
    CHECK(aioloop_future_cancel(self, NULL));
    CHECK_EQ(aioloop_task_uncancel(self), 1);
    c->first = aioloop_task_uncancel(self);
    c->second = aioloop_await(aioloop_sleep(loop, AIOLOOP_MS(1)), NULL);
    return 3;
}

TEST(cancel_taken_back_before_it_is_told_is_not_told, "TASK-10") {
    aioloop *loop = test_loop();
    cancel_case c = AIOLOOP_ZERO;
    CHECK_EQ(cancel_run(loop, cancel_takes_back, &c), 3);
    CHECK_EQ(c.first, 0);
    CHECK_EQ(c.second, 0);
    test_end(loop);
}

static int64_t cancel_naps(aioloop *loop, void *arg, void **out) {
    (void)arg;
    (void)out;
    (void)aioloop_frame_sleep(loop, AIOLOOP_SECONDS(10));
    return aioloop_frame_result(loop, NULL);
}

static int64_t cancel_wakes_and_takes_back(aioloop *loop, void *arg, void **out) {
    aioloop_task *task = aioloop_future_ref(aioloop_create_task(loop, cancel_naps, NULL, NULL));
    int64_t n;
    (void)arg;
    (void)out;
    CHECK_EQ(aioloop_await(aioloop_sleep(loop, 0), NULL), 0); /* else it has not begun */
    CHECK(aioloop_future_cancel(task, NULL));
    CHECK_EQ(aioloop_task_uncancel(task), 0);
    n = aioloop_await(task, NULL);
    aioloop_future_unref(task);
    CHECK_EQ(n, AIOLOOP_ECANCELED);
    return 0;
}

TEST(cancel_that_has_ended_a_sleep_is_told_though_taken_back, "TASK-10 TASK-05") {
    aioloop *loop = test_loop();
    cancel_case c = AIOLOOP_ZERO;
    CHECK_EQ(cancel_run(loop, cancel_wakes_and_takes_back, &c), 0);
    test_end(loop);
}

static int64_t cancel_late_group(aioloop *loop, void *arg, void **out) {
    cancel_case *c = (cancel_case *)arg;
    aioloop_timeout limit;
    aioloop_task_group *group;
    int64_t n;
    (void)out;
    CHECK_EQ(aioloop_timeout_enter(loop, &limit, AIOLOOP_MS(50)), 0); /* the member is to have begun by then */
    group = aioloop_task_group_enter(loop);
    aioloop_future_unref(aioloop_task_group_create_task(group, cancel_fails_when_cancelled, NULL, NULL));
    n = aioloop_await(aioloop_task_group_exit(group, 0), NULL);
    c->first = aioloop_timeout_exit(&limit, n);
    c->second = aioloop_await(aioloop_sleep(loop, AIOLOOP_MS(1)), NULL);
    return aioloop_task_cancelling(aioloop_current_task(loop));
}

TEST(cancel_by_a_time_out_does_not_outlive_it_when_a_group_failed, "TIME-07 TG-03") {
    aioloop *loop = test_loop();
    cancel_case c = AIOLOOP_ZERO;
    CHECK_EQ(cancel_run(loop, cancel_late_group, &c), 0);
    CHECK_EQ(c.first, AIOLOOP_ETASKGROUP);
    CHECK_EQ(c.second, 0);
    test_end(loop);
}

/* ---- wait_for ---- */

static int64_t cancel_waits_for(aioloop *loop, void *arg, void **out) {
    cancel_case *c = (cancel_case *)arg;
    (void)loop;
    (void)out;
    c->first = aioloop_await(aioloop_wait_for(c->future, AIOLOOP_SECONDS(10)), NULL);
    return c->first;
}

static int64_t cancel_completes_and_cancels(aioloop *loop, void *arg, void **out) {
    cancel_case *c = (cancel_case *)arg;
    aioloop_task *task = aioloop_future_ref(aioloop_create_task(loop, cancel_waits_for, c, NULL));
    int64_t n;
    (void)out;
    (void)aioloop_await(aioloop_sleep(loop, 0), NULL);
    CHECK_EQ(aioloop_future_set_result(c->future, 7, NULL, NULL), 0);
    CHECK(aioloop_future_cancel(task, NULL));
    n = aioloop_await(task, NULL);
    aioloop_future_unref(task);
    CHECK_EQ(n, AIOLOOP_ECANCELED);
    return 0;
}

TEST(cancel_of_who_waits_by_wait_for_is_told_though_the_future_is_done, "TIME-06 TASK-05") {
    aioloop *loop = test_loop();
    cancel_case c = AIOLOOP_ZERO;
    c.future = aioloop_create_future(loop);
    CHECK_EQ(cancel_run(loop, cancel_completes_and_cancels, &c), 0);
    CHECK_EQ(c.first, AIOLOOP_ECANCELED);
    aioloop_future_unref(c.future);
    test_end(loop);
}

/* ---- groups ---- */

static int64_t cancel_swallows_then_fails_in_group(aioloop *loop, void *arg, void **out) {
    cancel_case *c = (cancel_case *)arg;
    aioloop_task_group *group;
    (void)out;
    CHECK(aioloop_future_cancel(aioloop_current_task(loop), NULL));
    CHECK_EQ(aioloop_await(aioloop_sleep(loop, AIOLOOP_MS(1)), NULL), AIOLOOP_ECANCELED);
    group = aioloop_task_group_enter(loop);
    aioloop_future_unref(aioloop_task_group_create_task(group, cancel_failing, NULL, NULL));
    c->first = aioloop_await(aioloop_task_group_exit(group, 0), NULL);
    c->second = aioloop_await(aioloop_sleep(loop, AIOLOOP_MS(1)), NULL);
    return aioloop_task_cancelling(aioloop_current_task(loop));
}

TEST(cancel_not_taken_back_is_told_again_behind_the_errors_of_a_group, "TG-03") {
    aioloop *loop = test_loop();
    cancel_case c = AIOLOOP_ZERO;
    CHECK_EQ(cancel_run(loop, cancel_swallows_then_fails_in_group, &c), 1);
    CHECK_EQ(c.first, AIOLOOP_ETASKGROUP);
    CHECK_EQ(c.second, AIOLOOP_ECANCELED);
    test_end(loop);
}

static void cancel_parent(aioloop_future *f, void *arg) {
    (void)f;
    CHECK(aioloop_future_cancel(((cancel_case *)arg)->task, NULL));
}

static int64_t cancel_leaves_group(aioloop *loop, void *arg, void **out) {
    cancel_case *c = (cancel_case *)arg;
    aioloop_task *child;
    aioloop_task_group *group = aioloop_task_group_enter(loop);
    (void)out;
    c->task = aioloop_current_task(loop);
    child = aioloop_future_ref(aioloop_task_group_create_task(group, cancel_failing, NULL, NULL));
    CHECK_EQ(aioloop_future_add_done_callback(child, cancel_parent, c),
             0); /* behind the group's, in the same iteration */
    aioloop_future_unref(child);
    c->first = aioloop_await(aioloop_task_group_exit(group, 0), NULL);
    snprintf(c->text, sizeof(c->text), "%s", aioloop_error_message(aioloop_error_at(aioloop_last_error(loop), 0)));
    c->second = aioloop_await(aioloop_sleep(loop, AIOLOOP_MS(1)), NULL);
    return 0;
}

TEST(cancel_that_comes_with_the_errors_of_a_group_comes_after_them, "TG-03") {
    aioloop *loop = test_loop();
    cancel_case c = AIOLOOP_ZERO;
    CHECK_EQ(cancel_run(loop, cancel_leaves_group, &c), 0);
    CHECK_EQ(c.first, AIOLOOP_ETASKGROUP);
    CHECK_STR(c.text, "on purpose");
    CHECK_EQ(c.second, AIOLOOP_ECANCELED);
    CHECK_EQ(test_reports(), 0);
    test_end(loop);
}

/* ---- messages ---- */

static int64_t cancel_says_why(aioloop *loop, void *arg, void **out) {
    aioloop_task_group *group = aioloop_task_group_enter(loop);
    (void)arg;
    (void)out;
    aioloop_future_unref(aioloop_task_group_create_task(group, cancel_fails_when_cancelled, NULL, NULL));
    (void)aioloop_await(aioloop_sleep(loop, 0), NULL);
    CHECK(aioloop_future_cancel(aioloop_current_task(loop), "enough"));
    CHECK_EQ(aioloop_await(aioloop_task_group_exit(group, 0), NULL), AIOLOOP_ETASKGROUP); /* in place of the message */
    CHECK_EQ(aioloop_error_count(aioloop_last_error(loop)), 1);
    return 0;
}

TEST(cancel_message_gives_way_to_the_error_that_ends_the_wait, "TG-03") {
    aioloop *loop = test_loop();
    cancel_case c = AIOLOOP_ZERO;
    (void)cancel_run(loop, cancel_says_why, &c); /* the cancel is told again, and there is no wait left */
    test_end(loop);
}

static int64_t cancel_with_old_error(aioloop *loop, void *arg, void **out) {
    cancel_case *c = (cancel_case *)arg;
    aioloop_task_group *group;
    (void)out;
    CHECK(aioloop_future_cancel(aioloop_current_task(loop), NULL));
    CHECK_EQ(aioloop_await(aioloop_sleep(loop, 0), NULL), AIOLOOP_ECANCELED);
    CHECK_EQ(aioloop_await(aioloop_create_task(loop, cancel_failing, NULL, NULL), NULL), AIOLOOP_EIO);
    group = aioloop_task_group_enter(loop);
    aioloop_future_unref(aioloop_task_group_create_task(group, cancel_failing, NULL, NULL));
    CHECK_EQ(aioloop_await(aioloop_task_group_exit(group, 0), NULL), AIOLOOP_ETASKGROUP);
    CHECK_EQ(aioloop_await(c->future, NULL), AIOLOOP_ECANCELED); /* told again, and the message was none */
    snprintf(c->text, sizeof(c->text), "%s", aioloop_error_message(aioloop_future_error(c->future)));
    return 0;
}

TEST(cancel_without_a_message_does_not_take_that_of_another_error, "TASK-05") {
    aioloop *loop = test_loop();
    cancel_case c = AIOLOOP_ZERO;
    c.future = aioloop_create_future(loop);
    (void)cancel_run(loop, cancel_with_old_error, &c);
    CHECK_STR(c.text, aioloop_strerror(AIOLOOP_ECANCELED));
    aioloop_future_unref(c.future);
    test_end(loop);
}

/* ---- results that come before a cancellation ---- */

#if !defined(AIOLOOP_USE_COROUTINES) || AIOLOOP_USE_COROUTINES != 0

typedef struct cancel_late {
    aioloop_socket pair[2];
    aioloop_task *task;
    aioloop_time limit; /* of the scope that the task enters then */
    bool follows;       /* by wait_for */
    bool cleans;        /* it was cancelled before, and cleans up */
    int64_t got, slept, left, after;
    char message[64];
} cancel_late;

static void cancel_late_now(aioloop_future *future, void *arg) {
    (void)future;
    CHECK(aioloop_future_cancel(((cancel_late *)arg)->task, "because"));
}

static int64_t cancel_late_run(aioloop *loop, void *arg, void **out) {
    cancel_late *c = (cancel_late *)arg;
    aioloop_timeout scope;
    char byte;
    aioloop_future *f = aioloop_future_ref(aioloop_sock_recv_into(loop, c->pair[0], &byte, 1));
    (void)out;
    CHECK_EQ(aioloop_future_add_done_callback(f, cancel_late_now, c), 0);
    c->got = aioloop_await(c->follows ? aioloop_wait_for(f, AIOLOOP_SECONDS(100)) : f, NULL);
    aioloop_future_unref(f);
    if (c->limit >= 0)
        CHECK_EQ(aioloop_timeout_enter(loop, &scope, c->limit), 0);
    c->slept = aioloop_await(aioloop_sleep(loop, AIOLOOP_SECONDS(100)), NULL);
    snprintf(c->message, sizeof(c->message), "%s", aioloop_message(loop, (int)c->slept));
    c->left = c->limit >= 0 ? aioloop_timeout_exit(&scope, c->slept) : c->slept;
    c->after = aioloop_await(aioloop_sleep(loop, 0), NULL);
    return c->left;
}

static void cancel_late_test(cancel_late *c) {
    aioloop *loop = test_loop();
    int64_t rc;
    test_socketpair(loop, c->pair);
    c->task = aioloop_future_ref(aioloop_create_task(loop, cancel_late_run, c, NULL));
    test_spin(loop, 2);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_sock_sendall(loop, c->pair[1], "b", 1), NULL), 0);
    rc = aioloop_run_until_complete(loop, c->task, NULL);
    CHECK_EQ(c->got, 1);
    CHECK_EQ(c->slept, AIOLOOP_ECANCELED);
    CHECK_EQ(rc, AIOLOOP_ECANCELED);
    CHECK_EQ(c->after, 0);
    if (c->limit < 0)
        CHECK_STR(c->message, "because"); /* else the last who cancelled it, the scope, had nothing to say */
    aioloop_future_unref(c->task);
    test_close_socket(loop, c->pair[0]);
    test_close_socket(loop, c->pair[1]);
    test_end(loop);
}

TEST(cancel_behind_a_result_is_told_at_the_next_wait, "SOCK-08") {
    cancel_late c = AIOLOOP_ZERO;
    c.limit = -1;
    cancel_late_test(&c);
}

TEST(cancel_behind_a_result_comes_through_wait_for_with_its_message, "SOCK-08") {
    cancel_late c = AIOLOOP_ZERO;
    c.limit = -1;
    c.follows = true;
    cancel_late_test(&c);
}

/* The scope's time is over at once, but it is not the scope that has cancelled the task first. */
TEST(cancel_behind_a_result_is_not_the_next_scopes, "SOCK-08 TIME-07") {
    cancel_late c = AIOLOOP_ZERO;
    c.limit = 0;
    cancel_late_test(&c);
}

#endif
