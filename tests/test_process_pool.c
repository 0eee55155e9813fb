/*
 * test_process_pool.c - functions that run in other processes.
 *
 * What they and the test tell each other, apart from bytes, is in memory that they share: semaphores.
 */
#include "support.h"

#if !defined(AIOLOOP_USE_THREADS) || AIOLOOP_USE_THREADS != 0

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct pp_shared {
    sem_t begun;
    sem_t gate;
    sem_t meeting[2];
    int handled; /* signals, by a handler of the program's */
    volatile int slow; /* the server's forks are; 2: one has been */
    volatile int late; /* what the program has forked was not told to end in time */
} pp_shared;

static pp_shared *pp; /* made before the pool, so that workers have it */

/* In a worker: 0, or what it fails with when the test has got into trouble. */
static int pp_wait(sem_t *semaphore) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 7;
    while (sem_timedwait(semaphore, &until) == -1)
        if (errno != EINTR)
            return AIOLOOP_ETIMEDOUT;
    return 0;
}

static void pp_share(void) {
    void *memory = mmap(NULL, sizeof(pp_shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    pp = (pp_shared *)memory;
    CHECK_EQ(sem_init(&pp->begun, 1, 0), 0);
    CHECK_EQ(sem_init(&pp->gate, 1, 0), 0);
    CHECK_EQ(sem_init(&pp->meeting[0], 1, 0), 0);
    CHECK_EQ(sem_init(&pp->meeting[1], 1, 0), 0);
}

static aioloop_process_pool *pp_pool(int workers, size_t limit) {
    aioloop_process_pool_options options = AIOLOOP_ZERO;
    aioloop_process_pool *pool;
    options.max_workers = workers;
    options.queue_limit = limit;
    pp_share();
    pool = aioloop_process_pool_new(&options);
    CHECK(pool != NULL);
    return pool;
}

/* All its processes have ended, and nobody is left to be waited for. */
static void pp_end(aioloop_process_pool *pool) {
    aioloop_process_pool_free(pool);
    CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1);
    CHECK_EQ(errno, ECHILD);
    munmap(pp, sizeof(*pp));
}

static pid_t pp_program_process; /* for the hooks */
static pthread_t pp_program_thread;

/* The hook sees what the program, the server and the workers call. */
static void pp_hook(void (*hook)(const char *system_call_name)) {
    pp_program_process = getpid();
    pp_program_thread = pthread_self();
    test_call_hook = hook;
}

static int64_t pp_call(aioloop *loop, aioloop_process_pool *pool, aioloop_process_function fn, int64_t argument) {
    return aioloop_run_until_complete(loop, aioloop_run_in_process(loop, pool, fn, &argument, sizeof(argument)), NULL);
}

/* Waits until a gated function has begun; false if it never will. */
static bool pp_begun(aioloop *loop, const aioloop_future *f) {
    while (sem_trywait(&pp->begun) != 0) {
        if (aioloop_future_done(f))
            return false;
        aioloop_run_once(loop, 0);
        usleep(50);
    }
    return true;
}

static const char *pp_message(aioloop *loop) {
    return aioloop_error_message(aioloop_last_error(loop));
}

static int64_t pp_argument(const void *input) {
    int64_t argument;
    memcpy(&argument, input, sizeof(argument));
    return argument;
}

/* ---- functions of workers ---- */

static int64_t pp_process(const void *input, size_t size, aioloop_output *out) {
    (void)input;
    (void)size;
    (void)out;
    return getpid();
}

static int64_t pp_server(const void *input, size_t size, aioloop_output *out) {
    (void)input;
    (void)size;
    (void)out;
    return getppid();
}

/* Each byte is one more, in two writes; a zero follows. */
static int64_t pp_increment(const void *input, size_t size, aioloop_output *out) {
    const unsigned char *bytes = (const unsigned char *)input;
    unsigned char *changed = (unsigned char *)malloc(size + 1);
    size_t i;
    int err;
    if (changed == NULL || bytes[size] != 0)
        return AIOLOOP_ENOMEM;
    for (i = 0; i < size; i++)
        changed[i] = (unsigned char)(bytes[i] + 1);
    err = aioloop_output_write(out, changed, size / 2);
    if (err == 0)
        err = aioloop_output_write(out, changed + size / 2, size - size / 2);
    free(changed);
    return err < 0 ? err : (int64_t)size;
}

/* A text of sixteen bytes, doubled often. */
static int64_t pp_double(const void *input, size_t size, aioloop_output *out) {
    int err = aioloop_output_write(out, input, size);
    int i;
    for (i = 0; i < 10 && err == 0; i++)
        err = aioloop_output_write(out, out->data, out->size);
    return err < 0 ? err : (int64_t)out->size;
}

static int64_t pp_fail(const void *input, size_t size, aioloop_output *out) {
    int64_t code = pp_argument(input);
    (void)size;
    aioloop_output_write(out, "dropped", 7);
    if (code == AIOLOOP_EIO)
        return aioloop_raise(NULL, AIOLOOP_EIO, "sector %d", 9);
    return code;
}

/* Below 0: the signal that kills; else the status to end with. */
static int64_t pp_die(const void *input, size_t size, aioloop_output *out) {
    int64_t how = pp_argument(input);
    (void)size;
    aioloop_output_write(out, "half", 4);
    if (how < 0)
        kill(getpid(), (int)-how);
    _exit((int)how);
}

static int64_t pp_gated(const void *input, size_t size, aioloop_output *out) {
    (void)input;
    (void)size;
    (void)out;
    sem_post(&pp->begun);
    return pp_wait(&pp->gate) < 0 ? AIOLOOP_ETIMEDOUT + 0 : 7;
}

/* Two that run at the same time. */
static int64_t pp_meet(const void *input, size_t size, aioloop_output *out) {
    int64_t me = pp_argument(input);
    (void)size;
    (void)out;
    sem_post(&pp->meeting[me]);
    return pp_wait(&pp->meeting[1 - me]) < 0 ? AIOLOOP_ETIMEDOUT + 0 : me;
}

static void pp_let_meet(aioloop *loop, aioloop_process_pool *pool) {
    int64_t numbers[2] = {0, 1};
    aioloop_future *fs[2];
    int i;
    for (i = 0; i < 2; i++)
        fs[i] = aioloop_run_in_process(loop, pool, pp_meet, &numbers[i], sizeof(numbers[i]));
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_gather(loop, fs, 2, false), NULL), 2);
}

