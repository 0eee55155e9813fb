/*
 * pinning_client.c - speaks to a server with one certificate and no other, whoever signed it: no authority can put
 * another in its place. Sends a line and prints what comes.
 *
 *     cc examples/pinning_client.c -o pinning_client -lmbedtls -lmbedx509 -lmbedcrypto
 *     openssl x509 -in cert.pem -outform DER -out cert.der
 *     ./pinning_client localhost 8443 cert.der "GET / HTTP/1.0"
 *     ./pinning_client localhost 8443 $(openssl x509 -in cert.pem -noout -fingerprint -sha256 | cut -d= -f2)
 *
 * The pin is the certificate itself (a file with its DER), or its SHA-256, with or without colons.
 */
#define AIOLOOP_USE_TLS 1
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <ctype.h>
#include <mbedtls/md.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIGEST_SIZE 32

struct pin {
    unsigned char digest[DIGEST_SIZE];
    unsigned char der[16384];
    size_t der_size; /* 0: the digest counts */
};

struct request {
    const char *host;
    int port;
    const char *line;
    aioloop_ssl_context *context;
    struct pin pin;
};

/* ---- the pin ---- */

static bool parse_digest(struct pin *pin, const char *text) {
    size_t count = 0;
    while (count < DIGEST_SIZE && isxdigit((unsigned char)text[0]) && isxdigit((unsigned char)text[1])) {
        char pair[3] = {text[0], text[1], '\0'};
        pin->digest[count++] = (unsigned char)strtoul(pair, NULL, 16);
        text += text[2] == ':' ? 3 : 2;
    }
    return count == DIGEST_SIZE && *text == '\0';
}

static bool load_der(struct pin *pin, const char *path) {
    FILE *file = fopen(path, "rb");
    bool whole;
    if (file == NULL)
        return false;
    pin->der_size = fread(pin->der, 1, sizeof(pin->der), file);
    whole = ferror(file) == 0 && pin->der_size < sizeof(pin->der);
    fclose(file);
    return whole && pin->der_size != 0 && pin->der[0] == 0x30; /* so every certificate in DER begins, and none in PEM */
}

/* Compares the bytes, or their SHA-256: it is this certificate and not just one with the same name or key. */
static int64_t check(aioloop *loop, const struct pin *pin, const aioloop_ssl_certificate *certificate) {
    unsigned char digest[DIGEST_SIZE];
    bool same;
    if (certificate == NULL)
        return aioloop_raise(loop, AIOLOOP_ESSL_CERT_VERIFY, "the server has shown no certificate");
    if (mbedtls_md(mbedtls_md_info_from_type(MBEDTLS_MD_SHA256), (const unsigned char *)certificate->der,
                   certificate->der_size, digest) != 0)
        return aioloop_raise(loop, AIOLOOP_ENOTAVAILABLE, "mbedTLS has no SHA-256");
    if (pin->der_size != 0)
        same = pin->der_size == certificate->der_size && memcmp(pin->der, certificate->der, pin->der_size) == 0;
    else
        same = memcmp(pin->digest, digest, sizeof(digest)) == 0;
    if (!same) {
        char text[2 * DIGEST_SIZE + 1];
        for (size_t i = 0; i < sizeof(digest); i++)
            snprintf(text + 2 * i, 3, "%02X", digest[i]);
        return aioloop_raise(loop, AIOLOOP_ESSL_CERT_VERIFY, "not the pinned certificate, but %s, SHA-256 %s",
                             certificate->subject, text);
    }
    return 0;
}

/* ---- the connection ---- */

static int64_t run(aioloop *loop, void *arg, void **out) {
    const struct request *request = (const struct request *)arg;
    aioloop_stream_options options = AIOLOOP_ZERO;
    aioloop_stream *stream = NULL;
    aioloop_buf pieces[2];
    const char *data = NULL;
    int64_t n;
    (void)out;
    options.connection.ssl = request->context;
    options.connection.timeout = AIOLOOP_SECONDS(10);
    n = aioloop_await(aioloop_open_connection(loop, request->host, request->port, &options), &stream);
    if (n < 0)
        return n;
    n = check(loop, &request->pin,
              (const aioloop_ssl_certificate *)aioloop_stream_get_extra_info(stream, "peercert", NULL));
    if (n < 0) { /* not a byte to such a one */
        aioloop_transport_abort(aioloop_stream_get_transport(stream));
        aioloop_stream_unref(stream);
        return n;
    }
    fprintf(stderr, "the pinned certificate\n");
    pieces[0].data = request->line;
    pieces[0].size = strlen(request->line);
    pieces[1].data = "\r\n\r\n";
    pieces[1].size = 4;
    n = aioloop_stream_writelines(stream, pieces, 2);
    while (n >= 0 && (n = aioloop_await(aioloop_stream_read(stream, 65536), &data)) > 0)
        if (fwrite(data, 1, (size_t)n, stdout) != (size_t)n)
            n = AIOLOOP_EIO;
    aioloop_stream_unref(stream);
    return n;
}

/* The pin takes the place of authorities, names and dates. That the server has the certificate's key is proven by the
 * handshake in any case. NULL: see aioloop_last_error. */
static aioloop_ssl_context *make_context(void) {
    aioloop_ssl_context *context = aioloop_ssl_context_new(AIOLOOP_TLS_CLIENT);
    if (context != NULL && aioloop_ssl_context_set_check_hostname(context, false) == 0 && /* comes first */
        aioloop_ssl_context_set_verify_mode(context, AIOLOOP_CERT_NONE) == 0)
        return context;
    aioloop_ssl_context_unref(context);
    return NULL;
}

int main(int argc, char **argv) {
    static struct request request;
    aioloop_run_options options = AIOLOOP_ZERO;
    int64_t n;
    if (argc < 4 || argc > 5) {
        fprintf(stderr, "usage: %s HOST PORT CERTIFICATE.der|SHA256 [LINE]\n", argv[0]);
        return 2;
    }
    request.host = argv[1];
    request.port = atoi(argv[2]);
    request.line = argc > 4 ? argv[4] : "GET / HTTP/1.0";
    if (!parse_digest(&request.pin, argv[3]) && !load_der(&request.pin, argv[3])) {
        fprintf(stderr, "pinning_client: %s: neither a SHA-256 nor a file with a certificate in DER\n", argv[3]);
        return 2;
    }
    request.context = make_context();
    if (request.context == NULL) {
        fprintf(stderr, "pinning_client: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    options.timeout = AIOLOOP_SECONDS(60);
    n = aioloop_run(run, &request, &options);
    aioloop_ssl_context_unref(request.context);
    if (n < 0)
        fprintf(stderr, "pinning_client: %s\n", aioloop_message(NULL, n));
    return n < 0;
}
