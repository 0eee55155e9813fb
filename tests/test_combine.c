/*
 * test_combine.c - futures of futures: sleep, gather, wait, wait_for, shield, as_completed. What can be awaited in
 * every style is.
 */
#include "awaits.h"

/* ---- what they combine ---- */

static aioloop_future *combine_future(aioloop *loop) {
    aioloop_future *f = aioloop_create_future(loop);
    CHECK_PTR(aioloop_future_get_loop(f), loop);
    return f;
}

static void combine_make(aioloop *loop, aioloop_future **futures, int count) {
    int i;
    for (i = 0; i < count; i++)
        futures[i] = combine_future(loop);
}

static void combine_drop(aioloop_future **futures, int count) {
    int i;
    for (i = 0; i < count; i++)
        aioloop_future_unref(futures[i]);
}

static void combine_set(aioloop_future *f, int64_t number) {
    int err = aioloop_future_set_result(f, number, NULL, NULL);
    CHECK_EQ(err, 0);
}

static void combine_fail(aioloop_future *f, int code) {
    int err = aioloop_future_set_exception(f, code, "%s here", aioloop_error_name(code));
    CHECK_EQ(err, 0);
}

/* A coroutine that takes its time, and may answer its cancellation. */
typedef struct combine_work {
    aioloop_frame frame;
    aioloop_time delay;
    int64_t number;      /* returned in the end */
    int64_t answer;      /* returned for a cancellation; 0: it is passed on */
    aioloop_time linger; /* how long it cleans up then */
    int64_t n;
    int64_t m;
    int steps;
    int disposed;
    void *pointer;
} combine_work;

static int64_t combine_works(aioloop *loop, aioloop_frame *frame, void **out) {
    combine_work *self = (combine_work *)frame;
    AIOLOOP_BEGIN(loop, frame);
    self->steps = 1;
    AIOLOOP_SLEEP(self->n, self->delay);
    self->steps = 2;
    if (self->n == AIOLOOP_ECANCELED && self->linger != 0)
        AIOLOOP_SLEEP(self->m, self->linger);
    self->steps = 3;
    *out = self->pointer;
    if (self->n == AIOLOOP_ECANCELED && self->answer != 0)
        self->n = self->answer;
    else if (self->n == 0)
        self->n = self->number;
    return self->n < 0 && self->n != AIOLOOP_ECANCELED ? aioloop_raise(loop, (int)self->n, "worked in vain") : self->n;
    AIOLOOP_END;
}

static void combine_dispose(void *pointer) {
    if (!test_has_given_up())
        ((combine_work *)pointer)->disposed++;
}

/* Unclaimed, as create_task gives it. */
static aioloop_task *combine_task(aioloop *loop, combine_work *work) {
    aioloop_task_options options = AIOLOOP_ZERO;
    aioloop_task *t;
    options.dispose_result = combine_dispose;
    memset(&work->frame, 0, sizeof(work->frame));
    t = aioloop_create_task_frame(loop, combine_works, &work->frame, &options);
    CHECK_PTR(aioloop_future_get_loop(t), loop);
    return t;
}

static void combine_cancels(aioloop *loop, void *arg) {
    (void)loop;
    (void)aioloop_future_cancel((aioloop_future *)arg, NULL);
}

static void combine_soon(aioloop *loop, aioloop_callback fn, void *arg) {
    aioloop_handle handle = aioloop_call_soon(loop, fn, arg);
    CHECK(!aioloop_handle_is_null(&handle));
}

/* ---- sleep ---- */

TEST(sleep_is_done_after_its_delay, "TIME-01 TIME-02") {
    aioloop *loop = test_loop();
    aioloop_time begin = aioloop_now(loop);
    aioloop_future *f;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_sleep(loop, AIOLOOP_MS(2)), NULL), 0);
    CHECK_GE(aioloop_now(loop) - begin, AIOLOOP_MS(2));
    f = aioloop_sleep(loop, AIOLOOP_NOT_A_TIME);
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_sleep(NULL, 1)), AIOLOOP_EINVAL);
    f = aioloop_future_ref(aioloop_sleep(loop, AIOLOOP_FOREVER));
    test_spin(loop, 2);
    CHECK(!aioloop_future_done(f));
    CHECK(aioloop_future_cancel(f, "awake"));
    CHECK(aioloop_future_cancelled(f));
    CHECK(aioloop_next_deadline(loop) == AIOLOOP_FOREVER); /* its timer is gone at once */
    CHECK_STR(aioloop_error_message(aioloop_future_error(f)), "awake");
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(dropped_sleep_runs_out_unnoticed, "TIME-02") {
    aioloop *loop = test_loop();
    aioloop_future *f;
    aioloop_future_unref(aioloop_sleep(loop, AIOLOOP_MS(1)));
    test_run_for(loop, AIOLOOP_MS(2));
    aioloop_future_unref(aioloop_sleep(loop, AIOLOOP_SECONDS(100)));
    aioloop_future_unref(aioloop_sleep(loop, 0));
    f = aioloop_sleep(loop, AIOLOOP_SECONDS(100)); /* cancelled once closed */
    CHECK_PTR(aioloop_future_get_loop(f), loop);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK(!aioloop_future_done(f));
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK(aioloop_future_cancelled(f));
    aioloop_future_unref(f);
    test_end(loop);
}

/* ---- gather ---- */

static void gather_in_order(aioloop *loop, await_style style) {
    awaiter a = AIOLOOP_ZERO;
    aioloop_future *f[3];
    aioloop_results *results;
    int thing = 0;
    void *out = NULL;
    combine_make(loop, f, 3);
    await_begin(&a, loop, style, aioloop_gather(loop, f, 3, false));
    test_spin(loop, 2);
    combine_set(f[2], 30);
    test_spin(loop, 2);
    CHECK_EQ(aioloop_future_set_result(f[0], 10, &thing, NULL), 0);
    test_spin(loop, 2);
    CHECK_EQ(a.done, 0);
    combine_set(f[1], 20);
    CHECK_EQ(await_end(&a), 3);
    results = (aioloop_results *)a.pointer;
    CHECK_EQ(aioloop_results_count(results), 3);
    CHECK_EQ(aioloop_results_get(results, 0, &out), 10);
    CHECK_PTR(out, &thing);
    CHECK_EQ(aioloop_results_get(results, 1, NULL), 20);
    CHECK_EQ(aioloop_results_get(results, 2, NULL), 30);
    CHECK_EQ(aioloop_results_get(results, 3, NULL), AIOLOOP_EINVAL);
    CHECK(aioloop_results_error(results, 0) == NULL);
    CHECK(aioloop_results_error(results, 3) == NULL);
    aioloop_results_free(results);
    combine_drop(f, 3);
}

