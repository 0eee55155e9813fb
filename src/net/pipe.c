/*
 * pipe.c - transports that go one way: pipes, and what can be used like them.
 *                                     (asyncio: unix_events._UnixReadPipeTransport, _UnixWritePipeTransport)
 *
 * Streams of which only one half is used. A transport that reads has t->recv to read, as a connection. In one that
 * writes t->recv watches for the end of the reader: a POLL, since a pipe without a reader counts as readable, or, of a
 * socket, a RECV.
 */
#ifndef AIOL_NET_PIPE_C
#define AIOL_NET_PIPE_C

#include "api/pipe.h"
#include "net/socket.c"

/* A call whose transport has not begun yet. */
typedef struct aiol_pipe_opening {
    aiol_resource resource;
    aiol_node node;
    aioloop_future *future;       /* NULL: it was cancelled */
    aioloop_transport *transport; /* NULL: it begins, or is gone */
    void *arg;
} aiol_pipe_opening;

/* ---- what one half does not have ---- */

static int aiol_pipe_no_write(aioloop_transport *t, const void *data, size_t size) {
    (void)data;
    (void)size;
    return aiol_fail(t->resource.loop, AIOLOOP_ENOTAVAILABLE, "a read pipe transport cannot write");
}

static int aiol_pipe_no_write_pieces(aioloop_transport *t, const aioloop_buf *pieces, size_t count, aiol_release_fn release,
                                     void *arg) {
    (void)pieces;
    (void)count;
    (void)release;
    (void)arg;
    return aiol_pipe_no_write(t, NULL, 0);
}

static int aiol_pipe_no_write_eof(aioloop_transport *t) {
    return aiol_pipe_no_write(t, NULL, 0);
}

static void aiol_pipe_no_reading(aioloop_transport *t) {
    t->flags |= AIOL_TRANSPORT_READ_PAUSED;
}

/* ---- writing ---- */

/* Nobody reads any more. */
static void aiol_pipe_reader_left(aioloop_transport *t) {
    bool waits = t->writer != NULL && t->writer->bytes.size != 0;
    aiol_stream_end(t, waits || t->file != NULL ? AIOLOOP_EPIPE : 0);
}

/* The done() of what watches for it. */
static size_t aiol_pipe_watched(aiol_op *op, int64_t n, const void *data) {
    aioloop_transport *t = AIOL_CONTAINER(op, aioloop_transport, recv);
    (void)data;
    if (t->state != AIOL_TRANSPORT_OPEN)
        aiol_stream_doom_if_over(t);
    else if (op->kind == AIOL_OP_POLL && n < 0)
        aiol_stream_end(t, (int)n);
    else if (op->kind == AIOL_OP_POLL || n <= 0)
        aiol_pipe_reader_left(t);
    aiol_callback_end(t->resource.loop);
    return n > 0 && op->kind == AIOL_OP_RECV ? (size_t)n : 0;
}

static int aiol_pipe_write_eof(aioloop_transport *t) {
    aioloop_transport_close(t);
    return 0;
}

static void aiol_pipe_keep_protocol(aioloop_transport *t) {
    (void)t; /* it is not given anything */
}

static const aiol_transport_calls aiol_pipe_read_calls = {
    aiol_pipe_no_write, aiol_pipe_no_write_pieces, aiol_pipe_no_write_eof,    false,
    aiol_stream_close,  aiol_stream_end,           aiol_stream_pause_reading, aiol_stream_start_reading,
    aiol_stream_protocol_changed, NULL, aiol_stream_file_ended, NULL, NULL, NULL, NULL,
};

static const aiol_transport_calls aiol_pipe_write_calls = {
    aiol_stream_write, aiol_stream_write_pieces, aiol_pipe_write_eof,  true,
    aiol_stream_close, aiol_stream_end,          aiol_pipe_no_reading, aiol_pipe_no_reading,
    aiol_pipe_keep_protocol, aiol_stream_send_file, aiol_stream_file_ended, NULL, NULL, NULL, NULL,
};

/* ---- making ---- */

