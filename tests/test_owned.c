/*
 * test_owned.c - aioloop_transport_write_owned: memory that is lent comes back exactly once, in order and from the loop, in
 * whatever way the connection ends; on an error code it was never lent.
 */
#include "support.h"

#define OWNED_BIG (1024u * 1024u)
#define OWNED_BLOCK 20000u

static unsigned char owned_bytes[OWNED_BIG];

/* What was lent and came back. Static: the library also gives it back when a test that gave up is cleaned up. */
static struct owned_state {
    aioloop *loop;
    test_peer a;
    test_peer b;
    size_t written; /* of the stream */
    int lent;
    int released; /* numbers from 1 come back in the order of lending */
    bool inside;  /* a call that must not release from inside */
    int wanted;   /* at this release ... */
    void (*act)(struct owned_state *state); /* ... this is done */
    bool many;    /* it is done often */
    int lost_at;  /* how many had come back when connection_lost was called */
} owned;

static unsigned char owned_byte(size_t i) {
    return (unsigned char)(i * 13 + i / 241 + i / 65536);
}

static void owned_check_stream(test_peer *peer, const void *data, size_t size) {
    const unsigned char *at = (const unsigned char *)data;
    size_t start = peer->received - size;
    size_t i;
    for (i = 0; i < size; i++)
        if (at[i] != owned_byte(start + i))
            FAIL("byte %lu of the stream is wrong", (unsigned long)(start + i));
}

static void owned_note_loss(test_peer *peer) {
    (void)peer;
    owned.lost_at = owned.released;
}

static void owned_begin(aioloop *loop) {
    static size_t begun;
    size_t dirty = begun++ == 0 ? OWNED_BIG : owned.written; /* what the releases before have spoilt */
    size_t i;
    memset(&owned, 0, sizeof(owned));
    for (i = 0; i < dirty; i++)
        owned_bytes[i] = owned_byte(i);
    owned.loop = loop;
    owned.b.on_data = owned_check_stream;
    owned.a.on_lost = owned_note_loss;
    test_connect_pair(loop, &owned.a, &owned.b);
}

/* arg is the number of the lending, counted by a pointer into this. */
static char owned_numbers[1000];

static void owned_release(const void *data, size_t size, void *arg) {
    struct owned_state *state = &owned;
    int number = (int)((char *)arg - owned_numbers);
    bool closed = aioloop_is_closed(state->loop); /* maybe by the clean-up of a test that gave up anywhere */
    if (state->inside && !closed)
        FAIL("released from inside the call");
    CHECK_EQ(number, ++state->released);
    CHECK_LE(state->released, state->lent);
    CHECK((const unsigned char *)data >= owned_bytes && (const unsigned char *)data + size <= owned_bytes + OWNED_BIG);
    memset(owned_bytes + ((const unsigned char *)data - owned_bytes), 0xee, size); /* it is ours again */
    if (state->act != NULL && number == state->wanted && !closed)
        state->act(state);
}

static int owned_try(aioloop_transport *t, const void *data, size_t size) {
    bool inside = owned.inside;
    int err;
    owned.lent++;
    CHECK_LT(owned.lent, (int)sizeof(owned_numbers));
    owned.inside = true;
    err = aioloop_transport_write_owned(t, data, size, owned_release, owned_numbers + owned.lent);
    owned.inside = inside;
    if (err < 0)
        owned.lent--;
    return err;
}

/* Lends the stream's next bytes. */
static void owned_lend(size_t size) {
    CHECK(owned.written + size <= OWNED_BIG);
    CHECK_EQ(owned_try(owned.a.transport, owned_bytes + owned.written, size), 0);
    owned.written += size;
}

/* Writes the stream's next bytes with a copy. */
static void owned_copy(size_t size) {
    CHECK(owned.written + size <= OWNED_BIG);
    CHECK_EQ(aioloop_transport_write(owned.a.transport, owned_bytes + owned.written, size), 0);
    owned.written += size;
}

/* Blocks the connection: the peer does not read and the system takes no more. */
static void owned_block(void) {
    size_t size = 0;
    aioloop_transport_pause_reading(owned.b.transport);
    do {
        owned_copy(32768);
        do {
            size = aioloop_transport_get_write_buffer_size(owned.a.transport);
            test_spin(owned.loop, 8);
        } while (aioloop_transport_get_write_buffer_size(owned.a.transport) != size);
    } while (size == 0);
}

