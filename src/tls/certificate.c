/*
 * certificate.c - certificates and keys: out of files, and as values to look at.
 *
 * A chain grows by making a new one of the old and what was read, so that what fails has changed nothing.
 */
#ifndef AIOL_TLS_CERTIFICATE_C
#define AIOL_TLS_CERTIFICATE_C

#include "tls/mbedtls.c"

/* ---- reading ---- */

/* What is read: a file, or memory that is copied, for mbedTLS wants a zero behind text. */
static int aiol_tls_take_file(const char *path, aiol_file *file) {
    int err = aiol_file_read(&aiol_default_allocator, path, file);
    return err < 0 ? aiol_thread_fail(err, "%s: %s", path, aioloop_strerror(err)) : 0;
}

static int aiol_tls_take_memory(const void *data, size_t size, aiol_file *file) {
    if (data == NULL)
        return aiol_thread_fail(AIOLOOP_EINVAL, "no data");
    if (size > SIZE_MAX / 4)
        return aiol_thread_fail(AIOLOOP_ENOMEM, NULL);
    file->size = size;
    file->room = size + 1;
    file->data = (char *)aiol_alloc(&aiol_default_allocator, file->room);
    if (file->data == NULL)
        return aiol_thread_fail(AIOLOOP_ENOMEM, NULL);
    if (size != 0)
        memcpy(file->data, data, size);
    file->data[size] = '\0';
    return 0;
}

static void aiol_tls_drop_file(aiol_file *file) {
    aiol_file_free(&aiol_default_allocator, file);
}

/* How strict a reader is. OWN: all must be good. TRUSTED: what mbedTLS has no algorithm for is passed over. FOLDER:
 * whatever is no certificate is. */
typedef enum aiol_tls_strictness { AIOL_TLS_OWN, AIOL_TLS_TRUSTED, AIOL_TLS_FOLDER } aiol_tls_strictness;

/* A well-formed certificate that mbedTLS cannot use. */
static bool aiol_tls_is_unknown(int ret) {
    /* X509's FEATURE_UNAVAILABLE, UNKNOWN_OID, UNKNOWN_VERSION, UNKNOWN_SIG_ALG; PK's UNKNOWN_PK_ALG,
     * UNKNOWN_NAMED_CURVE, FEATURE_UNAVAILABLE. Below, a critical extension that is not known: INVALID_EXTENSIONS and
     * ASN1's UNEXPECTED_TAG. */
    static const int high[] = {-0x2080, -0x2100, -0x2580, -0x2600, -0x3c80, -0x3a00, -0x3980};
    size_t i;
    for (i = 0; i < sizeof(high) / sizeof(high[0]); i++)
        if (aiol_mbed_high(ret) == high[i])
            return true;
    return ret == -0x2500 - 0x62;
}

/* Whether a chain has a certificate. */
static bool aiol_tls_chain_has(const mbedtls_x509_crt *chain, const mbedtls_x509_crt *one) {
    for (; chain != NULL; chain = chain->next)
        if (chain->raw.len == one->raw.len && memcmp(chain->raw.p, one->raw.p, one->raw.len) == 0)
            return true;
    return false;
}

/* A folder has most of its certificates by several names, and maybe once more in one file. mbedTLS's code. */
static int aiol_tls_parse_new(mbedtls_x509_crt *chain, const unsigned char *data, size_t size, bool *is_new) {
    mbedtls_x509_crt one;
    int ret;
    mbedtls_x509_crt_init(&one);
    ret = mbedtls_x509_crt_parse(&one, data, size);
    *is_new = ret == 0 && !aiol_tls_chain_has(chain, &one);
    if (*is_new)
        ret = mbedtls_x509_crt_parse_der(chain, one.raw.p, one.raw.len);
    mbedtls_x509_crt_free(&one);
    return ret;
}

/* One certificate to the end of the chain. size counts the zero behind PEM. 1: taken, 0: passed over, or a code. */
static int aiol_tls_parse_one(mbedtls_x509_crt *chain, const char *data, size_t size, aiol_tls_strictness strictness,
                              const char *name, int number) {
    const unsigned char *bytes = (const unsigned char *)data;
    bool is_new = true;
    int ret = strictness == AIOL_TLS_FOLDER ? aiol_tls_parse_new(chain, bytes, size, &is_new)
                                            : mbedtls_x509_crt_parse(chain, bytes, size);
    aiol_mbed_text text;
    if (ret == 0)
        return is_new ? 1 : 0;
    if (aiol_mbed_no_memory(ret))
        return aiol_thread_fail(AIOLOOP_ENOMEM, NULL);
    if (strictness == AIOL_TLS_FOLDER || (strictness == AIOL_TLS_TRUSTED && aiol_tls_is_unknown(ret)))
        return 0;
    return aiol_thread_fail(AIOLOOP_ESSL_CERTIFICATE, "%s: certificate %d: %s", name, number,
                            aiol_mbed_strerror(ret, &text));
}

