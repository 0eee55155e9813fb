/*
 * test_harvest.c - what one callback does to another operation whose event was found together with its own, and what
 * the system still holds of what was ended. On the real back ends; the far ends are plain sockets.
 */
#include "support.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

/* Two connected sockets of the loopback, the test's. Under io_uring such are read by requests that repeat
 * themselves. */
static void harvest_tcp_pair(aioloop_socket s[2]) {
    struct sockaddr_in address;
    struct sockaddr *name = (struct sockaddr *)(void *)&address;
    socklen_t size = (socklen_t)sizeof(address);
    int one = 1;
    int listener = test_keep_socket(socket(AF_INET, SOCK_STREAM, 0));
    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bind(listener, name, size) == 0 && listen(listener, 1) == 0 && getsockname(listener, name, &size) == 0);
    s[0] = test_keep_socket(socket(AF_INET, SOCK_STREAM, 0));
    CHECK(connect(s[0], name, size) == 0);
    s[1] = test_keep_socket(accept(listener, NULL, NULL));
    CHECK(setsockopt(s[1], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0);
    test_forget_socket(listener);
    close(listener);
}

/* A connection over it, and the far end. */
static aioloop_socket harvest_tcp(aioloop *loop, const aioloop_protocol *protocol, test_peer *peer) {
    aioloop_socket s[2];
    harvest_tcp_pair(s);
    test_adopt(loop, protocol, peer, s[0]);
    return s[1];
}

static aioloop_socket harvest_unix(aioloop *loop, test_peer *peer) {
    aioloop_socket s[2];
    test_socketpair(loop, s);
    test_adopt(loop, &test_protocol, peer, s[0]);
    return s[1];
}

static void harvest_end(aioloop *loop, test_peer *peer, aioloop_socket far) {
    aioloop_transport_abort(peer->transport);
    test_run_until(loop, &peer->lost, 1, "the loss");
    test_peer_drop(peer);
    test_close_socket(loop, far);
}

/* True if the far end has been told of the end. */
static bool harvest_has_ended(aioloop_socket far) {
    char byte;
    ssize_t n = recv(far, &byte, 1, MSG_DONTWAIT);
    return n == 0 || (n == -1 && errno == ECONNRESET);
}

/* True where what is found is told in the order of the descriptors' numbers, and not in that of its coming. */
static bool harvest_goes_by_numbers(aioloop *loop) {
    const char *name = aioloop_backend_name(loop);
    return strcmp(name, "select") == 0 || strcmp(name, "poll") == 0;
}

static void harvest_run_until_fatal(aioloop *loop) {
    aioloop_time limit = test_injected() ? AIOLOOP_MS(1500) : (aioloop_time)(10e9 * test_slowdown());
    aioloop_time start = aioloop_now(loop);
    int err = 0;
    while (err != AIOLOOP_EFATAL) {
        err = aioloop_run_once(loop, AIOLOOP_MS(50));
        CHECK(err >= 0 || err == AIOLOOP_EFATAL);
        CHECK(aioloop_now(loop) - start < limit);
    }
}

static void harvest_count(aioloop *loop, void *arg) {
    (void)loop;
    ++*(int *)arg;
}

/* ---- what the system still holds ---- */

TEST_WITH(harvest_watcher_that_is_removed_lets_go_at_once, "", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    int calls = 0;
    test_needs_real_descriptors(loop);
    test_socketpair(loop, s);
    CHECK_EQ(aioloop_add_reader(loop, s[0], harvest_count, &calls), 0);
    test_spin(loop, 2);
    CHECK_EQ(aioloop_remove_reader(loop, s[0]), 1);
    test_close_socket(loop, s[0]);
    CHECK(harvest_has_ended(s[1]));
    test_close_socket(loop, s[1]);
    test_end(loop);
}

TEST_WITH(harvest_loop_that_is_freed_lets_go_of_what_is_watched, "", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    int calls = 0;
    test_needs_real_descriptors(loop);
    harvest_tcp_pair(s);
    CHECK_EQ(aioloop_add_reader(loop, s[0], harvest_count, &calls), 0);
    test_spin(loop, 2);
    test_end(loop);
    test_forget_socket(s[0]);
    close(s[0]);
    CHECK(harvest_has_ended(s[1]));
    test_forget_socket(s[1]);
    close(s[1]);
}

