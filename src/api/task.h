/*
 * task.h - coroutines, and the tasks that run them.                  (asyncio: tasks.py, coroutines.py)
 *
 * A coroutine is a function that can wait for a future without holding up the loop. There are two kinds:
 *
 *   - with a stack of its own (aioloop_coroutine): ordinary code, which calls aioloop_await anywhere, also inside functions
 *     that it calls;
 *   - without one (aioloop_step): a function over a frame of yours, written with AIOLOOP_BEGIN, AIOLOOP_AWAIT and AIOLOOP_END,
 *     for a million of them, and for firmware. Plain C99. Its local variables do not outlive a wait; the frame's members do.
 *
 * A task runs one. It is a future: whatever takes a future takes a task, and what is said of ownership at future.h
 * holds. The loop keeps a task alive until it is done, whoever lets go of it.
 *
 * A coroutine's result is what it returns: a number >= 0, with a pointer stored at *out if there is one; or a negative
 * code, which is raising it. Returning AIOLOOP_ECANCELED ends the task as cancelled. The message of the last
 * aioloop_raise or failed call goes with the code, if it has the same.
 *
 * Cancelling a task (aioloop_future_cancel) cancels what it waits for, and the wait returns AIOLOOP_ECANCELED: pass it
 * on, as any other error. What a coroutine ignores it has swallowed; debug mode says so.
 */
#ifndef AIOLOOP_API_TASK_H
#define AIOLOOP_API_TASK_H

#include "api/future.h"

/* asyncio.Task; the same type, to say what is meant. */
typedef aioloop_future aioloop_task;

/* A coroutine with a stack. out: the address of the result's pointer, NULL at first. In C++ no exception may leave
 * it. */
typedef int64_t (*aioloop_coroutine)(aioloop *loop, void *arg, void **out);

/* A coroutine without a stack: its frame is a struct of yours that begins with an aioloop_frame. Zero it before use. */
typedef struct aioloop_frame {
    uint32_t line; /* where it goes on; 0: at the start */
    uint32_t reserved;
    void (*dispose)(void *frame); /* the library's, from the options */
} aioloop_frame;

typedef int64_t (*aioloop_step)(aioloop *loop, aioloop_frame *frame, void **out);

/* What a step function returns when it is to be called again; the macros do. */
#define AIOLOOP_SUSPENDED INT64_MIN

/* ---- tasks ---- */

/* Options of aioloop_create_task; all zero: asyncio's defaults. */
typedef struct aioloop_task_options {
    const char *name;         /* copied; NULL: "Task-1" and so on */
    aioloop_context *context; /* the task runs in this very context; NULL: in a copy of the current one */
    bool eager;               /* run it inside the call up to its first wait. Not while the loop does not run. */
    size_t stack_size;        /* bytes of stack, with what the library needs of it (less than 1 KiB); 0: 256 KiB, of which only
                               * what is touched takes memory (64 KiB on 32 bits). Signals and, without an operating system,
                               * interrupts need their share. */
    void *stack;              /* a stack of yours, stack_size bytes, yours again when dispose is called or the task is done;
                               * NULL: one of the loop's, with 64 KiB below it that catch an overflow (debug mode says that it
                               * was one; a single frame larger than that steps over it, unless compiled with
                               * -fstack-clash-protection). On Linux before 6.13 only a loop's first 10,000 have that. */
    size_t copy_size;         /* arg (or the frame) is copied, this many bytes, and the copy is the task's; 0: it is used itself */
    void (*dispose)(void *arg); /* called with arg (the copy, if there is one) when the task has ended in whatever way, also if it
                                 * never started or could not be created. Not on a task still pending at aioloop_free. */
    void (*dispose_result)(void *pointer); /* called with the result's pointer if there is one and nobody took it */
    aioloop_time timeout;     /* past it the task is cancelled, and fails with AIOLOOP_ETIMEDOUT if it ends that way; 0: none */
} aioloop_task_options;

