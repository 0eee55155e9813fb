/*
 * sendfile.h - files sent over a connection, by the system alone where it can.    (asyncio: loop.sendfile, sock_sendfile)
 *
 * Both functions send count bytes of the file from offset on, or, with count -1, all up to its end; fewer if it ends
 * sooner. It does not matter where the file stands. The future's number is how many bytes went, 0 for an empty file and
 * for an offset behind the end. When it is done, be it that it failed or was cancelled, the file stands at offset plus
 * what went, so that tells how far it came; what a refused call does not touch. The descriptor is borrowed until then.
 *
 * On Linux, macOS and FreeBSD the system sends a regular file itself (sendfile(2)); like any read of a file that may
 * wait for its disk, and holds up the loop for so long. Four megabytes at most go in one iteration, then it is others'
 * turn. What the system cannot send so (a pipe, other systems, TLS) is copied, unless no_fallback is set: read in
 * pieces of 64 KiB by a thread of the loop's default pool (in builds without threads by the loop), and written. What
 * has no places, as a pipe, is read from where it stands, so offset is 0.
 *
 * In the loop's thread. The futures fail with AIOLOOP_EINVAL (a negative offset; a count that is 0 or below -1; a socket
 * that is no stream socket), AIOLOOP_EBADF and the like for the file, AIOLOOP_ENOTAVAILABLE (the bytes would have to be
 * copied), the errors of reading and sending (AIOLOOP_EPIPE, AIOLOOP_ECONNRESET; no signal is raised), AIOLOOP_ENOMEM.
 * Static failed futures: AIOLOOP_ECLOSED, AIOLOOP_ENOMEM, AIOLOOP_EINVAL (NULL). When the loop is closed, pending ones
 * stay so. A future that is cancelled in the middle is cancelled when the system has given the file back, which may
 * take an iteration; the connection stays open, with a part of the file sent.
 */
#ifndef AIOLOOP_API_SENDFILE_H
#define AIOLOOP_API_SENDFILE_H

#include "api/transport.h"

/* Options of aioloop_sendfile and aioloop_sock_sendfile; all zero: asyncio's defaults. */
typedef struct aioloop_sendfile_options {
    bool no_fallback; /* AIOLOOP_ENOTAVAILABLE instead of copying */
} aioloop_sendfile_options;

/* loop.sendfile(): after all that was written before. Until the future is done, nothing can be written to the transport,
 * its end included, and no second file be sent (AIOLOOP_EMISUSE); reading is paused, and goes on afterwards as it was,
 * or as aioloop_transport_pause_reading and its kin have asked meanwhile; pause_writing and resume_writing wait too. A
 * transport that is closing, was told write_eof, or has TLS above it now: AIOLOOP_EMISUSE. If it is closed or aborted in the middle, the call
 * fails with AIOLOOP_ECONNABORTED; so close it when the future is done. Copying stops while more than the high mark is
 * buffered, and its last bytes may be in the buffer yet when the future is done. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_sendfile(aioloop *loop, aioloop_transport *transport,
                                                              aioloop_file file, int64_t offset, int64_t count,
                                                              const aioloop_sendfile_options *options);

/* loop.sock_sendfile(): over a socket used directly, as described in sock.h: it counts as a send there. Done when the
 * system has taken every byte. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_sock_sendfile(aioloop *loop, aioloop_socket sock,
                                                                   aioloop_file file, int64_t offset, int64_t count,
                                                                   const aioloop_sendfile_options *options);

#endif
