/*
 * futures.c - results that come later: made, waited for, followed, cancelled, failed.
 *
 *     cc examples/futures.c -o futures && ./futures
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the side that promises ---- */

/* A result is a number and, if there is more, a pointer with the function that ends it if nobody takes it. */
static void deliver(aioloop *loop, void *arg) {
    aioloop_future *future = (aioloop_future *)arg;
    char *text = (char *)malloc(16);
    (void)loop;
    if (text == NULL) {
        aioloop_future_set_exception(future, AIOLOOP_ENOMEM, NULL);
        return;
    }
    strcpy(text, "forty-two");
    if (aioloop_future_set_result(future, 42, text, free) < 0)
        free(text); /* it was done already, for example cancelled: the text is still ours */
}

static void fail(aioloop *loop, void *arg) {
    (void)loop;
    aioloop_future_set_exception((aioloop_future *)arg, AIOLOOP_ENOENT, "no answer to question %d", 7);
}

static void cancel(aioloop *loop, void *arg) {
    (void)loop;
    aioloop_future_cancel((aioloop_future *)arg, "changed our mind");
}

/* ---- the side that waits ---- */

static void connected(aioloop_future *future, void *arg) {
    (void)arg;
    if (aioloop_future_exception(future) < 0)
        printf("then: %s\n", aioloop_error_message(aioloop_future_error(future)));
    aioloop_stop(aioloop_future_get_loop(future));
}

/* Runs the loop until the future is done, and prints what became of it. */
static void wait_for(aioloop *loop, aioloop_future *future) {
    char *text = NULL;
    int64_t result = aioloop_run_until_complete(loop, future, &text);
    if (result < 0)
        printf("%s: %s\n", aioloop_error_name((int)result), aioloop_error_message(aioloop_last_error(loop)));
    else
        printf("result: %lld, %s\n", (long long)result, text);
    free(text); /* taking the pointer made it ours */
}

int main(void) {
    static const aioloop_protocol nothing = AIOLOOP_ZERO;
    static const aioloop_callback endings[] = {deliver, fail, cancel};
    int error;
    aioloop *loop = aioloop_new_event_loop(NULL);
    if (loop == NULL) {
        fprintf(stderr, "futures: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }

    /* A future of our own is claimed: uses borrow it, and one unref ends our claim. */
    for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++) {
        aioloop_future *future = aioloop_create_future(loop);
        aioloop_call_later(loop, AIOLOOP_MS(20), endings[i], future);
        wait_for(loop, future);
        aioloop_future_unref(future);
    }

    /* A future that a call returned is unclaimed: handing it to one use is all there is to do. Nothing listens at port 1. */
    error = aioloop_future_then(aioloop_create_connection(loop, &nothing, NULL, "127.0.0.1", 1, NULL), connected, NULL);
    if (error == 0)
        error = aioloop_run_forever(loop);
    if (error < 0)
        fprintf(stderr, "futures: %s\n", aioloop_strerror(error));
    aioloop_free(loop);
    return error < 0;
}
