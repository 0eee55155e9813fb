/*
 * bench_tasks.c - the benchmarks of tasks on aioloop, written as a user would write them.
 *
 *     bench_tasks KIND.await --count N            awaits a future that is done
 *     bench_tasks KIND.create --live L --count N  makes N tasks that end at once; L 1: each is awaited; else L at a time, dropped
 *     bench_tasks KIND.gather --live L --count N  the same, L at a time, gathered
 *     bench_tasks KIND.yield --live L --count N   L tasks sleep for 0 s, N times in all
 *     bench_tasks KIND.handover --live L --count N  L pairs of tasks, each completing what the other waits for: N round trips
 *     bench_tasks KIND.queue --live L --count N   two tasks, N items through a queue with room for L
 *     bench_tasks KIND.cancel --live L            L tasks sleep; from the first cancel to the last end
 *     bench_tasks KIND.waiting --live L           L tasks wait for a future each: their memory
 *     bench_tasks stackless.given --live L        L tasks sleep, with frames of the program's (copied: of the task's): their memory
 *     bench_tasks stackful.bare --count N         the library's inside: enters and leaves a stack, without a task
 *     bench_tasks KIND.echo                       a server, as bench.h says, with a task for each connection
 *     bench_tasks sock.echo                       the same by sock_recv and sock_sendall, without transports
 *
 * KIND: stackful or stackless; bench_hand_tasks.c and bench_tasks.py know others.
 */
#define AIOLOOP_IMPLEMENTATION
#include "aioloop.h"
#define BENCH_NO_MAIN
#include "bench.h"

static aioloop *loop;
static const struct bench_args *given;
static struct bench_span span;
static long each; /* how often each of the live tasks does it */
static long running;
static aioloop_future *all_ended;

static void loop_new(const aioloop_config *config) {
    loop = aioloop_new_event_loop(config);
    bench_check(loop != NULL, "aioloop_new_event_loop");
}

static void loop_run(aioloop_future *future) {
    errno = 0;
    bench_check(aioloop_run_until_complete(loop, future, NULL) >= 0, "aioloop_run_until_complete");
}

/* Runs one coroutine, which measures itself. */
static void run_main(const struct bench_args *args, aioloop_coroutine fn) {
    given = args;
    loop_new(NULL);
    loop_run(aioloop_create_task(loop, fn, NULL, NULL));
    bench_print(span, args->count);
    aioloop_free(loop);
}

static void run_main_step(const struct bench_args *args, aioloop_step fn, aioloop_frame *frame) {
    given = args;
    loop_new(NULL);
    loop_run(aioloop_create_task_frame(loop, fn, frame, NULL));
    bench_print(span, args->count);
    aioloop_free(loop);
}

/* Runs tasks that were made, until all of them have called ended. */
static void run_all(const struct bench_args *args) {
    all_ended = aioloop_create_future(loop);
    span = bench_start();
    loop_run(all_ended);
    bench_print(bench_stop(span), args->count);
    aioloop_future_unref(all_ended);
}

static void ended(void) {
    if (--running == 0)
        aioloop_future_set_result(all_ended, 0, NULL, NULL);
}

/* ---- await ---- */

static int64_t await_stackful(aioloop *l, void *arg, void **out) {
    aioloop_future *f = aioloop_create_future(l);
    (void)arg, (void)out;
    aioloop_future_set_result(f, 0, NULL, NULL);
    span = bench_start();
    for (long i = 0; i < given->count; i++)
        bench_check(aioloop_await(f, NULL) == 0, "await");
    span = bench_stop(span);
    aioloop_future_unref(f);
    return 0;
}

static void bench_await_stackful(const struct bench_args *args) {
    run_main(args, await_stackful);
}

struct loop_frame {
    aioloop_frame frame;
    aioloop_frame child;
    long i, k;
    int64_t n;
    aioloop_future *f;
    aioloop_future **tasks;
    aioloop_results *results;
};

