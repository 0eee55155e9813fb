/*
 * tls.c - the C side of TLS in `make interop`, with aioloop's streams.
 *
 *     tls pattern BYTES                prints the bytes that everybody sends here
 *     tls server --OPTION VALUE ...    listens at a free port of 127.0.0.1, which it prints
 *     tls client PORT --OPTION VALUE ...
 *
 * Both print a line for each connection that was made, and one for how it ended. The client's status is 0 if all was
 * right. The options are those of `settings` below.
 */
#define AIOLOOP_IMPLEMENTATION
#include "../../aioloop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE 65536u

static struct settings {
    const char *cert, *key, *ca, *crl, *verify; /* verify: none, optional, required */
    const char *name;                           /* a client's: whom it expects */
    const char *sni, *sni_cert, *sni_key;       /* a server's: who asks for this name gets another certificate */
    const char *alpn;                           /* one or two, with a comma */
    const char *min, *max, *ciphers, *tickets;  /* min, max: 1.2, 1.3; tickets: off */
    const char *speak;                          /* a server: echo, http, smtp; a client: echo, lines, get, wait, smtp */
    const char *upgrade;                        /* a server with "yes" begins in clear, so it hears of failures */
    const char *bytes;                          /* a client sends and expects so many; a server closes behind them */
    const char *drain;                          /* a server with "no" reads on while a peer does not */
    const char *last;                           /* a client with "peer" leaves the end to the server */
    const char *connections;                    /* a client: one after the other, each resumes the session before */
} set;

static const struct {
    const char *name;
    const char **value;
} options[] = {
    {"--cert", &set.cert},       {"--key", &set.key},         {"--ca", &set.ca},       {"--crl", &set.crl},
    {"--verify", &set.verify},   {"--name", &set.name},       {"--sni", &set.sni},     {"--sni-cert", &set.sni_cert},
    {"--sni-key", &set.sni_key}, {"--alpn", &set.alpn},       {"--min", &set.min},     {"--max", &set.max},
    {"--tickets", &set.tickets}, {"--speak", &set.speak},     {"--bytes", &set.bytes}, {"--last", &set.last},
    {"--connections", &set.connections}, {"--upgrade", &set.upgrade},
    {"--drain", &set.drain},             {"--ciphers", &set.ciphers},
};

static aioloop_ssl_context *context, *second;

static bool is(const char *value, const char *word) {
    return value != NULL && strcmp(value, word) == 0;
}

static uint64_t number(const char *value, uint64_t otherwise) {
    return value == NULL ? otherwise : strtoull(value, NULL, 10);
}

/* Text, for there are peers that take no other. */
static void pattern(char *to, uint64_t from, size_t size) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < size; i++)
        to[i] = letters[(from + i) * 0x9e3779b97f4a7c15u >> 58];
}

/* ---- contexts ---- */

static aioloop_tls_version version_of(const char *text) {
    return is(text, "1.3") ? AIOLOOP_TLS_1_3 : AIOLOOP_TLS_1_2;
}

static aioloop_ssl_verify_mode verify(const char *text) {
    return is(text, "none") ? AIOLOOP_CERT_NONE : is(text, "optional") ? AIOLOOP_CERT_OPTIONAL : AIOLOOP_CERT_REQUIRED;
}

static aioloop_ssl_context *choose(aioloop_ssl_context *first, const char *name, void *arg) {
    (void)arg;
    return strcmp(name, set.sni) == 0 ? second : first;
}

static int set_alpn(void) {
    static char both[256];
    const char *names[2];
    char *comma;
    snprintf(both, sizeof(both), "%s", set.alpn);
    comma = strchr(both, ',');
    names[0] = both;
    names[1] = comma == NULL ? NULL : comma + 1;
    if (comma != NULL)
        *comma = '\0';
    return aioloop_ssl_context_set_alpn_protocols(context, names, comma == NULL ? 1 : 2);
}

static int set_second(void) {
    second = aioloop_ssl_context_new(AIOLOOP_TLS_SERVER);
    if (second == NULL)
        return aioloop_error_code(aioloop_last_error(NULL));
    int err = aioloop_ssl_context_load_cert_chain(second, set.sni_cert, set.sni_key, NULL);
    return err < 0 ? err : aioloop_ssl_context_set_sni_callback(context, choose, NULL);
}

