/*
 * test_fork.c - a forked child: it has no running loop, makes one of its own, and frees the inherited one without the
 * parent noticing anything.
 */
#include "support.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* In the child: leaves with the line as a hint. */
#define FORK_EXPECT(condition)                                                                     \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: in the child: %s\n", __FILE__, __LINE__, #condition);          \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static void fork_wait(pid_t child) {
    int status = -1;
    pid_t got;
    CHECK(child > 0);
    do
        got = waitpid(child, &status, 0);
    while (got == -1 && errno == EINTR);
    CHECK(got == child);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
}

static void fork_count(aioloop *loop, void *arg) {
    (void)loop;
    ++*(int *)arg;
}

static void fork_stop(aioloop *loop, void *arg) {
    ++*(int *)arg;
    aioloop_stop(loop);
}

/* The child makes a loop, runs callbacks, timers and a watcher on it, and frees it. */
static void fork_use_new_loop(void) {
    aioloop *loop = aioloop_new_event_loop(NULL);
    aioloop_handle h;
    aioloop_timer_handle t;
    int count = 0;
    int read = 0;
    int s[2];
    FORK_EXPECT(loop != NULL);
    h = aioloop_call_soon(loop, fork_count, &count);
    FORK_EXPECT(!aioloop_handle_is_null(&h));
    t = aioloop_call_later(loop, AIOLOOP_MS(2), fork_stop, &count);
    FORK_EXPECT(!aioloop_handle_is_null(&t.handle));
    FORK_EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    FORK_EXPECT(write(s[1], "x", 1) == 1);
    FORK_EXPECT(aioloop_add_reader(loop, s[0], fork_count, &read) == 0);
    FORK_EXPECT(aioloop_run_forever(loop) == 0);
    FORK_EXPECT(count == 2);
    FORK_EXPECT(read >= 1);
    FORK_EXPECT(aioloop_free(loop) == 0);
}

typedef struct fork_state {
    aioloop *loop;
    test_peer a;
    test_peer b;
    bool free_it;    /* the child frees the inherited loop */
    bool close_it;   /* and closes it before */
    int done;        /* the child has gone */
    int never;       /* what only the child could have called */
    aioloop_future *future;
} fork_state;

static void fork_child(fork_state *s) {
    aioloop *loop = s->loop;
    FORK_EXPECT(aioloop_get_running_loop() == NULL);
    FORK_EXPECT(aioloop_run_forever(loop) == AIOLOOP_EMISUSE);
    FORK_EXPECT(aioloop_run_once(loop, 0) == AIOLOOP_EMISUSE);
    fork_use_new_loop();
    if (s->close_it)
        FORK_EXPECT(aioloop_close(loop) == 0);
    if (s->free_it) {
        int never = s->never;
        int lost = s->a.lost + s->b.lost;
        FORK_EXPECT(aioloop_free(loop) == 0);
        FORK_EXPECT(s->never == never); /* nothing was called */
        FORK_EXPECT(s->a.lost + s->b.lost == lost);
    }
    FORK_EXPECT(aioloop_get_running_loop() == NULL);
    fork_use_new_loop(); /* the numbers of the descriptors are used anew */
    _exit(0);
}

static void fork_here(fork_state *s) {
    pid_t child;
    fflush(stdout);
    fflush(stderr);
    child = fork();
    if (child == 0)
        fork_child(s);
    fork_wait(child);
    s->done++;
}

static void fork_in_callback(aioloop *loop, void *arg) {
    fork_here((fork_state *)arg);
    CHECK_PTR(aioloop_get_running_loop(), loop); /* the parent's is what it was */
}

/* The two ends still reach each other, each byte once. */
static void fork_check_pair(aioloop *loop, test_peer *a, test_peer *b) {
    size_t before_a = a->received;
    size_t before_b = b->received;
    CHECK_EQ(aioloop_transport_write(a->transport, "to b", 4), 0);
    test_run_until_received(loop, b, before_b + 4);
    CHECK_EQ(aioloop_transport_write(b->transport, "to a", 4), 0);
    test_run_until_received(loop, a, before_a + 4);
    test_spin(loop, 2);
    CHECK_EQ(b->received, before_b + 4);
    CHECK_EQ(a->received, before_a + 4);
    CHECK_EQ(a->lost + b->lost, 0);
}

