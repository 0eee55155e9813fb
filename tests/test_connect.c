/*
 * test_connect.c - create_connection: the order of its steps, addresses and their errors, local addresses, given
 * sockets, arguments that contradict each other, cancelling and time-outs at every stage.
 *
 * Names that need the resolver and Happy Eyeballs are in test_names.c.
 */
#include "support.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- helpers ---- */

/* The calls in their order: F factory, M connection_made, D the done-callback, L connection_lost. */
static char connect_log[64];
static int connect_lost_count;

static void connect_note(char letter) {
    size_t n = strlen(connect_log);
    if (n + 1 < sizeof(connect_log)) {
        connect_log[n] = letter;
        connect_log[n + 1] = '\0';
    }
}

typedef struct connect_self {
    void *arg;
    int zeroed;
} connect_self;

static int connect_factory_result;
static aioloop_future *connect_future; /* that the hooks below cancel */
static char connect_cancel_in;         /* the letter of the call that does so */

static void connect_maybe_cancel(char letter) {
    if (connect_cancel_in == letter && connect_future != NULL)
        CHECK(aioloop_future_cancel(connect_future, NULL));
}

static int connect_factory(void *self, void *arg) {
    connect_self *s = (connect_self *)self;
    s->zeroed = s->arg == NULL && s->zeroed == 0;
    s->arg = arg;
    connect_note('F');
    connect_maybe_cancel('F');
    return connect_factory_result;
}

static void connect_made(aioloop_transport *transport, void *self) {
    (void)transport;
    (void)self;
    connect_note('M');
    connect_maybe_cancel('M');
}

static void connect_lost(aioloop_transport *transport, void *self, int error) {
    (void)transport;
    (void)self;
    (void)error;
    connect_note('L');
    connect_lost_count++;
}

static const aioloop_protocol connect_protocol = {
    sizeof(connect_self), connect_factory, connect_made, NULL, NULL, connect_lost, NULL, NULL, NULL, NULL, NULL, NULL};

static int connect_done_count;

static void connect_done(aioloop_future *future, void *arg) {
    (void)future;
    (void)arg;
    connect_note('D');
    connect_done_count++;
}

/* A future that has to fail with code. */
static void connect_fails(aioloop *loop, aioloop_future *future, int code) {
    int64_t rc = aioloop_run_until_complete(loop, future, NULL);
    CHECK_EQ(rc, code);
}

/* What a server of this file keeps of the connections it accepted. */
typedef struct connect_seen {
    int made, lost, datas;
    aioloop_address peer;
} connect_seen;

static void connect_seen_made(aioloop_transport *transport, void *self) {
    connect_seen *seen = (connect_seen *)self;
    const void *peer = aioloop_transport_get_extra_info(transport, "peername", NULL);
    CHECK(peer != NULL);
    seen->peer = *(const aioloop_address *)peer;
    seen->made++;
}

static void connect_seen_data(aioloop_transport *transport, void *self, const void *data, size_t size) {
    ((connect_seen *)self)->datas++;
    aioloop_transport_write(transport, data, size);
}

static void connect_seen_lost(aioloop_transport *transport, void *self, int error) {
    (void)transport;
    (void)error;
    ((connect_seen *)self)->lost++;
}

static const aioloop_protocol connect_seen_protocol = {
    0, NULL, connect_seen_made, connect_seen_data, NULL, connect_seen_lost, NULL, NULL, NULL, NULL, NULL, NULL};

static aioloop_server *connect_serve_at(aioloop *loop, connect_seen *seen, const char *host, int port, int *code) {
    aioloop_server *server = NULL;
    int64_t rc = aioloop_run_until_complete(
        loop, aioloop_create_server(loop, &connect_seen_protocol, seen, host, port, NULL), &server);
    *code = (int)rc;
    return server;
}

static aioloop_server *connect_serve(aioloop *loop, connect_seen *seen, const char *host, int *port) {
    aioloop_address address;
    int code = 0;
    aioloop_server *server = connect_serve_at(loop, seen, host, 0, &code);
    CHECK_EQ(code, 1);
    CHECK_EQ(aioloop_server_socket(server, 0, NULL, &address), 0);
    *port = address.port;
    return server;
}

static void connect_end_server(aioloop_server *server) {
    aioloop_server_close(server);
    aioloop_server_unref(server);
}

/* A port of 127.0.0.1 where nobody listens, and nobody else will as long as this server is there: it is deferred. */
static aioloop_server *connect_dead_port(aioloop *loop, int *port) {
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    aioloop_address address;
    int64_t rc;
    options.defer_serving = true;
    rc = aioloop_run_until_complete(
        loop, aioloop_create_server(loop, &connect_seen_protocol, NULL, "127.0.0.1", 0, &options), &server);
    CHECK_EQ(rc, 1);
    CHECK_EQ(aioloop_server_socket(server, 0, NULL, &address), 0);
    *port = address.port;
    return server;
}

/* Closes a client and waits until its end and the server's are gone. */
static void connect_close(aioloop *loop, test_peer *client, connect_seen *seen) {
    aioloop_transport_close(client->transport);
    test_run_until(loop, &client->lost, 1, "the client's loss");
    test_run_until(loop, &seen->lost, seen->made, "the server's loss");
    test_peer_drop(client);
}

static int connect_fd_is_open(int fd) {
    return fcntl(fd, F_GETFD) != -1;
}

/* How many of the process's first descriptors are open. */
static int connect_open_fds(void) {
    int count = 0;
    int fd;
    for (fd = 0; fd < 256; fd++)
        count += connect_fd_is_open(fd);
    return count;
}

/* A place where connecting neither succeeds nor fails: a partition, or a listener whose queue is full. */
typedef struct connect_hole {
    int port;
    int listener;
    int fillers[4];
} connect_hole;

static void connect_hole_open(aioloop *loop, connect_hole *hole) {
    struct sockaddr_in name;
    socklen_t size = (socklen_t)sizeof(name);
    int i;
    memset(hole, 0, sizeof(*hole));
    if (test_simulated(loop)) {
        CHECK_EQ(aioloop_sim_set_partition(loop, true), 0);
        hole->port = 7;
        return;
    }
    memset(&name, 0, sizeof(name));
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    hole->listener = test_keep_socket(socket(AF_INET, SOCK_STREAM, 0));
    CHECK(bind(hole->listener, (const struct sockaddr *)&name, size) == 0);
    CHECK(listen(hole->listener, 0) == 0);
    CHECK(getsockname(hole->listener, (struct sockaddr *)&name, &size) == 0);
    hole->port = ntohs(name.sin_port);
    for (i = 0; i < 4; i++) {
        hole->fillers[i] = test_keep_socket(socket(AF_INET, SOCK_STREAM, 0));
        CHECK(fcntl(hole->fillers[i], F_SETFL, O_NONBLOCK) == 0);
        if (connect(hole->fillers[i], (const struct sockaddr *)&name, size) != 0)
            CHECK_EQ(errno, EINPROGRESS);
    }
}

