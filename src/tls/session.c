/*
 * session.c - one side of a TLS connection. (Python: ssl.SSLObject)
 *
 * The handshake goes step by step, for what a step was about tells what mbedTLS does not: whether a certificate was
 * sent or a session resumed, and on servers whether an optional certificate is a good one. Everything that is sent goes
 * through one function, so a failure of which nobody was told is seen by its silence, and gets an alert.
 */
#ifndef AIOL_TLS_SESSION_C
#define AIOL_TLS_SESSION_C

#include "tls/context.c"

#define AIOL_TLS_HOST_MOST 255u
#define AIOL_TLS_WARNINGS_MOST 5u /* a peer that goes on asking for renegotiation fills the memory with refusals */

struct aioloop_ssl_session {
    uint32_t refs;
    aioloop_ssl_context *context;
    aiol_tls_certificate *peer; /* a resumed session has no other */
    char hostname[AIOL_TLS_HOST_MOST + 1];
    mbedtls_ssl_session session;
};

struct aiol_tls_session {
    mbedtls_ssl_context ssl;
    aioloop_ssl_context *context;
    aioloop_ssl_context *chosen; /* by the server's callback; NULL: none */
    aiol_tls_io io;
    bool server_side;
    bool greeted;  /* by the client, if this is a server */
    bool done;     /* the handshake */
    bool verified; /* the peer was asked for a certificate in this handshake: nothing was resumed */
    bool starved;  /* the last receive had nothing */
    bool ended;    /* and there will be nothing any more */
    bool said;     /* goodbye */
    bool heard;    /* the peer's */
    bool reused;
    bool self_signed;
    int failed;              /* the code of everything from now on */
    int io_error;            /* of receive or send */
    unsigned sent;           /* how many times something was sent */
    unsigned warned;         /* of that, within reads: refusals to renegotiate */
    int alert;               /* the last that was sent in clear; -1: none */
    unsigned char first[5];  /* that the peer has sent: the head of a record, if it speaks TLS */
    size_t first_size;
    uint32_t flags;          /* of all certificates of the chain */
    aioloop_address address; /* hostname is a number: this */
    aioloop_ssl_cipher cipher;
    aiol_tls_certificate *peer;
    aioloop_ssl_session *resumable;
    char hostname[AIOL_TLS_HOST_MOST + 1]; /* on servers what the client said */
    char names[96];                        /* of a certificate that is for others */
    char message[AIOL_ERROR_TEXT_SIZE];
};

/* ---- sessions to resume ---- */

AIOLOOP_API aioloop_ssl_session *aioloop_ssl_session_ref(aioloop_ssl_session *session) {
    if (session != NULL)
        aiol_add_u32(&session->refs, 1);
    return session;
}

AIOLOOP_API void aioloop_ssl_session_unref(aioloop_ssl_session *session) {
    if (session == NULL || aiol_add_u32(&session->refs, (uint32_t)-1) != 0)
        return;
    mbedtls_ssl_session_free(&session->session);
    aiol_tls_certificate_unref(session->peer);
    aioloop_ssl_context_unref(session->context);
    aiol_free(&aiol_default_allocator, session, sizeof(*session));
}

static aiol_tls_certificate *aiol_tls_peer(aiol_tls_session *s) {
    if (s->peer == NULL && s->done) {
        const mbedtls_x509_crt *crt = mbedtls_ssl_get_peer_cert(&s->ssl);
        if (crt != NULL && crt->raw.p != NULL) /* of an unknown algorithm mbedTLS keeps an empty one */
            s->peer = aiol_tls_certificate_new(crt);
    }
    return s->peer;
}

/* Takes what a client can resume with in place of what it had. Without memory nothing is kept. */
static void aiol_tls_keep_session(aiol_tls_session *s) {
    aioloop_ssl_session *kept = (aioloop_ssl_session *)aiol_alloc_zero(&aiol_default_allocator, sizeof(*kept));
    if (kept == NULL)
        return;
    kept->refs = 1;
    mbedtls_ssl_session_init(&kept->session);
    kept->context = aioloop_ssl_context_ref(s->context);
    kept->peer = aiol_tls_certificate_ref(aiol_tls_peer(s));
    memcpy(kept->hostname, s->hostname, sizeof(kept->hostname));
    if (mbedtls_ssl_get_session(&s->ssl, &kept->session) != 0) {
        aioloop_ssl_session_unref(kept);
        return;
    }
    aioloop_ssl_session_unref(s->resumable);
    s->resumable = kept;
}

static bool aiol_tls_is_1_3(const aiol_tls_session *s) {
    return strcmp(mbedtls_ssl_get_version(&s->ssl), "TLSv1.3") == 0;
}

/* ---- failing ---- */

