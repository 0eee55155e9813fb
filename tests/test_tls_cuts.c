/*
 * test_tls_cuts.c - somebody between a TLS client and its server who cuts, doubles, changes or delays what passes, at
 * one place of the handshake and of the first records; all of them on the simulated network, whose time costs nothing.
 *
 * Each place takes a handshake, so the suite tries a sample of them. TLS_CUTS=1 in the environment is all places (`make
 * tls-cuts`), another number every so many.
 */
#include "support.h"

#if defined(AIOLOOP_USE_TLS) && AIOLOOP_USE_TLS

static const char cut_question[] = "a question, as long as a line";
static const char cut_answer[] = "and an answer that is not quite as long as two";

enum { CUT_QUESTION = sizeof(cut_question) - 1, CUT_ANSWER = sizeof(cut_answer) - 1 };

typedef enum cut_way { CUT_NOTHING, CUT_END, CUT_ABORT, CUT_DOUBLE, CUT_FLIP, CUT_DELAY, CUT_BYTES } cut_way;

struct cut_run;

/* One direction through the middle: what one of its transports reads the other writes. */
typedef struct cut_half {
    struct cut_run *run;
    test_peer from;
    struct cut_half *other;
    bool watched; /* the one that something happens to */
    bool over;
    size_t passed;
    char held[65536];
    size_t held_size;
    aioloop_timer_handle timer;
} cut_half;

typedef struct cut_run {
    aioloop *loop;
    cut_way way;
    size_t place;
    cut_half halves[2]; /* from the client, from the server */
    test_peer near;
    test_peer far;
} cut_run;

static aioloop_ssl_context *cut_contexts[2];

static void cut_forward(cut_half *h, const char *data, size_t size) {
    if (h->other->from.lost == 0)
        aioloop_transport_write(h->other->from.transport, data, size);
    h->passed += size;
}

/* Time for more of what is held back: a byte, or all of it. */
static void cut_go_on(aioloop *loop, void *arg) {
    cut_half *h = (cut_half *)arg;
    size_t n = h->run->way == CUT_BYTES ? 1 : h->held_size;
    memset(&h->timer, 0, sizeof(h->timer));
    cut_forward(h, h->held, n);
    h->held_size -= n;
    memmove(h->held, h->held + n, h->held_size);
    if (h->held_size != 0)
        h->timer = aioloop_call_later(loop, AIOLOOP_MS(1), cut_go_on, h);
    else if (h->over)
        aioloop_transport_close(h->other->from.transport);
}

static void cut_hold(cut_half *h, const char *data, size_t size) {
    CHECK(h->held_size + size <= sizeof(h->held));
    memcpy(h->held + h->held_size, data, size);
    h->held_size += size;
    if (aioloop_handle_is_null(&h->timer.handle))
        h->timer = aioloop_call_later(h->run->loop, AIOLOOP_MS(h->run->way == CUT_BYTES ? 1 : 1500), cut_go_on, h);
}

/* The place is among these bytes. */
static void cut_strike(cut_half *h, const char *data, size_t size, size_t at) {
    char changed = (char)(data[at] ^ (1 << h->run->place % 8));
    cut_forward(h, data, at);
    switch (h->run->way) {
    case CUT_END:
        aioloop_transport_close(h->from.transport);
        aioloop_transport_close(h->other->from.transport);
        return;
    case CUT_ABORT:
        aioloop_transport_abort(h->from.transport);
        aioloop_transport_abort(h->other->from.transport);
        return;
    case CUT_DOUBLE:
        cut_forward(h, data + at, 1);
        h->passed--;
        break;
    case CUT_FLIP:
        cut_forward(h, &changed, 1);
        at++;
        break;
    case CUT_DELAY:
        cut_hold(h, data + at, size - at);
        return;
    default:
        break;
    }
    cut_forward(h, data + at, size - at);
}

static void cut_data(test_peer *peer, const void *data, size_t size) {
    cut_half *h = (cut_half *)peer->user;
    cut_way way = h->run->way;
    if (h->watched && (way == CUT_BYTES || h->held_size != 0))
        cut_hold(h, (const char *)data, size);
    else if (h->watched && way != CUT_NOTHING && h->run->place >= h->passed && h->run->place < h->passed + size)
        cut_strike(h, (const char *)data, size, h->run->place - h->passed);
    else
        cut_forward(h, (const char *)data, size);
}