/* Connected to a server that has accepted nothing yet. */
static aioloop_socket harvest_dial(int port) {
    struct sockaddr_in address;
    aioloop_socket s = test_keep_socket(socket(AF_INET, SOCK_STREAM, 0));
    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(s, (struct sockaddr *)(void *)&address, sizeof(address)) == 0)
        return s;
    CHECK_EQ(errno, ECONNREFUSED);
    test_forget_socket(s);
    close(s);
    return -1;
}

static void harvest_end_the_run(test_peer *peer) {
    aioloop_raise(aioloop_transport_get_loop(peer->transport), AIOLOOP_EFATAL, NULL);
}

/* A fatal error leaves the others for the next run, which never comes. */
TEST_WITH(harvest_connections_that_nobody_accepts_end_with_the_loop, "", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    test_peer accepted = AIOLOOP_ZERO;
    aioloop_server *server;
    aioloop_socket far[3];
    int port = 0;
    int i;
    test_needs_real_descriptors(loop);
    accepted.on_made = harvest_end_the_run;
    server = test_serve(loop, &test_protocol, &accepted, &port);
    test_spin(loop, 2);
    for (i = 0; i < 3; i++)
        far[i] = harvest_dial(port);
    harvest_run_until_fatal(loop);
    CHECK_EQ(accepted.made, 1);
    test_peer_drop(&accepted);
    aioloop_server_unref(server);
    test_end(loop);
    for (i = 0; i < 3; i++) {
        CHECK(harvest_has_ended(far[i]));
        test_forget_socket(far[i]);
        close(far[i]);
    }
}

enum { HARVEST_MANY = 55 }; /* much more than the 20 events that io_uring looks at in one call */

typedef struct harvest_close {
    aioloop_server *server;
    aioloop_socket far[HARVEST_MANY];
    int port;
    int ran;
} harvest_close;

static void harvest_close_server(aioloop *loop, void *arg) {
    harvest_close *c = (harvest_close *)arg;
    int i;
    (void)loop;
    for (i = 0; i < HARVEST_MANY; i++)
        CHECK_EQ(send(c->far[i], "x", 1, MSG_NOSIGNAL), 1);
    aioloop_server_close(c->server);
    CHECK_EQ(harvest_dial(c->port), -1); /* nobody listens any more */
    c->ran++;
}

TEST_WITH(harvest_closed_server_is_gone_however_much_there_is_to_do, "", TEST_REAL_FDS) {
    static test_peer peers[HARVEST_MANY];
    static test_peer accepted;
    aioloop *loop = test_loop();
    harvest_close c = AIOLOOP_ZERO;
    aioloop_socket client;
    aioloop_handle h;
    int i;
    test_needs_real_descriptors(loop);
    memset(peers, 0, sizeof(peers));
    memset(&accepted, 0, sizeof(accepted));
    for (i = 0; i < HARVEST_MANY; i++)
        c.far[i] = harvest_unix(loop, &peers[i]);
    c.server = test_serve(loop, &test_protocol, &accepted, &c.port);
    test_spin(loop, 2);
    h = aioloop_call_soon(loop, harvest_close_server, &c);
    CHECK(!aioloop_handle_is_null(&h));
    client = harvest_dial(c.port); /* found before the close, and told after it */
    CHECK_GE(client, 0);
    test_run_until(loop, &c.ran, 1, "the close");
    for (i = 0; i < HARVEST_MANY; i++) {
        test_run_until_received(loop, &peers[i], 1);
        harvest_end(loop, &peers[i], c.far[i]);
    }
    CHECK_EQ(accepted.made, 0);
    CHECK(harvest_has_ended(client));
    test_close_socket(loop, client);
    aioloop_server_unref(c.server);
    test_end(loop);
}

/* ---- found together ---- */

typedef struct harvest_group {
    test_peer a;
    test_peer b;
    test_peer c;
    test_peer d;
} harvest_group;

static harvest_group harvest;

static void harvest_abort_others(test_peer *peer, const void *data, size_t size) {
    (void)peer;
    (void)data;
    (void)size;
    aioloop_transport_abort(harvest.b.transport);
    aioloop_transport_abort(harvest.c.transport);
}

