/*
 * test_accept.c - accepting: sockets accepted elsewhere, many connections at once, accepts that fail for want of
 * descriptors, connections that are gone before they are accepted, and servers that are closed while accepts are in
 * flight.
 */
#include "support.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- helpers ---- */

/* Connections of one kind, all together. */
typedef struct accept_count {
    int made, lost, datas;
    int answered; /* calls that have ended, well or not */
    int error;    /* the last that was lost with one */
    int most;     /* made in one pass, at most */
    int this_pass;
    int close_at; /* connection_made number so many closes the server */
    aioloop_server *server;
} accept_count;

static void accept_made(aioloop_transport *transport, void *self) {
    accept_count *count = (accept_count *)self;
    (void)transport;
    count->made++;
    if (++count->this_pass > count->most)
        count->most = count->this_pass;
    if (count->made == count->close_at)
        aioloop_server_close(count->server);
}

static void accept_data(aioloop_transport *transport, void *self, const void *data, size_t size) {
    ((accept_count *)self)->datas++;
    aioloop_transport_write(transport, data, size);
}

static void accept_lost(aioloop_transport *transport, void *self, int error) {
    accept_count *count = (accept_count *)self;
    (void)transport;
    count->lost++;
    if (error != 0)
        count->error = error;
}

static const aioloop_protocol accept_protocol = {0,           NULL, accept_made, accept_data, NULL,
                                                 accept_lost, NULL, NULL,        NULL,        NULL, NULL, NULL};

static aioloop_server *accept_serve(aioloop *loop, accept_count *count, int backlog, int *port) {
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_address address;
    int64_t rc;
    options.backlog = backlog;
    count->server = NULL;
    rc = aioloop_run_until_complete(
        loop, aioloop_create_server(loop, &accept_protocol, count, "127.0.0.1", 0, &options), &count->server);
    CHECK_EQ(rc, 1);
    CHECK_EQ(aioloop_server_socket(count->server, 0, NULL, &address), 0);
    *port = address.port;
    return count->server;
}

static void accept_answer(aioloop_future *future, void *arg) {
    (void)aioloop_future_exception(future); /* one that is not accepted may fail; it was looked at */
    ((accept_count *)arg)->answered++;
}

/* Starts n connections at once. */
static void accept_dial(aioloop *loop, accept_count *clients, int n, int port) {
    while (n-- > 0) {
        aioloop_future *f = aioloop_create_connection(loop, &accept_protocol, clients, "127.0.0.1", port, NULL);
        CHECK_EQ(aioloop_future_then(f, accept_answer, clients), 0);
    }
}

static void accept_end(aioloop_server *server) {
    aioloop_server_close(server);
    aioloop_server_unref(server);
}

static void accept_on_done(aioloop_future *future, void *arg) {
    (void)future;
    ++*(int *)arg;
}

static void accept_wait_reports(aioloop *loop, int wanted) {
    int passes = 0;
    while (test_reports() < wanted) {
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(10)), 0);
        CHECK_LT(++passes, 1000);
    }
}

static int accept_raw(aioloop *loop) {
    int s;
    (void)loop;
    s = test_keep_socket(socket(AF_INET, SOCK_STREAM, 0));
    return s;
}

static void accept_name(struct sockaddr_in *name, int port) {
    memset(name, 0, sizeof(*name));
    name->sin_family = AF_INET;
    name->sin_port = htons((uint16_t)port);
    name->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
}

static void accept_raw_connect(int s, int port) {
    struct sockaddr_in name;
    accept_name(&name, port);
    CHECK(connect(s, (const struct sockaddr *)&name, (socklen_t)sizeof(name)) == 0);
}

/* ---- sockets accepted elsewhere ---- */

