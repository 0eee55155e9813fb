/*
 * datagram.c - endpoints: whole datagrams, both ways.
 *                          (asyncio: selector_events._SelectorDatagramTransport, base_events.create_datagram_endpoint)
 *
 * Reading is one source (RECVFROM) for the life of the endpoint. Sending tries the socket at once when nothing waits;
 * what it has no room for is copied into a list, which one SENDTO at a time works off. What the system says against a
 * datagram is told by the loop: until then (`error`) what is sent is queued behind it.
 *
 * An endpoint ends as a connection does (stream.c): when the engine has given both operations back, doom is queued.
 *
 * An opening looks up the addresses, makes the socket of the first pair that works, and becomes an endpoint in an
 * iteration of its own. Its future may be cancelled at any time, also from the protocol's own methods: `over` says that
 * it is settled.
 */
#ifndef AIOL_NET_DATAGRAM_C
#define AIOL_NET_DATAGRAM_C

#include "api/datagram.h"
#include "net/connect.c"

#define AIOL_DATAGRAM_COUNTS 8u /* beside its bytes, in flow control */
#define AIOL_DATAGRAM_PAUSE AIOLOOP_MS(16)

/* One that waits. The path of `to` follows the struct, then the bytes. */
typedef struct aiol_outgoing {
    aiol_datagram datagram;
    aioloop_address to;
    size_t block_size;
} aiol_outgoing;

typedef struct aiol_endpoint {
    aioloop_transport transport;
    aiol_op send;
    aiol_node node;            /* tells an error, and goes on sending */
    aioloop_timer_handle retry; /* when sending is tried again */
    aioloop_time pause;         /* before that; 0: it is not waited so */
    aioloop_address remote;    /* the one destination; AIOLOOP_UNSPEC: any */
    aiol_datagram *queue;      /* the oldest first; each in an aiol_outgoing */
    aiol_datagram **queue_end;
    size_t buffered;
    int error;                 /* to be told; 0: none */
    bool connected;            /* to remote, by the system */
    bool queued;               /* node */
} aiol_endpoint;

static aiol_endpoint *aiol_endpoint_of(aioloop_transport *t) {
    return AIOL_CONTAINER(t, aiol_endpoint, transport);
}

/* ---- ending ---- */

static void aiol_endpoint_drop_first(aiol_endpoint *ep) {
    aiol_outgoing *o = AIOL_CONTAINER(ep->queue, aiol_outgoing, datagram);
    ep->queue = o->datagram.next;
    ep->buffered -= o->datagram.size + AIOL_DATAGRAM_COUNTS;
    aiol_free(&ep->transport.resource.loop->allocator, o, o->block_size);
}

static void aiol_endpoint_drop_all(aiol_endpoint *ep) {
    while (ep->queue != NULL)
        aiol_endpoint_drop_first(ep);
}

/* Queues connection_lost when the engine has given the operations back. */
static void aiol_endpoint_doom_if_over(aiol_endpoint *ep) {
    aioloop_transport *t = &ep->transport;
    if (t->state != AIOL_TRANSPORT_ENDING || t->recv.state != AIOL_OP_IDLE || ep->send.state != AIOL_OP_IDLE)
        return;
    aiol_endpoint_drop_all(ep);
    t->state = AIOL_TRANSPORT_DOOMED;
    t->doom.run = aiol_stream_lost;
    aiol_queue_push(&t->resource.loop->ready, &t->doom); /* behind node, if that is queued */
}

/* Ends the endpoint now; what waits is dropped. */
static void aiol_endpoint_end(aioloop_transport *t, int error) {
    aiol_endpoint *ep = aiol_endpoint_of(t);
    aiol_engine *e = t->resource.loop->engine;
    if (t->state >= AIOL_TRANSPORT_ENDING)
        return;
    t->state = AIOL_TRANSPORT_ENDING;
    t->error = error;
    aiol_op_cancel(e, &t->recv);
    aiol_op_cancel(e, &ep->send);
    aioloop_timer_handle_cancel(&ep->retry);
    aiol_endpoint_doom_if_over(ep);
}

static void aiol_endpoint_close(aioloop_transport *t) {
    aiol_endpoint *ep = aiol_endpoint_of(t);
    t->state = AIOL_TRANSPORT_CLOSING;
    aiol_op_cancel(t->resource.loop->engine, &t->recv);
    if (ep->queue == NULL && ep->error == 0)
        aiol_endpoint_end(t, 0);
}

/* ---- receiving ---- */

/* What the system says of a datagram. User code. */
static void aiol_endpoint_tell(aioloop_transport *t, int error) {
    aiol_transport_frame frame;
    int raised;
    if (t->protocol->error_received == NULL)
        return;
    aiol_fail(t->resource.loop, error, NULL); /* not the message of another call that failed with that code */
    frame = aiol_transport_enter(t);
    t->protocol->error_received(t, t->self, error);
    raised = aiol_transport_leave(t, &frame, "error_received");
    if (AIOL_UNLIKELY(raised != 0))
        aiol_transport_report(t, raised, "Error in error_received");
}

/* After the protocol had a datagram: an error is reported, and that is all. */
static AIOL_NOINLINE void aiol_endpoint_attend(aioloop_transport *t) {
    aioloop *loop = t->resource.loop;
    int raised = loop->raised;
    loop->raised = 0;
    if (raised != 0)
        aiol_transport_report(t, raised, "Error in datagram_received");
    aiol_callback_end(loop);
}

