/*
 * test_unix.c - Unix sockets: connecting to paths and abstract names, serving on them, and what becomes of the
 * socket's file.
 *
 * On the simulated back end the files are simulated too, so there a path is any string.
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- a directory ---- */

static char unix_directory[80];
static void (*unix_other_hook)(void);
static const char *const unix_files[] = {"s", "t", "plain", "moved"};

static const char *unix_path(const char *name) {
    static char paths[4][108];
    static int next;
    char *path = paths[next++ & 3];
    snprintf(path, sizeof(paths[0]), "%s/%s", unix_directory, name);
    return path;
}

static void unix_remove_directory(void) {
    size_t i;
    if (unix_directory[0] == '\0')
        return;
    for (i = 0; i < sizeof(unix_files) / sizeof(unix_files[0]); i++)
        unlink(unix_path(unix_files[i]));
    rmdir(unix_directory);
    unix_directory[0] = '\0';
}

static void unix_clean_up(void) {
    if (unix_other_hook != NULL)
        unix_other_hook();
    unix_remove_directory();
}

/* A loop, the last one that the test makes, and a fresh directory for unix_path. */
static aioloop *unix_begin(void) {
    aioloop *loop = test_loop();
    const char *place = getenv("TMPDIR");
    if (place == NULL || place[0] == '\0' || strlen(place) > 40)
        place = "/tmp";
    snprintf(unix_directory, sizeof(unix_directory), "%s/aioloop-XXXXXX", place);
    if (test_simulated(loop))
        return loop;
    if (mkdtemp(unix_directory) == NULL) {
        unix_directory[0] = '\0';
        FAIL("no directory: errno %d", errno);
    }
    unix_other_hook = test_cleanup_hook;
    test_cleanup_hook = unix_clean_up;
    return loop;
}

static void unix_end(aioloop *loop) {
    bool simulated = test_simulated(loop);
    test_end(loop);
    if (!simulated)
        unix_remove_directory();
}

static void unix_needs_files(aioloop *loop) {
    if (test_simulated(loop)) {
        unix_end(loop);
        SKIP("needs files of the system");
    }
}

static bool unix_exists(const char *name) {
    struct stat st;
    return lstat(unix_path(name), &st) == 0;
}

/* ---- helpers ---- */

static int64_t unix_serve(aioloop *loop, test_peer *peer, const char *path, const aioloop_unix_server_options *options,
                          aioloop_server **server) {
    *server = NULL;
    return aioloop_run_until_complete(loop, aioloop_create_unix_server(loop, &test_protocol, peer, path, options),
                                      server);
}

static int64_t unix_dial(aioloop *loop, test_peer *peer, const char *path,
                         const aioloop_unix_connection_options *options) {
    memset(peer, 0, sizeof(*peer));
    return aioloop_run_until_complete(loop, aioloop_create_unix_connection(loop, &test_protocol, peer, path, options),
                                      NULL);
}

static void unix_end_server(aioloop_server *server) {
    aioloop_server_close(server);
    aioloop_server_unref(server);
}

static void unix_hang_up(aioloop *loop, test_peer *client, test_peer *served) {
    aioloop_transport_close(client->transport);
    test_run_until(loop, &client->lost, 1, "the client's loss");
    test_run_until(loop, &served->lost, 1, "the server's loss");
    test_peer_drop(client);
    test_peer_drop(served);
    memset(served, 0, sizeof(*served));
}

static void unix_fails(aioloop *loop, const char *path, const aioloop_unix_connection_options *options, int wanted) {
    test_peer peer = AIOLOOP_ZERO;
    int64_t rc = unix_dial(loop, &peer, path, options);
    CHECK_EQ(rc, wanted);
    CHECK_EQ(peer.made, 0);
}

static void unix_server_fails(aioloop *loop, const char *path, const aioloop_unix_server_options *options, int wanted) {
    aioloop_server *server;
    int64_t rc = unix_serve(loop, NULL, path, options, &server);
    CHECK_EQ(rc, wanted);
    CHECK(server == NULL);
}

static int unix_open_fds(void) {
    int count = 0;
    int fd;
    for (fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) != -1;
    return count;
}

/* A name of the abstract name space that only this process has. */
static size_t unix_abstract(char *name, size_t size) {
    int n = snprintf(name + 1, size - 1, "aioloop-%ld", (long)getpid());
    name[0] = '\0';
    CHECK(n > 0 && (size_t)n + 1 < size);
    return (size_t)n + 1;
}

