/*
 * test_timer.c - delayed callbacks: when they come, in which order, moving them, and the ends of time.
 */
#include "support.h"

#include <math.h>

static char timer_log[512];

static aioloop *timer_begin(void) {
    timer_log[0] = '\0';
    return test_loop();
}

static void timer_note(char letter) {
    size_t n = strlen(timer_log);
    if (n + 1 < sizeof(timer_log)) {
        timer_log[n] = letter;
        timer_log[n + 1] = '\0';
    }
}

#define TIMER_LETTER(c) ((void *)(uintptr_t)(c))

static void timer_letter(aioloop *loop, void *arg) {
    (void)loop;
    timer_note((char)(uintptr_t)arg);
}

static void timer_count(aioloop *loop, void *arg) {
    (void)loop;
    ++*(int *)arg;
}

static aioloop_timer_handle timer_later(aioloop *loop, aioloop_time delay, aioloop_callback fn, void *arg) {
    aioloop_timer_handle h = aioloop_call_later(loop, delay, fn, arg);
    CHECK(!aioloop_handle_is_null(&h.handle));
    return h;
}

static aioloop_timer_handle timer_at(aioloop *loop, aioloop_time when, aioloop_callback fn, void *arg) {
    aioloop_timer_handle h = aioloop_call_at(loop, when, fn, arg);
    CHECK(!aioloop_handle_is_null(&h.handle));
    return h;
}

static void timer_soon(aioloop *loop, aioloop_callback fn, void *arg) {
    aioloop_handle h = aioloop_call_soon(loop, fn, arg);
    CHECK(!aioloop_handle_is_null(&h));
}

/* A callback that knows when it may come. */
typedef struct timer_probe {
    aioloop_time when;
    aioloop_time came;
    int runs;
} timer_probe;

static void timer_probe_run(aioloop *loop, void *arg) {
    timer_probe *p = (timer_probe *)arg;
    p->came = aioloop_now(loop);
    p->runs++;
}

TEST(timer_comes_once_and_never_early, "LATER-01 HND-04") {
    static const aioloop_time delays[] = {0, 1, 999, 1000, 150000, 999999, 1000000, 1000001, 1700000, 5000000};
    enum { COUNT = 10 };
    aioloop *loop = timer_begin();
    timer_probe probes[2 * COUNT];
    aioloop_timer_handle handles[2 * COUNT];
    int i;
    memset(probes, 0, sizeof(probes));
    for (i = 0; i < COUNT; i++) {
        aioloop_time before = aioloop_now(loop);
        handles[i] = timer_later(loop, delays[i], timer_probe_run, &probes[i]);
        CHECK_GE(handles[i].when, before + delays[i]);
        CHECK_LE(handles[i].when, aioloop_now(loop) + delays[i]);
        probes[i].when = handles[i].when;
    }
    for (i = COUNT; i < 2 * COUNT; i++) {
        probes[i].when = aioloop_now(loop) + delays[i - COUNT];
        handles[i] = timer_at(loop, probes[i].when, timer_probe_run, &probes[i]);
        CHECK_EQ(handles[i].when, probes[i].when);
    }
    CHECK_EQ(probes[0].runs, 0); /* not from inside the call */
    test_run_until(loop, &probes[COUNT - 1].runs, 1, "the last delay");
    test_run_until(loop, &probes[2 * COUNT - 1].runs, 1, "the last time");
    test_run_for(loop, AIOLOOP_MS(1));
    for (i = 0; i < 2 * COUNT; i++) {
        CHECK_EQ(probes[i].runs, 1);
        CHECK_GE(probes[i].came, probes[i].when);
        if (test_simulated(loop)) /* nothing else takes time there */
            CHECK_EQ(probes[i].came, probes[i].when);
        CHECK_EQ(handles[i].when, probes[i].when); /* HND-04: not changed by firing */
        CHECK(!aioloop_handle_cancelled(&handles[i].handle));
    }
    test_end(loop);
}

