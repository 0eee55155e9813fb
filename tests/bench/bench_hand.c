/*
 * bench_hand.c - the benchmarks by hand on epoll: what a C programmer writes who needs only this.
 *
 * No handles that stay safe, no errors reported, no flow control beyond what an echo needs: the
 * floor that a library is measured against.
 */
#define BENCH_HAS_POOL
#define BENCH_HAS_SENDFILE
#define BENCH_HAS_UDP
#include "bench.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/sendfile.h>

/* ---- echo ---- */

/* rest: what the socket did not take; while there is some, nothing more is read. */
struct conn {
    int fd;
    char *rest;
    size_t rest_size, rest_sent;
};

static int echo_epoll;
static bool echo_running = true;

static void echo_watch(struct conn *c, int operation, uint32_t events) {
    struct epoll_event event = {events, {.ptr = c}};
    bench_check(epoll_ctl(echo_epoll, operation, c->fd, &event) == 0, "epoll_ctl");
}

static void echo_drop(struct conn *c) {
    close(c->fd);
    free(c->rest);
    free(c);
    if (!bench_closed())
        echo_running = false;
}

static void echo_accept(struct conn *listener) {
    int fd;
    while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *c = (struct conn *)bench_alloc(1, sizeof(*c));
        c->fd = fd;
        bench_nodelay(fd);
        bench_opened();
        echo_watch(c, EPOLL_CTL_ADD, EPOLLIN);
    }
}

static void echo_flush(struct conn *c) {
    ssize_t n = send(c->fd, c->rest + c->rest_sent, c->rest_size - c->rest_sent, MSG_NOSIGNAL);
    if (n < 0) {
        if (errno != EAGAIN)
            echo_drop(c);
        return;
    }
    c->rest_sent += (size_t)n;
    if (c->rest_sent == c->rest_size) {
        free(c->rest);
        c->rest = NULL;
        echo_watch(c, EPOLL_CTL_MOD, EPOLLIN);
    }
}

static void echo_keep(struct conn *c, const char *data, size_t size) {
    c->rest = (char *)malloc(size);
    bench_check(c->rest != NULL, "malloc");
    memcpy(c->rest, data, size);
    c->rest_size = size;
    c->rest_sent = 0;
    echo_watch(c, EPOLL_CTL_MOD, EPOLLOUT);
}

static void echo_read(struct conn *c) {
    ssize_t n = recv(c->fd, bench_buffer, sizeof(bench_buffer), 0);
    ssize_t sent;
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN)
            echo_drop(c);
        return;
    }
    sent = send(c->fd, bench_buffer, (size_t)n, MSG_NOSIGNAL);
    if (sent == n)
        return;
    if (sent < 0 && errno != EAGAIN)
        echo_drop(c);
    else
        echo_keep(c, bench_buffer + (sent > 0 ? sent : 0), (size_t)(n - (sent > 0 ? sent : 0)));
}

static void bench_echo(const struct bench_args *args) {
    struct conn listener = {bench_listen(), NULL, 0, 0}, control = {0, NULL, 0, 0};
    struct epoll_event events[1024];
    (void)args;
    bench_engine = "epoll";
    echo_epoll = epoll_create1(EPOLL_CLOEXEC);
    echo_watch(&listener, EPOLL_CTL_ADD, EPOLLIN);
    echo_watch(&control, EPOLL_CTL_ADD, EPOLLIN);
    while (echo_running) {
        int n = epoll_wait(echo_epoll, events, 1024, -1);
        for (int i = 0; i < n; i++) {
            struct conn *c = (struct conn *)events[i].data.ptr;
            if (c->rest != NULL)
                echo_flush(c);
            else if (c == &listener)
                echo_accept(c);
            else if (c == &control)
                echo_running = bench_control() && echo_running;
            else
                echo_read(c);
        }
    }
}

/* ---- echo of datagrams ---- */