TEST(gather_keeps_the_order, "GATH-01") {
    await_in_all_styles(gather_in_order);
}

static void gather_nothing(aioloop *loop, await_style style) {
    awaiter a;
    CHECK_EQ(await_now(&a, loop, style, aioloop_gather(loop, NULL, 0, false)), 0);
    CHECK_EQ(aioloop_results_count((aioloop_results *)a.pointer), 0);
    CHECK_EQ(aioloop_results_get((aioloop_results *)a.pointer, 0, NULL), AIOLOOP_EINVAL);
    aioloop_results_free((aioloop_results *)a.pointer);
    CHECK_EQ(await_now(&a, loop, style, aioloop_gather(loop, NULL, 0, true)), 0);
    aioloop_results_free((aioloop_results *)a.pointer);
    aioloop_results_free(NULL);
    CHECK_EQ(aioloop_results_count(NULL), 0);
    CHECK_EQ(aioloop_results_get(NULL, 0, NULL), AIOLOOP_EINVAL);
    CHECK(aioloop_results_error(NULL, 0) == NULL);
}

TEST(gather_of_nothing_is_an_empty_list, "GATH-01") {
    await_in_all_styles(gather_nothing);
}

static void gather_first_failure(aioloop *loop, await_style style) {
    awaiter a = AIOLOOP_ZERO;
    combine_work slow = AIOLOOP_ZERO;
    aioloop_future *f[4];
    combine_make(loop, f, 3);
    slow.delay = AIOLOOP_SECONDS(100);
    slow.answer = 4;
    f[3] = aioloop_future_ref(combine_task(loop, &slow));
    await_begin(&a, loop, style, aioloop_gather(loop, f, 4, false));
    test_spin(loop, 2);
    combine_fail(f[1], AIOLOOP_EIO);
    CHECK_EQ(await_end(&a), AIOLOOP_EIO);
    CHECK_STR(a.message, "EIO here");
    CHECK(!aioloop_future_done(f[0])); /* the others run on */
    CHECK(!aioloop_future_done(f[2]));
    CHECK_EQ(slow.steps, 1);
    CHECK_EQ(aioloop_task_cancelling(f[3]), 0);
    combine_fail(f[2], AIOLOOP_EPIPE); /* nobody hears of this one, and it is not reported */
    combine_set(f[0], 1);
    CHECK(aioloop_future_cancel(f[3], NULL));
    await_done(loop, f[3]);
    CHECK_EQ(aioloop_future_result(f[3], NULL), 4);
    test_spin(loop, 2);
    combine_drop(f, 4);
}

TEST(gather_fails_at_once_and_the_others_run_on, "GATH-02") {
    await_in_all_styles(gather_first_failure);
}

static void gather_errors_as_results(aioloop *loop, await_style style) {
    awaiter a = AIOLOOP_ZERO;
    aioloop_future *f[4];
    aioloop_results *results;
    combine_make(loop, f, 4);
    combine_fail(f[0], AIOLOOP_EIO); /* done already */
    await_begin(&a, loop, style, aioloop_gather(loop, f, 4, true));
    test_spin(loop, 2);
    CHECK(aioloop_future_cancel(f[1], "not this one"));
    combine_set(f[2], 3);
    test_spin(loop, 2);
    CHECK_EQ(a.done, 0);
    combine_fail(f[3], AIOLOOP_EPIPE);
    CHECK_EQ(await_end(&a), 4);
    results = (aioloop_results *)a.pointer;
    CHECK_EQ(aioloop_results_get(results, 0, NULL), AIOLOOP_EIO);
    CHECK_STR(aioloop_error_message(aioloop_results_error(results, 0)), "EIO here");
    CHECK_EQ(aioloop_results_get(results, 1, NULL), AIOLOOP_ECANCELED);
    CHECK_STR(aioloop_error_message(aioloop_results_error(results, 1)), "not this one");
    CHECK_EQ(aioloop_results_get(results, 2, NULL), 3);
    CHECK_EQ(aioloop_results_get(results, 3, NULL), AIOLOOP_EPIPE);
    aioloop_results_free(results);
    combine_drop(f, 4);
}

TEST(gather_may_have_errors_as_results, "GATH-03") {
    await_in_all_styles(gather_errors_as_results);
}

static void gather_cancelled_child(aioloop *loop, await_style style) {
    awaiter a = AIOLOOP_ZERO;
    aioloop_future *f[2];
    aioloop_future *g;
    combine_make(loop, f, 2);
    g = aioloop_future_ref(aioloop_gather(loop, f, 2, false));
    await_begin(&a, loop, style, g);
    test_spin(loop, 2);
    CHECK(aioloop_future_cancel(f[1], "child's"));
    CHECK_EQ(await_end(&a), AIOLOOP_ECANCELED);
    CHECK_STR(a.message, "child's");
    CHECK(!aioloop_future_cancelled(g));
    CHECK(aioloop_future_done(g));
    CHECK(!aioloop_future_done(f[0]));
    aioloop_future_unref(g);
    combine_drop(f, 2);
}

TEST(gather_with_a_cancelled_child_fails_and_is_not_cancelled, "GATH-04") {
    await_in_all_styles(gather_cancelled_child);
}

static void gather_cancelled(aioloop *loop, await_style style) {
    int keep;
    for (keep = 0; keep < 2; keep++) {
        awaiter a = AIOLOOP_ZERO;
        combine_work lingers = AIOLOOP_ZERO;
        aioloop_future *f[3];
        aioloop_future *g;
        combine_make(loop, f, 2);
        combine_set(f[0], 1); /* done: not touched */
        lingers.delay = AIOLOOP_SECONDS(100);
        lingers.linger = AIOLOOP_MS(1);
        f[2] = combine_task(loop, &lingers);
        g = aioloop_future_ref(aioloop_gather(loop, f, 3, keep != 0));
        await_begin(&a, loop, style, g);
        test_spin(loop, 2);
        await_cancel(&a, "all");
        CHECK(aioloop_future_cancelled(f[1]));
        test_spin(loop, 2);
        CHECK(!aioloop_future_done(g)); /* it waits for all of them */
        CHECK_EQ(await_end(&a), AIOLOOP_ECANCELED);
        CHECK_EQ(lingers.steps, 3);
        CHECK(aioloop_future_cancelled(g));
        CHECK_STR(a.message, "all");
        CHECK_EQ(aioloop_future_result(f[0], NULL), 1);
        aioloop_future_unref(g);
        combine_drop(f, 2);
    }
}

