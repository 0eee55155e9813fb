/*
 * test_transport.c - stream transports and their protocols: the order of calls, writing, closing, ends of file, errors,
 * exchanging the protocol, extra info; and every method called from every protocol callback. Flow control, lent
 * memory and buffered protocols have files of their own.
 */
#include "support.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#define TRANSPORT_BIG (1024u * 1024u)

static unsigned char transport_bytes[TRANSPORT_BIG];

/* The byte at a place of the stream every test sends: a wrong order shows, whatever the sizes of the pieces are. */
static unsigned char transport_byte(size_t i) {
    return (unsigned char)(i * 7 + i / 251 + i / 65536);
}

static void transport_fill(void) {
    size_t i;
    for (i = 0; i < TRANSPORT_BIG; i++)
        transport_bytes[i] = transport_byte(i);
}

/* As on_data: what comes is the stream from its beginning. */
static void transport_check_stream(test_peer *peer, const void *data, size_t size) {
    const unsigned char *at = (const unsigned char *)data;
    size_t start = peer->received - size;
    size_t i;
    for (i = 0; i < size; i++)
        if (at[i] != transport_byte(start + i))
            FAIL("byte %lu of the stream is wrong", (unsigned long)(start + i));
}

/* Pauses the reading of b and writes the stream to a until nothing moves any more. Returns how many bytes were written. */
static size_t transport_stuff(aioloop *loop, test_peer *a, test_peer *b) {
    size_t total = 0;
    aioloop_transport_pause_reading(b->transport);
    for (;;) {
        size_t size;
        size_t n = 32768;
        CHECK(total + n <= TRANSPORT_BIG);
        CHECK_EQ(aioloop_transport_write(a->transport, transport_bytes + total, n), 0);
        CHECK(!aioloop_transport_is_closing(a->transport));
        total += n;
        do { /* results may be some iterations late */
            size = aioloop_transport_get_write_buffer_size(a->transport);
            test_spin(loop, 8);
        } while (aioloop_transport_get_write_buffer_size(a->transport) != size);
        if (size != 0)
            return total;
    }
}

/* ---- the order of calls ---- */

enum { END_CLOSE, END_ABORT, END_PEER_CLOSE, END_PEER_EOF, END_PEER_ABORT, END_RAISE, END_COUNT };

static void transport_raise_io(test_peer *peer, const void *data, size_t size) {
    (void)data;
    (void)size;
    aioloop_raise(aioloop_transport_get_loop(peer->transport), AIOLOOP_EIO, "on purpose");
}

/* 'm' first and once, 'e' once at most and no data behind it, pauses and resumptions in turn, 'l' last and once. */
static void transport_check_order(const test_peer *peer) {
    const char *call = peer->calls;
    bool ended = false;
    bool paused = false;
    CHECK_EQ(*call, 'm');
    for (call++; *call != '\0' && *call != 'l'; call++) {
        CHECK(*call != 'm');
        if (*call == 'e' || *call == 'd')
            CHECK(!ended);
        ended |= *call == 'e';
        if (*call == 'p' || *call == 'r') {
            CHECK(paused == (*call == 'r'));
            paused = !paused;
        }
    }
    CHECK_STR(call, "l");
}

TEST(a_protocol_is_called_in_order_whatever_the_end, "TRN-01") {
    aioloop *loop = test_loop();
    int end;
    transport_fill();
    for (end = 0; end < END_COUNT; end++) {
        test_peer a = AIOLOOP_ZERO;
        test_peer b = AIOLOOP_ZERO;
        size_t written;
        test_connect_pair(loop, &a, &b);
        CHECK_STR(a.calls, "m");
        b.on_data = transport_check_stream;
        CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 1000, 10), 0);
        written = transport_stuff(loop, &a, &b);
        aioloop_transport_resume_reading(b.transport);
        CHECK_EQ(aioloop_transport_write(b.transport, "answer", 6), 0);
        test_run_until_received(loop, &b, written);
        test_run_until(loop, &a.datas, 1, "data");
        test_run_until(loop, &a.resumed, a.paused, "resume_writing");
        if (end == END_CLOSE)
            aioloop_transport_close(a.transport);
        else if (end == END_ABORT)
            aioloop_transport_abort(a.transport);
        else if (end == END_PEER_CLOSE)
            aioloop_transport_close(b.transport);
        else if (end == END_PEER_EOF)
            CHECK_EQ(aioloop_transport_write_eof(b.transport), 0);
        else if (end == END_PEER_ABORT)
            aioloop_transport_abort(b.transport);
        else
            a.on_data = transport_raise_io;
        if (end == END_RAISE)
            CHECK_EQ(aioloop_transport_write(b.transport, "more", 4), 0);
        test_run_until(loop, &a.lost, 1, "the loss");
        test_run_until(loop, &b.lost, 1, "the peer's loss");
        CHECK_EQ(a.error, end == END_RAISE ? AIOLOOP_EIO : 0);
        CHECK_EQ(test_reports(), end == END_RAISE ? 1 : 0);
        test_reports_clear();
        CHECK_EQ(a.eof, end >= END_PEER_CLOSE && end <= END_PEER_ABORT ? 1 : 0);
        test_end_pair(loop, &a, &b);
        transport_check_order(&a);
        CHECK_EQ(a.paused, a.resumed);
    }
    test_end(loop);
}

/* ---- writing ---- */

TEST(writing_never_blocks_and_keeps_the_order, "TRN-02") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    size_t total;
    size_t step;
    transport_fill();
    test_connect_pair(loop, &a, &b);
    b.on_data = transport_check_stream;
    /* The peer reads nothing: a write that waited would wait for ever. */
    total = transport_stuff(loop, &a, &b);
    for (step = 1; total + step < TRANSPORT_BIG; step = step * 3 + 1) {
        CHECK_EQ(aioloop_transport_write(a.transport, transport_bytes + total, step), 0);
        total += step;
        if (step % 2 == 0)
            test_spin(loop, 3);
    }
    CHECK_GT(aioloop_transport_get_write_buffer_size(a.transport), 0);
    CHECK_EQ(b.received, 0);
    aioloop_transport_resume_reading(b.transport);
    test_run_until_received(loop, &b, total);
    test_end_pair(loop, &a, &b);
    CHECK_EQ(b.received, total);
    test_end(loop);
}

static void transport_write_pieces(aioloop *loop, void *arg) {
    test_peer *peer = (test_peer *)arg;
    size_t done = 0;
    (void)loop;
    while (done < 5000) {
        size_t n = done % 97 + 1;
        CHECK_EQ(aioloop_transport_write(peer->transport, transport_bytes + done, n), 0);
        done += n;
    }
}

/* The first write of a callback goes straight to the system, the others wait for its end: they may not change places. */
TEST(many_writes_of_one_callback_keep_their_order, "TRN-02") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_handle h;
    int i;
    transport_fill();
    test_connect_pair(loop, &a, &b);
    b.on_data = transport_check_stream;
    for (i = 0; i < 3; i++) {
        b.received = 0;
        h = aioloop_call_soon(loop, transport_write_pieces, &a);
        CHECK(!aioloop_handle_is_null(&h));
        test_run_until_received(loop, &b, 5000);
        test_spin(loop, 5);
        CHECK_LT(b.received, 5100);
    }
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

TEST(the_buffer_may_be_reused_when_write_returns, "TRN-03") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    unsigned char *piece = (unsigned char *)malloc(5000);
    aioloop_buf pieces[2];
    size_t total = 0;
    size_t limit;
    CHECK(piece != NULL);
    transport_fill();
    test_connect_pair(loop, &a, &b);
    b.on_data = transport_check_stream;
    limit = transport_stuff(loop, &a, &b);
    total = limit;
    while (total < limit + 60000) {
        memcpy(piece, transport_bytes + total, 5000);
        if (total % 2 == 0) {
            CHECK_EQ(aioloop_transport_write(a.transport, piece, 5000), 0);
        } else {
            pieces[0].data = piece;
            pieces[0].size = 1777;
            pieces[1].data = piece + 1777;
            pieces[1].size = 5000 - 1777;
            CHECK_EQ(aioloop_transport_writelines(a.transport, pieces, 2), 0);
            memset(pieces, 0, sizeof(pieces));
        }
        memset(piece, 0xee, 5000);
        total += 5000;
        test_spin(loop, 1);
    }
    free(piece);
    aioloop_transport_resume_reading(b.transport);
    test_run_until_received(loop, &b, total);
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

