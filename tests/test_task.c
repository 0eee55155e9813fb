/*
 * test_task.c - tasks: making, running, cancelling and ending them, and who owns what meanwhile. By coroutines with a
 * stack, unless it is the other kind that is tested.
 */
#include "awaits.h"

#include <limits.h>
#if !defined(AIOLOOP_USE_THREADS) || AIOLOOP_USE_THREADS != 0
#include <pthread.h>
#endif

/* ---- what coroutines note ---- */

typedef struct task_log {
    char order[128];
    int disposed;
    int results_disposed;
    aioloop_future *future; /* to await */
    aioloop_task *task;     /* to look at */
    int64_t number;         /* of the last wait */
    char message[256];
    int code; /* to raise */
    void *pointer;
    aioloop_context *context;
} task_log;

static task_log *task_current; /* for those that are told nothing */

static void task_note(task_log *log, char letter) {
    size_t n = strlen(log->order);
    CHECK(n + 1 < sizeof(log->order));
    log->order[n] = letter;
    log->order[n + 1] = '\0';
}

static void task_dispose(void *arg) {
    task_log *log = (task_log *)arg;
    log->disposed++;
}

static void task_dispose_result(void *pointer) {
    if (test_has_given_up())
        return;
    CHECK_PTR(pointer, task_current);
    task_current->results_disposed++;
}

static aioloop_future *task_future(aioloop *loop) {
    aioloop_future *f = aioloop_create_future(loop);
    CHECK_PTR(aioloop_future_get_loop(f), loop);
    return f;
}

static void task_start(aioloop *loop, task_log *log) {
    memset(log, 0, sizeof(*log));
    task_current = log;
    await_needs_stacks(loop);
}

static void task_noted(aioloop *loop, void *arg) {
    (void)loop;
    task_note((task_log *)arg, 'c');
}

static aioloop_context *task_kept[4]; /* until the test ends, in whatever way */
static void (*task_next_hook)(void);

static void task_drop_contexts(void) {
    int i;
    for (i = 0; i < 4; i++) {
        aioloop_context_unref(task_kept[i]);
        task_kept[i] = NULL;
    }
}

static void task_clean_up(void) {
    task_next_hook(); /* the loops first: what runs in a context goes before it */
    task_drop_contexts();
}

static aioloop_context *task_keep(aioloop_context *context) {
    int i = 0;
    if (test_cleanup_hook != task_clean_up) {
        task_next_hook = test_cleanup_hook;
        test_cleanup_hook = task_clean_up;
    }
    CHECK(context != NULL);
    while (task_kept[i] != NULL)
        i++;
    task_kept[i] = context;
    return context;
}

/* Runs a new task, whose one use this is, until it is done. */
static int64_t task_play(aioloop *loop, aioloop_coroutine fn, void *arg, const aioloop_task_options *options) {
    return aioloop_run_until_complete(loop, aioloop_create_task(loop, fn, arg, options), NULL);
}

static void task_soon(aioloop *loop, aioloop_callback fn, void *arg) {
    aioloop_handle handle = aioloop_call_soon(loop, fn, arg);
    CHECK(!aioloop_handle_is_null(&handle));
}

static int64_t task_returns_number(aioloop *loop, void *arg, void **out) {
    task_log *log = (task_log *)arg;
    (void)loop;
    task_note(log, 'r');
    *out = log->pointer;
    return log->number;
}

/* Awaits log->future and returns what comes. */
static int64_t task_awaits(aioloop *loop, void *arg, void **out) {
    task_log *log = (task_log *)arg;
    (void)out;
    task_note(log, 'a');
    log->number = aioloop_await(log->future, &log->pointer);
    snprintf(log->message, sizeof(log->message), "%s", aioloop_error_message(aioloop_last_error(loop)));
    task_note(log, 'b');
    return log->number;
}

static int64_t task_raises(aioloop *loop, void *arg, void **out) {
    task_log *log = (task_log *)arg;
    (void)out;
    return aioloop_raise(loop, log->code, "raised %d", 1);
}

static int64_t task_sleeps_long(aioloop *loop, void *arg, void **out) {
    (void)arg;
    (void)out;
    return aioloop_await(aioloop_sleep(loop, AIOLOOP_SECONDS(3600)), NULL);
}

/* ---- the outcome ---- */

TEST(task_has_the_outcome_of_its_coroutine, "TASK-01 RUN-08 FUT-12") {
    aioloop *loop = test_loop();
    task_log log;
    void *out = NULL;
    task_start(loop, &log);
    log.number = 42;
    log.pointer = &log;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_task(loop, task_returns_number, &log, NULL), &out), 42);
    CHECK_PTR(out, &log);
    log.number = INT64_MAX;
    log.pointer = NULL;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_task(loop, task_returns_number, &log, NULL), &out),
             INT64_MAX);
    CHECK(out == NULL);
    log.code = AIOLOOP_EIO;
    CHECK_EQ(task_play(loop, task_raises, &log, NULL), AIOLOOP_EIO);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), "raised 1");
    log.code = AIOLOOP_ECANCELED;
    CHECK_EQ(task_play(loop, task_raises, &log, NULL), AIOLOOP_ECANCELED);
    test_end(loop);
}

TEST(task_that_returns_cancelled_is_cancelled, "TASK-01 TASK-08") {
    aioloop *loop = test_loop();
    task_log log;
    aioloop_task *t;
    task_start(loop, &log);
    log.number = AIOLOOP_ECANCELED;
    t = await_task(loop, task_returns_number, &log, NULL);
    CHECK(!aioloop_future_cancelled(t));
    await_done(loop, t);
    CHECK(aioloop_future_cancelled(t));
    CHECK_EQ(aioloop_future_exception(t), AIOLOOP_ECANCELED);
    aioloop_future_unref(t);
    test_end(loop);
}

