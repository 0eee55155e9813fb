/*
 * test_sock.c - sockets used directly: sock_recv and its kin, on every back end. The races are in race_sock.c.
 */
#include "awaits.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- sockets ---- */

/* Runs until the iteration in which it is done, and not further. */
static void sock_until_done(aioloop *loop, const aioloop_future *f) {
    aioloop_time start = aioloop_now(loop);
    while (!aioloop_future_done(f)) {
        aioloop_time limit = test_injected() ? AIOLOOP_MS(300) : (aioloop_time)(60e9 * test_slowdown());
        int err = aioloop_run_once(loop, AIOLOOP_MS(50));
        CHECK_GE(err, 0);
        if (aioloop_now(loop) - start > limit)
            FAIL("waited in vain");
    }
}

/* The outcome of an operation; out as aioloop_future_result's. */
static int64_t sock_take(aioloop *loop, aioloop_future *future, void *out) {
    int64_t n;
    aioloop_future_ref(future);
    sock_until_done(loop, future);
    n = aioloop_future_result(future, out);
    aioloop_future_unref(future);
    return n;
}

static int64_t sock_run(aioloop *loop, aioloop_future *future) {
    return sock_take(loop, future, NULL);
}

/* The same; the bytes that it brings are copied to text. */
static int64_t sock_text(aioloop *loop, aioloop_future *future, char text[64]) {
    char *bytes = NULL;
    int64_t n = sock_take(loop, future, &bytes);
    snprintf(text, 64, "%s", bytes != NULL ? bytes : "none");
    aioloop_sock_free(bytes);
    return n;
}

static void sock_unblock(aioloop *loop, aioloop_socket s) {
    if (!test_simulated(loop))
        CHECK(fcntl(s, F_SETFL, O_NONBLOCK) == 0);
}

static void sock_pair(aioloop *loop, aioloop_socket s[2]) {
    test_socketpair(loop, s);
    sock_unblock(loop, s[0]);
    sock_unblock(loop, s[1]);
}

static void sock_say(aioloop *loop, aioloop_socket s, const char *text) {
    CHECK_EQ(sock_run(loop, aioloop_sock_sendall(loop, s, text, strlen(text))), 0);
}

static void sock_hear(aioloop *loop, aioloop_socket s, const char *wanted) {
    char text[64] = "";
    size_t got = 0;
    while (got < strlen(wanted)) {
        char part[64];
        int64_t n = sock_text(loop, aioloop_sock_recv(loop, s, 63 - got), part);
        CHECK_GT(n, 0);
        memcpy(text + got, part, (size_t)n);
        got += (size_t)n;
    }
    text[got] = '\0';
    CHECK_STR(text, wanted);
}

/* Receives one; its sender's address is checked, and it is given back by name. */
static void sock_hear_one(aioloop *loop, aioloop_socket s, size_t size, const char *wanted,
                          const aioloop_address *from) {
    aioloop_datagram *d = NULL;
    char text[64] = "none";
    bool same = false;
    int64_t n = sock_take(loop, aioloop_sock_recvfrom(loop, s, size), &d);
    if (d != NULL) {
        snprintf(text, sizeof(text), "%s", d->data);
        same = d->size == (size_t)n && aioloop_address_equal(&d->from, from) && d->data[d->size] == '\0';
    }
    aioloop_sock_free(d);
    CHECK_EQ(n, (int64_t)strlen(wanted));
    CHECK_STR(text, wanted);
    CHECK(same);
}

/* A socket that an accept has given. */
static aioloop_socket sock_keep(aioloop *loop, int64_t n) {
    CHECK_GE(n, 0);
    if (!test_simulated(loop))
        test_keep_socket((int)n);
    return (aioloop_socket)n;
}

static void sock_close(aioloop *loop, aioloop_socket a, aioloop_socket b) {
    test_close_socket(loop, a);
    test_close_socket(loop, b);
}

/* A name that no file stands for. */
static aioloop_address sock_abstract(char name[64], const char *what) {
    aioloop_address address;
    int size;
    memset(name, 0, 64);
    size = snprintf(name + 1, 63, "aioloop-%ld-%s", (long)getpid(), what);
    CHECK_EQ(aioloop_address_unix(&address, name, (size_t)size + 1), 0);
    return address;
}

static void sock_needs_linux(aioloop *loop) {
#if !defined(__linux__)
    if (!test_simulated(loop)) {
        test_end(loop);
        SKIP("needs Linux: names that are no files, its errors");
    }
#endif
    (void)loop;
}

/* ---- receiving ---- */

TEST(recv_takes_what_is_there_without_a_poll, "SOCK-01") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    aioloop_future *f;
    char *bytes = NULL;
    char place[4] = "";
    int64_t n;
    sock_pair(loop, s);
    sock_say(loop, s[1], "abcdef");
    test_spin(loop, 1); /* it comes */
    if (!test_delayed(loop)) {
        f = aioloop_future_ref(aioloop_sock_recv(loop, s[0], 4));
        CHECK(aioloop_future_done(f));
        n = aioloop_future_result(f, NULL);
        CHECK_EQ(n, 4);
        (void)aioloop_future_result(f, &bytes);
        n = memcmp(bytes, "abcd", 5); /* with a zero behind */
        aioloop_sock_free(bytes);
        aioloop_future_unref(f);
        CHECK_EQ(n, 0);
        f = aioloop_future_ref(aioloop_sock_recv_into(loop, s[0], place, 3));
        CHECK(aioloop_future_done(f));
        n = aioloop_future_result(f, NULL);
        aioloop_future_unref(f);
        CHECK_EQ(n, 2); /* all that is there */
        CHECK(memcmp(place, "ef", 2) == 0);
    }
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

static void sock_recv_waits(aioloop *loop, await_style style) {
    aioloop_socket s[2];
    awaiter a = AIOLOOP_ZERO;
    char first;
    char place[8] = "";
    sock_pair(loop, s);
    await_begin(&a, loop, style, aioloop_sock_recv(loop, s[0], 100));
    test_spin(loop, 3);
    CHECK_EQ(a.done, 0);
    sock_say(loop, s[1], "x");
    test_run_until(loop, &a.done, 1, "a byte");
    first = a.pointer == NULL ? '\0' : *(char *)a.pointer;
    aioloop_sock_free(a.pointer);
    a.pointer = NULL;
    CHECK_EQ(await_end(&a), 1);
    CHECK_EQ(first, 'x');
    memset(&a, 0, sizeof(a));
    await_begin(&a, loop, style, aioloop_sock_recv_into(loop, s[0], place, sizeof(place)));
    test_spin(loop, 3);
    CHECK_EQ(a.done, 0);
    sock_say(loop, s[1], "y");
    CHECK_EQ(await_end(&a), 1);
    CHECK_STR(place, "y");
    sock_close(loop, s[0], s[1]);
}

TEST(recv_waits_for_bytes, "SOCK-01") {
    await_in_all_styles(sock_recv_waits);
}

TEST(recv_gives_none_at_the_end, "SOCK-01") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    char text[64];
    char place[4];
    sock_pair(loop, s);
    sock_say(loop, s[1], "ab");
    test_close_socket(loop, s[1]);
    sock_hear(loop, s[0], "ab");
    CHECK_EQ(sock_text(loop, aioloop_sock_recv(loop, s[0], 10), text), 0);
    CHECK_STR(text, "none"); /* no block: nothing to free */
    CHECK_EQ(sock_run(loop, aioloop_sock_recv_into(loop, s[0], place, sizeof(place))), 0);
    test_close_socket(loop, s[0]);
    test_end(loop);
}

TEST(recv_that_waits_hears_of_the_end, "SOCK-01") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    awaiter a = AIOLOOP_ZERO;
    sock_pair(loop, s);
    await_begin(&a, loop, AWAIT_BY_FRAME, aioloop_sock_recv_into(loop, s[0], &a.message, 10));
    test_spin(loop, 2);
    test_close_socket(loop, s[1]);
    CHECK_EQ(await_end(&a), 0);
    test_close_socket(loop, s[0]);
    test_end(loop);
}

TEST(nothing_asked_for_is_there_at_once, "SOCK-01") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    aioloop_future *f;
    char text[64];
    sock_pair(loop, s);
    f = aioloop_sock_recv_into(loop, s[0], NULL, 0);
    CHECK(aioloop_future_done(f));
    CHECK_EQ(sock_run(loop, f), 0);
    CHECK_EQ(sock_text(loop, aioloop_sock_recv(loop, s[0], 0), text), 0);
    CHECK_STR(text, "none");
    sock_say(loop, s[1], "z");
    test_spin(loop, 1);
    CHECK_EQ(sock_run(loop, aioloop_sock_recv_into(loop, s[0], NULL, 0)), 0);
    sock_hear(loop, s[0], "z"); /* it is still there */
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

/* ---- sending ---- */

TEST(sendall_of_nothing_and_of_little_is_done_at_once, "SOCK-02") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    sock_pair(loop, s);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendall(loop, s[0], NULL, 0)), 0);
    if (!test_delayed(loop)) {
        aioloop_future *f = aioloop_sock_sendall(loop, s[0], "hello", 5);
        CHECK(aioloop_future_done(f));
        CHECK_EQ(sock_run(loop, f), 0);
        sock_hear(loop, s[1], "hello");
    }
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

