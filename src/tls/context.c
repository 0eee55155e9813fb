/*
 * context.c - how a side speaks TLS. (Python: ssl.SSLContext)
 *
 * What is set goes into mbedTLS's configuration at once, so that nothing is left to do for the first session: sessions
 * in several threads then only read it.
 */
#ifndef AIOL_TLS_CONTEXT_C
#define AIOL_TLS_CONTEXT_C

#include "tls/certificate.c"

/* A block that mbedTLS's configuration points into. */
typedef struct aiol_tls_block {
    void *data;
    size_t size;
} aiol_tls_block;

struct aioloop_ssl_context {
    uint32_t refs;
    uint32_t used; /* by a session: read-only */
    aioloop_tls_side side;
    aioloop_ssl_verify_mode verify_mode;
    aioloop_tls_version least;
    aioloop_tls_version most;
    bool check_hostname;
    bool tickets; /* wanted */
    bool wrapped;
    const mbedtls_ssl_config *config; /* own, or the user's */
    mbedtls_ssl_config own;
    aiol_tls_identity *identities;
    mbedtls_x509_crt *authorities;
    mbedtls_x509_crl *revoked;
    aiol_tls_block suites;
    aiol_tls_block alpn;
    aioloop_ssl_sni_callback sni;
    void *sni_arg;
    int keylog; /* a descriptor, or -1 */
#if AIOL_MBED_TICKETS
    mbedtls_ssl_ticket_context ticket;
#endif
};

/* What a configuration calls. */
static int aiol_tls_server_name(void *arg, mbedtls_ssl_context *ssl, const unsigned char *name, size_t size);
#if !AIOL_MBED_3 && defined(MBEDTLS_SSL_EXPORT_KEYS)
static int aiol_tls_log_master(void *arg, const unsigned char *master, const unsigned char *block, size_t mac_size,
                               size_t key_size, size_t iv_size, const unsigned char client_random[32],
                               const unsigned char server_random[32], mbedtls_tls_prf_types prf);
#endif

static void aiol_tls_block_free(aiol_tls_block *block) {
    aiol_free(&aiol_default_allocator, block->data, block->size);
    block->data = NULL;
}

static int aiol_tls_block_new(aiol_tls_block *block, size_t size) {
    block->size = size;
    block->data = aiol_alloc_zero(&aiol_default_allocator, size);
    return block->data == NULL ? aiol_thread_fail(AIOLOOP_ENOMEM, NULL) : 0;
}

/* Whether a context may be changed. */
static int aiol_tls_open(aioloop_ssl_context *context) {
    if (context == NULL)
        return aiol_thread_fail(AIOLOOP_EINVAL, "no context");
    if (context->wrapped)
        return aiol_thread_fail(AIOLOOP_EMISUSE, "the context wraps a configuration, which is to be changed itself");
    if (aiol_load(&context->used) != 0)
        return aiol_thread_fail(AIOLOOP_EMISUSE, "the context is in use and cannot be changed any more");
    return 0;
}

/* ---- cipher suites ---- */

typedef struct aiol_tls_suite {
    int id;           /* IANA's */
    const char *name; /* OpenSSL's */
} aiol_tls_suite;

/* Those that contexts begin with: forward secret and authenticated, in Python's order. */
static const aiol_tls_suite aiol_tls_suites[] = {
    {0x1302, "TLS_AES_256_GCM_SHA384"},      {0x1303, "TLS_CHACHA20_POLY1305_SHA256"},
    {0x1301, "TLS_AES_128_GCM_SHA256"},      {0xc02c, "ECDHE-ECDSA-AES256-GCM-SHA384"},
    {0xc030, "ECDHE-RSA-AES256-GCM-SHA384"}, {0xc02b, "ECDHE-ECDSA-AES128-GCM-SHA256"},
    {0xc02f, "ECDHE-RSA-AES128-GCM-SHA256"}, {0xcca9, "ECDHE-ECDSA-CHACHA20-POLY1305"},
    {0xcca8, "ECDHE-RSA-CHACHA20-POLY1305"}};
#define AIOL_TLS_SUITES (sizeof(aiol_tls_suites) / sizeof(aiol_tls_suites[0]))
#define AIOL_TLS_SUITES_1_3 3u
#define AIOL_TLS_SUITES_MOST 64u