/* All certificates of a file. How many were taken, or a code. */
static int aiol_tls_parse_certificates(mbedtls_x509_crt *chain, aiol_file *file, aiol_tls_strictness strictness,
                                       const char *name) {
    static const char begin[] = "-----BEGIN CERTIFICATE-----";
    static const char end[] = "-----END CERTIFICATE-----";
    char *at = strstr(file->data, begin);
    int taken = 0;
    int number;
    if (at == NULL && strstr(file->data, "-----BEGIN ") == NULL && file->size != 0)
        taken = aiol_tls_parse_one(chain, file->data, file->size, strictness, name, 1);
    for (number = 1; at != NULL && taken >= 0; number++) {
        char *stop = strstr(at, end);
        char *next = stop == NULL ? at + strlen(at) : stop + sizeof(end) - 1;
        char behind = *next;
        int one;
        *next = '\0';
        one = aiol_tls_parse_one(chain, at, (size_t)(next - at) + 1, strictness, name, number);
        *next = behind;
        taken = one < 0 ? one : taken + one;
        at = strstr(next, begin);
    }
    if (taken == 0 && strictness != AIOL_TLS_FOLDER)
        return aiol_thread_fail(AIOLOOP_ESSL_CERTIFICATE, "%s: there is no certificate in it", name);
    return taken;
}

/* ---- chains that are replaced as a whole ---- */

static void aiol_tls_chain_free(mbedtls_x509_crt *chain) {
    if (chain == NULL)
        return;
    mbedtls_x509_crt_free(chain);
    aiol_free(&aiol_default_allocator, chain, sizeof(*chain));
}

/* A new chain with what is in another one, which may be NULL. NULL when there is no memory, with the message stored. */
static mbedtls_x509_crt *aiol_tls_chain_copy(const mbedtls_x509_crt *from) {
    mbedtls_x509_crt *chain = (mbedtls_x509_crt *)aiol_alloc(&aiol_default_allocator, sizeof(*chain));
    if (chain != NULL)
        mbedtls_x509_crt_init(chain);
    for (; chain != NULL && from != NULL; from = from->next) {
        if (mbedtls_x509_crt_parse_der(chain, from->raw.p, from->raw.len) != 0) {
            aiol_tls_chain_free(chain);
            chain = NULL;
        }
    }
    if (chain == NULL)
        aiol_thread_fail(AIOLOOP_ENOMEM, NULL);
    return chain;
}

static void aiol_tls_revoked_free(mbedtls_x509_crl *list) {
    if (list == NULL)
        return;
    mbedtls_x509_crl_free(list);
    aiol_free(&aiol_default_allocator, list, sizeof(*list));
}

/* The same for lists of what was revoked. */
static mbedtls_x509_crl *aiol_tls_revoked_copy(const mbedtls_x509_crl *from) {
    mbedtls_x509_crl *list = (mbedtls_x509_crl *)aiol_alloc(&aiol_default_allocator, sizeof(*list));
    if (list != NULL)
        mbedtls_x509_crl_init(list);
    for (; list != NULL && from != NULL; from = from->next) {
        if (mbedtls_x509_crl_parse_der(list, from->raw.p, from->raw.len) != 0) {
            aiol_tls_revoked_free(list);
            list = NULL;
        }
    }
    if (list == NULL)
        aiol_thread_fail(AIOLOOP_ENOMEM, NULL);
    return list;
}

/* ---- who a side is ---- */

/* A certificate with those that lead to an authority's, and its key. */
typedef struct aiol_tls_identity {
    struct aiol_tls_identity *next;
    mbedtls_x509_crt chain;
    mbedtls_pk_context key;
} aiol_tls_identity;

static void aiol_tls_identity_free(aiol_tls_identity *identity) {
    if (identity == NULL)
        return;
    mbedtls_x509_crt_free(&identity->chain);
    mbedtls_pk_free(&identity->key);
    aiol_free(&aiol_default_allocator, identity, sizeof(*identity));
}

static int aiol_tls_parse_key(mbedtls_pk_context *key, const aiol_file *file, const char *password, const char *name) {
    size_t size = file->size + (strstr(file->data, "-----BEGIN ") == NULL ? 0 : 1); /* with the zero behind PEM */
    int ret = aiol_mbed_parse_key(key, (const unsigned char *)file->data, size, password);
    aiol_mbed_text text;
    if (ret == 0)
        return 0;
    if (aiol_mbed_no_memory(ret))
        return aiol_thread_fail(AIOLOOP_ENOMEM, NULL);
    if (aiol_mbed_high(ret) == MBEDTLS_ERR_PK_PASSWORD_REQUIRED)
        return aiol_thread_fail(AIOLOOP_ESSL_KEY, "%s: the private key has a password", name);
    if (aiol_mbed_high(ret) == MBEDTLS_ERR_PK_PASSWORD_MISMATCH)
        return aiol_thread_fail(AIOLOOP_ESSL_KEY, "%s: the password of the private key is another one", name);
    return aiol_thread_fail(AIOLOOP_ESSL_KEY, "%s: private key: %s", name, aiol_mbed_strerror(ret, &text));
}