TEST(sendall_to_who_has_gone_fails_without_a_signal, "SOCK-02") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    aioloop_future *f;
    int64_t n = 0;
    int i;
    sock_pair(loop, s);
    test_close_socket(loop, s[1]);
    for (i = 0; i < 20 && n == 0; i++) { /* the first may be taken all the same */
        f = aioloop_future_ref(aioloop_sock_sendall(loop, s[0], "x", 1));
        n = sock_run(loop, f);
        if (n < 0)
            CHECK(strstr(aioloop_error_message(aioloop_future_error(f)), "send to socket") != NULL);
        aioloop_future_unref(f);
        test_spin(loop, 1);
    }
    CHECK(n == AIOLOOP_EPIPE || n == AIOLOOP_ECONNRESET);
    test_close_socket(loop, s[0]);
    test_end(loop);
}

enum { SOCK_HUGE = 1 << 20 };

typedef struct sock_flow {
    aioloop_frame frame;
    aioloop_socket socket;
    unsigned char *bytes;
    size_t got;
    int64_t n;
} sock_flow;

static int64_t sock_sends(aioloop *loop, aioloop_frame *frame, void **out) {
    sock_flow *flow = (sock_flow *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    AIOLOOP_AWAIT(flow->n, aioloop_sock_sendall(loop, flow->socket, flow->bytes, SOCK_HUGE), NULL);
    return flow->n;
    AIOLOOP_END;
}

static int64_t sock_receives(aioloop *loop, aioloop_frame *frame, void **out) {
    sock_flow *flow = (sock_flow *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    while (flow->got < SOCK_HUGE) {
        AIOLOOP_AWAIT(flow->n,
                      aioloop_sock_recv_into(loop, flow->socket, flow->bytes + flow->got, SOCK_HUGE - flow->got), NULL);
        if (flow->n <= 0)
            return flow->n;
        flow->got += (size_t)flow->n;
    }
    return 0;
    AIOLOOP_END;
}

/* A number of a byte that differs in each direction. */
static unsigned char sock_byte(size_t i, int direction) {
    return (unsigned char)(i * 31 + i / 251 + (size_t)direction);
}

TEST(megabyte_both_ways_at_once_on_one_socket, "SOCK-02 SOCK-09") {
    static unsigned char sent[2][SOCK_HUGE];
    static unsigned char got[2][SOCK_HUGE];
    aioloop *loop = test_loop();
    aioloop_future *tasks[4];
    sock_flow flows[4];
    aioloop_socket s[2];
    size_t i;
    sock_pair(loop, s);
    memset(flows, 0, sizeof(flows));
    memset(got, 0, sizeof(got));
    for (i = 0; i < SOCK_HUGE; i++) {
        sent[0][i] = sock_byte(i, 0);
        sent[1][i] = sock_byte(i, 1);
    }
    for (i = 0; i < 4; i++) {
        flows[i].socket = s[i & 1];
        flows[i].bytes = i < 2 ? sent[i] : got[i & 1];
        tasks[i] = aioloop_create_task_frame(loop, i < 2 ? sock_sends : sock_receives, &flows[i].frame, NULL);
    }
    CHECK_EQ(sock_run(loop, aioloop_gather(loop, tasks, 4, false)), 4);
    CHECK(memcmp(got[0], sent[1], SOCK_HUGE) == 0);
    CHECK(memcmp(got[1], sent[0], SOCK_HUGE) == 0);
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

/* ---- connecting and accepting ---- */

static void sock_connects(aioloop *loop, await_style style) {
    aioloop_address at;
    aioloop_peer peer;
    aioloop_peer client;
    awaiter connecting = AIOLOOP_ZERO;
    awaiter accepting = AIOLOOP_ZERO;
    aioloop_socket listener = test_listener(loop, 5, &at);
    aioloop_socket s = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_STREAM);
    aioloop_socket accepted;
    await_begin(&accepting, loop, style, aioloop_sock_accept(loop, listener, &peer));
    test_spin(loop, 2);
    CHECK_EQ(accepting.done, 0);
    await_begin(&connecting, loop, style, aioloop_sock_connect_address(loop, s, &at));
    test_run_until(loop, &accepting.done, 1, "the accept");
    accepted = sock_keep(loop, accepting.number);
    CHECK(accepting.pointer == NULL);
    CHECK_EQ(await_end(&connecting), 0);
    CHECK_GE(await_end(&accepting), 0);
    test_name(loop, s, &client);
    CHECK(aioloop_address_equal(&peer.address, &client.address));
    if (!test_simulated(loop)) {
        CHECK((fcntl(accepted, F_GETFL) & O_NONBLOCK) != 0);
        CHECK((fcntl(accepted, F_GETFD) & FD_CLOEXEC) != 0);
    }
    sock_say(loop, accepted, "ping");
    sock_hear(loop, s, "ping");
    sock_say(loop, s, "pong");
    sock_hear(loop, accepted, "pong");
    sock_close(loop, s, accepted);
    test_close_socket(loop, listener);
}

TEST(connect_and_accept_give_a_connection, "SOCK-03 SOCK-05") {
    await_in_all_styles(sock_connects);
}

TEST(accept_takes_who_waits_already_and_needs_no_address, "SOCK-05") {
    aioloop *loop = test_loop();
    aioloop_address at;
    aioloop_socket listener = test_listener(loop, 5, &at);
    aioloop_socket s = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_STREAM);
    aioloop_socket accepted;
    CHECK_EQ(sock_run(loop, aioloop_sock_connect_address(loop, s, &at)), 0);
    accepted = sock_keep(loop, sock_run(loop, aioloop_sock_accept(loop, listener, NULL)));
    sock_say(loop, s, "x");
    sock_hear(loop, accepted, "x");
    sock_close(loop, s, accepted);
    test_close_socket(loop, listener);
    test_end(loop);
}

TEST(failed_connect_names_the_address, "SOCK-03 SOCK-14") {
    aioloop *loop = test_loop();
    aioloop_address at;
    char wanted[200];
    char name[100];
    aioloop_socket listener = test_listener(loop, 5, &at);
    aioloop_socket s = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_STREAM);
    aioloop_future *f;
    int64_t n;
    test_close_socket(loop, listener); /* nobody listens there now */
    f = aioloop_future_ref(aioloop_sock_connect_address(loop, s, &at));
    n = sock_run(loop, f);
    snprintf(name, sizeof(name), "%s", n < 0 ? aioloop_error_message(aioloop_future_error(f)) : "");
    aioloop_future_unref(f);
    CHECK_EQ(n, AIOLOOP_ECONNREFUSED);
    aioloop_address_format(&at, wanted, sizeof(wanted));
    CHECK(strstr(name, wanted) != NULL);
    CHECK(strstr(name, "connection refused") != NULL);
    test_close_socket(loop, s); /* it was still there */
    test_end(loop);
}

TEST(unix_sockets_connect_and_accept, "SOCK-03 SOCK-05") {
    aioloop *loop = test_loop();
    char room[64];
    aioloop_address at = sock_abstract(room, "stream");
    aioloop_address nobody;
    aioloop_socket listener;
    aioloop_socket s;
    aioloop_socket accepted;
    aioloop_peer peer;
    aioloop_future *f;
    char other[64];
    char text[200];
    int64_t n;
    sock_needs_linux(loop);
    nobody = sock_abstract(other, "nobody");
    listener = test_socket(loop, AIOLOOP_UNIX, AIOLOOP_SOCK_STREAM);
    s = test_socket(loop, AIOLOOP_UNIX, AIOLOOP_SOCK_STREAM);
    test_bind(loop, listener, &at);
    test_listen(loop, listener, 5);
    f = aioloop_future_ref(aioloop_sock_connect_address(loop, s, &nobody));
    n = sock_run(loop, f);
    snprintf(text, sizeof(text), "%s", n < 0 ? aioloop_error_message(aioloop_future_error(f)) : "");
    aioloop_future_unref(f);
    CHECK_EQ(n, AIOLOOP_ECONNREFUSED);
    CHECK(strstr(text, "connect to @aioloop-") != NULL);
    memset(&nobody, 0, sizeof(nobody));
    f = aioloop_sock_connect_address(loop, s, &at);
    memset(room, 'x', sizeof(room)); /* it was copied */
    CHECK_EQ(sock_run(loop, f), 0);
    accepted = sock_keep(loop, sock_run(loop, aioloop_sock_accept(loop, listener, &peer)));
    CHECK_EQ(peer.address.family, AIOLOOP_UNSPEC); /* it has no name */
    sock_say(loop, s, "x");
    sock_hear(loop, accepted, "x");
    sock_close(loop, s, accepted);
    test_close_socket(loop, listener);
    test_end(loop);
}

