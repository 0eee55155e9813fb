/*
 * test_executor.c - functions that run in thread pools.
 *
 * Each test is clean under TSan. What a function is to wait for is a gate that the test opens.
 */
#include "support.h"

#if !defined(AIOLOOP_USE_THREADS) || AIOLOOP_USE_THREADS != 0

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif

/* What the functions of a test do, and what became of them. */
typedef struct exec_state {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool open; /* the gate */
    int begun;
    int ended;
    int disposed;
    int dropped; /* results */
    pthread_t disposer;
} exec_state;

static exec_state exec;

static void exec_reset(void) {
    memset(&exec, 0, sizeof(exec));
    pthread_mutex_init(&exec.mutex, NULL);
    pthread_cond_init(&exec.changed, NULL);
}

static void exec_count(int *count) {
    pthread_mutex_lock(&exec.mutex);
    ++*count;
    pthread_cond_broadcast(&exec.changed);
    pthread_mutex_unlock(&exec.mutex);
}

static int exec_get(const int *count) {
    int n;
    pthread_mutex_lock(&exec.mutex);
    n = *count;
    pthread_mutex_unlock(&exec.mutex);
    return n;
}

static void exec_wait(const int *count, int wanted) {
    pthread_mutex_lock(&exec.mutex);
    while (*count < wanted)
        pthread_cond_wait(&exec.changed, &exec.mutex);
    pthread_mutex_unlock(&exec.mutex);
}

static void exec_open(void) {
    pthread_mutex_lock(&exec.mutex);
    exec.open = true;
    pthread_cond_broadcast(&exec.changed);
    pthread_mutex_unlock(&exec.mutex);
}

static void exec_dispose(void *arg) {
    (void)arg;
    pthread_mutex_lock(&exec.mutex);
    exec.disposer = pthread_self();
    pthread_mutex_unlock(&exec.mutex);
    exec_count(&exec.disposed);
}

static void exec_drop(void *pointer) {
    (void)pointer;
    exec_count(&exec.dropped);
}

/* Waits at the gate; the result is 7 and arg. */
static int64_t exec_gated(void *arg, void **out) {
    pthread_mutex_lock(&exec.mutex);
    exec.begun++;
    pthread_cond_broadcast(&exec.changed);
    while (!exec.open)
        pthread_cond_wait(&exec.changed, &exec.mutex);
    exec.ended++;
    pthread_mutex_unlock(&exec.mutex);
    *out = arg;
    return 7;
}

static aioloop_thread_pool *exec_pool(int workers, size_t limit) {
    aioloop_thread_pool_options options = AIOLOOP_ZERO;
    aioloop_thread_pool *pool;
    options.max_workers = workers;
    options.queue_limit = limit;
    pool = aioloop_thread_pool_new(&options);
    CHECK(pool != NULL);
    return pool;
}

static const aioloop_executor_options exec_disposes = {0, exec_dispose, exec_drop, NULL};

/* A claimed future of a gated function. */
static aioloop_future *exec_submit(aioloop *loop, aioloop_thread_pool *pool) {
    aioloop_future *f = aioloop_run_in_executor(loop, pool, exec_gated, &exec, &exec_disposes);
    CHECK(!aioloop_future_done(f));
    return aioloop_future_ref(f);
}

static int64_t exec_result(aioloop *loop, aioloop_future *f) {
    return aioloop_run_until_complete(loop, f, NULL);
}

static int64_t exec_nothing(void *arg, void **out) {
    (void)out;
    if (arg != NULL)
        exec_count((int *)arg);
    return 0;
}

/* ---- the outcome ---- */

static int64_t exec_where(void *arg, void **out) {
    *(pthread_t *)arg = pthread_self();
    *out = arg;
    return 42;
}

static void exec_note_thread(aioloop_future *f, void *arg) {
    (void)f;
    *(pthread_t *)arg = pthread_self();
}

TEST_WITH(executor_runs_in_another_thread_and_answers_in_the_loops, "EXEC-01", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_thread_pool *pool = exec_pool(2, 0);
    pthread_t ran = pthread_self();
    pthread_t told;
    void *pointer = NULL;
    aioloop_future *f = aioloop_future_ref(aioloop_run_in_executor(loop, pool, exec_where, &ran, NULL));
    CHECK_EQ(aioloop_future_add_done_callback(f, exec_note_thread, &told), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, f, &pointer), 42);
    CHECK_PTR(pointer, &ran);
    CHECK(!pthread_equal(ran, pthread_self()));
    CHECK(pthread_equal(told, pthread_self()));
    aioloop_future_unref(f);
    aioloop_thread_pool_free(pool);
    test_end(loop);
}

static int64_t exec_fails(void *arg, void **out) {
    (void)out;
    if (arg == NULL)
        return aioloop_raise(NULL, AIOLOOP_EIO, "sector %d", 9);
    return *(int *)arg;
}