TEST(cancelling_gather_cancels_all_children, "GATH-05 TIME-06") {
    await_in_all_styles(gather_cancelled);
}

TEST(gather_of_the_same_future_twice, "GATH-06") {
    aioloop *loop = test_loop();
    combine_work work = AIOLOOP_ZERO;
    aioloop_results *results = NULL;
    aioloop_future *t = aioloop_future_ref(combine_task(loop, &work));
    aioloop_future *f[3];
    work.delay = AIOLOOP_US(100);
    work.number = 8;
    f[0] = t;
    f[1] = combine_future(loop);
    f[2] = t;
    combine_set(f[1], 5);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_gather(loop, f, 3, false), &results), 3);
    CHECK_EQ(aioloop_results_get(results, 0, NULL), 8);
    CHECK_EQ(aioloop_results_get(results, 1, NULL), 5);
    CHECK_EQ(aioloop_results_get(results, 2, NULL), 8);
    aioloop_results_free(results);
    aioloop_future_unref(t);
    aioloop_future_unref(f[1]);
    test_end(loop);
}

TEST(gather_of_an_unclaimed_future_twice_is_misuse, "GATH-06") {
    aioloop *loop = test_loop();
    aioloop_future *f[5];
    int kind;
    for (kind = 0; kind < 3; kind++) {
        f[0] = aioloop_sleep(loop, kind == 0 ? 0 : AIOLOOP_MS(1));
        f[1] = aioloop_sleep(loop, 0);
        f[2] = f[0];
        f[3] = f[0];
        f[4] = f[1];
        CHECK_PTR(aioloop_future_get_loop(f[0]), loop);
        CHECK_PTR(aioloop_future_get_loop(f[1]), loop);
        if (kind == 2)
            aioloop_future_ref(f[1]);
        CHECK_EQ(aioloop_run_until_complete(loop, aioloop_gather(loop, f, 5, false), NULL), AIOLOOP_EMISUSE);
        if (kind == 2)
            aioloop_future_unref(f[1]);
    }
    f[0] = aioloop_sleep(loop, 0); /* and where the call is refused before it looks */
    f[1] = f[0];
    f[2] = f[0];
    f[3] = NULL;
    CHECK_PTR(aioloop_future_get_loop(f[0]), loop);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_gather(loop, f, 4, false), NULL), AIOLOOP_EINVAL);
    f[0] = aioloop_sleep(loop, 0);
    f[1] = f[0];
    f[2] = f[0];
    CHECK_PTR(aioloop_future_get_loop(f[0]), loop);
    CHECK(aioloop_as_completed(loop, f, 3, AIOLOOP_FOREVER) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EMISUSE);
    test_run_for(loop, AIOLOOP_MS(2));
    test_end(loop);
}

TEST(gather_refuses_what_is_no_future_of_its_loop, "GATH-06") {
    aioloop *loop = test_loop();
    aioloop *other = test_loop();
    aioloop_future *f[2];
    f[0] = combine_future(loop);
    f[1] = combine_future(other);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_gather(loop, f, 2, false), NULL), AIOLOOP_EINVAL);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), "the future belongs to another loop");
    aioloop_future_unref(f[1]);
    f[1] = NULL;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_gather(loop, f, 2, false), NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_gather(loop, NULL, 1, false), NULL), AIOLOOP_EINVAL);
    f[1] = aioloop_sleep(loop, AIOLOOP_NOT_A_TIME); /* a static failure is as good as any other */
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_gather(loop, f, 2, false), NULL), AIOLOOP_EINVAL);
    combine_set(f[0], 1);
    {
        aioloop_results *results = NULL;
        CHECK_EQ(aioloop_run_until_complete(loop, aioloop_gather(loop, f, 2, true), &results), 2);
        CHECK_EQ(aioloop_results_get(results, 1, NULL), AIOLOOP_EINVAL);
        CHECK_EQ(aioloop_error_code(aioloop_results_error(results, 1)), AIOLOOP_EINVAL);
        aioloop_results_free(results);
    }
    aioloop_future_unref(f[0]);
    test_end(other);
    test_end(loop);
}

TEST(results_that_nobody_takes_are_disposed_of, "GATH-01") {
    aioloop *loop = test_loop();
    combine_work work[2];
    aioloop_future *f[2];
    aioloop_results *results = NULL;
    void *out = NULL;
    int i;
    memset(work, 0, sizeof(work));
    for (i = 0; i < 2; i++) {
        work[i].pointer = &work[i];
        f[i] = combine_task(loop, &work[i]);
    }
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_gather(loop, f, 2, false), &results), 2);
    CHECK_EQ(aioloop_results_get(results, 0, &out), 0);
    CHECK_PTR(out, &work[0]);
    CHECK_EQ(aioloop_results_get(results, 1, NULL), 0);
    aioloop_results_free(results);
    CHECK_EQ(work[0].disposed, 0); /* taken */
    CHECK_EQ(work[1].disposed, 1);
    f[0] = combine_task(loop, &work[0]);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_gather(loop, f, 1, false), NULL), 1); /* none of it */
    CHECK_EQ(work[0].disposed, 1);
    f[0] = combine_task(loop, &work[0]);
    aioloop_future_unref(aioloop_gather(loop, f, 1, false)); /* dropped: it goes on unseen */
    test_spin(loop, 5);
    CHECK_EQ(work[0].disposed, 2);
    test_end(loop);
}

TEST(gather_and_its_results_go_with_the_loop, "RUN-19") {
    aioloop *loop = test_loop();
    aioloop_future *f[2];
    aioloop_results *results = NULL;
    aioloop_future *g;
    combine_make(loop, f, 2);
    combine_set(f[0], 1);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_gather(loop, f, 1, false), &results), 1);
    g = aioloop_gather(loop, f, 2, false);
    CHECK_PTR(aioloop_future_get_loop(g), loop);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK(!aioloop_future_done(g));
    CHECK_EQ(aioloop_results_get(results, 0, NULL), 1);
    CHECK(aioloop_future_cancel(g, NULL)); /* no harm */
    CHECK(aioloop_future_cancelled(f[1]));
    test_end(loop);
}

