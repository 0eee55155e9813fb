/*
 * test_stream.c - streams: reading and writing for coroutines, their servers, and who loses nothing when cancelled.
 *
 * What a read does with bytes is tested on streams that are fed by hand; what a connection does, over socket pairs and
 * servers.
 */
#include "support.h"

#include <unistd.h>

/* ---- helpers ---- */

/* Runs the loop until the future is done; it is used up. Its outcome, as of an await. */
static int64_t stream_await(aioloop *loop, aioloop_future *future, void *out) {
    aioloop_time start = aioloop_now(loop);
    int64_t n;
    aioloop_future_ref(future);
    while (!aioloop_future_done(future)) {
        aioloop_time limit = test_injected() ? AIOLOOP_MS(300) : (aioloop_time)(10e9 * test_slowdown());
        int err = aioloop_run_once(loop, AIOLOOP_MS(50));
        CHECK_GE(err, 0);
        if (!aioloop_future_done(future) && aioloop_now(loop) - start > limit)
            FAIL("waited in vain for a future");
    }
    n = aioloop_future_result(future, out);
    aioloop_future_unref(future);
    return n;
}

static aioloop_stream *stream_new(aioloop *loop, int64_t limit) {
    aioloop_stream *s = aioloop_stream_new(loop, limit);
    CHECK(s != NULL);
    return s;
}

static void stream_feed(aioloop_stream *s, const char *text) {
    int err = aioloop_stream_feed_data(s, text, strlen(text));
    CHECK_EQ(err, 0);
}

static void stream_feed_eof(aioloop_stream *s) {
    int err = aioloop_stream_feed_eof(s);
    CHECK_EQ(err, 0);
}

/* The outcome of a read that is done at once: its bytes are to be these, with a zero behind them. */
static void stream_expect(aioloop_future *future, const char *text) {
    const char *data = NULL;
    int64_t n;
    aioloop_future_ref(future);
    CHECK(aioloop_future_done(future));
    n = aioloop_future_result(future, &data);
    aioloop_future_unref(future);
    CHECK_EQ(n, (int64_t)strlen(text));
    CHECK_STR(data, text);
}

/* The code of one that has failed at once. */
static int stream_failure(aioloop_future *future) {
    int code;
    aioloop_future_ref(future);
    CHECK(aioloop_future_done(future));
    code = aioloop_future_exception(future);
    aioloop_future_unref(future);
    return code;
}

/* A read that waits, claimed. */
static aioloop_future *stream_waiting(aioloop_future *future) {
    int done;
    aioloop_future_ref(future);
    done = aioloop_future_done(future);
    CHECK_EQ(done, 0);
    return future;
}

static aioloop_buf stream_buf(const char *text) {
    aioloop_buf buf;
    buf.data = text;
    buf.size = strlen(text);
    return buf;
}

/* A stream over one socket of a pair, and a peer over the other. */
static aioloop_stream *stream_pair(aioloop *loop, test_peer *peer, int64_t limit) {
    aioloop_stream_options options = AIOLOOP_ZERO;
    aioloop_stream *s = NULL;
    aioloop_socket sockets[2];
    int64_t n;
    test_socketpair(loop, sockets);
    test_adopt(loop, &test_protocol, peer, sockets[1]);
    options.connection.sock = &sockets[0];
    options.limit = limit;
    n = stream_await(loop, aioloop_open_connection(loop, NULL, 0, &options), &s);
    CHECK_EQ(n, 0);
    test_forget_socket(sockets[0]);
    return s;
}

/* The end of a stream and its peer: nothing is left of either. */
static void stream_pair_end(aioloop *loop, aioloop_stream *s, test_peer *peer) {
    aioloop_transport_abort(aioloop_stream_get_transport(s));
    aioloop_stream_unref(s);
    aioloop_transport_abort(peer->transport);
    test_run_until(loop, &peer->lost, 1, "the peer's end");
    test_peer_drop(peer);
    test_spin(loop, 4);
}

static int stream_port(aioloop_server *server) {
    aioloop_address address;
    int err = aioloop_server_socket(server, 0, NULL, &address);
    CHECK_EQ(err, 0);
    return address.port;
}

static aioloop_server *stream_serve(aioloop *loop, aioloop_stream_handler handler, void *arg,
                                    const aioloop_stream_server_options *options) {
    aioloop_server *server = NULL;
    int64_t n = stream_await(loop, aioloop_start_server(loop, handler, arg, "127.0.0.1", 0, options), &server);
    CHECK_EQ(n, 1);
    return server;
}

static aioloop_stream *stream_dial(aioloop *loop, aioloop_server *server, const aioloop_stream_options *options) {
    aioloop_stream *s = NULL;
    int64_t n = stream_await(loop, aioloop_open_connection(loop, "127.0.0.1", stream_port(server), options), &s);
    CHECK_EQ(n, 0);
    return s;
}

/* Closes the server and waits until its connections are gone. */
static void stream_server_end(aioloop *loop, aioloop_server *server) {
    int64_t n;
    aioloop_server_close(server);
    n = stream_await(loop, aioloop_server_wait_closed(server), NULL);
    CHECK_EQ(n, 0);
    aioloop_server_unref(server);
    test_spin(loop, 4);
}

/* ---- reading what is there ---- */

TEST(stream_read_gives_what_there_is_up_to_n, "STR-04") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    stream_feed(s, "hello");
    stream_expect(aioloop_stream_read(s, 3), "hel");
    stream_expect(aioloop_stream_read(s, 10), "lo");
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_read_waits_for_the_first_byte, "STR-04") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    aioloop_future *f = stream_waiting(aioloop_stream_read(s, 10));
    stream_feed(s, "ab");
    stream_expect(f, "ab");
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_read_of_nothing_is_done_at_once, "STR-04") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    stream_expect(aioloop_stream_read(s, 0), "");
    stream_feed(s, "x");
    stream_expect(aioloop_stream_read(s, 0), "");
    stream_expect(aioloop_stream_readexactly(s, 0), "");
    stream_expect(aioloop_stream_read(s, 1), "x");
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_read_at_the_end_gives_nothing, "STR-04") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    aioloop_future *f = stream_waiting(aioloop_stream_read(s, 1));
    stream_feed_eof(s);
    stream_expect(f, "");
    stream_expect(aioloop_stream_read(s, 1), "");
    stream_expect(aioloop_stream_read(s, -1), "");
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_read_without_a_count_gives_everything_to_the_end, "STR-04") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 4);
    aioloop_future *f;
    stream_feed(s, "more than ");
    f = stream_waiting(aioloop_stream_read(s, -1));
    stream_feed(s, "the limit");
    CHECK(!aioloop_future_done(f));
    stream_feed_eof(s);
    stream_expect(f, "more than the limit");
    stream_expect(aioloop_stream_read(s, -1), "");
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_readexactly_waits_for_all_of_it, "STR-05") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 2);
    aioloop_future *f;
    stream_feed(s, "abc");
    f = stream_waiting(aioloop_stream_readexactly(s, 5));
    stream_feed(s, "d");
    CHECK(!aioloop_future_done(f));
    stream_feed(s, "ef");
    stream_expect(f, "abcde");
    stream_expect(aioloop_stream_readexactly(s, 1), "f");
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_readexactly_fails_at_the_end_with_what_there_was, "STR-05 STR-17") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    const char *partial = NULL;
    aioloop_future *f;
    int code;
    size_t n;
    stream_feed(s, "ab");
    f = stream_waiting(aioloop_stream_readexactly(s, 5));
    n = aioloop_stream_partial(s, &partial);
    CHECK_EQ(n, 0);
    stream_feed(s, "c");
    stream_feed_eof(s);
    code = stream_failure(f);
    CHECK_EQ(code, AIOLOOP_EINCOMPLETE);
    n = aioloop_stream_partial(s, &partial);
    CHECK_EQ(n, 3);
    CHECK_STR(partial, "abc");
    CHECK(aioloop_stream_at_eof(s)); /* they are used up */
    stream_expect(aioloop_stream_read(s, 9), "");
    n = aioloop_stream_partial(s, &partial);
    CHECK_EQ(n, 0);
    CHECK_STR(partial, "");
    code = stream_failure(aioloop_stream_readexactly(s, 1));
    CHECK_EQ(code, AIOLOOP_EINCOMPLETE);
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_readline_gives_lines_with_their_newline_then_the_rest, "STR-06") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    aioloop_future *f;
    stream_feed(s, "one\n\ntw");
    stream_expect(aioloop_stream_readline(s), "one\n");
    stream_expect(aioloop_stream_readline(s), "\n");
    f = stream_waiting(aioloop_stream_readline(s));
    stream_feed(s, "o\nthree");
    stream_expect(f, "two\n");
    f = stream_waiting(aioloop_stream_readline(s));
    stream_feed_eof(s);
    stream_expect(f, "three");
    stream_expect(aioloop_stream_readline(s), "");
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_readuntil_finds_a_separator_that_comes_in_pieces, "STR-07") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    char separator[] = "\r\n\r\n";
    aioloop_future *f;
    stream_feed(s, "GET\r\n\r");
    f = stream_waiting(aioloop_stream_readuntil(s, separator, 4));
    memset(separator, 'x', 4); /* it was copied */
    stream_feed(s, "\r\n\r");
    CHECK(!aioloop_future_done(f));
    stream_feed(s, "\nbody");
    stream_expect(f, "GET\r\n\r\r\n\r\n");
    stream_expect(aioloop_stream_readuntil(s, "dy", 2), "body");
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_readuntil_takes_a_long_separator, "STR-07") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    char separator[] = "--a-boundary-of-many-bytes--";
    aioloop_future *f = stream_waiting(aioloop_stream_readuntil(s, separator, 28));
    memset(separator, 'x', 28);
    stream_feed(s, "head--a-boundary-of-");
    stream_feed(s, "many-bytes--tail");
    stream_expect(f, "head--a-boundary-of-many-bytes--");
    f = stream_waiting(aioloop_stream_readuntil(s, separator, 28));
    aioloop_future_cancel(f, NULL); /* gives the copy back */
    aioloop_future_unref(f);
    stream_expect(aioloop_stream_read(s, 4), "tail");
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_readuntil_of_several_ends_where_the_first_ends, "STR-07") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    aioloop_buf separators[3];
    aioloop_future *f;
    separators[0] = stream_buf("long-one");
    separators[1] = stream_buf(";");
    separators[2] = stream_buf("ng");
    stream_feed(s, "a long-one;b;clong-one");
    stream_expect(aioloop_stream_readuntil_any(s, separators, 3), "a long");
    stream_expect(aioloop_stream_readuntil_any(s, separators, 2), "-one;");
    stream_expect(aioloop_stream_readuntil_any(s, separators, 2), "b;");
    stream_expect(aioloop_stream_readuntil_any(s, separators, 2), "clong-one");
    f = stream_waiting(aioloop_stream_readuntil_any(s, separators, 3));
    memset(separators, 0, sizeof(separators)); /* they were copied */
    stream_feed(s, "long-on");
    stream_expect(f, "long");
    stream_expect(aioloop_stream_read(s, 9), "-on");
    aioloop_stream_unref(s);
    test_end(loop);
}

