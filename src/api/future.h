/*
 * future.h - results that are not there yet.                                   (asyncio: futures.py)
 *
 * A result is a number (>= 0) and a pointer; a failure is a negative code, with a message where there is more to say.
 *
 * Who owns a future: one that a function returned when it started some work is UNCLAIMED. Use it once (await, gather
 * and their kin, aioloop_run_until_complete, aioloop_future_then), which ends it: a second use is AIOLOOP_EMISUSE, as
 * long as it is there; or drop it with aioloop_future_unref; or claim it with aioloop_future_ref: from then on every
 * use only borrows it, and one aioloop_future_unref ends your claim. aioloop_create_future returns a claimed one.
 * Dropping a future neither cancels nor loses the work behind it.
 *
 * No function returns a NULL future: no memory, a NULL argument and a closed loop give static futures that have failed
 * with AIOLOOP_ENOMEM, AIOLOOP_EINVAL and AIOLOOP_ECLOSED, so calls can be nested unchecked.
 */
#ifndef AIOLOOP_API_FUTURE_H
#define AIOLOOP_API_FUTURE_H

#include "api/loop.h"

/* A done-callback; the future is borrowed for the call. To fail, it calls aioloop_raise. */
typedef void (*aioloop_future_callback)(aioloop_future *future, void *arg);

/* loop.create_future(): a pending future, claimed by the caller. Works on a closed loop. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_create_future(aioloop *loop);

/* Claims an unclaimed future; on a claimed one, adds an owner. Returns future. */
AIOLOOP_API aioloop_future *aioloop_future_ref(aioloop_future *future);

/* One owner less (or the unclaimed one's none). With the last the future is freed when nothing else needs it: if it
 * failed and nobody looked, that is reported to the exception handler. NULL is ignored. */
AIOLOOP_API void aioloop_future_unref(aioloop_future *future);

/* Future.set_result(): number must not be negative (AIOLOOP_EINVAL). dispose (may be NULL) is called with pointer when
 * the future is freed and nobody took it. 0; AIOLOOP_EINVALIDSTATE if it is done, and then nothing happens and pointer
 * is still the caller's; AIOLOOP_EMISUSE on tasks and other futures that the library completes (none of them is yours
 * to set); AIOLOOP_ECLOSED if its loop is closed and there are callbacks, which will not run, but the result is set. */
AIOLOOP_API int aioloop_future_set_result(aioloop_future *future, int64_t number, void *pointer,
                                          void (*dispose)(void *pointer));

/* Future.set_exception(): code must be negative and not AIOLOOP_ECANCELED (AIOLOOP_EINVAL). format (printf's) may be
 * NULL. Returns as aioloop_future_set_result does. */
AIOLOOP_API int aioloop_future_set_exception(aioloop_future *future, int code, const char *format, ...)
    AIOLOOP_PRINTF(3, 4);

/* Future.set_result() for a result that its reader has by hearing of it (a lock, a place, a socket's number): any
 * reading takes it, also one without `out`. dispose(pointer) is called if the future is freed and nobody ever read it,
 * as when the task that waited was cancelled in the same iteration. What follows another future (wait_for, shield, a
 * gather's results) reads it when it is itself read. */
AIOLOOP_API int aioloop_future_set_grant(aioloop_future *future, int64_t number, void *pointer,
                                         void (*dispose)(void *pointer));

/* For functions of your own that start work and return a future, as the library's do: an unclaimed future for the
 * caller, with a second reference, which is yours: unref it when you have completed the future, or given up. cancel
 * (may be NULL) is called when a pending one is cancelled: true, and it becomes cancelled at once; false: you will
 * complete it later (aioloop_future_set_cancelled says that it was cancelled). It must not call user code. Static
 * failed futures as aioloop_create_future. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_create_operation(aioloop *loop,
                                                                      bool (*cancel)(aioloop_future *future, void *owner),
                                                                      void *owner);

/* Completes such a future as cancelled, without calling its cancel. Returns as aioloop_future_set_result does. */
AIOLOOP_API int aioloop_future_set_cancelled(aioloop_future *future);

/* Completes target as source is: result, error with its message, or cancelled; the pointer goes along if nobody had
 * taken it. AIOLOOP_EINVALIDSTATE if source is pending or target is not; AIOLOOP_EINVAL if source is another loop's. */
AIOLOOP_API int aioloop_future_copy(aioloop_future *target, aioloop_future *source);

/* Future.cancel(), Task.cancel(): true if it was not done; it is cancelled at once, and what it stood for is given up.
 * Futures that have to end something first (tasks, aioloop_server_serve_forever) become cancelled when that has ended.
 * message (may be NULL) is what aioloop_future_error will say; copied. */
AIOLOOP_API bool aioloop_future_cancel(aioloop_future *future, const char *message);

/* Future.done(), Future.cancelled(), Future.get_loop() (NULL for the static failed futures). */
AIOLOOP_API bool aioloop_future_done(const aioloop_future *future);
AIOLOOP_API bool aioloop_future_cancelled(const aioloop_future *future);
AIOLOOP_API aioloop *aioloop_future_get_loop(const aioloop_future *future);

/* Future.result(): the number, with the pointer stored at out (the address of an object pointer, or NULL); or the
 * error's code; AIOLOOP_EINVALIDSTATE if pending. The first call with an out takes the pointer (its dispose will not
 * run); later ones borrow it. */
AIOLOOP_API int64_t aioloop_future_result(aioloop_future *future, void *out);

/* Future.exception(): 0 if it succeeded, the code if it failed, AIOLOOP_ECANCELED if it was cancelled,
 * AIOLOOP_EINVALIDSTATE if pending. */
AIOLOOP_API int aioloop_future_exception(aioloop_future *future);

/* The error with its message, valid as long as the future; NULL unless it failed or was cancelled. */
AIOLOOP_API const aioloop_error *aioloop_future_error(aioloop_future *future);

/* Future.add_done_callback(): calls fn(future, arg) in the iteration after it is done (the next one, if it is). Borrows
 * the future. 0, AIOLOOP_ENOMEM, AIOLOOP_EINVAL, AIOLOOP_ECLOSED; on a static failed future its code, and fn is not
 * called. */
AIOLOOP_API int aioloop_future_add_done_callback(aioloop_future *future, aioloop_future_callback fn, void *arg);
AIOLOOP_API int aioloop_future_add_done_callback_context(aioloop_future *future, aioloop_future_callback fn, void *arg,
                                                         aioloop_context *context);

/* The same as the one use of an unclaimed future: the future lives until fn has returned. Ends the use also when it
 * fails. */
AIOLOOP_API int aioloop_future_then(aioloop_future *future, aioloop_future_callback fn, void *arg);

/* Future.remove_done_callback(): removes every registration of fn with arg; answers how many. Those already queued,
 * since the future is done, still run. */
AIOLOOP_API size_t aioloop_future_remove_done_callback(aioloop_future *future, aioloop_future_callback fn, void *arg);

#endif