TEST(timer_comes_when_the_wait_is_its_own, "LATER-01") {
    aioloop *loop = timer_begin();
    int i;
    for (i = 0; i < 5; i++) { /* one at a time: the wait's rounding shows */
        static const aioloop_time delays[] = {1, 40000, 999999, 1000001, 2500000};
        timer_probe probe = AIOLOOP_ZERO;
        probe.when = timer_later(loop, delays[i], timer_probe_run, &probe).when;
        while (probe.runs == 0)
            CHECK_GE(aioloop_run_once(loop, AIOLOOP_FOREVER), 0);
        CHECK_GE(probe.came, probe.when);
        CHECK_LT(probe.came - probe.when, (aioloop_time)(5e9 * test_slowdown())); /* it waits for nothing else */
    }
    test_end(loop);
}

TEST(timer_order_is_that_of_the_deadlines, "LATER-02") {
    aioloop *loop = timer_begin();
    aioloop_time base = aioloop_now(loop) - AIOLOOP_MS(1);
    timer_at(loop, base + 5, timer_letter, TIMER_LETTER('e'));
    timer_at(loop, base + 3, timer_letter, TIMER_LETTER('c'));
    timer_at(loop, base + 1, timer_letter, TIMER_LETTER('a'));
    timer_at(loop, base + 4, timer_letter, TIMER_LETTER('d'));
    timer_at(loop, base + 2, timer_letter, TIMER_LETTER('b'));
    timer_at(loop, base + 5, timer_letter, TIMER_LETTER('f')); /* equal: in the order of the calls */
    timer_at(loop, base + 5, timer_letter, TIMER_LETTER('g'));
    CHECK_GE(aioloop_run_once(loop, 0), 0);
    CHECK_STR(timer_log, "abcdefg"); /* all in one pass */
    test_end(loop);
}

static void timer_past_inside(aioloop *loop, void *arg) {
    (void)arg;
    timer_note('a');
    timer_at(loop, 0, timer_letter, TIMER_LETTER('y'));
    timer_later(loop, AIOLOOP_SECONDS(-1e6), timer_letter, TIMER_LETTER('x'));
    timer_soon(loop, timer_letter, TIMER_LETTER('b'));
}

TEST(timer_of_the_past_comes_in_the_next_pass_after_the_queue, "LATER-03") {
    aioloop *loop = timer_begin();
    timer_later(loop, 0, timer_letter, TIMER_LETTER('3'));
    timer_later(loop, AIOLOOP_MS(-50), timer_letter, TIMER_LETTER('2'));
    timer_at(loop, INT64_MIN + 1, timer_letter, TIMER_LETTER('1'));
    timer_soon(loop, timer_past_inside, NULL);
    timer_soon(loop, timer_letter, TIMER_LETTER('c'));
    CHECK_EQ(aioloop_run_once(loop, 0), 1);
    CHECK_STR(timer_log, "ac123"); /* what was made inside waits for the next pass */
    CHECK_EQ(aioloop_run_once(loop, 0), 0);
    /* 1e6 seconds ago is later than 0 on a clock that shows more, and earlier on one that shows less. */
    CHECK(strcmp(timer_log, "ac123bxy") == 0 || strcmp(timer_log, "ac123byx") == 0);
    test_end(loop);
}

static void timer_wait_for_the_clock(aioloop *loop, void *arg) {
    aioloop_time first = aioloop_now(loop);
    aioloop_time last = first;
    long reads = 0;
    while (last == first && reads++ < 100000000)
        last = aioloop_now(loop);
    *(bool *)arg = last > first;
}

