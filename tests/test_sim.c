/*
 * test_sim.c - the simulated back end as its users see it: virtual time, delays that keep the order, partitions, broken
 * connections, runs that replay exactly, and what its functions answer to arguments that make no sense or on other
 * back ends.
 */
#include "support.h"

#include <time.h>

/* ---- helpers ---- */

static void sim_only(aioloop *loop) {
    if (!test_simulated(loop)) {
        test_end(loop);
        SKIP("for the simulated back end");
    }
}

static aioloop *sim_loop(const char *backend) {
    aioloop_config config = AIOLOOP_ZERO;
    config.backend = backend;
    return test_loop_with(&config);
}

/* A simulated loop, if this run is of a simulated back end. */
static aioloop *sim_begin(void) {
    aioloop *loop = test_loop();
    sim_only(loop);
    return loop;
}

static void sim_end_pair(aioloop *loop, test_peer *a, test_peer *b) {
    aioloop_transport_abort(a->transport);
    test_run_until(loop, &a->lost, 1, "the loss");
    test_run_until(loop, &b->lost, 1, "the other loss");
    test_peer_drop(a);
    test_peer_drop(b);
}

/* One pass of at most a second, of a number of passes that nothing here needs. */
static void sim_pass(aioloop *loop, int *passes) {
    CHECK_GE(aioloop_run_once(loop, AIOLOOP_SECONDS(1)), 0);
    CHECK_LT(++*passes, 5000);
}

/* Until a peer has got so many bytes, in however many parts. */
static void sim_receive(aioloop *loop, const test_peer *peer, size_t wanted) {
    int passes = 0;
    while (peer->received < wanted)
        sim_pass(loop, &passes);
    CHECK_EQ(peer->received, wanted);
}

static void sim_add(aioloop *loop, void *arg) {
    (void)loop;
    ++*(int *)arg;
}

/* When a peer got something, on the clock of its loop. */
static aioloop_time sim_arrived;

static void sim_on_data(test_peer *peer, const void *data, size_t size) {
    (void)data;
    (void)size;
    sim_arrived = aioloop_now(aioloop_transport_get_loop(peer->transport));
}

static void sim_on_end(test_peer *peer) {
    sim_arrived = aioloop_now(aioloop_transport_get_loop(peer->transport));
}

/* ---- time ---- */

TEST(sim_time_is_virtual, "") {
    aioloop *loop = sim_begin();
    aioloop_time start = aioloop_now(loop);
    aioloop_timer_handle timer;
    time_t really = time(NULL);
    int hour = 0;
    int year = 0;
    test_spin(loop, 100);
    CHECK_EQ(aioloop_now(loop), start); /* it passes only in waiting */
    timer = aioloop_call_later(loop, AIOLOOP_SECONDS(3600), sim_add, &hour);
    CHECK(!aioloop_handle_is_null(&timer.handle));
    timer = aioloop_call_later(loop, AIOLOOP_SECONDS(3600.0 * 24 * 365), sim_add, &year);
    CHECK(!aioloop_handle_is_null(&timer.handle));
    CHECK_EQ(aioloop_run_once(loop, AIOLOOP_SECONDS(1800)), 0); /* no further than allowed */
    CHECK_EQ(aioloop_now(loop), start + AIOLOOP_SECONDS(1800));
    CHECK_EQ(hour, 0);
    while (hour == 0)
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_FOREVER), 0);
    CHECK_EQ(aioloop_now(loop), start + AIOLOOP_SECONDS(3600)); /* not early, and to the nanosecond */
    CHECK_EQ(year, 0);
    while (year == 0)
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_FOREVER), 0);
    CHECK_EQ(aioloop_now(loop), start + AIOLOOP_SECONDS(3600.0 * 24 * 365));
    CHECK_LT((long long)(time(NULL) - really), 3600);
    test_end(loop);
}

/* What goes on without a pause needs no time, however many passes it takes. */
TEST(sim_time_stands_while_there_is_something_to_do, "") {
    aioloop *loop = sim_begin();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    static char bytes[200000];
    aioloop_time start;
    int passes = 0;
    test_connect_pair(loop, &a, &b);
    start = aioloop_now(loop);
    CHECK_EQ(aioloop_transport_write(a.transport, bytes, sizeof(bytes)), 0);
    while (b.received < sizeof(bytes)) {
        sim_pass(loop, &passes);
        CHECK_EQ(aioloop_now(loop), start);
    }
    sim_end_pair(loop, &a, &b);
    test_end(loop);
}