/* A transport that has not begun, for a descriptor that does not wait. On failure that is still the caller's. */
static int aiol_pipe_new(const aiol_stream_setup *setup, const aiol_pipe_kind *kind, bool writes, aioloop_transport **out) {
    aiol_stream_setup own = *setup;
    aioloop_transport *t = NULL;
    int err;
    own.owner = kind->socket ? AIOL_OWNER_TRANSPORT : kind->device ? AIOL_OWNER_DEVICE : AIOL_OWNER_PIPE;
    err = aiol_stream_new(&own, &t);
    if (err < 0)
        return err;
    t->calls = writes ? &aiol_pipe_write_calls : &aiol_pipe_read_calls;
    t->flags |= AIOL_TRANSPORT_PIPE;
    t->recv.u.recv.pipe = !kind->socket;
    if (writes) {
        t->flags |= AIOL_TRANSPORT_READ_PAUSED;
        t->recv.u.recv.dest = NULL;
        t->recv.done = aiol_pipe_watched;
        if (!kind->socket) {
            t->recv.kind = AIOL_OP_POLL;
            /* One that cannot lose its reader, or does not say so, is not watched. */
            t->recv.u.poll.events = kind->one_way ? AIOL_POLL_READABLE : 0;
        }
    }
    *out = t;
    return 0;
}

/* As aiol_stream_begin. */
static int aiol_pipe_begin(aioloop_transport *t, void *arg) {
    int err = aiol_stream_begin(t, arg);
    int64_t n;
    if (err < 0 || t->calls != &aiol_pipe_write_calls || t->state != AIOL_TRANSPORT_OPEN ||
        (t->recv.kind == AIOL_OP_POLL && t->recv.u.poll.events == 0))
        return err;
    n = aiol_op_submit(t->resource.loop->engine, &t->recv);
    if (n != AIOL_PENDING)
        aiol_stream_end(t, n < 0 ? (int)n : 0);
    return 0;
}

/* ---- the calls ---- */

static void aiol_pipe_opening_free(aiol_pipe_opening *o) {
    aioloop *loop = o->resource.loop;
    aiol_resource_remove(&o->resource);
    aiol_free(&loop->allocator, o, sizeof(*o));
}

/* Its node is in the ready queue, or it begins: whoever runs it frees it. */
static bool aiol_pipe_opening_cancel(aioloop_future *future, void *owner) {
    aiol_pipe_opening *o = (aiol_pipe_opening *)owner;
    aioloop_transport *t;
    if (o == NULL)
        return true; /* of a closed loop */
    t = o->transport;
    o->transport = NULL;
    o->future = NULL;
    future->of.owner = NULL;
    aiol_future_release(future);
    if (t != NULL)
        aiol_stream_drop(t);
    return true;
}

static void aiol_pipe_opening_run(aioloop *loop, aiol_node *node) {
    aiol_pipe_opening *o = AIOL_CONTAINER(node, aiol_pipe_opening, node);
    aioloop_transport *t = o->transport;
    int err;
    if (t == NULL) {
        aiol_pipe_opening_free(o);
        return;
    }
    o->transport = NULL;
    aioloop_transport_ref(t);
    err = aiol_pipe_begin(t, o->arg);
    if (o->future == NULL) { /* cancelled meanwhile */
        aioloop_transport_abort(t);
        aioloop_transport_unref(t);
    } else {
        aioloop_future *f = o->future;
        o->future = NULL;
        f->of.owner = NULL;
        if (err == 0)
            aiol_future_finish(f, 0, t, aiol_transport_dispose); /* with the reference taken above */
        else
            aiol_future_fail(f, err, aiol_detail(loop, err));
        if (err < 0)
            aioloop_transport_unref(t);
        aiol_future_release(f);
    }
    aiol_pipe_opening_free(o);
    aiol_callback_end(loop);
}

static void aiol_pipe_opening_closed(aiol_resource *resource) {
    aiol_pipe_opening *o = AIOL_CONTAINER(resource, aiol_pipe_opening, resource);
    if (o->future != NULL)
        o->future->of.owner = NULL; /* it stays pending; the transport goes by itself */
}

static void aiol_pipe_opening_destroy(aiol_resource *resource) {
    aiol_pipe_opening_free(AIOL_CONTAINER(resource, aiol_pipe_opening, resource));
}

