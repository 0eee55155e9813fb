/*
 * test_loop.c - finding loops, running and stopping them, one iteration, call_soon, handles, and which back end it is.
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#if defined(__linux__) && defined(__x86_64__)
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#endif
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Back ends that this build has; the program may have been compiled with fewer than the system offers. */
#ifdef AIOLOOP_BACKENDS
#define LOOP_HAS(bit) (((AIOLOOP_BACKENDS) & (bit)) != 0)
#elif defined(__linux__)
#define LOOP_HAS(bit) ((bit) != 0)
#else
#define LOOP_HAS(bit) ((bit) != AIOLOOP_BACKEND_EPOLL)
#endif

/* Without threads there are no posts, but to the loop that runs. */
#if defined(AIOLOOP_USE_THREADS) && AIOLOOP_USE_THREADS == 0
#define LOOP_POSTS 0
#else
#define LOOP_POSTS 1
#endif

/* ---- what the tests share: a line of letters that says what ran in which order ---- */

static char loop_log[512];

static aioloop *loop_begin(void) {
    loop_log[0] = '\0';
    return test_loop();
}

static void loop_note(char letter) {
    size_t n = strlen(loop_log);
    if (n + 1 < sizeof(loop_log)) {
        loop_log[n] = letter;
        loop_log[n + 1] = '\0';
    }
}

#define LOOP_LETTER(c) ((void *)(uintptr_t)(c))

static void loop_letter(aioloop *loop, void *arg) {
    (void)loop;
    loop_note((char)(uintptr_t)arg);
}

static void loop_stop(aioloop *loop, void *arg) {
    (void)arg;
    loop_note('!');
    aioloop_stop(loop);
}

static aioloop_handle loop_soon(aioloop *loop, aioloop_callback fn, void *arg) {
    aioloop_handle h = aioloop_call_soon(loop, fn, arg);
    CHECK(!aioloop_handle_is_null(&h));
    return h;
}

static aioloop_timer_handle loop_later(aioloop *loop, aioloop_time delay, aioloop_callback fn, void *arg) {
    aioloop_timer_handle h = aioloop_call_later(loop, delay, fn, arg);
    CHECK(!aioloop_handle_is_null(&h.handle));
    return h;
}

static aioloop_handle loop_post(aioloop *loop, aioloop_callback fn, void *arg) {
    aioloop_handle h = LOOP_POSTS ? aioloop_call_soon_threadsafe(loop, fn, arg) : aioloop_call_soon(loop, fn, arg);
    CHECK(!aioloop_handle_is_null(&h));
    return h;
}

/* Runs until a stop that is queued behind all that is queued now. */
static void loop_run_to_stop(aioloop *loop) {
    loop_soon(loop, loop_stop, NULL);
    CHECK_EQ(aioloop_run_forever(loop), 0);
}

/* ---- GET: finding loops ---- */

/* GET-04's test needs a thread that never set a loop: without processes of their own tests share the thread. */
static bool loop_was_set;

static void loop_set_current(aioloop *loop) {
    loop_was_set = true;
    aioloop_set_event_loop(loop);
}

static int loop_found_itself;

static void loop_find(aioloop *loop, void *arg) {
    (void)arg;
    if (aioloop_get_running_loop() == loop && aioloop_get_event_loop() == loop)
        loop_found_itself++;
}

static void loop_find_in_future(aioloop_future *future, void *arg) {
    loop_find(aioloop_future_get_loop(future), arg);
}

static void loop_find_in_protocol(aioloop_transport *transport, void *self) {
    loop_find(aioloop_transport_get_loop(transport), self);
}

TEST(loop_running_one_is_told_inside_everything_it_calls, "GET-01") {
    aioloop *loop = loop_begin();
    aioloop_protocol protocol = AIOLOOP_ZERO;
    aioloop_transport *t = NULL;
    aioloop_future *f;
    test_peer far = AIOLOOP_ZERO;
    aioloop_socket s[2];
    aioloop_socket fed;
    int before;
    loop_found_itself = 0;
    CHECK_PTR(aioloop_get_running_loop(), NULL);
    loop_soon(loop, loop_find, NULL);
    loop_later(loop, 0, loop_find, NULL);
    f = aioloop_create_future(loop);
    CHECK_EQ(aioloop_future_add_done_callback(f, loop_find_in_future, NULL), 0);
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0);
    aioloop_future_unref(f);
    test_run_until(loop, &loop_found_itself, 3, "callback, timer and done-callback");
    protocol.connection_made = loop_find_in_protocol;
    test_socketpair(loop, s);
    f = aioloop_connect_accepted_socket(loop, &protocol, NULL, s[0], NULL);
    CHECK_EQ(aioloop_run_until_complete(loop, f, &t), 0);
    test_forget_socket(s[0]); /* the transport's now */
    CHECK_EQ(loop_found_itself, 4);
    aioloop_transport_abort(t);
    aioloop_transport_unref(t);
    test_close_socket(loop, s[1]);
    fed = test_feed(loop, &far);
    before = loop_found_itself;
    CHECK_EQ(aioloop_add_reader(loop, fed, loop_find, NULL), 0);
    test_run_until(loop, &loop_found_itself, before + 1, "the watcher");
    CHECK_EQ(aioloop_remove_reader(loop, fed), 1);
    CHECK_PTR(aioloop_get_running_loop(), NULL);
    test_feed_end(loop, fed, &far);
    test_end(loop);
}

static void loop_find_current(aioloop *loop, void *arg) {
    (void)loop;
    *(aioloop **)arg = aioloop_get_event_loop();
}

TEST(loop_running_one_is_current_whatever_was_set, "GET-02") {
    aioloop *loop = loop_begin();
    aioloop *other = test_loop();
    aioloop *inside = NULL;
    loop_set_current(other);
    loop_soon(loop, loop_find_current, &inside);
    test_spin(loop, 1);
    CHECK_PTR(inside, loop);
    CHECK_PTR(aioloop_get_event_loop(), other);
    loop_set_current(NULL);
    inside = NULL;
    loop_soon(loop, loop_find_current, &inside);
    test_spin(loop, 1);
    CHECK_PTR(inside, loop);
    test_end(other);
    test_end(loop);
}

TEST(loop_current_one_is_what_was_set_last, "GET-03 GET-05") {
    aioloop *a = loop_begin();
    aioloop *b;
    loop_set_current(a);
    b = test_loop();
    CHECK_PTR(aioloop_get_event_loop(), a); /* making one does not set it */
    loop_set_current(b);
    CHECK_PTR(aioloop_get_event_loop(), b);
    CHECK_PTR(aioloop_get_event_loop(), b);
    loop_set_current(a);
    test_end(b); /* not the current one: stays set */
    CHECK_PTR(aioloop_get_event_loop(), a);
    loop_set_current(NULL);
    CHECK_PTR(aioloop_get_event_loop(), NULL); /* none is made any more */
    loop_set_current(a);
    CHECK_EQ(aioloop_close(a), 0);
    CHECK_PTR(aioloop_get_event_loop(), a); /* closed is not freed */
    test_end(a);
    CHECK_PTR(aioloop_get_event_loop(), NULL);
}

TEST(loop_first_thread_gets_one_made, "GET-04") {
    aioloop *other;
    aioloop *loop;
    aioloop *again;
    aioloop *after;
    int ran = 0;
    int err;
    if (loop_was_set)
        SKIP("an earlier test of this process has set a loop");
    other = test_loop(); /* making one is not setting one, and this is still the first thread */
    loop = aioloop_get_event_loop();
    CHECK(loop != NULL);
    loop_was_set = true;
    again = aioloop_get_event_loop();
    err = aioloop_run_once(loop, 0);
    ran = aioloop_is_closed(loop) ? 0 : 1;
    aioloop_free(loop);
    after = aioloop_get_event_loop(); /* it was set, so another one is not made */
    CHECK(loop != other);
    CHECK_PTR(again, loop);
    CHECK_GE(err, 0);
    CHECK_EQ(ran, 1);
    CHECK_PTR(after, NULL);
    test_end(other);
}

/* ---- RUN: running and stopping ---- */

TEST(loop_runs_until_it_is_stopped_and_no_longer, "RUN-01") {
    aioloop *loop = loop_begin();
    aioloop_time start = aioloop_now(loop);
    loop_soon(loop, loop_letter, LOOP_LETTER('a'));
    loop_later(loop, AIOLOOP_MS(2), loop_letter, LOOP_LETTER('b'));
    loop_later(loop, AIOLOOP_MS(4), loop_stop, NULL);
    loop_later(loop, AIOLOOP_MS(3600000), loop_letter, LOOP_LETTER('c'));
    CHECK_EQ(aioloop_run_forever(loop), 0);
    CHECK_STR(loop_log, "ab!");
    CHECK_GE(aioloop_now(loop) - start, AIOLOOP_MS(4));
    test_end(loop);
}

static void loop_letter_and_more(aioloop *loop, void *arg) {
    loop_letter(loop, arg);
    loop_soon(loop, loop_letter, LOOP_LETTER((char)(uintptr_t)arg - 'a' + 'A'));
}

TEST(loop_stopped_before_the_run_makes_one_pass, "RUN-02") {
    aioloop *loop = loop_begin();
    aioloop_time start;
    test_peer far = AIOLOOP_ZERO;
    aioloop_socket fed = test_feed(loop, &far);
    bool real = !test_simulated(loop); /* simulated results may come iterations late */
    start = aioloop_now(loop);
    loop_soon(loop, loop_letter_and_more, LOOP_LETTER('a'));
    loop_soon(loop, loop_letter, LOOP_LETTER('b'));
    loop_later(loop, AIOLOOP_MS(3600000), loop_letter, LOOP_LETTER('t'));
    loop_later(loop, 0, loop_letter, LOOP_LETTER('z'));
    if (real)
        CHECK_EQ(aioloop_add_reader(loop, fed, loop_letter, LOOP_LETTER('i')), 0);
    aioloop_stop(loop);
    CHECK_EQ(aioloop_run_forever(loop), 0);
    CHECK_STR(loop_log, real ? "abiz" : "abz");
    CHECK_LT(aioloop_now(loop) - start, AIOLOOP_MS(3600000)); /* it did not wait */
    aioloop_remove_reader(loop, fed);
    aioloop_stop(loop);
    CHECK_EQ(aioloop_run_forever(loop), 0);
    CHECK_STR(loop_log, real ? "abizA" : "abzA");
    aioloop_stop(loop); /* nothing to do at all: still one pass, still no waiting */
    CHECK_EQ(aioloop_run_forever(loop), 0);
    test_feed_end(loop, fed, &far);
    test_end(loop);
}

static void loop_stop_and_more(aioloop *loop, void *arg) {
    (void)arg;
    loop_note('s');
    aioloop_stop(loop);
    loop_soon(loop, loop_letter, LOOP_LETTER('x'));
    loop_later(loop, 0, loop_letter, LOOP_LETTER('z'));
}