static fork_state *fork_begin(void) {
    static fork_state state; /* the loop's callbacks know it */
    aioloop *loop = test_loop();
    test_needs_real_descriptors(loop);
    memset(&state, 0, sizeof(state));
    state.loop = loop;
    return &state;
}

static void fork_soon(fork_state *s) {
    aioloop_handle h = aioloop_call_soon(s->loop, fork_in_callback, s);
    CHECK(!aioloop_handle_is_null(&h));
    test_run_until(s->loop, &s->done, s->done + 1, "the child");
}

TEST_WITH(fork_child_has_no_running_loop_and_can_make_one, "GET-06", TEST_REAL_FDS) {
    fork_state *s = fork_begin();
    aioloop *loop = s->loop;
    aioloop_timer_handle t = aioloop_call_later(loop, AIOLOOP_MS(3), fork_count, &s->never);
    CHECK(!aioloop_handle_is_null(&t.handle));
    fork_soon(s); /* from a callback, where the parent's loop runs */
    fork_here(s); /* from outside, where it does not */
    test_run_until(loop, &s->never, 1, "the parent's timer");
    test_end(loop);
}

TEST_WITH(fork_child_frees_the_loop_while_the_parents_connections_go_on, "GET-06", TEST_REAL_FDS) {
    fork_state *s = fork_begin();
    aioloop *loop = s->loop;
    aioloop_server *server;
    aioloop_transport *t;
    test_peer accepted = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_socket fed;
    int read = 0;
    int port = 0;
    int i;
    test_connect_pair(loop, &s->a, &s->b);
    fed = test_feed(loop, &far);
    CHECK_EQ(aioloop_add_reader(loop, fed, fork_count, &read), 0);
    server = test_serve(loop, &test_protocol, &accepted, &port);
    fork_check_pair(loop, &s->a, &s->b);
    s->free_it = true;
    for (i = 0; i < 3; i++) {
        s->close_it = i == 1;
        if (i < 2)
            fork_soon(s);
        else
            fork_here(s);
        fork_check_pair(loop, &s->a, &s->b);
        read = 0;
        test_run_until(loop, &read, 1, "the watcher");
    }
    t = test_dial(loop, &test_protocol, &client, port); /* the server still listens, and accepts */
    test_run_until(loop, &accepted.made, 1, "the accepted connection");
    fork_check_pair(loop, &client, &accepted);
    aioloop_transport_unref(t);
    CHECK_EQ(aioloop_remove_reader(loop, fed), 1);
    test_feed_end(loop, fed, &far);
    test_end_pair(loop, &client, &accepted);
    test_end_pair(loop, &s->a, &s->b);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_end(loop);
}

TEST_WITH(fork_child_drops_what_waits_without_doing_it, "GET-06 RUN-16", TEST_REAL_FDS) {
    static char much[600000];
    fork_state *s = fork_begin();
    aioloop *loop = s->loop;
    aioloop_handle h;
    aioloop_timer_handle t;
    size_t left;
    test_connect_pair(loop, &s->a, &s->b);
    aioloop_transport_pause_reading(s->b.transport);
    memset(much, 'm', sizeof(much));
    CHECK_EQ(aioloop_transport_write(s->a.transport, much, sizeof(much)), 0);
    test_spin(loop, 2);
    left = aioloop_transport_get_write_buffer_size(s->a.transport);
    CHECK_GT(left, 0);
    aioloop_transport_resume_reading(s->b.transport); /* not told to the system yet */
    h = aioloop_call_soon(loop, fork_count, &s->never);
    CHECK(!aioloop_handle_is_null(&h));
    h = aioloop_call_soon_threadsafe(loop, fork_count, &s->never);
#if !defined(AIOLOOP_USE_THREADS) || AIOLOOP_USE_THREADS != 0
    CHECK(!aioloop_handle_is_null(&h));
#endif
    t = aioloop_call_later(loop, 0, fork_count, &s->never);
    CHECK(!aioloop_handle_is_null(&t.handle));
    s->future = aioloop_create_future(loop);
    s->free_it = true;
    fork_here(s);
    CHECK_EQ(s->never, 0);
    CHECK_EQ(aioloop_transport_get_write_buffer_size(s->a.transport), left);
    test_run_until_received(loop, &s->b, sizeof(much));
    test_spin(loop, 2);
    CHECK_EQ(s->b.received, sizeof(much)); /* the child has sent none of it */
    CHECK_GE(s->never, 2);
    aioloop_future_unref(s->future);
    fork_check_pair(loop, &s->a, &s->b);
    test_end_pair(loop, &s->a, &s->b);
    test_end(loop);
}

