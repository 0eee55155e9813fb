/*
 * sim.h - the simulated back end: test your program without a network and without waiting.
 *
 * Chosen by aioloop_config.backend or AIOLOOP_BACKEND: "sim", or "sim,delayed". The clock is virtual: when nothing is
 * ready it jumps to the next deadline, so an hour's time-out takes microseconds. The network is the loop's own memory:
 * servers, connections and datagrams of this loop reach each other at any loopback or wildcard address and at any path;
 * everything else refuses. A path is a plain name: folders, links and permissions mean nothing, so binding never fails
 * for want of a folder, and "a" and "./a" are two sockets. The same seed replays the same run exactly.
 *
 * A wait in which nothing can ever happen is not endless: after two seconds of real time, in which another thread may
 * post something, the run ends with AIOLOOP_EDEADLK. While a function of the loop runs in a thread pool, or a look-up
 * that somebody waits for, it goes on waiting. But the clock does not wait for threads: with timers under way it jumps
 * to the next of them, so a TLS handshake in the executor (ssl_handshake_in_executor) runs into its time-out here.
 *
 * Options, after the name: seed=N (default 1); delayed: operations complete late, as those of io_uring and Windows do:
 * results arrive iterations later, data comes after a pause, a cancel finds the work done, sends are taken in part.
 */
#ifndef AIOLOOP_API_SIM_H
#define AIOLOOP_API_SIM_H

#include "api/resolve.h"
#include "api/transport.h"

/* All of these answer AIOLOOP_ENOTAVAILABLE on another back end. */

/* Two connected stream sockets, for aioloop_connect_accepted_socket and the like; the caller's until given away.
 * AIOLOOP_ENOMEM, AIOLOOP_ECLOSED. */
AIOLOOP_API int aioloop_sim_socketpair(aioloop *loop, aioloop_socket sockets[2]);

/* A pipe, for aioloop_connect_read_pipe (the first end) and aioloop_connect_write_pipe; the caller's until given away. It
 * holds as much as a connection, and nothing is under way in it. AIOLOOP_ENOMEM, AIOLOOP_ECLOSED. */
AIOLOOP_API int aioloop_sim_pipe(aioloop *loop, aioloop_socket ends[2]);

/* A socket of a family (aioloop_family), of the type AIOLOOP_SOCK_STREAM or AIOLOOP_SOCK_DGRAM, for the calls of sock.h
 * and for what takes a socket of yours; the caller's. Datagrams keep their order (but see aioloop_sim_set_datagrams);
 * one is lost if it is sent or under way in a partition, and between internet sockets also when there is no room for it
 * at its receiver (aioloop_sim_set_buffer); a Unix socket waits then. AIOLOOP_EAFNOSUPPORT, AIOLOOP_EINVAL (the type), AIOLOOP_ENOMEM,
 * AIOLOOP_ECLOSED. */
AIOLOOP_API int aioloop_sim_socket(aioloop *loop, int family, int type, aioloop_socket *out);

/* bind(), listen() and getsockname() of such a socket. Port 0: any that is free. The path in an address that
 * aioloop_sim_name stores is the socket's: as long as it is open. AIOLOOP_EBADF, AIOLOOP_EMISUSE (a transport's), and
 * the errors of a system's calls. */
AIOLOOP_API int aioloop_sim_bind(aioloop *loop, aioloop_socket socket, const aioloop_address *address);
AIOLOOP_API int aioloop_sim_listen(aioloop *loop, aioloop_socket socket, int backlog);
AIOLOOP_API int aioloop_sim_name(aioloop *loop, aioloop_socket socket, aioloop_address *address);

/* Closes a simulated socket that was never given away. AIOLOOP_EBADF. */
AIOLOOP_API int aioloop_sim_close(aioloop *loop, aioloop_socket socket);

/* How long what is sent from now on is under way: between minimum and maximum, drawn anew for each piece; the order
 * within a connection is kept. AIOLOOP_EINVAL for a negative or reversed pair. */
AIOLOOP_API int aioloop_sim_set_delay(aioloop *loop, aioloop_time minimum, aioloop_time maximum);

/* How many bytes a connection holds in each direction before a sender has to wait. Default 65,536; AIOLOOP_EINVAL for
 * 0. */
AIOLOOP_API int aioloop_sim_set_buffer(aioloop *loop, size_t bytes);

/* So many of 1,000 datagrams that are sent between internet sockets from now on are lost, drawn for each; reordered: one
 * with a shorter delay overtakes others. Neither, unless this is called. AIOLOOP_EINVAL above 1,000. */
AIOLOOP_API int aioloop_sim_set_datagrams(aioloop *loop, unsigned lost, bool reordered);

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
