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

#include "api/future.h"
#include "api/net.h"
#include "api/ssl.h"

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
    /* DatagramProtocol: a whole datagram, also an empty one, and who sent it; both are the library's, valid during the
     * call. from: AIOLOOP_UNSPEC for a Unix socket without a name. */
    void (*datagram_received)(aioloop_transport *transport, void *self, const void *data, size_t size,
                              const aioloop_address *from);
    /* A datagram could not be sent or received: AIOLOOP_ECONNREFUSED, AIOLOOP_EMSGSIZE, ... The transport stays open. */
    void (*error_received)(aioloop_transport *transport, void *self, int error);
};

/* ---- opening connections ---- */

/* Options of aioloop_create_connection; all zero: asyncio's defaults. */
typedef struct aioloop_connection_options {
    const aioloop_socket *sock;     /* a connected stream socket instead of host and port; the loop's from then on, also
                                     * if the call fails after it was accepted as valid */
    const char *service;            /* instead of port: a name such as "http", or a number; not with sock */
    int family;                     /* aioloop_family: only addresses of this one; not with sock */
    int protocol;                   /* for looking up both names; not with sock */
    unsigned flags;                 /* likewise, a sum of AIOLOOP_AI_... */
    const char *local_host;         /* bind to this host's first address of the family first; NULL: no, or, with
                                     * local_port, to that port of every address; not with sock */
    int local_port;                 /* 0: any; not with sock */
    aioloop_time happy_eyeballs_delay; /* an attempt that has not succeeded after that gets company of the next one
                                     * (RFC 8305 suggests 250 ms); 0: one after the other; below 0: a delay of 0 */
    int interleave;                 /* first_address_family_count: so many addresses of the first family, then the families
                                     * in turn; 0: 1 with a delay, else none; -1: none, the resolver's order */
    bool all_errors;                /* the error collects the one of each address, also if it is only one */
    aioloop_ssl_context *ssl;       /* TLS; AIOLOOP_ENOTAVAILABLE without AIOLOOP_USE_TLS */
    const char *server_hostname;    /* whose certificate it must be, with ssl only; NULL: host; "": anybody's, unchecked */
    aioloop_ssl_session *ssl_session; /* to be resumed, if the server still knows it; NULL: none. AIOLOOP_EINVAL: it is of
                                     * another server_hostname, or another context */
    aioloop_time ssl_handshake_timeout; /* 0: 60 s; then AIOLOOP_ECONNABORTED */
    aioloop_time ssl_shutdown_timeout;  /* how long closing waits for the peer's goodbye; 0: 30 s */
    bool ssl_handshake_in_executor; /* shake hands in threads of the default executor, so that many at once, some ms of
                                     * processor time each, do not hold up the loop; needs threads, and an mbedTLS with
                                     * MBEDTLS_THREADING_C: else AIOLOOP_ENOTAVAILABLE */
    aioloop_time timeout;           /* past it the call fails with AIOLOOP_ETIMEDOUT; 0: none */
} aioloop_connection_options;

/* loop.create_connection(): connects to host and port: to the first of its addresses that answers. A numeric address
 * and "localhost" with a port are used as they are, other names and services are looked up (aioloop_getaddrinfo). The future's pointer is the
 * aioloop_transport (asyncio gives the pair; see aioloop_transport_get_protocol), its number 0. connection_made has
 * returned when it is done. Cancelling it closes the sockets. Fails with AIOLOOP_EINVAL (arguments that contradict each
 * other), AIOLOOP_EMISUSE (a sock that another transport or a watcher has), what the look-up failed with, AIOLOOP_ELOOKUP
 * (it found nothing), the error of the connect (that of the first address, with the messages of all), the factory's,
 * AIOLOOP_ETIMEDOUT, AIOLOOP_ENOMEM. protocol is kept, arg passed on, the rest copied. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_create_connection(aioloop *loop, const aioloop_protocol *protocol,
                                                                       void *arg, const char *host, int port,
                                                                       const aioloop_connection_options *options);

typedef struct aioloop_unix_connection_options {
    const aioloop_socket *sock; /* a connected Unix stream socket instead of path; as above */
    size_t path_size;           /* bytes of path; 0: it ends with a zero. Needed for the abstract name space. */
    aioloop_ssl_context *ssl;
    const char *server_hostname; /* needed with ssl */
    aioloop_ssl_session *ssl_session;
    aioloop_time ssl_handshake_timeout;
    aioloop_time ssl_shutdown_timeout;
    bool ssl_handshake_in_executor;
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
    bool ssl_handshake_in_executor;
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
