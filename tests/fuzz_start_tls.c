/*
 * fuzz_start_tls.c - a target for fuzzing: upgrades of live connections to TLS, on the simulated network. See fuzz.h.
 *
 * Two sides are connected through two relays that pass on what they have read only when they are told to, in pieces of
 * any size, so that text and TLS meet in one segment or are cut anywhere. The first byte of an input says who the two
 * are: bit 0 which of them is TLS's server, bits 1 and 2 buffered protocols, bit 3 the other personality of the
 * simulation. The others are a script: four bits say what is done, one to whom, three how much of it (fuzz_do).
 *
 * Each side writes bytes that say where in its stream they stand, another stream on each level of TLS. Checked is that
 *
 * - nothing but what the other side wrote above TLS is ever told as TLS's, in order and once, whatever came before,
 *   behind and between, and whatever was passed as left over;
 * - where nothing was forged, ended or violated the upgrades succeed and everything arrives;
 * - every upgrade has an outcome, and connection_made and connection_lost come in pairs.
 */
#include "fuzz.h"

enum { FUZZ_LEVELS = 3, FUZZ_ROOM = 1 << 15 };

typedef struct fuzz_relay {
    aioloop_transport *transport;
    int lost;
    size_t size; /* what it has read and not passed on */
    char bytes[FUZZ_ROOM];
} fuzz_relay;

typedef struct fuzz_side {
    struct fuzz_side *other;
    fuzz_relay relay;
    aioloop_transport *transport; /* the newest that is known; NULL: nobody has taken it */
    aioloop_future *future; /* of an upgrade that goes on */
    bool server;
    bool armed; /* upgrades inside of the next data_received */
    int made;
    int lost;
    int level; /* of TLS; it reads this one's stream, and writes it once there is no future */
    size_t written[FUZZ_LEVELS];
    size_t received[FUZZ_LEVELS];
    size_t got_size; /* on this level, behind what the other side wrote: the next level's */
    char got[FUZZ_ROOM];
    char place[48];
} fuzz_side;

typedef struct fuzz_one {
    aioloop *loop;
    fuzz_side sides[2];
    bool dirty; /* something was done after which an upgrade may fail */
    bool closed;
    const uint8_t *script;
    size_t script_size;
} fuzz_one;

static fuzz_one *fuzz_now;

static char fuzz_pattern(int level, size_t at) {
    return (char)(at * 7 + at / 251 + (size_t)level * 85);
}

/* ---- the relays ---- */

static void fuzz_relay_made(aioloop_transport *t, void *self) {
    ((fuzz_relay *)self)->transport = aioloop_transport_ref(t);
}

static void fuzz_relay_data(aioloop_transport *t, void *self, const void *data, size_t size) {
    fuzz_relay *r = (fuzz_relay *)self;
    if (size > sizeof(r->bytes) - r->size) {
        fuzz_now->dirty = true;
        aioloop_transport_abort(t);
        return;
    }
    memcpy(r->bytes + r->size, data, size);
    r->size += size;
}

static void fuzz_relay_lost(aioloop_transport *t, void *self, int error) {
    (void)t;
    (void)error;
    ((fuzz_relay *)self)->lost = 1;
}

static const aioloop_protocol fuzz_relay_protocol = {0,    NULL, fuzz_relay_made, fuzz_relay_data, NULL, fuzz_relay_lost,
                                                     NULL, NULL, NULL,            NULL, NULL, NULL};

static void fuzz_put(fuzz_side *to, const void *data, size_t size) {
    if (to->relay.lost == 0 && size != 0)
        aioloop_transport_write(to->relay.transport, data, size);
}

/* Some of what the other side has sent, to this one. */
static void fuzz_pass(fuzz_side *to, size_t size) {
    fuzz_relay *from = &to->other->relay;
    if (size > from->size)
        size = from->size;
    fuzz_put(to, from->bytes, size);
    from->size -= size;
    memmove(from->bytes, from->bytes + size, from->size);
}

/* ---- the two sides ---- */

