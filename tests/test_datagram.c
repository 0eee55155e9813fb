/*
 * test_datagram.c - datagram endpoints: how they are opened, what they carry, what becomes of errors, of a full socket
 * and of the end.
 */
#include "awaits.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>
#include <sys/stat.h>
#include <unistd.h>

#define DATAGRAM_LARGEST 65507u /* of IPv4: 65,535 without the headers */

/* ---- a protocol that remembers ---- */

/* One letter a call: m connection_made, d datagram_received, x error_received, p pause_writing, r resume_writing, l
 * connection_lost. */
typedef struct datagram_peer {
    aioloop_transport *transport; /* from connection_made on; a reference until datagram_drop */
    char calls[600];
    char text[4096]; /* the datagrams, each in brackets, as far as there is room */
    size_t last_size;
    unsigned last_sum;
    aioloop_peer from; /* of the last one */
    size_t bytes;
    int made, count, errors, paused, resumed, lost;
    int disorder; /* what went wrong in there, where nothing may jump out of the library */
    int error;      /* the last of error_received */
    int lost_error; /* connection_lost's */
    int raise;      /* the code that datagram_received raises; 0: none */
    bool echo;
    void (*on_made)(struct datagram_peer *peer);
    void (*on_datagram)(struct datagram_peer *peer);
    void (*on_error)(struct datagram_peer *peer);
    void (*on_resume)(struct datagram_peer *peer);
    struct datagram_peer *other;
} datagram_peer;

static void datagram_note(datagram_peer *peer, char call) {
    size_t n = strlen(peer->calls);
    if (n + 1 < sizeof(peer->calls)) {
        peer->calls[n] = call;
        peer->calls[n + 1] = '\0';
    }
}

static void datagram_made(aioloop_transport *transport, void *self) {
    datagram_peer *peer = (datagram_peer *)self;
    datagram_note(peer, 'm');
    peer->transport = aioloop_transport_ref(transport);
    peer->made++;
    if (peer->on_made != NULL)
        peer->on_made(peer);
}

static unsigned datagram_sum(const void *data, size_t size) {
    const unsigned char *bytes = (const unsigned char *)data;
    unsigned sum = 1;
    size_t i;
    for (i = 0; i < size; i++)
        sum = sum * 31 + bytes[i];
    return sum;
}

static void datagram_received(aioloop_transport *transport, void *self, const void *data, size_t size,
                              const aioloop_address *from) {
    datagram_peer *peer = (datagram_peer *)self;
    size_t length = strlen(peer->text);
    datagram_note(peer, 'd');
    peer->count++;
    peer->bytes += size;
    peer->last_size = size;
    peer->last_sum = datagram_sum(data, size);
    if (data == NULL)
        peer->disorder++;
    peer->from.address = *from;
    if (from->family == AIOLOOP_UNIX) {
        memcpy(peer->from.path, from->u.path, from->path_size);
        peer->from.address.u.path = peer->from.path;
    }
    if (size < 64)
        snprintf(peer->text + length, sizeof(peer->text) - length, "[%.*s]", (int)size, (const char *)data);
    if (peer->echo && aioloop_transport_sendto(transport, data, size, from) != 0)
        peer->disorder++;
    if (peer->on_datagram != NULL)
        peer->on_datagram(peer);
    if (peer->raise != 0)
        aioloop_raise(aioloop_transport_get_loop(transport), peer->raise, "not this one");
}

static void datagram_error(aioloop_transport *transport, void *self, int error) {
    datagram_peer *peer = (datagram_peer *)self;
    (void)transport;
    datagram_note(peer, 'x');
    peer->errors++;
    peer->error = error;
    if (peer->on_error != NULL)
        peer->on_error(peer);
}

static void datagram_lost(aioloop_transport *transport, void *self, int error) {
    datagram_peer *peer = (datagram_peer *)self;
    (void)transport;
    datagram_note(peer, 'l');
    peer->lost++;
    peer->lost_error = error;
}

static void datagram_pause(aioloop_transport *transport, void *self) {
    datagram_peer *peer = (datagram_peer *)self;
    (void)transport;
    datagram_note(peer, 'p');
    peer->paused++;
}

static void datagram_resume(aioloop_transport *transport, void *self) {
    datagram_peer *peer = (datagram_peer *)self;
    (void)transport;
    datagram_note(peer, 'r');
    peer->resumed++;
    if (peer->on_resume != NULL)
        peer->on_resume(peer);
}

static const aioloop_protocol datagram_protocol = {
    0,    NULL, datagram_made,     NULL,          NULL, datagram_lost, datagram_pause, datagram_resume,
    NULL, NULL, datagram_received, datagram_error};

static void datagram_drop(datagram_peer *peer) {
    aioloop_transport_unref(peer->transport);
    peer->transport = NULL;
}

/* ---- endpoints ---- */

static int64_t datagram_try(aioloop *loop, datagram_peer *peer, const aioloop_datagram_endpoint_options *options) {
    return aioloop_run_until_complete(loop, aioloop_create_datagram_endpoint(loop, &datagram_protocol, peer, options), NULL);
}

static void datagram_open(aioloop *loop, datagram_peer *peer, const aioloop_datagram_endpoint_options *options) {
    int64_t rc;
    memset(peer, 0, sizeof(*peer));
    rc = datagram_try(loop, peer, options);
    CHECK_EQ(rc, 0);
    CHECK_EQ(peer->made, 1);
}

static const aioloop_address *datagram_name(const datagram_peer *peer) {
    const void *name = aioloop_transport_get_extra_info(peer->transport, "sockname", NULL);
    CHECK(name != NULL);
    return (const aioloop_address *)name;
}

static aioloop_socket datagram_socket(const datagram_peer *peer) {
    const void *s = aioloop_transport_get_extra_info(peer->transport, "socket", NULL);
    CHECK(s != NULL);
    return *(const aioloop_socket *)s;
}

/* Bound to a free port of the loopback. */
static void datagram_bind(aioloop *loop, datagram_peer *peer) {
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    options.local_host = "127.0.0.1";
    datagram_open(loop, peer, &options);
    CHECK_NE(datagram_name(peer)->port, 0);
}

/* Connected to another one. */
static void datagram_connect(aioloop *loop, datagram_peer *peer, const datagram_peer *to) {
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    options.remote_host = "127.0.0.1";
    options.remote_port = datagram_name(to)->port;
    datagram_open(loop, peer, &options);
}

static void datagram_end(aioloop *loop, datagram_peer *peer) {
    size_t n;
    aioloop_transport_abort(peer->transport);
    test_run_until(loop, &peer->lost, 1, "the loss");
    test_spin(loop, 5);
    CHECK_EQ(peer->made, 1);
    CHECK_EQ(peer->lost, 1);
    CHECK_EQ(peer->disorder, 0);
    n = strlen(peer->calls);
    if (n + 1 < sizeof(peer->calls))
        CHECK_EQ(peer->calls[n - 1], 'l');
    datagram_drop(peer);
}

static void datagram_send(datagram_peer *peer, const char *text, const aioloop_address *to) {
    CHECK_EQ(aioloop_transport_sendto(peer->transport, text, strlen(text), to), 0);
}

/* Until all has gone; how that went is told late by some engines. */
static void datagram_wait_sent(aioloop *loop, const datagram_peer *peer) {
    int passes = 0;
    while (aioloop_transport_get_write_buffer_size(peer->transport) != 0) {
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(50)), 0);
        CHECK_LT(passes++, 1000);
    }
}

/* ---- a directory for Unix sockets ---- */

static char datagram_directory[80];
static void (*datagram_other_hook)(void);
static const char *const datagram_files[] = {"a", "b", "plain"};

/* A path that stays as it is until the second next call. */
static const char *datagram_path(const char *name) {
    static char paths[4][108];
    static int next;
    char *path = paths[next++ & 3];
    snprintf(path, sizeof(paths[0]), "%s/%s", datagram_directory, name);
    return path;
}

static void datagram_remove_directory(void) {
    size_t i;
    if (datagram_directory[0] == '\0')
        return;
    for (i = 0; i < sizeof(datagram_files) / sizeof(datagram_files[0]); i++)
        unlink(datagram_path(datagram_files[i]));
    rmdir(datagram_directory);
    datagram_directory[0] = '\0';
}

static void datagram_clean_up(void) {
    if (datagram_other_hook != NULL)
        datagram_other_hook();
    datagram_remove_directory();
}

/* A loop, the last that the test makes, and a fresh directory. */
static aioloop *datagram_begin_files(void) {
    aioloop *loop = test_loop();
    const char *place = getenv("TMPDIR");
    if (place == NULL || place[0] == '\0' || strlen(place) > 40)
        place = "/tmp";
    snprintf(datagram_directory, sizeof(datagram_directory), "%s/aioloop-XXXXXX", place);
    if (test_simulated(loop))
        return loop;
    if (mkdtemp(datagram_directory) == NULL) {
        datagram_directory[0] = '\0';
        FAIL("no directory: errno %d", errno);
    }
    datagram_other_hook = test_cleanup_hook;
    test_cleanup_hook = datagram_clean_up;
    return loop;
}

static void datagram_end_files(aioloop *loop) {
    bool simulated = test_simulated(loop);
    test_end(loop);
    if (!simulated)
        datagram_remove_directory();
}

/* Two Unix endpoints; b is connected to a, and waits when a has no room. */
static void datagram_unix_pair(aioloop *loop, datagram_peer *a, datagram_peer *b) {
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    options.local_path = datagram_path("a");
    datagram_open(loop, a, &options);
    options.remote_path = options.local_path;
    options.local_path = datagram_path("b");
    datagram_open(loop, b, &options);
}

/* Sends numbers from `from` on until one has to wait, and returns the next. */
static int datagram_fill(datagram_peer *peer, int from) {
    char text[16];
    while (aioloop_transport_get_write_buffer_size(peer->transport) == 0) {
        snprintf(text, sizeof(text), "%d", from++);
        datagram_send(peer, text, NULL);
        CHECK_LT(from, 100000);
    }
    return from;
}