TEST_WITH(fork_child_leaves_the_file_of_a_server_alone, "GET-06", TEST_REAL_FDS) {
    fork_state *s = fork_begin();
    aioloop *loop = s->loop;
    aioloop_server *server = NULL;
    aioloop_transport *t = NULL;
    test_peer accepted = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_future *f;
    static char path[64];
    struct stat info;
    snprintf(path, sizeof(path), "/tmp/aioloop-test-fork-%ld", (long)getpid());
    f = aioloop_create_unix_server(loop, &test_protocol, &accepted, path, NULL);
    CHECK_EQ(aioloop_run_until_complete(loop, f, &server), 1);
    s->free_it = true;
    fork_soon(s);
    CHECK(stat(path, &info) == 0);
    f = aioloop_create_unix_connection(loop, &test_protocol, &client, path, NULL);
    CHECK_EQ(aioloop_run_until_complete(loop, f, &t), 0);
    test_run_until(loop, &accepted.made, 1, "the accepted connection");
    fork_check_pair(loop, &client, &accepted);
    aioloop_transport_unref(t);
    test_end_pair(loop, &client, &accepted);
    aioloop_server_close(server); /* the parent does remove it */
    CHECK(stat(path, &info) != 0);
    aioloop_server_unref(server);
    test_end(loop);
}

/* ---- in a coroutine ---- */

/* The child frees the loop that it runs on the stack of, and uses another one. */
static int64_t fork_in_coroutine(aioloop *loop, void *arg, void **out) {
    pid_t child;
    (void)arg;
    (void)out;
    child = fork();
    if (child == 0) {
        FORK_EXPECT(aioloop_free(loop) == 0);
        fork_use_new_loop();
        _exit(0);
    }
    fork_wait(child);
    return aioloop_await(aioloop_sleep(loop, 0), NULL);
}

TEST_WITH(child_forked_in_a_coroutine_frees_the_loop, "GET-06", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    test_needs_real_descriptors(loop);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_task(loop, fork_in_coroutine, NULL, NULL), NULL), 0);
    test_end(loop);
}

/* Asking, which tells the system what has changed, tells nothing from a child: it would be the parent's back end. */
TEST_WITH(fork_child_asks_without_telling_the_parents_system, "GET-06", TEST_REAL_FDS) {
    fork_state *s = fork_begin();
    aioloop *loop = s->loop;
    pid_t child;
    test_connect_pair(loop, &s->a, &s->b);
    fork_check_pair(loop, &s->a, &s->b);
    aioloop_transport_pause_reading(s->a.transport); /* not told yet, and taken back before it is */
    aioloop_transport_pause_reading(s->b.transport);
    fflush(stdout);
    fflush(stderr);
    child = fork();
    if (child == 0) {
        FORK_EXPECT(aioloop_next_deadline(loop) == AIOLOOP_FOREVER);
        FORK_EXPECT(aioloop_backend_fd(loop) == AIOLOOP_EMISUSE);
        _exit(0);
    }
    fork_wait(child);
    aioloop_transport_resume_reading(s->a.transport);
    aioloop_transport_resume_reading(s->b.transport);
    fork_check_pair(loop, &s->a, &s->b);
    test_end_pair(loop, &s->a, &s->b);
    test_end(loop);
}