static void connect_hole_close(aioloop *loop, connect_hole *hole) {
    int i;
    if (test_simulated(loop)) {
        CHECK_EQ(aioloop_sim_set_partition(loop, false), 0);
        return;
    }
    for (i = 0; i < 4; i++)
        test_close_socket(loop, hole->fillers[i]);
    test_close_socket(loop, hole->listener);
}

/* ---- the order of things ---- */

TEST(connect_calls_factory_then_made_then_the_caller, "CONN-01") {
    aioloop *loop = test_loop();
    connect_seen seen = AIOLOOP_ZERO;
    aioloop_transport *t = NULL;
    aioloop_future *f;
    void *self = NULL;
    int port = 0;
    int arg = 0;
    aioloop_server *server = connect_serve(loop, &seen, "127.0.0.1", &port);
    f = aioloop_future_ref(aioloop_create_connection(loop, &connect_protocol, &arg, "127.0.0.1", port, NULL));
    CHECK_EQ(aioloop_future_add_done_callback(f, connect_done, NULL), 0);
    CHECK_STR(connect_log, ""); /* nobody is called from inside the call */
    CHECK(!aioloop_future_done(f));
    test_run_until(loop, &connect_done_count, 1, "the connection");
    CHECK_STR(connect_log, "FMD");
    CHECK_EQ(aioloop_future_result(f, &t), 0);
    CHECK(t != NULL);
    CHECK_PTR(aioloop_transport_get_loop(t), loop);
    CHECK_PTR(aioloop_transport_get_protocol(t, &self), &connect_protocol);
    CHECK(self != NULL && self != (void *)&arg);
    CHECK_PTR(((connect_self *)self)->arg, &arg);
    CHECK_EQ(((connect_self *)self)->zeroed, 1);
    CHECK(!aioloop_transport_is_closing(t));
    test_run_until(loop, &seen.made, 1, "the accept");
    aioloop_transport_close(t);
    test_run_until(loop, &connect_lost_count, 1, "the loss");
    test_run_until(loop, &seen.lost, 1, "the server's loss");
    CHECK_STR(connect_log, "FMDL");
    CHECK_EQ(seen.made, 1);
    aioloop_transport_unref(t);
    aioloop_future_unref(f);
    connect_end_server(server);
    test_end(loop);
}

/* Dropping the future neither cancels the connection nor loses it. */
TEST(connect_goes_on_when_its_future_is_dropped, "CONN-01") {
    aioloop *loop = test_loop();
    connect_seen seen = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    int port = 0;
    aioloop_server *server = connect_serve(loop, &seen, "127.0.0.1", &port);
    aioloop_future_unref(aioloop_create_connection(loop, &test_protocol, &client, "127.0.0.1", port, NULL));
    test_run_until(loop, &client.made, 1, "the connection");
    CHECK_EQ(aioloop_transport_write(client.transport, "x", 1), 0);
    test_run_until(loop, &client.datas, 1, "the echo");
    connect_close(loop, &client, &seen);
    connect_end_server(server);
    test_end(loop);
}

static void connect_raise_in_made(test_peer *peer) {
    aioloop_raise(aioloop_transport_get_loop(peer->transport), AIOLOOP_EIO, "made in vain");
}

TEST(connect_survives_a_connection_made_that_fails, "CONN-18") {
    aioloop *loop = test_loop();
    connect_seen seen = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_transport *t;
    int port = 0;
    aioloop_server *server = connect_serve(loop, &seen, "127.0.0.1", &port);
    client.on_made = connect_raise_in_made;
    t = test_dial(loop, &test_protocol, &client, port);
    CHECK_PTR(t, client.transport);
    CHECK_EQ(test_reports(), 1);
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EIO);
    CHECK_STR(test_report_at(0)->detail, "made in vain");
    CHECK_PTR(test_report_at(0)->context.transport, t);
    CHECK_PTR(test_report_at(0)->context.protocol, &test_protocol);
    test_reports_clear();
    CHECK_EQ(aioloop_transport_write(t, "still", 5), 0);
    test_run_until(loop, &client.datas, 1, "the echo");
    CHECK_EQ(client.lost, 0);
    aioloop_transport_unref(t);
    connect_close(loop, &client, &seen);
    connect_end_server(server);
    test_end(loop);
}

static aioloop *connect_raise_loop;

static int connect_factory_raises(void *self, void *arg) {
    (void)self;
    (void)arg;
    connect_note('F');
    return aioloop_raise(connect_raise_loop, AIOLOOP_EACCES, "nobody may");
}

/* One that raises but returns 0 has failed too. */
static int connect_factory_raises_and_returns_0(void *self, void *arg) {
    connect_factory_raises(self, arg);
    return 0;
}

TEST(connect_fails_with_the_error_of_the_factory, "CONN-19") {
    static aioloop_protocol raising;
    aioloop *loop = test_loop();
    connect_seen seen = AIOLOOP_ZERO;
    aioloop_future *f;
    int port = 0;
    aioloop_server *server = connect_serve(loop, &seen, "127.0.0.1", &port);
    connect_factory_result = AIOLOOP_ENOSPC;
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, NULL),
                  AIOLOOP_ENOSPC);
    CHECK_STR(connect_log, "F"); /* neither made nor lost */
    raising = connect_protocol;
    connect_raise_loop = loop;
    raising.factory = connect_factory_raises;
    f = aioloop_future_ref(aioloop_create_connection(loop, &raising, NULL, "127.0.0.1", port, NULL));
    connect_fails(loop, f, AIOLOOP_EACCES);
    CHECK_STR(aioloop_error_message(aioloop_future_error(f)), "nobody may");
    aioloop_future_unref(f);
    raising.factory = connect_factory_raises_and_returns_0;
    connect_fails(loop, aioloop_create_connection(loop, &raising, NULL, "127.0.0.1", port, NULL), AIOLOOP_EACCES);
    CHECK_STR(connect_log, "FFF");
    CHECK_EQ(test_reports(), 0); /* it is the call's error and nobody else's */
    /* The connections are closed, not leaked: their other ends see it. */
    test_run_until(loop, &seen.lost, 3, "the server's losses");
    connect_end_server(server);
    test_end(loop);
}

/* ---- addresses ---- */

TEST(connect_takes_the_first_address_that_answers, "CONN-02") {
    aioloop *loop = test_loop();
    connect_seen v4 = AIOLOOP_ZERO;
    connect_seen v6 = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_transport *t = NULL;
    aioloop_server *server4;
    aioloop_server *server6 = NULL;
    int64_t rc;
    int port = 0;
    int code = AIOLOOP_EADDRINUSE;
    int tries;
    if (!test_has_ipv6(loop)) {
        test_end(loop);
        SKIP("no ::1 here");
    }
    server4 = connect_serve(loop, &v4, "127.0.0.1", &port);
    /* "localhost" is ::1, where nobody is, then 127.0.0.1. */
    rc = aioloop_run_until_complete(
        loop, aioloop_create_connection(loop, &test_protocol, &client, "localhost", port, NULL), &t);
    CHECK_EQ(rc, 0);
    CHECK_EQ(client.made, 1);
    test_run_until(loop, &v4.made, 1, "the IPv4 server");
    aioloop_transport_unref(t);
    connect_close(loop, &client, &v4);
    /* Now somebody listens at both with the same port; the port may be another program's at ::1, so try some. */
    for (tries = 0; tries < 20 && code == AIOLOOP_EADDRINUSE; tries++) {
        connect_end_server(server4);
        server4 = connect_serve(loop, &v4, "127.0.0.1", &port);
        server6 = connect_serve_at(loop, &v6, "::1", port, &code);
    }
    CHECK_EQ(code, 1);
    memset(&client, 0, sizeof(client));
    rc = aioloop_run_until_complete(
        loop, aioloop_create_connection(loop, &test_protocol, &client, "localhost", port, NULL), &t);
    CHECK_EQ(rc, 0);
    test_run_until(loop, &v6.made, 1, "the IPv6 server");
    test_spin(loop, 8);
    CHECK_EQ(v4.made, 1); /* the later address was not tried */
    aioloop_transport_unref(t);
    connect_close(loop, &client, &v6);
    connect_end_server(server4);
    connect_end_server(server6);
    test_end(loop);
}