/* Sees whether a number follows the one before. */
static void datagram_in_order(datagram_peer *peer) {
    char wanted[16];
    snprintf(wanted, sizeof(wanted), "[%d]", peer->count - 1);
    if (strcmp(peer->text, wanted) != 0)
        peer->disorder++;
    peer->text[0] = '\0';
}

/* ---- opening ---- */

TEST(datagram_bound_endpoint_has_a_name_and_no_peer, "DGR-01") {
    aioloop *loop = test_loop();
    datagram_peer a;
    datagram_bind(loop, &a);
    CHECK_EQ(datagram_name(&a)->family, AIOLOOP_INET);
    CHECK_PTR(aioloop_transport_get_extra_info(a.transport, "peername", NULL), NULL);
    CHECK(!aioloop_transport_is_closing(a.transport));
    CHECK(aioloop_transport_is_reading(a.transport));
    CHECK_STR(a.calls, "m");
    datagram_end(loop, &a);
    test_end(loop);
}

TEST(datagram_connected_endpoint_has_a_peer_and_hears_of_it_alone, "DGR-01") {
    aioloop *loop = test_loop();
    datagram_peer a;
    datagram_peer b;
    datagram_peer stranger;
    const aioloop_address *peer;
    datagram_bind(loop, &a);
    datagram_connect(loop, &b, &a);
    datagram_bind(loop, &stranger);
    peer = (const aioloop_address *)aioloop_transport_get_extra_info(b.transport, "peername", NULL);
    CHECK(peer != NULL && aioloop_address_equal(peer, datagram_name(&a)));
    CHECK_NE(datagram_name(&b)->port, 0);
    datagram_send(&stranger, "strange", datagram_name(&b));
    datagram_send(&a, "known", datagram_name(&b));
    test_run_until(loop, &b.count, 1, "the datagram");
    test_spin(loop, 10);
    CHECK_STR(b.text, "[known]");
    datagram_end(loop, &stranger);
    datagram_end(loop, &b);
    datagram_end(loop, &a);
    test_end(loop);
}

TEST(datagram_endpoint_is_bound_and_connected, "DGR-01") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    aioloop_address address;
    datagram_peer a;
    datagram_peer b;
    datagram_bind(loop, &a);
    options.local_host = "127.0.0.2";
    options.remote_host = "127.0.0.1";
    options.remote_port = datagram_name(&a)->port;
    datagram_open(loop, &b, &options);
    CHECK_EQ(aioloop_address_parse(&address, "127.0.0.2", datagram_name(&b)->port), 0);
    CHECK(aioloop_address_equal(datagram_name(&b), &address));
    datagram_send(&b, "hello", NULL);
    test_run_until(loop, &a.count, 1, "the datagram");
    CHECK(aioloop_address_equal(&a.from.address, &address));
    datagram_end(loop, &b);
    datagram_end(loop, &a);
    test_end(loop);
}

/* A given socket has a datagram already: connection_made comes first, and the future is done after it. */
static void datagram_given(aioloop *loop, await_style style) {
    awaiter waiter = AIOLOOP_ZERO;
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    aioloop_socket s = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_DGRAM);
    aioloop_transport *transport;
    aioloop_address address;
    aioloop_peer name;
    datagram_peer a;
    datagram_peer b;
    CHECK_EQ(aioloop_address_parse(&address, "127.0.0.1", 0), 0);
    test_bind(loop, s, &address);
    test_name(loop, s, &name);
    datagram_bind(loop, &a);
    datagram_send(&a, "early", &name.address);
    test_spin(loop, 3);
    memset(&b, 0, sizeof(b));
    options.sock = &s;
    await_begin(&waiter, loop, style, aioloop_create_datagram_endpoint(loop, &datagram_protocol, &b, &options));
    CHECK_EQ(b.made, 0); /* not from inside the call */
    CHECK_EQ(await_end(&waiter), 0);
    test_forget_socket(s);
    CHECK_EQ(b.made, 1);
    transport = (aioloop_transport *)waiter.pointer;
    CHECK_PTR(transport, b.transport);
    test_run_until(loop, &b.count, 1, "the datagram");
    CHECK_STR(b.calls, "md");
    CHECK_STR(b.text, "[early]");
    CHECK(aioloop_address_equal(&b.from.address, datagram_name(&a)));
    aioloop_transport_unref(transport);
    datagram_end(loop, &a);
    datagram_end(loop, &b);
}

TEST(datagram_made_precedes_datagrams_and_the_continuation, "DGR-01") {
    await_in_all_styles(datagram_given);
}

TEST(datagram_family_alone_makes_an_unbound_socket, "DGR-02") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    datagram_peer a;
    datagram_peer b;
    options.family = AIOLOOP_INET;
    datagram_open(loop, &b, &options);
    CHECK_EQ(datagram_name(&b)->family, AIOLOOP_INET);
    CHECK_EQ(datagram_name(&b)->port, 0);
    datagram_bind(loop, &a);
    a.echo = true;
    datagram_send(&b, "there", datagram_name(&a));
    test_run_until(loop, &b.count, 1, "the echo");
    CHECK_STR(b.text, "[there]");
    datagram_end(loop, &a);
    datagram_end(loop, &b);
    test_end(loop);
}

static void datagram_invalid(aioloop *loop, const aioloop_datagram_endpoint_options *options) {
    datagram_peer peer;
    memset(&peer, 0, sizeof(peer));
    CHECK_EQ(datagram_try(loop, &peer, options), AIOLOOP_EINVAL);
    CHECK_EQ(peer.made, 0);
    CHECK(aioloop_error_message(aioloop_last_error(loop))[0] != '\0');
}

TEST(datagram_arguments_that_make_no_sense, "DGR-02") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options o = AIOLOOP_ZERO;
    const aioloop_datagram_endpoint_options none = AIOLOOP_ZERO;
    datagram_invalid(loop, NULL);
    datagram_invalid(loop, &none);
    o.remote_host = "127.0.0.1"; /* a host without a port, */
    datagram_invalid(loop, &o);
    o = none;
    o.remote_port = 9; /* a port without a host, */
    datagram_invalid(loop, &o);
    o = none;
    o.family = AIOLOOP_INET;
    o.remote_service = "ntp";
    datagram_invalid(loop, &o);
    o.remote_host = "127.0.0.1";
    o.remote_port = 9; /* both ways to say a port, */
    datagram_invalid(loop, &o);
    o = none;
    o.local_host = "127.0.0.1";
    o.local_port = 65536;
    datagram_invalid(loop, &o);
    o.local_port = -1;
    datagram_invalid(loop, &o);
    o = none;
    o.local_host = "127.0.0.1";
    o.local_path = "x"; /* two kinds of addresses, */
    datagram_invalid(loop, &o);
    o = none;
    o.local_host = "127.0.0.1";
    o.family = AIOLOOP_UNIX;
    datagram_invalid(loop, &o);
    o = none;
    o.remote_path = "x";
    o.family = AIOLOOP_INET;
    datagram_invalid(loop, &o);
    o = none;
    o.family = AIOLOOP_UNIX;
    o.local_path_size = 3;
    datagram_invalid(loop, &o);
    o.local_path = "";
    o.local_path_size = 0;
    datagram_invalid(loop, &o);
    o = none;
    o.family = 77;
    datagram_invalid(loop, &o);
    o.family = AIOLOOP_INET;
    o.timeout = -1;
    datagram_invalid(loop, &o);
    test_end(loop);
}

TEST(datagram_without_a_loop_or_a_protocol, "") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    aioloop_future *f;
    options.family = AIOLOOP_INET;
    f = aioloop_create_datagram_endpoint(NULL, &datagram_protocol, NULL, &options);
    CHECK_EQ(aioloop_future_result(f, NULL), AIOLOOP_EINVAL);
    f = aioloop_create_datagram_endpoint(loop, NULL, NULL, &options);
    CHECK_EQ(aioloop_future_result(f, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_close(loop), 0);
    f = aioloop_create_datagram_endpoint(loop, &datagram_protocol, NULL, &options);
    CHECK_EQ(aioloop_future_result(f, NULL), AIOLOOP_ECLOSED);
    test_end(loop);
}

/* ---- pairs ---- */

/* A resolver with two answers, for "local" and for all else. */
typedef struct datagram_book {
    aioloop_addrinfo items[2][4];
    size_t count[2];
    int types; /* a bit for each type of socket that was asked for */
    bool later;
    aioloop_future *pending[2];
    int which[2]; /* of the answers is theirs */
    int pending_count;
} datagram_book;

static void datagram_answer(aioloop *loop, void *arg) {
    datagram_book *book = (datagram_book *)arg;
    (void)loop;
    while (book->pending_count > 0) {
        aioloop_future *f = book->pending[--book->pending_count];
        int which = book->which[book->pending_count];
        size_t count = book->count[which];
        aioloop_addrinfo *list;
        if (f == NULL)
            continue;
        list = count == 0 ? NULL : aioloop_addrinfo_copy(book->items[which], count);
        if (list == NULL)
            aioloop_future_set_exception(f, count == 0 ? AIOLOOP_ELOOKUP : AIOLOOP_ENOMEM, "nobody of that name");
        else
            CHECK_EQ(aioloop_future_set_result(f, (int64_t)count, list, aioloop_freeaddrinfo), 0);
        aioloop_future_unref(f);
    }
}

static bool datagram_given_up(aioloop_future *future, void *owner) {
    datagram_book *book = (datagram_book *)owner;
    int i;
    for (i = 0; i < book->pending_count; i++)
        if (book->pending[i] == future)
            book->pending[i] = NULL;
    aioloop_future_unref(future);
    return true;
}

static aioloop_future *datagram_resolve(aioloop *loop, void *arg, const char *host, const char *service,
                                        const aioloop_getaddrinfo_options *options) {
    datagram_book *book = (datagram_book *)arg;
    aioloop_future *f = aioloop_create_operation(loop, datagram_given_up, book);
    (void)service;
    book->types |= 1 << options->type;
    if (aioloop_future_done(f))
        return f; /* no memory */
    CHECK_LT(book->pending_count, 2);
    book->which[book->pending_count] = host != NULL && strcmp(host, "local") == 0 ? 0 : 1;
    book->pending[book->pending_count++] = f;
    if (book->later)
        (void)aioloop_call_soon(loop, datagram_answer, book);
    else
        datagram_answer(loop, book);
    return f;
}