/* ---- delays ---- */

TEST(sim_delay_is_kept_exactly, "") {
    aioloop *loop = sim_begin();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_time start;
    b.on_data = sim_on_data;
    b.on_eof = sim_on_end;
    test_connect_pair(loop, &a, &b);
    CHECK_EQ(aioloop_sim_set_delay(loop, AIOLOOP_MS(30), AIOLOOP_MS(30)), 0);
    start = aioloop_now(loop);
    CHECK_EQ(aioloop_transport_write(a.transport, "x", 1), 0);
    test_spin(loop, 20);
    CHECK_EQ(b.datas, 0);
    test_run_until(loop, &b.datas, 1, "the byte");
    CHECK_EQ(sim_arrived - start, AIOLOOP_MS(30));
    /* The end of the stream is under way as long. */
    start = aioloop_now(loop);
    aioloop_transport_close(a.transport);
    test_run_until(loop, &b.eof, 1, "the end");
    CHECK_EQ(sim_arrived - start, AIOLOOP_MS(30));
    test_run_until(loop, &b.lost, 1, "the loss");
    test_run_until(loop, &a.lost, 1, "the other loss");
    test_peer_drop(&a);
    test_peer_drop(&b);
    test_end(loop);
}

TEST(sim_delay_of_connecting, "") {
    aioloop *loop = sim_begin();
    test_peer served = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_time start;
    int port = 0;
    aioloop_server *server = test_serve(loop, &test_protocol, &served, &port);
    CHECK_EQ(aioloop_sim_set_delay(loop, AIOLOOP_MS(5), AIOLOOP_MS(9)), 0);
    start = aioloop_now(loop);
    aioloop_transport_unref(test_dial(loop, &test_protocol, &client, port));
    CHECK_GE(aioloop_now(loop) - start, AIOLOOP_MS(5));
    CHECK_LE(aioloop_now(loop) - start, AIOLOOP_MS(9));
    test_run_until(loop, &served.made, 1, "the accept");
    sim_end_pair(loop, &client, &served);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_end(loop);
}

/* Each piece has a delay of its own, but none overtakes another. */
TEST(sim_delays_keep_the_order, "") {
    aioloop *loop = sim_begin();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_time start;
    unsigned char bytes[200];
    size_t i;
    test_connect_pair(loop, &a, &b);
    CHECK_EQ(aioloop_sim_set_delay(loop, AIOLOOP_MS(1), AIOLOOP_MS(100)), 0);
    start = aioloop_now(loop);
    for (i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (unsigned char)i;
        CHECK_EQ(aioloop_transport_write(a.transport, &bytes[i], 1), 0);
        if (i % 10 == 9) {
            test_spin(loop, 8); /* a piece of ten */
            CHECK_EQ(aioloop_now(loop), start);
        }
    }
    sim_receive(loop, &b, sizeof(bytes));
    CHECK_MEM(b.data, bytes, sizeof(bytes));
    CHECK_GE(aioloop_now(loop) - start, AIOLOOP_MS(1));
    CHECK_LE(aioloop_now(loop) - start, AIOLOOP_MS(100));
    sim_end_pair(loop, &a, &b);
    test_end(loop);
}

TEST(sim_delays_are_drawn_anew, "") {
    aioloop *loop = sim_begin();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_time last = 0;
    int differ = 0;
    int i;
    b.on_data = sim_on_data;
    test_connect_pair(loop, &a, &b);
    CHECK_EQ(aioloop_sim_set_delay(loop, AIOLOOP_MS(1), AIOLOOP_MS(100)), 0);
    for (i = 1; i <= 10; i++) {
        aioloop_time start = aioloop_now(loop);
        CHECK_EQ(aioloop_transport_write(a.transport, "x", 1), 0);
        test_run_until(loop, &b.datas, i, "the byte");
        CHECK_GE(sim_arrived - start, AIOLOOP_MS(1));
        CHECK_LE(sim_arrived - start, AIOLOOP_MS(100));
        differ += sim_arrived - start != last;
        last = sim_arrived - start;
    }
    CHECK_GT(differ, 5);
    sim_end_pair(loop, &a, &b);
    test_end(loop);
}

