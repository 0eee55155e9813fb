/*
 * transport.c - what all transports have in common.                       (asyncio: transports.py)
 */
#ifndef AIOL_NET_TRANSPORT_C
#define AIOL_NET_TRANSPORT_C

#include "core/watch.c"
#include "net/net.h"

#define AIOL_HIGH_WATER 65536u
#define AIOL_WRITERS_KEPT 64
#define AIOL_WRITES_DROPPED_WARNING 5

/* ---- reporting ---- */

AIOLOOP_INTERNAL AIOL_NOINLINE void aiol_transport_report(aioloop_transport *t, int code, const char *message) {
    aioloop_exception_context context;
    aiol_context_frame frame;
    memset(&context, 0, sizeof(context));
    context.message = message;
    context.transport = t;
    context.protocol = t->protocol;
    frame = aiol_context_enter(&t->resource.context);
    aiol_report(t->resource.loop, code, t->resource.site, &context);
    aiol_context_leave(&frame);
}

/* ---- calling the protocol ---- */

typedef struct aiol_transport_frame {
    aiol_frame frame;
    aioloop_time since; /* in debug mode; else 0 */
} aiol_transport_frame;

AIOL_INLINE aiol_transport_frame aiol_transport_enter(aioloop_transport *t) {
    aioloop *loop = t->resource.loop;
    aiol_transport_frame frame;
    frame.frame = aiol_enter(loop, &t->resource.context);
    frame.since = AIOL_UNLIKELY(loop->debug) ? aiol_loop_now(loop) : 0;
    return frame;
}

/* What the method raised, or 0. */
AIOL_INLINE int aiol_transport_leave(aioloop_transport *t, const aiol_transport_frame *frame, const char *method) {
    aioloop *loop = t->resource.loop;
    if (AIOL_UNLIKELY(frame->since != 0))
        aiol_slow(loop, t->resource.site, frame->since, method);
    return aiol_leave(loop, &frame->frame);
}

/* Calls the factory. 0, or its error. */
AIOLOOP_INTERNAL int aiol_transport_call_factory(aioloop_transport *t, void *arg) {
    aioloop *loop = t->resource.loop;
    aiol_transport_frame frame;
    int raised;
    int err;
    if (t->protocol->factory == NULL)
        return 0;
    frame = aiol_transport_enter(t);
    aiol_error_clear(&loop->error);
    err = t->protocol->factory(t->self, arg);
    raised = aiol_transport_leave(t, &frame, "factory");
    if (err >= 0)
        err = raised < 0 ? raised : 0;
    if (err == AIOLOOP_EFATAL)
        aiol_loop_halt(loop);
    return err;
}

/* Calls connection_made, whose failure is reported. */
AIOLOOP_INTERNAL void aiol_transport_call_made(aioloop_transport *t) {
    aiol_transport_frame frame;
    int raised;
    if (t->protocol->connection_made == NULL)
        return;
    frame = aiol_transport_enter(t);
    t->protocol->connection_made(t, t->self);
    raised = aiol_transport_leave(t, &frame, "connection_made");
    if (AIOL_UNLIKELY(raised != 0))
        aiol_transport_report(t, raised, "Error in connection_made");
}

/* ---- writers ---- */

/* NULL when there is no memory. */
AIOLOOP_INTERNAL aiol_writer *aiol_writer_get(aioloop_transport *t) {
    aioloop *loop = t->resource.loop;
    aiol_link *spare = loop->spare_writers;
    aiol_writer *w;
    if (spare != NULL) {
        w = AIOL_CONTAINER(spare, aiol_writer, unsent);
        loop->spare_writers = spare->next;
        loop->spare_writer_count--;
    } else {
        w = (aiol_writer *)aiol_alloc(&loop->allocator, sizeof(*w));
        if (w == NULL)
            return NULL;
    }
    memset(w, 0, offsetof(aiol_writer, pieces));
    w->bytes.own = &w->own.chunk;
    w->bytes.stock = &loop->spare_chunks;
    w->transport = t;
    t->writer = w;
    return w;
}

static void aiol_writer_free(aioloop *loop, aiol_writer *w) {
    aiol_free(&loop->allocator, w, sizeof(*w));
}

/* The transport has nothing more to send. */
AIOLOOP_INTERNAL void aiol_writer_put(aioloop_transport *t) {
    aioloop *loop = t->resource.loop;
    aiol_writer *w = t->writer;
    AIOL_ASSERT(w->bytes.head == NULL && w->bytes.done == NULL && w->unsent.next == NULL && w->op.state == AIOL_OP_IDLE);
    t->writer = NULL;
    if (loop->spare_writer_count >= AIOL_WRITERS_KEPT) {
        aiol_writer_free(loop, w);
        return;
    }
    w->unsent.next = loop->spare_writers;
    loop->spare_writers = &w->unsent;
    loop->spare_writer_count++;
}

