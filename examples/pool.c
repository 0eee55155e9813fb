/*
 * pool.c - counts primes in a thread pool, while the loop ticks.
 *
 *     cc examples/pool.c -o pool -lpthread && ./pool
 *
 * What takes long, or blocks, runs in other threads; the coroutine waits for it as for anything else.
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>

enum { PARTS = 8, PART = 200000 };

/* In a thread of the pool. arg is the job's own copy of its number. */
static int64_t count_primes(void *arg, void **out) {
    int first = *(const int *)arg * PART;
    int64_t count = 0;
    (void)out;
    for (int n = first < 2 ? 2 : first; n < first + PART; n++) {
        int divisor = 2;
        while (divisor * divisor <= n && n % divisor != 0)
            divisor++;
        count += divisor * divisor > n;
    }
    return count;
}

static void tick(aioloop *loop, void *arg) {
    (void)arg;
    printf("(the loop is free meanwhile)\n");
    aioloop_call_later(loop, AIOLOOP_MS(100), tick, NULL);
}

static int64_t count(aioloop *loop, void *arg, void **out) {
    aioloop_executor_options options = AIOLOOP_ZERO;
    aioloop_future *parts[PARTS];
    int64_t all = 0;
    (void)arg;
    (void)out;
    options.copy_size = sizeof(int);
    for (int i = 0; i < PARTS; i++)
        parts[i] = aioloop_to_thread(loop, count_primes, &i, &options);
    aioloop_call_later(loop, 0, tick, NULL);
    for (int i = 0; i < PARTS; i++) {
        int64_t n = aioloop_await(parts[i], NULL);
        if (n < 0)
            return n;
        all += n;
    }
    printf("%lld primes below %d\n", (long long)all, PARTS * PART);
    return 0;
}

int main(void) {
    int64_t n = aioloop_run(count, NULL, NULL);
    if (n < 0)
        fprintf(stderr, "pool: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
    return n < 0;
}