static int make_context(aioloop_tls_side side) {
    int err = 0;
    context = aioloop_ssl_context_new(side);
    if (context == NULL)
        return aioloop_error_code(aioloop_last_error(NULL));
    if (set.cert != NULL)
        err = aioloop_ssl_context_load_cert_chain(context, set.cert, set.key, NULL);
    if (err >= 0 && set.ca != NULL)
        err = aioloop_ssl_context_load_verify_locations(context, set.ca, NULL);
    if (err >= 0 && set.crl != NULL)
        err = aioloop_ssl_context_load_crl(context, set.crl);
    if (err >= 0 && is(set.verify, "none") && side == AIOLOOP_TLS_CLIENT)
        err = aioloop_ssl_context_set_check_hostname(context, false);
    if (err >= 0 && set.verify != NULL)
        err = aioloop_ssl_context_set_verify_mode(context, verify(set.verify));
    if (err >= 0 && set.min != NULL)
        err = aioloop_ssl_context_set_minimum_version(context, version_of(set.min));
    if (err >= 0 && set.max != NULL)
        err = aioloop_ssl_context_set_maximum_version(context, version_of(set.max));
    if (err >= 0 && set.ciphers != NULL)
        err = aioloop_ssl_context_set_ciphers(context, set.ciphers);
    if (err >= 0 && is(set.tickets, "off"))
        err = aioloop_ssl_context_set_session_tickets(context, false);
    if (err >= 0 && set.alpn != NULL)
        err = set_alpn();
    return err >= 0 && set.sni != NULL ? set_second() : err;
}

/* ---- what both do ---- */

static void tell_connected(aioloop_stream *stream) {
    const aioloop_ssl_certificate *peer =
        (const aioloop_ssl_certificate *)aioloop_stream_get_extra_info(stream, "peercert", NULL);
    const aioloop_ssl_cipher *cipher =
        (const aioloop_ssl_cipher *)aioloop_stream_get_extra_info(stream, "cipher", NULL);
    const bool *reused = (const bool *)aioloop_stream_get_extra_info(stream, "session_reused", NULL);
    const char *version = (const char *)aioloop_stream_get_extra_info(stream, "version", "?");
    const char *alpn = (const char *)aioloop_stream_get_extra_info(stream, "alpn", "none");
    const char *name = (const char *)aioloop_stream_get_extra_info(stream, "server_hostname", "none");
    printf("connected %s %s alpn=%s name=%s peer=%s reused=%s\n", version, cipher == NULL ? "?" : cipher->name, alpn,
           name, peer == NULL ? "none" : peer->subject, reused != NULL && *reused ? "yes" : "no");
    fflush(stdout);
}

/* How it ended: err is of what waited last. */
static int64_t tell_end(aioloop *loop, int64_t err) {
    if (err < 0)
        printf("failed %s: %s\n", aioloop_error_name((int)err), aioloop_error_message(aioloop_last_error(loop)));
    else
        printf("closed\n");
    fflush(stdout);
    return err;
}

static int64_t say(aioloop_stream *stream, const char *text) {
    int err = aioloop_stream_write(stream, text, strlen(text));
    return err < 0 ? err : aioloop_await(aioloop_stream_drain(stream), NULL);
}

/* Says goodbye and waits for the connection to be gone. */
static int64_t part(aioloop_stream *stream) {
    aioloop_stream_close(stream);
    return aioloop_await(aioloop_stream_wait_closed(stream), NULL);
}

/* A line without its end; AIOLOOP_EINCOMPLETE at the end of the stream. */
static int64_t read_line(aioloop_stream *stream, char **line) {
    int64_t n = aioloop_await(aioloop_stream_readline(stream), line);
    if (n == 0)
        return AIOLOOP_EINCOMPLETE;
    if (n > 0)
        (*line)[strcspn(*line, "\r\n")] = '\0';
    return n;
}

/* Sends back what comes: so many bytes, or up to the end. */
static int64_t echo(aioloop_stream *stream, uint64_t bytes) {
    uint64_t done = 0;
    char *data = NULL;
    int64_t n = 1;
    while (n > 0 && done < bytes) {
        n = aioloop_await(aioloop_stream_read(stream, bytes - done < PIECE ? (int64_t)(bytes - done) : PIECE), &data);
        if (n > 0) {
            done += (uint64_t)n;
            n = aioloop_stream_write(stream, data, (size_t)n);
            if (n >= 0 && !is(set.drain, "no"))
                n = aioloop_await(aioloop_stream_drain(stream), NULL);
            n = n < 0 ? n : 1;
        }
    }
    return n < 0 ? n : 0;
}

/* ---- HTTP: bodies come back as they are sent, as they come ---- */