TEST_WITH(executor_error_arrives_with_its_message, "EXEC-01", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_thread_pool *pool = exec_pool(1, 0);
    int code = AIOLOOP_ENOENT;
    CHECK_EQ(exec_result(loop, aioloop_run_in_executor(loop, pool, exec_fails, NULL, NULL)), AIOLOOP_EIO);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), "sector 9");
    CHECK_EQ(exec_result(loop, aioloop_run_in_executor(loop, pool, exec_fails, &code, NULL)), AIOLOOP_ENOENT);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), aioloop_strerror(AIOLOOP_ENOENT));
    code = AIOLOOP_ECANCELED;
    CHECK_EQ(exec_result(loop, aioloop_run_in_executor(loop, pool, exec_fails, &code, NULL)), AIOLOOP_ECANCELED);
    aioloop_thread_pool_free(pool);
    test_end(loop);
}

static pthread_key_t exec_key;

static int64_t exec_is_new_thread(void *arg, void **out) {
    bool is_new = pthread_getspecific(exec_key) == NULL;
    (void)arg;
    (void)out;
    pthread_setspecific(exec_key, &exec);
    return is_new;
}

TEST_WITH(executor_default_pool_is_made_once, "EXEC-02", TEST_THREADS) {
    aioloop *loop = test_loop();
    int threads = 0;
    int i;
    CHECK_EQ(pthread_key_create(&exec_key, NULL), 0);
    for (i = 0; i < 100; i++) {
        int64_t n = exec_result(loop, aioloop_run_in_executor(loop, NULL, exec_is_new_thread, NULL, NULL));
        CHECK_GE(n, 0);
        threads += (int)n;
    }
    CHECK_GE(threads, 1);
    CHECK_LE(threads, 32); /* what a pool has at most */
    test_end(loop);
    pthread_key_delete(exec_key);
}

typedef struct exec_numbers {
    int a, b;
} exec_numbers;

static int64_t exec_add(void *arg, void **out) {
    const exec_numbers *numbers = (const exec_numbers *)arg;
    (void)out;
    return numbers->a + numbers->b;
}

TEST_WITH(executor_argument_is_copied_and_disposed_of_once, "EXEC-01", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_thread_pool *pool = exec_pool(1, 0);
    aioloop_executor_options options = AIOLOOP_ZERO;
    exec_numbers numbers;
    aioloop_future *f;
    exec_reset();
    numbers.a = 2;
    numbers.b = 3;
    options.copy_size = sizeof(numbers);
    options.dispose = exec_dispose;
    f = aioloop_run_in_executor(loop, pool, exec_add, &numbers, &options);
    memset(&numbers, 0, sizeof(numbers));
    CHECK_EQ(exec_result(loop, f), 5);
    CHECK_EQ(exec.disposed, 1);
    CHECK(pthread_equal(exec.disposer, pthread_self()));
    f = aioloop_run_in_executor(loop, pool, exec_add, NULL, &options);
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_EINVAL);
    CHECK_EQ(exec.disposed, 2);
    aioloop_thread_pool_free(pool);
    test_end(loop);
    CHECK_EQ(exec.disposed, 2);
}

/* ---- cancelling ---- */

TEST_WITH(executor_cancelled_before_it_begins_never_runs, "EXEC-03", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_thread_pool *pool = exec_pool(1, 0);
    aioloop_future *first;
    aioloop_future *second;
    exec_reset();
    first = exec_submit(loop, pool);
    second = exec_submit(loop, pool);
    exec_wait(&exec.begun, 1);
    CHECK(aioloop_future_cancel(second, NULL));
    CHECK(aioloop_future_cancelled(second));
    CHECK_EQ(exec_get(&exec.disposed), 0); /* cancelling calls nobody */
    test_spin(loop, 2);
    CHECK_EQ(exec_get(&exec.disposed), 1);
    exec_open();
    CHECK_EQ(exec_result(loop, first), 7);
    aioloop_thread_pool_free(pool);
    CHECK_EQ(exec.begun, 1);
    CHECK_EQ(exec.disposed, 2);
    aioloop_future_unref(first);
    aioloop_future_unref(second);
    test_end(loop);
}

TEST_WITH(executor_cancelled_while_it_runs_its_result_is_dropped, "EXEC-04", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_thread_pool *pool = exec_pool(1, 0);
    aioloop_future *f;
    exec_reset();
    f = exec_submit(loop, pool);
    exec_wait(&exec.begun, 1);
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK(aioloop_future_cancelled(f));
    aioloop_future_unref(f);
    test_spin(loop, 2);
    CHECK_EQ(exec_get(&exec.ended), 0);
    exec_open();
    aioloop_thread_pool_free(pool);
    CHECK_EQ(exec.ended, 1);
    CHECK_EQ(exec.dropped, 0); /* that is for the loop's thread */
    test_spin(loop, 2);
    CHECK_EQ(exec.dropped, 1);
    CHECK_EQ(exec.disposed, 1);
    test_end(loop);
}

typedef struct exec_tally {
    int finished;
    int cancelled;
} exec_tally;

static void exec_tell(aioloop_future *f, void *arg) {
    exec_tally *tally = (exec_tally *)arg;
    if (aioloop_future_cancelled(f))
        tally->cancelled++;
    else if (aioloop_future_result(f, NULL) == 0)
        tally->finished++;
}

