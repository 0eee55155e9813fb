/*
 * test_signal.c - signals as callbacks, and the interruption of a program that aioloop_run runs.
 *
 * raise() returns when what the system calls has returned, so a signal that a test raises has come by then. What cannot be
 * tried without ending the process is tried in a forked one.
 */
#include "support.h"

#include <errno.h>
#include <signal.h>

#if !defined(AIOLOOP_USE_SUBPROCESS) || AIOLOOP_USE_SUBPROCESS != 0

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static void signal_count(aioloop *loop, void *arg) {
    (void)loop;
    ++*(int *)arg;
}

static void signal_stop(aioloop *loop, void *arg) {
    ++*(int *)arg;
    aioloop_stop(loop);
}

static void signal_of_the_program(int number) {
    (void)number;
}

static void signal_install(int number, void (*handler)(int number)) {
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    sigemptyset(&action.sa_mask);
    action.sa_handler = handler;
    CHECK_EQ(sigaction(number, &action, NULL), 0);
}

static bool signal_calls(int number, void (*handler)(int number)) {
    struct sigaction action;
    return sigaction(number, NULL, &action) == 0 && action.sa_handler == handler;
}

static void signal_add(aioloop *loop, int number, aioloop_callback fn, void *arg) {
    CHECK_EQ(aioloop_add_signal_handler(loop, number, fn, arg), 0);
}

/* Forks; the child runs fn and is to end with that status, or of that signal. */
static void signal_fork(void (*fn)(void *arg), void *arg, int status, int number) {
    int raw = -1;
    pid_t got;
    pid_t child;
    fflush(stdout);
    fflush(stderr);
    child = fork();
    if (child == 0) {
        fn(arg);
        _exit(99);
    }
    CHECK(child > 0);
    do
        got = waitpid(child, &raw, 0);
    while (got == -1 && errno == EINTR);
    CHECK(got == child);
    CHECK_EQ(WIFSIGNALED(raw) ? WTERMSIG(raw) : 0, number);
    if (number == 0)
        CHECK_EQ(WEXITSTATUS(raw), status);
}

/* ---- delivery ---- */

typedef struct signal_inside {
    int number;
    int calls;
    int before; /* calls when raise had returned */
    int later;
    int done;
} signal_inside;

static void signal_works(aioloop *loop, void *arg) {
    signal_inside *s = (signal_inside *)arg;
    aioloop_handle h;
    aioloop_timer_handle t;
    s->calls++;
    h = aioloop_call_soon(loop, signal_count, &s->later);
    CHECK(!aioloop_handle_is_null(&h));
    t = aioloop_call_later(loop, 0, signal_count, &s->later);
    CHECK(!aioloop_handle_is_null(&t.handle));
    CHECK(aioloop_get_running_loop() == loop);
    CHECK_EQ(aioloop_remove_signal_handler(loop, s->number), 1); /* itself */
    CHECK_EQ(aioloop_add_signal_handler(loop, s->number, signal_stop, &s->done), 0);
    CHECK_EQ(raise(s->number), 0);
}

static void signal_raise_inside(aioloop *loop, void *arg) {
    signal_inside *s = (signal_inside *)arg;
    (void)loop;
    errno = EDOM;
    CHECK_EQ(raise(s->number), 0);
    CHECK_EQ(errno, EDOM);
    s->before = s->calls;
}

TEST(signal_handler_runs_as_a_callback_and_may_do_anything, "SIG-01") {
    aioloop *loop = test_loop();
    signal_inside s = AIOLOOP_ZERO;
    aioloop_handle h = aioloop_call_soon(loop, signal_raise_inside, &s);
    CHECK(!aioloop_handle_is_null(&h));
    s.number = SIGUSR1;
    s.before = -1;
    signal_add(loop, SIGUSR1, signal_works, &s);
    CHECK_EQ(aioloop_run_forever(loop), 0);
    CHECK_EQ(s.before, 0);
    CHECK_EQ(s.calls, 1);
    CHECK_EQ(s.done, 1);
    test_spin(loop, 2);
    CHECK_EQ(s.later, 2);
    test_end(loop);
}

TEST(signal_handlers_have_arguments_of_their_own, "SIG-01") {
    aioloop *loop = test_loop();
    int usr1 = 0;
    int usr2 = 0;
    int chld = 0;
    signal_add(loop, SIGUSR1, signal_count, &usr1);
    signal_add(loop, SIGUSR2, signal_count, &usr2);
    signal_add(loop, SIGCHLD, signal_count, &chld);
    raise(SIGUSR2);
    raise(SIGUSR2); /* one, like the first */
    raise(SIGCHLD);
    test_spin(loop, 2);
    CHECK_EQ(usr1, 0);
    CHECK_EQ(usr2, 1);
    CHECK_EQ(chld, 1);
    raise(SIGUSR2);
    raise(SIGUSR1);
    test_spin(loop, 2);
    CHECK_EQ(usr1, 1);
    CHECK_EQ(usr2, 2);
    CHECK_EQ(chld, 1);
    test_end(loop);
}

static aioloop_context_var signal_var = {"signal_var", NULL};

typedef struct signal_values {
    void *seen[2];
    int calls;
    int added;
} signal_values;

static void signal_look(aioloop *loop, void *arg) {
    signal_values *v = (signal_values *)arg;
    (void)loop;
    v->seen[v->calls++] = aioloop_context_get(&signal_var);
    (void)aioloop_context_set(&signal_var, &v->calls, NULL); /* without memory it is not seen, and a check fails */
}

