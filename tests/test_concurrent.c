/*
 * test_concurrent.c - coroutines for a loop from other threads, and futures that threads wait for.
 *
 * Each test is clean under TSan. The loop runs in the test's thread, those that wait run beside it, unless a test says
 * otherwise.
 */
#include "support.h"

#if !defined(AIOLOOP_USE_THREADS) || AIOLOOP_USE_THREADS != 0

#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

/* Stops the loop when the thread that uses it is through: posted last. */
static void conc_stop(aioloop *loop, void *arg) {
    (void)arg;
    aioloop_stop(loop);
}

typedef struct conc_user {
    aioloop *loop;
    aioloop_concurrent_future *future;
    int64_t result;
    int64_t again;
    void *pointer;
    char message[64];
    bool flag;
} conc_user;

/* Has fn(user) run in a thread while the loop runs in this one, until it is through. */
static void conc_beside(aioloop *loop, void *(*fn)(void *arg), conc_user *user) {
    pthread_t thread;
    user->loop = loop;
    CHECK(pthread_create(&thread, NULL, fn, user) == 0);
    CHECK_EQ(aioloop_run_forever(loop), 0);
    pthread_join(thread, NULL);
}

static void conc_finished(conc_user *user) {
    aioloop_handle h = aioloop_call_soon_threadsafe(user->loop, conc_stop, NULL);
    CHECK(!aioloop_handle_is_null(&h));
}

/* What the coroutines do, by their argument. */
typedef struct conc_work {
    aioloop_frame frame;
    aioloop_time pause;
    int64_t n;
    int64_t result;
    void *pointer;
    int *disposed;
    int64_t *told;
} conc_work;

static int64_t conc_do(aioloop *loop, aioloop_frame *frame, void **out) {
    conc_work *self = (conc_work *)frame;
    AIOLOOP_BEGIN(loop, frame);
    if (self->pause != 0) {
        AIOLOOP_SLEEP(self->n, self->pause);
        if (self->told != NULL)
            *self->told = self->n;
        if (self->n < 0)
            return self->n;
    }
    *out = self->pointer;
    return self->result < 0 ? aioloop_raise(loop, (int)self->result, "on purpose") : self->result;
    AIOLOOP_END;
}

static void conc_disposed(void *arg) {
    if (!test_has_given_up()) /* else it was on a stack that was left */
        ++*((conc_work *)arg)->disposed;
}

static aioloop_concurrent_future *conc_submit(aioloop *loop, const conc_work *work) {
    aioloop_task_options options = AIOLOOP_ZERO;
    conc_work copy = *work;
    options.copy_size = sizeof(copy);
    options.name = "work";
    if (work->disposed != NULL)
        options.dispose = conc_disposed;
    return aioloop_run_coroutine_threadsafe_frame(loop, conc_do, &copy.frame, &options);
}

/* In the test's own thread: a future that is let go when the test gives up, for it outlives the loop. */
static struct {
    aioloop_concurrent_future *futures[8];
    int count;
    void (*before)(void);
} conc_state;

static void conc_clean_up(void) {
    conc_state.before();
    while (conc_state.count != 0)
        aioloop_concurrent_future_unref(conc_state.futures[--conc_state.count]);
}

static aioloop_concurrent_future *conc_keep(aioloop_concurrent_future *f) {
    if (test_cleanup_hook != conc_clean_up) {
        conc_state.before = test_cleanup_hook;
        test_cleanup_hook = conc_clean_up;
    }
    conc_state.futures[conc_state.count++] = f;
    return f;
}

static void conc_drop(aioloop_concurrent_future *f) {
    int i = 0;
    while (i < conc_state.count && conc_state.futures[i] != f)
        i++;
    CHECK(i < conc_state.count);
    conc_state.futures[i] = conc_state.futures[--conc_state.count];
    aioloop_concurrent_future_unref(f);
}

/* ---- the outcome ---- */

