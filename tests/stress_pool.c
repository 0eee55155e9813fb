/*
 * stress_pool.c - threads with a loop each, which give functions to one pool: a million of them, some cancelled before
 * they begin and some while they run. Every result is checked, and everything that was made has to be disposed of.
 *
 *     build/default/stress_pool [--jobs 1000000] [--threads 8] [--workers 4] [--processes]
 *
 * With --processes it is a pool of processes, of which one dies now and then.
 */
#define AIOLOOP_IMPLEMENTATION
#include "aioloop.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { WINDOW = 64, THREADS_MAX = 64 };

static long jobs_in_all = 1000000;
static int thread_count = 8;
static int worker_count = 4;
static bool in_processes;
static aioloop_thread_pool *pool;
static aioloop_process_pool *process_pool;

/* By the pool's threads. */
static long ran;
static long results_made;
/* By whoever lets go of something. */
static long results_freed;
static long disposed;

typedef struct user user;

typedef struct place {
    user *owner;
    aioloop_future *future;
    uint32_t number;
} place;

struct user {
    pthread_t thread;
    aioloop *loop;
    place places[WINDOW];
    uint32_t chance;
    long to_submit;
    long left;
    long submitted, finished, cancelled, died, wrong, failed;
};

static void count(long *counter) {
    __atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST);
}