static void signal_add_in_context(aioloop *loop, void *arg) {
    signal_values *v = (signal_values *)arg;
    v->added = aioloop_context_set(&signal_var, v, NULL);
    if (v->added == 0)
        v->added = aioloop_add_signal_handler(loop, SIGUSR1, signal_look, v);
}

TEST(signal_handler_runs_in_the_context_that_added_it, "SIG-01") {
    aioloop *loop = test_loop();
    signal_values v = AIOLOOP_ZERO;
    aioloop_handle h = aioloop_call_soon(loop, signal_add_in_context, &v);
    CHECK(!aioloop_handle_is_null(&h));
    test_spin(loop, 1);
    CHECK_EQ(v.added, 0);
    raise(SIGUSR1);
    test_spin(loop, 2);
    raise(SIGUSR1);
    test_spin(loop, 2);
    CHECK_EQ(v.calls, 2);
    CHECK_PTR(v.seen[0], &v);
    CHECK_PTR(v.seen[1], &v.calls); /* what it has set stays with it */
    CHECK(aioloop_context_get(&signal_var) == NULL);
    test_end(loop);
}

static void signal_fails(aioloop *loop, void *arg) {
    ++*(int *)arg;
    aioloop_raise(loop, *(int *)arg == 1 ? AIOLOOP_EIO : AIOLOOP_EFATAL, "handler %d", *(int *)arg);
}

TEST(signal_handler_that_raises_is_reported, "SIG-01") {
    aioloop *loop = test_loop();
    int calls = 0;
    signal_add(loop, SIGUSR1, signal_fails, &calls);
    raise(SIGUSR1);
    test_spin(loop, 1);
    CHECK_EQ(test_reports(), 1);
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EIO);
    CHECK_STR(test_report_at(0)->message, "Error in signal handler");
    CHECK_STR(test_report_at(0)->detail, "handler 1");
    test_reports_clear();
    raise(SIGUSR1);
    CHECK_EQ(aioloop_run_forever(loop), AIOLOOP_EFATAL);
    CHECK_EQ(calls, 2);
    test_end(loop);
}

/* Runs until its handler has stopped the loop, which sleeps by the time that the signal comes. */
static int signal_run_until_alarm(aioloop *loop) {
    struct itimerval when;
    int n;
    memset(&when, 0, sizeof(when));
    when.it_value.tv_usec = 5000;
    CHECK_EQ(setitimer(ITIMER_REAL, &when, NULL), 0);
    n = aioloop_run_forever(loop);
    when.it_value.tv_usec = 0; /* the run may have failed before */
    CHECK_EQ(setitimer(ITIMER_REAL, &when, NULL), 0);
    return n;
}

TEST(signal_wakes_a_loop_that_sleeps, "SIG-02") {
    aioloop *loop = test_loop();
    int calls = 0;
    if (test_simulated(loop))
        test_needs_threads(loop); /* else it does not wait in real time */
    signal_add(loop, SIGALRM, signal_stop, &calls);
    CHECK_EQ(signal_run_until_alarm(loop), 0);
    CHECK_EQ(calls, 1);
    CHECK_EQ(signal_run_until_alarm(loop), 0); /* again: the wake-up of the first is used up */
    CHECK_EQ(calls, 2);
    test_end(loop);
}

TEST(signal_before_the_run_is_handled_in_it, "SIG-03") {
    aioloop *loop = test_loop();
    aioloop_timer_handle t = aioloop_call_later(loop, AIOLOOP_SECONDS(1000), signal_count, NULL);
    int calls = 0;
    CHECK(!aioloop_handle_is_null(&t.handle));
    signal_add(loop, SIGUSR1, signal_stop, &calls);
    CHECK_GT(aioloop_next_deadline(loop), aioloop_now(loop));
    raise(SIGUSR1);
    CHECK_EQ(calls, 0);
    CHECK_LE(aioloop_next_deadline(loop), aioloop_now(loop)); /* a foreign main loop is told */
    CHECK_EQ(aioloop_run_forever(loop), 0);
    CHECK_EQ(calls, 1);
    raise(SIGUSR1);
    CHECK_GE(aioloop_run_once(loop, AIOLOOP_SECONDS(1000)), 0);
    CHECK_EQ(calls, 2);
    raise(SIGUSR1);
    aioloop_stop(loop);
    CHECK_EQ(aioloop_run_forever(loop), 0); /* one iteration */
    CHECK_EQ(calls, 3);
    aioloop_timer_handle_cancel(&t);
    test_end(loop);
}

/* ---- adding and removing ---- */

TEST(signal_numbers_are_looked_at, "SIG-04") {
    aioloop *loop = test_loop();
    static const int bad[] = {0, -1, 1000, INT_MAX, INT_MIN};
    int calls = 0;
    size_t i;
    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        CHECK_EQ(aioloop_add_signal_handler(loop, bad[i], signal_count, &calls), AIOLOOP_EINVAL);
        CHECK_EQ(aioloop_remove_signal_handler(loop, bad[i]), AIOLOOP_EINVAL);
    }
    CHECK_EQ(aioloop_add_signal_handler(loop, SIGKILL, signal_count, &calls), AIOLOOP_EMISUSE);
    CHECK_STR(aioloop_message(loop, AIOLOOP_EMISUSE), "signal 9 cannot be caught");
    CHECK_EQ(aioloop_add_signal_handler(loop, SIGSTOP, signal_count, &calls), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_remove_signal_handler(loop, SIGKILL), 0);
    CHECK_EQ(aioloop_remove_signal_handler(loop, SIGSTOP), 0);
    CHECK_EQ(aioloop_add_signal_handler(loop, SIGUSR1, NULL, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_add_signal_handler(NULL, SIGUSR1, signal_count, &calls), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_remove_signal_handler(NULL, SIGUSR1), AIOLOOP_EINVAL);
    CHECK(signal_calls(SIGUSR1, SIG_DFL));
    test_end(loop);
}

