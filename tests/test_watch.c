/*
 * test_watch.c - add_reader and add_writer: watching descriptors that the user owns.
 *
 * What can be watched on every back end is one end of a socket pair whose other end is a transport (watch_pair). Tests
 * that read, close or reuse what is watched need descriptors of the system.
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct watch_mark {
    int calls;
    char letter;
    char *order; /* NULL, or where the letter goes */
    int code;    /* to raise; 0: none */
    aioloop_socket fd;
    struct watch_mark *other;
    struct watch_mark *fresh; /* what replaces the other one */
    int result;
} watch_mark;

static void watch_called(aioloop *loop, void *arg) {
    watch_mark *mark = (watch_mark *)arg;
    mark->calls++;
    if (mark->order != NULL) {
        size_t n = strlen(mark->order);
        if (n < 60) {
            mark->order[n] = mark->letter;
            mark->order[n + 1] = '\0';
        }
    }
    if (mark->code != 0)
        aioloop_raise(loop, mark->code, "watcher %c", mark->letter);
}

/* A transport, and the socket at its other end. */
static void watch_pair(aioloop *loop, test_peer *peer, aioloop_socket *fd) {
    aioloop_socket s[2];
    test_socketpair(loop, s);
    test_adopt(loop, &test_protocol, peer, s[0]);
    *fd = s[1];
}

/* The transport sends a byte, so that the socket is readable or will be soon. */
static void watch_send(test_peer *peer) {
    CHECK_EQ(aioloop_transport_write(peer->transport, "x", 1), 0);
}

static void watch_end(aioloop *loop, test_peer *peer, aioloop_socket fd) {
    aioloop_transport_abort(peer->transport);
    test_run_until(loop, &peer->lost, 1, "the loss");
    test_peer_drop(peer);
    test_spin(loop, 4); /* what is being removed may take its time */
    test_close_socket(loop, fd);
}

/* ---- when callbacks come ---- */

TEST(reader_is_called_once_a_pass_while_readable, "FD-01") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    watch_mark r = AIOLOOP_ZERO;
    aioloop_socket fd;
    int i;
    watch_pair(loop, &peer, &fd);
    CHECK_EQ(aioloop_add_reader(loop, fd, watch_called, &r), 0);
    test_spin(loop, 3);
    CHECK_EQ(r.calls, 0); /* nothing to read */
    watch_send(&peer);
    test_run_until(loop, &r.calls, 1, "the reader");
    for (i = 0; i < 5; i++) {
        int before = r.calls;
        test_spin(loop, 1);
        CHECK_EQ(r.calls, before + 1); /* in every pass, for nobody reads */
    }
    CHECK_EQ(aioloop_remove_reader(loop, fd), 1);
    i = r.calls;
    test_spin(loop, 4);
    CHECK_EQ(r.calls, i);
    watch_end(loop, &peer, fd);
    test_end(loop);
}

TEST(writer_is_called_once_a_pass_while_writable, "FD-01") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    watch_mark w = AIOLOOP_ZERO;
    aioloop_socket fd;
    int i;
    watch_pair(loop, &peer, &fd);
    CHECK_EQ(aioloop_add_writer(loop, fd, watch_called, &w), 0);
    test_run_until(loop, &w.calls, 1, "the writer");
    for (i = 0; i < 5; i++) {
        int before = w.calls;
        test_spin(loop, 1);
        CHECK_EQ(w.calls, before + 1);
    }
    CHECK_EQ(aioloop_remove_writer(loop, fd), 1);
    i = w.calls;
    test_spin(loop, 4);
    CHECK_EQ(w.calls, i);
    watch_end(loop, &peer, fd);
    test_end(loop);
}

TEST(reader_rests_when_all_was_read, "FD-01") {
    aioloop *loop = test_loop();
    watch_mark r = AIOLOOP_ZERO;
    aioloop_socket s[2];
    char c;
    test_needs_real_descriptors(loop);
    test_socketpair(loop, s);
    CHECK_EQ(aioloop_add_reader(loop, s[0], watch_called, &r), 0);
    CHECK_EQ(write(s[1], "ab", 2), 2);
    test_run_until(loop, &r.calls, 1, "the reader");
    CHECK_EQ(read(s[0], &c, 1), 1);
    test_spin(loop, 1);
    CHECK_EQ(r.calls, 2); /* there is another byte */
    CHECK_EQ(read(s[0], &c, 1), 1);
    test_spin(loop, 3);
    CHECK_EQ(r.calls, 2);
    CHECK_EQ(write(s[1], "c", 1), 1);
    test_run_until(loop, &r.calls, 3, "the reader again");
    CHECK_EQ(aioloop_remove_reader(loop, s[0]), 1);
    test_close_socket(loop, s[0]);
    test_close_socket(loop, s[1]);
    test_end(loop);
}

/* ---- ends and errors ---- */

TEST(end_of_stream_is_readable_and_writable, "FD-02") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    watch_mark r = AIOLOOP_ZERO;
    watch_mark w = AIOLOOP_ZERO;
    aioloop_socket fd;
    watch_pair(loop, &peer, &fd);
    CHECK_EQ(aioloop_add_reader(loop, fd, watch_called, &r), 0);
    test_spin(loop, 2);
    CHECK_EQ(r.calls, 0);
    aioloop_transport_close(peer.transport);
    test_run_until(loop, &r.calls, 2, "the reader at the end");
    CHECK_EQ(aioloop_add_writer(loop, fd, watch_called, &w), 0);
    test_run_until(loop, &w.calls, 2, "the writer at the end");
    CHECK_EQ(aioloop_remove_reader(loop, fd), 1);
    CHECK_EQ(aioloop_remove_writer(loop, fd), 1);
    watch_end(loop, &peer, fd);
    test_end(loop);
}