static int64_t await_stackless(aioloop *l, aioloop_frame *frame, void **out) {
    struct loop_frame *self = (struct loop_frame *)frame;
    (void)out;
    AIOLOOP_BEGIN(l, frame);
    self->f = aioloop_create_future(l);
    aioloop_future_set_result(self->f, 0, NULL, NULL);
    span = bench_start();
    for (self->i = 0; self->i < given->count; self->i++) {
        AIOLOOP_AWAIT(self->n, self->f, NULL);
        bench_check(self->n == 0, "await");
    }
    span = bench_stop(span);
    aioloop_future_unref(self->f);
    return 0;
    AIOLOOP_END;
}

static void bench_await_stackless(const struct bench_args *args) {
    struct loop_frame frame = AIOLOOP_ZERO;
    run_main_step(args, await_stackless, &frame.frame);
}

/* ---- create ---- */

static int64_t nothing(aioloop *l, void *arg, void **out) {
    (void)l, (void)arg, (void)out;
    return 0;
}

static int64_t nothing_step(aioloop *l, aioloop_frame *frame, void **out) {
    (void)l, (void)frame, (void)out;
    return 0;
}

/* A frame that the caller need not keep. */
static const aioloop_task_options copied = {.copy_size = sizeof(aioloop_frame)};
static aioloop_frame fresh;

static int64_t create_stackful(aioloop *l, void *arg, void **out) {
    (void)arg, (void)out;
    span = bench_start();
    for (long i = 0; i < given->count; i++)
        bench_check(aioloop_await(aioloop_create_task(l, nothing, NULL, NULL), NULL) == 0, "task");
    span = bench_stop(span);
    return 0;
}

static int64_t batches_stackful(aioloop *l, void *arg, void **out) {
    (void)arg, (void)out;
    span = bench_start();
    for (long done = 0; done < given->count; done += given->live) {
        for (long i = 0; i < given->live; i++)
            aioloop_future_unref(aioloop_create_task(l, nothing, NULL, NULL));
        bench_check(aioloop_await(aioloop_sleep(l, 0), NULL) == 0, "sleep");
    }
    span = bench_stop(span);
    return 0;
}

static void bench_create_stackful(const struct bench_args *args) {
    run_main(args, args->live == 1 ? create_stackful : batches_stackful);
}

static int64_t create_stackless(aioloop *l, aioloop_frame *frame, void **out) {
    struct loop_frame *self = (struct loop_frame *)frame;
    (void)out;
    AIOLOOP_BEGIN(l, frame);
    span = bench_start();
    for (self->i = 0; self->i < given->count; self->i++) {
        self->child = fresh;
        AIOLOOP_AWAIT(self->n, aioloop_create_task_frame(l, nothing_step, &self->child, NULL), NULL);
        bench_check(self->n == 0, "task");
    }
    span = bench_stop(span);
    return 0;
    AIOLOOP_END;
}

static int64_t batches_stackless(aioloop *l, aioloop_frame *frame, void **out) {
    struct loop_frame *self = (struct loop_frame *)frame;
    (void)out;
    AIOLOOP_BEGIN(l, frame);
    span = bench_start();
    for (self->i = 0; self->i < given->count; self->i += given->live) {
        for (long i = 0; i < given->live; i++)
            aioloop_future_unref(aioloop_create_task_frame(l, nothing_step, &fresh, &copied));
        AIOLOOP_SLEEP(self->n, 0);
    }
    span = bench_stop(span);
    return 0;
    AIOLOOP_END;
}

static void bench_create_stackless(const struct bench_args *args) {
    struct loop_frame frame = AIOLOOP_ZERO;
    run_main_step(args, args->live == 1 ? create_stackless : batches_stackless, &frame.frame);
}

/* ---- gather ---- */

