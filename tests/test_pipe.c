/*
 * test_pipe.c - transports that go one way: pipes, FIFOs, sockets, terminals. On simulated back ends simulated pipes.
 */
#ifndef _XOPEN_SOURCE
#define _XOPEN_SOURCE 700
#endif
#include "awaits.h"
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#define PIPE_BIG (1024u * 1024u)

static unsigned char pipe_bytes[PIPE_BIG];

static unsigned char pipe_byte(size_t i) {
    return (unsigned char)(i * 5 + i / 253 + i / 65536);
}

static void pipe_fill(void) {
    size_t i;
    for (i = 0; i < PIPE_BIG; i++)
        pipe_bytes[i] = pipe_byte(i);
}

/* As on_data: what comes is the stream from its beginning. */
static void pipe_check_stream(test_peer *peer, const void *data, size_t size) {
    const unsigned char *at = (const unsigned char *)data;
    size_t start = peer->received - size;
    size_t i;
    for (i = 0; i < size; i++)
        if (at[i] != pipe_byte(start + i))
            FAIL("byte %lu of the stream is wrong", (unsigned long)(start + i));
}

/* The end to read and the end to write. */
static void pipe_make(aioloop *loop, aioloop_socket ends[2]) {
    int err;
    if (test_simulated(loop)) {
        err = aioloop_sim_pipe(loop, ends);
        CHECK_EQ(err, 0);
        return;
    }
    err = pipe(ends);
    CHECK_EQ(err, 0);
    test_keep_socket(ends[0]);
    test_keep_socket(ends[1]);
}

static void pipe_read(aioloop *loop, test_peer *peer, aioloop_socket end) {
    int64_t rc = aioloop_run_until_complete(loop, aioloop_connect_read_pipe(loop, &test_protocol, peer, end), NULL);
    CHECK_EQ(rc, 0);
    test_forget_socket(end);
}

static void pipe_write(aioloop *loop, test_peer *peer, aioloop_socket end) {
    int64_t rc = aioloop_run_until_complete(loop, aioloop_connect_write_pipe(loop, &test_protocol, peer, end), NULL);
    CHECK_EQ(rc, 0);
    test_forget_socket(end);
}

/* A pipe with a transport at both ends. */
static void pipe_both(aioloop *loop, test_peer *reader, test_peer *writer) {
    aioloop_socket ends[2];
    pipe_make(loop, ends);
    pipe_read(loop, reader, ends[0]);
    pipe_write(loop, writer, ends[1]);
}

/* Both are lost, or going to be. */
static void pipe_end(aioloop *loop, test_peer *reader, test_peer *writer) {
    aioloop_transport_abort(reader->transport);
    aioloop_transport_abort(writer->transport);
    test_run_until(loop, &reader->lost, 1, "the loss of the reader");
    test_run_until(loop, &writer->lost, 1, "the loss of the writer");
    test_spin(loop, 4);
    CHECK_EQ(reader->made, 1);
    CHECK_EQ(reader->lost, 1);
    CHECK_EQ(writer->made, 1);
    CHECK_EQ(writer->lost, 1);
    test_peer_drop(reader);
    test_peer_drop(writer);
}

/* Writes until it stays in the transport. Returns how much was written. */
static size_t pipe_stuff(aioloop *loop, test_peer *writer) {
    size_t total = 0;
    size_t before;
    do {
        CHECK_EQ(aioloop_transport_write(writer->transport, pipe_bytes + total, 32768), 0);
        total += 32768;
        do {
            before = aioloop_transport_get_write_buffer_size(writer->transport);
            test_spin(loop, 8);
        } while (aioloop_transport_get_write_buffer_size(writer->transport) != before);
        CHECK_LT(total, PIPE_BIG);
    } while (before == 0);
    return total;
}

/* ---- reading ---- */

TEST(pipe_read_end_gives_data_end_and_loss, "PIPE-01 PIPE-02 TRN-10") {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    test_peer writer = AIOLOOP_ZERO;
    reader.keep_open = true; /* is not listened to */
    pipe_both(loop, &reader, &writer);
    CHECK_STR(reader.calls, "m");
    CHECK_EQ(aioloop_transport_write(writer.transport, "1", 1), 0);
    test_run_until_received(loop, &reader, 1);
    CHECK_EQ(aioloop_transport_write(writer.transport, "2345", 4), 0);
    test_run_until_received(loop, &reader, 5);
    CHECK_STR(reader.data, "12345");
    CHECK(aioloop_transport_can_write_eof(writer.transport));
    CHECK_EQ(aioloop_transport_write_eof(writer.transport), 0);
    test_run_until(loop, &reader.lost, 1, "the loss");
    CHECK_EQ(reader.eof, 1);
    CHECK_EQ(reader.error, 0);
    CHECK_STR(reader.calls + strlen(reader.calls) - 2, "el");
    pipe_end(loop, &reader, &writer);
    test_end(loop);
}