TEST(sender_of_a_streams_bytes_is_told_as_the_system_does, "SOCK-06") {
    aioloop *loop = test_loop();
    char room[64];
    aioloop_address at;
    aioloop_socket listener;
    aioloop_socket s;
    aioloop_socket accepted;
    aioloop_peer from;
    aioloop_address none;
    char place[4];
    sock_needs_linux(loop);
    memset(&none, 0, sizeof(none));
    at = sock_abstract(room, "sender");
    listener = test_socket(loop, AIOLOOP_UNIX, AIOLOOP_SOCK_STREAM);
    s = test_socket(loop, AIOLOOP_UNIX, AIOLOOP_SOCK_STREAM);
    test_bind(loop, listener, &at);
    test_listen(loop, listener, 5);
    CHECK_EQ(sock_run(loop, aioloop_sock_connect_address(loop, s, &at)), 0);
    accepted = sock_keep(loop, sock_run(loop, aioloop_sock_accept(loop, listener, NULL)));
    sock_say(loop, accepted, "xy");
    CHECK_EQ(sock_run(loop, aioloop_sock_recvfrom_into(loop, s, place, 1, &from)), 1);
    CHECK(aioloop_address_equal(&from.address, &at));
    CHECK(from.address.u.path == from.path);
    sock_hear_one(loop, s, 1, "y", &at);
    sock_say(loop, s, "ab");
    sock_hear_one(loop, accepted, 1, "a", &none);
    CHECK_EQ(sock_run(loop, aioloop_sock_recvfrom_into(loop, accepted, place, 1, &from)), 1);
    CHECK_EQ(from.address.family, AIOLOOP_UNSPEC);
    test_close_socket(loop, accepted);
    CHECK_EQ(sock_run(loop, aioloop_sock_recvfrom_into(loop, s, place, 1, &from)), 0);
    CHECK_EQ(from.address.family, AIOLOOP_UNSPEC);
    sock_close(loop, s, listener);
    listener = test_listener(loop, 5, &at);
    s = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_STREAM);
    CHECK_EQ(sock_run(loop, aioloop_sock_connect_address(loop, s, &at)), 0);
    accepted = sock_keep(loop, sock_run(loop, aioloop_sock_accept(loop, listener, NULL)));
    sock_say(loop, accepted, "z");
    sock_hear_one(loop, s, 1, "z", &none);
    sock_close(loop, s, accepted);
    test_close_socket(loop, listener);
    test_end(loop);
}

/* A listener with so many connections to accept that the next connect has to wait. */
static aioloop_socket sock_full(aioloop *loop, aioloop_address *at, aioloop_socket *first) {
    aioloop_socket listener = test_listener(loop, 0, at);
    *first = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_STREAM);
    CHECK_EQ(sock_run(loop, aioloop_sock_connect_address(loop, *first, at)), 0);
    return listener;
}

TEST(cancelled_connect_lets_go_of_its_number, "SOCK-08 SOCK-14") {
    aioloop *loop = test_loop();
    aioloop_address at;
    aioloop_socket first;
    aioloop_socket again;
    aioloop_socket listener = sock_full(loop, &at, &first);
    aioloop_socket s = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_STREAM);
    aioloop_future *f = aioloop_future_ref(aioloop_sock_connect_address(loop, s, &at));
    test_spin(loop, 3);
    CHECK(!aioloop_future_done(f));
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK(aioloop_future_cancelled(f));
    aioloop_future_unref(f);
    test_close_socket(loop, s);
    again = test_socket(loop, AIOLOOP_UNIX, AIOLOOP_SOCK_STREAM); /* of another kind: an event would be wrong */
    CHECK_EQ(again, s);
    test_spin(loop, 3);
    sock_close(loop, again, first);
    test_close_socket(loop, listener);
    test_end(loop);
}

TEST(connect_goes_on_after_a_cancel_and_another_call, "SOCK-08") {
    aioloop *loop = test_loop();
    aioloop_address at;
    aioloop_socket first;
    aioloop_socket listener = sock_full(loop, &at, &first);
    aioloop_socket s = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_STREAM);
    aioloop_future *f = aioloop_future_ref(aioloop_sock_connect_address(loop, s, &at));
    test_spin(loop, 2);
    CHECK(aioloop_future_cancel(f, NULL));
    aioloop_future_unref(f);
    if (test_simulated(loop)) { /* a system asks again after a second */
        aioloop_socket accepted;
        f = aioloop_future_ref(aioloop_sock_connect_address(loop, s, &at));
        test_spin(loop, 2);
        CHECK(!aioloop_future_done(f));
        accepted = sock_keep(loop, sock_run(loop, aioloop_sock_accept(loop, listener, NULL)));
        CHECK_EQ(sock_run(loop, f), 0);
        aioloop_future_unref(f);
        test_close_socket(loop, accepted);
    }
    sock_close(loop, s, first);
    test_close_socket(loop, listener);
    test_end(loop);
}

TEST(connection_made_after_a_cancel_is_told_once, "SOCK-03 SOCK-08") {
    aioloop *loop = test_loop();
    aioloop_address at;
    aioloop_socket listener;
    aioloop_socket s;
    aioloop_socket accepted;
    aioloop_future *f;
    sock_needs_linux(loop);
    listener = test_listener(loop, 5, &at);
    s = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_STREAM);
    f = aioloop_future_ref(aioloop_sock_connect_address(loop, s, &at));
    CHECK(aioloop_future_cancel(f, NULL));
    aioloop_future_unref(f);
    accepted = sock_keep(loop, sock_run(loop, aioloop_sock_accept(loop, listener, NULL)));
    CHECK_EQ(sock_run(loop, aioloop_sock_connect_address(loop, s, &at)), 0);
    CHECK_EQ(sock_run(loop, aioloop_sock_connect_address(loop, s, &at)), AIOLOOP_EISCONN);
    sock_close(loop, s, accepted);
    test_close_socket(loop, listener);
    test_end(loop);
}

TEST(accepted_socket_that_nobody_reads_is_closed, "SOCK-05") {
    aioloop *loop = test_loop();
    aioloop_address at;
    aioloop_socket listener = test_listener(loop, 5, &at);
    aioloop_socket s = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_STREAM);
    aioloop_future *f;
    char text[64];
    int64_t n;
    CHECK_EQ(sock_run(loop, aioloop_sock_connect_address(loop, s, &at)), 0);
    f = aioloop_sock_accept(loop, listener, NULL);
    sock_until_done(loop, f);
    CHECK_EQ(aioloop_future_exception(f), 0); /* to ask that is not to read it */
    aioloop_future_unref(f);
    n = sock_text(loop, aioloop_sock_recv(loop, s, 10), text);
    CHECK_EQ(n, 0);
    sock_close(loop, s, listener);
    test_end(loop);
}

TEST(accepted_socket_that_nobody_reads_is_closed_with_the_loop, "SOCK-05") {
    aioloop *loop = test_loop();
    aioloop_address at;
    aioloop_socket listener = test_listener(loop, 5, &at);
    aioloop_socket s = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_STREAM);
    aioloop_future *f;
    char byte;
    bool simulated = test_simulated(loop);
    CHECK_EQ(sock_run(loop, aioloop_sock_connect_address(loop, s, &at)), 0);
    f = aioloop_sock_accept(loop, listener, NULL);
    sock_until_done(loop, f);
    aioloop_close(loop);
    test_end(loop);
    if (simulated)
        return;
    CHECK_EQ(recv(s, &byte, 1, 0), 0);
    test_forget_socket(s);
    test_forget_socket(listener);
    close(s);
    close(listener);
}

/* ---- datagrams ---- */

/* Two sockets of datagrams with names; the second is connected to nobody. */
static void sock_datagrams(aioloop *loop, aioloop_socket s[2], aioloop_peer names[2]) {
    int i;
    for (i = 0; i < 2; i++) {
        aioloop_address at;
        CHECK_EQ(aioloop_address_parse(&at, "127.0.0.1", 0), 0);
        s[i] = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_DGRAM);
        test_bind(loop, s[i], &at);
        test_name(loop, s[i], &names[i]);
    }
}

TEST(datagrams_come_one_by_one_with_their_sender, "SOCK-06 SOCK-07") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    aioloop_peer names[2];
    aioloop_peer from;
    char place[8];
    sock_datagrams(loop, s, names);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[0], "one", 3, &names[1].address)), 3);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[0], NULL, 0, &names[1].address)), 0);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[0], "truncated", 9, &names[1].address)), 9);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[0], "four", 4, &names[1].address)), 4);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[0], "truncated", 9, &names[1].address)), 9);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[0], "six", 3, &names[1].address)), 3);
    sock_hear_one(loop, s[1], 100, "one", &names[0].address);
    sock_hear_one(loop, s[1], 100, "", &names[0].address);
    sock_hear_one(loop, s[1], 5, "trunc", &names[0].address);
    memset(place, 'z', sizeof(place));
    CHECK_EQ(sock_run(loop, aioloop_sock_recvfrom_into(loop, s[1], place, sizeof(place), &from)), 4);
    CHECK(memcmp(place, "fourz", 5) == 0);
    CHECK(aioloop_address_equal(&from.address, &names[0].address));
    sock_hear_one(loop, s[1], 0, "", &names[0].address);
    CHECK_EQ(sock_run(loop, aioloop_sock_recvfrom_into(loop, s[1], place, 2, NULL)), 2);
    CHECK(memcmp(place, "six", 2) == 0);
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

