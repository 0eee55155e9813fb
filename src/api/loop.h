/*
 * loop.h - the event loop: running, scheduling, watching, and what happens to errors.
 *                                                              (asyncio: events.py, base_events.py)
 *
 * Unless a comment says otherwise a function is for the loop's own thread: the one that runs it, or, while it
 * does not run, the one that owns it. A NULL loop is answered with AIOLOOP_EINVAL (or NULL, false, a null handle).
 */
#ifndef AIOLOOP_API_LOOP_H
#define AIOLOOP_API_LOOP_H

#include "api/base.h"
#include "api/context.h"

typedef struct aioloop_future aioloop_future;
typedef struct aioloop_transport aioloop_transport;
typedef struct aioloop_server aioloop_server;
typedef struct aioloop_protocol aioloop_protocol;

/* ---- making and finding loops ---- */

typedef struct aioloop_config {
    /* Which back end, and its options, separated by commas: "io_uring", "epoll", "poll", "select", "sim",
     * "sim,delayed,seed=7", "epoll,no-eventfd". NULL: the environment variable AIOLOOP_BACKEND, else the best that
     * works. The manual lists the options. Copied. */
    const char *backend;
    const aioloop_allocator *allocator; /* NULL: AIOLOOP_MALLOC and its kin. Copied. */
    int debug;                          /* 1: debug mode on, -1: off, 0: on if AIOLOOP_DEBUG is set and not empty */
} aioloop_config;

/* asyncio.new_event_loop(). config NULL: all defaults. The loop is the caller's to free. NULL on failure, and then
 * aioloop_last_error(NULL) says why: AIOLOOP_EINVAL for a back end nobody knows, AIOLOOP_ENOTAVAILABLE for one that
 * is not here (but for io_uring where the system forbids it, the next best serves: see aioloop_backend_name),
 * AIOLOOP_ENOMEM, or the system's error. It does not become the thread's current loop. Any thread. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop *aioloop_new_event_loop(const aioloop_config *config);

/* asyncio.get_running_loop(): the loop that is running in this thread; NULL if none is (asyncio's RuntimeError),
 * also in a forked child of a thread that was running one. Any thread. */
AIOLOOP_API aioloop *aioloop_get_running_loop(void);

/* asyncio.get_event_loop(): the running loop if one runs in this thread, else the one last set for it. If none was
 * ever set, the process's first thread (the one that first used the library) gets a new loop, which becomes its
 * current one and its to free; elsewhere, and after aioloop_set_event_loop(NULL), the answer is NULL. Any thread. */
AIOLOOP_API aioloop *aioloop_get_event_loop(void);

/* asyncio.set_event_loop(): makes loop (or, with NULL, none) this thread's current loop. Owns nothing: unset it before
 * it is freed (aioloop_free does so in its own thread). Any thread. */
AIOLOOP_API void aioloop_set_event_loop(aioloop *loop);

/* ---- running and stopping ---- */

/* loop.run_forever(): runs until aioloop_stop. 0; AIOLOOP_EFATAL if a callback raised that (what was not run yet is
 * kept for the next run); AIOLOOP_EMISUSE if this loop or another one runs in this thread, or this one runs or ever ran
 * in another thread: a loop stays with the first that runs it; AIOLOOP_ECLOSED; or the system's error if waiting itself
 * failed. */
AIOLOOP_API int aioloop_run_forever(aioloop *loop);

/* loop.run_until_complete(): runs until the future is done. Returns its number (>= 0) and stores its pointer at out
 * (the address of an object pointer, or NULL), or returns its error: AIOLOOP_ECANCELED if it was cancelled.
 * AIOLOOP_EMISUSE if aioloop_stop ended the run before, and then the future stays pending (claim it beforehand to use
 * it again). Ends an unclaimed future's use in every case. AIOLOOP_EINVAL for another loop's future. */
AIOLOOP_API int64_t aioloop_run_until_complete(aioloop *loop, aioloop_future *future, void *out);

/* One iteration, for programs with a main loop of their own: waits at most max_wait (0: not at all; AIOLOOP_FOREVER: as
 * long as it takes) for something to do, and does it. 1 if the loop has more to do at once, 0 if not, or an error as
 * aioloop_run_forever's. asyncio has no such call. */
AIOLOOP_API int aioloop_run_once(aioloop *loop, aioloop_time max_wait);

/* The time on the loop's clock at which aioloop_run_once has something to do even if no descriptor becomes ready: now
 * or earlier if at once, AIOLOOP_FOREVER if never. */
AIOLOOP_API aioloop_time aioloop_next_deadline(aioloop *loop);

