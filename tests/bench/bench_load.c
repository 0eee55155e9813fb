/*
 * bench_load.c - the other end of the echo servers.
 *
 *     bench_load rounds --port P --connections C --size S --count R
 *         R times: sends S bytes on each of C connections, then reads all the echoes and compares
 *         them. Exactly C*R messages, for counting what they cost the server.
 *     bench_load load --port P --connections C --size S --depth D --seconds T --pid SERVER
 *         Each connection sends a message (D of them), awaits its whole echo, sends the next; what
 *         echoes came at once are answered at once. Prints the requests of T seconds, after a
 *         warm-up, and the processor time the server used in them.
 *     bench_load cycles --port P --connections C --size S --seconds T --pid SERVER
 *         The same, but each connection is closed after its first echo and another one is opened.
 *     bench_load udp --port P --connections C --size S --depth D --seconds T --pid SERVER
 *         The same with datagrams, from C sockets. None of so few is lost.
 *     bench_load hold --port P
 *         Reads numbers from standard input; opens connections until there are that many, exchanges
 *         one message on each, says so. At the end of input resets them all.
 */
#include "bench_window.h"
#include <sys/epoll.h>

static int load_type = SOCK_STREAM;

static void load_write(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
        bench_check(n > 0, "send");
        data += n;
        size -= (size_t)n;
    }
}

static void load_read(int fd, char *data, size_t size) {
    ssize_t n = recv(fd, data, size, MSG_WAITALL);
    bench_check(n == (ssize_t)size, "recv");
}

/* Each message differs from the one before, so an echo of the wrong one is seen. */
static void load_fill(char *data, size_t size, uint32_t *state) {
    for (size_t i = 0; i < size; i++)
        data[i] = (char)bench_random(state, 256);
}

static void load_rounds(const struct bench_args *args) {
    size_t count = (size_t)args->connections, size = (size_t)args->size;
    int *fds = (int *)bench_alloc(count, sizeof(*fds));
    char *sent = (char *)bench_alloc(count, size);
    char *got = (char *)bench_alloc(1, size);
    uint32_t state = 1;
    for (size_t i = 0; i < count; i++)
        fds[i] = load_connect(args, load_type);
    for (long round = 0; round < args->count; round++) {
        load_fill(sent, count * size, &state);
        for (size_t i = 0; i < count; i++)
            load_write(fds[i], sent + i * size, size);
        for (size_t i = 0; i < count; i++) {
            load_read(fds[i], got, size);
            errno = 0;
            bench_check(memcmp(got, sent + i * size, size) == 0, "echo");
        }
    }
    for (size_t i = 0; i < count; i++)
        close(fds[i]);
    printf("{\"messages\": %ld}\n", args->connections * args->count);
}

/* got: of the message whose echo is coming; unread: of all that were sent. */
struct load_connection {
    int fd;
    bool watching_writes;
    size_t unsent, unread, got;
    uint32_t begun_at; /* in the ring of the times when those in flight were begun */
    int64_t *begun;
};

static int load_epoll;

/* Sends what the socket takes. The echo of the beginning may come while the end is still to be
 * sent. */
static void load_send(struct load_connection *c, const char *message) {
    bool full = false;
    while (c->unsent > 0 && !full) {
        ssize_t n = send(c->fd, message, c->unsent, MSG_NOSIGNAL);
        bench_check(n > 0 || errno == EAGAIN, "send");
        if (n > 0)
            c->unsent -= (size_t)n;
        else
            full = true;
    }
    if (full != c->watching_writes) {
        struct epoll_event event = {EPOLLIN | (full ? EPOLLOUT : 0), {.ptr = c}};
        c->watching_writes = full;
        bench_check(epoll_ctl(load_epoll, EPOLL_CTL_MOD, c->fd, &event) == 0, "epoll_ctl");
    }
}

/* A connected socket that is watched. */
static void load_open(struct load_connection *c) {
    struct epoll_event event = {EPOLLIN, {.ptr = c}};
    c->fd = load_connect(load_window.args, load_type);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    bench_check(epoll_ctl(load_epoll, EPOLL_CTL_ADD, c->fd, &event) == 0, "epoll_ctl");
}

/* Sends messages; at most `depth` are in flight. */
static void load_request(struct load_connection *c, long count, const char *message, int64_t now) {
    uint32_t depth = (uint32_t)load_window.args->depth;
    c->unsent += (size_t)(count * load_window.args->size);
    c->unread += (size_t)(count * load_window.args->size);
    for (; count > 0; count--) {
        c->begun[c->begun_at] = now;
        c->begun_at = c->begun_at + 1 < depth ? c->begun_at + 1 : 0;
    }
    if (!c->watching_writes)
        load_send(c, message);
}

/* Answers how many echoes are complete now. */
static long load_receive(struct load_connection *c, int64_t now) {
    size_t size = (size_t)load_window.args->size;
    uint32_t depth = (uint32_t)load_window.args->depth;
    /* All that are in flight were begun one after the other: the oldest first. */
    uint32_t oldest = c->begun_at + depth - (uint32_t)((c->unread + size - 1) / size);
    ssize_t n = recv(c->fd, bench_buffer, BENCH_READ_SIZE, 0);
    long done = 0;
    bench_check(n > 0 || (n < 0 && errno == EAGAIN), "recv");
    if (n < 0)
        return 0;
    errno = 0;
    bench_check((size_t)n <= c->unread, "too much came back: recv");
    c->unread -= (size_t)n;
    for (c->got += (size_t)n; c->got >= size; c->got -= size)
        load_done(now - c->begun[(oldest + (uint32_t)done++) % depth]);
    return done;
}