/* The limit counts from where the match begins, and of two that end together the shorter begins later. */
TEST(stream_readuntil_of_several_that_end_together_takes_the_shorter, "STR-07") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 2);
    aioloop_buf separators[2];
    int code;
    separators[0] = stream_buf("cd");
    separators[1] = stream_buf("d");
    stream_feed(s, "abcd");
    code = stream_failure(aioloop_stream_readuntil_any(s, separators, 2));
    CHECK_EQ(code, AIOLOOP_EOVERRUN);
    stream_expect(aioloop_stream_readuntil_any(s, separators, 1), "abcd");
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_readuntil_at_the_end_is_incomplete, "STR-07 STR-05") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    const char *partial = NULL;
    aioloop_future *f;
    int code;
    size_t n;
    stream_feed(s, "some\r");
    f = stream_waiting(aioloop_stream_readuntil(s, "\r\n", 2));
    stream_feed_eof(s);
    code = stream_failure(f);
    CHECK_EQ(code, AIOLOOP_EINCOMPLETE);
    n = aioloop_stream_partial(s, &partial);
    CHECK_EQ(n, 5);
    CHECK_STR(partial, "some\r");
    aioloop_stream_unref(s);
    test_end(loop);
}

/* ---- limits ---- */

TEST(stream_readuntil_over_the_limit_keeps_the_data, "STR-08") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 3);
    aioloop_future *f;
    size_t n;
    int code;
    stream_feed(s, "AAA");
    f = stream_waiting(aioloop_stream_readuntil(s, "||", 2));
    stream_feed(s, "BBB|"); /* not found, and none can begin within the limit */
    code = stream_failure(f);
    CHECK_EQ(code, AIOLOOP_EOVERRUN);
    n = aioloop_stream_consumed(s);
    CHECK_EQ(n, 6); /* the last byte may be half a separator */
    stream_feed(s, "|CC||");
    code = stream_failure(aioloop_stream_readuntil(s, "||", 2)); /* found, but too far */
    CHECK_EQ(code, AIOLOOP_EOVERRUN);
    n = aioloop_stream_consumed(s);
    CHECK_EQ(n, 6);
    stream_expect(aioloop_stream_readexactly(s, (int64_t)n), "AAABBB");
    stream_expect(aioloop_stream_readuntil(s, "||", 2), "||");
    stream_expect(aioloop_stream_readuntil(s, "||", 2), "CC||");
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_readuntil_may_give_as_much_as_the_limit, "STR-08") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 3);
    stream_feed(s, "AAA||B||");
    stream_expect(aioloop_stream_readuntil(s, "||", 2), "AAA||"); /* the separator does not count */
    stream_expect(aioloop_stream_readuntil(s, "||", 2), "B||");
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_readline_over_the_limit_drops_the_line, "STR-09") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 3);
    int code;
    stream_feed(s, "line1\nl2\nline3");
    code = stream_failure(aioloop_stream_readline(s));
    CHECK_EQ(code, AIOLOOP_EINVAL);
    stream_expect(aioloop_stream_readline(s), "l2\n");
    code = stream_failure(aioloop_stream_readline(s)); /* its newline is not there: all of it goes */
    CHECK_EQ(code, AIOLOOP_EINVAL);
    stream_feed(s, "x\n");
    stream_expect(aioloop_stream_readline(s), "x\n");
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_readline_over_the_limit_is_noticed_while_it_waits, "STR-09") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 3);
    aioloop_future *f = stream_waiting(aioloop_stream_readline(s));
    int code;
    stream_feed(s, "lon");
    CHECK(!aioloop_future_done(f));
    stream_feed(s, "g");
    code = stream_failure(f);
    CHECK_EQ(code, AIOLOOP_EINVAL);
    stream_feed(s, "er\n");
    stream_expect(aioloop_stream_readline(s), "er\n");
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_arguments_that_mean_nothing_are_invalid, "STR-10") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 1);
    aioloop_stream_options options = AIOLOOP_ZERO;
    aioloop_stream_server_options serving = AIOLOOP_ZERO;
    aioloop_buf separators[2];
    int code;
    CHECK(aioloop_stream_new(loop, -1) == NULL);
    code = aioloop_error_code(aioloop_last_error(loop));
    CHECK_EQ(code, AIOLOOP_EINVAL);
    CHECK(aioloop_stream_new(NULL, 0) == NULL);
    options.limit = -1;
    code = stream_failure(aioloop_open_connection(loop, "127.0.0.1", 1, &options));
    CHECK_EQ(code, AIOLOOP_EINVAL);
    code = stream_failure(aioloop_open_connection(loop, NULL, 0, NULL));
    CHECK_EQ(code, AIOLOOP_EINVAL);
    code = stream_failure(aioloop_start_server(loop, NULL, NULL, "127.0.0.1", 0, &serving));
    CHECK_EQ(code, AIOLOOP_EINVAL);
    serving.frame_size = 8;
    code = stream_failure(aioloop_start_server(loop, NULL, NULL, "127.0.0.1", 0, &serving));
    CHECK_EQ(code, AIOLOOP_EINVAL);
    code = stream_failure(aioloop_stream_readexactly(s, -1));
    CHECK_EQ(code, AIOLOOP_EINVAL);
    code = stream_failure(aioloop_stream_readuntil(s, "", 0));
    CHECK_EQ(code, AIOLOOP_EINVAL);
    separators[0] = stream_buf("x");
    separators[1] = stream_buf("");
    code = stream_failure(aioloop_stream_readuntil_any(s, separators, 2));
    CHECK_EQ(code, AIOLOOP_EINVAL);
    code = stream_failure(aioloop_stream_readuntil_any(s, separators, 0));
    CHECK_EQ(code, AIOLOOP_EINVAL);
    code = stream_failure(aioloop_stream_read(NULL, 1));
    CHECK_EQ(code, AIOLOOP_EINVAL);
    code = aioloop_stream_set_exception(s, 0, NULL);
    CHECK_EQ(code, AIOLOOP_EINVAL);
    code = aioloop_stream_feed_data(s, NULL, 1);
    CHECK_EQ(code, AIOLOOP_EINVAL);
    aioloop_stream_unref(NULL);
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_without_a_connection_cannot_be_written_to, "") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    int code = aioloop_stream_write(s, "x", 1);
    CHECK_EQ(code, AIOLOOP_EMISUSE);
    code = aioloop_stream_writelines(s, NULL, 0);
    CHECK_EQ(code, AIOLOOP_EMISUSE);
    code = aioloop_stream_write_eof(s);
    CHECK_EQ(code, AIOLOOP_EMISUSE);
    code = stream_failure(aioloop_stream_drain(s));
    CHECK_EQ(code, AIOLOOP_EMISUSE);
    code = stream_failure(aioloop_stream_wait_closed(s));
    CHECK_EQ(code, AIOLOOP_EMISUSE);
    CHECK(!aioloop_stream_can_write_eof(s));
    CHECK(aioloop_stream_is_closing(s));
    CHECK(aioloop_stream_get_transport(s) == NULL);
    CHECK_STR((const char *)aioloop_stream_get_extra_info(s, "peername", "none"), "none");
    aioloop_stream_close(s);
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_takes_no_data_behind_its_end, "") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    int code;
    stream_feed_eof(s);
    stream_feed_eof(s);
    code = aioloop_stream_feed_data(s, "x", 1);
    CHECK_EQ(code, AIOLOOP_EMISUSE);
    stream_expect(aioloop_stream_read(s, 1), "");
    aioloop_stream_unref(s);
    test_end(loop);
}