/* A descriptor that another main loop can watch for reading: readable means aioloop_run_once has something to do.
 * Whatever is to be told to the system is told before this returns and before each aioloop_run_once returns.
 * AIOLOOP_ENOTAVAILABLE where the back end has none (poll, select); AIOLOOP_EMISUSE in another thread than the one that
 * runs the loop: this call, as a run, makes the loop stay with the thread. The loop's to close. */
AIOLOOP_API int aioloop_backend_fd(aioloop *loop);

/* The name of the back end that runs this loop: "epoll". The program's for ever. */
AIOLOOP_API const char *aioloop_backend_name(aioloop *loop);

/* loop.stop(): ends the run after the current iteration, or the next run after one iteration. */
AIOLOOP_API void aioloop_stop(aioloop *loop);

/* loop.is_running(), loop.is_closed(). Any thread. */
AIOLOOP_API bool aioloop_is_running(aioloop *loop);
AIOLOOP_API bool aioloop_is_closed(aioloop *loop);

/* loop.close(): drops what is queued without calling it, closes the sockets of transports and servers without telling
 * their protocols, gives everything back to the system; in debug mode what was open is reported. The objects stay valid
 * until aioloop_free and answer AIOLOOP_ECLOSED. 0, also when repeated; AIOLOOP_EMISUSE while the loop runs. */
AIOLOOP_API int aioloop_close(aioloop *loop);

/* Closes the loop and frees it and all that belongs to it: futures, transports and servers, whoever still holds them.
 * Failures of futures that nobody looked at are reported; in debug mode also what had not been ended, and, as asyncio
 * does, a loop that was not closed: call aioloop_close before, then only what else was left open is. In a forked child
 * this touches nothing that the parent shares. AIOLOOP_EMISUSE while the loop runs, and in what close and free call
 * (the exception handler, the log), and then nothing is freed. NULL is ignored. */
AIOLOOP_API int aioloop_free(aioloop *loop);

/* loop.time(): the loop's clock now, read each time. After aioloop_close it stands still. */
AIOLOOP_API aioloop_time aioloop_now(aioloop *loop);

/* ---- callbacks ---- */

/* A scheduled callback, as a value: copy it, drop it, keep it for as long as the loop is not freed. All zero: null. */
typedef struct aioloop_handle {
    void *slot;
    uint64_t sequence;
} aioloop_handle;

typedef struct aioloop_timer_handle {
    aioloop_handle handle;
    aioloop_time when; /* TimerHandle.when() */
} aioloop_timer_handle;

/* loop.call_soon(): calls fn(loop, arg) in the next iteration, after the callbacks that are queued already. A null
 * handle means a NULL fn, no memory or a closed loop; aioloop_last_error says which. */
AIOLOOP_API aioloop_handle aioloop_call_soon(aioloop *loop, aioloop_callback fn, void *arg);

/* loop.call_soon_threadsafe(): the same from any thread, and wakes the loop. Calls made by one thread keep their order.
 * The loop must not be freed before the call returns; racing with aioloop_close is safe. The handle may be cancelled in
 * the loop's thread only. Failures are told by a null handle alone. */
AIOLOOP_API aioloop_handle aioloop_call_soon_threadsafe(aioloop *loop, aioloop_callback fn, void *arg);

/* loop.call_later(), loop.call_at(): calls fn(loop, arg) once, not before delay has passed or the clock shows when;
 * soon after if that is past. Equal times run in the order of these calls. AIOLOOP_FOREVER never comes. A null handle
 * (see aioloop_handle_is_null) as for aioloop_call_soon, and AIOLOOP_EINVAL for AIOLOOP_NOT_A_TIME. */
AIOLOOP_API aioloop_timer_handle aioloop_call_later(aioloop *loop, aioloop_time delay, aioloop_callback fn, void *arg);
AIOLOOP_API aioloop_timer_handle aioloop_call_at(aioloop *loop, aioloop_time when, aioloop_callback fn, void *arg);

/* The same in the context given instead of a copy of the current one (asyncio's context=); NULL: as without. */
AIOLOOP_API aioloop_handle aioloop_call_soon_context(aioloop *loop, aioloop_callback fn, void *arg,
                                                     aioloop_context *context);
AIOLOOP_API aioloop_handle aioloop_call_soon_threadsafe_context(aioloop *loop, aioloop_callback fn, void *arg,
                                                                aioloop_context *context);
AIOLOOP_API aioloop_timer_handle aioloop_call_at_context(aioloop *loop, aioloop_time when, aioloop_callback fn,
                                                         void *arg, aioloop_context *context);

/* Handle.cancel(): the callback will not start; does nothing if it ran or was cancelled. Marks the value given, so that
 * aioloop_handle_cancelled answers true for it (copies are not marked, but cancelling them is harmless). */
AIOLOOP_API void aioloop_handle_cancel(aioloop_handle *handle);
AIOLOOP_API void aioloop_timer_handle_cancel(aioloop_timer_handle *handle);

