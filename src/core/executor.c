/*
 * executor.c - functions that block, run in other threads.       (asyncio: base_events.py; concurrent.futures: thread.py)
 *
 * A job is in one place at a time: in its pool's queue, with the thread that runs it, or on its loop's stack of what
 * has come back. Whoever brings one there posts to the loop only if the stack was empty, so a batch of jobs costs one
 * post, and the slot for it is always free.
 *
 * A job may end after its loop is gone. So the way back is an aiol_executor, which is counted. Who is about to use it
 * says so (users) and looks whether the loop is still there; aioloop_close takes the loop away and waits until nobody
 * uses it.
 *
 * A pool's threads have a reference each. The last to let go of a pool joins the threads that have ended; if it is one
 * of them, it detaches itself.
 *
 * What the library itself runs that may hang for long (looking up names) has a pool of its loop's own, the LANE. There
 * a thread whose job was given up is not counted any more: it has LEFT the pool, which starts another one if something
 * waits, and it ends when the job does. Nobody waits for it, not even the end of the program. Where as many as may have
 * left, or nothing can take the place of a thread that something waits for, that one stays, and leaves when it can: so
 * as long as a job is queued, a thread is living.
 */
#ifndef AIOL_CORE_EXECUTOR_C
#define AIOL_CORE_EXECUTOR_C

#include "api/executor.h"
#include "core/threadsafe.c"

#define AIOL_POOL_MOST 32u  /* threads, unless told otherwise: asyncio's numbers */
#define AIOL_POOL_SPARE 4u
#define AIOL_POOL_NAME 16u
#define AIOL_LANE_MOST 16u   /* threads of a lane that run what somebody waits for */
#define AIOL_LANE_SPARE 112u /* and that have left it */

/* ENDED: only where threads may leave. */
typedef enum aiol_job_state { AIOL_JOB_QUEUED, AIOL_JOB_BEGUN, AIOL_JOB_ENDED, AIOL_JOB_CANCELLED } aiol_job_state;

/* A loop's. */
typedef struct aiol_executor {
    aiol_slot slot; /* in the inbox while something is on the stack that the loop has not begun to fetch */
    uint32_t refs;  /* the loop's, and each job's */
    uint32_t users; /* threads that are about to post */
    aioloop *loop;  /* NULL: closed */
    void *arrived;  /* aiol_job *, newest first */
    /* The loop's thread's: */
    aiol_link jobs;            /* that have not come back, or are not fetched */
    aioloop_thread_pool *pool; /* the default, with a reference; NULL: none yet */
    bool made;                 /* by the loop */
    aioloop_thread_pool *lane; /* with a reference; NULL: none yet */
} aiol_executor;

/* A function to run; without one, the news that a pool's threads have ended. */
typedef struct aiol_job {
    struct aiol_job *next; /* on the stack */
    aiol_link queue;       /* the pool's, under its lock */
    aiol_link link;        /* among the loop's */
    aiol_executor *executor;
    aioloop_thread_pool *pool;
    struct aiol_pool_worker *worker; /* of a BEGUN one */
    aioloop_future *future; /* the loop's thread's; NULL: nobody waits */
    aioloop_executor_function fn;
    void *arg;
    aioloop_executor_options options;
    aiol_map *map; /* the context, unless one was given */
    size_t size;
    aiol_job_state state; /* under the pool's lock until the job is back */
    int64_t number;
    void *pointer;
    struct aioloop_error *error;
    aioloop_timer_handle timer; /* of the news */
} aiol_job;

#define AIOL_JOB_ROOM ((sizeof(aiol_job) + 15) / 16 * 16)

typedef struct aiol_pool_worker {
    aiol_worker worker;
    aiol_link link; /* among the pool's workers, unless it has left */
    aioloop_thread_pool *pool;
    /* Under the pool's lock: */
    bool given_up; /* nobody waits for the job that it runs */
    bool left;     /* detached, and frees itself */
} aiol_pool_worker;

struct aioloop_thread_pool {
    uint32_t refs; /* the program's, each thread's, each job's, and each loop's whose default it is */
    int process;
    aioloop_allocator allocator;
    size_t stack_size;
    size_t queue_limit;
    unsigned max_workers;
    unsigned spare; /* how many threads may have left at a time */
    char name[AIOL_POOL_NAME];
    aiol_mutex mutex; /* guards the rest */
    aiol_thread_condition work;
    aiol_thread_condition ended;
    aiol_link queue;
    size_t queued;
    unsigned living;  /* threads that have neither ended nor left */
    unsigned idle;    /* of them, those that wait */
    uint32_t running; /* and those that run a job; its end is counted without the lock */
    bool waking;      /* one of the idle was told of a job and has not looked yet */
    bool shut;
    aiol_link endings; /* jobs without a function: whom to tell when no thread is living */
    aiol_link workers; /* not joined yet */
    unsigned left;     /* threads that run what was given up, and are not counted above */
};

/* ---- making and ending ---- */