static void owned_end(void) {
    test_end_pair(owned.loop, &owned.a, &owned.b);
    CHECK_EQ(owned.released, owned.lent);
}

TEST(lent_bytes_are_sent_and_come_back_once, "TRN-02") {
    aioloop *loop = test_loop();
    size_t sizes[] = {1, 100, 5000, 200000, 3};
    size_t i;
    owned_begin(loop);
    for (i = 0; i < 5; i++) {
        owned_lend(sizes[i]);
        CHECK_EQ(owned.released, (int)i);
        CHECK_EQ(aioloop_transport_get_write_buffer_size(owned.a.transport), sizes[i]);
        test_run_until_received(loop, &owned.b, owned.written);
        test_run_until(loop, &owned.released, (int)i + 1, "the release");
        test_spin(loop, 3);
        CHECK_EQ(owned.released, (int)i + 1);
        CHECK_EQ(aioloop_transport_get_write_buffer_size(owned.a.transport), 0);
    }
    owned_end();
    test_end(loop);
}

TEST(lent_and_copied_bytes_keep_their_order, "TRN-02 TRN-03") {
    aioloop *loop = test_loop();
    int round;
    int i;
    owned_begin(loop);
    if (test_simulated(loop))
        CHECK_EQ(aioloop_sim_set_buffer(loop, 777), 0); /* every send is a part */
    for (round = 0; round < 3; round++) { /* straight, behind others, and blocked */
        for (i = 0; i < 20; i++) {
            owned_copy((size_t)(i * 37));
            owned_lend((size_t)(i * i * 5 + 1));
            owned_lend((size_t)(i % 4 * 1000));
            if (i % 5 == 0)
                owned_copy(6000);
            if (round == 1)
                test_spin(loop, 1);
        }
        if (round == 1)
            owned_block();
    }
    aioloop_transport_resume_reading(owned.b.transport);
    test_run_until_received(loop, &owned.b, owned.written);
    test_run_until(loop, &owned.released, owned.lent, "the releases");
    owned_end();
    CHECK_EQ(owned.b.received, owned.written);
    test_end(loop);
}

TEST(lending_nothing_releases_once_and_in_order, "TRN-02") {
    aioloop *loop = test_loop();
    owned_begin(loop);
    owned_lend(0);
    CHECK_EQ(owned.released, 0);
    test_run_until(loop, &owned.released, 1, "the release");
    owned_lend(0);
    owned_lend(0);
    owned_copy(10);
    owned_lend(0);
    owned_lend(10);
    owned_lend(0);
    test_run_until(loop, &owned.released, owned.lent, "the releases");
    test_run_until_received(loop, &owned.b, owned.written);
    owned_block();
    owned_lend(0);
    owned_lend(1);
    owned_lend(0);
    test_spin(loop, 10);
    CHECK_EQ(owned.released, owned.lent - 3); /* behind bytes that cannot go */
    aioloop_transport_resume_reading(owned.b.transport);
    test_run_until(loop, &owned.released, owned.lent, "the releases");
    /* The last thing before a close, and before the end of the stream. */
    owned_lend(0);
    aioloop_transport_close(owned.a.transport);
    test_run_until(loop, &owned.a.lost, 1, "the loss");
    test_run_until(loop, &owned.released, owned.lent, "the last release");
    test_run_until_received(loop, &owned.b, owned.written);
    owned_end();
    CHECK_EQ(owned.b.received, owned.written);
    test_end(loop);
}

TEST(lent_bytes_count_for_flow_control, "FLOW-01 FLOW-06") {
    aioloop *loop = test_loop();
    size_t before;
    owned_begin(loop);
    owned_block();
    before = aioloop_transport_get_write_buffer_size(owned.a.transport);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(owned.a.transport, (int64_t)before + 1000, 0), 0);
    CHECK_EQ(owned.a.paused, 0);
    owned_lend(1000);
    CHECK_EQ(aioloop_transport_get_write_buffer_size(owned.a.transport), before + 1000);
    CHECK_EQ(owned.a.paused, 0);
    owned_lend(1);
    CHECK_EQ(owned.a.paused, 1);
    aioloop_transport_resume_reading(owned.b.transport);
    test_run_until(loop, &owned.a.resumed, 1, "resume_writing");
    CHECK_EQ(aioloop_transport_get_write_buffer_size(owned.a.transport), 0);
    test_run_until(loop, &owned.released, 2, "the releases");
    owned_end();
    CHECK_EQ(owned.a.paused, 1);
    CHECK_EQ(owned.a.resumed, 1);
    test_end(loop);
}

