/*
 * test_await.c - awaiting, in every style: what awaits.h declares, and that the styles tell the same.
 */
#include "awaits.h"

/* ---- the styles ---- */

static void await_note(awaiter *a, int64_t n, const aioloop_error *error) {
    a->done++;
    a->number = n;
    a->code = n < 0 ? aioloop_error_code(error) : 0;
    a->errors = n < 0 ? aioloop_error_count(error) : 0;
    snprintf(a->message, sizeof(a->message), "%s", n < 0 ? aioloop_error_message(error) : "");
}

static void await_called(aioloop_future *future, void *arg) {
    awaiter *a = (awaiter *)arg;
    int64_t n = aioloop_future_result(future, &a->pointer);
    await_note(a, n, aioloop_future_error(future));
}

static int64_t await_stackful(aioloop *loop, void *arg, void **out) {
    awaiter *a = (awaiter *)arg;
    int64_t n = aioloop_await(a->future, &a->pointer);
    (void)out;
    await_note(a, n, aioloop_last_error(loop));
    return n == AIOLOOP_ECANCELED ? n : 0;
}

static int64_t await_stackless(aioloop *loop, aioloop_frame *frame, void **out) {
    awaiter *a = (awaiter *)frame;
    int64_t n;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    AIOLOOP_AWAIT(n, a->future, &a->pointer);
    await_note(a, n, aioloop_last_error(loop));
    return n == AIOLOOP_ECANCELED ? n : 0;
    AIOLOOP_END;
}

void await_begin(awaiter *a, aioloop *loop, await_style style, aioloop_future *future) {
    a->loop = loop;
    a->future = future;
    if (style == AWAIT_BY_CALLBACK) {
        int err = aioloop_future_then(future, await_called, a);
        if (err < 0)
            await_note(a, err, aioloop_last_error(loop));
    } else if (style == AWAIT_BY_STACK) {
        a->task = await_task(loop, await_stackful, a, NULL);
    } else {
        a->task = await_task_frame(loop, await_stackless, &a->frame, NULL);
    }
}

void await_cancel(awaiter *a, const char *message) {
    CHECK(aioloop_future_cancel(a->task != NULL ? a->task : a->future, message));
}

int64_t await_end(awaiter *a) {
    test_run_until(a->loop, &a->done, 1, "an outcome");
    test_spin(a->loop, 2);
    CHECK_EQ(a->done, 1);
    CHECK(a->task == NULL || aioloop_future_done(a->task));
    aioloop_future_unref(a->task);
    a->task = NULL;
    return a->number;
}

int64_t await_now(awaiter *a, aioloop *loop, await_style style, aioloop_future *future) {
    memset(a, 0, sizeof(*a));
    await_begin(a, loop, style, future);
    return await_end(a);
}

bool await_has_stacks(aioloop *loop) {
    aioloop_task_options options = AIOLOOP_ZERO;
    int code;
    options.stack_size = 1; /* refused, but not in the same way */
    code = aioloop_future_exception(aioloop_create_task(loop, await_stackful, NULL, &options));
    CHECK(code == AIOLOOP_EINVAL || code == AIOLOOP_ENOTAVAILABLE);
    return code == AIOLOOP_EINVAL;
}

void await_needs_stacks(aioloop *loop) {
    if (!await_has_stacks(loop)) {
        test_end(loop);
        SKIP("built without stacks");
    }
}

void await_in_all_styles(void (*scenario)(aioloop *loop, await_style style)) {
    int style;
    for (style = 0; style < AWAIT_STYLES; style++) {
        aioloop *loop = test_loop();
        NOTE("style %d", style);
        if (style != AWAIT_BY_STACK || await_has_stacks(loop))
            scenario(loop, (await_style)style);
        test_end(loop);
    }
}

static aioloop_task *await_claimed(aioloop *loop, aioloop_task *task) {
    if (aioloop_future_get_loop(task) != loop)
        FAIL("no task: %s", aioloop_error_message(aioloop_last_error(loop)));
    return aioloop_future_ref(task);
}

aioloop_task *await_task(aioloop *loop, aioloop_coroutine fn, void *arg, const aioloop_task_options *options) {
    return await_claimed(loop, aioloop_create_task(loop, fn, arg, options));
}

