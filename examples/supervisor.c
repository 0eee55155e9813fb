/*
 * supervisor.c - keeps a program running: starts it again when it ends, later each time it fails soon, and stops it cleanly.
 *
 *     ./supervisor ./server --port 80
 *
 * A child that ran for ten seconds is started again at once; one that ended sooner after 0.1 s, 0.2 s, 0.4 s and so on, up to
 * 10 s. SIGTERM and SIGINT end the child by SIGTERM, and by SIGKILL if it has not listened for five seconds.
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <signal.h>
#include <stdio.h>

#define SHORTEST AIOLOOP_MS(100)
#define LONGEST AIOLOOP_SECONDS(10)
#define STEADY AIOLOOP_SECONDS(10)
#define PATIENCE AIOLOOP_SECONDS(5)

typedef struct supervisor {
    aioloop *loop;
    const char *const *args;
    aioloop_subprocess *child; /* NULL: none runs */
    aioloop_time started;
    aioloop_time pause; /* before the next start */
    aioloop_timer_handle timer; /* of the next start, or of the end of patience */
    bool stopping;
} supervisor;

static void start(aioloop *loop, void *arg);

static void start_later(supervisor *s) {
    fprintf(stderr, "supervisor: again in %.1f s\n", (double)s->pause / 1e9);
    s->timer = aioloop_call_later(s->loop, s->pause, start, s);
    s->pause = s->pause * 2 < LONGEST ? s->pause * 2 : LONGEST;
}

static void child_made(aioloop_subprocess *child, void *self) {
    supervisor *s = (supervisor *)self;
    s->child = child;
    s->started = aioloop_now(s->loop);
    fprintf(stderr, "supervisor: %s is process %d\n", s->args[0], aioloop_subprocess_get_pid(child));
}

static void child_lost(aioloop_subprocess *child, void *self, int error) {
    supervisor *s = (supervisor *)self;
    int code = 0;
    (void)error;
    aioloop_subprocess_get_returncode(child, &code);
    fprintf(stderr, "supervisor: it has ended with %d\n", code);
    s->child = NULL;
    if (s->stopping) {
        aioloop_stop(s->loop);
        return;
    }
    if (aioloop_now(s->loop) - s->started >= STEADY)
        s->pause = SHORTEST;
    start_later(s);
}

static void started(aioloop_future *future, void *arg) {
    supervisor *s = (supervisor *)arg;
    int code = aioloop_future_exception(future);
    if (code == 0)
        return;
    fprintf(stderr, "supervisor: %s\n", aioloop_error_message(aioloop_future_error(future)));
    if (s->stopping)
        aioloop_stop(s->loop);
    else
        start_later(s);
}

static void start(aioloop *loop, void *arg) {
    supervisor *s = (supervisor *)arg;
    static aioloop_subprocess_protocol protocol;
    aioloop_subprocess_options options = AIOLOOP_ZERO;
    protocol.connection_made = child_made;
    protocol.connection_lost = child_lost;
    options.std_in = AIOLOOP_STDIO_DEVNULL;
    options.std_out = AIOLOOP_STDIO_INHERIT;
    options.std_err = AIOLOOP_STDIO_INHERIT;
    options.process_group = -1; /* the terminal's SIGINT is ours to pass on */
    if (aioloop_future_then(aioloop_subprocess_exec(loop, &protocol, s, s->args, &options), started, s) < 0)
        aioloop_stop(loop);
}

/* ---- stopping ---- */

static void patience_is_over(aioloop *loop, void *arg) {
    supervisor *s = (supervisor *)arg;
    (void)loop;
    fprintf(stderr, "supervisor: it does not listen\n");
    aioloop_subprocess_kill(s->child);
}

/* The handler of both signals: a callback of the loop. */
static void stop(aioloop *loop, void *arg) {
    supervisor *s = (supervisor *)arg;
    if (s->stopping)
        return;
    s->stopping = true;
    aioloop_timer_handle_cancel(&s->timer);
    if (s->child == NULL) {
        aioloop_stop(loop);
        return;
    }
    aioloop_subprocess_terminate(s->child);
    s->timer = aioloop_call_later(loop, PATIENCE, patience_is_over, s);
}

int main(int argc, char **argv) {
    supervisor s = AIOLOOP_ZERO;
    int64_t rc;
    if (argc < 2) {
        fprintf(stderr, "usage: supervisor PROGRAM [ARGUMENTS]\n");
        return 2;
    }
    s.args = (const char *const *)(argv + 1);
    s.pause = SHORTEST;
    s.loop = aioloop_new_event_loop(NULL);
    if (s.loop == NULL) {
        fprintf(stderr, "supervisor: no loop\n");
        return 1;
    }
    rc = aioloop_add_signal_handler(s.loop, SIGTERM, stop, &s);
    if (rc >= 0)
        rc = aioloop_add_signal_handler(s.loop, SIGINT, stop, &s);
    if (rc >= 0) {
        start(s.loop, &s);
        rc = aioloop_run_forever(s.loop);
    }
    if (rc < 0)
        fprintf(stderr, "supervisor: %s\n", aioloop_error_message(aioloop_last_error(s.loop)));
    aioloop_free(s.loop);
    return rc < 0;
}
