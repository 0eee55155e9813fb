/*
 * test_threads.c - call_soon_threadsafe: waking a sleeping loop, order, racing with close; and what a loop is to other
 * threads.
 *
 * Each test is clean under TSan. Where a thread sleeps, that only makes it likely that the loop sleeps, too; nothing
 * depends on it.
 */
#include "support.h"

#if !defined(AIOLOOP_USE_THREADS) || AIOLOOP_USE_THREADS != 0

#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static pthread_t thread_start(void *(*fn)(void *), void *arg) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, fn, arg) == 0);
    return thread;
}

static void thread_sleep(aioloop_time time) {
    struct timespec t;
    t.tv_sec = (time_t)(time / 1000000000);
    t.tv_nsec = (long)(time % 1000000000);
    nanosleep(&t, NULL);
}

/* A number that one thread sets and others wait for. */
typedef struct thread_gate {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int value;
} thread_gate;

static void thread_gate_init(thread_gate *g) {
    memset(g, 0, sizeof(*g));
    pthread_mutex_init(&g->mutex, NULL);
    pthread_cond_init(&g->changed, NULL);
}

static void thread_gate_end(thread_gate *g) {
    pthread_mutex_destroy(&g->mutex);
    pthread_cond_destroy(&g->changed);
}

static void thread_gate_add(thread_gate *g, int n) {
    pthread_mutex_lock(&g->mutex);
    g->value += n;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->mutex);
}

static void thread_gate_wait(thread_gate *g, int wanted) {
    pthread_mutex_lock(&g->mutex);
    while (g->value < wanted)
        pthread_cond_wait(&g->changed, &g->mutex);
    pthread_mutex_unlock(&g->mutex);
}

static void thread_stop(aioloop *loop, void *arg) {
    if (arg != NULL)
        ++*(int *)arg;
    aioloop_stop(loop);
}

static void thread_count(aioloop *loop, void *arg) {
    (void)loop;
    ++*(int *)arg;
}

/* ---- waking ---- */

typedef struct thread_waker {
    aioloop *loop;
    aioloop_time wait;
    int ran; /* the loop's thread alone */
} thread_waker;

static void *thread_wake_late(void *arg) {
    thread_waker *w = (thread_waker *)arg;
    aioloop_handle h;
    thread_sleep(w->wait);
    h = aioloop_call_soon_threadsafe(w->loop, thread_stop, &w->ran);
    CHECK(!aioloop_handle_is_null(&h));
    return NULL;
}

TEST_WITH(thread_post_wakes_a_loop_that_sleeps_without_end, "SOON-05 RUN-01", TEST_THREADS) {
    aioloop *loop = test_loop();
    thread_waker w = AIOLOOP_ZERO;
    struct timespec before;
    struct timespec after;
    pthread_t thread;
    aioloop_time used;
    w.loop = loop;
    w.wait = (aioloop_time)(40e6 * (test_slowdown() < 20 ? test_slowdown() : 20));
    thread = thread_start(thread_wake_late, &w);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    CHECK_EQ(aioloop_run_forever(loop), 0);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    pthread_join(thread, NULL);
    CHECK_EQ(w.ran, 1);
    used = (aioloop_time)(after.tv_sec - before.tv_sec) * 1000000000 + (after.tv_nsec - before.tv_nsec);
    CHECK_LT(used, w.wait / 2); /* it slept */
    test_end(loop);
}

TEST_WITH(thread_post_wakes_a_loop_that_waits_for_a_timer, "SOON-05", TEST_THREADS) {
    aioloop *loop = test_loop();
    thread_waker w = AIOLOOP_ZERO;
    aioloop_timer_handle timer;
    pthread_t thread;
    w.loop = loop;
    w.wait = AIOLOOP_MS(5);
    if (test_simulated(loop)) /* there a timer is never waited for */
        timer = aioloop_call_at(loop, AIOLOOP_FOREVER, thread_count, &w.ran);
    else
        timer = aioloop_call_later(loop, AIOLOOP_MS(3600000), thread_count, &w.ran);
    CHECK(!aioloop_handle_is_null(&timer.handle));
    thread = thread_start(thread_wake_late, &w);
    CHECK_EQ(aioloop_run_forever(loop), 0);
    pthread_join(thread, NULL);
    CHECK_EQ(w.ran, 1);
    test_end(loop);
}

