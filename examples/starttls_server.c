/*
 * starttls_server.c - takes mail as an SMTP server does, and only after the client has asked to go on with TLS
 * (STARTTLS). Prints what it gets.
 *
 *     openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem \
 *         -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1
 *     cc examples/starttls_server.c -o starttls_server -lmbedtls -lmbedx509 -lmbedcrypto
 *     ./starttls_server cert.pem key.pem 2525
 *     openssl s_client -starttls smtp -crlf -connect 127.0.0.1:2525 -CAfile cert.pem
 */
#define AIOLOOP_USE_TLS 1
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define IDLE AIOLOOP_SECONDS(60)

static int64_t say(aioloop_stream *stream, const char *text) {
    int64_t n = aioloop_stream_write(stream, text, strlen(text));
    return n < 0 ? n : aioloop_await(aioloop_stream_drain(stream), NULL);
}

/* 0: the client has left. */
static int64_t hear(aioloop_stream *stream, char **line) {
    return aioloop_await(aioloop_wait_for(aioloop_stream_readline(stream), IDLE), line);
}

/* The stream stays the same, only what is below it becomes TLS. What the client has sent behind its line, if it did not
 * wait for the answer, goes to the handshake, never to the dialogue: commands that somebody has slipped in there before
 * the encryption are no handshake, and end the connection. */
static int64_t upgrade(aioloop_stream *stream, aioloop_ssl_context *context) {
    int64_t n = say(stream, "220 Go ahead\r\n"); /* leaves in clear, whenever it is sent */
    if (n >= 0)
        n = aioloop_await(aioloop_stream_start_tls(stream, context, NULL), NULL);
    if (n >= 0)
        printf("the connection is %s now\n", (const char *)aioloop_stream_get_extra_info(stream, "version", "?"));
    return n;
}

/* Up to a line with a single dot; lines that begin with one come with one more. */
static int64_t take_mail(aioloop_stream *stream) {
    char *line = NULL;
    int64_t n = say(stream, "354 Go ahead, end with a dot\r\n");
    while (n >= 0 && (n = hear(stream, &line)) > 0) {
        if (strcmp(line, ".\r\n") == 0)
            return say(stream, "250 Taken\r\n");
        printf("  | %.*s\n", (int)strcspn(line, "\r\n"), line[0] == '.' ? line + 1 : line);
    }
    return n < 0 ? n : AIOLOOP_ECONNRESET; /* it left in the middle */
}

static bool is(const char *line, const char *command) {
    return strncasecmp(line, command, strlen(command)) == 0;
}

static int64_t answer(aioloop_stream *stream, aioloop_ssl_context *context, const char *line) {
    bool secure = aioloop_stream_get_extra_info(stream, "version", NULL) != NULL;
    if (is(line, "EHLO"))
        return say(stream, secure ? "250 localhost\r\n" : "250-localhost\r\n250 STARTTLS\r\n");
    if (is(line, "HELO") || is(line, "NOOP") || is(line, "RSET"))
        return say(stream, "250 OK\r\n");
    if (is(line, "STARTTLS"))
        return secure ? say(stream, "503 It is TLS already\r\n") : upgrade(stream, context);
    if (!is(line, "MAIL FROM:") && !is(line, "RCPT TO:") && !is(line, "DATA"))
        return say(stream, "500 What?\r\n");
    if (!secure)
        return say(stream, "530 Must issue a STARTTLS command first\r\n");
    return is(line, "DATA") ? take_mail(stream) : say(stream, "250 OK\r\n");
}

/* The life of a connection. What it fails with is reported on stderr; the others go on. */
static int64_t serve(aioloop *loop, aioloop_stream *stream, void *arg) {
    char *line = NULL;
    int64_t n = say(stream, "220 localhost at your service\r\n");
    (void)loop;
    while (n >= 0 && (n = hear(stream, &line)) > 0) {
        if (is(line, "QUIT"))
            return say(stream, "221 Bye\r\n");
        n = answer(stream, (aioloop_ssl_context *)arg, line);
        fflush(stdout);
    }
    return n;
}

struct arguments {
    aioloop_ssl_context *context;
    int port;
};

static int64_t run(aioloop *loop, void *arg, void **out) {
    const struct arguments *arguments = (const struct arguments *)arg;
    aioloop_address address = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    int64_t n = aioloop_await(
        aioloop_start_server(loop, serve, arguments->context, "127.0.0.1", arguments->port, NULL), &server);
    (void)out;
    if (n < 0)
        return n;
    aioloop_server_socket(server, 0, NULL, &address);
    printf("listening on port %d\n", address.port);
    fflush(stdout);
    n = aioloop_await(aioloop_server_serve_forever(server), NULL);
    aioloop_server_unref(server);
    return n;
}

int main(int argc, char **argv) {
    struct arguments arguments = {NULL, 0};
    int64_t n;
    if (argc != 4) {
        fprintf(stderr, "usage: %s CERTIFICATE.pem KEY.pem PORT\n", argv[0]);
        return 2;
    }
    arguments.port = atoi(argv[3]); /* 0: any free port */
    arguments.context = aioloop_ssl_create_default_context(AIOLOOP_TLS_SERVER);
    if (arguments.context == NULL ||
        aioloop_ssl_context_load_cert_chain(arguments.context, argv[1], argv[2], NULL) < 0) {
        fprintf(stderr, "starttls_server: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
        aioloop_ssl_context_unref(arguments.context);
        return 1;
    }
    n = aioloop_run(run, &arguments, NULL);
    aioloop_ssl_context_unref(arguments.context);
    if (n < 0)
        fprintf(stderr, "starttls_server: %s\n", aioloop_message(NULL, n));
    return n < 0;
}