static void datagram_add(datagram_book *book, int which, const char *host, int port, int protocol) {
    aioloop_addrinfo *item = &book->items[which][book->count[which]++];
    CHECK_EQ(aioloop_address_parse(&item->address, host, port), 0);
    item->type = AIOLOOP_SOCK_DGRAM;
    item->protocol = protocol;
}

TEST(datagram_pairs_need_one_family, "DGR-03") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    options.local_host = "127.0.0.1";
    options.remote_host = "::1";
    options.remote_port = 9;
    datagram_invalid(loop, &options);
    test_end(loop);
}

TEST(datagram_pairs_need_one_protocol, "DGR-03") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    datagram_book book = AIOLOOP_ZERO;
    datagram_add(&book, 0, "127.0.0.1", 0, 17);
    datagram_add(&book, 1, "127.0.0.1", 9, 136);
    CHECK_EQ(aioloop_set_resolver(loop, datagram_resolve, &book), 0);
    options.local_host = "local";
    options.remote_host = "remote";
    options.remote_port = 9;
    datagram_invalid(loop, &options);
    CHECK_EQ(book.types, 1 << AIOLOOP_SOCK_DGRAM);
    test_end(loop);
}

/* Candidates without a partner are passed over; a number has the usual protocol. */
static void datagram_pairs(aioloop *loop, await_style style) {
    awaiter waiter = AIOLOOP_ZERO;
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    datagram_book book = AIOLOOP_ZERO;
    datagram_peer a;
    datagram_peer b;
    datagram_bind(loop, &a);
    datagram_add(&book, 0, "127.0.0.1", 0, 136);
    datagram_add(&book, 0, "::1", 0, 17);
    datagram_add(&book, 0, "127.0.0.2", 0, 17);
    book.later = true;
    CHECK_EQ(aioloop_set_resolver(loop, datagram_resolve, &book), 0);
    memset(&b, 0, sizeof(b));
    options.local_host = "local";
    options.remote_host = "127.0.0.1";
    options.remote_port = datagram_name(&a)->port;
    CHECK_EQ(await_now(&waiter, loop, style, aioloop_create_datagram_endpoint(loop, &datagram_protocol, &b, &options)), 0);
    aioloop_transport_unref((aioloop_transport *)waiter.pointer);
    CHECK_EQ(datagram_name(&b)->u.ip[3], 2);
    datagram_end(loop, &b);
    datagram_end(loop, &a);
}

TEST(datagram_pairs_are_found_among_candidates, "DGR-03") {
    await_in_all_styles(datagram_pairs);
}

TEST(datagram_pairs_are_tried_in_order, "DGR-04") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    datagram_book book = AIOLOOP_ZERO;
    datagram_peer taken;
    datagram_peer b;
    datagram_bind(loop, &taken);
    datagram_add(&book, 0, "127.0.0.1", datagram_name(&taken)->port, 17);
    datagram_add(&book, 0, "127.0.0.2", 0, 17);
    datagram_add(&book, 0, "127.0.0.3", 0, 17);
    CHECK_EQ(aioloop_set_resolver(loop, datagram_resolve, &book), 0);
    options.local_host = "local";
    datagram_open(loop, &b, &options);
    CHECK_EQ(datagram_name(&b)->u.ip[3], 2);
    datagram_end(loop, &b);
    datagram_end(loop, &taken);
    test_end(loop);
}

TEST(datagram_first_error_counts_and_nothing_stays_open, "DGR-04") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    datagram_book book = AIOLOOP_ZERO;
    datagram_peer taken;
    datagram_peer b;
    const aioloop_error *error;
    char wanted[60];
    datagram_bind(loop, &taken);
    datagram_add(&book, 0, "127.0.0.1", datagram_name(&taken)->port, 17);
    datagram_add(&book, 0, "192.0.2.1", 0, 17); /* of no host */
    CHECK_EQ(aioloop_set_resolver(loop, datagram_resolve, &book), 0);
    options.local_host = "local";
    memset(&b, 0, sizeof(b));
    CHECK_EQ(datagram_try(loop, &b, &options), AIOLOOP_EADDRINUSE);
    error = aioloop_last_error(loop);
    snprintf(wanted, sizeof(wanted), "bind to 127.0.0.1:%d", datagram_name(&taken)->port);
    CHECK(strstr(aioloop_error_message(error), wanted) != NULL);
    CHECK_EQ(b.made, 0);
    datagram_end(loop, &taken);
    test_end(loop); /* the runner counts descriptors */
}

TEST(datagram_failed_lookup_is_the_error, "") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    datagram_book book = AIOLOOP_ZERO;
    datagram_peer b;
    memset(&b, 0, sizeof(b));
    datagram_add(&book, 0, "127.0.0.1", 0, 17);
    book.later = true;
    CHECK_EQ(aioloop_set_resolver(loop, datagram_resolve, &book), 0);
    options.local_host = "local";
    options.remote_host = "nobody";
    options.remote_service = "ntp";
    CHECK_EQ(datagram_try(loop, &b, &options), AIOLOOP_ELOOKUP);
    CHECK(strstr(aioloop_error_message(aioloop_last_error(loop)), "nobody of that name") != NULL);
    test_end(loop);
}

/* Cancelled or too late in the look-up, or when the socket is there: it is closed, and nobody is called. */
TEST(datagram_opening_is_given_up, "") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    datagram_book book = AIOLOOP_ZERO;
    aioloop_future *f;
    datagram_peer b;
    memset(&b, 0, sizeof(b));
    datagram_add(&book, 0, "127.0.0.1", 0, 17);
    book.later = true;
    CHECK_EQ(aioloop_set_resolver(loop, datagram_resolve, &book), 0);
    options.local_host = "local";
    f = aioloop_future_ref(aioloop_create_datagram_endpoint(loop, &datagram_protocol, &b, &options));
    CHECK_EQ(aioloop_future_cancel(f, NULL), 1);
    test_spin(loop, 3);
    CHECK(aioloop_future_cancelled(f));
    aioloop_future_unref(f);
    options.local_host = "127.0.0.1";
    f = aioloop_future_ref(aioloop_create_datagram_endpoint(loop, &datagram_protocol, &b, &options));
    CHECK_EQ(aioloop_future_cancel(f, NULL), 1);
    test_spin(loop, 3);
    CHECK(aioloop_future_cancelled(f));
    aioloop_future_unref(f);
    CHECK_EQ(b.made, 0);
    test_end(loop);
}

static aioloop_future *datagram_never(aioloop *loop, void *arg, const char *host, const char *service,
                                      const aioloop_getaddrinfo_options *options) {
    (void)host;
    (void)service;
    (void)options;
    *(aioloop_future **)arg = aioloop_create_operation(loop, NULL, NULL);
    return *(aioloop_future **)arg;
}

TEST(datagram_opening_takes_too_long, "") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    aioloop_future *asked = NULL;
    datagram_peer b;
    memset(&b, 0, sizeof(b));
    CHECK_EQ(aioloop_set_resolver(loop, datagram_never, &asked), 0);
    options.local_host = "local";
    options.timeout = AIOLOOP_MS(2);
    CHECK_EQ(datagram_try(loop, &b, &options), AIOLOOP_ETIMEDOUT);
    aioloop_future_unref(asked);
    CHECK_EQ(b.made, 0);
    test_end(loop);
}

/* ---- given sockets ---- */

TEST(datagram_given_socket_excludes_everything_else, "DGR-05") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options o = AIOLOOP_ZERO;
    aioloop_socket s = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_DGRAM);
    aioloop_datagram_endpoint_options none = AIOLOOP_ZERO;
    static const char *const names[] = {"local_host", "local_port",  "remote_host", "remote_port", "remote_service", "local_path",
                                        "remote_path", "family",     "protocol",    "flags",       "reuse_port",     "allow_broadcast"};
    const int n = (int)(sizeof(names) / sizeof(names[0]));
    aioloop_datagram_endpoint_options tries[sizeof(names) / sizeof(names[0])];
    datagram_peer peer;
    int i;
    none.sock = &s;
    for (i = 0; i < n; i++)
        tries[i] = none;
    tries[0].local_host = "127.0.0.1";
    tries[1].local_port = 9;
    tries[2].remote_host = "127.0.0.1";
    tries[3].remote_port = 9;
    tries[4].remote_service = "ntp";
    tries[5].local_path = "x";
    tries[6].remote_path = "x";
    tries[7].family = AIOLOOP_INET;
    tries[8].protocol = 17;
    tries[9].flags = AIOLOOP_AI_PASSIVE;
    tries[10].reuse_port = true;
    tries[11].allow_broadcast = true;
    memset(&peer, 0, sizeof(peer));
    for (i = 0; i < n; i++) {
        CHECK_EQ(datagram_try(loop, &peer, &tries[i]), AIOLOOP_EINVAL);
        CHECK(strstr(aioloop_error_message(aioloop_last_error(loop)), names[i]) != NULL);
    }
    o = none;
    o.reuse_port = true;
    o.remote_host = "127.0.0.1";
    CHECK_EQ(datagram_try(loop, &peer, &o), AIOLOOP_EINVAL);
    CHECK(strstr(aioloop_error_message(aioloop_last_error(loop)), "remote_host, reuse_port") != NULL);
    CHECK_EQ(peer.made, 0);
    test_close_socket(loop, s);
    test_end(loop);
}

TEST(datagram_given_socket_must_be_of_datagrams, "DGR-05") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    aioloop_socket s = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_STREAM);
    datagram_peer peer;
    options.sock = &s;
    datagram_invalid(loop, &options);
    CHECK(strstr(aioloop_error_message(aioloop_last_error(loop)), "not a datagram socket") != NULL);
    test_close_socket(loop, s);
    memset(&peer, 0, sizeof(peer));
    CHECK_EQ(datagram_try(loop, &peer, &options), AIOLOOP_EBADF);
    test_end(loop);
}