/* ---- the ends of a connection ---- */

typedef enum owned_way {
    OWNED_CLOSE,
    OWNED_ABORT,
    OWNED_CLOSE_ABORT,
    OWNED_WRITE_EOF,
    OWNED_PEER_ABORT,
    OWNED_PEER_EOF,
    OWNED_RAISE,
    OWNED_BREAK,
    OWNED_WAYS
} owned_way;

static void owned_raise(test_peer *peer, const void *data, size_t size) {
    (void)data;
    (void)size;
    aioloop_raise(aioloop_transport_get_loop(peer->transport), AIOLOOP_EIO, "on purpose");
}

/* Ends a connection that has something lent and not sent. True if what is buffered is sent all the same. */
static bool owned_end_by(owned_way way) {
    aioloop_transport *t = owned.a.transport;
    switch (way) {
    case OWNED_CLOSE:
        aioloop_transport_close(t);
        return true;
    case OWNED_ABORT:
        aioloop_transport_abort(t);
        return false;
    case OWNED_CLOSE_ABORT:
        aioloop_transport_close(t);
        test_spin(owned.loop, 2);
        aioloop_transport_abort(t);
        return false;
    case OWNED_WRITE_EOF:
        CHECK_EQ(aioloop_transport_write_eof(t), 0);
        return true;
    case OWNED_PEER_ABORT:
        aioloop_transport_abort(owned.b.transport);
        return false;
    case OWNED_PEER_EOF:
        CHECK_EQ(aioloop_transport_write_eof(owned.b.transport), 0);
        return true;
    case OWNED_RAISE:
        owned.a.on_data = owned_raise;
        CHECK_EQ(aioloop_transport_write(owned.b.transport, "x", 1), 0);
        return false;
    case OWNED_BREAK:
        CHECK_EQ(aioloop_sim_break(t, AIOLOOP_ECONNRESET), 0);
        return false;
    case OWNED_WAYS:
        break;
    }
    return false;
}

static void owned_try_way(owned_way way) {
    aioloop *loop = test_loop();
    int blocked;
    if (way == OWNED_BREAK && !test_simulated(loop)) {
        test_end(loop);
        SKIP("needs a connection that can be broken");
    }
    if (way == OWNED_PEER_EOF)
        test_needs_unix_pairs(loop); /* others may find more room later */
    for (blocked = 0; blocked < 2; blocked++) {
        bool sent;
        owned_begin(loop);
        if (blocked)
            owned_block();
        owned_lend(100);
        owned_copy(100);
        owned_lend(0);
        owned_lend(OWNED_BLOCK);
        owned_lend(0);
        owned.inside = true; /* ending calls nobody */
        if (way != OWNED_CLOSE_ABORT && way != OWNED_RAISE)
            sent = owned_end_by(way);
        else {
            owned.inside = false;
            sent = owned_end_by(way);
        }
        owned.inside = false;
        if (sent && blocked) {
            test_spin(loop, 10);
            CHECK_EQ(owned.released, 0);
            CHECK_EQ(owned.a.lost, 0);
        }
        if (sent) {
            aioloop_transport_resume_reading(owned.b.transport);
            test_run_until_received(loop, &owned.b, owned.written);
        }
        if (way == OWNED_WRITE_EOF) {
            test_run_until(loop, &owned.released, owned.lent, "the releases");
            aioloop_transport_close(owned.a.transport);
        }
        test_run_until(loop, &owned.a.lost, 1, "the loss");
        test_run_until(loop, &owned.released, owned.lent, "the releases");
        test_spin(loop, 5);
        CHECK_EQ(test_reports(), way == OWNED_RAISE ? 1 : 0);
        test_reports_clear();
        if (sent)
            CHECK_EQ(owned.a.error, 0);
        owned_end();
    }
    test_end(loop);
}