TEST_WITH(executor_cancels_race_with_the_threads, "EXEC-03 EXEC-04", TEST_THREADS | TEST_SLOW) {
    const int total = 10000;
    aioloop *loop = test_loop();
    aioloop_thread_pool *pool = exec_pool(2, 0);
    aioloop_executor_options options = AIOLOOP_ZERO;
    aioloop_future *last[8];
    exec_tally tally = AIOLOOP_ZERO;
    int cancelled = 0;
    int i;
    exec_reset();
    memset(last, 0, sizeof(last));
    options.dispose = exec_dispose;
    for (i = 0; i < total; i++) {
        aioloop_future **place = &last[i % 8];
        if (*place != NULL && i % 3 != 0)
            cancelled += aioloop_future_cancel(*place, NULL);
        aioloop_future_unref(*place);
        *place = aioloop_future_ref(aioloop_run_in_executor(loop, pool, exec_nothing, &exec.ended, &options));
        CHECK_EQ(aioloop_future_add_done_callback(*place, exec_tell, &tally), 0);
        if (i % 16 == 0)
            test_spin(loop, 1);
    }
    for (i = 0; i < 8; i++)
        aioloop_future_unref(last[i]);
    CHECK_EQ(aioloop_thread_pool_shutdown(pool, true, false), 0);
    test_spin(loop, 3);
    CHECK_EQ(exec.disposed, total);
    CHECK_EQ(tally.cancelled, cancelled);
    CHECK_EQ(tally.cancelled + tally.finished, total);
    CHECK_GE(exec.ended, tally.finished);
    CHECK_LE(exec.ended, total);
    aioloop_thread_pool_free(pool);
    test_end(loop);
}

/* ---- the end of the loop ---- */

TEST_WITH(executor_function_that_ends_after_close_disturbs_nothing, "EXEC-05", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_thread_pool *pool = exec_pool(1, 0);
    exec_tally tally = AIOLOOP_ZERO;
    aioloop_future *running;
    aioloop_future *waiting;
    exec_reset();
    running = exec_submit(loop, pool);
    waiting = exec_submit(loop, pool);
    CHECK_EQ(aioloop_future_add_done_callback(running, exec_tell, &tally), 0);
    exec_wait(&exec.begun, 1);
    CHECK_EQ(aioloop_close(loop), 0);
    exec_open();
    exec_wait(&exec.disposed, 2); /* both ran to their end */
    CHECK(!pthread_equal(exec.disposer, pthread_self()));
    CHECK_EQ(exec_get(&exec.dropped), 2);
    CHECK(!aioloop_future_done(running));
    CHECK(aioloop_future_cancel(waiting, NULL));
    aioloop_thread_pool_free(pool);
    CHECK_EQ(tally.finished + tally.cancelled, 0);
    aioloop_future_unref(running);
    aioloop_future_unref(waiting);
    test_end(loop);
}

TEST_WITH(executor_function_may_outlive_the_loop, "EXEC-05", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_thread_pool *pool = exec_pool(1, 0);
    exec_reset();
    aioloop_future_unref(exec_submit(loop, pool));
    aioloop_future_unref(exec_submit(loop, pool));
    exec_wait(&exec.begun, 1);
    test_end(loop);
    CHECK_EQ(exec_get(&exec.disposed), 0);
    exec_open();
    aioloop_thread_pool_free(pool);
    CHECK_EQ(exec.disposed, 2);
    CHECK_EQ(exec.dropped, 2);
}

TEST_WITH(executor_result_that_nobody_fetched_goes_with_the_loop, "EXEC-05", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_thread_pool *pool = exec_pool(1, 0);
    exec_reset();
    exec_open();
    aioloop_future_unref(exec_submit(loop, pool));
    aioloop_thread_pool_free(pool); /* it has ended, and posted */
    CHECK_EQ(exec.ended, 1);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK_EQ(exec.disposed, 0);
    test_end(loop);
    CHECK_EQ(exec.disposed, 1);
    CHECK_EQ(exec.dropped, 1);
    CHECK(pthread_equal(exec.disposer, pthread_self()));
}

TEST_WITH(executor_loops_may_close_while_threads_deliver, "EXEC-05", TEST_THREADS) {
    aioloop_thread_pool *pool = exec_pool(2, 0);
    int round, i;
    exec_reset();
    for (round = 0; round < 20; round++) {
        aioloop *loop = test_loop();
        for (i = 0; i < 10; i++) {
            aioloop_future *f = aioloop_run_in_executor(loop, pool, exec_nothing, &exec.ended, &exec_disposes);
            CHECK(!aioloop_future_done(f));
            aioloop_future_unref(f);
        }
        exec_wait(&exec.ended, round * 10 + 1 + round % 10);
        test_end(loop);
    }
    aioloop_thread_pool_free(pool);
    CHECK_EQ(exec.ended, 200);
    CHECK_EQ(exec.disposed, 200);
}

TEST_WITH(executor_of_a_closed_loop_is_refused, "EXEC-06 RUN-17", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_thread_pool *pool = exec_pool(1, 0);
    aioloop_future *f;
    exec_reset();
    CHECK_EQ(aioloop_close(loop), 0);
    f = aioloop_run_in_executor(loop, pool, exec_gated, NULL, &exec_disposes);
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_ECLOSED);
    f = aioloop_run_in_executor(loop, NULL, exec_gated, NULL, &exec_disposes);
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_ECLOSED);
    f = aioloop_to_thread(loop, exec_gated, NULL, &exec_disposes);
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_ECLOSED);
    CHECK_EQ(exec.disposed, 3);
    CHECK_EQ(exec.begun, 0);
    f = aioloop_shutdown_default_executor(loop, 0);
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_set_default_executor(loop, pool), AIOLOOP_ECLOSED);
    aioloop_thread_pool_free(pool);
    test_end(loop);
}