TEST_WITH(accept_elsewhere_makes_a_connection, "ACC-01 ACC-02 CONN-16", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    test_peer served = AIOLOOP_ZERO;
    struct sockaddr_in name;
    socklen_t size = (socklen_t)sizeof(name);
    socklen_t int_size = (socklen_t)sizeof(int);
    aioloop_transport *t = NULL;
    const void *address;
    int no_delay = 0;
    int listener;
    int client;
    int s;
    int tries;
    int got = -1;
    char text[8];
    test_needs_real_descriptors(loop);
    listener = accept_raw(loop);
    accept_name(&name, 0);
    CHECK(bind(listener, (const struct sockaddr *)&name, size) == 0);
    CHECK(listen(listener, 5) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&name, &size) == 0);
    client = accept_raw(loop);
    accept_raw_connect(client, ntohs(name.sin_port));
    s = test_keep_socket(accept(listener, NULL, NULL));
    served.echo = true;
    CHECK_EQ(
        aioloop_run_until_complete(loop, aioloop_connect_accepted_socket(loop, &test_protocol, &served, s, NULL), &t),
        0);
    test_forget_socket(s);
    CHECK_PTR(t, served.transport);
    CHECK(fcntl(s, F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(s, F_GETFD) & FD_CLOEXEC);
    CHECK(getsockopt(s, IPPROTO_TCP, TCP_NODELAY, &no_delay, &int_size) == 0);
    CHECK_NE(no_delay, 0);
    /* Both names, as those of a server's connection. */
    address = aioloop_transport_get_extra_info(t, "sockname", NULL);
    CHECK(address != NULL);
    CHECK_EQ(((const aioloop_address *)address)->port, ntohs(name.sin_port));
    CHECK(getsockname(client, (struct sockaddr *)&name, &size) == 0);
    address = aioloop_transport_get_extra_info(t, "peername", NULL);
    CHECK(address != NULL);
    CHECK_EQ(((const aioloop_address *)address)->port, ntohs(name.sin_port));
    CHECK(write(client, "ping", 4) == 4);
    test_run_until(loop, &served.datas, 1, "the bytes");
    CHECK(fcntl(client, F_SETFL, O_NONBLOCK) == 0);
    for (tries = 0; tries < 300 && got < 0; tries++) { /* at once, unless a send has to wait */
        got = (int)read(client, text, sizeof(text));
        if (got < 0)
            CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(1)), 0);
    }
    CHECK_EQ(got, 4);
    CHECK_MEM(text, "ping", 4);
    test_close_socket(loop, client);
    test_run_until(loop, &served.lost, 1, "the loss");
    CHECK_STR(served.calls, "mdel");
    CHECK_EQ(fcntl(s, F_GETFD), -1); /* the transport has closed it */
    test_close_socket(loop, listener);
    aioloop_transport_unref(t);
    test_peer_drop(&served);
    test_end(loop);
}

static int accept_failing_factory(void *self, void *arg) {
    (void)self;
    (void)arg;
    return AIOLOOP_ENOSPC;
}

TEST(accept_elsewhere_closes_the_socket_of_a_factory_that_fails, "ACC-01 ACC-02") {
    static aioloop_protocol failing;
    aioloop *loop = test_loop();
    test_peer other = AIOLOOP_ZERO;
    aioloop_socket pair[2];
    aioloop_future *f;
    failing = accept_protocol;
    failing.factory = accept_failing_factory;
    test_socketpair(loop, pair);
    CHECK_EQ(aioloop_run_until_complete(
                 loop, aioloop_connect_accepted_socket(loop, &test_protocol, &other, pair[1], NULL), NULL),
             0);
    test_forget_socket(pair[1]);
    f = aioloop_future_ref(aioloop_connect_accepted_socket(loop, &failing, NULL, pair[0], NULL));
    CHECK(!aioloop_future_done(f)); /* nobody is called from inside */
    test_forget_socket(pair[0]);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_ENOSPC);
    aioloop_future_unref(f);
    test_run_until(loop, &other.lost, 1, "the end of the stream");
    CHECK_STR(other.calls, "mel");
    test_peer_drop(&other);
    test_end(loop);
}