TEST(datagram_given_socket_that_a_transport_has, "") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    aioloop_socket s;
    datagram_peer a;
    datagram_peer b;
    datagram_bind(loop, &a);
    s = datagram_socket(&a);
    options.sock = &s;
    memset(&b, 0, sizeof(b));
    CHECK_EQ(datagram_try(loop, &b, &options), AIOLOOP_EMISUSE);
    datagram_end(loop, &a);
    test_end(loop);
}

/* Its peer is the remote address. */
TEST(datagram_given_socket_that_is_connected, "DGR-05 DTR-03") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    aioloop_socket s = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_DGRAM);
    datagram_peer a;
    datagram_peer b;
    datagram_bind(loop, &a);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_sock_connect_address(loop, s, datagram_name(&a)), NULL), 0);
    options.sock = &s;
    datagram_open(loop, &b, &options);
    test_forget_socket(s);
    datagram_send(&b, "x", NULL);
    datagram_send(&b, "y", datagram_name(&a));
    CHECK_EQ(aioloop_transport_sendto(b.transport, "z", 1, datagram_name(&b)), AIOLOOP_EINVAL);
    test_run_until(loop, &a.count, 2, "both");
    CHECK_STR(a.text, "[x][y]");
    datagram_end(loop, &a);
    datagram_end(loop, &b);
    test_end(loop);
}

/* ---- options of the socket ---- */

static int datagram_option(const datagram_peer *peer, int option) {
    int value = -1;
    socklen_t size = (socklen_t)sizeof(value);
    CHECK(getsockopt(datagram_socket(peer), SOL_SOCKET, option, &value, &size) == 0);
    return value != 0;
}

TEST_WITH(datagram_addresses_and_ports_are_not_shared, "DGR-06 DGR-07", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    datagram_peer a;
    test_needs_real_descriptors(loop);
    datagram_bind(loop, &a);
    CHECK_EQ(datagram_option(&a, SO_REUSEADDR), 0);
    CHECK_EQ(datagram_option(&a, SO_REUSEPORT), 0);
    CHECK_EQ(datagram_option(&a, SO_BROADCAST), 0);
    datagram_end(loop, &a);
    test_end(loop);
}

TEST(datagram_ports_are_shared_if_asked_for, "DGR-07") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    datagram_peer a;
    datagram_peer b;
    options.local_host = "127.0.0.1";
    options.reuse_port = true;
    datagram_open(loop, &a, &options);
    options.local_port = datagram_name(&a)->port;
    datagram_open(loop, &b, &options);
    CHECK_EQ(datagram_name(&b)->port, datagram_name(&a)->port);
    if (!test_simulated(loop)) {
        CHECK_EQ(datagram_option(&a, SO_REUSEPORT), 1);
        CHECK_EQ(datagram_option(&a, SO_REUSEADDR), 0);
    }
    options.reuse_port = false;
    {
        datagram_peer c;
        memset(&c, 0, sizeof(c));
        CHECK_EQ(datagram_try(loop, &c, &options), AIOLOOP_EADDRINUSE);
    }
    datagram_end(loop, &a);
    datagram_end(loop, &b);
    test_end(loop);
}

/* As on a system that has no such option. */
TEST_WITH(datagram_ports_that_cannot_be_shared, "DGR-07", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    test_needs_real_descriptors(loop);
    options.local_host = "127.0.0.1";
    options.reuse_port = true;
    test_fail_calls("setsockopt", ENOPROTOOPT);
    datagram_invalid(loop, &options);
    test_fail_calls(NULL, 0);
    test_end(loop);
}

TEST(datagram_broadcast_is_not_connected_but_has_one_destination, "DGR-08") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    datagram_peer a;
    datagram_peer b;
    datagram_peer stranger;
    aioloop_address b_name;
    datagram_bind(loop, &a);
    datagram_bind(loop, &stranger);
    options.remote_host = "127.0.0.1";
    options.remote_port = datagram_name(&a)->port;
    options.local_host = "127.0.0.1";
    options.allow_broadcast = true;
    datagram_open(loop, &b, &options);
    if (!test_simulated(loop))
        CHECK_EQ(datagram_option(&b, SO_BROADCAST), 1);
    CHECK_PTR(aioloop_transport_get_extra_info(b.transport, "peername", NULL), NULL);
    b_name = *datagram_name(&b);
    datagram_send(&b, "1", NULL);
    datagram_send(&b, "2", datagram_name(&a));
    CHECK_EQ(aioloop_transport_sendto(b.transport, "3", 1, datagram_name(&stranger)), AIOLOOP_EINVAL);
    test_run_until(loop, &a.count, 2, "both");
    CHECK_STR(a.text, "[1][2]");
    datagram_send(&stranger, "from elsewhere", &b_name);
    test_run_until(loop, &b.count, 1, "the stranger's");
    CHECK_STR(b.text, "[from elsewhere]");
    datagram_end(loop, &a);
    datagram_end(loop, &b);
    datagram_end(loop, &stranger);
    test_end(loop);
}

/* ---- Unix ---- */

TEST(datagram_unix_endpoints_have_paths, "DGR-09 DTR-01") {
    aioloop *loop = datagram_begin_files();
    datagram_peer a;
    datagram_peer b;
    aioloop_address path;
    datagram_unix_pair(loop, &a, &b);
    CHECK_EQ(datagram_name(&a)->family, AIOLOOP_UNIX);
    CHECK_EQ(aioloop_address_unix(&path, datagram_path("a"), 0), 0);
    CHECK(aioloop_address_equal(datagram_name(&a), &path));
    CHECK(aioloop_address_equal((const aioloop_address *)aioloop_transport_get_extra_info(b.transport, "peername", NULL),
                                &path));
    datagram_send(&b, "one", NULL);
    CHECK_EQ(aioloop_transport_sendto(b.transport, NULL, 0, NULL), 0);
    datagram_send(&b, "two", &path);
    test_run_until(loop, &a.count, 3, "all three");
    CHECK_STR(a.text, "[one][][two]");
    CHECK(aioloop_address_equal(&a.from.address, datagram_name(&b)));
    datagram_send(&a, "back", &a.from.address);
    test_run_until(loop, &b.count, 1, "the answer");
    CHECK_STR(b.text, "[back]");
    datagram_end(loop, &a);
    datagram_end(loop, &b);
    datagram_end_files(loop);
}

/* One without a name has no address to answer to. */
TEST(datagram_unix_sender_without_a_name, "DTR-01") {
    aioloop *loop = datagram_begin_files();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    datagram_peer a;
    datagram_peer b;
    options.local_path = datagram_path("a");
    datagram_open(loop, &a, &options);
    options.local_path = NULL;
    options.remote_path = datagram_path("a");
    datagram_open(loop, &b, &options);
    datagram_send(&b, "who?", NULL);
    test_run_until(loop, &a.count, 1, "the datagram");
    CHECK_EQ(a.from.address.family, AIOLOOP_UNSPEC);
    datagram_end(loop, &a);
    datagram_end(loop, &b);
    datagram_end_files(loop);
}

TEST(datagram_unix_socket_file_in_the_way_is_replaced, "DGR-09") {
    aioloop *loop = datagram_begin_files();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    datagram_peer a;
    int i;
    options.local_path = datagram_path("a");
    for (i = 0; i < 2; i++) { /* the file of the first is there yet */
        datagram_open(loop, &a, &options);
        datagram_end(loop, &a);
    }
    datagram_end_files(loop);
}

TEST_WITH(datagram_unix_other_file_in_the_way_stays, "DGR-09", TEST_REAL_FDS) {
    aioloop *loop = datagram_begin_files();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    struct stat st;
    datagram_peer a;
    int file;
    if (test_simulated(loop)) {
        datagram_end_files(loop);
        SKIP("needs files of the system");
    }
    options.local_path = datagram_path("plain");
    file = open(options.local_path, O_CREAT | O_WRONLY, 0600);
    CHECK(file >= 0);
    close(file);
    memset(&a, 0, sizeof(a));
    CHECK_EQ(datagram_try(loop, &a, &options), AIOLOOP_EADDRINUSE);
    CHECK(lstat(options.local_path, &st) == 0 && S_ISREG(st.st_mode));
    datagram_end_files(loop);
}

/* When it cannot be connected, its own file goes again. */
TEST(datagram_unix_remote_that_is_not_there, "DGR-04") {
    aioloop *loop = datagram_begin_files();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    struct stat st;
    datagram_peer a;
    memset(&a, 0, sizeof(a));
    options.local_path = datagram_path("a");
    options.remote_path = datagram_path("b");
    CHECK_EQ(datagram_try(loop, &a, &options), AIOLOOP_ENOENT);
    CHECK(test_simulated(loop) || lstat(options.local_path, &st) == -1);
    datagram_end_files(loop);
}

/* Larger than any of the internet. */
TEST(datagram_unix_large_one_comes_whole, "DTR-01") {
    aioloop *loop = datagram_begin_files();
    static char bytes[100000];
    datagram_peer a;
    datagram_peer b;
    size_t i;
    for (i = 0; i < sizeof(bytes); i++)
        bytes[i] = (char)(i * 7 + i / 251);
    if (test_simulated(loop))
        CHECK_EQ(aioloop_sim_set_buffer(loop, 200000), 0);
    datagram_unix_pair(loop, &a, &b);
    CHECK_EQ(aioloop_transport_sendto(b.transport, bytes, sizeof(bytes), NULL), 0);
    test_run_until(loop, &a.count, 1, "the datagram");
    CHECK_EQ(a.last_size, sizeof(bytes));
    CHECK_EQ(a.last_sum, datagram_sum(bytes, sizeof(bytes)));
    CHECK_EQ(b.errors, 0);
    datagram_end(loop, &a);
    datagram_end(loop, &b);
    datagram_end_files(loop);
}

/* ---- what is carried ---- */