TEST(writing_nothing_does_nothing, "TRN-04") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_buf none[3];
    size_t before;
    memset(none, 0, sizeof(none));
    none[1].data = "x";
    test_connect_pair(loop, &a, &b);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 0, 0), 0);
    CHECK_EQ(aioloop_transport_write(a.transport, "x", 0), 0);
    CHECK_EQ(aioloop_transport_write(a.transport, NULL, 0), 0);
    CHECK_EQ(aioloop_transport_writelines(a.transport, NULL, 0), 0);
    CHECK_EQ(aioloop_transport_writelines(a.transport, none, 0), 0);
    CHECK_EQ(aioloop_transport_writelines(a.transport, none, 1), 0);
    CHECK_EQ(aioloop_transport_writelines(a.transport, none, 3), 0);
    CHECK_EQ(aioloop_transport_get_write_buffer_size(a.transport), 0);
    test_run_for(loop, AIOLOOP_MS(5));
    CHECK_EQ(a.paused, 0);
    CHECK_EQ(b.datas, 0);
    CHECK_EQ(aioloop_transport_write(a.transport, "end", 3), 0);
    test_run_until_received(loop, &b, 3);
    CHECK_EQ(b.received, 3);
    /* What contradicts itself is refused, and changes nothing. */
    before = aioloop_transport_get_write_buffer_size(a.transport); /* on a late engine it is not told yet */
    none[1].data = NULL;
    none[1].size = 1;
    CHECK_EQ(aioloop_transport_write(a.transport, NULL, 1), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_transport_write(NULL, "x", 1), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_transport_writelines(a.transport, none, 3), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_transport_writelines(a.transport, NULL, 2), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_transport_writelines(NULL, none, 1), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_transport_write_eof(NULL), AIOLOOP_EINVAL);
    CHECK(!aioloop_transport_is_closing(a.transport));
    CHECK_EQ(aioloop_transport_get_write_buffer_size(a.transport), before);
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

TEST(writing_after_write_eof_is_refused_and_harms_nothing, "TRN-04 TRN-10") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_buf piece;
    aioloop_buf none[2];
    int i;
    memset(none, 0, sizeof(none));
    piece.data = "x";
    piece.size = 1;
    test_connect_pair(loop, &a, &b);
    b.keep_open = true;
    CHECK_EQ(aioloop_transport_write(a.transport, "last", 4), 0);
    CHECK_EQ(aioloop_transport_write_eof(a.transport), 0);
    for (i = 0; i < 7; i++) {
        CHECK_EQ(aioloop_transport_write(a.transport, "x", 1), AIOLOOP_EMISUSE);
        CHECK_EQ(aioloop_transport_writelines(a.transport, &piece, 1), AIOLOOP_EMISUSE);
    }
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_transport_write(a.transport, "x", 0), 0);
    CHECK_EQ(aioloop_transport_writelines(a.transport, none, 1), 0);
    CHECK_EQ(aioloop_transport_writelines(a.transport, none, 2), 0);
    CHECK_EQ(test_log_lines(), 0);
    CHECK(!aioloop_transport_is_closing(a.transport));
    test_run_until(loop, &b.eof, 1, "the end of file");
    CHECK_EQ(b.received, 4);
    CHECK_EQ(aioloop_transport_write(b.transport, "still here", 10), 0);
    test_run_until_received(loop, &a, 10);
    CHECK_MEM(a.data, "still here", 10);
    CHECK_EQ(aioloop_transport_write(a.transport, "x", 1), AIOLOOP_EMISUSE);
    test_end_pair(loop, &a, &b);
    CHECK_EQ(b.received, 4);
    test_end(loop);
}

enum { LATE_CLOSING, LATE_CLOSED, LATE_ABORTED, LATE_LOST, LATE_BY_PEER, LATE_COUNT };

TEST(late_writes_are_dropped_and_the_fifth_is_logged, "TRN-05") {
    aioloop *loop = test_loop();
    int late;
    transport_fill();
    for (late = 0; late < LATE_COUNT; late++) {
        test_peer a = AIOLOOP_ZERO;
        test_peer b = AIOLOOP_ZERO;
        aioloop_buf pieces[2];
        size_t total = 0;
        int i;
        memset(pieces, 0, sizeof(pieces));
        test_connect_pair(loop, &a, &b);
        b.on_data = transport_check_stream;
        if (late == LATE_CLOSING)
            total = transport_stuff(loop, &a, &b);
        if (late == LATE_ABORTED)
            aioloop_transport_abort(a.transport);
        else if (late == LATE_BY_PEER)
            aioloop_transport_abort(b.transport);
        else
            aioloop_transport_close(a.transport);
        if (late >= LATE_LOST)
            test_run_until(loop, &a.lost, 1, "the loss");
        CHECK_EQ(aioloop_transport_writelines(a.transport, pieces, 2), 0); /* nothing is not a late write */
        for (i = 0; i < 8; i++) {
            CHECK_EQ(test_log_lines(), i < 5 ? 0 : 1);
            CHECK_EQ(aioloop_transport_write(a.transport, "x", 0), 0);
            pieces[0].data = "late";
            pieces[0].size = 4;
            if (i % 2 == 0)
                CHECK_EQ(aioloop_transport_write(a.transport, "late", 4), 0);
            else
                CHECK_EQ(aioloop_transport_writelines(a.transport, pieces, 2), 0);
        }
        CHECK_EQ(test_log_lines(), 1);
        CHECK(strlen(test_log_text()) > 0);
        test_log_clear();
        CHECK_EQ(aioloop_transport_write_eof(a.transport), 0);
        aioloop_transport_resume_reading(b.transport);
        test_run_until(loop, &a.lost, 1, "the loss");
        CHECK_EQ(a.error, 0);
        if (late == LATE_CLOSING)
            test_run_until_received(loop, &b, total);
        test_end_pair(loop, &a, &b);
        CHECK_EQ(b.received, total); /* this library drops them */
    }
    test_end(loop);
}

TEST(several_pieces_equal_their_concatenation, "TRN-06") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_buf pieces[20];
    size_t total = 0;
    size_t blocked = 0;
    int round;
    transport_fill();
    test_connect_pair(loop, &a, &b);
    b.on_data = transport_check_stream;
    /* Straight to the system, behind other writes, and while nothing can be sent. */
    for (round = 0; round < 3; round++) {
        size_t i;
        if (round == 2) {
            aioloop_transport_pause_reading(b.transport);
            blocked = 200000;
            pieces[0].data = transport_bytes + total;
            pieces[0].size = blocked;
            CHECK_EQ(aioloop_transport_writelines(a.transport, pieces, 1), 0);
            total += blocked;
        }
        for (i = 0; i < 20; i++) {
            pieces[i].data = transport_bytes + total;
            pieces[i].size = i % 3 == 0 ? 0 : i * i * 3;
            total += pieces[i].size;
        }
        CHECK_EQ(aioloop_transport_writelines(a.transport, pieces, 20), 0);
        if (round == 1)
            test_run_until_received(loop, &b, total);
    }
    aioloop_transport_resume_reading(b.transport);
    test_run_until_received(loop, &b, total);
    test_end_pair(loop, &a, &b);
    CHECK_EQ(b.received, total);
    test_end(loop);
}

/* ---- when memory ends ---- */

static int transport_memory; /* allocations that still succeed; -1: all */

static void *transport_allocate(void *context, void *pointer, size_t old_size, size_t new_size) {
    void *block;
    (void)context;
    if (new_size == 0) {
        free(pointer);
        return NULL;
    }
    if (transport_memory == 0)
        return NULL;
    if (transport_memory > 0)
        transport_memory--;
    block = malloc(new_size);
    if (block == NULL)
        return NULL;
    if (pointer != NULL)
        memcpy(block, pointer, old_size < new_size ? old_size : new_size);
    free(pointer);
    return block;
}

static aioloop *transport_loop_of_memory(void) {
    aioloop_config config = AIOLOOP_ZERO;
    aioloop_allocator allocator;
    allocator.allocate = transport_allocate;
    allocator.context = NULL;
    config.allocator = &allocator;
    transport_memory = -1;
    return test_loop_with(&config);
}

TEST(a_write_without_memory_takes_nothing, "TRN-06 TRN-02") {
    aioloop *loop = transport_loop_of_memory();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_buf pieces[40];
    size_t total;
    size_t buffered;
    size_t i;
    int memory;
    int err = AIOLOOP_ENOMEM;
    transport_fill();
    test_connect_pair(loop, &a, &b);
    b.on_data = transport_check_stream;
    total = transport_stuff(loop, &a, &b);
    buffered = aioloop_transport_get_write_buffer_size(a.transport);
    transport_memory = 0;
    CHECK_EQ(aioloop_transport_write(a.transport, transport_bytes, 100000), AIOLOOP_ENOMEM);
    CHECK_EQ(aioloop_transport_get_write_buffer_size(a.transport), buffered);
    /* Several pieces, with memory for some of them only: all or none. */
    for (memory = 0; err < 0; memory++) {
        size_t size = 0;
        CHECK_LT(memory, 100);
        for (i = 0; i < 40; i++) {
            pieces[i].data = transport_bytes + total + size;
            pieces[i].size = 3000;
            size += 3000;
        }
        transport_memory = memory;
        err = aioloop_transport_writelines(a.transport, pieces, 40);
        transport_memory = -1;
        if (err < 0)
            CHECK_EQ(err, AIOLOOP_ENOMEM);
        else
            total += size;
        CHECK_EQ(aioloop_transport_get_write_buffer_size(a.transport), buffered + (err < 0 ? 0 : size));
    }
    CHECK_GT(memory, 2);
    CHECK(!aioloop_transport_is_closing(a.transport));
    CHECK_EQ(aioloop_transport_write(a.transport, transport_bytes + total, 10), 0);
    total += 10;
    aioloop_transport_resume_reading(b.transport);
    test_run_until_received(loop, &b, total);
    test_end_pair(loop, &a, &b);
    CHECK_EQ(b.received, total);
    test_end(loop);
}