static aioloop_future **tasks_new(const struct bench_args *args) {
    return (aioloop_future **)bench_alloc((size_t)args->live, sizeof(aioloop_future *));
}

static int64_t gather_stackful(aioloop *l, void *arg, void **out) {
    aioloop_future **tasks = tasks_new(given);
    (void)arg, (void)out;
    span = bench_start();
    for (long done = 0; done < given->count; done += given->live) {
        aioloop_results *results = NULL;
        for (long i = 0; i < given->live; i++)
            tasks[i] = aioloop_create_task(l, nothing, NULL, NULL);
        bench_check(aioloop_await(aioloop_gather(l, tasks, (size_t)given->live, false), &results) == given->live, "gather");
        aioloop_results_free(results);
    }
    span = bench_stop(span);
    free(tasks);
    return 0;
}

static void bench_gather_stackful(const struct bench_args *args) {
    run_main(args, gather_stackful);
}

static int64_t gather_stackless(aioloop *l, aioloop_frame *frame, void **out) {
    struct loop_frame *self = (struct loop_frame *)frame;
    (void)out;
    AIOLOOP_BEGIN(l, frame);
    self->tasks = tasks_new(given);
    span = bench_start();
    for (self->i = 0; self->i < given->count; self->i += given->live) {
        for (long i = 0; i < given->live; i++)
            self->tasks[i] = aioloop_create_task_frame(l, nothing_step, &fresh, &copied);
        AIOLOOP_AWAIT(self->n, aioloop_gather(l, self->tasks, (size_t)given->live, false), &self->results);
        bench_check(self->n == given->live, "gather");
        aioloop_results_free(self->results);
    }
    span = bench_stop(span);
    free(self->tasks);
    return 0;
    AIOLOOP_END;
}

static void bench_gather_stackless(const struct bench_args *args) {
    struct loop_frame frame = AIOLOOP_ZERO;
    run_main_step(args, gather_stackless, &frame.frame);
}

/* ---- yield ---- */

static int64_t yield_stackful(aioloop *l, void *arg, void **out) {
    (void)arg, (void)out;
    for (long i = 0; i < each; i++)
        bench_check(aioloop_await(aioloop_sleep(l, 0), NULL) == 0, "sleep");
    ended();
    return 0;
}

static void bench_yield_stackful(const struct bench_args *args) {
    loop_new(NULL);
    each = args->count / args->live;
    running = args->live;
    for (long i = 0; i < args->live; i++)
        aioloop_future_unref(aioloop_create_task(loop, yield_stackful, NULL, NULL));
    run_all(args);
    aioloop_free(loop);
}

struct yield_frame {
    aioloop_frame frame;
    long i;
    int64_t n;
};

static int64_t yield_stackless(aioloop *l, aioloop_frame *frame, void **out) {
    struct yield_frame *self = (struct yield_frame *)frame;
    (void)out;
    AIOLOOP_BEGIN(l, frame);
    for (self->i = 0; self->i < each; self->i++)
        AIOLOOP_SLEEP(self->n, 0);
    ended();
    return 0;
    AIOLOOP_END;
}

static void bench_yield_stackless(const struct bench_args *args) {
    struct yield_frame frame = AIOLOOP_ZERO;
    const aioloop_task_options options = {.copy_size = sizeof(frame)};
    loop_new(NULL);
    each = args->count / args->live;
    running = args->live;
    for (long i = 0; i < args->live; i++)
        aioloop_future_unref(aioloop_create_task_frame(loop, yield_stackless, &frame.frame, &options));
    run_all(args);
    aioloop_free(loop);
}

/* ---- handing over ---- */

struct pair {
    aioloop_future *ping, *pong;
};

static int64_t ping_stackful(aioloop *l, void *arg, void **out) {
    struct pair *pair = (struct pair *)arg;
    (void)out;
    for (long i = 0; i < each; i++) {
        aioloop_future *f = pair->pong = aioloop_create_future(l);
        aioloop_future_set_result(pair->ping, 0, NULL, NULL);
        bench_check(aioloop_await(f, NULL) == 0, "await");
        aioloop_future_unref(f);
    }
    ended();
    return 0;
}