/* loop.create_task(): a task that runs fn(loop, arg, &pointer), from the next iteration on. options may be NULL. The
 * future may be dropped: the task runs on. Static failed futures: AIOLOOP_ECLOSED, AIOLOOP_ENOMEM, AIOLOOP_EINVAL (no
 * fn, a stack too small), AIOLOOP_ENOTAVAILABLE (built with AIOLOOP_USE_COROUTINES 0). */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_task *aioloop_create_task(aioloop *loop, aioloop_coroutine fn, void *arg,
                                                               const aioloop_task_options *options);

/* The same for a coroutine without a stack; stack_size and stack are not used. The frame must live until the task is
 * done (dispose tells), or be copied. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_task *aioloop_create_task_frame(aioloop *loop, aioloop_step fn, aioloop_frame *frame,
                                                                     const aioloop_task_options *options);

/* What a task is made of; for factories. */
typedef struct aioloop_task_recipe {
    aioloop_coroutine coroutine; /* or NULL, and then */
    aioloop_step step;           /* with arg its frame */
    void *arg;
    aioloop_task_options options;
} aioloop_task_recipe;

/* asyncio.Task(): makes a task without asking the factory. Errors as aioloop_create_task. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_task *aioloop_task_new(aioloop *loop, const aioloop_task_recipe *recipe);

/* loop.set_task_factory(): from now on factory(loop, recipe, arg) makes the tasks; what it returns, aioloop_create_task
 * returns. It may change a copy of the recipe, and makes the task by aioloop_task_new. NULL: the default again. */
typedef aioloop_task *(*aioloop_task_factory)(aioloop *loop, const aioloop_task_recipe *recipe, void *arg);
AIOLOOP_API void aioloop_set_task_factory(aioloop *loop, aioloop_task_factory factory, void *arg);

/* loop.get_task_factory(): NULL for the default; stores the argument at arg unless that is NULL. */
AIOLOOP_API aioloop_task_factory aioloop_get_task_factory(aioloop *loop, void **arg);

/* asyncio.current_task(): the task whose step runs, NULL in plain callbacks and outside. Borrowed; a task that keeps a
 * reference to itself takes it with aioloop_future_ref. loop NULL: the running loop. */
AIOLOOP_API aioloop_task *aioloop_current_task(aioloop *loop);

/* asyncio.all_tasks(): stores at most capacity of the loop's tasks that are not done, oldest first, each a reference
 * of yours, and returns how many there are. tasks may be NULL with capacity 0. A task that nobody had claimed counts
 * as claimed by who created it from then on: it stays until the loop is freed, unless that one unrefs it. */
AIOLOOP_API size_t aioloop_all_tasks(aioloop *loop, aioloop_task **tasks, size_t capacity);

/* True if the future is a task. */
AIOLOOP_API bool aioloop_is_task(const aioloop_future *future);

/* Task.get_name(), Task.set_name(): valid until renamed or freed. 0, AIOLOOP_ENOMEM, AIOLOOP_EINVAL for what is no
 * task. */
AIOLOOP_API const char *aioloop_task_get_name(aioloop_task *task);
AIOLOOP_API int aioloop_task_set_name(aioloop_task *task, const char *name);

/* Task.get_context(): the context that the task runs in, as a reference of yours. The task runs in the same one from
 * then on, so its changes show there. NULL when there is no memory, and for what is no task. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_context *aioloop_task_get_context(aioloop_task *task);

/* Task.cancel() is aioloop_future_cancel. Task.cancelling(): how many cancels were asked for and not taken back.
 * Task.uncancel(): takes one back and returns what is left; with the last, a cancel that has not reached a wait yet is
 * forgotten. 0 for what is no task. */
AIOLOOP_API int aioloop_task_cancelling(const aioloop_task *task);
AIOLOOP_API int aioloop_task_uncancel(aioloop_task *task);

/* ---- waiting ---- */