TEST(pipe_carries_a_megabyte_in_order, "PIPE-01 PIPE-07") {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    test_peer writer = AIOLOOP_ZERO;
    pipe_fill();
    reader.on_data = pipe_check_stream;
    pipe_both(loop, &reader, &writer);
    CHECK_EQ(aioloop_transport_write(writer.transport, pipe_bytes, PIPE_BIG), 0);
    CHECK_EQ(writer.paused, 1);
    test_run_until_received(loop, &reader, PIPE_BIG);
    test_run_until(loop, &writer.resumed, 1, "resume_writing");
    CHECK_EQ(reader.received, PIPE_BIG);
    pipe_end(loop, &reader, &writer);
    test_end(loop);
}

/* Small pieces, among them lent ones and several at once: io_uring gathers them. */
TEST(pipe_writes_of_one_callback_keep_their_order, "PIPE-01") {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    test_peer writer = AIOLOOP_ZERO;
    aioloop_buf pieces[3];
    pipe_both(loop, &reader, &writer);
    pieces[0].data = "b";
    pieces[0].size = 1;
    pieces[1].data = "";
    pieces[1].size = 0;
    pieces[2].data = "cd";
    pieces[2].size = 2;
    CHECK_EQ(aioloop_transport_write(writer.transport, "a", 1), 0);
    CHECK_EQ(aioloop_transport_writelines(writer.transport, pieces, 3), 0);
    CHECK_EQ(aioloop_transport_write(writer.transport, "e", 1), 0);
    test_run_until_received(loop, &reader, 5);
    CHECK_STR(reader.data, "abcde");
    pipe_end(loop, &reader, &writer);
    test_end(loop);
}

TEST(pipe_read_into_a_buffered_protocol, "PIPE-01") {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    test_peer writer = AIOLOOP_ZERO;
    aioloop_socket ends[2];
    int64_t rc;
    pipe_make(loop, ends);
    pipe_fill();
    reader.on_data = pipe_check_stream;
    rc = aioloop_run_until_complete(loop, aioloop_connect_read_pipe(loop, &test_buffered_protocol, &reader, ends[0]), NULL);
    CHECK_EQ(rc, 0);
    test_forget_socket(ends[0]);
    pipe_write(loop, &writer, ends[1]);
    CHECK_EQ(aioloop_transport_write(writer.transport, pipe_bytes, 5000), 0);
    test_run_until_received(loop, &reader, 5000);
    CHECK_EQ(aioloop_transport_write_eof(writer.transport), 0);
    test_run_until(loop, &reader.lost, 1, "the loss");
    CHECK_EQ(reader.eof, 1);
    pipe_end(loop, &reader, &writer);
    test_end(loop);
}

TEST(pipe_reading_pauses_and_resumes, "PIPE-05") {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    test_peer writer = AIOLOOP_ZERO;
    pipe_both(loop, &reader, &writer);
    CHECK(aioloop_transport_is_reading(reader.transport));
    aioloop_transport_pause_reading(reader.transport);
    aioloop_transport_pause_reading(reader.transport);
    CHECK(!aioloop_transport_is_reading(reader.transport));
    CHECK_EQ(aioloop_transport_write(writer.transport, "abc", 3), 0);
    CHECK_EQ(aioloop_transport_write_eof(writer.transport), 0);
    test_run_until(loop, &writer.lost, 1, "the writer's loss");
    test_spin(loop, 8);
    CHECK_STR(reader.calls, "m");
    aioloop_transport_resume_reading(reader.transport);
    aioloop_transport_resume_reading(reader.transport);
    test_run_until(loop, &reader.lost, 1, "the loss");
    CHECK_EQ(reader.received, 3);
    CHECK_EQ(reader.eof, 1);
    pipe_end(loop, &reader, &writer);
    test_end(loop);
}

TEST(pipe_calls_after_the_loss_do_nothing, "PIPE-06") {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    test_peer writer = AIOLOOP_ZERO;
    int i;
    pipe_both(loop, &reader, &writer);
    aioloop_transport_close(writer.transport);
    test_run_until(loop, &writer.lost, 1, "the writer's loss");
    test_run_until(loop, &reader.lost, 1, "the reader's loss");
    for (i = 0; i < 2; i++) {
        test_peer *peer = i == 0 ? &reader : &writer;
        aioloop_transport_pause_reading(peer->transport);
        aioloop_transport_resume_reading(peer->transport);
        aioloop_transport_close(peer->transport);
        aioloop_transport_abort(peer->transport);
        CHECK(!aioloop_transport_is_reading(peer->transport));
        CHECK(aioloop_transport_is_closing(peer->transport));
        CHECK_EQ(aioloop_transport_get_write_buffer_size(peer->transport), 0);
    }
    for (i = 0; i < 6; i++)
        CHECK_EQ(aioloop_transport_write(writer.transport, "x", 1), 0);
    CHECK_EQ(test_log_lines(), 1); /* the fifth is logged */
    CHECK_EQ(aioloop_transport_write_eof(writer.transport), 0);
    pipe_end(loop, &reader, &writer);
    test_end(loop);
}