TEST(close_sends_what_is_lent_and_gives_it_back, "TRN-07") {
    owned_try_way(OWNED_CLOSE);
}
TEST(abort_gives_back_what_is_lent, "TRN-08") {
    owned_try_way(OWNED_ABORT);
}
TEST(abort_after_close_gives_back_what_is_lent, "TRN-08") {
    owned_try_way(OWNED_CLOSE_ABORT);
}
TEST(write_eof_comes_behind_what_is_lent, "TRN-10") {
    owned_try_way(OWNED_WRITE_EOF);
}
TEST(a_peer_that_is_gone_gives_back_what_is_lent, "TRN-13") {
    owned_try_way(OWNED_PEER_ABORT);
}
TEST(the_peers_end_sends_what_is_lent_and_gives_it_back, "TRN-11") {
    owned_try_way(OWNED_PEER_EOF);
}
TEST(an_error_in_the_protocol_gives_back_what_is_lent, "TRN-14") {
    owned_try_way(OWNED_RAISE);
}
TEST(a_broken_connection_gives_back_what_is_lent, "TRN-13") {
    owned_try_way(OWNED_BREAK);
}

TEST(closing_the_loop_gives_back_what_is_lent, "") {
    int how;
    for (how = 0; how < 6; how++) { /* close or free; open, closing, aborted */
        aioloop *loop = test_loop();
        owned_begin(loop);
        owned_block();
        owned_lend(100);
        owned_copy(100);
        owned_lend(0);
        owned_lend(OWNED_BLOCK);
        test_spin(loop, how % 2);
        if (how / 2 == 1)
            aioloop_transport_close(owned.a.transport);
        else if (how / 2 == 2)
            aioloop_transport_abort(owned.a.transport);
        if (how % 2 == 0) {
            CHECK_EQ(aioloop_close(loop), 0);
            CHECK_EQ(owned.released, owned.lent);
            CHECK_EQ(owned_try(owned.a.transport, owned_bytes, 10), AIOLOOP_ECLOSED);
            CHECK_EQ(owned_try(owned.b.transport, owned_bytes, 0), AIOLOOP_ECLOSED);
        }
        test_end(loop);
        CHECK_EQ(owned.released, owned.lent);
        CHECK_EQ(owned.a.lost, 0);
    }
}

/* Lent, not sent by any iteration, and the loop goes. */
TEST(lent_bytes_that_never_left_come_back_from_a_free, "") {
    aioloop *loop = test_loop();
    owned_begin(loop);
    owned_lend(10);
    owned_lend(0);
    CHECK_EQ(owned.released, 0);
    test_end(loop);
    CHECK_EQ(owned.released, 2);
}

/* ---- errors leave the bytes with the caller ---- */

static void owned_never(const void *data, size_t size, void *arg) {
    (void)data;
    (void)size;
    (void)arg;
    FAIL("these bytes were never lent");
}

static void owned_refused(aioloop_transport *t, int code) {
    CHECK_EQ(aioloop_transport_write_owned(t, owned_bytes, 10, owned_never, NULL), code);
    CHECK_EQ(aioloop_transport_write_owned(t, owned_bytes, 0, owned_never, NULL), code);
}

static void owned_write_at_loss(test_peer *peer) {
    owned_refused(peer->transport, AIOLOOP_ENOTCONN);
}

TEST(a_refused_lending_leaves_the_bytes_with_the_caller, "TRN-04 TRN-05") {
    aioloop *loop = test_loop();
    int how;
    for (how = 0; how < 4; how++) { /* after write_eof, close with a buffer, close, abort */
        aioloop_transport *t;
        owned_begin(loop);
        owned.a.on_lost = owned_write_at_loss;
        owned.b.keep_open = true;
        t = owned.a.transport;
        CHECK_EQ(aioloop_transport_write_owned(NULL, owned_bytes, 10, owned_never, NULL), AIOLOOP_EINVAL);
        CHECK_EQ(aioloop_transport_write_owned(t, NULL, 10, owned_never, NULL), AIOLOOP_EINVAL);
        CHECK_EQ(aioloop_transport_write_owned(t, owned_bytes, 10, NULL, NULL), AIOLOOP_EINVAL);
        CHECK_EQ(aioloop_transport_get_write_buffer_size(t), 0);
        if (how == 1)
            owned_block();
        if (how == 0) {
            CHECK_EQ(aioloop_transport_write_eof(t), 0);
            owned_refused(t, AIOLOOP_EMISUSE);
            test_run_until(loop, &owned.b.eof, 1, "the end of file");
            owned_refused(t, AIOLOOP_EMISUSE);
            CHECK(!aioloop_transport_is_closing(t));
            aioloop_transport_close(t);
        } else if (how < 3) {
            aioloop_transport_close(t);
        } else {
            aioloop_transport_abort(t);
        }
        owned_refused(t, AIOLOOP_ENOTCONN);
        aioloop_transport_resume_reading(owned.b.transport);
        test_run_until(loop, &owned.a.lost, 1, "the loss");
        owned_refused(t, AIOLOOP_ENOTCONN);
        test_spin(loop, 3);
        owned_end();
    }
    test_end(loop);
}

