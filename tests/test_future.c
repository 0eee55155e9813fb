/*
 * test_future.c - futures: states, callbacks, who owns them and their results, and what is reported of them.
 *
 * Futures of the library's own operations come from aioloop_server_wait_closed, which needs no traffic.
 */
#include "support.h"

/* ---- what callbacks note ---- */

typedef struct future_log {
    char order[64];
    int calls;
    int disposed;
} future_log;

typedef struct future_mark {
    future_log *log;
    char letter;
    aioloop_future *seen;
    int code; /* what future_failing raises */
} future_mark;

static void future_note(future_log *log, char letter) {
    size_t n = strlen(log->order);
    log->calls++;
    if (n + 1 < sizeof(log->order)) {
        log->order[n] = letter;
        log->order[n + 1] = '\0';
    }
}

static future_mark future_mark_of(future_log *log, char letter) {
    future_mark mark;
    mark.log = log;
    mark.letter = letter;
    mark.seen = NULL;
    mark.code = 0;
    return mark;
}

static void future_done(aioloop_future *future, void *arg) {
    future_mark *mark = (future_mark *)arg;
    mark->seen = future;
    future_note(mark->log, mark->letter);
}

static void future_done_too(aioloop_future *future, void *arg) {
    future_done(future, arg);
}

static void future_soon(aioloop *loop, void *arg) {
    future_mark *mark = (future_mark *)arg;
    (void)loop;
    future_note(mark->log, mark->letter);
}

static future_log *future_disposing; /* counts what is disposed of: dispose functions have no argument for it */

static void future_dispose(void *pointer) {
    if (test_has_given_up())
        return;
    CHECK_PTR(pointer, future_disposing);
    future_disposing->disposed++;
}

static aioloop_future *future_new(aioloop *loop) {
    aioloop_future *f = aioloop_create_future(loop);
    CHECK_PTR(aioloop_future_get_loop(f), loop); /* not the static one that says there is no memory */
    return f;
}

/* A real future that has failed with AIOLOOP_EINVAL and a message, unclaimed. */
static aioloop_future *future_refused(aioloop *loop) {
    aioloop_future *f = aioloop_create_connection(loop, &test_protocol, NULL, NULL, 0, NULL);
    CHECK_PTR(aioloop_future_get_loop(f), loop);
    return f;
}

/* A server to wait for. */
static aioloop_server *future_server(aioloop *loop) {
    int port = 0;
    return test_serve(loop, &test_protocol, NULL, &port);
}

/* The future of an operation, pending and unclaimed. */
static aioloop_future *future_waiting(aioloop *loop, aioloop_server *server) {
    aioloop_future *f = aioloop_server_wait_closed(server);
    CHECK_PTR(aioloop_future_get_loop(f), loop);
    CHECK(!aioloop_future_done(f));
    return f;
}

static void future_server_end(aioloop *loop, aioloop_server *server) {
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_spin(loop, 4);
}

/* ---- states ---- */

TEST(new_future_is_pending_and_knows_its_loop, "CRE-01 FUT-01") {
    aioloop *loop = test_loop();
    aioloop *other = test_loop();
    aioloop_future *f = future_new(loop);
    aioloop_future *g = future_new(other);
    CHECK(f != g);
    CHECK(!aioloop_future_done(f));
    CHECK(!aioloop_future_cancelled(f));
    CHECK_PTR(aioloop_future_get_loop(f), loop);
    CHECK_PTR(aioloop_future_get_loop(g), other);
    test_spin(loop, 2);
    CHECK(!aioloop_future_done(f));
    aioloop_future_unref(f);
    aioloop_future_unref(g);
    test_end(other);
    test_end(loop);
}

TEST(future_can_be_made_on_a_closed_loop, "CRE-01") {
    aioloop *loop = test_loop();
    aioloop_future *f;
    CHECK_EQ(aioloop_close(loop), 0);
    f = future_new(loop);
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(aioloop_future_set_result(f, 3, NULL, NULL), 0);
    CHECK_EQ(aioloop_future_result(f, NULL), 3);
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(future_finishes_with_a_value_once, "FUT-01 FUT-02 FUT-04") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    int thing = 0;
    int other = 0;
    int *out = NULL;
    CHECK_EQ(aioloop_future_set_result(f, 7, &thing, NULL), 0);
    CHECK(aioloop_future_done(f));
    CHECK(!aioloop_future_cancelled(f));
    CHECK_EQ(aioloop_future_set_result(f, 8, &other, NULL), AIOLOOP_EINVALIDSTATE);
    CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_EIO, "late"), AIOLOOP_EINVALIDSTATE);
    CHECK(!aioloop_future_cancel(f, "late"));
    CHECK(!aioloop_future_cancelled(f));
    CHECK_EQ(aioloop_future_result(f, &out), 7);
    CHECK_PTR(out, &thing);
    CHECK_EQ(aioloop_future_result(f, NULL), 7);
    CHECK_EQ(aioloop_future_exception(f), 0);
    CHECK(aioloop_future_error(f) == NULL);
    aioloop_future_unref(f);
    f = future_new(loop);
    CHECK_EQ(aioloop_future_set_result(f, INT64_MAX, NULL, NULL), 0);
    CHECK_EQ(aioloop_future_result(f, NULL), INT64_MAX);
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(future_fails_once, "FUT-01 FUT-02 FUT-04") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    int thing = 0;
    int *out = &thing;
    CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_EPIPE, "pipe %d of %s", 4, "five"), 0);
    CHECK(aioloop_future_done(f));
    CHECK(!aioloop_future_cancelled(f));
    CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_EIO, NULL), AIOLOOP_EINVALIDSTATE);
    CHECK_EQ(aioloop_future_set_result(f, 1, NULL, NULL), AIOLOOP_EINVALIDSTATE);
    CHECK(!aioloop_future_cancel(f, NULL));
    CHECK_EQ(aioloop_future_result(f, &out), AIOLOOP_EPIPE);
    CHECK_PTR(out, &thing); /* nothing was stored */
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_EPIPE);
    CHECK_EQ(aioloop_error_code(aioloop_future_error(f)), AIOLOOP_EPIPE);
    CHECK_STR(aioloop_error_message(aioloop_future_error(f)), "pipe 4 of five");
    CHECK_EQ(aioloop_error_count(aioloop_future_error(f)), 0);
    aioloop_future_unref(f);
    f = future_new(loop);
    CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_EIO, NULL), 0);
    CHECK_EQ(aioloop_error_code(aioloop_future_error(f)), AIOLOOP_EIO);
    CHECK_STR(aioloop_error_message(aioloop_future_error(f)), aioloop_strerror(AIOLOOP_EIO));
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(future_is_cancelled_at_once_and_once, "FUT-01 FUT-02 FUT-04 FUT-09") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    int thing = 0;
    int *out = &thing;
    CHECK(aioloop_future_cancel(f, "enough"));
    CHECK(aioloop_future_done(f));
    CHECK(aioloop_future_cancelled(f));
    CHECK(!aioloop_future_cancel(f, "again"));
    CHECK_EQ(aioloop_future_set_result(f, 1, NULL, NULL), AIOLOOP_EINVALIDSTATE);
    CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_EIO, NULL), AIOLOOP_EINVALIDSTATE);
    CHECK(aioloop_future_cancelled(f));
    CHECK_EQ(aioloop_future_result(f, &out), AIOLOOP_ECANCELED);
    CHECK_PTR(out, &thing);
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_ECANCELED);
    CHECK_EQ(aioloop_error_code(aioloop_future_error(f)), AIOLOOP_ECANCELED);
    CHECK_STR(aioloop_error_message(aioloop_future_error(f)), "enough");
    aioloop_future_unref(f);
    f = future_new(loop);
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK_STR(aioloop_error_message(aioloop_future_error(f)), aioloop_strerror(AIOLOOP_ECANCELED));
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(pending_future_has_nothing_to_read, "FUT-03") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    int thing = 0;
    int *out = &thing;
    CHECK_EQ(aioloop_future_result(f, &out), AIOLOOP_EINVALIDSTATE);
    CHECK_PTR(out, &thing);
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_EINVALIDSTATE);
    CHECK(aioloop_future_error(f) == NULL);
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0); /* asking has changed nothing */
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(asking_a_pending_future_does_not_hush_its_failure, "FUT-03 FUT-10") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_EINVALIDSTATE);
    CHECK_EQ(aioloop_future_result(f, NULL), AIOLOOP_EINVALIDSTATE);
    CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_EIO, NULL), 0);
    aioloop_future_unref(f);
    CHECK_EQ(test_reports(), 1);
    test_reports_clear();
    test_end(loop);
}

