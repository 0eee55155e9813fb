/*
 * test_debug.c - debug mode: wrong threads, slow callbacks, where things were made, what was left open.
 *
 * AIOLOOP_DEBUG_SITES is on in this file, so that the places of the calls here are remembered.
 */
#define AIOLOOP_DEBUG_SITES
#include "support.h"

#include <pthread.h>
#include <unistd.h>

/* test_loop is in another file, which records no places. */
static aioloop *debug_loop(void) {
    aioloop_config config = AIOLOOP_ZERO;
    config.debug = 1;
    return test_loop_with(&config);
}

static void debug_counting(aioloop *loop, void *arg) {
    (void)loop;
    ++*(int *)arg;
}

static void debug_raising(aioloop *loop, void *arg) {
    ++*(int *)arg;
    aioloop_raise(loop, AIOLOOP_EIO, NULL);
}

/* ---- on and off ---- */

static bool debug_in_environment(const char *value, int config_debug) {
    aioloop_config config = AIOLOOP_ZERO;
    aioloop *loop;
    bool on;
    config.debug = config_debug;
    if (value == NULL)
        unsetenv("AIOLOOP_DEBUG");
    else
        setenv("AIOLOOP_DEBUG", value, 1);
    loop = test_loop_with(config_debug == 0 ? NULL : &config);
    on = aioloop_get_debug(loop);
    CHECK_EQ(aioloop_set_debug(loop, false), 0); /* no report of this loop */
    test_end(loop);
    return on;
}

TEST(debug_is_off_unless_asked_for, "DBG-01") {
    CHECK(!debug_in_environment(NULL, 0));
    CHECK(!debug_in_environment("", 0));
    CHECK(debug_in_environment("1", 0));
    CHECK(debug_in_environment("0", 0)); /* not empty */
    CHECK(!debug_in_environment("1", -1)); /* what the program says goes first */
    CHECK(debug_in_environment(NULL, 1));
    unsetenv("AIOLOOP_DEBUG");
}

static void debug_switch_on(aioloop *loop, void *arg) {
    ++*(int *)arg;
    aioloop_set_debug(loop, true);
}

static void debug_switch_off(aioloop *loop, void *arg) {
    ++*(int *)arg;
    aioloop_set_debug(loop, false);
}

TEST(debug_can_be_switched_while_running, "DBG-01 DBG-03") {
    aioloop *loop = test_loop();
    int runs = 0;
    aioloop_handle h;
    CHECK_EQ(aioloop_set_debug(loop, false), 0);
    CHECK(!aioloop_get_debug(loop));
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, 0), 0); /* everything is slow */
    h = aioloop_call_soon(loop, debug_counting, &runs);
    CHECK(!aioloop_handle_is_null(&h));
    h = aioloop_call_soon(loop, debug_switch_on, &runs);
    CHECK(!aioloop_handle_is_null(&h));
    test_spin(loop, 1);
    CHECK_EQ(runs, 2);
    CHECK(aioloop_get_debug(loop));
    CHECK_EQ(test_log_lines(), 0);
    h = aioloop_call_soon(loop, debug_counting, &runs);
    CHECK(!aioloop_handle_is_null(&h));
    test_spin(loop, 1);
    CHECK_EQ(runs, 3);
    CHECK_EQ(test_log_lines(), 1);
    h = aioloop_call_soon(loop, debug_switch_off, &runs);
    CHECK(!aioloop_handle_is_null(&h));
    h = aioloop_call_soon(loop, debug_counting, &runs);
    CHECK(!aioloop_handle_is_null(&h));
    test_log_clear();
    test_spin(loop, 1);
    CHECK_EQ(runs, 5);
    CHECK(!aioloop_get_debug(loop));
    CHECK_LE(test_log_lines(), 1); /* the one that was on when it began may be told of */
    CHECK_EQ(aioloop_set_debug(NULL, true), AIOLOOP_EINVAL);
    CHECK(!aioloop_get_debug(NULL));
    test_end(loop);
}

/* ---- threads ---- */