/* Writes until nothing more fits. */
static void watch_fill(int fd) {
    static const char bytes[4096] = {0};
    int flags = fcntl(fd, F_GETFL);
    ssize_t n;
    CHECK(flags != -1);
    CHECK(fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0);
    do
        n = write(fd, bytes, sizeof(bytes));
    while (n > 0);
    do
        n = write(fd, bytes, 1); /* a pipe takes no part of a page */
    while (n > 0);
    CHECK(errno == EAGAIN || errno == EWOULDBLOCK);
}

TEST(hang_up_wakes_a_writer_that_could_not_write, "FD-02") {
    aioloop *loop = test_loop();
    watch_mark w = AIOLOOP_ZERO;
    aioloop_socket s[2];
    test_needs_real_descriptors(loop);
    test_socketpair(loop, s);
    watch_fill(s[0]);
    CHECK_EQ(aioloop_add_writer(loop, s[0], watch_called, &w), 0);
    test_spin(loop, 2);
    CHECK_EQ(w.calls, 0);
    test_close_socket(loop, s[1]);
    test_run_until(loop, &w.calls, 1, "the writer");
    CHECK_EQ(aioloop_remove_writer(loop, s[0]), 1);
    test_close_socket(loop, s[0]);
    test_end(loop);
}

TEST(broken_pipe_wakes_its_writer_and_an_ended_one_its_reader, "FD-02") {
    aioloop *loop = test_loop();
    watch_mark r = AIOLOOP_ZERO;
    watch_mark w = AIOLOOP_ZERO;
    int ends[2];
    test_needs_real_descriptors(loop);
    CHECK_EQ(pipe(ends), 0);
    test_keep_socket(ends[0]);
    test_keep_socket(ends[1]);
    watch_fill(ends[1]);
    CHECK_EQ(aioloop_add_writer(loop, ends[1], watch_called, &w), 0);
    test_spin(loop, 2);
    CHECK_EQ(w.calls, 0);
    test_close_socket(loop, ends[0]);
    test_run_until(loop, &w.calls, 1, "the writer");
    CHECK_EQ(aioloop_remove_writer(loop, ends[1]), 1);
    test_close_socket(loop, ends[1]);
    CHECK_EQ(pipe(ends), 0);
    test_keep_socket(ends[0]);
    test_keep_socket(ends[1]);
    CHECK_EQ(aioloop_add_reader(loop, ends[0], watch_called, &r), 0);
    test_spin(loop, 2);
    CHECK_EQ(r.calls, 0);
    test_close_socket(loop, ends[1]);
    test_run_until(loop, &r.calls, 1, "the reader");
    CHECK_EQ(aioloop_remove_reader(loop, ends[0]), 1);
    test_close_socket(loop, ends[0]);
    test_end(loop);
}

/* ---- replacing and removing ---- */

TEST(adding_again_replaces, "FD-03") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    watch_mark first = AIOLOOP_ZERO;
    watch_mark second = AIOLOOP_ZERO;
    watch_mark w = AIOLOOP_ZERO;
    aioloop_socket fd;
    int before;
    watch_pair(loop, &peer, &fd);
    CHECK_EQ(aioloop_add_reader(loop, fd, watch_called, &first), 0);
    CHECK_EQ(aioloop_add_writer(loop, fd, watch_called, &w), 0);
    watch_send(&peer);
    test_run_until(loop, &first.calls, 1, "the reader");
    before = first.calls;
    CHECK_EQ(aioloop_add_reader(loop, fd, watch_called, &second), 0);
    test_run_until(loop, &second.calls, 2, "the new reader");
    CHECK_EQ(first.calls, before);
    test_run_until(loop, &w.calls, 1, "the writer"); /* is another kind */
    before = w.calls;
    CHECK_EQ(aioloop_add_writer(loop, fd, watch_called, &first), 0);
    first.calls = 0;
    test_run_until(loop, &first.calls, 1, "the new writer");
    CHECK_EQ(w.calls, before);
    CHECK_EQ(aioloop_remove_reader(loop, fd), 1);
    CHECK_EQ(aioloop_remove_reader(loop, fd), 0); /* it was one */
    CHECK_EQ(aioloop_remove_writer(loop, fd), 1);
    CHECK_EQ(aioloop_remove_writer(loop, fd), 0);
    watch_end(loop, &peer, fd);
    test_end(loop);
}

/* Two descriptors become ready in the same pass; whichever callback is first ends the other one's watcher. */
static void watch_two(aioloop *loop, test_peer peers[2], watch_mark marks[2], aioloop_callback fn) {
    int i;
    for (i = 0; i < 2; i++) {
        watch_pair(loop, &peers[i], &marks[i].fd);
        marks[i].other = &marks[1 - i];
    }
    watch_send(&peers[0]);
    watch_send(&peers[1]);
    /* They are readable when a watcher says so; only then are both watched by fn. */
    for (i = 0; i < 2; i++) {
        watch_mark seen = AIOLOOP_ZERO;
        CHECK_EQ(aioloop_add_reader(loop, marks[i].fd, watch_called, &seen), 0);
        test_run_until(loop, &seen.calls, 1, "the bytes");
        CHECK_EQ(aioloop_remove_reader(loop, marks[i].fd), 1);
    }
    for (i = 0; i < 2; i++)
        CHECK_EQ(aioloop_add_reader(loop, marks[i].fd, fn, &marks[i]), 0);
}

