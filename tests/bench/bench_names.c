/*
 * bench_names.c - looking up names, and connecting by them: the library, and a thread that calls getaddrinfo by hand.
 *
 *     bench_names aioloop.lookup --count N    look-ups of "localhost", one after the other
 *     bench_names hand.lookup --count N
 *     bench_names aioloop.connect --count N   look up "localhost", connect to a listener in another process, close
 *     bench_names hand.connect --count N
 *
 * By hand: one thread that is always there, a mutex and a condition to ask it, an eventfd and epoll to hear from it.
 * Each prints one JSON object; ns is the processor time of all threads, wall_ns the round trip.
 */
#define AIOLOOP_IMPLEMENTATION
#include "../../aioloop.h"

#define BENCH_NO_MAIN
#include "bench.h"

#include <netdb.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

struct span {
    int64_t wall;
    int64_t cpu;
};

static struct span span_begin(void) {
    struct span span = {bench_now(), bench_clock(CLOCK_PROCESS_CPUTIME_ID)};
    return span;
}

static void span_show(struct span span, long count) {
    int64_t cpu = bench_clock(CLOCK_PROCESS_CPUTIME_ID) - span.cpu;
    int64_t wall = bench_now() - span.wall;
    printf("{\"ns\": %.1f, \"wall_ns\": %.1f, \"count\": %ld}\n", (double)cpu / (double)count, (double)wall / (double)count, count);
}

/* ---- who is connected to ---- */