TEST(connect_tries_only_addresses_of_the_family_wanted, "CONN-07 CONN-06") {
    aioloop *loop = test_loop();
    connect_seen seen = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_future *f;
    int64_t rc;
    int port = 0;
    aioloop_server *server = connect_serve(loop, &seen, "127.0.0.1", &port);
    options.family = AIOLOOP_INET;
    options.all_errors = true;
    rc = aioloop_run_until_complete(
        loop, aioloop_create_connection(loop, &test_protocol, &client, "localhost", port, &options), NULL);
    CHECK_EQ(rc, 0);
    test_run_until(loop, &seen.made, 1, "the server");
    connect_close(loop, &client, &seen);
    connect_end_server(server);
    /* Nobody listens any more: with the family, one attempt is made, not two. */
    f = aioloop_future_ref(aioloop_create_connection(loop, &connect_protocol, NULL, "localhost", port, &options));
    connect_fails(loop, f, AIOLOOP_ECONNREFUSED);
    CHECK_EQ(aioloop_error_count(aioloop_future_error(f)), 1);
    aioloop_future_unref(f);
    /* An address of another family is none at all. */
    options.family = AIOLOOP_INET6;
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, &options),
                  AIOLOOP_ELOOKUP);
    options.family = AIOLOOP_UNIX;
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, &options),
                  AIOLOOP_EINVAL);
    CHECK_STR(connect_log, ""); /* the factory was not called */
    test_end(loop);
}

/* A resolver that knows nobody. */
static aioloop_future *connect_resolve(aioloop *loop, void *arg, const char *host, const char *service,
                                       const aioloop_getaddrinfo_options *options) {
    aioloop_future *f = aioloop_create_operation(loop, NULL, NULL);
    (void)service;
    (void)options;
    ++*(int *)arg;
    aioloop_future_set_exception(f, AIOLOOP_EAI_NONAME, "nobody knows \"%s\"", host);
    aioloop_future_unref(f);
    return f;
}

TEST(connect_needs_no_look_up_for_numeric_hosts, "CONN-05 CONN-06") {
    static const char *const names[] = {"host.invalid", "fe80::1%1", "127.1", "0x7f.0.0.1", "127.0.0.01", "256.0.0.1",
                                        "1.2.3.4 ",     "[::1]",     "::1::", ":::",        "12345::",    ""};
    aioloop *loop = test_loop();
    connect_seen seen = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_server *server;
    int64_t rc;
    int port = 0;
    int asked = 0;
    size_t i;
    CHECK_EQ(aioloop_set_resolver(loop, connect_resolve, &asked), 0);
    if (test_has_ipv6(loop)) {
        server = connect_serve(loop, &seen, "::1", &port);
        rc = aioloop_run_until_complete(
            loop, aioloop_create_connection(loop, &test_protocol, &client, "0:0:0:0:0:0:0:1", port, NULL), NULL);
        CHECK_EQ(rc, 0);
        test_run_until(loop, &seen.made, 1, "the server");
        CHECK_EQ(seen.peer.family, AIOLOOP_INET6);
        connect_close(loop, &client, &seen);
        connect_end_server(server);
    }
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", 0, NULL),
                  AIOLOOP_ECONNREFUSED);
    CHECK_EQ(asked, 0);
    /* What is no number is a name, which needs the resolver. */
    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, names[i], 80, NULL), AIOLOOP_EAI_NONAME);
    CHECK_EQ(asked, (int)(sizeof(names) / sizeof(names[0])));
    CHECK_STR(connect_log, "");
    test_end(loop);
}

TEST(connect_error_tells_the_address, "CONN-03 CONN-06") {
    aioloop *loop = test_loop();
    char v4[64];
    char v6[64];
    const char *text;
    aioloop_future *f;
    int port = 0;
    aioloop_server *dead = connect_dead_port(loop, &port);
    snprintf(v4, sizeof(v4), "127.0.0.1:%d", port);
    snprintf(v6, sizeof(v6), "[::1]:%d", port);
    /* One failure: itself. */
    f = aioloop_future_ref(aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, NULL));
    connect_fails(loop, f, AIOLOOP_ECONNREFUSED);
    CHECK_EQ(aioloop_error_code(aioloop_future_error(f)), AIOLOOP_ECONNREFUSED);
    text = aioloop_error_message(aioloop_future_error(f));
    CHECK(strstr(text, v4) != NULL);
    CHECK(strstr(text, aioloop_strerror(AIOLOOP_ECONNREFUSED)) != NULL);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), text);
    CHECK_EQ(aioloop_error_count(aioloop_future_error(f)), 0);
    aioloop_future_unref(f);
    /* Several that differ: one error with the texts of all, in the order of the attempts. */
    f = aioloop_future_ref(aioloop_create_connection(loop, &connect_protocol, NULL, "localhost", port, NULL));
    CHECK_LT(aioloop_run_until_complete(loop, f, NULL), 0);
    text = aioloop_error_message(aioloop_future_error(f));
    CHECK(strstr(text, v4) != NULL);
    CHECK(strstr(text, v6) != NULL);
    CHECK(strstr(text, v6) < strstr(text, v4));
    CHECK_EQ(aioloop_error_count(aioloop_future_error(f)), 0); /* a list only if asked for */
    aioloop_future_unref(f);
    CHECK_STR(connect_log, "");
    connect_end_server(dead);
    test_end(loop);
}