static void watch_two_end(aioloop *loop, test_peer peers[2], watch_mark marks[2]) {
    int i;
    for (i = 0; i < 2; i++) {
        CHECK_GE(aioloop_remove_reader(loop, marks[i].fd), 0);
        watch_end(loop, &peers[i], marks[i].fd);
    }
}

static void watch_replace_other(aioloop *loop, void *arg) {
    watch_mark *mark = (watch_mark *)arg;
    watch_called(loop, arg);
    if (mark->calls == 1)
        mark->result = aioloop_add_reader(loop, mark->other->fd, watch_called, mark->fresh);
}

TEST(replaced_watcher_does_not_get_the_event_found_for_it, "FD-03 FD-07") {
    aioloop *loop = test_loop();
    test_peer peers[2] = {AIOLOOP_ZERO, AIOLOOP_ZERO};
    watch_mark marks[2] = {AIOLOOP_ZERO, AIOLOOP_ZERO};
    watch_mark fresh = AIOLOOP_ZERO;
    int i;
    marks[0].fresh = &fresh;
    marks[1].fresh = &fresh;
    watch_two(loop, peers, marks, watch_replace_other);
    for (i = 0; i < 100 && marks[0].calls + marks[1].calls == 0; i++)
        test_spin(loop, 1);
    CHECK_EQ(marks[0].calls + marks[1].calls, 1);
    CHECK_EQ(fresh.calls, 0); /* set in this pass: not of this pass */
    CHECK_EQ(marks[0].result + marks[1].result, 0);
    test_run_until(loop, &fresh.calls, 2, "the replacement");
    CHECK(marks[0].calls == 0 || marks[1].calls == 0); /* the old one never ran */
    watch_two_end(loop, peers, marks);
    test_end(loop);
}

static void watch_remove_other(aioloop *loop, void *arg) {
    watch_mark *mark = (watch_mark *)arg;
    watch_called(loop, arg);
    if (mark->calls == 1)
        mark->result = aioloop_remove_reader(loop, mark->other->fd);
}

TEST(removed_watcher_does_not_get_the_event_found_for_it, "FD-06 FD-07") {
    aioloop *loop = test_loop();
    test_peer peers[2] = {AIOLOOP_ZERO, AIOLOOP_ZERO};
    watch_mark marks[2] = {AIOLOOP_ZERO, AIOLOOP_ZERO};
    int i;
    watch_two(loop, peers, marks, watch_remove_other);
    for (i = 0; i < 100 && marks[0].calls + marks[1].calls < 3; i++)
        test_spin(loop, 1);
    CHECK_GE(marks[0].calls + marks[1].calls, 3); /* the one that was first goes on */
    CHECK(marks[0].calls == 0 || marks[1].calls == 0);
    CHECK_EQ(marks[0].result + marks[1].result, 1);
    watch_two_end(loop, peers, marks);
    test_end(loop);
}

static void watch_remove_self(aioloop *loop, void *arg) {
    watch_mark *mark = (watch_mark *)arg;
    watch_called(loop, arg);
    mark->result = aioloop_remove_reader(loop, mark->fd);
}

TEST(callback_may_remove_its_own_watcher, "FD-06 FD-07") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    watch_mark r = AIOLOOP_ZERO;
    watch_pair(loop, &peer, &r.fd);
    CHECK_EQ(aioloop_add_reader(loop, r.fd, watch_remove_self, &r), 0);
    watch_send(&peer);
    test_run_until(loop, &r.calls, 1, "the reader");
    CHECK_EQ(r.result, 1);
    test_spin(loop, 4);
    CHECK_EQ(r.calls, 1);
    CHECK_EQ(aioloop_remove_reader(loop, r.fd), 0);
    watch_end(loop, &peer, r.fd);
    test_end(loop);
}

/* Takes its watcher out and puts in another, then replaces that at once. */
static void watch_change_self(aioloop *loop, void *arg) {
    watch_mark *mark = (watch_mark *)arg;
    int never = 0;
    watch_called(loop, arg);
    mark->result = aioloop_remove_reader(loop, mark->fd) == 1 ? 0 : -1;
    if (mark->result == 0)
        mark->result = aioloop_add_reader(loop, mark->fd, watch_called, &never);
    if (mark->result == 0)
        mark->result = aioloop_add_reader(loop, mark->fd, watch_called, mark->fresh);
    if (mark->result == 0)
        mark->result = aioloop_add_writer(loop, mark->fd, watch_called, mark->other);
}

TEST(callback_may_remove_and_add_for_its_own_descriptor, "FD-03 FD-07") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    watch_mark r = AIOLOOP_ZERO;
    watch_mark fresh = AIOLOOP_ZERO;
    watch_mark w = AIOLOOP_ZERO;
    r.fresh = &fresh;
    r.other = &w;
    watch_pair(loop, &peer, &r.fd);
    CHECK_EQ(aioloop_add_reader(loop, r.fd, watch_change_self, &r), 0);
    watch_send(&peer);
    test_run_until(loop, &r.calls, 1, "the reader");
    CHECK_EQ(r.result, 0);
    CHECK_EQ(fresh.calls, 0);
    CHECK_EQ(w.calls, 0);
    test_run_until(loop, &fresh.calls, 2, "the new reader");
    test_run_until(loop, &w.calls, 2, "the new writer");
    CHECK_EQ(r.calls, 1);
    CHECK_EQ(aioloop_remove_reader(loop, r.fd), 1);
    CHECK_EQ(aioloop_remove_writer(loop, r.fd), 1);
    watch_end(loop, &peer, r.fd);
    test_end(loop);
}