/* ---- wait ---- */

static void wait_conditions(aioloop *loop, await_style style) {
    static const aioloop_return_when whens[] = {AIOLOOP_ALL_COMPLETED, AIOLOOP_FIRST_COMPLETED,
                                                AIOLOOP_FIRST_EXCEPTION};
    int k;
    for (k = 0; k < 3; k++) {
        awaiter a = AIOLOOP_ZERO;
        aioloop_wait_options options = AIOLOOP_ZERO;
        aioloop_future *f[4];
        int expected;
        combine_make(loop, f, 4);
        options.return_when = whens[k];
        await_begin(&a, loop, style, aioloop_wait(loop, f, 4, &options));
        test_spin(loop, 2);
        CHECK_EQ(a.done, 0);
        CHECK(aioloop_future_cancel(f[1], NULL)); /* done, and no failure */
        test_spin(loop, 3);
        CHECK_EQ(a.done, k == 1);
        combine_fail(f[2], AIOLOOP_EIO);
        test_spin(loop, 3);
        CHECK_EQ(a.done, k >= 1);
        combine_set(f[0], 1);
        combine_set(f[3], 1);
        expected = k == 0 ? 4 : k;
        CHECK_EQ(await_end(&a), expected);
        CHECK_EQ(aioloop_future_exception(f[2]), AIOLOOP_EIO);
        combine_drop(f, 4);
    }
}

TEST(wait_ends_when_all_or_the_first_are_done_or_failed, "WAIT-01") {
    await_in_all_styles(wait_conditions);
}

static void wait_all_done_before(aioloop *loop, await_style style) {
    awaiter a;
    aioloop_wait_options options = AIOLOOP_ZERO;
    aioloop_future *f[2];
    int k;
    combine_make(loop, f, 2);
    combine_set(f[0], 1);
    combine_fail(f[1], AIOLOOP_EIO);
    for (k = 0; k < 3; k++) {
        options.return_when = (aioloop_return_when)k;
        CHECK_EQ(await_now(&a, loop, style, aioloop_wait(loop, f, 2, &options)), 2);
    }
    CHECK_EQ(await_now(&a, loop, style, aioloop_wait(loop, f, 2, NULL)), 2);
    CHECK_EQ(aioloop_future_exception(f[1]), AIOLOOP_EIO);
    combine_drop(f, 2);
}

TEST(wait_for_what_is_done_ends_at_once, "WAIT-01") {
    await_in_all_styles(wait_all_done_before);
}

static void wait_time_out(aioloop *loop, await_style style) {
    static const aioloop_time timeouts[] = {AIOLOOP_MS(1), -1, INT64_MIN + 1};
    awaiter a;
    aioloop_wait_options options = AIOLOOP_ZERO;
    aioloop_future *f[2];
    int k;
    combine_make(loop, f, 2);
    combine_set(f[0], 1);
    for (k = 0; k < 3; k++) {
        options.timeout = timeouts[k];
        CHECK_EQ(await_now(&a, loop, style, aioloop_wait(loop, f, 2, &options)), 1); /* no error */
        CHECK(!aioloop_future_done(f[1]));
    }
    memset(&a, 0, sizeof(a));
    options.timeout = AIOLOOP_FOREVER;
    await_begin(&a, loop, style, aioloop_wait(loop, f, 2, &options));
    test_spin(loop, 3);
    CHECK(aioloop_next_deadline(loop) == AIOLOOP_FOREVER);
    combine_set(f[1], 1);
    CHECK_EQ(await_end(&a), 2);
    memset(&a, 0, sizeof(a));
    aioloop_future_unref(f[1]);
    f[1] = combine_future(loop);
    options.timeout = INT64_MAX - 1;
    await_begin(&a, loop, style, aioloop_wait(loop, f, 2, &options));
    test_spin(loop, 2);
    combine_set(f[1], 1);
    CHECK_EQ(await_end(&a), 2);
    CHECK(aioloop_next_deadline(loop) == AIOLOOP_FOREVER); /* its timer has gone */
    combine_drop(f, 2);
}

TEST(time_out_of_wait_is_no_error_and_cancels_nothing, "WAIT-01 WAIT-02") {
    await_in_all_styles(wait_time_out);
}

static void wait_cancelled(aioloop *loop, await_style style) {
    awaiter a = AIOLOOP_ZERO;
    aioloop_wait_options options = AIOLOOP_ZERO;
    aioloop_future *f[2];
    combine_make(loop, f, 2);
    options.timeout = AIOLOOP_SECONDS(50);
    await_begin(&a, loop, style, aioloop_wait(loop, f, 2, &options));
    test_spin(loop, 2);
    combine_set(f[0], 1); /* its callback is queued, and comes after the end */
    await_cancel(&a, "no more");
    CHECK_EQ(await_end(&a), AIOLOOP_ECANCELED);
    CHECK_STR(a.message, "no more");
    CHECK(!aioloop_future_done(f[1]));
    CHECK(aioloop_next_deadline(loop) == AIOLOOP_FOREVER);
    combine_drop(f, 2);
}

TEST(cancelling_wait_cancels_nothing_else, "WAIT-02") {
    await_in_all_styles(wait_cancelled);
}

TEST(wait_refuses_bad_arguments, "WAIT-03") {
    aioloop *loop = test_loop();
    aioloop *other = test_loop();
    aioloop_wait_options options = AIOLOOP_ZERO;
    combine_work work = AIOLOOP_ZERO;
    aioloop_future *f[2];
    f[0] = combine_future(loop);
    f[1] = NULL;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wait(loop, f, 0, NULL), NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wait(loop, NULL, 0, NULL), NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wait(loop, NULL, 1, NULL), NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wait(loop, f, 2, NULL), NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_wait(NULL, f, 1, NULL)), AIOLOOP_EINVAL);
    f[1] = combine_future(other);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wait(loop, f, 2, NULL), NULL), AIOLOOP_EINVAL);
    aioloop_future_unref(f[1]);
    options.return_when = (aioloop_return_when)3;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wait(loop, f, 1, &options), NULL), AIOLOOP_EINVAL);
    options.return_when = AIOLOOP_ALL_COMPLETED;
    options.timeout = AIOLOOP_NOT_A_TIME;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wait(loop, f, 1, &options), NULL), AIOLOOP_EINVAL);
    f[1] = combine_task(loop, &work); /* unclaimed: it could not be looked at afterwards */
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wait(loop, f, 2, NULL), NULL), AIOLOOP_EINVAL);
    test_run_until(loop, &work.steps, 3, "the task, which runs on");
    CHECK(!aioloop_future_done(f[0]));
    aioloop_future_unref(f[0]);
    test_end(other);
    test_end(loop);
}

