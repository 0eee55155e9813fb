/*
 * mbedtls.c - mbedTLS, as the rest of tls/ sees it: in what 2.28, 3.x and 4.x differ, randomness, codes and messages.
 *
 * The one file that includes it. A member that is private in some version is reached through AIOL_MBED_PRIVATE, where
 * there is no other way to it.
 */
#ifndef AIOL_TLS_MBEDTLS_C
#define AIOL_TLS_MBEDTLS_C

#include "base/atomic.h"
#include "base/context.c"
#include "sys/address.c"
#include "sys/file.c"
#include "sys/random.c"
#include "tls/session.h"

#ifdef __cplusplus
extern "C++" {
#endif
#include <mbedtls/version.h>
#include <mbedtls/ssl.h>
#include <mbedtls/ssl_ciphersuites.h>
#include <mbedtls/ssl_ticket.h>
#include <mbedtls/x509_crt.h>
#include <mbedtls/x509_crl.h>
#include <mbedtls/pk.h>
#include <mbedtls/error.h>
#if defined(MBEDTLS_PSA_CRYPTO_C) || MBEDTLS_VERSION_NUMBER >= 0x04000000
#include <psa/crypto.h>
#endif
#ifdef __cplusplus
}
#endif

#if MBEDTLS_VERSION_NUMBER < 0x021c0000
#error "aioloop.h: AIOLOOP_USE_TLS needs mbedTLS 2.28 or newer"
#endif
#if !defined(MBEDTLS_SSL_CLI_C) || !defined(MBEDTLS_SSL_SRV_C) || !defined(MBEDTLS_SSL_PROTO_TLS1_2) ||                \
    !defined(MBEDTLS_X509_CRT_PARSE_C) || !defined(MBEDTLS_X509_CRL_PARSE_C) || !defined(MBEDTLS_PEM_PARSE_C) ||       \
    !defined(MBEDTLS_SSL_ALPN) || !defined(MBEDTLS_SSL_SERVER_NAME_INDICATION)
#error "aioloop.h: AIOLOOP_USE_TLS needs an mbedTLS with client, server, TLS 1.2, X.509, PEM, ALPN and SNI"
#endif

/* ---- versions ---- */

#if MBEDTLS_VERSION_NUMBER >= 0x03000000
#define AIOL_MBED_3 1
#define AIOL_MBED_PRIVATE(member) MBEDTLS_PRIVATE(member)
#else
#define AIOL_MBED_3 0
#define AIOL_MBED_PRIVATE(member) member
#endif
#if MBEDTLS_VERSION_NUMBER >= 0x04000000
#define AIOL_MBED_4 1
#else
#define AIOL_MBED_4 0
#endif
#if AIOL_MBED_3 && defined(MBEDTLS_SSL_PROTO_TLS1_3)
#define AIOL_MBED_TLS_1_3 1
#else
#define AIOL_MBED_TLS_1_3 0
#endif
#if AIOL_MBED_4 || defined(MBEDTLS_PSA_CRYPTO_C)
#define AIOL_MBED_PSA 1
#else
#define AIOL_MBED_PSA 0
#endif
#if defined(MBEDTLS_SSL_TICKET_C) && defined(MBEDTLS_SSL_SESSION_TICKETS)
#define AIOL_MBED_TICKETS 1
#else
#define AIOL_MBED_TICKETS 0
#endif

/* 2.28 has more codes than its successors, and they some that it lacks: what is not there stands for nothing. */
#if AIOL_MBED_3
#define AIOL_MBED_ERR_TICKET MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET
#define AIOL_MBED_ERR_CERTIFICATE MBEDTLS_ERR_SSL_BAD_CERTIFICATE
#define AIOL_MBED_ERR_VERSION MBEDTLS_ERR_SSL_BAD_PROTOCOL_VERSION
#define AIOL_MBED_ERR_NOTHING_SHARED MBEDTLS_ERR_SSL_HANDSHAKE_FAILURE
#else
#define AIOL_MBED_ERR_TICKET 1
#define AIOL_MBED_ERR_CERTIFICATE MBEDTLS_ERR_SSL_BAD_HS_CERTIFICATE
#define AIOL_MBED_ERR_VERSION MBEDTLS_ERR_SSL_BAD_HS_PROTOCOL_VERSION
#define AIOL_MBED_ERR_NOTHING_SHARED MBEDTLS_ERR_SSL_NO_CIPHER_CHOSEN
#endif

