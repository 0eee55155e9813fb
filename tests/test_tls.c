/*
 * test_tls.c - TLS transports: the handshake and its failures, bytes both ways, goodbyes, flow control, what is known of
 * a connection, the upgrade of live ones, streams. Contexts and sessions have tests of their own (unit_ssl.c).
 */
#include "awaits.h"
#include "support.h"

#if defined(AIOLOOP_USE_TLS) && AIOLOOP_USE_TLS

#include <fcntl.h>
#include <mbedtls/version.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
#if defined(MBEDTLS_PSA_CRYPTO_C)
#include <psa/crypto.h>
#endif

/* ---- contexts ---- */

static const char *tls_file(const char *name, char *path, size_t size) {
    const char *folder = getenv("TEST_CERTIFICATES");
    CHECK(folder != NULL);
    snprintf(path, size, "%s/%s", folder, name);
    return path;
}

/* Contexts of a test that gives up go after its loops. */
static aioloop_ssl_context *tls_kept[8];
static void (*tls_other_hook)(void);

static void tls_clean_up(void) {
    size_t i;
    tls_other_hook();
    for (i = 0; i < sizeof(tls_kept) / sizeof(tls_kept[0]); i++)
        aioloop_ssl_context_unref(tls_kept[i]);
}

static aioloop_ssl_context *tls_keep(aioloop_ssl_context *context) {
    size_t i = 0;
#if defined(MBEDTLS_PSA_CRYPTO_C)
    test_forget_hook = mbedtls_psa_crypto_free;
#endif
    CHECK(context != NULL);
    while (i < sizeof(tls_kept) / sizeof(tls_kept[0]) - 1 && tls_kept[i] != NULL)
        i++;
    tls_kept[i] = context;
    if (test_cleanup_hook != tls_clean_up) {
        tls_other_hook = test_cleanup_hook;
        test_cleanup_hook = tls_clean_up;
    }
    return context;
}

static void tls_drop(aioloop_ssl_context *context) {
    size_t i;
    for (i = 0; i < sizeof(tls_kept) / sizeof(tls_kept[0]); i++)
        if (tls_kept[i] == context)
            tls_kept[i] = NULL;
    aioloop_ssl_context_unref(context);
}

static aioloop_ssl_context *tls_client(const char *authority) {
    char path[512];
    aioloop_ssl_context *context = tls_keep(aioloop_ssl_context_new(AIOLOOP_TLS_CLIENT));
    if (authority != NULL)
        CHECK_EQ(aioloop_ssl_context_load_verify_locations(context, tls_file(authority, path, sizeof(path)), NULL), 1);
    return context;
}

static aioloop_ssl_context *tls_server(const char *name) {
    char cert[512];
    char key[512];
    char file[64];
    aioloop_ssl_context *context = tls_keep(aioloop_ssl_context_new(AIOLOOP_TLS_SERVER));
    snprintf(file, sizeof(file), "%s.pem", name);
    tls_file(file, cert, sizeof(cert));
    snprintf(file, sizeof(file), "%s.key", name);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain(context, cert, tls_file(file, key, sizeof(key)), NULL), 0);
    return context;
}

/* ---- servers and clients ---- */

typedef struct tls_place {
    aioloop_ssl_context *server_context;
    aioloop_ssl_context *client_context;
    aioloop_server *server;
    int port;
} tls_place;

static void tls_serve(aioloop *loop, tls_place *place, test_peer *far, const aioloop_protocol *protocol,
                      aioloop_server_options *options) {
    aioloop_server_options none = AIOLOOP_ZERO;
    aioloop_address address;
    if (options == NULL)
        options = &none;
    if (place->server_context == NULL)
        place->server_context = tls_server("server");
    if (place->client_context == NULL)
        place->client_context = tls_client("ca.pem");
    options->ssl = place->server_context;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_server(loop, protocol, far, "127.0.0.1", 0, options), &place->server), 1);
    CHECK_EQ(aioloop_server_socket(place->server, 0, NULL, &address), 0);
    place->port = address.port;
}

/* What a fault has broken is not waited for as long as by default. */
static aioloop_time tls_patience(aioloop_time asked) {
    return asked != 0 ? asked : (aioloop_time)(5e9 * test_slowdown());
}

static aioloop_future *tls_dial(aioloop *loop, const tls_place *place, test_peer *near, const aioloop_protocol *protocol,
                                aioloop_connection_options *options) {
    aioloop_connection_options none = AIOLOOP_ZERO;
    if (options == NULL)
        options = &none;
    if (options->ssl == NULL)
        options->ssl = place->client_context;
    if (options->server_hostname == NULL)
        options->server_hostname = "localhost";
    options->ssl_handshake_timeout = tls_patience(options->ssl_handshake_timeout);
    return aioloop_create_connection(loop, protocol, near, "127.0.0.1", place->port, options);
}

/* Both connected. */
static void tls_pair(aioloop *loop, tls_place *place, test_peer *near, test_peer *far, const aioloop_protocol *protocol) {
    memset(place, 0, sizeof(*place));
    tls_serve(loop, place, far, protocol, NULL);
    CHECK_EQ(aioloop_run_until_complete(loop, tls_dial(loop, place, near, protocol, NULL), NULL), 0);
    CHECK_EQ(near->made, 1);
    test_run_until(loop, &far->made, 1, "the server's handshake");
}

static void tls_end_place(tls_place *place) {
    aioloop_server_close(place->server);
    aioloop_server_unref(place->server);
    tls_drop(place->server_context);
    tls_drop(place->client_context);
}

static void tls_end(aioloop *loop, tls_place *place, test_peer *near, test_peer *far) {
    test_end_pair(loop, near, far);
    tls_end_place(place);
    test_end(loop);
}

static void tls_fails(aioloop *loop, aioloop_future *f, int code, const char *text) {
    int64_t rc;
    aioloop_future_ref(f);
    rc = aioloop_run_until_complete(loop, f, NULL);
    CHECK_EQ(rc, code);
    CHECK(strstr(aioloop_error_message(aioloop_future_error(f)), text) != NULL);
    aioloop_future_unref(f);
}

/* ---- bytes ---- */

TEST(tls_connects_and_exchanges, "TLS-01 CONN-14") {
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    far.echo = true;
    tls_pair(loop, &place, &near, &far, &test_protocol);
    CHECK_EQ(aioloop_transport_write(near.transport, "hello", 5), 0);
    test_run_until_received(loop, &near, 5);
    CHECK(memcmp(near.data, "hello", 5) == 0);
    CHECK(memcmp(far.data, "hello", 5) == 0);
    CHECK_EQ(near.made, 1);
    tls_end(loop, &place, &near, &far);
}

static aioloop_future *tls_future;

static void tls_decided(test_peer *peer) {
    (void)peer;
    aioloop_future_set_result(tls_future, 0, NULL, NULL);
}

TEST(tls_shakes_hands_in_the_executor, "TLS-01 STLS-01") {
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_server_options server = AIOLOOP_ZERO;
    aioloop_connection_options client = AIOLOOP_ZERO;
    aioloop_future *f;
    int i;
    test_needs_threads(loop);
    server.ssl_handshake_in_executor = true;
    client.ssl_handshake_in_executor = true;
    /* Virtual time waits for no thread. */
    client.ssl_handshake_timeout = test_simulated(loop) ? AIOLOOP_FOREVER : tls_patience(0);
    server.ssl_handshake_timeout = client.ssl_handshake_timeout;
    tls_serve(loop, &place, &far, &test_protocol, &server);
    for (i = 0; i < 3; i++) {
        memset(&near, 0, sizeof(near));
        memset(&far, 0, sizeof(far));
        far.echo = true;
        tls_future = aioloop_create_future(loop);
        far.on_made = tls_decided;
        near.on_lost = tls_decided;
        CHECK_EQ(aioloop_run_until_complete(loop, tls_dial(loop, &place, &near, &test_protocol, &client), NULL), 0);
        CHECK_EQ(aioloop_run_until_complete(loop, tls_future, NULL), 0);
        CHECK_EQ(far.made, 1);
        aioloop_future_unref(tls_future);
        far.on_made = NULL;
        near.on_lost = NULL;
        CHECK_EQ(aioloop_transport_write(near.transport, "hello", 5), 0);
        test_run_until_received(loop, &near, 5);
        test_end_pair(loop, &near, &far);
    }
    memset(&near, 0, sizeof(near));
    memset(&far, 0, sizeof(far));
    client.server_hostname = "wrong.example.com";
    tls_fails(loop, tls_dial(loop, &place, &near, &test_protocol, &client), AIOLOOP_ESSL_CERT_VERIFY, "wrong.example.com");
    client.server_hostname = "localhost";
    for (i = 0; i < 40; i++) { /* given up at any stage */
        f = aioloop_future_ref(tls_dial(loop, &place, &near, &test_protocol, &client));
        test_spin(loop, i);
        aioloop_future_cancel(f, NULL);
        aioloop_future_unref(f);
    }
    f = aioloop_future_ref(tls_dial(loop, &place, &near, &test_protocol, &client)); /* goes with the loop */
    test_spin(loop, 4);
    tls_end_place(&place);
    CHECK_EQ(aioloop_close(loop), 0);
    aioloop_future_unref(f);
    test_peer_drop(&near);
    test_peer_drop(&far);
    CHECK_EQ(aioloop_free(loop), 0);
    test_wait_until_freed();
}

static char tls_pattern(size_t i) {
    return (char)(i * 7 + i / 251);
}

static size_t tls_checked;
static bool tls_wrong;

static void tls_check(test_peer *peer, const void *data, size_t size) {
    size_t i;
    (void)peer;
    for (i = 0; i < size; i++)
        tls_wrong = tls_wrong || ((const char *)data)[i] != tls_pattern(tls_checked + i);
    tls_checked += size;
}

TEST(tls_megabytes_go_both_ways, "TLS-12 TLS-16") {
    enum { SIZE = 3 << 20 };
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    char *bytes = (char *)malloc(SIZE);
    size_t i;
    CHECK(bytes != NULL);
    for (i = 0; i < SIZE; i++)
        bytes[i] = tls_pattern(i);
    tls_checked = 0;
    tls_wrong = false;
    far.echo = true;
    near.on_data = tls_check;
    tls_pair(loop, &place, &near, &far, &test_protocol);
    CHECK_EQ(aioloop_transport_write(near.transport, bytes, SIZE), 0);
    test_run_until_received(loop, &near, SIZE);
    CHECK_EQ(near.resumed, near.paused);
    CHECK(!tls_wrong);
    CHECK_EQ(aioloop_transport_get_write_buffer_size(near.transport), 0);
    free(bytes);
    tls_end(loop, &place, &near, &far);
}

static long tls_allocations;

static void *tls_allocate(void *context, void *pointer, size_t old_size, size_t new_size) {
    (void)context;
    (void)old_size;
    if (new_size == 0) {
        test_free(pointer);
        return NULL;
    }
    tls_allocations++;
    return pointer == NULL ? test_malloc(new_size) : test_realloc(pointer, new_size);
}

/* Small records, many at once, and large ones. */
TEST(tls_records_need_no_memory, "TLS-16") {
    static char bytes[65536];
    aioloop_config config = AIOLOOP_ZERO;
    aioloop_allocator allocator = AIOLOOP_ZERO;
    aioloop *loop;
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    size_t received = 0;
    int round;
    int i;
    allocator.allocate = tls_allocate;
    config.allocator = &allocator;
    loop = test_loop_with(&config);
    far.echo = true;
    tls_pair(loop, &place, &near, &far, &test_protocol);
    for (round = 0; round < 20; round++) {
        for (i = 0; i < 16; i++)
            CHECK_EQ(aioloop_transport_write(near.transport, bytes, 1024), 0);
        CHECK_EQ(aioloop_transport_write(near.transport, bytes, sizeof(bytes)), 0);
        received += 16 * 1024 + sizeof(bytes);
        test_run_until_received(loop, &near, received);
        if (round == 9)
            tls_allocations = 0;
    }
    CHECK(tls_allocations == 0 || test_simulated(loop)); /* the network has no stock */
    tls_end(loop, &place, &near, &far);
}

TEST(tls_a_peer_that_does_not_read_pauses_writing, "TLS-12") {
    static char chunk[65536];
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    size_t low = 0;
    size_t high = 0;
    size_t written = 0;
    tls_pair(loop, &place, &near, &far, &test_protocol);
    aioloop_transport_get_write_buffer_limits(near.transport, &low, &high);
    CHECK_EQ(low, 128 * 1024);
    CHECK_EQ(high, 512 * 1024);
    aioloop_transport_pause_reading(far.transport);
    while (near.paused == 0 && written < ((size_t)64 << 20)) {
        CHECK_EQ(aioloop_transport_write(near.transport, chunk, sizeof(chunk)), 0);
        written += sizeof(chunk);
        test_spin(loop, 1);
    }
    CHECK_EQ(near.paused, 1);
    CHECK_LT(high, aioloop_transport_get_write_buffer_size(near.transport));
    CHECK_LT(aioloop_transport_get_write_buffer_size(near.transport), high + 2 * sizeof(chunk));
    CHECK_EQ(near.resumed, 0);
    aioloop_transport_resume_reading(far.transport);
    test_run_until_received(loop, &far, written);
    test_run_until(loop, &near.resumed, 1, "the permission to write on");
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(near.transport, 1000, 100), 0);
    CHECK_EQ(aioloop_transport_write(near.transport, "x", 1), 0);
    tls_end(loop, &place, &near, &far);
}

TEST(tls_serves_buffered_protocols, "TLS-16 BUF-03") {
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    char text[1000];
    size_t i;
    for (i = 0; i < sizeof(text); i++)
        text[i] = tls_pattern(i);
    far.echo = true;
    tls_pair(loop, &place, &near, &far, &test_buffered_protocol);
    CHECK_EQ(aioloop_transport_write(near.transport, text, sizeof(text)), 0);
    test_run_until_received(loop, &near, sizeof(text));
    CHECK(memcmp(near.data, text, sizeof(text)) == 0);
    tls_end(loop, &place, &near, &far);
}

static int tls_released;

static void tls_release(const void *data, size_t size, void *arg) {
    (void)data;
    (void)size;
    (void)arg;
    tls_released++;
}

TEST(tls_writes_pieces_and_lent_memory, "TLS-16") {
    static const char lent[] = "lent";
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_buf pieces[3] = {{"one ", 4}, {NULL, 0}, {"two ", 4}};
    tls_released = 0;
    tls_pair(loop, &place, &near, &far, &test_protocol);
    CHECK_EQ(aioloop_transport_writelines(near.transport, pieces, 3), 0);
    CHECK_EQ(aioloop_transport_write_owned(near.transport, lent, 4, tls_release, NULL), 0);
    CHECK_EQ(tls_released, 0); /* by the loop */
    test_run_until_received(loop, &far, 12);
    CHECK(memcmp(far.data, "one two lent", 12) == 0);
    CHECK_EQ(tls_released, 1);
    CHECK(!aioloop_transport_can_write_eof(near.transport));
    CHECK_EQ(aioloop_transport_write_eof(near.transport), AIOLOOP_ENOTAVAILABLE); /* TLS-10 */
    tls_end(loop, &place, &near, &far);
}

TEST(tls_cannot_be_half_closed, "TLS-10") {
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    tls_pair(loop, &place, &near, &far, &test_protocol);
    CHECK(!aioloop_transport_can_write_eof(near.transport));
    CHECK_EQ(aioloop_transport_write_eof(near.transport), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_transport_write(near.transport, "x", 1), 0); /* and nothing has changed */
    test_run_until_received(loop, &far, 1);
    tls_end(loop, &place, &near, &far);
}

/* ---- reading pauses ---- */

TEST(tls_pause_holds_back_what_is_decrypted, "TLS-13") {
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    int i;
    tls_pair(loop, &place, &near, &far, &test_protocol);
    aioloop_transport_pause_reading(far.transport);
    CHECK(!aioloop_transport_is_reading(far.transport));
    for (i = 0; i < 20; i++)
        CHECK_EQ(aioloop_transport_write(near.transport, "record ", 7), 0);
    test_spin(loop, 20);
    CHECK_EQ(far.received, 0);
    aioloop_transport_resume_reading(far.transport);
    CHECK_EQ(far.received, 0); /* not from inside the call */
    test_run_until_received(loop, &far, 140);
    tls_end(loop, &place, &near, &far);
}

static void tls_pause_now(test_peer *peer, const void *data, size_t size) {
    (void)data;
    (void)size;
    aioloop_transport_pause_reading(peer->transport);
}

/* Several records came together; each time one is delivered reading pauses again. */
TEST(tls_pause_inside_of_a_delivery, "TLS-13") {
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    int i;
    tls_pair(loop, &place, &near, &far, &test_protocol);
    far.on_data = tls_pause_now;
    for (i = 0; i < 3; i++)
        CHECK_EQ(aioloop_transport_write(near.transport, "abc", 3), 0);
    for (i = 1; i <= 3; i++) {
        test_run_until_received(loop, &far, (size_t)(3 * i));
        test_spin(loop, 10);
        CHECK_EQ(far.received, (size_t)(3 * i));
        aioloop_transport_resume_reading(far.transport);
    }
    tls_end(loop, &place, &near, &far);
}

/* ---- names that clients ask for ---- */

typedef struct tls_names {
    aioloop *loop;
    aioloop_server *server;
    aioloop_ssl_context *answer;
    pthread_t thread;
    int calls;
    int elsewhere; /* not in the loop's thread */
    int raise;
    bool aborts;
} tls_names;

static aioloop_ssl_context *tls_choose(aioloop_ssl_context *context, const char *server_name, void *arg) {
    tls_names *names = (tls_names *)arg;
    (void)context;
    (void)server_name;
    names->calls++;
    if (!pthread_equal(pthread_self(), names->thread))
        names->elsewhere++;
    else if (names->raise != 0)
        aioloop_raise(names->loop, names->raise, "chosen with an error");
    else if (names->aborts)
        aioloop_server_abort_clients(names->server);
    return names->answer;
}

typedef struct tls_choosing {
    aioloop *loop;
    tls_place place;
    tls_names names;
    test_peer near;
    test_peer far;
} tls_choosing;