/* ---- connecting ---- */

TEST(unix_connects_to_a_path, "UCON-01") {
    aioloop *loop = unix_begin();
    test_peer served = AIOLOOP_ZERO;
    test_peer client;
    aioloop_unix_connection_options options = AIOLOOP_ZERO;
    aioloop_server *server;
    aioloop_address wanted;
    const void *name;
    char longer[120];
    served.echo = true;
    CHECK_EQ(unix_serve(loop, &served, unix_path("s"), NULL, &server), 1);
    CHECK_EQ(unix_dial(loop, &client, unix_path("s"), NULL), 0);
    test_run_until(loop, &served.made, 1, "the accept");
    CHECK_EQ(aioloop_transport_write(client.transport, "!", 1), 0);
    test_run_until(loop, &client.datas, 1, "the echo");
    CHECK_MEM(client.data, "!", 1);
    name = aioloop_transport_get_extra_info(client.transport, "peername", NULL);
    CHECK_EQ(aioloop_address_unix(&wanted, unix_path("s"), 0), 0);
    CHECK(aioloop_address_equal((const aioloop_address *)name, &wanted));
    name = aioloop_transport_get_extra_info(served.transport, "sockname", NULL);
    CHECK(aioloop_address_equal((const aioloop_address *)name, &wanted));
    name = aioloop_transport_get_extra_info(served.transport, "peername", NULL);
    CHECK(name != NULL);
    CHECK_EQ(((const aioloop_address *)name)->family, AIOLOOP_UNIX);
    CHECK_EQ(((const aioloop_address *)name)->path_size, 0); /* a client has no name */
    unix_hang_up(loop, &client, &served);
    /* With a size, the path need not end there. */
    snprintf(longer, sizeof(longer), "%s and more", unix_path("s"));
    options.path_size = strlen(unix_path("s"));
    CHECK_EQ(unix_dial(loop, &client, longer, &options), 0);
    test_run_until(loop, &served.made, 1, "the accept");
    unix_hang_up(loop, &client, &served);
    unix_end_server(server);
    unix_end(loop);
}

TEST(unix_connects_to_an_abstract_name, "UCON-01 USRV-04") {
    aioloop *loop = test_loop();
    test_peer served = AIOLOOP_ZERO;
    test_peer client;
    aioloop_unix_connection_options options = AIOLOOP_ZERO;
    aioloop_unix_server_options server_options = AIOLOOP_ZERO;
    aioloop_server *server;
    aioloop_server *second;
    const void *name;
    const aioloop_address *address;
    char path[64];
    size_t size;
#if !defined(__linux__)
    test_end(loop);
    SKIP("no abstract names here");
#endif
    size = unix_abstract(path, sizeof(path));
    server_options.path_size = size;
    options.path_size = size;
    CHECK_EQ(unix_serve(loop, &served, path, &server_options, &server), 1);
    CHECK_EQ(unix_dial(loop, &client, path, &options), 0);
    test_run_until(loop, &served.made, 1, "the accept");
    name = aioloop_transport_get_extra_info(client.transport, "peername", NULL);
    CHECK(name != NULL);
    address = (const aioloop_address *)name;
    CHECK_EQ(address->path_size, size);
    CHECK_MEM(address->u.path, path, size);
    unix_hang_up(loop, &client, &served);
    /* Nothing is removed to make room for a second one, and every byte counts. */
    CHECK_EQ(unix_serve(loop, &served, path, &server_options, &second), AIOLOOP_EADDRINUSE);
    options.path_size = size - 1;
    unix_fails(loop, path, &options, AIOLOOP_ECONNREFUSED);
    unix_end_server(server);
    /* The name is free again, and nothing was to be cleaned. */
    options.path_size = size;
    unix_fails(loop, path, &options, AIOLOOP_ECONNREFUSED);
    CHECK_EQ(unix_serve(loop, &served, path, &server_options, &server), 1);
    unix_end_server(server);
    test_end(loop);
}