TEST(loop_stopped_in_a_run_finishes_the_batch, "RUN-03") {
    aioloop *loop = loop_begin();
    loop_soon(loop, loop_letter_and_more, LOOP_LETTER('a'));
    loop_soon(loop, loop_stop_and_more, NULL);
    loop_soon(loop, loop_letter_and_more, LOOP_LETTER('b'));
    loop_later(loop, 0, loop_letter, LOOP_LETTER('t')); /* due in the same pass */
    CHECK_EQ(aioloop_run_forever(loop), 0);
    CHECK_STR(loop_log, "asbt");
    loop_soon(loop, loop_letter, LOOP_LETTER('y'));
    aioloop_stop(loop);
    CHECK_EQ(aioloop_run_forever(loop), 0);
    CHECK_STR(loop_log, "asbtAxByz"); /* in the order they were queued, the due timer last */
    test_end(loop);
}

static void loop_three_passes(aioloop *loop, void *arg) {
    int *left = (int *)arg;
    if (--*left == 0)
        aioloop_stop(loop);
    else
        loop_soon(loop, loop_three_passes, arg);
}

/* A run that must make three passes by itself. */
static void loop_check_full_run(aioloop *loop) {
    int left = 3;
    loop_soon(loop, loop_three_passes, &left);
    CHECK_EQ(aioloop_run_forever(loop), 0);
    CHECK_EQ(left, 0);
}

static void loop_finish_and_stop(aioloop *loop, void *arg) {
    CHECK_EQ(aioloop_future_set_result((aioloop_future *)arg, 7, NULL, NULL), 0);
    aioloop_stop(loop);
}

TEST(loop_stop_requests_end_exactly_one_run, "RUN-04") {
    aioloop *loop = loop_begin();
    aioloop_future *f;
    aioloop_stop(loop);
    aioloop_stop(loop);
    aioloop_stop(loop);
    CHECK_EQ(aioloop_run_forever(loop), 0);
    loop_check_full_run(loop);
    loop_soon(loop, loop_stop, NULL);
    loop_soon(loop, loop_stop, NULL);
    CHECK_EQ(aioloop_run_forever(loop), 0);
    CHECK_STR(loop_log, "!!");
    loop_check_full_run(loop);
    aioloop_stop(loop);
    CHECK_GE(aioloop_run_once(loop, AIOLOOP_FOREVER), 0); /* the request ends the one iteration's wait, too */
    loop_check_full_run(loop);
    f = aioloop_create_future(loop);
    loop_soon(loop, loop_finish_and_stop, f);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), 7);
    loop_check_full_run(loop); /* what the last run was waiting for does not stop this one */
    aioloop_future_unref(f);
    test_end(loop);
}

typedef struct loop_chain {
    aioloop_time delay; /* of the timer */
    int passes;
    bool timers; /* one more in each pass */
} loop_chain;

/* Keeps itself queued. */
static void loop_busy(aioloop *loop, void *arg) {
    loop_chain *c = (loop_chain *)arg;
    loop_note('s');
    if (++c->passes >= 150)
        return;
    loop_soon(loop, loop_busy, c);
    if (c->timers) {
        aioloop_timer_handle t = aioloop_call_at(loop, 0, loop_letter, LOOP_LETTER('t'));
        CHECK(!aioloop_handle_is_null(&t.handle));
    }
}

TEST(loop_pass_runs_queued_then_io_then_timers, "RUN-05") {
    aioloop *loop = loop_begin();
    loop_chain chain = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_socket fed = test_feed(loop, &far);
    chain.timers = true;
    CHECK_EQ(aioloop_add_reader(loop, fed, loop_letter, LOOP_LETTER('i')), 0);
    loop_soon(loop, loop_busy, &chain);
    loop_later(loop, 0, loop_letter, LOOP_LETTER('t'));
    test_run_until(loop, &chain.passes, 60, "the chain");
    CHECK(strstr(loop_log, "sit") != NULL);
    CHECK(strstr(loop_log, "ist") == NULL);
    CHECK(strstr(loop_log, "sti") == NULL);
    CHECK(strstr(loop_log, "tis") == NULL);
    CHECK(strstr(loop_log, "ts") != NULL);
    CHECK(strstr(loop_log, "ss") == NULL);
    CHECK_EQ(aioloop_remove_reader(loop, fed), 1);
    test_feed_end(loop, fed, &far);
    test_end(loop);
}

static void loop_count(aioloop *loop, void *arg) {
    (void)loop;
    ++*(int *)arg;
}

static void loop_busy_quietly(aioloop *loop, void *arg) {
    ++*(int *)arg;
    loop_soon(loop, loop_busy_quietly, arg);
}

TEST(loop_busy_chain_starves_neither_watchers_nor_timers, "RUN-06") {
    aioloop *loop = loop_begin();
    test_peer far = AIOLOOP_ZERO;
    aioloop_socket fed = test_feed(loop, &far);
    int chain = 0;
    int read = 0;
    int timer = 0;
    loop_soon(loop, loop_busy_quietly, &chain);
    CHECK_EQ(aioloop_add_reader(loop, fed, loop_count, &read), 0);
    /* Simulated time passes only while nobody is busy. */
    loop_later(loop, test_simulated(loop) ? 0 : AIOLOOP_MS(2), loop_count, &timer);
    test_run_until(loop, &read, 3, "the watcher");
    test_run_until(loop, &timer, 1, "the timer");
    CHECK_GT(chain, 0);
    CHECK_EQ(aioloop_remove_reader(loop, fed), 1);
    test_feed_end(loop, fed, &far);
    test_end(loop);
}

static int loop_object;

static void loop_set_value(aioloop *loop, void *arg) {
    (void)loop;
    CHECK_EQ(aioloop_future_set_result((aioloop_future *)arg, INT64_C(1) << 40, &loop_object, NULL), 0);
}

static void loop_set_error(aioloop *loop, void *arg) {
    (void)loop;
    CHECK_EQ(aioloop_future_set_exception((aioloop_future *)arg, AIOLOOP_EPIPE, "pipe %d burst", 3), 0);
}

static void loop_cancel_future(aioloop *loop, void *arg) {
    (void)loop;
    CHECK(aioloop_future_cancel((aioloop_future *)arg, "enough"));
}

TEST(loop_run_until_complete_hands_out_what_the_future_has, "RUN-07") {
    aioloop *loop = loop_begin();
    aioloop_future *f = aioloop_create_future(loop);
    int *out = NULL;
    loop_later(loop, AIOLOOP_MS(2), loop_set_value, f);
    CHECK(aioloop_run_until_complete(loop, f, &out) == INT64_C(1) << 40);
    CHECK_PTR(out, &loop_object);
    aioloop_future_unref(f);

    f = aioloop_create_future(loop);
    out = NULL;
    loop_soon(loop, loop_set_error, f);
    CHECK_EQ(aioloop_run_until_complete(loop, f, &out), AIOLOOP_EPIPE);
    CHECK_PTR(out, NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EPIPE);
    if (!test_injected())
        CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), "pipe 3 burst");
    aioloop_future_unref(f);

    f = aioloop_create_future(loop);
    loop_soon(loop, loop_cancel_future, f);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_ECANCELED);
    CHECK(aioloop_future_cancelled(f));
    aioloop_future_unref(f);
    CHECK(!aioloop_is_running(loop));
    test_end(loop);
}

TEST(loop_run_until_complete_of_a_finished_future_is_one_pass, "RUN-09") {
    aioloop *loop = loop_begin();
    aioloop_future *f = aioloop_create_future(loop);
    CHECK_EQ(aioloop_future_set_result(f, 3, NULL, NULL), 0);
    loop_soon(loop, loop_letter_and_more, LOOP_LETTER('a'));
    loop_soon(loop, loop_letter, LOOP_LETTER('b'));
    loop_later(loop, AIOLOOP_MS(3600000), loop_letter, LOOP_LETTER('t'));
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), 3);
    CHECK_STR(loop_log, "ab");
    test_spin(loop, 1);
    CHECK_STR(loop_log, "abA");
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(loop_run_until_complete_that_is_stopped_leaves_the_future_usable, "RUN-10") {
    aioloop *loop = loop_begin();
    aioloop_future *f = aioloop_create_future(loop);
    int *out = NULL;
    loop_soon(loop, loop_stop, NULL);
    CHECK_EQ(aioloop_run_until_complete(loop, f, &out), AIOLOOP_EMISUSE);
    CHECK(strstr(aioloop_error_message(aioloop_last_error(loop)), "stopped before") != NULL);
    CHECK_PTR(out, NULL);
    CHECK(!aioloop_future_done(f));
    loop_soon(loop, loop_set_value, f);
    CHECK(aioloop_run_until_complete(loop, f, &out) > 0);
    CHECK_PTR(out, &loop_object);
    aioloop_future_unref(f);
    loop_check_full_run(loop);
    test_end(loop);
}

TEST(loop_refuses_to_await_what_is_not_its_own, "RUN-11") {
    aioloop *loop = loop_begin();
    aioloop *other = test_loop();
    aioloop_future *f = aioloop_create_future(other);
    loop_soon(loop, loop_letter, LOOP_LETTER('a'));
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_EINVAL);
    CHECK(strstr(aioloop_error_message(aioloop_last_error(loop)), "another loop") != NULL);
    CHECK_EQ(aioloop_run_until_complete(loop, NULL, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_until_complete(NULL, f, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_future(NULL), NULL), AIOLOOP_EINVAL);
    CHECK_STR(loop_log, ""); /* nothing has run */
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(aioloop_future_set_result(f, 1, NULL, NULL), 0);
    CHECK_EQ(aioloop_run_until_complete(other, f, NULL), 1);
    aioloop_future_unref(f);
    test_spin(loop, 1);
    CHECK_STR(loop_log, "a");
    test_end(other);
    test_end(loop);
}

typedef struct loop_inner {
    aioloop *other;
    aioloop_future *mine;
    aioloop_future *others;
    int results[8];
    bool still_running;
} loop_inner;

static void loop_run_inside(aioloop *loop, void *arg) {
    loop_inner *in = (loop_inner *)arg;
    in->results[0] = aioloop_run_forever(loop);
    in->results[1] = aioloop_run_once(loop, 0);
    in->results[2] = (int)aioloop_run_until_complete(loop, in->mine, NULL);
    in->results[3] = aioloop_run_forever(in->other);
    in->results[4] = aioloop_run_once(in->other, 0);
    in->results[5] = (int)aioloop_run_until_complete(in->other, in->others, NULL);
    in->results[6] = aioloop_close(loop);
    in->results[7] = aioloop_free(loop);
    in->still_running =
        aioloop_is_running(loop) && !aioloop_is_running(in->other) && aioloop_get_running_loop() == loop;
    loop_note('r');
}

