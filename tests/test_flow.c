/*
 * test_flow.c - write flow control: the marks, pause_writing and resume_writing, the size of the write buffer, and streams
 * that are much larger than any buffer, both ways at once.
 */
#include "support.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define FLOW_BIG (4u * 1024u * 1024u)

static unsigned char flow_bytes[FLOW_BIG]; /* the stream that every test sends */

static unsigned char flow_byte(size_t i) {
    return (unsigned char)(i * 11 + i / 239 + i / 65521);
}

static unsigned char flow_room[1000000]; /* to read to */

/* Makes the first bytes of the stream: no more than the test needs, because in torture it runs a thousand times. */
static void flow_fill(size_t size) {
    size_t i;
    for (i = 0; i < size; i++)
        flow_bytes[i] = flow_byte(i);
}

static void flow_check_stream(test_peer *peer, const void *data, size_t size) {
    const unsigned char *at = (const unsigned char *)data;
    size_t start = peer->received - size;
    size_t i;
    CHECK(peer->received <= FLOW_BIG);
    if (memcmp(at, flow_bytes + start, size) == 0)
        return;
    for (i = 0; i < size; i++)
        if (at[i] != flow_bytes[start + i])
            FAIL("byte %lu of the stream is wrong", (unsigned long)(start + i));
}

/* Pauses the reading of b and writes the stream to a until nothing moves any more. How many bytes were written. */
static size_t flow_block(aioloop *loop, test_peer *a, test_peer *b) {
    size_t total = 0;
    size_t size;
    aioloop_transport_pause_reading(b->transport);
    do {
        CHECK_EQ(aioloop_transport_write(a->transport, flow_bytes + total, 32768), 0);
        CHECK(!aioloop_transport_is_closing(a->transport));
        total += 32768;
        CHECK(total < FLOW_BIG / 8);
        do {
            size = aioloop_transport_get_write_buffer_size(a->transport);
            test_spin(loop, 8);
        } while (aioloop_transport_get_write_buffer_size(a->transport) != size);
    } while (size == 0);
    return total;
}

static int64_t flow_size(const test_peer *peer) {
    return (int64_t)aioloop_transport_get_write_buffer_size(peer->transport);
}

/* ---- marks ---- */

static void flow_check_marks(aioloop_transport *t, size_t high, size_t low) {
    size_t low_is = 12345;
    size_t high_is = 12345;
    aioloop_transport_get_write_buffer_limits(t, &low_is, &high_is);
    CHECK_EQ(high_is, high);
    CHECK_EQ(low_is, low);
}

TEST(marks_that_are_not_given_follow_from_the_other, "FLOW-02") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    size_t one = 1;
    test_connect_pair(loop, &a, &b);
    flow_check_marks(a.transport, 65536, 16384);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 1000, -1), 0);
    flow_check_marks(a.transport, 1000, 250);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, -1, 1000), 0);
    flow_check_marks(a.transport, 4000, 1000);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 7, 7), 0);
    flow_check_marks(a.transport, 7, 7);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 7, 0), 0);
    flow_check_marks(a.transport, 7, 0);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 3, -1), 0);
    flow_check_marks(a.transport, 3, 0);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, -1, -1), 0);
    flow_check_marks(a.transport, 65536, 16384);
    /* Zero is a number, not the lack of one. */
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 0, -1), 0);
    flow_check_marks(a.transport, 0, 0);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, -1, -1), 0);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, -1, 0), 0);
    flow_check_marks(a.transport, 0, 0);
    /* The largest there are. */
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, INT64_MAX, INT64_MAX), 0);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, -1, INT64_MAX / 2), 0);
    aioloop_transport_get_write_buffer_limits(a.transport, &one, NULL);
    CHECK(one >= (size_t)-1 / 4);
    aioloop_transport_get_write_buffer_limits(a.transport, NULL, NULL);
    flow_check_marks(b.transport, 65536, 16384); /* each has its own */
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

TEST(marks_that_make_no_sense_leave_the_old_ones, "FLOW-03") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    test_connect_pair(loop, &a, &b);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 1000, 100), 0);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 99, 100), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 0, 1), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, -2, 0), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, -2, -1), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 100, -2), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, -1, -2), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, INT64_MIN, INT64_MIN), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(NULL, 10, 1), AIOLOOP_EINVAL);
    flow_check_marks(a.transport, 1000, 100);
    CHECK_EQ(a.paused, 0);
    CHECK_EQ(aioloop_transport_get_write_buffer_size(NULL), 0);
    aioloop_transport_get_write_buffer_limits(NULL, NULL, NULL);
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

/* ---- pausing and resuming ---- */

static bool flow_writing; /* inside a write of the test */