TEST(signal_handler_set_again_replaces, "SIG-05") {
    aioloop *loop = test_loop();
    int first = 0;
    int second = 0;
    int third = 0;
    signal_add(loop, SIGUSR1, signal_count, &first);
    signal_add(loop, SIGUSR1, signal_count, &second);
    raise(SIGUSR1);
    test_spin(loop, 2);
    CHECK_EQ(first, 0);
    CHECK_EQ(second, 1);
    raise(SIGUSR1);
    signal_add(loop, SIGUSR1, signal_count, &third); /* which gets what has come */
    test_spin(loop, 2);
    CHECK_EQ(first, 0);
    CHECK_EQ(second, 1);
    CHECK_EQ(third, 1);
    signal_install(SIGUSR1, SIG_IGN);
    signal_add(loop, SIGUSR1, signal_count, &third); /* in force again */
    raise(SIGUSR1);
    test_spin(loop, 2);
    CHECK_EQ(third, 2);
    CHECK_EQ(aioloop_remove_signal_handler(loop, SIGUSR1), 1);
    CHECK_EQ(aioloop_remove_signal_handler(loop, SIGUSR1), 0);
    test_end(loop);
}

TEST(signal_handler_removed_leaves_the_default_action, "SIG-06") {
    aioloop *loop = test_loop();
    struct sigaction action;
    int calls = 0;
    signal_install(SIGUSR1, signal_of_the_program);
    CHECK_EQ(aioloop_remove_signal_handler(loop, SIGUSR1), 0);
    CHECK(signal_calls(SIGUSR1, signal_of_the_program));
    signal_add(loop, SIGUSR1, signal_count, &calls);
    CHECK(!signal_calls(SIGUSR1, signal_of_the_program));
    CHECK_EQ(sigaction(SIGUSR1, NULL, &action), 0);
    CHECK((action.sa_flags & SA_RESTART) != 0); /* the program's own calls are not interrupted */
    CHECK_EQ(aioloop_remove_signal_handler(loop, SIGUSR1), 1);
    CHECK(signal_calls(SIGUSR1, SIG_DFL));
    CHECK_EQ(aioloop_remove_signal_handler(loop, SIGUSR1), 0);
    signal_add(loop, SIGUSR1, signal_count, &calls);
    signal_install(SIGUSR1, signal_of_the_program); /* what the program wants now */
    CHECK_EQ(aioloop_remove_signal_handler(loop, SIGUSR1), 1);
    CHECK(signal_calls(SIGUSR1, signal_of_the_program));
    CHECK_EQ(calls, 0);
    test_end(loop);
    signal_install(SIGUSR1, SIG_DFL);
}

static void signal_raise_removed(void *arg) {
    (void)arg;
    raise(SIGUSR1);
}

TEST(signal_whose_handler_was_removed_ends_the_process, "SIG-06") {
    aioloop *loop = test_loop();
    int calls = 0;
    signal_add(loop, SIGUSR1, signal_count, &calls);
    CHECK_EQ(aioloop_remove_signal_handler(loop, SIGUSR1), 1);
    test_end(loop);
    signal_fork(signal_raise_removed, NULL, 0, SIGUSR1);
}

typedef struct signal_rivals {
    int numbers[2];
    int calls;
    int other;
    int removed;
} signal_rivals;

/* Whichever is first removes both. */
static void signal_remove_both(aioloop *loop, void *arg) {
    signal_rivals *r = (signal_rivals *)arg;
    r->calls++;
    r->removed += aioloop_remove_signal_handler(loop, r->numbers[0]);
    r->removed += aioloop_remove_signal_handler(loop, r->numbers[1]);
    CHECK_EQ(aioloop_add_signal_handler(loop, r->numbers[0], signal_count, &r->other), 0); /* a new one, for new signals */
    CHECK_EQ(aioloop_add_signal_handler(loop, r->numbers[1], signal_count, &r->other), 0);
}

TEST(signal_handler_removed_after_the_signal_does_not_run, "SIG-07") {
    aioloop *loop = test_loop();
    signal_rivals r = AIOLOOP_ZERO;
    int calls = 0;
    signal_add(loop, SIGUSR1, signal_count, &calls);
    raise(SIGUSR1);
    CHECK_EQ(aioloop_remove_signal_handler(loop, SIGUSR1), 1);
    test_spin(loop, 3);
    CHECK_EQ(calls, 0);
    r.numbers[0] = SIGUSR1;
    r.numbers[1] = SIGUSR2;
    signal_add(loop, SIGUSR1, signal_remove_both, &r);
    signal_add(loop, SIGUSR2, signal_remove_both, &r);
    raise(SIGUSR1);
    raise(SIGUSR2);
    test_spin(loop, 3);
    CHECK_EQ(r.calls, 1); /* the other was queued already */
    CHECK_EQ(r.removed, 2);
    CHECK_EQ(r.other, 0);
    raise(SIGUSR1);
    raise(SIGUSR2);
    test_spin(loop, 3);
    CHECK_EQ(r.other, 2);
    test_end(loop);
}