static void tls_choosing_open(tls_choosing *c, bool in_executor) {
    aioloop_server_options options = AIOLOOP_ZERO;
    memset(c, 0, sizeof(*c));
    c->loop = test_loop();
    if (in_executor)
        test_needs_threads(c->loop);
    c->names.loop = c->loop;
    c->names.thread = pthread_self();
    c->place.server_context = tls_server("second");
    c->names.answer = tls_server("server");
    CHECK_EQ(aioloop_ssl_context_set_sni_callback(c->place.server_context, tls_choose, &c->names), 0);
    options.ssl_handshake_in_executor = in_executor;
    options.ssl_handshake_timeout = AIOLOOP_FOREVER;
    tls_serve(c->loop, &c->place, &c->far, &test_protocol, &options);
    c->names.server = c->place.server;
}

static void tls_choosing_close(tls_choosing *c) {
    CHECK_EQ(c->names.elsewhere, 0);
    tls_drop(c->names.answer);
    if (c->near.made != 0)
        test_end_pair(c->loop, &c->near, &c->far);
    tls_end_place(&c->place);
    test_end(c->loop);
}

static aioloop_future *tls_choosing_dial(tls_choosing *c) {
    aioloop_connection_options options = AIOLOOP_ZERO;
    options.ssl_handshake_timeout = AIOLOOP_FOREVER; /* virtual time does not wait for threads */
    return tls_dial(c->loop, &c->place, &c->near, &test_protocol, &options);
}

static void tls_names_are_chosen(bool in_executor) {
    tls_choosing c;
    tls_choosing_open(&c, in_executor);
    CHECK_EQ(aioloop_run_until_complete(c.loop, tls_choosing_dial(&c), NULL), 0);
    test_run_until(c.loop, &c.far.made, 1, "the server's handshake");
    CHECK_EQ(c.names.calls, 1);
    tls_choosing_close(&c);
}

TEST(tls_servers_choose_by_name, "TLS-16") {
    tls_names_are_chosen(false);
}

TEST(tls_servers_choose_by_name_in_the_loops_thread, "TLS-16") {
    tls_names_are_chosen(true);
}

/* A choice that raises, or ends the connection: reported, and nothing but that connection ends. */
static void tls_choice_fails(bool in_executor) {
    int how;
    for (how = 0; how < 3; how++) {
        tls_choosing c;
        tls_choosing_open(&c, in_executor);
        c.names.raise = how < 2 ? (int)AIOLOOP_EDOM : 0;
        c.names.aborts = how == 2;
        if (how == 1) {
            tls_drop(c.names.answer);
            c.names.answer = NULL;
        }
        CHECK_LT(aioloop_run_until_complete(c.loop, tls_choosing_dial(&c), NULL), 0);
        test_spin(c.loop, 10);
        CHECK_EQ(c.names.calls, 1);
        CHECK_EQ(c.near.made + c.far.made + c.far.lost, 0);
        CHECK_EQ(test_reports(), how < 2);
        if (how < 2) {
            CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EDOM);
            CHECK(strstr(test_report_at(0)->message, "SNI") != NULL);
            CHECK(strstr(test_report_at(0)->detail, "chosen with an error") != NULL);
        }
        test_reports_clear();
        tls_choosing_close(&c);
    }
}

TEST(tls_a_choice_by_name_may_fail, "TLS-16") {
    tls_choice_fails(false);
}

TEST(tls_a_choice_by_name_may_fail_before_the_executor, "TLS-16") {
    tls_choice_fails(true);
}

/* ---- handshakes that fail ---- */

static void tls_refused(const char *server, const char *authority, const char *hostname, const char *text) {
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    place.server_context = tls_server(server);
    place.client_context = tls_client(authority);
    tls_serve(loop, &place, &far, &test_protocol, NULL);
    options.server_hostname = hostname;
    tls_fails(loop, tls_dial(loop, &place, &near, &test_protocol, &options), AIOLOOP_ESSL_CERT_VERIFY, text);
    test_spin(loop, 20);
    CHECK_EQ(near.made + near.lost, 0);
    CHECK_EQ(far.made + far.lost, 0);
    CHECK_EQ(test_reports(), 0);
    test_peer_drop(&far);
    tls_end_place(&place);
    test_end(loop);
}

TEST(tls_a_stranger_is_refused, "TLS-02 CONN-15") {
    tls_refused("server", "other.pem", "localhost", "localhost");
}

/* Whom a server turned away is told in debug mode alone, and to the log. */
TEST(tls_debug_mode_tells_who_was_not_accepted, "TLS-02") {
    int debug;
    for (debug = 0; debug < 2; debug++) {
        aioloop *loop = test_loop();
        tls_place place = AIOLOOP_ZERO;
        test_peer near = AIOLOOP_ZERO;
        test_peer far = AIOLOOP_ZERO;
        aioloop_connection_options options = AIOLOOP_ZERO;
        aioloop_set_debug(loop, debug != 0);
        aioloop_set_slow_callback_duration(loop, AIOLOOP_SECONDS(3600));
        place.server_context = tls_server("server");
        place.client_context = tls_client("other.pem");
        tls_serve(loop, &place, &far, &test_protocol, NULL);
        tls_fails(loop, tls_dial(loop, &place, &near, &test_protocol, &options), AIOLOOP_ESSL_CERT_VERIFY, "");
        test_spin(loop, 20);
        CHECK_EQ(test_reports(), 0);
        CHECK_EQ(strstr(test_log_text(), "a connection from 127.0.0.1:") != NULL, debug != 0);
        CHECK_EQ(strstr(test_log_text(), "was not accepted: ") != NULL, debug != 0);
        test_log_clear();
        test_peer_drop(&far);
        tls_end_place(&place);
        test_end(loop);
    }
}

TEST(tls_an_expired_certificate_is_refused, "TLS-02") {
    tls_refused("expired", "ca.pem", "localhost", "expired");
}

TEST(tls_a_certificate_for_others_is_refused, "TLS-02 CONN-14") {
    tls_refused("server", "ca.pem", "wrong.example.com", "wrong.example.com");
}

TEST(tls_the_host_is_what_the_certificate_is_matched_with, "CONN-14 CONN-13") {
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_socket pair[2];
    place.server_context = tls_server("second"); /* of second.example.net */
    tls_serve(loop, &place, &far, &test_protocol, NULL);
    options.ssl = place.client_context;
    tls_fails(loop, aioloop_create_connection(loop, &test_protocol, &near, "127.0.0.1", place.port, &options), AIOLOOP_ESSL_CERT_VERIFY,
              "127.0.0.1");
    options.server_hostname = "second.example.net"; /* replaces it */
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_connection(loop, &test_protocol, &near, "127.0.0.1", place.port, &options), NULL), 0);
    test_run_until(loop, &far.made, 1, "the server");
    test_end_pair(loop, &near, &far);
    memset(&near, 0, sizeof(near));
    memset(&far, 0, sizeof(far));
    options.server_hostname = ""; /* switches the match off */
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_connection(loop, &test_protocol, &near, "127.0.0.1", place.port, &options), NULL), 0);
    test_run_until(loop, &far.made, 1, "the server");
    test_end_pair(loop, &near, &far);
    /* Without a host there has to be one, or an empty one. */
    test_socketpair(loop, pair);
    options.server_hostname = NULL;
    options.sock = &pair[0];
    tls_fails(loop, aioloop_create_connection(loop, &test_protocol, &near, NULL, 0, &options), AIOLOOP_EINVAL, "server_hostname");
    test_close_socket(loop, pair[0]);
    test_close_socket(loop, pair[1]);
    tls_end_place(&place);
    test_end(loop);
}

/* A peer of the test's own, that speaks no TLS. */
static aioloop_server *tls_serve_plain(aioloop *loop, test_peer *far, int *port) {
    return test_serve(loop, &test_protocol, far, port);
}

TEST(tls_a_slow_handshake_is_given_up, "TLS-03 TLS-05") {
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    place.client_context = tls_client("ca.pem");
    place.server = tls_serve_plain(loop, &far, &place.port);
    options.ssl_handshake_timeout = AIOLOOP_MS(5);
    tls_fails(loop, tls_dial(loop, &place, &near, &test_protocol, &options), AIOLOOP_ECONNABORTED,
              "TLS handshake with localhost timed out after 0.005 seconds");
    test_run_until(loop, &far.lost, 1, "the end of the connection");
    options.ssl_handshake_timeout = 0;
    options.timeout = AIOLOOP_MS(6); /* of the whole, which is in its handshake by then */
    tls_fails(loop, tls_dial(loop, &place, &near, &test_protocol, &options), AIOLOOP_ETIMEDOUT,
              "TLS handshake with localhost timed out after 0.006 seconds");
    test_run_until(loop, &far.lost, 2, "the end of the connection");
    options.timeout = 0;
    CHECK_EQ(near.made + near.lost, 0);
    CHECK_EQ(test_reports(), 0);
    options.ssl_handshake_timeout = -1;
    tls_fails(loop, tls_dial(loop, &place, &near, &test_protocol, &options), AIOLOOP_EINVAL, "positive");
    options.ssl_handshake_timeout = 0;
    options.ssl_shutdown_timeout = -1;
    tls_fails(loop, tls_dial(loop, &place, &near, &test_protocol, &options), AIOLOOP_EINVAL, "positive");
    test_peer_drop(&far);
    tls_end_place(&place);
    test_end(loop);
}

