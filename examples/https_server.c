/*
 * https_server.c - the files of a folder over HTTPS and over plain HTTP, side by side. The same call sends them: plain
 * by the system itself, without a byte coming by here, and over TLS copied, since they are to be encrypted.
 *
 *     openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem \
 *         -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1
 *     cc -O2 examples/https_server.c -o https_server -lmbedtls -lmbedx509 -lmbedcrypto
 *     ./https_server cert.pem key.pem examples 8443 8080
 *     curl --cacert cert.pem https://localhost:8443/https_server.c
 *     curl http://localhost:8080/https_server.c
 *
 * GET alone, and names as they are; file_server.c does more. Meant to be read, not to face the internet.
 */
#define AIOLOOP_USE_TLS 1
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define IDLE AIOLOOP_SECONDS(30)
#define HEAD_LIMIT 8192

/* ---- a connection: nothing here asks whether it is TLS ---- */

static int send_head(aioloop_stream *stream, const char *status, int64_t size) {
    char head[128];
    int n = snprintf(head, sizeof(head), "HTTP/1.1 %s\r\nContent-Length: %lld\r\n\r\n", status, (long long)size);
    return aioloop_stream_write(stream, head, (size_t)n);
}

/* Opens a file of the folder; -1: there is none. Nothing that begins with a dot, so nothing above the folder either. */
static aioloop_file open_file(const char *path, int64_t *size) {
    struct stat status;
    aioloop_file file;
    if (path[0] == '.' || path[0] == '/' || strstr(path, "/.") != NULL)
        return -1;
    file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0)
        return -1;
    if (fstat(file, &status) == 0 && S_ISREG(status.st_mode)) {
        *size = (int64_t)status.st_size;
        return file;
    }
    close(file);
    return -1;
}

static int64_t answer(aioloop *loop, aioloop_stream *stream, const char *head) {
    char path[1024] = "";
    int64_t size = 0;
    int64_t n;
    aioloop_file file;
    if (sscanf(head, "GET /%1023[^ ?\r\n]", path) < 1)
        return send_head(stream, "400 Bad Request", 0);
    file = open_file(path, &size);
    if (file < 0)
        return send_head(stream, "404 Not Found", 0);
    n = send_head(stream, "200 OK", size);
    if (n >= 0 && size != 0)
        n = aioloop_await(aioloop_sendfile(loop, aioloop_stream_get_transport(stream), file, 0, size, NULL), NULL);
    close(file);
    if (n >= 0 && n < size)
        n = aioloop_raise(loop, AIOLOOP_EIO, "%s was cut while it was sent", path);
    return n;
}

/* The life of a connection. With TLS it begins after the handshake. */
static int64_t serve(aioloop *loop, aioloop_stream *stream, void *arg) {
    bool goes_on = true;
    int64_t n = 0;
    (void)arg;
    while (goes_on && n >= 0) {
        char *head = NULL;
        n = aioloop_await(aioloop_wait_for(aioloop_stream_readuntil(stream, "\r\n\r\n", 4), IDLE), &head);
        if (n < 0)
            return 0; /* left, idle, or no HTTP */
        goes_on = strncmp(head, "GET ", 4) == 0 && strstr(head, " HTTP/1.1\r\n") != NULL &&
                  strstr(head, "onnection: close") == NULL;
        n = answer(loop, stream, head);
        if (n >= 0)
            n = aioloop_await(aioloop_stream_drain(stream), NULL);
    }
    return n == AIOLOOP_ECONNRESET || n == AIOLOOP_EPIPE ? 0 : n;
}

/* ---- the servers ---- */

struct servers {
    aioloop_ssl_context *context;
    int https_port;
    int http_port;
};

/* context NULL: plain. */
static int64_t start(aioloop *loop, aioloop_ssl_context *context, int port, aioloop_server **server) {
    aioloop_stream_server_options options = AIOLOOP_ZERO;
    aioloop_address address = AIOLOOP_ZERO;
    int64_t n;
    options.limit = HEAD_LIMIT;
    options.server.ssl = context;
    n = aioloop_await(aioloop_start_server(loop, serve, NULL, "127.0.0.1", port, &options), server);
    if (n < 0)
        return n;
    aioloop_server_socket(*server, 0, NULL, &address);
    printf("%s on port %d\n", context != NULL ? "https" : "http", address.port);
    fflush(stdout);
    return 0;
}

static int64_t run(aioloop *loop, void *arg, void **out) {
    const struct servers *servers = (const struct servers *)arg;
    aioloop_server *https = NULL;
    aioloop_server *http = NULL;
    int64_t n = start(loop, servers->context, servers->https_port, &https);
    (void)out;
    if (n >= 0)
        n = start(loop, NULL, servers->http_port, &http);
    if (n >= 0) {
        aioloop_future *both[2];
        both[0] = aioloop_server_serve_forever(https);
        both[1] = aioloop_server_serve_forever(http);
        n = aioloop_await(aioloop_gather(loop, both, 2, false), NULL);
    }
    aioloop_server_unref(https);
    aioloop_server_unref(http);
    return n;
}

/* NULL: see aioloop_last_error. */
static aioloop_ssl_context *make_context(const char *certificate, const char *key) {
    static const char *const protocols[] = {"http/1.1"};
    aioloop_ssl_context *context = aioloop_ssl_create_default_context(AIOLOOP_TLS_SERVER);
    if (context != NULL && aioloop_ssl_context_load_cert_chain(context, certificate, key, NULL) == 0 &&
        aioloop_ssl_context_set_alpn_protocols(context, protocols, 1) == 0)
        return context;
    aioloop_ssl_context_unref(context);
    return NULL;
}

int main(int argc, char **argv) {
    struct servers servers = {NULL, 8443, 8080};
    int64_t n;
    if (argc < 4 || argc > 6) {
        fprintf(stderr, "usage: %s CERTIFICATE.pem KEY.pem FOLDER [HTTPS_PORT [HTTP_PORT]]\n", argv[0]);
        return 2;
    }
    if (argc > 4)
        servers.https_port = atoi(argv[4]);
    if (argc > 5)
        servers.http_port = atoi(argv[5]);
    servers.context = make_context(argv[1], argv[2]);
    if (servers.context == NULL) {
        fprintf(stderr, "https_server: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    if (chdir(argv[3]) != 0) {
        perror(argv[3]);
        aioloop_ssl_context_unref(servers.context);
        return 1;
    }
    n = aioloop_run(run, &servers, NULL);
    aioloop_ssl_context_unref(servers.context);
    if (n < 0)
        fprintf(stderr, "https_server: %s\n", aioloop_message(NULL, n));
    return n < 0;
}
