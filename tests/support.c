/*
 * support.c - see support.h. Also the one file of the test programs that holds the implementation.
 */
#define AIOLOOP_IMPLEMENTATION
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#define TEST_LOOPS_MAX 16
#define TEST_LOG_SIZE 8192

static struct {
    aioloop *loops[TEST_LOOPS_MAX];
    aioloop_socket sockets[64]; /* of test_socketpair, until given away or closed */
    int socket_count;
    test_report reports[16];
    int report_count;
    char log[TEST_LOG_SIZE];
    int log_lines;
    bool given_up;
} test_state;

/* ---- reports ---- */

static void test_on_error(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    test_report *r;
    (void)loop;
    (void)arg;
    if (test_state.report_count++ >= 16)
        return;
    r = &test_state.reports[test_state.report_count - 1];
    r->context = *context;
    snprintf(r->message, sizeof(r->message), "%s", context->message != NULL ? context->message : "");
    snprintf(r->detail, sizeof(r->detail), "%s", context->detail != NULL ? context->detail : "");
    r->context.message = r->message;
    r->context.detail = r->detail;
}

int test_reports(void) {
    return test_state.report_count;
}

const test_report *test_report_at(int i) {
    CHECK(i >= 0 && i < test_state.report_count && i < 16);
    return &test_state.reports[i];
}

void test_reports_clear(void) {
    test_state.report_count = 0;
}

static void test_on_log(aioloop *loop, aioloop_log_level level, const char *text, void *arg) {
    size_t length = strlen(test_state.log);
    (void)loop;
    (void)level;
    (void)arg;
    test_state.log_lines++;
    snprintf(test_state.log + length, sizeof(test_state.log) - length, "%s%s", length == 0 ? "" : "\n", text);
}

int test_log_lines(void) {
    return test_state.log_lines;
}

const char *test_log_text(void) {
    return test_state.log;
}

void test_log_clear(void) {
    test_state.log_lines = 0;
    test_state.log[0] = '\0';
}

/* ---- loops ---- */

/* After a test was given up: the loop may be in the middle of anything. */
static void test_clean_up(void) {
    aiol_map *map = aiol_thread.place == NULL ? aiol_thread.map : NULL; /* the values that are the thread's own */
    int i;
    test_state.given_up = true;
    for (i = 0; i < TEST_LOOPS_MAX; i++) {
        aioloop *loop = test_state.loops[i];
        if (loop == NULL)
            continue;
        test_state.loops[i] = NULL;
        if (loop->running != 0 && aiol_thread.running == loop && loop->outer_place == NULL)
            map = loop->map; /* which keeps them while it runs */
        loop->running = 0;
        loop->task = NULL; /* its stack may be the one that was left */
        loop->coro = NULL;
        loop->debug = false;
        if (!loop->closed)
            aioloop_close(loop);
        aioloop_free(loop);
    }
    aiol_thread.running = NULL;
    aiol_thread.map = NULL;
    aiol_thread.place = NULL;
    aiol_map_unref(map);
    while (test_state.socket_count > 0) {
        aioloop_socket s = test_state.sockets[--test_state.socket_count];
        if (s < AIOL_SIM_NUMBERS) /* a simulated one went with its loop */
            close(s);
    }
}

static const char *test_code_name(long long number) {
    return number < 0 && number > INT_MIN ? aioloop_error_name((int)number) : NULL;
}

bool test_has_given_up(void) {
    return test_state.given_up;
}

aioloop *test_loop_with(const aioloop_config *config) {
    aioloop *loop;
    int i = 0;
    test_cleanup_hook = test_clean_up;
    test_state.given_up = false;
    test_number_hook = test_code_name;
    loop = aioloop_new_event_loop(config);
    if (loop == NULL)
        FAIL("no loop: %s", aioloop_error_message(aioloop_last_error(NULL)));
    while (i < TEST_LOOPS_MAX && test_state.loops[i] != NULL)
        i++;
    CHECK(i < TEST_LOOPS_MAX);
    test_state.loops[i] = loop;
    aioloop_set_exception_handler(loop, test_on_error, NULL);
    aioloop_set_log(loop, test_on_log, NULL);
    return loop;
}