static void aiol_executor_unref(aiol_executor *x) {
    if (aiol_add_u32(&x->refs, (uint32_t)-1) == 0)
        aiol_free(&aiol_default_allocator, x, sizeof(*x));
}

/* One of them, taken out; NULL if there is none. */
static aiol_pool_worker *aiol_pool_worker_pop(aiol_link *workers) {
    aiol_pool_worker *worker;
    if (aiol_list_empty(workers))
        return NULL;
    worker = AIOL_CONTAINER(workers->next, aiol_pool_worker, link);
    aiol_list_remove(&worker->link);
    return worker;
}

static void aiol_pool_join(const aioloop_allocator *allocator, aiol_link *workers) {
    aiol_pool_worker *worker;
    while ((worker = aiol_pool_worker_pop(workers)) != NULL) {
        if (aiol_worker_is_current(&worker->worker))
            aiol_worker_detach(&worker->worker);
        else
            aiol_worker_join(&worker->worker);
        aiol_free(allocator, worker, sizeof(*worker));
    }
}

static void aiol_pool_unref(aioloop_thread_pool *pool) {
    aioloop_allocator allocator;
    if (aiol_add_u32(&pool->refs, (uint32_t)-1) != 0)
        return;
    allocator = pool->allocator;
    aiol_pool_join(&allocator, &pool->workers);
    aiol_thread_condition_destroy(&pool->ended);
    aiol_thread_condition_destroy(&pool->work);
    aiol_mutex_destroy(&pool->mutex);
    aiol_free(&allocator, pool, sizeof(*pool));
}

/* In a forked child, where the threads are not: memory is all there is to give back. Not even that where a thread had
 * the lock: what it guards may be half changed. The few bytes of threads that had left stay. */
static void aiol_pool_forget(aioloop_thread_pool *pool) {
    aioloop_allocator allocator = pool->allocator;
    aiol_pool_worker *worker;
    uint32_t refs = aiol_add_u32(&pool->refs, (uint32_t)-1);
    bool last;
    if (!aiol_mutex_try(&pool->mutex))
        return;
    last = refs <= pool->living + pool->left; /* theirs */
    aiol_mutex_unlock(&pool->mutex);
    if (!last)
        return;
    while ((worker = aiol_pool_worker_pop(&pool->workers)) != NULL)
        aiol_free(&allocator, worker, sizeof(*worker));
    aiol_free(&allocator, pool, sizeof(*pool));
}

/* Runs user code. */
static void aiol_job_free(aiol_job *job) {
    aiol_executor *x = job->executor;
    aioloop_thread_pool *pool = job->pool;
    if (job->pointer != NULL && job->options.dispose_result != NULL)
        job->options.dispose_result(job->pointer);
    if (job->options.dispose != NULL)
        job->options.dispose(job->arg);
    aioloop_context_unref(job->options.context);
    aiol_map_unref(job->map);
    aiol_error_free(&pool->allocator, job->error);
    aiol_free(&pool->allocator, job, job->size);
    aiol_pool_unref(pool);
    aiol_executor_unref(x);
}

/* ---- the way back ---- */

/* Any thread: the job is the loop's again; or goes, if that is closed. */
static void aiol_job_deliver(aiol_job *job) {
    aiol_executor *x = job->executor;
    aioloop *loop;
    aiol_add_u32(&x->users, 1);
    loop = aiol_load(&x->loop);
    if (loop != NULL) {
        void *top = aiol_load(&x->arrived);
        do {
            job->next = (aiol_job *)top;
        } while (!aiol_cas_pointer(&x->arrived, &top, job));
        if (top == NULL)
            aiol_inbox_push(loop, &x->slot);
    }
    aiol_add_u32(&x->users, (uint32_t)-1); /* x may go with this, unless the job is still here */
    if (loop == NULL)
        aiol_job_free(job);
}

static void aiol_job_deliver_all(aiol_link *list) {
    while (!aiol_list_empty(list)) {
        aiol_job *job = AIOL_CONTAINER(list->next, aiol_job, queue);
        aiol_list_remove(&job->queue);
        aiol_job_deliver(job);
    }
}

/* What has come back, oldest first. */
static aiol_job *aiol_executor_fetch(aiol_executor *x) {
    aiol_job *job = (aiol_job *)aiol_exchange_pointer(&x->arrived, NULL);
    aiol_job *turned = NULL;
    while (job != NULL) {
        aiol_job *next = job->next;
        job->next = turned;
        turned = job;
        job = next;
    }
    return turned;
}

static void aiol_pool_join_ended(aioloop_thread_pool *pool);

