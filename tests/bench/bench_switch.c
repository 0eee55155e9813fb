/*
 * bench_switch.c - what it costs to change stacks, and to hand over between tasks. Best of many rounds, in nanoseconds.
 *
 *     cc -O2 -I. tests/bench/bench_switch.c -o bench_switch && ./bench_switch
 */
#define AIOLOOP_IMPLEMENTATION
#define AIOLOOP_STATIC
#include "aioloop.h"

#define ROUNDS 200
#define EACH 20000

static int64_t forever(aioloop *loop, void *arg, void **out) {
    (void)arg;
    (void)out;
    while (loop->coro != NULL)
        aiol_coro_leave(loop->coro);
    return 0;
}

static double bench_switch(aioloop *loop) {
    aiol_coro *co = aiol_coro_new(loop, NULL, 0);
    aioloop_time best = AIOLOOP_FOREVER;
    int round;
    int i;
    co->fn = forever;
    aiol_thread.running = loop;
    for (round = 0; round < ROUNDS; round++) {
        aioloop_time start = aioloop_now(loop);
        for (i = 0; i < EACH; i++)
            aiol_coro_enter(loop, co);
        if (aioloop_now(loop) - start < best)
            best = aioloop_now(loop) - start;
    }
    aiol_thread.running = NULL;
    aiol_coro_free(loop, co, true);
    return (double)best / EACH;
}

static int64_t yielding(aioloop *loop, void *arg, void **out) {
    int i;
    (void)arg;
    (void)out;
    for (i = 0; i < EACH; i++)
        aioloop_await(aioloop_sleep(loop, 0), NULL);
    return 0;
}

static aioloop_future *turns[2];

static int64_t handing(aioloop *loop, void *arg, void **out) {
    int me = arg != NULL;
    int i;
    (void)out;
    for (i = 0; i < EACH; i++) {
        aioloop_await(turns[me], NULL);
        aioloop_future_unref(turns[me]);
        turns[me] = aioloop_create_future(loop);
        aioloop_future_set_result(turns[!me], 0, NULL, NULL);
    }
    return 0;
}

static int64_t nothing(aioloop *loop, void *arg, void **out) {
    (void)loop;
    (void)arg;
    (void)out;
    return 0;
}

static double bench_tasks(aioloop *loop, aioloop_coroutine fn) {
    aioloop_time best = AIOLOOP_FOREVER;
    int round;
    for (round = 0; round < ROUNDS / 4; round++) {
        aioloop_future *tasks[2];
        aioloop_time start = aioloop_now(loop);
        turns[0] = aioloop_create_future(loop);
        turns[1] = aioloop_create_future(loop);
        tasks[0] = aioloop_create_task(loop, fn, NULL, NULL);
        tasks[1] = aioloop_create_task(loop, fn, (void *)loop, NULL);
        if (fn == handing)
            aioloop_future_set_result(turns[0], 0, NULL, NULL);
        aioloop_run_until_complete(loop, aioloop_gather(loop, tasks, 2, false), NULL);
        if (aioloop_now(loop) - start < best)
            best = aioloop_now(loop) - start;
        aioloop_future_unref(turns[0]);
        aioloop_future_unref(turns[1]);
    }
    return (double)best / EACH;
}

static int64_t creating(aioloop *loop, void *arg, void **out) {
    aioloop_task_options eager = AIOLOOP_ZERO;
    int i;
    (void)arg;
    (void)out;
    eager.eager = true;
    for (i = 0; i < EACH; i++)
        aioloop_await(aioloop_create_task(loop, nothing, NULL, &eager), NULL);
    return 0;
}

int main(void) {
    aioloop *loop = aioloop_new_event_loop(NULL);
    if (loop == NULL)
        return 1;
    printf("switch there and back       %6.1f\n", bench_switch(loop));
    printf("two tasks yield in turn     %6.1f a pair\n", bench_tasks(loop, yielding));
    printf("two tasks hand over futures %6.1f a pair\n", bench_tasks(loop, handing));
    printf("eager task, made and ended  %6.1f\n", bench_tasks(loop, creating) / 2);
    aioloop_free(loop);
    return 0;
}
