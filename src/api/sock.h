/*
 * sock.h - sockets used directly, without a transport.          (asyncio: selector_events.sock_recv and its kin)
 *
 * For sockets that your program has made, of any kind, non-blocking (on POSIX: fcntl with O_NONBLOCK, or SOCK_NONBLOCK);
 * on the simulated back end those of aioloop_sim_socket. They stay yours: none of these calls closes one,
 * whatever comes of it. In the loop's thread.
 *
 * What can be done at once is done in the call; else the loop waits until the socket is ready and then does it. One
 * receive (recv, recvfrom, accept) and one send (sendall, sendto, connect) can be pending on a socket at a time, each
 * regardless of the other. A second one is AIOLOOP_EMISUSE (asyncio lets it take over, and the first one hangs), as are
 * a receive or send on a socket that aioloop_add_reader or aioloop_add_writer watches for the same, and any of them on
 * a transport's. Cancelling ends the wait at once, and the loop has let go of the descriptor then: it may be closed and
 * its number be another socket's. A pending operation must be cancelled before its socket is closed: else it may take what is the
 * next socket's of that number. A future that is
 * dropped is not cancelled; it still takes what it waits for.
 *
 * Awaiting what is done at once suspends nobody: a coroutine that always finds something there has the loop to itself,
 * and aioloop_sleep(loop, 0) lets others have a turn.
 *
 * What has happened is told: bytes received, a connection accepted or made, bytes sent come before a cancellation of
 * the same iteration. The await gives the result, and the next one that has to wait is cancelled; so it is with
 * aioloop_wait_for, aioloop_shield and time-out scopes in between: what follows a future that is done cannot be
 * cancelled any more. Only those pass it on: aioloop_gather, aioloop_wait and aioloop_as_completed between a task and a
 * receive drop what came in the iteration of a cancellation. A task that ends without another wait ends as cancelled, as any task does; and bytes are gone
 * with a future that is dropped unread.
 *
 * The futures fail with the system's error and a text that says what failed; AIOLOOP_EMISUSE as above; AIOLOOP_EINVAL
 * for arguments that make no sense and, in debug mode, for a socket that blocks (without debug mode the loop may hang
 * in accept and connect on one); AIOLOOP_ENOMEM, and then nothing is lost that was received. Static failed futures:
 * AIOLOOP_ECLOSED, AIOLOOP_ENOMEM, AIOLOOP_EINVAL (no loop). When the loop is closed, pending ones stay so.
 */
#ifndef AIOLOOP_API_SOCK_H
#define AIOLOOP_API_SOCK_H

#include "api/future.h"
#include "api/net.h"

/* An address, with room for the path of a Unix socket: address.u.path points to path, so a copy has to be told its
 * own. AIOLOOP_UNSPEC: there is none: a Unix socket without a name, or a sender that the system does not tell (that of a
 * stream's bytes; but Linux tells it of Unix sockets). */
typedef struct aioloop_peer {
    aioloop_address address;
    char path[108];
} aioloop_peer;

/* One datagram, with its bytes and its sender's path in one block. Behind the bytes is a zero. */
typedef struct aioloop_datagram {
    const char *data;
    size_t size;          /* 0: an empty one */
    aioloop_address from; /* as aioloop_peer's */
} aioloop_datagram;

/* Frees what aioloop_sock_recv or aioloop_sock_recvfrom gave. NULL is ignored. Any thread, if the loop's allocator can
 * be used there; also after the loop has gone, as long as the allocator's functions and context are there. */
AIOLOOP_API void aioloop_sock_free(void *block);

/* loop.sock_recv(): some of the bytes that are there, size at most, as soon as there are any. The future's number is
 * how many, 0 at the end of the stream; its pointer a block with them and a zero behind (char *), NULL for 0. Who takes
 * it frees it with aioloop_sock_free: unlike a stream's bytes it is yours. With size 0: 0 at once. Of a datagram, what is beyond size is lost. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_sock_recv(aioloop *loop, aioloop_socket sock, size_t size);

/* loop.sock_recv_into(): the same into memory of yours, which must last until the future is done; it is not touched
 * before there are bytes, nor after a cancel. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_sock_recv_into(aioloop *loop, aioloop_socket sock, void *buffer,
                                                                    size_t size);

/* loop.sock_recvfrom(): the next datagram, also an empty one, cut to size bytes (with size 0 only its sender is told).
 * The future's pointer is an aioloop_datagram *, its number the datagram's size; who takes it frees it with
 * aioloop_sock_free. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_sock_recvfrom(aioloop *loop, aioloop_socket sock, size_t size);

/* loop.sock_recvfrom_into(): the same into memory of yours, with the sender at *from, which may be NULL. Both as the
 * buffer of aioloop_sock_recv_into. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_sock_recvfrom_into(aioloop *loop, aioloop_socket sock,
                                                                        void *buffer, size_t size,
                                                                        aioloop_peer *from);

/* loop.sock_sendall(): done, with 0, when the system has taken every byte, in order. data is borrowed until then, or
 * until it is cancelled. After an error or a cancel nobody knows how much was sent. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_sock_sendall(aioloop *loop, aioloop_socket sock, const void *data,
                                                                  size_t size);

/* loop.sock_sendto(): sends one datagram; the number is its size. AIOLOOP_EMSGSIZE and the like are the system's. data
 * as above, to is copied. (Linux does not tell when a Unix socket that is not connected can send again to a peer whose
 * queue is full: the loop asks in every iteration.) */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_sock_sendto(aioloop *loop, aioloop_socket sock, const void *data,
                                                                 size_t size, const aioloop_address *to);

/* loop.sock_accept(): a connection of a listening socket. The number is the new socket, non-blocking and close-on-exec,
 * and yours when you read it, with or without an address for the pointer, which is NULL; if nobody ever does, it is
 * closed with the future. A task that returns the number and is cancelled in that very iteration ends as cancelled, and
 * nobody closes the socket: keep it where a clean-up finds it before you return it. The peer's address is stored at *peer, which may be NULL and must last as a buffer. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_sock_accept(aioloop *loop, aioloop_socket sock,
                                                                 aioloop_peer *peer);

/* loop.sock_connect() to an address, which is copied: done, with 0, when the connection is there. The text of an error
 * names the address. After a cancel the system may go on connecting: close the socket, or connect it again to go on
 * waiting. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_sock_connect_address(aioloop *loop, aioloop_socket sock,
                                                                          const aioloop_address *address);

/* loop.sock_connect(): the same to a host and a port, for sockets of the internet. A numeric address and "localhost" are
 * used as they are, another name is looked up first (aioloop_getaddrinfo), for the socket's own family; the first
 * address found is the one. Fails also with what the look-up fails with, AIOLOOP_ELOOKUP (nothing of this family), and
 * AIOLOOP_EINVAL for a port out of range. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_sock_connect(aioloop *loop, aioloop_socket sock, const char *host, int port);

#endif