TEST(values_no_future_takes_leave_it_pending, "FUT-02") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_disposing = &log;
    CHECK_EQ(aioloop_future_set_result(f, -1, &log, future_dispose), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_set_exception(f, 0, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_set_exception(f, 5, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_ECANCELED, NULL), AIOLOOP_EINVAL);
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0);
    aioloop_future_unref(f);
    CHECK_EQ(log.disposed, 0); /* what was refused is still the caller's */
    test_end(loop);
}

TEST(no_future_is_answered_not_followed, "FUT-03 FUT-09") {
    future_log log = AIOLOOP_ZERO;
    future_mark mark = future_mark_of(&log, 'a');
    CHECK(aioloop_future_ref(NULL) == NULL);
    aioloop_future_unref(NULL);
    CHECK_EQ(aioloop_future_set_result(NULL, 0, NULL, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_set_exception(NULL, AIOLOOP_EIO, NULL), AIOLOOP_EINVAL);
    CHECK(!aioloop_future_cancel(NULL, NULL));
    CHECK(!aioloop_future_done(NULL));
    CHECK(!aioloop_future_cancelled(NULL));
    CHECK(aioloop_future_get_loop(NULL) == NULL);
    CHECK_EQ(aioloop_future_result(NULL, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(NULL), AIOLOOP_EINVAL);
    CHECK(aioloop_future_error(NULL) == NULL);
    CHECK_EQ(aioloop_future_add_done_callback(NULL, future_done, &mark), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_then(NULL, future_done, &mark), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_remove_done_callback(NULL, future_done, &mark), 0);
}

/* ---- callbacks ---- */

TEST(callbacks_run_in_a_later_pass_in_order, "FUT-05") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    future_mark b = future_mark_of(&log, 'b');
    future_mark c = future_mark_of(&log, 'c');
    future_mark x = future_mark_of(&log, 'x');
    future_mark y = future_mark_of(&log, 'y');
    aioloop_handle h;
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &b), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &c), 0);
    test_spin(loop, 2);
    CHECK_STR(log.order, ""); /* not while it is pending */
    h = aioloop_call_soon(loop, future_soon, &x);
    CHECK(!aioloop_handle_is_null(&h));
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0);
    CHECK_STR(log.order, ""); /* not inside the setter */
    h = aioloop_call_soon(loop, future_soon, &y);
    CHECK(!aioloop_handle_is_null(&h));
    test_spin(loop, 1);
    CHECK_STR(log.order, "xabcy");
    CHECK_PTR(a.seen, f);
    CHECK_PTR(c.seen, f);
    test_spin(loop, 2);
    CHECK_STR(log.order, "xabcy"); /* once */
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(failure_and_cancellation_run_the_callbacks_too, "FUT-05 FUT-09") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    aioloop_future *g = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    future_mark b = future_mark_of(&log, 'b');
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_add_done_callback(g, future_done, &b), 0);
    CHECK(aioloop_future_cancel(g, NULL));
    CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_EIO, NULL), 0);
    CHECK_STR(log.order, "");
    test_spin(loop, 1);
    CHECK_STR(log.order, "ba"); /* as they became done */
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_EIO);
    aioloop_future_unref(f);
    aioloop_future_unref(g);
    test_end(loop);
}

typedef struct future_pair {
    aioloop_future *first;
    aioloop_future *second;
    future_mark mark;
    int before; /* calls noted when the setter returned */
    size_t removed;
} future_pair;

static void future_set_from_callback(aioloop *loop, void *arg) {
    future_pair *pair = (future_pair *)arg;
    (void)loop;
    aioloop_future_set_result(pair->first, 0, NULL, NULL);
    pair->before = pair->mark.log->calls;
    future_note(pair->mark.log, pair->mark.letter);
}

