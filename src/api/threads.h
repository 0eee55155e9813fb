/*
 * threads.h - coroutines for a loop from other threads.          (asyncio: tasks.py, futures.py; concurrent.futures)
 *
 * A concurrent future is a result that threads can wait for. Every function here may be called in any thread, unless it
 * says otherwise. Built with AIOLOOP_USE_THREADS 0, or without an operating system, they answer AIOLOOP_ENOTAVAILABLE.
 */
#ifndef AIOLOOP_API_THREADS_H
#define AIOLOOP_API_THREADS_H

#include "api/task.h"

/* concurrent.futures.Future. Counted; its memory is the loop's allocator's, which must be good for all threads and
 * outlive it. */
typedef struct aioloop_concurrent_future aioloop_concurrent_future;

/* asyncio.run_coroutine_threadsafe(): has the loop run a task, as aioloop_create_task in the loop's thread would make
 * it, in a copy of this thread's context unless one is given. With copy_size, arg is copied before this returns.
 * dispose is called in the loop's thread, or in this one when the call fails; dispose_result, if nobody takes the
 * pointer, in the thread that lets go of the future last.
 *
 * Returns the future with one reference, which is yours: end it with aioloop_concurrent_future_unref. Never NULL:
 * static ones that have failed with AIOLOOP_ENOMEM, AIOLOOP_EINVAL, AIOLOOP_ECLOSED, AIOLOOP_ENOTAVAILABLE. The loop
 * must not be freed before the call returns; racing with aioloop_close is safe. When the loop is closed before the task
 * has ended, the future fails with AIOLOOP_ECLOSED; its waiters do not hang. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_concurrent_future *aioloop_run_coroutine_threadsafe(aioloop *loop, aioloop_coroutine fn,
                                                                                         void *arg,
                                                                                         const aioloop_task_options *options);

/* The same for a coroutine without a stack. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_concurrent_future *aioloop_run_coroutine_threadsafe_frame(
    aioloop *loop, aioloop_step fn, aioloop_frame *frame, const aioloop_task_options *options);

/* Future.result(timeout): waits for the result, at most timeout on the monotonic clock (0 or less: not at all;
 * AIOLOOP_FOREVER: as long as it takes), and returns the number, with the pointer stored at out (the address of an
 * object pointer, or NULL), or the error's code. The first call with an out takes the pointer. AIOLOOP_ETIMEDOUT when
 * time is up, and the task runs on; AIOLOOP_ECANCELED; AIOLOOP_EMISUSE instead of waiting in the thread of the loop
 * that is to bring the result, inside of its run. The error's message is aioloop_last_error(NULL)'s of this thread. */
AIOLOOP_API int64_t aioloop_concurrent_future_result(aioloop_concurrent_future *future, aioloop_time timeout, void *out);

/* Future.cancel(): true if it was not done; it is cancelled at once, and the task is told. Needs no memory. */
AIOLOOP_API bool aioloop_concurrent_future_cancel(aioloop_concurrent_future *future);

/* Future.done(), Future.cancelled(). */
AIOLOOP_API bool aioloop_concurrent_future_done(const aioloop_concurrent_future *future);
AIOLOOP_API bool aioloop_concurrent_future_cancelled(const aioloop_concurrent_future *future);

/* One reference more (returns future), one less. Letting go neither cancels nor loses the work. NULL is ignored. */
AIOLOOP_API aioloop_concurrent_future *aioloop_concurrent_future_ref(aioloop_concurrent_future *future);
AIOLOOP_API void aioloop_concurrent_future_unref(aioloop_concurrent_future *future);

/* asyncio.wrap_future(): a future of this loop, for the loop's thread, that is done when the concurrent one is, with
 * its outcome; the pointer goes along if nobody had taken it. Cancelling it cancels the concurrent one. Unclaimed.
 * AIOLOOP_EINVAL, AIOLOOP_ENOMEM, AIOLOOP_ECLOSED, or what a static one has failed with. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_wrap_future(aioloop *loop, aioloop_concurrent_future *future);

#endif