typedef struct debug_calls {
    aioloop *loop;
    aioloop_future *future;
    aioloop_socket watched;
    bool soon, later, at, post; /* a handle came back */
    int reader, writer, remove;
    int set, fail, add;
    bool cancelled;
    bool made; /* a future of the loop */
    int connect;
    int run;
    int ran;
} debug_calls;

static void *debug_call_all(void *arg) {
    debug_calls *c = (debug_calls *)arg;
    aioloop *loop = c->loop;
    aioloop_handle h = aioloop_call_soon(loop, debug_counting, &c->ran);
    aioloop_timer_handle t;
    c->soon = !aioloop_handle_is_null(&h);
    t = aioloop_call_later(loop, 0, debug_counting, &c->ran);
    c->later = !aioloop_handle_is_null(&t.handle);
    t = aioloop_call_at(loop, 0, debug_counting, &c->ran);
    c->at = !aioloop_handle_is_null(&t.handle);
    c->reader = aioloop_add_reader(loop, c->watched, debug_counting, &c->ran);
    c->writer = aioloop_add_writer(loop, c->watched, debug_counting, &c->ran);
    c->remove = aioloop_remove_reader(loop, c->watched);
    c->set = aioloop_future_set_result(c->future, 1, NULL, NULL);
    c->fail = aioloop_future_set_exception(c->future, AIOLOOP_EIO, NULL);
    c->cancelled = aioloop_future_cancel(c->future, NULL);
    {
        aioloop_future *f = aioloop_create_future(loop);
        c->made = aioloop_future_get_loop(f) != NULL;
        aioloop_future_unref(f);
        f = aioloop_create_connection(loop, &test_protocol, NULL, "127.0.0.1", 1, NULL);
        c->connect = aioloop_future_exception(f);
        aioloop_future_unref(f);
    }
    c->run = aioloop_run_once(loop, 0);
    h = aioloop_call_soon_threadsafe(loop, debug_counting, &c->ran);
    c->post = !aioloop_handle_is_null(&h);
    return NULL;
}

/* Keeps the loop running, and its thread waiting, while another thread tries. */
static void debug_call_from_thread(aioloop *loop, void *arg) {
    pthread_t thread;
    (void)loop;
    CHECK_EQ(pthread_create(&thread, NULL, debug_call_all, arg), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

TEST_WITH(wrong_thread_is_refused_in_debug_mode, "DBG-02", TEST_THREADS) {
    aioloop *loop = debug_loop();
    debug_calls c = AIOLOOP_ZERO;
    aioloop_socket s[2];
    aioloop_handle h;
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, AIOLOOP_FOREVER), 0); /* the callback waits for a thread */
    test_socketpair(loop, s);
    c.loop = loop;
    c.watched = s[0];
    c.future = aioloop_create_future(loop);
    CHECK_PTR(aioloop_future_get_loop(c.future), loop);
    h = aioloop_call_soon(loop, debug_call_from_thread, &c);
    CHECK(!aioloop_handle_is_null(&h));
    test_spin(loop, 1);
    CHECK(!c.soon);
    CHECK(!c.later);
    CHECK(!c.at);
    CHECK_EQ(c.reader, AIOLOOP_EMISUSE);
    CHECK_EQ(c.writer, AIOLOOP_EMISUSE);
    CHECK_EQ(c.remove, AIOLOOP_EMISUSE);
    CHECK_EQ(c.set, AIOLOOP_EMISUSE);
    CHECK_EQ(c.fail, AIOLOOP_EMISUSE);
    CHECK(!c.cancelled);
    CHECK(!c.made);
    CHECK_EQ(c.connect, AIOLOOP_EMISUSE);
    CHECK_EQ(c.run, AIOLOOP_EMISUSE);
    CHECK(!aioloop_future_done(c.future));
    CHECK(c.post); /* what is meant for it works */
    test_run_until(loop, &c.ran, 1, "the post");
    CHECK_EQ(c.ran, 1);
    aioloop_future_unref(c.future);
    test_close_socket(loop, s[0]);
    test_close_socket(loop, s[1]);
    CHECK_EQ(aioloop_close(loop), 0);
    test_end(loop);
    CHECK_EQ(test_log_lines(), 0);
}

