/*
 * signals.c - Ctrl-C and kill print the name of the signal and stop the loop, while the program sleeps for an hour.
 *
 *     cc examples/signals.c -o signals && ./signals
 *
 * Without the handlers Ctrl-C would cancel the coroutine, and aioloop_run would say AIOLOOP_EINTERRUPTED.
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static int stopped;

/* A callback like any other: it may print, write to connections, cancel tasks. */
static void ask_exit(aioloop *loop, void *arg) {
    printf("got signal %s: exit\n", (const char *)arg);
    stopped = 1;
    aioloop_stop(loop);
}

static int64_t sleeper(aioloop *loop, void *arg, void **out) {
    static char names[][8] = {"SIGINT", "SIGTERM"};
    int error = aioloop_add_signal_handler(loop, SIGINT, ask_exit, names[0]);
    (void)arg;
    (void)out;
    if (error == 0)
        error = aioloop_add_signal_handler(loop, SIGTERM, ask_exit, names[1]);
    if (error < 0)
        return error;
    printf("running for an hour, press Ctrl-C to interrupt\n");
    printf("pid %ld: send SIGINT or SIGTERM to exit\n", (long)getpid());
    fflush(stdout);
    return aioloop_await(aioloop_sleep(loop, AIOLOOP_SECONDS(3600)), NULL);
}

int main(void) {
    int64_t n = aioloop_run(sleeper, NULL, NULL);
    if (stopped && n == AIOLOOP_EMISUSE) /* "the loop was stopped before the future completed": as we asked */
        n = 0;
    if (n < 0)
        fprintf(stderr, "signals: %s\n", aioloop_message(NULL, n));
    return n < 0;
}