TEST(connect_collects_every_error_on_request, "CONN-04") {
    aioloop *loop = test_loop();
    aioloop_connection_options options = AIOLOOP_ZERO;
    const aioloop_error *error;
    aioloop_future *f;
    int port = 0;
    aioloop_server *dead = connect_dead_port(loop, &port);
    options.all_errors = true;
    f = aioloop_future_ref(aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, &options));
    connect_fails(loop, f, AIOLOOP_ECONNREFUSED);
    error = aioloop_future_error(f);
    CHECK_EQ(aioloop_error_count(error), 1);
    CHECK_EQ(aioloop_error_code(aioloop_error_at(error, 0)), AIOLOOP_ECONNREFUSED);
    CHECK(strstr(aioloop_error_message(aioloop_error_at(error, 0)), "127.0.0.1") != NULL);
    CHECK(aioloop_error_at(error, 1) == NULL);
    aioloop_future_unref(f);
    f = aioloop_future_ref(aioloop_create_connection(loop, &connect_protocol, NULL, "localhost", port, &options));
    CHECK_LT(aioloop_run_until_complete(loop, f, NULL), 0);
    error = aioloop_future_error(f);
    CHECK_EQ(aioloop_error_count(error), 2);
    CHECK(strstr(aioloop_error_message(aioloop_error_at(error, 0)), "[::1]") != NULL);
    CHECK(strstr(aioloop_error_message(aioloop_error_at(error, 1)), "127.0.0.1") != NULL);
    CHECK_EQ(aioloop_error_code(aioloop_error_at(error, 1)), AIOLOOP_ECONNREFUSED);
    CHECK(aioloop_error_at(error, 2) == NULL);
    aioloop_future_unref(f);
    connect_end_server(dead);
    test_end(loop);
}

/* ---- local addresses ---- */

TEST(connect_binds_to_the_local_address_of_its_family, "CONN-08") {
    aioloop *loop = test_loop();
    connect_seen seen = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    char host[64];
    int64_t rc;
    int port = 0;
    int local = 0;
    int tries;
    aioloop_server *server = connect_serve(loop, &seen, "127.0.0.1", &port);
#if defined(__linux__)
    /* An address that no client would get by itself. */
    options.local_host = "127.0.0.2";
    rc = aioloop_run_until_complete(
        loop, aioloop_create_connection(loop, &test_protocol, &client, "127.0.0.1", port, &options), NULL);
    CHECK_EQ(rc, 0);
    test_run_until(loop, &seen.made, 1, "the server");
    aioloop_address_host(&seen.peer, host, sizeof(host));
    CHECK_STR(host, "127.0.0.2");
    connect_close(loop, &client, &seen);
    memset(&client, 0, sizeof(client));
#endif
    /* Of "localhost", ::1 is skipped: this attempt is of IPv4. */
    options.local_host = "localhost";
    for (rc = AIOLOOP_EADDRINUSE, tries = 0; rc == AIOLOOP_EADDRINUSE && tries < 20; tries++) {
        connect_end_server(connect_dead_port(loop, &local)); /* free now, unless an old connection of it lingers on */
        options.local_port = local;
        rc = aioloop_run_until_complete(
            loop, aioloop_create_connection(loop, &test_protocol, &client, "127.0.0.1", port, &options), NULL);
    }
    CHECK_EQ(rc, 0);
    test_run_until(loop, &seen.made, seen.lost + 1, "the server");
    aioloop_address_host(&seen.peer, host, sizeof(host));
    CHECK_STR(host, "127.0.0.1");
    CHECK_EQ(seen.peer.port, local);
    connect_close(loop, &client, &seen);
    connect_end_server(server);
    if (test_has_ipv6(loop)) {
        memset(&client, 0, sizeof(client));
        memset(&seen, 0, sizeof(seen));
        options.local_port = 0;
        server = connect_serve(loop, &seen, "::1", &port);
        rc = aioloop_run_until_complete(
            loop, aioloop_create_connection(loop, &test_protocol, &client, "::1", port, &options), NULL);
        CHECK_EQ(rc, 0);
        connect_close(loop, &client, &seen);
        connect_end_server(server);
    }
    test_end(loop);
}

TEST(connect_binds_to_a_local_port_alone_at_any_address, "CONN-08") {
    static const char *const hosts[] = {"127.0.0.1", "::1"};
    aioloop *loop = test_loop();
    int rounds = test_has_ipv6(loop) ? 2 : 1;
    int i;
    for (i = 0; i < rounds; i++) {
        connect_seen seen = AIOLOOP_ZERO;
        test_peer client = AIOLOOP_ZERO;
        aioloop_connection_options options = AIOLOOP_ZERO;
        char host[64];
        int64_t rc = AIOLOOP_EADDRINUSE;
        int port = 0;
        int local = 0;
        int tries;
        aioloop_server *server = connect_serve(loop, &seen, hosts[i], &port);
        for (tries = 0; rc == AIOLOOP_EADDRINUSE && tries < 20; tries++) {
            connect_end_server(connect_dead_port(loop, &local)); /* free now, unless an old connection lingers on */
            options.local_port = local;
            rc = aioloop_run_until_complete(
                loop, aioloop_create_connection(loop, &test_protocol, &client, hosts[i], port, &options), NULL);
        }
        if (rc == AIOLOOP_EADDRINUSE) { /* thousands of connections have just ended on this machine */
            connect_end_server(server);
            test_end(loop);
            SKIP("every port lingers");
        }
        CHECK_EQ(rc, 0);
        test_run_until(loop, &seen.made, 1, "the server");
        aioloop_address_host(&seen.peer, host, sizeof(host));
        CHECK_STR(host, hosts[i]);
        CHECK_EQ(seen.peer.port, local);
        connect_close(loop, &client, &seen);
        connect_end_server(server);
    }
    test_end(loop);
}

TEST(connect_fails_when_no_local_address_will_do, "CONN-09") {
    aioloop *loop = test_loop();
    connect_seen seen = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    char name[64];
    aioloop_future *f;
    int port = 0;
    aioloop_server *server = connect_serve(loop, &seen, "127.0.0.1", &port);
    /* In use: the server's own. */
    options.local_host = "127.0.0.1";
    options.local_port = port;
    snprintf(name, sizeof(name), "127.0.0.1:%d", port);
    f = aioloop_future_ref(aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, &options));
    connect_fails(loop, f, AIOLOOP_EADDRINUSE);
    CHECK(strstr(aioloop_error_message(aioloop_future_error(f)), "bind") != NULL);
    CHECK(strstr(aioloop_error_message(aioloop_future_error(f)), name) != NULL);
    aioloop_future_unref(f);
    /* Not of this host. */
    options.local_host = "198.51.100.7";
    options.local_port = 0;
    f = aioloop_future_ref(aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, &options));
    connect_fails(loop, f, AIOLOOP_EADDRNOTAVAIL);
    CHECK(strstr(aioloop_error_message(aioloop_future_error(f)), "198.51.100.7") != NULL);
    aioloop_future_unref(f);
    /* Of the other family. */
    options.local_host = "::1";
    f = aioloop_future_ref(aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, &options));
    CHECK_LT(aioloop_run_until_complete(loop, f, NULL), 0);
    CHECK(strstr(aioloop_error_message(aioloop_future_error(f)), "family") != NULL);
    aioloop_future_unref(f);
    test_spin(loop, 4);
    CHECK_EQ(seen.made, 0); /* none of them connected from some other address */
    CHECK_STR(connect_log, "");
    connect_end_server(server);
    test_end(loop);
}

/* ---- arguments ---- */

