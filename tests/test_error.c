/*
 * test_error.c - errors: codes and texts, raising in every kind of callback, the exception handler and the log.
 */
#include "support.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

/* ---- codes ---- */

TEST(error_codes_have_names_and_texts_of_their_own, "") {
    static const struct {
        int code;
        const char *name;
        const char *text;
    } table[] = {
#define ERROR_ROW(name, code, text) {code, #name, text},
        AIOLOOP_ERRORS(ERROR_ROW)
#undef ERROR_ROW
    };
    const size_t count = sizeof(table) / sizeof(table[0]);
    size_t i;
    size_t j;
    for (i = 0; i < count; i++) {
        CHECK_LT(table[i].code, 0);
        CHECK_STR(aioloop_error_name(table[i].code), table[i].name);
        CHECK_STR(aioloop_strerror(table[i].code), table[i].text);
        for (j = 0; j < i; j++)
            CHECK(table[i].code != table[j].code && strcmp(table[i].name, table[j].name) != 0);
    }
    CHECK_STR(aioloop_error_name(-19999), "EUNKNOWN");
    CHECK_STR(aioloop_strerror(-19999), "unknown error");
    CHECK_STR(aioloop_error_name(INT32_MIN), "EUNKNOWN");
    CHECK_STR(aioloop_strerror(INT32_MIN), "unknown error");
    CHECK(aioloop_error_name(0) != NULL && aioloop_strerror(0) != NULL && aioloop_strerror(7) != NULL);
    CHECK_STR(aioloop_error_name(AIOLOOP_ECONNREFUSED), "ECONNREFUSED");
    CHECK_STR(aioloop_strerror(AIOLOOP_ECONNREFUSED), "connection refused");
}

#ifdef __linux__
TEST(system_errors_have_linux_numbers, "") {
#define ERROR_CHECK(name, code, text) CHECK_EQ(AIOLOOP_##name, -name);
    AIOLOOP_SYSTEM_ERRORS(ERROR_CHECK)
#undef ERROR_CHECK
}
#endif

TEST(no_error_is_answered, "") {
    CHECK_EQ(aioloop_error_code(NULL), 0);
    CHECK(aioloop_error_message(NULL) != NULL);
    CHECK_EQ(aioloop_error_count(NULL), 0);
    CHECK(aioloop_error_at(NULL, 0) == NULL);
}

/* ---- the last error ---- */

TEST(last_error_says_what_failed_on_this_loop, "") {
    aioloop *loop = test_loop();
    aioloop *other = test_loop();
    aioloop_handle h;
    CHECK(aioloop_last_error(loop) != NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), 0);
    h = aioloop_call_soon(loop, NULL, NULL);
    CHECK(aioloop_handle_is_null(&h));
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EINVAL);
    CHECK(aioloop_error_message(aioloop_last_error(loop))[0] != '\0');
    CHECK_EQ(aioloop_error_count(aioloop_last_error(loop)), 0);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(other)), 0); /* not the other's */
    CHECK_EQ(aioloop_close(loop), 0);
    h = aioloop_call_soon(loop, NULL, NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_ECLOSED);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), aioloop_strerror(AIOLOOP_ECLOSED)); /* a new text */
    test_end(other);
    test_end(loop);
}

TEST(loop_that_cannot_be_made_leaves_its_error_with_the_thread, "") {
    aioloop_config config = AIOLOOP_ZERO;
    aioloop *loop;
    CHECK(aioloop_last_error(NULL) != NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(NULL)), 0);
    config.backend = "no such back end";
    loop = aioloop_new_event_loop(&config);
    if (loop != NULL)
        aioloop_free(loop);
    CHECK(loop == NULL);
    if (aioloop_error_code(aioloop_last_error(NULL)) != AIOLOOP_ENOMEM || !test_injected())
        CHECK_EQ(aioloop_error_code(aioloop_last_error(NULL)), AIOLOOP_EINVAL);
    CHECK(aioloop_error_message(aioloop_last_error(NULL))[0] != '\0');
}

static void *error_look_in_thread(void *arg) {
    *(int *)arg = aioloop_error_code(aioloop_last_error(NULL));
    return NULL;
}

TEST_WITH(threads_errors_are_their_own, "", TEST_THREADS) {
    aioloop_config config = AIOLOOP_ZERO;
    aioloop *loop;
    pthread_t thread;
    int code = 1;
    config.backend = "no such back end";
    loop = aioloop_new_event_loop(&config);
    if (loop != NULL)
        aioloop_free(loop);
    CHECK(loop == NULL);
    CHECK_EQ(pthread_create(&thread, NULL, error_look_in_thread, &code), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(code, 0);
    CHECK_NE(aioloop_error_code(aioloop_last_error(NULL)), 0);
}

/* ---- lists of errors ---- */

/* A port of 127.0.0.1 that is taken and where nobody listens. */
static aioloop_server *error_deaf_server(aioloop *loop, int *port) {
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    aioloop_address address;
    int64_t rc;
    int err;
    options.defer_serving = true;
    rc = aioloop_run_until_complete(loop, aioloop_create_server(loop, &test_protocol, NULL, "127.0.0.1", 0, &options),
                                    &server);
    CHECK_EQ(rc, 1);
    err = aioloop_server_socket(server, 0, NULL, &address);
    CHECK_EQ(err, 0);
    *port = address.port;
    return server;
}

TEST(all_errors_lists_each_address, "") {
    aioloop *loop = test_loop();
    aioloop_connection_options options = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    const aioloop_error *error;
    aioloop_server *server;
    aioloop_future *f;
    int port = 0;
    size_t i;
    server = error_deaf_server(loop, &port);
    options.all_errors = true;
    f = aioloop_future_ref(aioloop_create_connection(loop, &test_protocol, &client, "127.0.0.1", port, &options));
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_ECONNREFUSED);
    error = aioloop_future_error(f);
    CHECK_EQ(aioloop_error_code(error), AIOLOOP_ECONNREFUSED);
    CHECK_EQ(aioloop_error_count(error), 1); /* also if it is only one */
    CHECK_EQ(aioloop_error_code(aioloop_error_at(error, 0)), AIOLOOP_ECONNREFUSED);
    CHECK(strstr(aioloop_error_message(aioloop_error_at(error, 0)), "127.0.0.1") != NULL);
    CHECK_EQ(aioloop_error_count(aioloop_error_at(error, 0)), 0);
    CHECK(aioloop_error_at(error, 1) == NULL);
    CHECK(aioloop_error_at(error, (size_t)-1) == NULL);
    aioloop_future_unref(f);
    options.all_errors = false;
    f = aioloop_future_ref(aioloop_create_connection(loop, &test_protocol, &client, "127.0.0.1", port, &options));
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_ECONNREFUSED);
    CHECK_EQ(aioloop_error_count(aioloop_future_error(f)), 0); /* a plain one */
    CHECK(aioloop_error_at(aioloop_future_error(f), 0) == NULL);
    CHECK(strstr(aioloop_error_message(aioloop_future_error(f)), "127.0.0.1") != NULL);
    aioloop_future_unref(f);
    if (test_simulated(loop)) { /* elsewhere somebody else may have that port of ::1 */
        options.all_errors = true;
        f = aioloop_future_ref(aioloop_create_connection(loop, &test_protocol, &client, "localhost", port, &options));
        CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_ECONNREFUSED);
        error = aioloop_future_error(f);
        CHECK_EQ(aioloop_error_count(error), 2);
        for (i = 0; i < 2; i++) {
            CHECK_EQ(aioloop_error_code(aioloop_error_at(error, i)), AIOLOOP_ECONNREFUSED);
            CHECK(strstr(aioloop_error_message(error), aioloop_error_message(aioloop_error_at(error, i))) != NULL);
        }
        CHECK(aioloop_error_at(error, 2) == NULL);
        CHECK(strcmp(aioloop_error_message(aioloop_error_at(error, 0)),
                     aioloop_error_message(aioloop_error_at(error, 1))) != 0);
        aioloop_future_unref(f);
    }
    CHECK_EQ(client.made, 0);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_spin(loop, 4);
    test_end(loop);
}

