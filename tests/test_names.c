/*
 * test_names.c - connecting and listening by name, with a resolver of the test's own: what it is asked, what becomes of
 * its answers, and Happy Eyeballs. The system's resolver has tests of its own (test_resolve.c).
 */
#include "support.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- a resolver ---- */

typedef enum names_when { NAMES_NOW, NAMES_SOON, NAMES_NEVER } names_when;

typedef struct names_book {
    aioloop_addrinfo items[8];
    size_t count;
    aioloop_addrinfo local[8]; /* the answer for "local" */
    size_t local_count;
    int fail;                  /* 0, or the code it fails with */
    names_when when;
    int calls;
    int cancelled;
    char hosts[160]; /* that were asked for, each behind a space */
    char service[32];
    aioloop_getaddrinfo_options options[4]; /* by call */
    aioloop_future *pending[4];
    int pending_count;
} names_book;

static bool names_given_up(aioloop_future *future, void *owner) {
    names_book *book = (names_book *)owner;
    int i;
    book->cancelled++;
    for (i = 0; i < book->pending_count; i++)
        if (book->pending[i] == future)
            book->pending[i] = NULL;
    aioloop_future_unref(future);
    return true;
}

static void names_answer(names_book *book, aioloop_future *f, bool local) {
    aioloop_addrinfo *list;
    size_t count = local ? book->local_count : book->count;
    if (book->fail != 0) {
        aioloop_future_set_exception(f, book->fail, "the book says no");
    } else if (count == 0) {
        aioloop_future_set_result(f, 0, NULL, NULL);
    } else {
        list = aioloop_addrinfo_copy(local ? book->local : book->items, count);
        if (list == NULL)
            aioloop_future_set_exception(f, AIOLOOP_ENOMEM, NULL);
        else
            CHECK_EQ(aioloop_future_set_result(f, (int64_t)count, list, aioloop_freeaddrinfo), 0);
    }
    aioloop_future_unref(f);
}

static void names_answer_later(aioloop *loop, void *arg) {
    names_book *book = (names_book *)arg;
    int i;
    (void)loop;
    for (i = 0; i < book->pending_count; i++) {
        aioloop_future *f = book->pending[i];
        book->pending[i] = NULL;
        if (f != NULL)
            names_answer(book, f, false);
    }
    book->pending_count = 0;
}

static aioloop_future *names_resolve(aioloop *loop, void *arg, const char *host, const char *service,
                                     const aioloop_getaddrinfo_options *options) {
    names_book *book = (names_book *)arg;
    bool local = host != NULL && strcmp(host, "local") == 0;
    aioloop_future *f;
    size_t length = strlen(book->hosts);
    snprintf(book->hosts + length, sizeof(book->hosts) - length, " %s", host == NULL ? "(none)" : host);
    snprintf(book->service, sizeof(book->service), "%s", service == NULL ? "(none)" : service);
    if (book->calls < 4)
        book->options[book->calls] = *options;
    book->calls++;
    f = aioloop_create_operation(loop, names_given_up, book);
    if (aioloop_future_done(f))
        return f; /* no memory */
    if (book->when == NAMES_NOW || local) {
        names_answer(book, f, local);
        return f;
    }
    CHECK_LT(book->pending_count, 4);
    book->pending[book->pending_count++] = f;
    if (book->when == NAMES_SOON)
        (void)aioloop_call_soon(loop, names_answer_later, book);
    return f;
}

/* Forgets what a book holds that nobody will ask for any more. */
static void names_close(names_book *book) {
    int i;
    for (i = 0; i < book->pending_count; i++)
        aioloop_future_unref(book->pending[i]);
    book->pending_count = 0;
}

static names_book *names_open(aioloop *loop, names_book *book) {
    CHECK_EQ(aioloop_set_resolver(loop, names_resolve, book), 0);
    return book;
}

static void names_add(names_book *book, const char *host, int port) {
    aioloop_addrinfo *item = &book->items[book->count++];
    CHECK_EQ(aioloop_address_parse(&item->address, host, port), 0);
    item->type = AIOLOOP_SOCK_STREAM;
}

static void names_add_local(names_book *book, const char *host, int port) {
    CHECK_EQ(aioloop_address_parse(&book->local[book->local_count++].address, host, port), 0);
}

/* ---- places to connect to ---- */

static aioloop_server *names_serve(aioloop *loop, test_peer *far, const char *host, int *port, bool deaf) {
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    aioloop_address address;
    int64_t rc;
    options.defer_serving = deaf; /* bound, so that nobody else gets the port, but connecting is refused */
    rc = aioloop_run_until_complete(loop, aioloop_create_server(loop, &test_protocol, far, host, 0, &options), &server);
    CHECK_EQ(rc, 1);
    CHECK_EQ(aioloop_server_socket(server, 0, NULL, &address), 0);
    *port = address.port;
    return server;
}

static void names_end_server(aioloop_server *server) {
    aioloop_server_close(server);
    aioloop_server_unref(server);
}

/* Ends a connection of which the test has no reference but its peer's. */
static void names_end(aioloop *loop, test_peer *near, test_peer *far) {
    test_run_until(loop, &far->made, 1, "the accept");
    test_end_pair(loop, near, far);
}

/* A factory that counts. */
static int names_made;

static int names_factory(void *self, void *arg) {
    (void)self;
    (void)arg;
    names_made++;
    return 0;
}

static const aioloop_protocol names_protocol = {8, names_factory, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NULL, NULL};

static void names_fails(aioloop *loop, aioloop_future *f, int code, const char *text) {
    int64_t rc;
    aioloop_future_ref(f);
    rc = aioloop_run_until_complete(loop, f, NULL);
    CHECK_EQ(rc, code);
    CHECK(strstr(aioloop_error_message(aioloop_future_error(f)), text) != NULL);
    aioloop_future_unref(f);
}

/* ---- what is asked, and what is made of the answer ---- */