static int owned_memory = -1; /* allocations that still succeed; -1: all */

static void *owned_allocate(void *context, void *pointer, size_t old_size, size_t new_size) {
    void *block;
    (void)context;
    if (new_size == 0) {
        free(pointer);
        return NULL;
    }
    if (owned_memory == 0)
        return NULL;
    block = malloc(new_size);
    if (block == NULL)
        return NULL;
    if (pointer != NULL)
        memcpy(block, pointer, old_size < new_size ? old_size : new_size);
    free(pointer);
    return block;
}

static void owned_starve(struct owned_state *state) {
    owned_memory = 0;
    owned_refused(state->a.transport, AIOLOOP_ENOMEM);
    CHECK_EQ(aioloop_transport_write(state->a.transport, owned_bytes, 100000), AIOLOOP_ENOMEM);
    owned_memory = -1;
}

TEST(without_memory_nothing_is_lent, "") {
    aioloop_config config = AIOLOOP_ZERO;
    aioloop_allocator allocator;
    aioloop *loop;
    allocator.allocate = owned_allocate;
    allocator.context = NULL;
    config.allocator = &allocator;
    loop = test_loop_with(&config);
    owned_begin(loop);
    owned_memory = 0;
    owned_refused(owned.a.transport, AIOLOOP_ENOMEM);
    CHECK_EQ(aioloop_transport_get_write_buffer_size(owned.a.transport), 0);
    owned_memory = -1;
    owned_lend(10);
    owned_memory = 0;
    owned_refused(owned.a.transport, AIOLOOP_ENOMEM);
    owned_memory = -1;
    CHECK_EQ(aioloop_transport_get_write_buffer_size(owned.a.transport), 10);
    /* From inside the release of the last byte, when there is nothing else to send. */
    owned.wanted = 1;
    owned.act = owned_starve;
    test_run_until(loop, &owned.released, 1, "the release");
    owned.act = NULL;
    owned_lend(1000);
    owned_copy(10);
    test_run_until_received(loop, &owned.b, owned.written);
    test_run_until(loop, &owned.released, owned.lent, "the release");
    owned_end();
    test_end(loop);
}

/* ---- what a release function may do ---- */

static void owned_act_copy(struct owned_state *state) {
    (void)state;
    owned_copy(50);
    owned_copy(50000);
}
static void owned_act_lend(struct owned_state *state) {
    state->wanted++;
    if (state->lent < 30)
        owned_lend(3000);
}
static void owned_act_lend_nothing(struct owned_state *state) { /* a release calls no release from inside */
    int before = state->released;
    state->wanted++;
    if (state->lent < (state->many ? 200 : 30))
        owned_lend(0);
    CHECK_EQ(state->released, before);
}
static void owned_act_lend_both(struct owned_state *state) {
    state->wanted = 0;
    owned_lend(0);
    owned_lend(3000);
    owned_lend(0);
}
static void owned_act_close(struct owned_state *state) {
    aioloop_transport_close(state->a.transport);
}
static void owned_act_abort(struct owned_state *state) {
    aioloop_transport_abort(state->a.transport);
    owned_refused(state->a.transport, AIOLOOP_ENOTCONN);
}
static void owned_act_abort_only(struct owned_state *state) {
    aioloop_transport_abort(state->a.transport);
}
static void owned_act_eof(struct owned_state *state) {
    CHECK_EQ(aioloop_transport_write_eof(state->a.transport), 0);
    owned_refused(state->a.transport, AIOLOOP_EMISUSE);
}
static void owned_act_copy_close(struct owned_state *state) {
    owned_copy(40000);
    aioloop_transport_close(state->a.transport);
}
static void owned_act_drop(struct owned_state *state) {
    test_peer_drop(&state->a);
}
static void owned_act_marks(struct owned_state *state) {
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(state->a.transport, 0, 0), 0);
    owned_copy(300);
}
static void owned_act_protocol(struct owned_state *state) {
    CHECK_EQ(aioloop_transport_set_protocol(state->a.transport, &test_buffered_protocol, &state->a), 0);
    aioloop_transport_pause_reading(state->a.transport);
}