TEST(task_cannot_be_completed_from_outside, "TASK-02") {
    aioloop *loop = test_loop();
    task_log log;
    aioloop_task *t;
    aioloop_future *f;
    task_start(loop, &log);
    log.number = 1;
    t = await_task(loop, task_returns_number, &log, NULL);
    f = task_future(loop);
    CHECK_EQ(aioloop_future_set_result(f, 5, NULL, NULL), 0);
    CHECK_EQ(aioloop_future_set_result(t, 2, NULL, NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_future_set_grant(t, 2, NULL, NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_future_set_exception(t, AIOLOOP_EIO, "no"), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_future_set_cancelled(t), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_future_copy(t, f), AIOLOOP_EMISUSE);
    CHECK(!aioloop_future_done(t));
    await_done(loop, t);
    CHECK_EQ(aioloop_future_result(t, NULL), 1);
    CHECK_EQ(aioloop_future_set_result(t, 2, NULL, NULL), AIOLOOP_EINVALIDSTATE);
    aioloop_future_unref(f);
    aioloop_future_unref(t);
    test_end(loop);
}

TEST(task_that_returns_what_is_no_code_fails, "TASK-01") {
    static const int64_t numbers[] = {(int64_t)INT_MIN - 1, INT64_MIN + 1, INT64_MIN};
    aioloop *loop = test_loop();
    task_log log;
    size_t i;
    task_start(loop, &log);
    for (i = 0; i < 3; i++) {
        int64_t expected = numbers[i] == AIOLOOP_SUSPENDED ? AIOLOOP_EMISUSE : AIOLOOP_EINVAL;
        log.number = numbers[i];
        CHECK_EQ(task_play(loop, task_returns_number, &log, NULL), expected);
    }
    log.number = INT_MIN;
    CHECK_EQ(task_play(loop, task_returns_number, &log, NULL), INT_MIN);
    test_end(loop);
}

TEST(task_resumes_later_not_in_the_setter, "TASK-03 FUT-12") {
    aioloop *loop = test_loop();
    task_log log;
    aioloop_task *t;
    task_start(loop, &log);
    log.future = task_future(loop);
    t = await_task(loop, task_awaits, &log, NULL);
    CHECK_STR(log.order, ""); /* nothing before the next iteration */
    test_spin(loop, 1);
    CHECK_STR(log.order, "a");
    test_spin(loop, 3);
    CHECK_STR(log.order, "a");
    CHECK_EQ(aioloop_future_set_result(log.future, 3, NULL, NULL), 0);
    CHECK_STR(log.order, "a");
    test_spin(loop, 1);
    CHECK_STR(log.order, "ab");
    CHECK_EQ(aioloop_future_result(t, NULL), 3);
    aioloop_future_unref(log.future);
    aioloop_future_unref(t);
    test_end(loop);
}

TEST(task_that_awaits_what_is_done_goes_on_at_once, "FUT-12") {
    aioloop *loop = test_loop();
    task_log log;
    aioloop_task *t;
    task_start(loop, &log);
    log.future = task_future(loop);
    CHECK_EQ(aioloop_future_set_result(log.future, 3, NULL, NULL), 0);
    t = await_task(loop, task_awaits, &log, NULL);
    task_soon(loop, task_noted, &log);
    test_spin(loop, 1);
    CHECK_STR(log.order, "abc");
    aioloop_future_unref(log.future);
    aioloop_future_unref(t);
    test_end(loop);
}

static int64_t task_yields(aioloop *loop, void *arg, void **out) {
    task_log *log = (task_log *)arg;
    (void)out;
    task_note(log, '1');
    task_soon(loop, task_noted, log);
    log->number = aioloop_await(aioloop_sleep(loop, 0), NULL);
    task_note(log, '2');
    log->number = aioloop_await(aioloop_sleep(loop, -1), NULL);
    task_note(log, '3');
    return log->number;
}

TEST(task_that_yields_lets_the_queue_run_once, "TASK-04 TIME-01") {
    aioloop *loop = test_loop();
    task_log log;
    aioloop_task *t;
    task_start(loop, &log);
    t = await_task(loop, task_yields, &log, NULL);
    task_soon(loop, task_noted, &log);
    test_spin(loop, 1);
    CHECK_STR(log.order, "1c");
    test_spin(loop, 1);
    CHECK_STR(log.order, "1cc2");
    test_spin(loop, 1);
    CHECK_STR(log.order, "1cc23");
    CHECK_EQ(aioloop_future_result(t, NULL), 0);
    aioloop_future_unref(t);
    test_end(loop);
}

/* ---- making ---- */

TEST(task_is_made_of_something, "CRE-02") {
    aioloop *loop = test_loop();
    aioloop_task_recipe recipe;
    aioloop_task_options options = AIOLOOP_ZERO;
    task_log log;
    task_start(loop, &log);
    memset(&recipe, 0, sizeof(recipe));
    CHECK_EQ(aioloop_future_exception(aioloop_create_task(NULL, task_awaits, &log, NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_create_task(loop, NULL, &log, NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_create_task_frame(loop, NULL, NULL, NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_task_new(loop, NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_task_new(loop, &recipe)), AIOLOOP_EINVAL);
    options.dispose = task_dispose;
    CHECK_EQ(aioloop_future_exception(aioloop_create_task(loop, NULL, &log, &options)), AIOLOOP_EINVAL);
    CHECK_EQ(log.disposed, 1);
    CHECK_EQ(aioloop_future_exception(aioloop_create_task(NULL, task_awaits, &log, &options)), AIOLOOP_EINVAL);
    CHECK_EQ(log.disposed, 2);
    test_end(loop);
}

TEST(task_options_are_checked, "CRE-02") {
    static const size_t sizes[] = {1, 64, 511, SIZE_MAX, SIZE_MAX - 4096, SIZE_MAX / 2 + 1};
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    task_log log;
    char place[64];
    size_t i;
    task_start(loop, &log);
    options.dispose = task_dispose;
    for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        options.stack_size = sizes[i];
        CHECK_EQ(aioloop_future_exception(aioloop_create_task(loop, task_awaits, &log, &options)), AIOLOOP_EINVAL);
        CHECK_EQ(log.disposed, (int)i + 1);
    }
    log.disposed = 0;
    options.stack_size = 0;
    options.stack = place;
    CHECK_EQ(aioloop_future_exception(aioloop_create_task(loop, task_awaits, &log, &options)), AIOLOOP_EINVAL);
    options.stack_size = sizeof(place);
    CHECK_EQ(aioloop_future_exception(aioloop_create_task(loop, task_awaits, &log, &options)), AIOLOOP_EINVAL);
    options.stack = NULL;
    options.stack_size = 0;
    options.timeout = AIOLOOP_NOT_A_TIME;
    CHECK_EQ(aioloop_future_exception(aioloop_create_task(loop, task_awaits, &log, &options)), AIOLOOP_EINVAL);
    options.timeout = 0;
    options.copy_size = SIZE_MAX;
    CHECK_EQ(aioloop_future_exception(aioloop_create_task(loop, task_awaits, &log, &options)), AIOLOOP_EINVAL);
    CHECK_EQ(log.disposed, 4);
    options.copy_size = 8;
    options.dispose = NULL;
    CHECK_EQ(aioloop_future_exception(aioloop_create_task(loop, task_awaits, NULL, &options)), AIOLOOP_EINVAL);
    options.copy_size = 0;
    CHECK_EQ(aioloop_future_exception(aioloop_create_task_frame(loop, NULL, NULL, &options)), AIOLOOP_EINVAL);
    test_end(loop);
}

TEST(task_has_a_name, "CRE-03") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    task_log log;
    aioloop_task *a;
    aioloop_task *b;
    char name[16] = "worker";
    char first[64];
    task_start(loop, &log);
    log.number = 0;
    options.name = name;
    a = await_task(loop, task_returns_number, &log, &options);
    b = await_task(loop, task_returns_number, &log, NULL);
    strcpy(name, "changed");
    CHECK_STR(aioloop_task_get_name(a), "worker");
    CHECK(strncmp(aioloop_task_get_name(b), "Task-", 5) == 0);
    snprintf(first, sizeof(first), "%s", aioloop_task_get_name(b));
    CHECK_STR(aioloop_task_get_name(b), first);
    CHECK_EQ(aioloop_task_set_name(a, "other"), 0);
    CHECK_STR(aioloop_task_get_name(a), "other");
    CHECK_EQ(aioloop_task_set_name(a, aioloop_task_get_name(a) + 2), 0); /* of itself */
    CHECK_STR(aioloop_task_get_name(a), "her");
    CHECK_EQ(aioloop_task_set_name(a, ""), 0);
    CHECK_STR(aioloop_task_get_name(a), "");
    CHECK_EQ(aioloop_task_set_name(a, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_task_set_name(NULL, "x"), AIOLOOP_EINVAL);
    CHECK(aioloop_task_get_name(NULL) == NULL);
    await_done(loop, b);
    CHECK_EQ(aioloop_task_set_name(b, "ended"), 0); /* at any time */
    CHECK_STR(aioloop_task_get_name(b), "ended");
    aioloop_future_unref(b);
    b = await_task(loop, task_returns_number, &log, NULL);
    CHECK(strcmp(aioloop_task_get_name(b), first) != 0);
    await_done(loop, b);
    aioloop_future_unref(a);
    aioloop_future_unref(b);
    test_end(loop);
}

TEST(plain_future_is_no_task, "") {
    aioloop *loop = test_loop();
    aioloop_future *f = task_future(loop);
    CHECK(!aioloop_is_task(f));
    CHECK(!aioloop_is_task(NULL));
    CHECK(!aioloop_is_task(aioloop_create_future(NULL)));
    CHECK(aioloop_task_get_name(f) == NULL);
    CHECK_EQ(aioloop_task_set_name(f, "x"), AIOLOOP_EINVAL);
    CHECK(aioloop_task_get_context(f) == NULL);
    CHECK_EQ(aioloop_task_cancelling(f), 0);
    CHECK_EQ(aioloop_task_uncancel(f), 0);
    CHECK_EQ(aioloop_task_uncancel(NULL), 0);
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(task_on_a_closed_loop_is_refused_and_its_argument_disposed_of, "CRE-07 RUN-17") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    aioloop_frame frame = AIOLOOP_ZERO;
    task_log log;
    task_start(loop, &log);
    CHECK_EQ(aioloop_close(loop), 0);
    options.dispose = task_dispose;
    CHECK_EQ(aioloop_future_exception(aioloop_create_task(loop, task_awaits, &log, &options)), AIOLOOP_ECLOSED);
    options.eager = true;
    CHECK_EQ(aioloop_future_exception(aioloop_create_task(loop, task_awaits, &log, &options)), AIOLOOP_ECLOSED);
    CHECK_EQ(log.disposed, 2);
    CHECK_STR(log.order, "");
    CHECK_EQ(aioloop_future_exception(aioloop_create_task_frame(loop, NULL, &frame, NULL)), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_ECLOSED);
    test_end(loop);
}

TEST(combinators_on_a_closed_loop_say_closed, "RUN-17") {
    aioloop *loop = test_loop();
    aioloop_future *f = task_future(loop);
    aioloop_future *g;
    aioloop_timeout limit;
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK_EQ(aioloop_future_exception(aioloop_sleep(loop, 1)), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_future_exception(aioloop_sleep(loop, 0)), AIOLOOP_ECLOSED);
    g = aioloop_gather(loop, &f, 1, false);
    CHECK_EQ(aioloop_future_exception(g), AIOLOOP_ECLOSED);
    aioloop_future_unref(g);
    g = aioloop_wait(loop, &f, 1, NULL);
    CHECK_EQ(aioloop_future_exception(g), AIOLOOP_ECLOSED);
    aioloop_future_unref(g);
    g = aioloop_wait_for(f, 1);
    CHECK_EQ(aioloop_future_exception(g), AIOLOOP_ECLOSED);
    aioloop_future_unref(g);
    g = aioloop_shield(f);
    CHECK_EQ(aioloop_future_exception(g), AIOLOOP_ECLOSED);
    aioloop_future_unref(g);
    CHECK(aioloop_as_completed(loop, &f, 1, AIOLOOP_FOREVER) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_timeout_enter(loop, &limit, 1), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_timeout_exit(&limit, 5), 5);
    CHECK(aioloop_task_group_enter(loop) == NULL);
    aioloop_future_unref(f);
    test_end(loop);
}

/* ---- dispose ---- */

TEST(task_disposes_of_its_argument_once_however_it_ends, "CRE-07 TASK-06") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    task_log log;
    aioloop_task *t;
    task_start(loop, &log);
    options.dispose = task_dispose;
    log.number = 3; /* ended */
    CHECK_EQ(task_play(loop, task_returns_number, &log, &options), 3);
    CHECK_EQ(log.disposed, 1);
    log.code = AIOLOOP_EIO; /* failed */
    CHECK_EQ(task_play(loop, task_raises, &log, &options), AIOLOOP_EIO);
    CHECK_EQ(log.disposed, 2);
    t = await_task(loop, task_returns_number, &log, &options); /* cancelled before it began */
    log.order[0] = '\0';
    CHECK(aioloop_future_cancel(t, NULL));
    CHECK_EQ(log.disposed, 2);
    CHECK(!aioloop_future_done(t));
    await_done(loop, t);
    CHECK(aioloop_future_cancelled(t));
    CHECK_STR(log.order, "");
    CHECK_EQ(log.disposed, 3);
    aioloop_future_unref(t);
    log.future = task_future(loop); /* cancelled in the middle */
    t = await_task(loop, task_awaits, &log, &options);
    test_spin(loop, 1);
    CHECK(aioloop_future_cancel(t, NULL));
    CHECK_EQ(log.disposed, 3);
    await_done(loop, t);
    CHECK_EQ(log.disposed, 4);
    aioloop_future_unref(t);
    aioloop_future_unref(log.future);
    options.timeout = AIOLOOP_MS(1); /* timed out */
    t = await_task(loop, task_sleeps_long, &log, &options);
    await_done(loop, t);
    CHECK_EQ(log.disposed, 5);
    CHECK_EQ(aioloop_future_exception(t), AIOLOOP_ETIMEDOUT);
    aioloop_future_unref(t);
    test_end(loop);
    CHECK_EQ(log.disposed, 5);
}

TEST(task_disposes_of_a_result_that_nobody_took, "") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    task_log log;
    aioloop_task *t;
    void *out = NULL;
    task_start(loop, &log);
    options.dispose_result = task_dispose_result;
    log.pointer = &log;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_task(loop, task_returns_number, &log, &options), &out), 0);
    CHECK_PTR(out, &log);
    CHECK_EQ(log.results_disposed, 0);
    CHECK_EQ(task_play(loop, task_returns_number, &log, &options), 0);
    CHECK_EQ(log.results_disposed, 1);
    aioloop_future_unref(aioloop_create_task(loop, task_returns_number, &log, &options)); /* fire and forget */
    test_spin(loop, 2);
    CHECK_EQ(log.results_disposed, 2);
    log.number = AIOLOOP_ECANCELED; /* no result, whatever was stored */
    CHECK_EQ(task_play(loop, task_returns_number, &log, &options), AIOLOOP_ECANCELED);
    CHECK_EQ(log.results_disposed, 2);
    log.number = 0;
    t = await_task(loop, task_returns_number, &log, &options);
    test_spin(loop, 2);
    CHECK_EQ(log.results_disposed, 2);
    (void)t; /* never let go: it goes with the loop */
    test_end(loop);
    CHECK_EQ(log.results_disposed, 3);
}

typedef struct task_copied {
    task_log *log;
    int values[8];
} task_copied;

static int64_t task_reads_copy(aioloop *loop, void *arg, void **out) {
    task_copied *c = (task_copied *)arg;
    int64_t n;
    (void)out;
    CHECK((uintptr_t)c % sizeof(void *) == 0);
    n = aioloop_await(aioloop_sleep(loop, 0), NULL);
    if (n < 0)
        return n;
    c->values[0]++;
    return c->values[0] + c->values[7];
}

static void task_dispose_copy(void *arg) {
    ((task_copied *)arg)->log->disposed++;
}

TEST(task_may_have_a_copy_of_its_argument, "") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    task_log log;
    task_copied c;
    aioloop_task *t;
    task_start(loop, &log);
    c.log = &log;
    memset(c.values, 0, sizeof(c.values));
    c.values[7] = 10;
    options.copy_size = sizeof(c);
    options.dispose = task_dispose_copy;
    t = await_task(loop, task_reads_copy, &c, &options);
    c.values[7] = 99;
    await_done(loop, t);
    CHECK_EQ(aioloop_future_result(t, NULL), 11);
    CHECK_EQ(c.values[0], 0);
    CHECK_EQ(log.disposed, 1);
    aioloop_future_unref(t);
    t = await_task(loop, task_reads_copy, &c, &options); /* never begun */
    CHECK(aioloop_future_cancel(t, NULL));
    await_done(loop, t);
    CHECK_EQ(log.disposed, 2);
    aioloop_future_unref(t);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK_EQ(aioloop_future_exception(aioloop_create_task(loop, task_reads_copy, &c, &options)), AIOLOOP_ECLOSED);
    CHECK_EQ(log.disposed, 3); /* the original: no copy was made */
    test_end(loop);
}

static void task_dispose_cancels(void *arg) {
    task_log *log = (task_log *)arg;
    log->disposed++;
    CHECK(aioloop_future_cancel(log->task, "from dispose"));
}

TEST(dispose_that_cancels_its_own_task_wins, "TASK-07") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    task_log log;
    task_start(loop, &log);
    options.dispose = task_dispose_cancels;
    options.dispose_result = task_dispose_result;
    log.pointer = &log;
    log.task = await_task(loop, task_returns_number, &log, &options);
    await_done(loop, log.task);
    CHECK(aioloop_future_cancelled(log.task)); /* as one that cancels itself in its last line */
    CHECK_STR(aioloop_error_message(aioloop_future_error(log.task)), "from dispose");
    CHECK_EQ(log.results_disposed, 1);
    CHECK_EQ(log.disposed, 1);
    aioloop_future_unref(log.task);
    test_end(loop);
}

static void task_dispose_creates(void *arg) {
    task_log *log = (task_log *)arg;
    aioloop *loop = aioloop_get_running_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    options.eager = log->disposed == 1;
    log->disposed++;
    CHECK(aioloop_current_task(loop) == NULL); /* its coroutine has ended */
    CHECK_EQ(aioloop_await(log->future, NULL), AIOLOOP_EMISUSE);
    if (log->task != NULL) {
        aioloop_future_cancel(log->task, NULL);
        aioloop_future_unref(log->task);
        log->task = NULL;
    }
    if (log->disposed < 3) {
        options.dispose = task_dispose_creates;
        aioloop_future_unref(aioloop_create_task(loop, task_returns_number, log, &options));
    }
}

static int64_t task_frame_returns(aioloop *loop, aioloop_frame *frame, void **out) {
    (void)loop;
    (void)frame;
    (void)out;
    return 1;
}

static void task_dispose_awaits_by_frame(void *arg) {
    aioloop *loop = aioloop_get_running_loop();
    (void)arg;
    CHECK(!aioloop_frame_await(loop, task_current->future));
    CHECK_EQ(aioloop_frame_result(loop, NULL), AIOLOOP_EMISUSE);
    CHECK(!aioloop_frame_sleep(loop, 5));
    task_current->disposed++;
}

TEST(dispose_creates_and_cancels_tasks_and_cannot_wait, "") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    aioloop_frame frame = AIOLOOP_ZERO;
    task_log log;
    task_start(loop, &log);
    log.future = task_future(loop);
    log.task = await_task(loop, task_sleeps_long, &log, NULL);
    options.dispose = task_dispose_creates;
    aioloop_future_unref(aioloop_create_task(loop, task_returns_number, &log, &options));
    test_spin(loop, 6);
    CHECK_EQ(log.disposed, 3);
    CHECK_STR(log.order, "rrr");
    options.dispose = task_dispose_awaits_by_frame;
    CHECK_EQ(
        aioloop_run_until_complete(loop, aioloop_create_task_frame(loop, task_frame_returns, &frame, &options), NULL),
        1);
    CHECK_EQ(log.disposed, 4);
    aioloop_future_unref(log.future);
    test_end(loop);
}

/* ---- eager ---- */

typedef struct task_eager {
    task_log *log;
    aioloop_task *inner;
    bool done_inside;
    bool suspends;
    int depth;
} task_eager;

static int64_t task_eager_inner(aioloop *loop, void *arg, void **out) {
    task_eager *e = (task_eager *)arg;
    (void)out;
    task_note(e->log, 'i');
    CHECK(aioloop_current_task(loop) != e->log->task);
    CHECK(aioloop_current_task(loop) != NULL);
    if (e->depth > 0) {
        aioloop_task_options options = AIOLOOP_ZERO;
        aioloop_task *t;
        aioloop_task *self = aioloop_current_task(loop);
        options.eager = true;
        e->depth--;
        t = await_task(loop, task_eager_inner, e, &options);
        CHECK_PTR(aioloop_current_task(loop), self);
        CHECK_EQ(aioloop_future_done(t), !e->suspends);
        aioloop_future_unref(t);
    }
    if (e->suspends) {
        int64_t n = aioloop_await(aioloop_sleep(loop, 0), NULL);
        CHECK_GE(n, 0);
    }
    task_note(e->log, 'j');
    return 5;
}