static void tls_answer_http(test_peer *peer, const void *data, size_t size) {
    (void)data;
    (void)size;
    aioloop_transport_write(peer->transport, "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
    aioloop_transport_close(peer->transport);
}

TEST(tls_a_server_without_tls_is_named, "TLS-06") {
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    place.client_context = tls_client("ca.pem");
    place.server = tls_serve_plain(loop, &far, &place.port);
    far.on_data = tls_answer_http;
    tls_fails(loop, tls_dial(loop, &place, &near, &test_protocol, NULL), AIOLOOP_ESSL,
              "TLS with localhost: it does not speak TLS: it began with \"HTTP/\"");
    test_run_until(loop, &far.lost, 1, "the end of the connection");
    CHECK_EQ(near.made + near.lost, 0);
    CHECK_EQ(test_reports(), 0);
    test_peer_drop(&far);
    tls_end_place(&place);
    test_end(loop);
}

/* The head of a record whose rest never comes. */
static void tls_begin_record(test_peer *peer) {
    aioloop_transport_write(peer->transport, "\x16\x03\x03\x40\x00\x01", 6);
}

TEST(tls_a_handshake_that_is_begun_and_not_finished, "TLS-03 TLS-04") {
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_connection_options client = AIOLOOP_ZERO;
    aioloop_server_options server = AIOLOOP_ZERO;
    aioloop_server *plain;
    place.client_context = tls_client("ca.pem");
    far.on_made = tls_begin_record;
    plain = tls_serve_plain(loop, &far, &place.port);
    client.ssl_handshake_timeout = AIOLOOP_MS(5);
    tls_fails(loop, tls_dial(loop, &place, &near, &test_protocol, &client), AIOLOOP_ECONNABORTED, "timed out");
    test_run_until(loop, &far.lost, 1, "the end of the connection");
    aioloop_server_close(plain);
    aioloop_server_unref(plain);
    test_peer_drop(&far);
    memset(&far, 0, sizeof(far));
    server.ssl_handshake_timeout = AIOLOOP_MS(5);
    tls_serve(loop, &place, &far, &test_protocol, &server);
    near.on_made = tls_begin_record;
    aioloop_transport_unref(test_dial(loop, &test_protocol, &near, place.port));
    test_run_until(loop, &near.lost, 1, "the client's loss");
    CHECK_EQ(far.made + far.lost, 0);
    CHECK_EQ(test_reports(), 0);
    test_peer_drop(&near);
    tls_end_place(&place);
    test_end(loop);
}

TEST(tls_a_silent_client_is_dropped, "TLS-04") {
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_server_options options = AIOLOOP_ZERO;
    options.ssl_handshake_timeout = AIOLOOP_MS(5);
    tls_serve(loop, &place, &far, &test_protocol, &options);
    aioloop_transport_unref(test_dial(loop, &test_protocol, &near, place.port));
    test_run_until(loop, &near.lost, 1, "the client's loss");
    CHECK_EQ(far.made + far.lost, 0);
    CHECK_EQ(test_reports(), 0);
    test_peer_drop(&near);
    tls_end_place(&place);
    test_end(loop);
}

static void tls_leave_now(test_peer *peer) {
    aioloop_transport_abort(peer->transport);
}

TEST(tls_the_peer_leaves_in_the_handshake, "TLS-06") {
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    place.client_context = tls_client("ca.pem");
    far.on_made = tls_leave_now;
    place.server = tls_serve_plain(loop, &far, &place.port);
    tls_fails(loop, tls_dial(loop, &place, &near, &test_protocol, NULL), AIOLOOP_ECONNRESET, "");
    CHECK_EQ(near.made + near.lost, 0);
    CHECK_EQ(test_reports(), 0);
    test_run_until(loop, &far.lost, 1, "the other end");
    test_peer_drop(&far);
    tls_end_place(&place);
    test_end(loop);
}

TEST(tls_cancelled_in_the_handshake, "TLS-07 CONN-17") {
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_future *f;
    place.client_context = tls_client("ca.pem");
    place.server = tls_serve_plain(loop, &far, &place.port);
    f = aioloop_future_ref(tls_dial(loop, &place, &near, &test_protocol, NULL));
    test_run_until(loop, &far.datas, 1, "the client's greeting");
    CHECK(aioloop_future_cancel(f, NULL));
    CHECK(aioloop_future_cancelled(f));
    aioloop_future_unref(f);
    test_run_until(loop, &far.lost, 1, "the end of the connection");
    CHECK_EQ(near.made + near.lost, 0);
    CHECK_EQ(test_reports(), 0);
    test_peer_drop(&far);
    tls_end_place(&place);
    test_end(loop);
}

/* ---- goodbyes ---- */

TEST(tls_close_says_goodbye_behind_what_was_written, "TLS-08 TLS-09") {
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    tls_pair(loop, &place, &near, &far, &test_protocol);
    CHECK_EQ(aioloop_transport_write(near.transport, "last words", 10), 0);
    aioloop_transport_close(near.transport);
    CHECK(aioloop_transport_is_closing(near.transport));
    CHECK_EQ(near.lost, 0);
    test_run_until(loop, &near.lost, 1, "the loss");
    test_run_until(loop, &far.lost, 1, "the other loss");
    CHECK_EQ(near.error, 0);
    CHECK_EQ(far.error, 0);
    CHECK_EQ(near.eof, 0);
    CHECK_EQ(far.eof, 1); /* once */
    CHECK_EQ(far.received, 10);
    tls_end(loop, &place, &near, &far);
}

TEST(tls_cannot_be_kept_half_open, "TLS-09") {
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    far.keep_open = true;
    tls_pair(loop, &place, &near, &far, &test_protocol);
    aioloop_transport_close(near.transport);
    test_run_until(loop, &far.lost, 1, "the loss");
    CHECK_EQ(far.eof, 1);
    CHECK(strstr(test_log_text(), "half open") != NULL);
    test_log_clear();
    tls_end(loop, &place, &near, &far);
}

static char tls_message[256]; /* in the last connection_lost */

static void tls_note_message(test_peer *peer) {
    snprintf(tls_message, sizeof(tls_message), "%s", aioloop_message(aioloop_transport_get_loop(peer->transport), peer->error));
}

TEST(tls_a_goodbye_that_is_not_answered, "TLS-08") {
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    tls_serve(loop, &place, &far, &test_protocol, NULL);
    options.ssl_shutdown_timeout = AIOLOOP_MS(5);
    near.on_lost = tls_note_message;
    CHECK_EQ(aioloop_run_until_complete(loop, tls_dial(loop, &place, &near, &test_protocol, &options), NULL), 0);
    test_run_until(loop, &far.made, 1, "the server's handshake");
    aioloop_transport_pause_reading(far.transport); /* it never hears it */
    aioloop_transport_close(near.transport);
    test_run_until(loop, &near.lost, 1, "the loss");
    CHECK_EQ(near.error, AIOLOOP_ETIMEDOUT);
    CHECK(strstr(tls_message, "TLS goodbye with localhost timed out after 0.005 seconds") != NULL);
    aioloop_transport_resume_reading(far.transport);
    tls_end(loop, &place, &near, &far);
}

TEST(tls_a_connection_cut_is_told_from_one_ended, "TLS-14") {
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    tls_pair(loop, &place, &near, &far, &test_protocol);
    aioloop_transport_abort(far.transport); /* without goodbye */
    test_run_until(loop, &near.lost, 1, "the loss");
    CHECK(near.error == AIOLOOP_ESSL_TRUNCATED || near.error == AIOLOOP_ECONNRESET);
    CHECK_EQ(near.eof, 0);
    tls_end(loop, &place, &near, &far);
}

/* ---- somebody in the middle ---- */

typedef struct tls_middle {
    test_peer to_client; /* of the client's connection */
    test_peer to_server;
    aioloop *loop;
    aioloop_server *server;
    int port;
    int far_port;
    bool corrupt; /* the next bytes to the client */
    char held[65536]; /* until there is a connection to the server */
    size_t held_size;
} tls_middle;

static void tls_middle_up(test_peer *peer, const void *data, size_t size) {
    tls_middle *m = (tls_middle *)peer->user;
    if (m->to_server.transport != NULL && m->to_server.lost == 0) {
        aioloop_transport_write(m->to_server.transport, data, size);
        return;
    }
    CHECK(m->held_size + size <= sizeof(m->held));
    memcpy(m->held + m->held_size, data, size);
    m->held_size += size;
}

static void tls_middle_down(test_peer *peer, const void *data, size_t size) {
    tls_middle *m = (tls_middle *)peer->user;
    char copy[65536];
    while (size != 0) {
        size_t n = size < sizeof(copy) ? size : sizeof(copy);
        memcpy(copy, data, n);
        if (m->corrupt)
            copy[n - 1] ^= 1;
        if (m->to_client.lost == 0)
            aioloop_transport_write(m->to_client.transport, copy, n);
        data = (const char *)data + n;
        size -= n;
    }
}

static void tls_middle_joined(test_peer *peer) {
    tls_middle *m = (tls_middle *)peer->user;
    aioloop_transport_write(peer->transport, m->held, m->held_size);
    if (m->to_client.lost != 0)
        aioloop_transport_close(peer->transport);
}

/* What ends one connection ends the other. */
static void tls_middle_lost(test_peer *peer) {
    tls_middle *m = (tls_middle *)peer->user;
    test_peer *other = peer == &m->to_client ? &m->to_server : &m->to_client;
    if (other->transport != NULL)
        aioloop_transport_close(other->transport);
}

static void tls_middle_tried(aioloop_future *f, void *arg) {
    if (aioloop_future_exception(f) != 0)
        aioloop_transport_abort(((tls_middle *)arg)->to_client.transport);
}

static void tls_middle_came(test_peer *peer) {
    tls_middle *m = (tls_middle *)peer->user;
    aioloop_future *f = aioloop_create_connection(m->loop, &test_protocol, &m->to_server, "127.0.0.1", m->far_port, NULL);
    if (aioloop_future_then(f, tls_middle_tried, m) < 0)
        aioloop_transport_abort(peer->transport);
}

static void tls_middle_open(aioloop *loop, tls_middle *m, int far_port) {
    memset(m, 0, sizeof(*m));
    m->loop = loop;
    m->far_port = far_port;
    m->to_client.user = m;
    m->to_client.on_data = tls_middle_up;
    m->to_client.on_made = tls_middle_came;
    m->to_client.on_lost = tls_middle_lost;
    m->to_server.user = m;
    m->to_server.on_data = tls_middle_down;
    m->to_server.on_made = tls_middle_joined;
    m->to_server.on_lost = tls_middle_lost;
    m->server = test_serve(loop, &test_protocol, &m->to_client, &m->port);
}

static void tls_middle_close(aioloop *loop, tls_middle *m) {
    test_end_pair(loop, &m->to_client, &m->to_server);
    aioloop_server_close(m->server);
    aioloop_server_unref(m->server);
}

/* It has said goodbye, but takes nothing of what it was sent before. */
TEST(tls_a_peer_that_never_reads_is_not_waited_for, "TLS-08") {
    static tls_middle middle;
    static char chunk[65536];
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    size_t written = 0;
    tls_serve(loop, &place, &far, &test_protocol, NULL);
    tls_middle_open(loop, &middle, place.port);
    place.port = middle.port;
    options.ssl_shutdown_timeout = AIOLOOP_MS(5);
    near.on_lost = tls_note_message;
    CHECK_EQ(aioloop_run_until_complete(loop, tls_dial(loop, &place, &near, &test_protocol, &options), NULL), 0);
    test_run_until(loop, &far.made, 1, "the server's handshake");
    aioloop_transport_pause_reading(middle.to_client.transport);
    while (near.paused == 0 && written < ((size_t)64 << 20)) {
        CHECK_EQ(aioloop_transport_write(near.transport, chunk, sizeof(chunk)), 0);
        written += sizeof(chunk);
        test_spin(loop, 1);
    }
    CHECK_EQ(near.paused, 1);
    aioloop_transport_close(far.transport);
    test_run_until(loop, &near.lost, 1, "the loss");
    CHECK_EQ(near.eof, 1);
    CHECK_EQ(near.error, AIOLOOP_ETIMEDOUT);
    CHECK(strstr(tls_message, "TLS goodbye with localhost timed out") != NULL);
    aioloop_transport_resume_reading(middle.to_client.transport);
    tls_middle_close(loop, &middle);
    tls_end(loop, &place, &near, &far);
}

TEST(tls_corrupt_bytes_end_the_connection, "TLS-15") {
    static tls_middle middle;
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    tls_serve(loop, &place, &far, &test_protocol, NULL);
    tls_middle_open(loop, &middle, place.port);
    place.port = middle.port;
    CHECK_EQ(aioloop_run_until_complete(loop, tls_dial(loop, &place, &near, &test_protocol, NULL), NULL), 0);
    test_run_until(loop, &far.made, 1, "the server's handshake");
    CHECK_EQ(aioloop_transport_write(far.transport, "good", 4), 0);
    test_run_until_received(loop, &near, 4);
    middle.corrupt = true;
    CHECK_EQ(aioloop_transport_write(far.transport, "evil", 4), 0);
    test_run_until(loop, &near.lost, 1, "the loss");
    CHECK_EQ(near.error, AIOLOOP_ESSL);
    CHECK_EQ(near.received, 4);
    CHECK_EQ(near.eof, 0);
    tls_middle_close(loop, &middle);
    tls_end(loop, &place, &near, &far);
}

/* ---- what is known ---- */

TEST(tls_tells_about_the_session, "TLS-11 TLS-17") {
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    const aioloop_ssl_certificate *certificate;
    const aioloop_ssl_cipher *cipher;
    tls_pair(loop, &place, &near, &far, &test_protocol);
    certificate = (const aioloop_ssl_certificate *)aioloop_transport_get_extra_info(near.transport, "peercert", NULL);
    CHECK(certificate != NULL && certificate->der_size > 0);
    CHECK(strstr(certificate->subject, "server") != NULL);
    cipher = (const aioloop_ssl_cipher *)aioloop_transport_get_extra_info(near.transport, "cipher", NULL);
    CHECK(cipher != NULL && cipher->name != NULL);
    CHECK(strncmp((const char *)aioloop_transport_get_extra_info(near.transport, "version", ""), "TLSv1.", 6) == 0);
    CHECK_PTR(aioloop_transport_get_extra_info(near.transport, "sslcontext", NULL), place.client_context);
    CHECK(aioloop_transport_get_extra_info(near.transport, "ssl_object", NULL) != NULL);
    CHECK(aioloop_transport_get_extra_info(near.transport, "peername", NULL) != NULL);
    CHECK_EQ(((const aioloop_address *)aioloop_transport_get_extra_info(near.transport, "peername", NULL))->port, place.port);
    CHECK(aioloop_transport_get_extra_info(near.transport, "socket", NULL) != NULL);
    CHECK_PTR(aioloop_transport_get_extra_info(near.transport, "nothing", &place), &place);
    CHECK(aioloop_transport_get_extra_info(far.transport, "peercert", NULL) == NULL);
    tls_end(loop, &place, &near, &far);
}

TEST(tls_clients_show_certificates_where_asked, "TLS-17") {
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    const aioloop_ssl_certificate *certificate;
    char path[512];
    char key[512];
    place.server_context = tls_server("server");
    CHECK_EQ(aioloop_ssl_context_load_verify_locations(place.server_context, tls_file("ca.pem", path, sizeof(path)), NULL), 1);
    CHECK_EQ(aioloop_ssl_context_set_verify_mode(place.server_context, AIOLOOP_CERT_REQUIRED), 0);
    place.client_context = tls_client("ca.pem");
    CHECK_EQ(aioloop_ssl_context_load_cert_chain(place.client_context, tls_file("client.pem", path, sizeof(path)),
                                                 tls_file("client.key", key, sizeof(key)), NULL), 0);
    tls_serve(loop, &place, &far, &test_protocol, NULL);
    CHECK_EQ(aioloop_run_until_complete(loop, tls_dial(loop, &place, &near, &test_protocol, NULL), NULL), 0);
    test_run_until(loop, &far.made, 1, "the server's handshake");
    certificate = (const aioloop_ssl_certificate *)aioloop_transport_get_extra_info(far.transport, "peercert", NULL);
    CHECK(certificate != NULL && strstr(certificate->subject, "client") != NULL);
    tls_end(loop, &place, &near, &far);
}

/* ---- upgrades ---- */

typedef struct tls_upgrade {
    aioloop_ssl_context *server_context;
    aioloop_ssl_context *client_context;
    test_peer near;
    test_peer far;
    aioloop_future *futures[2]; /* the client's, the server's */
    aioloop_transport *transports[2];
} tls_upgrade;

static void tls_upgrade_open(aioloop *loop, tls_upgrade *u, const aioloop_protocol *protocol) {
    aioloop_socket pair[2];
    memset(u, 0, sizeof(*u));
    u->server_context = tls_server("server");
    u->client_context = tls_client("ca.pem");
    test_socketpair(loop, pair);
    test_adopt(loop, protocol, &u->near, pair[0]);
    test_adopt(loop, protocol, &u->far, pair[1]);
}

static aioloop_future *tls_upgrade_start(aioloop *loop, tls_upgrade *u, bool server, aioloop_start_tls_options *o) {
    aioloop_start_tls_options none = AIOLOOP_ZERO;
    if (o == NULL)
        o = &none;
    o->server_side = server;
    if (!server && o->server_hostname == NULL)
        o->server_hostname = "localhost";
    o->ssl_handshake_timeout = tls_patience(o->ssl_handshake_timeout);
    return aioloop_start_tls(loop, server ? u->far.transport : u->near.transport, server ? u->server_context : u->client_context, o);
}

static void tls_upgrade_both(aioloop *loop, tls_upgrade *u) {
    int i;
    u->futures[0] = aioloop_future_ref(tls_upgrade_start(loop, u, false, NULL));
    u->futures[1] = aioloop_future_ref(tls_upgrade_start(loop, u, true, NULL));
    for (i = 0; i < 2; i++) {
        CHECK_EQ(aioloop_run_until_complete(loop, u->futures[i], &u->transports[i]), 0);
        aioloop_future_unref(u->futures[i]);
    }
}

static void tls_upgrade_close(aioloop *loop, tls_upgrade *u) {
    int i;
    for (i = 0; i < 2; i++) {
        if (u->transports[i] != NULL)
            aioloop_transport_close(u->transports[i]);
    }
    test_run_until(loop, &u->near.lost, 1, "the client's loss");
    test_run_until(loop, &u->far.lost, 1, "the server's loss");
    for (i = 0; i < 2; i++)
        aioloop_transport_unref(u->transports[i]);
    CHECK_EQ(u->near.made, 1);
    CHECK_EQ(u->far.made, 1);
    CHECK_EQ(u->near.lost, 1);
    CHECK_EQ(u->far.lost, 1);
    test_peer_drop(&u->near);
    test_peer_drop(&u->far);
    tls_drop(u->server_context);
    tls_drop(u->client_context);
    test_end(loop);
}

TEST(start_tls_gives_a_new_transport_for_the_same_protocol, "STLS-01 STLS-02 STLS-04") {
    const aioloop_protocol *const protocols[] = {&test_protocol, &test_buffered_protocol};
    int i;
    for (i = 0; i < 2; i++) {
        aioloop *loop = test_loop();
        tls_upgrade u;
        void *self = NULL;
        tls_upgrade_open(loop, &u, protocols[i]);
        tls_upgrade_both(loop, &u);
        CHECK(u.transports[0] != u.near.transport);
        CHECK_PTR(aioloop_transport_get_protocol(u.transports[0], &self), protocols[i]);
        CHECK_PTR(self, &u.near);
        CHECK(aioloop_transport_get_extra_info(u.transports[0], "cipher", NULL) != NULL);
        CHECK(aioloop_transport_get_extra_info(u.transports[0], "socket", NULL) != NULL);
        CHECK_EQ(aioloop_transport_write(u.transports[0], "up", 2), 0);
        test_run_until_received(loop, &u.far, 2);
        CHECK_EQ(aioloop_transport_write(u.transports[1], "down", 4), 0);
        test_run_until_received(loop, &u.near, 4);
        CHECK_EQ(u.near.made, 1);
        tls_upgrade_close(loop, &u);
    }
}

TEST(start_tls_comes_behind_what_was_written, "STLS-03") {
    aioloop *loop = test_loop();
    tls_upgrade u;
    char head[2000];
    tls_upgrade_open(loop, &u, &test_protocol);
    memset(head, 'h', sizeof(head));
    CHECK_EQ(aioloop_transport_write(u.far.transport, head, sizeof(head)), 0);
    u.futures[1] = aioloop_future_ref(tls_upgrade_start(loop, &u, true, NULL));
    test_run_until_received(loop, &u.near, sizeof(head)); /* in clear */
    CHECK(memcmp(u.near.data, head, sizeof(head)) == 0);
    u.futures[0] = aioloop_future_ref(tls_upgrade_start(loop, &u, false, NULL));
    CHECK_EQ(aioloop_run_until_complete(loop, u.futures[0], &u.transports[0]), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, u.futures[1], &u.transports[1]), 0);
    aioloop_future_unref(u.futures[0]);
    aioloop_future_unref(u.futures[1]);
    CHECK_EQ(u.near.received, sizeof(head));
    tls_upgrade_close(loop, &u);
}

/* The server has read the client's greeting along with what came before it, and gives it back. */
TEST(start_tls_takes_what_came_too_early, "STLS-01 STLS-03") {
    aioloop *loop = test_loop();
    tls_upgrade u;
    aioloop_start_tls_options options = AIOLOOP_ZERO;
    tls_upgrade_open(loop, &u, &test_protocol);
    CHECK_EQ(aioloop_transport_write(u.near.transport, "STARTTLS\n", 9), 0);
    u.futures[0] = aioloop_future_ref(tls_upgrade_start(loop, &u, false, NULL));
    test_run_until_received(loop, &u.far, 9 + 50);
    test_spin(loop, 10);
    CHECK(memcmp(u.far.data, "STARTTLS\n", 9) == 0);
    CHECK_LT(u.far.received, sizeof(u.far.data));
    options.leftover = u.far.data + 9;
    options.leftover_size = u.far.received - 9;
    u.futures[1] = aioloop_future_ref(tls_upgrade_start(loop, &u, true, &options));
    memset(u.far.data, 0, sizeof(u.far.data)); /* it was copied */
    CHECK_EQ(aioloop_run_until_complete(loop, u.futures[0], &u.transports[0]), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, u.futures[1], &u.transports[1]), 0);
    aioloop_future_unref(u.futures[0]);
    aioloop_future_unref(u.futures[1]);
    tls_upgrade_close(loop, &u);
}

TEST(start_tls_refuses_what_cannot_be, "STLS-05") {
    aioloop *loop = test_loop();
    tls_upgrade u;
    aioloop_start_tls_options options = AIOLOOP_ZERO;
    tls_upgrade_open(loop, &u, &test_protocol);
    tls_fails(loop, aioloop_start_tls(loop, NULL, u.client_context, NULL), AIOLOOP_EINVAL, "transport");
    tls_fails(loop, aioloop_start_tls(loop, u.near.transport, NULL, NULL), AIOLOOP_EINVAL, "context");
    tls_fails(loop, aioloop_start_tls(loop, u.near.transport, u.server_context, NULL), AIOLOOP_EINVAL, "");
    tls_fails(loop, aioloop_start_tls(loop, u.near.transport, u.client_context, NULL), AIOLOOP_EINVAL, "server_hostname");
    options.ssl_handshake_timeout = -1;
    tls_fails(loop, tls_upgrade_start(loop, &u, false, &options), AIOLOOP_EINVAL, "positive");
    options.ssl_handshake_timeout = 0;
    options.leftover_size = 1;
    tls_fails(loop, tls_upgrade_start(loop, &u, false, &options), AIOLOOP_EINVAL, "leftover");
    CHECK_EQ(aioloop_future_exception(aioloop_start_tls(NULL, u.near.transport, u.client_context, NULL)), AIOLOOP_EINVAL);
    /* Nothing has changed. */
    CHECK_EQ(aioloop_transport_write(u.near.transport, "clear", 5), 0);
    test_run_until_received(loop, &u.far, 5);
    aioloop_transport_close(u.near.transport);
    tls_fails(loop, tls_upgrade_start(loop, &u, false, NULL), AIOLOOP_EINVAL, "closing");
    tls_upgrade_close(loop, &u);
}

