/*
 * test_buffered.c - buffered protocols: get_buffer and buffer_updated, their sizes and errors, where they may be used, and
 * changing between the two kinds in the middle of a stream.
 */
#include "support.h"

#include <unistd.h>

#define BUFFERED_BIG (1024u * 1024u)
#define BUFFERED_STREAM 450000u

static unsigned char buffered_bytes[BUFFERED_STREAM];
static unsigned char buffered_room[BUFFERED_BIG]; /* what get_buffer lends */

static unsigned char buffered_byte(size_t i) {
    return (unsigned char)(i * 17 + i / 233 + i / 65536);
}

static void buffered_fill(void) {
    size_t i;
    if (buffered_bytes[1] != 0) /* done */
        return;
    for (i = 0; i < BUFFERED_STREAM; i++)
        buffered_bytes[i] = buffered_byte(i);
}

typedef enum buffered_act {
    BUFFERED_NOTHING,
    BUFFERED_ZERO,        /* get_buffer answers 0 */
    BUFFERED_NULL,        /* ... gives no pointer */
    BUFFERED_RAISE,       /* ... raises */
    BUFFERED_RAISE_ZERO,  /* ... raises and answers 0 */
    BUFFERED_CLOSE,       /* ... closes, and gives a buffer all the same */
    BUFFERED_ABORT_ZERO,  /* ... aborts and answers 0 */
    BUFFERED_PAUSE,       /* ... pauses reading */
    BUFFERED_TO_PLAIN,    /* ... makes the protocol a plain one */
    BUFFERED_TO_OTHER,    /* ... another buffered one */
    BUFFERED_UPDATE_RAISE,
    BUFFERED_UPDATE_CLOSE,
    BUFFERED_UPDATE_ABORT,
    BUFFERED_UPDATE_PAUSE /* buffer_updated pauses reading; a timer resumes */
} buffered_act;

typedef struct buffered_side {
    test_peer peer; /* first: the recording methods of support.c work on it */
    size_t size;    /* of the buffer */
    size_t lent;    /* what get_buffer gave last, until buffer_updated; a read that found nothing does not come to that */
    size_t place;   /* and where in the room */
    int gets;
    int updates;
    int plain; /* calls of data_received */
    buffered_act act;
    int at;   /* the act is done in this call of its method, counted from 1 */
    int acted;
    bool switching; /* changes kind after each piece */
    struct buffered_side *other;
} buffered_side;

/* Both are made in buffered_prepare, because their methods name each other's. */
static aioloop_protocol buffered_protocol;
static aioloop_protocol buffered_plain;

static void buffered_keep(buffered_side *side, const void *data, size_t size) {
    const unsigned char *at = (const unsigned char *)data;
    size_t start = side->peer.received;
    size_t i;
    CHECK(size > 0);
    for (i = 0; i < size; i++)
        if (at[i] != buffered_byte(start + i))
            FAIL("byte %lu of the stream is wrong", (unsigned long)(start + i));
    side->peer.received += size;
    side->peer.datas++;
}

static void buffered_resume(aioloop *loop, void *arg) {
    buffered_side *side = (buffered_side *)arg;
    (void)loop;
    aioloop_transport_resume_reading(side->peer.transport);
}

static void buffered_pause(buffered_side *side) {
    aioloop_timer_handle timer;
    aioloop_transport_pause_reading(side->peer.transport);
    timer = aioloop_call_later(aioloop_transport_get_loop(side->peer.transport), AIOLOOP_US(20), buffered_resume, side);
    CHECK(!aioloop_handle_is_null(&timer.handle));
}