/* Makes one of what was read. 0 or a code. */
static int aiol_tls_identity_new(aiol_file *cert, const char *cert_name, const aiol_file *key, const char *key_name,
                                 const char *password, aiol_tls_identity **out) {
    aiol_tls_identity *identity = (aiol_tls_identity *)aiol_alloc_zero(&aiol_default_allocator, sizeof(*identity));
    int err;
    if (identity == NULL)
        return aiol_thread_fail(AIOLOOP_ENOMEM, NULL);
    mbedtls_x509_crt_init(&identity->chain);
    mbedtls_pk_init(&identity->key);
    err = aiol_tls_parse_certificates(&identity->chain, cert, AIOL_TLS_OWN, cert_name);
    if (err >= 0)
        err = aiol_tls_parse_key(&identity->key, key, password, key_name);
    if (err >= 0 && aiol_mbed_check_pair(&identity->chain, &identity->key) != 0)
        err = aiol_thread_fail(AIOLOOP_ESSL_KEY, "%s: the private key is not that of the certificate in %s", key_name,
                               cert_name);
    if (err < 0) {
        aiol_tls_identity_free(identity);
        return err;
    }
    *out = identity;
    return 0;
}

/* ---- names ---- */

/* The names of a certificate's subject, one after the other: their tags are those of GeneralName. */
#define AIOL_TLS_SAN_EMAIL (MBEDTLS_ASN1_CONTEXT_SPECIFIC | 1)
#define AIOL_TLS_SAN_DNS (MBEDTLS_ASN1_CONTEXT_SPECIFIC | 2)
#define AIOL_TLS_SAN_URI (MBEDTLS_ASN1_CONTEXT_SPECIFIC | 6)
#define AIOL_TLS_SAN_IP (MBEDTLS_ASN1_CONTEXT_SPECIFIC | 7)

/* Whether a certificate is for a numeric address. mbedTLS 2.28 does not look, later ones take the host's text. */
static bool aiol_tls_has_address(const mbedtls_x509_crt *crt, const aioloop_address *address) {
    const size_t size = address->family == AIOLOOP_INET ? 4 : 16;
    const mbedtls_x509_sequence *name;
    for (name = &crt->subject_alt_names; name != NULL; name = name->next)
        if (name->buf.tag == AIOL_TLS_SAN_IP && name->buf.len == size && memcmp(name->buf.p, address->u.ip, size) == 0)
            return true;
    return false;
}

static void aiol_tls_text(aiol_text *t, const char *text) {
    while (*text != '\0')
        aiol_text_char(t, *text++);
}

/* Of what a peer says, printable characters alone. */
static void aiol_tls_foreign_text(aiol_text *t, const unsigned char *text, size_t size) {
    size_t i;
    for (i = 0; i < size; i++)
        aiol_text_char(t, text[i] >= 0x20 && text[i] < 0x7f ? (char)text[i] : '?');
}

static void aiol_tls_address_text(aiol_text *t, const unsigned char *ip, size_t size) {
    if (size == 4)
        aiol_text_v4(t, ip);
    else if (size == 16)
        aiol_text_v6(t, ip);
    else
        aiol_text_char(t, '?');
}

/* One of them as "DNS:example.org". False, and nothing, for kinds that have no such form. */
static bool aiol_tls_alt_name(aiol_text *t, const mbedtls_x509_buf *name) {
    switch (name->tag) {
    case AIOL_TLS_SAN_EMAIL:
        aiol_tls_text(t, "email:");
        break;
    case AIOL_TLS_SAN_DNS:
        aiol_tls_text(t, "DNS:");
        break;
    case AIOL_TLS_SAN_URI:
        aiol_tls_text(t, "URI:");
        break;
    case AIOL_TLS_SAN_IP:
        aiol_tls_text(t, "IP:");
        aiol_tls_address_text(t, name->p, name->len);
        return true;
    default:
        return false;
    }
    aiol_tls_foreign_text(t, name->p, name->len);
    return true;
}