static int64_t pong_stackful(aioloop *l, void *arg, void **out) {
    struct pair *pair = (struct pair *)arg;
    (void)out;
    for (long i = 0; i < each; i++) {
        aioloop_future *f = pair->ping = aioloop_create_future(l);
        bench_check(aioloop_await(f, NULL) == 0, "await");
        aioloop_future_unref(f);
        aioloop_future_set_result(pair->pong, 0, NULL, NULL);
    }
    ended();
    return 0;
}

static struct pair *pairs_new(const struct bench_args *args) {
    loop_new(NULL);
    each = args->count / args->live;
    running = 2 * args->live;
    return (struct pair *)bench_alloc((size_t)args->live, sizeof(struct pair));
}

static void pairs_run(const struct bench_args *args, struct pair *pairs) {
    run_all(args);
    aioloop_free(loop);
    free(pairs);
}

static void bench_handover_stackful(const struct bench_args *args) {
    struct pair *pairs = pairs_new(args);
    for (long i = 0; i < args->live; i++) {
        aioloop_future_unref(aioloop_create_task(loop, pong_stackful, &pairs[i], NULL));
        aioloop_future_unref(aioloop_create_task(loop, ping_stackful, &pairs[i], NULL));
    }
    pairs_run(args, pairs);
}

struct pair_frame {
    aioloop_frame frame;
    struct pair *pair;
    long i;
    int64_t n;
};

static int64_t ping_stackless(aioloop *l, aioloop_frame *frame, void **out) {
    struct pair_frame *self = (struct pair_frame *)frame;
    (void)out;
    AIOLOOP_BEGIN(l, frame);
    for (self->i = 0; self->i < each; self->i++) {
        self->pair->pong = aioloop_create_future(l);
        aioloop_future_set_result(self->pair->ping, 0, NULL, NULL);
        AIOLOOP_AWAIT(self->n, self->pair->pong, NULL);
        bench_check(self->n == 0, "await");
        aioloop_future_unref(self->pair->pong);
    }
    ended();
    return 0;
    AIOLOOP_END;
}

static int64_t pong_stackless(aioloop *l, aioloop_frame *frame, void **out) {
    struct pair_frame *self = (struct pair_frame *)frame;
    (void)out;
    AIOLOOP_BEGIN(l, frame);
    for (self->i = 0; self->i < each; self->i++) {
        self->pair->ping = aioloop_create_future(l);
        AIOLOOP_AWAIT(self->n, self->pair->ping, NULL);
        bench_check(self->n == 0, "await");
        aioloop_future_unref(self->pair->ping);
        aioloop_future_set_result(self->pair->pong, 0, NULL, NULL);
    }
    ended();
    return 0;
    AIOLOOP_END;
}

static void bench_handover_stackless(const struct bench_args *args) {
    struct pair *pairs = pairs_new(args);
    struct pair_frame frame = AIOLOOP_ZERO;
    const aioloop_task_options options = {.copy_size = sizeof(frame)};
    for (long i = 0; i < args->live; i++) {
        frame.pair = &pairs[i];
        aioloop_future_unref(aioloop_create_task_frame(loop, pong_stackless, &frame.frame, &options));
        aioloop_future_unref(aioloop_create_task_frame(loop, ping_stackless, &frame.frame, &options));
    }
    pairs_run(args, pairs);
}

/* ---- the library's inside ---- */

static int64_t bare_coroutine(aioloop *l, void *arg, void **out) {
    (void)arg, (void)out;
    for (;;)
        aiol_coro_leave(l->coro);
    return 0;
}