static void flow_pause_inside(test_peer *peer) {
    (void)peer;
    CHECK(flow_writing);
}

static void flow_resume_at_low(test_peer *peer) {
    size_t low = 0;
    CHECK(!flow_writing);
    aioloop_transport_get_write_buffer_limits(peer->transport, &low, NULL);
    CHECK_LE(aioloop_transport_get_write_buffer_size(peer->transport), low);
}

static void flow_write(test_peer *peer, size_t at, size_t size) {
    flow_writing = true;
    CHECK_EQ(aioloop_transport_write(peer->transport, flow_bytes + at, size), 0);
    flow_writing = false;
}

TEST(pause_comes_once_from_inside_the_write_above_the_mark, "FLOW-01") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    size_t total;
    int64_t size;
    int i;
    flow_writing = false;
    flow_fill(FLOW_BIG / 8);
    test_connect_pair(loop, &a, &b);
    a.on_pause = flow_pause_inside;
    a.on_resume = flow_resume_at_low;
    b.on_data = flow_check_stream;
    total = flow_block(loop, &a, &b);
    CHECK_EQ(a.paused, 0);
    size = flow_size(&a);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, size + 100, size / 2), 0);
    flow_write(&a, total, 99);
    flow_write(&a, total + 99, 1);
    CHECK_EQ(flow_size(&a), size + 100);
    CHECK_EQ(a.paused, 0); /* at the mark is not above it */
    flow_write(&a, total + 100, 1);
    CHECK_EQ(a.paused, 1);
    for (i = 0; i < 10; i++)
        flow_write(&a, total + 101 + (size_t)i * 1000, 1000);
    CHECK_EQ(a.paused, 1);
    CHECK_EQ(a.resumed, 0);
    total += 101 + 10000;
    test_spin(loop, 5);
    CHECK_EQ(a.resumed, 0);
    aioloop_transport_resume_reading(b.transport);
    test_run_until(loop, &a.resumed, 1, "resume_writing");
    test_run_until_received(loop, &b, total);
    test_spin(loop, 5);
    CHECK_EQ(a.paused, 1);
    CHECK_EQ(a.resumed, 1);
    /* And anew. */
    a.on_pause = NULL;
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 0, 0), 0);
    b.received = 0;
    total = flow_block(loop, &a, &b);
    CHECK_EQ(a.paused, a.resumed + 1);
    aioloop_transport_resume_reading(b.transport);
    test_run_until_received(loop, &b, total);
    test_run_until(loop, &a.resumed, a.paused, "resume_writing");
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

TEST(resume_comes_at_the_low_mark_and_not_above_it, "FLOW-01") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    int64_t last = 0;
    if (!test_simulated(loop)) {
        test_end(loop);
        SKIP("needs a connection that takes one byte at a time");
    }
    flow_writing = false;
    flow_fill(FLOW_BIG / 8);
    CHECK_EQ(aioloop_sim_set_buffer(loop, 1), 0);
    test_connect_pair(loop, &a, &b);
    b.on_data = flow_check_stream;
    a.on_resume = flow_resume_at_low;
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 50, 20), 0);
    flow_write(&a, 0, 100);
    CHECK_EQ(a.paused, 1);
    while (a.resumed == 0) {
        last = flow_size(&a);
        CHECK_GT(last, 20);
        test_spin(loop, 1);
    }
    CHECK_EQ(flow_size(&a), 20);
    test_run_until_received(loop, &b, 100);
    CHECK_EQ(a.resumed, 1);
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

TEST(a_high_mark_of_zero_pauses_as_soon_as_anything_waits, "FLOW-04") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    size_t total;
    flow_fill(FLOW_BIG / 8);
    test_connect_pair(loop, &a, &b);
    b.on_data = flow_check_stream;
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 0, -1), 0);
    CHECK_EQ(a.paused, 0); /* nothing waits */
    total = flow_block(loop, &a, &b);
    CHECK_EQ(a.paused, a.resumed + 1);
    aioloop_transport_resume_reading(b.transport);
    test_run_until(loop, &a.resumed, a.paused, "resume_writing");
    CHECK_EQ(flow_size(&a), 0);
    test_run_until_received(loop, &b, total);
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

TEST(marks_set_below_what_is_buffered_pause_at_once, "FLOW-04 FLOW-01") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    int64_t size;
    flow_fill(FLOW_BIG / 8);
    test_connect_pair(loop, &a, &b);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, FLOW_BIG, -1), 0);
    flow_block(loop, &a, &b);
    size = flow_size(&a);
    CHECK_EQ(a.paused, 0);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, size, 0), 0);
    CHECK_EQ(a.paused, 0);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, size - 1, size), AIOLOOP_EINVAL);
    CHECK_EQ(a.paused, 0);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, size - 1, 0), 0);
    CHECK_EQ(a.paused, 1);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 0, 0), 0);
    CHECK_EQ(a.paused, 1); /* it is paused already */
    aioloop_transport_resume_reading(b.transport);
    test_run_until(loop, &a.resumed, 1, "resume_writing");
    CHECK_EQ(a.paused, 1);
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

