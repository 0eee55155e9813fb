/*
 * race_sock.c - operations on sockets that are cancelled as they succeed, with another thread or process at the other
 * end.
 *
 *     race_sock [COUNT [SEED]]
 *
 * Each race until COUNT (100,000) operations were cancelled, on the back end of AIOLOOP_BACKEND:
 *   receive  A task reads a numbered stream and is cancelled all the time; it begins again at once on the same
 *            descriptor. Every byte comes once and in order.
 *   accept   A task accepts, and is cancelled all the time. Every client is served once, and none is let down.
 *   connect  A connect is cancelled, its socket closed and the number used again at once, for another connect or for a
 *            receive, which hears of nothing but its own bytes.
 * Prints what happened; what is wrong ends it with 1.
 */
#define AIOLOOP_IMPLEMENTATION
#include "aioloop.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct {
    long count;
    uint64_t random;
    const char *name;
    aioloop *loop;
    pid_t child; /* the process at the other end; 0: none */
    int over; /* atomic: the peer ends with what it is about */
} race;

#define RACE_DIE(...)                                                                              \
    do {                                                                                           \
        fflush(stdout);                                                                            \
        fprintf(stderr, "race_sock: %s: line %d: ", race.name, __LINE__);                          \
        fprintf(stderr, __VA_ARGS__);                                                              \
        fprintf(stderr, "\n");                                                                     \
        if (race.child > 0)                                                                        \
            kill(race.child, SIGKILL);                                                             \
        exit(1);                                                                                   \
    } while (0)

#define RACE_CHECK(condition)                                                                      \
    do {                                                                                           \
        if (!(condition))                                                                          \
            RACE_DIE("%s (errno %d)", #condition, errno);                                          \
    } while (0)

/* splitmix64; each thread has its own state. */
static uint32_t race_below(uint64_t *state, uint32_t bound) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    z ^= z >> 31;
    return (uint32_t)((z >> 32) * bound >> 32);
}

static uint32_t race_draw(uint32_t bound) {
    return race_below(&race.random, bound);
}

/* The peer takes its time, in a way that no clock knows. */
static void race_dawdle(uint64_t *state) {
    volatile uint32_t n = race_below(state, 8) == 0 ? 0 : race_below(state, 2000);
    while (n != 0)
        n--;
    if (race_below(state, 16) == 0)
        sched_yield();
}

static void race_iterate(void) {
    int err = aioloop_run_once(race.loop, race_draw(4) == 0 ? AIOLOOP_US(20) : 0);
    if (err < 0)
        RACE_DIE("run_once: %s", aioloop_error_message(aioloop_last_error(race.loop)));
}

static void race_set_flags(int s) {
    RACE_CHECK(fcntl(s, F_SETFL, O_NONBLOCK) == 0);
}

static void race_set_over(int over) {
    __atomic_store_n(&race.over, over, __ATOMIC_SEQ_CST);
}

static int race_is_over(void) {
    return __atomic_load_n(&race.over, __ATOMIC_SEQ_CST);
}

static pthread_t race_start(void *(*fn)(void *arg), void *arg) {
    pthread_t thread;
    race_set_over(0);
    RACE_CHECK(pthread_create(&thread, NULL, fn, arg) == 0);
    return thread;
}

static double race_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* What both tasks keep of their cancellations. */
typedef struct race_task {
    aioloop_frame frame;
    int socket;
    int64_t n;
    long cancelled; /* they were told */
    long done;
    long both; /* cancelled, and told what had happened first */
    unsigned char bytes[64];
    uint32_t next; /* the number that comes next */
    int accepted;
    size_t got;
} race_task;

/* A result has come. */
static void race_had_result(race_task *t) {
    t->done++;
    t->both += aioloop_task_cancelling(aioloop_current_task(race.loop)) > 0;
}

static void race_was_cancelled(race_task *t) {
    aioloop_task *self = aioloop_current_task(race.loop);
    t->cancelled++;
    while (aioloop_task_uncancel(self) > 0)
        continue;
}

/* A future in some shell, or bare. */
static aioloop_future *race_wrap(aioloop_future *f) {
    switch (race_draw(4)) {
    case 0:
        return aioloop_wait_for(f, AIOLOOP_SECONDS(100));
    case 1:
        return aioloop_wait_for(aioloop_wait_for(f, AIOLOOP_SECONDS(100)), AIOLOOP_SECONDS(200));
    default:
        return f;
    }
}