/* The system took a part and there is no memory for the rest: the stream would be torn, so the connection ends. */
TEST_WITH(a_write_cut_by_lack_of_memory_ends_the_connection, "TRN-02 TRN-13", TEST_REAL_FDS) {
    aioloop *loop = transport_loop_of_memory();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    test_needs_real_descriptors(loop);
    transport_fill();
    test_connect_pair(loop, &a, &b);
    b.on_data = transport_check_stream;
    transport_memory = 0;
    CHECK_EQ(aioloop_transport_write(a.transport, transport_bytes, TRANSPORT_BIG), 0);
    transport_memory = -1;
    CHECK(aioloop_transport_is_closing(a.transport));
    test_run_until(loop, &a.lost, 1, "the loss");
    CHECK_EQ(a.error, AIOLOOP_ENOMEM);
    test_end_pair(loop, &a, &b);
    CHECK_LT(b.received, TRANSPORT_BIG);
    test_end(loop);
}

/* ---- closing ---- */

static void transport_close_now(test_peer *peer) {
    aioloop_transport_close(peer->transport);
    CHECK(aioloop_transport_is_closing(peer->transport));
    CHECK_EQ(peer->lost, 0);
}

static void transport_close_in_data(test_peer *peer, const void *data, size_t size) {
    (void)data;
    (void)size;
    transport_close_now(peer);
}

TEST(close_stops_the_delivery_of_data_at_once, "TRN-07") {
    aioloop *loop = test_loop();
    int where;
    transport_fill();
    for (where = 0; where < 2; where++) { /* inside data_received; from outside with bytes on their way */
        test_peer a = AIOLOOP_ZERO;
        test_peer b = AIOLOOP_ZERO;
        test_connect_pair(loop, &a, &b);
        if (where == 0)
            a.on_data = transport_close_in_data;
        CHECK_EQ(aioloop_transport_write(b.transport, transport_bytes, 200000), 0);
        if (where == 0) {
            test_run_until(loop, &a.datas, 1, "data");
        } else {
            transport_close_now(&a);
        }
        test_run_until(loop, &a.lost, 1, "the loss");
        CHECK_EQ(a.error, 0);
        CHECK_STR(a.calls, where == 0 ? "mdl" : "ml");
        test_end_pair(loop, &a, &b);
    }
    test_end(loop);
}

static void transport_note_order(aioloop *loop, void *arg) {
    int *seen = (int *)arg;
    (void)loop;
    (*seen)++;
}

TEST(close_sends_everything_then_tells_the_loss_later, "TRN-07") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    size_t total;
    transport_fill();
    test_connect_pair(loop, &a, &b);
    b.on_data = transport_check_stream;
    total = transport_stuff(loop, &a, &b);
    CHECK_EQ(aioloop_transport_write(a.transport, transport_bytes + total, 70000), 0);
    total += 70000;
    transport_close_now(&a);
    /* Nobody reads, so it cannot be over. */
    test_run_for(loop, AIOLOOP_MS(5));
    CHECK_EQ(a.lost, 0);
    CHECK_GT(aioloop_transport_get_write_buffer_size(a.transport), 0);
    aioloop_transport_resume_reading(b.transport);
    test_run_until(loop, &b.eof, 1, "the end");
    CHECK_EQ(b.received, total);
    test_run_until(loop, &a.lost, 1, "the loss");
    CHECK_EQ(a.error, 0);
    CHECK_EQ(b.error, 0);
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

TEST(close_with_nothing_to_send_is_told_in_a_later_pass, "TRN-07 TRN-08") {
    aioloop *loop = test_loop();
    int how;
    for (how = 0; how < 2; how++) {
        test_peer a = AIOLOOP_ZERO;
        test_peer b = AIOLOOP_ZERO;
        aioloop_handle h;
        int before = 0;
        test_connect_pair(loop, &a, &b);
        h = aioloop_call_soon(loop, transport_note_order, &before);
        CHECK(!aioloop_handle_is_null(&h));
        if (how == 0)
            aioloop_transport_close(a.transport);
        else
            aioloop_transport_abort(a.transport);
        CHECK_EQ(a.lost, 0);
        test_run_until(loop, &a.lost, 1, "the loss");
        CHECK_EQ(before, 1); /* what was queued before runs before */
        CHECK_EQ(a.error, 0);
        test_end_pair(loop, &a, &b);
    }
    test_end(loop);
}

TEST(abort_drops_what_is_buffered, "TRN-08") {
    aioloop *loop = test_loop();
    int closing;
    transport_fill();
    for (closing = 0; closing < 2; closing++) { /* a connection that is open, and one that is flushing */
        test_peer a = AIOLOOP_ZERO;
        test_peer b = AIOLOOP_ZERO;
        size_t total;
        test_connect_pair(loop, &a, &b);
        b.on_data = transport_check_stream;
        total = transport_stuff(loop, &a, &b);
        CHECK_EQ(aioloop_transport_write(a.transport, transport_bytes + total, 300000), 0);
        total += 300000;
        test_spin(loop, 3);
        if (closing)
            aioloop_transport_close(a.transport);
        aioloop_transport_abort(a.transport);
        CHECK_EQ(a.lost, 0);
        CHECK_EQ(aioloop_transport_get_write_buffer_size(a.transport), 0);
        test_run_until(loop, &a.lost, 1, "the loss"); /* although nobody reads */
        CHECK_EQ(a.error, 0);
        aioloop_transport_resume_reading(b.transport);
        test_run_until(loop, &b.lost, 1, "the peer's loss");
        CHECK_LT(b.received, total);
        test_end_pair(loop, &a, &b);
    }
    test_end(loop);
}

TEST(close_and_abort_may_be_mixed_and_repeated, "TRN-08 TRN-09") {
    aioloop *loop = test_loop();
    int mix;
    transport_fill();
    for (mix = 0; mix < 16; mix++) { /* bit: abort; four calls, the last two after the loss */
        test_peer a = AIOLOOP_ZERO;
        test_peer b = AIOLOOP_ZERO;
        int i;
        test_connect_pair(loop, &a, &b);
        transport_stuff(loop, &a, &b);
        for (i = 0; i < 4; i++) {
            if (i == 2) {
                aioloop_transport_resume_reading(b.transport);
                test_run_until(loop, &a.lost, 1, "the loss");
            }
            if ((mix >> i & 1) != 0)
                aioloop_transport_abort(a.transport);
            else
                aioloop_transport_close(a.transport);
            CHECK(aioloop_transport_is_closing(a.transport));
            CHECK_EQ(a.lost, i < 2 ? 0 : 1);
        }
        test_spin(loop, 5);
        CHECK_EQ(a.error, 0);
        test_end_pair(loop, &a, &b);
    }
    aioloop_transport_close(NULL);
    aioloop_transport_abort(NULL);
    test_end(loop);
}

TEST(is_closing_is_true_from_whatever_ends_the_connection, "TRN-09") {
    aioloop *loop = test_loop();
    int end;
    for (end = 0; end < END_COUNT; end++) {
        test_peer a = AIOLOOP_ZERO;
        test_peer b = AIOLOOP_ZERO;
        test_connect_pair(loop, &a, &b);
        CHECK(!aioloop_transport_is_closing(a.transport));
        CHECK_EQ(aioloop_transport_write(a.transport, "x", 1), 0);
        test_run_until_received(loop, &b, 1); /* what nobody has read would make a reset of the peer's end */
        CHECK(!aioloop_transport_is_closing(a.transport));
        if (end == END_CLOSE || end == END_ABORT) {
            if (end == END_CLOSE)
                aioloop_transport_close(a.transport);
            else
                aioloop_transport_abort(a.transport);
            CHECK(aioloop_transport_is_closing(a.transport));
        } else if (end == END_RAISE) {
            a.on_data = transport_raise_io;
            CHECK_EQ(aioloop_transport_write(b.transport, "x", 1), 0);
            test_run_until(loop, &a.datas, 1, "data");
        } else if (end == END_PEER_ABORT) {
            aioloop_transport_abort(b.transport);
        } else if (end == END_PEER_CLOSE) {
            aioloop_transport_close(b.transport);
        } else {
            CHECK_EQ(aioloop_transport_write_eof(b.transport), 0);
        }
        if (end >= END_PEER_CLOSE && end <= END_PEER_ABORT)
            test_run_until(loop, &a.eof, 1, "the end of file");
        CHECK(aioloop_transport_is_closing(a.transport));
        test_run_until(loop, &a.lost, 1, "the loss");
        CHECK(aioloop_transport_is_closing(a.transport));
        test_reports_clear();
        test_end_pair(loop, &a, &b);
    }
    CHECK(aioloop_transport_is_closing(NULL));
    test_end(loop);
}