typedef struct combine_looping {
    aioloop_future *futures[5];
    char order[8];
    int rounds;
} combine_looping;

static int64_t combine_waits_in_a_loop(aioloop *loop, void *arg, void **out) {
    combine_looping *l = (combine_looping *)arg;
    aioloop_wait_options options = AIOLOOP_ZERO;
    size_t left = 5;
    size_t i;
    (void)out;
    options.return_when = AIOLOOP_FIRST_COMPLETED;
    while (left != 0) { /* over the same set, less what was done */
        int64_t n = aioloop_await(aioloop_wait(loop, l->futures, left, &options), NULL);
        if (n < 0)
            return n;
        CHECK_GE(n, 1);
        l->rounds++;
        for (i = 0; i < left;) {
            if (!aioloop_future_done(l->futures[i])) {
                i++;
                continue;
            }
            l->order[strlen(l->order)] = (char)('0' + aioloop_future_result(l->futures[i], NULL));
            aioloop_future_unref(l->futures[i]);
            l->futures[i] = l->futures[--left];
        }
    }
    return l->rounds;
}

TEST(wait_for_the_first_in_a_loop_over_the_same_set, "WAIT-01") {
    aioloop *loop = test_loop();
    combine_looping l = AIOLOOP_ZERO;
    combine_work works[5];
    int i;
    await_needs_stacks(loop);
    memset(works, 0, sizeof(works));
    for (i = 0; i < 5; i++) {
        works[i].number = i;
        works[i].delay = AIOLOOP_US(300) * (5 - i);
        l.futures[i] = aioloop_future_ref(combine_task(loop, &works[i]));
    }
    CHECK_GE(await_run(loop, combine_waits_in_a_loop, &l), 1);
    CHECK_EQ(strlen(l.order), 5);
    if (test_simulated(loop))
        CHECK_STR(l.order, "43210");
    test_end(loop);
}

/* ---- wait_for ---- */

static void wait_for_in_time(aioloop *loop, await_style style) {
    awaiter a;
    combine_work work = AIOLOOP_ZERO;
    work.number = 6;
    work.pointer = &work;
    work.delay = AIOLOOP_US(200);
    CHECK_EQ(await_now(&a, loop, style, aioloop_wait_for(combine_task(loop, &work), AIOLOOP_SECONDS(100))), 6);
    CHECK_PTR(a.pointer, &work);
    CHECK_EQ(work.disposed, 0);
    CHECK(aioloop_next_deadline(loop) == AIOLOOP_FOREVER);
    CHECK_EQ(await_now(&a, loop, style, aioloop_wait_for(combine_task(loop, &work), AIOLOOP_FOREVER)), 6);
    work.number = AIOLOOP_EIO;
    CHECK_EQ(await_now(&a, loop, style, aioloop_wait_for(combine_task(loop, &work), INT64_MAX - 5)), AIOLOOP_EIO);
    CHECK_STR(a.message, "worked in vain");
}

TEST(wait_for_gives_the_outcome_in_time, "TIME-03") {
    await_in_all_styles(wait_for_in_time);
}

static void wait_for_too_late(aioloop *loop, await_style style) {
    awaiter a = AIOLOOP_ZERO;
    combine_work work = AIOLOOP_ZERO;
    aioloop_task *t;
    work.delay = AIOLOOP_SECONDS(100);
    work.linger = AIOLOOP_MS(1);
    t = aioloop_future_ref(combine_task(loop, &work));
    await_begin(&a, loop, style, aioloop_wait_for(t, AIOLOOP_US(500)));
    CHECK_EQ(await_end(&a), AIOLOOP_ETIMEDOUT);
    CHECK_EQ(work.steps, 3); /* it had ended before */
    CHECK(aioloop_future_cancelled(t));
    aioloop_future_unref(t);
}

TEST(wait_for_cancels_what_is_late_and_waits_until_it_has_ended, "TIME-03") {
    await_in_all_styles(wait_for_too_late);
}

static void wait_for_no_time(aioloop *loop, await_style style) {
    static const aioloop_time timeouts[] = {0, -1, INT64_MIN + 1};
    int k;
    for (k = 0; k < 3; k++) {
        awaiter a;
        combine_work work = AIOLOOP_ZERO;
        aioloop_future *f = combine_future(loop);
        CHECK_EQ(await_now(&a, loop, style, aioloop_wait_for(combine_task(loop, &work), timeouts[k])),
                 AIOLOOP_ETIMEDOUT);
        CHECK_EQ(work.steps, 0); /* not started at all */
        CHECK_EQ(await_now(&a, loop, style, aioloop_wait_for(f, timeouts[k])), AIOLOOP_ETIMEDOUT);
        CHECK(aioloop_future_cancelled(f));
        CHECK_EQ(await_now(&a, loop, style, aioloop_wait_for(f, timeouts[k])), AIOLOOP_ECANCELED);
        aioloop_future_unref(f);
        f = combine_future(loop);
        combine_set(f, 4);
        CHECK_EQ(await_now(&a, loop, style, aioloop_wait_for(f, timeouts[k])), 4);
        aioloop_future_unref(f);
    }
}

TEST(wait_for_without_time_takes_only_what_is_done, "TIME-04") {
    await_in_all_styles(wait_for_no_time);
}

static void wait_for_answered(aioloop *loop, await_style style) {
    awaiter a;
    combine_work work = AIOLOOP_ZERO;
    work.delay = AIOLOOP_SECONDS(100);
    work.answer = 21;
    work.pointer = &work;
    CHECK_EQ(await_now(&a, loop, style, aioloop_wait_for(combine_task(loop, &work), AIOLOOP_US(200))), 21);
    CHECK_PTR(a.pointer, &work);
    work.answer = AIOLOOP_EPIPE;
    CHECK_EQ(await_now(&a, loop, style, aioloop_wait_for(combine_task(loop, &work), AIOLOOP_US(200))), AIOLOOP_EPIPE);
    CHECK_STR(a.message, "worked in vain");
}

TEST(wait_for_takes_an_answer_to_the_cancellation, "TIME-05") {
    await_in_all_styles(wait_for_answered);
}