/* Handle.cancelled(): true after aioloop_handle_cancel on this value, false for a pending or finished callback. */
AIOLOOP_API bool aioloop_handle_cancelled(const aioloop_handle *handle);

/* True for the handle of a call that failed, and for NULL. */
AIOLOOP_API bool aioloop_handle_is_null(const aioloop_handle *handle);

/* Moves a pending timer to another time (in either direction) and stores it in the handle. To a later time this costs a
 * store: made for idle time-outs pushed back on every byte. 0; AIOLOOP_EINVALIDSTATE, and nothing changed, if it ran,
 * runs, or was cancelled; AIOLOOP_EINVAL for AIOLOOP_NOT_A_TIME. asyncio cancels and makes a new one instead. */
AIOLOOP_API int aioloop_timer_handle_reschedule(aioloop_timer_handle *handle, aioloop_time when);

/* ---- watching descriptors ---- */

/* loop.add_reader(), loop.add_writer(): calls fn(loop, arg) in every iteration in which fd is readable (writable),
 * until removed; an end, a hang-up and an error count as both. Replaces a watcher of the same kind. fd stays the
 * caller's; remove the watchers before closing it. 0; AIOLOOP_EBADF, AIOLOOP_EINVAL (a negative fd, a NULL fn, one too
 * large for the back end); AIOLOOP_EPERM for what the back end cannot watch (a regular file under epoll);
 * AIOLOOP_EMISUSE if a transport owns it or an operation of sock.h is pending; AIOLOOP_ENOMEM; AIOLOOP_ECLOSED. */
AIOLOOP_API int aioloop_add_reader(aioloop *loop, aioloop_socket fd, aioloop_callback fn, void *arg);
AIOLOOP_API int aioloop_add_writer(aioloop *loop, aioloop_socket fd, aioloop_callback fn, void *arg);

/* loop.remove_reader(), loop.remove_writer(): 1 if there was such a watcher, 0 if not (also on a closed loop). Its
 * callback does not run any more, even if its event was found already. AIOLOOP_EMISUSE if a transport owns fd. */
AIOLOOP_API int aioloop_remove_reader(aioloop *loop, aioloop_socket fd);
AIOLOOP_API int aioloop_remove_writer(aioloop *loop, aioloop_socket fd);

/* ---- signals ---- */

/* loop.add_signal_handler(): calls fn(loop, arg) in the loop, never in the middle of something, when the signal comes,
 * in the context of this call. number: SIGTERM and its like, of <signal.h>. Replaces the loop's handler of that signal;
 * what came before counts for the new one. One that comes while the loop does not run is told in the next run. Signals
 * of one number that come before the loop looks are told once; different ones in any order. Several loops may have
 * handlers of the same signal: each is told.
 * Signals belong to the process's main thread (where the system does not tell which that is, the one that first used
 * this library): from others AIOLOOP_EMISUSE. So it is for a signal that cannot be caught (SIGKILL), and for a loop that
 * runs in another thread. AIOLOOP_EINVAL: there is no signal of that number, or fn is NULL; AIOLOOP_ENOMEM;
 * AIOLOOP_ECLOSED; AIOLOOP_ENOTAVAILABLE where AIOLOOP_USE_SUBPROCESS is 0. Not for what a program brings upon itself by
 * a fault (SIGSEGV): the fault would be repeated for ever. A process that is forked has none of the handlers: there
 * the signals have their default actions. */
AIOLOOP_API int aioloop_add_signal_handler(aioloop *loop, int number, aioloop_callback fn, void *arg);

/* loop.remove_signal_handler(): 1 if the loop had such a handler, 0 if not. It does not run any more, also if the signal
 * has come. With the last loop's handler the signal has its default action again (unless the program has given it another
 * one meanwhile), not what it had before; closing the loop does the same. AIOLOOP_EINVAL, AIOLOOP_EMISUSE (threads) and
 * AIOLOOP_ENOTAVAILABLE as above. */
AIOLOOP_API int aioloop_remove_signal_handler(aioloop *loop, int number);

/* ---- errors ---- */

/* Raises: stores code with a message and returns code. In a callback that returns nothing, the last raise before it
 * returns is its error, and goes where Python's exception would. In one that returns a code, return what this returns.
 * AIOLOOP_EFATAL ends the run. code must be negative, else it becomes AIOLOOP_EINVAL. The message is cut at 255 bytes;
 * format NULL: none. loop NULL: the message is for aioloop_last_error(NULL), and for the future of a function that
 * runs in a thread pool. */
AIOLOOP_API int aioloop_raise(aioloop *loop, int code, const char *format, ...) AIOLOOP_PRINTF(3, 4);