static uint32_t next_chance(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* What a function answers to a number. */
static uint32_t answer_to(uint32_t number) {
    int i;
    for (i = 0; i < 20; i++)
        number = (number ^ (number >> 15)) * 2246822519u;
    return number;
}

/* ---- in the pool ---- */

static int64_t work(void *arg, void **out) {
    uint32_t number = *(const uint32_t *)arg;
    count(&ran);
    if (number % 16 == 0)
        sched_yield(); /* so that some are cancelled here */
    if (number % 4 == 0) {
        uint32_t *result = (uint32_t *)malloc(sizeof(*result));
        if (result == NULL)
            return AIOLOOP_ENOMEM;
        *result = number;
        count(&results_made);
        *out = result;
    }
    return answer_to(number);
}

static int64_t work_in_process(const void *input, size_t size, aioloop_output *out) {
    uint32_t number;
    (void)size;
    memcpy(&number, input, sizeof(number));
    if (number % 5000 == 0)
        raise(SIGKILL);
    if (number % 4 == 0)
        aioloop_output_write(out, &number, sizeof(number));
    return answer_to(number);
}

static void dispose(void *arg) {
    (void)arg;
    count(&disposed);
}

static void dispose_result(void *pointer) {
    count(&results_freed);
    free(pointer);
}

/* ---- in the users' threads ---- */

static void submit(place *p);

static void check(place *p, aioloop_future *f) {
    user *u = p->owner;
    void *pointer = NULL;
    int64_t n = aioloop_future_result(f, &pointer);
    if (n == AIOLOOP_ECANCELED) {
        u->cancelled++;
        return;
    }
    if (n == AIOLOOP_EBROKENPROCESS && in_processes && p->number % 5000 == 0) {
        u->died++;
        return;
    }
    u->finished++;
    if (n != answer_to(p->number) || (pointer != NULL) != (p->number % 4 == 0))
        u->wrong++;
    if (pointer == NULL)
        return;
    if (in_processes) {
        aioloop_output *out = (aioloop_output *)pointer;
        if (out->size != sizeof(p->number) || memcmp(out->data, &p->number, out->size) != 0)
            u->wrong++;
        aioloop_output_free(out);
    } else {
        if (*(uint32_t *)pointer != p->number)
            u->wrong++;
        dispose_result(pointer);
    }
}

static void over(aioloop_future *f, void *arg) {
    place *p = (place *)arg;
    check(p, f);
    aioloop_future_unref(f);
    p->future = NULL;
    if (--p->owner->left == 0)
        aioloop_stop(p->owner->loop);
    else
        submit(p);
}

static void give_up(user *u) {
    u->failed++;
    aioloop_stop(u->loop);
}

static void submit(place *p) {
    user *u = p->owner;
    uint32_t chance = next_chance(&u->chance);
    aioloop_executor_options options = AIOLOOP_ZERO;
    aioloop_future *f;
    if (u->to_submit == 0)
        return;
    u->to_submit--;
    p->number = next_chance(&u->chance);
    options.copy_size = sizeof(p->number);
    options.dispose = dispose;
    options.dispose_result = dispose_result;
    f = in_processes ? aioloop_run_in_process(u->loop, process_pool, work_in_process, &p->number, sizeof(p->number))
                     : aioloop_run_in_executor(u->loop, pool, work, &p->number, &options);
    p->future = aioloop_future_ref(f);
    u->submitted++;
    if (aioloop_future_add_done_callback(f, over, p) < 0) {
        give_up(u);
        return;
    }
    if (chance % 16 == 0) {
        aioloop_future_cancel(f, NULL); /* as a rule before it begins */
    } else if (chance % 16 == 1) {
        place *other = &u->places[next_chance(&u->chance) % WINDOW]; /* in any state */
        if (other->future != NULL)
            aioloop_future_cancel(other->future, NULL);
    }
}

static void *user_main(void *arg) {
    user *u = (user *)arg;
    int i;
    u->loop = aioloop_new_event_loop(NULL);
    if (u->loop == NULL) {
        u->failed++;
        return NULL;
    }
    u->left = u->to_submit;
    for (i = 0; i < WINDOW; i++) {
        u->places[i].owner = u;
        submit(&u->places[i]);
    }
    if (u->left != 0 && u->failed == 0 && aioloop_run_forever(u->loop) < 0)
        u->failed++;
    aioloop_free(u->loop); /* while cancelled ones may still run */
    return NULL;
}

/* ---- all of it ---- */

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool parse(int argc, char **argv) {
    int i;
    for (i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--processes") == 0)
            in_processes = true;
        else if (i + 1 < argc && strcmp(argv[i], "--jobs") == 0)
            jobs_in_all = atol(argv[++i]);
        else if (i + 1 < argc && strcmp(argv[i], "--threads") == 0)
            thread_count = atoi(argv[++i]);
        else if (i + 1 < argc && strcmp(argv[i], "--workers") == 0)
            worker_count = atoi(argv[++i]);
        else
            return false;
    }
    return jobs_in_all > 0 && thread_count > 0 && thread_count <= THREADS_MAX && worker_count > 0;
}

static bool make_pool(void) {
    aioloop_thread_pool_options options = AIOLOOP_ZERO;
    aioloop_process_pool_options process_options = AIOLOOP_ZERO;
    options.max_workers = process_options.max_workers = worker_count;
    if (in_processes)
        process_pool = aioloop_process_pool_new(&process_options);
    else
        pool = aioloop_thread_pool_new(&options);
    return pool != NULL || process_pool != NULL;
}

/* What each user has counted, and whether it adds up with the rest. */
static bool add_up(const user *users, double took) {
    user sum;
    int i;
    bool good;
    memset(&sum, 0, sizeof(sum));
    for (i = 0; i < thread_count; i++) {
        sum.submitted += users[i].submitted;
        sum.finished += users[i].finished;
        sum.cancelled += users[i].cancelled;
        sum.died += users[i].died;
        sum.wrong += users[i].wrong;
        sum.failed += users[i].failed;
    }
    good = sum.failed == 0 && sum.wrong == 0 && sum.submitted == jobs_in_all &&
           sum.finished + sum.cancelled + sum.died == jobs_in_all;
    if (!in_processes)
        good = good && disposed == jobs_in_all && results_made == results_freed && ran >= sum.finished &&
               ran <= jobs_in_all;
    printf("%ld jobs of %d threads in %d workers: %.2f s, %.0f ns each; %ld finished, %ld cancelled", sum.submitted,
           thread_count, worker_count, took, took * 1e9 / (double)jobs_in_all, sum.finished, sum.cancelled);
    if (in_processes)
        printf(", %ld died", sum.died);
    else
        printf(" (%ld of them ran)", ran - sum.finished);
    printf("; %ld wrong, %ld failures%s\n", sum.wrong, sum.failed, good ? "" : ": IT DOES NOT ADD UP");
    return good;
}

int main(int argc, char **argv) {
    static user users[THREADS_MAX];
    double begun;
    double took;
    int i;
    if (!parse(argc, argv)) {
        fprintf(stderr, "usage: %s [--jobs N] [--threads N] [--workers N] [--processes]\n", argv[0]);
        return 2;
    }
    if (!make_pool()) {
        fprintf(stderr, "no pool: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    begun = seconds();
    for (i = 0; i < thread_count; i++) {
        users[i].chance = (uint32_t)i + 1;
        users[i].to_submit = jobs_in_all / thread_count + (i < jobs_in_all % thread_count);
        if (pthread_create(&users[i].thread, NULL, user_main, &users[i]) != 0)
            return 1;
    }
    for (i = 0; i < thread_count; i++)
        pthread_join(users[i].thread, NULL);
    took = seconds() - begun;
    aioloop_thread_pool_free(pool);
    aioloop_process_pool_free(process_pool);
    return add_up(users, took) ? 0 : 1;
}