TEST(datagram_each_is_carried_whole_both_ways, "DTR-01") {
    static const size_t sizes[] = {0, 1, 64, 1472, 1473, 9000, 0, 32768, DATAGRAM_LARGEST, 3};
    static char bytes[DATAGRAM_LARGEST];
    aioloop *loop = test_loop();
    datagram_peer a;
    datagram_peer b;
    size_t i;
    for (i = 0; i < sizeof(bytes); i++)
        bytes[i] = (char)(i * 5 + i / 253);
    datagram_bind(loop, &a);
    a.echo = true;
    datagram_connect(loop, &b, &a);
    for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        CHECK_EQ(aioloop_transport_sendto(b.transport, bytes, sizes[i], NULL), 0);
        test_run_until(loop, &b.count, (int)i + 1, "the echo");
        CHECK_EQ(a.last_size, sizes[i]);
        CHECK_EQ(b.last_size, sizes[i]);
        CHECK_EQ(a.last_sum, datagram_sum(bytes, sizes[i]));
        CHECK_EQ(b.last_sum, datagram_sum(bytes, sizes[i]));
        CHECK(aioloop_address_equal(&a.from.address, datagram_name(&b)));
        CHECK(aioloop_address_equal(&b.from.address, datagram_name(&a)));
    }
    CHECK_EQ(a.errors + b.errors, 0);
    datagram_end(loop, &a);
    datagram_end(loop, &b);
    test_end(loop);
}

/* Many at once, from two senders: received in batches where the system has those. */
TEST(datagram_many_keep_boundaries_order_and_senders, "DTR-01") {
    aioloop *loop = test_loop();
    datagram_peer a;
    datagram_peer b;
    char text[16];
    int i;
    datagram_bind(loop, &a);
    datagram_connect(loop, &b, &a);
    a.on_datagram = datagram_in_order;
    for (i = 0; i < 100; i++) {
        snprintf(text, sizeof(text), "%d", i);
        datagram_send(&b, text, NULL);
    }
    test_run_until(loop, &a.count, 100, "all");
    CHECK(aioloop_address_equal(&a.from.address, datagram_name(&b)));
    datagram_end(loop, &a);
    datagram_end(loop, &b);
    test_end(loop);
}

TEST(datagram_ipv6, "DTR-01") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    datagram_peer a;
    datagram_peer b;
    if (!test_has_ipv6(loop)) {
        test_end(loop);
        SKIP("no ::1 here");
    }
    options.local_host = "::1";
    datagram_open(loop, &a, &options);
    a.echo = true;
    datagram_open(loop, &b, &options);
    datagram_send(&b, "six", datagram_name(&a));
    test_run_until(loop, &b.count, 1, "the echo");
    CHECK_STR(b.text, "[six]");
    CHECK(aioloop_address_equal(&b.from.address, datagram_name(&a)));
    datagram_end(loop, &a);
    datagram_end(loop, &b);
    test_end(loop);
}

/* Every interface of IPv4 first; a port alone means the same. */
TEST(datagram_every_interface, "DGR-01") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    aioloop_address address;
    datagram_peer a;
    datagram_peer b;
    options.local_host = "";
    datagram_open(loop, &a, &options);
    CHECK_EQ(aioloop_address_parse(&address, "0.0.0.0", datagram_name(&a)->port), 0);
    CHECK(aioloop_address_equal(datagram_name(&a), &address));
    datagram_bind(loop, &b);
    CHECK_EQ(aioloop_address_parse(&address, "127.0.0.1", address.port), 0);
    datagram_send(&b, "x", &address);
    test_run_until(loop, &a.count, 1, "the datagram");
    datagram_end(loop, &a);
    options.local_host = NULL;
    options.local_port = address.port;
    options.family = AIOLOOP_INET;
    datagram_open(loop, &a, &options);
    CHECK_EQ(datagram_name(&a)->port, address.port);
    datagram_end(loop, &a);
    datagram_end(loop, &b);
    test_end(loop);
}

/* ---- where to ---- */

TEST(datagram_remote_address_is_the_only_destination, "DTR-03") {
    aioloop *loop = test_loop();
    datagram_peer a;
    datagram_peer b;
    aioloop_address other;
    datagram_bind(loop, &a);
    datagram_connect(loop, &b, &a);
    other = *datagram_name(&a);
    other.port++;
    datagram_send(&b, "1", NULL);
    datagram_send(&b, "2", datagram_name(&a));
    CHECK_EQ(aioloop_transport_sendto(b.transport, "3", 1, &other), AIOLOOP_EINVAL);
    test_run_until(loop, &a.count, 2, "both");
    CHECK_STR(a.text, "[1][2]");
    aioloop_transport_close(b.transport);
    CHECK_EQ(aioloop_transport_sendto(b.transport, "4", 1, &other), AIOLOOP_EINVAL); /* also while closing, */
    test_run_until(loop, &b.lost, 1, "the loss");
    CHECK_EQ(aioloop_transport_sendto(b.transport, "5", 1, &other), AIOLOOP_EINVAL); /* and after it */
    datagram_end(loop, &a);
    datagram_drop(&b);
    test_end(loop);
}

TEST(datagram_without_remote_address_needs_a_destination, "DTR-04") {
    aioloop *loop = test_loop();
    aioloop_address none = AIOLOOP_ZERO;
    aioloop_address path;
    datagram_peer a;
    datagram_bind(loop, &a);
    CHECK_EQ(aioloop_transport_sendto(a.transport, "x", 1, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_transport_sendto(a.transport, "x", 1, &none), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_address_unix(&path, "x", 0), 0);
    path.path_size = 0;
    CHECK_EQ(aioloop_transport_sendto(a.transport, "x", 1, &path), AIOLOOP_EINVAL);
    path.path_size = 1000;
    CHECK_EQ(aioloop_transport_sendto(a.transport, "x", 1, &path), AIOLOOP_ENAMETOOLONG);
    CHECK_EQ(aioloop_transport_sendto(a.transport, NULL, 1, datagram_name(&a)), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_transport_sendto(NULL, "x", 1, datagram_name(&a)), AIOLOOP_EINVAL);
    test_spin(loop, 5);
    CHECK_STR(a.calls, "m"); /* it lives, and heard of nothing */
    datagram_send(&a, "to myself", datagram_name(&a));
    test_run_until(loop, &a.count, 1, "the datagram");
    datagram_end(loop, &a);
    test_end(loop);
}

/* ---- errors ---- */

/* A connected endpoint whose peer has gone. */
TEST(datagram_refused_is_told_and_it_goes_on, "DTR-05") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    datagram_peer a;
    datagram_peer b;
    datagram_bind(loop, &a);
    datagram_connect(loop, &b, &a);
    options.local_host = "127.0.0.1";
    options.local_port = datagram_name(&a)->port;
    datagram_end(loop, &a);
    datagram_send(&b, "nobody", NULL);
    test_run_until(loop, &b.errors, 1, "the error");
    CHECK_EQ(b.error, AIOLOOP_ECONNREFUSED);
    CHECK(!aioloop_transport_is_closing(b.transport));
    datagram_open(loop, &a, &options); /* somebody there again */
    a.echo = true;
    datagram_send(&b, "somebody", NULL);
    test_run_until(loop, &b.count, 1, "the echo");
    CHECK_STR(b.text, "[somebody]");
    CHECK_STR(b.calls, "mxd");
    datagram_end(loop, &a);
    datagram_end(loop, &b);
    test_end(loop);
}

static void datagram_notice_inside(datagram_peer *peer) {
    if (peer->other != NULL) /* from inside the call */
        peer->disorder++;
}

/* Too long by one byte: told by the loop, and what was sent behind it arrives. */
TEST(datagram_too_long_is_told_and_it_goes_on, "DTR-05") {
    static char bytes[DATAGRAM_LARGEST + 1];
    aioloop *loop = test_loop();
    datagram_peer a;
    datagram_peer b;
    datagram_bind(loop, &a);
    datagram_bind(loop, &b);
    b.on_error = datagram_notice_inside;
    b.other = &b;
    CHECK_EQ(aioloop_transport_sendto(b.transport, bytes, sizeof(bytes), datagram_name(&a)), 0);
    datagram_send(&b, "behind", datagram_name(&a));
    CHECK_EQ(aioloop_transport_sendto(b.transport, bytes, sizeof(bytes), datagram_name(&a)), 0);
    datagram_send(&b, "at last", datagram_name(&a));
    b.other = NULL;
    test_run_until(loop, &a.count, 2, "what was short enough");
    test_run_until(loop, &b.errors, 2, "both errors");
    CHECK_EQ(b.error, AIOLOOP_EMSGSIZE);
    CHECK_STR(a.text, "[behind][at last]");
    datagram_wait_sent(loop, &b);
    datagram_end(loop, &a);
    datagram_end(loop, &b);
    test_end(loop);
}

/* An address of another family is the system's to refuse. */
TEST(datagram_wrong_family_is_told, "DTR-05") {
    aioloop *loop = test_loop();
    aioloop_address address;
    datagram_peer a;
    datagram_bind(loop, &a);
    CHECK_EQ(aioloop_address_parse(&address, "::1", 9), 0);
    datagram_send(&a, "x", &address);
    test_run_until(loop, &a.errors, 1, "the error");
    CHECK(a.error == AIOLOOP_EAFNOSUPPORT || a.error == AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_address_unix(&address, "/nowhere", 0), 0);
    datagram_send(&a, "x", &address);
    test_run_until(loop, &a.errors, 2, "the other error");
    CHECK_EQ(a.lost, 0);
    datagram_send(&a, "myself", datagram_name(&a));
    test_run_until(loop, &a.count, 1, "the datagram");
    datagram_end(loop, &a);
    test_end(loop);
}

static void datagram_close_now(datagram_peer *peer) {
    aioloop_transport_close(peer->transport);
}

static void datagram_abort_now(datagram_peer *peer) {
    aioloop_transport_abort(peer->transport);
}

static void datagram_send_again(datagram_peer *peer) {
    static char bytes[DATAGRAM_LARGEST + 1];
    const aioloop_address *self =
        (const aioloop_address *)aioloop_transport_get_extra_info(peer->transport, "sockname", NULL);
    bool enough = peer->errors >= 4;
    if (aioloop_transport_sendto(peer->transport, bytes, enough ? 5 : sizeof(bytes), self) != 0)
        peer->disorder++;
}