aioloop_task *await_task_frame(aioloop *loop, aioloop_step fn, aioloop_frame *frame, const aioloop_task_options *options) {
    return await_claimed(loop, aioloop_create_task_frame(loop, fn, frame, options));
}

static void await_counts(aioloop_future *future, void *arg) {
    (void)future;
    ++*(int *)arg;
}

void await_done(aioloop *loop, aioloop_future *future) {
    int done = 0;
    int err = aioloop_future_add_done_callback(future, await_counts, &done);
    CHECK_EQ(err, 0);
    test_run_until(loop, &done, 1, "a future");
}

int64_t await_run(aioloop *loop, aioloop_coroutine fn, void *arg) {
    aioloop_task *task = await_task(loop, fn, arg, NULL);
    int64_t n;
    await_done(loop, task);
    n = aioloop_future_result(task, NULL);
    aioloop_future_unref(task);
    return n;
}

/* ---- what each style tells ---- */

static void await_dispose(void *pointer) {
    ++*(int *)pointer;
}

static aioloop_future *await_future(aioloop *loop) {
    aioloop_future *f = aioloop_create_future(loop);
    CHECK_PTR(aioloop_future_get_loop(f), loop);
    return f;
}

static void await_a_result(aioloop *loop, await_style style) {
    awaiter a = AIOLOOP_ZERO;
    aioloop_future *f = await_future(loop);
    int thing = 0;
    await_begin(&a, loop, style, f);
    test_spin(loop, 3);
    CHECK_EQ(a.done, 0);
    CHECK_EQ(aioloop_future_set_result(f, 7, &thing, await_dispose), 0);
    CHECK_EQ(a.done, 0); /* not inside the setter */
    CHECK_EQ(await_end(&a), 7);
    CHECK_PTR(a.pointer, &thing);
    aioloop_future_unref(f);
    CHECK_EQ(thing, 0); /* taken */
}

TEST(awaiting_gives_the_result_later, "FUT-12 TASK-03") {
    await_in_all_styles(await_a_result);
}

static void await_an_error(aioloop *loop, await_style style) {
    awaiter a = AIOLOOP_ZERO;
    aioloop_future *f = await_future(loop);
    await_begin(&a, loop, style, f);
    test_spin(loop, 2);
    CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_EPIPE, "pipe %d", 5), 0);
    CHECK_EQ(await_end(&a), AIOLOOP_EPIPE);
    CHECK_EQ(a.code, AIOLOOP_EPIPE);
    CHECK_STR(a.message, "pipe 5");
    aioloop_future_unref(f); /* it was looked at: nothing is reported */
}

TEST(awaiting_gives_the_error_with_its_message, "FUT-12") {
    await_in_all_styles(await_an_error);
}

static void await_a_cancelled_one(aioloop *loop, await_style style) {
    awaiter a = AIOLOOP_ZERO;
    aioloop_future *f = await_future(loop);
    await_begin(&a, loop, style, f);
    test_spin(loop, 2);
    CHECK(aioloop_future_cancel(f, "no more"));
    CHECK_EQ(await_end(&a), AIOLOOP_ECANCELED);
    CHECK_STR(a.message, "no more");
    aioloop_future_unref(f);
}

TEST(awaiting_gives_the_cancellation_with_its_message, "FUT-12") {
    await_in_all_styles(await_a_cancelled_one);
}

static void await_cancelled_itself(aioloop *loop, await_style style) {
    awaiter a = AIOLOOP_ZERO;
    aioloop_future *f = await_future(loop);
    await_begin(&a, loop, style, f);
    test_spin(loop, 2);
    await_cancel(&a, "enough");
    CHECK(aioloop_future_cancelled(f)); /* at once */
    CHECK_EQ(a.done, 0);
    CHECK_EQ(await_end(&a), AIOLOOP_ECANCELED);
    CHECK_STR(a.message, "enough");
    aioloop_future_unref(f);
}

TEST(cancelling_who_awaits_cancels_what_it_awaits, "TASK-05") {
    await_in_all_styles(await_cancelled_itself);
}