static void bench_bare(const struct bench_args *args) {
    aiol_coro *co;
    loop_new(NULL);
    aiol_thread.running = loop;
    co = aiol_coro_new(loop, NULL, 0);
    bench_check(co != NULL, "aiol_coro_new");
    co->fn = bare_coroutine;
    co->ended = false;
    aiol_coro_enter(loop, co);
    span = bench_start();
    for (long i = 0; i < args->count; i++)
        aiol_coro_enter(loop, co);
    bench_print(bench_stop(span), args->count);
    aiol_thread.running = NULL;
    aioloop_free(loop);
}

/* ---- cancel ---- */

#define SLEEP_LONG AIOLOOP_SECONDS(3600)

static int64_t sleeper(aioloop *l, void *arg, void **out) {
    int64_t n = aioloop_await(aioloop_sleep(l, SLEEP_LONG), NULL);
    (void)arg, (void)out;
    ended();
    return n;
}

struct sleep_frame {
    aioloop_frame frame;
    int64_t n;
};

static int64_t sleeper_step(aioloop *l, aioloop_frame *frame, void **out) {
    struct sleep_frame *self = (struct sleep_frame *)frame;
    (void)out;
    AIOLOOP_BEGIN(l, frame);
    AIOLOOP_SLEEP(self->n, SLEEP_LONG);
    ended();
    return self->n;
    AIOLOOP_END;
}

static void cancel_all(const struct bench_args *args, aioloop_task **tasks) {
    running = args->live;
    all_ended = aioloop_create_future(loop);
    for (int i = 0; i < 2; i++)
        loop_run(aioloop_sleep(loop, 0)); /* all of them sleep then */
    span = bench_start();
    for (long i = 0; i < args->live; i++)
        aioloop_future_cancel(tasks[i], NULL);
    loop_run(all_ended);
    bench_print(bench_stop(span), args->live);
    aioloop_future_unref(all_ended);
    for (long i = 0; i < args->live; i++)
        aioloop_future_unref(tasks[i]);
    free(tasks);
    aioloop_free(loop);
}

static void bench_cancel_stackful(const struct bench_args *args) {
    aioloop_task **tasks = tasks_new(args);
    loop_new(NULL);
    for (long i = 0; i < args->live; i++)
        tasks[i] = aioloop_future_ref(aioloop_create_task(loop, sleeper, NULL, NULL));
    cancel_all(args, tasks);
}

static void bench_cancel_stackless(const struct bench_args *args) {
    aioloop_task **tasks = tasks_new(args);
    struct sleep_frame frame = AIOLOOP_ZERO;
    const aioloop_task_options options = {.copy_size = sizeof(frame)};
    loop_new(NULL);
    for (long i = 0; i < args->live; i++)
        tasks[i] = aioloop_future_ref(aioloop_create_task_frame(loop, sleeper_step, &frame.frame, &options));
    cancel_all(args, tasks);
}

/* ---- memory ---- */

static double heap_size;

static void *counted(void *context, void *pointer, size_t old_size, size_t new_size) {
    (void)context;
    heap_size += (double)new_size - (double)old_size;
    if (new_size != 0)
        return realloc(pointer, new_size);
    free(pointer);
    return NULL;
}

static const aioloop_allocator counting = {counted, NULL};
static const aioloop_config counting_config = {.allocator = &counting};

/* What L tasks need that are in their wait; without what the program itself has for each. */
static void memory_print(const struct bench_args *args, struct bench_footprint before, double heap, size_t own) {
    loop_run(aioloop_sleep(loop, 0));
    bench_footprint_print(before, args->live, heap_size - heap - (double)own * (double)args->live);
    fflush(stdout);
    _exit(0); /* a million pending tasks would each be reported */
}

static int64_t waiter(aioloop *l, void *arg, void **out) {
    (void)l, (void)out;
    return aioloop_await((aioloop_future *)arg, NULL);
}