/* error_received may do everything. */
TEST(datagram_error_received_may_send_close_and_abort, "DTR-05 DTR-06") {
    static char bytes[DATAGRAM_LARGEST + 1];
    aioloop *loop = test_loop();
    datagram_peer a;
    datagram_bind(loop, &a);
    a.on_error = datagram_send_again;
    CHECK_EQ(aioloop_transport_sendto(a.transport, bytes, sizeof(bytes), datagram_name(&a)), 0);
    test_run_until(loop, &a.count, 1, "the short one");
    CHECK_STR(a.calls, "mxxxxd");
    a.on_error = datagram_close_now;
    CHECK_EQ(aioloop_transport_sendto(a.transport, bytes, sizeof(bytes), datagram_name(&a)), 0);
    test_run_until(loop, &a.lost, 1, "the loss");
    CHECK_EQ(a.lost_error, 0);
    datagram_drop(&a);
    datagram_bind(loop, &a);
    a.on_error = datagram_abort_now;
    CHECK_EQ(aioloop_transport_sendto(a.transport, bytes, sizeof(bytes), datagram_name(&a)), 0);
    datagram_send(&a, "dropped", datagram_name(&a));
    test_run_until(loop, &a.lost, 1, "the loss");
    CHECK_STR(a.calls, "mxl");
    datagram_drop(&a);
    test_end(loop);
}

/* An error that is not told yet is told before the loss. */
TEST(datagram_error_before_the_end, "DTR-05 DTR-06") {
    static char bytes[DATAGRAM_LARGEST + 1];
    aioloop *loop = test_loop();
    datagram_peer a;
    datagram_bind(loop, &a);
    CHECK_EQ(aioloop_transport_sendto(a.transport, bytes, sizeof(bytes), datagram_name(&a)), 0);
    aioloop_transport_close(a.transport);
    test_run_until(loop, &a.lost, 1, "the loss");
    CHECK_STR(a.calls, "mxl");
    datagram_drop(&a);
    test_end(loop);
}

TEST(datagram_received_that_fails_is_reported_and_it_goes_on, "DTR-08") {
    aioloop *loop = test_loop();
    datagram_peer a;
    datagram_peer b;
    datagram_bind(loop, &a);
    datagram_connect(loop, &b, &a);
    a.raise = AIOLOOP_EDOM;
    datagram_send(&b, "1", NULL);
    datagram_send(&b, "2", NULL);
    test_run_until(loop, &a.count, 2, "both");
    CHECK_EQ(test_reports(), 2);
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EDOM);
    CHECK_PTR(test_report_at(0)->context.transport, a.transport);
    CHECK_STR(test_report_at(0)->detail, "not this one");
    test_reports_clear();
    a.raise = 0;
    a.echo = true;
    datagram_send(&b, "3", NULL);
    test_run_until(loop, &b.count, 1, "the echo");
    CHECK_EQ(a.lost, 0);
    datagram_end(loop, &a);
    datagram_end(loop, &b);
    test_end(loop);
}

/* A fatal one ends the run; what came with it is told by the next. */
TEST(datagram_fatal_error_loses_nothing, "DTR-08") {
    aioloop *loop = test_loop();
    datagram_peer a;
    datagram_peer b;
    int fatal = 0;
    int i;
    datagram_bind(loop, &a);
    datagram_connect(loop, &b, &a);
    a.on_datagram = datagram_in_order;
    for (i = 0; i < 6; i++) {
        char text[2] = {(char)('0' + i), '\0'};
        datagram_send(&b, text, NULL);
    }
    a.raise = AIOLOOP_EFATAL;
    for (i = 0; i < 1000 && a.count < 6; i++)
        fatal += aioloop_run_once(loop, AIOLOOP_MS(1)) == AIOLOOP_EFATAL;
    CHECK_EQ(a.count, 6);
    CHECK_EQ(fatal, 6);
    test_reports_clear();
    a.raise = 0;
    datagram_end(loop, &a);
    datagram_end(loop, &b);
    test_end(loop);
}

/* ---- a full socket ---- */

TEST(datagram_what_has_no_room_is_queued_in_order, "DTR-02") {
    aioloop *loop = datagram_begin_files();
    datagram_peer a;
    datagram_peer b;
    int sent;
    int i;
    datagram_unix_pair(loop, &a, &b);
    a.on_datagram = datagram_in_order;
    aioloop_transport_pause_reading(a.transport);
    test_spin(loop, 5);
    sent = datagram_fill(&b, 0);
    for (i = 0; i < 40; i++) {
        char text[16];
        snprintf(text, sizeof(text), "%d", sent++);
        datagram_send(&b, text, NULL);
    }
    CHECK_GT(aioloop_transport_get_write_buffer_size(b.transport), 40 * 8);
    aioloop_transport_resume_reading(a.transport);
    test_run_until(loop, &a.count, sent, "all");
    datagram_wait_sent(loop, &b);
    CHECK_EQ(b.errors, 0);
    CHECK_STR(b.calls, "m"); /* so little is no reason to pause */
    datagram_end(loop, &a);
    datagram_end(loop, &b);
    datagram_end_files(loop);
}

TEST(datagram_flow_control_counts_eight_bytes_more, "DTR-07") {
    aioloop *loop = datagram_begin_files();
    size_t low = 0;
    size_t high = 0;
    datagram_peer a;
    datagram_peer b;
    size_t before;
    int sent;
    datagram_unix_pair(loop, &a, &b);
    aioloop_transport_get_write_buffer_limits(b.transport, &low, &high);
    CHECK_EQ(high, 65536);
    CHECK_EQ(low, 16384);
    aioloop_transport_pause_reading(a.transport);
    test_spin(loop, 5);
    sent = datagram_fill(&b, 0);
    before = aioloop_transport_get_write_buffer_size(b.transport);
    CHECK_EQ(aioloop_transport_sendto(b.transport, "12345", 5, NULL), 0);
    CHECK_EQ(aioloop_transport_get_write_buffer_size(b.transport), before + 13);
    CHECK_EQ(aioloop_transport_sendto(b.transport, NULL, 0, NULL), 0);
    CHECK_EQ(aioloop_transport_get_write_buffer_size(b.transport), before + 21);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(b.transport, (int64_t)before + 30, 10), 0);
    CHECK_EQ(b.paused, 0);
    CHECK_EQ(aioloop_transport_sendto(b.transport, "1", 1, NULL), 0); /* up to the mark */
    CHECK_EQ(b.paused, 0);
    CHECK_EQ(aioloop_transport_sendto(b.transport, NULL, 0, NULL), 0); /* above it */
    CHECK_EQ(b.paused, 1);
    aioloop_transport_resume_reading(a.transport);
    test_run_until(loop, &b.resumed, 1, "the resumption");
    CHECK_LE(aioloop_transport_get_write_buffer_size(b.transport), 10);
    test_run_until(loop, &a.count, sent + 4, "all");
    CHECK_STR(b.calls, "mpr");
    datagram_end(loop, &a);
    datagram_end(loop, &b);
    datagram_end_files(loop);
}

/* ---- the end ---- */

TEST(datagram_close_sends_what_is_queued, "DTR-06") {
    aioloop *loop = datagram_begin_files();
    datagram_peer a;
    datagram_peer b;
    int sent;
    datagram_unix_pair(loop, &a, &b);
    aioloop_transport_pause_reading(a.transport);
    test_spin(loop, 5);
    sent = datagram_fill(&b, 0);
    datagram_send(&b, "last", NULL);
    aioloop_transport_close(b.transport);
    CHECK(aioloop_transport_is_closing(b.transport));
    datagram_send(&b, "late", NULL); /* dropped */
    test_spin(loop, 5);
    CHECK_EQ(b.lost, 0);
    aioloop_transport_resume_reading(a.transport);
    test_run_until(loop, &b.lost, 1, "the loss");
    test_run_until(loop, &a.count, sent + 1, "all");
    CHECK_EQ(b.lost_error, 0);
    CHECK_STR(b.calls, "ml");
    CHECK_EQ(a.last_size, 4);
    CHECK_PTR(aioloop_transport_get_extra_info(b.transport, "socket", NULL), NULL);
    CHECK(aioloop_transport_get_extra_info(b.transport, "peername", NULL) != NULL);
    datagram_end(loop, &a);
    datagram_drop(&b);
    datagram_end_files(loop);
}

TEST(datagram_abort_drops_what_is_queued, "DTR-06") {
    aioloop *loop = datagram_begin_files();
    datagram_peer a;
    datagram_peer b;
    int sent;
    datagram_unix_pair(loop, &a, &b);
    aioloop_transport_pause_reading(a.transport);
    test_spin(loop, 5);
    sent = datagram_fill(&b, 0);
    datagram_send(&b, "dropped", NULL);
    aioloop_transport_abort(b.transport);
    CHECK_EQ(aioloop_transport_get_write_buffer_size(b.transport), 0);
    test_run_until(loop, &b.lost, 1, "the loss");
    CHECK_EQ(b.lost_error, 0);
    aioloop_transport_resume_reading(a.transport);
    test_run_until(loop, &a.count, sent - 1, "what had gone");
    test_spin(loop, 20);
    CHECK_LE(a.count, sent + (test_delayed(loop) ? 1 : -1)); /* a cancel may find more sent */
    datagram_end(loop, &a);
    datagram_drop(&b);
    datagram_end_files(loop);
}

TEST(datagram_sending_after_the_end_is_dropped, "DTR-06") {
    aioloop *loop = test_loop();
    datagram_peer a;
    datagram_peer b;
    int i;
    datagram_bind(loop, &a);
    datagram_connect(loop, &b, &a);
    aioloop_transport_close(b.transport);
    for (i = 0; i < 4; i++)
        datagram_send(&b, "late", NULL);
    test_run_until(loop, &b.lost, 1, "the loss");
    CHECK_EQ(test_log_lines(), 0);
    for (i = 0; i < 4; i++)
        datagram_send(&b, "later", datagram_name(&a));
    CHECK_EQ(test_log_lines(), 1); /* the fifth */
    test_log_clear();
    test_spin(loop, 10);
    CHECK_EQ(a.count, 0);
    CHECK_STR(b.calls, "ml");
    datagram_end(loop, &a);
    datagram_drop(&b);
    test_end(loop);
}