/* All that the old transport refuses, or does not do, once TLS has it. */
static void tls_misuse_old(aioloop *loop, aioloop_transport *old, int file, aioloop_ssl_context *context) {
    static const char bytes[] = "torn";
    aioloop_buf piece = {bytes, 4};
    bool reads = aioloop_transport_is_reading(old);
    tls_released = 0;
    CHECK_EQ(aioloop_transport_write(old, bytes, 4), AIOLOOP_EMISUSE);
    CHECK(strstr(aioloop_error_message(aioloop_last_error(loop)), "TLS") != NULL);
    CHECK_EQ(aioloop_transport_writelines(old, &piece, 1), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_transport_write_owned(old, bytes, 4, tls_release, NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(tls_released, 0);
    CHECK_EQ(aioloop_transport_write_eof(old), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(old, 10, 0), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_transport_set_protocol(old, &test_protocol, NULL), AIOLOOP_EMISUSE);
    tls_fails(loop, aioloop_sendfile(loop, old, file, 0, -1, NULL), AIOLOOP_EMISUSE, "TLS");
    tls_fails(loop, aioloop_start_tls(loop, old, context, NULL), AIOLOOP_EINVAL, "TLS");
    aioloop_transport_resume_reading(old);
    CHECK_EQ(aioloop_transport_is_reading(old), reads);
    aioloop_transport_pause_reading(old);
    CHECK_EQ(aioloop_transport_is_reading(old), reads);
}

TEST(start_tls_takes_the_old_transport, "STLS-03 STLS-05") {
    aioloop *loop = test_loop();
    tls_upgrade u;
    int file = test_keep_socket(open("/dev/zero", O_RDONLY));
    tls_upgrade_open(loop, &u, &test_protocol);
    u.futures[0] = aioloop_future_ref(tls_upgrade_start(loop, &u, false, NULL));
    u.futures[1] = aioloop_future_ref(tls_upgrade_start(loop, &u, true, NULL));
    tls_misuse_old(loop, u.near.transport, file, u.client_context);
    tls_misuse_old(loop, u.far.transport, file, u.client_context);
    CHECK_EQ(aioloop_run_until_complete(loop, u.futures[0], &u.transports[0]), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, u.futures[1], &u.transports[1]), 0);
    aioloop_future_unref(u.futures[0]);
    aioloop_future_unref(u.futures[1]);
    tls_misuse_old(loop, u.near.transport, file, u.client_context);
    CHECK_EQ(aioloop_transport_write(u.transports[0], "whole", 5), 0);
    tls_misuse_old(loop, u.near.transport, file, u.client_context);
    test_run_until_received(loop, &u.far, 5);
    CHECK(memcmp(u.far.data, "whole", 5) == 0);
    test_forget_socket(file);
    close(file);
    tls_upgrade_close(loop, &u);
}

/* It may still be ended: the peer is told no goodbye. */
TEST(start_tls_and_the_old_transport_is_closed, "STLS-03 STLS-06") {
    int how;
    for (how = 0; how < 4; how++) {
        aioloop *loop = test_loop();
        tls_upgrade u;
        tls_upgrade_open(loop, &u, &test_protocol);
        if (how < 2)
            tls_upgrade_both(loop, &u);
        else
            u.futures[0] = aioloop_future_ref(tls_upgrade_start(loop, &u, false, NULL));
        if (how % 2 == 0)
            aioloop_transport_close(u.near.transport);
        else
            aioloop_transport_abort(u.near.transport);
        if (how >= 2) {
            tls_fails(loop, u.futures[0], AIOLOOP_ECONNABORTED, "closed");
            aioloop_future_unref(u.futures[0]);
        }
        test_run_until(loop, &u.near.lost, 1, "the loss");
        CHECK_EQ(u.near.error, how < 2 ? 0 : AIOLOOP_ECONNABORTED);
        tls_upgrade_close(loop, &u);
    }
}

/* While a thread of the executor shakes hands nothing may be read into what it works with. */
TEST(start_tls_in_the_executor_and_the_old_transport_is_resumed, "STLS-01 STLS-03") {
    aioloop *loop = test_loop();
    aioloop_start_tls_options options = AIOLOOP_ZERO;
    int away = 0;
    int i;
    tls_upgrade u;
    test_needs_threads(loop);
    tls_upgrade_open(loop, &u, &test_protocol);
    options.ssl_handshake_in_executor = true;
    options.ssl_handshake_timeout = AIOLOOP_FOREVER;
    u.futures[0] = aioloop_future_ref(tls_upgrade_start(loop, &u, false, &options));
    u.futures[1] = aioloop_future_ref(tls_upgrade_start(loop, &u, true, &options));
    while (!aioloop_future_done(u.futures[0]) || !aioloop_future_done(u.futures[1])) {
        for (i = 0; i < 2; i++) {
            aioloop_transport *old = i == 0 ? u.near.transport : u.far.transport;
            CHECK(!aioloop_future_done(u.futures[i]) || aioloop_future_exception(u.futures[i]) == 0);
            if (aioloop_future_done(u.futures[i]) || aioloop_transport_is_reading(old))
                continue;
            away++;
            aioloop_transport_resume_reading(old);
            CHECK(!aioloop_transport_is_reading(old));
        }
        CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(1)), 0);
    }
    CHECK_GE(away, 2);
    for (i = 0; i < 2; i++) {
        CHECK_EQ(aioloop_future_result(u.futures[i], &u.transports[i]), 0);
        aioloop_future_unref(u.futures[i]);
    }
    CHECK_EQ(aioloop_transport_write(u.transports[0], "whole", 5), 0);
    test_run_until_received(loop, &u.far, 5);
    tls_upgrade_close(loop, &u);
}

TEST(start_tls_that_fails_closes_the_connection, "STLS-06 STLS-07") {
    aioloop *loop = test_loop();
    tls_upgrade u;
    aioloop_start_tls_options options = AIOLOOP_ZERO;
    /* Plain text where a handshake should be. */
    tls_upgrade_open(loop, &u, &test_protocol);
    u.futures[0] = aioloop_future_ref(tls_upgrade_start(loop, &u, false, NULL));
    CHECK_EQ(aioloop_transport_write(u.far.transport, "this is no TLS, but long enough\n", 32), 0);
    CHECK_LT(aioloop_run_until_complete(loop, u.futures[0], NULL), 0);
    aioloop_future_unref(u.futures[0]);
    tls_upgrade_close(loop, &u);
    /* Too slow. */
    loop = test_loop();
    tls_upgrade_open(loop, &u, &test_protocol);
    options.ssl_handshake_timeout = AIOLOOP_MS(4);
    tls_fails(loop, tls_upgrade_start(loop, &u, false, &options), AIOLOOP_ECONNABORTED, "0.004");
    tls_upgrade_close(loop, &u);
    /* Cancelled. */
    loop = test_loop();
    tls_upgrade_open(loop, &u, &test_protocol);
    u.futures[0] = aioloop_future_ref(tls_upgrade_start(loop, &u, false, NULL));
    test_spin(loop, 3);
    CHECK(aioloop_future_cancel(u.futures[0], NULL));
    CHECK(aioloop_future_cancelled(u.futures[0]));
    aioloop_future_unref(u.futures[0]);
    tls_upgrade_close(loop, &u);
}

TEST(start_tls_within_tls, "STLS-04") {
    aioloop *loop = test_loop();
    tls_upgrade u;
    aioloop_start_tls_options client = AIOLOOP_ZERO;
    aioloop_start_tls_options server = AIOLOOP_ZERO;
    aioloop_transport *inner[2] = {NULL, NULL};
    aioloop_future *f[2];
    char text[3000];
    tls_upgrade_open(loop, &u, &test_protocol);
    tls_upgrade_both(loop, &u);
    client.server_hostname = "localhost";
    client.ssl_handshake_timeout = tls_patience(0);
    server.server_side = true;
    server.ssl_handshake_timeout = tls_patience(0);
    f[0] = aioloop_future_ref(aioloop_start_tls(loop, u.transports[0], u.client_context, &client));
    f[1] = aioloop_future_ref(aioloop_start_tls(loop, u.transports[1], u.server_context, &server));
    CHECK_EQ(aioloop_run_until_complete(loop, f[0], &inner[0]), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, f[1], &inner[1]), 0);
    memset(text, 't', sizeof(text));
    CHECK_EQ(aioloop_transport_write(inner[0], text, sizeof(text)), 0);
    CHECK_EQ(aioloop_transport_write(inner[1], text, sizeof(text)), 0);
    test_run_until_received(loop, &u.far, sizeof(text));
    test_run_until_received(loop, &u.near, sizeof(text));
    aioloop_future_unref(f[0]);
    aioloop_future_unref(f[1]);
    aioloop_transport_close(inner[0]);
    test_run_until(loop, &u.near.lost, 1, "the client's loss");
    test_run_until(loop, &u.far.lost, 1, "the server's loss");
    CHECK_EQ(u.near.error, 0);
    CHECK_EQ(u.far.error, 0);
    aioloop_transport_unref(inner[0]);
    aioloop_transport_unref(inner[1]);
    tls_upgrade_close(loop, &u);
}

/* ---- flow control, and runs that end in the middle ---- */

/* The new limits pause the protocol by what waits already; it is told to go on when that has left. */
TEST(tls_limits_that_are_below_what_waits, "TLS-12 TLS-16") {
    static char chunk[65536];
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    size_t written = 0;
    size_t low = 0;
    size_t high = 0;
    tls_pair(loop, &place, &near, &far, &test_protocol);
    aioloop_transport_pause_reading(far.transport);
    while (aioloop_transport_get_write_buffer_size(near.transport) < 200000 && written < ((size_t)64 << 20)) {
        CHECK_EQ(aioloop_transport_write(near.transport, chunk, sizeof(chunk)), 0);
        written += sizeof(chunk);
        test_spin(loop, 1);
    }
    CHECK_EQ(near.paused, 0);
    CHECK_EQ(aioloop_transport_set_write_buffer_limits(near.transport, 1000, 100), 0);
    CHECK_EQ(near.paused, 1); /* at once */
    aioloop_transport_get_write_buffer_limits(near.transport, &low, &high);
    CHECK_EQ(low, 100);
    CHECK_EQ(high, 1000);
    aioloop_transport_resume_reading(far.transport);
    test_run_until_received(loop, &far, written);
    test_run_until(loop, &near.resumed, 1, "the permission to write on");
    CHECK_EQ(near.paused, 1);
    tls_end(loop, &place, &near, &far);
}

/* What is written leaves when the callback ends; so there is some to be paused by. */
static void tls_answer_and_pause(test_peer *peer, const void *data, size_t size) {
    if (peer->datas == 1) {
        aioloop_transport_write(peer->transport, data, size);
        aioloop_transport_set_write_buffer_limits(peer->transport, 0, 0);
    }
}

static void tls_die_of_pause(test_peer *peer) {
    aioloop_raise(aioloop_transport_get_loop(peer->transport), AIOLOOP_EFATAL, "enough");
}

static void tls_run_until_fatal(aioloop *loop) {
    aioloop_time start = aioloop_now(loop);
    int rc;
    do
        rc = aioloop_run_once(loop, AIOLOOP_MS(10));
    while (rc >= 0 && aioloop_now(loop) - start < AIOLOOP_SECONDS(test_injected() ? 0.3 : 10));
    CHECK_EQ(rc, AIOLOOP_EFATAL);
}

/* The run ends within the first of three records, or of three pieces of one, by what its answer leads to; the next run
 * delivers the others. */
static void tls_fatal(const aioloop_protocol *protocol, size_t record, int records) {
    static const char bytes[180] = "the bytes of a record";
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    int i;
    tls_pair(loop, &place, &near, &far, protocol);
    far.on_data = tls_answer_and_pause;
    far.on_pause = tls_die_of_pause;
    for (i = 0; i < records; i++)
        CHECK_EQ(aioloop_transport_write(near.transport, bytes, record), 0);
    tls_run_until_fatal(loop);
    CHECK_EQ(far.datas, 1);
    CHECK_EQ(far.lost, 0);
    test_run_until_received(loop, &far, record * (size_t)records);
    CHECK_EQ(far.datas, 3);
    CHECK_EQ(test_reports(), 0);
    tls_end(loop, &place, &near, &far);
}

TEST(tls_fatal_with_more_records_waiting, "TLS-16") {
    tls_fatal(&test_protocol, 60, 3);
}

TEST(tls_fatal_with_more_records_waiting_for_buffers, "TLS-16 BUF-03") {
    tls_fatal(&test_buffered_protocol, 60, 3);
}

TEST(tls_fatal_in_the_middle_of_a_record, "TLS-16 BUF-03") {
    tls_fatal(&test_buffered_protocol, 180, 1);
}

static void tls_die(test_peer *peer, const void *data, size_t size) {
    (void)data;
    (void)size;
    aioloop_raise(aioloop_transport_get_loop(peer->transport), AIOLOOP_EFATAL, "enough");
}

/* What data_received itself raises ends the connection, as any error of it does. */
TEST(tls_fatal_data_received_ends_the_run_and_the_connection, "TLS-16") {
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    tls_pair(loop, &place, &near, &far, &test_protocol);
    far.on_data = tls_die;
    CHECK_EQ(aioloop_transport_write(near.transport, "one", 3), 0);
    CHECK_EQ(aioloop_transport_write(near.transport, "two", 3), 0);
    tls_run_until_fatal(loop);
    test_run_until(loop, &far.lost, 1, "the loss");
    CHECK_EQ(far.error, AIOLOOP_EFATAL);
    CHECK_EQ(far.received, 3);
    CHECK_EQ(test_reports(), 0);
    tls_end(loop, &place, &near, &far);
}

static void tls_die_when_made(test_peer *peer) {
    aioloop_transport_write(peer->transport, "greeting", 8);
    aioloop_raise(aioloop_transport_get_loop(peer->transport), AIOLOOP_EFATAL, "enough");
}

/* Both ends' connection_made end the run, and write: the bytes that came along with the handshake are not lost. */
TEST(tls_fatal_connection_made_loses_nothing, "TLS-16") {
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_future *f;
    near.on_made = tls_die_when_made;
    far.on_made = tls_die_when_made;
    tls_serve(loop, &place, &far, &test_protocol, NULL);
    f = aioloop_future_ref(tls_dial(loop, &place, &near, &test_protocol, NULL));
    tls_run_until_fatal(loop);
    tls_run_until_fatal(loop);
    test_run_until_received(loop, &near, 8);
    test_run_until_received(loop, &far, 8);
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), 0);
    aioloop_future_unref(f);
    CHECK_EQ(test_reports(), 0);
    tls_end(loop, &place, &near, &far);
}

static void tls_stop_now(test_peer *peer, const void *data, size_t size) {
    (void)data;
    (void)size;
    aioloop_stop(aioloop_transport_get_loop(peer->transport));
}

static void tls_stop_lost(test_peer *peer) {
    aioloop_stop(aioloop_transport_get_loop(peer->transport));
}

TEST(tls_stop_inside_of_a_delivery, "TLS-16") {
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    tls_pair(loop, &place, &near, &far, &test_protocol);
    far.on_data = tls_stop_now;
    far.on_lost = tls_stop_lost;
    CHECK_EQ(aioloop_transport_write(near.transport, "one", 3), 0);
    CHECK_EQ(aioloop_transport_write(near.transport, "two", 3), 0);
    CHECK_EQ(aioloop_run_forever(loop), 0);
    CHECK_GE(far.received, 3);
    test_run_until_received(loop, &far, 6);
    tls_end(loop, &place, &near, &far);
}

/* The peer ends its half without a goodbye while much is on its way to it: it still gets all of that. */
TEST(tls_what_was_written_before_a_close_reaches_a_peer_that_has_ended, "TLS-08") {
    enum { SIZE = 400000 };
    static tls_middle middle;
    static char bytes[SIZE];
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    tls_serve(loop, &place, &far, &test_protocol, NULL);
    tls_middle_open(loop, &middle, place.port);
    place.port = middle.port;
    CHECK_EQ(aioloop_run_until_complete(loop, tls_dial(loop, &place, &near, &test_protocol, NULL), NULL), 0);
    test_run_until(loop, &far.made, 1, "the server's handshake");
    aioloop_transport_pause_reading(middle.to_client.transport);
    CHECK_EQ(aioloop_transport_write(near.transport, bytes, SIZE), 0);
    aioloop_transport_close(near.transport);
    CHECK_EQ(aioloop_transport_write_eof(middle.to_client.transport), 0);
    test_spin(loop, 20);
    aioloop_transport_resume_reading(middle.to_client.transport);
    test_run_until(loop, &near.lost, 1, "the loss");
    test_run_until(loop, &far.lost, 1, "the server's loss");
    CHECK_EQ(near.error, 0);
    CHECK_EQ(far.received, SIZE);
    CHECK_EQ(far.eof, 1);
    tls_middle_close(loop, &middle);
    tls_end(loop, &place, &near, &far);
}

/* ---- factories ---- */

static int tls_fail_in_factory(void *self, void *arg) {
    (void)self;
    ++*(int *)arg;
    return AIOLOOP_ENOENT;
}

static const aioloop_protocol tls_never_made = {8, tls_fail_in_factory, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NULL, NULL};

TEST(tls_a_factory_that_fails_on_a_client, "TLS-01 TLS-16") {
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_transport *t = NULL;
    test_peer far = AIOLOOP_ZERO;
    int asked = 0;
    tls_serve(loop, &place, &far, &test_protocol, NULL);
    options.ssl = place.client_context;
    options.server_hostname = "localhost";
    options.ssl_handshake_timeout = tls_patience(0);
    CHECK_EQ(aioloop_run_until_complete(
                 loop, aioloop_create_connection(loop, &tls_never_made, &asked, "127.0.0.1", place.port, &options), &t), AIOLOOP_ENOENT);
    CHECK(t == NULL);
    CHECK_EQ(asked, 1);
    CHECK_EQ(test_reports(), 0);
    test_spin(loop, 20);
    if (far.made != 0)
        test_run_until(loop, &far.lost, 1, "the server's loss");
    CHECK_EQ(far.made, far.lost);
    test_peer_drop(&far);
    tls_end_place(&place);
    test_end(loop);
}

TEST(tls_a_factory_that_fails_on_a_server, "TLS-01 TLS-16") {
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_address address;
    test_peer near = AIOLOOP_ZERO;
    int asked = 0;
    place.server_context = tls_server("server");
    place.client_context = tls_client("ca.pem");
    options.ssl = place.server_context;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_server(loop, &tls_never_made, &asked, "127.0.0.1", 0, &options), &place.server), 1);
    CHECK_EQ(aioloop_server_socket(place.server, 0, NULL, &address), 0);
    place.port = address.port;
    (void)aioloop_run_until_complete(loop, tls_dial(loop, &place, &near, &test_protocol, NULL), NULL);
    test_run_until(loop, &asked, 1, "the factory");
    if (near.made != 0)
        test_run_until(loop, &near.lost, 1, "the client's loss");
    CHECK_EQ(near.made, near.lost);
    CHECK_EQ(test_reports(), 1);
    CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_ENOENT);
    CHECK(strstr(test_report_at(0)->message, "factory") != NULL);
    test_reports_clear();
    test_peer_drop(&near);
    tls_end_place(&place);
    test_end(loop);
}

/* ---- upgrades that nobody takes, and of other protocols ---- */

TEST(start_tls_closes_what_nobody_takes, "STLS-06 STLS-07") {
    int how;
    for (how = 0; how < 2; how++) {
        aioloop *loop = test_loop();
        tls_upgrade u;
        awaiter waiter = AIOLOOP_ZERO;
        int i;
        tls_upgrade_open(loop, &u, &test_protocol);
        u.futures[0] = aioloop_future_ref(tls_upgrade_start(loop, &u, false, NULL));
        u.futures[1] = aioloop_future_ref(tls_upgrade_start(loop, &u, true, NULL));
        if (how == 1)
            await_begin(&waiter, loop, AWAIT_BY_FRAME, u.futures[0]);
        for (i = 0; i < 2000 && !aioloop_future_done(u.futures[0]); i++)
            CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(5)), 0);
        CHECK(aioloop_future_done(u.futures[0]));
        if (how == 1) { /* in the iteration in which it is done, before the task has heard of it */
            await_cancel(&waiter, NULL);
            CHECK_EQ(await_end(&waiter), AIOLOOP_ECANCELED);
        }
        aioloop_future_unref(u.futures[0]);
        CHECK_EQ(aioloop_run_until_complete(loop, u.futures[1], &u.transports[1]), 0);
        aioloop_future_unref(u.futures[1]);
        test_run_until(loop, &u.near.lost, 1, "the client's loss");
        test_run_until(loop, &u.far.lost, 1, "the server's loss");
        CHECK_EQ(u.near.error, 0);
        CHECK_EQ(u.far.error, 0);
        tls_upgrade_close(loop, &u);
    }
}

