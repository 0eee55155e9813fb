/*
 * test_server.c - create_server and the server object: what is bound and with which options, what each connection
 * gets, and how a server ends. Storms of connections and failing accepts are in test_accept.c, Unix sockets in
 * test_unix.c.
 */
#include "support.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

/* Two loopback addresses that a host surely has. */
#if defined(__linux__)
#define SERVER_OTHER "127.0.0.2"
#else
#define SERVER_OTHER "::1"
#endif

/* ---- helpers ---- */

/* What a server's connections have in common: its arg. */
typedef struct server_count {
    int factories, made, lost, datas;
    int last_error;                   /* connection_lost's */
    int fail_first;                   /* so many factories fail */
    bool flood;                       /* connection_made writes a lot */
    aioloop_transport *transports[8]; /* borrowed: valid until they are lost */
    aioloop_address peers[8];
    aioloop_server *close_in_factory;
    aioloop_server *close_in_made;
} server_count;

typedef struct server_connection {
    server_count *count;
    int made;
} server_connection;

#define SERVER_FLOOD (16u * 1024 * 1024) /* more than both ends of a connection have room for */
static unsigned char server_flood_bytes[SERVER_FLOOD];

static int server_factory(void *self, void *arg) {
    server_connection *c = (server_connection *)self;
    c->count = (server_count *)arg;
    c->count->factories++;
    if (c->count->close_in_factory != NULL) {
        aioloop_server_close(c->count->close_in_factory);
        aioloop_server_close_clients(c->count->close_in_factory); /* this one is none yet */
        aioloop_server_abort_clients(c->count->close_in_factory);
    }
    if (c->count->fail_first > 0) {
        c->count->fail_first--;
        return AIOLOOP_EIO;
    }
    return 0;
}

static void server_made(aioloop_transport *transport, void *self) {
    server_connection *c = (server_connection *)self;
    const void *peer = aioloop_transport_get_extra_info(transport, "peername", NULL);
    CHECK_EQ(c->made, 0);
    c->made = 1;
    CHECK(peer != NULL);
    if (c->count->made < 8) {
        c->count->transports[c->count->made] = transport;
        c->count->peers[c->count->made] = *(const aioloop_address *)peer;
    }
    c->count->made++;
    if (c->count->flood)
        CHECK_EQ(aioloop_transport_write(transport, server_flood_bytes, SERVER_FLOOD), 0);
    if (c->count->close_in_made != NULL)
        aioloop_server_close(c->count->close_in_made);
}

static void server_data(aioloop_transport *transport, void *self, const void *data, size_t size) {
    ((server_connection *)self)->count->datas++;
    aioloop_transport_write(transport, data, size);
}

static void server_lost(aioloop_transport *transport, void *self, int error) {
    server_connection *c = (server_connection *)self;
    (void)transport;
    CHECK_EQ(c->made, 1);
    c->made = 2;
    c->count->last_error = error;
    c->count->lost++;
}

static const aioloop_protocol server_protocol = {
    sizeof(server_connection), server_factory, server_made, server_data, NULL, server_lost, NULL, NULL, NULL, NULL,
        NULL, NULL};

/* A server, or NULL with *code below 0. */
static aioloop_server *server_try(aioloop *loop, server_count *count, const char *host, int port,
                                  const aioloop_server_options *options, int *code) {
    aioloop_server *server = NULL;
    int64_t rc = aioloop_run_until_complete(
        loop, aioloop_create_server(loop, &server_protocol, count, host, port, options), &server);
    *code = (int)rc;
    return server;
}

static aioloop_server *server_open(aioloop *loop, server_count *count, const char *host, int *port,
                                   const aioloop_server_options *options) {
    aioloop_address address;
    int code = 0;
    aioloop_server *server = server_try(loop, count, host, *port, options, &code);
    CHECK_GE(code, 1);
    CHECK_EQ(aioloop_server_socket_count(server), (size_t)code);
    CHECK_EQ(aioloop_server_socket(server, 0, NULL, &address), 0);
    *port = address.port;
    return server;
}

static void server_fails(aioloop *loop, const char *host, int port, const aioloop_server_options *options, int wanted) {
    int code = 0;
    CHECK(server_try(loop, NULL, host, port, options, &code) == NULL);
    CHECK_EQ(code, wanted);
}

static void server_end(aioloop_server *server) {
    aioloop_server_close(server);
    aioloop_server_unref(server);
}

static aioloop_socket server_socket_of(aioloop_server *server, size_t i) {
    aioloop_socket s = -1;
    CHECK_EQ(aioloop_server_socket(server, i, &s, NULL), 0);
    return s;
}

static void server_dial(aioloop *loop, test_peer *client, int port) {
    memset(client, 0, sizeof(*client));
    aioloop_transport_unref(test_dial(loop, &test_protocol, client, port));
}

static void server_hang_up(aioloop *loop, test_peer *client) {
    aioloop_transport_close(client->transport);
    test_run_until(loop, &client->lost, 1, "the client's loss");
    test_peer_drop(client);
}

/* Waits for a loss that the other side brought about. */
static void server_see_end(aioloop *loop, test_peer *client) {
    test_run_until(loop, &client->lost, 1, "the client's loss");
    test_peer_drop(client);
}

static void server_refuses(aioloop *loop, int port) {
    test_peer client = AIOLOOP_ZERO;
    int64_t rc = aioloop_run_until_complete(
        loop, aioloop_create_connection(loop, &test_protocol, &client, "127.0.0.1", port, NULL), NULL);
    CHECK_EQ(rc, AIOLOOP_ECONNREFUSED);
    CHECK_EQ(client.made, 0);
}

static void server_on_done(aioloop_future *future, void *arg) {
    (void)future;
    ++*(int *)arg;
}

/* As run_until_complete, but not for ever: what it waits for may have been broken by a fault. */
static int64_t server_await(aioloop *loop, aioloop_future *f) {
    int done = 0;
    int64_t rc;
    aioloop_future_ref(f);
    CHECK_EQ(aioloop_future_add_done_callback(f, server_on_done, &done), 0);
    test_run_until(loop, &done, 1, "the future");
    rc = aioloop_future_result(f, NULL);
    aioloop_future_unref(f);
    return rc;
}

static int server_option(int s, int level, int name) {
    int value = 0;
    socklen_t size = (socklen_t)sizeof(value);
    CHECK(getsockopt(s, level, name, &value, &size) == 0);
    return value;
}

static int server_open_fds(void) {
    int count = 0;
    int fd;
    for (fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) != -1;
    return count;
}

static void server_nothing(aioloop *loop, void *arg) {
    (void)loop;
    (void)arg;
}

/* ---- listening ---- */

