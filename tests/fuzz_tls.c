/*
 * fuzz_tls.c - a target for fuzzing: bytes for TLS transports, on the simulated network. See fuzz.h.
 *
 * The first byte of an input says what hears the rest: bit 0 a server or a client; bit 1 a connection that is TLS from
 * the start, or one that is upgraded, with the first bytes as the leftover; bit 2 a buffered protocol; bit 3, without an
 * upgrade, that an honest peer has made the handshake before, and the bytes come as what it says next; bits 4 to 6 how
 * the bytes are cut up; bit 7 that the peer ends behind them. The second byte is how many bytes are leftover.
 *
 * Checked is also that every call that was made has an outcome, and that connection_made and connection_lost come in
 * pairs.
 */
#include "fuzz.h"

typedef struct fuzz_peer {
    aioloop_transport *transport;
    int made;
    int lost;
    char place[48];
} fuzz_peer;

static void fuzz_made(aioloop_transport *t, void *self) {
    fuzz_peer *p = (fuzz_peer *)self;
    FUZZ_CHECK(p->made++ == 0);
    p->transport = aioloop_transport_ref(t);
}

static void fuzz_data(aioloop_transport *t, void *self, const void *data, size_t size) {
    FUZZ_CHECK(((fuzz_peer *)self)->made == 1 && ((fuzz_peer *)self)->lost == 0 && size != 0);
    aioloop_transport_write(t, data, size < 10 ? size : 10);
}

static size_t fuzz_buffer(aioloop_transport *t, void *self, size_t hint, void **buffer) {
    (void)t;
    (void)hint;
    *buffer = ((fuzz_peer *)self)->place;
    return sizeof(((fuzz_peer *)self)->place);
}

static void fuzz_updated(aioloop_transport *t, void *self, size_t size) {
    FUZZ_CHECK(size <= sizeof(((fuzz_peer *)self)->place));
    fuzz_data(t, self, ((fuzz_peer *)self)->place, size);
}

static bool fuzz_eof(aioloop_transport *t, void *self) {
    (void)t;
    FUZZ_CHECK(((fuzz_peer *)self)->lost == 0);
    return false;
}

static void fuzz_lost(aioloop_transport *t, void *self, int error) {
    fuzz_peer *p = (fuzz_peer *)self;
    (void)t;
    (void)error;
    FUZZ_CHECK(p->made == 1);
    FUZZ_CHECK(p->lost++ == 0);
}

static const aioloop_protocol fuzz_protocols[2] = {
    {0, NULL, fuzz_made, fuzz_data, fuzz_eof, fuzz_lost, NULL, NULL, NULL, NULL, NULL, NULL},
    {0, NULL, fuzz_made, NULL, fuzz_eof, fuzz_lost, NULL, NULL, fuzz_buffer, fuzz_updated, NULL, NULL},
};

/* ---- the one who sends the bytes ---- */

typedef struct fuzz_sender {
    aioloop_transport *transport;
    struct fuzz_sender *other; /* what this one reads the other writes, while it passes things on */
    int lost;
} fuzz_sender;

static void fuzz_sender_made(aioloop_transport *t, void *self) {
    ((fuzz_sender *)self)->transport = aioloop_transport_ref(t);
}

static void fuzz_sender_data(aioloop_transport *t, void *self, const void *data, size_t size) {
    fuzz_sender *s = (fuzz_sender *)self;
    (void)t;
    if (s->other != NULL && s->other->lost == 0)
        aioloop_transport_write(s->other->transport, data, size);
}

static void fuzz_sender_lost(aioloop_transport *t, void *self, int error) {
    (void)t;
    (void)error;
    ((fuzz_sender *)self)->lost = 1;
}

static const aioloop_protocol fuzz_sender_protocol = {0,    NULL, fuzz_sender_made, fuzz_sender_data, NULL, fuzz_sender_lost,
                                                      NULL, NULL, NULL,             NULL, NULL, NULL};

static void fuzz_adopt(aioloop *loop, const aioloop_protocol *protocol, void *arg, aioloop_socket s) {
    FUZZ_CHECK(aioloop_run_until_complete(loop, aioloop_connect_accepted_socket(loop, protocol, arg, s, NULL), NULL) == 0);
}

static aioloop_future *fuzz_secure(aioloop *loop, bool server, const aioloop_protocol *protocol, fuzz_peer *peer, aioloop_socket s) {
    aioloop_connection_options client = AIOLOOP_ZERO;
    aioloop_accepted_socket_options accepted = AIOLOOP_ZERO;
    accepted.ssl = fuzz_contexts[1];
    client.ssl = fuzz_contexts[0];
    client.server_hostname = "localhost";
    client.sock = &s;
    return aioloop_future_ref(server ? aioloop_connect_accepted_socket(loop, protocol, peer, s, &accepted)
                                     : aioloop_create_connection(loop, protocol, peer, NULL, 0, &client));
}