TEST(accept_elsewhere_cancelled_closes_the_socket, "ACC-02 CONN-17") {
    aioloop *loop = test_loop();
    test_peer other = AIOLOOP_ZERO;
    accept_count count = AIOLOOP_ZERO;
    aioloop_socket pair[2];
    aioloop_future *f;
    test_socketpair(loop, pair);
    CHECK_EQ(aioloop_run_until_complete(
                 loop, aioloop_connect_accepted_socket(loop, &test_protocol, &other, pair[1], NULL), NULL),
             0);
    test_forget_socket(pair[1]);
    f = aioloop_future_ref(aioloop_connect_accepted_socket(loop, &accept_protocol, &count, pair[0], NULL));
    CHECK(!aioloop_future_done(f));
    test_forget_socket(pair[0]);
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_ECANCELED);
    aioloop_future_unref(f);
    test_run_until(loop, &other.lost, 1, "the end of the stream");
    CHECK_EQ(count.made, 0);
    test_peer_drop(&other);
    test_end(loop);
}

static void accept_refused(aioloop *loop, aioloop_socket s, const aioloop_accepted_socket_options *options,
                           int wanted) {
    accept_count count = AIOLOOP_ZERO;
    int64_t rc = aioloop_run_until_complete(
        loop, aioloop_connect_accepted_socket(loop, &accept_protocol, &count, s, options), NULL);
    CHECK_EQ(rc, wanted);
    CHECK_EQ(count.made, 0);
}

TEST(accept_elsewhere_refuses_options_without_tls, "ACC-02") {
    aioloop *loop = test_loop();
    aioloop_accepted_socket_options zero = AIOLOOP_ZERO;
    aioloop_accepted_socket_options o;
    aioloop_socket pair[2];
    test_socketpair(loop, pair);
    o = zero;
    o.ssl_handshake_timeout = AIOLOOP_SECONDS(1);
    accept_refused(loop, pair[0], &o, AIOLOOP_EINVAL);
    o = zero;
    o.ssl_shutdown_timeout = AIOLOOP_SECONDS(1);
    accept_refused(loop, pair[0], &o, AIOLOOP_EINVAL);
    o = zero;
    o.timeout = -1;
    accept_refused(loop, pair[0], &o, AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_connect_accepted_socket(loop, NULL, NULL, pair[0], NULL), NULL),
             AIOLOOP_EINVAL);
    test_close_socket(loop, pair[0]); /* still ours */
    test_close_socket(loop, pair[1]);
    accept_refused(loop, pair[0], &zero, AIOLOOP_EBADF);
    accept_refused(loop, -1, &zero, AIOLOOP_EBADF);
    test_end(loop);
}

TEST_WITH(accept_elsewhere_refuses_other_kinds, "ACC-02", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    int fds[2];
    int udp;
    test_needs_real_descriptors(loop);
    udp = test_keep_socket(socket(AF_INET, SOCK_DGRAM, 0));
    accept_refused(loop, udp, NULL, AIOLOOP_EINVAL);
    CHECK_EQ(fcntl(udp, F_GETFL) & O_NONBLOCK, 0);
    test_close_socket(loop, udp);
    CHECK(pipe(fds) == 0);
    test_keep_socket(fds[0]);
    test_keep_socket(fds[1]);
    accept_refused(loop, fds[0], NULL, AIOLOOP_ENOTSOCK);
    test_close_socket(loop, fds[0]);
    test_close_socket(loop, fds[1]);
    test_end(loop);
}

/* ---- many at once ---- */

TEST(accept_takes_several_in_one_pass_up_to_the_backlog, "SRV-12") {
    aioloop *loop = test_loop();
    accept_count served = AIOLOOP_ZERO;
    accept_count clients = AIOLOOP_ZERO;
    int port = 0;
    int passes;
    aioloop_server *server = accept_serve(loop, &served, 5, &port);
    accept_dial(loop, &clients, 6, port); /* what a queue of 5 holds */
    for (passes = 0; passes < 100 && served.made < 6; passes++) {
        served.this_pass = 0;
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(5)), 0);
    }
    CHECK_EQ(served.made, 6);
    CHECK_GT(served.most, 1);
    CHECK_LE(served.most, 5);
    test_run_until(loop, &clients.made, 6, "the clients");
    aioloop_server_close_clients(server);
    test_run_until(loop, &served.lost, 6, "the losses");
    test_run_until(loop, &clients.lost, 6, "the clients' losses");
    accept_end(server);
    test_end(loop);
}

/* Hundreds in one pass, each served, and all gone again in one go. (SLOW: torture would fail each of its
 * allocations.) */