/* await: waits until the future is done, and returns its number, with its pointer stored at out (the address of an
 * object pointer, or NULL), or its error, whose message is then aioloop_last_error's. At once if it is done. Ends an
 * unclaimed future's use. AIOLOOP_ECANCELED if the future or this task was cancelled. AIOLOOP_EMISUSE outside of a
 * coroutine with a stack, also in pause_writing and the exception handler; for the task itself; for another loop's
 * future; for an unclaimed future that was used before; inside aioloop_context_run. out is written on success only. */
AIOLOOP_API int64_t aioloop_await(aioloop_future *future, void *out);

/* Coroutines without a stack:
 *
 *     struct tick { aioloop_frame frame; int i; int64_t n; };
 *
 *     static int64_t tick(aioloop *loop, aioloop_frame *frame, void **out) {
 *         struct tick *self = (struct tick *)frame;
 *         (void)out;
 *         AIOLOOP_BEGIN(loop, frame);
 *         for (self->i = 0; self->i < 3; self->i++) {
 *             AIOLOOP_AWAIT(self->n, aioloop_sleep(loop, AIOLOOP_MS(10)), NULL);
 *             if (self->n < 0)
 *                 return self->n;
 *         }
 *         return self->i;
 *         AIOLOOP_END;
 *     }
 *
 * One AIOLOOP_ macro a line, none inside a switch of yours, and no variable between BEGIN and END that is to be
 * kept. */
#define AIOLOOP_BEGIN(loop, frame)                                                                 \
    aioloop *const aioloop_frame_loop_ = (loop);                                                   \
    aioloop_frame *const aioloop_frame_ = (frame);                                                 \
    switch (aioloop_frame_->line) {                                                                \
    case 0:

/* Behind the last statement of the function. What comes to its end returns 0. */
#define AIOLOOP_END                                                                                \
    break;                                                                                         \
    default:                                                                                       \
        return aioloop_frame_lost(aioloop_frame_loop_);                                            \
    }                                                                                              \
    return 0

/* await: result = what aioloop_await would return. */
#define AIOLOOP_AWAIT(result, future, out)                                                         \
    do {                                                                                           \
        if (aioloop_frame_await(aioloop_frame_loop_, (future))) {                                  \
            aioloop_frame_->line = __LINE__;                                                       \
            return AIOLOOP_SUSPENDED;                                                              \
        case __LINE__:;                                                                            \
        }                                                                                          \
        (result) = aioloop_frame_result(aioloop_frame_loop_, (out));                               \
    } while (0)

/* await asyncio.sleep(delay) without a future: needs no memory but a place among the loop's timers. */
#define AIOLOOP_SLEEP(result, delay)                                                               \
    do {                                                                                           \
        if (aioloop_frame_sleep(aioloop_frame_loop_, (delay))) {                                   \
            aioloop_frame_->line = __LINE__;                                                       \
            return AIOLOOP_SUSPENDED;                                                              \
        case __LINE__:;                                                                            \
        }                                                                                          \
        (result) = aioloop_frame_result(aioloop_frame_loop_, NULL);                                \
    } while (0)

/* await coroutine(...): runs another coroutine without a stack, over child, an aioloop_frame * inside the caller's own
 * frame, whose other members are its arguments. */
#define AIOLOOP_CALL(result, fn, child, out)                                                       \
    do {                                                                                           \
        int64_t aioloop_result_;                                                                   \
        (child)->line = 0;                                                                         \
        aioloop_frame_->line = __LINE__;                                                           \
        if (0) {                                                                                   \
        case __LINE__:;                                                                            \
        }                                                                                          \
        aioloop_result_ = aioloop_frame_call(aioloop_frame_loop_, (fn), (child), (out));           \
        if (aioloop_result_ == AIOLOOP_SUSPENDED)                                                  \
            return AIOLOOP_SUSPENDED;                                                              \
        (result) = aioloop_result_;                                                                \
    } while (0)

