/*
 * tls.c - TLS over any stream transport.                                        (asyncio: sslproto.py)
 *
 * A TLS transport is the protocol of a lower transport, a connection or again a TLS transport, and the transport of the
 * protocol above. What comes from below lies where the lower one has it (`in`) and is drawn from there by the session;
 * what the session sends is queued below and leaves when the callback ends, all records of it together. Nothing is
 * allocated per record: a chunk is kept (`kept`) only when reading pauses in the middle of it.
 *
 * A handshake may be done by a thread of the executor, in which case the wire, session and all, is AWAY until it has
 * what it could do; reading pauses meanwhile. Servers are greeted here, for that may call the user's function.
 *
 * NEW: shaking hands. OPEN. CLOSING: goodbye is said, the peer's is awaited and what else it sends is dropped. ENDING:
 * the lower transport is closed or aborted. LOST, when that is lost. `running` keeps the session from being driven by
 * what its own deliveries call.
 */
#ifndef AIOL_NET_TLS_C
#define AIOL_NET_TLS_C

#include "net/socket.c"

#if AIOLOOP_USE_TLS

#include "tls/session.h"

#define AIOL_TLS_HIGH_WATER 524288u
#define AIOL_TLS_HANDSHAKE_TIMEOUT AIOLOOP_SECONDS(60)
#define AIOL_TLS_SHUTDOWN_TIMEOUT AIOLOOP_SECONDS(30)

/* Lent memory that is encrypted, and so free again; its owner is told by the loop. */
typedef struct aiol_secure_release {
    struct aiol_secure_release *next;
    aiol_release_fn release;
    void *arg;
    const void *data;
    size_t size;
} aiol_secure_release;

/* A session with what it draws from and sends to. While it shakes hands in another thread it is that thread's alone, and
 * may outlive the loop: so it is counted, and its memory is no loop's. */
typedef struct aiol_wire {
    uint32_t refs;
    aiol_tls_session *session;
    aioloop_transport *lower; /* borrowed; NULL: another thread's, what is sent is collected in out */
    const char *in; /* what the session has not drawn yet */
    size_t in_size;
    char *kept; /* its memory, if it is our own */
    size_t kept_capacity;
    char *out;
    size_t out_size;
    size_t out_capacity;
    bool ended; /* no more will come */
    int result; /* of the other thread */
} aiol_wire;

typedef struct aiol_secure {
    aioloop_transport transport;
    aioloop_transport *lower; /* held; its protocol's self is this one until it is lost */
    aiol_wire *wire;
    void *arg; /* the factory's */
    const aioloop_protocol *next; /* the one to be above after an upgrade; NULL: the same as before */
    void *next_self;
    void (*settled)(void *owner, aioloop_transport *t, int err);
    void *owner;
    aioloop_timer_handle timer; /* of the handshake, then of saying goodbye; there from the start, so that closing needs no memory */
    aioloop_time handshake_timeout;
    aioloop_time shutdown_timeout;
    aiol_secure_release *releases; /* the oldest first */
    aiol_secure_release **releases_end;
    bool upgraded; /* the protocol has had its connection_made before there was TLS */
    bool opened;   /* the handshake was done */
    bool running;
    bool queued;      /* transport.doom, which goes on running */
    bool peer_ended;  /* it has said goodbye */
    int failure; /* the session's; its message is told again with the loss */
    bool in_executor; /* shakes hands there */
    bool away;        /* and does so: the wire is not ours */
    bool expired;     /* the timer */
} aiol_secure;

static aiol_secure *aiol_secure_of(const aioloop_transport *t) {
    return (aiol_secure *)(void *)t;
}

static void aiol_secure_run(aiol_secure *tls);

/* ---- a buffer for decrypted bytes: the loop has one, and nested TLS takes more ---- */

/* NULL when there is no memory. */
static char *aiol_secure_buffer_get(aioloop *loop) {
    char *buffer = loop->tls_buffer;
    loop->tls_buffer = NULL;
    return buffer != NULL ? buffer : (char *)aiol_alloc(&loop->allocator, AIOL_TLS_RECORD);
}

static void aiol_secure_buffer_put(aioloop *loop, char *buffer) {
    if (loop->tls_buffer == NULL)
        loop->tls_buffer = buffer;
    else
        aiol_free(&loop->allocator, buffer, AIOL_TLS_RECORD);
}

/* ---- what the session draws from and sends to ---- */

static void aiol_wire_unref(void *pointer) {
    const aioloop_allocator *a = &aiol_default_allocator;
    aiol_wire *w = (aiol_wire *)pointer;
    if (aiol_add_u32(&w->refs, (uint32_t)-1) != 0)
        return;
    if (w->session != NULL)
        aiol_tls_session_free(w->session);
    aiol_free(a, w->kept, w->kept_capacity);
    aiol_free(a, w->out, w->out_capacity);
    aiol_free(a, w, sizeof(*w));
}

static int64_t aiol_wire_receive(void *owner, void *buffer, size_t size) {
    aiol_wire *w = (aiol_wire *)owner;
    size_t n = aiol_min_size(size, w->in_size);
    if (n == 0)
        return w->ended ? 0 : AIOL_TLS_MORE;
    memcpy(buffer, w->in, n);
    w->in += n;
    w->in_size -= n;
    return (int64_t)n;
}

static int aiol_wire_send(void *owner, const void *data, size_t size) {
    aiol_wire *w = (aiol_wire *)owner;
    int err;
    if (w->lower != NULL && w->lower->state > AIOL_TRANSPORT_OPEN)
        return 0; /* the loss will be told */
    if (w->lower != NULL) {
        w->lower->write_turn = w->lower->resource.loop->turn; /* queued, to leave together with what follows */
        return w->lower->calls->write(w->lower, data, size);
    }
    err = aiol_grow(&aiol_default_allocator, &w->out, &w->out_capacity, 1, w->out_size + size);
    if (err < 0)
        return err;
    memcpy(w->out + w->out_size, data, size);
    w->out_size += size;
    return 0;
}

static void aiol_wire_drop_input(aiol_wire *w) {
    aiol_free(&aiol_default_allocator, w->kept, w->kept_capacity);
    w->kept = NULL;
    w->kept_capacity = 0;
    w->in = NULL;
    w->in_size = 0;
}

