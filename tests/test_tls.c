/*
 * test_tls.c - TLS transports: the handshake and its failures, bytes both ways, goodbyes, flow control, what is known of
 * a connection, the upgrade of live ones, streams. Contexts and sessions have tests of their own (unit_ssl.c).
 */
#include "support.h"

#if AIOLOOP_USE_TLS

#include <stdlib.h>
#include <unistd.h>

/* ---- contexts ---- */

static const char *tls_file(const char *name, char *path, size_t size) {
    const char *folder = getenv("TEST_CERTIFICATES");
    CHECK(folder != NULL);
    snprintf(path, size, "%s/%s", folder, name);
    return path;
}

static aioloop_ssl_context *tls_client(const char *authority) {
    char path[512];
    aioloop_ssl_context *context = aioloop_ssl_context_new(AIOLOOP_TLS_CLIENT);
    CHECK(context != NULL);
    if (authority != NULL)
        CHECK_EQ(aioloop_ssl_context_load_verify_locations(context, tls_file(authority, path, sizeof(path)), NULL), 1);
    return context;
}

static aioloop_ssl_context *tls_server(const char *name) {
    char cert[512];
    char key[512];
    char file[64];
    aioloop_ssl_context *context = aioloop_ssl_context_new(AIOLOOP_TLS_SERVER);
    CHECK(context != NULL);
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

static aioloop_future *tls_dial(aioloop *loop, const tls_place *place, test_peer *near, const aioloop_protocol *protocol,
                                aioloop_connection_options *options) {
    aioloop_connection_options none = AIOLOOP_ZERO;
    if (options == NULL)
        options = &none;
    if (options->ssl == NULL)
        options->ssl = place->client_context;
    if (options->server_hostname == NULL)
        options->server_hostname = "localhost";
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
    aioloop_ssl_context_unref(place->server_context);
    aioloop_ssl_context_unref(place->client_context);
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
    CHECK_EQ(far.lost, far.made); /* with TLS 1.3 it may have been made before the client's alert came */
    CHECK_EQ(test_reports(), 0);
    test_peer_drop(&far);
    tls_end_place(&place);
    test_end(loop);
}

TEST(tls_a_stranger_is_refused, "TLS-02 CONN-15") {
    tls_refused("server", "other.pem", "localhost", "localhost");
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
    tls_fails(loop, tls_dial(loop, &place, &near, &test_protocol, &options), AIOLOOP_ECONNABORTED, "0.005 seconds");
    test_run_until(loop, &far.lost, 1, "the end of the connection");
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

TEST(tls_a_goodbye_that_is_not_answered, "TLS-08") {
    aioloop *loop = test_loop();
    tls_place place = AIOLOOP_ZERO;
    test_peer near = AIOLOOP_ZERO;
    test_peer far = AIOLOOP_ZERO;
    aioloop_connection_options options = AIOLOOP_ZERO;
    tls_serve(loop, &place, &far, &test_protocol, NULL);
    options.ssl_shutdown_timeout = AIOLOOP_MS(5);
    CHECK_EQ(aioloop_run_until_complete(loop, tls_dial(loop, &place, &near, &test_protocol, &options), NULL), 0);
    test_run_until(loop, &far.made, 1, "the server's handshake");
    aioloop_transport_pause_reading(far.transport); /* it never hears it */
    aioloop_transport_close(near.transport);
    test_run_until(loop, &near.lost, 1, "the loss");
    CHECK_EQ(near.error, AIOLOOP_ETIMEDOUT);
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
}

static void tls_middle_came(test_peer *peer) {
    tls_middle *m = (tls_middle *)peer->user;
    aioloop_future_unref(
        aioloop_create_connection(m->loop, &test_protocol, &m->to_server, "127.0.0.1", m->far_port, NULL));
}

static void tls_middle_open(aioloop *loop, tls_middle *m, int far_port) {
    memset(m, 0, sizeof(*m));
    m->loop = loop;
    m->far_port = far_port;
    m->to_client.user = m;
    m->to_client.on_data = tls_middle_up;
    m->to_client.on_made = tls_middle_came;
    m->to_server.user = m;
    m->to_server.on_data = tls_middle_down;
    m->to_server.on_made = tls_middle_joined;
    m->server = test_serve(loop, &test_protocol, &m->to_client, &m->port);
}

static void tls_middle_close(aioloop *loop, tls_middle *m) {
    test_end_pair(loop, &m->to_client, &m->to_server);
    aioloop_server_close(m->server);
    aioloop_server_unref(m->server);
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
    aioloop_ssl_context_unref(u->server_context);
    aioloop_ssl_context_unref(u->client_context);
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
    server.server_side = true;
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

/* ---- streams ---- */

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

#endif