TEST(pipe_transports_go_one_way, "PIPE-06") {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    test_peer writer = AIOLOOP_ZERO;
    aioloop_buf piece;
    aioloop_ssl_context *ssl = NULL;
    int64_t rc;
    pipe_both(loop, &reader, &writer);
    piece.data = "x";
    piece.size = 1;
    CHECK_EQ(aioloop_transport_write(reader.transport, "x", 1), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_transport_writelines(reader.transport, &piece, 1), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_transport_write_eof(reader.transport), AIOLOOP_ENOTAVAILABLE);
    CHECK(!aioloop_transport_can_write_eof(reader.transport));
    rc = aioloop_run_until_complete(loop, aioloop_sendfile(loop, reader.transport, 0, 0, -1, NULL), NULL);
    CHECK_EQ(rc, AIOLOOP_ENOTAVAILABLE);
    CHECK(!aioloop_transport_is_reading(writer.transport));
    aioloop_transport_resume_reading(writer.transport);
    CHECK(!aioloop_transport_is_reading(writer.transport));
    aioloop_transport_pause_reading(writer.transport);
    rc = aioloop_run_until_complete(loop, aioloop_start_tls(loop, writer.transport, ssl, NULL), NULL);
    CHECK(rc == AIOLOOP_EINVAL || rc == AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_transport_write(writer.transport, "x", 1), 0);
    test_run_until_received(loop, &reader, 1);
    pipe_end(loop, &reader, &writer);
    test_end(loop);
}

TEST(pipe_transports_are_not_upgraded, "STLS-05") {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    test_peer writer = AIOLOOP_ZERO;
    aioloop_ssl_context *ssl = aioloop_ssl_context_new(AIOLOOP_TLS_CLIENT);
    int64_t rc;
    if (ssl == NULL && aioloop_error_code(aioloop_last_error(NULL)) == AIOLOOP_ENOTAVAILABLE) {
        test_end(loop);
        SKIP("built without TLS");
    }
    CHECK(ssl != NULL);
    pipe_both(loop, &reader, &writer);
    rc = aioloop_run_until_complete(loop, aioloop_start_tls(loop, writer.transport, ssl, NULL), NULL);
    aioloop_ssl_context_unref(ssl);
    CHECK_EQ(rc, AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_transport_write(writer.transport, "x", 1), 0);
    test_run_until_received(loop, &reader, 1);
    pipe_end(loop, &reader, &writer);
    test_end(loop);
}

/* ---- writing ---- */

TEST(pipe_close_and_write_eof_flush_first, "PIPE-07") {
    int how;
    pipe_fill();
    for (how = 0; how < 2; how++) {
        aioloop *loop = test_loop();
        test_peer reader = AIOLOOP_ZERO;
        test_peer writer = AIOLOOP_ZERO;
        size_t total;
        reader.on_data = pipe_check_stream;
        pipe_both(loop, &reader, &writer);
        aioloop_transport_pause_reading(reader.transport);
        total = pipe_stuff(loop, &writer);
        if (how == 0)
            aioloop_transport_close(writer.transport);
        else
            CHECK_EQ(aioloop_transport_write_eof(writer.transport), 0);
        CHECK(aioloop_transport_is_closing(writer.transport));
        CHECK_EQ(aioloop_transport_write(writer.transport, "dropped", 7), 0);
        test_spin(loop, 8);
        CHECK_EQ(writer.lost, 0);
        aioloop_transport_resume_reading(reader.transport);
        test_run_until(loop, &writer.lost, 1, "the writer's loss");
        CHECK_EQ(writer.error, 0);
        test_run_until(loop, &reader.lost, 1, "the reader's loss");
        CHECK_EQ(reader.received, total);
        pipe_end(loop, &reader, &writer);
        test_end(loop);
    }
}

TEST(pipe_reader_that_leaves_is_noticed_without_a_write, "PIPE-08 PIPE-10") {
    aioloop *loop = test_loop();
    test_peer writer = AIOLOOP_ZERO;
    aioloop_socket ends[2];
    pipe_make(loop, ends);
    pipe_write(loop, &writer, ends[1]);
    CHECK_EQ(aioloop_transport_write(writer.transport, "x", 1), 0);
    test_spin(loop, 8);
    CHECK_EQ(writer.lost, 0);
    test_close_socket(loop, ends[0]);
    test_run_until(loop, &writer.lost, 1, "the loss");
    CHECK_EQ(writer.error, 0);
    CHECK_STR(writer.calls, "ml");
    test_peer_drop(&writer);
    test_end(loop);
}

TEST(pipe_reader_that_leaves_with_data_under_way, "PIPE-08 PIPE-10") {
    aioloop *loop = test_loop();
    test_peer writer = AIOLOOP_ZERO;
    aioloop_socket ends[2];
    pipe_make(loop, ends);
    pipe_write(loop, &writer, ends[1]);
    pipe_stuff(loop, &writer);
    test_close_socket(loop, ends[0]);
    test_run_until(loop, &writer.lost, 1, "the loss");
    CHECK_EQ(writer.error, AIOLOOP_EPIPE);
    test_peer_drop(&writer);
    test_end(loop);
}