TEST(loop_cannot_run_inside_a_run, "RUN-12 RUN-15") {
    aioloop *loop = loop_begin();
    loop_inner in = AIOLOOP_ZERO;
    int left = 3;
    int i;
    in.other = test_loop();
    in.mine = aioloop_create_future(loop);
    in.others = aioloop_create_future(in.other);
    loop_soon(in.other, loop_letter, LOOP_LETTER('o'));
    loop_soon(loop, loop_run_inside, &in);
    loop_soon(loop, loop_letter_and_more, LOOP_LETTER('b'));
    loop_soon(loop, loop_three_passes, &left);
    CHECK_EQ(aioloop_run_forever(loop), 0);
    CHECK_EQ(left, 0);
    for (i = 0; i < 8; i++)
        CHECK_EQ(in.results[i], AIOLOOP_EMISUSE);
    CHECK(in.still_running);
    CHECK_STR(loop_log, "rbB"); /* the outer run went on, the other loop did not move */
    CHECK(!aioloop_is_closed(loop));
    CHECK(!aioloop_future_done(in.mine));
    test_spin(in.other, 1);
    CHECK_STR(loop_log, "rbBo");
    aioloop_future_unref(in.mine);
    aioloop_future_unref(in.others);
    test_end(in.other);
    test_end(loop);
}

static void loop_fatal(aioloop *loop, void *arg) {
    (void)arg;
    loop_note('F');
    aioloop_raise(loop, AIOLOOP_EFATAL, "over");
}

static void loop_fatal_future(aioloop_future *future, void *arg) {
    loop_fatal(aioloop_future_get_loop(future), arg);
}

TEST(loop_fatal_error_ends_the_run_and_keeps_the_rest, "RUN-13") {
    aioloop *loop = loop_begin();
    loop_soon(loop, loop_letter_and_more, LOOP_LETTER('a'));
    loop_soon(loop, loop_fatal, NULL);
    loop_soon(loop, loop_letter, LOOP_LETTER('b'));
    loop_soon(loop, loop_letter, LOOP_LETTER('c'));
    loop_later(loop, 0, loop_letter, LOOP_LETTER('t'));
    CHECK_EQ(aioloop_run_forever(loop), AIOLOOP_EFATAL);
    CHECK_STR(loop_log, "aF");
    CHECK(!aioloop_is_closed(loop));
    CHECK(!aioloop_is_running(loop));
    CHECK_PTR(aioloop_get_running_loop(), NULL);
    CHECK_EQ(test_reports(), 0); /* it went to the caller, not to the handler */
    loop_soon(loop, loop_letter, LOOP_LETTER('d'));
    test_spin(loop, 1);
    /* What was left of that pass comes first, its due timers too, then what was queued during and after it. */
    CHECK_STR(loop_log, "aFbctAd");
    loop_check_full_run(loop);
    test_end(loop);
}

TEST(loop_fatal_error_ends_every_kind_of_run, "RUN-13 RUN-14") {
    aioloop *loop = loop_begin();
    aioloop_future *f = aioloop_create_future(loop);
    test_peer far = AIOLOOP_ZERO;
    aioloop_socket fed;
    int err;
    int i;
    loop_soon(loop, loop_fatal, NULL);
    loop_soon(loop, loop_letter, LOOP_LETTER('a'));
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_EFATAL);
    CHECK(!aioloop_future_done(f));
    CHECK(!aioloop_is_running(loop));
    CHECK_STR(loop_log, "F");
    loop_soon(loop, loop_fatal, NULL);
    CHECK_EQ(aioloop_run_once(loop, 0), AIOLOOP_EFATAL); /* 'a' is run before it */
    CHECK_STR(loop_log, "FaF");
    CHECK(!aioloop_is_running(loop));

    loop_log[0] = '\0'; /* in timers */
    loop_later(loop, AIOLOOP_MS(-2), loop_letter, LOOP_LETTER('1'));
    loop_later(loop, AIOLOOP_MS(-1), loop_fatal, NULL);
    loop_later(loop, 0, loop_letter, LOOP_LETTER('2'));
    CHECK_EQ(aioloop_run_once(loop, 0), AIOLOOP_EFATAL);
    CHECK_STR(loop_log, "1F");
    test_spin(loop, 1);
    CHECK_STR(loop_log, "1F2");

    loop_log[0] = '\0'; /* in done-callbacks; the future is done and its result still handed out next time */
    CHECK_EQ(aioloop_future_add_done_callback(f, loop_fatal_future, NULL), 0);
    loop_soon(loop, loop_set_value, f);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_EFATAL);
    CHECK_STR(loop_log, "F");
    loop_check_full_run(loop); /* the end of the run that was waited for does not end this one */
    CHECK(aioloop_run_until_complete(loop, f, NULL) > 0);

    fed = test_feed(loop, &far); /* in watchers */
    loop_log[0] = '\0';
    CHECK_EQ(aioloop_add_reader(loop, fed, loop_fatal, NULL), 0);
    err = 0;
    for (i = 0; i < 1000 && err >= 0; i++)
        err = aioloop_run_once(loop, AIOLOOP_MS(10));
    CHECK_EQ(err, AIOLOOP_EFATAL);
    CHECK_STR(loop_log, "F");
    CHECK_EQ(aioloop_remove_reader(loop, fed), 1);
    test_feed_end(loop, fed, &far);
    aioloop_future_unref(f);
    CHECK_EQ(test_reports(), 0);
    test_end(loop);
}

static void loop_look_if_running(aioloop *loop, void *arg) {
    if (aioloop_is_running(loop))
        ++*(int *)arg;
}

TEST(loop_running_flag_is_true_in_callbacks_only, "RUN-14") {
    aioloop *loop = loop_begin();
    aioloop *other = test_loop();
    aioloop_future *f = aioloop_create_future(loop);
    aioloop_future *foreign = aioloop_create_future(other);
    int seen = 0;
    CHECK(!aioloop_is_running(loop));
    loop_soon(loop, loop_look_if_running, &seen);
    loop_later(loop, 0, loop_look_if_running, &seen);
    loop_run_to_stop(loop);
    CHECK_EQ(seen, 2);
    CHECK(!aioloop_is_running(loop));
    loop_soon(loop, loop_look_if_running, &seen);
    loop_soon(loop, loop_set_error, f);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_EPIPE);
    CHECK_EQ(seen, 3);
    CHECK(!aioloop_is_running(loop));
    loop_soon(loop, loop_look_if_running, &seen);
    CHECK_GE(aioloop_run_once(loop, 0), 0);
    CHECK_EQ(seen, 4);
    CHECK(!aioloop_is_running(loop));
    CHECK_EQ(aioloop_run_until_complete(loop, foreign, NULL), AIOLOOP_EINVAL);
    CHECK(!aioloop_is_running(loop));
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK_EQ(aioloop_run_forever(loop), AIOLOOP_ECLOSED);
    CHECK(!aioloop_is_running(loop));
    CHECK(!aioloop_is_running(NULL));
    aioloop_future_unref(f);
    aioloop_future_unref(foreign);
    test_end(other);
    test_end(loop);
}

static void loop_try_close(aioloop *loop, void *arg) {
    *(int *)arg = aioloop_close(loop);
    loop_soon(loop, loop_letter, LOOP_LETTER('x')); /* still works */
}

TEST(loop_close_is_refused_in_a_run_and_may_be_repeated_after, "RUN-15") {
    aioloop *loop = loop_begin();
    int err = 0;
    loop_soon(loop, loop_try_close, &err);
    test_spin(loop, 2);
    CHECK_EQ(err, AIOLOOP_EMISUSE);
    CHECK_STR(loop_log, "x");
    CHECK(!aioloop_is_closed(loop));
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK(aioloop_is_closed(loop));
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK(aioloop_is_closed(loop));
    CHECK(!aioloop_is_closed(NULL));
    CHECK_EQ(aioloop_close(NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_free(NULL), 0);
    test_end(loop);
}

static void loop_letter_future(aioloop_future *future, void *arg) {
    (void)future;
    loop_note((char)(uintptr_t)arg);
}

/* The next descriptor that the system would give out. */
static int loop_lowest_descriptor(void) {
    int fd = dup(STDOUT_FILENO);
    if (fd >= 0)
        close(fd);
    return fd;
}

TEST(loop_close_drops_what_is_queued_and_gives_everything_back, "RUN-16") {
    int lowest = loop_lowest_descriptor();
    aioloop *loop = loop_begin();
    aioloop_future *f = aioloop_create_future(loop);
    aioloop_handle posted;
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    test_connect_pair(loop, &a, &b);
    loop_soon(loop, loop_letter, LOOP_LETTER('a'));
    loop_later(loop, 0, loop_letter, LOOP_LETTER('b'));
    loop_later(loop, AIOLOOP_MS(1), loop_letter, LOOP_LETTER('c'));
    posted = loop_post(loop, loop_letter, LOOP_LETTER('d'));
    CHECK_EQ(aioloop_future_add_done_callback(f, loop_letter_future, LOOP_LETTER('e')), 0);
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0);
    aioloop_transport_abort(a.transport); /* its connection_lost is queued, or will be */
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK_STR(loop_log, "");
    CHECK_EQ(loop_lowest_descriptor(), lowest); /* the poller, the wake-up channel and the sockets are closed */
    CHECK_EQ(a.lost + b.lost, 0);
    aioloop_handle_cancel(&posted);
    test_peer_drop(&a);
    test_peer_drop(&b);
    aioloop_future_unref(f);
    test_end(loop);
    CHECK_STR(loop_log, "");
    CHECK_EQ(a.lost + b.lost, 0);
}

TEST(loop_fatal_leftovers_are_dropped_by_close, "RUN-13 RUN-16") {
    aioloop *loop = loop_begin();
    loop_soon(loop, loop_fatal, NULL);
    loop_soon(loop, loop_letter, LOOP_LETTER('a'));
    loop_later(loop, 0, loop_letter, LOOP_LETTER('b'));
    CHECK_EQ(aioloop_run_forever(loop), AIOLOOP_EFATAL);
    CHECK_EQ(aioloop_close(loop), 0);
    test_end(loop);
    CHECK_STR(loop_log, "F");
}

static void loop_check_refused(aioloop *loop, aioloop_handle h, int code) {
    CHECK(aioloop_handle_is_null(&h));
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), code);
}

static void loop_check_future(aioloop *loop, aioloop_future *f, int code) {
    CHECK(f != NULL);
    CHECK(aioloop_future_done(f));
    CHECK_EQ(aioloop_future_exception(f), code);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), code);
}

