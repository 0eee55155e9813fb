/*
 * bench_load.c - the other end of the echo servers.
 *
 *     bench_load rounds --port P --connections C --size S --count R
 *         R times: sends S bytes on each of C connections, then reads all the echoes and compares
 *         them. Exactly C*R messages, for counting what they cost the server.
 *     bench_load load --port P --connections C --size S --seconds T --pid SERVER
 *         Each connection sends a message, awaits its whole echo, sends the next. Prints the
 *         requests of T seconds, after a warm-up, and the processor time the server used in them.
 *     bench_load hold --port P
 *         Reads numbers from standard input; opens connections until there are that many, exchanges
 *         one message on each, says so. At the end of input resets them all.
 */
#define BENCH_NO_MAIN
#include "bench.h"
#include <sys/epoll.h>

static int load_connect(const struct bench_args *args) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)args->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bench_check(fd >= 0, "socket");
    bench_check(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0, "connect");
    bench_nodelay(fd);
    return fd;
}

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
        fds[i] = load_connect(args);
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

struct load_connection {
    int fd;
    bool watching_writes;
    size_t unsent, unread;
    int64_t begun;
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

static int load_compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void load_load(const struct bench_args *args) {
    enum { MAX_SAMPLES = 4000000 };
    size_t size = (size_t)args->size;
    struct load_connection *cs =
        (struct load_connection *)bench_alloc((size_t)args->connections, sizeof(*cs));
    char *message = (char *)bench_alloc(1, size);
    uint32_t *samples = (uint32_t *)bench_alloc(MAX_SAMPLES, sizeof(*samples));
    size_t sampled = 0;
    long requests = 0;
    int64_t now, window = 0, end, server_begin = 0, server_end, client_begin = 0, client_end;
    struct epoll_event events[256];
    clockid_t server = CLOCK_PROCESS_CPUTIME_ID;
    /* The server's processor time by the scheduler's own account, in nanoseconds; /proc has only
     * ticks. */
    if (args->pid > 0)
        bench_check(clock_getcpuclockid((pid_t)args->pid, &server) == 0, "clock_getcpuclockid");
    load_epoll = epoll_create1(EPOLL_CLOEXEC);
    for (long i = 0; i < args->connections; i++) {
        struct epoll_event event = {EPOLLIN, {.ptr = &cs[i]}};
        cs[i].fd = load_connect(args);
        fcntl(cs[i].fd, F_SETFL, O_NONBLOCK);
        bench_check(epoll_ctl(load_epoll, EPOLL_CTL_ADD, cs[i].fd, &event) == 0, "epoll_ctl");
    }
    now = bench_now();
    end = now + 200000000; /* the warm-up */
    for (long i = 0; i < args->connections; i++) {
        cs[i].unsent = cs[i].unread = size;
        cs[i].begun = now;
        load_send(&cs[i], message);
    }
    for (;;) {
        int n = epoll_wait(load_epoll, events, 256, 1000);
        bench_check(n >= 0 || errno == EINTR, "epoll_wait");
        now = bench_now();
        if (now >= end) {
            server_end = bench_clock(server);
            client_end = bench_clock(CLOCK_PROCESS_CPUTIME_ID);
            if (window != 0)
                break;
            window = now;
            end = now + (int64_t)(args->seconds * 1e9);
            requests = 0;
            sampled = 0;
            server_begin = server_end;
            client_begin = client_end;
        }
        for (int i = 0; i < n; i++) {
            struct load_connection *c = (struct load_connection *)events[i].data.ptr;
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                ssize_t got = recv(c->fd, bench_buffer, BENCH_READ_SIZE, 0);
                bench_check(got > 0 || (got < 0 && errno == EAGAIN), "recv");
                if (got > 0) {
                    bench_check((size_t)got <= c->unread, "too much came back: recv");
                    c->unread -= (size_t)got;
                }
                if (c->unread == 0) {
                    if (sampled < MAX_SAMPLES)
                        samples[sampled++] = (uint32_t)(now - c->begun);
                    requests++;
                    c->unsent = c->unread = size;
                    c->begun = now;
                }
            }
            if (c->unsent > 0 && (!c->watching_writes || (events[i].events & EPOLLOUT)))
                load_send(c, message);
        }
    }
    bench_check(requests > 0 && sampled > 0, "requests");
    qsort(samples, sampled, sizeof(*samples), load_compare);
    printf("{\"requests\": %ld, \"seconds\": %.6f, \"rate\": %.1f, \"server_cpu_us\": %.4f, "
           "\"client_cpu_us\": %.4f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n",
           requests, (double)(now - window) / 1e9, (double)requests * 1e9 / (double)(now - window),
           (double)(server_end - server_begin) / 1e3 / (double)requests,
           (double)(client_end - client_begin) / 1e3 / (double)requests,
           (double)samples[sampled / 2] / 1e3, (double)samples[sampled * 99 / 100] / 1e3);
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
            fds[held] = load_connect(args);
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
    struct rlimit files;
    bench_pin(args.core);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    if (strcmp(args.mode, "rounds") == 0)
        load_rounds(&args);
    else if (strcmp(args.mode, "load") == 0)
        load_load(&args);
    else if (strcmp(args.mode, "hold") == 0)
        load_hold(&args);
    else
        return 2;
    return 0;
}