static void sock_waits_for_datagrams(aioloop *loop, await_style style) {
    aioloop_socket s[2];
    aioloop_peer names[2];
    awaiter a = AIOLOOP_ZERO;
    bool right = false;
    sock_datagrams(loop, s, names);
    await_begin(&a, loop, style, aioloop_sock_recvfrom(loop, s[1], 10));
    test_spin(loop, 2);
    CHECK_EQ(a.done, 0);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[0], NULL, 0, &names[1].address)), 0);
    test_run_until(loop, &a.done, 1, "a datagram");
    if (a.pointer != NULL)
        right = ((aioloop_datagram *)a.pointer)->size == 0;
    aioloop_sock_free(a.pointer);
    a.pointer = NULL;
    CHECK_EQ(await_end(&a), 0); /* an empty one is one */
    CHECK(right);
    sock_close(loop, s[0], s[1]);
}

TEST(recvfrom_waits_also_for_an_empty_datagram, "SOCK-06") {
    await_in_all_styles(sock_waits_for_datagrams);
}

TEST(unix_datagrams_tell_their_senders_path, "SOCK-06") {
    aioloop *loop = test_loop();
    char rooms[2][64];
    aioloop_address at[2];
    aioloop_socket s[3];
    aioloop_address none;
    aioloop_peer from;
    char place[8] = "";
    int i;
    sock_needs_linux(loop);
    memset(&none, 0, sizeof(none));
    for (i = 0; i < 3; i++)
        s[i] = test_socket(loop, AIOLOOP_UNIX, AIOLOOP_SOCK_DGRAM);
    for (i = 0; i < 2; i++) {
        at[i] = sock_abstract(rooms[i], i == 0 ? "a" : "b");
        test_bind(loop, s[i], &at[i]);
    }
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[0], "named", 5, &at[1])), 5);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[2], "unnamed", 7, &at[1])), 7);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[0], "into", 4, &at[1])), 4);
    sock_hear_one(loop, s[1], 20, "named", &at[0]);
    sock_hear_one(loop, s[1], 20, "unnamed", &none);
    CHECK_EQ(sock_run(loop, aioloop_sock_recvfrom_into(loop, s[1], place, sizeof(place), &from)), 4);
    CHECK(aioloop_address_equal(&from.address, &at[0]));
    CHECK(from.address.u.path == from.path);
    at[0] = sock_abstract(rooms[0], "nobody");
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[1], "x", 1, &at[0])), AIOLOOP_ECONNREFUSED);
    sock_close(loop, s[0], s[1]);
    test_close_socket(loop, s[2]);
    test_end(loop);
}

TEST(datagram_from_the_longest_name_can_be_answered, "SOCK-06 SOCK-07") {
    aioloop *loop = test_loop();
    char longest[108];
    char room[64];
    aioloop_address at[2];
    aioloop_socket s[2];
    aioloop_peer from;
    char place[8] = "";
    int i;
    sock_needs_linux(loop);
    at[0] = sock_abstract(room, "longest");
    memset(longest, 'x', sizeof(longest));
    memcpy(longest, room, at[0].path_size);
    CHECK_EQ(aioloop_address_unix(&at[1], longest, sizeof(longest)), 0);
    for (i = 0; i < 2; i++) {
        s[i] = test_socket(loop, AIOLOOP_UNIX, AIOLOOP_SOCK_DGRAM);
        test_bind(loop, s[i], &at[i]);
    }
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[1], "ping", 4, &at[0])), 4);
    CHECK_EQ(sock_run(loop, aioloop_sock_recvfrom_into(loop, s[0], place, sizeof(place), &from)), 4);
    CHECK(aioloop_address_equal(&from.address, &at[1]));
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[0], "pong", 4, &from.address)), 4);
    sock_hear_one(loop, s[1], 10, "pong", &at[0]);
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

TEST(connected_unix_datagrams_go_to_a_socket_and_come_from_it, "SOCK-07 SOCK-14") {
    aioloop *loop = test_loop();
    char rooms[2][64];
    aioloop_address at[2];
    aioloop_socket s[3];
    char place[8];
    int i;
    sock_needs_linux(loop);
    for (i = 0; i < 3; i++)
        s[i] = test_socket(loop, AIOLOOP_UNIX, AIOLOOP_SOCK_DGRAM);
    for (i = 0; i < 2; i++) {
        at[i] = sock_abstract(rooms[i], i == 0 ? "from" : "to");
        test_bind(loop, s[i], &at[i]);
    }
    CHECK_EQ(sock_run(loop, aioloop_sock_connect_address(loop, s[0], &at[1])), 0);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[2], "x", 1, &at[0])), AIOLOOP_EPERM); /* not from there */
    CHECK_EQ(sock_run(loop, aioloop_sock_connect_address(loop, s[2], &at[0])), AIOLOOP_EPERM);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[1], "x", 1, &at[0])), 1);
    CHECK_EQ(sock_run(loop, aioloop_sock_recv_into(loop, s[0], place, sizeof(place))), 1);
    sock_say(loop, s[0], "y");
    CHECK_EQ(sock_run(loop, aioloop_sock_recv_into(loop, s[1], place, sizeof(place))), 1);
    test_close_socket(loop, s[1]);
    s[1] = test_socket(loop, AIOLOOP_UNIX, AIOLOOP_SOCK_DGRAM);
    test_bind(loop, s[1], &at[1]); /* the same name is another socket */
    CHECK_EQ(sock_run(loop, aioloop_sock_sendall(loop, s[0], "x", 1)), AIOLOOP_ECONNREFUSED);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendall(loop, s[0], "x", 1)), AIOLOOP_ENOTCONN);
    CHECK_EQ(sock_run(loop, aioloop_sock_connect_address(loop, s[0], &at[1])), 0);
    sock_say(loop, s[0], "z");
    CHECK_EQ(sock_run(loop, aioloop_sock_recv_into(loop, s[1], place, sizeof(place))), 1);
    CHECK_EQ(place[0], 'z');
    sock_close(loop, s[0], s[1]);
    test_close_socket(loop, s[2]);
    test_end(loop);
}

static void sock_counts(aioloop *loop, void *arg) {
    (void)loop;
    ++*(int *)arg;
}

/* Sends to where nobody is, and waits until the system has noticed. */
static void sock_say_to_nobody(aioloop *loop, aioloop_socket s) {
    int seen = 0;
    sock_say(loop, s, "x");
    CHECK_EQ(aioloop_add_reader(loop, s, sock_counts, &seen), 0);
    test_run_until(loop, &seen, 1, "the refusal");
    CHECK_EQ(aioloop_remove_reader(loop, s), 1);
}

TEST(connected_datagrams_to_nobody_are_refused_once_each, "SOCK-07 SOCK-14") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    aioloop_peer names[2];
    aioloop_address at;
    char place[8];
    sock_needs_linux(loop);
    sock_datagrams(loop, s, names);
    test_close_socket(loop, s[1]); /* nobody is there now */
    CHECK_EQ(sock_run(loop, aioloop_sock_connect_address(loop, s[0], &names[1].address)), 0);
    sock_say_to_nobody(loop, s[0]);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendall(loop, s[0], "x", 1)), AIOLOOP_ECONNREFUSED);
    sock_say_to_nobody(loop, s[0]);
    CHECK_EQ(sock_run(loop, aioloop_sock_recv_into(loop, s[0], place, sizeof(place))), AIOLOOP_ECONNREFUSED);
    at = names[1].address;
    at.port = 0;
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[0], "x", 1, &at)), AIOLOOP_EINVAL);
    at.port = names[1].address.port;
    at.u.ip[3] = 2; /* 127.0.0.2: somewhere else */
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[0], "x", 1, &at)), 1);
    sock_say_to_nobody(loop, s[0]); /* that was not this socket's error */
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[0], "x", 1, &at)), AIOLOOP_ECONNREFUSED);
    test_close_socket(loop, s[0]);
    test_end(loop);
}

