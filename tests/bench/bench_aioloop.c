/*
 * bench_aioloop.c - the benchmarks on aioloop, written as a user would write them.
 */
#define AIOLOOP_IMPLEMENTATION
#include "aioloop.h"
#define BENCH_HAS_POOL
#define BENCH_HAS_SENDFILE
#define BENCH_HAS_UDP
#include "bench.h"

static aioloop *loop;

static aioloop *loop_new(void) {
    aioloop *made = aioloop_new_event_loop(NULL);
    if (made == NULL) {
        fprintf(stderr, "aioloop_new_event_loop: %s\n",
                aioloop_error_message(aioloop_last_error(NULL)));
        exit(1);
    }
    return made;
}

static void loop_run(aioloop *l) {
    int error = aioloop_run_forever(l);
    if (error < 0) {
        fprintf(stderr, "aioloop_run_forever: %s\n", aioloop_strerror(error));
        exit(1);
    }
}

static void loop_stop(aioloop *l, void *arg) {
    (void)arg;
    aioloop_stop(l);
}

/* ---- echo ---- */

static void echo_made(aioloop_transport *transport, void *self) {
    (void)transport;
    (void)self;
    bench_opened();
}

static void echo_received(aioloop_transport *transport, void *self, const void *data, size_t size) {
    (void)self;
    aioloop_transport_write(transport, data, size);
}

/* A peer that does not read must not make the buffer grow. */
static void echo_pause(aioloop_transport *transport, void *self) {
    (void)self;
    aioloop_transport_pause_reading(transport);
}

static void echo_resume(aioloop_transport *transport, void *self) {
    (void)self;
    aioloop_transport_resume_reading(transport);
}

static void echo_lost(aioloop_transport *transport, void *self, int error) {
    (void)self;
    (void)error;
    if (!bench_closed())
        aioloop_stop(aioloop_transport_get_loop(transport));
}

static const aioloop_protocol echo_protocol = {
    .connection_made = echo_made,
    .data_received = echo_received,
    .connection_lost = echo_lost,
    .pause_writing = echo_pause,
    .resume_writing = echo_resume,
};

static void echo_control(aioloop *l, void *arg) {
    (void)arg;
    if (!bench_control())
        aioloop_stop(l);
}

static void bench_echo(const struct bench_args *args) {
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    aioloop_address address;
    (void)args;
    loop = loop_new();
    bench_engine = aioloop_backend_name(loop);
    options.backlog = BENCH_BACKLOG;
    errno = 0;
    bench_check(aioloop_run_until_complete(
                    loop,
                    aioloop_create_server(loop, &echo_protocol, NULL, "127.0.0.1", 0, &options),
                    &server) >= 0,
                "aioloop_create_server");
    bench_check(aioloop_server_socket(server, 0, NULL, &address) == 0, "aioloop_server_socket");
    bench_announce(address.port);
    bench_check(aioloop_add_reader(loop, 0, echo_control, NULL) == 0, "aioloop_add_reader");
    loop_run(loop);
    aioloop_server_unref(server);
    aioloop_free(loop);
}

/* ---- echo of datagrams ---- */

static void udp_received(aioloop_transport *transport, void *self, const void *data, size_t size,
                         const aioloop_address *from) {
    (void)self;
    aioloop_transport_sendto(transport, data, size, from);
}

static void bench_udp(const struct bench_args *args) {
    static const aioloop_protocol protocol = {.datagram_received = udp_received};
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    aioloop_transport *transport = NULL;
    const aioloop_address *address;
    (void)args;
    loop = loop_new();
    bench_engine = aioloop_backend_name(loop);
    options.local_host = "127.0.0.1";
    errno = 0;
    bench_check(aioloop_run_until_complete(
                    loop, aioloop_create_datagram_endpoint(loop, &protocol, NULL, &options),
                    &transport) == 0,
                "aioloop_create_datagram_endpoint");
    address = (const aioloop_address *)aioloop_transport_get_extra_info(transport, "sockname", NULL);
    bench_announce(address->port);
    bench_check(aioloop_add_reader(loop, 0, echo_control, NULL) == 0, "aioloop_add_reader");
    loop_run(loop);
    aioloop_transport_unref(transport);
    aioloop_free(loop);
}