TEST(connect_refuses_what_contradicts_itself, "CONN-10 CONN-12") {
    aioloop *loop = test_loop();
    aioloop *closed = test_loop();
    connect_seen seen = AIOLOOP_ZERO;
    aioloop_connection_options zero = AIOLOOP_ZERO;
    aioloop_connection_options o;
    aioloop_socket pair[2];
    int port = 0;
    aioloop_server *server = connect_serve(loop, &seen, "127.0.0.1", &port);
    test_socketpair(loop, pair);
    o = zero;
    o.sock = &pair[0];
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, &o),
                  AIOLOOP_EINVAL);
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", 0, &o), AIOLOOP_EINVAL);
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, NULL, port, &o), AIOLOOP_EINVAL);
    o.local_host = "127.0.0.1";
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, NULL, 0, &o), AIOLOOP_EINVAL);
    o.local_host = NULL;
    o.local_port = port;
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, NULL, 0, &o), AIOLOOP_EINVAL);
    CHECK(strstr(aioloop_error_message(aioloop_last_error(loop)), "local address") != NULL);
    o.local_port = 0;
    o.family = AIOLOOP_INET;
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, NULL, 0, &o), AIOLOOP_EINVAL);
    CHECK(strstr(aioloop_error_message(aioloop_last_error(loop)), "family") != NULL);
    /* Neither. */
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, NULL, 0, NULL), AIOLOOP_EINVAL);
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, NULL, 0, &zero), AIOLOOP_EINVAL);
    /* Ports. */
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", -1, NULL),
                  AIOLOOP_EINVAL);
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", 65536, NULL),
                  AIOLOOP_EINVAL);
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, "::1", 65536 + port, NULL),
                  AIOLOOP_EINVAL);
    o = zero;
    o.local_host = "127.0.0.1";
    o.local_port = 65536;
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, &o),
                  AIOLOOP_EINVAL);
    o.local_host = NULL;
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, &o),
                  AIOLOOP_EINVAL);
    o.local_port = -1;
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, &o),
                  AIOLOOP_EINVAL);
    /* What belongs to TLS, without TLS; also with a socket. */
    o = zero;
    o.server_hostname = "localhost";
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, &o),
                  AIOLOOP_EINVAL);
    o.server_hostname = "";
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, &o),
                  AIOLOOP_EINVAL);
    o.sock = &pair[0];
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, NULL, 0, &o), AIOLOOP_EINVAL);
    o = zero;
    o.ssl_handshake_timeout = AIOLOOP_MS(1);
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, &o),
                  AIOLOOP_EINVAL);
    o.ssl_handshake_timeout = -1;
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, &o),
                  AIOLOOP_EINVAL);
    o = zero;
    o.ssl_shutdown_timeout = AIOLOOP_MS(1);
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, &o),
                  AIOLOOP_EINVAL);
    /* Times that are none. */
    o = zero;
    o.timeout = -1;
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, &o),
                  AIOLOOP_EINVAL);
    o.timeout = AIOLOOP_NOT_A_TIME;
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, &o),
                  AIOLOOP_EINVAL);
    connect_fails(loop, aioloop_create_connection(loop, NULL, NULL, "127.0.0.1", port, NULL), AIOLOOP_EINVAL);
    connect_fails(loop, aioloop_create_connection(NULL, &connect_protocol, NULL, "127.0.0.1", port, NULL),
                  AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_close(closed), 0);
    CHECK_EQ(
        aioloop_future_exception(aioloop_create_connection(closed, &connect_protocol, NULL, "127.0.0.1", port, NULL)),
        AIOLOOP_ECLOSED);
    /* Nothing was connected, nobody was asked, and the socket is still ours and works. */
    test_spin(loop, 4);
    CHECK_EQ(seen.made, 0);
    CHECK_STR(connect_log, "");
    test_close_socket(loop, pair[0]);
    test_close_socket(loop, pair[1]);
    connect_end_server(server);
    test_end(closed);
    test_end(loop);
}

/* ---- given sockets ---- */

/* A connected TCP socket of the system's to a port of 127.0.0.1 or ::1. */
static int connect_raw(int family, int port) {
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    int s = test_keep_socket(socket(family, SOCK_STREAM, 0));
    memset(&v4, 0, sizeof(v4));
    v4.sin_family = AF_INET;
    v4.sin_port = htons((uint16_t)port);
    v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    memset(&v6, 0, sizeof(v6));
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons((uint16_t)port);
    v6.sin6_addr.s6_addr[15] = 1;
    if (family == AF_INET)
        CHECK(connect(s, (const struct sockaddr *)&v4, (socklen_t)sizeof(v4)) == 0);
    else
        CHECK(connect(s, (const struct sockaddr *)&v6, (socklen_t)sizeof(v6)) == 0);
    return s;
}

static aioloop_transport *connect_given(aioloop *loop, test_peer *peer, int s) {
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_socket sock = s;
    aioloop_transport *t = NULL;
    int64_t rc;
    options.sock = &sock;
    rc = aioloop_run_until_complete(loop, aioloop_create_connection(loop, &test_protocol, peer, NULL, 0, &options), &t);
    CHECK_EQ(rc, 0);
    test_forget_socket(s);
    return t;
}

TEST_WITH(connect_takes_over_a_given_socket, "CONN-11 CONN-16", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    int round;
    test_needs_real_descriptors(loop);
    for (round = 0; round < 2; round++) {
        connect_seen seen = AIOLOOP_ZERO;
        test_peer client = AIOLOOP_ZERO;
        aioloop_server *server;
        aioloop_transport *t;
        const void *sock;
        socklen_t size = (socklen_t)sizeof(int);
        int no_delay = 0;
        int port = 0;
        int s;
        if (round == 1 && !test_has_ipv6(loop))
            break;
        server = connect_serve(loop, &seen, round == 0 ? "127.0.0.1" : "::1", &port);
        s = connect_raw(round == 0 ? AF_INET : AF_INET6, port);
        CHECK_EQ(fcntl(s, F_GETFL) & O_NONBLOCK, 0);
        t = connect_given(loop, &client, s);
        CHECK(fcntl(s, F_GETFL) & O_NONBLOCK);
        CHECK(fcntl(s, F_GETFD) & FD_CLOEXEC);
        sock = aioloop_transport_get_extra_info(t, "socket", NULL);
        CHECK(sock != NULL);
        CHECK_EQ(*(const aioloop_socket *)sock, s);
        CHECK(getsockopt(s, IPPROTO_TCP, TCP_NODELAY, &no_delay, &size) == 0);
        CHECK_NE(no_delay, 0);
        CHECK_EQ(aioloop_transport_write(t, "hello", 5), 0);
        test_run_until(loop, &client.datas, 1, "the echo");
        connect_close(loop, &client, &seen);
        CHECK(!connect_fd_is_open(s)); /* the transport has closed it */
        aioloop_transport_unref(t);
        connect_end_server(server);
    }
    test_end(loop);
}

