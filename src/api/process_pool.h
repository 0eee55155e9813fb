/*
 * process_pool.h - functions that take long, run in other processes.    (asyncio: run_in_executor; concurrent.futures)
 *
 * What a thread cannot bear: code that crashes, leaks, or needs the one thing of a process that there is (a directory,
 * a locale, a library with global state). A function that is KNOWN BEFORE THE FORK gets bytes and gives bytes:
 *
 *     static int64_t render(const void *input, size_t size, aioloop_output *out) {
 *         ...
 *         return aioloop_output_write(out, page, page_size);
 *     }
 *
 *     aioloop_output *page;
 *     n = aioloop_await(aioloop_run_in_process(loop, pool, render, name, strlen(name)), &page);
 *     ...
 *     aioloop_output_free(page);
 *
 * aioloop_process_pool_new forks once: a process that does nothing but fork the workers, when there is work for them
 * and when one has died. So every worker starts with the memory of that moment. A function is known before the fork if
 * it was in the program then, be it in a library that was loaded; its address is sent. What the program has changed
 * since is not seen, and what a function changes is seen by nobody but the functions that this worker runs later.
 *
 * Make the pool early, at best before there are other threads: what they are in the middle of stays so in the workers,
 * a lock that one holds for ever. Of descriptors only standard output and error are inherited; standard input is empty.
 * SIGINT, SIGQUIT, SIGHUP, SIGTERM and SIGPIPE are ignored: the processes end when the pool does, or the program,
 * however that ends. (But where the system has no pidfd_open, as on Linux before 5.3, not before each process has ended
 * or executed something else that a killed program has forked beside the pool.) The other signals do what they do in a
 * new program. What a function has printed is flushed when it returns; what atexit was given is not run.
 *
 * Only on POSIX, and with AIOLOOP_USE_THREADS: for each worker that is busy a thread of the pool waits. Elsewhere
 * aioloop_process_pool_new and the futures say AIOLOOP_ENOTAVAILABLE.
 */
#ifndef AIOLOOP_API_PROCESS_POOL_H
#define AIOLOOP_API_PROCESS_POOL_H

#include "api/future.h"

/* Bytes that a function takes or gives at most: 1 GiB. */
#define AIOLOOP_PROCESS_SIZE_MAX ((size_t)1 << 30)

/* concurrent.futures.ProcessPoolExecutor. */
typedef struct aioloop_process_pool aioloop_process_pool;

/* Options of aioloop_process_pool_new; may be all zero. */
typedef struct aioloop_process_pool_options {
    int max_workers;    /* processes at most; 0: the number of processors */
    size_t queue_limit; /* functions that wait for a process at most, then the next is refused with AIOLOOP_EAGAIN;
                         * 0: any number */
    const aioloop_allocator *allocator; /* of the pool's memory, inputs and outputs, used by all its threads and in the
                                         * processes, and good until the pool was freed, and the outputs, and the loops
                                         * that used it; NULL: the default */
    const char *name;   /* of the threads and processes, for debuggers; copied, 15 bytes of it; NULL: "aioloop" */
} aioloop_process_pool_options;

/* Makes a pool; options may be NULL. End it with aioloop_process_pool_free. Flushes standard output. NULL, and the
 * reason in aioloop_last_error(NULL): AIOLOOP_EINVAL (max_workers below 0), AIOLOOP_ENOMEM, AIOLOOP_ENOTAVAILABLE, or
 * what the system says against another process. Any thread. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_process_pool *
aioloop_process_pool_new(const aioloop_process_pool_options *options);

/* Executor.shutdown(): from now on the pool refuses functions; those that it has still run, or with cancel_pending
 * those that have not begun never will, and their futures are cancelled. wait: returns when all have ended, however
 * long that takes, and the processes too; else those end with aioloop_process_pool_free. May be repeated. 0;
 * AIOLOOP_EINVAL for NULL; AIOLOOP_EMISUSE, and nothing done, in a forked child. Any thread. */
AIOLOOP_API int aioloop_process_pool_shutdown(aioloop_process_pool *pool, bool wait, bool cancel_pending);

/* ProcessPoolExecutor.kill_workers(): shuts down, cancels what has not begun, and kills the processes; the futures of
 * what they run fail with AIOLOOP_EBROKENPROCESS. Does not wait. Returns as aioloop_process_pool_shutdown does. Any
 * thread. */
AIOLOOP_API int aioloop_process_pool_kill(aioloop_process_pool *pool);

/* Shuts down, waits and frees the pool: after aioloop_process_pool_kill not for long. In a forked child only memory and
 * descriptors are given back. NULL is ignored. Any thread. */
AIOLOOP_API void aioloop_process_pool_free(aioloop_process_pool *pool);

/* What a function has given: read-only, and never one of your own making, for there is more behind it. In the future's
 * result a zero byte follows, which does not count. */
typedef struct aioloop_output {
    const void *data;
    size_t size;
} aioloop_output;

/* What runs in a process. input is valid during the call, never NULL, aligned for any object, and followed by a zero
 * byte that does not count. Returns a number >= 0, or a negative code, and then the output is dropped:
 * AIOLOOP_ECANCELED and the future is cancelled, else it fails, with the message of aioloop_raise(NULL, ...) if that
 * was called with the same code. It may make a loop of its own and run it. In C++ no exception may leave it. */
typedef int64_t (*aioloop_process_function)(const void *input, size_t size, aioloop_output *out);

/* In such a function: appends a copy of bytes to its output. 0; AIOLOOP_ENOMEM, or AIOLOOP_EMSGSIZE beyond
 * AIOLOOP_PROCESS_SIZE_MAX: then nothing more is appended, and the future fails with it unless the function itself
 * fails; AIOLOOP_EINVAL for NULL. The bytes may be of the output itself. */
AIOLOOP_API int aioloop_output_write(aioloop_output *out, const void *data, size_t size);

/* Frees an output that was taken from a future. NULL is ignored. Any thread. */
AIOLOOP_API void aioloop_output_free(aioloop_output *output);

/* loop.run_in_executor() with a process pool: runs fn with a copy of input in a process. In the loop's thread, where
 * the future becomes done too: with the number that fn returned, and an aioloop_output * if it has written anything,
 * else NULL; its reader frees it with aioloop_output_free. The future may be dropped: the function runs. Cancelled before it
 * has begun it never runs; later, the future is cancelled at once, and the process is busy until the function returns.
 *
 * AIOLOOP_EBROKENPROCESS: the process has died, and the message says how; another one takes its place. It is not run
 * again: it may have been half done. Or all have died, with the process that makes them: the pool is of no use then.
 * AIOLOOP_EAGAIN: the pool is full, or the system has no room for a process. AIOLOOP_EMISUSE: it was shut down, or is
 * of the process that forked. AIOLOOP_EMSGSIZE: input is too large. Static failed futures: AIOLOOP_ECLOSED,
 * AIOLOOP_ENOMEM, AIOLOOP_EINVAL, AIOLOOP_ENOTAVAILABLE. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_run_in_process(aioloop *loop, aioloop_process_pool *pool,
                                                                    aioloop_process_function fn, const void *input,
                                                                    size_t size);

#endif