/* ---- ends of file ---- */

TEST(write_eof_sends_the_buffer_then_half_closes, "TRN-10") {
    aioloop *loop = test_loop();
    int blocked;
    transport_fill();
    for (blocked = 0; blocked < 2; blocked++) {
        test_peer a = AIOLOOP_ZERO;
        test_peer b = AIOLOOP_ZERO;
        size_t total = 100;
        test_connect_pair(loop, &a, &b);
        b.keep_open = true;
        b.on_data = transport_check_stream;
        CHECK(aioloop_transport_can_write_eof(a.transport));
        if (blocked) {
            total = transport_stuff(loop, &a, &b);
        } else {
            CHECK_EQ(aioloop_transport_write(a.transport, transport_bytes, total), 0);
        }
        CHECK_EQ(aioloop_transport_write_eof(a.transport), 0);
        CHECK_EQ(aioloop_transport_write_eof(a.transport), 0);
        CHECK(!aioloop_transport_is_closing(a.transport));
        test_spin(loop, 3);
        aioloop_transport_resume_reading(b.transport);
        test_run_until(loop, &b.eof, 1, "the end of file");
        CHECK_EQ(b.received, total);
        CHECK_EQ(aioloop_transport_write_eof(a.transport), 0);
        /* The other direction goes on. */
        CHECK_EQ(aioloop_transport_write(b.transport, transport_bytes, 100000), 0);
        test_run_until_received(loop, &a, 100000);
        CHECK(!aioloop_transport_is_closing(a.transport));
        CHECK(!aioloop_transport_is_closing(b.transport));
        CHECK_EQ(aioloop_transport_write_eof(b.transport), 0);
        test_run_until(loop, &a.lost, 1, "the loss");
        test_end_pair(loop, &a, &b);
        CHECK_EQ(b.eof, 1);
        CHECK_EQ(a.eof, 1);
        CHECK_EQ(a.error, 0);
    }
    CHECK(!aioloop_transport_can_write_eof(NULL));
    test_end(loop);
}

TEST(close_after_write_eof_still_sends_everything, "TRN-10 TRN-07") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    size_t total;
    transport_fill();
    test_connect_pair(loop, &a, &b);
    b.on_data = transport_check_stream;
    total = transport_stuff(loop, &a, &b);
    CHECK_EQ(aioloop_transport_write_eof(a.transport), 0);
    aioloop_transport_close(a.transport);
    test_spin(loop, 3);
    aioloop_transport_resume_reading(b.transport);
    test_run_until(loop, &b.lost, 1, "the peer's loss");
    CHECK_EQ(b.received, total);
    test_run_until(loop, &a.lost, 1, "the loss");
    CHECK_EQ(a.error, 0);
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

TEST(after_the_peers_end_one_may_go_on_writing, "TRN-11") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    int i;
    transport_fill();
    test_connect_pair(loop, &a, &b);
    a.keep_open = true;
    b.on_data = transport_check_stream;
    CHECK_EQ(aioloop_transport_write_eof(b.transport), 0);
    test_run_until(loop, &a.eof, 1, "the end of file");
    CHECK(!aioloop_transport_is_closing(a.transport));
    for (i = 0; i < 5; i++) {
        CHECK_EQ(aioloop_transport_write(a.transport, transport_bytes + i * 100000, 100000), 0);
        test_run_until_received(loop, &b, (size_t)(i + 1) * 100000);
        /* Reading is over, and pausing does not bring it back. */
        aioloop_transport_pause_reading(a.transport);
        aioloop_transport_resume_reading(a.transport);
        test_spin(loop, 2);
    }
    CHECK_EQ(a.eof, 1);
    CHECK_EQ(a.lost, 0);
    aioloop_transport_close(a.transport);
    test_run_until(loop, &a.lost, 1, "the loss");
    CHECK_EQ(a.error, 0);
    test_end_pair(loop, &a, &b);
    CHECK_EQ(a.eof, 1);
    CHECK_EQ(a.datas, 0);
    test_end(loop);
}

TEST(after_the_peers_end_the_buffer_is_sent_and_the_connection_closes, "TRN-11") {
    static const aioloop_protocol deaf = {0,    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL};
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_socket s[2];
    size_t total;
    test_needs_unix_pairs(loop); /* others may find more room later */
    transport_fill();
    test_connect_pair(loop, &a, &b);
    b.on_data = transport_check_stream;
    total = transport_stuff(loop, &a, &b);
    CHECK_EQ(aioloop_transport_write_eof(b.transport), 0);
    test_run_until(loop, &a.eof, 1, "the end of file");
    CHECK(aioloop_transport_is_closing(a.transport));
    test_spin(loop, 3);
    CHECK_EQ(a.lost, 0);
    aioloop_transport_resume_reading(b.transport);
    test_run_until(loop, &a.lost, 1, "the loss");
    CHECK_EQ(a.error, 0);
    test_run_until_received(loop, &b, total);
    test_end_pair(loop, &a, &b);
    CHECK_EQ(a.eof, 1);
    /* A protocol without eof_received (without anything) closes too. */
    memset(&b, 0, sizeof(b));
    test_socketpair(loop, s);
    test_adopt(loop, &deaf, NULL, s[0]);
    test_adopt(loop, &test_protocol, &b, s[1]);
    b.keep_open = true;
    CHECK_EQ(aioloop_transport_write(b.transport, "unheard", 7), 0);
    CHECK_EQ(aioloop_transport_write_eof(b.transport), 0);
    test_run_until(loop, &b.eof, 1, "the answer to the end");
    aioloop_transport_close(b.transport);
    test_run_until(loop, &b.lost, 1, "the loss");
    test_peer_drop(&b);
    test_spin(loop, 5);
    test_end(loop);
}

static void transport_pause_and_schedule(test_peer *peer, const void *data, size_t size);

static void transport_resume(aioloop *loop, void *arg) {
    test_peer *peer = (test_peer *)arg;
    (void)loop;
    CHECK(!aioloop_transport_is_reading(peer->transport));
    aioloop_transport_resume_reading(peer->transport);
}

static void transport_pause_and_schedule(test_peer *peer, const void *data, size_t size) {
    aioloop *loop = aioloop_transport_get_loop(peer->transport);
    aioloop_timer_handle timer;
    transport_check_stream(peer, data, size);
    CHECK(aioloop_transport_is_reading(peer->transport)); /* else this should not have come */
    aioloop_transport_pause_reading(peer->transport);
    timer = aioloop_call_later(loop, AIOLOOP_US(10), transport_resume, peer);
    CHECK(!aioloop_handle_is_null(&timer.handle));
}

TEST(all_data_comes_before_the_end_of_file, "TRN-19") {
    aioloop *loop = test_loop();
    int how;
    transport_fill();
    for (how = 0; how < 4; how++) { /* write_eof or close; read at once or with a pause after each piece */
        test_peer a = AIOLOOP_ZERO;
        test_peer b = AIOLOOP_ZERO;
        test_connect_pair(loop, &a, &b);
        a.on_data = how < 2 ? transport_check_stream : transport_pause_and_schedule;
        CHECK_EQ(aioloop_transport_write(b.transport, transport_bytes, 300001), 0);
        if (how % 2 == 0)
            CHECK_EQ(aioloop_transport_write_eof(b.transport), 0);
        else
            aioloop_transport_close(b.transport);
        test_run_until(loop, &a.eof, 1, "the end of file");
        CHECK_EQ(a.received, 300001);
        test_run_until(loop, &a.lost, 1, "the loss");
        test_end_pair(loop, &a, &b);
        CHECK_EQ(a.received, 300001);
        CHECK_EQ(a.error, 0);
        test_run_for(loop, AIOLOOP_MS(1)); /* the last timer */
    }
    test_end(loop);
}

/* Everything is in the socket before anybody reads, the end too. */
TEST(data_and_end_that_wait_together_come_in_order, "TRN-19") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    transport_fill();
    test_connect_pair(loop, &a, &b);
    a.on_data = transport_check_stream;
    aioloop_transport_pause_reading(a.transport);
    CHECK_EQ(aioloop_transport_write(b.transport, transport_bytes, 20000), 0);
    aioloop_transport_close(b.transport);
    test_run_until(loop, &b.lost, 1, "the peer's loss");
    test_run_for(loop, AIOLOOP_MS(5));
    CHECK_STR(a.calls, "m");
    aioloop_transport_resume_reading(a.transport);
    test_run_until(loop, &a.lost, 1, "the loss");
    CHECK_EQ(a.received, 20000);
    CHECK_EQ(a.eof, 1);
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