static void flow_raise(test_peer *peer) {
    aioloop_raise(aioloop_transport_get_loop(peer->transport), AIOLOOP_EIO, "on purpose");
}

static void flow_write_in_callback(aioloop *loop, void *arg) {
    test_peer *peer = (test_peer *)arg;
    (void)loop;
    CHECK_EQ(aioloop_transport_write(peer->transport, flow_bytes, 1), 0);
}

TEST(an_error_in_pause_or_resume_is_reported_and_nothing_ends, "FLOW-05") {
    aioloop *loop = test_loop();
    int in_callback;
    flow_fill(FLOW_BIG / 8);
    for (in_callback = 0; in_callback < 2; in_callback++) { /* the write is a callback's, which did not fail */
        test_peer a = AIOLOOP_ZERO;
        test_peer b = AIOLOOP_ZERO;
        aioloop_handle h;
        size_t total;
        test_connect_pair(loop, &a, &b);
        total = flow_block(loop, &a, &b);
        CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, flow_size(&a), -1), 0);
        a.on_pause = flow_raise;
        a.on_resume = flow_raise;
        if (in_callback) {
            h = aioloop_call_soon(loop, flow_write_in_callback, &a);
            CHECK(!aioloop_handle_is_null(&h));
        } else {
            flow_write_in_callback(loop, &a);
            CHECK_EQ(a.paused, 1);
        }
        total++;
        test_run_until(loop, &a.paused, 1, "pause_writing");
        CHECK_EQ(test_reports(), 1);
        CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EIO);
        CHECK_PTR(test_report_at(0)->context.transport, a.transport);
        CHECK(test_report_at(0)->context.protocol == &test_protocol);
        CHECK(aioloop_handle_is_null(&test_report_at(0)->context.handle));
        CHECK_STR(test_report_at(0)->detail, "on purpose");
        test_reports_clear();
        aioloop_transport_resume_reading(b.transport);
        test_run_until(loop, &a.resumed, 1, "resume_writing");
        CHECK_EQ(test_reports(), 1);
        CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EIO);
        CHECK_PTR(test_report_at(0)->context.transport, a.transport);
        CHECK(test_report_at(0)->context.protocol == &test_protocol);
        test_reports_clear();
        CHECK(!aioloop_transport_is_closing(a.transport));
        test_run_until_received(loop, &b, total);
        CHECK_EQ(aioloop_transport_write(b.transport, "alive", 5), 0);
        test_run_until_received(loop, &a, 5);
        test_end_pair(loop, &a, &b);
    }
    test_end(loop);
}

/* ---- the size of the buffer ---- */

TEST(the_buffer_is_what_the_system_has_not_taken, "FLOW-06") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    size_t total;
    size_t size;
    int i;
    flow_fill(FLOW_BIG / 8);
    test_connect_pair(loop, &a, &b);
    b.on_data = flow_check_stream;
    CHECK_EQ(flow_size(&a), 0);
    total = flow_block(loop, &a, &b);
    size = (size_t)flow_size(&a);
    CHECK_LE(size, total);
    CHECK_EQ(aioloop_transport_write(a.transport, flow_bytes + total, 12345), 0);
    CHECK_EQ(flow_size(&a), size + 12345);
    total += 12345;
    size += 12345;
    for (i = 0; i < 3; i++)
        CHECK_EQ(flow_size(&a), size); /* looking changes nothing */
    aioloop_transport_resume_reading(b.transport);
    while (b.received < total) {
        size_t before = size;
        CHECK(!aioloop_transport_is_closing(a.transport) && !aioloop_transport_is_closing(b.transport));
        test_spin(loop, 1);
        size = (size_t)flow_size(&a);
        CHECK_LE(size, before);
        CHECK_LE(b.received + size, total + 65536); /* what it has is not waiting: but for results told late */
    }
    test_spin(loop, 10);
    CHECK_EQ(flow_size(&a), 0);
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

/* What was read and what is buffered make a million, as soon as the loop knows what the system has taken meanwhile. */
static void flow_check_sum(aioloop *loop, const test_peer *peer, size_t got) {
    int passes;
    for (passes = 0; passes < 20 && got + aioloop_transport_get_write_buffer_size(peer->transport) != 1000000; passes++)
        test_spin(loop, 1);
    CHECK_EQ(got + aioloop_transport_get_write_buffer_size(peer->transport), 1000000);
}