/* One whose end was found as well, and one of which nothing was. */
TEST_WITH(harvest_connections_ended_by_another_one_are_lost, "", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    aioloop_socket far[3];
    test_needs_real_descriptors(loop);
    memset(&harvest, 0, sizeof(harvest));
    harvest.a.on_data = harvest_abort_others;
    far[0] = harvest_tcp(loop, &test_protocol, &harvest.a);
    far[1] = harvest_tcp(loop, &test_protocol, &harvest.b);
    far[2] = harvest_tcp(loop, &test_protocol, &harvest.c);
    test_spin(loop, 2);
    CHECK_EQ(send(far[0], "x", 1, MSG_NOSIGNAL), 1);
    CHECK_EQ(send(far[1], "x", 1, MSG_NOSIGNAL), 1);
    CHECK(shutdown(far[1], SHUT_WR) == 0);
    test_run_until(loop, &harvest.b.lost, 1, "the loss of b");
    test_run_until(loop, &harvest.c.lost, 1, "the loss of c");
    CHECK(harvest.b.datas + harvest.c.datas == 0 || harvest_goes_by_numbers(loop));
    harvest_end(loop, &harvest.a, far[0]);
    harvest_end(loop, &harvest.b, far[1]);
    harvest_end(loop, &harvest.c, far[2]);
    test_end(loop);
}

static void harvest_pause_other(test_peer *peer, const void *data, size_t size) {
    (void)peer;
    (void)data;
    (void)size;
    aioloop_transport_pause_reading(harvest.b.transport);
}

/* What was found of a connection that another one pauses waits until it is resumed, and then comes without further
 * ado. */
TEST_WITH(harvest_bytes_of_a_connection_paused_by_another_one_are_kept, "", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    aioloop_socket far[2];
    int fd;
    int i;
    test_needs_real_descriptors(loop);
    for (i = 0; i < 6; i++) { /* nothing behind them; the end; more bytes; each of both kinds */
        int way = i / 2;
        int waits = 0;
        aioloop_time start;
        memset(&harvest, 0, sizeof(harvest));
        harvest.a.on_data = harvest_pause_other;
        harvest.b.keep_open = true;
        far[0] = harvest_tcp(loop, &test_protocol, &harvest.a);
        far[1] = i % 2 == 0 ? harvest_tcp(loop, &test_protocol, &harvest.b) : harvest_unix(loop, &harvest.b);
        test_spin(loop, 2);
        CHECK_EQ(send(far[0], "x", 1, MSG_NOSIGNAL), 1);
        CHECK_EQ(send(far[1], "abc", 3, MSG_NOSIGNAL), 3);
        if (way == 1)
            CHECK(shutdown(far[1], SHUT_WR) == 0);
        test_run_until_received(loop, &harvest.a, 1);
        test_spin(loop, 2);
        for (start = aioloop_now(loop); aioloop_now(loop) < start + AIOLOOP_MS(10); waits++)
            CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(10)), 0);
        CHECK_LT(waits, 5);
        if (way == 2) {
            CHECK_EQ(send(far[1], "def", 3, MSG_NOSIGNAL), 3);
            test_spin(loop, 3);
        }
        CHECK(harvest.b.datas == 0 || harvest_goes_by_numbers(loop));
        aioloop_transport_resume_reading(harvest.b.transport);
        fd = aioloop_backend_fd(loop);
        if (fd >= 0) {
            struct pollfd one;
            one.fd = fd;
            one.events = POLLIN;
            one.revents = 0;
            CHECK(aioloop_next_deadline(loop) <= aioloop_now(loop) || poll(&one, 1, 0) == 1);
        }
        test_run_until_received(loop, &harvest.b, way == 2 ? 6 : 3);
        if (way == 0) {
            CHECK_EQ(send(far[1], "def", 3, MSG_NOSIGNAL), 3);
            test_run_until_received(loop, &harvest.b, 6);
        }
        CHECK_EQ(memcmp(harvest.b.data, "abcdef", harvest.b.received), 0);
        if (way == 1)
            test_run_until(loop, &harvest.b.eof, 1, "the end");
        harvest_end(loop, &harvest.a, far[0]);
        harvest_end(loop, &harvest.b, far[1]);
    }
    test_end(loop);
}

static void harvest_pause_all(test_peer *peer, const void *data, size_t size) {
    harvest_pause_other(peer, data, size);
    aioloop_transport_pause_reading(harvest.c.transport);
    aioloop_transport_pause_reading(harvest.d.transport);
}