AIOL_INLINE void aiol_endpoint_deliver(aioloop_transport *t, size_t size, const aiol_arrival *arrival) {
    static const aioloop_address nobody = AIOLOOP_ZERO;
    aioloop *loop = t->resource.loop;
    const aioloop_address *from = arrival->from;
    if (t->protocol->datagram_received == NULL)
        return;
    if (from->family == AIOLOOP_UNIX && from->path_size == 0) /* systems differ in what they say of those */
        from = &nobody;
    aiol_dispatch_enter(loop, &t->resource.context);
    t->protocol->datagram_received(t, t->self, arrival->data, size, from);
    aiol_dispatch_leave(loop);
    if (AIOL_UNLIKELY(loop->attention))
        aiol_endpoint_attend(t);
}

/* Something other than a datagram for an open endpoint; or debug mode, which measures. */
static AIOL_NOINLINE void aiol_endpoint_received_rarely(aioloop_transport *t, int64_t n, const aiol_arrival *arrival) {
    aioloop *loop = t->resource.loop;
    if (t->state != AIOL_TRANSPORT_OPEN) { /* a cancelled one comes back; the datagram is nobody's any more */
        aiol_endpoint_doom_if_over(aiol_endpoint_of(t));
        return;
    }
    if (n >= 0) {
        aioloop_time since = aiol_loop_now(loop);
        aiol_endpoint_deliver(t, (size_t)n, arrival);
        aiol_slow(loop, t->resource.site, since, "datagram_received");
        return;
    }
    if (t->recv.state == AIOL_OP_IDLE) /* the descriptor is of no use any more */
        aiol_endpoint_end(t, (int)n);
    else
        aiol_endpoint_tell(t, (int)n);
    aiol_callback_end(loop);
}

/* The operation's done(). */
static size_t aiol_endpoint_received(aiol_op *op, int64_t n, const void *data) {
    aioloop_transport *t = AIOL_CONTAINER(op, aioloop_transport, recv);
    if (AIOL_UNLIKELY(n < 0 || t->state != AIOL_TRANSPORT_OPEN || t->resource.loop->debug))
        aiol_endpoint_received_rarely(t, n, (const aiol_arrival *)data);
    else
        aiol_endpoint_deliver(t, (size_t)n, (const aiol_arrival *)data);
    return 0;
}

static void aiol_endpoint_start_reading(aioloop_transport *t) {
    aiol_engine *e = t->resource.loop->engine;
    int64_t n;
    if (t->state != AIOL_TRANSPORT_OPEN || (t->flags & AIOL_TRANSPORT_READ_PAUSED) != 0)
        return;
    if (t->recv.state == AIOL_OP_STOPPED) {
        e->calls->start(e, &t->recv);
    } else if (t->recv.state == AIOL_OP_IDLE) {
        n = aiol_op_submit(e, &t->recv);
        if (n != AIOL_PENDING)
            aiol_endpoint_end(t, n < 0 ? (int)n : AIOLOOP_EIO);
    }
}

static void aiol_endpoint_protocol_changed(aioloop_transport *t) {
    (void)t;
}

/* ---- sending ---- */

static void aiol_endpoint_later(aiol_endpoint *ep) {
    if (ep->queued)
        return;
    ep->queued = true;
    aiol_queue_push(&ep->transport.resource.loop->ready, &ep->node);
}

/* So many of the queue have gone; or its first could not, which is to be told. */
static void aiol_endpoint_went(aiol_endpoint *ep, int64_t n) {
    int64_t i = n < 0 ? 1 : n;
    if (n < 0)
        ep->error = (int)n;
    while (i-- > 0)
        aiol_endpoint_drop_first(ep);
}

/* Whether the queue's first goes to one of several Unix sockets: when that has no room nothing tells when it has, for it is
 * the sender's own that is watched, and has. */
static bool aiol_endpoint_is_blind(const aiol_endpoint *ep) {
    return ep->queue->to != NULL && ep->queue->to->family == AIOLOOP_UNIX;
}

static void aiol_endpoint_send(aiol_endpoint *ep);

static void aiol_endpoint_try_again(aioloop *loop, void *arg) {
    aiol_endpoint *ep = (aiol_endpoint *)arg;
    (void)loop;
    memset(&ep->retry, 0, sizeof(ep->retry));
    aiol_endpoint_send(ep);
}

/* Sending is tried again after a while, and each time after a longer one. */
static void aiol_endpoint_pause(aiol_endpoint *ep) {
    ep->pause = ep->pause == 0 ? AIOLOOP_MS(1) : ep->pause < AIOL_DATAGRAM_PAUSE ? ep->pause * 2 : ep->pause;
    ep->retry = (aioloop_call_later)(ep->transport.resource.loop, ep->pause, aiol_endpoint_try_again, ep);
    if (aioloop_handle_is_null(&ep->retry.handle))
        aiol_endpoint_later(ep); /* no memory: in the next iteration then */
}

/* Sends until the system takes no more, or says something. Calls no user code. */
static void aiol_endpoint_send(aiol_endpoint *ep) {
    aiol_engine *e = ep->transport.resource.loop->engine;
    while (ep->queue != NULL && ep->error == 0) {
        bool blind = aiol_endpoint_is_blind(ep);
        int64_t n;
        ep->send.u.sendto.first = ep->queue;
        n = blind ? e->calls->attempt_to(e, ep->send.fd, ep->queue) : aiol_op_submit(e, &ep->send);
        if (n == AIOL_PENDING) {
            if (blind)
                aiol_endpoint_pause(ep);
            return;
        }
        ep->pause = 0;
        aiol_endpoint_went(ep, n);
    }
    aiol_endpoint_later(ep);
}