static int64_t http(aioloop_stream *stream) {
    for (;;) {
        char *head = NULL;
        const char *length;
        char answer[128];
        bool last;
        uint64_t bytes;
        int64_t n = aioloop_await(aioloop_stream_readuntil(stream, "\r\n\r\n", 4), &head);
        if (n < 0)
            return n == AIOLOOP_EINCOMPLETE && aioloop_stream_partial(stream, NULL) == 0 ? 0 : n;
        length = strstr(head, "Content-Length: ");
        last = strstr(head, "Connection: close") != NULL;
        bytes = length == NULL ? 0 : strtoull(length + 16, NULL, 10);
        snprintf(answer, sizeof(answer), "HTTP/1.1 200 OK\r\nContent-Length: %llu\r\n\r\n%s",
                 (unsigned long long)(length == NULL ? 6 : bytes), length == NULL ? "hello\n" : "");
        n = say(stream, answer);
        if (n >= 0)
            n = echo(stream, bytes);
        if (n < 0 || last)
            return n;
    }
}

/* ---- SMTP, server ---- */

static int64_t take_mail(aioloop_stream *stream) {
    char answer[64];
    char *line = NULL;
    int lines = 0;
    int64_t n = say(stream, "354 go on\r\n");
    while (n >= 0 && (n = read_line(stream, &line)) >= 0 && strcmp(line, ".") != 0)
        lines++;
    if (n < 0)
        return n;
    printf("mail of %d lines\n", lines);
    snprintf(answer, sizeof(answer), "250 took %d lines\r\n", lines);
    return say(stream, answer);
}

static int64_t smtp_server(aioloop_stream *stream) {
    bool secure = false;
    char *line = NULL;
    int64_t n = say(stream, "220 interop.example ESMTP\r\n");
    while (n >= 0 && (n = read_line(stream, &line)) >= 0) {
        if (strncmp(line, "EHLO", 4) == 0 || strncmp(line, "ehlo", 4) == 0) {
            n = say(stream, "250-interop.example\r\n");
            n = n < 0 ? n : say(stream, secure ? "250 8BITMIME\r\n" : "250 STARTTLS\r\n");
        } else if (strcmp(line, "STARTTLS") == 0 && !secure) {
            n = aioloop_stream_write(stream, "220 go ahead\r\n", 14);
            n = n < 0 ? n : aioloop_await(aioloop_stream_start_tls(stream, context, NULL), NULL);
            secure = n >= 0;
            if (secure)
                tell_connected(stream);
        } else if (strcmp(line, "QUIT") == 0 || strcmp(line, "quit") == 0) {
            n = say(stream, "221 bye\r\n");
            return n < 0 ? n : part(stream);
        } else if (strcmp(line, "data") == 0 || strcmp(line, "DATA") == 0) {
            n = take_mail(stream);
        } else {
            n = say(stream, secure ? "250 ok\r\n" : "530 STARTTLS first\r\n");
        }
    }
    return n;
}

/* ---- the server ---- */

static int64_t serve_one(aioloop_stream *stream) {
    int64_t n;
    if (is(set.speak, "smtp"))
        return smtp_server(stream);
    if (is(set.upgrade, "yes")) {
        n = aioloop_await(aioloop_stream_start_tls(stream, context, NULL), NULL);
        if (n < 0)
            return n;
    }
    tell_connected(stream);
    n = is(set.speak, "http") ? http(stream) : echo(stream, number(set.bytes, UINT64_MAX));
    return n < 0 ? n : part(stream);
}

static int64_t serve(aioloop *loop, aioloop_stream *stream, void *arg) {
    (void)arg;
    tell_end(loop, serve_one(stream));
    return 0;
}

static int64_t run_server(aioloop *loop) {
    aioloop_stream_server_options o = AIOLOOP_ZERO;
    aioloop_address address = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    int64_t n;
    if (!is(set.upgrade, "yes") && !is(set.speak, "smtp"))
        o.server.ssl = context;
    n = aioloop_await(aioloop_start_server(loop, serve, NULL, "127.0.0.1", 0, &o), &server);
    if (n < 0)
        return tell_end(loop, n);
    aioloop_server_socket(server, 0, NULL, &address);
    printf("port %d\n", address.port);
    fflush(stdout);
    n = aioloop_await(aioloop_server_serve_forever(server), NULL);
    aioloop_server_unref(server);
    return n;
}

/* ---- the client ---- */