/* ---- pausing ---- */

TEST(nothing_is_delivered_while_paused, "TRN-12") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    int i;
    transport_fill();
    test_connect_pair(loop, &a, &b);
    a.on_data = transport_check_stream;
    CHECK(aioloop_transport_is_reading(a.transport));
    aioloop_transport_resume_reading(a.transport); /* was not paused */
    CHECK(aioloop_transport_is_reading(a.transport));
    for (i = 0; i < 5; i++) {
        size_t before = a.received;
        aioloop_transport_pause_reading(a.transport);
        aioloop_transport_pause_reading(a.transport);
        CHECK(!aioloop_transport_is_reading(a.transport));
        CHECK_EQ(aioloop_transport_write(b.transport, transport_bytes + 1000 * i, 1000), 0);
        test_spin(loop, 5);
        test_run_for(loop, AIOLOOP_MS(2));
        CHECK_EQ(a.received, before);
        aioloop_transport_resume_reading(a.transport); /* once is enough */
        CHECK(aioloop_transport_is_reading(a.transport));
        aioloop_transport_resume_reading(a.transport);
        CHECK_EQ(a.received, before); /* not from inside the call */
        test_run_until_received(loop, &a, 1000 * (size_t)(i + 1));
    }
    /* Bytes that were found already do not come either. */
    CHECK_EQ(aioloop_transport_write(b.transport, transport_bytes + 5000, 1000), 0);
    for (i = 0; a.received == 5000; i++) {
        CHECK_LT(i, 1000);
        aioloop_transport_pause_reading(a.transport);
        test_spin(loop, 1);
        CHECK_EQ(a.received, 5000);
        aioloop_transport_resume_reading(a.transport);
        test_spin(loop, 1);
    }
    test_run_until_received(loop, &a, 6000);
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

TEST(an_end_and_an_error_wait_for_a_paused_reader, "TRN-12") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    test_connect_pair(loop, &a, &b);
    aioloop_transport_pause_reading(a.transport);
    CHECK_EQ(aioloop_transport_write(b.transport, "before", 6), 0);
    CHECK_EQ(aioloop_transport_write_eof(b.transport), 0);
    test_run_for(loop, AIOLOOP_MS(5));
    CHECK_STR(a.calls, "m");
    aioloop_transport_resume_reading(a.transport);
    test_run_until(loop, &a.lost, 1, "the loss");
    CHECK_EQ(a.received, 6);
    CHECK_EQ(a.eof, 1);
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

TEST(pausing_does_nothing_on_a_closing_transport, "TRN-12") {
    aioloop *loop = test_loop();
    int paused;
    transport_fill();
    for (paused = 0; paused < 2; paused++) {
        test_peer a = AIOLOOP_ZERO;
        test_peer b = AIOLOOP_ZERO;
        test_connect_pair(loop, &a, &b);
        transport_stuff(loop, &a, &b);
        if (paused)
            aioloop_transport_pause_reading(a.transport);
        CHECK_EQ(aioloop_transport_write(b.transport, "x", 1), 0);
        aioloop_transport_close(a.transport);
        CHECK(!aioloop_transport_is_reading(a.transport));
        aioloop_transport_pause_reading(a.transport);
        test_spin(loop, 2);
        aioloop_transport_resume_reading(a.transport);
        aioloop_transport_resume_reading(a.transport);
        CHECK(!aioloop_transport_is_reading(a.transport));
        test_run_for(loop, AIOLOOP_MS(2));
        CHECK_EQ(a.datas, 0);
        aioloop_transport_resume_reading(b.transport);
        test_run_until(loop, &a.lost, 1, "the loss");
        aioloop_transport_pause_reading(a.transport);
        aioloop_transport_resume_reading(a.transport);
        CHECK(!aioloop_transport_is_reading(a.transport));
        test_end_pair(loop, &a, &b);
        CHECK_EQ(a.datas, 0);
    }
    CHECK(!aioloop_transport_is_reading(NULL));
    aioloop_transport_pause_reading(NULL);
    aioloop_transport_resume_reading(NULL);
    test_end(loop);
}

/* ---- errors ---- */

TEST(an_error_of_the_connection_ends_it_unreported, "TRN-13 TRN-09") {
    static const int errors[] = {AIOLOOP_ECONNRESET, AIOLOOP_ETIMEDOUT, AIOLOOP_EHOSTUNREACH};
    aioloop *loop = test_loop();
    size_t i;
    if (!test_simulated(loop)) {
        test_end(loop);
        SKIP("needs a connection that can be broken");
    }
    transport_fill();
    for (i = 0; i < 6; i++) { /* idle, and with something to send */
        test_peer a = AIOLOOP_ZERO;
        test_peer b = AIOLOOP_ZERO;
        test_connect_pair(loop, &a, &b);
        if (i >= 3) {
            transport_stuff(loop, &a, &b);
        }
        CHECK_EQ(aioloop_sim_break(a.transport, errors[i % 3]), 0);
        aioloop_transport_resume_reading(b.transport);
        test_run_until(loop, &a.lost, 1, "the loss");
        test_run_until(loop, &b.lost, 1, "the peer's loss");
        CHECK_EQ(a.error, errors[i % 3]);
        CHECK_EQ(b.error, errors[i % 3]);
        CHECK_EQ(a.eof, 0);
        CHECK_EQ(test_reports(), 0);
        CHECK(aioloop_transport_is_closing(a.transport));
        test_end_pair(loop, &a, &b);
    }
    test_end(loop);
}

TEST_WITH(a_reset_is_what_connection_lost_says, "TRN-13", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    test_peer server_side = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_server *server;
    const aioloop_socket *s;
    struct linger linger;
    int port = 0;
    test_needs_real_descriptors(loop);
    server = test_serve(loop, &test_protocol, &server_side, &port);
    aioloop_transport_unref(test_dial(loop, &test_protocol, &client, port));
    test_run_until(loop, &server_side.made, 1, "the connection");
    linger.l_onoff = 1;
    linger.l_linger = 0;
    s = (const aioloop_socket *)aioloop_transport_get_extra_info(server_side.transport, "socket", NULL);
    CHECK(s != NULL);
    CHECK(setsockopt(*s, SOL_SOCKET, SO_LINGER, &linger, (socklen_t)sizeof(linger)) == 0);
    aioloop_transport_abort(server_side.transport);
    test_run_until(loop, &client.lost, 1, "the loss");
    CHECK_EQ(client.error, AIOLOOP_ECONNRESET);
    CHECK_STR(client.calls, "ml");
    CHECK_EQ(test_reports(), 0);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_end_pair(loop, &client, &server_side);
    test_end(loop);
}

TEST(an_error_found_by_writing_ends_the_connection, "TRN-13 TRN-05") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    aioloop_socket s[2];
    int i;
    test_socketpair(loop, s);
    test_adopt(loop, &test_protocol, &a, s[0]);
    aioloop_transport_pause_reading(a.transport); /* so that nobody hears of the end by reading */
    test_close_socket(loop, s[1]);
    for (i = 0; !aioloop_transport_is_closing(a.transport); i++) {
        CHECK_LT(i, 100);
        CHECK_EQ(aioloop_transport_write(a.transport, "x", 1), 0);
        CHECK_EQ(a.lost, 0);
        test_spin(loop, 2);
    }
    test_run_until(loop, &a.lost, 1, "the loss");
    CHECK(a.error == AIOLOOP_EPIPE || a.error == AIOLOOP_ECONNRESET);
    CHECK_STR(a.calls, "ml");
    CHECK_EQ(test_reports(), 0);
    CHECK_EQ(aioloop_transport_write(a.transport, "x", 1), 0);
    test_spin(loop, 3);
    CHECK_STR(a.calls, "ml");
    test_peer_drop(&a);
    test_end(loop);
}

static void transport_raise(test_peer *peer) {
    aioloop_raise(aioloop_transport_get_loop(peer->transport), AIOLOOP_EIO, "on purpose");
}