/* To the byte, against what the system says that it has. */
TEST_WITH(the_buffer_and_the_system_have_all_there_is, "FLOW-06", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    aioloop_socket s[2];
    unsigned char *in = flow_room;
    size_t got = 0;
    ssize_t n;
    test_needs_real_descriptors(loop);
    flow_fill(1000000);
    test_socketpair(loop, s);
    test_adopt(loop, &test_protocol, &a, s[0]);
    CHECK_EQ(aioloop_transport_write(a.transport, flow_bytes, 1000000), 0);
    while ((n = recv(s[1], in + got, 1000000 - got, MSG_DONTWAIT)) > 0)
        got += (size_t)n;
    CHECK_EQ(memcmp(in, flow_bytes, got), 0);
    flow_check_sum(loop, &a, got);
    while (got < 1000000) {
        CHECK(!aioloop_transport_is_closing(a.transport));
        test_spin(loop, 1);
        while (got < 1000000 && (n = recv(s[1], in + got, 1000000 - got, MSG_DONTWAIT)) > 0)
            got += (size_t)n;
        flow_check_sum(loop, &a, got);
    }
    CHECK_EQ(memcmp(in, flow_bytes, got), 0);
    aioloop_transport_abort(a.transport);
    test_run_until(loop, &a.lost, 1, "the loss");
    test_peer_drop(&a);
    test_close_socket(loop, s[1]);
    test_end(loop);
}

/* ---- ends while paused ---- */

TEST(a_close_while_paused_flushes_and_an_abort_does_not_resume, "FLOW-01 TRN-07 TRN-08") {
    aioloop *loop = test_loop();
    int how;
    flow_fill(FLOW_BIG / 8);
    for (how = 0; how < 2; how++) {
        test_peer a = AIOLOOP_ZERO;
        test_peer b = AIOLOOP_ZERO;
        size_t total;
        test_connect_pair(loop, &a, &b);
        b.on_data = flow_check_stream;
        CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, FLOW_BIG, 0), 0);
        total = flow_block(loop, &a, &b);
        CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 10, 0), 0);
        CHECK_STR(a.calls, "mp");
        if (how == 0)
            aioloop_transport_close(a.transport);
        else
            aioloop_transport_abort(a.transport);
        CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 0, 0), 0);
        aioloop_transport_resume_reading(b.transport);
        test_run_until(loop, &a.lost, 1, "the loss");
        CHECK_STR(a.calls, how == 0 ? "mprl" : "mpl");
        if (how == 0)
            test_run_until_received(loop, &b, total);
        test_end_pair(loop, &a, &b);
    }
    test_end(loop);
}

/* ---- large streams ---- */

/* One direction of a large transfer: writes while it may, from resume_writing, with pauses of the reader. */
typedef struct flow_side {
    test_peer peer;
    size_t written;
    size_t total;
    bool paused;
    unsigned chance;
} flow_side;

static unsigned flow_random(flow_side *side) {
    side->chance = side->chance * 1103515245u + 12345u;
    return side->chance >> 16;
}

static void flow_pump(flow_side *side) {
    while (!side->paused && side->written < side->total) {
        size_t n = flow_random(side) % 50000 + 1;
        if (n > side->total - side->written)
            n = side->total - side->written;
        CHECK_EQ(aioloop_transport_write(side->peer.transport, flow_bytes + side->written, n), 0);
        side->written += n;
    }
}

static void flow_side_pause(test_peer *peer) {
    flow_side *side = (flow_side *)peer->user;
    CHECK(!side->paused);
    side->paused = true;
}

static void flow_side_resume(test_peer *peer) {
    flow_side *side = (flow_side *)peer->user;
    CHECK(side->paused);
    side->paused = false;
    flow_pump(side);
}

static void flow_side_wake(aioloop *loop, void *arg) {
    flow_side *side = (flow_side *)arg;
    (void)loop;
    aioloop_transport_resume_reading(side->peer.transport);
}

static void flow_side_data(test_peer *peer, const void *data, size_t size) {
    flow_side *side = (flow_side *)peer->user;
    aioloop *loop = aioloop_transport_get_loop(peer->transport);
    flow_check_stream(peer, data, size);
    CHECK(aioloop_transport_is_reading(peer->transport));
    if (flow_random(side) % 4 == 0) {
        aioloop_timer_handle timer;
        aioloop_transport_pause_reading(peer->transport);
        timer = aioloop_call_later(loop, AIOLOOP_US(flow_random(side) % 50), flow_side_wake, side);
        CHECK(!aioloop_handle_is_null(&timer.handle));
    }
}

