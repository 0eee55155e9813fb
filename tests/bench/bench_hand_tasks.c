/*
 * bench_hand_tasks.c - the benchmarks of tasks by hand: what a C programmer writes who needs only this.
 *
 * A switch of stacks for x86-64 that keeps the registers which a called function must keep (not the modes of floating point),
 * stacks that are never given back and have no guard, and a list of what is ready. Nothing can be cancelled, fail, or be freed
 * too early without notice: the floor that a library is measured against.
 *
 * The modes are those of bench_tasks.c.
 */
#define BENCH_NO_MAIN
#include "bench.h"
#include <sys/epoll.h>
#include <sys/mman.h>

#ifndef __x86_64__
#error "the switch is written for x86-64"
#endif

#define CO_STACK_SIZE 65536
#define CO_SLAB 64 /* stacks mapped at once */

/* Keeps where it is at *from and goes on at to. */
void co_switch(void **from, void *to);
__asm__(".text\n"
        ".globl co_switch\n"
        ".type co_switch, @function\n"
        "co_switch:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    popq %rcx\n" /* a return would be predicted to go back where it was called from */
        "    jmpq *%rcx\n"
        ".size co_switch, .-co_switch\n");

/* ---- coroutines and what they wait for ---- */

struct co {
    void *sp;
    struct co *next; /* ready or free */
    void (*fn)(void *arg);
    void *arg;
    struct co *joiner; /* who waits for its end */
    struct co_group *group;
};

/* One result, one waiter. */
struct co_future {
    bool done;
    struct co *waiter;
};

/* Several ends, one waiter. */
struct co_group {
    long left;
    struct co *waiter;
};

static struct co *co_free, *co_current, *co_ready, **co_ready_end = &co_ready;
static void *co_loop_sp;
static bool co_running = true;
static long co_watched; /* sockets, apart from the standard input */
static int co_epoll;

static void co_push(struct co *c) {
    c->next = NULL;
    *co_ready_end = c;
    co_ready_end = &c->next;
}

static void co_suspend(void) {
    co_switch(&co_current->sp, co_loop_sp);
}

static void co_yield(void) {
    co_push(co_current);
    co_suspend();
}

static void co_set(struct co_future *f) {
    f->done = true;
    if (f->waiter != NULL)
        co_push(f->waiter);
}

/* Not inlined, as aioloop_await cannot be. */
static __attribute__((noinline)) void co_await(struct co_future *f) {
    if (f->done)
        return;
    f->waiter = co_current;
    co_suspend();
}

/* What runs on each stack, for ever: the coroutines that are given to it. */
static void co_entry(void) {
    for (;;) {
        struct co *c = co_current;
        c->fn(c->arg);
        if (c->joiner != NULL)
            co_push(c->joiner);
        if (c->group != NULL && --c->group->left == 0 && c->group->waiter != NULL)
            co_push(c->group->waiter);
        c->next = co_free;
        co_free = c;
        co_suspend();
    }
}