/* Closed or aborted by the first of many: nothing comes after. */
TEST(datagram_ended_from_within, "DTR-06") {
    aioloop *loop = test_loop();
    void (*const ways[])(datagram_peer *peer) = {datagram_close_now, datagram_abort_now};
    datagram_peer a;
    datagram_peer b;
    int i;
    int way;
    datagram_bind(loop, &a);
    for (way = 0; way < 2; way++) {
        datagram_connect(loop, &b, &a);
        b.on_datagram = ways[way];
        for (i = 0; i < 20; i++)
            datagram_send(&a, "x", datagram_name(&b));
        test_run_until(loop, &b.lost, 1, "the loss");
        test_spin(loop, 5);
        CHECK_STR(b.calls, "mdl");
        datagram_drop(&b);
    }
    a.on_made = datagram_abort_now;
    datagram_end(loop, &a);
    test_end(loop);
}

static void datagram_pause_now(datagram_peer *peer) {
    aioloop_transport_pause_reading(peer->transport);
}

/* Paused by one of many: the rest comes, in order, when reading goes on. Not in asyncio. */
TEST(datagram_reading_can_be_paused, "") {
    aioloop *loop = test_loop();
    datagram_peer a;
    datagram_peer b;
    int i;
    datagram_bind(loop, &a);
    datagram_connect(loop, &b, &a);
    a.on_datagram = datagram_pause_now;
    for (i = 0; i < 20; i++) {
        char text[16];
        snprintf(text, sizeof(text), "%d", i);
        datagram_send(&b, text, NULL);
    }
    test_run_until(loop, &a.count, 1, "the first");
    for (i = 2; i < 6; i++) {
        test_spin(loop, 5);
        CHECK_EQ(a.count, i - 1);
        CHECK(!aioloop_transport_is_reading(a.transport));
        aioloop_transport_resume_reading(a.transport);
        test_run_until(loop, &a.count, i, "the next");
    }
    a.on_datagram = NULL;
    a.text[0] = '\0';
    aioloop_transport_resume_reading(a.transport);
    test_run_until(loop, &a.count, 20, "the rest");
    CHECK_STR(a.text, "[5][6][7][8][9][10][11][12][13][14][15][16][17][18][19]");
    aioloop_transport_pause_reading(a.transport);
    datagram_send(&b, "kept", NULL);
    test_spin(loop, 5);
    datagram_end(loop, &a); /* with something kept */
    datagram_end(loop, &b);
    test_end(loop);
}

TEST(datagram_abort_when_made, "DGR-01") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    datagram_peer a;
    memset(&a, 0, sizeof(a));
    a.on_made = datagram_abort_now;
    options.local_host = "127.0.0.1";
    CHECK_EQ(datagram_try(loop, &a, &options), 0);
    test_run_until(loop, &a.lost, 1, "the loss");
    CHECK_STR(a.calls, "ml");
    datagram_drop(&a);
    test_end(loop);
}

TEST(datagram_loop_closes_with_things_under_way, "") {
    static char bytes[DATAGRAM_LARGEST + 1];
    aioloop *loop = datagram_begin_files();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    aioloop_future *f;
    aioloop_future *asked = NULL;
    datagram_peer a;
    datagram_peer b;
    datagram_peer c;
    datagram_unix_pair(loop, &a, &b);
    datagram_bind(loop, &c);
    aioloop_transport_pause_reading(a.transport);
    test_spin(loop, 5);
    datagram_fill(&b, 0);
    CHECK_EQ(aioloop_transport_sendto(c.transport, bytes, sizeof(bytes), datagram_name(&c)), 0);
    CHECK_EQ(aioloop_set_resolver(loop, datagram_never, &asked), 0);
    options.local_host = "local";
    f = aioloop_future_ref(aioloop_create_datagram_endpoint(loop, &datagram_protocol, &c, &options));
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK_EQ(aioloop_transport_sendto(b.transport, "x", 1, NULL), 0); /* dropped */
    CHECK_EQ(aioloop_transport_get_write_buffer_size(b.transport), 0);
    CHECK_EQ(a.lost + b.lost + c.lost, 0);
    aioloop_future_unref(f);
    aioloop_future_unref(asked);
    datagram_drop(&a);
    datagram_drop(&b);
    datagram_drop(&c);
    datagram_end_files(loop);
}

static char datagram_losses[8];

static void datagram_lost_letter(aioloop_transport *transport, void *self, int error) {
    size_t n = strlen(datagram_losses);
    (void)transport;
    (void)error;
    if (n + 1 < sizeof(datagram_losses))
        datagram_losses[n] = *(const char *)self;
}

/* On every back end in the order of the closing. */
TEST(datagram_endpoints_closed_together_are_lost_in_order, "DTR-06") {
    aioloop *loop = test_loop();
    aioloop_protocol protocol = AIOLOOP_ZERO;
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    aioloop_transport *transports[4];
    static char letters[] = "abcd";
    int i;
    protocol.connection_lost = datagram_lost_letter;
    options.local_host = "127.0.0.1";
    memset(datagram_losses, 0, sizeof(datagram_losses));
    for (i = 0; i < 4; i++)
        CHECK_EQ(aioloop_run_until_complete(
                     loop, aioloop_create_datagram_endpoint(loop, &protocol, &letters[i], &options), &transports[i]),
                 0);
    test_spin(loop, 5);
    for (i = 0; i < 4; i++)
        aioloop_transport_close(transports[i]);
    test_spin(loop, 10);
    CHECK_STR(datagram_losses, "abcd");
    for (i = 0; i < 4; i++)
        aioloop_transport_unref(transports[i]);
    test_end(loop);
}

static void datagram_keep_message(datagram_peer *peer) {
    snprintf(peer->text, sizeof(peer->text), "%s", aioloop_message(aioloop_transport_get_loop(peer->transport), peer->error));
}

/* Not the message of a call that has failed with the same code before. */
TEST_WITH(datagram_error_has_its_own_message, "DTR-05", TEST_REAL_FDS) {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    aioloop_address nowhere = AIOLOOP_ZERO;
    datagram_peer a = AIOLOOP_ZERO;
    test_needs_real_descriptors(loop);
    options.local_host = "127.0.0.1";
    datagram_open(loop, &a, &options);
    a.on_error = datagram_keep_message;
    CHECK_EQ(aioloop_transport_sendto(a.transport, "x", 1, &nowhere), AIOLOOP_EINVAL);
    nowhere = *datagram_name(&a);
    nowhere.port = 0; /* which the system refuses */
    CHECK_EQ(aioloop_transport_sendto(a.transport, "x", 1, &nowhere), 0);
    test_run_until(loop, &a.errors, 1, "error_received");
    CHECK_EQ(a.error, AIOLOOP_EINVAL);
    CHECK_STR(a.text, aioloop_strerror(AIOLOOP_EINVAL));
    datagram_drop(&a);
    test_end(loop);
}

static aioloop_time datagram_processor_time(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (aioloop_time)t.tv_sec * AIOLOOP_SECONDS(1) + t.tv_nsec;
}

/* One of several receivers has no room. Its sender's own socket has, and is writable all the time: it must not be asked all
 * the time. All arrives once there is room. */
TEST_WITH(datagram_unix_sender_to_one_without_room_waits, "DTR-02 DTR-07", TEST_REAL_FDS) {
    aioloop *loop = datagram_begin_files();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    datagram_peer full = AIOLOOP_ZERO;
    datagram_peer sender = AIOLOOP_ZERO;
    aioloop_time wall;
    aioloop_time busy;
    int sent = 0;
    test_needs_real_descriptors(loop);
    options.local_path = datagram_path("a");
    datagram_open(loop, &full, &options);
    options.local_path = datagram_path("b");
    datagram_open(loop, &sender, &options);
    aioloop_transport_pause_reading(full.transport);
    test_spin(loop, 5);
    while (aioloop_transport_get_write_buffer_size(sender.transport) == 0 && sent < 100000) {
        datagram_send(&sender, "x", datagram_name(&full));
        sent++;
    }
    CHECK_LT(sent, 100000);
    datagram_send(&sender, "y", datagram_name(&full));
    wall = aioloop_now(loop);
    busy = datagram_processor_time();
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_sleep(loop, AIOLOOP_MS(30)), NULL), 0);
    busy = datagram_processor_time() - busy;
    wall = aioloop_now(loop) - wall;
    NOTE("%g of %g ms", (double)busy / 1e6, (double)wall / 1e6);
    CHECK_LT(busy, wall / 2);
    CHECK_GT(aioloop_transport_get_write_buffer_size(sender.transport), 0u);
    aioloop_transport_resume_reading(full.transport);
    test_run_until(loop, &full.count, sent + 1, "all of them");
    CHECK_EQ(aioloop_transport_get_write_buffer_size(sender.transport), 0u);
    datagram_drop(&full);
    datagram_drop(&sender);
    datagram_end_files(loop);
}

/* ---- protocols ---- */

typedef struct datagram_instance {
    int count;
    void *arg;
} datagram_instance;

static int datagram_instance_result;

static int datagram_factory(void *self, void *arg) {
    datagram_instance *instance = (datagram_instance *)self;
    instance->arg = arg;
    return datagram_instance_result;
}

static void datagram_instance_received(aioloop_transport *transport, void *self, const void *data, size_t size,
                                       const aioloop_address *from) {
    datagram_instance *instance = (datagram_instance *)self;
    (void)transport;
    (void)data;
    (void)from;
    *(int *)instance->arg += (int)size;
    instance->count++;
}

static const aioloop_protocol datagram_instance_protocol = {sizeof(datagram_instance), datagram_factory, NULL, NULL, NULL, NULL,
                                                            NULL, NULL, NULL, NULL, datagram_instance_received, NULL};