TEST_WITH(timer_clock_shows_the_present, "LATER-04", TEST_REAL_FDS) {
    aioloop *loop = timer_begin();
    aioloop *other;
    bool moved = false;
    aioloop_time last = INT64_MIN;
    aioloop_time a;
    aioloop_time b;
    int i;
    test_needs_real_descriptors(loop); /* the simulated clock stands still while callbacks run */
    timer_soon(loop, timer_wait_for_the_clock, &moved);
    test_spin(loop, 1);
    CHECK(moved);
    for (i = 0; i < 1000; i++) {
        aioloop_time now = aioloop_now(loop);
        CHECK_GE(now, last);
        last = now;
    }
    /* A clock of the system, not of the loop: two loops read the same one, also while neither runs. */
    other = test_loop();
    a = aioloop_now(loop);
    b = aioloop_now(other);
    CHECK_LE(a, b);
    CHECK_LE(b, aioloop_now(loop));
    test_end(other);
    test_end(loop);
}

TEST(timer_clock_of_a_simulation_jumps, "LATER-04") {
    aioloop *loop = timer_begin();
    aioloop_time start = aioloop_now(loop);
    int ran = 0;
    if (!test_simulated(loop)) {
        test_end(loop);
        SKIP("the clock is real");
    }
    timer_later(loop, AIOLOOP_SECONDS(3600.0 * 24 * 365), timer_count, &ran);
    CHECK_EQ(aioloop_run_once(loop, AIOLOOP_FOREVER), 0);
    CHECK_EQ(ran, 1);
    CHECK_EQ(aioloop_now(loop) - start, AIOLOOP_SECONDS(3600.0 * 24 * 365));
    test_end(loop);
}

TEST(timer_far_away_neither_fires_nor_breaks_the_wait, "LATER-05") {
    static const aioloop_time far_away[] = {
        AIOLOOP_FOREVER,
        AIOLOOP_FOREVER - 1,
        AIOLOOP_FOREVER / 2,
        (aioloop_time)3600 * 24 * 30 * 1000000000,          /* days */
        (aioloop_time)3600 * 24 * 365 * 100 * 1000000000,   /* years */
        (aioloop_time)INT32_MAX * 1000000,                  /* milliseconds that just fit an int, */
        ((aioloop_time)INT32_MAX + 1) * 1000000,            /* and do not */
        ((aioloop_time)UINT32_MAX + 2) * 1000000,           /* what wraps to a millisecond */
        ((aioloop_time)INT32_MAX + 1) * 1000000000,         /* seconds that do not fit an int */
        (aioloop_time)100000001 * 1000000000,               /* more seconds than some select() takes */
    };
    enum { COUNT = (int)(sizeof(far_away) / sizeof(far_away[0])) };
    aioloop *loop = timer_begin();
    test_peer far = AIOLOOP_ZERO;
    aioloop_socket fed = test_feed(loop, &far);
    int i;
    for (i = 0; i < COUNT; i++) {
        aioloop_time now = aioloop_now(loop);
        aioloop_timer_handle t = timer_later(loop, far_away[i], timer_letter, TIMER_LETTER('!'));
        int read = 0;
        CHECK_GE(t.when, now);
        CHECK(t.when == AIOLOOP_FOREVER || t.when - now >= far_away[i]); /* saturated, not wrapped */
        CHECK_EQ(aioloop_next_deadline(loop), t.when);
        CHECK_EQ(aioloop_add_reader(loop, fed, timer_count, &read), 0);
        while (read == 0)
            CHECK_GE(aioloop_run_once(loop, AIOLOOP_FOREVER), 0);
        CHECK_EQ(aioloop_remove_reader(loop, fed), 1);
        CHECK_STR(timer_log, "");
        aioloop_timer_handle_cancel(&t);
    }
    test_feed_end(loop, fed, &far);
    test_end(loop);
}