typedef struct thread_pingpong {
    aioloop *loop;
    thread_gate answered;
    int rounds;
    int count; /* the loop's thread alone */
} thread_pingpong;

static void thread_pong(aioloop *loop, void *arg) {
    thread_pingpong *p = (thread_pingpong *)arg;
    if (++p->count == p->rounds)
        aioloop_stop(loop);
    thread_gate_add(&p->answered, 1);
}

static void *thread_ping(void *arg) {
    thread_pingpong *p = (thread_pingpong *)arg;
    int i;
    for (i = 0; i < p->rounds; i++) {
        aioloop_handle h = aioloop_call_soon_threadsafe(p->loop, thread_pong, p);
        CHECK(!aioloop_handle_is_null(&h));
        thread_gate_wait(&p->answered, i + 1);
    }
    return NULL;
}

/* Each post finds the loop about to sleep, asleep or about to wake: none may be lost. */
TEST_WITH(thread_posts_one_by_one_are_all_noticed, "SOON-05", TEST_THREADS) {
    aioloop *loop = test_loop();
    thread_pingpong p;
    pthread_t thread;
    memset(&p, 0, sizeof(p));
    p.loop = loop;
    p.rounds = 500;
    thread_gate_init(&p.answered);
    thread = thread_start(thread_ping, &p);
    CHECK_EQ(aioloop_run_forever(loop), 0);
    pthread_join(thread, NULL);
    CHECK_EQ(p.count, 500);
    thread_gate_end(&p.answered);
    test_end(loop);
}

/* A program with another main loop sleeps on the loop's descriptor, not in the loop: it has to be told as well. */
TEST_WITH(thread_post_wakes_another_main_loop, "SOON-05", TEST_THREADS) {
    aioloop *loop = test_loop();
    thread_waker w = AIOLOOP_ZERO;
    struct pollfd watched;
    int round;
    if (aioloop_backend_fd(loop) < 0) {
        test_end(loop);
        SKIP("no descriptor to watch");
    }
    w.loop = loop;
    w.wait = AIOLOOP_MS(1);
    watched.fd = aioloop_backend_fd(loop);
    watched.events = POLLIN;
    for (round = 0; round < 3; round++) { /* before the first run, after run_once, and after run_forever */
        pthread_t thread = thread_start(thread_wake_late, &w);
        int n;
        CHECK_EQ(aioloop_next_deadline(loop) == AIOLOOP_FOREVER || w.ran == round, 1);
        watched.revents = 0;
        n = poll(&watched, 1, 10000);
        pthread_join(thread, NULL);
        CHECK_EQ(n, 1);
        CHECK_LE(aioloop_next_deadline(loop), aioloop_now(loop));
        if (round == 1)
            CHECK_EQ(aioloop_run_forever(loop), 0);
        else
            CHECK_GE(aioloop_run_once(loop, 0), 0);
        CHECK_EQ(w.ran, round + 1);
    }
    test_end(loop);
}

/* ---- the loop's thread ---- */

typedef struct thread_run {
    aioloop *loop;
    int rc;
    int ran;
} thread_run;

static void *thread_run_it(void *arg) {
    thread_run *run = (thread_run *)arg;
    aioloop_handle h = aioloop_call_soon_threadsafe(run->loop, thread_stop, &run->ran);
    CHECK(!aioloop_handle_is_null(&h));
    run->rc = aioloop_run_forever(run->loop);
    return NULL;
}

/* Made in one thread and run in another is right; run in one and then in another is not, on any engine. */
TEST_WITH(thread_that_runs_a_loop_first_keeps_it, "", TEST_THREADS) {
    aioloop *loop = test_loop();
    thread_run run = AIOLOOP_ZERO;
    run.loop = loop;
    pthread_join(thread_start(thread_run_it, &run), NULL);
    CHECK_EQ(run.rc, 0);
    CHECK_EQ(run.ran, 1);
    CHECK_EQ(aioloop_run_once(loop, 0), AIOLOOP_EMISUSE);
    CHECK(strstr(aioloop_error_message(aioloop_last_error(loop)), "thread") != NULL);
    CHECK(!aioloop_is_running(loop));
    test_end(loop);
}