static void *conc_two_results(void *arg) {
    conc_user *u = (conc_user *)arg;
    conc_work work = AIOLOOP_ZERO;
    aioloop_concurrent_future *f;
    work.pause = AIOLOOP_MS(1);
    work.result = 7;
    work.pointer = u;
    f = conc_submit(u->loop, &work);
    u->result = aioloop_concurrent_future_result(f, AIOLOOP_FOREVER, &u->pointer);
    u->flag = aioloop_concurrent_future_done(f) && !aioloop_concurrent_future_cancelled(f) && !aioloop_concurrent_future_cancel(f);
    aioloop_concurrent_future_unref(f);
    work.result = AIOLOOP_EPIPE;
    f = conc_submit(u->loop, &work);
    u->again = aioloop_concurrent_future_result(f, AIOLOOP_FOREVER, NULL);
    snprintf(u->message, sizeof(u->message), "%s", aioloop_error_message(aioloop_last_error(NULL)));
    aioloop_concurrent_future_unref(f);
    conc_finished(u);
    return NULL;
}

TEST_WITH(concurrent_outcome_comes_to_the_thread_that_waits, "THR-01 FUT-13", TEST_THREADS) {
    aioloop *loop = test_loop();
    conc_user u = AIOLOOP_ZERO;
    conc_beside(loop, conc_two_results, &u);
    CHECK_EQ(u.result, 7);
    CHECK_PTR(u.pointer, &u);
    CHECK(u.flag);
    CHECK_EQ(u.again, AIOLOOP_EPIPE);
    CHECK_STR(u.message, "on purpose");
    CHECK_EQ(test_reports(), 0); /* the error has its reader */
    test_end(loop);
}

static void *conc_impatient(void *arg) {
    conc_user *u = (conc_user *)arg;
    conc_work work = AIOLOOP_ZERO;
    conc_work none = AIOLOOP_ZERO;
    aioloop_concurrent_future *f;
    aioloop_concurrent_future *next;
    work.pause = AIOLOOP_MS(3600000);
    work.told = &u->again;
    f = conc_submit(u->loop, &work);
    next = conc_submit(u->loop, &none); /* when this has ended the other one waits */
    (void)aioloop_concurrent_future_result(next, AIOLOOP_FOREVER, NULL);
    aioloop_concurrent_future_unref(next);
    u->result = aioloop_concurrent_future_result(f, AIOLOOP_MS(2), NULL);
    if (u->result == AIOLOOP_ETIMEDOUT && aioloop_concurrent_future_result(f, 0, NULL) == AIOLOOP_ETIMEDOUT)
        u->flag = aioloop_concurrent_future_cancel(f) && aioloop_concurrent_future_cancelled(f) &&
                  !aioloop_concurrent_future_cancel(f) &&
                  aioloop_concurrent_future_result(f, AIOLOOP_FOREVER, NULL) == AIOLOOP_ECANCELED;
    aioloop_concurrent_future_unref(f);
    conc_finished(u);
    return NULL;
}

TEST_WITH(concurrent_wait_has_a_limit_and_cancel_reaches_the_task, "THR-01 FUT-13", TEST_THREADS) {
    aioloop *loop = test_loop();
    conc_user u = AIOLOOP_ZERO;
    if (test_simulated(loop)) { /* there the loop would jump over the time that the thread waits */
        test_end(loop);
        SKIP("virtual time");
    }
    conc_beside(loop, conc_impatient, &u);
    CHECK_EQ(u.result, AIOLOOP_ETIMEDOUT);
    CHECK(u.flag);
    test_spin(loop, 3);
    CHECK_EQ(u.again, AIOLOOP_ECANCELED);
    CHECK_EQ(aioloop_all_tasks(loop, NULL, 0), 0);
    test_end(loop);
}

/* ---- without a thread: what is posted runs in the next iterations ---- */

TEST(concurrent_cancelled_before_it_begins_never_runs, "FUT-13") {
    aioloop *loop = test_loop();
    conc_work work = AIOLOOP_ZERO;
    aioloop_concurrent_future *f;
    int disposed = 0;
    test_needs_threads(loop);
    work.disposed = &disposed;
    f = conc_keep(conc_submit(loop, &work));
    CHECK(aioloop_concurrent_future_cancel(f));
    CHECK_EQ(disposed, 0); /* that is for the loop's thread */
    test_spin(loop, 2);
    CHECK_EQ(disposed, 1);
    CHECK_EQ(aioloop_concurrent_future_result(f, 0, NULL), AIOLOOP_ECANCELED);
    conc_drop(f);
    test_end(loop);
}