TEST_WITH(accept_survives_a_storm, "SRV-12 SRV-11 SOBJ-04", TEST_SLOW) {
    enum { STORM = 200 };
    aioloop *loop = test_loop();
    accept_count served = AIOLOOP_ZERO;
    accept_count clients = AIOLOOP_ZERO;
    int round;
    int port = 0;
    int done = 0;
    aioloop_future *f;
    aioloop_server *server = accept_serve(loop, &served, 2 * STORM, &port);
    for (round = 1; round <= 2; round++) {
        accept_dial(loop, &clients, STORM, port);
        test_run_until(loop, &served.made, round * STORM, "the accepts");
        test_run_until(loop, &clients.made, round * STORM, "the clients");
        CHECK_EQ(served.made, round * STORM);
        if (round == 1) {
            aioloop_server_abort_clients(server);
            test_run_until(loop, &clients.lost, STORM, "the clients' losses");
            test_run_until(loop, &served.lost, STORM, "the losses");
        }
    }
    f = aioloop_future_ref(aioloop_server_wait_closed(server));
    CHECK_EQ(aioloop_future_add_done_callback(f, accept_on_done, &done), 0);
    aioloop_server_close(server);
    test_spin(loop, 4);
    CHECK_EQ(done, 0);
    aioloop_server_close_clients(server);
    test_run_until(loop, &done, 1, "the end of the server");
    CHECK_EQ(served.lost, 2 * STORM);
    test_run_until(loop, &clients.lost, 2 * STORM, "the clients' losses");
    aioloop_future_unref(f);
    aioloop_server_unref(server);
    test_end(loop);
}

/* ---- accepts that fail ---- */

/* The limit is the process's own, and a test has a process of its own. */
TEST_WITH(accept_pauses_for_a_second_without_descriptors, "SRV-14", TEST_REAL_FDS | TEST_SLOW) {
    aioloop *loop = test_loop();
    accept_count served = AIOLOOP_ZERO;
    struct rlimit limit;
    struct rlimit low;
    aioloop_time failed_at;
    aioloop_time start;
    int clients[3];
    int taken[64];
    int count = 0;
    int port = 0;
    int passes = 0;
    int i;
    aioloop_server *server;
    test_needs_real_descriptors(loop);
    if (test_slowdown() >= 20) {
        test_end(loop);
        SKIP("valgrind keeps the limit of descriptors itself, and otherwise");
    }
    /* Before the server starts: some engines ask for the limit then. */
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    low = limit;
    low.rlim_cur = 64;
    CHECK(setrlimit(RLIMIT_NOFILE, &low) == 0);
    server = accept_serve(loop, &served, 10, &port);
    for (i = 0; i < 3; i++)
        clients[i] = accept_raw(loop);
    do {
        CHECK_LT(count, 64);
        taken[count] = dup(clients[0]);
    } while (taken[count++] >= 0);
    for (i = 0; i < 3; i++)
        accept_raw_connect(clients[i], port); /* the system connects them by itself */
    accept_wait_reports(loop, 1);
    failed_at = aioloop_now(loop);
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EMFILE);
    CHECK_PTR(test_report_at(0)->context.server, server);
    CHECK(strstr(test_report_at(0)->message, "accept") != NULL);
    /* The socket stays readable all the time, but is not watched: no report after report, no pass after pass. */
    start = aioloop_now(loop);
    while (aioloop_now(loop) < start + AIOLOOP_MS(50)) {
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(10)), 0);
        passes++;
    }
    CHECK_LE(passes, 20);
    CHECK_EQ(test_reports(), 1);
    CHECK(aioloop_server_is_serving(server));
    CHECK_EQ(served.made, 0);
    for (i = 0; i < count - 1; i++)
        close(taken[i]);
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    test_run_until(loop, &served.made, 3, "the accepts after the pause");
    CHECK_GE(aioloop_now(loop) - failed_at, AIOLOOP_MS(900));
    CHECK_EQ(test_reports(), 1);
    test_reports_clear();
    for (i = 0; i < 3; i++)
        test_close_socket(loop, clients[i]);
    test_run_until(loop, &served.lost, 3, "the losses");
    accept_end(server);
    test_end(loop);
}