static void *debug_call_soon_alone(void *arg) {
    debug_calls *c = (debug_calls *)arg;
    aioloop_handle h = aioloop_call_soon(c->loop, debug_counting, &c->ran);
    c->soon = !aioloop_handle_is_null(&h);
    return NULL;
}

static void debug_call_soon_from_thread(aioloop *loop, void *arg) {
    pthread_t thread;
    (void)loop;
    CHECK_EQ(pthread_create(&thread, NULL, debug_call_soon_alone, arg), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

TEST_WITH(wrong_thread_is_not_looked_at_without_debug_mode, "DBG-02", TEST_THREADS) {
    aioloop *loop = test_loop();
    debug_calls c = AIOLOOP_ZERO;
    aioloop_handle h;
    c.loop = loop;
    CHECK_EQ(aioloop_set_debug(loop, false), 0);
    h = aioloop_call_soon(loop, debug_call_soon_from_thread, &c);
    CHECK(!aioloop_handle_is_null(&h));
    test_spin(loop, 1);
    CHECK(c.soon);
    test_spin(loop, 1);
    CHECK_EQ(c.ran, 1);
    test_end(loop);
}

TEST_WITH(loop_that_does_not_run_may_be_used_by_another_thread, "DBG-02", TEST_THREADS) {
    aioloop *loop = debug_loop();
    debug_calls c = AIOLOOP_ZERO;
    c.loop = loop;
    debug_call_soon_from_thread(loop, &c);
    CHECK(c.soon);
    test_spin(loop, 1);
    CHECK_EQ(c.ran, 1);
    CHECK_EQ(aioloop_close(loop), 0);
    test_end(loop);
}

/* ---- slow callbacks ---- */

static void debug_slow_done(aioloop_future *future, void *arg) {
    (void)future;
    ++*(int *)arg;
}

TEST(slow_callback_duration_is_a_tenth_of_a_second_until_set, "DBG-03") {
    aioloop *loop = test_loop();
    CHECK_EQ(aioloop_get_slow_callback_duration(loop), AIOLOOP_MS(100));
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, AIOLOOP_US(5)), 0);
    CHECK_EQ(aioloop_get_slow_callback_duration(loop), AIOLOOP_US(5));
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, -1), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, AIOLOOP_NOT_A_TIME), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_get_slow_callback_duration(loop), AIOLOOP_US(5));
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, 0), 0);
    CHECK_EQ(aioloop_get_slow_callback_duration(loop), 0);
    CHECK_EQ(aioloop_set_slow_callback_duration(NULL, 0), AIOLOOP_EINVAL);
    test_end(loop);
}

/* The text of this file and a line. */
static const char *debug_place(int line) {
    static char text[300];
    snprintf(text, sizeof(text), "%s:%d", __FILE__, line);
    return text;
}

static void debug_busy(aioloop *loop, void *arg) {
    aioloop_time until = aioloop_now(loop) + AIOLOOP_MS(3);
    while (aioloop_now(loop) < until)
        ;
    ++*(int *)arg;
}

TEST(slow_callback_is_logged_with_what_and_how_long, "DBG-03") {
    aioloop *loop = debug_loop();
    int runs = 0;
    int line;
    aioloop_handle h;
    char what[40];
    if (test_simulated(loop)) {
        test_end(loop);
        test_log_clear();
        SKIP("a virtual clock stands still in callbacks");
    }
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, AIOLOOP_MS(2)), 0);
    line = __LINE__ + 1;
    h = aioloop_call_soon(loop, debug_busy, &runs);
    CHECK(!aioloop_handle_is_null(&h));
    test_spin(loop, 1);
    CHECK_EQ(runs, 1);
    CHECK_EQ(test_log_lines(), 1);
    snprintf(what, sizeof(what), "%llu", (unsigned long long)h.sequence);
    CHECK(strstr(test_log_text(), what) != NULL);
    CHECK(strstr(test_log_text(), " ms") != NULL);
    CHECK(strstr(test_log_text(), debug_place(line)) != NULL);
    CHECK_EQ(aioloop_close(loop), 0);
    test_end(loop);
}