/* The loop is freed. */
AIOLOOP_INTERNAL void aiol_writer_free_spare(aioloop *loop) {
    while (loop->spare_writers != NULL) {
        aiol_writer *w = AIOL_CONTAINER(loop->spare_writers, aiol_writer, unsent);
        loop->spare_writers = w->unsent.next;
        aiol_writer_free(loop, w);
    }
    aiol_chunk_stock_free(&loop->spare_chunks, &loop->allocator);
    aiol_free(&loop->allocator, loop->tls_buffer, AIOL_TLS_RECORD);
    loop->tls_buffer = NULL;
}

/* ---- whose it is ---- */

/* Somebody else writes: a file is being sent, or TLS has it. Nothing may come in between. (What is written after the end
 * is dropped, as ever.) */
AIOL_INLINE bool aiol_transport_taken(const aioloop_transport *t) {
    return t->file != NULL || ((t->flags & AIOL_TRANSPORT_BELOW) != 0 && t->state == AIOL_TRANSPORT_OPEN);
}

static AIOL_NOINLINE int aiol_transport_busy(const aioloop_transport *t) {
    return aiol_fail(t->resource.loop, AIOLOOP_EMISUSE, t->file != NULL ? "unable to write: a file is being sent"
                                                                        : "the connection is TLS's now: its new transport is written to, once start_tls has given it");
}

/* ---- flow control ---- */

/* What an ending connection still has is dropped, be it that the engine holds it a little longer. */
AIOLOOP_INTERNAL size_t aiol_transport_buffered(const aioloop_transport *t) {
    if (t->calls->buffered != NULL)
        return t->calls->buffered(t);
    return t->writer == NULL || t->state >= AIOL_TRANSPORT_ENDING ? 0 : t->writer->bytes.size;
}

static void aiol_transport_flow(aioloop_transport *t, void (*method)(aioloop_transport *, void *), const char *message) {
    const char *name = (t->flags & AIOL_TRANSPORT_WRITE_PAUSED) != 0 ? "pause_writing" : "resume_writing";
    aiol_transport_frame frame;
    int raised;
    if (AIOL_UNLIKELY(t->file != NULL || (t->flags & AIOL_TRANSPORT_FLOW_HELD) != 0)) { /* it is told when the file is sent */
        t->flags ^= AIOL_TRANSPORT_FLOW_HELD;
        if (t->file != NULL)
            aiol_sendfile_flow(t->file);
        return;
    }
    if (method == NULL)
        return;
    frame = aiol_transport_enter(t);
    method(t, t->self);
    raised = aiol_transport_leave(t, &frame, name);
    if (AIOL_UNLIKELY(raised != 0))
        aiol_transport_report(t, raised, message);
}

AIOLOOP_INTERNAL void aiol_transport_maybe_pause(aioloop_transport *t) {
    if (aiol_transport_buffered(t) <= t->high || (t->flags & AIOL_TRANSPORT_WRITE_PAUSED) != 0)
        return;
    t->flags |= AIOL_TRANSPORT_WRITE_PAUSED;
    aiol_transport_flow(t, t->protocol->pause_writing, "Error in pause_writing");
}

AIOLOOP_INTERNAL void aiol_transport_maybe_resume(aioloop_transport *t) {
    if (aiol_transport_buffered(t) > t->low || (t->flags & AIOL_TRANSPORT_WRITE_PAUSED) == 0)
        return;
    t->flags &= (uint16_t)~AIOL_TRANSPORT_WRITE_PAUSED;
    aiol_transport_flow(t, t->protocol->resume_writing, "Error in resume_writing");
}

/* What the protocol was not told while a file was sent. User code. */
static void aiol_transport_tell_flow(aioloop_transport *t) {
    if (t->file != NULL || (t->flags & AIOL_TRANSPORT_FLOW_HELD) == 0 || t->state > AIOL_TRANSPORT_CLOSING)
        return;
    t->flags &= (uint16_t)~AIOL_TRANSPORT_FLOW_HELD;
    if ((t->flags & AIOL_TRANSPORT_WRITE_PAUSED) != 0)
        aiol_transport_flow(t, t->protocol->pause_writing, "Error in pause_writing");
    else
        aiol_transport_flow(t, t->protocol->resume_writing, "Error in resume_writing");
}

