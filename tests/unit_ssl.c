/*
 * unit_ssl.c - TLS without a loop: contexts, and two sessions that talk to each other through memory.
 *
 * Holds a copy of the implementation of its own. tests/certificates.sh makes the certificates, in the folder that
 * TEST_CERTIFICATES names.
 */
#define AIOLOOP_IMPLEMENTATION
#include "aioloop.h"
#include "test.h"

#if !AIOLOOP_USE_TLS

TEST(ssl_functions_say_that_there_is_no_tls, "") {
    const char *protocols[] = {"h2"};
    CHECK(aioloop_ssl_context_new(AIOLOOP_TLS_CLIENT) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(NULL)), AIOLOOP_ENOTAVAILABLE);
    CHECK(strstr(aioloop_error_message(aioloop_last_error(NULL)), "AIOLOOP_USE_TLS") != NULL);
    CHECK(aioloop_ssl_create_default_context(AIOLOOP_TLS_SERVER) == NULL);
    CHECK(aioloop_ssl_context_wrap(NULL, AIOLOOP_TLS_SERVER) == NULL);
    CHECK(aioloop_ssl_context_ref(NULL) == NULL);
    aioloop_ssl_context_unref(NULL);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain(NULL, "", NULL, NULL), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain_memory(NULL, "", 0, NULL, 0, NULL), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_ssl_context_load_verify_locations(NULL, "", NULL), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_ssl_context_load_verify_memory(NULL, "", 0), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_ssl_context_load_default_certs(NULL), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_ssl_context_load_crl(NULL, ""), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_ssl_context_load_crl_memory(NULL, "", 0), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_ssl_context_set_verify_mode(NULL, AIOLOOP_CERT_NONE), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_ssl_context_set_check_hostname(NULL, false), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_ssl_context_set_minimum_version(NULL, AIOLOOP_TLS_1_2), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_ssl_context_set_maximum_version(NULL, AIOLOOP_TLS_1_3), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_ssl_context_set_ciphers(NULL, ""), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_ssl_context_set_alpn_protocols(NULL, protocols, 1), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_ssl_context_set_sni_callback(NULL, NULL, NULL), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_ssl_context_set_session_tickets(NULL, true), AIOLOOP_ENOTAVAILABLE);
    CHECK_EQ(aioloop_ssl_context_set_keylog(NULL, NULL), AIOLOOP_ENOTAVAILABLE);
    CHECK(aioloop_ssl_session_ref(NULL) == NULL);
    aioloop_ssl_session_unref(NULL);
}

#else

/* ---- what a test that gives up leaves behind ---- */

#define UNIT_MOST 16

static aioloop_ssl_context *unit_contexts[UNIT_MOST];
static aiol_tls_session *unit_sessions[UNIT_MOST];
static aioloop_ssl_session *unit_resumable[UNIT_MOST];
static bool unit_forgets; /* for tests with threads */