static void fuzz_made(aioloop_transport *t, void *self) {
    fuzz_side *s = (fuzz_side *)self;
    FUZZ_CHECK(s->made++ == 0);
    s->transport = aioloop_transport_ref(t);
}

static void fuzz_write(fuzz_side *s, size_t size) {
    char bytes[1500];
    size_t i;
    if (s->transport == NULL || s->future != NULL || s->lost != 0)
        return;
    if (size > sizeof(bytes))
        size = sizeof(bytes);
    for (i = 0; i < size; i++)
        bytes[i] = fuzz_pattern(s->level, s->written[s->level] + i);
    if (aioloop_transport_write(s->transport, bytes, size) == 0)
        s->written[s->level] += size;
    if (s->other->level > s->level)
        fuzz_now->dirty = true;
}

/* With what it has read of the next level left over, or with something else. */
static void fuzz_upgrade(fuzz_side *s, const void *leftover, size_t size) {
    aioloop_start_tls_options options = AIOLOOP_ZERO;
    aioloop_future *f;
    if (s->transport == NULL || s->level == FUZZ_LEVELS - 1)
        return;
    options.server_side = s->server;
    options.server_hostname = s->server ? NULL : "localhost";
    options.leftover = leftover;
    options.leftover_size = size;
    f = aioloop_future_ref(aioloop_start_tls(fuzz_now->loop, s->transport, fuzz_contexts[s->server], &options));
    if (aioloop_future_done(f)) {
        FUZZ_CHECK(aioloop_future_exception(f) == AIOLOOP_EINVAL);
        FUZZ_CHECK(s->future != NULL || fuzz_now->dirty);
        aioloop_future_unref(f);
        return;
    }
    FUZZ_CHECK(s->future == NULL);
    if (s->received[s->level] < s->other->written[s->level] || leftover != s->got)
        fuzz_now->dirty = true;
    s->future = f;
    s->level++;
    s->got_size = 0;
}

static void fuzz_data(aioloop_transport *t, void *self, const void *data, size_t size) {
    fuzz_side *s = (fuzz_side *)self;
    fuzz_side *o = s->other;
    size_t i;
    (void)t;
    FUZZ_CHECK(s->made == 1 && s->lost == 0 && size != 0);
    for (i = 0; i < size; i++) {
        size_t at = s->received[s->level]++;
        char byte = ((const char *)data)[i];
        if (at < o->written[s->level]) {
            FUZZ_CHECK(s->level == 0 || byte == fuzz_pattern(s->level, at));
        } else {
            FUZZ_CHECK(s->level == 0 || o->level > s->level);
            if (s->got_size < sizeof(s->got))
                s->got[s->got_size++] = byte;
        }
    }
    if (s->armed && s->future == NULL) {
        s->armed = false;
        fuzz_upgrade(s, s->got, s->got_size);
    }
}

static size_t fuzz_buffer(aioloop_transport *t, void *self, size_t hint, void **buffer) {
    (void)t;
    (void)hint;
    *buffer = ((fuzz_side *)self)->place;
    return sizeof(((fuzz_side *)self)->place);
}

static void fuzz_updated(aioloop_transport *t, void *self, size_t size) {
    FUZZ_CHECK(size <= sizeof(((fuzz_side *)self)->place));
    fuzz_data(t, self, ((fuzz_side *)self)->place, size);
}

static bool fuzz_eof(aioloop_transport *t, void *self) {
    (void)t;
    FUZZ_CHECK(((fuzz_side *)self)->lost == 0);
    return false;
}

static void fuzz_lost(aioloop_transport *t, void *self, int error) {
    fuzz_side *s = (fuzz_side *)self;
    (void)t;
    (void)error;
    FUZZ_CHECK(s->made == 1);
    FUZZ_CHECK(s->lost++ == 0);
}

static const aioloop_protocol fuzz_protocols[2] = {
    {0, NULL, fuzz_made, fuzz_data, fuzz_eof, fuzz_lost, NULL, NULL, NULL, NULL, NULL, NULL},
    {0, NULL, fuzz_made, NULL, fuzz_eof, fuzz_lost, NULL, NULL, fuzz_buffer, fuzz_updated, NULL, NULL},
};