TEST(future_set_in_a_callback_runs_its_callbacks_in_the_next_pass, "FUT-05") {
    aioloop *loop = test_loop();
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    future_mark y = future_mark_of(&log, 'y');
    future_pair pair;
    aioloop_handle h;
    pair.first = future_new(loop);
    pair.mark = future_mark_of(&log, 's');
    pair.before = -1;
    CHECK_EQ(aioloop_future_add_done_callback(pair.first, future_done, &a), 0);
    h = aioloop_call_soon(loop, future_set_from_callback, &pair);
    CHECK(!aioloop_handle_is_null(&h));
    h = aioloop_call_soon(loop, future_soon, &y);
    CHECK(!aioloop_handle_is_null(&h));
    test_spin(loop, 1);
    CHECK_EQ(pair.before, 0);
    CHECK_STR(log.order, "sy");
    test_spin(loop, 1);
    CHECK_STR(log.order, "sya");
    aioloop_future_unref(pair.first);
    test_end(loop);
}

TEST(callback_added_to_a_done_future_is_queued_at_once, "FUT-06") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &a), 0);
    CHECK_STR(log.order, "");
    test_spin(loop, 1);
    CHECK_STR(log.order, "aa");
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(callback_registered_twice_is_called_twice, "FUT-06") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    future_mark b = future_mark_of(&log, 'b');
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &b), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, NULL, &a), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0);
    test_spin(loop, 1);
    CHECK_STR(log.order, "aba");
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(removing_takes_every_registration_and_counts_them, "FUT-07") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    future_mark b = future_mark_of(&log, 'b');
    future_mark c = future_mark_of(&log, 'c');
    CHECK_EQ(aioloop_future_remove_done_callback(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &b), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done_too, &a), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_remove_done_callback(f, future_done, &a), 3);
    CHECK_EQ(aioloop_future_remove_done_callback(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_remove_done_callback(f, future_done, &c), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &c), 0); /* after the last was removed */
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0);
    test_spin(loop, 1);
    CHECK_STR(log.order, "bac");
    aioloop_future_unref(f);
    f = future_new(loop);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_remove_done_callback(f, future_done, &a), 1); /* all there were */
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &b), 0);
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0);
    test_spin(loop, 1);
    CHECK_STR(log.order, "bacb");
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(removing_does_not_reach_queued_callbacks, "FUT-07") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0);
    CHECK_EQ(aioloop_future_remove_done_callback(f, future_done, &a), 0);
    test_spin(loop, 1);
    CHECK_STR(log.order, "a");
    aioloop_future_unref(f);
    test_end(loop);
}

static void future_removing(aioloop_future *future, void *arg) {
    future_pair *pair = (future_pair *)arg;
    pair->removed = aioloop_future_remove_done_callback(future, future_done, &pair->mark);
    future_note(pair->mark.log, 'r');
}

TEST(callback_that_removes_the_next_one_comes_too_late, "FUT-07") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_pair pair;
    pair.mark = future_mark_of(&log, 'a');
    pair.removed = 99;
    CHECK_EQ(aioloop_future_add_done_callback(f, future_removing, &pair), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &pair.mark), 0);
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0);
    test_spin(loop, 1);
    CHECK_EQ(pair.removed, 0);
    CHECK_STR(log.order, "ra");
    aioloop_future_unref(f);
    test_end(loop);
}

static void future_failing(aioloop_future *future, void *arg) {
    future_mark *mark = (future_mark *)arg;
    future_done(future, arg);
    aioloop_raise(aioloop_future_get_loop(future), mark->code, "callback %c", mark->letter);
}

TEST(failing_callback_is_reported_and_the_others_run, "FUT-08") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    future_mark b = future_mark_of(&log, 'b');
    future_mark c = future_mark_of(&log, 'c');
    b.code = AIOLOOP_ENOSPC;
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_failing, &b), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &c), 0);
    CHECK_EQ(aioloop_future_set_result(f, 2, NULL, NULL), 0);
    test_spin(loop, 2);
    CHECK_STR(log.order, "abc");
    CHECK_EQ(test_reports(), 1);
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_ENOSPC);
    CHECK_STR(test_report_at(0)->detail, "callback b");
    CHECK_PTR(test_report_at(0)->context.future, f);
    CHECK(test_report_at(0)->message[0] != '\0');
    CHECK_EQ(aioloop_future_result(f, NULL), 2);
    test_reports_clear();
    aioloop_future_unref(f);
    test_end(loop);
}

static void future_add_again(aioloop_future *future, void *arg) {
    future_mark *mark = (future_mark *)arg;
    future_note(mark->log, '+');
    aioloop_future_add_done_callback(future, future_done, arg);
}

TEST(callback_may_add_a_callback, "FUT-06") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    future_mark b = future_mark_of(&log, 'b');
    CHECK_EQ(aioloop_future_add_done_callback(f, future_add_again, &a), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &b), 0);
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0);
    test_spin(loop, 1);
    CHECK_STR(log.order, "+b");
    test_spin(loop, 1);
    CHECK_STR(log.order, "+ba");
    aioloop_future_unref(f);
    test_end(loop);
}

static void future_end_others(aioloop_future *future, void *arg) {
    future_pair *pair = (future_pair *)arg;
    (void)future;
    future_note(pair->mark.log, 'e');
    if (pair->first != NULL)
        aioloop_future_set_result(pair->first, 11, NULL, NULL);
    if (pair->second != NULL)
        aioloop_future_cancel(pair->second, "by another");
}

TEST(callback_may_finish_and_cancel_other_futures, "FUT-05 FUT-09") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_mark b = future_mark_of(&log, 'b');
    future_mark c = future_mark_of(&log, 'c');
    future_mark d = future_mark_of(&log, 'd');
    future_pair pair;
    pair.first = future_new(loop);
    pair.second = future_new(loop);
    pair.mark = future_mark_of(&log, ' ');
    CHECK_EQ(aioloop_future_add_done_callback(f, future_end_others, &pair), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &d), 0);
    CHECK_EQ(aioloop_future_add_done_callback(pair.first, future_done, &b), 0);
    CHECK_EQ(aioloop_future_add_done_callback(pair.second, future_done, &c), 0);
    CHECK(aioloop_future_cancel(f, NULL));
    test_spin(loop, 1);
    CHECK_STR(log.order, "ed");
    test_spin(loop, 1);
    CHECK_STR(log.order, "edbc");
    CHECK_EQ(aioloop_future_result(pair.first, NULL), 11);
    CHECK(aioloop_future_cancelled(pair.second));
    aioloop_future_unref(f);
    aioloop_future_unref(pair.first);
    aioloop_future_unref(pair.second);
    test_end(loop);
}