#define UNIT_KEEP(list, pointer)                                                                                       \
    do {                                                                                                               \
        int unit_i_;                                                                                                   \
        if (!unit_forgets)                                                                                             \
            test_cleanup_hook = unit_clean_up;                                                                         \
        for (unit_i_ = 0; !unit_forgets && (pointer) != NULL && unit_i_ < UNIT_MOST; unit_i_++) {                      \
            if ((list)[unit_i_] == NULL) {                                                                             \
                (list)[unit_i_] = (pointer);                                                                           \
                break;                                                                                                 \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

#define UNIT_FORGET(list, pointer)                                                                                     \
    do {                                                                                                               \
        int unit_i_;                                                                                                   \
        for (unit_i_ = 0; !unit_forgets && unit_i_ < UNIT_MOST; unit_i_++)                                             \
            if ((list)[unit_i_] == (pointer))                                                                          \
                (list)[unit_i_] = NULL;                                                                                \
    } while (0)

static void unit_clean_up(void) {
    int i;
    for (i = 0; i < UNIT_MOST; i++) {
        aiol_tls_session_free(unit_sessions[i]);
        aioloop_ssl_session_unref(unit_resumable[i]);
        aioloop_ssl_context_unref(unit_contexts[i]);
    }
}

/* A context, its end, and that of a session; a test makes at most UNIT_MOST of each. */
static aioloop_ssl_context *unit_context(aioloop_tls_side side) {
    aioloop_ssl_context *c = aioloop_ssl_context_new(side);
    UNIT_KEEP(unit_contexts, c);
    CHECK(c != NULL);
    return c;
}

static void unit_unref(aioloop_ssl_context *c) {
    UNIT_FORGET(unit_contexts, c);
    aioloop_ssl_context_unref(c);
}

static aioloop_ssl_session *unit_keep(aioloop_ssl_session *session) {
    aioloop_ssl_session_ref(session);
    UNIT_KEEP(unit_resumable, session);
    return session;
}

static void unit_let_go(aioloop_ssl_session *session) {
    UNIT_FORGET(unit_resumable, session);
    aioloop_ssl_session_unref(session);
}

/* ---- two sides ---- */

/* Bytes on their way to a side. */
typedef struct unit_pipe {
    unsigned char *bytes;
    size_t size;
    size_t room;
    size_t at;    /* what was read */
    size_t limit; /* bytes that may be read up to here; SIZE_MAX: all */
    size_t piece; /* at most so many are read at a time; 0: any */
    bool ended;
} unit_pipe;

typedef struct unit_side {
    aiol_tls_session *session;
    unit_pipe in;
    struct unit_side *peer;
    int send_error; /* what the next send fails with */
    int calls;      /* of receive */
} unit_side;

static void unit_put(unit_pipe *pipe, const void *data, size_t size) {
    if (size == 0)
        return;
    if (pipe->room - pipe->size < size) {
        pipe->room = (pipe->size + size) * 2;
        pipe->bytes = (unsigned char *)realloc(pipe->bytes, pipe->room);
        CHECK(pipe->bytes != NULL);
    }
    memcpy(pipe->bytes + pipe->size, data, size);
    pipe->size += size;
}

static int64_t unit_receive(void *owner, void *buffer, size_t size) {
    unit_side *side = (unit_side *)owner;
    unit_pipe *in = &side->in;
    size_t n = (in->size < in->limit ? in->size : in->limit) - in->at;
    side->calls++;
    if (n == 0)
        return in->ended ? 0 : AIOL_TLS_MORE;
    if (in->piece != 0 && n > in->piece)
        n = in->piece;
    if (n > size)
        n = size;
    memcpy(buffer, in->bytes + in->at, n);
    in->at += n;
    return (int64_t)n;
}

static int unit_send(void *owner, const void *data, size_t size) {
    unit_side *side = (unit_side *)owner;
    if (side->send_error != 0)
        return side->send_error;
    unit_put(&side->peer->in, data, size);
    return 0;
}

typedef struct unit_pair {
    unit_side client;
    unit_side server;
} unit_pair;

static void unit_begin(unit_pair *pair) {
    memset(pair, 0, sizeof(*pair));
    pair->client.peer = &pair->server;
    pair->server.peer = &pair->client;
    pair->client.in.limit = SIZE_MAX;
    pair->server.in.limit = SIZE_MAX;
}

static int unit_make(unit_side *side, aioloop_ssl_context *context, bool server, const char *hostname,
                     const aioloop_ssl_session *resume) {
    aiol_tls_io io;
    int err;
    io.receive = unit_receive;
    io.send = unit_send;
    io.owner = side;
    err = aiol_tls_session_new(context, server, hostname, resume, &io, &side->session);
    if (err == 0)
        UNIT_KEEP(unit_sessions, side->session);
    return err;
}

static void unit_open(unit_pair *pair, aioloop_ssl_context *client, aioloop_ssl_context *server, const char *hostname,
                      const aioloop_ssl_session *resume) {
    unit_begin(pair);
    CHECK_EQ(unit_make(&pair->client, client, false, hostname, resume), 0);
    CHECK_EQ(unit_make(&pair->server, server, true, NULL, NULL), 0);
}

static void unit_close(unit_side *side) {
    UNIT_FORGET(unit_sessions, side->session);
    aiol_tls_session_free(side->session);
    free(side->in.bytes);
}

static void unit_end(unit_pair *pair) {
    unit_close(&pair->client);
    unit_close(&pair->server);
}

/* How both sides' handshakes end. */
typedef struct unit_outcome {
    int client;
    int server;
} unit_outcome;

static unit_outcome unit_handshake(unit_pair *pair) {
    unit_outcome o;
    int turns;
    for (turns = 0; turns < 100; turns++) {
        o.client = aiol_tls_session_handshake(pair->client.session);
        o.server = aiol_tls_session_handshake(pair->server.session);
        if ((o.client != AIOL_TLS_MORE && o.server != AIOL_TLS_MORE))
            break;
        pair->client.in.ended = o.server < 0 && o.server != AIOL_TLS_MORE;
        pair->server.in.ended = o.client < 0 && o.client != AIOL_TLS_MORE;
    }
    return o;
}

/* One that must succeed. */
static void unit_shake(unit_pair *pair) {
    unit_outcome o = unit_handshake(pair);
    if (o.client != 0 || o.server != 0)
        FAIL("handshake: client %d (%s), server %d (%s)", o.client, aiol_tls_session_message(pair->client.session),
             o.server, aiol_tls_session_message(pair->server.session));
    test_checked();
}

/* Sends from one side and reads all of it at the other. */
static void unit_pass(unit_side *from, const char *text) {
    char got[256];
    size_t size = strlen(text);
    size_t at = 0;
    CHECK_EQ(aiol_tls_session_write(from->session, text, size), 0);
    while (at < size) {
        int64_t n = aiol_tls_session_read(from->peer->session, got + at, sizeof(got) - at);
        CHECK_GT(n, 0);
        at += (size_t)n;
    }
    CHECK_EQ(at, size);
    CHECK_MEM(got, text, size);
    CHECK_EQ(aiol_tls_session_read(from->peer->session, got, 1), AIOL_TLS_MORE);
}

/* Its certificate, which must be there. */
static const aioloop_ssl_certificate *unit_peer(aiol_tls_session *s) {
    const aioloop_ssl_certificate *peer = (const aioloop_ssl_certificate *)aiol_tls_session_info(s, "peercert");
    CHECK(peer != NULL);
    return peer;
}

/* ---- contexts ---- */

static const char *unit_file(const char *name) {
    static char paths[4][512];
    static int next;
    const char *folder = getenv("TEST_CERTIFICATES");
    char *path = paths[next++ % 4];
    if (folder == NULL)
        SKIP("TEST_CERTIFICATES does not name the folder that tests/certificates.sh has made");
    snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
    return path;
}

static aioloop_ssl_context *unit_client(void) {
    aioloop_ssl_context *c = unit_context(AIOLOOP_TLS_CLIENT);
    CHECK_EQ(aioloop_ssl_context_load_verify_locations(c, unit_file("ca.pem"), NULL), 1);
    return c;
}

/* With the certificate NAME.pem. */
static void unit_identify(aioloop_ssl_context *c, const char *name) {
    char cert[64];
    char key[64];
    snprintf(cert, sizeof(cert), "%s.pem", name);
    snprintf(key, sizeof(key), "%s.key", strcmp(name, "chain") == 0 ? "chained" : name);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain(c, unit_file(cert), unit_file(key), NULL), 0);
}

static aioloop_ssl_context *unit_server(const char *name) {
    aioloop_ssl_context *c = unit_context(AIOLOOP_TLS_SERVER);
    unit_identify(c, name);
    return c;
}

#if AIOL_MBED_TLS_1_3
#define UNIT_VERSIONS 2
#else
#define UNIT_VERSIONS 1
#endif
static const aioloop_tls_version unit_versions[] = {AIOLOOP_TLS_1_2, AIOLOOP_TLS_1_3};

static void unit_only(aioloop_ssl_context *c, aioloop_tls_version version) {
    if (version == AIOLOOP_TLS_1_2) {
        CHECK_EQ(aioloop_ssl_context_set_minimum_version(c, version), 0);
        CHECK_EQ(aioloop_ssl_context_set_maximum_version(c, version), 0);
    } else {
        CHECK_EQ(aioloop_ssl_context_set_maximum_version(c, version), 0);
        CHECK_EQ(aioloop_ssl_context_set_minimum_version(c, version), 0);
    }
}

/* ---- the first word ---- */

TEST(ssl_two_sides_shake_hands_and_talk, "") {
    int v;
    for (v = 0; v < UNIT_VERSIONS; v++) {
        aioloop_ssl_context *client = unit_client();
        aioloop_ssl_context *server = unit_server("server");
        const aioloop_ssl_certificate *peer;
        const aioloop_ssl_cipher *cipher;
        unit_pair pair;
        unit_only(client, unit_versions[v]);
        unit_open(&pair, client, server, "example.org", NULL);
        unit_shake(&pair);
        unit_pass(&pair.client, "hello");
        unit_pass(&pair.server, "and hello");
        CHECK_STR((const char *)aiol_tls_session_info(pair.client.session, "version"), v == 0 ? "TLSv1.2" : "TLSv1.3");
        CHECK_STR((const char *)aiol_tls_session_info(pair.server.session, "server_hostname"), "example.org");
        CHECK_STR((const char *)aiol_tls_session_info(pair.client.session, "server_hostname"), "example.org");
        CHECK(!*(const bool *)aiol_tls_session_info(pair.client.session, "session_reused"));
        CHECK(aiol_tls_session_info(pair.client.session, "alpn") == NULL);
        CHECK(aiol_tls_session_info(pair.client.session, "nothing") == NULL);
        cipher = (const aioloop_ssl_cipher *)aiol_tls_session_info(pair.client.session, "cipher");
        CHECK_STR(cipher->name, v == 0 ? "ECDHE-ECDSA-AES256-GCM-SHA384" : "TLS_AES_256_GCM_SHA384");
        CHECK_STR(cipher->protocol, v == 0 ? "TLSv1.2" : "TLSv1.3");
        CHECK_EQ(cipher->bits, 256);
        peer = unit_peer(pair.client.session);
        CHECK_STR(peer->subject, "CN=server");
        CHECK_STR(peer->issuer, "CN=Test ca");
        CHECK_EQ(peer->not_before, 1577836800);
        CHECK_EQ(peer->not_after, 4070908800);
        CHECK_EQ(peer->subject_alt_name_count, 7);
        CHECK_STR(peer->subject_alt_names[0], "DNS:example.org");
        CHECK_STR(peer->subject_alt_names[1], "DNS:*.example.org");
        CHECK_STR(peer->subject_alt_names[3], "IP:127.0.0.1");
        CHECK_STR(peer->subject_alt_names[4], "IP:::1");
        CHECK_STR(peer->subject_alt_names[5], "email:a@example.org");
        CHECK_STR(peer->subject_alt_names[6], "URI:https://example.org/");
        CHECK(strlen(peer->serial_number) >= 2 &&
              strspn(peer->serial_number, "0123456789ABCDEF") == strlen(peer->serial_number));
        CHECK_GT(peer->der_size, 100);
        CHECK(aiol_tls_session_info(pair.server.session, "peercert") == NULL);
        unit_end(&pair);
        unit_unref(client);
        unit_unref(server);
    }
}

static void unit_drop(aioloop_ssl_context *a, aioloop_ssl_context *b) {
    unit_unref(a);
    unit_unref(b);
}

static const char *unit_last(void) {
    return aioloop_error_message(aioloop_last_error(NULL));
}

#define CHECK_HAS(text, part)                                                                                          \
    do {                                                                                                               \
        const char *unit_text_ = (text);                                                                               \
        test_checked();                                                                                                \
        if (strstr(unit_text_, part) == NULL)                                                                          \
            FAIL("\"%s\" does not say \"%s\"", unit_text_, part);                                                      \
    } while (0)

/* ---- bytes in odd pieces ---- */

TEST(ssl_bytes_may_come_one_at_a_time, "") {
    int v;
    for (v = 0; v < UNIT_VERSIONS; v++) {
        aioloop_ssl_context *client = unit_client();
        aioloop_ssl_context *server = unit_server("chain");
        unit_pair pair;
        unit_only(client, unit_versions[v]);
        unit_open(&pair, client, server, "example.org", NULL);
        pair.client.in.piece = 1;
        pair.server.in.piece = 1;
        unit_shake(&pair);
        unit_pass(&pair.client, "to the server");
        unit_pass(&pair.server, "to the client");
        unit_end(&pair);
        unit_drop(client, server);
    }
}

TEST(ssl_bytes_may_come_late_at_every_offset, "") {
    int v;
    for (v = 0; v < UNIT_VERSIONS; v++) {
        aioloop_ssl_context *client = unit_client();
        aioloop_ssl_context *server = unit_server("server");
        unit_pair pair;
        int client_rc = AIOL_TLS_MORE;
        int server_rc = AIOL_TLS_MORE;
        unit_only(client, unit_versions[v]);
        unit_open(&pair, client, server, "example.org", NULL);
        pair.client.in.limit = 0;
        pair.server.in.limit = 0;
        while (client_rc == AIOL_TLS_MORE || server_rc == AIOL_TLS_MORE) {
            const size_t before = pair.client.in.size + pair.server.in.size;
            client_rc = aiol_tls_session_handshake(pair.client.session);
            server_rc = aiol_tls_session_handshake(pair.server.session);
            if (pair.client.in.limit < pair.client.in.size)
                pair.client.in.limit++;
            else if (pair.server.in.limit < pair.server.in.size)
                pair.server.in.limit++;
            else if (before == pair.client.in.size + pair.server.in.size && client_rc == AIOL_TLS_MORE)
                FAIL("both wait for ever");
        }
        CHECK_EQ(client_rc, 0);
        CHECK_EQ(server_rc, 0);
        pair.client.in.limit = SIZE_MAX;
        pair.server.in.limit = SIZE_MAX;
        unit_pass(&pair.client, "x");
        unit_end(&pair);
        unit_drop(client, server);
    }
}

TEST(ssl_much_data_arrives_in_order_whatever_the_sizes, "") {
    static unsigned char sent[100000];
    static unsigned char got[sizeof(sent)];
    aioloop_ssl_context *client = unit_client();
    aioloop_ssl_context *server = unit_server("server");
    unit_pair pair;
    size_t at = 0;
    size_t i;
    for (i = 0; i < sizeof(sent); i++)
        sent[i] = (unsigned char)(i * 7 + i / 256);
    unit_open(&pair, client, server, "example.org", NULL);
    unit_shake(&pair);
    CHECK_EQ(aiol_tls_session_write(pair.client.session, sent, sizeof(sent)), 0); /* more than a record */
    pair.server.in.piece = 997;
    while (at < sizeof(sent)) {
        int64_t n =
            aiol_tls_session_read(pair.server.session, got + at, aiol_min_size(1 + at % 5000, sizeof(sent) - at));
        CHECK_GT(n, 0);
        at += (size_t)n;
    }
    CHECK(memcmp(got, sent, sizeof(sent)) == 0);
    CHECK_EQ(aiol_tls_session_write(pair.client.session, sent, 0), 0);
    CHECK_EQ(aiol_tls_session_read(pair.server.session, got, 1), AIOL_TLS_MORE);
    unit_end(&pair);
    unit_drop(client, server);
}

/* ---- ends ---- */

TEST(ssl_goodbye_is_an_end, "") {
    int v;
    for (v = 0; v < UNIT_VERSIONS; v++) {
        aioloop_ssl_context *client = unit_client();
        aioloop_ssl_context *server = unit_server("server");
        char byte[8];
        unit_pair pair;
        unit_only(client, unit_versions[v]);
        unit_open(&pair, client, server, "example.org", NULL);
        unit_shake(&pair);
        CHECK_EQ(aiol_tls_session_write(pair.client.session, "last", 4), 0);
        CHECK_EQ(aiol_tls_session_close(pair.client.session), 0);
        CHECK_EQ(aiol_tls_session_close(pair.client.session), 0); /* once is enough */
        CHECK_EQ(aiol_tls_session_read(pair.server.session, byte, 8), 4);
        CHECK_EQ(aiol_tls_session_read(pair.server.session, byte, 8), 0);
        CHECK_EQ(aiol_tls_session_read(pair.server.session, byte, 8), 0);      /* for good */
        CHECK_EQ(aiol_tls_session_write(pair.server.session, "answer", 6), 0); /* a half-closed one can still be told */
        CHECK_EQ(aiol_tls_session_read(pair.client.session, byte, 8), 6);
        CHECK_EQ(aiol_tls_session_close(pair.server.session), 0);
        pair.client.in.ended = true;
        CHECK_EQ(aiol_tls_session_read(pair.client.session, byte, 8), 0);
        unit_end(&pair);
        unit_drop(client, server);
    }
}

TEST(ssl_end_without_goodbye_is_truncation, "") {
    size_t cut;
    for (cut = 0; cut < 30; cut += 5) {
        aioloop_ssl_context *client = unit_client();
        aioloop_ssl_context *server = unit_server("server");
        char byte[8];
        unit_pair pair;
        unit_open(&pair, client, server, "example.org", NULL);
        unit_shake(&pair);
        pair.server.in.limit = pair.server.in.size + cut; /* within a record */
        CHECK_EQ(aiol_tls_session_write(pair.client.session, "hello", 5), 0);
        CHECK_EQ(aiol_tls_session_read(pair.server.session, byte, 8), cut >= 27 ? 5 : AIOL_TLS_MORE);
        pair.server.in.ended = true;
        CHECK_EQ(aiol_tls_session_read(pair.server.session, byte, 8), AIOLOOP_ESSL_TRUNCATED);
        CHECK_EQ(aiol_tls_session_read(pair.server.session, byte, 8), AIOLOOP_ESSL_TRUNCATED);
        CHECK_EQ(aiol_tls_session_write(pair.server.session, "x", 1), AIOLOOP_ESSL_TRUNCATED);
        CHECK_EQ(aiol_tls_session_close(pair.server.session), AIOLOOP_ESSL_TRUNCATED);
        CHECK_HAS(aiol_tls_session_message(pair.server.session), "cut");
        unit_end(&pair);
        unit_drop(client, server);
    }
}

TEST(ssl_peer_that_leaves_the_handshake_is_a_reset, "") {
    aioloop_ssl_context *client = unit_client();
    aioloop_ssl_context *server = unit_server("server");
    size_t cut;
    size_t total = 1;
    for (cut = 0; cut < total; cut += cut < 12 ? 1 : total / 20) {
        unit_pair pair;
        unit_outcome o;
        unit_open(&pair, client, server, "example.org", NULL);
        pair.client.in.limit = cut;
        o.client = aiol_tls_session_handshake(pair.client.session);
        CHECK_EQ(o.client, AIOL_TLS_MORE);
        CHECK_EQ(aiol_tls_session_handshake(pair.server.session), AIOL_TLS_MORE);
        total = pair.client.in.size; /* differs: signatures do */
        pair.client.in.limit = aiol_min_size(cut, total - 1);
        pair.client.in.ended = true;
        CHECK_EQ(aiol_tls_session_handshake(pair.client.session), AIOLOOP_ECONNRESET);
        CHECK_EQ(aiol_tls_session_handshake(pair.client.session), AIOLOOP_ECONNRESET);
        CHECK_HAS(aiol_tls_session_message(pair.client.session), "example.org");
        CHECK(aiol_tls_session_info(pair.client.session, "version") == NULL);
        unit_end(&pair);
    }
    CHECK_GT(total, 500);
    unit_drop(client, server);
}

TEST(ssl_errors_of_the_way_out_are_passed_on, "") {
    aioloop_ssl_context *client = unit_client();
    aioloop_ssl_context *server = unit_server("server");
    unit_pair pair;
    unit_open(&pair, client, server, "example.org", NULL);
    pair.client.send_error = AIOLOOP_ENOBUFS;
    CHECK_EQ(aiol_tls_session_handshake(pair.client.session), AIOLOOP_ENOBUFS);
    CHECK_HAS(aiol_tls_session_message(pair.client.session), "no buffer space");
    unit_end(&pair);
    unit_open(&pair, client, server, "example.org", NULL);
    unit_shake(&pair);
    pair.client.send_error = AIOLOOP_ENOMEM;
    CHECK_EQ(aiol_tls_session_write(pair.client.session, "x", 1), AIOLOOP_ENOMEM);
    CHECK_EQ(aiol_tls_session_write(pair.client.session, "x", 1), AIOLOOP_ENOMEM);
    pair.server.send_error = AIOLOOP_EPIPE;
    CHECK_EQ(aiol_tls_session_close(pair.server.session), AIOLOOP_EPIPE);
    unit_end(&pair);
    unit_drop(client, server);
}

/* ---- certificates of servers ---- */

static void unit_refused(const char *certificate, const char *hostname, const char *message, int alert) {
    int v;
    for (v = 0; v < UNIT_VERSIONS; v++) {
        aioloop_ssl_context *client = unit_client();
        aioloop_ssl_context *server = unit_server(certificate);
        unit_pair pair;
        unit_outcome o;
        unit_only(client, unit_versions[v]);
        CHECK_EQ(aioloop_ssl_context_load_crl(client, unit_file("crl.pem")), 0);
        unit_open(&pair, client, server, hostname, NULL);
        o = unit_handshake(&pair);
        NOTE("%s", aiol_tls_session_message(pair.client.session));
        CHECK_EQ(o.client, AIOLOOP_ESSL_CERT_VERIFY);
        CHECK_HAS(aiol_tls_session_message(pair.client.session), message);
        CHECK_HAS(aiol_tls_session_message(pair.client.session), hostname);
        CHECK_EQ(o.server, AIOLOOP_ESSL_ALERT);
        CHECK_HAS(aiol_tls_session_message(pair.server.session), aiol_mbed_alert_name(alert));
        unit_end(&pair);
        unit_drop(client, server);
    }
}

TEST(ssl_expired_certificate_is_refused, "") {
    unit_refused("expired", "example.org", "it has expired", MBEDTLS_SSL_ALERT_MSG_CERT_EXPIRED);
}

TEST(ssl_certificate_of_the_future_is_refused, "") {
    unit_refused("future", "example.org", "it is not valid yet", MBEDTLS_SSL_ALERT_MSG_CERT_UNKNOWN);
}

TEST(ssl_revoked_certificate_is_refused, "") {
    unit_refused("revoked", "example.org", "it was revoked", MBEDTLS_SSL_ALERT_MSG_CERT_REVOKED);
}

TEST(ssl_servers_do_not_use_a_certificate_for_clients, "") {
    aioloop_ssl_context *client = unit_client();
    aioloop_ssl_context *server = unit_server("usage");
    unit_pair pair;
    unit_open(&pair, client, server, "example.org", NULL);
    CHECK_EQ(unit_handshake(&pair).server, AIOLOOP_ESSL_HANDSHAKE);
    unit_end(&pair);
    unit_drop(client, server);
}

TEST(ssl_certificate_of_an_unknown_authority_is_refused, "") {
    unit_refused("stranger", "example.org", "no authority that is trusted", MBEDTLS_SSL_ALERT_MSG_UNKNOWN_CA);
}

TEST(ssl_certificate_signed_by_itself_is_refused, "") {
    unit_refused("self", "example.org", "signed by itself", MBEDTLS_SSL_ALERT_MSG_UNKNOWN_CA);
}

TEST(ssl_certificate_for_other_names_is_refused, "") {
    unit_refused("second", "example.org", "it is for second.example.net", MBEDTLS_SSL_ALERT_MSG_BAD_CERT);
    unit_refused("server", "a.b.example.org", "it is for example.org, *.example.org, localhost, 127.0.0.1, ::1",
                 MBEDTLS_SSL_ALERT_MSG_BAD_CERT);
    unit_refused("server", "example.or", "it is for", MBEDTLS_SSL_ALERT_MSG_BAD_CERT);
    unit_refused("server", "127.0.0.2", "it is for", MBEDTLS_SSL_ALERT_MSG_BAD_CERT);
    unit_refused("server", "::2", "it is for", MBEDTLS_SSL_ALERT_MSG_BAD_CERT);
    unit_refused("number", "127.0.0.1", "it is for", MBEDTLS_SSL_ALERT_MSG_BAD_CERT); /* a name that looks like one */
    unit_refused("server", "::2%1", "it is for", MBEDTLS_SSL_ALERT_MSG_BAD_CERT);
    unit_refused("server", "::1%", "it is for", MBEDTLS_SSL_ALERT_MSG_BAD_CERT); /* no number: a zone has a name */
    unit_refused("zero", "example.org", "it is for example.org?evil.net", MBEDTLS_SSL_ALERT_MSG_BAD_CERT);
}

/* Whether a client gets on with a server. */
static void unit_accepted(const char *certificate, const char *hostname) {
    int v;
    for (v = 0; v < UNIT_VERSIONS; v++) {
        aioloop_ssl_context *client = unit_client();
        aioloop_ssl_context *server = unit_server(certificate);
        unit_pair pair;
        unit_only(client, unit_versions[v]);
        unit_open(&pair, client, server, hostname, NULL);
        unit_shake(&pair);
        unit_end(&pair);
        unit_drop(client, server);
    }
}

TEST(ssl_certificates_are_matched_with_names_and_addresses, "") {
    unit_accepted("server", "EXAMPLE.org");
    unit_accepted("server", "www.example.org");
    unit_accepted("server", "localhost");
    unit_accepted("server", "127.0.0.1");
    unit_accepted("server", "::1");
    unit_accepted("server", "0:0:0:0:0:0:0:1");
    unit_accepted("server", "::1%eth0"); /* the zone is this machine's matter */
    unit_accepted("bare", "example.org"); /* the common name, where there is no other */
    unit_accepted("chain", "example.org");
    unit_accepted("rsa", "example.org");
}

TEST(ssl_numbers_and_empty_names_are_not_told_to_servers, "") {
    static const char *const names[] = {"127.0.0.1", "::1", "::1%eth0", "", NULL};
    size_t i;
    for (i = 0; i < 5; i++) {
        aioloop_ssl_context *client = unit_client();
        aioloop_ssl_context *server = unit_server("server");
        unit_pair pair;
        unit_open(&pair, client, server, names[i], NULL);
        unit_shake(&pair);
        CHECK(aiol_tls_session_info(pair.server.session, "server_hostname") == NULL);
        unit_end(&pair);
        unit_drop(client, server);
    }
}

TEST(ssl_names_that_no_host_has_are_refused, "") {
    aioloop_ssl_context *client = unit_client();
    unit_side side;
    char name[300];
    memset(&side, 0, sizeof(side));
    memset(name, 'a', sizeof(name));
    name[256] = '\0';
    CHECK_EQ(unit_make(&side, client, false, name, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(unit_make(&side, client, false, ".example.org", NULL), AIOLOOP_EINVAL);
    CHECK_EQ(unit_make(&side, client, false,
                       "b\xc3\xbc"
                       "cher.example",
                       NULL),
             AIOLOOP_EINVAL);
    CHECK_HAS(unit_last(), "xn--");
    CHECK_EQ(unit_make(&side, client, false, "two words", NULL), AIOLOOP_EINVAL);
    CHECK_EQ(unit_make(&side, client, false, "*.example.org", NULL), AIOLOOP_EINVAL); /* which its certificate is for */
    CHECK_HAS(unit_last(), "*.example.org");
    CHECK(side.session == NULL);
    name[255] = '\0';
    CHECK_EQ(unit_make(&side, client, false, name, NULL), 0);
    unit_close(&side);
    unit_unref(client);
}

TEST(ssl_checks_can_be_switched_off, "") {
    int v;
    for (v = 0; v < UNIT_VERSIONS; v++) {
        aioloop_ssl_context *client = unit_client();
        aioloop_ssl_context *server = unit_server("second");
        aioloop_ssl_context *bad = unit_server("self");
        unit_pair pair;
        CHECK_EQ(aioloop_ssl_context_set_check_hostname(client, false), 0);
        unit_only(client, unit_versions[v]);
        unit_open(&pair, client, server, "example.org", NULL); /* told, not checked */
        unit_shake(&pair);
        CHECK_STR((const char *)aiol_tls_session_info(pair.server.session, "server_hostname"), "example.org");
        unit_end(&pair);
        unit_open(&pair, client, bad, "example.org", NULL); /* the rest is */
        CHECK_EQ(unit_handshake(&pair).client, AIOLOOP_ESSL_CERT_VERIFY);
        unit_end(&pair);
        unit_unref(client);
        client = unit_client();
        CHECK_EQ(aioloop_ssl_context_set_verify_mode(client, AIOLOOP_CERT_NONE), AIOLOOP_EINVAL);
        CHECK_EQ(aioloop_ssl_context_set_check_hostname(client, false), 0);
        CHECK_EQ(aioloop_ssl_context_set_verify_mode(client, AIOLOOP_CERT_NONE), 0);
        unit_only(client, unit_versions[v]);
        unit_open(&pair, client, bad, "example.org", NULL);
        unit_shake(&pair);
        CHECK_STR(unit_peer(pair.client.session)->subject, "CN=self");
        unit_end(&pair);
        unit_drop(client, server);
        unit_unref(bad);
    }
}

TEST(ssl_clients_that_trust_nobody_say_so, "") {
    aioloop_ssl_context *client = unit_context(AIOLOOP_TLS_CLIENT);
    aioloop_ssl_context *server = unit_server("server");
    unit_pair pair;
    CHECK_EQ(aioloop_ssl_context_set_verify_mode(client, AIOLOOP_CERT_OPTIONAL), 0); /* on a client as required */
    unit_open(&pair, client, server, "example.org", NULL);
    CHECK_EQ(unit_handshake(&pair).client, AIOLOOP_ESSL_CERT_VERIFY);
    CHECK_HAS(aiol_tls_session_message(pair.client.session), "no authorities are loaded");
    unit_end(&pair);
    unit_drop(client, server);
}

TEST(ssl_turning_the_check_of_names_on_turns_verifying_on, "") {
    aioloop_ssl_context *client = unit_context(AIOLOOP_TLS_CLIENT);
    aioloop_ssl_context *server = unit_server("server");
    unit_pair pair;
    CHECK_EQ(aioloop_ssl_context_set_check_hostname(client, false), 0);
    CHECK_EQ(aioloop_ssl_context_set_verify_mode(client, AIOLOOP_CERT_NONE), 0);
    CHECK_EQ(aioloop_ssl_context_set_check_hostname(client, true), 0);
    unit_open(&pair, client, server, "example.org", NULL);
    CHECK_EQ(unit_handshake(&pair).client, AIOLOOP_ESSL_CERT_VERIFY);
    unit_end(&pair);
    unit_drop(client, server);
}

TEST(ssl_list_of_the_revoked_that_is_out_of_date_is_refused, "") {
    aioloop_ssl_context *client = unit_client();
    aioloop_ssl_context *server = unit_server("server");
    unit_pair pair;
    CHECK_EQ(aioloop_ssl_context_load_crl(client, unit_file("crl.old.pem")), 0);
    unit_open(&pair, client, server, "example.org", NULL);
    CHECK_EQ(unit_handshake(&pair).client, AIOLOOP_ESSL_CERT_VERIFY);
    CHECK_HAS(aiol_tls_session_message(pair.client.session), "out of date");
    unit_end(&pair);
    unit_drop(client, server);
}

/* ---- certificates of clients ---- */

/* How a server that asks in this mode gets on with a client that has a certificate, or NULL: none. */
static unit_outcome unit_ask(aioloop_ssl_verify_mode mode, const char *certificate, aioloop_tls_version version,
                             char *server_says, char *peer) {
    aioloop_ssl_context *client = unit_client();
    aioloop_ssl_context *server = unit_server("server");
    const aioloop_ssl_certificate *seen;
    unit_pair pair;
    unit_outcome o;
    char byte[8];
    CHECK_EQ(aioloop_ssl_context_load_verify_locations(server, unit_file("ca.pem"), NULL), 1);
    CHECK_EQ(aioloop_ssl_context_set_verify_mode(server, mode), 0);
    if (certificate != NULL)
        unit_identify(client, certificate);
    unit_only(client, version);
    unit_open(&pair, client, server, "example.org", NULL);
    o = unit_handshake(&pair);
    if (o.client == 0 && o.server < 0) /* in TLS 1.3 the client was done before the server looked */
        o.client = (int)aiol_tls_session_read(pair.client.session, byte, sizeof(byte));
    seen = (const aioloop_ssl_certificate *)aiol_tls_session_info(pair.server.session, "peercert");
    snprintf(server_says, 256, "%s", aiol_tls_session_message(pair.server.session));
    snprintf(peer, 64, "%s", seen == NULL ? "" : seen->subject);
    NOTE("client: %s", aiol_tls_session_message(pair.client.session));
    unit_end(&pair);
    unit_drop(client, server);
    return o;
}

TEST(ssl_clients_show_certificates_when_asked, "") {
    char says[256];
    char peer[64];
    int v;
    for (v = 0; v < UNIT_VERSIONS; v++) {
        unit_outcome o = unit_ask(AIOLOOP_CERT_NONE, "client", unit_versions[v], says, peer);
        CHECK_EQ(o.server, 0);
        CHECK_STR(peer, "");
        o = unit_ask(AIOLOOP_CERT_OPTIONAL, NULL, unit_versions[v], says, peer);
        CHECK_EQ(o.server, 0);
        CHECK_STR(peer, "");
        o = unit_ask(AIOLOOP_CERT_OPTIONAL, "client", unit_versions[v], says, peer);
        CHECK_EQ(o.server, 0);
        CHECK_STR(peer, "CN=client");
        o = unit_ask(AIOLOOP_CERT_REQUIRED, "client", unit_versions[v], says, peer);
        CHECK_EQ(o.server, 0);
        CHECK_STR(peer, "CN=client");
    }
}

/* What a client gets that a server refuses: in TLS 1.3 mbedTLS's servers send that alert with the wrong key. */
static int unit_told(int version) {
    return version == 0 ? AIOLOOP_ESSL_ALERT : AIOLOOP_ESSL;
}

TEST(ssl_bad_certificates_of_clients_are_refused, "") {
    char says[256];
    char peer[64];
    int v;
    for (v = 0; v < UNIT_VERSIONS; v++) {
        unit_outcome o = unit_ask(AIOLOOP_CERT_REQUIRED, NULL, unit_versions[v], says, peer);
        CHECK_EQ(o.server, AIOLOOP_ESSL_CERT_VERIFY);
        CHECK_HAS(says, "there is none");
        CHECK_EQ(o.client, unit_told(v));
        o = unit_ask(AIOLOOP_CERT_REQUIRED, "stranger", unit_versions[v], says, peer);
        CHECK_EQ(o.server, AIOLOOP_ESSL_CERT_VERIFY);
        CHECK_HAS(says, "no authority that is trusted");
        CHECK_EQ(o.client, unit_told(v));
        o = unit_ask(AIOLOOP_CERT_OPTIONAL, "stranger", unit_versions[v], says, peer); /* one that comes must be good */
        CHECK_EQ(o.server, AIOLOOP_ESSL_CERT_VERIFY);
        CHECK_EQ(o.client, unit_told(v));
        o = unit_ask(AIOLOOP_CERT_OPTIONAL, "server", unit_versions[v], says, peer); /* not for clients */
        CHECK_EQ(o.server, AIOLOOP_ESSL_CERT_VERIFY);
        CHECK_HAS(says, "not for this use");
        CHECK_EQ(o.client, unit_told(v));
    }
}

/* ---- what is agreed on ---- */

TEST(ssl_protocols_are_agreed_on, "") {
    static const char *const clients[] = {"h2", "http/1.1"};
    static const char *const servers[] = {"acme", "http/1.1"};
    int v;
    for (v = 0; v < UNIT_VERSIONS; v++) {
        aioloop_ssl_context *client = unit_client();
        aioloop_ssl_context *server = unit_server("server");
        aioloop_ssl_context *other = unit_server("server");
        unit_pair pair;
        unit_outcome o;
        CHECK_EQ(aioloop_ssl_context_set_alpn_protocols(client, servers, 1), 0);
        CHECK_EQ(aioloop_ssl_context_set_alpn_protocols(client, clients, 2), 0);
        CHECK_EQ(aioloop_ssl_context_set_alpn_protocols(server, servers, 2), 0);
        CHECK_EQ(aioloop_ssl_context_set_alpn_protocols(other, servers, 1), 0);
        unit_only(client, unit_versions[v]);
        unit_open(&pair, client, server, "example.org", NULL);
        unit_shake(&pair);
        CHECK_STR((const char *)aiol_tls_session_info(pair.client.session, "alpn"), "http/1.1");
        CHECK_STR((const char *)aiol_tls_session_info(pair.server.session, "alpn"), "http/1.1");
        unit_end(&pair);
        unit_open(&pair, client, other, "example.org", NULL);
        o = unit_handshake(&pair);
        CHECK_EQ(o.server, AIOLOOP_ESSL_HANDSHAKE);
        CHECK_HAS(aiol_tls_session_message(pair.server.session), "ALPN");
        CHECK_EQ(o.client, AIOLOOP_ESSL_ALERT);
        CHECK_HAS(aiol_tls_session_message(pair.client.session), "no_application_protocol");
        unit_end(&pair);
        unit_unref(other);
        other = unit_server("server");
        CHECK_EQ(aioloop_ssl_context_set_alpn_protocols(other, servers, 1), 0);
        CHECK_EQ(aioloop_ssl_context_set_alpn_protocols(other, NULL, 0), 0); /* none any more */
        unit_open(&pair, client, other, "example.org", NULL);
        unit_shake(&pair);
        CHECK(aiol_tls_session_info(pair.client.session, "alpn") == NULL);
        unit_end(&pair);
        unit_drop(client, server);
        unit_unref(other);
    }
}

TEST(ssl_bad_lists_of_protocols_change_nothing, "") {
    static const char *const good[] = {"h2"};
    static const char *const empty[] = {"h2", ""};
    static const char *const null[] = {NULL};
    char name[300];
    const char *names[1];
    aioloop_ssl_context *client = unit_client();
    aioloop_ssl_context *server = unit_server("server");
    unit_pair pair;
    memset(name, 'a', sizeof(name));
    name[256] = '\0';
    names[0] = name;
    CHECK_EQ(aioloop_ssl_context_set_alpn_protocols(client, good, 1), 0);
    CHECK_EQ(aioloop_ssl_context_set_alpn_protocols(server, good, 1), 0);
    CHECK_EQ(aioloop_ssl_context_set_alpn_protocols(client, empty, 2), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_ssl_context_set_alpn_protocols(client, null, 1), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_ssl_context_set_alpn_protocols(client, names, 1), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_ssl_context_set_alpn_protocols(client, NULL, 1), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_ssl_context_set_alpn_protocols(client, good, 65), AIOLOOP_EINVAL);
    unit_open(&pair, client, server, "example.org", NULL);
    unit_shake(&pair);
    CHECK_STR((const char *)aiol_tls_session_info(pair.client.session, "alpn"), "h2");
    unit_end(&pair);
    unit_drop(client, server);
}

TEST(ssl_cipher_suites_are_chosen_by_name, "") {
    aioloop_ssl_context *client = unit_client();
    aioloop_ssl_context *server = unit_server("server");
    aioloop_ssl_context *other = unit_server("server");
    unit_pair pair;
    unit_outcome o;
    CHECK_EQ(aioloop_ssl_context_set_ciphers(client, "ECDHE-ECDSA-CHACHA20-POLY1305:nonsense"), AIOLOOP_EINVAL);
    CHECK_HAS(unit_last(), "nonsense");
    CHECK_EQ(aioloop_ssl_context_set_ciphers(client, ""), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_ssl_context_set_ciphers(client, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_ssl_context_set_ciphers(client, ":"), AIOLOOP_EINVAL);
    unit_only(client, AIOLOOP_TLS_1_2);
    CHECK_EQ(
        aioloop_ssl_context_set_ciphers(client, "ECDHE-RSA-AES128-GCM-SHA256:TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
        0);
    CHECK_EQ(aioloop_ssl_context_set_ciphers(other, "ECDHE-ECDSA-AES256-GCM-SHA384"), 0);
    unit_open(&pair, client, server, "example.org", NULL);
    unit_shake(&pair);
    CHECK_STR(((const aioloop_ssl_cipher *)aiol_tls_session_info(pair.server.session, "cipher"))->name,
              "ECDHE-ECDSA-AES128-GCM-SHA256");
    CHECK_EQ(((const aioloop_ssl_cipher *)aiol_tls_session_info(pair.server.session, "cipher"))->bits, 128);
    unit_end(&pair);
    unit_open(&pair, client, other, "example.org", NULL);
    o = unit_handshake(&pair);
    CHECK_EQ(o.server, AIOLOOP_ESSL_HANDSHAKE);
    CHECK_HAS(aiol_tls_session_message(pair.server.session), "no cipher suite");
    CHECK_EQ(o.client, AIOLOOP_ESSL_ALERT);
    CHECK_HAS(aiol_tls_session_message(pair.client.session), "handshake_failure");
    unit_end(&pair);
    unit_drop(client, server);
    unit_unref(other);
}

TEST(ssl_both_kinds_of_keys_serve, "") {
    aioloop_ssl_context *server = unit_server("server");
    static const char *const suites[] = {"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"};
    int i;
    unit_identify(server, "rsa");
    for (i = 0; i < 2; i++) {
        aioloop_ssl_context *client = unit_client();
        unit_pair pair;
        unit_only(client, AIOLOOP_TLS_1_2);
        CHECK_EQ(aioloop_ssl_context_set_ciphers(client, suites[i]), 0);
        unit_open(&pair, client, server, "example.org", NULL);
        unit_shake(&pair);
        CHECK_STR(((const aioloop_ssl_cipher *)aiol_tls_session_info(pair.client.session, "cipher"))->name, suites[i]);
        unit_end(&pair);
        unit_unref(client);
    }
    unit_unref(server);
}

TEST(ssl_suites_without_forward_secrecy_are_not_offered, "") {
    aioloop_ssl_context *client = unit_client();
    aioloop_ssl_context *server = unit_server("rsa");
    unit_pair pair;
    unit_only(client, AIOLOOP_TLS_1_2);
    CHECK_EQ(aioloop_ssl_context_set_ciphers(client,
                                             "TLS_RSA_WITH_AES_128_CBC_SHA256:TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256"),
             0);
    unit_open(&pair, client, server, "example.org", NULL);
    CHECK_EQ(unit_handshake(&pair).server, AIOLOOP_ESSL_HANDSHAKE);
    unit_end(&pair);
    unit_drop(client, server);
}

TEST(ssl_versions_have_bounds, "") {
    int other = 0x0302;
    aioloop_ssl_context *client = unit_client();
    aioloop_ssl_context *server = unit_server("server");
    CHECK_EQ(aioloop_ssl_context_set_minimum_version(client, (aioloop_tls_version)other), AIOLOOP_EINVAL);
    if (UNIT_VERSIONS == 1) {
        CHECK_EQ(aioloop_ssl_context_set_minimum_version(client, AIOLOOP_TLS_1_3), AIOLOOP_ENOTAVAILABLE);
        CHECK_EQ(aioloop_ssl_context_set_maximum_version(client, AIOLOOP_TLS_1_3), AIOLOOP_ENOTAVAILABLE);
        unit_drop(client, server);
        return;
    }
    CHECK_EQ(aioloop_ssl_context_set_minimum_version(client, AIOLOOP_TLS_1_3), 0);
    CHECK_EQ(aioloop_ssl_context_set_maximum_version(client, AIOLOOP_TLS_1_2), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_ssl_context_set_maximum_version(server, AIOLOOP_TLS_1_2), 0);
    CHECK_EQ(aioloop_ssl_context_set_minimum_version(server, AIOLOOP_TLS_1_3), AIOLOOP_EINVAL);
    {
        unit_pair pair;
        unit_outcome o;
        unit_open(&pair, client, server, "example.org", NULL);
        o = unit_handshake(&pair);
        CHECK_EQ(o.server, AIOLOOP_ESSL_HANDSHAKE); /* it sees no suite of its version */
        CHECK_EQ(o.client, AIOLOOP_ESSL_ALERT);
        unit_end(&pair);
        unit_drop(client, server);
        client = unit_client();
        server = unit_server("server");
        unit_only(client, AIOLOOP_TLS_1_2);
        unit_only(server, AIOLOOP_TLS_1_3);
        unit_open(&pair, client, server, "example.org", NULL);
        o = unit_handshake(&pair);
        CHECK_EQ(o.server, AIOLOOP_ESSL_HANDSHAKE);
        CHECK_HAS(aiol_tls_session_message(pair.server.session), "no version of TLS in common");
        CHECK_EQ(o.client, AIOLOOP_ESSL_ALERT);
        CHECK_HAS(aiol_tls_session_message(pair.client.session), "protocol_version");
        unit_end(&pair);
    }
    unit_drop(client, server);
}

/* ---- names that servers are asked for ---- */

typedef struct unit_hosts {
    aioloop_ssl_context *second;
    char asked[64];
    int calls;
} unit_hosts;

static aioloop_ssl_context *unit_host(aioloop_ssl_context *context, const char *server_name, void *arg) {
    unit_hosts *hosts = (unit_hosts *)arg;
    hosts->calls++;
    snprintf(hosts->asked, sizeof(hosts->asked), "%s", server_name);
    if (strcmp(server_name, "second.example.net") == 0)
        return hosts->second;
    return strcmp(server_name, "example.org") == 0 ? context : NULL;
}

TEST(ssl_servers_choose_by_name, "") {
    int v;
    for (v = 0; v < UNIT_VERSIONS; v++) {
        aioloop_ssl_context *client = unit_client();
        aioloop_ssl_context *server = unit_server("server");
        unit_hosts hosts;
        unit_pair pair;
        unit_outcome o;
        memset(&hosts, 0, sizeof(hosts));
        hosts.second = unit_server("second");
        CHECK_EQ(aioloop_ssl_context_set_sni_callback(client, unit_host, &hosts), AIOLOOP_EINVAL);
        CHECK_EQ(aioloop_ssl_context_set_sni_callback(server, unit_host, &hosts), 0);
        unit_only(client, unit_versions[v]);
        unit_open(&pair, client, server, "example.org", NULL);
        unit_shake(&pair);
        CHECK_STR(hosts.asked, "example.org");
        unit_end(&pair);
        unit_open(&pair, client, server, "second.example.net", NULL);
        unit_shake(&pair);
        CHECK_STR(hosts.asked, "second.example.net");
        CHECK_STR(unit_peer(pair.client.session)->subject, "CN=second");
        CHECK(aiol_tls_session_info(pair.server.session, "sslcontext") == server);
        unit_end(&pair);
        unit_open(&pair, client, server, "third.example.net", NULL);
        o = unit_handshake(&pair);
        CHECK_EQ(o.server, AIOLOOP_ESSL_HANDSHAKE);
        CHECK_HAS(aiol_tls_session_message(pair.server.session), "the name");
        CHECK_EQ(o.client, AIOLOOP_ESSL_ALERT);
        CHECK_HAS(aiol_tls_session_message(pair.client.session), "unrecognized_name");
        unit_end(&pair);
        CHECK_EQ(hosts.calls, 3);
        unit_open(&pair, client, server, "127.0.0.1", NULL); /* says no name */
        unit_shake(&pair);
        CHECK_EQ(hosts.calls, 3);
        unit_end(&pair);
        CHECK_EQ(aioloop_ssl_context_set_ciphers(hosts.second, "ECDHE-ECDSA-AES256-GCM-SHA384"), AIOLOOP_EMISUSE);
        unit_drop(client, server);
        unit_unref(hosts.second);
    }
}

/* Names that no client may say: a zero in the middle, a space, a byte that is no ASCII. */
TEST(ssl_servers_refuse_names_that_are_none, "") {
    static const unsigned char bad[] = {'\0', ' ', 0x7f, 0xfc};
    size_t i;
    size_t at;
    for (i = 0; i < sizeof(bad); i++) {
        aioloop_ssl_context *client = unit_client();
        aioloop_ssl_context *server = unit_server("server");
        unit_hosts hosts;
        unit_pair pair;
        memset(&hosts, 0, sizeof(hosts));
        if (i % 2 == 0) /* whether anybody asks or not */
            CHECK_EQ(aioloop_ssl_context_set_sni_callback(server, unit_host, &hosts), 0);
        unit_open(&pair, client, server, "example.org", NULL);
        CHECK_EQ(aiol_tls_session_handshake(pair.client.session), AIOL_TLS_MORE);
        for (at = 0; at + 11 < pair.server.in.size && memcmp(pair.server.in.bytes + at, "example.org", 11) != 0; at++)
            ;
        CHECK_LT(at + 11, pair.server.in.size);
        pair.server.in.bytes[at + 7] = bad[i];
        CHECK_EQ(aiol_tls_session_handshake(pair.server.session), AIOLOOP_ESSL_HANDSHAKE);
        CHECK_HAS(aiol_tls_session_message(pair.server.session), "the name");
        CHECK_EQ(hosts.calls, 0);
        unit_end(&pair);
        unit_drop(client, server);
    }
}

TEST(ssl_demands_of_the_chosen_context_count, "") {
    int v;
    for (v = 0; v < UNIT_VERSIONS; v++) {
        aioloop_ssl_context *client = unit_client();
        aioloop_ssl_context *server = unit_server("server");
        unit_hosts hosts;
        unit_pair pair;
        memset(&hosts, 0, sizeof(hosts));
        hosts.second = unit_server("second");
        CHECK_EQ(aioloop_ssl_context_set_verify_mode(hosts.second, AIOLOOP_CERT_REQUIRED), 0);
        CHECK_EQ(aioloop_ssl_context_set_sni_callback(server, unit_host, &hosts), 0);
        unit_only(client, unit_versions[v]);
        unit_open(&pair, client, server, "second.example.net",
                  NULL); /* it trusts nobody: not the first one's authorities */
        CHECK_EQ(unit_handshake(&pair).server, AIOLOOP_ESSL_HANDSHAKE);
        unit_end(&pair);
        unit_unref(hosts.second);
        hosts.second = unit_server("second");
        CHECK_EQ(aioloop_ssl_context_set_verify_mode(hosts.second, AIOLOOP_CERT_REQUIRED), 0);
        CHECK_EQ(aioloop_ssl_context_load_verify_locations(hosts.second, unit_file("ca.pem"), NULL), 1);
        unit_open(&pair, client, server, "second.example.net", NULL);
        CHECK_EQ(unit_handshake(&pair).server, AIOLOOP_ESSL_CERT_VERIFY);
        unit_end(&pair);
        unit_open(&pair, client, server, "example.org", NULL);
        unit_shake(&pair);
        unit_end(&pair);
        unit_drop(client, server);
        unit_unref(hosts.second);
    }
}

/* ---- sessions that are resumed ---- */

/* A connection that gives what to resume with; the caller's. */
static aioloop_ssl_session *unit_first(aioloop_ssl_context *client, aioloop_ssl_context *server) {
    aioloop_ssl_session *session;
    unit_pair pair;
    unit_open(&pair, client, server, "example.org", NULL);
    unit_shake(&pair);
    unit_pass(&pair.server, "hello"); /* the client reads the ticket */
    session = (aioloop_ssl_session *)aiol_tls_session_info(pair.client.session, "session");
    CHECK(aiol_tls_session_info(pair.server.session, "session") == NULL);
    unit_keep(session);
    unit_end(&pair);
    return session;
}

static bool unit_resumes(aioloop_ssl_context *client, aioloop_ssl_context *server, const aioloop_ssl_session *session) {
    unit_pair pair;
    bool reused;
    unit_open(&pair, client, server, "example.org", session);
    unit_shake(&pair);
    unit_pass(&pair.client, "ping");
    unit_pass(&pair.server, "pong");
    reused = *(const bool *)aiol_tls_session_info(pair.client.session, "session_reused");
    CHECK(*(const bool *)aiol_tls_session_info(pair.server.session, "session_reused") == reused);
    CHECK_STR(unit_peer(pair.client.session)->subject, "CN=server");
    unit_end(&pair);
    return reused;
}

TEST(ssl_sessions_are_resumed_with_tickets, "") {
    int v;
    for (v = 0; v < UNIT_VERSIONS; v++) {
        aioloop_ssl_context *client = unit_client();
        aioloop_ssl_context *server = unit_server("server");
        aioloop_ssl_context *again = unit_server("server"); /* with other keys */
        aioloop_ssl_session *session;
        unit_only(client, unit_versions[v]);
        session = unit_first(client, server);
        CHECK(session != NULL);
        CHECK(unit_resumes(client, server, session));
        CHECK(unit_resumes(client, server, session));
        CHECK(!unit_resumes(client, server, NULL));
        CHECK(!unit_resumes(client, again, session)); /* in full, and as good */
        unit_let_go(session);
        unit_drop(client, server);
        unit_unref(again);
    }
}

TEST(ssl_tickets_can_be_switched_off, "") {
    int v;
    for (v = 0; v < UNIT_VERSIONS; v++) {
        aioloop_ssl_context *client = unit_client();
        aioloop_ssl_context *server = unit_server("server");
        aioloop_ssl_session *session;
        CHECK_EQ(aioloop_ssl_context_set_session_tickets(server, false), 0);
        unit_only(client, unit_versions[v]);
        session = unit_first(client, server);
        CHECK(!unit_resumes(client, server, session));
        unit_let_go(session);
        unit_drop(client, server);
    }
}

TEST(ssl_servers_with_several_names_give_no_tickets, "") {
    int v;
    for (v = 0; v < UNIT_VERSIONS; v++) {
        aioloop_ssl_context *client = unit_client();
        aioloop_ssl_context *server = unit_server("server");
        aioloop_ssl_session *session;
        unit_hosts hosts;
        memset(&hosts, 0, sizeof(hosts));
        CHECK_EQ(aioloop_ssl_context_set_sni_callback(server, unit_host, &hosts), 0);
        unit_only(client, unit_versions[v]);
        session = unit_first(client, server);
        CHECK(!unit_resumes(client, server, session));
        unit_let_go(session);
        unit_drop(client, server);
    }
}

TEST(ssl_resumed_sessions_keep_the_clients_certificate, "") {
    int v;
    for (v = 0; v < UNIT_VERSIONS; v++) {
        aioloop_ssl_context *client = unit_client();
        aioloop_ssl_context *server = unit_server("server");
        aioloop_ssl_session *session;
        unit_pair pair;
        unit_identify(client, "client");
        CHECK_EQ(aioloop_ssl_context_load_verify_locations(server, unit_file("ca.pem"), NULL), 1);
        CHECK_EQ(aioloop_ssl_context_set_verify_mode(server, AIOLOOP_CERT_REQUIRED), 0);
        unit_only(client, unit_versions[v]);
        session = unit_first(client, server);
        unit_open(&pair, client, server, "example.org", session);
        unit_shake(&pair);
        CHECK(*(const bool *)aiol_tls_session_info(pair.server.session, "session_reused") == (v == 0));
        CHECK_STR(unit_peer(pair.server.session)->subject, "CN=client");
        unit_end(&pair);
        unit_let_go(session);
        unit_drop(client, server);
    }
}

TEST(ssl_sessions_are_of_one_context_and_one_host, "") {
    aioloop_ssl_context *client = unit_client();
    aioloop_ssl_context *other = unit_client();
    aioloop_ssl_context *server = unit_server("server");
    aioloop_ssl_session *session = unit_first(client, server);
    unit_side side;
    memset(&side, 0, sizeof(side));
    CHECK(session != NULL);
    CHECK_EQ(unit_make(&side, other, false, "example.org", session), AIOLOOP_EINVAL);
    CHECK_HAS(unit_last(), "another context");
    CHECK_EQ(unit_make(&side, client, false, "www.example.org", session), AIOLOOP_EINVAL);
    CHECK_HAS(unit_last(), "example.org");
    CHECK_EQ(unit_make(&side, client, false, NULL, session), AIOLOOP_EINVAL);
    unit_let_go(session);
    unit_drop(client, server);
    unit_unref(other);
}

/* ---- peers that break the rules ---- */

TEST_WITH(ssl_flipped_bits_are_noticed, "", TEST_SLOW) {
    int v;
    for (v = 0; v < UNIT_VERSIONS; v++) {
        aioloop_ssl_context *client = unit_client();
        aioloop_ssl_context *server = unit_server("server");
        size_t size = 1;
        size_t i;
        unit_only(client, unit_versions[v]);
        for (i = 0; i < size; i++) {
            unit_pair pair;
            size_t start;
            char got[16];
            int64_t n;
            unit_open(&pair, client, server, "example.org", NULL);
            unit_shake(&pair);
            start = pair.server.in.size;
            CHECK_EQ(aiol_tls_session_write(pair.client.session, "hello", 5), 0);
            size = pair.server.in.size - start;
            pair.server.in.bytes[start + i] ^= (unsigned char)(1u << (i % 8));
            pair.server.in.ended = true;
            n = aiol_tls_session_read(pair.server.session, got, sizeof(got));
            /* A record that says to be longer is one that was cut. */
            if (n != AIOLOOP_ESSL && !((i == 3 || i == 4) && n == AIOLOOP_ESSL_TRUNCATED))
                FAIL("byte %d of %d: %d (%s)", (int)i, (int)size, (int)n,
                     aiol_tls_session_message(pair.server.session));
            CHECK_EQ(aiol_tls_session_read(pair.server.session, got, sizeof(got)), n);
            if (n == AIOLOOP_ESSL) /* and the peer hears of it */
                CHECK_EQ(aiol_tls_session_read(pair.client.session, got, sizeof(got)), AIOLOOP_ESSL_ALERT);
            unit_end(&pair);
        }
        CHECK_GT(size, 20);
        unit_drop(client, server);
    }
}

static char unit_said[256];

/* What a server, or a client that has said hello, makes of the first bytes that it gets. */
static int unit_first_bytes(bool server_side, const void *bytes, size_t size, bool *answered) {
    aioloop_ssl_context *client = unit_client();
    aioloop_ssl_context *server = unit_server("server");
    unit_side *side;
    unit_pair pair;
    size_t before;
    int rc;
    unit_open(&pair, client, server, "example.org", NULL);
    side = server_side ? &pair.server : &pair.client;
    if (!server_side)
        CHECK_EQ(aiol_tls_session_handshake(pair.client.session), AIOL_TLS_MORE);
    before = side->peer->in.size;
    unit_put(&side->in, bytes, size);
    rc = aiol_tls_session_handshake(side->session);
    NOTE("%s", aiol_tls_session_message(side->session));
    snprintf(unit_said, sizeof(unit_said), "%s", aiol_tls_session_message(side->session));
    *answered = side->peer->in.size > before && side->peer->in.bytes[before] == MBEDTLS_SSL_MSG_ALERT;
    unit_end(&pair);
    unit_drop(client, server);
    return rc;
}

TEST(ssl_other_things_than_tls_are_refused, "") {
    static const struct {
        bool server_side;
        const char *bytes;
        size_t size;
        const char *says;
    } cases[] = {{true, "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", 38,
                  "the client: it does not speak TLS: it began with \"GET /\""},
                 {true, "\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10", 11, "it does not speak TLS"}, /* SSL 2 */
                 {true, "\x17\x03\x03\x00\x05hello", 10, "the client"},                             /* data first */
                 {true, "\x16\x03\x03\x00\x00", 5, "the client"},                                   /* empty */
                 {true, "\x16\x03\x03\xff\xff", 5, "the client"},                   /* longer than a record may be */
                 {true, "\x16\x03\x03\x00\x04\x0e\x00\x00\x00", 9, "the client"},            /* a server's message */
                 {false, "HTTP/1.1 400 Bad Request\r\n\r\n", 28,
                  "example.org: it does not speak TLS: it began with \"HTTP/\""},
                 {false, "\x17\x03\x03\x00\x05hello", 10, "example.org"},
                 {false, "\x16\x03\x03\xff\xff", 5, "example.org"},
                 {false, "\x16\x03\x03\x00\x04\x14\x00\x00\x00", 9, "example.org"},
                 {false, "\x16\x03\x03\x00\x04\x00\x00\x00\x00", 9, "example.org"}, /* HelloRequest */
                 {false, "\x18\x03\x03\x00\x03\x01\x40\x00", 8, "example.org"}};    /* heartbeat */
    size_t i;
    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        bool answered = false;
        int rc = unit_first_bytes(cases[i].server_side, cases[i].bytes, cases[i].size, &answered);
        if ((rc != AIOLOOP_ESSL && rc != AIOLOOP_ESSL_HANDSHAKE) || !answered)
            FAIL("case %d: %d, %s", (int)i, rc, answered ? "told" : "silent");
        CHECK_HAS(unit_said, cases[i].says);
        CHECK_EQ(strstr(unit_said, "not speak TLS") != NULL, strstr(cases[i].says, "not speak TLS") != NULL);
    }
}

/* A record of a type, with a length and as many bytes of nothing. */
static void unit_put_record(unit_pipe *pipe, int type, size_t length) {
    static unsigned char nothing[65535];
    unsigned char head[5];
    head[0] = (unsigned char)type;
    head[1] = 3;
    head[2] = 3;
    head[3] = (unsigned char)(length >> 8);
    head[4] = (unsigned char)length;
    unit_put(pipe, head, sizeof(head));
    unit_put(pipe, nothing, length);
}

/* At each stage: both new, the client has said hello, the server has answered, the client has finished, all is done. */
static void unit_advance(unit_pair *pair, int stage) {
    int i;
    for (i = 0; i < stage; i++)
        (void)aiol_tls_session_handshake(i % 2 == 0 ? pair->client.session : pair->server.session);
}

TEST(ssl_records_of_lengths_that_are_none_are_refused, "") {
    static const size_t lengths[] = {0, 16384 + 2048 + 1, 65535};
    int v;
    int type;
    int stage;
    int side;
    size_t i;
    aioloop_ssl_context *server = unit_server("server");
    for (v = 0; v < UNIT_VERSIONS; v++) {
        aioloop_ssl_context *client = unit_client();
        unit_only(client, unit_versions[v]);
        for (stage = 0; stage < 6; stage++) {
            for (type = 20; type < 25; type++) {
                for (i = 0; i < 2 * sizeof(lengths) / sizeof(lengths[0]); i++) {
                    unit_pair pair;
                    unit_side *to;
                    char got[16];
                    int64_t n;
                    side = (int)(i % 2);
                    unit_open(&pair, client, server, "example.org", NULL);
                    unit_advance(&pair, stage);
                    to = side == 0 ? &pair.client : &pair.server;
                    to->in.size = to->in.at; /* in place of what it waits for */
                    unit_put_record(&to->in, type, lengths[i / 2]);
                    to->in.ended = true;
                    n = aiol_tls_session_handshake(to->session);
                    if (n == 0)
                        n = aiol_tls_session_read(to->session, got, sizeof(got));
                    if (n >= 0 || n == AIOL_TLS_MORE || n == AIOLOOP_ECONNRESET || n == AIOLOOP_ESSL_TRUNCATED)
                        FAIL("stage %d, side %d, type %d, length %d: %d (%s)", stage, side, type, (int)lengths[i / 2],
                             (int)n, aiol_tls_session_message(to->session));
                    test_checked();
                    unit_end(&pair);
                }
            }
        }
        unit_unref(client);
    }
    unit_unref(server);
}

TEST(ssl_alerts_in_the_handshake_are_told_by_name, "") {
    bool answered = true;
    CHECK_EQ(unit_first_bytes(false, "\x15\x03\x03\x00\x02\x02\x46", 7, &answered), AIOLOOP_ESSL_ALERT);
    CHECK(!answered); /* it has gone */
    CHECK_EQ(unit_first_bytes(false, "\x15\x03\x03\x00\x02\x02\xee", 7, &answered),
             AIOLOOP_ESSL_ALERT); /* of no name */
    CHECK_EQ(unit_first_bytes(false, "\x15\x03\x03\x00\x02\x01\x00", 7, &answered),
             AIOLOOP_ECONNRESET);                                                      /* goodbye already */
    CHECK_LT(unit_first_bytes(true, "\x15\x03\x03\x00\x02\x02\x28", 7, &answered), 0); /* before it has said anything */
}

TEST(ssl_data_in_clear_is_refused_after_the_handshake, "") {
    static const char *const records[] = {"\x17\x03\x03\x05hello", "\x15\x03\x03\x02\x01", "\x16\x03\x03\x04\x01"};
    static const size_t sizes[] = {10, 7, 9};
    int v;
    size_t i;
    for (v = 0; v < UNIT_VERSIONS; v++) {
        for (i = 0; i < 3; i++) {
            aioloop_ssl_context *client = unit_client();
            aioloop_ssl_context *server = unit_server("server");
            unsigned char record[16];
            char got[16];
            unit_pair pair;
            memset(record, 0, sizeof(record));
            memcpy(record, records[i], 3);
            memcpy(record + 4, records[i] + 3, strlen(records[i]) - 3);
            unit_only(client, unit_versions[v]);
            unit_open(&pair, client, server, "example.org", NULL);
            unit_shake(&pair);
            unit_put(&pair.server.in, record, sizes[i]);
            CHECK_EQ(aiol_tls_session_read(pair.server.session, got, sizeof(got)), AIOLOOP_ESSL);
            unit_end(&pair);
            unit_drop(client, server);
        }
    }
}

/* Flips a bit somewhere, but not in the version of a record in clear, which nobody looks at. */
static void unit_flip(unit_pipe *pipe, uint32_t random) {
    size_t at = (random >> 8) % pipe->size;
    size_t record = 0;
    while (record + 5 <= pipe->size && record + 5 + pipe->bytes[record + 3] * 256u + pipe->bytes[record + 4] <= at)
        record += 5 + pipe->bytes[record + 3] * 256u + pipe->bytes[record + 4];
    if (at == record + 1 || at == record + 2)
        at = record + 5;
    pipe->bytes[at] ^= (unsigned char)(1u << (random >> 29));
    NOTE("byte %d, record at %d", (int)at, (int)record);
}

TEST_WITH(ssl_nonsense_never_ends_in_data, "", TEST_SLOW) {
    uint32_t seed = 1;
    int round;
    aioloop_ssl_context *client = unit_client();
    aioloop_ssl_context *server = unit_server("server");
    for (round = 0; round < 60; round++) {
        unit_pair pair;
        unit_outcome o;
        unit_open(&pair, client, server, "example.org", NULL);
        CHECK_EQ(aiol_tls_session_handshake(pair.client.session), AIOL_TLS_MORE);
        if (round % 2 == 0) /* in the client's hello, or in what the server answers */
            unit_flip(&pair.server.in, seed);
        o.server = aiol_tls_session_handshake(pair.server.session);
        if (round % 2 != 0)
            unit_flip(&pair.client.in, seed);
        o = unit_handshake(&pair);
        if (o.client == 0 && o.server == 0)
            FAIL("round %d: a handshake with a flipped bit succeeds", round);
        test_checked();
        seed = seed * 1664525u + 1013904223u;
        unit_end(&pair);
    }
    unit_drop(client, server);
}

/* ---- configurations of one's own, and renegotiation ---- */

TEST(ssl_renegotiation_is_refused, "") {
#if defined(MBEDTLS_SSL_RENEGOTIATION)
    int server_asks;
    for (server_asks = 0; server_asks < 2; server_asks++) {
        aioloop_ssl_context *client = unit_client();
        aioloop_ssl_context *server = unit_server("server");
        aioloop_ssl_context *asker = server_asks ? server : client;
        unit_side *from;
        unit_pair pair;
        char got[64];
        int64_t n;
        unit_only(client, AIOLOOP_TLS_1_2);
        mbedtls_ssl_conf_renegotiation(&asker->own, MBEDTLS_SSL_RENEGOTIATION_ENABLED);
        unit_open(&pair, client, server, "example.org", NULL);
        unit_shake(&pair);
        from = server_asks ? &pair.server : &pair.client;
        CHECK_NE(mbedtls_ssl_renegotiate((mbedtls_ssl_context *)aiol_tls_session_info(from->session, "ssl_object")), 1);
        n = aiol_tls_session_read(from->peer->session, got, sizeof(got));
        CHECK(n == AIOL_TLS_MORE || n == AIOLOOP_ESSL); /* a warning back, and on */
        if (n == AIOL_TLS_MORE && server_asks) {
            int asked;
            unit_pass(&pair.client, "still the old keys");
            for (asked = 0; asked < 10 && n == AIOL_TLS_MORE; asked++) {
                mbedtls_ssl_renegotiate((mbedtls_ssl_context *)aiol_tls_session_info(from->session, "ssl_object"));
                n = aiol_tls_session_read(pair.client.session, got, sizeof(got));
            }
            CHECK_EQ(n, AIOLOOP_ESSL); /* enough */
            CHECK_GE(asked, 3);
        }
        unit_end(&pair);
        unit_drop(client, server);
    }
#else
    SKIP("this mbedTLS does not renegotiate");
#endif
}

TEST(ssl_own_configurations_are_used_as_they_are, "") {
    static mbedtls_ssl_config config; /* sessions are ended after the test has given up */
    aioloop_ssl_context *server = unit_server("server");
    aioloop_ssl_context *client = unit_client();
    aioloop_ssl_context *own;
    unit_pair pair;
    mbedtls_ssl_config_init(&config);
    CHECK_EQ(mbedtls_ssl_config_defaults(&config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM,
                                         MBEDTLS_SSL_PRESET_DEFAULT),
             0);
    aiol_mbed_configure(&config);
    mbedtls_ssl_conf_ca_chain(&config, client->authorities, NULL);
    CHECK(aioloop_ssl_context_wrap(NULL, AIOLOOP_TLS_CLIENT) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(NULL)), AIOLOOP_EINVAL);
    own = aioloop_ssl_context_wrap(&config, AIOLOOP_TLS_CLIENT);
    UNIT_KEEP(unit_contexts, own);
    CHECK(own != NULL);
    CHECK_EQ(aioloop_ssl_context_set_check_hostname(own, false), AIOLOOP_EMISUSE);
    unit_open(&pair, own, server, "example.org", NULL);
    unit_shake(&pair);
    unit_pass(&pair.client, "hello");
    unit_end(&pair);
    unit_open(&pair, own, server, "example.com", NULL);
    CHECK_EQ(unit_handshake(&pair).client, AIOLOOP_ESSL_CERT_VERIFY);
    unit_end(&pair);
    unit_drop(own, server);
    mbedtls_ssl_config_free(&config);
    unit_unref(client);
}

/* ---- contexts ---- */

TEST(ssl_contexts_are_for_one_side, "") {
    int no_side = 2;
    aioloop_ssl_context *client = unit_client();
    aioloop_ssl_context *server = unit_server("server");
    unit_side side;
    memset(&side, 0, sizeof(side));
    CHECK_EQ(unit_make(&side, client, true, NULL, NULL), AIOLOOP_EINVAL);
    CHECK_HAS(unit_last(), "server");
    CHECK_EQ(unit_make(&side, server, false, "example.org", NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_ssl_context_set_check_hostname(server, true), AIOLOOP_EINVAL);
    CHECK(aioloop_ssl_context_new((aioloop_tls_side)no_side) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(NULL)), AIOLOOP_EINVAL);
    unit_drop(client, server);
}

TEST(ssl_contexts_in_use_cannot_be_changed, "") {
    static const char *const protocols[] = {"h2"};
    aioloop_ssl_context *client = unit_client();
    aioloop_ssl_context *server = unit_server("server");
    unit_pair pair;
    unit_open(&pair, client, server, "example.org", NULL);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain(client, unit_file("client.pem"), unit_file("client.key"), NULL),
             AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_ssl_context_load_verify_locations(client, unit_file("ca.pem"), NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_ssl_context_load_verify_memory(client, "x", 1), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_ssl_context_load_default_certs(client), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_ssl_context_load_crl(client, unit_file("crl.pem")), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_ssl_context_load_crl_memory(client, "x", 1), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain_memory(client, "x", 1, NULL, 0, NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_ssl_context_set_verify_mode(client, AIOLOOP_CERT_OPTIONAL), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_ssl_context_set_check_hostname(client, false), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_ssl_context_set_minimum_version(client, AIOLOOP_TLS_1_2), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_ssl_context_set_maximum_version(client, AIOLOOP_TLS_1_2), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_ssl_context_set_ciphers(client, "ECDHE-ECDSA-AES256-GCM-SHA384"), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_ssl_context_set_alpn_protocols(client, protocols, 1), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_ssl_context_set_sni_callback(server, NULL, NULL), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_ssl_context_set_session_tickets(server, false), AIOLOOP_EMISUSE);
    CHECK_EQ(aioloop_ssl_context_set_keylog(server, NULL), AIOLOOP_EMISUSE);
    unit_drop(client, server); /* the sessions own them */
    unit_shake(&pair);
    unit_end(&pair);
}

TEST(ssl_functions_refuse_null, "") {
    int no_mode = 7;
    aioloop_ssl_context *c = unit_context(AIOLOOP_TLS_SERVER);
    aioloop_ssl_context_unref(NULL);
    aioloop_ssl_session_unref(NULL);
    CHECK(aioloop_ssl_context_ref(NULL) == NULL);
    CHECK(aioloop_ssl_session_ref(NULL) == NULL);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain(NULL, "x", NULL, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain(c, NULL, NULL, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain_memory(c, NULL, 0, NULL, 0, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_ssl_context_load_verify_locations(c, NULL, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_ssl_context_load_verify_memory(c, NULL, 0), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_ssl_context_load_crl(c, NULL), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_ssl_context_load_crl_memory(c, NULL, 0), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_ssl_context_set_verify_mode(c, (aioloop_ssl_verify_mode)no_mode), AIOLOOP_EINVAL);
    CHECK_EQ(aioloop_ssl_context_set_keylog(NULL, NULL), AIOLOOP_EINVAL);
    unit_unref(c);
}

/* ---- loading ---- */

/* A file's contents; the caller's to free. */
static char *unit_read(const char *name, size_t *size) {
    FILE *file = fopen(unit_file(name), "rb");
    char *data = (char *)malloc(65536);
    CHECK(file != NULL && data != NULL);
    *size = fread(data, 1, 65535, file);
    data[*size] = '\0';
    fclose(file);
    return data;
}

static void unit_works_with(aioloop_ssl_context *client, aioloop_ssl_context *server) {
    unit_pair pair;
    unit_open(&pair, client, server, "example.org", NULL);
    unit_shake(&pair);
    unit_end(&pair);
    unit_drop(client, server);
}

TEST(ssl_certificates_and_keys_come_in_every_form, "") {
    aioloop_ssl_context *server = unit_context(AIOLOOP_TLS_SERVER);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain(server, unit_file("both.pem"), NULL, NULL), 0);
    unit_works_with(unit_client(), server);
    server = unit_context(AIOLOOP_TLS_SERVER);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain(server, unit_file("server.der"), unit_file("server.key.der"), NULL),
             0);
    unit_works_with(unit_client(), server);
    server = unit_context(AIOLOOP_TLS_SERVER);
    CHECK_EQ(
        aioloop_ssl_context_load_cert_chain(server, unit_file("server.pem"), unit_file("server.locked.key"), "secret"),
        0);
    unit_works_with(unit_client(), server);
}

TEST(ssl_certificates_and_keys_come_from_memory, "") {
    static const char *const certs[] = {"both.pem", "server.pem", "server.der"};
    static const char *const keys[] = {NULL, "server.key", "server.key.der"};
    size_t i;
    for (i = 0; i < 3; i++) {
        aioloop_ssl_context *client = unit_context(AIOLOOP_TLS_CLIENT);
        aioloop_ssl_context *server = unit_context(AIOLOOP_TLS_SERVER);
        size_t cert_size;
        size_t key_size = 0;
        char *cert = unit_read(certs[i], &cert_size);
        char *key = keys[i] == NULL ? NULL : unit_read(keys[i], &key_size);
        CHECK_EQ(aioloop_ssl_context_load_cert_chain_memory(server, cert, cert_size, key, key_size, NULL), 0);
        free(cert);
        free(key);
        cert = unit_read("ca.pem", &cert_size);
        CHECK_EQ(aioloop_ssl_context_load_verify_memory(client, cert, cert_size), 1);
        CHECK_EQ(aioloop_ssl_context_load_verify_memory(client, "nothing", 7), AIOLOOP_ESSL_CERTIFICATE);
        free(cert);
        unit_works_with(client, server);
    }
}

TEST(ssl_what_cannot_be_loaded_is_told_and_changes_nothing, "") {
    aioloop_ssl_context *server = unit_server("server");
    size_t size;
    char *text = unit_read("server.pem", &size);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain(server, unit_file("missing.pem"), NULL, NULL), AIOLOOP_ENOENT);
    CHECK_HAS(unit_last(), "missing.pem");
    CHECK_EQ(aioloop_ssl_context_load_cert_chain(server, unit_file("server.pem"), unit_file("missing.key"), NULL),
             AIOLOOP_ENOENT);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain(server, unit_file("folder"), NULL, NULL), AIOLOOP_EISDIR);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain(server, unit_file("folder/README"), NULL, NULL),
             AIOLOOP_ESSL_CERTIFICATE);
    CHECK_HAS(unit_last(), "README");
    CHECK_EQ(aioloop_ssl_context_load_cert_chain(server, "/dev/null", NULL, NULL), AIOLOOP_ESSL_CERTIFICATE);
    CHECK_HAS(unit_last(), "no certificate");
    CHECK_EQ(aioloop_ssl_context_load_cert_chain(server, unit_file("server.key"), NULL, NULL),
             AIOLOOP_ESSL_CERTIFICATE);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain(server, unit_file("server.pem"), NULL, NULL), AIOLOOP_ESSL_KEY);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain(server, unit_file("server.pem"), unit_file("second.key"), NULL),
             AIOLOOP_ESSL_KEY);
    CHECK_HAS(unit_last(), "is not that of the certificate");
    CHECK_EQ(aioloop_ssl_context_load_cert_chain(server, unit_file("server.pem"), unit_file("rsa.key"), NULL),
             AIOLOOP_ESSL_KEY);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain(server, unit_file("server.pem"), unit_file("server.locked.key"), NULL),
             AIOLOOP_ESSL_KEY);
    CHECK_HAS(unit_last(), "has a password");
    CHECK_EQ(
        aioloop_ssl_context_load_cert_chain(server, unit_file("server.pem"), unit_file("server.locked.key"), "wrong"),
        AIOLOOP_ESSL_KEY);
    CHECK_HAS(unit_last(), "another one");
    CHECK_EQ(aioloop_ssl_context_load_cert_chain_memory(server, text, size / 2, NULL, 0, NULL),
             AIOLOOP_ESSL_CERTIFICATE);
    text[100] = text[100] == 'A' ? 'B' : 'A';
    text[101] = '!';
    CHECK_EQ(aioloop_ssl_context_load_cert_chain_memory(server, text, size, NULL, 0, NULL), AIOLOOP_ESSL_CERTIFICATE);
    free(text);
    text = unit_read("server.der", &size);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain_memory(server, text, size - 1, NULL, 0, NULL), AIOLOOP_ESSL_CERTIFICATE);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain_memory(server, text, size, text, size, NULL), AIOLOOP_ESSL_KEY);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain_memory(server, text, size, "", 0, NULL), AIOLOOP_ESSL_KEY);
    CHECK_EQ(aioloop_ssl_context_load_cert_chain_memory(server, "", 0, NULL, 0, NULL), AIOLOOP_ESSL_CERTIFICATE);
    CHECK_EQ(aioloop_ssl_context_load_verify_memory(server, text, size - 1), AIOLOOP_ESSL_CERTIFICATE);
    CHECK_EQ(aioloop_ssl_context_load_verify_memory(server, "", 0), AIOLOOP_ESSL_CERTIFICATE);
    CHECK_EQ(aioloop_ssl_context_load_crl_memory(server, "", 0), AIOLOOP_ESSL_CERTIFICATE);
    free(text);
    unit_works_with(unit_client(), server);
}

