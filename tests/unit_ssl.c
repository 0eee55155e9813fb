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
    io.receive = unit_receive;
    io.send = unit_send;
    io.owner = side;
    return aiol_tls_session_new(context, server, hostname, resume, &io, &side->session);
}

static void unit_open(unit_pair *pair, aioloop_ssl_context *client, aioloop_ssl_context *server, const char *hostname,
                      const aioloop_ssl_session *resume) {
    unit_begin(pair);
    CHECK_EQ(unit_make(&pair->client, client, false, hostname, resume), 0);
    CHECK_EQ(unit_make(&pair->server, server, true, NULL, NULL), 0);
}

static void unit_end(unit_pair *pair) {
    aiol_tls_session_free(pair->client.session);
    aiol_tls_session_free(pair->server.session);
    free(pair->client.in.bytes);
    free(pair->server.in.bytes);
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
        FAIL("handshake: client %d (%s), server %d (%s)", o.client, aiol_tls_session_message(pair->client.session), o.server,
             aiol_tls_session_message(pair->server.session));
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
    aioloop_ssl_context *c = aioloop_ssl_context_new(AIOLOOP_TLS_CLIENT);
    CHECK(c != NULL);
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
    aioloop_ssl_context *c = aioloop_ssl_context_new(AIOLOOP_TLS_SERVER);
    CHECK(c != NULL);
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
        peer = (const aioloop_ssl_certificate *)aiol_tls_session_info(pair.client.session, "peercert");
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
        CHECK(strlen(peer->serial_number) >= 2 && strspn(peer->serial_number, "0123456789ABCDEF") == strlen(peer->serial_number));
        CHECK_GT(peer->der_size, 100);
        CHECK(aiol_tls_session_info(pair.server.session, "peercert") == NULL);
        unit_end(&pair);
        aioloop_ssl_context_unref(client);
        aioloop_ssl_context_unref(server);
    }
}

#endif