/* Runs, and cancels the task at any moment, until it has been cancelled often enough. */
static void race_cancel(aioloop_task *task, const race_task *t) {
    race_iterate(); /* it begins */
    while (t->cancelled < race.count && !aioloop_future_done(task)) {
        uint32_t n = race_draw(4);
        while (n-- != 0)
            race_iterate();
        aioloop_future_cancel(task, NULL);
    }
    if (aioloop_future_done(task))
        RACE_DIE("the task has ended: %s", aioloop_strerror((int)aioloop_future_result(task, NULL)));
}

static void race_end_task(aioloop_task *task, race_task *t) {
    t->cancelled = -1; /* the next cancel is the last */
    while (!aioloop_future_done(task)) {
        aioloop_future_cancel(task, NULL);
        race_iterate();
    }
    (void)aioloop_future_exception(task);
    aioloop_future_unref(task);
}

/* ---- receive ---- */

typedef struct race_stream {
    int socket;
    uint64_t random;
} race_stream;

/* Writes 0, 1, 2 ... each in a byte (the lowest eight bits, and others by a rule). */
static unsigned char race_byte(uint32_t i) {
    return (unsigned char)(i * 7 + (i >> 8) * 13 + (i >> 16));
}

static void *race_writes(void *arg) {
    race_stream *s = (race_stream *)arg;
    uint32_t i = 0;
    while (!race_is_over()) {
        unsigned char bytes[16];
        uint32_t n = 1 + race_below(&s->random, sizeof(bytes));
        uint32_t k;
        for (k = 0; k < n; k++)
            bytes[k] = race_byte(i + k);
        k = 0;
        while (k < n) {
            ssize_t sent = send(s->socket, bytes + k, n - k, MSG_NOSIGNAL);
            if (sent < 0)
                return NULL; /* the reader has closed */
            k += (uint32_t)sent;
        }
        i += n;
        race_dawdle(&s->random);
    }
    return NULL;
}