static void fuzz_spin(aioloop *loop, int n) {
    while (n-- > 0)
        FUZZ_CHECK(aioloop_run_once(loop, 0) >= 0);
}

/* The bytes in pieces, at least one of them each. */
static void fuzz_send(aioloop *loop, fuzz_sender *s, const char *data, size_t size, unsigned cut) {
    size_t piece = cut == 0 ? size : (size_t)1 << (cut * 2 - 1);
    while (size != 0 && s->lost == 0) {
        size_t n = piece < size ? piece : size;
        aioloop_transport_write(s->transport, data, n);
        fuzz_spin(loop, 2);
        data += n;
        size -= n;
    }
}

typedef struct fuzz_one {
    aioloop *loop;
    fuzz_peer peer;
    fuzz_peer honest;
    fuzz_sender senders[2];
    aioloop_future *futures[2];
} fuzz_one;

/* Which side hears the bytes, and how. The other end of its connection is senders[0]; an honest peer, until the handshake
 * is over, is reached through senders[1]. */
static void fuzz_begin(fuzz_one *z, unsigned how, const char *data, size_t leftover) {
    bool server = (how & 1) != 0;
    bool honest = (how & 8) != 0 && (how & 2) == 0;
    const aioloop_protocol *protocol = &fuzz_protocols[how >> 2 & 1];
    aioloop_start_tls_options options = AIOLOOP_ZERO;
    aioloop_socket pairs[2][2];
    int i;
    for (i = 0; i <= honest; i++) {
        FUZZ_CHECK(aioloop_sim_socketpair(z->loop, pairs[i]) == 0);
        fuzz_adopt(z->loop, &fuzz_sender_protocol, &z->senders[i], pairs[i][1]);
        z->senders[i].other = honest ? &z->senders[1 - i] : NULL;
    }
    if ((how & 2) == 0) {
        z->futures[0] = fuzz_secure(z->loop, server, protocol, &z->peer, pairs[0][0]);
    } else {
        options.server_side = server;
        options.server_hostname = server ? NULL : "localhost";
        options.leftover = data;
        options.leftover_size = leftover;
        fuzz_adopt(z->loop, protocol, &z->peer, pairs[0][0]);
        z->futures[0] = aioloop_future_ref(aioloop_start_tls(z->loop, z->peer.transport, fuzz_contexts[server], &options));
    }
    if (honest) {
        z->futures[1] = fuzz_secure(z->loop, !server, &fuzz_protocols[0], &z->honest, pairs[1][0]);
        FUZZ_CHECK(aioloop_run_until_complete(z->loop, z->futures[1], NULL) == 0);
        fuzz_spin(z->loop, 20);
        z->senders[0].other = NULL;
        z->senders[1].other = NULL;
    }
}

static void fuzz_end(fuzz_one *z) {
    int i;
    for (i = 0; i < 2; i++) {
        if (z->senders[i].transport != NULL)
            aioloop_transport_abort(z->senders[i].transport);
    }
    FUZZ_CHECK(aioloop_run_until_complete(z->loop, z->futures[0], NULL) <= 0); /* in 60 seconds of no time */
    aioloop_future_unref(z->futures[0]);
    aioloop_future_unref(z->futures[1]);
    aioloop_transport_close(z->peer.transport);
    aioloop_transport_close(z->honest.transport);
    for (i = 0; i < 400 && (z->peer.lost != z->peer.made || z->honest.lost != z->honest.made); i++)
        FUZZ_CHECK(aioloop_run_once(z->loop, AIOLOOP_SECONDS(1)) >= 0);
    FUZZ_CHECK(z->peer.lost == z->peer.made && z->honest.lost == z->honest.made);
    aioloop_transport_unref(z->peer.transport);
    aioloop_transport_unref(z->honest.transport);
    aioloop_transport_unref(z->senders[0].transport);
    aioloop_transport_unref(z->senders[1].transport);
    aioloop_verify(z->loop);
    aioloop_free(z->loop);
}

static void fuzz_play(const uint8_t *bytes, size_t size) {
    aioloop_config config = AIOLOOP_ZERO;
    fuzz_one z;
    const char *data = (const char *)bytes + 2;
    size_t leftover;
    unsigned how;
    if (size < 2)
        return;
    memset(&z, 0, sizeof(z));
    how = bytes[0];
    leftover = bytes[1];
    size -= 2;
    if (leftover > size || (how & 2) == 0)
        leftover = (how & 2) == 0 ? 0 : size;
    config.backend = "sim";
    z.loop = aioloop_new_event_loop(&config);
    FUZZ_CHECK(z.loop != NULL);
    fuzz_begin(&z, how, data, leftover);
    fuzz_send(z.loop, &z.senders[0], data + leftover, size - leftover, how >> 4 & 7);
    if ((how & 128) != 0 && z.senders[0].lost == 0)
        aioloop_transport_write_eof(z.senders[0].transport);
    fuzz_spin(z.loop, 5);
    fuzz_end(&z);
}