static int64_t task_eager_outer(aioloop *loop, void *arg, void **out) {
    task_eager *e = (task_eager *)arg;
    aioloop_task_options options = AIOLOOP_ZERO;
    aioloop_task *t;
    int64_t n;
    (void)out;
    options.eager = true;
    e->log->task = aioloop_current_task(loop);
    task_note(e->log, 'o');
    t = await_task(loop, task_eager_inner, e, &options);
    CHECK_PTR(aioloop_current_task(loop), e->log->task);
    task_note(e->log, 'p');
    e->done_inside = aioloop_future_done(t);
    n = aioloop_await(t, NULL);
    aioloop_future_unref(t);
    return n;
}

TEST(eager_task_runs_inside_the_call, "CRE-08 TASK-12") {
    aioloop *loop = test_loop();
    task_log log;
    task_eager e = AIOLOOP_ZERO;
    task_start(loop, &log);
    e.log = &log;
    CHECK_EQ(await_run(loop, task_eager_outer, &e), 5);
    CHECK(e.done_inside);
    CHECK_STR(log.order, "oijp");
    log.order[0] = '\0';
    e.suspends = true;
    CHECK_EQ(await_run(loop, task_eager_outer, &e), 5);
    CHECK(!e.done_inside);
    CHECK_STR(log.order, "oipj");
    test_end(loop);
}

TEST(eager_within_eager, "CRE-08 TASK-12") {
    aioloop *loop = test_loop();
    task_log log;
    task_eager e = AIOLOOP_ZERO;
    task_start(loop, &log);
    e.log = &log;
    e.depth = 10;
    CHECK_EQ(await_run(loop, task_eager_outer, &e), 5);
    CHECK_STR(log.order, "oiiiiiiiiiiijjjjjjjjjjjp");
    log.order[0] = '\0';
    e.depth = 3;
    e.suspends = true;
    CHECK_EQ(await_run(loop, task_eager_outer, &e), 5);
    CHECK_STR(log.order, "oiiiipjjjj");
    test_end(loop);
}

TEST(eager_task_waits_for_the_loop_to_run, "CRE-08") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    task_log log;
    aioloop_task *t;
    task_start(loop, &log);
    options.eager = true;
    t = await_task(loop, task_returns_number, &log, &options);
    CHECK_STR(log.order, "");
    await_done(loop, t);
    CHECK_STR(log.order, "r");
    aioloop_future_unref(t);
    test_end(loop);
}

static void task_eager_of_callback(aioloop *loop, void *arg) {
    task_log *log = (task_log *)arg;
    aioloop_task_options options = AIOLOOP_ZERO;
    aioloop_task *t;
    options.eager = true;
    log->number = 4;
    CHECK(aioloop_current_task(loop) == NULL);
    t = await_task(loop, task_returns_number, log, &options);
    CHECK(aioloop_current_task(loop) == NULL);
    CHECK_EQ(aioloop_future_result(t, NULL), 4);
    aioloop_future_unref(t);
    options.name = "n";
    options.timeout = AIOLOOP_SECONDS(10);
    aioloop_future_unref(aioloop_create_task(loop, task_returns_number, log, &options));
    log->code = AIOLOOP_EIO; /* and one whose failure is nobody's */
    aioloop_future_unref(aioloop_create_task(loop, task_raises, log, &options));
    task_note(log, 'z');
}

TEST(eager_task_of_a_callback, "CRE-08") {
    aioloop *loop = test_loop();
    task_log log;
    task_start(loop, &log);
    task_soon(loop, task_eager_of_callback, &log);
    test_spin(loop, 1);
    CHECK_STR(log.order, "rrz");
    CHECK_EQ(test_reports(), 1);
    CHECK_STR(test_report_at(0)->detail, "raised 1");
    test_reports_clear();
    test_spin(loop, 2);
    test_end(loop);
}

/* ---- factories ---- */

typedef struct task_factory_log {
    int calls;
    aioloop_task *last;
    const char *rename;
    bool returns_nothing;
} task_factory_log;

static aioloop_task *task_factory(aioloop *loop, const aioloop_task_recipe *recipe, void *arg) {
    task_factory_log *log = (task_factory_log *)arg;
    aioloop_task_recipe own = *recipe;
    log->calls++;
    if (log->returns_nothing)
        return NULL;
    if (log->rename != NULL)
        own.options.name = log->rename;
    log->last = aioloop_task_new(loop, &own);
    return log->last;
}

TEST(task_factory_makes_the_tasks, "CRE-05 CRE-06") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    task_factory_log made = AIOLOOP_ZERO;
    task_log log;
    aioloop_task *t;
    void *arg = &log;
    task_start(loop, &log);
    CHECK(aioloop_get_task_factory(loop, &arg) == NULL);
    CHECK(arg == NULL);
    aioloop_set_task_factory(loop, task_factory, &made);
    CHECK(aioloop_get_task_factory(loop, &arg) == task_factory);
    CHECK_PTR(arg, &made);
    CHECK(aioloop_get_task_factory(loop, NULL) == task_factory);
    options.name = "given";
    t = await_task(loop, task_returns_number, &log, &options);
    CHECK_EQ(made.calls, 1);
    CHECK_PTR(t, made.last);
    CHECK_STR(aioloop_task_get_name(t), "given");
    await_done(loop, t);
    aioloop_future_unref(t);
    made.rename = "renamed";
    t = await_task(loop, task_returns_number, &log, &options);
    CHECK_STR(aioloop_task_get_name(t), "renamed");
    await_done(loop, t);
    aioloop_future_unref(t);
    made.returns_nothing = true; /* what promises a future keeps the promise */
    CHECK_EQ(aioloop_future_exception(aioloop_create_task(loop, task_returns_number, &log, &options)), AIOLOOP_EMISUSE);
    CHECK_EQ(made.calls, 3);
    aioloop_set_task_factory(loop, NULL, NULL);
    CHECK(aioloop_get_task_factory(loop, NULL) == NULL);
    t = await_task(loop, task_returns_number, &log, &options);
    CHECK_EQ(made.calls, 3);
    await_done(loop, t);
    aioloop_future_unref(t);
    aioloop_set_task_factory(NULL, task_factory, NULL);
    CHECK(aioloop_get_task_factory(NULL, NULL) == NULL);
    test_end(loop);
}

/* ---- cancelling ---- */

TEST(cancel_arrives_where_the_task_waits_later, "TASK-05 TASK-08") {
    aioloop *loop = test_loop();
    task_log log;
    aioloop_task *t;
    task_start(loop, &log);
    log.future = task_future(loop);
    t = await_task(loop, task_awaits, &log, NULL);
    test_spin(loop, 1);
    CHECK(aioloop_future_cancel(t, "stop it"));
    CHECK(aioloop_future_cancelled(log.future));
    CHECK(!aioloop_future_done(t));
    CHECK_STR(log.order, "a");
    test_spin(loop, 1);
    CHECK_STR(log.order, "ab");
    CHECK_EQ(log.number, AIOLOOP_ECANCELED);
    CHECK_STR(log.message, "stop it");
    CHECK(aioloop_future_cancelled(t));
    CHECK_STR(aioloop_error_message(aioloop_future_error(t)), "stop it");
    CHECK(!aioloop_future_cancel(t, NULL)); /* done: without effect */
    CHECK_EQ(aioloop_task_cancelling(t), 1);
    aioloop_future_unref(t);
    aioloop_future_unref(log.future);
    test_end(loop);
}

TEST(unstarted_task_that_is_cancelled_never_runs, "TASK-06") {
    aioloop *loop = test_loop();
    task_log log;
    aioloop_task *t;
    task_start(loop, &log);
    t = await_task(loop, task_returns_number, &log, NULL);
    CHECK(aioloop_future_cancel(t, "never mind"));
    CHECK(aioloop_future_cancel(t, "at all")); /* not done yet */
    CHECK(!aioloop_future_done(t));
    await_done(loop, t);
    CHECK_STR(log.order, "");
    CHECK(aioloop_future_cancelled(t));
    CHECK_STR(aioloop_error_message(aioloop_future_error(t)), "at all");
    aioloop_future_unref(t);
    test_end(loop);
}

static int64_t task_cancels_itself(aioloop *loop, void *arg, void **out) {
    task_log *log = (task_log *)arg;
    (void)out;
    CHECK(aioloop_future_cancel(aioloop_current_task(loop), "myself"));
    task_note(log, '1');
    if (log->code != 0)
        return log->code == 1 ? 7 : log->code;
    log->number = aioloop_await(log->future, NULL); /* done: no wait */
    CHECK_EQ(log->number, 9);
    log->number = aioloop_await(aioloop_sleep(loop, 0), NULL);
    CHECK_EQ(log->number, AIOLOOP_ECANCELED);
    snprintf(log->message, sizeof(log->message), "%s", aioloop_error_message(aioloop_last_error(loop)));
    log->number = aioloop_await(aioloop_sleep(loop, 0), NULL); /* told once */
    return log->number == 0 ? AIOLOOP_ECANCELED : AIOLOOP_EIO;
}

TEST(task_that_cancels_itself_hears_of_it_at_its_next_wait, "TASK-07") {
    aioloop *loop = test_loop();
    task_log log;
    task_start(loop, &log);
    log.future = task_future(loop);
    CHECK_EQ(aioloop_future_set_result(log.future, 9, NULL, NULL), 0);
    CHECK_EQ(await_run(loop, task_cancels_itself, &log), AIOLOOP_ECANCELED);
    CHECK_STR(log.message, "myself");
    log.code = 1;
    CHECK_EQ(await_run(loop, task_cancels_itself, &log), AIOLOOP_ECANCELED); /* returned without reaching one */
    log.code = AIOLOOP_EPERM;
    CHECK_EQ(await_run(loop, task_cancels_itself, &log), AIOLOOP_EPERM); /* an error is an error */
    aioloop_future_unref(log.future);
    test_end(loop);
}

static int64_t task_cancels_itself_and_awaits(aioloop *loop, void *arg, void **out) {
    task_log *log = (task_log *)arg;
    (void)out;
    CHECK(aioloop_future_cancel(aioloop_current_task(loop), "me"));
    log->number = aioloop_await(log->future, NULL);
    snprintf(log->message, sizeof(log->message), "%s", aioloop_error_message(aioloop_last_error(loop)));
    return log->number;
}

TEST(what_a_task_begins_to_await_after_cancelling_itself_is_cancelled, "TASK-07") {
    aioloop *loop = test_loop();
    task_log log;
    task_start(loop, &log);
    log.future = task_future(loop);
    CHECK_EQ(await_run(loop, task_cancels_itself_and_awaits, &log), AIOLOOP_ECANCELED);
    CHECK_STR(log.message, "me");
    CHECK(aioloop_future_cancelled(log.future));
    aioloop_future_unref(log.future);
    test_end(loop);
}

static int64_t task_swallows(aioloop *loop, void *arg, void **out) {
    task_log *log = (task_log *)arg;
    int64_t n = aioloop_await(aioloop_sleep(loop, AIOLOOP_SECONDS(3600)), NULL);
    (void)out;
    CHECK_EQ(n, AIOLOOP_ECANCELED);
    task_note(log, 's');
    n = aioloop_await(aioloop_sleep(loop, 0), NULL);
    CHECK_EQ(n, 0); /* it goes on as if nothing had been */
    return log->code != 0 ? aioloop_raise(loop, log->code, "instead") : 12;
}

TEST(cancellation_may_be_swallowed, "TASK-09 TASK-08") {
    aioloop *loop = test_loop();
    task_log log;
    aioloop_task *t;
    task_start(loop, &log);
    t = await_task(loop, task_swallows, &log, NULL);
    test_spin(loop, 1);
    CHECK(aioloop_future_cancel(t, NULL));
    await_done(loop, t);
    CHECK(!aioloop_future_cancelled(t));
    CHECK_EQ(aioloop_future_result(t, NULL), 12);
    aioloop_future_unref(t);
    log.code = AIOLOOP_EIO;
    t = await_task(loop, task_swallows, &log, NULL);
    test_spin(loop, 1);
    CHECK(aioloop_future_cancel(t, NULL));
    await_done(loop, t);
    CHECK_EQ(aioloop_future_result(t, NULL), AIOLOOP_EIO);
    CHECK_STR(aioloop_error_message(aioloop_future_error(t)), "instead");
    aioloop_future_unref(t);
    test_end(loop);
}

TEST(task_that_fails_after_its_cancel_is_reported, "TASK-09") {
    aioloop *loop = test_loop();
    task_log log;
    aioloop_task *t;
    task_start(loop, &log);
    log.code = AIOLOOP_EIO;
    t = aioloop_create_task(loop, task_swallows, &log, NULL);
    test_spin(loop, 1);
    CHECK(aioloop_future_cancel(t, NULL)); /* that hushes a cancellation, not an error that comes of it */
    aioloop_future_unref(t);
    test_spin(loop, 4);
    CHECK_EQ(test_reports(), 1);
    CHECK_STR(test_report_at(0)->detail, "instead");
    test_reports_clear();
    test_end(loop);
}