/* ---- one read at a time ---- */

TEST(stream_refuses_a_second_read_while_one_waits, "STR-11") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    aioloop_future *f = stream_waiting(aioloop_stream_readline(s));
    int code = stream_failure(aioloop_stream_read(s, 1));
    CHECK_EQ(code, AIOLOOP_EMISUSE);
    code = stream_failure(aioloop_stream_readexactly(s, 1));
    CHECK_EQ(code, AIOLOOP_EMISUSE);
    stream_feed(s, "a\n");
    stream_expect(f, "a\n"); /* the first is none the worse */
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_refuses_a_read_until_the_last_one_was_looked_at, "STR-11") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    aioloop_future *f;
    int code;
    stream_feed(s, "abcd");
    f = aioloop_stream_read(s, 2);
    code = stream_failure(aioloop_stream_read(s, 2));
    CHECK_EQ(code, AIOLOOP_EMISUSE);
    stream_expect(f, "ab");
    stream_expect(aioloop_stream_read(s, 2), "cd");
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_has_the_bytes_of_a_read_that_nobody_looked_at, "") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    stream_feed(s, "abcd");
    aioloop_future_unref(aioloop_stream_read(s, 2));
    CHECK(!aioloop_stream_at_eof(s));
    stream_expect(aioloop_stream_read(s, 3), "abc");
    stream_feed_eof(s);
    aioloop_future_unref(aioloop_stream_readexactly(s, 9)); /* nor is this a failure that was lost sight of */
    stream_expect(aioloop_stream_read(s, 9), "d");
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_read_that_is_cancelled_loses_nothing, "") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    aioloop_future *f;
    stream_feed(s, "ab");
    f = stream_waiting(aioloop_stream_readexactly(s, 4));
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK(aioloop_future_cancelled(f));
    aioloop_future_unref(f);
    f = stream_waiting(aioloop_stream_readline(s));
    CHECK(aioloop_future_cancel(f, NULL));
    aioloop_future_unref(f);
    stream_feed(s, "cd");
    stream_expect(aioloop_stream_read(s, 9), "abcd");
    aioloop_stream_unref(s);
    test_end(loop);
}

/* The bytes come, and before the task that waits for them gets its turn it is cancelled. */
typedef struct stream_reader {
    aioloop_stream *stream;
    int64_t n;
    bool timed;
} stream_reader;

static int64_t stream_read_four(aioloop *loop, void *arg, void **out) {
    stream_reader *reader = (stream_reader *)arg;
    aioloop_future *f = aioloop_stream_readexactly(reader->stream, 4);
    const char *data = NULL;
    (void)loop;
    (void)out;
    reader->n = aioloop_await(reader->timed ? aioloop_wait_for(f, AIOLOOP_SECONDS(100)) : f, &data);
    if (reader->n >= 0)
        CHECK_STR(data, "abcd");
    return reader->n;
}

static void stream_cancel_late(const char *first, bool end, bool timed) {
    aioloop *loop = test_loop();
    stream_reader reader;
    aioloop_task *task;
    int64_t n;
    reader.stream = stream_new(loop, 0);
    reader.n = 0;
    reader.timed = timed;
    task = aioloop_future_ref(aioloop_create_task(loop, stream_read_four, &reader, NULL));
    test_spin(loop, 2);
    stream_feed(reader.stream, first);
    if (end)
        stream_feed_eof(reader.stream);
    CHECK(aioloop_future_cancel(task, NULL));
    n = stream_await(loop, task, NULL);
    CHECK_EQ(n, reader.n);
    if (!timed) /* wait_for passes on what it has */
        CHECK_EQ(n, AIOLOOP_ECANCELED);
    stream_feed_eof(reader.stream);
    stream_expect(aioloop_stream_read(reader.stream, 9), reader.n < 0 ? first : "");
    aioloop_stream_unref(reader.stream);
    test_end(loop);
}

TEST(stream_read_cancelled_as_its_bytes_come_loses_nothing, "") {
    stream_cancel_late("abcd", false, false);
}

TEST(stream_read_cancelled_as_it_fails_loses_nothing, "") {
    stream_cancel_late("abc", true, false);
}

TEST(stream_read_with_a_time_limit_cancelled_as_its_bytes_come_loses_nothing, "") {
    stream_cancel_late("abcd", false, true);
}

TEST(stream_read_through_wait_for_uses_its_bytes_up, "") {
    aioloop *loop = test_loop();
    stream_reader reader;
    int64_t n;
    reader.stream = stream_new(loop, 0);
    reader.timed = true;
    stream_feed(reader.stream, "abcdef");
    n = stream_await(loop, aioloop_create_task(loop, stream_read_four, &reader, NULL), NULL);
    CHECK_EQ(n, 4);
    stream_expect(aioloop_stream_read(reader.stream, 9), "ef");
    aioloop_stream_unref(reader.stream);
    test_end(loop);
}

/* ---- the bytes that were given stay where they are ---- */

TEST(stream_bytes_stay_valid_while_more_come, "") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    aioloop_future *f;
    const char *data = NULL;
    char large[10000];
    int64_t n;
    memset(large, 'z', sizeof(large) - 1);
    large[sizeof(large) - 1] = '\0';
    stream_feed(s, "line\nrest");
    f = aioloop_future_ref(aioloop_stream_readline(s));
    n = aioloop_future_result(f, &data);
    aioloop_future_unref(f);
    CHECK_EQ(n, 5);
    stream_feed(s, " of it\n");
    CHECK_STR(data, "line\n");
    stream_feed(s, large); /* for which a larger block is needed */
    CHECK_STR(data, "line\n");
    stream_feed(s, large);
    CHECK_STR(data, "line\n");
    stream_expect(aioloop_stream_readline(s), "rest of it\n");
    stream_expect(aioloop_stream_readexactly(s, 9999), large);
    stream_expect(aioloop_stream_readexactly(s, 9999), large);
    stream_feed(s, "all"); /* what is given is all there is, and then it grows */
    f = aioloop_future_ref(aioloop_stream_read(s, 9));
    n = aioloop_future_result(f, &data);
    aioloop_future_unref(f);
    CHECK_EQ(n, 3);
    stream_feed(s, "more");
    CHECK_STR(data, "all");
    stream_expect(aioloop_stream_read(s, 9), "more");
    stream_feed(s, "untaken");
    aioloop_future_unref(aioloop_stream_read(s, 9));
    stream_feed(s, large);
    stream_expect(aioloop_stream_readexactly(s, 8), "untakenz");
    aioloop_stream_unref(s);
    test_end(loop);
}