/* Keeps what was not drawn, and size bytes more. */
static int aiol_wire_keep(aiol_wire *w, const void *more, size_t size) {
    const aioloop_allocator *a = &aiol_default_allocator;
    size_t need = w->in_size + size;
    char *room = w->kept;
    if (need == 0)
        return 0;
    if (need > w->kept_capacity) {
        room = (char *)aiol_alloc(a, need);
        if (room == NULL)
            return AIOLOOP_ENOMEM;
    }
    if (w->in_size != 0)
        memmove(room, w->in, w->in_size);
    if (size != 0)
        memcpy(room + w->in_size, more, size);
    if (room != w->kept) {
        aiol_free(a, w->kept, w->kept_capacity);
        w->kept = room;
        w->kept_capacity = need;
    }
    w->in = room;
    w->in_size = need;
    return 0;
}

static void aiol_secure_drop_input(aiol_secure *tls) {
    if (!tls->away)
        aiol_wire_drop_input(tls->wire);
}

/* ---- ending ---- */

/* Tells whoever waits for the handshake, once. */
static void aiol_secure_settle(aiol_secure *tls, int err) {
    void (*settled)(void *, aioloop_transport *, int) = tls->settled;
    tls->settled = NULL;
    if (settled != NULL)
        settled(tls->owner, &tls->transport, err);
}

/* The connection is over: with the lower transport aborted, or closed, which sends what it has first. */
static void aiol_secure_leave(aiol_secure *tls, int error, bool abruptly) {
    aioloop_transport *t = &tls->transport;
    bool was_new = t->state == AIOL_TRANSPORT_NEW;
    if (t->state >= AIOL_TRANSPORT_ENDING)
        return;
    t->state = AIOL_TRANSPORT_ENDING;
    t->error = error;
    if (t->file != NULL)
        aiol_sendfile_give_up(t, error);
    aiol_secure_drop_input(tls);
    if (abruptly)
        aioloop_transport_abort(tls->lower);
    else
        aioloop_transport_close(tls->lower); /* the timer goes on: a peer that does not read is not waited for */
    if (was_new)
        aiol_secure_settle(tls, error != 0 ? error : AIOLOOP_ECONNABORTED);
}

/* The session has failed. */
static void aiol_secure_fail(aiol_secure *tls, int code) {
    aioloop_transport *t = &tls->transport;
    if (code == AIOLOOP_ESSL_TRUNCATED && t->state == AIOL_TRANSPORT_CLOSING)
        code = 0; /* it need not answer a goodbye, and may still read what goes before that */
    else
        tls->failure = aiol_fail(t->resource.loop, code, "%s", aiol_tls_session_message(tls->wire->session));
    aiol_secure_leave(tls, code, code != 0);
}

/* What it takes longer than it may. Stores the message and returns code. */
static int aiol_secure_late(const aiol_secure *tls, int code, const char *what, aioloop_time timeout) {
    return aiol_fail(tls->transport.resource.loop, code, "the TLS %s with %s timed out after %.3g seconds", what,
                     aiol_tls_session_who(tls->wire->session), (double)timeout / 1e9);
}

/* The handshake takes longer than that, says whoever waits for it. */
AIOLOOP_INTERNAL int aiol_secure_timed_out(const aioloop_transport *t, int code, aioloop_time timeout) {
    return aiol_secure_late(aiol_secure_of(t), code, "handshake", timeout);
}

static void aiol_secure_expired(aioloop *loop, void *arg) {
    aiol_secure *tls = (aiol_secure *)arg;
    (void)loop;
    tls->expired = true;
    switch (tls->transport.state) {
    case AIOL_TRANSPORT_NEW:
        aiol_secure_leave(tls, aiol_secure_late(tls, AIOLOOP_ECONNABORTED, "handshake", tls->handshake_timeout), true);
        break;
    case AIOL_TRANSPORT_CLOSING:
        aiol_secure_leave(tls, AIOLOOP_ETIMEDOUT, true);
        break;
    default:
        if (tls->transport.error == 0)
            tls->transport.error = AIOLOOP_ETIMEDOUT;
        aioloop_transport_abort(tls->lower);
        break;
    }
}

/* Both have said goodbye. */
static void aiol_secure_part(aiol_secure *tls) {
    aiol_secure_leave(tls, 0, false);
}

/* Tells the owners of lent memory. User code. */
static void aiol_secure_release_all(aiol_secure *tls) {
    aioloop_transport *t = &tls->transport;
    aioloop *loop = t->resource.loop;
    aiol_secure_release *next = tls->releases;
    tls->releases = NULL; /* what they lend anew is for the next iteration */
    tls->releases_end = &tls->releases;
    while (next != NULL) {
        aiol_secure_release *r = next;
        aiol_frame frame;
        int raised;
        next = r->next;
        frame = aiol_enter(loop, &t->resource.context);
        r->release(r->data, r->size, r->arg);
        raised = aiol_leave(loop, &frame);
        aiol_free(&loop->allocator, r, sizeof(*r));
        if (AIOL_UNLIKELY(raised != 0))
            aiol_transport_report(t, raised, "Error in release");
    }
}

static void aiol_secure_go_on(aioloop *loop, aiol_node *node) {
    aiol_secure *tls = aiol_secure_of(AIOL_CONTAINER(node, aioloop_transport, doom));
    tls->queued = false;
    aiol_secure_release_all(tls);
    aiol_secure_run(tls);
    aioloop_transport_unref(&tls->transport);
    aiol_callback_end(loop);
}

/* Runs it in the next iteration. */
static void aiol_secure_queue(aiol_secure *tls) {
    aioloop_transport *t = &tls->transport;
    if (tls->queued)
        return;
    tls->queued = true;
    aioloop_transport_ref(t);
    t->doom.run = aiol_secure_go_on;
    aiol_queue_push(&t->resource.loop->ready, &t->doom);
}

