/*
 * bench_tls.c - TLS on aioloop, written as a user would write it.
 *
 *     bench_tls serve ...               see bench_tls.h
 *     bench_tls lateness.loop ...       the same, with a timer every 10 ms; its figures tell how late that was
 *     bench_tls lateness.executor ...   the same, with handshakes in threads of the executor
 */
#define AIOLOOP_USE_TLS 1
#define AIOLOOP_IMPLEMENTATION
#include "aioloop.h"

#include "bench_tls.h"

static aioloop *loop;

/* ---- a server ---- */

struct client {
    size_t got;
};

static void client_made(aioloop_transport *transport, void *self) {
    (void)transport;
    (void)self;
    bench_opened();
}

static void client_received(aioloop_transport *transport, void *self, const void *data, size_t size) {
    struct client *client = (struct client *)self;
    (void)data;
    for (client->got += size; client->got >= bench_tls_request; client->got -= bench_tls_request)
        aioloop_transport_write(transport, bench_tls_answer, bench_tls_answer_size);
}

static void client_lost(aioloop_transport *transport, void *self, int error) {
    (void)self;
    (void)error;
    if (!bench_closed())
        aioloop_stop(aioloop_transport_get_loop(transport));
}

static const aioloop_protocol client_protocol = {
    .instance_size = sizeof(struct client),
    .connection_made = client_made,
    .data_received = client_received,
    .connection_lost = client_lost,
};

static void control(aioloop *l, void *arg) {
    (void)arg;
    if (!bench_control())
        aioloop_stop(l);
}

static void complain(int error, const char *what) {
    if (error < 0) {
        fprintf(stderr, "%s: %s\n", what, aioloop_message(NULL, error));
        exit(1);
    }
}

static aioloop_ssl_context *context_new(const struct bench_args *args) {
    aioloop_ssl_context *c = aioloop_ssl_context_new(AIOLOOP_TLS_SERVER);
    aioloop_tls_version version = args->tls == 13 ? AIOLOOP_TLS_1_3 : AIOLOOP_TLS_1_2;
    bench_check(c != NULL, "aioloop_ssl_context_new");
    complain(aioloop_ssl_context_load_cert_chain(c, bench_tls_file(args, "server.pem"), bench_tls_file(args, "server.key"), NULL),
             "load_cert_chain");
    complain(aioloop_ssl_context_set_minimum_version(c, version), "set_minimum_version");
    complain(aioloop_ssl_context_set_maximum_version(c, version), "set_maximum_version");
    complain(aioloop_ssl_context_set_ciphers(c, args->tls == 13 ? BENCH_TLS_SUITE_13 : BENCH_TLS_SUITE_12), "set_ciphers");
    return c;
}

static void serve_with(const struct bench_args *args, bool in_executor, void (*on_control)(aioloop *, void *)) {
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    aioloop_address address;
    bench_tls_begin(args);
    loop = aioloop_new_event_loop(NULL);
    bench_check(loop != NULL, "aioloop_new_event_loop");
    bench_engine = aioloop_backend_name(loop);
    options.backlog = BENCH_BACKLOG;
    options.ssl = context_new(args);
    options.ssl_handshake_in_executor = in_executor;
    complain((int)aioloop_run_until_complete(
                 loop, aioloop_create_server(loop, &client_protocol, NULL, "127.0.0.1", 0, &options), &server),
             "aioloop_create_server");
    bench_check(aioloop_server_socket(server, 0, NULL, &address) == 0, "aioloop_server_socket");
    bench_announce(address.port);
    complain(aioloop_add_reader(loop, 0, on_control, NULL), "aioloop_add_reader");
    complain(aioloop_run_forever(loop), "aioloop_run_forever");
    aioloop_server_unref(server);
    aioloop_ssl_context_unref(options.ssl);
    aioloop_free(loop);
}

static void serve(const struct bench_args *args) {
    serve_with(args, false, control);
}

/* ---- how late a timer is meanwhile ---- */

#define TIMER_EVERY AIOLOOP_MS(10)

static struct {
    bool started;
    aioloop_time due;
    int64_t late[100000];
    size_t count;
} timer;

static void timer_fired(aioloop *l, void *arg) {
    if (timer.count < sizeof(timer.late) / sizeof(timer.late[0]))
        timer.late[timer.count++] = aioloop_now(l) - timer.due;
    /* Those that were missed are not made up for: one that comes late is counted once. */
    do
        timer.due += TIMER_EVERY;
    while (timer.due <= aioloop_now(l));
    aioloop_call_at(l, timer.due, timer_fired, arg);
}

static int by_lateness(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* The first byte starts the timer; each one tells how late it was since the last. */
static void lateness_control(aioloop *l, void *arg) {
    char byte;
    if (read(0, &byte, 1) <= 0) {
        aioloop_stop(l);
        return;
    }
    qsort(timer.late, timer.count, sizeof(timer.late[0]), by_lateness);
    printf("{\"engine\": \"%s\", \"timers\": %zu, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n", bench_engine, timer.count,
           timer.count == 0 ? 0.0 : (double)timer.late[timer.count / 2] / 1e3,
           timer.count == 0 ? 0.0 : (double)timer.late[timer.count * 99 / 100] / 1e3,
           timer.count == 0 ? 0.0 : (double)timer.late[timer.count - 1] / 1e3);
    fflush(stdout);
    timer.count = 0;
    if (!timer.started) {
        timer.started = true;
        timer.due = aioloop_now(l);
        timer_fired(l, arg);
    }
}

static void lateness_loop(const struct bench_args *args) {
    serve_with(args, false, lateness_control);
}

static void lateness_executor(const struct bench_args *args) {
    serve_with(args, true, lateness_control);
}

int main(int argc, char **argv) {
    static const struct bench_mode modes[] = {
        {"serve", serve}, {"lateness.loop", lateness_loop}, {"lateness.executor", lateness_executor}};
    return bench_run(argc, argv, modes, sizeof(modes) / sizeof(modes[0]));
}