TEST(start_tls_puts_another_protocol_above, "STLS-01 STLS-07") {
    aioloop *loop = test_loop();
    tls_upgrade u;
    aioloop_start_tls_options options = AIOLOOP_ZERO;
    test_peer above = AIOLOOP_ZERO;
    void *self = NULL;
    tls_upgrade_open(loop, &u, &test_protocol);
    options.protocol = &test_buffered_protocol;
    options.self = &above;
    u.futures[0] = aioloop_future_ref(tls_upgrade_start(loop, &u, false, &options));
    u.futures[1] = aioloop_future_ref(tls_upgrade_start(loop, &u, true, NULL));
    CHECK_EQ(aioloop_run_until_complete(loop, u.futures[0], &u.transports[0]), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, u.futures[1], &u.transports[1]), 0);
    aioloop_future_unref(u.futures[0]);
    aioloop_future_unref(u.futures[1]);
    CHECK_PTR(aioloop_transport_get_protocol(u.transports[0], &self), &test_buffered_protocol);
    CHECK_PTR(self, &above);
    CHECK_EQ(aioloop_transport_write(u.transports[1], "up", 2), 0);
    test_run_until_received(loop, &above, 2);
    CHECK_EQ(u.near.received, 0);
    aioloop_transport_close(u.transports[1]);
    test_run_until(loop, &above.lost, 1, "the loss");
    CHECK_STR(above.calls, "bel");
    CHECK_STR(u.near.calls, "m");
    u.near.lost = 1; /* as it were */
    tls_upgrade_close(loop, &u);
    /* If there is no TLS in the end it is the first that hears so: it had connection_made. */
    loop = test_loop();
    memset(&above, 0, sizeof(above));
    tls_upgrade_open(loop, &u, &test_protocol);
    options.ssl_handshake_timeout = AIOLOOP_MS(4);
    tls_fails(loop, tls_upgrade_start(loop, &u, false, &options), AIOLOOP_ECONNABORTED, "0.004");
    test_run_until(loop, &u.near.lost, 1, "the loss");
    CHECK_STR(u.near.calls, "ml");
    CHECK_STR(above.calls, "");
    tls_upgrade_close(loop, &u);
}

/* ---- what the methods of a protocol may do ---- */

static void tls_made_closes(test_peer *peer) {
    aioloop_transport_close(peer->transport);
}

static void tls_made_cancels(test_peer *peer) {
    (void)peer;
    CHECK(aioloop_future_cancel(tls_future, NULL));
}

static void tls_made_raises(test_peer *peer) {
    aioloop_raise(aioloop_transport_get_loop(peer->transport), AIOLOOP_EDOM, "made with an error");
}

TEST(tls_connection_made_may_end_it, "TLS-01 TLS-07 TLS-16 CONN-17") {
    void (*const ways[])(test_peer *) = {tls_made_closes, tls_leave_now, tls_made_cancels, tls_made_raises};
    int i;
    for (i = 0; i < 8; i++) { /* the client's, the server's */
        if (i == 6)
            continue; /* it cannot cancel what is the client's */
        aioloop *loop = test_loop();
        tls_place place = AIOLOOP_ZERO;
        test_peer near = AIOLOOP_ZERO;
        test_peer far = AIOLOOP_ZERO;
        test_peer *who = i < 4 ? &near : &far;
        bool aborts = i % 4 == 1 || i == 2;
        int64_t n;
        who->on_made = ways[i % 4];
        tls_serve(loop, &place, &far, &test_protocol, NULL);
        tls_future = aioloop_future_ref(tls_dial(loop, &place, &near, &test_protocol, NULL));
        n = aioloop_run_until_complete(loop, tls_future, NULL);
        test_run_until(loop, aborts ? &who->lost : &far.made, 1, aborts ? "the one who aborts" : "the server's handshake");
        if (aborts)
            test_run_for(loop, AIOLOOP_MS(5));
        if (aborts && near.made + far.made == 1) { /* the last of the handshake may be dropped too */
            CHECK_EQ(n, i == 1 ? 0 : i == 2 ? AIOLOOP_ECANCELED : AIOLOOP_ECONNRESET);
            aioloop_future_unref(tls_future);
            test_peer_drop(who);
            tls_end_place(&place);
            test_end(loop);
            continue;
        }
        CHECK_EQ(n, i == 2 ? AIOLOOP_ECANCELED : 0);
        if (i % 4 == 3) {
            CHECK_EQ(test_reports(), 1);
            CHECK_EQ(test_report_at(0)->context.error, AIOLOOP_EDOM);
            test_reports_clear();
            CHECK(!aioloop_transport_is_closing(who->transport)); /* as for any connection */
            aioloop_transport_close(who->transport);
        }
        test_run_until(loop, &near.lost, 1, "the loss");
        test_run_until(loop, &far.lost, 1, "the server's loss");
        aioloop_future_unref(tls_future);
        tls_end(loop, &place, &near, &far);
    }
}

typedef struct tls_inside {
    char where;  /* the letter of the method that does it, as in test_peer.calls */
    char action; /* a abort, c close, p pause_reading, r resume_reading, s set_protocol, u unref, w write, x all of it, o owned */
    int acts;
} tls_inside;

static int tls_lent;

static void tls_give_back(const void *data, size_t size, void *arg) {
    (void)data;
    (void)size;
    (void)arg;
    tls_lent--;
}

static void tls_act(test_peer *peer) {
    static char much[100000];
    tls_inside *inside = (tls_inside *)peer->user;
    aioloop_transport *t = peer->transport;
    if (inside->acts++ != 0)
        return;
    if (inside->action == 'x' || inside->action == 'w') {
        CHECK_EQ(aioloop_transport_write(t, much, sizeof(much)), 0);
        CHECK_EQ(aioloop_transport_writelines(t, NULL, 0), 0);
    }
    if ((inside->action == 'x' || inside->action == 'o') && aioloop_transport_write_owned(t, much, 30000, tls_give_back, NULL) == 0)
        tls_lent++;
    if (inside->action == 'x' || inside->action == 'p')
        aioloop_transport_pause_reading(t);
    if (inside->action == 'x' || inside->action == 'r') {
        aioloop_transport_pause_reading(t);
        aioloop_transport_resume_reading(t);
    }
    if (inside->action == 'x' || inside->action == 's')
        CHECK_EQ(aioloop_transport_set_protocol(t, aioloop_transport_get_protocol(t, NULL) == &test_protocol ? &test_buffered_protocol : &test_protocol, peer), 0);
    if (inside->action == 'x' || inside->action == 'c')
        aioloop_transport_close(t);
    if (inside->action == 'x' || inside->action == 'a')
        aioloop_transport_abort(t);
    if (inside->action == 'u') {
        aioloop_transport_close(t);
        test_peer_drop(peer);
    }
}

static void tls_act_on_data(test_peer *peer, const void *data, size_t size) {
    (void)data;
    (void)size;
    if (peer->transport != NULL)
        tls_act(peer);
}

static void tls_try_inside(char where, char action, const aioloop_protocol *protocol) {
    aioloop *loop = test_loop();
    tls_upgrade u;
    tls_inside inside = AIOLOOP_ZERO;
    aioloop_socket pair[2];
    aioloop_connection_options client = AIOLOOP_ZERO;
    aioloop_accepted_socket_options server = AIOLOOP_ZERO;
    aioloop_future *f[2];
    int i;
    memset(&u, 0, sizeof(u));
    u.server_context = tls_server("server");
    u.client_context = tls_client("ca.pem");
    test_socketpair(loop, pair);
    inside.where = where;
    inside.action = action;
    u.far.user = &inside;
    u.far.on_made = where == 'm' ? tls_act : NULL;
    u.far.on_data = where == 'd' ? tls_act_on_data : NULL;
    u.far.on_eof = where == 'e' ? tls_act : NULL;
    u.far.on_lost = where == 'l' ? tls_act : NULL;
    client.sock = &pair[0];
    client.ssl = u.client_context;
    client.server_hostname = "localhost";
    client.ssl_handshake_timeout = tls_patience(0);
    server.ssl = u.server_context;
    f[0] = aioloop_future_ref(aioloop_create_connection(loop, protocol, &u.near, NULL, 0, &client));
    f[1] = aioloop_future_ref(aioloop_connect_accepted_socket(loop, protocol, &u.far, pair[1], &server));
    for (i = 0; i < 2; i++) {
        int64_t n = aioloop_run_until_complete(loop, f[i], NULL);
        bool dropped = i == 0 && where == 'm' && (action == 'a' || action == 'x') && n == AIOLOOP_ECONNRESET; /* as above */
        CHECK(n == 0 || dropped);
        test_forget_socket(pair[i]);
        aioloop_future_unref(f[i]);
        if (dropped)
            u.near.made = u.near.lost = 1; /* as it were */
    }
    for (i = 0; i < 3 && u.near.transport != NULL; i++)
        CHECK_EQ(aioloop_transport_write(u.near.transport, "a record", 8), 0);
    if (where == 'e' || where == 'l')
        aioloop_transport_close(u.near.transport);
    test_run_until(loop, &inside.acts, 1, "the method");
    test_spin(loop, 10);
    if (u.far.transport != NULL) {
        aioloop_transport_resume_reading(u.far.transport);
        aioloop_transport_close(u.far.transport);
    }
    if (where != 'e' && where != 'l')
        aioloop_transport_close(u.near.transport);
    tls_upgrade_close(loop, &u);
    CHECK_EQ(tls_lent, 0);
}

TEST(tls_connection_made_may_do_everything, "TLS-16") {
    const char *action;
    for (action = "acprsuwox"; *action != '\0'; action++)
        tls_try_inside('m', *action, &test_protocol);
}

TEST(tls_data_received_may_do_everything, "TLS-16") {
    const char *action;
    for (action = "acprsuwox"; *action != '\0'; action++)
        tls_try_inside('d', *action, &test_protocol);
}

TEST(tls_buffer_updated_may_do_everything, "TLS-16 BUF-03") {
    const char *action;
    for (action = "acprsuwox"; *action != '\0'; action++)
        tls_try_inside('d', *action, &test_buffered_protocol);
}

TEST(tls_eof_received_may_do_everything, "TLS-16 TLS-09") {
    const char *action;
    for (action = "acprsuwox"; *action != '\0'; action++)
        tls_try_inside('e', *action, &test_protocol);
}

TEST(tls_connection_lost_may_do_everything, "TLS-16") {
    const char *action;
    for (action = "aswux"; *action != '\0'; action++)
        tls_try_inside('l', *action, &test_protocol);
}

static void tls_upgrade_inside(test_peer *peer, const void *data, size_t size) {
    tls_upgrade *u = (tls_upgrade *)peer->user;
    aioloop_start_tls_options options = AIOLOOP_ZERO;
    (void)data;
    (void)size;
    if (u->futures[1] != NULL)
        return;
    options.server_side = true;
    options.ssl_handshake_timeout = tls_patience(0);
    options.leftover = (const char *)data + 1; /* behind the letter it is TLS's */
    options.leftover_size = size - 1;
    u->futures[1] = aioloop_future_ref(aioloop_start_tls(aioloop_transport_get_loop(peer->transport), u->transports[1],
                                                         u->server_context, &options));
}

/* The second TLS begins inside of data_received of the first, with bytes of its handshake behind the letter that asks. */
TEST(tls_start_tls_inside_of_a_delivery, "STLS-01 STLS-04 TLS-16") {
    aioloop *loop = test_loop();
    tls_upgrade u;
    aioloop_start_tls_options client = AIOLOOP_ZERO;
    aioloop_transport *inner[2] = {NULL, NULL};
    aioloop_future *f;
    tls_upgrade_open(loop, &u, &test_protocol);
    tls_upgrade_both(loop, &u);
    u.far.user = &u;
    u.far.on_data = tls_upgrade_inside;
    u.futures[1] = NULL;
    client.server_hostname = "localhost";
    client.ssl_handshake_timeout = tls_patience(0);
    CHECK_EQ(aioloop_transport_write(u.transports[0], "S", 1), 0);
    f = aioloop_future_ref(aioloop_start_tls(loop, u.transports[0], u.client_context, &client));
    CHECK_EQ(aioloop_run_until_complete(loop, f, &inner[0]), 0);
    aioloop_future_unref(f);
    CHECK_EQ(aioloop_run_until_complete(loop, u.futures[1], &inner[1]), 0);
    aioloop_future_unref(u.futures[1]);
    CHECK_EQ(aioloop_transport_write(inner[0], "within", 6), 0);
    test_run_until_received(loop, &u.far, 7);
    CHECK(memcmp(u.far.data, "Swithin", 7) == 0);
    aioloop_transport_close(inner[1]);
    test_run_until(loop, &u.near.lost, 1, "the client's loss");
    test_run_until(loop, &u.far.lost, 1, "the server's loss");
    aioloop_transport_unref(inner[0]);
    aioloop_transport_unref(inner[1]);
    tls_upgrade_close(loop, &u);
}

/* ---- the loop ends ---- */

static const int tls_stages[] = {0, 1, 2, 3, 5, 8, 40};

/* After so many iterations of a connection that shakes hands, or is upgraded; by close, or by free alone. */
static void tls_end_of_loop(bool upgrade) {
    size_t i;
    for (i = 0; i < 2 * sizeof(tls_stages) / sizeof(tls_stages[0]); i++) {
        aioloop *loop = test_loop();
        tls_place place = AIOLOOP_ZERO;
        tls_upgrade u;
        test_peer near = AIOLOOP_ZERO;
        test_peer far = AIOLOOP_ZERO;
        aioloop_future *f[2] = {NULL, NULL};
        if (upgrade) {
            tls_upgrade_open(loop, &u, &test_protocol);
            f[0] = aioloop_future_ref(tls_upgrade_start(loop, &u, false, NULL));
            f[1] = aioloop_future_ref(tls_upgrade_start(loop, &u, true, NULL));
        } else {
            tls_serve(loop, &place, &far, &test_protocol, NULL);
            f[0] = aioloop_future_ref(tls_dial(loop, &place, &near, &test_protocol, NULL));
        }
        test_spin(loop, tls_stages[i / 2]);
        if (near.made != 0) {
            CHECK_EQ(aioloop_transport_write(near.transport, "too late", 8), 0);
            CHECK_EQ(aioloop_transport_write_owned(near.transport, "lent", 4, tls_give_back, NULL), 0);
            tls_lent++;
        }
        if (i % 2 == 0) {
            CHECK_EQ(aioloop_close(loop), 0);
            CHECK_EQ(tls_lent, 0);
            if (near.made != 0) {
                CHECK_EQ(aioloop_transport_write(near.transport, "x", 1), 0);
                CHECK_EQ(aioloop_transport_write_owned(near.transport, "x", 1, tls_give_back, NULL), AIOLOOP_ECLOSED);
                aioloop_transport_close(near.transport);
                aioloop_transport_abort(near.transport);
                aioloop_transport_pause_reading(near.transport);
                aioloop_transport_resume_reading(near.transport);
                CHECK_EQ(aioloop_transport_get_write_buffer_size(near.transport), 0);
                CHECK(aioloop_transport_is_closing(near.transport));
                (void)aioloop_transport_get_extra_info(near.transport, "cipher", NULL);
            }
        }
        aioloop_future_unref(f[0]);
        aioloop_future_unref(f[1]);
        if (upgrade) {
            test_peer_drop(&u.near);
            test_peer_drop(&u.far);
            CHECK_EQ(u.near.lost + u.far.lost, 0);
            tls_drop(u.server_context);
            tls_drop(u.client_context);
        } else {
            test_peer_drop(&near);
            test_peer_drop(&far);
            CHECK_EQ(near.lost + far.lost, 0);
            aioloop_server_unref(place.server);
            tls_drop(place.server_context);
            tls_drop(place.client_context);
        }
        test_end(loop);
        CHECK_EQ(tls_lent, 0);
    }
}

TEST(tls_the_loop_ends_at_any_stage, "TLS-16") {
    tls_end_of_loop(false);
}

TEST(start_tls_the_loop_ends_at_any_stage, "STLS-06") {
    tls_end_of_loop(true);
}

TEST(tls_the_loop_ends_while_goodbye_is_said, "TLS-08") {
    int i;
    for (i = 0; i < 4; i++) {
        aioloop *loop = test_loop();
        tls_place place;
        test_peer near = AIOLOOP_ZERO;
        test_peer far = AIOLOOP_ZERO;
        tls_pair(loop, &place, &near, &far, &test_protocol);
        aioloop_transport_close(near.transport);
        test_spin(loop, i / 2);
        if (i % 2 == 0)
            CHECK_EQ(aioloop_close(loop), 0);
        test_peer_drop(&near);
        test_peer_drop(&far);
        aioloop_server_unref(place.server);
        tls_drop(place.server_context);
        tls_drop(place.client_context);
        test_end(loop);
    }
}

/* ---- cancelled at every stage ---- */

static void tls_cancel_soon(aioloop *loop, void *arg) {
    (void)loop;
    aioloop_future_cancel((aioloop_future *)arg, NULL);
}

static void tls_count(aioloop_future *future, void *arg) {
    (void)future;
    ++*(int *)arg;
}

TEST(tls_cancelled_in_any_iteration_leaves_nothing, "TLS-07 CONN-17") {
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    test_peer near;
    test_peer far;
    int cancelled = 0;
    int round;
    tls_serve(loop, &place, &far, &test_protocol, NULL);
    for (round = 0; round < 14; round++) {
        aioloop_future *f;
        int done = 0;
        memset(&near, 0, sizeof(near));
        memset(&far, 0, sizeof(far));
        f = aioloop_future_ref(tls_dial(loop, &place, &near, &test_protocol, NULL));
        CHECK_EQ(aioloop_future_add_done_callback(f, tls_count, &done), 0);
        test_spin(loop, round / 2);
        if (round % 2 == 0) {
            aioloop_future_cancel(f, NULL);
        } else {
            aioloop_handle handle = aioloop_call_soon(loop, tls_cancel_soon, f);
            CHECK(!aioloop_handle_is_null(&handle));
        }
        test_run_until(loop, &done, 1, "the end of the call");
        if (aioloop_future_cancelled(f))
            cancelled++;
        else
            aioloop_transport_close(near.transport);
        if (near.made)
            test_run_until(loop, &near.lost, 1, "the client's loss");
        test_spin(loop, 30);
        if (far.made)
            test_run_until(loop, &far.lost, 1, "the server's loss");
        CHECK_EQ(near.made, near.lost);
        CHECK_EQ(far.made, far.lost);
        CHECK_EQ(done, 1);
        test_peer_drop(&near);
        test_peer_drop(&far);
        aioloop_future_unref(f); /* the callback that cancels it has run */
    }
    CHECK_GE(cancelled, 1);
    CHECK_EQ(test_reports(), 0);
    tls_end_place(&place);
    test_end(loop);
}