static void flow_side_begin(flow_side *side, size_t total, unsigned seed) {
    memset(side, 0, sizeof(*side));
    side->total = total;
    side->chance = seed;
    side->peer.user = side;
    side->peer.on_data = flow_side_data;
    side->peer.on_pause = flow_side_pause;
    side->peer.on_resume = flow_side_resume;
}

static void flow_both_ways(aioloop *loop, size_t total) {
    static flow_side a;
    static flow_side b;
    flow_side_begin(&a, total, 1);
    flow_side_begin(&b, total - 1000, 2);
    test_connect_pair(loop, &a.peer, &b.peer);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(b.peer.transport, 5000, -1), 0);
    flow_pump(&a);
    flow_pump(&b);
    test_run_until_received(loop, &b.peer, a.total);
    test_run_until_received(loop, &a.peer, b.total);
    test_run_for(loop, AIOLOOP_MS(1)); /* the last timers */
    CHECK_EQ(a.peer.received, b.total);
    CHECK_EQ(b.peer.received, a.total);
    if (a.paused)
        test_run_until(loop, &a.peer.resumed, a.peer.paused, "resume_writing");
    CHECK_GT(a.peer.paused, 0);
    CHECK_GT(b.peer.paused, 0);
    test_end_pair(loop, &a.peer, &b.peer);
}

TEST(megabytes_go_both_ways_at_once_with_pauses, "FLOW-01 TRN-02") {
    aioloop *loop = test_loop();
    flow_fill(3u * 1024u * 1024u);
    flow_both_ways(loop, 3u * 1024u * 1024u); /* 3 MiB */
    test_end(loop);
}

TEST(a_single_write_of_megabytes_arrives, "FLOW-01 TRN-02") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    flow_fill(FLOW_BIG);
    test_connect_pair(loop, &a, &b);
    a.on_data = flow_check_stream;
    b.on_data = flow_check_stream;
    CHECK_EQ(aioloop_transport_write(a.transport, flow_bytes, FLOW_BIG), 0);
    CHECK_EQ(aioloop_transport_write(b.transport, flow_bytes, FLOW_BIG - 7), 0);
    CHECK_EQ(a.paused, 1);
    CHECK_EQ(b.paused, 1);
    test_run_until_received(loop, &b, FLOW_BIG);
    test_run_until_received(loop, &a, FLOW_BIG - 7);
    test_run_until(loop, &a.resumed, 1, "resume_writing");
    test_run_until(loop, &b.resumed, 1, "resume_writing");
    test_end_pair(loop, &a, &b);
    CHECK_EQ(a.paused, 1);
    CHECK_EQ(a.resumed, 1);
    test_end(loop);
}

/* Every send is cut: on the simulated back ends by a tiny buffer, on the others by the smallest the system allows. */
TEST(partial_sends_keep_every_byte, "TRN-02 FLOW-01") {
    static const size_t buffers[] = {1, 3, 100, 4000};
    aioloop *loop = test_loop();
    size_t i;
    flow_fill(FLOW_BIG / 8);
    for (i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++) {
        test_peer a = AIOLOOP_ZERO;
        test_peer b = AIOLOOP_ZERO;
        size_t total = 0;
        size_t limit = buffers[i] * 60;
        size_t most = test_simulated(loop) ? buffers[i] * 4 : 1000;
        if (test_simulated(loop))
            CHECK_EQ(aioloop_sim_set_buffer(loop, buffers[i]), 0);
        else
            limit = 300000;
        test_connect_pair(loop, &a, &b);
        b.on_data = flow_check_stream;
        if (!test_simulated(loop)) {
            int size = 1;
            const aioloop_socket *s =
                (const aioloop_socket *)aioloop_transport_get_extra_info(a.transport, "socket", NULL);
            CHECK(s != NULL);
            CHECK(setsockopt(*s, SOL_SOCKET, SO_SNDBUF, &size, (socklen_t)sizeof(size)) == 0);
        }
        while (total < limit) {
            aioloop_buf pieces[5];
            size_t n = 0;
            int k;
            for (k = 0; k < 5; k++) {
                pieces[k].data = flow_bytes + total + n;
                pieces[k].size = (total * 7 + (size_t)k * 13) % most;
                n += pieces[k].size;
            }
            CHECK_EQ(aioloop_transport_writelines(a.transport, pieces, 5), 0);
            total += n;
            n = total % most + 1;
            CHECK_EQ(aioloop_transport_write(a.transport, flow_bytes + total, n), 0);
            total += n;
            if (total % 3 == 0)
                test_spin(loop, 1);
        }
        test_run_until_received(loop, &b, total);
        test_end_pair(loop, &a, &b);
        CHECK_EQ(b.received, total);
    }
    test_end(loop);
}