TEST(concurrent_cancel_that_comes_with_the_result_is_harmless, "FUT-13") {
    aioloop *loop = test_loop();
    conc_work work = AIOLOOP_ZERO;
    aioloop_concurrent_future *f;
    int disposed = 0;
    test_needs_threads(loop);
    work.disposed = &disposed;
    f = conc_keep(conc_submit(loop, &work));
    test_spin(loop, 2); /* the task has ended, and this is not told yet */
    CHECK_EQ(disposed, 1);
    CHECK(aioloop_concurrent_future_cancel(f));
    conc_drop(f);
    test_spin(loop, 3);
    test_end(loop);
}

TEST(concurrent_result_is_not_waited_for_in_the_loops_thread, "THR-01") {
    aioloop *loop = test_loop();
    conc_work work = AIOLOOP_ZERO;
    aioloop_concurrent_future *f;
    test_needs_threads(loop);
    work.result = 3;
    f = conc_keep(conc_submit(loop, &work));
    CHECK_EQ(aioloop_concurrent_future_result(f, 0, NULL), AIOLOOP_ETIMEDOUT);
    test_spin(loop, 4);
    CHECK_EQ(aioloop_concurrent_future_result(f, AIOLOOP_FOREVER, NULL), 3);
    CHECK_EQ(aioloop_concurrent_future_result(f, AIOLOOP_NOT_A_TIME, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_concurrent_future_result(NULL, 0, NULL), AIOLOOP_EINVAL);
    conc_drop(f);
    test_end(loop);
}

static void conc_waits_in_vain(aioloop *loop, void *arg) {
    conc_user *u = (conc_user *)arg;
    conc_work work = AIOLOOP_ZERO;
    u->future = conc_keep(conc_submit(loop, &work));
    u->result = aioloop_concurrent_future_result(u->future, AIOLOOP_FOREVER, NULL);
}

TEST(concurrent_wait_that_would_never_end_is_refused, "THR-01") {
    aioloop *loop = test_loop();
    conc_user u = AIOLOOP_ZERO;
    aioloop_handle h;
    test_needs_threads(loop);
    h = aioloop_call_soon(loop, conc_waits_in_vain, &u);
    CHECK(!aioloop_handle_is_null(&h));
    test_spin(loop, 1);
    CHECK_EQ(u.result, AIOLOOP_EMISUSE);
    test_spin(loop, 4);
    CHECK_EQ(aioloop_concurrent_future_result(u.future, 0, NULL), 0);
    conc_drop(u.future);
    test_end(loop);
}

static int conc_pointers_disposed;

static void conc_dispose_pointer(void *pointer) {
    (void)pointer;
    conc_pointers_disposed++;
}

TEST(concurrent_pointer_is_taken_or_disposed_of, "THR-01") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    conc_work work[3];
    aioloop_concurrent_future *f[3];
    void *pointer = NULL;
    int i;
    test_needs_threads(loop);
    conc_pointers_disposed = 0;
    options.dispose_result = conc_dispose_pointer;
    memset(work, 0, sizeof(work));
    for (i = 0; i < 3; i++) {
        work[i].pointer = &work[i];
        f[i] = conc_keep(aioloop_run_coroutine_threadsafe_frame(loop, conc_do, &work[i].frame, &options));
    }
    test_spin(loop, 2);
    CHECK(aioloop_concurrent_future_cancel(f[2])); /* its result comes too late */
    test_spin(loop, 3);
    CHECK_EQ(conc_pointers_disposed, 1);
    CHECK_EQ(aioloop_concurrent_future_result(f[0], 0, &pointer), 0);
    CHECK_PTR(pointer, &work[0]);
    CHECK_EQ(aioloop_concurrent_future_result(f[1], 0, NULL), 0);
    CHECK_PTR(aioloop_concurrent_future_ref(f[1]), f[1]);
    aioloop_concurrent_future_unref(f[1]);
    conc_drop(f[0]);
    CHECK_EQ(conc_pointers_disposed, 1);
    conc_drop(f[1]);
    CHECK_EQ(conc_pointers_disposed, 2);
    conc_drop(f[2]);
    test_end(loop);
    CHECK_EQ(conc_pointers_disposed, 2);
}