static int aiol_tls_say(aiol_tls_session *s, int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(s->message, sizeof(s->message), format, arguments);
    va_end(arguments);
    s->failed = code;
    return code;
}

AIOLOOP_INTERNAL const char *aiol_tls_session_who(const aiol_tls_session *s) {
    if (s->server_side)
        return "the client";
    return s->hostname[0] != '\0' ? s->hostname : "the server";
}

static int aiol_tls_fail_verify(aiol_tls_session *s, uint32_t flags) {
    const char *what = aiol_mbed_verify_text(flags);
    if ((flags & MBEDTLS_X509_BADCERT_NOT_TRUSTED) != 0 && s->self_signed)
        what = "it is signed by itself, and not trusted";
    else if ((flags & MBEDTLS_X509_BADCERT_NOT_TRUSTED) != 0 && s->context->authorities == NULL && s->chosen == NULL &&
             !s->context->wrapped)
        what = "no authorities are loaded that could be trusted";
    else if (flags == MBEDTLS_X509_BADCERT_CN_MISMATCH && s->names[0] != '\0')
        return aiol_tls_say(s, AIOLOOP_ESSL_CERT_VERIFY, "certificate verify failed for \"%s\": it is for %s",
                            aiol_tls_session_who(s), s->names);
    return aiol_tls_say(s, AIOLOOP_ESSL_CERT_VERIFY, "certificate verify failed for \"%s\": %s",
                        aiol_tls_session_who(s), what);
}

/* What the alert that was sent says of why the two did not agree; NULL: it says something else. */
static const char *aiol_tls_disagreement(const aiol_tls_session *s, int ret) {
    if (s->alert == MBEDTLS_SSL_ALERT_MSG_UNRECOGNIZED_NAME)
        return "the name that the client asks for is refused";
    if (s->alert == MBEDTLS_SSL_ALERT_MSG_NO_APPLICATION_PROTOCOL)
        return "none of the protocols that the client speaks (ALPN)";
    if (s->alert == MBEDTLS_SSL_ALERT_MSG_PROTOCOL_VERSION || aiol_mbed_high(ret) == AIOL_MBED_ERR_VERSION)
        return "no version of TLS in common";
    if (s->server_side && s->context->identities == NULL && s->chosen == NULL && !s->context->wrapped)
        return "no certificate was loaded";
    if (s->alert == MBEDTLS_SSL_ALERT_MSG_HANDSHAKE_FAILURE || aiol_mbed_high(ret) == AIOL_MBED_ERR_NOTHING_SHARED)
        return "no cipher suite, group or signature in common";
    return NULL;
}

/* The flags of the peer's certificate, also while it is not yet accepted. */
static uint32_t aiol_tls_flags(const aiol_tls_session *s) {
    const uint32_t flags = mbedtls_ssl_get_verify_result(&s->ssl);
    return flags == 0xffffffffu || flags == MBEDTLS_X509_BADCERT_SKIP_VERIFY ? s->flags : flags;
}

/* Whether it was the certificate. */
static bool aiol_tls_was_certificate(const aiol_tls_session *s, int ret) {
    const int high = aiol_mbed_high(ret);
    return high == MBEDTLS_ERR_X509_CERT_VERIFY_FAILED || high == MBEDTLS_ERR_SSL_CA_CHAIN_REQUIRED ||
           high == MBEDTLS_ERR_SSL_NO_CLIENT_CERTIFICATE ||
           (high == AIOL_MBED_ERR_CERTIFICATE && aiol_tls_flags(s) != 0);
}

/* The peer's alert, if that is what ended it, else -1. A client that has not switched to its keys yet when it refuses
 * the server says so in clear, as mbedTLS's own do in TLS 1.3, and then mbedTLS's servers find no more than a bad
 * record. */
static int aiol_tls_alert(const aiol_tls_session *s, int ret) {
    const unsigned char *record = s->ssl.AIOL_MBED_PRIVATE(in_hdr);
    if (ret == MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE)
        return s->ssl.AIOL_MBED_PRIVATE(in_msg)[1];
    if (ret == MBEDTLS_ERR_SSL_INVALID_MAC && !s->done && record[0] == MBEDTLS_SSL_MSG_ALERT && record[3] == 0 &&
        record[4] == 2)
        return record[6];
    return -1;
}

/* A peer that speaks something else: what it began with says what. */
static bool aiol_tls_is_foreign(const aiol_tls_session *s) {
    return s->first_size == sizeof(s->first) &&
           (s->first[0] < MBEDTLS_SSL_MSG_CHANGE_CIPHER_SPEC || s->first[0] > 24 /* heartbeat */ || s->first[1] != 3);
}