/* What the macros call. */
AIOLOOP_API bool aioloop_frame_await(aioloop *loop, aioloop_future *future);
AIOLOOP_API bool aioloop_frame_sleep(aioloop *loop, aioloop_time delay);
AIOLOOP_API int64_t aioloop_frame_result(aioloop *loop, void *out);
AIOLOOP_API int64_t aioloop_frame_call(aioloop *loop, aioloop_step fn, aioloop_frame *frame, void *out);
AIOLOOP_API int64_t aioloop_frame_lost(aioloop *loop);

/* ---- combining ---- */

/* asyncio.sleep(): done after delay; at 0 or less in the next iteration. AIOLOOP_EINVAL for AIOLOOP_NOT_A_TIME. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_sleep(aioloop *loop, aioloop_time delay);

/* What aioloop_gather gives: the outcomes of its futures, in their order. */
typedef struct aioloop_results aioloop_results;

/* asyncio.gather(): done when all futures are, with count as its number and an aioloop_results * as its pointer. The
 * first failure becomes gather's at once, and the others run on; a cancelled one is a failure with AIOLOOP_ECANCELED.
 * With return_exceptions it waits for all, and their errors are results. Cancelling it cancels all that are not done,
 * and it is cancelled when they are. This is the one use of each unclaimed future, also when the call fails. The same
 * future may stand there twice, unless it is unclaimed. The array is copied. AIOLOOP_EINVAL for another loop's future
 * or a NULL one; AIOLOOP_ENOMEM. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_gather(aioloop *loop, aioloop_future *const *futures, size_t count,
                                                            bool return_exceptions);

/* The i-th result, as aioloop_future_result and aioloop_future_error give it; AIOLOOP_EINVAL and NULL beyond the
 * last. */
AIOLOOP_API size_t aioloop_results_count(const aioloop_results *results);
AIOLOOP_API int64_t aioloop_results_get(aioloop_results *results, size_t i, void *out);
AIOLOOP_API const aioloop_error *aioloop_results_error(aioloop_results *results, size_t i);

/* Ends them; pointers that were not taken are ended with them. NULL is ignored. */
AIOLOOP_API void aioloop_results_free(aioloop_results *results);

typedef enum aioloop_return_when {
    AIOLOOP_ALL_COMPLETED,
    AIOLOOP_FIRST_COMPLETED,
    AIOLOOP_FIRST_EXCEPTION /* or all; being cancelled is not failing */
} aioloop_return_when;

typedef struct aioloop_wait_options {
    aioloop_return_when return_when;
    aioloop_time timeout; /* not an error: wait ends, with what is done by then; 0: none, below 0: at once */
} aioloop_wait_options;

/* asyncio.wait(): its number is how many of the futures are done; ask each. Neither its time-out nor cancelling it
 * cancels them. They must be claimed (AIOLOOP_EINVAL): they are looked at afterwards. AIOLOOP_EINVAL also for none,
 * another loop's or an unknown return_when. The array is copied. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_wait(aioloop *loop, aioloop_future *const *futures, size_t count,
                                                          const aioloop_wait_options *options);

/* asyncio.wait_for(): the future's outcome if it is done in time. Else it is cancelled, and when it has ended,
 * wait_for fails with AIOLOOP_ETIMEDOUT, unless it ended with a result or another error, which is then wait_for's. A
 * timeout of 0 or less: only if it is done already. AIOLOOP_FOREVER: none. Cancelling wait_for cancels the future. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_wait_for(aioloop_future *future, aioloop_time timeout);

/* asyncio.shield(): the future's outcome; cancelling the shield leaves the future alone. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_shield(aioloop_future *future);

/* asyncio.as_completed(): gives futures as they complete. The array is copied, the use of unclaimed ones ended when
 * the iterator is freed. timeout as for aioloop_wait_for, from now on. NULL and aioloop_last_error for what
 * aioloop_wait refuses, but unclaimed futures and none at all are welcome. */