TEST(ssl_authorities_come_from_files_and_folders, "") {
    aioloop_ssl_context *client = unit_context(AIOLOOP_TLS_CLIENT);
    aioloop_ssl_context *server;
    CHECK_EQ(aioloop_ssl_context_load_verify_locations(client, unit_file("missing"), NULL), AIOLOOP_ENOENT);
    CHECK_EQ(aioloop_ssl_context_load_verify_locations(client, NULL, unit_file("missing")), AIOLOOP_ENOENT);
    CHECK_HAS(unit_last(), "missing");
    CHECK_EQ(aioloop_ssl_context_load_verify_locations(client, unit_file("folder/README"), NULL),
             AIOLOOP_ESSL_CERTIFICATE);
    CHECK_EQ(aioloop_ssl_context_load_verify_locations(client, unit_file("ca.pem"), unit_file("missing")),
             AIOLOOP_ENOENT);
    CHECK(client->authorities == NULL); /* all or nothing */
    CHECK_EQ(aioloop_ssl_context_load_verify_locations(client, NULL, unit_file("folder")), 2);
    unit_works_with(client, unit_server("server"));
    client = unit_context(AIOLOOP_TLS_CLIENT);
    CHECK_EQ(aioloop_ssl_context_load_verify_locations(client, unit_file("other.pem"), NULL), 1);
    CHECK_EQ(aioloop_ssl_context_load_verify_locations(client, unit_file("ca.pem"), NULL), 1); /* both are trusted */
    unit_works_with(client, unit_server("stranger"));
    client = unit_client();
    server = unit_server("server");
    CHECK_EQ(aioloop_ssl_context_load_crl(client, unit_file("missing")), AIOLOOP_ENOENT);
    CHECK_EQ(aioloop_ssl_context_load_crl(client, unit_file("ca.pem")), AIOLOOP_ESSL_CERTIFICATE);
    CHECK_EQ(aioloop_ssl_context_load_crl_memory(client, "nothing", 7), AIOLOOP_ESSL_CERTIFICATE);
    unit_works_with(client, server);
}