TEST(names_are_tried_in_the_resolvers_order_until_one_connects, "CONN-02 DNS-03") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer first = AIOLOOP_ZERO;
    test_peer second = AIOLOOP_ZERO;
    int ports[3];
    int64_t rc;
    aioloop_server *deaf = names_serve(loop, NULL, "127.0.0.1", &ports[0], true);
    aioloop_server *one = names_serve(loop, &first, "127.0.0.1", &ports[1], false);
    aioloop_server *two = names_serve(loop, &second, "127.0.0.1", &ports[2], false);
    int i;
    for (i = 0; i < 3; i++)
        names_add(&book, "127.0.0.1", ports[i]);
    book.when = NAMES_SOON;
    names_open(loop, &book);
    rc = aioloop_run_until_complete(loop, aioloop_create_connection(loop, &test_protocol, &near, "example.org", 80, NULL), NULL);
    CHECK_EQ(rc, 0);
    CHECK_EQ(near.made, 1);
    test_run_until(loop, &first.made, 1, "the first server that is there");
    test_spin(loop, 8);
    CHECK_EQ(second.made, 0);
    CHECK_EQ(book.calls, 1);
    CHECK_STR(book.hosts, " example.org");
    CHECK_STR(book.service, "80");
    CHECK_EQ(book.options[0].type, AIOLOOP_SOCK_STREAM);
    names_end(loop, &near, &first);
    names_end_server(deaf);
    names_end_server(one);
    names_end_server(two);
    test_end(loop);
}

TEST(names_numbers_need_no_look_up, "CONN-05") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    char service[16];
    int port = 0;
    int64_t rc;
    aioloop_server *server = names_serve(loop, &far, "127.0.0.1", &port, false);
    names_add(&book, "127.0.0.1", port);
    names_open(loop, &book);
    snprintf(service, sizeof(service), "%d", port);
    options.service = service; /* a number too */
    rc = aioloop_run_until_complete(loop, aioloop_create_connection(loop, &test_protocol, &near, "127.0.0.1", 0, &options), NULL);
    CHECK_EQ(rc, 0);
    CHECK_EQ(book.calls, 0);
    names_end(loop, &near, &far);
    /* A service by name does, and a zone; and "localhost" where there is a resolver of one's own. */
    memset(&near, 0, sizeof(near));
    memset(&far, 0, sizeof(far));
    options.service = "gopher";
    rc = aioloop_run_until_complete(loop, aioloop_create_connection(loop, &test_protocol, &near, "127.0.0.1", 0, &options), NULL);
    CHECK_EQ(rc, 0);
    CHECK_EQ(book.calls, 1);
    CHECK_STR(book.hosts, " 127.0.0.1");
    CHECK_STR(book.service, "gopher");
    names_end(loop, &near, &far);
    book.fail = AIOLOOP_EAI_NONAME;
    names_fails(loop, aioloop_create_connection(loop, &names_protocol, NULL, "fe80::1%1", 80, NULL), AIOLOOP_EAI_NONAME, "the book");
    names_fails(loop, aioloop_create_connection(loop, &names_protocol, NULL, "localhost", 80, NULL), AIOLOOP_EAI_NONAME, "the book");
    CHECK_EQ(book.calls, 3);
    names_end_server(server);
    test_end(loop);
}

TEST(names_a_failed_or_empty_look_up_is_the_error, "CONN-06") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    int when;
    names_made = 0;
    names_open(loop, &book);
    for (when = NAMES_NOW; when <= NAMES_SOON; when++) {
        book.when = when == NAMES_NOW ? NAMES_NOW : NAMES_SOON;
        book.fail = AIOLOOP_EAI_AGAIN;
        names_fails(loop, aioloop_create_connection(loop, &names_protocol, NULL, "a.example", 80, NULL), AIOLOOP_EAI_AGAIN,
                    "the book says no");
        book.fail = 0;
        names_fails(loop, aioloop_create_connection(loop, &names_protocol, NULL, "a.example", 80, NULL), AIOLOOP_ELOOKUP,
                    "no address");
    }
    CHECK_EQ(names_made, 0);
    test_end(loop);
}

TEST(names_family_protocol_and_flags_reach_both_look_ups, "CONN-07") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    int port = 0;
    int i;
    aioloop_server *deaf = names_serve(loop, NULL, "127.0.0.1", &port, true);
    names_add(&book, "127.0.0.1", port);
    names_add_local(&book, "127.0.0.1", 0);
    names_open(loop, &book);
    options.family = AIOLOOP_INET;
    options.protocol = 6;
    options.flags = AIOLOOP_AI_ADDRCONFIG;
    options.local_host = "local";
    names_fails(loop, aioloop_create_connection(loop, &names_protocol, NULL, "b.example", 80, &options), AIOLOOP_ECONNREFUSED,
                "connect to");
    CHECK_STR(book.hosts, " b.example local");
    CHECK_EQ(book.calls, 2);
    for (i = 0; i < 2; i++) {
        CHECK_EQ(book.options[i].family, AIOLOOP_INET);
        CHECK_EQ(book.options[i].type, AIOLOOP_SOCK_STREAM);
        CHECK_EQ(book.options[i].protocol, 6);
        CHECK_EQ(book.options[i].flags, AIOLOOP_AI_ADDRCONFIG);
    }
    names_end_server(deaf);
    test_end(loop);
}

TEST(names_the_first_local_address_of_the_family_is_bound, "CONN-08 CONN-09") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    int port = 0;
    int64_t rc;
    aioloop_server *server = names_serve(loop, &far, "127.0.0.1", &port, false);
    names_add(&book, "127.0.0.1", port);
    names_add_local(&book, "::1", 0);          /* of another family, */
    names_add_local(&book, "198.51.100.7", 0); /* not of this host, */
    names_add_local(&book, "127.0.0.1", 0);    /* and at last one that will do */
    names_open(loop, &book);
    options.local_host = "local";
    rc = aioloop_run_until_complete(loop, aioloop_create_connection(loop, &test_protocol, &near, "c.example", 80, &options), NULL);
    CHECK_EQ(rc, 0);
    names_end(loop, &near, &far);
    book.local_count = 2;
    names_fails(loop, aioloop_create_connection(loop, &names_protocol, NULL, "c.example", 80, &options), AIOLOOP_EADDRNOTAVAIL,
                "bind to 198.51.100.7:0");
    book.local_count = 1;
    names_fails(loop, aioloop_create_connection(loop, &names_protocol, NULL, "c.example", 80, &options), AIOLOOP_EAFNOSUPPORT,
                "no local address has the family");
    names_end_server(server);
    test_end(loop);
}