static void aiol_secure_close(aioloop_transport *t) {
    aiol_secure *tls = aiol_secure_of(t);
    int err;
    if (t->state == AIOL_TRANSPORT_NEW) {
        aiol_secure_leave(tls, 0, true);
        return;
    }
    t->state = AIOL_TRANSPORT_CLOSING;
    if (t->file != NULL) {
        aiol_sendfile_give_up(t, 0);
        if (t->state != AIOL_TRANSPORT_CLOSING) /* somebody who heard of that has ended it */
            return;
    }
    aioloop_timer_handle_reschedule(&tls->timer, aiol_time_add(aiol_loop_now(t->resource.loop), tls->shutdown_timeout));
    err = aiol_tls_session_close(tls->wire->session);
    if (err < 0) {
        aiol_secure_fail(tls, err);
    } else if (tls->peer_ended) {
        aiol_secure_part(tls);
    } else { /* its goodbye has to be read */
        t->flags &= (uint16_t)~AIOL_TRANSPORT_READ_PAUSED;
        aiol_transport_resume_reading(tls->lower);
        aiol_secure_queue(tls);
    }
}

static void aiol_secure_abort(aioloop_transport *t, int error) {
    aiol_secure_leave(aiol_secure_of(t), error, true);
}

/* ---- reading ---- */

/* The protocol failed: reported, and the connection ends with that error. */
static void aiol_secure_protocol_failed(aiol_secure *tls, int code, const char *message) {
    aiol_transport_report(&tls->transport, code, message);
    aiol_secure_leave(tls, code, true);
}

static bool aiol_secure_reads(const aiol_secure *tls) {
    return tls->transport.state == AIOL_TRANSPORT_OPEN && (tls->transport.flags & AIOL_TRANSPORT_READ_PAUSED) == 0 &&
           !tls->transport.resource.loop->halt;
}

/* Decrypted bytes for a protocol with buffers of its own, straight into them. */
static void aiol_secure_deliver_into(aiol_secure *tls, size_t available) {
    aioloop_transport *t = &tls->transport;
    const aioloop_protocol *protocol = t->protocol;
    void *self = t->self;
    void *buffer = NULL;
    aiol_transport_frame frame = aiol_transport_enter(t);
    size_t size = protocol->get_buffer(t, self, available, &buffer);
    int raised = aiol_transport_leave(t, &frame, "get_buffer");
    if (raised == 0 && (size == 0 || buffer == NULL) && aiol_secure_reads(tls))
        raised = aiol_fail(t->resource.loop, AIOLOOP_EINVAL, "get_buffer gave an empty buffer");
    if (raised != 0) {
        aiol_secure_protocol_failed(tls, raised, "Error in get_buffer");
        return;
    }
    if (!aiol_secure_reads(tls) || t->protocol != protocol || t->self != self)
        return; /* the new one is asked in the next round */
    size = (size_t)aiol_tls_session_read(tls->wire->session, buffer, aiol_min_size(size, available));
    if (protocol->buffer_updated == NULL)
        return;
    frame = aiol_transport_enter(t);
    protocol->buffer_updated(t, self, size);
    raised = aiol_transport_leave(t, &frame, "buffer_updated");
    if (raised != 0)
        aiol_secure_protocol_failed(tls, raised, "Error in buffer_updated");
}

/* Decrypted bytes for any other, if there are some. What the session's read said. */
static int64_t aiol_secure_deliver(aiol_secure *tls) {
    aioloop_transport *t = &tls->transport;
    aioloop *loop = t->resource.loop;
    char *buffer = aiol_secure_buffer_get(loop);
    int64_t n;
    if (buffer == NULL) {
        aiol_secure_leave(tls, aiol_fail(loop, AIOLOOP_ENOMEM, NULL), true);
        return AIOL_TLS_MORE;
    }
    n = aiol_tls_session_read(tls->wire->session, buffer, AIOL_TLS_RECORD);
    if (n > 0 && t->protocol->data_received != NULL) {
        aiol_transport_frame frame = aiol_transport_enter(t);
        int raised;
        t->protocol->data_received(t, t->self, buffer, (size_t)n);
        raised = aiol_transport_leave(t, &frame, "data_received");
        if (AIOL_UNLIKELY(raised != 0))
            aiol_secure_protocol_failed(tls, raised, "Error in data_received");
    }
    aiol_secure_buffer_put(loop, buffer);
    return n;
}

/* The peer has said goodbye: it is told once, answered, and the connection closes, whatever the protocol says. */
static void aiol_secure_peer_ended(aiol_secure *tls) {
    aioloop_transport *t = &tls->transport;
    bool keep = false;
    int raised = 0;
    tls->peer_ended = true;
    if (t->state == AIOL_TRANSPORT_CLOSING) {
        aiol_secure_part(tls);
        return;
    }
    t->flags |= AIOL_TRANSPORT_READ_ENDED;
    if (t->protocol->eof_received != NULL) {
        aiol_transport_frame frame = aiol_transport_enter(t);
        keep = t->protocol->eof_received(t, t->self);
        raised = aiol_transport_leave(t, &frame, "eof_received");
    }
    if (AIOL_UNLIKELY(raised != 0))
        aiol_secure_protocol_failed(tls, raised, "Error in eof_received");
    if (keep && t->state == AIOL_TRANSPORT_OPEN)
        aiol_warn(t->resource.loop, t->resource.site, "a TLS connection cannot stay half open: eof_received's answer has no effect");
    aioloop_transport_close(t);
}

/* The handshake is done. */
static void aiol_secure_opened(aiol_secure *tls) {
    aioloop_transport *t = &tls->transport;
    int err = 0;
    aioloop_timer_handle_reschedule(&tls->timer, AIOLOOP_FOREVER);
    if (!tls->upgraded)
        err = aiol_transport_call_factory(t, tls->arg);
    if (err < 0 && err != AIOLOOP_EFATAL && t->server != NULL) /* nobody waits */
        aiol_transport_report(t, err, "Error in factory for incoming connection");
    if (t->state != AIOL_TRANSPORT_NEW)
        return; /* the factory has given it up */
    if (err < 0) {
        aiol_secure_leave(tls, err, true);
        return;
    }
    if (tls->next != NULL) {
        t->protocol = tls->next;
        t->self = tls->next_self;
        t->flags &= (uint16_t)~AIOL_TRANSPORT_WRITE_PAUSED; /* this one was told nothing */
    }
    t->state = AIOL_TRANSPORT_OPEN;
    tls->opened = true;
    if (!tls->upgraded)
        aiol_transport_call_made(t);
    else
        aiol_transport_maybe_resume(t);
    aiol_secure_settle(tls, 0);
}