TEST(failed_operation_that_nobody_waited_for_is_reported_once, "ERR-07") {
    aioloop *loop = test_loop();
    test_peer client = AIOLOOP_ZERO;
    aioloop_server *server;
    aioloop_future *f;
    aioloop_time start;
    int port = 0;
    server = error_deaf_server(loop, &port);
    f = aioloop_create_connection(loop, &test_protocol, &client, "127.0.0.1", port, NULL);
    CHECK_PTR(aioloop_future_get_loop(f), loop);
    CHECK_EQ(test_reports(), 0);
    aioloop_future_unref(f);
    start = aioloop_now(loop);
    while (test_reports() == 0 && aioloop_now(loop) - start < AIOLOOP_SECONDS(5))
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(10)), 0);
    CHECK_EQ(test_reports(), 1);
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_ECONNREFUSED);
    CHECK(strstr(test_report_at(0)->detail, "127.0.0.1") != NULL);
    CHECK(test_report_at(0)->context.future != NULL);
    test_reports_clear();
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_spin(loop, 4);
    test_end(loop);
}

/* ---- raising ---- */

typedef struct error_raise {
    int code;
    const char *text; /* NULL: no message */
    int runs;
    int returned;
    aioloop_handle handle;
} error_raise;

static void error_raising(aioloop *loop, void *arg) {
    error_raise *r = (error_raise *)arg;
    r->runs++;
    if (r->text == NULL)
        r->returned = aioloop_raise(loop, r->code, NULL);
    else
        r->returned = aioloop_raise(loop, r->code, "%s", r->text);
}

static void error_counting(aioloop *loop, void *arg) {
    (void)loop;
    ++*(int *)arg;
}

static void error_nothing_else(const test_report *r) {
    CHECK(r->context.future == NULL);
    CHECK(r->context.transport == NULL);
    CHECK(r->context.protocol == NULL);
    CHECK(r->context.server == NULL);
    CHECK(r->context.socket == NULL);
}

TEST(raise_in_a_callback_is_reported_with_its_handle, "ERR-04") {
    aioloop *loop = test_loop();
    error_raise r = AIOLOOP_ZERO;
    int after = 0;
    aioloop_handle h;
    r.code = AIOLOOP_ENOTDIR;
    r.text = "no way in";
    r.handle = aioloop_call_soon(loop, error_raising, &r);
    CHECK(!aioloop_handle_is_null(&r.handle));
    h = aioloop_call_soon(loop, error_counting, &after);
    CHECK(!aioloop_handle_is_null(&h));
    test_spin(loop, 2);
    CHECK_EQ(r.runs, 1);
    CHECK_EQ(r.returned, AIOLOOP_ENOTDIR);
    CHECK_EQ(after, 1); /* the others run */
    CHECK_EQ(test_reports(), 1);
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_ENOTDIR);
    CHECK_STR(test_report_at(0)->detail, "no way in");
    CHECK(test_report_at(0)->message[0] != '\0');
    CHECK_PTR(test_report_at(0)->context.handle.slot, r.handle.slot);
    CHECK_EQ((long long)test_report_at(0)->context.handle.sequence, (long long)r.handle.sequence);
    error_nothing_else(test_report_at(0));
    CHECK(test_report_at(0)->context.source_file == NULL); /* not in debug mode */
    test_reports_clear();
    test_end(loop);
}

TEST(raise_in_a_timer_and_in_a_posted_callback, "ERR-04") {
    aioloop *loop = test_loop();
    error_raise r = AIOLOOP_ZERO;
    error_raise posted = AIOLOOP_ZERO;
    aioloop_timer_handle t;
    test_needs_threads(loop);
    r.code = AIOLOOP_ERANGE;
    posted.code = AIOLOOP_EDOM;
    t = aioloop_call_later(loop, 0, error_raising, &r);
    CHECK(!aioloop_handle_is_null(&t.handle));
    posted.handle = aioloop_call_soon_threadsafe(loop, error_raising, &posted);
    CHECK(!aioloop_handle_is_null(&posted.handle));
    test_run_until(loop, &r.runs, 1, "the timer");
    test_run_until(loop, &posted.runs, 1, "the post");
    CHECK_EQ(test_reports(), 2);
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EDOM); /* what is ready comes before timers */
    CHECK_EQ((long long)test_report_at(0)->context.handle.sequence, (long long)posted.handle.sequence);
    CHECK_EQ(test_report_at(1)->context.error, AIOLOOP_ERANGE);
    CHECK_EQ((long long)test_report_at(1)->context.handle.sequence, (long long)t.handle.sequence);
    CHECK(test_report_at(1)->detail[0] == '\0');
    test_reports_clear();
    test_end(loop);
}

static void error_raising_twice(aioloop *loop, void *arg) {
    (void)arg;
    aioloop_raise(loop, AIOLOOP_EIO, "the first");
    aioloop_raise(loop, AIOLOOP_EBUSY, "the last");
}

TEST(last_raise_counts, "") {
    aioloop *loop = test_loop();
    aioloop_handle h = aioloop_call_soon(loop, error_raising_twice, NULL);
    CHECK(!aioloop_handle_is_null(&h));
    test_spin(loop, 1);
    CHECK_EQ(test_reports(), 1);
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EBUSY);
    CHECK_STR(test_report_at(0)->detail, "the last");
    test_reports_clear();
    test_end(loop);
}