static aioloop_context_var conc_var;

static int64_t conc_read_var(aioloop *loop, aioloop_frame *frame, void **out) {
    (void)loop;
    (void)frame;
    *out = aioloop_context_get(&conc_var);
    return 0;
}

TEST(concurrent_task_runs_in_the_context_of_who_asked, "THR-01") {
    aioloop *loop = test_loop();
    conc_work work = AIOLOOP_ZERO;
    aioloop_concurrent_future *f;
    void *pointer = NULL;
    int value = 0;
    test_needs_threads(loop);
    CHECK_EQ(aioloop_context_set(&conc_var, &value, NULL), 0);
    f = conc_keep(aioloop_run_coroutine_threadsafe_frame(loop, conc_read_var, &work.frame, NULL));
    CHECK_EQ(aioloop_context_set(&conc_var, NULL, NULL), 0);
    test_spin(loop, 4);
    CHECK_EQ(aioloop_concurrent_future_result(f, 0, &pointer), 0);
    CHECK_PTR(pointer, &value);
    conc_drop(f);
    test_end(loop);
}

TEST(concurrent_calls_that_make_no_sense_are_refused, "RUN-17") {
    aioloop *loop = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    conc_work work = AIOLOOP_ZERO;
    aioloop_concurrent_future *f;
    int disposed = 0;
    test_needs_threads(loop);
    work.disposed = &disposed;
    options.dispose = conc_disposed;
    f = aioloop_run_coroutine_threadsafe_frame(NULL, conc_do, &work.frame, &options);
    CHECK_EQ(aioloop_concurrent_future_result(f, AIOLOOP_FOREVER, NULL), AIOLOOP_EINVAL);
    f = aioloop_run_coroutine_threadsafe(loop, NULL, &work, &options);
    CHECK_EQ(aioloop_concurrent_future_result(f, AIOLOOP_FOREVER, NULL), AIOLOOP_EINVAL);
    CHECK(aioloop_concurrent_future_done(f));
    CHECK(!aioloop_concurrent_future_cancel(f));
    CHECK_EQ(aioloop_future_exception(aioloop_wrap_future(loop, f)), AIOLOOP_EINVAL);
    aioloop_concurrent_future_unref(aioloop_concurrent_future_ref(f));
    aioloop_concurrent_future_unref(f);
    options.timeout = AIOLOOP_NOT_A_TIME; /* this the loop's thread finds */
    f = conc_keep(aioloop_run_coroutine_threadsafe_frame(loop, conc_do, &work.frame, &options));
    test_spin(loop, 2);
    CHECK_EQ(disposed, 3);
    CHECK_EQ(aioloop_concurrent_future_result(f, 0, NULL), AIOLOOP_EINVAL);
    conc_drop(f);
    CHECK(!aioloop_concurrent_future_done(NULL) && !aioloop_concurrent_future_cancel(NULL));
    CHECK_EQ(aioloop_future_exception(aioloop_wrap_future(loop, NULL)), AIOLOOP_EINVAL);
    aioloop_close(loop);
    f = aioloop_run_coroutine_threadsafe_frame(loop, conc_do, &work.frame, &options);
    CHECK_EQ(aioloop_concurrent_future_result(f, AIOLOOP_FOREVER, NULL), AIOLOOP_ECLOSED);
    CHECK_EQ(disposed, 4);
    test_end(loop);
}

/* ---- the loop ends first ---- */

TEST(concurrent_futures_of_a_closed_loop_fail, "THR-01 RUN-17") {
    aioloop *loop = test_loop();
    conc_work work = AIOLOOP_ZERO;
    aioloop_concurrent_future *running;
    aioloop_concurrent_future *posted;
    int disposed = 0;
    test_needs_threads(loop);
    work.pause = AIOLOOP_MS(3600000);
    work.disposed = &disposed;
    running = conc_keep(conc_submit(loop, &work));
    test_spin(loop, 3);
    posted = conc_keep(conc_submit(loop, &work));
    aioloop_close(loop);
    CHECK_EQ(aioloop_concurrent_future_result(running, AIOLOOP_FOREVER, NULL), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_concurrent_future_result(posted, AIOLOOP_FOREVER, NULL), AIOLOOP_ECLOSED);
    CHECK(!aioloop_concurrent_future_cancel(running));
    aioloop_set_exception_handler(loop, NULL, NULL); /* the task is pending */
    test_end(loop);
    CHECK_EQ(disposed, 1); /* of the one that never began */
    CHECK_EQ(aioloop_concurrent_future_result(running, 0, NULL), AIOLOOP_ECLOSED); /* they outlive the loop */
    conc_drop(running);
    conc_drop(posted);
}