/* ---- room ---- */

TEST(sim_buffer_makes_a_sender_wait, "") {
    aioloop *loop = sim_begin();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    static char bytes[80000]; /* above the high mark */
    size_t left;
    int passes = 0;
    CHECK_EQ(aioloop_sim_set_buffer(loop, 2000), 0);
    test_connect_pair(loop, &a, &b);
    aioloop_transport_pause_reading(b.transport);
    CHECK_EQ(aioloop_transport_write(a.transport, bytes, sizeof(bytes)), 0);
    test_run_for(loop, AIOLOOP_SECONDS(1)); /* time passes when all that can go has gone */
    left = aioloop_transport_get_write_buffer_size(a.transport);
    CHECK_GT(left, 0);
    CHECK_LE(left, sizeof(bytes) - 2000);
    test_run_for(loop, AIOLOOP_SECONDS(1));
    CHECK_EQ(aioloop_transport_get_write_buffer_size(a.transport), left);
    CHECK_EQ(a.paused, 1);
    CHECK_EQ(b.datas, 0);
    aioloop_transport_resume_reading(b.transport);
    while (b.received < sizeof(bytes))
        sim_pass(loop, &passes);
    test_run_until(loop, &a.resumed, 1, "resume_writing");
    while (aioloop_transport_get_write_buffer_size(a.transport) != 0) /* the end of a send may be told late */
        sim_pass(loop, &passes);
    sim_end_pair(loop, &a, &b);
    test_end(loop);
}

/* ---- trouble ---- */

TEST(sim_partition_holds_everything_back, "") {
    aioloop *loop = sim_begin();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    test_peer served = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_server *server;
    aioloop_time start;
    int port = 0;
    test_connect_pair(loop, &a, &b);
    server = test_serve(loop, &test_protocol, &served, &port);
    CHECK_EQ(aioloop_sim_set_partition(loop, true), 0);
    CHECK_EQ(aioloop_transport_write(a.transport, "late", 4), 0);
    test_run_for(loop, AIOLOOP_SECONDS(7200));
    CHECK_EQ(b.datas, 0);
    CHECK_EQ(b.lost, 0); /* nobody is told: nobody knows */
    CHECK_EQ(a.lost, 0);
    /* A connect hangs, until it has enough. */
    options.timeout = AIOLOOP_SECONDS(60);
    start = aioloop_now(loop);
    CHECK_EQ(aioloop_run_until_complete(
                 loop, aioloop_create_connection(loop, &test_protocol, &client, "127.0.0.1", port, &options), NULL),
             AIOLOOP_ETIMEDOUT);
    CHECK_EQ(aioloop_now(loop) - start, AIOLOOP_SECONDS(60));
    CHECK_EQ(served.made, 0);
    CHECK_EQ(aioloop_sim_set_partition(loop, true), 0);
    CHECK_EQ(aioloop_sim_set_partition(loop, false), 0);
    sim_receive(loop, &b, 4);
    CHECK_MEM(b.data, "late", 4);
    CHECK_EQ(aioloop_transport_write(b.transport, "back", 4), 0);
    test_run_until(loop, &a.datas, 1, "the way back");
    aioloop_transport_unref(test_dial(loop, &test_protocol, &client, port));
    test_run_until(loop, &served.made, 1, "the accept");
    sim_end_pair(loop, &client, &served);
    sim_end_pair(loop, &a, &b);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_end(loop);
}

