/*
 * foreign_loop.c - a program that has a main loop already (a GUI, a game, another library), here poll() over standard
 * input. The event loop is one more descriptor and one more deadline in it.
 *
 *     cc examples/foreign_loop.c -o foreign_loop && ./foreign_loop
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <poll.h>
#include <stdio.h>
#include <unistd.h>

static int beats;

static void beat(aioloop *loop, void *arg) {
    (void)arg;
    printf("beat %d\n", ++beats);
    aioloop_call_later(loop, AIOLOOP_MS(300), beat, NULL);
}

/* How long poll may sleep, in milliseconds, rounded up. */
static int patience(aioloop *loop, bool has_descriptor) {
    aioloop_time next = aioloop_next_deadline(loop);
    aioloop_time left = next == AIOLOOP_FOREVER ? AIOLOOP_SECONDS(60) : next - aioloop_now(loop);
    if (left > AIOLOOP_SECONDS(60))
        left = AIOLOOP_SECONDS(60);
    if (!has_descriptor && left > AIOLOOP_MS(10))
        left = AIOLOOP_MS(10); /* nothing wakes us: look now and then */
    return left <= 0 ? 0 : (int)((left + AIOLOOP_MS(1) - 1) / AIOLOOP_MS(1));
}

int main(void) {
    aioloop *loop = aioloop_new_event_loop(NULL);
    int result = 0;
    int descriptor;
    bool input = true;
    if (loop == NULL) {
        fprintf(stderr, "foreign_loop: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    descriptor = aioloop_backend_fd(loop); /* below 0 on poll and select, which have none */
    printf("back end %s; type something\n", aioloop_backend_name(loop));
    aioloop_call_soon(loop, beat, NULL);

    while (result >= 0 && beats < 6) {
        struct pollfd watched[2];
        watched[0].fd = input ? STDIN_FILENO : -1; /* poll ignores those below 0 */
        watched[0].events = POLLIN;
        watched[1].fd = descriptor < 0 ? -1 : descriptor;
        watched[1].events = POLLIN;
        if (poll(watched, 2, patience(loop, descriptor >= 0)) > 0 && input && watched[0].revents != 0) {
            char text[256];
            ssize_t size = read(STDIN_FILENO, text, sizeof(text));
            input = size > 0;
            if (input)
                printf("you typed %d bytes\n", (int)size);
        }
        /* Everything that is due and ready, without waiting. 1: there is more, at once. */
        while ((result = aioloop_run_once(loop, 0)) == 1)
            ;
    }
    if (result < 0)
        fprintf(stderr, "foreign_loop: %s\n", aioloop_strerror(result));
    aioloop_free(loop);
    return result < 0;
}