TEST_WITH(executor_close_begins_the_shutdown_and_does_not_wait, "RUN-16", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop *other = test_loop();
    aioloop_thread_pool *pool = exec_pool(1, 0);
    aioloop_future *f;
    exec_reset();
    CHECK_EQ(aioloop_set_default_executor(loop, pool), 0);
    aioloop_future_unref(exec_submit(loop, NULL));
    exec_wait(&exec.begun, 1);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK_EQ(exec_get(&exec.ended), 0);
    f = aioloop_future_ref(aioloop_run_in_executor(other, pool, exec_gated, NULL, NULL));
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_EMISUSE);
    aioloop_future_unref(f);
    test_end(loop);
    exec_open();
    aioloop_thread_pool_free(pool);
    CHECK_EQ(exec.ended, 1);
    test_end(other);
}

/* ---- the default ---- */

TEST_WITH(executor_default_must_be_a_pool, "EXEC-07", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_thread_pool *pool = exec_pool(1, 0);
    CHECK_EQ(exec_result(loop, aioloop_run_in_executor(loop, NULL, exec_nothing, NULL, NULL)), 0);
    CHECK_EQ(aioloop_set_default_executor(loop, pool), 0); /* in the place of the loop's own */
    CHECK_EQ(aioloop_set_default_executor(loop, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_set_default_executor(NULL, pool), AIOLOOP_EINVAL);
    CHECK_EQ(exec_result(loop, aioloop_run_in_executor(loop, NULL, exec_nothing, NULL, NULL)), 0);
    CHECK_EQ(aioloop_thread_pool_shutdown(pool, true, false), 0);
    CHECK_EQ(exec_result(loop, aioloop_run_in_executor(loop, NULL, exec_nothing, NULL, NULL)), AIOLOOP_EMISUSE);
    aioloop_thread_pool_free(pool);
    test_end(loop);
}

static void exec_open_later(aioloop *loop, void *arg) {
    (void)loop;
    ++*(int *)arg;
    exec_open();
}

TEST_WITH(executor_shutdown_waits_without_blocking_the_loop, "RUN-22", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_future *job;
    aioloop_future *f;
    aioloop_timer_handle timer;
    int ticks = 0;
    exec_reset();
    f = aioloop_shutdown_default_executor(loop, 0);
    CHECK(aioloop_future_done(f)); /* there was none */
    aioloop_future_unref(f);
    test_end(loop);
    loop = test_loop();
    job = exec_submit(loop, NULL);
    exec_wait(&exec.begun, 1);
    f = aioloop_future_ref(aioloop_shutdown_default_executor(loop, 0));
    CHECK(!aioloop_future_done(f));
    timer = aioloop_call_later(loop, AIOLOOP_MS(1), exec_open_later, &ticks);
    CHECK(!aioloop_handle_is_null(&timer.handle));
    CHECK_EQ(exec_result(loop, f), 0);
    CHECK_EQ(ticks, 1);
    CHECK(aioloop_future_done(job));
    CHECK_EQ(exec.ended, 1);
    aioloop_future_unref(f);
    aioloop_future_unref(job);
    f = aioloop_shutdown_default_executor(loop, AIOLOOP_MS(1));
    CHECK(aioloop_future_done(f));
    aioloop_future_unref(f);
    test_end(loop);
}

TEST_WITH(executor_shutdown_gives_up_with_a_warning, "RUN-23", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_thread_pool *pool = exec_pool(1, 0);
    aioloop_future *f;
    exec_reset();
    CHECK_EQ(aioloop_set_default_executor(loop, pool), 0);
    aioloop_future_unref(exec_submit(loop, NULL));
    exec_wait(&exec.begun, 1);
    CHECK_EQ(exec_result(loop, aioloop_shutdown_default_executor(loop, AIOLOOP_MS(1))), 0);
    CHECK_EQ(test_log_lines(), 1);
    CHECK_STR(test_log_text(), "the threads of the default executor did not end in time");
    f = aioloop_shutdown_default_executor(loop, -1);
    CHECK(aioloop_future_done(f));
    aioloop_future_unref(f);
    CHECK_EQ(test_log_lines(), 2);
    test_log_clear();
    f = aioloop_future_ref(aioloop_shutdown_default_executor(loop, AIOLOOP_MS(1000)));
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK(aioloop_future_cancelled(f));
    aioloop_future_unref(f);
    CHECK_EQ(exec_get(&exec.ended), 0);
    exec_open();
    CHECK_EQ(exec_result(loop, aioloop_shutdown_default_executor(loop, 0)), 0);
    CHECK_EQ(exec.ended, 1);
    CHECK_EQ(test_log_lines(), 0);
    aioloop_thread_pool_free(pool);
    test_end(loop);
}

TEST_WITH(executor_shutdown_begun_may_be_left_behind, "RUN-22 RUN-16", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_thread_pool *pool = exec_pool(2, 0);
    aioloop_future *f;
    exec_reset();
    CHECK_EQ(aioloop_set_default_executor(loop, pool), 0);
    aioloop_future_unref(exec_submit(loop, NULL));
    f = aioloop_future_ref(aioloop_shutdown_default_executor(loop, AIOLOOP_MS(1000)));
    CHECK_EQ(aioloop_close(loop), 0);
    exec_open();
    aioloop_thread_pool_free(pool);
    CHECK(!aioloop_future_done(f));
    CHECK(aioloop_future_cancel(f, NULL));
    aioloop_future_unref(f);
    test_end(loop);
}

TEST_WITH(executor_default_refuses_after_its_shutdown, "RUN-24", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_thread_pool *pool = exec_pool(1, 0);
    aioloop_future *f = aioloop_shutdown_default_executor(loop, 0);
    CHECK_EQ(aioloop_future_exception(f), 0);
    aioloop_future_unref(f);
    exec_reset();
    CHECK_EQ(exec_result(loop, aioloop_run_in_executor(loop, NULL, exec_gated, NULL, &exec_disposes)), AIOLOOP_EMISUSE);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), "the default executor was shut down");
    CHECK_EQ(exec_result(loop, aioloop_to_thread(loop, exec_gated, NULL, &exec_disposes)), AIOLOOP_EMISUSE);
    CHECK_EQ(exec.disposed, 2);
    CHECK_EQ(exec_result(loop, aioloop_run_in_executor(loop, pool, exec_nothing, NULL, NULL)), 0);
    aioloop_thread_pool_free(pool);
    test_end(loop);
}