TEST(oversized_datagram_is_the_systems_error, "SOCK-07") {
    static const char bytes[70000] = {0};
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    aioloop_peer names[2];
    aioloop_future *f;
    char text[200];
    int64_t n;
    sock_datagrams(loop, s, names);
    f = aioloop_future_ref(aioloop_sock_sendto(loop, s[0], bytes, sizeof(bytes), &names[1].address));
    n = sock_run(loop, f);
    snprintf(text, sizeof(text), "%s", n < 0 ? aioloop_error_message(aioloop_future_error(f)) : "");
    aioloop_future_unref(f);
    CHECK_EQ(n, AIOLOOP_EMSGSIZE);
    CHECK(strstr(text, "send to 127.0.0.1:") != NULL);
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

TEST(sendto_waits_until_there_is_room, "SOCK-07") {
    static const char bytes[4096] = {0};
    aioloop *loop = test_loop();
    char room[64];
    aioloop_address at;
    aioloop_socket s[2];
    aioloop_future *f;
    char place[8];
    int sent = 0;
    sock_needs_linux(loop);
    at = sock_abstract(room, "room");
    s[0] = test_socket(loop, AIOLOOP_UNIX, AIOLOOP_SOCK_DGRAM);
    s[1] = test_socket(loop, AIOLOOP_UNIX, AIOLOOP_SOCK_DGRAM);
    test_bind(loop, s[1], &at);
    CHECK_EQ(sock_run(loop, aioloop_sock_connect_address(loop, s[0], &at)), 0);
    for (;; sent++) {
        int i;
        f = aioloop_future_ref(aioloop_sock_sendto(loop, s[0], bytes, sizeof(bytes), &at));
        for (i = 0; i < 50 && !aioloop_future_done(f); i++)
            test_spin(loop, 1);
        if (!aioloop_future_done(f))
            break;
        CHECK_EQ(aioloop_future_result(f, NULL), sizeof(bytes));
        aioloop_future_unref(f);
        CHECK_LT(sent, 1000);
    }
    memset(room, 'x', sizeof(room)); /* the address was copied */
    for (; sent > 0; sent--)
        CHECK_EQ(sock_run(loop, aioloop_sock_recvfrom_into(loop, s[1], place, sizeof(place), NULL)), sizeof(place));
    CHECK_EQ(sock_run(loop, f), sizeof(bytes));
    aioloop_future_unref(f);
    CHECK_EQ(sock_run(loop, aioloop_sock_recvfrom_into(loop, s[1], place, sizeof(place), NULL)), sizeof(place));
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

TEST(simulated_datagrams_take_time_are_bounded_and_lost_in_a_partition, "") {
    static const char bytes[1000] = {0};
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    aioloop_peer names[2];
    aioloop_time start;
    char place[8] = "";
    int i;
    if (!test_simulated(loop)) {
        test_end(loop);
        SKIP("of the simulated network");
    }
    sock_datagrams(loop, s, names);
    CHECK_EQ(aioloop_sim_set_delay(loop, AIOLOOP_SECONDS(2), AIOLOOP_SECONDS(2)), 0);
    start = aioloop_now(loop);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[0], "a", 1, &names[1].address)), 1);
    CHECK_EQ(sock_run(loop, aioloop_sock_recv_into(loop, s[1], place, sizeof(place))), 1);
    CHECK_GE(aioloop_now(loop) - start, AIOLOOP_SECONDS(2));
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[0], "lost", 4, &names[1].address)), 4); /* under way */
    CHECK_EQ(aioloop_sim_set_partition(loop, true), 0);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[0], "lost", 4, &names[1].address)), 4);
    CHECK_EQ(aioloop_sim_set_partition(loop, false), 0);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[0], "b", 1, &names[1].address)), 1);
    CHECK_EQ(sock_run(loop, aioloop_sock_recv_into(loop, s[1], place, sizeof(place))), 1);
    CHECK_EQ(place[0], 'b');
    CHECK_EQ(aioloop_sim_set_buffer(loop, 2500), 0);
    for (i = 0; i < 4; i++)
        CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[0], bytes, 1000, &names[1].address)), 1000);
    for (i = 0; i < 2; i++)
        CHECK_EQ(sock_run(loop, aioloop_sock_recv_into(loop, s[1], place, sizeof(place))), sizeof(place));
    CHECK_EQ(sock_run(loop, aioloop_wait_for(aioloop_sock_recv_into(loop, s[1], place, 8), AIOLOOP_SECONDS(9))),
             AIOLOOP_ETIMEDOUT);
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

TEST(simulated_sockets_are_refused_where_they_make_no_sense, "") {
    aioloop *loop = test_loop();
    aioloop_address at;
    aioloop_socket s;
    aioloop_socket d;
    CHECK_EQ(aioloop_sim_socket(NULL, AIOLOOP_INET, AIOLOOP_SOCK_STREAM, &s), AIOLOOP_EINVAL);
    if (!test_simulated(loop)) {
        CHECK_EQ(aioloop_sim_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_STREAM, &s), AIOLOOP_ENOTAVAILABLE);
        CHECK_EQ(aioloop_sim_bind(loop, 0, &at), AIOLOOP_ENOTAVAILABLE);
        CHECK_EQ(aioloop_sim_listen(loop, 0, 1), AIOLOOP_ENOTAVAILABLE);
        CHECK_EQ(aioloop_sim_name(loop, 0, &at), AIOLOOP_ENOTAVAILABLE);
        test_end(loop);
        return;
    }
    CHECK_EQ(aioloop_sim_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_STREAM, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_socket(loop, 99, AIOLOOP_SOCK_STREAM, &s), AIOLOOP_EAFNOSUPPORT);
    CHECK_EQ(aioloop_sim_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_RAW, &s), AIOLOOP_EINVAL);
    s = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_STREAM);
    d = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_DGRAM);
    CHECK_EQ(aioloop_sim_bind(loop, s, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_name(loop, s, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_name(loop, 12345, &at), AIOLOOP_EBADF);
    CHECK_EQ(aioloop_sim_listen(loop, d, 1), AIOLOOP_EOPNOTSUPP);
    CHECK_EQ(aioloop_address_parse(&at, "127.0.0.1", 4000), 0);
    CHECK_EQ(aioloop_sim_bind(loop, s, &at), 0);
    CHECK_EQ(aioloop_sim_bind(loop, d, &at), 0); /* a number of its own */
    CHECK_EQ(aioloop_sim_bind(loop, d, &at), AIOLOOP_EINVAL);
    sock_close(loop, s, d);
    test_end(loop);
}

/* ---- cancelling ---- */

static void sock_cancels(aioloop *loop, await_style style) {
    aioloop_socket s[2];
    awaiter a = AIOLOOP_ZERO;
    awaiter b = AIOLOOP_ZERO;
    char place[8] = "";
    sock_pair(loop, s);
    await_begin(&a, loop, style, aioloop_sock_recv_into(loop, s[0], place, sizeof(place)));
    test_spin(loop, 2);
    CHECK_EQ(a.done, 0);
    await_cancel(&a, NULL);
    CHECK_EQ(await_end(&a), AIOLOOP_ECANCELED);
    sock_say(loop, s[1], "x");
    test_spin(loop, 3);
    CHECK_STR(place, "");
    await_begin(&b, loop, style, aioloop_sock_recv_into(loop, s[0], place, sizeof(place)));
    CHECK_EQ(await_end(&b), 1);
    CHECK_STR(place, "x"); /* it was still there */
    sock_close(loop, s[0], s[1]);
}

TEST(cancelled_receive_takes_nothing, "SOCK-08") {
    await_in_all_styles(sock_cancels);
}

TEST(receive_begins_again_at_once_after_a_cancel, "SOCK-08") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    char place[8] = "";
    int i;
    sock_pair(loop, s);
    for (i = 0; i < 20; i++) {
        aioloop_future *f = aioloop_future_ref(aioloop_sock_recv_into(loop, s[0], place, 1));
        aioloop_future *g;
        if (i % 3 == 0)
            test_spin(loop, i % 2 + 1);
        if (i % 2 == 0)
            sock_say(loop, s[1], "y");
        if (aioloop_future_cancel(f, NULL)) {
            CHECK_EQ(aioloop_future_result(f, NULL), AIOLOOP_ECANCELED);
            g = aioloop_sock_recv_into(loop, s[0], place, 1);
            if (i % 2 != 0)
                sock_say(loop, s[1], "y");
            CHECK_EQ(sock_run(loop, g), 1);
        }
        aioloop_future_unref(f);
        CHECK_EQ(place[0], 'y');
        place[0] = '\0';
    }
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

TEST(number_of_a_cancelled_receive_is_free_at_once, "SOCK-08") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    aioloop_socket t[2];
    aioloop_future *f;
    aioloop_future *g;
    char place[8] = "";
    sock_pair(loop, s);
    f = aioloop_future_ref(aioloop_sock_recv_into(loop, s[0], place, sizeof(place)));
    test_spin(loop, 2);
    CHECK(aioloop_future_cancel(f, NULL));
    aioloop_future_unref(f);
    test_close_socket(loop, s[0]);
    sock_pair(loop, t);
    CHECK(t[0] == s[0] || t[1] == s[0]);
    g = aioloop_future_ref(aioloop_sock_recv_into(loop, s[0], place, sizeof(place)));
    test_spin(loop, 3);
    CHECK(!aioloop_future_done(g)); /* the end of the old one is not its */
    sock_say(loop, t[0] == s[0] ? t[1] : t[0], "new");
    CHECK_GE(sock_run(loop, g), 1);
    CHECK_EQ(place[0], 'n');
    aioloop_future_unref(g);
    sock_close(loop, t[0], t[1]);
    test_close_socket(loop, s[1]);
    test_end(loop);
}

TEST(cancelled_operation_lets_the_peer_see_the_end, "SOCK-08") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    aioloop_future *f;
    char place[8];
    sock_pair(loop, s);
    f = aioloop_future_ref(aioloop_sock_recv_into(loop, s[0], place, sizeof(place)));
    test_spin(loop, 2);
    CHECK(aioloop_future_cancel(f, NULL));
    aioloop_future_unref(f);
    test_close_socket(loop, s[0]); /* nobody else has the file, also no kernel's request */
    CHECK_EQ(sock_run(loop, aioloop_sock_recv_into(loop, s[1], place, sizeof(place))), 0);
    test_close_socket(loop, s[1]);
    test_end(loop);
}