/* The same of several, some of which change their minds. */
TEST_WITH(harvest_bytes_are_kept_for_each_of_several, "", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    aioloop_socket far[4];
    int i;
    test_needs_real_descriptors(loop);
    memset(&harvest, 0, sizeof(harvest));
    harvest.a.on_data = harvest_pause_all;
    far[0] = harvest_tcp(loop, &test_protocol, &harvest.a);
    far[1] = harvest_tcp(loop, &test_protocol, &harvest.b);
    far[2] = harvest_tcp(loop, &test_protocol, &harvest.c);
    far[3] = harvest_tcp(loop, &test_protocol, &harvest.d);
    test_spin(loop, 2);
    for (i = 0; i < 4; i++)
        CHECK_EQ(send(far[i], "x", 1, MSG_NOSIGNAL), 1);
    test_run_until_received(loop, &harvest.a, 1);
    aioloop_transport_resume_reading(harvest.b.transport);
    aioloop_transport_resume_reading(harvest.c.transport);
    aioloop_transport_pause_reading(harvest.c.transport);
    aioloop_transport_resume_reading(harvest.d.transport);
    test_run_until_received(loop, &harvest.b, 1);
    test_run_until_received(loop, &harvest.d, 1);
    CHECK_EQ(harvest.c.received, 0);
    aioloop_transport_resume_reading(harvest.c.transport);
    test_run_until_received(loop, &harvest.c, 1);
    harvest_end(loop, &harvest.a, far[0]);
    harvest_end(loop, &harvest.b, far[1]);
    harvest_end(loop, &harvest.c, far[2]);
    harvest_end(loop, &harvest.d, far[3]);
    test_end(loop);
}

static void harvest_raise(test_peer *peer, const void *data, size_t size) {
    (void)data;
    (void)size;
    harvest_end_the_run(peer);
}

/* After a fatal error nobody is called any more in that run, of those that have kept bytes as of the others. */
TEST_WITH(harvest_fatal_error_leaves_the_others_for_the_next_run, "", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    aioloop_socket far[4];
    int round;
    int i;
    test_needs_real_descriptors(loop);
    for (round = 0; round < 2; round++) {
        memset(&harvest, 0, sizeof(harvest));
        harvest.a.on_data = round == 0 ? harvest_pause_all : NULL;
        harvest.b.on_data = harvest.c.on_data = harvest.d.on_data = harvest_raise;
        far[0] = harvest_tcp(loop, &test_protocol, &harvest.a);
        far[1] = harvest_tcp(loop, &test_protocol, &harvest.b);
        far[2] = harvest_tcp(loop, &test_protocol, &harvest.c);
        far[3] = harvest_tcp(loop, &test_protocol, &harvest.d);
        test_spin(loop, 2);
        for (i = 0; i < 4; i++)
            CHECK_EQ(send(far[i], "x", 1, MSG_NOSIGNAL), 1);
        if (round == 0) {
            test_run_until_received(loop, &harvest.a, 1);
            aioloop_transport_resume_reading(harvest.b.transport);
            aioloop_transport_resume_reading(harvest.c.transport);
            aioloop_transport_resume_reading(harvest.d.transport);
        }
        for (i = 1; i <= 3; i++) {
            harvest_run_until_fatal(loop);
            CHECK_EQ(harvest.b.datas + harvest.c.datas + harvest.d.datas, i);
        }
        harvest_end(loop, &harvest.a, far[0]);
        harvest_end(loop, &harvest.b, far[1]);
        harvest_end(loop, &harvest.c, far[2]);
        harvest_end(loop, &harvest.d, far[3]);
    }
    test_end(loop);
}

/* What is kept of one that is ended instead of being resumed. */
TEST_WITH(harvest_bytes_that_are_kept_go_with_their_connection, "", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    aioloop_socket far[2];
    test_needs_real_descriptors(loop);
    memset(&harvest, 0, sizeof(harvest));
    harvest.a.on_data = harvest_pause_other;
    harvest.b.on_lost = test_peer_drop; /* so that nothing is left of it */
    far[0] = harvest_tcp(loop, &test_protocol, &harvest.a);
    far[1] = harvest_unix(loop, &harvest.b);
    test_spin(loop, 2);
    CHECK_EQ(send(far[0], "x", 1, MSG_NOSIGNAL), 1);
    CHECK_EQ(send(far[1], "abc", 3, MSG_NOSIGNAL), 3);
    test_run_until_received(loop, &harvest.a, 1);
    aioloop_transport_resume_reading(harvest.b.transport); /* on the list of those with something to offer */
    aioloop_transport_abort(harvest.b.transport);
    test_run_until(loop, &harvest.b.lost, 1, "the loss");
    CHECK(harvest.b.datas == 0 || harvest_goes_by_numbers(loop));
    harvest.a.on_data = NULL;
    CHECK_EQ(send(far[0], "y", 1, MSG_NOSIGNAL), 1);
    test_run_until_received(loop, &harvest.a, 2);
    harvest_end(loop, &harvest.a, far[0]);
    test_close_socket(loop, far[1]);
    test_end(loop);
}