/* What a lack of randomness is called by those before 4.x, which ask us for it. */
#define AIOL_MBED_ERR_RANDOM (-0x7400)

#if !AIOL_MBED_4
static int aiol_mbed_random(void *unused, unsigned char *out, size_t size) {
    int err = aiol_random_fill(out, size);
    (void)unused;
#if AIOL_MBED_PSA
    if (err == AIOLOOP_ENOTAVAILABLE)
        err = psa_generate_random(out, size) == PSA_SUCCESS ? 0 : AIOLOOP_EIO;
#endif
    return err < 0 ? AIOL_MBED_ERR_RANDOM : 0;
}
#endif

static int aiol_mbed_parse_key(mbedtls_pk_context *key, const unsigned char *data, size_t size, const char *password) {
    const unsigned char *secret = (const unsigned char *)password;
    size_t secret_size = password == NULL ? 0 : strlen(password);
#if AIOL_MBED_3 && !AIOL_MBED_4
    return mbedtls_pk_parse_key(key, data, size, secret, secret_size, aiol_mbed_random, NULL);
#else
    return mbedtls_pk_parse_key(key, data, size, secret, secret_size);
#endif
}

/* 0 if the private key is the certificate's. */
static int aiol_mbed_check_pair(const mbedtls_x509_crt *certificate, const mbedtls_pk_context *key) {
#if AIOL_MBED_3 && !AIOL_MBED_4
    return mbedtls_pk_check_pair(&certificate->pk, key, aiol_mbed_random, NULL);
#else
    return mbedtls_pk_check_pair(&certificate->pk, key);
#endif
}

#if AIOL_MBED_TICKETS
static int aiol_mbed_ticket_setup(mbedtls_ssl_ticket_context *ticket) {
    const uint32_t lifetime = 86400; /* seconds; the keys change as often */
#if AIOL_MBED_4
    return mbedtls_ssl_ticket_setup(ticket, PSA_ALG_GCM, PSA_KEY_TYPE_AES, 256, lifetime);
#else
    return mbedtls_ssl_ticket_setup(ticket, aiol_mbed_random, NULL, MBEDTLS_CIPHER_AES_256_GCM, lifetime);
#endif
}
#endif

static void aiol_mbed_set_version(mbedtls_ssl_config *config, bool least, aioloop_tls_version version) {
#if AIOL_MBED_3
    mbedtls_ssl_protocol_version v =
        version == AIOLOOP_TLS_1_3 ? MBEDTLS_SSL_VERSION_TLS1_3 : MBEDTLS_SSL_VERSION_TLS1_2;
    if (least)
        mbedtls_ssl_conf_min_tls_version(config, v);
    else
        mbedtls_ssl_conf_max_tls_version(config, v);
#else
    (void)version; /* the only one */
    if (least)
        mbedtls_ssl_conf_min_version(config, MBEDTLS_SSL_MAJOR_VERSION_3, MBEDTLS_SSL_MINOR_VERSION_3);
    else
        mbedtls_ssl_conf_max_version(config, MBEDTLS_SSL_MAJOR_VERSION_3, MBEDTLS_SSL_MINOR_VERSION_3);
#endif
}