TEST(sim_break_fails_both_ends, "") {
    static const int errors[] = {AIOLOOP_ECONNRESET, AIOLOOP_ETIMEDOUT, AIOLOOP_EHOSTUNREACH};
    aioloop *loop = sim_begin();
    int i;
    for (i = 0; i < 3; i++) {
        test_peer a = AIOLOOP_ZERO;
        test_peer b = AIOLOOP_ZERO;
        test_connect_pair(loop, &a, &b);
        CHECK_EQ(aioloop_transport_write(a.transport, "seen", 4), 0);
        sim_receive(loop, &b, 4);
        CHECK_EQ(aioloop_sim_set_delay(loop, AIOLOOP_SECONDS(1), AIOLOOP_SECONDS(1)), 0);
        CHECK_EQ(aioloop_transport_write(a.transport, "lost", 4), 0);
        test_spin(loop, 10);
        CHECK_EQ(aioloop_sim_break(i == 1 ? b.transport : a.transport, errors[i]), 0);
        CHECK_EQ(a.lost + b.lost, 0);                                        /* nobody is called from inside */
        CHECK_EQ(aioloop_sim_break(a.transport, errors[i]), AIOLOOP_EINVAL); /* it is broken */
        test_run_until(loop, &a.lost, 1, "the loss");
        test_run_until(loop, &b.lost, 1, "the other loss");
        CHECK_EQ(a.error, errors[i]);
        CHECK_EQ(b.error, errors[i]);
        CHECK_EQ(b.received, 4); /* what was under way is lost */
        CHECK_EQ(a.eof + b.eof, 0);
        CHECK_EQ(aioloop_sim_break(a.transport, errors[i]), AIOLOOP_EINVAL); /* it has no connection */
        CHECK_EQ(aioloop_sim_set_delay(loop, 0, 0), 0);
        test_peer_drop(&a);
        test_peer_drop(&b);
    }
    test_end(loop);
}

/* A writer finds out too, without reading. */
TEST(sim_break_fails_a_writer_that_does_not_read, "") {
    aioloop *loop = sim_begin();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    test_connect_pair(loop, &a, &b);
    aioloop_transport_pause_reading(a.transport);
    test_spin(loop, 4);
    CHECK_EQ(aioloop_sim_break(b.transport, AIOLOOP_ETIMEDOUT), 0);
    CHECK_EQ(aioloop_transport_write(a.transport, "x", 1), 0);
    test_run_until(loop, &a.lost, 1, "the loss");
    CHECK_EQ(a.error, AIOLOOP_ETIMEDOUT);
    test_run_until(loop, &b.lost, 1, "the other loss");
    CHECK_EQ(b.error, AIOLOOP_ETIMEDOUT);
    test_peer_drop(&a);
    test_peer_drop(&b);
    test_end(loop);
}

typedef struct sim_breaking {
    test_peer peer; /* first: the recording methods of support.c work on it */
    aioloop_transport *which;
    int gets;
    int at; /* breaks in this call of get_buffer */
    bool broken;
    char room[4];
} sim_breaking;

static aioloop_protocol sim_breaking_protocol;

static size_t sim_breaking_get(aioloop_transport *transport, void *self, size_t hint, void **buffer) {
    sim_breaking *s = (sim_breaking *)self;
    (void)transport;
    (void)hint;
    CHECK_EQ(s->peer.lost, 0);
    if (++s->gets == s->at) {
        CHECK_EQ(aioloop_sim_break(s->which, AIOLOOP_ECONNRESET), 0);
        CHECK_EQ(s->peer.lost, 0); /* nobody is told from inside */
        s->broken = true;
    }
    *buffer = s->room;
    return sizeof(s->room);
}

static void sim_breaking_updated(aioloop_transport *transport, void *self, size_t size) {
    sim_breaking *s = (sim_breaking *)self;
    (void)transport;
    CHECK_LE(size, sizeof(s->room));
    CHECK(memcmp(s->room, &"0123456789abcdefghij"[s->peer.received], size) == 0);
    s->peer.received += size;
    s->peer.datas++;
}

/* The connection breaks while a buffered protocol is asked for a place. What the place is for is lost, unless the engine had
 * taken it from the network already, as a delayed one may: then it still comes, in order, and the loss after it. */
