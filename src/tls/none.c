/*
 * none.c - TLS in a build without it: every function of ssl.h says so.
 */
#ifndef AIOL_TLS_NONE_C
#define AIOL_TLS_NONE_C

#include "base/context.c"
#include "tls/session.h"

static int aiol_tls_refuse(void) {
    return aiol_thread_fail(AIOLOOP_ENOTAVAILABLE, "TLS is not in this build: AIOLOOP_USE_TLS is 0");
}

AIOLOOP_API aioloop_ssl_context *aioloop_ssl_context_new(aioloop_tls_side side) {
    (void)side;
    aiol_tls_refuse();
    return NULL;
}

AIOLOOP_API aioloop_ssl_context *aioloop_ssl_create_default_context(aioloop_tls_side side) {
    (void)side;
    aiol_tls_refuse();
    return NULL;
}

AIOLOOP_API aioloop_ssl_context *aioloop_ssl_context_wrap(void *config, aioloop_tls_side side) {
    (void)config;
    (void)side;
    aiol_tls_refuse();
    return NULL;
}

AIOLOOP_API aioloop_ssl_context *aioloop_ssl_context_ref(aioloop_ssl_context *context) {
    (void)context;
    return NULL;
}

AIOLOOP_API void aioloop_ssl_context_unref(aioloop_ssl_context *context) {
    (void)context;
}

AIOLOOP_API int aioloop_ssl_context_load_cert_chain(aioloop_ssl_context *context, const char *certfile,
                                                    const char *keyfile, const char *password) {
    (void)context;
    (void)certfile;
    (void)keyfile;
    (void)password;
    return aiol_tls_refuse();
}

AIOLOOP_API int aioloop_ssl_context_load_cert_chain_memory(aioloop_ssl_context *context, const void *cert,
                                                           size_t cert_size, const void *key, size_t key_size,
                                                           const char *password) {
    (void)context;
    (void)cert;
    (void)cert_size;
    (void)key;
    (void)key_size;
    (void)password;
    return aiol_tls_refuse();
}

AIOLOOP_API int aioloop_ssl_context_load_verify_locations(aioloop_ssl_context *context, const char *cafile,
                                                          const char *capath) {
    (void)context;
    (void)cafile;
    (void)capath;
    return aiol_tls_refuse();
}

AIOLOOP_API int aioloop_ssl_context_load_verify_memory(aioloop_ssl_context *context, const void *data, size_t size) {
    (void)context;
    (void)data;
    (void)size;
    return aiol_tls_refuse();
}

AIOLOOP_API int aioloop_ssl_context_load_default_certs(aioloop_ssl_context *context) {
    (void)context;
    return aiol_tls_refuse();
}

AIOLOOP_API int aioloop_ssl_context_load_crl(aioloop_ssl_context *context, const char *file) {
    (void)context;
    (void)file;
    return aiol_tls_refuse();
}

AIOLOOP_API int aioloop_ssl_context_load_crl_memory(aioloop_ssl_context *context, const void *data, size_t size) {
    (void)context;
    (void)data;
    (void)size;
    return aiol_tls_refuse();
}

AIOLOOP_API int aioloop_ssl_context_set_verify_mode(aioloop_ssl_context *context, aioloop_ssl_verify_mode mode) {
    (void)context;
    (void)mode;
    return aiol_tls_refuse();
}

AIOLOOP_API int aioloop_ssl_context_set_check_hostname(aioloop_ssl_context *context, bool check) {
    (void)context;
    (void)check;
    return aiol_tls_refuse();
}

AIOLOOP_API int aioloop_ssl_context_set_minimum_version(aioloop_ssl_context *context, aioloop_tls_version version) {
    (void)context;
    (void)version;
    return aiol_tls_refuse();
}

AIOLOOP_API int aioloop_ssl_context_set_maximum_version(aioloop_ssl_context *context, aioloop_tls_version version) {
    (void)context;
    (void)version;
    return aiol_tls_refuse();
}

AIOLOOP_API int aioloop_ssl_context_set_ciphers(aioloop_ssl_context *context, const char *ciphers) {
    (void)context;
    (void)ciphers;
    return aiol_tls_refuse();
}

AIOLOOP_API int aioloop_ssl_context_set_alpn_protocols(aioloop_ssl_context *context, const char *const *protocols,
                                                       size_t count) {
    (void)context;
    (void)protocols;
    (void)count;
    return aiol_tls_refuse();
}

AIOLOOP_API int aioloop_ssl_context_set_sni_callback(aioloop_ssl_context *context, aioloop_ssl_sni_callback callback,
                                                     void *arg) {
    (void)context;
    (void)callback;
    (void)arg;
    return aiol_tls_refuse();
}

AIOLOOP_API int aioloop_ssl_context_set_session_tickets(aioloop_ssl_context *context, bool on) {
    (void)context;
    (void)on;
    return aiol_tls_refuse();
}

AIOLOOP_API int aioloop_ssl_context_set_keylog(aioloop_ssl_context *context, const char *file) {
    (void)context;
    (void)file;
    return aiol_tls_refuse();
}

AIOLOOP_API aioloop_ssl_session *aioloop_ssl_session_ref(aioloop_ssl_session *session) {
    (void)session;
    return NULL;
}

AIOLOOP_API void aioloop_ssl_session_unref(aioloop_ssl_session *session) {
    (void)session;
}

AIOLOOP_INTERNAL int aiol_tls_check_side(const aioloop_ssl_context *context, bool server_side) {
    (void)context;
    (void)server_side;
    return aiol_tls_refuse();
}

AIOLOOP_INTERNAL bool aiol_tls_in_threads(void) {
    return false;
}

#endif