#if !AIOL_MBED_3
/* Its own order begins with the slowest. */
static const mbedtls_ecp_group_id aiol_mbed_curves[] = {
#if defined(MBEDTLS_ECP_DP_CURVE25519_ENABLED)
    MBEDTLS_ECP_DP_CURVE25519,
#endif
#if defined(MBEDTLS_ECP_DP_SECP256R1_ENABLED)
    MBEDTLS_ECP_DP_SECP256R1,
#endif
#if defined(MBEDTLS_ECP_DP_SECP384R1_ENABLED)
    MBEDTLS_ECP_DP_SECP384R1,
#endif
#if defined(MBEDTLS_ECP_DP_SECP521R1_ENABLED)
    MBEDTLS_ECP_DP_SECP521R1,
#endif
    MBEDTLS_ECP_DP_NONE};
#endif

/* What every context begins with. */
static void aiol_mbed_configure(mbedtls_ssl_config *config) {
    aiol_mbed_set_version(config, true, AIOLOOP_TLS_1_2);
    aiol_mbed_set_version(config, false, AIOL_MBED_TLS_1_3 ? AIOLOOP_TLS_1_3 : AIOLOOP_TLS_1_2);
#if !AIOL_MBED_4
    mbedtls_ssl_conf_rng(config, aiol_mbed_random, NULL);
#endif
#if !AIOL_MBED_3
    mbedtls_ssl_conf_curves(config, aiol_mbed_curves);
#endif
#if defined(MBEDTLS_SSL_RENEGOTIATION)
    mbedtls_ssl_conf_renegotiation(config, MBEDTLS_SSL_RENEGOTIATION_DISABLED);
#endif
#if AIOL_MBED_TLS_1_3
    mbedtls_ssl_conf_tls13_key_exchange_modes(config, MBEDTLS_SSL_TLS1_3_KEY_EXCHANGE_MODE_EPHEMERAL_ALL);
#if defined(MBEDTLS_SSL_SESSION_TICKETS) && MBEDTLS_VERSION_NUMBER >= 0x03060100
    mbedtls_ssl_conf_tls13_enable_signal_new_session_tickets(config,
                                                             MBEDTLS_SSL_TLS1_3_SIGNAL_NEW_SESSION_TICKETS_ENABLED);
#endif
#endif
}

/* ---- is it fit to be used ---- */

#define AIOL_MBED_PATTERN 0xa5

/* How many bytes an init function of the library has cleared: the size that it believes in. */
#define AIOL_MBED_SIZE_IN_LIBRARY(type, init, room, room_size, size)                                                   \
    do {                                                                                                               \
        memset((room), AIOL_MBED_PATTERN, (room_size));                                                                \
        init((type *)(void *)(room));                                                                                  \
        (size) = aiol_mbed_cleared((room), (room_size));                                                               \
    } while (0)

static size_t aiol_mbed_cleared(const unsigned char *room, size_t size) {
    while (size != 0 && room[size - 1] == AIOL_MBED_PATTERN)
        size--;
    return size;
}

/* Whether structs are as large in the library as in its headers: a program may be compiled with another configuration
 * of mbedTLS, or with another size of time_t, than the library that it is linked with. */