/* ---- shaking hands, here or in another thread ---- */

/* What came of it; false: the peer has to send more, or it has failed. */
static bool aiol_secure_shaken(aiol_secure *tls, int err) {
    if (tls->transport.state != AIOL_TRANSPORT_NEW)
        return false; /* the SNI callback has ended it */
    if (err == 0)
        aiol_secure_opened(tls);
    else if (err != AIOL_TLS_MORE)
        aiol_secure_fail(tls, err);
    return err == 0;
}

static int64_t aiol_wire_shake(void *arg, void **out) {
    aiol_wire *w = (aiol_wire *)arg;
    (void)out;
    w->result = aiol_tls_session_handshake(w->session);
    return 0;
}

/* The other thread has done what it could: its part is sent, and reading goes on. */
static void aiol_secure_back(aioloop_future *f, void *arg) {
    aiol_secure *tls = (aiol_secure *)arg;
    aioloop_transport *t = &tls->transport;
    aiol_wire *w = tls->wire;
    int err = aioloop_future_exception(f);
    tls->away = false;
    w->lower = tls->lower;
    if (t->state == AIOL_TRANSPORT_NEW && err < 0) {
        aiol_fail(t->resource.loop, AIOLOOP_ECONNABORTED, "the executor was shut down in the TLS handshake");
        aiol_secure_leave(tls, AIOLOOP_ECONNABORTED, true);
    } else if (t->state == AIOL_TRANSPORT_NEW) {
        if (w->out_size != 0)
            err = aiol_wire_send(w, w->out, w->out_size);
        aiol_free(&aiol_default_allocator, w->out, w->out_capacity);
        w->out = NULL;
        w->out_size = 0;
        w->out_capacity = 0;
        if (err < 0) {
            aiol_secure_leave(tls, aiol_fail(t->resource.loop, err, NULL), true);
        } else {
            aiol_transport_resume_reading(tls->lower);
            if (aiol_secure_shaken(tls, w->result))
                aiol_secure_run(tls);
        }
    }
    if (w->in_size == 0 || t->state >= AIOL_TRANSPORT_ENDING)
        aiol_wire_drop_input(w);
    aioloop_transport_unref(t);
}

/* Hands the wire to a thread of the executor. False: it takes none, so it has to be done here. */
static bool aiol_secure_send_away(aiol_secure *tls) {
    aioloop *loop = tls->transport.resource.loop;
    aiol_wire *w = tls->wire;
    aioloop_executor_options options;
    aioloop_future *f;
    if (aiol_wire_keep(w, NULL, 0) < 0)
        return false;
    memset(&options, 0, sizeof(options));
    options.dispose = aiol_wire_unref;
    aiol_transport_pause_reading(tls->lower);
    w->lower = NULL;
    w->refs++;
    f = (aioloop_run_in_executor)(loop, NULL, aiol_wire_shake, w, &options);
    if (aioloop_future_done(f)) {
        (void)aioloop_future_exception(f);
        aioloop_future_unref(f);
        w->lower = tls->lower;
        aiol_transport_resume_reading(tls->lower);
        return false;
    }
    tls->away = true;
    aioloop_transport_ref(&tls->transport);
    if ((aioloop_future_then)(f, aiol_secure_back, tls) < 0) { /* nobody will hear of it, and the wire stays away */
        aiol_secure_leave(tls, aiol_fail(loop, AIOLOOP_ENOMEM, NULL), true);
        aioloop_transport_unref(&tls->transport);
    }
    return true;
}

/* All of the handshake that can be done, or its greeting, within which a server's SNI callback is called. */
static int aiol_secure_shake_here(aiol_secure *tls, int (*part)(aiol_tls_session *session)) {
    aioloop_transport *t = &tls->transport;
    aiol_frame frame = aiol_enter(t->resource.loop, &t->resource.context);
    int err = part(tls->wire->session);
    int raised = aiol_leave(t->resource.loop, &frame);
    if (AIOL_UNLIKELY(raised != 0))
        aiol_secure_protocol_failed(tls, raised, "Error in the SNI callback");
    return err;
}

static bool aiol_secure_shake(aiol_secure *tls) {
    int err = tls->in_executor ? aiol_secure_shake_here(tls, aiol_tls_session_greeting) : 0;
    if (err == 0 && tls->transport.state == AIOL_TRANSPORT_NEW) {
        if (tls->in_executor && aiol_secure_send_away(tls))
            return false;
        err = aiol_secure_shake_here(tls, aiol_tls_session_handshake);
    }
    return aiol_secure_shaken(tls, err);
}

/* ---- running ---- */

/* One step of what the bytes that are there allow; false: there is no other. */
static bool aiol_secure_step(aiol_secure *tls) {
    int64_t n;
    if (tls->transport.state == AIOL_TRANSPORT_NEW)
        return aiol_secure_shake(tls);
    if (tls->transport.state == AIOL_TRANSPORT_CLOSING) { /* nobody wants what comes */
        char *buffer = aiol_secure_buffer_get(tls->transport.resource.loop);
        if (buffer == NULL) {
            aiol_secure_leave(tls, 0, true);
            return false;
        }
        n = aiol_tls_session_read(tls->wire->session, buffer, AIOL_TLS_RECORD);
        aiol_secure_buffer_put(tls->transport.resource.loop, buffer);
        if (n > 0)
            return true;
    } else if (!aiol_secure_reads(tls) || tls->peer_ended) {
        return false;
    } else {
        if (tls->transport.protocol->get_buffer == NULL) {
            n = aiol_secure_deliver(tls);
        } else {
            n = aiol_tls_session_available(tls->wire->session);
            if (n > 0)
                aiol_secure_deliver_into(tls, (size_t)n);
        }
        if (n > 0) /* what nothing can come of is not asked for */
            return tls->wire->in_size != 0 || tls->wire->ended || aiol_tls_session_pending(tls->wire->session);
    }
    if (n == 0)
        aiol_secure_peer_ended(tls);
    else if (n != AIOL_TLS_MORE)
        aiol_secure_fail(tls, (int)n);
    AIOL_ASSERT(n != 0 || tls->transport.state >= AIOL_TRANSPORT_ENDING);
    return false;
}

