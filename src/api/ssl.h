/*
 * ssl.h - TLS: contexts, certificates and sessions.                                   (Python: ssl)
 *
 * A context says how a side of connections speaks TLS: whom it trusts, who it is, what it insists on. It is made, set
 * up, and given to whatever opens connections (the ssl of their options). From the first connection on it is
 * read-only: what would change it answers AIOLOOP_EMISUSE. So it may be shared by loops in any threads; until then
 * one thread at a time.
 *
 * The work is mbedTLS's (2.28, 3.6), which the program links (-lmbedtls -lmbedx509 -lmbedcrypto) if it is compiled
 * with AIOLOOP_USE_TLS 1. Without that every function here answers AIOLOOP_ENOTAVAILABLE, those that return a pointer
 * NULL.
 *
 * Functions return 0 or above, or a code. aioloop_last_error(NULL) has the message of this thread's last failure; in
 * callbacks and coroutines aioloop_last_error of the loop has it too, so a coroutine may return the code.
 * What fails has changed nothing. AIOLOOP_EINVAL for NULL, AIOLOOP_ENOMEM and AIOLOOP_EMISUSE (the context is in use,
 * or wraps a configuration) are not repeated below. Files are read at once, by the calls that name them.
 */
#ifndef AIOLOOP_API_SSL_H
#define AIOLOOP_API_SSL_H

#include "api/base.h"

/* ssl.SSLContext. Counted. */
typedef struct aioloop_ssl_context aioloop_ssl_context;

/* ssl.SSLSession: what a client needs to resume a session with the same server. Counted. */
typedef struct aioloop_ssl_session aioloop_ssl_session;

/* PROTOCOL_TLS_CLIENT and PROTOCOL_TLS_SERVER. */
typedef enum aioloop_tls_side { AIOLOOP_TLS_CLIENT = 0, AIOLOOP_TLS_SERVER = 1 } aioloop_tls_side;

/* ssl.TLSVersion, with the numbers of the wire. */
typedef enum aioloop_tls_version { AIOLOOP_TLS_1_2 = 0x0303, AIOLOOP_TLS_1_3 = 0x0304 } aioloop_tls_version;

/* ssl.VerifyMode. */
typedef enum aioloop_ssl_verify_mode {
    AIOLOOP_CERT_NONE = 0,     /* a server asks for no certificate, a client takes any */
    AIOLOOP_CERT_OPTIONAL = 1, /* a server asks for one, and it must be valid if it comes; on a client as REQUIRED */
    AIOLOOP_CERT_REQUIRED = 2  /* the peer must have a valid one */
} aioloop_ssl_verify_mode;

/* ---- contexts ---- */

/* SSLContext(protocol): a context for one side, TLS 1.2 at least, with suites that are forward secret and
 * authenticated alone, and without renegotiation. A client verifies the server's certificate and that it is for the
 * host, and trusts nobody yet; a server asks clients for no certificate. Give it back with aioloop_ssl_context_unref.
 * NULL: AIOLOOP_EINVAL; AIOLOOP_ENOMEM; AIOLOOP_ENOTAVAILABLE, which is also the answer when the mbedTLS that is linked
 * is not the one of the headers, or cannot be used by several threads (it has no MBEDTLS_THREADING_C) and another
 * thread has contexts; or what kept the system from giving random bytes. Any thread. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_ssl_context *aioloop_ssl_context_new(aioloop_tls_side side);

/* ssl.create_default_context(): the same, and a client trusts whom the system trusts
 * (aioloop_ssl_context_load_default_certs), which takes some tens of milliseconds: make it once. If the environment has SSLKEYLOGFILE, the keys are logged there. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_ssl_context *aioloop_ssl_create_default_context(aioloop_tls_side side);

/* A context of your own config, an mbedtls_ssl_config * of that side, for what the functions here do not offer.
 * All of it is yours, and stays as it is as long as a connection uses it; a server_hostname is given to
 * mbedtls_ssl_set_hostname. Only ref and unref are for such a context. NULL as above. Any thread. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_ssl_context *aioloop_ssl_context_wrap(void *config, aioloop_tls_side side);

/* One owner more, and one less. Connections own their context. NULL is ignored. Any thread. */
AIOLOOP_API aioloop_ssl_context *aioloop_ssl_context_ref(aioloop_ssl_context *context);
AIOLOOP_API void aioloop_ssl_context_unref(aioloop_ssl_context *context);