TEST(sim_break_in_get_buffer_fails_both_ends, "") {
    aioloop *loop = sim_begin();
    const char *backend = getenv("AIOLOOP_BACKEND");
    bool delayed = backend != NULL && strstr(backend, "delayed") != NULL;
    int how;
    sim_breaking_protocol = test_buffered_protocol;
    sim_breaking_protocol.get_buffer = sim_breaking_get;
    sim_breaking_protocol.buffer_updated = sim_breaking_updated;
    for (how = 0; how < 8; how++) { /* by either end, at the first or a later read, with the peer's end behind the data */
        sim_breaking a = AIOLOOP_ZERO;
        test_peer b = AIOLOOP_ZERO;
        aioloop_socket pair[2];
        bool ended = how / 4 != 0;
        test_socketpair(loop, pair);
        test_adopt(loop, &sim_breaking_protocol, &a, pair[0]);
        test_adopt(loop, &test_protocol, &b, pair[1]);
        a.which = how % 2 == 0 ? a.peer.transport : b.transport;
        a.at = how / 2 % 2 == 0 ? 1 : 3;
        CHECK_EQ(aioloop_transport_write(b.transport, "0123456789abcdefghij", 20), 0);
        if (ended)
            CHECK_EQ(aioloop_transport_write_eof(b.transport), 0);
        test_run_until(loop, &a.peer.lost, 1, "the loss");
        test_run_until(loop, &b.lost, 1, "the other loss");
        test_spin(loop, 5);
        CHECK_EQ(a.peer.lost, 1);
        CHECK_EQ(b.lost, 1);
        CHECK(a.broken);
        if (delayed) {
            CHECK_GE(a.peer.datas, a.at - 1);
            CHECK_LE(a.peer.received, 20);
        } else {
            CHECK_EQ(a.gets, a.at);
            CHECK_EQ(a.peer.datas, a.at - 1);
            CHECK_EQ(a.peer.received, 4 * (size_t)(a.at - 1));
        }
        CHECK_STR(a.peer.calls, "ml");
        CHECK_EQ(a.peer.eof, 0);
        CHECK_EQ(a.peer.error, AIOLOOP_ECONNRESET);
        CHECK_EQ(b.error, AIOLOOP_ECONNRESET);
        CHECK_EQ(test_reports(), 0);
        test_peer_drop(&a.peer);
        test_peer_drop(&b);
    }
    test_end(loop);
}

/* ---- the network ---- */

/* It is the loop's own memory: the same port of another loop is another port, and beyond loopback there is nobody. */
TEST(sim_network_is_the_loops_own, "CONN-03") {
    aioloop *loop = sim_begin();
    aioloop *other = sim_loop("sim");
    test_peer served = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    int port = 0;
    aioloop_server *server = test_serve(loop, &test_protocol, &served, &port);
    CHECK_EQ(aioloop_run_until_complete(
                 other, aioloop_create_connection(other, &test_protocol, &client, "127.0.0.1", port, NULL), NULL),
             AIOLOOP_ECONNREFUSED);
    CHECK_EQ(aioloop_run_until_complete(
                 loop, aioloop_create_connection(loop, &test_protocol, &client, "198.51.100.7", port, NULL), NULL),
             AIOLOOP_ECONNREFUSED);
    CHECK_EQ(
        aioloop_run_until_complete(
            loop, aioloop_create_connection(loop, &test_protocol, &client, "127.0.0.1", port == 1 ? 2 : 1, NULL), NULL),
        AIOLOOP_ECONNREFUSED);
    CHECK_EQ(client.made, 0);
    aioloop_transport_unref(test_dial(loop, &test_protocol, &client, port));
    test_run_until(loop, &served.made, 1, "the accept");
    sim_end_pair(loop, &client, &served);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_end(other);
    test_end(loop);
}

TEST(sim_sockets_are_the_callers_until_given_away, "") {
    aioloop *loop = sim_begin();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_socket pair[2];
    aioloop_socket more[2];
    const void *sock;
    CHECK_EQ(aioloop_sim_socketpair(loop, pair), 0);
    CHECK_NE(pair[0], pair[1]);
    CHECK_EQ(aioloop_sim_close(loop, pair[0]), 0);
    CHECK_EQ(aioloop_sim_close(loop, pair[0]), AIOLOOP_EBADF);
    /* The one that is left: its stream has ended. */
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_connect_accepted_socket(loop, &test_protocol, &a, pair[1], NULL),
                                        NULL),
             0);
    test_run_until(loop, &a.lost, 1, "the end");
    CHECK_STR(a.calls, "mel");
    test_peer_drop(&a);
    CHECK_EQ(aioloop_sim_close(loop, pair[1]), AIOLOOP_EBADF); /* the transport has closed it */
    memset(&a, 0, sizeof(a));
    test_connect_pair(loop, &a, &b);
    sock = aioloop_transport_get_extra_info(a.transport, "socket", NULL);
    CHECK(sock != NULL);
    CHECK_LT(aioloop_sim_close(loop, *(const aioloop_socket *)sock), 0);
    CHECK_EQ(aioloop_transport_write(a.transport, "x", 1), 0);
    test_run_until(loop, &b.datas, 1, "the byte");
    sim_end_pair(loop, &a, &b);
    CHECK_EQ(aioloop_sim_close(loop, -1), AIOLOOP_EBADF);
    CHECK_EQ(aioloop_sim_close(loop, 0), AIOLOOP_EBADF);
    CHECK_EQ(aioloop_sim_socketpair(loop, more), 0); /* freed with the loop */
    test_end(loop);
}