TEST(cancels_are_counted, "TASK-10") {
    aioloop *loop = test_loop();
    task_log log;
    aioloop_task *t;
    int i;
    task_start(loop, &log);
    t = await_task(loop, task_swallows, &log, NULL);
    test_spin(loop, 1);
    CHECK_EQ(aioloop_task_cancelling(t), 0);
    CHECK_EQ(aioloop_task_uncancel(t), 0);
    CHECK(aioloop_future_cancel(t, "one"));
    CHECK(aioloop_future_cancel(t, "two"));
    CHECK_EQ(aioloop_task_cancelling(t), 2);
    CHECK_EQ(aioloop_task_uncancel(t), 1);
    CHECK_EQ(aioloop_task_uncancel(t), 0);
    CHECK_EQ(aioloop_task_uncancel(t), 0); /* never below */
    for (i = 0; i < 3; i++)
        CHECK(aioloop_future_cancel(t, NULL));
    CHECK_EQ(aioloop_task_cancelling(t), 3);
    await_done(loop, t);
    CHECK_EQ(aioloop_future_result(t, NULL), 12); /* told once only: task_swallows checks it */
    aioloop_future_unref(t);
    test_end(loop);
}

static int64_t task_takes_back(aioloop *loop, void *arg, void **out) {
    task_log *log = (task_log *)arg;
    aioloop_task *self = aioloop_current_task(loop);
    (void)out;
    CHECK(aioloop_future_cancel(self, NULL));
    CHECK_EQ(aioloop_task_uncancel(self), 0);
    log->number = aioloop_await(aioloop_sleep(loop, 0), NULL);
    return log->number;
}

TEST(cancel_taken_back_before_it_was_told_is_not_told, "TASK-10") {
    aioloop *loop = test_loop();
    task_log log;
    task_start(loop, &log);
    CHECK_EQ(await_run(loop, task_takes_back, &log), 0);
    test_end(loop);
}

TEST(cancel_between_completion_and_resumption_wins, "TASK-05") {
    aioloop *loop = test_loop();
    task_log log;
    aioloop_task *t;
    int thing = 0;
    task_start(loop, &log);
    log.future = task_future(loop);
    t = await_task(loop, task_awaits, &log, NULL);
    test_spin(loop, 1);
    CHECK_EQ(aioloop_future_set_result(log.future, 5, &thing, NULL), 0);
    CHECK(aioloop_future_cancel(t, "late"));
    test_spin(loop, 1);
    CHECK_EQ(log.number, AIOLOOP_ECANCELED);
    CHECK(log.pointer == NULL);
    CHECK_EQ(aioloop_future_result(log.future, NULL), 5); /* which is the future's still */
    CHECK(aioloop_future_cancelled(t));
    aioloop_future_unref(log.future);
    aioloop_future_unref(t);
    test_end(loop);
}

TEST(cancelled_sleep_of_a_task_leaves_no_timer, "TIME-02") {
    aioloop *loop = test_loop();
    task_log log;
    aioloop_task *t;
    task_start(loop, &log);
    t = await_task(loop, task_sleeps_long, &log, NULL);
    test_spin(loop, 1);
    CHECK(aioloop_next_deadline(loop) != AIOLOOP_FOREVER);
    CHECK(aioloop_future_cancel(t, NULL));
    await_done(loop, t);
    CHECK(aioloop_next_deadline(loop) == AIOLOOP_FOREVER);
    aioloop_future_unref(t);
    test_end(loop);
}

/* ---- circles and chains ---- */

typedef struct task_ring {
    aioloop_task *next;
    int64_t number;
} task_ring;

static int64_t task_awaits_next(aioloop *loop, void *arg, void **out) {
    task_ring *r = (task_ring *)arg;
    (void)loop;
    (void)out;
    r->number = aioloop_await(r->next, NULL);
    return r->number;
}

/* Tasks 0 .. n - 1, each awaiting the next; the last one awaits the one numbered back. Cancels the one numbered at. */
static void task_play_ring(int n, int back, int at) {
    aioloop *loop = test_loop();
    aioloop_task *tasks[16] = {NULL};
    task_ring rings[16];
    int i;
    await_needs_stacks(loop);
    for (i = 0; i < n; i++) {
        rings[i].number = 77;
        tasks[i] = await_task(loop, task_awaits_next, &rings[i], NULL);
    }
    for (i = 0; i < n; i++)
        rings[i].next = tasks[i + 1 < n ? i + 1 : back];
    test_spin(loop, 3);
    CHECK(aioloop_future_cancel(tasks[at], "break"));
    test_spin(loop, n + 3);
    for (i = 0; i < n; i++) {
        CHECK(aioloop_future_cancelled(tasks[i]));
        CHECK_EQ(rings[i].number, AIOLOOP_ECANCELED);
        CHECK_STR(aioloop_error_message(aioloop_future_error(tasks[i])), "break");
        aioloop_future_unref(tasks[i]);
    }
    test_end(loop);
}

TEST(circle_of_two_tasks_can_be_cancelled, "TASK-05") {
    task_play_ring(2, 0, 0);
}

TEST(circle_of_many_tasks_can_be_cancelled_anywhere, "TASK-05") {
    int n;
    for (n = 3; n < 8; n++)
        task_play_ring(n, 0, n - 2);
}

TEST(circle_with_a_tail_can_be_cancelled_at_its_head, "TASK-05") {
    int n;
    int back;
    for (n = 3; n < 9; n++)
        for (back = 1; back < n - 1; back++)
            task_play_ring(n, back, 0);
}

static int64_t task_closes_circle(aioloop *loop, void *arg, void **out) {
    task_ring *r = (task_ring *)arg;
    (void)out;
    CHECK(aioloop_future_cancel(aioloop_current_task(loop), "closing"));
    r->number = aioloop_await(r->next, NULL); /* that awaits this one */
    return r->number;
}

TEST(task_that_has_cancelled_itself_closes_a_circle, "TASK-07") {
    aioloop *loop = test_loop();
    aioloop_task *a;
    aioloop_task *b;
    task_ring rings[2];
    await_needs_stacks(loop);
    rings[0].number = 77;
    rings[1].number = 77;
    b = await_task(loop, task_awaits_next, &rings[1], NULL);
    a = await_task(loop, task_closes_circle, &rings[0], NULL);
    rings[0].next = b;
    rings[1].next = a;
    test_spin(loop, 5);
    CHECK_EQ(rings[0].number, AIOLOOP_ECANCELED);
    CHECK_EQ(rings[1].number, AIOLOOP_ECANCELED);
    CHECK(aioloop_future_cancelled(a));
    CHECK(aioloop_future_cancelled(b));
    aioloop_future_unref(a);
    aioloop_future_unref(b);
    test_end(loop);
}

static int64_t task_awaits_itself_through(aioloop *loop, void *arg, void **out) {
    task_log *log = (task_log *)arg;
    aioloop_task *self = aioloop_current_task(loop);
    (void)out;
    if (log->code == 0)
        log->number = aioloop_await(aioloop_wait_for(self, AIOLOOP_FOREVER), NULL);
    else if (log->code == 1)
        log->number = aioloop_await(aioloop_gather(loop, &self, 1, false), NULL);
    else if (log->code == 2)
        log->number = aioloop_await(aioloop_shield(self), NULL);
    else
        log->number = aioloop_await(aioloop_wait(loop, &self, 1, NULL), NULL);
    return log->number;
}

TEST(task_that_awaits_itself_through_a_combinator_can_be_cancelled, "") {
    int kind;
    for (kind = 0; kind < 4; kind++) {
        aioloop *loop = test_loop();
        aioloop_task *t;
        task_log log;
        task_start(loop, &log);
        log.code = kind;
        t = await_task(loop, task_awaits_itself_through, &log, NULL);
        test_spin(loop, 3);
        CHECK(!aioloop_future_done(t));
        CHECK(aioloop_future_cancel(t, NULL));
        test_spin(loop, 4);
        CHECK(aioloop_future_cancelled(t));
        CHECK_EQ(log.number, AIOLOOP_ECANCELED);
        aioloop_future_unref(t);
        test_end(loop);
    }
}

typedef struct task_link {
    aioloop_frame frame;
    aioloop_task *next;
    int64_t n;
} task_link;

static int64_t task_link_step(aioloop *loop, aioloop_frame *frame, void **out) {
    task_link *l = (task_link *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    if (l->next != NULL)
        AIOLOOP_AWAIT(l->n, l->next, NULL);
    else
        AIOLOOP_SLEEP(l->n, AIOLOOP_SECONDS(3600));
    return l->n;
    AIOLOOP_END;
}

TEST(chain_of_2000_tasks_is_cancelled_without_deep_recursion, "TASK-05") {
    enum { LINKS = 2000 };
    aioloop *loop = test_loop();
    static task_link links[LINKS]; /* each test is a process */
    aioloop_task *last = NULL;
    int i;
    memset(links, 0, sizeof(links));
    for (i = 0; i < LINKS; i++) {
        links[i].next = last;
        last = aioloop_create_task_frame(loop, task_link_step, &links[i].frame, NULL);
        CHECK_PTR(aioloop_future_get_loop(last), loop); /* unclaimed: the next one's await is its use */
    }
    aioloop_future_ref(last);
    test_spin(loop, 2);
    CHECK_EQ(aioloop_all_tasks(loop, NULL, 0), LINKS);
    CHECK(aioloop_future_cancel(last, NULL));
    CHECK_EQ(aioloop_task_cancelling(last), 1);
    for (i = 0; i < LINKS + 2 && !aioloop_future_done(last); i++)
        test_spin(loop, 1);
    CHECK(aioloop_future_cancelled(last));
    aioloop_future_unref(last);
    CHECK_EQ(aioloop_all_tasks(loop, NULL, 0), 0);
    test_end(loop);
}

/* ---- who runs ---- */

static int64_t task_interleaves(aioloop *loop, void *arg, void **out) {
    aioloop_task **self = (aioloop_task **)arg;
    int i;
    (void)out;
    for (i = 0; i < 3; i++) {
        int64_t n;
        CHECK_PTR(aioloop_current_task(loop), *self);
        CHECK_PTR(aioloop_current_task(NULL), *self);
        CHECK_PTR(aioloop_get_running_loop(), loop);
        n = aioloop_await(aioloop_sleep(loop, 0), NULL);
        CHECK_EQ(n, 0);
    }
    return 0;
}

static void task_nobody_runs(aioloop *loop, void *arg) {
    task_log *log = (task_log *)arg;
    CHECK(aioloop_current_task(loop) == NULL);
    CHECK_PTR(aioloop_get_running_loop(), loop);
    task_note(log, 'n');
}

TEST(current_task_is_the_one_whose_step_runs, "TASK-12 GET-01") {
    aioloop *loop = test_loop();
    aioloop_task *a;
    aioloop_task *b;
    task_log log;
    task_start(loop, &log);
    a = await_task(loop, task_interleaves, &a, NULL);
    task_soon(loop, task_nobody_runs, &log);
    b = await_task(loop, task_interleaves, &b, NULL);
    CHECK(aioloop_current_task(loop) == NULL);
    CHECK(aioloop_current_task(NULL) == NULL);
    test_spin(loop, 2);
    task_soon(loop, task_nobody_runs, &log);
    await_done(loop, b);
    CHECK_STR(log.order, "nn");
    CHECK_EQ(aioloop_future_result(a, NULL), 0);
    CHECK_EQ(aioloop_future_result(b, NULL), 0);
    aioloop_future_unref(a);
    aioloop_future_unref(b);
    test_end(loop);
}

static int64_t task_keeps_itself(aioloop *loop, void *arg, void **out) {
    task_log *log = (task_log *)arg;
    (void)out;
    log->task = aioloop_future_ref(aioloop_current_task(loop));
    return 8;
}

TEST(task_may_keep_a_reference_to_itself, "TASK-12") {
    aioloop *loop = test_loop();
    task_log log;
    task_start(loop, &log);
    aioloop_future_unref(aioloop_create_task(loop, task_keeps_itself, &log, NULL));
    test_spin(loop, 2);
    CHECK_EQ(aioloop_future_result(log.task, NULL), 8);
    aioloop_future_unref(log.task);
    CHECK_EQ(task_play(loop, task_keeps_itself, &log, NULL), 8);
    CHECK_EQ(aioloop_future_result(log.task, NULL), 8); /* its creator's use has not taken it away */
    aioloop_future_unref(log.task);
    test_end(loop);
}

TEST(all_tasks_are_those_not_done, "TASK-13") {
    aioloop *loop = test_loop();
    aioloop *other = test_loop();
    aioloop_task *all[8];
    aioloop_task *a;
    aioloop_task *b;
    aioloop_task *c;
    aioloop_future *f = task_future(loop);
    task_log log;
    task_start(loop, &log);
    CHECK_EQ(aioloop_all_tasks(NULL, NULL, 0), 0);
    CHECK_EQ(aioloop_all_tasks(loop, all, 8), 0);
    a = await_task(loop, task_sleeps_long, &log, NULL);
    b = await_task(loop, task_returns_number, &log, NULL);
    c = await_task(loop, task_sleeps_long, &log, NULL);
    CHECK_EQ(aioloop_all_tasks(other, NULL, 0), 0);
    CHECK_EQ(aioloop_all_tasks(loop, NULL, 0), 3);
    CHECK_EQ(aioloop_all_tasks(loop, all, 2), 3);
    CHECK_PTR(all[0], a);
    CHECK_PTR(all[1], b);
    aioloop_future_unref(all[0]);
    aioloop_future_unref(all[1]);
    test_spin(loop, 2);
    CHECK_EQ(aioloop_all_tasks(loop, all, 8), 2);
    CHECK_PTR(all[0], a);
    CHECK_PTR(all[1], c);
    aioloop_future_unref(all[0]);
    aioloop_future_unref(all[1]);
    CHECK(aioloop_future_cancel(a, NULL));
    CHECK_EQ(aioloop_all_tasks(loop, NULL, 0), 2); /* not ended yet */
    test_spin(loop, 2);
    CHECK_EQ(aioloop_all_tasks(loop, NULL, 0), 1);
    CHECK(aioloop_future_cancel(c, NULL));
    await_done(loop, c);
    aioloop_future_unref(a);
    aioloop_future_unref(b);
    aioloop_future_unref(c);
    aioloop_future_unref(f);
    test_end(other);
    test_end(loop);
}

static int64_t task_ends_all_others(aioloop *loop, void *arg, void **out) {
    aioloop_task *all[8];
    size_t count = aioloop_all_tasks(loop, all, 8);
    aioloop_results *results = NULL;
    size_t others = 0;
    size_t i;
    int64_t n;
    (void)arg;
    (void)out;
    CHECK_EQ(count, 6);
    for (i = 0; i < count; i++) {
        if (all[i] == aioloop_current_task(loop)) {
            aioloop_future_unref(all[i]);
            continue;
        }
        CHECK(aioloop_future_cancel(all[i], NULL));
        all[others++] = all[i];
    }
    n = aioloop_await(aioloop_gather(loop, all, others, true), &results);
    CHECK_EQ(n, 5);
    for (i = 0; i < others; i++) {
        CHECK_EQ(aioloop_results_get(results, i, NULL), AIOLOOP_ECANCELED);
        aioloop_future_unref(all[i]);
    }
    aioloop_results_free(results);
    return 0;
}

TEST(all_tasks_cancel_and_gather_at_the_end, "TASK-13") {
    aioloop *loop = test_loop();
    task_log log;
    int i;
    task_start(loop, &log);
    for (i = 0; i < 5; i++) /* fire and forget: nobody holds them */
        aioloop_future_unref(aioloop_create_task(loop, task_sleeps_long, &log, NULL));
    CHECK_EQ(await_run(loop, task_ends_all_others, &log), 0);
    CHECK_EQ(aioloop_all_tasks(loop, NULL, 0), 0);
    test_end(loop);
}

static int64_t task_sleeps_and_notes(aioloop *loop, void *arg, void **out) {
    int64_t n = aioloop_await(aioloop_sleep(loop, AIOLOOP_MS(1)), NULL);
    task_log *log = (task_log *)arg;
    (void)out;
    task_note(log, 'x');
    return n < 0 ? n : log->code != 0 ? aioloop_raise(loop, log->code, "nobody %s", "cares") : 0;
}

TEST(unheld_tasks_run_on_and_their_failures_are_told_once, "TASK-14 DBG-04") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    task_log log;
    task_start(loop, &log);
    options.name = "forgotten";
    options.dispose = task_dispose;
    aioloop_future_unref(aioloop_create_task(loop, task_sleeps_and_notes, &log, &options));
    test_run_until(loop, &log.disposed, 1, "an unheld task");
    CHECK_STR(log.order, "x");
    CHECK_EQ(test_reports(), 0);
    log.code = AIOLOOP_EIO;
    aioloop_future_unref(aioloop_create_task(loop, task_sleeps_and_notes, &log, &options));
    test_run_until(loop, &log.disposed, 2, "an unheld task");
    test_spin(loop, 3);
    CHECK_EQ(test_reports(), 1);
    CHECK_STR(test_report_at(0)->message, "Task error was never retrieved");
    CHECK_STR(test_report_at(0)->detail, "nobody cares");
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EIO);
    CHECK(test_report_at(0)->context.task != NULL);
    CHECK(test_report_at(0)->context.source_file == NULL); /* not in debug mode */
    test_reports_clear();
    test_end(loop);
}