#define FLOW_PIECES 300

TEST(hundreds_of_pieces_go_as_one, "TRN-06") {
    static aioloop_buf pieces[FLOW_PIECES];
    aioloop *loop = test_loop();
    int how;
    flow_fill(FLOW_BIG / 8);
    /* Straight to the system; the first seventy empty; all in front of other writes; cut; and all of one byte. */
    for (how = 0; how < 5; how++) {
        test_peer a = AIOLOOP_ZERO;
        test_peer b = AIOLOOP_ZERO;
        size_t total = 0;
        size_t i;
        if (test_simulated(loop))
            CHECK_EQ(aioloop_sim_set_buffer(loop, how == 3 ? 777 : 65536), 0);
        test_connect_pair(loop, &a, &b);
        b.on_data = flow_check_stream;
        if (how == 2) {
            CHECK_EQ(aioloop_transport_write(a.transport, flow_bytes, 10), 0);
            total = 10;
        }
        for (i = 0; i < FLOW_PIECES; i++) {
            size_t size = how == 4 ? 1 : i % 7 == 0 ? 0 : how == 3 ? i * 10 : i;
            if (how == 1 && i < 70)
                size = 0;
            pieces[i].data = size == 0 && i % 2 == 0 ? NULL : flow_bytes + total;
            pieces[i].size = size;
            total += size;
        }
        CHECK_EQ(aioloop_transport_writelines(a.transport, pieces, FLOW_PIECES), 0);
        memset(pieces, 0, sizeof(pieces));
        CHECK_EQ(aioloop_transport_write(a.transport, flow_bytes + total, 10), 0);
        total += 10;
        test_run_until_received(loop, &b, total);
        test_end_pair(loop, &a, &b);
        CHECK_EQ(b.received, total);
    }
    test_end(loop);
}

/* ---- writing from pause_writing and resume_writing ---- */

static void flow_write_more(test_peer *peer) {
    size_t *at = (size_t *)peer->user;
    size_t from = *at;
    *at += 300000; /* before the write, from which pause_writing may write more */
    CHECK_EQ(aioloop_transport_write(peer->transport, flow_bytes + from, 300000), 0); /* more than a socket takes */
}

static void flow_write_again(test_peer *peer) {
    if (peer->resumed <= 5)
        flow_write_more(peer);
}

TEST(writing_from_pause_and_resume_keeps_the_order, "FLOW-01 TRN-02") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    size_t at = 0;
    flow_fill(FLOW_BIG);
    test_connect_pair(loop, &a, &b);
    a.user = &at;
    b.on_data = flow_check_stream;
    at = flow_block(loop, &a, &b);
    a.on_pause = flow_write_more; /* does not pause a second time */
    a.on_resume = flow_write_again;
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 1000, 100), 0);
    CHECK_EQ(a.paused, 1);
    aioloop_transport_resume_reading(b.transport);
    test_run_until(loop, &a.resumed, 6, "the resumptions");
    CHECK_EQ(a.paused, 6);
    test_run_until_received(loop, &b, at);
    test_end_pair(loop, &a, &b);
    CHECK_EQ(b.received, at);
    CHECK_EQ(a.resumed, a.paused);
    test_end(loop);
}

/* ---- behind the peer's end ---- */

static void flow_write_all(test_peer *peer) {
    CHECK_EQ(aioloop_transport_write(peer->transport, flow_bytes, FLOW_BIG - 1000), 0);
    CHECK_EQ(aioloop_transport_write(peer->transport, flow_bytes + FLOW_BIG - 1000, 1000), 0);
}

/* A peer that has sent its end still reads. Waiting until it does is one wait, not many, and nothing is lost. */
TEST_WITH(writing_behind_the_peers_end_waits_in_peace, "FLOW-01", TEST_REAL_FDS) {
    static char in[FLOW_BIG];
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    aioloop_socket s[2];
    aioloop_time start;
    size_t got = 0;
    int waits = 0;
    ssize_t n;
    test_needs_real_descriptors(loop);
    flow_fill(FLOW_BIG);
    test_socketpair(loop, s);
    CHECK(shutdown(s[1], SHUT_WR) == 0);
    a.keep_open = true;
    a.on_made = flow_write_all;
    test_adopt(loop, &test_protocol, &a, s[0]);
    test_run_until(loop, &a.eof, 1, "the end");
    test_spin(loop, 5);
    for (start = aioloop_now(loop); aioloop_now(loop) < start + AIOLOOP_MS(50); waits++)
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(50)), 0);
    CHECK_LT(waits, 5);
    while (got < FLOW_BIG) {
        CHECK(!aioloop_transport_is_closing(a.transport));
        test_spin(loop, 1);
        while (got < FLOW_BIG && (n = recv(s[1], in + got, FLOW_BIG - got, MSG_DONTWAIT)) > 0)
            got += (size_t)n;
    }
    CHECK_EQ(memcmp(in, flow_bytes, got), 0);
    test_run_until(loop, &a.resumed, 1, "room");
    aioloop_transport_abort(a.transport);
    test_run_until(loop, &a.lost, 1, "the loss");
    test_peer_drop(&a);
    test_close_socket(loop, s[1]);
    test_end(loop);
}