static void bench_udp(const struct bench_args *args) {
    struct conn server = {-1, NULL, 0, 0}, control = {0, NULL, 0, 0};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    struct epoll_event events[16];
    (void)args;
    bench_engine = "epoll";
    server.fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bench_check(bind(server.fd, (struct sockaddr *)&address, size) == 0, "bind");
    bench_check(getsockname(server.fd, (struct sockaddr *)&address, &size) == 0, "getsockname");
    bench_announce(ntohs(address.sin_port));
    echo_epoll = epoll_create1(EPOLL_CLOEXEC);
    echo_watch(&server, EPOLL_CTL_ADD, EPOLLIN);
    echo_watch(&control, EPOLL_CTL_ADD, EPOLLIN);
    while (echo_running) {
        int n = epoll_wait(echo_epoll, events, 16, -1);
        for (int i = 0; i < n; i++) {
            ssize_t got;
            if (events[i].data.ptr == &control) {
                echo_running = bench_control();
                continue;
            }
            size = sizeof(address);
            got = recvfrom(server.fd, bench_buffer, sizeof(bench_buffer), 0, (struct sockaddr *)&address, &size);
            if (got >= 0)
                sendto(server.fd, bench_buffer, (size_t)got, MSG_NOSIGNAL, (struct sockaddr *)&address, size);
        }
    }
}

/* ---- a file ---- */

static void bench_sendfile(const struct bench_args *args) {
    struct epoll_event event = {EPOLLOUT | EPOLLET, {.ptr = NULL}};
    int file = bench_file(args->count);
    int64_t left = (int64_t)args->count << 20;
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    off_t offset = 0;
    struct bench_drained drained;
    bench_drained_begin(&drained);
    bench_check(epoll_ctl(epoll, EPOLL_CTL_ADD, drained.fd, &event) == 0, "epoll_ctl");
    while (left > 0) {
        ssize_t n = sendfile(drained.fd, file, &offset, left > 0x7ffff000 ? 0x7ffff000 : (size_t)left);
        bench_check(n > 0 || errno == EAGAIN, "sendfile");
        if (n > 0)
            left -= n;
        else
            epoll_wait(epoll, &event, 1, -1);
    }
    bench_drained_end(&drained, args->count);
}

/* ---- a loop with callbacks and timers ---- */

typedef void (*hand_callback)(void *arg);

struct hand_call {
    hand_callback fn;
    void *arg;
};

struct hand_queue {
    struct hand_call *calls;
    size_t size, capacity;
};

struct hand_timer {
    hand_callback fn;
    void *arg;
    uint32_t index; /* in the heap */
};

/* The deadline stands in the heap, so that sifting does not touch the timers. */
struct hand_entry {
    int64_t when;
    struct hand_timer *timer;
};

struct hand_loop {
    int epoll;
    bool stopped;
    int64_t now; /* read once in an iteration */
    struct hand_queue soon, running;
    struct hand_entry *heap;
    uint32_t timers, heap_capacity;
    struct bench_calls posts; /* from other threads */
    int event;                /* their bell; 0: there are none */
};

static struct hand_loop *hand_new(void) {
    struct hand_loop *loop = (struct hand_loop *)bench_alloc(1, sizeof(*loop));
    loop->epoll = epoll_create1(EPOLL_CLOEXEC);
    loop->now = bench_now();
    return loop;
}

static void hand_call_soon(struct hand_loop *loop, hand_callback fn, void *arg) {
    struct hand_queue *queue = &loop->soon;
    if (queue->size == queue->capacity) {
        queue->capacity = queue->capacity ? queue->capacity * 2 : 64;
        queue->calls =
            (struct hand_call *)realloc(queue->calls, queue->capacity * sizeof(*queue->calls));
        bench_check(queue->calls != NULL, "realloc");
    }
    queue->calls[queue->size].fn = fn;
    queue->calls[queue->size++].arg = arg;
}

/* A 4-ary heap: half as deep as a binary one, and four children are one cache line long. */
static void hand_sift_up(struct hand_loop *loop, uint32_t i, struct hand_entry entry) {
    while (i > 0) {
        uint32_t parent = (i - 1) / 4;
        if (loop->heap[parent].when <= entry.when)
            break;
        loop->heap[i] = loop->heap[parent];
        loop->heap[i].timer->index = i;
        i = parent;
    }
    loop->heap[i] = entry;
    entry.timer->index = i;
}