TEST(datagram_protocol_with_memory_of_its_own, "") {
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    aioloop_transport *transport = NULL;
    const datagram_instance *instance;
    const aioloop_address *name;
    void *self = NULL;
    int bytes = 0;
    datagram_peer b;
    options.local_host = "127.0.0.1";
    datagram_instance_result = 0;
    CHECK_EQ(aioloop_run_until_complete(
                 loop, aioloop_create_datagram_endpoint(loop, &datagram_instance_protocol, &bytes, &options), &transport),
             0);
    CHECK_PTR(aioloop_transport_get_protocol(transport, &self), &datagram_instance_protocol);
    instance = (const datagram_instance *)self;
    name = (const aioloop_address *)aioloop_transport_get_extra_info(transport, "sockname", NULL);
    datagram_bind(loop, &b);
    datagram_send(&b, "12345", name);
    test_run_until(loop, &bytes, 5, "the datagram");
    CHECK_EQ(instance->count, 1);
    CHECK_EQ(aioloop_transport_set_protocol(transport, &datagram_protocol, &b), 0); /* b hears for both */
    b.other = NULL;
    datagram_send(&b, "678", name);
    test_run_until(loop, &b.count, 1, "the other datagram");
    aioloop_transport_abort(transport);
    test_run_until(loop, &b.lost, 1, "the loss");
    aioloop_transport_unref(transport);
    aioloop_transport_abort(b.transport);
    test_run_until(loop, &b.lost, 2, "the other loss");
    datagram_drop(&b);
    datagram_instance_result = AIOLOOP_EDOM;
    CHECK_EQ(aioloop_run_until_complete(
                 loop, aioloop_create_datagram_endpoint(loop, &datagram_instance_protocol, &bytes, &options), NULL),
             AIOLOOP_EDOM);
    test_end(loop);
}

/* Nobody listens to anything: it works, and does nothing. */
TEST(datagram_protocol_without_methods, "") {
    static const aioloop_protocol deaf = {0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL};
    static char bytes[DATAGRAM_LARGEST + 1];
    aioloop *loop = test_loop();
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    aioloop_transport *transport = NULL;
    const aioloop_address *name;
    datagram_peer b;
    options.local_host = "127.0.0.1";
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_datagram_endpoint(loop, &deaf, NULL, &options), &transport), 0);
    name = (const aioloop_address *)aioloop_transport_get_extra_info(transport, "sockname", NULL);
    datagram_bind(loop, &b);
    datagram_send(&b, "?", name);
    CHECK_EQ(aioloop_transport_sendto(transport, bytes, sizeof(bytes), name), 0);
    CHECK_EQ(aioloop_transport_sendto(transport, "!", 1, datagram_name(&b)), 0);
    test_run_until(loop, &b.count, 1, "the datagram");
    aioloop_transport_close(transport);
    aioloop_transport_unref(transport);
    test_spin(loop, 5);
    datagram_end(loop, &b);
    test_end(loop);
}

/* ---- what datagrams cannot do ---- */

static void datagram_not_released(const void *data, size_t size, void *arg) {
    (void)data;
    (void)size;
    ++*(int *)arg;
}

TEST(datagram_transport_takes_no_bytes, "SF-09") {
    aioloop *loop = test_loop();
    aioloop_buf piece = {"x", 1};
    datagram_peer a;
    int released = 0;
    int pipes[2];
    int64_t rc;
    datagram_bind(loop, &a);
    CHECK_EQ(aioloop_transport_write(a.transport, "x", 1), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_transport_writelines(a.transport, &piece, 1), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_transport_write_owned(a.transport, "x", 1, datagram_not_released, &released), AIOLOOP_EMISUSE);
    CHECK_EQ(released, 0);
    CHECK(!aioloop_transport_can_write_eof(a.transport));
    CHECK_EQ(aioloop_transport_write_eof(a.transport), AIOLOOP_ENOTAVAILABLE);
    CHECK(pipe(pipes) == 0);
    test_keep_socket(pipes[0]);
    test_keep_socket(pipes[1]);
    rc = aioloop_run_until_complete(loop, aioloop_sendfile(loop, a.transport, pipes[0], 0, -1, NULL), NULL);
    CHECK_EQ(rc, AIOLOOP_EMISUSE);
    test_forget_socket(pipes[0]);
    test_forget_socket(pipes[1]);
    close(pipes[0]);
    close(pipes[1]);
    test_spin(loop, 5);
    CHECK_STR(a.calls, "m");
    datagram_end(loop, &a);
    test_end(loop);
}

TEST(datagram_transport_is_not_upgraded, "") {
    aioloop *loop = test_loop();
    aioloop_ssl_context *ssl = aioloop_ssl_context_new(AIOLOOP_TLS_CLIENT);
    datagram_peer a;
    int64_t rc;
    datagram_bind(loop, &a);
    rc = aioloop_run_until_complete(loop, aioloop_start_tls(loop, a.transport, ssl, NULL), NULL);
    CHECK(rc == (ssl != NULL ? AIOLOOP_EMISUSE : AIOLOOP_ENOTAVAILABLE)); /* none: built without TLS */
    aioloop_ssl_context_unref(ssl);
    test_spin(loop, 5);
    CHECK_STR(a.calls, "m");
    datagram_end(loop, &a);
    test_end(loop);
}

TEST(datagram_sendto_is_not_for_streams, "SF-09") {
    aioloop *loop = test_loop();
    aioloop_address address;
    test_peer a = AIOLOOP_ZERO;
    test_peer b = AIOLOOP_ZERO;
    test_connect_pair(loop, &a, &b);
    CHECK_EQ(aioloop_address_parse(&address, "127.0.0.1", 9), 0);
    CHECK_EQ(aioloop_transport_sendto(a.transport, "x", 1, NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_transport_sendto(a.transport, "x", 1, &address), AIOLOOP_EMISUSE);
    test_spin(loop, 5);
    CHECK_EQ(b.received, 0);
    test_end_pair(loop, &a, &b);
    test_end(loop);
}

/* ---- fairness ---- */

/* So many datagrams are not all delivered in one iteration. */
TEST(datagram_flood_leaves_others_their_turn, "") {
    aioloop *loop = test_loop();
    datagram_peer a;
    datagram_peer b;
    int turns = 0;
    int i;
    datagram_bind(loop, &a);
    datagram_connect(loop, &b, &a);
    for (i = 0; i < 100; i++) /* so many have room */
        datagram_send(&b, "x", NULL);
    while (a.count < 100) {
        int before = a.count;
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(1)), 0);
        CHECK_LE(a.count - before, 64);
        CHECK_LT(turns++, 500);
    }
    datagram_end(loop, &a);
    datagram_end(loop, &b);
    test_end(loop);
}

/* ---- the simulated network ---- */

TEST(datagram_simulated_loss_and_reordering, "") {
    aioloop *loop = test_loop();
    datagram_peer a;
    datagram_peer b;
    int i;
    if (!test_simulated(loop)) {
        CHECK_EQ(aioloop_sim_set_datagrams(loop, 1, false), AIOLOOP_ENOTAVAILABLE);
        test_end(loop);
        SKIP("for the simulated back end");
    }
    CHECK_EQ(aioloop_sim_set_datagrams(NULL, 1, false), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_set_datagrams(loop, 1001, false), AIOLOOP_EINVAL);
    datagram_bind(loop, &a);
    datagram_connect(loop, &b, &a);
    CHECK_EQ(aioloop_sim_set_datagrams(loop, 300, false), 0);
    for (i = 0; i < 400; i++)
        datagram_send(&b, "x", NULL);
    test_run_for(loop, AIOLOOP_SECONDS(1));
    CHECK_GT(a.count, 200);
    CHECK_LT(a.count, 360);
    CHECK_EQ(aioloop_sim_set_datagrams(loop, 1000, false), 0);
    i = a.count;
    datagram_send(&b, "x", NULL);
    test_run_for(loop, AIOLOOP_SECONDS(1));
    CHECK_EQ(a.count, i);
    CHECK_EQ(aioloop_sim_set_datagrams(loop, 0, true), 0);
    CHECK_EQ(aioloop_sim_set_delay(loop, 0, AIOLOOP_SECONDS(1)), 0);
    a.count = 0;
    a.text[0] = '\0';
    a.on_datagram = datagram_in_order;
    for (i = 0; i < 50; i++) {
        char text[16];
        snprintf(text, sizeof(text), "%d", i);
        datagram_send(&b, text, NULL);
    }
    test_run_for(loop, AIOLOOP_SECONDS(3));
    CHECK_EQ(a.count, 50);
    CHECK_GT(a.disorder, 0);
    a.disorder = 0;
    datagram_end(loop, &a);
    datagram_end(loop, &b);
    test_end(loop);
}

TEST(datagram_simulated_delay_and_partition, "") {
    aioloop *loop = test_loop();
    aioloop_time start;
    datagram_peer a;
    datagram_peer b;
    if (!test_simulated(loop)) {
        test_end(loop);
        SKIP("for the simulated back end");
    }
    datagram_bind(loop, &a);
    datagram_connect(loop, &b, &a);
    CHECK_EQ(aioloop_sim_set_delay(loop, AIOLOOP_SECONDS(60), AIOLOOP_SECONDS(60)), 0);
    start = aioloop_now(loop);
    datagram_send(&b, "slow", NULL);
    while (a.count == 0)
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_FOREVER), 0);
    CHECK_GE(aioloop_now(loop) - start, AIOLOOP_SECONDS(60));
    datagram_send(&b, "lost under way", NULL);
    test_spin(loop, 20); /* it has set out */
    CHECK_EQ(aioloop_sim_set_partition(loop, true), 0);
    datagram_send(&b, "lost at once", NULL);
    test_spin(loop, 20);
    CHECK_EQ(aioloop_sim_set_partition(loop, false), 0);
    datagram_send(&b, "arrives", NULL);
    test_run_for(loop, AIOLOOP_SECONDS(200));
    CHECK_STR(a.text, "[slow][arrives]");
    CHECK_EQ(aioloop_sim_break(a.transport, AIOLOOP_ECONNRESET), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_sim_break(b.transport, AIOLOOP_ECONNRESET), AIOLOOP_EINVAL);
    datagram_end(loop, &a);
    datagram_end(loop, &b);
    test_end(loop);
}