TEST(unix_connection_refuses_what_contradicts_itself, "UCON-02 UCON-03") {
    aioloop *closed = test_loop();
    aioloop *loop = unix_begin();
    aioloop_unix_connection_options zero = AIOLOOP_ZERO;
    aioloop_unix_connection_options o;
    aioloop_socket pair[2];
    char longest[109];
    test_socketpair(loop, pair);
    o = zero;
    o.sock = &pair[0];
    unix_fails(loop, unix_path("s"), &o, AIOLOOP_EINVAL);
    unix_fails(loop, "", &o, AIOLOOP_EINVAL);
    o.path_size = 1;
    unix_fails(loop, NULL, &o, AIOLOOP_EINVAL);
    o.path_size = 0;
    o.server_hostname = "here";
    unix_fails(loop, NULL, &o, AIOLOOP_EINVAL);
    unix_fails(loop, NULL, NULL, AIOLOOP_EINVAL);
    unix_fails(loop, NULL, &zero, AIOLOOP_EINVAL);
    unix_fails(loop, "", NULL, AIOLOOP_EINVAL);
    o = zero;
    o.path_size = 5;
    unix_fails(loop, "a\0bcd", &o, AIOLOOP_EINVAL); /* a zero inside a path */
    memset(longest, 'x', sizeof(longest));
    longest[0] = '/';
    longest[108] = '\0';
    unix_fails(loop, longest, NULL, AIOLOOP_ENAMETOOLONG);
    o = zero;
    o.server_hostname = "here";
    unix_fails(loop, unix_path("s"), &o, AIOLOOP_EINVAL);
    o.server_hostname = "";
    unix_fails(loop, unix_path("s"), &o, AIOLOOP_EINVAL);
    o = zero;
    o.ssl_handshake_timeout = 1;
    unix_fails(loop, unix_path("s"), &o, AIOLOOP_EINVAL);
    o = zero;
    o.ssl_shutdown_timeout = 1;
    unix_fails(loop, unix_path("s"), &o, AIOLOOP_EINVAL);
    o = zero;
    o.timeout = -1;
    unix_fails(loop, unix_path("s"), &o, AIOLOOP_EINVAL);
    CHECK_EQ(
        aioloop_run_until_complete(loop, aioloop_create_unix_connection(loop, NULL, NULL, unix_path("s"), NULL), NULL),
        AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_future_exception(aioloop_create_unix_connection(NULL, &test_protocol, NULL, unix_path("s"), NULL)),
             AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_close(closed), 0);
    CHECK_EQ(
        aioloop_future_exception(aioloop_create_unix_connection(closed, &test_protocol, NULL, unix_path("s"), NULL)),
        AIOLOOP_ECLOSED);
    test_close_socket(loop, pair[0]); /* still ours */
    test_close_socket(loop, pair[1]);
    test_end(closed);
    unix_end(loop);
}

TEST_WITH(unix_calls_refuse_sockets_of_other_kinds, "UCON-02 USRV-04", TEST_REAL_FDS) {
    aioloop *loop = unix_begin();
    aioloop_unix_connection_options options = AIOLOOP_ZERO;
    aioloop_unix_server_options server_options = AIOLOOP_ZERO;
    aioloop_socket sock;
    aioloop_socket sockets[3];
    int fds[2];
    int i;
    unix_needs_files(loop);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds) == 0);
    sockets[0] = test_keep_socket(fds[0]);
    sockets[1] = test_keep_socket(fds[1]);
    sockets[2] = test_keep_socket(socket(AF_INET, SOCK_STREAM, 0));
    options.sock = &sock;
    server_options.sock = &sock;
    for (i = 0; i < 3; i++) {
        sock = sockets[i];
        unix_fails(loop, NULL, &options, AIOLOOP_EINVAL);
        unix_server_fails(loop, NULL, &server_options, AIOLOOP_EINVAL);
        CHECK_EQ(fcntl(sock, F_GETFL) & O_NONBLOCK, 0); /* as it was, and ours */
        test_close_socket(loop, sock);
    }
    unix_fails(loop, NULL, &options, AIOLOOP_EBADF);
    unix_server_fails(loop, NULL, &server_options, AIOLOOP_EBADF);
    unix_end(loop);
}

TEST(unix_connects_a_given_socket, "UCON-01 UCON-02") {
    aioloop *loop = test_loop();
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    aioloop_unix_connection_options options = AIOLOOP_ZERO;
    aioloop_socket pair[2];
    test_needs_unix_pairs(loop);
    test_socketpair(loop, pair);
    options.sock = &pair[0];
    CHECK_EQ(unix_dial(loop, &a, NULL, &options), 0);
    test_forget_socket(pair[0]);
    options.sock = &pair[1];
    CHECK_EQ(unix_dial(loop, &b, NULL, &options), 0);
    test_forget_socket(pair[1]);
    CHECK_EQ(aioloop_transport_write(a.transport, "x", 1), 0);
    test_run_until(loop, &b.datas, 1, "the bytes");
    unix_hang_up(loop, &a, &b);
    if (!test_simulated(loop))
        CHECK_EQ(fcntl(pair[0], F_GETFD), -1);
    test_end(loop);
}