/* Random feeding and reading, against a position in a known text. */
TEST(stream_gives_every_byte_once_in_order, "STR-04 STR-05 STR-06") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 300);
    static char text[20000];
    uint32_t seed = 7;
    size_t fed = 0;
    size_t had = 0;
    size_t i;
    for (i = 0; i < sizeof(text); i++) {
        seed = seed * 1664525u + 1013904223u;
        text[i] = (seed >> 16) % 40 == 0 ? '\n' : (char)('a' + (seed >> 20) % 26);
    }
    while (had < sizeof(text)) {
        aioloop_future *f;
        const char *data = NULL;
        size_t size;
        int64_t n;
        seed = seed * 1664525u + 1013904223u;
        switch ((seed >> 16) % 4) {
        case 0:
            f = aioloop_stream_read(s, 1 + (seed >> 20) % 50);
            break;
        case 1:
            f = aioloop_stream_readexactly(s, (seed >> 20) % 300);
            break;
        case 2:
            f = aioloop_stream_readline(s);
            break;
        default:
            f = aioloop_stream_readuntil(s, "e", 1);
            break;
        }
        aioloop_future_ref(f);
        size = 1 + (seed >> 8) % 700;
        if (size > sizeof(text) - fed)
            size = sizeof(text) - fed;
        if (aioloop_future_done(f) && (seed >> 28) % 3 == 0) { /* sometimes it is looked at only after more has come */
            int err = aioloop_stream_feed_data(s, text + fed, size);
            CHECK_EQ(err, 0);
            fed += size;
        }
        while (!aioloop_future_done(f)) {
            int err = fed == sizeof(text) ? aioloop_stream_feed_eof(s) : aioloop_stream_feed_data(s, text + fed, size);
            CHECK_EQ(err, 0);
            fed += size;
            size = size < sizeof(text) - fed ? size : sizeof(text) - fed;
        }
        if ((seed >> 29) == 0 && aioloop_future_exception(f) == 0) { /* sometimes it is not looked at */
            aioloop_future_unref(f);
            continue;
        }
        n = aioloop_future_result(f, &data);
        if (n == AIOLOOP_EINCOMPLETE)
            n = (int64_t)aioloop_stream_partial(s, &data);
        CHECK_GE(n, 0);
        CHECK_EQ(data[n], '\0');
        CHECK_LE(n, (int64_t)(sizeof(text) - had));
        CHECK_MEM(data, text + had, (size_t)n);
        had += (size_t)n;
        aioloop_future_unref(f);
    }
    aioloop_stream_unref(s);
    test_end(loop);
}

/* ---- errors and ends ---- */

TEST(stream_error_goes_to_the_read_that_waits_and_all_later, "STR-13") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    aioloop_future *f;
    int code;
    stream_feed(s, "data");
    f = stream_waiting(aioloop_stream_readline(s));
    code = aioloop_stream_exception(s);
    CHECK_EQ(code, 0);
    code = aioloop_stream_set_exception(s, AIOLOOP_EIO, "the disk is full of sand");
    CHECK_EQ(code, 0);
    CHECK(aioloop_future_done(f));
    CHECK_STR(aioloop_error_message(aioloop_future_error(f)), "the disk is full of sand");
    code = stream_failure(f);
    CHECK_EQ(code, AIOLOOP_EIO);
    code = stream_failure(aioloop_stream_read(s, 1));
    CHECK_EQ(code, AIOLOOP_EIO);
    code = stream_failure(aioloop_stream_readexactly(s, 1));
    CHECK_EQ(code, AIOLOOP_EIO);
    code = stream_failure(aioloop_stream_readuntil(s, "x", 1));
    CHECK_EQ(code, AIOLOOP_EIO);
    code = aioloop_stream_exception(s);
    CHECK_EQ(code, AIOLOOP_EIO);
    aioloop_stream_unref(s);
    test_end(loop);
}

static void stream_drop_reported(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    aioloop_stream **s = (aioloop_stream **)arg;
    (void)loop;
    CHECK_EQ(context->error, AIOLOOP_EINCOMPLETE);
    aioloop_stream_unref(*s);
    *s = NULL;
}

TEST(stream_may_be_let_go_by_the_handler_of_a_read_that_fails, "") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    aioloop_set_exception_handler(loop, stream_drop_reported, &s);
    aioloop_future_unref(aioloop_stream_readexactly(s, 5));
    stream_feed_eof(s);
    CHECK(s == NULL);
    test_end(loop);
}

TEST(stream_is_at_eof_when_it_has_ended_and_is_empty, "STR-17") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    CHECK(!aioloop_stream_at_eof(s));
    stream_feed(s, "ab");
    stream_feed_eof(s);
    CHECK(!aioloop_stream_at_eof(s));
    stream_expect(aioloop_stream_read(s, 1), "a");
    CHECK(!aioloop_stream_at_eof(s));
    stream_expect(aioloop_stream_read(s, 1), "b");
    CHECK(aioloop_stream_at_eof(s));
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_is_not_at_eof_with_bytes_that_nobody_looked_at, "STR-17") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    stream_feed(s, "ab");
    stream_feed_eof(s);
    aioloop_future_unref(aioloop_stream_read(s, 9));
    CHECK(!aioloop_stream_at_eof(s));
    stream_expect(aioloop_stream_read(s, 9), "ab");
    CHECK(aioloop_stream_at_eof(s));
    aioloop_stream_unref(s);
    test_end(loop);
}

TEST(stream_read_that_waits_ends_with_the_last_owner, "") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    aioloop_future *f = stream_waiting(aioloop_stream_readline(s));
    CHECK_PTR(aioloop_stream_ref(s), s);
    aioloop_stream_unref(s);
    CHECK(!aioloop_future_done(f));
    aioloop_stream_unref(s);
    CHECK(aioloop_future_cancelled(f));
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(stream_on_a_closed_loop_says_so, "") {
    aioloop *loop = test_loop();
    aioloop_stream *s = stream_new(loop, 0);
    aioloop_future *f = stream_waiting(aioloop_stream_readline(s));
    int code = aioloop_close(loop);
    CHECK_EQ(code, 0);
    code = stream_failure(aioloop_stream_read(s, 1));
    CHECK_EQ(code, AIOLOOP_ECLOSED);
    code = stream_failure(aioloop_stream_drain(s));
    CHECK_EQ(code, AIOLOOP_ECLOSED);
    code = stream_failure(aioloop_stream_wait_closed(s));
    CHECK_EQ(code, AIOLOOP_ECLOSED);
    code = stream_failure(aioloop_open_connection(loop, "127.0.0.1", 1, NULL));
    CHECK_EQ(code, AIOLOOP_ECLOSED);
    code = stream_failure(aioloop_start_server(loop, NULL, NULL, "127.0.0.1", 0, NULL));
    CHECK_EQ(code, AIOLOOP_ECLOSED);
    code = aioloop_stream_feed_data(s, "x", 1);
    CHECK_EQ(code, AIOLOOP_ECLOSED);
    code = aioloop_stream_feed_eof(s);
    CHECK_EQ(code, AIOLOOP_ECLOSED);
    CHECK(aioloop_stream_new(loop, 0) == NULL);
    CHECK(aioloop_future_cancel(f, NULL));
    aioloop_future_unref(f);
    aioloop_stream_unref(s);
    test_end(loop);
}

/* ---- flow control ---- */

TEST(stream_pauses_the_transport_beyond_twice_the_limit, "STR-12") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_stream *s = stream_pair(loop, &peer, 1000);
    aioloop_transport *transport = aioloop_stream_get_transport(s);
    static char data[600000]; /* more than one iteration receives */
    aioloop_future *f;
    const char *got = NULL;
    int64_t n;
    int i;
    memset(data, 'd', sizeof(data));
    CHECK(aioloop_transport_is_reading(transport));
    n = aioloop_transport_write(peer.transport, data, 2000);
    CHECK_EQ(n, 0);
    n = stream_await(loop, aioloop_stream_readexactly(s, 1), &got);
    CHECK_EQ(n, 1);
    test_run_for(loop, AIOLOOP_MS(2));
    CHECK(aioloop_transport_is_reading(transport)); /* not more than twice the limit wait */
    n = aioloop_transport_write(peer.transport, data, 2000);
    CHECK_EQ(n, 0);
    for (i = 0; i < 1000 && aioloop_transport_is_reading(transport); i++)
        test_run_for(loop, AIOLOOP_MS(1));
    CHECK(!aioloop_transport_is_reading(transport));
    n = stream_await(loop, aioloop_stream_readexactly(s, 500), &got);
    CHECK_EQ(n, 500);
    CHECK(!aioloop_transport_is_reading(transport)); /* still above the limit */
    n = stream_await(loop, aioloop_stream_readexactly(s, 2500), &got);
    CHECK_EQ(n, 2500);
    CHECK(aioloop_transport_is_reading(transport));
    n = stream_await(loop, aioloop_stream_readexactly(s, 999), &got);
    CHECK_EQ(n, 999);
    n = aioloop_transport_write(peer.transport, data, sizeof(data));
    CHECK_EQ(n, 0);
    for (i = 0; i < 1000 && aioloop_transport_is_reading(transport); i++)
        test_run_for(loop, AIOLOOP_MS(1));
    CHECK(!aioloop_transport_is_reading(transport));
    f = aioloop_stream_readexactly(s, sizeof(data)); /* has to wait, and so reading goes on whatever the limit */
    n = stream_await(loop, f, &got);
    CHECK_EQ(n, sizeof(data));
    CHECK_MEM(got, data, sizeof(data));
    stream_pair_end(loop, s, &peer);
    test_end(loop);
}