TEST(server_listens_when_the_call_returns, "SRV-01 SRV-11") {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    aioloop_address address;
    aioloop_future *connecting;
    test_peer client = AIOLOOP_ZERO;
    aioloop_future *f = aioloop_future_ref(aioloop_create_server(loop, &server_protocol, &count, "127.0.0.1", 0, NULL));
    /* Without a single pass. */
    CHECK(aioloop_future_done(f));
    CHECK_EQ(aioloop_future_result(f, &server), 1);
    aioloop_future_unref(f);
    CHECK(aioloop_server_is_serving(server));
    CHECK_EQ(aioloop_server_socket(server, 0, NULL, &address), 0);
    CHECK_NE(address.port, 0);
    connecting = aioloop_create_connection(loop, &test_protocol, &client, "127.0.0.1", address.port, NULL);
    CHECK_EQ(count.made, 0);
    CHECK_EQ(aioloop_run_until_complete(loop, connecting, NULL), 0);
    test_run_until(loop, &count.made, 1, "the accept");
    CHECK_EQ(count.factories, 1);
    server_hang_up(loop, &client);
    test_run_until(loop, &count.lost, 1, "the loss");
    server_end(server);
    test_end(loop);
}

TEST_WITH(server_listens_before_the_first_pass, "SRV-01", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    aioloop_address address;
    struct sockaddr_in name;
    aioloop_future *f;
    int s;
    test_needs_real_descriptors(loop);
    f = aioloop_future_ref(aioloop_create_server(loop, &server_protocol, &count, "127.0.0.1", 0, NULL));
    CHECK_EQ(aioloop_future_result(f, &server), 1);
    aioloop_future_unref(f);
    CHECK_EQ(aioloop_server_socket(server, 0, NULL, &address), 0);
    s = test_keep_socket(socket(AF_INET, SOCK_STREAM, 0));
    memset(&name, 0, sizeof(name));
    name.sin_family = AF_INET;
    name.sin_port = htons(address.port);
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(connect(s, (const struct sockaddr *)&name, (socklen_t)sizeof(name)) == 0);
    test_run_until(loop, &count.made, 1, "the accept");
    test_close_socket(loop, s);
    test_run_until(loop, &count.lost, 1, "the loss");
    server_end(server);
    test_end(loop);
}

TEST(server_tells_each_connection_once_and_whose_it_is, "SRV-11") {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    test_peer clients[3];
    int port = 0;
    int i;
    aioloop_server *server = server_open(loop, &count, "127.0.0.1", &port, NULL);
    for (i = 0; i < 3; i++) {
        const void *name;
        server_dial(loop, &clients[i], port);
        test_run_until(loop, &count.made, i + 1, "the accept");
        CHECK_EQ(count.factories, i + 1);
        name = aioloop_transport_get_extra_info(clients[i].transport, "sockname", NULL);
        CHECK(name != NULL);
        CHECK(aioloop_address_equal(&count.peers[i], (const aioloop_address *)name));
        name = aioloop_transport_get_extra_info(count.transports[i], "sockname", NULL);
        CHECK(name != NULL);
        CHECK_EQ(((const aioloop_address *)name)->port, port);
    }
    test_spin(loop, 4);
    CHECK_EQ(count.factories, 3);
    CHECK_EQ(count.made, 3);
    for (i = 0; i < 3; i++)
        server_hang_up(loop, &clients[i]);
    test_run_until(loop, &count.lost, 3, "the losses");
    server_end(server);
    test_end(loop);
}

/* ---- what is bound ---- */

/* Binds all interfaces, IPv6 and IPv4 to one port. The port was free for IPv4; another program may have it at IPv6,
 * so this tries some. */
static aioloop_server *server_dual(aioloop *loop, server_count *count, const char *host, int *port) {
    int tries;
    for (tries = 0; tries < 20; tries++) {
        int code = 0;
        aioloop_server *server;
        *port = 0;
        server_end(server_open(loop, count, "0.0.0.0", port, NULL));
        server = server_try(loop, count, host, *port, NULL, &code);
        if (code != AIOLOOP_EADDRINUSE) {
            CHECK_GE(code, 1);
            return server;
        }
    }
    FAIL("no port is free for both families");
    return NULL; /* not reached; not every compiler knows */
}

static void server_check_dual(const char *host) {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    bool has_ipv6 = test_has_ipv6(loop);
    size_t wanted = has_ipv6 ? 2 : 1;
    int families = 0;
    int port = 0;
    size_t i;
    aioloop_server *server = server_dual(loop, &count, host, &port);
    CHECK_EQ(aioloop_server_socket_count(server), wanted);
    for (i = 0; i < wanted; i++) {
        aioloop_address address;
        CHECK_EQ(aioloop_server_socket(server, i, NULL, &address), 0);
        CHECK_EQ(address.port, port);
        families |= address.family == AIOLOOP_INET ? 1 : address.family == AIOLOOP_INET6 ? 2 : 4;
        if (address.family == AIOLOOP_INET6 && !test_simulated(loop))
            CHECK_EQ(server_option(server_socket_of(server, i), IPPROTO_IPV6, IPV6_V6ONLY), 1);
    }
    CHECK_EQ(families, has_ipv6 ? 3 : 1);
    /* Each family reaches its own socket: IPv4 does not arrive as an IPv6 address. */
    server_dial(loop, &client, port);
    test_run_until(loop, &count.made, 1, "the accept");
    CHECK_EQ(count.peers[0].family, AIOLOOP_INET);
    server_hang_up(loop, &client);
    if (has_ipv6) {
        memset(&client, 0, sizeof(client));
        CHECK_EQ(aioloop_run_until_complete(
                     loop, aioloop_create_connection(loop, &test_protocol, &client, "::1", port, NULL), NULL),
                 0);
        test_run_until(loop, &count.made, 2, "the accept");
        CHECK_EQ(count.peers[1].family, AIOLOOP_INET6);
        server_hang_up(loop, &client);
    }
    test_run_until(loop, &count.lost, count.made, "the losses");
    server_end(server);
    test_end(loop);
}

TEST(server_without_a_host_binds_both_families, "SRV-02") {
    server_check_dual(NULL);
}

TEST(server_with_an_empty_host_binds_both_families, "SRV-02") {
    server_check_dual("");
}

TEST(server_binds_only_the_family_wanted, "SRV-02") {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_address address;
    aioloop_server *server;
    int port = 0;
    options.family = AIOLOOP_INET;
    server = server_open(loop, &count, NULL, &port, &options);
    CHECK_EQ(aioloop_server_socket_count(server), 1);
    CHECK_EQ(aioloop_server_socket(server, 0, NULL, &address), 0);
    CHECK_EQ(address.family, AIOLOOP_INET);
    server_end(server);
    server_fails(loop, "::1", 0, &options, AIOLOOP_ELOOKUP);
    options.family = AIOLOOP_UNIX;
    server_fails(loop, NULL, 0, &options, AIOLOOP_EINVAL);
    test_end(loop);
}