TEST(ssl_default_contexts_trust_whom_the_system_trusts, "") {
    aioloop_ssl_context *c;
    unsetenv("SSL_CERT_DIR");
    unsetenv("SSLKEYLOGFILE");
    setenv("SSL_CERT_FILE", unit_file("ca.pem"), 1);
    c = aioloop_ssl_create_default_context(AIOLOOP_TLS_CLIENT);
    UNIT_KEEP(unit_contexts, c);
    CHECK(c != NULL);
    unit_works_with(c, unit_server("server"));
    setenv("SSL_CERT_FILE", unit_file("missing"), 1); /* then nobody, and no error */
    c = unit_context(AIOLOOP_TLS_CLIENT);
    CHECK_EQ(aioloop_ssl_context_load_default_certs(c), 0);
    unsetenv("SSL_CERT_FILE");
    setenv("SSL_CERT_DIR", unit_file("folder"), 1);
    CHECK_EQ(aioloop_ssl_context_load_default_certs(c), 2);
    unsetenv("SSL_CERT_DIR");
    CHECK_GE(aioloop_ssl_context_load_default_certs(c), 0); /* whatever there is here */
    unit_works_with(c, unit_server("server"));
}

/* ---- keys for Wireshark ---- */

TEST(ssl_keys_are_logged_on_demand, "") {
    int v;
    for (v = 0; v < UNIT_VERSIONS; v++) {
        aioloop_ssl_context *client = unit_client();
        aioloop_ssl_context *server = unit_server("server");
        char path[512];
        char text[4096];
        size_t size;
        FILE *file;
        unit_pair pair;
        snprintf(path, sizeof(path), "%s.%ld", unit_file("keylog"), (long)getpid());
        CHECK_EQ(aioloop_ssl_context_set_keylog(client, unit_file("missing/keylog")), AIOLOOP_ENOENT);
        CHECK_EQ(aioloop_ssl_context_set_keylog(client, path), 0);
        CHECK_EQ(aioloop_ssl_context_set_keylog(client, path), 0);
        CHECK_EQ(aioloop_ssl_context_set_keylog(server, path), 0);
        CHECK_EQ(aioloop_ssl_context_set_keylog(server, NULL), 0); /* no more */
        unit_only(client, unit_versions[v]);
        unit_open(&pair, client, server, "example.org", NULL);
        unit_shake(&pair);
        unit_end(&pair);
        unit_drop(client, server);
        file = fopen(path, "r");
        CHECK(file != NULL);
        size = fread(text, 1, sizeof(text) - 1, file);
        text[size] = '\0';
        fclose(file);
        remove(path);
        if (v == 0) {
            CHECK_EQ(size, 14 + 64 + 1 + 96 + 1);
            CHECK(strncmp(text, "CLIENT_RANDOM ", 14) == 0 && text[size - 1] == '\n');
            CHECK_EQ(strspn(text + 14, "0123456789abcdef"), 64);
            CHECK_EQ(strspn(text + 79, "0123456789abcdef"), 96);
        } else {
            CHECK(strncmp(text, "CLIENT_HANDSHAKE_TRAFFIC_SECRET ", 32) == 0);
            CHECK_HAS(text, "\nSERVER_HANDSHAKE_TRAFFIC_SECRET ");
            CHECK_HAS(text, "\nCLIENT_TRAFFIC_SECRET_0 ");
            CHECK_HAS(text, "\nSERVER_TRAFFIC_SECRET_0 ");
        }
    }
}