TEST(connect_takes_over_a_unix_socket, "CONN-11") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_socket pair[2];
    aioloop_transport *ta;
    aioloop_transport *tb;
    test_socketpair(loop, pair);
    ta = connect_given(loop, &a, pair[0]);
    tb = connect_given(loop, &b, pair[1]);
    CHECK_EQ(aioloop_transport_write(ta, "1", 1), 0);
    test_run_until(loop, &b.datas, 1, "the byte");
    CHECK_MEM(b.data, "1", 1);
    aioloop_transport_close(ta);
    test_run_until(loop, &a.lost, 1, "the loss");
    test_run_until(loop, &b.lost, 1, "the other loss");
    CHECK_STR(a.calls, "ml");
    CHECK_STR(b.calls, "mdel");
    aioloop_transport_unref(ta);
    aioloop_transport_unref(tb);
    test_peer_drop(&a);
    test_peer_drop(&b);
    test_end(loop);
}

TEST_WITH(connect_refuses_sockets_of_the_wrong_kind, "CONN-11", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_socket sock;
    int fds[2];
    int closed;
    int udp;
    test_needs_real_descriptors(loop);
    options.sock = &sock;
    udp = test_keep_socket(socket(AF_INET, SOCK_DGRAM, 0));
    sock = udp;
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, NULL, 0, &options), AIOLOOP_EINVAL);
    CHECK_EQ(fcntl(udp, F_GETFL) & O_NONBLOCK, 0); /* as it was, and ours */
    CHECK_EQ(fcntl(udp, F_GETFD) & FD_CLOEXEC, 0);
    CHECK(pipe(fds) == 0);
    test_keep_socket(fds[0]);
    test_keep_socket(fds[1]);
    sock = fds[0];
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, NULL, 0, &options), AIOLOOP_ENOTSOCK);
    CHECK(connect_fd_is_open(fds[0]));
    closed = dup(udp);
    CHECK_GE(closed, 0);
    close(closed);
    sock = closed;
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, NULL, 0, &options), AIOLOOP_EBADF);
    sock = -1;
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, NULL, 0, &options), AIOLOOP_EBADF);
    CHECK_STR(connect_log, "");
    test_close_socket(loop, udp);
    test_close_socket(loop, fds[0]);
    test_close_socket(loop, fds[1]);
    test_end(loop);
}

TEST(connect_refuses_the_socket_of_a_transport, "CONN-20") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_unix_connection_options unix_options = AIOLOOP_ZERO;
    aioloop_server_options server_options = AIOLOOP_ZERO;
    aioloop_unix_server_options unix_server_options = AIOLOOP_ZERO;
    const void *place;
    aioloop_socket sock;
    test_needs_unix_pairs(loop);
    test_connect_pair(loop, &a, &b);
    b.echo = true;
    place = aioloop_transport_get_extra_info(a.transport, "socket", NULL);
    CHECK(place != NULL);
    sock = *(const aioloop_socket *)place;
    options.sock = &sock;
    unix_options.sock = &sock;
    server_options.sock = &sock;
    unix_server_options.sock = &sock;
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, NULL, 0, &options), AIOLOOP_EMISUSE);
    connect_fails(loop, aioloop_create_unix_connection(loop, &connect_protocol, NULL, NULL, &unix_options),
                  AIOLOOP_EMISUSE);
    connect_fails(loop, aioloop_connect_accepted_socket(loop, &connect_protocol, NULL, sock, NULL), AIOLOOP_EMISUSE);
    connect_fails(loop, aioloop_create_server(loop, &connect_protocol, NULL, NULL, 0, &server_options),
                  AIOLOOP_EMISUSE);
    connect_fails(loop, aioloop_create_unix_server(loop, &connect_protocol, NULL, NULL, &unix_server_options),
                  AIOLOOP_EMISUSE);
    CHECK_STR(connect_log, "");
    /* The transport has not noticed. */
    CHECK_EQ(aioloop_transport_write(a.transport, "x", 1), 0);
    test_run_until(loop, &a.datas, 1, "the echo");
    CHECK_STR(a.calls, "md");
    aioloop_transport_abort(a.transport);
    test_run_until(loop, &a.lost, 1, "the loss");
    test_run_until(loop, &b.lost, 1, "the other loss");
    test_peer_drop(&a);
    test_peer_drop(&b);
    test_end(loop);
}

/* A socket belongs to the loop from the call on, not only from connection_made on. */
TEST(connect_refuses_a_socket_that_is_being_connected, "CONN-20") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_socket pair[2];
    aioloop_future *first;
    aioloop_future *second;
    test_socketpair(loop, pair);
    options.sock = &pair[0];
    first = aioloop_future_ref(aioloop_create_connection(loop, &test_protocol, &a, NULL, 0, &options));
    second = aioloop_future_ref(aioloop_create_connection(loop, &test_protocol, &a, NULL, 0, &options));
    connect_fails(loop, second, AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_run_until_complete(loop, first, NULL), 0);
    test_forget_socket(pair[0]);
    aioloop_future_unref(first);
    aioloop_future_unref(second);
    aioloop_transport_unref(connect_given(loop, &b, pair[1]));
    b.echo = true;
    CHECK_EQ(aioloop_transport_write(a.transport, "x", 1), 0);
    test_run_until(loop, &a.datas, 1, "the echo");
    aioloop_transport_close(a.transport);
    test_run_until(loop, &a.lost, 1, "the loss");
    test_run_until(loop, &b.lost, 1, "the other loss");
    CHECK_STR(a.calls, "mdl");
    test_peer_drop(&a);
    test_peer_drop(&b);
    test_end(loop);
}

static int connect_watched;

static void connect_watch(aioloop *loop, void *arg) {
    (void)loop;
    (void)arg;
    connect_watched++;
}

/* One that the program watches is refused too; the watcher goes on, and the socket is still the program's. */
TEST(connect_refuses_a_socket_that_is_watched, "CONN-20") {
    aioloop *loop = test_loop();
    test_peer b = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_server_options server_options = AIOLOOP_ZERO;
    aioloop_transport *t;
    aioloop_socket pair[2];
    test_socketpair(loop, pair);
    CHECK_EQ(aioloop_add_reader(loop, pair[0], connect_watch, NULL), 0);
    options.sock = &pair[0];
    server_options.sock = &pair[0];
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, NULL, 0, &options), AIOLOOP_EMISUSE);
    connect_fails(loop, aioloop_create_server(loop, &connect_protocol, NULL, NULL, 0, &server_options),
                  AIOLOOP_EMISUSE);
    CHECK_STR(connect_log, "");
    t = connect_given(loop, &b, pair[1]);
    CHECK_EQ(aioloop_transport_write(t, "x", 1), 0);
    test_run_until(loop, &connect_watched, 1, "the watcher");
    CHECK_EQ(aioloop_remove_reader(loop, pair[0]), 1);
    test_close_socket(loop, pair[0]);
    test_run_until(loop, &b.lost, 1, "the loss");
    aioloop_transport_unref(t);
    test_peer_drop(&b);
    test_end(loop);
}

TEST_WITH(connect_sets_no_delay, "CONN-16", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    connect_seen seen = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_transport *t;
    const void *sock;
    socklen_t size = (socklen_t)sizeof(int);
    int no_delay = 0;
    int port = 0;
    aioloop_server *server;
    test_needs_real_descriptors(loop);
    server = connect_serve(loop, &seen, "127.0.0.1", &port);
    t = test_dial(loop, &test_protocol, &client, port);
    sock = aioloop_transport_get_extra_info(t, "socket", NULL);
    CHECK(sock != NULL);
    CHECK(getsockopt(*(const aioloop_socket *)sock, IPPROTO_TCP, TCP_NODELAY, &no_delay, &size) == 0);
    CHECK_NE(no_delay, 0);
    aioloop_transport_unref(t);
    connect_close(loop, &client, &seen);
    connect_end_server(server);
    test_end(loop);
}