/* For a message: "example.org, *.example.org, 192.0.2.1", as far as it fits; "" if it has no names. */
static void aiol_tls_names(const mbedtls_x509_crt *crt, char *text, size_t size) {
    const mbedtls_x509_sequence *name;
    aiol_text t;
    t.to = text;
    t.size = size;
    t.length = 0;
    for (name = &crt->subject_alt_names; name != NULL; name = name->next) {
        const bool number = name->buf.tag == AIOL_TLS_SAN_IP;
        if (!number && name->buf.tag != AIOL_TLS_SAN_DNS)
            continue;
        if (t.length != 0)
            aiol_tls_text(&t, ", ");
        if (number)
            aiol_tls_address_text(&t, name->buf.p, name->buf.len);
        else
            aiol_tls_foreign_text(&t, name->buf.p, name->buf.len);
    }
    aiol_text_end(&t);
}

/* ---- as a value ---- */

/* Counted: a connection's, and those of the sessions to resume. */
typedef struct aiol_tls_certificate {
    uint32_t refs;
    size_t block_size;
    aioloop_ssl_certificate value;
} aiol_tls_certificate;

static aiol_tls_certificate *aiol_tls_certificate_ref(aiol_tls_certificate *c) {
    if (c != NULL)
        aiol_add_u32(&c->refs, 1);
    return c;
}

static void aiol_tls_certificate_unref(aiol_tls_certificate *c) {
    if (c != NULL && aiol_add_u32(&c->refs, (uint32_t)-1) == 0)
        aiol_free(&aiol_default_allocator, c, c->block_size);
}

/* Seconds since 1970 of a date of the Gregorian calendar: days of years that begin in March. */
static int64_t aiol_tls_seconds(const mbedtls_x509_time *t) {
    const int64_t year = t->mon > 2 ? t->year : t->year - 1;
    const int64_t month = (t->mon + 9) % 12;
    const int64_t days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + t->day - 719469;
    return ((days * 24 + t->hour) * 60 + t->min) * 60 + t->sec;
}

/* Writes a name such as "CN=example.org, O=Example" behind what t has, which has room for it. */
static const char *aiol_tls_dn(aiol_text *t, const mbedtls_x509_name *name) {
    char *text = t->to + t->length;
    int n = mbedtls_x509_dn_gets(text, t->size - t->length, name);
    int i;
    if (n < 0) {
        n = 0;
        text[0] = '\0';
    }
    for (i = 0; i < n; i++)
        if (text[i] < 0x20 || text[i] == 0x7f)
            text[i] = '?';
    t->length += (size_t)n + 1;
    return text;
}

static const char *aiol_tls_serial(aiol_text *t, const mbedtls_x509_buf *serial) {
    char *text = t->to + t->length;
    size_t i;
    for (i = serial->len > 1 && serial->p[0] == 0 ? 1 : 0; i < serial->len; i++) {
        aiol_text_char(t, "0123456789ABCDEF"[serial->p[i] >> 4]);
        aiol_text_char(t, "0123456789ABCDEF"[serial->p[i] & 15]);
    }
    aiol_text_char(t, '\0');
    return text;
}

/* In one block: the struct, the array of names, the DER, the text. NULL when there is no memory. */
static aiol_tls_certificate *aiol_tls_certificate_new(const mbedtls_x509_crt *crt) {
    const size_t text_size = 6 * crt->raw.len + 1024; /* no part of it gets longer than that as text */
    const mbedtls_x509_sequence *name;
    aiol_tls_certificate *c;
    const char **names;
    size_t count = 0;
    size_t size;
    aiol_text t;
    for (name = &crt->subject_alt_names; name != NULL; name = name->next)
        count++;
    size = sizeof(*c) + count * sizeof(char *) + crt->raw.len + text_size;
    c = (aiol_tls_certificate *)aiol_alloc_zero(&aiol_default_allocator, size);
    if (c == NULL)
        return NULL;
    c->refs = 1;
    c->block_size = size;
    names = (const char **)(void *)(c + 1);
    memcpy(names + count, crt->raw.p, crt->raw.len);
    c->value.der = names + count;
    c->value.der_size = crt->raw.len;
    t.to = (char *)(names + count) + crt->raw.len;
    t.size = text_size;
    t.length = 0;
    c->value.subject = aiol_tls_dn(&t, &crt->subject);
    c->value.issuer = aiol_tls_dn(&t, &crt->issuer);
    c->value.serial_number = aiol_tls_serial(&t, &crt->serial);
    c->value.not_before = aiol_tls_seconds(&crt->valid_from);
    c->value.not_after = aiol_tls_seconds(&crt->valid_to);
    c->value.subject_alt_names = names;
    for (name = &crt->subject_alt_names; name != NULL; name = name->next) {
        const char *text = t.to + t.length;
        if (name->buf.p == NULL || !aiol_tls_alt_name(&t, &name->buf))
            continue;
        aiol_text_char(&t, '\0');
        names[c->value.subject_alt_name_count++] = text;
    }
    return c;
}

#endif