static void bench_waiting(const struct bench_args *args) {
    aioloop_future **futures = tasks_new(args);
    struct bench_footprint before;
    double heap;
    loop_new(&counting_config);
    for (long i = 0; i < args->live; i++)
        futures[i] = aioloop_create_future(loop);
    loop_run(aioloop_sleep(loop, 0));
    before = bench_footprint();
    heap = heap_size;
    for (long i = 0; i < args->live; i++)
        aioloop_future_unref(aioloop_create_task(loop, waiter, futures[i], NULL));
    memory_print(args, before, heap, 0);
}

static void sleepers(const struct bench_args *args, bool copies) {
    struct sleep_frame *frames = (struct sleep_frame *)bench_alloc(copies ? 1 : (size_t)args->live, sizeof(*frames));
    const aioloop_task_options options = {.copy_size = copies ? sizeof(*frames) : 0};
    struct bench_footprint before;
    double heap;
    loop_new(&counting_config);
    loop_run(aioloop_sleep(loop, 0));
    memset(frames, 0, (copies ? 1 : (size_t)args->live) * sizeof(*frames)); /* resident before, if they are the program's */
    before = bench_footprint();
    heap = heap_size;
    for (long i = 0; i < args->live; i++)
        aioloop_future_unref(aioloop_create_task_frame(loop, sleeper_step, &frames[copies ? 0 : i].frame, &options));
    memory_print(args, before, heap, copies ? sizeof(*frames) : 0);
}

static void bench_given(const struct bench_args *args) {
    sleepers(args, false);
}

static void bench_copied(const struct bench_args *args) {
    sleepers(args, true);
}

/* ---- a queue with room for `live` ---- */

static int64_t produce_stackful(aioloop *l, void *arg, void **out) {
    aioloop_queue *queue = (aioloop_queue *)arg;
    (void)l, (void)out;
    for (long i = 0; i < each; i++)
        bench_check(aioloop_await(aioloop_queue_put(queue, queue, NULL), NULL) == 0, "put");
    ended();
    return 0;
}

static int64_t consume_stackful(aioloop *l, void *arg, void **out) {
    aioloop_queue *queue = (aioloop_queue *)arg;
    (void)l, (void)out;
    for (long i = 0; i < each; i++) {
        aioloop_queue *item = NULL;
        bench_check(aioloop_await(aioloop_queue_get(queue), &item) == 0 && item == queue, "get");
    }
    ended();
    return 0;
}

static aioloop_queue *queue_new(const struct bench_args *args) {
    aioloop_queue_options options = {.maxsize = args->live};
    aioloop_queue *queue;
    loop_new(NULL);
    each = args->count;
    running = 2;
    queue = aioloop_queue_new(loop, &options);
    bench_check(queue != NULL, "aioloop_queue_new");
    return queue;
}

static void bench_queue_stackful(const struct bench_args *args) {
    aioloop_queue *queue = queue_new(args);
    aioloop_future_unref(aioloop_create_task(loop, consume_stackful, queue, NULL));
    aioloop_future_unref(aioloop_create_task(loop, produce_stackful, queue, NULL));
    run_all(args);
    aioloop_queue_free(queue);
    aioloop_free(loop);
}

struct queue_frame {
    aioloop_frame frame;
    aioloop_queue *queue, *item;
    long i;
    int64_t n;
};

static int64_t produce_stackless(aioloop *l, aioloop_frame *frame, void **out) {
    struct queue_frame *self = (struct queue_frame *)frame;
    (void)out;
    AIOLOOP_BEGIN(l, frame);
    for (self->i = 0; self->i < each; self->i++) {
        AIOLOOP_AWAIT(self->n, aioloop_queue_put(self->queue, self->queue, NULL), NULL);
        bench_check(self->n == 0, "put");
    }
    ended();
    return 0;
    AIOLOOP_END;
}

