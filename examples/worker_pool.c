/*
 * worker_pool.c - jobs in a queue, and a few workers that take them: at most that many are under way at once.
 *
 *     cc examples/worker_pool.c -o worker_pool && ./worker_pool 20 3
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>
#include <stdlib.h>

struct job {
    int number;
    int milliseconds;
};

struct pool {
    aioloop_queue *queue;
    int jobs;
    int workers;
    int done;
};

/* Works until the queue is shut down and empty. */
static int64_t worker(aioloop *loop, void *arg, void **out) {
    struct pool *pool = (struct pool *)arg;
    struct job *job = NULL;
    int64_t n;
    (void)out;
    while ((n = aioloop_await(aioloop_queue_get(pool->queue), &job)) >= 0) {
        n = aioloop_await(aioloop_sleep(loop, AIOLOOP_MS(job->milliseconds)), NULL); /* the work */
        printf("%s: job %d, %d ms\n", aioloop_task_get_name(aioloop_current_task(loop)), job->number, job->milliseconds);
        free(job);
        pool->done++;
        aioloop_queue_task_done(pool->queue);
        if (n < 0)
            return n; /* cancelled */
    }
    return n == AIOLOOP_EQUEUESHUTDOWN ? 0 : n;
}

/* The queue is short: putting waits when the workers cannot keep up. */
static int64_t produce(struct pool *pool) {
    int i;
    for (i = 0; i < pool->jobs; i++) {
        struct job *job = (struct job *)malloc(sizeof(*job));
        int64_t n;
        if (job == NULL)
            return AIOLOOP_ENOMEM;
        job->number = i;
        job->milliseconds = 5 + 20 * (i % 3);
        n = aioloop_await(aioloop_queue_put(pool->queue, job, free), NULL); /* from here on the job is the queue's */
        if (n < 0)
            return n;
    }
    return 0;
}

static int64_t run(aioloop *loop, void *arg, void **out) {
    struct pool *pool = (struct pool *)arg;
    aioloop_queue_options options = AIOLOOP_ZERO;
    aioloop_task_group *group;
    int64_t n;
    int i;
    (void)out;
    options.maxsize = 4;
    pool->queue = aioloop_queue_new(loop, &options);
    group = aioloop_task_group_enter(loop);
    if (pool->queue == NULL || group == NULL)
        return AIOLOOP_ENOMEM; /* what was made goes with the loop */
    for (i = 0; i < pool->workers; i++) {
        aioloop_task_options task = AIOLOOP_ZERO;
        char name[32];
        snprintf(name, sizeof(name), "worker %d", i + 1);
        task.name = name;
        aioloop_future_unref(aioloop_task_group_create_task(group, worker, pool, &task)); /* the group waits for it */
    }
    n = produce(pool);
    aioloop_queue_shutdown(pool->queue, false);
    n = aioloop_await(aioloop_task_group_exit(group, n), NULL);
    aioloop_queue_free(pool->queue);
    return n < 0 ? n : pool->done;
}

int main(int argc, char **argv) {
    struct pool pool = {NULL, argc > 1 ? atoi(argv[1]) : 20, argc > 2 ? atoi(argv[2]) : 3, 0};
    int64_t n = aioloop_run(run, &pool, NULL);
    if (n < 0) {
        fprintf(stderr, "%s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    printf("%d jobs done by %d workers\n", (int)n, pool.workers);
    return 0;
}