typedef struct conc_racer {
    aioloop *loop;
    pthread_mutex_t mutex;
    int told;  /* how many outcomes were had */
    int wrong; /* threads that ended for another reason */
} conc_racer;

#define CONC_ENOUGH 150

/* Submits until it is told that the loop is closed, and waits for each without a limit. */
static void *conc_race(void *arg) {
    conc_racer *r = (conc_racer *)arg;
    int64_t n;
    int told = 0;
    do {
        conc_work work = AIOLOOP_ZERO;
        aioloop_concurrent_future *f;
        bool enough;
        work.pause = told % 3 == 2 ? AIOLOOP_US(10) : 0;
        f = conc_submit(r->loop, &work);
        if (told % 5 == 4)
            aioloop_concurrent_future_cancel(f);
        n = aioloop_concurrent_future_result(f, AIOLOOP_FOREVER, NULL);
        aioloop_concurrent_future_unref(f);
        told++;
        pthread_mutex_lock(&r->mutex);
        enough = ++r->told == CONC_ENOUGH;
        pthread_mutex_unlock(&r->mutex);
        if (enough) {
            aioloop_handle h = aioloop_call_soon_threadsafe(r->loop, conc_stop, NULL);
            CHECK(!aioloop_handle_is_null(&h));
        }
    } while (n == 0 || n == AIOLOOP_ECANCELED);
    pthread_mutex_lock(&r->mutex);
    r->wrong += n != AIOLOOP_ECLOSED;
    pthread_mutex_unlock(&r->mutex);
    return NULL;
}

TEST_WITH(concurrent_submissions_race_with_close, "THR-01 FUT-13", TEST_THREADS) {
    aioloop *loop = test_loop();
    conc_racer r;
    pthread_t threads[3];
    int i;
    memset(&r, 0, sizeof(r));
    r.loop = loop;
    pthread_mutex_init(&r.mutex, NULL);
    for (i = 0; i < 3; i++)
        CHECK(pthread_create(&threads[i], NULL, conc_race, &r) == 0);
    CHECK_EQ(aioloop_run_forever(loop), 0);
    aioloop_close(loop);
    for (i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(r.wrong, 0);
    CHECK_GE(r.told, CONC_ENOUGH);
    pthread_mutex_destroy(&r.mutex);
    aioloop_set_exception_handler(loop, NULL, NULL); /* some were caught in the middle */
    test_end(loop);
}

TEST(concurrent_future_in_a_forked_child_says_so, "") {
    aioloop *loop = test_loop();
    conc_work work = AIOLOOP_ZERO;
    aioloop_concurrent_future *f;
    int status = 0;
    pid_t child;
    test_needs_threads(loop);
    f = conc_keep(conc_submit(loop, &work));
    CHECK_EQ(aioloop_concurrent_future_done(f), 0);
    child = fork();
    if (child == 0) {
        bool right = aioloop_concurrent_future_result(f, AIOLOOP_FOREVER, NULL) == AIOLOOP_EMISUSE;
        right = aioloop_free(loop) == 0 && right;
        right = aioloop_concurrent_future_result(f, AIOLOOP_FOREVER, NULL) == AIOLOOP_ECLOSED && right;
        conc_drop(f);
        _exit(right ? 0 : 1);
    }
    CHECK(child > 0);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
    test_spin(loop, 4);
    CHECK_EQ(aioloop_concurrent_future_result(f, 0, NULL), 0);
    conc_drop(f);
    test_end(loop);
}

/* ---- a loop's future for a concurrent one ---- */

TEST(wrap_future_has_the_outcome_of_the_concurrent_one, "FUT-13") {
    aioloop *loop = test_loop();
    conc_work work = AIOLOOP_ZERO;
    aioloop_concurrent_future *c;
    void *pointer = NULL;
    test_needs_threads(loop);
    work.pause = AIOLOOP_US(100);
    work.result = 4;
    work.pointer = &work;
    c = conc_keep(conc_submit(loop, &work));
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wrap_future(loop, c), &pointer), 4);
    CHECK_PTR(pointer, &work);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wrap_future(loop, c), NULL), 4); /* also when it is done already */
    conc_drop(c);
    work.result = AIOLOOP_EPIPE;
    c = conc_keep(conc_submit(loop, &work));
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wrap_future(loop, c), NULL), AIOLOOP_EPIPE);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), "on purpose");
    conc_drop(c);
    c = conc_keep(conc_submit(loop, &work));
    CHECK(aioloop_concurrent_future_cancel(c));
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wrap_future(loop, c), NULL), AIOLOOP_ECANCELED);
    conc_drop(c);
    test_end(loop);
}

