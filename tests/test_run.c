/*
 * test_run.c - aioloop_run and the runner: a program from its first coroutine to the last task.
 *
 * A test that gives up inside of a run would leave the run's loop behind, so what coroutines find is looked at
 * afterwards.
 */
#include "awaits.h"

typedef struct run_log {
    int64_t number;
    int code;
    int steps;
    int others; /* tasks that ended */
    int other_code;
    bool lingers;
    aioloop *loop;
    void *pointer;
    int64_t inner;
    int reports;
    char detail[128];
    char message[128];
    int bad; /* the line of what was not so */
} run_log;

#define RUN_SEES(log, condition) ((condition) ? (void)0 : (void)((log)->bad = __LINE__))

static aioloop_context_var run_var = {"run_var", NULL};

static void run_reported(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    run_log *log = (run_log *)arg;
    (void)loop;
    log->reports++;
    snprintf(log->detail, sizeof(log->detail), "%s", context->detail != NULL ? context->detail : "");
    snprintf(log->message, sizeof(log->message), "%s", context->message);
}

/* Runs need stacks; whether there are is asked of a loop. */
static void run_needs_stacks(run_log *log) {
    aioloop *loop = test_loop();
    memset(log, 0, sizeof(*log));
    await_needs_stacks(loop);
    test_end(loop);
}

static int64_t run_other(aioloop *loop, void *arg, void **out) {
    run_log *log = (run_log *)arg;
    int64_t n = aioloop_await(aioloop_sleep(loop, AIOLOOP_SECONDS(1000)), NULL);
    (void)out;
    if (log->lingers && n == AIOLOOP_ECANCELED) {
        int64_t m = aioloop_await(aioloop_sleep(loop, AIOLOOP_MS(1)), NULL);
        RUN_SEES(log, m == 0);
    }
    log->others++;
    return log->other_code != 0 ? aioloop_raise(loop, log->other_code, "left over") : n;
}

static int64_t run_main(aioloop *loop, void *arg, void **out) {
    run_log *log = (run_log *)arg;
    int64_t n;
    log->loop = loop;
    RUN_SEES(log, aioloop_get_running_loop() == loop);
    RUN_SEES(log, aioloop_get_event_loop() == loop);
    RUN_SEES(log, aioloop_current_task(loop) != NULL);
    aioloop_set_exception_handler(loop, run_reported, log);
    aioloop_future_unref(aioloop_create_task(loop, run_other, log, NULL));
    aioloop_future_unref(aioloop_create_task(loop, run_other, log, NULL));
    n = aioloop_await(aioloop_sleep(loop, 0), NULL);
    if (n < 0)
        return n;
    log->steps++;
    *out = log->pointer;
    return log->code != 0 ? aioloop_raise(loop, log->code, "main %s", "failed") : log->number;
}

TEST(run_runs_main_and_cleans_everything_up, "RNR-01 RUN-08") {
    run_log log;
    aioloop_run_options options = AIOLOOP_ZERO;
    void *out = NULL;
    run_needs_stacks(&log);
    log.number = 42;
    log.pointer = &log;
    log.lingers = true;
    options.out = &out;
    CHECK_EQ(aioloop_run(run_main, &log, &options), 42);
    CHECK_PTR(out, &log);
    CHECK_EQ(log.bad, 0);
    CHECK_EQ(log.others, 2); /* cancelled, and awaited */
    CHECK_EQ(log.reports, 0);
    CHECK(aioloop_get_running_loop() == NULL);
    CHECK_EQ(aioloop_run(run_main, &log, NULL), 42); /* again */
}

TEST(run_gives_the_error_of_main_with_its_message, "RNR-01") {
    run_log log;
    run_needs_stacks(&log);
    log.code = AIOLOOP_EPERM;
    CHECK_EQ(aioloop_run(run_main, &log, NULL), AIOLOOP_EPERM);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(NULL)), AIOLOOP_EPERM);
    CHECK_STR(aioloop_error_message(aioloop_last_error(NULL)), "main failed");
    log.code = AIOLOOP_ECANCELED;
    CHECK_EQ(aioloop_run(run_main, &log, NULL), AIOLOOP_ECANCELED);
    log.code = AIOLOOP_EFATAL;
    CHECK_EQ(aioloop_run(run_main, &log, NULL), AIOLOOP_EFATAL);
    CHECK_EQ(log.others, 6); /* also then they are seen to */
}