TEST(timer_deadlines_at_the_ends_of_time, "LATER-05 LATER-06") {
    aioloop *loop = timer_begin();
    aioloop_timer_handle never = timer_at(loop, AIOLOOP_FOREVER, timer_letter, TIMER_LETTER('!'));
    aioloop_timer_handle almost = timer_at(loop, AIOLOOP_FOREVER - 1, timer_letter, TIMER_LETTER('!'));
    aioloop_timer_handle t;
    CHECK_EQ(aioloop_next_deadline(loop), AIOLOOP_FOREVER - 1);
    t = timer_later(loop, INT64_MIN + 1, timer_letter, TIMER_LETTER('b'));
    CHECK_LT(t.when, 0); /* saturated, not wrapped */
    timer_at(loop, INT64_MIN + 1, timer_letter, TIMER_LETTER('a'));
    timer_at(loop, -1, timer_letter, TIMER_LETTER('c'));
    timer_at(loop, 0, timer_letter, TIMER_LETTER('d'));
    t = timer_later(loop, AIOLOOP_FOREVER, timer_letter, TIMER_LETTER('!'));
    CHECK_EQ(t.when, AIOLOOP_FOREVER);
    CHECK_EQ(aioloop_run_once(loop, 0), 0);
    CHECK_EQ(strlen(timer_log), 4);
    CHECK(strcmp(timer_log, "abcd") == 0 || strcmp(timer_log, "bacd") == 0);
    /* From the end of time to the beginning and back. */
    timer_log[0] = '\0';
    CHECK_EQ(aioloop_timer_handle_reschedule(&almost, AIOLOOP_FOREVER), 0);
    CHECK_EQ(aioloop_next_deadline(loop), AIOLOOP_FOREVER);
    CHECK_EQ(aioloop_run_once(loop, 0), 0);
    CHECK_EQ(aioloop_timer_handle_reschedule(&never, INT64_MIN + 1), 0);
    CHECK_EQ(never.when, INT64_MIN + 1);
    CHECK_LE(aioloop_next_deadline(loop), aioloop_now(loop));
    CHECK_EQ(aioloop_timer_handle_reschedule(&almost, INT64_MIN + 2), 0);
    CHECK_EQ(aioloop_timer_handle_reschedule(&never, AIOLOOP_FOREVER), 0);
    CHECK_EQ(aioloop_run_once(loop, 0), 0);
    CHECK_STR(timer_log, "!");
    CHECK_EQ(aioloop_timer_handle_reschedule(&never, 0), 0);
    CHECK_EQ(aioloop_run_once(loop, 0), 0);
    CHECK_STR(timer_log, "!!");
    test_end(loop); /* with one that never comes */
}

TEST(timer_that_is_no_time_is_refused, "LATER-06") {
    aioloop *loop = timer_begin();
    aioloop_timer_handle t = aioloop_call_later(loop, AIOLOOP_SECONDS((double)NAN), timer_letter, NULL);
    CHECK(aioloop_handle_is_null(&t.handle));
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EINVAL);
    aioloop_raise(loop, AIOLOOP_EIO, NULL);
    t = aioloop_call_at(loop, AIOLOOP_NOT_A_TIME, timer_letter, NULL);
    CHECK(aioloop_handle_is_null(&t.handle));
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EINVAL);
    aioloop_raise(loop, AIOLOOP_EIO, NULL);
    t = aioloop_call_at_context(loop, AIOLOOP_NOT_A_TIME, timer_letter, NULL, NULL);
    CHECK(aioloop_handle_is_null(&t.handle));
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EINVAL);
    t = timer_later(loop, AIOLOOP_MS(3600000), timer_letter, TIMER_LETTER('a'));
    CHECK_EQ(aioloop_timer_handle_reschedule(&t, AIOLOOP_NOT_A_TIME), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_next_deadline(loop), t.when);
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, AIOLOOP_NOT_A_TIME), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_once(loop, AIOLOOP_NOT_A_TIME), AIOLOOP_EINVAL);
    CHECK_STR(timer_log, "");
    test_end(loop);
}

