/*
 * bench_libev.c - the benchmarks on libev.
 *
 * Watchers live in the program's own structs, as libev means them to. Where libev has nothing of
 * the kind, the nearest idiom stands for it and is named at the place.
 */
#include "bench.h"
#include <ev.h>

static struct ev_loop *loop;

/* ---- echo ---- */

/* rest: what the socket did not take; while there is some, nothing more is read. */
struct conn {
    ev_io io;
    char *rest;
    size_t rest_size, rest_sent;
};

static void echo_watch(struct conn *c, int events) {
    int fd = c->io.fd;
    ev_io_stop(loop, &c->io);
    ev_io_set(&c->io, fd, events);
    ev_io_start(loop, &c->io);
}

static void echo_drop(struct conn *c) {
    ev_io_stop(loop, &c->io);
    close(c->io.fd);
    free(c->rest);
    free(c);
    if (!bench_closed())
        ev_break(loop, EVBREAK_ALL);
}

static void echo_flush(struct conn *c) {
    ssize_t n = send(c->io.fd, c->rest + c->rest_sent, c->rest_size - c->rest_sent, MSG_NOSIGNAL);
    if (n < 0) {
        if (errno != EAGAIN)
            echo_drop(c);
        return;
    }
    c->rest_sent += (size_t)n;
    if (c->rest_sent == c->rest_size) {
        free(c->rest);
        c->rest = NULL;
        echo_watch(c, EV_READ);
    }
}

static void echo_keep(struct conn *c, const char *data, size_t size) {
    c->rest = (char *)malloc(size);
    bench_check(c->rest != NULL, "malloc");
    memcpy(c->rest, data, size);
    c->rest_size = size;
    c->rest_sent = 0;
    echo_watch(c, EV_WRITE);
}

static void echo_ready(struct ev_loop *l, ev_io *io, int events) {
    struct conn *c = (struct conn *)io;
    ssize_t n, sent;
    (void)l;
    (void)events;
    if (c->rest != NULL) {
        echo_flush(c);
        return;
    }
    n = recv(io->fd, bench_buffer, sizeof(bench_buffer), 0);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN)
            echo_drop(c);
        return;
    }
    sent = send(io->fd, bench_buffer, (size_t)n, MSG_NOSIGNAL);
    if (sent == n)
        return;
    if (sent < 0 && errno != EAGAIN)
        echo_drop(c);
    else
        echo_keep(c, bench_buffer + (sent > 0 ? sent : 0), (size_t)(n - (sent > 0 ? sent : 0)));
}