static int aiol_tls_fail_foreign(aiol_tls_session *s) {
    char text[32] = "";
    bool readable = true;
    size_t i;
    for (i = 0; i < sizeof(s->first); i++)
        readable = readable && s->first[i] >= 0x20 && s->first[i] < 0x7f;
    if (readable)
        snprintf(text, sizeof(text), ": it began with \"%.5s\"", (const char *)s->first);
    return aiol_tls_say(s, AIOLOOP_ESSL, "TLS with %s: it does not speak TLS%s", aiol_tls_session_who(s), text);
}

/* Translates what mbedTLS answered. */
static int aiol_tls_translate(aiol_tls_session *s, int ret) {
    const char *disagreement = s->done ? NULL : aiol_tls_disagreement(s, ret);
    aiol_mbed_text text;
    if (s->io_error < 0)
        return aiol_tls_say(s, s->io_error, "TLS with %s: %s", aiol_tls_session_who(s), aioloop_strerror(s->io_error));
    if (aiol_mbed_no_memory(ret))
        return aiol_tls_say(s, AIOLOOP_ENOMEM, "TLS with %s: %s", aiol_tls_session_who(s),
                            aioloop_strerror(AIOLOOP_ENOMEM));
    if (aiol_tls_alert(s, ret) >= 0)
        return aiol_tls_say(s, AIOLOOP_ESSL_ALERT, "TLS with %s: it sent the alert %s", aiol_tls_session_who(s),
                            aiol_mbed_alert_name(aiol_tls_alert(s, ret)));
    if (!s->done && aiol_tls_is_foreign(s))
        return aiol_tls_fail_foreign(s);
    if (ret == AIOL_MBED_ERR_RANDOM)
        return aiol_tls_say(s, AIOLOOP_EIO, "TLS with %s: the system gives no random bytes", aiol_tls_session_who(s));
    if (ret == MBEDTLS_ERR_SSL_NO_CLIENT_CERTIFICATE)
        return aiol_tls_fail_verify(s, MBEDTLS_X509_BADCERT_MISSING);
    if (aiol_tls_was_certificate(s, ret))
        return aiol_tls_fail_verify(s, aiol_tls_flags(s));
    if (ret == MBEDTLS_ERR_SSL_CONN_EOF || ret == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY)
        return aiol_tls_say(s, AIOLOOP_ECONNRESET, "TLS with %s: it left during the handshake",
                            aiol_tls_session_who(s));
    if (disagreement != NULL)
        return aiol_tls_say(s, AIOLOOP_ESSL_HANDSHAKE, "TLS with %s: %s", aiol_tls_session_who(s), disagreement);
    return aiol_tls_say(s, AIOLOOP_ESSL, "TLS with %s: %s", aiol_tls_session_who(s), aiol_mbed_strerror(ret, &text));
}

/* Which alert a failure deserves that had none. */
static int aiol_tls_alert_for(int code, int ret) {
    if (code == AIOLOOP_ESSL_CERT_VERIFY)
        return MBEDTLS_SSL_ALERT_MSG_BAD_CERT;
    if (code == AIOLOOP_ESSL_HANDSHAKE)
        return MBEDTLS_SSL_ALERT_MSG_HANDSHAKE_FAILURE;
    if (code != AIOLOOP_ESSL)
        return MBEDTLS_SSL_ALERT_MSG_INTERNAL_ERROR;
    if (ret == MBEDTLS_ERR_SSL_INVALID_MAC)
        return MBEDTLS_SSL_ALERT_MSG_BAD_RECORD_MAC;
    if (ret == MBEDTLS_ERR_SSL_UNEXPECTED_MESSAGE)
        return MBEDTLS_SSL_ALERT_MSG_UNEXPECTED_MESSAGE;
    return MBEDTLS_SSL_ALERT_MSG_DECODE_ERROR;
}

/* The end of it: ret came of a call before which `sent` had this value. Returns the code. */
static int aiol_tls_fail(aiol_tls_session *s, int ret, unsigned sent) {
    const int code = aiol_tls_translate(s, ret);
    if (s->sent == sent && s->io_error == 0 && code != AIOLOOP_ESSL_ALERT && code != AIOLOOP_ECONNRESET)
        mbedtls_ssl_send_alert_message(&s->ssl, MBEDTLS_SSL_ALERT_LEVEL_FATAL,
                                       (unsigned char)aiol_tls_alert_for(code, ret));
    return code;
}

/* ---- what mbedTLS calls ---- */

static int aiol_tls_on_send(void *arg, const unsigned char *data, size_t size) {
    aiol_tls_session *s = (aiol_tls_session *)arg;
    int err = s->io.send(s->io.owner, data, size);
    s->sent++;
    if (size == 7 && data[0] == MBEDTLS_SSL_MSG_ALERT)
        s->alert = data[6];
    if (err < 0) {
        s->io_error = err;
        return MBEDTLS_ERR_SSL_INTERNAL_ERROR;
    }
    return (int)size;
}

