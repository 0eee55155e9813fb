/*
 * threads.c - a worker thread computes, and posts its results to the loop.
 *
 *     cc examples/threads.c -o threads -lpthread && ./threads
 *
 * A loop belongs to one thread. The one call for all others is aioloop_call_soon_threadsafe.
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct result {
    int below;
    int primes;
};

/* In the loop's thread. */
static void show(aioloop *loop, void *arg) {
    struct result *result = (struct result *)arg;
    (void)loop;
    printf("%d primes below %d\n", result->primes, result->below);
    free(result);
}

static void finished(aioloop *loop, void *arg) {
    (void)arg;
    aioloop_stop(loop);
}

static int count_primes(int below) {
    int count = 0;
    for (int n = 2; n < below; n++) {
        int divisor = 2;
        while (divisor * divisor <= n && n % divisor != 0)
            divisor++;
        count += divisor * divisor > n;
    }
    return count;
}

/* In the worker's thread. */
static void *work(void *arg) {
    aioloop *loop = (aioloop *)arg;
    aioloop_handle posted;
    for (int below = 10; below <= 1000000; below *= 10) {
        struct result *result = (struct result *)malloc(sizeof(*result));
        if (result == NULL)
            break;
        result->below = below;
        result->primes = count_primes(below);
        posted = aioloop_call_soon_threadsafe(loop, show, result);
        if (aioloop_handle_is_null(&posted)) { /* no memory, or the loop is closed: nobody will free it but us */
            free(result);
            break;
        }
    }
    /* Posts of one thread arrive in order, so this one comes last. */
    posted = aioloop_call_soon_threadsafe(loop, finished, NULL);
    if (aioloop_handle_is_null(&posted))
        fprintf(stderr, "threads: cannot tell the loop\n");
    return NULL;
}

static void still_alive(aioloop *loop, void *arg) {
    (void)arg;
    printf("(the loop is free meanwhile)\n");
    aioloop_call_later(loop, AIOLOOP_MS(100), still_alive, NULL);
}

int main(void) {
    pthread_t worker;
    int error;
    aioloop *loop = aioloop_new_event_loop(NULL);
    if (loop == NULL) {
        fprintf(stderr, "threads: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    aioloop_call_later(loop, AIOLOOP_MS(100), still_alive, NULL);
    if (pthread_create(&worker, NULL, work, loop) != 0) {
        fprintf(stderr, "threads: no thread\n");
        aioloop_free(loop);
        return 1;
    }
    error = aioloop_run_forever(loop);
    pthread_join(worker, NULL); /* before the loop is freed: the worker may be about to post */
    if (error < 0)
        fprintf(stderr, "threads: %s\n", aioloop_strerror(error));
    aioloop_free(loop);
    return error < 0;
}