TEST(reader_and_writer_of_one_descriptor_are_independent, "FD-04") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    watch_mark r = AIOLOOP_ZERO;
    watch_mark w = AIOLOOP_ZERO;
    char order[64] = "";
    aioloop_socket fd;
    int i;
    int both = 0;
    r.letter = 'r';
    w.letter = 'w';
    r.order = order;
    w.order = order;
    watch_pair(loop, &peer, &fd);
    CHECK_EQ(aioloop_add_writer(loop, fd, watch_called, &w), 0); /* first, to no avail */
    CHECK_EQ(aioloop_add_reader(loop, fd, watch_called, &r), 0);
    watch_send(&peer);
    test_run_until(loop, &r.calls, 1, "the reader");
    test_run_until(loop, &w.calls, 1, "the writer");
    for (i = 0; i < 10; i++) {
        order[0] = '\0';
        test_spin(loop, 1);
        CHECK(strcmp(order, "rw") == 0 || strlen(order) < 2);
        both += strcmp(order, "rw") == 0;
    }
    CHECK_GT(both, 0);
    CHECK_EQ(aioloop_remove_reader(loop, fd), 1);
    i = r.calls;
    w.calls = 0;
    test_run_until(loop, &w.calls, 3, "the writer alone");
    CHECK_EQ(r.calls, i);
    CHECK_EQ(aioloop_add_reader(loop, fd, watch_called, &r), 0);
    CHECK_EQ(aioloop_remove_writer(loop, fd), 1);
    i = w.calls;
    r.calls = 0;
    order[0] = '\0';
    test_run_until(loop, &r.calls, 3, "the reader alone");
    CHECK_EQ(w.calls, i);
    CHECK_EQ(aioloop_remove_reader(loop, fd), 1);
    watch_end(loop, &peer, fd);
    test_end(loop);
}

static void watch_remove_writer(aioloop *loop, void *arg) {
    watch_mark *mark = (watch_mark *)arg;
    watch_called(loop, arg);
    if (mark->calls == 1)
        mark->result = aioloop_remove_writer(loop, mark->fd);
}

TEST(reader_may_remove_the_writer_that_is_due_after_it, "FD-04 FD-06") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    watch_mark seen = AIOLOOP_ZERO;
    watch_mark r = AIOLOOP_ZERO;
    watch_mark w = AIOLOOP_ZERO;
    watch_pair(loop, &peer, &r.fd);
    watch_send(&peer);
    CHECK_EQ(aioloop_add_reader(loop, r.fd, watch_called, &seen), 0);
    test_run_until(loop, &seen.calls, 1, "the byte");
    CHECK_EQ(aioloop_add_reader(loop, r.fd, watch_remove_writer, &r), 0);
    CHECK_EQ(aioloop_add_writer(loop, r.fd, watch_called, &w), 0);
    test_run_until(loop, &r.calls, 3, "the reader");
    CHECK_EQ(r.result, 1);
    CHECK_EQ(w.calls, 0);
    CHECK_EQ(aioloop_remove_reader(loop, r.fd), 1);
    watch_end(loop, &peer, r.fd);
    test_end(loop);
}

TEST(removing_answers_whether_there_was_one, "FD-05") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    watch_mark r = AIOLOOP_ZERO;
    aioloop_socket fd;
    watch_pair(loop, &peer, &fd);
    CHECK_EQ(aioloop_remove_reader(loop, fd), 0);
    CHECK_EQ(aioloop_remove_writer(loop, fd), 0);
    CHECK_EQ(aioloop_add_reader(loop, fd, watch_called, &r), 0);
    CHECK_EQ(aioloop_remove_writer(loop, fd), 0);
    CHECK_EQ(aioloop_remove_reader(loop, fd), 1);
    CHECK_EQ(aioloop_remove_reader(loop, fd), 0);
    CHECK_EQ(aioloop_add_writer(loop, fd, watch_called, &r), 0);
    CHECK_EQ(aioloop_remove_reader(loop, fd), 0);
    CHECK_EQ(aioloop_remove_writer(loop, fd), 1);
    CHECK_EQ(aioloop_remove_writer(loop, fd), 0);
    CHECK_EQ(aioloop_remove_reader(loop, 1000000000), 0); /* never heard of */
    CHECK_EQ(aioloop_remove_writer(loop, 1000000000), 0);
    CHECK_EQ(aioloop_remove_reader(loop, -1), 0);
    CHECK_EQ(aioloop_remove_writer(loop, -5), 0);
    CHECK_EQ(aioloop_remove_reader(NULL, fd), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_remove_writer(NULL, fd), AIOLOOP_EINVAL);
    CHECK_EQ(r.calls, 0);
    watch_end(loop, &peer, fd);
    test_end(loop);
}

/* ---- failing callbacks ---- */