static int aiol_tls_on_receive(void *arg, unsigned char *buffer, size_t size) {
    aiol_tls_session *s = (aiol_tls_session *)arg;
    int64_t n = s->io.receive(s->io.owner, buffer, aiol_min_size(size, INT_MAX));
    s->starved = n == AIOL_TLS_MORE;
    s->ended = n == 0;
    if (n == AIOL_TLS_MORE)
        return MBEDTLS_ERR_SSL_WANT_READ;
    if (n < 0) {
        s->io_error = (int)n;
        return MBEDTLS_ERR_SSL_INTERNAL_ERROR;
    }
    if (s->first_size < sizeof(s->first)) {
        size = aiol_min_size((size_t)n, sizeof(s->first) - s->first_size);
        memcpy(s->first + s->first_size, buffer, size);
        s->first_size += size;
    }
    return (int)n;
}

/* For each certificate of a chain, from the authority's down to the peer's, which has depth 0. */
static int aiol_tls_on_verify(void *arg, mbedtls_x509_crt *crt, int depth, uint32_t *flags) {
    aiol_tls_session *s = (aiol_tls_session *)arg;
    if (depth == 0 && !s->server_side) {
        if (!s->context->check_hostname)
            *flags &= ~(uint32_t)MBEDTLS_X509_BADCERT_CN_MISMATCH;
        else if (s->address.family != AIOLOOP_UNSPEC && !aiol_tls_has_address(crt, &s->address))
            *flags |= MBEDTLS_X509_BADCERT_CN_MISMATCH;
    }
    if ((*flags & MBEDTLS_X509_BADCERT_CN_MISMATCH) != 0)
        aiol_tls_names(crt, s->names, sizeof(s->names));
    if (depth == 0 && crt->issuer_raw.len != 0 && crt->issuer_raw.len == crt->subject_raw.len &&
        memcmp(crt->issuer_raw.p, crt->subject_raw.p, crt->issuer_raw.len) == 0)
        s->self_signed = true;
    s->flags |= *flags;
    return 0;
}

/* Goes on with another context's certificates and demands. 0, or -1 to refuse: mbedTLS would fill in what is missing
 * there from the first context. */
static int aiol_tls_choose(aiol_tls_session *s, aioloop_ssl_context *chosen) {
    const aiol_tls_identity *identity;
    int ret = 0;
    if (chosen->side != AIOLOOP_TLS_SERVER || chosen->wrapped || chosen->identities == NULL ||
        (chosen->verify_mode != AIOLOOP_CERT_NONE && chosen->authorities == NULL))
        return -1;
    s->chosen = aioloop_ssl_context_ref(chosen);
    aiol_store(&chosen->used, 1);
    for (identity = chosen->identities; identity != NULL && ret == 0; identity = identity->next)
        ret = mbedtls_ssl_set_hs_own_cert(&s->ssl, (mbedtls_x509_crt *)&identity->chain,
                                          (mbedtls_pk_context *)&identity->key);
    mbedtls_ssl_set_hs_ca_chain(&s->ssl, chosen->authorities, chosen->revoked);
    mbedtls_ssl_set_hs_authmode(&s->ssl, chosen->verify_mode == AIOLOOP_CERT_NONE       ? MBEDTLS_SSL_VERIFY_NONE
                                         : chosen->verify_mode == AIOLOOP_CERT_OPTIONAL ? MBEDTLS_SSL_VERIFY_OPTIONAL
                                                                                        : MBEDTLS_SSL_VERIFY_REQUIRED);
    if (ret == 0)
        return 0;
    s->io_error = AIOLOOP_ENOMEM; /* all that it can lack */
    return -1;
}

/* A client has said a name. It may do so twice, in TLS 1.3, but not another one, nor one for the first time. */
static int aiol_tls_server_name(void *arg, mbedtls_ssl_context *ssl, const unsigned char *name, size_t size) {
    aiol_tls_session *s = AIOL_CONTAINER(ssl, aiol_tls_session, ssl);
    aioloop_ssl_context *c = (aioloop_ssl_context *)arg;
    aioloop_ssl_context *chosen;
    const bool again = s->hostname[0] != '\0';
    size_t i;
    if (size == 0 || size > AIOL_TLS_HOST_MOST)
        return -1;
    for (i = 0; i < size; i++)
        if (name[i] <= 0x20 || name[i] >= 0x7f)
            return -1;
    if (again || s->greeted)
        return strlen(s->hostname) == size && memcmp(s->hostname, name, size) == 0 ? 0 : -1;
    memcpy(s->hostname, name, size);
    s->hostname[size] = '\0';
    if (c->sni == NULL)
        return 0;
    chosen = c->sni(c, s->hostname, c->sni_arg);
    if (chosen == c)
        return 0;
    return chosen == NULL ? -1 : aiol_tls_choose(s, chosen);
}