TEST(an_error_in_the_protocol_is_reported_and_ends_the_connection, "TRN-14") {
    aioloop *loop = test_loop();
    int where;
    for (where = 0; where < 3; where++) { /* data_received; eof_received, also when it asks to keep the connection */
        test_peer a = AIOLOOP_ZERO;
        test_peer b = AIOLOOP_ZERO;
        const test_report *report;
        test_connect_pair(loop, &a, &b);
        if (where == 0)
            a.on_data = transport_raise_io;
        else
            a.on_eof = transport_raise;
        a.keep_open = where == 2;
        if (where == 0)
            CHECK_EQ(aioloop_transport_write(b.transport, "x", 1), 0);
        else
            CHECK_EQ(aioloop_transport_write_eof(b.transport), 0);
        test_run_until(loop, where == 0 ? &a.datas : &a.eof, 1, "the call that fails");
        CHECK_EQ(test_reports(), 1);
        report = test_report_at(0);
        CHECK_EQ(report->context.error, AIOLOOP_EIO);
        CHECK_PTR(report->context.transport, a.transport);
        CHECK(report->context.protocol == &test_protocol);
        CHECK_STR(report->detail, "on purpose");
        CHECK(strlen(report->message) != 0);
        CHECK(aioloop_transport_is_closing(a.transport));
        /* What comes now is not delivered. */
        aioloop_transport_write(b.transport, "more", 4);
        test_run_until(loop, &a.lost, 1, "the loss");
        CHECK_EQ(a.error, AIOLOOP_EIO);
        test_run_until(loop, &b.lost, 1, "the peer's loss");
        CHECK_STR(a.calls, where == 0 ? "mdl" : "mel");
        CHECK_EQ(test_reports(), 1);
        test_reports_clear();
        test_end_pair(loop, &a, &b);
    }
    test_end(loop);
}

TEST(an_error_in_connection_lost_is_reported_and_the_socket_closed, "TRN-15") {
    aioloop *loop = test_loop();
    int how;
    for (how = 0; how < 2; how++) {
        test_peer a = AIOLOOP_ZERO;
        test_peer b = AIOLOOP_ZERO;
        test_connect_pair(loop, &a, &b);
        a.on_lost = transport_raise;
        if (how == 0)
            aioloop_transport_close(a.transport);
        else
            aioloop_transport_abort(b.transport);
        test_run_until(loop, &a.lost, 1, "the loss");
        test_run_until(loop, &b.lost, 1, "the peer's loss"); /* it saw the socket close */
        CHECK_EQ(test_reports(), 1);
        CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EIO);
        CHECK_PTR(test_report_at(0)->context.transport, a.transport);
        CHECK(test_report_at(0)->context.protocol == &test_protocol);
        CHECK(aioloop_transport_get_extra_info(a.transport, "socket", NULL) == NULL);
        test_reports_clear();
        test_end_pair(loop, &a, &b);
    }
    test_end(loop);
}

/* ---- exchanging the protocol ---- */

static void transport_switch_in_data(test_peer *peer, const void *data, size_t size) {
    test_peer *next = (test_peer *)peer->user;
    (void)data;
    (void)size;
    next->transport = aioloop_transport_ref(peer->transport);
    CHECK_EQ(aioloop_transport_set_protocol(peer->transport, &test_protocol, next), 0);
}

TEST(a_new_protocol_gets_every_call, "TRN-16") {
    aioloop *loop = test_loop();
    int inside;
    transport_fill();
    for (inside = 0; inside < 2; inside++) {
        test_peer a = AIOLOOP_ZERO;
        test_peer b = AIOLOOP_ZERO;
        test_peer next = AIOLOOP_ZERO;
        void *self = NULL;
        size_t total;
        test_connect_pair(loop, &a, &b);
        b.keep_open = true;
        next.keep_open = true;
        CHECK(aioloop_transport_get_protocol(a.transport, &self) == &test_protocol);
        CHECK_PTR(self, &a);
        CHECK_EQ(aioloop_transport_set_protocol(a.transport, NULL, &next), AIOLOOP_EINVAL);
        CHECK_EQ(aioloop_transport_set_protocol(NULL, &test_protocol, &next), AIOLOOP_EINVAL);
        CHECK(aioloop_transport_get_protocol(a.transport, NULL) == &test_protocol);
        CHECK(aioloop_transport_get_protocol(NULL, NULL) == NULL);
        if (inside) {
            a.user = &next;
            a.on_data = transport_switch_in_data;
            CHECK_EQ(aioloop_transport_write(b.transport, "switch", 6), 0);
            test_run_until(loop, &a.datas, 1, "data");
        } else {
            next.transport = aioloop_transport_ref(a.transport);
            CHECK_EQ(aioloop_transport_set_protocol(a.transport, &test_protocol, &next), 0);
        }
        CHECK(aioloop_transport_get_protocol(a.transport, &self) == &test_protocol);
        CHECK_PTR(self, &next);
        CHECK_EQ(aioloop_transport_set_write_buffer_limits(a.transport, 100, 10), 0);
        total = transport_stuff(loop, &a, &b);
        CHECK_EQ(next.paused, next.resumed + 1);
        aioloop_transport_resume_reading(b.transport);
        test_run_until_received(loop, &b, total);
        test_run_until(loop, &next.resumed, next.paused, "resume_writing");
        CHECK_EQ(aioloop_transport_write(b.transport, "data", 4), 0);
        test_run_until_received(loop, &next, 4);
        CHECK_EQ(aioloop_transport_write_eof(b.transport), 0);
        test_run_until(loop, &next.eof, 1, "the end of file");
        aioloop_transport_close(a.transport);
        test_run_until(loop, &next.lost, 1, "the loss");
        test_run_until(loop, &b.eof, 1, "the peer's end of file");
        aioloop_transport_close(b.transport);
        test_run_until(loop, &b.lost, 1, "the peer's loss");
        CHECK_STR(a.calls, inside ? "md" : "m");
        CHECK_EQ(next.made, 0);
        CHECK_EQ(next.calls[strlen(next.calls) - 1], 'l');
        test_peer_drop(&a);
        test_peer_drop(&b);
        test_peer_drop(&next);
    }
    test_end(loop);
}

TEST(the_last_protocol_gets_the_loss, "TRN-16") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    test_peer next = AIOLOOP_ZERO;
    test_connect_pair(loop, &a, &b);
    /* Of the other kind, and when the end is under way already. */
    CHECK_EQ(aioloop_transport_set_protocol(a.transport, &test_buffered_protocol, &a), 0);
    CHECK_EQ(aioloop_transport_write(b.transport, "x", 1), 0);
    test_run_until(loop, &a.datas, 1, "data");
    aioloop_transport_abort(a.transport);
    CHECK_EQ(aioloop_transport_set_protocol(a.transport, &test_protocol, &next), 0);
    test_run_until(loop, &next.lost, 1, "the loss");
    CHECK_STR(a.calls, "mb");
    CHECK_STR(next.calls, "l");
    CHECK_EQ(aioloop_transport_set_protocol(a.transport, &test_protocol, &a), 0); /* after the loss */
    test_run_until(loop, &b.lost, 1, "the peer's loss");
    test_spin(loop, 3);
    CHECK_STR(a.calls, "mb");
    test_peer_drop(&a);
    test_peer_drop(&b);
    test_end(loop);
}

/* ---- extra info ---- */

TEST(extra_info_tells_addresses_also_after_the_loss, "TRN-17") {
    aioloop *loop = test_loop();
    test_peer server_side = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_server *server;
    const aioloop_address *own;
    const aioloop_address *peer;
    const aioloop_address *theirs;
    char text[64];
    int fallback = 0;
    int port = 0;
    int lost;
    server = test_serve(loop, &test_protocol, &server_side, &port);
    aioloop_transport_unref(test_dial(loop, &test_protocol, &client, port));
    test_run_until(loop, &server_side.made, 1, "the connection");
    for (lost = 0; lost < 2; lost++) {
        own = (const aioloop_address *)aioloop_transport_get_extra_info(client.transport, "sockname", NULL);
        peer = (const aioloop_address *)aioloop_transport_get_extra_info(client.transport, "peername", NULL);
        CHECK(own != NULL && peer != NULL);
        CHECK_EQ(own->family, AIOLOOP_INET);
        CHECK_EQ(peer->port, port);
        CHECK_NE(own->port, 0);
        CHECK_NE(own->port, port);
        aioloop_address_host(peer, text, sizeof(text));
        CHECK_STR(text, "127.0.0.1");
        theirs = (const aioloop_address *)aioloop_transport_get_extra_info(server_side.transport, "peername", NULL);
        CHECK(theirs != NULL);
        CHECK(aioloop_address_equal(theirs, own));
        theirs = (const aioloop_address *)aioloop_transport_get_extra_info(server_side.transport, "sockname", NULL);
        CHECK(theirs != NULL);
        CHECK(aioloop_address_equal(theirs, peer));
        /* Names nobody knows, and no name at all. */
        CHECK_PTR(aioloop_transport_get_extra_info(client.transport, "cipher", &fallback), &fallback);
        CHECK_PTR(aioloop_transport_get_extra_info(client.transport, "", &fallback), &fallback);
        CHECK_PTR(aioloop_transport_get_extra_info(client.transport, "socke", &fallback), &fallback);
        CHECK_PTR(aioloop_transport_get_extra_info(client.transport, "sockets", &fallback), &fallback);
        CHECK_PTR(aioloop_transport_get_extra_info(client.transport, NULL, &fallback), &fallback);
        CHECK(aioloop_transport_get_extra_info(client.transport, "cipher", NULL) == NULL);
        CHECK_PTR(aioloop_transport_get_extra_info(NULL, "socket", &fallback), &fallback);
        if (lost == 0) {
            const aioloop_socket *s =
                (const aioloop_socket *)aioloop_transport_get_extra_info(client.transport, "socket", &fallback);
            CHECK(s != NULL && (const void *)s != &fallback);
            CHECK_GE(*s, 0);
            aioloop_transport_close(client.transport);
            test_run_until(loop, &client.lost, 1, "the loss");
            test_run_until(loop, &server_side.lost, 1, "the server's loss");
        } else {
            CHECK_PTR(aioloop_transport_get_extra_info(client.transport, "socket", &fallback), &fallback);
        }
    }
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_end_pair(loop, &client, &server_side);
    test_end(loop);
}