static void future_unref_all(aioloop_future *future, void *arg) {
    future_pair *pair = (future_pair *)arg;
    future_note(pair->mark.log, 'u');
    aioloop_future_unref(pair->first); /* its own: borrowed for the call all the same */
    aioloop_future_unref(pair->second);
    CHECK_EQ(aioloop_future_result(future, NULL), 5);
}

TEST(callback_may_drop_its_own_future, "FUT-05") {
    aioloop *loop = test_loop();
    future_log log = AIOLOOP_ZERO;
    future_mark b = future_mark_of(&log, 'b');
    future_mark c = future_mark_of(&log, 'c');
    future_pair pair;
    pair.first = future_new(loop);
    pair.second = future_new(loop);
    pair.mark = future_mark_of(&log, ' ');
    CHECK_EQ(aioloop_future_add_done_callback(pair.first, future_unref_all, &pair), 0);
    CHECK_EQ(aioloop_future_add_done_callback(pair.first, future_done, &b), 0);
    CHECK_EQ(aioloop_future_add_done_callback(pair.second, future_done, &c), 0); /* pending when it goes */
    CHECK_EQ(aioloop_future_set_result(pair.first, 5, NULL, NULL), 0);
    test_spin(loop, 2);
    CHECK_STR(log.order, "ub");
    test_end(loop);
}

TEST(dropping_a_done_future_does_not_lose_its_callbacks, "FUT-05") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    future_disposing = &log;
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_set_result(f, 0, &log, future_dispose), 0);
    aioloop_future_unref(f);
    CHECK_EQ(log.disposed, 0); /* the queued callback holds it */
    test_spin(loop, 1);
    CHECK_STR(log.order, "a");
    CHECK_EQ(log.disposed, 1);
    test_end(loop);
}

/* ---- context ---- */

static const aioloop_context_var future_var = {"future", NULL};
static int future_value_one, future_value_two;

static void future_read_context(aioloop_future *future, void *arg) {
    (void)future;
    *(void **)arg = aioloop_context_get(&future_var);
}

static void future_set_two(void *arg) {
    *(int *)arg = aioloop_context_set(&future_var, &future_value_two, NULL);
}

TEST(done_callback_runs_in_the_context_of_its_registration, "FUT-05") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    aioloop_context *context = aioloop_copy_context();
    void *before = &before;
    void *captured = NULL;
    void *given = NULL;
    int err = -1;
    if (context == NULL) {
        aioloop_future_unref(f);
        FAIL("no context");
    }
    CHECK_EQ(aioloop_context_run(context, future_set_two, &err), 0);
    if (err == 0)
        err = aioloop_future_add_done_callback(f, future_read_context, &before);
    if (err == 0)
        err = aioloop_context_set(&future_var, &future_value_one, NULL);
    if (err == 0)
        err = aioloop_future_add_done_callback(f, future_read_context, &captured);
    if (err == 0)
        err = aioloop_future_add_done_callback_context(f, future_read_context, &given, context);
    aioloop_context_unref(context); /* the callback has its own hold */
    CHECK_EQ(err, 0);
    CHECK_EQ(aioloop_context_set(&future_var, NULL, NULL), 0);
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0);
    test_spin(loop, 1);
    CHECK(before == NULL);
    CHECK_PTR(captured, &future_value_one);
    CHECK_PTR(given, &future_value_two);
    aioloop_future_unref(f);
    test_end(loop);
}

/* ---- errors that nobody looks at ---- */

TEST(failure_that_nobody_saw_is_reported_once_when_it_goes, "FUT-10 ERR-07") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_ENXIO, "number %d", 9), 0);
    CHECK(aioloop_future_done(f)); /* asking whether is not asking what */
    CHECK(!aioloop_future_cancelled(f));
    test_spin(loop, 2);
    CHECK_EQ(test_reports(), 0);
    CHECK_PTR(aioloop_future_ref(f), f);
    aioloop_future_unref(f);
    CHECK_EQ(test_reports(), 0); /* one owner is left */
    aioloop_future_unref(f);
    CHECK_EQ(test_reports(), 1);
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_ENXIO);
    CHECK_STR(test_report_at(0)->detail, "number 9");
    CHECK_PTR(test_report_at(0)->context.future, f);
    CHECK(strstr(test_report_at(0)->message, "never retrieved") != NULL);
    test_reports_clear();
    test_spin(loop, 2);
    test_end(loop); /* checks that there was no second report */
}

TEST(every_way_of_looking_hushes_the_report, "FUT-10") {
    aioloop *loop = test_loop();
    int way;
    for (way = 0; way < 6; way++) {
        aioloop_future *f = future_new(loop);
        if (way == 4)
            CHECK(aioloop_future_cancel(f, NULL)); /* nobody need look at a cancelled one */
        else if (way == 5)
            CHECK_EQ(aioloop_future_set_result(f, 1, NULL, NULL), 0);
        else
            CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_EIO, "seen"), 0);
        if (way == 0)
            CHECK_EQ(aioloop_future_exception(f), AIOLOOP_EIO);
        if (way == 1)
            CHECK_EQ(aioloop_future_result(f, NULL), AIOLOOP_EIO);
        if (way == 2)
            CHECK(aioloop_future_error(f) != NULL);
        if (way == 3)
            CHECK(!aioloop_future_cancel(f, NULL));
        aioloop_future_unref(f);
        CHECK_EQ(test_reports(), 0);
    }
    test_end(loop);
}