/* ---- the outcome ---- */

TEST_WITH(process_pool_runs_a_function_in_another_process, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool = pp_pool(1, 0);
    int64_t worker = pp_call(loop, pool, pp_process, 0);
    int64_t server = pp_call(loop, pool, pp_server, 0);
    CHECK_GT(worker, 0);
    CHECK_GT(server, 0);
    CHECK(worker != getpid() && server != getpid() && worker != server);
    CHECK_EQ(pp_call(loop, pool, pp_process, 0), worker); /* it stays */
    pp_end(pool);
    CHECK(kill((pid_t)worker, 0) == -1 && errno == ESRCH);
    test_end(loop);
}

TEST_WITH(process_pool_takes_and_gives_bytes, "EXEC-08", TEST_THREADS) {
    static unsigned char bytes[1 << 20];
    static const size_t sizes[] = {0, 1, 1000, sizeof(bytes)};
    aioloop *loop = test_loop();
    aioloop_process_pool *pool = pp_pool(1, 0);
    size_t i, k;
    for (i = 0; i < 4; i++) {
        size_t size = sizes[i];
        aioloop_future *f;
        aioloop_output *out = NULL;
        for (k = 0; k < size; k++)
            bytes[k] = (unsigned char)(k * 7);
        f = aioloop_run_in_process(loop, pool, pp_increment, size == 0 ? NULL : bytes, size);
        memset(bytes, 0, sizeof(bytes)); /* it has a copy */
        CHECK_EQ(aioloop_run_until_complete(loop, f, &out), size);
        if (size == 0) {
            CHECK(out == NULL);
            continue;
        }
        CHECK(out != NULL);
        CHECK_EQ(out->size, size);
        for (k = 0; k < size; k++)
            if (((const unsigned char *)out->data)[k] != (unsigned char)(k * 7 + 1))
                FAIL("byte %lu", (unsigned long)k);
        CHECK_EQ(((const char *)out->data)[size], 0);
        aioloop_output_free(out);
    }
    pp_end(pool);
    test_end(loop);
}

TEST_WITH(process_pool_output_may_be_written_of_itself, "EXEC-08", TEST_THREADS) {
    static const char text[] = "0123456789abcdef";
    aioloop *loop = test_loop();
    aioloop_process_pool *pool = pp_pool(1, 0);
    aioloop_output *out = NULL;
    aioloop_future *f = aioloop_run_in_process(loop, pool, pp_double, text, 16);
    size_t i;
    CHECK_EQ(aioloop_run_until_complete(loop, f, &out), 16384);
    CHECK(out != NULL);
    for (i = 0; i < 16384; i += 16)
        CHECK_MEM((const char *)out->data + i, text, 16);
    aioloop_output_free(out);
    pp_end(pool);
    test_end(loop);
}

TEST_WITH(process_pool_output_that_nobody_takes_is_freed, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool = pp_pool(1, 0);
    aioloop_future *f = aioloop_run_in_process(loop, pool, pp_increment, "abc", 3);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), 3);
    aioloop_future_unref(aioloop_run_in_process(loop, pool, pp_increment, "abc", 3)); /* delivered to nobody */
    pp_end(pool);
    test_end(loop);
}

TEST_WITH(process_pool_error_arrives_with_its_message, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool = pp_pool(1, 0);
    aioloop_output *out = NULL;
    int64_t code = AIOLOOP_EIO;
    aioloop_future *f = aioloop_run_in_process(loop, pool, pp_fail, &code, sizeof(code));
    CHECK_EQ(aioloop_run_until_complete(loop, f, &out), AIOLOOP_EIO);
    CHECK(out == NULL);
    CHECK_STR(pp_message(loop), "sector 9");
    CHECK_EQ(pp_call(loop, pool, pp_fail, AIOLOOP_ENOENT), AIOLOOP_ENOENT);
    CHECK_STR(pp_message(loop), aioloop_strerror(AIOLOOP_ENOENT));
    CHECK_EQ(pp_call(loop, pool, pp_fail, AIOLOOP_ECANCELED), AIOLOOP_ECANCELED);
    CHECK_EQ(pp_call(loop, pool, pp_fail, INT64_MIN), AIOLOOP_EINVAL);
    pp_end(pool);
    test_end(loop);
}

