/*
 * executor.h - functions that block, run in other threads.       (asyncio: run_in_executor, to_thread; concurrent.futures)
 *
 * A pool of threads belongs to no loop: any number of loops may use one. Its threads are made when there is work and
 * no idle one, and stay until it is shut down. Pools of processes are in process_pool.h.
 *
 * Built with AIOLOOP_USE_THREADS 0, or without an operating system, there are no pools: aioloop_thread_pool_new and
 * the futures of the calls that need one say AIOLOOP_ENOTAVAILABLE.
 */
#ifndef AIOLOOP_API_EXECUTOR_H
#define AIOLOOP_API_EXECUTOR_H

#include "api/future.h"

/* concurrent.futures.ThreadPoolExecutor. */
typedef struct aioloop_thread_pool aioloop_thread_pool;

/* Options of aioloop_thread_pool_new; all zero: asyncio's defaults. */
typedef struct aioloop_thread_pool_options {
    int max_workers;    /* threads at most; 0: the number of processors + 4, but no more than 32 */
    size_t queue_limit; /* functions that wait for a thread at most, then the next is refused with AIOLOOP_EAGAIN; 0: any number */
    size_t stack_size;  /* bytes of each thread's stack, at least; 0: the system's default */
    const aioloop_allocator *allocator; /* of the pool's and its functions' memory, used by all threads, and good until the pool
                                         * was freed and the loops that used it are; NULL: the default, as for a loop */
    const char *name;   /* of the threads, for debuggers; copied, 15 bytes of it; NULL: "aioloop" */
} aioloop_thread_pool_options;

/* Makes a pool; options may be NULL. End it with aioloop_thread_pool_free. NULL, and the reason in
 * aioloop_last_error(NULL): AIOLOOP_EINVAL (max_workers below 0), AIOLOOP_ENOMEM, AIOLOOP_ENOTAVAILABLE. Any thread. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_thread_pool *aioloop_thread_pool_new(const aioloop_thread_pool_options *options);

/* Executor.shutdown(): from now on the pool refuses functions; those that it has still run, or with cancel_pending
 * those that have not begun never will, and their futures are cancelled. wait: returns when its threads have ended,
 * however long that takes; else they end on their own. May be repeated. 0; AIOLOOP_EINVAL for NULL; AIOLOOP_EMISUSE,
 * and nothing done, for waiting in one of its own threads, and in a forked child. Any thread. */
AIOLOOP_API int aioloop_thread_pool_shutdown(aioloop_thread_pool *pool, bool wait, bool cancel_pending);

/* Shuts down, waits (not in one of its own threads), and frees the pool; where it is the default of a loop, it is so
 * until that is freed. In a forked child only memory is given back. NULL is ignored. Any thread. */
AIOLOOP_API void aioloop_thread_pool_free(aioloop_thread_pool *pool);

/* What runs in a thread of a pool. Returns a number >= 0, with a pointer stored at *out (NULL at first) if there is
 * one; or a negative code: AIOLOOP_ECANCELED and the future is cancelled, else it fails, with the message of
 * aioloop_raise(NULL, ...) if that was called with the same code. In C++ no exception may leave it. */
typedef int64_t (*aioloop_executor_function)(void *arg, void **out);

/* Options of aioloop_run_in_executor; may be all zero. */
typedef struct aioloop_executor_options {
    size_t copy_size;           /* arg is copied, this many bytes, and the function gets the copy; 0: it is used itself */
    void (*dispose)(void *arg); /* called once with arg (the copy, if there is one) when it is not needed any more, however that
                                 * came: in the loop's thread after the function has ended or was cancelled, or in the call
                                 * when that fails (with arg itself); if the loop was closed first, in the pool's thread when
                                 * the function ends, or in aioloop_free */
    void (*dispose_result)(void *pointer); /* called with the result's pointer if there is one and nobody took it, also when the
                                            * future was cancelled meanwhile; where dispose is */
    aioloop_context *context;   /* the function runs in this very context, which nobody else may run in meanwhile; NULL: in an
                                 * empty one (aioloop_to_thread: in a copy of the current one) */
} aioloop_executor_options;

/* loop.run_in_executor(): runs fn(arg, &pointer) in a thread of the pool; NULL: of the loop's default pool, made at
 * the first use. options may be NULL. In the loop's thread, where the future becomes done too, in the iteration after
 * the function has ended. The future may be dropped: the function runs. Cancelled before it has begun it never runs;
 * later, the future is cancelled at once, and what the function returns in the end is dropped. What ends after the
 * loop was closed disturbs nothing: the future stays pending.
 *
 * The future fails with AIOLOOP_EAGAIN when the pool is full, AIOLOOP_EMISUSE when it was shut down, or the error of
 * starting its first thread. Static failed futures: AIOLOOP_ECLOSED, AIOLOOP_ENOMEM, AIOLOOP_EINVAL,
 * AIOLOOP_ENOTAVAILABLE. On the simulated back end a function takes no virtual time, whatever it takes of real time:
 * timers may come first. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_run_in_executor(aioloop *loop, aioloop_thread_pool *pool,
                                                                     aioloop_executor_function fn, void *arg,
                                                                     const aioloop_executor_options *options);

/* asyncio.to_thread(): the same in the default pool, and in a copy of the current context. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_to_thread(aioloop *loop, aioloop_executor_function fn, void *arg,
                                                               const aioloop_executor_options *options);

/* loop.set_default_executor(): from now on the loop's default. The pool stays yours, to be freed before or after the
 * loop; but the loop shuts it down when it is closed, and by aioloop_shutdown_default_executor. A default that the
 * loop had made itself is shut down. 0, AIOLOOP_EINVAL for NULL, and the old one stays; AIOLOOP_ENOMEM,
 * AIOLOOP_ECLOSED. */
AIOLOOP_API int aioloop_set_default_executor(aioloop *loop, aioloop_thread_pool *pool);

/* loop.shutdown_default_executor(): shuts the default pool down; the future is done when its threads have ended, at
 * once if there is none. timeout, unless 0: after that the future is done with a warning in the log, and the threads
 * end on their own. The loop's default refuses functions from now on (AIOLOOP_EMISUSE), other pools work. aioloop_run
 * does this at its end. Static failed futures: AIOLOOP_ECLOSED, AIOLOOP_ENOMEM, AIOLOOP_EINVAL. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_shutdown_default_executor(aioloop *loop, aioloop_time timeout);

#endif