/* Writes until the peer, which does not read, has the transport pause its protocol. */
static void stream_fill(aioloop *loop, aioloop_stream *s) {
    static char data[100000];
    aioloop_transport *transport = aioloop_stream_get_transport(s);
    int i;
    for (i = 0; i < 1000 && aioloop_transport_get_write_buffer_size(transport) <= 65536; i++) {
        int err = aioloop_stream_write(s, data, sizeof(data));
        CHECK_EQ(err, 0);
        test_spin(loop, 2);
    }
    CHECK_GT(aioloop_transport_get_write_buffer_size(transport), 65536);
}

TEST(stream_drain_is_done_at_once_below_the_mark, "STR-14") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_stream *s = stream_pair(loop, &peer, 0);
    aioloop_future *f;
    int code = aioloop_stream_write(s, "hello", 5);
    CHECK_EQ(code, 0);
    f = aioloop_future_ref(aioloop_stream_drain(s));
    CHECK(aioloop_future_done(f));
    code = aioloop_future_exception(f);
    CHECK_EQ(code, 0);
    aioloop_future_unref(f);
    test_run_until_received(loop, &peer, 5);
    stream_pair_end(loop, s, &peer);
    test_end(loop);
}

TEST(stream_drains_wait_above_the_mark_several_at_once, "STR-14") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_stream *s = stream_pair(loop, &peer, 0);
    aioloop_future *drains[3];
    int64_t n;
    int i;
    aioloop_transport_pause_reading(peer.transport);
    stream_fill(loop, s);
    for (i = 0; i < 3; i++)
        drains[i] = stream_waiting(aioloop_stream_drain(s));
    test_spin(loop, 3);
    CHECK(!aioloop_future_done(drains[0]));
    CHECK(aioloop_future_cancel(drains[1], NULL)); /* which is nobody else's business */
    aioloop_transport_resume_reading(peer.transport);
    n = stream_await(loop, drains[0], NULL);
    CHECK_EQ(n, 0);
    n = stream_await(loop, drains[2], NULL);
    CHECK_EQ(n, 0);
    CHECK(aioloop_future_cancelled(drains[1]));
    aioloop_future_unref(drains[1]);
    CHECK_LE(aioloop_transport_get_write_buffer_size(aioloop_stream_get_transport(s)), 65536);
    stream_pair_end(loop, s, &peer);
    test_end(loop);
}

TEST(stream_drain_fails_when_the_connection_is_lost, "STR-14 STR-13 STR-16") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_stream *s = stream_pair(loop, &peer, 0);
    aioloop_future *drain;
    aioloop_future *read;
    aioloop_future *closed;
    int64_t n;
    aioloop_transport_pause_reading(peer.transport);
    stream_fill(loop, s);
    drain = stream_waiting(aioloop_stream_drain(s));
    read = stream_waiting(aioloop_stream_readline(s));
    closed = stream_waiting(aioloop_stream_wait_closed(s));
    aioloop_transport_abort(peer.transport); /* with what it has not read: a reset */
    n = stream_await(loop, drain, NULL);
    CHECK(n == AIOLOOP_ECONNRESET || n == AIOLOOP_EPIPE);
    CHECK_EQ(stream_await(loop, closed, NULL), n);
    n = stream_failure(read);
    CHECK(n == 0 || n == AIOLOOP_ECONNRESET || n == AIOLOOP_EPIPE); /* the end may have come before the reset */
    n = stream_failure(aioloop_stream_wait_closed(s));
    CHECK(n == AIOLOOP_ECONNRESET || n == AIOLOOP_EPIPE);
    n = stream_failure(aioloop_stream_drain(s));
    CHECK(n == AIOLOOP_ECONNRESET || n == AIOLOOP_EPIPE);
    stream_pair_end(loop, s, &peer);
    test_end(loop);
}

static int64_t stream_write_for_ever(aioloop *loop, void *arg, void **out) {
    aioloop_stream *s = (aioloop_stream *)arg;
    static char data[4096];
    int i;
    (void)out;
    for (i = 0; i < 100000; i++) {
        int64_t n = aioloop_stream_write(s, data, sizeof(data));
        if (n >= 0)
            n = aioloop_await(aioloop_stream_drain(s), NULL);
        if (n >= 0 && i % 16 == 15) /* on a simulated network news travel only while the loop waits */
            n = aioloop_await(aioloop_sleep(loop, AIOLOOP_US(10)), NULL);
        if (n < 0)
            return n;
    }
    return 0;
}

TEST(stream_writing_to_a_peer_that_is_gone_ends_with_an_error, "STR-15") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_stream *s = stream_pair(loop, &peer, 0);
    int64_t n;
    aioloop_transport_abort(peer.transport);
    n = stream_await(loop, aioloop_create_task(loop, stream_write_for_ever, s, NULL), NULL);
    CHECK(n == AIOLOOP_ECONNRESET || n == AIOLOOP_EPIPE);
    stream_pair_end(loop, s, &peer);
    test_end(loop);
}

TEST(stream_writing_to_a_stream_that_was_closed_ends_with_an_error, "STR-15") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_stream *s = stream_pair(loop, &peer, 0);
    int64_t n;
    aioloop_stream_close(s);
    n = stream_await(loop, aioloop_create_task(loop, stream_write_for_ever, s, NULL), NULL);
    CHECK_EQ(n, AIOLOOP_ECONNRESET);
    stream_pair_end(loop, s, &peer);
    test_end(loop);
}

TEST(stream_drain_that_gives_up_control_can_be_cancelled_or_left, "STR-15") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_stream *s = stream_pair(loop, &peer, 0);
    aioloop_future *f;
    aioloop_stream_close(s);
    f = stream_waiting(aioloop_stream_drain(s));
    CHECK(aioloop_future_cancel(f, NULL));
    aioloop_future_unref(f);
    f = stream_waiting(aioloop_stream_drain(s));
    aioloop_stream_unref(s);
    while (!aioloop_future_done(f))
        test_spin(loop, 1);
    (void)aioloop_future_exception(f);
    aioloop_future_unref(f);
    aioloop_transport_abort(peer.transport);
    test_run_until(loop, &peer.lost, 1, "the peer's end");
    test_peer_drop(&peer);
    test_end(loop);
}

/* ---- the end of a connection ---- */

TEST(stream_wait_closed_waits_for_the_loss, "STR-16") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_stream *s = stream_pair(loop, &peer, 0);
    aioloop_future *closed[2];
    aioloop_future *gone = stream_waiting(aioloop_stream_wait_closed(s));
    int64_t n;
    CHECK(aioloop_future_cancel(gone, NULL));
    aioloop_future_unref(gone);
    closed[0] = stream_waiting(aioloop_stream_wait_closed(s));
    CHECK(!aioloop_stream_is_closing(s));
    n = aioloop_stream_write(s, "bye", 3);
    CHECK_EQ(n, 0);
    aioloop_stream_close(s);
    CHECK(aioloop_stream_is_closing(s));
    closed[1] = stream_waiting(aioloop_stream_wait_closed(s));
    n = stream_await(loop, closed[0], NULL);
    CHECK_EQ(n, 0);
    n = stream_await(loop, closed[1], NULL);
    CHECK_EQ(n, 0);
    n = stream_failure(aioloop_stream_wait_closed(s)); /* and at once from then on */
    CHECK_EQ(n, 0);
    stream_expect(aioloop_stream_read(s, 1), "");
    test_run_until_received(loop, &peer, 3);
    stream_pair_end(loop, s, &peer);
    test_end(loop);
}

TEST(stream_half_closed_is_still_read, "STR-17") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_stream *s;
    const char *data = NULL;
    int64_t n;
    peer.keep_open = true;
    s = stream_pair(loop, &peer, 0);
    CHECK(aioloop_stream_can_write_eof(s));
    n = aioloop_stream_write_eof(s);
    CHECK_EQ(n, 0);
    test_run_until(loop, &peer.eof, 1, "the end");
    n = aioloop_transport_write(peer.transport, "still here", 10);
    CHECK_EQ(n, 0);
    aioloop_transport_close(peer.transport);
    n = stream_await(loop, aioloop_stream_read(s, -1), &data);
    CHECK_EQ(n, 10);
    CHECK_STR(data, "still here");
    CHECK(aioloop_stream_at_eof(s));
    CHECK(!aioloop_stream_is_closing(s)); /* asyncio's stream stays open for writing */
    stream_pair_end(loop, s, &peer);
    test_end(loop);
}

TEST(stream_without_owners_sends_what_was_written_and_closes, "STR-01") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_stream *s = stream_pair(loop, &peer, 0);
    static char data[300000];
    int err = aioloop_stream_write(s, data, sizeof(data));
    CHECK_EQ(err, 0);
    aioloop_stream_unref(s);
    test_run_until_received(loop, &peer, sizeof(data));
    test_run_until(loop, &peer.lost, 1, "the peer's end");
    test_peer_drop(&peer);
    test_spin(loop, 4);
    test_end(loop);
}