static void accept_needs_simulation(aioloop *loop) {
    if (!test_simulated(loop)) {
        test_end(loop);
        SKIP("for the simulated network");
    }
}

TEST(accept_resumes_by_itself_one_second_later, "SRV-14") {
    static const int errors[] = {AIOLOOP_EMFILE, AIOLOOP_ENFILE, AIOLOOP_ENOBUFS, AIOLOOP_ENOMEM};
    aioloop *loop = test_loop();
    accept_count served = AIOLOOP_ZERO;
    accept_count clients = AIOLOOP_ZERO;
    aioloop_time start;
    aioloop_server *server;
    int port = 0;
    int i;
    accept_needs_simulation(loop);
    server = accept_serve(loop, &served, 10, &port);
    for (i = 0; i < 4; i++) {
        /* Each try after a pause may fail again: so many pauses. */
        CHECK_EQ(aioloop_sim_fail_accepts(loop, errors[i], (unsigned)i + 1), 0);
        start = aioloop_now(loop);
        accept_dial(loop, &clients, 2, port);
        accept_wait_reports(loop, 1);
        CHECK_EQ(aioloop_now(loop), start);
        CHECK_EQ(test_report_at(0)->context.error, errors[i]);
        CHECK_PTR(test_report_at(0)->context.server, server);
        CHECK(aioloop_server_is_serving(server));
        test_run_until(loop, &served.made, 2 * i + 2, "the accepts");
        CHECK_EQ(aioloop_now(loop) - start, AIOLOOP_SECONDS(1) * (i + 1));
        CHECK_EQ(test_reports(), i + 1);
        test_reports_clear();
    }
    test_run_until(loop, &clients.made, 8, "the clients"); /* they have only waited */
    CHECK_EQ(clients.lost, 0);
    aioloop_server_close_clients(server);
    test_run_until(loop, &clients.lost, 8, "the clients' losses");
    test_run_until(loop, &served.lost, 8, "the losses");
    accept_end(server);
    test_end(loop);
}

/* Closed, or freed with its loop, in the pause: the timer that would resume it must not. */
TEST(accept_does_not_resume_on_a_closed_server, "SRV-14 SOBJ-01") {
    aioloop *loop = test_loop();
    accept_count served = AIOLOOP_ZERO;
    accept_count clients = AIOLOOP_ZERO;
    aioloop_server *server;
    int port = 0;
    accept_needs_simulation(loop);
    server = accept_serve(loop, &served, 10, &port);
    CHECK_EQ(aioloop_sim_fail_accepts(loop, AIOLOOP_EMFILE, 1), 0);
    accept_dial(loop, &clients, 1, port);
    accept_wait_reports(loop, 1);
    test_reports_clear();
    accept_end(server); /* that was the last reference */
    test_run_for(loop, AIOLOOP_SECONDS(3));
    CHECK_EQ(served.made, 0);
    test_run_until(loop, &clients.lost, 1, "the client's loss");
    server = accept_serve(loop, &served, 10, &port);
    CHECK_EQ(aioloop_sim_fail_accepts(loop, AIOLOOP_EMFILE, 1), 0);
    accept_dial(loop, &clients, 1, port);
    accept_wait_reports(loop, 1);
    test_reports_clear();
    aioloop_server_unref(server);
    test_end(loop);
}

static void accept_close_on_report(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    (void)loop;
    ++*(int *)arg;
    aioloop_server_close(context->server);
}

/* An exception handler that has enough closes the server. */
TEST(accept_failure_may_close_the_server, "SRV-14") {
    aioloop *loop = test_loop();
    accept_count served = AIOLOOP_ZERO;
    accept_count clients = AIOLOOP_ZERO;
    int reports = 0;
    int port = 0;
    accept_needs_simulation(loop);
    aioloop_server_unref(accept_serve(loop, &served, 10, &port)); /* the loop's reference is the last */
    aioloop_set_exception_handler(loop, accept_close_on_report, &reports);
    CHECK_EQ(aioloop_sim_fail_accepts(loop, AIOLOOP_EMFILE, 5), 0);
    accept_dial(loop, &clients, 2, port);
    test_run_until(loop, &clients.lost, 2, "the clients' losses");
    test_run_for(loop, AIOLOOP_SECONDS(3));
    CHECK_EQ(reports, 1);
    CHECK_EQ(served.made, 0);
    test_end(loop);
}