TEST(run_reports_what_fails_in_the_end, "RNR-01") {
    run_log log;
    run_needs_stacks(&log);
    log.other_code = AIOLOOP_EIO;
    CHECK_EQ(aioloop_run(run_main, &log, NULL), 0);
    CHECK_EQ(log.others, 2);
    CHECK_EQ(log.reports, 2);
    CHECK_STR(log.detail, "left over");
}

static int64_t run_never_ends(aioloop *loop, void *arg, void **out) {
    run_log *log = (run_log *)arg;
    (void)out;
    while (log->number == 0)
        (void)aioloop_await(aioloop_sleep(loop, AIOLOOP_SECONDS(1000)), NULL);
    return 0;
}

static int64_t run_leaves_a_stubborn_one(aioloop *loop, void *arg, void **out) {
    run_log *log = (run_log *)arg;
    (void)out;
    aioloop_set_exception_handler(loop, run_reported, log);
    aioloop_future_unref(aioloop_create_task(loop, run_never_ends, log, NULL));
    return aioloop_await(aioloop_sleep(loop, 0), NULL);
}

TEST(run_waits_for_stubborn_tasks_only_so_long, "RNR-01 ERR-08") {
    run_log log;
    aioloop_run_options options = AIOLOOP_ZERO;
    run_needs_stacks(&log);
    options.shutdown_timeout = AIOLOOP_MS(1);
    CHECK_EQ(aioloop_run(run_leaves_a_stubborn_one, &log, &options), 0);
    CHECK_EQ(log.reports, 1);
    CHECK_STR(log.message, "Task was destroyed but it is pending");
}

static int64_t run_sleeps(aioloop *loop, void *arg, void **out) {
    (void)arg;
    (void)out;
    return aioloop_await(aioloop_sleep(loop, AIOLOOP_SECONDS(1000)), NULL);
}

TEST(run_with_a_time_out, "RNR-01") {
    run_log log;
    aioloop_run_options options = AIOLOOP_ZERO;
    run_needs_stacks(&log);
    options.timeout = AIOLOOP_MS(1);
    CHECK_EQ(aioloop_run(run_sleeps, &log, &options), AIOLOOP_ETIMEDOUT);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(NULL)), AIOLOOP_ETIMEDOUT);
}

static int64_t run_within(aioloop *loop, void *arg, void **out) {
    run_log *log = (run_log *)arg;
    aioloop_runner *runner;
    (void)loop;
    (void)out;
    log->inner = aioloop_run(run_main, log, NULL);
    RUN_SEES(log, aioloop_error_code(aioloop_last_error(NULL)) == AIOLOOP_EMISUSE);
    runner = aioloop_runner_new(NULL);
    if (runner == NULL)
        return AIOLOOP_ENOMEM;
    RUN_SEES(log, aioloop_runner_run(runner, run_main, log, NULL, NULL) == AIOLOOP_EMISUSE);
    RUN_SEES(log, aioloop_runner_close(runner) == AIOLOOP_EMISUSE); /* it would have to run its loop */
    log->pointer = runner;
    return 1;
}

TEST(run_inside_a_run_is_misuse, "RNR-02") {
    run_log log;
    int64_t n;
    run_needs_stacks(&log);
    n = aioloop_run(run_within, &log, NULL);
    aioloop_runner_free((aioloop_runner *)log.pointer);
    CHECK_EQ(n, 1);
    CHECK_EQ(log.inner, AIOLOOP_EMISUSE);
    CHECK_EQ(log.steps, 0);
    CHECK_EQ(log.bad, 0);
}

static int64_t run_sets_context(aioloop *loop, void *arg, void **out) {
    run_log *log = (run_log *)arg;
    void *seen = aioloop_context_get(&run_var);
    int64_t n;
    (void)out;
    RUN_SEES(log, log->loop == NULL || log->loop == loop); /* on one loop */
    log->loop = loop;
    n = aioloop_await(aioloop_sleep(loop, 0), NULL);
    RUN_SEES(log, n == 0);
    n = aioloop_context_set(&run_var, log, NULL);
    return n < 0 ? n : seen == log ? 1 : 0;
}