static void signal_halt(aioloop *loop, void *arg) {
    (void)arg;
    raise(SIGUSR1);
    raise(SIGUSR2);
    aioloop_raise(loop, AIOLOOP_EFATAL, NULL);
}

TEST(signal_that_a_fatal_error_kept_waiting_runs_later_or_goes_with_the_loop, "SIG-03 SIG-09") {
    aioloop *loop = test_loop();
    int halts = 0;
    int usr1 = 0;
    int usr2 = 0;
    signal_add(loop, SIGUSR1, signal_halt, &halts);
    signal_add(loop, SIGUSR2, signal_halt, &halts);
    raise(SIGUSR1);
    raise(SIGUSR2);
    CHECK_EQ(aioloop_run_forever(loop), AIOLOOP_EFATAL); /* one has run; the other is queued, and both have come again */
    signal_add(loop, SIGUSR1, signal_count, &usr1);
    signal_add(loop, SIGUSR2, signal_count, &usr2);
    test_spin(loop, 1);
    CHECK_EQ(usr1, 1);
    CHECK_EQ(usr2, 1);
    test_spin(loop, 2);
    CHECK_EQ(usr1 + usr2, 2);
    signal_add(loop, SIGUSR1, signal_halt, &halts);
    signal_add(loop, SIGUSR2, signal_halt, &halts);
    raise(SIGUSR1);
    raise(SIGUSR2);
    CHECK_EQ(aioloop_run_forever(loop), AIOLOOP_EFATAL);
    CHECK_EQ(aioloop_remove_signal_handler(loop, SIGUSR1), 1);
    CHECK_EQ(aioloop_remove_signal_handler(loop, SIGUSR2), 1); /* queued or not */
    test_end(loop);
    CHECK(signal_calls(SIGUSR1, SIG_DFL) && signal_calls(SIGUSR2, SIG_DFL));
}

#if !defined(AIOLOOP_USE_THREADS) || AIOLOOP_USE_THREADS != 0

static void *signal_add_in_thread(void *arg) {
    aioloop *loop = (aioloop *)arg;
    aioloop *own;
    static int calls;
    CHECK_EQ(aioloop_add_signal_handler(loop, SIGUSR1, signal_count, &calls), AIOLOOP_EMISUSE);
    CHECK_STR(aioloop_message(NULL, AIOLOOP_EMISUSE), "the call is not allowed here");
    CHECK_EQ(aioloop_remove_signal_handler(loop, SIGUSR2), AIOLOOP_EMISUSE);
    own = aioloop_new_event_loop(NULL);
    if (own != NULL)
        CHECK_EQ(aioloop_add_signal_handler(own, SIGUSR1, signal_count, &calls), AIOLOOP_EMISUSE);
    if (own != NULL)
        CHECK_STR(aioloop_message(own, AIOLOOP_EMISUSE), "signals belong to the process's main thread");
    aioloop_free(own);
    return NULL;
}