TEST(the_socket_of_a_transport_cannot_be_taken_away, "TRN-18") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    const aioloop_socket *s;
    aioloop_connection_options options = AIOLOOP_ZERO;
    int seen = 0;
    test_connect_pair(loop, &a, &b);
    s = (const aioloop_socket *)aioloop_transport_get_extra_info(a.transport, "socket", NULL);
    CHECK(s != NULL);
    CHECK_EQ(aioloop_add_reader(loop, *s, transport_note_order, &seen), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_add_writer(loop, *s, transport_note_order, &seen), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_remove_reader(loop, *s), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_remove_writer(loop, *s), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_connect_accepted_socket(loop, &test_protocol, &a, *s, NULL), NULL),
             AIOLOOP_EMISUSE);
    options.sock = s;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_connection(loop, &test_protocol, &a, NULL, 0, &options), NULL),
             AIOLOOP_EMISUSE);
    if (test_simulated(loop)) {
        CHECK_EQ(aioloop_sim_close(loop, *s), AIOLOOP_EMISUSE);
    } else {
        /* For options and for looking: it is the system's own number, and does not block. */
        int size = 32768;
        socklen_t length = (socklen_t)sizeof(size);
        CHECK(setsockopt(*s, SOL_SOCKET, SO_SNDBUF, &size, length) == 0);
        CHECK(getsockopt(*s, SOL_SOCKET, SO_SNDBUF, &size, &length) == 0);
        CHECK_GE(size, 32768);
        CHECK((fcntl(*s, F_GETFL) & O_NONBLOCK) != 0);
        CHECK((fcntl(*s, F_GETFD) & FD_CLOEXEC) != 0);
    }
    /* The connection noticed nothing. */
    CHECK_EQ(aioloop_transport_write(a.transport, "x", 1), 0);
    CHECK_EQ(aioloop_transport_write(b.transport, "y", 1), 0);
    test_run_until_received(loop, &a, 1);
    test_run_until_received(loop, &b, 1);
    CHECK_EQ(seen, 0);
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

/* ---- every method in every callback ---- */

typedef enum transport_stage { AT_MADE, AT_PAUSE, AT_RESUME, AT_DATA, AT_EOF, AT_LOST, AT_COUNT } transport_stage;

typedef enum transport_act {
    DO_NOTHING,
    DO_CLOSE,
    DO_ABORT,
    DO_CLOSE_ABORT,
    DO_PAUSE,
    DO_PAUSE_RESUME,
    DO_SET_PROTOCOL,
    DO_WRITE,
    DO_WRITE_BIG,
    DO_WRITE_EOF,
    DO_WRITE_CLOSE,
    DO_EOF_CLOSE,
    DO_ABORT_WRITE,
    DO_LIMITS,
    DO_WRITE_OWNED,
    DO_DROP,
    DO_COUNT
} transport_act;

/* Static: the library may give lent memory back when a test that gave up is cleaned up. */
static struct transport_case {
    test_peer peer;
    transport_stage stage;
    transport_act act;
    bool raise;
    int done;         /* the act was done */
    size_t calls;     /* so many calls there had been */
    int lent;
    int released;
    aioloop *loop;
    bool inside;      /* inside the act: nothing but pause_writing may be called from in there */
} transport_now;

static void transport_released(const void *data, size_t size, void *arg) {
    (void)data;
    (void)size;
    CHECK(arg == &transport_now);
    CHECK(!transport_now.inside);
    transport_now.released++;
}

static void transport_do(aioloop_transport *t, transport_act act) {
    switch (act) {
    case DO_NOTHING:
    case DO_COUNT:
        break;
    case DO_CLOSE:
        aioloop_transport_close(t);
        break;
    case DO_ABORT:
        aioloop_transport_abort(t);
        break;
    case DO_CLOSE_ABORT:
        aioloop_transport_close(t);
        aioloop_transport_abort(t);
        aioloop_transport_close(t);
        break;
    case DO_PAUSE:
        aioloop_transport_pause_reading(t);
        break;
    case DO_PAUSE_RESUME:
        aioloop_transport_pause_reading(t);
        aioloop_transport_resume_reading(t);
        break;
    case DO_SET_PROTOCOL:
        CHECK_EQ(aioloop_transport_set_protocol(t, &test_buffered_protocol, &transport_now.peer), 0);
        break;
    case DO_WRITE:
        CHECK_EQ(aioloop_transport_write(t, "written", 7), 0);
        CHECK_EQ(aioloop_transport_write(t, "twice", 5), 0);
        break;
    case DO_WRITE_BIG:
        CHECK_EQ(aioloop_transport_write(t, transport_bytes, 400000), 0);
        break;
    case DO_WRITE_EOF:
        CHECK_EQ(aioloop_transport_write_eof(t), 0);
        break;
    case DO_WRITE_CLOSE:
        CHECK_EQ(aioloop_transport_write(t, "last", 4), 0);
        aioloop_transport_close(t);
        CHECK_EQ(aioloop_transport_write(t, "late", 4), 0);
        break;
    case DO_EOF_CLOSE:
        CHECK_EQ(aioloop_transport_write_eof(t), 0);
        aioloop_transport_close(t);
        break;
    case DO_ABORT_WRITE:
        aioloop_transport_abort(t);
        CHECK_EQ(aioloop_transport_write(t, "late", 4), 0);
        CHECK_EQ(aioloop_transport_write_eof(t), 0);
        break;
    case DO_LIMITS:
        CHECK_EQ(aioloop_transport_set_write_buffer_limits(t, 0, 0), 0);
        break;
    case DO_WRITE_OWNED:
        if (aioloop_transport_write_owned(t, transport_bytes, 1000, transport_released, &transport_now) == 0)
            transport_now.lent++;
        break;
    case DO_DROP:
        test_peer_drop(&transport_now.peer); /* the loop's own reference carries it */
        break;
    }
}

static void transport_reached(test_peer *peer, transport_stage stage) {
    struct transport_case *now = &transport_now;
    if (now->stage != stage || now->done != 0 || peer != &now->peer)
        return;
    now->done = 1;
    now->calls = strlen(peer->calls);
    now->inside = true;
    transport_do(peer->transport, now->act);
    now->inside = false;
    if (now->raise)
        aioloop_raise(now->loop, AIOLOOP_EIO, "on purpose");
}

static void transport_at_made(test_peer *peer) {
    transport_reached(peer, AT_MADE);
}
static void transport_at_pause(test_peer *peer) {
    transport_reached(peer, AT_PAUSE);
}
static void transport_at_resume(test_peer *peer) {
    transport_reached(peer, AT_RESUME);
}
static void transport_at_data(test_peer *peer, const void *data, size_t size) {
    (void)data;
    (void)size;
    transport_reached(peer, AT_DATA);
}
static void transport_at_eof(test_peer *peer) {
    transport_reached(peer, AT_EOF);
}
static void transport_at_lost(test_peer *peer) {
    transport_reached(peer, AT_LOST);
}

