/*
 * runner.c - a program from its first coroutine to the last task.                (asyncio: runners.py)
 */
#ifndef AIOL_HIGH_RUNNER_C
#define AIOL_HIGH_RUNNER_C

#include "api/executor.h"
#include "api/task.h"
#include "core/core.h"
#if AIOLOOP_USE_SUBPROCESS
#include "core/signal.c"
#endif

struct aioloop_runner {
    aioloop *loop; /* NULL: closed */
    aioloop_context *context;
    aioloop_time shutdown_timeout;
    aioloop_allocator allocator;
    bool closing; /* what that calls may not do so again */
#if AIOLOOP_USE_SUBPROCESS
    aioloop_task *main; /* while it runs */
    int interrupts;     /* in this run */
    bool leaving;       /* without waiting for main */
#endif
};

AIOLOOP_API aioloop_runner *aioloop_runner_new(const aioloop_run_options *options) {
    const aioloop_config *config = options == NULL ? NULL : options->config;
    const aioloop_allocator *a = config != NULL && config->allocator != NULL ? config->allocator : &aiol_default_allocator;
    aioloop_runner *runner = (aioloop_runner *)aiol_alloc_zero(a, sizeof(*runner));
    if (runner == NULL) {
        aiol_fail(NULL, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    runner->allocator = *a;
    runner->shutdown_timeout = options == NULL ? 0 : options->shutdown_timeout;
    runner->context = aioloop_copy_context();
    if (runner->context == NULL)
        aiol_fail(NULL, AIOLOOP_ENOMEM, NULL);
    else
        runner->loop = (aioloop_new_event_loop)(config);
    if (runner->loop == NULL) {
        aioloop_context_unref(runner->context);
        aiol_free(a, runner, sizeof(*runner));
        return NULL;
    }
    return runner;
}

#if AIOLOOP_USE_SUBPROCESS

/* The first interruption cancels main, which may clean up; who does not want to wait for that interrupts again. */
static void aiol_runner_interrupted(aioloop *loop, void *arg) {
    aioloop_runner *runner = (aioloop_runner *)arg;
    if (++runner->interrupts == 1 && !aioloop_future_done(runner->main)) {
        aioloop_future_cancel(runner->main, NULL);
        return;
    }
    runner->leaving = true;
    aioloop_raise(loop, AIOLOOP_EFATAL, NULL);
}

/* Runs main until it is done, or the program is interrupted. */
static int64_t aiol_runner_complete(aioloop_runner *runner, const aioloop_task_recipe *recipe, void *out) {
    int64_t n = aiol_interrupt_begin(runner->loop, aiol_runner_interrupted, runner);
    if (n < 0)
        return n;
    runner->interrupts = 0;
    runner->leaving = false;
    runner->main = aioloop_future_ref(aiol_create_task(runner->loop, recipe));
    n = aioloop_run_until_complete(runner->loop, runner->main, out);
    if (runner->leaving || (n == AIOLOOP_ECANCELED && runner->interrupts > 0 && aioloop_task_uncancel(runner->main) == 0))
        n = AIOLOOP_EINTERRUPTED;
    if (aiol_interrupt_end(runner->loop, aiol_runner_interrupted))
        n = AIOLOOP_EINTERRUPTED; /* in the last moment, which is no reason to be swallowed */
    aioloop_future_unref(runner->main);
    runner->main = NULL;
    return n;
}

#else

static int64_t aiol_runner_complete(aioloop_runner *runner, const aioloop_task_recipe *recipe, void *out) {
    return aioloop_run_until_complete(runner->loop, aiol_create_task(runner->loop, recipe), out);
}

#endif

static int64_t aiol_runner_play(aioloop_runner *runner, const aioloop_task_recipe *recipe, void *out) {
    int64_t n;
    if (runner == NULL)
        return AIOLOOP_EINVAL;
    if (runner->loop == NULL)
        return aiol_fail(NULL, AIOLOOP_EMISUSE, "the runner is closed");
    if (aioloop_get_running_loop() != NULL)
        return aiol_fail(NULL, AIOLOOP_EMISUSE, "a loop is running in this thread");
    n = aiol_runner_complete(runner, recipe, out);
    if (n < 0) {
        const aioloop_error *error = aioloop_last_error(runner->loop);
        aiol_fail(NULL, (int)n, "%s", aioloop_error_code(error) == n ? aioloop_error_message(error) : "");
    }
    return n;
}

static void aiol_runner_recipe(aioloop_runner *runner, aioloop_context *context, aioloop_task_recipe *recipe) {
    memset(recipe, 0, sizeof(*recipe));
    if (runner != NULL)
        recipe->options.context = context != NULL ? context : runner->context;
}

AIOLOOP_API int64_t aioloop_runner_run(aioloop_runner *runner, aioloop_coroutine fn, void *arg, aioloop_context *context,
                                       void *out) {
    aioloop_task_recipe recipe;
    aiol_runner_recipe(runner, context, &recipe);
    recipe.coroutine = fn;
    recipe.arg = arg;
    return aiol_runner_play(runner, &recipe, out);
}

AIOLOOP_API int64_t aioloop_runner_run_frame(aioloop_runner *runner, aioloop_step fn, aioloop_frame *frame,
                                             aioloop_context *context, void *out) {
    aioloop_task_recipe recipe;
    aiol_runner_recipe(runner, context, &recipe);
    recipe.step = fn;
    recipe.arg = frame;
    return aiol_runner_play(runner, &recipe, out);
}

AIOLOOP_API aioloop *aioloop_runner_get_loop(aioloop_runner *runner) {
    return runner == NULL ? NULL : runner->loop;
}

/* ---- the end ---- */

static void aiol_runner_report(aioloop *loop, aioloop_task *task) {
    aioloop_exception_context context;
    int error = aioloop_future_exception(task);
    if (error >= 0 || error == AIOLOOP_ECANCELED || error == AIOLOOP_EINVALIDSTATE)
        return;
    memset(&context, 0, sizeof(context));
    context.message = "Unhandled error during the shutdown of aioloop_run";
    context.error = error;
    context.detail = aioloop_error_message(aioloop_future_error(task));
    context.future = task;
    context.task = task;
    aioloop_call_exception_handler(loop, &context);
}

/* How long is left until the deadline, as the time-out of aioloop_wait. */
static aioloop_time aiol_runner_left(const aioloop_runner *runner, aioloop_time deadline) {
    aioloop_time left = deadline - aioloop_now(runner->loop);
    return runner->shutdown_timeout == 0 ? 0 : left > 0 ? left : -1;
}

/* Closes the generators that have begun. */
static void aiol_runner_shutdown_asyncgens(aioloop_runner *runner, aioloop_time deadline) {
    aioloop_wait_options options;
    aioloop_future *closed = aioloop_future_ref((aioloop_shutdown_asyncgens)(runner->loop));
    memset(&options, 0, sizeof(options));
    options.timeout = aiol_runner_left(runner, deadline);
    if (!aioloop_future_done(closed))
        (void)aioloop_run_until_complete(runner->loop, (aioloop_wait)(runner->loop, &closed, 1, &options), NULL);
    aioloop_future_unref(closed);
}

/* Waits for the functions that still run in the default pool. */
static void aiol_runner_shutdown_executor(aioloop_runner *runner, aioloop_time deadline) {
    aioloop_future *ended = (aioloop_shutdown_default_executor)(runner->loop, aiol_runner_left(runner, deadline));
    if (aioloop_future_done(ended))
        aioloop_future_unref(ended);
    else
        (void)aioloop_run_until_complete(runner->loop, ended, NULL);
}

/* Cancels all tasks and waits for them, not for those that they create meanwhile. */
static void aiol_runner_cancel_all(aioloop_runner *runner, aioloop_time deadline) {
    aioloop *loop = runner->loop;
    aioloop_wait_options options;
    aioloop_task *few[16];
    aioloop_task **tasks = few;
    size_t count = aioloop_all_tasks(loop, NULL, 0);
    size_t capacity = count;
    size_t i;
    if (count == 0)
        return;
    memset(&options, 0, sizeof(options));
    options.timeout = aiol_runner_left(runner, deadline);
    if (count > sizeof(few) / sizeof(few[0]))
        tasks = (aioloop_task **)aiol_alloc(&runner->allocator, capacity * sizeof(tasks[0]));
    if (tasks == NULL) { /* the oldest have to do */
        tasks = few;
        capacity = sizeof(few) / sizeof(few[0]);
    }
    count = aiol_min_size(aioloop_all_tasks(loop, tasks, capacity), capacity);
    for (i = 0; i < count; i++)
        aioloop_future_cancel(tasks[i], NULL);
    (void)aioloop_run_until_complete(loop, (aioloop_wait)(loop, tasks, count, &options), NULL);
    for (i = 0; i < count; i++) {
        aiol_runner_report(loop, tasks[i]);
        aioloop_future_unref(tasks[i]);
    }
    if (tasks != few)
        aiol_free(&runner->allocator, tasks, capacity * sizeof(tasks[0]));
}

AIOLOOP_API int aioloop_runner_close(aioloop_runner *runner) {
    aioloop_time deadline;
    if (runner == NULL)
        return AIOLOOP_EINVAL;
    if (runner->loop == NULL)
        return 0;
    if (runner->closing || aioloop_get_running_loop() != NULL)
        return AIOLOOP_EMISUSE;
    runner->closing = true;
    deadline = aiol_time_add(aioloop_now(runner->loop), runner->shutdown_timeout);
    aiol_runner_cancel_all(runner, deadline);
    aiol_runner_shutdown_asyncgens(runner, deadline);
    aiol_runner_shutdown_executor(runner, deadline);
    aioloop_close(runner->loop);
    aioloop_free(runner->loop);
    runner->loop = NULL;
    aioloop_context_unref(runner->context);
    runner->context = NULL;
    runner->closing = false;
    return 0;
}

AIOLOOP_API void aioloop_runner_free(aioloop_runner *runner) {
    aioloop_allocator allocator;
    if (runner == NULL || aioloop_runner_close(runner) < 0)
        return;
    allocator = runner->allocator;
    aiol_free(&allocator, runner, sizeof(*runner));
}

static int64_t aiol_run(aioloop_task_recipe *recipe, const aioloop_run_options *options) {
    aioloop_runner *runner;
    int64_t n;
    if (aioloop_get_running_loop() != NULL)
        return aiol_fail(NULL, AIOLOOP_EMISUSE, "aioloop_run inside a running loop");
    runner = aioloop_runner_new(options);
    if (runner == NULL)
        return aioloop_error_code(aioloop_last_error(NULL));
    recipe->options.context = runner->context;
    recipe->options.timeout = options == NULL ? 0 : options->timeout;
    n = aiol_runner_play(runner, recipe, options == NULL ? NULL : options->out);
    aioloop_runner_free(runner);
    return n;
}

AIOLOOP_API int64_t aioloop_run(aioloop_coroutine fn, void *arg, const aioloop_run_options *options) {
    aioloop_task_recipe recipe;
    aiol_runner_recipe(NULL, NULL, &recipe);
    recipe.coroutine = fn;
    recipe.arg = arg;
    return aiol_run(&recipe, options);
}

AIOLOOP_API int64_t aioloop_run_frame(aioloop_step fn, aioloop_frame *frame, const aioloop_run_options *options) {
    aioloop_task_recipe recipe;
    aiol_runner_recipe(NULL, NULL, &recipe);
    recipe.step = fn;
    recipe.arg = frame;
    return aiol_run(&recipe, options);
}

#endif