/* ---- connections that are gone ---- */

static void accept_steal(aioloop *loop, void *arg) {
    int s = accept(*(int *)arg, NULL, NULL);
    (void)loop;
    if (s >= 0)
        close(s);
    *(int *)arg = s >= 0 ? -1 : -2;
}

/* Somebody else with the same socket is faster: the loop found it readable, but there is nobody to accept. */
TEST_WITH(accept_ignores_spurious_wake_ups, "SRV-15", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    accept_count served = AIOLOOP_ZERO;
    aioloop_server *server;
    aioloop_socket s = -1;
    aioloop_handle handle;
    int client;
    int copy;
    int stolen;
    int port = 0;
    test_needs_real_descriptors(loop);
    server = accept_serve(loop, &served, 10, &port);
    CHECK_EQ(aioloop_server_socket(server, 0, &s, NULL), 0);
    copy = test_keep_socket(dup(s));
    test_spin(loop, 2);
    client = accept_raw(loop);
    accept_raw_connect(client, port);
    stolen = copy;
    handle = aioloop_call_soon(loop, accept_steal, &stolen); /* runs after the poll, before what that has found */
    CHECK(!aioloop_handle_is_null(&handle));
    test_spin(loop, 1);
    if (stolen == -2) { /* an engine that takes connections ahead of the callbacks is never too late */
        test_run_until(loop, &served.made, 1, "the accept");
        served.made = 0;
    }
    CHECK_EQ(served.made, 0);
    CHECK_EQ(test_reports(), 0);
    test_close_socket(loop, client);
    /* And it watches on, without a pause. */
    client = accept_raw(loop);
    accept_raw_connect(client, port);
    test_run_until(loop, &served.made, 1, "the next accept");
    test_close_socket(loop, client);
    test_close_socket(loop, copy);
    test_run_until(loop, &served.lost, 1, "the loss");
    accept_end(server);
    test_end(loop);
}

/* Reset before it is accepted. Linux hands out such a connection, other systems an error; nobody reports it, and
 * those behind it are accepted. */
TEST_WITH(accept_goes_on_behind_an_aborted_connection, "SRV-15", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    accept_count served = AIOLOOP_ZERO;
    aioloop_server *server;
    struct linger hard;
    int clients[4];
    int port = 0;
    int i;
    test_needs_real_descriptors(loop);
    server = accept_serve(loop, &served, 10, &port);
    hard.l_onoff = 1;
    hard.l_linger = 0;
    for (i = 0; i < 4; i++) {
        clients[i] = accept_raw(loop);
        accept_raw_connect(clients[i], port);
    }
    for (i = 0; i < 4; i += 2) {
        CHECK(setsockopt(clients[i], SOL_SOCKET, SO_LINGER, &hard, (socklen_t)sizeof(hard)) == 0);
        test_close_socket(loop, clients[i]);
    }
    CHECK(write(clients[3], "x", 1) == 1);
    test_run_until(loop, &served.datas, 1, "the last one's byte");
    CHECK_GE(served.made, 2);
    test_run_until(loop, &served.lost, served.made - 2, "the losses of those aborted");
    CHECK_EQ(test_reports(), 0);
    CHECK_EQ(served.datas, 1);
    test_close_socket(loop, clients[1]);
    test_close_socket(loop, clients[3]);
    test_run_until(loop, &served.lost, served.made, "the other losses");
    accept_end(server);
    test_end(loop);
}