static int64_t pp_too_much(const void *input, size_t size, aioloop_output *out) {
    (void)size;
    if (aioloop_output_write(out, "abc", 3) != 0 || aioloop_output_write(NULL, "abc", 3) != AIOLOOP_EINVAL ||
        aioloop_output_write(out, NULL, 3) != AIOLOOP_EINVAL)
        return 1;
    if (aioloop_output_write(out, input, AIOLOOP_PROCESS_SIZE_MAX - 2) != AIOLOOP_EMSGSIZE)
        return 2;
    return aioloop_output_write(out, "d", 1) == AIOLOOP_EMSGSIZE ? 3 : 4; /* nothing may be missing in the middle */
}

TEST_WITH(process_pool_sizes_have_a_limit, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool = pp_pool(1, 0);
    aioloop_future *f = aioloop_run_in_process(loop, pool, pp_process, "", AIOLOOP_PROCESS_SIZE_MAX + 1);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_EMSGSIZE);
    CHECK_EQ(pp_call(loop, pool, pp_too_much, 0), AIOLOOP_EMSGSIZE);
    pp_end(pool);
    test_end(loop);
}

static void pp_tick(aioloop *loop, void *arg) {
    (void)loop;
    ++*(int *)arg;
    sem_post(&pp->gate);
}

TEST_WITH(process_pool_works_while_the_loop_responds, "EX-05 EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool = pp_pool(1, 0);
    aioloop_future *f = aioloop_future_ref(aioloop_run_in_process(loop, pool, pp_gated, NULL, 0));
    aioloop_timer_handle timer;
    int ticks = 0;
    timer = aioloop_call_later(loop, AIOLOOP_MS(1), pp_tick, &ticks);
    CHECK(!aioloop_handle_is_null(&timer.handle));
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), 7);
    CHECK_EQ(ticks, 1);
    aioloop_future_unref(f);
    pp_end(pool);
    test_end(loop);
}

TEST_WITH(process_pool_workers_run_in_parallel, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool = pp_pool(2, 0);
    pp_let_meet(loop, pool);
    pp_end(pool);
    test_end(loop);
}

/* ---- processes that die ---- */

TEST_WITH(process_pool_worker_that_dies_fails_its_future_and_is_replaced, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool = pp_pool(1, 0);
    int64_t first = pp_call(loop, pool, pp_process, 0);
    int64_t second;
    char text[100];
    CHECK_GT(first, 0);
    CHECK_EQ(pp_call(loop, pool, pp_die, -SIGKILL), AIOLOOP_EBROKENPROCESS);
    snprintf(text, sizeof(text), "process %d of the pool was killed by signal %d", (int)first, SIGKILL);
    CHECK_STR(pp_message(loop), text);
    second = pp_call(loop, pool, pp_process, 0);
    CHECK(second > 0 && second != first);
    CHECK_EQ(pp_call(loop, pool, pp_die, 3), AIOLOOP_EBROKENPROCESS);
    snprintf(text, sizeof(text), "process %d of the pool ended with status 3", (int)second);
    CHECK_STR(pp_message(loop), text);
    CHECK_EQ(pp_call(loop, pool, pp_fail, 5), 5);
    pp_end(pool);
    test_end(loop);
}

static int64_t pp_ignore_child(const void *input, size_t size, aioloop_output *out) {
    pid_t child;
    (void)input;
    (void)size;
    (void)out;
    child = fork(); /* with a copy of the channel */
    if (child == 0) {
        pp_wait(&pp->gate);
        _exit(0);
    }
    _exit(child > 0 ? 4 : 5);
}

TEST_WITH(process_pool_hears_of_a_death_though_its_descriptors_live_on, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool = pp_pool(1, 0);
    CHECK_EQ(pp_call(loop, pool, pp_ignore_child, 0), AIOLOOP_EBROKENPROCESS);
    CHECK(strstr(pp_message(loop), "status 4") != NULL);
    CHECK_EQ(pp_call(loop, pool, pp_fail, 6), 6);
    sem_post(&pp->gate);
    pp_end(pool);
    test_end(loop);
}

static int64_t pp_hang_up(const void *input, size_t size, aioloop_output *out) {
    char bytes[100];
    (void)input;
    (void)size;
    (void)out;
    memset(bytes, 0xff, sizeof(bytes));
    return write(3, bytes, sizeof(bytes)) < 0 ? 1 : 0; /* where the library's own should come */
}

TEST_WITH(process_pool_does_not_believe_what_makes_no_sense, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool = pp_pool(1, 0);
    CHECK_EQ(pp_call(loop, pool, pp_hang_up, 0), AIOLOOP_EMSGSIZE);
    CHECK_EQ(pp_call(loop, pool, pp_fail, 6), 6);
    pp_end(pool);
    test_end(loop);
}