static bool aiol_tls_suite_is_1_3(int id) {
    return (id & 0xff00) == 0x1300;
}

/* The number of a suite by one of its names, 0 if this mbedTLS does not have it. Its own names are IANA's with dashes,
 * and those of TLS 1.3 are of its own kind. */
static int aiol_tls_suite_find(const char *name) {
    char own[64];
    size_t i;
    for (i = 0; i < AIOL_TLS_SUITES; i++)
        if (strcmp(name, aiol_tls_suites[i].name) == 0)
            return mbedtls_ssl_ciphersuite_from_id(aiol_tls_suites[i].id) != NULL ? aiol_tls_suites[i].id : 0;
    for (i = 0; name[i] != '\0' && i < sizeof(own) - 1; i++)
        own[i] = name[i] == '_' ? '-' : name[i];
    own[i] = '\0';
    return name[i] == '\0' ? mbedtls_ssl_get_ciphersuite_id(own) : 0;
}

/* Hands a list over, which ends with 0. */
static void aiol_tls_use_suites(aioloop_ssl_context *c, const aiol_tls_block *block) {
    mbedtls_ssl_conf_ciphersuites(&c->own, (const int *)block->data);
    aiol_tls_block_free(&c->suites);
    c->suites = *block;
}

/* The default ones of TLS 1.3, if asked for, and of 1.2, as far as mbedTLS has them. Returns how many. */
static size_t aiol_tls_default_suites(int *list, bool for_1_2) {
    const size_t count = for_1_2 ? AIOL_TLS_SUITES : AIOL_TLS_SUITES_1_3;
    size_t n = 0;
    size_t i;
    for (i = 0; i < count; i++)
        if (mbedtls_ssl_ciphersuite_from_id(aiol_tls_suites[i].id) != NULL)
            list[n++] = aiol_tls_suites[i].id;
    return n;
}

/* Reads names up to the next colon each. How many, or a code. */
static int aiol_tls_parse_suites(const char *ciphers, int *list, size_t room) {
    size_t n = 0;
    while (*ciphers != '\0') {
        const size_t size = strcspn(ciphers, ":");
        char name[64];
        int id = 0;
        if (size < sizeof(name)) {
            memcpy(name, ciphers, size);
            name[size] = '\0';
            id = aiol_tls_suite_find(name);
        }
        if (id == 0)
            return aiol_thread_fail(AIOLOOP_EINVAL, "no such cipher suite: %.*s", (int)aiol_min_size(size, 80),
                                    ciphers);
        if (n == room)
            return aiol_thread_fail(AIOLOOP_EINVAL, "too many cipher suites");
        list[n++] = id;
        ciphers += size + (ciphers[size] == ':');
    }
    return n == 0 ? aiol_thread_fail(AIOLOOP_EINVAL, "no cipher suites") : (int)n;
}

AIOLOOP_API int aioloop_ssl_context_set_ciphers(aioloop_ssl_context *context, const char *ciphers) {
    aiol_tls_block block;
    bool names_1_3 = false;
    int err = aiol_tls_open(context);
    int i;
    int *list;
    if (err == 0 && ciphers == NULL)
        err = aiol_thread_fail(AIOLOOP_EINVAL, "no cipher suites");
    if (err == 0)
        err = aiol_tls_block_new(&block, (AIOL_TLS_SUITES_MOST + AIOL_TLS_SUITES + 1) * sizeof(int));
    if (err < 0)
        return err;
    list = (int *)block.data + AIOL_TLS_SUITES_1_3;
    err = aiol_tls_parse_suites(ciphers, list, AIOL_TLS_SUITES_MOST);
    if (err < 0) {
        aiol_tls_block_free(&block);
        return err;
    }
    for (i = 0; i < err; i++)
        names_1_3 = names_1_3 || aiol_tls_suite_is_1_3(list[i]);
    i = names_1_3 ? 0 : (int)aiol_tls_default_suites((int *)block.data, false);
    memmove((int *)block.data + i, list, ((size_t)err + 1) * sizeof(int));
    aiol_tls_use_suites(context, &block);
    return 0;
}

/* ---- making and ending ---- */