static void *thread_close_it(void *arg) {
    close(*(const int *)arg);
    return NULL;
}

/* An end that comes while the last bytes are taken is told as any other, also when more wakings than 128 have piled up,
 * from where on the kernel (6.18) does not count them: a multishot request on a Unix socket would miss it nearly every
 * time. */
TEST_WITH(thread_that_closes_while_we_read_much_is_heard, "", TEST_THREADS | TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    int round;
    test_needs_real_descriptors(loop);
    for (round = 0; round < 20; round++) {
        test_peer peer = AIOLOOP_ZERO;
        aioloop_socket s[2];
        pthread_t thread;
        int room = 1000000;
        int socket;
        int i;
        test_socketpair(loop, s);
        socket = s[1];
        CHECK(setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)) == 0);
        test_adopt(loop, &test_protocol, &peer, s[0]);
        test_spin(loop, 2);
        for (i = 0; i < 250; i++)
            CHECK_EQ(send(socket, "x", 1, MSG_NOSIGNAL), 1);
        test_forget_socket(s[1]);
        thread = thread_start(thread_close_it, &socket);
        test_run_until(loop, &peer.lost, 1, "the end");
        pthread_join(thread, NULL);
        CHECK_EQ(peer.received, 250);
        test_peer_drop(&peer);
    }
    test_end(loop);
}

/* ---- order, and many at once ---- */

enum { THREAD_COUNT = 8, THREAD_POSTS = 1500 };

typedef struct thread_crowd {
    aioloop *loop;
    thread_gate start;
    int next[THREAD_COUNT]; /* the loop's thread alone, like the two below */
    int total;
    int disorder;
} thread_crowd;

typedef struct thread_member {
    thread_crowd *crowd;
    int number;
    int posted;
    int refused;
} thread_member;

typedef struct thread_post {
    thread_member *member;
    int index;
} thread_post;

static thread_post thread_all_posts[THREAD_COUNT][THREAD_POSTS];

static void thread_arrived(aioloop *loop, void *arg) {
    const thread_post *post = (const thread_post *)arg;
    thread_crowd *crowd = post->member->crowd;
    if (post->index != crowd->next[post->member->number]++)
        crowd->disorder++;
    if (++crowd->total == THREAD_COUNT * THREAD_POSTS)
        aioloop_stop(loop);
}

static void *thread_post_many(void *arg) {
    thread_member *m = (thread_member *)arg;
    int i;
    thread_gate_wait(&m->crowd->start, 1);
    for (i = 0; i < THREAD_POSTS; i++) {
        thread_post *post = &thread_all_posts[m->number][i];
        aioloop_handle h;
        post->member = m;
        post->index = i;
        h = aioloop_call_soon_threadsafe(m->crowd->loop, thread_arrived, post);
        if (aioloop_handle_is_null(&h)) {
            m->refused++;
            if (aioloop_is_closed(m->crowd->loop))
                break;
            FAIL("a post of an open loop was refused");
        }
        m->posted++;
    }
    return NULL;
}

TEST_WITH(thread_posts_of_many_threads_arrive_once_and_in_order, "SOON-05", TEST_THREADS) {
    aioloop *loop = test_loop();
    static thread_crowd crowd;
    static thread_member members[THREAD_COUNT];
    pthread_t threads[THREAD_COUNT];
    int i;
    memset(&crowd, 0, sizeof(crowd));
    memset(members, 0, sizeof(members));
    crowd.loop = loop;
    thread_gate_init(&crowd.start);
    for (i = 0; i < THREAD_COUNT; i++) {
        members[i].crowd = &crowd;
        members[i].number = i;
        threads[i] = thread_start(thread_post_many, &members[i]);
    }
    thread_gate_add(&crowd.start, 1);
    CHECK_EQ(aioloop_run_forever(loop), 0);
    for (i = 0; i < THREAD_COUNT; i++)
        pthread_join(threads[i], NULL);
    test_spin(loop, 2);
    CHECK_EQ(crowd.total, THREAD_COUNT * THREAD_POSTS);
    CHECK_EQ(crowd.disorder, 0);
    for (i = 0; i < THREAD_COUNT; i++)
        CHECK_EQ(members[i].posted, THREAD_POSTS);
    thread_gate_end(&crowd.start);
    test_end(loop);
}