TEST(ssl_default_contexts_log_keys_if_the_environment_says_so, "") {
    aioloop_ssl_context *c;
    char path[512];
    snprintf(path, sizeof(path), "%s.%ld", unit_file("keylog"), (long)getpid());
    setenv("SSLKEYLOGFILE", path, 1);
    c = aioloop_ssl_create_default_context(AIOLOOP_TLS_SERVER);
    UNIT_KEEP(unit_contexts, c);
    remove(path);
    CHECK(c != NULL && c->keylog >= 0);
    setenv("SSLKEYLOGFILE", unit_file("missing/keylog"), 1);
    CHECK(aioloop_ssl_create_default_context(AIOLOOP_TLS_SERVER) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(NULL)), AIOLOOP_ENOENT);
    unsetenv("SSLKEYLOGFILE");
    unit_unref(c);
}

/* ---- threads ---- */

#if AIOL_HAVE_PTHREAD && !defined(MBEDTLS_THREADING_C)
static void *unit_thread_main(void *arg) {
    CHECK(aioloop_ssl_context_new(AIOLOOP_TLS_CLIENT) == NULL);
    CHECK_EQ(aioloop_error_code(aioloop_last_error(NULL)), AIOLOOP_ENOTAVAILABLE);
    CHECK_HAS(unit_last(), "MBEDTLS_THREADING_C");
    return arg;
}