static size_t buffered_get(aioloop_transport *transport, void *self, size_t hint, void **buffer) {
    buffered_side *side = (buffered_side *)self;
    buffered_act act = BUFFERED_NOTHING;
    (void)hint;
    CHECK_PTR(transport, side->peer.transport);
    CHECK(aioloop_transport_is_reading(transport));
    CHECK_EQ(side->peer.lost + side->peer.eof, 0);
    if (++side->gets == side->at && side->act < BUFFERED_UPDATE_RAISE) {
        act = side->act;
        side->acted++;
    }
    side->place = side->place + 1 + side->size <= BUFFERED_BIG ? side->place + 1 : 0;
    *buffer = buffered_room + side->place;
    switch (act) {
    case BUFFERED_ZERO:
        return 0;
    case BUFFERED_NULL:
        *buffer = NULL;
        break;
    case BUFFERED_RAISE:
    case BUFFERED_RAISE_ZERO:
        aioloop_raise(aioloop_transport_get_loop(transport), AIOLOOP_EIO, "on purpose");
        return act == BUFFERED_RAISE ? side->size : 0;
    case BUFFERED_CLOSE:
        aioloop_transport_close(transport);
        break;
    case BUFFERED_ABORT_ZERO:
        aioloop_transport_abort(transport);
        return 0;
    case BUFFERED_PAUSE:
        buffered_pause(side);
        return side->size; /* for nothing: it is asked again */
    case BUFFERED_TO_PLAIN:
        side->other->peer.received = side->peer.received; /* goes on in the stream */
        CHECK_EQ(aioloop_transport_set_protocol(transport, &buffered_plain, side->other), 0);
        return side->size;
    case BUFFERED_TO_OTHER:
        side->other->peer.received = side->peer.received;
        CHECK_EQ(aioloop_transport_set_protocol(transport, &buffered_protocol, side->other), 0);
        return side->size;
    default:
        break;
    }
    side->lent = side->size;
    return side->size;
}

static void buffered_updated(aioloop_transport *transport, void *self, size_t size) {
    buffered_side *side = (buffered_side *)self;
    CHECK_PTR(transport, side->peer.transport);
    CHECK(aioloop_transport_is_reading(transport));
    CHECK(size > 0);
    if (size > side->lent) /* what was not lent by this one, or more than that */
        FAIL("%lu bytes in a buffer of %lu", (unsigned long)size, (unsigned long)side->lent);
    side->lent = 0;
    buffered_keep(side, buffered_room + side->place, size);
    memset(buffered_room + side->place, 0xee, size);
    if (++side->updates == side->at && side->act >= BUFFERED_UPDATE_RAISE) {
        side->acted++;
        if (side->act == BUFFERED_UPDATE_RAISE)
            aioloop_raise(aioloop_transport_get_loop(transport), AIOLOOP_EIO, "on purpose");
        else if (side->act == BUFFERED_UPDATE_CLOSE)
            aioloop_transport_close(transport);
        else if (side->act == BUFFERED_UPDATE_ABORT)
            aioloop_transport_abort(transport);
    }
    if (side->act == BUFFERED_UPDATE_PAUSE)
        buffered_pause(side);
    if (side->switching)
        CHECK_EQ(aioloop_transport_set_protocol(transport, &buffered_plain, side), 0);
}

/* data_received of a protocol that also has get_buffer must never come. */
static void buffered_never(aioloop_transport *transport, void *self, const void *data, size_t size) {
    (void)transport;
    (void)self;
    (void)data;
    (void)size;
    FAIL("data_received of a buffered protocol");
}

static void buffered_data(aioloop_transport *transport, void *self, const void *data, size_t size) {
    buffered_side *side = (buffered_side *)self;
    CHECK_PTR(transport, side->peer.transport);
    side->plain++;
    buffered_keep(side, data, size);
    if (side->switching) {
        side->size = side->size * 5 % 3001 + 1;
        CHECK_EQ(aioloop_transport_set_protocol(transport, &buffered_protocol, side), 0);
    }
}

static void buffered_made(aioloop_transport *transport, void *self) {
    test_protocol.connection_made(transport, self);
}
static bool buffered_eof(aioloop_transport *transport, void *self) {
    return test_protocol.eof_received(transport, self);
}
static void buffered_lost(aioloop_transport *transport, void *self, int error) {
    test_protocol.connection_lost(transport, self, error);
}

static void buffered_prepare(void) {
    memset(&buffered_protocol, 0, sizeof(buffered_protocol));
    buffered_protocol.connection_made = buffered_made;
    buffered_protocol.eof_received = buffered_eof;
    buffered_protocol.connection_lost = buffered_lost;
    buffered_plain = buffered_protocol;
    buffered_plain.data_received = buffered_data;
    buffered_protocol.data_received = buffered_never;
    buffered_protocol.get_buffer = buffered_get;
    buffered_protocol.buffer_updated = buffered_updated;
}