TEST(failed_task_that_is_held_is_reported_when_it_is_let_go, "") {
    aioloop *loop = test_loop();
    task_log log;
    aioloop_task *t;
    task_start(loop, &log);
    log.code = AIOLOOP_EIO;
    t = await_task(loop, task_raises, &log, NULL);
    await_done(loop, t);
    CHECK_EQ(test_reports(), 0);
    aioloop_future_unref(t);
    CHECK_EQ(test_reports(), 1);
    test_reports_clear();
    t = await_task(loop, task_raises, &log, NULL);
    await_done(loop, t);
    CHECK_EQ(aioloop_future_exception(t), AIOLOOP_EIO);
    aioloop_future_unref(t);
    test_end(loop);
}

/* ---- misuse ---- */

static int64_t task_awaits_itself(aioloop *loop, void *arg, void **out) {
    task_log *log = (task_log *)arg;
    int64_t n;
    (void)out;
    n = aioloop_await(aioloop_current_task(loop), NULL);
    CHECK_EQ(n, AIOLOOP_EMISUSE);
    n = aioloop_await(log->future, NULL); /* another loop's */
    CHECK_EQ(n, AIOLOOP_EMISUSE);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), "the future belongs to another loop");
    n = aioloop_await(NULL, NULL);
    CHECK_EQ(n, AIOLOOP_EINVAL);
    n = aioloop_await(aioloop_create_future(NULL), NULL);
    CHECK_EQ(n, AIOLOOP_EINVAL);
    return 3;
}

TEST(awaiting_itself_or_a_strangers_future_is_misuse, "TASK-11") {
    aioloop *loop = test_loop();
    aioloop *other = test_loop();
    task_log log;
    task_start(loop, &log);
    log.future = task_future(other);
    CHECK_EQ(await_run(loop, task_awaits_itself, &log), 3);
    aioloop_future_unref(log.future);
    aioloop_future_unref(aioloop_create_task(loop, task_awaits_itself, &log, NULL));
    log.future = aioloop_sleep(other, AIOLOOP_MS(1)); /* unclaimed: its use is over */
    CHECK_EQ(await_run(loop, task_awaits_itself, &log), 3);
    test_run_for(other, AIOLOOP_MS(3));
    test_end(other);
    test_end(loop);
}