static void aiol_tls_apply_tickets(aioloop_ssl_context *c) {
#if defined(MBEDTLS_SSL_SESSION_TICKETS)
    const bool on = c->tickets && c->sni == NULL;
    mbedtls_ssl_conf_session_tickets(&c->own,
                                     on ? MBEDTLS_SSL_SESSION_TICKETS_ENABLED : MBEDTLS_SSL_SESSION_TICKETS_DISABLED);
#if AIOL_MBED_TICKETS
    if (c->side == AIOLOOP_TLS_SERVER)
        mbedtls_ssl_conf_session_tickets_cb(&c->own, on ? mbedtls_ssl_ticket_write : NULL,
                                            on ? mbedtls_ssl_ticket_parse : NULL, &c->ticket);
#if AIOL_MBED_TLS_1_3
    if (c->side == AIOLOOP_TLS_SERVER)
        mbedtls_ssl_conf_new_session_tickets(&c->own, on && c->verify_mode == AIOLOOP_CERT_NONE ? 1 : 0);
#endif
#endif
#else
    (void)c;
#endif
}

/* To mbedTLS a client's OPTIONAL would be to go on whatever it finds, and so it would be on servers: there the session
 * looks. */
static void aiol_tls_apply_verify_mode(aioloop_ssl_context *c) {
    int mode = MBEDTLS_SSL_VERIFY_REQUIRED;
    if (c->verify_mode == AIOLOOP_CERT_NONE)
        mode = MBEDTLS_SSL_VERIFY_NONE;
    else if (c->verify_mode == AIOLOOP_CERT_OPTIONAL && c->side == AIOLOOP_TLS_SERVER)
        mode = MBEDTLS_SSL_VERIFY_OPTIONAL;
    mbedtls_ssl_conf_authmode(&c->own, mode);
    aiol_tls_apply_tickets(c);
}

static void aiol_tls_context_free(aioloop_ssl_context *c) {
    mbedtls_ssl_config_free(&c->own);
#if AIOL_MBED_TICKETS
    mbedtls_ssl_ticket_free(&c->ticket);
#endif
    while (c->identities != NULL) {
        aiol_tls_identity *identity = c->identities;
        c->identities = identity->next;
        aiol_tls_identity_free(identity);
    }
    aiol_tls_chain_free(c->authorities);
    aiol_tls_revoked_free(c->revoked);
    aiol_tls_block_free(&c->suites);
    aiol_tls_block_free(&c->alpn);
    if (c->keylog >= 0)
        aiol_file_close(c->keylog);
    aiol_free(&aiol_default_allocator, c, sizeof(*c));
}

