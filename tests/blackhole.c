/*
 * blackhole.c - a program whose name server never answers, in a network of which parts lead nowhere. tests/blackhole.sh
 * makes it.
 *
 *     blackhole [words: only the checks whose name contains one of them]
 *
 * Look-ups that hang are given up at once, and delay nothing: no other look-up, no thread of the executor, no timer, not
 * the end of the loop nor that of the program. A host of which one family leads nowhere is connected to after the delay of
 * Happy Eyeballs. Each check is a process of its own, which has to end in time. It runs on the back end of
 * AIOLOOP_BACKEND. Prints the checks; what is wrong ends it with 1.
 */
#define AIOLOOP_IMPLEMENTATION
#include "aioloop.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BLACKHOLE_MANY 30
#define BLACKHOLE_PROMPT 1.0 /* seconds that "at once" may take on a busy machine; the resolver's are many */

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static double blackhole_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static aioloop *blackhole_loop(void) {
    aioloop *loop = aioloop_new_event_loop(NULL);
    EXPECT(loop != NULL);
    return loop;
}

static aioloop_future *blackhole_ask(aioloop *loop, const char *host) {
    return aioloop_getaddrinfo(loop, host, "80", NULL);
}

/* Many look-ups that hang, given up while they do, or not. */
static void blackhole_hang(aioloop *loop, bool give_up) {
    int i;
    for (i = 0; i < BLACKHOLE_MANY; i++) {
        char host[32];
        int64_t n;
        snprintf(host, sizeof(host), "host-%d.example", i);
        if (give_up) {
            n = aioloop_run_until_complete(loop, aioloop_wait_for(blackhole_ask(loop, host), AIOLOOP_MS(10)), NULL);
            EXPECT(n == AIOLOOP_ETIMEDOUT);
        } else {
            aioloop_future *f = blackhole_ask(loop, host);
            EXPECT(!aioloop_future_done(f));
            aioloop_future_unref(f);
        }
    }
}

static void blackhole_works(aioloop *loop) {
    double start = blackhole_now();
    EXPECT(aioloop_run_until_complete(loop, blackhole_ask(loop, "localhost"), NULL) >= 1);
    EXPECT(blackhole_now() - start < BLACKHOLE_PROMPT);
}

/* ---- the checks ---- */

static void blackhole_never_answers(void) {
    aioloop *loop = blackhole_loop();
    double start = blackhole_now();
    aioloop_future *f = aioloop_wait_for(blackhole_ask(loop, "slow.example"), AIOLOOP_MS(300));
    int64_t n = aioloop_run_until_complete(loop, f, NULL);
    double took = blackhole_now() - start;
    EXPECT(n == AIOLOOP_ETIMEDOUT);
    EXPECT(took >= 0.3 && took < 0.3 + BLACKHOLE_PROMPT);
    EXPECT(aioloop_free(loop) == 0);
    EXPECT(blackhole_now() - start < 0.3 + BLACKHOLE_PROMPT);
}

static void blackhole_is_cancelled_at_once(void) {
    aioloop *loop = blackhole_loop();
    aioloop_future *f = aioloop_future_ref(blackhole_ask(loop, "slow.example"));
    double start;
    EXPECT(aioloop_run_until_complete(loop, aioloop_sleep(loop, AIOLOOP_MS(50)), NULL) == 0);
    EXPECT(!aioloop_future_done(f));
    start = blackhole_now();
    EXPECT(aioloop_future_cancel(f, NULL));
    EXPECT(aioloop_run_until_complete(loop, f, NULL) == AIOLOOP_ECANCELED);
    EXPECT(blackhole_now() - start < BLACKHOLE_PROMPT);
    aioloop_future_unref(f);
    EXPECT(aioloop_free(loop) == 0);
}

static int64_t blackhole_in_thread(void *arg, void **out) {
    (void)arg;
    (void)out;
    return 7;
}

static void blackhole_delays_nothing(void) {
    aioloop *loop = blackhole_loop();
    double start;
    blackhole_hang(loop, true);
    blackhole_works(loop);
    start = blackhole_now();
    EXPECT(aioloop_run_until_complete(loop, aioloop_to_thread(loop, blackhole_in_thread, NULL, NULL), NULL) == 7);
    EXPECT(aioloop_run_until_complete(loop, aioloop_sleep(loop, AIOLOOP_MS(1)), NULL) == 0);
    EXPECT(blackhole_now() - start < BLACKHOLE_PROMPT);
    EXPECT(aioloop_run_until_complete(loop, aioloop_shutdown_default_executor(loop, 0), NULL) == 0);
    blackhole_works(loop);
    EXPECT(aioloop_free(loop) == 0);
    EXPECT(blackhole_now() - start < 2 * BLACKHOLE_PROMPT);
}

static void blackhole_loop_ends(void) {
    aioloop *loop = blackhole_loop();
    double start;
    blackhole_hang(loop, false);
    EXPECT(aioloop_run_until_complete(loop, aioloop_sleep(loop, AIOLOOP_MS(20)), NULL) == 0);
    start = blackhole_now();
    EXPECT(aioloop_free(loop) == 0);
    EXPECT(blackhole_now() - start < BLACKHOLE_PROMPT);
}

/* ---- Happy Eyeballs with a family that leads nowhere ---- */

#define BLACKHOLE_DELAY 0.05

typedef struct blackhole_eyeballs {
    aioloop_addrinfo items[4];
    size_t count;
} blackhole_eyeballs;