/* Whether sending goes on by itself. */
static bool aiol_endpoint_is_sending(const aiol_endpoint *ep) {
    return ep->send.state != AIOL_OP_IDLE || !aioloop_handle_is_null(&ep->retry.handle);
}

/* After some were sent: an error is told, the protocol may send again, and the end of the queue has its consequences.
 * Any of these may send, close or abort. */
static void aiol_endpoint_after_send(aiol_endpoint *ep) {
    aioloop_transport *t = &ep->transport;
    int error = ep->error;
    ep->error = 0;
    if (error != 0)
        aiol_endpoint_tell(t, error);
    if (t->state <= AIOL_TRANSPORT_CLOSING)
        aiol_transport_maybe_resume(t);
    if (t->state <= AIOL_TRANSPORT_CLOSING && !aiol_endpoint_is_sending(ep) && ep->queue != NULL)
        aiol_endpoint_send(ep);
    if (t->state == AIOL_TRANSPORT_CLOSING && ep->queue == NULL && ep->error == 0)
        aiol_endpoint_end(t, 0);
    aiol_callback_end(t->resource.loop);
}

static void aiol_endpoint_run(aioloop *loop, aiol_node *node) {
    aiol_endpoint *ep = AIOL_CONTAINER(node, aiol_endpoint, node);
    (void)loop;
    ep->queued = false;
    if (ep->transport.state <= AIOL_TRANSPORT_CLOSING)
        aiol_endpoint_after_send(ep);
}

/* The operation's done(). */
static size_t aiol_endpoint_sent(aiol_op *op, int64_t n, const void *data) {
    aiol_endpoint *ep = AIOL_CONTAINER(op, aiol_endpoint, send);
    (void)data;
    if (ep->transport.state >= AIOL_TRANSPORT_ENDING) {
        aiol_endpoint_doom_if_over(ep);
        return 0;
    }
    aiol_endpoint_went(ep, n);
    aiol_endpoint_after_send(ep);
    return 0;
}

/* Copies a datagram to the end of the queue. */
static int aiol_endpoint_enqueue(aiol_endpoint *ep, const void *data, size_t size, const aioloop_address *to) {
    size_t path_size = to != NULL && to->family == AIOLOOP_UNIX ? to->path_size : 0;
    aiol_outgoing *o;
    char *room;
    if (size > SIZE_MAX / 2)
        return AIOLOOP_ENOMEM;
    o = (aiol_outgoing *)aiol_alloc(&ep->transport.resource.loop->allocator, sizeof(*o) + path_size + size);
    if (o == NULL)
        return AIOLOOP_ENOMEM;
    o->block_size = sizeof(*o) + path_size + size;
    room = (char *)(o + 1);
    if (to != NULL)
        o->to = *to;
    if (path_size != 0) {
        memcpy(room, to->u.path, path_size);
        o->to.u.path = room;
        room += path_size;
    }
    if (size != 0)
        memcpy(room, data, size);
    o->datagram.next = NULL;
    o->datagram.data = room;
    o->datagram.size = size;
    o->datagram.to = to != NULL ? &o->to : NULL;
    *(ep->queue != NULL ? ep->queue_end : &ep->queue) = &o->datagram;
    ep->queue_end = &o->datagram.next;
    ep->buffered += size + AIOL_DATAGRAM_COUNTS;
    return 0;
}

/* It has to wait: for room, or until an error is told. */
static AIOL_NOINLINE int aiol_endpoint_sendto_late(aiol_endpoint *ep, const void *data, size_t size,
                                                   const aioloop_address *to) {
    aioloop_transport *t = &ep->transport;
    int err = aiol_endpoint_enqueue(ep, data, size, to);
    if (err < 0)
        return aiol_fail(t->resource.loop, err, NULL);
    if (!aiol_endpoint_is_sending(ep) && ep->error == 0)
        aiol_endpoint_send(ep);
    aiol_transport_maybe_pause(t);
    return 0;
}

/* 0, or why it cannot be sent to that address; *to becomes what the system is told. */
static int aiol_endpoint_direct(aiol_endpoint *ep, const aioloop_address **to) {
    aioloop *loop = ep->transport.resource.loop;
    if (ep->remote.family == AIOLOOP_UNSPEC)
        return aiol_sock_address_check(loop, *to);
    if (*to != NULL && !aioloop_address_equal(*to, &ep->remote))
        return aiol_fail(loop, AIOLOOP_EINVAL, "the endpoint has a remote address, and sends to that alone");
    *to = ep->connected ? NULL : &ep->remote;
    return 0;
}

AIOLOOP_API int aioloop_transport_sendto(aioloop_transport *transport, const void *data, size_t size,
                                         const aioloop_address *to) {
    aiol_endpoint *ep;
    aiol_engine *e;
    aiol_datagram one;
    int64_t n;
    int err;
    if (transport == NULL || (data == NULL && size != 0))
        return AIOLOOP_EINVAL;
    if (!aiol_endpoint_is(transport))
        return aiol_fail(transport->resource.loop, AIOLOOP_EMISUSE, "sendto: the transport is not one of datagrams");
    ep = aiol_endpoint_of(transport);
    err = aiol_endpoint_direct(ep, &to);
    if (AIOL_UNLIKELY(err < 0))
        return err;
    if (AIOL_UNLIKELY(transport->state != AIOL_TRANSPORT_OPEN))
        return transport->resource.loop->closed ? 0 : aiol_transport_dropped(transport);
    if (AIOL_UNLIKELY(ep->queue != NULL || ep->error != 0))
        return aiol_endpoint_sendto_late(ep, data, size, to);
    one.next = NULL;
    one.data = data;
    one.size = size;
    one.to = to;
    e = transport->resource.loop->engine;
    n = e->calls->attempt_to(e, transport->recv.fd, &one);
    if (AIOL_LIKELY(n > 0))
        return 0;
    if (n == AIOL_PENDING)
        return aiol_endpoint_sendto_late(ep, data, size, to);
    ep->error = (int)n;
    aiol_endpoint_later(ep);
    return 0;
}