TEST(loop_closed_one_refuses_all_work, "RUN-17 SOON-07") {
    aioloop *loop = loop_begin();
    aioloop_future *f = aioloop_create_future(loop);
    aioloop_timer_handle timer = loop_later(loop, AIOLOOP_MS(1), loop_letter, LOOP_LETTER('t'));
    aioloop_socket s[2];
    aioloop_handle h;
    if (!test_simulated(loop))
        test_socketpair(loop, s);
    else
        s[0] = s[1] = 1 << 20;
    CHECK_EQ(aioloop_close(loop), 0);
    loop_check_refused(loop, aioloop_call_soon(loop, loop_letter, NULL), AIOLOOP_ECLOSED);
    aioloop_raise(loop, AIOLOOP_EIO, NULL); /* so that the next check does not see the code of the last one */
    loop_check_refused(loop, aioloop_call_soon_context(loop, loop_letter, NULL, NULL), AIOLOOP_ECLOSED);
    aioloop_raise(loop, AIOLOOP_EIO, NULL);
    loop_check_refused(loop, aioloop_call_later(loop, 0, loop_letter, NULL).handle, AIOLOOP_ECLOSED);
    aioloop_raise(loop, AIOLOOP_EIO, NULL);
    loop_check_refused(loop, aioloop_call_at(loop, 0, loop_letter, NULL).handle, AIOLOOP_ECLOSED);
    aioloop_raise(loop, AIOLOOP_EIO, NULL);
    loop_check_refused(loop, aioloop_call_at_context(loop, 0, loop_letter, NULL, NULL).handle, AIOLOOP_ECLOSED);
    h = aioloop_call_soon_threadsafe(loop, loop_letter, NULL);
    CHECK(aioloop_handle_is_null(&h));
    h = aioloop_call_soon_threadsafe_context(loop, loop_letter, NULL, NULL);
    CHECK(aioloop_handle_is_null(&h));
    CHECK_EQ(aioloop_timer_handle_reschedule(&timer, 0), AIOLOOP_EINVALIDSTATE);
    CHECK_EQ(aioloop_run_forever(loop), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_run_once(loop, 0), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_run_once(loop, AIOLOOP_FOREVER), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_ECLOSED);
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(aioloop_future_add_done_callback(f, loop_letter_future, NULL), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_add_reader(loop, s[0], loop_letter, NULL), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_add_writer(loop, s[0], loop_letter, NULL), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_backend_fd(loop), AIOLOOP_ECLOSED);
    loop_check_future(loop, aioloop_create_connection(loop, &test_protocol, NULL, "::1", 1, NULL), AIOLOOP_ECLOSED);
    loop_check_future(loop, aioloop_create_unix_connection(loop, &test_protocol, NULL, "/x", NULL), AIOLOOP_ECLOSED);
    loop_check_future(loop, aioloop_connect_accepted_socket(loop, &test_protocol, NULL, s[0], NULL), AIOLOOP_ECLOSED);
    loop_check_future(loop, aioloop_create_server(loop, &test_protocol, NULL, "127.0.0.1", 0, NULL), AIOLOOP_ECLOSED);
    loop_check_future(loop, aioloop_create_unix_server(loop, &test_protocol, NULL, "/x", NULL), AIOLOOP_ECLOSED);
    CHECK_LT(aioloop_sim_socketpair(loop, s), 0);
    aioloop_future_unref(f);
    if (s[0] != 1 << 20) { /* it was not taken */
        CHECK(fcntl(s[0], F_GETFD) != -1);
        close(s[0]);
        close(s[1]);
    }
    test_end(loop);
    CHECK_STR(loop_log, "");
}

TEST(loop_closed_one_still_answers, "RUN-18 HND-02") {
    aioloop *loop = loop_begin();
    aioloop_handle soon = loop_soon(loop, loop_letter, LOOP_LETTER('a'));
    aioloop_timer_handle timer = loop_later(loop, AIOLOOP_MS(5), loop_letter, LOOP_LETTER('b'));
    aioloop_time when = timer.when;
    aioloop_time before = aioloop_now(loop);
    aioloop_exception_context context = AIOLOOP_ZERO;
    aioloop_future *f;
    int *out = NULL;
    CHECK_EQ(aioloop_close(loop), 0);
    aioloop_stop(loop);
    CHECK_GE(aioloop_now(loop), before);
    CHECK_EQ(aioloop_next_deadline(loop), AIOLOOP_FOREVER);
    CHECK(aioloop_is_closed(loop));
    CHECK(!aioloop_is_running(loop));
    CHECK(aioloop_backend_name(loop) != NULL);
    if (aioloop_set_debug(loop, true) == 0) {
        CHECK(aioloop_get_debug(loop));
        CHECK_EQ(aioloop_set_debug(loop, false), 0);
    }
    CHECK(!aioloop_get_debug(loop));
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, AIOLOOP_MS(1)), 0);
    aioloop_handle_cancel(&soon);
    CHECK(aioloop_handle_cancelled(&soon));
    aioloop_timer_handle_cancel(&timer);
    aioloop_timer_handle_cancel(&timer);
    CHECK(aioloop_handle_cancelled(&timer.handle));
    CHECK_EQ(timer.when, when);
    CHECK_EQ(aioloop_remove_reader(loop, 0), 0);
    CHECK_EQ(aioloop_remove_writer(loop, 0), 0);
    CHECK_EQ(aioloop_remove_reader(loop, -1), 0);
    f = aioloop_create_future(loop);
    CHECK_PTR(aioloop_future_get_loop(f), loop);
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(aioloop_future_set_result(f, 4, &loop_object, NULL), 0);
    CHECK_EQ(aioloop_future_result(f, &out), 4);
    CHECK_PTR(out, &loop_object);
    aioloop_future_unref(f);
    context.message = "said after the end";
    aioloop_call_exception_handler(loop, &context);
    CHECK_EQ(test_reports(), 1);
    test_reports_clear();
    aioloop_verify(loop);
    test_end(loop);
    CHECK_STR(loop_log, "");
}

TEST(loop_close_leaves_futures_pending, "RUN-19") {
    aioloop *loop = loop_begin();
    aioloop_future *f = aioloop_create_future(loop);
    aioloop_future *g = aioloop_create_future(loop);
    aioloop_server *server;
    aioloop_future *closed;
    int port = 0;
    server = test_serve(loop, &test_protocol, NULL, &port);
    closed = aioloop_future_ref(aioloop_server_wait_closed(server)); /* one of the library's own */
    CHECK_EQ(aioloop_future_add_done_callback(f, loop_letter_future, LOOP_LETTER('f')), 0);
    CHECK_EQ(aioloop_future_add_done_callback(closed, loop_letter_future, LOOP_LETTER('w')), 0);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK(!aioloop_future_done(f));
    CHECK(!aioloop_future_cancelled(f));
    CHECK(!aioloop_future_done(closed));
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_EINVALIDSTATE);
    CHECK_EQ(aioloop_future_set_result(f, 5, NULL, NULL), AIOLOOP_ECLOSED); /* says that callbacks will not run, */
    CHECK_EQ(aioloop_future_result(f, NULL), 5);                            /* but it has the result */
    CHECK(aioloop_future_cancel(g, NULL));
    CHECK(aioloop_future_cancelled(g));
    CHECK(aioloop_future_cancel(closed, NULL));
    aioloop_future_unref(f);
    aioloop_future_unref(g);
    aioloop_future_unref(closed);
    aioloop_server_unref(server);
    test_end(loop);
    CHECK_STR(loop_log, "");
}

/* ---- one iteration ---- */

static void loop_wait_then_count(aioloop *loop, void *arg) {
    aioloop_timer_handle t = aioloop_call_at(loop, 0, loop_count, arg);
    CHECK(!aioloop_handle_is_null(&t.handle));
}

TEST(loop_run_once_waits_no_longer_than_it_may, "") {
    aioloop *loop = loop_begin();
    aioloop_timer_handle timer;
    aioloop_time start;
    int ran = 0;
    start = aioloop_now(loop);
    CHECK_EQ(aioloop_run_once(loop, 0), 0);
    CHECK_EQ(aioloop_run_once(loop, AIOLOOP_MS(-5)), 0);
    CHECK_EQ(aioloop_run_once(loop, INT64_MIN + 1), 0);
    if (test_simulated(loop))
        CHECK_EQ(aioloop_now(loop), start);
    CHECK_EQ(aioloop_run_once(loop, AIOLOOP_MS(3)), 0);
    if (!test_injected()) /* an interrupted wait may be shorter */
        CHECK_GE(aioloop_now(loop) - start, AIOLOOP_MS(3));
    CHECK_EQ(aioloop_run_once(loop, AIOLOOP_NOT_A_TIME), AIOLOOP_EINVAL);
    /* A timer that is due ends the wait, one that is not is left alone. */
    timer = loop_later(loop, AIOLOOP_MS(3600000), loop_count, &ran);
    CHECK_EQ(aioloop_run_once(loop, 0), 0);
    CHECK_EQ(aioloop_run_once(loop, AIOLOOP_MS(1)), 0);
    CHECK_EQ(ran, 0);
    aioloop_timer_handle_cancel(&timer);
    timer = loop_later(loop, AIOLOOP_MS(2), loop_count, &ran);
    while (ran == 0)
        CHECK_EQ(aioloop_run_once(loop, AIOLOOP_FOREVER), 0);
    CHECK_GE(aioloop_now(loop), timer.when);
    /* 1: there is more to do at once. */
    loop_soon(loop, loop_letter_and_more, LOOP_LETTER('a'));
    CHECK_EQ(aioloop_run_once(loop, AIOLOOP_FOREVER), 1);
    CHECK_STR(loop_log, "a");
    CHECK_EQ(aioloop_run_once(loop, AIOLOOP_FOREVER), 0);
    CHECK_STR(loop_log, "aA");
    loop_soon(loop, loop_wait_then_count, &ran);
    CHECK_EQ(aioloop_run_once(loop, AIOLOOP_FOREVER), 1); /* a timer that is due already counts */
    CHECK_EQ(aioloop_run_once(loop, AIOLOOP_FOREVER), 0);
    CHECK_EQ(ran, 2);
    CHECK_EQ(aioloop_run_once(NULL, 0), AIOLOOP_EINVAL);
    test_end(loop);
}