static void task_await_in_callback(aioloop *loop, void *arg) {
    task_log *log = (task_log *)arg;
    log->number = aioloop_await(log->future, NULL);
    CHECK_EQ(aioloop_await(aioloop_sleep(loop, 0), NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_await(NULL, NULL), AIOLOOP_EMISUSE);
    task_note(log, 'c');
}

TEST(await_outside_of_a_task_is_misuse, "") {
    aioloop *loop = test_loop();
    task_log log;
    memset(&log, 0, sizeof(log));
    log.future = task_future(loop);
    CHECK_EQ(aioloop_await(log.future, NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_await(NULL, NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_await(aioloop_sleep(loop, 0), NULL), AIOLOOP_EMISUSE);
    task_soon(loop, task_await_in_callback, &log);
    test_spin(loop, 1);
    CHECK_STR(log.order, "c");
    CHECK_EQ(log.number, AIOLOOP_EMISUSE);
    CHECK(!aioloop_future_done(log.future));
    CHECK(!aioloop_frame_await(loop, log.future));
    CHECK_EQ(aioloop_frame_result(loop, NULL), AIOLOOP_EMISUSE);
    CHECK(!aioloop_frame_await(NULL, log.future));
    CHECK_EQ(aioloop_frame_result(NULL, NULL), AIOLOOP_EMISUSE);
    CHECK(!aioloop_frame_sleep(loop, 1));
    aioloop_future_unref(log.future);
    test_end(loop);
}

static void task_await_in_handler(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    task_log *log = (task_log *)arg;
    (void)context;
    CHECK(aioloop_current_task(loop) == NULL);
    log->number = aioloop_await(aioloop_sleep(loop, 0), NULL);
    task_note(log, 'h');
}

static void task_await_in_log(aioloop *loop, aioloop_log_level level, const char *text, void *arg) {
    task_log *log = (task_log *)arg;
    (void)level;
    (void)text;
    log->number = aioloop_await(aioloop_sleep(loop, 0), NULL);
    task_note(log, 'l');
}

static int64_t task_reports(aioloop *loop, void *arg, void **out) {
    aioloop_exception_context context;
    int64_t n;
    (void)arg;
    (void)out;
    memset(&context, 0, sizeof(context));
    context.message = "something";
    aioloop_call_exception_handler(loop, &context);
    CHECK(aioloop_current_task(loop) != NULL);
    n = aioloop_await(aioloop_sleep(loop, 0), NULL);
    return n;
}

TEST(await_in_the_exception_handler_and_in_the_log_is_misuse, "") {
    aioloop *loop = test_loop();
    static task_log log; /* the handler may be called when the test has given up */
    task_start(loop, &log);
    aioloop_set_exception_handler(loop, task_await_in_handler, &log);
    CHECK_EQ(await_run(loop, task_reports, &log), 0);
    CHECK_STR(log.order, "h");
    CHECK_EQ(log.number, AIOLOOP_EMISUSE);
    aioloop_set_exception_handler(loop, NULL, NULL);
    aioloop_set_log(loop, task_await_in_log, &log);
    log.number = 0;
    CHECK_EQ(await_run(loop, task_reports, &log), 0);
    CHECK_STR(log.order, "hl");
    CHECK_EQ(log.number, AIOLOOP_EMISUSE);
    test_end(loop);
}

static void task_await_when_paused(test_peer *peer) {
    int64_t *n = (int64_t *)peer->user;
    *n = aioloop_await(aioloop_sleep(aioloop_get_running_loop(), 0), NULL);
}

static int64_t task_writes_much(aioloop *loop, void *arg, void **out) {
    static const char zeros[100000] = {0};
    test_peer *peer = (test_peer *)arg;
    int i;
    (void)out;
    for (i = 0; i < 200 && peer->paused == 0; i++)
        CHECK_EQ(aioloop_transport_write(peer->transport, zeros, sizeof(zeros)), 0);
    CHECK(aioloop_current_task(loop) != NULL);
    return peer->paused;
}

TEST(await_in_pause_writing_is_misuse, "") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    int64_t n = 0;
    await_needs_stacks(loop);
    test_connect_pair(loop, &a, &b);
    aioloop_transport_pause_reading(b.transport);
    a.on_pause = task_await_when_paused;
    a.user = &n;
    CHECK_EQ(await_run(loop, task_writes_much, &a), 1);
    CHECK_EQ(n, AIOLOOP_EMISUSE);
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

static void task_await_in_run(void *arg) {
    task_log *log = (task_log *)arg;
    log->number = aioloop_await(log->future, NULL);
}

static int64_t task_runs_in_context(aioloop *loop, void *arg, void **out) {
    task_log *log = (task_log *)arg;
    int64_t n;
    (void)out;
    CHECK_EQ(aioloop_context_run(log->context, task_await_in_run, log), 0);
    n = aioloop_await(aioloop_sleep(loop, 0), NULL); /* outside of it, it can */
    return n;
}

TEST(await_inside_of_context_run_is_misuse, "") {
    aioloop *loop = test_loop();
    task_log log;
    task_start(loop, &log);
    log.future = task_future(loop);
    log.context = task_keep(aioloop_copy_context());
    CHECK_EQ(await_run(loop, task_runs_in_context, &log), 0);
    task_drop_contexts();
    CHECK_EQ(log.number, AIOLOOP_EMISUSE);
    CHECK(!aioloop_future_done(log.future));
    aioloop_future_unref(log.future);
    test_end(loop);
}

static int64_t task_awaits_a_frame(aioloop *loop, aioloop_frame *frame, void **out) {
    (void)frame;
    (void)out;
    return aioloop_await(aioloop_sleep(loop, 0), NULL);
}

TEST(coroutine_without_a_stack_cannot_call_await, "") {
    aioloop *loop = test_loop();
    aioloop_frame frame = AIOLOOP_ZERO;
    aioloop_task *t = await_task_frame(loop, task_awaits_a_frame, &frame, NULL);
    await_done(loop, t);
    CHECK_EQ(aioloop_future_result(t, NULL), AIOLOOP_EMISUSE);
    aioloop_future_unref(t);
    test_end(loop);
}

static int64_t task_runs_the_loop(aioloop *loop, void *arg, void **out) {
    (void)arg;
    (void)out;
    CHECK_EQ(aioloop_run_forever(loop), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_run_once(loop, 0), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_sleep(loop, 0), NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_close(loop), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_free(loop), AIOLOOP_EMISUSE);
    return 1;
}

TEST(task_can_neither_run_nor_end_its_loop, "") {
    aioloop *loop = test_loop();
    task_log log;
    task_start(loop, &log);
    CHECK_EQ(await_run(loop, task_runs_the_loop, &log), 1);
    test_end(loop);
}

static int64_t task_stops_and_ends_things(aioloop *loop, void *arg, void **out) {
    test_peer *peer = (test_peer *)arg;
    int64_t n;
    (void)out;
    aioloop_transport_abort(peer->transport);
    aioloop_stop(loop);
    n = aioloop_await(aioloop_sleep(loop, 0), NULL);
    CHECK_EQ(n, 0);
    n = aioloop_await(aioloop_gather(loop, NULL, 0, false), NULL); /* nobody takes its results */
    CHECK_EQ(n, 0);
    aioloop_stop(loop);
    return 2;
}

TEST(task_stops_the_loop_and_ends_connections, "") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_task *t;
    await_needs_stacks(loop);
    test_connect_pair(loop, &a, &b);
    t = await_task(loop, task_stops_and_ends_things, &a, NULL);
    CHECK_EQ(aioloop_run_forever(loop), 0);
    CHECK(!aioloop_future_done(t));
    CHECK_EQ(aioloop_run_forever(loop), 0);
    CHECK_EQ(aioloop_future_result(t, NULL), 2);
    aioloop_future_unref(t);
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

/* ---- fatal ---- */

static int64_t task_is_fatal(aioloop *loop, void *arg, void **out) {
    task_log *log = (task_log *)arg;
    int64_t n;
    (void)out;
    n = aioloop_await(aioloop_sleep(loop, 0), NULL);
    CHECK_EQ(n, 0);
    task_note(log, 'f');
    return aioloop_raise(loop, AIOLOOP_EFATAL, "the end");
}

TEST(fatal_task_ends_the_run_and_is_its_error, "TASK-15") {
    aioloop *loop = test_loop();
    task_log log;
    aioloop_task *t;
    task_start(loop, &log);
    t = await_task(loop, task_is_fatal, &log, NULL);
    CHECK_EQ(aioloop_run_forever(loop), AIOLOOP_EFATAL);
    CHECK_STR(log.order, "f");
    CHECK_EQ(aioloop_future_exception(t), AIOLOOP_EFATAL);
    CHECK_STR(aioloop_error_message(aioloop_future_error(t)), "the end");
    aioloop_future_unref(t);
    task_soon(loop, task_noted, &log);
    test_spin(loop, 1); /* it can run again */
    CHECK_STR(log.order, "fc");
    CHECK_EQ(task_play(loop, task_is_fatal, &log, NULL), AIOLOOP_EFATAL);
    test_spin(loop, 2);
    test_reports_clear(); /* the run has told it; whether the future does too is not what this is about */
    test_end(loop);
}

static int64_t task_waits_for_fatal(aioloop *loop, void *arg, void **out) {
    task_log *log = (task_log *)arg;
    (void)loop;
    (void)out;
    log->number = aioloop_await(log->task, NULL);
    task_note(log, 'w');
    return 0;
}

TEST(who_awaits_a_fatal_task_hears_of_it_in_the_next_run, "TASK-15") {
    aioloop *loop = test_loop();
    task_log log;
    aioloop_task *t;
    task_start(loop, &log);
    log.task = await_task(loop, task_is_fatal, &log, NULL);
    t = await_task(loop, task_waits_for_fatal, &log, NULL);
    CHECK_EQ(aioloop_run_forever(loop), AIOLOOP_EFATAL);
    CHECK_STR(log.order, "f");
    await_done(loop, t);
    CHECK_STR(log.order, "fw");
    CHECK_EQ(log.number, AIOLOOP_EFATAL);
    aioloop_future_unref(log.task);
    aioloop_future_unref(t);
    test_end(loop);
}

/* ---- contexts ---- */

static aioloop_context_var task_var = {"task_var", NULL};

static void *task_value(int n) {
    static char values[16];
    return &values[n];
}

/* Giving up in a step would lose the values that wait under it, so these tell by a code what was not so. */
static int64_t task_changes_context(aioloop *loop, void *arg, void **out) {
    task_log *log = (task_log *)arg;
    int64_t n;
    (void)out;
    if (aioloop_context_get(&task_var) != log->pointer)
        return AIOLOOP_EPERM;
    n = aioloop_context_set(&task_var, task_value(5), NULL);
    if (n == 0)
        n = aioloop_await(aioloop_sleep(loop, 0), NULL);
    if (n == 0 && aioloop_context_get(&task_var) != task_value(5)) /* it sees its own change */
        return AIOLOOP_ENOENT;
    return n < 0 ? n : aioloop_await(aioloop_sleep(loop, 0), NULL);
}

static void task_reads_var(void *arg) {
    *(void **)arg = aioloop_context_get(&task_var);
}

TEST(task_runs_in_a_copy_of_its_creators_context, "CRE-04 CTX-01 CTX-02 TASK-16") {
    aioloop *loop = test_loop();
    aioloop_context *context;
    aioloop_context *again;
    task_log log;
    aioloop_task *t;
    void *seen = NULL;
    task_start(loop, &log);
    CHECK_EQ(aioloop_context_set(&task_var, task_value(1), NULL), 0);
    log.pointer = task_value(1);
    t = await_task(loop, task_changes_context, &log, NULL);
    CHECK_EQ(aioloop_context_set(&task_var, task_value(2), NULL), 0); /* its creator's later change */
    test_spin(loop, 1);
    CHECK_PTR(aioloop_context_get(&task_var), task_value(2));
    context = task_keep(aioloop_task_get_context(t));
    again = task_keep(aioloop_task_get_context(t));
    CHECK_PTR(context, again);
    CHECK_EQ(aioloop_context_run(context, task_reads_var, &seen), 0);
    CHECK_PTR(seen, task_value(5));
    await_done(loop, t);
    CHECK_EQ(aioloop_future_result(t, NULL), 0);
    aioloop_future_unref(t);
    task_drop_contexts();
    CHECK_PTR(aioloop_context_get(&task_var), task_value(2));
    CHECK_EQ(aioloop_context_set(&task_var, NULL, NULL), 0);
    test_end(loop);
}

TEST(task_runs_in_the_very_context_it_is_given, "CRE-04 CTX-01 CTX-03") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    aioloop_context *again;
    task_log log;
    aioloop_task *t;
    void *seen = NULL;
    task_start(loop, &log);
    options.context = task_keep(aioloop_copy_context());
    t = await_task(loop, task_changes_context, &log, &options);
    CHECK_EQ(aioloop_context_set(&task_var, task_value(2), NULL), 0);
    again = task_keep(aioloop_task_get_context(t));
    CHECK_PTR(again, options.context);
    test_spin(loop, 1);
    CHECK_EQ(aioloop_context_run(options.context, task_reads_var, &seen), 0);
    CHECK_PTR(seen, task_value(5));
    await_done(loop, t);
    CHECK_EQ(aioloop_future_result(t, NULL), 0);
    aioloop_future_unref(t);
    task_drop_contexts();
    CHECK_PTR(aioloop_context_get(&task_var), task_value(2));
    CHECK_EQ(aioloop_context_set(&task_var, NULL, NULL), 0);
    test_end(loop);
}

static int64_t task_asks_for_its_context(aioloop *loop, void *arg, void **out) {
    aioloop_context *context = aioloop_task_get_context(aioloop_current_task(loop));
    aioloop_context *copy = aioloop_copy_context();
    void *seen = &seen;
    int64_t n = context == NULL || copy == NULL ? AIOLOOP_ENOMEM : 0;
    (void)arg;
    (void)out;
    if (n == 0 && aioloop_context_run(context, task_reads_var, &seen) != AIOLOOP_EMISUSE) /* it is entered */
        n = AIOLOOP_EPERM;
    if (n == 0)
        n = aioloop_context_set(&task_var, task_value(6), NULL);
    if (n == 0 && (aioloop_context_run(copy, task_reads_var, &seen) != 0 || seen != NULL))
        n = AIOLOOP_ESRCH;
    aioloop_context_unref(copy); /* before the wait, which may be one that does not end */
    aioloop_context_unref(context);
    if (n == 0)
        n = aioloop_await(aioloop_sleep(loop, 0), NULL);
    if (n == 0 && aioloop_context_get(&task_var) != task_value(6))
        n = AIOLOOP_ENOENT;
    return n;
}

TEST(task_may_ask_for_its_own_context, "TASK-16") {
    aioloop *loop = test_loop();
    task_log log;
    task_start(loop, &log);
    CHECK_EQ(await_run(loop, task_asks_for_its_context, &log), 0);
    CHECK(aioloop_context_get(&task_var) == NULL);
    test_end(loop);
}

static void task_made_in_context(test_peer *peer) {
    *(void **)peer->user = aioloop_context_get(&task_var);
}

static int64_t task_dials_in_context(aioloop *loop, void *arg, void **out) {
    test_peer *peer = (test_peer *)arg;
    int64_t n = aioloop_context_set(&task_var, task_value(7), NULL);
    (void)out; /* giving up here would lose the values that wait under this step */
    if (n == 0)
        n = aioloop_await(aioloop_create_connection(loop, &test_protocol, peer, "127.0.0.1", peer->error, NULL), NULL);
    return n < 0 ? n : aioloop_context_set(&task_var, task_value(8), NULL); /* not seen by the connection */
}

TEST(connection_of_a_task_has_the_tasks_context, "CTX-04") {
    aioloop *loop = test_loop();
    test_peer client = AIOLOOP_ZERO;
    test_peer served = AIOLOOP_ZERO;
    aioloop_server *server;
    void *seen = NULL;
    int port;
    await_needs_stacks(loop);
    server = test_serve(loop, &test_protocol, &served, &port);
    client.user = &seen;
    client.on_made = task_made_in_context;
    client.on_lost = task_made_in_context;
    client.error = port;
    CHECK_EQ(await_run(loop, task_dials_in_context, &client), 0);
    CHECK_PTR(seen, task_value(7));
    seen = NULL;
    test_run_until(loop, &served.made, 1, "the server's side");
    test_end_pair(loop, &client, &served);
    CHECK_PTR(seen, task_value(7));
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_end(loop);
}

/* ---- messages ---- */

typedef struct task_level {
    struct task_level *next;
    int how; /* 0: awaits the next, 1: by wait_for, 2: by shield, 3: by gather */
} task_level;

static int64_t task_passes_on(aioloop *loop, void *arg, void **out) {
    task_level *l = (task_level *)arg;
    aioloop_future *f;
    int64_t n;
    (void)out;
    if (l->next == NULL) {
        n = aioloop_await(aioloop_sleep(loop, 0), NULL);
        return n < 0 ? n : aioloop_raise(loop, AIOLOOP_EPROTOTYPE, "deep %s", "down");
    }
    f = aioloop_create_task(loop, task_passes_on, l->next, NULL);
    if (l->how == 1)
        f = aioloop_wait_for(f, AIOLOOP_SECONDS(100));
    else if (l->how == 2)
        f = aioloop_shield(f);
    else if (l->how == 3)
        f = aioloop_gather(loop, &f, 1, false);
    n = aioloop_await(f, NULL);
    return n;
}

TEST(message_arrives_through_many_levels, "") {
    aioloop *loop = test_loop();
    task_level levels[8];
    int i;
    await_needs_stacks(loop);
    for (i = 0; i < 8; i++) {
        levels[i].next = i < 7 ? &levels[i + 1] : NULL;
        levels[i].how = i % 4;
    }
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_task(loop, task_passes_on, levels, NULL), NULL),
             AIOLOOP_EPROTOTYPE);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), "deep down");
    test_end(loop);
}

static int64_t task_fails_the_same(aioloop *loop, void *arg, void **out) {
    int64_t n = arg == NULL ? 0 : aioloop_await(aioloop_sleep(loop, 0), NULL);
    (void)out;
    return n < 0 ? n : aioloop_raise(loop, AIOLOOP_EPIPE, "somebody else's");
}

static int64_t task_cleans_up_after_raise(aioloop *loop, void *arg, void **out) {
    task_log *log = (task_log *)arg;
    aioloop_task_options options = AIOLOOP_ZERO;
    int64_t rc = aioloop_raise(loop, AIOLOOP_EPIPE, "mine");
    int64_t n;
    int i;
    (void)out;
    options.eager = log->code != 0;
    n = aioloop_await(aioloop_sleep(loop, 0), NULL);
    CHECK_EQ(n, 0);
    /* Others fail with the code. */
    log->task = await_task(loop, task_fails_the_same, options.eager ? NULL : log, &options);
    for (i = 0; i < 4; i++) {
        n = aioloop_await(aioloop_sleep(loop, 0), NULL);
        CHECK_EQ(n, 0);
    }
    CHECK_EQ(aioloop_future_exception(log->task), AIOLOOP_EPIPE);
    n = aioloop_await(aioloop_sleep(loop, 0), NULL);
    CHECK_EQ(n, 0);
    aioloop_future_unref(log->task);
    return rc;
}

TEST(message_survives_the_clean_up_that_awaits, "") {
    aioloop *loop = test_loop();
    task_log log;
    task_start(loop, &log);
    for (log.code = 0; log.code < 2; log.code++) { /* also while an eager task fails inside the call */
        CHECK_EQ(task_play(loop, task_cleans_up_after_raise, &log, NULL), AIOLOOP_EPIPE);
        CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), "mine");
    }
    test_end(loop);
}

static int64_t task_begins_others_after_raise(aioloop *loop, void *arg, void **out) {
    aioloop_task_options options = AIOLOOP_ZERO;
    int64_t rc = aioloop_raise(loop, AIOLOOP_EPIPE, "mine");
    aioloop_task *t;
    (void)arg;
    (void)out;
    options.eager = true;
    t = await_task(loop, task_fails_the_same, NULL, &options);
    CHECK_EQ(aioloop_future_exception(t), AIOLOOP_EPIPE);
    CHECK_STR(aioloop_error_message(aioloop_future_error(t)), "somebody else's");
    aioloop_future_unref(t);
    return rc;
}

TEST(message_survives_an_eager_task_that_fails_the_same, "CRE-08") {
    aioloop *loop = test_loop();
    await_needs_stacks(loop);
    CHECK_EQ(await_run(loop, task_begins_others_after_raise, NULL), AIOLOOP_EPIPE);
    CHECK_EQ(task_play(loop, task_begins_others_after_raise, NULL, NULL), AIOLOOP_EPIPE);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), "mine");
    test_end(loop);
}