aioloop *test_loop(void) {
    return test_loop_with(NULL);
}

void test_end(aioloop *loop) {
    int i;
    int err;
    aioloop_verify(loop);
    if (test_state.report_count != 0)
        FAIL("%d errors were reported, the first: %s: %s (%s)", test_state.report_count, test_state.reports[0].message,
             aioloop_error_name(test_state.reports[0].context.error), test_state.reports[0].detail);
    for (i = 0; i < TEST_LOOPS_MAX; i++)
        if (test_state.loops[i] == loop)
            test_state.loops[i] = NULL;
    err = aioloop_free(loop);
    CHECK_EQ(err, 0);
}

bool test_simulated(aioloop *loop) {
    return strcmp(aioloop_backend_name(loop), "sim") == 0;
}

void test_needs_threads(aioloop *loop) {
    if (!AIOLOOP_USE_THREADS) {
        test_end(loop);
        SKIP("built without threads");
    }
}

void test_needs_real_descriptors(aioloop *loop) {
    if (test_simulated(loop)) {
        test_end(loop);
        SKIP("needs descriptors of the system");
    }
}

static bool test_pairs_are_internet(void) {
    const char *pairs = getenv("TEST_PAIRS");
    return pairs != NULL && strcmp(pairs, "internet") == 0;
}

void test_needs_unix_pairs(aioloop *loop) {
    if (test_pairs_are_internet()) {
        test_end(loop);
        SKIP("needs pairs of Unix sockets");
    }
}