TEST(loop_next_deadline_tells_when_there_is_something_to_do, "") {
    aioloop *loop = loop_begin();
    aioloop_timer_handle timer;
    aioloop_timer_handle second;
    aioloop_handle h;
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    CHECK_EQ(aioloop_next_deadline(loop), AIOLOOP_FOREVER);
    CHECK_EQ(aioloop_next_deadline(NULL), AIOLOOP_FOREVER);
    timer = loop_later(loop, AIOLOOP_MS(3600000), loop_letter, LOOP_LETTER('t'));
    CHECK_EQ(aioloop_next_deadline(loop), timer.when);
    second = loop_later(loop, AIOLOOP_MS(1800000), loop_letter, LOOP_LETTER('u'));
    CHECK_EQ(aioloop_next_deadline(loop), second.when);
    CHECK_EQ(aioloop_timer_handle_reschedule(&second, timer.when + AIOLOOP_MS(5)), 0);
    CHECK_EQ(aioloop_next_deadline(loop), timer.when);
    aioloop_timer_handle_cancel(&timer);
    CHECK_EQ(aioloop_next_deadline(loop), second.when);
    CHECK_EQ(aioloop_timer_handle_reschedule(&second, AIOLOOP_FOREVER), 0);
    CHECK_EQ(aioloop_next_deadline(loop), AIOLOOP_FOREVER);
    h = loop_soon(loop, loop_letter, LOOP_LETTER('a'));
    CHECK_LE(aioloop_next_deadline(loop), aioloop_now(loop));
    aioloop_handle_cancel(&h);
    test_spin(loop, 1);
    CHECK_EQ(aioloop_next_deadline(loop), AIOLOOP_FOREVER);
    aioloop_stop(loop); /* the next iteration will not wait */
    CHECK_LE(aioloop_next_deadline(loop), aioloop_now(loop));
    test_spin(loop, 1);
    CHECK_EQ(aioloop_next_deadline(loop), AIOLOOP_FOREVER);
    loop_post(loop, loop_letter, LOOP_LETTER('p'));
    CHECK_LE(aioloop_next_deadline(loop), aioloop_now(loop));
    test_spin(loop, 1);
    CHECK_STR(loop_log, "p");
    test_connect_pair(loop, &a, &b); /* the second write of a turn waits for the next iteration */
    CHECK_EQ(aioloop_transport_write(a.transport, "a", 1), 0);
    CHECK_EQ(aioloop_transport_write(a.transport, "b", 1), 0);
    if (!test_simulated(loop)) /* where the first may still be under way, and the other waits for that */
        CHECK_LE(aioloop_next_deadline(loop), aioloop_now(loop));
    aioloop_transport_abort(a.transport);
    aioloop_transport_abort(b.transport);
    test_run_until(loop, &a.lost, 1, "the loss");
    test_run_until(loop, &b.lost, 1, "the other loss");
    test_peer_drop(&a);
    test_peer_drop(&b);
    aioloop_timer_handle_cancel(&second);
    test_end(loop);
}

/* Another program's main loop: it knows a descriptor and a deadline, and calls run_once when either is there. */
static void loop_foreign(aioloop *loop, const int *count, int wanted) {
    struct pollfd watched;
    int rounds = 0;
    watched.fd = aioloop_backend_fd(loop);
    watched.events = POLLIN;
    CHECK_GE(watched.fd, 0);
    while (*count < wanted && rounds++ < 10000) {
        aioloop_time deadline = aioloop_next_deadline(loop);
        aioloop_time most = AIOLOOP_MS(test_injected() ? 100 : 5000);
        aioloop_time left = deadline == AIOLOOP_FOREVER ? most : deadline - aioloop_now(loop);
        int n;
        watched.revents = 0;
        n = poll(&watched, 1, left <= 0 ? 0 : (int)(left / 1000000) + 1);
        CHECK(n > 0 || deadline != AIOLOOP_FOREVER); /* told of nothing, it would sleep for ever */
        CHECK_GE(aioloop_run_once(loop, 0), 0);
    }
    CHECK_GE(*count, wanted);
}

TEST(loop_inside_another_loop_is_driven_by_descriptor_and_deadline, "IMPL-03") {
    aioloop *loop = loop_begin();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    int ran = 0;
    CHECK_EQ(aioloop_backend_fd(NULL), AIOLOOP_EINVAL);
    if (strcmp(aioloop_backend_name(loop), "epoll") != 0 && strcmp(aioloop_backend_name(loop), "io_uring") != 0) {
        CHECK_EQ(aioloop_backend_fd(loop), AIOLOOP_ENOTAVAILABLE);
        test_end(loop);
        return;
    }
    CHECK_GE(aioloop_backend_fd(loop), 0);
    b.echo = true;
    test_connect_pair(loop, &a, &b);
    CHECK_EQ(aioloop_transport_write(a.transport, "hello", 5), 0);
    loop_foreign(loop, &a.datas, 1);
    CHECK_MEM(a.data, "hello", 5);
    loop_later(loop, AIOLOOP_MS(2), loop_count, &ran);
    loop_foreign(loop, &ran, 1);
    /* Paused: what comes is no reason to wake; resumed from outside: it is. */
    aioloop_transport_pause_reading(b.transport);
    CHECK_EQ(aioloop_transport_write(a.transport, "1", 1), 0);
    CHECK_GE(aioloop_run_once(loop, 0), 0);
    aioloop_transport_resume_reading(b.transport);
    loop_foreign(loop, &a.datas, 2);
    CHECK_EQ(aioloop_transport_write(a.transport, "2", 1), 0);
    CHECK_EQ(aioloop_transport_write(a.transport, "3", 1), 0); /* waits for the end of a callback that never was */
    loop_foreign(loop, &b.datas, 3);
    aioloop_transport_abort(a.transport);
    loop_foreign(loop, &a.lost, 1);
    loop_foreign(loop, &b.lost, 1);
    test_peer_drop(&a);
    test_peer_drop(&b);
    test_end(loop);
}

/* ---- SOON: callbacks ---- */

TEST(loop_callbacks_run_once_in_order_and_later, "SOON-01 SOON-02 SOON-03") {
    aioloop *loop = loop_begin();
    loop_soon(loop, loop_letter_and_more, LOOP_LETTER('a'));
    loop_soon(loop, loop_letter_and_more, LOOP_LETTER('b'));
    loop_soon(loop, loop_letter, LOOP_LETTER('c'));
    CHECK_STR(loop_log, ""); /* not from inside the call */
    CHECK_EQ(aioloop_run_once(loop, 0), 1);
    CHECK_STR(loop_log, "abc"); /* what they queued waits for the next pass */
    CHECK_EQ(aioloop_run_once(loop, 0), 0);
    CHECK_STR(loop_log, "abcAB");
    test_spin(loop, 3);
    CHECK_STR(loop_log, "abcAB");
    test_end(loop);
}

static int loop_order_next;

static void loop_in_order(aioloop *loop, void *arg) {
    (void)loop;
    CHECK_EQ((int)(intptr_t)arg, loop_order_next);
    loop_order_next++;
}

TEST(loop_many_callbacks_keep_their_order, "SOON-01") {
    aioloop *loop = loop_begin();
    int i;
    loop_order_next = 0;
    for (i = 0; i < 5000; i++) { /* more than the first blocks of slots hold */
        aioloop_handle h = aioloop_call_soon(loop, loop_in_order, (void *)(intptr_t)i);
        if (aioloop_handle_is_null(&h))
            FAIL("call_soon: %s", aioloop_error_message(aioloop_last_error(loop)));
    }
    test_spin(loop, 1);
    CHECK_EQ(loop_order_next, 5000);
    test_end(loop);
}

static void loop_arm_reader(aioloop *loop, void *arg) {
    CHECK_EQ(aioloop_add_reader(loop, (aioloop_socket)(intptr_t)arg, loop_letter, LOOP_LETTER('i')), 0);
    loop_soon(loop, loop_letter, LOOP_LETTER('n'));
}

TEST(loop_polls_between_a_callback_and_what_it_queued, "SOON-02") {
    aioloop *loop = loop_begin();
    test_peer far = AIOLOOP_ZERO;
    aioloop_socket fed = test_feed(loop, &far);
    /* The watcher set in pass 1 gets its event in pass 2, right behind the callback queued in pass 1. */
    loop_soon(loop, loop_arm_reader, (void *)(intptr_t)fed);
    CHECK_EQ(aioloop_run_once(loop, 0), 1);
    CHECK_STR(loop_log, "");
    if (test_simulated(loop)) {
        CHECK_GE(aioloop_run_once(loop, 0), 0);
        CHECK_MEM(loop_log, "n", 1);
    } else {
        CHECK_EQ(aioloop_run_once(loop, 0), 0);
        CHECK_STR(loop_log, "ni");
    }
    CHECK_EQ(aioloop_remove_reader(loop, fed), 1);
    test_feed_end(loop, fed, &far);
    test_end(loop);
}

static void loop_raise(aioloop *loop, void *arg) {
    (void)arg;
    loop_note('r');
    aioloop_raise(loop, AIOLOOP_EPIPE, "valve %d", 4);
}

static void loop_raise_future(aioloop_future *future, void *arg) {
    loop_raise(aioloop_future_get_loop(future), arg);
}

TEST(loop_failing_callback_is_reported_and_the_rest_runs, "SOON-04") {
    aioloop *loop = loop_begin();
    aioloop_future *f = aioloop_create_future(loop);
    aioloop_timer_handle timer;
    aioloop_handle h = loop_soon(loop, loop_raise, NULL);
    loop_soon(loop, loop_letter, LOOP_LETTER('a'));
    timer = loop_later(loop, 0, loop_raise, NULL);
    loop_later(loop, 0, loop_letter, LOOP_LETTER('b'));
    CHECK_EQ(aioloop_future_add_done_callback(f, loop_raise_future, NULL), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, loop_letter_future, LOOP_LETTER('c')), 0);
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0);
    CHECK_EQ(aioloop_run_once(loop, 0), 0);
    CHECK_STR(loop_log, "rarcrb");
    CHECK_EQ(test_reports(), 3);
    CHECK(test_report_at(0)->message[0] != '\0');
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EPIPE);
    CHECK_STR(test_report_at(0)->detail, "valve 4");
    CHECK_PTR(test_report_at(0)->context.handle.slot, h.slot);
    CHECK(test_report_at(0)->context.handle.sequence == h.sequence);
    CHECK_PTR(test_report_at(1)->context.future, f);
    CHECK_PTR(test_report_at(2)->context.handle.slot, timer.handle.slot);
    CHECK(test_report_at(2)->context.handle.sequence == timer.handle.sequence);
    test_reports_clear();
    /* A raise belongs to one callback: the next ones have not failed. */
    loop_soon(loop, loop_letter, LOOP_LETTER('d'));
    test_spin(loop, 1);
    CHECK_EQ(test_reports(), 0);
    aioloop_future_unref(f);
    test_end(loop);
}

static void loop_post_both(aioloop *loop, void *arg) {
    aioloop_handle h;
    (void)arg;
    loop_soon(loop, loop_letter, LOOP_LETTER('a'));
    h = aioloop_call_soon_threadsafe(loop, loop_letter, LOOP_LETTER('b'));
    CHECK(!aioloop_handle_is_null(&h));
    loop_soon(loop, loop_letter, LOOP_LETTER('c'));
    h = aioloop_call_soon_threadsafe_context(loop, loop_letter, LOOP_LETTER('d'), NULL);
    CHECK(!aioloop_handle_is_null(&h));
    loop_soon(loop, loop_letter, LOOP_LETTER('e'));
}

TEST(loop_threadsafe_calls_of_its_own_thread_join_the_queue, "SOON-06") {
    aioloop *loop = loop_begin();
    loop_soon(loop, loop_post_both, NULL);
    CHECK_EQ(aioloop_run_once(loop, 0), 1);
    CHECK_STR(loop_log, "");
    CHECK_EQ(aioloop_run_once(loop, 0), 0);
    CHECK_STR(loop_log, "abcde");
    test_end(loop);
}