typedef struct aioloop_completed aioloop_completed;
AIOLOOP_API AIOLOOP_MUST_USE aioloop_completed *aioloop_as_completed(aioloop *loop, aioloop_future *const *futures,
                                                                     size_t count, aioloop_time timeout);

/* The next one that completes: its index in the array as the number, and the future, done and borrowed from the
 * iterator, as the pointer. AIOLOOP_ETIMEDOUT for each one still missing when time is up; AIOLOOP_ESTOPITERATION after
 * the last. Cancelling this cancels nothing else. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_completed_next(aioloop_completed *completed);
AIOLOOP_API void aioloop_completed_free(aioloop_completed *completed);

/* ---- time-outs ---- */

/* asyncio.timeout(): a scope of a task. Its memory is yours (in the coroutine's stack or frame), its members are the
 * library's.
 *
 *     aioloop_timeout limit;
 *     aioloop_timeout_enter(loop, &limit, AIOLOOP_SECONDS(5));
 *     rc = work(...);                             (return from the middle only through exit)
 *     rc = aioloop_timeout_exit(&limit, rc);
 *
 * When its time comes it cancels the task. exit makes AIOLOOP_ETIMEDOUT of the AIOLOOP_ECANCELED that this caused, and
 * lets every other result through. Each enter needs its exit, on every way out: until the task ends, or an outer scope
 * is left, one that was forgotten still cancels the task. Debug mode says so. */
typedef struct aioloop_timeout {
    aioloop *loop;
    void *scope;
    aioloop_time when;
    int state;
} aioloop_timeout;

/* Enters. delay: AIOLOOP_FOREVER: no limit yet; 0 or less: the next wait is cancelled. _at: a point on the loop's
 * clock. 0; AIOLOOP_EMISUSE outside of a task, AIOLOOP_EINVAL for AIOLOOP_NOT_A_TIME, AIOLOOP_ENOMEM: then it is not
 * entered, and exit lets everything through. */
AIOLOOP_API int aioloop_timeout_enter(aioloop *loop, aioloop_timeout *timeout, aioloop_time delay);
AIOLOOP_API int aioloop_timeout_enter_at(aioloop *loop, aioloop_timeout *timeout, aioloop_time when);

/* Leaves, with the outcome of what was inside; returns the outcome of the scope. */
AIOLOOP_API int64_t aioloop_timeout_exit(aioloop_timeout *timeout, int64_t outcome);

/* Timeout.reschedule(), when(), expired(). AIOLOOP_FOREVER: no limit. AIOLOOP_EMISUSE if it is not entered or has
 * expired. */
AIOLOOP_API int aioloop_timeout_reschedule(aioloop_timeout *timeout, aioloop_time when);
AIOLOOP_API aioloop_time aioloop_timeout_when(const aioloop_timeout *timeout);
AIOLOOP_API bool aioloop_timeout_expired(const aioloop_timeout *timeout);

/* ---- task groups ---- */

/* asyncio.TaskGroup: tasks that end together.
 *
 *     aioloop_task_group *group = aioloop_task_group_enter(loop);
 *     aioloop_future_unref(aioloop_task_group_create_task(group, fetch, &a, NULL));
 *     aioloop_future_unref(aioloop_task_group_create_task(group, fetch, &b, NULL));
 *     rc = aioloop_await(aioloop_task_group_exit(group, 0), NULL);
 *
 * The first task that fails cancels the others, and the task that entered the group. What a sibling still uses of the
 * parent's (a buffer, a connection) it uses until exit is done, so exit must be awaited before it goes. */
typedef struct aioloop_task_group aioloop_task_group;