/* Waits until its parent has heard that a process has died. */
static void pp_wait_reaped(int64_t process) {
    while (kill((pid_t)process, 0) == 0)
        usleep(100);
}

TEST_WITH(process_pool_idle_worker_that_dies_is_replaced, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool = pp_pool(2, 0);
    aioloop_future *busy = aioloop_future_ref(aioloop_run_in_process(loop, pool, pp_gated, NULL, 0));
    int64_t idle;
    CHECK(pp_begun(loop, busy));
    idle = pp_call(loop, pool, pp_process, 0);
    CHECK_GT(idle, 0);
    CHECK_EQ(kill((pid_t)idle, SIGKILL), 0);
    pp_wait_reaped(idle);
    sem_post(&pp->gate);
    CHECK_EQ(aioloop_run_until_complete(loop, busy, NULL), 7);
    aioloop_future_unref(busy);
    CHECK_EQ(pp_call(loop, pool, pp_die, 1), AIOLOOP_EBROKENPROCESS); /* so that the server is through with the other */
    pp_let_meet(loop, pool);
    pp_end(pool);
    test_end(loop);
}

TEST_WITH(process_pool_fails_when_its_server_is_killed, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool = pp_pool(2, 0);
    aioloop_future *f = aioloop_future_ref(aioloop_run_in_process(loop, pool, pp_gated, NULL, 0));
    int64_t server;
    CHECK(pp_begun(loop, f));
    server = pp_call(loop, pool, pp_server, 0);
    CHECK(server > 0 && server != getpid());
    CHECK_EQ(kill((pid_t)server, SIGKILL), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_EBROKENPROCESS);
    CHECK_STR(pp_message(loop), "the processes of the pool have died or were killed");
    aioloop_future_unref(f);
    CHECK_EQ(pp_call(loop, pool, pp_process, 0), AIOLOOP_EBROKENPROCESS);
    pp_end(pool);
    test_end(loop);
}

/* As the server is forked, so is another process, by another thread, as it were. */
static void pp_fork_beside(const char *name) {
    static bool done;
    if (done || strcmp(name, "fork") != 0)
        return;
    done = true;
    if (fork() == 0)
        _exit(pp_wait(&pp->gate) < 0);
}

TEST_WITH(process_pool_fails_when_its_server_is_killed_though_its_descriptors_live_on, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool;
    aioloop_future *f;
    int64_t server;
    int status = -1;
    pp_hook(pp_fork_beside);
    pool = pp_pool(2, 0);
    f = aioloop_future_ref(aioloop_run_in_process(loop, pool, pp_gated, NULL, 0));
    CHECK(pp_begun(loop, f));
    server = pp_call(loop, pool, pp_server, 0);
    CHECK_GT(server, 0);
    CHECK_EQ(kill((pid_t)server, SIGKILL), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_EBROKENPROCESS);
    aioloop_future_unref(f);
    CHECK_EQ(pp_call(loop, pool, pp_process, 0), AIOLOOP_EBROKENPROCESS);
    CHECK_EQ(aioloop_process_pool_kill(pool), 0);
    sem_post(&pp->gate);
    CHECK_GT(waitpid(-1, &status, 0), 0);
    CHECK_EQ(status, 0); /* it was there to the end */
    pp_end(pool);
    test_end(loop);
}

/* In the server a fork takes long, when it is to. */
static void pp_fork_slowly(const char *name) {
    if (getpid() == pp_program_process || strcmp(name, "fork") != 0 || pp->slow == 0)
        return;
    sem_post(&pp->meeting[0]);
    pp_wait(&pp->meeting[1]);
    pp->slow = 2;
}

TEST_WITH(process_pool_waits_for_no_process_that_another_call_needs, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool;
    aioloop_future *running;
    aioloop_future *starting;
    pp_hook(pp_fork_slowly);
    pool = pp_pool(2, 0);
    running = aioloop_future_ref(aioloop_run_in_process(loop, pool, pp_gated, NULL, 0));
    CHECK(pp_begun(loop, running));
    pp->slow = 1;
    starting = aioloop_future_ref(aioloop_run_in_process(loop, pool, pp_process, NULL, 0));
    CHECK_EQ(pp_wait(&pp->meeting[0]), 0);
    sem_post(&pp->gate);
    CHECK_EQ(aioloop_run_until_complete(loop, running, NULL), 7); /* its worker was given back */
    CHECK_EQ(aioloop_process_pool_kill(pool), 0);
    CHECK_EQ(pp->slow, 1);
    sem_post(&pp->meeting[1]);
    CHECK_EQ(aioloop_run_until_complete(loop, starting, NULL), AIOLOOP_EBROKENPROCESS);
    aioloop_future_unref(running);
    aioloop_future_unref(starting);
    pp_end(pool);
    test_end(loop);
}

/* In the server, the first of the two ways to reply to a fork. */
static void pp_fail_to_send(const char *name) {
    static int sent;
    if (getppid() == pp_program_process && strcmp(name, "sendmsg") == 0)
        test_fail_calls(++sent == 1 ? "sendmsg" : NULL, ENOBUFS);
}