static void co_map(void) {
    char *memory = (char *)mmap(NULL, (size_t)CO_SLAB * CO_STACK_SIZE, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    bench_check(memory != MAP_FAILED, "mmap");
    madvise(memory, (size_t)CO_SLAB * CO_STACK_SIZE, MADV_NOHUGEPAGE);
    for (int i = 0; i < CO_SLAB; i++) { /* their tops must not all fall on the same lines of the cache */
        struct co *c = (struct co *)(void *)(memory + (i + 1) * CO_STACK_SIZE - 128 - i % 16 * 128);
        uint64_t *sp = (uint64_t *)(void *)c;
        *--sp = 0; /* co_entry returns nowhere */
        *--sp = (uint64_t)(uintptr_t)co_entry;
        c->sp = sp - 6;
        c->next = co_free;
        co_free = c;
    }
}

static struct co *co_create(void (*fn)(void *arg), void *arg) {
    struct co *c;
    if (co_free == NULL)
        co_map();
    c = co_free;
    co_free = c->next;
    c->fn = fn;
    c->arg = arg;
    c->joiner = NULL;
    c->group = NULL;
    co_push(c);
    return c;
}

static void co_resume(struct co *c) {
    co_current = c;
    co_switch(&co_loop_sp, c->sp);
    co_current = NULL;
}

/* Until stopped or, without sockets, until nothing is ready. What becomes ready meanwhile runs in the next iteration. */
static void co_run(void) {
    struct epoll_event events[1024];
    co_epoll = co_epoll != 0 ? co_epoll : epoll_create1(EPOLL_CLOEXEC);
    while (co_running && (co_ready != NULL || co_watched > 0)) {
        int n = epoll_wait(co_epoll, events, 1024, co_ready != NULL ? 0 : -1);
        struct co *c = co_ready;
        co_ready = NULL;
        co_ready_end = &co_ready;
        while (c != NULL) {
            struct co *next = c->next;
            co_resume(c);
            c = next;
        }
        for (int i = 0; i < n; i++)
            co_resume((struct co *)events[i].data.ptr);
    }
}

/* ---- await, create, switch ---- */

static const struct bench_args *given;
static struct bench_span span;

static void run_main(const struct bench_args *args, void (*fn)(void *arg)) {
    given = args;
    co_create(fn, NULL);
    co_run();
    bench_print(span, args->count);
}

static void await_main(void *arg) {
    struct co_future f = {true, NULL};
    (void)arg;
    span = bench_start();
    for (long i = 0; i < given->count; i++)
        co_await(&f);
    span = bench_stop(span);
}

static void bench_await(const struct bench_args *args) {
    run_main(args, await_main);
}

static void nothing(void *arg) {
    (void)arg;
}

static void create_main(void *arg) {
    (void)arg;
    span = bench_start();
    for (long i = 0; i < given->count; i++) {
        co_create(nothing, NULL)->joiner = co_current;
        co_suspend();
    }
    span = bench_stop(span);
}

static void create_batches(void *arg) {
    (void)arg;
    span = bench_start();
    for (long done = 0; done < given->count; done += given->live) {
        for (long i = 0; i < given->live; i++)
            co_create(nothing, NULL);
        co_yield();
    }
    span = bench_stop(span);
}

static void bench_create(const struct bench_args *args) {
    run_main(args, args->live == 1 ? create_main : create_batches);
}

static void gather_main(void *arg) {
    (void)arg;
    span = bench_start();
    for (long done = 0; done < given->count; done += given->live) {
        struct co_group group = {given->live, co_current};
        for (long i = 0; i < given->live; i++)
            co_create(nothing, NULL)->group = &group;
        co_suspend();
    }
    span = bench_stop(span);
}

static void bench_gather(const struct bench_args *args) {
    run_main(args, gather_main);
}

static long each; /* how often each of the live tasks does it */

static void yielder(void *arg) {
    (void)arg;
    for (long i = 0; i < each; i++)
        co_yield();
}

static void bench_yield(const struct bench_args *args) {
    each = args->count / args->live;
    for (long i = 0; i < args->live; i++)
        co_create(yielder, NULL);
    span = bench_start();
    co_run();
    bench_print(bench_stop(span), args->count);
}

struct pair {
    struct co_future *ping, *pong;
};

static void pinger(void *arg) {
    struct pair *pair = (struct pair *)arg;
    for (long i = 0; i < each; i++) {
        struct co_future *f = (struct co_future *)bench_alloc(1, sizeof(*f));
        pair->pong = f;
        co_set(pair->ping);
        co_await(f);
        free(f);
    }
}

static void ponger(void *arg) {
    struct pair *pair = (struct pair *)arg;
    for (long i = 0; i < each; i++) {
        struct co_future *f = (struct co_future *)bench_alloc(1, sizeof(*f));
        pair->ping = f;
        co_await(f);
        free(f);
        co_set(pair->pong);
    }
}

static void bench_handover(const struct bench_args *args) {
    struct pair *pairs = (struct pair *)bench_alloc((size_t)args->live, sizeof(*pairs));
    each = args->count / args->live;
    for (long i = 0; i < args->live; i++) {
        co_create(ponger, &pairs[i]);
        co_create(pinger, &pairs[i]);
    }
    span = bench_start();
    co_run();
    bench_print(bench_stop(span), args->count);
    free(pairs);
}

static void suspender(void *arg) {
    (void)arg;
    for (;;)
        co_suspend();
}

static void bench_bare(const struct bench_args *args) {
    struct co *c = co_create(suspender, NULL);
    co_resume(c);
    span = bench_start();
    for (long i = 0; i < args->count; i++)
        co_resume(c);
    bench_print(bench_stop(span), args->count);
}

/* ---- a queue with room for `live` ---- */

struct ring {
    void **items;
    size_t first, count, room;
    struct co *getter, *putter;
};

static void ring_wait(struct co **who) {
    *who = co_current;
    co_suspend();
}

static void ring_wake(struct co **who) {
    if (*who != NULL)
        co_push(*who);
    *who = NULL;
}

static void producer(void *arg) {
    struct ring *ring = (struct ring *)arg;
    for (long i = 0; i < each; i++) {
        while (ring->count == ring->room)
            ring_wait(&ring->putter);
        ring->items[(ring->first + ring->count++) % ring->room] = ring;
        ring_wake(&ring->getter);
    }
}

static void consumer(void *arg) {
    struct ring *ring = (struct ring *)arg;
    for (long i = 0; i < each; i++) {
        while (ring->count == 0)
            ring_wait(&ring->getter);
        bench_check(ring->items[ring->first] == ring, "queue");
        ring->first = (ring->first + 1) % ring->room;
        ring->count--;
        ring_wake(&ring->putter);
    }
}

static void bench_queue(const struct bench_args *args) {
    struct ring ring = {NULL, 0, 0, (size_t)args->live, NULL, NULL};
    ring.items = (void **)bench_alloc(ring.room, sizeof(*ring.items));
    each = args->count;
    co_create(consumer, &ring);
    co_create(producer, &ring);
    span = bench_start();
    co_run();
    bench_print(bench_stop(span), args->count);
    free(ring.items);
}

/* ---- memory ---- */

static void waiter(void *arg) {
    co_await((struct co_future *)arg);
}

static void bench_waiting(const struct bench_args *args) {
    struct co_future *futures = (struct co_future *)bench_alloc((size_t)args->live, sizeof(*futures));
    struct bench_footprint before = bench_footprint();
    for (long i = 0; i < args->live; i++)
        co_create(waiter, &futures[i]);
    co_run();
    bench_footprint_print(before, args->live, 0);
    free(futures);
}

/* ---- echo ---- */

static void echo_watch(struct co *c, int fd, int operation, uint32_t events) {
    struct epoll_event event = {events, {.ptr = c}};
    bench_check(epoll_ctl(co_epoll, operation, fd, &event) == 0, "epoll_ctl");
}

static void echo_wait(int fd, uint32_t events) {
    if (events != EPOLLIN)
        echo_watch(co_current, fd, EPOLL_CTL_MOD, events);
    co_suspend();
    if (events != EPOLLIN)
        echo_watch(co_current, fd, EPOLL_CTL_MOD, EPOLLIN);
}

static bool echo_send(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            return false;
        if (n >= 0) {
            data += n;
            size -= (size_t)n;
        }
        if (size > 0)
            echo_wait(fd, EPOLLOUT);
    }
    return true;
}