TEST(raise_takes_errors_only_and_cuts_long_messages, "") {
    aioloop *loop = test_loop();
    error_raise r = AIOLOOP_ZERO;
    char text[400];
    aioloop_handle h;
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    r.code = 5;
    r.text = text;
    h = aioloop_call_soon(loop, error_raising, &r);
    CHECK(!aioloop_handle_is_null(&h));
    test_spin(loop, 1);
    CHECK_EQ(r.returned, AIOLOOP_EINVAL);
    CHECK_EQ(test_reports(), 1);
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EINVAL);
    CHECK_EQ((long long)strlen(test_report_at(0)->detail), 255);
    CHECK_EQ(aioloop_raise(NULL, AIOLOOP_EIO, "nowhere"), AIOLOOP_EIO);
    CHECK_EQ(aioloop_raise(NULL, 0, NULL), AIOLOOP_EINVAL);
    test_reports_clear();
    test_end(loop);
}

TEST(raise_outside_of_callbacks_blames_no_callback, "") {
    aioloop *loop = test_loop();
    int runs = 0;
    aioloop_handle h = aioloop_call_soon(loop, error_counting, &runs);
    CHECK(!aioloop_handle_is_null(&h));
    CHECK_EQ(aioloop_raise(loop, AIOLOOP_EFATAL, "nobody listens"), AIOLOOP_EFATAL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EFATAL);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), "nobody listens");
    test_spin(loop, 1);
    CHECK_EQ(runs, 1);
    test_end(loop);
}

/* ---- raising in protocols ---- */

/* A protocol that raises in one of its methods. Letters as test_peer's, and f for the factory, g for get_buffer. */
typedef struct error_peer {
    char where;
    int code;
    char calls[64];
    int made;
    int lost;
    int error;
    int got;
    size_t to_write; /* at connection_made */
    int wrote;       /* what the write answered */
    aioloop_transport *transport;
} error_peer;

static char error_bytes[8 * 1024 * 1024]; /* more than any system takes at once: Linux up to 4 MiB */

static void error_note(error_peer *p, aioloop *loop, char letter) {
    size_t n = strlen(p->calls);
    if (n + 1 < sizeof(p->calls) && (n == 0 || p->calls[n - 1] != letter)) {
        p->calls[n] = letter;
        p->calls[n + 1] = '\0';
    }
    if (letter == p->where) {
        p->where = ' '; /* once */
        aioloop_raise(loop, p->code, "in %c", letter);
    }
}

static int error_factory(void *self, void *arg) {
    error_peer *p = (error_peer *)arg;
    (void)self;
    return p->where == 'f' ? p->code : 0;
}

static void error_made(aioloop_transport *transport, void *self) {
    error_peer *p = (error_peer *)self;
    p->transport = transport;
    p->made++;
    error_note(p, aioloop_transport_get_loop(transport), 'm');
    if (p->to_write != 0)
        p->wrote = aioloop_transport_write(transport, error_bytes, p->to_write);
}

static void error_data(aioloop_transport *transport, void *self, const void *data, size_t size) {
    (void)data;
    (void)size;
    ((error_peer *)self)->got++;
    error_note((error_peer *)self, aioloop_transport_get_loop(transport), 'd');
}

static bool error_eof(aioloop_transport *transport, void *self) {
    error_note((error_peer *)self, aioloop_transport_get_loop(transport), 'e');
    return false;
}

static void error_lost(aioloop_transport *transport, void *self, int error) {
    error_peer *p = (error_peer *)self;
    p->lost++;
    p->error = error;
    p->transport = NULL;
    error_note(p, aioloop_transport_get_loop(transport), 'l');
}

static void error_pause(aioloop_transport *transport, void *self) {
    error_note((error_peer *)self, aioloop_transport_get_loop(transport), 'p');
}

static void error_resume(aioloop_transport *transport, void *self) {
    error_note((error_peer *)self, aioloop_transport_get_loop(transport), 'r');
}

static char error_place[16];

static size_t error_get_buffer(aioloop_transport *transport, void *self, size_t hint, void **buffer) {
    (void)hint;
    *buffer = error_place;
    error_note((error_peer *)self, aioloop_transport_get_loop(transport), 'g');
    return sizeof(error_place);
}

static void error_updated(aioloop_transport *transport, void *self, size_t size) {
    (void)size;
    ((error_peer *)self)->got++;
    error_note((error_peer *)self, aioloop_transport_get_loop(transport), 'b');
}

static const aioloop_protocol error_protocol = {0,          error_factory, error_made,   error_data, error_eof,
                                                error_lost, error_pause,   error_resume, NULL,       NULL, NULL, NULL};
static const aioloop_protocol error_buffered = {0,          error_factory, error_made,   NULL,
                                                error_eof,  error_lost,    error_pause,  error_resume,
                                                error_get_buffer, error_updated, NULL, NULL};

/* The run of a connection whose server side raises at `where`; what it says is in the first report. */
static void error_live(char where, size_t to_write, const char *calls, int lost_with) {
    aioloop *loop = test_loop();
    bool buffered = where == 'g' || where == 'b';
    const aioloop_protocol *protocol = buffered ? &error_buffered : &error_protocol;
    error_peer inside = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    const test_report *report;
    aioloop_server *server;
    aioloop_transport *t;
    int port = 0;
    inside.where = where;
    inside.code = AIOLOOP_ENOTEMPTY;
    inside.to_write = to_write;
    server = test_serve(loop, protocol, &inside, &port);
    t = test_dial(loop, &test_protocol, &client, port);
    if (where != 'f') {
        test_run_until(loop, &inside.made, 1, "the server's end");
        if (to_write != 0)
            test_run_until_received(loop, &client, to_write);
        CHECK_EQ(aioloop_transport_write(t, "x", 1), 0);
        test_run_until(loop, &inside.got, where == 'g' ? 0 : 1, "the data");
        CHECK_EQ(aioloop_transport_write_eof(t), 0);
        test_run_until(loop, &inside.lost, 1, "the server's loss");
    }
    test_run_until(loop, &client.lost, 1, "the client's loss");
    CHECK_STR(inside.calls, calls);
    CHECK_EQ(inside.error, lost_with);
    CHECK_EQ(inside.wrote, 0); /* what the protocol raised meanwhile is not the write's */
    CHECK_EQ(test_reports(), 1);
    report = test_report_at(0);
    CHECK_EQ(report->context.error, AIOLOOP_ENOTEMPTY);
    CHECK_PTR(report->context.protocol, protocol);
    if (where == 'f') {
        CHECK_PTR(report->context.server, server);
    } else {
        char detail[8];
        snprintf(detail, sizeof(detail), "in %c", where);
        CHECK_STR(report->detail, detail);
        CHECK(report->context.transport != NULL);
    }
    CHECK(report->context.future == NULL);
    CHECK(aioloop_handle_is_null(&report->context.handle));
    test_reports_clear();
    aioloop_transport_unref(t);
    test_peer_drop(&client);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_spin(loop, 4);
    test_end(loop);
}