static int64_t race_reads(aioloop *loop, aioloop_frame *frame, void **out) {
    race_task *t = (race_task *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    while (t->cancelled >= 0) {
        int64_t i;
        AIOLOOP_AWAIT(t->n, race_wrap(aioloop_sock_recv_into(loop, t->socket, t->bytes, 1 + race_draw(64))), NULL);
        if (t->n == AIOLOOP_ECANCELED && t->cancelled >= 0) {
            race_was_cancelled(t);
            continue;
        }
        if (t->n == AIOLOOP_ECANCELED)
            break;
        race_had_result(t);
        if (t->n <= 0)
            RACE_DIE("receive: %s", aioloop_strerror((int)t->n));
        for (i = 0; i < t->n; i++, t->next++)
            if (t->bytes[i] != race_byte(t->next))
                RACE_DIE("byte %u is not there, or not once", (unsigned)t->next);
    }
    return 0;
    AIOLOOP_END;
}

static void race_receive(void) {
    double start = race_clock();
    race_stream peer;
    race_task t;
    aioloop_task *task;
    pthread_t thread;
    int s[2];
    memset(&t, 0, sizeof(t));
    RACE_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    race_set_flags(s[0]);
    peer.socket = s[1];
    peer.random = race.random + 1;
    t.socket = s[0];
    task = aioloop_future_ref(aioloop_create_task_frame(race.loop, race_reads, &t.frame, NULL));
    thread = race_start(race_writes, &peer);
    race_cancel(task, &t);
    printf("receive: %ld cancelled, %ld done, %ld of them as they were cancelled, %u bytes, %.1f s\n", t.cancelled,
           t.done, t.both, (unsigned)t.next, race_clock() - start);
    race_end_task(task, &t);
    race_set_over(1);
    close(s[0]);
    pthread_join(thread, NULL);
    close(s[1]);
}

/* ---- accept ---- */

typedef struct race_clients {
    struct sockaddr_un name;
    socklen_t size;
    uint64_t random;
} race_clients;

/* A client says its number and waits for an answer. */
static void *race_visits(void *arg) {
    race_clients *c = (race_clients *)arg;
    uint32_t i = 0;
    while (!race_is_over()) {
        char answer = '\0';
        int s = socket(AF_UNIX, SOCK_STREAM, 0);
        ssize_t n;
        RACE_CHECK(s != -1);
        RACE_CHECK(connect(s, (const struct sockaddr *)(const void *)&c->name, c->size) == 0 || race_is_over());
        if (send(s, &i, sizeof(i), MSG_NOSIGNAL) != (ssize_t)sizeof(i) && !race_is_over())
            RACE_DIE("client %u cannot send", (unsigned)i);
        n = recv(s, &answer, 1, 0);
        if ((n != 1 || answer != 'k') && !race_is_over())
            RACE_DIE("client %u was let down", (unsigned)i);
        close(s);
        i++;
        race_dawdle(&c->random);
    }
    return NULL;
}

static int64_t race_accepts(aioloop *loop, aioloop_frame *frame, void **out) {
    race_task *t = (race_task *)frame;
    uint32_t number;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    while (t->cancelled >= 0) {
        AIOLOOP_AWAIT(t->n, race_wrap(aioloop_sock_accept(loop, t->socket, NULL)), NULL);
        if (t->n == AIOLOOP_ECANCELED && t->cancelled >= 0) {
            race_was_cancelled(t);
            continue;
        }
        if (t->n == AIOLOOP_ECANCELED)
            break;
        if (t->n < 0)
            RACE_DIE("accept: %s", aioloop_strerror((int)t->n));
        race_had_result(t);
        t->accepted = (int)t->n;
        t->got = 0;
        while (t->got < sizeof(number)) {
            AIOLOOP_AWAIT(t->n, aioloop_sock_recv_into(loop, t->accepted, t->bytes + t->got, sizeof(number) - t->got),
                          NULL);
            if (t->n == AIOLOOP_ECANCELED) {
                while (aioloop_task_uncancel(aioloop_current_task(loop)) > 0)
                    continue;
                continue;
            }
            if (t->n <= 0)
                RACE_DIE("client %u has gone", (unsigned)t->next);
            t->got += (size_t)t->n;
        }
        memcpy(&number, t->bytes, sizeof(number));
        if (number != t->next)
            RACE_DIE("client %u comes instead of %u", (unsigned)number, (unsigned)t->next);
        t->next++;
        if (send(t->accepted, "k", 1, MSG_NOSIGNAL) != 1)
            RACE_DIE("client %u has gone early", (unsigned)number);
        close(t->accepted);
    }
    return 0;
    AIOLOOP_END;
}

static void race_accept(void) {
    double start = race_clock();
    race_clients peer;
    race_task t;
    aioloop_task *task;
    pthread_t thread;
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    memset(&t, 0, sizeof(t));
    memset(&peer, 0, sizeof(peer));
    RACE_CHECK(listener != -1);
    race_set_flags(listener);
    peer.name.sun_family = AF_UNIX;
    snprintf(peer.name.sun_path, sizeof(peer.name.sun_path), "/tmp/aioloop-race-%ld", (long)getpid());
    peer.size = (socklen_t)sizeof(peer.name);
    peer.random = race.random + 2;
    unlink(peer.name.sun_path);
    RACE_CHECK(bind(listener, (const struct sockaddr *)(const void *)&peer.name, peer.size) == 0);
    RACE_CHECK(listen(listener, 16) == 0);
    t.socket = listener;
    task = aioloop_future_ref(aioloop_create_task_frame(race.loop, race_accepts, &t.frame, NULL));
    thread = race_start(race_visits, &peer);
    race_cancel(task, &t);
    printf("accept: %ld cancelled, %ld done, %ld of them as they were cancelled, %.1f s\n", t.cancelled, t.done, t.both,
           race_clock() - start);
    race_set_over(1);
    race_end_task(task, &t);
    close(listener); /* whoever waits there is let down now */
    unlink(peer.name.sun_path);
    pthread_join(thread, NULL);
}

/* ---- connect ---- */

typedef struct race_listeners {
    int open; /* whose connections the other thread accepts and resets */
    int full; /* that lets everybody wait */
    int first;
    struct sockaddr_in names[2];
} race_listeners;

static void race_reset_on_close(int s) {
    struct linger now;
    now.l_onoff = 1;
    now.l_linger = 0;
    RACE_CHECK(setsockopt(s, SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0);
}

/* A process of its own, since its descriptors must not take the numbers. */
static pid_t race_receive_visitors(int listener) {
    pid_t child = fork();
    RACE_CHECK(child != -1);
    while (child == 0) {
        int s = accept(listener, NULL, NULL);
        if (s == -1)
            continue; /* it was reset */
        race_reset_on_close(s);
        close(s);
    }
    return child;
}

static int race_listen(struct sockaddr_in *name, int backlog) {
    socklen_t size = (socklen_t)sizeof(*name);
    int s = socket(AF_INET, SOCK_STREAM, 0);
    memset(name, 0, sizeof(*name));
    name->sin_family = AF_INET;
    name->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    RACE_CHECK(s != -1 && bind(s, (const struct sockaddr *)(const void *)name, size) == 0 && listen(s, backlog) == 0 &&
               getsockname(s, (struct sockaddr *)(void *)name, &size) == 0);
    return s;
}

static int race_connecting_socket(void) {
    int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    RACE_CHECK(s != -1);
    race_reset_on_close(s);
    return s;
}

/* The number, free again, is now one end of a pair: it hears of its own bytes alone. */
static void race_use_number(int number) {
    unsigned char byte = 0;
    aioloop_future *f;
    int s[2];
    int i;
    RACE_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s) == 0);
    if (s[0] != number) /* a connect that is cancelled has let go of it */
        RACE_DIE("number %d is not free: got %d", number, s[0]);
    f = aioloop_future_ref(aioloop_sock_recv_into(race.loop, s[0], &byte, 1));
    for (i = (int)race_draw(3); i > 0; i--)
        race_iterate();
    if (aioloop_future_done(f))
        RACE_DIE("a receive has heard of another socket: %ld", (long)aioloop_future_result(f, NULL));
    RACE_CHECK(send(s[1], "x", 1, MSG_NOSIGNAL) == 1);
    while (!aioloop_future_done(f))
        race_iterate();
    if (aioloop_future_result(f, NULL) != 1 || byte != 'x')
        RACE_DIE("a receive has not got its byte");
    aioloop_future_unref(f);
    close(s[0]);
    close(s[1]);
}