static void hand_sift_down(struct hand_loop *loop, uint32_t i, struct hand_entry entry) {
    for (;;) {
        uint32_t child = i * 4 + 1, end = child + 4, least;
        if (child >= loop->timers)
            break;
        if (end > loop->timers)
            end = loop->timers;
        for (least = child++; child < end; child++)
            if (loop->heap[child].when < loop->heap[least].when)
                least = child;
        if (entry.when <= loop->heap[least].when)
            break;
        loop->heap[i] = loop->heap[least];
        loop->heap[i].timer->index = i;
        i = least;
    }
    loop->heap[i] = entry;
    entry.timer->index = i;
}

static void hand_arm(struct hand_loop *loop, struct hand_timer *timer, int64_t when) {
    struct hand_entry entry = {when, timer};
    if (loop->timers == loop->heap_capacity) {
        loop->heap_capacity = loop->heap_capacity ? loop->heap_capacity * 2 : 64;
        loop->heap =
            (struct hand_entry *)realloc(loop->heap, loop->heap_capacity * sizeof(*loop->heap));
        bench_check(loop->heap != NULL, "realloc");
    }
    hand_sift_up(loop, loop->timers++, entry);
}

static void hand_cancel(struct hand_loop *loop, struct hand_timer *timer) {
    uint32_t i = timer->index;
    struct hand_entry last = loop->heap[--loop->timers];
    if (i == loop->timers)
        return;
    if (i > 0 && loop->heap[(i - 1) / 4].when > last.when)
        hand_sift_up(loop, i, last);
    else
        hand_sift_down(loop, i, last);
}

static void hand_rearm_later(struct hand_loop *loop, struct hand_timer *timer, int64_t when) {
    struct hand_entry entry = {when, timer};
    hand_sift_down(loop, timer->index, entry);
}

/*
 * From any thread. A lock around an array, and a bell only for the first call in it: lock-free
 * stacks and rings were tried and are slower here, because the loop then chases the poster from
 * cell to cell, and each cache line that goes between two cores costs more than the lock.
 */
static void hand_post(struct hand_loop *loop, hand_callback fn, void *arg) {
    uint64_t one = 1;
    if (bench_calls_push(&loop->posts, fn, arg))
        bench_check(write(loop->event, &one, sizeof(one)) == sizeof(one), "write");
}

static void hand_accept_posts(struct hand_loop *loop) {
    /* Edge-triggered: each ring is an event of its own, and the counter need not be read. */
    struct epoll_event event = {EPOLLIN | EPOLLET, {.ptr = loop}};
    pthread_mutex_init(&loop->posts.lock, NULL);
    loop->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    bench_check(loop->event > 0, "eventfd");
    bench_check(epoll_ctl(loop->epoll, EPOLL_CTL_ADD, loop->event, &event) == 0, "epoll_ctl");
}

static int hand_timeout(struct hand_loop *loop) {
    int64_t left;
    if (loop->soon.size > 0)
        return 0;
    if (loop->timers == 0)
        return -1;
    left = loop->heap[0].when - bench_now();
    return left <= 0 ? 0 : (int)((left + 999999) / 1000000);
}

/* Runs until stopped or, without other threads to post, until nothing is left to do. */
static void hand_run(struct hand_loop *loop) {
    struct epoll_event events[64];
    loop->stopped = false;
    while (!loop->stopped && (loop->soon.size > 0 || loop->timers > 0 || loop->event > 0)) {
        struct hand_queue queue;
        int n = epoll_wait(loop->epoll, events, 64, hand_timeout(loop));
        if (n > 0)
            bench_calls_run(&loop->posts); /* nothing else is watched */
        if (loop->timers > 0) {
            loop->now = bench_now();
            while (loop->timers > 0 && loop->heap[0].when <= loop->now) {
                struct hand_timer *timer = loop->heap[0].timer;
                if (--loop->timers > 0)
                    hand_sift_down(loop, 0, loop->heap[loop->timers]);
                timer->fn(timer->arg);
            }
        }
        /* Only what is queued now: what it posts is for the next iteration. */
        queue = loop->soon;
        loop->soon = loop->running;
        loop->running = queue;
        loop->soon.size = 0;
        for (size_t i = 0; i < queue.size; i++)
            queue.calls[i].fn(queue.calls[i].arg);
    }
}