/* Takes the new transport once it is there. */
static void fuzz_take(fuzz_side *s) {
    aioloop_transport *fresh = NULL;
    int64_t rc;
    if (s->future == NULL || !aioloop_future_done(s->future))
        return;
    rc = aioloop_future_result(s->future, &fresh);
    FUZZ_CHECK(rc == 0 || (rc < 0 && fuzz_now->dirty));
    aioloop_future_unref(s->future);
    s->future = NULL;
    if (rc < 0)
        return; /* the old one has been closed */
    aioloop_transport_unref(s->transport);
    s->transport = fresh;
}

static void fuzz_spin(fuzz_one *z, int n) {
    while (n-- > 0 && !z->closed) {
        FUZZ_CHECK(aioloop_run_once(z->loop, 0) >= 0);
        fuzz_take(&z->sides[0]);
        fuzz_take(&z->sides[1]);
    }
}

/* ---- the script ---- */

static const uint8_t *fuzz_next(fuzz_one *z, size_t *size) {
    const uint8_t *at = z->script;
    if (*size > z->script_size)
        *size = z->script_size;
    z->script += *size;
    z->script_size -= *size;
    return at;
}

/* What may make an upgrade fail. */
static void fuzz_meddle(fuzz_one *z, fuzz_side *s, int what, size_t size) {
    fuzz_relay *from = &s->other->relay;
    z->dirty = true;
    switch (what) {
    case 5: /* an upgrade with other bytes, or none, left over */
        fuzz_upgrade(s, fuzz_next(z, &size), size);
        break;
    case 6: /* bytes that nobody sent */
        fuzz_put(s, fuzz_next(z, &size), size);
        break;
    case 7: /* a bit changes */
        if (from->size != 0)
            from->bytes[size % from->size] = (char)(from->bytes[size % from->size] ^ 1);
        break;
    case 8:
        if (s->future != NULL)
            aioloop_future_cancel(s->future, NULL);
        break;
    case 9:
        aioloop_transport_close(s->transport);
        break;
    case 10:
        aioloop_transport_abort(s->transport);
        break;
    case 11: /* the end of it comes */
        if (s->relay.lost == 0)
            aioloop_transport_write_eof(s->relay.transport);
        break;
    case 12: /* nobody waits for the upgrade */
        aioloop_future_unref(s->future);
        if (s->future != NULL) {
            s->future = NULL;
            aioloop_transport_unref(s->transport);
            s->transport = NULL;
        }
        break;
    default:
        z->closed = true;
        FUZZ_CHECK(aioloop_close(z->loop) == 0);
        break;
    }
}

static void fuzz_do(fuzz_one *z, unsigned op) {
    static const size_t sizes[] = {1, 2, 5, 17, 64, 300, 1500, FUZZ_ROOM};
    fuzz_side *s = &z->sides[op >> 4 & 1];
    size_t size = sizes[op >> 5];
    switch (op & 15) {
    case 0:
        fuzz_write(s, size);
        break;
    case 1:
        fuzz_pass(s, size);
        break;
    case 2:
        fuzz_spin(z, (int)(op >> 4) + 1);
        break;
    case 3:
        fuzz_upgrade(s, s->got, s->got_size);
        break;
    case 4:
        s->armed = true;
        break;
    case 13:
        if (size == 1)
            aioloop_transport_pause_reading(s->transport);
        else
            aioloop_transport_resume_reading(s->transport);
        break;
    case 14: /* everything goes on for a while, in pieces */
        for (op >>= 4; op != 0; op--) {
            fuzz_pass(&z->sides[0], size);
            fuzz_pass(&z->sides[1], size);
            fuzz_spin(z, 2);
        }
        break;
    default:
        fuzz_meddle(z, s, (int)(op & 15), size);
        break;
    }
}

/* ---- one input ---- */

static void fuzz_adopt(fuzz_one *z, const aioloop_protocol *protocol, void *arg, aioloop_socket s) {
    FUZZ_CHECK(aioloop_run_until_complete(z->loop, aioloop_connect_accepted_socket(z->loop, protocol, arg, s, NULL), NULL) == 0);
}