/* ---- the log of keys ---- */

static size_t aiol_tls_hex(char *to, const unsigned char *data, size_t size) {
    size_t i;
    for (i = 0; i < size; i++) {
        to[2 * i] = "0123456789abcdef"[data[i] >> 4];
        to[2 * i + 1] = "0123456789abcdef"[data[i] & 15];
    }
    return 2 * size;
}

/* A line of NSS's format. */
static void aiol_tls_log_key(int fd, const char *label, const unsigned char client_random[32],
                             const unsigned char *secret, size_t size) {
    char line[32 + 64 + 1 + 2 * 64 + 1];
    size_t n = strlen(label);
    if (size > 64)
        return;
    memcpy(line, label, n);
    line[n++] = ' ';
    n += aiol_tls_hex(line + n, client_random, 32);
    line[n++] = ' ';
    n += aiol_tls_hex(line + n, secret, size);
    line[n++] = '\n';
    aiol_file_append(fd, line, n);
    aiol_wipe(line, sizeof(line));
}

#if AIOL_MBED_3
static void aiol_tls_on_key(void *arg, mbedtls_ssl_key_export_type type, const unsigned char *secret, size_t size,
                            const unsigned char client_random[32], const unsigned char server_random[32],
                            mbedtls_tls_prf_types prf) {
    const aiol_tls_session *s = (const aiol_tls_session *)arg;
    const char *label = NULL;
    (void)server_random;
    (void)prf;
    if (type == MBEDTLS_SSL_KEY_EXPORT_TLS12_MASTER_SECRET)
        label = "CLIENT_RANDOM";
#if AIOL_MBED_TLS_1_3
    else if (type == MBEDTLS_SSL_KEY_EXPORT_TLS1_3_CLIENT_HANDSHAKE_TRAFFIC_SECRET)
        label = "CLIENT_HANDSHAKE_TRAFFIC_SECRET";
    else if (type == MBEDTLS_SSL_KEY_EXPORT_TLS1_3_SERVER_HANDSHAKE_TRAFFIC_SECRET)
        label = "SERVER_HANDSHAKE_TRAFFIC_SECRET";
    else if (type == MBEDTLS_SSL_KEY_EXPORT_TLS1_3_CLIENT_APPLICATION_TRAFFIC_SECRET)
        label = "CLIENT_TRAFFIC_SECRET_0";
    else if (type == MBEDTLS_SSL_KEY_EXPORT_TLS1_3_SERVER_APPLICATION_TRAFFIC_SECRET)
        label = "SERVER_TRAFFIC_SECRET_0";
#endif
    if (label != NULL)
        aiol_tls_log_key(s->context->keylog, label, client_random, secret, size);
}
#elif defined(MBEDTLS_SSL_EXPORT_KEYS)
static int aiol_tls_log_master(void *arg, const unsigned char *master, const unsigned char *block, size_t mac_size,
                               size_t key_size, size_t iv_size, const unsigned char client_random[32],
                               const unsigned char server_random[32], mbedtls_tls_prf_types prf) {
    const aioloop_ssl_context *c = (const aioloop_ssl_context *)arg;
    (void)block;
    (void)mac_size;
    (void)key_size;
    (void)iv_size;
    (void)server_random;
    (void)prf;
    aiol_tls_log_key(c->keylog, "CLIENT_RANDOM", client_random, master, 48);
    return 0;
}
#endif

/* ---- making and ending ---- */

AIOLOOP_INTERNAL void aiol_tls_session_free(aiol_tls_session *s) {
    if (s == NULL)
        return;
    mbedtls_ssl_free(&s->ssl);
    aioloop_ssl_session_unref(s->resumable);
    aiol_tls_certificate_unref(s->peer);
    aioloop_ssl_context_unref(s->chosen);
    aioloop_ssl_context_unref(s->context);
    aiol_free(&aiol_default_allocator, s, sizeof(*s));
}

/* Whether a client may call itself to be speaking to that. */
static int aiol_tls_check_hostname(const char *hostname) {
    size_t i;
    if (hostname[0] == '.' || strchr(hostname, '*') != NULL || strlen(hostname) > AIOL_TLS_HOST_MOST)
        return aiol_thread_fail(AIOLOOP_EINVAL, "server_hostname is no name of a host: \"%.80s\"", hostname);
    for (i = 0; hostname[i] != '\0'; i++)
        if ((unsigned char)hostname[i] <= 0x20 || (unsigned char)hostname[i] >= 0x7f)
            return aiol_thread_fail(AIOLOOP_EINVAL,
                                    "server_hostname must be written in ASCII, other characters as \"xn--...\"");
    return 0;
}