static void flow_writable(aioloop *loop, void *arg) {
    (void)loop;
    ++*(int *)arg;
}

/* The same for a descriptor that is watched. */
TEST_WITH(watching_for_room_behind_the_peers_end_is_quiet, "FD-01", TEST_REAL_FDS) {
    static char bytes[65536];
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    int calls = 0;
    test_needs_real_descriptors(loop);
    test_socketpair(loop, s);
    CHECK(shutdown(s[1], SHUT_WR) == 0);
    while (send(s[0], bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
        ;
    CHECK_EQ(aioloop_add_writer(loop, s[0], flow_writable, &calls), 0);
    test_spin(loop, 20);
    CHECK_EQ(calls, 0);
    while (recv(s[1], bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
        ;
    test_run_until(loop, &calls, 1, "room");
    CHECK_EQ(aioloop_remove_writer(loop, s[0]), 1);
    test_close_socket(loop, s[0]);
    test_close_socket(loop, s[1]);
    test_end(loop);
}

/* ---- what was written last ---- */

static void flow_write_six(aioloop *loop, void *arg) {
    test_peer *a = (test_peer *)arg;
    int i;
    (void)loop;
    for (i = 0; i < 6; i++)
        CHECK_EQ(aioloop_transport_write(a->transport, flow_bytes + 1024 * i, 1024), 0);
}

/* What waits only for the end of the callback does not make a peer slow. */
TEST_WITH(pausing_is_for_want_of_room_alone, "FLOW-01", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_handle h;
    test_needs_real_descriptors(loop);
    flow_fill(6144);
    test_connect_pair(loop, &a, &b);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 4096, -1), 0);
    h = aioloop_call_soon(loop, flow_write_six, &a);
    CHECK(!aioloop_handle_is_null(&h));
    test_run_until_received(loop, &b, 6144);
    CHECK_EQ(a.paused, 0);
    CHECK_EQ(memcmp(b.data, flow_bytes, 4096), 0);
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

typedef enum flow_end { FLOW_ABORT, FLOW_RAISE, FLOW_FATAL, FLOW_FREE, FLOW_ENDS } flow_end;

typedef struct flow_last {
    aioloop_transport *transport;
    flow_end how;
} flow_last;

static void flow_say_last(aioloop *loop, void *arg) {
    flow_last *last = (flow_last *)arg;
    CHECK_EQ(aioloop_transport_write(last->transport, "by", 2), 0);
    CHECK_EQ(aioloop_transport_write(last->transport, "e", 1), 0);
    if (last->how == FLOW_ABORT)
        aioloop_transport_abort(last->transport);
    else if (last->how == FLOW_FATAL)
        aioloop_raise(loop, AIOLOOP_EFATAL, NULL);
    else
        aioloop_stop(loop);
}

static void flow_answer_and_raise(aioloop_transport *transport, void *self, const void *data, size_t size) {
    (void)self;
    (void)data;
    (void)size;
    CHECK_EQ(aioloop_transport_write(transport, "bye", 3), 0);
    aioloop_raise(aioloop_transport_get_loop(transport), AIOLOOP_EIO, NULL);
}

/* Where there is room, what was written before the end is sent, as it is where every write is tried at once. */
TEST_WITH(last_words_are_sent_before_the_end, "TRN-08", TEST_REAL_FDS) {
    static aioloop_protocol raising;
    int how;
    raising.data_received = flow_answer_and_raise;
    for (how = 0; how < FLOW_ENDS; how++) {
        aioloop *loop = test_loop();
        test_peer a = AIOLOOP_ZERO;
        flow_last last;
        aioloop_socket s[2];
        char in[8];
        ssize_t n = -1;
        int i;
        test_needs_real_descriptors(loop);
        test_socketpair(loop, s);
        test_adopt(loop, &test_protocol, &a, s[0]);
        last.transport = a.transport;
        last.how = (flow_end)how;
        if (how == FLOW_RAISE) {
            CHECK_EQ(aioloop_transport_set_protocol(a.transport, &raising, &a), 0);
            CHECK_EQ(send(s[1], "x", 1, 0), 1);
            for (i = 0; i < 100 && test_reports() == 0; i++)
                CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(10)), 0);
            test_reports_clear();
        } else {
            aioloop_handle h = aioloop_call_soon(loop, flow_say_last, &last);
            CHECK(!aioloop_handle_is_null(&h));
            (void)aioloop_run_once(loop, 0);
        }
        if (how == FLOW_FREE || how == FLOW_FATAL) {
            CHECK_EQ(aioloop_close(loop), 0);
        } else {
            test_spin(loop, 3);
        }
        n = recv(s[1], in, sizeof(in), MSG_DONTWAIT);
        CHECK_EQ(n, 3);
        CHECK_EQ(memcmp(in, "bye", 3), 0);
        test_peer_drop(&a);
        test_close_socket(loop, s[1]);
        test_end(loop);
    }
}

/* ---- to many at once ---- */

enum { FLOW_MANY = 600 }; /* more than io_uring copies between two waits, which is 512 */

typedef struct flow_crowd {
    aioloop_transport *transports[FLOW_MANY];
    int peers[FLOW_MANY];
    int made;
    int lost;
    size_t copied; /* bytes that the writes of a broadcast left for later */
} flow_crowd;

static void flow_joined(aioloop_transport *transport, void *self) {
    flow_crowd *crowd = (flow_crowd *)self;
    crowd->transports[crowd->made++] = aioloop_transport_ref(transport);
}

static void flow_left(aioloop_transport *transport, void *self, int error) {
    (void)transport;
    (void)error;
    ((flow_crowd *)self)->lost++;
}

static void flow_broadcast(aioloop *loop, void *arg) {
    flow_crowd *crowd = (flow_crowd *)arg;
    int i;
    for (i = 0; i < FLOW_MANY; i++) {
        CHECK_EQ(aioloop_transport_write(crowd->transports[i], flow_bytes, 1000), 0);
        crowd->copied += aioloop_transport_get_write_buffer_size(crowd->transports[i]);
    }
    aioloop_stop(loop);
}

/* Small writes may be copied, to leave together with the next wait; but only so many of them. */
TEST_WITH(broadcast_copies_so_much_and_no_more, "", TEST_REAL_FDS | TEST_SLOW) {
    static flow_crowd crowd;
    static const aioloop_protocol protocol = {0, NULL, flow_joined, NULL, NULL, flow_left, NULL, NULL, NULL, NULL,
        NULL, NULL};
    aioloop *loop = test_loop();
    bool copies = strcmp(aioloop_backend_name(loop), "io_uring") == 0;
    char in[1001];
    struct rlimit limit;
    int round;
    int i;
    test_needs_real_descriptors(loop);
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (limit.rlim_cur < 2 * FLOW_MANY + 100 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max < 2 * FLOW_MANY + 100 ? limit.rlim_max : 2 * FLOW_MANY + 100;
        CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    }
    if (limit.rlim_cur < 2 * FLOW_MANY + 100 || strcmp(aioloop_backend_name(loop), "select") == 0) {
        test_end(loop);
        SKIP("not so many descriptors here");
    }
    flow_fill(1000);
    memset(&crowd, 0, sizeof(crowd));
    for (i = 0; i < FLOW_MANY; i++) {
        aioloop_future *f;
        int s[2];
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
        crowd.peers[i] = s[1];
        f = aioloop_connect_accepted_socket(loop, &protocol, &crowd, s[0], NULL);
        CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), 0);
    }
    CHECK_EQ(crowd.made, FLOW_MANY);
    for (round = 0; round < 3; round++) {
        aioloop_handle h = aioloop_call_soon(loop, flow_broadcast, &crowd);
        CHECK(!aioloop_handle_is_null(&h));
        crowd.copied = 0;
        CHECK_EQ(aioloop_run_forever(loop), 0);
        CHECK_EQ(crowd.copied, copies ? 512 * 1000 : 0);
        test_spin(loop, 2);
        for (i = 0; i < FLOW_MANY; i++) {
            CHECK_EQ(recv(crowd.peers[i], in, sizeof(in), MSG_DONTWAIT), 1000);
            CHECK_EQ(memcmp(in, flow_bytes, 1000), 0);
        }
    }
    for (i = 0; i < FLOW_MANY; i++) {
        aioloop_transport_abort(crowd.transports[i]);
        aioloop_transport_unref(crowd.transports[i]);
        close(crowd.peers[i]);
    }
    test_run_until(loop, &crowd.lost, FLOW_MANY, "the losses");
    test_end(loop);
}