/* A time-out of the wait that comes in the iteration in which the handshake ends, just before and just after it. */
TEST(tls_wait_for_and_the_end_of_the_handshake, "TLS-07 STLS-06") {
    int early;
    for (early = 0; early < 4; early++) {
        aioloop *loop = test_loop();
        tls_upgrade u;
        awaiter waiter = AIOLOOP_ZERO;
        aioloop_timer_handle timer;
        int64_t n;
        tls_upgrade_open(loop, &u, &test_protocol);
        u.futures[1] = aioloop_future_ref(tls_upgrade_start(loop, &u, true, NULL));
        u.futures[0] = aioloop_future_ref(aioloop_wait_for(tls_upgrade_start(loop, &u, false, NULL), AIOLOOP_SECONDS(20)));
        await_begin(&waiter, loop, AWAIT_BY_FRAME, u.futures[0]);
        test_spin(loop, early);
        timer = aioloop_call_later(loop, 0, tls_cancel_soon, waiter.task);
        CHECK(!aioloop_handle_is_null(&timer.handle));
        n = await_end(&waiter);
        aioloop_timer_handle_cancel(&timer);
        aioloop_future_unref(u.futures[0]);
        if (n == 0)
            u.transports[0] = (aioloop_transport *)waiter.pointer;
        else
            CHECK_EQ(n, AIOLOOP_ECANCELED);
        aioloop_transport_close(u.transports[0]);
        test_run_until(loop, &u.near.lost, 1, "the client's loss");
        CHECK(aioloop_run_until_complete(loop, u.futures[1], &u.transports[1]) <= 0);
        aioloop_future_unref(u.futures[1]);
        tls_upgrade_close(loop, &u);
    }
}

/* ---- servers ---- */

static void tls_server_ends(aioloop *loop, tls_place *place, bool abruptly) {
    aioloop_server_close(place->server);
    if (abruptly)
        aioloop_server_abort_clients(place->server);
    else
        aioloop_server_close_clients(place->server);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_server_wait_closed(place->server), NULL), 0);
}

TEST(tls_servers_close_their_clients, "TLS-16 TLS-08") {
    int how;
    for (how = 0; how < 2; how++) {
        aioloop *loop = test_loop();
        tls_place place;
        test_peer near = AIOLOOP_ZERO;
        test_peer far = AIOLOOP_ZERO;
        aioloop_future *closed;
        tls_pair(loop, &place, &near, &far, &test_protocol);
        closed = aioloop_future_ref(aioloop_server_wait_closed(place.server));
        aioloop_server_close(place.server);
        test_spin(loop, 5);
        CHECK(!aioloop_future_done(closed)); /* the client lives on */
        aioloop_future_unref(closed);
        tls_server_ends(loop, &place, how == 1);
        CHECK_EQ(far.lost, 1);
        test_run_until(loop, &near.lost, 1, "the client's loss");
        CHECK_EQ(near.eof, how == 0);
        CHECK_EQ(far.error, 0);
        tls_end(loop, &place, &near, &far);
    }
}

typedef struct tls_next {
    aioloop_transport *transport;
    aioloop_ssl_context *context;
    int reports;
} tls_next;

/* Nobody has waited for an upgrade that failed: the next client is upgraded. */
static void tls_upgrade_next(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    tls_next *next = (tls_next *)arg;
    aioloop_start_tls_options options = AIOLOOP_ZERO;
    (void)context;
    options.server_side = true;
    if (next->reports++ == 0)
        aioloop_future_unref(aioloop_start_tls(loop, next->transport, next->context, &options));
}

TEST(start_tls_of_a_client_while_the_clients_are_closed, "STLS-06 SOBJ-04") {
    int how;
    for (how = 0; how < 2; how++) {
        aioloop *loop = test_loop();
        tls_place place = AIOLOOP_ZERO;
        tls_next next = AIOLOOP_ZERO;
        test_peer near[2] = {AIOLOOP_ZERO, AIOLOOP_ZERO};
        test_peer far = AIOLOOP_ZERO;
        aioloop_start_tls_options options = AIOLOOP_ZERO;
        int i;
        place.server_context = tls_server("server");
        place.server = tls_serve_plain(loop, &far, &place.port);
        aioloop_transport_unref(test_dial(loop, &test_protocol, &near[0], place.port));
        test_run_until(loop, &far.made, 1, "the first client");
        options.server_side = true;
        aioloop_future_unref(aioloop_start_tls(loop, far.transport, place.server_context, &options));
        test_peer_drop(&far);
        aioloop_transport_unref(test_dial(loop, &test_protocol, &near[1], place.port));
        test_run_until(loop, &far.made, 2, "the second client");
        next.transport = far.transport;
        next.context = place.server_context;
        aioloop_set_exception_handler(loop, tls_upgrade_next, &next);
        tls_server_ends(loop, &place, how == 1);
        CHECK_EQ(far.lost, 2);
        CHECK_EQ(next.reports, 2);
        for (i = 0; i < 2; i++) {
            test_run_until(loop, &near[i].lost, 1, "a client's loss");
            test_peer_drop(&near[i]);
        }
        test_peer_drop(&far);
        aioloop_server_unref(place.server);
        tls_drop(place.server_context);
        test_end(loop);
    }
}

TEST(tls_servers_close_those_who_shake_hands, "TLS-01 TLS-16") {
    int how;
    for (how = 0; how < 2; how++) {
        aioloop *loop = test_loop();
        tls_place place = AIOLOOP_ZERO;
        test_peer near = AIOLOOP_ZERO;
        test_peer far = AIOLOOP_ZERO;
        tls_serve(loop, &place, &far, &test_protocol, NULL);
        aioloop_transport_unref(test_dial(loop, &test_protocol, &near, place.port)); /* and says nothing */
        test_spin(loop, 20);
        tls_server_ends(loop, &place, how == 1);
        test_run_until(loop, &near.lost, 1, "the client's loss");
        CHECK_EQ(far.made + far.lost, 0);
        CHECK_EQ(test_reports(), 0);
        test_peer_drop(&near);
        tls_end_place(&place);
        test_end(loop);
    }
}

TEST(tls_options_of_servers, "SRV-10 CONN-12 UCON-03 TLS-05 ACC-02") {
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    test_peer peer = AIOLOOP_ZERO;
    aioloop_server_options server = AIOLOOP_ZERO;
    aioloop_unix_server_options path = AIOLOOP_ZERO;
    aioloop_connection_options client = AIOLOOP_ZERO;
    aioloop_accepted_socket_options accepted = AIOLOOP_ZERO;
    aioloop_socket pair[2];
    place.server_context = tls_server("server");
    place.client_context = tls_client("ca.pem");
    test_socketpair(loop, pair);
    /* A context of the other side. */
    server.ssl = place.client_context;
    path.ssl = place.client_context;
    accepted.ssl = place.client_context;
    client.ssl = place.server_context;
    client.server_hostname = "localhost";
    client.ssl_handshake_timeout = tls_patience(0);
    tls_fails(loop, aioloop_create_server(loop, &test_protocol, &peer, "127.0.0.1", 0, &server), AIOLOOP_EINVAL, "server");
    tls_fails(loop, aioloop_create_unix_server(loop, &test_protocol, &peer, "/nowhere/s", &path), AIOLOOP_EINVAL, "server");
    tls_fails(loop, aioloop_connect_accepted_socket(loop, &test_protocol, &peer, pair[0], &accepted), AIOLOOP_EINVAL, "server");
    tls_fails(loop, aioloop_create_connection(loop, &test_protocol, &peer, "127.0.0.1", 1, &client), AIOLOOP_EINVAL, "client");
    /* Time-outs that are none, and such without a context. */
    server.ssl = place.server_context;
    path.ssl = place.server_context;
    accepted.ssl = place.server_context;
    server.ssl_handshake_timeout = path.ssl_handshake_timeout = accepted.ssl_handshake_timeout = -1;
    tls_fails(loop, aioloop_create_server(loop, &test_protocol, &peer, "127.0.0.1", 0, &server), AIOLOOP_EINVAL, "positive");
    tls_fails(loop, aioloop_create_unix_server(loop, &test_protocol, &peer, "/nowhere/s", &path), AIOLOOP_EINVAL, "positive");
    tls_fails(loop, aioloop_connect_accepted_socket(loop, &test_protocol, &peer, pair[0], &accepted), AIOLOOP_EINVAL, "positive");
    server.ssl = NULL;
    path.ssl = NULL;
    accepted.ssl = NULL;
    server.ssl_handshake_timeout = path.ssl_handshake_timeout = accepted.ssl_handshake_timeout = AIOLOOP_SECONDS(1);
    tls_fails(loop, aioloop_create_server(loop, &test_protocol, &peer, "127.0.0.1", 0, &server), AIOLOOP_EINVAL, "with ssl");
    tls_fails(loop, aioloop_create_unix_server(loop, &test_protocol, &peer, "/nowhere/s", &path), AIOLOOP_EINVAL, "with ssl");
    tls_fails(loop, aioloop_connect_accepted_socket(loop, &test_protocol, &peer, pair[0], &accepted), AIOLOOP_EINVAL, "with ssl");
    server.ssl_handshake_timeout = path.ssl_handshake_timeout = accepted.ssl_handshake_timeout = 0;
    server.ssl_shutdown_timeout = path.ssl_shutdown_timeout = accepted.ssl_shutdown_timeout = AIOLOOP_SECONDS(1);
    tls_fails(loop, aioloop_create_server(loop, &test_protocol, &peer, "127.0.0.1", 0, &server), AIOLOOP_EINVAL, "with ssl");
    tls_fails(loop, aioloop_create_unix_server(loop, &test_protocol, &peer, "/nowhere/s", &path), AIOLOOP_EINVAL, "with ssl");
    tls_fails(loop, aioloop_connect_accepted_socket(loop, &test_protocol, &peer, pair[0], &accepted), AIOLOOP_EINVAL, "with ssl");
    CHECK_EQ(peer.made, 0);
    test_close_socket(loop, pair[0]); /* still the test's */
    test_close_socket(loop, pair[1]);
    tls_drop(place.server_context);
    tls_drop(place.client_context);
    test_end(loop);
}

/* ---- sockets accepted elsewhere, Unix sockets ---- */

TEST(tls_on_a_socket_accepted_elsewhere, "ACC-01 ACC-02 BUF-03") {
    aioloop *loop = test_loop();
    aioloop_accepted_socket_options server = AIOLOOP_ZERO;
    aioloop_connection_options client = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_future *f[2];
    aioloop_socket pair[2];
    int i;
    server.ssl = tls_server("server");
    client.ssl = tls_client("ca.pem");
    client.server_hostname = "localhost";
    client.ssl_handshake_timeout = tls_patience(0);
    test_socketpair(loop, pair);
    client.sock = &pair[0];
    f[0] = aioloop_future_ref(aioloop_create_connection(loop, &test_buffered_protocol, &near, NULL, 0, &client));
    f[1] = aioloop_future_ref(aioloop_connect_accepted_socket(loop, &test_buffered_protocol, &far, pair[1], &server));
    for (i = 0; i < 2; i++) {
        CHECK_EQ(aioloop_run_until_complete(loop, f[i], NULL), 0);
        test_forget_socket(pair[i]);
        aioloop_future_unref(f[i]);
    }
    CHECK_EQ(near.made, 1);
    CHECK_EQ(far.made, 1);
    CHECK(aioloop_transport_get_extra_info(near.transport, "peercert", NULL) != NULL);
    CHECK(aioloop_transport_get_extra_info(far.transport, "peercert", NULL) == NULL); /* it is the server */
    CHECK_EQ(aioloop_transport_write(far.transport, "served", 6), 0);
    test_run_until_received(loop, &near, 6);
    test_end_pair(loop, &near, &far);
    /* One whose handshake fails is closed. */
    memset(&far, 0, sizeof(far));
    memset(&near, 0, sizeof(near));
    test_socketpair(loop, pair);
    test_adopt(loop, &test_protocol, &near, pair[0]);
    CHECK_EQ(aioloop_transport_write(near.transport, "this is no TLS, but long enough\n", 32), 0);
    f[1] = aioloop_future_ref(aioloop_connect_accepted_socket(loop, &test_buffered_protocol, &far, pair[1], &server));
    CHECK_LT(aioloop_run_until_complete(loop, f[1], NULL), 0);
    test_forget_socket(pair[1]);
    aioloop_future_unref(f[1]);
    test_run_until(loop, &near.lost, 1, "the loss");
    CHECK_EQ(far.made + far.lost, 0);
    test_peer_drop(&near);
    tls_drop(server.ssl);
    tls_drop(client.ssl);
    test_end(loop);
}

TEST(tls_over_unix_sockets, "UCON-03 BUF-03 TLS-16") {
    aioloop *loop = test_loop();
    aioloop_unix_server_options serving = AIOLOOP_ZERO;
    aioloop_unix_connection_options options = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    char path[64];
    memset(path, 0, sizeof(path));
    snprintf(path + 1, sizeof(path) - 1, "aioloop-tls-%ld", (long)getpid()); /* an abstract name */
    serving.path_size = options.path_size = 1 + strlen(path + 1);
    serving.ssl = tls_server("server");
    options.ssl = tls_client("ca.pem");
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_unix_server(loop, &test_buffered_protocol, &far, path, &serving), &server), 1);
    tls_fails(loop, aioloop_create_unix_connection(loop, &test_buffered_protocol, &near, path, &options), AIOLOOP_EINVAL,
              "server_hostname");
    options.server_hostname = "wrong.example.com";
    tls_fails(loop, aioloop_create_unix_connection(loop, &test_buffered_protocol, &near, path, &options), AIOLOOP_ESSL_CERT_VERIFY,
              "wrong.example.com");
    CHECK_EQ(near.made + far.made, 0);
    options.server_hostname = "localhost";
    options.ssl_handshake_timeout = tls_patience(0);
    far.echo = true;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_create_unix_connection(loop, &test_buffered_protocol, &near, path, &options), NULL), 0);
    CHECK_EQ(aioloop_transport_write(near.transport, "by a path", 9), 0);
    test_run_until_received(loop, &near, 9);
    test_end_pair(loop, &near, &far);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    tls_drop(serving.ssl);
    tls_drop(options.ssl);
    test_end(loop);
}

/* ---- the default context ---- */

TEST(tls_the_default_context_verifies, "CONN-15") {
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    char path[512];
    CHECK(setenv("SSL_CERT_FILE", tls_file("other.pem", path, sizeof(path)), 1) == 0);
    place.client_context = tls_keep(aioloop_ssl_create_default_context(AIOLOOP_TLS_CLIENT));
    tls_serve(loop, &place, &far, &test_protocol, NULL);
    tls_fails(loop, tls_dial(loop, &place, &near, &test_protocol, NULL), AIOLOOP_ESSL_CERT_VERIFY, "localhost");
    tls_drop(place.client_context);
    CHECK(setenv("SSL_CERT_FILE", tls_file("ca.pem", path, sizeof(path)), 1) == 0); /* whom the system trusts now */
    place.client_context = tls_keep(aioloop_ssl_create_default_context(AIOLOOP_TLS_CLIENT));
    CHECK_EQ(aioloop_run_until_complete(loop, tls_dial(loop, &place, &near, &test_protocol, NULL), NULL), 0);
    test_run_until(loop, &far.made, 1, "the server's handshake");
    test_end_pair(loop, &near, &far);
    memset(&near, 0, sizeof(near));
    memset(&far, 0, sizeof(far));
    {
        aioloop_connection_options options = AIOLOOP_ZERO;
        options.server_hostname = "wrong.example.com";
        tls_fails(loop, tls_dial(loop, &place, &near, &test_protocol, &options), AIOLOOP_ESSL_CERT_VERIFY, "wrong.example.com");
    }
    tls_end_place(&place);
    test_end(loop);
}

/* ---- more ends ---- */

static void tls_end_now(test_peer *peer) {
    aioloop_transport_close(peer->transport);
}

/* In the handshake the peer ends in good order; and one that is reset. */
TEST(tls_the_peer_ends_in_the_handshake, "TLS-06") {
    int server;
    for (server = 0; server < 2; server++) {
        aioloop *loop = test_loop();
        tls_place place = AIOLOOP_ZERO;
        test_peer near = AIOLOOP_ZERO;
        test_peer far = AIOLOOP_ZERO;
        if (server == 0) {
            place.client_context = tls_client("ca.pem");
            far.on_made = tls_end_now;
            place.server = tls_serve_plain(loop, &far, &place.port);
            tls_fails(loop, tls_dial(loop, &place, &near, &test_protocol, NULL), AIOLOOP_ECONNRESET, "");
            test_run_until(loop, &far.lost, 1, "the other end");
            CHECK_EQ(near.made + near.lost, 0);
        } else {
            tls_serve(loop, &place, &far, &test_protocol, NULL);
            near.on_made = tls_end_now;
            aioloop_transport_unref(test_dial(loop, &test_protocol, &near, place.port));
            test_run_until(loop, &near.lost, 1, "the other end");
            test_spin(loop, 20);
            CHECK_EQ(far.made + far.lost, 0);
        }
        CHECK_EQ(test_reports(), 0);
        test_peer_drop(&near);
        test_peer_drop(&far);
        tls_end_place(&place);
        test_end(loop);
    }
}