/* ---- what writes bytes ---- */

static int aiol_endpoint_write_pieces(aioloop_transport *t, const aioloop_buf *pieces, size_t count,
                                      aiol_release_fn release, void *arg) {
    (void)pieces;
    (void)count;
    (void)release;
    (void)arg;
    return aiol_fail(t->resource.loop, AIOLOOP_EMISUSE, "datagrams are sent with aioloop_transport_sendto");
}

static int aiol_endpoint_write(aioloop_transport *t, const void *data, size_t size) {
    (void)data;
    (void)size;
    return aiol_endpoint_write_pieces(t, NULL, 0, NULL, NULL);
}

static int aiol_endpoint_write_eof(aioloop_transport *t) {
    (void)t;
    return AIOLOOP_ENOTAVAILABLE;
}

static size_t aiol_endpoint_buffered(const aioloop_transport *t) {
    return t->state >= AIOL_TRANSPORT_ENDING ? 0 : AIOL_CONTAINER(t, const aiol_endpoint, transport)->buffered;
}

static const aiol_transport_calls aiol_endpoint_calls = {
    aiol_endpoint_write,         aiol_endpoint_write_pieces,     aiol_endpoint_write_eof,
    false,                       aiol_endpoint_close,            aiol_endpoint_end,
    aiol_stream_pause_reading,   aiol_endpoint_start_reading,    aiol_endpoint_protocol_changed,
    NULL,                        NULL,                           aiol_endpoint_buffered,
    NULL,                        NULL,                           NULL,
};

AIOLOOP_INTERNAL bool aiol_endpoint_is(const aioloop_transport *t) {
    return t->calls == &aiol_endpoint_calls;
}

/* ---- with the loop ---- */

static void aiol_endpoint_loop_closed(aiol_resource *resource) {
    aioloop_transport *t = AIOL_CONTAINER(resource, aioloop_transport, resource);
    aiol_endpoint *ep = aiol_endpoint_of(t);
    aiol_engine *e = resource->loop->engine;
    if (t->recv.fd != AIOL_NO_SOCKET) {
        if (resource->loop->process == aiol_process_id()) {
            aiol_op_cancel(e, &t->recv);
            aiol_op_cancel(e, &ep->send);
            e->calls->quiesce(e, t->recv.fd);
        }
        e->sockets->close(e, t->recv.fd);
        t->recv.fd = AIOL_NO_SOCKET;
    }
    t->state = AIOL_TRANSPORT_LOST;
    t->recv.state = AIOL_OP_IDLE;
    ep->send.state = AIOL_OP_IDLE;
    aiol_endpoint_drop_all(ep);
}

static const aiol_resource_calls aiol_endpoint_resource = {"datagram endpoint", aiol_endpoint_loop_closed,
                                                           aiol_stream_destroy, aiol_stream_is_open};

/* ---- opening ---- */

typedef struct aiol_opening {
    aiol_resource resource;
    aioloop_future *future;
    const aioloop_protocol *protocol;
    void *arg;
    aiol_node node; /* the socket is there */
    aioloop_timer_handle timer;
    aiol_host local;
    aiol_host remote;
    int lookups; /* that have not answered */
    aioloop_socket socket;
    bool attached;
    aioloop_address destination; /* that was connected to, or is the only one; AIOLOOP_UNSPEC: none */
    int family;
    int protocol_number;
    bool has_local;
    bool has_remote;
    bool reuse_port;
    bool broadcast;
    bool over;
    bool queued;
    char remote_path[108];
} aiol_opening;

/* A pair of addresses to try; each may be NULL. */
typedef struct aiol_pair {
    int family;
    int protocol;
    const aioloop_address *local;
    const aioloop_address *remote;
} aiol_pair;

static void aiol_opening_close_socket(aiol_opening *o) {
    aiol_engine *e = o->resource.loop->engine;
    if (o->socket == AIOL_NO_SOCKET)
        return;
    if (o->attached)
        e->calls->quiesce(e, o->socket);
    e->sockets->close(e, o->socket);
    o->socket = AIOL_NO_SOCKET;
    o->attached = false;
}

static void aiol_opening_free(aiol_opening *o) {
    aioloop_freeaddrinfo(o->remote.list);
    aioloop_freeaddrinfo(o->local.list);
    aiol_resource_remove(&o->resource);
    aiol_free(&o->resource.loop->allocator, o, sizeof(*o));
}

static void aiol_opening_free_if_over(aiol_opening *o) {
    if (o->over && !o->queued && o->remote.future == NULL && o->local.future == NULL)
        aiol_opening_free(o);
}

/* The future is settled; whatever is under way is given up. */
static void aiol_opening_settle(aiol_opening *o) {
    aioloop_future *f = o->future;
    o->over = true;
    o->future = NULL;
    if (f->state == AIOL_FUTURE_PENDING)
        f->of.owner = NULL; /* what a resolver's cancel runs may cancel again */
    aioloop_timer_handle_cancel(&o->timer);
    aiol_host_cancel(&o->remote);
    aiol_host_cancel(&o->local);
    aiol_opening_close_socket(o);
    aiol_future_release(f);
    aiol_opening_free_if_over(o);
}