TEST(raise_in_the_factory_gives_the_connection_up, "ERR-04") {
    error_live('f', 0, "", 0);
}

TEST(raise_in_connection_made_is_reported, "ERR-04") {
    error_live('m', 0, "mdel", 0);
}

TEST(raise_in_data_received_ends_the_connection, "ERR-04") {
    error_live('d', 0, "mdl", AIOLOOP_ENOTEMPTY);
}

TEST(raise_in_get_buffer_ends_the_connection, "ERR-04") {
    error_live('g', 0, "mgl", AIOLOOP_ENOTEMPTY);
}

TEST(raise_in_buffer_updated_ends_the_connection, "ERR-04") {
    error_live('b', 0, "mgbl", AIOLOOP_ENOTEMPTY);
}

TEST(raise_in_eof_received_ends_the_connection, "ERR-04") {
    error_live('e', 0, "mdel", AIOLOOP_ENOTEMPTY);
}

TEST(raise_in_pause_writing_is_reported, "ERR-04") {
    error_live('p', sizeof(error_bytes), "mprdel", 0);
}

TEST(raise_in_resume_writing_is_reported, "ERR-04") {
    error_live('r', sizeof(error_bytes), "mprdel", 0);
}

TEST(raise_in_connection_lost_is_reported, "ERR-04") {
    error_live('l', 0, "mdel", 0);
}

/* A factory that ends its server and everything of it, and fails or not. */
typedef struct error_ender {
    test_peer peer;
    aioloop_server *server;
    int factories;
    int code;
} error_ender;

static int error_ending_factory(void *self, void *arg) {
    error_ender *e = (error_ender *)arg;
    (void)self;
    e->factories++;
    aioloop_server_abort_clients(e->server);
    aioloop_server_close(e->server);
    aioloop_server_unref(e->server);
    return e->code;
}

static void error_end_in_factory(int code) {
    aioloop *loop = test_loop();
    aioloop_protocol protocol = test_protocol;
    error_ender e = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_transport *t;
    int port = 0;
    e.code = code;
    protocol.factory = error_ending_factory;
    e.server = test_serve(loop, &protocol, &e, &port);
    t = test_dial(loop, &test_protocol, &client, port);
    test_run_until(loop, &e.factories, 1, "the factory");
    if (code == 0)
        test_run_until(loop, &e.peer.made, 1, "the connection"); /* it was none yet when the clients were aborted */
    aioloop_transport_close(t);
    test_run_until(loop, &client.lost, 1, "the client's loss");
    if (code == 0)
        test_run_until(loop, &e.peer.lost, 1, "the server's loss");
    CHECK_EQ(e.factories, 1);
    CHECK_EQ(e.peer.made, code == 0 ? 1 : 0);
    CHECK_EQ(test_reports(), code == 0 ? 0 : 1);
    test_reports_clear();
    aioloop_transport_unref(t);
    test_peer_drop(&client);
    test_peer_drop(&e.peer);
    test_spin(loop, 4);
    test_end(loop);
}

TEST(failing_factory_may_end_its_server, "") {
    error_end_in_factory(AIOLOOP_EXDEV);
}

TEST(factory_may_end_its_server, "") {
    error_end_in_factory(0);
}

TEST(clients_factory_error_is_the_calls, "") {
    aioloop *loop = test_loop();
    test_peer inside = AIOLOOP_ZERO;
    error_peer client = AIOLOOP_ZERO;
    aioloop_server *server;
    int port = 0;
    client.where = 'f';
    client.code = AIOLOOP_EXDEV;
    server = test_serve(loop, &test_protocol, &inside, &port);
    CHECK_EQ(aioloop_run_until_complete(
                 loop, aioloop_create_connection(loop, &error_protocol, &client, "127.0.0.1", port, NULL), NULL),
             AIOLOOP_EXDEV);
    CHECK_EQ(client.made, 0);
    test_run_until(loop, &inside.lost, 1, "the server's loss");
    CHECK_EQ(test_reports(), 0); /* the caller was told */
    test_peer_drop(&inside);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_spin(loop, 4);
    test_end(loop);
}

TEST(failing_accept_tells_server_and_socket, "ERR-04") {
    aioloop *loop = test_loop();
    test_peer inside = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_server *server;
    aioloop_transport *t;
    int port = 0;
    if (!test_simulated(loop)) {
        test_end(loop);
        SKIP("only simulated accepts fail on demand");
    }
    server = test_serve(loop, &test_protocol, &inside, &port);
    CHECK_EQ(aioloop_sim_fail_accepts(loop, AIOLOOP_EMFILE, 1), 0);
    t = test_dial(loop, &test_protocol, &client, port);
    test_run_until(loop, &inside.made, 1, "the second try");
    CHECK_EQ(test_reports(), 1);
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EMFILE);
    CHECK_PTR(test_report_at(0)->context.server, server);
    CHECK(test_report_at(0)->context.socket != NULL);
    test_reports_clear();
    aioloop_transport_close(t);
    test_run_until(loop, &inside.lost, 1, "the server's loss");
    test_run_until(loop, &client.lost, 1, "the client's loss");
    aioloop_transport_unref(t);
    test_peer_drop(&client);
    test_peer_drop(&inside);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_spin(loop, 4);
    test_end(loop);
}

/* ---- fatal ---- */

/* Runs until a callback ends the run. */
static void error_run_until_fatal(aioloop *loop) {
    aioloop_time start = aioloop_now(loop);
    int rc;
    do
        rc = aioloop_run_once(loop, AIOLOOP_MS(10));
    while (rc >= 0 && aioloop_now(loop) - start < AIOLOOP_SECONDS(test_injected() ? 0.3 : 10));
    CHECK_EQ(rc, AIOLOOP_EFATAL);
}

TEST(fatal_callback_ends_the_run_and_keeps_the_rest, "") {
    aioloop *loop = test_loop();
    error_raise r = AIOLOOP_ZERO;
    int after = 0;
    int timer = 0;
    aioloop_handle h;
    aioloop_timer_handle t;
    r.code = AIOLOOP_EFATAL;
    r.text = "that is all";
    h = aioloop_call_soon(loop, error_raising, &r);
    CHECK(!aioloop_handle_is_null(&h));
    h = aioloop_call_soon(loop, error_counting, &after);
    CHECK(!aioloop_handle_is_null(&h));
    t = aioloop_call_later(loop, 0, error_counting, &timer);
    CHECK(!aioloop_handle_is_null(&t.handle));
    CHECK_EQ(aioloop_run_forever(loop), AIOLOOP_EFATAL);
    CHECK(!aioloop_is_running(loop));
    CHECK_EQ(after, 0);
    CHECK_EQ(timer, 0);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), "that is all");
    h = aioloop_call_soon(loop, error_raising, &r);
    CHECK(!aioloop_handle_is_null(&h));
    CHECK_EQ(aioloop_run_forever(loop), AIOLOOP_EFATAL);
    CHECK_EQ(after, 1); /* kept for this run, and ran before what came later */
    test_run_until(loop, &timer, 1, "the timer");
    CHECK_EQ(after, 1);
    CHECK_EQ(timer, 1);
    CHECK_EQ(r.runs, 2);
    test_end(loop); /* none of it was reported */
}

