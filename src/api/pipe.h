/*
 * pipe.h - pipes, FIFOs, terminals: one way only.        (asyncio: loop.connect_read_pipe, loop.connect_write_pipe)
 */
#ifndef AIOLOOP_API_PIPE_H
#define AIOLOOP_API_PIPE_H

#include "api/transport.h"

/* loop.connect_read_pipe(), loop.connect_write_pipe(): a transport that reads, or one that writes, of the caller's end of
 * a pipe, a FIFO, a stream socket, or a terminal or another character device. The future's pointer is the
 * aioloop_transport, its number 0; connection_made has returned when it is done. From then on the descriptor is the
 * loop's, which closes it after connection_lost; if the call fails it is open and the caller's, as it was.
 *
 * It is made non-blocking. That is said of the open file, which other processes may have too: a terminal is therefore
 * opened anew under the same number, and what was blocking and cannot be is made so again when the transport lets go of
 * it. Do not give one open file that cannot be opened anew (a pseudo-terminal's master, a FIFO open both ways, a socket
 * that is a program's input and output) to two transports: they are in each other's way, and of a socket the one that
 * writes drops what comes. A socket for both ways is for aioloop_connect_accepted_socket.
 *
 * A transport that reads: at the end of the file it closes, whatever eof_received answers. An error of reading is reported
 * to the exception handler and connection_lost has it, but AIOLOOP_EIO, a terminal's whose other side has gone, is not
 * reported. aioloop_transport_write and its kin answer AIOLOOP_ENOTAVAILABLE.
 *
 * A transport that writes: closing it, and aioloop_transport_write_eof, which is the same here, sends what is buffered
 * first; what is written afterwards is dropped. When nobody reads any more it closes at once, without waiting for a
 * write: connection_lost has 0 if nothing was buffered, else AIOLOOP_EPIPE. (A FIFO that is open both ways has always a
 * reader.) What comes from the other end of a socket is dropped. aioloop_transport_is_reading is false, and pausing and
 * resuming do nothing. No SIGPIPE is raised.
 *
 * aioloop_transport_get_extra_info has "pipe", a const aioloop_socket *; no "socket", "peername" or "sockname". There is
 * no TLS over half a connection: aioloop_start_tls answers AIOLOOP_EINVAL.
 *
 * Cancelling the future closes the descriptor. Fails with AIOLOOP_EINVAL (a file, a folder, NULL), AIOLOOP_EBADF (not open,
 * or not for reading, or not for writing), AIOLOOP_EMISUSE (another transport or a watcher has it), the factory's error
 * (then it is closed), AIOLOOP_ENOMEM, AIOLOOP_ECLOSED, AIOLOOP_ENOTAVAILABLE (on a port). protocol is kept, arg passed
 * on. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_connect_read_pipe(aioloop *loop, const aioloop_protocol *protocol,
                                                                       void *arg, aioloop_socket pipe);
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_connect_write_pipe(aioloop *loop, const aioloop_protocol *protocol,
                                                                        void *arg, aioloop_socket pipe);

#endif