static bool aiol_opening_cancel(aioloop_future *future, void *owner) {
    (void)future;
    if (owner != NULL)
        aiol_opening_settle((aiol_opening *)owner);
    return true;
}

/* The call fails, with the message stored. */
static void aiol_opening_fail(aiol_opening *o, int code) {
    if (code == AIOLOOP_ECANCELED)
        aiol_future_end_cancelled(o->future, NULL);
    else
        aiol_future_fail(o->future, code, aiol_detail(o->resource.loop, code));
    aiol_opening_settle(o);
}

static void aiol_opening_timed_out(aioloop *loop, void *arg) {
    aiol_opening *o = (aiol_opening *)arg;
    aiol_fail(loop, AIOLOOP_ETIMEDOUT, o->lookups == 0 ? NULL : "looking up the host: the time-out passed");
    aiol_opening_fail(o, AIOLOOP_ETIMEDOUT);
}

/* ---- a pair of addresses becomes a socket ---- */

/* Stores what has failed, and returns the code. */
static int aiol_opening_failed(aiol_opening *o, int code, const char *what, const aioloop_address *address) {
    char name[AIOL_ADDRESS_TEXT];
    if (address == NULL)
        return aiol_fail(o->resource.loop, code, "%s: %s", what, aioloop_strerror(code));
    aioloop_address_format(address, name, sizeof(name));
    return aiol_fail(o->resource.loop, code, "%s %s: %s", what, name, aioloop_strerror(code));
}

static int aiol_opening_set_options(const aiol_opening *o, aioloop_socket s) {
    aiol_engine *e = o->resource.loop->engine;
    int err = 0;
    if (o->reuse_port) {
        err = e->sockets->set(e, s, AIOL_OPTION_REUSE_PORT, 1);
        if (err == AIOLOOP_ENOPROTOOPT || err == AIOLOOP_ENOTAVAILABLE)
            err = AIOLOOP_EINVAL; /* the system has no such thing */
    }
    if (err == 0 && o->broadcast)
        err = e->sockets->set(e, s, AIOL_OPTION_BROADCAST, 1);
    return err;
}

static int aiol_opening_bind(aiol_opening *o, aioloop_socket s, const aioloop_address *local) {
    aiol_engine *e = o->resource.loop->engine;
    int err;
    aiol_path_clear(e, local);
    err = e->sockets->bind(e, s, local);
    return err == 0 ? 0 : aiol_opening_failed(o, err, "bind to", local);
}

/* Datagrams are not waited for: the answer is there at once. */
static int aiol_opening_connect(aiol_opening *o, aioloop_socket s, const aioloop_address *remote) {
    aiol_engine *e = o->resource.loop->engine;
    int tries = 0;
    int err;
    do {
        err = e->sockets->connect(e, s, remote);
    } while (err == AIOLOOP_EINPROGRESS && ++tries < 16); /* interrupted */
    return err == 0 ? 0 : aiol_opening_failed(o, err, "connect to", remote);
}

/* 0: the opening has a socket; or a code with its message stored, and nothing is left behind. */
static int aiol_opening_try(aiol_opening *o, const aiol_pair *pair) {
    aiol_engine *e = o->resource.loop->engine;
    aioloop_socket s = AIOL_NO_SOCKET;
    bool bound = false;
    int err = e->sockets->open(e, pair->family, AIOLOOP_SOCK_DGRAM, pair->protocol, &s);
    if (err < 0)
        return aiol_opening_failed(o, err, "socket", NULL);
    err = aiol_opening_set_options(o, s);
    if (err < 0)
        aiol_opening_failed(o, err, "socket options", NULL);
    if (err == 0 && pair->local != NULL) {
        err = aiol_opening_bind(o, s, pair->local);
        bound = err == 0;
    }
    if (err == 0 && pair->remote != NULL && !o->broadcast)
        err = aiol_opening_connect(o, s, pair->remote);
    if (err == 0) {
        err = e->calls->attach(e, s, AIOL_OWNER_TRANSPORT);
        if (err < 0)
            aiol_opening_failed(o, err, "socket", NULL);
    }
    if (err < 0) {
        e->sockets->close(e, s);
        if (bound)
            aiol_path_clear(e, pair->local);
        return err;
    }
    o->socket = s;
    o->attached = true;
    if (pair->remote != NULL)
        o->destination = *pair->remote;
    return 0;
}

/* ---- pairs ---- */

/* The protocol of the i-th address of a host; who needed no look-up, or a resolver that does not care, has the usual
 * one. */
static int aiol_opening_protocol(const aiol_opening *o, const aiol_host *host, size_t i) {
    int protocol = host->list != NULL ? host->list[i].protocol : 0;
    if (protocol == 0)
        protocol = o->protocol_number;
    return protocol != 0 ? protocol : 17;
}

/* Makes the (i, j)-th pair; false: the two do not fit. */
static bool aiol_opening_pair(const aiol_opening *o, size_t i, size_t j, aiol_pair *pair) {
    pair->local = o->has_local ? aiol_host_at(&o->local, i) : NULL;
    pair->remote = o->has_remote ? aiol_host_at(&o->remote, j) : NULL;
    pair->family = pair->local != NULL ? pair->local->family : pair->remote->family;
    pair->protocol = o->has_local ? aiol_opening_protocol(o, &o->local, i) : aiol_opening_protocol(o, &o->remote, j);
    return pair->local == NULL || pair->remote == NULL ||
           (pair->remote->family == pair->family && aiol_opening_protocol(o, &o->remote, j) == pair->protocol);
}