TEST(tls_lent_memory_comes_back_however_it_ends, "TLS-16") {
    static char much[300000];
    int how;
    for (how = 0; how < 4; how++) {
        aioloop *loop = test_loop();
        tls_place place;
        test_peer near = AIOLOOP_ZERO;
        test_peer far = AIOLOOP_ZERO;
        int i;
        tls_pair(loop, &place, &near, &far, &test_protocol);
        aioloop_transport_pause_reading(far.transport);
        for (i = 0; i < 3; i++) {
            CHECK_EQ(aioloop_transport_write_owned(near.transport, much, sizeof(much), tls_give_back, NULL), 0);
            tls_lent++;
        }
        CHECK_EQ(tls_lent, 3);
        if (how == 0)
            aioloop_transport_abort(near.transport);
        else if (how == 1)
            aioloop_transport_abort(far.transport);
        else if (how == 2)
            aioloop_transport_close(near.transport);
        else
            CHECK_EQ(aioloop_close(loop), 0);
        if (how < 3) {
            aioloop_transport_resume_reading(far.transport);
            test_run_until(loop, &near.lost, 1, "the loss");
            CHECK_EQ(tls_lent, 0);
            CHECK_EQ(aioloop_transport_write_owned(near.transport, much, 1, tls_give_back, NULL), AIOLOOP_ENOTCONN);
            tls_end(loop, &place, &near, &far);
            continue;
        }
        CHECK_EQ(tls_lent, 0);
        test_peer_drop(&near);
        test_peer_drop(&far);
        aioloop_server_unref(place.server);
        tls_drop(place.server_context);
        tls_drop(place.client_context);
        test_end(loop);
    }
}

TEST(tls_in_debug_mode, "TLS-16") {
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_set_debug(loop, true);
    far.echo = true;
    tls_pair(loop, &place, &near, &far, &test_protocol);
    CHECK_EQ(aioloop_transport_write(near.transport, "looked at", 9), 0);
    test_run_until_received(loop, &near, 9);
    aioloop_transport_close(near.transport);
    test_run_until(loop, &far.lost, 1, "the loss");
    test_log_clear(); /* a slow machine is noted there */
    tls_end(loop, &place, &near, &far);
}

/* Another protocol, also of the other kind, on a connection that lives. */
TEST(tls_protocols_are_exchanged, "TLS-16") {
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    test_peer other = AIOLOOP_ZERO;
    void *self = NULL;
    tls_pair(loop, &place, &near, &far, &test_protocol);
    CHECK_PTR(aioloop_transport_get_loop(far.transport), loop);
    CHECK_EQ(aioloop_transport_write(near.transport, "first", 5), 0);
    test_run_until_received(loop, &far, 5);
    CHECK_EQ(aioloop_transport_set_protocol(far.transport, &test_buffered_protocol, &other), 0);
    CHECK_PTR(aioloop_transport_get_protocol(far.transport, &self), &test_buffered_protocol);
    CHECK_PTR(self, &other);
    CHECK_EQ(aioloop_transport_write(near.transport, "second", 6), 0);
    test_run_until_received(loop, &other, 6);
    CHECK_EQ(far.received, 5);
    CHECK_EQ(aioloop_transport_set_protocol(far.transport, &test_protocol, &far), 0);
    CHECK_EQ(aioloop_transport_set_protocol(far.transport, NULL, NULL), AIOLOOP_EINVAL);
    tls_end(loop, &place, &near, &far);
}

/* ---- streams ---- */

typedef struct tls_echo_frame {
    aioloop_stream_frame base;
    int64_t n;
    const char *line;
} tls_echo_frame;

static int64_t tls_echo_step(aioloop *loop, aioloop_frame *frame, void **out) {
    tls_echo_frame *self = (tls_echo_frame *)(void *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    for (;;) {
        AIOLOOP_AWAIT(self->n, aioloop_stream_readline(self->base.stream), &self->line);
        if (self->n <= 0)
            return self->n;
        self->n = aioloop_stream_write(self->base.stream, self->line, (size_t)self->n);
        AIOLOOP_AWAIT(self->n, aioloop_stream_drain(self->base.stream), NULL);
        if (self->n < 0)
            return self->n;
    }
    AIOLOOP_END;
}

static int64_t tls_echo_stack(aioloop *loop, aioloop_stream *s, void *arg) {
    const char *line = NULL;
    int64_t n;
    (void)loop;
    (void)arg;
    while ((n = aioloop_await(aioloop_stream_readline(s), &line)) > 0) {
        n = aioloop_stream_write(s, line, (size_t)n);
        if (n >= 0)
            n = aioloop_await(aioloop_stream_drain(s), NULL);
        if (n < 0)
            return n;
    }
    return n;
}

static void tls_greet(aioloop *loop, aioloop_stream *s, void *arg) {
    (void)loop;
    (void)arg;
    aioloop_stream_write(s, "one\ntwo\n", 8);
}

static int tls_port(const aioloop_server *server) {
    aioloop_address address;
    CHECK_EQ(aioloop_server_socket(server, 0, NULL, &address), 0);
    return address.port;
}

static void tls_expect_line(aioloop *loop, aioloop_stream *s, const char *text) {
    const char *line = NULL;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_stream_readline(s), &line), (int64_t)strlen(text));
    CHECK_STR(line, text);
}

static void tls_server_over(aioloop *loop, aioloop_server *server) {
    aioloop_server_close(server);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_server_wait_closed(server), NULL), 0);
    aioloop_server_unref(server);
}

static void tls_try_stream(aioloop_stream_handler handler, aioloop_stream_server_options *serving) {
    aioloop *loop = test_loop();
    aioloop_stream_options options = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    aioloop_stream *s = NULL;
    const char *line = NULL;
    if (handler != NULL)
        await_needs_stacks(loop);
    serving->server.ssl = tls_server("server");
    options.connection.ssl = tls_client("ca.pem");
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_start_server(loop, handler, NULL, "127.0.0.1", 0, serving), &server), 1);
    options.connection.server_hostname = "wrong.example.com";
    tls_fails(loop, aioloop_open_connection(loop, "127.0.0.1", tls_port(server), &options), AIOLOOP_ESSL_CERT_VERIFY, "wrong.example.com");
    options.connection.server_hostname = "localhost";
    options.connection.ssl_handshake_timeout = tls_patience(0);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_open_connection(loop, "127.0.0.1", tls_port(server), &options), &s), 0);
    CHECK(aioloop_stream_get_extra_info(s, "cipher", NULL) != NULL);
    CHECK(!aioloop_stream_can_write_eof(s));
    CHECK_EQ(aioloop_stream_write_eof(s), AIOLOOP_ENOTAVAILABLE);
    if (serving->callback == NULL)
        CHECK_EQ(aioloop_stream_write(s, "one\ntwo\n", 8), 0);
    tls_expect_line(loop, s, "one\n");
    tls_expect_line(loop, s, "two\n");
    if (serving->callback != NULL) /* whose reference is gone, and the connection with it */
        CHECK_EQ(aioloop_run_until_complete(loop, aioloop_stream_readline(s), &line), 0);
    aioloop_stream_close(s);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_stream_wait_closed(s), NULL), 0);
    aioloop_stream_unref(s);
    tls_server_over(loop, server);
    tls_drop(serving->server.ssl);
    tls_drop(options.connection.ssl);
    test_end(loop);
}

TEST(tls_streams_and_a_coroutine_without_a_stack, "TLS-01 TLS-16") {
    aioloop_stream_server_options options = AIOLOOP_ZERO;
    options.step = tls_echo_step;
    options.frame_size = sizeof(tls_echo_frame);
    tls_try_stream(NULL, &options);
}

TEST(tls_streams_and_a_coroutine_with_a_stack, "TLS-01 TLS-16") {
    aioloop_stream_server_options options = AIOLOOP_ZERO;
    tls_try_stream(tls_echo_stack, &options);
}

TEST(tls_streams_and_a_plain_function, "TLS-01 TLS-16") {
    aioloop_stream_server_options options = AIOLOOP_ZERO;
    options.callback = tls_greet;
    tls_try_stream(NULL, &options);
}

TEST(tls_readers_are_told_of_corrupt_bytes, "TLS-15") {
    static tls_middle middle;
    aioloop *loop = test_loop();
    aioloop_future *f;
    tls_place place = AIOLOOP_ZERO;
    aioloop_stream_options options = AIOLOOP_ZERO;
    aioloop_stream *s = NULL;
    test_peer far = AIOLOOP_ZERO;
    tls_serve(loop, &place, &far, &test_protocol, NULL);
    tls_middle_open(loop, &middle, place.port);
    options.connection.ssl = place.client_context;
    options.connection.server_hostname = "localhost";
    options.connection.ssl_handshake_timeout = tls_patience(0);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_open_connection(loop, "127.0.0.1", middle.port, &options), &s), 0);
    test_run_until(loop, &far.made, 1, "the server's handshake");
    CHECK_EQ(aioloop_transport_write(far.transport, "good\n", 5), 0);
    tls_expect_line(loop, s, "good\n");
    middle.corrupt = true;
    CHECK_EQ(aioloop_transport_write(far.transport, "evil\n", 5), 0);
    f = aioloop_future_ref(aioloop_stream_wait_closed(s));
    tls_fails(loop, aioloop_stream_readline(s), AIOLOOP_ESSL, "TLS with localhost: ");
    tls_fails(loop, f, AIOLOOP_ESSL, "TLS with localhost: "); /* also who waited for the end, */
    aioloop_future_unref(f);
    CHECK_EQ(aioloop_stream_exception(s), AIOLOOP_ESSL);
    tls_fails(loop, aioloop_stream_readline(s), AIOLOOP_ESSL, "TLS with localhost: "); /* and all who come later */
    tls_fails(loop, aioloop_stream_drain(s), AIOLOOP_ESSL, "TLS with localhost: ");
    tls_fails(loop, aioloop_stream_wait_closed(s), AIOLOOP_ESSL, "TLS with localhost: ");
    aioloop_stream_unref(s);
    test_run_until(loop, &far.lost, 1, "the server's loss");
    test_peer_drop(&far);
    tls_middle_close(loop, &middle);
    tls_end_place(&place);
    test_end(loop);
}

/* What a coroutine that reads finds as the last error. */
typedef struct tls_reading {
    aioloop_frame frame;
    aioloop_stream *stream;
    int64_t n;
    char message[256];
} tls_reading;

static int64_t tls_reads_to_the_end(aioloop *loop, aioloop_frame *frame, void **out) {
    tls_reading *self = (tls_reading *)(void *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    AIOLOOP_AWAIT(self->n, aioloop_stream_read(self->stream, -1), NULL);
    snprintf(self->message, sizeof(self->message), "%s", aioloop_message(loop, self->n));
    return self->n;
    AIOLOOP_END;
}

TEST(tls_readers_are_told_of_a_cut, "TLS-14") {
    static tls_middle middle;
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    aioloop_stream_options options = AIOLOOP_ZERO;
    tls_reading reading = AIOLOOP_ZERO;
    aioloop_future *f;
    test_peer far = AIOLOOP_ZERO;
    tls_serve(loop, &place, &far, &test_protocol, NULL);
    tls_middle_open(loop, &middle, place.port);
    options.connection.ssl = place.client_context;
    options.connection.server_hostname = "localhost";
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_open_connection(loop, "127.0.0.1", middle.port, &options), &reading.stream), 0);
    test_run_until(loop, &far.made, 1, "the server's handshake");
    f = await_task_frame(loop, tls_reads_to_the_end, &reading.frame, NULL);
    test_spin(loop, 5);
    aioloop_transport_close(middle.to_client.transport);
    tls_fails(loop, f, AIOLOOP_ESSL_TRUNCATED, "TLS with localhost: ");
    CHECK(strstr(reading.message, "TLS with localhost: ") != NULL);
    aioloop_future_unref(f);
    aioloop_stream_unref(reading.stream);
    aioloop_transport_abort(far.transport);
    test_run_until(loop, &far.lost, 1, "the server's loss");
    test_peer_drop(&far);
    tls_middle_close(loop, &middle);
    tls_end_place(&place);
    test_end(loop);
}

TEST(tls_streams_end_without_a_warning, "TLS-10") {
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_stream_options options = AIOLOOP_ZERO;
    aioloop_stream *stream = NULL;
    const char *data = NULL;
    tls_serve(loop, &place, &far, &test_protocol, NULL);
    options.connection.ssl = place.client_context;
    options.connection.server_hostname = "localhost";
    options.connection.ssl_handshake_timeout = tls_patience(0);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_open_connection(loop, "127.0.0.1", place.port, &options), &stream), 0);
    test_run_until(loop, &far.made, 1, "the server's handshake");
    aioloop_transport_close(far.transport);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_stream_read(stream, 1), &data), 0);
    CHECK(aioloop_stream_at_eof(stream));
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_stream_wait_closed(stream), NULL), 0);
    test_run_until(loop, &far.lost, 1, "the server's loss");
    CHECK_EQ(far.error, 0);
    CHECK_EQ(test_log_lines(), 0);
    aioloop_stream_unref(stream);
    tls_end_place(&place);
    test_end(loop);
}

/* ---- streams are upgraded ---- */

typedef struct tls_upgrade_frame {
    aioloop_stream_frame base;
    int64_t n;
    const char *line;
} tls_upgrade_frame;

/* Lines; what follows STARTTLS is TLS. Errors are the other side's matter. */
static int64_t tls_upgrade_step(aioloop *loop, aioloop_frame *frame, void **out) {
    tls_upgrade_frame *self = (tls_upgrade_frame *)(void *)frame;
    aioloop_stream *s = self->base.stream;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    for (;;) {
        AIOLOOP_AWAIT(self->n, aioloop_stream_readline(s), &self->line);
        if (self->n <= 0)
            return 0;
        if (strcmp(self->line, "STARTTLS\n") != 0) {
            if (aioloop_stream_write(s, self->line, (size_t)self->n) < 0)
                return 0;
            continue;
        }
        if (aioloop_stream_write(s, "go ahead\n", 9) < 0)
            return 0;
        AIOLOOP_AWAIT(self->n, aioloop_stream_start_tls(s, (aioloop_ssl_context *)self->base.arg, NULL), NULL);
        if (self->n < 0)
            return 0;
    }
    AIOLOOP_END;
}

typedef struct tls_streams {
    aioloop_ssl_context *server_context;
    aioloop_ssl_context *client_context;
    aioloop_server *server;
    aioloop_stream *s;
} tls_streams;

static void tls_streams_open(aioloop *loop, tls_streams *t) {
    aioloop_stream_server_options serving = AIOLOOP_ZERO;
    memset(t, 0, sizeof(*t));
    t->server_context = tls_server("server");
    t->client_context = tls_client("ca.pem");
    serving.step = tls_upgrade_step;
    serving.frame_size = sizeof(tls_upgrade_frame);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_start_server(loop, NULL, t->server_context, "127.0.0.1", 0, &serving), &t->server), 1);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_open_connection(loop, "127.0.0.1", tls_port(t->server), NULL), &t->s), 0);
}

static void tls_streams_close(aioloop *loop, tls_streams *t) {
    aioloop_stream_close(t->s);
    aioloop_stream_unref(t->s);
    tls_server_over(loop, t->server);
    test_spin(loop, 10); /* the handler ends behind its connection */
    tls_drop(t->server_context);
    tls_drop(t->client_context);
    test_end(loop);
}

/* Asked for and begun at once, so that the server finds the handshake's first bytes behind the line; or politely. */
TEST(start_tls_of_streams_on_both_sides, "STR-18 STLS-03") {
    int polite;
    for (polite = 0; polite < 2; polite++) {
        aioloop *loop = test_loop();
        aioloop_start_tls_options options = AIOLOOP_ZERO;
        aioloop_future *f;
        tls_streams t;
        options.server_hostname = "localhost";
        options.ssl_handshake_timeout = tls_patience(0);
        tls_streams_open(loop, &t);
        CHECK_EQ(aioloop_stream_write(t.s, "clear\n", 6), 0);
        tls_expect_line(loop, t.s, "clear\n");
        CHECK_EQ(aioloop_stream_write(t.s, "STARTTLS\n", 9), 0);
        tls_expect_line(loop, t.s, "go ahead\n");
        f = aioloop_future_ref(aioloop_stream_start_tls(t.s, t.client_context, &options));
        while (!aioloop_future_done(f)) { /* and nothing is written in between */
            CHECK_EQ(aioloop_stream_write(t.s, "torn\n", 5), AIOLOOP_EMISUSE);
            CHECK_EQ(aioloop_stream_write_eof(t.s), AIOLOOP_EMISUSE);
            CHECK_GE(aioloop_run_once(loop, AIOLOOP_MS(5)), 0);
        }
        CHECK_EQ(aioloop_future_result(f, NULL), 0);
        aioloop_future_unref(f);
        CHECK(aioloop_stream_get_extra_info(t.s, "peercert", NULL) != NULL);
        CHECK_EQ(aioloop_stream_write(t.s, "secret\n", 7), 0);
        tls_expect_line(loop, t.s, "secret\n");
        if (polite == 0) { /* and once more within it, at the end of its lines */
            CHECK_EQ(aioloop_stream_write(t.s, "STARTTLS\n", 9), 0);
            tls_expect_line(loop, t.s, "go ahead\n");
            CHECK_EQ(aioloop_run_until_complete(loop, aioloop_stream_start_tls(t.s, t.client_context, &options), NULL), 0);
            CHECK_EQ(aioloop_stream_write(t.s, "deeper\n", 7), 0);
            tls_expect_line(loop, t.s, "deeper\n");
        }
        tls_streams_close(loop, &t);
    }
}