TEST(fatal_in_the_last_callback_keeps_what_came_meanwhile, "") {
    aioloop *loop = test_loop();
    error_raise r = AIOLOOP_ZERO;
    int after = 0;
    aioloop_timer_handle t = aioloop_call_later(loop, 0, error_counting, &after);
    aioloop_handle h = aioloop_call_soon(loop, error_raising, &r); /* alone in its queue, with a timer due behind it */
    CHECK(!aioloop_handle_is_null(&t.handle));
    CHECK(!aioloop_handle_is_null(&h));
    r.code = AIOLOOP_EFATAL;
    CHECK_EQ(aioloop_run_forever(loop), AIOLOOP_EFATAL);
    CHECK_EQ(after, 0);
    test_run_until(loop, &after, 1, "the timer");
    CHECK_EQ(after, 1);
    test_end(loop);
}

TEST(fatal_timer_and_post_end_the_run, "") {
    aioloop *loop = test_loop();
    error_raise r = AIOLOOP_ZERO;
    aioloop_timer_handle t;
    aioloop_handle h;
    aioloop_future *f = aioloop_create_future(loop);
    test_needs_threads(loop);
    CHECK_PTR(aioloop_future_get_loop(f), loop);
    r.code = AIOLOOP_EFATAL;
    t = aioloop_call_later(loop, AIOLOOP_MS(1), error_raising, &r);
    CHECK(!aioloop_handle_is_null(&t.handle));
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_EFATAL);
    CHECK(!aioloop_future_done(f));
    h = aioloop_call_soon_threadsafe(loop, error_raising, &r);
    CHECK(!aioloop_handle_is_null(&h));
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_EFATAL);
    CHECK_EQ(r.runs, 2);
    CHECK_EQ(aioloop_future_set_result(f, 9, NULL, NULL), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), 9);
    aioloop_future_unref(f);
    test_end(loop);
}

static void error_connected(aioloop_future *future, void *arg) {
    aioloop_future_result(future, arg);
}

/* The same for a protocol method: the run ends, nothing is reported, and the loop can go on and be tidied up. */
static void error_die(char where, size_t to_write) {
    aioloop *loop = test_loop();
    bool buffered = where == 'g' || where == 'b';
    error_peer inside = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_transport *t = NULL;
    aioloop_server *server;
    int port = 0;
    inside.where = where;
    inside.code = AIOLOOP_EFATAL;
    inside.to_write = to_write;
    server = test_serve(loop, buffered ? &error_buffered : &error_protocol, &inside, &port);
    CHECK_EQ(aioloop_future_then(aioloop_create_connection(loop, &test_protocol, &client, "127.0.0.1", port, NULL),
                                 error_connected, &t),
             0);
    if (strchr("fmp", where) == NULL) {
        test_run_until(loop, &client.made, 1, "the connection");
        if (where != 'r' && where != 'l')
            CHECK_EQ(aioloop_transport_write(client.transport, "x", 1), 0);
        if (where == 'e' || where == 'l')
            CHECK_EQ(aioloop_transport_write_eof(client.transport), 0);
    }
    error_run_until_fatal(loop);
    CHECK_EQ(test_reports(), 0);
    test_run_until(loop, &client.made, 1, "the connection");
    test_spin(loop, 1);
    if (where != 'f') {
        if (inside.transport != NULL)
            aioloop_transport_abort(inside.transport);
        test_run_until(loop, &inside.lost, 1, "the server's loss");
        CHECK_EQ(inside.lost, 1);
    }
    test_run_until(loop, &client.lost, 1, "the client's loss");
    CHECK_PTR(t, client.transport);
    aioloop_transport_unref(t);
    test_peer_drop(&client);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_spin(loop, 4);
    test_end(loop);
}

TEST(fatal_factory_ends_the_run, "") {
    error_die('f', 0);
}

TEST(fatal_connection_made_ends_the_run, "") {
    error_die('m', 0);
}

TEST(fatal_data_received_ends_the_run, "") {
    error_die('d', 0);
}

TEST(fatal_get_buffer_ends_the_run, "") {
    error_die('g', 0);
}

TEST(fatal_buffer_updated_ends_the_run, "") {
    error_die('b', 0);
}

TEST(fatal_eof_received_ends_the_run, "") {
    error_die('e', 0);
}

TEST(fatal_connection_lost_ends_the_run, "") {
    error_die('l', 0);
}

TEST(fatal_pause_writing_ends_the_run, "") {
    error_die('p', sizeof(error_bytes));
}

TEST(fatal_resume_writing_ends_the_run, "") {
    error_die('r', sizeof(error_bytes));
}

/* ---- the default handler ---- */

/* Where a line of the text begins with `key: `; -1 if none does. */
static long error_line(const char *text, const char *key) {
    const char *at = text;
    size_t n = strlen(key);
    while ((at = strchr(at, '\n')) != NULL) {
        at++;
        if (strncmp(at, key, n) == 0 && at[n] == ':')
            return (long)(at - text);
    }
    return -1;
}

static int error_logged_level;
static aioloop *error_logged_loop;

static void error_log(aioloop *loop, aioloop_log_level level, const char *text, void *arg) {
    error_logged_level = (int)level;
    error_logged_loop = loop;
    snprintf((char *)arg, 1024, "%s", text);
}