/* Tries pairs, until one becomes a socket. 0, or the code of the first with its message stored. */
static int aiol_opening_try_pairs(aiol_opening *o) {
    aioloop *loop = o->resource.loop;
    size_t locals = o->has_local ? o->local.count : 1;
    size_t remotes = o->has_remote ? o->remote.count : 1;
    char text[AIOL_ERROR_TEXT_SIZE];
    aiol_pair pair;
    int first = 0;
    size_t i;
    size_t j;
    for (i = 0; i < locals; i++) {
        for (j = 0; j < remotes; j++) {
            int err = aiol_opening_pair(o, i, j, &pair) ? aiol_opening_try(o, &pair) : AIOL_PENDING;
            if (err == 0)
                return 0;
            if (first != 0 || err == AIOL_PENDING)
                continue;
            first = err;
            snprintf(text, sizeof(text), "%s", aiol_detail(loop, err) != NULL ? aiol_detail(loop, err) : "");
        }
    }
    if (first == 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "no local and remote address have a family and protocol in common");
    return aiol_fail(loop, first, "%s", text);
}

/* ---- the endpoint is made ---- */

static void aiol_opening_continue(aiol_opening *o) {
    o->queued = true;
    aiol_queue_push(&o->resource.loop->ready, &o->node);
}

/* All is known that was looked up. */
static void aiol_opening_begin(aiol_opening *o) {
    int err = aiol_opening_try_pairs(o);
    if (err < 0)
        aiol_opening_fail(o, err);
    else
        aiol_opening_continue(o);
}

static void aiol_opening_looked_up(aiol_host *host, int err) {
    aiol_opening *o = (aiol_opening *)host->owner;
    o->lookups--;
    if (o->over)
        aiol_opening_free_if_over(o);
    else if (err < 0)
        aiol_opening_fail(o, err);
    else if (o->lookups == 0)
        aiol_opening_begin(o);
}

/* An endpoint for the socket, with the loop's reference; nobody is called yet. On failure the socket is still the
 * opening's. */
static int aiol_endpoint_new(aiol_opening *o, aioloop_transport **out) {
    aioloop *loop = o->resource.loop;
    aiol_engine *e = loop->engine;
    aioloop_address local;
    aioloop_address peer;
    aiol_path_room local_room;
    aiol_path_room peer_room;
    bool named = e->sockets->name(e, o->socket, &local, &local_room) == 0;
    bool connected = e->sockets->peer(e, o->socket, &peer, &peer_room) == 0;
    bool chosen = o->destination.family != AIOLOOP_UNSPEC;
    const aioloop_address *remote = chosen ? &o->destination : connected ? &peer : NULL;
    size_t start = aiol_align(sizeof(aiol_endpoint));
    size_t instance = aiol_align(o->protocol->instance_size);
    size_t size = start + instance + aiol_stream_path_size(named ? &local : NULL) +
                  aiol_stream_path_size(connected ? &peer : NULL) + aiol_stream_path_size(remote);
    aiol_endpoint *ep;
    aioloop_transport *t;
    char *room;
    if (o->protocol->instance_size > SIZE_MAX / 2)
        return AIOLOOP_ENOMEM;
    ep = (aiol_endpoint *)aiol_alloc_zero(&loop->allocator, size);
    if (ep == NULL)
        return AIOLOOP_ENOMEM;
    t = &ep->transport;
    t->block_size = size;
    t->calls = &aiol_endpoint_calls;
    t->protocol = o->protocol;
    t->self = o->protocol->instance_size != 0 ? (void *)((char *)ep + start) : o->arg;
    t->resource.context = aiol_map_ref(o->resource.context);
    t->high = AIOL_HIGH_WATER;
    t->low = AIOL_HIGH_WATER / 4;
    t->recv.kind = AIOL_OP_RECVFROM;
    t->recv.fd = o->socket;
    t->recv.done = aiol_endpoint_received;
    t->recv.u.recvfrom.internet = named && local.family != AIOLOOP_UNIX;
    ep->send.kind = AIOL_OP_SENDTO;
    ep->send.fd = o->socket;
    ep->send.done = aiol_endpoint_sent;
    ep->node.run = aiol_endpoint_run;
    ep->connected = connected;
    room = (char *)ep + start + instance;
    aiol_stream_name(&t->local, named ? &local : NULL, &room);
    aiol_stream_name(&t->peer, connected ? &peer : NULL, &room);
    aiol_stream_name(&ep->remote, remote, &room);
    t->resource.refs = 1;
    t->resource.site = o->resource.site;
    aiol_resource_add(loop, &t->resource, &aiol_endpoint_resource);
    *out = t;
    return 0;
}

/* Calls the factory and connection_made, and starts reading. Below 0: the factory failed, and the endpoint is gone with
 * its socket. */
static int aiol_endpoint_begin(aioloop_transport *t, void *arg) {
    int err = aiol_transport_call_factory(t, arg);
    if (err < 0) {
        t->state = AIOL_TRANSPORT_LOST;
        aiol_stream_close_socket(t);
        aioloop_transport_unref(t);
        return err;
    }
    t->state = AIOL_TRANSPORT_OPEN;
    aiol_transport_call_made(t);
    aiol_endpoint_start_reading(t);
    return 0;
}