static aioloop_future *blackhole_resolve(aioloop *loop, void *arg, const char *host, const char *service,
                                         const aioloop_getaddrinfo_options *options) {
    const blackhole_eyeballs *eyeballs = (const blackhole_eyeballs *)arg;
    aioloop_future *f = aioloop_create_operation(loop, NULL, NULL);
    (void)host;
    (void)service;
    (void)options;
    aioloop_future_set_result(f, (int64_t)eyeballs->count, aioloop_addrinfo_copy(eyeballs->items, eyeballs->count),
                              aioloop_freeaddrinfo);
    aioloop_future_unref(f);
    return f;
}

static int blackhole_open_fds(void) {
    int count = 0;
    int fd;
    for (fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) != -1;
    return count;
}

/* hosts: in the resolver's order, of which the last is here and the others nowhere. Connected after the delay, once for
 * each attempt before; without a delay not at all in that time. */
static void blackhole_connect(const char *const *hosts, size_t count, int attempts_before) {
    static const aioloop_protocol silent = AIOLOOP_ZERO;
    aioloop *loop = blackhole_loop();
    aioloop_connection_options options = AIOLOOP_ZERO;
    blackhole_eyeballs eyeballs = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    aioloop_transport *transport = NULL;
    aioloop_address address;
    double start;
    double took;
    size_t i;
    int fds;
    int64_t n = aioloop_run_until_complete(loop, aioloop_create_server(loop, &silent, NULL, hosts[count - 1], 0, NULL), &server);
    EXPECT(n == 1);
    EXPECT(aioloop_server_socket(server, 0, NULL, &address) == 0);
    for (i = 0; i < count; i++)
        EXPECT(aioloop_address_parse(&eyeballs.items[i].address, hosts[i], address.port) == 0);
    eyeballs.count = count;
    EXPECT(aioloop_set_resolver(loop, blackhole_resolve, &eyeballs) == 0);
    fds = blackhole_open_fds();
    options.happy_eyeballs_delay = AIOLOOP_SECONDS(BLACKHOLE_DELAY);
    start = blackhole_now();
    n = aioloop_run_until_complete(loop, aioloop_create_connection(loop, &silent, NULL, "host.example", 80, &options), &transport);
    took = blackhole_now() - start;
    EXPECT(n == 0);
    EXPECT(took >= attempts_before * BLACKHOLE_DELAY && took < attempts_before * BLACKHOLE_DELAY + 0.04);
    EXPECT(blackhole_open_fds() <= fds + 2); /* both ends of the one that won */
    aioloop_transport_abort(transport);
    aioloop_transport_unref(transport);
    options.happy_eyeballs_delay = 0;
    options.timeout = AIOLOOP_MS(200);
    n = aioloop_run_until_complete(loop, aioloop_create_connection(loop, &silent, NULL, "host.example", 80, &options), NULL);
    EXPECT(n == AIOLOOP_ETIMEDOUT);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    EXPECT(aioloop_run_until_complete(loop, aioloop_sleep(loop, AIOLOOP_MS(5)), NULL) == 0);
    EXPECT(blackhole_open_fds() == fds - 1);
    EXPECT(aioloop_free(loop) == 0);
}

static void blackhole_without_ipv6(void) {
    static const char *const hosts[] = {"2001:db8::1", "127.0.0.1"};
    blackhole_connect(hosts, 2, 1);
}

static void blackhole_without_ipv4(void) {
    static const char *const hosts[] = {"192.0.2.7", "::1"};
    blackhole_connect(hosts, 2, 1);
}

/* Interleaved: the third in the resolver's order is the second to be tried. */
static void blackhole_interleaved(void) {
    static const char *const hosts[] = {"2001:db8::1", "2001:db8::2", "127.0.0.1"};
    blackhole_connect(hosts, 3, 1);
}

/* It returns with everything as it is. */
static void blackhole_program_ends(void) {
    aioloop *loop = blackhole_loop();
    blackhole_hang(loop, true);
    blackhole_hang(loop, false);
    EXPECT(aioloop_run_until_complete(loop, aioloop_sleep(loop, AIOLOOP_MS(20)), NULL) == 0);
}

static const struct {
    const char *name;
    void (*run)(void);
} blackhole_checks[] = {
    {"a look-up hangs, and times out", blackhole_never_answers},
    {"a look-up is cancelled at once", blackhole_is_cancelled_at_once},
    {"many look-ups that hang delay nothing", blackhole_delays_nothing},
    {"the loop ends at once", blackhole_loop_ends},
    {"the program ends at once", blackhole_program_ends},
    {"connected after the delay where IPv6 leads nowhere", blackhole_without_ipv6},
    {"connected after the delay where IPv4 leads nowhere", blackhole_without_ipv4},
    {"the families take turns", blackhole_interleaved},
};

/* ---- each in its process ---- */

static bool blackhole_chosen(const char *name, int count, char **words) {
    int i;
    for (i = 0; i < count; i++)
        if (strstr(name, words[i]) != NULL)
            return true;
    return count == 0;
}

/* Its seconds, or below 0 when it failed. */
static double blackhole_play(void (*run)(void)) {
    double start = blackhole_now();
    int status = -1;
    pid_t child;
    fflush(stdout);
    child = fork();
    if (child == 0) {
        alarm(20);
        run();
        exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        return -1;
    return blackhole_now() - start;
}

int main(int argc, char **argv) {
    size_t i;
    int failed = 0;
    for (i = 0; i < sizeof(blackhole_checks) / sizeof(blackhole_checks[0]); i++) {
        double took;
        if (!blackhole_chosen(blackhole_checks[i].name, argc - 1, argv + 1))
            continue;
        took = blackhole_play(blackhole_checks[i].run);
        if (took > 5) /* a little per look-up; a hanging one would take minutes */
            took = -1;
        printf("%s %s\n", took < 0 ? "FAIL" : "ok  ", blackhole_checks[i].name);
        failed += took < 0;
    }
    return failed != 0;
}