/* In the loop's thread. */
static void aiol_job_finish(aiol_job *job) {
    aioloop_future *f = job->future;
    aiol_list_remove(&job->link);
    if (job->fn == NULL)
        aiol_pool_join_ended(job->pool);
    if (f != NULL) {
        job->future = NULL;
        if (job->fn == NULL)
            aioloop_timer_handle_cancel(&job->timer);
        if (job->state == AIOL_JOB_CANCELLED || job->number == AIOLOOP_ECANCELED) {
            aiol_future_end_cancelled(f, job->error == NULL ? NULL : aioloop_error_message(job->error));
        } else if (job->number < 0) {
            aiol_future_fail(f, (int)job->number, job->error == NULL ? NULL : aioloop_error_message(job->error));
        } else {
            aiol_future_finish(f, job->number, job->pointer, job->pointer == NULL ? NULL : job->options.dispose_result);
            job->pointer = NULL;
        }
        aiol_future_release(f);
    }
    aiol_job_free(job);
}

/* The slot's turn. From the moment that the stack is empty it may be posted again. */
static void aiol_executor_run(aioloop *loop, aiol_node *node) {
    aiol_executor *x = (aiol_executor *)(void *)node;
    aiol_map *map = NULL;
    aiol_frame frame = aiol_enter(loop, &map);
    aiol_job *job = aiol_executor_fetch(x);
    int raised;
    while (job != NULL) {
        aiol_job *next = job->next;
        aiol_job_finish(job);
        job = next;
    }
    raised = loop->raised;
    loop->raised = 0;
    if (raised != 0) {
        aioloop_exception_context context;
        memset(&context, 0, sizeof(context));
        context.message = "Error in a function that disposes of what a thread had";
        aiol_report(loop, raised, 0, &context);
    }
    aiol_callback_end(loop);
    aiol_leave(loop, &frame);
    aiol_map_unref(map);
}

/* ---- a pool's threads ---- */

static void aiol_job_call_now(void *arg) {
    aiol_job *job = (aiol_job *)arg;
    job->number = job->fn(job->arg, &job->pointer);
}

static void aiol_job_run(aiol_job *job) {
    aiol_error_clear(&aiol_thread.error);
    if (job->options.context != NULL) {
        int err = aioloop_context_run(job->options.context, aiol_job_call_now, job);
        if (err < 0)
            job->number = err;
    } else {
        aiol_context_frame frame = aiol_context_enter(&job->map);
        aiol_job_call_now(job);
        aiol_context_leave(&frame);
    }
    if (job->number < INT_MIN)
        job->number = AIOLOOP_EINVAL;
    if (job->number < 0 && aiol_thread.error.error.code == job->number)
        job->error = aiol_error_new(&job->pool->allocator, (int)job->number, aioloop_error_message(aioloop_last_error(NULL)), 0);
}

/* With the lock held: whether to wake an idle thread. One at a time, for it will wake the next: so a row of short jobs
 * does not cost a system call each. */
static bool aiol_pool_wakes(aioloop_thread_pool *pool) {
    if (pool->queued == 0 || pool->idle == 0 || pool->waking)
        return false;
    pool->waking = true;
    return true;
}

/* The next job of a thread's pool; NULL when that was shut down and there is none. */
static aiol_job *aiol_pool_next(aiol_pool_worker *worker) {
    aioloop_thread_pool *pool = worker->pool;
    aiol_job *job;
    bool wake;
    aiol_mutex_lock(&pool->mutex);
    while (aiol_list_empty(&pool->queue)) {
        if (pool->shut) {
            aiol_mutex_unlock(&pool->mutex);
            return NULL;
        }
        pool->idle++;
        (void)aiol_thread_condition_wait(&pool->work, &pool->mutex, AIOLOOP_FOREVER);
        pool->idle--;
        pool->waking = false;
    }
    job = AIOL_CONTAINER(pool->queue.next, aiol_job, queue);
    aiol_list_remove(&job->queue);
    pool->queued--;
    aiol_add_u32(&pool->running, 1);
    job->state = AIOL_JOB_BEGUN;
    job->worker = worker;
    wake = aiol_pool_wakes(pool);
    aiol_mutex_unlock(&pool->mutex);
    if (wake)
        aiol_thread_condition_signal(&pool->work);
    return job;
}

static void aiol_pool_work(void *arg);

/* With the lock held: one thread more. */
static int aiol_pool_start(aioloop_thread_pool *pool) {
    aiol_pool_worker *worker = (aiol_pool_worker *)aiol_alloc_zero(&pool->allocator, sizeof(*worker));
    int err;
    if (worker == NULL)
        return AIOLOOP_ENOMEM;
    worker->pool = pool;
    aiol_add_u32(&pool->refs, 1);
    err = aiol_worker_start(&worker->worker, aiol_pool_work, worker, pool->stack_size);
    if (err < 0) {
        aiol_add_u32(&pool->refs, (uint32_t)-1);
        aiol_free(&pool->allocator, worker, sizeof(*worker));
        return err;
    }
    aiol_list_append(&pool->workers, &worker->link);
    pool->living++;
    return 0;
}

/* With the lock held: the thread leaves, with the job that it runs. Not if it is the turn of something else and another
 * thread cannot be had. */