TEST(server_binds_each_host_of_a_list_once, "SRV-03") {
    static const char *const twice[] = {"127.0.0.1", SERVER_OTHER, "127.0.0.1", "127.0.0.1"};
    static const char *const six[] = {"::1", "0:0:0:0:0:0:0:1", "::0.0.0.1"};
    static const char *const names[] = {"127.0.0.1", "localhost"};
    static const char *const wildcards[] = {"0.0.0.0", ""};
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_address address;
    aioloop_server *server;
    size_t both = test_has_ipv6(loop) ? 2 : 1;
    char host[64];
    size_t i;
    int port = 0;
    options.hosts = twice;
    options.host_count = 4;
    server = server_open(loop, &count, NULL, &port, &options);
    CHECK_EQ(aioloop_server_socket_count(server), 2);
    for (i = 0; i < 2; i++) { /* in their order, and each serves */
        CHECK_EQ(aioloop_server_socket(server, i, NULL, &address), 0);
        aioloop_address_host(&address, host, sizeof(host));
        CHECK_STR(host, twice[i]);
        memset(&client, 0, sizeof(client));
        CHECK_EQ(aioloop_run_until_complete(
                     loop, aioloop_create_connection(loop, &test_protocol, &client, host, address.port, NULL), NULL),
                 0);
        test_run_until(loop, &count.made, (int)i + 1, "the accept");
        server_hang_up(loop, &client);
    }
    test_run_until(loop, &count.lost, 2, "the losses");
    server_end(server);
    /* Two names of one address. */
    options.hosts = names;
    options.host_count = 2;
    port = 0;
    server = server_open(loop, &count, NULL, &port, &options);
    CHECK_EQ(aioloop_server_socket_count(server), both);
    server_end(server);
    options.hosts = wildcards;
    options.host_count = 2;
    port = 0;
    server = server_open(loop, &count, NULL, &port, &options);
    CHECK_EQ(aioloop_server_socket_count(server), both);
    server_end(server);
    if (both == 2) {
        options.hosts = six;
        options.host_count = 3;
        port = 0;
        server = server_open(loop, &count, NULL, &port, &options);
        CHECK_EQ(aioloop_server_socket_count(server), 1);
        server_end(server);
    }
    test_end(loop);
}

TEST(server_picks_a_free_port_for_each_socket, "SRV-04") {
    static const char *const hosts[] = {"127.0.0.1", SERVER_OTHER};
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_server *servers[4];
    int ports[4];
    int i;
    int k;
    options.hosts = hosts;
    options.host_count = 2;
    for (i = 0; i < 4; i++) {
        aioloop_address address;
        ports[i] = 0;
        servers[i] = server_open(loop, &count, NULL, &ports[i], &options);
        CHECK_NE(ports[i], 0);
        CHECK_EQ(aioloop_server_socket(servers[i], 1, NULL, &address), 0);
        CHECK_NE(address.port, 0);
        for (k = 0; k < i; k++)
            CHECK_NE(ports[i], ports[k]);
    }
    for (i = 0; i < 4; i++)
        server_end(servers[i]);
    test_end(loop);
}

TEST(server_fails_when_one_address_is_in_use, "SRV-05") {
    static const char *const hosts[] = {SERVER_OTHER, "127.0.0.1"};
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    char name[64];
    bool named = false;
    int tries;
    int code = 0;
    /* Another program may have the port at the other address, so this tries some. */
    for (tries = 0; tries < 20 && !(named && code == 1); tries++) {
        aioloop_future *f;
        int port = 0;
        int before;
        aioloop_server *first = server_open(loop, &count, "127.0.0.1", &port, NULL);
        snprintf(name, sizeof(name), "127.0.0.1:%d", port);
        options.no_reuse_address = true;
        options.hosts = hosts;
        options.host_count = 2;
        before = server_open_fds();
        f = aioloop_future_ref(aioloop_create_server(loop, &server_protocol, &count, NULL, port, &options));
        CHECK_EQ(server_await(loop, f), AIOLOOP_EADDRINUSE);
        named = strstr(aioloop_error_message(aioloop_future_error(f)), name) != NULL;
        aioloop_future_unref(f);
        CHECK_EQ(server_open_fds(), before);
        /* The address that was bound first is free again. */
        options.hosts = NULL;
        options.host_count = 0;
        server = server_try(loop, &count, SERVER_OTHER, port, &options, &code);
        if (server != NULL)
            server_end(server);
        server_end(first);
    }
    CHECK(named);
    CHECK_EQ(code, 1);
    test_end(loop);
}

