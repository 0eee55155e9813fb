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

#include "api/transport.h"

/* Options of aioloop_create_server; all zero: asyncio's defaults. */
typedef struct aioloop_server_options {
    const char *const *hosts;   /* several hosts instead of one, with host NULL; none of them NULL */
    size_t host_count;
    const aioloop_socket *sock; /* a bound stream socket instead of host and port; the loop's once accepted as valid.
                                 * What says "not with sock" gives AIOLOOP_EINVAL with it: its options are yours. */
    const char *service;        /* instead of port: a name such as "http", or a number; not with sock */
    int family;                 /* aioloop_family: only addresses of this one; not with sock */
    unsigned flags;             /* for looking up hosts, besides AIOLOOP_AI_PASSIVE: a sum of AIOLOOP_AI_...; not with sock */
    int backlog;                /* 0: 100. Also how many connections are accepted in one iteration. */
    bool no_reuse_address;      /* do not set SO_REUSEADDR; not with sock */
    bool reuse_port;            /* set SO_REUSEPORT on inet sockets; AIOLOOP_EINVAL without such; not with sock */
    bool keep_alive;            /* set SO_KEEPALIVE, also on the connections; not with sock */
    bool defer_serving;         /* start_serving=False: bind, but listen only on aioloop_server_start_serving */
    aioloop_ssl_context *ssl;   /* TLS; AIOLOOP_ENOTAVAILABLE without AIOLOOP_USE_TLS. A connection whose handshake fails
                                 * was never there: only in debug mode the log tells whose it was, and why it failed */
    aioloop_time ssl_handshake_timeout; /* with ssl only */
    aioloop_time ssl_shutdown_timeout;
    bool ssl_handshake_in_executor; /* shake hands in threads of the default executor, so that many at once, some ms of
                                     * processor time each, do not hold up the loop; needs threads, and an mbedTLS with
                                     * MBEDTLS_THREADING_C: else AIOLOOP_ENOTAVAILABLE */
    aioloop_time timeout;       /* for looking up names; 0: none */
} aioloop_server_options;

/* loop.create_server(): listens on every address of host (NULL or "": every interface of IPv4 and IPv6) and port (0: one
 * that is free, for each socket its own). The future's pointer is the aioloop_server, its number how many sockets
 * listen. It is listening when the call returns, unless something has to be looked up: that is every host but numeric
 * addresses and "localhost", and every service that is no number. For each connection the factory and connection_made are called. Fails with AIOLOOP_EINVAL
 * (arguments that contradict each other), what the look-up failed with, the error of the bind or listen with the
 * address in the message, AIOLOOP_ETIMEDOUT, AIOLOOP_ENOMEM. protocol is kept, arg passed on, the rest copied. */
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
    bool ssl_handshake_in_executor;
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
