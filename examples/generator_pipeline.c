/*
 * generator_pipeline.c - values that flow through stages: numbers, their squares, the running sum.
 *
 *     cc examples/generator_pipeline.c -o generator_pipeline && ./generator_pipeline
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>

/* Without end: it is closed by who has had enough. */
static int64_t numbers(aioloop *loop, void *arg, void **out) {
    int64_t n = 0;
    (void)arg;
    (void)out;
    for (int64_t i = 1; n >= 0; i++)
        n = aioloop_yield(loop, i, NULL);
    printf("numbers: %s\n", aioloop_strerror((int)n));
    return n;
}

/* A stage takes from its source, and passes on what ends it: the source's end, an error, the request to close. Then it
 * closes its source, for which it is responsible. */
static int64_t stage_end(aioloop_generator *source, int64_t n) {
    (void)aioloop_await(aioloop_generator_aclose(source), NULL);
    aioloop_generator_unref(source);
    return n;
}

static int64_t squares(aioloop *loop, void *arg, void **out) {
    aioloop_generator *source = (aioloop_generator *)arg;
    int64_t n;
    (void)out;
    do {
        n = aioloop_await(aioloop_generator_anext(source), NULL);
        if (n >= 0)
            n = aioloop_yield(loop, n * n, NULL);
    } while (n >= 0);
    return stage_end(source, n);
}

/* The slow one: a stage may wait for anything. */
static int64_t running_sum(aioloop *loop, void *arg, void **out) {
    aioloop_generator *source = (aioloop_generator *)arg;
    int64_t sum = 0;
    int64_t n;
    (void)out;
    do {
        n = aioloop_await(aioloop_generator_anext(source), NULL);
        if (n >= 0) {
            sum += n;
            n = aioloop_await(aioloop_sleep(loop, AIOLOOP_MS(20)), NULL);
        }
        if (n >= 0)
            n = aioloop_yield(loop, sum, NULL);
    } while (n >= 0);
    return stage_end(source, n);
}

static int64_t consume(aioloop *loop, void *arg, void **out) {
    aioloop_generator *sums;
    int64_t n;
    (void)arg;
    (void)out;
    sums = aioloop_generator_new(loop, numbers, NULL, NULL);
    if (sums != NULL)
        sums = aioloop_generator_new(loop, squares, sums, NULL);
    if (sums != NULL)
        sums = aioloop_generator_new(loop, running_sum, sums, NULL);
    if (sums == NULL)
        return aioloop_error_code(aioloop_last_error(loop));
    while ((n = aioloop_await(aioloop_generator_anext(sums), NULL)) >= 0) {
        printf("sum: %lld\n", (long long)n);
        if (n > 100)
            break; /* enough */
    }
    n = aioloop_await(aioloop_generator_aclose(sums), NULL); /* all the way up */
    aioloop_generator_unref(sums);
    return n;
}

int main(void) {
    int64_t n = aioloop_run(consume, NULL, NULL);
    if (n < 0)
        fprintf(stderr, "generator_pipeline: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
    return n < 0;
}