TEST_WITH(ssl_contexts_are_refused_to_a_second_thread, "", TEST_THREADS) {
    aioloop_ssl_context *c = unit_client();
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, unit_thread_main, NULL), 0);
    pthread_join(thread, NULL);
    unit_unref(c);
    unit_unref(unit_client()); /* this one may go on */
}
#elif AIOL_HAVE_PTHREAD
typedef struct unit_shared {
    aioloop_ssl_context *client;
    aioloop_ssl_context *server;
    bool good[2];
} unit_shared;

typedef struct unit_thread {
    pthread_t thread;
    unit_shared *shared;
    int number;
} unit_thread;

static void *unit_thread_main(void *arg) {
    unit_thread *t = (unit_thread *)arg;
    unit_shared *shared = t->shared;
    aioloop_ssl_session *session = NULL;
    int round;
    for (round = 0; round < 4; round++) {
        unit_pair pair;
        char got[16];
        unit_outcome o;
        unit_open(&pair, shared->client, shared->server, "example.org", session);
        o = unit_handshake(&pair);
        shared->good[t->number] = o.client == 0 && o.server == 0 &&
                                  aiol_tls_session_write(pair.server.session, "hello", 5) == 0 &&
                                  aiol_tls_session_read(pair.client.session, got, sizeof(got)) == 5;
        unit_let_go(session);
        session = unit_keep((aioloop_ssl_session *)aiol_tls_session_info(pair.client.session, "session"));
        unit_end(&pair);
        if (!shared->good[t->number])
            break;
    }
    unit_let_go(session);
    return NULL;
}