static void aiol_secure_run(aiol_secure *tls) {
    aioloop *loop = tls->transport.resource.loop;
    if (tls->running || tls->away)
        return;
    tls->running = true;
    aioloop_transport_ref(&tls->transport);
    while (!loop->halt && aiol_secure_step(tls))
        ;
    if (loop->halt && !tls->away && tls->transport.state < AIOL_TRANSPORT_ENDING)
        aiol_secure_queue(tls); /* the session too may have bytes left */
    if (!tls->away && tls->wire->in_size == 0 && tls->wire->kept != NULL)
        aiol_secure_drop_input(tls);
    tls->running = false;
    aioloop_transport_unref(&tls->transport);
}

static void aiol_secure_pause_reading(aioloop_transport *t) {
    aiol_transport_pause_reading(aiol_secure_of(t)->lower);
}

/* What is there is delivered from the loop, not from within the call. */
static void aiol_secure_resume_reading(aioloop_transport *t) {
    aiol_secure *tls = aiol_secure_of(t);
    aiol_transport_resume_reading(tls->lower);
    aiol_secure_queue(tls);
}

/* ---- the protocol below ---- */

static void aiol_secure_take(aiol_secure *tls, aioloop_transport *lower) {
    tls->lower = aioloop_transport_ref(lower);
    tls->wire->lower = lower;
    lower->flags |= AIOL_TRANSPORT_BELOW;
}

static void aiol_secure_lower_made(aioloop_transport *lower, void *self) {
    aiol_secure *tls = (aiol_secure *)self;
    aiol_secure_take(tls, lower);
    lower->high = tls->transport.high;
    lower->low = tls->transport.low;
    aiol_secure_run(tls); /* a client greets */
}

static void aiol_secure_lower_received(aioloop_transport *lower, void *self, const void *data, size_t size) {
    aiol_secure *tls = (aiol_secure *)self;
    aiol_wire *w = tls->wire;
    int err = 0;
    if (tls->transport.state >= AIOL_TRANSPORT_ENDING)
        return;
    if (w->in_size != 0) {
        err = aiol_wire_keep(w, data, size);
    } else {
        w->in = (const char *)data;
        w->in_size = size;
    }
    aioloop_transport_ref(&tls->transport);
    if (err == 0)
        aiol_secure_run(tls);
    if (err == 0 && !tls->away && w->kept == NULL)
        err = aiol_wire_keep(w, NULL, 0);
    if (err < 0)
        aiol_secure_leave(tls, aiol_fail(lower->resource.loop, err, NULL), true);
    aioloop_transport_unref(&tls->transport);
}

static bool aiol_secure_lower_ended(aioloop_transport *lower, void *self) {
    aiol_secure *tls = (aiol_secure *)self;
    tls->wire->ended = true;
    aiol_secure_run(tls);
    return lower->calls->can_write_eof; /* it is closed when the session is over */
}

static void aiol_secure_lower_resume(aioloop_transport *lower, void *self) {
    aioloop_transport *t = &((aiol_secure *)self)->transport;
    (void)lower;
    if (t->state != AIOL_TRANSPORT_NEW)
        aiol_transport_maybe_resume(t);
}

/* Below it ended while hands were shaken. Stores the message and returns the code. */
static int aiol_secure_broken_off(const aiol_secure *tls, int error) {
    const char *how = error != 0 ? aioloop_strerror(error) : tls->wire->ended ? "it left" : "closed";
    if (error == 0)
        error = tls->wire->ended ? AIOLOOP_ECONNRESET : AIOLOOP_ECONNABORTED;
    return aiol_fail(tls->transport.resource.loop, error, "TLS with %s: %s during the handshake",
                     aiol_tls_session_who(tls->wire->session), how);
}

/* Stores the message of an error of our own once more: what failed meanwhile may have stored another. */
static void aiol_secure_tell_again(const aiol_secure *tls, int error) {
    const aioloop_transport *t = &tls->transport;
    if (tls->failure == error)
        aiol_fail(t->resource.loop, error, "%s", aiol_tls_session_message(tls->wire->session));
    else if (tls->expired && error == AIOLOOP_ETIMEDOUT)
        aiol_secure_late(tls, error, "goodbye", tls->shutdown_timeout);
    else if (tls->expired && error == AIOLOOP_ECONNABORTED)
        aiol_secure_late(tls, error, "handshake", tls->handshake_timeout);
    else
        aiol_fail(t->resource.loop, error, NULL);
}

/* The connection is lost, and the TLS transport with it: the loop's reference goes. */
static void aiol_secure_lower_lost(aioloop_transport *lower, void *self, int error) {
    aiol_secure *tls = (aiol_secure *)self;
    aioloop_transport *t = &tls->transport;
    aioloop_server *server = t->server;
    bool was_new = t->state == AIOL_TRANSPORT_NEW;
    bool own = t->error != 0;
    if (own)
        error = t->error;
    else if (was_new)
        error = aiol_secure_broken_off(tls, error);
    aioloop_timer_handle_cancel(&tls->timer);
    aiol_secure_drop_input(tls);
    t->state = AIOL_TRANSPORT_LOST;
    t->error = error;
    if (t->file != NULL)
        aiol_sendfile_give_up(t, error);
    aiol_secure_release_all(tls);
    if (was_new)
        aiol_secure_settle(tls, error);
    if ((tls->opened || tls->upgraded) && t->protocol->connection_lost != NULL) {
        /* A protocol that was to be upgraded knows the old transport only. */
        aioloop_transport *known = tls->opened ? t : lower;
        aiol_transport_frame frame = aiol_transport_enter(t);
        int raised;
        if (own)
            aiol_secure_tell_again(tls, error);
        t->protocol->connection_lost(known, t->self, error);
        raised = aiol_transport_leave(t, &frame, "connection_lost");
        if (AIOL_UNLIKELY(raised != 0))
            aiol_transport_report(t, raised, "Error in connection_lost");
    }
    if (server != NULL)
        aiol_server_lost(server, t);
    aioloop_transport_unref(t);
}