static const aiol_resource_calls aiol_pipe_opening_resource = {"pipe", aiol_pipe_opening_closed, aiol_pipe_opening_destroy,
                                                               aiol_combine_is_open};

/* Checks the descriptor, makes the transport, and takes the descriptor over last. */
static int aiol_pipe_take(const aiol_stream_setup *setup, bool writes, aioloop_transport **out) {
    aioloop *loop = setup->loop;
    aiol_engine *e = loop->engine;
    aiol_pipe_kind kind = AIOLOOP_ZERO;
    aioloop_transport *t = NULL;
    bool restore = false;
    long number = (long)setup->socket;
    int err = e->sockets->pipe_inspect(e, setup->socket, writes, &kind);
    if (err == AIOLOOP_EINVAL)
        return aiol_fail(loop, err, "descriptor %ld is no pipe, stream socket or character device", number);
    if (err < 0)
        return aiol_fail(loop, err, err == AIOLOOP_EBADF ? "descriptor %ld is not open, or not for this direction" : "descriptor %ld", number);
    err = aiol_pipe_new(setup, &kind, writes, &t);
    if (err < 0)
        return aiol_fail(loop, err, err == AIOLOOP_EMISUSE ? "descriptor %ld belongs to a transport, or is watched" : "descriptor %ld: %s",
                         number, aioloop_strerror(err));
    err = e->sockets->pipe_adopt(e, setup->socket, &restore);
    if (err < 0) {
        e->calls->quiesce(e, t->recv.fd);
        t->recv.fd = AIOL_NO_SOCKET;
        aioloop_transport_unref(t);
        return aiol_fail(loop, err, "descriptor %ld: %s", number, aioloop_strerror(err));
    }
    if (restore)
        t->flags |= AIOL_TRANSPORT_RESTORE;
    *out = t;
    return 0;
}

static aioloop_future *aiol_pipe_connect(aioloop *loop, const aioloop_protocol *protocol, void *arg, aioloop_socket pipe,
                                         bool writes) {
    aioloop_future *refused = aiol_refuse(loop, protocol);
    aiol_pipe_opening *o;
    aiol_stream_setup setup;
    int err;
    if (refused != NULL)
        return refused;
    o = (aiol_pipe_opening *)aiol_alloc_zero(&loop->allocator, sizeof(*o));
    if (o == NULL)
        return aiol_future_failed(AIOLOOP_ENOMEM);
    o->arg = arg;
    o->node.run = aiol_pipe_opening_run;
    o->future = aiol_future_new(loop, aiol_pipe_opening_cancel, o);
    if (o->future == NULL) {
        aiol_free(&loop->allocator, o, sizeof(*o));
        return aiol_future_failed(AIOLOOP_ENOMEM);
    }
    memset(&setup, 0, sizeof(setup));
    setup.loop = loop;
    setup.protocol = protocol;
    setup.arg = arg;
    setup.context = aiol_thread.map;
    setup.socket = pipe;
    setup.site = o->future->site;
    err = aiol_pipe_take(&setup, writes, &o->transport);
    o->resource.site = setup.site;
    aiol_resource_add(loop, &o->resource, &aiol_pipe_opening_resource);
    if (err < 0) {
        aioloop_future *f = o->future;
        aiol_pipe_opening_free(o);
        f->of.owner = NULL;
        aiol_future_fail(f, err, aiol_detail(loop, err));
        aiol_future_release(f);
        return f;
    }
    aiol_queue_push(&loop->ready, &o->node);
    return o->future;
}

AIOLOOP_API aioloop_future *(aioloop_connect_read_pipe)(aioloop *loop, const aioloop_protocol *protocol, void *arg,
                                                        aioloop_socket pipe) {
    return aiol_pipe_connect(loop, protocol, arg, pipe, false);
}

AIOLOOP_API aioloop_future *(aioloop_connect_write_pipe)(aioloop *loop, const aioloop_protocol *protocol, void *arg,
                                                         aioloop_socket pipe) {
    return aiol_pipe_connect(loop, protocol, arg, pipe, true);
}

#endif