TEST(failing_watcher_is_reported_and_stays, "FD-08 ERR-04") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    watch_mark r = AIOLOOP_ZERO;
    aioloop_socket fd;
    watch_pair(loop, &peer, &fd);
    r.code = AIOLOOP_EBUSY;
    r.letter = 'q';
    CHECK_EQ(aioloop_add_reader(loop, fd, watch_called, &r), 0);
    watch_send(&peer);
    test_run_until(loop, &r.calls, 3, "the reader");
    CHECK_EQ(test_reports(), r.calls);
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EBUSY);
    CHECK_STR(test_report_at(0)->detail, "watcher q");
    CHECK(test_report_at(0)->message[0] != '\0');
    CHECK(test_report_at(0)->context.socket != NULL);
    CHECK(test_report_at(0)->context.transport == NULL);
    test_reports_clear();
    CHECK_EQ(aioloop_remove_reader(loop, fd), 1);
    watch_end(loop, &peer, fd);
    test_end(loop);
}

static void watch_handler(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    watch_mark *mark = (watch_mark *)arg;
    mark->calls++;
    mark->result = aioloop_remove_reader(loop, *context->socket);
    mark->fd = *context->socket; /* still there to be looked at */
}

TEST(exception_handler_may_remove_the_watcher_that_failed, "FD-08 FD-06") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    watch_mark r = AIOLOOP_ZERO;
    watch_mark handler = AIOLOOP_ZERO;
    aioloop_socket fd;
    watch_pair(loop, &peer, &fd);
    r.code = AIOLOOP_EBUSY;
    aioloop_set_exception_handler(loop, watch_handler, &handler);
    CHECK_EQ(aioloop_add_reader(loop, fd, watch_called, &r), 0);
    watch_send(&peer);
    test_run_until(loop, &handler.calls, 1, "the report");
    CHECK_EQ(handler.result, 1);
    CHECK_EQ(handler.fd, fd);
    test_spin(loop, 4);
    CHECK_EQ(r.calls, 1);
    watch_end(loop, &peer, fd);
    test_end(loop);
}

static const aioloop_context_var watch_var = {"watch", NULL};
static int watch_value;

static void watch_look(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    (void)loop;
    (void)context;
    *(void **)arg = aioloop_context_get(&watch_var);
}

TEST(watcher_and_its_report_have_the_context_of_the_call, "ERR-06") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    watch_mark r = AIOLOOP_ZERO;
    aioloop_socket fd;
    void *seen = NULL;
    int err;
    watch_pair(loop, &peer, &fd);
    r.code = AIOLOOP_EBUSY;
    aioloop_set_exception_handler(loop, watch_look, &seen);
    CHECK_EQ(aioloop_context_set(&watch_var, &watch_value, NULL), 0);
    err = aioloop_add_reader(loop, fd, watch_called, &r);
    CHECK_EQ(err, 0);
    CHECK_EQ(aioloop_context_set(&watch_var, NULL, NULL), 0);
    watch_send(&peer);
    test_run_until(loop, &r.calls, 1, "the reader");
    CHECK_PTR(seen, &watch_value);
    CHECK_EQ(aioloop_remove_reader(loop, fd), 1);
    watch_end(loop, &peer, fd);
    test_end(loop);
}

TEST(fatal_watcher_ends_the_run_and_the_others_are_kept, "FD-08") {
    aioloop *loop = test_loop();
    test_peer peers[2] = {AIOLOOP_ZERO, AIOLOOP_ZERO};
    watch_mark marks[2] = {AIOLOOP_ZERO, AIOLOOP_ZERO};
    marks[0].code = AIOLOOP_EFATAL;
    marks[1].code = AIOLOOP_EFATAL;
    watch_two(loop, peers, marks, watch_called);
    CHECK_EQ(aioloop_run_forever(loop), AIOLOOP_EFATAL);
    CHECK_EQ(marks[0].calls + marks[1].calls, 1);
    CHECK_EQ(aioloop_run_forever(loop), AIOLOOP_EFATAL);
    CHECK_EQ(marks[0].calls + marks[1].calls, 2);
    marks[0].code = 0;
    marks[1].code = 0;
    test_run_until(loop, &marks[0].calls, 3, "the first");
    test_run_until(loop, &marks[1].calls, 3, "the second");
    watch_two_end(loop, peers, marks);
    test_end(loop);
}

/* ---- what cannot be watched ---- */

TEST(descriptors_that_are_none_are_refused, "FD-09") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    watch_mark r = AIOLOOP_ZERO;
    aioloop_socket fd;
    watch_pair(loop, &peer, &fd);
    CHECK_EQ(aioloop_add_reader(loop, fd, NULL, &r), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_add_writer(loop, fd, NULL, &r), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_add_reader(NULL, fd, watch_called, &r), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_add_writer(NULL, fd, watch_called, &r), AIOLOOP_EINVAL);
    watch_end(loop, &peer, fd);
    CHECK_EQ(aioloop_add_reader(loop, fd, watch_called, &r), AIOLOOP_EBADF); /* closed */
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EBADF);
    CHECK_EQ(aioloop_add_writer(loop, fd, watch_called, &r), AIOLOOP_EBADF);
    CHECK_EQ(aioloop_remove_reader(loop, fd), 0);
    CHECK_EQ(aioloop_remove_writer(loop, fd), 0);
    CHECK_EQ(aioloop_add_reader(loop, -1, watch_called, &r), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_add_writer(loop, -1, watch_called, &r), AIOLOOP_EINVAL);
    test_spin(loop, 2);
    CHECK_EQ(r.calls, 0);
    test_end(loop);
}