/* The error of the last failed call on this loop that had something to say, or of the last awaited future; loop NULL:
 * of the last call in this thread that had no loop to tell (aioloop_new_event_loop, aioloop_ssl_context_...); where a
 * loop runs, that one is told too. A coroutine finds what a loop has told it after each wait as before. Valid until the
 * next call that fails. Never NULL; its code is 0 if nothing failed yet. */
AIOLOOP_API const aioloop_error *aioloop_last_error(aioloop *loop);

/* What to print for a code that a call has returned: the message of the last error of the loop (or of none: NULL), if
 * that has the same code, else aioloop_strerror's. Never NULL; valid as long. */
AIOLOOP_API const char *aioloop_message(aioloop *loop, int64_t code);

/* Keeps the last error, with its message and what it collects, while other calls may fail; restore makes it the last
 * one again, and ends it. So clean-up does not cost the reason for it:
 *
 *     error = aioloop_save_error(loop);
 *     aioloop_await(aioloop_stream_wait_closed(stream), NULL);
 *     aioloop_restore_error(loop, error);
 *     return rc;
 *
 * NULL: there is no error, or no memory; restoring that does nothing. Each one that was saved is restored, before the
 * loop is freed. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_error *aioloop_save_error(aioloop *loop);
AIOLOOP_API void aioloop_restore_error(aioloop *loop, aioloop_error *error);

/* What an exception handler is told. Members that do not apply are 0 or NULL; all is borrowed. */
typedef struct aioloop_exception_context {
    const char *message; /* what happened; NULL: "Unhandled error in event loop" */
    int error;           /* the code */
    const char *detail;  /* the error's own message, if there is one */
    aioloop_future *future;
    aioloop_future *task; /* the same, if it is a task */
    aioloop_transport *transport;
    const aioloop_protocol *protocol;
    aioloop_server *server;
    aioloop_handle handle;
    const aioloop_socket *socket;
    const char *source_file; /* debug mode: where what failed was made */
    int source_line;
    void *asyncgen; /* what was closed: an aioloop_generator, or the argument of another closer */
} aioloop_exception_context;

typedef void (*aioloop_exception_handler)(aioloop *loop, const aioloop_exception_context *context, void *arg);

/* loop.set_exception_handler(): fn NULL restores the default. What fn raises is reported by the default handler. */
AIOLOOP_API void aioloop_set_exception_handler(aioloop *loop, aioloop_exception_handler fn, void *arg);

/* loop.get_exception_handler(): NULL while the default is in force; stores the argument at arg unless that is NULL. */
AIOLOOP_API aioloop_exception_handler aioloop_get_exception_handler(aioloop *loop, void **arg);

/* loop.call_exception_handler(): reports through the handler in force. Never fails. */
AIOLOOP_API void aioloop_call_exception_handler(aioloop *loop, const aioloop_exception_context *context);

/* loop.default_exception_handler(): writes the context to the log, message first, the rest in name order. */
AIOLOOP_API void aioloop_default_exception_handler(aioloop *loop, const aioloop_exception_context *context);

typedef enum aioloop_log_level { AIOLOOP_LOG_WARNING = 1, AIOLOOP_LOG_ERROR = 2 } aioloop_log_level;
typedef void (*aioloop_log)(aioloop *loop, aioloop_log_level level, const char *text, void *arg);

/* Where the loop's log goes: text is one or more lines without a last newline, borrowed. fn NULL: standard error,
 * each line with "aioloop: " before it. */
AIOLOOP_API void aioloop_set_log(aioloop *loop, aioloop_log fn, void *arg);

/* ---- debug mode ---- */

/* loop.set_debug(), loop.get_debug(). In debug mode calls that schedule, watch or complete something are refused with
 * AIOLOOP_EMISUSE from a wrong thread, slow callbacks
 * are logged, objects remember where they were made, and what is left open is reported. AIOLOOP_ENOTAVAILABLE when
 * built with AIOLOOP_USE_DEBUG 0. */
AIOLOOP_API int aioloop_set_debug(aioloop *loop, bool enabled);
AIOLOOP_API bool aioloop_get_debug(aioloop *loop);

/* loop.slow_callback_duration: in debug mode a callback that takes this long is logged. 100 ms at first. AIOLOOP_EINVAL
 * for a negative time. */
AIOLOOP_API int aioloop_set_slow_callback_duration(aioloop *loop, aioloop_time duration);
AIOLOOP_API aioloop_time aioloop_get_slow_callback_duration(aioloop *loop);

/* Checks the loop's inner structures and aborts with a message if one is broken; for tests and hunts. Does nothing when
 * built with AIOLOOP_USE_DEBUG 0. */
AIOLOOP_API void aioloop_verify(aioloop *loop);

#endif