/* As socketpair. Under io_uring such sockets are read by requests that repeat themselves, Unix ones are not. */
static void test_internet_pair(aioloop_socket sockets[2]) {
    struct sockaddr_in address;
    struct sockaddr *name = (struct sockaddr *)(void *)&address;
    socklen_t size = (socklen_t)sizeof(address);
    int one = 1;
    int room = 65536; /* about what a Unix pair has */
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room)) == 0);
    CHECK(setsockopt(listener, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)) == 0);
    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bind(listener, name, size) == 0 && listen(listener, 1) == 0 && getsockname(listener, name, &size) == 0);
    sockets[0] = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(setsockopt(sockets[0], SOL_SOCKET, SO_RCVBUF, &room, sizeof(room)) == 0);
    CHECK(setsockopt(sockets[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)) == 0);
    CHECK(connect(sockets[0], name, size) == 0);
    sockets[1] = accept(listener, NULL, NULL);
    close(listener);
    CHECK(setsockopt(sockets[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0);
    CHECK(setsockopt(sockets[1], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0);
}

void test_socketpair(aioloop *loop, aioloop_socket sockets[2]) {
    if (test_simulated(loop)) {
        int err = aioloop_sim_socketpair(loop, sockets);
        CHECK_EQ(err, 0);
        return;
    }
    if (test_pairs_are_internet())
        test_internet_pair(sockets);
    else
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
    CHECK(test_state.socket_count < 62);
    test_state.sockets[test_state.socket_count++] = sockets[0];
    test_state.sockets[test_state.socket_count++] = sockets[1];
}

/* The socket is a transport's now. */
static void test_socket_given(aioloop_socket s) {
    int i;
    for (i = 0; i < test_state.socket_count; i++)
        if (test_state.sockets[i] == s)
            test_state.sockets[i] = test_state.sockets[--test_state.socket_count];
}

void test_close_socket(aioloop *loop, aioloop_socket s) {
    test_socket_given(s);
    if (test_simulated(loop))
        aioloop_sim_close(loop, s);
    else
        close(s);
}

/* ---- sockets for direct use ---- */

bool test_delayed(aioloop *loop) {
    const char *backend = getenv("AIOLOOP_BACKEND");
    return test_simulated(loop) && backend != NULL && strstr(backend, "delayed") != NULL;
}

aioloop_socket test_socket(aioloop *loop, int family, int type) {
    aioloop_socket s = -1;
    if (test_simulated(loop)) {
        int err = aioloop_sim_socket(loop, family, type, &s);
        CHECK_EQ(err, 0);
        return s;
    }
    s = socket(family == AIOLOOP_INET ? AF_INET : family == AIOLOOP_INET6 ? AF_INET6 : AF_UNIX,
               type == AIOLOOP_SOCK_STREAM ? SOCK_STREAM : SOCK_DGRAM, 0);
    test_keep_socket(s);
    CHECK(fcntl(s, F_SETFL, O_NONBLOCK) == 0);
    return s;
}

void test_bind(aioloop *loop, aioloop_socket s, const aioloop_address *address) {
    int err = test_simulated(loop) ? aioloop_sim_bind(loop, s, address) : aiol_socket_bind(s, address);
    CHECK_EQ(err, 0);
}

void test_listen(aioloop *loop, aioloop_socket s, int backlog) {
    int err = test_simulated(loop) ? aioloop_sim_listen(loop, s, backlog) : aiol_socket_listen(s, backlog);
    CHECK_EQ(err, 0);
}

void test_name(aioloop *loop, aioloop_socket s, aioloop_peer *name) {
    aioloop_address address;
    aiol_path_room room;
    int err = test_simulated(loop) ? aioloop_sim_name(loop, s, &address) : aiol_socket_name(s, &address, &room);
    CHECK_EQ(err, 0);
    aiol_peer_set(name, &address);
}

aioloop_socket test_listener(aioloop *loop, int backlog, aioloop_address *address) {
    aioloop_socket s = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_STREAM);
    aioloop_peer name;
    int err = aioloop_address_parse(address, "127.0.0.1", 0);
    CHECK_EQ(err, 0);
    test_bind(loop, s, address);
    test_listen(loop, s, backlog);
    test_name(loop, s, &name);
    *address = name.address;
    return s;
}

/* ---- running ---- */

void test_run_until(aioloop *loop, const int *count, int wanted, const char *what) {
    aioloop_time start = aioloop_now(loop);
    while (*count < wanted) {
        /* What a fault has broken will not come: no need to wait long. A test without one has all the time. */
        aioloop_time limit = test_injected() ? AIOLOOP_MS(300) : (aioloop_time)(10e9 * test_slowdown());
        int err = aioloop_run_once(loop, AIOLOOP_MS(50));
        CHECK_GE(err, 0);
        if (*count < wanted && aioloop_now(loop) - start > limit)
            FAIL("waited in vain for %s: %d of %d", what, *count, wanted);
    }
}

void test_spin(aioloop *loop, int n) {
    while (n-- > 0) {
        int err = aioloop_run_once(loop, 0);
        CHECK_GE(err, 0);
    }
}

static void test_time_over(aioloop *loop, void *arg) {
    (void)loop;
    *(bool *)arg = true;
}

void test_run_for(aioloop *loop, aioloop_time time) {
    bool over = false;
    aioloop_timer_handle timer = aioloop_call_later(loop, time, test_time_over, &over);
    CHECK(!aioloop_handle_is_null(&timer.handle));
    while (!over) {
        int err = aioloop_run_once(loop, AIOLOOP_FOREVER);
        CHECK_GE(err, 0);
    }
}

/* ---- peers ---- */

static void test_peer_note(test_peer *peer, char call) {
    size_t n = strlen(peer->calls);
    if (n + 1 < sizeof(peer->calls)) {
        peer->calls[n] = call;
        peer->calls[n + 1] = '\0';
    }
}

static void test_peer_made(aioloop_transport *transport, void *self) {
    test_peer *peer = (test_peer *)self;
    test_peer_note(peer, 'm');
    peer->transport = aioloop_transport_ref(transport);
    peer->made++;
    if (peer->on_made != NULL)
        peer->on_made(peer);
}

static void test_peer_keep(test_peer *peer, const void *data, size_t size) {
    if (peer->received < sizeof(peer->data)) {
        size_t room = sizeof(peer->data) - peer->received;
        memcpy(peer->data + peer->received, data, size < room ? size : room);
    }
    peer->received += size;
    peer->datas++;
    if (peer->echo)
        aioloop_transport_write(peer->transport, data, size);
    if (peer->on_data != NULL)
        peer->on_data(peer, data, size);
}

static void test_peer_data(aioloop_transport *transport, void *self, const void *data, size_t size) {
    (void)transport;
    test_peer_note((test_peer *)self, 'd');
    test_peer_keep((test_peer *)self, data, size);
}

static bool test_peer_eof(aioloop_transport *transport, void *self) {
    test_peer *peer = (test_peer *)self;
    (void)transport;
    test_peer_note(peer, 'e');
    peer->eof++;
    if (peer->on_eof != NULL)
        peer->on_eof(peer);
    return peer->keep_open;
}

static void test_peer_lost(aioloop_transport *transport, void *self, int error) {
    test_peer *peer = (test_peer *)self;
    (void)transport;
    test_peer_note(peer, 'l');
    peer->lost++;
    peer->error = error;
    if (peer->on_lost != NULL)
        peer->on_lost(peer);
}

static void test_peer_pause(aioloop_transport *transport, void *self) {
    test_peer *peer = (test_peer *)self;
    (void)transport;
    test_peer_note(peer, 'p');
    peer->paused++;
    if (peer->on_pause != NULL)
        peer->on_pause(peer);
}

static void test_peer_resume(aioloop_transport *transport, void *self) {
    test_peer *peer = (test_peer *)self;
    (void)transport;
    test_peer_note(peer, 'r');
    peer->resumed++;
    if (peer->on_resume != NULL)
        peer->on_resume(peer);
}

static char test_peer_place[64];

static size_t test_peer_buffer(aioloop_transport *transport, void *self, size_t hint, void **buffer) {
    (void)transport;
    (void)self;
    (void)hint;
    *buffer = test_peer_place;
    return sizeof(test_peer_place);
}

static void test_peer_updated(aioloop_transport *transport, void *self, size_t size) {
    (void)transport;
    CHECK_LE(size, sizeof(test_peer_place));
    test_peer_note((test_peer *)self, 'b');
    test_peer_keep((test_peer *)self, test_peer_place, size);
}

const aioloop_protocol test_protocol = {0,
                                        NULL,
                                        test_peer_made,
                                        test_peer_data,
                                        test_peer_eof,
                                        test_peer_lost,
                                        test_peer_pause,
                                        test_peer_resume,
                                        NULL,
                                        NULL, NULL, NULL};
const aioloop_protocol test_buffered_protocol = {0,
                                                 NULL,
                                                 test_peer_made,
                                                 NULL,
                                                 test_peer_eof,
                                                 test_peer_lost,
                                                 test_peer_pause,
                                                 test_peer_resume,
                                                 test_peer_buffer,
                                                 test_peer_updated, NULL, NULL};

void test_peer_drop(test_peer *peer) {
    aioloop_transport_unref(peer->transport);
    peer->transport = NULL;
}

void test_connect_pair(aioloop *loop, test_peer *a, test_peer *b) {
    aioloop_socket s[2];
    int64_t rc;
    test_socketpair(loop, s);
    /* Given when it is certain: a refused one is still ours, and closing one twice in the clean-up does no harm. */
    rc = aioloop_run_until_complete(loop, aioloop_connect_accepted_socket(loop, &test_protocol, a, s[0], NULL), NULL);
    CHECK_EQ(rc, 0);
    test_socket_given(s[0]);
    rc = aioloop_run_until_complete(loop, aioloop_connect_accepted_socket(loop, &test_protocol, b, s[1], NULL), NULL);
    CHECK_EQ(rc, 0);
    test_socket_given(s[1]);
}

aioloop_server *test_serve(aioloop *loop, const aioloop_protocol *protocol, void *arg, int *port) {
    aioloop_server *server = NULL;
    aioloop_address address;
    int64_t rc;
    int err;
    rc = aioloop_run_until_complete(loop, aioloop_create_server(loop, protocol, arg, "127.0.0.1", 0, NULL), &server);
    CHECK_EQ(rc, 1);
    err = aioloop_server_socket(server, 0, NULL, &address);
    CHECK_EQ(err, 0);
    *port = address.port;
    return server;
}

aioloop_transport *test_dial(aioloop *loop, const aioloop_protocol *protocol, void *arg, int port) {
    aioloop_transport *transport = NULL;
    int64_t rc = aioloop_run_until_complete(
        loop, aioloop_create_connection(loop, protocol, arg, "127.0.0.1", port, NULL), &transport);
    CHECK_EQ(rc, 0);
    return transport;
}

/* ---- descriptors of the test's own ---- */

int test_keep_socket(int s) {
    if (s < 0)
        FAIL("no descriptor: errno %d", errno);
    CHECK(test_state.socket_count < 64);
    test_state.sockets[test_state.socket_count++] = s;
    return s;
}

void test_forget_socket(aioloop_socket s) {
    test_socket_given(s);
}

bool test_has_ipv6(aioloop *loop) {
    struct sockaddr_in6 name;
    bool has;
    int s;
    if (test_simulated(loop))
        return true;
    s = socket(AF_INET6, SOCK_STREAM, 0);
    if (s == -1)
        return false;
    memset(&name, 0, sizeof(name));
    name.sin6_family = AF_INET6;
    name.sin6_addr.s6_addr[15] = 1;
    has = bind(s, (const struct sockaddr *)&name, (socklen_t)sizeof(name)) == 0;
    close(s);
    return has;
}

/* ---- connections over a socket pair ---- */

void test_adopt(aioloop *loop, const aioloop_protocol *protocol, void *arg, aioloop_socket s) {
    int64_t rc = aioloop_run_until_complete(loop, aioloop_connect_accepted_socket(loop, protocol, arg, s, NULL), NULL);
    CHECK_EQ(rc, 0);
    test_socket_given(s); /* when it is certain: a refused one is still ours */
}

void test_run_until_received(aioloop *loop, const test_peer *peer, size_t size) {
    aioloop_time start = aioloop_now(loop);
    while (peer->received < size) {
        aioloop_time limit = test_injected() ? AIOLOOP_MS(300) : (aioloop_time)(10e9 * test_slowdown());
        int err = aioloop_run_once(loop, AIOLOOP_MS(50));
        CHECK_GE(err, 0);
        if (peer->received < size && (peer->lost != 0 || aioloop_now(loop) - start > limit))
            FAIL("waited in vain for bytes: %lu of %lu, %s", (unsigned long)peer->received, (unsigned long)size,
                 peer->lost != 0 ? "and the connection is lost" : "for too long");
    }
}

static void test_check_last(const test_peer *peer) {
    size_t n = strlen(peer->calls);
    CHECK(n > 0);
    if (n + 1 < sizeof(peer->calls)) /* else there were more than fit */
        CHECK_EQ(peer->calls[n - 1], 'l');
}

void test_end_pair(aioloop *loop, test_peer *a, test_peer *b) {
    aioloop_transport_abort(a->transport);
    aioloop_transport_abort(b->transport);
    test_run_until(loop, &a->lost, 1, "the loss of the first");
    test_run_until(loop, &b->lost, 1, "the loss of the second");
    test_spin(loop, 5);
    CHECK_EQ(a->made, 1);
    CHECK_EQ(b->made, 1);
    CHECK_EQ(a->lost, 1);
    CHECK_EQ(b->lost, 1);
    test_check_last(a);
    test_check_last(b);
    test_peer_drop(a);
    test_peer_drop(b);
}

/* ---- something to watch ---- */

aioloop_socket test_feed(aioloop *loop, test_peer *far) {
    aioloop_socket s[2];
    test_socketpair(loop, s);
    test_adopt(loop, &test_protocol, far, s[1]);
    CHECK_EQ(aioloop_transport_write(far->transport, "x", 1), 0);
    while (aioloop_transport_get_write_buffer_size(far->transport) != 0) /* an engine may send with the next wait */
        CHECK_GE(aioloop_run_once(loop, 0), 0);
    return s[0];
}

void test_feed_end(aioloop *loop, aioloop_socket s, test_peer *far) {
    aioloop_transport_abort(far->transport);
    test_run_until(loop, &far->lost, 1, "the loss of the far end");
    test_peer_drop(far);
    test_close_socket(loop, s);
}