/* One side has ended; the other hears of it when all of its bytes have passed. */
static void cut_lost(test_peer *peer) {
    cut_half *h = (cut_half *)peer->user;
    h->over = true;
    if (h->held_size == 0)
        aioloop_transport_close(h->other->from.transport);
}

static void cut_ask(test_peer *peer) {
    aioloop_transport_write(peer->transport, cut_question, CUT_QUESTION);
}

static void cut_reply(test_peer *peer, const void *data, size_t size) {
    (void)data;
    if (peer->received >= CUT_QUESTION && peer->received - size < CUT_QUESTION)
        aioloop_transport_write(peer->transport, cut_answer, CUT_ANSWER);
}

/* Errors that say what has happened. */
static bool cut_is_clear(int code) {
    return code == AIOLOOP_ESSL || code == AIOLOOP_ESSL_TRUNCATED || code == AIOLOOP_ESSL_ALERT || code == AIOLOOP_ESSL_CERT_VERIFY ||
           code == AIOLOOP_ESSL_HANDSHAKE || code == AIOLOOP_ESSL_CERTIFICATE || code == AIOLOOP_ECONNRESET || code == AIOLOOP_ECONNABORTED || code == AIOLOOP_EPIPE;
}

static void cut_middle(cut_run *r, int i, aioloop_socket s) {
    cut_half *h = &r->halves[i];
    h->run = r;
    h->other = &r->halves[1 - i];
    h->from.user = h;
    h->from.on_data = cut_data;
    h->from.on_lost = cut_lost;
    test_adopt(r->loop, &test_protocol, &h->from, s);
}

/* Runs at most so long, or until both are lost or, with what, have all of their bytes. */
static void cut_wait(cut_run *r, aioloop_time time, bool bytes) {
    aioloop_time end = aioloop_now(r->loop) + time;
    while (aioloop_now(r->loop) < end && (r->near.lost < r->near.made || r->far.lost < r->far.made) &&
           !(bytes && r->near.received >= CUT_ANSWER))
        CHECK_GE(aioloop_run_once(r->loop, end - aioloop_now(r->loop)), 0);
}

static void cut_check(const cut_run *r, const test_peer *peer, const char *bytes, size_t size, aioloop_future *f) {
    int code = aioloop_future_exception(f);
    CHECK_EQ(peer->made, code == 0);
    CHECK_EQ(peer->lost, peer->made);
    CHECK(peer->received <= size);
    CHECK(memcmp(peer->data, bytes, peer->received) == 0);
    CHECK(code == 0 || (cut_is_clear(code) && aioloop_error_message(aioloop_future_error(f))[0] != '\0'));
    CHECK(peer->error == 0 || peer->error == AIOLOOP_ETIMEDOUT || cut_is_clear(peer->error));
    if (r->way == CUT_NOTHING || r->way == CUT_DELAY || r->way == CUT_BYTES) {
        CHECK_EQ(code, 0);
        CHECK_EQ(peer->error, 0);
        CHECK_EQ(peer->received, size);
    }
}