TEST(unix_connection_fails_as_the_system_says, "UCON-04") {
    aioloop *loop = unix_begin();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_unix_server_options server_options = AIOLOOP_ZERO;
    aioloop_server *server;
    aioloop_future *f;
    int before = unix_open_fds();
    f = aioloop_future_ref(aioloop_create_unix_connection(loop, &test_protocol, &peer, unix_path("s"), NULL));
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_ENOENT);
    CHECK(strstr(aioloop_error_message(aioloop_future_error(f)), unix_path("s")) != NULL);
    aioloop_future_unref(f);
    /* A file that nobody listens at any more. */
    server_options.no_cleanup_socket = true;
    CHECK_EQ(unix_serve(loop, &peer, unix_path("s"), &server_options, &server), 1);
    unix_end_server(server);
    unix_fails(loop, unix_path("s"), NULL, AIOLOOP_ECONNREFUSED);
    test_spin(loop, 4);
    CHECK_EQ(unix_open_fds(), before);
    CHECK_EQ(peer.made, 0);
    unix_end(loop);
}

/* Where the system connects at once, the call is cancelled between that and the pass that would have told the
 * protocol. */
TEST(unix_connection_cancelled_when_it_is_connected, "CONN-17 UCON-04") {
    aioloop *loop = unix_begin();
    test_peer served = AIOLOOP_ZERO;
    test_peer client = AIOLOOP_ZERO;
    aioloop_server *server;
    aioloop_future *f;
    int before;
    CHECK_EQ(unix_serve(loop, &served, unix_path("s"), NULL, &server), 1);
    test_spin(loop, 2);
    before = unix_open_fds();
    f = aioloop_future_ref(aioloop_create_unix_connection(loop, &test_protocol, &client, unix_path("s"), NULL));
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK(aioloop_future_cancelled(f));
    CHECK_LE(unix_open_fds(), before + (strcmp(aioloop_backend_name(loop), "io_uring") == 0)); /* which accepts by itself */
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_ECANCELED);
    test_spin(loop, 12);
    CHECK_EQ(client.made, 0);
    if (served.made != 0) {
        test_run_until(loop, &served.lost, 1, "the server's loss");
        test_peer_drop(&served);
    }
    aioloop_future_unref(f);
    unix_end_server(server);
    unix_end(loop);
}

/* ---- serving ---- */

TEST(unix_server_refuses_what_contradicts_itself, "USRV-04") {
    aioloop *loop = unix_begin();
    aioloop_unix_server_options zero = AIOLOOP_ZERO;
    aioloop_unix_server_options o;
    aioloop_socket pair[2];
    char longest[109];
    test_socketpair(loop, pair);
    o = zero;
    o.sock = &pair[0];
    unix_server_fails(loop, unix_path("s"), &o, AIOLOOP_EINVAL);
    o.path_size = 1;
    unix_server_fails(loop, NULL, &o, AIOLOOP_EINVAL);
    CHECK_STR(aioloop_error_message(aioloop_last_error(loop)), "a path excludes a socket");
    unix_server_fails(loop, NULL, NULL, AIOLOOP_EINVAL);
    unix_server_fails(loop, NULL, &zero, AIOLOOP_EINVAL);
    unix_server_fails(loop, "", NULL, AIOLOOP_EINVAL);
    memset(longest, 'x', sizeof(longest));
    longest[0] = '/';
    longest[108] = '\0';
    unix_server_fails(loop, longest, NULL, AIOLOOP_ENAMETOOLONG);
    o = zero;
    o.backlog = -1;
    unix_server_fails(loop, unix_path("s"), &o, AIOLOOP_EINVAL);
    o = zero;
    o.timeout = -1;
    unix_server_fails(loop, unix_path("s"), &o, AIOLOOP_EINVAL);
    o = zero;
    o.ssl_handshake_timeout = 1;
    unix_server_fails(loop, unix_path("s"), &o, AIOLOOP_EINVAL);
    o = zero;
    o.ssl_shutdown_timeout = 1;
    unix_server_fails(loop, unix_path("s"), &o, AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_unix_server(loop, NULL, NULL, unix_path("s"), NULL), NULL),
             AIOLOOP_EINVAL);
    if (!test_simulated(loop))
        CHECK(!unix_exists("s")); /* nothing was bound */
    test_close_socket(loop, pair[0]);
    test_close_socket(loop, pair[1]);
    unix_end(loop);
}