TEST(quick_callback_is_not_logged, "DBG-03") {
    aioloop *loop = debug_loop();
    aioloop *plain = test_loop();
    int runs = 0;
    aioloop_handle h;
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, AIOLOOP_SECONDS(1000)), 0);
    h = aioloop_call_soon(loop, debug_counting, &runs);
    CHECK(!aioloop_handle_is_null(&h));
    test_spin(loop, 1);
    CHECK_EQ(aioloop_set_debug(plain, false), 0);
    CHECK_EQ(aioloop_set_slow_callback_duration(plain, 0), 0); /* without debug mode nothing is measured */
    h = aioloop_call_soon(plain, debug_counting, &runs);
    CHECK(!aioloop_handle_is_null(&h));
    test_spin(plain, 1);
    CHECK_EQ(runs, 2);
    CHECK_EQ(test_log_lines(), 0);
    test_end(plain);
    CHECK_EQ(aioloop_close(loop), 0);
    test_end(loop);
}

TEST(every_kind_of_callback_is_measured, "DBG-03") {
    aioloop *loop = debug_loop();
    int runs = 0;
    int posts = 0;
    int timers = 0;
    aioloop_handle h;
    aioloop_timer_handle t;
    aioloop_future *f = aioloop_create_future(loop);
    test_needs_threads(loop);
    CHECK_PTR(aioloop_future_get_loop(f), loop);
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, 0), 0);
    CHECK_EQ(aioloop_future_add_done_callback(f, debug_slow_done, &runs), 0);
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0);
    test_spin(loop, 1);
    CHECK_EQ(runs, 1);
    CHECK_EQ(test_log_lines(), 1);
    h = aioloop_call_soon_threadsafe(loop, debug_counting, &posts);
    CHECK(!aioloop_handle_is_null(&h));
    test_run_until(loop, &posts, 1, "the post");
    CHECK_EQ(test_log_lines(), 2);
    t = aioloop_call_later(loop, 0, debug_counting, &timers);
    CHECK(!aioloop_handle_is_null(&t.handle));
    test_run_until(loop, &timers, 1, "the timer");
    CHECK_EQ(test_log_lines(), 3);
    aioloop_future_unref(f);
    CHECK_EQ(aioloop_close(loop), 0);
    test_end(loop);
}

TEST(slow_protocols_and_watchers_are_logged, "DBG-03") {
    aioloop *loop = debug_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_socket s[2];
    int writable = 0;
    test_connect_pair(loop, &a, &b);
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, 0), 0);
    test_log_clear();
    CHECK_EQ(aioloop_transport_write(a.transport, "x", 1), 0);
    test_run_until(loop, &b.datas, 1, "the data");
    CHECK(strstr(test_log_text(), "data_received") != NULL);
    aioloop_transport_close(a.transport);
    test_run_until(loop, &b.lost, 1, "the loss");
    test_run_until(loop, &a.lost, 1, "its own loss");
    CHECK(strstr(test_log_text(), "eof_received") != NULL);
    CHECK(strstr(test_log_text(), "connection_lost") != NULL);
    test_peer_drop(&a);
    test_peer_drop(&b);
    test_socketpair(loop, s);
    CHECK_EQ(aioloop_add_writer(loop, s[0], debug_counting, &writable), 0);
    test_log_clear();
    test_run_until(loop, &writable, 1, "the watcher");
    CHECK(strstr(test_log_text(), "watcher") != NULL);
    CHECK(strstr(test_log_text(), "test_debug.c:") != NULL);
    CHECK_EQ(aioloop_remove_writer(loop, s[0]), 1);
    test_spin(loop, 4);
    test_close_socket(loop, s[0]);
    test_close_socket(loop, s[1]);
    CHECK_EQ(aioloop_close(loop), 0);
    test_end(loop);
}

/* ---- where things were made ---- */

static void debug_raise_done(aioloop_future *future, void *arg) {
    debug_raising(aioloop_future_get_loop(future), arg);
}

/* The i-th report was of something made at a line of this file. */
static void debug_check_place(int i, int line) {
    const test_report *r = test_report_at(i);
    CHECK_STR(r->context.source_file, __FILE__);
    CHECK_EQ(r->context.source_line, line);
}

