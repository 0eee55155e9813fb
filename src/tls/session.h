/*
 * session.h - one side of a TLS connection, without the connection: bytes go in and out through two functions of its
 * owner. Which library does the work is known to the file behind this alone (mbedtls.c); no loop, no socket, one thread
 * at a time.
 */
#ifndef AIOL_TLS_SESSION_H
#define AIOL_TLS_SESSION_H

#include "api/ssl.h"
#include "base/error.c"

/* Not a result: the peer has to send more first. Out of the way of counts and codes. */
#define AIOL_TLS_MORE INT32_MIN

/* How a session reaches its peer. */
typedef struct aiol_tls_io {
    /* Stores at most size bytes of the peer's; returns how many, at least 1; AIOL_TLS_MORE: there are none now; 0:
     * there will be none any more. */
    int64_t (*receive)(void *owner, void *buffer, size_t size);
    /* Takes all of the bytes, to send them in this order: 0. Or a code, and then the session has failed with it. */
    int (*send)(void *owner, const void *data, size_t size);
    void *owner;
} aiol_tls_io;

typedef struct aiol_tls_session aiol_tls_session;

/* Whether sessions of one context may be driven in several threads at once. */
AIOLOOP_INTERNAL bool aiol_tls_in_threads(void);

/* Whether a context is for that side: 0, or a code, and then aioloop_last_error(NULL) says more. */
AIOLOOP_INTERNAL int aiol_tls_check_side(const aioloop_ssl_context *context, bool server_side);

#if AIOLOOP_USE_TLS
/* Whether a client with that context has to say whose certificate it wants. */
AIOLOOP_INTERNAL bool aiol_tls_checks_host(const aioloop_ssl_context *context);

/* A session of a context, which it holds. hostname: what a client sends as the server's name and matches the
 * certificate with (unless the context does not check it); "" or NULL: neither. resume (may be NULL): a session that a
 * client had with the same host, by the same context. 0 or a code, and then aioloop_last_error(NULL) says more. */
AIOLOOP_INTERNAL int aiol_tls_session_new(aioloop_ssl_context *context, bool server_side, const char *hostname,
                                          const aioloop_ssl_session *resume, const aiol_tls_io *io,
                                          aiol_tls_session **out);
AIOLOOP_INTERNAL void aiol_tls_session_free(aiol_tls_session *s);

/* All of these may call io, and nothing else but the context's SNI callback, which is called when a server is greeted.
 * After a code (AIOL_TLS_MORE is none) only free, message and info may be called.
 *
 * Shakes hands as far as the bytes that are there allow. 0: done, also when it was; AIOL_TLS_MORE; or a code:
 * AIOLOOP_ECONNRESET if the peer has left. The alert that the peer should have of a failure was sent before this
 * returns. */
AIOLOOP_INTERNAL int aiol_tls_session_handshake(aiol_tls_session *s);
/* The part of that in which a server is greeted by its client, which costs little; a client has none. */
AIOLOOP_INTERNAL int aiol_tls_session_greeting(aiol_tls_session *s);
/* How many decrypted bytes there are, at least 1, without taking any of them; else as read. */
AIOLOOP_INTERNAL int64_t aiol_tls_session_available(aiol_tls_session *s);
/* Decrypted bytes, at most size: how many; 0: the peer has said goodbye; AIOL_TLS_MORE: none, and nothing waits that
 * could become some; AIOLOOP_ESSL_TRUNCATED: it left without goodbye; or a code. */
AIOLOOP_INTERNAL int64_t aiol_tls_session_read(aiol_tls_session *s, void *buffer, size_t size);
/* Whether a read may give something else than AIOL_TLS_MORE though receive has no more. */
AIOLOOP_INTERNAL bool aiol_tls_session_pending(const aiol_tls_session *s);
/* Encrypts and sends all of them. 0 or a code. */
AIOLOOP_INTERNAL int aiol_tls_session_write(aiol_tls_session *s, const void *data, size_t size);
/* Says goodbye, once; nothing can be written after it. 0 or a code. */
AIOLOOP_INTERNAL int aiol_tls_session_close(aiol_tls_session *s);

/* What the last code is about, in a sentence ("certificate verify failed for \"example.org\": it has expired"); never
 * NULL; the session's. */
AIOLOOP_INTERNAL const char *aiol_tls_session_message(const aiol_tls_session *s);
/* Who the peer is, for messages: the name of the host, "the server", "the client". Any thread. */
AIOLOOP_INTERNAL const char *aiol_tls_session_who(const aiol_tls_session *s);
/* What aioloop_transport_get_extra_info gives under a name, once the handshake is done; NULL: nothing. Valid as long as
 * the session; but what "session" gives is replaced when a ticket comes, which is within a read. */
AIOLOOP_INTERNAL const void *aiol_tls_session_info(aiol_tls_session *s, const char *name);
#endif

#endif