/* Also one that another server still listens at: that one goes on, but nobody finds it any more. */
TEST(unix_server_replaces_a_socket_file, "USRV-01 USRV-03") {
    aioloop *loop = unix_begin();
    test_peer first_peer = AIOLOOP_ZERO;
    test_peer second_peer = AIOLOOP_ZERO;
    test_peer client;
    aioloop_server *first;
    aioloop_server *second;
    CHECK_EQ(unix_serve(loop, &first_peer, unix_path("s"), NULL, &first), 1);
    CHECK_EQ(unix_serve(loop, &second_peer, unix_path("s"), NULL, &second), 1);
    CHECK(aioloop_server_is_serving(first));
    CHECK_EQ(unix_dial(loop, &client, unix_path("s"), NULL), 0);
    test_run_until(loop, &second_peer.made, 1, "the new server's accept");
    CHECK_EQ(first_peer.made, 0);
    unix_hang_up(loop, &client, &second_peer);
    /* The file is the second one's: the end of the first leaves it alone. */
    unix_end_server(first);
    CHECK_EQ(unix_dial(loop, &client, unix_path("s"), NULL), 0);
    test_run_until(loop, &second_peer.made, 1, "the new server's accept");
    unix_hang_up(loop, &client, &second_peer);
    unix_end_server(second);
    unix_fails(loop, unix_path("s"), NULL, AIOLOOP_ENOENT); /* and its own end removes it */
    unix_end(loop);
}

TEST_WITH(unix_server_leaves_other_files_alone, "USRV-01", TEST_REAL_FDS) {
    aioloop *loop = unix_begin();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_future *f;
    int fd;
    int before;
    unix_needs_files(loop);
    fd = test_keep_socket(open(unix_path("plain"), O_CREAT | O_WRONLY, 0600));
    CHECK(write(fd, "dear", 4) == 4);
    test_close_socket(loop, fd);
    before = unix_open_fds();
    f = aioloop_future_ref(aioloop_create_unix_server(loop, &test_protocol, &peer, unix_path("plain"), NULL));
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_EADDRINUSE);
    CHECK(strstr(aioloop_error_message(aioloop_future_error(f)), unix_path("plain")) != NULL);
    aioloop_future_unref(f);
    CHECK_EQ(unix_open_fds(), before);
    CHECK(unix_exists("plain"));
    unix_server_fails(loop, unix_path("no/such"), NULL, AIOLOOP_ENOENT);
    unix_server_fails(loop, unix_directory, NULL, AIOLOOP_EADDRINUSE);
    unix_end(loop);
}

TEST(unix_server_removes_its_file, "USRV-02") {
    aioloop *loop = unix_begin();
    test_peer peer = AIOLOOP_ZERO;
    test_peer client;
    aioloop_server *server;
    int round;
    for (round = 0; round < 2; round++) {
        aioloop_address address;
        aioloop_address wanted;
        CHECK_EQ(unix_serve(loop, &peer, unix_path("s"), NULL, &server), 1);
        CHECK_EQ(aioloop_server_socket(server, 0, NULL, &address), 0);
        CHECK_EQ(aioloop_address_unix(&wanted, unix_path("s"), 0), 0);
        CHECK(aioloop_address_equal(&address, &wanted));
        if (!test_simulated(loop))
            CHECK(unix_exists("s"));
        CHECK_EQ(unix_dial(loop, &client, unix_path("s"), NULL), 0);
        test_run_until(loop, &peer.made, 1, "the accept");
        aioloop_server_close(server);
        if (!test_simulated(loop))
            CHECK(!unix_exists("s")); /* at once, although a connection lives on */
        unix_fails(loop, unix_path("s"), NULL, AIOLOOP_ENOENT);
        CHECK_EQ(peer.lost, 0);
        unix_hang_up(loop, &client, &peer);
        aioloop_server_unref(server);
    }
    unix_end(loop);
}

/* A server that ends with its loop. */
TEST_WITH(unix_server_removes_its_file_when_the_loop_is_closed, "USRV-02", TEST_REAL_FDS) {
    aioloop *loop = unix_begin();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_server *server;
    unix_needs_files(loop);
    CHECK_EQ(unix_serve(loop, &peer, unix_path("s"), NULL, &server), 1);
    aioloop_server_unref(server);
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK(!unix_exists("s"));
    unix_end(loop);
}