/* A process that accepts and closes. Its port; it ends with its parent's pipe. */
static int acceptor(pid_t *pid) {
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(name);
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bench_check(s >= 0 && bind(s, (struct sockaddr *)&name, size) == 0 && listen(s, 1024) == 0, "listen");
    bench_check(getsockname(s, (struct sockaddr *)&name, &size) == 0, "getsockname");
    *pid = fork();
    bench_check(*pid >= 0, "fork");
    if (*pid == 0) {
        struct linger reset = {1, 0}; /* no port lingers on */
        for (;;) {
            int c = accept(s, NULL, NULL);
            char byte;
            if (c < 0)
                continue;
            while (read(c, &byte, 1) > 0)
                ;
            setsockopt(c, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
            close(c);
        }
    }
    close(s);
    return ntohs(name.sin_port);
}

static void acceptor_end(pid_t pid) {
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* ---- the library ---- */

struct lookups {
    aioloop *loop;
    long left;
    int port;
};

static void lookups_next(struct lookups *self);

static void lookup_over(aioloop_future *future, void *arg) {
    aioloop_addrinfo *list = NULL;
    bench_check(aioloop_future_result(future, &list) > 0, "lookup");
    aioloop_freeaddrinfo(list);
    lookups_next((struct lookups *)arg);
}

static void connect_over(aioloop_future *future, void *arg) {
    aioloop_transport *transport = NULL;
    bench_check(aioloop_future_result(future, &transport) >= 0, "connect");
    aioloop_transport_abort(transport);
    aioloop_transport_unref(transport);
    lookups_next((struct lookups *)arg);
}

static const aioloop_protocol silent = AIOLOOP_ZERO;

static void lookups_next(struct lookups *self) {
    int err;
    if (self->left-- == 0) {
        aioloop_stop(self->loop);
        return;
    }
    if (self->port == 0) {
        aioloop_getaddrinfo_options options = {AIOLOOP_INET, AIOLOOP_SOCK_STREAM, 0, 0};
        err = aioloop_future_then(aioloop_getaddrinfo(self->loop, "localhost", "80", &options), lookup_over, self);
    } else {
        aioloop_connection_options options = AIOLOOP_ZERO;
        options.family = AIOLOOP_INET;
        options.flags = AIOLOOP_AI_NUMERICSERV; /* so that "localhost" is looked up at all */
        err = aioloop_future_then(aioloop_create_connection(self->loop, &silent, NULL, "localhost", self->port, &options),
                                  connect_over, self);
    }
    bench_check(err == 0, "then");
}

static void bench_library(long count, int port) {
    struct lookups self = {aioloop_new_event_loop(NULL), 100, port};
    struct span span;
    bench_check(self.loop != NULL, "loop");
    lookups_next(&self); /* a hundred to warm up */
    bench_check(aioloop_run_forever(self.loop) == 0, "run");
    self.left = count;
    span = span_begin();
    lookups_next(&self);
    bench_check(aioloop_run_forever(self.loop) == 0, "run");
    span_show(span, count);
    aioloop_free(self.loop);
}

/* ---- by hand ---- */

struct hand {
    pthread_mutex_t mutex;
    pthread_cond_t asked;
    const char *host;
    struct addrinfo *answer;
    int wake;
    bool ends;
};

static void *hand_thread(void *arg) {
    struct hand *h = (struct hand *)arg;
    pthread_mutex_lock(&h->mutex);
    while (!h->ends) {
        if (h->host == NULL) {
            pthread_cond_wait(&h->asked, &h->mutex);
            continue;
        }
        const char *host = h->host;
        struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
        struct addrinfo *answer = NULL;
        uint64_t one = 1;
        h->host = NULL;
        pthread_mutex_unlock(&h->mutex);
        bench_check(getaddrinfo(host, "80", &hints, &answer) == 0, "getaddrinfo");
        pthread_mutex_lock(&h->mutex);
        h->answer = answer;
        bench_check(write(h->wake, &one, sizeof(one)) == sizeof(one), "write");
    }
    pthread_mutex_unlock(&h->mutex);
    return NULL;
}

static struct addrinfo *hand_look_up(struct hand *h, int epoll) {
    struct addrinfo *answer;
    struct epoll_event event;
    uint64_t count;
    pthread_mutex_lock(&h->mutex);
    h->host = "localhost";
    pthread_cond_signal(&h->asked);
    pthread_mutex_unlock(&h->mutex);
    bench_check(epoll_wait(epoll, &event, 1, -1) == 1, "epoll_wait");
    bench_check(read(h->wake, &count, sizeof(count)) == sizeof(count), "read");
    pthread_mutex_lock(&h->mutex);
    answer = h->answer;
    h->answer = NULL;
    pthread_mutex_unlock(&h->mutex);
    return answer;
}

static void hand_connect(const struct addrinfo *answer, int epoll, int port) {
    struct sockaddr_in name = *(const struct sockaddr_in *)(const void *)answer->ai_addr;
    struct epoll_event event = {.events = EPOLLOUT};
    socklen_t size = sizeof(int);
    int err = 0;
    int one = 1;
    int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    name.sin_port = htons((uint16_t)port);
    bench_check(s >= 0, "socket");
    if (connect(s, (struct sockaddr *)&name, sizeof(name)) != 0) {
        bench_check(errno == EINPROGRESS, "connect");
        bench_check(epoll_ctl(epoll, EPOLL_CTL_ADD, s, &event) == 0, "epoll_ctl");
        bench_check(epoll_wait(epoll, &event, 1, -1) == 1, "epoll_wait");
        bench_check(getsockopt(s, SOL_SOCKET, SO_ERROR, &err, &size) == 0 && err == 0, "SO_ERROR");
    }
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* as the library does */
    close(s);
}

static void bench_hand(long count, int port) {
    struct hand h = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, NULL, eventfd(0, EFD_NONBLOCK), false};
    struct epoll_event event = {.events = EPOLLIN};
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct span span = {0, 0};
    pthread_t thread;
    bench_check(h.wake >= 0 && epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, h.wake, &event) == 0, "epoll");
    bench_check(pthread_create(&thread, NULL, hand_thread, &h) == 0, "thread");
    for (long i = -100; i < count; i++) {
        if (i == 0)
            span = span_begin();
        struct addrinfo *answer = hand_look_up(&h, epoll);
        if (port != 0)
            hand_connect(answer, epoll, port);
        freeaddrinfo(answer);
    }
    span_show(span, count);
    pthread_mutex_lock(&h.mutex);
    h.ends = true;
    pthread_cond_signal(&h.asked);
    pthread_mutex_unlock(&h.mutex);
    pthread_join(thread, NULL);
    close(epoll);
    close(h.wake);
}

static void library_lookup(const struct bench_args *args) {
    bench_library(args->count, 0);
}

static void library_connect(const struct bench_args *args) {
    pid_t pid;
    int port = acceptor(&pid);
    bench_library(args->count, port);
    acceptor_end(pid);
}

static void hand_lookup(const struct bench_args *args) {
    bench_hand(args->count, 0);
}

static void hand_connects(const struct bench_args *args) {
    pid_t pid;
    int port = acceptor(&pid);
    bench_hand(args->count, port);
    acceptor_end(pid);
}

int main(int argc, char **argv) {
    static const struct bench_mode modes[] = {{"aioloop.lookup", library_lookup},
                                              {"aioloop.connect", library_connect},
                                              {"hand.lookup", hand_lookup},
                                              {"hand.connect", hand_connects}};
    return bench_run(argc, argv, modes, sizeof(modes) / sizeof(modes[0]));
}