static void wait_for_cancelled(aioloop *loop, await_style style) {
    awaiter a = AIOLOOP_ZERO;
    combine_work work = AIOLOOP_ZERO;
    aioloop_task *t;
    work.delay = AIOLOOP_SECONDS(100);
    work.linger = AIOLOOP_US(300);
    t = aioloop_future_ref(combine_task(loop, &work));
    await_begin(&a, loop, style, aioloop_wait_for(t, AIOLOOP_SECONDS(100)));
    test_spin(loop, 2);
    await_cancel(&a, "given up");
    CHECK_EQ(await_end(&a), AIOLOOP_ECANCELED);
    CHECK_STR(a.message, "given up"); /* the message comes through */
    CHECK_EQ(work.steps, 3);
    CHECK(aioloop_future_cancelled(t));
    aioloop_future_unref(t);
    CHECK(aioloop_next_deadline(loop) == AIOLOOP_FOREVER);
}

TEST(cancelling_wait_for_cancels_the_work, "TIME-06") {
    await_in_all_styles(wait_for_cancelled);
}

TEST(wait_for_cancelled_while_it_times_out_is_cancelled, "TIME-06") {
    aioloop *loop = test_loop();
    combine_work work = AIOLOOP_ZERO;
    aioloop_future *f;
    work.delay = AIOLOOP_SECONDS(100);
    work.linger = AIOLOOP_MS(2);
    f = aioloop_future_ref(aioloop_wait_for(combine_task(loop, &work), AIOLOOP_US(100)));
    test_run_until(loop, &work.steps, 2, "the time-out");
    CHECK(!aioloop_future_done(f));
    CHECK(aioloop_future_cancel(f, NULL));
    await_done(loop, f);
    CHECK(aioloop_future_cancelled(f));
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(wait_for_and_shield_refuse_bad_arguments, "TIME-03 SHLD-01") {
    aioloop *loop = test_loop();
    aioloop_future *f = combine_future(loop);
    aioloop_future *s;
    CHECK_EQ(aioloop_future_exception(aioloop_wait_for(NULL, 1)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_shield(NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wait_for(f, AIOLOOP_NOT_A_TIME), NULL), AIOLOOP_EINVAL);
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(aioloop_future_exception(aioloop_wait_for(aioloop_create_future(NULL), 1)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_shield(aioloop_create_future(NULL))), AIOLOOP_EINVAL);
    s = aioloop_sleep(loop, AIOLOOP_MS(1)); /* no run between its making and its uses: it goes when it is done */
    aioloop_future_unref(aioloop_shield(s));
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_shield(s), NULL), AIOLOOP_EMISUSE); /* used already */
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(result_of_wait_for_that_nobody_takes_is_disposed_of_once, "") {
    aioloop *loop = test_loop();
    combine_work work = AIOLOOP_ZERO;
    aioloop_future *f;
    void *out = NULL;
    work.pointer = &work;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wait_for(combine_task(loop, &work), AIOLOOP_SECONDS(1)), NULL),
             0);
    CHECK_EQ(work.disposed, 1);
    f = aioloop_shield(aioloop_wait_for(aioloop_shield(combine_task(loop, &work)), AIOLOOP_SECONDS(1)));
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), 0);
    CHECK_EQ(work.disposed, 2);
    f = aioloop_shield(aioloop_wait_for(aioloop_shield(combine_task(loop, &work)), AIOLOOP_SECONDS(1)));
    CHECK_EQ(aioloop_run_until_complete(loop, f, &out), 0);
    CHECK_PTR(out, &work);
    CHECK_EQ(work.disposed, 2);
    aioloop_future_unref(aioloop_wait_for(combine_task(loop, &work), AIOLOOP_SECONDS(1)));
    test_spin(loop, 5);
    CHECK_EQ(work.disposed, 3);
    test_end(loop);
}

/* ---- shield ---- */

static void shield_cancelled(aioloop *loop, await_style style) {
    awaiter a = AIOLOOP_ZERO;
    combine_work work = AIOLOOP_ZERO;
    aioloop_task *t;
    work.delay = AIOLOOP_SECONDS(100);
    work.answer = 5;
    t = aioloop_future_ref(combine_task(loop, &work));
    await_begin(&a, loop, style, aioloop_shield(t));
    test_spin(loop, 2);
    await_cancel(&a, "outside");
    CHECK_EQ(await_end(&a), AIOLOOP_ECANCELED);
    CHECK_STR(a.message, "outside");
    CHECK_EQ(work.steps, 1);
    CHECK_EQ(aioloop_task_cancelling(t), 0);
    CHECK(!aioloop_future_done(t));
    CHECK(aioloop_future_cancel(t, NULL));
    await_done(loop, t);
    CHECK_EQ(aioloop_future_result(t, NULL), 5);
    aioloop_future_unref(t);
}

TEST(cancelled_shield_leaves_the_inner_one_alone, "SHLD-01") {
    await_in_all_styles(shield_cancelled);
}

static void shield_outcomes(aioloop *loop, await_style style) {
    awaiter a = AIOLOOP_ZERO;
    aioloop_future *f = combine_future(loop);
    await_begin(&a, loop, style, aioloop_shield(f));
    test_spin(loop, 2);
    CHECK(aioloop_future_cancel(f, "inside")); /* the inner one's own cancellation comes out */
    CHECK_EQ(await_end(&a), AIOLOOP_ECANCELED);
    CHECK_STR(a.message, "inside");
    aioloop_future_unref(f);
    f = combine_future(loop);
    memset(&a, 0, sizeof(a));
    await_begin(&a, loop, style, aioloop_shield(f));
    test_spin(loop, 2);
    combine_fail(f, AIOLOOP_EIO);
    CHECK_EQ(await_end(&a), AIOLOOP_EIO);
    CHECK_STR(a.message, "EIO here");
    CHECK_EQ(await_now(&a, loop, style, aioloop_shield(f)), AIOLOOP_EIO); /* done before */
    aioloop_future_unref(f);
}

TEST(shield_carries_the_inner_outcome, "SHLD-01") {
    await_in_all_styles(shield_outcomes);
}

TEST(failure_behind_a_cancelled_shield_is_told_once, "SHLD-01") {
    aioloop *loop = test_loop();
    combine_work work = AIOLOOP_ZERO;
    aioloop_future *s;
    work.delay = AIOLOOP_US(200);
    work.number = AIOLOOP_EIO;
    s = aioloop_future_ref(aioloop_shield(combine_task(loop, &work))); /* the shield is its one use, and keeps it */
    test_spin(loop, 1);
    CHECK(aioloop_future_cancel(s, NULL));
    aioloop_future_unref(s);
    test_run_until(loop, &work.steps, 3, "the work");
    test_spin(loop, 3);
    CHECK_EQ(test_reports(), 1); /* nobody else will hear of it */
    test_reports_clear();
    test_end(loop);
}