TEST(waiting_for_a_failed_future_is_looking, "FUT-10") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_EIO, "seen by the wait"), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_EIO);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), "seen by the wait");
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(done_callback_that_does_not_look_leaves_the_report, "FUT-10") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_EIO, NULL), 0);
    aioloop_future_unref(f);
    CHECK_EQ(test_reports(), 0); /* the queued callback may look */
    test_spin(loop, 1);
    CHECK_STR(log.order, "a");
    CHECK_EQ(test_reports(), 1);
    CHECK(test_report_at(0)->detail[0] == '\0'); /* no message was given */
    test_reports_clear();
    test_end(loop);
}

static int future_left_reports;

static void future_count_left(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    (void)loop;
    (void)arg;
    if (context->future != NULL && context->error == AIOLOOP_EIO)
        future_left_reports++;
}

TEST(freeing_the_loop_reports_failures_that_nobody_saw, "FUT-10 ERR-07") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    aioloop_future *g = future_new(loop);
    aioloop_future *h = future_new(loop);
    CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_EIO, NULL), 0);
    CHECK_EQ(aioloop_future_set_exception(g, AIOLOOP_EIO, NULL), 0);
    CHECK_EQ(aioloop_future_exception(g), AIOLOOP_EIO);
    CHECK(!aioloop_future_done(h));
    future_left_reports = 0;
    aioloop_set_exception_handler(loop, future_count_left, NULL);
    test_end(loop);
    CHECK_EQ(future_left_reports, 1);
}

static void future_claim_reported(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    (void)loop;
    future_left_reports++;
    *(aioloop_future **)arg = aioloop_future_ref(context->future);
}

TEST(handler_may_claim_the_future_it_is_told_of, "FUT-10") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    aioloop_future *kept = NULL;
    future_left_reports = 0;
    aioloop_set_exception_handler(loop, future_claim_reported, &kept);
    CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_EIO, "kept"), 0);
    aioloop_future_unref(f);
    CHECK_EQ(future_left_reports, 1);
    CHECK_PTR(kept, f);
    CHECK_EQ(aioloop_future_exception(kept), AIOLOOP_EIO);
    CHECK_STR(aioloop_error_message(aioloop_future_error(kept)), "kept");
    aioloop_future_unref(kept);
    CHECK_EQ(future_left_reports, 1);
    test_end(loop);
}

TEST(claimed_by_the_handler_it_is_not_reported_again, "FUT-10 ERR-07") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    aioloop_future *kept = NULL;
    future_left_reports = 0;
    aioloop_set_exception_handler(loop, future_claim_reported, &kept);
    CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_EIO, NULL), 0);
    aioloop_future_unref(f);
    CHECK_EQ(future_left_reports, 1);
    CHECK_PTR(kept, f);
    aioloop_future_unref(kept); /* nobody has looked still, but it was told */
    CHECK_EQ(future_left_reports, 1);
    test_end(loop);
}

/* ---- a closed loop ---- */

TEST(finishing_after_the_loop_closed_says_so_and_finishes, "FUT-11") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    aioloop_future *g = future_new(loop);
    aioloop_future *h = future_new(loop);
    aioloop_future *plain = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_add_done_callback(g, future_done, &a), 0);
    CHECK_EQ(aioloop_future_add_done_callback(h, future_done, &a), 0);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK(!aioloop_future_done(f)); /* closing finishes nothing */
    CHECK_EQ(aioloop_future_set_result(f, 6, NULL, NULL), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_future_result(f, NULL), 6);
    CHECK_EQ(aioloop_future_set_result(f, 6, NULL, NULL), AIOLOOP_EINVALIDSTATE);
    CHECK_EQ(aioloop_future_set_exception(g, AIOLOOP_EIO, "after"), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_future_exception(g), AIOLOOP_EIO);
    CHECK(aioloop_future_cancel(h, NULL));
    CHECK(aioloop_future_cancelled(h));
    CHECK_EQ(aioloop_future_set_result(plain, 1, NULL, NULL), 0); /* nobody is to be called */
    CHECK_EQ(aioloop_future_add_done_callback(plain, future_done, &a), AIOLOOP_ECLOSED);
    CHECK_EQ(log.calls, 0);
    aioloop_future_unref(f);
    aioloop_future_unref(g);
    aioloop_future_unref(h);
    aioloop_future_unref(plain);
    test_end(loop);
    CHECK_EQ(log.calls, 0);
}

TEST(queued_callbacks_are_dropped_with_the_loop, "FUT-11") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    future_disposing = &log;
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_set_result(f, 0, &log, future_dispose), 0);
    aioloop_future_unref(f); /* the queued callback is the last that holds it */
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK_EQ(log.calls, 0);
    CHECK_EQ(log.disposed, 1);
    test_end(loop);
    CHECK_EQ(log.disposed, 1);
}

/* ---- whose the result is ---- */

TEST(result_that_nobody_took_is_disposed_of_once, "FUT-04") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_disposing = &log;
    CHECK_EQ(aioloop_future_set_result(f, 4, &log, future_dispose), 0);
    CHECK_EQ(aioloop_future_set_result(f, 4, &log, future_dispose), AIOLOOP_EINVALIDSTATE);
    CHECK_EQ(aioloop_future_result(f, NULL), 4); /* takes nothing */
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), 4);
    CHECK_PTR(aioloop_future_ref(f), f);
    aioloop_future_unref(f);
    CHECK_EQ(log.disposed, 0);
    aioloop_future_unref(f);
    CHECK_EQ(log.disposed, 1);
    test_end(loop);
    CHECK_EQ(log.disposed, 1);
}

TEST(first_taker_owns_the_result, "FUT-04") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    aioloop_future *g = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_log *first = NULL;
    future_log *second = NULL;
    future_disposing = &log;
    CHECK_EQ(aioloop_future_set_result(f, 4, &log, future_dispose), 0);
    CHECK_EQ(aioloop_future_result(f, &first), 4);
    CHECK_EQ(aioloop_future_result(f, &second), 4);
    CHECK_PTR(first, &log);
    CHECK_PTR(second, &log); /* borrowed */
    aioloop_future_unref(f);
    first = NULL;
    CHECK_EQ(aioloop_future_set_result(g, 0, &log, future_dispose), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, g, &first), 0);
    CHECK_PTR(first, &log);
    aioloop_future_unref(g);
    test_end(loop);
    CHECK_EQ(log.disposed, 0);
}