TEST_WITH(process_pool_survives_a_descriptor_that_cannot_be_sent, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool;
    pp_hook(pp_fail_to_send);
    pool = pp_pool(1, 0);
    CHECK_EQ(pp_call(loop, pool, pp_process, 0), AIOLOOP_ENOBUFS);
    CHECK_GT(pp_call(loop, pool, pp_process, 0), 0);
    pp_end(pool);
    test_end(loop);
}

TEST_WITH(process_pool_can_be_killed, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool = pp_pool(1, 0);
    aioloop_future *running = aioloop_future_ref(aioloop_run_in_process(loop, pool, pp_gated, NULL, 0));
    aioloop_future *waiting = aioloop_future_ref(aioloop_run_in_process(loop, pool, pp_gated, NULL, 0));
    CHECK(pp_begun(loop, running));
    CHECK_EQ(aioloop_process_pool_kill(pool), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, running, NULL), AIOLOOP_EBROKENPROCESS);
    CHECK_STR(pp_message(loop), "the processes of the pool have died or were killed");
    CHECK_EQ(aioloop_run_until_complete(loop, waiting, NULL), AIOLOOP_ECANCELED);
    aioloop_future_unref(running);
    aioloop_future_unref(waiting);
    CHECK_EQ(pp_call(loop, pool, pp_process, 0), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_process_pool_shutdown(pool, true, false), 0);
    CHECK_EQ(aioloop_process_pool_kill(pool), 0);
    pp_end(pool);
    test_end(loop);
}

/* ---- what a worker has of the program ---- */

static int64_t pp_open_descriptors(const void *input, size_t size, aioloop_output *out) {
    char byte;
    int64_t count = 0;
    int i;
    (void)input;
    (void)size;
    (void)out;
    for (i = 4; i < 256; i++)
        count += fcntl(i, F_GETFD) != -1;
    return count + 1000 * (read(0, &byte, 1) != 0);
}

TEST_WITH(process_pool_inherits_no_descriptors, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool;
    int ends[2];
    char byte;
    CHECK_EQ(pipe(ends), 0);
    pool = pp_pool(2, 0);
    CHECK_EQ(pp_call(loop, pool, pp_open_descriptors, 0), 0);
    close(ends[1]);
    CHECK_EQ(read(ends[0], &byte, 1), 0);
    close(ends[0]);
    pp_end(pool);
    test_end(loop);
}

TEST_WITH(process_pool_holds_no_connection_of_the_loop, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool;
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    test_connect_pair(loop, &a, &b);
    pool = pp_pool(1, 0);
    CHECK_GT(pp_call(loop, pool, pp_process, 0), 0);
    aioloop_transport_abort(a.transport);
    test_run_until(loop, &b.lost, 1, "the end, though other processes had the descriptors once");
    test_end_pair(loop, &a, &b);
    pp_end(pool);
    test_end(loop);
}

static int pp_value = 1;

static int64_t pp_add_value(const void *input, size_t size, aioloop_output *out) {
    (void)size;
    (void)out;
    return pp_value += (int)pp_argument(input);
}

TEST_WITH(process_pool_has_the_memory_of_its_beginning, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool;
    pp_value = 10;
    pool = pp_pool(1, 0);
    pp_value = 20;
    CHECK_EQ(pp_call(loop, pool, pp_add_value, 1), 11);
    CHECK_EQ(pp_call(loop, pool, pp_add_value, 1), 12); /* the worker keeps what it changes */
    CHECK_EQ(pp_value, 20);
    CHECK_EQ(pp_call(loop, pool, pp_die, 0), AIOLOOP_EBROKENPROCESS);
    CHECK_EQ(pp_call(loop, pool, pp_add_value, 1), 11); /* and its successor begins anew */
    pp_end(pool);
    test_end(loop);
}

static void pp_on_signal(int number) {
    (void)number;
    if (pp != NULL)
        pp->handled++;
}

static int64_t pp_signals(const void *input, size_t size, aioloop_output *out) {
    sigset_t mask;
    int i;
    (void)input;
    (void)size;
    (void)out;
    raise(SIGINT);
    raise(SIGTERM);
    raise(SIGHUP);
    raise(SIGPIPE);
    kill(getppid(), SIGINT); /* the server */
    kill(getppid(), SIGTERM);
    if (sigprocmask(SIG_SETMASK, NULL, &mask) != 0)
        return -1;
    for (i = 1; i < 32; i++)
        if (sigismember(&mask, i))
            return i;
    return 0;
}

TEST_WITH(process_pool_ignores_signals_for_the_program, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool;
    struct sigaction action;
    struct sigaction before;
    memset(&action, 0, sizeof(action));
    action.sa_handler = pp_on_signal;
    CHECK_EQ(sigaction(SIGUSR1, &action, &before), 0);
    pool = pp_pool(1, 0);
    CHECK_EQ(pp_call(loop, pool, pp_signals, 0), 0);
    CHECK_EQ(pp_call(loop, pool, pp_signals, 0), 0);
    CHECK_EQ(pp_call(loop, pool, pp_die, -SIGUSR1), AIOLOOP_EBROKENPROCESS); /* a handler is the program's alone */
    CHECK(strstr(pp_message(loop), "was killed by signal") != NULL);
    CHECK_EQ(pp->handled, 0);
    pp_end(pool);
    CHECK_EQ(sigaction(SIGUSR1, &before, NULL), 0);
    test_end(loop);
}