TEST_WITH(thread_posts_race_with_close, "SOON-07 RUN-16 RUN-18", TEST_THREADS) {
    static thread_crowd crowd;
    static thread_member members[THREAD_COUNT];
    int round;
    for (round = 0; round < 12; round++) {
        aioloop *loop = test_loop();
        pthread_t threads[THREAD_COUNT];
        aioloop_handle h;
        int ran;
        int posted = 0;
        int i;
        memset(&crowd, 0, sizeof(crowd));
        memset(members, 0, sizeof(members));
        crowd.loop = loop;
        thread_gate_init(&crowd.start);
        for (i = 0; i < 4; i++) {
            members[i].crowd = &crowd;
            members[i].number = i;
            threads[i] = thread_start(thread_post_many, &members[i]);
        }
        thread_gate_add(&crowd.start, 1);
        for (i = 0; i < round % 4; i++)
            CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(1)), 0);
        CHECK_EQ(aioloop_close(loop), 0);
        ran = crowd.total;
        h = aioloop_call_soon_threadsafe(loop, thread_count, &crowd.total);
        CHECK(aioloop_handle_is_null(&h));
        for (i = 0; i < 4; i++) {
            pthread_join(threads[i], NULL);
            posted += members[i].posted;
        }
        CHECK_LE(ran, posted);
        CHECK_EQ(crowd.disorder, 0);
        thread_gate_end(&crowd.start);
        test_end(loop);
        CHECK_EQ(crowd.total, ran); /* what had not run by then never does */
    }
}

/* ---- handles ---- */

typedef struct thread_background {
    aioloop *loop;
    thread_gate stop;
    int posted;
} thread_background;

static void thread_nothing(aioloop *loop, void *arg) {
    (void)loop;
    (void)arg;
}

static void *thread_post_on(void *arg) {
    thread_background *b = (thread_background *)arg;
    bool stop = false;
    while (!stop) {
        aioloop_handle h = aioloop_call_soon_threadsafe(b->loop, thread_nothing, NULL);
        CHECK(!aioloop_handle_is_null(&h));
        pthread_mutex_lock(&b->stop.mutex);
        stop = b->stop.value != 0;
        pthread_mutex_unlock(&b->stop.mutex);
        if (++b->posted % 100 == 0)
            thread_sleep(AIOLOOP_US(20));
    }
    return NULL;
}

/* A handle whose callback has run names a slot that another thread may be filling at this moment. */
TEST_WITH(thread_late_cancel_does_not_touch_the_posts_of_others, "HND-02 SOON-05", TEST_THREADS) {
    aioloop *loop = test_loop();
    thread_background b;
    aioloop_handle old[64];
    pthread_t thread;
    int ran = 0;
    int i;
    int round;
    memset(&b, 0, sizeof(b));
    b.loop = loop;
    thread_gate_init(&b.stop);
    for (i = 0; i < 64; i++) {
        old[i] = aioloop_call_soon_threadsafe(loop, thread_count, &ran);
        CHECK(!aioloop_handle_is_null(&old[i]));
    }
    aioloop_handle_cancel(&old[63]); /* one in time */
    test_spin(loop, 1);
    CHECK_EQ(ran, 63);
    thread = thread_start(thread_post_on, &b);
    for (round = 0; round < 200; round++) {
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(1)), 0);
        for (i = 0; i < 64; i++) {
            aioloop_handle copy = old[i];
            aioloop_handle_cancel(&copy);
        }
    }
    thread_gate_add(&b.stop, 1);
    pthread_join(thread, NULL);
    test_spin(loop, 1);
    CHECK_EQ(ran, 63);
    thread_gate_end(&b.stop);
    test_end(loop);
}

/* ---- contexts ---- */

static const aioloop_context_var thread_var = {"thread", NULL};