TEST(timer_seconds_become_nanoseconds, "LATER-06") {
    static const int ms[] = {0, 1, 250, 1001, 1002, 4035, 8007, 65537, 86400001};
    size_t i;
    CHECK_EQ(AIOLOOP_SECONDS(0.25), AIOLOOP_MS(250));
    CHECK_EQ(AIOLOOP_SECONDS(-0.25), AIOLOOP_MS(-250));
    CHECK_EQ(AIOLOOP_SECONDS(1e-9), 1);
    CHECK_EQ(AIOLOOP_SECONDS(0.0), 0);
    CHECK_EQ(AIOLOOP_US(3), 3000);
    for (i = 0; i < sizeof(ms) / sizeof(ms[0]); i++) { /* rounded, not cut: 1.001 is a little less in binary */
        CHECK_EQ(AIOLOOP_SECONDS(ms[i] / 1000.0), AIOLOOP_MS(ms[i]));
        CHECK_EQ(AIOLOOP_SECONDS(-ms[i] / 1000.0), -AIOLOOP_MS(ms[i]));
    }
    CHECK_EQ(AIOLOOP_SECONDS(1e10), AIOLOOP_FOREVER);
    CHECK_EQ(AIOLOOP_SECONDS(1e300), AIOLOOP_FOREVER);
    CHECK_EQ(AIOLOOP_SECONDS((double)INFINITY), AIOLOOP_FOREVER);
    CHECK_LT(AIOLOOP_SECONDS(-1e10), AIOLOOP_SECONDS(-9e9));
    CHECK_NE(AIOLOOP_SECONDS(-1e300), AIOLOOP_NOT_A_TIME); /* long ago, but a time */
    CHECK_NE(AIOLOOP_SECONDS((double)-INFINITY), AIOLOOP_NOT_A_TIME);
    CHECK_EQ(AIOLOOP_SECONDS((double)NAN), AIOLOOP_NOT_A_TIME);
}

static void timer_cancel_other(aioloop *loop, void *arg) {
    aioloop_timer_handle *h = (aioloop_timer_handle *)arg;
    (void)loop;
    timer_note('x');
    aioloop_timer_handle_cancel(h);
}

TEST(timer_cancelled_never_comes_even_when_due, "LATER-07 HND-01 HND-04") {
    aioloop *loop = timer_begin();
    aioloop_timer_handle a = timer_later(loop, AIOLOOP_MS(1), timer_letter, TIMER_LETTER('a'));
    aioloop_timer_handle b;
    aioloop_timer_handle c;
    aioloop_time when = a.when;
    aioloop_timer_handle_cancel(&a);
    CHECK_EQ(aioloop_next_deadline(loop), AIOLOOP_FOREVER); /* really gone */
    test_run_for(loop, AIOLOOP_MS(2));
    CHECK_STR(timer_log, "");
    CHECK_EQ(a.when, when);
    aioloop_timer_handle_cancel(&a);
    CHECK(aioloop_handle_cancelled(&a.handle));
    CHECK_EQ(a.when, when);
    /* Due in the same pass as the timer that cancels it, behind it; and as the callback that does. */
    timer_at(loop, 1, timer_cancel_other, &b);
    b = timer_at(loop, 2, timer_letter, TIMER_LETTER('b'));
    timer_soon(loop, timer_cancel_other, &c);
    c = timer_at(loop, 3, timer_letter, TIMER_LETTER('c'));
    timer_at(loop, 4, timer_letter, TIMER_LETTER('d'));
    test_spin(loop, 3);
    CHECK_STR(timer_log, "xxd");
    CHECK(aioloop_handle_cancelled(&b.handle));
    CHECK(aioloop_handle_cancelled(&c.handle));
    CHECK_EQ(b.when, 2);
    test_end(loop);
}

static void timer_again(aioloop *loop, void *arg) {
    int *left = (int *)arg;
    if (--*left > 0)
        timer_later(loop, AIOLOOP_US(300 + 100 * (*left % 17)), timer_again, left);
}

TEST(timer_short_sleeps_do_not_spin, "LATER-08") {
    aioloop *loop = timer_begin();
    int left = 20;
    int passes = 0;
    timer_soon(loop, timer_again, &left);
    while (left > 0) {
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_FOREVER), 0);
        passes++;
        CHECK_LE(passes, 60);
    }
    if (test_simulated(loop))
        CHECK_EQ(passes, 20);
    test_end(loop);
}