static const aioloop_protocol aiol_secure_protocol = {0,
                                                   NULL,
                                                   aiol_secure_lower_made,
                                                   aiol_secure_lower_received,
                                                   aiol_secure_lower_ended,
                                                   aiol_secure_lower_lost,
                                                   NULL, /* whoever writes looks, when the session is done */
                                                   aiol_secure_lower_resume,
                                                   NULL,
                                                   NULL,
                                                   NULL,
                                                   NULL};

/* ---- writing ---- */

static int aiol_secure_write_late(aioloop_transport *t, aiol_release_fn release) {
    if (t->resource.loop->closed)
        return release != NULL ? AIOLOOP_ECLOSED : 0;
    return release != NULL ? AIOLOOP_ENOTCONN : aiol_transport_dropped(t);
}

/* Calls no user code. */
static void aiol_secure_put(aioloop_transport *t, const void *data, size_t size) {
    aiol_secure *tls = aiol_secure_of(t);
    int err = size == 0 || t->state != AIOL_TRANSPORT_OPEN ? 0 : aiol_tls_session_write(tls->wire->session, data, size);
    if (err < 0)
        aiol_secure_fail(tls, err); /* part of it may be sent */
}

static int aiol_secure_write(aioloop_transport *t, const void *data, size_t size) {
    if (size == 0)
        return 0;
    if (t->state != AIOL_TRANSPORT_OPEN)
        return aiol_secure_write_late(t, NULL);
    aiol_secure_put(t, data, size);
    if (t->state == AIOL_TRANSPORT_OPEN)
        aiol_transport_maybe_pause(t);
    return 0;
}

static int aiol_secure_lent(aiol_secure *tls, const aioloop_buf *piece, aiol_release_fn release, void *arg) {
    aioloop *loop = tls->transport.resource.loop;
    aiol_secure_release *r = (aiol_secure_release *)aiol_alloc(&loop->allocator, sizeof(*r));
    if (r == NULL)
        return aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    r->next = NULL;
    r->release = release;
    r->arg = arg;
    r->data = piece->data;
    r->size = piece->size;
    *tls->releases_end = r;
    tls->releases_end = &r->next;
    aiol_secure_queue(tls);
    return 0;
}

/* Pieces that fit into one record leave as one. */
static int aiol_secure_write_gathered(aioloop_transport *t, const aioloop_buf *pieces, size_t count, size_t size) {
    aioloop *loop = t->resource.loop;
    char *buffer = aiol_secure_buffer_get(loop);
    size_t at = 0;
    size_t i;
    int err;
    if (buffer == NULL)
        return aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    for (i = 0; i < count; i++) {
        if (pieces[i].size != 0)
            memcpy(buffer + at, pieces[i].data, pieces[i].size);
        at += pieces[i].size;
    }
    err = aiol_secure_write(t, buffer, size);
    aiol_secure_buffer_put(loop, buffer);
    return err;
}

static int aiol_secure_write_pieces(aioloop_transport *t, const aioloop_buf *pieces, size_t count, aiol_release_fn release, void *arg) {
    size_t size = 0;
    size_t i;
    int err = 0;
    if (t->state != AIOL_TRANSPORT_OPEN)
        return aiol_secure_write_late(t, release);
    if (release != NULL)
        err = aiol_secure_lent(aiol_secure_of(t), pieces, release, arg);
    for (i = 0; i < count; i++)
        size += pieces[i].size;
    if (count > 1 && size <= AIOL_TLS_RECORD)
        return aiol_secure_write_gathered(t, pieces, count, size);
    for (i = 0; i < count && err == 0; i++)
        aiol_secure_put(t, pieces[i].data, pieces[i].size);
    if (t->state == AIOL_TRANSPORT_OPEN)
        aiol_transport_maybe_pause(t);
    return err;
}

static int aiol_secure_write_eof(aioloop_transport *t) {
    return aiol_fail(t->resource.loop, AIOLOOP_ENOTAVAILABLE, "a TLS connection cannot be half closed");
}

/* ---- what else a transport is asked ---- */

static size_t aiol_secure_buffered(const aioloop_transport *t) {
    const aioloop_transport *lower = aiol_secure_of(t)->lower;
    return lower == NULL ? 0 : aiol_transport_buffered(lower);
}

static void aiol_secure_limits_changed(aioloop_transport *t) {
    aioloop_transport *lower = aiol_secure_of(t)->lower;
    if (lower == NULL)
        return;
    lower->high = t->high;
    lower->low = t->low;
    if (lower->calls->limits_changed != NULL)
        lower->calls->limits_changed(lower);
    aiol_transport_maybe_pause(lower); /* or it would not tell us to resume */
}

static const void *aiol_secure_info(const aioloop_transport *t, const char *name) {
    aiol_secure *tls = aiol_secure_of(t);
    const void *found = tls->opened ? aiol_tls_session_info(tls->wire->session, name) : NULL;
    return found != NULL || tls->lower == NULL ? found : aioloop_transport_get_extra_info(tls->lower, name, NULL);
}

static void aiol_secure_protocol_changed(aioloop_transport *t) {
    (void)t;
}

static void aiol_secure_gone(aioloop_transport *t) {
    aiol_secure *tls = aiol_secure_of(t);
    aioloop_transport *lower = tls->lower;
    tls->lower = NULL;
    aioloop_transport_unref(lower);
}

static const aiol_transport_calls aiol_secure_calls = {
    aiol_secure_write, aiol_secure_write_pieces,  aiol_secure_write_eof,      false,                     aiol_secure_close,
    aiol_secure_abort, aiol_secure_pause_reading, aiol_secure_resume_reading, aiol_secure_protocol_changed, NULL, NULL, aiol_secure_buffered,
    aiol_secure_limits_changed, aiol_secure_info, aiol_secure_gone,
};

/* ---- with the loop ---- */

static void aiol_secure_loop_closed(aiol_resource *resource) {
    aiol_secure *tls = aiol_secure_of(AIOL_CONTAINER(resource, aioloop_transport, resource));
    tls->transport.state = AIOL_TRANSPORT_LOST;
    tls->settled = NULL;
    aiol_secure_release_all(tls);
}

static void aiol_secure_destroy(aiol_resource *resource) {
    aiol_secure *tls = aiol_secure_of(AIOL_CONTAINER(resource, aioloop_transport, resource));
    aioloop *loop = resource->loop;
    aiol_wire_unref(tls->wire);
    aiol_resource_remove(resource);
    aiol_free(&loop->allocator, tls, tls->transport.block_size);
}