/* ---- aioloop_run ---- */

typedef struct exec_main {
    aioloop_frame frame;
} exec_main;

static int64_t exec_leaves_work(aioloop *loop, aioloop_frame *frame, void **out) {
    aioloop_future *f;
    aioloop_handle opens;
    (void)frame;
    (void)out;
    f = aioloop_to_thread(loop, exec_gated, NULL, &exec_disposes);
    if (aioloop_future_done(f))
        return aioloop_future_exception(f);
    aioloop_future_unref(f);
    exec_wait(&exec.begun, 1);
    opens = aioloop_call_soon(loop, exec_open_later, &exec.dropped);
    if (aioloop_handle_is_null(&opens))
        exec_open();
    return 5;
}

TEST_WITH(executor_is_shut_down_by_run, "RUN-22", TEST_THREADS) {
    exec_main m = AIOLOOP_ZERO;
    exec_reset();
    CHECK_EQ(aioloop_run_frame(exec_leaves_work, &m.frame, NULL), 5);
    CHECK_EQ(exec.ended, 1);
    CHECK_EQ(exec.disposed, 1);
}

/* asyncio's example: the same blocking function in the default pool and in one of the program's. */
static int64_t exec_reads_file(void *arg, void **out) {
    FILE *file = fopen((const char *)arg, "rb");
    char bytes[100];
    size_t size;
    (void)out;
    if (file == NULL)
        return aioloop_raise(NULL, AIOLOOP_ENOENT, "cannot open %s", (const char *)arg);
    size = fread(bytes, 1, sizeof(bytes), file);
    fclose(file);
    exec_wait(&exec.dropped, 1); /* the loop does other things meanwhile */
    return (int64_t)size;
}

static void exec_tick(aioloop *loop, void *arg) {
    (void)loop;
    exec_count((int *)arg);
}

TEST_WITH(executor_runs_blocking_work_while_the_loop_responds, "EX-05", TEST_THREADS) {
    static char path[] = "/dev/zero";
    aioloop *loop = test_loop();
    aioloop_thread_pool *pool = exec_pool(1, 0);
    aioloop_thread_pool *places[2];
    int i;
    places[0] = NULL;
    places[1] = pool;
    for (i = 0; i < 2; i++) {
        aioloop_timer_handle timer;
        aioloop_future *f;
        exec_reset();
        f = aioloop_future_ref(aioloop_run_in_executor(loop, places[i], exec_reads_file, path, NULL));
        timer = aioloop_call_later(loop, AIOLOOP_MS(1), exec_tick, &exec.dropped);
        CHECK(!aioloop_handle_is_null(&timer.handle));
        CHECK_EQ(exec_result(loop, f), 100);
        CHECK_EQ(exec.dropped, 1);
        aioloop_future_unref(f);
    }
    aioloop_thread_pool_free(pool);
    test_end(loop);
}

/* ---- contexts ---- */

static aioloop_context_var exec_var;

static int64_t exec_read_var(void *arg, void **out) {
    (void)arg;
    *out = aioloop_context_get(&exec_var);
    return aioloop_context_set(&exec_var, &exec_key, NULL);
}

