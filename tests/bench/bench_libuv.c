/*
 * bench_libuv.c - the benchmarks on libuv.
 *
 * Handles live in the program's own structs, as libuv means them to. Where libuv has nothing of the
 * kind, the nearest idiom stands for it and is named at the place.
 */
#define BENCH_HAS_POOL
#include "bench.h"
#include <uv.h>

static uv_loop_t *loop;

/* ---- echo ---- */

/* rest: what the socket did not take; while there is some, nothing more is read. */
struct conn {
    uv_tcp_t tcp;
    uv_write_t write;
    char *rest;
};

static uv_tcp_t echo_listener;
static uv_poll_t echo_stdin;

static void echo_freed(uv_handle_t *handle) {
    struct conn *c = (struct conn *)handle;
    free(c->rest);
    free(c);
    if (!bench_closed())
        uv_stop(loop);
}

static void echo_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buffer) {
    (void)handle;
    (void)size;
    buffer->base = bench_buffer;
    buffer->len = sizeof(bench_buffer);
}

static void echo_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer);

static void echo_written(uv_write_t *write, int status) {
    struct conn *c = (struct conn *)write->handle;
    free(c->rest);
    c->rest = NULL;
    if (status == 0)
        uv_read_start(write->handle, echo_alloc, echo_read);
    else if (!uv_is_closing((uv_handle_t *)c))
        uv_close((uv_handle_t *)c, echo_freed);
}

static void echo_keep(struct conn *c, const char *data, size_t size) {
    uv_buf_t buffer = uv_buf_init((char *)malloc(size), (unsigned)size);
    bench_check(buffer.base != NULL, "malloc");
    memcpy(buffer.base, data, size);
    c->rest = buffer.base;
    uv_read_stop((uv_stream_t *)c);
    if (uv_write(&c->write, (uv_stream_t *)c, &buffer, 1, echo_written) != 0)
        uv_close((uv_handle_t *)c, echo_freed);
}

/* uv_try_write first: uv_write alone would need each message kept until its callback. */
static void echo_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer) {
    uv_buf_t out = uv_buf_init(buffer->base, n > 0 ? (unsigned)n : 0);
    int sent;
    if (n == 0)
        return;
    sent = n < 0 ? -1 : uv_try_write(stream, &out, 1);
    if (sent == n)
        return;
    if (sent == UV_EAGAIN)
        sent = 0;
    if (sent < 0)
        uv_close((uv_handle_t *)stream, echo_freed);
    else
        echo_keep((struct conn *)stream, buffer->base + sent, (size_t)(n - sent));
}

static void echo_accept(uv_stream_t *listener, int status) {
    struct conn *c = (struct conn *)bench_alloc(1, sizeof(*c));
    bench_check(status == 0, "listen");
    uv_tcp_init(loop, &c->tcp);
    bench_check(uv_accept(listener, (uv_stream_t *)c) == 0, "uv_accept");
    uv_tcp_nodelay(&c->tcp, 1);
    bench_opened();
    uv_read_start((uv_stream_t *)c, echo_alloc, echo_read);
}

static void echo_control(uv_poll_t *handle, int status, int events) {
    (void)handle;
    (void)events;
    if (status < 0 || !bench_control())
        uv_stop(loop);
}

static void bench_echo(const struct bench_args *args) {
    struct sockaddr_in address;
    int size = sizeof(address);
    (void)args;
    loop = uv_default_loop();
    bench_engine = "epoll"; /* libuv does not say; it has no other for sockets */
    uv_ip4_addr("127.0.0.1", 0, &address);
    uv_tcp_init(loop, &echo_listener);
    bench_check(uv_tcp_bind(&echo_listener, (struct sockaddr *)&address, 0) == 0, "uv_tcp_bind");
    bench_check(uv_listen((uv_stream_t *)&echo_listener, BENCH_BACKLOG, echo_accept) == 0,
                "uv_listen");
    uv_tcp_getsockname(&echo_listener, (struct sockaddr *)&address, &size);
    bench_announce(ntohs(address.sin_port));
    uv_poll_init(loop, &echo_stdin, 0);
    uv_poll_start(&echo_stdin, UV_READABLE, echo_control);
    uv_run(loop, UV_RUN_DEFAULT);
}