static int unix_raw_bound(const char *path) {
    struct sockaddr_un name;
    int s = test_keep_socket(socket(AF_UNIX, SOCK_STREAM, 0));
    memset(&name, 0, sizeof(name));
    name.sun_family = AF_UNIX;
    snprintf(name.sun_path, sizeof(name.sun_path), "%s", path);
    CHECK(bind(s, (const struct sockaddr *)&name, (socklen_t)sizeof(name)) == 0);
    return s;
}

TEST_WITH(unix_server_removes_the_file_of_a_given_socket, "USRV-02 USRV-03", TEST_REAL_FDS) {
    aioloop *loop = unix_begin();
    test_peer peer = AIOLOOP_ZERO;
    test_peer client;
    aioloop_unix_server_options options = AIOLOOP_ZERO;
    aioloop_server *server;
    aioloop_socket sock;
    unix_needs_files(loop);
    options.sock = &sock;
    sock = unix_raw_bound(unix_path("s"));
    CHECK_EQ(unix_serve(loop, &peer, NULL, &options, &server), 1);
    test_forget_socket(sock);
    CHECK(fcntl(sock, F_GETFL) & O_NONBLOCK);
    CHECK_EQ(unix_dial(loop, &client, unix_path("s"), NULL), 0);
    test_run_until(loop, &peer.made, 1, "the accept");
    unix_hang_up(loop, &client, &peer);
    unix_end_server(server);
    CHECK_EQ(fcntl(sock, F_GETFD), -1);
    CHECK(!unix_exists("s"));
    /* Unless that is switched off. */
    sock = unix_raw_bound(unix_path("s"));
    options.no_cleanup_socket = true;
    CHECK_EQ(unix_serve(loop, &peer, NULL, &options, &server), 1);
    test_forget_socket(sock);
    unix_end_server(server);
    CHECK(unix_exists("s"));
    unix_end(loop);
}

TEST_WITH(unix_server_leaves_the_file_when_it_is_not_its_own, "USRV-03", TEST_REAL_FDS) {
    aioloop *loop = unix_begin();
    test_peer peer = AIOLOOP_ZERO;
    aioloop_unix_server_options options = AIOLOOP_ZERO;
    aioloop_server *server;
    int other;
    unix_needs_files(loop);
    /* Switched off. */
    options.no_cleanup_socket = true;
    CHECK_EQ(unix_serve(loop, &peer, unix_path("s"), &options, &server), 1);
    unix_end_server(server);
    CHECK(unix_exists("s"));
    /* Gone already. */
    CHECK_EQ(unix_serve(loop, &peer, unix_path("s"), NULL, &server), 1);
    CHECK(unlink(unix_path("s")) == 0);
    unix_end_server(server);
    /* Replaced by another socket. */
    CHECK_EQ(unix_serve(loop, &peer, unix_path("s"), NULL, &server), 1);
    CHECK(rename(unix_path("s"), unix_path("moved")) == 0);
    other = unix_raw_bound(unix_path("s"));
    unix_end_server(server);
    CHECK(unix_exists("s"));
    CHECK(unix_exists("moved"));
    test_close_socket(loop, other);
    /* Replaced by something that is no socket. */
    CHECK_EQ(unix_serve(loop, &peer, unix_path("s"), NULL, &server), 1);
    CHECK(unlink(unix_path("s")) == 0);
    other = test_keep_socket(open(unix_path("s"), O_CREAT | O_WRONLY, 0600));
    test_close_socket(loop, other);
    unix_end_server(server);
    CHECK(unix_exists("s"));
    CHECK_EQ(test_reports(), 0);
    unix_end(loop);
}

TEST(unix_server_may_be_deferred, "USRV-01 SRV-16") {
    aioloop *loop = unix_begin();
    test_peer peer = AIOLOOP_ZERO;
    test_peer client;
    aioloop_unix_server_options options = AIOLOOP_ZERO;
    aioloop_server *server;
    options.defer_serving = true;
    CHECK_EQ(unix_serve(loop, &peer, unix_path("s"), &options, &server), 1);
    CHECK(!aioloop_server_is_serving(server));
    unix_fails(loop, unix_path("s"), NULL, AIOLOOP_ECONNREFUSED);
    CHECK_EQ(aioloop_server_start_serving(server), 0);
    CHECK_EQ(unix_dial(loop, &client, unix_path("s"), NULL), 0);
    test_run_until(loop, &peer.made, 1, "the accept");
    unix_hang_up(loop, &client, &peer);
    unix_end_server(server);
    unix_end(loop);
}