static int64_t send_all(aioloop *loop, void *arg, void **out) {
    static char piece[PIECE];
    aioloop_stream *stream = (aioloop_stream *)arg;
    const uint64_t bytes = number(set.bytes, 0);
    uint64_t sent = 0;
    int64_t n = 0;
    (void)loop;
    (void)out;
    while (n >= 0 && sent < bytes) {
        size_t size = bytes - sent < PIECE ? (size_t)(bytes - sent) : PIECE;
        pattern(piece, sent, size);
        sent += size;
        n = aioloop_stream_write(stream, piece, size);
        n = n < 0 ? n : aioloop_await(aioloop_stream_drain(stream), NULL);
    }
    return n;
}

static int64_t receive_all(aioloop_stream *stream) {
    static char expected[PIECE];
    const uint64_t bytes = number(set.bytes, 0);
    uint64_t received = 0;
    char *data = NULL;
    int64_t n = 1;
    while (n > 0 && received < bytes) {
        n = aioloop_await(aioloop_stream_read(stream, PIECE), &data);
        if (n > 0) {
            pattern(expected, received, (size_t)n);
            if (memcmp(expected, data, (size_t)n) != 0) {
                printf("bytes differ behind %llu\n", (unsigned long long)received);
                return AIOLOOP_EFAULT;
            }
            received += (uint64_t)n;
        }
    }
    printf("%llu bytes right\n", (unsigned long long)received);
    return n < 0 ? n : received == bytes ? 0 : AIOLOOP_EINCOMPLETE + 0;
}

/* The same in lines, each of which is answered before the next. */
static int64_t lines(aioloop_stream *stream) {
    static char line[8001];
    const uint64_t bytes = number(set.bytes, 0);
    char *back = NULL;
    int64_t n = 0;
    for (uint64_t at = 0; n >= 0 && at < bytes; at += sizeof(line) - 1) {
        pattern(line, at, sizeof(line) - 1);
        line[sizeof(line) - 1] = '\n';
        n = aioloop_stream_write(stream, line, sizeof(line));
        n = n < 0 ? n : aioloop_await(aioloop_stream_readline(stream), &back);
        if (n >= 0 && (n != sizeof(line) || memcmp(line, back, sizeof(line)) != 0))
            n = AIOLOOP_EFAULT;
    }
    if (n >= 0)
        printf("%llu bytes right\n", (unsigned long long)bytes);
    return n;
}

static int64_t exchange(aioloop *loop, aioloop_stream *stream) {
    aioloop_task *sending = aioloop_future_ref(aioloop_create_task(loop, send_all, stream, NULL));
    int64_t n = receive_all(stream);
    int64_t sent = n < 0 ? 0 : aioloop_await(sending, NULL);
    char *rest = NULL;
    aioloop_future_cancel(sending, NULL);
    aioloop_future_unref(sending);
    n = n < 0 ? n : sent;
    if (n >= 0 && is(set.last, "peer") && (n = aioloop_await(aioloop_stream_read(stream, 1), &rest)) > 0)
        n = AIOLOOP_EFAULT;
    return n;
}

/* A page; with "wait" nothing is asked for, so nothing that is sent can meet a connection that is gone already. */
static int64_t get(aioloop_stream *stream) {
    char *page = NULL;
    int64_t n = is(set.speak, "wait") ? 0 : say(stream, "GET / HTTP/1.0\r\n\r\n");
    if (n >= 0)
        n = aioloop_await(aioloop_stream_read(stream, -1), &page);
    if (n >= 0)
        printf("%.*s\n", (int)n, page);
    return n;
}

/* Sends a command, if there is one, and reads the answer, of one or several lines; text must be in it. */
static int64_t command(aioloop_stream *stream, const char *text, const char *answer, const char *expected) {
    bool found = expected == NULL;
    char *line = NULL;
    int64_t n = text == NULL ? 0 : say(stream, text);
    do {
        n = n < 0 ? n : read_line(stream, &line);
        if (n >= 0 && strncmp(line, answer, 3) != 0) {
            printf("unexpected: %s\n", line);
            return AIOLOOP_EFAULT;
        }
        found = found || (n >= 0 && strstr(line, expected) != NULL);
    } while (n >= 0 && line[3] == '-');
    return n < 0 ? n : found ? 0 : AIOLOOP_EFAULT + 0;
}