/* Whatever the error is, the text names the address, and is no older one. */
TEST_WITH(server_names_the_address_that_it_cannot_bind, "SRV-05", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    aioloop_future *f;
    int64_t rc;
    test_needs_real_descriptors(loop);
    server_fails(loop, "127.0.0.1", -1, NULL, AIOLOOP_EINVAL);
    f = aioloop_future_ref(
        aioloop_create_server(loop, &server_protocol, NULL, "fe80::1", 80, NULL)); /* on which link? */
    rc = aioloop_run_until_complete(loop, f, NULL);
    CHECK_LT(rc, 0);
    CHECK(strstr(aioloop_error_message(aioloop_future_error(f)), "[fe80::1]:80") != NULL);
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(server_skips_addresses_that_the_host_does_not_have, "SRV-06") {
    static const char *const some[] = {"198.51.100.7", "127.0.0.1", "203.0.113.9"};
    static const char *const none[] = {"198.51.100.7", "203.0.113.9"};
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_server *server;
    aioloop_future *f;
    const char *text;
    int port = 0;
    int before;
    options.hosts = some;
    options.host_count = 3;
    server = server_open(loop, &count, NULL, &port, &options);
    CHECK_EQ(aioloop_server_socket_count(server), 1);
    server_dial(loop, &client, port);
    test_run_until(loop, &count.made, 1, "the accept");
    server_hang_up(loop, &client);
    test_run_until(loop, &count.lost, 1, "the loss");
    server_end(server);
    before = server_open_fds();
    options.hosts = none;
    options.host_count = 2;
    f = aioloop_future_ref(aioloop_create_server(loop, &server_protocol, &count, NULL, 80, &options));
    CHECK_EQ(server_await(loop, f), AIOLOOP_EADDRNOTAVAIL);
    text = aioloop_error_message(aioloop_future_error(f));
    CHECK(strstr(text, "198.51.100.7:80") != NULL);
    CHECK(strstr(text, "203.0.113.9:80") != NULL);
    aioloop_future_unref(f);
    CHECK_EQ(server_open_fds(), before);
    test_end(loop);
}

/* ---- arguments ---- */

TEST(server_refuses_what_contradicts_itself, "SRV-07 SRV-10") {
    static const char *const hosts[] = {"127.0.0.1"};
    static const char *const names[] = {"127.0.0.1", "host.invalid"};
    aioloop *loop = test_loop();
    aioloop *closed = test_loop();
    aioloop_server_options zero = AIOLOOP_ZERO;
    aioloop_server_options o;
    aioloop_socket pair[2];
    int i;
    test_socketpair(loop, pair);
    o = zero;
    o.sock = &pair[0];
    server_fails(loop, "127.0.0.1", 0, &o, AIOLOOP_EINVAL);
    server_fails(loop, "", 0, &o, AIOLOOP_EINVAL);
    server_fails(loop, NULL, 80, &o, AIOLOOP_EINVAL);
    o.hosts = hosts;
    o.host_count = 1;
    server_fails(loop, NULL, 0, &o, AIOLOOP_EINVAL);
    o.sock = NULL;
    server_fails(loop, "127.0.0.1", 0, &o, AIOLOOP_EINVAL);
    o.host_count = 0;
    server_fails(loop, NULL, 0, &o, AIOLOOP_EINVAL);
    o.hosts = NULL;
    o.host_count = 1;
    server_fails(loop, "127.0.0.1", 0, &o, AIOLOOP_EINVAL);
    /* What is set on a socket that the server makes is not set on one that is given. */
    for (i = 0; i < 4; i++) {
        o = zero;
        o.sock = &pair[0];
        o.family = i == 0 ? AIOLOOP_INET : AIOLOOP_UNSPEC;
        o.no_reuse_address = i == 1;
        o.reuse_port = i == 2;
        o.keep_alive = i == 3;
        server_fails(loop, NULL, 0, &o, AIOLOOP_EINVAL);
        CHECK(strstr(aioloop_error_message(aioloop_last_error(loop)), "exclude a socket") != NULL);
    }
    server_fails(loop, "127.0.0.1", -1, NULL, AIOLOOP_EINVAL);
    server_fails(loop, "127.0.0.1", 65536, NULL, AIOLOOP_EINVAL);
    server_fails(loop, NULL, 65536, NULL, AIOLOOP_EINVAL);
    server_fails(loop, "host.invalid", 70000, NULL, AIOLOOP_EINVAL);
    o = zero;
    o.hosts = names;
    o.host_count = 2;
    o.service = "http";
    server_fails(loop, NULL, 80, &o, AIOLOOP_EINVAL);
    o.host_count = 0;
    server_fails(loop, NULL, 80, &o, AIOLOOP_EINVAL);
    o = zero;
    o.backlog = -1;
    server_fails(loop, "127.0.0.1", 0, &o, AIOLOOP_EINVAL);
    o = zero;
    o.timeout = -1;
    server_fails(loop, "127.0.0.1", 0, &o, AIOLOOP_EINVAL);
    o = zero;
    o.ssl_handshake_timeout = AIOLOOP_SECONDS(1);
    server_fails(loop, "127.0.0.1", 0, &o, AIOLOOP_EINVAL);
    o = zero;
    o.ssl_shutdown_timeout = AIOLOOP_SECONDS(1);
    server_fails(loop, "127.0.0.1", 0, &o, AIOLOOP_EINVAL);
    o.sock = &pair[0];
    server_fails(loop, NULL, 0, &o, AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_server(loop, NULL, NULL, "127.0.0.1", 0, NULL), NULL),
             AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_create_server(NULL, &server_protocol, NULL, "127.0.0.1", 0, NULL)),
             AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_close(closed), 0);
    CHECK_EQ(aioloop_future_exception(aioloop_create_server(closed, &server_protocol, NULL, "127.0.0.1", 0, NULL)),
             AIOLOOP_ECLOSED);
    test_close_socket(loop, pair[0]); /* still ours */
    test_close_socket(loop, pair[1]);
    test_end(closed);
    test_end(loop);
}

static int server_raw_bound(int type) {
    struct sockaddr_in name;
    int s = test_keep_socket(socket(AF_INET, type, 0));
    memset(&name, 0, sizeof(name));
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bind(s, (const struct sockaddr *)&name, (socklen_t)sizeof(name)) == 0);
    return s;
}