typedef struct thread_context {
    aioloop *loop;
    aioloop_context *passed;
    int value;
    void *seen[2];
    int count;
} thread_context;

static void thread_look(aioloop *loop, void *arg) {
    thread_context *c = (thread_context *)arg;
    c->seen[c->count++] = aioloop_context_get(&thread_var);
    if (c->count == 2)
        aioloop_stop(loop);
}

static void *thread_post_contexts(void *arg) {
    thread_context *c = (thread_context *)arg;
    aioloop_handle h;
    CHECK_PTR(aioloop_context_get(&thread_var), NULL); /* a thread begins with none */
    CHECK_EQ(aioloop_context_set(&thread_var, &c->value, NULL), 0);
    h = aioloop_call_soon_threadsafe(c->loop, thread_look, c);
    CHECK(!aioloop_handle_is_null(&h));
    CHECK_EQ(aioloop_context_set(&thread_var, NULL, NULL), 0);
    h = aioloop_call_soon_threadsafe_context(c->loop, thread_look, c, c->passed);
    CHECK(!aioloop_handle_is_null(&h));
    return NULL;
}

TEST_WITH(thread_post_carries_the_context_of_its_thread, "CTX-01", TEST_THREADS) {
    aioloop *loop = test_loop();
    thread_context c;
    pthread_t thread;
    int own = 0;
    memset(&c, 0, sizeof(c));
    c.loop = loop;
    CHECK_EQ(aioloop_context_set(&thread_var, &own, NULL), 0);
    c.passed = aioloop_copy_context();
    CHECK(c.passed != NULL);
    thread = thread_start(thread_post_contexts, &c);
    CHECK_EQ(aioloop_run_forever(loop), 0);
    pthread_join(thread, NULL);
    CHECK_PTR(c.seen[0], &c.value);
    CHECK_PTR(c.seen[1], &own);
    aioloop_context_unref(c.passed);
    CHECK_EQ(aioloop_context_set(&thread_var, NULL, NULL), 0);
    test_end(loop);
}

/* ---- loops of several threads ---- */

typedef struct thread_own {
    aioloop *loop;
    aioloop *others;
    thread_gate *both;
    int ran;
} thread_own;

static void thread_meet(aioloop *loop, void *arg) {
    thread_own *o = (thread_own *)arg;
    thread_gate_add(o->both, 1);
    thread_gate_wait(o->both, 2); /* both loops are in a callback now */
    CHECK_PTR(aioloop_get_running_loop(), loop);
    CHECK_PTR(aioloop_get_event_loop(), loop);
    CHECK(aioloop_is_running(o->others));
    o->ran++;
    thread_gate_add(o->both, 1);
    thread_gate_wait(o->both, 4);
    aioloop_stop(loop);
}

static void *thread_run_own(void *arg) {
    thread_own *o = (thread_own *)arg;
    aioloop_handle h;
    CHECK_PTR(aioloop_get_running_loop(), NULL);
    CHECK_PTR(aioloop_get_event_loop(), NULL); /* not the first thread: none is made, and main's is not seen */
    aioloop_set_event_loop(o->loop);
    CHECK_PTR(aioloop_get_event_loop(), o->loop);
    h = aioloop_call_soon(o->loop, thread_meet, o);
    CHECK(!aioloop_handle_is_null(&h));
    CHECK_EQ(aioloop_run_forever(o->loop), 0); /* made by another thread */
    CHECK_PTR(aioloop_get_running_loop(), NULL);
    aioloop_set_event_loop(NULL);
    CHECK_PTR(aioloop_get_event_loop(), NULL);
    return NULL;
}