/* ---- callbacks ---- */

static long left;

/*
 * libuv has no queue of callbacks for the next iteration. A uv_idle_t that is stopped when it has
 * run and started to post it again is the nearest that runs once and does not let the loop sleep.
 */
static void soon_run(uv_idle_t *idle) {
    uv_idle_stop(idle);
    if (left-- > 0)
        uv_idle_start(idle, soon_run);
}

static void bench_soon(const struct bench_args *args) {
    uv_idle_t *idles = (uv_idle_t *)bench_alloc((size_t)args->live, sizeof(*idles));
    struct bench_span begun;
    loop = uv_default_loop();
    left = args->count;
    for (long i = 0; i < args->live; i++) {
        uv_idle_init(loop, &idles[i]);
        uv_idle_start(&idles[i], soon_run);
    }
    begun = bench_start();
    uv_run(loop, UV_RUN_DEFAULT);
    bench_print(bench_stop(begun), args->count + args->live);
}

/* ---- timers ---- */

static long fired;

static void timer_fire(uv_timer_t *timer) {
    (void)timer;
    fired++;
}

/* Uninitialised, so that arming pays for touching the memory as it does elsewhere. */
static uv_timer_t *timers_new(long count) {
    uv_timer_t *timers = (uv_timer_t *)malloc((size_t)count * sizeof(*timers));
    bench_check(timers != NULL, "malloc");
    loop = uv_default_loop();
    uv_update_time(loop);
    return timers;
}

/* Milliseconds are all that libuv knows. */
static uint64_t timer_ms(int64_t delay_ns) {
    return (uint64_t)(delay_ns + 999999) / 1000000;
}

static void bench_timers(const struct bench_args *args) {
    uv_timer_t *timers = timers_new(args->live);
    uint32_t chance = 1;
    struct bench_span begun = bench_start();
    for (long i = 0; i < args->live; i++)
        uv_timer_init(loop, &timers[i]);
    for (long done = 0; done < args->count; done += args->live) {
        uv_update_time(loop);
        for (long i = 0; i < args->live; i++)
            uv_timer_start(&timers[i], timer_fire,
                           timer_ms(bench_random(&chance, BENCH_TIMER_SPREAD_NS)), 0);
        for (long i = 0; i < args->live; i += 2)
            uv_timer_stop(&timers[i]);
        uv_run(loop, UV_RUN_DEFAULT);
    }
    bench_check(fired == args->count / 2, "timers fired");
    bench_print(bench_stop(begun), args->count);
}

static void bench_million(const struct bench_args *args) {
    uint32_t chance = 1;
    int64_t at;
    struct bench_million m = bench_million_begin();
    uv_timer_t *timers = timers_new(args->live);
    at = bench_now();
    for (long i = 0; i < args->live; i++) {
        uv_timer_init(loop, &timers[i]);
        uv_timer_start(
            &timers[i], timer_fire,
            timer_ms(BENCH_MILLION_BASE_NS + bench_random(&chance, BENCH_MILLION_SPREAD_NS)), 0);
    }
    bench_million_armed(&m);
    for (long i = 0; i < args->live; i += 2)
        uv_timer_stop(&timers[i]);
    bench_million_cancelled(&m, at);
    uv_run(loop, UV_RUN_DEFAULT);
    bench_million_fired(&m, args->live, fired);
}

static void bench_rearm(const struct bench_args *args) {
    uv_timer_t *timers = timers_new(args->live);
    uint32_t chance = 1;
    struct bench_span begun;
    for (long i = 0; i < args->live; i++) {
        uv_timer_init(loop, &timers[i]);
        uv_timer_start(&timers[i], timer_fire, timer_ms(BENCH_IDLE_NS), timer_ms(BENCH_IDLE_NS));
    }
    begun = bench_start();
    for (long i = 0; i < args->count; i++) {
        if (i % BENCH_REARMS_PER_CLOCK == 0)
            uv_update_time(loop);
        uv_timer_again(&timers[bench_random(&chance, (uint32_t)args->live)]);
    }
    bench_print(bench_stop(begun), args->count);
}