/* Of upgrades that fail with nobody there to look. */
static void fuzz_report(aioloop *loop, const aioloop_exception_context *context, void *arg) {
    (void)loop;
    (void)context;
    (void)arg;
}

static void fuzz_begin(fuzz_one *z, unsigned how) {
    aioloop_config config = AIOLOOP_ZERO;
    int i;
    config.backend = (how & 8) != 0 ? "sim,delayed" : "sim";
    z->loop = aioloop_new_event_loop(&config);
    FUZZ_CHECK(z->loop != NULL);
    aioloop_set_exception_handler(z->loop, fuzz_report, NULL);
    for (i = 0; i < 2; i++) {
        fuzz_side *s = &z->sides[i];
        aioloop_socket pair[2];
        s->other = &z->sides[1 - i];
        s->server = (how & 1) == (unsigned)i;
        FUZZ_CHECK(aioloop_sim_socketpair(z->loop, pair) == 0);
        fuzz_adopt(z, &fuzz_protocols[how >> (i + 1) & 1], s, pair[0]);
        fuzz_adopt(z, &fuzz_relay_protocol, &s->relay, pair[1]);
    }
}

/* Everything arrives where nothing was done to it. */
static void fuzz_settle(fuzz_one *z) {
    fuzz_side *a = &z->sides[0];
    fuzz_side *b = &z->sides[1];
    int i;
    aioloop_transport_resume_reading(a->transport);
    aioloop_transport_resume_reading(b->transport);
    for (i = 0; i < 60 && !z->closed; i++) {
        fuzz_pass(a, FUZZ_ROOM);
        fuzz_pass(b, FUZZ_ROOM);
        FUZZ_CHECK(aioloop_run_once(z->loop, AIOLOOP_MS(1)) >= 0);
        fuzz_take(a);
        fuzz_take(b);
    }
    if (z->dirty || a->level != b->level)
        return;
    FUZZ_CHECK(a->future == NULL && b->future == NULL);
    for (i = 0; i <= a->level; i++) {
        FUZZ_CHECK(a->received[i] >= b->written[i] && b->received[i] >= a->written[i]);
        FUZZ_CHECK(i < a->level || (a->received[i] == b->written[i] && b->received[i] == a->written[i]));
    }
}

static void fuzz_end(fuzz_one *z) {
    int i;
    z->dirty = true;
    for (i = 0; i < 2; i++)
        aioloop_transport_abort(z->sides[i].relay.transport);
    for (i = 0; i < 2; i++) {
        if (z->sides[i].future != NULL && !z->closed) /* in 60 seconds of no time */
            FUZZ_CHECK(aioloop_run_until_complete(z->loop, z->sides[i].future, NULL) <= 0);
        aioloop_future_unref(z->sides[i].future);
        aioloop_transport_close(z->sides[i].transport);
    }
    for (i = 0; i < 400 && !z->closed && z->sides[0].lost + z->sides[1].lost != 2; i++)
        FUZZ_CHECK(aioloop_run_once(z->loop, AIOLOOP_SECONDS(1)) >= 0);
    FUZZ_CHECK(z->closed || z->sides[0].lost + z->sides[1].lost == 2);
    for (i = 0; i < 2; i++) {
        aioloop_transport_unref(z->sides[i].transport);
        aioloop_transport_unref(z->sides[i].relay.transport);
    }
    aioloop_verify(z->loop);
    aioloop_free(z->loop);
}

static void fuzz_play(const uint8_t *bytes, size_t size) {
    static fuzz_one z;
    if (size == 0)
        return;
    memset(&z, 0, sizeof(z));
    fuzz_now = &z;
    z.script = bytes + 1;
    z.script_size = size - 1;
    fuzz_begin(&z, bytes[0]);
    while (z.script_size != 0 && !z.closed) {
        size_t one = 1;
        fuzz_do(&z, *fuzz_next(&z, &one));
    }
    fuzz_settle(&z);
    fuzz_end(&z);
}