static void pp_stop(aioloop *loop, void *arg) {
    (void)arg;
    aioloop_stop(loop);
}

static int64_t pp_own_loop(const void *input, size_t size, aioloop_output *out) {
    aioloop *loop;
    aioloop_timer_handle timer;
    int64_t n = -1;
    (void)input;
    (void)size;
    (void)out;
    if (aioloop_get_running_loop() != NULL || aioloop_error_code(aioloop_last_error(NULL)) != 0)
        return 1;
    loop = aioloop_new_event_loop(NULL);
    if (loop == NULL)
        return AIOLOOP_ENOMEM;
    timer = aioloop_call_later(loop, AIOLOOP_MS(1), pp_stop, NULL);
    if (!aioloop_handle_is_null(&timer.handle))
        n = aioloop_run_forever(loop);
    aioloop_free(loop);
    return n;
}

static int64_t pp_deep(const void *input, size_t size, aioloop_output *out) {
    char room[300000];
    (void)input;
    (void)size;
    (void)out;
    memset(room, 1, sizeof(room));
    return room[sizeof(room) / 2];
}

/* The pool is made in a task, which may have a small stack, on a loop that runs. */
static int64_t pp_in_task(aioloop *loop, aioloop_frame *frame, void **out) {
    (void)loop;
    (void)frame;
    (void)out;
    aioloop_raise(NULL, AIOLOOP_EIO, "something");
    *out = pp_pool(1, 0);
    return 0;
}

TEST_WITH(process_pool_workers_begin_at_the_bottom, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_frame frame = AIOLOOP_ZERO;
    aioloop_process_pool *pool = NULL;
    aioloop_future *f = aioloop_create_task_frame(loop, pp_in_task, &frame, NULL);
    CHECK_EQ(aioloop_run_until_complete(loop, f, &pool), 0);
    CHECK_EQ(pp_call(loop, pool, pp_own_loop, 0), 0);
    CHECK_EQ(pp_call(loop, pool, pp_deep, 0), 1);
    pp_end(pool);
    test_end(loop);
}

#if !defined(AIOLOOP_USE_COROUTINES) || AIOLOOP_USE_COROUTINES != 0
static int64_t pp_in_coroutine(aioloop *loop, void *arg, void **out) {
    (void)loop;
    (void)arg;
    *out = pp_pool(1, 0);
    return 0;
}

TEST_WITH(process_pool_made_in_a_coroutine_has_a_large_stack, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool = NULL;
    aioloop_future *f = aioloop_create_task(loop, pp_in_coroutine, NULL, NULL);
    CHECK_EQ(aioloop_run_until_complete(loop, f, &pool), 0);
    CHECK_EQ(pp_call(loop, pool, pp_deep, 0), 1);
    CHECK_EQ(pp_call(loop, pool, pp_own_loop, 0), 0);
    pp_end(pool);
    test_end(loop);
}
#endif

/* ---- cancelling, closing ---- */

TEST_WITH(process_pool_calls_can_be_cancelled, "EXEC-08 EXEC-03 EXEC-04", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool = pp_pool(1, 0);
    aioloop_future *running = aioloop_future_ref(aioloop_run_in_process(loop, pool, pp_gated, NULL, 0));
    aioloop_future *waiting = aioloop_future_ref(aioloop_run_in_process(loop, pool, pp_gated, NULL, 0));
    int begun = -1;
    CHECK(pp_begun(loop, running));
    CHECK(aioloop_future_cancel(waiting, NULL));
    CHECK(aioloop_future_cancel(running, NULL));
    CHECK(aioloop_future_cancelled(running) && aioloop_future_cancelled(waiting));
    aioloop_future_unref(running);
    aioloop_future_unref(waiting);
    sem_post(&pp->gate);
    CHECK_EQ(pp_call(loop, pool, pp_fail, 8), 8); /* behind the one that ran on */
    CHECK_EQ(sem_getvalue(&pp->begun, &begun), 0);
    CHECK_EQ(begun, 0);
    pp_end(pool);
    test_end(loop);
}

TEST_WITH(process_pool_that_is_full_or_shut_down_says_so, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool = pp_pool(1, 1);
    aioloop_future *running = aioloop_future_ref(aioloop_run_in_process(loop, pool, pp_gated, NULL, 0));
    aioloop_future *waiting;
    CHECK(pp_begun(loop, running));
    waiting = aioloop_future_ref(aioloop_run_in_process(loop, pool, pp_fail, "12345678", 8));
    CHECK_EQ(pp_call(loop, pool, pp_process, 0), AIOLOOP_EAGAIN);
    CHECK_EQ(aioloop_process_pool_shutdown(pool, false, true), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, waiting, NULL), AIOLOOP_ECANCELED);
    CHECK_EQ(pp_call(loop, pool, pp_process, 0), AIOLOOP_EMISUSE);
    CHECK(!aioloop_future_done(running));
    sem_post(&pp->gate);
    CHECK_EQ(aioloop_run_until_complete(loop, running, NULL), 7);
    CHECK_EQ(aioloop_process_pool_shutdown(pool, true, false), 0);
    CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1); /* its processes have ended */
    CHECK_EQ(aioloop_process_pool_shutdown(pool, true, true), 0);
    aioloop_future_unref(running);
    aioloop_future_unref(waiting);
    pp_end(pool);
    test_end(loop);
}