TEST(result_left_in_a_freed_loop_is_disposed_of, "FUT-04") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_disposing = &log;
    CHECK_EQ(aioloop_future_set_result(f, 4, &log, future_dispose), 0);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK_EQ(log.disposed, 0); /* its owner may still read it */
    test_end(loop);
    CHECK_EQ(log.disposed, 1);
}

/* ---- whose the future is ---- */

TEST(unclaimed_future_may_be_dropped_and_its_work_goes_on, "FUT-01") {
    aioloop *loop = test_loop();
    aioloop_server *server = future_server(loop);
    aioloop_future *f = future_waiting(loop, server);
    aioloop_future_unref(f);
    CHECK(aioloop_server_is_serving(server));
    future_server_end(loop, server); /* completes a future that nobody has */
    test_end(loop);
}

TEST(then_is_the_one_use_and_keeps_the_future_until_it_was_called, "FUT-05") {
    aioloop *loop = test_loop();
    aioloop_server *server = future_server(loop);
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    aioloop_future *f = future_waiting(loop, server);
    CHECK_EQ(aioloop_future_then(f, future_done, &a), 0);
    test_spin(loop, 1);
    CHECK_EQ(log.calls, 0);
    future_server_end(loop, server);
    test_run_until(loop, &log.calls, 1, "the callback");
    CHECK_PTR(a.seen, f);
    test_spin(loop, 2);
    CHECK_EQ(log.calls, 1);
    test_end(loop);
}

static void future_read_error(aioloop_future *future, void *arg) {
    *(int *)arg = aioloop_future_exception(future);
}

TEST(then_on_a_failed_future_still_calls, "FUT-06 FUT-10") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_refused(loop);
    int code = 0;
    CHECK_EQ(aioloop_future_then(f, future_read_error, &code), 0);
    CHECK_EQ(code, 0);
    test_spin(loop, 1);
    CHECK_EQ(code, AIOLOOP_EINVAL);
    test_end(loop); /* it looked: no report */
}

TEST(then_that_fails_ends_the_use_too, "FUT-10") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_refused(loop);
    aioloop_server *server = future_server(loop);
    CHECK_EQ(test_reports(), 0);
    CHECK_EQ(aioloop_future_then(f, NULL, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(test_reports(), 1); /* the future went, and nobody had looked */
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EINVAL);
    test_reports_clear();
    f = future_waiting(loop, server);
    CHECK_EQ(aioloop_future_then(f, NULL, NULL), AIOLOOP_EINVAL);
    future_server_end(loop, server); /* the work behind it was not lost */
    test_end(loop);
}

TEST(then_on_a_claimed_future_borrows, "FUT-05") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    CHECK_EQ(aioloop_future_then(f, NULL, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_then(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_then(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_set_result(f, 1, NULL, NULL), 0);
    test_spin(loop, 1);
    CHECK_STR(log.order, "aa");
    CHECK_EQ(aioloop_future_result(f, NULL), 1); /* still there */
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(then_can_be_taken_back, "FUT-07") {
    aioloop *loop = test_loop();
    aioloop_server *server = future_server(loop);
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    aioloop_future *f = future_waiting(loop, server);
    CHECK_EQ(aioloop_future_then(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_remove_done_callback(f, future_done, &a), 1); /* with it goes the hold on the future */
    future_server_end(loop, server);
    CHECK_EQ(log.calls, 0);
    test_end(loop);
}

static void future_stop(aioloop *loop, void *arg) {
    (void)arg;
    aioloop_stop(loop);
}

TEST(claimed_future_can_be_used_many_times, "FUT-04") {
    aioloop *loop = test_loop();
    aioloop_server *server = future_server(loop);
    aioloop_future *f = aioloop_future_ref(future_waiting(loop, server));
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    aioloop_handle h = aioloop_call_soon(loop, future_stop, NULL);
    CHECK(!aioloop_handle_is_null(&h));
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_EMISUSE); /* stopped before it was done */
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(aioloop_future_then(f, future_done, &a), 0);
    aioloop_server_close(server);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), 0);
    CHECK_EQ(aioloop_future_then(f, future_done, &a), 0);
    test_spin(loop, 1);
    CHECK_STR(log.order, "aa");
    CHECK_EQ(aioloop_future_result(f, NULL), 0);
    aioloop_future_unref(f);
    aioloop_server_unref(server);
    test_end(loop);
}

TEST(run_until_complete_ends_the_use_in_every_case, "FUT-10") {
    aioloop *loop = test_loop();
    aioloop *other = test_loop();
    aioloop_server *server = future_server(loop);
    aioloop_handle h;
    CHECK_EQ(aioloop_run_until_complete(loop, future_refused(loop), NULL), AIOLOOP_EINVAL);
    CHECK_EQ(test_reports(), 0); /* it was told */
    CHECK_EQ(aioloop_run_until_complete(loop, future_refused(other), NULL), AIOLOOP_EINVAL);
    CHECK_EQ(test_reports(), 1); /* another loop's: refused, and the future's own error was told to nobody */
    test_reports_clear();
    h = aioloop_call_soon(loop, future_stop, NULL);
    CHECK(!aioloop_handle_is_null(&h));
    CHECK_EQ(aioloop_run_until_complete(loop, future_waiting(loop, server), NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_run_until_complete(loop, NULL, NULL), AIOLOOP_EINVAL);
    future_server_end(loop, server);
    test_end(other);
    test_end(loop);
}

TEST(future_of_an_operation_is_not_the_users_to_finish, "FUT-02") {
    aioloop *loop = test_loop();
    aioloop_server *server = future_server(loop);
    aioloop_future *f = aioloop_future_ref(future_waiting(loop, server));
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    CHECK_EQ(aioloop_future_set_result(f, 1, NULL, NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_EIO, NULL), AIOLOOP_EMISUSE);
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &a), 0);
    CHECK(aioloop_future_cancel(f, "not waiting any more"));
    CHECK(aioloop_future_cancelled(f)); /* at once */
    CHECK(!aioloop_future_cancel(f, "again"));
    CHECK_STR(aioloop_error_message(aioloop_future_error(f)), "not waiting any more");
    CHECK_EQ(log.calls, 0);
    test_spin(loop, 1);
    CHECK_EQ(log.calls, 1);
    CHECK(aioloop_server_is_serving(server));
    aioloop_future_unref(f);
    future_server_end(loop, server);
    CHECK_EQ(log.calls, 1);
    test_end(loop);
}