TEST_WITH(ssl_contexts_are_shared_by_threads, "", TEST_THREADS) {
    unit_shared shared;
    unit_thread threads[2];
    int i;
    memset(&shared, 0, sizeof(shared));
    shared.client = unit_client();
    shared.server = unit_server("server");
    unit_forgets = true;
    for (i = 0; i < 2; i++) {
        threads[i].shared = &shared;
        threads[i].number = i;
        CHECK_EQ(pthread_create(&threads[i].thread, NULL, unit_thread_main, &threads[i]), 0);
    }
    for (i = 0; i < 2; i++)
        pthread_join(threads[i].thread, NULL);
    unit_forgets = false;
    CHECK(shared.good[0]);
    CHECK(shared.good[1]);
    unit_drop(shared.client, shared.server);
}
#endif

/* ---- when mbedTLS has no memory ---- */

/* It calls the C library's calloc, before which this stands where the linker lets it. */
#if defined(__GLIBC__) && !TEST_ASAN && !TEST_TSAN && !TEST_MSAN && !defined(__cplusplus)
void *__libc_calloc(size_t count, size_t size);
static long unit_callocs;      /* since the count began */
static long unit_calloc_fails; /* the one that fails, and all after it; 0: none */

void *calloc(size_t count, size_t size) {
    unit_callocs++;
    return unit_calloc_fails != 0 && unit_callocs >= unit_calloc_fails ? NULL : __libc_calloc(count, size);
}