static int64_t task_cancels_itself_and_raises(aioloop *loop, void *arg, void **out) {
    task_log *log = (task_log *)arg;
    (void)out;
    CHECK(aioloop_future_cancel(aioloop_current_task(loop), "cancel's"));
    (void)aioloop_raise(loop, AIOLOOP_EIO, "raise's");
    log->number = aioloop_await(aioloop_sleep(loop, 0), NULL);
    snprintf(log->message, sizeof(log->message), "%s", aioloop_error_message(aioloop_last_error(loop)));
    return log->number;
}

TEST(message_of_a_cancel_survives_a_raise, "TASK-07") {
    aioloop *loop = test_loop();
    task_log log;
    task_start(loop, &log);
    CHECK_EQ(await_run(loop, task_cancels_itself_and_raises, &log), AIOLOOP_ECANCELED);
    CHECK_STR(log.message, "cancel's");
    test_end(loop);
}

static int64_t task_returns_code_alone(aioloop *loop, void *arg, void **out) {
    (void)loop;
    (void)arg;
    (void)out;
    return AIOLOOP_EPIPE;
}

TEST(error_without_a_message_borrows_none, "") {
    aioloop *loop = test_loop();
    task_log log;
    aioloop_task *t;
    task_start(loop, &log);
    t = await_task(loop, task_fails_the_same, NULL, NULL);
    await_done(loop, t);
    CHECK_EQ(aioloop_future_exception(t), AIOLOOP_EPIPE);
    aioloop_future_unref(t);
    t = await_task(loop, task_returns_code_alone, NULL, NULL);
    await_done(loop, t);
    CHECK_STR(aioloop_error_message(aioloop_future_error(t)), aioloop_strerror(AIOLOOP_EPIPE));
    aioloop_future_unref(t);
    test_end(loop);
}

/* ---- time-outs of tasks ---- */

TEST(task_with_a_time_out_fails_with_it, "") {
    static const aioloop_time past[] = {-1, INT64_MIN + 1, AIOLOOP_US(500)};
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    task_log log;
    size_t i;
    task_start(loop, &log);
    for (i = 0; i < 3; i++) {
        options.timeout = past[i];
        CHECK_EQ(task_play(loop, task_sleeps_long, &log, &options), AIOLOOP_ETIMEDOUT);
        CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), aioloop_strerror(AIOLOOP_ETIMEDOUT));
    }
    options.timeout = AIOLOOP_FOREVER;
    log.number = 5;
    CHECK_EQ(task_play(loop, task_returns_number, &log, &options), 5);
    options.timeout = INT64_MAX - 1; /* the sum saturates */
    CHECK_EQ(task_play(loop, task_returns_number, &log, &options), 5);
    CHECK(aioloop_next_deadline(loop) == AIOLOOP_FOREVER); /* no timer is left behind */
    test_end(loop);
}

TEST(time_out_of_a_task_yields_to_other_ends, "") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    task_log log;
    aioloop_task *t;
    task_start(loop, &log);
    options.timeout = AIOLOOP_MS(1);
    t = await_task(loop, task_swallows, &log, &options); /* swallowed: its result counts */
    await_done(loop, t);
    CHECK_EQ(aioloop_future_result(t, NULL), 12);
    aioloop_future_unref(t);
    options.timeout = AIOLOOP_SECONDS(1000); /* cancelled by somebody else */
    t = await_task(loop, task_sleeps_long, &log, &options);
    test_spin(loop, 1);
    CHECK(aioloop_future_cancel(t, "me first"));
    await_done(loop, t);
    CHECK(aioloop_future_cancelled(t));
    CHECK_STR(aioloop_error_message(aioloop_future_error(t)), "me first");
    aioloop_future_unref(t);
    CHECK(aioloop_next_deadline(loop) == AIOLOOP_FOREVER);
    test_end(loop);
}

/* ---- stacks ---- */

TEST(task_runs_on_a_stack_that_it_is_given, "") {
    static union {
        char bytes[65536];
        double align;
    } place;
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    task_log log;
    int i;
    task_start(loop, &log);
    options.stack = place.bytes + 1; /* however it lies */
    options.stack_size = sizeof(place.bytes) - 1;
    log.number = 6;
    for (i = 0; i < 3; i++)
        CHECK_EQ(task_play(loop, task_returns_number, &log, &options), 6);
    memset(&place, 0xaa, sizeof(place)); /* it is ours again */
    options.stack = NULL;
    for (options.stack_size = 70000; options.stack_size < 1000000; options.stack_size *= 3)
        CHECK_EQ(task_play(loop, task_returns_number, &log, &options), 6);
    test_end(loop);
}

/* ---- the end of the loop ---- */

TEST(pending_tasks_stay_pending_when_the_loop_closes_and_are_reported_when_it_is_freed, "RUN-19 ERR-08") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    static union {
        char bytes[65536];
        double align;
    } place;
    task_log log;
    aioloop_task *t[5];
    int i;
    task_start(loop, &log);
    options.dispose = task_dispose;
    log.future = task_future(loop);
    t[0] = await_task(loop, task_awaits, &log, &options);
    t[1] = await_task(loop, task_sleeps_long, &log, &options);
    options.stack = place.bytes;
    options.stack_size = sizeof(place.bytes);
    t[2] = await_task(loop, task_sleeps_long, &log, &options);
    options.stack = NULL;
    options.stack_size = 100000;
    t[3] = await_task(loop, task_sleeps_long, &log, &options);
    test_spin(loop, 2);
    options.stack_size = 0;
    t[4] = await_task(loop, task_sleeps_long, &log, &options); /* never begun */
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK_EQ(aioloop_all_tasks(loop, NULL, 0), 5);
    for (i = 0; i < 5; i++)
        CHECK(!aioloop_future_done(t[i]));
    CHECK_EQ(aioloop_future_set_result(log.future, 1, NULL, NULL), AIOLOOP_ECLOSED);
    CHECK(aioloop_future_cancel(t[0], "too late"));
    CHECK(aioloop_future_cancel(t[1], NULL));
    for (i = 0; i < 5; i++) {
        CHECK(!aioloop_future_done(t[i]));
        aioloop_future_unref(t[i]); /* the loop's own reference stays */
    }
    aioloop_future_unref(log.future);
    CHECK_EQ(test_reports(), 0);
    CHECK_EQ(aioloop_all_tasks(loop, NULL, 0), 5);
    CHECK_STR(log.order, "a");
    test_end(loop);
    CHECK_EQ(test_reports(), 5);
    CHECK_STR(test_report_at(0)->message, "Task was destroyed but it is pending");
    CHECK(test_report_at(0)->context.task != NULL);
    test_reports_clear();
    CHECK_EQ(log.disposed, 0); /* they have not ended */
}

static void task_drops_at_report(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    task_log *log = (task_log *)arg;
    (void)aioloop_future_cancel(context->task, "at last");
    if (context->task != NULL && context->task == context->future && !aioloop_future_done(context->task) &&
        strncmp(aioloop_task_get_name(context->task), "Task", 4) == 0 &&
        aioloop_future_exception(aioloop_create_task(loop, task_awaits, log, NULL)) == AIOLOOP_ECLOSED)
        log->disposed++;
    if (log->task != NULL)
        aioloop_future_unref(log->task);
    log->task = NULL;
}

TEST(handler_of_pending_tasks_may_do_as_it_likes, "ERR-08") {
    aioloop *loop = test_loop();
    static task_log log; /* the handler may be called when the test has given up */
    aioloop_future *inner;
    task_start(loop, &log);
    aioloop_set_exception_handler(loop, task_drops_at_report, &log);
    log.future = task_future(loop);
    aioloop_future_unref(aioloop_create_task(loop, task_awaits, &log, NULL));
    log.task = await_task(loop, task_sleeps_long, &log, NULL);
    inner = log.task;
    aioloop_future_unref(aioloop_gather(loop, &inner, 1, false));
    aioloop_future_unref(aioloop_wait(loop, &inner, 1, NULL));
    aioloop_future_unref(aioloop_wait_for(inner, AIOLOOP_SECONDS(100)));
    aioloop_future_unref(aioloop_shield(inner));
    test_spin(loop, 2);
    CHECK_EQ(aioloop_close(loop), 0);
    test_end(loop);
    CHECK_EQ(log.disposed, 2);
}

/* ---- connections ---- */

typedef struct task_dialing {
    test_peer peer;
    aioloop_task *task;
    int port;
    int64_t number;
    aioloop_transport *transport;
    int done;
} task_dialing;

static void task_cancelled_when_made(test_peer *peer) {
    task_dialing *d = (task_dialing *)peer->user;
    CHECK(aioloop_future_cancel(d->task, NULL)); /* in the iteration in which the connection is made */
}

static int64_t task_dials(aioloop *loop, void *arg, void **out) {
    task_dialing *d = (task_dialing *)arg;
    (void)out;
    d->number = aioloop_await(aioloop_create_connection(loop, &test_protocol, &d->peer, "127.0.0.1", d->port, NULL),
                              &d->transport);
    d->done++;
    return d->number;
}

TEST(task_cancelled_as_its_connection_is_made_loses_nothing, "TASK-05 TASK-08") {
    aioloop *loop = test_loop();
    test_peer served = AIOLOOP_ZERO;
    task_dialing d;
    aioloop_server *server;
    await_needs_stacks(loop);
    memset(&d, 0, sizeof(d));
    server = test_serve(loop, &test_protocol, &served, &d.port);
    d.peer.user = &d;
    d.peer.on_made = task_cancelled_when_made;
    d.task = await_task(loop, task_dials, &d, NULL);
    test_run_until(loop, &d.done, 1, "the outcome");
    CHECK_EQ(d.number, AIOLOOP_ECANCELED);
    CHECK(d.transport == NULL);
    CHECK(aioloop_future_cancelled(d.task));
    test_run_until(loop, &served.lost, 1, "the loss at the server"); /* nobody has it, so it is closed */
    test_run_until(loop, &d.peer.lost, 1, "the loss at the client");
    test_peer_drop(&d.peer);
    test_peer_drop(&served);
    aioloop_future_unref(d.task);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_spin(loop, 3);
    test_end(loop);
}

static void task_note_pending_kept(aioloop *loop, void *arg) {
    aioloop_future *f = *(aioloop_future **)arg;
    (void)loop;
    CHECK_EQ(aioloop_future_set_result(f, 5, NULL, NULL), AIOLOOP_EINVALIDSTATE); /* it was cancelled: no harm */
    aioloop_future_unref(f);
}

TEST(future_kept_in_a_struct_is_completed_after_its_waiter_was_cancelled, "TASK-05") {
    aioloop *loop = test_loop();
    task_log log;
    aioloop_task *t;
    task_start(loop, &log);
    log.future = task_future(loop);
    t = await_task(loop, task_awaits, &log, NULL);
    test_spin(loop, 1);
    task_soon(loop, task_note_pending_kept, &log.future);
    CHECK(aioloop_future_cancel(t, NULL));
    aioloop_future_unref(t);
    test_spin(loop, 3);
    CHECK_EQ(log.number, AIOLOOP_ECANCELED);
    test_end(loop);
}

TEST(two_tasks_await_one_stored_task, "") {
    aioloop *loop = test_loop();
    task_log logs[3];
    aioloop_task *stored;
    aioloop_task *a;
    aioloop_task *b;
    task_start(loop, &logs[0]);
    memset(logs, 0, sizeof(logs));
    logs[0].number = 11;
    stored = await_task(loop, task_sleeps_and_notes, &logs[0], NULL);
    logs[1].future = stored;
    logs[2].future = stored;
    a = await_task(loop, task_awaits, &logs[1], NULL);
    b = await_task(loop, task_awaits, &logs[2], NULL);
    await_done(loop, b);
    CHECK_EQ(logs[1].number, 0);
    CHECK_EQ(logs[2].number, 0);
    aioloop_future_unref(stored);
    aioloop_future_unref(a);
    aioloop_future_unref(b);
    stored = await_task(loop, task_sleeps_long, &logs[0], NULL); /* cancelling one waiter ends it for both */
    logs[1].future = stored;
    logs[2].future = stored;
    a = await_task(loop, task_awaits, &logs[1], NULL);
    b = await_task(loop, task_awaits, &logs[2], NULL);
    test_spin(loop, 2);
    CHECK(aioloop_future_cancel(a, NULL));
    test_spin(loop, 3);
    CHECK(aioloop_future_cancelled(a));
    CHECK(aioloop_future_cancelled(b));
    CHECK(aioloop_future_cancelled(stored));
    CHECK_EQ(aioloop_task_cancelling(b), 0);
    aioloop_future_unref(stored);
    aioloop_future_unref(a);
    aioloop_future_unref(b);
    test_end(loop);
}

/* ---- debug mode ---- */

static aioloop *task_debug_loop(void) {
    aioloop_config config = AIOLOOP_ZERO;
    config.debug = 1;
    return test_loop_with(&config);
}

static void task_debug_end(aioloop *loop) {
    CHECK_EQ(aioloop_close(loop), 0);
    test_end(loop);
}

static int64_t task_ignores_cancels(aioloop *loop, void *arg, void **out) {
    int i;
    (void)arg;
    (void)out;
    for (i = 0; i < 6; i++) /* a loop that does not look at what its wait returns */
        (void)aioloop_await(aioloop_sleep(loop, AIOLOOP_MS(1)), NULL);
    return 0;
}