TEST_WITH(executor_to_thread_takes_a_copy_of_the_context, "THR-02", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_executor_options options = AIOLOOP_ZERO;
    aioloop_future *f;
    void *pointer = NULL;
    int value = 0;
    CHECK_EQ(aioloop_context_set(&exec_var, &value, NULL), 0);
    options.context = aioloop_copy_context();
    CHECK(options.context != NULL);
    f = aioloop_to_thread(loop, exec_read_var, NULL, NULL);
    CHECK_EQ(aioloop_run_until_complete(loop, f, &pointer), 0);
    CHECK_PTR(pointer, &value);
    CHECK_PTR(aioloop_context_get(&exec_var), &value); /* what it set stayed in the copy */
    f = aioloop_run_in_executor(loop, NULL, exec_read_var, NULL, NULL);
    CHECK_EQ(aioloop_run_until_complete(loop, f, &pointer), 0);
    CHECK_PTR(pointer, NULL); /* and takes none along, nor the one of the function before */
    f = aioloop_run_in_executor(loop, NULL, exec_read_var, NULL, &options);
    CHECK_EQ(aioloop_run_until_complete(loop, f, &pointer), 0);
    CHECK_PTR(pointer, &value);
    f = aioloop_to_thread(loop, exec_read_var, NULL, &options);
    CHECK_EQ(aioloop_run_until_complete(loop, f, &pointer), 0);
    CHECK_PTR(pointer, &exec_key); /* in this one it stayed */
    aioloop_context_unref(options.context);
    CHECK_EQ(aioloop_context_set(&exec_var, NULL, NULL), 0);
    test_end(loop);
}

/* ---- pools ---- */

TEST_WITH(executor_full_pool_says_so, "EXEC-01", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_thread_pool *pool = exec_pool(2, 3);
    aioloop_future *fs[5];
    aioloop_future *f;
    int i;
    exec_reset();
    for (i = 0; i < 5; i++)
        fs[i] = exec_submit(loop, pool); /* two run or are about to, three wait */
    CHECK_EQ(exec_result(loop, aioloop_run_in_executor(loop, pool, exec_gated, NULL, &exec_disposes)), AIOLOOP_EAGAIN);
    CHECK_EQ(exec.disposed, 1);
    CHECK(aioloop_future_cancel(fs[4], NULL)); /* its place is free at once */
    f = exec_submit(loop, pool);
    aioloop_future_unref(fs[4]);
    fs[4] = f;
    exec_open();
    for (i = 0; i < 5; i++) {
        CHECK_EQ(exec_result(loop, fs[i]), 7);
        aioloop_future_unref(fs[i]);
    }
    aioloop_thread_pool_free(pool);
    CHECK_EQ(exec.ended, 5);
    test_end(loop);
}

TEST_WITH(executor_shutdown_of_a_pool_may_cancel_what_waits, "EXEC-03", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_thread_pool *pool = exec_pool(1, 0);
    aioloop_future *running;
    aioloop_future *waiting;
    aioloop_future *f;
    exec_reset();
    running = exec_submit(loop, pool);
    waiting = exec_submit(loop, pool);
    exec_wait(&exec.begun, 1);
    CHECK_EQ(aioloop_thread_pool_shutdown(pool, false, true), 0);
    CHECK_EQ(exec_result(loop, waiting), AIOLOOP_ECANCELED);
    CHECK(!aioloop_future_done(running));
    f = aioloop_run_in_executor(loop, pool, exec_gated, NULL, NULL);
    CHECK_EQ(exec_result(loop, f), AIOLOOP_EMISUSE);
    exec_open();
    CHECK_EQ(aioloop_thread_pool_shutdown(pool, true, true), 0);
    CHECK_EQ(aioloop_thread_pool_shutdown(pool, true, false), 0);
    CHECK_EQ(exec_result(loop, running), 7);
    aioloop_thread_pool_free(pool);
    CHECK_EQ(exec.begun, 1);
    aioloop_future_unref(running);
    aioloop_future_unref(waiting);
    test_end(loop);
}

TEST_WITH(executor_shutdown_of_a_pool_runs_what_waits, "EXEC-01", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_thread_pool *pool = exec_pool(1, 0);
    int i;
    exec_reset();
    for (i = 0; i < 10; i++)
        aioloop_future_unref(exec_submit(loop, pool));
    exec_open();
    aioloop_thread_pool_free(pool);
    CHECK_EQ(exec.ended, 10);
    test_spin(loop, 2);
    CHECK_EQ(exec.disposed, 10);
    CHECK_EQ(exec.dropped, 10);
    test_end(loop);
}

static int64_t exec_shuts_own_pool(void *arg, void **out) {
    aioloop_thread_pool *pool = (aioloop_thread_pool *)arg;
    int err = aioloop_thread_pool_shutdown(pool, true, false);
    (void)out;
    aioloop_thread_pool_free(pool); /* does not wait for this thread */
    exec_count(&exec.ended);
    return err;
}

TEST_WITH(executor_thread_does_not_wait_for_itself, "EXEC-01", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_thread_pool *pool = exec_pool(1, 0);
    exec_reset();
    CHECK_EQ(aioloop_set_default_executor(loop, pool), 0);
    CHECK_EQ(exec_result(loop, aioloop_run_in_executor(loop, pool, exec_shuts_own_pool, pool, NULL)), AIOLOOP_EMISUSE);
    CHECK_EQ(exec.ended, 1);
    CHECK_EQ(exec_result(loop, aioloop_shutdown_default_executor(loop, 0)), 0);
    test_end(loop);
}

static int exec_blocks; /* of the allocator */