TEST(a_release_function_may_call_everything, "") {
    static void (*const acts[])(struct owned_state *) = {
        owned_act_copy,  owned_act_lend, owned_act_lend_nothing, owned_act_lend_both, owned_act_close,   owned_act_abort,
        owned_act_eof,   owned_act_copy_close, owned_act_drop,   owned_act_marks,     owned_act_protocol};
    aioloop *loop = test_loop();
    size_t i;
    int last;
    for (i = 0; i < sizeof(acts) / sizeof(acts[0]); i++) {
        for (last = 0; last < 2; last++) { /* with more behind it, and as the last thing to be sent */
            bool ends = acts[i] == owned_act_close || acts[i] == owned_act_abort || acts[i] == owned_act_copy_close;
            owned_begin(loop);
            owned.b.keep_open = true;
            owned_block();
            owned.act = acts[i];
            owned.wanted = 2;
            owned_lend(500);
            owned_lend(OWNED_BLOCK);
            if (!last) {
                owned_lend(700);
                owned_copy(800);
                owned_lend(OWNED_BLOCK);
            }
            /* All this must be queued before the release, which adds to the stream itself. */
            aioloop_transport_resume_reading(owned.b.transport);
            test_run_until(loop, &owned.released, 2, "the release");
            while (owned.released < owned.lent) /* a release may lend more */
                test_run_until(loop, &owned.released, owned.lent, "all releases");
            if (acts[i] != owned_act_abort)
                test_run_until_received(loop, &owned.b, owned.written);
            if (acts[i] == owned_act_eof)
                test_run_until(loop, &owned.b.eof, 1, "the end of file");
            if (ends)
                test_run_until(loop, &owned.a.lost, 1, "the loss");
            else if (owned.a.transport != NULL)
                CHECK(!aioloop_transport_is_closing(owned.a.transport));
            if (owned.a.transport == NULL)
                aioloop_transport_abort(owned.b.transport);
            CHECK_EQ(owned.a.error, 0);
            owned_end();
        }
    }
    test_end(loop);
}

static void owned_tick(aioloop *loop, void *arg) {
    (void)loop;
    (*(int *)arg)++;
}

TEST(a_connection_lost_in_a_release_still_releases_the_rest, "TRN-08") {
    aioloop *loop = test_loop();
    int ticks = 0;
    aioloop_handle h;
    owned_begin(loop);
    owned.act = owned_act_abort;
    owned.wanted = 1;
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(owned.a.transport, 0, 0), 0);
    owned_lend(0); /* released first, in the same flush that would send the others */
    owned_lend(10);
    owned_lend(0);
    owned_copy(10);
    owned_lend(10);
    test_run_until(loop, &owned.a.lost, 1, "the loss");
    test_run_until(loop, &owned.released, 4, "the releases");
    h = aioloop_call_soon(loop, owned_tick, &ticks);
    CHECK(!aioloop_handle_is_null(&h));
    test_run_until(loop, &ticks, 1, "a callback");
    CHECK_STR(owned.a.calls, "mpl"); /* after an abort nobody is told to go on writing */
    owned_end();
    test_end(loop);
}