/* Clients that give up at once, everywhere: each is either never seen or made and lost. */
TEST(accept_of_clients_that_have_gone, "SRV-15") {
    aioloop *loop = test_loop();
    accept_count served = AIOLOOP_ZERO;
    accept_count clients = AIOLOOP_ZERO;
    test_peer last = AIOLOOP_ZERO;
    int port = 0;
    int i;
    aioloop_server *server = accept_serve(loop, &served, 20, &port);
    for (i = 0; i < 8; i++) {
        aioloop_future *f = aioloop_create_connection(loop, &accept_protocol, &clients, "127.0.0.1", port, NULL);
        CHECK(aioloop_future_get_loop(f) != NULL);
        test_spin(loop, i / 2);
        aioloop_future_cancel(f, NULL);
        aioloop_future_unref(f);
    }
    aioloop_transport_unref(test_dial(loop, &test_protocol, &last, port));
    CHECK_EQ(aioloop_transport_write(last.transport, "x", 1), 0);
    test_run_until(loop, &last.datas, 1, "the echo");
    aioloop_server_close_clients(server);
    test_run_until(loop, &last.lost, 1, "the loss");
    test_run_until(loop, &served.lost, served.made, "the losses");
    test_run_until(loop, &clients.lost, clients.made, "the clients' losses");
    test_peer_drop(&last);
    accept_end(server);
    test_end(loop);
}

/* ---- closed while accepts are in flight ---- */

/* At every moment: before the poll, after it, while a completion engine already holds connections. Whatever was not
 * told to a protocol is closed, so that the clients see their end; what was told lives on. */
TEST(accept_in_flight_when_the_server_is_closed, "SOBJ-01 SOBJ-03") {
    aioloop *loop = test_loop();
    int round;
    for (round = 0; round < 8; round++) {
        accept_count served = AIOLOOP_ZERO;
        accept_count clients = AIOLOOP_ZERO;
        aioloop_future *f;
        int made;
        int done = 0;
        int port = 0;
        aioloop_server *server = accept_serve(loop, &served, 10, &port);
        accept_dial(loop, &clients, 4, port);
        test_spin(loop, round);
        made = served.made;
        aioloop_server_close(server);
        f = aioloop_future_ref(aioloop_server_wait_closed(server));
        CHECK_EQ(aioloop_future_add_done_callback(f, accept_on_done, &done), 0);
        aioloop_server_unref(server);
        CHECK_EQ(aioloop_future_done(f), made == 0);
        test_spin(loop, 12);
        CHECK_EQ(served.made, made); /* no connection comes after the close */
        CHECK_EQ(served.lost, 0);
        if (made != 0) {
            CHECK_EQ(done, 0);
            aioloop_server_close_clients(server); /* its connections keep it */
        }
        test_run_until(loop, &done, 1, "the end of the server");
        CHECK_EQ(served.lost, made);
        test_run_until(loop, &clients.answered, 4, "the clients' calls");
        test_run_until(loop, &clients.lost, clients.made, "the clients' losses");
        aioloop_future_unref(f);
        test_spin(loop, 6);
    }
    test_end(loop);
}

TEST(accept_in_flight_when_connection_made_closes_the_server, "SOBJ-01 SRV-12") {
    aioloop *loop = test_loop();
    accept_count served = AIOLOOP_ZERO;
    accept_count clients = AIOLOOP_ZERO;
    int port = 0;
    aioloop_server *server = accept_serve(loop, &served, 10, &port);
    served.close_at = 2;
    accept_dial(loop, &clients, 5, port);
    test_run_until(loop, &served.made, 2, "the second accept");
    test_spin(loop, 12);
    CHECK_EQ(served.made, 2); /* the others of the same pass are not accepted any more */
    test_run_until(loop, &clients.answered, 5, "the clients' calls");
    test_run_until(loop, &clients.lost, clients.made - 2, "the end of those not accepted");
    aioloop_server_abort_clients(server);
    test_run_until(loop, &served.lost, 2, "the losses");
    test_run_until(loop, &clients.lost, clients.made, "the other losses");
    aioloop_server_unref(server);
    test_end(loop);
}

/* The loop is freed with everything in flight. */
TEST(accept_in_flight_when_the_loop_is_freed, "SOBJ-01") {
    int round;
    for (round = 0; round < 6; round++) {
        aioloop *loop = test_loop();
        accept_count served = AIOLOOP_ZERO;
        accept_count clients = AIOLOOP_ZERO;
        int port = 0;
        aioloop_server *server = accept_serve(loop, &served, 10, &port);
        accept_dial(loop, &clients, 4, port);
        test_spin(loop, round);
        if (round % 2 == 0)
            aioloop_server_close(server);
        aioloop_server_unref(server);
        CHECK_EQ(clients.lost, 0);
        test_end(loop);
    }
}