static int aiol_mbed_check_sizes(void) {
    const size_t room_size = 2 * (sizeof(mbedtls_ssl_context) + sizeof(mbedtls_ssl_session) +
                                  sizeof(mbedtls_ssl_config) + sizeof(mbedtls_x509_crt)) +
                             1024;
    unsigned char *room = (unsigned char *)aiol_alloc(&aiol_default_allocator, room_size);
    bool same = true;
    size_t ssl;
    size_t session;
    size_t config;
    size_t crt;
    if (room == NULL)
        return aiol_thread_fail(AIOLOOP_ENOMEM, NULL);
#if AIOL_MBED_TICKETS
    {
        size_t ticket;
        AIOL_MBED_SIZE_IN_LIBRARY(mbedtls_ssl_ticket_context, mbedtls_ssl_ticket_init, room, room_size, ticket);
        mbedtls_ssl_ticket_free((mbedtls_ssl_ticket_context *)(void *)room); /* it has a lock */
        same = ticket == sizeof(mbedtls_ssl_ticket_context);
    }
#endif
    AIOL_MBED_SIZE_IN_LIBRARY(mbedtls_ssl_context, mbedtls_ssl_init, room, room_size, ssl);
    AIOL_MBED_SIZE_IN_LIBRARY(mbedtls_ssl_session, mbedtls_ssl_session_init, room, room_size, session);
    AIOL_MBED_SIZE_IN_LIBRARY(mbedtls_ssl_config, mbedtls_ssl_config_init, room, room_size, config);
    AIOL_MBED_SIZE_IN_LIBRARY(mbedtls_x509_crt, mbedtls_x509_crt_init, room, room_size, crt);
    aiol_free(&aiol_default_allocator, room, room_size);
    if (same && ssl == sizeof(mbedtls_ssl_context) && session == sizeof(mbedtls_ssl_session) &&
        config == sizeof(mbedtls_ssl_config) && crt == sizeof(mbedtls_x509_crt))
        return 0;
    return aiol_thread_fail(AIOLOOP_ENOTAVAILABLE,
                            "the mbedTLS that is linked is not the one of the headers: it has another "
                            "version, configuration or time_t");
}

#if !defined(MBEDTLS_THREADING_C) && AIOLOOP_USE_THREADS
static void *aiol_mbed_thread; /* of the first that came, by the address of something of its own */

/* What mbedTLS shares has no locks then. */
static int aiol_mbed_check_thread(void) {
    void *expected = NULL;
    if (aiol_cas_pointer(&aiol_mbed_thread, &expected, &aiol_thread) || expected == (void *)&aiol_thread)
        return 0;
    return aiol_thread_fail(AIOLOOP_ENOTAVAILABLE,
                            "this mbedTLS has no MBEDTLS_THREADING_C: one thread alone may use it");
}
#else
static int aiol_mbed_check_thread(void) {
    return 0;
}
#endif

/* Before anything is made. 0, or the code with its message stored. */
static int aiol_mbed_start(void) {
    int err = aiol_mbed_check_thread();
#if AIOL_MBED_PSA
    if (err == 0 && psa_crypto_init() != PSA_SUCCESS)
        err = aiol_thread_fail(AIOLOOP_ENOTAVAILABLE, "psa_crypto_init fails");
#endif
    return err;
}

/* ---- codes ---- */

/* A code of mbedTLS is the sum of one of a higher and one of a lower module. */
static int aiol_mbed_high(int ret) {
    return ret >= 0 ? ret : -(-ret & 0xff80);
}

static bool aiol_mbed_no_memory(int ret) {
    /* Of SSL, X509, PK, PEM, ECP, MD and CIPHER; of MPI and ASN1; of PSA. */
    static const int high[] = {-0x7f00, -0x2880, -0x3f80, -0x1180, -0x4d80, -0x5180, -0x6180};
    const int low = -ret & 0x7f;
    size_t i;
    if (ret >= 0)
        return false;
    for (i = 0; i < sizeof(high) / sizeof(high[0]); i++)
        if (aiol_mbed_high(ret) == high[i])
            return true;
    return low == 0x10 || low == 0x6a || ret == -141;
}

typedef struct aiol_mbed_text {
    char text[128];
} aiol_mbed_text;

/* mbedTLS's words, without the name of the module. */
static const char *aiol_mbed_strerror(int ret, aiol_mbed_text *buffer) {
    char *dash;
    buffer->text[0] = '\0';
#if defined(MBEDTLS_ERROR_C)
    mbedtls_strerror(ret, buffer->text, sizeof(buffer->text));
#endif
    if (buffer->text[0] == '\0')
        snprintf(buffer->text, sizeof(buffer->text), "mbedTLS's error -0x%04x", (unsigned)-ret);
    dash = strstr(buffer->text, " - ");
    return dash == NULL ? buffer->text : dash + 3;
}