static void aiol_pool_leave(aioloop_thread_pool *pool, aiol_pool_worker *worker) {
    if (!pool->shut && pool->queued > pool->idle && aiol_pool_start(pool) < 0)
        return;
    worker->left = true;
    aiol_worker_detach(&worker->worker);
    aiol_list_remove(&worker->link);
    pool->left++;
    pool->living--;
    aiol_add_u32(&pool->running, (uint32_t)-1);
}

/* With the lock held: threads leave whose jobs were given up, as many as may. */
static void aiol_pool_let_leave(aioloop_thread_pool *pool) {
    aiol_link *link = pool->workers.next;
    while (link != &pool->workers && pool->left < pool->spare) {
        aiol_pool_worker *worker = AIOL_CONTAINER(link, aiol_pool_worker, link);
        link = link->next;
        if (worker->given_up)
            aiol_pool_leave(pool, worker);
    }
}

/* With the lock held: a thread that had left has come back, so there is room for others to leave and to begin. */
static void aiol_pool_come_back(aioloop_thread_pool *pool) {
    pool->left--;
    aiol_pool_let_leave(pool);
    if (!pool->shut && pool->queued > pool->idle && pool->living < pool->max_workers)
        (void)aiol_pool_start(pool); /* those that are there will do */
}

/* A thread has run a job. False: it had left the pool, and has nothing to do with it any more. */
static bool aiol_pool_return(aiol_pool_worker *worker, aiol_job *job) {
    aioloop_thread_pool *pool = worker->pool;
    bool left = false;
    if (pool->spare != 0) {
        aiol_mutex_lock(&pool->mutex);
        job->state = AIOL_JOB_ENDED;
        worker->given_up = false;
        left = worker->left;
        if (left)
            aiol_pool_come_back(pool);
        aiol_mutex_unlock(&pool->mutex);
    }
    if (left)
        aiol_free(&pool->allocator, worker, sizeof(*worker));
    else
        aiol_add_u32(&pool->running, (uint32_t)-1); /* whoever has its result finds it so */
    return !left;
}

/* The thread ends, but for what it still has to tell. */
static void aiol_pool_end(aioloop_thread_pool *pool) {
    aiol_link told;
    aiol_list_init(&told);
    aiol_mutex_lock(&pool->mutex);
    if (--pool->living == 0) {
        aiol_list_move(&told, &pool->endings);
        aiol_thread_condition_broadcast(&pool->ended);
    }
    aiol_mutex_unlock(&pool->mutex);
    aiol_job_deliver_all(&told);
}

static void aiol_pool_work(void *arg) {
    aiol_pool_worker *worker = (aiol_pool_worker *)arg;
    aioloop_thread_pool *pool = worker->pool;
    aiol_job *job;
    bool stays = true;
    aiol_thread.pool = pool;
    aiol_thread_set_name(pool->name);
    aiol_thread_give_way();
    while (stays && (job = aiol_pool_next(worker)) != NULL) {
        aiol_job_run(job);
        stays = aiol_pool_return(worker, job);
        aiol_job_deliver(job);
    }
    if (stays)
        aiol_pool_end(pool);
    aiol_pool_unref(pool);
}

/* ---- a pool from outside ---- */

/* Queues a job. 0; AIOLOOP_EMISUSE: shut down; AIOLOOP_EAGAIN: full; or why there is no thread at all. */
static int aiol_pool_submit(aioloop_thread_pool *pool, aiol_job *job) {
    bool wake = false;
    int err = 0;
    aiol_mutex_lock(&pool->mutex);
    aiol_pool_let_leave(pool);
    if (pool->shut)
        err = AIOLOOP_EMISUSE;
    else if (pool->queue_limit != 0 && pool->queued >= pool->queue_limit &&
             pool->queued - pool->queue_limit >= pool->max_workers - aiol_load(&pool->running))
        err = AIOLOOP_EAGAIN;
    else if (pool->queued >= pool->idle && pool->living < pool->max_workers && (err = aiol_pool_start(pool)) < 0 &&
             pool->living != 0)
        err = 0; /* those that are there will do */
    if (err == 0) {
        aiol_list_append(&pool->queue, &job->queue);
        pool->queued++;
        wake = aiol_pool_wakes(pool);
    }
    aiol_mutex_unlock(&pool->mutex);
    if (wake)
        aiol_thread_condition_signal(&pool->work);
    return err;
}

/* Takes a job that has not begun out of the queue. False if it has; then its thread may leave. */
static bool aiol_pool_withdraw(aioloop_thread_pool *pool, aiol_job *job) {
    bool waits;
    if (pool->process != aiol_process_id())
        return false; /* a thread that is not there may hold the lock */
    aiol_mutex_lock(&pool->mutex);
    waits = job->state == AIOL_JOB_QUEUED;
    if (waits) {
        aiol_list_remove(&job->queue);
        pool->queued--;
        job->state = AIOL_JOB_CANCELLED;
    } else if (job->state == AIOL_JOB_BEGUN && !job->worker->left) {
        job->worker->given_up = true;
        aiol_pool_let_leave(pool);
    }
    aiol_mutex_unlock(&pool->mutex);
    return waits;
}