/* A whole life: contexts, a handshake, data, goodbye, with no memory from the calloc of that number on. How many there
 * were. */
static long unit_starve(aioloop_tls_version version, long number) {
    aioloop_ssl_context *client = unit_client();
    aioloop_ssl_context *server = unit_server("server");
    unit_pair pair;
    char got[16];
    long calls;
    int err;
    unit_begin(&pair);
    unit_only(client, version);
    unit_callocs = 0;
    unit_calloc_fails = number;
    err = aioloop_ssl_context_load_verify_locations(client, unit_file("other.pem"), NULL);
    CHECK(err == 1 || err == AIOLOOP_ENOMEM);
    err = aioloop_ssl_context_load_cert_chain(server, unit_file("rsa.pem"), unit_file("rsa.key"), NULL);
    CHECK(err == 0 || err == AIOLOOP_ENOMEM || err == AIOLOOP_ESSL_KEY); /* it does not always say why a key is none */
    err = unit_make(&pair.client, client, false, "example.org", NULL);
    CHECK(err == 0 || err == AIOLOOP_ENOMEM);
    if (err == 0)
        err = unit_make(&pair.server, server, true, NULL, NULL);
    CHECK(err == 0 || err == AIOLOOP_ENOMEM);
    if (err == 0) {
        unit_outcome o = unit_handshake(&pair);
        if (o.client == 0 && o.server == 0 && aiol_tls_session_write(pair.client.session, "hello", 5) == 0) {
            int64_t n = aiol_tls_session_read(pair.server.session, got, sizeof(got));
            CHECK(n == 5 || n < 0);
            aiol_tls_session_info(pair.client.session, "session");
            aiol_tls_session_info(pair.client.session, "peercert");
            aiol_tls_session_close(pair.client.session);
        } else {
            CHECK(o.client < 0 || o.server < 0);
        }
    }
    calls = unit_callocs;
    unit_calloc_fails = 0;
    unit_end(&pair);
    unit_drop(client, server);
    return calls;
}

TEST_WITH(ssl_survives_when_mbedtls_has_no_memory, "", TEST_SLOW) {
    int v;
    for (v = 0; v < UNIT_VERSIONS; v++) {
        const long calls = unit_starve(unit_versions[v], 0);
        long number;
        if (calls < 100)
            SKIP("mbedTLS's memory does not come through here");
        for (number = 1; number <= calls; number += 1 + number / 8)
            unit_starve(unit_versions[v], number);
        test_checked();
    }
}
#endif

#endif