/* __aenter__: for the current task. NULL, and aioloop_last_error: AIOLOOP_EMISUSE outside of a task, AIOLOOP_ENOMEM. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_task_group *aioloop_task_group_enter(aioloop *loop);

/* TaskGroup.create_task(): as aioloop_create_task. AIOLOOP_EMISUSE when the group has ended or is ending because of a
 * failure, and then arg is disposed of. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_task *aioloop_task_group_create_task(aioloop_task_group *group, aioloop_coroutine fn,
                                                                          void *arg, const aioloop_task_options *options);
AIOLOOP_API AIOLOOP_MUST_USE aioloop_task *aioloop_task_group_create_task_frame(aioloop_task_group *group, aioloop_step fn,
                                                                                aioloop_frame *frame,
                                                                                const aioloop_task_options *options);

/* __aexit__: done when all tasks of the group are, also those that they add meanwhile. outcome is that of the body;
 * below 0 it cancels the tasks. The result: outcome; or, if tasks failed or the body did, AIOLOOP_ETASKGROUP with an
 * error that collects each one's (aioloop_error_at); or AIOLOOP_ECANCELED if the parent was cancelled and nothing
 * failed. Ends the group: it must not be used afterwards. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_task_group_exit(aioloop_task_group *group, int64_t outcome);

/* ---- running a program ---- */

/* Options of aioloop_run; all zero: asyncio's defaults. */
typedef struct aioloop_run_options {
    const aioloop_config *config;  /* of the loop */
    void *out;                     /* where the result's pointer goes: the address of an object pointer, or NULL */
    aioloop_time shutdown_timeout; /* how long the tasks left over may take to end when they are cancelled, the generators
                                    * when they are closed, and the functions in the default thread pool, all together, on the
                                    * loop's clock; 0: as long as it takes */
    aioloop_time timeout;          /* past it the main task is cancelled and the result is AIOLOOP_ETIMEDOUT; 0: none */
} aioloop_run_options;

/* asyncio.run(): makes a loop, runs fn(loop, arg, &pointer) in it as a task, cancels the tasks that are left and waits
 * for them, does as aioloop_shutdown_asyncgens and aioloop_shutdown_default_executor, closes the loop and frees it.
 * Returns what fn returned, with its message in aioloop_last_error(NULL); AIOLOOP_EINTERRUPTED after SIGINT, see SIGNALS
 * in the manual; AIOLOOP_EMISUSE inside a running loop; or the error of making the loop. What else the loop had is gone then: nothing of it may be in the result. */
AIOLOOP_API int64_t aioloop_run(aioloop_coroutine fn, void *arg, const aioloop_run_options *options);

/* The same for a coroutine without a stack. */
AIOLOOP_API int64_t aioloop_run_frame(aioloop_step fn, aioloop_frame *frame, const aioloop_run_options *options);

/* asyncio.Runner: several coroutines on one loop, in one context. NULL and aioloop_last_error(NULL) when it cannot be
 * made. Options: config, shutdown_timeout. */
typedef struct aioloop_runner aioloop_runner;
AIOLOOP_API AIOLOOP_MUST_USE aioloop_runner *aioloop_runner_new(const aioloop_run_options *options);

/* Runner.run(): as aioloop_run, but the loop stays. context NULL: the runner's own. AIOLOOP_EMISUSE once closed. */
AIOLOOP_API int64_t aioloop_runner_run(aioloop_runner *runner, aioloop_coroutine fn, void *arg, aioloop_context *context,
                                       void *out);
AIOLOOP_API int64_t aioloop_runner_run_frame(aioloop_runner *runner, aioloop_step fn, aioloop_frame *frame,
                                             aioloop_context *context, void *out);

/* Runner.get_loop(): NULL once closed. */
AIOLOOP_API aioloop *aioloop_runner_get_loop(aioloop_runner *runner);

/* Runner.close(): cancels what is left, waits, closes and frees the loop. May be repeated. AIOLOOP_EMISUSE while it
 * runs or closes (in the exception handler, say). */
AIOLOOP_API int aioloop_runner_close(aioloop_runner *runner);

/* Closes, and frees the runner. NULL is ignored. */
AIOLOOP_API void aioloop_runner_free(aioloop_runner *runner);

#endif