/* Whether a name is a number. The zone of one of IPv6 is this machine's matter. */
static bool aiol_tls_parse_number(aioloop_address *address, const char *name) {
    const char *zone = strchr(name, '%');
    if (zone == NULL || zone[1] == '\0')
        return aioloop_address_parse(address, name, 0) == 0;
    if (!aiol_address_parse_v6(name, (size_t)(zone - name), address->u.ip))
        return false;
    address->family = AIOLOOP_INET6;
    return true;
}

/* A client's: the name, and the session to resume. A number is not told to the server and is compared by ourselves. */
static int aiol_tls_prepare_client(aiol_tls_session *s, const aioloop_ssl_session *resume) {
    const char *name = s->hostname[0] == '\0' ? NULL : s->hostname;
    if (name != NULL && !s->context->wrapped && aiol_tls_parse_number(&s->address, name))
        name = NULL;
    if (mbedtls_ssl_set_hostname(&s->ssl, name) != 0)
        return aiol_thread_fail(AIOLOOP_ENOMEM, NULL);
    if (resume == NULL)
        return 0;
    if (resume->context != s->context)
        return aiol_thread_fail(AIOLOOP_EINVAL, "the session to resume is of another context");
    if (strcmp(resume->hostname, s->hostname) != 0)
        return aiol_thread_fail(AIOLOOP_EINVAL, "the session to resume is of another host: \"%s\"", resume->hostname);
    if (mbedtls_ssl_set_session(&s->ssl, &resume->session) != 0)
        return aiol_thread_fail(AIOLOOP_ENOMEM, NULL);
    s->peer = aiol_tls_certificate_ref(resume->peer);
    return 0;
}

/* The rest of a new one. 0 or a code. */
static int aiol_tls_prepare(aiol_tls_session *s, const aioloop_ssl_session *resume) {
    aiol_mbed_text text;
    int ret = mbedtls_ssl_setup(&s->ssl, s->context->config);
    if (ret != 0)
        return aiol_thread_fail(aiol_mbed_no_memory(ret) ? AIOLOOP_ENOMEM : AIOLOOP_ESSL, "%s",
                                aiol_mbed_strerror(ret, &text));
    mbedtls_ssl_set_bio(&s->ssl, s, aiol_tls_on_send, aiol_tls_on_receive, NULL);
    if (!s->context->wrapped) {
        mbedtls_ssl_set_verify(&s->ssl, aiol_tls_on_verify, s);
#if AIOL_MBED_3
        if (s->context->keylog >= 0)
            mbedtls_ssl_set_export_keys_cb(&s->ssl, aiol_tls_on_key, s);
#endif
    }
    return s->server_side ? 0 : aiol_tls_prepare_client(s, resume);
}

AIOLOOP_INTERNAL int aiol_tls_check_side(const aioloop_ssl_context *context, bool server_side) {
    if (server_side == (context->side == AIOLOOP_TLS_SERVER))
        return 0;
    return aiol_thread_fail(AIOLOOP_EINVAL, "a %s needs a context made for that side",
                            server_side ? "server" : "client");
}

AIOLOOP_INTERNAL bool aiol_tls_checks_host(const aioloop_ssl_context *context) {
    return context->check_hostname && !context->wrapped;
}

AIOLOOP_INTERNAL int aiol_tls_session_new(aioloop_ssl_context *context, bool server_side, const char *hostname,
                                          const aioloop_ssl_session *resume, const aiol_tls_io *io,
                                          aiol_tls_session **out) {
    aiol_tls_session *s;
    int err = aiol_mbed_check_thread();
    if (err == 0)
        err = aiol_tls_check_side(context, server_side);
    if (err == 0 && !server_side && hostname != NULL)
        err = aiol_tls_check_hostname(hostname);
    if (err < 0)
        return err;
    s = (aiol_tls_session *)aiol_alloc_zero(&aiol_default_allocator, sizeof(*s));
    if (s == NULL)
        return aiol_thread_fail(AIOLOOP_ENOMEM, NULL);
    aiol_store(&context->used, 1);
    mbedtls_ssl_init(&s->ssl);
    s->context = aioloop_ssl_context_ref(context);
    s->io = *io;
    s->server_side = server_side;
    s->alert = -1;
    if (!server_side && hostname != NULL)
        memcpy(s->hostname, hostname, strlen(hostname) + 1);
    err = aiol_tls_prepare(s, resume);
    if (err < 0) {
        aiol_tls_session_free(s);
        return err;
    }
    *out = s;
    return 0;
}

/* ---- speaking ---- */

static int aiol_tls_state(const aiol_tls_session *s) {
    return s->ssl.AIOL_MBED_PRIVATE(state);
}