TEST_WITH(server_takes_over_a_given_socket, "SRV-07 CONN-16", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_server *server;
    aioloop_socket sock;
    const void *accepted;
    int port = 0;
    int code = 0;
    test_needs_real_descriptors(loop);
    options.sock = &sock;
    /* Of the wrong kind, or none: refused, and as it was. */
    sock = server_raw_bound(SOCK_DGRAM);
    server_fails(loop, NULL, 0, &options, AIOLOOP_EINVAL);
    CHECK_EQ(fcntl(sock, F_GETFL) & O_NONBLOCK, 0);
    test_close_socket(loop, sock);
    server_fails(loop, NULL, 0, &options, AIOLOOP_EBADF);
    sock = -1;
    server_fails(loop, NULL, 0, &options, AIOLOOP_EBADF);
    sock = server_raw_bound(SOCK_STREAM);
    server = server_open(loop, &count, NULL, &port, &options);
    test_forget_socket(sock);
    CHECK_EQ(server_socket_of(server, 0), sock);
    CHECK(fcntl(sock, F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(sock, F_GETFD) & FD_CLOEXEC);
    server_dial(loop, &client, port);
    test_run_until(loop, &count.made, 1, "the accept");
    accepted = aioloop_transport_get_extra_info(count.transports[0], "socket", NULL);
    CHECK(accepted != NULL);
    CHECK_NE(server_option(*(const aioloop_socket *)accepted, IPPROTO_TCP, TCP_NODELAY), 0);
    /* It is this server's and nobody else's. */
    CHECK(server_try(loop, &count, NULL, 0, &options, &code) == NULL);
    CHECK_EQ(code, AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_add_reader(loop, sock, server_nothing, NULL), AIOLOOP_EMISUSE);
    server_hang_up(loop, &client);
    test_run_until(loop, &count.lost, 1, "the loss");
    aioloop_server_close(server);
    CHECK_EQ(fcntl(sock, F_GETFD), -1); /* closed by the server */
    aioloop_server_unref(server);
    test_end(loop);
}

TEST_WITH(server_sets_the_options_of_its_sockets, "SRV-08 SRV-09 CONN-16", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_server *server;
    aioloop_socket s;
    const void *accepted;
    int port = 0;
    test_needs_real_descriptors(loop);
    server = server_open(loop, &count, "127.0.0.1", &port, NULL);
    s = server_socket_of(server, 0);
    CHECK_NE(server_option(s, SOL_SOCKET, SO_REUSEADDR), 0);
    CHECK_EQ(server_option(s, SOL_SOCKET, SO_REUSEPORT), 0);
    CHECK_EQ(server_option(s, SOL_SOCKET, SO_KEEPALIVE), 0);
    server_dial(loop, &client, port);
    test_run_until(loop, &count.made, 1, "the accept");
    accepted = aioloop_transport_get_extra_info(count.transports[0], "socket", NULL);
    CHECK(accepted != NULL);
    s = *(const aioloop_socket *)accepted;
    CHECK_NE(server_option(s, IPPROTO_TCP, TCP_NODELAY), 0);
    CHECK_EQ(server_option(s, SOL_SOCKET, SO_KEEPALIVE), 0);
    server_hang_up(loop, &client);
    test_run_until(loop, &count.lost, 1, "the loss");
    server_end(server);
    options.no_reuse_address = true;
    options.reuse_port = true;
    options.keep_alive = true;
    port = 0;
    server = server_open(loop, &count, "127.0.0.1", &port, &options);
    s = server_socket_of(server, 0);
    CHECK_EQ(server_option(s, SOL_SOCKET, SO_REUSEADDR), 0);
    CHECK_NE(server_option(s, SOL_SOCKET, SO_REUSEPORT), 0);
    CHECK_NE(server_option(s, SOL_SOCKET, SO_KEEPALIVE), 0);
    server_dial(loop, &client, port);
    test_run_until(loop, &count.made, 2, "the accept");
    accepted = aioloop_transport_get_extra_info(count.transports[1], "socket", NULL);
    CHECK(accepted != NULL);
    CHECK_NE(server_option(*(const aioloop_socket *)accepted, SOL_SOCKET, SO_KEEPALIVE), 0);
    server_hang_up(loop, &client);
    test_run_until(loop, &count.lost, 2, "the loss");
    server_end(server);
    test_end(loop);
}

TEST(server_shares_a_port_only_on_request, "SRV-08") {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_server *first;
    aioloop_server *second;
    int port = 0;
    first = server_open(loop, &count, "127.0.0.1", &port, NULL);
    server_fails(loop, "127.0.0.1", port, NULL, AIOLOOP_EADDRINUSE);
    options.reuse_port = true;
    server_fails(loop, "127.0.0.1", port, &options, AIOLOOP_EADDRINUSE); /* both have to ask */
    server_end(first);
    port = 0;
    first = server_open(loop, &count, "127.0.0.1", &port, &options);
    second = server_open(loop, &count, "127.0.0.1", &port, &options);
    server_end(first);
    { /* the other one serves on */
        test_peer client = AIOLOOP_ZERO;
        server_dial(loop, &client, port);
        test_run_until(loop, &count.made, 1, "the accept");
        server_hang_up(loop, &client);
        test_run_until(loop, &count.lost, 1, "the loss");
    }
    server_end(second);
    test_end(loop);
}

/* What SO_REUSEADDR is for: the port of a server whose connections are in TIME_WAIT can be bound again at once. */
TEST(server_may_come_back_to_its_port_at_once, "SRV-08") {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    int port = 0;
    aioloop_server *server = server_open(loop, &count, "127.0.0.1", &port, NULL);
    server_dial(loop, &client, port);
    test_run_until(loop, &count.made, 1, "the accept");
    aioloop_server_close_clients(server); /* who closes first has the TIME_WAIT */
    server_see_end(loop, &client);
    test_run_until(loop, &count.lost, 1, "the loss");
    server_end(server);
    server = server_open(loop, &count, "127.0.0.1", &port, NULL);
    server_end(server);
    test_end(loop);
}

TEST_WITH(server_descriptors_are_non_blocking_and_close_on_exec, "SRV-17", TEST_REAL_FDS) {
    bool before[256];
    aioloop *loop;
    server_count count = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_server *server;
    aioloop_handle handle;
    int port = 0;
    int found = 0;
    int blocking = 0;
    int fd;
    for (fd = 0; fd < 256; fd++)
        before[fd] = fcntl(fd, F_GETFD) != -1;
    loop = test_loop();
    test_needs_real_descriptors(loop);
    test_needs_threads(loop); /* the wake-up channel is looked for with a post */
    server = server_open(loop, &count, "127.0.0.1", &port, NULL);
    server_dial(loop, &client, port);
    test_run_until(loop, &count.made, 1, "the accept");
    handle = aioloop_call_soon_threadsafe(loop, server_nothing, NULL); /* the wake-up channel too */
    CHECK(!aioloop_handle_is_null(&handle));
    test_spin(loop, 2);
    (void)aioloop_backend_fd(loop);
    for (fd = 0; fd < 256; fd++) {
        if (before[fd] || fcntl(fd, F_GETFD) == -1)
            continue;
        found++;
        CHECK_EQ(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
        if ((fcntl(fd, F_GETFL) & O_NONBLOCK) == 0)
            blocking++; /* one of the engine's own, which is not read */
    }
    CHECK_LE(blocking, 1);
    CHECK_GE(found, 4); /* listening, accepted, connected, wake-up */
    server_hang_up(loop, &client);
    test_run_until(loop, &count.lost, 1, "the loss");
    server_end(server);
    test_end(loop);
}

/* ---- connections ---- */

TEST(server_survives_a_factory_that_fails, "SRV-13") {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    test_peer clients[3];
    int waited = 0;
    int port = 0;
    int i;
    aioloop_future *f;
    aioloop_server *server = server_open(loop, &count, "127.0.0.1", &port, NULL);
    count.fail_first = 2;
    for (i = 0; i < 3; i++)
        server_dial(loop, &clients[i], port);
    /* The first two are closed, the third is served. */
    test_run_until(loop, &count.made, 1, "the third");
    for (i = 0; i < 2; i++) {
        test_run_until(loop, &clients[i].lost, 1, "the end of a refused one");
        test_peer_drop(&clients[i]);
    }
    CHECK_EQ(count.factories, 3);
    CHECK_EQ(test_reports(), 2);
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EIO);
    CHECK_PTR(test_report_at(0)->context.server, server);
    CHECK(strstr(test_report_at(0)->message, "factory") != NULL);
    test_reports_clear();
    CHECK_EQ(aioloop_transport_write(clients[2].transport, "x", 1), 0);
    test_run_until(loop, &clients[2].datas, 1, "the echo");
    /* The refused ones do not count as connections of the server. */
    aioloop_server_close(server);
    f = aioloop_future_ref(aioloop_server_wait_closed(server));
    test_spin(loop, 4);
    CHECK(!aioloop_future_done(f));
    server_hang_up(loop, &clients[2]);
    CHECK_EQ(server_await(loop, f), 0);
    waited++;
    CHECK_EQ(count.lost, 1);
    CHECK_EQ(waited, 1);
    aioloop_future_unref(f);
    aioloop_server_unref(server);
    test_end(loop);
}

/* A factory that closes its server and then fails: that was the last connection. */
TEST(server_closed_by_a_factory_that_fails, "SRV-13 SOBJ-03") {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_future *f;
    int port = 0;
    aioloop_server *server = server_open(loop, &count, "127.0.0.1", &port, NULL);
    f = aioloop_server_wait_closed(server);
    count.fail_first = 1;
    count.close_in_factory = server;
    aioloop_server_unref(server); /* the loop holds it until then, and no longer */
    server_dial(loop, &client, port);
    server_see_end(loop, &client);
    CHECK_EQ(server_await(loop, f), 0);
    CHECK_EQ(test_reports(), 1);
    test_reports_clear();
    CHECK_EQ(count.made, 0);
    server_refuses(loop, port);
    test_end(loop);
}

/* One that only closes it: the connection is made and lives, though its server is closed. */
TEST(server_closed_by_a_factory, "SRV-11 SOBJ-03") {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_future *f;
    int port = 0;
    aioloop_server *server = server_open(loop, &count, "127.0.0.1", &port, NULL);
    f = aioloop_future_ref(aioloop_server_wait_closed(server));
    count.close_in_factory = server;
    server_dial(loop, &client, port);
    test_run_until(loop, &count.made, 1, "the accept");
    CHECK_EQ(aioloop_transport_write(client.transport, "x", 1), 0);
    test_run_until(loop, &client.datas, 1, "the echo");
    CHECK(!aioloop_future_done(f));
    server_hang_up(loop, &client);
    CHECK_EQ(server_await(loop, f), 0);
    CHECK_EQ(count.lost, 1);
    aioloop_future_unref(f);
    aioloop_server_unref(server);
    test_end(loop);
}

TEST(server_serves_on_without_a_reference, "SRV-18") {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    int port = 0;
    int i;
    aioloop_server_unref(server_open(loop, &count, "127.0.0.1", &port, NULL));
    for (i = 0; i < 2; i++) {
        server_dial(loop, &client, port);
        CHECK_EQ(aioloop_transport_write(client.transport, "x", 1), 0);
        test_run_until(loop, &client.datas, 1, "the echo");
        server_hang_up(loop, &client);
        test_run_until(loop, &count.lost, i + 1, "the loss");
    }
    test_end(loop); /* ends it */
}

/* Even when its future was never looked at. */
TEST(server_serves_when_its_future_is_dropped, "SRV-18") {
    static const char *const hosts[] = {"127.0.0.1"};
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_server_options options = AIOLOOP_ZERO;
    int port = 0;
    server_end(server_open(loop, &count, "127.0.0.1", &port, NULL)); /* for its port */
    options.hosts = hosts;
    options.host_count = 1;
    aioloop_future_unref(aioloop_create_server(loop, &server_protocol, &count, NULL, port, &options));
    server_dial(loop, &client, port);
    test_run_until(loop, &count.made, 1, "the accept");
    server_hang_up(loop, &client);
    test_run_until(loop, &count.lost, 1, "the loss");
    test_end(loop);
}

/* ---- starting ---- */

TEST(server_that_is_deferred_refuses_until_it_is_started, "SRV-16 SOBJ-05") {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_server *server;
    int port = 0;
    int code = 0;
    options.defer_serving = true;
    server = server_open(loop, &count, "127.0.0.1", &port, &options);
    CHECK(!aioloop_server_is_serving(server));
    CHECK_EQ(aioloop_server_socket_count(server), 1);
    CHECK_NE(port, 0); /* bound */
    server_refuses(loop, port);
    options.no_reuse_address = true;
    CHECK(server_try(loop, &count, "127.0.0.1", port, &options, &code) == NULL); /* nobody else gets the address */
    CHECK_EQ(code, AIOLOOP_EADDRINUSE);
    CHECK_EQ(aioloop_server_start_serving(server), 0);
    CHECK(aioloop_server_is_serving(server));
    CHECK_EQ(aioloop_server_start_serving(server), 0); /* once more changes nothing */
    CHECK_EQ(aioloop_server_start_serving(server), 0);
    server_dial(loop, &client, port);
    test_run_until(loop, &count.made, 1, "the accept");
    CHECK_EQ(aioloop_server_start_serving(server), 0);
    CHECK_EQ(aioloop_transport_write(client.transport, "x", 1), 0);
    test_run_until(loop, &client.datas, 1, "the echo");
    CHECK_EQ(count.factories, 1);
    server_hang_up(loop, &client);
    test_run_until(loop, &count.lost, 1, "the loss");
    server_end(server);
    /* One that is closed without having started. */
    options.no_reuse_address = false;
    server = server_open(loop, &count, "127.0.0.1", &port, &options);
    aioloop_server_close(server);
    CHECK_EQ(server_await(loop, aioloop_server_wait_closed(server)), 0);
    aioloop_server_unref(server);
    test_end(loop);
}

/* A port that another server has bound, too, and then listens on before: SO_REUSEADDR allows that. */
static void server_fail_to_start(int failing, bool forever) {
    static const char *const hosts[2][2] = {{"127.0.0.1", SERVER_OTHER}, {SERVER_OTHER, "127.0.0.1"}};
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    aioloop_server *rival = NULL;
    test_peer client = AIOLOOP_ZERO;
    aioloop_future *f;
    char text[256];
    int port = 0;
    int code = AIOLOOP_EADDRINUSE;
    int tries;
    options.defer_serving = true;
    /* Another program may have the port at the other address, so this tries some. */
    for (tries = 0; tries < 20 && code == AIOLOOP_EADDRINUSE; tries++) {
        if (rival != NULL)
            server_end(rival);
        port = 0;
        options.hosts = NULL;
        options.host_count = 0;
        rival = server_open(loop, &count, "127.0.0.1", &port, &options);
        options.hosts = hosts[failing];
        options.host_count = 2;
        server = server_try(loop, &count, NULL, port, &options, &code);
    }
    CHECK_GE(code, 1);
    if (aioloop_server_socket_count(server) != 2) {
        server_end(server);
        server_end(rival);
        test_end(loop);
        SKIP("this host has no " SERVER_OTHER);
    }
    CHECK_EQ(aioloop_server_start_serving(rival), 0);
    if (forever)
        CHECK_EQ(server_await(loop, aioloop_server_serve_forever(server)), AIOLOOP_EADDRINUSE);
    else
        CHECK_EQ(aioloop_server_start_serving(server), AIOLOOP_EADDRINUSE);
    snprintf(text, sizeof(text), "%s", aioloop_error_message(aioloop_last_error(loop)));
    NOTE("%s", text);
    CHECK(strstr(text, "listen on 127.0.0.1") != NULL);
    CHECK(!aioloop_server_is_serving(server));
    /* The other address does not listen either. */
    f = aioloop_create_connection(loop, &test_protocol, &client, SERVER_OTHER, port, NULL);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_ECONNREFUSED);
    if (failing == 0) { /* nothing listened yet: once the rival is gone it may be tried again */
        CHECK_EQ(aioloop_server_socket_count(server), 2);
        server_end(rival);
        CHECK_EQ(aioloop_server_start_serving(server), 0);
        CHECK(aioloop_server_is_serving(server));
        server_dial(loop, &client, port);
        test_run_until(loop, &count.made, 1, "the accept");
        server_hang_up(loop, &client);
        test_run_until(loop, &count.lost, 1, "the loss");
        server_end(server);
    } else { /* one had to be closed, and so is the server */
        CHECK_EQ(aioloop_server_socket_count(server), 0);
        CHECK_EQ(aioloop_server_start_serving(server), AIOLOOP_EMISUSE);
        CHECK_EQ(server_await(loop, aioloop_server_wait_closed(server)), 0);
        aioloop_server_unref(server);
        CHECK(aioloop_server_is_serving(rival)); /* not touched */
        server_dial(loop, &client, port);
        test_run_until(loop, &count.made, 1, "the accept");
        server_hang_up(loop, &client);
        test_run_until(loop, &count.lost, 1, "the loss");
        server_end(rival);
    }
    test_end(loop);
}