/* ---- what has happened comes before a cancellation ---- */

typedef struct sock_first {
    aioloop_frame frame;
    aioloop_future *future;
    aioloop_future *shell; /* what stands around it; NULL: nothing */
    int64_t n;
    int64_t next;
    int cancelling;
    bool done;
} sock_first;

static int64_t sock_first_frame(aioloop *loop, aioloop_frame *frame, void **out) {
    sock_first *r = (sock_first *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    AIOLOOP_AWAIT(r->n, r->shell != NULL ? r->shell : r->future, NULL);
    r->cancelling = aioloop_task_cancelling(aioloop_current_task(loop));
    AIOLOOP_SLEEP(r->next, AIOLOOP_SECONDS(1));
    r->done = true;
    return r->next < 0 ? r->next : 0;
    AIOLOOP_END;
}

static int64_t sock_first_stack(aioloop *loop, void *arg, void **out) {
    sock_first *r = (sock_first *)arg;
    (void)out;
    r->n = aioloop_await(r->shell != NULL ? r->shell : r->future, NULL);
    r->cancelling = aioloop_task_cancelling(aioloop_current_task(loop));
    r->next = aioloop_await(aioloop_sleep(loop, AIOLOOP_SECONDS(1)), NULL);
    r->done = true;
    return r->next < 0 ? r->next : 0;
}

enum { SOCK_BARE, SOCK_WAIT_FOR, SOCK_SHIELD, SOCK_BOTH, SOCK_SHELLS };

/* A task that waits for f in some shell. */
static aioloop_task *sock_first_task(aioloop *loop, sock_first *r, aioloop_future *f, bool stack, int shell) {
    aioloop_task *task;
    memset(r, 0, sizeof(*r));
    r->future = f;
    if (shell == SOCK_WAIT_FOR || shell == SOCK_BOTH)
        r->shell = aioloop_wait_for(f, AIOLOOP_SECONDS(100));
    if (shell == SOCK_SHIELD)
        r->shell = aioloop_shield(f);
    if (shell == SOCK_BOTH)
        r->shell = aioloop_shield(r->shell);
    task =
        stack ? await_task(loop, sock_first_stack, r, NULL) : await_task_frame(loop, sock_first_frame, &r->frame, NULL);
    test_spin(loop, 2);
    CHECK(!aioloop_future_done(f));
    return task;
}

/* It is cancelled `late` iterations after f is done, and has the result all the same. */
static void sock_first_cancel(aioloop *loop, sock_first *r, aioloop_future *f, aioloop_task *task, int late) {
    int64_t n;
    sock_until_done(loop, f);
    test_spin(loop, late);
    CHECK_EQ(r->n, 0); /* it has not gone on */
    CHECK(aioloop_future_cancel(task, NULL));
    n = sock_run(loop, task);
    aioloop_future_unref(task);
    CHECK_EQ(r->cancelling, 1);
    CHECK_EQ(r->next, AIOLOOP_ECANCELED);
    CHECK_EQ(n, AIOLOOP_ECANCELED);
    CHECK(r->done);
}

TEST(bytes_received_come_before_a_cancellation, "SOCK-08") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    char place[8] = "";
    int shell;
    sock_pair(loop, s);
    for (shell = SOCK_BARE; shell < SOCK_SHELLS; shell++) {
        int late;
        for (late = 0; late <= (shell == SOCK_BARE ? 0 : shell == SOCK_BOTH ? 2 : 1); late++) {
            int stack;
            for (stack = 0; stack <= (await_has_stacks(loop) ? 1 : 0); stack++) {
                aioloop_future *f = aioloop_future_ref(aioloop_sock_recv_into(loop, s[0], place, 1));
                sock_first r;
                aioloop_task *task = sock_first_task(loop, &r, f, stack != 0, shell);
                aioloop_future_unref(aioloop_sock_sendall(loop, s[1], "q", 1));
                sock_first_cancel(loop, &r, f, task, late);
                CHECK_EQ(r.n, 1);
                aioloop_future_unref(f);
                CHECK_EQ(place[0], 'q');
                place[0] = '\0';
            }
        }
    }
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

/* Cancels itself and awaits a wait_for that has not heard yet that its receive is done. */
static int64_t sock_cancels_itself(aioloop *loop, aioloop_frame *frame, void **out) {
    sock_first *r = (sock_first *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    while (!aioloop_future_done(r->future))
        AIOLOOP_SLEEP(r->next, 0);
    r->done = !aioloop_future_done(r->shell);
    aioloop_future_cancel(aioloop_current_task(loop), NULL);
    AIOLOOP_AWAIT(r->n, r->shell, NULL);
    AIOLOOP_SLEEP(r->next, AIOLOOP_SECONDS(1));
    return r->next < 0 ? r->next : 0;
    AIOLOOP_END;
}

TEST(bytes_received_come_before_a_cancellation_that_stood_ready, "SOCK-08") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    char place[4];
    sock_first r;
    aioloop_task *task;
    int64_t n;
    sock_pair(loop, s);
    memset(&r, 0, sizeof(r));
    r.future = aioloop_future_ref(aioloop_sock_recv_into(loop, s[0], place, 1));
    r.shell = aioloop_future_ref(aioloop_wait_for(r.future, AIOLOOP_SECONDS(100)));
    task = await_task_frame(loop, sock_cancels_itself, &r.frame, NULL);
    test_spin(loop, 3);
    aioloop_future_unref(aioloop_sock_sendall(loop, s[1], "x", 1));
    n = sock_run(loop, task);
    aioloop_future_unref(task);
    aioloop_future_unref(r.shell);
    aioloop_future_unref(r.future);
    CHECK_EQ(n, AIOLOOP_ECANCELED);
    CHECK(r.done); /* it had not heard */
    CHECK_EQ(r.n, 1);
    CHECK_EQ(r.next, AIOLOOP_ECANCELED);
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

TEST(what_follows_a_receive_that_is_done_cannot_be_cancelled, "SOCK-08") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    char place[4];
    int i;
    sock_pair(loop, s);
    for (i = 0; i < 2; i++) {
        aioloop_future *f = aioloop_future_ref(aioloop_sock_recv_into(loop, s[0], place, 1));
        aioloop_future *shell =
            aioloop_future_ref(i == 0 ? aioloop_wait_for(f, AIOLOOP_SECONDS(100)) : aioloop_shield(f));
        aioloop_future_unref(aioloop_sock_sendall(loop, s[1], "x", 1));
        sock_until_done(loop, f);
        CHECK(!aioloop_future_done(shell));
        CHECK(!aioloop_future_cancel(shell, NULL));
        CHECK_EQ(aioloop_future_result(shell, NULL), 1);
        test_spin(loop, 2);
        aioloop_future_unref(shell);
        aioloop_future_unref(f);
    }
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

TEST(dropped_receive_takes_what_comes, "SOCK-08") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    char place[4] = "";
    int i;
    sock_pair(loop, s);
    aioloop_future_unref(aioloop_sock_recv_into(loop, s[0], place, 1));
    CHECK_EQ(sock_run(loop, aioloop_sock_recv(loop, s[0], 1)), AIOLOOP_EMISUSE); /* it is still pending */
    sock_say(loop, s[1], "xy");
    for (i = 0; i < 1000 && place[0] == '\0'; i++)
        test_spin(loop, 1);
    CHECK_EQ(place[0], 'x');
    sock_hear(loop, s[0], "y");
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

TEST(accepted_connection_comes_before_a_cancellation, "SOCK-05 SOCK-08") {
    aioloop *loop = test_loop();
    aioloop_address at;
    aioloop_socket listener = test_listener(loop, 5, &at);
    int shell;
    for (shell = SOCK_BARE; shell < SOCK_SHELLS; shell++) {
        aioloop_socket s = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_STREAM);
        aioloop_future *f = aioloop_future_ref(aioloop_sock_accept(loop, listener, NULL));
        aioloop_future *c;
        aioloop_socket accepted;
        sock_first r;
        aioloop_task *task = sock_first_task(loop, &r, f, false, shell);
        c = aioloop_sock_connect_address(loop, s, &at);
        sock_first_cancel(loop, &r, f, task, 0);
        aioloop_future_unref(f);
        accepted = sock_keep(loop, r.n); /* and it is open: nobody has closed what was read */
        CHECK_EQ(sock_run(loop, c), 0);
        sock_say(loop, accepted, "x");
        sock_hear(loop, s, "x");
        sock_close(loop, s, accepted);
    }
    test_close_socket(loop, listener);
    test_end(loop);
}

typedef struct sock_scope {
    aioloop_frame frame;
    aioloop_timeout timeout;
    aioloop_time delay;
    aioloop_socket socket;
    aioloop_socket peer;
    char place[4];
    int64_t n;
    int64_t next;
} sock_scope;

static int64_t sock_in_scope(aioloop *loop, aioloop_frame *frame, void **out) {
    sock_scope *scope = (sock_scope *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    CHECK_EQ(aioloop_timeout_enter(loop, &scope->timeout, scope->delay), 0);
    AIOLOOP_AWAIT(scope->n, aioloop_sock_recv_into(loop, scope->socket, scope->place, 1), NULL);
    scope->n = aioloop_timeout_exit(&scope->timeout, scope->n);
    AIOLOOP_SLEEP(scope->next, 1); /* is not cancelled: the time-out's cancellation went with its scope */
    return 0;
    AIOLOOP_END;
}

/* Keeps the loop so long that the time is over when it looks again. */
static void sock_delay_loop(aioloop *loop, void *arg) {
    const sock_scope *scope = (const sock_scope *)arg;
    CHECK_EQ(send(scope->peer, "t", 1, 0), 1);
    while (aioloop_now(loop) <= aioloop_timeout_when(&scope->timeout))
        ;
}

TEST(bytes_received_come_before_the_time_out_of_a_scope, "SOCK-08") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    sock_scope scope;
    aioloop_task *task;
    sock_pair(loop, s);
    memset(&scope, 0, sizeof(scope));
    scope.delay = (aioloop_time)(5e6 * test_slowdown());
    scope.socket = s[0];
    scope.peer = s[1];
    task = await_task_frame(loop, sock_in_scope, &scope.frame, NULL);
    if (test_simulated(loop)) { /* both at the same time */
        test_spin(loop, 1);
        CHECK_EQ(aioloop_sim_set_delay(loop, scope.delay, scope.delay), 0);
        sock_say(loop, s[1], "t");
    } else { /* in the iteration in which the task begins: the next one finds both */
        aioloop_handle h = aioloop_call_soon(loop, sock_delay_loop, &scope);
        CHECK(!aioloop_handle_is_null(&h));
    }
    CHECK_EQ(sock_run(loop, task), 0);
    aioloop_future_unref(task);
    CHECK_EQ(scope.next, 0);
    if (test_delayed(loop) && scope.n == AIOLOOP_ETIMEDOUT) { /* it hesitated; nothing is lost */
        sock_hear(loop, s[0], "t");
    } else {
        CHECK_EQ(scope.n, 1);
        CHECK_EQ(scope.place[0], 't');
        CHECK(aioloop_timeout_expired(&scope.timeout));
    }
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

/* ---- misuse ---- */

static void sock_watched(aioloop *loop, void *arg) {
    (void)loop;
    (void)arg;
}

TEST(second_receive_or_send_is_refused_and_the_first_goes_on, "SOCK-09 SOCK-10") {
    static char huge[SOCK_HUGE];
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    aioloop_future *in;
    aioloop_future *out;
    char text[200];
    char place[8] = "";
    size_t got = 0;
    sock_pair(loop, s);
    in = aioloop_future_ref(aioloop_sock_recv_into(loop, s[0], place, sizeof(place)));
    out = aioloop_future_ref(aioloop_sock_sendall(loop, s[0], huge, sizeof(huge)));
    test_spin(loop, 2);
    CHECK(!aioloop_future_done(in));
    CHECK(!aioloop_future_done(out));
    CHECK_EQ(sock_run(loop, aioloop_sock_recv(loop, s[0], 10)), AIOLOOP_EMISUSE);
    snprintf(text, sizeof(text), "%s", aioloop_error_message(aioloop_last_error(loop)));
    CHECK(strstr(text, "a receive is pending") != NULL);
    CHECK_EQ(sock_run(loop, aioloop_sock_recvfrom(loop, s[0], 10)), AIOLOOP_EMISUSE);
    CHECK_EQ(sock_run(loop, aioloop_sock_accept(loop, s[0], NULL)), AIOLOOP_EMISUSE);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendall(loop, s[0], "x", 1)), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_add_reader(loop, s[0], sock_watched, NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_add_writer(loop, s[0], sock_watched, NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_remove_reader(loop, s[0]), 0); /* there is none */
    CHECK_EQ(aioloop_remove_writer(loop, s[0]), 0);
    sock_say(loop, s[1], "y");
    CHECK_EQ(sock_run(loop, in), 1);
    CHECK_EQ(place[0], 'y');
    aioloop_future_unref(in);
    while (got < SOCK_HUGE) {
        int64_t n = sock_run(loop, aioloop_sock_recv_into(loop, s[1], huge, sizeof(huge)));
        CHECK_GT(n, 0);
        got += (size_t)n;
    }
    CHECK_EQ(sock_run(loop, out), 0);
    aioloop_future_unref(out);
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

TEST(watched_socket_is_not_for_direct_use, "SOCK-10") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    char place[8];
    sock_pair(loop, s);
    CHECK_EQ(aioloop_add_reader(loop, s[0], sock_watched, NULL), 0);
    CHECK_EQ(sock_run(loop, aioloop_sock_recv_into(loop, s[0], place, sizeof(place))), AIOLOOP_EMISUSE);
    sock_say(loop, s[0], "x"); /* the other direction is free */
    sock_hear(loop, s[1], "x");
    CHECK_EQ(aioloop_remove_reader(loop, s[0]), 1);
    CHECK_EQ(aioloop_add_writer(loop, s[0], sock_watched, NULL), 0);
    CHECK_EQ(sock_run(loop, aioloop_wait_for(aioloop_sock_sendall(loop, s[0], "x", 1), -1)), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_remove_writer(loop, s[0]), 1);
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

/* Each of the calls on a socket, one after the other; they must give the same code. */
static int64_t sock_each(aioloop *loop, aioloop_socket s, int call) {
    static char place[4];
    aioloop_address at;
    CHECK_EQ(aioloop_address_parse(&at, "127.0.0.1", 9), 0);
    switch (call) {
    case 0:
        return sock_run(loop, aioloop_sock_recv(loop, s, 4));
    case 1:
        return sock_run(loop, aioloop_sock_recv_into(loop, s, place, 4));
    case 2:
        return sock_run(loop, aioloop_sock_recvfrom(loop, s, 4));
    case 3:
        return sock_run(loop, aioloop_sock_recvfrom_into(loop, s, place, 4, NULL));
    case 4:
        return sock_run(loop, aioloop_sock_sendall(loop, s, "x", 1));
    case 5:
        return sock_run(loop, aioloop_sock_sendto(loop, s, "x", 1, &at));
    case 6:
        return sock_run(loop, aioloop_sock_accept(loop, s, NULL));
    default:
        return sock_run(loop, aioloop_sock_connect_address(loop, s, &at));
    }
}

TEST(debug_mode_refuses_a_blocking_socket, "SOCK-11") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    int i;
    test_needs_real_descriptors(loop);
    test_socketpair(loop, s);
    CHECK(fcntl(s[0], F_SETFL, 0) == 0);
    CHECK_EQ(aioloop_set_debug(loop, true), 0);
    for (i = 0; i < 8; i++)
        CHECK_EQ(sock_each(loop, s[0], i), AIOLOOP_EINVAL);
    CHECK(strstr(aioloop_error_message(aioloop_last_error(loop)), "blocking") != NULL);
    sock_unblock(loop, s[0]);
    sock_say(loop, s[0], "x");
    CHECK_EQ(aioloop_set_debug(loop, false), 0);
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

TEST(blocking_socket_does_not_hold_up_the_loop, "SOCK-11") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    aioloop_future *f;
    char place[4];
    test_needs_real_descriptors(loop);
    test_socketpair(loop, s);
    CHECK(fcntl(s[0], F_SETFL, 0) == 0);
    f = aioloop_sock_recv_into(loop, s[0], place, sizeof(place));
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(send(s[1], "x", 1, 0), 1);
    CHECK_EQ(sock_run(loop, f), 1);
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

TEST(socket_of_a_transport_is_not_for_direct_use, "SOCK-12") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_socket s[2];
    int i;
    sock_pair(loop, s);
    test_adopt(loop, &test_protocol, &peer, s[0]);
    for (i = 0; i < 8; i++)
        CHECK_EQ(sock_each(loop, s[0], i), AIOLOOP_EMISUSE);
    CHECK(strstr(aioloop_error_message(aioloop_last_error(loop)), "belongs to a transport") != NULL);
    aioloop_transport_abort(peer.transport);
    test_run_until(loop, &peer.lost, 1, "the loss");
    test_peer_drop(&peer);
    test_close_socket(loop, s[1]);
    test_end(loop);
}

TEST(socket_that_a_receive_waits_at_becomes_no_transport, "SOCK-12") {
    aioloop *loop = test_loop();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_socket s[2];
    aioloop_future *f;
    char place[4];
    sock_pair(loop, s);
    f = aioloop_future_ref(aioloop_sock_recv_into(loop, s[0], place, sizeof(place)));
    CHECK_EQ(sock_run(loop, aioloop_connect_accepted_socket(loop, &test_protocol, &peer, s[0], NULL)), AIOLOOP_EMISUSE);
    sock_say(loop, s[1], "x");
    CHECK_EQ(sock_run(loop, f), 1);
    aioloop_future_unref(f);
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

TEST(closed_descriptor_is_the_systems_error, "SOCK-13") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    int i;
    sock_pair(loop, s);
    sock_close(loop, s[0], s[1]);
    for (i = 0; i < 8; i++) {
        CHECK_EQ(sock_each(loop, s[0], i), AIOLOOP_EBADF);
        CHECK_EQ(sock_each(loop, -1, i), AIOLOOP_EBADF);
    }
    CHECK_EQ(aioloop_set_debug(loop, true), 0);
    CHECK_EQ(sock_each(loop, s[0], 0), AIOLOOP_EBADF);
    CHECK_EQ(aioloop_set_debug(loop, false), 0);
    test_end(loop);
}

TEST(unconnected_sockets_fail_as_the_system_says, "SOCK-13 SOCK-14") {
    aioloop *loop = test_loop();
    aioloop_socket s = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_STREAM);
    aioloop_socket d = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_DGRAM);
    aioloop_address at;
    aioloop_socket listener = test_listener(loop, 1, &at);
    int64_t n;
    CHECK_EQ(sock_each(loop, s, 1), AIOLOOP_ENOTCONN);
    n = sock_each(loop, s, 4);
    CHECK(n == AIOLOOP_ENOTCONN || n == AIOLOOP_EPIPE);
    CHECK_EQ(sock_each(loop, s, 6), AIOLOOP_EINVAL); /* it does not listen */
    CHECK_EQ(sock_each(loop, listener, 1), AIOLOOP_ENOTCONN);
    n = sock_each(loop, listener, 4);
    CHECK(n == AIOLOOP_ENOTCONN || n == AIOLOOP_EPIPE);
    CHECK_EQ(sock_each(loop, d, 6), AIOLOOP_EOPNOTSUPP);
    CHECK_EQ(sock_each(loop, d, 4), AIOLOOP_EDESTADDRREQ);
    CHECK_EQ(sock_run(loop, aioloop_sock_connect_address(loop, s, &at)), 0); /* it is as good as new */
    n = sock_run(loop, aioloop_sock_connect_address(loop, s, &at)); /* Linux says 0 once more */
    CHECK(n == 0 || n == AIOLOOP_EISCONN);
    CHECK_EQ(sock_run(loop, aioloop_sock_connect_address(loop, s, &at)), AIOLOOP_EISCONN);
    if (!test_simulated(loop)) {
        int file = test_keep_socket(open("/dev/null", O_RDWR | O_CLOEXEC));
        int i;
        for (i = 0; i < 8; i++)
            CHECK_EQ(sock_each(loop, file, i), AIOLOOP_ENOTSOCK);
        CHECK(strstr(aioloop_error_message(aioloop_last_error(loop)), "not a socket") != NULL);
        test_close_socket(loop, file);
    }
    sock_close(loop, s, d);
    test_close_socket(loop, listener);
    test_end(loop);
}