TEST(names_the_texts_of_many_failures_stand_in_one, "CONN-03 CONN-04") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_server *deaf[7];
    aioloop_future *f;
    const char *text;
    const char *last;
    int port = 0;
    int i;
    for (i = 0; i < 7; i++) {
        deaf[i] = names_serve(loop, NULL, "127.0.0.1", &port, true);
        names_add(&book, "127.0.0.1", port);
    }
    names_open(loop, &book);
    for (i = 0; i < 2; i++) {
        int k;
        options.all_errors = i == 1;
        f = aioloop_future_ref(aioloop_create_connection(loop, &names_protocol, NULL, "d.example", 80, &options));
        CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_ECONNREFUSED);
        text = last = aioloop_error_message(aioloop_future_error(f));
        for (k = 0; k < 7 && last != NULL; k++) {
            char name[64];
            aioloop_address_format(&book.items[k].address, name, sizeof(name));
            last = strstr(last, name);
            if (i == 1)
                CHECK(strstr(aioloop_error_message(aioloop_error_at(aioloop_future_error(f), (size_t)k)), name) != NULL);
        }
        CHECK(last != NULL);
        CHECK_EQ(aioloop_error_count(aioloop_future_error(f)), i == 1 ? 7 : 0);
        (void)text;
        aioloop_future_unref(f);
    }
    /* All the same, as for an address that stands there twice: once is enough. */
    book.count = 2;
    book.items[1] = book.items[0];
    options.all_errors = false;
    f = aioloop_future_ref(aioloop_create_connection(loop, &names_protocol, NULL, "d.example", 80, &options));
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_ECONNREFUSED);
    CHECK(strchr(aioloop_error_message(aioloop_future_error(f)), ',') == NULL);
    aioloop_future_unref(f);
    for (i = 0; i < 7; i++)
        names_end_server(deaf[i]);
    test_end(loop);
}

TEST(names_a_look_up_is_given_up_with_the_call, "CONN-17 DNS-04") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_future *f;
    book.when = NAMES_NEVER;
    names_open(loop, &book);
    names_made = 0;
    options.local_host = "silent"; /* two of them, then */
    f = aioloop_future_ref(aioloop_create_connection(loop, &names_protocol, NULL, "silent", 80, &options));
    CHECK_EQ(book.calls, 2);
    test_spin(loop, 3);
    CHECK(!aioloop_future_done(f));
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK(aioloop_future_cancelled(f));
    CHECK_EQ(book.cancelled, 2);
    aioloop_future_unref(f);
    names_fails(loop, aioloop_wait_for(aioloop_create_connection(loop, &names_protocol, NULL, "silent", 80, NULL), AIOLOOP_MS(1)),
                AIOLOOP_ETIMEDOUT, "");
    CHECK_EQ(book.cancelled, 3);
    options.local_host = NULL;
    options.timeout = AIOLOOP_MS(1);
    names_fails(loop, aioloop_create_connection(loop, &names_protocol, NULL, "silent", 80, &options), AIOLOOP_ETIMEDOUT, "looking up");
    CHECK_EQ(book.cancelled, 4);
    CHECK_EQ(names_made, 0);
    test_spin(loop, 2);
    test_end(loop);
}

static void names_cancel_now(aioloop *loop, void *arg) {
    (void)loop;
    CHECK(aioloop_future_cancel((aioloop_future *)arg, NULL));
}

/* The answer is there, but the call has not heard of it yet. */
TEST(names_an_answer_may_come_with_the_cancel, "CONN-17") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    aioloop_future *f;
    int i;
    names_add(&book, "127.0.0.1", 9);
    book.when = NAMES_SOON;
    names_open(loop, &book);
    names_made = 0;
    for (i = 0; i < 2; i++) {
        aioloop_server_options options = AIOLOOP_ZERO;
        if (i == 0)
            f = aioloop_future_ref(aioloop_create_connection(loop, &names_protocol, NULL, "e.example", 80, NULL));
        else
            f = aioloop_future_ref(aioloop_create_server(loop, &names_protocol, NULL, "e.example", 0, &options));
        (void)aioloop_call_soon(loop, names_cancel_now, f);
        test_spin(loop, 4);
        CHECK(aioloop_future_cancelled(f));
        aioloop_future_unref(f);
    }
    CHECK_EQ(book.cancelled, 0);
    CHECK_EQ(names_made, 0);
    test_end(loop);
}

TEST(names_loop_closed_while_looking_up, "RUN-19 DNS-04") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    aioloop_future *f[3];
    int i;
    book.when = NAMES_NEVER;
    names_open(loop, &book);
    f[0] = aioloop_future_ref(aioloop_create_connection(loop, &names_protocol, NULL, "silent", 80, NULL));
    f[1] = aioloop_future_ref(aioloop_create_server(loop, &names_protocol, NULL, "silent", 80, NULL));
    f[2] = aioloop_future_ref(aioloop_open_connection(loop, "silent", 80, NULL));
    test_spin(loop, 2);
    CHECK_EQ(aioloop_close(loop), 0);
    for (i = 0; i < 3; i++) {
        CHECK(!aioloop_future_done(f[i]));
        CHECK(aioloop_future_cancel(f[i], NULL));
        aioloop_future_unref(f[i]);
    }
    names_close(&book);
    test_end(loop);
}

/* ---- servers and streams ---- */

TEST(names_a_server_listens_on_every_address_once, "SRV-03") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    aioloop_server_options options = AIOLOOP_ZERO;
    const char *const hosts[] = {"f.example", "127.0.0.1", "g.example"};
    aioloop_server *server = NULL;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_address address;
    int64_t rc;
    int when;
    for (when = NAMES_NOW; when <= NAMES_SOON; when++) {
        memset(&book, 0, sizeof(book));
        names_add(&book, "127.0.0.1", 0);
        names_add(&book, "127.0.0.1", 0);
        if (!test_simulated(loop))
            names_add(&book, "198.51.100.7", 0); /* not of this host: left out */
        book.when = when == NAMES_NOW ? NAMES_NOW : NAMES_SOON;
        names_open(loop, &book);
        options.hosts = hosts;
        options.host_count = 3;
        options.flags = AIOLOOP_AI_ADDRCONFIG;
        rc = aioloop_run_until_complete(loop, aioloop_create_server(loop, &test_protocol, &far, NULL, 0, &options), &server);
        CHECK_EQ(rc, 1);
        CHECK_EQ(book.calls, 2);
        CHECK_EQ(book.options[0].flags, AIOLOOP_AI_ADDRCONFIG | AIOLOOP_AI_PASSIVE);
        CHECK_EQ(book.options[0].type, AIOLOOP_SOCK_STREAM);
        CHECK(aioloop_server_is_serving(server));
        CHECK_EQ(aioloop_server_socket(server, 0, NULL, &address), 0);
        memset(&near, 0, sizeof(near));
        memset(&far, 0, sizeof(far));
        aioloop_transport_unref(test_dial(loop, &test_protocol, &near, address.port));
        names_end(loop, &near, &far);
        names_end_server(server);
    }
    test_end(loop);
}