/* The same while it closes: what was to be flushed cannot be. */
TEST(pipe_reader_that_leaves_during_the_flush, "PIPE-08 PIPE-10") {
    aioloop *loop = test_loop();
    test_peer writer = AIOLOOP_ZERO;
    aioloop_socket ends[2];
    pipe_make(loop, ends);
    pipe_write(loop, &writer, ends[1]);
    pipe_stuff(loop, &writer);
    aioloop_transport_close(writer.transport);
    test_spin(loop, 4);
    CHECK_EQ(writer.lost, 0);
    test_close_socket(loop, ends[0]);
    test_run_until(loop, &writer.lost, 1, "the loss");
    CHECK_EQ(writer.error, AIOLOOP_EPIPE);
    test_peer_drop(&writer);
    test_end(loop);
}

static int pipe_signals;

static void pipe_on_signal(int number) {
    (void)number;
    pipe_signals++;
}

/* A write before the loop has had a chance to notice. SIGPIPE would end the test, or be counted. */
TEST(pipe_broken_raises_no_signal, "PIPE-10") {
    static const size_t sizes[] = {1, 100000};
    size_t i;
    for (i = 0; i < 4; i++) {
        aioloop *loop = test_loop();
        test_peer writer = AIOLOOP_ZERO;
        aioloop_socket ends[2];
        struct sigaction action;
        sigset_t pending;
        memset(&action, 0, sizeof(action));
        action.sa_handler = i < 2 ? SIG_DFL : pipe_on_signal;
        CHECK_EQ(sigaction(SIGPIPE, &action, NULL), 0);
        pipe_signals = 0;
        pipe_make(loop, ends);
        pipe_write(loop, &writer, ends[1]);
        test_close_socket(loop, ends[0]);
        CHECK_EQ(aioloop_transport_write(writer.transport, pipe_bytes, sizes[i % 2]), 0);
        test_run_until(loop, &writer.lost, 1, "the loss");
        CHECK(writer.error == AIOLOOP_EPIPE || writer.error == 0);
        CHECK_EQ(pipe_signals, 0);
        CHECK_EQ(sigpending(&pending), 0);
        CHECK_EQ(sigismember(&pending, SIGPIPE), 0);
        test_peer_drop(&writer);
        test_end(loop);
    }
}

TEST(pipe_abort_drops_what_is_queued, "PIPE-09") {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    test_peer writer = AIOLOOP_ZERO;
    size_t total;
    pipe_fill();
    reader.on_data = pipe_check_stream;
    pipe_both(loop, &reader, &writer);
    aioloop_transport_pause_reading(reader.transport);
    total = pipe_stuff(loop, &writer);
    aioloop_transport_abort(writer.transport);
    CHECK_EQ(aioloop_transport_get_write_buffer_size(writer.transport), 0);
    test_run_until(loop, &writer.lost, 1, "the writer's loss");
    CHECK_EQ(writer.error, 0);
    aioloop_transport_resume_reading(reader.transport);
    test_run_until(loop, &reader.lost, 1, "the reader's loss");
    CHECK_LT(reader.received, total);
    pipe_end(loop, &reader, &writer);
    test_end(loop);
}

/* ---- descriptors ---- */

TEST_WITH(pipe_descriptor_does_not_block_and_is_closed, "PIPE-03 SRV-17", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    test_peer writer = AIOLOOP_ZERO;
    aioloop_socket ends[2];
    int i;
    test_needs_real_descriptors(loop);
    pipe_make(loop, ends);
    pipe_read(loop, &reader, ends[0]);
    pipe_write(loop, &writer, ends[1]);
    for (i = 0; i < 2; i++) {
        CHECK((fcntl(ends[i], F_GETFL) & O_NONBLOCK) != 0);
        CHECK((fcntl(ends[i], F_GETFD) & FD_CLOEXEC) != 0);
    }
    aioloop_transport_close(writer.transport);
    CHECK(fcntl(ends[1], F_GETFD) != -1); /* still there in connection_lost */
    test_run_until(loop, &writer.lost, 1, "the writer's loss");
    CHECK_EQ(fcntl(ends[1], F_GETFD), -1);
    test_run_until(loop, &reader.lost, 1, "the reader's loss");
    CHECK_EQ(fcntl(ends[0], F_GETFD), -1);
    pipe_end(loop, &reader, &writer);
    test_end(loop);
}

/* Who shares the open file finds it as it was. */
TEST_WITH(pipe_blocks_again_afterwards, "PIPE-03", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    aioloop_socket ends[2];
    int copy;
    test_needs_real_descriptors(loop);
    pipe_make(loop, ends);
    copy = test_keep_socket(dup(ends[0]));
    pipe_read(loop, &reader, ends[0]);
    CHECK((fcntl(copy, F_GETFL) & O_NONBLOCK) != 0);
    aioloop_transport_close(reader.transport);
    test_run_until(loop, &reader.lost, 1, "the loss");
    CHECK((fcntl(copy, F_GETFL) & O_NONBLOCK) == 0);
    test_peer_drop(&reader);
    test_close_socket(loop, copy);
    test_close_socket(loop, ends[1]);
    test_end(loop);
}