/* ---- memory ends ---- */

static bool harvest_poor;

static void *harvest_allocate(void *context, void *pointer, size_t old_size, size_t new_size) {
    (void)context;
    (void)old_size;
    if (new_size == 0) {
        free(pointer);
        return NULL;
    }
    return harvest_poor ? NULL : realloc(pointer, new_size);
}

static void harvest_pause_poor(test_peer *peer, const void *data, size_t size) {
    harvest_pause_other(peer, data, size);
    harvest_poor = true;
}

/* Without memory for what was found of it a paused connection ends there; where nothing was found ahead it goes on. */
TEST_WITH(harvest_bytes_that_cannot_be_kept_end_the_connection, "", TEST_REAL_FDS) {
    aioloop_allocator allocator;
    aioloop_config config = AIOLOOP_ZERO;
    aioloop *loop;
    aioloop_socket far[2];
    int i;
    allocator.allocate = harvest_allocate;
    allocator.context = NULL;
    config.allocator = &allocator;
    harvest_poor = false;
    loop = test_loop_with(&config);
    test_needs_real_descriptors(loop);
    memset(&harvest, 0, sizeof(harvest));
    harvest.a.on_data = harvest_pause_poor;
    harvest.b.on_lost = test_peer_drop; /* so that nothing is left of it */
    far[0] = harvest_tcp(loop, &test_protocol, &harvest.a);
    far[1] = harvest_tcp(loop, &test_protocol, &harvest.b);
    test_spin(loop, 2);
    CHECK_EQ(send(far[0], "x", 1, MSG_NOSIGNAL), 1);
    CHECK_EQ(send(far[1], "abc", 3, MSG_NOSIGNAL), 3);
    test_run_until_received(loop, &harvest.a, 1);
    harvest_poor = false;
    aioloop_transport_resume_reading(harvest.b.transport);
    for (i = 0; i < 100 && harvest.b.lost == 0 && harvest.b.received == 0; i++)
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(10)), 0);
    if (harvest.b.lost != 0)
        CHECK_EQ(harvest.b.error, AIOLOOP_ENOMEM);
    else
        CHECK_EQ(harvest.b.received, 3);
    if (harvest.b.lost == 0)
        aioloop_transport_abort(harvest.b.transport);
    test_run_until(loop, &harvest.b.lost, 1, "the loss");
    test_spin(loop, 2);
    harvest_end(loop, &harvest.a, far[0]);
    test_close_socket(loop, far[1]);
    test_end(loop);
}

/* ---- several events of one connection ---- */

static size_t harvest_change(aioloop_transport *transport, void *self, size_t hint, void **buffer) {
    static char unused[8];
    (void)hint;
    CHECK_EQ(aioloop_transport_set_protocol(transport, &test_protocol, self), 0);
    *buffer = unused;
    return sizeof(unused);
}

static void harvest_lost(aioloop_transport *transport, void *self, int error) {
    (void)transport;
    (void)error;
    ((test_peer *)self)->lost++;
}

static void harvest_updated(aioloop_transport *transport, void *self, size_t size) {
    (void)transport;
    (void)self;
    FAIL("%lu bytes for a protocol that was replaced", (unsigned long)size);
}

static void harvest_made(aioloop_transport *transport, void *self) {
    ((test_peer *)self)->transport = aioloop_transport_ref(transport);
}

static unsigned char harvest_bytes[100000];
static size_t harvest_wrong;

static void harvest_compare(test_peer *peer, const void *data, size_t size) {
    if (memcmp(harvest_bytes + peer->received - size, data, size) != 0)
        harvest_wrong++;
}