TEST(stream_is_safe_after_the_loss, "STR-16") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_stream *s = stream_pair(loop, &peer, 0);
    aioloop_buf piece = stream_buf("x");
    int64_t n;
    aioloop_stream_close(s);
    n = stream_await(loop, aioloop_stream_wait_closed(s), NULL);
    CHECK_EQ(n, 0);
    n = aioloop_stream_write(s, "x", 1);
    CHECK_EQ(n, 0); /* dropped */
    n = aioloop_stream_writelines(s, &piece, 1);
    CHECK_EQ(n, 0);
    n = aioloop_stream_write_eof(s);
    CHECK_EQ(n, 0);
    aioloop_stream_close(s);
    CHECK(aioloop_stream_is_closing(s));
    CHECK(aioloop_stream_at_eof(s));
    CHECK(aioloop_stream_get_transport(s) != NULL);
    CHECK(aioloop_stream_get_extra_info(s, "socket", NULL) == NULL);
    n = stream_failure(aioloop_stream_drain(s));
    CHECK_EQ(n, AIOLOOP_ECONNRESET);
    stream_pair_end(loop, s, &peer);
    test_end(loop);
}

/* Everything pending when the loop is freed. */
TEST(stream_goes_with_its_loop, "") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_stream *s = stream_pair(loop, &peer, 0);
    aioloop_stream *other = stream_new(loop, 0);
    aioloop_future *left[4];
    int i;
    aioloop_transport_pause_reading(peer.transport);
    stream_fill(loop, s);
    left[0] = stream_waiting(aioloop_stream_drain(s));
    left[1] = stream_waiting(aioloop_stream_wait_closed(s));
    left[2] = stream_waiting(aioloop_stream_readuntil(s, "a separator of some length", 26));
    stream_feed(other, "given");
    left[3] = aioloop_future_ref(aioloop_stream_read(other, 3));
    aioloop_close(loop);
    for (i = 0; i < 3; i++)
        CHECK(!aioloop_future_done(left[i]));
    CHECK(aioloop_future_cancel(left[0], NULL));
    aioloop_stream_unref(s);
    CHECK(aioloop_future_cancelled(left[2]));
    test_end(loop);
}

/* ---- opening ---- */

TEST(stream_opening_that_fails_says_why, "STR-01") {
    aioloop *loop = test_loop();
    aioloop_stream_options options = AIOLOOP_ZERO;
    test_peer peer = AIOLOOP_ZERO;
    int port = 0;
    aioloop_server *server = test_serve(loop, &test_protocol, &peer, &port);
    aioloop_future *f;
    int64_t n;
    aioloop_server_close(server);
    aioloop_server_unref(server);
    f = aioloop_future_ref(aioloop_open_connection(loop, "127.0.0.1", port, NULL));
    n = stream_await(loop, f, NULL);
    CHECK_EQ(n, AIOLOOP_ECONNREFUSED);
    CHECK(strstr(aioloop_error_message(aioloop_future_error(f)), "127.0.0.1") != NULL);
    aioloop_future_unref(f);
    options.connection.family = AIOLOOP_INET6; /* one of the connecting call's options */
    n = stream_await(loop, aioloop_open_connection(loop, "127.0.0.1", port, &options), NULL);
    CHECK_EQ(n, AIOLOOP_ELOOKUP);
    test_end(loop);
}

static int64_t stream_do_nothing(aioloop *loop, aioloop_stream *s, void *arg) {
    (void)s;
    (void)loop;
    ++*(int *)arg;
    return 0;
}

TEST(stream_opening_that_is_cancelled_leaves_nothing, "STR-01") {
    aioloop *loop = test_loop();
    int handled = 0;
    aioloop_server *server = stream_serve(loop, stream_do_nothing, &handled, NULL);
    aioloop_future *f = stream_waiting(aioloop_open_connection(loop, "127.0.0.1", stream_port(server), NULL));
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK(aioloop_future_cancelled(f));
    aioloop_future_unref(f);
    f = stream_waiting(aioloop_open_connection(loop, "127.0.0.1", stream_port(server), NULL));
    test_spin(loop, 2); /* made, perhaps, but nobody was told */
    aioloop_future_cancel(f, NULL);
    aioloop_future_unref(f);
    f = aioloop_open_connection(loop, "127.0.0.1", stream_port(server), NULL);
    aioloop_future_unref(f); /* dropped, not cancelled */
    test_run_for(loop, AIOLOOP_MS(5));
    CHECK_GE(handled, 1);
    stream_server_end(loop, server);
    test_end(loop);
}

TEST(stream_opening_goes_with_its_loop, "STR-01") {
    aioloop *loop = test_loop();
    int handled = 0;
    aioloop_server *server = stream_serve(loop, stream_do_nothing, &handled, NULL);
    aioloop_future *f = stream_waiting(aioloop_open_connection(loop, "127.0.0.1", stream_port(server), NULL));
    aioloop_close(loop);
    CHECK(!aioloop_future_done(f));
    aioloop_future_cancel(f, NULL);
    test_end(loop);
}

/* ---- servers: a handler of each kind ---- */

static int64_t stream_echo_lines(aioloop *loop, aioloop_stream *s, void *arg) {
    const char *line = NULL;
    int64_t n;
    (void)loop;
    ++*(int *)arg;
    while ((n = aioloop_await(aioloop_stream_readline(s), &line)) > 0) {
        n = aioloop_stream_write(s, line, (size_t)n);
        if (n >= 0)
            n = aioloop_await(aioloop_stream_drain(s), NULL);
        if (n < 0)
            return n;
    }
    return n;
}

typedef struct stream_echo_frame {
    aioloop_stream_frame base;
    int64_t n;
    const char *line;
} stream_echo_frame;