TEST(swallowed_cancellation_is_told_in_debug_mode, "TASK-09") {
    aioloop *loop = task_debug_loop();
    task_log log;
    aioloop_task *t;
    task_start(loop, &log);
    t = await_task(loop, task_ignores_cancels, &log, NULL);
    test_spin(loop, 2);
    CHECK(aioloop_future_cancel(t, NULL));
    await_done(loop, t);
    CHECK_EQ(test_log_lines(), 1); /* once, however often it waits on */
    CHECK(strstr(test_log_text(), "waits on after a cancellation") != NULL);
    test_log_clear();
    aioloop_future_unref(t);
    t = await_task(loop, task_swallows, &log, NULL);
    test_spin(loop, 1);
    CHECK(aioloop_future_cancel(t, NULL));
    await_done(loop, t);
    CHECK_EQ(test_log_lines(), 1);
    CHECK(strstr(test_log_text(), "has ended without passing on a cancellation") != NULL);
    test_log_clear();
    aioloop_future_unref(t);
    t = await_task(loop, task_sleeps_long, &log, NULL); /* one that passes it on */
    test_spin(loop, 1);
    CHECK(aioloop_future_cancel(t, NULL));
    await_done(loop, t);
    aioloop_future_unref(t);
    CHECK_EQ(test_log_lines(), 0);
    task_debug_end(loop);
}

static int64_t task_is_slow(aioloop *loop, void *arg, void **out) {
    aioloop_time since = aioloop_now(loop);
    (void)arg;
    (void)out;
    while (aioloop_now(loop) - since < AIOLOOP_MS(2)) { /* simulated time stands still in a step */
        if (test_simulated(loop))
            break;
    }
    return 0;
}

TEST(slow_step_is_told_in_debug_mode, "DBG-03") {
    aioloop *loop = task_debug_loop();
    task_log log;
    task_start(loop, &log);
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, test_simulated(loop) ? 0 : AIOLOOP_MS(1)), 0);
    aioloop_future_unref(aioloop_create_task(loop, task_is_slow, &log, NULL));
    test_spin(loop, 1);
    CHECK(strstr(test_log_text(), "step") != NULL);
    CHECK(strstr(test_log_text(), "took") != NULL);
    CHECK(strstr(test_log_text(), "Task-") != NULL); /* which one */
    test_log_clear();
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, AIOLOOP_SECONDS(100)), 0);
    aioloop_future_unref(aioloop_create_task(loop, task_is_slow, &log, NULL));
    test_spin(loop, 2);
    CHECK_EQ(test_log_lines(), 0);
    task_debug_end(loop);
}

TEST(pending_task_and_its_maker_are_told_in_debug_mode, "DBG-04 ERR-08") {
    aioloop *loop = task_debug_loop();
    task_log log;
    aioloop_task *t;
    int line;
    task_start(loop, &log);
    aioloop_site("here.c", 77); /* as AIOLOOP_DEBUG_SITES does */
    t = aioloop_create_task(loop, task_sleeps_long, &log, NULL);
    aioloop_future_unref(t);
    test_spin(loop, 2);
    CHECK_EQ(aioloop_close(loop), 0);
    log.code = AIOLOOP_EIO;
    test_end(loop);
    CHECK_EQ(test_reports(), 1);
    CHECK_STR(test_report_at(0)->context.source_file, "here.c");
    line = test_report_at(0)->context.source_line;
    CHECK_EQ(line, 77);
    test_reports_clear();
}

TEST(ended_task_is_noticed_in_debug_mode, "") {
    aioloop *loop = task_debug_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    task_log log;
    aioloop_task *t;
    task_start(loop, &log);
    options.copy_size = sizeof(log);
    t = aioloop_create_task(loop, task_is_slow, &log, &options);
    aioloop_future_unref(t);
    test_spin(loop, 2);
    CHECK_EQ(aioloop_future_result(t, NULL), AIOLOOP_EMISUSE); /* it is in quarantine */
    CHECK(!aioloop_is_task(t));
    CHECK(strstr(test_log_text(), "used after its last owner") != NULL);
    test_log_clear();
    task_debug_end(loop);
}

static void task_handler_in_context(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    task_log *log = (task_log *)arg;
    (void)loop;
    if (context->task == context->future && aioloop_is_task(context->task) && context->transport == NULL &&
        context->server == NULL && context->protocol == NULL && aioloop_context_get(&task_var) == task_value(9) &&
        aioloop_context_set(&task_var, task_value(10), NULL) == 0) /* in that context, not here */
        log->disposed++;
}

static int64_t task_fails_in_context(aioloop *loop, void *arg, void **out) {
    (void)arg;
    (void)out;
    (void)aioloop_context_set(&task_var, task_value(9), NULL);
    return aioloop_raise(loop, AIOLOOP_EIO, NULL);
}

static int64_t task_waits_in_context(aioloop *loop, void *arg, void **out) {
    (void)arg;
    (void)out;
    (void)aioloop_context_set(&task_var, task_value(9), NULL);
    return aioloop_await(aioloop_sleep(loop, AIOLOOP_SECONDS(100)), NULL);
}

TEST(handler_runs_in_the_context_of_the_task_that_failed, "ERR-04 ERR-06 ERR-07") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    static task_log log; /* the handler may be called when the test has given up */
    task_start(loop, &log);
    aioloop_set_exception_handler(loop, task_handler_in_context, &log);
    aioloop_future_unref(aioloop_create_task(loop, task_fails_in_context, &log, NULL));
    test_spin(loop, 2);
    CHECK_EQ(log.disposed, 1);
    options.context = task_keep(aioloop_copy_context());
    aioloop_future_unref(aioloop_create_task(loop, task_fails_in_context, &log, &options));
    test_spin(loop, 2);
    CHECK_EQ(log.disposed, 2);
    task_drop_contexts();
    aioloop_future_unref(aioloop_create_task(loop, task_waits_in_context, &log, NULL)); /* and one that is dropped */
    test_spin(loop, 2);
    CHECK(aioloop_context_get(&task_var) == NULL);
    test_end(loop);
    CHECK_EQ(log.disposed, 3);
    CHECK(aioloop_context_get(&task_var) == NULL);
}

TEST(failed_task_and_its_maker_are_told_in_debug_mode, "DBG-04 ERR-07") {
    aioloop *loop = task_debug_loop();
    task_log log;
    int line;
    task_start(loop, &log);
    log.code = AIOLOOP_EIO;
    aioloop_site("there.c", 78);
    aioloop_future_unref(aioloop_create_task(loop, task_raises, &log, NULL));
    test_spin(loop, 2);
    CHECK_EQ(test_reports(), 1);
    CHECK_STR(test_report_at(0)->context.source_file, "there.c");
    line = test_report_at(0)->context.source_line;
    CHECK_EQ(line, 78);
    test_reports_clear();
    task_debug_end(loop);
}

#if !defined(AIOLOOP_USE_THREADS) || AIOLOOP_USE_THREADS != 0

typedef struct task_stranger {
    aioloop *loop;
    aioloop_future *future;
    aioloop_completed *completed;
    task_log log;
    int codes[8];
    bool nothing;
    int disposed;
} task_stranger;

static void *task_calls_from_thread(void *arg) {
    task_stranger *s = (task_stranger *)arg;
    aioloop *loop = s->loop;
    aioloop_task_options options = AIOLOOP_ZERO;
    options.dispose = task_dispose;
    s->codes[0] = aioloop_future_exception(aioloop_create_task(loop, task_awaits, &s->log, &options));
    s->codes[1] = aioloop_future_exception(aioloop_sleep(loop, 1));
    s->codes[2] = aioloop_future_exception(aioloop_gather(loop, &s->future, 1, false));
    s->codes[3] = aioloop_future_exception(aioloop_wait(loop, &s->future, 1, NULL));
    s->codes[4] = aioloop_future_exception(aioloop_wait_for(s->future, 1));
    s->codes[5] = aioloop_future_exception(aioloop_shield(s->future));
    s->codes[6] = aioloop_future_exception(aioloop_completed_next(s->completed));
    s->codes[7] = aioloop_await(s->future, NULL) == AIOLOOP_EMISUSE ? AIOLOOP_EMISUSE : 0;
    s->nothing = aioloop_as_completed(loop, &s->future, 1, 1) == NULL;
    s->nothing = aioloop_task_group_enter(loop) == NULL && s->nothing;
    return NULL;
}

static void task_calls_meanwhile(aioloop *loop, void *arg) {
    pthread_t thread;
    (void)loop;
    CHECK_EQ(pthread_create(&thread, NULL, task_calls_from_thread, arg), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

TEST_WITH(tasks_and_combinators_of_a_wrong_thread_are_refused_in_debug_mode, "DBG-02", TEST_THREADS) {
    aioloop *loop = task_debug_loop();
    task_stranger s;
    int i;
    memset(&s, 0, sizeof(s));
    test_needs_threads(loop);
    await_needs_stacks(loop);
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, AIOLOOP_FOREVER), 0); /* the callback waits for a thread */
    s.loop = loop;
    s.future = task_future(loop);
    s.completed = aioloop_as_completed(loop, &s.future, 1, AIOLOOP_FOREVER);
    CHECK(s.completed != NULL);
    task_soon(loop, task_calls_meanwhile, &s);
    test_spin(loop, 1);
    for (i = 0; i < 8; i++)
        CHECK_EQ(s.codes[i], AIOLOOP_EMISUSE);
    CHECK(s.nothing);
    CHECK_EQ(s.log.disposed, 1);
    CHECK(!aioloop_future_done(s.future));
    aioloop_completed_free(s.completed);
    aioloop_future_unref(s.future);
    task_debug_end(loop);
}

#endif

/* ---- no memory ---- */

typedef struct task_memory {
    int left; /* allocations that succeed; below 0: all */
    bool refused;
} task_memory;

static void *task_allocate(void *context, void *pointer, size_t old_size, size_t new_size) {
    task_memory *m = (task_memory *)context;
    (void)old_size;
    if (new_size == 0) {
        test_free(pointer);
        return NULL;
    }
    if (m->left == 0) {
        m->refused = true;
        return NULL;
    }
    if (m->left > 0)
        m->left--;
    return pointer == NULL ? test_malloc(new_size) : test_realloc(pointer, new_size);
}

/* Makes a task in every way with only so many allocations; true if it needed more. */
static bool task_made_with(int allocations, bool named, bool copied) {
    static task_memory memory;
    aioloop_config config = AIOLOOP_ZERO;
    aioloop_allocator allocator;
    aioloop_task_options options = AIOLOOP_ZERO;
    aioloop *loop;
    task_log log;
    task_copied copy;
    aioloop_task *t;
    memory.left = -1;
    memory.refused = false;
    allocator.allocate = task_allocate;
    allocator.context = &memory;
    config.allocator = &allocator;
    loop = test_loop_with(&config);
    task_start(loop, &log);
    memset(&copy, 0, sizeof(copy));
    copy.log = &log;
    options.name = named ? "needs memory" : NULL;
    options.timeout = named ? AIOLOOP_SECONDS(100) : 0;
    options.copy_size = copied ? sizeof(copy) : 0;
    options.dispose = copied ? task_dispose_copy : task_dispose;
    memory.left = allocations;
    t = copied ? aioloop_create_task(loop, task_reads_copy, &copy, &options)
               : aioloop_create_task(loop, task_returns_number, &log, &options);
    memory.left = -1;
    if (memory.refused) {
        CHECK_EQ(aioloop_future_exception(t), AIOLOOP_ENOMEM);
        CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_ENOMEM);
        CHECK_EQ(log.disposed, 1); /* there and then, once */
        CHECK_EQ(aioloop_all_tasks(loop, NULL, 0), 0);
    } else {
        CHECK_EQ(log.disposed, 0);
        CHECK_EQ(aioloop_run_until_complete(loop, t, NULL), copied ? 1 : 0);
    }
    test_spin(loop, 2);
    CHECK_EQ(log.disposed, 1);
    CHECK(aioloop_next_deadline(loop) == AIOLOOP_FOREVER);
    test_end(loop);
    return memory.refused;
}

TEST(task_that_finds_no_memory_disposes_of_its_argument_once, "CRE-07") {
    int kind;
    for (kind = 0; kind < 4; kind++) {
        int allocations = 0;
        while (task_made_with(allocations, (kind & 1) != 0, (kind & 2) != 0))
            allocations++;
        CHECK_GE(allocations, 2);
        CHECK_LT(allocations, 30);
    }
}

/* ---- what is called while a task begins to wait ---- */

static const aioloop_context_var task_waiting_var = {"task", NULL};
static int64_t task_value_waited;

static void task_value_waits(void *value) {
    task_value_waited = aioloop_await(aioloop_sleep((aioloop *)value, AIOLOOP_MS(1)), NULL);
}

static int64_t task_is_cancelled_before_it_waits(aioloop *loop, void *arg, void **out) {
    aioloop_future *f;
    (void)arg;
    (void)out;
    CHECK_EQ(aioloop_context_set(&task_waiting_var, loop, task_value_waits), 0);
    f = aioloop_sleep(loop, AIOLOOP_SECONDS(1000));
    CHECK_EQ(aioloop_context_set(&task_waiting_var, NULL, NULL), 0);
    CHECK(aioloop_future_cancel(aioloop_current_task(loop), NULL));
    return aioloop_await(f, NULL);
}

TEST(context_value_cannot_wait_while_its_task_begins_to, "TASK-04") {
    aioloop *loop = test_loop();
    await_needs_stacks(loop);
    task_value_waited = 0;
    CHECK_EQ(await_run(loop, task_is_cancelled_before_it_waits, NULL), AIOLOOP_ECANCELED);
    CHECK_EQ(task_value_waited, AIOLOOP_EMISUSE);
    test_end(loop);
}
