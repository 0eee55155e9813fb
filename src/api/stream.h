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

#include "api/server.h"
#include "api/start_tls.h"
#include "api/task.h"

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

/* StreamWriter.start_tls(): shakes hands over the stream's connection, which from then on is TLS (aioloop_start_tls). A
 * server's stream takes the server's side; a client's has to say by server_hostname to whom it speaks, as there. What
 * was written before leaves in clear; what was received and not read is the peer's part of the handshake. Done with 0,
 * and the stream goes on as before; or failed, and the connection is lost. Until then nothing can be written
 * (AIOLOOP_EMISUSE). AIOLOOP_EMISUSE, and nothing changed, while a read waits. options may be NULL on servers; their
 * leftover and protocol must be. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_stream_start_tls(aioloop_stream *stream, aioloop_ssl_context *ssl,
                                                                      const aioloop_start_tls_options *options);

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