TEST(names_a_server_that_cannot_be_looked_up, "SRV-03 CONN-06") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    aioloop_server_options options = AIOLOOP_ZERO;
    const char *const hosts[] = {"h.example", "127.0.0.1", "i.example"};
    aioloop_future *f;
    names_open(loop, &book);
    book.fail = AIOLOOP_EAI_FAIL;
    names_fails(loop, aioloop_create_server(loop, &names_protocol, NULL, "h.example", 0, NULL), AIOLOOP_EAI_FAIL, "the book");
    book.when = NAMES_SOON;
    names_fails(loop, aioloop_create_server(loop, &names_protocol, NULL, "h.example", 0, NULL), AIOLOOP_EAI_FAIL, "the book");
    book.fail = 0;
    names_fails(loop, aioloop_create_server(loop, &names_protocol, NULL, "h.example", 0, NULL), AIOLOOP_ELOOKUP, "no address");
    book.when = NAMES_NEVER;
    options.hosts = hosts;
    options.host_count = 3;
    f = aioloop_future_ref(aioloop_create_server(loop, &names_protocol, NULL, NULL, 0, &options));
    CHECK_EQ(book.pending_count, 2);
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK_EQ(book.cancelled, 2);
    aioloop_future_unref(f);
    options.timeout = AIOLOOP_MS(1);
    names_fails(loop, aioloop_create_server(loop, &names_protocol, NULL, NULL, 0, &options), AIOLOOP_ETIMEDOUT, "looking up");
    CHECK_EQ(book.cancelled, 4);
    options.service = "http";
    names_fails(loop, aioloop_create_server(loop, &names_protocol, NULL, NULL, 80, &options), AIOLOOP_EINVAL, "service");
    test_end(loop);
}

static int names_handled;

static void names_handle(aioloop *loop, aioloop_stream *stream, void *arg) {
    (void)loop;
    (void)arg;
    names_handled++;
    aioloop_stream_write(stream, "hello", 5);
    aioloop_stream_close(stream);
}

TEST(names_streams_have_them_too, "STR-01 CONN-02") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    aioloop_stream_server_options options = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    aioloop_stream *stream = NULL;
    const char *data = NULL;
    aioloop_address address;
    int64_t rc;
    int when;
    names_handled = 0;
    options.callback = names_handle;
    for (when = NAMES_NOW; when <= NAMES_SOON; when++) {
        memset(&book, 0, sizeof(book));
        names_add(&book, "127.0.0.1", 0);
        book.when = when == NAMES_NOW ? NAMES_NOW : NAMES_SOON;
        names_open(loop, &book);
        rc = aioloop_run_until_complete(loop, aioloop_start_server(loop, NULL, NULL, "j.example", 0, &options), &server);
        CHECK_EQ(rc, 1);
        CHECK_EQ(aioloop_server_socket(server, 0, NULL, &address), 0);
        book.items[0].address = address;
        rc = aioloop_run_until_complete(loop, aioloop_open_connection(loop, "k.example", 7, NULL), &stream);
        CHECK_EQ(rc, 0);
        CHECK_EQ(aioloop_run_until_complete(loop, aioloop_stream_readexactly(stream, 5), &data), 5);
        CHECK(memcmp(data, "hello", 5) == 0);
        CHECK_EQ(names_handled, when + 1);
        aioloop_stream_unref(stream);
        aioloop_server_close(server);
        CHECK_EQ(aioloop_run_until_complete(loop, aioloop_server_wait_closed(server), NULL), 0);
        aioloop_server_unref(server);
    }
    test_end(loop);
}

TEST(names_a_stream_server_is_given_up_while_it_looks_up, "DNS-04 STR-01") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    aioloop_stream_server_options options = AIOLOOP_ZERO;
    aioloop_future *f;
    options.callback = names_handle;
    names_add(&book, "127.0.0.1", 0);
    book.when = NAMES_NEVER;
    names_open(loop, &book);
    f = aioloop_future_ref(aioloop_start_server(loop, NULL, NULL, "silent", 0, &options));
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK_EQ(book.cancelled, 1);
    aioloop_future_unref(f);
    test_spin(loop, 2);
    /* Cancelled as it is listening already, in the iteration in which it would hear of that. */
    book.when = NAMES_SOON;
    f = aioloop_future_ref(aioloop_start_server(loop, NULL, NULL, "soon", 0, &options));
    test_spin(loop, 1);
    (void)aioloop_call_soon(loop, names_cancel_now, f);
    test_spin(loop, 1);
    CHECK(aioloop_future_done(f));
    test_spin(loop, 4);
    aioloop_future_unref(f);
    /* Nobody waits for this one: it serves, and goes with the loop. */
    aioloop_future_unref(aioloop_start_server(loop, NULL, NULL, "soon", 0, &options));
    test_spin(loop, 4);
    test_end(loop);
}

/* ---- sockets used directly ---- */