TEST(runner_runs_several_on_one_loop_in_one_context, "RNR-04") {
    run_log log;
    aioloop_runner *runner;
    aioloop_context *context;
    int64_t n[5];
    void *ours;
    run_needs_stacks(&log);
    context = aioloop_copy_context();
    runner = aioloop_runner_new(NULL);
    n[0] = aioloop_runner_run(runner, run_sets_context, &log, NULL, NULL);
    n[1] = aioloop_runner_run(runner, run_sets_context, &log, NULL, NULL);    /* sees what the first has set */
    ours = aioloop_context_get(&run_var);                                     /* which is not ours */
    n[2] = aioloop_runner_run(runner, run_sets_context, &log, context, NULL); /* in another one */
    n[3] = aioloop_runner_run(runner, run_sets_context, &log, context, NULL);
    RUN_SEES(&log, aioloop_runner_get_loop(runner) == log.loop);
    RUN_SEES(&log, runner == NULL || aioloop_runner_close(runner) == 0);
    RUN_SEES(&log, runner == NULL || aioloop_runner_close(runner) == 0); /* as often as one likes */
    RUN_SEES(&log, aioloop_runner_get_loop(runner) == NULL);
    n[4] = aioloop_runner_run(runner, run_sets_context, &log, NULL, NULL);
    aioloop_runner_free(runner);
    aioloop_context_unref(context);
    CHECK(runner != NULL && context != NULL);
    CHECK_EQ(n[0], 0);
    CHECK_EQ(n[1], 1);
    CHECK(ours == NULL);
    CHECK_EQ(n[2], 0);
    CHECK_EQ(n[3], 1);
    CHECK_EQ(n[4], AIOLOOP_EMISUSE);
    CHECK_EQ(log.bad, 0);
    aioloop_runner_free(NULL);
    CHECK_EQ(aioloop_runner_close(NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_runner_run(NULL, run_sets_context, &log, NULL, NULL), AIOLOOP_EINVAL);
    CHECK(aioloop_runner_get_loop(NULL) == NULL);
}

TEST(runner_keeps_tasks_between_runs_and_ends_them_when_closed, "RNR-04 RNR-01") {
    run_log log;
    aioloop_runner *runner;
    int64_t n[2];
    size_t tasks[2];
    int others;
    run_needs_stacks(&log);
    log.other_code = AIOLOOP_EIO;
    runner = aioloop_runner_new(NULL);
    n[0] = aioloop_runner_run(runner, run_main, &log, NULL, NULL);
    tasks[0] = aioloop_all_tasks(aioloop_runner_get_loop(runner), NULL, 0);
    n[1] = aioloop_runner_run(runner, run_main, &log, NULL, NULL);
    tasks[1] = aioloop_all_tasks(aioloop_runner_get_loop(runner), NULL, 0);
    others = log.others;
    aioloop_runner_free(runner);
    CHECK(runner != NULL);
    CHECK_EQ(n[0], 0);
    CHECK_EQ(n[1], 0);
    CHECK_EQ(tasks[0], 2);
    CHECK_EQ(tasks[1], 4);
    CHECK_EQ(others, 0);
    CHECK_EQ(log.others, 4);
    CHECK_EQ(log.reports, 4);
    CHECK_EQ(log.bad, 0);
}

TEST(runner_whose_loop_was_closed_says_so, "RNR-04 RUN-17") {
    run_log log;
    aioloop_runner *runner;
    int64_t n[2];
    int code;
    run_needs_stacks(&log);
    runner = aioloop_runner_new(NULL);
    n[0] = aioloop_runner_run(runner, run_main, &log, NULL, NULL);
    (void)aioloop_close(aioloop_runner_get_loop(runner)); /* with two tasks that are left */
    n[1] = aioloop_runner_run(runner, run_main, &log, NULL, NULL);
    code = aioloop_error_code(aioloop_last_error(NULL));
    aioloop_runner_free(runner);
    CHECK(runner != NULL);
    CHECK_EQ(n[0], 0);
    CHECK_EQ(n[1], AIOLOOP_ECLOSED);
    CHECK_EQ(code, AIOLOOP_ECLOSED);
    CHECK_EQ(log.others, 0);
    CHECK_EQ(log.reports, 2); /* that they are pending */
    CHECK_EQ(log.bad, 0);
}

static int64_t run_leaves_many(aioloop *loop, void *arg, void **out) {
    int i;
    (void)out;
    for (i = 0; i < 40; i++)
        aioloop_future_unref(aioloop_create_task(loop, run_other, arg, NULL));
    return aioloop_await(aioloop_sleep(loop, 0), NULL);
}

TEST(run_ends_many_tasks, "RNR-01") {
    run_log log;
    run_needs_stacks(&log);
    CHECK_EQ(aioloop_run(run_leaves_many, &log, NULL), 0);
    CHECK_EQ(log.others, 40);
}

typedef struct run_frame {
    aioloop_frame frame;
    int64_t n;
    int steps;
} run_frame;

static int64_t run_step(aioloop *loop, aioloop_frame *frame, void **out) {
    run_frame *self = (run_frame *)frame;
    AIOLOOP_BEGIN(loop, frame);
    AIOLOOP_SLEEP(self->n, 0);
    self->steps++;
    *out = self;
    return self->n < 0 ? self->n : 7;
    AIOLOOP_END;
}

TEST(run_of_a_frame, "RNR-01 RNR-04") {
    run_frame f = AIOLOOP_ZERO;
    aioloop_run_options options = AIOLOOP_ZERO;
    aioloop_runner *runner;
    void *out = NULL;
    int64_t n;
    test_end(test_loop());
    options.out = &out;
    CHECK_EQ(aioloop_run_frame(run_step, &f.frame, &options), 7);
    CHECK_PTR(out, &f);
    CHECK_EQ(aioloop_run_frame(run_step, NULL, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_frame(NULL, &f.frame, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run(NULL, NULL, NULL), AIOLOOP_EINVAL);
    memset(&f, 0, sizeof(f));
    runner = aioloop_runner_new(NULL);
    n = aioloop_runner_run_frame(runner, run_step, &f.frame, NULL, &out);
    aioloop_runner_free(runner);
    CHECK(runner != NULL);
    CHECK_EQ(n, 7);
}

TEST(run_on_a_back_end_that_nobody_knows_fails, "RNR-01") {
    run_frame f = AIOLOOP_ZERO;
    aioloop_config config = AIOLOOP_ZERO;
    aioloop_run_options options = AIOLOOP_ZERO;
    config.backend = "abacus";
    options.config = &config;
    CHECK_EQ(aioloop_run_frame(run_step, &f.frame, &options), AIOLOOP_EINVAL);
    CHECK(aioloop_runner_new(&options) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(f.steps, 0);
}

static int64_t run_stops(aioloop *loop, void *arg, void **out) {
    (void)arg;
    (void)out;
    aioloop_stop(loop);
    return aioloop_await(aioloop_sleep(loop, AIOLOOP_SECONDS(1000)), NULL);
}

TEST(main_that_stops_the_loop_is_misuse_and_is_ended, "RNR-01") {
    run_log log;
    run_needs_stacks(&log);
    CHECK_EQ(aioloop_run(run_stops, &log, NULL), AIOLOOP_EMISUSE);
    CHECK_STR(aioloop_error_message(aioloop_last_error(NULL)), "the loop was stopped before the future completed");
}

static aioloop_runner *run_closing;
static int run_closed_again;

static void run_handler_closes(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    (void)loop;
    (void)context;
    (void)arg;
    run_closed_again = aioloop_runner_close(run_closing);
}

static int64_t run_fails_late(aioloop *loop, aioloop_frame *frame, void **out) {
    int64_t n;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    AIOLOOP_SLEEP(n, AIOLOOP_SECONDS(1000));
    return n == AIOLOOP_ECANCELED ? AIOLOOP_EINVAL : 0;
    AIOLOOP_END;
}

TEST(runner_is_closed_once_also_by_its_handler, "RNR-01") {
    aioloop_frame frame = AIOLOOP_ZERO;
    run_frame f = AIOLOOP_ZERO;
    run_closed_again = 0;
    run_closing = aioloop_runner_new(NULL);
    CHECK(run_closing != NULL);
    aioloop_set_exception_handler(aioloop_runner_get_loop(run_closing), run_handler_closes, NULL);
    aioloop_future_unref(aioloop_create_task_frame(aioloop_runner_get_loop(run_closing), run_fails_late, &frame, NULL));
    (void)aioloop_runner_run_frame(run_closing, run_step, &f.frame, NULL, NULL);
    CHECK_EQ(aioloop_runner_close(run_closing), 0);
    aioloop_runner_free(run_closing);
    CHECK_EQ(run_closed_again, AIOLOOP_EMISUSE);
}