TEST(cancel_of_what_must_end_first_is_kept_until_then, "FUT-09") {
    aioloop *loop = test_loop();
    aioloop_server *server;
    test_peer inside = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    aioloop_future *f;
    aioloop_transport *t;
    int port = 0;
    server = test_serve(loop, &test_protocol, &inside, &port);
    t = test_dial(loop, &test_protocol, &client, port);
    test_run_until(loop, &inside.made, 1, "the server's end");
    f = aioloop_future_ref(aioloop_server_serve_forever(server));
    CHECK_PTR(aioloop_future_get_loop(f), loop);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &a), 0);
    CHECK(aioloop_future_cancel(f, "closing time"));
    test_spin(loop, 2);
    CHECK(!aioloop_future_done(f)); /* a connection lives */
    aioloop_transport_close(t);
    test_run_until(loop, &log.calls, 1, "the end of serving");
    CHECK(aioloop_future_cancelled(f));
    CHECK_STR(aioloop_error_message(aioloop_future_error(f)), "closing time");
    CHECK(!aioloop_future_cancel(f, NULL));
    test_run_until(loop, &client.lost, 1, "the client's loss");
    aioloop_future_unref(f);
    aioloop_transport_unref(t);
    test_peer_drop(&client);
    test_peer_drop(&inside);
    aioloop_server_unref(server);
    test_end(loop);
}

static void future_cancel_mate(aioloop_future *future, void *arg) {
    future_pair *pair = (future_pair *)arg;
    (void)future;
    future_note(pair->mark.log, 'c');
    aioloop_future_cancel(pair->first, NULL);
    aioloop_future_unref(pair->first);
    aioloop_server_close((aioloop_server *)pair->mark.seen);
}

TEST(callback_may_cancel_and_drop_an_operation, "FUT-09") {
    aioloop *loop = test_loop();
    aioloop_server *server = future_server(loop);
    aioloop_future *f = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_mark b = future_mark_of(&log, 'b');
    future_pair pair;
    pair.first = aioloop_future_ref(future_waiting(loop, server));
    pair.mark = future_mark_of(&log, ' ');
    pair.mark.seen = (aioloop_future *)(void *)server;
    CHECK_EQ(aioloop_future_add_done_callback(pair.first, future_done, &b), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_cancel_mate, &pair), 0);
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0);
    test_spin(loop, 1);
    CHECK_STR(log.order, "c");
    test_spin(loop, 1);
    CHECK_STR(log.order, "cb");
    aioloop_future_unref(f);
    aioloop_server_unref(server);
    test_spin(loop, 4);
    CHECK_STR(log.order, "cb");
    test_end(loop);
}

TEST(operation_pending_when_the_loop_closed_can_still_be_cancelled, "FUT-09 FUT-11") {
    aioloop *loop = test_loop();
    aioloop_server *server = future_server(loop);
    aioloop_future *f = aioloop_future_ref(future_waiting(loop, server));
    aioloop_future *g = aioloop_future_ref(
        aioloop_create_connection(loop, &test_protocol, NULL, "127.0.0.1", 9, NULL)); /* refused, if it gets that far */
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK(aioloop_future_cancel(f, NULL) == (aioloop_future_exception(f) == AIOLOOP_ECANCELED));
    CHECK(aioloop_future_done(f));
    aioloop_future_cancel(g, NULL);
    CHECK(aioloop_future_done(g));
    aioloop_future_unref(f);
    aioloop_future_unref(g);
    aioloop_server_unref(server);
    test_end(loop);
}

/* ---- static failed futures ---- */

static void future_check_static(aioloop *loop, aioloop_future *f, int code) {
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    int thing = 0;
    int *out = &thing;
    int i;
    CHECK(f != NULL);
    CHECK(aioloop_future_done(f));
    CHECK(!aioloop_future_cancelled(f));
    CHECK(aioloop_future_get_loop(f) == NULL);
    CHECK_PTR(aioloop_future_ref(f), f);
    for (i = 0; i < 3; i++)
        aioloop_future_unref(f); /* counts nothing */
    CHECK_EQ(aioloop_future_result(f, &out), code);
    CHECK_PTR(out, &thing);
    CHECK_EQ(aioloop_future_exception(f), code);
    CHECK_EQ(aioloop_error_code(aioloop_future_error(f)), code);
    CHECK_STR(aioloop_error_message(aioloop_future_error(f)), aioloop_strerror(code));
    CHECK_EQ(aioloop_future_set_result(f, 1, NULL, NULL), AIOLOOP_EINVALIDSTATE);
    CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_EIO, NULL), AIOLOOP_EINVALIDSTATE);
    CHECK(!aioloop_future_cancel(f, "no"));
    CHECK(!aioloop_future_cancelled(f));
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &a), code);
    CHECK_EQ(aioloop_future_add_done_callback_context(f, future_done, &a, NULL), code);
    CHECK_EQ(aioloop_future_then(f, future_done, &a), code);
    CHECK_EQ(aioloop_future_remove_done_callback(f, future_done, &a), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, f, &out), code);
    CHECK_PTR(out, &thing);
    CHECK_EQ(log.calls, 0);
    CHECK_EQ(aioloop_future_exception(f), code); /* as before */
}