TEST(loop_missing_callback_is_refused, "SOON-08 LATER-06") {
    aioloop *loop = loop_begin();
    aioloop_handle h;
    loop_check_refused(loop, aioloop_call_soon(loop, NULL, NULL), AIOLOOP_EINVAL);
    aioloop_raise(loop, AIOLOOP_EIO, NULL);
    loop_check_refused(loop, aioloop_call_soon_context(loop, NULL, NULL, NULL), AIOLOOP_EINVAL);
    aioloop_raise(loop, AIOLOOP_EIO, NULL);
    loop_check_refused(loop, aioloop_call_later(loop, 0, NULL, NULL).handle, AIOLOOP_EINVAL);
    aioloop_raise(loop, AIOLOOP_EIO, NULL);
    loop_check_refused(loop, aioloop_call_at(loop, 0, NULL, NULL).handle, AIOLOOP_EINVAL);
    aioloop_raise(loop, AIOLOOP_EIO, NULL);
    loop_check_refused(loop, aioloop_call_at_context(loop, 0, NULL, NULL, NULL).handle, AIOLOOP_EINVAL);
    h = aioloop_call_soon_threadsafe(loop, NULL, NULL);
    CHECK(aioloop_handle_is_null(&h));
    h = aioloop_call_soon_threadsafe_context(loop, NULL, NULL, NULL);
    CHECK(aioloop_handle_is_null(&h));
    CHECK_EQ(aioloop_add_reader(loop, 0, NULL, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_add_writer(loop, 0, NULL, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_once(loop, 0), 0);
    test_end(loop);
}

/* ---- HND: handles ---- */

static void loop_cancel_handle(aioloop *loop, void *arg) {
    (void)loop;
    aioloop_handle_cancel((aioloop_handle *)arg);
}

TEST(loop_cancelled_callback_never_starts, "HND-01 SOON-03") {
    aioloop *loop = loop_begin();
    aioloop_handle a = loop_soon(loop, loop_letter, LOOP_LETTER('a'));
    aioloop_handle later;
    aioloop_handle posted;
    aioloop_handle copy;
    loop_soon(loop, loop_letter, LOOP_LETTER('b'));
    aioloop_handle_cancel(&a);
    test_spin(loop, 2);
    CHECK_STR(loop_log, "b");
    memset(&later, 0, sizeof(later));
    loop_soon(loop, loop_cancel_handle, &later); /* in the same batch, just before its turn */
    later = loop_soon(loop, loop_letter, LOOP_LETTER('c'));
    loop_soon(loop, loop_letter, LOOP_LETTER('d'));
    test_spin(loop, 2);
    CHECK_STR(loop_log, "bd");
    posted = loop_post(loop, loop_letter, LOOP_LETTER('e'));
    aioloop_handle_cancel(&posted); /* before the loop has looked at it */
    test_spin(loop, 2);
    CHECK_STR(loop_log, "bd");
    posted = loop_post(loop, loop_letter, LOOP_LETTER('f'));
    copy = posted; /* a copy cancels as well */
    aioloop_handle_cancel(&copy);
    aioloop_handle_cancel(&posted);
    test_spin(loop, 2);
    CHECK_STR(loop_log, "bd");
    test_end(loop);
}

static void loop_cancel_itself(aioloop *loop, void *arg) {
    (void)loop;
    loop_note('x');
    aioloop_handle_cancel((aioloop_handle *)arg);
}

TEST(loop_late_cancel_hits_nobody_else, "HND-02") {
    aioloop *loop = loop_begin();
    aioloop_handle old[8];
    aioloop_handle copies[8];
    aioloop_handle self;
    int round;
    int i;
    /* The slots of callbacks that ran are used again; their handles must not reach the new ones. */
    for (round = 0; round < 4; round++) {
        int ran = 0;
        for (i = 0; i < 8; i++) {
            old[i] = round % 2 == 0 ? loop_soon(loop, loop_letter, LOOP_LETTER('.'))
                                    : loop_post(loop, loop_letter, LOOP_LETTER('.'));
        }
        memcpy(copies, old, sizeof(old));
        if (round == 2)
            for (i = 0; i < 8; i++)
                aioloop_handle_cancel(&old[i]);
        test_spin(loop, 1);
        for (i = 0; i < 8; i++) {
            if (round % 2 == 0)
                loop_soon(loop, loop_count, &ran);
            else
                loop_post(loop, loop_count, &ran);
        }
        for (i = 0; i < 8; i++) {
            aioloop_handle_cancel(&old[i]);
            aioloop_handle_cancel(&copies[i]);
            aioloop_handle_cancel(&copies[i]);
        }
        test_spin(loop, 1);
        CHECK_EQ(ran, 8);
    }
    loop_log[0] = '\0';
    self = loop_soon(loop, loop_cancel_itself, &self);
    loop_soon(loop, loop_letter, LOOP_LETTER('y'));
    test_spin(loop, 2);
    CHECK_STR(loop_log, "xy");
    memset(&self, 0, sizeof(self));
    aioloop_handle_cancel(&self);
    aioloop_handle_cancel(NULL);
    aioloop_timer_handle_cancel(NULL);
    CHECK_EQ(aioloop_close(loop), 0);
    for (i = 0; i < 8; i++)
        aioloop_handle_cancel(&old[i]);
    test_end(loop);
}

TEST(loop_handle_tells_whether_it_was_cancelled, "HND-03") {
    aioloop *loop = loop_begin();
    aioloop_handle a = loop_soon(loop, loop_letter, LOOP_LETTER('a'));
    aioloop_handle b = loop_soon(loop, loop_letter, LOOP_LETTER('b'));
    aioloop_timer_handle t = loop_later(loop, AIOLOOP_SECONDS(3600), loop_letter, LOOP_LETTER('t'));
    aioloop_handle null;
    memset(&null, 0, sizeof(null));
    CHECK(!aioloop_handle_cancelled(&a));
    CHECK(!aioloop_handle_cancelled(&t.handle));
    aioloop_handle_cancel(&b);
    CHECK(aioloop_handle_cancelled(&b));
    test_spin(loop, 1);
    CHECK(!aioloop_handle_cancelled(&a)); /* it ran */
    CHECK(aioloop_handle_cancelled(&b));
    aioloop_timer_handle_cancel(&t);
    CHECK(aioloop_handle_cancelled(&t.handle));
    CHECK(!aioloop_handle_is_null(&t.handle));
    CHECK(!aioloop_handle_cancelled(&null));
    aioloop_handle_cancel(&null);
    CHECK(!aioloop_handle_cancelled(&null));
    CHECK(!aioloop_handle_cancelled(NULL));
    CHECK(aioloop_handle_is_null(&null));
    CHECK(aioloop_handle_is_null(NULL));
    CHECK_STR(loop_log, "a");
    test_end(loop);
}

/* ---- IMPL: which back end ---- */

/* Makes a loop on the back end named; frees it and checks its name, or checks that the error says what it should. */
static void loop_check_choice(const char *choice, const char *name, bool there) {
    aioloop_config config = AIOLOOP_ZERO;
    config.backend = choice;
    if (there) {
        aioloop *loop = test_loop_with(&config);
        CHECK_STR(aioloop_backend_name(loop), name);
        test_end(loop);
    } else {
        aioloop *loop = aioloop_new_event_loop(&config);
        CHECK_PTR(loop, NULL);
        CHECK_EQ(aioloop_error_code(aioloop_last_error(NULL)), AIOLOOP_ENOTAVAILABLE);
        CHECK(strstr(aioloop_error_message(aioloop_last_error(NULL)), name) != NULL);
        CHECK(strstr(aioloop_error_message(aioloop_last_error(NULL)), "not in this build") != NULL);
    }
}

/* Whether the kernel lets this process have a ring of the best kind. */
static bool loop_has_io_uring(void) {
#if defined(__linux__)
    uint32_t setup[30];
    long fd;
    memset(setup, 0, sizeof(setup));
    setup[2] = 0x3000; /* SINGLE_ISSUER | DEFER_TASKRUN */
    fd = syscall(425, 1, setup);
    if (fd >= 0)
        close((int)fd);
    return fd >= 0;
#else
    return false;
#endif
}

/* The back end that serves when none is named. */
static const char *loop_best(void) {
    return LOOP_HAS(AIOLOOP_BACKEND_IO_URING) && loop_has_io_uring() ? "io_uring"
           : LOOP_HAS(AIOLOOP_BACKEND_EPOLL)                         ? "epoll"
           : LOOP_HAS(AIOLOOP_BACKEND_POLL)                          ? "poll"
           : LOOP_HAS(AIOLOOP_BACKEND_SELECT)                        ? "select"
                                                                     : NULL;
}

/* Makes no loop, for this reason. */
static void loop_check_no_choice(const char *choice, int code, const char *text) {
    aioloop_config config = AIOLOOP_ZERO;
    aioloop *loop;
    config.backend = choice;
    loop = aioloop_new_event_loop(&config);
    if (loop != NULL) {
        aioloop_free(loop);
        FAIL("a loop on \"%s\"", choice);
    }
    CHECK_EQ(aioloop_error_code(aioloop_last_error(NULL)), code);
    CHECK(strstr(aioloop_error_message(aioloop_last_error(NULL)), text) != NULL);
}

TEST(loop_back_end_is_chosen_by_name, "IMPL-01") {
    loop_check_choice("epoll", "epoll", LOOP_HAS(AIOLOOP_BACKEND_EPOLL));
    loop_check_choice("poll", "poll", LOOP_HAS(AIOLOOP_BACKEND_POLL));
    loop_check_choice("select", "select", LOOP_HAS(AIOLOOP_BACKEND_SELECT));
    loop_check_choice("sim", "sim", LOOP_HAS(AIOLOOP_BACKEND_SIM));
    loop_check_choice("iocp", "iocp", false);
    if (LOOP_HAS(AIOLOOP_BACKEND_EPOLL))
        loop_check_choice("epoll,no-eventfd,no-epoll_pwait2,no-accept4,no-pipe2", "epoll", true);
    if (LOOP_HAS(AIOLOOP_BACKEND_SIM))
        loop_check_choice("sim,delayed,seed=77", "sim", true);
    loop_check_no_choice("smoke", AIOLOOP_EINVAL, "unknown back end \"smoke\"");
    loop_check_no_choice("epol", AIOLOOP_EINVAL, "unknown back end \"epol\"");
    loop_check_no_choice("epolls", AIOLOOP_EINVAL, "unknown back end \"epolls\"");
    loop_check_no_choice("poll,no-such", AIOLOOP_EINVAL, "option \"no-such\"");
    loop_check_no_choice("poll,", AIOLOOP_EINVAL, "option \"\"");
    loop_check_no_choice("sim,seed=", AIOLOOP_EINVAL, "option \"seed=\"");
    loop_check_no_choice("sim,seed=1x", AIOLOOP_EINVAL, "option \"seed=1x\"");
}

#if defined(__linux__) && defined(__x86_64__)
/* From here on the kernel answers the system call with the error, as it does where a sandbox or an administrator forbids it. */
static bool loop_forbid(int call, int error) {
    struct sock_filter code[4];
    struct sock_fprog program;
    memset(code, 0, sizeof(code));
    code[0].code = BPF_LD | BPF_W | BPF_ABS; /* the number of the call comes first in what a filter sees */
    code[1].code = BPF_JMP | BPF_JEQ | BPF_K;
    code[1].jf = 1;
    code[1].k = (unsigned)call;
    code[2].code = BPF_RET | BPF_K;
    code[2].k = SECCOMP_RET_ERRNO | (unsigned)error;
    code[3].code = BPF_RET | BPF_K;
    code[3].k = SECCOMP_RET_ALLOW;
    program.len = 4;
    program.filter = code;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}

TEST_WITH(loop_runs_on_the_next_best_where_io_uring_is_forbidden, "IMPL-01", TEST_REAL_FDS) {
    static const int errors[] = {EPERM, ENOSYS, ENOMEM};
    static const char *const choices[] = {"io_uring", "io_uring,no-multishot", NULL};
    size_t i;
    size_t k;
    if (!LOOP_HAS(AIOLOOP_BACKEND_IO_URING) || !LOOP_HAS(AIOLOOP_BACKEND_EPOLL))
        SKIP("not in this build");
    unsetenv("AIOLOOP_BACKEND");
    for (i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        if (!loop_forbid(425, errors[i]))
            SKIP("no system call can be forbidden here");
        for (k = 0; k < sizeof(choices) / sizeof(choices[0]); k++) {
            aioloop_config config = AIOLOOP_ZERO;
            test_peer a = AIOLOOP_ZERO;
            test_peer b = AIOLOOP_ZERO;
            aioloop *loop;
            config.backend = choices[k];
            loop = test_loop_with(&config);
            if (!test_injected())
                CHECK_STR(aioloop_backend_name(loop), "epoll");
            CHECK_EQ(test_reports(), 0); /* without a word */
            test_connect_pair(loop, &a, &b);
            CHECK_EQ(aioloop_transport_write(a.transport, "x", 1), 0);
            test_run_until(loop, &b.datas, 1, "the byte");
            test_end_pair(loop, &a, &b);
            test_end(loop);
        }
    }
}
#endif

TEST(loop_back_end_is_chosen_by_the_environment, "IMPL-01") {
    aioloop_config config = AIOLOOP_ZERO;
    aioloop *loop;
    const char *best = loop_best();
    char saved[64];
    snprintf(saved, sizeof(saved), "%s", getenv("AIOLOOP_BACKEND") != NULL ? getenv("AIOLOOP_BACKEND") : "");
    if (best == NULL)
        SKIP("a build for simulation alone");
    unsetenv("AIOLOOP_BACKEND");
    loop = test_loop(); /* the best there is; never the simulation */
    if (!test_injected())
        CHECK_STR(aioloop_backend_name(loop), best);
    test_end(loop);
    setenv("AIOLOOP_BACKEND", "", 1);
    loop = test_loop();
    if (!test_injected())
        CHECK_STR(aioloop_backend_name(loop), best);
    test_end(loop);
    if (LOOP_HAS(AIOLOOP_BACKEND_SELECT) && LOOP_HAS(AIOLOOP_BACKEND_POLL)) {
        setenv("AIOLOOP_BACKEND", "select", 1);
        loop = test_loop();
        CHECK_STR(aioloop_backend_name(loop), "select");
        test_end(loop);
        config.backend = "poll"; /* the program's choice comes first */
        loop = test_loop_with(&config);
        CHECK_STR(aioloop_backend_name(loop), "poll");
        test_end(loop);
    }
    setenv("AIOLOOP_BACKEND", "smoke", 1);
    loop_check_no_choice(NULL, AIOLOOP_EINVAL, "unknown back end \"smoke\"");
    if (saved[0] != '\0')
        setenv("AIOLOOP_BACKEND", saved, 1);
    else
        unsetenv("AIOLOOP_BACKEND");
}

TEST(loop_missing_methods_say_so, "IMPL-02 IMPL-03") {
    aioloop *loop = loop_begin();
    aioloop_socket s[2];
    test_peer far = AIOLOOP_ZERO;
    int own[2];
    int read = 0;
    if (test_simulated(loop)) {
        /* The simulation watches its own sockets and none of the system's. */
        CHECK(pipe(own) == 0);
        CHECK_LT(aioloop_add_reader(loop, own[0], loop_count, &read), 0);
        CHECK_LT(aioloop_add_writer(loop, own[1], loop_count, &read), 0);
        CHECK_EQ(aioloop_remove_reader(loop, own[0]), 0);
        close(own[0]);
        close(own[1]);
        CHECK_EQ(aioloop_backend_fd(loop), AIOLOOP_ENOTAVAILABLE);
        CHECK_EQ(aioloop_sim_set_delay(loop, 0, 0), 0);
    } else {
        CHECK_EQ(aioloop_sim_socketpair(loop, s), AIOLOOP_ENOTAVAILABLE);
        CHECK_EQ(aioloop_sim_close(loop, 0), AIOLOOP_ENOTAVAILABLE);
        CHECK_EQ(aioloop_sim_set_delay(loop, 0, 0), AIOLOOP_ENOTAVAILABLE);
        CHECK_EQ(aioloop_sim_set_buffer(loop, 10), AIOLOOP_ENOTAVAILABLE);
        CHECK_EQ(aioloop_sim_set_partition(loop, true), AIOLOOP_ENOTAVAILABLE);
        CHECK_EQ(aioloop_sim_fail_accepts(loop, AIOLOOP_EMFILE, 1), AIOLOOP_ENOTAVAILABLE);
    }
    /* Everything else is there, on every one: watchers, too. */
    s[0] = test_feed(loop, &far);
    CHECK_EQ(aioloop_add_reader(loop, s[0], loop_count, &read), 0);
    test_run_until(loop, &read, 1, "the watcher");
    CHECK_EQ(aioloop_remove_reader(loop, s[0]), 1);
    CHECK_EQ(aioloop_remove_reader(loop, s[0]), 0);
    test_feed_end(loop, s[0], &far);
    test_end(loop);
}

TEST(loop_null_is_answered_everywhere, "IMPL-03") {
    aioloop *loop = loop_begin();
    aioloop_exception_context context = AIOLOOP_ZERO;
    aioloop_timer_handle t;
    aioloop_handle h;
    aioloop_socket s[2];
    void *arg = &loop_object;
    CHECK_EQ(aioloop_run_forever(NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_once(NULL, 0), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_until_complete(NULL, NULL, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_backend_fd(NULL), AIOLOOP_EINVAL);
    CHECK(aioloop_backend_name(NULL) != NULL);
    aioloop_stop(NULL);
    CHECK(!aioloop_is_running(NULL));
    CHECK(!aioloop_is_closed(NULL));
    CHECK_EQ(aioloop_close(NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_free(NULL), 0);
    CHECK_EQ(aioloop_now(NULL), 0);
    h = aioloop_call_soon(NULL, loop_letter, NULL);
    CHECK(aioloop_handle_is_null(&h));
    h = aioloop_call_soon_context(NULL, loop_letter, NULL, NULL);
    CHECK(aioloop_handle_is_null(&h));
    h = aioloop_call_soon_threadsafe(NULL, loop_letter, NULL);
    CHECK(aioloop_handle_is_null(&h));
    h = aioloop_call_soon_threadsafe_context(NULL, loop_letter, NULL, NULL);
    CHECK(aioloop_handle_is_null(&h));
    t = aioloop_call_later(NULL, 0, loop_letter, NULL);
    CHECK(aioloop_handle_is_null(&t.handle));
    t = aioloop_call_at(NULL, 0, loop_letter, NULL);
    CHECK(aioloop_handle_is_null(&t.handle));
    t = aioloop_call_at_context(NULL, AIOLOOP_NOT_A_TIME, loop_letter, NULL, NULL);
    CHECK(aioloop_handle_is_null(&t.handle));
    CHECK_EQ(aioloop_timer_handle_reschedule(NULL, 0), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_timer_handle_reschedule(&t, 0), AIOLOOP_EINVALIDSTATE);
    CHECK_EQ(aioloop_add_reader(NULL, 0, loop_letter, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_add_writer(NULL, 0, loop_letter, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_remove_reader(NULL, 0), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_remove_writer(NULL, 0), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_raise(NULL, AIOLOOP_EPIPE, "x"), AIOLOOP_EPIPE);
    CHECK(aioloop_last_error(NULL) != NULL);
    CHECK(aioloop_last_error(loop) != NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), 0);
    CHECK_EQ(aioloop_error_code(NULL), 0);
    CHECK(aioloop_error_message(NULL) != NULL);
    CHECK_EQ(aioloop_error_count(NULL), 0);
    CHECK_PTR(aioloop_error_at(NULL, 0), NULL);
    aioloop_set_exception_handler(NULL, NULL, NULL);
    CHECK(aioloop_get_exception_handler(NULL, &arg) == NULL);
    CHECK(aioloop_get_exception_handler(loop, NULL) != NULL);
    aioloop_call_exception_handler(NULL, &context);
    aioloop_call_exception_handler(loop, NULL);
    aioloop_default_exception_handler(NULL, &context);
    aioloop_default_exception_handler(loop, NULL);
    aioloop_set_log(NULL, NULL, NULL);
    CHECK_EQ(aioloop_set_debug(NULL, true), AIOLOOP_EINVAL);
    CHECK(!aioloop_get_debug(NULL));
    CHECK_EQ(aioloop_set_slow_callback_duration(NULL, 1), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_get_slow_callback_duration(NULL), 0);
    aioloop_verify(NULL);
    CHECK_EQ(aioloop_sim_socketpair(NULL, s), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_close(NULL, 0), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_set_delay(NULL, 0, 0), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_set_buffer(NULL, 1), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_set_partition(NULL, true), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_break(NULL, AIOLOOP_ECONNRESET), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_fail_accepts(NULL, AIOLOOP_EMFILE, 1), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_random(NULL, 5), 0);
    loop_check_future(loop, aioloop_create_future(NULL), AIOLOOP_EINVAL);
    loop_check_future(loop, aioloop_create_connection(NULL, &test_protocol, NULL, "::1", 1, NULL), AIOLOOP_EINVAL);
    loop_check_future(loop, aioloop_create_connection(loop, NULL, NULL, "127.0.0.1", 1, NULL), AIOLOOP_EINVAL);
    loop_check_future(loop, aioloop_create_unix_connection(NULL, &test_protocol, NULL, "/x", NULL), AIOLOOP_EINVAL);
    loop_check_future(loop, aioloop_create_unix_connection(loop, NULL, NULL, "/x", NULL), AIOLOOP_EINVAL);
    loop_check_future(loop, aioloop_connect_accepted_socket(NULL, &test_protocol, NULL, 0, NULL), AIOLOOP_EINVAL);
    loop_check_future(loop, aioloop_connect_accepted_socket(loop, NULL, NULL, 0, NULL), AIOLOOP_EINVAL);
    loop_check_future(loop, aioloop_create_server(NULL, &test_protocol, NULL, "127.0.0.1", 0, NULL), AIOLOOP_EINVAL);
    loop_check_future(loop, aioloop_create_server(loop, NULL, NULL, "127.0.0.1", 0, NULL), AIOLOOP_EINVAL);
    loop_check_future(loop, aioloop_create_unix_server(NULL, &test_protocol, NULL, "/x", NULL), AIOLOOP_EINVAL);
    loop_check_future(loop, aioloop_create_unix_server(loop, NULL, NULL, "/x", NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_once(loop, 0), 0);
    test_reports_clear();
    test_log_clear();
    test_end(loop);
}

/* Makes room for a descriptor of this number; false if the system does not let us. */
static bool loop_allow_descriptor(int fd) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return false;
    if (limit.rlim_cur > (rlim_t)fd)
        return true;
    if (limit.rlim_max != RLIM_INFINITY && limit.rlim_max <= (rlim_t)fd)
        return false;
    limit.rlim_cur = (rlim_t)fd + 1;
    return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

TEST_WITH(loop_descriptor_too_large_for_the_poller_is_refused, "IMPL-04", TEST_REAL_FDS) {
    aioloop *loop = loop_begin();
    aioloop_socket s[2];
    int low = 0;
    int high = 0;
    int small;
    int large;
    int err;
    test_needs_real_descriptors(loop);
    if (!loop_allow_descriptor(2000)) {
        test_end(loop);
        SKIP("descriptors of 1024 and above are not allowed here");
    }
    test_socketpair(loop, s);
    CHECK_EQ(write(s[1], "x", 1), 1);
    CHECK_EQ(aioloop_add_reader(loop, s[0], loop_count, &low), 0);
    for (large = 1024; large <= 1500; large += 476) {
        small = fcntl(s[0], F_DUPFD, large); /* the same end: readable as well */
        CHECK_GE(small, large);
        err = aioloop_add_reader(loop, small, loop_count, &high);
        test_keep_socket(small);
        if (strcmp(aioloop_backend_name(loop), "select") == 0) {
            CHECK_EQ(err, AIOLOOP_EINVAL);
            CHECK_EQ(aioloop_add_writer(loop, small, loop_count, &high), AIOLOOP_EINVAL);
            CHECK_EQ(aioloop_remove_reader(loop, small), 0);
        } else {
            CHECK_EQ(err, 0);
            test_run_until(loop, &high, 1, "the watcher of the large number");
            CHECK_EQ(aioloop_remove_reader(loop, small), 1);
            high = 0;
        }
        low = 0;
        test_run_until(loop, &low, 1, "the other watcher"); /* goes on */
        CHECK_EQ(high, 0);
        test_close_socket(loop, small);
    }
    CHECK_EQ(aioloop_remove_reader(loop, s[0]), 1);
    test_close_socket(loop, s[0]);
    test_close_socket(loop, s[1]);
    test_end(loop);
}

/* ---- allocators ---- */

typedef struct loop_memory {
    size_t blocks;
    size_t bytes;
    int calls;
    int fail_at;   /* this call and all after it fail; 0: none */
    bool mistaken; /* an old size was wrong, or a free had no block */
} loop_memory;

/* Remembers each block's size in front of it, to compare with the size that the library says. */
static void *loop_allocate(void *context, void *pointer, size_t old_size, size_t new_size) {
    loop_memory *m = (loop_memory *)context;
    char *old = pointer == NULL ? NULL : (char *)pointer - 16;
    char *block;
    size_t known = 0;
    if (old != NULL)
        memcpy(&known, old, sizeof(known));
    if (known != old_size)
        m->mistaken = true;
    if (new_size == 0) {
        if (old != NULL) {
            m->blocks--;
            m->bytes -= known;
            test_free(old);
        }
        return NULL;
    }
    m->calls++;
    if (m->fail_at != 0 && m->calls >= m->fail_at)
        return NULL;
    block = (char *)(old == NULL ? test_malloc(new_size + 16) : test_realloc(old, new_size + 16));
    if (block == NULL)
        return NULL;
    memcpy(block, &new_size, sizeof(new_size));
    if (old == NULL)
        m->blocks++;
    m->bytes += new_size - known;
    return block + 16;
}

TEST(loop_memory_comes_from_its_own_allocator, "") {
    static loop_memory memory; /* outlives the test when that gives up */
    aioloop_allocator allocator;
    aioloop_config config = AIOLOOP_ZERO;
    aioloop *loop;
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_future *f;
    int i;
    loop_log[0] = '\0';
    memset(&memory, 0, sizeof(memory));
    allocator.allocate = loop_allocate;
    allocator.context = &memory;
    config.allocator = &allocator;
    loop = test_loop_with(&config);
    memset(&allocator, 0, sizeof(allocator)); /* it was copied */
    CHECK_GT(memory.blocks, 0);
    for (i = 0; i < 200; i++) {
        loop_soon(loop, loop_letter, LOOP_LETTER('.'));
        loop_later(loop, i, loop_letter, LOOP_LETTER('.'));
    }
    b.echo = true;
    test_connect_pair(loop, &a, &b);
    CHECK_EQ(aioloop_transport_write(a.transport, "hello", 5), 0);
    test_run_until(loop, &a.datas, 1, "the echo");
    f = aioloop_create_future(loop);
    CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_EIO, "a message"), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_EIO);
    aioloop_future_unref(f);
    loop_later(loop, AIOLOOP_FOREVER, loop_letter, NULL); /* ended with the loop */
    aioloop_transport_abort(a.transport);
    test_run_until(loop, &a.lost, 1, "the loss");
    test_run_until(loop, &b.lost, 1, "the other loss");
    test_peer_drop(&a);
    test_peer_drop(&b);
    test_end(loop);
    CHECK_EQ(memory.blocks, 0);
    CHECK_EQ(memory.bytes, 0);
    CHECK(!memory.mistaken);
}

TEST(loop_without_memory_fails_cleanly, "") {
    static loop_memory memory; /* outlives the test when that gives up */
    aioloop_allocator allocator;
    aioloop_config config = AIOLOOP_ZERO;
    aioloop *loop = NULL;
    aioloop_handle h;
    aioloop_timer_handle t;
    int i;
    loop_log[0] = '\0';
    memset(&memory, 0, sizeof(memory));
    allocator.allocate = loop_allocate;
    allocator.context = &memory;
    config.allocator = &allocator;
    for (i = 1; i < 20; i++) {
        memory.calls = 0;
        memory.fail_at = i;
        loop = aioloop_new_event_loop(&config);
        if (loop != NULL)
            break;
        CHECK_EQ(aioloop_error_code(aioloop_last_error(NULL)), AIOLOOP_ENOMEM);
        CHECK_EQ(memory.blocks, 0);
    }
    CHECK(loop != NULL);
    CHECK_GT(i, 1);
    aioloop_free(loop);
    memory.calls = 0;
    memory.fail_at = 0;
    loop = test_loop_with(&config);
    memory.fail_at = 1;
    loop_check_refused(loop, aioloop_call_soon(loop, loop_letter, NULL), AIOLOOP_ENOMEM);
    t = aioloop_call_later(loop, 0, loop_letter, NULL);
    loop_check_refused(loop, t.handle, AIOLOOP_ENOMEM);
    h = aioloop_call_soon_threadsafe(loop, loop_letter, NULL);
    CHECK(aioloop_handle_is_null(&h));
    loop_check_future(loop, aioloop_create_future(loop), AIOLOOP_ENOMEM);
    CHECK_EQ(aioloop_run_once(loop, 0), 0);
    memory.calls = 0;
    memory.fail_at = 2; /* the slot, but not the place among the timers */
    t = aioloop_call_later(loop, 0, loop_letter, NULL);
    loop_check_refused(loop, t.handle, AIOLOOP_ENOMEM);
    memory.fail_at = 0;
    loop_soon(loop, loop_letter, LOOP_LETTER('a'));
    loop_later(loop, 0, loop_letter, LOOP_LETTER('b'));
    CHECK_EQ(aioloop_run_once(loop, 0), 0);
    CHECK_STR(loop_log, "ab");
    test_end(loop);
    CHECK_EQ(memory.blocks, 0);
    CHECK(!memory.mistaken);
}

static void loop_drain(aioloop *loop, void *arg) {
    char c;
    (void)loop;
    CHECK_EQ(read(*(int *)arg, &c, 1), 1);
    *(int *)arg = -1;
}

/* One turn of a main loop that asked for the descriptor once. True if something was to be done. */
static bool loop_foreign_turn(aioloop *loop, int fd) {
    struct pollfd one;
    aioloop_time next = aioloop_next_deadline(loop);
    one.fd = fd;
    one.events = POLLIN;
    one.revents = 0;
    if (next > aioloop_now(loop) && poll(&one, 1, 1000) != 1)
        return false;
    return aioloop_run_once(loop, 0) >= 0;
}

/* What is asked for outside of a run reaches the system before another main loop sleeps. */
TEST_WITH(loop_inside_another_loop_hears_what_is_asked_between_runs, "IMPL-03", TEST_REAL_FDS) {
    aioloop *loop = loop_begin();
    test_peer a = AIOLOOP_ZERO;
    aioloop_socket s[2];
    int watched;
    int fd;
    int i;
    test_needs_real_descriptors(loop);
    fd = aioloop_backend_fd(loop);
    if (fd == AIOLOOP_ENOTAVAILABLE) {
        test_end(loop);
        SKIP("no descriptor to watch");
    }
    CHECK_GE(fd, 0);
    test_socketpair(loop, s);
    watched = s[0];
    CHECK_EQ(write(s[1], "x", 1), 1);
    CHECK_GE(aioloop_run_once(loop, 0), 0);
    CHECK_EQ(aioloop_add_reader(loop, s[0], loop_drain, &watched), 0);
    for (i = 0; i < 5 && watched != -1; i++)
        CHECK(loop_foreign_turn(loop, fd));
    CHECK_EQ(watched, -1);
    CHECK_EQ(aioloop_remove_reader(loop, s[0]), 1);
    test_adopt(loop, &test_protocol, &a, s[0]);
    aioloop_transport_pause_reading(a.transport);
    CHECK_EQ(write(s[1], "yz", 2), 2);
    for (i = 0; i < 3; i++)
        CHECK_GE(aioloop_run_once(loop, 0), 0);
    CHECK_EQ(a.datas, 0);
    aioloop_transport_resume_reading(a.transport);
    for (i = 0; i < 5 && a.received < 2; i++)
        CHECK(loop_foreign_turn(loop, fd));
    CHECK_EQ(a.received, 2);
    aioloop_transport_close(a.transport);
    for (i = 0; i < 5 && a.lost == 0; i++)
        CHECK(loop_foreign_turn(loop, fd));
    CHECK_EQ(a.lost, 1);
    test_peer_drop(&a);
    test_close_socket(loop, s[1]);
    test_end(loop);
}