/* ---- as_completed ---- */

typedef struct combine_collecting {
    aioloop_completed *completed;
    aioloop_future *futures[6];
    int64_t numbers[8];
    int count;
    int end; /* the code that ended it */
} combine_collecting;

static int64_t combine_collects(aioloop *loop, void *arg, void **out) {
    combine_collecting *c = (combine_collecting *)arg;
    (void)loop;
    (void)out;
    for (;;) {
        aioloop_future *f = NULL;
        int64_t i = aioloop_await(aioloop_completed_next(c->completed), &f);
        if (i == AIOLOOP_ESTOPITERATION)
            return c->count;
        if (i < 0 && i != AIOLOOP_ETIMEDOUT)
            return i;
        CHECK_LT(c->count, 8);
        if (i >= 0) {
            CHECK(aioloop_future_done(f));
            CHECK(c->futures[i] == NULL || c->futures[i] == f);
        }
        c->numbers[c->count++] = i;
    }
}

TEST(as_completed_gives_them_in_order_of_completion, "ASC-01") {
    aioloop *loop = test_loop();
    combine_collecting c = AIOLOOP_ZERO;
    aioloop_task *t;
    await_needs_stacks(loop);
    combine_make(loop, c.futures, 4);
    combine_set(c.futures[3], 1);
    c.completed = aioloop_as_completed(loop, c.futures, 4, AIOLOOP_FOREVER);
    CHECK(c.completed != NULL);
    t = await_task(loop, combine_collects, &c, NULL);
    test_spin(loop, 2);
    CHECK_EQ(c.count, 1);
    combine_fail(c.futures[1], AIOLOOP_EIO);
    test_spin(loop, 3);
    CHECK_EQ(c.count, 2);
    CHECK(aioloop_future_cancel(c.futures[2], NULL));
    combine_set(c.futures[0], 1); /* two at once */
    await_done(loop, t);
    CHECK_EQ(aioloop_future_result(t, NULL), 4);
    CHECK_EQ(c.numbers[0], 3);
    CHECK_EQ(c.numbers[1], 1);
    CHECK_EQ(c.numbers[2], 2);
    CHECK_EQ(c.numbers[3], 0);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_completed_next(c.completed), NULL), AIOLOOP_ESTOPITERATION);
    aioloop_completed_free(c.completed);
    CHECK_EQ(aioloop_future_exception(c.futures[1]), AIOLOOP_EIO);
    combine_drop(c.futures, 4);
    aioloop_future_unref(t);
    test_end(loop);
}

TEST(as_completed_tells_of_each_one_missing_in_time, "ASC-01") {
    static const aioloop_time timeouts[] = {AIOLOOP_US(500), 0, -1, INT64_MIN + 1};
    int k;
    for (k = 0; k < 4; k++) {
        aioloop *loop = test_loop();
        combine_collecting c = AIOLOOP_ZERO;
        await_needs_stacks(loop);
        combine_make(loop, c.futures, 3);
        combine_set(c.futures[1], 1);
        c.completed = aioloop_as_completed(loop, c.futures, 3, timeouts[k]);
        CHECK(c.completed != NULL);
        CHECK_EQ(await_run(loop, combine_collects, &c), 3);
        CHECK_EQ(c.numbers[0], 1);
        CHECK_EQ(c.numbers[1], AIOLOOP_ETIMEDOUT);
        CHECK_EQ(c.numbers[2], AIOLOOP_ETIMEDOUT);
        CHECK(!aioloop_future_done(c.futures[0])); /* nothing is cancelled */
        aioloop_completed_free(c.completed);
        combine_drop(c.futures, 3);
        test_end(loop);
    }
}

TEST(as_completed_takes_unclaimed_ones_none_and_the_same_twice, "ASC-01") {
    aioloop *loop = test_loop();
    combine_collecting c = AIOLOOP_ZERO;
    combine_work works[2];
    aioloop_future *f[3];
    await_needs_stacks(loop);
    memset(works, 0, sizeof(works));
    f[0] = combine_task(loop, &works[0]);
    works[0].delay = AIOLOOP_US(100);
    works[0].pointer = &works[0];
    f[1] = combine_task(loop, &works[1]);
    works[1].number = AIOLOOP_EIO;
    c.completed = aioloop_as_completed(loop, f, 2, AIOLOOP_FOREVER);
    CHECK(c.completed != NULL);
    CHECK_EQ(await_run(loop, combine_collects, &c), 2);
    CHECK_EQ(works[0].disposed, 0);
    aioloop_completed_free(c.completed);
    CHECK_EQ(works[0].disposed, 1);
    CHECK_EQ(test_reports(), 1); /* of the one that failed: nobody looked at it */
    test_reports_clear();
    memset(&c, 0, sizeof(c));
    c.completed = aioloop_as_completed(loop, NULL, 0, AIOLOOP_FOREVER);
    CHECK(c.completed != NULL);
    CHECK_EQ(await_run(loop, combine_collects, &c), 0);
    aioloop_completed_free(c.completed);
    combine_make(loop, c.futures, 1);
    c.futures[1] = c.futures[0];
    c.completed = aioloop_as_completed(loop, c.futures, 2, AIOLOOP_FOREVER);
    CHECK(c.completed != NULL);
    combine_set(c.futures[0], 0);
    CHECK_EQ(await_run(loop, combine_collects, &c), 2);
    CHECK_EQ(c.numbers[0] + c.numbers[1], 1);
    aioloop_completed_free(c.completed);
    combine_drop(c.futures, 1);
    CHECK(aioloop_as_completed(NULL, NULL, 0, 1) == NULL);
    CHECK(aioloop_as_completed(loop, NULL, 1, 1) == NULL);
    CHECK(aioloop_as_completed(loop, NULL, 0, AIOLOOP_NOT_A_TIME) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_completed_next(NULL)), AIOLOOP_EINVAL);
    aioloop_completed_free(NULL);
    test_end(loop);
}