/* ---- the seed ---- */

/* One run with everything in it, and a mark for all that happened: who got what, when, in which order. */
static uint64_t sim_mark;

static void sim_mark_number(uint64_t n) {
    int i;
    for (i = 0; i < 64; i += 8) {
        sim_mark ^= n >> i & 255;
        sim_mark *= UINT64_C(0x100000001b3);
    }
}

static void sim_mark_now(test_peer *peer, unsigned what) {
    sim_mark_number(what);
    sim_mark_number((uint64_t)(size_t)peer->received);
    sim_mark_number((uint64_t)(*(int *)peer->user));
    sim_mark_number((uint64_t)aioloop_now(aioloop_transport_get_loop(peer->transport)));
}

static void sim_mark_data(test_peer *peer, const void *data, size_t size) {
    (void)data;
    sim_mark_number((uint64_t)size);
    sim_mark_now(peer, 'd');
}

static void sim_mark_made(test_peer *peer) {
    sim_mark_now(peer, 'm');
}

static void sim_mark_lost(test_peer *peer) {
    sim_mark_now(peer, 'l');
    sim_mark_number((uint64_t)(int64_t)peer->error);
}

static uint64_t sim_run(const char *backend) {
    static char bytes[3000];
    aioloop *loop = sim_loop(backend);
    test_peer peers[6];
    int names[6];
    int passes;
    int lost = 0;
    int i;
    sim_mark = UINT64_C(0xcbf29ce484222325);
    memset(peers, 0, sizeof(peers));
    CHECK_EQ(aioloop_sim_set_delay(loop, AIOLOOP_MS(1), AIOLOOP_MS(20)), 0);
    CHECK_EQ(aioloop_sim_set_buffer(loop, 700), 0);
    for (i = 0; i < 6; i++) {
        names[i] = i;
        peers[i].user = &names[i];
        peers[i].on_made = sim_mark_made;
        peers[i].on_data = sim_mark_data;
        peers[i].on_lost = sim_mark_lost;
    }
    for (i = 0; i < 6; i += 2) {
        aioloop_socket pair[2];
        CHECK_EQ(aioloop_sim_socketpair(loop, pair), 0);
        CHECK_EQ(aioloop_run_until_complete(
                     loop, aioloop_connect_accepted_socket(loop, &test_protocol, &peers[i], pair[0], NULL), NULL),
                 0);
        CHECK_EQ(aioloop_run_until_complete(
                     loop, aioloop_connect_accepted_socket(loop, &test_protocol, &peers[i + 1], pair[1], NULL), NULL),
                 0);
    }
    for (i = 0; i < 6; i++)
        CHECK_EQ(aioloop_transport_write(peers[i].transport, bytes, 1 + aioloop_sim_random(loop, sizeof(bytes))), 0);
    for (passes = 0; passes < 10000 && lost < 6; passes++) {
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(50)), 0);
        if (passes == 5)
            CHECK_EQ(aioloop_sim_break(peers[0].transport, AIOLOOP_ECONNRESET), 0);
        if (passes == 25)
            for (i = 2; i < 6; i++)
                aioloop_transport_abort(peers[i].transport); /* both ends of them; closing could wait for ever */
        for (lost = 0, i = 0; i < 6; i++)
            lost += peers[i].lost;
    }
    CHECK_EQ(lost, 6);
    sim_mark_number((uint64_t)passes);
    for (i = 0; i < 6; i++)
        test_peer_drop(&peers[i]);
    test_end(loop);
    return sim_mark;
}

static void sim_check_replay(const char *same, const char *same_too, const char *other) {
    uint64_t first;
    uint64_t second;
    uint64_t third;
    first = sim_run(same);
    second = sim_run(same_too);
    third = sim_run(other);
    CHECK(first == second);
    CHECK(first != third);
}