TEST(sends_of_streams_fail_as_those_of_linux, "SOCK-14") {
    aioloop *loop = test_loop();
    char room[64];
    aioloop_address at;
    aioloop_address local;
    aioloop_socket listener;
    aioloop_socket s;
    aioloop_socket u;
    aioloop_socket accepted;
    sock_needs_linux(loop);
    listener = test_listener(loop, 1, &at);
    s = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_STREAM);
    u = test_socket(loop, AIOLOOP_UNIX, AIOLOOP_SOCK_STREAM);
    local = sock_abstract(room, "nobody");
    CHECK_EQ(sock_each(loop, s, 4), AIOLOOP_EPIPE);
    CHECK_EQ(sock_each(loop, listener, 4), AIOLOOP_EPIPE);
    CHECK_EQ(sock_each(loop, u, 4), AIOLOOP_ENOTCONN);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, u, "x", 1, &local)), AIOLOOP_EOPNOTSUPP);
    CHECK_EQ(sock_run(loop, aioloop_sock_connect_address(loop, s, &at)), 0);
    accepted = sock_keep(loop, sock_run(loop, aioloop_sock_accept(loop, listener, NULL)));
    at.port = 9; /* a connection goes where it goes */
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s, "x", 1, &at)), 1);
    sock_hear(loop, accepted, "x");
    sock_close(loop, s, accepted);
    sock_close(loop, u, listener);
    test_end(loop);
}

