/*
 * bench_tls_load.c - the other end of the TLS servers, by OpenSSL, which encrypts many times faster than mbedTLS.
 *
 *     bench_tls_load rounds --count R ...       R times: D requests on each of C connections, then all the answers
 *     bench_tls_load steps ...                  as many rounds as each number on standard input says
 *     bench_tls_load load --seconds T ...       the same for some time, after a warm-up; prints the requests and the
 *                                               processor time that the server used in them
 *     bench_tls_load full --seconds T ...       connections one after the other: TCP, a whole handshake, goodbyes
 *     bench_tls_load resumed --seconds T ...    the same, with the session of the first by its ticket; both with --once
 *                                               --count N instead: so many, for counting what they cost the server
 *     bench_tls_load paced --rate N ...         full, N a second, by four threads, for T seconds
 *     bench_tls_load hold ...                   as bench_load's; none is resumed
 *
 * with --port P --pid SERVER --tls 12|13 --connections C --size S --answer A --depth D. Whatever the servers prefer, one
 * suite and one group are offered.
 */
#include "bench_tls.h"
#include "bench_window.h"
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>

static SSL_CTX *context;
static bool resumes;
static SSL_SESSION *session;

struct connection {
    int fd;
    SSL *ssl;
    BIO *out; /* keeps what is written until it is flushed */
};

static void check(bool good, const char *what) {
    if (!good) {
        fprintf(stderr, "%s: %s\n", what, ERR_error_string(ERR_peek_last_error(), NULL));
        exit(1);
    }
}

static void context_new(const struct bench_args *args) {
    int version = args->tls == 13 ? TLS1_3_VERSION : TLS1_2_VERSION;
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, version);
    SSL_CTX_set_max_proto_version(context, version);
    check(SSL_CTX_set_cipher_list(context, BENCH_TLS_SUITE_12) == 1, "SSL_CTX_set_cipher_list");
    check(SSL_CTX_set_ciphersuites(context, BENCH_TLS_SUITE_13) == 1, "SSL_CTX_set_ciphersuites");
    check(SSL_CTX_set1_groups_list(context, "P-256") == 1, "SSL_CTX_set1_groups_list");
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, 64 * 1024);
    if (!resumes)
        SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
}

static void connection_open(struct connection *c, const struct bench_args *args) {
    BIO *socket_bio;
    c->fd = load_connect(args, SOCK_STREAM);
    c->ssl = SSL_new(context);
    socket_bio = BIO_new_socket(c->fd, BIO_NOCLOSE);
    c->out = BIO_new(BIO_f_buffer());
    BIO_set_write_buffer_size(c->out, 64 * 1024);
    BIO_push(c->out, socket_bio);
    BIO_up_ref(socket_bio);
    SSL_set_bio(c->ssl, socket_bio, c->out);
    if (session != NULL)
        check(SSL_set_session(c->ssl, session) == 1, "SSL_set_session");
    check(SSL_connect(c->ssl) == 1, "SSL_connect");
    check(SSL_session_reused(c->ssl) == (session != NULL), "resumed or not");
}

/* Says goodbye and waits until the server has gone. */
static void connection_close(struct connection *c) {
    char byte;
    SSL_shutdown(c->ssl);
    (void)BIO_flush(c->out);
    while (recv(c->fd, &byte, 1, 0) > 0)
        ;
    SSL_free(c->ssl);
    close(c->fd);
}

static void connection_ask(struct connection *c, const struct bench_args *args) {
    for (long i = 0; i < args->depth; i++)
        check(SSL_write(c->ssl, bench_tls_answer, (int)args->size) == args->size, "SSL_write");
    check(BIO_flush(c->out) == 1, "BIO_flush");
}

static void connection_hear(struct connection *c, const struct bench_args *args) {
    static char data[64 * 1024];
    long left = args->depth * args->answer;
    while (left > 0) {
        int n = SSL_read(c->ssl, data, left > (long)sizeof(data) ? (int)sizeof(data) : (int)left);
        check(n > 0, "SSL_read");
        check(data[0] == 'a' && data[n - 1] == 'a', "the answer");
        left -= n;
    }
}

static struct connection *connections_open(const struct bench_args *args) {
    struct connection *cs = (struct connection *)bench_alloc((size_t)args->connections, sizeof(*cs));
    for (long i = 0; i < args->connections; i++)
        connection_open(&cs[i], args);
    return cs;
}

/* Requests on all, then the answers. */
static void connections_round(struct connection *cs, const struct bench_args *args) {
    for (long i = 0; i < args->connections; i++)
        connection_ask(&cs[i], args);
    for (long i = 0; i < args->connections; i++)
        connection_hear(&cs[i], args);
}

static void rounds(const struct bench_args *args) {
    struct connection *cs = connections_open(args);
    for (long i = 0; i < args->count; i++)
        connections_round(cs, args);
    for (long i = 0; i < args->connections; i++)
        connection_close(&cs[i]);
}

/* As many rounds as each number says, all over the same connections. */
static void steps(const struct bench_args *args) {
    struct connection *cs = connections_open(args);
    long count;
    while (scanf("%ld", &count) == 1) {
        for (long i = 0; i < count; i++)
            connections_round(cs, args);
        printf("done %ld\n", count);
        fflush(stdout);
    }
}

/* ---- what nobody disturbed ----
 *
 * On a machine that others use too most requests find cold caches, or wait for a core. So time is also cut into slices of a
 * few requests, and the figures of the least disturbed tenth of them are told: cpu of the server and wall, in us a request. */

enum { SLICES = 1000000, SLICE_NS = 1000000 };