TEST(server_that_cannot_start_may_be_started_again, "SRV-16") {
    server_fail_to_start(0, false);
}

TEST(server_that_can_start_in_part_does_not_serve, "SRV-16") {
    server_fail_to_start(1, false);
}

TEST(server_that_can_start_in_part_does_not_serve_forever, "SRV-16") {
    server_fail_to_start(1, true);
}

/* ---- the server object ---- */

TEST(server_close_stops_listening_at_once, "SOBJ-01 SOBJ-02 SOBJ-09") {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_address address;
    aioloop_address again;
    aioloop_socket s = -1;
    int port = 0;
    aioloop_server *server = server_open(loop, &count, "127.0.0.1", &port, NULL);
    CHECK_PTR(aioloop_server_get_loop(server), loop);
    CHECK(aioloop_server_is_serving(server));
    CHECK_EQ(aioloop_server_socket(server, 0, &s, &address), 0);
    CHECK_EQ(aioloop_server_socket(server, 1, NULL, NULL), AIOLOOP_EINVAL);
    server_dial(loop, &client, port);
    test_run_until(loop, &count.made, 1, "the accept");
    aioloop_server_close(server);
    if (!test_simulated(loop))
        CHECK_EQ(fcntl(s, F_GETFD), -1); /* when it returns, not later */
    CHECK(!aioloop_server_is_serving(server));
    CHECK_EQ(aioloop_server_socket_count(server), 0);
    again = address;
    CHECK_EQ(aioloop_server_socket(server, 0, &s, &again), AIOLOOP_EINVAL);
    CHECK(aioloop_address_equal(&address, &again)); /* what was told before is a copy */
    CHECK_EQ(address.port, port);
    server_refuses(loop, port);
    aioloop_server_close(server);
    aioloop_server_close(server);
    CHECK(!aioloop_server_is_serving(server));
    CHECK_PTR(aioloop_server_get_loop(server), loop);
    /* The connection lives on. */
    CHECK_EQ(aioloop_transport_write(client.transport, "x", 1), 0);
    test_run_until(loop, &client.datas, 1, "the echo");
    CHECK_EQ(count.lost, 0);
    server_hang_up(loop, &client);
    test_run_until(loop, &count.lost, 1, "the loss");
    aioloop_server_close(server);
    aioloop_server_unref(server);
    test_end(loop);
}