TEST(names_a_socket_is_connected_by_name_for_its_family, "SOCK-04") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    aioloop_address at;
    aioloop_socket listener = test_listener(loop, 5, &at);
    aioloop_socket near;
    aioloop_socket far;
    int when;
    char host[64];
    aioloop_address_host(&at, host, sizeof(host));
    for (when = NAMES_NOW; when <= NAMES_SOON; when++) {
        memset(&book, 0, sizeof(book));
        names_add(&book, host, at.port);
        names_add(&book, "127.0.0.1", 1); /* is not tried */
        book.when = when == NAMES_NOW ? NAMES_NOW : NAMES_SOON;
        names_open(loop, &book);
        near = test_socket(loop, at.family, AIOLOOP_SOCK_STREAM);
        CHECK_EQ(aioloop_run_until_complete(loop, aioloop_sock_connect(loop, near, "t.example", 7), NULL), 0);
        CHECK_EQ(book.calls, 1);
        CHECK_STR(book.service, "7");
        CHECK_EQ(book.options[0].family, at.family);
        far = (aioloop_socket)aioloop_run_until_complete(
            loop, aioloop_wait_for(aioloop_sock_accept(loop, listener, NULL), AIOLOOP_SECONDS(2)), NULL);
        CHECK(far >= 0);
        test_close_socket(loop, near);
        if (!test_simulated(loop))
            test_keep_socket((int)far);
        test_close_socket(loop, far);
    }
    /* A number needs no look-up. */
    book.calls = 0;
    near = test_socket(loop, at.family, AIOLOOP_SOCK_STREAM);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_sock_connect(loop, near, host, at.port), NULL), 0);
    CHECK_EQ(book.calls, 0);
    test_close_socket(loop, near);
    test_close_socket(loop, listener);
    test_end(loop);
}

TEST(names_a_socket_whose_look_up_fails_or_is_given_up, "SOCK-04 SOCK-08 SOCK-14") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    aioloop_socket s = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_STREAM);
    aioloop_future *f;
    book.fail = AIOLOOP_EAI_NONAME;
    names_open(loop, &book);
    names_fails(loop, aioloop_sock_connect(loop, s, "u.example", 80), AIOLOOP_EAI_NONAME, "the book says no");
    book.when = NAMES_SOON;
    names_fails(loop, aioloop_sock_connect(loop, s, "u.example", 80), AIOLOOP_EAI_NONAME, "the book says no");
    book.fail = 0;
    names_fails(loop, aioloop_sock_connect(loop, s, "u.example", 80), AIOLOOP_ELOOKUP, "no address");
    names_fails(loop, aioloop_sock_connect(loop, s, "::1", 80), AIOLOOP_ELOOKUP, "family");
    names_fails(loop, aioloop_sock_connect(loop, s, "u.example", 65536), AIOLOOP_EINVAL, "port");
    names_fails(loop, aioloop_sock_connect(loop, s, NULL, 80), AIOLOOP_EINVAL, "host");
    names_fails(loop, aioloop_sock_connect(loop, (aioloop_socket)-1, "u.example", 80), AIOLOOP_EBADF, "");
    /* Given up while it is looked up, and as the answer is there. */
    book.when = NAMES_NEVER;
    f = aioloop_future_ref(aioloop_sock_connect(loop, s, "silent", 80));
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK_EQ(book.cancelled, 1);
    aioloop_future_unref(f);
    names_add(&book, "127.0.0.1", 9);
    book.when = NAMES_SOON;
    f = aioloop_future_ref(aioloop_sock_connect(loop, s, "soon", 80));
    (void)aioloop_call_soon(loop, names_cancel_now, f);
    test_spin(loop, 4);
    CHECK(aioloop_future_cancelled(f));
    aioloop_future_unref(f);
    /* And one that stays pending as the loop closes. */
    book.when = NAMES_NEVER;
    f = aioloop_future_ref(aioloop_sock_connect(loop, s, "silent", 80));
    test_close_socket(loop, s); /* it was never the loop's */
    CHECK_EQ(aioloop_close(loop), 0);
    CHECK(!aioloop_future_done(f));
    CHECK(aioloop_future_cancel(f, NULL));
    aioloop_future_unref(f);
    names_close(&book);
    test_end(loop);
}

TEST(names_a_resolver_may_know_less_than_it_should, "CONN-06") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    aioloop_server_options options = AIOLOOP_ZERO;
    const char *const hosts[] = {"127.0.0.1", NULL};
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    int port = 0;
    int64_t rc;
    aioloop_server *server = names_serve(loop, &far, "127.0.0.1", &port, false);
    /* No port: it is the one that was asked for. */
    names_add(&book, "127.0.0.1", 0);
    names_open(loop, &book);
    rc = aioloop_run_until_complete(loop, aioloop_create_connection(loop, &test_protocol, &near, "v.example", port, NULL), NULL);
    CHECK_EQ(rc, 0);
    names_end(loop, &near, &far);
    /* No address at all, or none of the internet. */
    book.items[0].address.family = AIOLOOP_UNSPEC;
    names_fails(loop, aioloop_create_connection(loop, &names_protocol, NULL, "v.example", port, NULL), AIOLOOP_EINVAL, "family 0");
    CHECK_EQ(aioloop_address_unix(&book.items[0].address, "/v", 0), 0);
    names_fails(loop, aioloop_create_server(loop, &names_protocol, NULL, "v.example", 0, NULL), AIOLOOP_EINVAL, "family");
    options.hosts = hosts;
    options.host_count = 2;
    names_fails(loop, aioloop_create_server(loop, &names_protocol, NULL, NULL, 0, &options), AIOLOOP_EINVAL, "NULL");
    names_end_server(server);
    test_end(loop);
}

static aioloop_future *names_ask_the_system(aioloop *loop, void *arg, const char *host, const char *service,
                                            const aioloop_getaddrinfo_options *options) {
    ++*(int *)arg;
    return aioloop_getaddrinfo(loop, host, service, options);
}

TEST(names_a_resolver_may_ask_the_system, "DNS-01") {
    aioloop *loop = test_loop();
    aioloop_addrinfo *list = NULL;
    aioloop_getaddrinfo_options options = AIOLOOP_ZERO;
    int asked = 0;
    int64_t n;
    test_needs_threads(loop);
    CHECK_EQ(aioloop_set_resolver(loop, names_ask_the_system, &asked), 0);
    options.flags = AIOLOOP_AI_NUMERICHOST;
    n = aioloop_run_until_complete(loop, aioloop_getaddrinfo(loop, "127.0.0.1", "80", &options), &list);
    CHECK_LE(1, n);
    CHECK_EQ(asked, 1);
    CHECK_EQ(list[0].address.port, 80);
    aioloop_freeaddrinfo(list);
    test_end(loop);
}

/* A resolver that does what it must not. */
typedef struct names_rogue {
    int how;
    aioloop_future *outer; /* what it cancels */
    aioloop_future *given;
    int64_t got;
} names_rogue;

static bool names_rogue_cancelled(aioloop_future *future, void *owner) {
    names_rogue *rogue = (names_rogue *)owner;
    if (rogue->outer != NULL)
        aioloop_future_cancel(rogue->outer, NULL); /* again */
    aioloop_future_unref(future);
    return true;
}