/* ---- moving timers ---- */

TEST(timer_moves_in_both_directions, "") {
    aioloop *loop = timer_begin();
    aioloop_time base = aioloop_now(loop);
    aioloop_timer_handle a = timer_at(loop, base + AIOLOOP_MS(1), timer_letter, TIMER_LETTER('a'));
    aioloop_timer_handle b = timer_at(loop, base + AIOLOOP_MS(2), timer_letter, TIMER_LETTER('b'));
    aioloop_timer_handle c = timer_at(loop, base + AIOLOOP_MS(3600000), timer_letter, TIMER_LETTER('c'));
    aioloop_timer_handle copy = a;
    CHECK_EQ(aioloop_timer_handle_reschedule(&a, base + AIOLOOP_MS(6)), 0);
    CHECK_EQ(a.when, base + AIOLOOP_MS(6));
    CHECK_EQ(aioloop_next_deadline(loop), b.when);
    /* Back again, but not as far as it was: the lazy entry is still too early. */
    CHECK_EQ(aioloop_timer_handle_reschedule(&a, base + AIOLOOP_MS(4)), 0);
    CHECK_EQ(aioloop_timer_handle_reschedule(&copy, base + AIOLOOP_MS(5)), 0); /* a copy moves the same timer */
    CHECK_EQ(aioloop_timer_handle_reschedule(&a, base + AIOLOOP_MS(3)), 0);
    CHECK_EQ(aioloop_timer_handle_reschedule(&c, base), 0); /* from behind to the front */
    CHECK_EQ(aioloop_next_deadline(loop), base);
    test_run_for(loop, AIOLOOP_MS(5));
    CHECK_STR(timer_log, "cba");
    CHECK_EQ(aioloop_timer_handle_reschedule(&a, base + AIOLOOP_MS(9)), AIOLOOP_EINVALIDSTATE); /* it ran */
    CHECK_EQ(a.when, base + AIOLOOP_MS(3));
    CHECK_EQ(aioloop_timer_handle_reschedule(&copy, base), AIOLOOP_EINVALIDSTATE);
    a = timer_later(loop, AIOLOOP_MS(1), timer_letter, TIMER_LETTER('d'));
    aioloop_timer_handle_cancel(&a);
    CHECK_EQ(aioloop_timer_handle_reschedule(&a, base), AIOLOOP_EINVALIDSTATE);
    test_run_for(loop, AIOLOOP_MS(2));
    CHECK_STR(timer_log, "cba");
    test_end(loop);
}

typedef struct timer_mover {
    aioloop_timer_handle self;
    aioloop_timer_handle other;
    int self_result;
    int other_result;
} timer_mover;

static void timer_move_late(aioloop *loop, void *arg) {
    timer_mover *m = (timer_mover *)arg;
    timer_note('m');
    m->self_result = aioloop_timer_handle_reschedule(&m->self, aioloop_now(loop) + AIOLOOP_MS(1));
    m->other_result = aioloop_timer_handle_reschedule(&m->other, aioloop_now(loop) + AIOLOOP_MS(3600000));
}

/* A byte that is found together with the deadline of the time-out it pushes back still counts. */
TEST(timer_that_is_due_can_be_moved_until_it_runs, "LATER-07") {
    aioloop *loop = timer_begin();
    timer_mover m;
    memset(&m, 0, sizeof(m));
    m.self = timer_at(loop, 1, timer_move_late, &m);
    m.other = timer_at(loop, 2, timer_letter, TIMER_LETTER('o'));
    test_spin(loop, 2);
    CHECK_STR(timer_log, "m");
    CHECK_EQ(m.self_result, AIOLOOP_EINVALIDSTATE); /* it ran */
    CHECK_EQ(m.other_result, 0);
    CHECK_EQ(m.self.when, 1);
    CHECK_GT(m.other.when, 2);
    CHECK_EQ(aioloop_next_deadline(loop), m.other.when);
    CHECK_EQ(aioloop_timer_handle_reschedule(&m.other, aioloop_now(loop)), 0);
    test_run_for(loop, AIOLOOP_MS(1));
    CHECK_STR(timer_log, "mo");
    test_end(loop);
}

