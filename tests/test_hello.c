/*
 * test_hello.c - the examples of asyncio's event loop page, as tests.
 */
#include "support.h"

#include <sys/socket.h>
#include <unistd.h>

static int hello_runs;

static void hello(aioloop *loop, void *arg) {
    (void)arg;
    hello_runs++;
    aioloop_stop(loop);
}

TEST(hello_world_runs_once_and_stops, "EX-01") {
    aioloop *loop = test_loop();
    aioloop_handle h = aioloop_call_soon(loop, hello, NULL);
    CHECK(!aioloop_handle_is_null(&h));
    CHECK_EQ(aioloop_run_forever(loop), 0);
    CHECK_EQ(hello_runs, 1);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK(aioloop_is_closed(loop));
    test_end(loop);
}

TEST(bytes_come_back_from_an_echo_server, "SRV-11 CONN-01") {
    aioloop *loop = test_loop();
    test_peer server_side = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_server *server;
    aioloop_transport *t;
    int port = 0;
    server_side.echo = true;
    server = test_serve(loop, &test_protocol, &server_side, &port);
    t = test_dial(loop, &test_protocol, &client, port);
    CHECK_PTR(t, client.transport);
    CHECK_EQ(aioloop_transport_write(t, "hello", 5), 0);
    test_run_until_received(loop, &client, 5);
    CHECK_MEM(client.data, "hello", 5);
    aioloop_transport_close(t);
    test_run_until(loop, &client.lost, 1, "the loss");
    test_run_until(loop, &server_side.lost, 1, "the server's loss");
    CHECK_STR(client.calls + 1 + client.datas, "l"); /* made, then the bytes, in one piece or several */
    CHECK_STR(server_side.calls + 1 + server_side.datas, "el");
    CHECK_EQ(client.calls[0], 'm');
    CHECK_EQ(server_side.calls[0], 'm');
    aioloop_transport_unref(t);
    test_peer_drop(&client);
    test_peer_drop(&server_side);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_end(loop);
}

/* The date display: the program's lines, and the time that one of its seconds takes here. */
typedef struct hello_date {
    aioloop_time second;
    aioloop_time end;
    aioloop_time last;
    aioloop_time shortest; /* between two lines */
    int lines;
} hello_date;

static void hello_display_date(aioloop *loop, void *arg) {
    hello_date *d = (hello_date *)arg;
    aioloop_time now = aioloop_now(loop);
    if (d->lines++ != 0 && now - d->last < d->shortest)
        d->shortest = now - d->last;
    d->last = now;
    if (now + d->second < d->end) {
        aioloop_timer_handle h = aioloop_call_later(loop, d->second, hello_display_date, d);
        CHECK(!aioloop_handle_is_null(&h.handle));
    } else {
        aioloop_stop(loop);
    }
}

TEST(date_display_arms_itself_until_the_end, "EX-02") {
    aioloop *loop = test_loop();
    hello_date d = AIOLOOP_ZERO;
    aioloop_handle h;
    d.second = test_simulated(loop) ? AIOLOOP_SECONDS(1.0) : AIOLOOP_MS(5);
    d.end = aioloop_now(loop) + 5 * d.second;
    d.shortest = AIOLOOP_FOREVER;
    h = aioloop_call_soon(loop, hello_display_date, &d);
    CHECK(!aioloop_handle_is_null(&h));
    CHECK_EQ(aioloop_run_forever(loop), 0);
    CHECK_LE(d.lines, 6);
    CHECK_GE(d.lines, test_simulated(loop) ? 5 : 1); /* on a real clock a line may be late, never early */
    CHECK_GE(d.shortest, d.second);
    CHECK_GE(d.last + d.second, d.end);
    CHECK_EQ(aioloop_next_deadline(loop), AIOLOOP_FOREVER);
    test_end(loop);
}

typedef struct hello_pair {
    aioloop_socket s[2];
    char received[100];
    int size;
    int removed;
} hello_pair;

static void hello_read(aioloop *loop, void *arg) {
    hello_pair *p = (hello_pair *)arg;
    p->size = (int)recv(p->s[0], p->received, sizeof(p->received), 0);
    p->removed += aioloop_remove_reader(loop, p->s[0]);
    aioloop_stop(loop);
}

static void hello_send(aioloop *loop, void *arg) {
    (void)loop;
    CHECK_EQ(send(((hello_pair *)arg)->s[1], "abc", 3, 0), 3);
}

TEST_WITH(watched_socket_gets_what_a_callback_sends, "EX-03", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    hello_pair p = AIOLOOP_ZERO;
    aioloop_handle h;
    test_needs_real_descriptors(loop);
    test_socketpair(loop, p.s);
    CHECK_EQ(aioloop_add_reader(loop, p.s[0], hello_read, &p), 0);
    h = aioloop_call_soon(loop, hello_send, &p);
    CHECK(!aioloop_handle_is_null(&h));
    CHECK_EQ(aioloop_run_forever(loop), 0);
    CHECK_EQ(p.size, 3);
    CHECK_MEM(p.received, "abc", 3);
    CHECK_EQ(p.removed, 1);
    test_close_socket(loop, p.s[0]);
    test_close_socket(loop, p.s[1]);
    CHECK_EQ(aioloop_close(loop), 0);
    test_end(loop);
}

static void hello_readable(aioloop *loop, void *arg) {
    hello_pair *p = (hello_pair *)arg;
    p->removed += aioloop_remove_reader(loop, p->s[0]);
    aioloop_stop(loop);
}

/* The same where sockets cannot be read by hand: on every back end. */
TEST(watched_socket_removes_itself_and_stops_the_loop, "EX-03") {
    aioloop *loop = test_loop();
    hello_pair p = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    p.s[0] = test_feed(loop, &far);
    CHECK_EQ(aioloop_add_reader(loop, p.s[0], hello_readable, &p), 0);
    CHECK_EQ(aioloop_run_forever(loop), 0);
    CHECK_EQ(p.removed, 1);
    CHECK_EQ(aioloop_remove_reader(loop, p.s[0]), 0);
    test_feed_end(loop, p.s[0], &far);
    test_end(loop);
}

/* ---- a slot that is used again is as good as new ---- */

typedef struct hello_self {
    aioloop_handle handle;
    int runs;
} hello_self;

static void hello_cancel_self(aioloop *loop, void *arg) {
    hello_self *self = (hello_self *)arg;
    (void)loop;
    self->runs++;
    aioloop_handle_cancel(&self->handle);
}

static void hello_count(aioloop *loop, void *arg) {
    (void)loop;
    ++*(int *)arg;
}

TEST(callback_that_cancels_itself_spoils_no_later_one, "HND-02") {
    aioloop *loop = test_loop();
    hello_self self = AIOLOOP_ZERO;
    int later = 0;
    int i;
    for (i = 0; i < 3; i++) {
        aioloop_handle h;
        self.handle = aioloop_call_soon(loop, hello_cancel_self, &self);
        CHECK(!aioloop_handle_is_null(&self.handle));
        test_spin(loop, 1);
        CHECK_EQ(self.runs, i + 1);
        h = aioloop_call_soon(loop, hello_count, &later); /* in the slot that was just given back */
        CHECK(!aioloop_handle_is_null(&h));
        test_spin(loop, 1);
        CHECK_EQ(later, i + 1);
    }
    test_end(loop);
}