TEST(direct_calls_refuse_bad_arguments, "SOCK-13") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    aioloop_address at;
    char place[4] = "x";
    memset(&at, 0, sizeof(at));
    sock_pair(loop, s);
    CHECK_EQ(aioloop_future_exception(aioloop_sock_recv(NULL, s[0], 1)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_sock_sendall(NULL, s[0], "x", 1)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_sock_accept(NULL, s[0], NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(sock_run(loop, aioloop_sock_recv_into(loop, s[0], NULL, 1)), AIOLOOP_EINVAL);
    CHECK_EQ(sock_run(loop, aioloop_sock_recvfrom_into(loop, s[0], NULL, 1, NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendall(loop, s[0], NULL, 1)), AIOLOOP_EINVAL);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[0], "x", 1, NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(sock_run(loop, aioloop_sock_sendto(loop, s[0], "x", 1, &at)), AIOLOOP_EINVAL);
    CHECK_EQ(sock_run(loop, aioloop_sock_connect_address(loop, s[0], NULL)), AIOLOOP_EINVAL);
    at.family = AIOLOOP_UNIX;
    CHECK_EQ(sock_run(loop, aioloop_sock_connect_address(loop, s[0], &at)), AIOLOOP_EINVAL);
    at.u.path = place;
    at.path_size = 108;
    CHECK_EQ(sock_run(loop, aioloop_sock_connect_address(loop, s[0], &at)), AIOLOOP_ENAMETOOLONG);
    CHECK_EQ(sock_run(loop, aioloop_sock_recv(loop, s[0], (size_t)-1)), AIOLOOP_ENOMEM);
    CHECK_EQ(sock_run(loop, aioloop_sock_recvfrom(loop, s[0], (size_t)-1)), AIOLOOP_ENOMEM);
    aioloop_sock_free(NULL);
    sock_close(loop, s[0], s[1]);
    aioloop_close(loop);
    CHECK_EQ(aioloop_future_exception(aioloop_sock_recv(loop, s[0], 1)), AIOLOOP_ECLOSED);
    CHECK_EQ(aioloop_future_exception(aioloop_sock_sendall(loop, s[0], "x", 1)), AIOLOOP_ECLOSED);
    test_end(loop);
}

/* ---- with the loop ---- */

TEST(pending_ones_stay_pending_when_the_loop_closes, "SOCK-08") {
    static char huge[SOCK_HUGE];
    aioloop *loop = test_loop();
    aioloop_address at;
    aioloop_socket s[2];
    aioloop_socket listener = test_listener(loop, 5, &at);
    aioloop_future *in;
    aioloop_future *out;
    aioloop_future *dropped;
    char place[4];
    bool simulated = test_simulated(loop);
    sock_pair(loop, s);
    in = aioloop_future_ref(aioloop_sock_recv_into(loop, s[0], place, sizeof(place)));
    out = aioloop_future_ref(aioloop_sock_sendall(loop, s[0], huge, sizeof(huge)));
    dropped = aioloop_sock_accept(loop, listener, NULL);
    test_spin(loop, 2);
    CHECK(!aioloop_future_done(dropped));
    aioloop_future_unref(dropped); /* it is nobody's now */
    if (!simulated)
        aioloop_future_cancel(in, NULL); /* one that may be between cancel and its last call */
    aioloop_close(loop);
    CHECK_EQ(aioloop_future_done(in), !simulated);
    CHECK(!aioloop_future_done(out));
    CHECK(aioloop_future_cancel(out, NULL));
    CHECK(aioloop_future_cancelled(out));
    aioloop_future_unref(in);
    test_end(loop); /* `out` goes with it */
    if (simulated)
        return;
    close(s[0]);
    close(s[1]);
    close(listener);
    test_forget_socket(s[0]);
    test_forget_socket(s[1]);
    test_forget_socket(listener);
}

TEST(receive_outlives_a_stop, "SOCK-08") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    aioloop_future *f;
    char place[4];
    sock_pair(loop, s);
    f = aioloop_future_ref(aioloop_sock_recv_into(loop, s[0], place, sizeof(place)));
    aioloop_stop(loop);
    CHECK_EQ(aioloop_run_forever(loop), 0);
    CHECK(!aioloop_future_done(f));
    sock_say(loop, s[1], "x");
    CHECK_EQ(sock_run(loop, f), 1);
    aioloop_future_unref(f);
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}

TEST(forked_child_frees_a_loop_with_a_pending_receive, "SOCK-08") {
    aioloop *loop = test_loop();
    aioloop_socket s[2];
    aioloop_future *f;
    char place[4];
    int status = -1;
    pid_t child;
    test_needs_real_descriptors(loop);
    sock_pair(loop, s);
    f = aioloop_future_ref(aioloop_sock_recv_into(loop, s[0], place, sizeof(place)));
    test_spin(loop, 2);
    child = fork();
    if (child == 0)
        _exit(aioloop_close(loop) == 0 && aioloop_free(loop) == 0 ? 0 : 1);
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
    sock_say(loop, s[1], "x"); /* the parent's has noticed nothing */
    CHECK_EQ(sock_run(loop, f), 1);
    aioloop_future_unref(f);
    sock_close(loop, s[0], s[1]);
    test_end(loop);
}