/* A client that does not wait: its greeting comes in the segment of the line before. */
TEST(start_tls_of_a_stream_with_the_handshake_behind_the_line, "STR-18") {
    aioloop *loop = test_loop();
    aioloop_start_tls_options options = AIOLOOP_ZERO;
    aioloop_stream_options sock = AIOLOOP_ZERO;
    aioloop_ssl_context *server_context = tls_server("server");
    aioloop_ssl_context *client_context = tls_client("ca.pem");
    aioloop_transport *t = NULL;
    aioloop_future *f[2];
    aioloop_stream *s = NULL;
    aioloop_socket pair[2];
    test_peer near = AIOLOOP_ZERO;
    test_socketpair(loop, pair);
    test_adopt(loop, &test_protocol, &near, pair[0]);
    sock.connection.sock = &pair[1];
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_open_connection(loop, NULL, 0, &sock), &s), 0);
    test_forget_socket(pair[1]);
    options.server_hostname = "localhost";
    options.ssl_handshake_timeout = tls_patience(0);
    CHECK_EQ(aioloop_transport_write(near.transport, "STARTTLS\n", 9), 0);
    f[0] = aioloop_future_ref(aioloop_start_tls(loop, near.transport, client_context, &options));
    test_spin(loop, 30); /* the stream has the greeting by now */
    tls_expect_line(loop, s, "STARTTLS\n");
    memset(&options, 0, sizeof(options));
    options.server_side = true;
    options.ssl_handshake_timeout = tls_patience(0);
    f[1] = aioloop_future_ref(aioloop_stream_start_tls(s, server_context, &options));
    CHECK_EQ(aioloop_run_until_complete(loop, f[1], NULL), 0);
    CHECK_EQ(aioloop_run_until_complete(loop, f[0], &t), 0);
    aioloop_future_unref(f[0]);
    aioloop_future_unref(f[1]);
    CHECK_EQ(aioloop_transport_write(t, "secret\n", 7), 0);
    tls_expect_line(loop, s, "secret\n");
    aioloop_transport_close(t);
    aioloop_transport_unref(t);
    test_run_until(loop, &near.lost, 1, "the loss");
    test_peer_drop(&near);
    aioloop_stream_unref(s);
    tls_drop(server_context);
    tls_drop(client_context);
    test_spin(loop, 10);
    test_end(loop);
}

static void tls_fill(test_peer *peer) {
    char bytes[100];
    memset(bytes, 'b', sizeof(bytes));
    aioloop_transport_write(peer->transport, bytes, sizeof(bytes));
}

/* More than the stream's limit comes along with the end of the handshake: reading pauses, and goes on. */
TEST(start_tls_of_a_stream_that_is_full_at_once, "STR-18") {
    aioloop *loop = test_loop();
    aioloop_start_tls_options options = AIOLOOP_ZERO;
    aioloop_accepted_socket_options accepted = AIOLOOP_ZERO;
    aioloop_stream_options sock = AIOLOOP_ZERO;
    aioloop_ssl_context *client_context = tls_client("ca.pem");
    aioloop_future *f[2];
    aioloop_stream *s = NULL;
    aioloop_socket pair[2];
    const char *data = NULL;
    test_peer far = AIOLOOP_ZERO;
    accepted.ssl = tls_server("server");
    accepted.ssl_handshake_timeout = tls_patience(0);
    far.on_made = tls_fill;
    test_socketpair(loop, pair);
    sock.connection.sock = &pair[0];
    sock.limit = 16;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_open_connection(loop, NULL, 0, &sock), &s), 0);
    test_forget_socket(pair[0]);
    f[1] = aioloop_future_ref(aioloop_connect_accepted_socket(loop, &test_protocol, &far, pair[1], &accepted));
    options.server_hostname = "localhost";
    options.ssl_handshake_timeout = tls_patience(0);
    f[0] = aioloop_future_ref(aioloop_stream_start_tls(s, client_context, &options));
    CHECK_EQ(aioloop_run_until_complete(loop, f[1], NULL), 0);
    test_forget_socket(pair[1]);
    CHECK_EQ(aioloop_run_until_complete(loop, f[0], NULL), 0);
    aioloop_future_unref(f[0]);
    aioloop_future_unref(f[1]);
    test_spin(loop, 10);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_stream_readexactly(s, 60), &data), 60);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_stream_readexactly(s, 40), &data), 40);
    tls_fill(&far);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_stream_readexactly(s, 100), &data), 100);
    aioloop_stream_close(s);
    aioloop_stream_unref(s);
    test_run_until(loop, &far.lost, 1, "the loss");
    test_peer_drop(&far);
    tls_drop(accepted.ssl);
    tls_drop(client_context);
    test_spin(loop, 10);
    test_end(loop);
}

TEST(start_tls_of_a_stream_refuses_and_fails, "STR-18 STLS-05 STLS-06") {
    aioloop *loop = test_loop();
    aioloop_start_tls_options options = AIOLOOP_ZERO;
    aioloop_stream *bare = aioloop_stream_new(loop, 0);
    aioloop_future *f;
    tls_streams t;
    CHECK(bare != NULL);
    tls_streams_open(loop, &t);
    tls_fails(loop, aioloop_stream_start_tls(bare, t.client_context, NULL), AIOLOOP_EINVAL, "no connection");
    aioloop_stream_unref(bare);
    CHECK_EQ(aioloop_future_exception(aioloop_stream_start_tls(NULL, t.client_context, NULL)), AIOLOOP_EINVAL);
    tls_fails(loop, aioloop_stream_start_tls(t.s, NULL, NULL), AIOLOOP_EINVAL, "context");
    tls_fails(loop, aioloop_stream_start_tls(t.s, t.server_context, NULL), AIOLOOP_EINVAL, "client");
    options.leftover = "x";
    options.leftover_size = 1;
    tls_fails(loop, aioloop_stream_start_tls(t.s, t.client_context, &options), AIOLOOP_EINVAL, "leftover");
    f = aioloop_future_ref(aioloop_stream_readline(t.s));
    CHECK(!aioloop_future_done(f));
    tls_fails(loop, aioloop_stream_start_tls(t.s, t.client_context, NULL), AIOLOOP_EMISUSE, "read");
    CHECK_EQ(aioloop_stream_write(t.s, "still clear\n", 12), 0); /* nothing has changed */
    CHECK_EQ(aioloop_run_until_complete(loop, f, NULL), 12);
    aioloop_future_unref(f);
    /* A line instead of a handshake: the stream is lost. */
    memset(&options, 0, sizeof(options));
    options.ssl_handshake_timeout = AIOLOOP_MS(20);
    options.server_hostname = "";
    CHECK_EQ(aioloop_stream_write(t.s, "no handshake, but a line that is long enough\n", 45), 0);
    CHECK_LT(aioloop_run_until_complete(loop, aioloop_stream_start_tls(t.s, t.client_context, &options), NULL), 0);
    CHECK_EQ(aioloop_stream_write(t.s, "dropped", 7), 0);
    CHECK_LT(aioloop_run_until_complete(loop, aioloop_stream_readline(t.s), NULL), 0);
    CHECK_LT(aioloop_run_until_complete(loop, aioloop_stream_wait_closed(t.s), NULL), 0);
    tls_streams_close(loop, &t);
}

/* Cancelled, let go of, or the loop gone, after so many iterations of the upgrade. */
TEST(start_tls_of_a_stream_is_given_up, "STR-18 STLS-06 STLS-07") {
    size_t i;
    for (i = 0; i < 3 * sizeof(tls_stages) / sizeof(tls_stages[0]); i++) {
        aioloop *loop = test_loop();
        aioloop_start_tls_options options = AIOLOOP_ZERO;
        aioloop_future *f;
        tls_streams t;
        options.server_hostname = "localhost";
        options.ssl_handshake_timeout = tls_patience(0);
        tls_streams_open(loop, &t);
        CHECK_EQ(aioloop_stream_write(t.s, "STARTTLS\n", 9), 0);
        tls_expect_line(loop, t.s, "go ahead\n");
        f = aioloop_future_ref(aioloop_stream_start_tls(t.s, t.client_context, &options));
        test_spin(loop, tls_stages[i / 3]);
        if (i % 3 == 0) {
            bool cancelled = aioloop_future_cancel(f, NULL);
            aioloop_future_unref(f);
            if (cancelled)
                test_run_for(loop, AIOLOOP_MS(1));
            tls_streams_close(loop, &t);
        } else if (i % 3 == 1) {
            aioloop_future_unref(f);
            aioloop_stream_unref(t.s);
            t.s = NULL;
            tls_streams_close(loop, &t);
        } else {
            CHECK_EQ(aioloop_close(loop), 0);
            aioloop_future_unref(f);
            aioloop_stream_unref(t.s);
            aioloop_server_unref(t.server);
            tls_drop(t.server_context);
            tls_drop(t.client_context);
            test_end(loop);
            test_reports_clear(); /* the handler's task was destroyed */
        }
    }
}

/* ---- contexts made in coroutines ---- */

static int64_t tls_loads_nothing(aioloop *loop, aioloop_frame *frame, void **out) {
    int no_side = 2;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    CHECK(aioloop_ssl_context_new((aioloop_tls_side)no_side) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(NULL)), AIOLOOP_EINVAL);
    CHECK(strstr(aioloop_error_message(aioloop_last_error(loop)), "side") != NULL);
    return aioloop_ssl_context_load_verify_locations(tls_kept[0], "/nowhere/at/all.pem", NULL);
    AIOLOOP_END;
}

TEST(tls_contexts_tell_coroutines_what_is_wrong, "") {
    aioloop *loop = test_loop();
    aioloop_ssl_context *context = tls_client(NULL);
    aioloop_frame frame = AIOLOOP_ZERO;
    aioloop_future *f;
    CHECK_PTR(tls_kept[0], context);
    f = await_task_frame(loop, tls_loads_nothing, &frame, NULL);
    tls_fails(loop, f, AIOLOOP_ENOENT, "/nowhere/at/all.pem");
    aioloop_future_unref(f);
    tls_drop(context);
    test_end(loop);
}

/* ---- two loops in two threads ---- */

typedef struct tls_thread {
    aioloop *loop;
    aioloop_ssl_context *server_context;
    aioloop_ssl_context *client_context;
    aioloop_ssl_session *session; /* to be resumed by every other connection; NULL: none */
    int over;
} tls_thread;

static bool tls_reused(const test_peer *peer) {
    return *(const bool *)aioloop_transport_get_extra_info(peer->transport, "session_reused", NULL);
}

/* One connection, which resumes a session or not. Its own session replaces that, if asked for. */
static void tls_thread_connect(tls_thread *self, aioloop_ssl_session *resumed, aioloop_ssl_session **out) {
    tls_place place = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    char text[2000];
    far.echo = true;
    memset(text, 'a', sizeof(text));
    place.server_context = self->server_context;
    place.client_context = self->client_context;
    options.ssl_session = resumed;
    tls_serve(self->loop, &place, &far, &test_protocol, NULL);
    CHECK_EQ(aioloop_run_until_complete(self->loop, tls_dial(self->loop, &place, &near, &test_protocol, &options), NULL), 0);
    test_run_until(self->loop, &far.made, 1, "the server's handshake");
    CHECK_EQ(aioloop_transport_write(near.transport, text, sizeof(text)), 0);
    test_run_until_received(self->loop, &near, sizeof(text));
    CHECK(memcmp(near.data, text, sizeof(text)) == 0);
    CHECK_EQ(tls_reused(&near), resumed != NULL);
    CHECK_EQ(tls_reused(&far), resumed != NULL);
    aioloop_ssl_session_unref(resumed);
    if (out != NULL)
        *out = aioloop_ssl_session_ref((aioloop_ssl_session *)aioloop_transport_get_extra_info(near.transport, "session", NULL));
    test_end_pair(self->loop, &near, &far);
    aioloop_server_close(place.server);
    aioloop_server_unref(place.server);
    test_spin(self->loop, 4);
}

static void *tls_thread_run(void *arg) {
    tls_thread *self = (tls_thread *)arg;
    aioloop_ssl_session *own = NULL;
    int i;
    for (i = 0; i < 3; i++) {
        tls_thread_connect(self, aioloop_ssl_session_ref(self->session), NULL);
        tls_thread_connect(self, own, &own);
    }
    aioloop_ssl_session_unref(own);
    self->over = 1;
    return NULL;
}

/* Contexts with their tickets, and a session of another thread's if it is to be resumed, are shared. */
static void tls_two_threads(bool resumes) {
    tls_thread threads[3]; /* the last is this one */
    pthread_t ids[2];
    int i;
    memset(threads, 0, sizeof(threads));
    for (i = 0; i < 3; i++) {
        threads[i].loop = test_loop();
        test_needs_threads(threads[i].loop);
        threads[i].server_context = i == 0 ? tls_server("server") : threads[0].server_context;
        threads[i].client_context = i == 0 ? tls_client("ca.pem") : threads[0].client_context;
    }
    if (resumes) {
        tls_thread_connect(&threads[2], NULL, &threads[0].session);
        CHECK(threads[0].session != NULL);
        threads[1].session = threads[0].session;
    }
    test_end(threads[2].loop);
    for (i = 0; i < 2; i++)
        CHECK(pthread_create(&ids[i], NULL, tls_thread_run, &threads[i]) == 0);
    for (i = 0; i < 2; i++) {
        pthread_join(ids[i], NULL);
        CHECK_EQ(threads[i].over, 1);
        test_end(threads[i].loop);
    }
    aioloop_ssl_session_unref(threads[0].session);
    tls_drop(threads[0].server_context);
    tls_drop(threads[0].client_context);
}

TEST_WITH(tls_two_threads_share_their_contexts, "TLS-16", TEST_THREADS) {
    tls_two_threads(false);
}

TEST_WITH(tls_two_threads_resume_the_same_session, "TLS-16 TLS-17", TEST_THREADS) {
    tls_two_threads(true);
}

/* ---- what user code does in the middle of a write ---- */

static int tls_meddled;
static int tls_meddles_by; /* 0: writes, 1: closes, 2: aborts */

static void tls_meddle(test_peer *peer) {
    if (tls_meddled++ != 0)
        return;
    if (tls_meddles_by == 0)
        CHECK_EQ(aioloop_transport_write(peer->transport, "PAUSED", 6), 0);
    else if (tls_meddles_by == 1)
        aioloop_transport_close(peer->transport);
    else
        aioloop_transport_abort(peer->transport);
}

/* More than any system takes at once, so that it pauses. */
static char tls_flood[12 << 20];

TEST(tls_pause_writing_may_write_close_or_abort, "TLS-12 TLS-16") {
    for (tls_meddles_by = 0; tls_meddles_by < 3; tls_meddles_by++) {
        aioloop *loop = test_loop();
        tls_place place;
        test_peer near = AIOLOOP_ZERO;
        test_peer far = AIOLOOP_ZERO;
        tls_meddled = 0;
        near.on_pause = tls_meddle;
        tls_pair(loop, &place, &near, &far, &test_protocol);
        CHECK_EQ(aioloop_transport_write(near.transport, tls_flood, sizeof(tls_flood)), 0);
        if (tls_meddles_by == 0) {
            test_run_until_received(loop, &far, sizeof(tls_flood) + 6);
        } else {
            test_run_until(loop, &far.lost, 1, "the other end");
            if (tls_meddles_by == 1) {
                CHECK_EQ(far.error, 0);
                CHECK_EQ(far.received, sizeof(tls_flood));
            }
        }
        tls_end(loop, &place, &near, &far);
    }
}

static aioloop_transport *tls_lender;

static void tls_lend_again(const void *data, size_t size, void *arg) {
    (void)arg;
    if (++tls_released < 5000)
        (void)aioloop_transport_write_owned(tls_lender, data, size, tls_lend_again, NULL);
}

/* One who lends the next piece when the last one comes back does not keep the loop, nor go on after the loss. */
TEST(tls_release_may_lend_the_next, "TLS-16") {
    static char chunk[4096];
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    int before;
    tls_pair(loop, &place, &near, &far, &test_protocol);
    tls_released = 0;
    tls_lender = near.transport;
    CHECK_EQ(aioloop_transport_write_owned(tls_lender, chunk, sizeof(chunk), tls_lend_again, NULL), 0);
    test_spin(loop, 1);
    CHECK_LT(tls_released, 10);
    before = tls_released;
    aioloop_transport_abort(near.transport);
    test_run_until(loop, &near.lost, 1, "the loss");
    CHECK_LT(tls_released, before + 10);
    tls_end(loop, &place, &near, &far);
}

/* ---- files ---- */

static aioloop_file tls_temporary_file(size_t size) {
    char name[] = "/tmp/aioloop-XXXXXX";
    char bytes[4096];
    size_t at;
    size_t i;
    int fd = test_keep_socket(mkstemp(name));
    unlink(name);
    for (at = 0; at < size; at += sizeof(bytes)) {
        for (i = 0; i < sizeof(bytes); i++)
            bytes[i] = tls_pattern(at + i);
        CHECK_EQ(write(fd, bytes, sizeof(bytes)), (int)sizeof(bytes));
    }
    return fd;
}

TEST_WITH(tls_carries_files_by_copying_them, "SF-07 TLS-16", TEST_THREADS) {
    enum { SIZE = 512 * 1024 };
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_sendfile_options options = AIOLOOP_ZERO;
    aioloop_file file;
    test_needs_threads(loop);
    file = tls_temporary_file(SIZE);
    tls_checked = 0;
    tls_wrong = false;
    far.on_data = tls_check;
    tls_pair(loop, &place, &near, &far, &test_protocol);
    options.no_fallback = true;
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_sendfile(loop, near.transport, file, 0, -1, &options), NULL), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_run_until_complete(loop, aioloop_sendfile(loop, near.transport, file, 0, -1, NULL), NULL), SIZE);
    test_run_until_received(loop, &far, SIZE);
    CHECK(!tls_wrong);
    test_forget_socket(file);
    close(file);
    tls_end(loop, &place, &near, &far);
}

TEST_WITH(tls_that_is_lost_ends_the_file, "SF-12", TEST_THREADS) {
    aioloop *loop = test_loop();
    tls_place place;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_future *f;
    aioloop_file file;
    test_needs_threads(loop);
    test_needs_real_descriptors(loop); /* virtual time does not wait for what reads the file */
    file = tls_temporary_file(sizeof(tls_flood));
    tls_pair(loop, &place, &near, &far, &test_protocol);
    aioloop_transport_pause_reading(far.transport);
    f = aioloop_future_ref(aioloop_sendfile(loop, near.transport, file, 0, -1, NULL));
    test_spin(loop, 20);
    CHECK(!aioloop_future_done(f));
    aioloop_transport_abort(far.transport);
    CHECK_LT(aioloop_run_until_complete(loop, f, NULL), 0);
    aioloop_future_unref(f);
    test_forget_socket(file);
    close(file);
    tls_end(loop, &place, &near, &far);
}

#endif