TEST(wrap_future_cancelled_cancels_the_concurrent_one, "FUT-13") {
    aioloop *loop = test_loop();
    conc_work work = AIOLOOP_ZERO;
    aioloop_concurrent_future *c;
    aioloop_future *f;
    int64_t told = 0;
    test_needs_threads(loop);
    work.pause = AIOLOOP_MS(3600000);
    work.told = &told;
    c = conc_keep(conc_submit(loop, &work));
    f = aioloop_future_ref(aioloop_wrap_future(loop, c));
    test_spin(loop, 3);
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK(aioloop_future_cancelled(f));
    CHECK(aioloop_concurrent_future_cancelled(c));
    test_spin(loop, 4);
    CHECK_EQ(told, AIOLOOP_ECANCELED);
    aioloop_future_unref(f);
    conc_drop(c);
    work.pause = 0;
    c = conc_keep(conc_submit(loop, &work));
    test_spin(loop, 4);
    f = aioloop_future_ref(aioloop_wrap_future(loop, c)); /* done: the post is under way */
    conc_drop(c);
    CHECK(aioloop_future_cancel(f, NULL));
    aioloop_future_unref(f);
    test_spin(loop, 2);
    test_end(loop);
}

TEST(wrap_future_left_when_its_loop_ends_stays_pending, "FUT-13 RUN-19") {
    aioloop *loop = test_loop();
    aioloop *other = test_loop();
    conc_work work = AIOLOOP_ZERO;
    aioloop_concurrent_future *c;
    aioloop_future *f;
    test_needs_threads(loop);
    work.result = 5;
    c = conc_keep(conc_submit(loop, &work));
    f = aioloop_future_ref(aioloop_wrap_future(other, c));
    aioloop_close(other);
    test_spin(loop, 5);
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(aioloop_concurrent_future_result(c, 0, NULL), 5);
    aioloop_future_unref(f);
    test_end(other);
    conc_drop(c);
    test_end(loop);
}

static void conc_free_event(void *event) {
    aioloop_event_free((aioloop_event *)event);
}

TEST(wrap_future_lets_go_of_a_result_while_its_loop_is_whole, "FUT-13 RUN-19") {
    aioloop *loop = test_loop();
    aioloop *other = test_loop();
    aioloop_task_options options = AIOLOOP_ZERO;
    conc_work work = AIOLOOP_ZERO;
    aioloop_concurrent_future *c;
    aioloop_future *f;
    test_needs_threads(loop);
    work.pointer = aioloop_event_new(other);
    CHECK(work.pointer != NULL);
    options.dispose_result = conc_free_event;
    c = conc_keep(aioloop_run_coroutine_threadsafe_frame(loop, conc_do, &work.frame, &options));
    f = aioloop_future_ref(aioloop_wrap_future(other, c));
    test_spin(loop, 3);
    CHECK_EQ(aioloop_concurrent_future_result(c, 0, NULL), 0);
    conc_drop(c);
    aioloop_close(other); /* before it has heard of the result */
    CHECK(!aioloop_future_done(f));
    aioloop_future_unref(f);
    test_end(other);
    test_end(loop);
}