static const aiol_resource_calls aiol_secure_resource = {"TLS transport", aiol_secure_loop_closed, aiol_secure_destroy, aiol_stream_is_open};

/* ---- making ---- */

/* A session for a setup, on a wire of its own; NULL with *err, and its message stored. */
static aiol_wire *aiol_wire_new(const aiol_secure_setup *setup, int *err) {
    aiol_wire *w = (aiol_wire *)aiol_alloc_zero(&aiol_default_allocator, sizeof(*w));
    const aiol_ssl_plan *plan = setup->ssl;
    aiol_tls_io io;
    if (w == NULL) {
        *err = aiol_fail(setup->loop, AIOLOOP_ENOMEM, NULL);
        return NULL;
    }
    w->refs = 1;
    io.receive = aiol_wire_receive;
    io.send = aiol_wire_send;
    io.owner = w;
    *err = aiol_tls_session_new(plan->context, plan->server_side, plan->hostname, plan->session, &io, &w->session);
    if (*err == 0)
        return w;
    aiol_fail(setup->loop, *err, "%s", aioloop_message(NULL, *err));
    aiol_wire_unref(w);
    return NULL;
}

/* A transport without a lower one; the loop's reference is the caller's to give up or leave. */
static int aiol_secure_new(const aiol_secure_setup *setup, aiol_secure **out) {
    aioloop *loop = setup->loop;
    const aiol_ssl_plan *plan = setup->ssl;
    size_t start = aiol_align(sizeof(aiol_secure));
    size_t instance = setup->upgrades ? 0 : setup->protocol->instance_size;
    size_t size = start + aiol_align(instance);
    aioloop_transport *t;
    aiol_secure *tls;
    int err = 0;
    if (instance > SIZE_MAX / 2)
        return aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    tls = (aiol_secure *)aiol_alloc_zero(&loop->allocator, size);
    if (tls == NULL)
        return aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
    tls->handshake_timeout = plan->handshake_timeout != 0 ? plan->handshake_timeout : AIOL_TLS_HANDSHAKE_TIMEOUT;
    tls->shutdown_timeout = plan->shutdown_timeout != 0 ? plan->shutdown_timeout : AIOL_TLS_SHUTDOWN_TIMEOUT;
    tls->in_executor = plan->in_executor;
    tls->wire = aiol_wire_new(setup, &err);
    if (tls->wire != NULL) {
        tls->timer = (aioloop_call_later)(loop, tls->handshake_timeout, aiol_secure_expired, tls);
        if (aioloop_handle_is_null(&tls->timer.handle)) {
            aiol_wire_unref(tls->wire);
            err = aiol_fail(loop, AIOLOOP_ENOMEM, NULL);
        }
    }
    if (err < 0) {
        aiol_free(&loop->allocator, tls, size);
        return err;
    }
    t = &tls->transport;
    t->block_size = size;
    t->calls = &aiol_secure_calls;
    t->protocol = setup->protocol;
    t->self = instance != 0 ? (void *)((char *)tls + start) : setup->arg;
    t->resource.context = aiol_map_ref(setup->context);
    t->server = setup->server;
    t->high = AIOL_TLS_HIGH_WATER;
    t->low = AIOL_TLS_HIGH_WATER / 4;
    t->recv.fd = AIOL_NO_SOCKET;
    t->resource.refs = 1;
    t->resource.site = setup->site;
    tls->arg = setup->arg;
    tls->upgraded = setup->upgrades;
    tls->settled = setup->settled;
    tls->owner = setup->owner;
    tls->releases_end = &tls->releases;
    aiol_resource_add(loop, &t->resource, &aiol_secure_resource);
    *out = tls;
    return 0;
}

/* For one that has no lower transport, and gets none. */
static void aiol_secure_discard(aiol_secure *tls) {
    aioloop_timer_handle_cancel(&tls->timer);
    aioloop_transport_unref(&tls->transport);
}

/* TLS over a socket: a connection, and a TLS transport on it that shakes hands. On success the socket is the
 * connection's; *out is borrowed, and good until it is lost or has settled with an error. Only from the loop. */
AIOLOOP_INTERNAL int aiol_secure_connect(const aiol_secure_setup *setup, const aiol_stream_setup *lower, aioloop_transport **out) {
    aiol_stream_setup below = *lower;
    aioloop_transport *connection = NULL;
    aiol_secure *tls = NULL;
    int err = aiol_secure_new(setup, &tls);
    if (err < 0)
        return err;
    below.protocol = &aiol_secure_protocol;
    below.arg = tls;
    below.server = NULL;
    err = aiol_stream_new(&below, &connection);
    if (err < 0) {
        aiol_secure_discard(tls);
        return aiol_fail(setup->loop, err, NULL);
    }
    *out = &tls->transport;
    if (setup->server != NULL)
        aiol_server_joined(setup->server, &tls->transport);
    (void)aiol_stream_begin(connection, tls); /* it has no factory that could fail */
    return 0;
}

/* True for a TLS transport, which may be ended before it is open: it shakes hands. */
AIOLOOP_INTERNAL bool aiol_secure_is(const aioloop_transport *t) {
    return t->calls == &aiol_secure_calls;
}

/* Nobody waits for the handshake any more. */
AIOLOOP_INTERNAL void aiol_secure_give_up(aioloop_transport *t) {
    aiol_secure_of(t)->settled = NULL;
    aioloop_transport_abort(t);
}

/* ---- upgrading a live connection ---- */

/* Nobody has taken the new transport, so nobody can use the connection. */
static void aiol_upgrade_dispose(void *pointer) {
    aioloop_transport *t = (aioloop_transport *)pointer;
    aioloop_transport_close(t);
    aioloop_transport_unref(t);
}

static void aiol_upgrade_settled(void *owner, aioloop_transport *t, int err) {
    aioloop_future *f = (aioloop_future *)owner;
    if (err < 0)
        aiol_future_fail(f, err, aiol_detail(t->resource.loop, err));
    else
        aiol_future_finish(f, 0, aioloop_transport_ref(t), aiol_upgrade_dispose);
    aiol_future_release(f);
}