/* Of what is resumed, the certificate is the one of then. */
static void aiol_tls_handshake_done(aiol_tls_session *s) {
    s->done = true;
    s->reused = !s->verified;
    if (!s->reused) {
        aiol_tls_certificate_unref(s->peer);
        s->peer = NULL;
    }
}

/* After a server has looked at a certificate that need not have come. 0, or the code if it came and is bad. */
static int aiol_tls_check_optional(aiol_tls_session *s) {
    const aioloop_ssl_context *c = s->chosen != NULL ? s->chosen : s->context;
    const uint32_t flags = aiol_tls_flags(s);
    unsigned char alert = MBEDTLS_SSL_ALERT_MSG_BAD_CERT;
    if (c->wrapped || c->verify_mode != AIOLOOP_CERT_OPTIONAL || flags == 0 ||
        (flags & MBEDTLS_X509_BADCERT_MISSING) != 0)
        return 0;
    if ((flags & MBEDTLS_X509_BADCERT_NOT_TRUSTED) != 0)
        alert = MBEDTLS_SSL_ALERT_MSG_UNKNOWN_CA;
    else if ((flags & MBEDTLS_X509_BADCERT_EXPIRED) != 0)
        alert = MBEDTLS_SSL_ALERT_MSG_CERT_EXPIRED;
    else if ((flags & MBEDTLS_X509_BADCERT_REVOKED) != 0)
        alert = MBEDTLS_SSL_ALERT_MSG_CERT_REVOKED;
    mbedtls_ssl_send_alert_message(&s->ssl, MBEDTLS_SSL_ALERT_LEVEL_FATAL, alert);
    return aiol_tls_fail_verify(s, flags);
}

/* One step: 0, AIOL_TLS_MORE, or a code. */
static int aiol_tls_step(aiol_tls_session *s) {
    const unsigned sent = s->sent;
    const int state = aiol_tls_state(s);
    int ret;
    s->starved = false;
    ret = mbedtls_ssl_handshake_step(&s->ssl);
    if (state == MBEDTLS_SSL_SERVER_CERTIFICATE)
        s->verified = true;
    if (ret == 0 && state == MBEDTLS_SSL_CLIENT_HELLO && aiol_tls_state(s) != state)
        s->greeted = true;
    if (ret == MBEDTLS_ERR_SSL_WANT_READ)
        return s->starved ? AIOL_TLS_MORE : 0;
    if (ret == AIOL_MBED_ERR_TICKET) {
        aiol_tls_keep_session(s);
        return 0;
    }
    if (ret != 0)
        return aiol_tls_fail(s, ret, sent);
    return s->server_side && state == MBEDTLS_SSL_CLIENT_CERTIFICATE ? aiol_tls_check_optional(s) : 0;
}

AIOLOOP_INTERNAL int aiol_tls_session_greeting(aiol_tls_session *s) {
    int err = s->failed;
    while (err == 0 && s->server_side && !s->greeted)
        err = aiol_tls_step(s);
    return err;
}

AIOLOOP_INTERNAL int aiol_tls_session_handshake(aiol_tls_session *s) {
    int err = s->failed;
    while (err == 0 && !s->done) {
        if (aiol_tls_state(s) == MBEDTLS_SSL_HANDSHAKE_OVER)
            aiol_tls_handshake_done(s);
        else
            err = aiol_tls_step(s);
    }
    return err;
}

/* Reads; with size 0 decrypts a record, of which it says how much there is, and leaves it there. */
static int64_t aiol_tls_read(aiol_tls_session *s, void *buffer, size_t size) {
    while (s->failed == 0 && !s->heard) {
        const unsigned sent = s->sent;
        int ret;
        s->starved = false;
        ret = mbedtls_ssl_read(&s->ssl, (unsigned char *)buffer, aiol_min_size(size, INT_MAX));
        s->warned += s->sent - sent;
        if (ret > 0)
            return ret;
        if (size == 0 && mbedtls_ssl_get_bytes_avail(&s->ssl) != 0)
            return (int64_t)mbedtls_ssl_get_bytes_avail(&s->ssl);
        if (ret == MBEDTLS_ERR_SSL_WANT_READ && s->warned > AIOL_TLS_WARNINGS_MOST)
            ret = MBEDTLS_ERR_SSL_UNEXPECTED_MESSAGE;
        if (ret == MBEDTLS_ERR_SSL_WANT_READ && s->starved)
            return AIOL_TLS_MORE;
        if (ret == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY)
            s->heard = true;
        else if (ret == MBEDTLS_ERR_SSL_CONN_EOF || (ret == 0 && s->ended)) /* else 0 is of empty records */
            aiol_tls_say(s, AIOLOOP_ESSL_TRUNCATED, "TLS with %s: %s", aiol_tls_session_who(s),
                         aioloop_strerror(AIOLOOP_ESSL_TRUNCATED));
        else if (ret == AIOL_MBED_ERR_TICKET)
            aiol_tls_keep_session(s);
        else if (ret != 0 && ret != MBEDTLS_ERR_SSL_WANT_READ)
            aiol_tls_fail(s, ret, sent);
    }
    return s->failed;
}