static void *exec_allocate(void *context, void *pointer, size_t old_size, size_t new_size) {
    void *block = NULL;
    (void)context;
    (void)old_size;
    if (new_size == 0)
        test_free(pointer);
    else
        block = test_realloc(pointer, new_size);
    pthread_mutex_lock(&exec.mutex);
    exec_blocks += (block != NULL && pointer == NULL) - (new_size == 0 && pointer != NULL);
    pthread_cond_broadcast(&exec.changed);
    pthread_mutex_unlock(&exec.mutex);
    return block;
}

static int64_t exec_frees_own_pool(void *arg, void **out) {
    void *nothing = NULL;
    (void)out;
    aioloop_thread_pool_free((aioloop_thread_pool *)arg);
    return exec_gated(NULL, &nothing);
}

TEST_WITH(executor_pool_without_an_owner_goes_with_its_last_thread, "EXEC-05", TEST_THREADS) {
    aioloop *loop = test_loop();
    const aioloop_allocator allocator = {exec_allocate, NULL};
    aioloop_thread_pool_options options = AIOLOOP_ZERO;
    aioloop_thread_pool *pool;
    aioloop_future *f;
    exec_reset();
    exec_blocks = 0;
    options.max_workers = 2;
    options.allocator = &allocator;
    pool = aioloop_thread_pool_new(&options);
    CHECK(pool != NULL);
    CHECK_EQ(exec_result(loop, aioloop_run_in_executor(loop, pool, exec_nothing, NULL, NULL)), 0);
    f = aioloop_run_in_executor(loop, pool, exec_frees_own_pool, pool, NULL);
    CHECK(!aioloop_future_done(f));
    aioloop_future_unref(f);
    exec_wait(&exec.begun, 1);
    test_end(loop);
    exec_open();
    pthread_mutex_lock(&exec.mutex);
    while (exec_blocks != 0)
        pthread_cond_wait(&exec.changed, &exec.mutex);
    pthread_mutex_unlock(&exec.mutex);
    CHECK_EQ(exec.ended, 1);
}

#if defined(__linux__)
static int64_t exec_tell_name(void *arg, void **out) {
    char stack[32768]; /* there is room for it */
    (void)out;
    memset(stack, 1, sizeof(stack));
    return stack[sizeof(stack) - 1] == 1 ? -pthread_getname_np(pthread_self(), (char *)arg, 16) : -1;
}

TEST_WITH(executor_threads_have_a_name_and_a_stack, "EXEC-01", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_thread_pool_options options = AIOLOOP_ZERO;
    aioloop_thread_pool *pool;
    char name[16] = "";
    options.max_workers = 1;
    options.stack_size = 100000;
    options.name = "a name that is too long";
    pool = aioloop_thread_pool_new(&options);
    CHECK(pool != NULL);
    CHECK_EQ(exec_result(loop, aioloop_run_in_executor(loop, pool, exec_tell_name, name, NULL)), 0);
    CHECK_STR(name, "a name that is ");
    aioloop_thread_pool_free(pool);
    test_end(loop);
}
#endif

TEST(executor_calls_that_make_no_sense_are_refused, "RUN-17") {
    aioloop *loop = test_loop();
    aioloop_thread_pool_options options = AIOLOOP_ZERO;
    aioloop_future *f;
    test_needs_threads(loop);
    options.max_workers = -1;
    CHECK(aioloop_thread_pool_new(&options) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_thread_pool_shutdown(NULL, true, true), AIOLOOP_EINVAL);
    aioloop_thread_pool_free(NULL);
    f = aioloop_run_in_executor(NULL, NULL, exec_nothing, NULL, NULL);
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_EINVAL);
    f = aioloop_run_in_executor(loop, NULL, NULL, NULL, NULL);
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_EINVAL);
    f = aioloop_to_thread(loop, NULL, NULL, NULL);
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_EINVAL);
    f = aioloop_shutdown_default_executor(NULL, 0);
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_EINVAL);
    f = aioloop_shutdown_default_executor(loop, AIOLOOP_NOT_A_TIME);
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_EINVAL);
    test_end(loop);
}

/* ---- several loops ---- */

typedef struct exec_user {
    aioloop_thread_pool *pool;
    int jobs;
    int submitted;
    int done;
    int wrong;
    bool failed;
} exec_user;

static int64_t exec_twice(void *arg, void **out) {
    (void)out;
    return 2 * *(int *)arg;
}

static void exec_more(aioloop *loop, exec_user *u);

static void exec_one_done(aioloop_future *f, void *arg) {
    exec_user *u = (exec_user *)arg;
    int64_t n = aioloop_future_result(f, NULL);
    if (n < 0 || n % 2 != 0)
        u->wrong++;
    u->done++;
    exec_more(aioloop_future_get_loop(f), u);
}

/* One more job, or the end. */
static void exec_more(aioloop *loop, exec_user *u) {
    aioloop_executor_options options = AIOLOOP_ZERO;
    options.copy_size = sizeof(u->submitted);
    if (u->done == u->jobs) {
        aioloop_stop(loop);
    } else if (u->submitted < u->jobs) {
        aioloop_future *f = aioloop_run_in_executor(loop, u->pool, exec_twice, &u->submitted, &options);
        u->submitted++;
        if (aioloop_future_then(f, exec_one_done, u) < 0) {
            u->failed = true;
            aioloop_stop(loop);
        }
    }
}