static aioloop_future *names_rogue_resolve(aioloop *loop, void *arg, const char *host, const char *service,
                                           const aioloop_getaddrinfo_options *options) {
    names_rogue *rogue = (names_rogue *)arg;
    aioloop_future *sleep;
    (void)host;
    (void)service;
    (void)options;
    switch (rogue->how) {
    case 1: /* a wait */
        sleep = aioloop_sleep(loop, AIOLOOP_MS(50));
        rogue->got = aioloop_await(sleep, NULL);
        break;
    case 2:
        rogue->got = aioloop_run_once(loop, 0);
        break;
    case 3:
        rogue->got = aioloop_close(loop);
        break;
    default:
        break;
    }
    return aioloop_create_operation(loop, names_rogue_cancelled, rogue);
}

TEST(names_a_resolver_that_cancels_again, "CONN-17 DNS-04") {
    aioloop *loop = test_loop();
    names_rogue rogue = AIOLOOP_ZERO;
    aioloop_stream_server_options options = AIOLOOP_ZERO;
    int i;
    options.callback = names_handle;
    CHECK_EQ(aioloop_set_resolver(loop, names_rogue_resolve, &rogue), 0);
    for (i = 0; i < 5; i++) {
        aioloop_socket s = test_socket(loop, AIOLOOP_INET, AIOLOOP_SOCK_STREAM);
        aioloop_future *f = i == 0   ? aioloop_create_connection(loop, &names_protocol, NULL, "w.example", 80, NULL)
                            : i == 1 ? aioloop_create_server(loop, &names_protocol, NULL, "w.example", 80, NULL)
                            : i == 2 ? aioloop_sock_connect(loop, s, "w.example", 80)
                            : i == 3 ? aioloop_open_connection(loop, "w.example", 80, NULL)
                                     : aioloop_start_server(loop, NULL, NULL, "w.example", 80, &options);
        rogue.outer = aioloop_future_ref(f);
        CHECK(aioloop_future_cancel(f, NULL));
        test_spin(loop, 2);
        CHECK(aioloop_future_cancelled(f));
        rogue.outer = NULL;
        aioloop_future_unref(f);
        test_close_socket(loop, s);
    }
    test_end(loop);
}

static int64_t names_connect_in_task(aioloop *loop, void *arg, void **out) {
    aioloop_connection_options options = AIOLOOP_ZERO;
    (void)arg;
    (void)out;
    options.timeout = AIOLOOP_MS(2);
    return aioloop_await(aioloop_create_connection(loop, &names_protocol, NULL, "x.example", 80, &options), NULL);
}

TEST(names_a_resolver_cannot_wait_run_or_close, "DNS-03 RUN-12 RUN-15") {
    aioloop *loop = test_loop();
    names_rogue rogue = AIOLOOP_ZERO;
    CHECK_EQ(aioloop_set_resolver(loop, names_rogue_resolve, &rogue), 0);
    for (rogue.how = 2; rogue.how <= 3; rogue.how++) {
        aioloop_future *f = aioloop_future_ref(aioloop_create_connection(loop, &names_protocol, NULL, "x.example", 80, NULL));
        CHECK_EQ(rogue.got, AIOLOOP_EMISUSE);
        rogue.got = 0;
        CHECK(aioloop_future_cancel(f, NULL));
        aioloop_future_unref(f);
    }
#if !defined(AIOLOOP_USE_COROUTINES) || AIOLOOP_USE_COROUTINES != 0
    rogue.how = 1;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_task(loop, names_connect_in_task, NULL, NULL), NULL), AIOLOOP_ETIMEDOUT);
    CHECK_EQ(rogue.got, AIOLOOP_EMISUSE);
#else
    (void)names_connect_in_task;
#endif
    test_end(loop);
}

static aioloop_future *names_resolve_twice(aioloop *loop, void *arg, const char *host, const char *service,
                                           const aioloop_getaddrinfo_options *options) {
    (void)loop;
    (void)host;
    (void)service;
    (void)options;
    return (aioloop_future *)arg;
}

TEST(names_a_resolver_gives_what_is_not_its_own, "CONN-06") {
    aioloop *loop = test_loop();
    aioloop *other = test_loop();
    names_book book = AIOLOOP_ZERO;
    aioloop_future *f;
    names_add(&book, "127.0.0.1", 9);
    f = aioloop_create_future(other);
    CHECK_EQ(aioloop_set_resolver(loop, names_resolve_twice, f), 0);
    names_fails(loop, aioloop_create_connection(loop, &names_protocol, NULL, "y.example", 80, NULL), AIOLOOP_EINVAL, "another loop");
    aioloop_future_unref(f);
    test_end(other);
    f = aioloop_create_future(loop); /* one list for everybody */
    CHECK(!aioloop_future_done(f));
    CHECK_EQ(aioloop_future_set_result(f, 1, aioloop_addrinfo_copy(book.items, 1), aioloop_freeaddrinfo), 0);
    CHECK_EQ(aioloop_set_resolver(loop, names_resolve_twice, f), 0);
    names_fails(loop, aioloop_create_connection(loop, &names_protocol, NULL, "y.example", 80, NULL), AIOLOOP_ECONNREFUSED, "");
    names_fails(loop, aioloop_create_connection(loop, &names_protocol, NULL, "y.example", 80, NULL), AIOLOOP_EMISUSE, "somebody else");
    aioloop_future_unref(f);
    test_end(loop);
}

/* ---- Happy Eyeballs ---- */

/* An address where connecting hangs: a listener whose queue is full; simulated, the network is slow while this is
 * called for. */
typedef struct names_hole {
    int port;
    int listener;
    int fillers[4];
} names_hole;