/* The names of RFC 8446's and RFC 5246's alerts. */
static const char *aiol_mbed_alert_name(int alert) {
    static const struct {
        int number;
        const char *name;
    } names[] = {{0, "close_notify"},
                 {10, "unexpected_message"},
                 {20, "bad_record_mac"},
                 {21, "decryption_failed"},
                 {22, "record_overflow"},
                 {30, "decompression_failure"},
                 {40, "handshake_failure"},
                 {41, "no_certificate"},
                 {42, "bad_certificate"},
                 {43, "unsupported_certificate"},
                 {44, "certificate_revoked"},
                 {45, "certificate_expired"},
                 {46, "certificate_unknown"},
                 {47, "illegal_parameter"},
                 {48, "unknown_ca"},
                 {49, "access_denied"},
                 {50, "decode_error"},
                 {51, "decrypt_error"},
                 {60, "export_restriction"},
                 {70, "protocol_version"},
                 {71, "insufficient_security"},
                 {80, "internal_error"},
                 {86, "inappropriate_fallback"},
                 {90, "user_canceled"},
                 {100, "no_renegotiation"},
                 {109, "missing_extension"},
                 {110, "unsupported_extension"},
                 {111, "certificate_unobtainable"},
                 {112, "unrecognized_name"},
                 {113, "bad_certificate_status_response"},
                 {114, "bad_certificate_hash_value"},
                 {115, "unknown_psk_identity"},
                 {116, "certificate_required"},
                 {120, "no_application_protocol"}};
    size_t i;
    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (names[i].number == alert)
            return names[i].name;
    return "an unknown one";
}

/* What is wrong with a certificate, the worst first. */
static const char *aiol_mbed_verify_text(uint32_t flags) {
    static const struct {
        uint32_t flag;
        const char *text;
    } texts[] = {{MBEDTLS_X509_BADCERT_MISSING, "there is none"},
                 {MBEDTLS_X509_BADCERT_REVOKED, "it was revoked"},
                 {MBEDTLS_X509_BADCERT_NOT_TRUSTED, "no authority that is trusted has signed it"},
                 {MBEDTLS_X509_BADCERT_EXPIRED, "it has expired"},
                 {MBEDTLS_X509_BADCERT_FUTURE, "it is not valid yet"},
                 {MBEDTLS_X509_BADCERT_CN_MISMATCH, "it is for another name"},
                 {MBEDTLS_X509_BADCERT_KEY_USAGE, "its key is not for this use (keyUsage)"},
                 {MBEDTLS_X509_BADCERT_EXT_KEY_USAGE, "it is not for this use (extendedKeyUsage)"},
                 {MBEDTLS_X509_BADCERT_NS_CERT_TYPE, "it is not for this use (nsCertType)"},
                 {MBEDTLS_X509_BADCERT_BAD_MD, "it is signed with a hash that is too weak"},
                 {MBEDTLS_X509_BADCERT_BAD_PK, "its key is of a kind that is not accepted"},
                 {MBEDTLS_X509_BADCERT_BAD_KEY, "its key is too short or of a curve that is not accepted"},
                 {MBEDTLS_X509_BADCRL_EXPIRED, "the list of revoked certificates is out of date"},
                 {MBEDTLS_X509_BADCRL_FUTURE, "the list of revoked certificates is not valid yet"},
                 {MBEDTLS_X509_BADCRL_NOT_TRUSTED, "the list of revoked certificates is not the authority's"},
                 {MBEDTLS_X509_BADCRL_BAD_MD | MBEDTLS_X509_BADCRL_BAD_PK | MBEDTLS_X509_BADCRL_BAD_KEY,
                  "the list of revoked certificates is signed too weakly"}};
    size_t i;
    for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        if ((flags & texts[i].flag) != 0)
            return texts[i].text;
    return "it is not acceptable";
}

AIOLOOP_INTERNAL bool aiol_tls_in_threads(void) {
#if AIOLOOP_USE_THREADS && defined(MBEDTLS_THREADING_C)
    return true;
#else
    return false;
#endif
}

#endif