/* ---- callbacks ---- */

static long left;

static void soon_run(aioloop *l, void *arg) {
    if (left-- > 0)
        aioloop_call_soon(l, soon_run, arg);
    else
        aioloop_stop(l);
}

static void bench_soon(const struct bench_args *args) {
    struct bench_span begun;
    loop = loop_new();
    left = args->count;
    for (long i = 0; i < args->live; i++)
        aioloop_call_soon(loop, soon_run, NULL);
    begun = bench_start();
    loop_run(loop);
    bench_print(bench_stop(begun), args->count + args->live);
    aioloop_free(loop);
}

/* ---- timers ---- */

static long fired, fire_until;

static void timer_fire(aioloop *l, void *arg) {
    (void)arg;
    if (++fired == fire_until)
        aioloop_stop(l);
}

/* The clock is read once for a batch, as the peers' loops do; aioloop_call_later reads it for each timer, so that none can
 * fire early. Every handle is kept, as a program keeps those of timers that it may cancel. */
static aioloop_timer_handle *timers_new(long count) {
    aioloop_timer_handle *timers = (aioloop_timer_handle *)malloc((size_t)count * sizeof(*timers));
    bench_check(timers != NULL, "malloc");
    loop = loop_new();
    return timers;
}

static void bench_timers(const struct bench_args *args) {
    aioloop_timer_handle *timers = timers_new(args->live);
    uint32_t chance = 1;
    struct bench_span begun = bench_start();
    for (long done = 0; done < args->count; done += args->live) {
        aioloop_time now = aioloop_now(loop);
        for (long i = 0; i < args->live; i++)
            timers[i] = aioloop_call_at(loop, now + bench_random(&chance, BENCH_TIMER_SPREAD_NS),
                                        timer_fire, NULL);
        for (long i = 0; i < args->live; i += 2)
            aioloop_timer_handle_cancel(&timers[i]);
        fire_until = fired + args->live / 2;
        loop_run(loop);
    }
    bench_check(fired == args->count / 2, "timers fired");
    bench_print(bench_stop(begun), args->count);
    aioloop_free(loop);
}

static void bench_million(const struct bench_args *args) {
    uint32_t chance = 1;
    int64_t at;
    aioloop_time now;
    struct bench_million m = bench_million_begin();
    aioloop_timer_handle *timers = timers_new(args->live);
    at = bench_now();
    now = aioloop_now(loop);
    fire_until = args->live / 2;
    for (long i = 0; i < args->live; i++)
        timers[i] = aioloop_call_at(
            loop, now + BENCH_MILLION_BASE_NS + bench_random(&chance, BENCH_MILLION_SPREAD_NS),
            timer_fire, NULL);
    bench_million_armed(&m);
    for (long i = 0; i < args->live; i += 2)
        aioloop_timer_handle_cancel(&timers[i]);
    bench_million_cancelled(&m, at);
    loop_run(loop);
    bench_million_fired(&m, args->live, fired);
    aioloop_free(loop);
}

static void bench_rearm(const struct bench_args *args) {
    aioloop_timer_handle *timers = timers_new(args->live);
    uint32_t chance = 1;
    aioloop_time now = 0;
    struct bench_span begun;
    for (long i = 0; i < args->live; i++)
        timers[i] = aioloop_call_later(loop, BENCH_IDLE_NS, timer_fire, NULL);
    begun = bench_start();
    for (long i = 0; i < args->count; i++) {
        if (i % BENCH_REARMS_PER_CLOCK == 0)
            now = aioloop_now(loop);
        if (aioloop_timer_handle_reschedule(&timers[bench_random(&chance, (uint32_t)args->live)],
                                            now + BENCH_IDLE_NS) < 0)
            bench_die("aioloop_timer_handle_reschedule");
    }
    bench_print(bench_stop(begun), args->count);
    aioloop_free(loop);
}

/* ---- threads ---- */

static void posts_count(aioloop *l, void *arg) {
    (void)arg;
    if (--left == 0)
        aioloop_stop(l);
}

static void *posts_thread(void *arg) {
    long count = *(const long *)arg;
    bench_pin(bench_core2);
    for (long i = 0; i < count; i++)
        aioloop_call_soon_threadsafe(loop, posts_count, NULL);
    return NULL;
}