static int64_t smtp_client(aioloop_stream *stream) {
    aioloop_start_tls_options o = AIOLOOP_ZERO;
    int64_t n = command(stream, NULL, "220", NULL);
    o.server_hostname = set.name;
    n = n < 0 ? n : command(stream, "EHLO client.example\r\n", "250", "STARTTLS");
    n = n < 0 ? n : command(stream, "STARTTLS\r\n", "220", NULL);
    n = n < 0 ? n : aioloop_await(aioloop_stream_start_tls(stream, context, &o), NULL);
    if (n < 0)
        return n;
    tell_connected(stream);
    n = command(stream, "EHLO client.example\r\n", "250", NULL);
    n = n < 0 ? n : command(stream, "MAIL FROM:<a@example.org>\r\n", "250", NULL);
    n = n < 0 ? n : command(stream, "RCPT TO:<b@example.org>\r\n", "250", NULL);
    n = n < 0 ? n : command(stream, "DATA\r\n", "354", NULL);
    n = n < 0 ? n : command(stream, "Subject: hello\r\n\r\nworld\r\n.\r\n", "250", "3 lines");
    return n < 0 ? n : command(stream, "QUIT\r\n", "221", NULL);
}

static int64_t speak(aioloop *loop, aioloop_stream *stream) {
    int64_t n;
    if (is(set.speak, "smtp")) {
        n = smtp_client(stream);
    } else {
        tell_connected(stream);
        n = is(set.speak, "get") || is(set.speak, "wait") ? get(stream)
            : is(set.speak, "lines")                      ? lines(stream)
                                                          : exchange(loop, stream);
    }
    return n;
}

static int64_t connect_once(aioloop *loop, int port, aioloop_ssl_session **session) {
    aioloop_stream_options o = AIOLOOP_ZERO;
    aioloop_stream *stream = NULL;
    aioloop_ssl_session *got;
    int64_t n;
    if (!is(set.speak, "smtp")) {
        o.connection.ssl = context;
        o.connection.server_hostname = set.name;
        o.connection.ssl_session = *session;
    }
    n = aioloop_await(aioloop_open_connection(loop, "127.0.0.1", port, &o), &stream);
    if (n < 0)
        return n;
    n = speak(loop, stream);
    got = (aioloop_ssl_session *)(void *)aioloop_stream_get_extra_info(stream, "session", NULL);
    if (got != NULL) {
        aioloop_ssl_session_ref(got);
        aioloop_ssl_session_unref(*session);
        *session = got;
    }
    n = n < 0 ? n : part(stream);
    aioloop_stream_unref(stream);
    return n;
}

static int64_t run_client(aioloop *loop, int port) {
    aioloop_ssl_session *session = NULL;
    int64_t n = 0;
    for (uint64_t i = 0; n >= 0 && i < number(set.connections, 1); i++)
        n = tell_end(loop, connect_once(loop, port, &session));
    aioloop_ssl_session_unref(session);
    return n;
}

/* ---- main ---- */

static int64_t run(aioloop *loop, void *arg, void **out) {
    const int *port = (const int *)arg;
    (void)out;
    return *port == 0 ? run_server(loop) : run_client(loop, *port);
}

static int print_pattern(uint64_t bytes) {
    static char piece[PIECE];
    for (uint64_t at = 0; at < bytes; at += PIECE) {
        size_t size = bytes - at < PIECE ? (size_t)(bytes - at) : PIECE;
        pattern(piece, at, size);
        if (fwrite(piece, 1, size, stdout) != size)
            return 1;
    }
    return fflush(stdout) != 0;
}

static bool take_option(const char *name, const char *value) {
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        if (strcmp(options[i].name, name) == 0) {
            *options[i].value = value;
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv) {
    aioloop_run_options o = AIOLOOP_ZERO;
    bool client = argc > 2 && strcmp(argv[1], "client") == 0;
    int port = client ? atoi(argv[2]) : 0;
    bool understood = client || (argc > 1 && strcmp(argv[1], "server") == 0);
    int64_t n;
    if (argc == 3 && strcmp(argv[1], "pattern") == 0)
        return print_pattern(number(argv[2], 0));
    for (int i = client ? 3 : 2; i < argc && understood; i += 2)
        understood = i + 1 < argc && take_option(argv[i], argv[i + 1]);
    if (!understood) {
        fprintf(stderr, "usage: tls server|client PORT|pattern BYTES [--OPTION VALUE ...]\n");
        return 2;
    }
    if (set.name == NULL)
        set.name = "localhost";
    n = make_context(client ? AIOLOOP_TLS_CLIENT : AIOLOOP_TLS_SERVER);
    if (n < 0) {
        tell_end(NULL, n);
    } else {
        o.timeout = client ? AIOLOOP_SECONDS(60) : 0;
        n = aioloop_run(run, &port, &o);
    }
    aioloop_ssl_context_unref(second);
    aioloop_ssl_context_unref(context);
    return n < 0;
}
