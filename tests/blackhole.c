/*
 * blackhole.c - a program whose name server never answers. tests/blackhole.sh makes the network for it.
 *
 *     blackhole [words: only the checks whose name contains one of them]
 *
 * Look-ups that hang are given up at once, and delay nothing: no other look-up, no thread of the executor, no timer,
 * neither the end of the loop nor that of the program. Each check is a process of its own, which has to end in time. It runs on
 * the back end of AIOLOOP_BACKEND. Prints the checks; what is wrong ends it with 1.
 */
#define AIOLOOP_IMPLEMENTATION
#include "aioloop.h"

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
