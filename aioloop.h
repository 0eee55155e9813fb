/* Generated from src/ by tools/amalgamate.py. Do not edit: change src/ and run `make header`. */

/* >> src/aioloop.h */
/* The implementation needs what the system's headers hide unless asked, so it asks before the first of them. */
#if defined(AIOLOOP_IMPLEMENTATION) && !defined(AIOLOOP_IMPLEMENTED) && !defined(_WIN32)
#if defined(__GLIBC__) && defined(_FEATURES_H) && !defined(__USE_GNU)
#error "aioloop.h: with AIOLOOP_IMPLEMENTATION include it before any system header, or compile with -D_GNU_SOURCE"
#endif
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#if defined(__APPLE__) && !defined(_DARWIN_C_SOURCE)
#define _DARWIN_C_SOURCE 1
#endif
#endif

#ifndef AIOLOOP_H
#define AIOLOOP_H

/* >> src/api/manual.h */
/*
 * aioloop.h - Python's asyncio event loop, for C. One header.
 *
 * Callbacks, timers, futures, context variables, watched descriptors, TCP and Unix connections and servers with
 * asyncio's protocols, transports and flow control; over io_uring, epoll, poll, select, a simulated network with
 * virtual time, or a firmware's clock. C99 to C23 and C++11 to C++20. MIT licence, see the LICENSE file.
 *
 * This is the manual: how things fit together. What each function does, and how it can fail, stands above its
 * declaration.
 *
 *
 * USE
 *
 *   Copy this file into your project. One C or C++ file of the program holds the implementation:
 *
 *       #define AIOLOOP_IMPLEMENTATION
 *       #include "aioloop.h"
 *
 *   All others just include it. In the one file it comes before any system header, because it asks the system for
 *   more than the language standard shows (or compile that file with -D_GNU_SOURCE). The declarations include
 *   <stddef.h>, <stdint.h> and <stdbool.h> and nothing else. The switches stand further down, at config.h; no
 *   declaration depends on them.
 *
 *   A program makes a loop, puts something into it, and runs it:
 *
 *       static void echo(aioloop_transport *transport, void *self, const void *data, size_t size) {
 *           (void)self;
 *           aioloop_transport_write(transport, data, size);
 *       }
 *
 *       aioloop_protocol protocol = AIOLOOP_ZERO;
 *       protocol.data_received = echo;
 *       aioloop *loop = aioloop_new_event_loop(NULL);
 *       int64_t result = aioloop_run_until_complete(
 *           loop, aioloop_create_server(loop, &protocol, NULL, "127.0.0.1", 8888, NULL), NULL);
 *       if (result >= 0)
 *           result = aioloop_run_forever(loop);
 *       if (result < 0)
 *           fprintf(stderr, "%s\n", aioloop_error_message(aioloop_last_error(loop)));
 *       aioloop_free(loop);
 *
 *
 * NAMES
 *
 *   Who knows asyncio's documentation can guess every name:
 *
 *       asyncio.new_event_loop()        aioloop_new_event_loop(config)
 *       loop.call_soon(f, x)            aioloop_call_soon(loop, f, x)
 *       handle.cancel()                 aioloop_handle_cancel(&handle), aioloop_timer_handle_cancel(&timer)
 *       future.set_result(x)            aioloop_future_set_result(future, number, pointer, dispose)
 *       transport.write(data)           aioloop_transport_write(transport, data, size)
 *       server.wait_closed()            aioloop_server_wait_closed(server)
 *       await reader.readline()         aioloop_await(aioloop_stream_readline(stream), &line)
 *       a Protocol's methods            members of aioloop_protocol, by the same names
 *       keyword arguments               an options struct; NULL or all zero (AIOLOOP_ZERO) is asyncio's defaults
 *       seconds, as a float             aioloop_time, nanoseconds: AIOLOOP_SECONDS(0.25), AIOLOOP_MS(250)
 *       an exception                    a negative code, with a message where there is more to say
 *       a coroutine of the loop         a function that starts the work and returns an aioloop_future *
 *
 *   Beyond asyncio: the member timeout in options, aioloop_run_once and its kin, aioloop_timer_handle_reschedule,
 *   aioloop_transport_write_owned, allocators, the simulated back end.
 *
 *
 * THE LOOP
 *
 *   A loop runs callbacks one after another, in one thread, and waits when there are none. Nothing of yours is ever
 *   called from inside the call that caused it, but later, from the loop; so after a call returns, the world is as
 *   you left it. The exceptions are pause_writing, which is called inside the write that goes too far, and the
 *   exception handler and log.
 *
 *   One iteration of a loop:
 *
 *       1. wait until a descriptor is ready, a timer is due, another thread posts, or at once if callbacks are queued
 *       2. set aside the timers that are due
 *       3. run the callbacks that were queued before 2, in the order of their queueing
 *       4. tell watchers, transports and servers what the wait has found
 *       5. run the timers of 2, by time, equal times in the order they were made
 *
 *   What is queued in 3, 4 and 5 runs in the next iteration, so callbacks that queue callbacks do not starve the
 *   network. A connection gets at most 256 KiB and a server `backlog` connections in one iteration, for the same
 *   reason. aioloop_stop ends the run after the current iteration. What an earlier callback removed or closed gets no
 *   event any more.
 *
 *   A program with a main loop of its own calls aioloop_run_once, sleeps until aioloop_next_deadline at the longest,
 *   and watches aioloop_backend_fd if the back end has one (io_uring and epoll have; with the others it sleeps for a
 *   moment only). One turn of such a main loop, fd being what aioloop_backend_fd said at the start:
 *
 *       aioloop_time left = aioloop_next_deadline(loop);
 *       int ms = -1;
 *       if (left != AIOLOOP_FOREVER) {
 *           left -= aioloop_now(loop);
 *           ms = left <= 0 ? 0 : left < AIOLOOP_MS(60000) ? (int)((left + 999999) / 1000000) : 60000;
 *       }
 *       poll({fd, POLLIN}, and the program's own, ms);
 *       aioloop_run_once(loop, 0);
 *
 *
 * CALLBACKS, TIMERS AND HANDLES
 *
 *   aioloop_call_soon and the like return a handle: a small value, not a pointer to free. Keep it to cancel, or drop
 *   it. It may be asked and cancelled as long as its loop is not freed, also long after the callback has run. A timer
 *   runs once and never early; a periodic one re-arms itself, best by adding to the time it was due. Idle time-outs
 *   are pushed back by aioloop_timer_handle_reschedule, which is as cheap as a store when the time grows.
 *
 *
 * FUTURES AND WHO OWNS THEM
 *
 *   A future is a result that is not there yet: a number >= 0 and a pointer, or a negative code with a message.
 *
 *   A future that a call returned is UNCLAIMED: use it once, and it is gone. The uses are await, gather and their kin,
 *   aioloop_run_until_complete and aioloop_future_then; aioloop_future_unref drops it. So calls nest:
 *
 *       aioloop_run_until_complete(loop, aioloop_server_wait_closed(server), NULL);
 *       aioloop_await(aioloop_wait_for(aioloop_create_task(loop, fetch, &job, NULL), AIOLOOP_SECONDS(5)), NULL);
 *
 *   To use it more often, claim it with aioloop_future_ref: from then on uses borrow, and you unref it once. A future
 *   of aioloop_create_future is claimed from birth. No call returns NULL: without memory you get a future that has
 *   failed. Dropping a future does not stop the work; aioloop_future_cancel does. A failure that nobody looked at is
 *   reported to the exception handler when the last owner lets go.
 *
 *   The pointer of a result belongs to whoever takes it first, by aioloop_future_result or an `out` argument that is
 *   not NULL: a server or transport got that way is yours to unref. If nobody takes it, the library ends it.
 *
 *   A function of your own that starts work and returns a future makes it with aioloop_create_operation.
 *
 *
 * COROUTINES AND TASKS
 *
 *   A coroutine is code that waits without holding up the loop; a task runs one, and is the future of its result.
 *
 *       static int64_t fetch(aioloop *loop, void *arg, void **out) {
 *           int64_t rc = aioloop_await(aioloop_sleep(loop, AIOLOOP_MS(100)), NULL);
 *           if (rc < 0)
 *               return rc;
 *           return 42;
 *       }
 *
 *       int main(void) {
 *           return aioloop_run(fetch, NULL, NULL) == 42 ? 0 : 1;
 *       }
 *
 *   This kind has a stack of its own, so it may wait anywhere, also in functions that it calls, and its locals stay. A
 *   stack is 256 KiB of address space, of which only what is touched takes memory: a few KiB. A coroutine without a
 *   stack (AIOLOOP_BEGIN, AIOLOOP_AWAIT, AIOLOOP_END; see task.h) is a function that is called again after each wait; it
 *   keeps what it needs in a struct of yours, takes a few dozen bytes besides, and is plain C. Both kinds run as tasks,
 *   wait for the same futures and for each other, and know the same calls.
 *
 *   A coroutine returns its result, or a code below 0, which is raising it; whoever awaits the task gets that code, and
 *   aioloop_last_error the message. So an error is passed on by returning it.
 *
 *   Cancelling a task cancels what it waits for, and that wait returns AIOLOOP_ECANCELED, in a later iteration. Clean
 *   up (waiting is allowed), and return it. A coroutine that does something else with it has caught the cancellation,
 *   and goes on: C has no exception that would unwind it, so every wait's result is to be looked at. Debug mode
 *   reports a task that waits at the same place again, or returns a result, after it was told.
 *
 *   aioloop_run makes a loop, runs one coroutine, cancels and awaits the tasks that are left over, and frees everything.
 *   Tasks that are still waiting when a loop is freed otherwise are dropped: their stacks are not unwound, their dispose
 *   functions are not called, and each is reported. In C++ no destructor of a dropped stack runs, an exception that
 *   leaves a coroutine terminates the program, and no wait may stand inside a catch block.
 *
 *   Waiting is possible only in the task's own code: not in pause_writing, the exception handler and the log, which are
 *   called from within other calls, nor inside aioloop_context_run. Error reports run on the loop's stack, which is
 *   large. A coroutine must not longjmp out of its stack, nor wait while it holds a lock of the system's threads.
 *
 *   A task group's tasks, and those of gather, may use what belongs to the function that started them, as long as it
 *   waits for all of them. gather returns at the first failure while the others run on: what it lent them must live on
 *   too, or be lent to a group, whose exit always waits for all.
 *
 *
 * LOCKS AND QUEUES
 *
 *   aioloop_lock, aioloop_event, aioloop_condition, aioloop_semaphore, aioloop_barrier and aioloop_queue order the tasks
 *   of one loop, not threads. Who made one frees it; what is forgotten goes with the loop. Waiting is a future:
 *
 *       rc = aioloop_await(aioloop_lock_acquire(lock), NULL);
 *       if (rc < 0)
 *           return rc;
 *       ...
 *       aioloop_lock_release(lock);
 *
 *   They serve in the order of arrival, and hand over at once, so nobody overtakes. What was handed to a task that is
 *   cancelled before it goes on, the lock, the place, the item, goes to the next, or back: the wait that returns
 *   AIOLOOP_ECANCELED has acquired nothing. Two calls are special. aioloop_condition_wait has the lock again however it
 *   ends, AIOLOOP_ECANCELED included. aioloop_queue_put takes the item over from the call on, also if it fails; its
 *   dispose function ends what nobody gets. The calls that end in _nowait neither wait nor make a future.
 *
 *
 * PROTOCOLS AND TRANSPORTS
 *
 *   A connection has two sides. The transport is the library's: you ask it to write, pause, close. The protocol is
 *   yours: a table of functions that are told what happens, each of which may be NULL. The table is shared by all its
 *   connections and usually static const; what differs between connections is self:
 *
 *       instance_size > 0    zeroed memory of that size, in the transport's own block, prepared by factory(self, arg)
 *       instance_size 0      the arg that was given to the call that made the connection or the server
 *
 *   The order of calls: connection_made, then any number of data_received, pause_writing and resume_writing, at most
 *   one eof_received, then connection_lost, once, after which nothing comes. Bytes arrive in pieces of any size;
 *   where a message ends is the protocol's business. With get_buffer and buffer_updated set instead of data_received
 *   the bytes are read straight into memory of yours.
 *
 *   Writing never waits. What the system does not take is kept and sent later, in order. Writes of one callback go
 *   out together. When more than the high mark waits (64 KiB, see aioloop_transport_set_write_buffer_limits)
 *   pause_writing is called, below the low mark resume_writing. A protocol that ignores this can be made to fill the
 *   memory by a peer that does not read. The usual answer of one that passes bytes on is
 *   aioloop_transport_pause_reading on their source. aioloop_transport_write_owned lends memory instead of having it
 *   copied.
 *
 *   Ending: aioloop_transport_close sends what is buffered first; aioloop_transport_abort does not;
 *   aioloop_transport_write_eof ends one direction. When the peer has ended its direction, eof_received is asked:
 *   true keeps ours open. Without it the connection closes, after what is buffered has gone out.
 *
 *   Transports and servers are counted. The loop holds a reference until connection_lost has returned, so inside the
 *   protocol's functions the transport is always valid, and a pointer kept in self is good until connection_lost. To
 *   keep it longer, take a reference of your own. With a reference every call is safe, also after the loss.
 *
 *   A server is made listening; aioloop_server_close stops that and leaves its connections alone;
 *   aioloop_server_close_clients and aioloop_server_abort_clients end those; aioloop_server_wait_closed is done when
 *   all are gone. Descriptors given to a transport or server are the loop's to close; those watched by
 *   aioloop_add_reader stay yours.
 *
 *   Hosts are numeric addresses or "localhost"; names need a resolver, which is not in this version.
 *
 *
 * GENERATORS
 *
 *   A coroutine that hands out many values (async def with yield): aioloop_generator_new makes one, inside it calls aioloop_yield (or
 *   AIOLOOP_YIELD), outside aioloop_generator_anext gives a future of the next value, and AIOLOOP_ESTOPITERATION says that there is
 *   no more. Its body runs only while somebody waits for a value, so a pipeline of them does no work ahead. Look at what yield returns:
 *   below 0 the body is to clean up and return that. aioloop_generator_aclose ends one early; one that is dropped in the middle the
 *   loop closes, and aioloop_run closes what is left (aioloop_shutdown_asyncgens). See examples/generator_pipeline.c.
 *
 *
 * STREAMS
 *
 *   A stream is a connection for coroutines. One object is read from and written to; a server calls a coroutine for
 *   each connection, in a task of its own:
 *
 *       static int64_t echo(aioloop *loop, aioloop_stream *stream, void *arg) {
 *           char *line;
 *           int64_t n;
 *           while ((n = aioloop_await(aioloop_stream_readline(stream), &line)) > 0) {
 *               aioloop_stream_write(stream, line, (size_t)n);
 *               n = aioloop_await(aioloop_stream_drain(stream), NULL);
 *               if (n < 0)
 *                   break;
 *           }
 *           return n;
 *       }
 *
 *       aioloop_await(aioloop_start_server(loop, echo, NULL, "127.0.0.1", 8888, NULL), &server);
 *       aioloop_await(aioloop_open_connection(loop, "127.0.0.1", 8888, NULL), &stream);
 *
 *   The bytes that a read gives are in the stream's memory, end with a zero that is not counted, and are valid until
 *   the next read begins. They are used up by being looked at: a read that is cancelled, or timed out by
 *   aioloop_wait_for, loses nothing, the next one has its bytes. At the end of the stream reads give 0 bytes;
 *   readexactly and readuntil fail with AIOLOOP_EINCOMPLETE, and aioloop_stream_partial has the rest. Writing never
 *   waits; draining after it does, while the peer does not read. Reading pauses when twice the stream's limit (64 KiB)
 *   waits to be fetched.
 *
 *   Streams are counted, and the connection goes with the last reference, after all has been sent. A handler's
 *   reference goes when it returns: to keep the connection, aioloop_stream_ref it. A handler that fails is reported.
 *
 *
 * CONTEXTS
 *
 *   A context variable (Python's contextvars) is a value that follows the work: whatever is scheduled remembers the
 *   values of the moment and sees them when it runs, while its own changes stay with it. Made for request numbers in
 *   logs. Who sets none pays nothing.
 *
 *
 * ERRORS
 *
 *   Every call that can fail returns a number below 0 when it has. The system's errors have Linux's numbers, negated,
 *   on every system (AIOLOOP_ECONNREFUSED is -111 everywhere); the library's own begin at -20001. aioloop_strerror
 *   gives the text, aioloop_error_name the name. More, such as the address that refused, is in
 *   aioloop_last_error(loop) after the call, and in aioloop_future_error for a future. A call that fails has changed
 *   nothing.
 *
 *   A callback that returns nothing fails by aioloop_raise. It goes where an uncaught exception would go: to the
 *   exception handler, and for a protocol's function to the end of the connection, with that code. AIOLOOP_EFATAL
 *   ends the run: aioloop_run_forever returns it, and what had not run yet is kept for the next run.
 *
 *   The default exception handler writes to the log, and the log goes to standard error, each line
 *   with "aioloop: " before it; both can be replaced.
 *
 *
 * DEBUG MODE
 *
 *   On with aioloop_config.debug, aioloop_set_debug, or the environment variable AIOLOOP_DEBUG. It refuses calls from
 *   a wrong thread, says which callbacks took 100 ms or longer, notices a future that is used after its end, and
 *   reports what was left open (connections, servers, and a loop that is freed without aioloop_close before). Compile
 *   your files with AIOLOOP_DEBUG_SITES and the reports name file and line of what they are about.
 *
 *
 * BACK ENDS
 *
 *   aioloop_config.backend, or else the environment variable AIOLOOP_BACKEND, or else the best that works:
 *
 *       io_uring  Linux, the default from kernel 6.1 on; on older ones by name. Small writes leave with the next wait,
 *                 all in one call. Where it is forbidden (containers, seccomp, sysctl) the next best serves, and
 *                 aioloop_backend_name tells
 *       epoll     Linux; any number of descriptors
 *       poll      every POSIX system; each wait costs a pass over all descriptors
 *       select    every POSIX system; descriptors below 1024 only
 *       sim       no system at all: virtual time and a network in memory; by name only, see sim.h
 *       port      with AIOLOOP_PORT: the user's clock and wait, no descriptors; see port.h
 *
 *   Options follow the name after commas, "epoll,no-eventfd" or "sim,delayed,seed=7":
 *
 *       no-accept4 no-epoll_pwait2 no-eventfd no-pipe2    do as on a system that has no such call
 *       no-defer_taskrun no-coop_taskrun no-multishot no-buffer_ring no-incremental
 *                                                         io_uring: do as on a kernel that has no such feature
 *       delayed                                           sim: operations complete late and in parts
 *       seed=N                                            sim: which of the possible courses is taken
 *
 *   To test a program of yours, run it on sim: time-outs of hours cost microseconds, delays, partitions and broken
 *   connections are calls, and a seed that found a fault finds it again.
 *
 *
 * THREADS
 *
 *   A loop may be made in any thread and belongs to the one that runs it first, for good; aioloop_run_until_complete
 *   and aioloop_backend_fd count as running, so set a loop up in the thread that will run it. (A server is listening
 *   when aioloop_create_server returns: claim its future, look at the result, and no run is needed.) Any number of
 *   loops may run in as many threads. The one call on a loop from other threads is aioloop_call_soon_threadsafe (and
 *   the few whose comment says "any thread"); the loop must not be freed meanwhile. It is lock-free, and makes a system
 *   call only if the loop sleeps. Not for signal handlers: have them write to a pipe that the loop reads
 *   (examples/echo_server.c).
 *
 *   aioloop_run_coroutine_threadsafe has a loop run a coroutine for another thread, which can wait for the outcome
 *   (aioloop_concurrent_future_result) or cancel it; aioloop_wrap_future waits for such a future in a loop, so two loops can work for
 *   each other. Arguments and pointers change threads with these calls; their dispose functions run where the last hand lets go.
 *   (With a C library older than glibc 2.34 programs are linked with -pthread.)
 *
 *
 * BLOCKING WORK
 *
 *   A function that blocks or computes for long runs in another thread, and the loop goes on meanwhile:
 *
 *       static int64_t measure(void *path, void **out) {
 *           struct stat status;
 *           (void)out;
 *           return stat((char *)path, &status) < 0 ? aioloop_raise(NULL, AIOLOOP_ENOENT, "no %s", (char *)path)
 *                                                  : (int64_t)status.st_size;
 *       }
 *
 *       n = aioloop_await(aioloop_to_thread(loop, measure, path, NULL), NULL);
 *
 *   It returns as a coroutine does, but must touch nothing of the loop, except by aioloop_call_soon_threadsafe and its kin.
 *   What it works on must live until it has ended, also when the task that waited was cancelled: the function runs on, for
 *   nothing can stop it. So have arg copied (copy_size), or counted and given a dispose function, which tells that the
 *   function is through with it.
 *
 *   The threads are those of the loop's default pool, made when they are needed. aioloop_run_in_executor takes a pool of
 *   yours instead (aioloop_thread_pool_new), which several loops may share: one whose queue has a limit, or a single
 *   thread for a library that bears no second. aioloop_run waits for the default pool at its end, and
 *   aioloop_shutdown_default_executor does elsewhere; aioloop_close and aioloop_free do not wait for a function that
 *   still runs. The memory of pools is not the loop's allocator's, but that of their own options. See examples/pool.c.
 *
 *
 * ENDING WELL
 *
 *   close waits for the peer to take what is buffered, however long that takes: give it a timer that calls abort. A
 *   server that is to stop gracefully runs on aioloop_server_wait_closed; whatever says that it is time (a signal's
 *   pipe, watched) calls aioloop_server_close and aioloop_server_close_clients, and sets a timer for
 *   aioloop_server_abort_clients.
 *   aioloop_close and aioloop_free call no connection_lost: what a protocol allocated itself is freed there, so end the
 *   connections first. Keep in self what a protocol needs later: arg in the factory, the transport in connection_made.
 *   On io_uring a process that ends without aioloop_free holds its ports some milliseconds longer, until the kernel has
 *   taken the ring apart; a program that is restarted at once frees its loop first, also on SIGTERM.
 *   A system may reset a connection that is closed with unread bytes, and the last bytes written are then lost; to be
 *   sure write_eof, and read to the end.
 *
 *
 * FORK
 *
 *   In the child of a fork the parent's loop must not be used; aioloop_free there gives the memory back and touches
 *   nothing that the parent still uses. Make a new loop. All descriptors of the library are closed by exec. The same holds
 *   for thread pools: the child may only free them.
 *
 *
 * MEMORY
 *
 *   All of it comes from aioloop_config.allocator, else from AIOLOOP_MALLOC and its kin, else malloc. Running out of
 *   it is an error like any other: the call that needs it says AIOLOOP_ENOMEM and has changed nothing. What ends
 *   something (cancel, close, stop, a lost connection, a future's completion) needs none. aioloop_free frees all that
 *   belongs to the loop, whoever still holds it: let no pointer to its futures, transports or servers outlive it.
 *
 *
 * LIMITS
 *
 *   Times are 63 bits of nanoseconds, and sums that are too large mean never. The message of an error is cut at 255
 *   bytes. A Unix path has 107 bytes at most. Sends raise no SIGPIPE. What one thread of the loop does too long, all
 *   wait for: give long work to a thread (aioloop_to_thread).
 */

/* >> src/api/config.h */
/*
 * config.h - the switches, and how the library's functions are declared.
 *
 * Define a switch before the include that also has AIOLOOP_IMPLEMENTATION; the declarations do not depend on any of
 * them, so files compiled with different switches agree.
 *
 *   AIOLOOP_IMPLEMENTATION   in one C or C++ file of the program: compile the library here
 *   AIOLOOP_STATIC           every function is static: a private copy in the file that has the implementation
 *   AIOLOOP_API              how public functions are declared; for example __attribute__((visibility("default")))
 *   AIOLOOP_USE_THREADS      1: loops in several threads, and calls from other threads        (default 1)
 *   AIOLOOP_USE_DEBUG        1: debug mode is compiled in; it is still off until asked for    (default 1)
 *   AIOLOOP_USE_COROUTINES   1: coroutines with a stack of their own; those without are always there   (default 1 where
 *                            a way to switch stacks is known: x86, Arm, AArch64, RISC-V, <ucontext.h>; with AIOLOOP_PORT 0)
 *   AIOLOOP_USE_UCONTEXT     1: they switch by <ucontext.h>, not by assembly                  (default 0)
 *   AIOLOOP_BACKENDS         a sum of AIOLOOP_BACKEND_...: which back ends are compiled in    (default: all
 *                            that the system has)
 *   AIOLOOP_PORT             1: no operating system; the functions of port.h are the user's   (default 0)
 *   AIOLOOP_MALLOC(size), AIOLOOP_REALLOC(pointer, size), AIOLOOP_FREE(pointer)
 *                            all three or none; the default is the C library's
 *   AIOLOOP_DEBUG_SITES      in any including file: calls that make something record file and line, for
 *                            the reports of debug mode
 */
#ifndef AIOLOOP_API_CONFIG_H
#define AIOLOOP_API_CONFIG_H

#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>

#define AIOLOOP_VERSION_MAJOR 0
#define AIOLOOP_VERSION_MINOR 1
#define AIOLOOP_VERSION_PATCH 0
#define AIOLOOP_VERSION "0.1.0"

/* Back ends, for AIOLOOP_BACKENDS. */
#define AIOLOOP_BACKEND_EPOLL 0x01
#define AIOLOOP_BACKEND_POLL 0x02
#define AIOLOOP_BACKEND_SELECT 0x04
#define AIOLOOP_BACKEND_SIM 0x08
#define AIOLOOP_BACKEND_IO_URING 0x10 /* where it is forbidden, the program runs on the next best */

#ifndef AIOLOOP_API
#ifdef AIOLOOP_STATIC
#if defined(__GNUC__)
#define AIOLOOP_API __attribute__((unused)) static
#else
#define AIOLOOP_API static
#endif
#else
#define AIOLOOP_API extern
#endif
#endif

/* What a socket is: see aioloop_socket. */
#ifdef _WIN32
#define AIOLOOP_SOCKET_TYPE intptr_t
#else
#define AIOLOOP_SOCKET_TYPE int
#endif

/* The initialiser that makes every options struct all defaults: {0} in C, {} in C++. */
#ifdef __cplusplus
#define AIOLOOP_ZERO {}
#else
#define AIOLOOP_ZERO {0}
#endif

/* Marks a function whose result must be used. AIOLOOP_PRINTF: arguments are checked as printf's. */
#if defined(__GNUC__)
#define AIOLOOP_MUST_USE __attribute__((warn_unused_result))
#if defined(__MINGW32__) && !defined(__clang__)
#define AIOLOOP_PRINTF(text, first) __attribute__((format(gnu_printf, text, first)))
#else
#define AIOLOOP_PRINTF(text, first) __attribute__((format(printf, text, first)))
#endif
#else
#define AIOLOOP_MUST_USE
#define AIOLOOP_PRINTF(text, first)
#endif

#endif

/* >> src/aioloop.h */
#ifdef __cplusplus
extern "C" {
#endif

/* >> src/api/error.h */
/*
 * error.h - one signed number says everything.                          (asyncio: exceptions.py)
 *
 * A function that can fail returns an int (or int64_t): 0 or above is success, below 0 is one of
 * these codes. The system's errors have Linux's numbers, negated, on every system, so a program can
 * compare and log them without asking where it runs. The library's own start at -20001, the
 * resolver's at -21001. What more there
 * is to say (which address, which argument) is an aioloop_error: see aioloop_last_error and
 * aioloop_future_error.
 */
#ifndef AIOLOOP_API_ERROR_H
#define AIOLOOP_API_ERROR_H

/* X(name, code, text). The system's errors; AIOLOOP_E<name> stands for errno E<name>. */
#define AIOLOOP_SYSTEM_ERRORS(X)                                                                   \
    X(EPERM, -1, "operation not permitted")                                                        \
    X(ENOENT, -2, "no such file or directory")                                                     \
    X(ESRCH, -3, "no such process")                                                                \
    X(EINTR, -4, "interrupted system call")                                                        \
    X(EIO, -5, "input/output error")                                                               \
    X(ENXIO, -6, "no such device or address")                                                      \
    X(E2BIG, -7, "argument list too long")                                                         \
    X(ENOEXEC, -8, "exec format error")                                                            \
    X(EBADF, -9, "bad file descriptor")                                                            \
    X(ECHILD, -10, "no child processes")                                                           \
    X(EAGAIN, -11, "resource temporarily unavailable")                                             \
    X(ENOMEM, -12, "out of memory")                                                                \
    X(EACCES, -13, "permission denied")                                                            \
    X(EFAULT, -14, "bad address")                                                                  \
    X(EBUSY, -16, "device or resource busy")                                                       \
    X(EEXIST, -17, "file exists")                                                                  \
    X(EXDEV, -18, "cross-device link")                                                             \
    X(ENODEV, -19, "no such device")                                                               \
    X(ENOTDIR, -20, "not a directory")                                                             \
    X(EISDIR, -21, "is a directory")                                                               \
    X(EINVAL, -22, "invalid argument")                                                             \
    X(ENFILE, -23, "too many open files in the system")                                            \
    X(EMFILE, -24, "too many open files")                                                          \
    X(ENOTTY, -25, "not a terminal")                                                               \
    X(EFBIG, -27, "file too large")                                                                \
    X(ENOSPC, -28, "no space left on device")                                                      \
    X(ESPIPE, -29, "illegal seek")                                                                 \
    X(EROFS, -30, "read-only file system")                                                         \
    X(EMLINK, -31, "too many links")                                                               \
    X(EPIPE, -32, "broken pipe")                                                                   \
    X(EDOM, -33, "argument out of domain")                                                         \
    X(ERANGE, -34, "result out of range")                                                          \
    X(EDEADLK, -35, "resource deadlock avoided")                                                   \
    X(ENAMETOOLONG, -36, "name too long")                                                          \
    X(ENOSYS, -38, "function not implemented")                                                     \
    X(ENOTEMPTY, -39, "directory not empty")                                                       \
    X(ELOOP, -40, "too many symbolic links")                                                       \
    X(EOVERFLOW, -75, "value too large")                                                           \
    X(EILSEQ, -84, "illegal byte sequence")                                                        \
    X(ENOTSOCK, -88, "not a socket")                                                               \
    X(EDESTADDRREQ, -89, "destination address required")                                           \
    X(EMSGSIZE, -90, "message too long")                                                           \
    X(EPROTOTYPE, -91, "protocol wrong type for socket")                                           \
    X(ENOPROTOOPT, -92, "protocol not available")                                                  \
    X(EPROTONOSUPPORT, -93, "protocol not supported")                                              \
    X(EOPNOTSUPP, -95, "operation not supported")                                                  \
    X(EAFNOSUPPORT, -97, "address family not supported")                                           \
    X(EADDRINUSE, -98, "address already in use")                                                   \
    X(EADDRNOTAVAIL, -99, "cannot assign requested address")                                       \
    X(ENETDOWN, -100, "network is down")                                                           \
    X(ENETUNREACH, -101, "network is unreachable")                                                 \
    X(ENETRESET, -102, "network dropped connection on reset")                                      \
    X(ECONNABORTED, -103, "connection aborted")                                                    \
    X(ECONNRESET, -104, "connection reset by peer")                                                \
    X(ENOBUFS, -105, "no buffer space available")                                                  \
    X(EISCONN, -106, "socket is already connected")                                                \
    X(ENOTCONN, -107, "socket is not connected")                                                   \
    X(ECONNREFUSED, -111, "connection refused")                                                    \
    X(EHOSTUNREACH, -113, "no route to host")                                                      \
    X(EALREADY, -114, "operation already in progress")                                             \
    X(EINPROGRESS, -115, "operation now in progress")

/* X(name, code, text). The library's own. */
#define AIOLOOP_LIBRARY_ERRORS(X)                                                                  \
    X(ECANCELED, -20001, "the operation was cancelled")                                            \
    X(ETIMEDOUT, -20002, "the time-out passed")                                                    \
    X(EINVALIDSTATE, -20003, "the future is not in the state this needs")                          \
    X(EMISUSE, -20004, "the call is not allowed here")                                             \
    X(ECLOSED, -20005, "the loop is closed")                                                       \
    X(ENOTAVAILABLE, -20006, "not available in this build or on this back end")                    \
    X(EFATAL, -20007, "a callback ended the run")                                                  \
    X(ELOOKUP, -20008, "no address was found for the name")                                        \
    X(ESTOPITERATION, -20009, "there is nothing more to come")                                     \
    X(ETASKGROUP, -20010, "tasks of a group failed")                                               \
    X(EINCOMPLETE, -20011, "the stream ended before the number of bytes was there")                \
    X(EOVERRUN, -20012, "the separator was not found within the limit")                            \
    X(EBROKENBARRIER, -20013, "the barrier is broken")                                             \
    X(EQUEUEFULL, -20014, "the queue is full")                                                     \
    X(EQUEUEEMPTY, -20015, "the queue is empty")                                                   \
    X(EQUEUESHUTDOWN, -20016, "the queue was shut down")                                           \
    X(EGENERATOREXIT, -20017, "the generator is being closed")                                     \
    X(EINTERRUPTED, -20018, "the program was interrupted")

/* X(name, code, text). The resolver's, of looking up names. */
#define AIOLOOP_RESOLVER_ERRORS(X)                                                                 \
    X(EAI_ADDRFAMILY, -21001, "the host has no address of this family")                            \
    X(EAI_AGAIN, -21002, "the name server could not be reached for now")                           \
    X(EAI_BADFLAGS, -21003, "invalid flags for a look-up")                                         \
    X(EAI_FAIL, -21004, "the look-up failed for good")                                             \
    X(EAI_FAMILY, -21005, "address family not supported by the look-up")                           \
    X(EAI_NODATA, -21006, "the host has no address")                                               \
    X(EAI_NONAME, -21007, "name or service not known")                                             \
    X(EAI_OVERFLOW, -21008, "the name is too long")                                                \
    X(EAI_SERVICE, -21009, "service not known for this type of socket")                            \
    X(EAI_SOCKTYPE, -21010, "type of socket not supported by the look-up")

#define AIOLOOP_ERRORS(X) AIOLOOP_SYSTEM_ERRORS(X) AIOLOOP_LIBRARY_ERRORS(X) AIOLOOP_RESOLVER_ERRORS(X)

/* AIOLOOP_EPERM ... AIOLOOP_ENOTAVAILABLE. AIOLOOP_ETIMEDOUT is also what the system's time-outs become;
 * AIOLOOP_EINVAL, AIOLOOP_ENOMEM and AIOLOOP_EBADF are also what the library itself answers. */
enum {
#define AIOLOOP_ERROR_CONSTANT(name, code, text) AIOLOOP_##name = (code),
    AIOLOOP_ERRORS(AIOLOOP_ERROR_CONSTANT)
#undef AIOLOOP_ERROR_CONSTANT
    AIOLOOP_OK = 0
};

/* An error with its message: read-only, counted with the future or loop that it was got from. */
typedef struct aioloop_error aioloop_error;

/* The text of a code, for people: "connection refused". Never NULL; a code that is not in the list gives
 * "unknown error". Any thread. The text is the program's for ever. */
AIOLOOP_API const char *aioloop_strerror(int code);

/* The name of a code, for logs: "ECONNREFUSED". Never NULL; "EUNKNOWN" for others. Any thread. */
AIOLOOP_API const char *aioloop_error_name(int code);

/* The code of an error; 0 for NULL. */
AIOLOOP_API int aioloop_error_code(const aioloop_error *error);

/* What went wrong, in a sentence: "connect to 127.0.0.1:80: connection refused". Never NULL: where there was
 * nothing to add it is aioloop_strerror's. Valid as long as the future or loop keeps the error. */
AIOLOOP_API const char *aioloop_error_message(const aioloop_error *error);

/* How many errors this one collects (a connection that failed at every address, with all_errors), and the
 * i-th of them; 0 and NULL for a plain one or an index out of range. */
AIOLOOP_API size_t aioloop_error_count(const aioloop_error *error);
AIOLOOP_API const aioloop_error *aioloop_error_at(const aioloop_error *error, size_t i);

#endif

/* >> src/api/base.h */
/*
 * base.h - time, memory, buffers, and the types that everything shares.
 */
#ifndef AIOLOOP_API_BASE_H
#define AIOLOOP_API_BASE_H

/* An event loop. Made by aioloop_new_event_loop, ended by aioloop_free. It belongs to the thread that runs it first. */
typedef struct aioloop aioloop;

/* Time in nanoseconds: a duration, or a point on a loop's clock (aioloop_now), which is monotonic and starts
 * anywhere. Sums inside the library saturate, so AIOLOOP_FOREVER is later than everything. */
typedef int64_t aioloop_time;

#define AIOLOOP_FOREVER INT64_MAX
/* What AIOLOOP_SECONDS makes of a number that is none (NaN): every call refuses it with AIOLOOP_EINVAL. */
#define AIOLOOP_NOT_A_TIME INT64_MIN

#define AIOLOOP_US(n) ((aioloop_time)(n) * 1000)
#define AIOLOOP_MS(n) ((aioloop_time)(n) * 1000000)
#define AIOLOOP_SECONDS(x) aioloop_seconds(x)

/* Converts seconds, as asyncio has them, to aioloop_time; saturates. Any thread. */
AIOLOOP_API aioloop_time aioloop_seconds(double seconds);

/* A piece of memory to write. */
typedef struct aioloop_buf {
    const void *data;
    size_t size;
} aioloop_buf;

/* An operating system's socket or file descriptor: an int on POSIX, wide enough for a SOCKET on Windows. */
typedef AIOLOOP_SOCKET_TYPE aioloop_socket;

/* Where a loop's memory comes from. One function, as Lua's: new_size 0 frees (pointer may be NULL) and returns
 * NULL; pointer NULL allocates; else resizes. Returns NULL when there is no memory, and then the old block is
 * as it was. Called in the loop's thread, and in others by aioloop_call_soon_threadsafe and the calls of threads.h. */
typedef struct aioloop_allocator {
    void *(*allocate)(void *context, void *pointer, size_t old_size, size_t new_size);
    void *context;
} aioloop_allocator;

/* A plain callback. To fail, it calls aioloop_raise. */
typedef void (*aioloop_callback)(aioloop *loop, void *arg);

/* Remembers where the next object is made (file must live for ever); the macros at the end of the header call
 * it when AIOLOOP_DEBUG_SITES is defined. Any thread. */
AIOLOOP_API void aioloop_site(const char *file, int line);

#endif

/* >> src/api/context.h */
/*
 * context.h - context variables: values that follow the work.       (Python: contextvars)
 *
 * Whatever schedules work (a callback, a timer, a watcher, a done-callback, a connection, a server) captures the
 * values of all variables at that moment, and the work sees them when it runs. What the work changes is seen
 * by itself and by what it schedules, not by its creator. Capturing costs one counter, nothing when no variable
 * was ever set.
 */
#ifndef AIOLOOP_API_CONTEXT_H
#define AIOLOOP_API_CONTEXT_H

/* A variable; usually static. Its address is its identity, so it must outlive every loop that uses it. */
typedef struct aioloop_context_var {
    const char *name;     /* for people */
    void *default_value;  /* what aioloop_context_get answers where it was never set */
} aioloop_context_var;

/* A set of values that can be kept and passed on. Counted. */
typedef struct aioloop_context aioloop_context;

/* The value of a variable in the current context. Any thread. */
AIOLOOP_API void *aioloop_context_get(const aioloop_context_var *var);

/* Sets a variable in the current context. dispose (may be NULL) is called with the value when the last context
 * that holds it is gone, in whichever thread lets go of it. 0, or AIOLOOP_ENOMEM and nothing changed (the value
 * is still the caller's). Any thread. */
AIOLOOP_API int aioloop_context_set(const aioloop_context_var *var, void *value, void (*dispose)(void *value));

/* contextvars.copy_context(): a new context with the values current now, owned by the caller; NULL when there
 * is no memory. Any thread. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_context *aioloop_copy_context(void);

/* Another owner, and one less. Any thread. NULL is ignored. */
AIOLOOP_API void aioloop_context_ref(aioloop_context *context);
AIOLOOP_API void aioloop_context_unref(aioloop_context *context);

/* Context.run: calls fn(arg) now with this context current; what fn sets stays in it. AIOLOOP_EMISUSE if
 * it is entered already: current, or around the one that is current. AIOLOOP_EINVAL for NULL. One thread at a time. */
AIOLOOP_API int aioloop_context_run(aioloop_context *context, void (*fn)(void *arg), void *arg);

#endif

/* >> src/api/loop.h */
/*
 * loop.h - the event loop: running, scheduling, watching, and what happens to errors.
 *                                                              (asyncio: events.py, base_events.py)
 *
 * Unless a comment says otherwise a function is for the loop's own thread: the one that runs it, or, while it
 * does not run, the one that owns it. A NULL loop is answered with AIOLOOP_EINVAL (or NULL, false, a null handle).
 */
#ifndef AIOLOOP_API_LOOP_H
#define AIOLOOP_API_LOOP_H

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
 * AIOLOOP_EMISUSE if a transport owns it; AIOLOOP_ENOMEM; AIOLOOP_ECLOSED. */
AIOLOOP_API int aioloop_add_reader(aioloop *loop, aioloop_socket fd, aioloop_callback fn, void *arg);
AIOLOOP_API int aioloop_add_writer(aioloop *loop, aioloop_socket fd, aioloop_callback fn, void *arg);

/* loop.remove_reader(), loop.remove_writer(): 1 if there was such a watcher, 0 if not (also on a closed loop). Its
 * callback does not run any more, even if its event was found already. AIOLOOP_EMISUSE if a transport owns fd. */
AIOLOOP_API int aioloop_remove_reader(aioloop *loop, aioloop_socket fd);
AIOLOOP_API int aioloop_remove_writer(aioloop *loop, aioloop_socket fd);

/* ---- errors ---- */

/* Raises: stores code with a message and returns code. In a callback that returns nothing, the last raise before it
 * returns is its error, and goes where Python's exception would. In one that returns a code, return what this returns.
 * AIOLOOP_EFATAL ends the run. code must be negative, else it becomes AIOLOOP_EINVAL. The message is cut at 255 bytes;
 * format NULL: none. loop NULL: the message is for aioloop_last_error(NULL), and for the future of a function that
 * runs in a thread pool. */
AIOLOOP_API int aioloop_raise(aioloop *loop, int code, const char *format, ...) AIOLOOP_PRINTF(3, 4);

/* The error of the last failed call on this loop that had something to say, or of the last awaited future; loop NULL:
 * of the last call in this thread that had no loop to tell (aioloop_new_event_loop). Valid until the next call that
 * fails. Never NULL; its code is 0 if nothing failed yet. */
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

/* >> src/api/future.h */
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

/* >> src/api/task.h */
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
 * Returns what fn returned, with its message in aioloop_last_error(NULL); AIOLOOP_EMISUSE inside a running loop; or
 * the error of making the loop. What else the loop had is gone then: nothing of it may be in the result. */
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

/* >> src/api/sync.h */
/*
 * sync.h - locks and their kin, for the tasks of one loop.                           (asyncio: locks.py)
 *
 * They order tasks, not threads: all calls are made in the loop's thread. Each object has one owner, who made it and
 * frees it; what was not freed goes with the loop (aioloop_free), and must not be used after that. Freeing one cancels
 * the futures of those who still wait.
 *
 * Those who wait are served in the order in which they came, and nobody overtakes them. A future that is cancelled
 * leaves the line. What was handed over to a task that was cancelled before it went on (or to a future that was
 * dropped) goes to the next in line. A lock or a place among n that a future stands for is taken by reading it
 * (aioloop_await, aioloop_future_result) and must then be released.
 *
 * There is no time-out here: aioloop_wait_for and aioloop_timeout_enter are for all futures alike.
 *
 * Every call answers AIOLOOP_EINVAL for NULL. Once the loop is closed acquiring and waiting answer AIOLOOP_ECLOSED,
 * releasing, setting and asking go on, and those who waited wait for ever. In debug mode calls from a wrong thread are
 * AIOLOOP_EMISUSE.
 */
#ifndef AIOLOOP_API_SYNC_H
#define AIOLOOP_API_SYNC_H

/* ---- Lock ---- */

typedef struct aioloop_lock aioloop_lock;

/* asyncio.Lock(). NULL, and aioloop_last_error: AIOLOOP_ENOMEM, AIOLOOP_ECLOSED; so for all that follow. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_lock *aioloop_lock_new(aioloop *loop);

/* Those who wait are cancelled. Needs no memory. NULL is ignored. */
AIOLOOP_API void aioloop_lock_free(aioloop_lock *lock);

/* Lock.acquire(): done, with 0, when the lock is the caller's; at once if it is free. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_lock_acquire(aioloop_lock *lock);

/* The same without waiting and without memory: 0, or AIOLOOP_EAGAIN if it is held. */
AIOLOOP_API int aioloop_lock_acquire_nowait(aioloop_lock *lock);

/* Lock.release(): hands it to the first who waits. Needs no memory. AIOLOOP_EMISUSE if it is not held; it does not
 * matter who holds it. */
AIOLOOP_API int aioloop_lock_release(aioloop_lock *lock);

/* Lock.locked(). False for NULL. */
AIOLOOP_API bool aioloop_lock_locked(const aioloop_lock *lock);

/* ---- Event ---- */

typedef struct aioloop_event aioloop_event;

/* asyncio.Event(), not set. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_event *aioloop_event_new(aioloop *loop);
AIOLOOP_API void aioloop_event_free(aioloop_event *event);

/* Event.set(): everyone who waits goes on, also if it is cleared right after. Event.clear(). Event.is_set(). Need no
 * memory. */
AIOLOOP_API int aioloop_event_set(aioloop_event *event);
AIOLOOP_API int aioloop_event_clear(aioloop_event *event);
AIOLOOP_API bool aioloop_event_is_set(const aioloop_event *event);

/* Event.wait(): done, with 0, when it is set; at once if it is. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_event_wait(aioloop_event *event);

/* ---- Condition ---- */

typedef struct aioloop_condition aioloop_condition;

/* asyncio.Condition(lock). lock NULL: one of its own; else it must live longer than the condition, and may serve
 * several. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_condition *aioloop_condition_new(aioloop *loop, aioloop_lock *lock);

/* Those who wait are cancelled; if the lock is not the condition's own, each of them as soon as it has it again. */
AIOLOOP_API void aioloop_condition_free(aioloop_condition *condition);

/* Those of its lock. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_condition_acquire(aioloop_condition *condition);
AIOLOOP_API int aioloop_condition_acquire_nowait(aioloop_condition *condition);
AIOLOOP_API int aioloop_condition_release(aioloop_condition *condition);
AIOLOOP_API bool aioloop_condition_locked(const aioloop_condition *condition);

/* Condition.wait(): releases the lock, and is done, with 0, when it was notified and has the lock again. However it
 * ends, the caller has the lock then, also when it is told AIOLOOP_ECANCELED: cancelling takes until the lock is free.
 * Only a call that fails at once (AIOLOOP_EMISUSE if the lock is not held, AIOLOOP_ENOMEM) leaves all as it was. A
 * notification that comes to a task that is cancelled goes on to the next. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_condition_wait(aioloop_condition *condition);

/* Condition.wait_for(): waits until predicate(arg) answers something else than 0, which is the result; below 0 the wait
 * has failed with that code. The predicate is asked at once, and by a task of its own with the lock held as that begins
 * and after each notification; it may not wait. Otherwise as aioloop_condition_wait. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_condition_wait_for(aioloop_condition *condition,
                                                                        int64_t (*predicate)(void *arg), void *arg);

/* Condition.notify(n), notify_all(): the first n of those who wait, or all of them, go on as the lock becomes free.
 * Need no memory. AIOLOOP_EMISUSE if the lock is not held. */
AIOLOOP_API int aioloop_condition_notify(aioloop_condition *condition, size_t n);
AIOLOOP_API int aioloop_condition_notify_all(aioloop_condition *condition);

/* ---- Semaphore, BoundedSemaphore ---- */

typedef struct aioloop_semaphore aioloop_semaphore;

/* asyncio.Semaphore(value): lets value in. asyncio.BoundedSemaphore(value): and refuses a release above that.
 * AIOLOOP_EINVAL for a negative value. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_semaphore *aioloop_semaphore_new(aioloop *loop, int64_t value);
AIOLOOP_API AIOLOOP_MUST_USE aioloop_semaphore *aioloop_bounded_semaphore_new(aioloop *loop, int64_t value);
AIOLOOP_API void aioloop_semaphore_free(aioloop_semaphore *semaphore);

/* Semaphore.acquire(), and without waiting (AIOLOOP_EAGAIN), as those of a lock. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_semaphore_acquire(aioloop_semaphore *semaphore);
AIOLOOP_API int aioloop_semaphore_acquire_nowait(aioloop_semaphore *semaphore);

/* Semaphore.release(): lets one more in. Needs no memory. AIOLOOP_EINVAL for a bounded one that is at its value
 * already. */
AIOLOOP_API int aioloop_semaphore_release(aioloop_semaphore *semaphore);

/* Semaphore.locked(): true if acquiring would wait. */
AIOLOOP_API bool aioloop_semaphore_locked(const aioloop_semaphore *semaphore);

/* ---- Barrier ---- */

typedef struct aioloop_barrier aioloop_barrier;

/* asyncio.Barrier(parties). AIOLOOP_EINVAL if parties is below 1. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_barrier *aioloop_barrier_new(aioloop *loop, int parties);
AIOLOOP_API void aioloop_barrier_free(aioloop_barrier *barrier);

/* Barrier.wait(): done when as many wait as there are parties; its number says which of them this is, from 0 to parties
 * - 1 in the order of their coming. AIOLOOP_EBROKENBARRIER if the barrier is broken, or is broken or reset meanwhile.
 * One that is cancelled is not counted any more. Those who were let through are not affected by what happens to the
 * barrier later, and it fills anew at once; asyncio waits until all of them have run. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_barrier_wait(aioloop_barrier *barrier);

/* Barrier.reset(): those who wait fail, and the barrier is empty and whole again. Barrier.abort(): those who wait fail,
 * and all that come later, until it is reset. Plain calls, not coroutines as asyncio's. */
AIOLOOP_API int aioloop_barrier_reset(aioloop_barrier *barrier);
AIOLOOP_API int aioloop_barrier_abort(aioloop_barrier *barrier);

/* Barrier.parties, n_waiting, broken. 0 and false for NULL. */
AIOLOOP_API int aioloop_barrier_parties(const aioloop_barrier *barrier);
AIOLOOP_API int aioloop_barrier_n_waiting(const aioloop_barrier *barrier);
AIOLOOP_API bool aioloop_barrier_broken(const aioloop_barrier *barrier);

#endif

/* >> src/api/queue.h */
/*
 * queue.h - queues between the tasks of one loop.                                   (asyncio: queues.py)
 *
 * An item is a pointer. What sync.h says of owners, of the order of those who wait and of a closed loop holds here too.
 * aioloop_close ends all items that are in the queue.
 */
#ifndef AIOLOOP_API_QUEUE_H
#define AIOLOOP_API_QUEUE_H

/* asyncio.Queue, LifoQueue, PriorityQueue. */
typedef enum aioloop_queue_kind { AIOLOOP_QUEUE_FIFO, AIOLOOP_QUEUE_LIFO, AIOLOOP_QUEUE_PRIORITY } aioloop_queue_kind;

/* All zero: asyncio's defaults. */
typedef struct aioloop_queue_options {
    aioloop_queue_kind kind;
    int64_t maxsize; /* 0 or less: unbounded */
    /* For AIOLOOP_QUEUE_PRIORITY: below 0 if a comes out before b, as qsort's; equal ones come out in the order they
     * were put. It must not call the library. */
    int (*compare)(const void *a, const void *b);
} aioloop_queue_options;

typedef struct aioloop_queue aioloop_queue;

/* asyncio.Queue(maxsize) and its kin. options may be NULL. NULL, and aioloop_last_error: AIOLOOP_ENOMEM,
 * AIOLOOP_ECLOSED; AIOLOOP_EINVAL for an unknown kind, or priority without compare. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_queue *aioloop_queue_new(aioloop *loop, const aioloop_queue_options *options);

/* Cancels those who wait, and disposes of the items. Needs no memory. NULL is ignored. */
AIOLOOP_API void aioloop_queue_free(aioloop_queue *queue);

/* Queue.put(): done, with 0, when the item is in the queue; at once if there is room. From the call on the item is the
 * queue's: dispose (may be NULL) is called with it if it is not put, because this failed or was cancelled (then when
 * its future goes), or if nobody gets it. A task that is told AIOLOOP_ECANCELED does not know whether it was put.
 * AIOLOOP_EQUEUESHUTDOWN. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_queue_put(aioloop_queue *queue, void *item,
                                                               void (*dispose)(void *item));

/* Queue.put_nowait(): 0, or AIOLOOP_EQUEUEFULL, AIOLOOP_EQUEUESHUTDOWN, AIOLOOP_ENOMEM, and then the item is still the
 * caller's. Needs no memory but the queue's own, which grows. */
AIOLOOP_API int aioloop_queue_put_nowait(aioloop_queue *queue, void *item, void (*dispose)(void *item));

/* Queue.get(): done, with the item as its pointer, when there is one. Reading the result takes the item, so give it an
 * `out`. One that a cancelled task did not take goes back to where it was, also if the queue is then longer than
 * maxsize. AIOLOOP_EQUEUESHUTDOWN if the queue is shut down and empty. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_queue_get(aioloop_queue *queue);

/* Queue.get_nowait(): 0, with the item at out (the address of an object pointer); or AIOLOOP_EQUEUEEMPTY,
 * AIOLOOP_EQUEUESHUTDOWN. Needs no memory. AIOLOOP_EINVAL if out is NULL. */
AIOLOOP_API int aioloop_queue_get_nowait(aioloop_queue *queue, void *out);

/* Queue.task_done(): an item that was got is dealt with. AIOLOOP_EINVAL if called more often than items were put. */
AIOLOOP_API int aioloop_queue_task_done(aioloop_queue *queue);

/* Queue.join(): done, with 0, when aioloop_queue_task_done was called for every item put. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_queue_join(aioloop_queue *queue);

/* Queue.shutdown(): from now on putting fails, also for those who wait for room; getting fails when the queue is empty.
 * immediate: the items in it are disposed of, and count as done. Needs no memory. */
AIOLOOP_API int aioloop_queue_shutdown(aioloop_queue *queue, bool immediate);

/* Queue.qsize(), maxsize (0: unbounded), empty(), full(). 0 and false for NULL, which is empty. */
AIOLOOP_API size_t aioloop_queue_qsize(const aioloop_queue *queue);
AIOLOOP_API int64_t aioloop_queue_maxsize(const aioloop_queue *queue);
AIOLOOP_API bool aioloop_queue_empty(const aioloop_queue *queue);
AIOLOOP_API bool aioloop_queue_full(const aioloop_queue *queue);

#endif

/* >> src/api/generator.h */
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

/* >> src/api/threads.h */
/*
 * threads.h - coroutines for a loop from other threads.          (asyncio: tasks.py, futures.py; concurrent.futures)
 *
 * A concurrent future is a result that threads can wait for. Every function here may be called in any thread, unless it
 * says otherwise. Built with AIOLOOP_USE_THREADS 0, or without an operating system, they answer AIOLOOP_ENOTAVAILABLE.
 */
#ifndef AIOLOOP_API_THREADS_H
#define AIOLOOP_API_THREADS_H

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

/* >> src/api/executor.h */
/*
 * executor.h - functions that block, run in other threads.       (asyncio: run_in_executor, to_thread; concurrent.futures)
 *
 * A pool of threads belongs to no loop: any number of loops may use one. Its threads are made when there is work and
 * no idle one, and stay until it is shut down. There are no pools of processes: a subprocess of your own does it.
 *
 * Built with AIOLOOP_USE_THREADS 0, or without an operating system, there are no pools: aioloop_thread_pool_new and
 * the futures of the calls that need one say AIOLOOP_ENOTAVAILABLE.
 */
#ifndef AIOLOOP_API_EXECUTOR_H
#define AIOLOOP_API_EXECUTOR_H

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

/* >> src/api/net.h */
/*
 * net.h - addresses.
 */
#ifndef AIOLOOP_API_NET_H
#define AIOLOOP_API_NET_H

typedef enum aioloop_family {
    AIOLOOP_UNSPEC = 0,
    AIOLOOP_INET = 4,
    AIOLOOP_INET6 = 6,
    AIOLOOP_UNIX = 1
} aioloop_family;

/* The address of a socket: a plain value, the same on every system. */
typedef struct aioloop_address {
    uint16_t family;      /* aioloop_family; AIOLOOP_UNSPEC: none */
    uint16_t port;        /* in the machine's byte order */
    uint32_t scope_id;    /* IPv6: the interface; else 0 */
    uint32_t path_size;   /* Unix: bytes of the path, 0 for a socket without a name */
    uint32_t reserved;
    union {
        uint8_t ip[16];   /* network byte order; IPv4 uses the first four */
        const char *path; /* Unix: not ended by a zero; starts with a zero byte in the abstract name space. Borrowed. */
    } u;
} aioloop_address;

/* Makes an address of a numeric host ("127.0.0.1", "::1"; no zone) and a port (0 to 65535). 0, or AIOLOOP_EINVAL and
 * *address as it was: not numeric, or the port out of range. Any thread. */
AIOLOOP_API int aioloop_address_parse(aioloop_address *address, const char *host, int port);

/* Makes the address of a Unix socket; size 0: path ends with a zero. Keeps the pointer. AIOLOOP_ENAMETOOLONG above 107
 * bytes, AIOLOOP_EINVAL for NULL or an empty path. Any thread. */
AIOLOOP_API int aioloop_address_unix(aioloop_address *address, const char *path, size_t size);

/* Writes an address as people do ("127.0.0.1:80", "[::1]:80", "/run/x", "@abstract") to text, always ended by a zero,
 * cut if it does not fit. Returns the length it needs, without the zero. Any thread. */
AIOLOOP_API size_t aioloop_address_format(const aioloop_address *address, char *text, size_t size);

/* Writes the numeric host alone. Returns as aioloop_address_format does. Any thread. */
AIOLOOP_API size_t aioloop_address_host(const aioloop_address *address, char *text, size_t size);

/* True if both name the same address. Any thread. */
AIOLOOP_API bool aioloop_address_equal(const aioloop_address *a, const aioloop_address *b);

#endif

/* >> src/api/resolve.h */
/*
 * resolve.h - names to addresses, and back.               (asyncio: base_events.getaddrinfo, getnameinfo; socket)
 *
 * A look-up blocks, so it runs in threads of the loop's own that do nothing else: slow ones hold up neither the
 * executors nor, unless there are very many, each other. One that is cancelled is given up at once, whatever the system
 * is waiting for; what it answers later is dropped, and neither aioloop_close nor the end of the program waits for it.
 *
 * Built with AIOLOOP_USE_THREADS 0, or without an operating system, the futures say AIOLOOP_ENOTAVAILABLE, unless
 * aioloop_set_resolver brings a resolver.
 */
#ifndef AIOLOOP_API_RESOLVE_H
#define AIOLOOP_API_RESOLVE_H

/* socket.SOCK_...: the same numbers on every system. */
typedef enum aioloop_socket_type {
    AIOLOOP_SOCK_ANY = 0,
    AIOLOOP_SOCK_STREAM = 1,
    AIOLOOP_SOCK_DGRAM = 2,
    AIOLOOP_SOCK_RAW = 3,
    AIOLOOP_SOCK_SEQPACKET = 5
} aioloop_socket_type;

/* socket.AI_..., for aioloop_getaddrinfo. */
enum {
    AIOLOOP_AI_PASSIVE = 1,     /* without a host: every interface, for a server; else the loopback */
    AIOLOOP_AI_CANONNAME = 2,
    AIOLOOP_AI_NUMERICHOST = 4, /* look nothing up: AIOLOOP_EAI_NONAME for a name */
    AIOLOOP_AI_NUMERICSERV = 8,
    AIOLOOP_AI_V4MAPPED = 16,
    AIOLOOP_AI_ALL = 32,
    AIOLOOP_AI_ADDRCONFIG = 64  /* only families that an interface has */
};

/* socket.NI_..., for aioloop_getnameinfo. */
enum {
    AIOLOOP_NI_NUMERICHOST = 1,
    AIOLOOP_NI_NUMERICSERV = 2,
    AIOLOOP_NI_NOFQDN = 4,   /* a local host's name without the domain */
    AIOLOOP_NI_NAMEREQD = 8, /* AIOLOOP_EAI_NONAME instead of a number */
    AIOLOOP_NI_DGRAM = 16    /* the service of UDP, where it differs */
};

/* One way to reach a host. */
typedef struct aioloop_addrinfo {
    aioloop_address address;
    int type;              /* aioloop_socket_type */
    int protocol;          /* 6: TCP, 17: UDP; 0: the usual one */
    const char *canonname; /* with AIOLOOP_AI_CANONNAME in the first; else NULL */
} aioloop_addrinfo;

/* What is looked for; all zero: everything. */
typedef struct aioloop_getaddrinfo_options {
    int family;     /* aioloop_family: AIOLOOP_UNSPEC, AIOLOOP_INET or AIOLOOP_INET6 */
    int type;       /* aioloop_socket_type; AIOLOOP_SOCK_ANY: an entry for each */
    int protocol;   /* 0: any */
    unsigned flags; /* a sum of AIOLOOP_AI_... */
} aioloop_getaddrinfo_options;

/* loop.getaddrinfo(): the addresses of a host and a service ("http", "80"), either of which may be NULL, as the
 * system's getaddrinfo finds and orders them. Both are copied, options may be NULL. The future's number is how many
 * there are, its pointer the array, an aioloop_addrinfo *; who takes it frees it with aioloop_freeaddrinfo. In the
 * loop's thread. Cancelling gives the look-up up at once.
 *
 * It fails with AIOLOOP_EAI_... and the resolver's text, or the system's error; AIOLOOP_EINVAL for a host or service of
 * more than 255 bytes and unknown families, types or flags; AIOLOOP_EAI_NONAME when both are NULL; the error of
 * starting a thread. Static failed futures: AIOLOOP_ECLOSED, AIOLOOP_ENOMEM, AIOLOOP_EINVAL (no loop),
 * AIOLOOP_ENOTAVAILABLE. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_getaddrinfo(aioloop *loop, const char *host, const char *service,
                                                                 const aioloop_getaddrinfo_options *options);

/* Frees what aioloop_getaddrinfo or aioloop_addrinfo_copy gave. NULL is ignored. Any thread. */
AIOLOOP_API void aioloop_freeaddrinfo(void *list);

/* An array such as aioloop_getaddrinfo gives, for resolvers of your own: items and their names are copied, into memory
 * that aioloop_freeaddrinfo frees. NULL when there is none. Any thread. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_addrinfo *aioloop_addrinfo_copy(const aioloop_addrinfo *items, size_t count);

/* Host and service of an address, in one block. */
typedef struct aioloop_nameinfo {
    const char *host;
    const char *service;
} aioloop_nameinfo;

/* loop.getnameinfo(): the names of an address of the internet, flags a sum of AIOLOOP_NI_.... The future's pointer is an
 * aioloop_nameinfo *, its number 0; who takes it frees it with aioloop_freenameinfo. As aioloop_getaddrinfo;
 * AIOLOOP_EAI_FAMILY for other addresses. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_getnameinfo(aioloop *loop, const aioloop_address *address, unsigned flags);

/* Frees what aioloop_getnameinfo gave. NULL is ignored. Any thread. */
AIOLOOP_API void aioloop_freenameinfo(void *names);

/* A resolver of your own: called in the loop's thread for each look-up of addresses, with arguments that were checked
 * and that it must copy if it needs them later. Returns a future as aioloop_getaddrinfo does (aioloop_create_operation
 * makes one), which it completes with aioloop_future_set_result(future, count, list, aioloop_freeaddrinfo), list being
 * made by aioloop_addrinfo_copy; never NULL. Of each item the family, the numeric address, port and scope count. */
typedef aioloop_future *(*aioloop_resolver)(aioloop *loop, void *arg, const char *host, const char *service,
                                            const aioloop_getaddrinfo_options *options);

/* What this loop's aioloop_getaddrinfo, and all that connects or listens by name, asks from now on instead of the
 * system; NULL: the system again. (asyncio: a loop of one's own with another getaddrinfo.) 0, AIOLOOP_EINVAL,
 * AIOLOOP_ECLOSED. */
AIOLOOP_API int aioloop_set_resolver(aioloop *loop, aioloop_resolver resolver, void *arg);

#endif

/* >> src/api/transport.h */
/*
 * transport.h - connections: protocols, which are told, and transports, which are asked.
 *                                                       (asyncio: protocols.py, transports.py)
 *
 * Every function here is for the loop's own thread, and none waits; another thread asks for it with
 * aioloop_call_soon_threadsafe.
 *
 * A transport is counted. The loop holds one reference from connection_made until connection_lost has returned; the
 * functions that make a transport give another to whoever takes their result. While you hold a reference every function
 * here is safe, also after the loss.
 */
#ifndef AIOLOOP_API_TRANSPORT_H
#define AIOLOOP_API_TRANSPORT_H

typedef struct aioloop_ssl_context aioloop_ssl_context;

/* A protocol: asyncio's methods, each may be NULL. Must outlive its transports; usually static const. self is the
 * connection's own memory of instance_size bytes (zeroed, in the transport's block, freed with the transport), or, with
 * instance_size 0, the arg given to the call that made the connection. The calls come in this order: connection_made
 * once; data (or get_buffer and buffer_updated), pause_writing and resume_writing; eof_received at most once;
 * connection_lost once; nothing after it. Any of them may call anything on the transport. To fail, they call
 * aioloop_raise. */
struct aioloop_protocol {
    size_t instance_size;
    /* protocol_factory: prepares self. Below 0: the connection is given up; for a client that is the call's error. */
    int (*factory)(void *self, void *arg);
    void (*connection_made)(aioloop_transport *transport, void *self);
    /* data is the library's, valid during the call. */
    void (*data_received)(aioloop_transport *transport, void *self, const void *data, size_t size);
    /* The peer sends no more. True: keep the connection open for writing. NULL or false: it closes. */
    bool (*eof_received)(aioloop_transport *transport, void *self);
    /* error: 0 after an end, a close or an abort; else the code that ended the connection. */
    void (*connection_lost)(aioloop_transport *transport, void *self, int error);
    /* Called inside the write (or the call that set the marks) that went above the high mark; must not wait. */
    void (*pause_writing)(aioloop_transport *transport, void *self);
    void (*resume_writing)(aioloop_transport *transport, void *self);
    /* BufferedProtocol: with get_buffer set, data_received is not called. Stores where to read to at buffer and returns
     * how many bytes fit; hint is how many are likely (0: unknown). The buffer is used at once, never kept. Returning 0
     * ends the connection with AIOLOOP_EINVAL. */
    size_t (*get_buffer)(aioloop_transport *transport, void *self, size_t hint, void **buffer);
    void (*buffer_updated)(aioloop_transport *transport, void *self, size_t size);
};

/* ---- opening connections ---- */

/* Options of aioloop_create_connection; all zero: asyncio's defaults. */
typedef struct aioloop_connection_options {
    const aioloop_socket *sock;     /* a connected stream socket instead of host and port; the loop's from then on, also
                                     * if the call fails after it was accepted as valid */
    int family;                     /* aioloop_family: only addresses of this one; not with sock */
    const char *local_host;         /* bind to this numeric address (or "localhost") first; NULL: no, or, with
                                     * local_port, to that port of every address; not with sock */
    int local_port;                 /* 0: any; not with sock */
    bool all_errors;                /* the error collects the one of each address, also if it is only one */
    aioloop_ssl_context *ssl;       /* TLS; AIOLOOP_ENOTAVAILABLE without AIOLOOP_USE_TLS */
    const char *server_hostname;    /* with ssl only */
    aioloop_time ssl_handshake_timeout;
    aioloop_time ssl_shutdown_timeout;
    aioloop_time timeout;           /* past it the call fails with AIOLOOP_ETIMEDOUT; 0: none */
} aioloop_connection_options;

/* loop.create_connection(): connects to host (a numeric address or "localhost"; names need the resolver and answer
 * AIOLOOP_ENOTAVAILABLE) and port. The future's pointer is the aioloop_transport (asyncio gives the pair; see
 * aioloop_transport_get_protocol), its number 0. connection_made has returned when it is done. Cancelling it closes the
 * socket. Fails with AIOLOOP_EINVAL (arguments that contradict each other), AIOLOOP_EMISUSE (a sock that another
 * transport or a watcher has), the error of the connect, the factory's, AIOLOOP_ETIMEDOUT, AIOLOOP_ENOMEM. protocol is
 * kept, arg passed on, the rest copied. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_create_connection(aioloop *loop, const aioloop_protocol *protocol,
                                                                       void *arg, const char *host, int port,
                                                                       const aioloop_connection_options *options);

typedef struct aioloop_unix_connection_options {
    const aioloop_socket *sock; /* a connected Unix stream socket instead of path; as above */
    size_t path_size;           /* bytes of path; 0: it ends with a zero. Needed for the abstract name space. */
    aioloop_ssl_context *ssl;
    const char *server_hostname;
    aioloop_time ssl_handshake_timeout;
    aioloop_time ssl_shutdown_timeout;
    aioloop_time timeout;
} aioloop_unix_connection_options;

/* loop.create_unix_connection(): connects to a Unix stream socket. As aioloop_create_connection. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *
aioloop_create_unix_connection(aioloop *loop, const aioloop_protocol *protocol, void *arg, const char *path,
                               const aioloop_unix_connection_options *options);

typedef struct aioloop_accepted_socket_options {
    aioloop_ssl_context *ssl;
    aioloop_time ssl_handshake_timeout;
    aioloop_time ssl_shutdown_timeout;
    aioloop_time timeout;
} aioloop_accepted_socket_options;

/* loop.connect_accepted_socket(): makes a connection of a stream socket accepted elsewhere. The socket is the loop's
 * once it was accepted as valid. As aioloop_create_connection. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *
aioloop_connect_accepted_socket(aioloop *loop, const aioloop_protocol *protocol, void *arg, aioloop_socket sock,
                                const aioloop_accepted_socket_options *options);

/* ---- transports ---- */

/* One owner more, and one less. NULL is ignored. */
AIOLOOP_API aioloop_transport *aioloop_transport_ref(aioloop_transport *transport);
AIOLOOP_API void aioloop_transport_unref(aioloop_transport *transport);

/* The loop the transport lives on. */
AIOLOOP_API aioloop *aioloop_transport_get_loop(const aioloop_transport *transport);

/* WriteTransport.write(): sends size bytes after all that was written before. Never waits; the bytes may be reused when
 * it returns. 0: they are sent, kept to be sent, or dropped because the connection is closing or lost (the fifth such
 * write is logged). AIOLOOP_EMISUSE after aioloop_transport_write_eof; AIOLOOP_ENOMEM: nothing was taken;
 * AIOLOOP_EINVAL for NULL. */
AIOLOOP_API int aioloop_transport_write(aioloop_transport *transport, const void *data, size_t size);

/* WriteTransport.writelines(): the same for several pieces, all or none. */
AIOLOOP_API int aioloop_transport_writelines(aioloop_transport *transport, const aioloop_buf *pieces, size_t count);

/* The same without a copy: data is lent until release(data, size, arg) is called, once, by the loop: when all of it is
 * sent, when the connection is lost, or when the loop is closed. On an error nothing is lent and release is not called;
 * beyond write's errors these are AIOLOOP_ENOTCONN on a closing or lost transport and AIOLOOP_ECLOSED on a closed loop.
 * AIOLOOP_EINVAL for a NULL data or release. Not in asyncio. */
AIOLOOP_API int aioloop_transport_write_owned(aioloop_transport *transport, const void *data, size_t size,
                                              void (*release)(const void *data, size_t size, void *arg), void *arg);

/* WriteTransport.write_eof(): sends what is buffered and then the end of the stream; receiving goes on. 0, also when
 * repeated; AIOLOOP_ENOTAVAILABLE where aioloop_transport_can_write_eof is false. */
AIOLOOP_API int aioloop_transport_write_eof(aioloop_transport *transport);
AIOLOOP_API bool aioloop_transport_can_write_eof(const aioloop_transport *transport);

/* WriteTransport.set_write_buffer_limits(): the marks of the write buffer in bytes, -1: not given. Both not given: 64
 * KiB and 16 KiB; one given: low is a quarter of high. AIOLOOP_EINVAL, and nothing changed, below -1 or with low above
 * high. Pauses the protocol at once if more than high is buffered. */
AIOLOOP_API int aioloop_transport_set_write_buffer_limits(aioloop_transport *transport, int64_t high, int64_t low);

/* WriteTransport.get_write_buffer_limits(): each pointer may be NULL. */
AIOLOOP_API void aioloop_transport_get_write_buffer_limits(const aioloop_transport *transport, size_t *low, size_t *high);

/* WriteTransport.get_write_buffer_size(): the bytes that were written but that the system has not taken yet: for want
 * of room, or because they are to leave together with others, when the callback ends or with the next wait. */
AIOLOOP_API size_t aioloop_transport_get_write_buffer_size(const aioloop_transport *transport);

/* ReadTransport: nothing is delivered between pause_reading() and resume_reading(). Both may be repeated, and do
 * nothing on a closing transport. */
AIOLOOP_API void aioloop_transport_pause_reading(aioloop_transport *transport);
AIOLOOP_API void aioloop_transport_resume_reading(aioloop_transport *transport);
AIOLOOP_API bool aioloop_transport_is_reading(const aioloop_transport *transport);

/* BaseTransport.close(): no more data is delivered; what is buffered is sent, then connection_lost comes with 0.
 * WriteTransport.abort(): the same, but what is buffered is dropped. Both may be repeated. */
AIOLOOP_API void aioloop_transport_close(aioloop_transport *transport);
AIOLOOP_API void aioloop_transport_abort(aioloop_transport *transport);

/* BaseTransport.is_closing(): true from the first close, abort, fatal error, or end that closed it. */
AIOLOOP_API bool aioloop_transport_is_closing(const aioloop_transport *transport);

/* BaseTransport.set_protocol(): from now on protocol gets every call, with self. Its instance_size and factory are not
 * used; the old self stays in the transport's memory. AIOLOOP_EINVAL for NULL. */
AIOLOOP_API int aioloop_transport_set_protocol(aioloop_transport *transport, const aioloop_protocol *protocol, void *self);

/* BaseTransport.get_protocol(): the protocol, with its self stored at self unless that is NULL. */
AIOLOOP_API const aioloop_protocol *aioloop_transport_get_protocol(const aioloop_transport *transport, void **self);

/* BaseTransport.get_extra_info(): "peername" and "sockname" give a const aioloop_address *, kept after the loss;
 * "socket" gives a const aioloop_socket *, for looking and for options only (not for reading, writing, closing or
 * blocking), fallback after the loss. Unknown names give fallback. The pointer is valid as long as the transport. */
AIOLOOP_API const void *aioloop_transport_get_extra_info(const aioloop_transport *transport, const char *name,
                                                         const void *fallback);

#endif

/* >> src/api/server.h */
/*
 * server.h - listening.                                        (asyncio: base_events.Server)
 *
 * Every function here is for the loop's own thread, and none waits.
 *
 * A server is counted. The loop holds one reference while it is open or a connection of it lives; the functions that
 * make one give another to whoever takes their result. Dropping yours does not stop it.
 */
#ifndef AIOLOOP_API_SERVER_H
#define AIOLOOP_API_SERVER_H

/* Options of aioloop_create_server; all zero: asyncio's defaults. */
typedef struct aioloop_server_options {
    const char *const *hosts;   /* several hosts instead of one, with host NULL */
    size_t host_count;
    const aioloop_socket *sock; /* a bound stream socket instead of host and port; the loop's once accepted as valid.
                                 * What says "not with sock" gives AIOLOOP_EINVAL with it: its options are yours. */
    int family;                 /* aioloop_family: only addresses of this one; not with sock */
    int backlog;                /* 0: 100. Also how many connections are accepted in one iteration. */
    bool no_reuse_address;      /* do not set SO_REUSEADDR; not with sock */
    bool reuse_port;            /* set SO_REUSEPORT on inet sockets; AIOLOOP_EINVAL without such; not with sock */
    bool keep_alive;            /* set SO_KEEPALIVE, also on the connections; not with sock */
    bool defer_serving;         /* start_serving=False: bind, but listen only on aioloop_server_start_serving */
    aioloop_ssl_context *ssl;   /* TLS; AIOLOOP_ENOTAVAILABLE without AIOLOOP_USE_TLS */
    aioloop_time ssl_handshake_timeout; /* with ssl only */
    aioloop_time ssl_shutdown_timeout;
    aioloop_time timeout;       /* for looking up names; 0: none */
} aioloop_server_options;

/* loop.create_server(): listens on host (a numeric address, "localhost", or NULL or "": every interface of IPv4 and
 * IPv6) and port (0: one that is free, for each socket its own). The future's pointer is the aioloop_server, its number
 * how many sockets listen. It is listening when the call returns. For each connection the factory and connection_made
 * are called. Fails with AIOLOOP_EINVAL (arguments that contradict each other), the error of the bind or listen with
 * the address in the message, AIOLOOP_ENOTAVAILABLE for names, AIOLOOP_ENOMEM. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_create_server(aioloop *loop, const aioloop_protocol *protocol,
                                                                   void *arg, const char *host, int port,
                                                                   const aioloop_server_options *options);

typedef struct aioloop_unix_server_options {
    const aioloop_socket *sock; /* a bound Unix stream socket instead of path; as above */
    size_t path_size;           /* bytes of path; 0: it ends with a zero. Needed for the abstract name space. */
    int backlog;
    bool no_cleanup_socket;     /* cleanup_socket=False: leave the file when the server closes */
    bool defer_serving;
    aioloop_ssl_context *ssl;
    aioloop_time ssl_handshake_timeout;
    aioloop_time ssl_shutdown_timeout;
    aioloop_time timeout;
} aioloop_unix_server_options;

/* loop.create_unix_server(): listens on a path. A socket file that is there is removed before, any other file gives
 * AIOLOOP_EADDRINUSE. Closing the server removes the file if it is still the one made. As aioloop_create_server. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_create_unix_server(aioloop *loop, const aioloop_protocol *protocol,
                                                                        void *arg, const char *path,
                                                                        const aioloop_unix_server_options *options);

/* One owner more, and one less. NULL is ignored. */
AIOLOOP_API aioloop_server *aioloop_server_ref(aioloop_server *server);
AIOLOOP_API void aioloop_server_unref(aioloop_server *server);

/* Server.close(): the listening sockets are closed when it returns; connections live on. May be repeated. */
AIOLOOP_API void aioloop_server_close(aioloop_server *server);

/* Server.close_clients(), Server.abort_clients(): closes (aborts) every live connection of the server. */
AIOLOOP_API void aioloop_server_close_clients(aioloop_server *server);
AIOLOOP_API void aioloop_server_abort_clients(aioloop_server *server);

/* Server.wait_closed(): done when the server is closed and every connection of it is lost. Cancelling it changes
 * nothing else. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_server_wait_closed(aioloop_server *server);

/* Server.start_serving(): starts listening. 0, also when it listens already; AIOLOOP_EMISUSE on a closed server; the
 * system's error, and then nothing listens: if it was the first socket that failed, the server is as it was and may be
 * started again; if others listened already it is closed, because a socket stops listening only so. Immediate, so it
 * returns no future. */
AIOLOOP_API int aioloop_server_start_serving(aioloop_server *server);

/* Server.serve_forever(): starts listening and stays pending. Cancelling it, or closing the server, closes the server
 * and ends it as cancelled once every connection is lost. AIOLOOP_EMISUSE if one is pending already or the server is
 * closed. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_server_serve_forever(aioloop_server *server);

/* Server.is_serving(), Server.get_loop(). */
AIOLOOP_API bool aioloop_server_is_serving(const aioloop_server *server);
AIOLOOP_API aioloop *aioloop_server_get_loop(const aioloop_server *server);

/* Server.sockets: how many there are (0 once closed), and what the i-th is: its number, for looking and for options
 * only, and its address. AIOLOOP_EINVAL for an index out of range. Each pointer may be NULL. */
AIOLOOP_API size_t aioloop_server_socket_count(const aioloop_server *server);
AIOLOOP_API int aioloop_server_socket(const aioloop_server *server, size_t i, aioloop_socket *sock, aioloop_address *address);

#endif

/* >> src/api/stream.h */
/*
 * stream.h - connections for coroutines: one object that is read from and written to.         (asyncio: streams.py)
 *
 * A stream is asyncio's StreamReader and StreamWriter in one, over a transport of its own. What waits returns a future;
 * what does not, acts at once. Every function here is for the loop's own thread.
 *
 * A stream is counted. Who opens one, and a server's handler, has a reference. When the last one is gone the connection
 * is closed, after what was written has been sent. While you hold one every function here is safe, also after the loss.
 * Waiting for a stream takes no reference: hold one as long as you wait.
 *
 * What a read gives are bytes in the stream's own buffer, with a zero behind them that is not counted. They are valid
 * until the next read of that stream begins, and yours to change until then. One read at a time: until its result was
 * looked at, or its future let go, the next one fails with AIOLOOP_EMISUSE. Bytes are used up only by being looked at,
 * so a read that is cancelled, however late, loses none: the next one has them.
 */
#ifndef AIOLOOP_API_STREAM_H
#define AIOLOOP_API_STREAM_H

typedef struct aioloop_stream aioloop_stream;

/* ---- opening ---- */

/* Options of aioloop_open_connection; all zero: asyncio's defaults. */
typedef struct aioloop_stream_options {
    aioloop_connection_options connection; /* all that aioloop_create_connection has, its timeout too */
    int64_t limit; /* bytes: how long a line, or what readuntil gives, may be; reading pauses when twice as many wait to
                    * be fetched. 0: 64 KiB. AIOLOOP_EINVAL below 0. */
} aioloop_stream_options;

/* asyncio.open_connection(): connects, as aioloop_create_connection does and with its errors. The future's pointer is
 * the aioloop_stream, its number 0. Cancelling it closes the socket. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_open_connection(aioloop *loop, const char *host, int port,
                                                                     const aioloop_stream_options *options);

typedef struct aioloop_unix_stream_options {
    aioloop_unix_connection_options connection;
    int64_t limit;
} aioloop_unix_stream_options;

/* asyncio.open_unix_connection(): the same by a path, as aioloop_create_unix_connection. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_open_unix_connection(aioloop *loop, const char *path,
                                                                          const aioloop_unix_stream_options *options);

/* asyncio.StreamReader(): a stream without a connection, to be read from what aioloop_stream_feed_data brings. limit as
 * above. A reference of the caller's. NULL, and aioloop_last_error: AIOLOOP_ENOMEM, AIOLOOP_EINVAL, AIOLOOP_ECLOSED. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_stream *aioloop_stream_new(aioloop *loop, int64_t limit);

/* One owner more, and one less. NULL is ignored. With the last owner a read that waits is cancelled; what waits for the
 * end of the connection (drain, wait_closed) still gets it. */
AIOLOOP_API aioloop_stream *aioloop_stream_ref(aioloop_stream *stream);
AIOLOOP_API void aioloop_stream_unref(aioloop_stream *stream);

/* ---- serving ---- */

/* What a server does with a connection: a coroutine, run as a task of its own. stream is borrowed until it ends. */
typedef int64_t (*aioloop_stream_handler)(aioloop *loop, aioloop_stream *stream, void *arg);

/* The same as a plain function; it must take a reference if the connection is to outlive it. To fail, it calls
 * aioloop_raise. */
typedef void (*aioloop_stream_callback)(aioloop *loop, aioloop_stream *stream, void *arg);

/* How the frame of a handler without a stack begins. The rest is zero at the start, and everything is the handler's own
 * copy. */
typedef struct aioloop_stream_frame {
    aioloop_frame frame;
    aioloop_stream *stream;
    void *arg;
} aioloop_stream_frame;

/* Options of aioloop_start_server; all zero: asyncio's defaults. */
typedef struct aioloop_stream_server_options {
    aioloop_server_options server;    /* all that aioloop_create_server has */
    int64_t limit;                    /* of each stream, as above */
    size_t stack_size;                /* of the handlers' tasks, as in aioloop_task_options */
    aioloop_step step;                /* instead of handler, which is NULL then: a coroutine without a stack, */
    size_t frame_size;                /*   with a frame of this size */
    aioloop_stream_callback callback; /* instead of both: a plain function */
} aioloop_stream_server_options;

/* asyncio.start_server(): listens as aioloop_create_server does, with its errors, and calls handler(loop, stream, arg)
 * in a task for each connection. The future's pointer is the aioloop_server. A handler that fails is reported to the
 * exception handler and its connection closed; one that is cancelled has its connection closed without a report. When
 * it returns its reference goes, and with it the connection, unless somebody else holds one. AIOLOOP_EINVAL also
 * without exactly one of handler, step and callback, and for a frame smaller than aioloop_stream_frame;
 * AIOLOOP_ENOTAVAILABLE for handler when built with AIOLOOP_USE_COROUTINES 0. arg is passed on, the rest copied; arg
 * must live as long as a handler may run, which a closed server does not end: in aioloop_run longer than the main
 * coroutine. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_start_server(aioloop *loop, aioloop_stream_handler handler,
                                                                  void *arg, const char *host, int port,
                                                                  const aioloop_stream_server_options *options);

typedef struct aioloop_unix_stream_server_options {
    aioloop_unix_server_options server;
    int64_t limit;
    size_t stack_size;
    aioloop_step step;
    size_t frame_size;
    aioloop_stream_callback callback;
} aioloop_unix_stream_server_options;

/* asyncio.start_unix_server(): the same at a path, as aioloop_create_unix_server. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *
aioloop_start_unix_server(aioloop *loop, aioloop_stream_handler handler, void *arg, const char *path,
                          const aioloop_unix_stream_server_options *options);

/* ---- reading ----
 *
 * Futures whose number is how many bytes there are and whose pointer is the bytes: a const char *, or a char *. All of
 * them fail with the error that the connection was lost with, or that aioloop_stream_set_exception gave, once there is
 * one; with AIOLOOP_EMISUSE while another read waits; with AIOLOOP_ENOMEM and AIOLOOP_ECLOSED. */

/* StreamReader.read(): 1 to n bytes as soon as there are any, 0 at the end of the stream. n < 0: everything up to the
 * end. n 0: 0 bytes at once. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_stream_read(aioloop_stream *stream, int64_t n);

/* StreamReader.readexactly(): n bytes, however many. AIOLOOP_EINCOMPLETE if the stream ends before;
 * aioloop_stream_partial has what there was. AIOLOOP_EINVAL for n < 0. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_stream_readexactly(aioloop_stream *stream, int64_t n);

/* StreamReader.readline(): up to the next newline, with it; at the end of the stream the rest without one, then 0
 * bytes. A line longer than the limit gives AIOLOOP_EINVAL and is dropped, or what is there of it. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_stream_readline(aioloop_stream *stream);

/* StreamReader.readuntil(): up to a separator of size bytes, with it. AIOLOOP_EINCOMPLETE as above; AIOLOOP_EOVERRUN
 * when the separator is not found within the limit: everything is kept, and aioloop_stream_consumed says how much could
 * be read by readexactly before trying again. AIOLOOP_EINVAL for an empty separator. The separator is copied if it is
 * needed for long. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_stream_readuntil(aioloop_stream *stream, const void *separator,
                                                                      size_t size);

/* The same for several separators, as readuntil((...)): the match that ends first counts. AIOLOOP_EINVAL also for
 * none. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_stream_readuntil_any(aioloop_stream *stream,
                                                                          const aioloop_buf *separators, size_t count);

/* IncompleteReadError.partial: the bytes that a read had when it failed with AIOLOOP_EINCOMPLETE, valid until the next
 * read; stores where they are at data. 0 if the last read did not fail so. */
AIOLOOP_API size_t aioloop_stream_partial(const aioloop_stream *stream, const char **data);

/* LimitOverrunError.consumed: of the last read that failed with AIOLOOP_EOVERRUN. */
AIOLOOP_API size_t aioloop_stream_consumed(const aioloop_stream *stream);

/* StreamReader.at_eof(): the stream has ended, and all of it was read. */
AIOLOOP_API bool aioloop_stream_at_eof(const aioloop_stream *stream);

/* StreamReader.exception(): the error that reads fail with, or 0. */
AIOLOOP_API int aioloop_stream_exception(const aioloop_stream *stream);

/* StreamReader.feed_data(), feed_eof(), set_exception(): what the connection does for streams that have one. feed_data
 * copies. 0; AIOLOOP_EMISUSE for data behind the end; AIOLOOP_EINVAL for NULL data, and for a code that is none or
 * AIOLOOP_ECANCELED; AIOLOOP_ENOMEM; AIOLOOP_ECLOSED. message (may be NULL) is copied. */
AIOLOOP_API int aioloop_stream_feed_data(aioloop_stream *stream, const void *data, size_t size);
AIOLOOP_API int aioloop_stream_feed_eof(aioloop_stream *stream);
AIOLOOP_API int aioloop_stream_set_exception(aioloop_stream *stream, int code, const char *message);

/* ---- writing ----
 *
 * On a stream without a connection: AIOLOOP_EMISUSE. */

/* StreamWriter.write(), writelines(), write_eof(), can_write_eof(): as of the transport. */
AIOLOOP_API int aioloop_stream_write(aioloop_stream *stream, const void *data, size_t size);
AIOLOOP_API int aioloop_stream_writelines(aioloop_stream *stream, const aioloop_buf *pieces, size_t count);
AIOLOOP_API int aioloop_stream_write_eof(aioloop_stream *stream);
AIOLOOP_API bool aioloop_stream_can_write_eof(const aioloop_stream *stream);

/* StreamWriter.drain(): done at once unless more waits to be sent than the transport's high mark (64 KiB); then when it
 * is down to the low mark. Write, then drain, and a peer that does not read costs no more memory than that. Several may
 * wait at once. Fails with the error that the connection was lost with, with AIOLOOP_ECONNRESET once it is closed and
 * gone. Cancelling it changes nothing else. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_stream_drain(aioloop_stream *stream);

/* StreamWriter.close(), is_closing(): as of the transport. A stream without a connection is closing. */
AIOLOOP_API void aioloop_stream_close(aioloop_stream *stream);
AIOLOOP_API bool aioloop_stream_is_closing(const aioloop_stream *stream);

/* StreamWriter.wait_closed(): done when the connection is lost, with the error that it was lost with, if there was
 * one. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_stream_wait_closed(aioloop_stream *stream);

/* StreamWriter.get_extra_info(): as of the transport. */
AIOLOOP_API const void *aioloop_stream_get_extra_info(const aioloop_stream *stream, const char *name,
                                                      const void *fallback);

/* StreamWriter.transport: borrowed, as long as the stream. NULL without a connection. */
AIOLOOP_API aioloop_transport *aioloop_stream_get_transport(const aioloop_stream *stream);

#endif

/* >> src/api/sim.h */
/*
 * sim.h - the simulated back end: test your program without a network and without waiting.
 *
 * Chosen by aioloop_config.backend or AIOLOOP_BACKEND: "sim", or "sim,delayed". The clock is virtual: when nothing is
 * ready it jumps to the next deadline, so an hour's time-out takes microseconds. The network is the loop's own memory:
 * servers and connections of this loop reach each other at any loopback or wildcard address and at any path; everything
 * else refuses. A path is a plain name: folders, links and permissions mean nothing, so binding never fails for want of
 * a folder, and "a" and "./a" are two sockets. The same seed replays the same run exactly.
 *
 * A wait in which nothing can ever happen is not endless: after two seconds of real time, in which another thread may
 * post something, the run ends with AIOLOOP_EDEADLK. While a function of the loop runs in a thread pool it goes on
 * waiting.
 *
 * Options, after the name: seed=N (default 1); delayed: operations complete late, as those of io_uring and Windows do:
 * results arrive iterations later, data comes after a pause, a cancel finds the work done, sends are taken in part.
 */
#ifndef AIOLOOP_API_SIM_H
#define AIOLOOP_API_SIM_H

/* All of these answer AIOLOOP_ENOTAVAILABLE on another back end. */

/* Two connected stream sockets, for aioloop_connect_accepted_socket and the like; the caller's until given away.
 * AIOLOOP_ENOMEM, AIOLOOP_ECLOSED. */
AIOLOOP_API int aioloop_sim_socketpair(aioloop *loop, aioloop_socket sockets[2]);

/* Closes a simulated socket that was never given away. AIOLOOP_EBADF. */
AIOLOOP_API int aioloop_sim_close(aioloop *loop, aioloop_socket socket);

/* How long what is sent from now on is under way: between minimum and maximum, drawn anew for each piece; the order
 * within a connection is kept. AIOLOOP_EINVAL for a negative or reversed pair. */
AIOLOOP_API int aioloop_sim_set_delay(aioloop *loop, aioloop_time minimum, aioloop_time maximum);

/* How many bytes a connection holds in each direction before a sender has to wait. Default 65,536; AIOLOOP_EINVAL for
 * 0. */
AIOLOOP_API int aioloop_sim_set_buffer(aioloop *loop, size_t bytes);

/* While on, nothing that is under way arrives, and connects hang: a partition of the network. */
AIOLOOP_API int aioloop_sim_set_partition(aioloop *loop, bool on);

/* Breaks the connection under a transport as a network does: both ends fail with error (AIOLOOP_ECONNRESET,
 * AIOLOOP_ETIMEDOUT, AIOLOOP_EHOSTUNREACH ...), what is under way is lost. AIOLOOP_EINVAL if it has none. */
AIOLOOP_API int aioloop_sim_break(aioloop_transport *transport, int error);

/* The next count accepts on this loop fail with error (AIOLOOP_EMFILE ...), as those of a system that has run out. */
AIOLOOP_API int aioloop_sim_fail_accepts(aioloop *loop, int error, unsigned count);

/* A random number below bound from the run's own seeded sequence, so that a test's choices replay with it; 0 for bound
 * 0. */
AIOLOOP_API uint32_t aioloop_sim_random(aioloop *loop, uint32_t bound);

#endif

/* >> src/api/port.h */
/*
 * port.h - what a firmware supplies when there is no operating system (AIOLOOP_PORT 1).
 *
 * The smallest port: a clock, a way to wait, and a lock against interrupts. With it callbacks, timers and futures work;
 * calls that need descriptors or sockets answer AIOLOOP_ENOTAVAILABLE. The user writes these five functions; the
 * library calls them.
 */
#ifndef AIOLOOP_API_PORT_H
#define AIOLOOP_API_PORT_H

/* The time in nanoseconds since any moment; never goes back. */
extern aioloop_time aioloop_port_now(void);

/* Waits until the clock shows deadline (AIOLOOP_FOREVER: no limit) or aioloop_port_wake was called since the last wait
 * began; may return early. A board waits for an interrupt here. */
extern void aioloop_port_sleep_until(aioloop_time deadline);

/* Ends the wait; called from any interrupt or thread by aioloop_call_soon_threadsafe. */
extern void aioloop_port_wake(void);

/* Keeps interrupts away for a few instructions, so that aioloop_call_soon_threadsafe may be called from them. The
 * result of lock is given to unlock. The first post, and one that finds more waiting than ever before, allocates: where
 * an interrupt must not, post once while starting up. */
extern uint32_t aioloop_port_lock(void);
extern void aioloop_port_unlock(uint32_t state);

#endif

/* >> src/aioloop.h */
#ifdef __cplusplus
}
#endif

#endif /* AIOLOOP_H */

#if defined(AIOLOOP_IMPLEMENTATION) && !defined(AIOLOOP_IMPLEMENTED)
#define AIOLOOP_IMPLEMENTED

/* >> src/base/platform.h */
/*
 * platform.h - what compiler and system this is, what they have, and every system header.
 *
 * The only file (with the spine, sys/, poll/ and io/) that asks. Every AIOL_HAVE_... and AIOL_OS_... is
 * always defined, to 0 or 1. System headers stand here in one order, so that nothing depends on what a
 * user included before.
 */
#ifndef AIOL_BASE_PLATFORM_H
#define AIOL_BASE_PLATFORM_H

#ifndef AIOLOOP_USE_THREADS
#define AIOLOOP_USE_THREADS 1
#endif
#ifndef AIOLOOP_USE_DEBUG
#define AIOLOOP_USE_DEBUG 1
#endif
#ifndef AIOLOOP_PORT
#define AIOLOOP_PORT 0
#endif
#ifndef AIOLOOP_USE_UCONTEXT
#define AIOLOOP_USE_UCONTEXT 0
#endif

#if AIOLOOP_PORT
#define AIOL_OS_NONE 1
#define AIOL_OS_POSIX 0
#elif defined(__unix__) || defined(__APPLE__) || defined(__linux__)
#define AIOL_OS_NONE 0
#define AIOL_OS_POSIX 1
#else
#error "aioloop.h: there is no back end for this system yet; with AIOLOOP_PORT 1 it runs on the five functions of port.h"
#endif

#if defined(__linux__) && AIOL_OS_POSIX
#define AIOL_OS_LINUX 1
#else
#define AIOL_OS_LINUX 0
#endif

/* ---- back ends ---- */

#ifndef AIOLOOP_BACKENDS
#if AIOL_OS_LINUX
#define AIOLOOP_BACKENDS                                                                                  \
    (AIOLOOP_BACKEND_EPOLL | AIOLOOP_BACKEND_POLL | AIOLOOP_BACKEND_SELECT | AIOLOOP_BACKEND_SIM | AIOLOOP_BACKEND_IO_URING)
#elif AIOL_OS_POSIX
#define AIOLOOP_BACKENDS (AIOLOOP_BACKEND_POLL | AIOLOOP_BACKEND_SELECT | AIOLOOP_BACKEND_SIM)
#else
#define AIOLOOP_BACKENDS 0
#endif
#endif

#define AIOL_HAVE_EPOLL (AIOL_OS_LINUX && ((AIOLOOP_BACKENDS) & AIOLOOP_BACKEND_EPOLL) != 0)
#define AIOL_HAVE_POLL (AIOL_OS_POSIX && ((AIOLOOP_BACKENDS) & AIOLOOP_BACKEND_POLL) != 0)
#define AIOL_HAVE_SELECT (AIOL_OS_POSIX && ((AIOLOOP_BACKENDS) & AIOLOOP_BACKEND_SELECT) != 0)
#define AIOL_HAVE_URING (AIOL_OS_LINUX && ((AIOLOOP_BACKENDS) & AIOLOOP_BACKEND_IO_URING) != 0)
#define AIOL_HAVE_SIM (((AIOLOOP_BACKENDS) & AIOLOOP_BACKEND_SIM) != 0)
#define AIOL_HAVE_PORT AIOL_OS_NONE
#define AIOL_HAVE_REACTOR (AIOL_HAVE_EPOLL || AIOL_HAVE_POLL || AIOL_HAVE_SELECT)

#if !AIOL_HAVE_REACTOR && !AIOL_HAVE_SIM && !AIOL_HAVE_PORT && !AIOL_HAVE_URING
#error "aioloop.h: AIOLOOP_BACKENDS leaves no back end that this system has"
#endif

#define AIOL_HAVE_PTHREAD (AIOLOOP_USE_THREADS && AIOL_OS_POSIX)

/* ---- stacks ---- */

#define AIOL_SWITCH_NONE 0
#define AIOL_SWITCH_UCONTEXT 1
#define AIOL_SWITCH_X86_64 2
#define AIOL_SWITCH_I386 3
#define AIOL_SWITCH_AARCH64 4
#define AIOL_SWITCH_ARM 5
#define AIOL_SWITCH_RISCV 6

/* musl and others declare <ucontext.h>, but do not have its functions. */
#if AIOL_OS_POSIX && (defined(__GLIBC__) || defined(__FreeBSD__) || defined(__NetBSD__) || defined(__DragonFly__) || defined(__sun))
#define AIOL_HAVE_UCONTEXT 1
#else
#define AIOL_HAVE_UCONTEXT 0
#endif

#if !AIOLOOP_USE_UCONTEXT && defined(__GNUC__) && !defined(__TINYC__) && !defined(_WIN32)
#if defined(__x86_64__) && defined(__LP64__)
#define AIOL_STACK_SWITCH AIOL_SWITCH_X86_64
#elif defined(__i386__)
#define AIOL_STACK_SWITCH AIOL_SWITCH_I386
#elif defined(__aarch64__) && defined(__LP64__)
#define AIOL_STACK_SWITCH AIOL_SWITCH_AARCH64
#elif defined(__arm__) && defined(__ARM_ARCH) && __ARM_ARCH >= 5
#define AIOL_STACK_SWITCH AIOL_SWITCH_ARM
#elif defined(__riscv) && !defined(__riscv_32e) && !defined(__riscv_64e) && !defined(__riscv_float_abi_quad)
#define AIOL_STACK_SWITCH AIOL_SWITCH_RISCV
#endif
#endif
#if !defined(AIOL_STACK_SWITCH) && AIOL_HAVE_UCONTEXT
#define AIOL_STACK_SWITCH AIOL_SWITCH_UCONTEXT
#elif !defined(AIOL_STACK_SWITCH)
#define AIOL_STACK_SWITCH AIOL_SWITCH_NONE
#endif

#ifndef AIOLOOP_USE_COROUTINES
#define AIOLOOP_USE_COROUTINES (!AIOLOOP_PORT && AIOL_STACK_SWITCH != AIOL_SWITCH_NONE)
#endif
#if AIOLOOP_USE_COROUTINES && AIOL_STACK_SWITCH == AIOL_SWITCH_NONE
#error "aioloop.h: no way to switch stacks is known here; compile with AIOLOOP_USE_COROUTINES 0 (coroutines without a stack remain)"
#endif

#if defined(__x86_64__) && defined(__LP64__) && defined(__GNUC__) && defined(__linux__)
#define AIOL_KNOWS_VALGRIND 1
#else
#define AIOL_KNOWS_VALGRIND 0
#endif

/* A function in assembly, in a section of its own. Once in an assembler's input: whole programs may be compiled as
 * one. */
#if defined(__APPLE__)
#define AIOL_ASM_FUNCTION(name)                                                                                        \
    ".text\n.p2align 4\n.globl _" #name "\n.private_extern _" #name "\n.weak_definition _" #name "\n_" #name ":\n"
#define AIOL_ASM_END(name)
#else
#define AIOL_ASM_FUNCTION(name)                                                                                        \
    ".ifndef " #name "\n.pushsection .text." #name ",\"ax\",%progbits\n.p2align 4\n" AIOL_ASM_ARM ".weak " #name        \
    "\n.hidden " #name "\n.type " #name ", %function\n" #name ":\n" AIOL_ASM_UNWIND
#define AIOL_ASM_END(name) AIOL_ASM_UNWIND_END ".size " #name ", . - " #name "\n.popsection\n.endif\n"
#endif
#if !defined(__arm__)
#define AIOL_ASM_ARM
#elif defined(__thumb__)
#define AIOL_ASM_ARM ".syntax unified\n.thumb\n.thumb_func\n"
#else
#define AIOL_ASM_ARM ".syntax unified\n.arm\n"
#endif
#if defined(__arm__) && defined(__ARM_EABI__)
#define AIOL_ASM_UNWIND ".fnstart\n"
#define AIOL_ASM_UNWIND_END ".cantunwind\n.fnend\n"
#else
#define AIOL_ASM_UNWIND
#define AIOL_ASM_UNWIND_END
#endif
/* What indirect calls may land on. */
#if defined(__CET__) && (__CET__ & 1) != 0 && defined(__x86_64__)
#define AIOL_ASM_LANDING "    endbr64\n"
#elif defined(__CET__) && (__CET__ & 1) != 0
#define AIOL_ASM_LANDING "    endbr32\n"
#elif defined(__ARM_FEATURE_BTI_DEFAULT) && defined(__aarch64__)
#define AIOL_ASM_LANDING "    hint #34\n"
#elif defined(__ARM_FEATURE_BTI_DEFAULT)
#define AIOL_ASM_LANDING "    hint #15\n"
#else
#define AIOL_ASM_LANDING
#endif
/* To where they may not, but returns may. */
#if defined(__CET__) && (__CET__ & 1) != 0
#define AIOL_ASM_JUMP "notrack jmp"
#else
#define AIOL_ASM_JUMP "jmp"
#endif
#if defined(__GNUC__)
#define AIOL_ASM_VISIBILITY __attribute__((visibility("hidden")))
#else
#define AIOL_ASM_VISIBILITY
#endif
/* The one convention that options of the compiler do not change. */
#if defined(__i386__) && defined(__GNUC__)
#define AIOL_ASM_CALL __attribute__((fastcall))
#else
#define AIOL_ASM_CALL
#endif

/* Sanitizers, which have to be told of every change of stacks. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define AIOL_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define AIOL_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) && !defined(AIOL_ASAN)
#define AIOL_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__) && !defined(AIOL_TSAN)
#define AIOL_TSAN 1
#endif
#ifndef AIOL_ASAN
#define AIOL_ASAN 0
#endif
#ifndef AIOL_TSAN
#define AIOL_TSAN 0
#endif

/* ---- system headers ---- */

/* tcc with glibc: <sys/cdefs.h> makes __attribute__ vanish, and struct epoll_event is then not packed. */
#if defined(__TINYC__) && AIOL_OS_LINUX
#include <features.h>
#undef __attribute__
#endif

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if AIOL_OS_POSIX
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/types.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <time.h>
#include <unistd.h>
#if AIOL_HAVE_POLL || AIOL_HAVE_URING
#include <poll.h>
#endif
#if AIOL_HAVE_SELECT
#include <sys/select.h>
#endif
#if AIOL_OS_LINUX
#include <sys/eventfd.h>
#include <sys/syscall.h>
#if AIOL_HAVE_EPOLL || AIOL_HAVE_URING
#include <sys/epoll.h>
#endif
#endif
#if AIOL_HAVE_URING || AIOLOOP_USE_COROUTINES
#include <sys/mman.h>
#endif
#if AIOLOOP_USE_COROUTINES && AIOL_STACK_SWITCH == AIOL_SWITCH_UCONTEXT
#include <ucontext.h>
#endif
#if AIOL_HAVE_PTHREAD
#include <pthread.h>
#endif
#endif

/* ---- what the system's calls can do ---- */

#define AIOL_HAVE_EVENTFD AIOL_OS_LINUX
#if AIOL_OS_LINUX || defined(__FreeBSD__) || defined(__NetBSD__) || defined(__OpenBSD__)
#define AIOL_HAVE_ACCEPT4 1
#define AIOL_HAVE_PIPE2 1
#else
#define AIOL_HAVE_ACCEPT4 0
#define AIOL_HAVE_PIPE2 0
#endif
#if AIOL_OS_LINUX && defined(SYS_epoll_pwait2)
#define AIOL_HAVE_EPOLL_PWAIT2 1
#else
#define AIOL_HAVE_EPOLL_PWAIT2 0
#endif

/* ---- the compiler ---- */

#if defined(__GNUC__) || defined(__clang__)
#define AIOL_LIKELY(x) __builtin_expect(!!(x), 1)
#define AIOL_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define AIOL_UNUSED __attribute__((unused))
#define AIOL_NOINLINE __attribute__((noinline))
#define AIOL_RETURN_ADDRESS __builtin_return_address(0)
#else
#define AIOL_LIKELY(x) (x)
#define AIOL_UNLIKELY(x) (x)
#define AIOL_UNUSED
#define AIOL_NOINLINE
#if defined(__TINYC__)
#define AIOL_RETURN_ADDRESS __builtin_return_address(0)
#else
#define AIOL_RETURN_ADDRESS NULL
#endif
#endif

#ifndef AIOLOOP_INTERNAL
#define AIOLOOP_INTERNAL AIOL_UNUSED static
#endif

/* Inline in the sense of every standard from C99 and C++: a function of this translation unit. */
#define AIOL_INLINE AIOL_UNUSED static inline

#if !AIOLOOP_USE_THREADS || AIOLOOP_PORT
#define AIOL_THREAD_LOCAL
#elif defined(__cplusplus)
#define AIOL_THREAD_LOCAL thread_local
#elif defined(__GNUC__) || defined(__clang__)
#define AIOL_THREAD_LOCAL __thread
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L && !defined(__STDC_NO_THREADS__)
#define AIOL_THREAD_LOCAL _Thread_local
#else
#error "aioloop.h: this compiler has no thread-local variables; compile with AIOLOOP_USE_THREADS 0"
#endif

/* Without an operating system a call may come from an interrupt of the loop's own thread. */
#define AIOL_KNOWS_ITS_THREAD (!AIOLOOP_PORT)

/* ---- where memory comes from, and how tests make the system fail ---- */

#ifndef AIOLOOP_MALLOC
#define AIOLOOP_MALLOC(size) malloc(size)
#define AIOLOOP_REALLOC(pointer, size) realloc(pointer, size)
#define AIOLOOP_FREE(pointer) free(pointer)
#endif

/* AIOL_SYS(name, call): a call of the system that answers -1 and errno. AIOLOOP_FAULT(name), if defined, is asked
 * before it: 0 to go on, else the errno to fail with. The tests make every call fail this way, one at a time. */
#ifdef AIOLOOP_FAULT
#ifdef __cplusplus
extern "C"
#else
extern
#endif
    int AIOLOOP_FAULT(const char *name);
AIOL_INLINE int aiol_fault(const char *name) {
    int error = AIOLOOP_FAULT(name);
    if (error == 0)
        return 0;
    errno = error;
    return 1;
}
#define AIOL_SYS(name, call) (aiol_fault(#name) ? -1 : (call))
#else
#define AIOL_SYS(name, call) (call)
#endif

#endif

/* >> src/aioloop.h */
#ifdef __cplusplus
extern "C" {
#endif

/* base: memory, structures, errors; knows neither loop nor socket. */

/* >> src/base/util.h */
/*
 * util.h - assertions and small arithmetic.
 */
#ifndef AIOL_BASE_UTIL_H
#define AIOL_BASE_UTIL_H

/* A broken promise inside the library. Costs nothing in a release build (NDEBUG). */
#ifdef NDEBUG
#define AIOL_ASSERT(x) ((void)0)
#else
#define AIOL_ASSERT(x) ((x) ? (void)0 : aiol_assert_failed(#x, __FILE__, __LINE__))
#endif

/* The same, always on: for aioloop_verify. */
#define AIOL_VERIFY(x) ((x) ? (void)0 : aiol_assert_failed(#x, __FILE__, __LINE__))

AIOLOOP_INTERNAL AIOL_NOINLINE void aiol_assert_failed(const char *what, const char *file, int line) {
    fprintf(stderr, "aioloop: broken: %s (%s:%d)\n", what, file, line);
    abort();
}

#define AIOL_STATIC_ASSERT(x, name) typedef char aiol_static_assert_##name[(x) ? 1 : -1] AIOL_UNUSED

#define AIOL_CONTAINER(pointer, type, member)                                                      \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

/* Stores a pointer at out, the address of an object pointer of any type (or NULL). By memcpy: a void ** that points to
 * a T * would break the rules of aliasing. */
AIOL_INLINE void aiol_store_pointer(void *out, void *pointer) {
    if (out != NULL)
        memcpy(out, &pointer, sizeof(pointer));
}

AIOL_INLINE aioloop_time aiol_time_add(aioloop_time a, aioloop_time b) {
    if (b > 0 && a > INT64_MAX - b)
        return INT64_MAX;
    if (b < 0 && a < INT64_MIN + 1 - b)
        return INT64_MIN + 1;
    return a + b;
}

AIOL_INLINE size_t aiol_min_size(size_t a, size_t b) {
    return a < b ? a : b;
}

#endif

/* >> src/base/atomic.h */
/*
 * atomic.h - the few atomic operations the library needs.
 *
 * Three branches: on a firmware port the port's lock keeps interrupts away, since not every core has the instructions;
 * with AIOLOOP_USE_THREADS 0 plain memory will do, which is what compilers without atomics (tcc) get; else the builtins
 * of GCC and Clang.
 */
#ifndef AIOL_BASE_ATOMIC_H
#define AIOL_BASE_ATOMIC_H

#if AIOLOOP_USE_THREADS && AIOLOOP_PORT
/* A load or store of a word is whole on any core, and calling the port's functions keeps the compiler from holding
 * copies. */
#define aiol_load(pointer) (*(pointer))
#define aiol_load_relaxed(pointer) (*(pointer))
#define aiol_store(pointer, value) ((void)(*(pointer) = (value)))
#define aiol_store_relaxed(pointer, value) ((void)(*(pointer) = (value)))
AIOL_INLINE uint32_t aiol_exchange_u32(volatile uint32_t *pointer, uint32_t value) {
    uint32_t state = aioloop_port_lock();
    uint32_t old = *pointer;
    *pointer = value;
    aioloop_port_unlock(state);
    return old;
}
AIOL_INLINE uint32_t aiol_add_u32(volatile uint32_t *pointer, uint32_t value) {
    uint32_t state = aioloop_port_lock();
    uint32_t sum = *pointer + value;
    *pointer = sum;
    aioloop_port_unlock(state);
    return sum;
}
AIOL_INLINE void *aiol_exchange_pointer(void *volatile *pointer, void *value) {
    uint32_t state = aioloop_port_lock();
    void *old = *pointer;
    *pointer = value;
    aioloop_port_unlock(state);
    return old;
}
AIOL_INLINE bool aiol_cas_pointer(void *volatile *pointer, void **expected, void *value) {
    uint32_t state = aioloop_port_lock();
    void *old = *pointer;
    bool same = old == *expected;
    if (same)
        *pointer = value;
    else
        *expected = old;
    aioloop_port_unlock(state);
    return same;
}
#elif !AIOLOOP_USE_THREADS
#define aiol_load(pointer) (*(pointer))
#define aiol_load_relaxed(pointer) (*(pointer))
#define aiol_store(pointer, value) ((void)(*(pointer) = (value)))
#define aiol_store_relaxed(pointer, value) ((void)(*(pointer) = (value)))
AIOL_INLINE uint32_t aiol_exchange_u32(uint32_t *pointer, uint32_t value) {
    uint32_t old = *pointer;
    *pointer = value;
    return old;
}
AIOL_INLINE uint32_t aiol_add_u32(uint32_t *pointer, uint32_t value) {
    return *pointer += value;
}
AIOL_INLINE void *aiol_exchange_pointer(void **pointer, void *value) {
    void *old = *pointer;
    *pointer = value;
    return old;
}
AIOL_INLINE bool aiol_cas_pointer(void **pointer, void **expected, void *value) {
    if (*pointer != *expected) {
        *expected = *pointer;
        return false;
    }
    *pointer = value;
    return true;
}
#elif defined(__GNUC__) || defined(__clang__)
#define aiol_load(pointer) __atomic_load_n(pointer, __ATOMIC_SEQ_CST)
#define aiol_load_relaxed(pointer) __atomic_load_n(pointer, __ATOMIC_RELAXED)
#define aiol_store(pointer, value) __atomic_store_n(pointer, value, __ATOMIC_SEQ_CST)
#define aiol_store_relaxed(pointer, value) __atomic_store_n(pointer, value, __ATOMIC_RELAXED)
AIOL_INLINE uint32_t aiol_exchange_u32(uint32_t *pointer, uint32_t value) {
    return __atomic_exchange_n(pointer, value, __ATOMIC_SEQ_CST);
}
AIOL_INLINE uint32_t aiol_add_u32(uint32_t *pointer, uint32_t value) {
    return __atomic_add_fetch(pointer, value, __ATOMIC_SEQ_CST);
}
AIOL_INLINE void *aiol_exchange_pointer(void **pointer, void *value) {
    return __atomic_exchange_n(pointer, value, __ATOMIC_SEQ_CST);
}
AIOL_INLINE bool aiol_cas_pointer(void **pointer, void **expected, void *value) {
    return __atomic_compare_exchange_n(pointer, expected, value, false, __ATOMIC_SEQ_CST,
                                       __ATOMIC_SEQ_CST);
}
#else
#error "aioloop.h: this compiler has no atomic operations; compile with AIOLOOP_USE_THREADS 0"
#endif

#endif

/* >> src/base/list.h */
/*
 * list.h - a doubly linked list through its members.
 *
 * A head is a link too; an empty list points to itself. A link that is in no list has next == NULL.
 */
#ifndef AIOL_BASE_LIST_H
#define AIOL_BASE_LIST_H

typedef struct aiol_link {
    struct aiol_link *next;
    struct aiol_link *prev;
} aiol_link;

AIOL_INLINE void aiol_list_init(aiol_link *head) {
    head->next = head;
    head->prev = head;
}

AIOL_INLINE bool aiol_list_empty(const aiol_link *head) {
    return head->next == head;
}

AIOL_INLINE void aiol_list_append(aiol_link *head, aiol_link *link) {
    AIOL_ASSERT(link->next == NULL);
    link->next = head;
    link->prev = head->prev;
    head->prev->next = link;
    head->prev = link;
}

/* Does nothing for a link that is in no list. */
AIOL_INLINE void aiol_list_remove(aiol_link *link) {
    if (link->next == NULL)
        return;
    link->next->prev = link->prev;
    link->prev->next = link->next;
    link->next = NULL;
    link->prev = NULL;
}

/* Moves all of from, which becomes empty, to an empty list. */
AIOL_INLINE void aiol_list_move(aiol_link *to, aiol_link *from) {
    if (aiol_list_empty(from))
        return;
    *to = *from;
    to->next->prev = to;
    to->prev->next = to;
    aiol_list_init(from);
}

#endif

/* >> src/base/mem.c */
/*
 * mem.c - every allocation of the library goes through here.
 *
 * Sizes are passed to free as well, so that an allocator needs no headers of its own.
 */
#ifndef AIOL_BASE_MEM_C
#define AIOL_BASE_MEM_C

static void *aiol_default_allocate(void *context, void *pointer, size_t old_size, size_t new_size) {
    (void)context;
    (void)old_size;
    if (new_size == 0) {
        AIOLOOP_FREE(pointer);
        return NULL;
    }
    if (pointer == NULL)
        return AIOLOOP_MALLOC(new_size);
    return AIOLOOP_REALLOC(pointer, new_size);
}

static const aioloop_allocator aiol_default_allocator = {aiol_default_allocate, NULL};

AIOLOOP_INTERNAL void *aiol_alloc(const aioloop_allocator *a, size_t size) {
    return a->allocate(a->context, NULL, 0, size);
}

AIOLOOP_INTERNAL void *aiol_alloc_zero(const aioloop_allocator *a, size_t size) {
    void *p = aiol_alloc(a, size);
    if (p != NULL)
        memset(p, 0, size);
    return p;
}

AIOLOOP_INTERNAL void aiol_free(const aioloop_allocator *a, void *p, size_t size) {
    if (p != NULL)
        a->allocate(a->context, p, size, 0);
}

/* Makes an array at *array of *capacity elements hold at least wanted; grows by half. New elements are zeroed. 0 or
 * AIOLOOP_ENOMEM with everything as it was. array is the address of a pointer to the elements. */
AIOLOOP_INTERNAL int aiol_grow(const aioloop_allocator *a, void *array, size_t *capacity, size_t element_size,
                               size_t wanted) {
    void *old;
    void *grown;
    size_t n;
    if (wanted <= *capacity)
        return 0;
    n = *capacity + *capacity / 2;
    if (n < wanted)
        n = wanted;
    if (n < 8)
        n = 8;
    if (n > SIZE_MAX / 2 / element_size)
        return AIOLOOP_ENOMEM;
    memcpy(&old, array, sizeof(old));
    grown = a->allocate(a->context, old, *capacity * element_size, n * element_size);
    if (grown == NULL)
        return AIOLOOP_ENOMEM;
    memset((char *)grown + *capacity * element_size, 0, (n - *capacity) * element_size);
    memcpy(array, &grown, sizeof(grown));
    *capacity = n;
    return 0;
}

#endif

/* >> src/base/error.c */
/*
 * error.c - codes, their texts, and errors with a message.
 */
#ifndef AIOL_BASE_ERROR_C
#define AIOL_BASE_ERROR_C

typedef struct aiol_error_entry {
    int code;
    const char *name;
    const char *text;
} aiol_error_entry;

static const aiol_error_entry aiol_error_table[] = {
#define AIOL_ERROR_ENTRY(name, code, text) {code, #name, text},
    AIOLOOP_ERRORS(AIOL_ERROR_ENTRY)
#undef AIOL_ERROR_ENTRY
};

static const aiol_error_entry *aiol_error_find(int code) {
    size_t i;
    for (i = 0; i < sizeof(aiol_error_table) / sizeof(aiol_error_table[0]); i++)
        if (aiol_error_table[i].code == code)
            return &aiol_error_table[i];
    return NULL;
}

AIOLOOP_API const char *aioloop_strerror(int code) {
    const aiol_error_entry *entry = aiol_error_find(code);
    if (code >= 0)
        return "success";
    return entry != NULL ? entry->text : "unknown error";
}

AIOLOOP_API const char *aioloop_error_name(int code) {
    const aiol_error_entry *entry = aiol_error_find(code);
    if (code >= 0)
        return "OK";
    return entry != NULL ? entry->name : "EUNKNOWN";
}

#if AIOL_OS_POSIX
/* Translates errno. Its numbers differ between systems, ours do not; one that has no name here keeps its number, out of
 * the way of the others. */
AIOLOOP_INTERNAL int aiol_error_from_errno(int number) {
    switch (number) {
#define AIOL_ERRNO_CASE(name, code, text)                                                          \
    case name:                                                                                     \
        return AIOLOOP_##name;
        AIOLOOP_SYSTEM_ERRORS(AIOL_ERRNO_CASE)
#undef AIOL_ERRNO_CASE
    case ETIMEDOUT:
        return AIOLOOP_ETIMEDOUT;
#if EWOULDBLOCK != EAGAIN
    case EWOULDBLOCK:
        return AIOLOOP_EAGAIN;
#endif
    default:
        return number > 0 ? -10000 - number : AIOLOOP_EIO;
    }
}
#endif

/* ---- errors with a message ---- */

#define AIOL_ERROR_TEXT_SIZE 256

struct aioloop_error {
    int code;
    uint32_t refs;               /* of one that aiol_error_new made */
    size_t count;                /* of errors */
    struct aioloop_error **list; /* owned */
    char *text;                  /* "": nothing to add. Behind the struct in the same block, or the owner's buffer */
};

/* An error in a place that never allocates: a loop's or a thread's last one. */
typedef struct aiol_error_slot {
    struct aioloop_error error;
    char buffer[AIOL_ERROR_TEXT_SIZE];
} aiol_error_slot;

AIOLOOP_API int aioloop_error_code(const aioloop_error *error) {
    return error == NULL ? 0 : error->code;
}

AIOLOOP_API const char *aioloop_error_message(const aioloop_error *error) {
    if (error == NULL)
        return "success";
    if (error->text == NULL || error->text[0] == '\0')
        return aioloop_strerror(error->code);
    return error->text;
}

AIOLOOP_API size_t aioloop_error_count(const aioloop_error *error) {
    return error == NULL ? 0 : error->count;
}

AIOLOOP_API const aioloop_error *aioloop_error_at(const aioloop_error *error, size_t i) {
    if (error == NULL || i >= error->count)
        return NULL;
    return error->list[i];
}

AIOLOOP_INTERNAL void aiol_error_set(aiol_error_slot *slot, int code, const char *format, va_list arguments) {
    char text[AIOL_ERROR_TEXT_SIZE]; /* the arguments may be the message that is replaced */
    text[0] = '\0';
    if (format != NULL)
        vsnprintf(text, sizeof(text), format, arguments);
    memcpy(slot->buffer, text, strlen(text) + 1);
    slot->error.code = code;
    slot->error.count = 0;
    slot->error.text = slot->buffer;
}

/* Nothing is known of what failed last. */
AIOLOOP_INTERNAL void aiol_error_clear(aiol_error_slot *slot) {
    slot->error.code = 0;
    slot->error.count = 0;
    slot->error.text = slot->buffer;
    slot->buffer[0] = '\0';
}

/* An error of its own block with room for count others; NULL when there is no memory, and then the code alone has to
 * do. */
AIOLOOP_INTERNAL struct aioloop_error *aiol_error_new(const aioloop_allocator *a, int code, const char *text,
                                                      size_t count) {
    size_t length = text == NULL ? 0 : strlen(text);
    size_t list_size = count * sizeof(struct aioloop_error *);
    struct aioloop_error *e = (struct aioloop_error *)aiol_alloc(a, sizeof(*e) + list_size + length + 1);
    if (e == NULL)
        return NULL;
    e->code = code;
    e->refs = 1;
    e->count = 0;
    e->list = (struct aioloop_error **)(void *)(e + 1);
    e->text = (char *)(e + 1) + list_size;
    if (length != 0)
        memcpy(e->text, text, length);
    e->text[length] = '\0';
    return e;
}

/* Another owner; NULL is none. */
AIOL_INLINE struct aioloop_error *aiol_error_ref(struct aioloop_error *e) {
    if (e != NULL)
        e->refs++;
    return e;
}

/* An owner less. */
AIOLOOP_INTERNAL void aiol_error_free(const aioloop_allocator *a, struct aioloop_error *e) {
    size_t i;
    if (e == NULL || --e->refs != 0)
        return;
    for (i = 0; i < e->count; i++)
        aiol_error_free(a, e->list[i]);
    aiol_free(a, e, (size_t)(e->text - (char *)e) + strlen(e->text) + 1);
}

#endif

/* >> src/base/context.c */
/*
 * context.c - context variables, and what a thread remembers.                  (Python: contextvars)
 *
 * A map is an immutable set of values; changing a variable makes a new map, so capturing the current values is taking a
 * counter, and the empty map is NULL and costs nothing. aiol_thread.map is the current one. Where it belongs to
 * something that lives on (a connection, a context object), aiol_thread.place is the pointer that owns it, and a change
 * is stored there too; else (place NULL) aiol_thread.map is itself the owner. Counters are atomic, because work and its
 * context may go to another thread.
 */
#ifndef AIOL_BASE_CONTEXT_C
#define AIOL_BASE_CONTEXT_C

typedef struct aiol_context_cell {
    uint32_t refs;
    const aioloop_context_var *var;
    void *value;
    void (*dispose)(void *value);
} aiol_context_cell;

typedef struct aiol_map {
    uint32_t refs;
    uint32_t count;
    aiol_context_cell *cells[1]; /* count of them */
} aiol_map;

struct aioloop_context {
    uint32_t refs;
    bool current; /* some thread runs in it */
    aiol_map *map;
    aiol_map **outer; /* while it runs: the place that it replaced, */
    struct aioloop_context *outer_run; /* and the run that this one is inside of */
};

typedef struct aiol_thread_state {
    aioloop *running;
    aioloop *current;     /* asyncio.set_event_loop */
    bool current_was_set; /* also to NULL */
    bool counted;         /* first is known */
    bool first;           /* the process's first thread: see aioloop_get_event_loop */
    uint32_t number;      /* tells it from all others of the process; 0: not needed yet */
    int running_process;  /* whose running is; a forked child has another */
    aiol_map *map;    /* the current values */
    aiol_map **place; /* that owns them; NULL: map does */
    aioloop_context *run; /* the innermost aioloop_context_run */
    const void *pool;      /* the thread pool that it works for */
    const char *site_file; /* where the next object is made */
    int site_line;
    aiol_error_slot error; /* what had no loop to tell */
} aiol_thread_state;

static AIOL_THREAD_LOCAL aiol_thread_state aiol_thread;

static size_t aiol_map_size(uint32_t count) {
    return sizeof(aiol_map) + (count == 0 ? 0 : count - 1) * sizeof(aiol_context_cell *);
}

AIOL_INLINE aiol_map *aiol_map_ref(aiol_map *map) {
    if (AIOL_UNLIKELY(map != NULL))
        aiol_add_u32(&map->refs, 1);
    return map;
}

static void aiol_context_cell_unref(aiol_context_cell *cell) {
    if (aiol_add_u32(&cell->refs, (uint32_t)-1) != 0)
        return;
    if (cell->dispose != NULL)
        cell->dispose(cell->value);
    aiol_free(&aiol_default_allocator, cell, sizeof(*cell));
}

static AIOL_NOINLINE void aiol_map_release(aiol_map *map) {
    uint32_t i;
    if (aiol_add_u32(&map->refs, (uint32_t)-1) != 0)
        return;
    for (i = 0; i < map->count; i++)
        aiol_context_cell_unref(map->cells[i]);
    aiol_free(&aiol_default_allocator, map, aiol_map_size(map->count));
}

AIOL_INLINE void aiol_map_unref(aiol_map *map) {
    if (AIOL_UNLIKELY(map != NULL))
        aiol_map_release(map);
}

/* What was current before something else is. */
typedef struct aiol_context_frame {
    aiol_map *map;
    aiol_map **place;
} aiol_context_frame;

/* Makes the values that place owns the current ones. */
AIOL_INLINE aiol_context_frame aiol_context_enter(aiol_map **place) {
    aiol_context_frame frame;
    frame.map = aiol_thread.map;
    frame.place = aiol_thread.place;
    aiol_thread.map = *place;
    aiol_thread.place = place;
    return frame;
}

/* Reads the place again: what ran inside may have changed what it owns. */
AIOL_INLINE void aiol_context_leave(const aiol_context_frame *frame) {
    aiol_thread.place = frame->place;
    aiol_thread.map = frame->place != NULL ? *frame->place : frame->map;
}

/* Stores at *out a map like old but with cell for var (or, cell NULL, without var); NULL if nothing is left. Takes over
 * the caller's reference to cell when it succeeds. */
static int aiol_map_with(const aiol_map *old, const aioloop_context_var *var, aiol_context_cell *cell, aiol_map **out) {
    uint32_t old_count = old == NULL ? 0 : old->count;
    uint32_t count = cell == NULL ? 0 : 1;
    aiol_map *map;
    uint32_t i;
    for (i = 0; i < old_count; i++)
        if (old->cells[i]->var != var)
            count++;
    *out = NULL;
    if (count == 0)
        return 0;
    map = (aiol_map *)aiol_alloc(&aiol_default_allocator, aiol_map_size(count));
    if (map == NULL)
        return AIOLOOP_ENOMEM;
    map->refs = 1;
    map->count = 0;
    for (i = 0; i < old_count; i++) {
        if (old->cells[i]->var == var)
            continue;
        aiol_add_u32(&old->cells[i]->refs, 1);
        map->cells[map->count++] = old->cells[i];
    }
    if (cell != NULL)
        map->cells[map->count++] = cell;
    *out = map;
    return 0;
}

AIOLOOP_API void *aioloop_context_get(const aioloop_context_var *var) {
    const aiol_map *map = aiol_thread.map;
    uint32_t i;
    if (var == NULL)
        return NULL;
    for (i = 0; map != NULL && i < map->count; i++)
        if (map->cells[i]->var == var)
            return map->cells[i]->value;
    return var->default_value;
}

AIOLOOP_API int aioloop_context_set(const aioloop_context_var *var, void *value, void (*dispose)(void *value)) {
    aiol_map *old = aiol_thread.map;
    aiol_map *map = NULL;
    aiol_context_cell *cell = NULL;
    int err;
    if (var == NULL)
        return AIOLOOP_EINVAL;
    if (value != var->default_value || dispose != NULL) { /* else: as if never set */
        cell = (aiol_context_cell *)aiol_alloc(&aiol_default_allocator, sizeof(*cell));
        if (cell == NULL)
            return AIOLOOP_ENOMEM;
        cell->refs = 1;
        cell->var = var;
        cell->value = value;
        cell->dispose = dispose;
    }
    err = aiol_map_with(old, var, cell, &map);
    if (err < 0) {
        aiol_free(&aiol_default_allocator, cell, sizeof(*cell));
        return err;
    }
    aiol_thread.map = map;
    if (aiol_thread.place != NULL)
        *aiol_thread.place = map;
    aiol_map_unref(old);
    return 0;
}

AIOLOOP_API aioloop_context *aioloop_copy_context(void) {
    aioloop_context *context = (aioloop_context *)aiol_alloc(&aiol_default_allocator, sizeof(*context));
    if (context == NULL)
        return NULL;
    context->refs = 1;
    context->current = false;
    context->outer = NULL;
    context->outer_run = NULL;
    context->map = aiol_map_ref(aiol_thread.map);
    return context;
}

AIOLOOP_API void aioloop_context_ref(aioloop_context *context) {
    if (context != NULL)
        aiol_add_u32(&context->refs, 1);
}

AIOLOOP_API void aioloop_context_unref(aioloop_context *context) {
    if (context == NULL || aiol_add_u32(&context->refs, (uint32_t)-1) != 0)
        return;
    aiol_map_unref(context->map);
    aiol_free(&aiol_default_allocator, context, sizeof(*context));
}

/* A callback that runs in a context has entered it too, without a mark in it: its place is the current one, or the one
 * that a run inside of it replaced. */
static bool aiol_context_is_entered(const aioloop_context *context) {
    const aioloop_context *run;
    if (context->current || aiol_thread.place == &context->map)
        return true;
    for (run = aiol_thread.run; run != NULL; run = run->outer_run)
        if (run->outer == &context->map)
            return true;
    return false;
}

AIOLOOP_API int aioloop_context_run(aioloop_context *context, void (*fn)(void *arg), void *arg) {
    aiol_context_frame frame;
    if (context == NULL || fn == NULL)
        return AIOLOOP_EINVAL;
    if (aiol_context_is_entered(context))
        return AIOLOOP_EMISUSE;
    aioloop_context_ref(context);
    context->current = true;
    frame = aiol_context_enter(&context->map);
    context->outer = frame.place;
    context->outer_run = aiol_thread.run;
    aiol_thread.run = context;
    fn(arg);
    aiol_thread.run = context->outer_run;
    aiol_context_leave(&frame);
    context->current = false;
    aioloop_context_unref(context);
    return 0;
}

AIOLOOP_API void aioloop_site(const char *file, int line) {
    aiol_thread.site_file = file;
    aiol_thread.site_line = line;
}

AIOLOOP_API aioloop_time aioloop_seconds(double seconds) {
    double ns = seconds * 1e9;
    if (ns != ns)
        return AIOLOOP_NOT_A_TIME;
    if (ns >= 9.2e18)
        return AIOLOOP_FOREVER;
    if (ns <= -9.2e18)
        return AIOLOOP_NOT_A_TIME + 1;
    return (aioloop_time)(ns < 0 ? ns - 0.5 : ns + 0.5);
}

#endif

/* >> src/base/heap.h */
/*
 * heap.h - a 4-ary heap ordered by (key, tie).
 *
 * Entries hold the key beside the pointer, so a comparison touches the heap alone; only equal keys look at the items.
 * Each item knows its place (aiol_heap_item.index), so removal needs no search.
 */
#ifndef AIOL_BASE_HEAP_H
#define AIOL_BASE_HEAP_H

#define AIOL_NOT_IN_HEAP UINT32_MAX

typedef struct aiol_heap_item {
    uint32_t index; /* its place, or AIOL_NOT_IN_HEAP */
} aiol_heap_item;

typedef struct aiol_heap_entry {
    int64_t key;
    aiol_heap_item *item;
} aiol_heap_entry;

typedef struct aiol_heap {
    aiol_heap_entry *entries;
    size_t count;
    size_t capacity;
} aiol_heap;

/* Which of two items with equal keys comes first. The user of the heap defines it (core.h): a function pointer would
 * cost what the comparison itself does. */
AIOL_INLINE bool aiol_heap_before(const aiol_heap_item *a, const aiol_heap_item *b);

/* Keys are rarely equal, so most comparisons end after one. */
AIOL_INLINE bool aiol_heap_less(const aiol_heap_entry *a, const aiol_heap_entry *b) {
    return a->key <= b->key && (a->key < b->key || aiol_heap_before(a->item, b->item));
}

AIOL_INLINE void aiol_heap_put(aiol_heap_entry *entries, size_t i, const aiol_heap_entry *entry) {
    entries[i] = *entry;
    entry->item->index = (uint32_t)i;
}

/* Puts entry at i or above it, but not above top. */
AIOL_INLINE void aiol_heap_up(aiol_heap_entry *entries, size_t i, size_t top, aiol_heap_entry entry) {
    while (i > top) {
        size_t parent = (i - 1) / 4;
        if (!aiol_heap_less(&entry, &entries[parent]))
            break;
        aiol_heap_put(entries, i, &entries[parent]);
        i = parent;
    }
    aiol_heap_put(entries, i, &entry);
}

/* Puts entry at i or below it. The hole goes all the way down, where an entry that was the last mostly belongs, and the
 * entry up from there: that spares a comparison at each level. */
static void aiol_heap_down(aiol_heap *h, size_t i, aiol_heap_entry entry) {
    aiol_heap_entry *entries = h->entries;
    size_t count = h->count;
    size_t top = i;
    size_t child;
    while ((child = 4 * i + 1) < count) {
        const aiol_heap_entry *best = &entries[child];
        const aiol_heap_entry *other = best + 1;
        const aiol_heap_entry *end = child + 4 <= count ? best + 4 : entries + count;
        for (; other < end; other++)
            if (aiol_heap_less(other, best))
                best = other;
        aiol_heap_put(entries, i, best);
        i = (size_t)(best - entries);
    }
    aiol_heap_up(entries, i, top, entry);
}

/* 0 or AIOLOOP_ENOMEM. */
AIOL_INLINE int aiol_heap_push(const aioloop_allocator *a, aiol_heap *h, int64_t key, aiol_heap_item *item) {
    aiol_heap_entry entry;
    if (h->count == h->capacity) {
        int err;
        if (h->count >= UINT32_MAX - 1)
            return AIOLOOP_ENOMEM;
        err = aiol_grow(a, &h->entries, &h->capacity, sizeof(h->entries[0]), h->count + 1);
        if (err < 0)
            return err;
    }
    entry.key = key;
    entry.item = item;
    aiol_heap_up(h->entries, h->count++, 0, entry);
    return 0;
}

AIOLOOP_INTERNAL void aiol_heap_remove(aiol_heap *h, aiol_heap_item *item) {
    size_t i = item->index;
    aiol_heap_entry last;
    AIOL_ASSERT(i < h->count && h->entries[i].item == item);
    item->index = AIOL_NOT_IN_HEAP;
    last = h->entries[--h->count];
    if (i == h->count)
        return;
    if (i > 0 && aiol_heap_less(&last, &h->entries[(i - 1) / 4]))
        aiol_heap_up(h->entries, i, 0, last);
    else
        aiol_heap_down(h, i, last);
}

/* Gives the item another key. */
AIOLOOP_INTERNAL void aiol_heap_move(aiol_heap *h, aiol_heap_item *item, int64_t key) {
    size_t i = item->index;
    aiol_heap_entry entry;
    bool earlier = key < h->entries[i].key;
    entry.key = key;
    entry.item = item;
    if (earlier)
        aiol_heap_up(h->entries, i, 0, entry);
    else
        aiol_heap_down(h, i, entry);
}

AIOLOOP_INTERNAL void aiol_heap_verify(const aiol_heap *h) {
    size_t i;
    for (i = 0; i < h->count; i++) {
        AIOL_VERIFY(h->entries[i].item->index == i);
        AIOL_VERIFY(i == 0 || !aiol_heap_less(&h->entries[i], &h->entries[(i - 1) / 4]));
    }
}

#endif

/* >> src/base/bytes.c */
/*
 * bytes.c - a queue of bytes in chunks: what was written and not yet sent.
 *
 * Bytes are copied into the last chunk or a new one, or a chunk stands for memory that was lent. Chunks do not move, so
 * an operation may point into them while more is appended. Appending takes all or nothing. A lent chunk that is used
 * up, or dropped, goes to the `done` list; its release function is user code and is called by the owner when
 * that is allowed (aiol_bytes_release_first), never from in here.
 */
#ifndef AIOL_BASE_BYTES_C
#define AIOL_BASE_BYTES_C

#define AIOL_CHUNK_SIZE 4096u
#define AIOL_OWN_SIZE 1536u

typedef void (*aiol_release_fn)(const void *data, size_t size, void *arg);

typedef struct aiol_chunk {
    struct aiol_chunk *next;
    const unsigned char *start; /* the first byte still there */
    size_t size;                /* bytes still there */
    size_t room;                /* bytes that fit behind them; 0 for lent memory */
    size_t block_size;          /* of this allocation */
    aiol_release_fn release;    /* lent memory: NULL if not */
    void *arg;
    const void *lent;
    size_t lent_size;
} aiol_chunk;

typedef struct aiol_bytes {
    aiol_chunk *head;
    aiol_chunk *tail;
    aiol_chunk *done; /* lent chunks to be released, and the last of them */
    aiol_chunk *done_tail;
    size_t size;
    aiol_chunk *own; /* NULL, or one of AIOL_OWN_SIZE bytes that is there anyway: spares small writes an allocation */
} aiol_bytes;

static void aiol_bytes_link(aiol_bytes *q, aiol_chunk *chunk) {
    chunk->next = NULL;
    if (q->tail == NULL)
        q->head = chunk;
    else
        q->tail->next = chunk;
    q->tail = chunk;
    q->size += chunk->size;
}

/* 0 or AIOLOOP_ENOMEM with nothing taken. */
AIOLOOP_INTERNAL int aiol_bytes_append(aiol_bytes *q, const aioloop_allocator *a, const void *data, size_t size) {
    const unsigned char *from = (const unsigned char *)data;
    size_t here = q->tail == NULL ? 0 : aiol_min_size(q->tail->room, size);
    aiol_chunk *chunk = NULL;
    if (here < size) {
        size_t rest = size - here;
        size_t block = rest > AIOL_CHUNK_SIZE - sizeof(*chunk) ? rest + sizeof(*chunk) : AIOL_CHUNK_SIZE;
        if (rest > SIZE_MAX - sizeof(*chunk))
            return AIOLOOP_ENOMEM;
        if (q->tail == NULL && rest <= AIOL_OWN_SIZE - sizeof(*chunk) && q->own != NULL) {
            chunk = q->own;
            block = AIOL_OWN_SIZE;
        } else {
            chunk = (aiol_chunk *)aiol_alloc(a, block);
        }
        if (chunk == NULL)
            return AIOLOOP_ENOMEM;
        memset(chunk, 0, sizeof(*chunk));
        chunk->block_size = block;
        chunk->start = (unsigned char *)(chunk + 1);
        chunk->size = rest;
        chunk->room = block - sizeof(*chunk) - rest;
        memcpy(chunk + 1, from + here, rest);
    }
    if (here != 0) {
        aiol_chunk *tail = q->tail;
        memcpy((unsigned char *)tail + tail->block_size - tail->room, from, here);
        tail->room -= here;
        tail->size += here;
        q->size += here;
    }
    if (chunk != NULL)
        aiol_bytes_link(q, chunk);
    return 0;
}

/* Appends lent memory. 0 or AIOLOOP_ENOMEM, and then it is not lent. */
AIOLOOP_INTERNAL int aiol_bytes_lend(aiol_bytes *q, const aioloop_allocator *a, const void *data, size_t size,
                                     aiol_release_fn release, void *arg) {
    aiol_chunk *chunk = (aiol_chunk *)aiol_alloc_zero(a, sizeof(*chunk));
    if (chunk == NULL)
        return AIOLOOP_ENOMEM;
    chunk->block_size = sizeof(*chunk);
    chunk->start = (const unsigned char *)data;
    chunk->size = size;
    chunk->release = release;
    chunk->arg = arg;
    chunk->lent = data;
    chunk->lent_size = size;
    aiol_bytes_link(q, chunk);
    return 0;
}

/* Moves everything of from, which becomes empty, behind q. */
AIOLOOP_INTERNAL void aiol_bytes_join(aiol_bytes *q, aiol_bytes *from) {
    if (from->head == NULL)
        return;
    if (q->tail == NULL)
        q->head = from->head;
    else
        q->tail->next = from->head;
    q->tail = from->tail;
    q->size += from->size;
    memset(from, 0, sizeof(*from));
}

/* Describes the first bytes in at most max pieces; returns how many. They stay where they are until consumed. */
AIOLOOP_INTERNAL int aiol_bytes_pieces(const aiol_bytes *q, aioloop_buf *pieces, int max) {
    const aiol_chunk *chunk;
    int n = 0;
    for (chunk = q->head; chunk != NULL && n < max; chunk = chunk->next) {
        if (chunk->size == 0)
            continue;
        pieces[n].data = chunk->start;
        pieces[n].size = chunk->size;
        n++;
    }
    return n;
}

static void aiol_bytes_pop(aiol_bytes *q, const aioloop_allocator *a) {
    aiol_chunk *chunk = q->head;
    q->head = chunk->next;
    if (q->head == NULL)
        q->tail = NULL;
    q->size -= chunk->size;
    if (chunk->release == NULL) {
        if (chunk != q->own)
            aiol_free(a, chunk, chunk->block_size);
        return;
    }
    chunk->next = NULL;
    if (q->done == NULL)
        q->done = chunk;
    else
        q->done_tail->next = chunk;
    q->done_tail = chunk;
}

/* Drops the first n bytes. */
AIOLOOP_INTERNAL void aiol_bytes_consume(aiol_bytes *q, const aioloop_allocator *a, size_t n) {
    AIOL_ASSERT(n <= q->size);
    while (q->head != NULL && n >= q->head->size) {
        n -= q->head->size;
        aiol_bytes_pop(q, a);
    }
    if (n != 0) {
        q->head->start += n;
        q->head->size -= n;
        q->size -= n;
    }
}

/* Drops everything. */
AIOLOOP_INTERNAL void aiol_bytes_clear(aiol_bytes *q, const aioloop_allocator *a) {
    while (q->head != NULL)
        aiol_bytes_pop(q, a);
    AIOL_ASSERT(q->size == 0);
}

/* Gives the first of the done list back to its owner. Calls user code, which may do anything to q, also end it. */
AIOLOOP_INTERNAL void aiol_bytes_release_first(aiol_bytes *q, const aioloop_allocator *a) {
    aiol_chunk *chunk = q->done;
    const aiol_chunk was = *chunk;
    q->done = was.next;
    aiol_free(a, chunk, was.block_size);
    was.release(was.lent, was.lent_size, was.arg);
}

#endif

/* >> src/aioloop.h */
/* sys: one call of the system, one function. */

/* >> src/sys/sys.h */
/*
 * sys.h - the system's calls as the library uses them: one call, one function.
 *
 * Each returns 0 or above, or an AIOLOOP_E code; out-parameters are untouched on failure. EINTR is retried where the
 * call can be. Nothing here knows a loop. Sockets are made non-blocking and close-on-exec from birth. `without` is a
 * sum of AIOL_WITHOUT_..., the features to do without, for tests.
 */
#ifndef AIOL_SYS_SYS_H
#define AIOL_SYS_SYS_H

enum {
    AIOL_WITHOUT_ACCEPT4 = 1,
    AIOL_WITHOUT_EPOLL_PWAIT2 = 2,
    AIOL_WITHOUT_EVENTFD = 4,
    AIOL_WITHOUT_PIPE2 = 8,
    AIOL_WITHOUT_DEFER_TASKRUN = 16,
    AIOL_WITHOUT_COOP_TASKRUN = 32,
    AIOL_WITHOUT_BUFFER_RING = 64,
    AIOL_WITHOUT_INCREMENTAL = 128,
    AIOL_WITHOUT_MULTISHOT = 256
};

#define AIOL_NO_SOCKET ((aioloop_socket)-1)
#define AIOL_IOV_MAX 64 /* pieces of one send */

typedef enum aiol_socket_option {
    AIOL_OPTION_REUSE_ADDRESS,
    AIOL_OPTION_REUSE_PORT,
    AIOL_OPTION_KEEP_ALIVE,
    AIOL_OPTION_NO_DELAY,
    AIOL_OPTION_V6_ONLY
} aiol_socket_option;

/* What a socket file is, to know it again. */
typedef struct aiol_path_identity {
    uint64_t device;
    uint64_t inode;
    bool is_socket;
} aiol_path_identity;

/* Room for the path that an address of a Unix socket points to. */
typedef struct aiol_path_room {
    char bytes[108];
} aiol_path_room;

#if AIOL_OS_POSIX
AIOLOOP_INTERNAL aioloop_time aiol_clock_now(void);
AIOLOOP_INTERNAL int aiol_process_id(void);

AIOLOOP_INTERNAL int aiol_socket_open(int family, aioloop_socket *out);
AIOLOOP_INTERNAL int aiol_socket_close(aioloop_socket s);
AIOLOOP_INTERNAL int aiol_socket_bind(aioloop_socket s, const aioloop_address *address);
AIOLOOP_INTERNAL int aiol_socket_listen(aioloop_socket s, int backlog);
AIOLOOP_INTERNAL int aiol_socket_accept(aioloop_socket s, unsigned without, aioloop_socket *out,
                                        aioloop_address *peer, aiol_path_room *room);
/* 0: connected; AIOLOOP_EINPROGRESS: ask aiol_socket_connected once it is writable. */
AIOLOOP_INTERNAL int aiol_socket_connect(aioloop_socket s, const aioloop_address *address);
AIOLOOP_INTERNAL int aiol_socket_connected(aioloop_socket s);
/* 0 is the end of the stream; AIOLOOP_EAGAIN: nothing there. */
AIOL_INLINE int64_t aiol_socket_recv(aioloop_socket s, void *buffer, size_t size);
AIOL_INLINE int64_t aiol_socket_send(aioloop_socket s, const aioloop_buf *pieces, int count);
AIOLOOP_INTERNAL int aiol_socket_shutdown(aioloop_socket s);
AIOLOOP_INTERNAL int aiol_socket_set(aioloop_socket s, aiol_socket_option option, int value);
/* Checks that s is a stream socket, of *family. AIOLOOP_EINVAL for another kind. */
AIOLOOP_INTERNAL int aiol_socket_inspect(aioloop_socket s, int *family);
AIOLOOP_INTERNAL int aiol_socket_adopt(aioloop_socket s); /* non-blocking and close-on-exec */
AIOLOOP_INTERNAL int aiol_socket_name(aioloop_socket s, aioloop_address *address, aiol_path_room *room);
AIOLOOP_INTERNAL int aiol_socket_peer(aioloop_socket s, aioloop_address *address, aiol_path_room *room);
#if AIOL_HAVE_URING
/* Whether it is readable (events 1) or writable (2) now. */
AIOLOOP_INTERNAL bool aiol_descriptor_is_ready(aioloop_socket s, unsigned events);
#endif
/* 0 if s is a descriptor of any kind. */
AIOLOOP_INTERNAL int aiol_descriptor_check(aioloop_socket s);

AIOLOOP_INTERNAL int aiol_path_identify(const char *path, size_t size, aiol_path_identity *identity);
AIOLOOP_INTERNAL int aiol_path_remove(const char *path, size_t size);
#endif

/* ---- stack.c ---- */

#if AIOLOOP_USE_COROUTINES
#if AIOL_STACK_SWITCH == AIOL_SWITCH_UCONTEXT
typedef struct aiol_stack_pointer {
    ucontext_t inner;
    ucontext_t outer;
    bool inside;
} aiol_stack_pointer;
#else
typedef void *aiol_stack_pointer;
#endif

/* A stack and what is remembered of the side that does not run. */
typedef struct aiol_fiber {
    aiol_stack_pointer sp;
    char *base; /* its lowest byte */
    size_t size;
#if AIOL_KNOWS_VALGRIND
    uint64_t valgrind; /* its number for the stack */
#endif
#if AIOL_ASAN
    void *fake; /* AddressSanitizer's, of this stack */
    const void *outer_base;
    size_t outer_size;
#endif
#if AIOL_TSAN
    void *inner; /* ThreadSanitizer's */
    void *outer;
#endif
} aiol_fiber;

/* entry begins on the stack with the first aiol_fiber_enter. It never returns; it calls aiol_fiber_arrive first. After
 * renew it begins again, or goes on where it left. */
AIOLOOP_INTERNAL void aiol_fiber_begin(aiol_fiber *fiber, char *base, size_t size, void (*entry)(void));
AIOL_INLINE void aiol_fiber_renew(aiol_fiber *fiber, void (*entry)(void));
AIOL_INLINE void aiol_fiber_enter(aiol_fiber *fiber);
AIOL_INLINE void aiol_fiber_leave(aiol_fiber *fiber);
AIOL_INLINE void aiol_fiber_arrive(aiol_fiber *fiber);
AIOLOOP_INTERNAL void aiol_fiber_end(aiol_fiber *fiber);

AIOLOOP_INTERNAL size_t aiol_page_size(void);
AIOLOOP_INTERNAL void *aiol_stack_map(const aioloop_allocator *a, size_t size);
AIOLOOP_INTERNAL void aiol_stack_unmap(const aioloop_allocator *a, void *p, size_t size);
AIOLOOP_INTERNAL int aiol_stack_guard(void *p, size_t size, bool by_mapping);
AIOLOOP_INTERNAL void aiol_stack_discard(void *p, size_t size);
/* Debug mode: fn is asked when a thread touches memory that it may not, and what it says (or NULL) is written to
 * standard error before things go on as they would have. memory is the stack that this thread does so on until
 * unwatch, of AIOL_STACK_WATCH_SIZE bytes; not used if the thread has such a stack already. */
#define AIOL_STACK_WATCH_SIZE 65536u
AIOLOOP_INTERNAL void aiol_stack_watch(void *memory, const char *(*fn)(const char *address));
AIOLOOP_INTERNAL void aiol_stack_unwatch(void *memory);
#endif

#endif

/* >> src/sys/uring.h */
/*
 * uring.h - io_uring as the kernel has it. Programs are often built with headers older than the kernel they run on (or
 * with none: musl, tcc), so the interface stands here, with the kernel's numbers and names of our own.
 */
#ifndef AIOL_SYS_URING_H
#define AIOL_SYS_URING_H

#if AIOL_HAVE_URING

/* io_uring_setup */
#define AIOL_URING_CQSIZE 0x8u
#define AIOL_URING_CLAMP 0x10u
#define AIOL_URING_R_DISABLED 0x40u
#define AIOL_URING_SUBMIT_ALL 0x80u
#define AIOL_URING_COOP_TASKRUN 0x100u
#define AIOL_URING_TASKRUN_FLAG 0x200u
#define AIOL_URING_SINGLE_ISSUER 0x1000u
#define AIOL_URING_DEFER_TASKRUN 0x2000u
/* One mapping, nothing dropped, arguments copied, polls by itself, a time-out in enter, and (5.17) no completion on
 * success. */
#define AIOL_URING_FEATURES (0x1u | 0x2u | 0x4u | 0x20u | 0x100u | 0x800u)
#define AIOL_URING_MAP_RINGS 0
#define AIOL_URING_MAP_ENTRIES 0x10000000

/* io_uring_enter, and the flags of the submission ring */
#define AIOL_URING_GETEVENTS 0x1u
#define AIOL_URING_EXT_ARG 0x8u
#define AIOL_URING_SQ_OVERFLOW 0x2u
#define AIOL_URING_SQ_TASKRUN 0x4u

/* io_uring_register */
#define AIOL_URING_ENABLE 12u
#define AIOL_URING_REGISTER_EVENTFD 4u
#define AIOL_URING_UNREGISTER_EVENTFD 5u
#define AIOL_URING_REGISTER_BUFFERS 22u
#define AIOL_URING_BUFFERS_INCREMENTAL 2u

/* operations, and their flags */
enum {
    AIOL_URING_POLL_ADD = 6,
    AIOL_URING_SENDMSG = 9,
    AIOL_URING_ACCEPT = 13,
    AIOL_URING_CANCEL = 14,
    AIOL_URING_SEND = 26,
    AIOL_URING_RECV = 27
};
#define AIOL_URING_BUFFER_SELECT 0x20u
#define AIOL_URING_SKIP_SUCCESS 0x40u
#define AIOL_URING_RECV_MULTISHOT 0x2u
#define AIOL_URING_ACCEPT_MULTISHOT 0x1u
#define AIOL_URING_CANCEL_ALL 0x1u
#define AIOL_URING_CANCEL_ANY 0x4u

/* completions */
#define AIOL_URING_F_BUFFER 0x1u
#define AIOL_URING_F_MORE 0x2u
#define AIOL_URING_F_BUFFER_MORE 0x10u

typedef struct aiol_uring_entry {
    uint8_t operation;
    uint8_t flags;
    uint16_t priority; /* of recv and accept: their own flags */
    int32_t fd;
    uint64_t offset;
    uint64_t address;
    uint32_t size;
    uint32_t operation_flags;
    uint64_t user_data;
    uint16_t buffer_group;
    uint16_t personality;
    int32_t file_index;
    uint64_t more[2];
} aiol_uring_entry;

typedef struct aiol_uring_completion {
    uint64_t user_data;
    int32_t result;
    uint32_t flags;
} aiol_uring_completion;

typedef struct aiol_uring_setup {
    uint32_t sq_entries;
    uint32_t cq_entries;
    uint32_t flags;
    uint32_t sq_thread_cpu;
    uint32_t sq_thread_idle;
    uint32_t features;
    uint32_t wq_fd;
    uint32_t reserved[3];
    struct {
        uint32_t head, tail, mask, entries, flags, dropped, array, reserved;
        uint64_t user_address;
    } sq;
    struct {
        uint32_t head, tail, mask, entries, overflow, completions, flags, reserved;
        uint64_t user_address;
    } cq;
} aiol_uring_setup;

/* An entry of the ring of buffers; the ring's tail is the last member of the first one. */
typedef struct aiol_uring_buffer {
    uint64_t address;
    uint32_t size;
    uint16_t id;
    uint16_t tail;
} aiol_uring_buffer;

typedef struct aiol_uring_buffers {
    uint64_t address;
    uint32_t entries;
    uint16_t group;
    uint16_t flags;
    uint64_t reserved[3];
} aiol_uring_buffers;

/* The argument of enter: a time-out. */
typedef struct aiol_uring_wait {
    uint64_t sigmask;
    uint32_t sigmask_size;
    uint32_t min_wait;
    uint64_t timeout; /* of int64_t[2]: seconds, nanoseconds */
} aiol_uring_wait;

AIOL_STATIC_ASSERT(sizeof(aiol_uring_entry) == 64 && sizeof(aiol_uring_completion) == 16 && sizeof(aiol_uring_setup) == 120 &&
                       sizeof(aiol_uring_buffer) == 16 && sizeof(aiol_uring_buffers) == 40 && sizeof(aiol_uring_wait) == 24,
                   uring_is_the_kernels);

/* The same numbers on every architecture but alpha, which has them from 535. */
#ifdef SYS_io_uring_setup
#define AIOL_SYS_URING_SETUP SYS_io_uring_setup
#define AIOL_SYS_URING_ENTER SYS_io_uring_enter
#define AIOL_SYS_URING_REGISTER SYS_io_uring_register
#else
#define AIOL_SYS_URING_SETUP 425
#define AIOL_SYS_URING_ENTER 426
#define AIOL_SYS_URING_REGISTER 427
#endif

#endif
#endif

/* >> src/sys/address.c */
/*
 * address.c - addresses as values and as text. No call of the system.
 */
#ifndef AIOL_SYS_ADDRESS_C
#define AIOL_SYS_ADDRESS_C

/* ---- parsing ---- */

static bool aiol_address_parse_v4(const char *text, size_t size, uint8_t *ip) {
    size_t i = 0;
    int part;
    for (part = 0; part < 4; part++) {
        unsigned value = 0;
        size_t start = i;
        while (i < size && text[i] >= '0' && text[i] <= '9' && i - start < 3)
            value = value * 10 + (unsigned)(text[i++] - '0');
        if (i == start || value > 255 || (i - start > 1 && text[start] == '0'))
            return false;
        ip[part] = (uint8_t)value;
        if (part < 3 && (i >= size || text[i++] != '.'))
            return false;
    }
    return i == size;
}

static int aiol_address_hex(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static bool aiol_address_parse_v6(const char *text, size_t size, uint8_t *ip) {
    uint8_t bytes[16];
    size_t n = 0;        /* bytes filled */
    size_t gap = SIZE_MAX; /* where "::" stands */
    size_t i = 0;
    memset(bytes, 0, sizeof(bytes));
    if (size >= 2 && text[0] == ':' && text[1] == ':') {
        gap = 0;
        i = 2;
    }
    while (i < size) {
        unsigned value = 0;
        size_t start = i;
        while (i < size && aiol_address_hex(text[i]) >= 0 && i - start < 4)
            value = value * 16 + (unsigned)aiol_address_hex(text[i++]);
        if (i < size && text[i] == '.') { /* the last four bytes as IPv4 */
            if (n > 12 || !aiol_address_parse_v4(text + start, size - start, bytes + n))
                return false;
            n += 4;
            i = size;
            break;
        }
        if (i == start || n >= 16)
            return false;
        bytes[n++] = (uint8_t)(value >> 8);
        bytes[n++] = (uint8_t)value;
        if (i == size)
            break;
        if (text[i++] != ':' || i == size)
            return false;
        if (text[i] == ':') {
            if (gap != SIZE_MAX)
                return false;
            gap = n;
            i++;
        }
    }
    if (gap == SIZE_MAX ? n != 16 : n > 14)
        return false;
    memset(ip, 0, 16);
    if (gap == SIZE_MAX)
        gap = n;
    memcpy(ip, bytes, gap);
    memcpy(ip + 16 - (n - gap), bytes + gap, n - gap);
    return true;
}

AIOLOOP_API int aioloop_address_parse(aioloop_address *address, const char *host, int port) {
    aioloop_address parsed;
    size_t size;
    if (address == NULL || host == NULL || port < 0 || port > 65535)
        return AIOLOOP_EINVAL;
    size = strlen(host);
    memset(&parsed, 0, sizeof(parsed));
    parsed.port = (uint16_t)port;
    if (aiol_address_parse_v4(host, size, parsed.u.ip))
        parsed.family = AIOLOOP_INET;
    else if (aiol_address_parse_v6(host, size, parsed.u.ip))
        parsed.family = AIOLOOP_INET6;
    else
        return AIOLOOP_EINVAL;
    *address = parsed;
    return 0;
}

AIOLOOP_API int aioloop_address_unix(aioloop_address *address, const char *path, size_t size) {
    if (address == NULL || path == NULL)
        return AIOLOOP_EINVAL;
    if (size == 0)
        size = strlen(path);
    if (size == 0)
        return AIOLOOP_EINVAL;
    if (path[0] != '\0' && memchr(path, '\0', size) != NULL)
        return AIOLOOP_EINVAL;
    if (size > 107)
        return AIOLOOP_ENAMETOOLONG;
    memset(address, 0, sizeof(*address));
    address->family = AIOLOOP_UNIX;
    address->path_size = (uint32_t)size;
    address->u.path = path;
    return 0;
}

/* ---- formatting ---- */

/* A writer that counts what did not fit. */
typedef struct aiol_text {
    char *to;
    size_t size;
    size_t length;
} aiol_text;

static void aiol_text_char(aiol_text *t, char c) {
    if (t->length + 1 < t->size)
        t->to[t->length] = c;
    t->length++;
}

static void aiol_text_number(aiol_text *t, unsigned value, unsigned base) {
    char digits[12];
    int n = 0;
    do {
        digits[n++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value != 0);
    while (n > 0)
        aiol_text_char(t, digits[--n]);
}

static size_t aiol_text_end(aiol_text *t) {
    if (t->size != 0)
        t->to[t->length < t->size ? t->length : t->size - 1] = '\0';
    return t->length;
}

static void aiol_text_v4(aiol_text *t, const uint8_t *ip) {
    int i;
    for (i = 0; i < 4; i++) {
        if (i != 0)
            aiol_text_char(t, '.');
        aiol_text_number(t, ip[i], 10);
    }
}

/* RFC 5952: the longest run of zero groups, of two at least, becomes "::". */
static void aiol_text_v6(aiol_text *t, const uint8_t *ip) {
    unsigned group[8];
    int best = -1;
    int best_size = 1;
    int i;
    for (i = 0; i < 8; i++)
        group[i] = (unsigned)ip[2 * i] << 8 | ip[2 * i + 1];
    for (i = 0; i < 8; i++) {
        int end = i;
        while (end < 8 && group[end] == 0)
            end++;
        if (end - i > best_size) {
            best = i;
            best_size = end - i;
        }
    }
    if (best == 0 && best_size == 5 && group[5] == 0xffff) { /* an IPv4 address mapped */
        const char *prefix = "::ffff:";
        while (*prefix != '\0')
            aiol_text_char(t, *prefix++);
        aiol_text_v4(t, ip + 12);
        return;
    }
    for (i = 0; i < 8; i++) {
        if (i == best) {
            aiol_text_char(t, ':');
            aiol_text_char(t, ':');
            i += best_size - 1;
            continue;
        }
        if (i != 0 && (best < 0 || i != best + best_size))
            aiol_text_char(t, ':');
        aiol_text_number(t, group[i], 16);
    }
}

static void aiol_text_host(aiol_text *t, const aioloop_address *a) {
    uint32_t i;
    if (a->family == AIOLOOP_INET) {
        aiol_text_v4(t, a->u.ip);
    } else if (a->family == AIOLOOP_INET6) {
        aiol_text_v6(t, a->u.ip);
        if (a->scope_id != 0) {
            aiol_text_char(t, '%');
            aiol_text_number(t, a->scope_id, 10);
        }
    } else if (a->family == AIOLOOP_UNIX) {
        for (i = 0; i < a->path_size; i++)
            aiol_text_char(t, a->u.path[i] == '\0' ? '@' : a->u.path[i]);
    }
}

AIOLOOP_API size_t aioloop_address_host(const aioloop_address *address, char *text, size_t size) {
    aiol_text t;
    t.to = text;
    t.size = text == NULL ? 0 : size;
    t.length = 0;
    if (address != NULL)
        aiol_text_host(&t, address);
    return aiol_text_end(&t);
}

AIOLOOP_API size_t aioloop_address_format(const aioloop_address *address, char *text, size_t size) {
    aiol_text t;
    t.to = text;
    t.size = text == NULL ? 0 : size;
    t.length = 0;
    if (address != NULL) {
        if (address->family == AIOLOOP_INET6)
            aiol_text_char(&t, '[');
        aiol_text_host(&t, address);
        if (address->family == AIOLOOP_INET6)
            aiol_text_char(&t, ']');
        if (address->family == AIOLOOP_INET || address->family == AIOLOOP_INET6) {
            aiol_text_char(&t, ':');
            aiol_text_number(&t, address->port, 10);
        }
    }
    return aiol_text_end(&t);
}

AIOLOOP_API bool aioloop_address_equal(const aioloop_address *a, const aioloop_address *b) {
    if (a == NULL || b == NULL || a->family != b->family)
        return a == b;
    switch (a->family) {
    case AIOLOOP_INET:
        return a->port == b->port && memcmp(a->u.ip, b->u.ip, 4) == 0;
    case AIOLOOP_INET6:
        return a->port == b->port && a->scope_id == b->scope_id && memcmp(a->u.ip, b->u.ip, 16) == 0;
    case AIOLOOP_UNIX:
        return a->path_size == b->path_size && (a->path_size == 0 || memcmp(a->u.path, b->u.path, a->path_size) == 0);
    default:
        return true;
    }
}

#endif

/* >> src/sys/switch.c */
/*
 * switch.c - from one stack to another.
 *
 * aiol_stack_switch(&sp) keeps what a called function must keep on the stack it leaves, stores that stack's pointer at
 * sp and goes on with the one that was there. So one word stands for whichever side does not run. Kept are the
 * registers that a function keeps, and the modes of floating point (rounding and the like), so that each coroutine has
 * its own; flags that say what happened are the thread's, as the calling conventions have it. Modes are written only
 * when they differ, for that is slow.
 *
 * The word at the saved pointer holds the modes. A stack that begins looks as if its function had called the switch;
 * it has no caller, which is where debuggers stop.
 *
 * On x86 it jumps where others return: a processor that predicts where a return goes is wrong here each time, which
 * costs three times what all the rest does. On x86-64 it is inlined too, else the place that its call has left with
 * the processor would mislead the returns behind it. Elsewhere it is a function, aioloop_stack_switch, a weak, hidden
 * symbol: with AIOLOOP_STATIC a program may have it several times. Shadow stacks it does not know of: a program that
 * has them takes AIOLOOP_USE_UCONTEXT.
 */
#ifndef AIOL_SYS_SWITCH_C
#define AIOL_SYS_SWITCH_C

#if AIOLOOP_USE_COROUTINES

#if AIOL_STACK_SWITCH == AIOL_SWITCH_X86_64

#define AIOL_SWITCH_WORDS 3 /* of a stack that begins: what the switch takes from it, and on x86 a return address of 0 */
#define AIOL_SWITCH_PC 1    /* where it goes on */

/* The registers that AVX-512 adds. */
#if defined(__AVX512F__)
#define AIOL_SWITCH_VECTORS                                                                                  \
    "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26",       \
        "xmm27", "xmm28", "xmm29", "xmm30", "xmm31", "k1", "k2", "k3", "k4", "k5", "k6", "k7",
#else
#define AIOL_SWITCH_VECTORS
#endif

/* The compiler keeps what it needs of the registers that are listed; the library uses no others of floating point.
 * Below the pointer lie 128 bytes that a function may use. */
AIOL_INLINE void aiol_stack_switch(aiol_stack_pointer *sp) {
    __asm__ volatile("    leaq -128(%%rsp), %%rsp\n"
                     "    pushq %%rbp\n"
                     "    pushq %%rbx\n"
                     "    leaq 3f(%%rip), %%rax\n"
                     "    pushq %%rax\n"
                     "    subq $8, %%rsp\n"
                     "    stmxcsr (%%rsp)\n"
                     "    fnstcw 4(%%rsp)\n"
                     "    movq (%%rdi), %%rax\n"
                     "    movq %%rsp, (%%rdi)\n"
                     "    movl (%%rsp), %%ecx\n"
                     "    movzwl 4(%%rsp), %%edx\n"
                     "    movq %%rax, %%rsp\n"
                     "    movl (%%rsp), %%eax\n"
                     "    xorl %%ecx, %%eax\n"
                     "    testl $0xffc0, %%eax\n" /* the modes without the flags */
                     "    jne 1f\n"
                     "    cmpw 4(%%rsp), %%dx\n"
                     "    jne 1f\n"
                     "2:  addq $8, %%rsp\n"
                     "    popq %%rcx\n"
                     "    jmpq *%%rcx\n"
                     "1:  andl $0xffc0, %%eax\n"
                     "    xorl %%ecx, %%eax\n"
                     "    movl %%eax, (%%rsp)\n"
                     "    ldmxcsr (%%rsp)\n"
                     "    fldcw 4(%%rsp)\n"
                     "    jmp 2b\n"
                     "3:\n" AIOL_ASM_LANDING
                     "    popq %%rbx\n"
                     "    popq %%rbp\n"
                     "    leaq 128(%%rsp), %%rsp\n"
                     : "+D"(sp)
                     :
                     : "rax", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0",
                       "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                       "xmm12", "xmm13", "xmm14", "xmm15", AIOL_SWITCH_VECTORS "memory", "cc");
}

static void aiol_switch_modes(uintptr_t *sp) {
    uint32_t mxcsr;
    uint16_t control;
    __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
    __asm__ volatile("fnstcw %0" : "=m"(control));
    *sp = mxcsr | (uintptr_t)control << 32;
}

#elif AIOL_STACK_SWITCH == AIOL_SWITCH_I386

#define AIOL_SWITCH_WORDS 8
#define AIOL_SWITCH_PC 6

#if defined(__SSE__)
#define AIOL_SWITCH_SSE(code) code
#else
#define AIOL_SWITCH_SSE(code)
#endif

__asm__(AIOL_ASM_FUNCTION(aioloop_stack_switch)
        AIOL_ASM_LANDING
        "    pushl %ebp\n"
        "    pushl %ebx\n"
        "    pushl %esi\n"
        "    pushl %edi\n"
        "    subl $8, %esp\n"
        "    fnstcw (%esp)\n"
        "    movw (%esp), %dx\n"
        AIOL_SWITCH_SSE("    stmxcsr 4(%esp)\n"
                        "    movl 4(%esp), %ebx\n")
        "    movl (%ecx), %eax\n"
        "    movl %esp, (%ecx)\n"
        "    movl %eax, %esp\n"
        "    cmpw (%esp), %dx\n"
        "    je 1f\n"
        "    fldcw (%esp)\n"
        "1:\n"
        AIOL_SWITCH_SSE("    movl 4(%esp), %eax\n"
                        "    xorl %ebx, %eax\n"
                        "    andl $0xffc0, %eax\n" /* the modes without the flags */
                        "    je 2f\n"
                        "    xorl %ebx, %eax\n"
                        "    movl %eax, 4(%esp)\n"
                        "    ldmxcsr 4(%esp)\n"
                        "2:\n")
        "    addl $8, %esp\n"
        "    popl %edi\n"
        "    popl %esi\n"
        "    popl %ebx\n"
        "    popl %ebp\n"
        "    popl %ecx\n"
        "    " AIOL_ASM_JUMP " *%ecx\n"
        AIOL_ASM_END(aioloop_stack_switch));

static void aiol_switch_modes(uintptr_t *sp) {
    uint16_t control;
    __asm__ volatile("fnstcw %0" : "=m"(control));
    sp[0] = control;
    AIOL_SWITCH_SSE(__asm__ volatile("stmxcsr %0" : "=m"(sp[1]));)
}

#elif AIOL_STACK_SWITCH == AIOL_SWITCH_AARCH64

#define AIOL_SWITCH_PC 1
#if defined(__ARM_FP)
#define AIOL_SWITCH_WORDS 22
#define AIOL_SWITCH_FP(code) code
#else
#define AIOL_SWITCH_WORDS 14
#define AIOL_SWITCH_FP(code)
#endif

/* It returns by x9, so that a function that begins finds no caller in x30. */
__asm__(AIOL_ASM_FUNCTION(aioloop_stack_switch)
        AIOL_ASM_LANDING
        AIOL_SWITCH_FP("    sub sp, sp, #64\n"
                       "    stp d8, d9, [sp]\n"
                       "    stp d10, d11, [sp, #16]\n"
                       "    stp d12, d13, [sp, #32]\n"
                       "    stp d14, d15, [sp, #48]\n"
                       "    mrs x10, fpcr\n")
        "    stp x10, x30, [sp, #-112]!\n"
        "    stp x19, x20, [sp, #16]\n"
        "    stp x21, x22, [sp, #32]\n"
        "    stp x23, x24, [sp, #48]\n"
        "    stp x25, x26, [sp, #64]\n"
        "    stp x27, x28, [sp, #80]\n"
        "    str x29, [sp, #96]\n"
        "    ldr x11, [x0]\n"
        "    mov x12, sp\n"
        "    str x12, [x0]\n"
        "    mov sp, x11\n"
        "    ldp x19, x20, [sp, #16]\n"
        "    ldp x21, x22, [sp, #32]\n"
        "    ldp x23, x24, [sp, #48]\n"
        "    ldp x25, x26, [sp, #64]\n"
        "    ldp x27, x28, [sp, #80]\n"
        "    ldr x29, [sp, #96]\n"
        "    ldp x11, x9, [sp], #112\n"
        AIOL_SWITCH_FP("    ldp d8, d9, [sp]\n"
                       "    ldp d10, d11, [sp, #16]\n"
                       "    ldp d12, d13, [sp, #32]\n"
                       "    ldp d14, d15, [sp, #48]\n"
                       "    add sp, sp, #64\n"
                       "    cmp x10, x11\n"
                       "    b.eq 1f\n"
                       "    msr fpcr, x11\n"
                       "1:\n")
        "    mov x30, xzr\n"
        "    ret x9\n"
        AIOL_ASM_END(aioloop_stack_switch));

static void aiol_switch_modes(uintptr_t *sp) {
    AIOL_SWITCH_FP(__asm__ volatile("mrs %0, fpcr" : "=r"(*sp));)
    (void)sp;
}

#elif AIOL_STACK_SWITCH == AIOL_SWITCH_ARM

#define AIOL_SWITCH_PC 9
#if (defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)) && (!defined(__thumb__) || defined(__thumb2__))
#define AIOL_SWITCH_WORDS 26
#define AIOL_SWITCH_FP(code) code
#else
#define AIOL_SWITCH_WORDS 10
#define AIOL_SWITCH_FP(code)
#endif

/* A function that begins finds no caller in lr. Of the FPSCR the flags are cleared in what is kept. */
#if defined(__thumb__) && !defined(__thumb2__)
__asm__(AIOL_ASM_FUNCTION(aioloop_stack_switch)
        "    push {r4-r7, lr}\n"
        "    mov r4, r8\n"
        "    mov r5, r9\n"
        "    mov r6, r10\n"
        "    mov r7, r11\n"
        "    push {r3-r7}\n" /* r3 for the modes, which there are none of */
        "    ldr r1, [r0]\n"
        "    mov r2, sp\n"
        "    str r2, [r0]\n"
        "    mov sp, r1\n"
        "    pop {r3-r7}\n"
        "    mov r8, r4\n"
        "    mov r9, r5\n"
        "    mov r10, r6\n"
        "    mov r11, r7\n"
        "    pop {r4-r7}\n"
        "    pop {r3}\n"
        "    movs r2, #0\n"
        "    mov lr, r2\n"
        "    bx r3\n"
        AIOL_ASM_END(aioloop_stack_switch));
#else
__asm__(AIOL_ASM_FUNCTION(aioloop_stack_switch)
        AIOL_ASM_LANDING
        AIOL_SWITCH_FP("    vpush {d8-d15}\n"
                       "    vmrs r3, fpscr\n"
                       "    bic r3, r3, #0xf8000000\n"
                       "    bic r3, r3, #0x9f\n")
        "    push {r3-r11, lr}\n"
        "    ldr r1, [r0]\n"
        "    mov r2, sp\n"
        "    str r2, [r0]\n"
        "    mov sp, r1\n"
        "    mov r2, r3\n"
        "    pop {r3-r11, ip}\n"
        AIOL_SWITCH_FP("    vpop {d8-d15}\n"
                       "    eors r2, r2, r3\n"
                       "    beq 1f\n"
                       "    vmrs r3, fpscr\n"
                       "    eor r3, r3, r2\n"
                       "    vmsr fpscr, r3\n"
                       "1:\n")
        "    mov lr, #0\n"
        "    bx ip\n"
        AIOL_ASM_END(aioloop_stack_switch));
#endif

static void aiol_switch_modes(uintptr_t *sp) {
    AIOL_SWITCH_FP(__asm__ volatile("vmrs %0, fpscr" : "=r"(*sp)); *sp &= 0x07ffff60u;)
    (void)sp;
}

#elif AIOL_STACK_SWITCH == AIOL_SWITCH_RISCV

#if __riscv_xlen == 64
#define AIOL_SWITCH_INTEGERS 14
#define AIOL_SWITCH_WORD "8"
#define AIOL_SWITCH_STORE "sd "
#define AIOL_SWITCH_LOAD "ld "
#else
#define AIOL_SWITCH_INTEGERS 16 /* two of them are nothing */
#define AIOL_SWITCH_WORD "4"
#define AIOL_SWITCH_STORE "sw "
#define AIOL_SWITCH_LOAD "lw "
#endif
#define AIOL_SWITCH_PC 1

#if defined(__riscv_float_abi_double)
#define AIOL_SWITCH_FLOATS (96 / (__riscv_xlen / 8))
#define AIOL_SWITCH_FLOAT "8"
#define AIOL_SWITCH_FLOAT_STORE "fsd "
#define AIOL_SWITCH_FLOAT_LOAD "fld "
#elif defined(__riscv_float_abi_single)
#define AIOL_SWITCH_FLOATS (48 / (__riscv_xlen / 8))
#define AIOL_SWITCH_FLOAT "4"
#define AIOL_SWITCH_FLOAT_STORE "fsw "
#define AIOL_SWITCH_FLOAT_LOAD "flw "
#else
#define AIOL_SWITCH_FLOATS 0
#endif
#define AIOL_SWITCH_WORDS (AIOL_SWITCH_INTEGERS + AIOL_SWITCH_FLOATS)

#define AIOL_SWITCH_SAVE(reg, n) "    " AIOL_SWITCH_STORE #reg ", " #n "*" AIOL_SWITCH_WORD "(sp)\n"
#define AIOL_SWITCH_TAKE(reg, n) "    " AIOL_SWITCH_LOAD #reg ", " #n "*" AIOL_SWITCH_WORD "(sp)\n"
#define AIOL_SWITCH_MOVE(by) "    addi sp, sp, " by "\n"
#if __riscv_xlen == 64
#define AIOL_SWITCH_DOWN AIOL_SWITCH_MOVE("-112")
#define AIOL_SWITCH_UP AIOL_SWITCH_MOVE("112")
#else
#define AIOL_SWITCH_DOWN AIOL_SWITCH_MOVE("-64")
#define AIOL_SWITCH_UP AIOL_SWITCH_MOVE("64")
#endif

#if AIOL_SWITCH_FLOATS != 0
#define AIOL_SWITCH_FLOATS_ALL(one)                                                                       \
    one(fs0, 0) one(fs1, 1) one(fs2, 2) one(fs3, 3) one(fs4, 4) one(fs5, 5) one(fs6, 6) one(fs7, 7)       \
    one(fs8, 8) one(fs9, 9) one(fs10, 10) one(fs11, 11)
#define AIOL_SWITCH_FLOAT_SAVE(reg, n) "    " AIOL_SWITCH_FLOAT_STORE #reg ", " #n "*" AIOL_SWITCH_FLOAT "(sp)\n"
#define AIOL_SWITCH_FLOAT_TAKE(reg, n) "    " AIOL_SWITCH_FLOAT_LOAD #reg ", " #n "*" AIOL_SWITCH_FLOAT "(sp)\n"
#define AIOL_SWITCH_FLOATS_SAVE AIOL_SWITCH_MOVE("-12*" AIOL_SWITCH_FLOAT) AIOL_SWITCH_FLOATS_ALL(AIOL_SWITCH_FLOAT_SAVE)
#define AIOL_SWITCH_FLOATS_TAKE AIOL_SWITCH_FLOATS_ALL(AIOL_SWITCH_FLOAT_TAKE) AIOL_SWITCH_MOVE("12*" AIOL_SWITCH_FLOAT)
#else
#define AIOL_SWITCH_FLOATS_SAVE
#define AIOL_SWITCH_FLOATS_TAKE
#endif
#if defined(__riscv_flen)
#define AIOL_SWITCH_FP(code) code
#else
#define AIOL_SWITCH_FP(code)
#endif

#define AIOL_SWITCH_INTEGERS_ALL(one)                                                                     \
    one(s0, 2) one(s1, 3) one(s2, 4) one(s3, 5) one(s4, 6) one(s5, 7) one(s6, 8) one(s7, 9) one(s8, 10)   \
    one(s9, 11) one(s10, 12) one(s11, 13)

/* It returns by t0, so that a function that begins finds no caller in ra. */
__asm__(AIOL_ASM_FUNCTION(aioloop_stack_switch)
        AIOL_SWITCH_FLOATS_SAVE
        AIOL_SWITCH_DOWN
        AIOL_SWITCH_FP("    frrm t1\n"
                       AIOL_SWITCH_SAVE(t1, 0))
        AIOL_SWITCH_SAVE(ra, 1)
        AIOL_SWITCH_INTEGERS_ALL(AIOL_SWITCH_SAVE)
        "    " AIOL_SWITCH_LOAD "t2, 0(a0)\n"
        "    " AIOL_SWITCH_STORE "sp, 0(a0)\n"
        "    mv sp, t2\n"
        AIOL_SWITCH_FP(AIOL_SWITCH_TAKE(t2, 0))
        AIOL_SWITCH_TAKE(t0, 1)
        AIOL_SWITCH_INTEGERS_ALL(AIOL_SWITCH_TAKE)
        AIOL_SWITCH_UP
        AIOL_SWITCH_FLOATS_TAKE
        AIOL_SWITCH_FP("    beq t1, t2, 1f\n"
                       "    fsrm t2\n"
                       "1:\n")
        "    li ra, 0\n"
        "    jr t0\n"
        AIOL_ASM_END(aioloop_stack_switch));

static void aiol_switch_modes(uintptr_t *sp) {
    AIOL_SWITCH_FP(__asm__ volatile("frrm %0" : "=r"(*sp));)
    (void)sp;
}

#endif

#if AIOL_STACK_SWITCH != AIOL_SWITCH_UCONTEXT

#if AIOL_STACK_SWITCH != AIOL_SWITCH_X86_64
#ifdef __cplusplus
extern "C"
#else
extern
#endif
    void AIOL_ASM_CALL aioloop_stack_switch(void **sp) AIOL_ASM_VISIBILITY;

AIOL_INLINE void aiol_stack_switch(aiol_stack_pointer *sp) {
    aioloop_stack_switch(sp);
}
#endif

/* Makes *sp a stack that begins in entry when it is switched to, with the modes that are current now. */
AIOLOOP_INTERNAL void aiol_stack_begin(aiol_stack_pointer *sp, char *base, size_t size, void (*entry)(void)) {
    char *top = base + size;
    uintptr_t *words = (uintptr_t *)(void *)(top - ((uintptr_t)top & 15)) - AIOL_SWITCH_WORDS;
    memset(words, 0, AIOL_SWITCH_WORDS * sizeof(*words));
    words[AIOL_SWITCH_PC] = (uintptr_t)entry;
    aiol_switch_modes(words);
    *sp = words;
}

/* It was left for good, in the loop of entry; it goes on there with the modes that are current now. */
#define aiol_stack_renew(sp, base, size, entry) aiol_switch_modes((uintptr_t *)*(sp))

#else

/* The C library's way: each switch is a system call. */
AIOL_INLINE void aiol_stack_switch(aiol_stack_pointer *sp) {
    sp->inside = !sp->inside;
    if (sp->inside)
        swapcontext(&sp->outer, &sp->inner);
    else
        swapcontext(&sp->inner, &sp->outer);
}

AIOLOOP_INTERNAL void aiol_stack_begin(aiol_stack_pointer *sp, char *base, size_t size, void (*entry)(void)) {
    sp->inside = false;
    getcontext(&sp->inner);
    sp->inner.uc_stack.ss_sp = base;
    sp->inner.uc_stack.ss_size = size;
    sp->inner.uc_link = NULL;
    makecontext(&sp->inner, entry, 0);
}

#define aiol_stack_renew(sp, base, size, entry) aiol_stack_begin(sp, base, size, entry)

#endif

#endif

#endif

/* >> src/sys/stack.c */
/*
 * stack.c - fibers: a stack with what tools have to be told of each switch; the memory of stacks; who watches over it.
 */
#ifndef AIOL_SYS_STACK_C
#define AIOL_SYS_STACK_C

#if AIOLOOP_USE_COROUTINES

/* ---- fibers ---- */

#if AIOL_ASAN
#ifdef __cplusplus
extern "C" {
#endif
void __sanitizer_start_switch_fiber(void **fake, const void *base, size_t size);
void __sanitizer_finish_switch_fiber(void *fake, const void **base, size_t *size);
void __asan_unpoison_memory_region(void const volatile *p, size_t size);
#ifdef __cplusplus
}
#endif
#endif
#if AIOL_TSAN
#ifdef __cplusplus
extern "C" {
#endif
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
#ifdef __cplusplus
}
#endif
#endif

/* valgrind takes the change to another stack for a huge frame, unless it knows of the stack, and what lies below the
 * last stack pointer for memory that nobody may touch. This is how a program asks it for something: rotations that
 * come to nothing on a processor. */
#if AIOL_KNOWS_VALGRIND
static uint64_t aiol_valgrind_ask(uint64_t what, uint64_t a, uint64_t b) {
    volatile uint64_t request[6];
    volatile uint64_t *at = request;
    uint64_t answer = 0;
    request[0] = what;
    request[1] = a;
    request[2] = b;
    request[3] = 0;
    request[4] = 0;
    request[5] = 0;
    __asm__ volatile("rolq $3, %%rdi\n\trolq $13, %%rdi\n\trolq $61, %%rdi\n\trolq $51, %%rdi\n\txchgq %%rbx, %%rbx"
                     : "+d"(answer)
                     : "a"(at)
                     : "cc", "memory");
    return answer;
}

static void aiol_valgrind_begin(aiol_fiber *fiber) {
    fiber->valgrind = aiol_valgrind_ask(0x1501 /* register a stack */, (uintptr_t)fiber->base,
                                        (uintptr_t)(fiber->base + fiber->size - 1));
}

static void aiol_valgrind_end(aiol_fiber *fiber) {
    aiol_valgrind_ask(0x1502 /* deregister it */, fiber->valgrind, 0);
    aiol_valgrind_ask(0x4D430001 /* memory to be written anew */, (uintptr_t)fiber->base, fiber->size);
}
#else
#define aiol_valgrind_begin(fiber) ((void)(fiber))
#define aiol_valgrind_end(fiber) ((void)(fiber))
#endif

AIOLOOP_INTERNAL void aiol_fiber_begin(aiol_fiber *fiber, char *base, size_t size, void (*entry)(void)) {
    fiber->base = base;
    fiber->size = size;
    aiol_valgrind_begin(fiber);
#if AIOL_ASAN
    __asan_unpoison_memory_region(base, size);
    fiber->fake = NULL;
#endif
#if AIOL_TSAN
    fiber->inner = __tsan_create_fiber(0);
#endif
    aiol_stack_begin(&fiber->sp, base, size, entry);
}

/* What ran on it has left for good, and it is to run something else. */
AIOL_INLINE void aiol_fiber_renew(aiol_fiber *fiber, void (*entry)(void)) {
    (void)entry;
    aiol_stack_renew(&fiber->sp, fiber->base, fiber->size, entry);
}

/* From the loop's side (or another fiber's) onto it. Returns when it leaves. */
AIOL_INLINE void aiol_fiber_enter(aiol_fiber *fiber) {
#if AIOL_ASAN
    void *fake;
    __sanitizer_start_switch_fiber(&fake, fiber->base, fiber->size);
#endif
#if AIOL_TSAN
    fiber->outer = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(fiber->inner, 0);
#endif
    aiol_stack_switch(&fiber->sp);
#if AIOL_ASAN
    __sanitizer_finish_switch_fiber(fake, NULL, NULL);
#endif
}

/* The first thing on it. */
AIOL_INLINE void aiol_fiber_arrive(aiol_fiber *fiber) {
    (void)fiber;
#if AIOL_ASAN
    __sanitizer_finish_switch_fiber(fiber->fake, &fiber->outer_base, &fiber->outer_size);
#endif
}

/* Back to whoever entered it. Returns when it is entered again. */
AIOL_INLINE void aiol_fiber_leave(aiol_fiber *fiber) {
#if AIOL_ASAN
    __sanitizer_start_switch_fiber(&fiber->fake, fiber->outer_base, fiber->outer_size);
#endif
#if AIOL_TSAN
    __tsan_switch_to_fiber(fiber->outer, 0);
#endif
    aiol_stack_switch(&fiber->sp);
    aiol_fiber_arrive(fiber);
}

/* It will not be entered any more. Its memory is the caller's again. */
AIOLOOP_INTERNAL void aiol_fiber_end(aiol_fiber *fiber) {
    aiol_valgrind_end(fiber);
#if AIOL_ASAN
    __asan_unpoison_memory_region(fiber->base, fiber->size);
#endif
#if AIOL_TSAN
    __tsan_destroy_fiber(fiber->inner);
#endif
}

/* ---- memory ---- */

#if AIOL_OS_POSIX

AIOLOOP_INTERNAL size_t aiol_page_size(void) {
    long size = sysconf(_SC_PAGESIZE);
    return size > 0 ? (size_t)size : 4096;
}

/* Address space of size bytes, of which memory is taken as it is touched; NULL if there is none. */
AIOLOOP_INTERNAL void *aiol_stack_map(const aioloop_allocator *a, size_t size) {
    void *p;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_NORESERVE
    flags |= MAP_NORESERVE;
#endif
#ifdef MAP_STACK
    flags |= MAP_STACK;
#endif
    (void)a;
    if (AIOL_SYS(mmap, 0) < 0)
        return NULL;
    p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
#ifdef MADV_NOHUGEPAGE
    (void)madvise(p, size, MADV_NOHUGEPAGE); /* else the first byte of each stack may take 2 MiB */
#endif
    return p;
}

AIOLOOP_INTERNAL void aiol_stack_unmap(const aioloop_allocator *a, void *p, size_t size) {
    (void)a;
    munmap(p, size);
}

/* Makes touching it a fault. Linux 6.13 can do so within a mapping. Else it takes a mapping of its own, of which a
 * process may have 65,530: so only if that is wanted. 0: it is guarded; 1: by a mapping; or the system's error. */
AIOLOOP_INTERNAL int aiol_stack_guard(void *p, size_t size, bool by_mapping) {
#if AIOL_OS_LINUX
    if (AIOL_SYS(madvise, madvise(p, size, 102 /* MADV_GUARD_INSTALL */)) == 0)
        return 0;
#endif
    if (!by_mapping)
        return AIOLOOP_ENOMEM;
    return AIOL_SYS(mprotect, mprotect(p, size, PROT_NONE)) == 0 ? 1 : aiol_error_from_errno(errno);
}

/* Gives the memory back; the addresses stay. */
AIOLOOP_INTERNAL void aiol_stack_discard(void *p, size_t size) {
    (void)madvise(p, size, MADV_DONTNEED);
}

#if defined(__APPLE__)
#define AIOL_STACK_SIGNAL SIGBUS
#else
#define AIOL_STACK_SIGNAL SIGSEGV
#endif

/* What the handler of the signal needs: the one of before, and whom to ask. */
static struct sigaction aiol_stack_fault_before;
static const char *(*aiol_stack_fault_told)(const char *address);

/* Says what it knows and leaves the rest to whoever was there before. */
static void aiol_stack_fault(int number, siginfo_t *info, void *context) {
    const struct sigaction *before = &aiol_stack_fault_before;
    bool sent = info->si_code <= 0; /* by a process, not by a fault */
    const char *text = sent ? NULL : aiol_stack_fault_told((const char *)info->si_addr);
    if (text != NULL && write(2, text, strlen(text)) < 0)
        text = NULL;
    if ((before->sa_flags & SA_SIGINFO) != 0) {
        before->sa_sigaction(number, info, context);
    } else if (before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN) {
        before->sa_handler(number);
    } else if (before->sa_handler == SIG_DFL || !sent) {
        sigaction(number, before, NULL); /* the fault happens again, and ends the program */
        if (sent)
            raise(number);
    }
}

AIOLOOP_INTERNAL void aiol_stack_watch(void *memory, const char *(*fn)(const char *address)) {
    static uint32_t installed;
    stack_t stack;
    if (sigaltstack(NULL, &stack) == 0 && (stack.ss_flags & SS_DISABLE) != 0) { /* else the thread has one already */
        memset(&stack, 0, sizeof(stack));
        stack.ss_sp = (char *)memory;
        stack.ss_size = AIOL_STACK_WATCH_SIZE;
        sigaltstack(&stack, NULL);
    }
    if (aiol_exchange_u32(&installed, 1) == 0) {
        struct sigaction action;
        memset(&action, 0, sizeof(action));
        sigemptyset(&action.sa_mask);
        action.sa_sigaction = aiol_stack_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        aiol_stack_fault_told = fn;
        if (sigaction(AIOL_STACK_SIGNAL, NULL, &aiol_stack_fault_before) == 0)
            sigaction(AIOL_STACK_SIGNAL, &action, NULL);
    }
}

AIOLOOP_INTERNAL void aiol_stack_unwatch(void *memory) {
    stack_t stack;
    if (memory == NULL || sigaltstack(NULL, &stack) != 0 || stack.ss_sp != memory)
        return;
    stack.ss_flags = SS_DISABLE;
    sigaltstack(&stack, NULL);
}

#else

/* Without an operating system stacks are plain memory, and nothing watches over them. */
AIOLOOP_INTERNAL size_t aiol_page_size(void) {
    return 0;
}

AIOLOOP_INTERNAL void *aiol_stack_map(const aioloop_allocator *a, size_t size) {
    return aiol_alloc(a, size);
}

AIOLOOP_INTERNAL void aiol_stack_unmap(const aioloop_allocator *a, void *p, size_t size) {
    aiol_free(a, p, size);
}

AIOLOOP_INTERNAL int aiol_stack_guard(void *p, size_t size, bool by_mapping) {
    (void)p;
    (void)size;
    (void)by_mapping;
    return AIOLOOP_ENOTAVAILABLE;
}

AIOLOOP_INTERNAL void aiol_stack_discard(void *p, size_t size) {
    (void)p;
    (void)size;
}

AIOLOOP_INTERNAL void aiol_stack_watch(void *memory, const char *(*fn)(const char *address)) {
    (void)memory;
    (void)fn;
}

AIOLOOP_INTERNAL void aiol_stack_unwatch(void *memory) {
    (void)memory;
}

#endif

#endif

#endif

/* >> src/aioloop.h */
#if AIOL_OS_POSIX

/* >> src/sys/clock.c */
/*
 * clock.c - the monotonic clock, and who we are.
 */
#ifndef AIOL_SYS_CLOCK_C
#define AIOL_SYS_CLOCK_C

AIOLOOP_INTERNAL aioloop_time aiol_clock_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail: the clock exists and the pointer is good */
    return (aioloop_time)now.tv_sec * 1000000000 + (aioloop_time)now.tv_nsec;
}

AIOLOOP_INTERNAL int aiol_process_id(void) {
    return (int)getpid();
}

#endif

/* >> src/sys/socket_posix.c */
/*
 * socket_posix.c - sockets.
 *
 *   a) Linux closes the descriptor even when close() answers EINTR; closing it again would hit another thread's new
 *      one.
 *   b) connect() that was interrupted goes on by itself; asking again gives EALREADY.
 *   c) A connected Unix socket without a name has an address of two bytes, or of zero bytes on other systems.
 *   d) macOS has no MSG_NOSIGNAL; there the socket gets SO_NOSIGPIPE.
 *   e) accept() on Linux passes on errors of the new connection (ENETDOWN, EPROTO, ...), which are to be treated as if
 *      nobody had come.
 */
#ifndef AIOL_SYS_SOCKET_POSIX_C
#define AIOL_SYS_SOCKET_POSIX_C

#ifndef MSG_NOSIGNAL
#define AIOL_MSG_NOSIGNAL 0 /* d) */
#else
#define AIOL_MSG_NOSIGNAL MSG_NOSIGNAL
#endif

typedef union aiol_sockaddr {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_un local;
    struct sockaddr_storage room;
} aiol_sockaddr;

static int aiol_sockaddr_family(int family) {
    return family == AIOLOOP_INET ? AF_INET : family == AIOLOOP_INET6 ? AF_INET6 : AF_UNIX;
}

static socklen_t aiol_sockaddr_make(aiol_sockaddr *to, const aioloop_address *from) {
    memset(to, 0, sizeof(*to));
    switch (from->family) {
    case AIOLOOP_INET:
        to->v4.sin_family = AF_INET;
        to->v4.sin_port = htons(from->port);
        memcpy(&to->v4.sin_addr, from->u.ip, 4);
        return (socklen_t)sizeof(to->v4);
    case AIOLOOP_INET6:
        to->v6.sin6_family = AF_INET6;
        to->v6.sin6_port = htons(from->port);
        to->v6.sin6_scope_id = from->scope_id;
        memcpy(&to->v6.sin6_addr, from->u.ip, 16);
        return (socklen_t)sizeof(to->v6);
    default:
        to->local.sun_family = AF_UNIX;
        memcpy(to->local.sun_path, from->u.path, aiol_min_size(from->path_size, sizeof(to->local.sun_path)));
        /* An abstract name has no zero at its end, a path has one. */
        return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + from->path_size +
                           (from->u.path[0] == '\0' ? 0 : 1));
    }
}

static void aiol_sockaddr_read(const aiol_sockaddr *from, socklen_t size, aioloop_address *to, aiol_path_room *room) {
    memset(to, 0, sizeof(*to));
    if (size < (socklen_t)sizeof(from->any.sa_family) || from->any.sa_family == AF_UNIX) { /* c) */
        size_t start = offsetof(struct sockaddr_un, sun_path);
        size_t length = (size_t)size > start ? aiol_min_size((size_t)size - start, sizeof(room->bytes)) : 0;
        to->family = AIOLOOP_UNIX;
        to->u.path = room->bytes;
        memcpy(room->bytes, from->local.sun_path, length);
        if (length != 0 && room->bytes[0] != '\0') { /* a path: up to its zero */
            const void *zero = memchr(room->bytes, '\0', length);
            if (zero != NULL)
                length = (size_t)((const char *)zero - room->bytes);
        }
        to->path_size = (uint32_t)length;
    } else if (from->any.sa_family == AF_INET) {
        to->family = AIOLOOP_INET;
        to->port = ntohs(from->v4.sin_port);
        memcpy(to->u.ip, &from->v4.sin_addr, 4);
    } else if (from->any.sa_family == AF_INET6) {
        to->family = AIOLOOP_INET6;
        to->port = ntohs(from->v6.sin6_port);
        to->scope_id = from->v6.sin6_scope_id;
        memcpy(to->u.ip, &from->v6.sin6_addr, 16);
    }
}

static int aiol_socket_flags(aioloop_socket s) {
    int flags = AIOL_SYS(fcntl, fcntl(s, F_GETFL, 0));
    if (flags == -1)
        return aiol_error_from_errno(errno);
    if ((flags & O_NONBLOCK) == 0 && AIOL_SYS(fcntl, fcntl(s, F_SETFL, flags | O_NONBLOCK)) == -1)
        return aiol_error_from_errno(errno);
    flags = AIOL_SYS(fcntl, fcntl(s, F_GETFD, 0));
    if (flags == -1)
        return aiol_error_from_errno(errno);
    if ((flags & FD_CLOEXEC) == 0 && AIOL_SYS(fcntl, fcntl(s, F_SETFD, flags | FD_CLOEXEC)) == -1)
        return aiol_error_from_errno(errno);
#ifdef SO_NOSIGPIPE
    {
        int on = 1;
        setsockopt(s, SOL_SOCKET, SO_NOSIGPIPE, &on, (socklen_t)sizeof(on)); /* d) */
    }
#endif
    return 0;
}

AIOLOOP_INTERNAL int aiol_socket_open(int family, aioloop_socket *out) {
    int s;
#ifdef SOCK_CLOEXEC
    s = AIOL_SYS(socket, socket(aiol_sockaddr_family(family), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (s == -1)
        return aiol_error_from_errno(errno);
#else
    s = AIOL_SYS(socket, socket(aiol_sockaddr_family(family), SOCK_STREAM, 0));
    if (s == -1)
        return aiol_error_from_errno(errno);
    {
        int err = aiol_socket_flags(s);
        if (err < 0) {
            close(s);
            return err;
        }
    }
#endif
    *out = s;
    return 0;
}

AIOLOOP_INTERNAL int aiol_socket_adopt(aioloop_socket s) {
    return aiol_socket_flags(s);
}

AIOLOOP_INTERNAL int aiol_socket_close(aioloop_socket s) {
    if (close(s) == -1 && errno != EINTR) /* a) */
        return aiol_error_from_errno(errno);
    return 0;
}

AIOLOOP_INTERNAL int aiol_socket_bind(aioloop_socket s, const aioloop_address *address) {
    aiol_sockaddr name;
    socklen_t size = aiol_sockaddr_make(&name, address);
    if (AIOL_SYS(bind, bind(s, &name.any, size)) == -1)
        return aiol_error_from_errno(errno);
    return 0;
}

AIOLOOP_INTERNAL int aiol_socket_listen(aioloop_socket s, int backlog) {
    if (AIOL_SYS(listen, listen(s, backlog)) == -1)
        return aiol_error_from_errno(errno);
    return 0;
}

/* True for errors of the connection that was to be accepted, not of accepting. */
static bool aiol_accept_try_again(int number) {
    switch (number) {
    case EINTR:
    case ECONNABORTED:
#ifdef EPROTO
    case EPROTO:
#endif
    case ENOPROTOOPT: /* e) from here on */
    case ENETDOWN:
    case EHOSTUNREACH:
    case ENETUNREACH:
        return true;
    default:
        return false;
    }
}

AIOLOOP_INTERNAL int aiol_socket_accept(aioloop_socket s, unsigned without, aioloop_socket *out,
                                        aioloop_address *peer, aiol_path_room *room) {
    aiol_sockaddr name;
    socklen_t size;
    int tries = 0;
    int n = -1;
    do {
        size = (socklen_t)sizeof(name);
#if AIOL_HAVE_ACCEPT4
        if ((without & AIOL_WITHOUT_ACCEPT4) == 0)
            n = AIOL_SYS(accept4, accept4(s, &name.any, &size, SOCK_NONBLOCK | SOCK_CLOEXEC));
        else
#endif
            n = AIOL_SYS(accept, accept(s, &name.any, &size));
    } while (n == -1 && aiol_accept_try_again(errno) && ++tries < 16);
    if (n == -1)
        return aiol_accept_try_again(errno) ? AIOLOOP_EAGAIN : aiol_error_from_errno(errno);
    if (!AIOL_HAVE_ACCEPT4 || (without & AIOL_WITHOUT_ACCEPT4) != 0) {
        int err = aiol_socket_flags(n);
        if (err < 0) {
            close(n);
            return err;
        }
    }
    aiol_sockaddr_read(&name, size, peer, room);
    *out = n;
    return 0;
}

AIOLOOP_INTERNAL int aiol_socket_connect(aioloop_socket s, const aioloop_address *address) {
    aiol_sockaddr name;
    socklen_t size = aiol_sockaddr_make(&name, address);
    if (AIOL_SYS(connect, connect(s, &name.any, size)) == 0)
        return 0;
    if (errno == EINTR) /* b) */
        return AIOLOOP_EINPROGRESS;
    return aiol_error_from_errno(errno);
}

AIOLOOP_INTERNAL int aiol_socket_connected(aioloop_socket s) {
    int error = 0;
    socklen_t size = (socklen_t)sizeof(error);
    if (AIOL_SYS(getsockopt, getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &size)) == -1)
        return aiol_error_from_errno(errno);
    return error == 0 ? 0 : aiol_error_from_errno(error);
}

AIOL_INLINE int64_t aiol_socket_recv(aioloop_socket s, void *buffer, size_t size) {
    ssize_t n;
    do {
        n = AIOL_SYS(recv, recv(s, buffer, size, 0));
    } while (n == -1 && errno == EINTR);
    return n == -1 ? aiol_error_from_errno(errno) : (int64_t)n;
}

/* Fills a message of count pieces, for which there is room at iov. */
AIOLOOP_INTERNAL void aiol_socket_message(struct msghdr *message, struct iovec *iov, const aioloop_buf *pieces, int count) {
    int i;
    for (i = 0; i < count && i < AIOL_IOV_MAX; i++) {
        /* The system only reads from here, but its struct says void *. */
        memcpy(&iov[i].iov_base, &pieces[i].data, sizeof(void *));
        iov[i].iov_len = pieces[i].size;
    }
    memset(message, 0, sizeof(*message));
    message->msg_iov = iov;
#if defined(__GLIBC__) /* size_t here, int elsewhere */
    message->msg_iovlen = (size_t)i;
#else
    message->msg_iovlen = i;
#endif
}

static AIOL_NOINLINE int64_t aiol_socket_send_pieces(aioloop_socket s, const aioloop_buf *pieces, int count) {
    struct iovec iov[AIOL_IOV_MAX];
    struct msghdr message;
    ssize_t n;
    aiol_socket_message(&message, iov, pieces, count);
    do {
        n = AIOL_SYS(sendmsg, sendmsg(s, &message, AIOL_MSG_NOSIGNAL));
    } while (n == -1 && errno == EINTR);
    return n == -1 ? aiol_error_from_errno(errno) : (int64_t)n;
}

AIOL_INLINE int64_t aiol_socket_send(aioloop_socket s, const aioloop_buf *pieces, int count) {
    ssize_t n;
    if (AIOL_UNLIKELY(count != 1))
        return aiol_socket_send_pieces(s, pieces, count);
    do {
        n = AIOL_SYS(send, send(s, pieces->data, pieces->size, AIOL_MSG_NOSIGNAL));
    } while (n == -1 && errno == EINTR);
    return n == -1 ? aiol_error_from_errno(errno) : (int64_t)n;
}

AIOLOOP_INTERNAL int aiol_socket_shutdown(aioloop_socket s) {
    if (AIOL_SYS(shutdown, shutdown(s, SHUT_WR)) == -1)
        return aiol_error_from_errno(errno);
    return 0;
}

AIOLOOP_INTERNAL int aiol_socket_set(aioloop_socket s, aiol_socket_option option, int value) {
    int level = SOL_SOCKET;
    int name = 0;
    switch (option) {
    case AIOL_OPTION_REUSE_ADDRESS:
        name = SO_REUSEADDR;
        break;
    case AIOL_OPTION_REUSE_PORT:
#ifdef SO_REUSEPORT
        name = SO_REUSEPORT;
        break;
#else
        return AIOLOOP_ENOTAVAILABLE;
#endif
    case AIOL_OPTION_KEEP_ALIVE:
        name = SO_KEEPALIVE;
        break;
    case AIOL_OPTION_NO_DELAY:
        level = IPPROTO_TCP;
        name = TCP_NODELAY;
        break;
    case AIOL_OPTION_V6_ONLY:
        level = IPPROTO_IPV6;
        name = IPV6_V6ONLY;
        break;
    }
    if (AIOL_SYS(setsockopt, setsockopt(s, level, name, &value, (socklen_t)sizeof(value))) == -1)
        return aiol_error_from_errno(errno);
    return 0;
}

AIOLOOP_INTERNAL int aiol_socket_name(aioloop_socket s, aioloop_address *address, aiol_path_room *room) {
    aiol_sockaddr name;
    socklen_t size = (socklen_t)sizeof(name);
    if (AIOL_SYS(getsockname, getsockname(s, &name.any, &size)) == -1)
        return aiol_error_from_errno(errno);
    aiol_sockaddr_read(&name, size, address, room);
    return 0;
}

AIOLOOP_INTERNAL int aiol_socket_peer(aioloop_socket s, aioloop_address *address, aiol_path_room *room) {
    aiol_sockaddr name;
    socklen_t size = (socklen_t)sizeof(name);
    if (AIOL_SYS(getpeername, getpeername(s, &name.any, &size)) == -1)
        return aiol_error_from_errno(errno);
    aiol_sockaddr_read(&name, size, address, room);
    return 0;
}

AIOLOOP_INTERNAL int aiol_socket_inspect(aioloop_socket s, int *family) {
    aiol_sockaddr name;
    socklen_t size = (socklen_t)sizeof(name);
    int type = 0;
    socklen_t type_size = (socklen_t)sizeof(type);
    if (s < 0)
        return AIOLOOP_EBADF;
    if (AIOL_SYS(getsockopt, getsockopt(s, SOL_SOCKET, SO_TYPE, &type, &type_size)) == -1)
        return aiol_error_from_errno(errno);
    if (type != SOCK_STREAM)
        return AIOLOOP_EINVAL;
    if (AIOL_SYS(getsockname, getsockname(s, &name.any, &size)) == -1)
        return aiol_error_from_errno(errno);
    switch (name.any.sa_family) {
    case AF_INET:
        *family = AIOLOOP_INET;
        return 0;
    case AF_INET6:
        *family = AIOLOOP_INET6;
        return 0;
    case AF_UNIX:
        *family = AIOLOOP_UNIX;
        return 0;
    default:
        return AIOLOOP_EINVAL;
    }
}

#if AIOL_HAVE_URING
AIOLOOP_INTERNAL bool aiol_descriptor_is_ready(aioloop_socket s, unsigned events) {
    struct pollfd one;
    one.fd = s;
    one.events = (short)(((events & 1) != 0 ? POLLIN : 0) | ((events & 2) != 0 ? POLLOUT : 0));
    one.revents = 0;
    return AIOL_SYS(poll, poll(&one, 1, 0)) > 0;
}
#endif

AIOLOOP_INTERNAL int aiol_descriptor_check(aioloop_socket s) {
    if (s < 0)
        return AIOLOOP_EINVAL;
    if (AIOL_SYS(fcntl, fcntl(s, F_GETFD, 0)) == -1)
        return aiol_error_from_errno(errno);
    return 0;
}

#endif

/* >> src/sys/path_posix.c */
/*
 * path_posix.c - the files of Unix sockets.
 */
#ifndef AIOL_SYS_PATH_POSIX_C
#define AIOL_SYS_PATH_POSIX_C

static void aiol_path_copy(char *to, const char *path, size_t size) {
    size = aiol_min_size(size, 107);
    memcpy(to, path, size);
    to[size] = '\0';
}

AIOLOOP_INTERNAL int aiol_path_identify(const char *path, size_t size, aiol_path_identity *identity) {
    char name[108];
    struct stat st;
    aiol_path_copy(name, path, size);
    if (AIOL_SYS(stat, stat(name, &st)) == -1)
        return aiol_error_from_errno(errno);
    identity->device = (uint64_t)st.st_dev;
    identity->inode = (uint64_t)st.st_ino;
    identity->is_socket = S_ISSOCK(st.st_mode) != 0;
    return 0;
}

AIOLOOP_INTERNAL int aiol_path_remove(const char *path, size_t size) {
    char name[108];
    aiol_path_copy(name, path, size);
    if (AIOL_SYS(unlink, unlink(name)) == -1)
        return aiol_error_from_errno(errno);
    return 0;
}

#endif

/* >> src/aioloop.h */
#endif

/* >> src/sys/thread.c */
/*
 * thread.c - threads, and how they wait for each other.
 *
 * Without threads, or without an operating system, making one of these answers AIOLOOP_ENOTAVAILABLE.
 */
#ifndef AIOL_SYS_THREAD_C
#define AIOL_SYS_THREAD_C

#if AIOL_HAVE_PTHREAD

typedef pthread_mutex_t aiol_mutex;
typedef pthread_cond_t aiol_thread_condition;

typedef struct aiol_worker {
    pthread_t thread;
    void (*fn)(void *arg);
    void *arg;
} aiol_worker;

/* What these functions return: 0 or errno's number. */
static int aiol_pthread_error(int number) {
    return number == 0 ? 0 : aiol_error_from_errno(number);
}

AIOLOOP_INTERNAL int aiol_mutex_init(aiol_mutex *mutex) {
    if (AIOL_SYS(pthread_mutex_init, 0) < 0)
        return aiol_error_from_errno(errno);
    return aiol_pthread_error(pthread_mutex_init(mutex, NULL));
}

AIOLOOP_INTERNAL void aiol_mutex_destroy(aiol_mutex *mutex) {
    pthread_mutex_destroy(mutex);
}

AIOLOOP_INTERNAL void aiol_mutex_lock(aiol_mutex *mutex) {
    pthread_mutex_lock(mutex);
}

AIOLOOP_INTERNAL void aiol_mutex_unlock(aiol_mutex *mutex) {
    pthread_mutex_unlock(mutex);
}

AIOLOOP_INTERNAL int aiol_thread_condition_init(aiol_thread_condition *condition) {
    pthread_condattr_t attributes;
    int err;
    if (AIOL_SYS(pthread_cond_init, 0) < 0)
        return aiol_error_from_errno(errno);
    err = pthread_condattr_init(&attributes);
    if (err != 0)
        return aiol_pthread_error(err);
#ifndef __APPLE__
    err = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
#endif
    if (err == 0)
        err = pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
    return aiol_pthread_error(err);
}

AIOLOOP_INTERNAL void aiol_thread_condition_destroy(aiol_thread_condition *condition) {
    pthread_cond_destroy(condition);
}

AIOLOOP_INTERNAL void aiol_thread_condition_signal(aiol_thread_condition *condition) {
    pthread_cond_signal(condition);
}

AIOLOOP_INTERNAL void aiol_thread_condition_broadcast(aiol_thread_condition *condition) {
    pthread_cond_broadcast(condition);
}

/* When a wait is to end that begins now; AIOLOOP_FOREVER: never. */
AIOLOOP_INTERNAL aioloop_time aiol_thread_condition_deadline(aioloop_time timeout) {
    return aiol_time_add(aiol_clock_now(), timeout);
}

/* Waits with the mutex held. 0, also for no reason; AIOLOOP_ETIMEDOUT when the deadline has passed. */
AIOLOOP_INTERNAL int aiol_thread_condition_wait(aiol_thread_condition *condition, aiol_mutex *mutex, aioloop_time deadline) {
    struct timespec t;
    int err;
#ifdef __APPLE__ /* its conditions have no clock to choose */
    aioloop_time left = deadline - aiol_clock_now();
#else
    aioloop_time left = deadline;
#endif
    if (deadline == AIOLOOP_FOREVER) {
        pthread_cond_wait(condition, mutex);
        return 0;
    }
    if (left < 0)
        left = 0;
    t.tv_sec = (time_t)(left / 1000000000);
    t.tv_nsec = (long)(left % 1000000000);
#ifdef __APPLE__
    err = pthread_cond_timedwait_relative_np(condition, mutex, &t);
#else
    err = pthread_cond_timedwait(condition, mutex, &t);
#endif
    return err == ETIMEDOUT ? AIOLOOP_ETIMEDOUT : 0;
}

static void *aiol_worker_main(void *arg) {
    aiol_worker *worker = (aiol_worker *)arg;
    worker->fn(worker->arg);
    return NULL;
}

/* The attributes of a thread with at least that much stack; 0: the system's default. */
static int aiol_worker_attributes(pthread_attr_t *attributes, size_t stack_size) {
    const size_t unit = 65536; /* of which every system's page is a part */
    int err = pthread_attr_init(attributes);
    if (err != 0 || stack_size == 0)
        return err;
    if (stack_size < (size_t)PTHREAD_STACK_MIN)
        stack_size = (size_t)PTHREAD_STACK_MIN;
    err = stack_size > SIZE_MAX - unit ? EINVAL : pthread_attr_setstacksize(attributes, (stack_size + unit - 1) / unit * unit);
    if (err != 0)
        pthread_attr_destroy(attributes);
    return err;
}

/* Runs fn(arg) in a thread, with all signals blocked: they are the program's. worker stays where it is until the thread
 * is joined, or is detached by itself. */
AIOLOOP_INTERNAL int aiol_worker_start(aiol_worker *worker, void (*fn)(void *arg), void *arg, size_t stack_size) {
    pthread_attr_t attributes;
    sigset_t all;
    sigset_t before;
    int err;
    if (AIOL_SYS(pthread_create, 0) < 0)
        return aiol_error_from_errno(errno);
    err = aiol_worker_attributes(&attributes, stack_size);
    if (err != 0)
        return aiol_pthread_error(err);
    worker->fn = fn;
    worker->arg = arg;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    err = pthread_create(&worker->thread, &attributes, aiol_worker_main, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return aiol_pthread_error(err);
}

AIOLOOP_INTERNAL void aiol_worker_join(aiol_worker *worker) {
    pthread_join(worker->thread, NULL);
}

/* Nobody will join it. */
AIOLOOP_INTERNAL void aiol_worker_detach(aiol_worker *worker) {
    pthread_detach(worker->thread);
}

/* Whether it is the calling thread. */
AIOLOOP_INTERNAL bool aiol_worker_is_current(const aiol_worker *worker) {
    return pthread_equal(worker->thread, pthread_self()) != 0;
}

/* For debuggers and tools, where the system has names for threads; it may cut it. */
AIOLOOP_INTERNAL void aiol_thread_set_name(const char *name) {
#if defined(__linux__)
    (void)pthread_setname_np(pthread_self(), name);
#elif defined(__APPLE__)
    (void)pthread_setname_np(name);
#else
    (void)name;
#endif
}

/* How many threads can run at a time; at least 1. */
AIOLOOP_INTERNAL unsigned aiol_processor_count(void) {
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count > 0 ? (unsigned)count : 1;
}

#else

typedef int aiol_mutex;
typedef int aiol_thread_condition;

typedef struct aiol_worker {
    int unused;
} aiol_worker;

AIOLOOP_INTERNAL int aiol_mutex_init(aiol_mutex *mutex) {
    (void)mutex;
    return AIOLOOP_ENOTAVAILABLE;
}

AIOLOOP_INTERNAL void aiol_mutex_destroy(aiol_mutex *mutex) {
    (void)mutex;
}

AIOLOOP_INTERNAL void aiol_mutex_lock(aiol_mutex *mutex) {
    (void)mutex;
}

AIOLOOP_INTERNAL void aiol_mutex_unlock(aiol_mutex *mutex) {
    (void)mutex;
}

AIOLOOP_INTERNAL int aiol_thread_condition_init(aiol_thread_condition *condition) {
    (void)condition;
    return AIOLOOP_ENOTAVAILABLE;
}

AIOLOOP_INTERNAL void aiol_thread_condition_destroy(aiol_thread_condition *condition) {
    (void)condition;
}

AIOLOOP_INTERNAL void aiol_thread_condition_signal(aiol_thread_condition *condition) {
    (void)condition;
}

AIOLOOP_INTERNAL void aiol_thread_condition_broadcast(aiol_thread_condition *condition) {
    (void)condition;
}

AIOLOOP_INTERNAL aioloop_time aiol_thread_condition_deadline(aioloop_time timeout) {
    return timeout;
}

AIOLOOP_INTERNAL int aiol_thread_condition_wait(aiol_thread_condition *condition, aiol_mutex *mutex, aioloop_time deadline) {
    (void)condition;
    (void)mutex;
    (void)deadline;
    return AIOLOOP_ETIMEDOUT;
}

AIOLOOP_INTERNAL int aiol_worker_start(aiol_worker *worker, void (*fn)(void *arg), void *arg, size_t stack_size) {
    (void)worker;
    (void)fn;
    (void)arg;
    (void)stack_size;
    return AIOLOOP_ENOTAVAILABLE;
}

AIOLOOP_INTERNAL void aiol_worker_join(aiol_worker *worker) {
    (void)worker;
}

AIOLOOP_INTERNAL void aiol_worker_detach(aiol_worker *worker) {
    (void)worker;
}

AIOLOOP_INTERNAL bool aiol_worker_is_current(const aiol_worker *worker) {
    (void)worker;
    return false;
}

AIOLOOP_INTERNAL void aiol_thread_set_name(const char *name) {
    (void)name;
}

AIOLOOP_INTERNAL unsigned aiol_processor_count(void) {
    return 1;
}

#endif

#endif

/* >> src/aioloop.h */
/* poll: which descriptors are ready. */
#if AIOL_HAVE_REACTOR || AIOL_HAVE_URING

/* >> src/poll/poll.h */
/*
 * poll.h - which descriptors are ready. The contract of a poller: six functions, each file has one set.
 *                                                                              (asyncio: selectors.py)
 *
 * A poller is level-triggered: it tells a readiness at each wait as long as it lasts. An end, a hang-up or an error
 * counts as every event that was asked for. The generation given with a descriptor comes back with its events, so that
 * what is found for one that was meanwhile forgotten can be told from what is found for its successor of the same
 * number.
 */
#ifndef AIOL_POLL_POLL_H
#define AIOL_POLL_POLL_H

enum { AIOL_READABLE = 1, AIOL_WRITABLE = 2 };

#define AIOL_POLL_BATCH 256 /* descriptors that one wait tells of */

typedef struct aiol_ready {
    aioloop_socket fd;
    uint32_t generation;
    unsigned events;
} aiol_ready;

typedef struct aiol_poll {
    const struct aiol_poller *poller;
    const aioloop_allocator *allocator;
    unsigned without;
    int fd;      /* epoll's own */
    void *state; /* the others' */
} aiol_poll;

typedef struct aiol_poller {
    const char *name;
    int (*open)(aiol_poll *p);
    void (*close)(aiol_poll *p);
    /* Makes room for fd, so that set needs no memory. AIOLOOP_EINVAL for one that is too large for this poller. */
    int (*reserve)(aiol_poll *p, aioloop_socket fd);
    /* Watches fd for events instead of old (0: not at all). AIOLOOP_EPERM for what cannot be watched, ... */
    int (*set)(aiol_poll *p, aioloop_socket fd, unsigned old, unsigned events, uint32_t generation);
    /* Waits up to timeout ns (below 0: for ever) and stores at most AIOL_POLL_BATCH events; how many, or an error. 0 on
     * EINTR. */
    int (*wait)(aiol_poll *p, int64_t timeout, aiol_ready *ready);
    /* What can be polled in its place, or AIOLOOP_ENOTAVAILABLE. */
    int (*descriptor)(const aiol_poll *p);
} aiol_poller;

/* Milliseconds for a system call: rounded up, so that a wait never ends early; -1 for ever. */
AIOL_INLINE int aiol_poll_ms(int64_t timeout) {
    if (timeout < 0)
        return -1;
    if (timeout > (int64_t)INT_MAX * 1000000 - 1000000)
        return INT_MAX;
    return (int)((timeout + 999999) / 1000000);
}

AIOL_INLINE int aiol_poll_no_descriptor(const aiol_poll *p) {
    (void)p;
    return AIOLOOP_ENOTAVAILABLE;
}

#endif

/* >> src/poll/wake.c */
/*
 * wake.c - ends another thread's wait.
 *
 * An eventfd, or a pipe where there is none. Whoever wakes writes one byte or number; the waiter empties it. A full
 * pipe is as good as a written one.
 */
#ifndef AIOL_POLL_WAKE_C
#define AIOL_POLL_WAKE_C

typedef struct aiol_wake {
    int reader;
    int writer; /* the same for an eventfd */
} aiol_wake;

static int aiol_wake_pipe(unsigned without, int *ends) {
    int err;
#if AIOL_HAVE_PIPE2
    if ((without & AIOL_WITHOUT_PIPE2) == 0)
        return AIOL_SYS(pipe2, pipe2(ends, O_NONBLOCK | O_CLOEXEC)) == -1 ? aiol_error_from_errno(errno) : 0;
#endif
    (void)without;
    if (AIOL_SYS(pipe, pipe(ends)) == -1)
        return aiol_error_from_errno(errno);
    err = aiol_socket_flags(ends[0]);
    if (err == 0)
        err = aiol_socket_flags(ends[1]);
    if (err < 0) {
        close(ends[0]);
        close(ends[1]);
    }
    return err;
}

AIOLOOP_INTERNAL int aiol_wake_open(aiol_wake *w, unsigned without) {
    int ends[2];
    int err;
#if AIOL_HAVE_EVENTFD
    if ((without & AIOL_WITHOUT_EVENTFD) == 0) {
        int fd = AIOL_SYS(eventfd, eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
        if (fd == -1)
            return aiol_error_from_errno(errno);
        w->reader = fd;
        w->writer = fd;
        return 0;
    }
#endif
    err = aiol_wake_pipe(without, ends);
    if (err < 0)
        return err;
    w->reader = ends[0];
    w->writer = ends[1];
    return 0;
}

AIOLOOP_INTERNAL void aiol_wake_close(aiol_wake *w) {
    close(w->reader);
    if (w->writer != w->reader)
        close(w->writer);
}

/* Any thread, and signal handlers: errno is kept. */
AIOLOOP_INTERNAL void aiol_wake_signal(const aiol_wake *w) {
    uint64_t one = 1;
    int saved = errno;
    ssize_t n;
    do {
        n = write(w->writer, &one, sizeof(one));
    } while (n == -1 && errno == EINTR);
    errno = saved;
}

AIOLOOP_INTERNAL void aiol_wake_drain(const aiol_wake *w) {
    char bytes[256];
    ssize_t n;
    do {
        n = AIOL_SYS(read, read(w->reader, bytes, sizeof(bytes)));
    } while ((n == -1 && errno == EINTR) || n == (ssize_t)sizeof(bytes));
}

#endif

/* >> src/aioloop.h */
#if AIOL_HAVE_EPOLL

/* >> src/poll/epoll.c */
/*
 * epoll.c - readiness by Linux's epoll.
 *
 *   a) Regular files and directories are refused with EPERM, though poll() calls them always ready.
 *   b) A registration belongs to the open file, not to the number: closing a descriptor that was duplicated (or
 *      inherited by a child) leaves it behind, still reporting, and with no number left to remove it by. So it is
 *      removed before the close.
 *   c) Closing the last descriptor removes the registration silently; a later MOD gives ENOENT, and ADD is right.
 *   d) EPOLLHUP and EPOLLERR come unasked, also for an empty set of events; a descriptor nobody wants is removed.
 *   e) epoll_wait counts in milliseconds. epoll_pwait2 (5.11) takes nanoseconds, in 64 bits on 32-bit systems too; some
 *      sandboxes and valgrind refuse it.
 */
#ifndef AIOL_POLL_EPOLL_C
#define AIOL_POLL_EPOLL_C

static int aiol_epoll_open(aiol_poll *p) {
    p->fd = AIOL_SYS(epoll_create1, epoll_create1(EPOLL_CLOEXEC));
    return p->fd == -1 ? aiol_error_from_errno(errno) : 0;
}

static void aiol_epoll_close(aiol_poll *p) {
    close(p->fd);
    p->fd = -1;
}

static int aiol_epoll_reserve(aiol_poll *p, aioloop_socket fd) {
    (void)p;
    (void)fd;
    return 0;
}

static int aiol_epoll_set(aiol_poll *p, aioloop_socket fd, unsigned old, unsigned events, uint32_t generation) {
    struct epoll_event event;
    int operation = old == 0 ? EPOLL_CTL_ADD : events == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
    memset(&event, 0, sizeof(event));
    event.events = ((events & AIOL_READABLE) != 0 ? (uint32_t)EPOLLIN : 0u) |
                   ((events & AIOL_WRITABLE) != 0 ? (uint32_t)EPOLLOUT : 0u);
    event.data.u64 = (uint64_t)generation << 32 | (uint32_t)fd;
    if (AIOL_SYS(epoll_ctl, epoll_ctl(p->fd, operation, fd, &event)) == 0)
        return 0;
    if (operation == EPOLL_CTL_MOD && errno == ENOENT) /* c) */
        operation = EPOLL_CTL_ADD;
    else if (operation == EPOLL_CTL_ADD && errno == EEXIST)
        operation = EPOLL_CTL_MOD;
    else
        return aiol_error_from_errno(errno);
    if (AIOL_SYS(epoll_ctl, epoll_ctl(p->fd, operation, fd, &event)) == 0)
        return 0;
    return aiol_error_from_errno(errno);
}

static AIOL_NOINLINE int aiol_epoll_wait_ns(aiol_poll *p, int64_t timeout, struct epoll_event *events) {
#if AIOL_HAVE_EPOLL_PWAIT2
    if ((p->without & AIOL_WITHOUT_EPOLL_PWAIT2) == 0) { /* e) */
        int64_t spec[2];
        int n;
        spec[0] = timeout / 1000000000;
        spec[1] = timeout % 1000000000;
        n = AIOL_SYS(epoll_pwait2, (int)syscall(SYS_epoll_pwait2, p->fd, events, AIOL_POLL_BATCH, spec, NULL, (size_t)0));
        if (n != -1 || (errno != ENOSYS && errno != EPERM))
            return n;
        p->without |= AIOL_WITHOUT_EPOLL_PWAIT2;
    }
#endif
    return AIOL_SYS(epoll_wait, epoll_wait(p->fd, events, AIOL_POLL_BATCH, aiol_poll_ms(timeout)));
}

static int aiol_epoll_wait(aiol_poll *p, int64_t timeout, aiol_ready *ready) {
    struct epoll_event events[AIOL_POLL_BATCH];
    int n;
    int i;
    if (timeout <= 0)
        n = AIOL_SYS(epoll_wait, epoll_wait(p->fd, events, AIOL_POLL_BATCH, timeout == 0 ? 0 : -1));
    else
        n = aiol_epoll_wait_ns(p, timeout, events);
    if (n == -1)
        return errno == EINTR ? 0 : aiol_error_from_errno(errno);
    for (i = 0; i < n; i++) {
        uint32_t found = events[i].events;
        unsigned mask = (found & (uint32_t)EPOLLIN) != 0 ? (unsigned)AIOL_READABLE : 0u;
        if ((found & (uint32_t)EPOLLOUT) != 0)
            mask |= AIOL_WRITABLE;
        if (AIOL_UNLIKELY((found & ~(uint32_t)(EPOLLIN | EPOLLOUT)) != 0)) /* EPOLLERR, EPOLLHUP */
            mask = AIOL_READABLE | AIOL_WRITABLE;
        ready[i].fd = (aioloop_socket)(uint32_t)events[i].data.u64;
        ready[i].generation = (uint32_t)(events[i].data.u64 >> 32);
        ready[i].events = mask;
    }
    return n;
}

static int aiol_epoll_descriptor(const aiol_poll *p) {
    return p->fd;
}

static const aiol_poller aiol_poller_epoll = {"epoll",        aiol_epoll_open, aiol_epoll_close,     aiol_epoll_reserve,
                                              aiol_epoll_set, aiol_epoll_wait, aiol_epoll_descriptor};

#endif

/* >> src/aioloop.h */
#endif
#if AIOL_HAVE_POLL

/* >> src/poll/poll.c */
/*
 * poll.c - readiness by poll(), which every POSIX system has.
 *
 *   a) Costs a pass over all descriptors at each wait.
 *   b) POLLHUP and POLLERR come unasked, so a descriptor nobody wants is taken out of the array.
 *   c) A closed descriptor gives POLLNVAL for ever; it is told as ready, so that its owner finds out by using it.
 *   d) "Broken" for devices on old macOS; sockets and pipes are fine.
 *   e) Counts in milliseconds.
 */
#ifndef AIOL_POLL_POLL_C
#define AIOL_POLL_POLL_C

typedef struct aiol_poll_state {
    struct pollfd *fds;    /* dense */
    uint32_t *generations; /* beside fds */
    uint32_t *places;      /* by descriptor: its index in fds + 1, 0: not there */
    size_t count;
    size_t start; /* where the next scan begins: more may be ready than are told, and each is to have its turn */
    size_t fds_capacity;
    size_t generations_capacity;
    size_t places_capacity;
} aiol_poll_state;

static int aiol_poll_open(aiol_poll *p) {
    p->state = aiol_alloc_zero(p->allocator, sizeof(aiol_poll_state));
    return p->state == NULL ? AIOLOOP_ENOMEM : 0;
}

static void aiol_poll_close(aiol_poll *p) {
    aiol_poll_state *s = (aiol_poll_state *)p->state;
    aiol_free(p->allocator, s->fds, s->fds_capacity * sizeof(s->fds[0]));
    aiol_free(p->allocator, s->generations, s->generations_capacity * sizeof(s->generations[0]));
    aiol_free(p->allocator, s->places, s->places_capacity * sizeof(s->places[0]));
    aiol_free(p->allocator, s, sizeof(*s));
    p->state = NULL;
}

/* The dense arrays get room for as many descriptors as there are numbers up to fd: more than enough, whatever is
 * attached. */
static int aiol_poll_reserve(aiol_poll *p, aioloop_socket fd) {
    aiol_poll_state *s = (aiol_poll_state *)p->state;
    size_t wanted = (size_t)fd + 1;
    int err = aiol_grow(p->allocator, &s->places, &s->places_capacity, sizeof(s->places[0]), wanted);
    if (err == 0)
        err = aiol_grow(p->allocator, &s->fds, &s->fds_capacity, sizeof(s->fds[0]), wanted);
    if (err == 0)
        err = aiol_grow(p->allocator, &s->generations, &s->generations_capacity, sizeof(s->generations[0]), wanted);
    return err;
}

static int aiol_poll_set(aiol_poll *p, aioloop_socket fd, unsigned old, unsigned events, uint32_t generation) {
    aiol_poll_state *s = (aiol_poll_state *)p->state;
    size_t place = s->places[fd];
    (void)old;
    if (events == 0) { /* b) */
        if (place != 0) {
            s->count--;
            s->fds[place - 1] = s->fds[s->count];
            s->generations[place - 1] = s->generations[s->count];
            s->places[s->fds[place - 1].fd] = (uint32_t)place;
            s->places[fd] = 0;
        }
        return 0;
    }
    if (place == 0) {
        place = ++s->count;
        s->places[fd] = (uint32_t)place;
        s->fds[place - 1].fd = fd;
    }
    s->fds[place - 1].events = (short)(((events & AIOL_READABLE) != 0 ? POLLIN : 0) |
                                       ((events & AIOL_WRITABLE) != 0 ? POLLOUT : 0));
    s->generations[place - 1] = generation;
    return 0;
}

static int aiol_poll_wait(aiol_poll *p, int64_t timeout, aiol_ready *ready) {
    aiol_poll_state *s = (aiol_poll_state *)p->state;
    int left = AIOL_SYS(poll, poll(s->fds, (nfds_t)s->count, aiol_poll_ms(timeout)));
    int n = 0;
    size_t scanned;
    if (left == -1)
        return errno == EINTR || errno == EAGAIN ? 0 : aiol_error_from_errno(errno);
    if (s->start >= s->count)
        s->start = 0;
    for (scanned = 0; scanned < s->count && left > 0 && n < AIOL_POLL_BATCH; scanned++) {
        size_t i = s->start;
        int found = s->fds[i].revents;
        s->start = i + 1 < s->count ? i + 1 : 0;
        if (found == 0)
            continue;
        left--;
        ready[n].fd = s->fds[i].fd;
        ready[n].generation = s->generations[i];
        ready[n].events = ((found & POLLIN) != 0 ? (unsigned)AIOL_READABLE : 0u) |
                          ((found & POLLOUT) != 0 ? (unsigned)AIOL_WRITABLE : 0u);
        if ((found & (POLLERR | POLLHUP | POLLNVAL)) != 0) /* c) */
            ready[n].events |= AIOL_READABLE | AIOL_WRITABLE;
        n++;
    }
    return n;
}

static const aiol_poller aiol_poller_poll = {"poll",        aiol_poll_open, aiol_poll_close,        aiol_poll_reserve,
                                             aiol_poll_set, aiol_poll_wait, aiol_poll_no_descriptor};

#endif

/* >> src/aioloop.h */
#endif
#if AIOL_HAVE_SELECT

/* >> src/poll/select.c */
/*
 * select.c - readiness by select(), for systems with nothing else.
 *
 *   a) A descriptor of FD_SETSIZE (1024) or above would be written outside the set: it is refused.
 *   b) One closed descriptor makes the whole call fail with EBADF; each is then tried, the closed ones told as ready,
 *      and the others asked alone.
 *   c) Costs a pass over all numbers up to the largest at each wait.
 *   d) Counts in microseconds; some systems refuse more than a hundred million seconds.
 */
#ifndef AIOL_POLL_SELECT_C
#define AIOL_POLL_SELECT_C

typedef struct aiol_select_state {
    fd_set readable;
    fd_set writable;
    uint32_t generations[FD_SETSIZE];
    int end;   /* the largest descriptor watched, + 1 */
    int start; /* where the next scan begins: more may be ready than are told, and each is to have its turn */
} aiol_select_state;

static int aiol_select_open(aiol_poll *p) {
    aiol_select_state *s = (aiol_select_state *)aiol_alloc_zero(p->allocator, sizeof(*s));
    if (s == NULL)
        return AIOLOOP_ENOMEM;
    FD_ZERO(&s->readable);
    FD_ZERO(&s->writable);
    p->state = s;
    return 0;
}

static void aiol_select_close(aiol_poll *p) {
    aiol_free(p->allocator, p->state, sizeof(aiol_select_state));
    p->state = NULL;
}

static int aiol_select_reserve(aiol_poll *p, aioloop_socket fd) {
    (void)p;
    return fd < 0 || fd >= (int)FD_SETSIZE ? AIOLOOP_EINVAL : 0; /* a) */
}

static int aiol_select_set(aiol_poll *p, aioloop_socket fd, unsigned old, unsigned events, uint32_t generation) {
    aiol_select_state *s = (aiol_select_state *)p->state;
    (void)old;
    if ((events & AIOL_READABLE) != 0)
        FD_SET((unsigned)fd, &s->readable);
    else
        FD_CLR((unsigned)fd, &s->readable);
    if ((events & AIOL_WRITABLE) != 0)
        FD_SET((unsigned)fd, &s->writable);
    else
        FD_CLR((unsigned)fd, &s->writable);
    s->generations[fd] = generation;
    if (events != 0 && fd >= s->end)
        s->end = fd + 1;
    while (s->end > 0 && !FD_ISSET((unsigned)(s->end - 1), &s->readable) && !FD_ISSET((unsigned)(s->end - 1), &s->writable))
        s->end--;
    return 0;
}

/* b) Leaves in the sets the closed descriptors, and of the others those that are ready now. */
static void aiol_select_without_closed(const aiol_select_state *s, fd_set *readable, fd_set *writable) {
    struct timeval now = {0, 0};
    int fd;
    *readable = s->readable;
    *writable = s->writable;
    for (fd = 0; fd < s->end; fd++) {
        if (fcntl(fd, F_GETFD) == -1) {
            FD_CLR((unsigned)fd, readable);
            FD_CLR((unsigned)fd, writable);
        }
    }
    if (AIOL_SYS(select, select(s->end, readable, writable, NULL, &now)) == -1) {
        FD_ZERO(readable);
        FD_ZERO(writable);
    }
    for (fd = 0; fd < s->end; fd++) {
        if (fcntl(fd, F_GETFD) != -1)
            continue;
        if (FD_ISSET((unsigned)fd, &s->readable))
            FD_SET((unsigned)fd, readable);
        if (FD_ISSET((unsigned)fd, &s->writable))
            FD_SET((unsigned)fd, writable);
    }
}

static int aiol_select_wait(aiol_poll *p, int64_t timeout, aiol_ready *ready) {
    aiol_select_state *s = (aiol_select_state *)p->state;
    fd_set readable = s->readable;
    fd_set writable = s->writable;
    struct timeval limit;
    int end = s->end;
    int found;
    int n = 0;
    int scanned;
    if (timeout > 100000000 * INT64_C(1000000000))
        timeout = 100000000 * INT64_C(1000000000); /* d) */
    limit.tv_sec = (time_t)(timeout < 0 ? 0 : (timeout + 999) / 1000000000);
    limit.tv_usec = (suseconds_t)(timeout < 0 ? 0 : (timeout + 999) / 1000 % 1000000);
    found = AIOL_SYS(select, select(end, &readable, &writable, NULL, timeout < 0 ? NULL : &limit));
    if (found == -1 && errno == EBADF)
        aiol_select_without_closed(s, &readable, &writable);
    else if (found == -1)
        return errno == EINTR || errno == EAGAIN ? 0 : aiol_error_from_errno(errno);
    else if (found == 0)
        return 0;
    for (scanned = 0; scanned < end && n < AIOL_POLL_BATCH; scanned++) {
        int fd = s->start < end ? s->start : 0;
        unsigned events = (FD_ISSET((unsigned)fd, &readable) ? (unsigned)AIOL_READABLE : 0u) |
                          (FD_ISSET((unsigned)fd, &writable) ? (unsigned)AIOL_WRITABLE : 0u);
        s->start = fd + 1;
        if (events == 0)
            continue;
        ready[n].fd = fd;
        ready[n].generation = s->generations[fd];
        ready[n].events = events;
        n++;
    }
    return n;
}

static const aiol_poller aiol_poller_select = {"select",        aiol_select_open, aiol_select_close,      aiol_select_reserve,
                                               aiol_select_set, aiol_select_wait, aiol_poll_no_descriptor};

#endif

/* >> src/aioloop.h */
#endif
#endif

/* io: operations that complete. The waist. */

/* >> src/io/op.h */
/*
 * op.h - the waist: operations, and what an engine does with them.
 *
 * Everything above (transports, servers, watchers) is written against this file alone; everything below (the reactor
 * over any poller, io_uring, the simulated engine, a firmware's port) implements it. Nothing above may ask which engine
 * runs.
 *
 * An operation is a small struct inside its owner, used in the loop's thread only; the owner may go only while the
 * operation is IDLE. One-shots (SEND, CONNECT) are submitted and complete exactly once, or finish at once. Sources
 * (RECV, ACCEPT, POLL) deliver many times until cancelled; they become IDLE by themselves on an end of file or an error
 * only.
 *
 *     IDLE -submit-> ACTIVE -done-> IDLE          ACTIVE|STOPPED -cancel-> IDLE, or CANCELLING -done-> IDLE
 *     ACTIVE <-stop/start-> STOPPED
 *
 * The kernel is never given memory of the user to read into. A SEND lends memory until it is done.
 */
#ifndef AIOL_IO_OP_H
#define AIOL_IO_OP_H

/* Not a result: done() will come. Out of the way of counts and codes. */
#define AIOL_PENDING INT32_MIN

typedef enum aiol_op_kind { AIOL_OP_SEND, AIOL_OP_CONNECT, AIOL_OP_RECV, AIOL_OP_ACCEPT, AIOL_OP_POLL } aiol_op_kind;

typedef enum aiol_op_state {
    AIOL_OP_IDLE,      /* the owner's */
    AIOL_OP_ACTIVE,    /* the engine's; done() will come */
    AIOL_OP_STOPPED,   /* a source: no done(); what still arrives is kept, in order */
    AIOL_OP_CANCELLING /* done() will come exactly once more, whatever it says */
} aiol_op_state;

enum { AIOL_POLL_READABLE = 1, AIOL_POLL_WRITABLE = 2 };

typedef struct aiol_op {
    uint8_t kind;
    uint8_t state;
    uint8_t flags; /* the owner's */
    uint8_t engine_flags;
    uint32_t generation; /* the engine's: events found before the submission miss */
    aioloop_socket fd;
    struct aiol_op *link; /* the engine's */
    /* n: a count (SEND, RECV: bytes; 0 of RECV is the end of the stream; ACCEPT: the new socket, with data the peer's
     * const aioloop_address *; POLL: the events; CONNECT: 0) or a code. data of RECV is valid during the call. Returns
     * how many bytes of a RECV it took (others 0); the rest is kept and offered again in the next iteration or after
     * start. Called only from aiol_io_dispatch. May submit, stop or cancel any operation, and end its owner if that is
     * IDLE. A CANCELLING one gets AIOLOOP_ECANCELED, or what had happened already: bytes sent, a socket accepted (which
     * its owner must then close). */
    size_t (*done)(struct aiol_op *op, int64_t n, const void *data);
    union {
        struct {
            const aioloop_buf *pieces; /* AIOL_IOV_MAX at most; they and what they name stay as they are until done */
            int count;
        } send;
        struct {
            const aioloop_address *address; /* read by submit alone */
        } connect;
        struct {
            /* NULL: the engine's buffer. Else asked when bytes ARE there: stores where they go and returns how many
             * fit, and done() follows with data in that place; 0: none now. May do what done() may. */
            size_t (*dest)(struct aiol_op *op, void **buffer);
            bool internet;  /* a socket of the internet; false: of another kind, or nobody knows */
            bool multishot; /* the engine's: how bytes were asked for, */
            int end;        /* and what comes behind those that it keeps */
        } recv;
        struct {
            int budget;    /* connections in one iteration */
            int taken;     /* the engine's: in this one, */
            uint32_t turn; /* of this number */
        } accept;
        struct {
            unsigned events; /* one of AIOL_POLL_...: done() in every iteration while it is so */
        } poll;
    } u;
    void *engine; /* the engine's: what it keeps for this operation */
} aiol_op;

/* An idle connection pays for one. */
AIOL_STATIC_ASSERT(sizeof(void *) != 8 || sizeof(aiol_op) <= 64, op_is_small);

typedef struct aiol_budget {
    size_t bytes;     /* per source and iteration */
    const bool *halt; /* set by a callback: dispatch no more, keep the rest */
} aiol_budget;

/* Who attaches a descriptor. */
typedef enum aiol_owner { AIOL_OWNER_TRANSPORT, AIOL_OWNER_WATCHER } aiol_owner;

struct aiol_engine;

/* Sockets as the engine has them: the system's, or simulated ones. As the functions of sys.h. */
typedef struct aiol_socket_calls {
    int (*open)(struct aiol_engine *e, int family, aioloop_socket *out);
    int (*close)(struct aiol_engine *e, aioloop_socket s);
    int (*bind)(struct aiol_engine *e, aioloop_socket s, const aioloop_address *address);
    int (*listen)(struct aiol_engine *e, aioloop_socket s, int backlog);
    int (*shutdown)(struct aiol_engine *e, aioloop_socket s); /* no more is sent */
    int (*set)(struct aiol_engine *e, aioloop_socket s, aiol_socket_option option, int value);
    int (*inspect)(struct aiol_engine *e, aioloop_socket s, int *family);
    int (*adopt)(struct aiol_engine *e, aioloop_socket s);
    int (*name)(struct aiol_engine *e, aioloop_socket s, aioloop_address *address, aiol_path_room *room);
    int (*peer)(struct aiol_engine *e, aioloop_socket s, aioloop_address *address, aiol_path_room *room);
    int (*path_identify)(struct aiol_engine *e, const char *path, size_t size, aiol_path_identity *identity);
    int (*path_remove)(struct aiol_engine *e, const char *path, size_t size);
} aiol_socket_calls;

typedef struct aiol_engine_calls {
    void (*close)(struct aiol_engine *e);

    /* >= 0 or a code: finished now, IDLE, done() will not come. AIOL_PENDING: ACTIVE. Needs no memory beyond what
     * attach reserved. At most one of SEND and CONNECT, and one RECV or ACCEPT, is active per descriptor. For POLL what
     * the system says of the descriptor (AIOLOOP_EPERM, ...) is the result. */
    int64_t (*submit)(struct aiol_engine *e, aiol_op *op);
    /* A send that does not wait: what the system takes at once, or a code; AIOL_PENDING: nothing, queue it and submit.
     * While no SEND is active on fd. The memory is the caller's again on return. now: even if it would be cheaper with
     * the next wait. */
    int64_t (*attempt)(struct aiol_engine *e, aioloop_socket fd, const aioloop_buf *pieces, int count, bool now);
    /* 0: IDLE now, done() will not come (also if it was IDLE). AIOL_PENDING: CANCELLING. */
    int (*cancel)(struct aiol_engine *e, aiol_op *op);
    void (*stop)(struct aiol_engine *e, aiol_op *op);  /* after this no done() until start */
    void (*start)(struct aiol_engine *e, aiol_op *op); /* what was kept first, in the next dispatch */
    size_t (*take)(struct aiol_engine *e, aiol_op *op, void *to, size_t size); /* STOPPED: empties what was kept */
    aiol_op *(*watching)(struct aiol_engine *e, aioloop_socket fd, unsigned event); /* the active POLL, or NULL */
    bool (*owned)(struct aiol_engine *e, aioloop_socket fd); /* attached by a transport */

    /* Before any operation on fd; reserves. A transport's descriptor is nobody else's: AIOLOOP_EMISUSE. */
    int (*attach)(struct aiol_engine *e, aioloop_socket fd, aiol_owner owner);
    /* Before fd is closed: the system lets go of it. Operations may still be CANCELLING. */
    void (*quiesce)(struct aiol_engine *e, aioloop_socket fd);

    /* Flush, wait (not if deadline is past), harvest; calls nobody. Above 0: there is something to dispatch; 0: not; or
     * a code. */
    int (*wait)(struct aiol_engine *e, aioloop_time deadline);
    int (*dispatch)(struct aiol_engine *e, const aiol_budget *budget); /* done() for the harvest; 1: more is kept */
    /* Tells the system everything: before a foreign main loop sleeps. Below 0: there is something to dispatch at
     * once. */
    int (*flush)(struct aiol_engine *e);
    int (*descriptor)(struct aiol_engine *e);
    void (*wake)(struct aiol_engine *e);   /* any thread, signal handlers */
    void (*forget)(struct aiol_engine *e); /* instead of close, in a forked child: touches nothing shared */
    aioloop_time (*now)(struct aiol_engine *e);
    void (*verify)(struct aiol_engine *e);
} aiol_engine_calls;

typedef struct aiol_engine {
    const char *name;
    const aiol_engine_calls *calls;
    const aiol_socket_calls *sockets;
    const aioloop_allocator *allocator;
} aiol_engine;

AIOL_INLINE int64_t aiol_op_submit(aiol_engine *e, aiol_op *op) {
    AIOL_ASSERT(op->state == AIOL_OP_IDLE);
    return e->calls->submit(e, op);
}

AIOL_INLINE int aiol_op_cancel(aiol_engine *e, aiol_op *op) {
    if (op->state == AIOL_OP_IDLE)
        return 0;
    if (op->state == AIOL_OP_CANCELLING)
        return AIOL_PENDING;
    return e->calls->cancel(e, op);
}

/* How an engine is made. */
typedef struct aiol_engine_setup {
    const aioloop_allocator *allocator;
    unsigned without; /* AIOL_WITHOUT_... */
    bool named;       /* the engine was asked for */
    bool simulated;   /* an option of the simulated engine was given */
    bool delayed;     /* sim */
    uint64_t seed;    /* sim */
} aiol_engine_setup;

#endif

/* >> src/aioloop.h */
#if AIOL_HAVE_REACTOR || AIOL_HAVE_URING

/* >> src/io/table.c */
/*
 * table.c - what engines over the system's descriptors have in common: which operation waits at which descriptor, what
 * a RECV delivered and its owner did not take, and how bytes and connections are taken from the system directly.
 *
 * Each descriptor has at most one operation that waits to read (RECV, ACCEPT, POLL) and one that waits to write (SEND,
 * CONNECT, POLL). A change is noted (dirty) and told to the system before the next wait.
 *
 * A callback may end the very operation it was called for, and its owner: `current` is cleared by cancel, and after
 * each callback the operation is touched only if it is still current.
 */
#ifndef AIOL_IO_TABLE_C
#define AIOL_IO_TABLE_C

#define AIOL_TABLE_BUFFER (256u * 1024u)

/* FULL: the last send was cut, the next would block. ROOM: io_uring's epoll tells when there is room again. */
enum { AIOL_FD_TRANSPORT = 1, AIOL_FD_DIRTY = 2, AIOL_FD_FULL = 4, AIOL_FD_ROOM = 8 };

/* engine_flags. KEPT: on the list of sources with something to offer. ENDED: behind the stash comes op->u.recv.end. The
 * others are io_uring's. ARMED: the kernel holds a request of it. LEAVING: its cancellation is made; WAITING: it is to
 * be, and the operation is on the list of those. POLLED: what is armed is a poll. DIRECT: a RECV of large amounts, for
 * which a poll and reading into the one buffer that stays in the processor's cache is cheaper than requests that fill
 * all buffers ahead; LITTLE: its last reading was small. */
enum {
    AIOL_OP_KEPT = 1,
    AIOL_OP_ENDED = 2,
    AIOL_OP_ARMED = 4,
    AIOL_OP_LEAVING = 8,
    AIOL_OP_WAITING = 16,
    AIOL_OP_POLLED = 32,
    AIOL_OP_DIRECT = 64,
    AIOL_OP_LITTLE = 128
};

typedef struct aiol_fd {
    aiol_op *in;
    aiol_op *out;
    uint32_t generation; /* of the transport that has the number */
    uint16_t armed;      /* io_uring: requests that the kernel holds */
    uint8_t watched;     /* reactor: AIOL_READABLE | AIOL_WRITABLE, what the poller watches */
    uint8_t flags;
} aiol_fd;

/* Bytes a RECV delivered and its owner did not take. */
typedef struct aiol_stash {
    size_t start;
    size_t end;
    size_t block_size; /* the bytes follow */
} aiol_stash;

/* The first member of an engine. */
typedef struct aiol_table {
    aiol_engine base;
    unsigned without;
    bool watches; /* the system goes on telling until it is told not to (a poller) */
    aiol_fd *fds; /* by descriptor */
    size_t fds_capacity;
    aioloop_socket *dirty; /* room for every descriptor */
    size_t dirty_count;
    size_t dirty_capacity;
    aiol_op *kept; /* sources with something to offer, the oldest first */
    aiol_op **kept_end;
    aiol_op *current; /* whose callback runs */
    /* NULL, or asked at the end of a stream: the error that it is instead, or 0. */
    int64_t (*broken)(struct aiol_table *t, const aiol_op *op);
    unsigned char *buffer;
} aiol_table;

static aiol_fd *aiol_table_at(aiol_table *t, aioloop_socket fd) {
    AIOL_ASSERT(fd >= 0 && (size_t)fd < t->fds_capacity);
    return &t->fds[fd];
}

static void aiol_table_changed(aiol_table *t, aioloop_socket fd, aiol_fd *entry) {
    if ((entry->flags & AIOL_FD_DIRTY) != 0)
        return;
    entry->flags |= AIOL_FD_DIRTY;
    t->dirty[t->dirty_count++] = fd;
}

/* The operation waits at its descriptor from now on: to write, or to read. */
static int64_t aiol_table_wait_at(aiol_table *t, aiol_op *op, bool out) {
    aiol_fd *entry = aiol_table_at(t, op->fd);
    AIOL_ASSERT((out ? entry->out : entry->in) == NULL);
    if (out)
        entry->out = op;
    else
        entry->in = op;
    op->state = AIOL_OP_ACTIVE;
    op->engine = NULL;
    op->engine_flags = 0;
    op->link = NULL;
    aiol_table_changed(t, op->fd, entry);
    return AIOL_PENDING;
}

/* ---- the kept ---- */

static void aiol_table_keep(aiol_table *t, aiol_op *op) {
    if ((op->engine_flags & AIOL_OP_KEPT) != 0)
        return;
    op->engine_flags |= AIOL_OP_KEPT;
    op->link = NULL;
    *(t->kept != NULL ? t->kept_end : &t->kept) = op;
    t->kept_end = &op->link;
}

static void aiol_table_unkeep(aiol_table *t, aiol_op *op) {
    aiol_op **at;
    if ((op->engine_flags & AIOL_OP_KEPT) == 0)
        return;
    for (at = &t->kept; *at != op; at = &(*at)->link)
        ;
    *at = op->link;
    if (op->link == NULL)
        t->kept_end = at;
    op->engine_flags &= (uint8_t)~AIOL_OP_KEPT;
}

static void aiol_table_stash_free(aiol_table *t, aiol_op *op) {
    aiol_stash *stash = (aiol_stash *)op->engine;
    if (stash != NULL)
        aiol_free(t->base.allocator, stash, stash->block_size);
    op->engine = NULL;
}

/* The operation leaves the engine. */
static void aiol_table_idle(aiol_table *t, aiol_op *op) {
    aiol_fd *entry = aiol_table_at(t, op->fd);
    if (entry->in == op)
        entry->in = NULL;
    if (entry->out == op)
        entry->out = NULL;
    op->state = AIOL_OP_IDLE;
    if (t->current == op)
        t->current = NULL;
    aiol_table_unkeep(t, op);
    aiol_table_stash_free(t, op);
    if (t->watches)
        aiol_table_changed(t, op->fd, entry);
}

static void aiol_table_finish(aiol_table *t, aiol_op *op, int64_t n) {
    aiol_table_idle(t, op);
    op->done(op, n, NULL);
}

static void aiol_table_stop(aiol_engine *e, aiol_op *op) {
    aiol_table *t = (aiol_table *)e;
    if (op->state != AIOL_OP_ACTIVE)
        return;
    op->state = AIOL_OP_STOPPED;
    aiol_table_unkeep(t, op);
    aiol_table_changed(t, op->fd, aiol_table_at(t, op->fd));
}

static void aiol_table_start(aiol_engine *e, aiol_op *op) {
    aiol_table *t = (aiol_table *)e;
    if (op->state != AIOL_OP_STOPPED)
        return;
    op->state = AIOL_OP_ACTIVE;
    if (op->engine != NULL || (op->engine_flags & AIOL_OP_ENDED) != 0)
        aiol_table_keep(t, op);
    aiol_table_changed(t, op->fd, aiol_table_at(t, op->fd));
}

static size_t aiol_table_take(aiol_engine *e, aiol_op *op, void *to, size_t size) {
    aiol_table *t = (aiol_table *)e;
    aiol_stash *stash = (aiol_stash *)op->engine;
    size_t n;
    if (stash == NULL)
        return 0;
    n = aiol_min_size(size, stash->end - stash->start);
    memcpy(to, (const char *)(stash + 1) + stash->start, n);
    stash->start += n;
    if (stash->start == stash->end)
        aiol_table_stash_free(t, op);
    return n;
}

static aiol_op *aiol_table_watching(aiol_engine *e, aioloop_socket fd, unsigned event) {
    aiol_table *t = (aiol_table *)e;
    aiol_op *op;
    if (fd < 0 || (size_t)fd >= t->fds_capacity)
        return NULL;
    op = event == AIOL_POLL_READABLE ? t->fds[fd].in : t->fds[fd].out;
    return op != NULL && op->kind == AIOL_OP_POLL ? op : NULL;
}

static bool aiol_table_owned(aiol_engine *e, aioloop_socket fd) {
    aiol_table *t = (aiol_table *)e;
    return fd >= 0 && (size_t)fd < t->fds_capacity && (t->fds[fd].flags & AIOL_FD_TRANSPORT) != 0;
}

/* ---- descriptors ---- */

static int aiol_table_attach(aiol_engine *e, aioloop_socket fd, aiol_owner owner) {
    aiol_table *t = (aiol_table *)e;
    aiol_fd *entry;
    int err;
    err = owner == AIOL_OWNER_WATCHER ? aiol_descriptor_check(fd) : fd < 0 ? AIOLOOP_EINVAL : 0;
    if (err == 0)
        err = aiol_grow(e->allocator, &t->fds, &t->fds_capacity, sizeof(t->fds[0]), (size_t)fd + 1);
    if (err == 0)
        err = aiol_grow(e->allocator, &t->dirty, &t->dirty_capacity, sizeof(t->dirty[0]), t->fds_capacity);
    if (err == 0 && t->buffer == NULL && owner == AIOL_OWNER_TRANSPORT) {
        t->buffer = (unsigned char *)aiol_alloc(e->allocator, AIOL_TABLE_BUFFER);
        err = t->buffer == NULL ? AIOLOOP_ENOMEM : 0;
    }
    if (err < 0)
        return err;
    entry = &t->fds[fd];
    if ((entry->flags & AIOL_FD_TRANSPORT) != 0)
        return AIOLOOP_EMISUSE;
    if (owner == AIOL_OWNER_WATCHER)
        return 0;
    if (entry->in != NULL || entry->out != NULL)
        return AIOLOOP_EMISUSE;
    entry->flags |= AIOL_FD_TRANSPORT;
    entry->flags &= (uint8_t)~(AIOL_FD_FULL | AIOL_FD_ROOM);
    entry->generation++;
    entry->armed = 0;
    return 0;
}

static aioloop_time aiol_table_now(aiol_engine *e) {
    (void)e;
    return aiol_clock_now();
}

/* How long to wait, in nanoseconds; below 0: for ever. */
static int64_t aiol_table_timeout(const aiol_table *t, aioloop_time deadline) {
    int64_t timeout;
    if (t->kept != NULL || deadline <= 0)
        return 0;
    if (deadline == AIOLOOP_FOREVER)
        return -1;
    timeout = deadline - aiol_clock_now();
    return timeout < 0 ? 0 : timeout;
}

/* ---- reading ---- */

/* A RECV gets no more bytes; behind what is kept comes n: an end or an error. */
static void aiol_table_end(aiol_table *t, aiol_op *op, int64_t n) {
    op->engine_flags |= AIOL_OP_ENDED;
    op->u.recv.end = (int)n;
    if (op->state == AIOL_OP_ACTIVE)
        aiol_table_keep(t, op);
    aiol_table_changed(t, op->fd, aiol_table_at(t, op->fd));
}

/* Keeps what a RECV did not take, behind what is kept already. Without memory the stream ends there. */
static AIOL_NOINLINE void aiol_table_stash(aiol_table *t, aiol_op *op, const unsigned char *data, size_t size) {
    const aiol_stash *old = (const aiol_stash *)op->engine;
    size_t before = old == NULL ? 0 : old->end - old->start;
    aiol_stash *stash;
    stash = (aiol_stash *)aiol_alloc(t->base.allocator, sizeof(*stash) + before + size);
    if (stash == NULL) {
        aiol_table_end(t, op, AIOLOOP_ENOMEM);
        return;
    }
    stash->start = 0;
    stash->end = before + size;
    stash->block_size = sizeof(*stash) + before + size;
    if (before != 0)
        memcpy(stash + 1, (const char *)(old + 1) + old->start, before);
    memcpy((char *)(stash + 1) + before, data, size);
    aiol_table_stash_free(t, op);
    op->engine = stash;
    if (op->state == AIOL_OP_ACTIVE)
        aiol_table_keep(t, op);
}

/* Asks where the next bytes of a RECV go: *size of them at *to. False if nowhere now. */
static bool aiol_table_place(aiol_table *t, aiol_op *op, unsigned char **to, size_t *size) {
    void *buffer = NULL;
    t->current = op;
    *size = op->u.recv.dest(op, &buffer);
    *to = (unsigned char *)buffer;
    return t->current == op && op->state == AIOL_OP_ACTIVE && *size != 0;
}

/* Nothing to read, the end or an error. */
static AIOL_NOINLINE void aiol_table_read_ended(aiol_table *t, aiol_op *op, int64_t n) {
    if (n == AIOLOOP_EAGAIN)
        return;
    if (n == 0 && t->broken != NULL)
        n = t->broken(t, op);
    aiol_table_finish(t, op, n);
}

/* Into memory of the receiver's. How much. */
static AIOL_NOINLINE size_t aiol_table_recv_into(aiol_table *t, aiol_op *op, const aiol_budget *budget) {
    size_t got = 0;
    while (op->u.recv.dest != NULL) { /* a callback may change it */
        unsigned char *to;
        size_t size;
        int64_t n;
        if (!aiol_table_place(t, op, &to, &size))
            break;
        n = aiol_socket_recv(op->fd, to, size);
        if (n <= 0) {
            aiol_table_read_ended(t, op, n);
            break;
        }
        got += (size_t)n;
        t->current = op;
        op->done(op, n, to);
        if (t->current != op || (size_t)n < size || got >= budget->bytes || op->state != AIOL_OP_ACTIVE || *budget->halt)
            break;
    }
    return got;
}

/* Into the engine's buffer. How much. */
AIOL_INLINE size_t aiol_table_recv(aiol_table *t, aiol_op *op, const aiol_budget *budget) {
    size_t got = 0;
    while (op->u.recv.dest == NULL) { /* a callback may change it */
        int64_t n = aiol_socket_recv(op->fd, t->buffer, AIOL_TABLE_BUFFER);
        size_t taken;
        if (AIOL_UNLIKELY(n <= 0)) {
            aiol_table_read_ended(t, op, n);
            break;
        }
        got += (size_t)n;
        t->current = op;
        taken = op->done(op, n, t->buffer);
        if (t->current != op)
            break;
        if (AIOL_UNLIKELY(taken < (size_t)n)) {
            aiol_table_stash(t, op, t->buffer + taken, (size_t)n - taken);
            break;
        }
        /* A short read has emptied the socket; the system tells when there is more. */
        if ((size_t)n < AIOL_TABLE_BUFFER || got >= budget->bytes || op->state != AIOL_OP_ACTIVE || *budget->halt)
            break;
    }
    return got;
}

static void aiol_table_accept(aiol_table *t, aiol_op *op, const aiol_budget *budget) {
    int left = op->u.accept.budget;
    do {
        aioloop_address peer;
        aiol_path_room room;
        aioloop_socket s = AIOL_NO_SOCKET;
        int err = aiol_socket_accept(op->fd, t->without, &s, &peer, &room);
        if (err == AIOLOOP_EAGAIN)
            return;
        if (err < 0) {
            aiol_table_finish(t, op, err);
            return;
        }
        t->current = op;
        op->done(op, s, &peer);
    } while (--left > 0 && t->current == op && op->state == AIOL_OP_ACTIVE && !*budget->halt);
}

/* Hands bytes to a RECV that is `current`, and keeps what it does not take. Afterwards it is no more current if it is
 * gone. */
static void aiol_table_deliver(aiol_table *t, aiol_op *op, const unsigned char *data, size_t size, const aiol_budget *budget) {
    while (size != 0 && op->state == AIOL_OP_ACTIVE && !*budget->halt) {
        size_t offered = size;
        size_t taken;
        if (op->u.recv.dest != NULL) {
            unsigned char *to;
            if (!aiol_table_place(t, op, &to, &offered)) {
                if (t->current != op)
                    return;
                break;
            }
            offered = aiol_min_size(offered, size);
            memcpy(to, data, offered);
            op->done(op, (int64_t)offered, to);
            taken = offered;
        } else {
            taken = op->done(op, (int64_t)size, data);
        }
        if (t->current != op)
            return;
        data += taken;
        size -= taken;
        if (taken < offered)
            break;
    }
    if (AIOL_UNLIKELY(size != 0))
        aiol_table_stash(t, op, data, size);
}

/* Offers what every source on the list has, once. */
static void aiol_table_offer(aiol_table *t, const aiol_budget *budget) {
    aiol_op *op;
    size_t n = 0;
    for (op = t->kept; op != NULL; op = op->link)
        n++;
    for (; n > 0 && t->kept != NULL && !*budget->halt; n--) {
        aiol_stash *stash;
        op = t->kept;
        aiol_table_unkeep(t, op);
        t->current = op;
        stash = (aiol_stash *)op->engine;
        if (stash != NULL) {
            op->engine = NULL; /* what is left of it goes into a new one */
            aiol_table_deliver(t, op, (const unsigned char *)(stash + 1) + stash->start, stash->end - stash->start, budget);
            aiol_free(t->base.allocator, stash, stash->block_size);
        }
        if (t->current != op || op->state != AIOL_OP_ACTIVE || op->engine != NULL)
            continue;
        if ((op->engine_flags & AIOL_OP_ENDED) == 0)
            aiol_table_changed(t, op->fd, aiol_table_at(t, op->fd));
        else if ((op->engine_flags & AIOL_OP_ARMED) == 0)
            aiol_table_finish(t, op, op->u.recv.end);
        else
            aiol_table_keep(t, op); /* until the kernel has given it back */
    }
}

/* ---- writing ---- */

/* The system was offered the pieces and took n bytes, or failed. Less than all: the next try would block. */
static AIOL_NOINLINE int64_t aiol_table_attempted(aiol_engine *e, aioloop_socket fd, const aioloop_buf *pieces, int count,
                                                  int64_t n) {
    size_t size = 0;
    int i;
    for (i = 0; i < count; i++)
        size += pieces[i].size;
    if ((uint64_t)n == size || (n < 0 && n != AIOLOOP_EAGAIN))
        return n;
    aiol_table_at((aiol_table *)e, fd)->flags |= AIOL_FD_FULL;
    return n < 0 ? AIOL_PENDING : n;
}

/* ---- the end ---- */

static void aiol_table_free(aiol_table *t) {
    const aioloop_allocator *a = t->base.allocator;
    aiol_free(a, t->fds, t->fds_capacity * sizeof(t->fds[0]));
    aiol_free(a, t->dirty, t->dirty_capacity * sizeof(t->dirty[0]));
    aiol_free(a, t->buffer, AIOL_TABLE_BUFFER);
}

static void aiol_table_verify(const aiol_table *t) {
    size_t dirty = 0;
    size_t i;
    for (i = 0; i < t->fds_capacity; i++) {
        const aiol_fd *entry = &t->fds[i];
        AIOL_VERIFY(entry->in == NULL || (entry->in->fd == (aioloop_socket)i && (entry->in->state == AIOL_OP_ACTIVE ||
                                                                                 entry->in->state == AIOL_OP_STOPPED)));
        AIOL_VERIFY(entry->out == NULL || (entry->out->fd == (aioloop_socket)i && entry->out->state == AIOL_OP_ACTIVE));
        if ((entry->flags & AIOL_FD_DIRTY) != 0)
            dirty++;
    }
    AIOL_VERIFY(dirty == t->dirty_count);
}

/* ---- sockets: the system's ---- */

static int aiol_system_open(aiol_engine *e, int family, aioloop_socket *out) {
    (void)e;
    return aiol_socket_open(family, out);
}
static int aiol_system_close(aiol_engine *e, aioloop_socket s) {
    (void)e;
    return aiol_socket_close(s);
}
static int aiol_system_bind(aiol_engine *e, aioloop_socket s, const aioloop_address *address) {
    (void)e;
    return aiol_socket_bind(s, address);
}
static int aiol_system_listen(aiol_engine *e, aioloop_socket s, int backlog) {
    (void)e;
    return aiol_socket_listen(s, backlog);
}
static int aiol_system_shutdown(aiol_engine *e, aioloop_socket s) {
    (void)e;
    return aiol_socket_shutdown(s);
}
static int aiol_system_set(aiol_engine *e, aioloop_socket s, aiol_socket_option option, int value) {
    (void)e;
    return aiol_socket_set(s, option, value);
}
static int aiol_system_inspect(aiol_engine *e, aioloop_socket s, int *family) {
    (void)e;
    return aiol_socket_inspect(s, family);
}
static int aiol_system_adopt(aiol_engine *e, aioloop_socket s) {
    (void)e;
    return aiol_socket_adopt(s);
}
static int aiol_system_name(aiol_engine *e, aioloop_socket s, aioloop_address *address, aiol_path_room *room) {
    (void)e;
    return aiol_socket_name(s, address, room);
}
static int aiol_system_peer(aiol_engine *e, aioloop_socket s, aioloop_address *address, aiol_path_room *room) {
    (void)e;
    return aiol_socket_peer(s, address, room);
}
static int aiol_system_path_identify(aiol_engine *e, const char *path, size_t size, aiol_path_identity *identity) {
    (void)e;
    return aiol_path_identify(path, size, identity);
}
static int aiol_system_path_remove(aiol_engine *e, const char *path, size_t size) {
    (void)e;
    return aiol_path_remove(path, size);
}

static const aiol_socket_calls aiol_system_sockets = {
    aiol_system_open,    aiol_system_close, aiol_system_bind, aiol_system_listen,        aiol_system_shutdown,    aiol_system_set,
    aiol_system_inspect, aiol_system_adopt, aiol_system_name, aiol_system_peer, aiol_system_path_identify, aiol_system_path_remove,
};

#endif

/* >> src/aioloop.h */
#endif
#if AIOL_HAVE_REACTOR

/* >> src/io/reactor.c */
/*
 * reactor.c - operations over any poller: try, and if it would block, wait until it would not.
 *                                                                              (asyncio: selector_events.py)
 *
 * What the poller is to watch at a descriptor follows from the operations that wait there; differences are told to it
 * in one go before the wait, except for POLL, whose descriptor is the user's and may be closed the moment it is
 * removed.
 *
 * Stale events cannot hurt: an event counts only if the descriptor's generation is the one it was watched with, and the
 * operation was submitted before the harvest in which it was found (op->generation against harvest).
 */
#ifndef AIOL_IO_REACTOR_C
#define AIOL_IO_REACTOR_C

typedef struct aiol_reactor {
    aiol_table table;
    aiol_poll poll;
    aiol_wake wake;
    aiol_op wake_op; /* a POLL of its reader */
    uint32_t harvest;
    int ready_next;
    int ready_count;
    aiol_ready ready[AIOL_POLL_BATCH];
} aiol_reactor;

static unsigned aiol_reactor_wanted(const aiol_fd *entry) {
    return (entry->in != NULL && entry->in->state == AIOL_OP_ACTIVE ? (unsigned)AIOL_READABLE : 0u) |
           (entry->out != NULL ? (unsigned)AIOL_WRITABLE : 0u);
}

static int aiol_reactor_tell(aiol_reactor *r, aioloop_socket fd, aiol_fd *entry) {
    unsigned wanted = aiol_reactor_wanted(entry);
    int err;
    if (wanted == entry->watched)
        return 0;
    err = r->poll.poller->set(&r->poll, fd, entry->watched, wanted, entry->generation);
    if (err == 0 || wanted == 0)
        entry->watched = (uint8_t)wanted;
    return err;
}

/* ---- submitting ---- */

static int64_t aiol_reactor_arm(aiol_reactor *r, aiol_op *op, bool out) {
    op->generation = r->harvest;
    return aiol_table_wait_at(&r->table, op, out);
}

static int64_t aiol_reactor_attempt(aiol_engine *e, aioloop_socket fd, const aioloop_buf *pieces, int count, bool now) {
    int64_t n = aiol_socket_send(fd, pieces, count);
    (void)now;
    if (AIOL_LIKELY(count == 1 && (uint64_t)n == pieces->size))
        return n;
    return aiol_table_attempted(e, fd, pieces, count, n);
}

static int64_t aiol_reactor_watch(aiol_reactor *r, aiol_op *op) {
    bool out = op->u.poll.events == AIOL_POLL_WRITABLE;
    aiol_fd *entry = aiol_table_at(&r->table, op->fd);
    int err;
    aiol_reactor_arm(r, op, out);
    /* Told at once, for the answer; and always, because the user may have closed the number and opened it anew. */
    err = r->poll.poller->set(&r->poll, op->fd, entry->watched, aiol_reactor_wanted(entry), entry->generation);
    if (err < 0) {
        aiol_table_idle(&r->table, op);
        return err;
    }
    entry->watched = (uint8_t)aiol_reactor_wanted(entry);
    return AIOL_PENDING;
}

static int64_t aiol_reactor_submit(aiol_engine *e, aiol_op *op) {
    aiol_reactor *r = (aiol_reactor *)e;
    int64_t n;
    switch ((aiol_op_kind)op->kind) {
    case AIOL_OP_SEND:
        n = AIOL_PENDING;
        if ((aiol_table_at(&r->table, op->fd)->flags & AIOL_FD_FULL) == 0)
            n = aiol_reactor_attempt(e, op->fd, op->u.send.pieces, op->u.send.count, true);
        return n != AIOL_PENDING ? n : aiol_reactor_arm(r, op, true);
    case AIOL_OP_CONNECT:
        n = aiol_socket_connect(op->fd, op->u.connect.address);
        return n != AIOLOOP_EINPROGRESS ? n : aiol_reactor_arm(r, op, true);
    case AIOL_OP_POLL:
        return aiol_reactor_watch(r, op);
    case AIOL_OP_RECV:
    case AIOL_OP_ACCEPT:
        break;
    }
    return aiol_reactor_arm(r, op, false);
}

static int aiol_reactor_cancel(aiol_engine *e, aiol_op *op) {
    aiol_reactor *r = (aiol_reactor *)e;
    aiol_table_idle(&r->table, op);
    if (op->kind == AIOL_OP_POLL) /* at once: the descriptor may be closed the next moment */
        aiol_reactor_tell(r, op->fd, aiol_table_at(&r->table, op->fd));
    return 0;
}

/* ---- descriptors ---- */

static int aiol_reactor_attach(aiol_engine *e, aioloop_socket fd, aiol_owner owner) {
    aiol_reactor *r = (aiol_reactor *)e;
    int err = fd < 0 ? AIOLOOP_EINVAL : r->poll.poller->reserve(&r->poll, fd);
    return err < 0 ? err : aiol_table_attach(e, fd, owner);
}

static void aiol_reactor_quiesce(aiol_engine *e, aioloop_socket fd) {
    aiol_reactor *r = (aiol_reactor *)e;
    aiol_fd *entry = aiol_table_at(&r->table, fd);
    AIOL_ASSERT(entry->in == NULL && entry->out == NULL);
    aiol_reactor_tell(r, fd, entry);
    entry->flags &= (uint8_t)~(AIOL_FD_TRANSPORT | AIOL_FD_FULL);
    entry->generation++;
}

/* ---- waiting ---- */

/* A descriptor the poller refuses fails its operations: told as an event of no descriptor's readiness. */
static int aiol_reactor_tell_all(aiol_reactor *r) {
    while (r->table.dirty_count != 0) {
        aioloop_socket fd = r->table.dirty[r->table.dirty_count - 1];
        aiol_fd *entry = &r->table.fds[fd];
        int err = aiol_reactor_tell(r, fd, entry);
        if (err < 0)
            return err;
        entry->flags &= (uint8_t)~AIOL_FD_DIRTY;
        r->table.dirty_count--;
    }
    return 0;
}

static int aiol_reactor_flush(aiol_engine *e) {
    aiol_reactor *r = (aiol_reactor *)e;
    int err = aiol_reactor_tell_all(r);
    return err == 0 && r->table.kept != NULL ? AIOLOOP_EAGAIN : err;
}

/* What a descriptor's operations get that the poller refused: nobody would ever hear of them again. */
static void aiol_reactor_refuse(aiol_reactor *r, int err) {
    aioloop_socket fd = r->table.dirty[--r->table.dirty_count];
    aiol_fd *entry = &r->table.fds[fd];
    aiol_op *in = entry->in;
    entry->flags &= (uint8_t)~AIOL_FD_DIRTY;
    if (in != NULL)
        aiol_table_finish(&r->table, in, err);
    entry = &r->table.fds[fd];
    if (entry->out != NULL)
        aiol_table_finish(&r->table, entry->out, err);
}

static int aiol_reactor_wait(aiol_engine *e, aioloop_time deadline) {
    aiol_reactor *r = (aiol_reactor *)e;
    int n;
    if (AIOL_UNLIKELY(r->ready_next < r->ready_count)) /* a halted dispatch left them */
        return 1;
    if (r->table.dirty_count != 0 && aiol_reactor_tell_all(r) < 0)
        return 1; /* dispatch tells whose it is */
    n = r->poll.poller->wait(&r->poll, aiol_table_timeout(&r->table, deadline), r->ready);
    r->harvest++;
    r->ready_next = 0;
    r->ready_count = n < 0 ? 0 : n;
    return n != 0 ? n : r->table.kept != NULL;
}

/* ---- dispatching ---- */

static void aiol_reactor_readable(aiol_reactor *r, aiol_op *op, const aiol_budget *budget) {
    if (op == NULL || op->state != AIOL_OP_ACTIVE || op->generation == r->harvest)
        return;
    if (AIOL_UNLIKELY(op->kind == AIOL_OP_POLL))
        op->done(op, AIOL_POLL_READABLE, NULL);
    else if (AIOL_UNLIKELY(op->kind == AIOL_OP_ACCEPT))
        aiol_table_accept(&r->table, op, budget);
    else if (AIOL_UNLIKELY(op->engine_flags != 0))
        return; /* what is kept goes first */
    else if (op->u.recv.dest == NULL)
        aiol_table_recv(&r->table, op, budget);
    else
        aiol_table_recv_into(&r->table, op, budget);
}

static void aiol_reactor_writable(aiol_reactor *r, aioloop_socket fd) {
    aiol_fd *entry = &r->table.fds[fd];
    aiol_op *op = entry->out;
    int64_t n;
    if (op == NULL || op->generation == r->harvest)
        return;
    entry->flags &= (uint8_t)~AIOL_FD_FULL;
    switch ((aiol_op_kind)op->kind) {
    case AIOL_OP_POLL:
        op->done(op, AIOL_POLL_WRITABLE, NULL);
        return;
    case AIOL_OP_CONNECT:
        aiol_table_finish(&r->table, op, aiol_socket_connected(fd));
        return;
    default:
        n = aiol_reactor_attempt(&r->table.base, fd, op->u.send.pieces, op->u.send.count, true);
        if (n != AIOL_PENDING)
            aiol_table_finish(&r->table, op, n);
        return;
    }
}

/* What could not be told to the poller. */
static AIOL_NOINLINE void aiol_reactor_refuse_all(aiol_reactor *r, const aiol_budget *budget) {
    while (r->table.dirty_count != 0 && !*budget->halt) {
        int err = aiol_reactor_tell_all(r);
        if (err == 0)
            break;
        aiol_reactor_refuse(r, err);
    }
}

static int aiol_reactor_dispatch(aiol_engine *e, const aiol_budget *budget) {
    aiol_reactor *r = (aiol_reactor *)e;
    if (AIOL_UNLIKELY(r->table.dirty_count != 0))
        aiol_reactor_refuse_all(r, budget);
    if (AIOL_UNLIKELY(r->table.kept != NULL))
        aiol_table_offer(&r->table, budget);
    while (r->ready_next < r->ready_count && !*budget->halt) {
        aiol_ready found = r->ready[r->ready_next];
        const aiol_fd *entry = &r->table.fds[found.fd];
        if (AIOL_UNLIKELY(found.events == (AIOL_READABLE | AIOL_WRITABLE)))
            r->ready[r->ready_next].events = AIOL_WRITABLE; /* comes after; a halt comes back for it */
        else
            r->ready_next++;
        if (AIOL_UNLIKELY(entry->generation != found.generation))
            continue;
        if (AIOL_LIKELY((found.events & AIOL_READABLE) != 0))
            aiol_reactor_readable(r, entry->in, budget);
        else
            aiol_reactor_writable(r, found.fd);
    }
    return r->table.kept != NULL || r->ready_next < r->ready_count ? 1 : 0;
}

/* ---- the rest ---- */

static int aiol_reactor_descriptor(aiol_engine *e) {
    aiol_reactor *r = (aiol_reactor *)e;
    return r->poll.poller->descriptor(&r->poll);
}

static void aiol_reactor_wake(aiol_engine *e) {
    aiol_wake_signal(&((aiol_reactor *)e)->wake);
}

static size_t aiol_reactor_woken(aiol_op *op, int64_t n, const void *data) {
    const aiol_reactor *r = AIOL_CONTAINER(op, const aiol_reactor, wake_op);
    (void)n;
    (void)data;
    aiol_wake_drain(&r->wake);
    return 0;
}

static void aiol_reactor_close(aiol_engine *e) {
    aiol_reactor *r = (aiol_reactor *)e;
    r->poll.poller->close(&r->poll);
    aiol_wake_close(&r->wake);
    aiol_table_free(&r->table);
    aiol_free(e->allocator, r, sizeof(*r));
}

static void aiol_reactor_verify(aiol_engine *e) {
    const aiol_reactor *r = (const aiol_reactor *)(const void *)e;
    size_t i;
    aiol_table_verify(&r->table);
    for (i = 0; i < r->table.fds_capacity; i++) {
        const aiol_fd *entry = &r->table.fds[i];
        AIOL_VERIFY((entry->flags & AIOL_FD_DIRTY) != 0 || entry->watched == aiol_reactor_wanted(entry));
    }
}

static const aiol_engine_calls aiol_reactor_calls = {
    aiol_reactor_close,  aiol_reactor_submit,     aiol_reactor_attempt,  aiol_reactor_cancel, aiol_table_stop,
    aiol_table_start,  aiol_table_take,       aiol_table_watching, aiol_table_owned, aiol_reactor_attach, aiol_reactor_quiesce,
    aiol_reactor_wait,   aiol_reactor_dispatch,   aiol_reactor_flush,    aiol_reactor_descriptor,
    aiol_reactor_wake,   aiol_reactor_close,      aiol_table_now,      aiol_reactor_verify,
};

AIOLOOP_INTERNAL int aiol_reactor_open(const aiol_engine_setup *setup, const aiol_poller *poller, aiol_engine **out) {
    aiol_reactor *r = (aiol_reactor *)aiol_alloc_zero(setup->allocator, sizeof(*r));
    int err;
    if (r == NULL)
        return AIOLOOP_ENOMEM;
    r->table.base.name = poller->name;
    r->table.base.calls = &aiol_reactor_calls;
    r->table.base.sockets = &aiol_system_sockets;
    r->table.base.allocator = setup->allocator;
    r->table.without = setup->without;
    r->table.watches = true;
    r->poll.poller = poller;
    r->poll.allocator = setup->allocator;
    r->poll.without = setup->without;
    err = poller->open(&r->poll);
    if (err < 0)
        goto free_reactor;
    err = aiol_wake_open(&r->wake, setup->without);
    if (err < 0)
        goto close_poller;
    r->wake_op.kind = AIOL_OP_POLL;
    r->wake_op.fd = r->wake.reader;
    r->wake_op.done = aiol_reactor_woken;
    r->wake_op.u.poll.events = AIOL_POLL_READABLE;
    err = aiol_reactor_attach(&r->table.base, r->wake.reader, AIOL_OWNER_WATCHER);
    if (err == 0)
        err = (int)aiol_reactor_submit(&r->table.base, &r->wake_op);
    if (err != AIOL_PENDING) {
        aiol_reactor_close(&r->table.base);
        return err;
    }
    *out = &r->table.base;
    return 0;
close_poller:
    poller->close(&r->poll);
free_reactor:
    aiol_free(setup->allocator, r, sizeof(*r));
    return err;
}

#endif

/* >> src/aioloop.h */
#endif
#if AIOL_HAVE_URING

/* >> src/io/uring.c */
/*
 * uring.c - operations by Linux's io_uring.                                      (asyncio: proactor_events.py)
 *
 * Requests are made of what the table says (aiol_uring_prepare) and go to the kernel together with the wait: one call
 * per iteration. A RECV is a multishot request that takes buffers from a ring of ours; what it brings is handed on or
 * kept, and the buffer goes back at once. The user_data of a request is its operation, which stays until its last
 * completion has come; that of a cancellation is marked, since nobody needs its result.
 *
 *   a) A request holds the open file, and what completes may have been found before: so long as one is armed, a closed
 *      socket's peer sees no end and a closed listener still accepts. So cancel is followed, before the descriptor is
 *      closed (quiesce, and the end of a POLL, whose descriptor is the user's), by a call that runs what the kernel has
 *      postponed.
 *   b) A multishot poll fires once for a byte that nobody reads; watching needs one-shot polls, made anew before each
 *      wait.
 *   c) Buffers run dry when one socket takes them all: -ENOBUFS, and the request is over. It is made anew when they are
 *      back.
 *   d) A request belongs to the thread that made it: when that ends, the kernel cancels it, and it is made anew. With
 *      DEFER_TASKRUN the ring itself belongs to the first thread that enters it (EEXIST in others), so it is enabled by
 *      the first wait.
 *   e) An incremental ring (6.12) fills a buffer piece by piece; where the next piece lies follows from the order of
 *      completions.
 *   f) With completions in the kernel's overflow list, nothing is lost but a call is needed to get them.
 *   g) Polling the ring's descriptor does not end when the kernel has postponed something (DEFER_TASKRUN): for another
 *      main loop there is an eventfd that the kernel signals. When the cause was a write to another eventfd it does so
 *      only once (6.18), so it is registered anew after each signal.
 *   h) A multishot RECV on a Unix socket can forget the end: if it comes while the last bytes are taken, and more
 *      wakings than 128 have piled up before, the kernel (6.18) believes that it has told all. So only internet sockets
 *      get multishot ones; for others the request is made anew each time.
 *   i) What the program's other calls find in between (a direct send) overtakes requests: so no SEND is active when one
 *      is tried.
 *   j) A socket tells of a reset once. If a SEND was told, reading finds an end like any other; so what looks like one
 *      is the error of a SEND that stands in the completions.
 *   k) What waits for room is woken by the peer's end of file too, over and over: a SEND would be tried 128 times and
 *      then given to a thread that blocks, where a cancellation does not end it at once (6.18). So a SEND never waits:
 *      without room there is a poll, and where that finds nothing but the peer's end, an epoll, which can leave it out.
 *
 * Sends without a copy (SEND_ZC) cost one and a half to two times as much at every size up to 1 MiB where it could be
 * measured (loopback, where the kernel copies in the end), so there are none.
 */
#ifndef AIOL_IO_URING_C
#define AIOL_IO_URING_C

#define AIOL_URING_ENTRIES 512u
#define AIOL_URING_COMPLETIONS 4096u
#define AIOL_URING_GATHERS 8       /* sends of several pieces in one submission */
#define AIOL_URING_MEMORY 0x80000u /* of all buffers */
#define AIOL_URING_BUFFERS_MAX 32u
#define AIOL_URING_PAGE 0x1000u
#define AIOL_URING_LARGE 0x4000u   /* bytes at once: read directly from then on */
#define AIOL_URING_SMALL 0x1000u   /* two such readings: no more */
#define AIOL_URING_QUEUED 0x4000u /* bytes: a larger write is tried at once, without a copy */

/* In the lowest bits of user_data. */
enum { AIOL_URING_IS_CANCEL = 1, AIOL_URING_IS_ACCEPT = 2, AIOL_URING_TAGS = 3 };

typedef struct aiol_gather {
    struct msghdr message;
    struct iovec pieces[AIOL_IOV_MAX];
} aiol_gather;

typedef struct aiol_uring {
    aiol_table table;
    aiol_wake wake;
    aiol_op wake_op; /* a POLL of its reader */
    int room;        /* k): an epoll; -1: none yet */
    aiol_op room_op; /* a POLL of it */
    int fd;
    aiol_wake signal; /* g); reader -1: nobody has asked for it */
    bool enabled;
    bool proved; /* a multishot RECV has brought something */

    uint32_t *sq_head;
    uint32_t *sq_tail;
    uint32_t *sq_flags;
    uint32_t sq_mask;
    uint32_t sq_next;
    aiol_uring_entry *entries;
    size_t entries_size;

    uint32_t *cq_head;
    uint32_t *cq_tail;
    uint32_t cq_mask;
    uint32_t cq_next;
    uint32_t cq_fresh; /* what stands before was found earlier than the last wait, and may not be so any more */
    uint32_t cq_end;   /* of the harvest */
    uint32_t turn;     /* counts dispatches */
    uint32_t deferred; /* writes that are to go with the next wait */
    aiol_uring_completion *completions;
    unsigned char *rings;
    size_t rings_size;

    aiol_op *cancels; /* operations whose cancellation is to be made; op->engine points at what points at them */

    unsigned char *memory; /* the ring of buffers, a page; then the buffers */
    uint32_t buffer_count;
    uint32_t buffer_size;
    uint16_t buffer_tail;
    uint32_t used[AIOL_URING_BUFFERS_MAX]; /* e) */

    unsigned gather_count;
    aiol_gather gathers[AIOL_URING_GATHERS];
} aiol_uring;

/* ---- the rings ---- */

#if defined(__TINYC__)
#define aiol_ring_load(place) (*(const volatile uint32_t *)(place))
#define aiol_ring_store(place, value) ((void)(*(volatile uint32_t *)(place) = (value)))
#define aiol_ring_store_16(place, value) ((void)(*(volatile uint16_t *)(place) = (value)))
#else
#define aiol_ring_load(place) __atomic_load_n(place, __ATOMIC_ACQUIRE)
#define aiol_ring_store(place, value) __atomic_store_n(place, value, __ATOMIC_RELEASE)
#define aiol_ring_store_16(place, value) __atomic_store_n(place, value, __ATOMIC_RELEASE)
#endif

static uint32_t aiol_uring_unsubmitted(const aiol_uring *u) {
    return u->sq_next - aiol_ring_load(u->sq_head);
}

/* Submits, and with GETEVENTS waits for at least `minimum` completions (timeout in ns, below 0: for ever). What the
 * kernel did not take stays in the ring for the next time. */
static int aiol_uring_enter(aiol_uring *u, unsigned flags, unsigned minimum, int64_t timeout) {
    aiol_uring_wait wait;
    int64_t spec[2];
    long n;
    aiol_ring_store(u->sq_tail, u->sq_next);
    if (timeout < 0) {
        n = AIOL_SYS(io_uring_enter, syscall(AIOL_SYS_URING_ENTER, u->fd, aiol_uring_unsubmitted(u), minimum, flags,
                                             NULL, (size_t)0));
    } else {
        memset(&wait, 0, sizeof(wait));
        spec[0] = timeout / 1000000000;
        spec[1] = timeout % 1000000000;
        wait.timeout = (uint64_t)(uintptr_t)spec;
        n = AIOL_SYS(io_uring_enter, syscall(AIOL_SYS_URING_ENTER, u->fd, aiol_uring_unsubmitted(u), minimum,
                                             flags | AIOL_URING_EXT_ARG, &wait, sizeof(wait)));
    }
    if (aiol_uring_unsubmitted(u) == 0)
        u->gather_count = 0;
    if (n != -1)
        return 0;
    switch (errno) {
    case EINTR:
    case ETIME:
    case EAGAIN: /* no memory at this moment, or completions to be fetched first */
    case EBUSY:
    case ENOMEM:
        return 0;
    case EEXIST: /* d) */
        return AIOLOOP_EMISUSE;
    default:
        return aiol_error_from_errno(errno);
    }
}

/* Room for a request; NULL: not now. */
static aiol_uring_entry *aiol_uring_request(aiol_uring *u, int operation, aioloop_socket fd, const void *user_data) {
    aiol_uring_entry *entry;
    if (aiol_uring_unsubmitted(u) > u->sq_mask &&
        (aiol_uring_enter(u, 0, 0, -1) < 0 || aiol_uring_unsubmitted(u) > u->sq_mask))
        return NULL;
    entry = &u->entries[u->sq_next++ & u->sq_mask];
    memset(entry, 0, sizeof(*entry));
    entry->operation = (uint8_t)operation;
    entry->fd = fd;
    entry->user_data = (uint64_t)(uintptr_t)user_data;
    return entry;
}

static int aiol_uring_register(aiol_uring *u, unsigned what, const void *argument, unsigned count) {
    if (AIOL_SYS(io_uring_register, syscall(AIOL_SYS_URING_REGISTER, u->fd, what, argument, count)) == -1)
        return aiol_error_from_errno(errno);
    return 0;
}

/* ---- buffers ---- */

static void aiol_uring_give(aiol_uring *u, uint32_t id) {
    aiol_uring_buffer *ring = (aiol_uring_buffer *)(void *)u->memory;
    aiol_uring_buffer *place = &ring[u->buffer_tail++ & (u->buffer_count - 1)];
    u->used[id] = 0;
    place->address = (uint64_t)(uintptr_t)(u->memory + AIOL_URING_PAGE + (size_t)id * u->buffer_size);
    place->size = u->buffer_size;
    place->id = (uint16_t)id;
    aiol_ring_store_16(&ring[0].tail, u->buffer_tail);
}

static bool aiol_uring_register_buffers(aiol_uring *u, uint32_t count, unsigned flags) {
    aiol_uring_buffers buffers;
    memset(&buffers, 0, sizeof(buffers));
    buffers.address = (uint64_t)(uintptr_t)u->memory;
    buffers.entries = count;
    buffers.flags = (uint16_t)flags;
    u->buffer_count = count;
    u->buffer_size = AIOL_URING_MEMORY / count;
    return aiol_uring_register(u, AIOL_URING_REGISTER_BUFFERS, &buffers, 1) == 0;
}

/* The first RECV makes the buffers: a few large ones that are filled piece by piece, or many small ones. Without them
 * there are polls. */
static bool aiol_uring_has_buffers(aiol_uring *u) {
    intptr_t memory;
    uint32_t id;
    if (AIOL_LIKELY(u->memory != NULL))
        return true;
    if ((u->table.without & AIOL_WITHOUT_BUFFER_RING) != 0)
        return false;
    u->table.without |= AIOL_WITHOUT_BUFFER_RING; /* unless all goes well */
    memory = AIOL_SYS(mmap, (intptr_t)mmap(NULL, AIOL_URING_PAGE + AIOL_URING_MEMORY, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory == -1)
        return false;
    u->memory = (unsigned char *)memory;
    if ((u->table.without & AIOL_WITHOUT_INCREMENTAL) != 0 ||
        !aiol_uring_register_buffers(u, 8, AIOL_URING_BUFFERS_INCREMENTAL)) {
        u->table.without |= AIOL_WITHOUT_INCREMENTAL;
        if (!aiol_uring_register_buffers(u, AIOL_URING_BUFFERS_MAX, 0)) {
            munmap(u->memory, AIOL_URING_PAGE + AIOL_URING_MEMORY);
            u->memory = NULL;
            return false;
        }
    }
    for (id = 0; id < u->buffer_count; id++)
        aiol_uring_give(u, id);
    u->table.without &= ~(unsigned)AIOL_WITHOUT_BUFFER_RING;
    return true;
}

/* ---- requests ---- */

static bool aiol_uring_poll(aiol_uring *u, aiol_op *op, unsigned events) {
    aiol_uring_entry *entry = aiol_uring_request(u, AIOL_URING_POLL_ADD, op->fd, op);
    if (entry == NULL)
        return false;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    events <<= 16; /* 32 bits in halves, the lower one first */
#endif
    entry->operation_flags = events;
    op->engine_flags |= AIOL_OP_POLLED;
    return true;
}

static bool aiol_uring_recv(aiol_uring *u, aiol_op *op) {
    aiol_uring_entry *entry;
    if ((op->engine_flags & AIOL_OP_DIRECT) != 0 || !aiol_uring_has_buffers(u))
        return aiol_uring_poll(u, op, POLLIN);
    entry = aiol_uring_request(u, AIOL_URING_RECV, op->fd, op);
    if (entry == NULL)
        return false;
    entry->flags = AIOL_URING_BUFFER_SELECT;
    op->u.recv.multishot = op->u.recv.internet && (u->table.without & AIOL_WITHOUT_MULTISHOT) == 0; /* h) */
    if (op->u.recv.multishot)
        entry->priority = AIOL_URING_RECV_MULTISHOT;
    return true;
}

static bool aiol_uring_accept(aiol_uring *u, aiol_op *op) {
    aiol_uring_entry *entry;
    if ((u->table.without & AIOL_WITHOUT_MULTISHOT) != 0)
        return aiol_uring_poll(u, op, POLLIN);
    entry = aiol_uring_request(u, AIOL_URING_ACCEPT, op->fd, (const char *)(const void *)op + AIOL_URING_IS_ACCEPT);
    if (entry == NULL)
        return false;
    entry->operation_flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
    entry->priority = AIOL_URING_ACCEPT_MULTISHOT;
    return true;
}

static bool aiol_uring_send(aiol_uring *u, aiol_op *op) {
    const aioloop_buf *pieces = op->u.send.pieces;
    bool several = op->u.send.count != 1;
    aiol_uring_entry *entry;
    aiol_gather *gather;
    if (several && u->gather_count == AIOL_URING_GATHERS && (aiol_uring_enter(u, 0, 0, -1) < 0 || u->gather_count != 0))
        return false;
    entry = aiol_uring_request(u, several ? AIOL_URING_SENDMSG : AIOL_URING_SEND, op->fd, op);
    if (entry == NULL)
        return false;
    entry->operation_flags = AIOL_MSG_NOSIGNAL | MSG_DONTWAIT; /* k) */
    if (!several) {
        entry->address = (uint64_t)(uintptr_t)pieces->data;
        entry->size = (uint32_t)aiol_min_size(pieces->size, 0x40000000u);
        return true;
    }
    gather = &u->gathers[u->gather_count++];
    aiol_socket_message(&gather->message, gather->pieces, pieces, op->u.send.count);
    entry->address = (uint64_t)(uintptr_t)&gather->message;
    entry->size = 1;
    return true;
}

/* Makes an operation's request. False: no room now. */
static bool aiol_uring_arm(aiol_uring *u, aiol_fd *entry, aiol_op *op) {
    bool made = false;
    op->engine_flags &= (uint8_t)~AIOL_OP_POLLED;
    switch ((aiol_op_kind)op->kind) {
    case AIOL_OP_RECV:
        made = aiol_uring_recv(u, op);
        break;
    case AIOL_OP_ACCEPT:
        made = aiol_uring_accept(u, op);
        break;
    case AIOL_OP_SEND:
        made = (entry->flags & AIOL_FD_FULL) != 0 ? aiol_uring_poll(u, op, POLLOUT) : aiol_uring_send(u, op);
        break;
    case AIOL_OP_CONNECT:
        made = aiol_uring_poll(u, op, POLLOUT);
        break;
    case AIOL_OP_POLL:
        made = aiol_uring_poll(u, op, op->u.poll.events == AIOL_POLL_WRITABLE ? POLLOUT : POLLIN);
        break;
    }
    if (!made)
        return false;
    op->engine_flags |= AIOL_OP_ARMED;
    op->generation = entry->generation;
    entry->armed++;
    return true;
}

static bool aiol_uring_disarm(aiol_uring *u, aiol_op *op) {
    const char *tagged = (const char *)(const void *)op + AIOL_URING_IS_CANCEL;
    aiol_uring_entry *entry = aiol_uring_request(u, AIOL_URING_CANCEL, -1, tagged);
    if (entry == NULL)
        return false;
    entry->address = (uint64_t)(uintptr_t)op;
    if (op->kind == AIOL_OP_ACCEPT && (op->engine_flags & AIOL_OP_POLLED) == 0)
        entry->address += AIOL_URING_IS_ACCEPT;
    entry->flags = AIOL_URING_SKIP_SUCCESS;
    op->engine_flags |= AIOL_OP_LEAVING;
    return true;
}

/* Whether a source lacks a request. What is kept goes first. */
static bool aiol_uring_is_due(const aiol_op *in) {
    return in->state == AIOL_OP_ACTIVE && in->engine == NULL &&
           (in->engine_flags & (AIOL_OP_ARMED | AIOL_OP_ENDED)) == 0;
}

/* Whether the kernel is to give back a source's request. A poll takes nothing, so it may stay until the end. */
static bool aiol_uring_is_superfluous(const aiol_op *in) {
    if ((in->engine_flags & (AIOL_OP_ARMED | AIOL_OP_LEAVING)) != AIOL_OP_ARMED)
        return false;
    if ((in->engine_flags & (AIOL_OP_ENDED | AIOL_OP_POLLED)) != 0)
        return (in->engine_flags & AIOL_OP_ENDED) != 0;
    return in->state != AIOL_OP_ACTIVE || (in->engine_flags & AIOL_OP_DIRECT) != 0;
}

static void aiol_uring_cancel_later(aiol_uring *u, aiol_op *op) {
    op->engine_flags |= AIOL_OP_WAITING;
    op->link = u->cancels;
    op->engine = &u->cancels;
    if (op->link != NULL)
        op->link->engine = &op->link;
    u->cancels = op;
}

static void aiol_uring_cancel_no_more(aiol_op *op) {
    aiol_op **at = (aiol_op **)op->engine;
    op->engine_flags &= (uint8_t)~AIOL_OP_WAITING;
    *at = op->link;
    if (op->link != NULL)
        op->link->engine = at;
    op->engine = NULL;
}

/* Brings the kernel's side of a descriptor up to date. False: no room now. */
static bool aiol_uring_update(aiol_uring *u, aiol_fd *entry) {
    aiol_op *in = entry->in;
    aiol_op *out = entry->out;
    if (in != NULL && aiol_uring_is_due(in) && !aiol_uring_arm(u, entry, in))
        return false;
    if (in != NULL && aiol_uring_is_superfluous(in) && !aiol_uring_disarm(u, in))
        return false;
    return out == NULL || (out->engine_flags & AIOL_OP_ARMED) != 0 || (entry->flags & AIOL_FD_ROOM) != 0 ||
           aiol_uring_arm(u, entry, out);
}

/* Makes the requests that are due, as far as there is room. */
static int aiol_uring_prepare(aiol_uring *u) {
    aiol_table *t = &u->table;
    if (AIOL_UNLIKELY(!u->enabled)) {
        int err = aiol_uring_register(u, AIOL_URING_ENABLE, NULL, 0);
        if (err < 0)
            return err;
        u->enabled = true;
    }
    while (u->cancels != NULL) {
        aiol_op *op = u->cancels;
        if (!aiol_uring_disarm(u, op))
            return 0;
        aiol_uring_cancel_no_more(op);
    }
    while (t->dirty_count != 0) {
        aiol_fd *entry = &t->fds[t->dirty[t->dirty_count - 1]];
        if (!aiol_uring_update(u, entry))
            return 0;
        entry->flags &= (uint8_t)~AIOL_FD_DIRTY;
        t->dirty_count--;
    }
    return 0;
}

/* Whether there was no room for some request. */
static bool aiol_uring_is_behind(const aiol_uring *u) {
    return u->table.dirty_count != 0 || u->cancels != NULL;
}

/* Whose completion this is; NULL: nobody's. */
static aiol_op *aiol_uring_whose(const aiol_uring_completion *c) {
    if ((c->user_data & AIOL_URING_IS_CANCEL) != 0)
        return NULL;
    return (aiol_op *)(uintptr_t)(c->user_data & ~(uint64_t)AIOL_URING_TAGS);
}

/* a) The cancellations are made, and the kernel lets go: of one operation, or if that is NULL of all that the
 * descriptor's armed. One call runs no more than 20 pieces of what is postponed, and under load there is always more of
 * it. */
static void aiol_uring_settle(aiol_uring *u, aioloop_socket fd, const aiol_op *op) {
    const aiol_fd *entry = aiol_table_at(&u->table, fd);
    uint32_t wanted = op != NULL ? 1 : entry->armed;
    uint32_t at = u->cq_next;
    uint32_t found = 0;
    int tries;
    for (tries = 0; tries < 1000; tries++) {
        if (aiol_uring_prepare(u) < 0 || aiol_uring_enter(u, AIOL_URING_GETEVENTS, 0, -1) < 0)
            return;
        for (; at != aiol_ring_load(u->cq_tail); at++) {
            const aiol_uring_completion *c = &u->completions[at & u->cq_mask];
            const aiol_op *ended = (c->flags & AIOL_URING_F_MORE) == 0 ? aiol_uring_whose(c) : NULL;
            if (ended != NULL && (op != NULL ? ended == op : ended->fd == fd && ended->generation == entry->generation))
                found++;
        }
        if (found >= wanted || (aiol_uring_unsubmitted(u) == 0 && u->cancels == NULL &&
                                (aiol_ring_load(u->sq_flags) & AIOL_URING_SQ_TASKRUN) == 0))
            return;
    }
}

/* ---- operations ---- */

static void aiol_uring_leave_room(aiol_uring *u, aiol_fd *entry, aioloop_socket fd) {
    struct epoll_event none;
    memset(&none, 0, sizeof(none));
    (void)epoll_ctl(u->room, EPOLL_CTL_DEL, fd, &none);
    entry->flags &= (uint8_t)~(AIOL_FD_ROOM | AIOL_FD_FULL);
}

static int64_t aiol_uring_submit(aiol_engine *e, aiol_op *op) {
    aiol_fd *entry = aiol_table_at((aiol_table *)e, op->fd);
    bool out = op->kind == AIOL_OP_SEND || op->kind == AIOL_OP_CONNECT ||
               (op->kind == AIOL_OP_POLL && op->u.poll.events == AIOL_POLL_WRITABLE);
    if (op->kind == AIOL_OP_CONNECT) {
        int err = aiol_socket_connect(op->fd, op->u.connect.address);
        if (err != AIOLOOP_EINPROGRESS)
            return err;
    }
    if (out && AIOL_UNLIKELY((entry->flags & AIOL_FD_ROOM) != 0)) /* a watcher's, closed too early */
        aiol_uring_leave_room((aiol_uring *)e, entry, op->fd);
    return aiol_table_wait_at((aiol_table *)e, op, out);
}

/* A small write is copied and goes with the next wait, together with others; a large one is worth a call, and so is one
 * more than the ring has room for: what a broadcast copies stays bounded. */
static int64_t aiol_uring_attempt(aiol_engine *e, aioloop_socket fd, const aioloop_buf *pieces, int count, bool now) {
    aiol_uring *u = (aiol_uring *)e;
    size_t size = 0;
    int i;
    for (i = 0; i < count; i++)
        size += pieces[i].size;
    if (size <= AIOL_URING_QUEUED && !now && u->deferred < AIOL_URING_ENTRIES) {
        u->deferred++;
        return AIOL_PENDING;
    }
    return aiol_table_attempted(e, fd, pieces, count, aiol_socket_send(fd, pieces, count));
}

static int aiol_uring_cancel(aiol_engine *e, aiol_op *op) {
    aiol_uring *u = (aiol_uring *)e;
    bool leaving = (op->engine_flags & AIOL_OP_LEAVING) != 0;
    aiol_fd *entry = aiol_table_at(&u->table, op->fd);
    if (op == entry->out && (entry->flags & AIOL_FD_ROOM) != 0)
        aiol_uring_leave_room(u, entry, op->fd);
    aiol_table_idle(&u->table, op);
    if ((op->engine_flags & AIOL_OP_ARMED) == 0)
        return 0;
    op->state = AIOL_OP_CANCELLING;
    if (!leaving)
        aiol_uring_cancel_later(u, op);
    if (op->kind == AIOL_OP_POLL)
        aiol_uring_settle(u, op->fd, op);
    return AIOL_PENDING;
}

static void aiol_uring_quiesce(aiol_engine *e, aioloop_socket fd) {
    aiol_uring *u = (aiol_uring *)e;
    aiol_fd *entry = aiol_table_at(&u->table, fd);
    AIOL_ASSERT(entry->in == NULL && entry->out == NULL);
    if (entry->armed != 0)
        aiol_uring_settle(u, fd, NULL);
    entry->flags &= (uint8_t)~(AIOL_FD_TRANSPORT | AIOL_FD_FULL);
    entry->generation++;
    entry->armed = 0;
}

/* ---- waiting ---- */

static int aiol_uring_wait_for(aiol_engine *e, aioloop_time deadline) {
    aiol_uring *u = (aiol_uring *)e;
    int64_t timeout;
    int err;
    u->deferred = 0;
    err = aiol_uring_prepare(u);
    if (err < 0)
        return err;
    if (AIOL_UNLIKELY(u->cq_next != u->cq_end)) { /* a halt or a budget left them */
        err = aiol_uring_unsubmitted(u) == 0 ? 0 : aiol_uring_enter(u, 0, 0, -1);
        return err < 0 ? err : 1;
    }
    timeout = aiol_table_timeout(&u->table, deadline);
    u->cq_fresh = aiol_ring_load(u->cq_tail);
    if (u->cq_fresh != u->cq_next || aiol_uring_is_behind(u))
        timeout = 0;
    if (timeout != 0 || aiol_uring_unsubmitted(u) != 0 ||
        (aiol_ring_load(u->sq_flags) & (AIOL_URING_SQ_TASKRUN | AIOL_URING_SQ_OVERFLOW)) != 0)
        err = aiol_uring_enter(u, AIOL_URING_GETEVENTS, timeout != 0 ? 1 : 0, timeout == 0 ? -1 : timeout);
    u->cq_end = aiol_ring_load(u->cq_tail);
    return err < 0 ? err : u->cq_end != u->cq_next || u->table.kept != NULL;
}

/* g) Another main loop goes on: its eventfd shows what is found from now on, or has not been looked at. */
static void aiol_uring_reset_signal(aiol_uring *u) {
    uint64_t count;
    if (AIOL_SYS(read, read(u->signal.reader, &count, sizeof(count))) == -1 && errno == EAGAIN)
        return;
    (void)aiol_uring_register(u, AIOL_URING_UNREGISTER_EVENTFD, NULL, 0);
    if (aiol_uring_register(u, AIOL_URING_REGISTER_EVENTFD, &u->signal.reader, 1) < 0 ||
        aiol_ring_load(u->cq_tail) != u->cq_next ||
        (aiol_ring_load(u->sq_flags) & (AIOL_URING_SQ_TASKRUN | AIOL_URING_SQ_OVERFLOW)) != 0)
        aiol_wake_signal(&u->signal);
}

static int aiol_uring_flush(aiol_engine *e) {
    aiol_uring *u = (aiol_uring *)e;
    int tries;
    if (u->signal.reader != -1)
        aiol_uring_reset_signal(u);
    for (tries = 0; tries < 10; tries++) {
        int err = aiol_uring_prepare(u);
        if (err == 0 && aiol_uring_unsubmitted(u) != 0)
            err = aiol_uring_enter(u, 0, 0, -1);
        if (err < 0)
            return err;
        if (aiol_uring_unsubmitted(u) == 0 && !aiol_uring_is_behind(u))
            return u->table.kept != NULL ? AIOLOOP_EAGAIN : 0;
    }
    return AIOLOOP_EAGAIN; /* the caller looks again at once */
}

/* ---- dispatching ---- */

/* A request was cancelled that nobody wanted to be, or has to be made anew for another reason. */
static bool aiol_uring_is_passing(int result) {
    return result == -ECANCELED || result == -EINTR || result == -EAGAIN || result == -ENOBUFS;
}

/* The last completion of a cancelled operation: what had happened before is told. */
static void aiol_uring_cancelled(aiol_op *op, int result) {
    bool sent = op->kind == AIOL_OP_SEND && result >= 0 && (op->engine_flags & AIOL_OP_POLLED) == 0;
    if ((op->engine_flags & AIOL_OP_WAITING) != 0)
        aiol_uring_cancel_no_more(op);
    op->state = AIOL_OP_IDLE;
    op->done(op, sent ? result : AIOLOOP_ECANCELED, NULL);
}

/* The buffer of a completion, if it has one: handed on or kept, and given back. */
static void aiol_uring_bytes(aiol_uring *u, aiol_op *op, const aiol_uring_completion *c, const aiol_budget *budget) {
    uint32_t id = c->flags >> 16;
    size_t size = c->result > 0 ? (size_t)c->result : 0;
    unsigned char *data;
    if ((c->flags & AIOL_URING_F_BUFFER) == 0)
        return;
    if (op->u.recv.multishot)
        u->proved = true;
    data = u->memory + AIOL_URING_PAGE + (size_t)id * u->buffer_size + u->used[id];
    u->used[id] += (uint32_t)size;
    if (size >= AIOL_URING_LARGE && (op->engine_flags & AIOL_OP_DIRECT) == 0 && op->state == AIOL_OP_ACTIVE) {
        op->engine_flags |= AIOL_OP_DIRECT;
        aiol_table_changed(&u->table, op->fd, aiol_table_at(&u->table, op->fd));
    }
    if (size != 0 && op->state != AIOL_OP_CANCELLING && (op->engine_flags & AIOL_OP_ENDED) == 0) {
        if (op->state == AIOL_OP_STOPPED || op->engine != NULL)
            aiol_table_stash(&u->table, op, data, size);
        else
            aiol_table_deliver(&u->table, op, data, size, budget);
    }
    /* Of an incremental ring, one that got nothing is still the kernel's. */
    if ((c->flags & AIOL_URING_F_BUFFER_MORE) == 0 && (size != 0 || (u->table.without & AIOL_WITHOUT_INCREMENTAL) != 0))
        aiol_uring_give(u, id);
}

/* The last completion of a RECV's request: an end, an error, or only a reason to make it anew. */
static void aiol_uring_receive_ended(aiol_uring *u, aiol_op *op, int result) {
    aiol_table *t = &u->table;
    int64_t n = result < 0 ? aiol_error_from_errno(-result) : 0;
    if (result > 0 || aiol_uring_is_passing(result) || (op->engine_flags & AIOL_OP_ENDED) != 0)
        return;
    if (result == -EINVAL && op->u.recv.multishot && !u->proved) /* a kernel before 6.0 */
        t->without |= AIOL_WITHOUT_MULTISHOT;
    else if (op->state == AIOL_OP_ACTIVE && op->engine == NULL)
        aiol_table_finish(t, op, n);
    else
        aiol_table_end(t, op, n);
}

static void aiol_uring_accepted(aiol_uring *u, aiol_op *op, int result) {
    aiol_table *t = &u->table;
    if (result >= 0) {
        aioloop_address peer;
        aiol_path_room room;
        if (aiol_socket_peer(result, &peer, &room) < 0)
            memset(&peer, 0, sizeof(peer)); /* it is gone already; reading will tell */
        op->done(op, result, &peer);
    } else if (result == -EINVAL) { /* a kernel before 5.19 */
        u->table.without |= AIOL_WITHOUT_MULTISHOT;
    } else if (!aiol_uring_is_passing(result)) {
        aiol_table_finish(t, op, aiol_error_from_errno(-result));
    }
}

/* j) */
static int64_t aiol_uring_broken(aiol_table *t, const aiol_op *op) {
    const aiol_uring *u = (const aiol_uring *)(const void *)t;
    const aiol_op *out = aiol_table_at(t, op->fd)->out;
    uint32_t end = aiol_ring_load(u->cq_tail);
    uint32_t i;
    for (i = u->cq_next; out != NULL && i != end; i++) {
        const aiol_uring_completion *c = &u->completions[i & u->cq_mask];
        if (c->user_data == (uint64_t)(uintptr_t)out && c->result < 0 && !aiol_uring_is_passing(c->result))
            return aiol_error_from_errno(-c->result);
    }
    return 0;
}

/* Reads what is there without a request. */
static void aiol_uring_read(aiol_uring *u, aiol_op *op, const aiol_budget *budget) {
    aiol_table *t = &u->table;
    size_t got = op->u.recv.dest == NULL ? aiol_table_recv(t, op, budget) : aiol_table_recv_into(t, op, budget);
    if (t->current != op)
        return;
    if (got >= AIOL_URING_SMALL)
        op->engine_flags &= (uint8_t)~AIOL_OP_LITTLE;
    else if ((op->engine_flags & AIOL_OP_LITTLE) == 0)
        op->engine_flags |= AIOL_OP_LITTLE;
    else
        op->engine_flags &= (uint8_t)~(AIOL_OP_DIRECT | AIOL_OP_LITTLE);
}

/* Some sockets whose peers have ended have room again. */
static size_t aiol_uring_roomy(aiol_op *op, int64_t n, const void *data) {
    aiol_uring *u = AIOL_CONTAINER(op, aiol_uring, room_op);
    struct epoll_event events[16];
    int count;
    (void)n;
    (void)data;
    count = AIOL_SYS(epoll_wait, epoll_wait(u->room, events, (int)(sizeof(events) / sizeof(events[0])), 0));
    while (count-- > 0) {
        aioloop_socket fd = events[count].data.fd;
        aiol_fd *entry = aiol_table_at(&u->table, fd);
        aiol_uring_leave_room(u, entry, fd);
        aiol_table_changed(&u->table, fd, entry);
    }
    if (op->state == AIOL_OP_IDLE)
        (void)aiol_uring_submit(&u->table.base, op);
    return 0;
}

/* k) False: not possible. */
static bool aiol_uring_await_room(aiol_uring *u, aioloop_socket fd) {
    struct epoll_event event;
    if (u->room == -1) {
        u->room = AIOL_SYS(epoll_create1, epoll_create1(EPOLL_CLOEXEC));
        if (u->room == -1)
            return false;
        if (aiol_table_attach(&u->table.base, u->room, AIOL_OWNER_WATCHER) < 0) {
            close(u->room);
            u->room = -1;
            return false;
        }
        u->room_op.kind = AIOL_OP_POLL;
        u->room_op.fd = u->room;
        u->room_op.done = aiol_uring_roomy;
        u->room_op.u.poll.events = AIOL_POLL_READABLE;
        (void)aiol_uring_submit(&u->table.base, &u->room_op);
    }
    memset(&event, 0, sizeof(event));
    event.events = EPOLLOUT;
    event.data.fd = fd;
    if (AIOL_SYS(epoll_ctl, epoll_ctl(u->room, EPOLL_CTL_ADD, fd, &event)) == -1)
        return false;
    aiol_table_at(&u->table, fd)->flags |= AIOL_FD_ROOM;
    return true;
}

/* k) Whether a poll for room has found nothing but the peer's end, and something better waits now. */
static bool aiol_uring_has_no_room(aiol_uring *u, const aiol_op *op, int result) {
    return (result & (POLLOUT | POLLERR | POLLHUP | POLLNVAL)) == 0 && aiol_uring_await_room(u, op->fd);
}

/* A SEND was tried; without room a poll is made next. */
static void aiol_uring_sent(aiol_uring *u, aiol_op *op, int64_t n) {
    n = aiol_table_attempted(&u->table.base, op->fd, op->u.send.pieces, op->u.send.count, n);
    if (n != AIOL_PENDING)
        aiol_table_finish(&u->table, op, n);
}

/* A SEND that found no room is tried again. */
static void aiol_uring_send_again(aiol_uring *u, aiol_op *op, int result) {
    if (aiol_uring_has_no_room(u, op, result))
        return;
    aiol_table_at(&u->table, op->fd)->flags &= (uint8_t)~AIOL_FD_FULL;
    aiol_uring_sent(u, op, aiol_socket_send(op->fd, op->u.send.pieces, op->u.send.count));
}

static void aiol_uring_watched(aiol_uring *u, aiol_op *op, int result, bool fresh) {
    if (op->u.poll.events == AIOL_POLL_WRITABLE && aiol_uring_has_no_room(u, op, result))
        return;
    if (fresh || aiol_descriptor_is_ready(op->fd, op->u.poll.events))
        op->done(op, op->u.poll.events, NULL);
}

/* The socket of a RECV is readable, or the descriptor of another operation is ready. */
static void aiol_uring_polled(aiol_uring *u, aiol_op *op, int result, bool fresh, const aiol_budget *budget) {
    aiol_table *t = &u->table;
    if (aiol_uring_is_passing(result) || op->state != AIOL_OP_ACTIVE)
        return;
    if (result < 0)
        aiol_table_finish(t, op, aiol_error_from_errno(-result));
    else if (op->kind == AIOL_OP_CONNECT)
        aiol_table_finish(t, op, aiol_socket_connected(op->fd));
    else if (op->kind == AIOL_OP_POLL)
        aiol_uring_watched(u, op, result, fresh);
    else if (op->kind == AIOL_OP_SEND)
        aiol_uring_send_again(u, op, result);
    else if (op->kind == AIOL_OP_ACCEPT)
        aiol_table_accept(t, op, budget);
    else if ((op->engine_flags & (AIOL_OP_KEPT | AIOL_OP_ENDED)) == 0) /* what is kept goes first */
        aiol_uring_read(u, op, budget);
}

static void aiol_uring_complete(aiol_uring *u, aiol_op *op, const aiol_uring_completion *c, bool fresh,
                                const aiol_budget *budget) {
    aiol_table *t = &u->table;
    bool last = (c->flags & AIOL_URING_F_MORE) == 0;
    t->current = op;
    if (last) {
        aiol_fd *entry = op->fd >= 0 ? aiol_table_at(t, op->fd) : NULL;
        op->engine_flags &= (uint8_t)~(AIOL_OP_ARMED | AIOL_OP_LEAVING);
        if (entry != NULL && entry->generation == op->generation && entry->armed != 0)
            entry->armed--;
    }
    if (AIOL_UNLIKELY(op->state == AIOL_OP_CANCELLING)) {
        aiol_uring_bytes(u, op, c, budget);
        if (op->kind == AIOL_OP_ACCEPT && c->result >= 0 && (op->engine_flags & AIOL_OP_POLLED) == 0)
            aiol_socket_close(c->result); /* as the system does with those that nobody has accepted */
        if (last)
            aiol_uring_cancelled(op, c->result);
        return;
    }
    if ((op->engine_flags & AIOL_OP_POLLED) != 0) {
        aiol_uring_polled(u, op, c->result, fresh, budget);
    } else if (op->kind == AIOL_OP_RECV) {
        aiol_uring_bytes(u, op, c, budget);
        if (last && t->current == op)
            aiol_uring_receive_ended(u, op, c->result);
    } else if (op->kind == AIOL_OP_ACCEPT) {
        aiol_uring_accepted(u, op, c->result);
    } else if (c->result == -EAGAIN || !aiol_uring_is_passing(c->result)) {
        aiol_uring_sent(u, op, c->result >= 0 ? c->result : aiol_error_from_errno(-c->result));
    }
    if (last && t->current == op)
        aiol_table_changed(t, op->fd, aiol_table_at(t, op->fd)); /* to be made anew */
}

/* Whether its budget allows one more connection in this iteration. */
static bool aiol_uring_may_accept(const aiol_uring *u, aiol_op *op) {
    if (op->u.accept.turn != u->turn)
        op->u.accept.taken = 0;
    op->u.accept.turn = u->turn;
    return op->u.accept.taken++ < op->u.accept.budget || op->state == AIOL_OP_CANCELLING;
}

static int aiol_uring_dispatch(aiol_engine *e, const aiol_budget *budget) {
    aiol_uring *u = (aiol_uring *)e;
    if (AIOL_UNLIKELY(u->table.kept != NULL))
        aiol_table_offer(&u->table, budget);
    u->turn++;
    while (u->cq_next != u->cq_end && !*budget->halt) {
        aiol_uring_completion c = u->completions[u->cq_next & u->cq_mask];
        aiol_op *op = aiol_uring_whose(&c);
        bool fresh = (int32_t)(u->cq_next - u->cq_fresh) >= 0;
        if ((c.user_data & AIOL_URING_IS_ACCEPT) != 0 && !aiol_uring_may_accept(u, op))
            break; /* in the next iteration */
        aiol_ring_store(u->cq_head, ++u->cq_next);
        if (op != NULL)
            aiol_uring_complete(u, op, &c, fresh, budget);
    }
    return u->table.kept != NULL || u->cq_next != u->cq_end ? 1 : 0;
}

/* ---- the rest ---- */

static int aiol_uring_descriptor(aiol_engine *e) {
    aiol_uring *u = (aiol_uring *)e;
    aiol_wake signal;
    int err;
    if (u->signal.reader != -1)
        return u->signal.reader;
    err = aiol_wake_open(&signal, 0);
    if (err < 0)
        return err;
    err = aiol_uring_register(u, AIOL_URING_REGISTER_EVENTFD, &signal.reader, 1);
    if (err < 0) {
        aiol_wake_close(&signal);
        return err;
    }
    aiol_wake_signal(&signal); /* there may be something already */
    u->signal = signal;
    return signal.reader;
}

static void aiol_uring_wake(aiol_engine *e) {
    aiol_wake_signal(&((aiol_uring *)e)->wake);
}

static size_t aiol_uring_woken(aiol_op *op, int64_t n, const void *data) {
    aiol_uring *u = AIOL_CONTAINER(op, aiol_uring, wake_op);
    (void)n;
    (void)data;
    aiol_wake_drain(&u->wake);
    if (op->state == AIOL_OP_IDLE) /* the kernel gave up; threads must be able to wake us all the same */
        (void)aiol_uring_submit(&u->table.base, op);
    return 0;
}

/* Touches nothing that a forked child shares with its parent. */
static void aiol_uring_forget(aiol_engine *e) {
    aiol_uring *u = (aiol_uring *)e;
    if (u->rings != NULL)
        munmap(u->rings, u->rings_size);
    if (u->entries != NULL)
        munmap(u->entries, u->entries_size);
    if (u->fd != -1)
        close(u->fd);
    if (u->signal.reader != -1)
        aiol_wake_close(&u->signal);
    if (u->room != -1)
        close(u->room);
    if (u->memory != NULL)
        munmap(u->memory, AIOL_URING_PAGE + AIOL_URING_MEMORY);
    aiol_wake_close(&u->wake);
    aiol_table_free(&u->table);
    aiol_free(e->allocator, u, sizeof(*u));
}

/* Connections that were made, and that nobody will accept. */
static void aiol_uring_close_accepted(aiol_uring *u) {
    for (; u->cq_next != aiol_ring_load(u->cq_tail); aiol_ring_store(u->cq_head, ++u->cq_next)) {
        const aiol_uring_completion *c = &u->completions[u->cq_next & u->cq_mask];
        if ((c->user_data & AIOL_URING_TAGS) == AIOL_URING_IS_ACCEPT && c->result >= 0)
            aiol_socket_close(c->result);
    }
}

static void aiol_uring_close(aiol_engine *e) {
    aiol_uring *u = (aiol_uring *)e;
    int tries = 0;
    if (u->enabled) { /* a): watchers' descriptors outlive the loop */
        const char *tagged = (const char *)(const void *)u + AIOL_URING_IS_CANCEL;
        aiol_uring_entry *entry = aiol_uring_request(u, AIOL_URING_CANCEL, -1, tagged);
        if (entry != NULL)
            entry->operation_flags = AIOL_URING_CANCEL_ALL | AIOL_URING_CANCEL_ANY;
        do {
            int err = aiol_uring_enter(u, AIOL_URING_GETEVENTS, 0, -1);
            aiol_uring_close_accepted(u); /* also of what was found before */
            if (err < 0)
                break;
        } while ((aiol_ring_load(u->sq_flags) & (AIOL_URING_SQ_TASKRUN | AIOL_URING_SQ_OVERFLOW)) != 0 && ++tries < 1000);
    }
    aiol_uring_forget(e);
}

static void aiol_uring_verify(aiol_engine *e) {
    const aiol_uring *u = (const aiol_uring *)(const void *)e;
    size_t i;
    aiol_table_verify(&u->table);
    for (i = 0; i < u->table.fds_capacity; i++) {
        const aiol_fd *entry = &u->table.fds[i];
        const aiol_op *in = entry->in;
        /* Whatever waits is armed, or will be: when it is told, when what is kept was taken, when it is started, or
         * when its callback, from which this may be called, returns. */
        AIOL_VERIFY(in == NULL || in == u->table.current || in->state == AIOL_OP_STOPPED ||
                    (in->engine_flags & (AIOL_OP_ARMED | AIOL_OP_KEPT)) != 0 || (entry->flags & AIOL_FD_DIRTY) != 0);
        AIOL_VERIFY(entry->out == NULL || entry->out == u->table.current || (entry->out->engine_flags & AIOL_OP_ARMED) != 0 ||
                    (entry->flags & (AIOL_FD_DIRTY | AIOL_FD_ROOM)) != 0);
    }
}

static const aiol_engine_calls aiol_uring_calls = {
    aiol_uring_close,    aiol_uring_submit,   aiol_uring_attempt,  aiol_uring_cancel,     aiol_table_stop,
    aiol_table_start,    aiol_table_take,     aiol_table_watching, aiol_table_owned,      aiol_table_attach,
    aiol_uring_quiesce,  aiol_uring_wait_for, aiol_uring_dispatch, aiol_uring_flush,      aiol_uring_descriptor,
    aiol_uring_wake,     aiol_uring_forget,   aiol_table_now,      aiol_uring_verify,
};

/* ---- making ---- */

/* Without memory of the kernel's (some charge it to a limit of the user's) there are other engines. */
static int aiol_uring_refused(void) {
    return errno == ENOMEM ? AIOLOOP_ENOTAVAILABLE : aiol_error_from_errno(errno);
}

/* The best ring that the kernel makes and that is not to be done without. Where it is not the best of all, epoll is as
 * good, and serves unless this engine was asked for. */
static int aiol_uring_create(aiol_uring *u, bool named, aiol_uring_setup *setup) {
    static const struct {
        uint32_t flags;
        unsigned without;
    } rungs[] = {{AIOL_URING_SINGLE_ISSUER | AIOL_URING_DEFER_TASKRUN | AIOL_URING_TASKRUN_FLAG | AIOL_URING_SUBMIT_ALL,
                  AIOL_WITHOUT_DEFER_TASKRUN},
                 {AIOL_URING_COOP_TASKRUN | AIOL_URING_TASKRUN_FLAG | AIOL_URING_SUBMIT_ALL, AIOL_WITHOUT_COOP_TASKRUN},
                 {0, 0}};
    size_t i;
    for (i = 0; i < sizeof(rungs) / sizeof(rungs[0]); i++) {
        if ((u->table.without & rungs[i].without) != 0)
            continue;
        memset(setup, 0, sizeof(*setup));
        setup->flags = rungs[i].flags | AIOL_URING_CQSIZE | AIOL_URING_CLAMP | AIOL_URING_R_DISABLED;
        setup->cq_entries = AIOL_URING_COMPLETIONS;
        u->fd = AIOL_SYS(io_uring_setup, (int)syscall(AIOL_SYS_URING_SETUP, AIOL_URING_ENTRIES, setup));
        if (u->fd != -1)
            return (setup->features & AIOL_URING_FEATURES) == AIOL_URING_FEATURES ? 0 : AIOLOOP_ENOTAVAILABLE;
        if (errno != EINVAL || !named)
            break;
    }
    return aiol_uring_refused();
}

static int aiol_uring_map(aiol_uring *u, const aiol_uring_setup *setup) {
    uint32_t *array;
    intptr_t place;
    size_t size;
    uint32_t i;
    u->rings_size = setup->sq.array + setup->sq_entries * sizeof(uint32_t);
    size = setup->cq.completions + setup->cq_entries * sizeof(aiol_uring_completion);
    if (size > u->rings_size)
        u->rings_size = size;
    place = AIOL_SYS(mmap, (intptr_t)mmap(NULL, u->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->fd,
                                          AIOL_URING_MAP_RINGS));
    if (place == -1)
        return aiol_uring_refused();
    u->rings = (unsigned char *)place;
    u->entries_size = setup->sq_entries * sizeof(aiol_uring_entry);
    place = AIOL_SYS(mmap, (intptr_t)mmap(NULL, u->entries_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->fd,
                                          AIOL_URING_MAP_ENTRIES));
    if (place == -1)
        return aiol_uring_refused();
    u->entries = (aiol_uring_entry *)place;
    u->sq_head = (uint32_t *)(void *)(u->rings + setup->sq.head);
    u->sq_tail = (uint32_t *)(void *)(u->rings + setup->sq.tail);
    u->sq_flags = (uint32_t *)(void *)(u->rings + setup->sq.flags);
    u->sq_mask = setup->sq_entries - 1;
    array = (uint32_t *)(void *)(u->rings + setup->sq.array);
    for (i = 0; i < setup->sq_entries; i++)
        array[i] = i;
    u->cq_head = (uint32_t *)(void *)(u->rings + setup->cq.head);
    u->cq_tail = (uint32_t *)(void *)(u->rings + setup->cq.tail);
    u->cq_mask = setup->cq_entries - 1;
    u->completions = (aiol_uring_completion *)(void *)(u->rings + setup->cq.completions);
    return 0;
}

AIOLOOP_INTERNAL int aiol_uring_open(const aiol_engine_setup *setup, aiol_engine **out) {
    aiol_uring *u = (aiol_uring *)aiol_alloc_zero(setup->allocator, sizeof(*u));
    aiol_uring_setup kernel;
    int err;
    if (u == NULL)
        return AIOLOOP_ENOMEM;
    u->table.base.name = "io_uring";
    u->table.base.calls = &aiol_uring_calls;
    u->table.base.sockets = &aiol_system_sockets;
    u->table.base.allocator = setup->allocator;
    u->table.without = setup->without;
    u->table.broken = aiol_uring_broken;
    u->fd = -1;
    u->signal.reader = -1;
    u->room = -1;
    err = aiol_wake_open(&u->wake, setup->without);
    if (err < 0) {
        aiol_free(setup->allocator, u, sizeof(*u));
        return err;
    }
    err = aiol_uring_create(u, setup->named, &kernel);
    if (err == 0)
        err = aiol_uring_map(u, &kernel);
    if (err == 0)
        err = aiol_table_attach(&u->table.base, u->wake.reader, AIOL_OWNER_WATCHER);
    if (err < 0) {
        aiol_uring_forget(&u->table.base);
        return err;
    }
    u->wake_op.kind = AIOL_OP_POLL;
    u->wake_op.fd = u->wake.reader;
    u->wake_op.done = aiol_uring_woken;
    u->wake_op.u.poll.events = AIOL_POLL_READABLE;
    (void)aiol_uring_submit(&u->table.base, &u->wake_op);
    *out = &u->table.base;
    return 0;
}

#endif

/* >> src/aioloop.h */
#endif
#if AIOL_HAVE_SIM

/* >> src/io/sim.c */
/*
 * sim.c - the simulated engine: a virtual clock and a network in memory, to prove the contract of op.h.
 *
 * Two personalities. Readiness does what the reactor does. Delayed does all that a completion engine is allowed to do:
 * sends copy nothing until later and take a part, completions come iterations after the fact, bytes and connections are
 * taken from the network ahead of their delivery and also while a source is stopped, a cancel finds the work done.
 *
 *   a) The seed decides everything. Sockets are walked in the order of their making and never by address; a harvest is
 *      shuffled by the seed (whatever came at an earlier time was in an earlier harvest, so time order holds).
 *   b) A step moves what is due; steps repeat until nothing moves; only then may the clock jump. So time passes only
 *      when nobody has anything to do, which is what makes an hour's time-out cost microseconds.
 *   c) What a connection carries lies at the receiving socket, so a sender may go while its bytes are under way. Ends
 *      and resets are times in the receiver, not messages, so closing needs no memory.
 *   d) The stash is a count: the first bytes of a socket (or connections of a listener) are the engine's. Giving them
 *      back, which a cancel must do, is setting it to 0, and cannot fail.
 *   e) A socket made by open brings along the other end of the connection it may make, so connecting cannot fail for
 *      want of memory. Only a send allocates, and answers AIOLOOP_ENOBUFS as a system does.
 *   f) A cancelled operation that has not told its end is on a list of the engine and no more of its socket: the
 *      descriptor may be closed and its number in use again by then. Freed numbers are given out again at once, to
 *      provoke just that.
 *   g) Callbacks may close any socket, so after each of them a socket is looked up anew by number and serial.
 *
 * Long, because it is a kernel's network and two engines.
 */
#ifndef AIOL_IO_SIM_C
#define AIOL_IO_SIM_C

/* Work takes no time here, so that a test can count on exact times; but after so many iterations that did not wait each
 * one takes so many nanoseconds. */
#define AIOL_SIM_PATIENCE 10000
#define AIOL_SIM_TICK 1000

/* Another thread can end a wait only where there is something to wait with; elsewhere one without end fails at once. */
#define AIOL_SIM_BLOCKS (AIOLOOP_USE_THREADS && AIOL_HAVE_POLL)

#if AIOL_SIM_BLOCKS

#endif

#define AIOL_SIM_START AIOLOOP_MS(1000) /* what the clock shows at first: not 0, so that 0 is in the past */
#define AIOL_SIM_DEADLOCK 2000          /* real ms in which another thread has to wake a loop without events */
#define AIOL_SIM_NUMBERS (1 << 20)      /* the first descriptor: out of the way of the system's */
#define AIOL_SIM_BUFFER 65536u          /* the default of sim_set_buffer; what one done() of a RECV gets at most */
#define AIOL_SIM_SHARE 16384u           /* bytes a delayed RECV takes ahead */
#define AIOL_SIM_ACCEPT_SHARE 4u        /* connections a delayed ACCEPT takes ahead */
#define AIOL_SIM_FIRST_PORT 32768
#define AIOL_SIM_LAST_PORT 60999

/* The places of a socket's operations, in the order in which they are served. */
typedef enum aiol_sim_place {
    AIOL_SIM_READER,     /* RECV, ACCEPT */
    AIOL_SIM_WATCH_READ, /* POLL */
    AIOL_SIM_WRITER,     /* SEND, CONNECT */
    AIOL_SIM_WATCH_WRITE,
    AIOL_SIM_PLACES
} aiol_sim_place;

/* engine_flags of a delayed SEND: it has happened, op->engine is its result. */
enum { AIOL_SIM_HAPPENED = 1 };

/* NEW -listen-> LISTENING. NEW -submit-> CONNECTING -> CONNECTED, or back to NEW. An accepted one is born CONNECTED. */
typedef enum aiol_sim_stage {
    AIOL_SIM_NEW,
    AIOL_SIM_LISTENING,
    AIOL_SIM_CONNECTING,
    AIOL_SIM_CONNECTED
} aiol_sim_stage;

/* Bytes of one send; they follow the struct. */
typedef struct aiol_sim_piece {
    struct aiol_sim_piece *next;
    aioloop_time arrives;
    size_t start; /* the first byte still there */
    size_t size;  /* bytes still there */
    size_t block_size;
} aiol_sim_piece;

/* An address with room for its path. */
typedef struct aiol_sim_name {
    aioloop_address address;
    aiol_path_room room;
} aiol_sim_name;

/* The file of a Unix socket: stays until it is removed. */
typedef struct aiol_sim_file {
    struct aiol_sim_file *next;
    aiol_sim_name name;
    uint64_t inode;
} aiol_sim_file;

typedef struct aiol_sim_socket {
    aiol_link link;        /* sim->sockets */
    aioloop_socket number; /* AIOL_NO_SOCKET until accepted */
    uint32_t serial;       /* tells it from others that have or had its number */
    uint8_t family;
    uint8_t stage;
    bool bound;
    bool transport; /* attached by one */
    bool reuse_address;
    bool reuse_port;
    bool v6_only;
    uint64_t inode; /* of the file it was bound to */
    aiol_sim_name local;
    aiol_sim_name remote;
    aiol_op *ops[AIOL_SIM_PLACES];

    /* a connection */
    struct aiol_sim_socket *peer;  /* NULL: closed, or this end is dead */
    struct aiol_sim_socket *spare; /* e) */
    bool write_shut;
    bool dead; /* reset or broken */
    bool connect_waits; /* for room in the backlog */
    aioloop_time connect_at;
    int connect_result;
    int read_error; /* to be told once */
    int write_error;

    /* what comes in, c) */
    aiol_sim_piece *head;
    aiol_sim_piece *tail;
    aiol_sim_piece *coming; /* the first that is under way */
    size_t size;            /* bytes in all pieces */
    size_t arrived;         /* bytes before coming */
    size_t stash;           /* d); of a listener: connections */
    aioloop_time last_arrival;
    aioloop_time end_at;
    aioloop_time reset_at;
    bool end_sent;
    bool end_arrived;
    bool reset_sent;
    bool offering; /* done() of its RECV runs */

    /* delayed: in which turn what is known is told */
    bool read_noticed;
    uint32_t read_due;
    uint32_t write_due;

    /* a listener, and a connection in its queue */
    struct aiol_sim_socket *queue;
    struct aiol_sim_socket *queue_next;
    size_t queue_count;
    size_t backlog;
} aiol_sim_socket;

typedef struct aiol_sim_slot {
    aiol_sim_socket *socket;
    size_t next_free; /* index + 1 */
} aiol_sim_slot;

/* Something to dispatch. */
typedef struct aiol_sim_ready {
    aioloop_socket number;
    uint32_t serial;
    unsigned places; /* bits */
} aiol_sim_ready;

typedef struct aiol_sim {
    aiol_engine engine;
    bool delayed;
    bool partition;
    uint64_t random;
    aioloop_time now;
    aioloop_time delay_min;
    aioloop_time delay_max;
    size_t buffer;
    int accept_error;
    unsigned accept_failures;
    uint16_t port;   /* the next to try */
    uint64_t inodes; /* given out */
    uint32_t serials;
    aiol_sim_file *files;

    aiol_link sockets;
    size_t sockets_total; /* with spare ones */
    aiol_sim_slot *slots; /* by number; room for sockets_total */
    size_t slots_used;
    size_t slots_free; /* the head of the list: index + 1 */
    size_t slots_capacity;

    uint32_t turn;        /* counts waits */
    uint32_t generation;  /* counts submissions */
    uint32_t harvested;   /* generation at the harvest */
    aiol_op *late;        /* CANCELLING, f) */
    aiol_sim_ready *ready; /* room for sockets_total */
    size_t ready_next;
    size_t ready_count;
    size_t ready_capacity;
    bool more; /* this dispatch left something */

    unsigned char *scratch; /* AIOL_SIM_BUFFER bytes: what a RECV without dest is shown */
    uint32_t woken;         /* atomic */
#if AIOL_SIM_BLOCKS
    aiol_wake wake;
#endif
    unsigned busy; /* iterations in a row that did not wait */
} aiol_sim;

static aiol_sim *aiol_sim_of(aiol_engine *e) {
    return AIOL_CONTAINER(e, aiol_sim, engine);
}

/* True once turn a is at or after turn b; counters may wrap. */
static bool aiol_sim_reached(uint32_t a, uint32_t b) {
    return (int32_t)(a - b) >= 0;
}

/* ---- chance ---- */

/* splitmix64 */
static uint64_t aiol_sim_draw(aiol_sim *sim) {
    uint64_t z = sim->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint32_t aiol_sim_below(aiol_sim *sim, uint32_t bound) {
    return (uint32_t)((aiol_sim_draw(sim) >> 32) * bound >> 32);
}

static bool aiol_sim_coin(aiol_sim *sim) {
    return aiol_sim_below(sim, 2) == 0;
}

/* Something from 1 to size. */
static size_t aiol_sim_part(aiol_sim *sim, size_t size) {
    uint32_t bound = (uint32_t)aiol_min_size(size, UINT32_MAX);
    return bound == 0 ? 0 : 1 + (size_t)aiol_sim_below(sim, bound);
}

static aioloop_time aiol_sim_delay(aiol_sim *sim) {
    uint64_t span = (uint64_t)(sim->delay_max - sim->delay_min);
    if (span == 0)
        return sim->delay_min;
    return sim->delay_min + (aioloop_time)(aiol_sim_draw(sim) % (span + 1));
}

/* ---- names ---- */

static void aiol_sim_name_set(aiol_sim_name *name, const aioloop_address *address) {
    name->address = *address;
    if (address->family == AIOLOOP_UNIX) {
        size_t size = aiol_min_size(address->path_size, sizeof(name->room.bytes));
        if (size != 0)
            memcpy(name->room.bytes, address->u.path, size);
        name->address.path_size = (uint32_t)size;
        name->address.u.path = name->room.bytes;
    }
}

static void aiol_sim_name_tell(const aiol_sim_name *name, aioloop_address *address, aiol_path_room *room) {
    *address = name->address;
    if (address->family == AIOLOOP_UNIX) {
        memcpy(room->bytes, name->room.bytes, address->path_size);
        address->u.path = room->bytes;
    }
}

static size_t aiol_sim_ip_size(const aioloop_address *a) {
    return a->family == AIOLOOP_INET ? 4 : 16;
}

static bool aiol_sim_is_wildcard(const aioloop_address *a) {
    static const uint8_t zeros[16] = {0};
    return memcmp(a->u.ip, zeros, aiol_sim_ip_size(a)) == 0;
}

static bool aiol_sim_is_loopback(const aioloop_address *a) {
    static const uint8_t one[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    return a->family == AIOLOOP_INET ? a->u.ip[0] == 127 : memcmp(a->u.ip, one, sizeof(one)) == 0;
}

static void aiol_sim_set_loopback(aioloop_address *a) {
    memset(a->u.ip, 0, sizeof(a->u.ip));
    if (a->family == AIOLOOP_INET)
        a->u.ip[0] = 127;
    a->u.ip[a->family == AIOLOOP_INET ? 3 : 15] = 1;
}

/* An IPv4 address as an IPv6 socket sees it. */
static void aiol_sim_map_v4(aioloop_address *a) {
    uint8_t ip[4];
    memcpy(ip, a->u.ip, 4);
    a->family = AIOLOOP_INET6;
    memset(a->u.ip, 0, 10);
    memset(a->u.ip + 10, 0xff, 2);
    memcpy(a->u.ip + 12, ip, 4);
}

static bool aiol_sim_is_file(const aioloop_address *a) {
    return a->family == AIOLOOP_UNIX && a->path_size != 0 && a->u.path[0] != '\0';
}

/* Where the file of this name hangs, or the NULL at the list's end. */
static aiol_sim_file **aiol_sim_find_file(aiol_sim *sim, const char *path, size_t size) {
    aiol_sim_file **at;
    for (at = &sim->files; *at != NULL; at = &(*at)->next)
        if ((*at)->name.address.path_size == size && memcmp((*at)->name.room.bytes, path, size) == 0)
            break;
    return at;
}

static int aiol_sim_make_file(aiol_sim *sim, aiol_sim_socket *s, const aioloop_address *address) {
    aiol_sim_file **at = aiol_sim_find_file(sim, address->u.path, address->path_size);
    aiol_sim_file *file;
    if (*at != NULL)
        return AIOLOOP_EADDRINUSE;
    file = (aiol_sim_file *)aiol_alloc_zero(sim->engine.allocator, sizeof(*file));
    if (file == NULL)
        return AIOLOOP_ENOMEM;
    aiol_sim_name_set(&file->name, address);
    file->inode = ++sim->inodes;
    s->inode = file->inode;
    *at = file;
    return 0;
}

/* ---- sockets and their numbers ---- */

static aiol_sim_socket *aiol_sim_find(aiol_sim *sim, aioloop_socket number) {
    if (number < AIOL_SIM_NUMBERS || (size_t)(number - AIOL_SIM_NUMBERS) >= sim->slots_used)
        return NULL;
    return sim->slots[number - AIOL_SIM_NUMBERS].socket;
}

/* A new socket, in no list and without a number, for which there is room in every array. */
static aiol_sim_socket *aiol_sim_make(aiol_sim *sim, int family) {
    const aioloop_allocator *a = sim->engine.allocator;
    size_t wanted = sim->sockets_total + 1;
    aiol_sim_socket *s;
    if (aiol_grow(a, &sim->slots, &sim->slots_capacity, sizeof(sim->slots[0]), wanted) < 0 ||
        aiol_grow(a, &sim->ready, &sim->ready_capacity, sizeof(sim->ready[0]), wanted) < 0)
        return NULL;
    s = (aiol_sim_socket *)aiol_alloc_zero(a, sizeof(*s));
    if (s == NULL)
        return NULL;
    sim->sockets_total++;
    s->number = AIOL_NO_SOCKET;
    s->family = (uint8_t)family;
    s->local.address.family = (uint16_t)family;
    s->local.address.u.path = family == AIOLOOP_UNIX ? s->local.room.bytes : NULL;
    s->remote = s->local;
    return s;
}

/* The socket begins to exist for the network. */
static void aiol_sim_enter(aiol_sim *sim, aiol_sim_socket *s) {
    s->serial = ++sim->serials;
    s->last_arrival = sim->now;
    aiol_list_append(&sim->sockets, &s->link);
}

/* Gives it the number that was freed last. */
static void aiol_sim_number(aiol_sim *sim, aiol_sim_socket *s) {
    size_t i = sim->slots_free;
    AIOL_ASSERT(s->number == AIOL_NO_SOCKET);
    if (i != 0) {
        sim->slots_free = sim->slots[--i].next_free;
    } else {
        AIOL_ASSERT(sim->slots_used < sim->slots_capacity);
        i = sim->slots_used++;
    }
    sim->slots[i].socket = s;
    s->number = AIOL_SIM_NUMBERS + (aioloop_socket)i;
}

static void aiol_sim_free_pieces(aiol_sim *sim, aiol_sim_piece *piece) {
    while (piece != NULL) {
        aiol_sim_piece *next = piece->next;
        aiol_free(sim->engine.allocator, piece, piece->block_size);
        piece = next;
    }
}

static void aiol_sim_free(aiol_sim *sim, aiol_sim_socket *s) {
    if (s == NULL)
        return;
    if (s->number != AIOL_NO_SOCKET) {
        size_t i = (size_t)(s->number - AIOL_SIM_NUMBERS);
        sim->slots[i].socket = NULL;
        sim->slots[i].next_free = sim->slots_free;
        sim->slots_free = i + 1;
    }
    aiol_list_remove(&s->link);
    aiol_sim_free_pieces(sim, s->head);
    aiol_sim_free(sim, s->spare);
    sim->sockets_total--;
    aiol_free(sim->engine.allocator, s, sizeof(*s));
}

/* Walks the sockets in the order of their making. */
#define AIOL_SIM_EACH(sim, link)                                                                   \
    for (link = (sim)->sockets.next; link != &(sim)->sockets; link = link->next)

static aiol_sim_socket *aiol_sim_at(aiol_link *link) {
    return AIOL_CONTAINER(link, aiol_sim_socket, link);
}

/* ---- what is under way ---- */

/* When something sent to s now arrives: never before what was sent earlier. */
static aioloop_time aiol_sim_arrival(aiol_sim *sim, aiol_sim_socket *s) {
    aioloop_time at = aiol_time_add(sim->now, aiol_sim_delay(sim));
    if (at > s->last_arrival)
        s->last_arrival = at;
    return s->last_arrival;
}

static void aiol_sim_append(aiol_sim *sim, aiol_sim_socket *s, aiol_sim_piece *piece) {
    piece->arrives = aiol_sim_arrival(sim, s);
    if (s->tail == NULL)
        s->head = piece;
    else
        s->tail->next = piece;
    s->tail = piece;
    if (s->coming == NULL)
        s->coming = piece;
    s->size += piece->size;
}

static void aiol_sim_send_end(aiol_sim *sim, aiol_sim_socket *s) {
    if (s->end_sent || s->dead)
        return;
    s->end_sent = true;
    s->end_at = aiol_sim_arrival(sim, s);
}

static void aiol_sim_send_reset(aiol_sim *sim, aiol_sim_socket *s) {
    if (s->reset_sent || s->dead)
        return;
    s->reset_sent = true;
    s->reset_at = aiol_sim_arrival(sim, s);
}

/* Copies the first bytes; they stay. */
static void aiol_sim_peek(const aiol_sim_socket *s, void *to, size_t size) {
    const aiol_sim_piece *piece = s->head;
    unsigned char *at = (unsigned char *)to;
    while (size != 0) {
        size_t n = aiol_min_size(size, piece->size);
        memcpy(at, (const unsigned char *)(piece + 1) + piece->start, n);
        at += n;
        size -= n;
        piece = piece->next;
    }
}

/* Drops the first bytes, which have arrived. */
static void aiol_sim_consume(aiol_sim *sim, aiol_sim_socket *s, size_t size) {
    size = aiol_min_size(size, s->arrived); /* a break may have dropped them */
    s->arrived -= size;
    s->size -= size;
    s->stash -= aiol_min_size(s->stash, size);
    if (s->stash == 0)
        s->read_noticed = false;
    while (size != 0) {
        aiol_sim_piece *piece = s->head;
        size_t n = aiol_min_size(size, piece->size);
        piece->start += n;
        piece->size -= n;
        size -= n;
        if (piece->size == 0) {
            s->head = piece->next;
            if (s->head == NULL)
                s->tail = NULL;
            aiol_free(sim->engine.allocator, piece, piece->block_size);
        }
    }
}

/* Loses all that the engine does not have already. */
static void aiol_sim_drop(aiol_sim *sim, aiol_sim_socket *s) {
    aiol_sim_piece **at = &s->head;
    size_t left = s->stash;
    s->tail = NULL;
    while (left != 0) {
        s->tail = *at;
        s->tail->size = aiol_min_size(s->tail->size, left);
        left -= s->tail->size;
        at = &s->tail->next;
    }
    aiol_sim_free_pieces(sim, *at);
    *at = NULL;
    s->coming = NULL;
    s->size = s->stash;
    s->arrived = s->stash;
}

/* The connection is no more for this end, which is told once in each direction. */
static void aiol_sim_kill(aiol_sim *sim, aiol_sim_socket *s, int read_error, int write_error) {
    aiol_sim_drop(sim, s);
    s->dead = true;
    s->peer = NULL;
    s->end_sent = true;
    s->end_arrived = true;
    s->reset_sent = false;
    s->read_error = read_error;
    s->write_error = write_error;
}

/* As Linux: whoever has read to the end hears of a reset only when it writes. */
static void aiol_sim_reset_arrives(aiol_sim *sim, aiol_sim_socket *s) {
    if (s->end_arrived && s->arrived == 0)
        aiol_sim_kill(sim, s, 0, AIOLOOP_EPIPE);
    else
        aiol_sim_kill(sim, s, AIOLOOP_ECONNRESET, AIOLOOP_ECONNRESET);
}

/* Lets arrive what is due at s. True if something did. */
static bool aiol_sim_arrive(aiol_sim *sim, aiol_sim_socket *s) {
    bool moved = false;
    if (sim->partition)
        return false;
    for (; s->coming != NULL && s->coming->arrives <= sim->now; s->coming = s->coming->next) {
        s->arrived += s->coming->size;
        moved = true;
    }
    if (s->end_sent && !s->end_arrived && s->coming == NULL && s->end_at <= sim->now) {
        s->end_arrived = true;
        moved = true;
    }
    if (s->reset_sent && s->reset_at <= sim->now) {
        aiol_sim_reset_arrives(sim, s);
        moved = true;
    }
    return moved;
}

/* When the next thing happens to s by itself. */
static aioloop_time aiol_sim_next_at(const aiol_sim_socket *s) {
    aioloop_time at = AIOLOOP_FOREVER;
    if (s->coming != NULL)
        at = s->coming->arrives;
    else if (s->end_sent && !s->end_arrived)
        at = s->end_at;
    if (s->reset_sent && s->reset_at < at)
        at = s->reset_at;
    if (s->stage == AIOL_SIM_CONNECTING && !s->connect_waits && s->connect_at < at)
        at = s->connect_at;
    return at;
}

static aioloop_time aiol_sim_next_event(aiol_sim *sim) {
    aioloop_time next = AIOLOOP_FOREVER;
    aiol_link *link;
    if (sim->partition)
        return next;
    AIOL_SIM_EACH(sim, link) {
        aioloop_time at = aiol_sim_next_at(aiol_sim_at(link));
        if (at < next)
            next = at;
    }
    return next;
}

/* The network is whole again: all that is under way to s sets out anew. */
static void aiol_sim_resume(aiol_sim *sim, aiol_sim_socket *s) {
    aiol_sim_piece *piece;
    s->last_arrival = sim->now;
    for (piece = s->coming; piece != NULL; piece = piece->next)
        piece->arrives = aiol_sim_arrival(sim, s);
    if (s->end_sent && !s->end_arrived)
        s->end_at = aiol_sim_arrival(sim, s);
    if (s->reset_sent)
        s->reset_at = aiol_sim_arrival(sim, s);
    if (s->stage == AIOL_SIM_CONNECTING && !s->connect_waits)
        s->connect_at = aiol_time_add(sim->now, aiol_sim_delay(sim));
}

/* ---- sending ---- */

static size_t aiol_sim_total(const aiol_op *op) {
    size_t total = 0;
    int i;
    for (i = 0; i < op->u.send.count; i++)
        total += op->u.send.pieces[i].size;
    return total;
}

/* How many bytes fit on the way to s. What the engine has in its stash was received, as a kernel sees it. */
static size_t aiol_sim_room(const aiol_sim *sim, const aiol_sim_socket *s) {
    size_t held = s->size - s->stash;
    return held < sim->buffer ? sim->buffer - held : 0;
}

/* A closed or dead end takes everything: that is how a sender finds out. */
static bool aiol_sim_writable(const aiol_sim *sim, const aiol_sim_socket *s) {
    return s->stage == AIOL_SIM_CONNECTED && (s->peer == NULL || s->write_shut || aiol_sim_room(sim, s->peer) != 0);
}

static void aiol_sim_gather(const aiol_op *op, unsigned char *to, size_t size) {
    int i;
    for (i = 0; size != 0; i++) {
        const aioloop_buf *from = &op->u.send.pieces[i];
        size_t n = aiol_min_size(size, from->size);
        if (n != 0)
            memcpy(to, from->data, n);
        to += n;
        size -= n;
    }
}

/* Puts at most limit bytes of a SEND on their way: how many, a code, or AIOL_PENDING if there is no room. */
static int64_t aiol_sim_transfer(aiol_sim *sim, aiol_sim_socket *s, const aiol_op *op, size_t limit) {
    size_t total = aiol_min_size(aiol_sim_total(op), limit);
    aiol_sim_piece *piece;
    if (s->write_error != 0) {
        int error = s->write_error;
        s->write_error = 0;
        return error;
    }
    if (s->stage != AIOL_SIM_CONNECTED)
        return AIOLOOP_ENOTCONN;
    if (s->dead || s->write_shut)
        return AIOLOOP_EPIPE;
    if (total == 0)
        return 0;
    if (s->peer == NULL) { /* goes to a closed socket, which answers by a reset */
        aiol_sim_send_reset(sim, s);
        return (int64_t)total;
    }
    total = aiol_min_size(total, aiol_sim_room(sim, s->peer));
    if (total == 0)
        return AIOL_PENDING;
    piece = (aiol_sim_piece *)aiol_alloc(sim->engine.allocator, sizeof(*piece) + total);
    if (piece == NULL)
        return AIOLOOP_ENOBUFS;
    memset(piece, 0, sizeof(*piece));
    piece->size = total;
    piece->block_size = sizeof(*piece) + total;
    aiol_sim_gather(op, (unsigned char *)(piece + 1), total);
    aiol_sim_append(sim, s->peer, piece);
    return (int64_t)total;
}

/* What a delayed SEND takes at most: often only a part. */
static size_t aiol_sim_limit(aiol_sim *sim, const aiol_op *op) {
    return aiol_sim_coin(sim) ? SIZE_MAX : aiol_sim_part(sim, aiol_sim_total(op));
}

/* ---- binding and connecting ---- */

/* True if two Internet addresses name a common place. */
static bool aiol_sim_overlap(const aiol_sim_socket *s, const aioloop_address *a, const aiol_sim_socket *t) {
    const aioloop_address *b = &t->local.address;
    if (a->port != b->port)
        return false;
    if (a->family == b->family)
        return aiol_sim_is_wildcard(a) || aiol_sim_is_wildcard(b) || memcmp(a->u.ip, b->u.ip, aiol_sim_ip_size(a)) == 0;
    if (a->family == AIOLOOP_INET6)
        return aiol_sim_is_wildcard(a) && !s->v6_only;
    return aiol_sim_is_wildcard(b) && !t->v6_only;
}

/* True if another socket is in the way of s at this address; listening: only listeners are. */
static bool aiol_sim_conflict(aiol_sim *sim, const aiol_sim_socket *s, const aioloop_address *a, bool listening) {
    aiol_link *link;
    AIOL_SIM_EACH(sim, link) {
        const aiol_sim_socket *t = aiol_sim_at(link);
        if (t == s || !t->bound || (t->family == AIOLOOP_UNIX) != (a->family == AIOLOOP_UNIX))
            continue;
        if (a->family == AIOLOOP_UNIX) {
            if (!aiol_sim_is_file(a) && aioloop_address_equal(a, &t->local.address))
                return true;
            continue;
        }
        if (!aiol_sim_overlap(s, a, t) || (s->reuse_port && t->reuse_port))
            continue;
        if (t->stage == AIOL_SIM_LISTENING || !(listening || (s->reuse_address && t->reuse_address)))
            return true;
    }
    return false;
}

static bool aiol_sim_port_used(aiol_sim *sim, uint16_t port) {
    aiol_link *link;
    AIOL_SIM_EACH(sim, link) {
        const aioloop_address *a = &aiol_sim_at(link)->local.address;
        if (a->family != AIOLOOP_UNIX && a->port == port)
            return true;
    }
    return false;
}

/* A port nobody has, or 0. */
static uint16_t aiol_sim_free_port(aiol_sim *sim) {
    int tries;
    for (tries = AIOL_SIM_FIRST_PORT; tries <= AIOL_SIM_LAST_PORT; tries++) {
        uint16_t port = sim->port;
        sim->port = port == AIOL_SIM_LAST_PORT ? AIOL_SIM_FIRST_PORT : (uint16_t)(port + 1);
        if (!aiol_sim_port_used(sim, port))
            return port;
    }
    return 0;
}

/* How well a listener fits a destination; 0: not at all. */
static int aiol_sim_fit(const aiol_sim_socket *s, const aioloop_address *to, uint64_t inode) {
    const aioloop_address *a = &s->local.address;
    if (s->stage != AIOL_SIM_LISTENING)
        return 0;
    if (to->family == AIOLOOP_UNIX)
        return inode != 0 ? s->inode == inode : aioloop_address_equal(a, to);
    if (a->family == AIOLOOP_UNIX || a->port != to->port)
        return 0;
    if (a->family != to->family)
        return a->family == AIOLOOP_INET6 && !s->v6_only && aiol_sim_is_wildcard(a) ? 1 : 0;
    if (memcmp(a->u.ip, to->u.ip, aiol_sim_ip_size(a)) == 0)
        return 3;
    return aiol_sim_is_wildcard(a) ? 2 : 0;
}

/* Who listens at an address; among equals (REUSE_PORT) the seed chooses. */
static int aiol_sim_listener(aiol_sim *sim, const aioloop_address *to, aiol_sim_socket **out) {
    aiol_sim_socket *best = NULL;
    int best_fit = 0;
    uint32_t equals = 0;
    uint64_t inode = 0;
    aiol_link *link;
    if (aiol_sim_is_file(to)) {
        const aiol_sim_file *file = *aiol_sim_find_file(sim, to->u.path, to->path_size);
        if (file == NULL)
            return AIOLOOP_ENOENT;
        inode = file->inode;
    }
    AIOL_SIM_EACH(sim, link) {
        aiol_sim_socket *s = aiol_sim_at(link);
        int fit = aiol_sim_fit(s, to, inode);
        if (fit == 0 || fit < best_fit)
            continue;
        equals = fit == best_fit ? equals + 1 : 1;
        if (equals == 1 || aiol_sim_below(sim, equals) == 0)
            best = s;
        best_fit = fit;
    }
    *out = best;
    return best == NULL ? AIOLOOP_ECONNREFUSED : 0;
}

/* The spare end of s becomes the other end of its connection and waits to be accepted. */
static void aiol_sim_join(aiol_sim *sim, aiol_sim_socket *s, aiol_sim_socket *listener) {
    aiol_sim_socket *t = s->spare;
    aiol_sim_socket **at;
    s->spare = NULL;
    aiol_sim_enter(sim, t);
    t->family = listener->family;
    aiol_sim_name_set(&t->local, &s->remote.address);
    aiol_sim_name_set(&t->remote, &s->local.address);
    if (t->family != s->family) {
        aiol_sim_map_v4(&t->local.address);
        aiol_sim_map_v4(&t->remote.address);
    }
    s->stage = AIOL_SIM_CONNECTED;
    t->stage = AIOL_SIM_CONNECTED;
    s->peer = t;
    t->peer = s;
    for (at = &listener->queue; *at != NULL; at = &(*at)->queue_next)
        ;
    *at = t;
    listener->queue_count++;
}

/* The connect of s has reached its destination. False if it goes on waiting there. */
static bool aiol_sim_connect_arrives(aiol_sim *sim, aiol_sim_socket *s) {
    aiol_sim_socket *listener = NULL;
    int err = aiol_sim_listener(sim, &s->remote.address, &listener);
    if (err == 0 && listener->queue_count - listener->stash >= listener->backlog) {
        if (s->family != AIOLOOP_UNIX) {
            s->connect_waits = true;
            return false;
        }
        err = AIOLOOP_EAGAIN;
    }
    s->connect_waits = false;
    s->connect_result = err;
    s->write_due = sim->turn + aiol_sim_below(sim, 4);
    if (err < 0)
        s->stage = AIOL_SIM_NEW;
    else
        aiol_sim_join(sim, s, listener);
    return true;
}

/* A client without a name gets one. */
static int aiol_sim_name_client(aiol_sim *sim, aiol_sim_socket *s) {
    if (s->family == AIOLOOP_UNIX)
        return 0;
    if (s->local.address.port == 0) {
        s->local.address.port = aiol_sim_free_port(sim);
        if (s->local.address.port == 0)
            return AIOLOOP_EADDRNOTAVAIL;
        s->bound = true;
    }
    if (aiol_sim_is_wildcard(&s->local.address))
        aiol_sim_set_loopback(&s->local.address);
    return 0;
}

/* Sets out. 0, or what is wrong with it. */
static int aiol_sim_connect(aiol_sim *sim, aiol_sim_socket *s, const aioloop_address *to) {
    int err;
    switch ((aiol_sim_stage)s->stage) {
    case AIOL_SIM_LISTENING:
    case AIOL_SIM_CONNECTED:
        return AIOLOOP_EISCONN;
    case AIOL_SIM_CONNECTING:
        return AIOLOOP_EALREADY;
    case AIOL_SIM_NEW:
        break;
    }
    if (to->family != s->family)
        return AIOLOOP_EAFNOSUPPORT;
    err = aiol_sim_name_client(sim, s);
    if (err < 0)
        return err;
    aiol_sim_name_set(&s->remote, to);
    if (to->family != AIOLOOP_UNIX && aiol_sim_is_wildcard(to))
        aiol_sim_set_loopback(&s->remote.address);
    s->stage = AIOL_SIM_CONNECTING;
    s->connect_waits = false;
    s->connect_result = 0;
    s->connect_at = aiol_time_add(sim->now, aiol_sim_delay(sim));
    return 0;
}

/* ---- closing ---- */

/* Takes the first connection out of a listener's queue. */
static aiol_sim_socket *aiol_sim_dequeue(aiol_sim_socket *listener) {
    aiol_sim_socket *s = listener->queue;
    listener->queue = s->queue_next;
    s->queue_next = NULL;
    listener->queue_count--;
    if (listener->stash != 0 && --listener->stash == 0)
        listener->read_noticed = false;
    return s;
}

/* Says good-bye to the other end: in order, or by a reset if something was sent that nobody will read. */
static void aiol_sim_hang_up(aiol_sim *sim, aiol_sim_socket *s, bool reset) {
    aiol_sim_socket *peer = s->peer;
    if (peer == NULL)
        return;
    s->peer = NULL;
    peer->peer = NULL;
    if (reset || s->arrived != 0) {
        aiol_sim_send_reset(sim, peer);
        return;
    }
    aiol_sim_send_end(sim, peer);
    if (s->size != 0) { /* under way: answered by a reset when it comes */
        if (s->tail->arrives > peer->last_arrival)
            peer->last_arrival = s->tail->arrives;
        aiol_sim_send_reset(sim, peer);
    }
}

static void aiol_sim_destroy(aiol_sim *sim, aiol_sim_socket *s, bool reset) {
    while (s->queue != NULL)
        aiol_sim_destroy(sim, aiol_sim_dequeue(s), true);
    aiol_sim_hang_up(sim, s, reset);
    aiol_sim_free(sim, s);
}

/* ---- operations ---- */

static aiol_sim_place aiol_sim_place_of(const aiol_op *op) {
    switch ((aiol_op_kind)op->kind) {
    case AIOL_OP_SEND:
    case AIOL_OP_CONNECT:
        return AIOL_SIM_WRITER;
    case AIOL_OP_POLL:
        return op->u.poll.events == AIOL_POLL_READABLE ? AIOL_SIM_WATCH_READ : AIOL_SIM_WATCH_WRITE;
    case AIOL_OP_RECV:
    case AIOL_OP_ACCEPT:
        break;
    }
    return AIOL_SIM_READER;
}

/* The socket lets go of an operation, and what was taken ahead for it is the socket's again. */
static void aiol_sim_detach(aiol_sim_socket *s, aiol_sim_place place) {
    s->ops[place]->state = AIOL_OP_IDLE;
    s->ops[place] = NULL;
    if (place == AIOL_SIM_READER) {
        s->stash = 0;
        s->read_noticed = false;
    }
}

static int64_t aiol_sim_arm(aiol_sim *sim, aiol_sim_socket *s, aiol_op *op) {
    aiol_sim_place place = aiol_sim_place_of(op);
    AIOL_ASSERT(s->ops[place] == NULL);
    s->ops[place] = op;
    op->state = AIOL_OP_ACTIVE;
    op->generation = ++sim->generation;
    op->engine_flags = 0;
    op->engine = NULL;
    op->link = NULL;
    return AIOL_PENDING;
}

static int64_t aiol_sim_submit_connect(aiol_sim *sim, aiol_sim_socket *s, aiol_op *op) {
    int err = aiol_sim_connect(sim, s, op->u.connect.address);
    if (err < 0)
        return err;
    /* Nothing is between the ends of a Unix socket: the answer is there at once, as the system's. */
    if (!sim->delayed && s->family == AIOLOOP_UNIX && !sim->partition && s->connect_at <= sim->now) {
        aiol_sim_connect_arrives(sim, s);
        return s->connect_result;
    }
    return aiol_sim_arm(sim, s, op);
}

static int64_t aiol_sim_submit(aiol_engine *e, aiol_op *op) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, op->fd);
    int64_t n = AIOL_PENDING;
    if (s == NULL)
        return AIOLOOP_EBADF;
    AIOL_ASSERT(s->ops[aiol_sim_place_of(op)] == NULL);
    AIOL_ASSERT(s->transport || op->kind == AIOL_OP_POLL);
    switch ((aiol_op_kind)op->kind) {
    case AIOL_OP_CONNECT:
        return aiol_sim_submit_connect(sim, s, op);
    case AIOL_OP_SEND:
        if (!sim->delayed)
            n = aiol_sim_transfer(sim, s, op, SIZE_MAX);
        else if (s->stage != AIOL_SIM_CONNECTED)
            n = AIOLOOP_ENOTCONN;
        break;
    case AIOL_OP_RECV:
        if (s->stage != AIOL_SIM_CONNECTED)
            n = AIOLOOP_ENOTCONN;
        break;
    case AIOL_OP_ACCEPT:
        if (s->stage != AIOL_SIM_LISTENING)
            n = AIOLOOP_EINVAL;
        break;
    case AIOL_OP_POLL:
        break;
    }
    return n != AIOL_PENDING ? n : aiol_sim_arm(sim, s, op);
}

static int64_t aiol_sim_attempt(aiol_engine *e, aioloop_socket fd, const aioloop_buf *pieces, int count, bool now) {
    (void)now;
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, fd);
    aiol_op op;
    if (s == NULL)
        return AIOLOOP_EBADF;
    AIOL_ASSERT(s->ops[AIOL_SIM_WRITER] == NULL);
    memset(&op, 0, sizeof(op));
    op.kind = AIOL_OP_SEND;
    op.fd = fd;
    op.u.send.pieces = pieces;
    op.u.send.count = count;
    if (!sim->delayed)
        return aiol_sim_transfer(sim, s, &op, SIZE_MAX);
    return aiol_sim_coin(sim) ? AIOL_PENDING : aiol_sim_transfer(sim, s, &op, aiol_sim_limit(sim, &op));
}

static void aiol_sim_set_result(aiol_op *op, int64_t n) {
    op->engine = (void *)(intptr_t)n;
}

static int64_t aiol_sim_result(const aiol_op *op) {
    return (int64_t)(intptr_t)op->engine;
}

/* What a cancel of a delayed operation finds to have happened, or AIOLOOP_ECANCELED. A SEND may happen at the last
 * moment. */
static int64_t aiol_sim_overtaken(aiol_sim *sim, aiol_sim_socket *s, aiol_op *op) {
    int64_t n = AIOLOOP_ECANCELED;
    if (op->kind == AIOL_OP_SEND) {
        if ((op->engine_flags & AIOL_SIM_HAPPENED) != 0)
            return aiol_sim_result(op);
        if (aiol_sim_coin(sim))
            n = aiol_sim_transfer(sim, s, op, aiol_sim_limit(sim, op));
        if (n == AIOL_PENDING)
            n = AIOLOOP_ECANCELED;
    } else if (op->kind == AIOL_OP_ACCEPT && s->stash != 0) {
        aiol_sim_socket *taken = aiol_sim_dequeue(s);
        aiol_sim_number(sim, taken);
        n = taken->number;
    }
    return n;
}

static void aiol_sim_add_late(aiol_sim *sim, aiol_op *op, int64_t n) {
    aiol_op **at;
    op->state = AIOL_OP_CANCELLING;
    op->generation = sim->turn + 1 + aiol_sim_below(sim, 3); /* the turn it is told in */
    op->link = NULL;
    aiol_sim_set_result(op, n);
    for (at = &sim->late; *at != NULL; at = &(*at)->link)
        ;
    *at = op;
}

static int aiol_sim_cancel(aiol_engine *e, aiol_op *op) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, op->fd);
    aiol_sim_place place = aiol_sim_place_of(op);
    bool happened = (op->engine_flags & AIOL_SIM_HAPPENED) != 0;
    int64_t n = 0;
    bool late;
    if (s == NULL || s->ops[place] != op) { /* a user closed what is watched */
        op->state = AIOL_OP_IDLE;
        return 0;
    }
    late = sim->delayed && (happened || aiol_sim_coin(sim)); /* a count must be told */
    if (late)
        n = aiol_sim_overtaken(sim, s, op);
    if (op->kind == AIOL_OP_CONNECT && s->stage == AIOL_SIM_CONNECTING)
        s->stage = AIOL_SIM_NEW;
    aiol_sim_detach(s, place);
    if (!late)
        return 0;
    aiol_sim_add_late(sim, op, n);
    return AIOL_PENDING;
}

static void aiol_sim_stop(aiol_engine *e, aiol_op *op) {
    (void)e;
    if (op->state == AIOL_OP_ACTIVE)
        op->state = AIOL_OP_STOPPED;
}

static void aiol_sim_start(aiol_engine *e, aiol_op *op) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, op->fd);
    if (op->state != AIOL_OP_STOPPED)
        return;
    op->state = AIOL_OP_ACTIVE;
    op->generation = ++sim->generation; /* nothing of this harvest */
    if (s != NULL && aiol_sim_place_of(op) == AIOL_SIM_READER)
        s->read_due = sim->turn;
}

/* While done() runs it is being asked about these very bytes, so there is nothing else to take. */
static size_t aiol_sim_take(aiol_engine *e, aiol_op *op, void *to, size_t size) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, op->fd);
    if (s == NULL || s->ops[AIOL_SIM_READER] != op || op->kind != AIOL_OP_RECV || s->offering)
        return 0;
    size = aiol_min_size(size, s->stash);
    aiol_sim_peek(s, to, size);
    aiol_sim_consume(sim, s, size);
    return size;
}

static aiol_op *aiol_sim_watching(aiol_engine *e, aioloop_socket fd, unsigned event) {
    aiol_sim_socket *s = aiol_sim_find(aiol_sim_of(e), fd);
    if (s == NULL)
        return NULL;
    return s->ops[event == AIOL_POLL_READABLE ? AIOL_SIM_WATCH_READ : AIOL_SIM_WATCH_WRITE];
}

static bool aiol_sim_owned(aiol_engine *e, aioloop_socket fd) {
    const aiol_sim_socket *s = aiol_sim_find(aiol_sim_of(e), fd);
    return s != NULL && s->transport;
}

static bool aiol_sim_in_use(const aiol_sim_socket *s) {
    int i;
    for (i = 0; i < AIOL_SIM_PLACES; i++)
        if (s->ops[i] != NULL)
            return true;
    return false;
}

/* There is nothing to reserve: making the socket did. */
static int aiol_sim_attach(aiol_engine *e, aioloop_socket fd, aiol_owner owner) {
    aiol_sim_socket *s = aiol_sim_find(aiol_sim_of(e), fd);
    if (s == NULL)
        return fd < 0 ? AIOLOOP_EINVAL : AIOLOOP_EBADF;
    if (s->transport || (owner == AIOL_OWNER_TRANSPORT && aiol_sim_in_use(s)))
        return AIOLOOP_EMISUSE;
    s->transport = owner == AIOL_OWNER_TRANSPORT;
    return 0;
}

static void aiol_sim_quiesce(aiol_engine *e, aioloop_socket fd) {
    aiol_sim_socket *s = aiol_sim_find(aiol_sim_of(e), fd);
    if (s == NULL)
        return;
    AIOL_ASSERT(!aiol_sim_in_use(s));
    s->transport = false;
}

/* ---- a step: all that happens without the clock ---- */

/* True if there is something for a reader: bytes, an end, an error, a connection. */
static bool aiol_sim_readable(const aiol_sim_socket *s) {
    if (s->stage == AIOL_SIM_LISTENING)
        return s->queue_count != 0;
    return s->stage == AIOL_SIM_CONNECTED && (s->arrived != 0 || s->end_arrived || s->read_error != 0);
}

/* Delayed: the engine takes ahead what its reader will be told later, also while that is stopped. */
static bool aiol_sim_prefetch(aiol_sim *sim, aiol_sim_socket *s) {
    bool listening = s->stage == AIOL_SIM_LISTENING;
    size_t share = listening ? AIOL_SIM_ACCEPT_SHARE : AIOL_SIM_SHARE;
    size_t stash = aiol_min_size(listening ? s->queue_count : s->arrived, share);
    bool moved = false;
    if (s->ops[AIOL_SIM_READER] == NULL)
        return false;
    if (stash > s->stash) {
        s->stash = stash;
        moved = true;
    }
    if (!s->read_noticed && aiol_sim_readable(s)) {
        s->read_noticed = true;
        s->read_due = sim->turn + aiol_sim_below(sim, 4);
        moved = true;
    }
    return moved;
}

/* Delayed: a SEND happens, and is told later. */
static bool aiol_sim_send_happens(aiol_sim *sim, aiol_sim_socket *s) {
    aiol_op *op = s->ops[AIOL_SIM_WRITER];
    int64_t n;
    if (op == NULL || op->kind != AIOL_OP_SEND || (op->engine_flags & AIOL_SIM_HAPPENED) != 0)
        return false;
    n = aiol_sim_transfer(sim, s, op, aiol_sim_limit(sim, op));
    if (n == AIOL_PENDING)
        return false;
    op->engine_flags |= AIOL_SIM_HAPPENED;
    aiol_sim_set_result(op, n);
    s->write_due = sim->turn + aiol_sim_below(sim, 4);
    return true;
}

static bool aiol_sim_connect_happens(aiol_sim *sim, aiol_sim_socket *s) {
    if (s->stage != AIOL_SIM_CONNECTING || sim->partition || s->connect_at > sim->now)
        return false;
    return aiol_sim_connect_arrives(sim, s);
}

static bool aiol_sim_step(aiol_sim *sim) {
    bool moved = false;
    aiol_link *link;
    AIOL_SIM_EACH(sim, link) {
        aiol_sim_socket *s = aiol_sim_at(link);
        moved |= aiol_sim_arrive(sim, s);
        moved |= aiol_sim_connect_happens(sim, s); /* a new socket goes to the end: this pass meets it */
        if (sim->delayed) {
            moved |= aiol_sim_prefetch(sim, s);
            moved |= aiol_sim_send_happens(sim, s);
        }
    }
    return moved;
}

/* ---- the harvest ---- */

/* True if this place's operation has something to be told, be it later. */
static bool aiol_sim_pending(const aiol_sim *sim, const aiol_sim_socket *s, aiol_sim_place place) {
    const aiol_op *op = s->ops[place];
    if (op == NULL || op->state != AIOL_OP_ACTIVE)
        return false;
    switch (place) {
    case AIOL_SIM_READER:
        return sim->delayed ? s->read_noticed : aiol_sim_readable(s);
    case AIOL_SIM_WATCH_READ:
        return aiol_sim_readable(s);
    case AIOL_SIM_WRITER:
        if (op->kind == AIOL_OP_CONNECT)
            return s->stage != AIOL_SIM_CONNECTING;
        return sim->delayed ? (op->engine_flags & AIOL_SIM_HAPPENED) != 0 : aiol_sim_writable(sim, s);
    case AIOL_SIM_WATCH_WRITE:
        return aiol_sim_writable(sim, s);
    case AIOL_SIM_PLACES:
        break;
    }
    return false;
}

/* ... and now. */
static bool aiol_sim_due(const aiol_sim *sim, const aiol_sim_socket *s, aiol_sim_place place) {
    if (!sim->delayed || place == AIOL_SIM_WATCH_READ || place == AIOL_SIM_WATCH_WRITE)
        return true;
    return aiol_sim_reached(sim->turn, place == AIOL_SIM_READER ? s->read_due : s->write_due);
}

static void aiol_sim_shuffle(aiol_sim *sim) {
    size_t i;
    for (i = sim->ready_count; i > 1; i--) {
        size_t j = aiol_sim_below(sim, (uint32_t)i);
        aiol_sim_ready swap = sim->ready[i - 1];
        sim->ready[i - 1] = sim->ready[j];
        sim->ready[j] = swap;
    }
}

/* Finds what is to be dispatched. True if there is something, or will be without any time passing. */
static bool aiol_sim_harvest(aiol_sim *sim) {
    bool busy = sim->late != NULL;
    aiol_link *link;
    sim->ready_next = 0;
    sim->ready_count = 0;
    sim->harvested = sim->generation;
    AIOL_SIM_EACH(sim, link) {
        const aiol_sim_socket *s = aiol_sim_at(link);
        unsigned places = 0;
        int i;
        for (i = 0; i < AIOL_SIM_PLACES; i++) {
            aiol_sim_place place = (aiol_sim_place)i;
            if (!aiol_sim_pending(sim, s, place))
                continue;
            busy = true;
            if (aiol_sim_due(sim, s, place))
                places |= 1u << i;
        }
        if (places != 0) {
            aiol_sim_ready *ready = &sim->ready[sim->ready_count++];
            ready->number = s->number;
            ready->serial = s->serial;
            ready->places = places;
        }
    }
    aiol_sim_shuffle(sim);
    return busy;
}

/* ---- waiting ---- */

#if AIOL_SIM_BLOCKS
/* Waits in real time for another thread, the only one that can still do something. */
static int aiol_sim_block(aiol_sim *sim) {
    int n;
    do {
        struct pollfd waker;
        waker.fd = sim->wake.reader;
        waker.events = POLLIN;
        waker.revents = 0;
        n = AIOL_SYS(poll, poll(&waker, 1, AIOL_SIM_DEADLOCK));
        if (n == -1 && errno != EINTR)
            return aiol_error_from_errno(errno);
        if (n > 0)
            aiol_wake_drain(&sim->wake);
        if (aiol_exchange_u32(&sim->woken, 0) != 0)
            return 0;
    } while (n != 0); /* a late signal of an earlier wake-up, or an interruption */
    return AIOLOOP_EDEADLK;
}

static int aiol_sim_open_wake(aiol_sim *sim, unsigned without) {
    return aiol_wake_open(&sim->wake, without);
}

static void aiol_sim_close_wake(aiol_sim *sim) {
    aiol_wake_close(&sim->wake);
}

static void aiol_sim_wake(aiol_engine *e) {
    aiol_sim *sim = aiol_sim_of(e);
    if (aiol_exchange_u32(&sim->woken, 1) == 0)
        aiol_wake_signal(&sim->wake);
}
#else
static int aiol_sim_block(aiol_sim *sim) {
    (void)sim;
    return AIOLOOP_EDEADLK;
}

static int aiol_sim_open_wake(aiol_sim *sim, unsigned without) {
    (void)sim;
    (void)without;
    return 0;
}

static void aiol_sim_close_wake(aiol_sim *sim) {
    (void)sim;
}

static void aiol_sim_wake(aiol_engine *e) {
    aiol_exchange_u32(&aiol_sim_of(e)->woken, 1);
}
#endif

/* AIOLOOP_EDEADLK: nothing can ever happen. A real loop would hang. */
static int aiol_sim_wait(aiol_engine *e, aioloop_time deadline) {
    aiol_sim *sim = aiol_sim_of(e);
    bool woken;
    if (sim->ready_next < sim->ready_count) /* a halted dispatch left them */
        return 1;
    sim->turn++;
    if (deadline > sim->now)
        sim->busy = 0;
    else if (++sim->busy > AIOL_SIM_PATIENCE) /* a loop that never sleeps must not hold up its timers for ever */
        sim->now += AIOL_SIM_TICK;
    woken = aiol_exchange_u32(&sim->woken, 0) != 0;
    for (;;) {
        aioloop_time next;
        while (aiol_sim_step(sim))
            ;
        if (aiol_sim_harvest(sim) || woken || deadline <= sim->now)
            return 1; /* also with nothing: a dispatch is a step of the delayed personality */
        next = aiol_sim_next_event(sim);
        if (deadline < next)
            next = deadline;
        if (next == AIOLOOP_FOREVER)
            return aiol_sim_block(sim);
        AIOL_ASSERT(next > sim->now);
        sim->now = next;
    }
}

/* ---- dispatching ---- */

static bool aiol_sim_halted(const aiol_budget *budget) {
    return budget->halt != NULL && *budget->halt;
}

/* The socket an event was found for, if it is still there. */
static aiol_sim_socket *aiol_sim_again(aiol_sim *sim, const aiol_sim_ready *ready) {
    aiol_sim_socket *s = aiol_sim_find(sim, ready->number);
    return s != NULL && s->serial == ready->serial ? s : NULL;
}

/* The same, if its reader is still that submission and active. */
static aiol_sim_socket *aiol_sim_still(aiol_sim *sim, const aiol_sim_ready *ready, uint32_t generation) {
    aiol_sim_socket *s = aiol_sim_again(sim, ready);
    aiol_op *op = s == NULL ? NULL : s->ops[AIOL_SIM_READER];
    return op != NULL && op->state == AIOL_OP_ACTIVE && op->generation == generation ? s : NULL;
}

/* The operation ends. */
static void aiol_sim_finish(aiol_sim_socket *s, aiol_sim_place place, int64_t n) {
    aiol_op *op = s->ops[place];
    aiol_sim_detach(s, place);
    op->done(op, n, NULL);
}

/* All bytes are told: the error, once, or the end. */
static void aiol_sim_deliver_end(aiol_sim_socket *s) {
    int error = s->read_error;
    s->read_noticed = false;
    if (error == 0 && !s->end_arrived)
        return;
    s->read_error = 0;
    aiol_sim_finish(s, AIOL_SIM_READER, error);
}

/* Calls done() with the first size bytes. What it leaves is the engine's until it takes it. */
static size_t aiol_sim_offer(aiol_sim *sim, const aiol_sim_ready *ready, aiol_op *op, void *buffer, size_t size) {
    aiol_sim_socket *s = aiol_sim_again(sim, ready);
    size_t taken;
    aiol_sim_peek(s, buffer, size);
    s->offering = true;
    taken = aiol_min_size(op->done(op, (int64_t)size, buffer), size);
    s = aiol_sim_again(sim, ready);
    if (s == NULL)
        return 0;
    s->offering = false;
    aiol_sim_consume(sim, s, taken);
    if (taken < size && s->stash < size - taken && s->ops[AIOL_SIM_READER] != NULL)
        s->stash = aiol_min_size(size - taken, s->arrived);
    return taken;
}

/* How many bytes a RECV is offered next. */
static size_t aiol_sim_offer_size(aiol_sim *sim, const aiol_sim_socket *s, size_t limit) {
    size_t size = sim->delayed ? s->stash : s->arrived;
    size = aiol_min_size(aiol_min_size(size, limit), AIOL_SIM_BUFFER);
    return sim->delayed && aiol_sim_below(sim, 4) == 0 ? aiol_sim_part(sim, size) : size;
}

static void aiol_sim_deliver_recv(aiol_sim *sim, const aiol_sim_ready *ready, aiol_op *op, const aiol_budget *budget) {
    uint32_t generation = op->generation;
    size_t left = budget->bytes;
    aiol_sim_socket *s = aiol_sim_again(sim, ready);
    if (s->arrived == 0) {
        aiol_sim_deliver_end(s);
        return;
    }
    while (s != NULL && !aiol_sim_halted(budget)) {
        size_t size = aiol_sim_offer_size(sim, s, left);
        void *buffer = sim->scratch;
        if (size == 0)
            break;
        if (op->u.recv.dest != NULL) {
            size_t room = op->u.recv.dest(op, &buffer);
            s = aiol_sim_still(sim, ready, generation);
            if (room == 0 || s == NULL || aiol_sim_halted(budget))
                break;
            size = aiol_min_size(aiol_min_size(size, room), sim->delayed ? s->stash : s->arrived);
            if (size == 0) /* broken in there */
                break;
        }
        if (aiol_sim_offer(sim, ready, op, buffer, size) < size)
            break;
        left -= size;
        s = aiol_sim_still(sim, ready, generation);
    }
    s = aiol_sim_still(sim, ready, generation);
    if (s != NULL && aiol_sim_readable(s))
        sim->more = true;
}

static void aiol_sim_deliver_accept(aiol_sim *sim, const aiol_sim_ready *ready, aiol_op *op, const aiol_budget *budget) {
    uint32_t generation = op->generation;
    aiol_sim_socket *s = aiol_sim_again(sim, ready);
    int left;
    for (left = op->u.accept.budget; s != NULL; left--) {
        aiol_sim_name peer;
        aiol_sim_socket *taken;
        if ((sim->delayed ? s->stash : s->queue_count) == 0)
            return;
        if (left <= 0 || aiol_sim_halted(budget)) {
            sim->more = true;
            return;
        }
        if (sim->accept_failures != 0) {
            sim->accept_failures--;
            aiol_sim_finish(s, AIOL_SIM_READER, sim->accept_error);
            return;
        }
        taken = aiol_sim_dequeue(s);
        aiol_sim_number(sim, taken);
        aiol_sim_name_set(&peer, &taken->remote.address); /* its socket may be closed in there */
        op->done(op, taken->number, &peer.address);
        s = aiol_sim_still(sim, ready, generation);
    }
}

static void aiol_sim_deliver_write(aiol_sim *sim, aiol_sim_socket *s, const aiol_op *op) {
    int64_t n;
    if (op->kind == AIOL_OP_CONNECT)
        n = s->connect_result;
    else if (sim->delayed)
        n = aiol_sim_result(op);
    else
        n = aiol_sim_transfer(sim, s, op, SIZE_MAX);
    if (n != AIOL_PENDING)
        aiol_sim_finish(s, AIOL_SIM_WRITER, n);
}

/* Serves one operation, unless what was found for it is no longer so. */
static void aiol_sim_deliver(aiol_sim *sim, const aiol_sim_ready *ready, aiol_sim_place place,
                             const aiol_budget *budget) {
    aiol_sim_socket *s = aiol_sim_again(sim, ready);
    aiol_op *op;
    if (s == NULL || !aiol_sim_pending(sim, s, place))
        return;
    op = s->ops[place];
    if (!aiol_sim_reached(sim->harvested, op->generation)) /* submitted or started after the harvest */
        return;
    switch ((aiol_op_kind)op->kind) {
    case AIOL_OP_RECV:
        aiol_sim_deliver_recv(sim, ready, op, budget);
        break;
    case AIOL_OP_ACCEPT:
        aiol_sim_deliver_accept(sim, ready, op, budget);
        break;
    case AIOL_OP_SEND:
    case AIOL_OP_CONNECT:
        aiol_sim_deliver_write(sim, s, op);
        break;
    case AIOL_OP_POLL:
        op->done(op, (int64_t)op->u.poll.events, NULL);
        break;
    }
}

/* Tells a cancelled operation its end. */
static void aiol_sim_deliver_late(aiol_sim *sim, aiol_op *op) {
    int64_t n = aiol_sim_result(op);
    aiol_sim_socket *taken = op->kind == AIOL_OP_ACCEPT && n >= 0 ? aiol_sim_find(sim, (aioloop_socket)n) : NULL;
    aiol_sim_name peer;
    op->state = AIOL_OP_IDLE;
    op->link = NULL;
    if (taken != NULL)
        aiol_sim_name_set(&peer, &taken->remote.address);
    op->done(op, n, taken != NULL ? &peer.address : NULL);
}

/* The first cancelled operation whose turn has come, taken off the list; NULL if none. */
static aiol_op *aiol_sim_next_late(aiol_sim *sim) {
    aiol_op **at;
    for (at = &sim->late; *at != NULL; at = &(*at)->link) {
        aiol_op *op = *at;
        if (aiol_sim_reached(sim->turn, op->generation)) {
            *at = op->link;
            return op;
        }
    }
    return NULL;
}

static void aiol_sim_dispatch_late(aiol_sim *sim, const aiol_budget *budget) {
    while (!aiol_sim_halted(budget)) {
        aiol_op *op = aiol_sim_next_late(sim);
        if (op == NULL)
            return;
        aiol_sim_deliver_late(sim, op);
    }
}

static int aiol_sim_dispatch(aiol_engine *e, const aiol_budget *budget) {
    aiol_sim *sim = aiol_sim_of(e);
    sim->more = false;
    if (sim->late != NULL && aiol_sim_coin(sim)) /* before the rest or after it */
        aiol_sim_dispatch_late(sim, budget);
    while (sim->ready_next < sim->ready_count && !aiol_sim_halted(budget)) {
        aiol_sim_ready *ready = &sim->ready[sim->ready_next];
        aiol_sim_ready copy = *ready; /* callbacks that open sockets move the array */
        int place = 0;
        if (ready->places == 0) {
            sim->ready_next++;
            continue;
        }
        while ((ready->places & 1u << place) == 0)
            place++;
        ready->places &= ~(1u << place);
        aiol_sim_deliver(sim, &copy, (aiol_sim_place)place, budget);
    }
    aiol_sim_dispatch_late(sim, budget);
    return sim->more || aiol_sim_halted(budget) ? 1 : 0;
}

/* ---- sockets: the calls ---- */

static int aiol_sim_socket_open(aiol_engine *e, int family, aioloop_socket *out) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s;
    if (family != AIOLOOP_INET && family != AIOLOOP_INET6 && family != AIOLOOP_UNIX)
        return AIOLOOP_EAFNOSUPPORT;
    s = aiol_sim_make(sim, family);
    if (s == NULL)
        return AIOLOOP_ENOMEM;
    s->spare = aiol_sim_make(sim, family);
    if (s->spare == NULL) {
        aiol_sim_free(sim, s);
        return AIOLOOP_ENOMEM;
    }
    aiol_sim_enter(sim, s);
    aiol_sim_number(sim, s);
    *out = s->number;
    return 0;
}

static int aiol_sim_socket_close(aiol_engine *e, aioloop_socket number) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, number);
    if (s == NULL)
        return AIOLOOP_EBADF;
    AIOL_ASSERT(!s->transport); /* quiesce first */
    aiol_sim_destroy(sim, s, false);
    return 0;
}

static int aiol_sim_bind_inet(aiol_sim *sim, aiol_sim_socket *s, const aioloop_address *address) {
    aioloop_address a = *address;
    if (!aiol_sim_is_wildcard(&a) && !aiol_sim_is_loopback(&a))
        return AIOLOOP_EADDRNOTAVAIL;
    if (a.port == 0) {
        a.port = aiol_sim_free_port(sim);
        if (a.port == 0)
            return AIOLOOP_EADDRINUSE;
    } else if (aiol_sim_conflict(sim, s, &a, false)) {
        return AIOLOOP_EADDRINUSE;
    }
    aiol_sim_name_set(&s->local, &a);
    return 0;
}

static int aiol_sim_bind_unix(aiol_sim *sim, aiol_sim_socket *s, const aioloop_address *address) {
    int err;
    if (address->path_size == 0)
        return AIOLOOP_EINVAL;
    if (aiol_sim_conflict(sim, s, address, false))
        return AIOLOOP_EADDRINUSE;
    err = aiol_sim_is_file(address) ? aiol_sim_make_file(sim, s, address) : 0;
    if (err == 0)
        aiol_sim_name_set(&s->local, address);
    return err;
}

static int aiol_sim_bind(aiol_engine *e, aioloop_socket number, const aioloop_address *address) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, number);
    int err;
    if (s == NULL)
        return AIOLOOP_EBADF;
    if (s->bound || s->stage != AIOL_SIM_NEW)
        return AIOLOOP_EINVAL;
    if (address->family != s->family)
        return AIOLOOP_EAFNOSUPPORT;
    err = s->family == AIOLOOP_UNIX ? aiol_sim_bind_unix(sim, s, address) : aiol_sim_bind_inet(sim, s, address);
    if (err == 0)
        s->bound = true;
    return err;
}

static int aiol_sim_listen(aiol_engine *e, aioloop_socket number, int backlog) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, number);
    if (s == NULL)
        return AIOLOOP_EBADF;
    if ((s->stage != AIOL_SIM_NEW && s->stage != AIOL_SIM_LISTENING) || (s->family == AIOLOOP_UNIX && !s->bound))
        return AIOLOOP_EINVAL;
    if (!s->bound) {
        int err = aiol_sim_bind_inet(sim, s, &s->local.address);
        if (err < 0)
            return err;
        s->bound = true;
    }
    if (aiol_sim_conflict(sim, s, &s->local.address, true))
        return AIOLOOP_EADDRINUSE;
    s->stage = AIOL_SIM_LISTENING;
    s->backlog = backlog < 1 ? 1 : (size_t)backlog;
    return 0;
}

static int aiol_sim_shutdown(aiol_engine *e, aioloop_socket number) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, number);
    if (s == NULL)
        return AIOLOOP_EBADF;
    if (s->stage != AIOL_SIM_CONNECTED || s->dead)
        return AIOLOOP_ENOTCONN;
    s->write_shut = true;
    if (s->peer != NULL)
        aiol_sim_send_end(sim, s->peer);
    return 0;
}

static int aiol_sim_set(aiol_engine *e, aioloop_socket number, aiol_socket_option option, int value) {
    aiol_sim_socket *s = aiol_sim_find(aiol_sim_of(e), number);
    if (s == NULL)
        return AIOLOOP_EBADF;
    switch (option) {
    case AIOL_OPTION_REUSE_ADDRESS:
        s->reuse_address = value != 0;
        break;
    case AIOL_OPTION_REUSE_PORT:
        s->reuse_port = value != 0;
        break;
    case AIOL_OPTION_V6_ONLY:
        s->v6_only = value != 0;
        break;
    case AIOL_OPTION_KEEP_ALIVE:
    case AIOL_OPTION_NO_DELAY:
        break;
    }
    return 0;
}

static int aiol_sim_inspect(aiol_engine *e, aioloop_socket number, int *family) {
    const aiol_sim_socket *s = aiol_sim_find(aiol_sim_of(e), number);
    if (s == NULL)
        return AIOLOOP_EBADF;
    *family = s->family;
    return 0;
}

static int aiol_sim_adopt(aiol_engine *e, aioloop_socket number) {
    return aiol_sim_find(aiol_sim_of(e), number) == NULL ? AIOLOOP_EBADF : 0;
}

static int aiol_sim_name_of(aiol_engine *e, aioloop_socket number, aioloop_address *address, aiol_path_room *room) {
    const aiol_sim_socket *s = aiol_sim_find(aiol_sim_of(e), number);
    if (s == NULL)
        return AIOLOOP_EBADF;
    aiol_sim_name_tell(&s->local, address, room);
    return 0;
}

static int aiol_sim_peer_of(aiol_engine *e, aioloop_socket number, aioloop_address *address, aiol_path_room *room) {
    const aiol_sim_socket *s = aiol_sim_find(aiol_sim_of(e), number);
    if (s == NULL)
        return AIOLOOP_EBADF;
    if (s->stage != AIOL_SIM_CONNECTED || s->dead)
        return AIOLOOP_ENOTCONN;
    aiol_sim_name_tell(&s->remote, address, room);
    return 0;
}

static int aiol_sim_path_identify(aiol_engine *e, const char *path, size_t size, aiol_path_identity *identity) {
    const aiol_sim_file *file = *aiol_sim_find_file(aiol_sim_of(e), path, size);
    if (file == NULL)
        return AIOLOOP_ENOENT;
    identity->device = 0;
    identity->inode = file->inode;
    identity->is_socket = true;
    return 0;
}

static int aiol_sim_path_remove(aiol_engine *e, const char *path, size_t size) {
    aiol_sim_file **at = aiol_sim_find_file(aiol_sim_of(e), path, size);
    aiol_sim_file *file = *at;
    if (file == NULL)
        return AIOLOOP_ENOENT;
    *at = file->next;
    aiol_free(e->allocator, file, sizeof(*file));
    return 0;
}

/* ---- the engine: the rest of its calls ---- */

static void aiol_sim_close(aiol_engine *e) {
    aiol_sim *sim = aiol_sim_of(e);
    const aioloop_allocator *a = e->allocator;
    while (!aiol_list_empty(&sim->sockets))
        aiol_sim_free(sim, aiol_sim_at(sim->sockets.next));
    while (sim->files != NULL) {
        aiol_sim_file *file = sim->files;
        sim->files = file->next;
        aiol_free(a, file, sizeof(*file));
    }
    aiol_sim_close_wake(sim);
    aiol_free(a, sim->slots, sim->slots_capacity * sizeof(sim->slots[0]));
    aiol_free(a, sim->ready, sim->ready_capacity * sizeof(sim->ready[0]));
    aiol_free(a, sim->scratch, AIOL_SIM_BUFFER);
    aiol_free(a, sim, sizeof(*sim));
}

static int aiol_sim_flush(aiol_engine *e) {
    (void)e;
    return 0;
}

static int aiol_sim_descriptor(aiol_engine *e) {
    (void)e;
    return AIOLOOP_ENOTAVAILABLE;
}

static aioloop_time aiol_sim_now(aiol_engine *e) {
    return aiol_sim_of(e)->now;
}

static void aiol_sim_verify_ops(const aiol_sim_socket *s) {
    int i;
    for (i = 0; i < AIOL_SIM_PLACES; i++) {
        const aiol_op *op = s->ops[i];
        if (op == NULL)
            continue;
        AIOL_VERIFY(op->fd == s->number && (int)aiol_sim_place_of(op) == i);
        AIOL_VERIFY(op->state == AIOL_OP_ACTIVE || op->state == AIOL_OP_STOPPED);
        AIOL_VERIFY(s->transport || op->kind == AIOL_OP_POLL);
    }
}

static void aiol_sim_verify_bytes(const aiol_sim_socket *s) {
    const aiol_sim_piece *piece;
    aioloop_time last = 0;
    size_t size = 0;
    bool coming = false;
    for (piece = s->head; piece != NULL; piece = piece->next) {
        if (piece == s->coming) {
            AIOL_VERIFY(size == s->arrived);
            coming = true;
        }
        AIOL_VERIFY(piece->size != 0 && piece->arrives >= last);
        AIOL_VERIFY(piece->next != NULL || piece == s->tail);
        size += piece->size;
        last = piece->arrives;
    }
    AIOL_VERIFY(size == s->size && coming == (s->coming != NULL));
    AIOL_VERIFY(s->coming != NULL || s->arrived == size);
    AIOL_VERIFY(s->stash <= (s->stage == AIOL_SIM_LISTENING ? s->queue_count : s->arrived));
    AIOL_VERIFY(s->stash == 0 || s->ops[AIOL_SIM_READER] != NULL);
    AIOL_VERIFY(!s->dead || (s->peer == NULL && s->arrived == s->size));
}

static void aiol_sim_verify(aiol_engine *e) {
    aiol_sim *sim = aiol_sim_of(e);
    const aiol_op *op;
    aiol_link *link;
    size_t total = 0;
    AIOL_SIM_EACH(sim, link) {
        const aiol_sim_socket *s = aiol_sim_at(link);
        const aiol_sim_socket *queued;
        size_t count = 0;
        AIOL_VERIFY(s->number == AIOL_NO_SOCKET || aiol_sim_find(sim, s->number) == s);
        AIOL_VERIFY(s->peer == NULL || (s->peer->peer == s && s->stage == AIOL_SIM_CONNECTED));
        for (queued = s->queue; queued != NULL; queued = queued->queue_next, count++)
            AIOL_VERIFY(queued->number == AIOL_NO_SOCKET);
        AIOL_VERIFY(count == s->queue_count && (count == 0 || s->stage == AIOL_SIM_LISTENING));
        aiol_sim_verify_ops(s);
        aiol_sim_verify_bytes(s);
        total += s->spare != NULL ? 2 : 1;
    }
    AIOL_VERIFY(total == sim->sockets_total && total <= sim->slots_capacity && total <= sim->ready_capacity);
    for (op = sim->late; op != NULL; op = op->link)
        AIOL_VERIFY(op->state == AIOL_OP_CANCELLING);
}

static const aiol_socket_calls aiol_sim_socket_calls = {
    aiol_sim_socket_open, aiol_sim_socket_close, aiol_sim_bind,          aiol_sim_listen,
    aiol_sim_shutdown,    aiol_sim_set,          aiol_sim_inspect,       aiol_sim_adopt,
    aiol_sim_name_of,     aiol_sim_peer_of,      aiol_sim_path_identify, aiol_sim_path_remove,
};

static const aiol_engine_calls aiol_sim_calls = {
    aiol_sim_close,   aiol_sim_submit, aiol_sim_attempt,  aiol_sim_cancel, aiol_sim_stop,
    aiol_sim_start,   aiol_sim_take,   aiol_sim_watching, aiol_sim_owned,  aiol_sim_attach,
    aiol_sim_quiesce, aiol_sim_wait,   aiol_sim_dispatch, aiol_sim_flush,  aiol_sim_descriptor,
    aiol_sim_wake,    aiol_sim_close,  aiol_sim_now,      aiol_sim_verify,
};

AIOLOOP_INTERNAL int aiol_sim_open(const aiol_engine_setup *setup, aiol_engine **out) {
    const aioloop_allocator *a = setup->allocator;
    aiol_sim *sim = (aiol_sim *)aiol_alloc_zero(a, sizeof(*sim));
    int err = AIOLOOP_ENOMEM;
    if (sim == NULL)
        return err;
    sim->scratch = (unsigned char *)aiol_alloc(a, AIOL_SIM_BUFFER);
    if (sim->scratch == NULL)
        goto free_sim;
    err = aiol_sim_open_wake(sim, setup->without);
    if (err < 0)
        goto free_scratch;
    sim->engine.name = "sim";
    sim->engine.calls = &aiol_sim_calls;
    sim->engine.sockets = &aiol_sim_socket_calls;
    sim->engine.allocator = a;
    sim->delayed = setup->delayed;
    sim->random = setup->seed;
    sim->now = AIOL_SIM_START;
    sim->buffer = AIOL_SIM_BUFFER;
    sim->port = AIOL_SIM_FIRST_PORT;
    aiol_list_init(&sim->sockets);
    *out = &sim->engine;
    return 0;
free_scratch:
    aiol_free(a, sim->scratch, AIOL_SIM_BUFFER);
free_sim:
    aiol_free(a, sim, sizeof(*sim));
    return err;
}

/* ---- what a test can do to the world ---- */

AIOLOOP_INTERNAL bool aiol_sim_is(const aiol_engine *e) {
    return e->calls == &aiol_sim_calls;
}

AIOLOOP_INTERNAL int aiol_sim_pair(aiol_engine *e, aioloop_socket sockets[2]) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *a = aiol_sim_make(sim, AIOLOOP_UNIX);
    aiol_sim_socket *b = a == NULL ? NULL : aiol_sim_make(sim, AIOLOOP_UNIX);
    if (b == NULL) {
        aiol_sim_free(sim, a);
        return AIOLOOP_ENOMEM;
    }
    a->stage = AIOL_SIM_CONNECTED;
    b->stage = AIOL_SIM_CONNECTED;
    a->peer = b;
    b->peer = a;
    aiol_sim_enter(sim, a);
    aiol_sim_enter(sim, b);
    aiol_sim_number(sim, a);
    aiol_sim_number(sim, b);
    sockets[0] = a->number;
    sockets[1] = b->number;
    return 0;
}

AIOLOOP_INTERNAL int aiol_sim_set_delay(aiol_engine *e, aioloop_time minimum, aioloop_time maximum) {
    aiol_sim *sim = aiol_sim_of(e);
    if (minimum < 0 || maximum < minimum)
        return AIOLOOP_EINVAL;
    sim->delay_min = minimum;
    sim->delay_max = maximum;
    return 0;
}

AIOLOOP_INTERNAL int aiol_sim_set_buffer(aiol_engine *e, size_t bytes) {
    if (bytes == 0)
        return AIOLOOP_EINVAL;
    aiol_sim_of(e)->buffer = bytes;
    return 0;
}

AIOLOOP_INTERNAL int aiol_sim_set_partition(aiol_engine *e, bool on) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_link *link;
    if (sim->partition && !on) {
        AIOL_SIM_EACH(sim, link) {
            aiol_sim_resume(sim, aiol_sim_at(link));
        }
    }
    sim->partition = on;
    return 0;
}

AIOLOOP_INTERNAL int aiol_sim_break(aiol_engine *e, aioloop_socket number, int error) {
    aiol_sim *sim = aiol_sim_of(e);
    aiol_sim_socket *s = aiol_sim_find(sim, number);
    if (s == NULL)
        return AIOLOOP_EBADF;
    if (error >= 0 || s->stage != AIOL_SIM_CONNECTED || s->dead)
        return AIOLOOP_EINVAL;
    if (s->peer != NULL)
        aiol_sim_kill(sim, s->peer, error, error);
    aiol_sim_kill(sim, s, error, error);
    return 0;
}

AIOLOOP_INTERNAL int aiol_sim_fail_accepts(aiol_engine *e, int error, unsigned count) {
    aiol_sim *sim = aiol_sim_of(e);
    if (error >= 0)
        return AIOLOOP_EINVAL;
    sim->accept_error = error;
    sim->accept_failures = count;
    return 0;
}

AIOLOOP_INTERNAL uint32_t aiol_sim_random(aiol_engine *e, uint32_t bound) {
    return aiol_sim_below(aiol_sim_of(e), bound);
}

#endif

/* >> src/aioloop.h */
#endif
#if AIOL_HAVE_PORT

/* >> src/io/port.c */
/*
 * port.c - the smallest engine: a clock and a wait, and no descriptors.
 *
 * On a board without an operating system, over the functions of api/port.h. Callbacks, timers and futures need no more.
 */
#ifndef AIOL_IO_PORT_C
#define AIOL_IO_PORT_C

static void aiol_port_close(aiol_engine *e) {
    aiol_free(e->allocator, e, sizeof(*e));
}

static int64_t aiol_port_submit(aiol_engine *e, aiol_op *op) {
    (void)e;
    (void)op;
    return AIOLOOP_ENOTAVAILABLE;
}

static int64_t aiol_port_attempt(aiol_engine *e, aioloop_socket fd, const aioloop_buf *pieces, int count, bool now) {
    (void)now;
    (void)e;
    (void)fd;
    (void)pieces;
    (void)count;
    return AIOLOOP_ENOTAVAILABLE;
}

static int aiol_port_cancel(aiol_engine *e, aiol_op *op) {
    (void)e;
    (void)op;
    return 0;
}

static void aiol_port_ignore(aiol_engine *e, aiol_op *op) {
    (void)e;
    (void)op;
}

static size_t aiol_port_take(aiol_engine *e, aiol_op *op, void *to, size_t size) {
    (void)e;
    (void)op;
    (void)to;
    (void)size;
    return 0;
}

static aiol_op *aiol_port_watching(aiol_engine *e, aioloop_socket fd, unsigned event) {
    (void)e;
    (void)fd;
    (void)event;
    return NULL;
}

static bool aiol_port_owned(aiol_engine *e, aioloop_socket fd) {
    (void)e;
    (void)fd;
    return false;
}

static int aiol_port_attach(aiol_engine *e, aioloop_socket fd, aiol_owner owner) {
    (void)e;
    (void)fd;
    (void)owner;
    return AIOLOOP_ENOTAVAILABLE;
}

static void aiol_port_quiesce(aiol_engine *e, aioloop_socket fd) {
    (void)e;
    (void)fd;
}

static aioloop_time aiol_port_engine_now(aiol_engine *e) {
    (void)e;
    return aioloop_port_now();
}

static int aiol_port_wait(aiol_engine *e, aioloop_time deadline) {
    (void)e;
    if (deadline > 0)
        aioloop_port_sleep_until(deadline);
    return 0;
}

static int aiol_port_dispatch(aiol_engine *e, const aiol_budget *budget) {
    (void)e;
    (void)budget;
    return 0;
}

static int aiol_port_flush(aiol_engine *e) {
    (void)e;
    return 0;
}

static int aiol_port_descriptor(aiol_engine *e) {
    (void)e;
    return AIOLOOP_ENOTAVAILABLE;
}

static void aiol_port_engine_wake(aiol_engine *e) {
    (void)e;
    aioloop_port_wake();
}

static void aiol_port_verify(aiol_engine *e) {
    (void)e;
}

static const aiol_engine_calls aiol_port_calls = {
    aiol_port_close,      aiol_port_submit, aiol_port_attempt,    aiol_port_cancel,   aiol_port_ignore,
    aiol_port_ignore,     aiol_port_take,   aiol_port_watching,   aiol_port_owned,    aiol_port_attach,
    aiol_port_quiesce,    aiol_port_wait,   aiol_port_dispatch,   aiol_port_flush,    aiol_port_descriptor,
    aiol_port_engine_wake, aiol_port_close, aiol_port_engine_now, aiol_port_verify,
};

static int aiol_port_open_socket(aiol_engine *e, int family, aioloop_socket *out) {
    (void)e;
    (void)family;
    (void)out;
    return AIOLOOP_ENOTAVAILABLE;
}

static int aiol_port_of_socket(aiol_engine *e, aioloop_socket s) {
    (void)e;
    (void)s;
    return AIOLOOP_ENOTAVAILABLE;
}

static int aiol_port_bind(aiol_engine *e, aioloop_socket s, const aioloop_address *address) {
    (void)e;
    (void)s;
    (void)address;
    return AIOLOOP_ENOTAVAILABLE;
}

static int aiol_port_listen(aiol_engine *e, aioloop_socket s, int backlog) {
    (void)e;
    (void)s;
    (void)backlog;
    return AIOLOOP_ENOTAVAILABLE;
}

static int aiol_port_set(aiol_engine *e, aioloop_socket s, aiol_socket_option option, int value) {
    (void)e;
    (void)s;
    (void)option;
    (void)value;
    return AIOLOOP_ENOTAVAILABLE;
}

static int aiol_port_inspect(aiol_engine *e, aioloop_socket s, int *family) {
    (void)e;
    (void)s;
    (void)family;
    return AIOLOOP_ENOTAVAILABLE;
}

static int aiol_port_name(aiol_engine *e, aioloop_socket s, aioloop_address *address, aiol_path_room *room) {
    (void)e;
    (void)s;
    (void)address;
    (void)room;
    return AIOLOOP_ENOTAVAILABLE;
}

static int aiol_port_path_identify(aiol_engine *e, const char *path, size_t size, aiol_path_identity *identity) {
    (void)e;
    (void)path;
    (void)size;
    (void)identity;
    return AIOLOOP_ENOTAVAILABLE;
}

static int aiol_port_path_remove(aiol_engine *e, const char *path, size_t size) {
    (void)e;
    (void)path;
    (void)size;
    return AIOLOOP_ENOTAVAILABLE;
}

static const aiol_socket_calls aiol_port_sockets = {
    aiol_port_open_socket, aiol_port_of_socket, aiol_port_bind, aiol_port_listen, aiol_port_of_socket,     aiol_port_set,
    aiol_port_inspect,     aiol_port_of_socket, aiol_port_name, aiol_port_name,   aiol_port_path_identify, aiol_port_path_remove,
};

static int aiol_port_open(const aiol_engine_setup *setup, aiol_engine **out) {
    aiol_engine *e = (aiol_engine *)aiol_alloc_zero(setup->allocator, sizeof(*e));
    if (e == NULL)
        return AIOLOOP_ENOMEM;
    e->name = "port";
    e->calls = &aiol_port_calls;
    e->sockets = &aiol_port_sockets;
    e->allocator = setup->allocator;
    *out = e;
    return 0;
}

AIOLOOP_INTERNAL int aiol_process_id(void) {
    return 1;
}

#endif

/* >> src/aioloop.h */
#endif

/* >> src/io/engine.c */
/*
 * engine.c - which engines there are, and how one is chosen by name.
 *
 * A choice is text: a name, then options after commas ("epoll,no-eventfd"; "sim,delayed,seed=7"). The first engine of
 * the table that opens serves when none is named, or when io_uring is and the system forbids it.
 */
#ifndef AIOL_IO_ENGINE_C
#define AIOL_IO_ENGINE_C

#if AIOL_HAVE_REACTOR

#endif
#if AIOL_HAVE_URING

#endif
#if AIOL_HAVE_SIM

#endif
#if AIOL_HAVE_PORT

#endif

#if !AIOL_HAVE_SIM
/* What api/sim.h answers without the simulated engine. */
AIOL_INLINE bool aiol_sim_is(const aiol_engine *e) {
    (void)e;
    return false;
}
#define aiol_sim_pair(e, sockets) ((void)(e), (void)(sockets), AIOLOOP_ENOTAVAILABLE)
#define aiol_sim_set_delay(e, minimum, maximum) ((void)(e), (void)(minimum), (void)(maximum), AIOLOOP_ENOTAVAILABLE)
#define aiol_sim_set_buffer(e, bytes) ((void)(e), (void)(bytes), AIOLOOP_ENOTAVAILABLE)
#define aiol_sim_set_partition(e, on) ((void)(e), (void)(on), AIOLOOP_ENOTAVAILABLE)
#define aiol_sim_break(e, s, error) ((void)(e), (void)(s), (void)(error), AIOLOOP_ENOTAVAILABLE)
#define aiol_sim_fail_accepts(e, error, count) ((void)(e), (void)(error), (void)(count), AIOLOOP_ENOTAVAILABLE)
#define aiol_sim_random(e, bound) ((void)(e), (bound) - (bound))
#endif

typedef struct aiol_engine_kind {
    const char *name;
    bool on_request; /* only by name */
    int (*open)(const aiol_engine_setup *setup, aiol_engine **out);
} aiol_engine_kind;

#if AIOL_HAVE_EPOLL
static int aiol_engine_open_epoll(const aiol_engine_setup *setup, aiol_engine **out) {
    return aiol_reactor_open(setup, &aiol_poller_epoll, out);
}
#endif
#if AIOL_HAVE_POLL
static int aiol_engine_open_poll(const aiol_engine_setup *setup, aiol_engine **out) {
    return aiol_reactor_open(setup, &aiol_poller_poll, out);
}
#endif
#if AIOL_HAVE_SELECT
static int aiol_engine_open_select(const aiol_engine_setup *setup, aiol_engine **out) {
    return aiol_reactor_open(setup, &aiol_poller_select, out);
}
#endif

static const aiol_engine_kind aiol_engine_kinds[] = {
#if AIOL_HAVE_PORT
    {"port", false, aiol_port_open},
#endif
#if AIOL_HAVE_URING
    {"io_uring", false, aiol_uring_open},
#endif
#if AIOL_HAVE_EPOLL
    {"epoll", false, aiol_engine_open_epoll},
#endif
#if AIOL_HAVE_POLL
    {"poll", false, aiol_engine_open_poll},
#endif
#if AIOL_HAVE_SELECT
    {"select", false, aiol_engine_open_select},
#endif
#if AIOL_HAVE_SIM
    {"sim", true, aiol_sim_open},
#endif
};

/* Names that this build could know but does not have, for an answer better than "unknown". */
static const char *const aiol_engine_names[] = {"epoll", "poll", "select", "sim", "port", "kqueue", "io_uring", "iocp"};

static bool aiol_engine_word(const char *text, size_t size, const char *word) {
    return strlen(word) == size && memcmp(text, word, size) == 0;
}

static bool aiol_engine_option(aiol_engine_setup *setup, const char *text, size_t size) {
    static const struct {
        const char *word;
        unsigned without;
    } features[] = {{"no-accept4", AIOL_WITHOUT_ACCEPT4},
                    {"no-epoll_pwait2", AIOL_WITHOUT_EPOLL_PWAIT2},
                    {"no-eventfd", AIOL_WITHOUT_EVENTFD},
                    {"no-pipe2", AIOL_WITHOUT_PIPE2},
                    {"no-defer_taskrun", AIOL_WITHOUT_DEFER_TASKRUN},
                    {"no-coop_taskrun", AIOL_WITHOUT_COOP_TASKRUN},
                    {"no-buffer_ring", AIOL_WITHOUT_BUFFER_RING},
                    {"no-incremental", AIOL_WITHOUT_INCREMENTAL},
                    {"no-multishot", AIOL_WITHOUT_MULTISHOT}};
    size_t i;
    for (i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
        if (aiol_engine_word(text, size, features[i].word)) {
            setup->without |= features[i].without;
            return true;
        }
    }
    if (aiol_engine_word(text, size, "delayed")) {
        setup->delayed = true;
        setup->simulated = true;
        return true;
    }
    if (size > 5 && size < 25 && memcmp(text, "seed=", 5) == 0) {
        setup->seed = 0;
        setup->simulated = true;
        for (i = 5; i < size; i++) {
            if (text[i] < '0' || text[i] > '9')
                return false;
            setup->seed = setup->seed * 10 + (uint64_t)(text[i] - '0');
        }
        return true;
    }
    return false;
}

/* The first engine of that name that opens, or of all but those on request; AIOLOOP_EINVAL: there is none of that
 * name. */
static int aiol_engine_try(const char *name, size_t size, const aiol_engine_setup *setup, aiol_engine **out, char *text) {
    size_t count = sizeof(aiol_engine_kinds) / sizeof(aiol_engine_kinds[0]);
    int err = size == 0 ? AIOLOOP_ENOTAVAILABLE : AIOLOOP_EINVAL;
    size_t i;
    for (i = 0; i < count; i++) {
        const aiol_engine_kind *kind = &aiol_engine_kinds[i];
        if (size == 0 ? kind->on_request : !aiol_engine_word(name, size, kind->name))
            continue;
        err = kind->open(setup, out);
        if (err == 0)
            return 0;
        snprintf(text, AIOL_ERROR_TEXT_SIZE, "back end %s: %s", kind->name, aioloop_strerror(err));
        if (err == AIOLOOP_ENOMEM)
            return err;
        if (err == AIOLOOP_EINVAL)
            err = AIOLOOP_ENOTAVAILABLE;
    }
    return err;
}

/* choice NULL or "": the best that works. A message for people goes to text (256 bytes) on failure. */
AIOLOOP_INTERNAL int aiol_engine_open(const char *choice, aiol_engine_setup *setup, aiol_engine **out, char *text) {
    size_t size = choice == NULL ? 0 : strcspn(choice, ",");
    const char *rest = choice == NULL ? NULL : choice + size;
    int err;
    size_t i;
    while (rest != NULL && *rest == ',') {
        size_t length = strcspn(++rest, ",");
        if (!aiol_engine_option(setup, rest, length)) {
            snprintf(text, AIOL_ERROR_TEXT_SIZE, "unknown back end option \"%.*s\"", (int)aiol_min_size(length, 60), rest);
            return AIOLOOP_EINVAL;
        }
        rest += length;
    }
    if (size != 0 && (aiol_engine_word(choice, size, "sim") ? setup->without != 0 : setup->simulated)) {
        snprintf(text, AIOL_ERROR_TEXT_SIZE, "an option of \"%.*s\" is another back end's", (int)aiol_min_size(strlen(choice), 100),
                 choice);
        return AIOLOOP_EINVAL;
    }
    setup->named = size != 0;
    err = aiol_engine_try(choice, size, setup, out, text);
    if (err < 0 && err != AIOLOOP_EINVAL && aiol_engine_word(choice, size, "io_uring"))
        err = aiol_engine_try(NULL, 0, setup, out, text); /* the system forbids it: whatever else there is */
    if (err != AIOLOOP_EINVAL)
        return err;
    for (i = 0; i < sizeof(aiol_engine_names) / sizeof(aiol_engine_names[0]); i++) {
        if (aiol_engine_word(choice, size, aiol_engine_names[i])) {
            snprintf(text, AIOL_ERROR_TEXT_SIZE, "back end %s is not in this build", aiol_engine_names[i]);
            return AIOLOOP_ENOTAVAILABLE;
        }
    }
    snprintf(text, AIOL_ERROR_TEXT_SIZE, "unknown back end \"%.*s\"", (int)aiol_min_size(size, 60), choice);
    return AIOLOOP_EINVAL;
}

#endif

/* >> src/aioloop.h */
/* core: asyncio's heart. */

/* >> src/core/core.h */
/*
 * core.h - the loop, its callbacks and futures: the only place that knows what they look like.
 *
 * One queue holds everything that is to run: NODES, each a link and a function. A scheduled callback is a SLOT, which
 * starts with a node; what must never fail for want of memory (a lost connection) has a node of its own inside.
 */
#ifndef AIOL_CORE_CORE_H
#define AIOL_CORE_CORE_H

typedef struct aiol_node {
    struct aiol_node *next;
    void (*run)(aioloop *loop, struct aiol_node *node);
} aiol_node;

/* First in, first out. end is where the next node is linked: the last node's next, or head of an empty queue. */
typedef struct aiol_queue {
    aiol_node *head;
    aiol_node **end;
} aiol_queue;

AIOL_INLINE void aiol_queue_init(aiol_queue *q) {
    q->head = NULL;
    q->end = &q->head;
}

AIOL_INLINE void aiol_queue_push(aiol_queue *q, aiol_node *node) {
    node->next = NULL;
    *q->end = node;
    q->end = &node->next;
}

/* The oldest node, or NULL. */
AIOL_INLINE aiol_node *aiol_queue_pop(aiol_queue *q) {
    aiol_node *node = q->head;
    if (node != NULL) {
        q->head = node->next;
        if (q->head == NULL)
            q->end = &q->head;
    }
    return node;
}

/* Moves everything of from, which becomes empty, behind what is in q. */
AIOL_INLINE void aiol_queue_append(aiol_queue *q, aiol_queue *from) {
    if (from->head == NULL)
        return;
    *q->end = from->head;
    q->end = from->end;
    aiol_queue_init(from);
}

/* READY: free, queued or running. TIMER: in the heap, until due or cancelled. DUE: a timer whose turn comes in this
 * iteration. WAITING: a done-callback, until its future is done. */
typedef enum aiol_slot_state { AIOL_SLOT_READY, AIOL_SLOT_TIMER, AIOL_SLOT_DUE, AIOL_SLOT_WAITING } aiol_slot_state;

enum {
    AIOL_SLOT_REMOTE = 1,   /* of the pool that other threads use */
    AIOL_SLOT_EXPLICIT = 2, /* context is an aioloop_context, used itself */
    AIOL_SLOT_HOLDS = 4,    /* owns a reference of its future */
    AIOL_SLOT_TASK = 8      /* inside a task, and goes with it */
};

/* A free slot is as a plain callback needs it: run is aiol_run_call, state READY, nothing captured, no site, sequence
 * 0. So scheduling one writes only what differs. */
typedef struct aiol_slot {
    union {
        aiol_node node;
        aiol_heap_item heap; /* a TIMER's; shares its place with the link alone */
    } at;
    uint64_t sequence; /* the handle's; 0: no handle is valid */
    union {
        aioloop_callback call;
        aioloop_future_callback future;
        aioloop_step step;
    } fn;
    void *arg;
    union {
        aiol_map *map; /* the values captured; NULL: none */
        aioloop_context *explicit_one;
    } context;
    union {
        aioloop_time when; /* a TIMER's: the heap's key may be earlier (lazily re-armed) */
        aioloop_future *future;
    } u;
    uint32_t site;  /* debug mode: where it was made; 0: unknown. Of a task: its number */
    uint16_t index; /* in its chunk */
    uint8_t state;
    uint8_t flags;
} aiol_slot;

AIOL_STATIC_ASSERT(sizeof(void *) != 8 || sizeof(aiol_slot) == 64, slot_is_a_cache_line);

/* Of timers with equal deadlines the one made first. */
AIOL_INLINE bool aiol_heap_before(const aiol_heap_item *a, const aiol_heap_item *b) {
    return ((const aiol_slot *)(const void *)a)->sequence < ((const aiol_slot *)(const void *)b)->sequence;
}

/* What belongs to a loop and must be ended with it: connections, servers, attempts, watchers. */
struct aiol_resource;

typedef struct aiol_resource_calls {
    const char *name;                                   /* for the warning of debug mode */
    void (*closed)(struct aiol_resource *resource);     /* the loop closes: give back what is the system's */
    void (*destroy)(struct aiol_resource *resource);    /* the loop is freed: after closed */
    bool (*open)(const struct aiol_resource *resource); /* it should have been closed before */
} aiol_resource_calls;

typedef struct aiol_resource {
    aiol_link link;
    const aiol_resource_calls *calls;
    aioloop *loop;
    aiol_map *context; /* the values its user code runs with; let go by aiol_resource_remove */
    uint32_t site;
    uint32_t refs;
} aiol_resource;

/* What core calls of net, which stands above it. NULL until the first connection. */
typedef struct aiol_net_calls {
    void (*flush_unsent)(aioloop *loop);
    void (*freed)(aioloop *loop);
} aiol_net_calls;

typedef struct aiol_site {
    const char *file;
    int line;
} aiol_site;

typedef struct aiol_slot_chunk {
    struct aiol_slot_chunk *next;
    aioloop *loop;
    size_t count;
    /* slots follow */
} aiol_slot_chunk;

#define AIOL_REMOTE_CHUNKS 32
#define AIOL_CACHE_LINE 64

struct aioloop {
    /* What every callback touches. */
    aiol_queue ready;
    aiol_queue batch; /* of this iteration, not run yet */
    aiol_slot *free_slots;
    uint64_t sequence;
    aiol_map *map;     /* what is current between callbacks; owned while the loop runs */
    aiol_map *outer_map; /* the thread's before the run, and who owns it */
    aiol_map **outer_place;
    uint32_t turn;     /* counts callbacks */
    bool attention;    /* something is to be done when the callback ends: raised or unsent says what */
    bool careful;      /* closed, or debug mode: the slow path looks which */
    int raised;        /* the code that the running callback raised; 0: none */
    aiol_link unsent;  /* writers of this callback that have a send to start */
    aiol_link sending; /* those of the callback before, while they are seen to */
    bool halt;         /* fatal: stop dispatching */
    bool stopping;
    bool closed;
    bool debug;
    bool more; /* the engine keeps something for the next iteration */
    aioloop_future *awaited; /* what run_until_complete runs for */
    struct aiol_task *task;  /* whose step runs; none in callbacks, also in those that a task's call causes */
    struct aiol_coro *coro;  /* on whose stack this runs; NULL: the loop's */
    aioloop_context *entered; /* aiol_thread.run when the step began */
    bool told;               /* error was set in this step */
    uint32_t running;
    aiol_engine *engine;
    aiol_budget budget;
    const struct aiol_net_calls *net;

    aiol_heap timers;
    aiol_queue due;
    aioloop_time due_at; /* the clock when they were moved there */

    aiol_slot *remote_done; /* to go back to remote_free */

    /* What other threads touch, on cache lines of its own: each post would else take the loop's away. */
    char apart_1[AIOL_CACHE_LINE];
    void *inbox; /* aiol_slot *, newest first */
    char apart_2[AIOL_CACHE_LINE];
    void *remote_free; /* not a pointer: see inbox.c */
    char apart_3[AIOL_CACHE_LINE];
    uint32_t sleeping;
    uint32_t wakers; /* threads that may be about to wake */
    uint32_t posts_refused;
    void *remote_chunks[AIOL_REMOTE_CHUNKS];
    void *concurrents; /* threadsafe.c's; NULL until the first */
    char apart_4[AIOL_CACHE_LINE];

    aioloop_allocator allocator;
    aiol_slot_chunk *chunks;
    aiol_link futures;
    aiol_link ended; /* debug mode: futures in quarantine */
    unsigned ended_count;
    aiol_link resources;
    aiol_link closers;       /* of generators and the like: see generator.c */
    bool asyncgens_shutdown; /* was called */
    bool executor_shutdown;  /* likewise */
    struct aiol_executor *executor; /* executor.c's; NULL until the first job or pool */
    aioloop_time closed_at;
    int process;
    uint32_t thread; /* the number of the one that ran it first: some engines belong to one (io_uring); 0: none yet */
    uint32_t site;

    aioloop_exception_handler handler;
    void *handler_arg;
    aioloop_log log;
    void *log_arg;
    aiol_error_slot error;
    struct aioloop_error *error_of; /* a future's, whose text and list error borrows; owned */
    aioloop_time slow;
    aiol_site *sites; /* index 1 is the first */
    size_t site_count;
    size_t site_capacity;
    uint32_t iteration;
    bool ending;  /* close or free is under way: what they call may not free it */
    bool freeing; /* user code may still let go of things: no block goes before all of it has run */
    aioloop_future *nothing; /* done, with 0; NULL until the first who needs it */
    uint32_t task_number; /* the last one given */
    aioloop_task_factory factory;
    void *factory_arg;
    struct aiol_stacks *stacks; /* coro.c's; NULL until the first */
    aiol_link *spare_writers; /* net's; singly linked */
    unsigned spare_writer_count;
};

/* ---- futures ---- */

typedef enum aiol_future_state {
    AIOL_FUTURE_PENDING,
    AIOL_FUTURE_FINISHED,
    AIOL_FUTURE_FAILED,
    AIOL_FUTURE_CANCELLED
} aiol_future_state;

enum {
    AIOL_FUTURE_UNCLAIMED = 1,
    AIOL_FUTURE_LOOKED_AT = 2, /* its failure need not be reported */
    AIOL_FUTURE_TAKEN = 4,     /* the result has an owner */
    AIOL_FUTURE_STATIC = 8,    /* one of the failed ones that no loop owns */
    AIOL_FUTURE_USED = 16,     /* it was unclaimed, and that was its one use */
    AIOL_FUTURE_GRANT = 32,    /* any reading takes the result, also one without the pointer */
    AIOL_FUTURE_TASK = 64,     /* the first member of an aiol_task */
    AIOL_FUTURE_OWN = 128,     /* an operation's of the library, which alone completes it */
    AIOL_FUTURE_YIELDS = 256,  /* waiting for it takes an iteration, though it is done */
    AIOL_FUTURE_BORROWS = 512, /* its result is that of next.source */
    AIOL_FUTURE_OUTRANKS = 1024, /* it is done, and who waits is told so before it hears of a cancellation */
    AIOL_FUTURE_WAITER = 2048,   /* the first member of an aiol_waiter */
    AIOL_FUTURE_COMMON = 4096,   /* loop->nothing: nobody's, so that nobody ends it */
    AIOL_FUTURE_READ = 8192      /* somebody has had the result, with its pointer or without */
};

struct aioloop_future {
    aiol_link link;
    aioloop *loop;
    uint32_t refs;
    uint8_t state;
    uint16_t flags;
    int code;
    uint32_t site;
    int64_t number;
    /* By state: what gives up the work while it is PENDING, and what ends the result once it is FINISHED. A task's is
     * always the latter. */
    union {
        bool (*cancel)(aioloop_future *future, void *owner);
        void (*dispose)(void *pointer);
    } end;
    union {
        void *owner;   /* PENDING: the operation */
        void *pointer; /* FINISHED: the result's */
    } of;
    union {
        aiol_slot *callbacks;   /* PENDING: the last one registered, whose next is the first */
        aioloop_future *source; /* of one that borrows */
    } next;
    struct aioloop_error *error;
};

AIOL_STATIC_ASSERT(sizeof(void *) != 8 || sizeof(aioloop_future) <= 88, future_is_small);

/* A future with a place in a line: of those who wait at an object, later perhaps of those whom it has given something.
 * It leaves the line when it is freed, so the object may find all of them, and go before any of them. */
typedef struct aiol_waiter {
    aioloop_future future;
    aiol_link link;
    void (*gone)(struct aiol_waiter *waiter, bool unread); /* may be NULL: it is being freed; with a result that nobody read? */
    void *object;                                          /* that it waits at; NULL: that has gone */
    void (*dispose)(void *pointer);                        /* this and mark are the object's */
    uint64_t mark;
} aiol_waiter;

/* Of an aiol_task. */
enum {
    AIOL_TASK_STACKFUL = 1,
    AIOL_TASK_GENERATOR = 2,  /* runs the body of one, on behalf of other tasks */
    AIOL_TASK_STARTED = 4,
    AIOL_TASK_RUNS = 8,       /* its step does, or the exception handler in its context */
    AIOL_TASK_WAITS = 16,     /* somebody will put it into the ready queue, or has */
    AIOL_TASK_SLEEPS = 32,    /* u is a deadline */
    AIOL_TASK_BROKEN = 64,    /* its step function has returned in the middle of a wait */
    AIOL_TASK_ENDED = 128,    /* the coroutine has; the future may yet have to be completed */
    AIOL_TASK_MUST_CANCEL = 256,   /* a cancel that is told at the next wait */
    AIOL_TASK_MUST_HEAR = 512,     /* it has ended a wait, so it is told even if it is taken back */
    AIOL_TASK_CANCEL_LATER = 1024, /* a cancel that comes behind the outcome of this wait */
    AIOL_TASK_EXPIRED = 2048,      /* its own time-out has cancelled it */
    AIOL_TASK_TOLD = 4096,         /* a cancellation was told, and not taken back since */
    AIOL_TASK_SWALLOWS = 8192      /* and that was reported */
};

/* A coroutine that runs. Its slot is at any time in one place: in the ready queue, in the heap of timers (it sleeps),
 * or among the callbacks of the future it waits for; so neither waiting nor waking needs memory. The slot has the step
 * function and the frame (or the coroutine's stack), the context, and in u the future awaited or the deadline. */
typedef struct aiol_task {
    aioloop_future future;
    aiol_slot slot;
    struct aiol_task_extra *extra; /* what few tasks have: a name given, a deadline */
    uint32_t copy_size;            /* of the frame or argument that follows */
    uint16_t cancelling;
    uint16_t flags;
} aiol_task;

struct aiol_coro;

/* ---- running user code ---- */

typedef struct aiol_frame {
    aiol_context_frame context;
    aiol_task *task;
    int raised;
} aiol_frame;

/* Before user code: its context becomes the current one. */
AIOL_INLINE aiol_frame aiol_enter(aioloop *loop, aiol_map **place) {
    aiol_frame frame;
    frame.context = aiol_context_enter(place);
    frame.raised = loop->raised;
    frame.task = loop->task;
    loop->raised = 0;
    loop->task = NULL;
    loop->turn++;
    return frame;
}

/* After it: what it raised, or 0. */
AIOL_INLINE int aiol_leave(aioloop *loop, const aiol_frame *frame) {
    int raised = loop->raised;
    loop->raised = frame->raised;
    loop->task = frame->task;
    aiol_context_leave(&frame->context);
    return raised;
}

/* The same for what the engine calls, and cheaper: between callbacks it is always the loop's own map that is current,
 * and nothing is raised. Afterwards loop->attention says whether there is something to do about it. */
AIOL_INLINE void aiol_dispatch_enter(aioloop *loop, aiol_map **place) {
    aiol_thread.map = *place;
    aiol_thread.place = place;
    loop->turn++;
}

AIOL_INLINE void aiol_dispatch_leave(aioloop *loop) {
    aiol_thread.map = loop->map;
    aiol_thread.place = &loop->map;
}

AIOL_INLINE bool aiol_loop_has_unsent(const aioloop *loop) {
    return !aiol_list_empty(&loop->unsent) || !aiol_list_empty(&loop->sending);
}

/* The message that goes with a code which user code returned or raised; NULL: none. */
AIOL_INLINE const char *aiol_detail(const aioloop *loop, int code) {
    return loop->error.error.code == code && loop->error.error.text[0] != '\0' ? loop->error.error.text : NULL;
}

/* At the end of a callback that the loop called: what it wrote goes out. What it raised was dealt with before. */
AIOL_INLINE void aiol_callback_end(aioloop *loop) {
    loop->attention = false;
    if (AIOL_UNLIKELY(aiol_loop_has_unsent(loop)))
        loop->net->flush_unsent(loop);
}

AIOL_INLINE aioloop_time aiol_loop_now(const aioloop *loop) {
    return loop->engine == NULL ? loop->closed_at : loop->engine->calls->now(loop->engine);
}

/* log.c */
AIOLOOP_INTERNAL uint32_t aiol_site_take(aioloop *loop);
AIOLOOP_INTERNAL const aiol_site *aiol_site_at(const aioloop *loop, uint32_t site);
AIOLOOP_INTERNAL int aiol_fail(aioloop *loop, int code, const char *format, ...) AIOLOOP_PRINTF(3, 4);
AIOLOOP_INTERNAL void aiol_tell_of(aioloop *loop, int code, struct aioloop_error *error);
AIOLOOP_INTERNAL void aiol_report(aioloop *loop, int code, uint32_t site, aioloop_exception_context *context);
AIOLOOP_INTERNAL void aiol_warn(aioloop *loop, uint32_t site, const char *format, ...) AIOLOOP_PRINTF(3, 4);
AIOLOOP_INTERNAL void aiol_slow(aioloop *loop, uint32_t site, aioloop_time since, const char *what);
AIOLOOP_INTERNAL bool aiol_wrong_thread(aioloop *loop);
AIOLOOP_INTERNAL int aiol_check(aioloop *loop);

/* handle.c */
AIOLOOP_INTERNAL aiol_slot *aiol_slot_new(aioloop *loop);
AIOLOOP_INTERNAL void aiol_slot_free(aioloop *loop, aiol_slot *slot);
AIOLOOP_INTERNAL void aiol_slot_drop(aioloop *loop, aiol_slot *slot);
AIOLOOP_INTERNAL aioloop *aiol_slot_loop(const aiol_slot *slot);
AIOLOOP_INTERNAL void aiol_slot_capture(aiol_slot *slot, aioloop_context *context);
AIOLOOP_INTERNAL void aiol_run_call(aioloop *loop, aiol_node *node);
AIOLOOP_INTERNAL void aiol_run_call_carefully(aioloop *loop, aiol_node *node);
AIOLOOP_INTERNAL void aiol_run_nothing(aioloop *loop, aiol_node *node);
AIOLOOP_INTERNAL void aiol_run_due(aioloop *loop, aiol_node *node);

/* inbox.c */
#if AIOLOOP_USE_THREADS
AIOLOOP_INTERNAL void aiol_inbox_drain(aioloop *loop);
#endif

/* timer.c */
AIOLOOP_INTERNAL aioloop_time aiol_timer_next(aioloop *loop);
AIOLOOP_INTERNAL void aiol_timer_move_due(aioloop *loop);
AIOLOOP_INTERNAL void aiol_timer_cancel(aioloop *loop, aiol_slot *slot);

/* future.c */
AIOLOOP_INTERNAL aioloop_future *aiol_future_failed(int code);
AIOLOOP_INTERNAL aioloop_future *aiol_future_new(aioloop *loop, bool (*cancel)(aioloop_future *, void *), void *owner);
AIOLOOP_INTERNAL aiol_waiter *aiol_waiter_new(aioloop *loop, bool (*cancel)(aioloop_future *, void *), void *object);
AIOLOOP_INTERNAL void aiol_future_init(aioloop *loop, aioloop_future *f);
AIOLOOP_INTERNAL aioloop_future *aiol_future_nothing(aioloop *loop);
AIOLOOP_INTERNAL void aiol_future_hold(aioloop_future *f);
AIOLOOP_INTERNAL void aiol_future_release(aioloop_future *f);
AIOLOOP_INTERNAL int aiol_future_finish(aioloop_future *f, int64_t number, void *pointer, void (*dispose)(void *));
AIOLOOP_INTERNAL int aiol_future_finish_first(aioloop_future *f, int64_t number, void *pointer, void (*dispose)(void *));
AIOLOOP_INTERNAL int aiol_future_fail(aioloop_future *f, int code, const char *text);
AIOLOOP_INTERNAL void aiol_future_fail_with(aioloop_future *f, int code, struct aioloop_error *error);
AIOLOOP_INTERNAL int aiol_future_end_cancelled(aioloop_future *f, const char *text);
AIOLOOP_INTERNAL void aiol_future_destroy(aioloop_future *f);
AIOLOOP_INTERNAL void aiol_future_strip(aioloop_future *f);
AIOLOOP_INTERNAL int aiol_future_use(aioloop_future *f);
AIOLOOP_INTERNAL int aiol_future_take_over(aioloop_future *f, aioloop_future *source);
AIOLOOP_INTERNAL void aiol_future_push_callback(aioloop_future *f, aiol_slot *slot);
AIOLOOP_INTERNAL void aiol_future_attach(aioloop_future *f, aiol_slot *slot, aioloop_future_callback fn, void *arg);
AIOLOOP_INTERNAL void aiol_future_remove_slot(aioloop_future *f, aiol_slot *slot);
AIOLOOP_INTERNAL void aiol_future_free_ended(aioloop *loop, unsigned left);
AIOLOOP_INTERNAL void aiol_run_future(aioloop *loop, aiol_node *node);

/* task.c */
AIOLOOP_INTERNAL void aiol_run_task(aioloop *loop, aiol_node *node);
AIOLOOP_INTERNAL aioloop_future *aiol_task_cancel(aioloop_future *f, const char *message, struct aiol_task **waiter);
AIOLOOP_INTERNAL void aiol_task_strip(aiol_task *task);
AIOLOOP_INTERNAL size_t aiol_task_size(const aiol_task *task);
AIOLOOP_INTERNAL aiol_map **aiol_task_place(aioloop_future *f);
AIOLOOP_INTERNAL const char *aiol_task_name(aiol_task *task, char *buffer, size_t size);
AIOLOOP_INTERNAL void aiol_task_report_pending(aiol_task *task);
AIOLOOP_INTERNAL void aiol_on_loop_stack(aioloop *loop, void (*fn)(void *arg), void *arg);
AIOLOOP_INTERNAL void aiol_stacks_unwatch(aioloop *loop);
AIOLOOP_INTERNAL void aiol_stacks_free(aioloop *loop);

/* loop.c */
AIOLOOP_INTERNAL void aiol_loop_halt(aioloop *loop);
AIOLOOP_INTERNAL void aiol_resource_add(aioloop *loop, aiol_resource *resource, const aiol_resource_calls *calls);
AIOLOOP_INTERNAL void aiol_resource_remove(aiol_resource *resource);

#endif

/* >> src/core/log.c */
/*
 * log.c - where errors and warnings go.          (asyncio: base_events.call_exception_handler and its kin)
 *
 * Reporting never takes the loop down: an error of the user's handler goes to the default handler, and what that cannot
 * write is lost. What is written and whom it is given to run on the loop's stack: that of a coroutine may be too small
 * to print.
 */
#ifndef AIOL_CORE_LOG_C
#define AIOL_CORE_LOG_C

/* ---- where things were made ---- */

/* The site of the call that runs, as an index; 0 when not in debug mode or not known. Forgets it. */
AIOLOOP_INTERNAL uint32_t aiol_site_take(aioloop *loop) {
    const char *file = aiol_thread.site_file;
    int line = aiol_thread.site_line;
    size_t i;
    aiol_thread.site_file = NULL;
    if (!loop->debug || file == NULL)
        return 0;
    for (i = 1; i < loop->site_count; i++)
        if (loop->sites[i].line == line && loop->sites[i].file == file)
            return (uint32_t)i;
    if (loop->site_count == 0)
        loop->site_count = 1;
    if (aiol_grow(&loop->allocator, &loop->sites, &loop->site_capacity, sizeof(loop->sites[0]), loop->site_count + 1) < 0)
        return 0;
    loop->sites[loop->site_count].file = file;
    loop->sites[loop->site_count].line = line;
    return (uint32_t)loop->site_count++;
}

AIOLOOP_INTERNAL const aiol_site *aiol_site_at(const aioloop *loop, uint32_t site) {
    return site == 0 ? NULL : &loop->sites[site];
}

/* ---- raising ---- */

static void aiol_tell(aioloop *loop, int code, const char *format, va_list arguments) {
    struct aioloop_error *last = loop->error_of; /* the arguments may be its message */
    loop->error_of = NULL;
    loop->told = true;
    aiol_error_set(&loop->error, code, format, arguments);
    aiol_error_free(&loop->allocator, last);
}

/* Remembers why a call fails, for aioloop_last_error. Returns code. */
AIOLOOP_INTERNAL int aiol_fail(aioloop *loop, int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (loop != NULL)
        aiol_tell(loop, code, format, arguments);
    else
        aiol_error_set(&aiol_thread.error, code, format, arguments);
    va_end(arguments);
    return code;
}

/* Remembers the error of a future that was awaited, as it is. */
AIOLOOP_INTERNAL void aiol_tell_of(aioloop *loop, int code, struct aioloop_error *error) {
    struct aioloop_error *last = loop->error_of;
    loop->error_of = aiol_error_ref(error);
    aiol_error_clear(&loop->error);
    if (error != NULL)
        loop->error.error = *error;
    loop->error.error.code = code;
    loop->told = true;
    aiol_error_free(&loop->allocator, last);
}

AIOLOOP_API int aioloop_raise(aioloop *loop, int code, const char *format, ...) {
    va_list arguments;
    if (code >= 0)
        code = AIOLOOP_EINVAL;
    va_start(arguments, format);
    if (loop != NULL)
        aiol_tell(loop, code, format, arguments);
    else
        aiol_error_set(&aiol_thread.error, code, format, arguments);
    va_end(arguments);
    if (loop != NULL) {
        loop->raised = code;
        loop->attention = true;
    }
    return code;
}

AIOLOOP_API const char *aioloop_message(aioloop *loop, int64_t code) {
    const aioloop_error *last = aioloop_last_error(loop);
    if (code >= 0)
        return "success";
    if (code != (int)code)
        return "unknown error";
    return last->code == (int)code ? aioloop_error_message(last) : aioloop_strerror((int)code);
}

AIOLOOP_API aioloop_error *aioloop_save_error(aioloop *loop) {
    int code = loop == NULL ? 0 : loop->error.error.code;
    if (code == 0)
        return NULL;
    if (loop->error_of != NULL && loop->error_of->code == code)
        return aiol_error_ref(loop->error_of);
    return aiol_error_new(&loop->allocator, code, aiol_detail(loop, code), 0);
}

AIOLOOP_API void aioloop_restore_error(aioloop *loop, aioloop_error *error) {
    if (loop == NULL || error == NULL)
        return;
    aiol_tell_of(loop, error->code, error);
    aiol_error_free(&loop->allocator, error);
}

AIOLOOP_API const aioloop_error *aioloop_last_error(aioloop *loop) {
    return loop != NULL ? &loop->error.error : &aiol_thread.error.error;
}

/* True in debug mode if another thread runs the loop: nothing of the loop may be touched. */
AIOLOOP_INTERNAL bool aiol_wrong_thread(aioloop *loop) {
    return loop->debug && aiol_load(&loop->running) != 0 && aiol_thread.running != loop;
}

/* What may make a call on the loop refused, when loop->careful says to look. 0, or the code with its message stored. */
AIOLOOP_INTERNAL int aiol_check(aioloop *loop) {
    if (loop->closed)
        return aiol_fail(loop, AIOLOOP_ECLOSED, NULL);
    return aiol_wrong_thread(loop) ? AIOLOOP_EMISUSE : 0;
}

/* ---- logging ---- */

/* The log while none is set. Each line says where it comes from: the program's own go to the same place. */
static void aiol_log_print(const char *text) {
    for (;;) {
        size_t length = strcspn(text, "\n");
        fprintf(stderr, "aioloop: %.*s\n", (int)length, text);
        if (text[length] == '\0')
            return;
        text += length + 1;
    }
}

/* What the log raises is lost: there is nobody left to tell. */
static void aiol_log_write(aioloop *loop, aioloop_log_level level, const char *text) {
    int raised = loop->raised;
    aiol_task *task = loop->task;
    loop->task = NULL;
    if (loop->log != NULL)
        loop->log(loop, level, text, loop->log_arg);
    else
        aiol_log_print(text);
    loop->task = task;
    loop->raised = raised;
}

AIOLOOP_API void aioloop_set_log(aioloop *loop, aioloop_log fn, void *arg) {
    if (loop == NULL)
        return;
    loop->log = fn;
    loop->log_arg = arg;
}

typedef struct aiol_warning {
    aioloop *loop;
    uint32_t site;
    const char *format;
    va_list *arguments;
} aiol_warning;

static void aiol_warn_write(void *arg) {
    const aiol_warning *warning = (const aiol_warning *)arg;
    const aiol_site *at = aiol_site_at(warning->loop, warning->site);
    char text[512];
    size_t length;
    vsnprintf(text, sizeof(text), warning->format != NULL ? warning->format : "", *warning->arguments);
    length = strlen(text);
    if (at != NULL)
        snprintf(text + length, sizeof(text) - length, " (made at %s:%d)", at->file, at->line);
    aiol_log_write(warning->loop, AIOLOOP_LOG_WARNING, text);
}

AIOLOOP_INTERNAL void aiol_warn(aioloop *loop, uint32_t site, const char *format, ...) {
    aiol_warning warning;
    va_list arguments;
    va_start(arguments, format);
    warning.loop = loop;
    warning.site = site;
    warning.format = format;
    warning.arguments = &arguments;
    aiol_on_loop_stack(loop, aiol_warn_write, &warning);
    va_end(arguments);
}

/* Debug mode: what ran took from `since` until now; said if that was long. */
AIOLOOP_INTERNAL AIOL_NOINLINE void aiol_slow(aioloop *loop, uint32_t site, aioloop_time since, const char *what) {
    aioloop_time took = aiol_loop_now(loop) - since;
    if (took >= loop->slow)
        aiol_warn(loop, site, "%s took %lld ms", what, (long long)(took / 1000000));
}

/* A line of the default handler's text: "name: value". */
static size_t aiol_log_line(char *text, size_t size, size_t length, const char *format, ...) AIOLOOP_PRINTF(4, 5);
static size_t aiol_log_line(char *text, size_t size, size_t length, const char *format, ...) {
    va_list arguments;
    int n;
    if (length >= size)
        return length;
    va_start(arguments, format);
    n = vsnprintf(text + length, size - length, format, arguments);
    va_end(arguments);
    return n < 0 ? length : length + (size_t)n;
}

/* What is reported, and to which loop. */
typedef struct aiol_reported {
    aioloop *loop;
    const aioloop_exception_context *context;
} aiol_reported;

static void aiol_report_on_loop_stack(aioloop *loop, const aioloop_exception_context *context, void (*fn)(void *reported)) {
    aiol_reported reported;
    if (loop == NULL || context == NULL)
        return;
    reported.loop = loop;
    reported.context = context;
    aiol_on_loop_stack(loop, fn, &reported);
}

static void aiol_report_write(void *reported) {
    aioloop *loop = ((aiol_reported *)reported)->loop;
    const aioloop_exception_context *context = ((aiol_reported *)reported)->context;
    char text[1024];
    size_t n;
    n = aiol_log_line(text, sizeof(text), 0, "%s",
                      context->message != NULL ? context->message : "Unhandled error in event loop");
    if (context->asyncgen != NULL)
        n = aiol_log_line(text, sizeof(text), n, "\nasyncgen: %p", context->asyncgen);
    if (context->error != 0)
        n = aiol_log_line(text, sizeof(text), n, "\nerror: %s: %s", aioloop_error_name(context->error),
                          context->detail != NULL ? context->detail : aioloop_strerror(context->error));
    if (context->future != NULL)
        n = aiol_log_line(text, sizeof(text), n, "\nfuture: %p", (void *)context->future);
    if (context->handle.slot != NULL)
        n = aiol_log_line(text, sizeof(text), n, "\nhandle: %llu", (unsigned long long)context->handle.sequence);
    if (context->protocol != NULL)
        n = aiol_log_line(text, sizeof(text), n, "\nprotocol: %p", (const void *)context->protocol);
    if (context->server != NULL)
        n = aiol_log_line(text, sizeof(text), n, "\nserver: %p", (void *)context->server);
    if (context->socket != NULL)
        n = aiol_log_line(text, sizeof(text), n, "\nsocket: %ld", (long)*context->socket);
    if (context->source_file != NULL)
        n = aiol_log_line(text, sizeof(text), n, "\nsource: %s:%d", context->source_file, context->source_line);
    if (context->task != NULL && (context->task->flags & AIOL_FUTURE_TASK) != 0) {
        char name[64];
        n = aiol_log_line(text, sizeof(text), n, "\ntask: %s",
                          aiol_task_name((aiol_task *)(void *)context->task, name, sizeof(name)));
    }
    if (context->transport != NULL)
        n = aiol_log_line(text, sizeof(text), n, "\ntransport: %p", (void *)context->transport);
    (void)n;
    aiol_log_write(loop, AIOLOOP_LOG_ERROR, text);
}

AIOLOOP_API void aioloop_default_exception_handler(aioloop *loop, const aioloop_exception_context *context) {
    aiol_report_on_loop_stack(loop, context, aiol_report_write);
}

/* Calls the handler in the context of the task that failed, if it is one and has not entered it already. It cannot
 * wait. Returns what it raised. */
static int aiol_handler_call(aioloop *loop, const aioloop_exception_context *context) {
    aiol_map **place = aiol_task_place(context->task);
    aiol_context_frame frame = {NULL, NULL};
    aiol_task *failed = place == NULL ? NULL : (aiol_task *)(void *)context->task;
    aiol_task *task = loop->task;
    int outer = loop->raised;
    int raised;
    if (failed != NULL && (failed->flags & AIOL_TASK_RUNS) != 0)
        failed = NULL;
    if (failed != NULL) {
        aiol_future_hold(&failed->future);
        failed->flags |= AIOL_TASK_RUNS;
        frame = aiol_context_enter(place);
    }
    loop->raised = 0;
    loop->task = NULL;
    loop->handler(loop, context, loop->handler_arg);
    raised = loop->raised;
    loop->raised = outer;
    loop->task = task;
    if (failed != NULL) {
        aiol_context_leave(&frame);
        failed->flags &= (uint16_t)~AIOL_TASK_RUNS;
        aiol_future_release(&failed->future);
    }
    return raised;
}

static void aiol_report_handle(void *reported) {
    aioloop *loop = ((aiol_reported *)reported)->loop;
    const aioloop_exception_context *context = ((aiol_reported *)reported)->context;
    int raised;
    if (loop->handler == NULL) {
        aioloop_default_exception_handler(loop, context);
        return;
    }
    raised = aiol_handler_call(loop, context);
    if (raised == AIOLOOP_EFATAL) {
        aiol_loop_halt(loop);
    } else if (raised != 0) {
        aioloop_exception_context own;
        memset(&own, 0, sizeof(own));
        own.message = "Unhandled error in exception handler";
        own.error = raised;
        own.detail = aioloop_error_message(aioloop_last_error(loop));
        aioloop_default_exception_handler(loop, &own);
        aioloop_default_exception_handler(loop, context);
    }
}

AIOLOOP_API void aioloop_call_exception_handler(aioloop *loop, const aioloop_exception_context *context) {
    aiol_report_on_loop_stack(loop, context, aiol_report_handle);
}

/* Hands the error of user code to the exception handler; a fatal one ends the run instead. The caller has filled in
 * what it concerns. The error's message is the loop's last one, if the code is the same. */
AIOLOOP_INTERNAL void aiol_report(aioloop *loop, int code, uint32_t site, aioloop_exception_context *context) {
    char detail[AIOL_ERROR_TEXT_SIZE];
    const aiol_site *at = aiol_site_at(loop, site);
    if (code == AIOLOOP_EFATAL) {
        aiol_loop_halt(loop);
        return;
    }
    context->error = code;
    if (context->detail == NULL && aiol_detail(loop, code) != NULL) {
        snprintf(detail, sizeof(detail), "%s", aiol_detail(loop, code)); /* the handler may fail, and then store another */
        context->detail = detail;
    }
    if (at != NULL) {
        context->source_file = at->file;
        context->source_line = at->line;
    }
    aioloop_call_exception_handler(loop, context);
}

AIOLOOP_API void aioloop_set_exception_handler(aioloop *loop, aioloop_exception_handler fn, void *arg) {
    if (loop == NULL)
        return;
    loop->handler = fn;
    loop->handler_arg = arg;
}

AIOLOOP_API aioloop_exception_handler aioloop_get_exception_handler(aioloop *loop, void **arg) {
    if (loop == NULL)
        return NULL;
    if (arg != NULL)
        *arg = loop->handler_arg;
    return loop->handler;
}

/* ---- debug mode ---- */

AIOLOOP_API int aioloop_set_debug(aioloop *loop, bool enabled) {
    if (loop == NULL)
        return AIOLOOP_EINVAL;
#if AIOLOOP_USE_DEBUG
    loop->debug = enabled;
    loop->careful = enabled || loop->closed;
    aiol_thread.site_file = NULL;
    return 0;
#else
    return enabled ? AIOLOOP_ENOTAVAILABLE : 0;
#endif
}

AIOLOOP_API bool aioloop_get_debug(aioloop *loop) {
    return loop != NULL && loop->debug;
}

AIOLOOP_API int aioloop_set_slow_callback_duration(aioloop *loop, aioloop_time duration) {
    if (loop == NULL || duration < 0)
        return AIOLOOP_EINVAL;
    loop->slow = duration;
    return 0;
}

AIOLOOP_API aioloop_time aioloop_get_slow_callback_duration(aioloop *loop) {
    return loop == NULL ? 0 : loop->slow;
}

#endif

/* >> src/core/handle.c */
/*
 * handle.c - callbacks and their handles.                                  (asyncio: events.Handle)
 *
 * Slots live in chunks that stay where they are until the loop is freed, so a handle may outlive its callback: the
 * sequence number in it no longer matches then. Free slots are a stack, so a busy loop goes through few cache lines.
 */
#ifndef AIOL_CORE_HANDLE_C
#define AIOL_CORE_HANDLE_C

#define AIOL_SLOTS_FIRST 32u
#define AIOL_SLOTS_MOST 1024u
#define AIOL_HANDLE_CANCELLED ((uint64_t)1 << 63) /* in a handle's own copy of the sequence */
#define AIOL_HANDLE_REMOTE ((uint64_t)1 << 62)    /* in the sequence of a slot of the pool that other threads use */

static aiol_slot *aiol_slot_chunk_slots(aiol_slot_chunk *chunk) {
    /* Slots begin at their own size from the start of the chunk. */
    return (aiol_slot *)(void *)chunk + 1;
}

AIOL_STATIC_ASSERT(sizeof(aiol_slot_chunk) <= sizeof(aiol_slot), chunk_header_fits_a_slot);

AIOLOOP_INTERNAL aioloop *aiol_slot_loop(const aiol_slot *slot) {
    return ((const aiol_slot_chunk *)(const void *)(slot - slot->index - 1))->loop;
}

/* A chunk of count slots, all free and linked through node.next; NULL when there is no memory. */
AIOLOOP_INTERNAL aiol_slot_chunk *aiol_slot_chunk_new(aioloop *loop, size_t count, uint8_t flags) {
    aiol_slot_chunk *chunk = (aiol_slot_chunk *)aiol_alloc(&loop->allocator, (count + 1) * sizeof(aiol_slot));
    aiol_slot *slots;
    size_t i;
    if (chunk == NULL)
        return NULL;
    chunk->next = NULL;
    chunk->loop = loop;
    chunk->count = count;
    slots = aiol_slot_chunk_slots(chunk);
    for (i = 0; i < count; i++) {
        memset(&slots[i], 0, sizeof(slots[0]));
        slots[i].index = (uint16_t)i;
        slots[i].flags = flags;
        slots[i].at.node.run = aiol_run_call;
        slots[i].at.node.next = i + 1 < count ? &slots[i + 1].at.node : NULL;
    }
    return chunk;
}

AIOLOOP_INTERNAL void aiol_slot_chunk_free(aioloop *loop, aiol_slot_chunk *chunk) {
    aiol_free(&loop->allocator, chunk, (chunk->count + 1) * sizeof(aiol_slot));
}

static AIOL_NOINLINE bool aiol_slot_more(aioloop *loop) {
    size_t count = loop->chunks == NULL ? AIOL_SLOTS_FIRST : loop->chunks->count * 2;
    aiol_slot_chunk *chunk = aiol_slot_chunk_new(loop, count < AIOL_SLOTS_MOST ? count : AIOL_SLOTS_MOST, 0);
    if (chunk == NULL)
        return false;
    chunk->next = loop->chunks;
    loop->chunks = chunk;
    loop->free_slots = aiol_slot_chunk_slots(chunk);
    return true;
}

/* A slot with nothing in it but its place; NULL when there is no memory. */
AIOLOOP_INTERNAL aiol_slot *aiol_slot_new(aioloop *loop) {
    aiol_slot *slot = loop->free_slots;
    if (AIOL_UNLIKELY(slot == NULL)) {
        if (!aiol_slot_more(loop))
            return NULL;
        slot = loop->free_slots;
    }
    loop->free_slots = (aiol_slot *)(void *)slot->at.node.next;
    return slot;
}

/* The slot is free when this lets go of what it had captured, which may call user code. */
AIOLOOP_INTERNAL void aiol_slot_free(aioloop *loop, aiol_slot *slot) {
    aiol_map *map = slot->context.map;
    aioloop_context *explicit_one = NULL;
    if (AIOL_UNLIKELY((slot->flags & AIOL_SLOT_EXPLICIT) != 0)) {
        explicit_one = slot->context.explicit_one;
        map = NULL;
    }
    slot->context.map = NULL;
    slot->sequence = 0;
    slot->state = AIOL_SLOT_READY;
    slot->at.node.run = aiol_run_call;
    slot->flags &= AIOL_SLOT_REMOTE;
    if (AIOL_UNLIKELY(slot->flags != 0)) {
        slot->at.node.next = (aiol_node *)(void *)loop->remote_done;
        loop->remote_done = slot;
    } else {
        slot->site = 0; /* of the others it is a link that threads read */
        slot->at.node.next = (aiol_node *)(void *)loop->free_slots;
        loop->free_slots = slot;
    }
    aiol_map_unref(map);
    aioloop_context_unref(explicit_one);
}

/* A slot that will not run any more leaves its place. A task's stays the task's. */
AIOLOOP_INTERNAL void aiol_slot_drop(aioloop *loop, aiol_slot *slot) {
    if ((slot->flags & AIOL_SLOT_TASK) != 0)
        slot->state = AIOL_SLOT_READY;
    else
        aiol_slot_free(loop, slot);
}

/* Captures the context that a callback will run in. */
AIOLOOP_INTERNAL void aiol_slot_capture(aiol_slot *slot, aioloop_context *context) {
    if (AIOL_UNLIKELY(context != NULL)) {
        aioloop_context_ref(context);
        slot->context.explicit_one = context;
        slot->flags |= AIOL_SLOT_EXPLICIT;
    } else {
        slot->context.map = aiol_map_ref(aiol_thread.map);
    }
}

/* Where the values are that a slot's callback runs with. */
AIOL_INLINE aiol_map **aiol_slot_place(aiol_slot *slot) {
    return (slot->flags & AIOL_SLOT_EXPLICIT) != 0 ? &slot->context.explicit_one->map : &slot->context.map;
}

/* Called while the context of what failed is current: the handler runs in it. */
AIOLOOP_INTERNAL AIOL_NOINLINE void aiol_slot_report(aioloop *loop, aiol_slot *slot, aioloop_future *future, int code) {
    aioloop_exception_context context;
    memset(&context, 0, sizeof(context));
    context.message = future != NULL ? "Error in done-callback" : "Error in callback";
    context.future = future;
    context.handle.slot = slot;
    context.handle.sequence = slot->sequence;
    aiol_report(loop, code, slot->site, &context);
}

AIOLOOP_INTERNAL AIOL_NOINLINE void aiol_slot_slow(aioloop *loop, const aiol_slot *slot, aioloop_time since) {
    aioloop_time took = aiol_loop_now(loop) - since;
    if (took >= loop->slow)
        aiol_warn(loop, slot->site, "callback %llu took %lld ms", (unsigned long long)slot->sequence,
                  (long long)(took / 1000000));
}

/* After a callback: what it raised is reported, what it wrote goes out. */
AIOLOOP_INTERNAL AIOL_NOINLINE void aiol_slot_attend(aioloop *loop, aiol_slot *slot, aioloop_future *future) {
    int raised = loop->raised;
    loop->raised = 0;
    if (raised != 0)
        aiol_slot_report(loop, slot, future, raised);
    aiol_callback_end(loop);
}

/* Runs a slot with captured values, when nothing else is to be done about it: the path of nearly every callback. The
 * values become the thread's own, until the next one or aiol_run_queue lets them go. What the callback left to be done
 * shows in loop->attention. */
AIOLOOP_INTERNAL void aiol_run_call(aioloop *loop, aiol_node *node) {
    aiol_slot *slot = (aiol_slot *)(void *)node;
    aiol_map *last = aiol_thread.map;
    aiol_thread.map = slot->context.map;
    slot->context.map = NULL;
    if (AIOL_UNLIKELY(last != NULL))
        aiol_map_release(last); /* may call user code, so not before this one's are the current ones */
    loop->turn++;
    slot->fn.call(loop, slot->arg);
    if (AIOL_UNLIKELY(loop->attention))
        aiol_slot_attend(loop, slot, NULL);
    slot->sequence = 0;
    node->run = aiol_run_call; /* it may have cancelled its own handle */
    node->next = (aiol_node *)(void *)loop->free_slots;
    loop->free_slots = slot;
}

/* The same for debug mode, explicit contexts and slots of the pool of other threads. */
AIOLOOP_INTERNAL void aiol_run_call_carefully(aioloop *loop, aiol_node *node) {
    aiol_slot *slot = (aiol_slot *)(void *)node;
    aiol_frame frame = aiol_enter(loop, aiol_slot_place(slot));
    aioloop_time since = loop->debug ? aiol_loop_now(loop) : 0;
    slot->fn.call(loop, slot->arg);
    if (since != 0)
        aiol_slot_slow(loop, slot, since);
    aiol_slot_attend(loop, slot, NULL);
    aiol_leave(loop, &frame);
    aiol_slot_free(loop, slot);
}

/* Runs in the place of a slot that was cancelled while it was queued. */
AIOLOOP_INTERNAL void aiol_run_nothing(aioloop *loop, aiol_node *node) {
    aiol_slot_free(loop, (aiol_slot *)(void *)node);
}

/* ---- scheduling ---- */

AIOL_INLINE aioloop_handle aiol_handle_of(aiol_slot *slot) {
    aioloop_handle handle;
    handle.slot = slot;
    handle.sequence = slot->sequence;
    return handle;
}

AIOL_INLINE aioloop_handle aiol_handle_null(void) {
    aioloop_handle handle;
    handle.slot = NULL;
    handle.sequence = 0;
    return handle;
}

/* Fills a fresh slot. */
AIOL_INLINE void aiol_slot_fill(aioloop *loop, aiol_slot *slot, aioloop_callback fn, void *arg) {
    slot->sequence = ++loop->sequence;
    slot->fn.call = fn;
    slot->arg = arg;
}

/* A slot for fn with everything that may be special about it; NULL with the reason stored. */
AIOLOOP_INTERNAL AIOL_NOINLINE aiol_slot *aiol_slot_carefully(aioloop *loop, aioloop_callback fn, void *arg,
                                                              aioloop_context *context) {
    aiol_slot *slot;
    if (loop == NULL || (loop->careful && aiol_check(loop) < 0))
        return NULL;
    if (fn == NULL) {
        aiol_fail(loop, AIOLOOP_EINVAL, "a callback is needed, not NULL");
        return NULL;
    }
    slot = aiol_slot_new(loop);
    if (slot == NULL) {
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    aiol_slot_fill(loop, slot, fn, arg);
    slot->site = loop->debug ? aiol_site_take(loop) : 0;
    aiol_slot_capture(slot, context);
    if (loop->debug || context != NULL)
        slot->at.node.run = aiol_run_call_carefully;
    return slot;
}

/* True if the short way will do: nothing to check, and a slot at hand. */
AIOL_INLINE bool aiol_slot_easily(const aioloop *loop, aioloop_callback fn) {
    return AIOL_LIKELY(loop != NULL && fn != NULL && loop->free_slots != NULL && !loop->careful);
}

/* The slot at hand. */
AIOL_INLINE aiol_slot *aiol_slot_take(aioloop *loop, aioloop_callback fn, void *arg) {
    aiol_slot *slot = loop->free_slots;
    loop->free_slots = (aiol_slot *)(void *)slot->at.node.next;
    aiol_slot_fill(loop, slot, fn, arg);
    if (AIOL_UNLIKELY(aiol_thread.map != NULL)) /* else it is NULL already */
        slot->context.map = aiol_map_ref(aiol_thread.map);
    return slot;
}

AIOL_INLINE aioloop_handle aiol_slot_ready(aioloop *loop, aiol_slot *slot) {
    aiol_queue_push(&loop->ready, &slot->at.node);
    return aiol_handle_of(slot);
}

static AIOL_NOINLINE aioloop_handle aiol_call_soon_carefully(aioloop *loop, aioloop_callback fn, void *arg,
                                                             aioloop_context *context) {
    aiol_slot *slot = aiol_slot_carefully(loop, fn, arg, context);
    return slot == NULL ? aiol_handle_null() : aiol_slot_ready(loop, slot);
}

AIOLOOP_API aioloop_handle(aioloop_call_soon)(aioloop *loop, aioloop_callback fn, void *arg) {
    if (aiol_slot_easily(loop, fn))
        return aiol_slot_ready(loop, aiol_slot_take(loop, fn, arg));
    return aiol_call_soon_carefully(loop, fn, arg, NULL);
}

AIOLOOP_API aioloop_handle(aioloop_call_soon_context)(aioloop *loop, aioloop_callback fn, void *arg,
                                                      aioloop_context *context) {
    return aiol_call_soon_carefully(loop, fn, arg, context);
}

/* ---- handles ---- */

/* The slot, if the handle's callback has not run and was not cancelled. */
static aiol_slot *aiol_handle_slot(const aioloop_handle *handle) {
    aiol_slot *slot;
    if (handle == NULL || handle->slot == NULL)
        return NULL;
    slot = (aiol_slot *)handle->slot;
#if AIOLOOP_USE_THREADS
    if (AIOL_UNLIKELY((handle->sequence & AIOL_HANDLE_REMOTE) != 0))
        aiol_inbox_drain(aiol_slot_loop(slot)); /* gives it its sequence */
#endif
    return slot->sequence != 0 && slot->sequence == handle->sequence ? slot : NULL;
}

AIOLOOP_API void aioloop_handle_cancel(aioloop_handle *handle) {
    aiol_slot *slot = aiol_handle_slot(handle);
    if (handle == NULL || handle->slot == NULL)
        return;
    handle->sequence |= AIOL_HANDLE_CANCELLED;
    if (slot == NULL)
        return;
    if (slot->state == AIOL_SLOT_TIMER) {
        aiol_timer_cancel(aiol_slot_loop(slot), slot);
    } else { /* leaves the queue when its turn comes; one that runs already is not touched by this */
        slot->at.node.run = aiol_run_nothing;
        slot->sequence = 0;
    }
}

AIOLOOP_API void aioloop_timer_handle_cancel(aioloop_timer_handle *handle) {
    if (handle != NULL)
        aioloop_handle_cancel(&handle->handle);
}

AIOLOOP_API bool aioloop_handle_cancelled(const aioloop_handle *handle) {
    return handle != NULL && handle->slot != NULL && (handle->sequence & AIOL_HANDLE_CANCELLED) != 0;
}

AIOLOOP_API bool aioloop_handle_is_null(const aioloop_handle *handle) {
    return handle == NULL || handle->slot == NULL;
}

#endif

/* >> src/core/timer.c */
/*
 * timer.c - callbacks that run at a time.            (asyncio: events.TimerHandle, base_events._scheduled)
 *
 * A 4-ary heap ordered by (deadline, sequence): equal deadlines run in the order they were made.
 *
 * Re-arming to a later time only stores the new deadline in the slot; the heap's key, which is then too early, is put
 * right when the entry comes up. A server that pushes an idle time-out back on every byte pays a store, not a sift.
 */
#ifndef AIOL_CORE_TIMER_C
#define AIOL_CORE_TIMER_C

/* The earliest deadline, AIOLOOP_FOREVER if there is none. Puts the keys right that stand first and are too early. */
AIOLOOP_INTERNAL aioloop_time aiol_timer_next(aioloop *loop) {
    aiol_heap *heap = &loop->timers;
    while (heap->count != 0) {
        aiol_slot *slot = (aiol_slot *)(void *)heap->entries[0].item;
        if (slot->u.when <= heap->entries[0].key)
            return slot->u.when;
        aiol_heap_move(heap, &slot->at.heap, slot->u.when);
    }
    return AIOLOOP_FOREVER;
}

/* Runs a timer that was due, unless an earlier callback of this iteration has moved it: a byte that arrives together
 * with the deadline of an idle time-out still counts. */
AIOLOOP_INTERNAL void aiol_run_due(aioloop *loop, aiol_node *node) {
    aiol_slot *slot = (aiol_slot *)(void *)node;
    bool moved = slot->u.when == AIOLOOP_FOREVER || slot->u.when > loop->due_at;
    slot->state = AIOL_SLOT_READY;
    node->run = aiol_run_call;
    if (AIOL_UNLIKELY(moved)) {
        /* There is room in the heap, since it was taken out of it, unless others have filled it; then it is due all the
         * same. */
        slot->state = AIOL_SLOT_TIMER;
        if (aiol_heap_push(&loop->allocator, &loop->timers, slot->u.when, &slot->at.heap) == 0)
            return;
        slot->state = AIOL_SLOT_READY;
    }
    if ((slot->flags & AIOL_SLOT_EXPLICIT) != 0 || loop->debug)
        aiol_run_call_carefully(loop, node);
    else
        aiol_run_call(loop, node);
}

/* Queues what is due, in order, to run at the end of this iteration. */
AIOLOOP_INTERNAL AIOL_NOINLINE void aiol_timer_move_due(aioloop *loop) {
    aioloop_time now = aiol_loop_now(loop);
    loop->due_at = now;
    while (aiol_timer_next(loop) <= now && loop->timers.count != 0) {
        aiol_slot *slot = (aiol_slot *)(void *)loop->timers.entries[0].item;
        if (slot->u.when == AIOLOOP_FOREVER)
            break;
        aiol_heap_remove(&loop->timers, &slot->at.heap);
        slot->state = AIOL_SLOT_DUE;
        if ((slot->flags & AIOL_SLOT_TASK) == 0) /* a task's says so itself */
            slot->at.node.run = aiol_run_due;
        aiol_queue_push(&loop->due, &slot->at.node);
    }
}

AIOLOOP_INTERNAL void aiol_timer_cancel(aioloop *loop, aiol_slot *slot) {
    aiol_heap_remove(&loop->timers, &slot->at.heap);
    aiol_slot_drop(loop, slot);
}

static AIOL_NOINLINE aioloop_timer_handle aiol_timer_null(aioloop_time when) {
    aioloop_timer_handle handle;
    handle.handle = aiol_handle_null();
    handle.when = when;
    return handle;
}

AIOL_INLINE aioloop_timer_handle aiol_timer_start(aioloop *loop, aiol_slot *slot, aioloop_time when) {
    aioloop_timer_handle handle;
    slot->state = AIOL_SLOT_TIMER;
    slot->u.when = when;
    if (AIOL_UNLIKELY(aiol_heap_push(&loop->allocator, &loop->timers, when, &slot->at.heap) < 0)) {
        aiol_slot_free(loop, slot);
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        return aiol_timer_null(when);
    }
    handle.handle = aiol_handle_of(slot);
    handle.when = when;
    return handle;
}

static AIOL_NOINLINE aioloop_timer_handle aiol_call_at_carefully(aioloop *loop, aioloop_time when, aioloop_callback fn,
                                                                 void *arg, aioloop_context *context) {
    aiol_slot *slot;
    if (loop != NULL && when == AIOLOOP_NOT_A_TIME) {
        aiol_fail(loop, AIOLOOP_EINVAL, "not a time");
        return aiol_timer_null(when);
    }
    slot = aiol_slot_carefully(loop, fn, arg, context);
    return slot == NULL ? aiol_timer_null(when) : aiol_timer_start(loop, slot, when);
}

AIOL_INLINE aioloop_timer_handle aiol_call_at(aioloop *loop, aioloop_time when, aioloop_callback fn, void *arg) {
    if (aiol_slot_easily(loop, fn) && when != AIOLOOP_NOT_A_TIME)
        return aiol_timer_start(loop, aiol_slot_take(loop, fn, arg), when);
    return aiol_call_at_carefully(loop, when, fn, arg, NULL);
}

AIOLOOP_API aioloop_timer_handle(aioloop_call_at)(aioloop *loop, aioloop_time when, aioloop_callback fn, void *arg) {
    return aiol_call_at(loop, when, fn, arg);
}

AIOLOOP_API aioloop_timer_handle(aioloop_call_at_context)(aioloop *loop, aioloop_time when, aioloop_callback fn,
                                                          void *arg, aioloop_context *context) {
    return aiol_call_at_carefully(loop, when, fn, arg, context);
}

AIOLOOP_API aioloop_timer_handle(aioloop_call_later)(aioloop *loop, aioloop_time delay, aioloop_callback fn, void *arg) {
    aioloop_time when = delay;
    if (AIOL_LIKELY(loop != NULL && delay != AIOLOOP_NOT_A_TIME))
        when = aiol_time_add(aiol_loop_now(loop), delay);
    return aiol_call_at(loop, when, fn, arg);
}

AIOLOOP_API int aioloop_timer_handle_reschedule(aioloop_timer_handle *handle, aioloop_time when) {
    aiol_slot *slot;
    if (handle == NULL || when == AIOLOOP_NOT_A_TIME)
        return AIOLOOP_EINVAL;
    slot = aiol_handle_slot(&handle->handle);
    if (slot == NULL || (slot->state != AIOL_SLOT_TIMER && slot->state != AIOL_SLOT_DUE))
        return AIOLOOP_EINVALIDSTATE;
    if (slot->state == AIOL_SLOT_TIMER && when < slot->u.when) {
        aioloop *loop = aiol_slot_loop(slot);
        aiol_heap_move(&loop->timers, &slot->at.heap, when);
    }
    slot->u.when = when;
    handle->when = when;
    return 0;
}

#endif

/* >> src/core/inbox.c */
/*
 * inbox.c - callbacks from other threads.                        (asyncio: loop.call_soon_threadsafe)
 *
 * A stack that any thread pushes to and the loop empties in one go and turns round; no locks. The loop says when it
 * sleeps, and whoever finds it asleep wakes it, once: posts to a busy loop cost no system call.
 *
 * The slots come from a pool of their own: a stack of indices in which half a word names the top and the other half
 * counts, so that a slot that was taken and given back meanwhile is noticed (the ABA problem). Its chunks never move,
 * so reading a slot that another thread has just taken is harmless. A chunk is made by the thread that finds the pool
 * empty.
 *
 * A slot of the pool keeps its index in the lower half of u.when for ever, and how often it was used in the upper;
 * while it is free, `site` is the index + 1 of the next one.
 */
#ifndef AIOL_CORE_INBOX_C
#define AIOL_CORE_INBOX_C

#if AIOLOOP_USE_THREADS

#define AIOL_REMOTE_FIRST 64u  /* slots of chunk 0; each next one has twice as many, */
#define AIOL_REMOTE_DOUBLED 10u /* up to this one, and the rest have as many as it */
#define AIOL_REMOTE_BITS (sizeof(uintptr_t) * 4)
#define AIOL_REMOTE_MASK (((uintptr_t)1 << AIOL_REMOTE_BITS) - 1)

static size_t aiol_remote_chunk_size(unsigned k) {
    return (size_t)AIOL_REMOTE_FIRST << (k < AIOL_REMOTE_DOUBLED ? k : AIOL_REMOTE_DOUBLED);
}

static size_t aiol_remote_chunk_start(unsigned k) {
    unsigned doubled = k < AIOL_REMOTE_DOUBLED + 1 ? k : AIOL_REMOTE_DOUBLED + 1;
    return (((size_t)1 << doubled) - 1) * AIOL_REMOTE_FIRST +
           (size_t)(k - doubled) * aiol_remote_chunk_size(AIOL_REMOTE_DOUBLED);
}

static aiol_slot *aiol_remote_slot(aioloop *loop, size_t index) {
    unsigned k = 0;
    while (index >= aiol_remote_chunk_start(k + 1))
        k++;
    return aiol_slot_chunk_slots((aiol_slot_chunk *)aiol_load(&loop->remote_chunks[k])) + (index - aiol_remote_chunk_start(k));
}

static uint32_t aiol_remote_index(const aiol_slot *slot) {
    return (uint32_t)(uint64_t)slot->u.when;
}

/* What the handle has from the beginning and the slot once the loop has looked: handles of earlier uses may still be
 * asked for, in the loop's thread, while another thread fills the slot anew. */
static uint64_t aiol_remote_sequence(const aiol_slot *slot) {
    return AIOL_HANDLE_REMOTE | (uint64_t)slot->u.when;
}

/* Gives back a chain from first to last, linked through `site` already but for the last. */
static void aiol_remote_push(aioloop *loop, aiol_slot *first, aiol_slot *last) {
    void *top = aiol_load(&loop->remote_free);
    uintptr_t word;
    do {
        aiol_store(&last->site, (uint32_t)((uintptr_t)top & AIOL_REMOTE_MASK));
        word = (((uintptr_t)top >> AIOL_REMOTE_BITS) + 1) << AIOL_REMOTE_BITS | ((uintptr_t)aiol_remote_index(first) + 1);
    } while (!aiol_cas_pointer(&loop->remote_free, &top, (void *)word));
}

static aiol_slot *aiol_remote_pop(aioloop *loop) {
    void *top = aiol_load(&loop->remote_free);
    for (;;) {
        uintptr_t index = (uintptr_t)top & AIOL_REMOTE_MASK;
        aiol_slot *slot;
        uintptr_t word;
        if (index == 0)
            return NULL;
        slot = aiol_remote_slot(loop, index - 1);
        word = (((uintptr_t)top >> AIOL_REMOTE_BITS) + 1) << AIOL_REMOTE_BITS | aiol_load(&slot->site);
        if (aiol_cas_pointer(&loop->remote_free, &top, (void *)word))
            return slot;
    }
}

/* Makes a chunk, keeps its first slot for the caller; NULL when there is no memory. */
static AIOL_NOINLINE aiol_slot *aiol_remote_more(aioloop *loop) {
    unsigned k;
    for (k = 0; k < AIOL_REMOTE_CHUNKS; k++) {
        size_t start = aiol_remote_chunk_start(k);
        size_t size = aiol_remote_chunk_size(k);
        aiol_slot_chunk *chunk;
        aiol_slot *slots;
        void *none = NULL;
        size_t i;
        if (aiol_load(&loop->remote_chunks[k]) != NULL)
            continue;
        if (start + size >= AIOL_REMOTE_MASK)
            return NULL;
        chunk = aiol_slot_chunk_new(loop, size, AIOL_SLOT_REMOTE);
        if (chunk == NULL)
            return NULL;
        slots = aiol_slot_chunk_slots(chunk);
        for (i = 0; i < size; i++) {
            slots[i].u.when = (aioloop_time)(start + i);
            slots[i].site = (uint32_t)(start + i + 2);
        }
        if (aiol_cas_pointer(&loop->remote_chunks[k], &none, chunk)) {
            aiol_remote_push(loop, &slots[1], &slots[size - 1]);
            return &slots[0];
        }
        aiol_slot_chunk_free(loop, chunk); /* another thread was faster; its chunk may have a slot for us */
        slots = aiol_remote_pop(loop);
        if (slots != NULL)
            return slots;
    }
    return NULL;
}

/* A slot to post with; NULL when there is no memory. */
static aiol_slot *aiol_remote_take(aioloop *loop) {
    aiol_slot *slot = aiol_remote_pop(loop);
    return slot != NULL ? slot : aiol_remote_more(loop);
}

/* Gives back one that was not used. */
static void aiol_remote_give_back(aioloop *loop, aiol_slot *slot) {
    aiol_remote_push(loop, slot, slot);
}

/* Puts a slot that has all it needs into the inbox, and wakes the loop if it sleeps. */
static void aiol_inbox_push(aioloop *loop, aiol_slot *slot) {
    void *top = aiol_load(&loop->inbox);
    do {
        slot->at.node.next = (aiol_node *)top;
    } while (!aiol_cas_pointer(&loop->inbox, &top, slot));
    if (aiol_load(&loop->sleeping) != 0) {
        aiol_add_u32(&loop->wakers, 1); /* keeps aioloop_close from taking the engine away */
        if (aiol_exchange_u32(&loop->sleeping, 0) != 0)
            loop->engine->calls->wake(loop->engine);
        aiol_add_u32(&loop->wakers, (uint32_t)-1);
    }
}

/* Posts with a slot that was taken before; cannot fail. When the loop has been closed meanwhile, nobody hears of it. */
static aioloop_handle aiol_remote_post(aioloop *loop, aiol_slot *slot, aioloop_callback fn, void *arg, aioloop_context *context) {
    aioloop_handle handle;
    slot->u.when = (aioloop_time)(((uint64_t)slot->u.when + ((uint64_t)1 << 32)) & (UINT64_MAX >> 2));
    slot->fn.call = fn;
    slot->arg = arg;
    slot->at.node.run = aiol_run_call_carefully;
    aiol_store(&slot->site, 0);
    aiol_slot_capture(slot, context);
    handle.slot = slot; /* now: it may run and be free as soon as it is in the inbox */
    handle.sequence = aiol_remote_sequence(slot);
    aiol_inbox_push(loop, slot);
    return handle;
}

static aioloop_handle aiol_call_soon_threadsafe(aioloop *loop, aioloop_callback fn, void *arg, aioloop_context *context) {
    aiol_slot *slot;
    aiol_thread.site_file = NULL;
    if (loop == NULL || fn == NULL || aiol_load(&loop->posts_refused) != 0)
        return aiol_handle_null();
    slot = aiol_remote_take(loop);
    return slot == NULL ? aiol_handle_null() : aiol_remote_post(loop, slot, fn, arg, context);
}

AIOL_INLINE bool aiol_inbox_full(const aioloop *loop) {
    return aiol_load_relaxed(&loop->inbox) != NULL;
}

/* Queues what other threads have posted. */
AIOLOOP_INTERNAL AIOL_NOINLINE void aiol_inbox_drain(aioloop *loop) {
    aiol_node *node;
    aiol_node *turned = NULL;
    if (aiol_load_relaxed(&loop->inbox) == NULL)
        return;
    node = (aiol_node *)aiol_exchange_pointer(&loop->inbox, NULL);
    while (node != NULL) {
        aiol_node *next = node->next;
        node->next = turned;
        turned = node;
        node = next;
    }
    while (turned != NULL) {
        aiol_node *next = turned->next;
        aiol_slot *slot = (aiol_slot *)(void *)turned;
        slot->sequence = aiol_remote_sequence(slot);
        aiol_queue_push(&loop->ready, turned);
        turned = next;
    }
}

/* Gives the slots back that have run. */
AIOLOOP_INTERNAL void aiol_inbox_return(aioloop *loop) {
    aiol_slot *first = loop->remote_done;
    aiol_slot *last = first;
    if (first == NULL)
        return;
    loop->remote_done = NULL;
    while (last->at.node.next != NULL) {
        aiol_slot *next = (aiol_slot *)(void *)last->at.node.next;
        aiol_store(&last->site, aiol_remote_index(next) + 1);
        last = next;
    }
    aiol_remote_push(loop, first, last);
}

AIOLOOP_INTERNAL void aiol_inbox_free(aioloop *loop) {
    unsigned k;
    for (k = 0; k < AIOL_REMOTE_CHUNKS; k++)
        if (loop->remote_chunks[k] != NULL)
            aiol_slot_chunk_free(loop, (aiol_slot_chunk *)loop->remote_chunks[k]);
}

/* Whether the loop may sleep: says that it does, and looks once more. Undone by aiol_inbox_awake. */
AIOL_INLINE bool aiol_inbox_sleep(aioloop *loop) {
    aiol_store(&loop->sleeping, 1);
    return aiol_load(&loop->inbox) == NULL;
}

/* Nobody need see it at once: who still believes in the sleep only wakes for nothing. */
AIOL_INLINE void aiol_inbox_awake(aioloop *loop) {
    aiol_store_relaxed(&loop->sleeping, 0);
}

/* Whether something was posted that the loop has not seen. */
AIOL_INLINE bool aiol_inbox_waits(aioloop *loop) {
    return aiol_load(&loop->inbox) != NULL;
}

/* No post is accepted any more, and none is about to touch the engine when this returns. */
AIOLOOP_INTERNAL void aiol_inbox_refuse(aioloop *loop) {
    aiol_store(&loop->posts_refused, 1);
    aiol_store(&loop->sleeping, 0);
    while (aiol_load(&loop->wakers) != 0 && loop->process == aiol_process_id())
        ; /* a thread between two instructions of a wake-up; rare and short (a forked child has no such thread) */
}

#else /* AIOLOOP_USE_THREADS */

static aioloop_handle aiol_call_soon_threadsafe(aioloop *loop, aioloop_callback fn, void *arg, aioloop_context *context) {
    (void)fn;
    (void)arg;
    (void)context;
    if (loop != NULL)
        aiol_fail(loop, AIOLOOP_ENOTAVAILABLE, "built without threads");
    return aiol_handle_null();
}

static void aiol_inbox_push(aioloop *loop, aiol_slot *slot) {
    (void)loop;
    (void)slot;
}

static aiol_slot *aiol_remote_take(aioloop *loop) {
    (void)loop;
    return NULL;
}

static void aiol_remote_give_back(aioloop *loop, aiol_slot *slot) {
    (void)loop;
    (void)slot;
}

static aioloop_handle aiol_remote_post(aioloop *loop, aiol_slot *slot, aioloop_callback fn, void *arg, aioloop_context *context) {
    (void)slot;
    return aiol_call_soon_threadsafe(loop, fn, arg, context);
}

#define aiol_inbox_full(loop) ((void)(loop), false)
#define aiol_inbox_drain(loop) ((void)(loop))
#define aiol_inbox_return(loop) ((void)(loop))
#define aiol_inbox_free(loop) ((void)(loop))
#define aiol_inbox_sleep(loop) ((void)(loop), true)
#define aiol_inbox_awake(loop) ((void)(loop))
#define aiol_inbox_waits(loop) ((void)(loop), false)
#define aiol_inbox_refuse(loop) ((void)(loop))

#endif

AIOLOOP_API aioloop_handle(aioloop_call_soon_threadsafe)(aioloop *loop, aioloop_callback fn, void *arg) {
    if (AIOL_KNOWS_ITS_THREAD && loop != NULL && aiol_thread.running == loop)
        return (aioloop_call_soon)(loop, fn, arg);
    return aiol_call_soon_threadsafe(loop, fn, arg, NULL);
}

AIOLOOP_API aioloop_handle(aioloop_call_soon_threadsafe_context)(aioloop *loop, aioloop_callback fn, void *arg,
                                                                 aioloop_context *context) {
    if (AIOL_KNOWS_ITS_THREAD && loop != NULL && aiol_thread.running == loop)
        return aiol_call_soon_carefully(loop, fn, arg, context);
    return aiol_call_soon_threadsafe(loop, fn, arg, context);
}

#endif

/* >> src/core/future.c */
/*
 * future.c - results that are not there yet.                                   (asyncio: futures.py)
 *
 * Done-callbacks are slots, allocated when they are registered, so completing needs no memory: it moves them to the
 * ready queue. A queued one holds a reference.
 *
 * An unclaimed future has one reference that belongs to whoever uses it first; claiming makes it the caller's.
 */
#ifndef AIOL_CORE_FUTURE_C
#define AIOL_CORE_FUTURE_C

#define AIOL_FUTURE_FAILED_STATICALLY(code)                                                        \
    {                                                                                              \
        {NULL, NULL}, NULL, 1, AIOL_FUTURE_FAILED, AIOL_FUTURE_STATIC, code, 0, 0, {NULL}, {NULL}, {NULL}, NULL \
    }

static aioloop_future aiol_future_no_memory = AIOL_FUTURE_FAILED_STATICALLY(AIOLOOP_ENOMEM);
static aioloop_future aiol_future_invalid = AIOL_FUTURE_FAILED_STATICALLY(AIOLOOP_EINVAL);
static aioloop_future aiol_future_closed = AIOL_FUTURE_FAILED_STATICALLY(AIOLOOP_ECLOSED);
static aioloop_future aiol_future_misuse = AIOL_FUTURE_FAILED_STATICALLY(AIOLOOP_EMISUSE);
static aioloop_future aiol_future_not_available = AIOL_FUTURE_FAILED_STATICALLY(AIOLOOP_ENOTAVAILABLE);
static aioloop_future aiol_future_was_cancelled = AIOL_FUTURE_FAILED_STATICALLY(AIOLOOP_ECANCELED);

/* The future for calls that cannot make one. */
AIOLOOP_INTERNAL aioloop_future *aiol_future_failed(int code) {
    switch (code) {
    case AIOLOOP_ENOMEM:
        return &aiol_future_no_memory;
    case AIOLOOP_ECLOSED:
        return &aiol_future_closed;
    case AIOLOOP_EMISUSE:
        return &aiol_future_misuse;
    case AIOLOOP_ENOTAVAILABLE:
        return &aiol_future_not_available;
    case AIOLOOP_ECANCELED:
        return &aiol_future_was_cancelled;
    default:
        return &aiol_future_invalid;
    }
}

/* Debug mode keeps ended futures for a while, as static ones that failed with AIOLOOP_EMISUSE, to notice their use. */
#define AIOL_FUTURE_QUARANTINE 256u

static AIOL_NOINLINE void aiol_future_used_after_end(const aioloop_future *f) {
    if (f->loop != NULL)
        aiol_warn(f->loop, f->site, "a future was used after its last owner had let it go");
}

AIOL_INLINE bool aiol_future_is_static(const aioloop_future *f) {
    if (AIOL_LIKELY((f->flags & AIOL_FUTURE_STATIC) == 0))
        return false;
    aiol_future_used_after_end(f);
    return true;
}

/* ---- the ring of callbacks ----
 *
 * The future has the last one registered, whose next is the first. */

static void aiol_ring_push(aiol_slot **ring, aiol_slot *slot) {
    aiol_slot *last = *ring;
    if (last == NULL) {
        slot->at.node.next = &slot->at.node;
    } else {
        slot->at.node.next = last->at.node.next;
        last->at.node.next = &slot->at.node;
    }
    *ring = slot;
}

/* The first one, or NULL. */
static aiol_slot *aiol_ring_pop(aiol_slot **ring) {
    aiol_slot *last = *ring;
    aiol_slot *first;
    if (last == NULL)
        return NULL;
    first = (aiol_slot *)(void *)last->at.node.next;
    if (first == last)
        *ring = NULL;
    else
        last->at.node.next = first->at.node.next;
    return first;
}

AIOLOOP_INTERNAL void aiol_future_push_callback(aioloop_future *f, aiol_slot *slot) {
    slot->state = AIOL_SLOT_WAITING;
    aiol_ring_push(&f->next.callbacks, slot);
}

/* Takes one out that is there. */
AIOLOOP_INTERNAL void aiol_future_remove_slot(aioloop_future *f, aiol_slot *slot) {
    aiol_slot *before = f->next.callbacks;
    while (before->at.node.next != &slot->at.node)
        before = (aiol_slot *)(void *)before->at.node.next;
    before->at.node.next = slot->at.node.next;
    if (before == slot)
        f->next.callbacks = NULL;
    else if (f->next.callbacks == slot)
        f->next.callbacks = before;
    slot->state = AIOL_SLOT_READY;
}

static void aiol_future_drop_callbacks(aioloop_future *f) {
    aiol_slot *slot;
    while ((slot = aiol_ring_pop(&f->next.callbacks)) != NULL)
        aiol_slot_drop(f->loop, slot);
}

/* ---- making and ending ---- */

AIOLOOP_INTERNAL void aiol_future_init(aioloop *loop, aioloop_future *f) {
    memset(f, 0, sizeof(*f));
    f->loop = loop;
    f->refs = 1;
    f->site = AIOL_UNLIKELY(loop->debug) ? aiol_site_take(loop) : 0;
    aiol_list_append(&loop->futures, &f->link);
}

static aioloop_future *aiol_future_make(aioloop *loop) {
    aioloop_future *f = (aioloop_future *)aiol_alloc(&loop->allocator, sizeof(*f));
    if (f != NULL)
        aiol_future_init(loop, f);
    return f;
}

/* The future of an operation: unclaimed, and with a second reference for the operation, which it gives up with
 * aiol_future_release when it has completed the future. NULL when there is no memory. */
AIOLOOP_INTERNAL aioloop_future *aiol_future_new(aioloop *loop, bool (*cancel)(aioloop_future *, void *), void *owner) {
    aioloop_future *f = aiol_future_make(loop);
    if (f == NULL)
        return NULL;
    f->end.cancel = cancel;
    f->of.owner = owner;
    f->refs = 2;
    f->flags = AIOL_FUTURE_UNCLAIMED | AIOL_FUTURE_OWN;
    return f;
}

/* The same with a place in a line, in none yet. */
AIOLOOP_INTERNAL aiol_waiter *aiol_waiter_new(aioloop *loop, bool (*cancel)(aioloop_future *, void *), void *object) {
    aiol_waiter *w = (aiol_waiter *)aiol_alloc_zero(&loop->allocator, sizeof(*w));
    if (w == NULL)
        return NULL;
    aiol_future_init(loop, &w->future);
    w->future.end.cancel = cancel;
    w->future.of.owner = object;
    w->future.refs = 2;
    w->future.flags = AIOL_FUTURE_UNCLAIMED | AIOL_FUTURE_OWN | AIOL_FUTURE_WAITER;
    w->object = object;
    return w;
}

/* For calls that have nothing to wait for and nothing to give: a future that is done, with 0, the same for all of
 * them. */
AIOLOOP_INTERNAL aioloop_future *aiol_future_nothing(aioloop *loop) {
    if (AIOL_UNLIKELY(loop->nothing == NULL)) {
        loop->nothing = aiol_future_make(loop);
        if (loop->nothing == NULL)
            return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
        loop->nothing->state = AIOL_FUTURE_FINISHED;
        loop->nothing->flags = AIOL_FUTURE_COMMON | AIOL_FUTURE_OWN;
    }
    return loop->nothing;
}

AIOLOOP_API aioloop_future *(aioloop_create_operation)(aioloop *loop, bool (*cancel)(aioloop_future *future, void *owner),
                                                       void *owner) {
    aioloop_future *f;
    if (loop == NULL)
        return &aiol_future_invalid;
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop))
        return &aiol_future_misuse;
    f = aiol_future_new(loop, cancel, owner);
    if (f == NULL)
        return &aiol_future_no_memory;
    f->flags = AIOL_FUTURE_UNCLAIMED;
    return f;
}

AIOLOOP_API aioloop_future *(aioloop_create_future)(aioloop *loop) {
    aioloop_future *f;
    if (loop == NULL)
        return &aiol_future_invalid;
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop))
        return &aiol_future_misuse;
    f = aiol_future_make(loop);
    return f == NULL ? &aiol_future_no_memory : f;
}

static size_t aiol_future_size(const aioloop_future *f) {
    if ((f->flags & AIOL_FUTURE_TASK) != 0)
        return aiol_task_size((const aiol_task *)(const void *)f);
    return (f->flags & AIOL_FUTURE_WAITER) != 0 ? sizeof(aiol_waiter) : sizeof(*f);
}

/* Frees the oldest futures of the quarantine until at most `left` are there. */
AIOLOOP_INTERNAL void aiol_future_free_ended(aioloop *loop, unsigned left) {
    while (loop->ended_count > left) {
        aioloop_future *f = AIOL_CONTAINER(loop->ended.next, aioloop_future, link);
        aiol_list_remove(&f->link);
        loop->ended_count--;
        aiol_free(&loop->allocator, f, aiol_future_size(f));
    }
}

static AIOL_NOINLINE void aiol_future_quarantine(aioloop_future *f) {
    aioloop *loop = f->loop;
    f->flags = AIOL_FUTURE_STATIC | (f->flags & (AIOL_FUTURE_TASK | AIOL_FUTURE_WAITER)); /* its size */
    f->state = AIOL_FUTURE_FAILED;
    f->code = AIOLOOP_EMISUSE;
    f->error = NULL;
    aiol_list_append(&loop->ended, &f->link);
    loop->ended_count++;
    aiol_future_free_ended(loop, AIOL_FUTURE_QUARANTINE);
}

static AIOL_NOINLINE void aiol_waiter_strip(aiol_waiter *w, bool unread) {
    void (*gone)(aiol_waiter *, bool) = w->gone;
    w->gone = NULL;
    aiol_list_remove(&w->link);
    if (gone != NULL)
        gone(w, unread);
}

/* Lets go of everything that runs user code; the future itself stays. */
AIOLOOP_INTERNAL void aiol_future_strip(aioloop_future *f) {
    void (*dispose)(void *) = NULL;
    bool unread = f->state == AIOL_FUTURE_FINISHED && (f->flags & AIOL_FUTURE_TAKEN) == 0;
    if (unread)
        dispose = f->end.dispose;
    f->flags |= AIOL_FUTURE_TAKEN;
    if ((f->flags & AIOL_FUTURE_BORROWS) != 0) {
        aioloop_future *source = f->next.source;
        f->flags &= (uint16_t)~AIOL_FUTURE_BORROWS;
        f->next.source = NULL;
        aiol_future_release(source);
    }
    aiol_future_drop_callbacks(f);
    if ((f->flags & AIOL_FUTURE_TASK) != 0)
        aiol_task_strip((aiol_task *)(void *)f);
    if ((f->flags & AIOL_FUTURE_WAITER) != 0)
        aiol_waiter_strip((aiol_waiter *)(void *)f, unread);
    if (dispose != NULL)
        dispose(f->of.pointer);
}

/* Frees it, whoever still refers to it. Nobody does, or the loop is being freed. */
AIOLOOP_INTERNAL void aiol_future_destroy(aioloop_future *f) {
    aioloop *loop = f->loop;
    f->refs = 1; /* what strip calls may take it up and let it go again */
    aiol_future_strip(f);
    aiol_list_remove(&f->link);
    aiol_error_free(&loop->allocator, f->error);
    if (AIOL_UNLIKELY(loop->debug && !loop->freeing))
        aiol_future_quarantine(f);
    else
        aiol_free(&loop->allocator, f, aiol_future_size(f));
}

static AIOL_NOINLINE void aiol_future_report(aioloop_future *f) {
    const aiol_site *at = aiol_site_at(f->loop, f->site);
    aioloop_exception_context context;
    memset(&context, 0, sizeof(context));
    context.message = "Future error was never retrieved";
    if ((f->flags & AIOL_FUTURE_TASK) != 0) {
        context.message = "Task error was never retrieved";
        context.task = f;
    }
    context.future = f;
    context.detail = aioloop_error_message(f->error);
    if (f->error == NULL)
        context.detail = NULL;
    context.error = f->code;
    if (at != NULL) {
        context.source_file = at->file;
        context.source_line = at->line;
    }
    f->flags |= AIOL_FUTURE_LOOKED_AT;
    aioloop_call_exception_handler(f->loop, &context); /* not as if it were raised now: no code of it ends the run */
}

AIOLOOP_INTERNAL void aiol_future_hold(aioloop_future *f) {
    f->refs++;
}

AIOLOOP_INTERNAL void aiol_future_release(aioloop_future *f) {
    AIOL_ASSERT(f->refs != 0);
    if (AIOL_UNLIKELY(f->loop->freeing))
        return; /* all of them go at once */
    if (f->refs == 1 && f->state == AIOL_FUTURE_FAILED && (f->flags & AIOL_FUTURE_LOOKED_AT) == 0)
        aiol_future_report(f); /* the handler may claim it */
    if (--f->refs == 0)
        aiol_future_destroy(f);
}

/* Begins a use. The user has a reference from then on, the one that was nobody's or one more, and releases it when the
 * use ends. AIOLOOP_EMISUSE, and no reference, for a second use of what was not claimed; the code of a static one. */
AIOLOOP_INTERNAL int aiol_future_use(aioloop_future *f) {
    if (aiol_future_is_static(f))
        return f->code;
    if ((f->flags & AIOL_FUTURE_UNCLAIMED) != 0) {
        f->flags = (uint16_t)((f->flags & ~AIOL_FUTURE_UNCLAIMED) | AIOL_FUTURE_USED);
        return 0;
    }
    if (AIOL_UNLIKELY((f->flags & AIOL_FUTURE_USED) != 0))
        return aiol_fail(f->loop, AIOLOOP_EMISUSE, "a future that is not claimed (aioloop_future_ref) can be used once");
    f->refs++;
    return 0;
}

AIOLOOP_API aioloop_future *aioloop_future_ref(aioloop_future *future) {
    if (future == NULL || aiol_future_is_static(future) || (future->flags & AIOL_FUTURE_COMMON) != 0)
        return future;
    future->flags &= (uint16_t)~AIOL_FUTURE_USED;
    if ((future->flags & AIOL_FUTURE_UNCLAIMED) == 0) {
        future->refs++;
        return future;
    }
    future->flags &= (uint16_t)~AIOL_FUTURE_UNCLAIMED; /* its reference is the caller's now, */
    if (future->loop->task != NULL && &future->loop->task->future == future)
        future->refs++; /* but a task that claims itself is not who created it, and may still use it */
    return future;
}

AIOLOOP_API void aioloop_future_unref(aioloop_future *future) {
    if (future == NULL || aiol_future_is_static(future) || (future->flags & AIOL_FUTURE_COMMON) != 0)
        return;
    if ((future->flags & AIOL_FUTURE_OWN) != 0) /* else it may be the operation that lets go, not the caller */
        future->flags &= (uint16_t)~AIOL_FUTURE_UNCLAIMED;
    aiol_future_release(future);
}

/* ---- completing ---- */

/* Queues the callbacks. AIOLOOP_ECLOSED if there are some and the loop is closed. */
static int aiol_future_done(aioloop_future *f, aiol_future_state state) {
    aioloop *loop = f->loop;
    aiol_slot *slot;
    AIOL_ASSERT(f->state == AIOL_FUTURE_PENDING);
    f->state = (uint8_t)state;
    if (AIOL_UNLIKELY(state == AIOL_FUTURE_FAILED))
        f->flags &= (uint16_t)~AIOL_FUTURE_LOOKED_AT; /* a cancel before hushes what it causes, not this */
    if (f->next.callbacks == NULL)
        return 0;
    if (loop->closed) {
        aiol_future_drop_callbacks(f);
        return aiol_fail(loop, AIOLOOP_ECLOSED, NULL);
    }
    while ((slot = aiol_ring_pop(&f->next.callbacks)) != NULL) {
        slot->state = AIOL_SLOT_READY;
        if ((slot->flags & AIOL_SLOT_HOLDS) == 0) {
            slot->flags |= AIOL_SLOT_HOLDS;
            f->refs++;
        }
        aiol_queue_push(&loop->ready, &slot->at.node);
    }
    return 0;
}

AIOLOOP_INTERNAL int aiol_future_finish(aioloop_future *f, int64_t number, void *pointer, void (*dispose)(void *)) {
    f->number = number;
    f->of.pointer = pointer;
    f->end.dispose = dispose;
    return aiol_future_done(f, AIOL_FUTURE_FINISHED);
}

/* With error (may be NULL; taken over). */
AIOLOOP_INTERNAL void aiol_future_fail_with(aioloop_future *f, int code, struct aioloop_error *error) {
    aiol_error_free(&f->loop->allocator, f->error); /* the message of a cancel */
    f->code = code;
    f->error = error;
    aiol_future_done(f, code == AIOLOOP_ECANCELED ? AIOL_FUTURE_CANCELLED : AIOL_FUTURE_FAILED);
}

/* With a message (may be NULL). Without memory for it the code alone has to do. */
AIOLOOP_INTERNAL int aiol_future_fail(aioloop_future *f, int code, const char *text) {
    struct aioloop_error *last = f->error; /* the message of a cancel; text may be in it */
    f->code = code;
    f->error = text == NULL ? NULL : aiol_error_new(&f->loop->allocator, code, text, 0);
    aiol_error_free(&f->loop->allocator, last);
    return aiol_future_done(f, AIOL_FUTURE_FAILED);
}

AIOLOOP_INTERNAL int aiol_future_end_cancelled(aioloop_future *f, const char *text) {
    f->code = AIOLOOP_ECANCELED;
    if (text != NULL && f->error == NULL)
        f->error = aiol_error_new(&f->loop->allocator, AIOLOOP_ECANCELED, text, 0);
    return aiol_future_done(f, AIOL_FUTURE_CANCELLED);
}

/* It is done, and goes before a cancellation: of a task that waits for it, or its own. */
AIOL_INLINE bool aiol_future_outranks(const aioloop_future *f) {
    return f->state != AIOL_FUTURE_PENDING && (f->flags & AIOL_FUTURE_OUTRANKS) != 0;
}

/* The same as aiol_future_finish, for what has happened and cannot be undone: bytes that were taken from a socket. */
AIOLOOP_INTERNAL int aiol_future_finish_first(aioloop_future *f, int64_t number, void *pointer, void (*dispose)(void *)) {
    f->flags |= AIOL_FUTURE_OUTRANKS;
    return aiol_future_finish(f, number, pointer, dispose);
}

/* Completes f as source is. A result that has to be ended stays the source's, whoever reads it first. */
AIOLOOP_INTERNAL int aiol_future_take_over(aioloop_future *f, aioloop_future *source) {
    if ((source->flags & AIOL_FUTURE_STATIC) == 0) /* those are all threads' */
        source->flags |= AIOL_FUTURE_LOOKED_AT;
    f->flags |= source->flags & AIOL_FUTURE_OUTRANKS;
    if (source->state == AIOL_FUTURE_FINISHED) {
        int err = aiol_future_finish(f, source->number, source->of.pointer, NULL);
        if ((source->flags & AIOL_FUTURE_BORROWS) != 0)
            source = source->next.source; /* so that there are no chains, however deep shields and time-outs are nested */
        if (source->end.dispose != NULL || (source->flags & AIOL_FUTURE_WAITER) != 0) {
            aiol_future_hold(source);
            f->flags |= AIOL_FUTURE_BORROWS;
            f->next.source = source;
        }
        return err;
    }
    f->code = source->code;
    if (source->error != NULL || source->state == AIOL_FUTURE_FAILED) { /* else the message of its own cancel stays */
        aiol_error_free(&f->loop->allocator, f->error);
        f->error = aiol_error_ref(source->error);
    }
    return aiol_future_done(f, (aiol_future_state)source->state);
}

/* 0 if the user may complete it. */
static int aiol_future_settable(const aioloop_future *f) {
    if (f == NULL)
        return AIOLOOP_EINVAL;
    if (f->loop != NULL && AIOL_UNLIKELY(f->loop->debug) && aiol_wrong_thread(f->loop))
        return AIOLOOP_EMISUSE;
    if (f->state != AIOL_FUTURE_PENDING)
        return AIOLOOP_EINVALIDSTATE;
    return (f->flags & AIOL_FUTURE_OWN) != 0 ? AIOLOOP_EMISUSE : 0;
}

AIOLOOP_API int aioloop_future_set_result(aioloop_future *future, int64_t number, void *pointer, void (*dispose)(void *pointer)) {
    int err = aiol_future_settable(future);
    if (err == 0 && number < 0)
        err = AIOLOOP_EINVAL;
    return err < 0 ? err : aiol_future_finish(future, number, pointer, dispose);
}

AIOLOOP_API int aioloop_future_set_grant(aioloop_future *future, int64_t number, void *pointer, void (*dispose)(void *pointer)) {
    int err = aiol_future_settable(future);
    if (err == 0 && number < 0)
        err = AIOLOOP_EINVAL;
    if (err < 0)
        return err;
    future->flags |= AIOL_FUTURE_GRANT;
    return aiol_future_finish(future, number, pointer, dispose);
}

AIOLOOP_API int aioloop_future_set_cancelled(aioloop_future *future) {
    int err = aiol_future_settable(future);
    return err < 0 ? err : aiol_future_end_cancelled(future, NULL);
}

AIOLOOP_API int aioloop_future_copy(aioloop_future *target, aioloop_future *source) {
    int err = aiol_future_settable(target);
    if (err == 0 && source == NULL)
        err = AIOLOOP_EINVAL;
    if (err == 0 && source->state == AIOL_FUTURE_PENDING)
        err = AIOLOOP_EINVALIDSTATE;
    if (err == 0 && !aiol_future_is_static(source) && source->loop != target->loop)
        err = aiol_fail(target->loop, AIOLOOP_EINVAL, "the future belongs to another loop");
    return err < 0 ? err : aiol_future_take_over(target, source);
}

AIOLOOP_API int aioloop_future_set_exception(aioloop_future *future, int code, const char *format, ...) {
    char text[AIOL_ERROR_TEXT_SIZE];
    va_list arguments;
    int err = aiol_future_settable(future);
    if (err == 0 && (code >= 0 || code == AIOLOOP_ECANCELED))
        err = AIOLOOP_EINVAL;
    if (err < 0)
        return err;
    if (format == NULL)
        return aiol_future_fail(future, code, NULL);
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    return aiol_future_fail(future, code, text);
}

AIOLOOP_API bool aioloop_future_cancel(aioloop_future *future, const char *message) {
    aiol_task *waiter = NULL;
    if (future == NULL || aiol_future_is_static(future))
        return false;
    if (AIOL_UNLIKELY(future->loop->debug) && aiol_wrong_thread(future->loop))
        return false;
    if (future->state != AIOL_FUTURE_PENDING) {
        future->flags |= AIOL_FUTURE_LOOKED_AT;
        return false;
    }
    future = aiol_task_cancel(future, message, &waiter);
    if (future == NULL)
        return true;
    if (future->end.cancel != NULL) {
        bool now;
        aiol_future_hold(future); /* the operation may let go of it */
        now = future->end.cancel(future, future->of.owner);
        if (now && future->state == AIOL_FUTURE_PENDING)
            aiol_future_end_cancelled(future, message);
        else if (message != NULL && future->error == NULL &&
                 (future->state == AIOL_FUTURE_PENDING || future->state == AIOL_FUTURE_CANCELLED))
            future->error = aiol_error_new(&future->loop->allocator, AIOLOOP_ECANCELED, message, 0);
        if (waiter != NULL && aiol_future_outranks(future))
            waiter->flags |= AIOL_TASK_CANCEL_LATER;
        aiol_future_release(future);
        return true;
    }
    aiol_future_end_cancelled(future, message);
    return true;
}

/* ---- asking ---- */

AIOLOOP_API bool aioloop_future_done(const aioloop_future *future) {
    return future != NULL && future->state != AIOL_FUTURE_PENDING;
}

AIOLOOP_API bool aioloop_future_cancelled(const aioloop_future *future) {
    return future != NULL && future->state == AIOL_FUTURE_CANCELLED;
}

AIOLOOP_API aioloop *aioloop_future_get_loop(const aioloop_future *future) {
    return future == NULL ? NULL : future->loop;
}

AIOLOOP_API int64_t aioloop_future_result(aioloop_future *future, void *out) {
    if (future == NULL)
        return AIOLOOP_EINVAL;
    if (aiol_future_is_static(future))
        return future->code;
    if (future->state == AIOL_FUTURE_PENDING)
        return AIOLOOP_EINVALIDSTATE;
    future->flags |= AIOL_FUTURE_LOOKED_AT;
    if (future->state != AIOL_FUTURE_FINISHED)
        return future->code;
    if (AIOL_UNLIKELY((future->flags & AIOL_FUTURE_BORROWS) != 0))
        return aioloop_future_result(future->next.source, out);
    if (out != NULL)
        aiol_store_pointer(out, future->of.pointer);
    future->flags |= AIOL_FUTURE_READ;
    if (out != NULL || (future->flags & AIOL_FUTURE_GRANT) != 0)
        future->flags |= AIOL_FUTURE_TAKEN;
    return future->number;
}

AIOLOOP_API int aioloop_future_exception(aioloop_future *future) {
    if (future == NULL)
        return AIOLOOP_EINVAL;
    if (aiol_future_is_static(future))
        return future->code;
    if (future->state == AIOL_FUTURE_PENDING)
        return AIOLOOP_EINVALIDSTATE;
    future->flags |= AIOL_FUTURE_LOOKED_AT;
    return future->code;
}

static const struct aioloop_error aiol_static_errors[] = {{AIOLOOP_ENOMEM, 1, 0, NULL, NULL},
                                                         {AIOLOOP_EINVAL, 1, 0, NULL, NULL},
                                                         {AIOLOOP_ECLOSED, 1, 0, NULL, NULL},
                                                         {AIOLOOP_EMISUSE, 1, 0, NULL, NULL},
                                                         {AIOLOOP_ENOTAVAILABLE, 1, 0, NULL, NULL},
                                                         {AIOLOOP_ECANCELED, 1, 0, NULL, NULL}};

AIOLOOP_API const aioloop_error *aioloop_future_error(aioloop_future *future) {
    size_t i = 0;
    if (future == NULL)
        return NULL;
    if (aiol_future_is_static(future)) {
        while (aiol_static_errors[i].code != future->code)
            i++;
        return &aiol_static_errors[i];
    }
    if (future->state == AIOL_FUTURE_PENDING || future->state == AIOL_FUTURE_FINISHED)
        return NULL;
    future->flags |= AIOL_FUTURE_LOOKED_AT;
    if (future->error == NULL) /* made when asked for; without memory there is no message to give */
        future->error = aiol_error_new(&future->loop->allocator, future->code, NULL, 0);
    return future->error != NULL ? future->error : &aiol_static_errors[0];
}

/* ---- callbacks ---- */

AIOLOOP_INTERNAL void aiol_run_future(aioloop *loop, aiol_node *node) {
    aiol_slot *slot = (aiol_slot *)(void *)node;
    aioloop_future *f = slot->u.future;
    aiol_frame frame = aiol_enter(loop, aiol_slot_place(slot));
    aioloop_time since = AIOL_UNLIKELY(loop->debug) ? aiol_loop_now(loop) : 0;
    slot->fn.future(f, slot->arg);
    if (AIOL_UNLIKELY(since != 0))
        aiol_slot_slow(loop, slot, since);
    if (AIOL_UNLIKELY(loop->attention))
        aiol_slot_attend(loop, slot, f);
    aiol_leave(loop, &frame);
    aiol_slot_free(loop, slot);
    aiol_future_release(f);
}

/* Registers a callback in a slot that the caller had in reserve; needs no memory. */
AIOLOOP_INTERNAL void aiol_future_attach(aioloop_future *f, aiol_slot *slot, aioloop_future_callback fn, void *arg) {
    aioloop *loop = f->loop;
    slot->sequence = ++loop->sequence;
    slot->fn.future = fn;
    slot->arg = arg;
    slot->u.future = f;
    slot->site = AIOL_UNLIKELY(loop->debug) ? aiol_site_take(loop) : 0;
    slot->at.node.run = aiol_run_future;
    if (f->state == AIOL_FUTURE_PENDING) {
        aiol_future_push_callback(f, slot);
        return;
    }
    slot->state = AIOL_SLOT_READY;
    if ((slot->flags & AIOL_SLOT_HOLDS) == 0) {
        slot->flags |= AIOL_SLOT_HOLDS;
        f->refs++;
    }
    aiol_queue_push(&loop->ready, &slot->at.node);
}

static int aiol_future_callback(aioloop_future *f, aioloop_future_callback fn, void *arg, aioloop_context *context,
                                uint8_t flags) {
    aioloop *loop = f->loop;
    aiol_slot *slot;
    if (aiol_future_is_static(f))
        return f->code;
    if (loop->careful) {
        int err = aiol_check(loop);
        if (err < 0)
            return err;
    }
    if (fn == NULL)
        return AIOLOOP_EINVAL;
    slot = aiol_slot_new(loop);
    if (slot == NULL)
        return aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    slot->flags |= flags;
    aiol_slot_capture(slot, context);
    aiol_future_attach(f, slot, fn, arg);
    return 0;
}

AIOLOOP_API int(aioloop_future_add_done_callback)(aioloop_future *future, aioloop_future_callback fn, void *arg) {
    return future == NULL ? AIOLOOP_EINVAL : aiol_future_callback(future, fn, arg, NULL, 0);
}

AIOLOOP_API int aioloop_future_add_done_callback_context(aioloop_future *future, aioloop_future_callback fn, void *arg,
                                                         aioloop_context *context) {
    return future == NULL ? AIOLOOP_EINVAL : aiol_future_callback(future, fn, arg, context, 0);
}

AIOLOOP_API int(aioloop_future_then)(aioloop_future *future, aioloop_future_callback fn, void *arg) {
    int err = future == NULL ? AIOLOOP_EINVAL : aiol_future_use(future);
    if (err < 0)
        return err;
    err = aiol_future_callback(future, fn, arg, NULL, AIOL_SLOT_HOLDS);
    if (err < 0)
        aiol_future_release(future);
    return err;
}

AIOLOOP_API size_t aioloop_future_remove_done_callback(aioloop_future *future, aioloop_future_callback fn, void *arg) {
    aiol_slot *slot;
    aiol_queue dropped;
    aiol_slot *all;
    size_t removed = 0;
    if (future == NULL || aiol_future_is_static(future) || future->state != AIOL_FUTURE_PENDING)
        return 0; /* done: next may be something else */
    aiol_queue_init(&dropped);
    all = future->next.callbacks;
    future->next.callbacks = NULL;
    while ((slot = aiol_ring_pop(&all)) != NULL) {
        if ((slot->flags & AIOL_SLOT_TASK) == 0 && slot->fn.future == fn && slot->arg == arg) {
            removed++;
            aiol_queue_push(&dropped, &slot->at.node);
        } else {
            aiol_ring_push(&future->next.callbacks, slot);
        }
    }
    aiol_future_hold(future); /* the ring is right again; what follows may run user code */
    while ((slot = (aiol_slot *)(void *)aiol_queue_pop(&dropped)) != NULL) {
        bool held = (slot->flags & AIOL_SLOT_HOLDS) != 0;
        aiol_slot_free(future->loop, slot);
        if (held)
            aiol_future_release(future);
    }
    aiol_future_release(future);
    return removed;
}

#endif

/* >> src/core/coro.c */
/*
 * coro.c - coroutines with a stack of their own.
 *
 * A coroutine lies at the top of its stack. It runs when a task's step enters it, and goes back to whoever that was
 * when it waits or ends; entering nests (an eager task is entered from its creator's stack). One that has ended waits
 * to be used again: its stack is parked at the end of a loop that runs one coroutine after another.
 *
 * Stacks come from pools, one for each size; a pool takes address space for several at once, a slab. A region below
 * each stack catches an overflow. The busy ends of neighbours lie at different places of a page, or they would all
 * want the same few lines of the cache. A free stack keeps the memory that it has touched, until it was not needed for
 * AIOL_STACKS_AGE uses of others; then it is cold, and used after the warm ones.
 */
#ifndef AIOL_CORE_CORO_C
#define AIOL_CORE_CORO_C

#if AIOLOOP_USE_COROUTINES

#define AIOL_STACK_SIZE (sizeof(void *) == 8 ? (size_t)262144 : (size_t)65536)
#define AIOL_STACK_LEAST 512u /* besides what the library needs of it */
#define AIOL_STACKS_AGE 4096u
#define AIOL_STACK_COLOUR 320u
#define AIOL_STACK_COLOURS 2048u /* bytes over which they are spread */
#define AIOL_STACK_GUARD ((size_t)65536) /* below each stack, of any page size: what a large frame may step over is not less */
#define AIOL_STACKS_FIRST 4u /* stacks in the first slab of a pool */
#define AIOL_STACKS_MOST ((size_t)1 << 24) /* bytes of a slab; a larger stack is mapped alone */
#define AIOL_STACKS_GUARDED 10000u /* with a mapping of its own below each */

enum { AIOL_CORO_POOLED, AIOL_CORO_ALONE, AIOL_CORO_GIVEN };

typedef struct aiol_coro {
    aiol_fiber fiber;
    aiol_link link; /* free */
    struct aiol_coro *outer; /* on whose stack it was entered; NULL: the loop's */
    aioloop_coroutine fn;
    void *arg;
    void *out;
    int64_t result;
    void (*dispose)(void *arg);
    void (*request)(void *arg); /* to be done on the stack below */
    void *request_arg;
    struct aiol_stack_pool *pool;
    char *memory; /* of a stack alone */
    size_t memory_size;
    uint8_t kind;
    bool guarded;    /* an overflow is a fault */
    bool by_mapping; /* and that took one */
    bool ended;
} aiol_coro;

typedef struct aiol_slab {
    struct aiol_slab *next;
    char *memory;
    size_t count; /* of stacks */
    size_t used;
} aiol_slab;

typedef struct aiol_stack_pool {
    struct aiol_stack_pool *next;
    size_t size; /* of a stack and the page below it */
    aiol_link warm; /* the last one is the next to be used */
    aiol_link cold;
    size_t warm_count;
    size_t lowest;  /* what warm_count was at least during this age */
    size_t surplus; /* how many of the warm ones are to give their memory back */
    unsigned age;   /* in stacks that were freed */
    aiol_slab *slabs; /* the newest first */
} aiol_stack_pool;

typedef struct aiol_stacks {
    aiol_stack_pool *pools;
    aiol_stack_pool *usual; /* of those without a size of their own; NULL until the first */
    unsigned guards; /* mappings that are guards */
    bool watched;    /* debug mode: this run has seen to it that an overflow is told */
    void *watch;     /* where that is done */
} aiol_stacks;

/* ---- overflows ---- */

/* Asked by the handler of a signal. */
static const char *aiol_stacks_fault(const char *address) {
    const aioloop *loop = aiol_thread.running;
    const aiol_coro *co = loop == NULL ? NULL : loop->coro;
    if (co == NULL || !co->guarded || address >= co->fiber.base || (size_t)(co->fiber.base - address) > AIOL_STACK_GUARD)
        return NULL;
    return "aioloop: broken: the stack of a coroutine has overflowed: give its task a larger stack_size\n";
}

/* Debug mode: from now on until the run ends an overflow in this thread is told. */
static AIOL_NOINLINE void aiol_stacks_watch(aioloop *loop) {
    aiol_stacks *stacks = loop->stacks;
    if (stacks->watched)
        return;
    stacks->watched = true;
    if (stacks->watch == NULL)
        stacks->watch = aiol_alloc(&loop->allocator, AIOL_STACK_WATCH_SIZE);
    if (stacks->watch != NULL)
        aiol_stack_watch(stacks->watch, aiol_stacks_fault);
}

/* At the end of a run: the thread is the program's again. */
AIOLOOP_INTERNAL void aiol_stacks_unwatch(aioloop *loop) {
    if (loop->stacks == NULL || !loop->stacks->watched)
        return;
    loop->stacks->watched = false;
    aiol_stack_unwatch(loop->stacks->watch);
}

/* ---- running ---- */

/* What runs on each stack, for ever: the coroutines that are given to it. */
static void aiol_coro_entry(void) {
    aiol_coro *co = aiol_thread.running->coro;
    aiol_fiber_arrive(&co->fiber);
    for (;;) {
        co->result = co->fn(aiol_thread.running, co->arg, &co->out);
        co->ended = true;
        aiol_fiber_leave(&co->fiber);
    }
}

/* Lets it run until it waits or ends. What it asks to be done on this stack is done meanwhile. */
static void aiol_coro_enter(aioloop *loop, aiol_coro *co) {
    co->outer = loop->coro;
    if (AIOL_UNLIKELY(loop->debug))
        aiol_stacks_watch(loop);
    for (;;) {
        loop->coro = co;
        aiol_fiber_enter(&co->fiber);
        loop->coro = co->outer;
        if (AIOL_LIKELY(co->request == NULL))
            return;
        aiol_on_loop_stack(loop, co->request, co->request_arg);
        co->request = NULL;
    }
}

/* Goes back to whoever entered it, until it is entered again. */
AIOL_INLINE void aiol_coro_leave(aiol_coro *co) {
    aiol_fiber_leave(&co->fiber);
}

/* Calls fn on the loop's stack, which is large, whichever is the current one. fn must not wait. */
AIOLOOP_INTERNAL void aiol_on_loop_stack(aioloop *loop, void (*fn)(void *arg), void *arg) {
    aiol_coro *co = loop->coro;
    if (co == NULL || aiol_thread.running != loop) {
        fn(arg);
        return;
    }
    co->request = fn;
    co->request_arg = arg;
    aiol_fiber_leave(&co->fiber);
}

/* ---- stacks ---- */

static aiol_stacks *aiol_stacks_of(aioloop *loop) {
    if (loop->stacks == NULL)
        loop->stacks = (aiol_stacks *)aiol_alloc_zero(&loop->allocator, sizeof(*loop->stacks));
    return loop->stacks;
}

/* A coroutine at the top of memory, or so many bytes below it, with a guard at its lower end if it is the loop's
 * own. */
static aiol_coro *aiol_coro_place(aioloop *loop, char *memory, size_t size, size_t below, uint8_t kind) {
    size_t guard = kind == AIOL_CORO_GIVEN || aiol_page_size() == 0 ? 0 : AIOL_STACK_GUARD;
    char *top = memory + size - below - sizeof(aiol_coro);
    aiol_coro *co = (aiol_coro *)(void *)(top - ((uintptr_t)top & 63));
    memset(co, 0, sizeof(*co));
    co->kind = kind;
    if (guard != 0) {
        int how = aiol_stack_guard(memory, guard, loop->stacks->guards < AIOL_STACKS_GUARDED);
        co->guarded = how >= 0;
        co->by_mapping = how == 1;
        loop->stacks->guards += co->by_mapping;
    }
    aiol_fiber_begin(&co->fiber, memory + guard, (size_t)((char *)co - memory) - guard, aiol_coro_entry);
    return co;
}

/* The pool of stacks of a size, made if need be. */
static aiol_stack_pool *aiol_stacks_pool(aioloop *loop, size_t size) {
    aiol_stacks *stacks = loop->stacks;
    aiol_stack_pool *pool = stacks->pools;
    while (pool != NULL && pool->size != size)
        pool = pool->next;
    if (pool == NULL) {
        pool = (aiol_stack_pool *)aiol_alloc_zero(&loop->allocator, sizeof(*pool));
        if (pool == NULL)
            return NULL;
        pool->size = size;
        aiol_list_init(&pool->warm);
        aiol_list_init(&pool->cold);
        pool->next = stacks->pools;
        stacks->pools = pool;
    }
    return pool;
}

/* The next stack of a slab, or of a new one, twice as large as the last. */
static aiol_coro *aiol_stacks_carve(aioloop *loop, aiol_stack_pool *pool) {
    aiol_slab *slab = pool->slabs;
    size_t below = pool->size - AIOL_STACK_GUARD < 8 * AIOL_STACK_COLOURS ? 0 : AIOL_STACK_COLOUR;
    aiol_coro *co;
    if (slab == NULL || slab->used == slab->count) {
        size_t count = aiol_min_size(slab == NULL ? AIOL_STACKS_FIRST : slab->count * 2, AIOL_STACKS_MOST / pool->size + 1);
        slab = (aiol_slab *)aiol_alloc(&loop->allocator, sizeof(*slab));
        if (slab == NULL)
            return NULL;
        slab->memory = (char *)aiol_stack_map(&loop->allocator, count * pool->size);
        if (slab->memory == NULL) {
            aiol_free(&loop->allocator, slab, sizeof(*slab));
            return NULL;
        }
        slab->count = count;
        slab->used = 0;
        slab->next = pool->slabs;
        pool->slabs = slab;
    }
    co = aiol_coro_place(loop, slab->memory + slab->used * pool->size, pool->size,
                         slab->used * below % AIOL_STACK_COLOURS, AIOL_CORO_POOLED);
    co->pool = pool;
    slab->used++;
    return co;
}

/* A stack that goes when its coroutine does: a huge one, or any where memory is all real. */
static aiol_coro *aiol_stacks_map(aioloop *loop, size_t size) {
    char *memory = (char *)aiol_stack_map(&loop->allocator, size);
    aiol_coro *co;
    if (memory == NULL)
        return NULL;
    co = aiol_coro_place(loop, memory, size, 0, AIOL_CORO_ALONE);
    co->memory = memory;
    co->memory_size = size;
    return co;
}

/* One of the pool's: what ran last is warm, what never ran is last. */
static aiol_coro *aiol_stacks_take(aioloop *loop, aiol_stack_pool *pool) {
    aiol_coro *co;
    if (pool == NULL)
        return NULL;
    if (AIOL_LIKELY(!aiol_list_empty(&pool->warm))) {
        co = AIOL_CONTAINER(pool->warm.prev, aiol_coro, link);
        if (--pool->warm_count < pool->lowest)
            pool->lowest = pool->warm_count;
    } else if (!aiol_list_empty(&pool->cold)) {
        co = AIOL_CONTAINER(pool->cold.prev, aiol_coro, link);
    } else {
        return aiol_stacks_carve(loop, pool);
    }
    aiol_list_remove(&co->link);
    aiol_fiber_renew(&co->fiber, aiol_coro_entry);
    return co;
}

/* A coroutine that is to run fn(arg); NULL when there is no memory. The stack's size was checked. */
static aiol_coro *aiol_coro_new(aioloop *loop, void *stack, size_t size) {
    size_t page;
    size_t rounded;
    if (stack == NULL && size == 0 && loop->stacks != NULL && loop->stacks->usual != NULL)
        return aiol_stacks_take(loop, loop->stacks->usual);
    if (aiol_stacks_of(loop) == NULL)
        return NULL;
    if (stack != NULL)
        return aiol_coro_place(loop, (char *)stack, size, 0, AIOL_CORO_GIVEN);
    page = aiol_page_size();
    if (size == 0 && page != 0) {
        loop->stacks->usual = aiol_stacks_pool(loop, AIOL_STACK_SIZE + AIOL_STACK_GUARD);
        return aiol_stacks_take(loop, loop->stacks->usual);
    }
    if (size == 0)
        size = AIOL_STACK_SIZE;
    if (page == 0)
        return aiol_stacks_map(loop, size);
    if (size > SIZE_MAX / 4)
        return NULL;
    if (size > AIOL_STACKS_MOST)
        return aiol_stacks_map(loop, (size + page - 1) / page * page + AIOL_STACK_GUARD);
    size += AIOL_STACK_COLOURS;
    for (rounded = page; rounded < size; rounded *= 2) /* so that there are few pools; what is not touched is free */
        continue;
    return aiol_stacks_take(loop, aiol_stacks_pool(loop, rounded + AIOL_STACK_GUARD));
}

/* Gives back what a free stack has touched, but for its upper end, where it is parked. */
static void aiol_coro_cool(aiol_coro *co) {
    char *end = (char *)co - 2048;
    end -= (uintptr_t)end % aiol_page_size();
    if (end > co->fiber.base)
        aiol_stack_discard(co->fiber.base, (size_t)(end - co->fiber.base));
}

/* An age is over: what was not needed in it gives its memory back. */
static AIOL_NOINLINE void aiol_stacks_grow_old(aiol_stack_pool *pool) {
    pool->surplus = pool->lowest;
    pool->lowest = pool->warm_count;
    pool->age = 0;
}

/* A few at a time, for each is a system call: those that were not used for longest. */
static AIOL_NOINLINE void aiol_stacks_cool(aiol_stack_pool *pool) {
    int i;
    pool->surplus = aiol_min_size(pool->surplus, pool->warm_count);
    for (i = 0; i < 2 && pool->surplus != 0; i++) {
        aiol_coro *co = AIOL_CONTAINER(pool->warm.next, aiol_coro, link);
        aiol_list_remove(&co->link);
        aiol_list_append(&pool->cold, &co->link);
        aiol_coro_cool(co);
        pool->warm_count--;
        pool->surplus--;
    }
    pool->lowest = aiol_min_size(pool->lowest, pool->warm_count);
}

/* It has ended, or never began; dropped: it waits, and its stack cannot be used again. */
static void aiol_coro_free(aioloop *loop, aiol_coro *co, bool dropped) {
    aiol_stack_pool *pool = co->pool;
    if (pool != NULL && !dropped) {
        aiol_list_append(&pool->warm, &co->link);
        pool->warm_count++;
        if (AIOL_UNLIKELY(++pool->age == AIOL_STACKS_AGE))
            aiol_stacks_grow_old(pool);
        if (AIOL_UNLIKELY(pool->surplus != 0))
            aiol_stacks_cool(pool);
        return;
    }
    if (dropped && loop->coro != NULL)
        return; /* a forked child frees the loop on one of its stacks: all of them stay */
    aiol_fiber_end(&co->fiber);
    if (co->kind == AIOL_CORO_ALONE) {
        loop->stacks->guards -= co->by_mapping;
        aiol_stack_unmap(&loop->allocator, co->memory, co->memory_size);
    }
}

static void aiol_stacks_free_list(aiol_link *list) {
    aiol_link *link;
    for (link = list->next; link != list; link = link->next)
        aiol_fiber_end(&AIOL_CONTAINER(link, aiol_coro, link)->fiber);
}

static void aiol_stacks_free_pool(aioloop *loop, aiol_stack_pool *pool) {
    bool stays = loop->coro != NULL; /* this runs on one of them */
    if (!stays) {
        aiol_stacks_free_list(&pool->warm);
        aiol_stacks_free_list(&pool->cold);
    }
    while (pool->slabs != NULL) {
        aiol_slab *slab = pool->slabs;
        pool->slabs = slab->next;
        if (!stays)
            aiol_stack_unmap(&loop->allocator, slab->memory, slab->count * pool->size);
        aiol_free(&loop->allocator, slab, sizeof(*slab));
    }
    aiol_free(&loop->allocator, pool, sizeof(*pool));
}

/* With the loop; every task is gone. A forked child may do so on one of the stacks, and then their memory stays. */
AIOLOOP_INTERNAL void aiol_stacks_free(aioloop *loop) {
    aiol_stacks *stacks = loop->stacks;
    if (stacks == NULL)
        return;
    aiol_stacks_unwatch(loop);
    while (stacks->pools != NULL) {
        aiol_stack_pool *pool = stacks->pools;
        stacks->pools = pool->next;
        aiol_stacks_free_pool(loop, pool);
    }
    if (stacks->watch != NULL)
        aiol_free(&loop->allocator, stacks->watch, AIOL_STACK_WATCH_SIZE);
    aiol_free(&loop->allocator, stacks, sizeof(*stacks));
    loop->stacks = NULL;
}

#else

AIOLOOP_INTERNAL void aiol_on_loop_stack(aioloop *loop, void (*fn)(void *arg), void *arg) {
    (void)loop;
    fn(arg);
}

AIOLOOP_INTERNAL void aiol_stacks_unwatch(aioloop *loop) {
    (void)loop;
}

AIOLOOP_INTERNAL void aiol_stacks_free(aioloop *loop) {
    (void)loop;
}

#endif

#endif

/* >> src/core/task.c */
/*
 * task.c - coroutines, step by step.                                              (asyncio: tasks.py)
 *
 * A step runs the coroutine from one wait to the next. Waiting puts the task's slot among the callbacks of the future
 * (or into the heap of timers), and completing that future puts it into the ready queue, as any callback; so neither
 * needs memory.
 *
 * The outcome of a wait is fetched when the coroutine goes on: slot.u.future is the future it waited for, with a
 * reference, and a static one stands there for what is no future's: a cancellation, a sleep that is over, misuse.
 *
 * A stackful task is one whose step enters its stack; otherwise there is no difference.
 */
#ifndef AIOL_CORE_TASK_C
#define AIOL_CORE_TASK_C

/* A time-out that the task has entered: scope.c's. */
typedef struct aiol_scope {
    struct aiol_scope *outer;
    struct aiol_task *task;
    aioloop_timer_handle timer;
    int cancelling; /* when it was entered */
    bool due;       /* it has cancelled the task */
} aiol_scope;

typedef struct aiol_task_extra {
    aiol_scope *scopes; /* the innermost first */
    char *name;
    size_t name_size;
    aioloop_timer_handle timer;
    const void *waits_at; /* debug mode: the place of its last wait */
    struct aioloop_generator *generator; /* whose body it is */
} aiol_task_extra;

static aioloop_future aiol_future_slept = {{NULL, NULL}, NULL, 1, AIOL_FUTURE_FINISHED, AIOL_FUTURE_STATIC, 0, 0, 0, {NULL}, {NULL}, {NULL}, NULL};

AIOL_INLINE aiol_task *aiol_task_of_slot(aiol_slot *slot) {
    return AIOL_CONTAINER(slot, aiol_task, slot);
}

/* The task, or NULL for another future. */
AIOL_INLINE aiol_task *aiol_task_of(const aioloop_future *f) {
    if (f == NULL || (f->flags & (AIOL_FUTURE_TASK | AIOL_FUTURE_STATIC)) != AIOL_FUTURE_TASK)
        return NULL;
    return (aiol_task *)(uintptr_t)f;
}

#define AIOL_TASK_ROOM ((sizeof(aiol_task) + 15) / 16 * 16) /* where a copy lies */

AIOLOOP_INTERNAL size_t aiol_task_size(const aiol_task *task) {
    return task->copy_size == 0 ? sizeof(*task) : AIOL_TASK_ROOM + task->copy_size;
}

/* NULL when there is no memory. */
static AIOL_NOINLINE aiol_task_extra *aiol_task_extra_of(aiol_task *task) {
    if (task->extra == NULL)
        task->extra = (aiol_task_extra *)aiol_alloc_zero(&task->future.loop->allocator, sizeof(aiol_task_extra));
    return task->extra;
}

/* ---- the end ---- */

/* Lets go of the innermost scope. */
static void aiol_scope_free(aiol_task *task) {
    aiol_scope *scope = task->extra->scopes;
    task->extra->scopes = scope->outer;
    aioloop_timer_handle_cancel(&scope->timer);
    aiol_free(&task->future.loop->allocator, scope, sizeof(*scope));
}

/* The innermost scope was not left, and nobody can leave it any more. */
static AIOL_NOINLINE void aiol_task_drop_scope(aiol_task *task) {
    char name[64];
    if (task->extra->scopes->due)
        (void)aioloop_task_uncancel(&task->future);
    if (task->future.loop->debug)
        aiol_warn(task->future.loop, task->future.site,
                  "%s has not left a time-out scope that it entered: aioloop_timeout_exit must be called on every way out",
                  aiol_task_name(task, name, sizeof(name)));
    aiol_scope_free(task);
}

/* Lets go of the coroutine: of its stack, its argument, its context. */
static void aiol_task_end_coroutine(aiol_task *task, bool dropped) {
    aioloop *loop = task->future.loop;
    void (*dispose)(void *) = NULL;
    void *arg = task->slot.arg;
    task->flags |= AIOL_TASK_ENDED;
    while (AIOL_UNLIKELY(task->extra != NULL && task->extra->scopes != NULL)) {
        if (dropped)
            aiol_scope_free(task);
        else
            aiol_task_drop_scope(task);
    }
#if AIOLOOP_USE_COROUTINES
    if ((task->flags & AIOL_TASK_STACKFUL) != 0) {
        aiol_coro *co = (aiol_coro *)arg;
        dispose = co->dispose;
        arg = co->arg;
        aiol_coro_free(loop, co, dropped);
    } else
#endif
    {
        dispose = ((aioloop_frame *)arg)->dispose;
    }
    task->slot.arg = NULL;
    if (dispose != NULL && !dropped)
        dispose(arg);
    (void)loop;
}

/* With the future, when it is freed: what may still run user code. */
AIOLOOP_INTERNAL void aiol_task_strip(aiol_task *task) {
    aioloop *loop = task->future.loop;
    aiol_task_extra *extra = task->extra;
    aiol_map *map = NULL;
    aioloop_context *explicit_one = NULL;
    if ((task->flags & AIOL_TASK_ENDED) == 0)
        aiol_task_end_coroutine(task, true);
    if ((task->slot.flags & AIOL_SLOT_EXPLICIT) != 0)
        explicit_one = task->slot.context.explicit_one;
    else
        map = task->slot.context.map;
    task->slot.context.map = NULL;
    task->slot.flags = AIOL_SLOT_TASK;
    task->extra = NULL;
    if (extra != NULL) {
        aiol_free(&loop->allocator, extra->name, extra->name_size);
        aiol_free(&loop->allocator, extra, sizeof(*extra));
    }
    aiol_map_unref(map);
    aioloop_context_unref(explicit_one);
}

AIOLOOP_INTERNAL void aiol_task_report_pending(aiol_task *task) {
    aioloop_exception_context context;
    const aiol_site *at = aiol_site_at(task->future.loop, task->future.site);
    if ((task->flags & (AIOL_TASK_GENERATOR | AIOL_TASK_STARTED)) == AIOL_TASK_GENERATOR)
        return; /* nobody has asked it for anything */
    memset(&context, 0, sizeof(context));
    context.message = "Task was destroyed but it is pending";
    context.asyncgen = (task->flags & AIOL_TASK_GENERATOR) != 0 ? task->extra->generator : NULL;
    context.future = &task->future;
    context.task = &task->future;
    if (at != NULL) {
        context.source_file = at->file;
        context.source_line = at->line;
    }
    aioloop_call_exception_handler(task->future.loop, &context);
}

/* Debug mode: in C a cancellation is swallowed by not looking at what a call returned. */
static AIOL_NOINLINE void aiol_task_report_swallowed(aiol_task *task, const char *what) {
    char name[64];
    if ((task->flags & AIOL_TASK_SWALLOWS) == 0)
        aiol_warn(task->future.loop, task->future.site,
                  "%s %s a cancellation that it was told (pass on AIOLOOP_ECANCELED, or take it back with aioloop_task_uncancel)",
                  aiol_task_name(task, name, sizeof(name)), what);
    task->flags |= AIOL_TASK_SWALLOWS;
}

/* The loop's last error with its message, as an object; NULL if there is none, or no memory for it. */
static struct aioloop_error *aiol_task_told(aioloop *loop) {
    int code = loop->error.error.code;
    const char *text = aiol_detail(loop, code);
    if (loop->error_of != NULL && loop->error_of->code == code)
        return aiol_error_ref(loop->error_of);
    return text == NULL ? NULL : aiol_error_new(&loop->allocator, code, text, 0);
}

/* What the coroutine returned becomes the future's result. */
static void aiol_task_finish(aiol_task *task, int64_t n, void *pointer) {
    aioloop *loop = task->future.loop;
    aioloop_future *f = &task->future;
    if (task->extra != NULL)
        aioloop_timer_handle_cancel(&task->extra->timer);
    if (n >= 0 && (task->flags & AIOL_TASK_MUST_CANCEL) != 0) {
        if (pointer != NULL && f->end.dispose != NULL)
            f->end.dispose(pointer);
        n = AIOLOOP_ECANCELED;
    } else if (n < 0 && n != (int)n) {
        n = aiol_fail(loop, AIOLOOP_EINVAL, "a coroutine returned a number that is neither a result nor a code");
    } else if (n < 0 && loop->told && loop->error.error.code == (int)n) {
        aiol_error_free(&loop->allocator, f->error);
        f->error = aiol_task_told(loop);
    }
    if (n == AIOLOOP_ECANCELED && (task->flags & AIOL_TASK_EXPIRED) != 0 && task->cancelling <= 1)
        n = AIOLOOP_ETIMEDOUT;
    if (f->error != NULL && (n >= 0 || f->error->code != (int)n)) { /* of a cancel, or of an error that was dealt with */
        aiol_error_free(&loop->allocator, f->error);
        f->error = NULL;
    }
    if (AIOL_UNLIKELY(loop->debug) && n >= 0 && (task->flags & AIOL_TASK_TOLD) != 0 && task->cancelling != 0)
        aiol_task_report_swallowed(task, "has ended without passing on");
    if (n >= 0) {
        aiol_future_finish(f, n, pointer, pointer != NULL ? f->end.dispose : NULL);
    } else {
        f->code = (int)n;
        aiol_future_done(f, n == AIOLOOP_ECANCELED ? AIOL_FUTURE_CANCELLED : AIOL_FUTURE_FAILED);
    }
    if (n == AIOLOOP_EFATAL)
        aiol_loop_halt(loop);
}

/* ---- a step ---- */

/* The message that was set in this step is the task's, and other tasks run before it goes on. */
static AIOL_NOINLINE void aiol_task_keep_error(aiol_task *task) {
    aioloop *loop = task->future.loop;
    aioloop_future *f = &task->future;
    struct aioloop_error *error;
    if ((task->flags & AIOL_TASK_MUST_CANCEL) != 0)
        return; /* there stands the message of the cancel */
    error = aiol_task_told(loop);
    aiol_error_free(&loop->allocator, f->error);
    f->error = error;
}

/* The message of a cancel; NULL: there is none, or an error that was told since is kept in its place. */
static struct aioloop_error *aiol_task_cancel_error(const aiol_task *task) {
    struct aioloop_error *error = task->future.error;
    return error != NULL && error->code == AIOLOOP_ECANCELED ? error : NULL;
}

/* What it waited for, and will not fetch. */
static void aiol_task_forget_wait(aiol_task *task) {
    aioloop_future *awaited = (task->flags & AIOL_TASK_SLEEPS) != 0 ? NULL : task->slot.u.future;
    task->flags &= (uint16_t)~AIOL_TASK_SLEEPS;
    task->slot.u.future = NULL;
    if (awaited != NULL && (awaited->flags & AIOL_FUTURE_STATIC) == 0)
        aiol_future_release(awaited); /* with its result, if nobody else takes it */
}

/* What a coroutine is told instead of what it waited for. */
static void aiol_task_deliver_cancel(aiol_task *task) {
    const aioloop_future *awaited = (task->flags & AIOL_TASK_SLEEPS) != 0 ? NULL : task->slot.u.future;
    if (awaited != NULL && (awaited->flags & AIOL_FUTURE_OUTRANKS) != 0) {
        task->flags = (uint16_t)((task->flags & ~AIOL_TASK_MUST_CANCEL) | AIOL_TASK_CANCEL_LATER);
        return;
    }
    task->flags &= (uint16_t) ~(AIOL_TASK_MUST_CANCEL | AIOL_TASK_MUST_HEAR);
    aiol_task_forget_wait(task);
    task->slot.u.future = &aiol_future_was_cancelled;
    aiol_tell_of(task->future.loop, AIOLOOP_ECANCELED, aiol_task_cancel_error(task));
}

/* A step function that does not keep to the macros. */
static AIOL_NOINLINE int64_t aiol_task_broken(aiol_task *task, int64_t n) {
    if (n == AIOLOOP_SUSPENDED)
        return aiol_fail(task->future.loop, AIOLOOP_EMISUSE, "a step function has returned without finishing or waiting");
    task->flags |= AIOL_TASK_BROKEN; /* it is told when the wait is over: until then the task is in some list */
    return AIOLOOP_SUSPENDED;
}

static int64_t aiol_task_resume(aioloop *loop, aiol_task *task, void **pointer) {
#if AIOLOOP_USE_COROUTINES
    if ((task->flags & AIOL_TASK_STACKFUL) != 0) {
        aiol_coro *co = (aiol_coro *)task->slot.arg;
        aiol_coro_enter(loop, co);
        if (!co->ended)
            return AIOLOOP_SUSPENDED;
        *pointer = co->out;
        return co->result;
    }
#endif
    return task->slot.fn.step(loop, (aioloop_frame *)task->slot.arg, pointer);
}

/* Debug mode: it may have taken long since then. */
static AIOL_NOINLINE void aiol_task_slow(aiol_task *task, aioloop_time since) {
    char name[64];
    char what[128];
    snprintf(what, sizeof(what), "a step of %s", aiol_task_name(task, name, sizeof(name)));
    aiol_slow(task->future.loop, task->future.site, since, what);
}

/* Runs the task until it waits or ends; in the latter case the loop's reference goes. */
static void aiol_task_step(aioloop *loop, aiol_task *task) {
    aiol_frame frame = aiol_enter(loop, aiol_slot_place(&task->slot));
    aioloop_context *entered = loop->entered;
    aioloop_time since = AIOL_UNLIKELY(loop->debug) ? aiol_loop_now(loop) : 0;
    bool told = loop->told;
    void *pointer = NULL;
    int64_t n;
    task->slot.state = AIOL_SLOT_READY;
    task->flags = (uint16_t)((task->flags & ~AIOL_TASK_WAITS) | AIOL_TASK_RUNS);
    loop->task = task;
    loop->entered = aiol_thread.run;
    loop->told = false;
    if (AIOL_UNLIKELY((task->flags & AIOL_TASK_MUST_CANCEL) != 0) && (task->flags & AIOL_TASK_STARTED) == 0) {
        n = AIOLOOP_ECANCELED; /* it was cancelled before it began */
    } else if (AIOL_UNLIKELY((task->flags & AIOL_TASK_BROKEN) != 0)) {
        n = aiol_fail(loop, AIOLOOP_EMISUSE, "a step function has returned in the middle of a wait");
    } else {
        if (AIOL_UNLIKELY((task->flags & AIOL_TASK_MUST_CANCEL) != 0))
            aiol_task_deliver_cancel(task);
        else if (AIOL_UNLIKELY(task->future.error != NULL))
            aiol_tell_of(loop, task->future.error->code, task->future.error);
        if ((task->flags & AIOL_TASK_SLEEPS) != 0) {
            task->flags &= (uint16_t)~AIOL_TASK_SLEEPS;
            task->slot.u.future = &aiol_future_slept;
        }
        loop->told = false;
        task->flags |= AIOL_TASK_STARTED;
        n = aiol_task_resume(loop, task, &pointer);
        if (AIOL_UNLIKELY((n == AIOLOOP_SUSPENDED) != ((task->flags & AIOL_TASK_WAITS) != 0)))
            n = aiol_task_broken(task, n);
    }
    loop->task = NULL; /* what is called from here on cannot wait */
    if (AIOL_UNLIKELY(since != 0))
        aiol_task_slow(task, since);
    if (n == AIOLOOP_SUSPENDED) {
        if (AIOL_UNLIKELY(loop->told))
            aiol_task_keep_error(task);
    } else {
        if (AIOL_UNLIKELY(task->slot.u.future != NULL))
            aiol_task_forget_wait(task);
        aiol_task_end_coroutine(task, false);
        aiol_task_finish(task, n, pointer);
    }
    task->flags &= (uint16_t)~AIOL_TASK_RUNS;
    loop->told = told;
    loop->entered = entered;
    aiol_leave(loop, &frame);
    if (n != AIOLOOP_SUSPENDED)
        aiol_future_release(&task->future);
}

AIOLOOP_INTERNAL void aiol_run_task(aioloop *loop, aiol_node *node) {
    aiol_task_step(loop, aiol_task_of_slot((aiol_slot *)(void *)node));
    if (AIOL_UNLIKELY(loop->attention))
        aiol_callback_end(loop);
}

/* ---- waiting ---- */

/* The use of a future that cannot be waited for ends; what stands in its place says why. */
static aioloop_future *aiol_await_refuse(aioloop *loop, aioloop_future *f, int code, const char *text) {
    if (aiol_future_use(f) == 0)
        aiol_future_release(f);
    aiol_fail(loop, code, "%s", text);
    return aiol_future_failed(code);
}

/* What the task is to wait for, with a reference that is the task's; or a static future. */
static aioloop_future *aiol_await_begin(aioloop *loop, aiol_task *task, aioloop_future *f) {
    int err;
    if (f == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_EINVAL, "a future is needed, not NULL"));
    if (aiol_future_is_static(f))
        return f;
    if (AIOL_UNLIKELY(f->loop != loop))
        return aiol_await_refuse(loop, f, AIOLOOP_EMISUSE, "the future belongs to another loop");
    if (AIOL_UNLIKELY(f == &task->future))
        return aiol_await_refuse(loop, f, AIOLOOP_EMISUSE, "a task cannot wait for itself");
    if (AIOL_UNLIKELY(aiol_thread.run != loop->entered))
        return aiol_await_refuse(loop, f, AIOLOOP_EMISUSE, "a wait inside of aioloop_context_run");
    err = aiol_future_use(f);
    return err < 0 ? aiol_future_failed(err) : f;
}

/* Debug mode: a task that was told a cancellation and waits at the same place again is a loop that goes on
 * regardless. */
static AIOL_NOINLINE void aiol_task_watch(aiol_task *task, const void *place) {
    if (aiol_task_extra_of(task) == NULL)
        return;
    if ((task->flags & AIOL_TASK_TOLD) != 0 && task->extra->waits_at == place && place != NULL)
        aiol_task_report_swallowed(task, "waits on after");
    task->extra->waits_at = place;
}

/* Goes on in the next iteration. */
static void aiol_task_yield(aioloop *loop, aiol_task *task) {
    task->flags |= AIOL_TASK_WAITS;
    task->slot.at.node.run = aiol_run_task;
    aiol_queue_push(&loop->ready, &task->slot.at.node);
}

/* True: the task is to be suspended. False: the outcome is there. */
static bool aiol_task_wait(aioloop *loop, aiol_task *task, aioloop_future *f) {
    f = aiol_await_begin(loop, task, f);
    task->slot.u.future = f;
    if (f->state != AIOL_FUTURE_PENDING) {
        if (AIOL_LIKELY((f->flags & AIOL_FUTURE_YIELDS) == 0))
            return false;
        aiol_task_yield(loop, task);
        return true;
    }
    task->flags |= AIOL_TASK_WAITS;
    task->slot.at.node.run = aiol_run_task;
    aiol_future_push_callback(f, &task->slot);
    if (AIOL_UNLIKELY((task->flags & AIOL_TASK_MUST_CANCEL) != 0)) {
        const struct aioloop_error *error = aiol_task_cancel_error(task);
        if (aioloop_future_cancel(f, error != NULL ? aioloop_error_message(error) : NULL) &&
            (task->slot.state == AIOL_SLOT_WAITING || f->state != AIOL_FUTURE_PENDING)) { /* else a circle was broken here */
            task->flags &= (uint16_t)~AIOL_TASK_MUST_CANCEL;
            if (aiol_future_outranks(f))
                task->flags |= AIOL_TASK_CANCEL_LATER;
        }
    }
    return true;
}

static bool aiol_task_sleep(aioloop *loop, aiol_task *task, aioloop_time delay) {
    int err = 0;
    task->slot.u.future = &aiol_future_slept;
    if (delay == AIOLOOP_NOT_A_TIME)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "not a time");
    else if (AIOL_UNLIKELY(aiol_thread.run != loop->entered))
        err = aiol_fail(loop, AIOLOOP_EMISUSE, "a wait inside of aioloop_context_run");
    if (err == 0 && delay > 0 && (task->flags & AIOL_TASK_MUST_CANCEL) != 0) {
        task->flags |= AIOL_TASK_MUST_HEAR;
    } else if (err == 0 && delay > 0) {
        aioloop_time when = aiol_time_add(aiol_loop_now(loop), delay);
        task->slot.sequence = ++loop->sequence;
        err = aiol_heap_push(&loop->allocator, &loop->timers, when, &task->slot.at.heap);
        if (err == 0) {
            task->slot.u.when = when;
            task->slot.at.node.run = aiol_run_task;
            task->slot.state = AIOL_SLOT_TIMER;
            task->flags |= AIOL_TASK_SLEEPS | AIOL_TASK_WAITS;
            return true;
        }
        aiol_fail(loop, err, NULL);
    }
    if (err < 0) {
        task->slot.u.future = aiol_future_failed(err);
        return false;
    }
    aiol_task_yield(loop, task);
    return true;
}

/* The outcome of the last wait. */
static int64_t aiol_task_take(aioloop *loop, aiol_task *task, void *out) {
    aioloop_future *f = task->slot.u.future;
    int64_t n;
    if (f == NULL)
        return aiol_fail(loop, AIOLOOP_EMISUSE, "there was no wait to have the result of");
    task->slot.u.future = NULL;
    if (AIOL_LIKELY((f->flags & AIOL_FUTURE_STATIC) == 0)) {
        n = aioloop_future_result(f, out);
        if (AIOL_UNLIKELY(n < 0))
            aiol_tell_of(loop, (int)n, f->error);
        aiol_future_release(f);
    } else {
        n = f->code;
        if (n < 0 && loop->error.error.code != (int)n) /* else what failed has said more */
            aiol_fail(loop, (int)n, NULL);
        loop->told |= n < 0;
    }
    if (AIOL_UNLIKELY((task->flags & AIOL_TASK_CANCEL_LATER) != 0))
        task->flags = (uint16_t)((task->flags & ~AIOL_TASK_CANCEL_LATER) | AIOL_TASK_MUST_CANCEL);
    if (AIOL_UNLIKELY(n == AIOLOOP_ECANCELED) && task->cancelling != 0) {
        task->flags = (uint16_t)((task->flags | AIOL_TASK_TOLD) & ~AIOL_TASK_SWALLOWS);
    }
    return n;
}

/* ---- cancelling ---- */

/* Cancels the task that f is, if it is one: counts, and goes on to what it waits for. Returns what is to be cancelled
 * in the end and is no task, and at *waiter the task that waits for it; NULL: nothing is. A circle of tasks that wait
 * for each other is broken at one of them. */
AIOLOOP_INTERNAL aioloop_future *aiol_task_cancel(aioloop_future *f, const char *message, aiol_task **waiter) {
    const aioloop_future *mark = f; /* Brent's: each time at twice the distance */
    size_t steps = 0;
    size_t limit = 2;
    for (;;) {
        aiol_task *task = aiol_task_of(f);
        aioloop *loop = f->loop;
        struct aioloop_error *last;
        if (task == NULL)
            return f;
        if (task->cancelling != UINT16_MAX)
            task->cancelling++;
        if (task->slot.state == AIOL_SLOT_WAITING) {
            aioloop_future *awaited = task->slot.u.future;
            if (awaited != mark) {
                if (++steps == limit) {
                    mark = awaited;
                    limit *= 2;
                }
                *waiter = task;
                f = awaited;
                continue;
            }
            aiol_future_remove_slot(awaited, &task->slot);
            aiol_queue_push(&loop->ready, &task->slot.at.node);
            task->flags |= AIOL_TASK_MUST_HEAR;
        } else if ((task->flags & AIOL_TASK_SLEEPS) != 0) {
            task->flags |= AIOL_TASK_MUST_HEAR;
        }
        if (task->slot.state == AIOL_SLOT_TIMER) {
            aiol_heap_remove(&loop->timers, &task->slot.at.heap);
            task->slot.state = AIOL_SLOT_READY;
            task->slot.at.node.run = aiol_run_task;
            aiol_queue_push(&loop->ready, &task->slot.at.node);
        }
        task->flags |= AIOL_TASK_MUST_CANCEL;
        last = f->error; /* message may be in it */
        f->error = message == NULL ? NULL : aiol_error_new(&loop->allocator, AIOLOOP_ECANCELED, message, 0);
        aiol_error_free(&loop->allocator, last);
        return NULL;
    }
}

/* ---- making ---- */

static void aiol_task_expired(aioloop *loop, void *arg) {
    aiol_task *task = (aiol_task *)arg;
    (void)loop;
    task->flags |= AIOL_TASK_EXPIRED;
    aioloop_future_cancel(&task->future, NULL);
}

static void aiol_recipe_dispose(const aioloop_task_recipe *recipe) {
    if (recipe->options.dispose != NULL)
        recipe->options.dispose(recipe->arg);
}

/* The message of why it is refused is stored. */
static int aiol_recipe_check(aioloop *loop, const aioloop_task_recipe *recipe) {
    if (loop->closed)
        return aiol_fail(loop, AIOLOOP_ECLOSED, NULL);
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop))
        return AIOLOOP_EMISUSE;
    if ((recipe->coroutine == NULL) == (recipe->step == NULL))
        return aiol_fail(loop, AIOLOOP_EINVAL, "a task needs a function");
    if (recipe->options.copy_size > UINT32_MAX / 2 || (recipe->options.copy_size != 0 && recipe->arg == NULL))
        return aiol_fail(loop, AIOLOOP_EINVAL, "copy_size needs something to copy");
    if (recipe->options.timeout == AIOLOOP_NOT_A_TIME)
        return aiol_fail(loop, AIOLOOP_EINVAL, "not a time");
    if (recipe->step != NULL && (recipe->arg == NULL || (recipe->options.copy_size != 0 && recipe->options.copy_size < sizeof(aioloop_frame))))
        return aiol_fail(loop, AIOLOOP_EINVAL, "a coroutine without a stack needs a frame");
#if AIOLOOP_USE_COROUTINES
    if (recipe->coroutine != NULL && recipe->options.stack_size != 0 &&
        recipe->options.stack_size < AIOL_STACK_LEAST + sizeof(aiol_coro))
        return aiol_fail(loop, AIOLOOP_EINVAL, "a stack of %zu bytes is too small", recipe->options.stack_size);
    if (recipe->coroutine != NULL && recipe->options.stack_size > SIZE_MAX / 2)
        return aiol_fail(loop, AIOLOOP_EINVAL, "no stack can be that large");
    if (recipe->coroutine != NULL && recipe->options.stack != NULL && recipe->options.stack_size == 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a stack needs its stack_size");
#else
    if (recipe->coroutine != NULL)
        return aiol_fail(loop, AIOLOOP_ENOTAVAILABLE, "built with AIOLOOP_USE_COROUTINES 0");
#endif
    return 0;
}

/* What only some tasks have. */
static int aiol_task_adorn(aiol_task *task, const aioloop_task_options *options) {
    int err;
    if (options->name != NULL && (err = aioloop_task_set_name(&task->future, options->name)) < 0)
        return err;
    if (options->timeout == 0)
        return 0;
    if (aiol_task_extra_of(task) == NULL)
        return AIOLOOP_ENOMEM;
    task->extra->timer = (aioloop_call_later)(task->future.loop, options->timeout, aiol_task_expired, task);
    return aioloop_handle_is_null(&task->extra->timer.handle) ? AIOLOOP_ENOMEM : 0;
}

/* A pending task that is in no list yet, with one reference; NULL when there is no memory. */
static aiol_task *aiol_task_make(aioloop *loop, const aioloop_task_recipe *recipe) {
    const aioloop_task_options *options = &recipe->options;
    size_t size = options->copy_size == 0 ? sizeof(aiol_task) : AIOL_TASK_ROOM + options->copy_size;
    aiol_task *task = (aiol_task *)aiol_alloc(&loop->allocator, size);
    void *arg = recipe->arg;
#if AIOLOOP_USE_COROUTINES
    aiol_coro *co = NULL;
    if (task != NULL && recipe->coroutine != NULL) {
        co = aiol_coro_new(loop, options->stack, options->stack_size);
        if (co == NULL) {
            aiol_free(&loop->allocator, task, size);
            task = NULL;
        }
    }
#endif
    if (task == NULL)
        return NULL;
    memset(&task->slot, 0, sizeof(*task) - offsetof(aiol_task, slot));
    aiol_future_init(loop, &task->future);
    task->future.flags = AIOL_FUTURE_UNCLAIMED | AIOL_FUTURE_TASK | AIOL_FUTURE_OWN;
    task->future.end.dispose = options->dispose_result;
    task->copy_size = (uint32_t)options->copy_size;
    if (options->copy_size != 0) {
        memcpy((char *)task + AIOL_TASK_ROOM, arg, options->copy_size);
        arg = (char *)task + AIOL_TASK_ROOM;
    }
    task->slot.flags = AIOL_SLOT_TASK | AIOL_SLOT_HOLDS;
    task->slot.site = ++loop->task_number;
    task->slot.at.node.run = aiol_run_task;
    aiol_slot_capture(&task->slot, options->context);
#if AIOLOOP_USE_COROUTINES
    if (co != NULL) {
        co->fn = recipe->coroutine;
        co->arg = arg;
        co->out = NULL;
        co->ended = false;
        co->dispose = options->dispose;
        task->flags = AIOL_TASK_STACKFUL;
        task->slot.arg = co;
        return task;
    }
#endif
    task->slot.fn.step = recipe->step;
    task->slot.arg = arg;
    ((aioloop_frame *)arg)->dispose = options->dispose;
    return task;
}

/* An eager one, inside the call. What its creator has raised before stays its creator's. */
static AIOL_NOINLINE void aiol_task_begin_now(aioloop *loop, aiol_task *task) {
    aiol_task *creator = loop->told ? loop->task : NULL;
    int code = loop->error.error.code;
    if (creator != NULL)
        aiol_task_keep_error(creator);
    aiol_task_step(loop, task);
    if (creator != NULL && creator->future.error != NULL && creator->future.error->code == code)
        aiol_tell_of(loop, code, creator->future.error);
}

AIOLOOP_API aioloop_task *(aioloop_task_new)(aioloop *loop, const aioloop_task_recipe *recipe) {
    aiol_task *task;
    int err;
    if (recipe == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    err = loop == NULL ? AIOLOOP_EINVAL : aiol_recipe_check(loop, recipe);
    if (err < 0) {
        aiol_recipe_dispose(recipe);
        return aiol_future_failed(err);
    }
    task = aiol_task_make(loop, recipe);
    if (task == NULL) {
        aiol_recipe_dispose(recipe);
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    }
    err = recipe->options.name != NULL || recipe->options.timeout != 0 ? aiol_task_adorn(task, &recipe->options) : 0;
    if (err < 0) {
        aiol_task_end_coroutine(task, false);
        aiol_future_destroy(&task->future);
        return aiol_future_failed(aiol_fail(loop, err, NULL));
    }
    aiol_future_hold(&task->future); /* the loop's, until it is done */
    if (recipe->options.eager && aiol_thread.running == loop)
        aiol_task_begin_now(loop, task);
    else
        aiol_queue_push(&loop->ready, &task->slot.at.node);
    return &task->future;
}

static aioloop_task *aiol_create_task(aioloop *loop, const aioloop_task_recipe *recipe) {
    aioloop_task *task;
    if (loop == NULL || AIOL_LIKELY(loop->factory == NULL))
        return (aioloop_task_new)(loop, recipe);
    task = loop->factory(loop, recipe, loop->factory_arg);
    return task != NULL ? task : aiol_future_failed(aiol_fail(loop, AIOLOOP_EMISUSE, "the task factory made no task"));
}

static const aioloop_task_options aiol_task_default_options = AIOLOOP_ZERO;

/* What a task is made of, as the public calls are given it. */
AIOL_INLINE aioloop_task_recipe aiol_recipe(aioloop_coroutine coroutine, aioloop_step step, void *arg,
                                            const aioloop_task_options *options) {
    aioloop_task_recipe recipe;
    recipe.coroutine = coroutine;
    recipe.step = step;
    recipe.arg = arg;
    recipe.options = options != NULL ? *options : aiol_task_default_options;
    return recipe;
}

AIOLOOP_API aioloop_task *(aioloop_create_task)(aioloop *loop, aioloop_coroutine fn, void *arg,
                                                const aioloop_task_options *options) {
    aioloop_task_recipe recipe = aiol_recipe(fn, NULL, arg, options);
    return aiol_create_task(loop, &recipe);
}

AIOLOOP_API aioloop_task *(aioloop_create_task_frame)(aioloop *loop, aioloop_step fn, aioloop_frame *frame,
                                                      const aioloop_task_options *options) {
    aioloop_task_recipe recipe = aiol_recipe(NULL, fn, frame, options);
    return aiol_create_task(loop, &recipe);
}

AIOLOOP_API void aioloop_set_task_factory(aioloop *loop, aioloop_task_factory factory, void *arg) {
    if (loop == NULL)
        return;
    loop->factory = factory;
    loop->factory_arg = arg;
}

AIOLOOP_API aioloop_task_factory aioloop_get_task_factory(aioloop *loop, void **arg) {
    if (loop == NULL)
        return NULL;
    if (arg != NULL)
        *arg = loop->factory_arg;
    return loop->factory;
}

/* ---- asking ---- */

AIOLOOP_API aioloop_task *aioloop_current_task(aioloop *loop) {
    if (loop == NULL)
        loop = aiol_thread.running;
    return loop == NULL || loop->task == NULL ? NULL : &loop->task->future;
}

AIOLOOP_API size_t aioloop_all_tasks(aioloop *loop, aioloop_task **tasks, size_t capacity) {
    const aiol_link *link;
    size_t count = 0;
    if (loop == NULL)
        return 0;
    for (link = loop->futures.next; link != &loop->futures; link = link->next) {
        aioloop_future *f = AIOL_CONTAINER(link, aioloop_future, link);
        if (f->state != AIOL_FUTURE_PENDING || (f->flags & AIOL_FUTURE_TASK) == 0 ||
            (((const aiol_task *)(const void *)f)->flags & AIOL_TASK_GENERATOR) != 0)
            continue;
        if (count < capacity) {
            f->flags &= (uint16_t) ~(AIOL_FUTURE_UNCLAIMED | AIOL_FUTURE_USED); /* whoever created it can still use it */
            f->refs++;
            tasks[count] = f;
        }
        count++;
    }
    return count;
}

AIOLOOP_API bool aioloop_is_task(const aioloop_future *future) {
    return aiol_task_of(future) != NULL;
}

/* Where the values are that the task runs with; NULL for what is no task. */
AIOLOOP_INTERNAL aiol_map **aiol_task_place(aioloop_future *f) {
    aiol_task *task = aiol_task_of(f);
    return task == NULL ? NULL : aiol_slot_place(&task->slot);
}

/* The name; one that is made up is written to buffer. */
AIOLOOP_INTERNAL const char *aiol_task_name(aiol_task *task, char *buffer, size_t size) {
    if (task->extra != NULL && task->extra->name != NULL)
        return task->extra->name;
    snprintf(buffer, size, "Task-%lu", (unsigned long)task->slot.site);
    return buffer;
}

AIOLOOP_API const char *aioloop_task_get_name(aioloop_task *task) {
    aiol_task *t = aiol_task_of(task);
    char text[32];
    if (t == NULL)
        return NULL;
    if (t->extra == NULL || t->extra->name == NULL) {
        if (aioloop_task_set_name(task, aiol_task_name(t, text, sizeof(text))) < 0)
            return "Task";
    }
    return t->extra->name;
}

AIOLOOP_API int aioloop_task_set_name(aioloop_task *task, const char *name) {
    aiol_task *t = aiol_task_of(task);
    const aioloop_allocator *a;
    size_t size;
    char *copy;
    if (t == NULL || name == NULL)
        return AIOLOOP_EINVAL;
    a = &t->future.loop->allocator;
    size = strlen(name) + 1;
    copy = (char *)aiol_alloc(a, size);
    if (copy == NULL || aiol_task_extra_of(t) == NULL) {
        aiol_free(a, copy, size);
        return aiol_fail(t->future.loop, AIOLOOP_ENOMEM, NULL);
    }
    memcpy(copy, name, size);
    aiol_free(a, t->extra->name, t->extra->name_size);
    t->extra->name = copy;
    t->extra->name_size = size;
    return 0;
}

/* From its first use on the task's values belong to a context object, which the task runs in itself. */
AIOLOOP_API aioloop_context *aioloop_task_get_context(aioloop_task *task) {
    aiol_task *t = aiol_task_of(task);
    aioloop_context *context;
    bool current;
    if (t == NULL)
        return NULL;
    if ((t->slot.flags & AIOL_SLOT_EXPLICIT) != 0) {
        aioloop_context_ref(t->slot.context.explicit_one);
        return t->slot.context.explicit_one;
    }
    current = aiol_thread.place == &t->slot.context.map;
    if ((t->flags & AIOL_TASK_RUNS) != 0 && !current) {
        aiol_fail(t->future.loop, AIOLOOP_EMISUSE, "the context of a task that runs, from code that it calls in another context");
        return NULL;
    }
    context = aioloop_copy_context();
    if (context == NULL)
        return NULL;
    aiol_map_unref(context->map);
    context->map = t->slot.context.map;
    t->slot.context.explicit_one = context;
    t->slot.flags |= AIOL_SLOT_EXPLICIT;
    if (current)
        aiol_thread.place = &context->map;
    aioloop_context_ref(context);
    return context;
}

AIOLOOP_API int aioloop_task_cancelling(const aioloop_task *task) {
    const aiol_task *t = aiol_task_of(task);
    return t == NULL ? 0 : t->cancelling;
}

AIOLOOP_API int aioloop_task_uncancel(aioloop_task *task) {
    aiol_task *t = aiol_task_of(task);
    if (t == NULL)
        return 0;
    if (t->cancelling != 0 && --t->cancelling == 0) {
        t->flags &= (uint16_t)~AIOL_TASK_CANCEL_LATER;
        if ((t->flags & AIOL_TASK_MUST_HEAR) == 0)
            t->flags &= (uint16_t)~AIOL_TASK_MUST_CANCEL;
    }
    t->flags &= (uint16_t)~AIOL_TASK_TOLD;
    return t->cancelling;
}

/* ---- the calls of coroutines ---- */

/* Outside of any task, or where it cannot wait. */
static AIOL_NOINLINE int64_t aiol_await_nowhere(aioloop *loop, aioloop_future *future, const char *text) {
    if (loop == NULL && future != NULL)
        loop = future->loop;
    if (future != NULL && !aiol_future_is_static(future) && aiol_future_use(future) == 0)
        aiol_future_release(future);
    return aiol_fail(loop, AIOLOOP_EMISUSE, "%s", text);
}

/* Whether it may wait where it is: on its own stack, if it has one. */
static bool aiol_task_may_block(const aioloop *loop, const aiol_task *task) {
#if AIOLOOP_USE_COROUTINES
    return (task->flags & AIOL_TASK_STACKFUL) != 0 && loop->coro == (const aiol_coro *)task->slot.arg;
#else
    (void)loop;
    (void)task;
    return false;
#endif
}

/* Suspends a task with a stack. */
AIOL_INLINE void aiol_task_block(aiol_task *task) {
#if AIOLOOP_USE_COROUTINES
    aiol_coro_leave((aiol_coro *)task->slot.arg);
#else
    (void)task;
#endif
}

AIOLOOP_API AIOL_NOINLINE int64_t aioloop_await(aioloop_future *future, void *out) {
    aioloop *loop = aiol_thread.running;
    aiol_task *task = loop == NULL ? NULL : loop->task;
    if (AIOL_UNLIKELY(task == NULL))
        return aiol_await_nowhere(loop, future, "await outside of a task");
    if (AIOL_UNLIKELY(!aiol_task_may_block(loop, task)))
        return aiol_await_nowhere(loop, future, "a coroutine without a stack waits by AIOLOOP_AWAIT");
    if (AIOL_UNLIKELY((task->flags & AIOL_TASK_WAITS) != 0))
        return aiol_await_nowhere(loop, future, "await in a task that waits already");
    if (AIOL_UNLIKELY(loop->debug))
        aiol_task_watch(task, AIOL_RETURN_ADDRESS);
    if (aiol_task_wait(loop, task, future))
        aiol_task_block(task);
    return aiol_task_take(loop, task, out);
}

/* The task that the macros are used in, or NULL. One that waits already can do nothing but return. */
AIOL_INLINE aiol_task *aiol_frame_task(aioloop *loop) {
    aiol_task *task = loop == NULL || aiol_thread.running != loop ? NULL : loop->task;
    return AIOL_LIKELY(task != NULL && (task->flags & AIOL_TASK_WAITS) == 0) ? task : NULL;
}

/* True: the step function has to return. In a task with a stack the wait is over when this returns. */
static bool aiol_frame_suspend(aioloop *loop, aiol_task *task, bool waits) {
    if (!waits || !aiol_task_may_block(loop, task))
        return waits;
    aiol_task_block(task);
    return false;
}

AIOLOOP_API AIOL_NOINLINE bool aioloop_frame_await(aioloop *loop, aioloop_future *future) {
    aiol_task *task = aiol_frame_task(loop);
    if (AIOL_UNLIKELY(task == NULL)) {
        aiol_await_nowhere(loop, future, "await outside of a task, or in one that waits already");
        return false;
    }
    if (AIOL_UNLIKELY(loop->debug))
        aiol_task_watch(task, AIOL_RETURN_ADDRESS);
    return aiol_frame_suspend(loop, task, aiol_task_wait(loop, task, future));
}

AIOLOOP_API AIOL_NOINLINE bool aioloop_frame_sleep(aioloop *loop, aioloop_time delay) {
    aiol_task *task = aiol_frame_task(loop);
    if (AIOL_UNLIKELY(task == NULL)) {
        aiol_await_nowhere(loop, NULL, "sleep outside of a task, or in one that waits already");
        return false;
    }
    if (AIOL_UNLIKELY(loop->debug))
        aiol_task_watch(task, AIOL_RETURN_ADDRESS);
    return aiol_frame_suspend(loop, task, aiol_task_sleep(loop, task, delay));
}

AIOLOOP_API AIOL_NOINLINE int64_t aioloop_frame_result(aioloop *loop, void *out) {
    aiol_task *task = aiol_frame_task(loop);
    if (task == NULL)
        return AIOLOOP_EMISUSE;
    return aiol_task_take(loop, task, out);
}

AIOLOOP_API int64_t aioloop_frame_call(aioloop *loop, aioloop_step fn, aioloop_frame *frame, void *out) {
    void *pointer = NULL;
    int64_t n = fn(loop, frame, &pointer);
    if (n >= 0)
        aiol_store_pointer(out, pointer);
    return n;
}

AIOLOOP_API int64_t aioloop_frame_lost(aioloop *loop) {
    return aiol_fail(loop, AIOLOOP_EMISUSE, "a frame that was not zeroed before its coroutine began, or was changed meanwhile");
}

#endif

/* >> src/core/combine.c */
/*
 * combine.c - futures of futures.                                                 (asyncio: tasks.py)
 *
 * Each combinator is a small resource of the loop: it holds its inner futures, has a done-callback on each that is
 * pending, and completes the outer one. It goes when both are done with. What is done already when the call is made
 * counts at once.
 */
#ifndef AIOL_CORE_COMBINE_C
#define AIOL_CORE_COMBINE_C

/* ---- what they share ---- */

static void aiol_combine_closed(aiol_resource *resource) {
    (void)resource;
}

static bool aiol_combine_is_open(const aiol_resource *resource) {
    (void)resource;
    return false;
}

/* The future for a call that fails, with its message as the loop's last error. */
static aioloop_future *aiol_combine_failed(aioloop *loop, int code) {
    aioloop_future *f;
    if (code == AIOLOOP_ECLOSED)
        return aiol_future_failed(code);
    f = aiol_future_new(loop, NULL, NULL);
    if (f == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    aiol_future_fail(f, code, aiol_detail(loop, code));
    aiol_future_release(f);
    return f;
}

static int aiol_combine_check(aioloop *loop, aioloop_future *const *futures, size_t count) {
    size_t i;
    if (loop->closed)
        return aiol_fail(loop, AIOLOOP_ECLOSED, NULL);
    if (futures == NULL && count != 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "futures are needed, not NULL");
    for (i = 0; i < count; i++) {
        if (futures[i] == NULL)
            return aiol_fail(loop, AIOLOOP_EINVAL, "a future is needed, not NULL");
        if (!aiol_future_is_static(futures[i]) && futures[i]->loop != loop)
            return aiol_fail(loop, AIOLOOP_EINVAL, "the future belongs to another loop");
    }
    return 0;
}

static bool aiol_combine_is_own(const aioloop_future *f) {
    return f != NULL && (f->flags & AIOL_FUTURE_STATIC) == 0;
}

/* Ends the use of them all. */
static void aiol_combine_release(aioloop_future *const *futures, size_t count) {
    size_t i;
    for (i = 0; i < count; i++)
        if (aiol_combine_is_own(futures[i]))
            aiol_future_release(futures[i]);
}

/* Begins the use of all of them, or, with an error, ends it. One that cannot be used gets a reference too: it may
 * stand there again, where it could, and is to be there until all are released. */
static int aiol_combine_use(aioloop_future *const *futures, size_t count) {
    size_t i;
    int failed = 0;
    for (i = 0; i < count; i++) {
        int err = aiol_combine_is_own(futures[i]) ? aiol_future_use(futures[i]) : 0;
        if (err < 0) {
            aiol_future_hold(futures[i]);
            failed = err;
        }
    }
    if (failed < 0)
        aiol_combine_release(futures, count);
    return failed;
}

/* For a call that fails before it has begun: the use of its futures ends all the same. */
static void aiol_combine_end_use(aioloop_future *const *futures, size_t count) {
    size_t i;
    if (futures == NULL)
        return;
    for (i = 0; i < count; i++) {
        if (!aiol_combine_is_own(futures[i]))
            continue;
        if ((futures[i]->flags & AIOL_FUTURE_UNCLAIMED) != 0)
            futures[i]->flags = (uint16_t)((futures[i]->flags & ~AIOL_FUTURE_UNCLAIMED) | AIOL_FUTURE_USED);
        else
            aiol_future_hold(futures[i]);
    }
    aiol_combine_release(futures, count);
}

/* ---- sleep ---- */

static bool aiol_sleep_cancel(aioloop_future *f, void *owner) {
    aioloop_handle handle;
    handle.slot = owner;
    handle.sequence = ((aiol_slot *)owner)->sequence;
    f->end.cancel = NULL; /* the timer lets go of context values, which may cancel again */
    aioloop_handle_cancel(&handle);
    aiol_future_release(f);
    return true;
}

static void aiol_sleep_over(aioloop *loop, void *arg) {
    aioloop_future *f = (aioloop_future *)arg;
    (void)loop;
    if (f->state == AIOL_FUTURE_PENDING)
        aiol_future_finish(f, 0, NULL, NULL);
    aiol_future_release(f);
}

AIOLOOP_API aioloop_future *(aioloop_sleep)(aioloop *loop, aioloop_time delay) {
    aioloop_timer_handle timer;
    aioloop_future *f;
    if (loop == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop))
        return aiol_future_failed(AIOLOOP_EMISUSE);
    if (loop->closed)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ECLOSED, NULL));
    if (delay == AIOLOOP_NOT_A_TIME)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_EINVAL, "not a time"));
    f = aiol_future_new(loop, aiol_sleep_cancel, NULL);
    if (f == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    if (delay <= 0) {
        aiol_future_finish(f, 0, NULL, NULL);
        f->flags |= AIOL_FUTURE_YIELDS;
        aiol_future_release(f);
        return f;
    }
    timer = (aioloop_call_later)(loop, delay, aiol_sleep_over, f);
    if (aioloop_handle_is_null(&timer.handle)) {
        aiol_future_release(f);
        aiol_future_release(f);
        return aiol_future_failed(loop->error.error.code);
    }
    f->of.owner = timer.handle.slot;
    return f;
}

/* ---- gather ---- */

struct aioloop_results {
    aiol_resource resource;
    size_t count;
    aioloop_future *futures[1]; /* count of them, each with a reference */
};

typedef struct aiol_gathering {
    aiol_resource resource;
    aioloop_future *outer; /* NULL: it is done */
    aioloop_results *results;
    size_t left;
    bool keep_errors;
    bool cancelled;
    bool cancelling; /* the cancel is under way */
} aiol_gathering;

static size_t aiol_results_size(size_t count) {
    return sizeof(aioloop_results) + (count == 0 ? 0 : count - 1) * sizeof(aioloop_future *);
}

static void aiol_results_destroy(aiol_resource *resource) {
    aioloop_results *results = AIOL_CONTAINER(resource, aioloop_results, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, results, aiol_results_size(results->count));
}

static const aiol_resource_calls aiol_results_resource = {"results", aiol_combine_closed, aiol_results_destroy,
                                                          aiol_combine_is_open};

AIOLOOP_API void aioloop_results_free(aioloop_results *results) {
    if (results == NULL || results->resource.loop->freeing)
        return; /* it goes with the loop */
    aiol_combine_release(results->futures, results->count);
    aiol_results_destroy(&results->resource);
}

static void aiol_results_dispose(void *pointer) {
    aioloop_results_free((aioloop_results *)pointer);
}

AIOLOOP_API size_t aioloop_results_count(const aioloop_results *results) {
    return results == NULL ? 0 : results->count;
}

AIOLOOP_API int64_t aioloop_results_get(aioloop_results *results, size_t i, void *out) {
    if (results == NULL || i >= results->count)
        return AIOLOOP_EINVAL;
    return aioloop_future_result(results->futures[i], out);
}

AIOLOOP_API const aioloop_error *aioloop_results_error(aioloop_results *results, size_t i) {
    if (results == NULL || i >= results->count)
        return NULL;
    return aioloop_future_error(results->futures[i]);
}

static void aiol_gather_destroy(aiol_resource *resource) {
    aiol_gathering *g = AIOL_CONTAINER(resource, aiol_gathering, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, g, sizeof(*g));
}

static const aiol_resource_calls aiol_gather_resource = {"gather", aiol_combine_closed, aiol_gather_destroy,
                                                         aiol_combine_is_open};

/* Gives up the reference to the outer future that was completed. */
static void aiol_gather_settled(aiol_gathering *g) {
    aioloop_future *outer = g->outer;
    g->outer = NULL;
    aiol_future_release(outer);
}

/* One inner future less is pending. */
static void aiol_gather_count(aiol_gathering *g, aioloop_future *f) {
    g->left--;
    if ((f->flags & AIOL_FUTURE_STATIC) == 0)
        f->flags |= AIOL_FUTURE_LOOKED_AT; /* by whoever has the results; or it is not the first failure */
    if (g->outer == NULL || g->keep_errors || g->cancelled || f->state == AIOL_FUTURE_FINISHED)
        return;
    g->outer->code = f->code;
    g->outer->error = aiol_error_ref(f->error);
    aiol_future_done(g->outer, AIOL_FUTURE_FAILED); /* also for a cancelled one: gather itself was not */
    aiol_gather_settled(g);
}

/* When all are done. */
static void aiol_gather_check_over(aiol_gathering *g) {
    aioloop_results *results = g->results;
    if (g->left != 0)
        return;
    g->results = NULL;
    if (g->outer != NULL && g->cancelled) {
        aiol_future_end_cancelled(g->outer, NULL);
        aiol_gather_settled(g);
    } else if (g->outer != NULL) {
        aiol_future_finish(g->outer, (int64_t)results->count, results, aiol_results_dispose);
        results = NULL;
        aiol_gather_settled(g);
    }
    aiol_gather_destroy(&g->resource);
    aioloop_results_free(results);
}

static void aiol_gather_done(aioloop_future *f, void *arg) {
    aiol_gathering *g = (aiol_gathering *)arg;
    aiol_gather_count(g, f);
    aiol_gather_check_over(g);
}

static bool aiol_gather_cancel(aioloop_future *outer, void *owner) {
    aiol_gathering *g = (aiol_gathering *)owner;
    size_t i;
    if (g->cancelling) { /* one of them waits for this one: the circle is broken here */
        g->outer = NULL;
        aiol_future_release(outer);
        return true;
    }
    g->cancelled = true;
    g->cancelling = true;
    for (i = 0; i < g->results->count; i++)
        aioloop_future_cancel(g->results->futures[i], NULL);
    g->cancelling = false;
    return false;
}

/* A call that cannot go on: everything as it was, but for the use of the futures. */
static aioloop_future *aiol_gather_abandon(aioloop *loop, aiol_gathering *g, aioloop_results *results) {
    size_t i;
    if (g->outer != NULL) {
        for (i = 0; i < results->count; i++)
            aioloop_future_remove_done_callback(results->futures[i], aiol_gather_done, g);
        g->outer->end.cancel = NULL;
        aiol_future_release(g->outer);
        aioloop_future_unref(g->outer);
    }
    aiol_gather_destroy(&g->resource);
    aioloop_results_free(results);
    return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
}

AIOLOOP_API aioloop_future *(aioloop_gather)(aioloop *loop, aioloop_future *const *futures, size_t count,
                                             bool return_exceptions) {
    aioloop_results *results;
    aioloop_future *outer;
    aiol_gathering *g;
    size_t i;
    int err;
    if (loop == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop))
        return aiol_future_failed(AIOLOOP_EMISUSE);
    err = aiol_combine_check(loop, futures, count);
    if (err < 0) {
        aiol_combine_end_use(futures, count);
        return aiol_combine_failed(loop, err);
    }
    err = aiol_combine_use(futures, count);
    if (err < 0)
        return aiol_combine_failed(loop, err);
    results = (aioloop_results *)aiol_alloc_zero(&loop->allocator, aiol_results_size(count));
    g = (aiol_gathering *)aiol_alloc_zero(&loop->allocator, sizeof(*g));
    if (results == NULL || g == NULL) {
        aiol_combine_release(futures, count);
        aiol_free(&loop->allocator, results, aiol_results_size(count));
        aiol_free(&loop->allocator, g, sizeof(*g));
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    }
    aiol_resource_add(loop, &results->resource, &aiol_results_resource);
    aiol_resource_add(loop, &g->resource, &aiol_gather_resource);
    results->count = count;
    if (count != 0)
        memcpy(results->futures, futures, count * sizeof(futures[0]));
    g->results = results;
    g->keep_errors = return_exceptions;
    g->outer = aiol_future_new(loop, aiol_gather_cancel, g);
    if (g->outer == NULL)
        return aiol_gather_abandon(loop, g, results);
    outer = g->outer;
    g->left = count;
    for (i = 0; i < count; i++)
        if (futures[i]->state == AIOL_FUTURE_PENDING && aiol_future_callback(futures[i], aiol_gather_done, g, NULL, 0) < 0)
            return aiol_gather_abandon(loop, g, results);
    for (i = 0; i < count; i++)
        if (futures[i]->state != AIOL_FUTURE_PENDING)
            aiol_gather_count(g, futures[i]);
    aiol_gather_check_over(g);
    return outer;
}

/* ---- wait ---- */

typedef struct aiol_wait {
    aiol_resource resource;
    aioloop_future *outer; /* NULL: it is done */
    aioloop_timer_handle timer;
    size_t count;
    size_t left;        /* pending */
    size_t outstanding; /* done-callbacks that will come */
    aioloop_return_when return_when;
    bool failed; /* one of them has */
    aioloop_future *futures[1];
} aiol_wait;

static size_t aiol_wait_size(size_t count) {
    return sizeof(aiol_wait) + (count - 1) * sizeof(aioloop_future *);
}

static void aiol_wait_destroy(aiol_resource *resource) {
    aiol_wait *w = AIOL_CONTAINER(resource, aiol_wait, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, w, aiol_wait_size(w->count));
}

static const aiol_resource_calls aiol_wait_resource = {"wait", aiol_combine_closed, aiol_wait_destroy, aiol_combine_is_open};

static void aiol_wait_free_if_over(aiol_wait *w) {
    if (w->outer != NULL || w->outstanding != 0)
        return;
    aiol_combine_release(w->futures, w->count);
    aiol_wait_destroy(&w->resource);
}

/* True: done, so far as it was asked for. */
static bool aiol_wait_is_over(const aiol_wait *w) {
    if (w->left == 0)
        return true;
    return w->left != w->count && (w->return_when == AIOLOOP_FIRST_COMPLETED ||
                                   (w->return_when == AIOLOOP_FIRST_EXCEPTION && w->failed));
}

static void aiol_wait_done(aioloop_future *f, void *arg);

/* It waits no longer; the outer future is completed by the caller. Done-callbacks that are queued already still
 * come. */
static void aiol_wait_end(aiol_wait *w) {
    aioloop_future *outer = w->outer;
    size_t i;
    aioloop_timer_handle_cancel(&w->timer);
    for (i = 0; i < w->count; i++)
        w->outstanding -= aioloop_future_remove_done_callback(w->futures[i], aiol_wait_done, w);
    w->outer = NULL;
    aiol_future_release(outer);
    aiol_wait_free_if_over(w);
}

static void aiol_wait_finish(aiol_wait *w) {
    int64_t done = 0;
    size_t i;
    for (i = 0; i < w->count; i++)
        if (w->futures[i]->state != AIOL_FUTURE_PENDING)
            done++;
    aiol_future_finish(w->outer, done, NULL, NULL);
    aiol_wait_end(w);
}

static void aiol_wait_done(aioloop_future *f, void *arg) {
    aiol_wait *w = (aiol_wait *)arg;
    w->outstanding--;
    w->left--;
    w->failed |= f->state == AIOL_FUTURE_FAILED;
    if (w->outer != NULL && aiol_wait_is_over(w))
        aiol_wait_finish(w);
    else
        aiol_wait_free_if_over(w);
}

static void aiol_wait_timed_out(aioloop *loop, void *arg) {
    (void)loop;
    aiol_wait_finish((aiol_wait *)arg);
}

static bool aiol_wait_cancel(aioloop_future *outer, void *owner) {
    outer->end.cancel = NULL; /* the callbacks let go of context values, which may cancel again */
    aiol_wait_end((aiol_wait *)owner);
    return true;
}

static int aiol_wait_check(aioloop *loop, aioloop_future *const *futures, size_t count, const aioloop_wait_options *options) {
    int err = aiol_combine_check(loop, futures, count);
    size_t i;
    if (err < 0)
        return err;
    if (count == 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "wait needs a future at least");
    if (options != NULL && (unsigned)options->return_when > AIOLOOP_FIRST_EXCEPTION)
        return aiol_fail(loop, AIOLOOP_EINVAL, "wait: unknown return_when");
    if (options != NULL && options->timeout == AIOLOOP_NOT_A_TIME)
        return aiol_fail(loop, AIOLOOP_EINVAL, "not a time");
    for (i = 0; i < count; i++)
        if ((futures[i]->flags & (AIOL_FUTURE_UNCLAIMED | AIOL_FUTURE_USED)) != 0)
            return aiol_fail(loop, AIOLOOP_EINVAL, "wait looks at its futures afterwards: claim them (aioloop_future_ref)");
    return 0;
}

/* Registers with all that are pending, and sets the timer. */
static int aiol_wait_begin(aiol_wait *w, aioloop_time timeout) {
    aioloop *loop = w->resource.loop;
    size_t i;
    for (i = 0; i < w->count; i++) {
        if (w->futures[i]->state == AIOL_FUTURE_PENDING) {
            if (aiol_future_callback(w->futures[i], aiol_wait_done, w, NULL, 0) < 0)
                return AIOLOOP_ENOMEM;
            w->outstanding++;
        } else {
            w->left--;
            w->failed |= w->futures[i]->state == AIOL_FUTURE_FAILED;
        }
    }
    if (timeout == 0 || timeout == AIOLOOP_FOREVER || aiol_wait_is_over(w))
        return 0;
    w->timer = (aioloop_call_later)(loop, timeout, aiol_wait_timed_out, w);
    return aioloop_handle_is_null(&w->timer.handle) ? AIOLOOP_ENOMEM : 0;
}

AIOLOOP_API aioloop_future *(aioloop_wait)(aioloop *loop, aioloop_future *const *futures, size_t count,
                                           const aioloop_wait_options *options) {
    aioloop_future *outer;
    aiol_wait *w;
    int err;
    if (loop == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop))
        return aiol_future_failed(AIOLOOP_EMISUSE);
    err = aiol_wait_check(loop, futures, count, options);
    if (err < 0) {
        aiol_combine_end_use(futures, count);
        return aiol_combine_failed(loop, err);
    }
    w = (aiol_wait *)aiol_alloc_zero(&loop->allocator, aiol_wait_size(count));
    if (w == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    outer = aiol_future_new(loop, aiol_wait_cancel, w);
    if (outer == NULL) {
        aiol_free(&loop->allocator, w, aiol_wait_size(count));
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    }
    aiol_resource_add(loop, &w->resource, &aiol_wait_resource);
    w->outer = outer;
    w->count = count;
    w->left = count;
    w->return_when = options != NULL ? options->return_when : AIOLOOP_ALL_COMPLETED;
    memcpy(w->futures, futures, count * sizeof(futures[0]));
    (void)aiol_combine_use(w->futures, count);
    err = aiol_wait_begin(w, options != NULL ? options->timeout : 0);
    if (err < 0) {
        outer->end.cancel = NULL;
        aiol_wait_end(w);
        aioloop_future_unref(outer);
        return aiol_future_failed(aiol_fail(loop, err, NULL));
    }
    if (aiol_wait_is_over(w))
        aiol_wait_finish(w);
    return outer;
}

/* ---- wait_for and shield: one future that follows another ---- */

typedef struct aiol_follower {
    aiol_resource resource;
    aioloop_future *outer; /* NULL: it is done */
    aioloop_future *inner;
    aioloop_timer_handle timer;
    bool shields;
    bool expired;
    bool cancelled;
    bool cancelling; /* the cancel is under way */
} aiol_follower;

static void aiol_follower_destroy(aiol_resource *resource) {
    aiol_follower *w = AIOL_CONTAINER(resource, aiol_follower, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, w, sizeof(*w));
}

static const aiol_resource_calls aiol_follower_resource = {"wait_for", aiol_combine_closed, aiol_follower_destroy,
                                                           aiol_combine_is_open};

/* The inner future is done, and so is the outer one then. */
static void aiol_follower_finish(aiol_follower *w) {
    aioloop_future *outer = w->outer;
    aioloop_future *inner = w->inner;
    bool in_vain = inner->state == AIOL_FUTURE_CANCELLED && w->expired && !w->cancelled;
    aioloop_timer_handle_cancel(&w->timer);
    aiol_follower_destroy(&w->resource);
    if (outer != NULL) {
        if (in_vain)
            aiol_future_fail(outer, AIOLOOP_ETIMEDOUT, NULL);
        else
            aiol_future_take_over(outer, inner);
        aiol_future_release(outer);
    }
    aiol_future_release(inner);
}

static void aiol_follower_done(aioloop_future *f, void *arg) {
    (void)f;
    aiol_follower_finish((aiol_follower *)arg);
}

static void aiol_follower_expired(aioloop *loop, void *arg) {
    aiol_follower *w = (aiol_follower *)arg;
    (void)loop;
    if (w->inner->state != AIOL_FUTURE_PENDING)
        return; /* its callback is queued */
    w->expired = true;
    aioloop_future_cancel(w->inner, NULL);
}

/* The outer one lets go of the inner one, whose callback stays, or is queued, and holds it. */
static void aiol_follower_leave(aiol_follower *w) {
    aioloop_future *outer = w->outer;
    w->outer = NULL;
    aiol_future_release(outer);
}

static bool aiol_follower_cancel(aioloop_future *outer, void *owner) {
    aiol_follower *w = (aiol_follower *)owner;
    if (aiol_future_outranks(w->inner)) {
        aiol_future_take_over(outer, w->inner);
        aiol_follower_leave(w);
        return false;
    }
    if (!w->shields && !w->cancelling) {
        bool cancelled;
        w->cancelling = true;
        cancelled = aioloop_future_cancel(w->inner, NULL);
        w->cancelling = false;
        if (cancelled) {
            w->cancelled = true;
            return false; /* it ends when the inner one has */
        }
    }
    aiol_follower_leave(w);
    return true;
}

static aioloop_future *aiol_follow(aioloop_future *inner, bool shields, aioloop_time timeout) {
    aioloop *loop;
    aioloop_future *outer;
    aiol_follower *w;
    int err;
    if (inner == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    if (aiol_future_is_static(inner))
        return inner;
    loop = inner->loop;
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop))
        return aiol_future_failed(AIOLOOP_EMISUSE);
    err = aiol_future_use(inner);
    if (err < 0)
        return aiol_combine_failed(loop, err);
    if (loop->closed)
        err = aiol_fail(loop, AIOLOOP_ECLOSED, NULL);
    else if (timeout == AIOLOOP_NOT_A_TIME)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "not a time");
    if (err < 0) {
        aiol_future_release(inner);
        return aiol_combine_failed(loop, err);
    }
    w = (aiol_follower *)aiol_alloc_zero(&loop->allocator, sizeof(*w));
    outer = w == NULL ? NULL : aiol_future_new(loop, aiol_follower_cancel, w);
    if (outer == NULL) {
        aiol_free(&loop->allocator, w, sizeof(*w));
        aiol_future_release(inner);
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    }
    aiol_resource_add(loop, &w->resource, &aiol_follower_resource);
    w->outer = outer;
    w->inner = inner;
    w->shields = shields;
    if (inner->state != AIOL_FUTURE_PENDING) {
        aiol_follower_finish(w);
        return outer;
    }
    err = aiol_future_callback(inner, aiol_follower_done, w, NULL, 0);
    if (err == 0 && timeout > 0 && timeout != AIOLOOP_FOREVER) {
        w->timer = (aioloop_call_later)(loop, timeout, aiol_follower_expired, w);
        if (aioloop_handle_is_null(&w->timer.handle))
            err = AIOLOOP_ENOMEM;
    }
    if (err < 0) {
        aioloop_future_remove_done_callback(inner, aiol_follower_done, w);
        aiol_follower_destroy(&w->resource);
        outer->end.cancel = NULL;
        aiol_future_release(outer);
        aioloop_future_unref(outer);
        aiol_future_release(inner);
        return aiol_future_failed(aiol_fail(loop, err, NULL));
    }
    if (timeout <= 0)
        aiol_follower_expired(loop, w);
    return outer;
}

AIOLOOP_API aioloop_future *(aioloop_wait_for)(aioloop_future *future, aioloop_time timeout) {
    return aiol_follow(future, false, timeout);
}

AIOLOOP_API aioloop_future *(aioloop_shield)(aioloop_future *future) {
    return aiol_follow(future, true, AIOLOOP_FOREVER);
}

/* ---- as_completed ---- */

struct aioloop_completed {
    aiol_resource resource;
    aioloop_timer_handle timer;
    size_t count;
    size_t outstanding; /* done-callbacks that will come */
    size_t completed;   /* in order, of which */
    size_t given;       /* were handed out; beyond completed: time-outs */
    size_t asked;       /* waiters from here on, in a ring of count */
    size_t waiting;
    bool expired;
    bool freed;
    size_t offer_count;
    size_t *order;            /* indices, as they completed; count */
    aioloop_future **waiters; /* count */
    aioloop_future **offers;  /* those of waiters that were given an outcome and may never read it; count */
    aioloop_future *futures[1];
};

static size_t aiol_completed_size(size_t count) {
    return sizeof(aioloop_completed) + count * (3 * sizeof(aioloop_future *) + sizeof(size_t));
}

static void aiol_completed_destroy(aiol_resource *resource) {
    aioloop_completed *c = AIOL_CONTAINER(resource, aioloop_completed, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, c, aiol_completed_size(c->count));
}

static const aiol_resource_calls aiol_completed_resource = {"as_completed", aiol_combine_closed, aiol_completed_destroy,
                                                            aiol_combine_is_open};

/* Gives the next outcome to f, if there is one. */
static bool aiol_completed_give(aioloop_completed *c, aioloop_future *f) {
    if (c->given < c->completed) {
        size_t i = c->order[c->given++];
        aiol_future_finish(f, (int64_t)i, c->futures[i], NULL);
    } else if (c->given >= c->count) {
        aiol_future_fail(f, AIOLOOP_ESTOPITERATION, NULL);
    } else if (c->expired) {
        c->given++;
        c->completed = c->given; /* what completes from here on comes too late */
        aiol_future_fail(f, AIOLOOP_ETIMEDOUT, NULL);
    } else {
        return false;
    }
    return true;
}

static void aiol_completed_serve(aioloop_completed *c) {
    while (c->waiting != 0) {
        aioloop_future *f = c->waiters[c->asked];
        if (!aiol_completed_give(c, f))
            return;
        c->asked = (c->asked + 1) % c->count;
        c->waiting--;
        if (f->state == AIOL_FUTURE_FINISHED)
            c->offers[c->offer_count++] = f;
        else
            aiol_future_release(f);
    }
}

/* The outcome that a waiter never read, as it was cancelled meanwhile, is the next to be given again. */
static void aiol_completed_give_back(aioloop_completed *c, size_t index) {
    size_t i = 0;
    while (c->order[i] != index)
        i++;
    c->order[i] = c->order[--c->given];
    c->order[c->given] = index;
}

static void aiol_completed_check_offers(aioloop_completed *c) {
    size_t i = c->offer_count;
    while (i-- != 0) {
        aioloop_future *f = c->offers[i];
        bool read = (f->flags & AIOL_FUTURE_LOOKED_AT) != 0;
        if (!read && f->refs != 1)
            continue;
        c->offers[i] = c->offers[--c->offer_count];
        if (!read)
            aiol_completed_give_back(c, (size_t)f->number);
        aiol_future_release(f);
    }
}

static void aiol_completed_free_if_over(aioloop_completed *c) {
    if (!c->freed || c->outstanding != 0)
        return;
    aiol_combine_release(c->futures, c->count);
    aiol_completed_destroy(&c->resource);
}

static void aiol_completed_add(aioloop_completed *c, const aioloop_future *f) {
    size_t i;
    if (c->expired)
        return;
    for (i = 0; i < c->count; i++) { /* the same future may stand there several times */
        size_t j = 0;
        if (c->futures[i] != f)
            continue;
        while (j < c->completed && c->order[j] != i)
            j++;
        if (j == c->completed) {
            c->order[c->completed++] = i;
            return;
        }
    }
}

static void aiol_completed_done(aioloop_future *f, void *arg) {
    aioloop_completed *c = (aioloop_completed *)arg;
    c->outstanding--;
    if (!c->freed) {
        aiol_completed_check_offers(c);
        aiol_completed_add(c, f);
        aiol_completed_serve(c);
    }
    aiol_completed_free_if_over(c);
}

static void aiol_completed_expired(aioloop *loop, void *arg) {
    aioloop_completed *c = (aioloop_completed *)arg;
    (void)loop;
    c->expired = true;
    aiol_completed_serve(c);
}

static bool aiol_completed_cancel(aioloop_future *f, void *owner) {
    aioloop_completed *c = (aioloop_completed *)owner;
    size_t i = 0;
    while (c->waiters[(c->asked + i) % c->count] != f)
        i++;
    for (c->waiting--; i < c->waiting; i++)
        c->waiters[(c->asked + i) % c->count] = c->waiters[(c->asked + i + 1) % c->count];
    aiol_future_release(f);
    return true;
}

AIOLOOP_API aioloop_completed *aioloop_as_completed(aioloop *loop, aioloop_future *const *futures, size_t count,
                                                    aioloop_time timeout) {
    aioloop_completed *c;
    size_t i;
    int err;
    if (loop == NULL || (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop)))
        return NULL;
    err = aiol_combine_check(loop, futures, count);
    if (err == 0 && timeout == AIOLOOP_NOT_A_TIME)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "not a time");
    if (err < 0) {
        aiol_combine_end_use(futures, count);
        return NULL;
    }
    if (aiol_combine_use(futures, count) < 0)
        return NULL;
    c = (aioloop_completed *)aiol_alloc_zero(&loop->allocator, aiol_completed_size(count));
    if (c == NULL) {
        aiol_combine_release(futures, count);
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    aiol_resource_add(loop, &c->resource, &aiol_completed_resource);
    c->count = count;
    c->waiters = c->futures + count;
    c->offers = c->waiters + count;
    c->order = (size_t *)(void *)(c->offers + count);
    if (count != 0)
        memcpy(c->futures, futures, count * sizeof(futures[0]));
    for (i = 0; i < count && err == 0; i++)
        if (futures[i]->state == AIOL_FUTURE_PENDING) {
            err = aiol_future_callback(futures[i], aiol_completed_done, c, NULL, 0);
            if (err == 0)
                c->outstanding++;
        } else {
            c->order[c->completed++] = i;
        }
    if (err == 0 && timeout > 0 && timeout != AIOLOOP_FOREVER) {
        c->timer = (aioloop_call_later)(loop, timeout, aiol_completed_expired, c);
        if (aioloop_handle_is_null(&c->timer.handle))
            err = AIOLOOP_ENOMEM;
    }
    c->expired = timeout <= 0;
    if (err < 0) {
        aioloop_completed_free(c);
        return NULL;
    }
    return c;
}

AIOLOOP_API aioloop_future *(aioloop_completed_next)(aioloop_completed *completed) {
    aioloop *loop;
    aioloop_future *f;
    if (completed == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    loop = completed->resource.loop;
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop))
        return aiol_future_failed(AIOLOOP_EMISUSE);
    if (loop->closed)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ECLOSED, NULL));
    f = aiol_future_new(loop, aiol_completed_cancel, completed);
    if (f == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    aiol_completed_check_offers(completed);
    aiol_completed_serve(completed);
    if (completed->waiting == 0 && aiol_completed_give(completed, f)) {
        aiol_future_release(f);
    } else if (completed->waiting >= completed->count - completed->given) { /* more are asked for than can come */
        aiol_future_fail(f, AIOLOOP_ESTOPITERATION, NULL);
        aiol_future_release(f);
    } else {
        completed->waiters[(completed->asked + completed->waiting++) % completed->count] = f;
    }
    return f;
}

AIOLOOP_API void aioloop_completed_free(aioloop_completed *completed) {
    size_t i;
    if (completed == NULL || completed->resource.loop->freeing)
        return; /* it goes with the loop */
    aioloop_timer_handle_cancel(&completed->timer);
    completed->freed = true;
    for (i = 0; i < completed->count; i++)
        completed->outstanding -= aioloop_future_remove_done_callback(completed->futures[i], aiol_completed_done, completed);
    while (completed->waiting != 0) {
        aioloop_future *f = completed->waiters[completed->asked];
        completed->asked = (completed->asked + 1) % completed->count;
        completed->waiting--;
        aiol_future_end_cancelled(f, NULL);
        aiol_future_release(f);
    }
    while (completed->offer_count != 0)
        aiol_future_release(completed->offers[--completed->offer_count]);
    aiol_completed_free_if_over(completed);
}

#endif

/* >> src/core/scope.c */
/*
 * scope.c - time-outs and task groups.                          (asyncio: timeouts.py, taskgroups.py)
 */
#ifndef AIOL_CORE_SCOPE_C
#define AIOL_CORE_SCOPE_C

/* ---- time-outs ---- */

/* What the timer writes to is a record of the library's, on a list of the task: a function that returns without
 * leaving its scope takes the user's struct with it, and the record goes when an outer scope is left, or with the
 * task. */
enum { AIOL_TIMEOUT_NEW, AIOL_TIMEOUT_ENTERED, AIOL_TIMEOUT_EXPIRED, AIOL_TIMEOUT_EXITED };

static void aiol_timeout_due(aioloop *loop, void *arg) {
    aiol_scope *scope = (aiol_scope *)arg;
    (void)loop;
    scope->due = true;
    aioloop_future_cancel(&scope->task->future, NULL);
}

/* Sets the timer of a scope. */
static int aiol_timeout_arm(aiol_scope *scope, aioloop_time when) {
    aioloop *loop = scope->task->future.loop;
    aioloop_timer_handle timer;
    memset(&timer, 0, sizeof(timer));
    if (when != AIOLOOP_FOREVER) {
        if (when <= aiol_loop_now(loop))
            timer.handle = (aioloop_call_soon)(loop, aiol_timeout_due, scope);
        else
            timer = (aioloop_call_at)(loop, when, aiol_timeout_due, scope);
        if (aioloop_handle_is_null(&timer.handle))
            return AIOLOOP_ENOMEM;
    }
    aioloop_timer_handle_cancel(&scope->timer);
    scope->timer = timer;
    return 0;
}

AIOLOOP_API int aioloop_timeout_enter_at(aioloop *loop, aioloop_timeout *timeout, aioloop_time when) {
    aiol_scope *scope;
    int err;
    if (timeout == NULL)
        return AIOLOOP_EINVAL;
    memset(timeout, 0, sizeof(*timeout));
    if (loop == NULL || when == AIOLOOP_NOT_A_TIME)
        return aiol_fail(loop, AIOLOOP_EINVAL, "not a time");
    if (aiol_thread.running != loop || loop->task == NULL)
        return aiol_fail(loop, AIOLOOP_EMISUSE, "a time-out outside of a task");
    scope = aiol_task_extra_of(loop->task) == NULL ? NULL : (aiol_scope *)aiol_alloc_zero(&loop->allocator, sizeof(*scope));
    if (scope == NULL)
        return aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    scope->task = loop->task;
    scope->cancelling = loop->task->cancelling;
    err = aiol_timeout_arm(scope, when);
    if (err < 0) {
        aiol_free(&loop->allocator, scope, sizeof(*scope));
        return err;
    }
    scope->outer = loop->task->extra->scopes;
    loop->task->extra->scopes = scope;
    timeout->loop = loop;
    timeout->scope = scope;
    timeout->when = when;
    timeout->state = AIOL_TIMEOUT_ENTERED;
    return 0;
}

AIOLOOP_API int aioloop_timeout_enter(aioloop *loop, aioloop_timeout *timeout, aioloop_time delay) {
    aioloop_time when = delay;
    if (loop != NULL && delay != AIOLOOP_NOT_A_TIME)
        when = aiol_time_add(aiol_loop_now(loop), delay);
    return aioloop_timeout_enter_at(loop, timeout, when);
}

/* The record of a scope that the current task has entered and not left; else NULL. */
static aiol_scope *aiol_timeout_scope(const aioloop_timeout *timeout) {
    const aiol_task *task = timeout->state == AIOL_TIMEOUT_ENTERED ? timeout->loop->task : NULL;
    aiol_scope *scope = task == NULL || task->extra == NULL ? NULL : task->extra->scopes;
    while (scope != NULL && scope != timeout->scope)
        scope = scope->outer;
    return scope;
}

AIOLOOP_API int64_t aioloop_timeout_exit(aioloop_timeout *timeout, int64_t outcome) {
    aiol_scope *scope = timeout == NULL ? NULL : aiol_timeout_scope(timeout);
    aiol_task *task;
    bool due;
    int cancelling;
    if (timeout == NULL)
        return AIOLOOP_EINVAL;
    if (scope == NULL)
        return outcome;
    task = scope->task;
    due = scope->due;
    cancelling = scope->cancelling;
    while (task->extra->scopes != scope)
        aiol_task_drop_scope(task); /* inner ones that were not left */
    aiol_scope_free(task);
    timeout->scope = NULL;
    timeout->state = due ? AIOL_TIMEOUT_EXPIRED : AIOL_TIMEOUT_EXITED;
    if (due && aioloop_task_uncancel(&task->future) <= cancelling && outcome == AIOLOOP_ECANCELED)
        return aiol_fail(timeout->loop, AIOLOOP_ETIMEDOUT, NULL);
    return outcome;
}

AIOLOOP_API int aioloop_timeout_reschedule(aioloop_timeout *timeout, aioloop_time when) {
    aiol_scope *scope;
    int err;
    if (timeout == NULL || when == AIOLOOP_NOT_A_TIME)
        return AIOLOOP_EINVAL;
    scope = aiol_timeout_scope(timeout);
    if (scope == NULL || scope->due)
        return AIOLOOP_EMISUSE;
    err = aiol_timeout_arm(scope, when);
    if (err == 0)
        timeout->when = when;
    return err;
}

AIOLOOP_API aioloop_time aioloop_timeout_when(const aioloop_timeout *timeout) {
    return timeout == NULL ? AIOLOOP_FOREVER : timeout->when;
}

AIOLOOP_API bool aioloop_timeout_expired(const aioloop_timeout *timeout) {
    const aiol_scope *scope = timeout == NULL ? NULL : aiol_timeout_scope(timeout);
    return timeout != NULL && (timeout->state == AIOL_TIMEOUT_EXPIRED || (scope != NULL && scope->due));
}

/* ---- task groups ---- */

/* A task of a group, while it is pending. */
typedef struct aiol_member {
    aiol_link link;
    aioloop_task_group *group;
    aioloop_task *task;
} aiol_member;

struct aioloop_task_group {
    aiol_resource resource;
    aiol_task *parent; /* held */
    aiol_link members;
    aioloop_future *exit; /* made when it is entered: leaving needs no memory */
    bool exiting;         /* the body has ended */
    struct aioloop_error **errors;
    size_t error_count;
    size_t error_capacity;
    size_t lost_errors; /* that there was no memory for */
    int64_t outcome;
    bool aborting;
    bool parent_cancelled; /* by the group */
    bool cancelled;        /* the parent was, by somebody else */
};

static void aiol_group_destroy(aiol_resource *resource) {
    aioloop_task_group *g = AIOL_CONTAINER(resource, aioloop_task_group, resource);
    const aioloop_allocator *a = &resource->loop->allocator;
    size_t i;
    while (!aiol_list_empty(&g->members)) {
        aiol_member *m = AIOL_CONTAINER(g->members.next, aiol_member, link);
        aiol_list_remove(&m->link);
        aiol_free(a, m, sizeof(*m));
    }
    for (i = 0; i < g->error_count; i++)
        aiol_error_free(a, g->errors[i]);
    aiol_free(a, g->errors, g->error_capacity * sizeof(g->errors[0]));
    aiol_resource_remove(resource);
    aiol_free(a, g, sizeof(*g));
}

static bool aiol_group_is_open(const aiol_resource *resource) {
    (void)resource;
    return true;
}

static const aiol_resource_calls aiol_group_resource = {"task group", aiol_combine_closed, aiol_group_destroy,
                                                        aiol_group_is_open};

static void aiol_group_abort(aioloop_task_group *g) {
    aiol_link *link;
    g->aborting = true;
    for (link = g->members.next; link != &g->members; link = link->next) /* no member comes or goes meanwhile */
        aioloop_future_cancel(AIOL_CONTAINER(link, aiol_member, link)->task, NULL);
}

static void aiol_group_add_error(aioloop_task_group *g, int code, struct aioloop_error *error) {
    const aioloop_allocator *a = &g->resource.loop->allocator;
    if (error == NULL)
        error = aiol_error_new(a, code, NULL, 0);
    else
        aiol_error_ref(error);
    if (error == NULL || aiol_grow(a, &g->errors, &g->error_capacity, sizeof(g->errors[0]), g->error_count + 1) < 0) {
        aiol_error_free(a, error);
        g->lost_errors++;
        return;
    }
    g->errors[g->error_count++] = error;
}

/* The body's, with the message that is the loop's last. */
static void aiol_group_add_body_error(aioloop_task_group *g, int code) {
    aioloop *loop = g->resource.loop;
    struct aioloop_error *error = NULL;
    if (loop->error_of != NULL && loop->error_of->code == code)
        error = aiol_error_ref(loop->error_of);
    else
        error = aiol_error_new(&loop->allocator, code, aiol_detail(loop, code), 0);
    aiol_group_add_error(g, code, error);
    aiol_error_free(&loop->allocator, error);
}

/* All errors in one; NULL when there is no memory. */
static struct aioloop_error *aiol_group_error(aioloop_task_group *g) {
    char text[AIOL_ERROR_TEXT_SIZE];
    struct aioloop_error *error;
    size_t i;
    snprintf(text, sizeof(text), "%zu of the group's tasks failed%s%s", g->error_count + g->lost_errors,
             g->error_count != 0 ? ", first: " : "", g->error_count != 0 ? aioloop_error_message(g->errors[0]) : "");
    error = aiol_error_new(&g->resource.loop->allocator, AIOLOOP_ETASKGROUP, text, g->error_count);
    if (error == NULL)
        return NULL;
    for (i = 0; i < g->error_count; i++)
        error->list[error->count++] = aiol_error_ref(g->errors[i]);
    return error;
}

/* Ends the group, if its body and its tasks have ended. */
static void aiol_group_check_over(aioloop_task_group *g) {
    aioloop_future *f = g->exit;
    aiol_task *parent = g->parent;
    bool failed = g->error_count + g->lost_errors != 0;
    if (!g->exiting || !aiol_list_empty(&g->members))
        return;
    if (failed) {
        f->flags |= AIOL_FUTURE_OUTRANKS;
        aiol_future_fail_with(f, AIOLOOP_ETASKGROUP, aiol_group_error(g));
    } else if (g->cancelled) {
        aiol_future_end_cancelled(f, NULL);
    } else {
        aiol_future_finish(f, g->outcome, NULL, NULL);
    }
    if (failed && parent->cancelling != 0)
        parent->flags |= AIOL_TASK_CANCEL_LATER; /* it hears of the errors first */
    aiol_group_destroy(&g->resource);
    aiol_future_release(f);
    aiol_future_release(&parent->future);
}

static void aiol_group_task_done(aioloop_future *f, void *arg) {
    aiol_member *m = (aiol_member *)arg;
    aioloop_task_group *g = m->group;
    aiol_list_remove(&m->link);
    aiol_free(&g->resource.loop->allocator, m, sizeof(*m));
    if (f->state == AIOL_FUTURE_FAILED) {
        f->flags |= AIOL_FUTURE_LOOKED_AT;
        aiol_group_add_error(g, f->code, f->error);
        if (!g->aborting) {
            aiol_group_abort(g);
            if (!g->exiting && g->parent->future.state == AIOL_FUTURE_PENDING) {
                g->parent_cancelled = true;
                aioloop_future_cancel(&g->parent->future, NULL);
            }
        }
    }
    aiol_group_check_over(g);
}

/* The parent was cancelled while it waits for the end. */
static bool aiol_group_cancel(aioloop_future *f, void *owner) {
    aioloop_task_group *g = (aioloop_task_group *)owner;
    (void)f;
    g->cancelled = true;
    if (!g->aborting)
        aiol_group_abort(g);
    return false;
}

AIOLOOP_API aioloop_task_group *aioloop_task_group_enter(aioloop *loop) {
    aioloop_task_group *g;
    if (loop == NULL || aiol_thread.running != loop || loop->task == NULL) {
        aiol_fail(loop, AIOLOOP_EMISUSE, "a task group outside of a task");
        return NULL;
    }
    g = (aioloop_task_group *)aiol_alloc_zero(&loop->allocator, sizeof(*g));
    if (g == NULL) {
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    aiol_list_init(&g->members);
    g->exit = aiol_future_new(loop, aiol_group_cancel, g);
    if (g->exit == NULL) {
        aiol_free(&loop->allocator, g, sizeof(*g));
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    g->parent = loop->task;
    aiol_future_hold(&g->parent->future);
    aiol_resource_add(loop, &g->resource, &aiol_group_resource);
    return g;
}

static aioloop_task *aiol_group_create(aioloop_task_group *g, const aioloop_task_recipe *recipe) {
    aioloop *loop;
    aioloop_task *task;
    aiol_member *m;
    if (g == NULL) {
        aiol_recipe_dispose(recipe);
        return aiol_future_failed(AIOLOOP_EINVAL);
    }
    loop = g->resource.loop;
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop)) {
        aiol_recipe_dispose(recipe);
        return aiol_future_failed(AIOLOOP_EMISUSE);
    }
    if (g->aborting || (g->exiting && aiol_list_empty(&g->members))) {
        aiol_recipe_dispose(recipe);
        return aiol_combine_failed(loop, aiol_fail(loop, AIOLOOP_EMISUSE, "the task group is ending"));
    }
    m = (aiol_member *)aiol_alloc_zero(&loop->allocator, sizeof(*m));
    if (m == NULL) {
        aiol_recipe_dispose(recipe);
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    }
    task = aiol_create_task(loop, recipe);
    if ((task->flags & AIOL_FUTURE_STATIC) != 0) {
        aiol_free(&loop->allocator, m, sizeof(*m));
        return task;
    }
    m->group = g;
    m->task = task;
    aiol_list_append(&g->members, &m->link);
    if (aiol_future_callback(task, aiol_group_task_done, m, NULL, 0) < 0) {
        aiol_list_remove(&m->link);
        aiol_free(&loop->allocator, m, sizeof(*m));
        aioloop_future_cancel(task, NULL); /* it has not begun; an eager one ends by itself, outside of the group */
        aioloop_future_unref(task);
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    }
    if (AIOL_UNLIKELY(g->aborting)) /* an eager one has cancelled the parent */
        aioloop_future_cancel(task, NULL);
    return task;
}

AIOLOOP_API aioloop_task *(aioloop_task_group_create_task)(aioloop_task_group *group, aioloop_coroutine fn, void *arg,
                                                           const aioloop_task_options *options) {
    aioloop_task_recipe recipe = aiol_recipe(fn, NULL, arg, options);
    return aiol_group_create(group, &recipe);
}

AIOLOOP_API aioloop_task *(aioloop_task_group_create_task_frame)(aioloop_task_group *group, aioloop_step fn,
                                                                 aioloop_frame *frame, const aioloop_task_options *options) {
    aioloop_task_recipe recipe = aiol_recipe(NULL, fn, frame, options);
    return aiol_group_create(group, &recipe);
}

AIOLOOP_API aioloop_future *(aioloop_task_group_exit)(aioloop_task_group *group, int64_t outcome) {
    aioloop *loop;
    aioloop_future *f;
    if (group == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    loop = group->resource.loop;
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop))
        return aiol_future_failed(AIOLOOP_EMISUSE);
    if (group->exiting || loop->task != group->parent)
        return aiol_combine_failed(loop, aiol_fail(loop, AIOLOOP_EMISUSE, "the task that entered a group leaves it, once"));
    f = group->exit;
    group->exiting = true;
    group->outcome = outcome < 0 ? 0 : outcome;
    group->cancelled = outcome == AIOLOOP_ECANCELED;
    if (group->parent_cancelled && aioloop_task_uncancel(&group->parent->future) == 0)
        group->cancelled = false;
    if (outcome < 0 && outcome != AIOLOOP_ECANCELED)
        aiol_group_add_body_error(group, (int)outcome);
    if (outcome < 0 && !group->aborting)
        aiol_group_abort(group);
    aiol_group_check_over(group);
    return f;
}

#endif

/* >> src/core/generator.c */
/*
 * generator.c - asynchronous generators, and what is closed with the loop.          (asyncio: base_events.py; PEP 525)
 *
 * The body is a task that nobody sees. At a yield its slot is in no list at all; a request puts it into the ready
 * queue, and the next yield, or the end, answers. So handing out a value needs memory for the future of the request
 * alone.
 *
 * The answered future is kept until the next request: if nobody has read it by then, its value is given again.
 */
#ifndef AIOL_CORE_GENERATOR_C
#define AIOL_CORE_GENERATOR_C

/* ---- closers ---- */

/* A shutdown under way. Its node calls the closers, in the next iteration. */
typedef struct aiol_shutdown {
    aiol_node node;
    aiol_resource resource;
    aioloop_future *future;
    aiol_link waiting; /* closers to be called */
    aiol_link closing; /* closers whose future is not done */
    bool cancelled;
} aiol_shutdown;

typedef struct aiol_closer {
    aiol_link link; /* among the loop's, or a shutdown's */
    aiol_shutdown *shutdown; /* that has it; NULL: none */
    aioloop_close_function close;
    void *arg;
    void (*through)(struct aiol_closer *closer); /* the shutdown is through with it */
    aiol_slot *slot;        /* in reserve, for the callback of: */
    aioloop_future *future; /* that of its closing */
    bool called;
} aiol_closer;

/* Makes ready what closing needs. 0 or AIOLOOP_ENOMEM. */
static int aiol_closer_init(aioloop *loop, aiol_closer *closer, aioloop_close_function close, void *arg,
                            void (*through)(aiol_closer *)) {
    closer->close = close;
    closer->arg = arg;
    closer->through = through;
    closer->slot = aiol_slot_new(loop);
    return closer->slot == NULL ? AIOLOOP_ENOMEM : 0;
}

static void aiol_closer_end(aioloop *loop, aiol_closer *closer) {
    aiol_slot *slot = closer->slot;
    aiol_list_remove(&closer->link);
    closer->slot = NULL;
    if (slot != NULL)
        aiol_slot_free(loop, slot);
}

static void aiol_closer_register(aioloop *loop, aiol_closer *closer, const char *what) {
    aiol_list_append(&loop->closers, &closer->link);
    if (loop->asyncgens_shutdown)
        aiol_warn(loop, 0, "%s %p was registered after aioloop_shutdown_asyncgens", what, closer->arg);
}

static void aiol_shutdown_destroy(aiol_resource *resource) {
    aiol_shutdown *s = AIOL_CONTAINER(resource, aiol_shutdown, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, s, sizeof(*s));
}

static const aiol_resource_calls aiol_shutdown_resource = {"shutdown", aiol_combine_closed, aiol_shutdown_destroy,
                                                           aiol_combine_is_open};

static void aiol_shutdown_check_over(aiol_shutdown *s) {
    aioloop_future *f = s->future;
    if (!aiol_list_empty(&s->waiting) || !aiol_list_empty(&s->closing))
        return;
    if (s->cancelled)
        aiol_future_end_cancelled(f, NULL);
    else
        aiol_future_finish(f, 0, NULL, NULL);
    aiol_shutdown_destroy(&s->resource);
    aiol_future_release(f);
}

/* One closing has ended, with code; f may be NULL. */
static void aiol_shutdown_ended(aiol_closer *closer, aioloop_future *f, int code, const char *detail) {
    aiol_shutdown *s = closer->shutdown;
    aioloop *loop = s->resource.loop;
    if (code < 0 && code != AIOLOOP_ECANCELED) {
        aioloop_exception_context context;
        memset(&context, 0, sizeof(context));
        context.message = "An error occurred while closing an asynchronous generator";
        context.detail = detail;
        context.future = f;
        context.asyncgen = closer->arg;
        aiol_report(loop, code, 0, &context);
    }
    aiol_list_remove(&closer->link);
    closer->shutdown = NULL;
    closer->future = NULL;
    closer->through(closer);
}

static void aiol_shutdown_done(aioloop_future *f, void *arg) {
    aiol_closer *closer = (aiol_closer *)arg;
    aiol_shutdown *s = closer->shutdown;
    f->flags |= AIOL_FUTURE_LOOKED_AT;
    aiol_shutdown_ended(closer, f, f->state == AIOL_FUTURE_FINISHED ? 0 : f->code,
                        f->error == NULL ? NULL : aioloop_error_message(f->error));
    aiol_shutdown_check_over(s);
}

/* Begins one closing. */
static void aiol_shutdown_close(aiol_shutdown *s, aiol_closer *closer) {
    aioloop *loop = s->resource.loop;
    aioloop_future *f;
    aiol_slot *slot;
    int err;
    aiol_list_remove(&closer->link);
    aiol_list_append(&s->closing, &closer->link);
    closer->called = true;
    f = closer->close(loop, closer->arg);
    err = f == NULL ? 0 : aiol_future_use(f);
    if (err == 0 && f != NULL && f->loop != loop) {
        aiol_future_release(f);
        err = aiol_fail(loop, AIOLOOP_EMISUSE, "the future of a closer belongs to another loop");
    }
    if (f == NULL || err < 0) {
        aiol_shutdown_ended(closer, NULL, err, NULL);
        return;
    }
    slot = closer->slot;
    closer->slot = NULL;
    closer->future = f;
    slot->flags |= AIOL_SLOT_HOLDS;
    aiol_slot_capture(slot, NULL);
    aiol_future_attach(f, slot, aiol_shutdown_done, closer);
    if (s->cancelled)
        aioloop_future_cancel(f, NULL);
}

static void aiol_shutdown_run(aioloop *loop, aiol_node *node) {
    aiol_shutdown *s = AIOL_CONTAINER(node, aiol_shutdown, node);
    aiol_frame frame = aiol_enter(loop, &s->resource.context);
    int raised;
    while (!aiol_list_empty(&s->waiting)) {
        aiol_closer *closer = AIOL_CONTAINER(s->waiting.next, aiol_closer, link);
        if (!s->cancelled) {
            aiol_shutdown_close(s, closer);
            continue;
        }
        aiol_list_remove(&closer->link); /* as it was */
        aiol_list_append(&loop->closers, &closer->link);
        closer->shutdown = NULL;
    }
    raised = loop->raised;
    loop->raised = 0;
    if (raised != 0) {
        aioloop_exception_context context;
        memset(&context, 0, sizeof(context));
        context.message = "Error in a closer";
        aiol_report(loop, raised, 0, &context);
    }
    aiol_callback_end(loop);
    aiol_leave(loop, &frame);
    aiol_shutdown_check_over(s);
}

static bool aiol_shutdown_cancel(aioloop_future *f, void *owner) {
    aiol_shutdown *s = (aiol_shutdown *)owner;
    aiol_link *link;
    (void)f;
    s->cancelled = true;
    for (link = s->closing.next; link != &s->closing; link = link->next) /* cancelling calls nobody */
        if (AIOL_CONTAINER(link, aiol_closer, link)->future != NULL)
            aioloop_future_cancel(AIOL_CONTAINER(link, aiol_closer, link)->future, NULL);
    return false;
}

AIOLOOP_API aioloop_future *(aioloop_shutdown_asyncgens)(aioloop *loop) {
    aiol_shutdown *s;
    aiol_link *link;
    int err = loop == NULL ? AIOLOOP_EINVAL : aiol_check(loop);
    if (err < 0)
        return aiol_future_failed(err);
    s = (aiol_shutdown *)aiol_alloc_zero(&loop->allocator, sizeof(*s));
    if (s != NULL)
        s->future = aiol_future_new(loop, aiol_shutdown_cancel, s);
    if (s == NULL || s->future == NULL) {
        aiol_free(&loop->allocator, s, sizeof(*s));
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    }
    loop->asyncgens_shutdown = true;
    aiol_resource_add(loop, &s->resource, &aiol_shutdown_resource);
    aiol_list_init(&s->waiting);
    aiol_list_init(&s->closing);
    aiol_list_move(&s->waiting, &loop->closers);
    for (link = s->waiting.next; link != &s->waiting; link = link->next)
        AIOL_CONTAINER(link, aiol_closer, link)->shutdown = s;
    if (aiol_list_empty(&s->waiting)) {
        aioloop_future *f = s->future;
        aiol_shutdown_check_over(s);
        return f;
    }
    s->resource.context = aiol_map_ref(aiol_thread.map);
    s->node.run = aiol_shutdown_run;
    aiol_queue_push(&loop->ready, &s->node);
    return s->future;
}

/* ---- closers of the program's own ---- */

struct aioloop_closer {
    aiol_resource resource;
    aiol_closer closer;
    bool unregistered; /* goes when the shutdown is through with it */
};

static void aiol_own_closer_destroy(aiol_resource *resource) {
    aioloop_closer *c = AIOL_CONTAINER(resource, aioloop_closer, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, c, sizeof(*c));
}

static const aiol_resource_calls aiol_own_closer_resource = {"closer", aiol_combine_closed, aiol_own_closer_destroy,
                                                             aiol_combine_is_open};

static void aiol_own_closer_through(aiol_closer *closer) {
    aioloop_closer *c = AIOL_CONTAINER(closer, aioloop_closer, closer);
    if (!c->unregistered)
        return;
    aiol_closer_end(c->resource.loop, closer);
    aiol_own_closer_destroy(&c->resource);
}

AIOLOOP_API aioloop_closer *(aioloop_register_closer)(aioloop *loop, aioloop_close_function close, void *arg) {
    aioloop_closer *c;
    int err = loop == NULL ? AIOLOOP_EINVAL : aiol_check(loop);
    if (err == 0 && close == NULL)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "a closer needs a function");
    if (err < 0)
        return NULL;
    c = (aioloop_closer *)aiol_alloc_zero(&loop->allocator, sizeof(*c));
    if (c == NULL || aiol_closer_init(loop, &c->closer, close, arg, aiol_own_closer_through) < 0) {
        aiol_free(&loop->allocator, c, sizeof(*c));
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    aiol_resource_add(loop, &c->resource, &aiol_own_closer_resource);
    aiol_closer_register(loop, &c->closer, "the closer of");
    return c;
}

AIOLOOP_API void aioloop_unregister_closer(aioloop_closer *closer) {
    if (closer == NULL || closer->resource.loop->freeing)
        return; /* it goes with the loop */
    closer->unregistered = true;
    if (closer->closer.shutdown == NULL || !closer->closer.called)
        aiol_own_closer_through(&closer->closer);
}

/* ---- generators ---- */

enum {
    AIOL_GENERATOR_IDLE,  /* has not begun, or is at a yield */
    AIOL_GENERATOR_ASKED, /* a request is under way */
    AIOL_GENERATOR_OVER   /* has ended, or was given up */
};

struct aioloop_generator {
    aiol_resource resource;  /* references: the program's, one of a request, of the ready queue, of a shutdown */
    aiol_closer closer;      /* registered from the first step on */
    aiol_task *task;         /* with a reference; NULL when it has ended */
    aioloop_future *waiter;  /* of the request under way; NULL: nobody waits */
    aioloop_future *last;    /* that had the last value */
    aioloop_future *closing; /* in reserve; with close_behind: given out already */
    int64_t sent;            /* what yield returns */
    uint8_t state;
    bool closes;       /* the request is to close */
    bool cancelled;    /* and was cancelled when the body had heard of it */
    bool queued;       /* the body's slot is in the ready queue */
    bool close_behind; /* when the request is answered, it is closed */
};

static void aiol_run_generator(aioloop *loop, aiol_node *node);

static bool aiol_generator_began(const aioloop_generator *g) {
    return g->task != NULL && (g->task->flags & AIOL_TASK_STARTED) != 0;
}

/* Lets go of the body. What is suspended for good stays with the loop, which reports it in the end. */
static void aiol_generator_detach(aioloop_generator *g) {
    aiol_task *task = g->task;
    if (task == NULL)
        return;
    g->task = NULL;
    if (task->extra != NULL && !g->queued)
        task->extra->generator = NULL; /* else the queue has a reference, and comes back to it */
    aiol_future_release(&task->future);
}

/* Ends the body without having run it. What its argument is disposed of by may let go of the generator. */
static void aiol_generator_never_begin(aioloop_generator *g) {
    aiol_task *task = g->task;
    g->state = AIOL_GENERATOR_OVER;
    aiol_future_hold(&task->future);
    aiol_generator_detach(g);
    aiol_task_end_coroutine(task, false);
    aiol_future_release(&task->future);
}

static void aiol_generator_destroy(aiol_resource *resource) {
    aioloop_generator *g = AIOL_CONTAINER(resource, aioloop_generator, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, g, sizeof(*g));
}

static const aiol_resource_calls aiol_generator_resource = {"generator", aiol_combine_closed, aiol_generator_destroy,
                                                            aiol_combine_is_open};

static void aiol_generator_end(aioloop_generator *g) {
    aioloop_future *last = g->last;
    aioloop_future *closing = g->closing;
    aiol_generator_detach(g);
    aiol_closer_end(g->resource.loop, &g->closer);
    aiol_generator_destroy(&g->resource);
    if (closing != NULL) { /* nobody has it: neither reference was given away */
        closing->end.cancel = NULL;
        aiol_future_release(closing);
        aioloop_future_unref(closing);
    }
    if (last != NULL)
        aiol_future_release(last); /* with the value, if nobody has taken it */
}

/* Has the body go on: sent is what yield returns. f (may be NULL) is told the outcome. */
static void aiol_generator_ask(aioloop_generator *g, aioloop_future *f, bool closes, int64_t sent) {
    aioloop *loop = g->resource.loop;
    aioloop_future *last = g->last;
    g->last = NULL;
    g->waiter = f;
    g->closes = closes;
    g->cancelled = false;
    g->sent = sent;
    g->state = AIOL_GENERATOR_ASKED;
    g->resource.refs++;
    if (!g->queued) {
        g->queued = true;
        g->resource.refs++;
        aiol_future_hold(&g->task->future);
        g->task->slot.at.node.run = aiol_run_generator;
        aiol_queue_push(&loop->ready, &g->task->slot.at.node);
    }
    if (last != NULL)
        aiol_future_release(last);
}

static bool aiol_generator_cancel(aioloop_future *f, void *owner) {
    aioloop_generator *g = (aioloop_generator *)owner;
    if (f != g->waiter) { /* the closing that was to follow */
        g->close_behind = false;
        g->closing = NULL;
        aiol_future_release(f);
        return true;
    }
    if (g->queued) { /* the body has not heard of it */
        g->waiter = NULL;
        g->state = AIOL_GENERATOR_IDLE;
        g->resource.refs--; /* the queue has another */
        aiol_future_release(f);
        return true;
    }
    g->cancelled = true;
    aioloop_future_cancel(&g->task->future, NULL);
    return false;
}

/* The future for a closing; NULL when there is neither the one in reserve nor memory. */
static aioloop_future *aiol_generator_take_closing(aioloop_generator *g) {
    aioloop_future *f = g->close_behind ? NULL : g->closing;
    if (f == NULL)
        return aiol_future_new(g->resource.loop, aiol_generator_cancel, g);
    g->closing = NULL;
    return f;
}

/* The last reference went. */
static void aiol_generator_unneeded(aioloop_generator *g) {
    if (g->state == AIOL_GENERATOR_IDLE && aiol_generator_began(g)) {
        aioloop_future *f;
        if (g->resource.loop->closed)
            return; /* it goes with the loop */
        f = aiol_generator_take_closing(g);
        aiol_generator_ask(g, f, true, AIOLOOP_EGENERATOREXIT);
        aioloop_future_unref(f); /* an error is reported, since nobody looks at it */
        return;
    }
    if (g->state == AIOL_GENERATOR_IDLE)
        aiol_generator_never_begin(g);
    aiol_generator_end(g);
}

static void aiol_generator_release(aioloop_generator *g) {
    if (--g->resource.refs == 0)
        aiol_generator_unneeded(g);
}

/* The body's first step, or the next after a yield. */
static void aiol_run_generator(aioloop *loop, aiol_node *node) {
    aiol_task *task = aiol_task_of_slot((aiol_slot *)(void *)node);
    aioloop_generator *g = task->extra->generator;
    g->queued = false;
    if (g->task == NULL)
        task->extra->generator = NULL;
    if (g->state == AIOL_GENERATOR_ASKED) { /* else the request was cancelled */
        if (aiol_generator_began(g)) {
            task->slot.u.future = &aiol_future_slept;
        } else {
            aiol_future_hold(&task->future); /* the loop's, until it is done */
            aiol_closer_register(loop, &g->closer, "the asynchronous generator");
        }
        aiol_run_task(loop, node);
    }
    aiol_generator_release(g);
    aiol_future_release(&task->future);
}

/* ---- answers ---- */

static void aiol_generator_nothing_to_dispose(void *pointer) {
    (void)pointer;
}

/* The request ends with an error; takes error (may be NULL) over. */
static void aiol_generator_fail(aioloop_future *f, int code, struct aioloop_error *error) {
    aiol_future_fail_with(f, code, error);
    aiol_future_release(f);
}

/* Not in a list of what is to be closed any more, unless a shutdown is at it. */
static void aiol_generator_unregister(aioloop_generator *g) {
    if (g->closer.shutdown == NULL || !g->closer.called)
        aiol_list_remove(&g->closer.link);
}

/* The body hands out a value. */
static void aiol_generator_give(aioloop_generator *g, int64_t number, void *pointer) {
    aioloop *loop = g->resource.loop;
    aiol_task *task = g->task;
    aioloop_future *f = g->waiter;
    void (*dispose)(void *) = pointer != NULL ? task->future.end.dispose : NULL;
    if (dispose == NULL)
        dispose = aiol_generator_nothing_to_dispose; /* with one, the value is in one place only, whoever follows the future */
    g->waiter = NULL;
    g->state = AIOL_GENERATOR_IDLE;
    if (g->cancelled && (task->flags & AIOL_TASK_MUST_CANCEL) != 0) { /* by the body itself, which is not to hear of it */
        task->flags &= (uint16_t)~AIOL_TASK_MUST_CANCEL;
        (void)aioloop_task_uncancel(&task->future);
        aiol_future_end_cancelled(f, NULL);
        aiol_future_release(f);
        f = aiol_future_new(loop, NULL, NULL); /* keeps the value for the next request */
        aioloop_future_unref(f);
    }
    g->last = f;
    if (f != NULL) {
        aiol_future_finish(f, number, pointer, dispose);
    } else {
        dispose(pointer);
    }
    if (g->close_behind) {
        f = g->closing;
        g->closing = NULL;
        g->close_behind = false;
        aiol_generator_ask(g, f, true, AIOLOOP_EGENERATOREXIT);
    }
    aiol_generator_release(g);
}

/* The body hands out a value while it is being closed: it is left where it is. */
static void aiol_generator_ignored(aioloop_generator *g, void *pointer) {
    static const char text[] = "the generator ignored AIOLOOP_EGENERATOREXIT";
    aioloop *loop = g->resource.loop;
    void (*dispose)(void *) = g->task->future.end.dispose;
    aioloop_future *f = g->waiter;
    g->waiter = NULL;
    g->state = AIOL_GENERATOR_OVER;
    aiol_generator_unregister(g);
    if (f != NULL)
        aiol_generator_fail(f, AIOLOOP_EMISUSE, aiol_error_new(&loop->allocator, AIOLOOP_EMISUSE, text, 0));
    if (g->close_behind) {
        f = g->closing;
        g->closing = NULL;
        g->close_behind = false;
        aiol_generator_fail(f, AIOLOOP_EMISUSE, aiol_error_new(&loop->allocator, AIOLOOP_EMISUSE, text, 0));
    }
    if (dispose != NULL && pointer != NULL)
        dispose(pointer);
    aiol_generator_release(g);
}

static void aiol_generator_body_done(aioloop_future *body, void *arg) {
    aioloop_generator *g = (aioloop_generator *)arg;
    aioloop_future *f = g->waiter;
    int code = body->state == AIOL_FUTURE_FINISHED ? AIOLOOP_ESTOPITERATION : body->code;
    bool ended = code == AIOLOOP_ESTOPITERATION || (g->closes && code == AIOLOOP_EGENERATOREXIT);
    body->flags |= AIOL_FUTURE_LOOKED_AT;
    if (body->state == AIOL_FUTURE_FINISHED && body->of.pointer == NULL)
        body->flags |= AIOL_FUTURE_TAKEN; /* there is nothing to dispose of */
    g->waiter = NULL;
    g->state = AIOL_GENERATOR_OVER;
    aiol_generator_unregister(g);
    aiol_generator_detach(g);
    if (f != NULL && ended && g->closes) {
        aiol_future_finish(f, 0, NULL, NULL);
        aiol_future_release(f);
    } else if (f != NULL) {
        aiol_generator_fail(f, code, code == AIOLOOP_ESTOPITERATION ? NULL : aiol_error_ref(body->error));
    }
    if (g->close_behind) {
        f = g->closing;
        g->closing = NULL;
        g->close_behind = false;
        aiol_future_finish(f, 0, NULL, NULL);
        aiol_future_release(f);
    }
    aiol_generator_release(g);
}

/* ---- inside ---- */

/* 0: the body is to be suspended. */
static int aiol_generator_yield(aioloop *loop, aiol_task *task, int64_t number, void *pointer) {
    aioloop_generator *g = task == NULL || (task->flags & AIOL_TASK_GENERATOR) == 0 ? NULL : task->extra->generator;
    if (g == NULL || g->state != AIOL_GENERATOR_ASKED)
        return aiol_fail(loop, AIOLOOP_EMISUSE, "a yield outside of the body of a generator");
    if (aiol_thread.run != loop->entered)
        return aiol_fail(loop, AIOLOOP_EMISUSE, "a yield inside of aioloop_context_run");
    if (number < 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a value is a number of 0 or more");
    task->slot.u.future = NULL;
    if (g->closes)
        aiol_generator_ignored(g, pointer);
    else
        aiol_generator_give(g, number, pointer);
    task->flags |= AIOL_TASK_WAITS;
    return 0;
}

/* What the yield returns. */
static int64_t aiol_generator_resumed(aioloop *loop, aiol_task *task) {
    int64_t n = aiol_task_take(loop, task, NULL);
    if (n < 0)
        return n;
    n = task->extra->generator->sent;
    return n < 0 ? aiol_fail(loop, (int)n, NULL) : n;
}

AIOLOOP_API AIOL_NOINLINE int64_t aioloop_yield(aioloop *loop, int64_t number, void *pointer) {
    aiol_task *task = aiol_frame_task(loop);
    int err;
    if (task != NULL && !aiol_task_may_block(loop, task))
        return aiol_fail(loop, AIOLOOP_EMISUSE, "a coroutine without a stack hands out values by AIOLOOP_YIELD");
    err = aiol_generator_yield(loop, task, number, pointer);
    if (err < 0)
        return err;
    aiol_task_block(task);
    return aiol_generator_resumed(loop, task);
}

AIOLOOP_API bool aioloop_frame_yield(aioloop *loop, int64_t number, void *pointer) {
    aiol_task *task = aiol_frame_task(loop);
    int err = aiol_generator_yield(loop, task, number, pointer);
    if (err == 0)
        return aiol_frame_suspend(loop, task, true);
    if (task != NULL)
        task->slot.u.future = aiol_future_failed(err);
    return false;
}

AIOLOOP_API int64_t aioloop_frame_yielded(aioloop *loop) {
    aiol_task *task = aiol_frame_task(loop);
    if (task == NULL)
        return AIOLOOP_EMISUSE;
    return aiol_generator_resumed(loop, task);
}

/* ---- outside ---- */

/* A shutdown closes it. */
static aioloop_future *aiol_generator_shut(aioloop *loop, void *arg) {
    aioloop_generator *g = (aioloop_generator *)arg;
    aioloop_future *f = aiol_generator_take_closing(g);
    g->resource.refs++; /* the shutdown's */
    if (f == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    if (g->state == AIOL_GENERATOR_ASKED && !g->closes)
        aioloop_future_cancel(g->waiter, NULL);
    if (g->state == AIOL_GENERATOR_ASKED) {
        g->closing = f;
        g->close_behind = true;
    } else {
        aiol_generator_ask(g, f, true, AIOLOOP_EGENERATOREXIT);
    }
    return f;
}

static void aiol_generator_through(aiol_closer *closer) {
    aiol_generator_release(AIOL_CONTAINER(closer, aioloop_generator, closer));
}

static aioloop_generator *aiol_generator_new(aioloop *loop, const aioloop_task_recipe *recipe) {
    aioloop_generator *g;
    int err = loop == NULL ? AIOLOOP_EINVAL : aiol_recipe_check(loop, recipe);
    if (err == 0 && recipe->options.timeout != 0)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "a generator has no time-out; aioloop_generator_anext may have one");
    if (err < 0) {
        aiol_recipe_dispose(recipe);
        return NULL;
    }
    g = (aioloop_generator *)aiol_alloc_zero(&loop->allocator, sizeof(*g));
    if (g != NULL)
        g->task = aiol_task_make(loop, recipe);
    if (g == NULL || g->task == NULL) {
        aiol_free(&loop->allocator, g, sizeof(*g));
        aiol_recipe_dispose(recipe);
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    g->resource.refs = 1;
    aiol_resource_add(loop, &g->resource, &aiol_generator_resource);
    g->task->flags |= AIOL_TASK_GENERATOR;
    g->task->future.flags &= (uint16_t)~AIOL_FUTURE_UNCLAIMED;
    g->closing = aiol_future_new(loop, aiol_generator_cancel, g);
    if (g->closing == NULL || aiol_task_extra_of(g->task) == NULL || aiol_task_adorn(g->task, &recipe->options) < 0 ||
        aiol_closer_init(loop, &g->closer, aiol_generator_shut, g, aiol_generator_through) < 0 ||
        aiol_future_callback(&g->task->future, aiol_generator_body_done, g, NULL, 0) < 0) {
        aiol_generator_never_begin(g);
        aiol_generator_end(g);
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    g->task->extra->generator = g;
    return g;
}

AIOLOOP_API aioloop_generator *(aioloop_generator_new)(aioloop *loop, aioloop_coroutine fn, void *arg,
                                                       const aioloop_task_options *options) {
    aioloop_task_recipe recipe = aiol_recipe(fn, NULL, arg, options);
    return aiol_generator_new(loop, &recipe);
}

AIOLOOP_API aioloop_generator *(aioloop_generator_new_frame)(aioloop *loop, aioloop_step fn, aioloop_frame *frame,
                                                             const aioloop_task_options *options) {
    aioloop_task_recipe recipe = aiol_recipe(NULL, fn, frame, options);
    return aiol_generator_new(loop, &recipe);
}

AIOLOOP_API aioloop_generator *aioloop_generator_ref(aioloop_generator *generator) {
    if (generator != NULL)
        generator->resource.refs++;
    return generator;
}

AIOLOOP_API void aioloop_generator_unref(aioloop_generator *generator) {
    if (generator != NULL && !generator->resource.loop->freeing)
        aiol_generator_release(generator);
}

static int aiol_generator_check(aioloop_generator *g) {
    int err = g == NULL ? AIOLOOP_EINVAL : aiol_check(g->resource.loop);
    if (err == 0 && (g->state == AIOL_GENERATOR_ASKED || g->close_behind))
        err = aiol_fail(g->resource.loop, AIOLOOP_EMISUSE, "the generator is running already");
    return err;
}

static aioloop_future *aiol_generator_refuse(aioloop_generator *g, int code) {
    return code == AIOLOOP_EINVAL || code == AIOLOOP_ECLOSED ? aiol_future_failed(code)
                                                             : aiol_combine_failed(g->resource.loop, code);
}

/* Whether the value that was handed out last was read, or still may be. */
static bool aiol_generator_is_unread(const aioloop_generator *g) {
    return g->last != NULL && g->last->refs == 1 && (g->last->flags & (AIOL_FUTURE_TAKEN | AIOL_FUTURE_READ)) == 0;
}

/* Gives it again. */
static void aiol_generator_repeat(aioloop_generator *g, aioloop_future *f) {
    aioloop_future *last = g->last;
    last->flags |= AIOL_FUTURE_TAKEN;
    aiol_future_finish(f, last->number, last->of.pointer, last->end.dispose);
    g->last = f;
    aiol_future_release(last);
}

static aioloop_future *aiol_generator_request(aioloop_generator *g, bool repeats, int64_t sent) {
    aioloop_future *f;
    aioloop *loop;
    int err = aiol_generator_check(g);
    if (err < 0)
        return aiol_generator_refuse(g, err);
    loop = g->resource.loop;
    if (g->state == AIOL_GENERATOR_OVER) {
        err = aiol_fail(loop, AIOLOOP_ESTOPITERATION, NULL);
    } else if (!aiol_generator_began(g) && sent > 0) {
        err = aiol_fail(loop, AIOLOOP_EMISUSE, "a generator that has not begun has no yield to answer");
    } else if (!aiol_generator_began(g) && sent < 0) {
        f = aiol_generator_refuse(g, aiol_fail(loop, (int)sent, NULL));
        aiol_generator_never_begin(g);
        return f;
    }
    if (err < 0)
        return aiol_generator_refuse(g, err);
    f = aiol_future_new(loop, aiol_generator_cancel, g);
    if (f == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    if (repeats && aiol_generator_is_unread(g))
        aiol_generator_repeat(g, f);
    else
        aiol_generator_ask(g, f, false, sent);
    return f;
}

AIOLOOP_API aioloop_future *(aioloop_generator_anext)(aioloop_generator *generator) {
    return aiol_generator_request(generator, true, 0);
}

AIOLOOP_API aioloop_future *(aioloop_generator_asend)(aioloop_generator *generator, int64_t number) {
    return number < 0 ? aiol_future_failed(AIOLOOP_EINVAL) : aiol_generator_request(generator, false, number);
}

AIOLOOP_API aioloop_future *(aioloop_generator_athrow)(aioloop_generator *generator, int code) {
    return code >= 0 ? aiol_future_failed(AIOLOOP_EINVAL) : aiol_generator_request(generator, false, code);
}

AIOLOOP_API aioloop_future *(aioloop_generator_aclose)(aioloop_generator *generator) {
    aioloop_future *f;
    int err = aiol_generator_check(generator);
    if (err < 0)
        return aiol_generator_refuse(generator, err);
    f = aiol_generator_take_closing(generator);
    if (f == NULL)
        return aiol_future_failed(aiol_fail(generator->resource.loop, AIOLOOP_ENOMEM, NULL));
    if (generator->state == AIOL_GENERATOR_IDLE && aiol_generator_began(generator)) {
        aiol_generator_ask(generator, f, true, AIOLOOP_EGENERATOREXIT);
        return f;
    }
    aiol_future_finish(f, 0, NULL, NULL);
    aiol_future_release(f);
    if (generator->state == AIOL_GENERATOR_IDLE)
        aiol_generator_never_begin(generator);
    return f;
}

#endif

/* >> src/core/threadsafe.c */
/*
 * threadsafe.c - coroutines for a loop from other threads.                  (asyncio: tasks.py, futures.py)
 *
 * A concurrent future is on a list of its loop, under the list's lock, until the loop is through with it; so
 * aioloop_close finds those whose post or task it drops, and no waiter hangs. A lock of its own guards its state and
 * its pointer to the loop: whoever posts to the loop does so with that lock held, and aioloop_close takes it to take
 * the pointer away.
 *
 * Both posts that it may need, to begin and to cancel, have their slots from the start, so neither can fail.
 */
#ifndef AIOL_CORE_THREADSAFE_C
#define AIOL_CORE_THREADSAFE_C

/* All of a loop's. */
typedef struct aiol_concurrents {
    aiol_mutex mutex;
    aiol_link list;
} aiol_concurrents;

struct aioloop_concurrent_future {
    int failed; /* the code of a static one; 0: the first member of an aiol_concurrent */
};

typedef struct aiol_concurrent {
    aioloop_concurrent_future future;
    uint32_t refs;
    uint32_t done; /* the outcome is there, for those who look without the lock */
    int process;   /* in a forked child its locks are not to be touched: a thread that is not there may hold them */
    aiol_link link;
    aioloop_allocator allocator;
    size_t size;
    aiol_mutex mutex; /* guards the rest but for what is the loop's thread's */
    aiol_thread_condition changed;
    aioloop *loop;     /* NULL: it is through with this */
    aiol_slot *cancel; /* in reserve */
    aioloop_handle cancelling;
    aiol_link followers;
    uint8_t state; /* aiol_future_state */
    bool begun;    /* the loop has looked at it */
    bool taken;
    int code;
    int64_t number;
    void *pointer;
    void (*dispose)(void *pointer);
    char text[AIOL_ERROR_TEXT_SIZE];
    aioloop_task *task;         /* the loop's thread's, as is */
    aioloop_task_recipe recipe; /* its name and a copy of its argument follow */
} aiol_concurrent;

#define AIOL_CONCURRENT_ROOM ((sizeof(aiol_concurrent) + 15) / 16 * 16)

/* A future of a loop that is to be what a concurrent one is. */
typedef struct aiol_wrapping {
    aiol_resource resource;
    aiol_link link; /* among the followers, under the other's lock; in no list: posted */
    aiol_concurrent *concurrent; /* with a reference */
    aioloop_future *future;      /* NULL: it was cancelled */
    aiol_slot *slot;             /* in reserve; NULL: posted */
} aiol_wrapping;

static aioloop_concurrent_future aiol_concurrent_invalid = {AIOLOOP_EINVAL};
static aioloop_concurrent_future aiol_concurrent_no_memory = {AIOLOOP_ENOMEM};
static aioloop_concurrent_future aiol_concurrent_closed = {AIOLOOP_ECLOSED};
static aioloop_concurrent_future aiol_concurrent_not_available = {AIOLOOP_ENOTAVAILABLE};

static aioloop_concurrent_future *aiol_concurrent_failed(int code) {
    switch (aiol_fail(NULL, code, NULL)) {
    case AIOLOOP_ENOMEM:
        return &aiol_concurrent_no_memory;
    case AIOLOOP_ECLOSED:
        return &aiol_concurrent_closed;
    case AIOLOOP_ENOTAVAILABLE:
        return &aiol_concurrent_not_available;
    default:
        return &aiol_concurrent_invalid;
    }
}

/* NULL for a static one. */
static aiol_concurrent *aiol_concurrent_of(const aioloop_concurrent_future *future) {
    return future->failed != 0 ? NULL : (aiol_concurrent *)(uintptr_t)future;
}

static bool aiol_concurrent_is_ours(const aiol_concurrent *c) {
    return c->process == aiol_process_id();
}

static void aiol_concurrent_lock(aiol_concurrent *c) {
    if (aiol_concurrent_is_ours(c))
        aiol_mutex_lock(&c->mutex);
}

static void aiol_concurrent_unlock(aiol_concurrent *c) {
    if (aiol_concurrent_is_ours(c))
        aiol_mutex_unlock(&c->mutex);
}

/* ---- making and ending ---- */

static void aiol_concurrent_free(aiol_concurrent *c) {
    aioloop_allocator allocator = c->allocator;
    if (aiol_concurrent_is_ours(c)) {
        aiol_thread_condition_destroy(&c->changed);
        aiol_mutex_destroy(&c->mutex);
    }
    aiol_free(&allocator, c, c->size);
}

static void aiol_concurrent_unref(aiol_concurrent *c) {
    if (aiol_add_u32(&c->refs, (uint32_t)-1) != 0)
        return;
    if (c->state == AIOL_FUTURE_FINISHED && !c->taken && c->dispose != NULL)
        c->dispose(c->pointer);
    aiol_concurrent_free(c);
}

/* Pending, with two references: the caller's and the loop's. 0, AIOLOOP_ENOMEM or AIOLOOP_ENOTAVAILABLE. */
static int aiol_concurrent_new(aioloop *loop, const aioloop_task_recipe *recipe, aiol_concurrent **out) {
    const aioloop_task_options *options = &recipe->options;
    size_t name_size = options->name == NULL ? 0 : strlen(options->name) + 1;
    size_t size = AIOL_CONCURRENT_ROOM + options->copy_size + name_size;
    aiol_concurrent *c = (aiol_concurrent *)aiol_alloc_zero(&loop->allocator, size);
    char *copies = (char *)c + AIOL_CONCURRENT_ROOM;
    int err;
    if (c == NULL)
        return AIOLOOP_ENOMEM;
    err = aiol_mutex_init(&c->mutex);
    if (err == 0 && (err = aiol_thread_condition_init(&c->changed)) < 0)
        aiol_mutex_destroy(&c->mutex);
    if (err < 0) {
        aiol_free(&loop->allocator, c, size);
        return err;
    }
    c->refs = 2;
    c->process = aiol_process_id();
    c->allocator = loop->allocator;
    c->size = size;
    c->loop = loop;
    c->recipe = *recipe;
    aiol_list_init(&c->followers);
    if (options->copy_size != 0) {
        memcpy(copies, recipe->arg, options->copy_size);
        c->recipe.arg = copies;
    }
    if (name_size != 0) {
        memcpy(copies + options->copy_size, options->name, name_size);
        c->recipe.options.name = copies + options->copy_size;
    }
    if (options->context != NULL)
        (void)aioloop_context_ref(options->context);
    *out = c;
    return 0;
}

/* ---- the outcome ---- */

static void aiol_wrapping_done(aioloop *loop, void *arg);

/* With the lock held, of one that is done: the loops that follow it are told. */
static void aiol_concurrent_post(aiol_concurrent *c) {
    while (!aiol_list_empty(&c->followers)) {
        aiol_wrapping *w = AIOL_CONTAINER(c->followers.next, aiol_wrapping, link);
        aiol_slot *slot = w->slot;
        aiol_list_remove(&w->link);
        w->slot = NULL;
        (void)aiol_remote_post(w->resource.loop, slot, aiol_wrapping_done, w, NULL);
    }
}

/* With the lock held: whoever waits is told. What the outcome consists of is there, but for the state. */
static void aiol_concurrent_settle(aiol_concurrent *c, aiol_future_state state) {
    c->state = (uint8_t)state;
    aiol_store(&c->done, 1);
    if (!aiol_concurrent_is_ours(c))
        return;
    aiol_thread_condition_broadcast(&c->changed);
    aiol_concurrent_post(c);
}

/* With the lock held. */
static void aiol_concurrent_settle_failed(aiol_concurrent *c, int code, const char *text) {
    c->code = code;
    snprintf(c->text, sizeof(c->text), "%s", text == NULL ? aioloop_strerror(code) : text);
    aiol_concurrent_settle(c, code == AIOLOOP_ECANCELED ? AIOL_FUTURE_CANCELLED : AIOL_FUTURE_FAILED);
}

/* With the lock held: f, which is done, is the outcome. Its result has a new owner then. */
static void aiol_concurrent_settle_as(aiol_concurrent *c, aioloop_future *f) {
    const aioloop_future *owner = f;
    while ((owner->flags & AIOL_FUTURE_BORROWS) != 0)
        owner = owner->next.source;
    f->flags |= AIOL_FUTURE_LOOKED_AT;
    if (f->state != AIOL_FUTURE_FINISHED) {
        aiol_concurrent_settle_failed(c, f->code, f->error == NULL ? NULL : aioloop_error_message(f->error));
        return;
    }
    if ((owner->flags & AIOL_FUTURE_TAKEN) == 0)
        c->dispose = owner->end.dispose;
    c->number = aioloop_future_result(f, &c->pointer);
    aiol_concurrent_settle(c, AIOL_FUTURE_FINISHED);
}

/* ---- in the loop's thread ---- */

/* The loop is through with it. f: its task, which is done; NULL: it failed with code. Ends the loop's reference. */
static void aiol_concurrent_leave(aioloop *loop, aiol_concurrent *c, aioloop_future *f, int code) {
    aiol_concurrents *all = (aiol_concurrents *)aiol_load(&loop->concurrents);
    aiol_slot *slot;
    aioloop_handle cancelling;
    aiol_mutex_lock(&all->mutex);
    aiol_list_remove(&c->link);
    aiol_mutex_unlock(&all->mutex);
    aiol_concurrent_lock(c);
    c->loop = NULL;
    slot = c->cancel;
    c->cancel = NULL;
    cancelling = c->cancelling;
    if (c->state == AIOL_FUTURE_PENDING && f != NULL)
        aiol_concurrent_settle_as(c, f);
    else if (c->state == AIOL_FUTURE_PENDING)
        aiol_concurrent_settle_failed(c, code, aiol_detail(loop, code));
    aiol_concurrent_unlock(c);
    if (slot != NULL)
        aiol_slot_free(loop, slot);
    else
        aioloop_handle_cancel(&cancelling); /* it would come too late */
    if (c->task != NULL)
        aioloop_future_unref(c->task);
    aiol_concurrent_unref(c);
}

static void aiol_concurrent_task_done(aioloop_future *f, void *arg) {
    aiol_concurrent_leave(f->loop, (aiol_concurrent *)arg, f, 0);
}

/* What was posted first. */
static void aiol_concurrent_begin(aioloop *loop, void *arg) {
    aiol_concurrent *c = (aiol_concurrent *)arg;
    aioloop_context *context = c->recipe.options.context;
    aiol_slot *slot = NULL;
    bool cancelled;
    int code = AIOLOOP_ENOMEM;
    aiol_concurrent_lock(c);
    c->begun = true;
    cancelled = c->state != AIOL_FUTURE_PENDING;
    aiol_concurrent_unlock(c);
    if (!cancelled)
        slot = aiol_slot_new(loop);
    if (slot == NULL) {
        aiol_recipe_dispose(&c->recipe);
        aiol_fail(loop, code, NULL);
    } else {
        aioloop_task *task = aiol_create_task(loop, &c->recipe);
        code = task->code;
        if ((task->flags & AIOL_FUTURE_STATIC) == 0) {
            c->task = aioloop_future_ref(task);
            aiol_slot_capture(slot, NULL);
            aiol_future_attach(task, slot, aiol_concurrent_task_done, c);
        } else {
            aiol_slot_free(loop, slot);
        }
    }
    aioloop_context_unref(context);
    if (c->task == NULL)
        aiol_concurrent_leave(loop, c, NULL, code);
}

/* What is posted when it is cancelled after that. */
static void aiol_concurrent_cancel_task(aioloop *loop, void *arg) {
    (void)loop;
    aioloop_future_cancel(((aiol_concurrent *)arg)->task, NULL);
}

/* The loop was closed, and nothing of it will run any more: waiters are told. What else there is goes with the loop. */
static void aiol_concurrents_close(aioloop *loop) {
    aiol_concurrents *all = (aiol_concurrents *)aiol_load(&loop->concurrents);
    aiol_link *link;
    if (all == NULL)
        return;
    if (loop->process == aiol_process_id()) { /* whoever had not seen that posts are refused is through with the list then */
        aiol_mutex_lock(&all->mutex);
        aiol_mutex_unlock(&all->mutex);
    }
    for (link = all->list.next; link != &all->list; link = link->next) {
        aiol_concurrent *c = AIOL_CONTAINER(link, aiol_concurrent, link);
        aiol_concurrent_lock(c);
        c->loop = NULL;
        c->cancel = NULL;
        if (c->state == AIOL_FUTURE_PENDING)
            aiol_concurrent_settle_failed(c, AIOLOOP_ECLOSED, NULL);
        aiol_concurrent_unlock(c);
    }
}

static void aiol_concurrents_free(aioloop *loop) {
    aiol_concurrents *all = (aiol_concurrents *)aiol_load(&loop->concurrents);
    if (all == NULL)
        return;
    while (!aiol_list_empty(&all->list)) {
        aiol_concurrent *c = AIOL_CONTAINER(all->list.next, aiol_concurrent, link);
        aiol_list_remove(&c->link);
        if (!c->begun) {
            aiol_recipe_dispose(&c->recipe);
            aioloop_context_unref(c->recipe.options.context);
        }
        aiol_concurrent_unref(c);
    }
    if (loop->process == aiol_process_id())
        aiol_mutex_destroy(&all->mutex);
    loop->concurrents = NULL;
    aiol_free(&loop->allocator, all, sizeof(*all));
}

/* ---- in any thread ---- */

/* The loop's list; NULL with *err when it cannot be made. */
static aiol_concurrents *aiol_concurrents_of(aioloop *loop, int *err) {
    void *there = aiol_load(&loop->concurrents);
    aiol_concurrents *mine;
    if (there != NULL)
        return (aiol_concurrents *)there;
    mine = (aiol_concurrents *)aiol_alloc(&loop->allocator, sizeof(*mine));
    *err = mine == NULL ? AIOLOOP_ENOMEM + 0 : aiol_mutex_init(&mine->mutex);
    if (*err < 0) {
        aiol_free(&loop->allocator, mine, sizeof(*mine));
        return NULL;
    }
    aiol_list_init(&mine->list);
    if (aiol_cas_pointer(&loop->concurrents, &there, mine))
        return mine;
    aiol_mutex_destroy(&mine->mutex); /* another thread was faster */
    aiol_free(&loop->allocator, mine, sizeof(*mine));
    return (aiol_concurrents *)there;
}

/* Puts it on the list and posts it, unless the loop is closed. */
static int aiol_concurrent_submit(aioloop *loop, aiol_concurrents *all, aiol_concurrent *c) {
    aiol_slot *begin = aiol_remote_take(loop);
    bool refused;
    c->cancel = begin == NULL ? NULL : aiol_remote_take(loop);
    if (c->cancel == NULL) {
        if (begin != NULL)
            aiol_remote_give_back(loop, begin);
        return AIOLOOP_ENOMEM;
    }
    aiol_mutex_lock(&all->mutex);
    refused = aiol_load(&loop->posts_refused) != 0;
    if (!refused) {
        aiol_list_append(&all->list, &c->link);
        (void)aiol_remote_post(loop, begin, aiol_concurrent_begin, c, NULL);
    }
    aiol_mutex_unlock(&all->mutex);
    if (!refused)
        return 0;
    aiol_remote_give_back(loop, begin);
    aiol_remote_give_back(loop, c->cancel);
    return AIOLOOP_ECLOSED;
}

static aioloop_concurrent_future *aiol_run_threadsafe(aioloop *loop, const aioloop_task_recipe *recipe) {
    aiol_concurrents *all = NULL;
    aiol_concurrent *c = NULL;
    int err = 0;
    aiol_thread.site_file = NULL;
    if (loop == NULL || (recipe->coroutine == NULL) == (recipe->step == NULL) || recipe->options.copy_size > UINT32_MAX / 2 ||
        (recipe->arg == NULL && recipe->options.copy_size != 0))
        err = AIOLOOP_EINVAL;
    else if (aiol_load(&loop->posts_refused) != 0)
        err = AIOLOOP_ECLOSED;
    if (err == 0)
        all = aiol_concurrents_of(loop, &err);
    if (err == 0)
        err = aiol_concurrent_new(loop, recipe, &c);
    if (err == 0)
        err = aiol_concurrent_submit(loop, all, c);
    if (err == 0)
        return &c->future;
    if (c != NULL) {
        aioloop_context_unref(recipe->options.context);
        aiol_concurrent_free(c);
    }
    aiol_recipe_dispose(recipe);
    return aiol_concurrent_failed(err);
}

AIOLOOP_API aioloop_concurrent_future *aioloop_run_coroutine_threadsafe(aioloop *loop, aioloop_coroutine fn, void *arg,
                                                                        const aioloop_task_options *options) {
    aioloop_task_recipe recipe = aiol_recipe(fn, NULL, arg, options);
    return aiol_run_threadsafe(loop, &recipe);
}

AIOLOOP_API aioloop_concurrent_future *aioloop_run_coroutine_threadsafe_frame(aioloop *loop, aioloop_step fn,
                                                                              aioloop_frame *frame,
                                                                              const aioloop_task_options *options) {
    aioloop_task_recipe recipe = aiol_recipe(NULL, fn, frame, options);
    return aiol_run_threadsafe(loop, &recipe);
}

/* Waits until it is done. */
static int aiol_concurrent_wait(aiol_concurrent *c, aioloop_time timeout) {
    int err = 0;
    if (aiol_load(&c->done) != 0)
        return 0;
    if (timeout <= 0)
        return AIOLOOP_ETIMEDOUT;
    if (!aiol_concurrent_is_ours(c))
        return aiol_fail(NULL, AIOLOOP_EMISUSE, "a concurrent future of the process that forked");
    aiol_concurrent_lock(c);
    if (c->loop != NULL && c->loop == aiol_thread.running && c->state == AIOL_FUTURE_PENDING) {
        err = aiol_fail(NULL, AIOLOOP_EMISUSE, "a loop cannot bring the result that its own thread waits for");
    } else {
        aioloop_time deadline = aiol_thread_condition_deadline(timeout);
        while (c->state == AIOL_FUTURE_PENDING && err == 0)
            err = aiol_thread_condition_wait(&c->changed, &c->mutex, deadline);
        if (c->state != AIOL_FUTURE_PENDING)
            err = 0;
    }
    aiol_concurrent_unlock(c);
    return err;
}

AIOLOOP_API int64_t aioloop_concurrent_future_result(aioloop_concurrent_future *future, aioloop_time timeout, void *out) {
    aiol_concurrent *c;
    int err;
    if (future == NULL || timeout == AIOLOOP_NOT_A_TIME)
        return aiol_fail(NULL, AIOLOOP_EINVAL, NULL);
    c = aiol_concurrent_of(future);
    if (c == NULL)
        return aiol_fail(NULL, future->failed, NULL);
    err = aiol_concurrent_wait(c, timeout);
    if (err == AIOLOOP_ETIMEDOUT)
        aiol_fail(NULL, err, NULL);
    if (err < 0)
        return err;
    if (c->state != AIOL_FUTURE_FINISHED)
        return aiol_fail(NULL, c->code, "%s", c->text);
    if (out != NULL) {
        aiol_store_pointer(out, c->pointer);
        aiol_concurrent_lock(c);
        c->taken = true;
        aiol_concurrent_unlock(c);
    }
    return c->number;
}

AIOLOOP_API bool aioloop_concurrent_future_cancel(aioloop_concurrent_future *future) {
    aiol_concurrent *c = future == NULL ? NULL : aiol_concurrent_of(future);
    bool pending;
    if (c == NULL)
        return false;
    aiol_concurrent_lock(c);
    pending = c->state == AIOL_FUTURE_PENDING;
    if (pending) {
        if (c->loop != NULL && c->begun) {
            c->cancelling = aiol_remote_post(c->loop, c->cancel, aiol_concurrent_cancel_task, c, NULL);
            c->cancel = NULL;
        }
        aiol_concurrent_settle_failed(c, AIOLOOP_ECANCELED, NULL);
    }
    aiol_concurrent_unlock(c);
    return pending;
}

AIOLOOP_API bool aioloop_concurrent_future_done(const aioloop_concurrent_future *future) {
    const aiol_concurrent *c = future == NULL ? NULL : aiol_concurrent_of(future);
    return c != NULL ? aiol_load(&c->done) != 0 : future != NULL;
}

AIOLOOP_API bool aioloop_concurrent_future_cancelled(const aioloop_concurrent_future *future) {
    const aiol_concurrent *c = future == NULL ? NULL : aiol_concurrent_of(future);
    return c != NULL && aiol_load(&c->done) != 0 && c->state == AIOL_FUTURE_CANCELLED;
}

AIOLOOP_API aioloop_concurrent_future *aioloop_concurrent_future_ref(aioloop_concurrent_future *future) {
    aiol_concurrent *c = future == NULL ? NULL : aiol_concurrent_of(future);
    if (c != NULL)
        aiol_add_u32(&c->refs, 1);
    return future;
}

AIOLOOP_API void aioloop_concurrent_future_unref(aioloop_concurrent_future *future) {
    aiol_concurrent *c = future == NULL ? NULL : aiol_concurrent_of(future);
    if (c != NULL)
        aiol_concurrent_unref(c);
}

/* ---- a future of a loop for one of threads ---- */

static void aiol_wrapping_closed(aiol_resource *resource) {
    aiol_wrapping *w = AIOL_CONTAINER(resource, aiol_wrapping, resource);
    aiol_concurrent_lock(w->concurrent);
    aiol_list_remove(&w->link); /* from now on nobody posts */
    aiol_concurrent_unlock(w->concurrent);
}

static void aiol_wrapping_destroy(aiol_resource *resource) {
    aiol_wrapping *w = AIOL_CONTAINER(resource, aiol_wrapping, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, w, sizeof(*w));
}

static const aiol_resource_calls aiol_wrapping_resource = {"wrap_future", aiol_wrapping_closed, aiol_wrapping_destroy,
                                                           aiol_combine_is_open};

static void aiol_wrapping_end(aiol_wrapping *w) {
    aiol_concurrent *c = w->concurrent;
    aiol_wrapping_destroy(&w->resource);
    aiol_concurrent_unref(c);
}

/* The loop is freed: lets go of what is wrapped while every block is there, since that may run user code. */
static void aiol_wrappings_free(aioloop *loop) {
    const aiol_link *link;
    for (link = loop->resources.next; link != &loop->resources; link = link->next) {
        const aiol_resource *resource = AIOL_CONTAINER(link, const aiol_resource, link);
        if (resource->calls == &aiol_wrapping_resource)
            aiol_concurrent_unref(AIOL_CONTAINER(resource, const aiol_wrapping, resource)->concurrent);
    }
}

/* The outcome is there. */
static void aiol_wrapping_done(aioloop *loop, void *arg) {
    aiol_wrapping *w = (aiol_wrapping *)arg;
    aiol_concurrent *c = w->concurrent;
    aioloop_future *f = w->future;
    bool mine;
    (void)loop;
    aiol_concurrent_lock(c); /* whoever has posted this is through with the loop then, which may go as soon as this has run */
    mine = !c->taken;
    c->taken = c->taken || f != NULL;
    aiol_concurrent_unlock(c);
    if (f != NULL && c->state == AIOL_FUTURE_FINISHED) {
        aiol_future_finish(f, c->number, c->pointer, mine ? c->dispose : NULL);
        aiol_future_release(f);
    } else if (f != NULL) {
        if (c->state == AIOL_FUTURE_CANCELLED)
            aiol_future_end_cancelled(f, NULL);
        else
            aiol_future_fail(f, c->code, c->text);
        aiol_future_release(f);
    }
    aiol_wrapping_end(w);
}

static bool aiol_wrapping_cancel(aioloop_future *f, void *owner) {
    aiol_wrapping *w = (aiol_wrapping *)owner;
    aiol_slot *slot;
    if (f->loop->freeing)
        return true; /* it goes with the loop */
    w->future = NULL;
    aiol_future_release(f);
    aiol_concurrent_lock(w->concurrent);
    aiol_list_remove(&w->link);
    slot = w->slot;
    w->slot = NULL;
    aiol_concurrent_unlock(w->concurrent);
    (void)aioloop_concurrent_future_cancel(&w->concurrent->future);
    if (slot == NULL)
        return true; /* the post comes, and ends it */
    aiol_slot_free(w->resource.loop, slot);
    aiol_wrapping_end(w);
    return true;
}

AIOLOOP_API aioloop_future *(aioloop_wrap_future)(aioloop *loop, aioloop_concurrent_future *future) {
    aiol_concurrent *c;
    aiol_wrapping *w;
    aioloop_future *f;
    int err = loop == NULL || future == NULL ? AIOLOOP_EINVAL + 0 : aiol_check(loop);
    if (err < 0)
        return aiol_future_failed(err);
    c = aiol_concurrent_of(future);
    if (c == NULL)
        return aiol_future_failed(aiol_fail(loop, future->failed, NULL));
    w = (aiol_wrapping *)aiol_alloc_zero(&loop->allocator, sizeof(*w));
    f = w == NULL ? NULL : aiol_future_new(loop, aiol_wrapping_cancel, w);
    if (f != NULL)
        w->slot = aiol_remote_take(loop);
    if (f == NULL || w->slot == NULL) {
        if (f != NULL) {
            f->end.cancel = NULL;
            aiol_future_release(f);
            aioloop_future_unref(f);
        }
        aiol_free(&loop->allocator, w, sizeof(*w));
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    }
    w->future = f;
    w->concurrent = c;
    aiol_add_u32(&c->refs, 1);
    aiol_resource_add(loop, &w->resource, &aiol_wrapping_resource);
    aiol_concurrent_lock(c);
    aiol_list_append(&c->followers, &w->link);
    if (c->state != AIOL_FUTURE_PENDING)
        aiol_concurrent_post(c);
    aiol_concurrent_unlock(c);
    return f;
}

#endif

/* >> src/core/executor.c */
/*
 * executor.c - functions that block, run in other threads.       (asyncio: base_events.py; concurrent.futures: thread.py)
 *
 * A job is in one place at a time: in its pool's queue, with the thread that runs it, or on its loop's stack of what
 * has come back. Whoever brings one there posts to the loop only if the stack was empty, so a batch of jobs costs one
 * post, and the slot for it is always free.
 *
 * A job may end after its loop is gone. So the way back is an aiol_executor, which is counted. Who is about to use it
 * says so (users) and looks whether the loop is still there; aioloop_close takes the loop away and waits until nobody
 * uses it.
 *
 * A pool's threads have a reference each. The last to let go of a pool joins the threads that have ended; if it is one
 * of them, it detaches itself.
 */
#ifndef AIOL_CORE_EXECUTOR_C
#define AIOL_CORE_EXECUTOR_C

#define AIOL_POOL_MOST 32u  /* threads, unless told otherwise: asyncio's numbers */
#define AIOL_POOL_SPARE 4u
#define AIOL_POOL_NAME 16u

typedef enum aiol_job_state { AIOL_JOB_QUEUED, AIOL_JOB_BEGUN, AIOL_JOB_CANCELLED } aiol_job_state;

/* A loop's. */
typedef struct aiol_executor {
    aiol_slot slot; /* in the inbox while something is on the stack that the loop has not begun to fetch */
    uint32_t refs;  /* the loop's, and each job's */
    uint32_t users; /* threads that are about to post */
    aioloop *loop;  /* NULL: closed */
    void *arrived;  /* aiol_job *, newest first */
    /* The loop's thread's: */
    aiol_link jobs;            /* that have not come back, or are not fetched */
    aioloop_thread_pool *pool; /* the default, with a reference; NULL: none yet */
    bool made;                 /* by the loop */
} aiol_executor;

/* A function to run; without one, the news that a pool's threads have ended. */
typedef struct aiol_job {
    struct aiol_job *next; /* on the stack */
    aiol_link queue;       /* the pool's, under its lock */
    aiol_link link;        /* among the loop's */
    aiol_executor *executor;
    aioloop_thread_pool *pool;
    aioloop_future *future; /* the loop's thread's; NULL: nobody waits */
    aioloop_executor_function fn;
    void *arg;
    aioloop_executor_options options;
    aiol_map *map; /* the context, unless one was given */
    size_t size;
    aiol_job_state state; /* under the pool's lock until the job is back */
    int64_t number;
    void *pointer;
    struct aioloop_error *error;
    aioloop_timer_handle timer; /* of the news */
} aiol_job;

#define AIOL_JOB_ROOM ((sizeof(aiol_job) + 15) / 16 * 16)

typedef struct aiol_pool_worker {
    aiol_worker worker;
    struct aiol_pool_worker *next;
    aioloop_thread_pool *pool;
} aiol_pool_worker;

struct aioloop_thread_pool {
    uint32_t refs; /* the program's, each thread's, each job's, and each loop's whose default it is */
    int process;
    aioloop_allocator allocator;
    size_t stack_size;
    size_t queue_limit;
    unsigned max_workers;
    char name[AIOL_POOL_NAME];
    aiol_mutex mutex; /* guards the rest */
    aiol_thread_condition work;
    aiol_thread_condition ended;
    aiol_link queue;
    size_t queued;
    unsigned living;  /* threads that have not ended */
    unsigned idle;    /* of them, those that wait */
    uint32_t running; /* and those that run a job; its end is counted without the lock */
    bool waking;      /* one of the idle was told of a job and has not looked yet */
    bool shut;
    aiol_link endings;         /* jobs without a function: whom to tell when no thread is living */
    aiol_pool_worker *workers; /* not joined yet */
};

/* ---- making and ending ---- */

static void aiol_executor_unref(aiol_executor *x) {
    if (aiol_add_u32(&x->refs, (uint32_t)-1) == 0)
        aiol_free(&aiol_default_allocator, x, sizeof(*x));
}

static void aiol_pool_join(const aioloop_allocator *allocator, aiol_pool_worker *workers) {
    while (workers != NULL) {
        aiol_pool_worker *next = workers->next;
        if (aiol_worker_is_current(&workers->worker))
            aiol_worker_detach(&workers->worker);
        else
            aiol_worker_join(&workers->worker);
        aiol_free(allocator, workers, sizeof(*workers));
        workers = next;
    }
}

static void aiol_pool_unref(aioloop_thread_pool *pool) {
    aioloop_allocator allocator;
    if (aiol_add_u32(&pool->refs, (uint32_t)-1) != 0)
        return;
    allocator = pool->allocator;
    aiol_pool_join(&allocator, pool->workers);
    aiol_thread_condition_destroy(&pool->ended);
    aiol_thread_condition_destroy(&pool->work);
    aiol_mutex_destroy(&pool->mutex);
    aiol_free(&allocator, pool, sizeof(*pool));
}

/* In a forked child, where the threads are not and a lock may be held for ever: memory is all there is to give back. */
static void aiol_pool_forget(aioloop_thread_pool *pool) {
    aioloop_allocator allocator = pool->allocator;
    if (aiol_add_u32(&pool->refs, (uint32_t)-1) > pool->living)
        return;
    while (pool->workers != NULL) {
        aiol_pool_worker *worker = pool->workers;
        pool->workers = worker->next;
        aiol_free(&allocator, worker, sizeof(*worker));
    }
    aiol_free(&allocator, pool, sizeof(*pool));
}

/* Runs user code. */
static void aiol_job_free(aiol_job *job) {
    aiol_executor *x = job->executor;
    aioloop_thread_pool *pool = job->pool;
    if (job->pointer != NULL && job->options.dispose_result != NULL)
        job->options.dispose_result(job->pointer);
    if (job->options.dispose != NULL)
        job->options.dispose(job->arg);
    aioloop_context_unref(job->options.context);
    aiol_map_unref(job->map);
    aiol_error_free(&pool->allocator, job->error);
    aiol_free(&pool->allocator, job, job->size);
    aiol_pool_unref(pool);
    aiol_executor_unref(x);
}

/* ---- the way back ---- */

/* Any thread: the job is the loop's again; or goes, if that is closed. */
static void aiol_job_deliver(aiol_job *job) {
    aiol_executor *x = job->executor;
    aioloop *loop;
    aiol_add_u32(&x->users, 1);
    loop = aiol_load(&x->loop);
    if (loop != NULL) {
        void *top = aiol_load(&x->arrived);
        do {
            job->next = (aiol_job *)top;
        } while (!aiol_cas_pointer(&x->arrived, &top, job));
        if (top == NULL)
            aiol_inbox_push(loop, &x->slot);
    }
    aiol_add_u32(&x->users, (uint32_t)-1); /* x may go with this, unless the job is still here */
    if (loop == NULL)
        aiol_job_free(job);
}

static void aiol_job_deliver_all(aiol_link *list) {
    while (!aiol_list_empty(list)) {
        aiol_job *job = AIOL_CONTAINER(list->next, aiol_job, queue);
        aiol_list_remove(&job->queue);
        aiol_job_deliver(job);
    }
}

/* What has come back, oldest first. */
static aiol_job *aiol_executor_fetch(aiol_executor *x) {
    aiol_job *job = (aiol_job *)aiol_exchange_pointer(&x->arrived, NULL);
    aiol_job *turned = NULL;
    while (job != NULL) {
        aiol_job *next = job->next;
        job->next = turned;
        turned = job;
        job = next;
    }
    return turned;
}

static void aiol_pool_join_ended(aioloop_thread_pool *pool);

/* In the loop's thread. */
static void aiol_job_finish(aiol_job *job) {
    aioloop_future *f = job->future;
    aiol_list_remove(&job->link);
    if (job->fn == NULL)
        aiol_pool_join_ended(job->pool);
    if (f != NULL) {
        job->future = NULL;
        if (job->fn == NULL)
            aioloop_timer_handle_cancel(&job->timer);
        if (job->state == AIOL_JOB_CANCELLED || job->number == AIOLOOP_ECANCELED) {
            aiol_future_end_cancelled(f, job->error == NULL ? NULL : aioloop_error_message(job->error));
        } else if (job->number < 0) {
            aiol_future_fail(f, (int)job->number, job->error == NULL ? NULL : aioloop_error_message(job->error));
        } else {
            aiol_future_finish(f, job->number, job->pointer, job->pointer == NULL ? NULL : job->options.dispose_result);
            job->pointer = NULL;
        }
        aiol_future_release(f);
    }
    aiol_job_free(job);
}

/* The slot's turn. From the moment that the stack is empty it may be posted again. */
static void aiol_executor_run(aioloop *loop, aiol_node *node) {
    aiol_executor *x = (aiol_executor *)(void *)node;
    aiol_map *map = NULL;
    aiol_frame frame = aiol_enter(loop, &map);
    aiol_job *job = aiol_executor_fetch(x);
    int raised;
    while (job != NULL) {
        aiol_job *next = job->next;
        aiol_job_finish(job);
        job = next;
    }
    raised = loop->raised;
    loop->raised = 0;
    if (raised != 0) {
        aioloop_exception_context context;
        memset(&context, 0, sizeof(context));
        context.message = "Error in a function that disposes of what a thread had";
        aiol_report(loop, raised, 0, &context);
    }
    aiol_callback_end(loop);
    aiol_leave(loop, &frame);
    aiol_map_unref(map);
}

/* ---- a pool's threads ---- */

static void aiol_job_call_now(void *arg) {
    aiol_job *job = (aiol_job *)arg;
    job->number = job->fn(job->arg, &job->pointer);
}

static void aiol_job_run(aiol_job *job) {
    aiol_error_clear(&aiol_thread.error);
    if (job->options.context != NULL) {
        int err = aioloop_context_run(job->options.context, aiol_job_call_now, job);
        if (err < 0)
            job->number = err;
    } else {
        aiol_context_frame frame = aiol_context_enter(&job->map);
        aiol_job_call_now(job);
        aiol_context_leave(&frame);
    }
    if (job->number < INT_MIN)
        job->number = AIOLOOP_EINVAL;
    if (job->number < 0 && aiol_thread.error.error.code == job->number)
        job->error = aiol_error_new(&job->pool->allocator, (int)job->number, aioloop_error_message(aioloop_last_error(NULL)), 0);
}

/* With the lock held: whether to wake an idle thread. One at a time, for it will wake the next: so a row of short jobs
 * does not cost a system call each. */
static bool aiol_pool_wakes(aioloop_thread_pool *pool) {
    if (pool->queued == 0 || pool->idle == 0 || pool->waking)
        return false;
    pool->waking = true;
    return true;
}

/* The next job of the pool; NULL when it was shut down and there is none. */
static aiol_job *aiol_pool_next(aioloop_thread_pool *pool) {
    aiol_job *job;
    bool wake;
    aiol_mutex_lock(&pool->mutex);
    while (aiol_list_empty(&pool->queue)) {
        if (pool->shut) {
            aiol_mutex_unlock(&pool->mutex);
            return NULL;
        }
        pool->idle++;
        (void)aiol_thread_condition_wait(&pool->work, &pool->mutex, AIOLOOP_FOREVER);
        pool->idle--;
        pool->waking = false;
    }
    job = AIOL_CONTAINER(pool->queue.next, aiol_job, queue);
    aiol_list_remove(&job->queue);
    pool->queued--;
    aiol_add_u32(&pool->running, 1);
    job->state = AIOL_JOB_BEGUN;
    wake = aiol_pool_wakes(pool);
    aiol_mutex_unlock(&pool->mutex);
    if (wake)
        aiol_thread_condition_signal(&pool->work);
    return job;
}

static void aiol_pool_work(void *arg) {
    aioloop_thread_pool *pool = ((aiol_pool_worker *)arg)->pool;
    aiol_link told;
    aiol_job *job;
    aiol_list_init(&told);
    aiol_thread.pool = pool;
    aiol_thread_set_name(pool->name);
    while ((job = aiol_pool_next(pool)) != NULL) {
        aiol_job_run(job);
        aiol_add_u32(&pool->running, (uint32_t)-1); /* whoever has its result finds it so */
        aiol_job_deliver(job);
    }
    aiol_mutex_lock(&pool->mutex);
    if (--pool->living == 0) {
        aiol_list_move(&told, &pool->endings);
        aiol_thread_condition_broadcast(&pool->ended);
    }
    aiol_mutex_unlock(&pool->mutex);
    aiol_job_deliver_all(&told);
    aiol_pool_unref(pool);
}

/* With the lock held: one thread more. */
static int aiol_pool_start(aioloop_thread_pool *pool) {
    aiol_pool_worker *worker = (aiol_pool_worker *)aiol_alloc(&pool->allocator, sizeof(*worker));
    int err;
    if (worker == NULL)
        return AIOLOOP_ENOMEM;
    worker->pool = pool;
    worker->next = pool->workers;
    aiol_add_u32(&pool->refs, 1);
    err = aiol_worker_start(&worker->worker, aiol_pool_work, worker, pool->stack_size);
    if (err < 0) {
        aiol_add_u32(&pool->refs, (uint32_t)-1);
        aiol_free(&pool->allocator, worker, sizeof(*worker));
        return err;
    }
    pool->workers = worker;
    pool->living++;
    return 0;
}

/* ---- a pool from outside ---- */

/* Queues a job. 0; AIOLOOP_EMISUSE: shut down; AIOLOOP_EAGAIN: full; or why there is no thread at all. */
static int aiol_pool_submit(aioloop_thread_pool *pool, aiol_job *job) {
    bool wake = false;
    int err = 0;
    aiol_mutex_lock(&pool->mutex);
    if (pool->shut)
        err = AIOLOOP_EMISUSE;
    else if (pool->queue_limit != 0 && pool->queued >= pool->queue_limit &&
             pool->queued - pool->queue_limit >= pool->max_workers - aiol_load(&pool->running))
        err = AIOLOOP_EAGAIN;
    else if (pool->queued >= pool->idle && pool->living < pool->max_workers && (err = aiol_pool_start(pool)) < 0 &&
             pool->living != 0)
        err = 0; /* those that are there will do */
    if (err == 0) {
        aiol_list_append(&pool->queue, &job->queue);
        pool->queued++;
        wake = aiol_pool_wakes(pool);
    }
    aiol_mutex_unlock(&pool->mutex);
    if (wake)
        aiol_thread_condition_signal(&pool->work);
    return err;
}

/* Takes a job that has not begun out of the queue; false if it has. */
static bool aiol_pool_withdraw(aioloop_thread_pool *pool, aiol_job *job) {
    bool waits;
    aiol_mutex_lock(&pool->mutex);
    waits = job->state == AIOL_JOB_QUEUED;
    if (waits) {
        aiol_list_remove(&job->queue);
        pool->queued--;
        job->state = AIOL_JOB_CANCELLED;
    }
    aiol_mutex_unlock(&pool->mutex);
    return waits;
}

/* No job is accepted any more. ending (may be NULL) is delivered when no thread is living. True if none is now: then
 * it is still the caller's. */
static bool aiol_pool_shut(aioloop_thread_pool *pool, aiol_job *ending) {
    bool over;
    aiol_mutex_lock(&pool->mutex);
    pool->shut = true;
    over = pool->living == 0;
    if (!over && ending != NULL)
        aiol_list_append(&pool->endings, &ending->queue);
    aiol_thread_condition_broadcast(&pool->work);
    aiol_mutex_unlock(&pool->mutex);
    return over;
}

static void aiol_pool_cancel_pending(aioloop_thread_pool *pool) {
    aiol_link dropped;
    aiol_link *link;
    aiol_list_init(&dropped);
    aiol_mutex_lock(&pool->mutex);
    aiol_list_move(&dropped, &pool->queue);
    pool->queued = 0;
    for (link = dropped.next; link != &dropped; link = link->next)
        AIOL_CONTAINER(link, aiol_job, queue)->state = AIOL_JOB_CANCELLED;
    aiol_mutex_unlock(&pool->mutex);
    aiol_job_deliver_all(&dropped);
}

/* Of a pool that was shut down: joins its threads when all have ended. patient: waits for that; else only if none runs
 * a job, so that it does not take long. */
static void aiol_pool_wait(aioloop_thread_pool *pool, bool patient) {
    aiol_pool_worker *workers = NULL;
    aiol_mutex_lock(&pool->mutex);
    if (patient || (aiol_load(&pool->running) == 0 && pool->queued == 0 && aiol_thread.pool != pool)) {
        while (pool->living != 0)
            (void)aiol_thread_condition_wait(&pool->ended, &pool->mutex, AIOLOOP_FOREVER);
        workers = pool->workers;
        pool->workers = NULL;
    }
    aiol_mutex_unlock(&pool->mutex);
    aiol_pool_join(&pool->allocator, workers);
}

static void aiol_pool_join_ended(aioloop_thread_pool *pool) {
    aiol_pool_wait(pool, false);
}

static int aiol_pool_init(aioloop_thread_pool *pool) {
    int err = aiol_mutex_init(&pool->mutex);
    if (err < 0)
        return err;
    err = aiol_thread_condition_init(&pool->work);
    if (err == 0 && (err = aiol_thread_condition_init(&pool->ended)) < 0)
        aiol_thread_condition_destroy(&pool->work);
    if (err < 0)
        aiol_mutex_destroy(&pool->mutex);
    return err;
}

/* NULL with *err. */
static aioloop_thread_pool *aiol_pool_new(const aioloop_thread_pool_options *options, int *err) {
    const aioloop_allocator *a = options->allocator != NULL ? options->allocator : &aiol_default_allocator;
    aioloop_thread_pool *pool = (aioloop_thread_pool *)aiol_alloc_zero(a, sizeof(*pool));
    *err = pool == NULL ? AIOLOOP_ENOMEM + 0 : aiol_pool_init(pool);
    if (*err < 0) {
        aiol_free(a, pool, sizeof(*pool));
        return NULL;
    }
    pool->refs = 1;
    pool->process = aiol_process_id();
    pool->allocator = *a;
    pool->stack_size = options->stack_size;
    pool->queue_limit = options->queue_limit;
    pool->max_workers = (unsigned)options->max_workers;
    if (pool->max_workers == 0)
        pool->max_workers = (unsigned)aiol_min_size(aiol_processor_count() + AIOL_POOL_SPARE, AIOL_POOL_MOST);
    snprintf(pool->name, sizeof(pool->name), "%s", options->name != NULL ? options->name : "aioloop");
    aiol_list_init(&pool->queue);
    aiol_list_init(&pool->endings);
    return pool;
}

AIOLOOP_API aioloop_thread_pool *aioloop_thread_pool_new(const aioloop_thread_pool_options *options) {
    static const aioloop_thread_pool_options defaults = {0, 0, 0, NULL, NULL};
    aioloop_thread_pool *pool;
    int err;
    if (options == NULL)
        options = &defaults;
    if (options->max_workers < 0) {
        aiol_fail(NULL, AIOLOOP_EINVAL, "a pool cannot have %d threads", options->max_workers);
        return NULL;
    }
    pool = aiol_pool_new(options, &err);
    if (pool == NULL)
        aiol_fail(NULL, err, NULL);
    return pool;
}

AIOLOOP_API int aioloop_thread_pool_shutdown(aioloop_thread_pool *pool, bool wait, bool cancel_pending) {
    if (pool == NULL)
        return AIOLOOP_EINVAL;
    if (pool->process != aiol_process_id())
        return aiol_fail(NULL, AIOLOOP_EMISUSE, "a pool of the process that forked");
    if (wait && aiol_thread.pool == pool)
        return aiol_fail(NULL, AIOLOOP_EMISUSE, "a thread of the pool cannot wait for its own end");
    (void)aiol_pool_shut(pool, NULL);
    if (cancel_pending)
        aiol_pool_cancel_pending(pool);
    if (wait)
        aiol_pool_wait(pool, true);
    return 0;
}

AIOLOOP_API void aioloop_thread_pool_free(aioloop_thread_pool *pool) {
    if (pool == NULL)
        return;
    if (pool->process != aiol_process_id()) {
        aiol_pool_forget(pool);
        return;
    }
    (void)aioloop_thread_pool_shutdown(pool, aiol_thread.pool != pool, false);
    aiol_pool_unref(pool);
}

/* ---- a loop's ---- */

/* NULL when there is no memory. */
static aiol_executor *aiol_executor_of(aioloop *loop) {
    aiol_executor *x = loop->executor;
    if (x != NULL)
        return x;
    x = (aiol_executor *)aiol_alloc_zero(&aiol_default_allocator, sizeof(*x));
    if (x == NULL)
        return NULL;
    x->slot.at.node.run = aiol_executor_run;
    x->refs = 1;
    x->loop = loop;
    aiol_list_init(&x->jobs);
    loop->executor = x;
    return x;
}

/* Whether a thread is to bring something. */
static bool aiol_executor_busy(const aioloop *loop) {
    return loop->executor != NULL && !aiol_list_empty(&loop->executor->jobs);
}

/* The loop has been closed: nothing comes back from now on. What is still to run runs, and goes then. */
static void aiol_executor_close(aioloop *loop) {
    aiol_executor *x = loop->executor;
    aiol_link *link;
    if (x == NULL)
        return;
    for (link = x->jobs.next; link != &x->jobs; link = link->next) {
        aiol_job *job = AIOL_CONTAINER(link, aiol_job, link);
        aioloop_future *f = job->future;
        job->future = NULL;
        if (f == NULL)
            continue;
        f->of.owner = NULL;
        aiol_future_release(f);
    }
    aiol_store(&x->loop, (aioloop *)NULL);
    if (loop->process != aiol_process_id())
        return;
    while (aiol_load(&x->users) != 0)
        ; /* a thread between two instructions of a delivery; rare and short */
    aiol_list_init(&x->jobs); /* they are their threads' now */
    if (x->pool != NULL)
        (void)aiol_pool_shut(x->pool, NULL);
}

/* In a forked child. What a function works on may be in any state, so it is not disposed of. */
static void aiol_executor_forget(aiol_executor *x) {
    while (!aiol_list_empty(&x->jobs)) {
        aiol_job *job = AIOL_CONTAINER(x->jobs.next, aiol_job, link);
        aiol_list_remove(&job->link);
        if (job->state == AIOL_JOB_BEGUN) {
            job->options.dispose = NULL;
            job->pointer = NULL;
        }
        aiol_job_free(job);
    }
    if (x->pool != NULL)
        aiol_pool_forget(x->pool);
}

/* The loop is being freed. Runs user code, for what had come back before it was closed. */
static void aiol_executor_free(aioloop *loop) {
    aiol_executor *x = loop->executor;
    aiol_job *job;
    if (x == NULL)
        return;
    loop->executor = NULL;
    if (loop->process != aiol_process_id()) {
        aiol_executor_forget(x);
        aiol_executor_unref(x);
        return;
    }
    job = aiol_executor_fetch(x);
    while (job != NULL) {
        aiol_job *next = job->next;
        aiol_job_free(job);
        job = next;
    }
    if (x->pool != NULL) {
        aiol_pool_wait(x->pool, false);
        aiol_pool_unref(x->pool);
    }
    aiol_executor_unref(x);
}

/* ---- jobs ---- */

static bool aiol_job_cancel(aioloop_future *f, void *owner) {
    aiol_job *job = (aiol_job *)owner;
    if (job == NULL)
        return true; /* the loop was closed, and the job goes its own way */
    job->future = NULL;
    aiol_future_release(f);
    if (job->fn == NULL)
        aioloop_timer_handle_cancel(&job->timer);
    else if (aiol_pool_withdraw(job->pool, job))
        aiol_job_deliver(job); /* what it had is disposed of in the next iteration: cancelling calls nobody */
    return true;
}

/* A job of the loop with its future, in no queue yet; NULL when there is no memory. */
static aiol_job *aiol_job_new(aioloop *loop, aiol_executor *x, aioloop_thread_pool *pool, size_t size) {
    aiol_job *job = (aiol_job *)aiol_alloc(&pool->allocator, size);
    if (job == NULL)
        return NULL;
    memset(job, 0, sizeof(*job));
    job->future = aiol_future_new(loop, aiol_job_cancel, job);
    if (job->future == NULL) {
        aiol_free(&pool->allocator, job, size);
        return NULL;
    }
    job->size = size;
    job->executor = x;
    job->pool = pool;
    aiol_add_u32(&x->refs, 1);
    aiol_add_u32(&pool->refs, 1);
    aiol_list_append(&x->jobs, &job->link);
    return job;
}

/* One that comes to nothing, with its future if nobody has that. */
static void aiol_job_abandon(aiol_job *job) {
    aioloop_future *f = job->future;
    job->future = NULL;
    job->options.dispose = NULL;
    f->of.owner = NULL;
    aiol_future_release(f);
    aioloop_future_unref(f);
    aiol_list_remove(&job->link);
    aiol_job_free(job);
}

/* The pool that is meant, made if need be; NULL with *err. */
static aioloop_thread_pool *aiol_executor_pool(aioloop *loop, aiol_executor *x, aioloop_thread_pool *pool, int *err) {
    aioloop_thread_pool_options options;
    if (pool != NULL)
        return pool;
    if (loop->executor_shutdown) {
        *err = aiol_fail(loop, AIOLOOP_EMISUSE, "the default executor was shut down");
        return NULL;
    }
    if (x->pool != NULL)
        return x->pool;
    memset(&options, 0, sizeof(options));
    x->pool = aiol_pool_new(&options, err);
    x->made = x->pool != NULL;
    if (x->pool == NULL)
        aiol_fail(loop, *err, NULL);
    return x->pool;
}

/* What the function of a job is, and how it runs. */
static void aiol_job_fill(aiol_job *job, aioloop_executor_function fn, void *arg, const aioloop_executor_options *options, bool copies) {
    job->fn = fn;
    job->arg = arg;
    if (options != NULL)
        job->options = *options;
    if (job->options.copy_size != 0) {
        job->arg = (char *)job + AIOL_JOB_ROOM;
        memcpy(job->arg, arg, job->options.copy_size);
    }
    if (job->options.context != NULL)
        aioloop_context_ref(job->options.context);
    else if (copies)
        job->map = aiol_map_ref(aiol_thread.map);
}

static int aiol_executor_check(aioloop *loop, aioloop_executor_function fn, const void *arg, const aioloop_executor_options *options) {
    if (loop == NULL)
        return AIOLOOP_EINVAL;
    if (AIOL_UNLIKELY(loop->careful)) {
        int err = aiol_check(loop);
        if (err < 0)
            return err;
    }
    if (fn == NULL)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a function is needed, not NULL");
    if (options != NULL && (options->copy_size > SIZE_MAX / 2 || (options->copy_size != 0 && arg == NULL)))
        return aiol_fail(loop, AIOLOOP_EINVAL, "copy_size needs something to copy");
    return 0;
}

static aioloop_future *aiol_executor_submit(aioloop *loop, aioloop_thread_pool *pool, aioloop_executor_function fn, void *arg,
                                            const aioloop_executor_options *options, bool copies) {
    aiol_executor *x = NULL;
    aiol_job *job = NULL;
    aioloop_future *f;
    int err = aiol_executor_check(loop, fn, arg, options);
    if (err == 0 && (x = aiol_executor_of(loop)) == NULL)
        err = aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    if (err == 0)
        pool = aiol_executor_pool(loop, x, pool, &err);
    if (err == 0) {
        job = aiol_job_new(loop, x, pool, AIOL_JOB_ROOM + (options == NULL ? 0 : options->copy_size));
        if (job == NULL)
            err = aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    }
    if (err == 0) {
        aiol_job_fill(job, fn, arg, options, copies);
        f = job->future;
        err = aiol_pool_submit(pool, job);
        if (err == 0)
            return f;
        aiol_job_abandon(job);
        aiol_fail(loop, err, err == AIOLOOP_EMISUSE ? "the pool was shut down" : err == AIOLOOP_EAGAIN ? "the pool is full" : NULL);
    }
    f = err == AIOLOOP_ECLOSED || err == AIOLOOP_ENOMEM || err == AIOLOOP_EINVAL || err == AIOLOOP_ENOTAVAILABLE
            ? aiol_future_failed(err)
            : aiol_combine_failed(loop, err);
    if (options != NULL && options->dispose != NULL)
        options->dispose(arg);
    return f;
}

AIOLOOP_API aioloop_future *(aioloop_run_in_executor)(aioloop *loop, aioloop_thread_pool *pool, aioloop_executor_function fn, void *arg,
                                                      const aioloop_executor_options *options) {
    return aiol_executor_submit(loop, pool, fn, arg, options, false);
}

AIOLOOP_API aioloop_future *(aioloop_to_thread)(aioloop *loop, aioloop_executor_function fn, void *arg,
                                                const aioloop_executor_options *options) {
    return aiol_executor_submit(loop, NULL, fn, arg, options, true);
}

/* ---- the default ---- */

AIOLOOP_API int aioloop_set_default_executor(aioloop *loop, aioloop_thread_pool *pool) {
    aiol_executor *x;
    aioloop_thread_pool *before;
    int err = loop == NULL ? AIOLOOP_EINVAL + 0 : aiol_check(loop);
    if (err < 0)
        return err;
    if (pool == NULL)
        return aiol_fail(loop, AIOLOOP_EINVAL, "the default executor is a thread pool, not NULL");
    x = aiol_executor_of(loop);
    if (x == NULL)
        return aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    aiol_add_u32(&pool->refs, 1);
    before = x->pool;
    x->pool = pool;
    if (before != NULL && x->made) {
        (void)aiol_pool_shut(before, NULL);
        aiol_pool_wait(before, false);
    }
    x->made = false;
    if (before != NULL)
        aiol_pool_unref(before);
    return 0;
}

/* An unclaimed one that is done; NULL when there is no memory. */
static aioloop_future *aiol_executor_done(aioloop *loop) {
    aioloop_future *f = aiol_future_new(loop, NULL, NULL);
    if (f == NULL)
        return NULL;
    aiol_future_finish(f, 0, NULL, NULL);
    aiol_future_release(f);
    return f;
}

/* The threads are given up. */
static void aiol_executor_expired(aioloop *loop, void *arg) {
    aiol_job *ending = (aiol_job *)arg;
    aioloop_future *f = ending->future;
    ending->future = NULL;
    aiol_warn(loop, 0, "the threads of the default executor did not end in time");
    aiol_future_finish(f, 0, NULL, NULL);
    aiol_future_release(f);
}

/* The news that the pool's threads have ended, for a future; NULL when there is no memory. */
static aiol_job *aiol_executor_ending(aioloop *loop, aiol_executor *x, aioloop_time timeout) {
    aiol_job *ending = aiol_job_new(loop, x, x->pool, sizeof(aiol_job));
    if (ending == NULL || timeout <= 0 || timeout == AIOLOOP_FOREVER)
        return ending;
    ending->timer = (aioloop_call_later)(loop, timeout, aiol_executor_expired, ending);
    if (!aioloop_handle_is_null(&ending->timer.handle))
        return ending;
    aiol_job_abandon(ending);
    return NULL;
}

AIOLOOP_API aioloop_future *(aioloop_shutdown_default_executor)(aioloop *loop, aioloop_time timeout) {
    aiol_executor *x;
    aioloop_future *f;
    aiol_job *ending = NULL;
    int err = loop == NULL || timeout == AIOLOOP_NOT_A_TIME ? AIOLOOP_EINVAL + 0 : aiol_check(loop);
    if (err < 0)
        return aiol_future_failed(err);
    x = loop->executor;
    if (x == NULL || x->pool == NULL) {
        f = aiol_executor_done(loop);
    } else {
        ending = aiol_executor_ending(loop, x, timeout);
        f = ending == NULL ? NULL : ending->future;
    }
    if (f == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    loop->executor_shutdown = true;
    if (ending == NULL)
        return f;
    if (aiol_pool_shut(x->pool, ending))
        aiol_job_finish(ending);
    else if (timeout < 0)
        aiol_executor_expired(loop, ending);
    return f;
}

#endif

/* >> src/core/loop.c */
/*
 * loop.c - one iteration, and the life of a loop.                          (asyncio: base_events.py)
 *
 * An iteration: wait and harvest, calling nobody; move the timers due now to the due list; run what was ready when that
 * was done; dispatch the harvest; run the due list. What is queued meanwhile runs in the next one.
 *
 * A fatal error keeps the rest of all three for the next run.
 */
#ifndef AIOL_CORE_LOOP_C
#define AIOL_CORE_LOOP_C

#define AIOL_READ_BUDGET (256u * 1024u) /* bytes per connection and iteration */

/* ---- resources ---- */

AIOLOOP_INTERNAL void aiol_resource_add(aioloop *loop, aiol_resource *resource, const aiol_resource_calls *calls) {
    resource->loop = loop;
    resource->calls = calls;
    aiol_list_append(&loop->resources, &resource->link);
}

AIOLOOP_INTERNAL void aiol_resource_remove(aiol_resource *resource) {
    aiol_map *context = resource->context;
    resource->context = NULL;
    aiol_list_remove(&resource->link);
    aiol_map_unref(context);
}

static aiol_resource *aiol_resource_of(aiol_link *link) {
    return AIOL_CONTAINER(link, aiol_resource, link);
}

/* ---- making ---- */

static uint32_t aiol_first_thread_known; /* whether some thread has made, set or asked for a loop */

static bool aiol_thread_is_first(void) {
    if (!aiol_thread.counted) {
        aiol_thread.counted = true;
        aiol_thread.first = aiol_exchange_u32(&aiol_first_thread_known, 1) == 0;
    }
    return aiol_thread.first;
}

AIOLOOP_API aioloop *(aioloop_new_event_loop)(const aioloop_config *config) {
    const aioloop_allocator *allocator = &aiol_default_allocator;
    const char *choice = config != NULL && config->backend != NULL ? config->backend : getenv("AIOLOOP_BACKEND");
    const char *debug = getenv("AIOLOOP_DEBUG");
    aiol_engine_setup setup;
    aioloop *loop;
    int err;
    if (config != NULL && config->allocator != NULL)
        allocator = config->allocator;
    loop = (aioloop *)aiol_alloc_zero(allocator, sizeof(*loop));
    if (loop == NULL) {
        aiol_fail(NULL, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    loop->allocator = *allocator;
    memset(&setup, 0, sizeof(setup));
    setup.allocator = &loop->allocator;
    setup.seed = 1;
    err = aiol_engine_open(choice, &setup, &loop->engine, aiol_thread.error.buffer);
    if (err < 0) {
        aiol_thread.error.error.code = err;
        aiol_thread.error.error.text = aiol_thread.error.buffer;
        aiol_free(allocator, loop, sizeof(*loop));
        return NULL;
    }
    loop->budget.bytes = AIOL_READ_BUDGET;
    loop->budget.halt = &loop->halt;
    loop->slow = AIOLOOP_MS(100);
    loop->process = aiol_process_id();
    aiol_queue_init(&loop->ready);
    aiol_queue_init(&loop->batch);
    aiol_queue_init(&loop->due);
    aiol_list_init(&loop->unsent);
    aiol_list_init(&loop->sending);
    aiol_list_init(&loop->futures);
    aiol_list_init(&loop->ended);
    aiol_list_init(&loop->resources);
    aiol_list_init(&loop->closers);
    loop->debug = AIOLOOP_USE_DEBUG && (config != NULL && config->debug != 0 ? config->debug > 0
                                                                             : debug != NULL && debug[0] != '\0');
    loop->careful = loop->debug;
    loop->site = aiol_site_take(loop);
    (void)aiol_thread_is_first();
    (void)aiol_inbox_sleep(loop); /* whoever posts before the first run wakes it: another main loop may watch it */
    return loop;
}

/* ---- finding ---- */

AIOLOOP_API aioloop *aioloop_get_running_loop(void) {
    if (aiol_thread.running == NULL || aiol_thread.running_process != aiol_process_id())
        return NULL;
    return aiol_thread.running;
}

AIOLOOP_API aioloop *aioloop_get_event_loop(void) {
    aioloop *loop = aioloop_get_running_loop();
    if (loop != NULL)
        return loop;
    if (aiol_thread.current_was_set)
        return aiol_thread.current;
    if (!aiol_thread_is_first())
        return NULL;
    loop = (aioloop_new_event_loop)(NULL);
    if (loop != NULL)
        aioloop_set_event_loop(loop);
    return loop;
}

AIOLOOP_API void aioloop_set_event_loop(aioloop *loop) {
    (void)aiol_thread_is_first();
    aiol_thread.current = loop;
    aiol_thread.current_was_set = true;
}

/* ---- one iteration ---- */

/* Until when the engine may wait: 0 if there is something to do. */
AIOL_INLINE aioloop_time aiol_loop_deadline(aioloop *loop, aioloop_time limit) {
    aioloop_time next;
    if (loop->ready.head != NULL || loop->stopping || limit <= 0 || (loop->attention && aiol_loop_has_unsent(loop)))
        return 0;
    if (loop->timers.count == 0)
        return limit;
    next = aiol_timer_next(loop);
    return next < limit ? next : limit;
}

static int aiol_loop_wait(aioloop *loop, aioloop_time limit) {
    aiol_engine *engine = loop->engine;
    aioloop_time deadline = aiol_loop_deadline(loop, limit);
    int err;
    if (deadline <= 0)
        return engine->calls->wait(engine, 0);
    if (!aiol_inbox_sleep(loop))
        deadline = 0;
    err = engine->calls->wait(engine, deadline);
    aiol_inbox_awake(loop);
    if (err == AIOLOOP_EDEADLK && aiol_executor_busy(loop))
        err = 0; /* a thread will bring something */
    return err;
}

/* A fatal error: nothing more is called in this iteration, and what was to be comes first in the next. */
AIOLOOP_INTERNAL void aiol_loop_halt(aioloop *loop) {
    aiol_queue rest; /* the queue that runs may be appended from, not to: aiol_run_queue keeps its end for last */
    loop->halt = true;
    aiol_queue_init(&rest);
    aiol_queue_append(&rest, &loop->batch);
    aiol_queue_append(&rest, &loop->due);
    aiol_queue_append(&rest, &loop->ready);
    aiol_queue_append(&loop->ready, &rest);
}

/* Nothing is pushed to the queue meanwhile; a halt empties it. */
static AIOL_NOINLINE void aiol_run_queue(aioloop *loop, aiol_queue *queue) {
    aiol_node *node = queue->head;
    aiol_map *last;
    aiol_thread.map = NULL;
    aiol_thread.place = NULL;
    do {
        queue->head = node->next;
        node->run(loop, node);
        node = queue->head;
    } while (node != NULL);
    queue->end = &queue->head;
    last = aiol_thread.map;
    aiol_thread.map = loop->map;
    aiol_thread.place = &loop->map;
    aiol_map_unref(last); /* may call user code: what is current is right by now */
}

/* limit: a point on the clock. 0 or the error of the wait. */
static int aiol_loop_iterate(aioloop *loop, aioloop_time limit) {
    int n;
    if (AIOL_UNLIKELY(loop->attention))
        aiol_callback_end(loop); /* what was written outside of any */
    if (AIOL_UNLIKELY(loop->halt))
        return 0;
    n = aiol_loop_wait(loop, limit);
    loop->iteration++;
    if (AIOL_UNLIKELY(n < 0))
        return n;
    if (AIOL_UNLIKELY(aiol_inbox_full(loop)))
        aiol_inbox_drain(loop);
    if (loop->timers.count != 0)
        aiol_timer_move_due(loop);
    if (loop->ready.head != NULL) {
        aiol_queue_append(&loop->batch, &loop->ready);
        aiol_run_queue(loop, &loop->batch);
    }
    loop->more = n > 0;
    if (n > 0 && !loop->halt)
        loop->more = loop->engine->calls->dispatch(loop->engine, &loop->budget) > 0;
    if (loop->due.head != NULL && !loop->halt)
        aiol_run_queue(loop, &loop->due);
    if (AIOL_UNLIKELY(loop->remote_done != NULL))
        aiol_inbox_return(loop);
    return 0;
}

/* ---- running ---- */

static uint32_t aiol_threads_numbered;

/* False in a forked child, which has a copy: the kernel side is its parent's. */
static bool aiol_loop_is_ours(const aioloop *loop) {
    return loop->process == aiol_process_id();
}

/* False if another thread ran the loop first, or another process. */
static bool aiol_loop_stays(aioloop *loop) {
    if (!aiol_loop_is_ours(loop))
        return false;
    if (aiol_thread.number == 0)
        aiol_thread.number = aiol_add_u32(&aiol_threads_numbered, 1);
    if (loop->thread == 0)
        loop->thread = aiol_thread.number;
    return loop->thread == aiol_thread.number;
}

/* Makes this thread the one that runs the loop. */
static int aiol_loop_begin(aioloop *loop) {
    if (loop == NULL)
        return AIOLOOP_EINVAL;
    if (loop->closed)
        return aiol_fail(loop, AIOLOOP_ECLOSED, NULL);
    if (aioloop_get_running_loop() != NULL)
        return aioloop_get_running_loop() == loop ? aiol_fail(loop, AIOLOOP_EMISUSE, "the loop is running already")
                                                  : AIOLOOP_EMISUSE;
    if (!aiol_loop_is_ours(loop))
        return AIOLOOP_EMISUSE;
    if (aiol_exchange_u32(&loop->running, 1) != 0)
        return AIOLOOP_EMISUSE; /* in another thread */
    if (!aiol_loop_stays(loop)) {
        aiol_store(&loop->running, 0);
        return aiol_fail(loop, AIOLOOP_EMISUSE,
                         "a loop stays on the thread that ran it first (run_until_complete and backend_fd count)");
    }
    aiol_thread.running = loop;
    aiol_thread.running_process = loop->process;
    loop->outer_map = aiol_thread.map;
    loop->outer_place = aiol_thread.place;
    loop->map = aiol_map_ref(aiol_thread.map);
    aiol_thread.place = &loop->map;
    aiol_inbox_awake(loop);
    loop->halt = false;
    loop->raised = 0;
    loop->attention = aiol_loop_has_unsent(loop);
    return 0;
}

static void aiol_loop_end(aioloop *loop) {
    aiol_map *before = loop->outer_place != NULL ? *loop->outer_place : loop->outer_map;
    aiol_stacks_unwatch(loop);
    aiol_thread.running = NULL;
    aiol_thread.place = loop->outer_place;
    aiol_thread.map = loop->map;
    if (loop->outer_place != NULL)
        *loop->outer_place = loop->map;
    loop->map = NULL;
    aiol_map_unref(before);
    (void)aiol_inbox_sleep(loop);
    aiol_store(&loop->running, 0);
}

AIOLOOP_API int aioloop_run_forever(aioloop *loop) {
    int err = aiol_loop_begin(loop);
    if (err < 0)
        return err;
    do {
        err = aiol_loop_iterate(loop, AIOLOOP_FOREVER);
        if (loop->halt)
            err = AIOLOOP_EFATAL;
    } while (err == 0 && !loop->stopping);
    loop->stopping = false;
    if (loop->engine->calls->flush(loop->engine) < 0) /* another main loop may watch the descriptor from here on */
        loop->more = true;
    aiol_loop_end(loop);
    if (err < 0 && err != AIOLOOP_EFATAL)
        aiol_fail(loop, err, err == AIOLOOP_EDEADLK ? "back end %s: nothing can ever happen: no timer, nothing under way (%s)"
                                                    : "the back end %s cannot wait: %s",
                  loop->engine->name, aioloop_strerror(err));
    return err;
}

/* Only the run that waits for it: a stop or a fatal error may have ended that one before this was called. */
static void aiol_loop_stop_on_done(aioloop_future *future, void *arg) {
    aioloop *loop = (aioloop *)arg;
    if (loop->awaited == future)
        loop->stopping = true;
}

AIOLOOP_API int64_t aioloop_run_until_complete(aioloop *loop, aioloop_future *future, void *out) {
    int64_t n;
    if (loop == NULL || future == NULL)
        return AIOLOOP_EINVAL;
    if (aiol_future_is_static(future))
        return aiol_fail(loop, future->code, NULL);
    n = aiol_future_use(future);
    if (n < 0)
        return n;
    if (future->loop != loop)
        n = aiol_fail(loop, AIOLOOP_EINVAL, "the future belongs to another loop");
    else if (loop->closed)
        n = AIOLOOP_ECLOSED;
    if (n == 0 && (aioloop_get_running_loop() != NULL || aiol_load(&loop->running) != 0))
        n = aiol_fail(loop, AIOLOOP_EMISUSE, "a loop is running already");
    if (n == 0)
        n = aiol_future_callback(future, aiol_loop_stop_on_done, loop, NULL, 0);
    if (n == 0) {
        loop->awaited = future;
        n = aioloop_run_forever(loop);
        loop->awaited = NULL;
        aioloop_future_remove_done_callback(future, aiol_loop_stop_on_done, loop);
    }
    if (n == 0 && future->state == AIOL_FUTURE_PENDING) {
        n = aiol_fail(loop, AIOLOOP_EMISUSE, "the loop was stopped before the future completed");
    } else if (n == 0) {
        n = aioloop_future_result(future, out);
        if (n < 0)
            aiol_tell_of(loop, (int)n, future->error);
    }
    aiol_future_release(future);
    return n;
}

static aioloop_time aiol_loop_next(aioloop *loop) {
    aioloop_time next = aiol_loop_deadline(loop, AIOLOOP_FOREVER);
    return next <= 0 || loop->more || aiol_inbox_waits(loop) ? aiol_loop_now(loop) : next;
}

AIOLOOP_API int aioloop_run_once(aioloop *loop, aioloop_time max_wait) {
    aioloop_time limit = AIOLOOP_FOREVER;
    aioloop_time next;
    int err;
    if (max_wait == AIOLOOP_NOT_A_TIME)
        return AIOLOOP_EINVAL;
    err = aiol_loop_begin(loop);
    if (err < 0)
        return err;
    if (max_wait <= 0)
        limit = 0;
    else if (max_wait != AIOLOOP_FOREVER)
        limit = aiol_time_add(aiol_loop_now(loop), max_wait);
    err = aiol_loop_iterate(loop, limit);
    if (err == 0 && loop->engine->calls->flush(loop->engine) < 0)
        loop->more = true; /* an operation's failure: the next dispatch tells it */
    if (loop->halt)
        err = AIOLOOP_EFATAL;
    loop->stopping = false;
    aiol_loop_end(loop);
    if (err < 0)
        return err;
    next = aiol_loop_next(loop);
    return next != AIOLOOP_FOREVER && next <= aiol_loop_now(loop) ? 1 : 0;
}

AIOLOOP_API aioloop_time aioloop_next_deadline(aioloop *loop) {
    if (loop == NULL || loop->closed)
        return AIOLOOP_FOREVER;
    /* What was asked for since the last run, outside of it, is told to the system: the caller is about to sleep. */
    if (loop->thread != 0 && loop->thread == aiol_thread.number && aiol_thread.running != loop &&
        aiol_loop_is_ours(loop) && loop->engine->calls->flush(loop->engine) < 0)
        loop->more = true;
    return aiol_loop_next(loop);
}

AIOLOOP_API int aioloop_backend_fd(aioloop *loop) {
    if (loop == NULL)
        return AIOLOOP_EINVAL;
    if (loop->closed)
        return AIOLOOP_ECLOSED;
    if (!aiol_loop_stays(loop))
        return aiol_fail(loop, AIOLOOP_EMISUSE, "a loop stays on the thread that ran it first");
    if (loop->engine->calls->flush(loop->engine) < 0)
        loop->more = true;
    return loop->engine->calls->descriptor(loop->engine);
}

AIOLOOP_API const char *aioloop_backend_name(aioloop *loop) {
    return loop == NULL || loop->engine == NULL ? "none" : loop->engine->name;
}

AIOLOOP_API void aioloop_stop(aioloop *loop) {
    if (loop != NULL)
        loop->stopping = true;
}

AIOLOOP_API bool aioloop_is_running(aioloop *loop) {
    return loop != NULL && aiol_load(&loop->running) != 0;
}

AIOLOOP_API bool aioloop_is_closed(aioloop *loop) {
    return loop != NULL && aiol_load(&loop->closed);
}

AIOLOOP_API aioloop_time aioloop_now(aioloop *loop) {
    return loop == NULL ? 0 : aiol_loop_now(loop);
}

/* ---- closing ---- */

static void aiol_loop_drop_queue(aioloop *loop, aiol_queue *queue) {
    aiol_node *node;
    while ((node = aiol_queue_pop(queue)) != NULL) {
        if (node->run == aiol_run_future) {
            aiol_slot *slot = (aiol_slot *)(void *)node;
            aioloop_future *f = slot->u.future;
            aiol_slot_free(loop, slot);
            aiol_future_release(f);
        } else if (node->run == aiol_run_call || node->run == aiol_run_call_carefully || node->run == aiol_run_due ||
                   node->run == aiol_run_nothing) {
            aiol_slot_free(loop, (aiol_slot *)(void *)node);
        }
        /* Other nodes are inside what they run for, and go with that. */
    }
}

static void aiol_loop_drop_callbacks(aioloop *loop) {
    aiol_inbox_drain(loop);
    aiol_loop_drop_queue(loop, &loop->batch);
    aiol_loop_drop_queue(loop, &loop->ready);
    aiol_loop_drop_queue(loop, &loop->due);
    while (loop->timers.count != 0)
        aiol_timer_cancel(loop, (aiol_slot *)(void *)loop->timers.entries[0].item);
    aiol_inbox_return(loop);
}

/* What should have been ended before the loop was. */
static void aiol_loop_warn_open(aioloop *loop) {
    const aiol_link *link;
    for (link = loop->resources.next; link != &loop->resources; link = link->next) {
        const aiol_resource *resource = AIOL_CONTAINER(link, const aiol_resource, link);
        if (resource->calls->open(resource))
            aiol_warn(loop, resource->site, "unclosed %s", resource->calls->name);
    }
}

AIOLOOP_API int aioloop_close(aioloop *loop) {
    aiol_link *link;
    bool ending;
    if (loop == NULL)
        return AIOLOOP_EINVAL;
    if (loop->closed)
        return 0;
    if (aiol_load(&loop->running) != 0 && aiol_loop_is_ours(loop))
        return aiol_fail(loop, AIOLOOP_EMISUSE, "the loop is running");
    ending = loop->ending;
    loop->ending = true;
    loop->closed_at = aiol_loop_now(loop);
    aiol_store(&loop->closed, true);
    loop->careful = true;
    if (loop->debug && aiol_loop_is_ours(loop))
        aiol_loop_warn_open(loop);
    aiol_inbox_refuse(loop);
    aiol_executor_close(loop);
    for (link = loop->resources.next; link != &loop->resources; link = link->next)
        aiol_resource_of(link)->calls->closed(aiol_resource_of(link));
    if (aiol_loop_is_ours(loop))
        loop->engine->calls->close(loop->engine);
    else
        loop->engine->calls->forget(loop->engine);
    loop->engine = NULL;
    aiol_loop_drop_callbacks(loop);
    aiol_concurrents_close(loop);
    loop->ending = ending;
    return 0;
}

/* One of the loop's futures, with a reference; NULL behind the last. */
static aioloop_future *aiol_loop_hold_future(aioloop *loop, aiol_link *link) {
    aioloop_future *f = AIOL_CONTAINER(link, aioloop_future, link);
    if (link == &loop->futures)
        return NULL;
    aiol_future_hold(f);
    return f;
}

/* The failures that nobody looked at, of futures whose owners never let go, and tasks that never ended. The handler
 * may drop any of them. */
static void aiol_loop_report_failures(aioloop *loop) {
    aioloop_future *f;
    if (!aiol_loop_is_ours(loop))
        return;
    f = aiol_loop_hold_future(loop, loop->futures.next);
    while (f != NULL) {
        aioloop_future *last = f;
        if (f->state == AIOL_FUTURE_FAILED && (f->flags & AIOL_FUTURE_LOOKED_AT) == 0)
            aiol_future_report(f);
        else if (f->state == AIOL_FUTURE_PENDING && (f->flags & AIOL_FUTURE_TASK) != 0)
            aiol_task_report_pending((aiol_task *)(void *)f);
        f = aiol_loop_hold_future(loop, f->link.next);
        aiol_future_release(last); /* may run user code, so not before the next one is held */
    }
}

/* Runs all the user code that freeing still runs (of results and of context values), while every block is there: it may
 * let go of futures, transports and servers of the loop, which does nothing any more. */
static void aiol_loop_strip(aioloop *loop) {
    aiol_link *link;
    loop->freeing = true;
    aiol_loop_drop_callbacks(loop); /* what a thread posted meanwhile */
    aiol_concurrents_free(loop);
    aiol_wrappings_free(loop);
    aiol_executor_free(loop);
    for (link = loop->futures.next; link != &loop->futures; link = link->next)
        aiol_future_strip(AIOL_CONTAINER(link, aioloop_future, link));
    for (link = loop->resources.next; link != &loop->resources; link = link->next) {
        aiol_resource *resource = aiol_resource_of(link);
        aiol_map *context = resource->context;
        resource->context = NULL;
        aiol_map_unref(context);
    }
}

AIOLOOP_API int aioloop_free(aioloop *loop) {
    aioloop_allocator allocator;
    int err;
    if (loop == NULL)
        return 0;
    if (aiol_load(&loop->running) != 0 && aiol_loop_is_ours(loop))
        return aiol_fail(loop, AIOLOOP_EMISUSE, "the loop is running");
    if (loop->ending)
        return aiol_fail(loop, AIOLOOP_EMISUSE, "the loop is being closed or freed");
    loop->ending = true;
    if (loop->debug && !loop->closed && aiol_loop_is_ours(loop))
        aiol_warn(loop, loop->site, "unclosed event loop");
    err = aioloop_close(loop);
    if (err < 0) {
        loop->ending = false;
        return err;
    }
    aiol_loop_report_failures(loop);
    if (aiol_thread.current == loop)
        aiol_thread.current = NULL;
    if (aiol_thread.running == loop) { /* a forked child, inside the parent's run: the values outlive who owns them */
        aiol_thread.running = NULL;
        aiol_map_ref(aiol_thread.map);
        aiol_thread.place = NULL;
    }
    aiol_loop_strip(loop);
    while (!aiol_list_empty(&loop->resources)) {
        aiol_resource *resource = aiol_resource_of(loop->resources.next);
        resource->calls->destroy(resource);
    }
    if (loop->net != NULL)
        loop->net->freed(loop);
    while (!aiol_list_empty(&loop->futures))
        aiol_future_destroy(AIOL_CONTAINER(loop->futures.next, aioloop_future, link));
    aiol_future_free_ended(loop, 0);
    while (loop->chunks != NULL) {
        aiol_slot_chunk *chunk = loop->chunks;
        loop->chunks = chunk->next;
        aiol_slot_chunk_free(loop, chunk);
    }
    aiol_inbox_free(loop);
    aiol_stacks_free(loop);
    aiol_error_free(&loop->allocator, loop->error_of);
    allocator = loop->allocator;
    aiol_free(&allocator, loop->timers.entries, loop->timers.capacity * sizeof(loop->timers.entries[0]));
    aiol_free(&allocator, loop->sites, loop->site_capacity * sizeof(loop->sites[0]));
    aiol_free(&allocator, loop, sizeof(*loop));
    return 0;
}

AIOLOOP_API void aioloop_verify(aioloop *loop) {
#if AIOLOOP_USE_DEBUG
    if (loop == NULL || loop->closed)
        return;
    aiol_heap_verify(&loop->timers);
    loop->engine->calls->verify(loop->engine);
#else
    (void)loop;
#endif
}

#endif

/* >> src/core/watch.c */
/*
 * watch.c - watchers: callbacks for descriptors that the user owns.      (asyncio: selector_events.add_reader)
 *
 * A watcher is a POLL operation. Removing it ends the operation; if the engine still owes it a last call (CANCELLING),
 * the watcher lives until that has come.
 */
#ifndef AIOL_CORE_WATCH_C
#define AIOL_CORE_WATCH_C

typedef struct aiol_watcher {
    aiol_resource resource;
    aiol_op op;
    aioloop_callback fn;
    void *arg;
    uint32_t changed; /* the iteration in which it was set last: no event of that one is its */
    bool removed;
    bool running; /* its callback is on the stack */
} aiol_watcher;

static void aiol_watcher_free(aiol_watcher *w) {
    aioloop *loop = w->resource.loop;
    aiol_resource_remove(&w->resource);
    aiol_free(&loop->allocator, w, sizeof(*w));
}

static void aiol_watcher_free_if_over(aiol_watcher *w) {
    if (w->removed && !w->running && w->op.state == AIOL_OP_IDLE)
        aiol_watcher_free(w);
}

static AIOL_NOINLINE void aiol_watcher_report(aiol_watcher *w, int code) {
    aioloop_exception_context context;
    memset(&context, 0, sizeof(context));
    context.message = "Error in watcher";
    context.socket = &w->op.fd;
    aiol_report(w->resource.loop, code, w->resource.site, &context);
}

static size_t aiol_watcher_ready(aiol_op *op, int64_t n, const void *data) {
    aiol_watcher *w = AIOL_CONTAINER(op, aiol_watcher, op);
    aioloop *loop = w->resource.loop;
    (void)data;
    if (!w->removed && (w->changed != loop->iteration || n < 0)) {
        aiol_frame frame = aiol_enter(loop, &w->resource.context);
        aioloop_time since = AIOL_UNLIKELY(loop->debug) ? aiol_loop_now(loop) : 0;
        int raised;
        w->running = true;
        /* The engine gave up on the descriptor (n < 0): the callback finds out why by using it, once. */
        if (n < 0)
            w->removed = true;
        w->fn(loop, w->arg);
        if (AIOL_UNLIKELY(since != 0))
            aiol_slow(loop, w->resource.site, since, "watcher");
        raised = loop->raised;
        if (AIOL_UNLIKELY(raised != 0))
            aiol_watcher_report(w, raised);
        aiol_leave(loop, &frame);
        aiol_callback_end(loop);
        w->running = false; /* now: the exception handler may remove the watcher too */
    }
    aiol_watcher_free_if_over(w);
    return 0;
}

static void aiol_watcher_remove(aiol_watcher *w) {
    w->removed = true;
    aiol_op_cancel(w->resource.loop->engine, &w->op);
    aiol_watcher_free_if_over(w);
}

static void aiol_watcher_closed(aiol_resource *resource) {
    aiol_watcher *w = AIOL_CONTAINER(resource, aiol_watcher, resource);
    w->removed = true;
    w->op.state = AIOL_OP_IDLE; /* the engine goes as a whole */
}

static void aiol_watcher_destroy(aiol_resource *resource) {
    aiol_watcher_free(AIOL_CONTAINER(resource, aiol_watcher, resource));
}

static bool aiol_watcher_open(const aiol_resource *resource) {
    (void)resource;
    return false; /* forgetting to remove one harms nobody */
}

static const aiol_resource_calls aiol_watcher_calls = {"watcher", aiol_watcher_closed, aiol_watcher_destroy,
                                                       aiol_watcher_open};

static aiol_watcher *aiol_watcher_find(aioloop *loop, aioloop_socket fd, unsigned event) {
    aiol_op *op = loop->engine->calls->watching(loop->engine, fd, event);
    return op == NULL ? NULL : AIOL_CONTAINER(op, aiol_watcher, op);
}

/* What a watcher calls from now on. */
static void aiol_watcher_set(aiol_watcher *w, aioloop_callback fn, void *arg) {
    aiol_map *old = w->resource.context;
    w->fn = fn;
    w->arg = arg;
    w->resource.context = aiol_map_ref(aiol_thread.map);
    w->changed = w->resource.loop->iteration;
    w->resource.site = aiol_site_take(w->resource.loop);
    aiol_map_unref(old);
}

static int aiol_watch(aioloop *loop, aioloop_socket fd, aioloop_callback fn, void *arg, unsigned event) {
    aiol_watcher *w;
    int64_t n;
    int err;
    if (loop == NULL)
        return AIOLOOP_EINVAL;
    if (loop->careful && (err = aiol_check(loop)) < 0)
        return err;
    if (fn == NULL)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a callback is needed, not NULL");
    err = loop->engine->calls->attach(loop->engine, fd, AIOL_OWNER_WATCHER);
    if (err < 0)
        return aiol_fail(loop, err, err == AIOLOOP_EMISUSE ? "descriptor %ld belongs to a transport" : "descriptor %ld",
                         (long)fd);
    w = aiol_watcher_find(loop, fd, event);
    if (w != NULL) {
        aiol_watcher_set(w, fn, arg);
        return 0;
    }
    w = (aiol_watcher *)aiol_alloc_zero(&loop->allocator, sizeof(*w));
    if (w == NULL)
        return aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    w->op.kind = AIOL_OP_POLL;
    w->op.fd = fd;
    w->op.done = aiol_watcher_ready;
    w->op.u.poll.events = event;
    aiol_resource_add(loop, &w->resource, &aiol_watcher_calls);
    aiol_watcher_set(w, fn, arg);
    n = aiol_op_submit(loop->engine, &w->op);
    if (n == AIOL_PENDING)
        return 0;
    aiol_watcher_free(w);
    return aiol_fail(loop, (int)n, "descriptor %ld cannot be watched", (long)fd);
}

static int aiol_unwatch(aioloop *loop, aioloop_socket fd, unsigned event) {
    aiol_watcher *w;
    if (loop == NULL)
        return AIOLOOP_EINVAL;
    if (loop->closed || fd < 0)
        return 0;
    if (AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop))
        return AIOLOOP_EMISUSE;
    if (loop->engine->calls->owned(loop->engine, fd))
        return aiol_fail(loop, AIOLOOP_EMISUSE, "descriptor %ld belongs to a transport", (long)fd);
    w = aiol_watcher_find(loop, fd, event);
    if (w == NULL)
        return 0;
    aiol_watcher_remove(w);
    return 1;
}

AIOLOOP_API int(aioloop_add_reader)(aioloop *loop, aioloop_socket fd, aioloop_callback fn, void *arg) {
    return aiol_watch(loop, fd, fn, arg, AIOL_POLL_READABLE);
}

AIOLOOP_API int(aioloop_add_writer)(aioloop *loop, aioloop_socket fd, aioloop_callback fn, void *arg) {
    return aiol_watch(loop, fd, fn, arg, AIOL_POLL_WRITABLE);
}

AIOLOOP_API int aioloop_remove_reader(aioloop *loop, aioloop_socket fd) {
    return aiol_unwatch(loop, fd, AIOL_POLL_READABLE);
}

AIOLOOP_API int aioloop_remove_writer(aioloop *loop, aioloop_socket fd) {
    return aiol_unwatch(loop, fd, AIOL_POLL_WRITABLE);
}

#endif

/* >> src/aioloop.h */
/* net: transports and servers. */

/* >> src/net/net.h */
/*
 * net.h - what transports and servers look like inside.
 */
#ifndef AIOL_NET_NET_H
#define AIOL_NET_NET_H

/* NEW -> OPEN -> CLOSING (sending what is buffered) -> ENDING (operations still at the engine) -> DOOMED
 * (connection_lost is queued) -> LOST. Every step may be left out, none is taken back. */
typedef enum aiol_transport_state {
    AIOL_TRANSPORT_NEW,
    AIOL_TRANSPORT_OPEN,
    AIOL_TRANSPORT_CLOSING,
    AIOL_TRANSPORT_ENDING,
    AIOL_TRANSPORT_DOOMED,
    AIOL_TRANSPORT_LOST
} aiol_transport_state;

enum {
    AIOL_TRANSPORT_READ_PAUSED = 1,
    AIOL_TRANSPORT_READ_ENDED = 2,   /* the peer's end was delivered */
    AIOL_TRANSPORT_WRITE_PAUSED = 4, /* the protocol was told to pause */
    AIOL_TRANSPORT_WRITE_ENDED = 8   /* write_eof */
};

/* One kind of transport: what the functions of transport.h call. */
typedef struct aiol_transport_calls {
    int (*write)(aioloop_transport *t, const void *data, size_t size);
    /* The same for pieces, at least one. release not NULL: the only one is lent. */
    int (*write_pieces)(aioloop_transport *t, const aioloop_buf *pieces, size_t count, aiol_release_fn release, void *arg);
    int (*write_eof)(aioloop_transport *t);
    bool can_write_eof;
    void (*close)(aioloop_transport *t);
    void (*abort)(aioloop_transport *t, int error);
    void (*pause_reading)(aioloop_transport *t);
    void (*resume_reading)(aioloop_transport *t);
    void (*protocol_changed)(aioloop_transport *t);
} aiol_transport_calls;

/* What a transport needs while it has something to send; taken from a stock of the loop's, and given back. */
typedef struct aiol_writer {
    aiol_op op;
    aiol_link unsent; /* in a list of the loop's while it has a send to start */
    aioloop_transport *transport;
    aiol_bytes bytes;
    aioloop_buf pieces[16];
    union {
        aiol_chunk chunk;
        unsigned char bytes[AIOL_OWN_SIZE];
    } own;
} aiol_writer;

struct aioloop_transport {
    aiol_resource resource;
    const aiol_transport_calls *calls;
    const aioloop_protocol *protocol;
    void *self;
    aioloop_server *server; /* that accepted it, while it lives */
    aiol_link siblings;     /* in the server's clients */
    aiol_writer *writer;    /* NULL: nothing to send */
    aiol_node doom;         /* runs connection_lost */
    uint32_t write_turn;    /* the callback in which it wrote last */
    int error;              /* what connection_lost will say */
    uint8_t state;
    uint8_t flags;
    uint8_t dropped; /* writes after the end */
    size_t high;
    size_t low;
    aiol_op recv;
    aioloop_address local;
    aioloop_address peer;
    size_t block_size;
};

/* Where a connection comes from, and whose it will be. */
typedef struct aiol_stream_setup {
    aioloop *loop;
    const aioloop_protocol *protocol;
    void *arg;
    aiol_map *context; /* borrowed */
    aioloop_server *server;
    aioloop_socket socket;
    const aioloop_address *local;
    const aioloop_address *peer;
    uint32_t site;
    bool attached; /* the engine knows the socket already */
} aiol_stream_setup;

/* transport.c */
AIOLOOP_INTERNAL void aiol_transport_report(aioloop_transport *t, int code, const char *message);
AIOLOOP_INTERNAL void aiol_transport_maybe_pause(aioloop_transport *t);
AIOLOOP_INTERNAL void aiol_transport_maybe_resume(aioloop_transport *t);
AIOLOOP_INTERNAL aiol_writer *aiol_writer_get(aioloop_transport *t);
AIOLOOP_INTERNAL void aiol_writer_put(aioloop_transport *t);

/* stream.c */
AIOLOOP_INTERNAL int aiol_stream_new(const aiol_stream_setup *setup, aioloop_transport **out);
AIOLOOP_INTERNAL int aiol_stream_begin(aioloop_transport *t, void *arg);

/* server.c */
AIOLOOP_INTERNAL void aiol_server_lost(aioloop_server *server, aioloop_transport *t);

#endif

/* >> src/net/transport.c */
/*
 * transport.c - what all transports have in common.                       (asyncio: transports.py)
 */
#ifndef AIOL_NET_TRANSPORT_C
#define AIOL_NET_TRANSPORT_C

#define AIOL_HIGH_WATER 65536u
#define AIOL_WRITERS_KEPT 64
#define AIOL_WRITES_DROPPED_WARNING 5

/* ---- reporting ---- */

AIOLOOP_INTERNAL AIOL_NOINLINE void aiol_transport_report(aioloop_transport *t, int code, const char *message) {
    aioloop_exception_context context;
    aiol_context_frame frame;
    memset(&context, 0, sizeof(context));
    context.message = message;
    context.transport = t;
    context.protocol = t->protocol;
    frame = aiol_context_enter(&t->resource.context);
    aiol_report(t->resource.loop, code, t->resource.site, &context);
    aiol_context_leave(&frame);
}

/* ---- calling the protocol ---- */

typedef struct aiol_transport_frame {
    aiol_frame frame;
    aioloop_time since; /* in debug mode; else 0 */
} aiol_transport_frame;

AIOL_INLINE aiol_transport_frame aiol_transport_enter(aioloop_transport *t) {
    aioloop *loop = t->resource.loop;
    aiol_transport_frame frame;
    frame.frame = aiol_enter(loop, &t->resource.context);
    frame.since = AIOL_UNLIKELY(loop->debug) ? aiol_loop_now(loop) : 0;
    return frame;
}

/* What the method raised, or 0. */
AIOL_INLINE int aiol_transport_leave(aioloop_transport *t, const aiol_transport_frame *frame, const char *method) {
    aioloop *loop = t->resource.loop;
    if (AIOL_UNLIKELY(frame->since != 0))
        aiol_slow(loop, t->resource.site, frame->since, method);
    return aiol_leave(loop, &frame->frame);
}

/* ---- writers ---- */

/* NULL when there is no memory. */
AIOLOOP_INTERNAL aiol_writer *aiol_writer_get(aioloop_transport *t) {
    aioloop *loop = t->resource.loop;
    aiol_link *spare = loop->spare_writers;
    aiol_writer *w;
    if (spare != NULL) {
        w = AIOL_CONTAINER(spare, aiol_writer, unsent);
        loop->spare_writers = spare->next;
        loop->spare_writer_count--;
    } else {
        w = (aiol_writer *)aiol_alloc(&loop->allocator, sizeof(*w));
        if (w == NULL)
            return NULL;
    }
    memset(w, 0, offsetof(aiol_writer, pieces));
    w->bytes.own = &w->own.chunk;
    w->transport = t;
    t->writer = w;
    return w;
}

static void aiol_writer_free(aioloop *loop, aiol_writer *w) {
    aiol_free(&loop->allocator, w, sizeof(*w));
}

/* The transport has nothing more to send. */
AIOLOOP_INTERNAL void aiol_writer_put(aioloop_transport *t) {
    aioloop *loop = t->resource.loop;
    aiol_writer *w = t->writer;
    AIOL_ASSERT(w->bytes.head == NULL && w->bytes.done == NULL && w->unsent.next == NULL && w->op.state == AIOL_OP_IDLE);
    t->writer = NULL;
    if (loop->spare_writer_count >= AIOL_WRITERS_KEPT) {
        aiol_writer_free(loop, w);
        return;
    }
    w->unsent.next = loop->spare_writers;
    loop->spare_writers = &w->unsent;
    loop->spare_writer_count++;
}

/* The loop is freed. */
AIOLOOP_INTERNAL void aiol_writer_free_spare(aioloop *loop) {
    while (loop->spare_writers != NULL) {
        aiol_writer *w = AIOL_CONTAINER(loop->spare_writers, aiol_writer, unsent);
        loop->spare_writers = w->unsent.next;
        aiol_writer_free(loop, w);
    }
}

/* ---- flow control ---- */

/* What an ending connection still has is dropped, be it that the engine holds it a little longer. */
static size_t aiol_transport_buffered(const aioloop_transport *t) {
    return t->writer == NULL || t->state >= AIOL_TRANSPORT_ENDING ? 0 : t->writer->bytes.size;
}

static void aiol_transport_flow(aioloop_transport *t, void (*method)(aioloop_transport *, void *), const char *message) {
    const char *name = (t->flags & AIOL_TRANSPORT_WRITE_PAUSED) != 0 ? "pause_writing" : "resume_writing";
    aiol_transport_frame frame;
    int raised;
    if (method == NULL)
        return;
    frame = aiol_transport_enter(t);
    method(t, t->self);
    raised = aiol_transport_leave(t, &frame, name);
    if (AIOL_UNLIKELY(raised != 0))
        aiol_transport_report(t, raised, message);
}

AIOLOOP_INTERNAL void aiol_transport_maybe_pause(aioloop_transport *t) {
    if (aiol_transport_buffered(t) <= t->high || (t->flags & AIOL_TRANSPORT_WRITE_PAUSED) != 0)
        return;
    t->flags |= AIOL_TRANSPORT_WRITE_PAUSED;
    aiol_transport_flow(t, t->protocol->pause_writing, "Error in pause_writing");
}

AIOLOOP_INTERNAL void aiol_transport_maybe_resume(aioloop_transport *t) {
    if (aiol_transport_buffered(t) > t->low || (t->flags & AIOL_TRANSPORT_WRITE_PAUSED) == 0)
        return;
    t->flags &= (uint8_t)~AIOL_TRANSPORT_WRITE_PAUSED;
    aiol_transport_flow(t, t->protocol->resume_writing, "Error in resume_writing");
}

AIOLOOP_API int aioloop_transport_set_write_buffer_limits(aioloop_transport *transport, int64_t high, int64_t low) {
    if (transport == NULL || high < -1 || low < -1)
        return AIOLOOP_EINVAL;
    if (high == -1)
        high = low == -1 ? (int64_t)AIOL_HIGH_WATER : low > INT64_MAX / 4 ? INT64_MAX : 4 * low;
    if (low == -1)
        low = high / 4;
    if (low > high)
        return AIOLOOP_EINVAL;
    transport->high = (uint64_t)high > SIZE_MAX ? SIZE_MAX : (size_t)high;
    transport->low = (uint64_t)low > SIZE_MAX ? SIZE_MAX : (size_t)low;
    aiol_transport_maybe_pause(transport);
    return 0;
}

AIOLOOP_API void aioloop_transport_get_write_buffer_limits(const aioloop_transport *transport, size_t *low, size_t *high) {
    if (transport == NULL)
        return;
    if (low != NULL)
        *low = transport->low;
    if (high != NULL)
        *high = transport->high;
}

AIOLOOP_API size_t aioloop_transport_get_write_buffer_size(const aioloop_transport *transport) {
    return transport == NULL ? 0 : aiol_transport_buffered(transport);
}

/* ---- owners ---- */

AIOLOOP_API aioloop_transport *aioloop_transport_ref(aioloop_transport *transport) {
    if (transport != NULL)
        transport->resource.refs++;
    return transport;
}

static void aiol_transport_destroy(aioloop_transport *t) {
    aioloop *loop = t->resource.loop;
    aiol_resource_remove(&t->resource);
    if (t->writer != NULL)
        aiol_writer_free(loop, t->writer);
    aiol_free(&loop->allocator, t, t->block_size);
}

AIOLOOP_API void aioloop_transport_unref(aioloop_transport *transport) {
    if (transport == NULL)
        return;
    AIOL_ASSERT(transport->resource.refs != 0);
    if (--transport->resource.refs == 0)
        aiol_transport_destroy(transport);
}

/* As a future's dispose. */
static void aiol_transport_dispose(void *pointer) {
    aioloop_transport_unref((aioloop_transport *)pointer);
}

/* ---- the public face ---- */

AIOLOOP_API aioloop *aioloop_transport_get_loop(const aioloop_transport *transport) {
    return transport == NULL ? NULL : transport->resource.loop;
}

/* A write that comes too late: dropped, and said once. */
static int aiol_transport_dropped(aioloop_transport *t) {
    if (t->dropped < AIOL_WRITES_DROPPED_WARNING && ++t->dropped == AIOL_WRITES_DROPPED_WARNING)
        aiol_warn(t->resource.loop, t->resource.site, "writing to a transport that is closed");
    return 0;
}

AIOLOOP_API int aioloop_transport_write(aioloop_transport *transport, const void *data, size_t size) {
    if (transport == NULL || (data == NULL && size != 0))
        return AIOLOOP_EINVAL;
    return transport->calls->write(transport, data, size);
}

AIOLOOP_API int aioloop_transport_writelines(aioloop_transport *transport, const aioloop_buf *pieces, size_t count) {
    size_t i;
    if (transport == NULL || (pieces == NULL && count != 0))
        return AIOLOOP_EINVAL;
    for (i = 0; i < count; i++)
        if (pieces[i].data == NULL && pieces[i].size != 0)
            return AIOLOOP_EINVAL;
    return count == 0 ? 0 : transport->calls->write_pieces(transport, pieces, count, NULL, NULL);
}

AIOLOOP_API int aioloop_transport_write_owned(aioloop_transport *transport, const void *data, size_t size,
                                              void (*release)(const void *data, size_t size, void *arg), void *arg) {
    aioloop_buf piece;
    if (transport == NULL || data == NULL || release == NULL)
        return AIOLOOP_EINVAL;
    piece.data = data;
    piece.size = size;
    return transport->calls->write_pieces(transport, &piece, 1, release, arg);
}

AIOLOOP_API int aioloop_transport_write_eof(aioloop_transport *transport) {
    return transport == NULL ? AIOLOOP_EINVAL : transport->calls->write_eof(transport);
}

AIOLOOP_API bool aioloop_transport_can_write_eof(const aioloop_transport *transport) {
    return transport != NULL && transport->calls->can_write_eof;
}

AIOLOOP_API bool aioloop_transport_is_closing(const aioloop_transport *transport) {
    return transport == NULL || transport->state > AIOL_TRANSPORT_OPEN;
}

AIOLOOP_API void aioloop_transport_pause_reading(aioloop_transport *transport) {
    if (aioloop_transport_is_closing(transport) || (transport->flags & AIOL_TRANSPORT_READ_PAUSED) != 0)
        return;
    transport->flags |= AIOL_TRANSPORT_READ_PAUSED;
    transport->calls->pause_reading(transport);
}

AIOLOOP_API void aioloop_transport_resume_reading(aioloop_transport *transport) {
    if (aioloop_transport_is_closing(transport) || (transport->flags & AIOL_TRANSPORT_READ_PAUSED) == 0)
        return;
    transport->flags &= (uint8_t)~AIOL_TRANSPORT_READ_PAUSED;
    transport->calls->resume_reading(transport);
}

AIOLOOP_API bool aioloop_transport_is_reading(const aioloop_transport *transport) {
    return !aioloop_transport_is_closing(transport) && (transport->flags & AIOL_TRANSPORT_READ_PAUSED) == 0;
}

AIOLOOP_API void aioloop_transport_close(aioloop_transport *transport) {
    if (transport != NULL && transport->state < AIOL_TRANSPORT_CLOSING && !transport->resource.loop->closed)
        transport->calls->close(transport);
}

AIOLOOP_API void aioloop_transport_abort(aioloop_transport *transport) {
    if (transport != NULL && transport->state < AIOL_TRANSPORT_ENDING && !transport->resource.loop->closed)
        transport->calls->abort(transport, 0);
}

AIOLOOP_API int aioloop_transport_set_protocol(aioloop_transport *transport, const aioloop_protocol *protocol, void *self) {
    if (transport == NULL || protocol == NULL)
        return AIOLOOP_EINVAL;
    transport->protocol = protocol;
    transport->self = self;
    transport->calls->protocol_changed(transport);
    return 0;
}

AIOLOOP_API const aioloop_protocol *aioloop_transport_get_protocol(const aioloop_transport *transport, void **self) {
    if (transport == NULL)
        return NULL;
    if (self != NULL)
        *self = transport->self;
    return transport->protocol;
}

AIOLOOP_API const void *aioloop_transport_get_extra_info(const aioloop_transport *transport, const char *name,
                                                         const void *fallback) {
    if (transport == NULL || name == NULL)
        return fallback;
    if (strcmp(name, "peername") == 0)
        return transport->peer.family != AIOLOOP_UNSPEC ? &transport->peer : fallback;
    if (strcmp(name, "sockname") == 0)
        return transport->local.family != AIOLOOP_UNSPEC ? &transport->local : fallback;
    if (strcmp(name, "socket") == 0)
        return transport->recv.fd != AIOL_NO_SOCKET ? &transport->recv.fd : fallback;
    return fallback;
}

#endif

/* >> src/net/stream.c */
/*
 * stream.c - connections: bytes in order, both ways.    (asyncio: selector_events._SelectorSocketTransport)
 *
 * Reading is one source (t->recv) for the life of the connection. Writing tries the socket at once when nothing waits;
 * what it does not take is queued in a writer, and one send at a time works the queue off. Further writes in the same
 * callback are queued without trying and go out together when the callback ends.
 *
 * The end: aiol_stream_end cancels both operations; when the engine has given both back, the doom node is queued; it
 * calls connection_lost, closes the socket and drops the loop's reference. So nothing is called from inside close or
 * abort, the engine never has an operation of a transport that is gone, and ending needs no memory.
 */
#ifndef AIOL_NET_STREAM_C
#define AIOL_NET_STREAM_C

static void aiol_stream_end(aioloop_transport *t, int error);

/* ---- ending ---- */

static void aiol_stream_close_socket(aioloop_transport *t) {
    aiol_engine *e = t->resource.loop->engine;
    aioloop_socket s = t->recv.fd;
    if (s == AIOL_NO_SOCKET)
        return;
    t->recv.fd = AIOL_NO_SOCKET;
    e->calls->quiesce(e, s);
    e->sockets->close(e, s);
}

/* Gives lent memory back to its owners. User code, which may even make the writer go (by a write that fails). */
static void aiol_stream_release(aioloop_transport *t) {
    aioloop *loop = t->resource.loop;
    while (t->writer != NULL && t->writer->bytes.done != NULL) {
        aiol_frame frame = aiol_enter(loop, &t->resource.context);
        int raised;
        aiol_bytes_release_first(&t->writer->bytes, &loop->allocator);
        raised = aiol_leave(loop, &frame);
        if (AIOL_UNLIKELY(raised != 0))
            aiol_transport_report(t, raised, "Error in release");
    }
}

static void aiol_stream_lost(aioloop *loop, aiol_node *node) {
    aioloop_transport *t = AIOL_CONTAINER(node, aioloop_transport, doom);
    aioloop_server *server = t->server;
    t->state = AIOL_TRANSPORT_LOST;
    if (t->protocol->connection_lost != NULL) {
        aiol_transport_frame frame = aiol_transport_enter(t);
        int raised;
        t->protocol->connection_lost(t, t->self, t->error);
        raised = aiol_transport_leave(t, &frame, "connection_lost");
        if (AIOL_UNLIKELY(raised != 0))
            aiol_transport_report(t, raised, "Error in connection_lost");
    }
    if (t->writer != NULL) {
        aiol_stream_release(t);
        aiol_writer_put(t);
    }
    aiol_stream_close_socket(t);
    if (server != NULL)
        aiol_server_lost(server, t);
    aioloop_transport_unref(t);
    aiol_callback_end(loop);
}

/* Queues connection_lost when the engine has given the operations back. */
static void aiol_stream_doom_if_over(aioloop_transport *t) {
    if (t->state != AIOL_TRANSPORT_ENDING || t->recv.state != AIOL_OP_IDLE)
        return;
    if (t->writer != NULL) {
        if (t->writer->op.state != AIOL_OP_IDLE)
            return;
        aiol_bytes_clear(&t->writer->bytes, &t->resource.loop->allocator);
    }
    t->state = AIOL_TRANSPORT_DOOMED;
    t->doom.run = aiol_stream_lost;
    aiol_queue_push(&t->resource.loop->ready, &t->doom);
}

/* Sends what waits for the end of the callback or for the next wait, as far as the system takes it now. Calls no user
 * code. 0, or the error. */
static int aiol_stream_push(aioloop_transport *t) {
    aiol_engine *e = t->resource.loop->engine;
    aiol_writer *w = t->writer;
    int64_t n;
    int count;
    if (w == NULL || w->op.state != AIOL_OP_IDLE || w->bytes.size == 0)
        return 0;
    count = aiol_bytes_pieces(&w->bytes, w->pieces, (int)(sizeof(w->pieces) / sizeof(w->pieces[0])));
    n = e->calls->attempt(e, t->recv.fd, w->pieces, count, true);
    if (n > 0)
        aiol_bytes_consume(&w->bytes, e->allocator, (size_t)n);
    return n < 0 && n != AIOL_PENDING ? (int)n : 0;
}

/* Ends the connection now. What the system does not take any more is dropped. */
static void aiol_stream_end(aioloop_transport *t, int error) {
    aiol_engine *e = t->resource.loop->engine;
    if (t->state >= AIOL_TRANSPORT_ENDING)
        return;
    t->state = AIOL_TRANSPORT_ENDING;
    t->error = error;
    aiol_op_cancel(e, &t->recv);
    if (t->writer != NULL) {
        aiol_list_remove(&t->writer->unsent);
        aiol_op_cancel(e, &t->writer->op);
        (void)aiol_stream_push(t); /* last words: where writing is tried at once they are sent by now */
    }
    aiol_stream_doom_if_over(t);
}

/* The protocol failed: reported, and the connection ends with that error. */
static void aiol_stream_failed(aioloop_transport *t, int code, const char *message) {
    aiol_transport_report(t, code, message);
    aiol_stream_end(t, code);
}

static void aiol_stream_close(aioloop_transport *t) {
    t->state = AIOL_TRANSPORT_CLOSING;
    aiol_op_cancel(t->resource.loop->engine, &t->recv);
    if (t->writer == NULL || t->writer->bytes.size == 0)
        aiol_stream_end(t, 0);
}

/* ---- reading ---- */

static void aiol_stream_peer_ended(aioloop_transport *t) {
    bool keep = false;
    int raised = 0;
    t->flags |= AIOL_TRANSPORT_READ_ENDED;
    if (t->protocol->eof_received != NULL) {
        aiol_transport_frame frame = aiol_transport_enter(t);
        keep = t->protocol->eof_received(t, t->self);
        raised = aiol_transport_leave(t, &frame, "eof_received");
    }
    if (AIOL_UNLIKELY(raised != 0))
        aiol_stream_failed(t, raised, "Error in eof_received");
    else if (!keep)
        aioloop_transport_close(t);
}

/* After the protocol had bytes: an error ends the connection, what was written goes out. */
static AIOL_NOINLINE void aiol_stream_attend(aioloop_transport *t, const char *message) {
    aioloop *loop = t->resource.loop;
    int raised = loop->raised;
    loop->raised = 0;
    if (raised != 0)
        aiol_stream_failed(t, raised, message);
    aiol_callback_end(loop);
}

AIOL_INLINE size_t aiol_stream_deliver(aioloop_transport *t, const void *data, size_t size) {
    aioloop *loop = t->resource.loop;
    const aioloop_protocol *protocol = t->protocol;
    aiol_dispatch_enter(loop, &t->resource.context);
    if (t->recv.u.recv.dest == NULL) {
        if (protocol->data_received != NULL)
            protocol->data_received(t, t->self, data, size);
    } else if (protocol->buffer_updated != NULL) {
        protocol->buffer_updated(t, t->self, size);
    }
    aiol_dispatch_leave(loop);
    if (AIOL_UNLIKELY(loop->attention))
        aiol_stream_attend(t, "Error in data_received");
    return size;
}

/* Something other than bytes for an open transport; or debug mode, which measures. */
static AIOL_NOINLINE size_t aiol_stream_received_rarely(aioloop_transport *t, int64_t n, const void *data) {
    aioloop *loop = t->resource.loop;
    if (t->state != AIOL_TRANSPORT_OPEN) { /* a cancelled one comes back; the bytes are nobody's any more */
        aiol_stream_doom_if_over(t);
        return n > 0 ? (size_t)n : 0;
    }
    if (n > 0) {
        aioloop_time since = aiol_loop_now(loop);
        aiol_stream_deliver(t, data, (size_t)n);
        aiol_slow(loop, t->resource.site, since, "data_received");
        return (size_t)n;
    }
    if (n == 0)
        aiol_stream_peer_ended(t);
    else
        aiol_stream_end(t, (int)n);
    aiol_callback_end(loop);
    return 0;
}

/* The operation's done(). */
static size_t aiol_stream_received(aiol_op *op, int64_t n, const void *data) {
    aioloop_transport *t = AIOL_CONTAINER(op, aioloop_transport, recv);
    if (AIOL_UNLIKELY(n <= 0 || t->state != AIOL_TRANSPORT_OPEN || t->resource.loop->debug))
        return aiol_stream_received_rarely(t, n, data);
    return aiol_stream_deliver(t, data, (size_t)n);
}

/* Where a buffered protocol wants the next bytes. */
static size_t aiol_stream_dest(aiol_op *op, void **buffer) {
    aioloop_transport *t = AIOL_CONTAINER(op, aioloop_transport, recv);
    aioloop *loop = t->resource.loop;
    const aioloop_protocol *protocol = t->protocol;
    void *self = t->self;
    aiol_transport_frame frame = aiol_transport_enter(t);
    size_t size = protocol->get_buffer(t, self, 0, buffer);
    int raised = aiol_transport_leave(t, &frame, "get_buffer");
    if (AIOL_UNLIKELY(raised != 0 || ((size == 0 || *buffer == NULL) && t->state == AIOL_TRANSPORT_OPEN))) {
        if (raised == 0)
            raised = aiol_fail(loop, AIOLOOP_EINVAL, "get_buffer gave an empty buffer");
        aiol_stream_failed(t, raised, "Error in get_buffer");
    }
    /* What it wrote goes out after the buffer was used: sending calls user code, which may free it. */
    if (AIOL_UNLIKELY(t->protocol != protocol || t->self != self)) /* the new one is asked next time */
        return 0;
    return t->state == AIOL_TRANSPORT_OPEN && op->state == AIOL_OP_ACTIVE ? size : 0;
}

static void aiol_stream_start_reading(aioloop_transport *t) {
    aiol_engine *e = t->resource.loop->engine;
    int64_t n;
    if (t->state != AIOL_TRANSPORT_OPEN || (t->flags & (AIOL_TRANSPORT_READ_PAUSED | AIOL_TRANSPORT_READ_ENDED)) != 0)
        return;
    if (t->recv.state == AIOL_OP_STOPPED) {
        e->calls->start(e, &t->recv);
    } else if (t->recv.state == AIOL_OP_IDLE) {
        n = aiol_op_submit(e, &t->recv);
        if (n != AIOL_PENDING)
            aiol_stream_end(t, n < 0 ? (int)n : AIOLOOP_EIO);
    }
}

static void aiol_stream_pause_reading(aioloop_transport *t) {
    aiol_engine *e = t->resource.loop->engine;
    if (t->recv.state == AIOL_OP_ACTIVE)
        e->calls->stop(e, &t->recv);
}

static void aiol_stream_protocol_changed(aioloop_transport *t) {
    t->recv.u.recv.dest = t->protocol->get_buffer != NULL ? aiol_stream_dest : NULL;
}

/* ---- writing ---- */

/* All that was buffered has gone. */
static void aiol_stream_drained(aioloop_transport *t) {
    aiol_engine *e = t->resource.loop->engine;
    aiol_writer_put(t);
    if (t->state == AIOL_TRANSPORT_CLOSING)
        aiol_stream_end(t, 0);
    else if ((t->flags & AIOL_TRANSPORT_WRITE_ENDED) != 0)
        e->sockets->shutdown(e, t->recv.fd); /* what it says of a peer that is gone, reading says too */
}

/* Sends until the system takes no more. Calls no user code. */
static void aiol_stream_send(aioloop_transport *t) {
    aiol_engine *e = t->resource.loop->engine;
    aiol_writer *w = t->writer;
    while (w->bytes.size != 0) {
        int64_t n;
        w->op.u.send.pieces = w->pieces;
        w->op.u.send.count = aiol_bytes_pieces(&w->bytes, w->pieces, (int)(sizeof(w->pieces) / sizeof(w->pieces[0])));
        n = aiol_op_submit(e, &w->op);
        if (n == AIOL_PENDING)
            return;
        if (n < 0) {
            aiol_stream_end(t, (int)n);
            return;
        }
        aiol_bytes_consume(&w->bytes, e->allocator, (size_t)n);
    }
    aiol_bytes_consume(&w->bytes, e->allocator, 0); /* lent pieces of no bytes */
}

/* After a send: owners get their memory back, the protocol may write again, and the end of the queue has its
 * consequences. Any of these may write, close or abort. */
static void aiol_stream_after_send(aioloop_transport *t) {
    if (AIOL_UNLIKELY(t->writer->bytes.done != NULL))
        aiol_stream_release(t);
    if (t->state <= AIOL_TRANSPORT_CLOSING)
        aiol_transport_maybe_resume(t);
    /* Its head, not its size: a release may have lent a piece of no bytes. */
    if (t->state <= AIOL_TRANSPORT_CLOSING && t->writer != NULL && t->writer->bytes.head == NULL && t->writer->bytes.done == NULL &&
        t->writer->op.state == AIOL_OP_IDLE) {
        aiol_list_remove(&t->writer->unsent);
        aiol_stream_drained(t);
    }
}

/* The operation's done(). */
static size_t aiol_stream_sent(aiol_op *op, int64_t n, const void *data) {
    aiol_writer *w = AIOL_CONTAINER(op, aiol_writer, op);
    aioloop_transport *t = w->transport;
    aioloop *loop = t->resource.loop;
    (void)data;
    if (n > 0)
        aiol_bytes_consume(&w->bytes, &loop->allocator, (size_t)n);
    if (t->state >= AIOL_TRANSPORT_ENDING) {
        aiol_stream_doom_if_over(t);
        return 0;
    }
    if (n < 0) {
        aiol_stream_end(t, (int)n);
        return 0;
    }
    if (w->bytes.head != NULL)
        aiol_stream_send(t);
    if (t->state <= AIOL_TRANSPORT_CLOSING)
        aiol_stream_after_send(t);
    if (AIOL_UNLIKELY(loop->attention))
        aiol_callback_end(loop);
    return 0;
}

/* The end of a callback: starts the sends of what it wrote. What is written meanwhile (by release functions and
 * resume_writing) is for the end of the next one: a peer that reads as fast as we write must not keep us here. */
static void aiol_stream_flush(aioloop *loop) {
    if (aiol_list_empty(&loop->sending))
        aiol_list_move(&loop->sending, &loop->unsent);
    while (!aiol_list_empty(&loop->sending) && !loop->halt) {
        aiol_writer *w = AIOL_CONTAINER(loop->sending.next, aiol_writer, unsent);
        aioloop_transport *t = w->transport;
        aiol_list_remove(&w->unsent);
        if (w->op.state != AIOL_OP_IDLE)
            continue;
        aiol_stream_send(t);
        if (t->state <= AIOL_TRANSPORT_CLOSING)
            aiol_stream_after_send(t);
    }
    loop->attention = loop->attention || aiol_loop_has_unsent(loop);
}

/* A writer for the transport, ready for use; NULL when there is no memory. */
static aiol_writer *aiol_stream_writer(aioloop_transport *t) {
    aiol_writer *w = t->writer;
    if (w != NULL)
        return w;
    w = aiol_writer_get(t);
    if (w == NULL)
        return NULL;
    w->op.kind = AIOL_OP_SEND;
    w->op.fd = t->recv.fd;
    w->op.done = aiol_stream_sent;
    return w;
}

/* Queues the pieces but for the first `sent` bytes. All or nothing. */
static int aiol_stream_enqueue(aioloop_transport *t, const aioloop_buf *pieces, size_t count, size_t sent,
                               aiol_release_fn release, void *arg) {
    aioloop *loop = t->resource.loop;
    aiol_writer *w = aiol_stream_writer(t);
    aiol_bytes rest;
    size_t i;
    int err = 0;
    if (w == NULL)
        return AIOLOOP_ENOMEM;
    if (release != NULL)
        return aiol_bytes_lend(&w->bytes, &loop->allocator, pieces->data, pieces->size, release, arg);
    if (count == 1)
        return aiol_bytes_append(&w->bytes, &loop->allocator, (const char *)pieces->data + sent, pieces->size - sent);
    /* Several: into a queue of their own first, so that none stays behind if memory ends in the middle. */
    memset(&rest, 0, sizeof(rest));
    for (i = 0; i < count && err == 0; i++) {
        size_t skip = aiol_min_size(sent, pieces[i].size);
        sent -= skip;
        if (skip < pieces[i].size)
            err = aiol_bytes_append(&rest, &loop->allocator, (const char *)pieces[i].data + skip, pieces[i].size - skip);
    }
    if (err < 0)
        aiol_bytes_clear(&rest, &loop->allocator);
    else
        aiol_bytes_join(&w->bytes, &rest);
    return err;
}

/* A writer that was made for nothing goes back. */
static void aiol_stream_drop_empty_writer(aioloop_transport *t) {
    if (t->writer != NULL && t->writer->bytes.head == NULL && t->writer->bytes.done == NULL && t->writer->unsent.next == NULL &&
        t->writer->op.state == AIOL_OP_IDLE)
        aiol_writer_put(t);
}

static AIOL_NOINLINE int aiol_stream_write_late(aioloop_transport *t, aiol_release_fn release) {
    if (t->resource.loop->closed)
        return release != NULL ? AIOLOOP_ECLOSED : 0;
    if (t->state == AIOL_TRANSPORT_OPEN) /* write_eof was called */
        return aiol_fail(t->resource.loop, AIOLOOP_EMISUSE, "write after write_eof");
    if (release != NULL)
        return AIOLOOP_ENOTCONN;
    return aiol_transport_dropped(t);
}

static AIOL_NOINLINE int aiol_stream_write_rest(aioloop_transport *t, const aioloop_buf *pieces, size_t count, size_t sent,
                                                aiol_release_fn release, void *arg);

/* True if a write may go straight to the system: nothing waits, and it is the first in this callback. */
AIOL_INLINE bool aiol_stream_may_try(const aioloop_transport *t) {
    return AIOL_LIKELY(t->state == AIOL_TRANSPORT_OPEN && (t->flags & AIOL_TRANSPORT_WRITE_ENDED) == 0 && t->writer == NULL &&
                       t->write_turn != t->resource.loop->turn);
}

/* The system was tried and took n of the pieces (or failed), which is not all. */
static AIOL_NOINLINE int aiol_stream_write_tried(aioloop_transport *t, const aioloop_buf *pieces, size_t count, int64_t n) {
    if (n < 0 && n != AIOL_PENDING) {
        aiol_stream_end(t, (int)n);
        return 0;
    }
    return aiol_stream_write_rest(t, pieces, count, n == AIOL_PENDING ? 0 : (size_t)n, NULL, NULL);
}

static AIOL_NOINLINE int aiol_stream_write_pieces(aioloop_transport *t, const aioloop_buf *pieces, size_t count,
                                                  aiol_release_fn release, void *arg) {
    aioloop *loop = t->resource.loop;
    aiol_engine *e = loop->engine;
    size_t size = 0;
    int64_t n;
    size_t i;
    for (i = 0; i < count; i++)
        size += pieces[i].size;
    if (size == 0 && release == NULL)
        return 0;
    if (t->state != AIOL_TRANSPORT_OPEN || (t->flags & AIOL_TRANSPORT_WRITE_ENDED) != 0)
        return aiol_stream_write_late(t, release);
    if (release != NULL || !aiol_stream_may_try(t))
        return aiol_stream_write_rest(t, pieces, count, 0, release, arg);
    t->write_turn = loop->turn;
    n = e->calls->attempt(e, t->recv.fd, pieces, (int)aiol_min_size(count, AIOL_IOV_MAX), false);
    return (uint64_t)n == size ? 0 : aiol_stream_write_tried(t, pieces, count, n);
}

static int aiol_stream_write(aioloop_transport *t, const void *data, size_t size) {
    aiol_engine *e = t->resource.loop->engine;
    aioloop_buf piece;
    int64_t n;
    piece.data = data;
    piece.size = size;
    if (AIOL_UNLIKELY(size == 0 || !aiol_stream_may_try(t)))
        return aiol_stream_write_pieces(t, &piece, 1, NULL, NULL);
    t->write_turn = t->resource.loop->turn;
    n = e->calls->attempt(e, t->recv.fd, &piece, 1, false);
    return AIOL_LIKELY((uint64_t)n == size) ? 0 : aiol_stream_write_tried(t, &piece, 1, n);
}

/* Queues what was not sent; it goes when the callback ends. */
static int aiol_stream_write_rest(aioloop_transport *t, const aioloop_buf *pieces, size_t count, size_t sent,
                                  aiol_release_fn release, void *arg) {
    aioloop *loop = t->resource.loop;
    int err = aiol_stream_enqueue(t, pieces, count, sent, release, arg);
    t->write_turn = loop->turn;
    if (err < 0) {
        aiol_stream_drop_empty_writer(t);
        if (sent == 0)
            return aiol_fail(loop, err, NULL);
        aiol_stream_end(t, err); /* part of it is sent: the stream would be torn */
        return 0;
    }
    if (t->writer->op.state == AIOL_OP_IDLE && t->writer->unsent.next == NULL) {
        aiol_list_append(&loop->unsent, &t->writer->unsent);
        loop->attention = true;
    }
    if (release == NULL && sent == 0 && t->writer->bytes.size > t->high && (t->flags & AIOL_TRANSPORT_WRITE_PAUSED) == 0) {
        /* What only waits for the end of the callback is no reason to pause. */
        err = aiol_stream_push(t);
        if (err < 0)
            aiol_stream_end(t, err);
    }
    if (t->state == AIOL_TRANSPORT_OPEN) {
        aiol_transport_maybe_pause(t);
        aiol_stream_drop_empty_writer(t);
    }
    return 0;
}

static int aiol_stream_write_eof(aioloop_transport *t) {
    aiol_engine *e = t->resource.loop->engine;
    if (t->state != AIOL_TRANSPORT_OPEN || (t->flags & AIOL_TRANSPORT_WRITE_ENDED) != 0 || t->resource.loop->closed)
        return 0;
    t->flags |= AIOL_TRANSPORT_WRITE_ENDED;
    if (t->writer == NULL)
        e->sockets->shutdown(e, t->recv.fd);
    return 0;
}

static const aiol_transport_calls aiol_stream_calls = {
    aiol_stream_write, aiol_stream_write_pieces, aiol_stream_write_eof,     true,                      aiol_stream_close,
    aiol_stream_end,   aiol_stream_pause_reading, aiol_stream_start_reading, aiol_stream_protocol_changed,
};

/* ---- with the loop ---- */

/* The loop closes: the socket goes, nobody is told; lent memory is given back. */
static void aiol_stream_loop_closed(aiol_resource *resource) {
    aioloop_transport *t = AIOL_CONTAINER(resource, aioloop_transport, resource);
    aioloop *loop = resource->loop;
    aiol_engine *e = loop->engine;
    bool ours = loop->process == aiol_process_id();
    if (t->recv.fd != AIOL_NO_SOCKET) {
        if (ours) {
            aiol_op_cancel(e, &t->recv);
            if (t->writer != NULL) {
                aiol_op_cancel(e, &t->writer->op);
                (void)aiol_stream_push(t);
            }
            e->calls->quiesce(e, t->recv.fd);
        }
        e->sockets->close(e, t->recv.fd);
        t->recv.fd = AIOL_NO_SOCKET;
    }
    t->state = AIOL_TRANSPORT_LOST;
    t->recv.state = AIOL_OP_IDLE;
    if (t->writer != NULL) {
        t->writer->op.state = AIOL_OP_IDLE;
        aiol_list_remove(&t->writer->unsent);
        aiol_bytes_clear(&t->writer->bytes, &loop->allocator);
        aiol_stream_release(t);
    }
}

static void aiol_stream_destroy(aiol_resource *resource) {
    aiol_transport_destroy(AIOL_CONTAINER(resource, aioloop_transport, resource));
}

static bool aiol_stream_is_open(const aiol_resource *resource) {
    return AIOL_CONTAINER(resource, const aioloop_transport, resource)->state < AIOL_TRANSPORT_DOOMED;
}

static const aiol_resource_calls aiol_stream_resource = {"transport", aiol_stream_loop_closed, aiol_stream_destroy,
                                                         aiol_stream_is_open};

static const aiol_net_calls aiol_stream_net = {aiol_stream_flush, aiol_writer_free_spare};

/* ---- making ---- */

#define AIOL_ALIGNMENT 16u

static size_t aiol_align(size_t size) {
    return (size + AIOL_ALIGNMENT - 1) / AIOL_ALIGNMENT * AIOL_ALIGNMENT;
}

/* Copies an address; the path of a Unix one to *room, which moves on. */
static void aiol_stream_name(aioloop_address *to, const aioloop_address *from, char **room) {
    if (from == NULL)
        return;
    *to = *from;
    if (from->family == AIOLOOP_UNIX && from->path_size == 0) {
        to->u.path = "";
    } else if (from->family == AIOLOOP_UNIX) {
        memcpy(*room, from->u.path, from->path_size);
        to->u.path = *room;
        *room += from->path_size;
    }
}

static bool aiol_stream_is_internet(const aioloop_address *address) {
    return address != NULL && (address->family == AIOLOOP_INET || address->family == AIOLOOP_INET6);
}

static size_t aiol_stream_path_size(const aioloop_address *address) {
    return address != NULL && address->family == AIOLOOP_UNIX ? address->path_size : 0;
}

/* A transport for a connected socket, with the loop's reference; nobody is called yet. On failure the socket is still
 * the caller's. */
AIOLOOP_INTERNAL int aiol_stream_new(const aiol_stream_setup *setup, aioloop_transport **out) {
    aioloop *loop = setup->loop;
    size_t start = aiol_align(sizeof(aioloop_transport));
    size_t instance = aiol_align(setup->protocol->instance_size);
    size_t size = start + instance + aiol_stream_path_size(setup->local) + aiol_stream_path_size(setup->peer);
    aioloop_transport *t;
    char *room;
    int err = 0;
    if (setup->protocol->instance_size > SIZE_MAX / 2)
        return AIOLOOP_ENOMEM;
    t = (aioloop_transport *)aiol_alloc_zero(&loop->allocator, size);
    if (t == NULL)
        return AIOLOOP_ENOMEM;
    if (!setup->attached)
        err = loop->engine->calls->attach(loop->engine, setup->socket, AIOL_OWNER_TRANSPORT);
    if (err < 0) {
        aiol_free(&loop->allocator, t, size);
        return err;
    }
    t->block_size = size;
    t->calls = &aiol_stream_calls;
    t->protocol = setup->protocol;
    t->self = setup->protocol->instance_size != 0 ? (void *)((char *)t + start) : setup->arg;
    t->resource.context = aiol_map_ref(setup->context);
    t->server = setup->server;
    t->high = AIOL_HIGH_WATER;
    t->low = AIOL_HIGH_WATER / 4;
    t->write_turn = loop->turn - 1;
    t->recv.kind = AIOL_OP_RECV;
    t->recv.fd = setup->socket;
    t->recv.done = aiol_stream_received;
    t->recv.u.recv.internet = aiol_stream_is_internet(setup->local) || aiol_stream_is_internet(setup->peer);
    aiol_stream_protocol_changed(t);
    room = (char *)t + start + instance;
    aiol_stream_name(&t->local, setup->local, &room);
    aiol_stream_name(&t->peer, setup->peer, &room);
    t->resource.refs = 1;
    t->resource.site = setup->site;
    aiol_resource_add(loop, &t->resource, &aiol_stream_resource);
    loop->net = &aiol_stream_net;
    *out = t;
    return 0;
}

/* Calls the factory and connection_made, and starts reading. Below 0: the factory failed, and the transport is gone
 * with its socket. Only from the loop. */
AIOLOOP_INTERNAL int aiol_stream_begin(aioloop_transport *t, void *arg) {
    aioloop *loop = t->resource.loop;
    aiol_transport_frame frame;
    int raised = 0;
    if (t->protocol->factory != NULL) {
        int err;
        frame = aiol_transport_enter(t);
        aiol_error_clear(&loop->error);
        err = t->protocol->factory(t->self, arg);
        raised = aiol_transport_leave(t, &frame, "factory");
        if (err >= 0 && raised < 0)
            err = raised;
        if (err < 0) {
            if (err == AIOLOOP_EFATAL)
                aiol_loop_halt(loop);
            t->state = AIOL_TRANSPORT_LOST;
            aiol_stream_close_socket(t);
            if (t->server != NULL)
                aiol_server_lost(t->server, t);
            aioloop_transport_unref(t);
            return err;
        }
    }
    t->state = AIOL_TRANSPORT_OPEN;
    if (t->protocol->connection_made != NULL) {
        frame = aiol_transport_enter(t);
        t->protocol->connection_made(t, t->self);
        raised = aiol_transport_leave(t, &frame, "connection_made");
        if (AIOL_UNLIKELY(raised != 0))
            aiol_transport_report(t, raised, "Error in connection_made");
    }
    aiol_stream_start_reading(t);
    return 0;
}

#endif

/* >> src/net/socket.c */
/*
 * socket.c - what connecting and listening share: addresses of a host, given sockets, options that exclude each other.
 */
#ifndef AIOL_NET_SOCKET_C
#define AIOL_NET_SOCKET_C

#define AIOL_ADDRESS_TEXT 160

/* The addresses of a host that need no look-up: a numeric one has itself, "localhost" both loopbacks, and, with
 * wildcard, NULL and "" every interface of both families. Appends at most two to found, of the family wanted
 * (AIOLOOP_UNSPEC: any). How many, or a code with its message stored. */
static int aiol_host_addresses(aioloop *loop, const char *host, int port, int family, bool wildcard, aioloop_address *found) {
    static const char *const local[] = {"::1", "127.0.0.1"};
    static const char *const any[] = {"0.0.0.0", "::"};
    const char *const *hosts = NULL;
    size_t count = 2;
    size_t i;
    int n = 0;
    if (port < 0 || port > 65535)
        return aiol_fail(loop, AIOLOOP_EINVAL, "port %d is out of range", port);
    if (family != AIOLOOP_UNSPEC && family != AIOLOOP_INET && family != AIOLOOP_INET6)
        return aiol_fail(loop, AIOLOOP_EINVAL, "family %d is not of the internet", family);
    if (wildcard && (host == NULL || host[0] == '\0')) {
        hosts = any;
    } else if (strcmp(host, "localhost") == 0) {
        hosts = local;
    } else {
        hosts = &host;
        count = 1;
    }
    for (i = 0; i < count; i++) {
        aioloop_address address;
        if (aioloop_address_parse(&address, hosts[i], port) < 0)
            return aiol_fail(loop, AIOLOOP_ENOTAVAILABLE, "looking up \"%.100s\" needs the resolver, which is not in this version",
                             host);
        if (family == AIOLOOP_UNSPEC || family == address.family)
            found[n++] = address;
    }
    return n != 0 ? n : aiol_fail(loop, AIOLOOP_ELOOKUP, "\"%.100s\" has no address of this family", host);
}

/* Refuses TLS, which this build does not have, and its options without it. */
static int aiol_ssl_options_check(aioloop *loop, const aioloop_ssl_context *ssl, const char *server_hostname,
                                  aioloop_time handshake_timeout, aioloop_time shutdown_timeout) {
    if (handshake_timeout < 0 || shutdown_timeout < 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a time-out must be positive");
    if (ssl != NULL)
        return aiol_fail(loop, AIOLOOP_ENOTAVAILABLE, "TLS is not in this build");
    if (server_hostname != NULL)
        return aiol_fail(loop, AIOLOOP_EINVAL, "server_hostname is only meaningful with ssl");
    if (handshake_timeout != 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "ssl_handshake_timeout is only meaningful with ssl");
    if (shutdown_timeout != 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "ssl_shutdown_timeout is only meaningful with ssl");
    return 0;
}

/* Checks a socket given by the user, attaches it and makes it ready: from now on it is nobody else's. unix_only: it
 * must be of that family. Until this succeeds nothing is changed and the socket stays the user's. */
static int aiol_given_socket(aioloop *loop, aioloop_socket s, bool unix_only) {
    aiol_engine *e = loop->engine;
    int family = AIOLOOP_UNSPEC;
    int err = e->sockets->inspect(e, s, &family);
    if (err < 0)
        return aiol_fail(loop, err, err == AIOLOOP_EINVAL ? "a stream socket is needed: %ld" : "socket %ld", (long)s);
    if (unix_only && family != AIOLOOP_UNIX)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a Unix stream socket is needed: %ld", (long)s);
    if (e->calls->owned(e, s))
        return aiol_fail(loop, AIOLOOP_EMISUSE, "socket %ld belongs to a transport", (long)s);
    err = e->calls->attach(e, s, AIOL_OWNER_TRANSPORT);
    if (err < 0)
        return aiol_fail(loop, err, err == AIOLOOP_EMISUSE ? "socket %ld is watched" : "socket %ld", (long)s);
    err = e->sockets->adopt(e, s);
    if (err < 0) {
        e->calls->quiesce(e, s);
        return aiol_fail(loop, err, "socket %ld", (long)s);
    }
    if (family != AIOLOOP_UNIX)
        e->sockets->set(e, s, AIOL_OPTION_NO_DELAY, 1); /* a courtesy; a socket without it works */
    return 0;
}

/* Closes a given socket that was made ready in vain. */
static void aiol_given_socket_close(aioloop *loop, aioloop_socket s) {
    loop->engine->calls->quiesce(loop->engine, s);
    loop->engine->sockets->close(loop->engine, s);
}

/* A future that has failed already, with the loop's last message. */
static aioloop_future *aiol_future_failed_now(aioloop *loop, int code) {
    aioloop_future *f = aiol_future_new(loop, NULL, NULL);
    if (f == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    aiol_future_fail(f, code, aiol_detail(loop, code));
    aiol_future_release(f);
    return f;
}

/* The arguments every call that makes connections has. NULL, or the future that refuses them. */
static aioloop_future *aiol_refuse(aioloop *loop, const aioloop_protocol *protocol) {
    int err;
    if (loop == NULL || protocol == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    err = loop->careful ? aiol_check(loop) : 0;
    if (err < 0)
        return aiol_future_failed(err);
    aiol_error_clear(&loop->error); /* so that what is stored when the call fails is of this call */
    return NULL;
}

#endif

/* >> src/net/connect.c */
/*
 * connect.c - opening connections.                    (asyncio: base_events.create_connection)
 *
 * A connector tries one address after the other, with one CONNECT operation, until one answers, and then becomes a
 * transport. Its future may be cancelled at any time, also from the protocol's own methods: `over` says that the future
 * is settled; the connector goes when its operation is the engine's no more and it is not queued.
 */
#ifndef AIOL_NET_CONNECT_C
#define AIOL_NET_CONNECT_C

typedef struct aiol_connector {
    aiol_resource resource;
    aioloop_future *future;
    const aioloop_protocol *protocol;
    void *arg;
    aiol_op op; /* CONNECT; its fd is the socket in use, or AIOL_NO_SOCKET */
    aiol_node node;
    aioloop_timer_handle timer;
    aioloop_address addresses[2];
    int address_count;
    int next;
    aioloop_address bind_to[2];
    int bind_count;
    bool all_errors;
    bool over;
    bool queued;
    bool attached;
    int failure; /* the code of the first attempt that failed; 0: none did */
    int error_count;
    struct aioloop_error *errors[2];
    char path[108];
} aiol_connector;

static void aiol_connector_close_socket(aiol_connector *c) {
    aiol_engine *e = c->resource.loop->engine;
    if (c->op.fd == AIOL_NO_SOCKET)
        return;
    if (c->attached)
        e->calls->quiesce(e, c->op.fd);
    e->sockets->close(e, c->op.fd);
    c->op.fd = AIOL_NO_SOCKET;
    c->attached = false;
}

static void aiol_connector_free(aiol_connector *c) {
    aioloop *loop = c->resource.loop;
    int i;
    for (i = 0; i < c->error_count; i++)
        aiol_error_free(&loop->allocator, c->errors[i]);
    aiol_resource_remove(&c->resource);
    aiol_free(&loop->allocator, c, sizeof(*c));
}

static void aiol_connector_free_if_over(aiol_connector *c) {
    if (c->over && !c->queued && c->op.state == AIOL_OP_IDLE)
        aiol_connector_free(c);
}

/* The future is settled; whatever is under way is given up. */
static void aiol_connector_settle(aiol_connector *c) {
    aioloop_future *f = c->future;
    c->over = true;
    c->future = NULL;
    aioloop_timer_handle_cancel(&c->timer); /* now: the operation may keep the connector for a while */
    aiol_op_cancel(c->resource.loop->engine, &c->op);
    aiol_connector_close_socket(c);
    if (f->state == AIOL_FUTURE_PENDING)
        f->of.owner = NULL;
    aiol_future_release(f);
    aiol_connector_free_if_over(c);
}

static bool aiol_connector_cancel(aioloop_future *future, void *owner) {
    (void)future;
    if (owner != NULL)
        aiol_connector_settle((aiol_connector *)owner);
    return true;
}

static void aiol_connector_timed_out(aioloop *loop, void *arg) {
    aiol_connector *c = (aiol_connector *)arg;
    (void)loop;
    if (c->next != 0) {
        char text[AIOL_ERROR_TEXT_SIZE];
        char name[AIOL_ADDRESS_TEXT];
        aioloop_address_format(&c->addresses[c->next - 1], name, sizeof(name));
        snprintf(text, sizeof(text), "connect to %s: %s", name, aioloop_strerror(AIOLOOP_ETIMEDOUT));
        aiol_future_fail(c->future, AIOLOOP_ETIMEDOUT, text);
    } else {
        aiol_future_fail(c->future, AIOLOOP_ETIMEDOUT, NULL);
    }
    aiol_connector_settle(c);
}

/* ---- errors ---- */

/* Remembers why an address failed; what: "connect to", "bind to". */
static void aiol_connector_failed(aiol_connector *c, int code, const char *what, const aioloop_address *address) {
    char text[AIOL_ERROR_TEXT_SIZE];
    char name[AIOL_ADDRESS_TEXT];
    aioloop_address_format(address, name, sizeof(name));
    snprintf(text, sizeof(text), "%s %s: %s", what, name, aioloop_strerror(code));
    if (c->failure == 0)
        c->failure = code;
    c->errors[c->error_count] = aiol_error_new(&c->resource.loop->allocator, code, text, 0);
    if (c->errors[c->error_count] != NULL)
        c->error_count++;
}

/* Every address failed: one error, or all of them in one; the code of the first, also when there was no memory for
 * texts. */
static void aiol_connector_give_up(aiol_connector *c) {
    const aioloop_allocator *a = &c->resource.loop->allocator;
    struct aioloop_error *error = NULL;
    int count = c->error_count;
    int code = c->failure;
    bool same = count < 2 || strcmp(c->errors[0]->text, c->errors[1]->text) == 0;
    int i;
    if (count != 0 && same && !c->all_errors) {
        error = c->errors[0];
        c->errors[0] = c->errors[--c->error_count];
    } else if (count != 0) {
        char text[2 * AIOL_ERROR_TEXT_SIZE];
        snprintf(text, sizeof(text), count == 1 ? "%s" : "%s, %s", c->errors[0]->text, count == 1 ? "" : c->errors[1]->text);
        error = aiol_error_new(a, code, text, c->all_errors ? (unsigned)count : 0);
        if (error != NULL && c->all_errors) {
            for (i = 0; i < count; i++)
                error->list[i] = c->errors[i];
            error->count = (unsigned)count;
            c->error_count = 0;
        }
    }
    aiol_future_fail_with(c->future, code, error);
    aiol_connector_settle(c);
}

/* ---- attempts ---- */

/* Binds to the first local address of the family that can be bound. */
static int aiol_connector_bind(aiol_connector *c, const aioloop_address *to) {
    aiol_engine *e = c->resource.loop->engine;
    int err = AIOLOOP_EAFNOSUPPORT;
    int tried = -1;
    int i;
    for (i = 0; i < c->bind_count; i++) {
        if (c->bind_to[i].family != to->family)
            continue;
        tried = i;
        err = e->sockets->bind(e, c->op.fd, &c->bind_to[i]);
        if (err == 0)
            return 0;
    }
    if (tried >= 0)
        aiol_connector_failed(c, err, "bind to", &c->bind_to[tried]);
    else
        aiol_connector_failed(c, err, "no local address has the family of", to);
    return err;
}

/* Starts with one address. 0: connected; AIOL_PENDING; or its error, remembered. */
static int64_t aiol_connector_attempt(aiol_connector *c, const aioloop_address *to) {
    aiol_engine *e = c->resource.loop->engine;
    int64_t n = e->sockets->open(e, to->family, &c->op.fd);
    if (n < 0) {
        c->op.fd = AIOL_NO_SOCKET;
        aiol_connector_failed(c, (int)n, "socket for", to);
        return n;
    }
    if (c->bind_count != 0) {
        n = aiol_connector_bind(c, to);
        if (n < 0)
            return n;
    }
    n = e->calls->attach(e, c->op.fd, AIOL_OWNER_TRANSPORT);
    if (n == 0) {
        c->attached = true;
        c->op.u.connect.address = to;
        n = aiol_op_submit(e, &c->op);
    }
    if (n < 0 && n != AIOL_PENDING)
        aiol_connector_failed(c, (int)n, "connect to", to);
    return n;
}

/* Goes on with the next address, until one is pending or connected. Calls no user code. */
static void aiol_connector_advance(aiol_connector *c) {
    while (c->next < c->address_count) {
        int64_t n;
        aiol_connector_close_socket(c);
        n = aiol_connector_attempt(c, &c->addresses[c->next++]);
        if (n == AIOL_PENDING)
            return;
        if (n == 0) { /* not from inside the call: the protocol is told by the loop */
            c->queued = true;
            aiol_queue_push(&c->resource.loop->ready, &c->node);
            return;
        }
    }
    aiol_connector_give_up(c);
}

/* The socket is connected: it becomes a transport. */
static void aiol_connector_made(aiol_connector *c) {
    aioloop *loop = c->resource.loop;
    aiol_engine *e = loop->engine;
    aioloop_address local;
    aioloop_address peer;
    aiol_path_room local_room;
    aiol_path_room peer_room;
    aiol_stream_setup setup;
    aioloop_transport *t = NULL;
    aioloop_future *f = c->future;
    int err;
    memset(&setup, 0, sizeof(setup));
    setup.loop = loop;
    setup.protocol = c->protocol;
    setup.arg = c->arg;
    setup.context = c->resource.context;
    setup.socket = c->op.fd;
    setup.site = c->resource.site;
    if (e->sockets->name(e, c->op.fd, &local, &local_room) == 0)
        setup.local = &local;
    if (e->sockets->peer(e, c->op.fd, &peer, &peer_room) == 0)
        setup.peer = &peer;
    if (setup.peer != NULL && peer.family != AIOLOOP_UNIX)
        e->sockets->set(e, c->op.fd, AIOL_OPTION_NO_DELAY, 1);
    setup.attached = c->attached;
    err = aiol_stream_new(&setup, &t);
    if (err < 0) {
        aiol_future_fail(f, err, NULL);
        aiol_connector_settle(c);
        return;
    }
    c->op.fd = AIOL_NO_SOCKET; /* the transport's now */
    c->attached = false;
    aiol_future_hold(f);
    aioloop_transport_ref(t);
    c->queued = true; /* keeps the connector while user code runs that may cancel the future */
    err = aiol_stream_begin(t, c->arg);
    c->queued = false;
    if (err < 0 && !c->over)
        aiol_future_fail(f, err, aiol_detail(loop, err));
    if (err == 0 && !c->over)
        aiol_future_finish(f, 0, t, aiol_transport_dispose); /* with the reference taken above */
    else
        aioloop_transport_unref(t);
    if (err == 0 && c->over)
        aioloop_transport_abort(t);
    if (!c->over)
        aiol_connector_settle(c);
    else
        aiol_connector_free_if_over(c);
    aiol_future_release(f);
    aiol_callback_end(loop);
}

static size_t aiol_connector_done(aiol_op *op, int64_t n, const void *data) {
    aiol_connector *c = AIOL_CONTAINER(op, aiol_connector, op);
    (void)data;
    if (c->over) {
        aiol_connector_free_if_over(c);
    } else if (n == 0) {
        aiol_connector_made(c);
    } else {
        aiol_connector_failed(c, (int)n, "connect to", &c->addresses[c->next - 1]);
        aiol_connector_advance(c);
    }
    return 0;
}

static void aiol_connector_run(aioloop *loop, aiol_node *node) {
    aiol_connector *c = AIOL_CONTAINER(node, aiol_connector, node);
    (void)loop;
    c->queued = false;
    if (c->over)
        aiol_connector_free_if_over(c);
    else
        aiol_connector_made(c);
}

/* ---- with the loop ---- */

static void aiol_connector_loop_closed(aiol_resource *resource) {
    aiol_connector *c = AIOL_CONTAINER(resource, aiol_connector, resource);
    aiol_engine *e = resource->loop->engine;
    c->over = true;
    c->queued = false;
    if (c->op.fd != AIOL_NO_SOCKET && resource->loop->process == aiol_process_id()) {
        aiol_op_cancel(e, &c->op);
        aiol_connector_close_socket(c);
    } else if (c->op.fd != AIOL_NO_SOCKET) {
        e->sockets->close(e, c->op.fd);
        c->op.fd = AIOL_NO_SOCKET;
    }
    c->op.state = AIOL_OP_IDLE;
    if (c->future != NULL)
        c->future->of.owner = NULL; /* it stays pending */
}

static void aiol_connector_destroy(aiol_resource *resource) {
    aiol_connector_free(AIOL_CONTAINER(resource, aiol_connector, resource));
}

static bool aiol_connector_is_open(const aiol_resource *resource) {
    return !AIOL_CONTAINER(resource, const aiol_connector, resource)->over;
}

static const aiol_resource_calls aiol_connector_resource = {"connection attempt", aiol_connector_loop_closed,
                                                            aiol_connector_destroy, aiol_connector_is_open};

/* A connector with its future; NULL when there is no memory. */
static aiol_connector *aiol_connector_new(aioloop *loop, const aioloop_protocol *protocol, void *arg, aioloop_time timeout) {
    aiol_connector *c = (aiol_connector *)aiol_alloc_zero(&loop->allocator, sizeof(*c));
    if (c == NULL)
        return NULL;
    c->future = aiol_future_new(loop, aiol_connector_cancel, c);
    if (c->future == NULL) {
        aiol_free(&loop->allocator, c, sizeof(*c));
        return NULL;
    }
    c->protocol = protocol;
    c->arg = arg;
    c->resource.context = aiol_map_ref(aiol_thread.map);
    c->op.kind = AIOL_OP_CONNECT;
    c->op.fd = AIOL_NO_SOCKET;
    c->op.done = aiol_connector_done;
    c->node.run = aiol_connector_run;
    c->resource.site = c->future->site;
    aiol_resource_add(loop, &c->resource, &aiol_connector_resource);
    if (timeout > 0) {
        c->timer = (aioloop_call_later)(loop, timeout, aiol_connector_timed_out, c);
        if (aioloop_handle_is_null(&c->timer.handle)) {
            aioloop_future *f = c->future;
            aiol_connector_settle(c);
            f->end.cancel = NULL;
            aioloop_future_unref(f);
            return NULL;
        }
    }
    return c;
}

/* ---- the calls ---- */

/* Makes a connection of a socket that is connected already. */
static aioloop_future *aiol_connect_given(aioloop *loop, const aioloop_protocol *protocol, void *arg, aioloop_socket s,
                                          aioloop_time timeout, bool unix_only) {
    aiol_connector *c;
    int err = aiol_given_socket(loop, s, unix_only);
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    c = aiol_connector_new(loop, protocol, arg, timeout);
    if (c == NULL) {
        aiol_given_socket_close(loop, s); /* it was taken over */
        return aiol_future_failed(AIOLOOP_ENOMEM);
    }
    c->op.fd = s;
    c->attached = true;
    c->queued = true;
    aiol_queue_push(&loop->ready, &c->node);
    return c->future;
}

AIOLOOP_API aioloop_future *(aioloop_create_connection)(aioloop *loop, const aioloop_protocol *protocol, void *arg,
                                                        const char *host, int port,
                                                        const aioloop_connection_options *options) {
    static const aioloop_connection_options defaults = AIOLOOP_ZERO;
    const aioloop_connection_options *o = options != NULL ? options : &defaults;
    aioloop_future *refused = aiol_refuse(loop, protocol);
    aioloop_address addresses[2];
    aioloop_address bind_to[2];
    aioloop_future *f;
    aiol_connector *c;
    int bind_count = 0;
    int n;
    if (refused != NULL)
        return refused;
    n = aiol_ssl_options_check(loop, o->ssl, o->server_hostname, o->ssl_handshake_timeout, o->ssl_shutdown_timeout);
    if (n == 0 && o->timeout < 0)
        n = aiol_fail(loop, AIOLOOP_EINVAL, "a time-out must be positive");
    if (n == 0 && o->sock != NULL && (host != NULL || port != 0 || o->local_host != NULL || o->local_port != 0))
        n = aiol_fail(loop, AIOLOOP_EINVAL, "host, port and local address exclude a socket");
    if (n == 0 && o->sock != NULL && o->family != AIOLOOP_UNSPEC)
        n = aiol_fail(loop, AIOLOOP_EINVAL, "family excludes a socket");
    if (n == 0 && o->sock == NULL && host == NULL)
        n = aiol_fail(loop, AIOLOOP_EINVAL, "host and port, or a socket, are needed");
    if (n < 0)
        return aiol_future_failed_now(loop, n);
    if (o->sock != NULL)
        return aiol_connect_given(loop, protocol, arg, *o->sock, o->timeout, false);
    if (o->local_host != NULL || o->local_port != 0) /* a port alone: of every address, in the family that is needed */
        bind_count = aiol_host_addresses(loop, o->local_host, o->local_port, AIOLOOP_UNSPEC, o->local_host == NULL,
                                         bind_to);
    if (bind_count < 0)
        return aiol_future_failed_now(loop, bind_count);
    n = aiol_host_addresses(loop, host, port, o->family, false, addresses);
    if (n < 0)
        return aiol_future_failed_now(loop, n);
    c = aiol_connector_new(loop, protocol, arg, o->timeout);
    if (c == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    c->address_count = n;
    memcpy(c->addresses, addresses, (size_t)n * sizeof(addresses[0]));
    c->bind_count = bind_count;
    memcpy(c->bind_to, bind_to, (size_t)bind_count * sizeof(bind_to[0]));
    c->all_errors = o->all_errors;
    f = c->future; /* the connector may be gone after this */
    aiol_connector_advance(c);
    return f;
}

AIOLOOP_API aioloop_future *(aioloop_create_unix_connection)(aioloop *loop, const aioloop_protocol *protocol, void *arg,
                                                             const char *path,
                                                             const aioloop_unix_connection_options *options) {
    static const aioloop_unix_connection_options defaults = AIOLOOP_ZERO;
    const aioloop_unix_connection_options *o = options != NULL ? options : &defaults;
    aioloop_future *refused = aiol_refuse(loop, protocol);
    aioloop_address address;
    aioloop_future *f;
    aiol_connector *c;
    int err;
    if (refused != NULL)
        return refused;
    memset(&address, 0, sizeof(address));
    err = aiol_ssl_options_check(loop, o->ssl, o->server_hostname, o->ssl_handshake_timeout, o->ssl_shutdown_timeout);
    if (err == 0 && o->timeout < 0)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "a time-out must be positive");
    if (err == 0 && o->sock != NULL && (path != NULL || o->path_size != 0))
        err = aiol_fail(loop, AIOLOOP_EINVAL, "a path excludes a socket");
    if (err == 0 && o->sock == NULL && path == NULL)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "a path or a socket is needed");
    if (err == 0 && o->sock == NULL && (err = aioloop_address_unix(&address, path, o->path_size)) < 0)
        aiol_fail(loop, err, "not a path of a Unix socket");
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    if (o->sock != NULL)
        return aiol_connect_given(loop, protocol, arg, *o->sock, o->timeout, true);
    c = aiol_connector_new(loop, protocol, arg, o->timeout);
    if (c == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    memcpy(c->path, address.u.path, address.path_size);
    address.u.path = c->path;
    c->addresses[0] = address;
    c->address_count = 1;
    f = c->future;
    aiol_connector_advance(c);
    return f;
}

AIOLOOP_API aioloop_future *(aioloop_connect_accepted_socket)(aioloop *loop, const aioloop_protocol *protocol, void *arg,
                                                              aioloop_socket sock,
                                                              const aioloop_accepted_socket_options *options) {
    static const aioloop_accepted_socket_options defaults = AIOLOOP_ZERO;
    const aioloop_accepted_socket_options *o = options != NULL ? options : &defaults;
    aioloop_future *refused = aiol_refuse(loop, protocol);
    int err;
    if (refused != NULL)
        return refused;
    err = aiol_ssl_options_check(loop, o->ssl, NULL, o->ssl_handshake_timeout, o->ssl_shutdown_timeout);
    if (err == 0 && o->timeout < 0)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "a time-out must be positive");
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    return aiol_connect_given(loop, protocol, arg, sock, o->timeout, false);
}

#endif

/* >> src/net/server.c */
/*
 * server.c - listening.                              (asyncio: base_events.Server, selector_events._start_serving)
 *
 * A server has one LISTENER per socket. The loop holds a reference from the making until the server is closed, its
 * connections are lost, and the engine has given every listener's operation back. wait_closed futures wait in an array
 * with room reserved; completing them needs no memory.
 */
#ifndef AIOL_NET_SERVER_C
#define AIOL_NET_SERVER_C

#define AIOL_ACCEPT_RETRY AIOLOOP_MS(1000)
#define AIOL_BACKLOG 100

typedef enum aiol_server_state { AIOL_SERVER_BOUND, AIOL_SERVER_SERVING, AIOL_SERVER_CLOSED } aiol_server_state;

typedef struct aiol_listener {
    aiol_op op; /* ACCEPT */
    aioloop_server *server;
    aioloop_address address;
    aioloop_timer_handle retry; /* after an accept that failed for want of something */
    bool attached;
    bool cleanup; /* remove the file, if it is still this one: */
    aiol_path_identity identity;
    char path[108];
} aiol_listener;

struct aioloop_server {
    aiol_resource resource;
    const aioloop_protocol *protocol;
    void *arg;
    aiol_server_state state;
    int backlog;
    aiol_link clients;
    aioloop_future *serving; /* serve_forever's; held */
    aioloop_future **waiters; /* wait_closed's; held */
    size_t waiter_count;
    size_t waiter_capacity;
    bool loop_holds; /* the loop's reference is there */
    size_t bound_count;       /* listeners in use */
    size_t listener_count;    /* listeners there is room for */
    aiol_listener *listeners; /* in the same block */
};

/* ---- ending ---- */

static size_t aiol_server_block_size(size_t listeners) {
    return aiol_align(sizeof(aioloop_server)) + listeners * sizeof(aiol_listener);
}

static void aiol_server_destroy(aioloop_server *server) {
    aioloop *loop = server->resource.loop;
    while (!aiol_list_empty(&server->clients)) { /* only when the loop is freed: they go by themselves */
        aioloop_transport *t = AIOL_CONTAINER(server->clients.next, aioloop_transport, siblings);
        aiol_list_remove(&t->siblings);
        t->server = NULL;
    }
    aiol_resource_remove(&server->resource);
    aiol_free(&loop->allocator, server->waiters, server->waiter_capacity * sizeof(server->waiters[0]));
    aiol_free(&loop->allocator, server, aiol_server_block_size(server->listener_count));
}

AIOLOOP_API aioloop_server *aioloop_server_ref(aioloop_server *server) {
    if (server != NULL)
        server->resource.refs++;
    return server;
}

AIOLOOP_API void aioloop_server_unref(aioloop_server *server) {
    if (server == NULL)
        return;
    AIOL_ASSERT(server->resource.refs != 0);
    if (--server->resource.refs == 0)
        aiol_server_destroy(server);
}

static void aiol_server_dispose(void *pointer) {
    aioloop_server_unref((aioloop_server *)pointer);
}

/* Settles what waits for the end, and lets the loop's reference go, when it is time. The server may be gone after
 * this. */
static void aiol_server_check_over(aioloop_server *server) {
    size_t i;
    if (server->state != AIOL_SERVER_CLOSED || !aiol_list_empty(&server->clients))
        return;
    aioloop_server_ref(server);
    if (server->serving != NULL) {
        aioloop_future *f = server->serving;
        server->serving = NULL;
        if (f->state == AIOL_FUTURE_PENDING)
            aiol_future_end_cancelled(f, NULL);
        aiol_future_release(f);
    }
    for (i = 0; i < server->waiter_count; i++) { /* completing calls nobody, so the array stays as it is */
        aioloop_future *f = server->waiters[i];
        aiol_future_finish(f, 0, NULL, NULL);
        aiol_future_release(f);
    }
    server->waiter_count = 0;
    for (i = 0; i < server->listener_count; i++)
        if (server->listeners[i].op.state != AIOL_OP_IDLE)
            break;
    if (i == server->listener_count && server->loop_holds) {
        server->loop_holds = false;
        aioloop_server_unref(server);
    }
    aioloop_server_unref(server);
}

/* A connection of the server is lost. */
AIOLOOP_INTERNAL void aiol_server_lost(aioloop_server *server, aioloop_transport *t) {
    aiol_list_remove(&t->siblings);
    t->server = NULL;
    aiol_server_check_over(server);
}

static void aiol_listener_remove_file(aiol_listener *l) {
    aiol_engine *e = l->server->resource.loop->engine;
    aiol_path_identity now;
    if (!l->cleanup || l->server->resource.loop->process != aiol_process_id())
        return;
    l->cleanup = false;
    if (e->sockets->path_identify(e, l->address.u.path, l->address.path_size, &now) == 0 && now.is_socket &&
        now.device == l->identity.device && now.inode == l->identity.inode)
        e->sockets->path_remove(e, l->address.u.path, l->address.path_size);
}

static void aiol_listener_close(aiol_listener *l) {
    aioloop *loop = l->server->resource.loop;
    aiol_engine *e = loop->engine;
    aioloop_socket s = l->op.fd;
    aioloop_timer_handle_cancel(&l->retry);
    if (s == AIOL_NO_SOCKET)
        return;
    l->op.fd = AIOL_NO_SOCKET;
    aiol_listener_remove_file(l);
    if (loop->process == aiol_process_id()) {
        l->op.fd = s; /* cancel looks it up */
        aiol_op_cancel(e, &l->op);
        if (l->attached)
            e->calls->quiesce(e, s);
        l->op.fd = AIOL_NO_SOCKET;
    }
    e->sockets->close(e, s);
}

AIOLOOP_API void aioloop_server_close(aioloop_server *server) {
    size_t i;
    if (server == NULL || server->state == AIOL_SERVER_CLOSED)
        return;
    server->state = AIOL_SERVER_CLOSED;
    for (i = 0; i < server->listener_count; i++)
        aiol_listener_close(&server->listeners[i]);
    aiol_server_check_over(server);
}

static void aiol_server_end_clients(aioloop_server *server, void (*end)(aioloop_transport *)) {
    aiol_link *link;
    aiol_link *next;
    if (server == NULL)
        return;
    for (link = server->clients.next; link != &server->clients; link = next) {
        aioloop_transport *t = AIOL_CONTAINER(link, aioloop_transport, siblings);
        next = link->next; /* ending calls nobody, so the list stays as it is */
        if (t->state != AIOL_TRANSPORT_NEW) /* one whose factory runs is no connection yet */
            end(t);
    }
}

AIOLOOP_API void aioloop_server_close_clients(aioloop_server *server) {
    aiol_server_end_clients(server, aioloop_transport_close);
}

AIOLOOP_API void aioloop_server_abort_clients(aioloop_server *server) {
    aiol_server_end_clients(server, aioloop_transport_abort);
}

/* ---- accepting ---- */

static void aiol_server_report(aioloop_server *server, int code, const char *message, const aioloop_socket *s) {
    aioloop_exception_context context;
    aiol_context_frame frame;
    memset(&context, 0, sizeof(context));
    context.message = message;
    context.server = server;
    context.protocol = server->protocol;
    context.socket = s;
    frame = aiol_context_enter(&server->resource.context);
    aiol_report(server->resource.loop, code, server->resource.site, &context);
    aiol_context_leave(&frame);
}

static void aiol_listener_accept_again(aioloop *loop, void *arg);

/* Starts accepting, or does so in a second if that fails. */
static void aiol_listener_submit(aiol_listener *l) {
    aioloop *loop = l->server->resource.loop;
    int64_t n = aiol_op_submit(loop->engine, &l->op);
    if (n != AIOL_PENDING)
        l->retry = (aioloop_call_later)(loop, AIOL_ACCEPT_RETRY, aiol_listener_accept_again, l);
}

static void aiol_listener_accept_again(aioloop *loop, void *arg) {
    aiol_listener *l = (aiol_listener *)arg;
    (void)loop;
    if (l->server->state == AIOL_SERVER_SERVING && l->op.state == AIOL_OP_IDLE)
        aiol_listener_submit(l);
}

/* Accepting failed for want of descriptors or memory: trying at once would fail again and again. */
static void aiol_listener_failed(aiol_listener *l, int code) {
    aioloop_server *server = l->server;
    aioloop_server_ref(server);
    aiol_error_clear(&server->resource.loop->error); /* the engine's codes have no message */
    aiol_server_report(server, code, "Error in accept: out of system resource", &l->op.fd);
    if (server->state == AIOL_SERVER_SERVING) {
        l->retry = (aioloop_call_later)(server->resource.loop, AIOL_ACCEPT_RETRY, aiol_listener_accept_again, l);
        if (aioloop_handle_is_null(&l->retry.handle)) /* no memory for a pause either */
            aiol_listener_submit(l);
    }
    aioloop_server_unref(server);
}

/* The local name of a connection accepted: the listener's own, unless that is a wildcard. */
static const aioloop_address *aiol_listener_local(const aiol_listener *l, aioloop_socket s, aioloop_address *address,
                                                  aiol_path_room *room) {
    static const uint8_t any[16] = {0};
    aiol_engine *e = l->server->resource.loop->engine;
    size_t size = l->address.family == AIOLOOP_INET ? 4 : 16;
    if (l->address.family == AIOLOOP_UNIX || memcmp(l->address.u.ip, any, size) != 0)
        return &l->address;
    return e->sockets->name(e, s, address, room) == 0 ? address : NULL;
}

/* The operation's done(). */
static size_t aiol_listener_accepted(aiol_op *op, int64_t n, const void *data) {
    aiol_listener *l = AIOL_CONTAINER(op, aiol_listener, op);
    aioloop_server *server = l->server;
    aioloop *loop = server->resource.loop;
    aiol_engine *e = loop->engine;
    aioloop_address local;
    aiol_path_room room;
    aiol_stream_setup setup;
    aioloop_transport *t = NULL;
    aioloop_socket s = (aioloop_socket)n;
    int err;
    if (n >= 0 && server->state != AIOL_SERVER_SERVING) { /* accepted as the server closed */
        e->sockets->close(e, s);
        n = AIOLOOP_ECANCELED;
    }
    if (n < 0) {
        if (server->state == AIOL_SERVER_SERVING)
            aiol_listener_failed(l, (int)n);
        else
            aiol_server_check_over(server);
        return 0;
    }
    memset(&setup, 0, sizeof(setup));
    setup.loop = loop;
    setup.protocol = server->protocol;
    setup.arg = server->arg;
    setup.context = server->resource.context;
    setup.server = server;
    setup.socket = s;
    setup.peer = (const aioloop_address *)data;
    setup.local = aiol_listener_local(l, s, &local, &room);
    setup.site = server->resource.site;
    err = aiol_stream_new(&setup, &t);
    if (err < 0) {
        aiol_error_clear(&loop->error);
        aiol_server_report(server, err, "Error on transport creation for incoming connection", &s);
        e->sockets->close(e, s);
        return 0;
    }
    aiol_list_append(&server->clients, &t->siblings);
    aioloop_server_ref(server); /* the factory may close it */
    err = aiol_stream_begin(t, server->arg);
    if (err < 0 && err != AIOLOOP_EFATAL)
        aiol_server_report(server, err, "Error in factory for incoming connection", NULL);
    aioloop_server_unref(server);
    aiol_callback_end(loop);
    return 0;
}

/* ---- serving ---- */

AIOLOOP_API int aioloop_server_start_serving(aioloop_server *server) {
    aioloop *loop;
    aiol_engine *e;
    size_t i;
    int err;
    if (server == NULL)
        return AIOLOOP_EINVAL;
    loop = server->resource.loop;
    if (server->state == AIOL_SERVER_CLOSED)
        return loop->closed ? AIOLOOP_ECLOSED : aiol_fail(loop, AIOLOOP_EMISUSE, "the server is closed");
    if (server->state == AIOL_SERVER_SERVING)
        return 0;
    e = loop->engine;
    for (i = 0; i < server->bound_count; i++) {
        err = e->sockets->listen(e, server->listeners[i].op.fd, server->backlog);
        if (err < 0) {
            char name[AIOL_ADDRESS_TEXT];
            aioloop_address_format(&server->listeners[i].address, name, sizeof(name));
            if (i != 0) /* those before it listen, and only closing them ends that; the server may be gone after this */
                aioloop_server_close(server);
            return aiol_fail(loop, err, "listen on %s: %s", name, aioloop_strerror(err));
        }
    }
    server->state = AIOL_SERVER_SERVING;
    for (i = 0; i < server->bound_count; i++)
        aiol_listener_submit(&server->listeners[i]);
    return 0;
}

static bool aiol_server_serving_cancelled(aioloop_future *future, void *owner) {
    aioloop_server *server = (aioloop_server *)owner;
    (void)future;
    if (server == NULL)
        return true;
    aioloop_server_close(server);
    return false; /* it was, or will be, when the connections are lost */
}

AIOLOOP_API aioloop_future *aioloop_server_serve_forever(aioloop_server *server) {
    aioloop *loop;
    aioloop_future *f;
    int err;
    if (server == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    loop = server->resource.loop;
    if (loop->closed)
        return aiol_future_failed(AIOLOOP_ECLOSED);
    if (server->serving != NULL)
        return aiol_future_failed_now(loop, aiol_fail(loop, AIOLOOP_EMISUSE, "the server is serving forever already"));
    err = aioloop_server_start_serving(server);
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    f = aiol_future_new(loop, aiol_server_serving_cancelled, server);
    if (f == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    server->serving = f;
    return f;
}

static bool aiol_server_wait_cancelled(aioloop_future *future, void *owner) {
    aioloop_server *server = (aioloop_server *)owner;
    size_t i;
    if (server == NULL)
        return true;
    for (i = 0; server->waiters[i] != future; i++)
        ;
    for (server->waiter_count--; i < server->waiter_count; i++)
        server->waiters[i] = server->waiters[i + 1];
    future->of.owner = NULL;
    aiol_future_release(future);
    return true;
}

AIOLOOP_API aioloop_future *aioloop_server_wait_closed(aioloop_server *server) {
    aioloop *loop;
    aioloop_future *f;
    if (server == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    loop = server->resource.loop;
    if (loop->closed)
        return aiol_future_failed(AIOLOOP_ECLOSED);
    if (aiol_grow(&loop->allocator, &server->waiters, &server->waiter_capacity, sizeof(server->waiters[0]),
                  server->waiter_count + 1) < 0)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    f = aiol_future_new(loop, aiol_server_wait_cancelled, server);
    if (f == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    server->waiters[server->waiter_count++] = f;
    aiol_server_check_over(server);
    return f;
}

/* ---- asking ---- */

AIOLOOP_API bool aioloop_server_is_serving(const aioloop_server *server) {
    return server != NULL && server->state == AIOL_SERVER_SERVING;
}

AIOLOOP_API aioloop *aioloop_server_get_loop(const aioloop_server *server) {
    return server == NULL ? NULL : server->resource.loop;
}

AIOLOOP_API size_t aioloop_server_socket_count(const aioloop_server *server) {
    return server == NULL || server->state == AIOL_SERVER_CLOSED ? 0 : server->bound_count;
}

AIOLOOP_API int aioloop_server_socket(const aioloop_server *server, size_t i, aioloop_socket *sock, aioloop_address *address) {
    if (i >= aioloop_server_socket_count(server))
        return AIOLOOP_EINVAL;
    if (sock != NULL)
        *sock = server->listeners[i].op.fd;
    if (address != NULL)
        *address = server->listeners[i].address;
    return 0;
}

/* ---- with the loop ---- */

static void aiol_server_loop_closed(aiol_resource *resource) {
    aioloop_server *server = AIOL_CONTAINER(resource, aioloop_server, resource);
    size_t i;
    for (i = 0; i < server->listener_count; i++) {
        aiol_listener_close(&server->listeners[i]);
        server->listeners[i].op.state = AIOL_OP_IDLE;
    }
    server->state = AIOL_SERVER_CLOSED;
    if (server->serving != NULL)
        server->serving->of.owner = NULL; /* they stay pending */
    for (i = 0; i < server->waiter_count; i++)
        server->waiters[i]->of.owner = NULL;
}

static void aiol_server_destroy_resource(aiol_resource *resource) {
    aiol_server_destroy(AIOL_CONTAINER(resource, aioloop_server, resource));
}

static bool aiol_server_is_open(const aiol_resource *resource) {
    return AIOL_CONTAINER(resource, const aioloop_server, resource)->state != AIOL_SERVER_CLOSED;
}

static const aiol_resource_calls aiol_server_resource = {"server", aiol_server_loop_closed, aiol_server_destroy_resource,
                                                         aiol_server_is_open};

/* ---- making ---- */

/* A server without listeners, with room for count; NULL when there is no memory. */
static aioloop_server *aiol_server_new(aioloop *loop, const aioloop_protocol *protocol, void *arg, size_t count, int backlog) {
    size_t size = aiol_server_block_size(count);
    aioloop_server *server = (aioloop_server *)aiol_alloc_zero(&loop->allocator, size);
    size_t i;
    if (server == NULL)
        return NULL;
    server->protocol = protocol;
    server->arg = arg;
    server->resource.context = aiol_map_ref(aiol_thread.map);
    server->backlog = backlog == 0 ? AIOL_BACKLOG : backlog;
    server->listeners = (aiol_listener *)(void *)((char *)server + aiol_align(sizeof(aioloop_server)));
    server->listener_count = count;
    for (i = 0; i < count; i++) {
        aiol_listener *l = &server->listeners[i];
        l->server = server;
        l->op.kind = AIOL_OP_ACCEPT;
        l->op.fd = AIOL_NO_SOCKET;
        l->op.done = aiol_listener_accepted;
        l->op.u.accept.budget = server->backlog;
    }
    aiol_list_init(&server->clients);
    server->resource.refs = 1;
    server->resource.site = aiol_site_take(loop);
    aiol_resource_add(loop, &server->resource, &aiol_server_resource);
    return server;
}

/* Takes over a bound socket. On failure it is still the caller's. given: it is attached already. */
static int aiol_listener_take(aiol_listener *l, aioloop_socket s, bool cleanup, bool given) {
    aioloop *loop = l->server->resource.loop;
    aiol_engine *e = loop->engine;
    aiol_path_room room;
    int err = e->sockets->name(e, s, &l->address, &room);
    if (err == 0 && !given)
        err = e->calls->attach(e, s, AIOL_OWNER_TRANSPORT);
    if (err < 0)
        return err;
    l->attached = true;
    l->op.fd = s;
    if (l->address.family == AIOLOOP_UNIX) {
        memcpy(l->path, room.bytes, aiol_min_size(l->address.path_size, sizeof(l->path)));
        l->address.u.path = l->path;
        if (cleanup && l->address.path_size != 0 && l->path[0] != '\0')
            l->cleanup = e->sockets->path_identify(e, l->path, l->address.path_size, &l->identity) == 0;
    }
    return 0;
}

/* Binds a new socket to an address. AIOLOOP_EADDRNOTAVAIL and AIOLOOP_EAFNOSUPPORT: this host has no such thing;
 * AIOLOOP_ENOTAVAILABLE: it cannot share ports. */
static int aiol_listener_bind(aiol_listener *l, const aioloop_address *address, const aioloop_server_options *o) {
    aioloop *loop = l->server->resource.loop;
    aiol_engine *e = loop->engine;
    aioloop_socket s = AIOL_NO_SOCKET;
    int err = e->sockets->open(e, address->family, &s);
    if (err < 0)
        return err;
    if (!o->no_reuse_address)
        err = e->sockets->set(e, s, AIOL_OPTION_REUSE_ADDRESS, 1);
    if (err == 0 && o->reuse_port) {
        err = e->sockets->set(e, s, AIOL_OPTION_REUSE_PORT, 1);
        if (err == AIOLOOP_ENOPROTOOPT)
            err = AIOLOOP_ENOTAVAILABLE;
    }
    if (err == 0 && o->keep_alive)
        err = e->sockets->set(e, s, AIOL_OPTION_KEEP_ALIVE, 1);
    if (err == 0 && address->family == AIOLOOP_INET6)
        err = e->sockets->set(e, s, AIOL_OPTION_V6_ONLY, 1);
    if (err == 0)
        e->sockets->set(e, s, AIOL_OPTION_NO_DELAY, 1); /* connections inherit it */
    if (err == 0)
        err = e->sockets->bind(e, s, address);
    if (err == 0)
        err = aiol_listener_take(l, s, false, false);
    if (err < 0)
        e->sockets->close(e, s);
    return err;
}

/* Gives up a server in the making. */
static aioloop_future *aiol_server_abandon(aioloop_server *server, int err) {
    aioloop *loop = server->resource.loop;
    size_t i;
    for (i = 0; i < server->listener_count; i++)
        aiol_listener_close(&server->listeners[i]);
    aioloop_server_unref(server);
    return aiol_future_failed_now(loop, err);
}

/* The server is bound: starts it unless that is deferred, and hands it out. */
static aioloop_future *aiol_server_ready(aioloop_server *server, bool defer_serving) {
    aioloop *loop = server->resource.loop;
    aioloop_future *f;
    int err = defer_serving ? 0 : aioloop_server_start_serving(server);
    if (err < 0)
        return aiol_server_abandon(server, err);
    f = aiol_future_new(loop, NULL, NULL);
    if (f == NULL) {
        server->state = AIOL_SERVER_CLOSED;
        for (err = 0; (size_t)err < server->listener_count; err++)
            aiol_listener_close(&server->listeners[err]);
        server->loop_holds = true; /* until its operations are idle */
        aiol_server_check_over(server);
        return aiol_future_failed(AIOLOOP_ENOMEM);
    }
    server->loop_holds = true;
    aioloop_server_ref(server);
    aiol_future_finish(f, (int64_t)server->bound_count, server, aiol_server_dispose);
    aiol_future_release(f);
    return f;
}

/* The addresses of all hosts, each once. Allocates; *capacity is for freeing. */
static int aiol_server_addresses(aioloop *loop, const char *host, int port, const aioloop_server_options *o,
                                 aioloop_address **addresses, size_t *capacity) {
    size_t hosts = o->hosts != NULL ? o->host_count : 1;
    size_t count = 0;
    size_t h;
    for (h = 0; h < hosts; h++) {
        aioloop_address found[2];
        int n = aiol_host_addresses(loop, o->hosts != NULL ? o->hosts[h] : host, port, o->family, true, found);
        int i;
        if (n < 0)
            return n;
        if (aiol_grow(&loop->allocator, addresses, capacity, sizeof(**addresses), count + (size_t)n) < 0)
            return aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        for (i = 0; i < n; i++) {
            size_t k = 0;
            while (k < count && !aioloop_address_equal(&(*addresses)[k], &found[i]))
                k++;
            if (k == count)
                (*addresses)[count++] = found[i];
        }
    }
    return (int)count;
}

/* Binds every address that this host has. 0, or an error with its message stored. */
static int aiol_server_bind(aioloop_server *server, const aioloop_address *addresses, const aioloop_server_options *o) {
    aioloop *loop = server->resource.loop;
    char names[AIOL_ERROR_TEXT_SIZE - 64];
    size_t length = 0;
    size_t bound = 0;
    size_t i;
    int last = 0;
    names[0] = '\0';
    for (i = 0; i < server->listener_count; i++) {
        char name[AIOL_ADDRESS_TEXT];
        int err = aiol_listener_bind(&server->listeners[bound], &addresses[i], o);
        if (err == 0) {
            bound++;
            continue;
        }
        aioloop_address_format(&addresses[i], name, sizeof(name));
        if (err != AIOLOOP_EADDRNOTAVAIL && err != AIOLOOP_EAFNOSUPPORT) {
            if (err == AIOLOOP_ENOTAVAILABLE)
                return aiol_fail(loop, AIOLOOP_EINVAL, "reuse_port is not supported here");
            return aiol_fail(loop, err, "bind to %s: %s", name, aioloop_strerror(err));
        }
        last = err;
        if (length < sizeof(names))
            length += (size_t)snprintf(names + length, sizeof(names) - length, "%s%s", length == 0 ? "" : ", ", name);
    }
    if (bound == 0)
        return aiol_fail(loop, last, "could not bind to any of %s: %s", names, aioloop_strerror(last));
    server->bound_count = bound;
    return 0;
}

AIOLOOP_API aioloop_future *(aioloop_create_server)(aioloop *loop, const aioloop_protocol *protocol, void *arg,
                                                    const char *host, int port, const aioloop_server_options *options) {
    static const aioloop_server_options defaults = AIOLOOP_ZERO;
    const aioloop_server_options *o = options != NULL ? options : &defaults;
    aioloop_future *refused = aiol_refuse(loop, protocol);
    aioloop_address *addresses = NULL;
    aioloop_server *server;
    size_t capacity = 0;
    int n;
    if (refused != NULL)
        return refused;
    n = aiol_ssl_options_check(loop, o->ssl, NULL, o->ssl_handshake_timeout, o->ssl_shutdown_timeout);
    if (n == 0 && (o->timeout < 0 || o->backlog < 0))
        n = aiol_fail(loop, AIOLOOP_EINVAL, "backlog and time-out must not be negative");
    if (n == 0 && o->sock != NULL && (host != NULL || port != 0 || o->hosts != NULL))
        n = aiol_fail(loop, AIOLOOP_EINVAL, "host and port exclude a socket");
    if (n == 0 && o->sock != NULL &&
        (o->family != AIOLOOP_UNSPEC || o->no_reuse_address || o->reuse_port || o->keep_alive))
        n = aiol_fail(loop, AIOLOOP_EINVAL, "family, no_reuse_address, reuse_port and keep_alive exclude a socket");
    if (n == 0 && o->hosts != NULL && (host != NULL || o->host_count == 0))
        n = aiol_fail(loop, AIOLOOP_EINVAL, host != NULL ? "host excludes hosts" : "hosts is empty");
    if (n == 0 && o->hosts == NULL && o->host_count != 0)
        n = aiol_fail(loop, AIOLOOP_EINVAL, "host_count without hosts");
    if (n == 0 && o->sock != NULL)
        n = aiol_given_socket(loop, *o->sock, false);
    else if (n == 0)
        n = aiol_server_addresses(loop, host, port, o, &addresses, &capacity);
    if (n < 0) {
        aiol_free(&loop->allocator, addresses, capacity * sizeof(addresses[0]));
        return aiol_future_failed_now(loop, n);
    }
    server = aiol_server_new(loop, protocol, arg, o->sock != NULL ? 1 : (size_t)n, o->backlog);
    if (server == NULL) {
        n = aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    } else if (o->sock != NULL) {
        n = aiol_listener_take(&server->listeners[0], *o->sock, false, true);
        server->bound_count = n == 0;
    } else {
        n = aiol_server_bind(server, addresses, o);
    }
    aiol_free(&loop->allocator, addresses, capacity * sizeof(addresses[0]));
    if (n < 0 && o->sock != NULL) {
        aiol_given_socket_close(loop, *o->sock); /* it was taken over */
        aiol_fail(loop, n, "socket %ld", (long)*o->sock);
    }
    if (server == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    return n < 0 ? aiol_server_abandon(server, n) : aiol_server_ready(server, o->defer_serving);
}

/* Binds a new Unix socket to a path, where a socket file may stand in the way. */
static int aiol_listener_bind_path(aiol_listener *l, const aioloop_address *address, bool cleanup) {
    aioloop *loop = l->server->resource.loop;
    aiol_engine *e = loop->engine;
    aiol_path_identity identity;
    char name[AIOL_ADDRESS_TEXT];
    aioloop_socket s = AIOL_NO_SOCKET;
    int err;
    err = e->sockets->open(e, AIOLOOP_UNIX, &s);
    if (err < 0)
        return aiol_fail(loop, err, NULL);
    if (address->u.path[0] != '\0' &&
        e->sockets->path_identify(e, address->u.path, address->path_size, &identity) == 0 && identity.is_socket)
        e->sockets->path_remove(e, address->u.path, address->path_size); /* if it fails, so does the bind */
    err = e->sockets->bind(e, s, address);
    if (err == 0) {
        err = aiol_listener_take(l, s, cleanup, false);
        if (err == 0)
            return 0;
        if (address->u.path[0] != '\0')
            e->sockets->path_remove(e, address->u.path, address->path_size);
    }
    e->sockets->close(e, s);
    aioloop_address_format(address, name, sizeof(name));
    return aiol_fail(loop, err, "bind to %s: %s", name, aioloop_strerror(err));
}

AIOLOOP_API aioloop_future *(aioloop_create_unix_server)(aioloop *loop, const aioloop_protocol *protocol, void *arg,
                                                         const char *path, const aioloop_unix_server_options *options) {
    static const aioloop_unix_server_options defaults = AIOLOOP_ZERO;
    const aioloop_unix_server_options *o = options != NULL ? options : &defaults;
    aioloop_future *refused = aiol_refuse(loop, protocol);
    aioloop_address address;
    aioloop_server *server;
    int err;
    if (refused != NULL)
        return refused;
    memset(&address, 0, sizeof(address));
    err = aiol_ssl_options_check(loop, o->ssl, NULL, o->ssl_handshake_timeout, o->ssl_shutdown_timeout);
    if (err == 0 && (o->timeout < 0 || o->backlog < 0))
        err = aiol_fail(loop, AIOLOOP_EINVAL, "backlog and time-out must not be negative");
    if (err == 0 && o->sock != NULL && (path != NULL || o->path_size != 0))
        err = aiol_fail(loop, AIOLOOP_EINVAL, "a path excludes a socket");
    if (err == 0 && o->sock == NULL && path == NULL)
        err = aiol_fail(loop, AIOLOOP_EINVAL, "a path or a socket is needed");
    if (err == 0 && o->sock == NULL && (err = aioloop_address_unix(&address, path, o->path_size)) < 0)
        aiol_fail(loop, err, "not a path of a Unix socket");
    if (err == 0 && o->sock != NULL)
        err = aiol_given_socket(loop, *o->sock, true);
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    server = aiol_server_new(loop, protocol, arg, 1, o->backlog);
    if (server == NULL) {
        if (o->sock != NULL)
            aiol_given_socket_close(loop, *o->sock);
        return aiol_future_failed(AIOLOOP_ENOMEM);
    }
    if (o->sock == NULL) {
        err = aiol_listener_bind_path(&server->listeners[0], &address, !o->no_cleanup_socket);
    } else {
        err = aiol_listener_take(&server->listeners[0], *o->sock, !o->no_cleanup_socket, true);
        if (err < 0) {
            aiol_given_socket_close(loop, *o->sock);
            aiol_fail(loop, err, "socket %ld", (long)*o->sock);
        }
    }
    server->bound_count = err == 0;
    return err < 0 ? aiol_server_abandon(server, err) : aiol_server_ready(server, o->defer_serving);
}

#endif

/* >> src/net/simulate.c */
/*
 * simulate.c - the public face of the simulated engine (api/sim.h). The only place above io/ that asks for one engine
 * by name, because it is that engine's own.
 */
#ifndef AIOL_NET_SIMULATE_C
#define AIOL_NET_SIMULATE_C

/* 0 if the loop runs on the simulated engine. */
static int aiol_simulated(const aioloop *loop) {
    if (loop == NULL)
        return AIOLOOP_EINVAL;
    if (loop->closed)
        return AIOLOOP_ECLOSED;
    return aiol_sim_is(loop->engine) ? 0 : AIOLOOP_ENOTAVAILABLE;
}

AIOLOOP_API int aioloop_sim_socketpair(aioloop *loop, aioloop_socket sockets[2]) {
    int err = aiol_simulated(loop);
    if (err == 0 && sockets == NULL)
        err = AIOLOOP_EINVAL;
    return err < 0 ? err : aiol_sim_pair(loop->engine, sockets);
}

AIOLOOP_API int aioloop_sim_close(aioloop *loop, aioloop_socket socket) {
    int err = aiol_simulated(loop);
    if (err == 0 && loop->engine->calls->owned(loop->engine, socket))
        err = AIOLOOP_EMISUSE;
    return err < 0 ? err : loop->engine->sockets->close(loop->engine, socket);
}

AIOLOOP_API int aioloop_sim_set_delay(aioloop *loop, aioloop_time minimum, aioloop_time maximum) {
    int err = aiol_simulated(loop);
    return err < 0 ? err : aiol_sim_set_delay(loop->engine, minimum, maximum);
}

AIOLOOP_API int aioloop_sim_set_buffer(aioloop *loop, size_t bytes) {
    int err = aiol_simulated(loop);
    return err < 0 ? err : aiol_sim_set_buffer(loop->engine, bytes);
}

AIOLOOP_API int aioloop_sim_set_partition(aioloop *loop, bool on) {
    int err = aiol_simulated(loop);
    return err < 0 ? err : aiol_sim_set_partition(loop->engine, on);
}

AIOLOOP_API int aioloop_sim_break(aioloop_transport *transport, int error) {
    int err = transport == NULL ? AIOLOOP_EINVAL : aiol_simulated(transport->resource.loop);
    if (err == 0 && (transport->recv.fd == AIOL_NO_SOCKET || error >= 0))
        err = AIOLOOP_EINVAL;
    return err < 0 ? err : aiol_sim_break(transport->resource.loop->engine, transport->recv.fd, error);
}

AIOLOOP_API int aioloop_sim_fail_accepts(aioloop *loop, int error, unsigned count) {
    int err = aiol_simulated(loop);
    if (err == 0 && error >= 0)
        err = AIOLOOP_EINVAL;
    return err < 0 ? err : aiol_sim_fail_accepts(loop->engine, error, count);
}

AIOLOOP_API uint32_t aioloop_sim_random(aioloop *loop, uint32_t bound) {
    return aiol_simulated(loop) < 0 || bound == 0 ? 0 : aiol_sim_random(loop->engine, bound);
}

#endif

/* >> src/aioloop.h */
/* high: conveniences built on the public functions. */

/* >> src/high/runner.c */
/*
 * runner.c - a program from its first coroutine to the last task.                (asyncio: runners.py)
 */
#ifndef AIOL_HIGH_RUNNER_C
#define AIOL_HIGH_RUNNER_C

struct aioloop_runner {
    aioloop *loop; /* NULL: closed */
    aioloop_context *context;
    aioloop_time shutdown_timeout;
    aioloop_allocator allocator;
    bool closing; /* what that calls may not do so again */
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

static int64_t aiol_runner_play(aioloop_runner *runner, const aioloop_task_recipe *recipe, void *out) {
    int64_t n;
    if (runner == NULL)
        return AIOLOOP_EINVAL;
    if (runner->loop == NULL)
        return aiol_fail(NULL, AIOLOOP_EMISUSE, "the runner is closed");
    if (aioloop_get_running_loop() != NULL)
        return aiol_fail(NULL, AIOLOOP_EMISUSE, "a loop is running in this thread");
    n = aioloop_run_until_complete(runner->loop, aiol_create_task(runner->loop, recipe), out);
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

/* >> src/high/sync.c */
/*
 * sync.c - locks and their kin.                                                    (asyncio: locks.py)
 *
 * Whoever waits is a waiter in the object's line: the future and its link are one block. What is released is handed to
 * the first in the line at once, so a newcomer can take only what nobody waits for. A waiter that was given a lock
 * stays in a second list until its future is freed: if nobody has read the result by then it is given back, and if the
 * object goes first it finds them there.
 *
 * While the loop is open completing a waiter calls no user code. Where a failure may be reported, or the loop be
 * closed, the line is taken off the object first, which may then go.
 */
#ifndef AIOL_HIGH_SYNC_C
#define AIOL_HIGH_SYNC_C

/* ---- lines ---- */

AIOL_INLINE aiol_waiter *aiol_waiter_of(aiol_link *link) {
    return AIOL_CONTAINER(link, aiol_waiter, link);
}

/* The first of a line, out of it; NULL: it is empty. */
static aiol_waiter *aiol_line_pop(aiol_link *line) {
    aiol_waiter *w;
    if (aiol_list_empty(line))
        return NULL;
    w = aiol_waiter_of(line->next);
    aiol_list_remove(&w->link);
    return w;
}

/* Moves a line to a new one that is not the object's any more. */
static void aiol_line_detach(aiol_link *to, aiol_link *from) {
    aiol_link *link;
    aiol_list_init(to);
    aiol_list_move(to, from);
    for (link = to->next; link != to; link = link->next)
        aiol_waiter_of(link)->object = NULL;
}

/* Ends all of a detached line: with 0, cancelled, or with an error. */
static void aiol_line_end(aiol_link *line, int code) {
    aiol_waiter *w;
    while ((w = aiol_line_pop(line)) != NULL) {
        if (code == 0)
            aiol_future_finish(&w->future, 0, NULL, NULL);
        else if (code == AIOLOOP_ECANCELED)
            aiol_future_end_cancelled(&w->future, NULL);
        else
            aiol_future_fail(&w->future, code, NULL);
        aiol_future_release(&w->future);
    }
}

/* The object goes: what it has given stays where it is. */
static void aiol_line_forget(aiol_link *granted) {
    aiol_waiter *w;
    while ((w = aiol_line_pop(granted)) != NULL) {
        w->gone = NULL;
        w->object = NULL;
    }
}

static bool aiol_waiter_leave(aioloop_future *f, void *owner) {
    (void)owner;
    aiol_list_remove(&((aiol_waiter *)(void *)f)->link);
    aiol_future_release(f);
    return true;
}

/* A waiter at the end of the line; NULL when there is no memory. */
static aiol_waiter *aiol_line_join(aioloop *loop, aiol_link *line, void *object) {
    aiol_waiter *w = aiol_waiter_new(loop, aiol_waiter_leave, object);
    if (w == NULL)
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    else
        aiol_list_append(line, &w->link);
    return w;
}

/* A future that is done, with a number. */
static aioloop_future *aiol_future_of_number(aioloop *loop, int64_t number) {
    aioloop_future *f = aiol_future_new(loop, NULL, NULL);
    if (f == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    aiol_future_finish(f, number, NULL, NULL);
    aiol_future_release(f);
    return f;
}

/* Whether a call that acquires or waits is refused. */
AIOL_INLINE int aiol_sync_check(aioloop *loop) {
    return AIOL_UNLIKELY(loop->careful) ? aiol_check(loop) : 0;
}

/* The same for the others, which work on a closed loop too. */
AIOL_INLINE int aiol_sync_check_thread(aioloop *loop) {
    return AIOL_UNLIKELY(loop->debug) && aiol_wrong_thread(loop) ? AIOLOOP_EMISUSE : 0;
}

/* Memory for an object, zeroed; NULL, and the error stored. */
static void *aiol_sync_new(aioloop *loop, size_t size) {
    void *object;
    if (loop == NULL) {
        aiol_fail(NULL, AIOLOOP_EINVAL, "a loop is needed, not NULL");
        return NULL;
    }
    if (aiol_sync_check(loop) < 0)
        return NULL;
    object = aiol_alloc_zero(&loop->allocator, size);
    if (object == NULL)
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    return object;
}

/* ---- permits: what locks and semaphores have in common ---- */

typedef struct aiol_permits {
    aiol_link waiters;
    aiol_link granted;
    int64_t value; /* how many are left; 0 while somebody waits */
    bool serving;
} aiol_permits;

static void aiol_condition_turn(aiol_waiter *w);

static void aiol_permits_init(aiol_permits *p, int64_t value) {
    aiol_list_init(&p->waiters);
    aiol_list_init(&p->granted);
    p->value = value;
}

/* Lets in as many as there are permits for. One whose future nobody has gives its permit back at once, and the loop
 * here goes on. */
static void aiol_permits_serve(aioloop *loop, aiol_permits *p);

static void aiol_permits_gone(aiol_waiter *w, bool unread) {
    aiol_permits *p = (aiol_permits *)w->object;
    if (!unread)
        return;
    p->value++;
    aiol_permits_serve(w->future.loop, p);
}

/* A permit was taken for the waiter, which is in no line. */
static void aiol_permits_give(aiol_permits *p, aiol_waiter *w) {
    w->gone = aiol_permits_gone;
    w->future.flags |= AIOL_FUTURE_GRANT;
    aiol_list_append(&p->granted, &w->link);
    aiol_future_finish(&w->future, 0, NULL, NULL);
    aiol_future_release(&w->future);
}

static void aiol_permits_serve(aioloop *loop, aiol_permits *p) {
    aiol_waiter *w;
    if (p->serving || loop->closed)
        return;
    p->serving = true;
    while (p->value > 0 && (w = aiol_line_pop(&p->waiters)) != NULL) {
        p->value--;
        if (w->mark == 0)
            aiol_permits_give(p, w);
        else
            aiol_condition_turn(w);
    }
    p->serving = false;
}

static void aiol_permits_release(aioloop *loop, aiol_permits *p) {
    p->value++;
    aiol_permits_serve(loop, p);
}

static aioloop_future *aiol_permits_acquire(aioloop *loop, aiol_permits *p) {
    int err = aiol_sync_check(loop);
    aiol_waiter *w;
    if (err < 0)
        return aiol_future_failed(err);
    w = aiol_line_join(loop, &p->waiters, p);
    if (w == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    aiol_permits_serve(loop, p);
    return &w->future;
}

static int aiol_permits_acquire_nowait(aioloop *loop, aiol_permits *p) {
    int err = aiol_sync_check(loop);
    if (err < 0)
        return err;
    if (p->value == 0)
        return AIOLOOP_EAGAIN;
    p->value--;
    return 0;
}

/* ---- Lock ---- */

struct aioloop_lock {
    aiol_resource resource;
    aiol_permits permits; /* one */
};

static void aiol_lock_destroy(aiol_resource *resource) {
    aioloop_lock *lock = AIOL_CONTAINER(resource, aioloop_lock, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, lock, sizeof(*lock));
}

static const aiol_resource_calls aiol_lock_resource = {"lock", aiol_combine_closed, aiol_lock_destroy,
                                                       aiol_combine_is_open};

AIOLOOP_API aioloop_lock *aioloop_lock_new(aioloop *loop) {
    aioloop_lock *lock = (aioloop_lock *)aiol_sync_new(loop, sizeof(*lock));
    if (lock == NULL)
        return NULL;
    aiol_permits_init(&lock->permits, 1);
    aiol_resource_add(loop, &lock->resource, &aiol_lock_resource);
    return lock;
}

AIOLOOP_API void aioloop_lock_free(aioloop_lock *lock) {
    aiol_link line;
    if (lock == NULL || lock->resource.loop->freeing)
        return; /* it goes with the loop */
    aiol_line_forget(&lock->permits.granted);
    aiol_line_detach(&line, &lock->permits.waiters);
    aiol_lock_destroy(&lock->resource);
    aiol_line_end(&line, AIOLOOP_ECANCELED);
}

AIOLOOP_API aioloop_future *(aioloop_lock_acquire)(aioloop_lock *lock) {
    if (lock == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    return aiol_permits_acquire(lock->resource.loop, &lock->permits);
}

AIOLOOP_API int aioloop_lock_acquire_nowait(aioloop_lock *lock) {
    return lock == NULL ? AIOLOOP_EINVAL : aiol_permits_acquire_nowait(lock->resource.loop, &lock->permits);
}

AIOLOOP_API int aioloop_lock_release(aioloop_lock *lock) {
    int err = lock == NULL ? AIOLOOP_EINVAL : aiol_sync_check_thread(lock->resource.loop);
    if (err < 0)
        return err;
    if (lock->permits.value != 0)
        return aiol_fail(lock->resource.loop, AIOLOOP_EMISUSE, "the lock is not held");
    aiol_permits_release(lock->resource.loop, &lock->permits);
    return 0;
}

AIOLOOP_API bool aioloop_lock_locked(const aioloop_lock *lock) {
    return lock != NULL && lock->permits.value == 0;
}

/* ---- Event ---- */

struct aioloop_event {
    aiol_resource resource;
    aiol_link waiters;
    bool set;
};

static void aiol_event_destroy(aiol_resource *resource) {
    aioloop_event *event = AIOL_CONTAINER(resource, aioloop_event, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, event, sizeof(*event));
}

static const aiol_resource_calls aiol_event_resource = {"event", aiol_combine_closed, aiol_event_destroy,
                                                        aiol_combine_is_open};

AIOLOOP_API aioloop_event *aioloop_event_new(aioloop *loop) {
    aioloop_event *event = (aioloop_event *)aiol_sync_new(loop, sizeof(*event));
    if (event == NULL)
        return NULL;
    aiol_list_init(&event->waiters);
    aiol_resource_add(loop, &event->resource, &aiol_event_resource);
    return event;
}

AIOLOOP_API void aioloop_event_free(aioloop_event *event) {
    aiol_link line;
    if (event == NULL || event->resource.loop->freeing)
        return;
    aiol_line_detach(&line, &event->waiters);
    aiol_event_destroy(&event->resource);
    aiol_line_end(&line, AIOLOOP_ECANCELED);
}

AIOLOOP_API int aioloop_event_set(aioloop_event *event) {
    aiol_link line;
    int err = event == NULL ? AIOLOOP_EINVAL : aiol_sync_check_thread(event->resource.loop);
    if (err < 0)
        return err;
    event->set = true;
    if (event->resource.loop->closed)
        return 0;
    aiol_line_detach(&line, &event->waiters);
    aiol_line_end(&line, 0);
    return 0;
}

AIOLOOP_API int aioloop_event_clear(aioloop_event *event) {
    int err = event == NULL ? AIOLOOP_EINVAL : aiol_sync_check_thread(event->resource.loop);
    if (err == 0)
        event->set = false;
    return err;
}

AIOLOOP_API bool aioloop_event_is_set(const aioloop_event *event) {
    return event != NULL && event->set;
}

AIOLOOP_API aioloop_future *(aioloop_event_wait)(aioloop_event *event) {
    int err = event == NULL ? AIOLOOP_EINVAL : aiol_sync_check(event->resource.loop);
    aiol_waiter *w;
    if (err < 0)
        return aiol_future_failed(err);
    if (event->set)
        return aiol_future_nothing(event->resource.loop);
    w = aiol_line_join(event->resource.loop, &event->waiters, event);
    return w == NULL ? aiol_future_failed(AIOLOOP_ENOMEM) : &w->future;
}

/* ---- Condition ---- */

/* Where a waiter of a condition is: in the condition's line, or in that of the lock. */
enum { AIOL_CONDITION_WAITS = 1, AIOL_CONDITION_NOTIFIED, AIOL_CONDITION_CANCELLED };

struct aioloop_condition {
    aiol_resource resource;
    aioloop_lock *lock;
    bool own; /* the lock is */
    aiol_link waiters;
    aiol_link granted;    /* who were notified and have the lock, but may not have read so */
    aiol_link predicates; /* those of wait_for */
};

static void aiol_condition_destroy(aiol_resource *resource) {
    aioloop_condition *c = AIOL_CONTAINER(resource, aioloop_condition, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, c, sizeof(*c));
}

static const aiol_resource_calls aiol_condition_resource = {"condition", aiol_combine_closed, aiol_condition_destroy,
                                                            aiol_combine_is_open};

/* Sends a waiter, which is in no line, for the lock. */
static void aiol_condition_reacquire(aioloop_condition *c, aiol_waiter *w, uint64_t mark) {
    w->mark = mark;
    aiol_list_append(&c->lock->permits.waiters, &w->link);
}

static void aiol_condition_wake(aioloop_condition *c, size_t n) {
    aiol_waiter *w;
    while (n-- != 0 && (w = aiol_line_pop(&c->waiters)) != NULL)
        aiol_condition_reacquire(c, w, AIOL_CONDITION_NOTIFIED);
    aiol_permits_serve(c->resource.loop, &c->lock->permits);
}

/* The task that was notified was cancelled before it went on: another one is to know. It has the lock all the same. */
static void aiol_condition_gone(aiol_waiter *w, bool unread) {
    if (unread && !w->future.loop->closed)
        aiol_condition_wake((aioloop_condition *)w->object, 1);
}

/* The lock was taken for a waiter, which is in no line. */
static void aiol_condition_turn(aiol_waiter *w) {
    aioloop_condition *c = (aioloop_condition *)w->object;
    if (w->mark == AIOL_CONDITION_CANCELLED) {
        aiol_future_end_cancelled(&w->future, NULL);
    } else {
        if (c != NULL) {
            w->gone = aiol_condition_gone;
            aiol_list_append(&c->granted, &w->link);
        }
        w->future.flags |= AIOL_FUTURE_GRANT;
        aiol_future_finish(&w->future, 0, NULL, NULL);
    }
    aiol_future_release(&w->future);
}

/* It ends when it has the lock again. */
static bool aiol_condition_cancel(aioloop_future *f, void *owner) {
    aiol_waiter *w = (aiol_waiter *)(void *)f;
    aioloop_condition *c = (aioloop_condition *)w->object;
    (void)owner;
    if (w->mark == AIOL_CONDITION_WAITS) {
        aiol_list_remove(&w->link);
        if (c == NULL || f->loop->closed || c->lock->permits.value > 0) {
            if (c != NULL)
                c->lock->permits.value = 0;
            aiol_future_release(f);
            return true;
        }
        aiol_condition_reacquire(c, w, AIOL_CONDITION_CANCELLED);
    } else if (w->mark == AIOL_CONDITION_NOTIFIED) {
        w->mark = AIOL_CONDITION_CANCELLED;
        if (c != NULL)
            aiol_condition_wake(c, 1);
    }
    return false;
}

AIOLOOP_API aioloop_condition *aioloop_condition_new(aioloop *loop, aioloop_lock *lock) {
    aioloop_condition *c = (aioloop_condition *)aiol_sync_new(loop, sizeof(*c));
    if (c == NULL)
        return NULL;
    c->lock = lock;
    if (lock == NULL) {
        c->own = true;
        c->lock = aioloop_lock_new(loop);
    } else if (lock->resource.loop != loop) {
        aiol_fail(loop, AIOLOOP_EINVAL, "the lock belongs to another loop");
        c->lock = NULL;
    }
    if (c->lock == NULL) {
        aiol_free(&loop->allocator, c, sizeof(*c));
        return NULL;
    }
    aiol_list_init(&c->waiters);
    aiol_list_init(&c->granted);
    aiol_list_init(&c->predicates);
    aiol_resource_add(loop, &c->resource, &aiol_condition_resource);
    return c;
}

AIOLOOP_API aioloop_future *(aioloop_condition_acquire)(aioloop_condition *condition) {
    return (aioloop_lock_acquire)(condition == NULL ? NULL : condition->lock);
}

AIOLOOP_API int aioloop_condition_acquire_nowait(aioloop_condition *condition) {
    return aioloop_lock_acquire_nowait(condition == NULL ? NULL : condition->lock);
}

AIOLOOP_API int aioloop_condition_release(aioloop_condition *condition) {
    return aioloop_lock_release(condition == NULL ? NULL : condition->lock);
}

AIOLOOP_API bool aioloop_condition_locked(const aioloop_condition *condition) {
    return condition != NULL && aioloop_lock_locked(condition->lock);
}

AIOLOOP_API aioloop_future *(aioloop_condition_wait)(aioloop_condition *condition) {
    int err = condition == NULL ? AIOLOOP_EINVAL : aiol_sync_check(condition->resource.loop);
    aioloop *loop;
    aiol_waiter *w;
    if (err < 0)
        return aiol_future_failed(err);
    loop = condition->resource.loop;
    if (!aioloop_lock_locked(condition->lock))
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_EMISUSE, "waiting on a condition needs its lock"));
    w = aiol_line_join(loop, &condition->waiters, condition);
    if (w == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    w->mark = AIOL_CONDITION_WAITS;
    w->future.end.cancel = aiol_condition_cancel;
    aiol_permits_release(loop, &condition->lock->permits);
    return &w->future;
}

AIOLOOP_API int aioloop_condition_notify(aioloop_condition *condition, size_t n) {
    int err = condition == NULL ? AIOLOOP_EINVAL : aiol_sync_check_thread(condition->resource.loop);
    if (err < 0)
        return err;
    if (!aioloop_lock_locked(condition->lock))
        return aiol_fail(condition->resource.loop, AIOLOOP_EMISUSE, "notifying on a condition needs its lock");
    aiol_condition_wake(condition, n);
    return 0;
}

AIOLOOP_API int aioloop_condition_notify_all(aioloop_condition *condition) {
    return aioloop_condition_notify(condition, SIZE_MAX);
}

/* ---- wait_for, a coroutine without a stack ---- */

typedef struct aiol_predicate {
    aioloop_frame frame;
    aiol_link link;
    aioloop_condition *condition; /* NULL: it was freed */
    int64_t (*ask)(void *arg);
    void *arg;
    int64_t n;
} aiol_predicate;

static int64_t aiol_predicate_ask(aioloop *loop, aiol_predicate *p) {
    int64_t n;
    if (p->condition == NULL)
        return AIOLOOP_ECANCELED;
    n = p->ask(p->arg);
    if (p->condition == NULL)
        return AIOLOOP_ECANCELED;
    if (n < INT32_MIN)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a predicate answered a number that is neither a result nor a code");
    return n;
}

/* Inside the call: the predicate may free the condition. Not inlined, or gcc sees a local's address stored and
 * warns. */
static AIOL_NOINLINE int64_t aiol_predicate_ask_first(aioloop *loop, aiol_predicate *p) {
    int64_t n;
    aiol_list_append(&p->condition->predicates, &p->link);
    n = aiol_predicate_ask(loop, p);
    aiol_list_remove(&p->link);
    return n;
}

static int64_t aiol_predicate_step(aioloop *loop, aioloop_frame *frame, void **out) {
    aiol_predicate *self = (aiol_predicate *)(void *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    while ((self->n = aiol_predicate_ask(loop, self)) == 0) {
        AIOLOOP_AWAIT(self->n, (aioloop_condition_wait)(self->condition), NULL);
        if (self->n < 0)
            break;
    }
    return self->n;
    AIOLOOP_END;
}

static void aiol_predicate_dispose(void *frame) {
    aiol_list_remove(&((aiol_predicate *)frame)->link);
}

AIOLOOP_API aioloop_future *(aioloop_condition_wait_for)(aioloop_condition *condition, int64_t (*predicate)(void *arg),
                                                         void *arg) {
    int err = condition == NULL || predicate == NULL ? AIOLOOP_EINVAL : aiol_sync_check(condition->resource.loop);
    aioloop_task_recipe recipe;
    aiol_predicate first;
    aioloop_future *task;
    aioloop *loop;
    if (err < 0)
        return aiol_future_failed(err);
    loop = condition->resource.loop;
    if (!aioloop_lock_locked(condition->lock))
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_EMISUSE, "waiting on a condition needs its lock"));
    memset(&first, 0, sizeof(first));
    first.condition = condition;
    first.ask = predicate;
    first.arg = arg;
    first.n = aiol_predicate_ask_first(loop, &first);
    if (first.n > 0)
        return aiol_future_of_number(loop, first.n);
    if (first.n == AIOLOOP_ECANCELED)
        return aiol_future_failed(AIOLOOP_ECANCELED);
    if (first.n < 0)
        return aiol_combine_failed(loop, (int)first.n);
    memset(&recipe, 0, sizeof(recipe));
    recipe.step = aiol_predicate_step;
    recipe.arg = &first;
    recipe.options.copy_size = sizeof(first);
    recipe.options.dispose = aiol_predicate_dispose;
    task = (aioloop_task_new)(loop, &recipe);
    if (!aiol_future_is_static(task))
        aiol_list_append(&condition->predicates, &((aiol_predicate *)((aiol_task *)(void *)task)->slot.arg)->link);
    return task;
}

AIOLOOP_API void aioloop_condition_free(aioloop_condition *condition) {
    aioloop *loop;
    aioloop_lock *lock;
    aiol_link line;
    aiol_link *link;
    aiol_waiter *w;
    bool own;
    if (condition == NULL || condition->resource.loop->freeing)
        return;
    loop = condition->resource.loop;
    lock = condition->lock;
    own = condition->own;
    while (!aiol_list_empty(&condition->predicates)) {
        aiol_predicate *p = AIOL_CONTAINER(condition->predicates.next, aiol_predicate, link);
        aiol_list_remove(&p->link);
        p->condition = NULL;
    }
    for (link = lock->permits.waiters.next; link != &lock->permits.waiters; link = link->next)
        if (aiol_waiter_of(link)->object == condition)
            aiol_waiter_of(link)->object = NULL;
    aiol_line_forget(&condition->granted);
    aiol_line_detach(&line, &condition->waiters);
    while (!own && (w = aiol_line_pop(&line)) != NULL)
        aiol_condition_reacquire(condition, w, AIOL_CONDITION_CANCELLED);
    aiol_condition_destroy(&condition->resource);
    if (own) {
        aioloop_lock_free(lock);
        aiol_line_end(&line, AIOLOOP_ECANCELED);
    } else {
        aiol_permits_serve(loop, &lock->permits);
    }
}

/* ---- Semaphore ---- */

struct aioloop_semaphore {
    aiol_resource resource;
    aiol_permits permits;
    int64_t bound;
    int refusal; /* of a release above the bound */
};

static void aiol_semaphore_destroy(aiol_resource *resource) {
    aioloop_semaphore *semaphore = AIOL_CONTAINER(resource, aioloop_semaphore, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, semaphore, sizeof(*semaphore));
}

static const aiol_resource_calls aiol_semaphore_resource = {"semaphore", aiol_combine_closed, aiol_semaphore_destroy,
                                                            aiol_combine_is_open};

static aioloop_semaphore *aiol_semaphore_make(aioloop *loop, int64_t value, int64_t bound, int refusal) {
    aioloop_semaphore *semaphore;
    if (loop != NULL && value < 0) {
        aiol_fail(loop, AIOLOOP_EINVAL, "a semaphore's value cannot be negative");
        return NULL;
    }
    semaphore = (aioloop_semaphore *)aiol_sync_new(loop, sizeof(*semaphore));
    if (semaphore == NULL)
        return NULL;
    aiol_permits_init(&semaphore->permits, value);
    semaphore->bound = bound;
    semaphore->refusal = refusal;
    aiol_resource_add(loop, &semaphore->resource, &aiol_semaphore_resource);
    return semaphore;
}

AIOLOOP_API aioloop_semaphore *aioloop_semaphore_new(aioloop *loop, int64_t value) {
    return aiol_semaphore_make(loop, value, INT64_MAX, AIOLOOP_EOVERFLOW);
}

AIOLOOP_API aioloop_semaphore *aioloop_bounded_semaphore_new(aioloop *loop, int64_t value) {
    return aiol_semaphore_make(loop, value, value, AIOLOOP_EINVAL);
}

AIOLOOP_API void aioloop_semaphore_free(aioloop_semaphore *semaphore) {
    aiol_link line;
    if (semaphore == NULL || semaphore->resource.loop->freeing)
        return;
    aiol_line_forget(&semaphore->permits.granted);
    aiol_line_detach(&line, &semaphore->permits.waiters);
    aiol_semaphore_destroy(&semaphore->resource);
    aiol_line_end(&line, AIOLOOP_ECANCELED);
}

AIOLOOP_API aioloop_future *(aioloop_semaphore_acquire)(aioloop_semaphore *semaphore) {
    if (semaphore == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    return aiol_permits_acquire(semaphore->resource.loop, &semaphore->permits);
}

AIOLOOP_API int aioloop_semaphore_acquire_nowait(aioloop_semaphore *semaphore) {
    if (semaphore == NULL)
        return AIOLOOP_EINVAL;
    return aiol_permits_acquire_nowait(semaphore->resource.loop, &semaphore->permits);
}

AIOLOOP_API int aioloop_semaphore_release(aioloop_semaphore *semaphore) {
    int err = semaphore == NULL ? AIOLOOP_EINVAL : aiol_sync_check_thread(semaphore->resource.loop);
    if (err < 0)
        return err;
    if (semaphore->permits.value >= semaphore->bound)
        return aiol_fail(semaphore->resource.loop, semaphore->refusal, "the semaphore was released too often");
    aiol_permits_release(semaphore->resource.loop, &semaphore->permits);
    return 0;
}

AIOLOOP_API bool aioloop_semaphore_locked(const aioloop_semaphore *semaphore) {
    return semaphore != NULL && semaphore->permits.value == 0;
}

/* ---- Barrier ---- */

struct aioloop_barrier {
    aiol_resource resource;
    aiol_link waiters;
    int parties;
    int waiting;
    bool broken;
};

static void aiol_barrier_destroy(aiol_resource *resource) {
    aioloop_barrier *barrier = AIOL_CONTAINER(resource, aioloop_barrier, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, barrier, sizeof(*barrier));
}

static const aiol_resource_calls aiol_barrier_resource = {"barrier", aiol_combine_closed, aiol_barrier_destroy,
                                                          aiol_combine_is_open};

AIOLOOP_API aioloop_barrier *aioloop_barrier_new(aioloop *loop, int parties) {
    aioloop_barrier *barrier;
    if (loop != NULL && parties < 1) {
        aiol_fail(loop, AIOLOOP_EINVAL, "a barrier needs one party at least");
        return NULL;
    }
    barrier = (aioloop_barrier *)aiol_sync_new(loop, sizeof(*barrier));
    if (barrier == NULL)
        return NULL;
    aiol_list_init(&barrier->waiters);
    barrier->parties = parties;
    aiol_resource_add(loop, &barrier->resource, &aiol_barrier_resource);
    return barrier;
}

AIOLOOP_API void aioloop_barrier_free(aioloop_barrier *barrier) {
    aiol_link line;
    if (barrier == NULL || barrier->resource.loop->freeing)
        return;
    aiol_line_detach(&line, &barrier->waiters);
    aiol_barrier_destroy(&barrier->resource);
    aiol_line_end(&line, AIOLOOP_ECANCELED);
}

static bool aiol_barrier_cancel(aioloop_future *f, void *owner) {
    aioloop_barrier *barrier = (aioloop_barrier *)((aiol_waiter *)(void *)f)->object;
    if (barrier != NULL)
        barrier->waiting--;
    return aiol_waiter_leave(f, owner);
}

/* The last one has come. */
static void aiol_barrier_open(aioloop_barrier *barrier) {
    aiol_link line;
    aiol_waiter *w;
    int64_t number = 0;
    barrier->waiting = 0;
    aiol_line_detach(&line, &barrier->waiters);
    while ((w = aiol_line_pop(&line)) != NULL) {
        aiol_future_finish(&w->future, number++, NULL, NULL);
        aiol_future_release(&w->future);
    }
}

AIOLOOP_API aioloop_future *(aioloop_barrier_wait)(aioloop_barrier *barrier) {
    int err = barrier == NULL ? AIOLOOP_EINVAL : aiol_sync_check(barrier->resource.loop);
    aioloop *loop;
    aiol_waiter *w;
    if (err < 0)
        return aiol_future_failed(err);
    loop = barrier->resource.loop;
    if (barrier->broken)
        return aiol_combine_failed(loop, aiol_fail(loop, AIOLOOP_EBROKENBARRIER, NULL));
    w = aiol_line_join(loop, &barrier->waiters, barrier);
    if (w == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    w->future.end.cancel = aiol_barrier_cancel;
    if (++barrier->waiting == barrier->parties)
        aiol_barrier_open(barrier);
    return &w->future;
}

/* Those who wait fail; barrier may be gone afterwards. */
static int aiol_barrier_break(aioloop_barrier *barrier, bool broken) {
    aiol_link line;
    int err = barrier == NULL ? AIOLOOP_EINVAL : aiol_sync_check_thread(barrier->resource.loop);
    if (err < 0)
        return err;
    barrier->broken = broken;
    if (barrier->resource.loop->closed)
        return 0;
    barrier->waiting = 0;
    aiol_line_detach(&line, &barrier->waiters);
    aiol_line_end(&line, AIOLOOP_EBROKENBARRIER);
    return 0;
}

AIOLOOP_API int aioloop_barrier_reset(aioloop_barrier *barrier) {
    return aiol_barrier_break(barrier, false);
}

AIOLOOP_API int aioloop_barrier_abort(aioloop_barrier *barrier) {
    return aiol_barrier_break(barrier, true);
}

AIOLOOP_API int aioloop_barrier_parties(const aioloop_barrier *barrier) {
    return barrier == NULL ? 0 : barrier->parties;
}

AIOLOOP_API int aioloop_barrier_n_waiting(const aioloop_barrier *barrier) {
    return barrier == NULL ? 0 : barrier->waiting;
}

AIOLOOP_API bool aioloop_barrier_broken(const aioloop_barrier *barrier) {
    return barrier != NULL && barrier->broken;
}

#endif

/* >> src/high/queue.c */
/*
 * queue.c - queues between tasks.                                                  (asyncio: queues.py)
 *
 * An item goes onto the shelf and from there to the first who waits for one, at once. It can come back, when the task
 * it was given to was cancelled before it went on; its number, counted when it was put, says where it belongs. Room for
 * what can come back, and for the items of those who wait to put one, is kept free (`promised`): only putting needs
 * memory.
 */
#ifndef AIOL_HIGH_QUEUE_C
#define AIOL_HIGH_QUEUE_C

typedef struct aiol_item {
    void *pointer;
    void (*dispose)(void *pointer);
    uint64_t number;
} aiol_item;

/* The items, in a ring; a LIFO queue and a heap begin at its start. */
typedef struct aiol_shelf {
    aiol_item *items;
    size_t capacity;
    size_t head;
    size_t count;
} aiol_shelf;

struct aioloop_queue {
    aiol_resource resource;
    aioloop_queue_kind kind;
    int64_t maxsize;
    int (*compare)(const void *a, const void *b);
    aiol_shelf shelf;
    size_t promised; /* places for those who wait to put something, and for what was given and may come back */
    uint64_t number; /* of the item put last */
    size_t unfinished;
    aiol_link getters;
    aiol_link putters;
    aiol_link joiners;
    aiol_link granted; /* who were given an item that they may not have read */
    bool serving;
    bool is_shutdown;
    bool drops; /* what comes back: it was shut down at once */
    bool closing;
};

/* ---- the shelf ---- */

AIOL_INLINE aiol_item *aiol_shelf_at(const aiol_shelf *s, size_t i) {
    i += s->head;
    return &s->items[i < s->capacity ? i : i - s->capacity];
}

/* Room for one item more, and for those promised. 0 or AIOLOOP_ENOMEM. */
static int aiol_shelf_reserve(const aioloop_allocator *a, aiol_shelf *s, size_t promised) {
    size_t wanted = s->count + promised + 1;
    aiol_shelf grown;
    size_t i;
    int err;
    if (wanted <= s->capacity)
        return 0;
    memset(&grown, 0, sizeof(grown));
    err = aiol_grow(a, &grown.items, &grown.capacity, sizeof(grown.items[0]), wanted + s->capacity / 2);
    if (err < 0)
        return err;
    for (i = 0; i < s->count; i++)
        grown.items[i] = *aiol_shelf_at(s, i);
    grown.count = s->count;
    aiol_free(a, s->items, s->capacity * sizeof(s->items[0]));
    *s = grown;
    return 0;
}

/* Puts an item where its number says, counted from the end: mostly it is the last. */
static void aiol_shelf_insert_last(aiol_shelf *s, const aiol_item *item) {
    size_t i = s->count++;
    while (i > 0 && aiol_shelf_at(s, i - 1)->number > item->number) {
        *aiol_shelf_at(s, i) = *aiol_shelf_at(s, i - 1);
        i--;
    }
    *aiol_shelf_at(s, i) = *item;
}

/* The same from the front, for one that comes back. */
static void aiol_shelf_insert_first(aiol_shelf *s, const aiol_item *item) {
    size_t i = 0;
    s->head = (s->head == 0 ? s->capacity : s->head) - 1;
    s->count++;
    while (i + 1 < s->count && aiol_shelf_at(s, i + 1)->number < item->number) {
        *aiol_shelf_at(s, i) = *aiol_shelf_at(s, i + 1);
        i++;
    }
    *aiol_shelf_at(s, i) = *item;
}

static bool aiol_item_before(const aioloop_queue *q, const aiol_item *a, const aiol_item *b) {
    int order = q->compare(a->pointer, b->pointer);
    return order < 0 || (order == 0 && a->number < b->number);
}

static void aiol_items_up(aioloop_queue *q, const aiol_item *item) {
    aiol_item *items = q->shelf.items;
    size_t i = q->shelf.count++;
    while (i > 0 && aiol_item_before(q, item, &items[(i - 1) / 2])) {
        items[i] = items[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    items[i] = *item;
}

/* The last item takes the place of the first, and goes down from there. */
static void aiol_items_down(aioloop_queue *q) {
    aiol_item *items = q->shelf.items;
    size_t count = --q->shelf.count;
    const aiol_item last = items[count];
    size_t i = 0;
    size_t child;
    while ((child = 2 * i + 1) < count) {
        if (child + 1 < count && aiol_item_before(q, &items[child + 1], &items[child]))
            child++;
        if (!aiol_item_before(q, &items[child], &last))
            break;
        items[i] = items[child];
        i = child;
    }
    items[i] = last;
}

/* There is room. */
static void aiol_items_insert(aioloop_queue *q, const aiol_item *item) {
    aiol_shelf *s = &q->shelf;
    if (q->kind == AIOLOOP_QUEUE_PRIORITY)
        aiol_items_up(q, item);
    else if (q->kind == AIOLOOP_QUEUE_FIFO && s->count != 0 && item->number < aiol_shelf_at(s, s->count - 1)->number)
        aiol_shelf_insert_first(s, item);
    else
        aiol_shelf_insert_last(s, item);
}

/* The next item out; there is one. */
static aiol_item aiol_items_take(aioloop_queue *q) {
    aiol_shelf *s = &q->shelf;
    aiol_item item;
    if (q->kind == AIOLOOP_QUEUE_LIFO)
        return *aiol_shelf_at(s, --s->count);
    item = *aiol_shelf_at(s, 0);
    if (q->kind == AIOLOOP_QUEUE_PRIORITY) {
        aiol_items_down(q);
    } else {
        s->head = s->head + 1 == s->capacity ? 0 : s->head + 1;
        s->count--;
    }
    return item;
}

/* Takes all items out, and the memory with them. */
static aiol_shelf aiol_items_detach(aioloop_queue *q) {
    aiol_shelf shelf = q->shelf;
    memset(&q->shelf, 0, sizeof(q->shelf));
    return shelf;
}

static void aiol_item_end(void *pointer, void (*dispose)(void *)) {
    if (dispose != NULL)
        dispose(pointer);
}

/* Disposes of items that are no queue's any more. */
static void aiol_shelf_end(aioloop *loop, aiol_shelf *s) {
    size_t i;
    for (i = 0; i < s->count; i++) {
        const aiol_item *item = aiol_shelf_at(s, i);
        aiol_item_end(item->pointer, item->dispose);
    }
    aiol_free(&loop->allocator, s->items, s->capacity * sizeof(s->items[0]));
}

/* ---- who waits ---- */

static bool aiol_queue_is_full(const aioloop_queue *q) {
    return q->maxsize > 0 && q->shelf.count >= (uint64_t)q->maxsize;
}

static void aiol_queue_serve(aioloop_queue *q);

/* That many items are done with. Those who wait for all of them are taken off the queue. */
static void aiol_queue_count_done(aioloop_queue *q, size_t done, aiol_link *joiners) {
    aiol_list_init(joiners);
    q->unfinished -= aiol_min_size(done, q->unfinished);
    if (q->unfinished == 0 && !q->resource.loop->closed)
        aiol_line_detach(joiners, &q->joiners);
}

/* A getter's future goes. An item that it was given and nobody has read comes back, if the queue still takes it. */
static void aiol_getter_gone(aiol_waiter *w, bool unread) {
    aioloop_queue *q = (aioloop_queue *)w->object;
    aiol_item item;
    aiol_link joiners;
    if (q != NULL)
        q->promised--;
    if (!unread)
        return;
    item.pointer = w->future.of.pointer;
    item.dispose = w->dispose;
    item.number = w->mark;
    if (q != NULL && !q->drops) {
        aiol_items_insert(q, &item);
        aiol_queue_serve(q);
        return;
    }
    if (q != NULL) {
        aiol_queue_count_done(q, 1, &joiners);
        aiol_line_end(&joiners, 0);
    }
    aiol_item_end(item.pointer, item.dispose);
}

/* Hands the next item to a getter that is in no line. */
static void aiol_getter_give(aioloop_queue *q, aiol_waiter *w) {
    aiol_item item = aiol_items_take(q);
    q->promised++;
    w->dispose = item.dispose;
    w->mark = item.number;
    w->gone = aiol_getter_gone;
    w->future.flags |= AIOL_FUTURE_GRANT;
    aiol_list_append(&q->granted, &w->link);
    aiol_future_finish(&w->future, 0, item.pointer, NULL);
    aiol_future_release(&w->future);
}

/* A putter's future goes, and its item was not put: that waits in the future, as its owner. */
static void aiol_putter_gone(aiol_waiter *w, bool unread) {
    (void)unread;
    aiol_item_end(w->future.of.owner, w->dispose);
}

static bool aiol_putter_cancel(aioloop_future *f, void *owner) {
    aioloop_queue *q = (aioloop_queue *)((aiol_waiter *)(void *)f)->object;
    if (q != NULL)
        q->promised--;
    return aiol_waiter_leave(f, owner);
}

/* There is room for it and all that is promised. */
static void aiol_queue_put_item(aioloop_queue *q, void *pointer, void (*dispose)(void *)) {
    aiol_item item;
    item.pointer = pointer;
    item.dispose = dispose;
    item.number = ++q->number;
    q->unfinished++;
    aiol_items_insert(q, &item);
}

/* Lets in a putter that is in no line. */
static void aiol_putter_admit(aioloop_queue *q, aiol_waiter *w) {
    q->promised--;
    w->gone = NULL;
    aiol_queue_put_item(q, w->future.of.owner, w->dispose);
    aiol_future_finish(&w->future, 0, NULL, NULL);
    aiol_future_release(&w->future);
}

/* Items to those who wait for them, and room to those who wait for that. */
static void aiol_queue_serve(aioloop_queue *q) {
    aiol_waiter *w;
    if (q->serving || q->resource.loop->closed)
        return;
    q->serving = true;
    for (;;) {
        if (q->shelf.count != 0 && (w = aiol_line_pop(&q->getters)) != NULL)
            aiol_getter_give(q, w);
        else if (!aiol_queue_is_full(q) && (w = aiol_line_pop(&q->putters)) != NULL)
            aiol_putter_admit(q, w);
        else
            break;
    }
    q->serving = false;
}

/* ---- making and ending ---- */

/* The loop closes: the items go now, while everything that they may refer to is there. */
static void aiol_queue_closed(aiol_resource *resource) {
    aioloop_queue *q = AIOL_CONTAINER(resource, aioloop_queue, resource);
    aiol_shelf shelf = aiol_items_detach(q);
    q->is_shutdown = true;
    q->drops = true;
    q->closing = true;
    aiol_shelf_end(resource->loop, &shelf);
    q->closing = false;
}

static void aiol_queue_destroy(aiol_resource *resource) {
    aioloop_queue *q = AIOL_CONTAINER(resource, aioloop_queue, resource);
    aiol_resource_remove(resource);
    aiol_free(&resource->loop->allocator, q, sizeof(*q));
}

static const aiol_resource_calls aiol_queue_resource = {"queue", aiol_queue_closed, aiol_queue_destroy,
                                                        aiol_combine_is_open};

AIOLOOP_API aioloop_queue *aioloop_queue_new(aioloop *loop, const aioloop_queue_options *options) {
    aioloop_queue *q;
    if (loop != NULL && options != NULL &&
        ((unsigned)options->kind > AIOLOOP_QUEUE_PRIORITY ||
         (options->kind == AIOLOOP_QUEUE_PRIORITY && options->compare == NULL))) {
        aiol_fail(loop, AIOLOOP_EINVAL, "a queue of an unknown kind, or without its compare");
        return NULL;
    }
    q = (aioloop_queue *)aiol_sync_new(loop, sizeof(*q));
    if (q == NULL)
        return NULL;
    if (options != NULL) {
        q->kind = options->kind;
        q->maxsize = options->maxsize < 0 ? 0 : options->maxsize;
        q->compare = options->compare;
    }
    aiol_list_init(&q->getters);
    aiol_list_init(&q->putters);
    aiol_list_init(&q->joiners);
    aiol_list_init(&q->granted);
    aiol_resource_add(loop, &q->resource, &aiol_queue_resource);
    return q;
}

AIOLOOP_API void aioloop_queue_free(aioloop_queue *queue) {
    aiol_link getters, putters, joiners;
    aiol_shelf shelf;
    aioloop *loop;
    aiol_waiter *w;
    if (queue == NULL || queue->resource.loop->freeing || queue->closing)
        return; /* it goes with the loop */
    loop = queue->resource.loop;
    while ((w = aiol_line_pop(&queue->granted)) != NULL)
        w->object = NULL; /* an item that is not read is disposed of */
    aiol_line_detach(&getters, &queue->getters);
    aiol_line_detach(&putters, &queue->putters);
    aiol_line_detach(&joiners, &queue->joiners);
    shelf = aiol_items_detach(queue);
    aiol_queue_destroy(&queue->resource);
    aiol_line_end(&getters, AIOLOOP_ECANCELED);
    aiol_line_end(&putters, AIOLOOP_ECANCELED);
    aiol_line_end(&joiners, AIOLOOP_ECANCELED);
    aiol_shelf_end(loop, &shelf);
}

/* ---- putting ---- */

/* The future of a put that fails; its item goes. */
static aioloop_future *aiol_put_failed(aioloop_future *f, void *item, void (*dispose)(void *)) {
    aiol_item_end(item, dispose);
    return f;
}

AIOLOOP_API aioloop_future *(aioloop_queue_put)(aioloop_queue *queue, void *item, void (*dispose)(void *item)) {
    int err = queue == NULL ? AIOLOOP_EINVAL : aiol_sync_check(queue->resource.loop);
    aioloop_future *f;
    aiol_waiter *w;
    aioloop *loop;
    if (err < 0)
        return aiol_put_failed(aiol_future_failed(err), item, dispose);
    loop = queue->resource.loop;
    if (queue->is_shutdown)
        return aiol_put_failed(aiol_combine_failed(loop, aiol_fail(loop, AIOLOOP_EQUEUESHUTDOWN, NULL)), item, dispose);
    if (aiol_shelf_reserve(&loop->allocator, &queue->shelf, queue->promised) < 0)
        return aiol_put_failed(aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL)), item, dispose);
    if (!aiol_queue_is_full(queue)) {
        f = aiol_future_nothing(loop);
        if (aiol_future_is_static(f))
            return aiol_put_failed(f, item, dispose);
        aiol_queue_put_item(queue, item, dispose);
        aiol_queue_serve(queue);
        return f;
    }
    w = aiol_line_join(loop, &queue->putters, queue);
    if (w == NULL)
        return aiol_put_failed(aiol_future_failed(AIOLOOP_ENOMEM), item, dispose);
    w->future.end.cancel = aiol_putter_cancel;
    w->future.of.owner = item;
    w->dispose = dispose;
    w->gone = aiol_putter_gone;
    queue->promised++;
    return &w->future;
}

AIOLOOP_API int aioloop_queue_put_nowait(aioloop_queue *queue, void *item, void (*dispose)(void *item)) {
    int err = queue == NULL ? AIOLOOP_EINVAL : aiol_sync_check(queue->resource.loop);
    if (err < 0)
        return err;
    if (queue->is_shutdown)
        return AIOLOOP_EQUEUESHUTDOWN;
    if (aiol_queue_is_full(queue))
        return AIOLOOP_EQUEUEFULL;
    if (aiol_shelf_reserve(&queue->resource.loop->allocator, &queue->shelf, queue->promised) < 0)
        return aiol_fail(queue->resource.loop, AIOLOOP_ENOMEM, NULL);
    aiol_queue_put_item(queue, item, dispose);
    aiol_queue_serve(queue);
    return 0;
}

/* ---- getting ---- */

AIOLOOP_API aioloop_future *(aioloop_queue_get)(aioloop_queue *queue) {
    int err = queue == NULL ? AIOLOOP_EINVAL : aiol_sync_check(queue->resource.loop);
    aioloop *loop;
    aiol_waiter *w;
    if (err < 0)
        return aiol_future_failed(err);
    loop = queue->resource.loop;
    if (queue->is_shutdown && queue->shelf.count == 0)
        return aiol_combine_failed(loop, aiol_fail(loop, AIOLOOP_EQUEUESHUTDOWN, NULL));
    w = aiol_line_join(loop, &queue->getters, queue);
    if (w == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    aiol_queue_serve(queue);
    return &w->future;
}

AIOLOOP_API int aioloop_queue_get_nowait(aioloop_queue *queue, void *out) {
    int err = queue == NULL || out == NULL ? AIOLOOP_EINVAL : aiol_sync_check(queue->resource.loop);
    aiol_item item;
    if (err < 0)
        return err;
    if (queue->shelf.count == 0)
        return queue->is_shutdown ? AIOLOOP_EQUEUESHUTDOWN : AIOLOOP_EQUEUEEMPTY;
    item = aiol_items_take(queue);
    aiol_queue_serve(queue);
    aiol_store_pointer(out, item.pointer);
    return 0;
}

/* ---- the rest ---- */

AIOLOOP_API int aioloop_queue_task_done(aioloop_queue *queue) {
    aiol_link joiners;
    int err = queue == NULL ? AIOLOOP_EINVAL : aiol_sync_check_thread(queue->resource.loop);
    if (err < 0)
        return err;
    if (queue->unfinished == 0)
        return aiol_fail(queue->resource.loop, AIOLOOP_EINVAL, "task_done was called too often");
    aiol_queue_count_done(queue, 1, &joiners);
    aiol_line_end(&joiners, 0);
    return 0;
}

AIOLOOP_API aioloop_future *(aioloop_queue_join)(aioloop_queue *queue) {
    int err = queue == NULL ? AIOLOOP_EINVAL : aiol_sync_check(queue->resource.loop);
    aiol_waiter *w;
    if (err < 0)
        return aiol_future_failed(err);
    if (queue->unfinished == 0)
        return aiol_future_nothing(queue->resource.loop);
    w = aiol_line_join(queue->resource.loop, &queue->joiners, queue);
    return w == NULL ? aiol_future_failed(AIOLOOP_ENOMEM) : &w->future;
}

/* First all that is the queue's; then what may run user code, which may free it. */
AIOLOOP_API int aioloop_queue_shutdown(aioloop_queue *queue, bool immediate) {
    aiol_link getters, putters, joiners;
    aiol_shelf shelf;
    aioloop *loop;
    aiol_link *link;
    int err = queue == NULL ? AIOLOOP_EINVAL : aiol_sync_check_thread(queue->resource.loop);
    if (err < 0)
        return err;
    loop = queue->resource.loop;
    memset(&shelf, 0, sizeof(shelf));
    queue->is_shutdown = true;
    if (immediate) {
        queue->drops = true;
        shelf = aiol_items_detach(queue);
    }
    aiol_queue_count_done(queue, shelf.count, &joiners);
    aiol_list_init(&getters);
    aiol_list_init(&putters);
    if (!loop->closed) {
        aiol_line_detach(&getters, &queue->getters);
        for (link = queue->putters.next; link != &queue->putters; link = link->next)
            queue->promised--;
        aiol_line_detach(&putters, &queue->putters);
    }
    aiol_line_end(&joiners, 0);
    aiol_line_end(&getters, AIOLOOP_EQUEUESHUTDOWN);
    aiol_line_end(&putters, AIOLOOP_EQUEUESHUTDOWN);
    aiol_shelf_end(loop, &shelf);
    return 0;
}

AIOLOOP_API size_t aioloop_queue_qsize(const aioloop_queue *queue) {
    return queue == NULL ? 0 : queue->shelf.count;
}

AIOLOOP_API int64_t aioloop_queue_maxsize(const aioloop_queue *queue) {
    return queue == NULL ? 0 : queue->maxsize;
}

AIOLOOP_API bool aioloop_queue_empty(const aioloop_queue *queue) {
    return queue == NULL || queue->shelf.count == 0;
}

AIOLOOP_API bool aioloop_queue_full(const aioloop_queue *queue) {
    return queue != NULL && aiol_queue_is_full(queue);
}

#endif

/* >> src/high/streams.c */
/*
 * streams.c - connections for coroutines.                                                     (asyncio: streams.py)
 *
 * What was received lies in one block, from start to end. A read gives its beginning away without a copy, and goes on
 * owning its future: only when the next read begins is it known whether anybody looked at the result, and thus whether
 * the bytes are used up. Until then they do not move: what arrives meanwhile and finds no room goes, with all of it,
 * into a new block, and the old one is held for the reader.
 *
 * A stream goes when it has no owner and its connection is lost; with the loop it goes as a resource.
 */
#ifndef AIOL_HIGH_STREAMS_C
#define AIOL_HIGH_STREAMS_C

#define AIOL_STREAM_LIMIT 65536u
#define AIOL_STREAM_ROOM 256u  /* the first block */
#define AIOL_STREAM_KEPT 4096u /* an empty block up to this size is kept */
#define AIOL_STREAM_SEPARATOR 16u

typedef enum aiol_streams_kind {
    AIOL_STREAMS_SOME,
    AIOL_STREAMS_ALL,
    AIOL_STREAMS_EXACTLY,
    AIOL_STREAMS_UNTIL
} aiol_streams_kind;

/* What a read is for. */
typedef struct aiol_streams_want {
    aiol_streams_kind kind;
    bool line;                     /* UNTIL: aioloop_stream_readline's */
    size_t size;                   /* SOME, EXACTLY: bytes */
    const aioloop_buf *separators; /* UNTIL */
    size_t count;
    size_t searched; /* UNTIL: none begins before this */
} aiol_streams_want;

/* A drain or wait_closed that waits. */
typedef struct aiol_streams_waiter {
    aiol_link link;
    aioloop_stream *stream;
    aioloop_future *future;
    aioloop_handle later; /* a drain that is decided in the next iteration */
} aiol_streams_waiter;

struct aioloop_stream {
    aiol_resource resource;
    aioloop_transport *transport; /* a reference; NULL: it is fed by hand */
    char *buffer;
    size_t capacity; /* more than end: there is room for a zero */
    size_t start;
    size_t end;
    size_t limit;

    aioloop_future *given; /* the last read that was given bytes; held until the next one */
    const char *given_data;
    size_t given_size;
    char *held; /* the block that they are in, if that is not the buffer any more */
    size_t held_capacity;
    char covered; /* the byte in whose place the zero behind them stands */

    bool connected; /* connection_lost is still to come */
    bool eof;
    bool reading_paused;
    bool writing_paused;
    int lost; /* what the connection was lost with, once it is not connected */
    int code; /* what reads fail with; 0: nothing */
    struct aioloop_error *error; /* its message, or NULL */

    aioloop_future *reading; /* the read that waits; held */
    aiol_streams_want want;
    void *separators; /* those of want, in a block of this size; */
    size_t separators_size;
    aioloop_buf separator; /* or a single short one, */
    char separator_bytes[AIOL_STREAM_SEPARATOR]; /* here */
    size_t consumed; /* of the last overrun */

    aiol_link drains;
    aiol_link closers;
    aioloop_future *opening;    /* aioloop_open_connection's; held */
    aioloop_future *connecting; /* aioloop_create_connection's; held */
};

static void aiol_streams_settle(aioloop_stream *s);
static void aiol_streams_end_read(aioloop_stream *s);

/* ---- life ---- */

static void aiol_streams_free_waiters(aioloop_stream *s, aiol_link *list) {
    while (!aiol_list_empty(list)) {
        aiol_streams_waiter *w = AIOL_CONTAINER(list->next, aiol_streams_waiter, link);
        aiol_list_remove(&w->link);
        aiol_free(&s->resource.loop->allocator, w, sizeof(*w));
    }
}

static void aiol_streams_destroy(aiol_resource *resource) {
    aioloop_stream *s = AIOL_CONTAINER(resource, aioloop_stream, resource);
    const aioloop_allocator *a = &resource->loop->allocator;
    aiol_resource_remove(resource);
    aiol_streams_free_waiters(s, &s->drains);
    aiol_streams_free_waiters(s, &s->closers);
    aiol_error_free(a, s->error);
    aiol_free(a, s->separators, s->separators_size);
    aiol_free(a, s->held, s->held_capacity);
    aiol_free(a, s->buffer, s->capacity);
    aiol_free(a, s, sizeof(*s));
}

static void aiol_streams_loop_closed(aiol_resource *resource) {
    (void)resource; /* its transport ends; what waits stays pending */
}

static bool aiol_streams_is_open(const aiol_resource *resource) {
    (void)resource; /* the transport says it */
    return false;
}

static const aiol_resource_calls aiol_streams_resource = {"stream", aiol_streams_loop_closed, aiol_streams_destroy,
                                                          aiol_streams_is_open};

/* With one reference; NULL, and the message stored, when there is no memory. */
static aioloop_stream *aiol_streams_make(aioloop *loop, size_t limit) {
    aioloop_stream *s = (aioloop_stream *)aiol_alloc_zero(&loop->allocator, sizeof(*s));
    if (s == NULL) {
        aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    s->limit = limit;
    s->resource.refs = 1;
    aiol_list_init(&s->drains);
    aiol_list_init(&s->closers);
    aiol_resource_add(loop, &s->resource, &aiol_streams_resource);
    return s;
}

/* The limit that an option means, or the error. Twice as much has to fit into a size. */
static int aiol_streams_limit(aioloop *loop, int64_t option, size_t *limit) {
    if (option < 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "the limit of a stream must be positive");
    *limit = option == 0 ? AIOL_STREAM_LIMIT : (uint64_t)option > SIZE_MAX / 4 ? SIZE_MAX / 4 : (size_t)option;
    return 0;
}

AIOLOOP_API aioloop_stream *(aioloop_stream_new)(aioloop *loop, int64_t limit) {
    size_t size = 0;
    if (loop == NULL || loop->closed) {
        aiol_fail(loop, loop == NULL ? AIOLOOP_EINVAL : AIOLOOP_ECLOSED, NULL);
        return NULL;
    }
    return aiol_streams_limit(loop, limit, &size) < 0 ? NULL : aiol_streams_make(loop, size);
}

AIOLOOP_API aioloop_stream *aioloop_stream_ref(aioloop_stream *stream) {
    if (stream != NULL)
        stream->resource.refs++;
    return stream;
}

/* Nobody needs it any more, neither an owner nor the connection. */
static void aiol_streams_drop(aioloop_stream *s) {
    aioloop_transport *transport = s->transport;
    aiol_streams_destroy(&s->resource);
    aioloop_transport_unref(transport);
}

AIOLOOP_API void aioloop_stream_unref(aioloop_stream *stream) {
    if (stream == NULL)
        return;
    AIOL_ASSERT(stream->resource.refs != 0);
    if (--stream->resource.refs != 0 || stream->resource.loop->freeing)
        return;
    if (stream->reading != NULL) {
        aioloop_future_set_cancelled(stream->reading);
        aiol_streams_end_read(stream);
    }
    aiol_streams_settle(stream);
    aioloop_transport_close(stream->transport);
    if (!stream->connected)
        aiol_streams_drop(stream);
}

/* As a future's dispose. */
static void aiol_streams_dispose(void *pointer) {
    aioloop_stream_unref((aioloop_stream *)pointer);
}

/* ---- futures ---- */

static bool aiol_streams_is_static(const aioloop_future *f) {
    return aioloop_future_get_loop(f) == NULL;
}

static void aiol_streams_fail(aioloop_future *f, int code, const char *text) {
    if (text == NULL)
        aioloop_future_set_exception(f, code, NULL);
    else
        aioloop_future_set_exception(f, code, "%s", text);
}

/* One that is done: with the number 0, or a code. */
static aioloop_future *aiol_streams_done(aioloop *loop, int code, const char *text) {
    aioloop_future *f = (aioloop_create_operation)(loop, NULL, NULL);
    if (aiol_streams_is_static(f))
        return f;
    if (code < 0)
        aiol_streams_fail(f, code, text);
    else
        aioloop_future_set_result(f, 0, NULL, NULL);
    aiol_future_release(f);
    return f;
}

/* A call that is refused. */
static aioloop_future *aiol_streams_refuse(aioloop *loop, int code, const char *text) {
    return aiol_future_failed(aiol_fail(loop, code, "%s", text));
}

/* With the error that reads fail with. */
static aioloop_future *aiol_streams_broken(const aioloop_stream *s) {
    return aiol_streams_done(s->resource.loop, s->code, s->error == NULL ? NULL : aioloop_error_message(s->error));
}

/* ---- the buffer ---- */

/* What was received and not given to anybody. */
static size_t aiol_streams_size(const aioloop_stream *s) {
    return s->end - s->start - s->given_size;
}

/* Makes room for size more bytes and a zero. Bytes that somebody has do not move. 0 or AIOLOOP_ENOMEM. */
static int aiol_streams_reserve(aioloop_stream *s, size_t size) {
    const aioloop_allocator *a = &s->resource.loop->allocator;
    size_t live = s->end - s->start;
    bool lent = s->given != NULL && s->held == NULL;
    size_t capacity;
    char *block;
    if (size < s->capacity - s->end)
        return 0;
    if (!lent && s->start >= live && size < s->capacity - live) {
        memcpy(s->buffer, s->buffer + s->start, live);
        s->start = 0;
        s->end = live;
        return 0;
    }
    if (size > SIZE_MAX / 2 - live)
        return AIOLOOP_ENOMEM;
    capacity = live + size + 1;
    if (capacity < live + live / 2)
        capacity = live + live / 2;
    if (capacity < AIOL_STREAM_ROOM)
        capacity = AIOL_STREAM_ROOM;
    block = (char *)aiol_alloc(a, capacity);
    if (block == NULL)
        return AIOLOOP_ENOMEM;
    if (live != 0)
        memcpy(block, s->buffer + s->start, live);
    if (lent) {
        block[s->given_size] = s->covered;
        s->held = s->buffer;
        s->held_capacity = s->capacity;
    } else {
        aiol_free(a, s->buffer, s->capacity);
    }
    s->buffer = block;
    s->capacity = capacity;
    s->start = 0;
    s->end = live;
    return 0;
}

static int aiol_streams_append(aioloop_stream *s, const void *data, size_t size) {
    int err = aiol_streams_reserve(s, size);
    size_t at = s->end;
    if (err < 0)
        return err;
    memcpy(s->buffer + at, data, size);
    s->end += size;
    if (s->given != NULL && s->held == NULL && s->start + s->given_size == at) {
        s->covered = s->buffer[at];
        s->buffer[at] = '\0';
    }
    return 0;
}

/* Gives the first size bytes, at least one, to the read that f is of. f is done after this, or was before. */
static void aiol_streams_give(aioloop_stream *s, aioloop_future *f, size_t size) {
    size_t behind = s->start + size;
    s->given = f;
    s->given_data = s->buffer + s->start;
    s->given_size = size;
    s->covered = behind == s->end ? '\0' : s->buffer[behind];
    s->buffer[behind] = '\0';
}

/* Whether whoever made the last read has had its outcome. */
static bool aiol_streams_taken(const aioloop_future *f) {
    return (f->flags & (f->state == AIOL_FUTURE_FINISHED ? AIOL_FUTURE_TAKEN : AIOL_FUTURE_LOOKED_AT)) != 0;
}

/* The last read is over: what it gave is used up, or is still there if nobody looked at it. */
static void aiol_streams_settle(aioloop_stream *s) {
    const aioloop_allocator *a = &s->resource.loop->allocator;
    aioloop_future *f = s->given;
    if (f == NULL)
        return;
    if (s->held == NULL)
        s->buffer[s->start + s->given_size] = s->covered;
    aiol_free(a, s->held, s->held_capacity);
    s->held = NULL;
    if (aiol_streams_taken(f))
        s->start += s->given_size;
    s->given = NULL;
    s->given_size = 0;
    if (s->start == s->end) {
        s->start = 0;
        s->end = 0;
        if (s->capacity > AIOL_STREAM_KEPT) {
            aiol_free(a, s->buffer, s->capacity);
            s->buffer = NULL;
            s->capacity = 0;
        }
    }
    if (f->refs == 1)
        (void)aioloop_future_exception(f); /* it was let go of, and nothing is lost: no reason to report it */
    aiol_future_release(f);
}

/* Too much waits to be read: the transport pauses, until it is less or a read needs more. */
static void aiol_streams_flow(aioloop_stream *s) {
    size_t size = aiol_streams_size(s);
    if (s->transport == NULL)
        return;
    if (s->reading_paused && (s->reading != NULL || size <= s->limit)) {
        s->reading_paused = false;
        aioloop_transport_resume_reading(s->transport);
    } else if (!s->reading_paused && s->reading == NULL && size > 2 * s->limit) {
        s->reading_paused = true;
        aioloop_transport_pause_reading(s->transport);
    }
}

/* ---- searching ---- */

#define AIOL_STREAMS_NOWHERE SIZE_MAX

/* Where a separator begins, not before from. */
static size_t aiol_streams_find(const char *data, size_t size, size_t from, const aioloop_buf *separator) {
    const char *bytes = (const char *)separator->data;
    while (from < size && separator->size <= size - from) {
        const char *at = (const char *)memchr(data + from, bytes[0], size - from - separator->size + 1);
        if (at == NULL)
            break;
        from = (size_t)(at - data);
        if (memcmp(at, bytes, separator->size) == 0)
            return from;
        from++;
    }
    return AIOL_STREAMS_NOWHERE;
}

/* Looks for the separator that ends first. 1: *size bytes up to its end. 0: there may be one when more has come. An
 * error: of the *size bytes a line that is too long consists of, 0 if they are kept. */
static int aiol_streams_search(aioloop_stream *s, aiol_streams_want *w, size_t *size) {
    size_t there = s->end - s->start;
    const char *data = there == 0 ? NULL : s->buffer + s->start;
    size_t best = AIOL_STREAMS_NOWHERE;
    size_t end = there;
    size_t longest = 1;
    size_t i;
    for (i = 0; i < w->count && there != 0; i++) {
        const aioloop_buf *separator = &w->separators[i];
        size_t at = aiol_streams_find(data, end, w->searched, separator);
        if (separator->size > longest)
            longest = separator->size;
        if (at != AIOL_STREAMS_NOWHERE && (best == AIOL_STREAMS_NOWHERE || at + separator->size < end || at > best)) {
            best = at;
            end = at + separator->size;
        }
    }
    if (best != AIOL_STREAMS_NOWHERE && best <= s->limit) {
        *size = end;
        return 1;
    }
    if (best == AIOL_STREAMS_NOWHERE) {
        w->searched = there < longest ? 0 : there + 1 - longest;
        if (w->searched <= s->limit)
            return 0;
        end = there;
    }
    s->consumed = best != AIOL_STREAMS_NOWHERE ? best : w->searched;
    *size = w->line ? end : 0;
    return w->line ? (int)AIOLOOP_EINVAL : (int)AIOLOOP_EOVERRUN;
}

/* What a read can have now. 1: *size bytes. 0: it has to wait. An error: *size bytes are used up by it. */
static int aiol_streams_look(aioloop_stream *s, aiol_streams_want *w, size_t *size) {
    size_t there = s->end - s->start;
    int found = 0;
    *size = there;
    switch (w->kind) {
    case AIOL_STREAMS_SOME:
        *size = aiol_min_size(there, w->size);
        return *size != 0 || s->eof || w->size == 0;
    case AIOL_STREAMS_ALL:
        return s->eof;
    case AIOL_STREAMS_EXACTLY:
        if (there >= w->size) {
            *size = w->size;
            return 1;
        }
        break;
    case AIOL_STREAMS_UNTIL:
        found = aiol_streams_search(s, w, size);
        if (found == 0 && s->eof && w->line)
            return 1;
        break;
    }
    return found == 0 && s->eof ? (int)AIOLOOP_EINCOMPLETE : found;
}

/* ---- reading ---- */

/* The dispose of what a read gives: nothing, since settle looks whether it was taken; but with one, whatever hands the
 * result on (aioloop_wait_for and its kin) tells when it was. */
static void aiol_streams_untaken(void *pointer) {
    (void)pointer;
}

static char aiol_streams_no_bytes[1];

/* Completes a read; found as aiol_streams_look says. */
static void aiol_streams_complete(aioloop_stream *s, aioloop_future *f, int found, size_t size) {
    if (size != 0)
        aiol_streams_give(s, f, size);
    if (found == 1 && size != 0)
        aioloop_future_set_grant(f, (int64_t)size, s->buffer + s->start, aiol_streams_untaken);
    else if (found == 1)
        aioloop_future_set_result(f, 0, aiol_streams_no_bytes, NULL);
    else if (found == AIOLOOP_EINCOMPLETE)
        aioloop_future_set_exception(f, found, "the stream ended after %zu bytes", size);
    else
        aioloop_future_set_exception(f, found, "the separator was not found within the limit of %zu bytes", s->limit);
    if (size == 0)
        aiol_future_release(f);
}

/* The read that waits does so no more; its future is settled by the caller, or will be. */
static void aiol_streams_end_read(aioloop_stream *s) {
    aioloop_future *f = s->reading;
    s->reading = NULL;
    aiol_free(&s->resource.loop->allocator, s->separators, s->separators_size);
    s->separators = NULL;
    aiol_future_release(f);
}

/* Something has come: the read that waits may have it. */
static void aiol_streams_progress(aioloop_stream *s) {
    aioloop_future *f = s->reading;
    size_t size = 0;
    int found = f == NULL ? 0 : aiol_streams_look(s, &s->want, &size);
    if (found == 0) {
        aiol_streams_flow(s);
        return;
    }
    aiol_future_hold(f); /* once for complete, */
    aiol_future_hold(f); /* and once more: letting go of a failure that nobody waits for may report it, to user code */
    aiol_streams_end_read(s);
    aiol_streams_complete(s, f, found, size);
    aiol_streams_flow(s);
    aiol_future_release(f);
}

static bool aiol_streams_read_cancelled(aioloop_future *future, void *owner) {
    (void)future;
    aiol_streams_end_read((aioloop_stream *)owner);
    return true;
}

/* Copies the separators that want points to: the read has to wait. 0 or AIOLOOP_ENOMEM. */
static int aiol_streams_keep_separators(aioloop_stream *s, const aiol_streams_want *want) {
    aioloop_buf *list = &s->separator;
    char *bytes = s->separator_bytes;
    size_t size = want->count * sizeof(*list);
    size_t i;
    for (i = 0; i < want->count; i++)
        size += want->separators[i].size;
    if (want->count > 1 || size - sizeof(*list) > AIOL_STREAM_SEPARATOR) {
        list = (aioloop_buf *)aiol_alloc(&s->resource.loop->allocator, size);
        if (list == NULL)
            return AIOLOOP_ENOMEM;
        s->separators = list;
        s->separators_size = size;
        bytes = (char *)(list + want->count);
    }
    for (i = 0; i < want->count; i++) {
        size = want->separators[i].size;
        memcpy(bytes, want->separators[i].data, size);
        list[i].data = bytes;
        list[i].size = size;
        bytes += size;
    }
    s->want.separators = list;
    return 0;
}

/* The read has to wait, if there is the memory to remember what for. */
static void aiol_streams_wait(aioloop_stream *s, aioloop_future *f, const aiol_streams_want *want) {
    s->want = *want;
    if (want->kind == AIOL_STREAMS_UNTIL && aiol_streams_keep_separators(s, want) < 0) {
        aioloop_future_set_exception(f, AIOLOOP_ENOMEM, NULL);
        aiol_future_release(f);
        return;
    }
    s->reading = f;
}

static aioloop_future *aiol_streams_read(aioloop_stream *s, aiol_streams_want *want) {
    aioloop *loop = s->resource.loop;
    aioloop_future *f;
    size_t size = 0;
    int found;
    if (loop->closed)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ECLOSED, NULL));
    if (s->code != 0)
        return aiol_streams_broken(s);
    if (s->reading != NULL)
        return aiol_streams_refuse(loop, AIOLOOP_EMISUSE, "another read of this stream waits");
    if (s->given != NULL && !aiol_streams_taken(s->given) && s->given->refs > 1)
        return aiol_streams_refuse(loop, AIOLOOP_EMISUSE, "nobody has looked at what the last read gave");
    f = (aioloop_create_operation)(loop, aiol_streams_read_cancelled, s);
    if (aiol_streams_is_static(f))
        return f;
    aiol_streams_settle(s);
    found = aiol_streams_look(s, want, &size);
    if (found != 0)
        aiol_streams_complete(s, f, found, size);
    else
        aiol_streams_wait(s, f, want);
    aiol_streams_flow(s);
    return f;
}

AIOLOOP_API aioloop_future *(aioloop_stream_read)(aioloop_stream *stream, int64_t n) {
    aiol_streams_want want;
    if (stream == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    memset(&want, 0, sizeof(want));
    want.kind = n < 0 ? AIOL_STREAMS_ALL : AIOL_STREAMS_SOME;
    want.size = n < 0 ? 0 : (uint64_t)n > SIZE_MAX ? SIZE_MAX : (size_t)n;
    return aiol_streams_read(stream, &want);
}

AIOLOOP_API aioloop_future *(aioloop_stream_readexactly)(aioloop_stream *stream, int64_t n) {
    aiol_streams_want want;
    if (stream == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    if (n < 0)
        return aiol_streams_refuse(stream->resource.loop, AIOLOOP_EINVAL, "a number of bytes must not be negative");
    memset(&want, 0, sizeof(want));
    want.kind = AIOL_STREAMS_EXACTLY;
    want.size = (uint64_t)n > SIZE_MAX ? SIZE_MAX : (size_t)n;
    return aiol_streams_read(stream, &want);
}

AIOLOOP_API aioloop_future *(aioloop_stream_readline)(aioloop_stream *stream) {
    static const aioloop_buf newline = {"\n", 1};
    aiol_streams_want want;
    if (stream == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    memset(&want, 0, sizeof(want));
    want.kind = AIOL_STREAMS_UNTIL;
    want.line = true;
    want.separators = &newline;
    want.count = 1;
    return aiol_streams_read(stream, &want);
}

AIOLOOP_API aioloop_future *(aioloop_stream_readuntil_any)(aioloop_stream *stream, const aioloop_buf *separators,
                                                           size_t count) {
    aiol_streams_want want;
    size_t i;
    if (stream == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    if (separators == NULL || count == 0)
        return aiol_streams_refuse(stream->resource.loop, AIOLOOP_EINVAL, "a separator is needed");
    for (i = 0; i < count; i++)
        if (separators[i].data == NULL || separators[i].size == 0)
            return aiol_streams_refuse(stream->resource.loop, AIOLOOP_EINVAL, "a separator must not be empty");
    memset(&want, 0, sizeof(want));
    want.kind = AIOL_STREAMS_UNTIL;
    want.separators = separators;
    want.count = count;
    return aiol_streams_read(stream, &want);
}

AIOLOOP_API aioloop_future *(aioloop_stream_readuntil)(aioloop_stream *stream, const void *separator, size_t size) {
    aioloop_buf one;
    one.data = separator;
    one.size = size;
    return (aioloop_stream_readuntil_any)(stream, &one, 1);
}

AIOLOOP_API size_t aioloop_stream_partial(const aioloop_stream *stream, const char **data) {
    bool is = stream != NULL && stream->given != NULL && stream->given->code == AIOLOOP_EINCOMPLETE;
    if (data != NULL)
        *data = is ? stream->given_data : aiol_streams_no_bytes;
    return is ? stream->given_size : 0;
}

AIOLOOP_API size_t aioloop_stream_consumed(const aioloop_stream *stream) {
    return stream == NULL ? 0 : stream->consumed;
}

AIOLOOP_API bool aioloop_stream_at_eof(const aioloop_stream *stream) {
    bool unread = stream != NULL && stream->given != NULL && !aiol_streams_taken(stream->given); /* it has them back then */
    return stream == NULL || (stream->eof && !unread && aiol_streams_size(stream) == 0);
}

AIOLOOP_API int aioloop_stream_exception(const aioloop_stream *stream) {
    return stream == NULL ? (int)AIOLOOP_EINVAL : stream->code;
}

/* ---- feeding ---- */

AIOLOOP_API int aioloop_stream_feed_data(aioloop_stream *stream, const void *data, size_t size) {
    int err;
    if (stream == NULL || (data == NULL && size != 0))
        return AIOLOOP_EINVAL;
    if (stream->resource.loop->closed)
        return AIOLOOP_ECLOSED;
    if (stream->eof)
        return aiol_fail(stream->resource.loop, AIOLOOP_EMISUSE, "data behind the end of the stream");
    if (size == 0)
        return 0;
    err = aiol_streams_append(stream, data, size);
    if (err < 0)
        return aiol_fail(stream->resource.loop, err, NULL);
    aiol_streams_progress(stream);
    return 0;
}

AIOLOOP_API int aioloop_stream_feed_eof(aioloop_stream *stream) {
    if (stream == NULL)
        return AIOLOOP_EINVAL;
    if (stream->resource.loop->closed)
        return AIOLOOP_ECLOSED;
    stream->eof = true;
    aiol_streams_progress(stream);
    return 0;
}

AIOLOOP_API int aioloop_stream_set_exception(aioloop_stream *stream, int code, const char *message) {
    const aioloop_allocator *a;
    if (stream == NULL || code >= 0 || code == AIOLOOP_ECANCELED)
        return AIOLOOP_EINVAL;
    if (stream->resource.loop->closed)
        return AIOLOOP_ECLOSED;
    a = &stream->resource.loop->allocator;
    aiol_error_free(a, stream->error);
    stream->code = code;
    stream->error = message == NULL ? NULL : aiol_error_new(a, code, message, 0);
    if (stream->reading != NULL) {
        aiol_streams_fail(stream->reading, code, message);
        aiol_streams_end_read(stream);
    }
    return 0;
}

/* ---- writing ---- */

AIOLOOP_API int aioloop_stream_write(aioloop_stream *stream, const void *data, size_t size) {
    if (stream == NULL)
        return AIOLOOP_EINVAL;
    if (stream->transport == NULL)
        return aiol_fail(stream->resource.loop, AIOLOOP_EMISUSE, "the stream has no connection");
    return aioloop_transport_write(stream->transport, data, size);
}

AIOLOOP_API int aioloop_stream_writelines(aioloop_stream *stream, const aioloop_buf *pieces, size_t count) {
    if (stream == NULL)
        return AIOLOOP_EINVAL;
    if (stream->transport == NULL)
        return aiol_fail(stream->resource.loop, AIOLOOP_EMISUSE, "the stream has no connection");
    return aioloop_transport_writelines(stream->transport, pieces, count);
}

AIOLOOP_API int aioloop_stream_write_eof(aioloop_stream *stream) {
    if (stream == NULL)
        return AIOLOOP_EINVAL;
    if (stream->transport == NULL)
        return aiol_fail(stream->resource.loop, AIOLOOP_EMISUSE, "the stream has no connection");
    return aioloop_transport_write_eof(stream->transport);
}

AIOLOOP_API bool aioloop_stream_can_write_eof(const aioloop_stream *stream) {
    return stream != NULL && aioloop_transport_can_write_eof(stream->transport);
}

AIOLOOP_API void aioloop_stream_close(aioloop_stream *stream) {
    if (stream != NULL)
        aioloop_transport_close(stream->transport);
}

AIOLOOP_API bool aioloop_stream_is_closing(const aioloop_stream *stream) {
    return stream == NULL || aioloop_transport_is_closing(stream->transport);
}

AIOLOOP_API const void *aioloop_stream_get_extra_info(const aioloop_stream *stream, const char *name,
                                                      const void *fallback) {
    return stream == NULL ? fallback : aioloop_transport_get_extra_info(stream->transport, name, fallback);
}

AIOLOOP_API aioloop_transport *aioloop_stream_get_transport(const aioloop_stream *stream) {
    return stream == NULL ? NULL : stream->transport;
}

/* ---- waiting for the connection ---- */

static void aiol_streams_waiter_free(aiol_streams_waiter *w) {
    aioloop_future *f = w->future;
    aiol_list_remove(&w->link);
    aiol_free(&f->loop->allocator, w, sizeof(*w));
    aiol_future_release(f);
}

static void aiol_streams_wake(aiol_streams_waiter *w, int code) {
    if (code < 0)
        aioloop_future_set_exception(w->future, code, NULL);
    else
        aioloop_future_set_result(w->future, 0, NULL, NULL);
}

/* Completes what waits; later: what becomes of those that were to be decided later, 0: they still are. */
static void aiol_streams_wake_all(aiol_link *list, int code, int later) {
    aiol_link woken;
    aiol_link *link;
    aiol_link *next;
    aiol_list_init(&woken);
    for (link = list->next; link != list; link = next) {
        aiol_streams_waiter *w = AIOL_CONTAINER(link, aiol_streams_waiter, link);
        next = link->next;
        if (aioloop_handle_is_null(&w->later)) {
            aiol_streams_wake(w, code);
        } else if (later != 0) {
            aioloop_handle_cancel(&w->later);
            aiol_streams_wake(w, later);
        } else {
            continue;
        }
        aiol_list_remove(link);
        aiol_list_append(&woken, link);
    }
    while (!aiol_list_empty(&woken)) /* letting go of a failure that nobody waits for may report it, to user code */
        aiol_streams_waiter_free(AIOL_CONTAINER(woken.next, aiol_streams_waiter, link));
}

static bool aiol_streams_wait_cancelled(aioloop_future *future, void *owner) {
    aiol_streams_waiter *w = (aiol_streams_waiter *)owner;
    (void)future;
    aioloop_handle_cancel(&w->later);
    aiol_streams_waiter_free(w);
    return true;
}

/* NULL when there is no memory. */
static aiol_streams_waiter *aiol_streams_waiter_new(aioloop_stream *s, aiol_link *list) {
    const aioloop_allocator *a = &s->resource.loop->allocator;
    aiol_streams_waiter *w = (aiol_streams_waiter *)aiol_alloc_zero(a, sizeof(*w));
    if (w == NULL)
        return NULL;
    w->stream = s;
    w->future = (aioloop_create_operation)(s->resource.loop, aiol_streams_wait_cancelled, w);
    if (aiol_streams_is_static(w->future)) {
        aiol_free(a, w, sizeof(*w));
        return NULL;
    }
    aiol_list_append(list, &w->link);
    return w;
}

/* The loop had its turn since the drain: the loss of a connection that was closing may have been told. */
static void aiol_streams_drain_later(aioloop *loop, void *arg) {
    aiol_streams_waiter *w = (aiol_streams_waiter *)arg;
    (void)loop;
    memset(&w->later, 0, sizeof(w->later));
    if (w->stream->connected && w->stream->writing_paused)
        return;
    aiol_streams_wake(w, w->stream->connected ? 0 : (int)AIOLOOP_ECONNRESET);
    aiol_streams_waiter_free(w);
}

AIOLOOP_API aioloop_future *(aioloop_stream_drain)(aioloop_stream *stream) {
    aiol_streams_waiter *w;
    aioloop_future *f;
    aioloop *loop;
    bool closing;
    if (stream == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    loop = stream->resource.loop;
    if (loop->closed)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ECLOSED, NULL));
    if (stream->transport == NULL)
        return aiol_streams_refuse(loop, AIOLOOP_EMISUSE, "the stream has no connection");
    if (stream->code != 0)
        return aiol_streams_broken(stream);
    if (!stream->connected)
        return aiol_streams_done(loop, AIOLOOP_ECONNRESET, "the connection is closed");
    closing = aioloop_transport_is_closing(stream->transport);
    if (!closing && !stream->writing_paused)
        return aiol_future_nothing(loop);
    w = aiol_streams_waiter_new(stream, &stream->drains);
    if (w == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    f = w->future;
    if (!closing)
        return f;
    w->later = (aioloop_call_soon)(loop, aiol_streams_drain_later, w);
    if (aioloop_handle_is_null(&w->later)) {
        aiol_streams_wake(w, AIOLOOP_ENOMEM);
        aiol_streams_waiter_free(w);
    }
    return f;
}

AIOLOOP_API aioloop_future *(aioloop_stream_wait_closed)(aioloop_stream *stream) {
    aiol_streams_waiter *w;
    aioloop *loop;
    if (stream == NULL)
        return aiol_future_failed(AIOLOOP_EINVAL);
    loop = stream->resource.loop;
    if (loop->closed)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ECLOSED, NULL));
    if (stream->transport == NULL)
        return aiol_streams_refuse(loop, AIOLOOP_EMISUSE, "the stream has no connection");
    if (!stream->connected)
        return aiol_streams_done(loop, stream->lost, NULL);
    w = aiol_streams_waiter_new(stream, &stream->closers);
    return w == NULL ? aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL)) : w->future;
}

/* ---- the protocol ---- */

static void aiol_streams_made(aioloop_transport *transport, void *self) {
    aioloop_stream *s = (aioloop_stream *)self;
    s->transport = aioloop_transport_ref(transport);
    s->connected = true;
}

static void aiol_streams_received(aioloop_transport *transport, void *self, const void *data, size_t size) {
    aioloop_stream *s = (aioloop_stream *)self;
    (void)transport;
    if (aiol_streams_append(s, data, size) < 0)
        aioloop_raise(s->resource.loop, AIOLOOP_ENOMEM, NULL); /* which ends the connection */
    else
        aiol_streams_progress(s);
}

static bool aiol_streams_ended(aioloop_transport *transport, void *self) {
    (void)transport;
    aioloop_stream_feed_eof((aioloop_stream *)self);
    return true;
}

static void aiol_streams_lost(aioloop_transport *transport, void *self, int error) {
    aioloop_stream *s = (aioloop_stream *)self;
    (void)transport;
    aioloop_stream_ref(s); /* until everybody is told */
    s->connected = false;
    s->lost = error;
    if (error == 0)
        aioloop_stream_feed_eof(s);
    else
        aioloop_stream_set_exception(s, error, NULL);
    aiol_streams_wake_all(&s->drains, error, AIOLOOP_ECONNRESET);
    aiol_streams_wake_all(&s->closers, error, 0);
    aioloop_stream_unref(s);
}

static void aiol_streams_pause(aioloop_transport *transport, void *self) {
    (void)transport;
    ((aioloop_stream *)self)->writing_paused = true;
}

static void aiol_streams_resume(aioloop_transport *transport, void *self) {
    aioloop_stream *s = (aioloop_stream *)self;
    (void)transport;
    s->writing_paused = false;
    aiol_streams_wake_all(&s->drains, 0, 0);
}

static const aioloop_protocol aiol_streams_protocol = {0,
                                                       NULL,
                                                       aiol_streams_made,
                                                       aiol_streams_received,
                                                       aiol_streams_ended,
                                                       aiol_streams_lost,
                                                       aiol_streams_pause,
                                                       aiol_streams_resume,
                                                       NULL,
                                                       NULL};

/* ---- opening ---- */

/* The connection is made, or will not be. */
static void aiol_streams_opened(aioloop_future *connecting, void *arg) {
    aioloop_stream *s = (aioloop_stream *)arg;
    aioloop_future *f = s->opening;
    bool made = aioloop_future_exception(connecting) == 0;
    s->opening = NULL;
    s->connecting = NULL;
    if (made && !aioloop_future_done(f)) {
        aioloop_future_set_result(f, 0, s, aiol_streams_dispose);
    } else {
        if (!aioloop_future_done(f))
            aioloop_future_copy(f, connecting);
        aioloop_stream_unref(s); /* which closes it, if it was made */
    }
    aiol_future_release(f);
    aiol_future_release(connecting);
}

static bool aiol_streams_open_cancelled(aioloop_future *future, void *owner) {
    (void)future;
    aioloop_future_cancel(((aioloop_stream *)owner)->connecting, NULL); /* and opened gives everything back */
    return true;
}

/* The future that goes on where connecting ends. */
static aioloop_future *aiol_streams_open(aioloop_stream *s, aioloop_future *connecting) {
    aioloop *loop = s->resource.loop;
    aioloop_future *f;
    if (aioloop_future_done(connecting)) { /* a connection is never made at once */
        aioloop_stream_unref(s);
        return connecting;
    }
    f = (aioloop_create_operation)(loop, aiol_streams_open_cancelled, s);
    s->connecting = aioloop_future_ref(connecting);
    if (!aiol_streams_is_static(f)) {
        s->opening = f;
        f->site = connecting->site;
        if ((aioloop_future_add_done_callback)(connecting, aiol_streams_opened, s) == 0)
            return f;
        aiol_future_release(f);
        aioloop_future_unref(f);
    }
    aioloop_future_cancel(connecting, NULL);
    aiol_future_release(connecting);
    aioloop_stream_unref(s);
    return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
}

/* A stream for the call that opens one; or NULL, and *refused is what it returns. */
static aioloop_stream *aiol_streams_to_open(aioloop *loop, int64_t limit, aioloop_future **refused) {
    aioloop_stream *s;
    size_t size = 0;
    int err = loop == NULL ? (int)AIOLOOP_EINVAL : aiol_streams_limit(loop, limit, &size);
    if (err == 0 && loop->closed)
        err = aiol_fail(loop, AIOLOOP_ECLOSED, NULL);
    if (err < 0) {
        *refused = aiol_future_failed(err);
        return NULL;
    }
    s = aiol_streams_make(loop, size);
    if (s == NULL)
        *refused = aiol_future_failed(AIOLOOP_ENOMEM);
    return s;
}

AIOLOOP_API aioloop_future *(aioloop_open_connection)(aioloop *loop, const char *host, int port,
                                                      const aioloop_stream_options *options) {
    aioloop_future *refused = NULL;
    aioloop_stream *s = aiol_streams_to_open(loop, options == NULL ? 0 : options->limit, &refused);
    if (s == NULL)
        return refused;
    return aiol_streams_open(s, (aioloop_create_connection)(loop, &aiol_streams_protocol, s, host, port,
                                                            options == NULL ? NULL : &options->connection));
}

AIOLOOP_API aioloop_future *(aioloop_open_unix_connection)(aioloop *loop, const char *path,
                                                           const aioloop_unix_stream_options *options) {
    aioloop_future *refused = NULL;
    aioloop_stream *s = aiol_streams_to_open(loop, options == NULL ? 0 : options->limit, &refused);
    if (s == NULL)
        return refused;
    return aiol_streams_open(s, (aioloop_create_unix_connection)(loop, &aiol_streams_protocol, s, path,
                                                                 options == NULL ? NULL : &options->connection));
}

/* ---- serving ---- */

/* What a handler's task is given a copy of. */
typedef struct aiol_streams_call {
    aioloop_stream_frame frame;
    aioloop_stream_handler handler;
} aiol_streams_call;

/* What all connections of a server need: its protocol's arg. Goes when the server is closed and they are lost. */
typedef struct aiol_streams_server {
    aiol_resource resource;
    size_t limit;
    size_t stack_size;
    void *arg;
    aioloop_step step;
    aioloop_stream_callback callback;
    size_t call_size;
    aiol_streams_call call; /* or, with step, a frame of call_size bytes that begins here */
} aiol_streams_server;

/* Of the block. */
static size_t aiol_streams_server_size(size_t call_size) {
    size_t least = sizeof(aiol_streams_call);
    return offsetof(aiol_streams_server, call) + (call_size > least ? call_size : least);
}

static void aiol_streams_server_destroy(aiol_resource *resource) {
    aiol_streams_server *server = AIOL_CONTAINER(resource, aiol_streams_server, resource);
    aiol_resource_remove(resource);
    aiol_free(&server->resource.loop->allocator, server, aiol_streams_server_size(server->call_size));
}

static const aiol_resource_calls aiol_streams_server_resource = {"stream server", aiol_streams_loop_closed,
                                                                 aiol_streams_server_destroy, aiol_streams_is_open};

static void aiol_streams_report(aioloop_stream *s, int code, const char *detail, aioloop_task *task) {
    aioloop_exception_context context;
    memset(&context, 0, sizeof(context));
    context.message = "Unhandled error in the handler of a connection";
    context.detail = detail;
    context.future = task;
    context.task = task;
    context.transport = s->transport;
    aiol_report(s->resource.loop, code, 0, &context);
}

/* The dispose of a handler's argument or frame. */
static void aiol_streams_call_over(void *arg) {
    aioloop_stream_unref(((aioloop_stream_frame *)arg)->stream);
}

static int64_t aiol_streams_call_handler(aioloop *loop, void *arg, void **out) {
    aiol_streams_call *call = (aiol_streams_call *)arg;
    (void)out;
    return call->handler(loop, call->frame.stream, call->frame.arg);
}

/* A handler's task is done. */
static void aiol_streams_handled(aioloop_future *task, void *arg) {
    aioloop_stream *s = (aioloop_stream *)arg;
    int code = aioloop_future_exception(task);
    if (code < 0 && code != AIOLOOP_ECANCELED && code != AIOLOOP_EFATAL) /* which has ended the run already */
        aiol_streams_report(s, code, aioloop_error_message(aioloop_future_error(task)), task);
    if (code < 0)
        aioloop_stream_close(s);
    aioloop_stream_unref(s);
}

/* Runs the handler as a task, which has the reference of s. */
static void aiol_streams_spawn(aiol_streams_server *server, aioloop_stream *s) {
    aioloop *loop = s->resource.loop;
    aioloop_task_options options;
    aioloop_task *task;
    int err;
    memset(&options, 0, sizeof(options));
    options.stack_size = server->stack_size;
    options.copy_size = server->call_size;
    options.dispose = aiol_streams_call_over;
    server->call.frame.stream = s;
    server->call.frame.arg = server->arg;
    aioloop_stream_ref(s);
    if (server->step != NULL)
        task = (aioloop_create_task_frame)(loop, server->step, &server->call.frame.frame, &options);
    else
        task = (aioloop_create_task)(loop, aiol_streams_call_handler, &server->call, &options);
    err = (aioloop_future_add_done_callback)(task, aiol_streams_handled, s);
    if (err < 0) {
        aiol_streams_report(s, err, NULL, NULL);
        aioloop_future_cancel(task, NULL);
        aioloop_transport_abort(s->transport);
        aioloop_stream_unref(s);
    }
    aioloop_future_unref(task);
}

/* Calls a plain handler, and lets its reference go. */
static void aiol_streams_call_back(aiol_streams_server *server, aioloop_stream *s) {
    aioloop *loop = s->resource.loop;
    int raised;
    server->callback(loop, s, server->arg);
    raised = loop->raised;
    if (raised != 0) {
        loop->raised = 0;
        aiol_streams_report(s, raised, NULL, NULL);
        aioloop_stream_close(s);
    }
    aioloop_stream_unref(s);
}

/* connection_made of a server's connection: it gets a stream, which is its protocol from then on. */
static void aiol_streams_accepted(aioloop_transport *transport, void *self) {
    aiol_streams_server *server = (aiol_streams_server *)self;
    aioloop_stream *s = aiol_streams_make(server->resource.loop, server->limit);
    if (s == NULL) {
        aioloop_transport_abort(transport);
        aioloop_raise(server->resource.loop, AIOLOOP_ENOMEM, NULL);
        return;
    }
    aioloop_transport_set_protocol(transport, &aiol_streams_protocol, s);
    aiol_streams_made(transport, s);
    if (server->callback != NULL)
        aiol_streams_call_back(server, s);
    else
        aiol_streams_spawn(server, s);
}

static const aioloop_protocol aiol_streams_accept_protocol = {0,    NULL, aiol_streams_accepted, NULL, NULL, NULL,
                                                              NULL, NULL, NULL,                  NULL};

static void aiol_streams_server_over(aioloop_future *future, void *arg) {
    (void)aioloop_future_exception(future);
    aiol_streams_server_destroy(&((aiol_streams_server *)arg)->resource);
}

/* The server listens, or will not. What cannot be waited for, for want of memory, goes with the loop. */
static void aiol_streams_started(aioloop_future *starting, void *arg) {
    aiol_streams_server *server = (aiol_streams_server *)arg;
    aioloop_future *closed;
    if (starting->state == AIOL_FUTURE_FINISHED) { /* without taking the result: that is the caller's */
        closed = aioloop_server_wait_closed((aioloop_server *)starting->of.pointer);
        (void)(aioloop_future_then)(closed, aiol_streams_server_over, server);
    } else {
        aiol_streams_server_destroy(&server->resource);
    }
}

static aioloop_future *aiol_streams_start(aiol_streams_server *server, aioloop_future *starting) {
    if (aioloop_future_done(starting))
        aiol_streams_started(starting, server);
    else
        (void)(aioloop_future_add_done_callback)(starting, aiol_streams_started, server);
    return starting;
}

static int aiol_streams_server_check(aioloop *loop, aioloop_stream_handler handler,
                                     const aioloop_stream_server_options *o) {
    if (loop->closed)
        return aiol_fail(loop, AIOLOOP_ECLOSED, NULL);
    if ((handler != NULL) + (o->step != NULL) + (o->callback != NULL) != 1)
        return aiol_fail(loop, AIOLOOP_EINVAL, "one of handler, step and callback is needed");
    if (o->step != NULL && (o->frame_size < sizeof(aioloop_stream_frame) || o->frame_size > UINT32_MAX / 2))
        return aiol_fail(loop, AIOLOOP_EINVAL, "a handler's frame begins with an aioloop_stream_frame");
    if (o->step == NULL && o->frame_size != 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "frame_size without step");
#if !AIOLOOP_USE_COROUTINES
    if (handler != NULL)
        return aiol_fail(loop, AIOLOOP_ENOTAVAILABLE, "built with AIOLOOP_USE_COROUTINES 0");
#endif
    return 0;
}

/* NULL, and *refused is what the call returns. */
static aiol_streams_server *aiol_streams_server_new(aioloop *loop, aioloop_stream_handler handler, void *arg,
                                                    const aioloop_stream_server_options *o, aioloop_future **refused) {
    aiol_streams_server *server = NULL;
    size_t call_size = o->step != NULL ? o->frame_size : sizeof(aiol_streams_call);
    size_t limit = 0;
    int err = loop == NULL ? (int)AIOLOOP_EINVAL : aiol_streams_server_check(loop, handler, o);
    if (err == 0)
        err = aiol_streams_limit(loop, o->limit, &limit);
    if (err == 0) {
        server = (aiol_streams_server *)aiol_alloc_zero(&loop->allocator, aiol_streams_server_size(call_size));
        if (server == NULL)
            err = aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    }
    if (err < 0) {
        *refused = aiol_future_failed(err);
        return NULL;
    }
    server->limit = limit;
    server->stack_size = o->stack_size;
    server->arg = arg;
    server->step = o->step;
    server->callback = o->callback;
    server->call_size = call_size;
    if (handler != NULL)
        server->call.handler = handler;
    aiol_resource_add(loop, &server->resource, &aiol_streams_server_resource);
    return server;
}

AIOLOOP_API aioloop_future *(aioloop_start_server)(aioloop *loop, aioloop_stream_handler handler, void *arg,
                                                   const char *host, int port,
                                                   const aioloop_stream_server_options *options) {
    static const aioloop_stream_server_options defaults = AIOLOOP_ZERO;
    const aioloop_stream_server_options *o = options != NULL ? options : &defaults;
    aioloop_future *refused = NULL;
    aiol_streams_server *server = aiol_streams_server_new(loop, handler, arg, o, &refused);
    if (server == NULL)
        return refused;
    return aiol_streams_start(
        server, (aioloop_create_server)(loop, &aiol_streams_accept_protocol, server, host, port, &o->server));
}

AIOLOOP_API aioloop_future *(aioloop_start_unix_server)(aioloop *loop, aioloop_stream_handler handler, void *arg,
                                                        const char *path,
                                                        const aioloop_unix_stream_server_options *options) {
    aioloop_stream_server_options o;
    aioloop_future *refused = NULL;
    aiol_streams_server *server;
    memset(&o, 0, sizeof(o));
    if (options != NULL) {
        o.limit = options->limit;
        o.stack_size = options->stack_size;
        o.step = options->step;
        o.frame_size = options->frame_size;
        o.callback = options->callback;
    }
    server = aiol_streams_server_new(loop, handler, arg, &o, &refused);
    if (server == NULL)
        return refused;
    return aiol_streams_start(server, (aioloop_create_unix_server)(loop, &aiol_streams_accept_protocol, server, path,
                                                                   options == NULL ? NULL : &options->server));
}

#endif

/* >> src/aioloop.h */
#ifdef __cplusplus
}
#endif

#endif /* AIOLOOP_IMPLEMENTATION */

/* Last: these macros have the names of functions. */

/* >> src/api/sites.h */
/*
 * sites.h - with AIOLOOP_DEBUG_SITES, what makes something says where.
 *
 * Object-like macros of the same names, so a function's address can still be taken and nothing changes its type.
 */
#ifndef AIOLOOP_API_SITES_H
#define AIOLOOP_API_SITES_H

#ifdef AIOLOOP_DEBUG_SITES
#define AIOLOOP_SITE(function) (aioloop_site(__FILE__, __LINE__), function)
#define aioloop_new_event_loop AIOLOOP_SITE(aioloop_new_event_loop)
#define aioloop_call_soon AIOLOOP_SITE(aioloop_call_soon)
#define aioloop_call_soon_context AIOLOOP_SITE(aioloop_call_soon_context)
#define aioloop_call_soon_threadsafe AIOLOOP_SITE(aioloop_call_soon_threadsafe)
#define aioloop_call_soon_threadsafe_context AIOLOOP_SITE(aioloop_call_soon_threadsafe_context)
#define aioloop_call_later AIOLOOP_SITE(aioloop_call_later)
#define aioloop_call_at AIOLOOP_SITE(aioloop_call_at)
#define aioloop_call_at_context AIOLOOP_SITE(aioloop_call_at_context)
#define aioloop_add_reader AIOLOOP_SITE(aioloop_add_reader)
#define aioloop_add_writer AIOLOOP_SITE(aioloop_add_writer)
#define aioloop_create_future AIOLOOP_SITE(aioloop_create_future)
#define aioloop_future_add_done_callback AIOLOOP_SITE(aioloop_future_add_done_callback)
#define aioloop_future_then AIOLOOP_SITE(aioloop_future_then)
#define aioloop_create_connection AIOLOOP_SITE(aioloop_create_connection)
#define aioloop_create_unix_connection AIOLOOP_SITE(aioloop_create_unix_connection)
#define aioloop_connect_accepted_socket AIOLOOP_SITE(aioloop_connect_accepted_socket)
#define aioloop_create_server AIOLOOP_SITE(aioloop_create_server)
#define aioloop_create_unix_server AIOLOOP_SITE(aioloop_create_unix_server)
#define aioloop_create_operation AIOLOOP_SITE(aioloop_create_operation)
#define aioloop_create_task AIOLOOP_SITE(aioloop_create_task)
#define aioloop_create_task_frame AIOLOOP_SITE(aioloop_create_task_frame)
#define aioloop_task_new AIOLOOP_SITE(aioloop_task_new)
#define aioloop_task_group_create_task AIOLOOP_SITE(aioloop_task_group_create_task)
#define aioloop_task_group_create_task_frame AIOLOOP_SITE(aioloop_task_group_create_task_frame)
#define aioloop_task_group_exit AIOLOOP_SITE(aioloop_task_group_exit)
#define aioloop_sleep AIOLOOP_SITE(aioloop_sleep)
#define aioloop_gather AIOLOOP_SITE(aioloop_gather)
#define aioloop_wait AIOLOOP_SITE(aioloop_wait)
#define aioloop_wait_for AIOLOOP_SITE(aioloop_wait_for)
#define aioloop_shield AIOLOOP_SITE(aioloop_shield)
#define aioloop_completed_next AIOLOOP_SITE(aioloop_completed_next)
#define aioloop_lock_acquire AIOLOOP_SITE(aioloop_lock_acquire)
#define aioloop_event_wait AIOLOOP_SITE(aioloop_event_wait)
#define aioloop_condition_acquire AIOLOOP_SITE(aioloop_condition_acquire)
#define aioloop_condition_wait AIOLOOP_SITE(aioloop_condition_wait)
#define aioloop_condition_wait_for AIOLOOP_SITE(aioloop_condition_wait_for)
#define aioloop_semaphore_acquire AIOLOOP_SITE(aioloop_semaphore_acquire)
#define aioloop_barrier_wait AIOLOOP_SITE(aioloop_barrier_wait)
#define aioloop_queue_put AIOLOOP_SITE(aioloop_queue_put)
#define aioloop_queue_get AIOLOOP_SITE(aioloop_queue_get)
#define aioloop_queue_join AIOLOOP_SITE(aioloop_queue_join)
#define aioloop_open_connection AIOLOOP_SITE(aioloop_open_connection)
#define aioloop_open_unix_connection AIOLOOP_SITE(aioloop_open_unix_connection)
#define aioloop_start_server AIOLOOP_SITE(aioloop_start_server)
#define aioloop_start_unix_server AIOLOOP_SITE(aioloop_start_unix_server)
#define aioloop_stream_new AIOLOOP_SITE(aioloop_stream_new)
#define aioloop_stream_read AIOLOOP_SITE(aioloop_stream_read)
#define aioloop_stream_readexactly AIOLOOP_SITE(aioloop_stream_readexactly)
#define aioloop_stream_readline AIOLOOP_SITE(aioloop_stream_readline)
#define aioloop_stream_readuntil AIOLOOP_SITE(aioloop_stream_readuntil)
#define aioloop_stream_readuntil_any AIOLOOP_SITE(aioloop_stream_readuntil_any)
#define aioloop_stream_drain AIOLOOP_SITE(aioloop_stream_drain)
#define aioloop_stream_wait_closed AIOLOOP_SITE(aioloop_stream_wait_closed)
#define aioloop_generator_new AIOLOOP_SITE(aioloop_generator_new)
#define aioloop_generator_new_frame AIOLOOP_SITE(aioloop_generator_new_frame)
#define aioloop_generator_anext AIOLOOP_SITE(aioloop_generator_anext)
#define aioloop_generator_asend AIOLOOP_SITE(aioloop_generator_asend)
#define aioloop_generator_athrow AIOLOOP_SITE(aioloop_generator_athrow)
#define aioloop_generator_aclose AIOLOOP_SITE(aioloop_generator_aclose)
#define aioloop_register_closer AIOLOOP_SITE(aioloop_register_closer)
#define aioloop_shutdown_asyncgens AIOLOOP_SITE(aioloop_shutdown_asyncgens)
#define aioloop_wrap_future AIOLOOP_SITE(aioloop_wrap_future)
#define aioloop_run_in_executor AIOLOOP_SITE(aioloop_run_in_executor)
#define aioloop_to_thread AIOLOOP_SITE(aioloop_to_thread)
#define aioloop_shutdown_default_executor AIOLOOP_SITE(aioloop_shutdown_default_executor)
#endif

#endif