static void echo_accept(struct ev_loop *l, ev_io *io, int events) {
    int fd;
    (void)events;
    while ((fd = accept4(io->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *c = (struct conn *)bench_alloc(1, sizeof(*c));
        bench_nodelay(fd);
        bench_opened();
        ev_io_init(&c->io, echo_ready, fd, EV_READ);
        ev_io_start(l, &c->io);
    }
}

static void echo_control(struct ev_loop *l, ev_io *io, int events) {
    (void)io;
    (void)events;
    if (!bench_control())
        ev_break(l, EVBREAK_ALL);
}

static void bench_echo(const struct bench_args *args) {
    ev_io listener, control;
    (void)args;
    loop = ev_default_loop(0);
    bench_engine = ev_backend(loop) == EVBACKEND_EPOLL ? "epoll" : "another";
    ev_io_init(&listener, echo_accept, bench_listen(), EV_READ);
    ev_io_start(loop, &listener);
    ev_io_init(&control, echo_control, 0, EV_READ);
    ev_io_start(loop, &control);
    ev_run(loop, 0);
}

/* ---- callbacks ---- */

static long left;

/*
 * libev has no queue of callbacks for the next iteration (what ev_feed_event posts from a callback
 * runs in the same one, and descriptors starve). An ev_idle that is stopped when it has run and
 * started to post it again is the nearest that runs once, in the next iteration, without a queue of
 * the program's own. (One that is only left active costs 65 instructions a run instead of 162, but
 * then nothing is posted.)
 */
static void soon_run(struct ev_loop *l, ev_idle *idle, int events) {
    (void)events;
    ev_idle_stop(l, idle);
    if (left-- > 0)
        ev_idle_start(l, idle);
}

static void bench_soon(const struct bench_args *args) {
    ev_idle *idles = (ev_idle *)bench_alloc((size_t)args->live, sizeof(*idles));
    struct bench_span begun;
    loop = ev_default_loop(0);
    left = args->count;
    for (long i = 0; i < args->live; i++) {
        ev_idle_init(&idles[i], soon_run);
        ev_idle_start(loop, &idles[i]);
    }
    begun = bench_start();
    ev_run(loop, 0);
    bench_print(bench_stop(begun), args->count + args->live);
}

/* ---- timers ---- */

static long fired;

static void timer_fire(struct ev_loop *l, ev_timer *timer, int events) {
    (void)l;
    (void)timer;
    (void)events;
    fired++;
}

/* Uninitialised, so that arming pays for touching the memory as it does elsewhere. */
static ev_timer *timers_new(long count) {
    ev_timer *timers = (ev_timer *)malloc((size_t)count * sizeof(*timers));
    bench_check(timers != NULL, "malloc");
    loop = ev_default_loop(0);
    ev_now_update(loop);
    return timers;
}

static void timer_arm(ev_timer *timer, int64_t delay_ns) {
    ev_timer_init(timer, timer_fire, (double)delay_ns * 1e-9, 0);
    ev_timer_start(loop, timer);
}

static void bench_timers(const struct bench_args *args) {
    ev_timer *timers = timers_new(args->live);
    uint32_t chance = 1;
    struct bench_span begun = bench_start();
    for (long done = 0; done < args->count; done += args->live) {
        ev_now_update(loop);
        for (long i = 0; i < args->live; i++)
            timer_arm(&timers[i], bench_random(&chance, BENCH_TIMER_SPREAD_NS));
        for (long i = 0; i < args->live; i += 2)
            ev_timer_stop(loop, &timers[i]);
        ev_run(loop, 0);
    }
    bench_check(fired == args->count / 2, "timers fired");
    bench_print(bench_stop(begun), args->count);
}

static void bench_million(const struct bench_args *args) {
    uint32_t chance = 1;
    int64_t at;
    struct bench_million m = bench_million_begin();
    ev_timer *timers = timers_new(args->live);
    at = bench_now();
    for (long i = 0; i < args->live; i++)
        timer_arm(&timers[i],
                  BENCH_MILLION_BASE_NS + bench_random(&chance, BENCH_MILLION_SPREAD_NS));
    bench_million_armed(&m);
    for (long i = 0; i < args->live; i += 2)
        ev_timer_stop(loop, &timers[i]);
    bench_million_cancelled(&m, at);
    ev_run(loop, 0);
    bench_million_fired(&m, args->live, fired);
}

static void bench_rearm(const struct bench_args *args) {
    ev_timer *timers = timers_new(args->live);
    uint32_t chance = 1;
    struct bench_span begun;
    for (long i = 0; i < args->live; i++) {
        ev_timer_init(&timers[i], timer_fire, 0, (double)BENCH_IDLE_NS * 1e-9);
        ev_timer_again(loop, &timers[i]);
    }
    begun = bench_start();
    for (long i = 0; i < args->count; i++) {
        if (i % BENCH_REARMS_PER_CLOCK == 0)
            ev_now_update(loop);
        ev_timer_again(loop, &timers[bench_random(&chance, (uint32_t)args->live)]);
    }
    bench_print(bench_stop(begun), args->count);
}

/* ---- threads ---- */

/* ev_async is a bell without a queue: the queue is the program's, behind a mutex. */
struct mailbox {
    struct ev_loop *loop;
    ev_async bell;
    struct bench_calls calls;
};

static void mailbox_ring(struct ev_loop *l, ev_async *bell, int events) {
    (void)l;
    (void)events;
    bench_calls_run(&((struct mailbox *)bell->data)->calls);
}

static struct mailbox *mailbox_new(void) {
    struct mailbox *box = (struct mailbox *)bench_alloc(1, sizeof(*box));
    box->loop = ev_loop_new(0);
    pthread_mutex_init(&box->calls.lock, NULL);
    ev_async_init(&box->bell, mailbox_ring);
    box->bell.data = box;
    ev_async_start(box->loop, &box->bell);
    return box;
}

static void mailbox_post(struct mailbox *box, void (*fn)(void *arg), void *arg) {
    if (bench_calls_push(&box->calls, fn, arg))
        ev_async_send(box->loop, &box->bell);
}

static void mailbox_stop(void *arg) {
    ev_break(((struct mailbox *)arg)->loop, EVBREAK_ALL);
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
    ev_run(mine->loop, 0);
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
    ev_run(((struct mailbox *)arg)->loop, 0);
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
    ev_run(mine->loop, 0);
    bench_print(bench_stop(begun), args->count);
    pthread_join(thread, NULL);
}