static int64_t consume_stackless(aioloop *l, aioloop_frame *frame, void **out) {
    struct queue_frame *self = (struct queue_frame *)frame;
    (void)out;
    AIOLOOP_BEGIN(l, frame);
    for (self->i = 0; self->i < each; self->i++) {
        AIOLOOP_AWAIT(self->n, aioloop_queue_get(self->queue), &self->item);
        bench_check(self->n == 0 && self->item == self->queue, "get");
    }
    ended();
    return 0;
    AIOLOOP_END;
}

static void bench_queue_stackless(const struct bench_args *args) {
    struct queue_frame frame = AIOLOOP_ZERO;
    const aioloop_task_options options = {.copy_size = sizeof(frame)};
    frame.queue = queue_new(args);
    aioloop_future_unref(aioloop_create_task_frame(loop, consume_stackless, &frame.frame, &options));
    aioloop_future_unref(aioloop_create_task_frame(loop, produce_stackless, &frame.frame, &options));
    run_all(args);
    aioloop_queue_free(frame.queue);
    aioloop_free(loop);
}

/* ---- echo: a task for each connection ---- */

#define ECHO_READ 65536

static int64_t echo_over(aioloop *l) {
    if (!bench_closed())
        aioloop_stop(l);
    return 0; /* a peer that resets is no news */
}

static int64_t echo_stackful(aioloop *l, aioloop_stream *stream, void *arg) {
    const char *data;
    int64_t n;
    (void)arg;
    bench_opened();
    while ((n = aioloop_await(aioloop_stream_read(stream, ECHO_READ), &data)) > 0) {
        aioloop_stream_write(stream, data, (size_t)n);
        if (aioloop_await(aioloop_stream_drain(stream), NULL) < 0)
            break;
    }
    return echo_over(l);
}

struct echo_frame {
    aioloop_stream_frame base;
    const char *data;
    int64_t n;
};

static int64_t echo_stackless(aioloop *l, aioloop_frame *frame, void **out) {
    struct echo_frame *self = (struct echo_frame *)frame;
    (void)out;
    AIOLOOP_BEGIN(l, frame);
    bench_opened();
    for (;;) {
        AIOLOOP_AWAIT(self->n, aioloop_stream_read(self->base.stream, ECHO_READ), &self->data);
        if (self->n <= 0)
            break;
        aioloop_stream_write(self->base.stream, self->data, (size_t)self->n);
        AIOLOOP_AWAIT(self->n, aioloop_stream_drain(self->base.stream), NULL);
        if (self->n < 0)
            break;
    }
    return echo_over(l);
    AIOLOOP_END;
}

static void echo_control(aioloop *l, void *arg) {
    (void)arg;
    if (!bench_control())
        aioloop_stop(l);
}

static void echo_serve(bool stackful) {
    aioloop_stream_server_options options = {.server.backlog = BENCH_BACKLOG};
    aioloop_server *server = NULL;
    aioloop_address address;
    if (!stackful) {
        options.step = echo_stackless;
        options.frame_size = sizeof(struct echo_frame);
    }
    loop_new(NULL);
    bench_engine = aioloop_backend_name(loop);
    errno = 0;
    bench_check(aioloop_run_until_complete(loop,
                                           aioloop_start_server(loop, stackful ? echo_stackful : NULL, NULL, "127.0.0.1", 0,
                                                                &options),
                                           &server) >= 0,
                "aioloop_start_server");
    bench_check(aioloop_server_socket(server, 0, NULL, &address) == 0, "aioloop_server_socket");
    bench_announce(address.port);
    bench_check(aioloop_add_reader(loop, 0, echo_control, NULL) == 0, "aioloop_add_reader");
    bench_check(aioloop_run_forever(loop) >= 0, "aioloop_run_forever");
    aioloop_server_unref(server);
    aioloop_free(loop);
}

static void bench_echo_stackful(const struct bench_args *args) {
    (void)args;
    echo_serve(true);
}

static void bench_echo_stackless(const struct bench_args *args) {
    (void)args;
    echo_serve(false);
}