TEST(regular_file_is_what_the_poller_makes_of_it, "FD-09") {
    aioloop *loop = test_loop();
    watch_mark r = AIOLOOP_ZERO;
    watch_mark w = AIOLOOP_ZERO;
    char path[] = P_tmpdir "/aioloop-watch-XXXXXX";
    int fd;
    test_needs_real_descriptors(loop);
    fd = test_keep_socket(mkstemp(path));
    CHECK_EQ(unlink(path), 0);
    if (strcmp(aioloop_backend_name(loop), "epoll") == 0) {
        CHECK_EQ(aioloop_add_reader(loop, fd, watch_called, &r), AIOLOOP_EPERM);
        CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EPERM);
        CHECK_EQ(aioloop_add_writer(loop, fd, watch_called, &w), AIOLOOP_EPERM);
        test_spin(loop, 2);
        CHECK_EQ(aioloop_remove_reader(loop, fd), 0); /* nothing stayed behind */
        CHECK_EQ(aioloop_remove_writer(loop, fd), 0);
        CHECK_EQ(r.calls + w.calls, 0);
    } else { /* always ready, says POSIX */
        CHECK_EQ(aioloop_add_reader(loop, fd, watch_called, &r), 0);
        CHECK_EQ(aioloop_add_writer(loop, fd, watch_called, &w), 0);
        test_run_until(loop, &r.calls, 2, "the reader");
        test_run_until(loop, &w.calls, 2, "the writer");
        CHECK_EQ(aioloop_remove_reader(loop, fd), 1);
        CHECK_EQ(aioloop_remove_writer(loop, fd), 1);
    }
    test_close_socket(loop, fd);
    test_end(loop);
}

static void watch_misuse(aioloop *loop, aioloop_socket fd) {
    watch_mark r = AIOLOOP_ZERO;
    CHECK_EQ(aioloop_add_reader(loop, fd, watch_called, &r), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_add_writer(loop, fd, watch_called, &r), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_remove_reader(loop, fd), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_remove_writer(loop, fd), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(loop)), AIOLOOP_EMISUSE);
}

TEST(transports_descriptor_is_not_the_users, "FD-10") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    const aioloop_socket *of_a;
    const aioloop_socket *of_b;
    aioloop_socket fd;
    test_connect_pair(loop, &a, &b);
    of_a = (const aioloop_socket *)aioloop_transport_get_extra_info(a.transport, "socket", NULL);
    of_b = (const aioloop_socket *)aioloop_transport_get_extra_info(b.transport, "socket", NULL);
    CHECK(of_a != NULL && of_b != NULL);
    watch_misuse(loop, *of_a);
    aioloop_transport_pause_reading(b.transport); /* then nobody reads it, but it is the transport's still */
    watch_misuse(loop, *of_b);
    aioloop_transport_resume_reading(b.transport);
    CHECK_EQ(aioloop_transport_write(a.transport, "abc", 3), 0); /* undisturbed */
    test_run_until(loop, &b.datas, 1, "the data");
    CHECK_MEM(b.data, "abc", 3);
    fd = *of_a;
    test_end_pair(loop, &a, &b);
    CHECK_EQ(aioloop_remove_reader(loop, fd), 0); /* nobody's any more */
    CHECK_EQ(aioloop_remove_writer(loop, fd), 0);
    test_end(loop);
}

TEST(listening_descriptor_is_not_the_users, "FD-10") {
    aioloop *loop = test_loop();
    aioloop_server *server;
    aioloop_socket fd;
    int port = 0;
    server = test_serve(loop, &test_protocol, NULL, &port);
    CHECK_EQ(aioloop_server_socket(server, 0, &fd, NULL), 0);
    watch_misuse(loop, fd);
    aioloop_server_close(server);
    CHECK_EQ(aioloop_remove_reader(loop, fd), 0);
    aioloop_server_unref(server);
    test_spin(loop, 4);
    test_end(loop);
}

TEST(closed_loop_watches_nothing, "FD-11") {
    aioloop *loop = test_loop();
    aioloop *keeper = test_loop(); /* of the sockets, where they are simulated */
    watch_mark r = AIOLOOP_ZERO;
    aioloop_socket s[2];
    test_socketpair(loop, s);
    CHECK_EQ(aioloop_add_reader(loop, s[0], watch_called, &r), 0);
    CHECK_EQ(aioloop_add_writer(loop, s[0], watch_called, &r), 0);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK_EQ(aioloop_add_reader(loop, s[0], watch_called, &r), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_add_writer(loop, s[0], watch_called, &r), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_add_reader(loop, s[1], watch_called, &r), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_remove_reader(loop, s[0]), 0); /* the close took them out */
    CHECK_EQ(aioloop_remove_writer(loop, s[0]), 0);
    CHECK_EQ(aioloop_remove_reader(loop, s[1]), 0);
    CHECK_EQ(aioloop_remove_writer(loop, -1), 0);
    CHECK_EQ(r.calls, 0);
    if (!test_simulated(keeper)) {
        test_close_socket(keeper, s[0]);
        test_close_socket(keeper, s[1]);
    }
    test_end(keeper);
    test_end(loop);
}