TEST(default_handler_writes_the_message_then_the_rest_by_name, "ERR-01") {
    static const char *const keys[] = {"error",  "future", "handle", "protocol",
                                       "server", "socket", "source", "transport"};
    aioloop *loop = test_loop();
    aioloop_exception_context context = AIOLOOP_ZERO;
    aioloop_socket s = 77;
    char text[1024] = "";
    int things[5] = {0, 0, 0, 0, 0};
    long last = 0;
    size_t i;
    aioloop_set_exception_handler(loop, NULL, NULL);
    aioloop_set_log(loop, error_log, text);
    context.message = "It went wrong";
    context.error = AIOLOOP_EPIPE;
    context.detail = "pipe of the kitchen";
    context.future = (aioloop_future *)(void *)&things[0];
    context.handle.slot = &things[1];
    context.handle.sequence = 12345;
    context.protocol = (const aioloop_protocol *)(void *)&things[2];
    context.server = (aioloop_server *)(void *)&things[3];
    context.socket = &s;
    context.source_file = "kitchen.c";
    context.source_line = 42;
    context.transport = (aioloop_transport *)(void *)&things[4];
    aioloop_call_exception_handler(loop, &context);
    CHECK(strncmp(text, "It went wrong\n", 14) == 0);
    for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        long at = error_line(text, keys[i]);
        NOTE("%s at %ld of %s", keys[i], at, text);
        CHECK_GT(at, last);
        last = at;
    }
    CHECK(strstr(text, "EPIPE") != NULL);
    CHECK(strstr(text, "pipe of the kitchen") != NULL);
    CHECK(strstr(text, "12345") != NULL);
    CHECK(strstr(text, "77") != NULL);
    CHECK(strstr(text, "kitchen.c:42") != NULL);
    CHECK_EQ(error_logged_level, AIOLOOP_LOG_ERROR);
    CHECK_PTR(error_logged_loop, loop);
    CHECK(text[strlen(text) - 1] != '\n');
    memset(&context, 0, sizeof(context)); /* what does not apply is not there */
    context.error = AIOLOOP_EPIPE;
    aioloop_default_exception_handler(loop, &context);
    CHECK(strncmp(text, "Unhandled error in event loop\n", 30) == 0);
    CHECK(strstr(text, aioloop_strerror(AIOLOOP_EPIPE)) != NULL);
    for (i = 1; i < sizeof(keys) / sizeof(keys[0]); i++)
        CHECK_EQ(error_line(text, keys[i]), -1);
    context.error = 0;
    aioloop_call_exception_handler(loop, &context);
    CHECK_STR(text, "Unhandled error in event loop");
    text[0] = '\0';
    aioloop_call_exception_handler(loop, NULL);
    aioloop_call_exception_handler(NULL, &context);
    aioloop_default_exception_handler(loop, NULL);
    aioloop_default_exception_handler(NULL, &context);
    CHECK_STR(text, "");
    test_end(loop);
}

TEST(callbacks_error_reaches_the_log_without_a_handler, "ERR-01") {
    aioloop *loop = test_loop();
    error_raise r = AIOLOOP_ZERO;
    r.code = AIOLOOP_ELOOP;
    r.text = "round and round";
    aioloop_set_exception_handler(loop, NULL, NULL);
    r.handle = aioloop_call_soon(loop, error_raising, &r);
    CHECK(!aioloop_handle_is_null(&r.handle));
    test_spin(loop, 2);
    CHECK_EQ(test_log_lines(), 1);
    CHECK(error_line(test_log_text(), "error") > 0);
    CHECK(error_line(test_log_text(), "handle") > 0);
    CHECK(strstr(test_log_text(), "round and round") != NULL);
    test_end(loop);
}

TEST(log_goes_to_standard_error_unless_told_otherwise, "ERR-01") {
    aioloop *loop = test_loop();
    aioloop_exception_context context = AIOLOOP_ZERO;
    char text[256];
    int ends[2];
    int saved;
    ssize_t n;
    CHECK_EQ(pipe(ends), 0);
    test_keep_socket(ends[0]);
    test_keep_socket(ends[1]);
    saved = test_keep_socket(dup(2));
    aioloop_set_exception_handler(loop, NULL, NULL);
    aioloop_set_log(loop, NULL, NULL);
    context.message = "Written for people";
    context.error = AIOLOOP_EPIPE;
    context.detail = "twice\n"; /* the caller's: an empty line has it, too */
    dup2(ends[1], 2);
    aioloop_call_exception_handler(loop, &context);
    dup2(saved, 2);
    test_forget_socket(saved);
    close(saved);
    test_forget_socket(ends[1]);
    close(ends[1]);
    n = read(ends[0], text, sizeof(text) - 1);
    test_forget_socket(ends[0]);
    close(ends[0]);
    CHECK_GT(n, 0);
    text[n] = '\0';
    CHECK_STR(text, "aioloop: Written for people\naioloop: error: EPIPE: twice\naioloop: \n"); /* whose they are */
    CHECK_EQ(test_log_lines(), 0);
    test_end(loop);
}

/* ---- handlers ---- */

typedef struct error_handler {
    int calls;
    aioloop *loop;
    int error;
    char message[128];
    char detail[128];
    int raise;         /* the code to raise */
    bool pass_on;      /* to the default handler */
    void *var;         /* the value of error_var there */
    aioloop *replaces; /* takes itself out of force */
} error_handler;

static const aioloop_context_var error_var = {"error", NULL};

static void error_handle(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    error_handler *h = (error_handler *)arg;
    h->calls++;
    h->loop = loop;
    h->error = context->error;
    snprintf(h->message, sizeof(h->message), "%s", context->message != NULL ? context->message : "");
    snprintf(h->detail, sizeof(h->detail), "%s", context->detail != NULL ? context->detail : "");
    h->var = aioloop_context_get(&error_var);
    if (h->pass_on)
        aioloop_default_exception_handler(loop, context);
    if (h->replaces != NULL)
        aioloop_set_exception_handler(loop, NULL, NULL);
    if (h->raise != 0)
        aioloop_raise(loop, h->raise, "the handler's own");
}

static void error_raise_soon(aioloop *loop, error_raise *r) {
    r->handle = aioloop_call_soon(loop, error_raising, r);
    CHECK(!aioloop_handle_is_null(&r->handle));
}

TEST(custom_handler_replaces_the_default_output, "ERR-02") {
    aioloop *loop = test_loop();
    error_handler h = AIOLOOP_ZERO;
    error_raise r = AIOLOOP_ZERO;
    aioloop_exception_context context = AIOLOOP_ZERO;
    r.code = AIOLOOP_EISDIR;
    r.text = "a directory";
    aioloop_set_exception_handler(loop, error_handle, &h);
    error_raise_soon(loop, &r);
    test_spin(loop, 1);
    CHECK_EQ(h.calls, 1);
    CHECK_PTR(h.loop, loop);
    CHECK_EQ(h.error, AIOLOOP_EISDIR);
    CHECK_STR(h.detail, "a directory");
    CHECK_EQ(test_log_lines(), 0);
    h.pass_on = true;
    error_raise_soon(loop, &r);
    test_spin(loop, 1);
    CHECK_EQ(h.calls, 2);
    CHECK_EQ(test_log_lines(), 1);
    CHECK(strstr(test_log_text(), "a directory") != NULL);
    context.message = "By hand";
    context.error = -12321; /* not a code the library knows */
    aioloop_call_exception_handler(loop, &context); /* also outside of a run */
    CHECK_EQ(h.calls, 3);
    CHECK_STR(h.message, "By hand");
    CHECK_EQ(h.error, -12321);
    CHECK(strstr(test_log_text(), "EUNKNOWN") != NULL);
    test_end(loop);
}