TEST(sim_seed_replays_a_run_exactly, "") {
    test_end(sim_begin());
    sim_check_replay("sim,seed=7", "sim,seed=7", "sim,seed=8");
    sim_check_replay("sim", "sim,seed=1", "sim,seed=2");
}

TEST(sim_seed_replays_a_delayed_run_exactly, "") {
    test_end(sim_begin());
    sim_check_replay("sim,delayed,seed=7", "sim,seed=7,delayed", "sim,delayed,seed=9");
    sim_check_replay("sim,delayed,seed=7", "sim,delayed,seed=7", "sim,seed=7");
}

TEST(sim_random_numbers_follow_the_seed, "") {
    aioloop *one;
    aioloop *same;
    aioloop *other;
    uint32_t seen = 0;
    int differ = 0;
    int i;
    test_end(sim_begin());
    one = sim_loop("sim,seed=9223372036854775807");
    same = sim_loop("sim,seed=9223372036854775807");
    other = sim_loop("sim,seed=5");
    for (i = 0; i < 200; i++) {
        uint32_t n = aioloop_sim_random(one, 10);
        CHECK_LT(n, 10);
        seen |= 1u << n;
        CHECK_EQ(aioloop_sim_random(same, 10), n);
        differ += aioloop_sim_random(other, 10) != n;
    }
    CHECK_EQ(seen, 0x3ff); /* every one comes up */
    CHECK_GT(differ, 0);
    CHECK_EQ(aioloop_sim_random(one, 1), 0);
    CHECK_EQ(aioloop_sim_random(one, 0), 0);
    test_end(one);
    test_end(same);
    test_end(other);
}

/* ---- arguments ---- */

TEST(sim_functions_refuse_what_makes_no_sense, "") {
    aioloop *loop = sim_begin();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_socket pair[2];
    CHECK_EQ(aioloop_sim_set_delay(loop, -1, 5), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_set_delay(loop, 5, 4), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_set_delay(loop, AIOLOOP_NOT_A_TIME, AIOLOOP_NOT_A_TIME), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_set_buffer(loop, 0), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_fail_accepts(loop, 0, 1), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_fail_accepts(loop, 24, 1), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_socketpair(loop, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_socketpair(NULL, pair), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_close(NULL, 1), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_set_delay(NULL, 0, 0), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_set_buffer(NULL, 1), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_set_partition(NULL, true), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_fail_accepts(NULL, AIOLOOP_EMFILE, 1), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_break(NULL, AIOLOOP_ECONNRESET), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_random(NULL, 5), 0);
    test_connect_pair(loop, &a, &b);
    CHECK_EQ(aioloop_sim_break(a.transport, 0), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_break(a.transport, 104), AIOLOOP_EINVAL);
    /* None of that changed anything. */
    CHECK_EQ(aioloop_transport_write(a.transport, "x", 1), 0);
    test_run_until(loop, &b.datas, 1, "the byte");
    sim_end_pair(loop, &a, &b);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK_EQ(aioloop_sim_socketpair(loop, pair), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_sim_set_partition(loop, true), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_sim_random(loop, 5), 0);
    test_end(loop);
}

TEST(sim_functions_are_for_simulated_loops, "") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_socket pair[2] = {-7, -7};
    if (test_simulated(loop)) {
        test_end(loop);
        SKIP("for the other back ends");
    }
    CHECK_EQ(aioloop_sim_socketpair(loop, pair), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(pair[0], -7);
    CHECK_EQ(aioloop_sim_close(loop, 0), AIOLOOP_ENOTAVAILABLE); /* and standard input is still open */
    CHECK_EQ(aioloop_sim_set_delay(loop, 0, 0), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_sim_set_buffer(loop, 1), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_sim_set_partition(loop, true), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_sim_fail_accepts(loop, AIOLOOP_EMFILE, 1), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_sim_random(loop, 5), 0);
    test_connect_pair(loop, &a, &b);
    CHECK_EQ(aioloop_sim_break(a.transport, AIOLOOP_ECONNRESET), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_transport_write(a.transport, "x", 1), 0);
    test_run_until(loop, &b.datas, 1, "the byte");
    sim_end_pair(loop, &a, &b);
    test_end(loop);
}