TEST_WITH(pipe_files_are_refused_and_left_open, "PIPE-04", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_socket ends[2];
    int file;
    int folder;
    test_needs_real_descriptors(loop);
    file = test_keep_socket(open("Makefile", O_RDONLY));
    folder = test_keep_socket(open("/", O_RDONLY));
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_connect_read_pipe(loop, &test_protocol, &peer, file), NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_connect_write_pipe(loop, &test_protocol, &peer, file), NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_connect_read_pipe(loop, &test_protocol, &peer, folder), NULL), AIOLOOP_EINVAL);
    CHECK(fcntl(file, F_GETFD) != -1);
    CHECK((fcntl(file, F_GETFL) & O_NONBLOCK) == 0);
    CHECK(fcntl(folder, F_GETFD) != -1);
    pipe_make(loop, ends);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_connect_read_pipe(loop, &test_protocol, &peer, ends[1]), NULL), AIOLOOP_EBADF);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_connect_write_pipe(loop, &test_protocol, &peer, ends[0]), NULL), AIOLOOP_EBADF);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_connect_read_pipe(loop, &test_protocol, &peer, -1), NULL), AIOLOOP_EBADF);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_connect_read_pipe(loop, &test_protocol, &peer, 1000), NULL), AIOLOOP_EBADF);
    CHECK_EQ(peer.made, 0);
    test_close_socket(loop, ends[0]);
    test_close_socket(loop, ends[1]);
    test_close_socket(loop, file);
    test_close_socket(loop, folder);
    test_end(loop);
}

static void pipe_nothing(aioloop *loop, void *arg) {
    (void)loop;
    (void)arg;
}

TEST(pipe_arguments_are_checked, "PIPE-04") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    test_peer other = AIOLOOP_ZERO;
    aioloop_socket ends[2];
    pipe_make(loop, ends);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_connect_read_pipe(NULL, &test_protocol, &peer, ends[0]), NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_connect_read_pipe(loop, NULL, &peer, ends[0]), NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_connect_write_pipe(loop, NULL, &peer, ends[1]), NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_add_reader(loop, ends[0], pipe_nothing, NULL), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_connect_read_pipe(loop, &test_protocol, &peer, ends[0]), NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_remove_reader(loop, ends[0]), 1);
    pipe_read(loop, &peer, ends[0]);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_connect_read_pipe(loop, &test_protocol, &other, ends[0]), NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_add_reader(loop, ends[0], pipe_nothing, NULL), AIOLOOP_EMISUSE);
    aioloop_transport_close(peer.transport);
    test_run_until(loop, &peer.lost, 1, "the loss");
    test_peer_drop(&peer);
    test_close_socket(loop, ends[1]);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK_EQ(aioloop_future_exception(aioloop_connect_read_pipe(loop, &test_protocol, &peer, 0)), AIOLOOP_ECLOSED);
    test_end(loop);
}

TEST(pipe_extra_info, "TRN-17") {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    test_peer writer = AIOLOOP_ZERO;
    aioloop_socket ends[2];
    const aioloop_socket *pipe_info;
    pipe_make(loop, ends);
    pipe_read(loop, &reader, ends[0]);
    pipe_write(loop, &writer, ends[1]);
    pipe_info = (const aioloop_socket *)aioloop_transport_get_extra_info(reader.transport, "pipe", NULL);
    CHECK(pipe_info != NULL);
    CHECK_EQ(*pipe_info, ends[0]);
    pipe_info = (const aioloop_socket *)aioloop_transport_get_extra_info(writer.transport, "pipe", NULL);
    CHECK(pipe_info != NULL);
    CHECK_EQ(*pipe_info, ends[1]);
    CHECK(aioloop_transport_get_extra_info(reader.transport, "socket", NULL) == NULL);
    CHECK(aioloop_transport_get_extra_info(reader.transport, "peername", ends) == ends);
    CHECK(aioloop_transport_get_extra_info(reader.transport, "sockname", ends) == ends);
    aioloop_transport_close(writer.transport);
    test_run_until(loop, &reader.lost, 1, "the loss");
    CHECK(aioloop_transport_get_extra_info(reader.transport, "pipe", ends) == ends);
    pipe_end(loop, &reader, &writer);
    test_end(loop);
}

/* ---- the call ---- */

static int pipe_refusing_factory(void *self, void *arg) {
    (void)self;
    (void)arg;
    return AIOLOOP_EACCES;
}

TEST(pipe_factory_fails, "PIPE-01") {
    aioloop *loop = test_loop();
    aioloop_protocol protocol = AIOLOOP_ZERO;
    aioloop_transport *t = NULL;
    test_peer writer = AIOLOOP_ZERO;
    aioloop_socket ends[2];
    protocol.factory = pipe_refusing_factory;
    pipe_make(loop, ends);
    pipe_write(loop, &writer, ends[1]);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_connect_read_pipe(loop, &protocol, NULL, ends[0]), &t), AIOLOOP_EACCES);
    test_forget_socket(ends[0]);
    CHECK(t == NULL);
    test_run_until(loop, &writer.lost, 1, "the loss, because the reader was closed");
    CHECK_EQ(writer.error, 0);
    test_peer_drop(&writer);
    test_end(loop);
}

