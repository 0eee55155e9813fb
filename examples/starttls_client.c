/*
 * starttls_client.c - brings a mail to an SMTP server, over TLS: asks for it in clear (STARTTLS), and sends nothing
 * that matters before. See starttls_server.c for a server and a certificate.
 *
 *     cc examples/starttls_client.c -o starttls_client -lmbedtls -lmbedx509 -lmbedcrypto
 *     ./starttls_client localhost 2525 cert.pem "Hello over TLS"
 *
 * Without a certificate (or with "") the server's must come from an authority that the system trusts.
 */
#define AIOLOOP_USE_TLS 1
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct mail {
    const char *host;
    int port;
    const char *text; /* a line */
    aioloop_ssl_context *context;
};

/* An answer: lines of "250-text", the last is "250 text". Fails if its number is another. Returns 1 if one of the lines
 * offers STARTTLS, else 0. */
static int64_t hear(aioloop *loop, aioloop_stream *stream, int number) {
    int64_t offered = 0;
    char *line = NULL;
    do {
        int64_t n = aioloop_await(aioloop_stream_readline(stream), &line);
        if (n <= 0)
            return n < 0 ? n : aioloop_raise(loop, AIOLOOP_ECONNRESET, "the server has left");
        line[strcspn(line, "\r\n")] = '\0';
        printf("S: %s\n", line);
        if (atoi(line) != number) /* if it is, the line has three digits at least */
            return aioloop_raise(loop, AIOLOOP_EIO, "the server does not say %d, but: %s", number, line);
        if (strcmp(line + 3, "-STARTTLS") == 0 || strcmp(line + 3, " STARTTLS") == 0)
            offered = 1;
    } while (line[3] == '-');
    return offered;
}

static int64_t ask(aioloop *loop, aioloop_stream *stream, const char *line, int number) {
    aioloop_buf pieces[2];
    int64_t n;
    printf("C: %s\n", line);
    pieces[0].data = line;
    pieces[0].size = strlen(line);
    pieces[1].data = "\r\n";
    pieces[1].size = 2;
    n = aioloop_stream_writelines(stream, pieces, 2);
    return n < 0 ? n : hear(loop, stream, number);
}

/* The offer comes in clear, so somebody on the way may have taken it out: without it the dialogue ends. */
static int64_t upgrade(aioloop *loop, aioloop_stream *stream, const struct mail *mail) {
    aioloop_start_tls_options options = AIOLOOP_ZERO;
    int64_t n = hear(loop, stream, 220);
    if (n >= 0)
        n = ask(loop, stream, "EHLO localhost", 250);
    if (n == 0)
        return aioloop_raise(loop, AIOLOOP_EIO, "the server offers no STARTTLS; nothing was sent");
    if (n > 0)
        n = ask(loop, stream, "STARTTLS", 220);
    if (n < 0)
        return n;
    options.server_hostname = mail->host; /* without it, nobody looks whose certificate it is */
    return aioloop_await(aioloop_stream_start_tls(stream, mail->context, &options), NULL);
}

static int64_t send_mail(aioloop *loop, aioloop_stream *stream, const struct mail *mail) {
    const aioloop_ssl_cipher *cipher;
    char line[1024];
    int64_t n = upgrade(loop, stream, mail);
    if (n < 0)
        return n;
    cipher = (const aioloop_ssl_cipher *)aioloop_stream_get_extra_info(stream, "cipher", NULL);
    printf("-- the same connection, %s from here on\n", cipher != NULL ? cipher->name : "TLS");
    n = ask(loop, stream, "EHLO localhost", 250); /* anew: what was heard in clear counts for nothing */
    if (n >= 0)
        n = ask(loop, stream, "MAIL FROM:<sender@localhost>", 250);
    if (n >= 0)
        n = ask(loop, stream, "RCPT TO:<reader@localhost>", 250);
    if (n >= 0)
        n = ask(loop, stream, "DATA", 354);
    if (n >= 0) {
        /* A line that begins with a dot gets one more, for a dot alone is the end. */
        snprintf(line, sizeof(line), "%s%.900s\r\n.", mail->text[0] == '.' ? "." : "", mail->text);
        n = ask(loop, stream, line, 250);
    }
    return n < 0 ? n : ask(loop, stream, "QUIT", 221);
}

static int64_t run(aioloop *loop, void *arg, void **out) {
    const struct mail *mail = (const struct mail *)arg;
    aioloop_stream_options options = AIOLOOP_ZERO;
    aioloop_stream *stream = NULL;
    int64_t n;
    (void)out;
    options.connection.timeout = AIOLOOP_SECONDS(10);
    n = aioloop_await(aioloop_open_connection(loop, mail->host, mail->port, &options), &stream);
    if (n >= 0)
        n = send_mail(loop, stream, mail);
    aioloop_stream_unref(stream); /* also closes it */
    return n;
}

/* authority: a file, or "": whom the system trusts. NULL: see aioloop_last_error. */
static aioloop_ssl_context *make_context(const char *authority) {
    aioloop_ssl_context *context;
    if (authority[0] == '\0')
        return aioloop_ssl_create_default_context(AIOLOOP_TLS_CLIENT);
    context = aioloop_ssl_context_new(AIOLOOP_TLS_CLIENT);
    if (context != NULL && aioloop_ssl_context_load_verify_locations(context, authority, NULL) > 0)
        return context;
    aioloop_ssl_context_unref(context);
    return NULL;
}

int main(int argc, char **argv) {
    struct mail mail = {NULL, 0, "Hello over TLS", NULL};
    aioloop_run_options options = AIOLOOP_ZERO;
    int64_t n;
    if (argc < 3 || argc > 5) {
        fprintf(stderr, "usage: %s HOST PORT [AUTHORITY.pem [TEXT]]\n", argv[0]);
        return 2;
    }
    mail.host = argv[1];
    mail.port = atoi(argv[2]);
    if (argc > 4)
        mail.text = argv[4];
    mail.context = make_context(argc > 3 ? argv[3] : "");
    if (mail.context == NULL) {
        fprintf(stderr, "starttls_client: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    options.timeout = AIOLOOP_SECONDS(30); /* for the whole dialogue */
    n = aioloop_run(run, &mail, &options);
    aioloop_ssl_context_unref(mail.context);
    if (n < 0)
        fprintf(stderr, "starttls_client: %s\n", aioloop_message(NULL, n));
    return n < 0;
}