/* What nobody wanted at first stays before what was found behind it: more bytes, and the end. */
TEST_WITH(harvest_bytes_and_the_end_keep_their_order, "", TEST_REAL_FDS) {
    aioloop_protocol changing = AIOLOOP_ZERO;
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_socket far;
    size_t sent = 0;
    size_t i;
    test_needs_real_descriptors(loop);
    for (i = 0; i < sizeof(harvest_bytes); i++)
        harvest_bytes[i] = (unsigned char)(i * 7 + i / 251);
    harvest_wrong = 0;
    changing.connection_made = harvest_made;
    changing.get_buffer = harvest_change;
    changing.buffer_updated = harvest_updated;
    peer.on_data = harvest_compare;
    far = harvest_tcp(loop, &changing, &peer);
    test_spin(loop, 2);
    while (sent < sizeof(harvest_bytes)) {
        ssize_t n = send(far, harvest_bytes + sent, sizeof(harvest_bytes) - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n <= 0)
            break;
        sent += (size_t)n;
    }
    CHECK_GT(sent, 30000);
    CHECK(shutdown(far, SHUT_WR) == 0);
    test_run_until(loop, &peer.eof, 1, "the end");
    CHECK_EQ(peer.received, sent);
    CHECK_EQ(harvest_wrong, 0);
    test_run_until(loop, &peer.lost, 1, "the loss");
    test_peer_drop(&peer);
    test_close_socket(loop, far);
    test_end(loop);
}

/* ---- a share for each ---- */

static size_t harvest_small(aioloop_transport *transport, void *self, size_t hint, void **buffer) {
    static char place[1000];
    (void)transport;
    (void)self;
    (void)hint;
    *buffer = place;
    return sizeof(place);
}

static void harvest_got(aioloop_transport *transport, void *self, size_t size) {
    test_peer *peer = (test_peer *)self;
    (void)transport;
    peer->received += size;
    peer->datas++;
    if (peer->on_data != NULL)
        peer->on_data(peer, NULL, size);
}

/* One connection does not have the loop to itself, however small its buffer and however much there is for it; and it is
 * called no more after a fatal error. */
TEST_WITH(harvest_gives_each_connection_a_share, "", TEST_REAL_FDS) {
    aioloop_protocol small = AIOLOOP_ZERO;
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_socket far;
    aioloop_socket s[2];
    int room = 4000000;
    size_t sent = 0;
    test_needs_real_descriptors(loop);
    small.connection_made = harvest_made;
    small.connection_lost = harvest_lost;
    small.get_buffer = harvest_small;
    small.buffer_updated = harvest_got;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    test_keep_socket(s[0]);
    far = test_keep_socket(s[1]);
    CHECK(setsockopt(far, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)) == 0);
    for (;;) {
        ssize_t n = send(far, harvest_bytes, 20000, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n <= 0)
            break;
        sent += (size_t)n;
    }
    test_adopt(loop, &small, &peer, s[0]);
    while (peer.received < sent) {
        size_t before = peer.received;
        CHECK_EQ(peer.lost, 0);
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(50)), 0);
        CHECK_LE(peer.received - before, 256 * 1024 + 1000);
    }
    peer.on_data = harvest_raise;
    CHECK_EQ(send(far, harvest_bytes, 3000, MSG_NOSIGNAL), 3000);
    peer.datas = 0;
    harvest_run_until_fatal(loop);
    CHECK_EQ(peer.datas, 1);
    test_run_until(loop, &peer.lost, 1, "the loss");
    CHECK_EQ(peer.datas, 1);
    test_peer_drop(&peer);
    test_close_socket(loop, far);
    test_end(loop);
}

/* ---- a reset that is told once ---- */

typedef struct harvest_reset {
    test_peer *peer;
    aioloop_socket far;
    aioloop_socket watched;
    int ran;
} harvest_reset;