TEST(reports_tell_where_callbacks_were_made, "DBG-04") {
    aioloop *loop = debug_loop();
    aioloop_future *f = aioloop_create_future(loop);
    aioloop_handle h;
    aioloop_timer_handle t;
    int soon_line, later_line, at_line, done_line;
    int runs = 0;
    int i;
    CHECK_PTR(aioloop_future_get_loop(f), loop);
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, AIOLOOP_SECONDS(1000)), 0);
    soon_line = __LINE__ + 1;
    h = aioloop_call_soon(loop, debug_raising, &runs);
    CHECK(!aioloop_handle_is_null(&h));
    done_line = __LINE__ + 1;
    CHECK_EQ(aioloop_future_add_done_callback(f, debug_raise_done, &runs), 0);
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0);
    test_run_until(loop, &runs, 2, "the callbacks");
    later_line = __LINE__ + 1;
    t = aioloop_call_later(loop, 0, debug_raising, &runs);
    CHECK(!aioloop_handle_is_null(&t.handle));
    test_run_until(loop, &runs, 3, "the timer");
    at_line = __LINE__ + 1;
    t = aioloop_call_at(loop, 0, debug_raising, &runs);
    CHECK(!aioloop_handle_is_null(&t.handle));
    test_run_until(loop, &runs, 4, "the second timer");
    CHECK_EQ(test_reports(), 4);
    debug_check_place(0, soon_line);
    debug_check_place(1, done_line);
    debug_check_place(2, later_line);
    debug_check_place(3, at_line);
    test_reports_clear();
    CHECK_EQ(aioloop_set_debug(loop, false), 0);
    h = aioloop_call_soon(loop, debug_raising, &runs);
    CHECK(!aioloop_handle_is_null(&h));
    test_spin(loop, 1);
    CHECK_EQ(test_reports(), 1);
    CHECK(test_report_at(0)->context.source_file == NULL); /* absent without debug mode */
    CHECK_EQ(test_report_at(0)->context.source_line, 0);
    test_reports_clear();
    CHECK_EQ(aioloop_set_debug(loop, true), 0); /* the call made without it is not taken for this one's: */
    for (i = 0; i < 100; i++) {
        h = aioloop_call_soon(loop, debug_counting, &runs); /* many from one place */
        CHECK(!aioloop_handle_is_null(&h));
    }
    test_spin(loop, 1);
    aioloop_future_unref(f);
    CHECK_EQ(aioloop_close(loop), 0);
    test_end(loop);
}

TEST(reports_tell_where_futures_were_made, "DBG-04") {
    aioloop *loop = debug_loop();
    aioloop_future *f;
    int made;
    made = __LINE__ + 1;
    f = aioloop_create_future(loop);
    CHECK_PTR(aioloop_future_get_loop(f), loop);
    CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_EIO, NULL), 0);
    aioloop_future_unref(f);
    CHECK_EQ(test_reports(), 1);
    debug_check_place(0, made);
    test_reports_clear();
    made = __LINE__ + 1;
    f = aioloop_create_connection(loop, &test_protocol, NULL, NULL, 0, NULL);
    CHECK_PTR(aioloop_future_get_loop(f), loop);
    aioloop_future_unref(f);
    CHECK_EQ(test_reports(), 1);
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EINVAL);
    debug_check_place(0, made);
    test_reports_clear();
    CHECK_EQ(aioloop_close(loop), 0);
    test_end(loop);
}

TEST(reports_tell_where_watchers_were_made, "DBG-04") {
    aioloop *loop = debug_loop();
    aioloop_socket s[2];
    int runs = 0;
    int made;
    test_socketpair(loop, s);
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, AIOLOOP_SECONDS(1000)), 0);
    made = __LINE__ + 1;
    CHECK_EQ(aioloop_add_writer(loop, s[0], debug_raising, &runs), 0);
    test_run_until(loop, &runs, 1, "the watcher");
    CHECK_EQ(aioloop_remove_writer(loop, s[0]), 1);
    CHECK_EQ(test_reports(), 1);
    debug_check_place(0, made);
    test_reports_clear();
    test_spin(loop, 4);
    test_close_socket(loop, s[0]);
    test_close_socket(loop, s[1]);
    CHECK_EQ(aioloop_close(loop), 0);
    test_end(loop);
}