/* A connection with this happening to it there. How many bytes passed in that direction. */
static size_t cut_connection(cut_way way, int direction, size_t place) {
    static cut_run r;
    aioloop_connection_options client = AIOLOOP_ZERO;
    aioloop_accepted_socket_options server = AIOLOOP_ZERO;
    aioloop_future *f[2];
    aioloop_socket near[2];
    aioloop_socket far[2];
    aioloop_time begin;
    int i;
    memset(&r, 0, sizeof(r));
    r.loop = test_loop();
    r.way = way;
    r.place = place;
    r.halves[direction].watched = true;
    test_socketpair(r.loop, near);
    test_socketpair(r.loop, far);
    cut_middle(&r, 0, near[1]);
    cut_middle(&r, 1, far[1]);
    client.sock = &near[0];
    client.ssl = cut_contexts[0];
    client.server_hostname = "localhost";
    server.ssl = cut_contexts[1];
    r.near.on_made = cut_ask;
    r.far.on_data = cut_reply;
    begin = aioloop_now(r.loop);
    f[0] = aioloop_future_ref(aioloop_create_connection(r.loop, &test_protocol, &r.near, NULL, 0, &client));
    f[1] = aioloop_future_ref(aioloop_connect_accepted_socket(r.loop, &test_buffered_protocol, &r.far, far[0], &server));
    for (i = 0; i < 2; i++)
        (void)aioloop_run_until_complete(r.loop, f[i], NULL);
    CHECK_LT(aioloop_now(r.loop) - begin, AIOLOOP_SECONDS(70)); /* the time-out's 60 */
    cut_wait(&r, AIOLOOP_SECONDS(20), true);
    aioloop_transport_close(r.near.transport);
    cut_wait(&r, AIOLOOP_SECONDS(10), false);
    aioloop_transport_close(r.far.transport);
    cut_wait(&r, AIOLOOP_SECONDS(40), false); /* the goodbye's 30 */
    cut_check(&r, &r.near, cut_answer, CUT_ANSWER, f[0]);
    cut_check(&r, &r.far, cut_question, CUT_QUESTION, f[1]);
    for (i = 0; i < 2; i++) {
        aioloop_timer_handle_cancel(&r.halves[i].timer);
        aioloop_transport_abort(r.halves[i].from.transport);
        test_run_until(r.loop, &r.halves[i].from.lost, 1, "the middle's end");
        test_peer_drop(&r.halves[i].from);
        aioloop_future_unref(f[i]);
    }
    test_peer_drop(&r.near);
    test_peer_drop(&r.far);
    CHECK_EQ(test_reports(), 0);
    test_end(r.loop);
    return r.halves[direction].passed;
}

static const char *cut_file(const char *name, char *path, size_t size) {
    const char *folder = getenv("TEST_CERTIFICATES");
    CHECK(folder != NULL);
    snprintf(path, size, "%s/%s", folder, name);
    return path;
}

static void cut_contexts_open(void) {
    char path[512];
    char key[512];
    cut_contexts[0] = aioloop_ssl_context_new(AIOLOOP_TLS_CLIENT);
    cut_contexts[1] = aioloop_ssl_context_new(AIOLOOP_TLS_SERVER);
    CHECK(cut_contexts[0] != NULL && cut_contexts[1] != NULL);
    CHECK_EQ(aioloop_ssl_context_load_verify_locations(cut_contexts[0], cut_file("ca.pem", path, sizeof(path)), NULL), 1);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain(cut_contexts[1], cut_file("server.pem", path, sizeof(path)),
                                                 cut_file("server.key", key, sizeof(key)), NULL), 0);
}

static void cut_everywhere(cut_way way) {
    const char *step = getenv("TLS_CUTS");
    aioloop *loop = test_loop();
    bool simulated = test_simulated(loop);
    int direction;
    test_end(loop);
    if (!simulated)
        SKIP("on the simulated network only");
    cut_contexts_open();
    for (direction = 0; direction < 2; direction++) {
        size_t passed = cut_connection(CUT_NOTHING, direction, 0);
        size_t stride = step != NULL ? (size_t)strtoul(step, NULL, 10) : 101;
        size_t place;
        CHECK_LT(200, passed);
        if (way == CUT_BYTES)
            cut_connection(way, direction, 0);
        else
            for (place = stride == 1 ? 0 : (size_t)way * 7; place < passed; place += stride)
                cut_connection(way, direction, place);
    }
    aioloop_ssl_context_unref(cut_contexts[0]);
    aioloop_ssl_context_unref(cut_contexts[1]);
}

TEST_WITH(tls_cuts_that_end_in_good_order, "TLS-06 TLS-14", TEST_SLOW) {
    cut_everywhere(CUT_END);
}

TEST_WITH(tls_cuts_that_are_abrupt, "TLS-06 TLS-14", TEST_SLOW) {
    cut_everywhere(CUT_ABORT);
}

TEST_WITH(tls_cuts_double_a_byte, "TLS-15", TEST_SLOW) {
    cut_everywhere(CUT_DOUBLE);
}

TEST_WITH(tls_cuts_change_a_bit, "TLS-15", TEST_SLOW) {
    cut_everywhere(CUT_FLIP);
}

TEST_WITH(tls_cuts_delay_what_follows, "TLS-01", TEST_SLOW) {
    cut_everywhere(CUT_DELAY);
}

TEST_WITH(tls_cuts_into_single_bytes, "TLS-01", TEST_SLOW) {
    cut_everywhere(CUT_BYTES);
}

#endif