/* No job is accepted any more. ending (may be NULL) is delivered when no thread is living. True if none is now: then
 * it is still the caller's. */
static bool aiol_pool_shut(aioloop_thread_pool *pool, aiol_job *ending) {
    bool over;
    aiol_mutex_lock(&pool->mutex);
    pool->shut = true;
    over = pool->living == 0;
    if (!over && ending != NULL)
        aiol_list_append(&pool->endings, &ending->queue);
    aiol_thread_condition_broadcast(&pool->work);
    aiol_mutex_unlock(&pool->mutex);
    return over;
}

static void aiol_pool_cancel_pending(aioloop_thread_pool *pool) {
    aiol_link dropped;
    aiol_link *link;
    aiol_list_init(&dropped);
    aiol_mutex_lock(&pool->mutex);
    aiol_list_move(&dropped, &pool->queue);
    pool->queued = 0;
    for (link = dropped.next; link != &dropped; link = link->next)
        AIOL_CONTAINER(link, aiol_job, queue)->state = AIOL_JOB_CANCELLED;
    aiol_mutex_unlock(&pool->mutex);
    aiol_job_deliver_all(&dropped);
}

/* Of a pool that was shut down: joins its threads when all have ended. patient: waits for that; else only if none runs
 * a job, so that it does not take long. */
static void aiol_pool_wait(aioloop_thread_pool *pool, bool patient) {
    aiol_link workers;
    aiol_list_init(&workers);
    aiol_mutex_lock(&pool->mutex);
    if (patient || (aiol_load(&pool->running) == 0 && pool->queued == 0 && aiol_thread.pool != pool)) {
        while (pool->living != 0)
            (void)aiol_thread_condition_wait(&pool->ended, &pool->mutex, AIOLOOP_FOREVER);
        aiol_list_move(&workers, &pool->workers);
    }
    aiol_mutex_unlock(&pool->mutex);
    aiol_pool_join(&pool->allocator, &workers);
}

static void aiol_pool_join_ended(aioloop_thread_pool *pool) {
    aiol_pool_wait(pool, false);
}

static int aiol_pool_init(aioloop_thread_pool *pool) {
    int err = aiol_mutex_init(&pool->mutex);
    if (err < 0)
        return err;
    err = aiol_thread_condition_init(&pool->work);
    if (err == 0 && (err = aiol_thread_condition_init(&pool->ended)) < 0)
        aiol_thread_condition_destroy(&pool->work);
    if (err < 0)
        aiol_mutex_destroy(&pool->mutex);
    return err;
}

/* NULL with *err. */
static aioloop_thread_pool *aiol_pool_new(const aioloop_thread_pool_options *options, int *err) {
    const aioloop_allocator *a = options->allocator != NULL ? options->allocator : &aiol_default_allocator;
    aioloop_thread_pool *pool = (aioloop_thread_pool *)aiol_alloc_zero(a, sizeof(*pool));
    *err = pool == NULL ? AIOLOOP_ENOMEM + 0 : aiol_pool_init(pool);
    if (*err < 0) {
        aiol_free(a, pool, sizeof(*pool));
        return NULL;
    }
    pool->refs = 1;
    pool->process = aiol_process_id();
    pool->allocator = *a;
    pool->stack_size = options->stack_size;
    pool->queue_limit = options->queue_limit;
    pool->max_workers = (unsigned)options->max_workers;
    if (pool->max_workers == 0)
        pool->max_workers = (unsigned)aiol_min_size(aiol_processor_count() + AIOL_POOL_SPARE, AIOL_POOL_MOST);
    snprintf(pool->name, sizeof(pool->name), "%s", options->name != NULL ? options->name : "aioloop");
    aiol_list_init(&pool->queue);
    aiol_list_init(&pool->endings);
    aiol_list_init(&pool->workers);
    return pool;
}

AIOLOOP_API aioloop_thread_pool *aioloop_thread_pool_new(const aioloop_thread_pool_options *options) {
    static const aioloop_thread_pool_options defaults = {0, 0, 0, NULL, NULL};
    aioloop_thread_pool *pool;
    int err;
    if (options == NULL)
        options = &defaults;
    if (options->max_workers < 0) {
        aiol_fail(NULL, AIOLOOP_EINVAL, "a pool cannot have %d threads", options->max_workers);
        return NULL;
    }
    pool = aiol_pool_new(options, &err);
    if (pool == NULL)
        aiol_fail(NULL, err, NULL);
    return pool;
}

AIOLOOP_API int aioloop_thread_pool_shutdown(aioloop_thread_pool *pool, bool wait, bool cancel_pending) {
    if (pool == NULL)
        return AIOLOOP_EINVAL;
    if (pool->process != aiol_process_id())
        return aiol_fail(NULL, AIOLOOP_EMISUSE, "a pool of the process that forked");
    if (wait && aiol_thread.pool == pool)
        return aiol_fail(NULL, AIOLOOP_EMISUSE, "a thread of the pool cannot wait for its own end");
    (void)aiol_pool_shut(pool, NULL);
    if (cancel_pending)
        aiol_pool_cancel_pending(pool);
    if (wait)
        aiol_pool_wait(pool, true);
    return 0;
}