static void race_connect(void) {
    double start = race_clock();
    race_listeners l;
    long cancelled = 0;
    long made = 0;
    int s;
    l.open = race_listen(&l.names[0], 64);
    l.full = race_listen(&l.names[1], 0);
    l.first = race_connecting_socket();
    RACE_CHECK(connect(l.first, (const struct sockaddr *)(const void *)&l.names[1], sizeof(l.names[1])) == 0 ||
               errno == EINPROGRESS);
    race.child = race_receive_visitors(l.open);
    while (cancelled < race.count) {
        aioloop_address at;
        aioloop_future *f;
        uint32_t n;
        RACE_CHECK(aioloop_address_parse(&at, "127.0.0.1", ntohs(l.names[race_draw(4) == 0].sin_port)) == 0);
        s = race_connecting_socket();
        f = aioloop_future_ref(aioloop_sock_connect_address(race.loop, s, &at));
        for (n = race_draw(3); n > 0; n--)
            race_iterate();
        if (aioloop_future_cancel(f, NULL))
            cancelled++;
        else if (aioloop_future_exception(f) == 0)
            made++;
        else if (aioloop_future_exception(f) != AIOLOOP_ECONNRESET)
            RACE_DIE("connect: %s", aioloop_error_message(aioloop_future_error(f)));
        aioloop_future_unref(f);
        close(s);
        if (race_draw(4) == 0)
            race_use_number(s);
        if (race_draw(64) == 0)
            aioloop_verify(race.loop);
        if (made > 20 * race.count)
            break; /* a machine on which it is always made at once */
    }
    printf("connect: %ld cancelled, %ld made, %.1f s\n", cancelled, made, race_clock() - start);
    kill(race.child, SIGKILL);
    waitpid(race.child, NULL, 0);
    race.child = 0;
    close(l.first);
    close(l.open);
    close(l.full);
}

int main(int argc, char **argv) {
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
    race.count = argc > 1 ? atol(argv[1]) : 100000;
    race.name = "";
    race.random = seed;
    race.loop = aioloop_new_event_loop(NULL);
    RACE_CHECK(race.loop != NULL);
    race.name = aioloop_backend_name(race.loop);
    printf("race_sock on %s, seed %llu\n", race.name, (unsigned long long)seed);
    race_receive();
    race_accept();
    race_connect();
    aioloop_verify(race.loop);
    RACE_CHECK(aioloop_free(race.loop) == 0);
    return 0;
}