TEST_WITH(process_pool_may_outlive_the_loop, "EXEC-08 EXEC-05", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop *other = test_loop();
    aioloop_process_pool *pool = pp_pool(1, 0);
    aioloop_future *f = aioloop_future_ref(aioloop_run_in_process(loop, pool, pp_gated, NULL, 0));
    aioloop_future_unref(aioloop_run_in_process(loop, pool, pp_increment, "abc", 3));
    CHECK(pp_begun(loop, f));
    aioloop_future_unref(f);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK_EQ(aioloop_future_exception(aioloop_run_in_process(loop, pool, pp_gated, NULL, 0)), AIOLOOP_ECLOSED);
    test_end(loop);
    sem_post(&pp->gate);
    CHECK_EQ(pp_call(other, pool, pp_fail, 9), 9); /* it served the others meanwhile */
    pp_end(pool);
    test_end(other);
}

TEST_WITH(process_pool_may_go_before_its_results_are_fetched, "EXEC-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool = pp_pool(2, 0);
    aioloop_future *f = aioloop_future_ref(aioloop_run_in_process(loop, pool, pp_increment, "abc", 3));
    aioloop_output *out = NULL;
    pp_end(pool);
    CHECK_EQ(aioloop_run_until_complete(loop, f, &out), 3);
    CHECK(out != NULL);
    CHECK_STR((const char *)out->data, "bcd");
    aioloop_output_free(out);
    aioloop_future_unref(f);
    test_end(loop);
}

/* ---- the program forks, and ends ---- */