static void aiol_opening_made(aiol_opening *o) {
    aioloop *loop = o->resource.loop;
    aioloop_future *f = o->future;
    aioloop_transport *t = NULL;
    int err = aiol_endpoint_new(o, &t);
    if (err < 0) {
        aiol_fail(loop, err, NULL);
        aiol_opening_fail(o, err);
        return;
    }
    o->socket = AIOL_NO_SOCKET; /* the endpoint's now */
    o->attached = false;
    aiol_future_hold(f);
    aioloop_transport_ref(t);
    o->queued = true; /* keeps the opening while user code runs that may cancel the future */
    err = aiol_endpoint_begin(t, o->arg);
    o->queued = false;
    if (err < 0 && !o->over)
        aiol_future_fail(f, err, aiol_detail(loop, err));
    if (err == 0 && !o->over)
        aiol_future_finish(f, 0, t, aiol_transport_dispose); /* with the reference taken above */
    else
        aioloop_transport_unref(t);
    if (err == 0 && o->over)
        aioloop_transport_abort(t);
    if (!o->over)
        aiol_opening_settle(o);
    else
        aiol_opening_free_if_over(o);
    aiol_future_release(f);
    aiol_callback_end(loop);
}

static void aiol_opening_run(aioloop *loop, aiol_node *node) {
    aiol_opening *o = AIOL_CONTAINER(node, aiol_opening, node);
    (void)loop;
    o->queued = false;
    if (o->over)
        aiol_opening_free_if_over(o);
    else
        aiol_opening_made(o);
}

/* ---- with the loop ---- */

static void aiol_opening_loop_closed(aiol_resource *resource) {
    aiol_opening *o = AIOL_CONTAINER(resource, aiol_opening, resource);
    o->over = true;
    o->queued = false;
    if (resource->loop->process != aiol_process_id())
        o->attached = false; /* what is shared with the parent is left alone */
    aiol_opening_close_socket(o);
    if (o->future != NULL)
        o->future->of.owner = NULL; /* it stays pending */
}

static void aiol_opening_destroy(aiol_resource *resource) {
    aiol_opening_free(AIOL_CONTAINER(resource, aiol_opening, resource));
}

static bool aiol_opening_is_open(const aiol_resource *resource) {
    return !AIOL_CONTAINER(resource, const aiol_opening, resource)->over;
}

static const aiol_resource_calls aiol_opening_resource = {"datagram endpoint in the making", aiol_opening_loop_closed,
                                                          aiol_opening_destroy, aiol_opening_is_open};

/* An opening with its future; NULL when there is no memory. */
static aiol_opening *aiol_opening_new(aioloop *loop, const aioloop_protocol *protocol, void *arg,
                                      const aioloop_datagram_endpoint_options *options) {
    aiol_opening *o = (aiol_opening *)aiol_alloc_zero(&loop->allocator, sizeof(*o));
    if (o == NULL)
        return NULL;
    o->future = aiol_future_new(loop, aiol_opening_cancel, o);
    if (o->future == NULL) {
        aiol_free(&loop->allocator, o, sizeof(*o));
        return NULL;
    }
    o->protocol = protocol;
    o->arg = arg;
    o->socket = AIOL_NO_SOCKET;
    o->family = options->family;
    o->protocol_number = options->protocol;
    o->reuse_port = options->reuse_port;
    o->broadcast = options->allow_broadcast;
    o->resource.context = aiol_map_ref(aiol_thread.map);
    o->node.run = aiol_opening_run;
    o->remote.done = aiol_opening_looked_up;
    o->remote.owner = o;
    o->local.done = aiol_opening_looked_up;
    o->local.owner = o;
    o->resource.site = o->future->site;
    aiol_resource_add(loop, &o->resource, &aiol_opening_resource);
    if (options->timeout > 0) {
        o->timer = (aioloop_call_later)(loop, options->timeout, aiol_opening_timed_out, o);
        if (aioloop_handle_is_null(&o->timer.handle)) {
            aioloop_future *f = o->future;
            aiol_opening_settle(o);
            f->end.cancel = NULL;
            aioloop_future_unref(f);
            return NULL;
        }
    }
    return o;
}

/* ---- the call ---- */

/* With a socket nothing else may be said: names what is. */
static int aiol_opening_check_sock(aioloop *loop, const aioloop_datagram_endpoint_options *o) {
    const struct {
        bool given;
        const char *name;
    } others[] = {{o->local_host != NULL, "local_host"},         {o->local_port != 0, "local_port"},
                  {o->remote_host != NULL, "remote_host"},       {o->remote_port != 0, "remote_port"},
                  {o->remote_service != NULL, "remote_service"}, {o->local_path != NULL, "local_path"},
                  {o->local_path_size != 0, "local_path_size"},  {o->remote_path != NULL, "remote_path"},
                  {o->remote_path_size != 0, "remote_path_size"}, {o->family != 0, "family"},
                  {o->protocol != 0, "protocol"},                {o->flags != 0, "flags"},
                  {o->reuse_port, "reuse_port"},                 {o->allow_broadcast, "allow_broadcast"}};
    char text[AIOL_ERROR_TEXT_SIZE];
    size_t length = 0;
    size_t i;
    for (i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        const char *between = length == 0 ? "" : ", ";
        if (others[i].given)
            length += (size_t)snprintf(text + length, sizeof(text) - length, "%s%s", between, others[i].name);
    }
    return length == 0 ? 0 : aiol_fail(loop, AIOLOOP_EINVAL, "a socket excludes %s", text);
}