static void timer_touch(aioloop *loop, void *arg) {
    timer_mover *m = (timer_mover *)arg;
    if (m->self_result-- > 0) {
        int err = aioloop_timer_handle_reschedule(&m->other, aioloop_now(loop) + AIOLOOP_MS(3));
        if (err == 0)
            timer_later(loop, AIOLOOP_US(500), timer_touch, m);
        else /* a slow machine: its time had come before the push */
            CHECK(!test_simulated(loop) && err == AIOLOOP_EINVALIDSTATE);
    }
}

/* An idle time-out that is pushed back again and again comes once, its full time after the last push. */
TEST(timer_pushed_back_comes_after_the_last_push, "") {
    aioloop *loop = timer_begin();
    timer_mover m;
    timer_probe probe = AIOLOOP_ZERO;
    memset(&m, 0, sizeof(m));
    m.other = timer_later(loop, AIOLOOP_MS(3600000), timer_probe_run, &probe);
    m.self_result = 12;
    timer_soon(loop, timer_touch, &m);
    test_run_until(loop, &probe.runs, 1, "the idle time-out");
    CHECK_GE(probe.came, m.other.when);
    test_run_for(loop, AIOLOOP_MS(4));
    CHECK_EQ(probe.runs, 1);
    test_end(loop);
}

/* ---- against a model ---- */

#define TIMER_MANY 10000

typedef struct timer_model {
    aioloop_time when;
    int number; /* in the order of the calls */
    bool cancelled;
    int runs;
} timer_model;

static timer_model timer_models[TIMER_MANY];
static aioloop_timer_handle timer_handles[TIMER_MANY];
static int timer_order[TIMER_MANY];
static int timer_fired;
static uint32_t timer_seed;

static uint32_t timer_random(uint32_t below) {
    timer_seed = timer_seed * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)timer_seed * below) >> 32);
}

static void timer_model_run(aioloop *loop, void *arg) {
    timer_model *m = (timer_model *)arg;
    CHECK_GE(aioloop_now(loop), m->when);
    m->runs++;
    if (timer_fired < TIMER_MANY)
        timer_order[timer_fired] = (int)(m - timer_models);
    timer_fired++;
}

static int timer_model_compare(const void *left, const void *right) {
    const timer_model *a = &timer_models[*(const int *)left];
    const timer_model *b = &timer_models[*(const int *)right];
    if (a->when != b->when)
        return a->when < b->when ? -1 : 1;
    return a->number < b->number ? -1 : 1;
}