TEST(pipe_cancelled_before_it_begins, "PIPE-01") {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    test_peer writer = AIOLOOP_ZERO;
    aioloop_socket ends[2];
    aioloop_future *f;
    pipe_make(loop, ends);
    pipe_write(loop, &writer, ends[1]);
    f = aioloop_future_ref(aioloop_connect_read_pipe(loop, &test_protocol, &reader, ends[0]));
    CHECK(!aioloop_future_done(f)); /* else it is still ours */
    test_forget_socket(ends[0]);
    CHECK(aioloop_future_cancel(f, NULL));
    test_run_until(loop, &writer.lost, 1, "the loss, because the reader was closed");
    CHECK(aioloop_future_cancelled(f));
    CHECK_EQ(reader.made, 0);
    aioloop_future_unref(f);
    test_peer_drop(&writer);
    test_end(loop);
}

static void pipe_cancel_made(test_peer *peer) {
    aioloop_future_cancel((aioloop_future *)peer->user, NULL);
}

TEST(pipe_cancelled_in_connection_made, "PIPE-01") {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    aioloop_socket ends[2];
    aioloop_future *f;
    pipe_make(loop, ends);
    f = aioloop_future_ref(aioloop_connect_read_pipe(loop, &test_protocol, &reader, ends[0]));
    CHECK(!aioloop_future_done(f));
    test_forget_socket(ends[0]);
    reader.user = f;
    reader.on_made = pipe_cancel_made;
    test_run_until(loop, &reader.lost, 1, "the loss");
    CHECK_STR(reader.calls, "ml");
    CHECK(aioloop_future_cancelled(f));
    aioloop_future_unref(f);
    test_peer_drop(&reader);
    test_close_socket(loop, ends[1]);
    test_end(loop);
}

TEST(pipe_loop_closed_meanwhile, "PIPE-03") {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    test_peer writer = AIOLOOP_ZERO;
    test_peer third = AIOLOOP_ZERO;
    aioloop_socket ends[2];
    aioloop_socket more[2];
    aioloop_future *f;
    pipe_make(loop, ends);
    pipe_make(loop, more);
    pipe_read(loop, &reader, ends[0]);
    pipe_write(loop, &writer, ends[1]);
    f = aioloop_future_ref(aioloop_connect_read_pipe(loop, &test_protocol, &third, more[0]));
    CHECK(!aioloop_future_done(f));
    test_forget_socket(more[0]);
    CHECK_EQ(aioloop_transport_write(writer.transport, "x", 1), 0);
    test_close_socket(loop, more[1]);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(third.made, 0);
    aioloop_future_unref(f);
    test_peer_drop(&reader);
    test_peer_drop(&writer);
    test_end(loop);
}

/* ---- what else is not a pipe ---- */

TEST(pipe_over_sockets, "PIPE-04 PIPE-01 PIPE-08") {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    test_peer writer = AIOLOOP_ZERO;
    aioloop_socket s[2];
    test_socketpair(loop, s);
    pipe_read(loop, &reader, s[0]);
    pipe_write(loop, &writer, s[1]);
    pipe_fill();
    reader.on_data = pipe_check_stream;
    CHECK_EQ(aioloop_transport_write(writer.transport, pipe_bytes, 200000), 0);
    test_run_until_received(loop, &reader, 200000);
    aioloop_transport_close(reader.transport);
    test_run_until(loop, &writer.lost, 1, "the loss, without a write");
    CHECK_EQ(writer.error, 0);
    pipe_end(loop, &reader, &writer);
    test_end(loop);
}

/* Both ends of a connection: the other one talks, and is not heard. */
TEST(pipe_over_a_socket_drops_what_comes_back, "PIPE-08") {
    aioloop *loop = test_loop();
    test_peer far = AIOLOOP_ZERO;
    test_peer writer = AIOLOOP_ZERO;
    aioloop_socket s[2];
    test_socketpair(loop, s);
    test_adopt(loop, &test_protocol, &far, s[0]);
    pipe_write(loop, &writer, s[1]);
    CHECK_EQ(aioloop_transport_write(far.transport, "is anybody there?", 17), 0);
    test_spin(loop, 16);
    CHECK_EQ(writer.lost, 0);
    CHECK_EQ(aioloop_transport_write(writer.transport, "x", 1), 0);
    test_run_until_received(loop, &far, 1);
    CHECK_STR(writer.calls, "m");
    pipe_end(loop, &far, &writer);
    test_end(loop);
}