static int64_t stream_echo_step(aioloop *loop, aioloop_frame *frame, void **out) {
    stream_echo_frame *self = (stream_echo_frame *)(void *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    CHECK_EQ(self->n, 0); /* it is zeroed */
    ++*(int *)self->base.arg;
    for (;;) {
        AIOLOOP_AWAIT(self->n, aioloop_stream_readline(self->base.stream), &self->line);
        if (self->n <= 0)
            return self->n;
        self->n = aioloop_stream_write(self->base.stream, self->line, (size_t)self->n);
        if (self->n < 0)
            return self->n;
        AIOLOOP_AWAIT(self->n, aioloop_stream_drain(self->base.stream), NULL);
        if (self->n < 0)
            return self->n;
    }
    AIOLOOP_END;
}

static void stream_echo_line(aioloop_future *future, void *arg) {
    aioloop_stream *s = (aioloop_stream *)arg;
    const char *line = NULL;
    int64_t n = aioloop_future_result(future, &line);
    if (n > 0)
        n = aioloop_stream_write(s, line, (size_t)n) < 0 ? -1 : 1;
    if (n > 0)
        n = aioloop_future_then(aioloop_stream_readline(s), stream_echo_line, s) < 0 ? -1 : 1;
    if (n <= 0)
        aioloop_stream_unref(s);
}

static void stream_echo_callback(aioloop *loop, aioloop_stream *s, void *arg) {
    CHECK_PTR(aioloop_get_running_loop(), loop);
    ++*(int *)arg;
    if (aioloop_future_then(aioloop_stream_readline(s), stream_echo_line, s) == 0)
        aioloop_stream_ref(s);
}

/* Two clients, one after the other line by line. */
static void stream_try_echo(aioloop *loop, aioloop_server *server, const int *handled) {
    aioloop_stream *a = stream_dial(loop, server, NULL);
    aioloop_stream *b = stream_dial(loop, server, NULL);
    const char *line = NULL;
    int64_t n;
    CHECK(aioloop_stream_get_extra_info(a, "peername", NULL) != NULL);
    n = aioloop_stream_write(a, "one\ntwo\n", 8);
    CHECK_EQ(n, 0);
    n = aioloop_stream_write(b, "three\n", 6);
    CHECK_EQ(n, 0);
    n = stream_await(loop, aioloop_stream_readline(b), &line);
    CHECK_EQ(n, 6);
    CHECK_STR(line, "three\n");
    n = stream_await(loop, aioloop_stream_readline(a), &line);
    CHECK_EQ(n, 4);
    CHECK_STR(line, "one\n");
    n = stream_await(loop, aioloop_stream_readline(a), &line);
    CHECK_EQ(n, 4);
    CHECK_STR(line, "two\n");
    CHECK_EQ(*handled, 2);
    n = aioloop_stream_write_eof(a);
    CHECK_EQ(n, 0);
    n = stream_await(loop, aioloop_stream_readline(a), &line); /* the handler ends, and so does the connection */
    CHECK_EQ(n, 0);
    aioloop_stream_unref(a);
    aioloop_stream_unref(b);
    stream_server_end(loop, server);
}

TEST(stream_server_runs_a_coroutine_for_each_connection, "STR-01 STR-02") {
    aioloop *loop = test_loop();
    int handled = 0;
    stream_try_echo(loop, stream_serve(loop, stream_echo_lines, &handled, NULL), &handled);
    test_end(loop);
}

TEST(stream_server_gives_handlers_the_stack_size_asked_for, "STR-02") {
    aioloop *loop = test_loop();
    aioloop_stream_server_options options = AIOLOOP_ZERO;
    int handled = 0;
    options.stack_size = 65536;
    options.server.backlog = 5;
    stream_try_echo(loop, stream_serve(loop, stream_echo_lines, &handled, &options), &handled);
    test_end(loop);
}

TEST(stream_server_runs_a_coroutine_without_a_stack, "STR-02") {
    aioloop *loop = test_loop();
    aioloop_stream_server_options options = AIOLOOP_ZERO;
    int handled = 0;
    options.step = stream_echo_step;
    options.frame_size = sizeof(stream_echo_frame);
    stream_try_echo(loop, stream_serve(loop, NULL, &handled, &options), &handled);
    test_end(loop);
}

TEST(stream_server_calls_a_plain_function, "STR-02") {
    aioloop *loop = test_loop();
    aioloop_stream_server_options options = AIOLOOP_ZERO;
    int handled = 0;
    options.callback = stream_echo_callback;
    stream_try_echo(loop, stream_serve(loop, NULL, &handled, &options), &handled);
    test_end(loop);
}

TEST(stream_unix_server_and_connection, "STR-01 STR-02") {
    aioloop *loop = test_loop();
    aioloop_unix_stream_options options = AIOLOOP_ZERO;
    aioloop_unix_stream_server_options serving = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    aioloop_stream *s = NULL;
    const char *line = NULL;
    char path[64];
    int handled = 0;
    int64_t n;
    int size = snprintf(path, sizeof(path), "%caioloop-stream-%ld", '\0', (long)getpid()); /* abstract: no file */
    serving.server.path_size = (size_t)size;
    options.connection.path_size = (size_t)size;
    serving.limit = 100;
    n = stream_await(loop, aioloop_start_unix_server(loop, stream_echo_lines, &handled, path, &serving), &server);
    CHECK_EQ(n, 1);
    options.limit = 100;
    n = stream_await(loop, aioloop_open_unix_connection(loop, path, &options), &s);
    CHECK_EQ(n, 0);
    n = aioloop_stream_write(s, "hello\n", 6);
    CHECK_EQ(n, 0);
    n = stream_await(loop, aioloop_stream_readline(s), &line);
    CHECK_EQ(n, 6);
    CHECK_STR(line, "hello\n");
    aioloop_stream_unref(s);
    stream_server_end(loop, server);
    n = stream_await(loop, aioloop_open_unix_connection(loop, path, &options), NULL);
    CHECK_EQ(n, AIOLOOP_ECONNREFUSED);
    test_end(loop);
}

/* ---- handlers that end in other ways ---- */

static int64_t stream_handler_fails(aioloop *loop, aioloop_stream *s, void *arg) {
    *(aioloop_stream **)arg = aioloop_stream_ref(s); /* so it is the failure that closes */
    return aioloop_raise(loop, AIOLOOP_EDOM, "no such word");
}

TEST(stream_handler_that_fails_is_reported_and_its_connection_closed, "STR-03") {
    aioloop *loop = test_loop();
    aioloop_stream *theirs = NULL;
    aioloop_server *server = stream_serve(loop, stream_handler_fails, &theirs, NULL);
    aioloop_stream *s = stream_dial(loop, server, NULL);
    const char *data = NULL;
    int64_t n = stream_await(loop, aioloop_stream_read(s, 1), &data);
    CHECK_EQ(n, 0);
    CHECK_EQ(test_reports(), 1);
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EDOM);
    CHECK_STR(test_report_at(0)->detail, "no such word");
    CHECK(test_report_at(0)->context.transport == aioloop_stream_get_transport(theirs));
    CHECK(test_report_at(0)->context.task != NULL);
    test_reports_clear();
    aioloop_stream_unref(theirs);
    aioloop_stream_unref(s);
    stream_server_end(loop, server);
    test_end(loop);
}

static void stream_callback_fails(aioloop *loop, aioloop_stream *s, void *arg) {
    *(aioloop_stream **)arg = aioloop_stream_ref(s);
    aioloop_raise(loop, AIOLOOP_EDOM, "not today");
}

TEST(stream_plain_handler_that_fails_is_reported_and_its_connection_closed, "STR-03") {
    aioloop *loop = test_loop();
    aioloop_stream_server_options options = AIOLOOP_ZERO;
    aioloop_stream *theirs = NULL;
    aioloop_server *server;
    aioloop_stream *s;
    const char *data = NULL;
    int64_t n;
    options.callback = stream_callback_fails;
    server = stream_serve(loop, NULL, &theirs, &options);
    s = stream_dial(loop, server, NULL);
    n = stream_await(loop, aioloop_stream_read(s, 1), &data);
    CHECK_EQ(n, 0);
    CHECK_EQ(test_reports(), 1);
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EDOM);
    CHECK_STR(test_report_at(0)->detail, "not today");
    test_reports_clear();
    aioloop_stream_unref(theirs);
    aioloop_stream_unref(s);
    stream_server_end(loop, server);
    test_end(loop);
}

typedef struct stream_held {
    aioloop_stream *stream;
    aioloop_task *task;
    int n;
} stream_held;

static int64_t stream_handler_waits(aioloop *loop, aioloop_stream *s, void *arg) {
    stream_held *held = (stream_held *)arg;
    held->stream = aioloop_stream_ref(s);
    held->task = aioloop_future_ref(aioloop_current_task(loop));
    held->n++;
    return aioloop_await(aioloop_stream_readline(s), NULL);
}

TEST(stream_handler_that_is_cancelled_closes_without_a_report, "STR-03") {
    aioloop *loop = test_loop();
    stream_held held = AIOLOOP_ZERO;
    aioloop_server *server = stream_serve(loop, stream_handler_waits, &held, NULL);
    aioloop_stream *s = stream_dial(loop, server, NULL);
    const char *data = NULL;
    int64_t n;
    test_run_until(loop, &held.n, 1, "the handler");
    CHECK(aioloop_future_cancel(held.task, NULL));
    n = stream_await(loop, aioloop_stream_read(s, 1), &data);
    CHECK_EQ(n, 0);
    CHECK(aioloop_future_cancelled(held.task));
    CHECK_EQ(test_reports(), 0);
    aioloop_future_unref(held.task);
    aioloop_stream_unref(held.stream);
    aioloop_stream_unref(s);
    stream_server_end(loop, server);
    test_end(loop);
}

static int64_t stream_handler_keeps(aioloop *loop, aioloop_stream *s, void *arg) {
    (void)loop;
    *(aioloop_stream **)arg = aioloop_stream_ref(s);
    return 0;
}

TEST(stream_that_somebody_keeps_outlives_its_handler, "STR-02") {
    aioloop *loop = test_loop();
    aioloop_stream *theirs = NULL;
    aioloop_server *server = stream_serve(loop, stream_handler_keeps, &theirs, NULL);
    aioloop_stream *s = stream_dial(loop, server, NULL);
    const char *data = NULL;
    int64_t n = aioloop_stream_write(s, "ping", 4);
    CHECK_EQ(n, 0);
    test_run_for(loop, AIOLOOP_MS(2));
    CHECK(theirs != NULL);
    n = stream_await(loop, aioloop_stream_readexactly(theirs, 4), &data);
    CHECK_EQ(n, 4);
    n = aioloop_stream_write(theirs, "pong", 4);
    CHECK_EQ(n, 0);
    aioloop_stream_unref(theirs); /* now it closes */
    n = stream_await(loop, aioloop_stream_read(s, -1), &data);
    CHECK_EQ(n, 4);
    CHECK_STR(data, "pong");
    aioloop_stream_unref(s);
    stream_server_end(loop, server);
    test_end(loop);
}

TEST(stream_server_goes_with_its_loop_while_handlers_wait, "") {
    aioloop *loop = test_loop();
    stream_held held = AIOLOOP_ZERO;
    aioloop_server *server = stream_serve(loop, stream_handler_waits, &held, NULL);
    aioloop_stream *s = stream_dial(loop, server, NULL);
    test_run_until(loop, &held.n, 1, "the handler");
    CHECK(!aioloop_stream_is_closing(s));
    aioloop_close(loop);
    CHECK(aioloop_stream_is_closing(s));
    aioloop_stream_unref(s);
    (void)aioloop_future_cancel(held.task, NULL);
    aioloop_free(loop);
    test_reports_clear(); /* the task was pending */
}

