/*
 * generator.h - coroutines that give many values, and what is closed with the loop.    (PEP 525; asyncio: base_events.py)
 *
 * An asynchronous generator is a coroutine, of either kind of task.h, that hands out values on the way:
 *
 *     static int64_t squares(aioloop *loop, void *arg, void **out) {
 *         int64_t i, n;
 *         for (i = 0; i < 10; i++) {
 *             n = aioloop_await(aioloop_sleep(loop, AIOLOOP_MS(10)), NULL);
 *             if (n >= 0)
 *                 n = aioloop_yield(loop, i * i, NULL);
 *             if (n < 0)
 *                 return n;
 *         }
 *         return 0;
 *     }
 *
 *     while ((n = aioloop_await(aioloop_generator_anext(g), NULL)) >= 0)    (async for)
 *         use(n);
 *     if (n == AIOLOOP_ESTOPITERATION)                                      (it has ended; else n says how it failed)
 *         n = 0;
 *
 * Its body runs in a task of its own, which is not among aioloop_all_tasks, and only while somebody waits for a value.
 * It runs in the context of aioloop_generator_new. All calls are for the loop's thread.
 */
#ifndef AIOLOOP_API_GENERATOR_H
#define AIOLOOP_API_GENERATOR_H

#include "api/task.h"

typedef struct aioloop_generator aioloop_generator;

/* Makes a generator of a coroutine, as aioloop_create_task a task, with one reference, which is yours. Nothing runs
 * before the first aioloop_generator_anext. Options: name, context, stack, stack_size; copy_size and dispose for arg;
 * dispose_result is for each pointer that it yields and nobody takes. eager means nothing. NULL, with the reason in
 * aioloop_last_error and arg disposed of: AIOLOOP_EINVAL (also with timeout), AIOLOOP_ENOMEM, AIOLOOP_ECLOSED,
 * AIOLOOP_ENOTAVAILABLE. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_generator *aioloop_generator_new(aioloop *loop, aioloop_coroutine fn, void *arg,
                                                                      const aioloop_task_options *options);

/* The same of a coroutine without a stack. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_generator *aioloop_generator_new_frame(aioloop *loop, aioloop_step fn, aioloop_frame *frame,
                                                                            const aioloop_task_options *options);

/* One reference more. Returns generator. */
AIOLOOP_API aioloop_generator *aioloop_generator_ref(aioloop_generator *generator);

/* One less. With the last one the loop closes a generator that has begun and not ended, as aioloop_generator_aclose
 * does; when that fails, the exception handler is told. NULL is ignored. */
AIOLOOP_API void aioloop_generator_unref(aioloop_generator *generator);

/* ---- inside ---- */

/* yield: hands out a number (>= 0) and a pointer, and waits until the next value is asked for: 0, or the number of
 * aioloop_generator_asend. Below 0 it is to end: AIOLOOP_EGENERATOREXIT, it is being closed (cleaning up may wait, but
 * not yield: whoever closes is told AIOLOOP_EMISUSE, and the body never goes on); the code of aioloop_generator_athrow;
 * AIOLOOP_ECANCELED, its task was cancelled. Nothing handed out, and the pointer still the caller's: AIOLOOP_EINVAL for
 * a number below 0, AIOLOOP_EMISUSE outside of a generator's body. */
AIOLOOP_API int64_t aioloop_yield(aioloop *loop, int64_t number, void *pointer);

/* The same in a coroutine without a stack: result = what aioloop_yield would return. */
#define AIOLOOP_YIELD(result, number, pointer)                                                     \
    do {                                                                                           \
        if (aioloop_frame_yield(aioloop_frame_loop_, (number), (pointer))) {                       \
            aioloop_frame_->line = __LINE__;                                                       \
            return AIOLOOP_SUSPENDED;                                                              \
        case __LINE__:;                                                                            \
        }                                                                                          \
        (result) = aioloop_frame_yielded(aioloop_frame_loop_);                                     \
    } while (0)

/* What the macro calls. */
AIOLOOP_API bool aioloop_frame_yield(aioloop *loop, int64_t number, void *pointer);
AIOLOOP_API int64_t aioloop_frame_yielded(aioloop *loop);

/* ---- outside ---- */

/* anext(): the next value. AIOLOOP_ESTOPITERATION when the body has ended by returning 0 or more, or this very code (so
 * a stage of a pipeline passes on what its source has answered); the body's error if it failed, and
 * AIOLOOP_ESTOPITERATION from then on. Cancelling it cancels what the body waits for, and it ends when the body has
 * answered; before the body has heard of it, the body is not touched. A value that nobody has read (the task that
 * waited was cancelled meanwhile) is the next one again. AIOLOOP_EMISUSE while another call on the generator is under
 * way. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_generator_anext(aioloop_generator *generator);

/* agen.asend(): the same, and yield returns number (>= 0). The first call of all has nothing to answer: AIOLOOP_EMISUSE
 * then, unless number is 0. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_generator_asend(aioloop_generator *generator, int64_t number);

/* agen.athrow(): the same, and yield returns code (< 0). A generator that has not begun ends, and that is the
 * outcome. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_generator_athrow(aioloop_generator *generator, int code);

/* agen.aclose(): yield returns AIOLOOP_EGENERATOREXIT, and this is done when the body has ended: with 0 if it returned
 * that code or succeeded, else with its error. One that has not begun or has ended: done at once, and nothing runs.
 * Needs no memory the first time. AIOLOOP_EMISUSE while another call is under way. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_generator_aclose(aioloop_generator *generator);

/* ---- what is closed with the loop ---- */

/* Starts the closing of arg and returns a future that is done when that has ended, unclaimed; NULL: there is nothing to
 * wait for. */
typedef aioloop_future *(*aioloop_close_function)(aioloop *loop, void *arg);

typedef struct aioloop_closer aioloop_closer;

/* Has close(loop, arg) called by aioloop_shutdown_asyncgens, once, as generators are closed that have begun and not
 * ended. Works after that call too, which then has to be made again; a warning says so. NULL and aioloop_last_error:
 * AIOLOOP_EINVAL, AIOLOOP_ENOMEM, AIOLOOP_ECLOSED. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_closer *aioloop_register_closer(aioloop *loop, aioloop_close_function close, void *arg);

/* Takes it back, and frees it: it will not be called, if it was not yet. NULL is ignored. */
AIOLOOP_API void aioloop_unregister_closer(aioloop_closer *closer);

/* loop.shutdown_asyncgens(): closes all generators that have begun, and what else is registered, at once, and is done
 * when all have ended. Those that fail are told to the exception handler, with asyncgen set. A generator that somebody
 * still waits for has that wait cancelled first. Cancelling this cancels each closing. aioloop_run does it.
 * AIOLOOP_ENOMEM, AIOLOOP_ECLOSED: nothing was closed. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_shutdown_asyncgens(aioloop *loop);

#endif