TEST(handler_in_force_can_be_asked_and_taken_back, "ERR-03") {
    aioloop *loop = test_loop();
    error_handler h = AIOLOOP_ZERO;
    error_handler other = AIOLOOP_ZERO;
    aioloop_exception_context context = AIOLOOP_ZERO;
    void *arg = NULL;
    aioloop_set_exception_handler(loop, NULL, NULL);
    CHECK(aioloop_get_exception_handler(loop, NULL) == NULL);
    aioloop_set_exception_handler(loop, error_handle, &h);
    CHECK(aioloop_get_exception_handler(loop, &arg) == error_handle);
    CHECK_PTR(arg, &h);
    aioloop_set_exception_handler(loop, error_handle, &other);
    CHECK(aioloop_get_exception_handler(loop, &arg) == error_handle);
    CHECK_PTR(arg, &other);
    aioloop_call_exception_handler(loop, &context);
    CHECK_EQ(h.calls, 0);
    CHECK_EQ(other.calls, 1);
    aioloop_set_exception_handler(loop, NULL, NULL);
    CHECK(aioloop_get_exception_handler(loop, NULL) == NULL);
    aioloop_call_exception_handler(loop, &context);
    CHECK_EQ(other.calls, 1);
    CHECK_EQ(test_log_lines(), 1);
    aioloop_set_exception_handler(NULL, error_handle, &h);
    CHECK(aioloop_get_exception_handler(NULL, NULL) == NULL);
    test_end(loop);
}

TEST(error_of_the_handler_goes_to_the_default_one_with_the_first, "ERR-05") {
    aioloop *loop = test_loop();
    error_handler h = AIOLOOP_ZERO;
    error_raise r = AIOLOOP_ZERO;
    int after = 0;
    aioloop_handle handle;
    r.code = AIOLOOP_EROFS;
    r.text = "the callback's own";
    h.raise = AIOLOOP_EMLINK;
    aioloop_set_exception_handler(loop, error_handle, &h);
    error_raise_soon(loop, &r);
    handle = aioloop_call_soon(loop, error_counting, &after);
    CHECK(!aioloop_handle_is_null(&handle));
    test_spin(loop, 1);
    CHECK_EQ(after, 1); /* the loop goes on */
    CHECK_EQ(h.calls, 1); /* it is not asked about its own failure */
    CHECK(strstr(test_log_text(), "EMLINK") != NULL);
    CHECK(strstr(test_log_text(), "the handler's own") != NULL);
    CHECK(strstr(test_log_text(), "EROFS") != NULL);
    CHECK(strstr(test_log_text(), "the callback's own") != NULL);
    CHECK(aioloop_get_exception_handler(loop, NULL) == error_handle); /* still in force */
    error_raise_soon(loop, &r);
    test_spin(loop, 1);
    CHECK_EQ(h.calls, 2);
    test_end(loop);
}

static void error_report_by_hand(aioloop *loop, void *arg) {
    aioloop_exception_context context = AIOLOOP_ZERO;
    ++*(int *)arg;
    context.message = "By hand, in a callback";
    aioloop_call_exception_handler(loop, &context);
}

TEST(error_of_the_handler_is_not_the_calling_callbacks, "ERR-05") {
    aioloop *loop = test_loop();
    error_handler h = AIOLOOP_ZERO;
    int runs = 0;
    aioloop_handle handle;
    h.raise = AIOLOOP_EMLINK;
    aioloop_set_exception_handler(loop, error_handle, &h);
    handle = aioloop_call_soon(loop, error_report_by_hand, &runs);
    CHECK(!aioloop_handle_is_null(&handle));
    test_spin(loop, 2);
    CHECK_EQ(runs, 1);
    CHECK_EQ(h.calls, 1); /* for the report itself, and not for an error in the callback */
    test_end(loop);
}

static void error_failing_log(aioloop *loop, aioloop_log_level level, const char *text, void *arg) {
    (void)level;
    (void)text;
    ++*(int *)arg;
    aioloop_raise(loop, AIOLOOP_ENOSPC, "the log is full");
}

static void error_fatal_log(aioloop *loop, aioloop_log_level level, const char *text, void *arg) {
    (void)level;
    (void)text;
    ++*(int *)arg;
    aioloop_raise(loop, AIOLOOP_EFATAL, "the log is on fire");
}

TEST(error_of_the_log_takes_nothing_down, "ERR-05") {
    aioloop *loop = test_loop();
    error_raise r = AIOLOOP_ZERO;
    aioloop_handle handle;
    int lines = 0;
    int runs = 0;
    int pass;
    r.code = AIOLOOP_EROFS;
    aioloop_set_exception_handler(loop, NULL, NULL);
    for (pass = 0; pass < 2; pass++) {
        aioloop_set_log(loop, pass == 0 ? error_failing_log : error_fatal_log, &lines);
        error_raise_soon(loop, &r);
        handle = aioloop_call_soon(loop, error_report_by_hand, &runs);
        CHECK(!aioloop_handle_is_null(&handle));
        test_spin(loop, 2);
        CHECK_EQ(r.runs, pass + 1);
        CHECK_EQ(runs, pass + 1);
        CHECK_EQ(lines, 2 * (pass + 1)); /* one for each report, none for itself */
    }
    test_end(loop);
}

TEST(fatal_handler_ends_the_run, "ERR-05") {
    aioloop *loop = test_loop();
    error_handler h = AIOLOOP_ZERO;
    error_raise r = AIOLOOP_ZERO;
    int after = 0;
    aioloop_handle handle;
    r.code = AIOLOOP_EROFS;
    h.raise = AIOLOOP_EFATAL;
    aioloop_set_exception_handler(loop, error_handle, &h);
    error_raise_soon(loop, &r);
    handle = aioloop_call_soon(loop, error_counting, &after);
    CHECK(!aioloop_handle_is_null(&handle));
    CHECK_EQ(aioloop_run_forever(loop), AIOLOOP_EFATAL);
    CHECK_EQ(after, 0);
    CHECK_EQ(test_log_lines(), 0);
    test_spin(loop, 1);
    CHECK_EQ(after, 1);
    test_end(loop);
}

TEST(handler_may_take_itself_out, "ERR-02") {
    aioloop *loop = test_loop();
    error_handler h = AIOLOOP_ZERO;
    error_raise r = AIOLOOP_ZERO;
    r.code = AIOLOOP_EROFS;
    h.replaces = loop;
    aioloop_set_exception_handler(loop, error_handle, &h);
    error_raise_soon(loop, &r);
    error_raise_soon(loop, &r);
    test_spin(loop, 1);
    CHECK_EQ(h.calls, 1);
    CHECK_EQ(test_log_lines(), 1);
    test_end(loop);
}