static struct {
    uint32_t cpu[SLICES], wall[SLICES]; /* ns a request */
    size_t count;
    long requests; /* of this slice */
    int64_t cpu_begin, wall_begin;
} slices;

static void slice_begin(int64_t now) {
    slices.requests = 0;
    slices.wall_begin = now;
    slices.cpu_begin = bench_clock(load_window.server);
}

/* requests more were done: at least so many make a slice, and a millisecond. */
static void slice_done(long requests, long at_least, int64_t now) {
    slices.requests += requests;
    if (slices.requests < at_least || now - slices.wall_begin < SLICE_NS)
        return;
    if (slices.count < SLICES) {
        slices.wall[slices.count] = (uint32_t)((now - slices.wall_begin) / slices.requests);
        slices.cpu[slices.count++] = (uint32_t)((bench_clock(load_window.server) - slices.cpu_begin) / slices.requests);
    }
    slice_begin(now);
}

static void slices_print(void) {
    if (slices.count == 0)
        return;
    qsort(slices.cpu, slices.count, sizeof(slices.cpu[0]), load_compare);
    qsort(slices.wall, slices.count, sizeof(slices.wall[0]), load_compare);
    load_window.low_cpu_us = slices.cpu[slices.count / 10] / 1e3;
    load_window.low_wall_us = slices.wall[slices.count / 10] / 1e3;
}

static void load(const struct bench_args *args) {
    struct connection *cs = connections_open(args);
    int64_t now;
    load_begin(args);
    now = load_warm_up();
    for (slice_begin(now); load_goes_on(now);) {
        int64_t begun = now;
        connections_round(cs, args);
        now = bench_now();
        for (long i = 0; i < args->connections * args->depth; i++)
            load_done(now - begun);
        slice_done(args->connections * args->depth, 8 * args->depth * args->connections, now);
    }
    slices_print();
    load_print();
}

static void handshakes(const struct bench_args *args) {
    struct connection c;
    int64_t now;
    connection_open(&c, args);
    connection_ask(&c, args); /* with TLS 1.3 the ticket comes before the answer */
    connection_hear(&c, args);
    if (resumes) {
        session = SSL_get1_session(c.ssl);
        check(SSL_SESSION_is_resumable(session) == 1, "a session to resume");
    }
    connection_close(&c);
    for (long i = 0; i < args->count && args->once; i++) {
        connection_open(&c, args);
        connection_close(&c);
    }
    if (args->once)
        return;
    load_begin(args);
    now = load_warm_up();
    for (slice_begin(now); load_goes_on(now);) {
        int64_t begun = now;
        connection_open(&c, args);
        connection_close(&c);
        now = bench_now();
        load_done(now - begun);
        slice_done(1, 1, now);
    }
    slices_print();
    load_print();
}

static void full(const struct bench_args *args) {
    handshakes(args);
}

/* ---- at a given rate ---- */

enum { PACED_THREADS = 4 };

static struct {
    const struct bench_args *args;
    int64_t begun;
    long done;
} paced_run;

static void *paced_thread(void *arg) {
    const struct bench_args *args = paced_run.args;
    int64_t step = (int64_t)(1e9 / (double)args->rate);
    int64_t end = paced_run.begun + (int64_t)(args->seconds * 1e9);
    /* One thread after the other, evenly. */
    for (int64_t when = paced_run.begun + step * (intptr_t)arg; when < end; when += step * PACED_THREADS) {
        struct connection c;
        bench_sleep_until(when);
        connection_open(&c, args);
        connection_close(&c);
        __atomic_fetch_add(&paced_run.done, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void paced(const struct bench_args *args) {
    pthread_t threads[PACED_THREADS];
    int64_t ns;
    paced_run.args = args;
    paced_run.begun = bench_now();
    for (intptr_t i = 0; i < PACED_THREADS; i++)
        bench_check(pthread_create(&threads[i], NULL, paced_thread, (void *)i) == 0, "pthread_create");
    for (int i = 0; i < PACED_THREADS; i++)
        pthread_join(threads[i], NULL);
    ns = bench_now() - paced_run.begun;
    printf("{\"handshakes\": %ld, \"rate\": %.1f}\n", paced_run.done, (double)paced_run.done * 1e9 / (double)ns);
}

/* ---- idle ones ---- */

static void hold(const struct bench_args *args) {
    long held = 0, wanted;
    while (scanf("%ld", &wanted) == 1) {
        for (; held < wanted; held++) {
            struct linger reset = {1, 0};
            struct connection c;
            connection_open(&c, args);
            setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
            connection_ask(&c, args);
            connection_hear(&c, args);
            SSL_free(c.ssl); /* the socket stays */
        }
        printf("held %ld\n", held);
        fflush(stdout);
    }
}

static void begin(const struct bench_args *args, bool resume, void (*run)(const struct bench_args *)) {
    resumes = resume;
    bench_tls_begin(args);
    context_new(args);
    run(args);
}

#define MODE(name, resume, function)                                                                                                       \
    static void mode_##name(const struct bench_args *args) {                                                                               \
        begin(args, resume, function);                                                                                                     \
    }
MODE(rounds, false, rounds)
MODE(steps, false, steps)
MODE(load, false, load)
MODE(full, false, full)
MODE(resumed, true, handshakes)
MODE(paced, false, paced)
MODE(hold, false, hold)

int main(int argc, char **argv) {
    static const struct bench_mode modes[] = {{"rounds", mode_rounds}, {"steps", mode_steps},     {"load", mode_load}, {"full", mode_full},
                                              {"resumed", mode_resumed}, {"paced", mode_paced}, {"hold", mode_hold}};
    signal(SIGPIPE, SIG_IGN);
    return bench_run(argc, argv, modes, sizeof(modes) / sizeof(modes[0]));
}