TEST_WITH(signal_handlers_are_the_main_threads, "SIG-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    pthread_t thread;
    int calls = 0;
    test_needs_threads(loop);
    signal_add(loop, SIGUSR2, signal_count, &calls);
    CHECK_EQ(pthread_create(&thread, NULL, signal_add_in_thread, loop), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK(signal_calls(SIGUSR1, SIG_DFL));
    raise(SIGUSR2);
    test_spin(loop, 2);
    CHECK_EQ(calls, 1);
    test_end(loop);
}

static void *signal_run_loop(void *arg) {
    aioloop *loop = (aioloop *)arg;
    CHECK_EQ(aioloop_run_forever(loop), 0);
    return NULL;
}

TEST_WITH(signal_wakes_a_loop_in_another_thread, "SIG-02 SIG-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    pthread_t thread;
    int calls = 0;
    int other = 0;
    test_needs_threads(loop);
    signal_add(loop, SIGUSR1, signal_stop, &calls);
    CHECK_EQ(pthread_create(&thread, NULL, signal_run_loop, loop), 0);
    while (!aioloop_is_running(loop))
        sched_yield();
    CHECK_EQ(aioloop_add_signal_handler(loop, SIGUSR2, signal_count, &other), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_remove_signal_handler(loop, SIGUSR1), AIOLOOP_EMISUSE);
    raise(SIGUSR1); /* in this thread */
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(calls, 1);
    test_end(loop);
}

/* ---- floods ---- */

typedef struct signal_flood {
    aioloop *loop;
    uint32_t posts; /* to be made */
    int posted;     /* that were run */
    int links;      /* of the chain: the next signal is sent when the last one was handled */
    int signals;
    bool over; /* the last post was run */
} signal_flood;

static void signal_stop_when_over(signal_flood *f) {
    if (f->over && f->signals == f->links)
        aioloop_stop(f->loop);
}

static void signal_link(aioloop *loop, void *arg) {
    signal_flood *f = (signal_flood *)arg;
    (void)loop;
    if (++f->signals < f->links)
        CHECK_EQ(kill(getpid(), SIGUSR1), 0); /* to any thread */
    signal_stop_when_over(f);
}

static void signal_flood_over(aioloop *loop, void *arg) {
    signal_flood *f = (signal_flood *)arg;
    (void)loop;
    f->over = true;
    signal_stop_when_over(f);
}

static void *signal_post_many(void *arg) {
    signal_flood *f = (signal_flood *)arg;
    aioloop_handle h;
    uint32_t i;
    for (i = 0; i < f->posts; i++) {
        h = aioloop_call_soon_threadsafe(f->loop, signal_count, &f->posted);
        CHECK(!aioloop_handle_is_null(&h));
    }
    h = aioloop_call_soon_threadsafe(f->loop, signal_flood_over, f);
    CHECK(!aioloop_handle_is_null(&h));
    return NULL;
}

/* The run does not end before the chain does, and a lost signal would break it. */
static void signal_play_flood(uint32_t posts, int links) {
    static signal_flood f;
    pthread_t thread;
    memset(&f, 0, sizeof(f));
    f.loop = test_loop();
    f.posts = (uint32_t)(posts / test_slowdown());
    f.links = (int)(links / test_slowdown());
    test_needs_threads(f.loop);
    signal_add(f.loop, SIGUSR1, signal_link, &f);
    CHECK_EQ(pthread_create(&thread, NULL, signal_post_many, &f), 0);
    raise(SIGUSR1);
    CHECK_EQ(aioloop_run_forever(f.loop), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(f.signals, f.links);
    CHECK_EQ(f.posted, (int)f.posts);
    test_end(f.loop);
}

TEST_WITH(signals_among_posts_of_other_threads_are_not_lost, "SIG-02 SOON-05", TEST_THREADS) {
    signal_play_flood(20000, 1000);
}

TEST_WITH(signals_among_a_million_posts_are_not_lost, "SIG-02 SOON-05", TEST_THREADS | TEST_SLOW) {
    signal_play_flood(1000000, 20000);
}

typedef struct signal_pingpong {
    aioloop *loop;
    pthread_t main;
    sem_t answered;
    sem_t over; /* for who makes the noise */
    int rounds;
    int answers;
    int noise;
} signal_pingpong;

static void signal_pong(aioloop *loop, void *arg) {
    signal_pingpong *p = (signal_pingpong *)arg;
    if (++p->answers == p->rounds)
        aioloop_stop(loop);
    CHECK_EQ(sem_post(&p->answered), 0);
}

static void signal_await(sem_t *semaphore) {
    while (sem_wait(semaphore) == -1)
        CHECK_EQ(errno, EINTR);
}

static void *signal_ping(void *arg) {
    signal_pingpong *p = (signal_pingpong *)arg;
    int i;
    for (i = 0; i < p->rounds; i++) { /* which thread gets it */
        if (i % 3 == 0)
            CHECK_EQ(kill(getpid(), SIGUSR1), 0);
        else
            CHECK_EQ(pthread_kill(i % 3 == 1 ? p->main : pthread_self(), SIGUSR1), 0);
        signal_await(&p->answered);
    }
    CHECK_EQ(sem_post(&p->over), 0);
    return NULL;
}

static void *signal_make_noise(void *arg) {
    signal_pingpong *p = (signal_pingpong *)arg;
    while (sem_trywait(&p->over) == -1) {
        CHECK_EQ(kill(getpid(), SIGUSR2), 0);
        sched_yield();
    }
    return NULL;
}

/* Each signal finds the loop about to sleep, asleep or about to wake: none may be lost, alone or among many others. */
static void signal_play_pingpong(bool noise) {
    static signal_pingpong p;
    pthread_t threads[2];
    memset(&p, 0, sizeof(p));
    p.loop = test_loop();
    p.main = pthread_self();
    p.rounds = (int)(1000 / test_slowdown());
    test_needs_threads(p.loop);
    CHECK_EQ(sem_init(&p.answered, 0, 0), 0);
    CHECK_EQ(sem_init(&p.over, 0, 0), 0);
    signal_add(p.loop, SIGUSR1, signal_pong, &p);
    signal_add(p.loop, SIGUSR2, signal_count, &p.noise);
    CHECK_EQ(pthread_create(&threads[0], NULL, signal_ping, &p), 0);
    if (noise)
        CHECK_EQ(pthread_create(&threads[1], NULL, signal_make_noise, &p), 0);
    CHECK_EQ(aioloop_run_forever(p.loop), 0);
    CHECK_EQ(pthread_join(threads[0], NULL), 0);
    if (noise)
        CHECK_EQ(pthread_join(threads[1], NULL), 0);
    CHECK_EQ(p.answers, p.rounds);
    CHECK(noise || p.noise == 0);
    sem_destroy(&p.answered);
    sem_destroy(&p.over);
    test_end(p.loop);
}

TEST_WITH(signals_one_by_one_are_all_noticed, "SIG-02", TEST_THREADS) {
    signal_play_pingpong(false);
}

TEST_WITH(signals_among_many_others_are_all_noticed, "SIG-02", TEST_THREADS) {
    signal_play_pingpong(true);
}

#endif

/* ---- the end of a loop ---- */

TEST(closing_the_loop_removes_its_signal_handlers, "SIG-09 RUN-16 RUN-17 RUN-18") {
    aioloop *loop = test_loop();
    int calls = 0;
    signal_add(loop, SIGUSR1, signal_count, &calls);
    signal_add(loop, SIGUSR2, signal_count, &calls);
    raise(SIGUSR1);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK(signal_calls(SIGUSR1, SIG_DFL));
    CHECK(signal_calls(SIGUSR2, SIG_DFL));
    CHECK_EQ(aioloop_add_signal_handler(loop, SIGUSR1, signal_count, &calls), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_remove_signal_handler(loop, SIGUSR1), 0);
    CHECK_EQ(calls, 0);
    test_end(loop);
}

TEST(each_loop_is_told_of_the_signal, "SIG-09 SIG-06 SIG-05") {
    aioloop *loops[3];
    int calls[3] = {0, 0, 0};
    int other = 0;
    int i;
    for (i = 0; i < 3; i++) {
        loops[i] = test_loop();
        signal_add(loops[i], SIGUSR1, signal_count, &calls[i]);
    }
    signal_add(loops[1], SIGUSR2, signal_count, &other); /* nobody else's */
    raise(SIGUSR1);
    raise(SIGUSR2);
    for (i = 0; i < 3; i++)
        test_spin(loops[i], 2);
    for (i = 0; i < 3; i++)
        CHECK_EQ(calls[i], 1);
    CHECK_EQ(other, 1);
    CHECK_EQ(aioloop_remove_signal_handler(loops[1], SIGUSR1), 1); /* in the middle of them */
    raise(SIGUSR1);
    test_end(loops[2]); /* without having looked */
    raise(SIGUSR1);
    for (i = 0; i < 2; i++)
        test_spin(loops[i], 2);
    CHECK_EQ(calls[0], 2);
    CHECK_EQ(calls[1], 1);
    CHECK_EQ(calls[2], 1);
    CHECK_EQ(aioloop_remove_signal_handler(loops[0], SIGUSR1), 1);
    CHECK(signal_calls(SIGUSR1, SIG_DFL)); /* with the last */
    CHECK(!signal_calls(SIGUSR2, SIG_DFL));
    test_end(loops[0]);
    test_end(loops[1]);
    CHECK(signal_calls(SIGUSR2, SIG_DFL));
}

/* ---- children ---- */

static void signal_child_raises(void *arg) {
    (void)arg;
    raise(SIGUSR1);
}

/* Has nothing of the parent's, and handlers of its own. */
static void signal_child_handles(void *arg) {
    aioloop *loop = aioloop_new_event_loop(NULL);
    int calls = 0;
    if (loop == NULL || aioloop_add_signal_handler(loop, SIGUSR2, signal_stop, &calls) != 0)
        _exit(1);
    raise(SIGUSR2);
    if (aioloop_run_forever(loop) != 0 || calls != 1 || !signal_calls(SIGUSR1, SIG_DFL))
        _exit(2);
    if (aioloop_add_signal_handler((aioloop *)arg, SIGUSR1, signal_stop, &calls) != AIOLOOP_EMISUSE)
        _exit(3);
    if (aioloop_free(loop) != 0 || aioloop_free((aioloop *)arg) != 0 || !signal_calls(SIGUSR2, SIG_DFL))
        _exit(4);
    _exit(7);
}

static void signal_child_frees(void *arg) {
    if (aioloop_free((aioloop *)arg) != 0 || !signal_calls(SIGUSR1, SIG_DFL) || !signal_calls(SIGUSR2, SIG_DFL))
        _exit(1);
    _exit(8);
}

TEST(forked_child_has_the_default_actions, "SIG-10") {
    aioloop *loop = test_loop();
    int usr1 = 0;
    int usr2 = 0;
    signal_add(loop, SIGUSR1, signal_count, &usr1);
    signal_add(loop, SIGUSR2, signal_count, &usr2);
    signal_fork(signal_child_raises, NULL, 0, SIGUSR1);
    signal_fork(signal_child_handles, loop, 7, 0);
    signal_fork(signal_child_frees, loop, 8, 0);
    test_spin(loop, 3);
    CHECK_EQ(usr1 + usr2, 0); /* nothing was told here */
    raise(SIGUSR1);
    raise(SIGUSR2);
    test_spin(loop, 3);
    CHECK_EQ(usr1, 1);
    CHECK_EQ(usr2, 1);
    test_end(loop);
}

#if !defined(AIOLOOP_USE_THREADS) || AIOLOOP_USE_THREADS != 0

static int64_t signal_worker_looks(const void *input, size_t size, aioloop_output *out) {
    (void)input;
    (void)size;
    (void)out;
    return (signal_calls(SIGUSR1, SIG_DFL) ? 1 : 0) + (signal_calls(SIGUSR2, SIG_DFL) ? 2 : 0);
}

TEST_WITH(workers_of_a_process_pool_have_the_default_actions, "SIG-10", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop_process_pool *pool;
    int calls = 0;
    int64_t n;
    test_needs_threads(loop);
    signal_add(loop, SIGUSR1, signal_count, &calls);
    pool = aioloop_process_pool_new(NULL);
    CHECK(pool != NULL);
    signal_add(loop, SIGUSR2, signal_count, &calls);
    n = aioloop_run_until_complete(loop, aioloop_run_in_process(loop, pool, signal_worker_looks, NULL, 0), NULL);
    aioloop_process_pool_free(pool);
    CHECK_EQ(n, 3);
    CHECK_EQ(calls, 0);
    test_end(loop);
}

#endif

/* ---- the example of asyncio's documentation ---- */

typedef struct signal_example {
    aioloop_frame frame;
    int64_t n;
    int number;
    int seen;
} signal_example;

static void signal_ask_exit(aioloop *loop, void *arg) {
    signal_example *e = (signal_example *)arg;
    e->seen = e->number;
    aioloop_stop(loop);
}

static void signal_raise_soon(aioloop *loop, void *arg) {
    (void)loop;
    CHECK_EQ(raise(((signal_example *)arg)->number), 0);
}

static int64_t signal_sleeps(aioloop *loop, aioloop_frame *frame, void **out) {
    signal_example *e = (signal_example *)frame;
    aioloop_handle h;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    if (aioloop_add_signal_handler(loop, SIGINT, signal_ask_exit, e) < 0 ||
        aioloop_add_signal_handler(loop, SIGTERM, signal_ask_exit, e) < 0)
        return AIOLOOP_ENOMEM;
    h = aioloop_call_soon(loop, signal_raise_soon, e);
    if (aioloop_handle_is_null(&h))
        return AIOLOOP_ENOMEM;
    AIOLOOP_SLEEP(e->n, AIOLOOP_SECONDS(3600));
    return e->n;
    AIOLOOP_END;
}

TEST(signals_stop_a_loop_that_sleeps_for_an_hour, "EX-04") {
    static const int numbers[] = {SIGINT, SIGTERM};
    size_t i;
    for (i = 0; i < 2; i++) {
        aioloop *loop = test_loop();
        signal_example e = AIOLOOP_ZERO;
        aioloop_task *task;
        e.number = numbers[i];
        task = aioloop_future_ref(aioloop_create_task_frame(loop, signal_sleeps, &e.frame, NULL));
        CHECK_EQ(aioloop_run_until_complete(loop, task, NULL), AIOLOOP_EMISUSE); /* stopped before it was done */
        CHECK_EQ(e.seen, numbers[i]);
        CHECK(!aioloop_future_done(task));
        aioloop_future_cancel(task, NULL);
        CHECK_EQ(aioloop_run_until_complete(loop, task, NULL), AIOLOOP_ECANCELED);
        aioloop_future_unref(task);
        test_end(loop);
    }
}

/* ---- aioloop_run ---- */

typedef struct signal_run {
    aioloop_frame frame;
    int64_t n;
    int interruptions; /* to be made */
    int waits;         /* that were cancelled */
    int catches;       /* how many of them it goes on after */
    int calls;
    int64_t answer;
    bool own;      /* has a handler of its own */
    bool installs; /* has the program's */
    bool cancels;  /* is cancelled, too */
    bool insists;  /* cancels itself, once it was cancelled */
    bool caught;   /* SIGINT had a handler in there */
    bool at_once;  /* both before the loop looks */
    aioloop_task *task;
} signal_run;

static void signal_interrupt(aioloop *loop, void *arg) {
    signal_run *r = (signal_run *)arg;
    (void)loop;
    if (r->interruptions-- > 0)
        raise(SIGINT);
    if (r->at_once)
        raise(SIGINT);
    if (r->cancels)
        aioloop_future_cancel(r->task, NULL);
}

static int64_t signal_run_main(aioloop *loop, aioloop_frame *frame, void **out) {
    signal_run *r = (signal_run *)frame;
    aioloop_handle h;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    r->caught = !signal_calls(SIGINT, SIG_DFL) && !signal_calls(SIGINT, SIG_IGN);
    r->task = aioloop_current_task(loop);
    if (r->own && aioloop_add_signal_handler(loop, SIGINT, signal_stop, &r->calls) < 0)
        return AIOLOOP_ENOMEM;
    if (r->installs)
        signal_install(SIGINT, signal_of_the_program);
    do {
        h = aioloop_call_soon(loop, signal_interrupt, r);
        if (aioloop_handle_is_null(&h))
            return AIOLOOP_ENOMEM;
        AIOLOOP_SLEEP(r->n, AIOLOOP_SECONDS(r->interruptions > 0 || r->cancels ? 1000 : 0));
        if (r->n == AIOLOOP_ECANCELED)
            r->waits++;
        if (r->insists)
            aioloop_future_cancel(r->task, NULL);
    } while (r->n == AIOLOOP_ECANCELED && r->waits <= r->catches);
    return r->n < 0 ? r->n : r->answer;
    AIOLOOP_END;
}

static int64_t signal_play_run(signal_run *r) {
    return aioloop_run_frame(signal_run_main, &r->frame, NULL);
}

TEST(interruption_cancels_main_and_the_run_says_so, "RNR-03") {
    signal_run r = AIOLOOP_ZERO;
    r.interruptions = 1;
    CHECK_EQ(signal_play_run(&r), AIOLOOP_EINTERRUPTED);
    CHECK_STR(aioloop_message(NULL, AIOLOOP_EINTERRUPTED), "the program was interrupted");
    CHECK(r.caught);
    CHECK_EQ(r.waits, 1);
    CHECK(signal_calls(SIGINT, SIG_DFL));
}

static void signal_raise_when_done(aioloop_future *f, void *arg) {
    (void)f;
    (void)arg;
    raise(SIGINT);
}

static int64_t signal_main_of_one_step(aioloop *loop, aioloop_frame *frame, void **out) {
    const signal_run *r = (const signal_run *)frame;
    (void)out;
    if (r->at_once)
        raise(SIGINT);
    else if (aioloop_future_add_done_callback(aioloop_current_task(loop), signal_raise_when_done, NULL) < 0)
        return AIOLOOP_ENOMEM;
    return 7;
}

/* The run is over before the loop would see to it. */
TEST(interruption_in_the_last_moment_is_told, "RNR-03") {
    signal_run r = AIOLOOP_ZERO;
    CHECK_EQ(aioloop_run_frame(signal_main_of_one_step, &r.frame, NULL), AIOLOOP_EINTERRUPTED);
    memset(&r, 0, sizeof(r));
    r.at_once = true;
    CHECK_EQ(aioloop_run_frame(signal_main_of_one_step, &r.frame, NULL), AIOLOOP_EINTERRUPTED);
    CHECK(signal_calls(SIGINT, SIG_DFL));
}

TEST(interruption_that_main_deals_with_is_not_told, "RNR-03") {
    signal_run r = AIOLOOP_ZERO;
    r.interruptions = 1;
    r.catches = 1;
    r.answer = 42;
    CHECK_EQ(signal_play_run(&r), 42);
    CHECK_EQ(r.waits, 1);
    memset(&r, 0, sizeof(r));
    r.answer = 43;
    CHECK_EQ(signal_play_run(&r), 43); /* none */
    CHECK(r.caught);
    CHECK(signal_calls(SIGINT, SIG_DFL));
    memset(&r, 0, sizeof(r));
    r.interruptions = 1;
    r.insists = true; /* so it is not the interruption's doing alone */
    CHECK_EQ(signal_play_run(&r), AIOLOOP_ECANCELED);
}

TEST(second_interruption_ends_the_run_at_once, "RNR-03") {
    signal_run r = AIOLOOP_ZERO;
    r.interruptions = 2;
    r.catches = 1; /* waits again */
    CHECK_EQ(signal_play_run(&r), AIOLOOP_EINTERRUPTED);
    CHECK_EQ(r.waits, 2); /* the run's end has cancelled it like all tasks that are left */
    CHECK(signal_calls(SIGINT, SIG_DFL));
}

TEST(runner_is_interrupted_in_each_run_anew, "RNR-03 RNR-04") {
    aioloop_runner *runner;
    signal_run r = AIOLOOP_ZERO;
    int64_t n[3];
    int i;
    test_end(test_loop());
    runner = aioloop_runner_new(NULL);
    CHECK(runner != NULL);
    for (i = 0; i < 3; i++) {
        memset(&r, 0, sizeof(r));
        r.interruptions = i == 1 ? 0 : 1;
        n[i] = aioloop_runner_run_frame(runner, signal_run_main, &r.frame, NULL, NULL);
    }
    aioloop_runner_free(runner);
    CHECK_EQ(n[0], AIOLOOP_EINTERRUPTED);
    CHECK_EQ(n[1], 0);
    CHECK_EQ(n[2], AIOLOOP_EINTERRUPTED);
}

TEST(run_leaves_interruptions_alone_that_are_decided_on, "RNR-03") {
    signal_run r = AIOLOOP_ZERO;
    int64_t n;
    r.interruptions = 1;
    signal_install(SIGINT, SIG_IGN); /* as in the background */
    r.cancels = true;
    n = signal_play_run(&r);
    CHECK(signal_calls(SIGINT, SIG_IGN));
    signal_install(SIGINT, SIG_DFL);
    CHECK_EQ(n, AIOLOOP_ECANCELED);
    CHECK(!r.caught);
    memset(&r, 0, sizeof(r));
    r.interruptions = 1;
    r.own = true; /* it stops the loop */
    CHECK_EQ(signal_play_run(&r), AIOLOOP_EMISUSE);
    CHECK_EQ(r.calls, 1);
    CHECK(signal_calls(SIGINT, SIG_DFL));
    memset(&r, 0, sizeof(r));
    r.installs = true;
    n = signal_play_run(&r);
    CHECK(signal_calls(SIGINT, signal_of_the_program));
    signal_install(SIGINT, SIG_DFL);
    CHECK_EQ(n, 0);
}

static void signal_child_hangs(void *arg) {
    signal_run r = AIOLOOP_ZERO;
    (void)arg;
    r.interruptions = 1;
    r.at_once = true;
    (void)signal_play_run(&r);
    _exit(1);
}

TEST(second_interruption_ends_a_program_that_does_not_look, "RNR-03") {
    test_end(test_loop());
    signal_fork(signal_child_hangs, NULL, 0, SIGINT);
}

#if !defined(AIOLOOP_USE_THREADS) || AIOLOOP_USE_THREADS != 0

static void *signal_run_in_thread(void *arg) {
    signal_run *r = (signal_run *)arg;
    r->answer = 5;
    r->n = aioloop_run_frame(signal_run_main, &r->frame, NULL);
    return NULL;
}

TEST_WITH(run_in_another_thread_is_not_interrupted, "RNR-03 SIG-08", TEST_THREADS) {
    aioloop *loop = test_loop();
    signal_run r = AIOLOOP_ZERO;
    pthread_t thread;
    test_needs_threads(loop);
    test_end(loop);
    CHECK_EQ(pthread_create(&thread, NULL, signal_run_in_thread, &r), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(r.n, 5);
    CHECK(!r.caught);
}

#endif

#else

static void signal_never(aioloop *loop, void *arg) {
    (void)loop;
    (void)arg;
}

TEST(signals_are_not_in_this_build, "") {
    aioloop *loop = test_loop();
    CHECK_EQ(aioloop_add_signal_handler(loop, SIGINT, signal_never, NULL), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_remove_signal_handler(loop, SIGINT), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_add_signal_handler(NULL, SIGINT, signal_never, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_remove_signal_handler(NULL, SIGINT), AIOLOOP_EINVAL);
    test_end(loop);
}

#endif