TEST_WITH(thread_has_a_current_loop_of_its_own, "GET-04 GET-05 GET-01", TEST_THREADS) {
    aioloop *mine = test_loop();
    aioloop *others = test_loop();
    thread_own a = AIOLOOP_ZERO;
    thread_own b = AIOLOOP_ZERO;
    thread_gate both;
    pthread_t thread;
    aioloop_handle h;
    thread_gate_init(&both);
    aioloop_set_event_loop(mine);
    a.loop = mine;
    a.others = others;
    a.both = &both;
    b.loop = others;
    b.others = mine;
    b.both = &both;
    thread = thread_start(thread_run_own, &b);
    h = aioloop_call_soon(mine, thread_meet, &a);
    CHECK(!aioloop_handle_is_null(&h));
    CHECK_EQ(aioloop_run_forever(mine), 0);
    pthread_join(thread, NULL);
    CHECK_EQ(a.ran, 1);
    CHECK_EQ(b.ran, 1);
    CHECK_PTR(aioloop_get_event_loop(), mine);
    aioloop_set_event_loop(NULL);
    thread_gate_end(&both);
    test_end(others);
    test_end(mine);
}

static void *thread_ask_first(void *arg) {
    *(aioloop **)arg = aioloop_get_event_loop();
    return NULL;
}

/* The first thread has made a loop but not asked for one; another one asks before it. */
TEST_WITH(thread_that_asks_first_gets_no_loop, "GET-04", TEST_THREADS) {
    aioloop *loop = test_loop();
    aioloop *got = loop;
    pthread_t thread = thread_start(thread_ask_first, &got);
    pthread_join(thread, NULL);
    CHECK_PTR(got, NULL);
    test_end(loop);
}

typedef struct thread_looker {
    aioloop *loop;
    thread_gate inside;
    int passes; /* the loop's thread alone */
} thread_looker;

static void thread_step_in(aioloop *loop, void *arg) {
    thread_looker *l = (thread_looker *)arg;
    (void)loop;
    l->passes++;
    thread_gate_add(&l->inside, 1);
    thread_gate_wait(&l->inside, 2); /* until the other thread has looked */
}

static void *thread_run_looked_at(void *arg) {
    thread_looker *l = (thread_looker *)arg;
    CHECK_EQ(aioloop_run_forever(l->loop), 0);
    thread_gate_add(&l->inside, 1);
    return NULL;
}

TEST_WITH(thread_sees_that_a_loop_runs_in_another, "RUN-12 RUN-14", TEST_THREADS) {
    aioloop *loop = test_loop();
    thread_looker l;
    pthread_t thread;
    aioloop_handle h;
    memset(&l, 0, sizeof(l));
    l.loop = loop;
    thread_gate_init(&l.inside);
    h = aioloop_call_soon(loop, thread_step_in, &l);
    CHECK(!aioloop_handle_is_null(&h));
    CHECK(!aioloop_is_running(loop));
    thread = thread_start(thread_run_looked_at, &l);
    thread_gate_wait(&l.inside, 1);
    CHECK(aioloop_is_running(loop));
    CHECK(!aioloop_is_closed(loop));
    CHECK_PTR(aioloop_get_running_loop(), NULL);
    CHECK_EQ(aioloop_run_forever(loop), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_run_once(loop, 0), AIOLOOP_EMISUSE);
    CHECK(aioloop_is_running(loop));
    thread_gate_add(&l.inside, 1);
    h = aioloop_call_soon_threadsafe(loop, thread_stop, &l.passes); /* it goes on undisturbed */
    CHECK(!aioloop_handle_is_null(&h));
    thread_gate_wait(&l.inside, 3);
    CHECK(!aioloop_is_running(loop));
    pthread_join(thread, NULL);
    CHECK_EQ(l.passes, 2);
    thread_gate_end(&l.inside);
    test_end(loop);
}

static void *thread_watch_flags(void *arg) {
    aioloop *loop = (aioloop *)arg;
    int running = 0;
    while (!aioloop_is_closed(loop))
        running += aioloop_is_running(loop) ? 1 : 0;
    CHECK(!aioloop_is_running(loop));
    NOTE("seen running %d times", running);
    return NULL;
}

TEST_WITH(thread_may_ask_about_a_loop_at_any_time, "RUN-14 RUN-18", TEST_THREADS) {
    aioloop *loop = test_loop();
    pthread_t thread = thread_start(thread_watch_flags, loop);
    int i;
    for (i = 0; i < 50; i++)
        CHECK_GE(aioloop_run_once(loop, 0), 0);
    CHECK_EQ(aioloop_close(loop), 0);
    pthread_join(thread, NULL);
    test_end(loop);
}

#endif