static int aiol_opening_check(aioloop *loop, const aioloop_datagram_endpoint_options *o) {
    bool hosts = o->local_host != NULL || o->local_port != 0 || o->remote_host != NULL;
    bool paths = o->local_path != NULL || o->remote_path != NULL;
    if (o->timeout < 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a time-out must be positive");
    if (o->sock != NULL)
        return aiol_opening_check_sock(loop, o);
    if (o->family != AIOLOOP_UNSPEC && o->family != AIOLOOP_INET && o->family != AIOLOOP_INET6 &&
        o->family != AIOLOOP_UNIX)
        return aiol_fail(loop, AIOLOOP_EINVAL, "%d is not an address family", o->family);
    if (o->remote_service != NULL && o->remote_port != 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a service excludes a port");
    if ((o->remote_host == NULL) != (o->remote_service == NULL && o->remote_port == 0))
        return aiol_fail(loop, AIOLOOP_EINVAL, "a remote address is a host and a port");
    if ((o->local_path == NULL && o->local_path_size != 0) || (o->remote_path == NULL && o->remote_path_size != 0))
        return aiol_fail(loop, AIOLOOP_EINVAL, "the size of a path without a path");
    if (hosts && (paths || o->family == AIOLOOP_UNIX))
        return aiol_fail(loop, AIOLOOP_EINVAL, "Unix sockets have paths, and neither host nor port");
    if (paths && o->family != AIOLOOP_UNSPEC && o->family != AIOLOOP_UNIX)
        return aiol_fail(loop, AIOLOOP_EINVAL, "only Unix sockets have paths");
    if (!hosts && !paths && o->family == AIOLOOP_UNSPEC)
        return aiol_fail(loop, AIOLOOP_EINVAL, "a local or remote address, a family or a socket is needed");
    return 0;
}

/* Makes an address of a path, if there is one: 1, 0, or a code with its message stored. */
static int aiol_opening_path(aioloop *loop, aioloop_address *address, const char *path, size_t size) {
    int err = path == NULL ? 0 : aioloop_address_unix(address, path, size);
    return err < 0 ? aiol_fail(loop, err, "not a path of a Unix socket") : path != NULL;
}

/* Without hosts: Unix sockets, or a family alone. */
static int aiol_opening_at_once(aiol_opening *o, const aioloop_datagram_endpoint_options *options) {
    aioloop *loop = o->resource.loop;
    aioloop_address local;
    aioloop_address remote;
    aiol_pair pair;
    int has_local = aiol_opening_path(loop, &local, options->local_path, options->local_path_size);
    int has_remote;
    int err;
    if (has_local < 0)
        return has_local;
    has_remote = aiol_opening_path(loop, &remote, options->remote_path, options->remote_path_size);
    if (has_remote < 0)
        return has_remote;
    if (has_remote != 0) {
        memcpy(o->remote_path, remote.u.path, remote.path_size);
        remote.u.path = o->remote_path;
    }
    pair.family = has_local != 0 || has_remote != 0 ? (int)AIOLOOP_UNIX : o->family;
    pair.protocol = o->protocol_number;
    pair.local = has_local != 0 ? &local : NULL;
    pair.remote = has_remote != 0 ? &remote : NULL;
    err = aiol_opening_try(o, &pair);
    if (err == 0)
        aiol_opening_continue(o);
    return err;
}

/* Looks up what has to be. 0, or a code with its message stored. */
static int aiol_opening_look_up(aiol_opening *o, const aioloop_datagram_endpoint_options *options) {
    aioloop *loop = o->resource.loop;
    aioloop_getaddrinfo_options hints;
    int err = 0;
    memset(&hints, 0, sizeof(hints));
    hints.family = options->family;
    hints.type = AIOLOOP_SOCK_DGRAM;
    hints.protocol = options->protocol;
    hints.flags = options->flags;
    o->has_local = options->local_host != NULL || options->local_port != 0;
    o->has_remote = options->remote_host != NULL;
    if (o->has_local) {
        err = aiol_host_look_up(loop, &o->local, options->local_host, NULL, options->local_port, &hints, true);
        o->lookups += err == AIOL_PENDING;
    }
    if (o->has_remote && (err >= 0 || err == AIOL_PENDING)) {
        err = aiol_host_look_up(loop, &o->remote, options->remote_host, options->remote_service, options->remote_port,
                                &hints, false);
        o->lookups += err == AIOL_PENDING;
    }
    if (err < 0 && err != AIOL_PENDING)
        return err;
    if (o->lookups == 0)
        aiol_opening_begin(o);
    return 0;
}

static int aiol_opening_take(aiol_opening *o, aioloop_socket s) {
    o->socket = s;
    o->attached = true;
    aiol_opening_continue(o);
    return 0;
}

AIOLOOP_API aioloop_future *(aioloop_create_datagram_endpoint)(
    aioloop *loop, const aioloop_protocol *protocol, void *arg, const aioloop_datagram_endpoint_options *options) {
    static const aioloop_datagram_endpoint_options defaults = AIOLOOP_ZERO;
    aioloop_future *refused = aiol_refuse(loop, protocol);
    aioloop_future *f;
    aiol_opening *o;
    int err;
    if (refused != NULL)
        return refused;
    if (options == NULL)
        options = &defaults;
    err = aiol_opening_check(loop, options);
    if (err == 0 && options->sock != NULL)
        err = aiol_given_socket(loop, *options->sock, AIOLOOP_SOCK_DGRAM, false);
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    o = aiol_opening_new(loop, protocol, arg, options);
    if (o == NULL) {
        if (options->sock != NULL)
            aiol_given_socket_close(loop, *options->sock); /* it was taken over */
        return aiol_future_failed(AIOLOOP_ENOMEM);
    }
    f = o->future; /* the opening may be gone after this */
    if (options->sock != NULL)
        err = aiol_opening_take(o, *options->sock);
    else if (options->local_host != NULL || options->local_port != 0 || options->remote_host != NULL)
        err = aiol_opening_look_up(o, options);
    else
        err = aiol_opening_at_once(o, options);
    if (err < 0)
        aiol_opening_fail(o, err);
    return f;
}

#endif