/* Connects a buffered side to a plain peer. */
static void buffered_begin(aioloop *loop, buffered_side *side, test_peer *b, size_t size) {
    aioloop_socket s[2];
    buffered_prepare();
    buffered_fill();
    memset(side, 0, sizeof(*side));
    memset(b, 0, sizeof(*b));
    side->size = size;
    test_socketpair(loop, s);
    test_adopt(loop, &buffered_protocol, side, s[0]);
    test_adopt(loop, &test_protocol, b, s[1]);
    CHECK_EQ(side->gets, 0); /* not before there is something to read */
}

/* ---- reading ---- */

TEST(a_buffer_is_asked_for_before_each_read, "BUF-01") {
    static const size_t sizes[] = {1, 7, 64, 4096, 65536, 65537, BUFFERED_BIG};
    aioloop *loop = test_loop();
    size_t i;
    for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        buffered_side a;
        test_peer b;
        size_t total = sizes[i] < 64 ? 3000 : 400000;
        buffered_begin(loop, &a, &b, sizes[i]);
        CHECK_EQ(aioloop_transport_write(b.transport, buffered_bytes, 1), 0);
        test_run_until_received(loop, &a.peer, 1);
        CHECK_EQ(aioloop_transport_write(b.transport, buffered_bytes + 1, total - 1), 0);
        aioloop_transport_close(b.transport);
        test_run_until_received(loop, &a.peer, total);
        test_run_until(loop, &a.peer.lost, 1, "the loss");
        CHECK_EQ(a.peer.received, total);
        CHECK_GE(a.gets, a.updates);
        CHECK_GE((size_t)a.updates * sizes[i], total);
        CHECK_EQ(a.peer.eof, 1);
        CHECK_EQ(a.peer.error, 0);
        test_end_pair(loop, &a.peer, &b);
    }
    test_end(loop);
}

/* An end that waits together with many small reads comes after the last of them. */
TEST(a_buffered_protocol_gets_everything_before_the_end, "BUF-01 TRN-19") {
    aioloop *loop = test_loop();
    buffered_side a;
    test_peer b;
    buffered_begin(loop, &a, &b, 3);
    aioloop_transport_pause_reading(a.peer.transport);
    CHECK_EQ(aioloop_transport_write(b.transport, buffered_bytes, 1000), 0);
    CHECK_EQ(aioloop_transport_write_eof(b.transport), 0);
    test_run_for(loop, AIOLOOP_MS(2));
    CHECK_EQ(a.gets, 0);
    aioloop_transport_resume_reading(a.peer.transport);
    test_run_until(loop, &a.peer.eof, 1, "the end of file");
    CHECK_EQ(a.peer.received, 1000);
    test_run_until(loop, &a.peer.lost, 1, "the loss");
    test_end_pair(loop, &a.peer, &b);
    test_end(loop);
}

TEST(pausing_in_buffer_updated_stops_at_once, "BUF-01 TRN-12") {
    static const size_t sizes[] = {1, 10, 5000};
    aioloop *loop = test_loop();
    size_t i;
    for (i = 0; i < 3; i++) {
        buffered_side a;
        test_peer b;
        size_t total = sizes[i] * 30 + 1;
        buffered_begin(loop, &a, &b, sizes[i]);
        a.act = BUFFERED_UPDATE_PAUSE; /* the methods check that they come to a reading transport only */
        CHECK_EQ(aioloop_transport_write(b.transport, buffered_bytes, total), 0);
        test_run_until_received(loop, &a.peer, total);
        CHECK_EQ(a.peer.received, total);
        test_run_for(loop, AIOLOOP_MS(1)); /* the last timer */
        test_end_pair(loop, &a.peer, &b);
    }
    test_end(loop);
}

TEST(pausing_in_get_buffer_puts_the_read_off, "BUF-01 TRN-12") {
    aioloop *loop = test_loop();
    buffered_side a;
    test_peer b;
    buffered_begin(loop, &a, &b, 10);
    a.act = BUFFERED_PAUSE;
    a.at = 2;
    CHECK_EQ(aioloop_transport_write(b.transport, buffered_bytes, 100), 0);
    test_run_until(loop, &a.acted, 1, "get_buffer");
    CHECK_LE(a.peer.received, 10);
    test_run_until_received(loop, &a.peer, 100);
    test_end_pair(loop, &a.peer, &b);
    CHECK_EQ(test_reports(), 0);
    test_end(loop);
}