TEST_WITH(process_pool_of_the_parent_is_memory_in_a_forked_child, "EXEC-08 GET-06", TEST_THREADS | TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool = pp_pool(1, 0);
    int status = -1;
    pid_t child;
    CHECK_GT(pp_call(loop, pool, pp_process, 0), 0);
    child = fork();
    if (child == 0) {
        aioloop *own = aioloop_new_event_loop(NULL);
        aioloop_future *f = aioloop_run_in_process(own, pool, pp_process, NULL, 0);
        bool refused = aioloop_process_pool_shutdown(pool, true, false) == AIOLOOP_EMISUSE &&
                       aioloop_future_exception(f) == AIOLOOP_EMISUSE;
        aioloop_future_unref(f);
        aioloop_free(own);
        aioloop_free(loop);
        aioloop_process_pool_free(pool);
        _exit(refused ? 0 : 1);
    }
    CHECK_GT(child, 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK_EQ(pp_call(loop, pool, pp_fail, 4), 4);
    pp_end(pool);
    test_end(loop);
}

/* In a thread that ends the pool, when the channels are closed. */
static void pp_wait_slowly(const char *name) {
    if (strcmp(name, "waitpid") != 0 || getpid() != pp_program_process ||
        pthread_equal(pthread_self(), pp_program_thread))
        return;
    sem_post(&pp->meeting[0]);
    pp_wait(&pp->meeting[1]);
}

static void *pp_shut_down(void *arg) {
    aioloop_process_pool_shutdown((aioloop_process_pool *)arg, true, false);
    return NULL;
}

TEST_WITH(process_pool_of_the_parent_closes_nothing_else_in_a_forked_child, "EXEC-08 GET-06",
          TEST_THREADS | TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool;
    pthread_t thread;
    int files[16];
    int status = -1;
    int i;
    pid_t child;
    pp_hook(pp_wait_slowly);
    pool = pp_pool(2, 0);
    pp_let_meet(loop, pool);
    CHECK_EQ(pthread_create(&thread, NULL, pp_shut_down, pool), 0);
    CHECK_EQ(pp_wait(&pp->meeting[0]), 0);
    for (i = 0; i < 16; i++) { /* with the numbers of the channels */
        files[i] = open("/dev/null", O_RDONLY);
        CHECK_GE(files[i], 0);
    }
    child = fork();
    if (child == 0) {
        aioloop_process_pool_free(pool);
        for (i = 0; i < 16; i++)
            if (fcntl(files[i], F_GETFD) == -1)
                _exit(1);
        _exit(0);
    }
    CHECK_GT(child, 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    sem_post(&pp->meeting[1]);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    for (i = 0; i < 16; i++)
        close(files[i]);
    pp_end(pool);
    test_end(loop);
}

static int64_t pp_print(const void *input, size_t size, aioloop_output *out) {
    (void)out;
    return printf("%.*s", (int)size, (const char *)input);
}

/* A program with a pool, whose standard output is the pipe; it ends while a worker works. */
static void pp_program(int to, bool forks) {
    aioloop *loop;
    aioloop_process_pool *pool;
    aioloop_future *f;
    if (dup2(to, 1) != 1)
        _exit(1);
    setvbuf(stdout, NULL, _IOFBF, BUFSIZ);
    printf("one ");
    pool = aioloop_process_pool_new(NULL);
    loop = aioloop_new_event_loop(NULL);
    if (pool == NULL || loop == NULL)
        _exit(1);
    if (aioloop_run_until_complete(loop, aioloop_run_in_process(loop, pool, pp_print, "two", 3), NULL) != 3)
        _exit(1);
    f = aioloop_future_ref(aioloop_run_in_process(loop, pool, pp_gated, NULL, 0));
    if (!pp_begun(loop, f))
        _exit(1);
    if (forks && fork() == 0) { /* what has the channels, too */
        close(to);
        close(1);
        if (pp_wait(&pp->gate) < 0)
            pp->late = 1;
        _exit(0);
    }
    raise(SIGKILL);
}

static void pp_end_program(bool forks) {
    aioloop *loop = test_loop();
    char text[64];
    size_t size = 0;
    ssize_t n;
    int status = -1;
    int ends[2];
    pid_t child;
    test_needs_real_descriptors(loop);
    pp_share();
    CHECK_EQ(pipe(ends), 0);
    fflush(stdout);
    child = fork();
    if (child == 0)
        pp_program(ends[1], forks);
    close(ends[1]);
    CHECK_GT(child, 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    while ((n = read(ends[0], text + size, sizeof(text) - size)) > 0) /* until the last process that has it is gone */
        size += (size_t)n;
    CHECK_EQ(n, 0);
    CHECK_EQ(size, 7);
    CHECK_MEM(text, "one two", 7); /* nothing twice, nothing lost */
    CHECK(WIFSIGNALED(status));
    CHECK_EQ(pp->late, 0);
    sem_post(&pp->gate);
    close(ends[0]);
    munmap(pp, sizeof(*pp));
    test_end(loop);
}

TEST_WITH(process_pool_ends_with_the_program_however_that_ends, "EXEC-08", TEST_THREADS | TEST_REAL_FDS) {
    pp_end_program(false);
}

TEST_WITH(process_pool_ends_with_the_program_before_what_that_has_forked, "EXEC-08", TEST_THREADS | TEST_REAL_FDS) {
#if defined(SYS_pidfd_open)
    int watch = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (watch != -1) {
        close(watch);
        pp_end_program(true);
        return;
    }
#endif
    SKIP("the system cannot watch a process");
}

static int64_t pp_standard_descriptors(const void *input, size_t size, aioloop_output *out) {
    char byte = 0;
    (void)input;
    (void)size;
    (void)out;
    printf("to nobody");
    return read(0, &byte, 1) == 0 && write(1, &byte, 1) == -1 && write(2, &byte, 1) == -1;
}

/* What the library opens gets the numbers of the standard descriptors then. */
static int pp_daemon(void) {
    aioloop_process_pool *pool;
    aioloop *loop;
    int64_t n;
    close(0);
    close(1);
    close(2);
    pool = aioloop_process_pool_new(NULL);
    loop = aioloop_new_event_loop(NULL);
    if (pool == NULL || loop == NULL)
        return 1;
    n = aioloop_run_until_complete(loop, aioloop_run_in_process(loop, pool, pp_standard_descriptors, NULL, 0), NULL);
    aioloop_process_pool_free(pool);
    aioloop_free(loop);
    return n != 1;
}

TEST_WITH(process_pool_needs_no_standard_descriptors, "EXEC-08", TEST_THREADS | TEST_REAL_FDS) {
    int status = -1;
    pid_t child;
    fflush(stdout);
    child = fork();
    if (child == 0)
        _exit(pp_daemon());
    CHECK_GT(child, 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}

/* ---- misuse ---- */

TEST_WITH(process_pool_calls_that_make_no_sense_are_refused, "EXEC-08 RUN-17", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool_options options = AIOLOOP_ZERO;
    aioloop_process_pool *pool;
    options.max_workers = -1;
    CHECK(aioloop_process_pool_new(&options) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_process_pool_shutdown(NULL, true, true), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_process_pool_kill(NULL), AIOLOOP_EINVAL);
    aioloop_process_pool_free(NULL);
    aioloop_output_free(NULL);
    CHECK_EQ(aioloop_future_exception(aioloop_run_in_process(loop, NULL, pp_process, NULL, 0)), AIOLOOP_EINVAL);
    pool = pp_pool(0, 0);
    CHECK_EQ(aioloop_future_exception(aioloop_run_in_process(NULL, pool, pp_process, NULL, 0)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_run_in_process(loop, pool, NULL, NULL, 0)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_run_in_process(loop, pool, pp_process, NULL, 1)), AIOLOOP_EINVAL);
    pp_end(pool);
    test_end(loop);
}

#else

static int64_t pp_nothing(const void *input, size_t size, aioloop_output *out) {
    (void)input;
    (void)size;
    (void)out;
    return 0;
}

TEST(process_pool_without_threads_says_so, "EXEC-08") {
    aioloop *loop = test_loop();
    CHECK(aioloop_process_pool_new(NULL) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(NULL)), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_future_exception(aioloop_run_in_process(loop, NULL, pp_nothing, NULL, 0)), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_process_pool_shutdown(NULL, true, false), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_process_pool_kill(NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_output_write(NULL, "", 0), AIOLOOP_EINVAL);
    aioloop_output_free(NULL);
    aioloop_process_pool_free(NULL);
    test_end(loop);
}

#endif