AIOLOOP_INTERNAL int64_t aiol_tls_session_available(aiol_tls_session *s) {
    unsigned char nowhere;
    size_t there = s->failed == 0 ? mbedtls_ssl_get_bytes_avail(&s->ssl) : 0;
    AIOL_ASSERT(s->done);
    return there != 0 ? (int64_t)there : aiol_tls_read(s, &nowhere, 0);
}

AIOLOOP_INTERNAL int64_t aiol_tls_session_read(aiol_tls_session *s, void *buffer, size_t size) {
    AIOL_ASSERT(s->done && size != 0);
    return aiol_tls_read(s, buffer, size);
}

AIOLOOP_INTERNAL bool aiol_tls_session_pending(const aiol_tls_session *s) {
    return s->failed != 0 || mbedtls_ssl_check_pending(&s->ssl) != 0;
}

AIOLOOP_INTERNAL int aiol_tls_session_write(aiol_tls_session *s, const void *data, size_t size) {
    const unsigned char *p = (const unsigned char *)data;
    AIOL_ASSERT(s->done && !s->said);
    while (s->failed == 0 && size != 0) {
        const unsigned sent = s->sent;
        int ret = mbedtls_ssl_write(&s->ssl, p, size);
        if (ret <= 0)
            return aiol_tls_fail(s, ret, sent);
        p += ret;
        size -= (size_t)ret;
    }
    return s->failed;
}

AIOLOOP_INTERNAL int aiol_tls_session_close(aiol_tls_session *s) {
    const unsigned sent = s->sent;
    int ret;
    if (s->failed != 0 || s->said)
        return s->failed;
    s->said = true;
    ret = mbedtls_ssl_close_notify(&s->ssl);
    return ret == 0 ? 0 : aiol_tls_fail(s, ret, sent);
}

/* ---- what is known ---- */

AIOLOOP_INTERNAL const char *aiol_tls_session_message(const aiol_tls_session *s) {
    return s->message;
}

/* OpenSSL's name where it is one of the default ones, else IANA's. */
static const aioloop_ssl_cipher *aiol_tls_cipher(aiol_tls_session *s) {
    const char *name = mbedtls_ssl_get_ciphersuite(&s->ssl);
    size_t i;
    if (name == NULL)
        return NULL;
    s->cipher.name = name;
    for (i = 0; i < AIOL_TLS_SUITES; i++)
        if (aiol_tls_suites[i].id == mbedtls_ssl_get_ciphersuite_id(name))
            s->cipher.name = aiol_tls_suites[i].name;
    s->cipher.protocol = mbedtls_ssl_get_version(&s->ssl);
    s->cipher.bits = strstr(name, "256-") != NULL || strstr(name, "CHACHA20") != NULL ? 256
                     : strstr(name, "128-") != NULL                                   ? 128
                                                                                      : 0;
    return &s->cipher;
}

/* With TLS 1.3 what a ticket brought; with 1.2 what the handshake did. */
static const aioloop_ssl_session *aiol_tls_resumable(aiol_tls_session *s) {
    if (!s->server_side && s->resumable == NULL && !aiol_tls_is_1_3(s))
        aiol_tls_keep_session(s);
    return s->resumable;
}

AIOLOOP_INTERNAL const void *aiol_tls_session_info(aiol_tls_session *s, const char *name) {
    aiol_tls_certificate *peer;
    if (strcmp(name, "sslcontext") == 0)
        return s->context;
    if (strcmp(name, "ssl_object") == 0)
        return &s->ssl;
    if (strcmp(name, "server_hostname") == 0)
        return s->hostname[0] == '\0' ? NULL : s->hostname;
    if (!s->done)
        return NULL;
    if (strcmp(name, "version") == 0)
        return mbedtls_ssl_get_version(&s->ssl);
    if (strcmp(name, "alpn") == 0)
        return mbedtls_ssl_get_alpn_protocol(&s->ssl);
    if (strcmp(name, "cipher") == 0)
        return aiol_tls_cipher(s);
    if (strcmp(name, "session_reused") == 0)
        return &s->reused;
    if (strcmp(name, "session") == 0)
        return aiol_tls_resumable(s);
    if (strcmp(name, "peercert") != 0)
        return NULL;
    peer = aiol_tls_peer(s);
    return peer == NULL ? NULL : &peer->value;
}

#endif