TEST(loop_never_closes_what_it_watches, "FD-12") {
    aioloop *loop = test_loop();
    watch_mark r = AIOLOOP_ZERO;
    aioloop_socket s[2];
    char text[4];
    test_needs_real_descriptors(loop);
    test_socketpair(loop, s);
    CHECK_EQ(aioloop_add_reader(loop, s[0], watch_called, &r), 0);
    CHECK_EQ(aioloop_add_writer(loop, s[1], watch_called, &r), 0);
    test_run_until(loop, &r.calls, 1, "the writer");
    CHECK_EQ(aioloop_remove_writer(loop, s[1]), 1);
    CHECK_EQ(write(s[1], "abc", 3), 3);
    CHECK_EQ(aioloop_close(loop), 0); /* with a watcher in force */
    CHECK_EQ(read(s[0], text, 3), 3);
    test_end(loop);
    CHECK_EQ(write(s[0], "xyz", 3), 3);
    CHECK_EQ(read(s[1], text, 3), 3);
    CHECK_MEM(text, "xyz", 3);
    test_forget_socket(s[0]);
    close(s[0]);
    test_forget_socket(s[1]);
    close(s[1]);
}

/* ---- numbers that are closed and used again ---- */

typedef struct watch_reuse {
    int fds[2];
    int calls;
    int fresh; /* the pipe that took the place of one of them */
    int errors;
    int fresh_calls;
    bool fatal; /* the run ends at once, and goes on with what was found already */
} watch_reuse;

static void watch_fresh(aioloop *loop, void *arg) {
    (void)loop;
    ++*(int *)arg;
}

/* Whichever is called first removes the other, closes its descriptor, and watches another file under its number. */
static void watch_reuse_number(aioloop *loop, watch_reuse *u, int self) {
    int other = u->fds[1 - self];
    if (u->calls++ != 0)
        return;
    u->errors += aioloop_remove_reader(loop, other) != 1;
    u->errors += dup2(u->fresh, other) != other; /* closes it */
    u->errors += aioloop_add_reader(loop, other, watch_fresh, &u->fresh_calls) != 0;
    if (u->fatal)
        aioloop_raise(loop, AIOLOOP_EFATAL, NULL);
}

static void watch_reuse_first(aioloop *loop, void *arg) {
    watch_reuse_number(loop, (watch_reuse *)arg, 0);
}

static void watch_reuse_second(aioloop *loop, void *arg) {
    watch_reuse_number(loop, (watch_reuse *)arg, 1);
}

static void watch_reuse_in_pass(bool fatal) {
    aioloop *loop = test_loop();
    watch_reuse u = AIOLOOP_ZERO;
    aioloop_socket a[2];
    aioloop_socket b[2];
    int ends[2];
    test_needs_real_descriptors(loop);
    test_socketpair(loop, a);
    test_socketpair(loop, b);
    CHECK_EQ(pipe(ends), 0);
    u.fresh = test_keep_socket(ends[0]);
    test_keep_socket(ends[1]);
    u.fds[0] = a[0];
    u.fds[1] = b[0];
    u.fatal = fatal;
    CHECK_EQ(write(a[1], "x", 1), 1);
    CHECK_EQ(write(b[1], "x", 1), 1);
    CHECK_EQ(aioloop_add_reader(loop, a[0], watch_reuse_first, &u), 0);
    CHECK_EQ(aioloop_add_reader(loop, b[0], watch_reuse_second, &u), 0);
    if (fatal)
        CHECK_EQ(aioloop_run_forever(loop), AIOLOOP_EFATAL);
    test_run_until(loop, &u.calls, 3, "the one that is left");
    CHECK_EQ(u.errors, 0);
    CHECK_EQ(u.fresh_calls, 0); /* what was found was of the old file, and the pipe is empty */
    CHECK_EQ(write(ends[1], "y", 1), 1);
    test_run_until(loop, &u.fresh_calls, 1, "the new file's reader");
    CHECK_EQ(aioloop_remove_reader(loop, a[0]), 1);
    CHECK_EQ(aioloop_remove_reader(loop, b[0]), 1);
    test_close_socket(loop, a[0]);
    test_close_socket(loop, b[0]);
    test_close_socket(loop, a[1]);
    test_close_socket(loop, b[1]);
    test_close_socket(loop, ends[0]);
    test_close_socket(loop, ends[1]);
    test_end(loop);
}

TEST(number_reused_in_the_same_pass_gets_no_stale_event, "FD-06 FD-07") {
    watch_reuse_in_pass(false);
}

TEST(number_reused_as_the_run_ends_gets_no_stale_event, "FD-06 FD-07") {
    watch_reuse_in_pass(true);
}

TEST(number_reused_later_is_a_new_descriptor, "FD-01 FD-05") {
    aioloop *loop = test_loop();
    watch_mark old = AIOLOOP_ZERO;
    watch_mark fresh = AIOLOOP_ZERO;
    aioloop_socket s[2];
    int ends[2];
    test_needs_real_descriptors(loop);
    test_socketpair(loop, s);
    CHECK_EQ(pipe(ends), 0);
    test_keep_socket(ends[0]);
    test_keep_socket(ends[1]);
    CHECK_EQ(write(s[1], "x", 1), 1);
    CHECK_EQ(aioloop_add_reader(loop, s[0], watch_called, &old), 0);
    test_run_until(loop, &old.calls, 1, "the reader");
    CHECK_EQ(aioloop_remove_reader(loop, s[0]), 1);
    CHECK_EQ(dup2(ends[0], s[0]), s[0]);
    CHECK_EQ(aioloop_add_reader(loop, s[0], watch_called, &fresh), 0);
    test_spin(loop, 3);
    CHECK_EQ(fresh.calls, 0);
    CHECK_EQ(write(ends[1], "y", 1), 1);
    test_run_until(loop, &fresh.calls, 1, "the new file's reader");
    CHECK_EQ(old.calls, 1);
    CHECK_EQ(aioloop_remove_reader(loop, s[0]), 1);
    test_close_socket(loop, s[0]);
    test_close_socket(loop, s[1]);
    test_close_socket(loop, ends[0]);
    test_close_socket(loop, ends[1]);
    test_end(loop);
}