/* ---- certificates ---- */

/* SSLContext.load_cert_chain(): who this side is. certfile: its certificate, and those that lead to an authority's, in
 * this order; PEM, or one in DER. keyfile: its private key, PEM or DER; NULL: it is in certfile. password: of an
 * encrypted key, or NULL. May be called again with a key of another kind (RSA, ECDSA), and the one that suits the peer
 * is used. The error of reading a file (AIOLOOP_ENOENT, ...); AIOLOOP_ESSL_CERTIFICATE: what is there is no
 * certificate; AIOLOOP_ESSL_KEY: no private key, another password is needed, or the key is of another certificate. */
AIOLOOP_API int aioloop_ssl_context_load_cert_chain(aioloop_ssl_context *context, const char *certfile,
                                                    const char *keyfile, const char *password);

/* The same from memory, the contents of such files, with sizes in bytes. key NULL: it is in cert. */
AIOLOOP_API int aioloop_ssl_context_load_cert_chain_memory(aioloop_ssl_context *context, const void *cert,
                                                           size_t cert_size, const void *key, size_t key_size,
                                                           const char *password);

/* SSLContext.load_verify_locations(): whom to trust, besides those that are already: the certificates of a file, PEM or
 * one in DER, and of all files of a folder (what is none there is passed over). Either may be NULL, not both.
 * Certificates with an algorithm that mbedTLS does not know are passed over too. Returns how many were taken. The error
 * of reading; AIOLOOP_ESSL_CERTIFICATE: what is there is malformed or none at all. */
AIOLOOP_API int aioloop_ssl_context_load_verify_locations(aioloop_ssl_context *context, const char *cafile,
                                                          const char *capath);
AIOLOOP_API int aioloop_ssl_context_load_verify_memory(aioloop_ssl_context *context, const void *data, size_t size);

/* SSLContext.load_default_certs(): whom the system trusts: if the environment has SSL_CERT_FILE or SSL_CERT_DIR, those,
 * else what the common systems have. Returns how many were taken; 0, as in Python, is no error: where there are none
 * every certificate will be refused. */
AIOLOOP_API int aioloop_ssl_context_load_default_certs(aioloop_ssl_context *context);

/* Lists of certificates that were revoked, PEM or one in DER. A certificate whose issuer has a list here is refused if
 * it is on it, or if the list is out of date. (VERIFY_CRL_CHECK_CHAIN, as far as there are lists.) The error of
 * reading; AIOLOOP_ESSL_CERTIFICATE: no such list. */
AIOLOOP_API int aioloop_ssl_context_load_crl(aioloop_ssl_context *context, const char *file);
AIOLOOP_API int aioloop_ssl_context_load_crl_memory(aioloop_ssl_context *context, const void *data, size_t size);

/* ---- what to insist on ---- */

/* SSLContext.verify_mode. AIOLOOP_EINVAL: AIOLOOP_CERT_NONE while the host name is checked. */
AIOLOOP_API int aioloop_ssl_context_set_verify_mode(aioloop_ssl_context *context, aioloop_ssl_verify_mode mode);

/* SSLContext.check_hostname: whether the certificate must be for the host that is connected to, a name or a numeric
 * address. On for clients; turning it on turns AIOLOOP_CERT_NONE into AIOLOOP_CERT_REQUIRED. AIOLOOP_EINVAL for
 * servers. */
AIOLOOP_API int aioloop_ssl_context_set_check_hostname(aioloop_ssl_context *context, bool check);

/* SSLContext.minimum_version and maximum_version. AIOLOOP_EINVAL: none of the list, or the least is above the most;
 * AIOLOOP_ENOTAVAILABLE: this mbedTLS does not have it. */
AIOLOOP_API int aioloop_ssl_context_set_minimum_version(aioloop_ssl_context *context, aioloop_tls_version version);
AIOLOOP_API int aioloop_ssl_context_set_maximum_version(aioloop_ssl_context *context, aioloop_tls_version version);

/* SSLContext.set_ciphers(): the cipher suites to choose from, best first, names separated by colons: OpenSSL's of the
 * default ones ("ECDHE-RSA-AES128-GCM-SHA256"), or IANA's of any ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
 * "TLS_AES_128_GCM_SHA256"). A list that names none of TLS 1.3 leaves those as they are. AIOLOOP_EINVAL: an unknown one
 * (the message names it), or none. */