AIOLOOP_API void aioloop_thread_pool_free(aioloop_thread_pool *pool) {
    if (pool == NULL)
        return;
    if (pool->process != aiol_process_id()) {
        aiol_pool_forget(pool);
        return;
    }
    (void)aioloop_thread_pool_shutdown(pool, aiol_thread.pool != pool, false);
    aiol_pool_unref(pool);
}

/* ---- a loop's ---- */

/* NULL when there is no memory. */
static aiol_executor *aiol_executor_of(aioloop *loop) {
    aiol_executor *x = loop->executor;
    if (x != NULL)
        return x;
    x = (aiol_executor *)aiol_alloc_zero(&aiol_default_allocator, sizeof(*x));
    if (x == NULL)
        return NULL;
    x->slot.at.node.run = aiol_executor_run;
    x->refs = 1;
    x->loop = loop;
    aiol_list_init(&x->jobs);
    loop->executor = x;
    return x;
}

/* Whether a thread is to bring something; a job of the lane that was given up brings nothing. */
static bool aiol_executor_busy(const aioloop *loop) {
    const aiol_executor *x = loop->executor;
    const aiol_link *link;
    if (x == NULL)
        return false;
    for (link = x->jobs.next; link != &x->jobs; link = link->next) {
        const aiol_job *job = AIOL_CONTAINER(link, const aiol_job, link);
        if (job->pool != x->lane || job->future != NULL)
            return true;
    }
    return false;
}

/* Nobody waits for the job any more. One that has not begun comes back as it is. */
static void aiol_job_give_up(aiol_job *job) {
    if (aiol_pool_withdraw(job->pool, job))
        aiol_job_deliver(job);
}

/* The loop has been closed: nothing comes back from now on. What is still to run runs, and goes then; what is the
 * lane's is given up. */
static void aiol_executor_close(aioloop *loop) {
    aiol_executor *x = loop->executor;
    bool ours = loop->process == aiol_process_id();
    aiol_link *link;
    if (x == NULL)
        return;
    if (ours && x->lane != NULL)
        (void)aiol_pool_shut(x->lane, NULL);
    for (link = x->jobs.next; link != &x->jobs; link = link->next) {
        aiol_job *job = AIOL_CONTAINER(link, aiol_job, link);
        aioloop_future *f = job->future;
        job->future = NULL;
        if (job->pool == x->lane)
            aiol_job_give_up(job);
        if (f == NULL)
            continue;
        f->of.owner = NULL;
        aiol_future_release(f);
    }
    aiol_store(&x->loop, (aioloop *)NULL);
    if (!ours)
        return;
    while (aiol_load(&x->users) != 0)
        ; /* a thread between two instructions of a delivery; rare and short */
    aiol_list_init(&x->jobs); /* they are their threads' now */
    if (x->pool != NULL)
        (void)aiol_pool_shut(x->pool, NULL);
}

/* In a forked child. What a function works on may be in any state, so it is not disposed of. */
static void aiol_executor_forget(aiol_executor *x) {
    while (!aiol_list_empty(&x->jobs)) {
        aiol_job *job = AIOL_CONTAINER(x->jobs.next, aiol_job, link);
        aiol_list_remove(&job->link);
        if (job->state == AIOL_JOB_BEGUN || job->state == AIOL_JOB_ENDED) {
            job->options.dispose = NULL;
            job->pointer = NULL;
        }
        aiol_job_free(job);
    }
    if (x->pool != NULL)
        aiol_pool_forget(x->pool);
    if (x->lane != NULL)
        aiol_pool_forget(x->lane);
}

/* One that was shut down is not the loop's any more. */
static void aiol_executor_drop(aioloop_thread_pool *pool) {
    if (pool == NULL)
        return;
    aiol_pool_wait(pool, false);
    aiol_pool_unref(pool);
}

/* The loop is being freed. Runs user code, for what had come back before it was closed. */
static void aiol_executor_free(aioloop *loop) {
    aiol_executor *x = loop->executor;
    aiol_job *job;
    if (x == NULL)
        return;
    loop->executor = NULL;
    if (loop->process != aiol_process_id()) {
        aiol_executor_forget(x);
        aiol_executor_unref(x);
        return;
    }
    job = aiol_executor_fetch(x);
    while (job != NULL) {
        aiol_job *next = job->next;
        aiol_job_free(job);
        job = next;
    }
    aiol_executor_drop(x->pool);
    aiol_executor_drop(x->lane);
    aiol_executor_unref(x);
}

/* ---- jobs ---- */