AIOLOOP_API int aioloop_transport_set_write_buffer_limits(aioloop_transport *transport, int64_t high, int64_t low) {
    if (transport == NULL || high < -1 || low < -1)
        return AIOLOOP_EINVAL;
    if (high == -1)
        high = low == -1 ? (int64_t)AIOL_HIGH_WATER : low > INT64_MAX / 4 ? INT64_MAX : 4 * low;
    if (low == -1)
        low = high / 4;
    if (low > high)
        return AIOLOOP_EINVAL;
    if ((transport->flags & AIOL_TRANSPORT_BELOW) != 0)
        return aiol_transport_busy(transport);
    transport->high = (uint64_t)high > SIZE_MAX ? SIZE_MAX : (size_t)high;
    transport->low = (uint64_t)low > SIZE_MAX ? SIZE_MAX : (size_t)low;
    if (transport->calls->limits_changed != NULL)
        transport->calls->limits_changed(transport);
    aiol_transport_maybe_pause(transport);
    return 0;
}

AIOLOOP_API void aioloop_transport_get_write_buffer_limits(const aioloop_transport *transport, size_t *low, size_t *high) {
    if (transport == NULL)
        return;
    if (low != NULL)
        *low = transport->low;
    if (high != NULL)
        *high = transport->high;
}

AIOLOOP_API size_t aioloop_transport_get_write_buffer_size(const aioloop_transport *transport) {
    return transport == NULL ? 0 : aiol_transport_buffered(transport);
}

/* ---- owners ---- */

AIOLOOP_API aioloop_transport *aioloop_transport_ref(aioloop_transport *transport) {
    if (transport != NULL)
        transport->resource.refs++;
    return transport;
}

static void aiol_transport_destroy(aioloop_transport *t) {
    aioloop *loop = t->resource.loop;
    aiol_resource_remove(&t->resource);
    if (t->writer != NULL)
        aiol_writer_free(loop, t->writer);
    aiol_free(&loop->allocator, t, t->block_size);
}

AIOLOOP_API void aioloop_transport_unref(aioloop_transport *transport) {
    if (transport == NULL)
        return;
    AIOL_ASSERT(transport->resource.refs != 0);
    if (--transport->resource.refs != 0)
        return;
    if (transport->calls->gone != NULL)
        transport->calls->gone(transport);
    transport->resource.calls->destroy(&transport->resource);
}

/* As a future's dispose. */
static void aiol_transport_dispose(void *pointer) {
    aioloop_transport_unref((aioloop_transport *)pointer);
}

/* ---- the public face ---- */

AIOLOOP_API aioloop *aioloop_transport_get_loop(const aioloop_transport *transport) {
    return transport == NULL ? NULL : transport->resource.loop;
}

/* A write that comes too late: dropped, and said once. */
static int aiol_transport_dropped(aioloop_transport *t) {
    if (t->dropped < AIOL_WRITES_DROPPED_WARNING && ++t->dropped == AIOL_WRITES_DROPPED_WARNING)
        aiol_warn(t->resource.loop, t->resource.site, "writing to a transport that is closed");
    return 0;
}

AIOLOOP_API int aioloop_transport_write(aioloop_transport *transport, const void *data, size_t size) {
    if (transport == NULL || (data == NULL && size != 0))
        return AIOLOOP_EINVAL;
    if (AIOL_UNLIKELY(aiol_transport_taken(transport)))
        return aiol_transport_busy(transport);
    return transport->calls->write(transport, data, size);
}

AIOLOOP_API int aioloop_transport_writelines(aioloop_transport *transport, const aioloop_buf *pieces, size_t count) {
    size_t i;
    if (transport == NULL || (pieces == NULL && count != 0))
        return AIOLOOP_EINVAL;
    for (i = 0; i < count; i++)
        if (pieces[i].data == NULL && pieces[i].size != 0)
            return AIOLOOP_EINVAL;
    if (aiol_transport_taken(transport))
        return aiol_transport_busy(transport);
    return count == 0 ? 0 : transport->calls->write_pieces(transport, pieces, count, NULL, NULL);
}

AIOLOOP_API int aioloop_transport_write_owned(aioloop_transport *transport, const void *data, size_t size,
                                              void (*release)(const void *data, size_t size, void *arg), void *arg) {
    aioloop_buf piece;
    if (transport == NULL || data == NULL || release == NULL)
        return AIOLOOP_EINVAL;
    if (aiol_transport_taken(transport))
        return aiol_transport_busy(transport);
    piece.data = data;
    piece.size = size;
    return transport->calls->write_pieces(transport, &piece, 1, release, arg);
}