AIOLOOP_API int aioloop_ssl_context_set_ciphers(aioloop_ssl_context *context, const char *ciphers);

/* SSLContext.set_alpn_protocols(): what is spoken over TLS ("h2", "http/1.1"; 1 to 255 bytes each), best first; count
 * 0: nothing is said of it. A server that has none of those that a client offers ends the handshake. */
AIOLOOP_API int aioloop_ssl_context_set_alpn_protocols(aioloop_ssl_context *context, const char *const *protocols,
                                                       size_t count);

/* Chooses by the name that a client wants to speak to (in the letters it wrote; not called if it says none): returns the context, of a server,
 * whose certificates and demands for the client's go on; context itself for no change; NULL to refuse. What is
 * returned stays the caller's. Runs within the handshake, also one in the executor, in the thread of the connection's
 * loop, of which it may call nothing that waits or closes it. If it raises, that is reported, and the connection ends. */
typedef aioloop_ssl_context *(*aioloop_ssl_sni_callback)(aioloop_ssl_context *context, const char *server_name,
                                                         void *arg);

/* SSLContext.sni_callback. NULL: none. While there is one the context gives no tickets, for a session could be resumed
 * under another name. AIOLOOP_EINVAL for clients. */
AIOLOOP_API int aioloop_ssl_context_set_sni_callback(aioloop_ssl_context *context, aioloop_ssl_sni_callback callback,
                                                     void *arg);

/* Whether a server gives tickets, with which clients resume sessions without a full handshake (SSLContext.num_tickets,
 * OP_NO_TICKET); whether a client takes them. On by default; the keys of the tickets are the context's own and change
 * each day. Not given by a server that asks for certificates in TLS 1.3, since its tickets do not keep them. */
AIOLOOP_API int aioloop_ssl_context_set_session_tickets(aioloop_ssl_context *context, bool on);

/* SSLContext.keylog_filename: appends the keys of all connections to a file, in the format of NSS, for Wireshark and
 * its like: whoever has it can read what was sent. NULL: no more. The error of opening it; AIOLOOP_ENOTAVAILABLE: this
 * mbedTLS does not tell keys. */
AIOLOOP_API int aioloop_ssl_context_set_keylog(aioloop_ssl_context *context, const char *file);

/* ---- what is known of a connection ----
 *
 * aioloop_transport_get_extra_info of a TLS transport gives, until the transport is freed (NULL: there is none):
 *
 *   "peercert"         const aioloop_ssl_certificate *
 *   "cipher"           const aioloop_ssl_cipher *
 *   "version"          const char *: "TLSv1.3"
 *   "alpn"             const char *: the protocol that was agreed on
 *   "session_reused"   const bool *
 *   "session"          aioloop_ssl_session *, on clients: to resume with. Take a reference to keep it: the next ticket
 *                      replaces it. With TLS 1.3 there is none until the server has sent one, after the handshake.
 *   "server_hostname"  const char *: on clients what was given; on servers what the client said
 *   "sslcontext"       aioloop_ssl_context *, the one that was given, also where another was chosen by name
 *   "ssl_object"       mbedtls_ssl_context *, to look at
 */

/* A certificate. Text is of printable characters; others are shown as '?'. */
typedef struct aioloop_ssl_certificate {
    const void *der; /* as it came, in DER (SSLSocket.getpeercert(True)) */
    size_t der_size;
    const char *subject; /* "CN=example.org, O=Example" */
    const char *issuer;
    const char *serial_number; /* in hexadecimal: "0A41FE" */
    int64_t not_before;        /* seconds since 1970 */
    int64_t not_after;
    const char *const *subject_alt_names; /* "DNS:example.org", "IP:192.0.2.1", "email:...", "URI:..." */
    size_t subject_alt_name_count;
} aioloop_ssl_certificate;

/* SSLSocket.cipher(). */
typedef struct aioloop_ssl_cipher {
    const char *name;     /* "TLS_AES_256_GCM_SHA384", "ECDHE-RSA-AES128-GCM-SHA256" */
    const char *protocol; /* "TLSv1.3" */
    int bits;             /* of the key; 0: not known */
} aioloop_ssl_cipher;

/* One owner more, and one less. NULL is ignored. Any thread. */
AIOLOOP_API aioloop_ssl_session *aioloop_ssl_session_ref(aioloop_ssl_session *session);
AIOLOOP_API void aioloop_ssl_session_unref(aioloop_ssl_session *session);

#endif