static bool aiol_upgrade_cancel(aioloop_future *future, void *owner) {
    aioloop_transport *t = (aioloop_transport *)owner;
    if (t->resource.loop->closed)
        return true;
    aiol_secure_give_up(t);
    aiol_future_release(future);
    return true;
}

static int aiol_upgrade_check(aioloop *loop, const aioloop_transport *t, const aiol_ssl_plan *ssl,
                              const aioloop_start_tls_options *o) {
    int err;
    if (t == NULL || ssl->context == NULL)
        return aiol_fail(loop, AIOLOOP_EINVAL, t == NULL ? "a transport is needed, not NULL" : "a TLS context is needed, not NULL");
    if (t->resource.loop != loop)
        return aiol_fail(loop, AIOLOOP_EINVAL, "the transport belongs to another loop");
    if (aiol_endpoint_is(t))
        return aiol_fail(loop, AIOLOOP_EMISUSE, "a transport of datagrams cannot be upgraded");
    if (t->state != AIOL_TRANSPORT_OPEN || (t->flags & (AIOL_TRANSPORT_WRITE_ENDED | AIOL_TRANSPORT_READ_ENDED)) != 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a transport that is closing, or has ended one way, cannot be upgraded");
    if ((t->flags & AIOL_TRANSPORT_PIPE) != 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a transport that goes one way cannot be upgraded");
    if (t->file != NULL)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a file is being sent over the transport");
    if ((t->flags & AIOL_TRANSPORT_BELOW) != 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "the connection has TLS now, and another transport");
    if (o->leftover == NULL && o->leftover_size != 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "leftover_size without leftover");
    err = aiol_ssl_plan_check(loop, ssl);
    if (err == 0 && !ssl->server_side && ssl->hostname == NULL && aiol_tls_checks_host(ssl->context))
        return aiol_fail(loop, AIOLOOP_EINVAL, "the context checks the host's name: a server_hostname is needed, which may be empty");
    return err;
}

/* From here on the transport's protocol is the TLS transport. */
static void aiol_upgrade_begin(aiol_secure *tls, aioloop_transport *lower) {
    aioloop_transport *t = &tls->transport;
    aiol_secure_take(tls, lower);
    if (((lower->flags & AIOL_TRANSPORT_WRITE_PAUSED) != 0) != ((lower->flags & AIOL_TRANSPORT_FLOW_HELD) != 0))
        t->flags |= AIOL_TRANSPORT_WRITE_PAUSED; /* who was told to pause is told to resume */
    lower->flags &= (uint16_t)~AIOL_TRANSPORT_FLOW_HELD;
    aiol_server_upgraded(lower, t);
    lower->protocol = &aiol_secure_protocol;
    lower->self = tls;
    lower->calls->protocol_changed(lower);
    aiol_secure_limits_changed(t);
    aiol_transport_resume_reading(lower);
    aiol_secure_queue(tls); /* the first greeting goes behind what was written */
}

AIOLOOP_API aioloop_future *(aioloop_start_tls)(aioloop *loop, aioloop_transport *transport, aioloop_ssl_context *ssl,
                                                const aioloop_start_tls_options *options) {
    static const aioloop_start_tls_options defaults = AIOLOOP_ZERO;
    const aioloop_start_tls_options *o = options != NULL ? options : &defaults;
    aiol_ssl_plan plan = aiol_ssl_plan_of(o->server_side, ssl, o->ssl_handshake_timeout, o->ssl_shutdown_timeout,
                                          o->ssl_handshake_in_executor);
    aiol_secure_setup setup;
    aioloop_future *f;
    aiol_secure *tls = NULL;
    int err = loop == NULL ? AIOLOOP_EINVAL + 0 : aiol_check(loop);
    if (err < 0)
        return aiol_future_failed(err);
    plan.hostname = o->server_hostname;
    plan.session = o->ssl_session;
    err = aiol_upgrade_check(loop, transport, &plan, o);
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    f = aiol_future_new(loop, aiol_upgrade_cancel, NULL);
    if (f == NULL)
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    memset(&setup, 0, sizeof(setup));
    setup.loop = loop;
    setup.protocol = transport->protocol;
    setup.arg = transport->self;
    setup.context = aiol_thread.map;
    setup.site = f->site;
    setup.ssl = &plan;
    setup.settled = aiol_upgrade_settled;
    setup.owner = f;
    setup.upgrades = true;
    err = aiol_secure_new(&setup, &tls);
    if (err == 0 && o->leftover_size != 0 && (err = aiol_wire_keep(tls->wire, o->leftover, o->leftover_size)) < 0) {
        tls->settled = NULL;
        aiol_secure_discard(tls);
        aiol_fail(loop, err, NULL);
    }
    if (err < 0) {
        aiol_future_fail(f, err, aiol_detail(loop, err));
        aiol_future_release(f);
        return f;
    }
    tls->next = o->protocol;
    tls->next_self = o->self;
    f->of.owner = &tls->transport;
    aiol_upgrade_begin(tls, transport);
    return f;
}

#else

AIOLOOP_INTERNAL int aiol_secure_connect(const aiol_secure_setup *setup, const aiol_stream_setup *lower, aioloop_transport **out) {
    (void)lower;
    (void)out;
    return aiol_fail(setup->loop, AIOLOOP_ENOTAVAILABLE, "built without AIOLOOP_USE_TLS");
}

AIOLOOP_INTERNAL bool aiol_secure_is(const aioloop_transport *t) {
    (void)t;
    return false;
}

AIOLOOP_INTERNAL void aiol_secure_give_up(aioloop_transport *t) {
    (void)t;
}

AIOLOOP_INTERNAL int aiol_secure_timed_out(const aioloop_transport *t, int code, aioloop_time timeout) {
    (void)t;
    (void)timeout;
    return code;
}

AIOLOOP_API aioloop_future *(aioloop_start_tls)(aioloop *loop, aioloop_transport *transport, aioloop_ssl_context *ssl,
                                                const aioloop_start_tls_options *options) {
    (void)loop;
    (void)transport;
    (void)ssl;
    (void)options;
    return aiol_future_failed(AIOLOOP_ENOTAVAILABLE);
}

#endif

#endif