TEST(cancelled_next_of_as_completed_loses_no_outcome, "ASC-01") {
    aioloop *loop = test_loop();
    awaiter a = AIOLOOP_ZERO;
    awaiter b = AIOLOOP_ZERO;
    aioloop_future *f[2];
    aioloop_completed *c;
    combine_make(loop, f, 2);
    c = aioloop_as_completed(loop, f, 2, AIOLOOP_FOREVER);
    CHECK(c != NULL);
    await_begin(&a, loop, AWAIT_BY_FRAME, aioloop_completed_next(c));
    test_spin(loop, 2);
    await_cancel(&a, NULL); /* while it waits */
    CHECK_EQ(await_end(&a), AIOLOOP_ECANCELED);
    memset(&a, 0, sizeof(a));
    await_begin(&a, loop, AWAIT_BY_FRAME, aioloop_completed_next(c));
    test_spin(loop, 2);
    combine_set(f[1], 1);
    combine_soon(loop, combine_cancels, a.task); /* runs when it has just been given the outcome */
    CHECK_EQ(await_end(&a), AIOLOOP_ECANCELED);
    combine_set(f[0], 1);
    CHECK_EQ(await_now(&b, loop, AWAIT_BY_FRAME, aioloop_completed_next(c)), 1); /* which is still there */
    CHECK_EQ(await_now(&b, loop, AWAIT_BY_FRAME, aioloop_completed_next(c)), 0);
    CHECK_EQ(await_now(&b, loop, AWAIT_BY_FRAME, aioloop_completed_next(c)), AIOLOOP_ESTOPITERATION);
    aioloop_completed_free(c);
    combine_drop(f, 2);
    test_end(loop);
}

TEST(several_may_ask_for_the_next, "ASC-01") {
    aioloop *loop = test_loop();
    aioloop_future *f[3];
    aioloop_future *next[5];
    aioloop_completed *c;
    int i;
    combine_make(loop, f, 3);
    c = aioloop_as_completed(loop, f, 3, AIOLOOP_SECONDS(100));
    CHECK(c != NULL);
    for (i = 0; i < 5; i++) {
        next[i] = aioloop_future_ref(aioloop_completed_next(c));
        CHECK_PTR(aioloop_future_get_loop(next[i]), loop);
    }
    CHECK_EQ(aioloop_future_exception(next[3]), AIOLOOP_ESTOPITERATION); /* more than can come */
    CHECK_EQ(aioloop_future_exception(next[4]), AIOLOOP_ESTOPITERATION);
    CHECK(aioloop_future_cancel(next[1], NULL));
    combine_set(f[2], 1);
    test_spin(loop, 2);
    CHECK_EQ(aioloop_future_result(next[0], NULL), 2);
    CHECK(!aioloop_future_done(next[2]));
    combine_set(f[0], 1);
    test_spin(loop, 2);
    CHECK_EQ(aioloop_future_result(next[2], NULL), 0);
    aioloop_future_unref(next[0]);
    next[0] = aioloop_future_ref(aioloop_completed_next(c));
    aioloop_completed_free(c); /* who waits is cancelled */
    CHECK(aioloop_future_cancelled(next[0]));
    CHECK(!aioloop_future_done(f[1]));
    CHECK(aioloop_next_deadline(loop) == AIOLOOP_FOREVER);
    combine_drop(next, 5);
    combine_drop(f, 3);
    test_end(loop);
}

TEST(as_completed_freed_while_outcomes_are_on_their_way, "ASC-01") {
    aioloop *loop = test_loop();
    aioloop_future *f[2];
    aioloop_completed *c;
    combine_make(loop, f, 2);
    c = aioloop_as_completed(loop, f, 2, AIOLOOP_US(1));
    CHECK(c != NULL);
    combine_set(f[0], 1);
    aioloop_completed_free(c);
    test_run_for(loop, AIOLOOP_MS(1));
    combine_drop(f, 2);
    c = aioloop_as_completed(loop, NULL, 0, AIOLOOP_SECONDS(1)); /* and one that goes with the loop */
    CHECK(c != NULL);
    test_end(loop);
}

/* ---- what a cancel lets go of ---- */

static const aioloop_context_var combine_var = {"combine", NULL};

static void combine_cancels_again(void *value) {
    aioloop_future **f = (aioloop_future **)value;
    (void)aioloop_future_cancel(*f, NULL);
}

TEST(cancel_that_a_context_value_repeats_ends_once, "FUT-04") {
    aioloop *loop = test_loop();
    aioloop_wait_options options = AIOLOOP_ZERO;
    aioloop_future *inner = aioloop_create_future(loop);
    aioloop_future *f = NULL;
    int kind;
    for (kind = 0; kind < 3; kind++) { /* the value is let go of by a sleep's timer, a wait's timer, a wait's callback */
        options.timeout = kind == 1 ? AIOLOOP_SECONDS(1000) : 0;
        CHECK_EQ(aioloop_context_set(&combine_var, &f, combine_cancels_again), 0);
        f = aioloop_future_ref(kind == 0 ? aioloop_sleep(loop, AIOLOOP_SECONDS(1000)) : aioloop_wait(loop, &inner, 1, &options));
        CHECK_EQ(aioloop_context_set(&combine_var, NULL, NULL), 0);
        CHECK(aioloop_future_cancel(f, NULL));
        CHECK(aioloop_future_cancelled(f));
        aioloop_future_unref(f);
        f = NULL;
    }
    aioloop_future_unref(inner);
    test_end(loop);
}

/* ---- depth ---- */

static int64_t combine_shields(aioloop *loop, void *arg, void **out) {
    aioloop_future *f = aioloop_create_future(loop);
    int64_t n;
    int i;
    (void)out;
    if (aioloop_future_set_result(f, 5, arg, combine_dispose) < 0)
        return AIOLOOP_ENOMEM;
    for (i = 0; i < 3000; i++) {
        aioloop_future *outer = aioloop_future_ref(aioloop_shield(f));
        aioloop_future_unref(f);
        f = outer;
    }
    n = aioloop_future_result(f, NULL);
    aioloop_future_unref(f);
    return n;
}

TEST(depth_of_shields_takes_no_stack, "") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    aioloop_task *task;
    combine_work work = AIOLOOP_ZERO;
    await_needs_stacks(loop);
    options.stack_size = 32768;
    task = await_task(loop, combine_shields, &work, &options);
    await_done(loop, task);
    CHECK_EQ(aioloop_future_result(task, NULL), 5);
    CHECK_EQ(work.disposed, 1);
    aioloop_future_unref(task);
    test_end(loop);
}