/* ---- the handler's context ---- */

static int error_values[4];

static void error_done(aioloop_future *future, void *arg) {
    error_raising(aioloop_future_get_loop(future), arg);
}

/* Sets the variable in the context of the work itself: the handler sees it too. */
static void error_set_and_raise(aioloop *loop, void *arg) {
    error_raise *r = (error_raise *)arg;
    if (aioloop_context_set(&error_var, &error_values[3], NULL) < 0)
        return;
    error_raising(loop, r);
}

TEST(handler_runs_in_the_context_of_what_failed, "ERR-06") {
    aioloop *loop = test_loop();
    error_handler h = AIOLOOP_ZERO;
    error_raise r = AIOLOOP_ZERO;
    aioloop_future *f = aioloop_create_future(loop);
    aioloop_timer_handle t;
    aioloop_handle handle;
    CHECK_PTR(aioloop_future_get_loop(f), loop);
    r.code = AIOLOOP_EROFS;
    aioloop_set_exception_handler(loop, error_handle, &h);
    CHECK_EQ(aioloop_context_set(&error_var, &error_values[0], NULL), 0);
    error_raise_soon(loop, &r);
    CHECK_EQ(aioloop_context_set(&error_var, &error_values[1], NULL), 0);
    test_spin(loop, 1);
    CHECK_EQ(h.calls, 1);
    CHECK_PTR(h.var, &error_values[0]);
    t = aioloop_call_later(loop, 0, error_raising, &r);
    CHECK(!aioloop_handle_is_null(&t.handle));
    CHECK_EQ(aioloop_context_set(&error_var, &error_values[2], NULL), 0);
    test_run_until(loop, &h.calls, 2, "the timer's report");
    CHECK_PTR(h.var, &error_values[1]);
    CHECK_EQ(aioloop_future_add_done_callback(f, error_done, &r), 0);
    CHECK_EQ(aioloop_context_set(&error_var, NULL, NULL), 0);
    CHECK_EQ(aioloop_future_set_result(f, 0, NULL, NULL), 0);
    test_spin(loop, 1);
    CHECK_EQ(h.calls, 3);
    CHECK_PTR(h.var, &error_values[2]);
    handle = aioloop_call_soon(loop, error_set_and_raise, &r);
    CHECK(!aioloop_handle_is_null(&handle));
    test_spin(loop, 1);
    CHECK_EQ(h.calls, 4);
    CHECK_PTR(h.var, &error_values[3]);
    CHECK(aioloop_context_get(&error_var) == NULL); /* and ours is as it was */
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(handler_runs_in_the_context_of_the_connection, "ERR-06") {
    aioloop *loop = test_loop();
    error_handler h = AIOLOOP_ZERO;
    error_peer inside = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_server *server;
    aioloop_transport *t;
    int port = 0;
    inside.where = 'd';
    inside.code = AIOLOOP_EROFS;
    aioloop_set_exception_handler(loop, error_handle, &h);
    CHECK_EQ(aioloop_context_set(&error_var, &error_values[0], NULL), 0);
    server = test_serve(loop, &error_protocol, &inside, &port);
    CHECK_EQ(aioloop_context_set(&error_var, NULL, NULL), 0);
    t = test_dial(loop, &test_protocol, &client, port);
    CHECK_EQ(aioloop_transport_write(t, "x", 1), 0);
    test_run_until(loop, &h.calls, 1, "the report");
    CHECK_PTR(h.var, &error_values[0]);
    test_run_until(loop, &inside.lost, 1, "the server's loss");
    test_run_until(loop, &client.lost, 1, "the client's loss");
    aioloop_transport_unref(t);
    test_peer_drop(&client);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_spin(loop, 4);
    test_end(loop);
}

TEST(error_is_kept_across_what_fails_meanwhile, "") {
    aioloop *loop = test_loop();
    aioloop_error *kept;
    CHECK(aioloop_save_error(loop) == NULL);
    aioloop_restore_error(loop, NULL);
    CHECK_EQ(aioloop_future_set_exception(NULL, AIOLOOP_EIO, NULL), AIOLOOP_EINVAL);
    aioloop_raise(loop, AIOLOOP_EIO, "the reason");
    CHECK_STR(aioloop_message(loop, AIOLOOP_EIO), "the reason");
    CHECK_STR(aioloop_message(loop, AIOLOOP_EPIPE), aioloop_strerror(AIOLOOP_EPIPE));
    CHECK_STR(aioloop_message(loop, 0), "success");
    kept = aioloop_save_error(loop);
    CHECK(kept != NULL);
    aioloop_raise(loop, AIOLOOP_EIO, "the clean-up's");
    CHECK_STR(aioloop_message(loop, AIOLOOP_EIO), "the clean-up's");
    aioloop_restore_error(loop, kept);
    CHECK_STR(aioloop_message(loop, AIOLOOP_EIO), "the reason");
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EIO);
    test_end(loop);
}

/* ---- while the loop is freed ---- */

static int error_freed_again;

static void error_handler_frees(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    (void)context;
    (void)arg;
    error_freed_again = aioloop_free(loop);
}

TEST(handler_cannot_free_the_loop_that_is_being_freed, "") {
    aioloop *loop = test_loop();
    aioloop_future *f = aioloop_create_future(loop);
    error_freed_again = 0;
    CHECK_EQ(aioloop_future_set_exception(f, AIOLOOP_EINVAL, NULL), 0);
    aioloop_set_exception_handler(loop, error_handler_frees, NULL);
    test_end(loop);
    CHECK_EQ(error_freed_again, AIOLOOP_EMISUSE);
}

static aioloop_task *error_task;
static aioloop_future *error_next;

static void error_drop_next(void *value) {
    (void)value;
    aioloop_future_unref(error_next);
}

static int64_t error_fails_with_a_value(aioloop *loop, aioloop_frame *frame, void **out) {
    (void)loop;
    (void)frame;
    (void)out;
    CHECK_EQ(aioloop_context_set(&error_var, &error_next, error_drop_next), 0);
    return AIOLOOP_EINVAL;
}

static void error_handler_drops(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    (void)loop;
    (void)context;
    (void)arg;
    aioloop_future_unref(error_task);
    error_task = NULL;
}

TEST(report_at_the_end_may_drop_the_next_future, "") {
    aioloop *loop = test_loop();
    aioloop_frame frame = AIOLOOP_ZERO;
    error_task = aioloop_future_ref(aioloop_create_task_frame(loop, error_fails_with_a_value, &frame, NULL));
    error_next = aioloop_create_future(loop);
    test_spin(loop, 2);
    aioloop_set_exception_handler(loop, error_handler_drops, NULL);
    test_end(loop);
    CHECK(error_task == NULL);
}