static void debug_raise_on_data(test_peer *peer, const void *data, size_t size) {
    (void)data;
    (void)size;
    aioloop_raise(aioloop_transport_get_loop(peer->transport), AIOLOOP_EIO, NULL);
}

TEST(reports_tell_where_connections_were_made, "DBG-04") {
    aioloop *loop = debug_loop();
    test_peer inside = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    aioloop_transport *t = NULL;
    aioloop_address address;
    aioloop_future *f;
    int served, dialed;
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, AIOLOOP_SECONDS(1000)), 0);
    inside.on_data = debug_raise_on_data;
    inside.keep_open = true;
    client.on_data = debug_raise_on_data;
    served = __LINE__ + 1;
    f = aioloop_create_server(loop, &test_protocol, &inside, "127.0.0.1", 0, NULL);
    CHECK_EQ(aioloop_run_until_complete(loop, f, &server), 1);
    CHECK_EQ(aioloop_server_socket(server, 0, NULL, &address), 0);
    dialed = __LINE__ + 1;
    f = aioloop_create_connection(loop, &test_protocol, &client, "127.0.0.1", address.port, NULL);
    CHECK_EQ(aioloop_run_until_complete(loop, f, &t), 0);
    test_run_until(loop, &inside.made, 1, "the server's end");
    CHECK_EQ(aioloop_transport_write(inside.transport, "x", 1), 0);
    test_run_until(loop, &client.lost, 1, "the client's end by its error");
    CHECK_EQ(test_reports(), 1);
    CHECK_PTR(test_report_at(0)->context.transport, t);
    debug_check_place(0, dialed);
    test_reports_clear();
    aioloop_transport_unref(t);
    test_peer_drop(&client);
    aioloop_transport_abort(inside.transport);
    test_run_until(loop, &inside.lost, 1, "the server's loss");
    test_peer_drop(&inside);
    memset(&inside, 0, sizeof(inside));
    memset(&client, 0, sizeof(client));
    inside.on_data = debug_raise_on_data;
    t = test_dial(loop, &test_protocol, &client, address.port);
    CHECK_EQ(aioloop_transport_write(t, "x", 1), 0);
    test_run_until(loop, &inside.lost, 1, "the server side's end by its error");
    test_run_until(loop, &client.lost, 1, "the client's end");
    CHECK_EQ(test_reports(), 1);
    debug_check_place(0, served); /* an accepted connection comes from its server */
    test_reports_clear();
    aioloop_transport_unref(t);
    test_peer_drop(&client);
    test_peer_drop(&inside);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_spin(loop, 4);
    CHECK_EQ(aioloop_close(loop), 0);
    test_end(loop);
    CHECK_EQ(test_log_lines(), 0); /* nothing was left open */
}

TEST(log_of_the_default_handler_has_the_place, "DBG-04 ERR-01") {
    aioloop *loop = debug_loop();
    aioloop_handle h;
    int runs = 0;
    int line;
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, AIOLOOP_SECONDS(1000)), 0);
    aioloop_set_exception_handler(loop, NULL, NULL);
    line = __LINE__ + 1;
    h = aioloop_call_soon(loop, debug_raising, &runs);
    CHECK(!aioloop_handle_is_null(&h));
    test_spin(loop, 1);
    CHECK_EQ(test_log_lines(), 1);
    CHECK(strstr(test_log_text(), debug_place(line)) != NULL);
    CHECK_EQ(aioloop_close(loop), 0);
    test_end(loop);
}

/* Macros that name a function must leave its address and its type alone. */
TEST(functions_keep_their_type_with_sites, "DBG-04") {
    aioloop *loop = debug_loop();
    aioloop_handle (*soon)(aioloop *, aioloop_callback, void *) = aioloop_call_soon;
    aioloop_handle h;
    int runs = 0;
    h = soon(loop, debug_counting, &runs);
    CHECK(!aioloop_handle_is_null(&h));
    h = (aioloop_call_soon)(loop, debug_counting, &runs);
    CHECK(!aioloop_handle_is_null(&h));
    test_spin(loop, 1);
    CHECK_EQ(runs, 2);
    CHECK_EQ(aioloop_close(loop), 0);
    test_end(loop);
}