static void echo_connection(void *arg) {
    int fd = (int)(intptr_t)arg;
    char data[16384];
    ssize_t n;
    echo_watch(co_current, fd, EPOLL_CTL_ADD, EPOLLIN);
    do {
        echo_wait(fd, EPOLLIN);
        n = recv(fd, data, sizeof(data), 0);
    } while (n < 0 ? errno == EAGAIN : n > 0 && echo_send(fd, data, (size_t)n));
    close(fd);
    co_watched--;
    if (!bench_closed())
        co_running = false;
}

static void echo_accept(void *arg) {
    int listener = (int)(intptr_t)arg, fd;
    echo_watch(co_current, listener, EPOLL_CTL_ADD, EPOLLIN);
    for (;;) {
        echo_wait(listener, EPOLLIN);
        while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
            bench_nodelay(fd);
            bench_opened();
            co_watched++;
            co_create(echo_connection, (void *)(intptr_t)fd);
        }
    }
}

static void echo_control(void *arg) {
    (void)arg;
    echo_watch(co_current, 0, EPOLL_CTL_ADD, EPOLLIN);
    do
        echo_wait(0, EPOLLIN);
    while (bench_control());
    co_running = false;
}

static void bench_echo(const struct bench_args *args) {
    (void)args;
    bench_engine = "epoll";
    co_epoll = epoll_create1(EPOLL_CLOEXEC);
    co_watched = 1;
    co_create(echo_accept, (void *)(intptr_t)bench_listen());
    co_create(echo_control, NULL);
    co_run();
}

int main(int argc, char **argv) {
    static const struct bench_mode modes[] = {
        {"hand.await", bench_await},       {"hand.create", bench_create},   {"hand.gather", bench_gather},
        {"hand.yield", bench_yield},       {"hand.bare", bench_bare},       {"hand.queue", bench_queue},
        {"hand.handover", bench_handover}, {"hand.waiting", bench_waiting}, {"hand.echo", bench_echo}};
    return bench_run(argc, argv, modes, sizeof(modes) / sizeof(modes[0]));
}