/* ---- callbacks ---- */

static struct hand_loop *hand;
static long hand_left;

static void hand_again(void *arg) {
    if (hand_left-- > 0)
        hand_call_soon(hand, hand_again, arg);
}

static void bench_soon(const struct bench_args *args) {
    struct bench_span begun;
    hand = hand_new();
    hand_left = args->count;
    for (long i = 0; i < args->live; i++)
        hand_call_soon(hand, hand_again, NULL);
    begun = bench_start();
    hand_run(hand);
    bench_print(bench_stop(begun), args->count + args->live);
}

/* ---- timers ---- */

static long hand_fired;

static void hand_fire(void *arg) {
    (void)arg;
    hand_fired++;
}

static struct hand_timer *hand_timers(long count) {
    struct hand_timer *timers = (struct hand_timer *)malloc((size_t)count * sizeof(*timers));
    bench_check(timers != NULL, "malloc");
    return timers;
}

static void hand_arm_new(struct hand_timer *timer, int64_t when) {
    timer->fn = hand_fire;
    timer->arg = NULL;
    hand_arm(hand, timer, when);
}

static void bench_timers(const struct bench_args *args) {
    struct hand_timer *timers = hand_timers(args->live);
    uint32_t chance = 1;
    struct bench_span begun = bench_start();
    hand = hand_new();
    for (long done = 0; done < args->count; done += args->live) {
        hand->now = bench_now();
        for (long i = 0; i < args->live; i++)
            hand_arm_new(&timers[i], hand->now + bench_random(&chance, BENCH_TIMER_SPREAD_NS));
        for (long i = 0; i < args->live; i += 2)
            hand_cancel(hand, &timers[i]);
        hand_run(hand);
    }
    bench_check(hand_fired == args->count / 2, "timers fired");
    bench_print(bench_stop(begun), args->count);
}

static void bench_million(const struct bench_args *args) {
    uint32_t chance = 1;
    int64_t at;
    struct bench_million m = bench_million_begin();
    struct hand_timer *timers = hand_timers(args->live);
    hand = hand_new();
    at = hand->now;
    for (long i = 0; i < args->live; i++)
        hand_arm_new(&timers[i],
                     at + BENCH_MILLION_BASE_NS + bench_random(&chance, BENCH_MILLION_SPREAD_NS));
    bench_million_armed(&m);
    for (long i = 0; i < args->live; i += 2)
        hand_cancel(hand, &timers[i]);
    bench_million_cancelled(&m, at);
    hand_run(hand);
    bench_million_fired(&m, args->live, hand_fired);
}

static void bench_rearm(const struct bench_args *args) {
    struct hand_timer *timers = hand_timers(args->live);
    uint32_t chance = 1;
    struct bench_span begun;
    hand = hand_new();
    for (long i = 0; i < args->live; i++)
        hand_arm_new(&timers[i], hand->now + BENCH_IDLE_NS);
    begun = bench_start();
    for (long i = 0; i < args->count; i++) {
        if (i % BENCH_REARMS_PER_CLOCK == 0)
            hand->now = bench_now();
        hand_rearm_later(hand, &timers[bench_random(&chance, (uint32_t)args->live)],
                         hand->now + BENCH_IDLE_NS);
    }
    bench_print(bench_stop(begun), args->count);
}

/* ---- threads ---- */

static void hand_count(void *arg) {
    (void)arg;
    if (--hand_left == 0)
        hand->stopped = true;
}

static void *hand_poster(void *arg) {
    long count = *(const long *)arg;
    bench_pin(bench_core2);
    for (long i = 0; i < count; i++)
        hand_post(hand, hand_count, NULL);
    return NULL;
}