static void names_hole_open(aioloop *loop, names_hole *hole) {
    struct sockaddr_in name;
    socklen_t size = (socklen_t)sizeof(name);
    int i;
    memset(hole, 0, sizeof(*hole));
    hole->port = 9;
    if (test_simulated(loop))
        return;
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

static void names_hole_close(aioloop *loop, names_hole *hole) {
    int i;
    if (test_simulated(loop))
        return;
    for (i = 0; i < 4; i++)
        test_close_socket(loop, hole->fillers[i]);
    test_close_socket(loop, hole->listener);
}

/* What is begun from now on takes so long, in the simulation. */
static void names_slow(aioloop *loop, aioloop_time time) {
    if (test_simulated(loop))
        CHECK_EQ(aioloop_sim_set_delay(loop, time, time), 0);
}

/* How many of the process's first descriptors are open. */
static int names_open_fds(void) {
    int count = 0;
    int fd;
    for (fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) != -1;
    return count;
}

static void names_hurry(aioloop *loop, void *arg) {
    (void)arg;
    names_slow(loop, 0);
}

TEST(happy_eyeballs_starts_the_next_after_the_delay, "HE-01 HE-03") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    names_hole hole;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_future *f;
    aioloop_time since;
    int port = 0;
    int fds;
    aioloop_server *server = names_serve(loop, &far, "127.0.0.1", &port, false);
    names_hole_open(loop, &hole);
    names_add(&book, "127.0.0.1", hole.port);
    names_add(&book, "127.0.0.1", port);
    names_open(loop, &book);
    options.happy_eyeballs_delay = AIOLOOP_MS(3);
    if (!test_simulated(loop))
        options.timeout = AIOLOOP_SECONDS(2); /* for when something makes the second attempt fail: the first never will */
    fds = names_open_fds();
    since = aioloop_now(loop);
    names_slow(loop, AIOLOOP_SECONDS(3600));
    f = aioloop_create_connection(loop, &test_protocol, &near, "l.example", 80, &options);
    names_slow(loop, 0);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), 0);
    CHECK_LE(AIOLOOP_MS(3), aioloop_now(loop) - since);
    CHECK_LT(aioloop_now(loop) - since, AIOLOOP_SECONDS(3600));
    CHECK_EQ(near.made, 1);
    if (!test_simulated(loop) && far.made == 0)
        CHECK_EQ(names_open_fds(), fds + 1); /* the loser's socket was closed before anybody heard of the winner */
    names_end(loop, &near, &far);
    names_hole_close(loop, &hole);
    names_end_server(server);
    test_end(loop);
}

TEST(happy_eyeballs_a_failure_starts_the_next_at_once, "HE-02 HE-01") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_time since = aioloop_now(loop);
    int dead = 0;
    int port = 0;
    int64_t rc;
    aioloop_server *server = names_serve(loop, &far, "127.0.0.1", &port, false);
    aioloop_server *deaf = names_serve(loop, NULL, "127.0.0.1", &dead, true);
    names_add(&book, "127.0.0.1", dead);
    names_add(&book, "127.0.0.1", dead);
    names_add(&book, "127.0.0.1", port);
    names_open(loop, &book);
    options.happy_eyeballs_delay = AIOLOOP_SECONDS(3600);
    rc = aioloop_run_until_complete(loop, aioloop_create_connection(loop, &test_protocol, &near, "m.example", 80, &options), NULL);
    CHECK_EQ(rc, 0);
    CHECK_LT(aioloop_now(loop) - since, AIOLOOP_SECONDS(3600));
    names_end(loop, &near, &far);
    names_end_server(server);
    names_end_server(deaf);
    test_end(loop);
}

/* An attempt that fails does not hurry the next one if a later one than it is under way. */
TEST(happy_eyeballs_waits_for_the_latest_attempt, "HE-01") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_future *f;
    aioloop_time since;
    int port = 0;
    aioloop_server *server = names_serve(loop, &far, "127.0.0.1", &port, false);
    if (!test_simulated(loop)) {
        names_end_server(server);
        test_end(loop);
        SKIP("needs a network whose failures take time");
    }
    names_add(&book, "127.0.0.1", 9);
    names_add(&book, "127.0.0.1", 9);
    names_add(&book, "127.0.0.1", port);
    names_open(loop, &book);
    options.happy_eyeballs_delay = AIOLOOP_SECONDS(10);
    since = aioloop_now(loop);
    names_slow(loop, AIOLOOP_SECONDS(12)); /* the first fails at 12, the second, begun at 10, at 22: the third begins at 20 */
    f = aioloop_create_connection(loop, &test_protocol, &near, "n.example", 80, &options);
    (void)aioloop_call_later(loop, AIOLOOP_SECONDS(15), names_hurry, NULL);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), 0);
    CHECK_LE(AIOLOOP_SECONDS(20), aioloop_now(loop) - since);
    CHECK_LT(aioloop_now(loop) - since, AIOLOOP_SECONDS(21));
    names_end(loop, &near, &far);
    names_end_server(server);
    test_end(loop);
}

TEST(happy_eyeballs_a_slow_attempt_can_still_win, "HE-04 HE-03") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer slow = AIOLOOP_ZERO;
    test_peer never = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_server *one;
    aioloop_server *two;
    aioloop_future *f;
    aioloop_time since;
    int ports[2];
    if (!test_simulated(loop)) {
        test_end(loop);
        SKIP("needs a network that is slow");
    }
    one = names_serve(loop, &slow, "127.0.0.1", &ports[0], false);
    two = names_serve(loop, &never, "127.0.0.1", &ports[1], false);
    names_add(&book, "127.0.0.1", ports[0]);
    names_add(&book, "127.0.0.1", ports[1]);
    names_open(loop, &book);
    options.happy_eyeballs_delay = AIOLOOP_SECONDS(1);
    since = aioloop_now(loop);
    names_slow(loop, AIOLOOP_SECONDS(5));
    f = aioloop_create_connection(loop, &test_protocol, &near, "o.example", 80, &options);
    names_slow(loop, AIOLOOP_SECONDS(3600));
    (void)aioloop_call_later(loop, AIOLOOP_SECONDS(2), names_hurry, NULL); /* the second is under way by then */
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), 0);
    CHECK_LT(aioloop_now(loop) - since, AIOLOOP_SECONDS(6));
    test_run_until(loop, &slow.made, 1, "the slow one");
    names_end(loop, &near, &slow);
    CHECK_EQ(never.made, 0);
    names_end_server(one);
    names_end_server(two);
    test_end(loop);
}

