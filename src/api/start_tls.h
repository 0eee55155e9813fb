/*
 * start_tls.h - the upgrade of a live connection to TLS.                       (asyncio: base_events.start_tls)
 */
#ifndef AIOLOOP_API_START_TLS_H
#define AIOLOOP_API_START_TLS_H

#include "api/ssl.h"
#include "api/transport.h"

/* Options of aioloop_start_tls; all zero: asyncio's defaults. */
typedef struct aioloop_start_tls_options {
    bool server_side;
    const char *server_hostname;   /* a client's: whose certificate it must be; "": anybody's, unchecked; NULL is
                                    * "" for a context that does not check names, and refused by others */
    aioloop_ssl_session *ssl_session; /* a client's, to be resumed; NULL: none */
    aioloop_time ssl_handshake_timeout; /* 0: 60 s */
    aioloop_time ssl_shutdown_timeout;  /* 0: 30 s */
    bool ssl_handshake_in_executor; /* shake hands in threads of the default executor, so that many at once, some ms of
                                     * processor time each, do not hold up the loop; needs threads, and an mbedTLS with
                                     * MBEDTLS_THREADING_C: else AIOLOOP_ENOTAVAILABLE */
    const void *leftover;          /* bytes that the protocol has received but that are TLS's already: what came behind the */
    size_t leftover_size;          /*   answer to its STARTTLS; copied */
    const aioloop_protocol *protocol; /* the one above TLS, with self, once it is there; NULL: the transport's */
    void *self;
} aioloop_start_tls_options;

/* loop.start_tls(): shakes hands over an open connection, of whatever kind, and gives a new transport for the same
 * protocol, which from then on uses that one alone. The future's pointer is the aioloop_transport, its number 0.
 * connection_made is not called again. What was written before leaves first, in clear. From the call on the old
 * transport is TLS's: to write to it, its end included, to set its limits or its protocol and to send a file is
 * AIOLOOP_EMISUSE, pausing and resuming it do nothing, and closing it ends the connection without a goodbye; the new one
 * gives the old one's extra info too. ssl is held as long as needed.
 *
 * Fails with AIOLOOP_EINVAL and nothing changed for a transport that is closing or ended one way, for no context or one
 * of the other side, or for a client that does not say to whom it speaks (server_hostname); else, and when cancelled, the connection is closed, and the protocol hears of that by
 * connection_lost. AIOLOOP_ESSL_..., AIOLOOP_ECONNRESET (the peer left), AIOLOOP_ECONNABORTED (the handshake took too
 * long), AIOLOOP_ENOMEM; AIOLOOP_ENOTAVAILABLE without AIOLOOP_USE_TLS. In the loop's thread. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_start_tls(aioloop *loop, aioloop_transport *transport,
                                                               aioloop_ssl_context *ssl,
                                                               const aioloop_start_tls_options *options);

#endif