static void bench_posts(const struct bench_args *args) {
    pthread_t thread;
    struct bench_span begun;
    hand = hand_new();
    hand_left = args->count;
    hand_accept_posts(hand);
    begun = bench_start();
    pthread_create(&thread, NULL, hand_poster, (void *)&args->count);
    hand_run(hand);
    begun = bench_stop(begun);
    pthread_join(thread, NULL);
    bench_print(begun, args->count);
}

static struct hand_loop *hand_other;

static void hand_stop(void *arg) {
    ((struct hand_loop *)arg)->stopped = true;
}

static void hand_ping(void *arg);

static void hand_pong(void *arg) {
    hand_post(hand, hand_ping, arg);
}

static void hand_ping(void *arg) {
    if (hand_left-- > 0) {
        hand_post(hand_other, hand_pong, arg);
    } else {
        hand_post(hand_other, hand_stop, hand_other);
        hand_stop(hand);
    }
}

static void *hand_other_main(void *arg) {
    hand_run((struct hand_loop *)arg);
    return NULL;
}

static void bench_wakeup(const struct bench_args *args) {
    pthread_t thread;
    struct bench_span begun;
    hand = hand_new();
    hand_other = hand_new();
    hand_left = args->count;
    hand_accept_posts(hand);
    hand_accept_posts(hand_other);
    pthread_create(&thread, NULL, hand_other_main, hand_other);
    begun = bench_start();
    hand_post(hand, hand_ping, NULL);
    hand_run(hand);
    bench_print(bench_stop(begun), args->count);
    pthread_join(thread, NULL);
}

/* ---- a pool of threads ---- */

struct hand_job {
    struct hand_job *next;
    long number;
};

/* A list behind a lock; who waits is told only if somebody does. */
static struct hand_pool {
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct hand_job *first, **end;
    int idle;
    bool over;
    long done;
} pool = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, &pool.first, 0, false, 0};

static void pool_submit(struct hand_job *job) {
    bool tell;
    job->next = NULL;
    pthread_mutex_lock(&pool.lock);
    *pool.end = job;
    pool.end = &job->next;
    tell = pool.idle > 0;
    pthread_mutex_unlock(&pool.lock);
    if (tell)
        pthread_cond_signal(&pool.work);
}

static void pool_answer(void *arg) {
    struct hand_job *job = (struct hand_job *)arg;
    bench_check(job->number > 0, "the result");
    if (--pool.done == 0)
        hand->stopped = true;
    else if (hand_left-- > 0)
        pool_submit(job);
}

static struct hand_job *pool_next(void) {
    struct hand_job *job;
    pthread_mutex_lock(&pool.lock);
    while (pool.first == NULL && !pool.over) {
        pool.idle++;
        pthread_cond_wait(&pool.work, &pool.lock);
        pool.idle--;
    }
    job = pool.first;
    if (job != NULL && (pool.first = job->next) == NULL)
        pool.end = &pool.first;
    pthread_mutex_unlock(&pool.lock);
    return job;
}

static void *pool_main(void *arg) {
    struct hand_job *job;
    (void)arg;
    while ((job = pool_next()) != NULL) {
        job->number++;
        hand_post(hand, pool_answer, job);
    }
    return NULL;
}

static void bench_pool(const struct bench_args *args) {
    struct hand_job *jobs = (struct hand_job *)bench_alloc((size_t)args->live, sizeof(*jobs));
    pthread_t threads[BENCH_POOL_THREADS];
    struct bench_span begun;
    hand = hand_new();
    hand_accept_posts(hand);
    pool.done = args->count;
    hand_left = args->count - args->live;
    begun = bench_start();
    for (int i = 0; i < BENCH_POOL_THREADS; i++)
        pthread_create(&threads[i], NULL, pool_main, NULL);
    for (long i = 0; i < args->live; i++)
        pool_submit(&jobs[i]);
    hand_run(hand);
    bench_print(bench_stop(begun), args->count);
    pthread_mutex_lock(&pool.lock);
    pool.over = true;
    pthread_cond_broadcast(&pool.work);
    pthread_mutex_unlock(&pool.lock);
    for (int i = 0; i < BENCH_POOL_THREADS; i++)
        pthread_join(threads[i], NULL);
    free(jobs);
}