/* cycles: each connection serves for one request. */
static void load_load(const struct bench_args *args, bool cycles) {
    struct load_connection *cs =
        (struct load_connection *)bench_alloc((size_t)args->connections, sizeof(*cs));
    int64_t *begun =
        (int64_t *)bench_alloc((size_t)(args->connections * args->depth), sizeof(*begun));
    char *message = (char *)bench_alloc((size_t)args->depth, (size_t)args->size);
    struct epoll_event events[256];
    int64_t now;
    load_begin(args);
    load_epoll = epoll_create1(EPOLL_CLOEXEC);
    for (long i = 0; i < args->connections; i++) {
        cs[i].begun = begun + i * args->depth;
        load_open(&cs[i]);
    }
    now = load_warm_up();
    for (long i = 0; i < args->connections; i++)
        load_request(&cs[i], args->depth, message, now);
    while (load_goes_on(now)) {
        int n = epoll_wait(load_epoll, events, 256, 1000);
        bench_check(n >= 0 || errno == EINTR, "epoll_wait");
        now = bench_now();
        for (int i = 0; i < n; i++) {
            struct load_connection *c = (struct load_connection *)events[i].data.ptr;
            long done = 0;
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                done = load_receive(c, now);
            if (done > 0 && cycles) {
                int64_t opening = bench_now();
                close(c->fd);
                load_open(c);
                load_request(c, done, message, opening);
            } else if (done > 0) {
                load_request(c, done, message, now);
            }
            if (c->watching_writes && (events[i].events & EPOLLOUT))
                load_send(c, message);
        }
    }
    load_print();
}

/* The times of those in flight are in a ring, the oldest where the next one goes. */
static void load_udp(const struct bench_args *args) {
    struct load_connection *cs =
        (struct load_connection *)bench_alloc((size_t)args->connections, sizeof(*cs));
    int64_t *begun =
        (int64_t *)bench_alloc((size_t)(args->connections * args->depth), sizeof(*begun));
    char *message = (char *)bench_alloc(1, (size_t)args->size + 1);
    struct epoll_event events[256];
    int64_t now;
    load_type = SOCK_DGRAM;
    load_epoll = epoll_create1(EPOLL_CLOEXEC);
    load_begin(args);
    for (long i = 0; i < args->connections; i++) {
        cs[i].begun = begun + i * args->depth;
        load_open(&cs[i]);
    }
    now = bench_now();
    load_window.end = now + LOAD_WARM_UP_NS;
    for (long i = 0; i < args->connections; i++) {
        for (long k = 0; k < args->depth; k++) {
            cs[i].begun[k] = now;
            bench_check(send(cs[i].fd, message, (size_t)args->size, 0) == args->size, "send");
        }
    }
    while (load_goes_on(now)) {
        int n = epoll_wait(load_epoll, events, 256, 1000);
        bench_check(n > 0 || (n < 0 && errno == EINTR), "a datagram was lost: epoll_wait");
        now = bench_now();
        for (int i = 0; i < n; i++) {
            struct load_connection *c = (struct load_connection *)events[i].data.ptr;
            bench_check(recv(c->fd, bench_buffer, BENCH_READ_SIZE, 0) == args->size, "recv");
            load_done(now - c->begun[c->begun_at]);
            c->begun[c->begun_at] = now;
            c->begun_at = (c->begun_at + 1) % (uint32_t)args->depth;
            bench_check(send(c->fd, message, (size_t)args->size, 0) == args->size, "send");
        }
    }
    load_print();
}

static void load_hold(const struct bench_args *args) {
    enum { MAX = 20000 };
    static int fds[MAX];
    char out[64], in[64];
    int held = 0, wanted;
    uint32_t state = 1;
    /* Reset, not closed: ten thousand ports must not stay in TIME_WAIT for the next round. */
    struct linger reset = {1, 0};
    while (scanf("%d", &wanted) == 1) {
        while (held < wanted && held < MAX) {
            fds[held] = load_connect(args, load_type);
            setsockopt(fds[held], SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
            load_fill(out, sizeof(out), &state);
            load_write(fds[held], out, sizeof(out));
            load_read(fds[held], in, sizeof(in));
            errno = 0;
            bench_check(memcmp(in, out, sizeof(in)) == 0, "echo");
            held++;
        }
        printf("held %d\n", held);
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    struct bench_args args = bench_parse(argc, argv);
    bench_pin(args.core);
    bench_files();
    if (strcmp(args.mode, "rounds") == 0)
        load_rounds(&args);
    else if (strcmp(args.mode, "load") == 0)
        load_load(&args, false);
    else if (strcmp(args.mode, "cycles") == 0)
        load_load(&args, true);
    else if (strcmp(args.mode, "udp") == 0)
        load_udp(&args);
    else if (strcmp(args.mode, "hold") == 0)
        load_hold(&args);
    else
        return 2;
    return 0;
}