static bool aiol_job_cancel(aioloop_future *f, void *owner) {
    aiol_job *job = (aiol_job *)owner;
    if (job == NULL)
        return true; /* the loop was closed, and the job goes its own way */
    job->future = NULL;
    aiol_future_release(f);
    if (job->fn == NULL)
        aioloop_timer_handle_cancel(&job->timer);
    else
        aiol_job_give_up(job); /* what it had is disposed of in the next iteration: cancelling calls nobody */
    return true;
}

/* A job of the loop with its future, in no queue yet; NULL when there is no memory. */
static aiol_job *aiol_job_new(aioloop *loop, aiol_executor *x, aioloop_thread_pool *pool, size_t size) {
    aiol_job *job = (aiol_job *)aiol_alloc(&pool->allocator, size);
    if (job == NULL)
        return NULL;
    memset(job, 0, sizeof(*job));
    job->future = aiol_future_new(loop, aiol_job_cancel, job);
    if (job->future == NULL) {
        aiol_free(&pool->allocator, job, size);
        return NULL;
    }
    job->size = size;
    job->executor = x;
    job->pool = pool;
    aiol_add_u32(&x->refs, 1);
    aiol_add_u32(&pool->refs, 1);
    aiol_list_append(&x->jobs, &job->link);
    return job;
}

/* One that comes to nothing, with its future if nobody has that. */
static void aiol_job_abandon(aiol_job *job) {
    aioloop_future *f = job->future;
    job->future = NULL;
    job->options.dispose = NULL;
    f->of.owner = NULL;
    aiol_future_release(f);
    aioloop_future_unref(f);
    aiol_list_remove(&job->link);
    aiol_job_free(job);
}

/* The pool that is meant, made if need be; NULL with *err. */
static aioloop_thread_pool *aiol_executor_pool(aioloop *loop, aiol_executor *x, aioloop_thread_pool *pool, int *err) {
    aioloop_thread_pool_options options;
    if (pool != NULL)
        return pool;
    if (loop->executor_shutdown) {
        *err = aiol_fail(loop, AIOLOOP_EMISUSE, "the default executor was shut down");
        return NULL;
    }
    if (x->pool != NULL)
        return x->pool;
    memset(&options, 0, sizeof(options));
    x->pool = aiol_pool_new(&options, err);
    x->made = x->pool != NULL;
    if (x->pool == NULL)
        aiol_fail(loop, *err, NULL);
    return x->pool;
}

/* The loop's lane, made if need be; NULL with *err. */
static aioloop_thread_pool *aiol_executor_lane(aioloop *loop, int *err) {
    aiol_executor *x = aiol_executor_of(loop);
    aioloop_thread_pool_options options;
    *err = AIOLOOP_ENOMEM;
    if (x != NULL && x->lane != NULL)
        return x->lane;
    memset(&options, 0, sizeof(options));
    options.max_workers = AIOL_LANE_MOST;
    options.name = "aioloop-resolve";
    if (x != NULL)
        x->lane = aiol_pool_new(&options, err);
    if (x == NULL || x->lane == NULL) {
        aiol_fail(loop, *err, NULL);
        return NULL;
    }
    x->lane->spare = AIOL_LANE_SPARE;
    return x->lane;
}

/* What the function of a job is, and how it runs. */
static void aiol_job_fill(aiol_job *job, aioloop_executor_function fn, void *arg, const aioloop_executor_options *options, bool copies) {
    job->fn = fn;
    job->arg = arg;
    if (options != NULL)
        job->options = *options;
    if (job->options.copy_size != 0) {
        job->arg = (char *)job + AIOL_JOB_ROOM;
        memcpy(job->arg, arg, job->options.copy_size);
    }
    if (job->options.context != NULL)
        aioloop_context_ref(job->options.context);
    else if (copies)
        job->map = aiol_map_ref(aiol_thread.map);
}

static int aiol_executor_check(aioloop *loop, aioloop_executor_function fn, const void *arg, const aioloop_executor_options *options) {
    if (loop == NULL)
        return AIOLOOP_EINVAL;
    if (AIOL_UNLIKELY(loop->careful)) {
        int err = aiol_check(loop);
        if (err < 0)
            return err;
    }
    if (fn == NULL)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a function is needed, not NULL");
    if (options != NULL && (options->copy_size > SIZE_MAX / 2 || (options->copy_size != 0 && arg == NULL)))
        return aiol_fail(loop, AIOLOOP_EINVAL, "copy_size needs something to copy");
    return 0;
}

/* The future of a job that could not be. */
static aioloop_future *aiol_executor_failed(aioloop *loop, int err) {
    return err == AIOLOOP_ECLOSED || err == AIOLOOP_ENOMEM || err == AIOLOOP_EINVAL || err == AIOLOOP_ENOTAVAILABLE
               ? aiol_future_failed(err)
               : aiol_combine_failed(loop, err);
}