/* ---- echo by sock_recv and sock_sendall ---- */

struct sock_frame {
    aioloop_frame frame;
    int socket;
    int64_t n;
    char data[ECHO_READ];
};

static int64_t sock_echoes(aioloop *l, aioloop_frame *frame, void **out) {
    struct sock_frame *self = (struct sock_frame *)frame;
    (void)out;
    AIOLOOP_BEGIN(l, frame);
    for (;;) {
        AIOLOOP_AWAIT(self->n, aioloop_sock_recv_into(l, self->socket, self->data, sizeof(self->data)), NULL);
        if (self->n <= 0)
            break;
        AIOLOOP_AWAIT(self->n, aioloop_sock_sendall(l, self->socket, self->data, (size_t)self->n), NULL);
        if (self->n < 0)
            break;
    }
    close(self->socket);
    return echo_over(l);
    AIOLOOP_END;
}

static int64_t sock_accepts(aioloop *l, aioloop_frame *frame, void **out) {
    static const aioloop_task_options options = {.dispose = free};
    struct sock_frame *self = (struct sock_frame *)frame;
    (void)out;
    AIOLOOP_BEGIN(l, frame);
    for (;;) {
        struct sock_frame *connection;
        AIOLOOP_AWAIT(self->n, aioloop_sock_accept(l, self->socket, NULL), NULL);
        bench_check(self->n >= 0, "aioloop_sock_accept");
        bench_nodelay((int)self->n);
        connection = (struct sock_frame *)calloc(1, sizeof(*connection));
        bench_check(connection != NULL, "calloc");
        connection->socket = (int)self->n;
        bench_opened();
        aioloop_future_unref(aioloop_create_task_frame(l, sock_echoes, &connection->frame, &options));
    }
    AIOLOOP_END;
}

static void bench_echo_sock(const struct bench_args *args) {
    struct sock_frame *listener = (struct sock_frame *)calloc(1, sizeof(*listener));
    (void)args;
    bench_check(listener != NULL, "calloc");
    loop_new(NULL);
    bench_engine = aioloop_backend_name(loop);
    listener->socket = bench_listen();
    aioloop_future_unref(aioloop_create_task_frame(loop, sock_accepts, &listener->frame, NULL));
    bench_check(aioloop_add_reader(loop, 0, echo_control, NULL) == 0, "aioloop_add_reader");
    bench_check(aioloop_run_forever(loop) >= 0, "aioloop_run_forever");
    aioloop_free(loop);
    close(listener->socket);
    free(listener);
}

int main(int argc, char **argv) {
    static const struct bench_mode modes[] = {{"stackful.await", bench_await_stackful},
                                              {"stackless.await", bench_await_stackless},
                                              {"stackful.create", bench_create_stackful},
                                              {"stackless.create", bench_create_stackless},
                                              {"stackful.gather", bench_gather_stackful},
                                              {"stackless.gather", bench_gather_stackless},
                                              {"stackful.yield", bench_yield_stackful},
                                              {"stackless.yield", bench_yield_stackless},
                                              {"stackful.handover", bench_handover_stackful},
                                              {"stackless.handover", bench_handover_stackless},
                                              {"stackful.cancel", bench_cancel_stackful},
                                              {"stackless.cancel", bench_cancel_stackless},
                                              {"stackful.bare", bench_bare},
                                              {"stackful.waiting", bench_waiting},
                                              {"stackless.given", bench_given},
                                              {"stackless.copied", bench_copied},
                                              {"stackful.queue", bench_queue_stackful},
                                              {"stackless.queue", bench_queue_stackless},
                                              {"stackful.echo", bench_echo_stackful},
                                              {"stackless.echo", bench_echo_stackless},
                                              {"sock.echo", bench_echo_sock}};
    return bench_run(argc, argv, modes, sizeof(modes) / sizeof(modes[0]));
}