TEST_WITH(pipe_fifo_open_for_both_has_a_reader, "PIPE-08", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    test_peer writer = AIOLOOP_ZERO;
    char path[64];
    int both;
    int end;
    test_needs_real_descriptors(loop);
    snprintf(path, sizeof(path), "/tmp/aioloop-fifo-%ld", (long)getpid());
    CHECK_EQ(mkfifo(path, 0600), 0);
    both = open(path, O_RDWR);
    end = open(path, O_RDONLY | O_NONBLOCK);
    unlink(path);
    test_keep_socket(both);
    test_keep_socket(end);
    pipe_read(loop, &reader, end);
    pipe_write(loop, &writer, both);
    CHECK_EQ(aioloop_transport_write(writer.transport, "x", 1), 0);
    test_run_until_received(loop, &reader, 1);
    pipe_fill();
    aioloop_transport_pause_reading(reader.transport);
    pipe_stuff(loop, &writer);
    aioloop_transport_close(reader.transport);
    test_run_until(loop, &reader.lost, 1, "the reader's loss");
    test_spin(loop, 8);
    CHECK_EQ(writer.lost, 0);
    pipe_end(loop, &reader, &writer);
    test_end(loop);
}

/* A named pipe, on which io_uring's requests do not wait. */
TEST_WITH(pipe_fifo, "PIPE-01 PIPE-08 PIPE-10", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    test_peer writer = AIOLOOP_ZERO;
    char path[64];
    int read_end;
    int write_end;
    test_needs_real_descriptors(loop);
    snprintf(path, sizeof(path), "/tmp/aioloop-fifo-%ld", (long)getpid());
    CHECK_EQ(mkfifo(path, 0600), 0);
    read_end = open(path, O_RDONLY | O_NONBLOCK);
    write_end = open(path, O_WRONLY);
    unlink(path);
    test_keep_socket(read_end);
    test_keep_socket(write_end);
    pipe_read(loop, &reader, read_end);
    pipe_write(loop, &writer, write_end);
    pipe_fill();
    reader.on_data = pipe_check_stream;
    CHECK_EQ(aioloop_transport_write(writer.transport, pipe_bytes, 3), 0);
    test_run_until_received(loop, &reader, 3);
    CHECK_EQ(aioloop_transport_write(writer.transport, pipe_bytes + 3, 299997), 0);
    test_run_until_received(loop, &reader, 300000);
    aioloop_transport_close(reader.transport);
    test_run_until(loop, &writer.lost, 1, "the writer's loss");
    CHECK_EQ(writer.error, 0);
    pipe_end(loop, &reader, &writer);
    test_end(loop);
}

TEST_WITH(pipe_null_device, "PIPE-04", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    test_peer writer = AIOLOOP_ZERO;
    int in;
    int out;
    test_needs_real_descriptors(loop);
    in = test_keep_socket(open("/dev/null", O_RDONLY));
    out = test_keep_socket(open("/dev/null", O_WRONLY));
    pipe_read(loop, &reader, in);
    test_run_until(loop, &reader.lost, 1, "the end of nothing");
    CHECK_STR(reader.calls, "mel");
    CHECK_EQ(reader.error, 0);
    pipe_write(loop, &writer, out);
    CHECK_EQ(aioloop_transport_write(writer.transport, pipe_bytes, 300000), 0);
    aioloop_transport_close(writer.transport);
    test_run_until(loop, &writer.lost, 1, "the loss");
    CHECK_EQ(writer.error, 0);
    pipe_end(loop, &reader, &writer);
    test_end(loop);
}

/* ---- terminals ---- */

/* A pseudo-terminal that passes bytes as they are; or the test is skipped. */
static void pipe_terminal(aioloop *loop, int *master, int *slave) {
    struct termios mode;
    test_needs_real_descriptors(loop);
    *master = posix_openpt(O_RDWR | O_NOCTTY);
    if (*master == -1) {
        test_end(loop);
        SKIP("no pseudo-terminals here");
    }
    test_keep_socket(*master);
    CHECK(grantpt(*master) == 0 && unlockpt(*master) == 0);
    *slave = test_keep_socket(open(ptsname(*master), O_RDWR | O_NOCTTY));
    CHECK_EQ(tcgetattr(*slave, &mode), 0);
    mode.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ISIG);
    mode.c_oflag &= ~(tcflag_t)OPOST;
    CHECK_EQ(tcsetattr(*slave, TCSANOW, &mode), 0);
}

TEST_WITH(pipe_terminal_hang_up_is_not_reported, "PIPE-11", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    int master;
    int slave;
    pipe_terminal(loop, &master, &slave);
    pipe_read(loop, &reader, master);
    CHECK_EQ(write(slave, "1", 1), 1);
    test_run_until_received(loop, &reader, 1);
    CHECK_EQ(write(slave, "2345", 4), 4);
    test_run_until_received(loop, &reader, 5);
    CHECK_STR(reader.data, "12345");
    test_close_socket(loop, slave);
    test_run_until(loop, &reader.lost, 1, "the loss");
    CHECK_EQ(reader.error, AIOLOOP_EIO);
    CHECK_EQ(reader.eof, 0);
    CHECK_EQ(test_reports(), 0);
    test_peer_drop(&reader);
    test_end(loop);
}