/* A mistake, but one that must not harm others: the descriptor is closed before its watcher is removed. */
TEST(descriptor_closed_too_early_harms_no_other, "FD-05") {
    aioloop *loop = test_loop();
    watch_mark gone = AIOLOOP_ZERO;
    watch_mark other = AIOLOOP_ZERO;
    aioloop_socket a[2];
    aioloop_socket b[2];
    test_needs_real_descriptors(loop);
    test_socketpair(loop, a);
    test_socketpair(loop, b);
    CHECK_EQ(aioloop_add_reader(loop, a[0], watch_called, &gone), 0);
    CHECK_EQ(aioloop_add_reader(loop, b[0], watch_called, &other), 0);
    test_spin(loop, 1);
    test_close_socket(loop, a[0]);
    CHECK_EQ(write(b[1], "x", 1), 1);
    test_run_until(loop, &other.calls, 2, "the other reader");
    CHECK_EQ(aioloop_remove_reader(loop, a[0]), 1);
    CHECK_EQ(aioloop_remove_reader(loop, a[0]), 0);
    test_run_until(loop, &other.calls, 4, "the other reader again");
    CHECK_EQ(aioloop_remove_reader(loop, b[0]), 1);
    test_close_socket(loop, a[1]);
    test_close_socket(loop, b[0]);
    test_close_socket(loop, b[1]);
    test_end(loop);
}

/* ---- limits ---- */

/* A copy of fd with a number of at least `from`; skips the test where there is none. */
static int watch_high(aioloop *loop, int fd, int from) {
    struct rlimit limit;
    int high;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur <= (rlim_t)from && limit.rlim_max > (rlim_t)from) {
        limit.rlim_cur = (rlim_t)from + 64 < limit.rlim_max ? (rlim_t)from + 64 : limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    high = fcntl(fd, F_DUPFD, from);
    if (high < 0) {
        test_close_socket(loop, fd);
        SKIP("this system has no descriptor %d", from);
    }
    return test_keep_socket(high);
}

TEST(descriptor_too_high_for_the_poller_is_refused, "IMPL-04 FD-09") {
    aioloop *loop = test_loop();
    watch_mark r = AIOLOOP_ZERO;
    watch_mark low = AIOLOOP_ZERO;
    aioloop_socket s[2];
    bool limited;
    int high;
    test_needs_real_descriptors(loop);
    limited = strcmp(aioloop_backend_name(loop), "select") == 0;
    test_socketpair(loop, s);
    high = watch_high(loop, s[0], FD_SETSIZE);
    CHECK_GE(high, (int)FD_SETSIZE);
    CHECK_EQ(write(s[1], "x", 1), 1);
    CHECK_EQ(aioloop_add_reader(loop, high, watch_called, &r), limited ? AIOLOOP_EINVAL : 0);
    CHECK_EQ(aioloop_add_writer(loop, high, watch_called, &r), limited ? AIOLOOP_EINVAL : 0);
    CHECK_EQ(aioloop_add_reader(loop, s[0], watch_called, &low), 0); /* the others are as they were */
    test_run_until(loop, &low.calls, 2, "the low one");
    if (limited)
        CHECK_EQ(r.calls, 0);
    else
        test_run_until(loop, &r.calls, 2, "the high one");
    CHECK_EQ(aioloop_remove_reader(loop, high), limited ? 0 : 1);
    CHECK_EQ(aioloop_remove_writer(loop, high), limited ? 0 : 1);
    CHECK_EQ(aioloop_remove_reader(loop, s[0]), 1);
    test_close_socket(loop, high);
    test_close_socket(loop, s[0]);
    test_close_socket(loop, s[1]);
    test_end(loop);
}

TEST(socket_too_high_for_the_poller_makes_no_transport, "IMPL-04") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_socket s[2];
    aioloop_transport *t = NULL;
    aioloop_future *f;
    int64_t rc;
    bool limited;
    int high;
    test_needs_real_descriptors(loop);
    limited = strcmp(aioloop_backend_name(loop), "select") == 0;
    test_socketpair(loop, s);
    high = watch_high(loop, s[0], FD_SETSIZE);
    f = aioloop_connect_accepted_socket(loop, &test_protocol, &peer, high, NULL);
    test_forget_socket(high);
    rc = aioloop_run_until_complete(loop, f, &t);
    if (rc < 0 && fcntl(high, F_GETFD) != -1)
        close(high); /* it was not taken */
    CHECK_EQ(rc, limited ? AIOLOOP_EINVAL : 0);
    CHECK_EQ(peer.made, limited ? 0 : 1);
    if (t != NULL) {
        aioloop_transport_abort(t);
        test_run_until(loop, &peer.lost, 1, "the loss");
        aioloop_transport_unref(t);
    }
    test_peer_drop(&peer);
    test_close_socket(loop, s[0]);
    test_close_socket(loop, s[1]);
    test_end(loop);
}