/* ---- errors ---- */

TEST(no_buffer_and_errors_are_reported_and_end_the_connection, "BUF-02") {
    static const struct {
        buffered_act act;
        int error;
        int reports;
    } cases[] = {{BUFFERED_ZERO, AIOLOOP_EINVAL, 1},       {BUFFERED_NULL, AIOLOOP_EINVAL, 1},
                 {BUFFERED_RAISE, AIOLOOP_EIO, 1},         {BUFFERED_RAISE_ZERO, AIOLOOP_EIO, 1},
                 {BUFFERED_UPDATE_RAISE, AIOLOOP_EIO, 1},  {BUFFERED_CLOSE, 0, 0},
                 {BUFFERED_ABORT_ZERO, 0, 0},              {BUFFERED_UPDATE_CLOSE, 0, 0},
                 {BUFFERED_UPDATE_ABORT, 0, 0}};
    aioloop *loop = test_loop();
    size_t i;
    int at;
    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (at = 1; at <= 3; at += 2) { /* at the first read, and in the middle */
            buffered_side a;
            test_peer b;
            buffered_begin(loop, &a, &b, 10);
            a.act = cases[i].act;
            a.at = at;
            CHECK_EQ(aioloop_transport_write(b.transport, buffered_bytes, 100), 0);
            test_run_until(loop, &a.acted, 1, "the act");
            CHECK(aioloop_transport_is_closing(a.peer.transport));
            test_run_until(loop, &a.peer.lost, 1, "the loss");
            test_run_until(loop, &b.lost, 1, "the peer's loss");
            CHECK_EQ(a.peer.error, cases[i].error);
            CHECK_EQ(a.acted, 1);
            CHECK_EQ(a.updates, cases[i].act >= BUFFERED_UPDATE_RAISE ? at : at - 1);
            CHECK_LE(a.peer.received, 10 * (size_t)a.updates);
            CHECK_EQ(a.peer.eof, 0);
            CHECK_EQ(test_reports(), cases[i].reports);
            if (cases[i].reports != 0) {
                CHECK_EQ(test_report_at(0)->context.error, cases[i].error);
                CHECK_PTR(test_report_at(0)->context.transport, a.peer.transport);
                CHECK(test_report_at(0)->context.protocol == &buffered_protocol);
                CHECK(strlen(test_report_at(0)->message) != 0);
            }
            test_reports_clear();
            test_end_pair(loop, &a.peer, &b);
        }
    }
    test_end(loop);
}

/* ---- changing the kind ---- */

TEST(changing_the_kind_in_mid_stream_loses_nothing, "BUF-01 TRN-16") {
    static const size_t sizes[] = {1, 100, 3000};
    aioloop *loop = test_loop();
    size_t i;
    for (i = 0; i < 3; i++) {
        buffered_side a;
        test_peer b;
        size_t total = 0;
        buffered_begin(loop, &a, &b, sizes[i]);
        a.switching = true; /* at each piece, from inside the method */
        while (total < 300000) {
            size_t n = total % 7001 + 1;
            CHECK_EQ(aioloop_transport_write(b.transport, buffered_bytes + total, n), 0);
            total += n;
            if (total % 2 == 0)
                test_spin(loop, 1);
        }
        aioloop_transport_close(b.transport);
        test_run_until_received(loop, &a.peer, total);
        test_run_until(loop, &a.peer.lost, 1, "the loss");
        CHECK_EQ(a.peer.received, total);
        CHECK_GT(a.plain, 0);
        CHECK_GT(a.updates, 0);
        test_end_pair(loop, &a.peer, &b);
    }
    test_end(loop);
}

TEST(changing_the_kind_from_outside_loses_nothing, "BUF-01 TRN-16") {
    aioloop *loop = test_loop();
    buffered_side a;
    test_peer b;
    int i;
    buffered_begin(loop, &a, &b, 50);
    CHECK_EQ(aioloop_transport_write(b.transport, buffered_bytes, 200000), 0);
    for (i = 0; a.peer.received < 200000; i++) {
        CHECK_LT(i, 100000);
        if (i % 5 == 3)
            aioloop_transport_pause_reading(a.peer.transport);
        CHECK_EQ(aioloop_transport_set_protocol(a.peer.transport, i % 2 == 0 ? &buffered_plain : &buffered_protocol, &a), 0);
        aioloop_transport_resume_reading(a.peer.transport);
        test_spin(loop, 1);
    }
    test_end_pair(loop, &a.peer, &b);
    CHECK_EQ(a.peer.received, 200000);
    test_end(loop);
}