/* ---- threads ---- */

/* uv_async_t is a bell without a queue: the queue is the program's, behind a mutex. */
struct mailbox {
    uv_loop_t loop;
    uv_async_t bell;
    struct bench_calls calls;
};

static void mailbox_ring(uv_async_t *bell) {
    bench_calls_run(&((struct mailbox *)bell->data)->calls);
}

static struct mailbox *mailbox_new(void) {
    struct mailbox *box = (struct mailbox *)bench_alloc(1, sizeof(*box));
    uv_loop_init(&box->loop);
    pthread_mutex_init(&box->calls.lock, NULL);
    uv_async_init(&box->loop, &box->bell, mailbox_ring);
    box->bell.data = box;
    return box;
}

static void mailbox_post(struct mailbox *box, void (*fn)(void *arg), void *arg) {
    if (bench_calls_push(&box->calls, fn, arg))
        uv_async_send(&box->bell);
}

static void mailbox_stop(void *arg) {
    uv_stop(&((struct mailbox *)arg)->loop);
}

static struct mailbox *mine, *other;

static void posts_count(void *arg) {
    if (--left == 0)
        mailbox_stop(arg);
}

static void *posts_thread(void *arg) {
    long count = *(const long *)arg;
    bench_pin(bench_core2);
    for (long i = 0; i < count; i++)
        mailbox_post(mine, posts_count, mine);
    return NULL;
}

static void bench_posts(const struct bench_args *args) {
    pthread_t thread;
    struct bench_span begun;
    mine = mailbox_new();
    left = args->count;
    begun = bench_start();
    pthread_create(&thread, NULL, posts_thread, (void *)&args->count);
    uv_run(&mine->loop, UV_RUN_DEFAULT);
    begun = bench_stop(begun);
    pthread_join(thread, NULL);
    bench_print(begun, args->count);
}

static void wakeup_ping(void *arg);

static void wakeup_pong(void *arg) {
    mailbox_post(mine, wakeup_ping, arg);
}

static void wakeup_ping(void *arg) {
    if (left-- > 0) {
        mailbox_post(other, wakeup_pong, arg);
    } else {
        mailbox_post(other, mailbox_stop, other);
        mailbox_stop(mine);
    }
}

static void *wakeup_thread(void *arg) {
    uv_run(&((struct mailbox *)arg)->loop, UV_RUN_DEFAULT);
    return NULL;
}

static void bench_wakeup(const struct bench_args *args) {
    pthread_t thread;
    struct bench_span begun;
    mine = mailbox_new();
    other = mailbox_new();
    left = args->count;
    pthread_create(&thread, NULL, wakeup_thread, other);
    begun = bench_start();
    mailbox_post(mine, wakeup_ping, NULL);
    uv_run(&mine->loop, UV_RUN_DEFAULT);
    bench_print(bench_stop(begun), args->count);
    pthread_join(thread, NULL);
}

/* ---- a pool of threads: libuv's own, of four ---- */

struct pool_job {
    uv_work_t work;
    long number;
};

static long pool_done;

static void pool_work(uv_work_t *work) {
    ((struct pool_job *)work)->number++;
}

static void pool_answer(uv_work_t *work, int status) {
    bench_check(status == 0 && ((struct pool_job *)work)->number > 0, "the result");
    if (--pool_done == 0)
        uv_stop(loop);
    else if (left-- > 0)
        uv_queue_work(loop, work, pool_work, pool_answer);
}

static void bench_pool(const struct bench_args *args) {
    struct pool_job *jobs = (struct pool_job *)bench_alloc((size_t)args->live, sizeof(*jobs));
    struct bench_span begun;
    loop = uv_default_loop();
    pool_done = args->count;
    left = args->count - args->live;
    begun = bench_start();
    for (long i = 0; i < args->live; i++)
        uv_queue_work(loop, &jobs[i].work, pool_work, pool_answer);
    uv_run(loop, UV_RUN_DEFAULT);
    bench_print(bench_stop(begun), args->count);
    free(jobs);
}