AIOLOOP_API int aioloop_transport_write_eof(aioloop_transport *transport) {
    if (transport == NULL)
        return AIOLOOP_EINVAL;
    return aiol_transport_taken(transport) ? aiol_transport_busy(transport) : transport->calls->write_eof(transport);
}

AIOLOOP_API bool aioloop_transport_can_write_eof(const aioloop_transport *transport) {
    return transport != NULL && transport->calls->can_write_eof;
}

AIOLOOP_API bool aioloop_transport_is_closing(const aioloop_transport *transport) {
    return transport == NULL || transport->state > AIOL_TRANSPORT_OPEN;
}

AIOLOOP_INTERNAL void aiol_transport_pause_reading(aioloop_transport *t) {
    if (t->state > AIOL_TRANSPORT_OPEN)
        return;
    if (t->file != NULL)
        t->flags |= AIOL_TRANSPORT_READ_HELD;
    if ((t->flags & AIOL_TRANSPORT_READ_PAUSED) != 0)
        return;
    t->flags |= AIOL_TRANSPORT_READ_PAUSED;
    t->calls->pause_reading(t);
}

AIOLOOP_INTERNAL void aiol_transport_resume_reading(aioloop_transport *t) {
    if (t->state > AIOL_TRANSPORT_OPEN || (t->flags & AIOL_TRANSPORT_READ_PAUSED) == 0)
        return;
    if (t->file != NULL) {
        t->flags &= (uint16_t)~AIOL_TRANSPORT_READ_HELD;
        return;
    }
    t->flags &= (uint16_t)~AIOL_TRANSPORT_READ_PAUSED;
    t->calls->resume_reading(t);
}

AIOLOOP_API void aioloop_transport_pause_reading(aioloop_transport *transport) {
    if (transport != NULL && (transport->flags & AIOL_TRANSPORT_BELOW) == 0)
        aiol_transport_pause_reading(transport);
}

AIOLOOP_API void aioloop_transport_resume_reading(aioloop_transport *transport) {
    if (transport != NULL && (transport->flags & AIOL_TRANSPORT_BELOW) == 0)
        aiol_transport_resume_reading(transport);
}

AIOLOOP_API bool aioloop_transport_is_reading(const aioloop_transport *transport) {
    return !aioloop_transport_is_closing(transport) && (transport->flags & AIOL_TRANSPORT_READ_PAUSED) == 0;
}

AIOLOOP_API void aioloop_transport_close(aioloop_transport *transport) {
    if (transport == NULL || transport->state >= AIOL_TRANSPORT_CLOSING || transport->resource.loop->closed)
        return;
    transport->calls->close(transport);
    if (transport->file != NULL)
        aiol_sendfile_give_up(transport, 0);
}

AIOLOOP_API void aioloop_transport_abort(aioloop_transport *transport) {
    if (transport == NULL || transport->state >= AIOL_TRANSPORT_ENDING || transport->resource.loop->closed)
        return;
    transport->calls->abort(transport, 0);
    if (transport->file != NULL)
        aiol_sendfile_give_up(transport, 0);
}

AIOLOOP_API int aioloop_transport_set_protocol(aioloop_transport *transport, const aioloop_protocol *protocol, void *self) {
    if (transport == NULL || protocol == NULL)
        return AIOLOOP_EINVAL;
    if ((transport->flags & AIOL_TRANSPORT_BELOW) != 0)
        return aiol_transport_busy(transport);
    transport->protocol = protocol;
    transport->self = self;
    transport->calls->protocol_changed(transport);
    return 0;
}

AIOLOOP_API const aioloop_protocol *aioloop_transport_get_protocol(const aioloop_transport *transport, void **self) {
    if (transport == NULL)
        return NULL;
    if (self != NULL)
        *self = transport->self;
    return transport->protocol;
}

AIOLOOP_API const void *aioloop_transport_get_extra_info(const aioloop_transport *transport, const char *name,
                                                         const void *fallback) {
    const void *found = transport == NULL || name == NULL || transport->calls->info == NULL ? NULL : transport->calls->info(transport, name);
    if (transport == NULL || name == NULL)
        return fallback;
    if (found != NULL)
        return found;
    if (strcmp(name, "peername") == 0)
        return transport->peer.family != AIOLOOP_UNSPEC ? &transport->peer : fallback;
    if (strcmp(name, "sockname") == 0)
        return transport->local.family != AIOLOOP_UNSPEC ? &transport->local : fallback;
    if (strcmp(name, (transport->flags & AIOL_TRANSPORT_PIPE) != 0 ? "pipe" : "socket") == 0)
        return transport->recv.fd != AIOL_NO_SOCKET ? &transport->recv.fd : fallback;
    return fallback;
}

#endif