TEST(happy_eyeballs_errors_come_in_the_order_of_the_addresses, "HE-05") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_server *deaf[3];
    aioloop_future *f;
    int port = 0;
    int i;
    names_made = 0;
    for (i = 0; i < 3; i++) {
        deaf[i] = names_serve(loop, NULL, "127.0.0.1", &port, true);
        names_add(&book, "127.0.0.1", port);
    }
    names_open(loop, &book);
    options.happy_eyeballs_delay = AIOLOOP_MS(1);
    options.all_errors = true;
    names_slow(loop, AIOLOOP_MS(100)); /* the first, that is: it fails last */
    f = aioloop_future_ref(aioloop_create_connection(loop, &names_protocol, NULL, "p.example", 80, &options));
    names_slow(loop, 0);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), AIOLOOP_ECONNREFUSED);
    CHECK_EQ(aioloop_error_count(aioloop_future_error(f)), 3);
    for (i = 0; i < 3; i++) {
        char name[64];
        aioloop_address_format(&book.items[i].address, name, sizeof(name));
        CHECK(strstr(aioloop_error_message(aioloop_error_at(aioloop_future_error(f), (size_t)i)), name) != NULL);
    }
    aioloop_future_unref(f);
    CHECK_EQ(names_made, 0);
    for (i = 0; i < 3; i++)
        names_end_server(deaf[i]);
    test_end(loop);
}

/* In which order the addresses of a book are tried: digits of their places, as the errors tell. */
static void names_order(aioloop *loop, names_book *book, const aioloop_connection_options *options, char *order) {
    aioloop_future *f = aioloop_future_ref(aioloop_create_connection(loop, &names_protocol, NULL, "q.example", 80, options));
    size_t i;
    size_t k;
    CHECK_LT(aioloop_run_until_complete(loop, f, NULL), 0);
    CHECK_EQ(aioloop_error_count(aioloop_future_error(f)), book->count);
    for (i = 0; i < book->count; i++) {
        const char *text = aioloop_error_message(aioloop_error_at(aioloop_future_error(f), i));
        order[i] = '?';
        for (k = 0; k < book->count; k++) {
            char name[64];
            aioloop_address_format(&book->items[k].address, name, sizeof(name));
            if (strstr(text, name) != NULL)
                order[i] = (char)('0' + k);
        }
    }
    order[book->count] = '\0';
    aioloop_future_unref(f);
}

TEST(happy_eyeballs_interleaves_the_families, "HE-06 HE-07") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_server *deaf[5];
    char order[16];
    int port = 0;
    int i;
    if (!test_has_ipv6(loop)) {
        test_end(loop);
        SKIP("no ::1 here");
    }
    for (i = 0; i < 5; i++) { /* 6a 6b 6c 4a 4b */
        const char *host = i < 3 ? "::1" : "127.0.0.1";
        deaf[i] = names_serve(loop, NULL, host, &port, true);
        names_add(&book, host, port);
    }
    names_open(loop, &book);
    options.all_errors = true;
    names_order(loop, &book, &options, order); /* neither */
    CHECK_STR(order, "01234");
    options.interleave = 1;
    names_order(loop, &book, &options, order);
    CHECK_STR(order, "03142");
    options.interleave = 2;
    names_order(loop, &book, &options, order);
    CHECK_STR(order, "01324");
    options.interleave = 9;
    names_order(loop, &book, &options, order);
    CHECK_STR(order, "01234");
    options.interleave = 0;
    options.happy_eyeballs_delay = AIOLOOP_MS(1); /* brings 1 along, */
    names_order(loop, &book, &options, order);
    CHECK_STR(order, "03142");
    options.interleave = -1; /* unless that is refused */
    names_order(loop, &book, &options, order);
    CHECK_STR(order, "01234");
    options.interleave = -2;
    names_fails(loop, aioloop_create_connection(loop, &names_protocol, NULL, "q.example", 80, &options), AIOLOOP_EINVAL, "interleave");
    for (i = 0; i < 5; i++)
        names_end_server(deaf[i]);
    test_end(loop);
}

TEST(happy_eyeballs_a_delay_of_zero_is_one, "HE-08") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    names_hole hole;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_future *f;
    aioloop_time since;
    int port = 0;
    aioloop_server *server = names_serve(loop, &far, "127.0.0.1", &port, false);
    names_hole_open(loop, &hole);
    names_add(&book, "127.0.0.1", hole.port);
    names_add(&book, "127.0.0.1", hole.port);
    names_add(&book, "127.0.0.1", port);
    names_open(loop, &book);
    options.happy_eyeballs_delay = -1;
    if (!test_simulated(loop))
        options.timeout = AIOLOOP_SECONDS(2); /* as above */
    since = aioloop_now(loop);
    names_slow(loop, AIOLOOP_SECONDS(3600));
    f = aioloop_future_ref(aioloop_create_connection(loop, &test_protocol, &near, "r.example", 80, &options));
    test_spin(loop, 1);
    names_slow(loop, 0);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), 0);
    if (test_simulated(loop))
        CHECK_LT(aioloop_now(loop) - since, AIOLOOP_SECONDS(1));
    aioloop_future_unref(f);
    names_end(loop, &near, &far);
    names_hole_close(loop, &hole);
    names_end_server(server);
    test_end(loop);
}

TEST(happy_eyeballs_cancel_ends_every_attempt, "HE-09 CONN-17") {
    aioloop *loop = test_loop();
    names_book book = AIOLOOP_ZERO;
    names_hole hole;
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_future *f;
    int fds = names_open_fds();
    int i;
    names_made = 0;
    names_hole_open(loop, &hole);
    for (i = 0; i < 4; i++)
        names_add(&book, "127.0.0.1", hole.port);
    names_open(loop, &book);
    options.happy_eyeballs_delay = -1;
    names_slow(loop, AIOLOOP_SECONDS(3600));
    for (i = 0; i < 2; i++) {
        options.timeout = i == 1 ? AIOLOOP_MS(2) : 0;
        f = aioloop_future_ref(aioloop_create_connection(loop, &names_protocol, NULL, "s.example", 80, &options));
        if (i == 0) {
            test_spin(loop, 12);
            CHECK(aioloop_future_cancel(f, NULL));
            CHECK(aioloop_future_cancelled(f));
        } else {
            names_fails(loop, f, AIOLOOP_ETIMEDOUT, "connect to 127.0.0.1:");
        }
        aioloop_future_unref(f);
    }
    names_hole_close(loop, &hole);
    if (!test_simulated(loop))
        CHECK_EQ(names_open_fds(), fds);
    names_slow(loop, 0);
    test_spin(loop, 8);
    CHECK_EQ(names_made, 0);
    test_end(loop);
}
