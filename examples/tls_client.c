/*
 * tls_client.c - asks a web server by name over TLS, and tells who answered.
 *
 *     cc examples/tls_client.c -o tls_client -lmbedtls -lmbedx509 -lmbedcrypto
 *     ./tls_client example.org
 *     ./tls_client localhost 8443 cert.pem
 *
 * The certificate must be for that host and come from an authority that the system trusts, or from the one in the file:
 * of a private authority, or of the server itself if it signed its own.
 */
#define AIOLOOP_USE_TLS 1
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct request {
    const char *host;
    int port;
    aioloop_ssl_context *context;
};

static void show_time(const char *what, int64_t seconds) {
    time_t when = (time_t)seconds;
    const struct tm *parts = gmtime(&when);
    char text[64] = "?";
    if (parts != NULL)
        strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", parts);
    fprintf(stderr, "%-12s %s\n", what, text);
}

/* Goes to stderr, so that stdout has the answer alone. */
static void show_peer(const aioloop_stream *stream) {
    const aioloop_ssl_certificate *certificate =
        (const aioloop_ssl_certificate *)aioloop_stream_get_extra_info(stream, "peercert", NULL);
    const aioloop_ssl_cipher *cipher =
        (const aioloop_ssl_cipher *)aioloop_stream_get_extra_info(stream, "cipher", NULL);
    fprintf(stderr, "%-12s %s\n", "version", (const char *)aioloop_stream_get_extra_info(stream, "version", "?"));
    if (cipher != NULL)
        fprintf(stderr, "%-12s %s\n", "cipher", cipher->name);
    fprintf(stderr, "%-12s %s\n", "ALPN",
            (const char *)aioloop_stream_get_extra_info(stream, "alpn", "(the server chose none)"));
    if (certificate == NULL)
        return;
    fprintf(stderr, "%-12s %s\n%-12s %s\n", "subject", certificate->subject, "issuer", certificate->issuer);
    for (size_t i = 0; i < certificate->subject_alt_name_count; i++)
        fprintf(stderr, "%-12s %s\n", "is for", certificate->subject_alt_names[i]);
    show_time("valid from", certificate->not_before);
    show_time("valid until", certificate->not_after);
}

/* A context that trusts nobody at first, so that an authority which is given is the only one; NULL: whom the system
 * trusts. Gives NULL: see aioloop_last_error. */
static aioloop_ssl_context *make_context(const char *authority) {
    static const char *const protocols[] = {"http/1.1"};
    aioloop_ssl_context *context = aioloop_ssl_context_new(AIOLOOP_TLS_CLIENT);
    int n;
    if (context == NULL)
        return NULL;
    n = authority != NULL ? aioloop_ssl_context_load_verify_locations(context, authority, NULL)
                          : aioloop_ssl_context_load_default_certs(context);
    if (n == 0)
        n = aioloop_raise(NULL, AIOLOOP_ENOENT,
                          "this system trusts no authority (ca-certificates?); give one as argument");
    if (n > 0)
        n = aioloop_ssl_context_set_alpn_protocols(context, protocols, 1);
    if (n == 0)
        return context;
    aioloop_ssl_context_unref(context);
    return NULL;
}

static int64_t ask(aioloop_stream *stream, const char *host) {
    char text[512];
    const char *data = NULL;
    int size = snprintf(text, sizeof(text), "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host);
    int64_t n = size < (int)sizeof(text) ? aioloop_stream_write(stream, text, (size_t)size) : AIOLOOP_EINVAL;
    if (n < 0)
        return n;
    /* An end without TLS's goodbye is AIOLOOP_ESSL_TRUNCATED: somebody may have cut the answer short. */
    while ((n = aioloop_await(aioloop_stream_read(stream, 65536), &data)) > 0)
        if (fwrite(data, 1, (size_t)n, stdout) != (size_t)n)
            return AIOLOOP_EIO;
    return n;
}

static int64_t run(aioloop *loop, void *arg, void **out) {
    const struct request *request = (const struct request *)arg;
    aioloop_stream_options options = AIOLOOP_ZERO;
    aioloop_stream *stream = NULL;
    int64_t n;
    (void)out;
    options.connection.ssl = request->context;
    options.connection.timeout = AIOLOOP_SECONDS(10); /* for all of it: the name, the connection, the handshake */
    options.connection.happy_eyeballs_delay = AIOLOOP_MS(250);
    n = aioloop_await(aioloop_open_connection(loop, request->host, request->port, &options), &stream);
    if (n < 0)
        return n;
    show_peer(stream);
    n = ask(stream, request->host);
    aioloop_stream_unref(stream); /* also closes it */
    return n;
}

int main(int argc, char **argv) {
    struct request request = {NULL, 443, NULL};
    aioloop_run_options options = AIOLOOP_ZERO;
    int64_t n;
    if (argc < 2 || argc > 4) {
        fprintf(stderr, "usage: %s HOST [PORT [AUTHORITY.pem]]\n", argv[0]);
        return 2;
    }
    request.host = argv[1];
    if (argc > 2)
        request.port = atoi(argv[2]);
    request.context = make_context(argc > 3 ? argv[3] : NULL);
    if (request.context == NULL) {
        fprintf(stderr, "tls_client: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    options.timeout = AIOLOOP_SECONDS(60);
    n = aioloop_run(run, &request, &options);
    aioloop_ssl_context_unref(request.context);
    if (n == AIOLOOP_ESSL_CERT_VERIFY)
        fprintf(stderr, "tls_client: this is not %s, or cannot prove it; nothing was asked:\n    %s\n", request.host,
                aioloop_message(NULL, n));
    else if (n < 0)
        fprintf(stderr, "tls_client: %s\n", aioloop_message(NULL, n));
    return n < 0;
}