/* An empty one, with the first reference. NULL with the message stored. */
static aioloop_ssl_context *aiol_tls_context_alloc(aioloop_tls_side side) {
    aioloop_ssl_context *c;
    if (side != AIOLOOP_TLS_CLIENT && side != AIOLOOP_TLS_SERVER) {
        aiol_thread_fail(AIOLOOP_EINVAL, "no such side of TLS: %d", (int)side);
        return NULL;
    }
    if (aiol_mbed_check_sizes() < 0 || aiol_mbed_start() < 0)
        return NULL;
    c = (aioloop_ssl_context *)aiol_alloc_zero(&aiol_default_allocator, sizeof(*c));
    if (c == NULL) {
        aiol_thread_fail(AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    c->refs = 1;
    c->side = side;
    c->keylog = -1;
    c->config = &c->own;
    mbedtls_ssl_config_init(&c->own);
#if AIOL_MBED_TICKETS
    mbedtls_ssl_ticket_init(&c->ticket);
#endif
    return c;
}

/* The defaults. 0 or a code. */
static int aiol_tls_context_prepare(aioloop_ssl_context *c) {
    const bool server = c->side == AIOLOOP_TLS_SERVER;
    aiol_tls_block block;
    int ret = mbedtls_ssl_config_defaults(&c->own, server ? MBEDTLS_SSL_IS_SERVER : MBEDTLS_SSL_IS_CLIENT,
                                          MBEDTLS_SSL_TRANSPORT_STREAM, MBEDTLS_SSL_PRESET_DEFAULT);
    aiol_mbed_text text;
    int err;
#if AIOL_MBED_TICKETS
    if (ret == 0 && server)
        ret = aiol_mbed_ticket_setup(&c->ticket);
#endif
    if (ret == AIOL_MBED_ERR_RANDOM)
        return aiol_thread_fail(AIOLOOP_EIO, "the system gives no random bytes");
    if (ret != 0)
        return aiol_thread_fail(aiol_mbed_no_memory(ret) ? AIOLOOP_ENOMEM : AIOLOOP_ESSL, "%s",
                                aiol_mbed_strerror(ret, &text));
    err = aiol_tls_block_new(&block, (AIOL_TLS_SUITES + 1) * sizeof(int));
    if (err < 0)
        return err;
    aiol_tls_default_suites((int *)block.data, true);
    aiol_tls_use_suites(c, &block);
    aiol_mbed_configure(&c->own);
    c->least = AIOLOOP_TLS_1_2;
    c->most = AIOL_MBED_TLS_1_3 ? AIOLOOP_TLS_1_3 : AIOLOOP_TLS_1_2;
    c->tickets = true;
    c->check_hostname = !server;
    c->verify_mode = server ? AIOLOOP_CERT_NONE : AIOLOOP_CERT_REQUIRED;
    aiol_tls_apply_verify_mode(c);
    if (server)
        mbedtls_ssl_conf_sni(&c->own, aiol_tls_server_name, c);
    return 0;
}

AIOLOOP_API aioloop_ssl_context *aioloop_ssl_context_new(aioloop_tls_side side) {
    aioloop_ssl_context *c = aiol_tls_context_alloc(side);
    if (c != NULL && aiol_tls_context_prepare(c) < 0) {
        aiol_tls_context_free(c);
        c = NULL;
    }
    return c;
}

AIOLOOP_API aioloop_ssl_context *aioloop_ssl_context_wrap(void *config, aioloop_tls_side side) {
    aioloop_ssl_context *c;
    if (config == NULL) {
        aiol_thread_fail(AIOLOOP_EINVAL, "no configuration");
        return NULL;
    }
    c = aiol_tls_context_alloc(side);
    if (c != NULL) {
        c->wrapped = true;
        c->config = (const mbedtls_ssl_config *)config;
    }
    return c;
}

AIOLOOP_API aioloop_ssl_context *aioloop_ssl_context_ref(aioloop_ssl_context *context) {
    if (context != NULL)
        aiol_add_u32(&context->refs, 1);
    return context;
}

AIOLOOP_API void aioloop_ssl_context_unref(aioloop_ssl_context *context) {
    if (context != NULL && aiol_add_u32(&context->refs, (uint32_t)-1) == 0)
        aiol_tls_context_free(context);
}

/* ---- certificates ---- */

/* Hands an identity over to mbedTLS. 0 or a code, and then it is freed. */
static int aiol_tls_add_identity(aioloop_ssl_context *c, aiol_tls_identity *identity) {
    if (mbedtls_ssl_conf_own_cert(&c->own, &identity->chain, &identity->key) != 0) {
        aiol_tls_identity_free(identity);
        return aiol_thread_fail(AIOLOOP_ENOMEM, NULL);
    }
    identity->next = c->identities;
    c->identities = identity;
    return 0;
}

/* Of two files that were taken, or failed to be; drops them. */
static int aiol_tls_load_identity(aioloop_ssl_context *c, int err, aiol_file *cert, const char *cert_name,
                                  aiol_file *key, const char *key_name, const char *password) {
    aiol_tls_identity *identity = NULL;
    const bool together = key->data == NULL;
    if (err == 0)
        err = aiol_tls_identity_new(cert, cert_name, together ? cert : key, together ? cert_name : key_name, password,
                                    &identity);
    if (err == 0)
        err = aiol_tls_add_identity(c, identity);
    aiol_tls_drop_file(cert);
    aiol_tls_drop_file(key);
    return err;
}

AIOLOOP_API int aioloop_ssl_context_load_cert_chain(aioloop_ssl_context *context, const char *certfile,
                                                    const char *keyfile, const char *password) {
    aiol_file cert = AIOLOOP_ZERO;
    aiol_file key = AIOLOOP_ZERO;
    int err = aiol_tls_open(context);
    if (err == 0 && certfile == NULL)
        err = aiol_thread_fail(AIOLOOP_EINVAL, "no certificate");
    if (err == 0)
        err = aiol_tls_take_file(certfile, &cert);
    if (err == 0 && keyfile != NULL)
        err = aiol_tls_take_file(keyfile, &key);
    return aiol_tls_load_identity(context, err, &cert, certfile, &key, keyfile, password);
}

AIOLOOP_API int aioloop_ssl_context_load_cert_chain_memory(aioloop_ssl_context *context, const void *cert,
                                                           size_t cert_size, const void *key, size_t key_size,
                                                           const char *password) {
    aiol_file cert_copy = AIOLOOP_ZERO;
    aiol_file key_copy = AIOLOOP_ZERO;
    int err = aiol_tls_open(context);
    if (err == 0)
        err = aiol_tls_take_memory(cert, cert_size, &cert_copy);
    if (err == 0 && key != NULL)
        err = aiol_tls_take_memory(key, key_size, &key_copy);
    return aiol_tls_load_identity(context, err, &cert_copy, "the certificate", &key_copy, "the key", password);
}

static void aiol_tls_trust(aioloop_ssl_context *c, mbedtls_x509_crt *authorities, mbedtls_x509_crl *revoked) {
    mbedtls_ssl_conf_ca_chain(&c->own, authorities, revoked);
    if (c->authorities != authorities)
        aiol_tls_chain_free(c->authorities);
    if (c->revoked != revoked)
        aiol_tls_revoked_free(c->revoked);
    c->authorities = authorities;
    c->revoked = revoked;
}

/* What load_verify_locations collects. */
typedef struct aiol_tls_trusting {
    mbedtls_x509_crt *chain;
    aiol_tls_strictness strictness;
    int taken;
} aiol_tls_trusting;

/* 0 or a code. In a folder what cannot be read is passed over too. */
static int aiol_tls_trust_file(void *arg, const char *file) {
    aiol_tls_trusting *t = (aiol_tls_trusting *)arg;
    aiol_file contents = AIOLOOP_ZERO;
    int n = aiol_tls_take_file(file, &contents);
    if (n == 0)
        n = aiol_tls_parse_certificates(t->chain, &contents, t->strictness, file);
    else if (t->strictness == AIOL_TLS_FOLDER && n != AIOLOOP_ENOMEM)
        n = 0;
    aiol_tls_drop_file(&contents);
    if (n > 0)
        t->taken += n;
    return n < 0 ? n : 0;
}

static int aiol_tls_trust_folder(aiol_tls_trusting *t, const char *folder) {
    int err;
    t->strictness = AIOL_TLS_FOLDER;
    err = aiol_folder_each(&aiol_default_allocator, folder, aiol_tls_trust_file, t);
    if (err < 0)
        aiol_thread_fail(err, "%s: %s", folder, aioloop_strerror(err));
    return err;
}

/* Begins with the authorities that there are. 0 or a code. */
static int aiol_tls_trusting_begin(aiol_tls_trusting *t, aioloop_ssl_context *c) {
    t->strictness = AIOL_TLS_TRUSTED;
    t->taken = 0;
    t->chain = aiol_tls_chain_copy(c->authorities);
    return t->chain == NULL ? AIOLOOP_ENOMEM : 0;
}

/* Keeps what was collected, unless there is nothing or it failed. How many, or the code. */
static int aiol_tls_trusting_end(aiol_tls_trusting *t, aioloop_ssl_context *c, int err) {
    if (err < 0 || t->taken == 0) {
        aiol_tls_chain_free(t->chain);
        return err < 0 ? err : 0;
    }
    aiol_tls_trust(c, t->chain, c->revoked);
    return t->taken;
}

AIOLOOP_API int aioloop_ssl_context_load_verify_locations(aioloop_ssl_context *context, const char *cafile,
                                                          const char *capath) {
    aiol_tls_trusting t;
    int err = aiol_tls_open(context);
    if (err == 0 && cafile == NULL && capath == NULL)
        err = aiol_thread_fail(AIOLOOP_EINVAL, "neither a file nor a folder of certificates");
    if (err == 0)
        err = aiol_tls_trusting_begin(&t, context);
    if (err < 0)
        return err;
    if (cafile != NULL)
        err = aiol_tls_trust_file(&t, cafile);
    if (err == 0 && capath != NULL)
        err = aiol_tls_trust_folder(&t, capath);
    if (err == 0 && t.taken == 0)
        err = aiol_thread_fail(AIOLOOP_ESSL_CERTIFICATE, "%s: there is no certificate in it", capath);
    return aiol_tls_trusting_end(&t, context, err);
}

AIOLOOP_API int aioloop_ssl_context_load_verify_memory(aioloop_ssl_context *context, const void *data, size_t size) {
    aiol_file copy = AIOLOOP_ZERO;
    aiol_tls_trusting t;
    int err = aiol_tls_open(context);
    if (err == 0)
        err = aiol_tls_take_memory(data, size, &copy);
    if (err == 0)
        err = aiol_tls_trusting_begin(&t, context);
    if (err == 0) {
        err = aiol_tls_parse_certificates(t.chain, &copy, t.strictness, "the certificates");
        t.taken = err;
        err = aiol_tls_trusting_end(&t, context, err);
    }
    aiol_tls_drop_file(&copy);
    return err;
}

/* ENOMEM is the one failure that is told: places that are not there or cannot be read are passed over. */
static int aiol_tls_trust_system(aiol_tls_trusting *t) {
    static const char *const files[] = {"/etc/ssl/certs/ca-certificates.crt",                /* Debian, Arch, Alpine */
                                        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", /* Fedora, RHEL */
                                        "/etc/ssl/ca-bundle.pem",                            /* openSUSE */
                                        "/etc/ssl/cert.pem",                                 /* macOS, BSDs */
                                        "/usr/local/share/certs/ca-root-nss.crt"};           /* FreeBSD */
    static const char *const folders[] = {"/etc/ssl/certs", "/etc/pki/tls/certs", "/system/etc/security/cacerts"};
    const char *file = aiol_environment("SSL_CERT_FILE");
    const char *folder = aiol_environment("SSL_CERT_DIR");
    const bool told = file != NULL || folder != NULL;
    int err = 0;
    size_t i;
    t->strictness = AIOL_TLS_FOLDER;
    if (file != NULL)
        err = aiol_tls_trust_file(t, file);
    if (folder != NULL && err == 0)
        err = aiol_tls_trust_folder(t, folder);
    for (i = 0; !told && t->taken == 0 && err != AIOLOOP_ENOMEM && i < sizeof(files) / sizeof(files[0]); i++)
        err = aiol_tls_trust_file(t, files[i]);
    for (i = 0; !told && t->taken == 0 && err != AIOLOOP_ENOMEM && i < sizeof(folders) / sizeof(folders[0]); i++)
        err = aiol_tls_trust_folder(t, folders[i]);
    return err == AIOLOOP_ENOMEM ? err : 0;
}

AIOLOOP_API int aioloop_ssl_context_load_default_certs(aioloop_ssl_context *context) {
    aiol_tls_trusting t;
    int err = aiol_tls_open(context);
    if (err == 0)
        err = aiol_tls_trusting_begin(&t, context);
    if (err < 0)
        return err;
    return aiol_tls_trusting_end(&t, context, aiol_tls_trust_system(&t));
}

/* Of what was taken, or failed to be; drops it. */
static int aiol_tls_revoke(aioloop_ssl_context *c, int err, aiol_file *file, const char *name) {
    mbedtls_x509_crl *revoked = NULL;
    aiol_mbed_text text;
    int ret;
    if (err == 0) {
        revoked = aiol_tls_revoked_copy(c->revoked);
        err = revoked == NULL ? AIOLOOP_ENOMEM : 0;
    }
    if (err == 0) {
        size_t size = file->size + (strstr(file->data, "-----BEGIN ") == NULL ? 0 : 1);
        ret = mbedtls_x509_crl_parse(revoked, (const unsigned char *)file->data, size);
        if (ret != 0)
            err = aiol_thread_fail(aiol_mbed_no_memory(ret) ? AIOLOOP_ENOMEM : AIOLOOP_ESSL_CERTIFICATE,
                                   "%s: list of revoked certificates: %s", name, aiol_mbed_strerror(ret, &text));
    }
    if (err == 0)
        aiol_tls_trust(c, c->authorities, revoked);
    else
        aiol_tls_revoked_free(revoked);
    aiol_tls_drop_file(file);
    return err;
}

AIOLOOP_API int aioloop_ssl_context_load_crl(aioloop_ssl_context *context, const char *file) {
    aiol_file contents = AIOLOOP_ZERO;
    int err = aiol_tls_open(context);
    if (err == 0 && file == NULL)
        err = aiol_thread_fail(AIOLOOP_EINVAL, "no file");
    if (err == 0)
        err = aiol_tls_take_file(file, &contents);
    return aiol_tls_revoke(context, err, &contents, file);
}

AIOLOOP_API int aioloop_ssl_context_load_crl_memory(aioloop_ssl_context *context, const void *data, size_t size) {
    aiol_file copy = AIOLOOP_ZERO;
    int err = aiol_tls_open(context);
    if (err == 0)
        err = aiol_tls_take_memory(data, size, &copy);
    return aiol_tls_revoke(context, err, &copy, "the list");
}

/* ---- what to insist on ---- */

AIOLOOP_API int aioloop_ssl_context_set_verify_mode(aioloop_ssl_context *context, aioloop_ssl_verify_mode mode) {
    int err = aiol_tls_open(context);
    if (err < 0)
        return err;
    if (mode != AIOLOOP_CERT_NONE && mode != AIOLOOP_CERT_OPTIONAL && mode != AIOLOOP_CERT_REQUIRED)
        return aiol_thread_fail(AIOLOOP_EINVAL, "no such way to verify: %d", (int)mode);
    if (mode == AIOLOOP_CERT_NONE && context->check_hostname)
        return aiol_thread_fail(AIOLOOP_EINVAL,
                                "AIOLOOP_CERT_NONE while the host name is checked: turn that off first");
    context->verify_mode = mode;
    aiol_tls_apply_verify_mode(context);
    return 0;
}

AIOLOOP_API int aioloop_ssl_context_set_check_hostname(aioloop_ssl_context *context, bool check) {
    int err = aiol_tls_open(context);
    if (err < 0)
        return err;
    if (context->side == AIOLOOP_TLS_SERVER)
        return aiol_thread_fail(AIOLOOP_EINVAL, "a server has no host name to check");
    context->check_hostname = check;
    if (check && context->verify_mode == AIOLOOP_CERT_NONE)
        context->verify_mode = AIOLOOP_CERT_REQUIRED;
    aiol_tls_apply_verify_mode(context);
    return 0;
}

static int aiol_tls_set_versions(aioloop_ssl_context *context, aioloop_tls_version version, bool least) {
    int err = aiol_tls_open(context);
    if (err < 0)
        return err;
    if (version != AIOLOOP_TLS_1_2 && version != AIOLOOP_TLS_1_3)
        return aiol_thread_fail(AIOLOOP_EINVAL, "no such version of TLS: 0x%04x", (unsigned)version);
    if (version == AIOLOOP_TLS_1_3 && !AIOL_MBED_TLS_1_3)
        return aiol_thread_fail(AIOLOOP_ENOTAVAILABLE, "this mbedTLS has no TLS 1.3");
    if (least ? version > context->most : version < context->least)
        return aiol_thread_fail(AIOLOOP_EINVAL, "the least version is above the most");
    if (least)
        context->least = version;
    else
        context->most = version;
    aiol_mbed_set_version(&context->own, least, version);
    return 0;
}

AIOLOOP_API int aioloop_ssl_context_set_minimum_version(aioloop_ssl_context *context, aioloop_tls_version version) {
    return aiol_tls_set_versions(context, version, true);
}

AIOLOOP_API int aioloop_ssl_context_set_maximum_version(aioloop_ssl_context *context, aioloop_tls_version version) {
    return aiol_tls_set_versions(context, version, false);
}

/* Copies the names behind an array of pointers to them, which ends with NULL. */
static int aiol_tls_copy_protocols(aiol_tls_block *block, const char *const *protocols, size_t count) {
    const char **list;
    size_t size = (count + 1) * sizeof(char *);
    char *text;
    size_t i;
    int err;
    for (i = 0; i < count; i++) {
        size_t length = protocols[i] == NULL ? 0 : strlen(protocols[i]);
        if (length == 0 || length > 255)
            return aiol_thread_fail(AIOLOOP_EINVAL, "the name of a protocol has 1 to 255 bytes");
        size += length + 1;
    }
    err = aiol_tls_block_new(block, size);
    if (err < 0)
        return err;
    list = (const char **)block->data;
    text = (char *)(list + count + 1);
    for (i = 0; i < count; i++) {
        list[i] = text;
        size = strlen(protocols[i]) + 1;
        memcpy(text, protocols[i], size);
        text += size;
    }
    return 0;
}

AIOLOOP_API int aioloop_ssl_context_set_alpn_protocols(aioloop_ssl_context *context, const char *const *protocols,
                                                       size_t count) {
    aiol_tls_block block = AIOLOOP_ZERO;
    int err = aiol_tls_open(context);
    if (err == 0 && (count > 64 || (count != 0 && protocols == NULL)))
        err = aiol_thread_fail(AIOLOOP_EINVAL, "0 to 64 protocols");
    if (err == 0 && count != 0)
        err = aiol_tls_copy_protocols(&block, protocols, count);
    if (err < 0)
        return err;
    if (block.data != NULL)
        mbedtls_ssl_conf_alpn_protocols(&context->own, (const char **)block.data);
    else
        context->own.AIOL_MBED_PRIVATE(alpn_list) = NULL; /* the function does not take it */
    aiol_tls_block_free(&context->alpn);
    context->alpn = block;
    return 0;
}

AIOLOOP_API int aioloop_ssl_context_set_sni_callback(aioloop_ssl_context *context, aioloop_ssl_sni_callback callback,
                                                     void *arg) {
    int err = aiol_tls_open(context);
    if (err < 0)
        return err;
    if (context->side != AIOLOOP_TLS_SERVER)
        return aiol_thread_fail(AIOLOOP_EINVAL, "only servers are told names");
    context->sni = callback;
    context->sni_arg = arg;
    aiol_tls_apply_tickets(context);
    return 0;
}

AIOLOOP_API int aioloop_ssl_context_set_session_tickets(aioloop_ssl_context *context, bool on) {
    int err = aiol_tls_open(context);
    if (err < 0)
        return err;
    if (on && !AIOL_MBED_TICKETS)
        return aiol_thread_fail(AIOLOOP_ENOTAVAILABLE, "this mbedTLS has no tickets");
    context->tickets = on;
    aiol_tls_apply_tickets(context);
    return 0;
}

AIOLOOP_API int aioloop_ssl_context_set_keylog(aioloop_ssl_context *context, const char *file) {
    int fd = -1;
    int err = aiol_tls_open(context);
    if (err < 0)
        return err;
#if !AIOL_MBED_3 && !defined(MBEDTLS_SSL_EXPORT_KEYS)
    if (file != NULL)
        return aiol_thread_fail(AIOLOOP_ENOTAVAILABLE, "this mbedTLS does not tell keys");
#endif
    if (file != NULL)
        fd = aiol_file_append_to(file);
    if (file != NULL && fd < 0)
        return aiol_thread_fail(fd, "%s: %s", file, aioloop_strerror(fd));
    if (context->keylog >= 0)
        aiol_file_close(context->keylog);
    context->keylog = fd;
#if !AIOL_MBED_3 && defined(MBEDTLS_SSL_EXPORT_KEYS)
    mbedtls_ssl_conf_export_keys_ext_cb(&context->own, fd < 0 ? NULL : aiol_tls_log_master, context);
#endif
    return 0;
}

AIOLOOP_API aioloop_ssl_context *aioloop_ssl_create_default_context(aioloop_tls_side side) {
    aioloop_ssl_context *c = aioloop_ssl_context_new(side);
    const char *keylog = aiol_environment("SSLKEYLOGFILE");
    int err = 0;
    if (c == NULL)
        return NULL;
    if (side == AIOLOOP_TLS_CLIENT)
        err = aioloop_ssl_context_load_default_certs(c);
    if (err >= 0 && keylog != NULL && keylog[0] != '\0')
        err = aioloop_ssl_context_set_keylog(c, keylog);
    if (err < 0) {
        aiol_tls_context_free(c);
        c = NULL;
    }
    return c;
}

#endif