/* Nothing is lent in the release of nothing, again and again: each comes back once, and the loop does other things, too. */
TEST(lending_nothing_in_a_release_does_not_keep_the_loop, "TRN-02") {
    aioloop *loop = test_loop();
    int blocked;
    for (blocked = 0; blocked < 2; blocked++) {
        owned_begin(loop);
        if (blocked)
            owned_block();
        owned.act = owned_act_lend_nothing;
        owned.wanted = 1;
        owned.many = true;
        owned_lend(0);
        if (blocked) {
            test_spin(loop, 10);
            CHECK_EQ(owned.released, 0);
            aioloop_transport_resume_reading(owned.b.transport);
        }
        test_run_until(loop, &owned.released, 1, "the first release");
        NOTE("%d released when the loop came round", owned.released);
        CHECK_LT(owned.released, 200);
        test_run_until(loop, &owned.released, 200, "the releases");
        CHECK_EQ(owned.lent, 200);
        test_spin(loop, 5);
        CHECK_EQ(owned.released, 200);
        owned.act = NULL;
        owned_lend(10); /* goes on as usual */
        test_run_until_received(loop, &owned.b, owned.written);
        test_run_until(loop, &owned.released, 201, "the release");
        owned_end();
    }
    test_end(loop);
}

/* An abort in the release of a connection that is ending already: the rest comes back, the loss is told once. */
TEST(an_abort_in_a_release_of_an_ending_connection_ends_it_once, "TRN-08") {
    aioloop *loop = test_loop();
    int how;
    for (how = 0; how < 8; how++) { /* closed, half closed, ended by the peer, aborted; with more behind it or not */
        owned_begin(loop);
        owned.b.keep_open = true;
        owned_block();
        owned.act = owned_act_abort_only;
        owned.wanted = 1;
        owned_lend(OWNED_BLOCK);
        if (how % 2 == 0) {
            owned_lend(700);
            owned_copy(800);
            owned_lend(0);
        }
        if (how / 2 == 0)
            aioloop_transport_close(owned.a.transport);
        else if (how / 2 == 1)
            CHECK_EQ(aioloop_transport_write_eof(owned.a.transport), 0);
        else if (how / 2 == 2)
            CHECK_EQ(aioloop_transport_write_eof(owned.b.transport), 0);
        else
            aioloop_transport_abort(owned.a.transport);
        aioloop_transport_resume_reading(owned.b.transport);
        test_run_until(loop, &owned.a.lost, 1, "the loss");
        test_run_until(loop, &owned.released, owned.lent, "the releases");
        test_spin(loop, 5);
        CHECK_EQ(owned.a.lost, 1);
        CHECK_EQ(owned.a.error, 0);
        owned_end();
    }
    test_end(loop);
}

static void owned_act_raise(struct owned_state *state) {
    aioloop_raise(state->loop, AIOLOOP_EIO, "on purpose");
}

TEST(an_error_in_a_release_is_reported_as_its_own, "") {
    aioloop *loop = test_loop();
    int ticks = 0;
    int i;
    for (i = 0; i < 2; i++) { /* when it is sent, and when the connection is lost */
        aioloop_handle h;
        owned_begin(loop);
        owned_block();
        owned.act = owned_act_raise;
        owned.wanted = 1;
        owned_lend(10);
        if (i == 0)
            aioloop_transport_resume_reading(owned.b.transport);
        else
            aioloop_transport_abort(owned.a.transport);
        test_run_until(loop, &owned.released, 1, "the release");
        h = aioloop_call_soon(loop, owned_tick, &ticks);
        CHECK(!aioloop_handle_is_null(&h));
        test_run_until(loop, &ticks, i + 1, "a callback");
        CHECK_EQ(test_reports(), 1);
        CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EIO);
        CHECK_PTR(test_report_at(0)->context.transport, owned.a.transport);
        CHECK(aioloop_handle_is_null(&test_report_at(0)->context.handle)); /* not blamed on a callback */
        CHECK_EQ(aioloop_transport_is_closing(owned.a.transport), i == 1);
        test_reports_clear();
        owned_end();
    }
    test_end(loop);
}

TEST(releases_run_when_the_loss_has_been_told_at_the_latest, "TRN-08") {
    aioloop *loop = test_loop();
    owned_begin(loop);
    owned_block();
    owned_lend(10);
    owned_lend(20);
    aioloop_transport_abort(owned.a.transport);
    CHECK_EQ(owned.released, 0);
    test_run_until(loop, &owned.a.lost, 1, "the loss");
    CHECK_EQ(owned.released, 2);
    owned_end();
    test_end(loop);
}