/* Brings a connection to one stage, where one thing is done, maybe with an error; then it has to end as every other. */
static void transport_try(aioloop *loop, transport_stage stage, transport_act act, bool raise) {
    struct transport_case *now = &transport_now;
    test_peer *a = &now->peer;
    test_peer b = AIOLOOP_ZERO;
    aioloop_socket s[2];
    aioloop_transport *t;
    const char *after;
    bool ends = act == DO_CLOSE || act == DO_ABORT || act == DO_CLOSE_ABORT || act == DO_WRITE_CLOSE ||
                act == DO_EOF_CLOSE || act == DO_ABORT_WRITE;
    memset(now, 0, sizeof(*now));
    now->loop = loop;
    now->stage = stage;
    now->act = act;
    now->raise = raise;
    a->on_made = transport_at_made;
    a->on_pause = transport_at_pause;
    a->on_resume = transport_at_resume;
    a->on_data = transport_at_data;
    a->on_eof = transport_at_eof;
    a->on_lost = transport_at_lost;
    a->keep_open = true;
    b.keep_open = true;
    test_socketpair(loop, s);
    test_adopt(loop, &test_protocol, &b, s[1]);
    test_adopt(loop, &test_protocol, a, s[0]);
    if (stage == AT_PAUSE || stage == AT_RESUME) {
        aioloop_transport_pause_reading(b.transport);
        CHECK_EQ(aioloop_transport_set_write_buffer_limits(a->transport, 0, 0), 0);
        CHECK_EQ(aioloop_transport_write(a->transport, transport_bytes, 400000), 0);
        CHECK_EQ(a->paused, 1);
    }
    aioloop_transport_resume_reading(b.transport);
    if (stage == AT_DATA)
        CHECK_EQ(aioloop_transport_write(b.transport, "ping", 4), 0);
    else if (stage == AT_EOF)
        CHECK_EQ(aioloop_transport_write_eof(b.transport), 0);
    else if (stage == AT_LOST)
        aioloop_transport_close(a->transport);
    test_run_until(loop, &now->done, 1, "the stage");
    test_spin(loop, 10);
    t = a->transport;
    if (t == NULL && a->lost == 0) { /* dropped in the middle; end it from the other side */
        a->keep_open = false;
        if (stage == AT_EOF)
            CHECK_EQ(test_reports(), raise ? 1 : 0);
        CHECK_EQ(aioloop_transport_write_eof(b.transport), 0);
    }
    if (ends || (raise && (stage == AT_DATA || stage == AT_EOF)) || stage == AT_LOST)
        test_run_until(loop, &a->lost, 1, "the loss");
    else if (t != NULL)
        CHECK(!aioloop_transport_is_closing(t));
    aioloop_transport_abort(t);
    if (t == NULL && stage == AT_EOF) {
        aioloop_transport_abort(b.transport); /* it was kept open for ever; its write finds out */
        test_run_until(loop, &b.lost, 1, "the peer's loss");
        if (a->lost == 0) {
            test_peer_drop(&b);
            return; /* an idle connection that nobody holds: it goes with the loop */
        }
    } else {
        test_run_until(loop, &a->lost, 1, "the loss");
        aioloop_transport_abort(b.transport);
        test_run_until(loop, &b.lost, 1, "the peer's loss");
    }
    test_spin(loop, 3);
    CHECK_EQ(a->made, 1);
    CHECK_EQ(a->lost, 1);
    CHECK_EQ(b.lost, 1);
    CHECK_EQ(a->calls[strlen(a->calls) - 1], 'l');
    CHECK_EQ(now->released, now->lent);
    CHECK_EQ(test_reports(), raise ? 1 : 0);
    if (raise) {
        CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EIO);
        /* Whether a close was over before the error depends on there being something to send. */
        if (stage == AT_DATA || stage == AT_EOF)
            CHECK(a->error == AIOLOOP_EIO || (ends && a->error == 0));
    } else {
        CHECK_EQ(a->error, 0);
    }
    /* After a close only what flushing brings may come, after an abort nothing but the loss. */
    after = a->calls + now->calls;
    if (ends && stage != AT_LOST) {
        CHECK_STR(strchr(after, 'l'), "l");
        CHECK(strpbrk(after, "mdbe") == NULL);
        if (act == DO_ABORT || act == DO_CLOSE_ABORT || act == DO_ABORT_WRITE)
            CHECK_STR(after, "l");
    }
    if (stage == AT_LOST)
        CHECK_STR(after, "");
    test_reports_clear();
    test_log_clear();
    test_peer_drop(a);
    test_peer_drop(&b);
}

static void transport_try_all(transport_stage stage) {
    aioloop *loop = test_loop();
    int act;
    transport_fill();
    for (act = 0; act < DO_COUNT; act++) {
        transport_try(loop, stage, (transport_act)act, false);
        transport_try(loop, stage, (transport_act)act, true);
    }
    test_end(loop);
}

TEST(connection_made_may_call_everything_and_fail, "TRN-01 TRN-08 TRN-12") {
    transport_try_all(AT_MADE);
}
TEST(pause_writing_may_call_everything_and_fail, "TRN-01 TRN-08 FLOW-05") {
    transport_try_all(AT_PAUSE);
}
TEST(resume_writing_may_call_everything_and_fail, "TRN-01 TRN-08 FLOW-05") {
    transport_try_all(AT_RESUME);
}
TEST(data_received_may_call_everything_and_fail, "TRN-01 TRN-08 TRN-14") {
    transport_try_all(AT_DATA);
}
TEST(eof_received_may_call_everything_and_fail, "TRN-01 TRN-08 TRN-14") {
    transport_try_all(AT_EOF);
}
TEST(connection_lost_may_call_everything_and_fail, "TRN-01 TRN-08 TRN-15") {
    transport_try_all(AT_LOST);
}

/* ---- references ---- */

static void transport_poke(aioloop *loop, aioloop_transport *t, bool closed) {
    aioloop_buf piece;
    void *self = NULL;
    size_t low = 1;
    size_t high = 1;
    piece.data = "x";
    piece.size = 1;
    CHECK_PTR(aioloop_transport_get_loop(t), loop);
    CHECK_EQ(aioloop_transport_write(t, "x", 1), 0);
    CHECK_EQ(aioloop_transport_writelines(t, &piece, 1), 0);
    CHECK_EQ(aioloop_transport_write_owned(t, "x", 1, transport_released, &transport_now),
             closed ? AIOLOOP_ECLOSED : AIOLOOP_ENOTCONN);
    CHECK_EQ(aioloop_transport_write_eof(t), 0);
    CHECK(aioloop_transport_can_write_eof(t));
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(t, 0, 0), 0);
    aioloop_transport_get_write_buffer_limits(t, &low, &high);
    CHECK_EQ(low, 0);
    CHECK_EQ(high, 0);
    CHECK_EQ(aioloop_transport_get_write_buffer_size(t), 0);
    aioloop_transport_pause_reading(t);
    CHECK(!aioloop_transport_is_reading(t));
    aioloop_transport_resume_reading(t);
    CHECK(!aioloop_transport_is_reading(t));
    aioloop_transport_close(t);
    aioloop_transport_abort(t);
    aioloop_transport_close(t);
    CHECK(aioloop_transport_is_closing(t));
    CHECK_EQ(aioloop_transport_set_protocol(t, &test_buffered_protocol, &self), 0);
    CHECK(aioloop_transport_get_protocol(t, &self) == &test_buffered_protocol);
    CHECK(aioloop_transport_get_extra_info(t, "socket", NULL) == NULL);
    CHECK(aioloop_transport_get_extra_info(t, "nothing", t) == t);
}

TEST(after_the_loss_every_method_is_safe, "TRN-05 TRN-08 TRN-12") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_transport *t;
    memset(&transport_now, 0, sizeof(transport_now));
    test_connect_pair(loop, &a, &b);
    t = aioloop_transport_ref(a.transport);
    CHECK_PTR(t, a.transport);
    test_end_pair(loop, &a, &b);
    transport_poke(loop, t, false);
    test_spin(loop, 3);
    transport_poke(loop, t, false);
    CHECK_STR(a.calls, "ml");
    CHECK_EQ(transport_now.released, 0);
    aioloop_transport_unref(t);
    CHECK(aioloop_transport_ref(NULL) == NULL);
    aioloop_transport_unref(NULL);
    test_end(loop);
}

TEST(after_the_loop_is_closed_every_method_is_safe, "TRN-05 TRN-08 TRN-12") {
    aioloop *loop = test_loop();
    test_peer a[4]; /* open; with something to send; closing; aborted */
    test_peer b[4];
    int i;
    transport_fill();
    memset(a, 0, sizeof(a));
    memset(b, 0, sizeof(b));
    memset(&transport_now, 0, sizeof(transport_now));
    for (i = 0; i < 4; i++) {
        test_connect_pair(loop, &a[i], &b[i]);
        if (i == 1 || i == 2)
            transport_stuff(loop, &a[i], &b[i]);
    }
    test_spin(loop, 3);
    aioloop_transport_close(a[2].transport);
    aioloop_transport_abort(a[3].transport);
    CHECK_EQ(aioloop_close(loop), 0);
    for (i = 0; i < 4; i++) {
        transport_poke(loop, a[i].transport, true);
        transport_poke(loop, b[i].transport, true);
        CHECK_STR(a[i].calls, "m"); /* nobody is told */
        CHECK_STR(b[i].calls, "m");
    }
    for (i = 0; i < 4; i++) { /* dropped before the loop is freed, or left to it */
        if (i % 2 == 0)
            test_peer_drop(&a[i]);
        else
            test_peer_drop(&b[i]);
    }
    test_end(loop);
    CHECK_EQ(transport_now.released, 0);
}