static void harvest_reset_and_write(aioloop *loop, void *arg) {
    harvest_reset *r = (harvest_reset *)arg;
    struct linger now;
    now.l_onoff = 1;
    now.l_linger = 0;
    CHECK(setsockopt(r->far, SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0);
    test_close_socket(loop, r->far);
    CHECK_EQ(aioloop_remove_reader(loop, r->watched), 1); /* io_uring looks for events here */
    CHECK_EQ(aioloop_transport_write(r->peer->transport, "x", 1), 0);
    r->ran++;
}

/* Whoever is told, the connection ends with it. */
TEST_WITH(harvest_reset_is_no_end_of_file, "", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    harvest_reset r = AIOLOOP_ZERO;
    aioloop_socket s[2];
    aioloop_handle h;
    int calls = 0;
    test_needs_real_descriptors(loop);
    test_socketpair(loop, s);
    peer.keep_open = true;
    r.peer = &peer;
    r.watched = s[0];
    r.far = harvest_tcp(loop, &test_protocol, &peer);
    CHECK_EQ(aioloop_add_reader(loop, s[0], harvest_count, &calls), 0);
    test_spin(loop, 2);
    CHECK_EQ(send(r.far, harvest_bytes, 30000, MSG_NOSIGNAL), 30000); /* so much is read in another way from then on */
    test_run_until_received(loop, &peer, 30000);
    test_spin(loop, 2);
    h = aioloop_call_soon(loop, harvest_reset_and_write, &r);
    CHECK(!aioloop_handle_is_null(&h));
    test_run_until(loop, &peer.lost, 1, "the loss");
    CHECK_EQ(r.ran, 1);
    CHECK_EQ(peer.eof, 0);
    CHECK(peer.error == AIOLOOP_ECONNRESET || peer.error == AIOLOOP_EPIPE);
    test_peer_drop(&peer);
    test_close_socket(loop, s[0]);
    test_close_socket(loop, s[1]);
    test_end(loop);
}

/* ---- many writes of several pieces ---- */

enum { HARVEST_WRITERS = 20 };

static void harvest_write_to_all(aioloop *loop, void *arg) {
    test_peer *peers = (test_peer *)arg;
    int i;
    (void)loop;
    for (i = 0; i < HARVEST_WRITERS; i++) {
        CHECK_EQ(aioloop_transport_write(peers[i].transport, harvest_bytes, 1000), 0);
        CHECK_EQ(aioloop_transport_write(peers[i].transport, harvest_bytes + 1000, 3000), 0);
    }
}

TEST_WITH(harvest_writes_of_several_pieces_to_many_arrive, "", TEST_REAL_FDS) {
    static test_peer peers[HARVEST_WRITERS];
    aioloop *loop = test_loop();
    aioloop_socket far[HARVEST_WRITERS];
    char in[4001];
    aioloop_handle h;
    size_t i;
    test_needs_real_descriptors(loop);
    for (i = 0; i < 4000; i++)
        harvest_bytes[i] = (unsigned char)(i * 7 + i / 251);
    memset(peers, 0, sizeof(peers));
    for (i = 0; i < HARVEST_WRITERS; i++)
        far[i] = harvest_unix(loop, &peers[i]);
    h = aioloop_call_soon(loop, harvest_write_to_all, peers);
    CHECK(!aioloop_handle_is_null(&h));
    test_spin(loop, 6);
    for (i = 0; i < HARVEST_WRITERS; i++) {
        CHECK_EQ(recv(far[i], in, sizeof(in), MSG_DONTWAIT), 4000);
        CHECK_EQ(memcmp(in, harvest_bytes, 4000), 0);
        harvest_end(loop, &peers[i], far[i]);
    }
    test_end(loop);
}

/* ---- another main loop ---- */

static bool harvest_is_readable(int fd) {
    struct pollfd one;
    one.fd = fd;
    one.events = POLLIN;
    one.revents = 0;
    return poll(&one, 1, 0) == 1;
}

/* The descriptor tells what there is to do, also what there was before it was asked for, and then no more. */
TEST_WITH(harvest_descriptor_is_readable_while_there_is_something, "", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_socket far;
    int fd;
    int i;
    int n;
    test_needs_real_descriptors(loop);
    far = harvest_unix(loop, &peer);
    test_spin(loop, 2);
    CHECK_EQ(send(far, "x", 1, MSG_NOSIGNAL), 1);
    fd = aioloop_backend_fd(loop);
    if (fd >= 0) {
        CHECK(harvest_is_readable(fd) || aioloop_next_deadline(loop) <= aioloop_now(loop));
        for (i = 0; i < 3; i++) {
            for (n = 0; n < 10 && (harvest_is_readable(fd) || aioloop_next_deadline(loop) <= aioloop_now(loop)); n++)
                CHECK_GE(aioloop_run_once(loop, 0), 0);
            CHECK_EQ(peer.received, i + 1);
            CHECK_LT(n, 10);
            CHECK(!harvest_is_readable(fd));
            CHECK_EQ(send(far, "x", 1, MSG_NOSIGNAL), 1);
        }
    }
    harvest_end(loop, &peer, far);
    test_end(loop);
}
