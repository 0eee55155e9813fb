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
 *   Hosts are names or numbers. A numeric address and "localhost" need no look-up; for other names the system's
 *   resolver is asked, in threads of the loop's own (aioloop_getaddrinfo), or one of yours (aioloop_set_resolver). A
 *   look-up that is cancelled or times out is given up at once, whatever the system does. With happy_eyeballs_delay a
 *   host with several addresses is tried side by side, so that one that does not answer costs no more than that delay.
 *   See examples/fetch_names.c.
 *
 *   TLS is a transport over another. Make a context (aioloop_ssl_create_default_context for a client; a server's has its
 *   certificate by aioloop_ssl_context_load_cert_chain), and give it as the ssl of the options that connect or listen:
 *   connection_made comes after the handshake, and all else is as without TLS, but that a connection cannot be half
 *   closed. aioloop_start_tls and aioloop_stream_start_tls upgrade a live connection, as STARTTLS wants it. A connection
 *   that is cut without goodbye is lost with AIOLOOP_ESSL_TRUNCATED. It needs AIOLOOP_USE_TLS and mbedTLS.
 *
 *   aioloop_connect_read_pipe and aioloop_connect_write_pipe make transports that go one way, of pipes, FIFOs, terminals:
 *   a program's own standard input and output, for example.
 *
 *   aioloop_sendfile sends a file, or a part of it, over a transport, without copying where the system can.
 *
 *   Sockets of your own, of any kind, can be used without a transport: aioloop_sock_recv, aioloop_sock_sendall and
 *   their kin give futures of what a system call would wait for. A transport costs less, since it goes on watching.
 *
 *
 * PROGRAMS AS CHILDREN
 *
 *   aioloop_create_subprocess_exec starts a program, aioloop_create_subprocess_shell a command line; the result has streams
 *   for the child's input and outputs:
 *
 *       const char *const args[] = {"sort", "-u", NULL};
 *       const aioloop_communication *said;
 *       rc = aioloop_await(aioloop_create_subprocess_exec(loop, args, NULL), &sort);
 *       rc = aioloop_await(aioloop_process_communicate(sort, text, size), &said);
 *       aioloop_process_unref(sort);
 *
 *   aioloop_subprocess_exec is the same with a protocol. A child gets the descriptors that it is told of, no others, and
 *   default signals. It lives no longer than its last owner, or the loop: to leave one alone, start it so that it
 *   leaves by itself (a shell's "&", setsid).
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
 *       no-accept4 no-epoll_pwait2 no-eventfd no-pipe2 no-mmsg no-nosignal
 *       no-pidfd no-vfork no-close_range
 *                                                         do as on a system that has no such call
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
 *   call only if the loop sleeps. For signals there is aioloop_add_signal_handler.
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
 *   What a thread cannot bear (code that may crash, or that has global state) runs in a pool of processes, with bytes in
 *   and bytes out: aioloop_process_pool_new, early in the program, and aioloop_run_in_process. See
 *   examples/process_pool.c.
 *
 *
 * SIGNALS
 *
 *   aioloop_add_signal_handler(loop, SIGTERM, fn, arg) has fn called in the loop, as an ordinary callback, which may do what
 *   any callback may; a loop that sleeps is woken. Signals belong to the process's main thread: handlers are added and
 *   removed there. Removing one, or closing the loop, leaves the signal with its default action. A process that is forked
 *   inherits none of this.
 *
 *   aioloop_run in the main thread cancels its coroutine at the first SIGINT (Ctrl-C), and says AIOLOOP_EINTERRUPTED when
 *   that has ended by it; a second one ends the run without waiting for it, and then what is left is cancelled as at every
 *   end of a run, where SIGINT has its default action. If the loop does not come round to the first, because a callback
 *   takes for ever, the second ends the program. All that only if SIGINT had its default action before the run: who
 *   ignores it or has a handler is left alone, and who removes the handler of SIGINT in the run has its default action.
 *   See examples/signals.c.
 *
 *
 * ENDING WELL
 *
 *   close waits for the peer to take what is buffered, however long that takes: give it a timer that calls abort. A
 *   server that is to stop gracefully runs on aioloop_server_wait_closed; whatever says that it is time (the handler of
 *   a signal) calls aioloop_server_close and aioloop_server_close_clients, and sets a timer for
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
 *   bytes. A Unix path has 107 bytes at most, an abstract name 108. Sends raise no SIGPIPE. What one thread of the loop does too long, all
 *   wait for: give long work to a thread (aioloop_to_thread).
 */