static void bench_posts(const struct bench_args *args) {
    pthread_t thread;
    struct bench_span begun;
    loop = loop_new();
    left = args->count;
    begun = bench_start();
    pthread_create(&thread, NULL, posts_thread, (void *)&args->count);
    loop_run(loop);
    begun = bench_stop(begun);
    pthread_join(thread, NULL);
    bench_print(begun, args->count);
    aioloop_free(loop);
}

static aioloop *other;

static void wakeup_ping(aioloop *l, void *arg);

static void wakeup_pong(aioloop *l, void *arg) {
    (void)l;
    aioloop_call_soon_threadsafe(loop, wakeup_ping, arg);
}

static void wakeup_ping(aioloop *l, void *arg) {
    if (left-- > 0) {
        aioloop_call_soon_threadsafe(other, wakeup_pong, arg);
    } else {
        aioloop_call_soon_threadsafe(other, loop_stop, NULL);
        aioloop_stop(l);
    }
}

static void *wakeup_thread(void *arg) {
    loop_run((aioloop *)arg);
    return NULL;
}

static void bench_wakeup(const struct bench_args *args) {
    pthread_t thread;
    struct bench_span begun;
    loop = loop_new();
    other = loop_new();
    left = args->count;
    pthread_create(&thread, NULL, wakeup_thread, other);
    begun = bench_start();
    aioloop_call_soon_threadsafe(loop, wakeup_ping, NULL);
    loop_run(loop);
    bench_print(bench_stop(begun), args->count);
    pthread_join(thread, NULL);
    aioloop_free(other);
    aioloop_free(loop);
}

/* ---- a pool of threads ---- */

static aioloop_thread_pool *pool;
static long pool_done;

static int64_t pool_work(void *arg, void **out) {
    (void)out;
    return ++*(long *)arg;
}

static void pool_submit(long *number);

static void pool_answer(aioloop_future *future, void *arg) {
    bench_check(aioloop_future_result(future, NULL) > 0, "the result");
    if (--pool_done == 0)
        aioloop_stop(loop);
    else if (left-- > 0)
        pool_submit((long *)arg);
}

static void pool_submit(long *number) {
    aioloop_future *future = aioloop_run_in_executor(loop, pool, pool_work, number, NULL);
    bench_check(aioloop_future_then(future, pool_answer, number) == 0, "aioloop_future_then");
}

static void bench_pool(const struct bench_args *args) {
    aioloop_thread_pool_options options = AIOLOOP_ZERO;
    long *numbers = (long *)bench_alloc((size_t)args->live, sizeof(*numbers));
    struct bench_span begun;
    loop = loop_new();
    options.max_workers = BENCH_POOL_THREADS;
    pool = aioloop_thread_pool_new(&options);
    pool_done = args->count;
    left = args->count - args->live;
    begun = bench_start();
    for (long i = 0; i < args->live; i++)
        pool_submit(&numbers[i]);
    loop_run(loop);
    bench_print(bench_stop(begun), args->count);
    aioloop_thread_pool_free(pool);
    aioloop_free(loop);
    free(numbers);
}

/* ---- a file ---- */

static void sendfile_made(aioloop_transport *transport, void *self) {
    *(aioloop_transport **)self = aioloop_transport_ref(transport);
}

static void bench_sendfile(const struct bench_args *args) {
    static aioloop_transport *transport;
    aioloop_protocol protocol = AIOLOOP_ZERO;
    int file = bench_file(args->count);
    struct bench_drained drained;
    aioloop_future *accepted;
    loop = loop_new();
    protocol.connection_made = sendfile_made;
    bench_drained_begin(&drained);
    accepted = aioloop_connect_accepted_socket(loop, &protocol, &transport, drained.fd, NULL);
    bench_check(aioloop_run_until_complete(loop, accepted, NULL) == 0, "aioloop_connect_accepted_socket");
    bench_check(aioloop_run_until_complete(loop, aioloop_sendfile(loop, transport, file, 0, -1, NULL), NULL) ==
                    (int64_t)args->count << 20,
                "aioloop_sendfile");
    drained.fd = dup(drained.fd);
    aioloop_free(loop);
    bench_drained_end(&drained, args->count);
}
