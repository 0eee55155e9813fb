/*
 * timers.c - a clock that shows the time, a timer that is cancelled, and one that is pushed back.
 *
 *     cc examples/timers.c -o timers && ./timers
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>
#include <time.h>

#define TICK AIOLOOP_MS(500)
#define IDLE AIOLOOP_MS(800)

struct state {
    int ticks_left;
    aioloop_time next_tick;
    aioloop_timer_handle idle;
};

/* A timer fires once, and re-arms itself. Counting from when it was due, not from now, keeps the clock from drifting. */
static void tick(aioloop *loop, void *arg) {
    struct state *state = (struct state *)arg;
    time_t now = time(NULL);
    char text[32];
    aioloop_timer_handle timer;
    strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", localtime(&now));
    printf("%s\n", text);

    /* Something happened, so the idle timer starts anew. To a later time this costs next to nothing. */
    aioloop_timer_handle_reschedule(&state->idle, aioloop_now(loop) + IDLE);

    if (--state->ticks_left == 0)
        return;
    state->next_tick += TICK;
    timer = aioloop_call_at(loop, state->next_tick, tick, state);
    if (aioloop_handle_is_null(&timer.handle))
        aioloop_raise(loop, AIOLOOP_EFATAL, "out of memory"); /* ends the run */
}

static void idle(aioloop *loop, void *arg) {
    (void)arg;
    printf("nothing happened for %d ms: the end\n", (int)(IDLE / AIOLOOP_MS(1)));
    aioloop_stop(loop);
}

static void never(aioloop *loop, void *arg) {
    (void)loop;
    (void)arg;
    printf("this is never seen\n");
}

int main(void) {
    struct state state;
    aioloop_timer_handle first, cancelled;
    int error;
    aioloop *loop = aioloop_new_event_loop(NULL);
    if (loop == NULL) {
        fprintf(stderr, "timers: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    state.ticks_left = 4;
    state.next_tick = aioloop_now(loop);
    first = aioloop_call_at(loop, state.next_tick, tick, &state);
    state.idle = aioloop_call_later(loop, IDLE, idle, NULL);
    cancelled = aioloop_call_later(loop, AIOLOOP_SECONDS(0.7), never, NULL);
    if (aioloop_handle_is_null(&first.handle) || aioloop_handle_is_null(&state.idle.handle)) {
        fprintf(stderr, "timers: %s\n", aioloop_error_message(aioloop_last_error(loop)));
        aioloop_free(loop);
        return 1;
    }
    aioloop_timer_handle_cancel(&cancelled); /* harmless on any handle: null, run, or cancelled */

    error = aioloop_run_forever(loop);
    if (error < 0)
        fprintf(stderr, "timers: %s\n", aioloop_strerror(error));
    aioloop_free(loop);
    return error < 0;
}