/* A result that nobody took, and a transport that nobody closed: they go with the loop. */
TEST(connect_result_is_freed_with_the_loop, "CONN-01") {
    aioloop *loop = test_loop();
    connect_seen seen = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    aioloop_future *f;
    aioloop_address address;
    aioloop_future *g =
        aioloop_future_ref(aioloop_create_server(loop, &connect_seen_protocol, &seen, "127.0.0.1", 0, NULL));
    CHECK_EQ(aioloop_run_until_complete(loop, g, NULL), 1); /* not taken */
    CHECK_EQ(aioloop_future_result(g, &server), 1);
    CHECK_EQ(aioloop_server_socket(server, 0, NULL, &address), 0);
    aioloop_server_unref(server);
    f = aioloop_future_ref(aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", address.port, NULL));
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), 0);
    CHECK(aioloop_future_done(f));
    test_end(loop);
    CHECK_STR(connect_log, "FM"); /* nobody is told */
}

/* ---- cancelling ---- */

TEST(connect_cancelled_at_once_closes_its_socket, "CONN-17") {
    aioloop *loop = test_loop();
    connect_hole hole;
    aioloop_future *f;
    int before;
    connect_hole_open(loop, &hole);
    f = aioloop_future_ref(aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", hole.port, NULL));
    aioloop_future_cancel(f, NULL); /* the descriptors that a loop opens when it first needs them are open now */
    aioloop_future_unref(f);
    test_spin(loop, 4);
    before = connect_open_fds();
    f = aioloop_future_ref(aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", hole.port, NULL));
    CHECK(!aioloop_future_done(f));
    if (!test_simulated(loop))
        CHECK_EQ(connect_open_fds(), before + 1);
    CHECK_EQ(aioloop_future_add_done_callback(f, connect_done, NULL), 0);
    CHECK(aioloop_future_cancel(f, "no more"));
    CHECK(aioloop_future_cancelled(f)); /* at once */
    CHECK_EQ(connect_open_fds(), before);
    CHECK(!aioloop_future_cancel(f, NULL)); /* once only */
    test_run_until(loop, &connect_done_count, 1, "the done-callback");
    CHECK_EQ(aioloop_future_result(f, NULL), AIOLOOP_ECANCELED);
    CHECK_STR(aioloop_error_message(aioloop_future_error(f)), "no more");
    test_spin(loop, 8);
    CHECK_STR(connect_log, "D");
    aioloop_future_unref(f);
    connect_hole_close(loop, &hole);
    test_end(loop);
}

TEST(connect_cancelled_while_it_waits_closes_its_socket, "CONN-17") {
    aioloop *loop = test_loop();
    connect_hole hole;
    aioloop_future *f;
    int before;
    connect_hole_open(loop, &hole);
    test_spin(loop, 2);
    before = connect_open_fds();
    f = aioloop_future_ref(aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", hole.port, NULL));
    test_run_for(loop, AIOLOOP_MS(2));
    CHECK(!aioloop_future_done(f));
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK_EQ(connect_open_fds(), before);
    connect_fails(loop, f, AIOLOOP_ECANCELED);
    test_spin(loop, 8);
    CHECK_STR(connect_log, "");
    aioloop_future_unref(f);
    connect_hole_close(loop, &hole);
    test_end(loop);
}

static void connect_cancel_soon(aioloop *loop, void *arg) {
    (void)loop;
    aioloop_future_cancel((aioloop_future *)arg, NULL);
}

/* Cancelled in each of the iterations in which the connection comes about: before it, with it, after it. Whatever the
 * stage, connection_lost follows if and only if connection_made was called, and the other end goes too. */
TEST(connect_cancelled_in_any_iteration_leaves_nothing, "CONN-17") {
    aioloop *loop = test_loop();
    connect_seen seen = AIOLOOP_ZERO;
    int cancelled = 0;
    int port = 0;
    int round;
    aioloop_server *server = connect_serve(loop, &seen, "127.0.0.1", &port);
    for (round = 0; round < 12; round++) {
        test_peer client = AIOLOOP_ZERO;
        aioloop_handle handle;
        bool was_cancelled;
        aioloop_future *f =
            aioloop_future_ref(aioloop_create_connection(loop, &test_protocol, &client, "127.0.0.1", port, NULL));
        CHECK_EQ(aioloop_future_add_done_callback(f, connect_done, NULL), 0);
        test_spin(loop, round / 2);
        if (round % 2 == 0) {
            aioloop_future_cancel(f, NULL);
        } else { /* from a callback that runs before what the same iteration has found */
            handle = aioloop_call_soon(loop, connect_cancel_soon, f);
            CHECK(!aioloop_handle_is_null(&handle));
        }
        test_run_until(loop, &connect_done_count, round + 1, "the end of the call");
        was_cancelled = aioloop_future_cancelled(f);
        CHECK_EQ(aioloop_future_exception(f), was_cancelled ? AIOLOOP_ECANCELED : 0);
        if (!was_cancelled) {
            CHECK_EQ(client.made, 1);
            aioloop_transport_close(client.transport);
        }
        cancelled += was_cancelled;
        if (client.made)
            test_run_until(loop, &client.lost, 1, "the client's loss");
        test_spin(loop, 8);
        CHECK_STR(client.calls, client.made ? "ml" : "");
        aioloop_future_unref(f);
        test_peer_drop(&client);
    }
    CHECK_GE(cancelled, 1);
    /* One that is not cancelled shows that the server lives, and that all before it came to an end: they were
     * accepted first. */
    {
        test_peer last = AIOLOOP_ZERO;
        aioloop_transport *t = test_dial(loop, &test_protocol, &last, port);
        CHECK_EQ(aioloop_transport_write(t, "x", 1), 0);
        test_run_until(loop, &last.datas, 1, "the echo");
        aioloop_transport_unref(t);
        connect_close(loop, &last, &seen);
    }
    connect_end_server(server);
    test_end(loop);
}

/* From inside the factory or connection_made: both have been called, so connection_lost follows. */
static void connect_cancel_inside(char where) {
    aioloop *loop = test_loop();
    connect_seen seen = AIOLOOP_ZERO;
    int port = 0;
    aioloop_server *server = connect_serve(loop, &seen, "127.0.0.1", &port);
    connect_cancel_in = where;
    connect_future =
        aioloop_future_ref(aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, NULL));
    CHECK_EQ(aioloop_future_add_done_callback(connect_future, connect_done, NULL), 0);
    connect_fails(loop, connect_future, AIOLOOP_ECANCELED);
    CHECK(aioloop_future_cancelled(connect_future));
    test_run_until(loop, &connect_lost_count, 1, "the loss");
    test_spin(loop, 4);
    CHECK_EQ(connect_done_count, 1);
    CHECK_EQ(strspn(connect_log, "FMDL"), 4);
    CHECK_EQ(strlen(connect_log), 4); /* each of them once */
    CHECK(strchr(connect_log, 'M') < strchr(connect_log, 'L'));
    test_run_until(loop, &seen.lost, 1, "the server's loss");
    aioloop_future_unref(connect_future);
    connect_future = NULL;
    connect_end_server(server);
    test_end(loop);
}

TEST(connect_cancelled_inside_the_factory_is_lost_again, "CONN-17") {
    connect_cancel_inside('F');
}

TEST(connect_cancelled_inside_connection_made_is_lost_again, "CONN-17") {
    connect_cancel_inside('M');
}

/* Cancelled by a factory that then fails: cancelled is what it was first. */
TEST(connect_cancelled_by_a_factory_that_fails, "CONN-17 CONN-19") {
    aioloop *loop = test_loop();
    connect_seen seen = AIOLOOP_ZERO;
    int port = 0;
    aioloop_server *server = connect_serve(loop, &seen, "127.0.0.1", &port);
    connect_cancel_in = 'F';
    connect_factory_result = AIOLOOP_EIO;
    connect_future =
        aioloop_future_ref(aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", port, NULL));
    connect_fails(loop, connect_future, AIOLOOP_ECANCELED);
    test_run_until(loop, &seen.lost, 1, "the server's loss");
    CHECK_STR(connect_log, "F");
    aioloop_future_unref(connect_future);
    connect_future = NULL;
    connect_end_server(server);
    test_end(loop);
}

static void connect_cancel_done(aioloop_future *future, void *arg) {
    *(int *)arg = aioloop_future_cancel(future, NULL) ? 1 : -1;
}

TEST(connect_cannot_be_cancelled_when_it_is_done, "CONN-17") {
    aioloop *loop = test_loop();
    connect_seen seen = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_future *f;
    int answer = 0;
    int port = 0;
    aioloop_server *server = connect_serve(loop, &seen, "127.0.0.1", &port);
    f = aioloop_future_ref(aioloop_create_connection(loop, &test_protocol, &client, "127.0.0.1", port, NULL));
    CHECK_EQ(aioloop_future_add_done_callback(f, connect_cancel_done, &answer), 0);
    test_run_until(loop, &client.made, 1, "the connection");
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), 0);
    CHECK_EQ(answer, -1);
    CHECK(!aioloop_future_cancel(f, NULL));
    CHECK_EQ(aioloop_transport_write(client.transport, "x", 1), 0);
    test_run_until(loop, &client.datas, 1, "the echo");
    aioloop_future_unref(f);
    connect_close(loop, &client, &seen);
    connect_end_server(server);
    test_end(loop);
}

/* A socket that was passed is closed too. */
TEST(connect_cancelled_closes_a_given_socket, "CONN-17") {
    aioloop *loop = test_loop();
    test_peer other = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_socket pair[2];
    aioloop_future *f;
    test_socketpair(loop, pair);
    aioloop_transport_unref(connect_given(loop, &other, pair[1]));
    options.sock = &pair[0];
    f = aioloop_future_ref(aioloop_create_connection(loop, &connect_protocol, NULL, NULL, 0, &options));
    CHECK(!aioloop_future_done(f)); /* else it was refused */
    test_forget_socket(pair[0]);
    CHECK(aioloop_future_cancel(f, NULL));
    if (!test_simulated(loop))
        CHECK(!connect_fd_is_open(pair[0]));
    connect_fails(loop, f, AIOLOOP_ECANCELED);
    test_run_until(loop, &other.lost, 1, "the end of the stream");
    CHECK_STR(other.calls, "mel");
    CHECK_STR(connect_log, "");
    aioloop_future_unref(f);
    test_peer_drop(&other);
    test_end(loop);
}

/* ---- time-outs ---- */

TEST(connect_times_out, "CONN-17") {
    aioloop *loop = test_loop();
    aioloop_connection_options options = AIOLOOP_ZERO;
    connect_hole hole;
    aioloop_time start;
    int before;
    connect_hole_open(loop, &hole);
    test_spin(loop, 2);
    before = connect_open_fds();
    start = aioloop_now(loop);
    options.timeout = AIOLOOP_MS(5);
    connect_fails(loop, aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", hole.port, &options),
                  AIOLOOP_ETIMEDOUT);
    CHECK_GE(aioloop_now(loop) - start, AIOLOOP_MS(5));
    CHECK_EQ(connect_open_fds(), before);
    CHECK_STR(connect_log, "");
    connect_hole_close(loop, &hole);
    test_end(loop);
}

/* The time-out ends with the call: it does not touch the connection that was made. */
TEST(connect_time_out_does_not_outlive_the_call, "CONN-17") {
    aioloop *loop = test_loop();
    connect_seen seen = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    int64_t rc;
    int port = 0;
    aioloop_server *server = connect_serve(loop, &seen, "127.0.0.1", &port);
    options.timeout = AIOLOOP_MS(200);
    rc = aioloop_run_until_complete(
        loop, aioloop_create_connection(loop, &test_protocol, &client, "127.0.0.1", port, &options), NULL);
    CHECK_EQ(rc, 0);
    test_run_until(loop, &seen.made, 1, "the accept");
    if (test_simulated(loop)) {
        test_run_for(loop, AIOLOOP_MS(500));
    } else { /* no need to wait: there is no timer left */
        test_spin(loop, 2);
        CHECK_EQ(aioloop_next_deadline(loop), AIOLOOP_FOREVER);
    }
    CHECK_EQ(client.lost, 0);
    connect_close(loop, &client, &seen);
    connect_end_server(server);
    test_end(loop);
}

static void connect_cancel_global(aioloop *loop, void *arg) {
    (void)loop;
    (void)arg;
    aioloop_future_cancel(connect_future, NULL);
}

/* Cancelled by a timer in the very iteration in which the time-out is due too: that must not come after it. Many times,
 * because a completion engine may or may not give the operation back at once. */
TEST(connect_cancelled_just_before_it_times_out, "CONN-17") {
    aioloop *loop = test_loop();
    aioloop_connection_options options = AIOLOOP_ZERO;
    connect_hole hole;
    int round;
    connect_hole_open(loop, &hole);
    options.timeout = AIOLOOP_MS(1);
    for (round = 0; round < 10; round++) {
        aioloop_timer_handle timer = aioloop_call_later(loop, AIOLOOP_MS(1), connect_cancel_global, NULL);
        aioloop_time start = aioloop_now(loop);
        CHECK(!aioloop_handle_is_null(&timer.handle));
        connect_future = aioloop_future_ref(
            aioloop_create_connection(loop, &connect_protocol, NULL, "127.0.0.1", hole.port, &options));
        while (!test_simulated(loop) && aioloop_now(loop) < start + AIOLOOP_MS(2))
            ; /* so that the next iteration finds both due */
        connect_fails(loop, connect_future, AIOLOOP_ECANCELED);
        aioloop_future_unref(connect_future);
        test_spin(loop, 6);
    }
    CHECK_STR(connect_log, "");
    connect_hole_close(loop, &hole);
    test_end(loop);
}