TEST(server_functions_take_null, "SOBJ-02") {
    aioloop_server_close(NULL);
    aioloop_server_close_clients(NULL);
    aioloop_server_abort_clients(NULL);
    aioloop_server_unref(NULL);
    CHECK(aioloop_server_ref(NULL) == NULL);
    CHECK(!aioloop_server_is_serving(NULL));
    CHECK(aioloop_server_get_loop(NULL) == NULL);
    CHECK_EQ(aioloop_server_socket_count(NULL), 0);
    CHECK_EQ(aioloop_server_socket(NULL, 0, NULL, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_server_start_serving(NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_server_serve_forever(NULL)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_server_wait_closed(NULL)), AIOLOOP_EINVAL);
}

TEST(server_wait_closed_waits_for_both, "SOBJ-03") {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_server *server;
    aioloop_future *f;
    aioloop_future *g;
    int port = 0;
    /* Open and without connections: not done. Closed: done at once, also when asked again. */
    server = server_open(loop, &count, "127.0.0.1", &port, NULL);
    f = aioloop_future_ref(aioloop_server_wait_closed(server));
    test_spin(loop, 6);
    CHECK(!aioloop_future_done(f));
    aioloop_server_close(server);
    CHECK(aioloop_future_done(f));
    CHECK_EQ(aioloop_future_result(f, NULL), 0);
    aioloop_future_unref(f);
    f = aioloop_future_ref(aioloop_server_wait_closed(server));
    CHECK(aioloop_future_done(f));
    aioloop_future_unref(f);
    aioloop_server_unref(server);
    /* The connection first, then the server. */
    port = 0;
    server = server_open(loop, &count, "127.0.0.1", &port, NULL);
    server_dial(loop, &client, port);
    test_run_until(loop, &count.made, 1, "the accept");
    f = aioloop_future_ref(aioloop_server_wait_closed(server));
    server_hang_up(loop, &client);
    test_run_until(loop, &count.lost, 1, "the loss");
    test_spin(loop, 4);
    CHECK(!aioloop_future_done(f));
    aioloop_server_close(server);
    CHECK_EQ(server_await(loop, f), 0);
    aioloop_future_unref(f);
    aioloop_server_unref(server);
    /* The server first, then the connection. Cancelling one who waits changes nothing for the other. */
    port = 0;
    server = server_open(loop, &count, "127.0.0.1", &port, NULL);
    server_dial(loop, &client, port);
    test_run_until(loop, &count.made, 2, "the accept");
    g = aioloop_future_ref(aioloop_server_wait_closed(server));
    f = aioloop_future_ref(aioloop_server_wait_closed(server));
    aioloop_server_close(server);
    test_spin(loop, 4);
    CHECK(!aioloop_future_done(f));
    CHECK(aioloop_future_cancel(g, NULL));
    CHECK(aioloop_future_cancelled(g));
    test_spin(loop, 4);
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(count.lost, 1);
    CHECK_EQ(client.lost, 0);
    server_hang_up(loop, &client);
    CHECK_EQ(server_await(loop, f), 0);
    CHECK_EQ(count.lost, 2);
    CHECK_EQ(server_await(loop, g), AIOLOOP_ECANCELED);
    aioloop_future_unref(f);
    aioloop_future_unref(g);
    aioloop_server_unref(server);
    test_end(loop);
}

TEST(server_close_clients_sends_what_is_buffered, "SOBJ-04") {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    test_peer clients[2];
    int port = 0;
    int i;
    aioloop_server *server = server_open(loop, &count, "127.0.0.1", &port, NULL);
    count.flood = true;
    for (i = 0; i < 2; i++)
        server_dial(loop, &clients[i], port);
    test_run_until(loop, &count.made, 2, "the accepts");
    CHECK_EQ(count.lost, 0); /* else it is not there any more */
    CHECK_GT(aioloop_transport_get_write_buffer_size(count.transports[1]), 0); /* the one made just now */
    aioloop_server_close_clients(server);
    CHECK(aioloop_transport_is_closing(count.transports[0]));
    CHECK(aioloop_transport_is_closing(count.transports[1]));
    CHECK_EQ(count.lost, 0); /* not from inside the call */
    aioloop_server_close_clients(server);
    CHECK(aioloop_server_is_serving(server)); /* the server itself is not closed by it */
    for (i = 0; i < 2; i++) {
        server_see_end(loop, &clients[i]);
        CHECK_EQ(clients[i].received, (size_t)SERVER_FLOOD);
        CHECK_EQ(clients[i].eof, 1);
        CHECK_EQ(clients[i].error, 0);
    }
    test_run_until(loop, &count.lost, 2, "the losses");
    CHECK_EQ(count.last_error, 0);
    aioloop_server_close_clients(server); /* there is none any more */
    server_end(server);
    test_end(loop);
}

TEST(server_abort_clients_drops_what_is_buffered, "SOBJ-04") {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    test_peer clients[2];
    int port = 0;
    int i;
    aioloop_server *server = server_open(loop, &count, "127.0.0.1", &port, NULL);
    count.flood = true;
    for (i = 0; i < 2; i++) {
        server_dial(loop, &clients[i], port);
        aioloop_transport_pause_reading(clients[i].transport);
    }
    test_run_until(loop, &count.made, 2, "the accepts");
    CHECK_EQ(count.lost, 0); /* else it is not there any more */
    CHECK_GT(aioloop_transport_get_write_buffer_size(count.transports[0]), 0);
    aioloop_server_abort_clients(server);
    CHECK_EQ(count.lost, 0);
    test_run_until(loop, &count.lost, 2, "the losses"); /* although nobody reads */
    CHECK_EQ(count.last_error, 0);
    for (i = 0; i < 2; i++) {
        aioloop_transport_resume_reading(clients[i].transport);
        test_run_until(loop, &clients[i].lost, 1, "the client's loss");
        CHECK_LT(clients[i].received, (size_t)SERVER_FLOOD);
        test_peer_drop(&clients[i]);
    }
    CHECK(aioloop_server_is_serving(server));
    server_end(server);
    test_end(loop);
}

/* ---- serving forever ---- */

TEST(server_serve_forever_ends_when_the_server_is_closed, "SOBJ-06") {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_server *server;
    aioloop_future *f;
    int port = 0;
    options.defer_serving = true;
    server = server_open(loop, &count, "127.0.0.1", &port, &options);
    f = aioloop_future_ref(aioloop_server_serve_forever(server));
    CHECK(aioloop_server_is_serving(server)); /* it starts serving */
    server_dial(loop, &client, port);
    test_run_until(loop, &count.made, 1, "the accept");
    server_hang_up(loop, &client);
    test_run_until(loop, &count.lost, 1, "the loss");
    test_spin(loop, 4);
    CHECK(!aioloop_future_done(f));
    aioloop_server_close(server);
    CHECK_EQ(server_await(loop, f), AIOLOOP_ECANCELED);
    CHECK(aioloop_future_cancelled(f));
    aioloop_future_unref(f);
    aioloop_server_unref(server);
    test_end(loop);
}

TEST(server_serve_forever_cancelled_waits_for_the_connections, "SOBJ-06 SOBJ-07") {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_future *f;
    int port = 0;
    aioloop_server *server = server_open(loop, &count, "127.0.0.1", &port, NULL);
    f = aioloop_future_ref(aioloop_server_serve_forever(server));
    server_dial(loop, &client, port);
    test_run_until(loop, &count.made, 1, "the accept");
    CHECK(aioloop_future_cancel(f, "enough"));
    CHECK(!aioloop_server_is_serving(server)); /* closed at once */
    CHECK_EQ(aioloop_server_socket_count(server), 0);
    server_refuses(loop, port);
    test_spin(loop, 4);
    CHECK(!aioloop_future_done(f));        /* but a connection lives */
    CHECK(aioloop_future_cancel(f, NULL)); /* not done: true, and nothing changes */
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(client.lost, 0);
    server_hang_up(loop, &client);
    CHECK_EQ(server_await(loop, f), AIOLOOP_ECANCELED);
    CHECK_EQ(count.lost, 1);
    CHECK_STR(aioloop_error_message(aioloop_future_error(f)), "enough");
    CHECK(!aioloop_future_cancel(f, NULL));
    aioloop_future_unref(f);
    aioloop_server_unref(server);
    /* Without connections, at once. Nobody holds the server but the loop. */
    port = 0;
    server = server_open(loop, &count, "127.0.0.1", &port, NULL);
    f = aioloop_future_ref(aioloop_server_serve_forever(server));
    aioloop_server_unref(server);
    CHECK(aioloop_future_cancel(f, "now"));
    CHECK(aioloop_future_cancelled(f));
    CHECK_STR(aioloop_error_message(aioloop_future_error(f)), "now");
    aioloop_future_unref(f);
    test_end(loop);
}

TEST(server_serve_forever_twice_is_misuse, "SOBJ-08") {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    aioloop_future *f;
    int port = 0;
    aioloop_server *server = server_open(loop, &count, "127.0.0.1", &port, NULL);
    f = aioloop_future_ref(aioloop_server_serve_forever(server));
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(server_await(loop, aioloop_server_serve_forever(server)), AIOLOOP_EMISUSE);
    CHECK(aioloop_server_is_serving(server));
    CHECK(!aioloop_future_done(f)); /* the first goes on */
    CHECK_EQ(aioloop_server_start_serving(server), 0);
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK_EQ(server_await(loop, f), AIOLOOP_ECANCELED);
    aioloop_future_unref(f);
    /* On a closed one. */
    CHECK_EQ(server_await(loop, aioloop_server_serve_forever(server)), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_server_start_serving(server), AIOLOOP_EMISUSE);
    CHECK(!aioloop_server_is_serving(server)); /* and it does not claim to serve after that */
    server_refuses(loop, port);
    CHECK_EQ(aioloop_server_start_serving(server), AIOLOOP_EMISUSE);
    aioloop_server_unref(server);
    test_end(loop);
}

TEST(server_of_a_closed_loop_answers_closed, "SOBJ-08 SOBJ-03") {
    aioloop *loop = test_loop();
    server_count count = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_future *forever;
    aioloop_future *waiting;
    int port = 0;
    aioloop_server *server = server_open(loop, &count, "127.0.0.1", &port, NULL);
    forever = aioloop_future_ref(aioloop_server_serve_forever(server));
    waiting = aioloop_future_ref(aioloop_server_wait_closed(server));
    server_dial(loop, &client, port);
    test_run_until(loop, &count.made, 1, "the accept");
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK(!aioloop_server_is_serving(server));
    CHECK_EQ(aioloop_server_socket_count(server), 0);
    CHECK(!aioloop_future_done(forever)); /* they stay pending, and may be cancelled */
    CHECK(!aioloop_future_done(waiting));
    CHECK(aioloop_future_cancel(waiting, NULL));
    CHECK_EQ(aioloop_server_start_serving(server), AIOLOOP_ECLOSED);
    aioloop_server_close(server);
    aioloop_server_close_clients(server);
    aioloop_server_abort_clients(server);
    CHECK_EQ(count.lost, 0); /* nobody is told */
    aioloop_future_unref(waiting);
    aioloop_future_unref(forever);
    test_peer_drop(&client);
    aioloop_server_unref(server);
    test_end(loop);
}