/* The one that was asked is no more the protocol when bytes are read: they go to the new one, by its own rules. */
TEST(changing_the_protocol_in_get_buffer_loses_nothing, "BUF-01 TRN-16") {
    aioloop *loop = test_loop();
    int how;
    for (how = 0; how < 2; how++) {
        buffered_side a;
        buffered_side other;
        test_peer b;
        size_t before;
        buffered_begin(loop, &a, &b, 10);
        memset(&other, 0, sizeof(other));
        other.size = 20;
        other.peer.transport = aioloop_transport_ref(a.peer.transport);
        a.other = &other;
        a.act = how == 0 ? BUFFERED_TO_PLAIN : BUFFERED_TO_OTHER;
        a.at = 3;
        CHECK_EQ(aioloop_transport_write(b.transport, buffered_bytes, 1000), 0);
        test_run_until(loop, &a.acted, 1, "get_buffer");
        before = a.peer.received;
        CHECK_GE(before, 2);
        test_run_until_received(loop, &other.peer, 1000);
        CHECK_EQ(a.peer.received, before);
        CHECK_EQ(other.peer.received, 1000);
        CHECK_EQ(other.plain == 0, how == 1);
        CHECK_EQ(other.updates == 0, how == 0);
        aioloop_transport_abort(a.peer.transport);
        test_run_until(loop, &other.peer.lost, 1, "the loss");
        test_run_until(loop, &b.lost, 1, "the peer's loss");
        CHECK_EQ(a.peer.lost, 0);
        test_peer_drop(&a.peer);
        test_peer_drop(&other.peer);
        test_peer_drop(&b);
    }
    test_end(loop);
}

/* ---- where they may be used ---- */

TEST(servers_and_clients_take_buffered_protocols, "BUF-03") {
    aioloop *loop = test_loop();
    test_peer server_side = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_server *server;
    int port = 0;
    server_side.echo = true;
    server = test_serve(loop, &test_buffered_protocol, &server_side, &port);
    aioloop_transport_unref(test_dial(loop, &test_buffered_protocol, &client, port));
    CHECK_EQ(aioloop_transport_write(client.transport, "to the server and back", 22), 0);
    test_run_until_received(loop, &client, 22);
    CHECK_MEM(client.data, "to the server and back", 22);
    aioloop_transport_close(client.transport);
    test_run_until(loop, &client.lost, 1, "the loss");
    test_run_until(loop, &server_side.lost, 1, "the server's loss");
    CHECK(strchr(client.calls, 'd') == NULL);
    CHECK(strchr(server_side.calls, 'd') == NULL);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_end_pair(loop, &client, &server_side);
    test_end(loop);
}

TEST(unix_sockets_take_buffered_protocols, "BUF-03") {
    aioloop *loop = test_loop();
    test_peer server_side = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    aioloop_transport *t = NULL;
    const char *folder = getenv("TMPDIR");
    char path[108];
    snprintf(path, sizeof(path), "%s/aioloop_buffered_%ld", folder != NULL && strlen(folder) < 60 ? folder : "/tmp",
             (long)getpid());
    server_side.echo = true;
    CHECK_EQ(aioloop_run_until_complete(
                 loop, aioloop_create_unix_server(loop, &test_buffered_protocol, &server_side, path, NULL), &server),
             1);
    CHECK_EQ(aioloop_run_until_complete(
                 loop, aioloop_create_unix_connection(loop, &test_buffered_protocol, &client, path, NULL), &t),
             0);
    CHECK_EQ(aioloop_transport_write(t, "there and back", 14), 0);
    aioloop_transport_unref(t);
    test_run_until_received(loop, &client, 14);
    CHECK_MEM(client.data, "there and back", 14);
    aioloop_transport_close(client.transport);
    test_run_until(loop, &client.lost, 1, "the loss");
    test_run_until(loop, &server_side.lost, 1, "the server's loss");
    CHECK(strchr(client.calls, 'd') == NULL);
    CHECK(strchr(server_side.calls, 'd') == NULL);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_end_pair(loop, &client, &server_side);
    test_end(loop);
}