/* ---- what is left open ---- */

/* A loop with an open connection, a closed one, and a server; counts what is said of each when it is freed. */
static void debug_leave_open(bool close_first, bool debug) {
    aioloop_config config = AIOLOOP_ZERO;
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    test_peer c = AIOLOOP_ZERO;
    test_peer d = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    aioloop *loop;
    aioloop_future *f;
    const char *text;
    int line;
    config.debug = debug ? 1 : -1;
    loop = test_loop_with(&config);
    CHECK_EQ(aioloop_set_slow_callback_duration(loop, AIOLOOP_SECONDS(1000)), 0);
    test_connect_pair(loop, &c, &d);
    aioloop_transport_close(c.transport);
    test_run_until(loop, &d.lost, 1, "the loss of the closed one");
    test_run_until(loop, &c.lost, 1, "its own loss");
    test_connect_pair(loop, &a, &b);
    line = __LINE__ + 1;
    f = aioloop_create_server(loop, &test_protocol, NULL, "127.0.0.1", 0, NULL);
    CHECK_EQ(aioloop_run_until_complete(loop, f, &server), 1);
    CHECK_EQ(test_log_lines(), 0);
    if (close_first)
        CHECK_EQ(aioloop_close(loop), 0);
    test_end(loop); /* whoever still holds them */
    text = test_log_text();
    if (!debug) {
        CHECK_EQ(test_log_lines(), 0);
        return;
    }
    CHECK_EQ(test_log_lines(), close_first ? 3 : 4); /* two transports, the server, the loop */
    CHECK(strstr(text, "unclosed transport") != NULL);
    CHECK(strstr(text, "unclosed server") != NULL);
    CHECK(strstr(text, debug_place(line)) != NULL);
    CHECK((strstr(text, "unclosed event loop") != NULL) == !close_first);
}

TEST(freeing_warns_of_what_was_not_closed, "DBG-05") {
    debug_leave_open(false, true);
}

TEST(closing_the_loop_does_not_excuse_what_was_not_closed, "DBG-05") {
    debug_leave_open(true, true);
}

TEST(without_debug_mode_nothing_is_said_of_what_was_not_closed, "DBG-05") {
    debug_leave_open(false, false);
}

static int debug_warnings;

static void debug_count_warnings(aioloop *loop, aioloop_log_level level, const char *text, void *arg) {
    (void)loop;
    snprintf((char *)arg, 256, "%s", text);
    if (level == AIOLOOP_LOG_WARNING)
        debug_warnings++;
}

TEST(unclosed_loop_is_a_warning_with_its_place, "DBG-05") {
    aioloop_config config = AIOLOOP_ZERO;
    char text[256] = "";
    aioloop *loop;
    int line;
    int err;
    config.debug = 1;
    debug_warnings = 0;
    line = __LINE__ + 1;
    loop = aioloop_new_event_loop(&config);
    CHECK(loop != NULL);
    aioloop_set_log(loop, debug_count_warnings, text);
    err = aioloop_free(loop);
    CHECK_EQ(err, 0);
    CHECK_EQ(debug_warnings, 1);
    CHECK(strstr(text, "unclosed event loop") != NULL);
    CHECK(strstr(text, debug_place(line)) != NULL);
}

TEST(futures_used_after_their_end_are_noticed, "DBG-04") {
    aioloop *loop = test_loop();
    aioloop_future *f;
    CHECK_EQ(aioloop_set_debug(loop, true), 0);
    f = aioloop_create_future(loop);
    CHECK(aioloop_future_get_loop(f) == loop);
    aioloop_future_unref(f);
    test_log_clear();
    CHECK_EQ(aioloop_future_result(f, NULL), AIOLOOP_EMISUSE); /* a mistake, told instead of a crash */
    CHECK(strstr(test_log_text(), "used after") != NULL);
    CHECK(strstr(test_log_text(), "test_debug.c") != NULL);
    aioloop_future_unref(f); /* once too often */
    CHECK_EQ(test_log_lines(), 2);
    test_log_clear();
    test_end(loop);
}