/* ---- larger things ---- */

static int64_t stream_serve_until_cancelled(aioloop *loop, void *arg, void **out) {
    aioloop_server *server = NULL;
    int64_t n = aioloop_await(aioloop_start_server(loop, stream_echo_lines, arg, "127.0.0.1", 0, NULL), &server);
    (void)out;
    if (n < 0)
        return n;
    ((int *)arg)[1] = stream_port(server);
    n = aioloop_await(aioloop_server_serve_forever(server), NULL);
    aioloop_server_unref(server);
    return n;
}

TEST(stream_server_serves_until_its_task_is_cancelled, "EX-06") {
    aioloop *loop = test_loop();
    int told[2] = {0, 0};
    aioloop_task *task = aioloop_future_ref(aioloop_create_task(loop, stream_serve_until_cancelled, told, NULL));
    aioloop_stream *s = NULL;
    const char *line = NULL;
    int64_t n;
    test_run_until(loop, &told[1], 1, "the port");
    n = stream_await(loop, aioloop_open_connection(loop, "127.0.0.1", told[1], NULL), &s);
    CHECK_EQ(n, 0);
    n = aioloop_stream_write(s, "Hello World!\n", 13);
    CHECK_EQ(n, 0);
    n = stream_await(loop, aioloop_stream_readline(s), &line);
    CHECK_EQ(n, 13);
    CHECK_STR(line, "Hello World!\n");
    CHECK(!aioloop_future_done(task));
    aioloop_stream_unref(s);
    CHECK(aioloop_future_cancel(task, NULL));
    n = stream_await(loop, task, NULL);
    CHECK_EQ(n, AIOLOOP_ECANCELED);
    n = stream_await(loop, aioloop_open_connection(loop, "127.0.0.1", told[1], NULL), NULL);
    CHECK_EQ(n, AIOLOOP_ECONNREFUSED);
    test_spin(loop, 4);
    test_end(loop);
}

#define STREAM_BULK (1024 * 1024)

static char stream_bulk_byte(size_t i) {
    return (char)(i * 7 + (i >> 8) * 13);
}

typedef struct stream_bulk {
    aioloop_stream *stream;
    char *data; /* of STREAM_BULK bytes */
} stream_bulk;

static int64_t stream_bulk_write(aioloop *loop, void *arg, void **out) {
    const stream_bulk *bulk = (const stream_bulk *)arg;
    size_t at = 0;
    (void)loop;
    (void)out;
    while (at < STREAM_BULK) {
        size_t size = 1 + at % 50000 < STREAM_BULK - at ? 1 + at % 50000 : STREAM_BULK - at;
        int64_t n = aioloop_stream_write(bulk->stream, bulk->data + at, size);
        if (n >= 0)
            n = aioloop_await(aioloop_stream_drain(bulk->stream), NULL);
        if (n < 0)
            return n;
        at += size;
    }
    return aioloop_stream_write_eof(bulk->stream);
}

static int64_t stream_bulk_read(aioloop *loop, void *arg, void **out) {
    const stream_bulk *bulk = (const stream_bulk *)arg;
    size_t at = 0;
    (void)loop;
    (void)out;
    for (;;) {
        const char *data = NULL;
        int64_t n = at % 3 == 0 ? aioloop_await(aioloop_stream_readexactly(bulk->stream, 1000), &data)
                                : aioloop_await(aioloop_stream_read(bulk->stream, 5000), &data);
        if (n == AIOLOOP_EINCOMPLETE)
            n = (int64_t)aioloop_stream_partial(bulk->stream, &data);
        if (n < 0)
            return n;
        if (n == 0)
            return (int64_t)at;
        CHECK_LE((size_t)n, STREAM_BULK - at);
        CHECK_MEM(data, bulk->data + at, (size_t)n);
        at += (size_t)n;
    }
}

static int64_t stream_bulk_serve(aioloop *loop, aioloop_stream *s, void *arg) {
    stream_bulk bulk;
    aioloop_future *both[2];
    bulk = *(const stream_bulk *)arg;
    bulk.stream = s;
    both[0] = aioloop_create_task(loop, stream_bulk_write, &bulk, NULL);
    both[1] = aioloop_create_task(loop, stream_bulk_read, &bulk, NULL);
    return aioloop_await(aioloop_gather(loop, both, 2, true), NULL);
}

TEST_WITH(stream_carries_a_mebibyte_both_ways_at_once, "STR-01 STR-12 STR-14", TEST_SLOW) {
    aioloop *loop = test_loop();
    aioloop_stream_server_options serving = AIOLOOP_ZERO;
    aioloop_stream_options options = AIOLOOP_ZERO;
    static char data[STREAM_BULK];
    stream_bulk bulk;
    aioloop_server *server;
    aioloop_future *writing;
    int64_t n;
    size_t i;
    for (i = 0; i < STREAM_BULK; i++)
        data[i] = stream_bulk_byte(i);
    bulk.data = data;
    serving.limit = 700;
    options.limit = 300;
    server = stream_serve(loop, stream_bulk_serve, &bulk, &serving);
    bulk.stream = stream_dial(loop, server, &options);
    writing = aioloop_future_ref(aioloop_create_task(loop, stream_bulk_write, &bulk, NULL));
    n = stream_await(loop, aioloop_create_task(loop, stream_bulk_read, &bulk, NULL), NULL);
    CHECK_EQ(n, STREAM_BULK);
    n = stream_await(loop, writing, NULL);
    CHECK_EQ(n, 0);
    aioloop_stream_unref(bulk.stream);
    stream_server_end(loop, server);
    test_end(loop);
}

/* A room where everybody hears what one says. */
typedef struct stream_room {
    aioloop_stream *members[8];
    int count;
} stream_room;

static void stream_say(stream_room *room, const aioloop_stream *from, const char *name, const char *text) {
    aioloop_buf pieces[3];
    int i;
    pieces[0] = stream_buf(name);
    pieces[1] = stream_buf(": ");
    pieces[2] = stream_buf(text);
    for (i = 0; i < room->count; i++)
        if (room->members[i] != from)
            (void)aioloop_stream_writelines(room->members[i], pieces, 3);
}

static int64_t stream_chat(aioloop *loop, aioloop_stream *s, void *arg) {
    stream_room *room = (stream_room *)arg;
    const char *line = NULL;
    char name[32];
    int64_t n = aioloop_await(aioloop_stream_readuntil(s, "\n", 1), &line);
    int i;
    (void)loop;
    if (n < 0)
        return n;
    snprintf(name, sizeof(name), "%.*s", (int)n - 1, line);
    room->members[room->count++] = s;
    stream_say(room, s, name, "came\n");
    while ((n = aioloop_await(aioloop_stream_readline(s), &line)) > 0)
        stream_say(room, s, name, line);
    for (i = 0; room->members[i] != s; i++)
        ;
    room->members[i] = room->members[--room->count];
    stream_say(room, s, name, "left\n");
    return n;
}

static void stream_hear(aioloop *loop, aioloop_stream *s, const char *text) {
    const char *line = NULL;
    int64_t n = stream_await(loop, aioloop_stream_readline(s), &line);
    CHECK_GT(n, 0);
    CHECK_STR(line, text);
}

TEST(stream_chat_room, "STR-02 STR-06") {
    aioloop *loop = test_loop();
    stream_room room = AIOLOOP_ZERO;
    aioloop_server *server = stream_serve(loop, stream_chat, &room, NULL);
    aioloop_stream *ann = stream_dial(loop, server, NULL);
    aioloop_stream *bob;
    int64_t n = aioloop_stream_write(ann, "ann\n", 4);
    CHECK_EQ(n, 0);
    test_run_until(loop, &room.count, 1, "ann");
    bob = stream_dial(loop, server, NULL);
    n = aioloop_stream_write(bob, "bob\nhi ", 7);
    CHECK_EQ(n, 0);
    stream_hear(loop, ann, "bob: came\n");
    n = aioloop_stream_write(bob, "all\n", 4);
    CHECK_EQ(n, 0);
    stream_hear(loop, ann, "bob: hi all\n");
    n = aioloop_stream_write(ann, "hi bob\n", 7);
    CHECK_EQ(n, 0);
    stream_hear(loop, bob, "ann: hi bob\n");
    aioloop_stream_unref(bob);
    stream_hear(loop, ann, "bob: left\n");
    aioloop_stream_unref(ann);
    stream_server_end(loop, server);
    CHECK_EQ(room.count, 0);
    test_end(loop);
}