static void *exec_use(void *arg) {
    exec_user *u = (exec_user *)arg;
    aioloop *loop = aioloop_new_event_loop(NULL);
    int i;
    if (loop == NULL) {
        u->failed = true;
        return NULL;
    }
    for (i = 0; i < 64; i++)
        exec_more(loop, u);
    if (aioloop_run_forever(loop) < 0)
        u->failed = true;
    aioloop_free(loop);
    return NULL;
}

static void exec_use_together(int loops, int jobs) {
    aioloop_thread_pool *pool = exec_pool(4, 0);
    exec_user users[4];
    pthread_t threads[4];
    int i;
    memset(users, 0, sizeof(users));
    for (i = 0; i < loops; i++) {
        users[i].pool = pool;
        users[i].jobs = jobs;
        CHECK_EQ(pthread_create(&threads[i], NULL, exec_use, &users[i]), 0);
    }
    for (i = 0; i < loops; i++)
        pthread_join(threads[i], NULL);
    for (i = 0; i < loops; i++) {
        CHECK(!users[i].failed);
        CHECK_EQ(users[i].done, jobs);
        CHECK_EQ(users[i].wrong, 0);
    }
    aioloop_thread_pool_free(pool);
}

TEST_WITH(executor_pool_serves_two_loops, "EXEC-01", TEST_THREADS) {
    exec_use_together(2, 100);
}

TEST_WITH(executor_pool_serves_four_loops_for_long, "EXEC-01", TEST_THREADS | TEST_SLOW) {
    exec_use_together(4, 25000);
}

/* ---- others ---- */

static int64_t exec_sleeps(void *arg, void **out) {
    (void)arg;
    (void)out;
    usleep(2300000);
    return 1;
}

TEST_WITH(executor_loop_that_waits_for_a_thread_is_not_stuck, "EXEC-01", TEST_THREADS | TEST_SLOW) {
    aioloop *loop = test_loop();
    if (!test_simulated(loop)) {
        test_end(loop);
        SKIP("real time");
    }
    CHECK_EQ(exec_result(loop, aioloop_to_thread(loop, exec_sleeps, NULL, NULL)), 1);
    test_end(loop);
}

TEST_WITH(executor_of_the_parent_is_memory_in_a_forked_child, "GET-06", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_thread_pool *pool = exec_pool(1, 0);
    aioloop_future *running;
    int status = -1;
    pid_t child;
    exec_reset();
    CHECK_EQ(aioloop_set_default_executor(loop, pool), 0);
    running = exec_submit(loop, NULL);
    aioloop_future_unref(exec_submit(loop, NULL));
    exec_wait(&exec.begun, 1);
    child = fork();
    if (child == 0) {
        bool refused = aioloop_thread_pool_shutdown(pool, true, false) == AIOLOOP_EMISUSE;
        aioloop_free(loop);
        aioloop_thread_pool_free(pool);
        _exit(refused ? 0 : 1);
    }
    CHECK_GT(child, 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    exec_open();
    CHECK_EQ(exec_result(loop, running), 7);
    aioloop_future_unref(running);
    aioloop_thread_pool_free(pool);
    test_end(loop);
}

#if defined(__linux__) && defined(SYS_sched_getattr)
typedef struct exec_schedule {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t slice, deadline, period;
} exec_schedule;

static int64_t exec_schedule_of_thread(void *arg, void **out) {
    (void)out;
    return syscall(SYS_sched_getattr, 0, arg, (unsigned)sizeof(exec_schedule), 0u);
}

/* Its slices are longer, so what wakes up goes first. Systems before Linux 6.12 have no such slices, and tell 0. */
TEST_WITH(executor_threads_give_way_to_loops, "RUN-22", TEST_THREADS) {
    aioloop *loop = test_loop();
    exec_schedule own = AIOLOOP_ZERO;
    exec_schedule its = AIOLOOP_ZERO;
    CHECK_EQ(exec_schedule_of_thread(&own, NULL), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_run_in_executor(loop, NULL, exec_schedule_of_thread, &its, NULL), NULL), 0);
    CHECK_EQ(its.policy, own.policy);
    CHECK_EQ(its.nice, own.nice);
    if (own.slice != 0 && own.policy == 0)
        CHECK_EQ(its.slice, 100000000u);
    test_end(loop);
}
#endif

#else

static int64_t exec_nothing(void *arg, void **out) {
    (void)arg;
    (void)out;
    return 0;
}

TEST(executor_without_threads_says_so, "RUN-22") {
    aioloop *loop = test_loop();
    aioloop_future *f;
    CHECK(aioloop_thread_pool_new(NULL) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(NULL)), AIOLOOP_ENOTAVAILABLE);
    f = aioloop_run_in_executor(loop, NULL, exec_nothing, NULL, NULL);
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_ENOTAVAILABLE);
    f = aioloop_to_thread(loop, exec_nothing, NULL, NULL);
    CHECK_EQ(aioloop_future_exception(f), AIOLOOP_ENOTAVAILABLE);
    f = aioloop_shutdown_default_executor(loop, 0);
    CHECK_EQ(aioloop_future_exception(f), 0);
    aioloop_future_unref(f);
    test_end(loop);
}

#endif