static void await_static_ones(aioloop *loop, await_style style) {
    awaiter a;
    CHECK_EQ(await_now(&a, loop, style, aioloop_sleep(loop, AIOLOOP_NOT_A_TIME)), AIOLOOP_EINVAL);
    CHECK_EQ(await_now(&a, loop, style, aioloop_create_future(NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(await_now(&a, loop, style, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(await_now(&a, loop, style, aioloop_gather(NULL, NULL, 0, false)), AIOLOOP_EINVAL);
}

TEST(awaiting_a_static_failure_or_nothing_fails_at_once, "FUT-12 TASK-11") {
    await_in_all_styles(await_static_ones);
}

static void await_sleeping(aioloop *loop, await_style style) {
    awaiter a;
    aioloop_time begin = aioloop_now(loop);
    CHECK_EQ(await_now(&a, loop, style, aioloop_sleep(loop, AIOLOOP_MS(3))), 0);
    CHECK_GE(aioloop_now(loop) - begin, AIOLOOP_MS(3));
    CHECK_EQ(await_now(&a, loop, style, aioloop_sleep(loop, 0)), 0);
    CHECK_EQ(await_now(&a, loop, style, aioloop_sleep(loop, INT64_MIN + 1)), 0);
}

TEST(awaiting_a_sleep_in_all_styles, "TIME-01") {
    await_in_all_styles(await_sleeping);
}

static void await_an_unclaimed_one_twice(aioloop *loop, await_style style) {
    awaiter a = AIOLOOP_ZERO;
    awaiter b = AIOLOOP_ZERO;
    aioloop_future *f = aioloop_sleep(loop, AIOLOOP_MS(2));
    CHECK_PTR(aioloop_future_get_loop(f), loop);
    await_begin(&a, loop, style, f);
    test_spin(loop, 2);
    await_begin(&b, loop, style, f); /* pending: it is there still */
    CHECK_EQ(await_end(&b), AIOLOOP_EMISUSE);
    CHECK_EQ(a.done, 0);
    CHECK_EQ(await_end(&a), 0);
}

TEST(awaiting_an_unclaimed_future_twice_is_misuse, "") {
    await_in_all_styles(await_an_unclaimed_one_twice);
}

static void await_a_claimed_one_by_two(aioloop *loop, await_style style) {
    awaiter a = AIOLOOP_ZERO;
    awaiter b = AIOLOOP_ZERO;
    aioloop_future *f = aioloop_future_ref(aioloop_sleep(loop, AIOLOOP_MS(2)));
    await_begin(&a, loop, style, f);
    await_begin(&b, loop, style, f);
    CHECK_EQ(await_end(&a), 0);
    CHECK_EQ(await_end(&b), 0);
    CHECK_EQ(await_now(&a, loop, style, f), 0);
    aioloop_future_unref(f);
}

TEST(awaiting_a_claimed_future_as_often_as_one_likes, "FUT-12") {
    await_in_all_styles(await_a_claimed_one_by_two);
}

static void await_grant_lost(aioloop *loop, await_style style) {
    awaiter a = AIOLOOP_ZERO;
    int thing = 0;
    aioloop_future *f = aioloop_create_operation(loop, NULL, NULL);
    CHECK_PTR(aioloop_future_get_loop(f), loop);
    if (style == AWAIT_BY_CALLBACK) { /* that cannot be cancelled once the future is done */
        aioloop_future_unref(f);
        aioloop_future_unref(f);
        CHECK_EQ(thing, 0);
        return;
    }
    await_begin(&a, loop, style, f);
    test_spin(loop, 2);
    CHECK_EQ(aioloop_future_set_grant(f, 0, &thing, await_dispose), 0);
    aioloop_future_unref(f);
    await_cancel(&a, "too late"); /* in the iteration in which it succeeds */
    CHECK_EQ(thing, 0);
    CHECK_EQ(await_end(&a), AIOLOOP_ECANCELED);
    CHECK_STR(a.message, "too late");
    CHECK_EQ(thing, 1); /* nobody has it, so it went back */
}

TEST(a_result_that_a_cancelled_task_never_saw_is_disposed_of, "TASK-05") {
    await_in_all_styles(await_grant_lost);
}

static void await_a_list_of_errors(aioloop *loop, await_style style) {
    awaiter a = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    test_peer peer = AIOLOOP_ZERO;
    options.all_errors = true;
    await_begin(&a, loop, style, aioloop_create_connection(loop, &test_protocol, &peer, "127.0.0.1", 1, &options));
    CHECK_INT(await_end(&a), <, 0);
    CHECK_NE(a.message[0], 0);
}

TEST(awaiting_a_failed_connection_tells_why, "") {
    await_in_all_styles(await_a_list_of_errors);
}