TEST(calls_that_cannot_make_a_future_give_a_failed_one, "FUT-01 FUT-02") {
    aioloop *loop = test_loop();
    future_check_static(loop, aioloop_create_future(NULL), AIOLOOP_EINVAL);
    future_check_static(loop, aioloop_create_connection(loop, NULL, NULL, "127.0.0.1", 1, NULL), AIOLOOP_EINVAL);
    future_check_static(loop, aioloop_server_wait_closed(NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_close(loop), 0);
    future_check_static(loop, aioloop_create_connection(loop, &test_protocol, NULL, "127.0.0.1", 1, NULL),
                        AIOLOOP_ECLOSED);
    test_end(loop);
}

/* ---- no memory ---- */

static bool future_no_memory;

static void *future_allocate(void *context, void *pointer, size_t old_size, size_t new_size) {
    (void)context;
    (void)old_size;
    if (new_size == 0) {
        test_free(pointer);
        return NULL;
    }
    if (future_no_memory)
        return NULL;
    return pointer == NULL ? test_malloc(new_size) : test_realloc(pointer, new_size);
}

static aioloop *future_scarce_loop(void) {
    aioloop_config config = AIOLOOP_ZERO;
    aioloop_allocator allocator;
    allocator.allocate = future_allocate;
    allocator.context = NULL;
    config.allocator = &allocator;
    future_no_memory = false;
    return test_loop_with(&config);
}

TEST(without_memory_a_future_has_failed_already, "FUT-01") {
    aioloop *loop = future_scarce_loop();
    aioloop_future *f;
    future_no_memory = true;
    f = aioloop_create_future(loop);
    future_check_static(loop, f, AIOLOOP_ENOMEM);
    future_no_memory = false;
    test_end(loop);
}

TEST(callbacks_that_cannot_be_registered_say_so, "FUT-05") {
    aioloop *loop = future_scarce_loop();
    aioloop_future *f = future_new(loop); /* the first slot of the loop is yet to come */
    aioloop_future *refused = future_refused(loop);
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    int added;
    int then;
    future_no_memory = true;
    added = aioloop_future_add_done_callback(f, future_done, &a);
    then = aioloop_future_then(refused, future_done, &a);
    future_no_memory = false;
    CHECK_EQ(added, AIOLOOP_ENOMEM);
    CHECK_EQ(then, AIOLOOP_ENOMEM);
    CHECK_EQ(test_reports(), 1); /* the unclaimed one's use has ended */
    test_reports_clear();
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0);
    test_spin(loop, 2);
    CHECK_EQ(log.calls, 0);
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(completing_needs_no_memory, "FUT-01 FUT-04 FUT-05") {
    aioloop *loop = future_scarce_loop();
    aioloop_future *f = future_new(loop);
    aioloop_future *g = future_new(loop);
    aioloop_future *h = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    future_mark b = future_mark_of(&log, 'b');
    future_mark c = future_mark_of(&log, 'c');
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &a), 0);
    CHECK_EQ(aioloop_future_add_done_callback(g, future_done, &b), 0);
    CHECK_EQ(aioloop_future_add_done_callback(h, future_done, &c), 0);
    future_no_memory = true;
    CHECK_EQ(aioloop_future_set_result(f, 1, NULL, NULL), 0);
    CHECK_EQ(aioloop_future_set_exception(g, AIOLOOP_EIO, "a message there is no room for"), 0);
    CHECK(aioloop_future_cancel(h, "nor for this"));
    test_spin(loop, 1);
    CHECK_STR(log.order, "abc");
    CHECK_EQ(aioloop_future_exception(g), AIOLOOP_EIO);
    CHECK(aioloop_future_error(g) != NULL); /* whatever it says */
    CHECK_EQ(aioloop_future_exception(h), AIOLOOP_ECANCELED);
    future_no_memory = false;
    CHECK_EQ(aioloop_error_code(aioloop_future_error(g)), AIOLOOP_EIO);
    CHECK_STR(aioloop_error_message(aioloop_future_error(h)), aioloop_strerror(AIOLOOP_ECANCELED));
    aioloop_future_unref(f);
    aioloop_future_unref(g);
    aioloop_future_unref(h);
    test_end(loop);
}

/* ---- operations ---- */

TEST(operation_that_lets_go_first_leaves_the_future_unclaimed, "") {
    aioloop *loop = test_loop();
    future_log log = AIOLOOP_ZERO;
    aioloop_future *f = aioloop_create_operation(loop, NULL, NULL);
    CHECK_PTR(aioloop_future_get_loop(f), loop);
    future_disposing = &log;
    CHECK_EQ(aioloop_future_set_result(f, 7, &log, future_dispose), 0);
    aioloop_future_unref(f);
    CHECK_EQ(log.disposed, 0);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), 7); /* its one use, which ends it */
    CHECK_EQ(log.disposed, 1);
    f = aioloop_create_operation(loop, NULL, NULL);
    CHECK_EQ(aioloop_future_set_result(f, 7, &log, future_dispose), 0);
    aioloop_future_unref(f);
    aioloop_future_unref(f); /* or dropped */
    CHECK_EQ(log.disposed, 2);
    test_end(loop);
}

TEST(future_of_another_loop_is_not_copied, "") {
    aioloop *loop = test_loop();
    aioloop *other = test_loop();
    aioloop_future *target = future_new(loop);
    aioloop_future *source = future_new(other);
    CHECK_EQ(aioloop_future_set_result(source, 1, NULL, NULL), 0);
    CHECK_EQ(aioloop_future_copy(target, source), AIOLOOP_EINVAL);
    CHECK(!aioloop_future_done(target));
    CHECK_EQ(aioloop_future_copy(target, aioloop_create_future(NULL)), 0); /* what failed statically belongs to none */
    CHECK_EQ(aioloop_future_exception(target), AIOLOOP_EINVAL);
    aioloop_future_unref(target);
    aioloop_future_unref(source);
    test_end(other);
    test_end(loop);
}

/* ---- fatal ---- */

TEST(fatal_done_callback_ends_the_run_and_keeps_the_rest, "FUT-08") {
    aioloop *loop = test_loop();
    aioloop_future *f = future_new(loop);
    future_log log = AIOLOOP_ZERO;
    future_mark a = future_mark_of(&log, 'a');
    future_mark b = future_mark_of(&log, 'b');
    a.code = AIOLOOP_EFATAL;
    CHECK_EQ(aioloop_future_add_done_callback(f, future_failing, &a), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, future_done, &b), 0);
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0);
    CHECK_EQ(aioloop_run_forever(loop), AIOLOOP_EFATAL);
    CHECK_STR(log.order, "a");
    test_spin(loop, 1);
    CHECK_STR(log.order, "ab");
    aioloop_future_unref(f);
    test_end(loop); /* a fatal error is not reported */
}