/* Two loops in two threads: each waits for a coroutine of the other. */
static int64_t conc_ask(aioloop *loop, aioloop_frame *frame, void **out) {
    conc_work *self = (conc_work *)frame;
    aioloop *other = (aioloop *)self->pointer;
    conc_work work = AIOLOOP_ZERO;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    while (self->result < 20) {
        {
            aioloop_concurrent_future *c;
            aioloop_future *f;
            work.result = self->result + 1;
            c = conc_submit(other, &work);
            f = aioloop_wrap_future(loop, c);
            aioloop_concurrent_future_unref(c);
            AIOLOOP_AWAIT(self->result, f, NULL);
        }
        if (self->result < 0)
            return self->result;
    }
    return self->result;
    AIOLOOP_END;
}

static void *conc_run_other(void *arg) {
    conc_user *u = (conc_user *)arg;
    u->result = aioloop_run_forever(u->loop);
    if (u->result < 0)
        aioloop_close(u->loop); /* nobody is to wait for it */
    return NULL;
}

TEST_WITH(concurrent_futures_join_two_loops, "FUT-13 THR-01", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop *other = test_loop();
    conc_user u = AIOLOOP_ZERO;
    conc_work here = AIOLOOP_ZERO;
    conc_work there = AIOLOOP_ZERO;
    aioloop_concurrent_future *c;
    pthread_t thread;
    aioloop_handle h;
    u.loop = other;
    here.pointer = other;
    there.pointer = loop;
    c = aioloop_run_coroutine_threadsafe_frame(other, conc_ask, &there.frame, NULL);
    CHECK(pthread_create(&thread, NULL, conc_run_other, &u) == 0);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_task_frame(loop, conc_ask, &here.frame, NULL), NULL), 20);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_wrap_future(loop, c), NULL), 20);
    aioloop_concurrent_future_unref(c);
    h = aioloop_call_soon_threadsafe(other, conc_stop, NULL);
    CHECK(!aioloop_handle_is_null(&h));
    pthread_join(thread, NULL);
    CHECK_EQ(u.result, 0);
    test_spin(loop, 3);
    test_end(other);
    test_end(loop);
}

/* Wraps the future for a loop of this thread alone, which goes as soon as it has the outcome. */
static void *conc_follow_briefly(void *arg) {
    conc_user *u = (conc_user *)arg;
    aioloop *mine = aioloop_new_event_loop(NULL);
    aioloop_future *f = aioloop_future_ref(aioloop_wrap_future(mine, u->future));
    conc_finished(u);
    while (!aioloop_future_done(f) && aioloop_run_once(mine, 0) >= 0) /* awake: a wake-up would order the two threads */
        sched_yield();
    u->result = aioloop_future_exception(f);
    aioloop_future_unref(f);
    aioloop_free(mine);
    return NULL;
}

TEST_WITH(wrap_future_is_told_by_a_thread_that_its_loop_need_not_outlive, "FUT-13", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop *other = test_loop();
    conc_work work = AIOLOOP_ZERO;
    conc_user u = AIOLOOP_ZERO;
    int i;
    for (i = 0; i < 8; i++) {
        pthread_t thread;
        u.loop = loop;
        u.future = conc_keep(conc_submit(other, &work)); /* which is not run before it is cancelled */
        CHECK(pthread_create(&thread, NULL, conc_follow_briefly, &u) == 0);
        CHECK_EQ(aioloop_run_forever(loop), 0);
        CHECK(aioloop_concurrent_future_cancel(u.future)); /* TSan notices if it looks at the other's loop for too long */
        pthread_join(thread, NULL);
        CHECK_EQ(u.result, AIOLOOP_ECANCELED);
        conc_drop(u.future);
    }
    test_spin(other, 2);
    test_end(other);
    test_end(loop);
}

#else

static int64_t conc_never(aioloop *loop, void *arg, void **out) {
    (void)loop;
    (void)arg;
    (void)out;
    return 0;
}

TEST(concurrent_futures_need_threads, "") {
    aioloop *loop = test_loop();
    aioloop_concurrent_future *f = aioloop_run_coroutine_threadsafe(loop, conc_never, NULL, NULL);
    CHECK_EQ(aioloop_concurrent_future_result(f, 0, NULL), AIOLOOP_ENOTAVAILABLE);
    CHECK(aioloop_concurrent_future_done(f));
    aioloop_concurrent_future_unref(f);
    test_end(loop);
}

#endif