static aioloop_future *aiol_executor_submit(aioloop *loop, aioloop_thread_pool *pool, aioloop_executor_function fn, void *arg,
                                            const aioloop_executor_options *options, bool copies) {
    aiol_executor *x = NULL;
    aiol_job *job = NULL;
    aioloop_future *f;
    int err = aiol_executor_check(loop, fn, arg, options);
    if (err == 0 && (x = aiol_executor_of(loop)) == NULL)
        err = aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    if (err == 0)
        pool = aiol_executor_pool(loop, x, pool, &err);
    if (err == 0) {
        job = aiol_job_new(loop, x, pool, AIOL_JOB_ROOM + (options == NULL ? 0 : options->copy_size));
        if (job == NULL)
            err = aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    }
    if (err == 0) {
        aiol_job_fill(job, fn, arg, options, copies);
        f = job->future;
        err = aiol_pool_submit(pool, job);
        if (err == 0)
            return f;
        aiol_job_abandon(job);
        aiol_fail(loop, err,
                  err == AIOLOOP_EMISUSE                            ? "the pool was shut down"
                  : err == AIOLOOP_EAGAIN && pool->queue_limit != 0 ? "the pool is full"
                                                                    : NULL);
    }
    f = aiol_executor_failed(loop, err);
    if (options != NULL && options->dispose != NULL)
        options->dispose(arg);
    return f;
}

AIOLOOP_API aioloop_future *(aioloop_run_in_executor)(aioloop *loop, aioloop_thread_pool *pool, aioloop_executor_function fn, void *arg,
                                                      const aioloop_executor_options *options) {
    return aiol_executor_submit(loop, pool, fn, arg, options, false);
}

AIOLOOP_API aioloop_future *(aioloop_to_thread)(aioloop *loop, aioloop_executor_function fn, void *arg,
                                                const aioloop_executor_options *options) {
    return aiol_executor_submit(loop, NULL, fn, arg, options, true);
}

/* ---- the default ---- */

AIOLOOP_API int aioloop_set_default_executor(aioloop *loop, aioloop_thread_pool *pool) {
    aiol_executor *x;
    aioloop_thread_pool *before;
    int err = loop == NULL ? AIOLOOP_EINVAL + 0 : aiol_check(loop);
    if (err < 0)
        return err;
    if (pool == NULL)
        return aiol_fail(loop, AIOLOOP_EINVAL, "the default executor is a thread pool, not NULL");
    x = aiol_executor_of(loop);
    if (x == NULL)
        return aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    aiol_add_u32(&pool->refs, 1);
    before = x->pool;
    x->pool = pool;
    if (before != NULL && x->made) {
        (void)aiol_pool_shut(before, NULL);
        aiol_pool_wait(before, false);
    }
    x->made = false;
    if (before != NULL)
        aiol_pool_unref(before);
    return 0;
}

/* An unclaimed one that is done; NULL when there is no memory. */
static aioloop_future *aiol_executor_done(aioloop *loop) {
    aioloop_future *f = aiol_future_new(loop, NULL, NULL);
    if (f == NULL)
        return NULL;
    aiol_future_finish(f, 0, NULL, NULL);
    aiol_future_release(f);
    return f;
}

/* The threads are given up. */
static void aiol_executor_expired(aioloop *loop, void *arg) {
    aiol_job *ending = (aiol_job *)arg;
    aioloop_future *f = ending->future;
    ending->future = NULL;
    aiol_warn(loop, 0, "the threads of the default executor did not end in time");
    aiol_future_finish(f, 0, NULL, NULL);
    aiol_future_release(f);
}

/* The news that the pool's threads have ended, for a future; NULL when there is no memory. */
static aiol_job *aiol_executor_ending(aioloop *loop, aiol_executor *x, aioloop_time timeout) {
    aiol_job *ending = aiol_job_new(loop, x, x->pool, sizeof(aiol_job));
    if (ending == NULL || timeout <= 0 || timeout == AIOLOOP_FOREVER)
        return ending;
    ending->timer = (aioloop_call_later)(loop, timeout, aiol_executor_expired, ending);
    if (!aioloop_handle_is_null(&ending->timer.handle))
        return ending;
    aiol_job_abandon(ending);
    return NULL;
}

AIOLOOP_API aioloop_future *(aioloop_shutdown_default_executor)(aioloop *loop, aioloop_time timeout) {
    aiol_executor *x;
    aioloop_future *f;
    aiol_job *ending = NULL;
    int err = loop == NULL || timeout == AIOLOOP_NOT_A_TIME ? AIOLOOP_EINVAL + 0 : aiol_check(loop);
    if (err < 0)
        return aiol_future_failed(err);
    x = loop->executor;
    if (x == NULL || x->pool == NULL) {
        f = aiol_executor_done(loop);
    } else {
        ending = aiol_executor_ending(loop, x, timeout);
        f = ending == NULL ? NULL : ending->future;
    }
    if (f == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    loop->executor_shutdown = true;
    if (ending == NULL)
        return f;
    if (aiol_pool_shut(x->pool, ending))
        aiol_job_finish(ending);
    else if (timeout < 0)
        aiol_executor_expired(loop, ending);
    return f;
}

#endif