TEST_WITH(pipe_terminal_both_ways_leaves_the_shared_one_alone, "PIPE-03 PIPE-04", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    test_peer writer = AIOLOOP_ZERO;
    char got[8];
    int master;
    int slave;
    int shared;
    int again;
    pipe_terminal(loop, &master, &slave);
    shared = test_keep_socket(dup(slave));
    again = test_keep_socket(dup(slave));
    pipe_read(loop, &reader, slave);
    pipe_write(loop, &writer, shared);
    CHECK((fcntl(slave, F_GETFL) & O_NONBLOCK) != 0);
    if (!test_injected()) /* a fault may have kept it from being opened anew; then it is put back */
        CHECK((fcntl(again, F_GETFL) & O_NONBLOCK) == 0);
    CHECK_EQ(write(master, "in", 2), 2);
    test_run_until_received(loop, &reader, 2);
    CHECK_EQ(aioloop_transport_write(writer.transport, "out", 3), 0);
    test_spin(loop, 4);
    CHECK_EQ(fcntl(master, F_SETFL, O_NONBLOCK), 0);
    CHECK_EQ(read(master, got, sizeof(got)), 3);
    CHECK_MEM(got, "out", 3);
    pipe_end(loop, &reader, &writer);
    CHECK((fcntl(again, F_GETFL) & O_NONBLOCK) == 0);
    test_close_socket(loop, again);
    test_close_socket(loop, master);
    test_end(loop);
}

/* One that cannot be opened anew blocks again afterwards. */
TEST_WITH(pipe_terminal_is_put_back, "PIPE-03", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    test_peer reader = AIOLOOP_ZERO;
    int master;
    int slave;
    int again;
    pipe_terminal(loop, &master, &slave);
    again = test_keep_socket(dup(master));
    pipe_read(loop, &reader, master);
    CHECK((fcntl(again, F_GETFL) & O_NONBLOCK) != 0);
    aioloop_transport_close(reader.transport);
    test_run_until(loop, &reader.lost, 1, "the loss");
    CHECK((fcntl(again, F_GETFL) & O_NONBLOCK) == 0);
    test_peer_drop(&reader);
    test_close_socket(loop, again);
    test_close_socket(loop, slave);
    test_end(loop);
}

/* ---- files ---- */

TEST(pipe_sends_a_file, "SF-01") {
    static const int64_t sizes[] = {10, 500000};
    size_t i;
    pipe_fill();
    for (i = 0; i < 2; i++) {
        aioloop *loop = test_loop();
        test_peer reader = AIOLOOP_ZERO;
        test_peer writer = AIOLOOP_ZERO;
        char path[] = "/tmp/aioloop-file-XXXXXX";
        int64_t rc;
        int file = test_keep_socket(mkstemp(path));
        unlink(path);
        CHECK_EQ(write(file, pipe_bytes + 1, (size_t)sizes[i] - 1), sizes[i] - 1);
        reader.on_data = pipe_check_stream;
        pipe_both(loop, &reader, &writer);
        CHECK_EQ(aioloop_transport_write(writer.transport, pipe_bytes, 1), 0);
        rc = aioloop_run_until_complete(loop, aioloop_sendfile(loop, writer.transport, file, 0, -1, NULL), NULL);
        CHECK_EQ(rc, sizes[i] - 1);
        CHECK_EQ(aioloop_transport_write(writer.transport, pipe_bytes + sizes[i], 1), 0);
        test_run_until_received(loop, &reader, (size_t)sizes[i] + 1);
        pipe_end(loop, &reader, &writer);
        close(file);
        test_forget_socket(file);
        test_end(loop);
    }
}

/* ---- coroutines ---- */

static void pipe_scenario(aioloop *loop, await_style style) {
    test_peer reader = AIOLOOP_ZERO;
    test_peer writer = AIOLOOP_ZERO;
    aioloop_socket ends[2];
    awaiter a = AIOLOOP_ZERO;
    awaiter b = AIOLOOP_ZERO;
    pipe_make(loop, ends);
    CHECK_EQ(await_now(&a, loop, style, aioloop_connect_read_pipe(loop, &test_protocol, &reader, ends[0])), 0);
    test_forget_socket(ends[0]);
    CHECK(a.pointer == reader.transport);
    CHECK_EQ(await_now(&b, loop, style, aioloop_connect_write_pipe(loop, &test_protocol, &writer, ends[1])), 0);
    test_forget_socket(ends[1]);
    CHECK_EQ(aioloop_transport_write(writer.transport, "hello", 5), 0);
    aioloop_transport_close(writer.transport);
    test_run_until(loop, &reader.lost, 1, "the loss");
    CHECK_STR(reader.data, "hello");
    aioloop_transport_unref((aioloop_transport *)a.pointer);
    aioloop_transport_unref((aioloop_transport *)b.pointer);
    pipe_end(loop, &reader, &writer);
}

TEST(pipe_in_all_styles, "PIPE-01") {
    await_in_all_styles(pipe_scenario);
}