TEST(timer_ten_thousand_random_ones_agree_with_a_sorted_list, "LATER-01 LATER-02 LATER-07") {
    static int expected[TIMER_MANY];
    aioloop *loop = timer_begin();
    aioloop_time base = aioloop_now(loop) - AIOLOOP_MS(3);
    int count = 0;
    int i;
    timer_seed = 12345;
    timer_fired = 0;
    for (i = 0; i < TIMER_MANY; i++) {
        timer_model *m = &timer_models[i];
        /* Even times, with many that are equal; some in the past, the last a few milliseconds ahead. */
        m->when = base + 2 * (aioloop_time)timer_random(3000) * 1000;
        m->number = i;
        m->cancelled = false;
        m->runs = 0;
        timer_handles[i] = aioloop_call_at(loop, m->when, timer_model_run, m);
        if (aioloop_handle_is_null(&timer_handles[i].handle))
            FAIL("call_at: %s", aioloop_error_message(aioloop_last_error(loop)));
    }
    for (i = 0; i < TIMER_MANY * 2; i++) {
        int k = (int)timer_random(TIMER_MANY);
        timer_model *m = &timer_models[k];
        if (m->cancelled)
            continue;
        if (timer_random(5) == 0) {
            aioloop_timer_handle_cancel(&timer_handles[k]);
            m->cancelled = true;
        } else { /* odd times that no other has */
            aioloop_time when = base + 2 * (aioloop_time)timer_random(3000) * 1000 + 2 * k % 1000 + 1;
            when += (aioloop_time)timer_random(2) * 2000 * (k / 500);
            if (aioloop_timer_handle_reschedule(&timer_handles[k], when) != 0)
                FAIL("timer %d cannot be moved", k);
            m->when = when;
        }
        if (i % 1000 == 0)
            aioloop_verify(loop);
    }
    for (i = 0; i < TIMER_MANY; i++)
        if (!timer_models[i].cancelled)
            expected[count++] = i;
    qsort(expected, (size_t)count, sizeof(expected[0]), timer_model_compare);
    CHECK_EQ(aioloop_next_deadline(loop), timer_models[expected[0]].when);
    test_run_until(loop, &timer_fired, count, "all timers");
    test_spin(loop, 2);
    CHECK_EQ(timer_fired, count);
    for (i = 0; i < count; i++) {
        const timer_model *want = &timer_models[expected[i]];
        const timer_model *got = &timer_models[timer_order[i]];
        if (want != got && want->when != got->when)
            FAIL("place %d: timer %d instead of %d", i, got->number, want->number);
        if (want->runs != 1)
            FAIL("timer %d ran %d times", want->number, want->runs);
        /* Equal even times are of timers that were never moved: in the order of the calls. */
        if ((want->when - base) % 2 == 0)
            CHECK_PTR(got, want);
    }
    for (i = 0; i < TIMER_MANY; i++)
        if (timer_models[i].cancelled && timer_models[i].runs != 0)
            FAIL("timer %d ran though it was cancelled", i);
    CHECK_EQ(aioloop_next_deadline(loop), AIOLOOP_FOREVER);
    test_end(loop);
}

/* While they fire: each callback moves, cancels or makes others. */
static void timer_storm_run(aioloop *loop, void *arg) {
    timer_model *m = (timer_model *)arg;
    int k = (int)timer_random(1000);
    CHECK_GE(aioloop_now(loop), m->when);
    CHECK(!m->cancelled);
    CHECK_EQ(m->runs, 0);
    m->runs = 1;
    timer_fired++;
    if (timer_models[k].cancelled || timer_models[k].runs != 0)
        return;
    if (timer_random(3) == 0) {
        aioloop_timer_handle_cancel(&timer_handles[k]);
        timer_models[k].cancelled = true;
        timer_fired++;
    } else {
        aioloop_time when = aioloop_now(loop) + (aioloop_time)timer_random(2000000) - 500000;
        if (aioloop_timer_handle_reschedule(&timer_handles[k], when) == 0)
            timer_models[k].when = when;
    }
}

TEST(timer_storm_of_moves_keeps_every_promise, "LATER-01 LATER-07") {
    aioloop *loop = timer_begin();
    aioloop_time base = aioloop_now(loop);
    int i;
    timer_seed = 777;
    timer_fired = 0;
    for (i = 0; i < 1000; i++) {
        timer_models[i].when = base + (aioloop_time)timer_random(2000000);
        timer_models[i].cancelled = false;
        timer_models[i].runs = 0;
        timer_handles[i] = timer_at(loop, timer_models[i].when, timer_storm_run, &timer_models[i]);
    }
    test_run_until(loop, &timer_fired, 1000, "every timer to run or be cancelled");
    test_run_for(loop, AIOLOOP_MS(3));
    CHECK_EQ(timer_fired, 1000);
    CHECK_EQ(aioloop_next_deadline(loop), AIOLOOP_FOREVER);
    test_end(loop);
}
