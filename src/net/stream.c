/*
 * stream.c - connections: bytes in order, both ways.    (asyncio: selector_events._SelectorSocketTransport)
 *
 * Reading is one source (t->recv) for the life of the connection. Writing tries the socket at once when nothing waits;
 * what it does not take is queued in a writer, and one send at a time works the queue off. Further writes in the same
 * callback are queued without trying and go out together when the callback ends.
 *
 * The end: aiol_stream_end cancels both operations; when the engine has given both back, the doom node is queued; it
 * calls connection_lost, closes the socket and drops the loop's reference. So nothing is called from inside close or
 * abort, the engine never has an operation of a transport that is gone, and ending needs no memory.
 */
#ifndef AIOL_NET_STREAM_C
#define AIOL_NET_STREAM_C

#include "net/transport.c"

static void aiol_stream_end(aioloop_transport *t, int error);

/* ---- ending ---- */

static void aiol_stream_close_socket(aioloop_transport *t) {
    aiol_engine *e = t->resource.loop->engine;
    aioloop_socket s = t->recv.fd;
    if (s == AIOL_NO_SOCKET)
        return;
    t->recv.fd = AIOL_NO_SOCKET;
    e->calls->quiesce(e, s);
    if ((t->flags & AIOL_TRANSPORT_RESTORE) != 0)
        e->sockets->pipe_restore(e, s);
    e->sockets->close(e, s);
}

/* Gives lent memory back to its owners. User code, which may even make the writer go (by a write that fails). */
static void aiol_stream_release(aioloop_transport *t) {
    aioloop *loop = t->resource.loop;
    while (t->writer != NULL && t->writer->bytes.done != NULL) {
        aiol_frame frame = aiol_enter(loop, &t->resource.context);
        int raised;
        aiol_bytes_release_first(&t->writer->bytes, &loop->allocator);
        raised = aiol_leave(loop, &frame);
        if (AIOL_UNLIKELY(raised != 0))
            aiol_transport_report(t, raised, "Error in release");
    }
}

static void aiol_stream_lost(aioloop *loop, aiol_node *node) {
    aioloop_transport *t = AIOL_CONTAINER(node, aioloop_transport, doom);
    aioloop_server *server = t->server;
    t->state = AIOL_TRANSPORT_LOST;
    if (t->protocol->connection_lost != NULL) {
        aiol_transport_frame frame = aiol_transport_enter(t);
        int raised;
        if (t->error != 0)
            aiol_fail(loop, t->error, NULL); /* not the message of another call that failed with that code */
        t->protocol->connection_lost(t, t->self, t->error);
        raised = aiol_transport_leave(t, &frame, "connection_lost");
        if (AIOL_UNLIKELY(raised != 0))
            aiol_transport_report(t, raised, "Error in connection_lost");
    }
    if (t->writer != NULL) {
        aiol_stream_release(t);
        aiol_writer_put(t);
    }
    aiol_stream_close_socket(t);
    if (server != NULL)
        aiol_server_lost(server, t);
    aioloop_transport_unref(t);
    aiol_callback_end(loop);
}

/* Queues connection_lost when the engine has given the operations back. */
static void aiol_stream_doom_if_over(aioloop_transport *t) {
    if (t->state != AIOL_TRANSPORT_ENDING || t->recv.state != AIOL_OP_IDLE || t->file != NULL)
        return;
    if (t->writer != NULL) {
        if (t->writer->op.state != AIOL_OP_IDLE)
            return;
        aiol_bytes_clear(&t->writer->bytes, &t->resource.loop->allocator);
    }
    t->state = AIOL_TRANSPORT_DOOMED;
    t->doom.run = aiol_stream_lost;
    aiol_queue_push(&t->resource.loop->ready, &t->doom);
}

/* Sends what waits for the end of the callback or for the next wait, as far as the system takes it now. Calls no user
 * code. 0, or the error. */
static int aiol_stream_push(aioloop_transport *t) {
    aiol_engine *e = t->resource.loop->engine;
    aiol_writer *w = t->writer;
    int64_t n;
    int count;
    if (w == NULL || w->op.state != AIOL_OP_IDLE || w->bytes.size == 0)
        return 0;
    count = aiol_bytes_pieces(&w->bytes, w->pieces, (int)(sizeof(w->pieces) / sizeof(w->pieces[0])));
    n = e->calls->attempt(e, t->recv.fd, w->pieces, count, true);
    if (n > 0)
        aiol_bytes_consume(&w->bytes, e->allocator, (size_t)n);
    return n < 0 && n != AIOL_PENDING ? (int)n : 0;
}

/* Ends the connection now. What the system does not take any more is dropped. */
static void aiol_stream_end(aioloop_transport *t, int error) {
    aiol_engine *e = t->resource.loop->engine;
    if (t->state >= AIOL_TRANSPORT_ENDING)
        return;
    t->state = AIOL_TRANSPORT_ENDING;
    t->error = error;
    aiol_op_cancel(e, &t->recv);
    if (t->writer != NULL) {
        aiol_list_remove(&t->writer->unsent);
        aiol_op_cancel(e, &t->writer->op);
        (void)aiol_stream_push(t); /* last words: where writing is tried at once they are sent by now */
    }
    if (AIOL_UNLIKELY(t->file != NULL))
        aiol_sendfile_give_up(t, error);
    aiol_stream_doom_if_over(t);
}

/* The protocol failed: reported, and the connection ends with that error. */
static void aiol_stream_failed(aioloop_transport *t, int code, const char *message) {
    aiol_transport_report(t, code, message);
    aiol_stream_end(t, code);
}

static void aiol_stream_close(aioloop_transport *t) {
    t->state = AIOL_TRANSPORT_CLOSING;
    aiol_op_cancel(t->resource.loop->engine, &t->recv);
    if (AIOL_UNLIKELY(t->file != NULL))
        aiol_sendfile_give_up(t, 0);
    if (t->file == NULL && (t->writer == NULL || t->writer->bytes.size == 0))
        aiol_stream_end(t, 0);
}

/* ---- reading ---- */

static void aiol_stream_peer_ended(aioloop_transport *t) {
    bool keep = false;
    int raised = 0;
    t->flags |= AIOL_TRANSPORT_READ_ENDED;
    if (t->protocol->eof_received != NULL) {
        aiol_transport_frame frame = aiol_transport_enter(t);
        keep = t->protocol->eof_received(t, t->self);
        raised = aiol_transport_leave(t, &frame, "eof_received");
    }
    if (AIOL_UNLIKELY(raised != 0))
        aiol_stream_failed(t, raised, "Error in eof_received");
    else if (!keep || (t->flags & AIOL_TRANSPORT_PIPE) != 0)
        aioloop_transport_close(t);
}

/* After the protocol had bytes: an error ends the connection, what was written goes out. */
static AIOL_NOINLINE void aiol_stream_attend(aioloop_transport *t, const char *message) {
    aioloop *loop = t->resource.loop;
    int raised = loop->raised;
    loop->raised = 0;
    if (raised != 0)
        aiol_stream_failed(t, raised, message);
    aiol_callback_end(loop);
}

AIOL_INLINE size_t aiol_stream_deliver(aioloop_transport *t, const void *data, size_t size) {
    aioloop *loop = t->resource.loop;
    const aioloop_protocol *protocol = t->protocol;
    aiol_dispatch_enter(loop, &t->resource.context);
    if (t->recv.u.recv.dest == NULL) {
        if (protocol->data_received != NULL)
            protocol->data_received(t, t->self, data, size);
    } else if (protocol->buffer_updated != NULL) {
        protocol->buffer_updated(t, t->self, size);
    }
    aiol_dispatch_leave(loop);
    if (AIOL_UNLIKELY(loop->attention))
        aiol_stream_attend(t, "Error in data_received");
    return size;
}

/* Something other than bytes for an open transport; or debug mode, which measures. */
static AIOL_NOINLINE size_t aiol_stream_received_rarely(aioloop_transport *t, int64_t n, const void *data) {
    aioloop *loop = t->resource.loop;
    if (t->state != AIOL_TRANSPORT_OPEN) { /* a cancelled one comes back; the bytes are nobody's any more */
        aiol_stream_doom_if_over(t);
        return n > 0 ? (size_t)n : 0;
    }
    if (n > 0) {
        aioloop_time since = aiol_loop_now(loop);
        aiol_stream_deliver(t, data, (size_t)n);
        aiol_slow(loop, t->resource.site, since, "data_received");
        return (size_t)n;
    }
    if (n == 0)
        aiol_stream_peer_ended(t);
    else if ((t->flags & AIOL_TRANSPORT_PIPE) != 0 && n != AIOLOOP_EIO) /* a terminal's, whose other side has gone */
        aiol_stream_failed(t, (int)n, "Fatal read error on pipe transport");
    else
        aiol_stream_end(t, (int)n);
    aiol_callback_end(loop);
    return 0;
}

/* The operation's done(). */
static size_t aiol_stream_received(aiol_op *op, int64_t n, const void *data) {
    aioloop_transport *t = AIOL_CONTAINER(op, aioloop_transport, recv);
    if (AIOL_UNLIKELY(n <= 0 || t->state != AIOL_TRANSPORT_OPEN || t->resource.loop->debug))
        return aiol_stream_received_rarely(t, n, data);
    return aiol_stream_deliver(t, data, (size_t)n);
}

/* Where a buffered protocol wants the next bytes. */
static size_t aiol_stream_dest(aiol_op *op, void **buffer) {
    aioloop_transport *t = AIOL_CONTAINER(op, aioloop_transport, recv);
    aioloop *loop = t->resource.loop;
    const aioloop_protocol *protocol = t->protocol;
    void *self = t->self;
    aiol_transport_frame frame = aiol_transport_enter(t);
    size_t size = protocol->get_buffer(t, self, 0, buffer);
    int raised = aiol_transport_leave(t, &frame, "get_buffer");
    if (AIOL_UNLIKELY(raised != 0 || ((size == 0 || *buffer == NULL) && t->state == AIOL_TRANSPORT_OPEN))) {
        if (raised == 0)
            raised = aiol_fail(loop, AIOLOOP_EINVAL, "get_buffer gave an empty buffer");
        aiol_stream_failed(t, raised, "Error in get_buffer");
    }
    /* What it wrote goes out after the buffer was used: sending calls user code, which may free it. */
    if (AIOL_UNLIKELY(t->protocol != protocol || t->self != self)) /* the new one is asked next time */
        return 0;
    return t->state == AIOL_TRANSPORT_OPEN && op->state == AIOL_OP_ACTIVE ? size : 0;
}

static void aiol_stream_start_reading(aioloop_transport *t) {
    aiol_engine *e = t->resource.loop->engine;
    int64_t n;
    if (t->state != AIOL_TRANSPORT_OPEN || (t->flags & (AIOL_TRANSPORT_READ_PAUSED | AIOL_TRANSPORT_READ_ENDED)) != 0)
        return;
    if (t->recv.state == AIOL_OP_STOPPED) {
        e->calls->start(e, &t->recv);
    } else if (t->recv.state == AIOL_OP_IDLE) {
        n = aiol_op_submit(e, &t->recv);
        if (n != AIOL_PENDING)
            aiol_stream_end(t, n < 0 ? (int)n : AIOLOOP_EIO);
    }
}

static void aiol_stream_pause_reading(aioloop_transport *t) {
    aiol_engine *e = t->resource.loop->engine;
    if (t->recv.state == AIOL_OP_ACTIVE)
        e->calls->stop(e, &t->recv);
}

static void aiol_stream_protocol_changed(aioloop_transport *t) {
    t->recv.u.recv.dest = t->protocol->get_buffer != NULL ? aiol_stream_dest : NULL;
}

/* ---- writing ---- */

/* All that was buffered has gone. */
static void aiol_stream_drained(aioloop_transport *t) {
    aiol_engine *e = t->resource.loop->engine;
    aiol_writer_put(t);
    if (t->state == AIOL_TRANSPORT_CLOSING)
        aiol_stream_end(t, 0);
    else if ((t->flags & AIOL_TRANSPORT_WRITE_ENDED) != 0)
        e->sockets->shutdown(e, t->recv.fd); /* what it says of a peer that is gone, reading says too */
    else if (t->file != NULL)
        aiol_sendfile_drained(t->file);
}

/* Sends until the system takes no more. Calls no user code. */
static void aiol_stream_send(aioloop_transport *t) {
    aiol_engine *e = t->resource.loop->engine;
    aiol_writer *w = t->writer;
    while (w->bytes.size != 0) {
        int64_t n;
        w->op.u.send.pieces = w->pieces;
        w->op.u.send.count = aiol_bytes_pieces(&w->bytes, w->pieces, (int)(sizeof(w->pieces) / sizeof(w->pieces[0])));
        n = aiol_op_submit(e, &w->op);
        if (n == AIOL_PENDING)
            return;
        if (n < 0) {
            aiol_stream_end(t, (int)n);
            return;
        }
        aiol_bytes_consume(&w->bytes, e->allocator, (size_t)n);
    }
    aiol_bytes_consume(&w->bytes, e->allocator, 0); /* lent pieces of no bytes */
}

/* After a send: owners get their memory back, the protocol may write again, and the end of the queue has its
 * consequences. Any of these may write, close or abort. */
static void aiol_stream_after_send(aioloop_transport *t) {
    if (AIOL_UNLIKELY(t->writer->bytes.done != NULL))
        aiol_stream_release(t);
    if (t->state <= AIOL_TRANSPORT_CLOSING)
        aiol_transport_maybe_resume(t);
    /* Its head, not its size: a release may have lent a piece of no bytes. */
    if (t->state <= AIOL_TRANSPORT_CLOSING && t->writer != NULL && t->writer->bytes.head == NULL && t->writer->bytes.done == NULL &&
        t->writer->op.state == AIOL_OP_IDLE) {
        aiol_list_remove(&t->writer->unsent);
        aiol_stream_drained(t);
    }
}

/* The operation's done(). */
static size_t aiol_stream_sent(aiol_op *op, int64_t n, const void *data) {
    aiol_writer *w = AIOL_CONTAINER(op, aiol_writer, op);
    aioloop_transport *t = w->transport;
    aioloop *loop = t->resource.loop;
    (void)data;
    if (n > 0)
        aiol_bytes_consume(&w->bytes, &loop->allocator, (size_t)n);
    if (t->state >= AIOL_TRANSPORT_ENDING) {
        aiol_stream_doom_if_over(t);
        return 0;
    }
    if (n < 0) {
        aiol_stream_end(t, (int)n);
        return 0;
    }
    if (w->bytes.head != NULL)
        aiol_stream_send(t);
    if (t->state <= AIOL_TRANSPORT_CLOSING)
        aiol_stream_after_send(t);
    if (AIOL_UNLIKELY(loop->attention))
        aiol_callback_end(loop);
    return 0;
}

/* The end of a callback: starts the sends of what it wrote. What is written meanwhile (by release functions and
 * resume_writing) is for the end of the next one: a peer that reads as fast as we write must not keep us here. */
static void aiol_stream_flush(aioloop *loop) {
    if (aiol_list_empty(&loop->sending))
        aiol_list_move(&loop->sending, &loop->unsent);
    while (!aiol_list_empty(&loop->sending) && !loop->halt) {
        aiol_writer *w = AIOL_CONTAINER(loop->sending.next, aiol_writer, unsent);
        aioloop_transport *t = w->transport;
        aiol_list_remove(&w->unsent);
        if (w->op.state != AIOL_OP_IDLE)
            continue;
        aiol_stream_send(t);
        if (t->state <= AIOL_TRANSPORT_CLOSING)
            aiol_stream_after_send(t);
    }
    loop->attention = loop->attention || aiol_loop_has_unsent(loop);
}

/* A writer for the transport, ready for use; NULL when there is no memory. */
static aiol_writer *aiol_stream_writer(aioloop_transport *t) {
    aiol_writer *w = t->writer;
    if (w != NULL)
        return w;
    w = aiol_writer_get(t);
    if (w == NULL)
        return NULL;
    w->op.kind = AIOL_OP_SEND;
    w->op.fd = t->recv.fd;
    w->op.done = aiol_stream_sent;
    return w;
}

/* Queues the pieces but for the first `sent` bytes. All or nothing. */
static int aiol_stream_enqueue(aioloop_transport *t, const aioloop_buf *pieces, size_t count, size_t sent,
                               aiol_release_fn release, void *arg) {
    aioloop *loop = t->resource.loop;
    aiol_writer *w = aiol_stream_writer(t);
    aiol_bytes rest;
    size_t i;
    int err = 0;
    if (w == NULL)
        return AIOLOOP_ENOMEM;
    if (release != NULL)
        return aiol_bytes_lend(&w->bytes, &loop->allocator, pieces->data, pieces->size, release, arg);
    if (count == 1)
        return aiol_bytes_append(&w->bytes, &loop->allocator, (const char *)pieces->data + sent, pieces->size - sent);
    /* Several: into a queue of their own first, so that none stays behind if memory ends in the middle. */
    memset(&rest, 0, sizeof(rest));
    for (i = 0; i < count && err == 0; i++) {
        size_t skip = aiol_min_size(sent, pieces[i].size);
        sent -= skip;
        if (skip < pieces[i].size)
            err = aiol_bytes_append(&rest, &loop->allocator, (const char *)pieces[i].data + skip, pieces[i].size - skip);
    }
    if (err < 0)
        aiol_bytes_clear(&rest, &loop->allocator);
    else
        aiol_bytes_join(&w->bytes, &rest);
    return err;
}

/* A writer that was made for nothing goes back. */
static void aiol_stream_drop_empty_writer(aioloop_transport *t) {
    if (t->writer != NULL && t->writer->bytes.head == NULL && t->writer->bytes.done == NULL && t->writer->unsent.next == NULL &&
        t->writer->op.state == AIOL_OP_IDLE)
        aiol_writer_put(t);
}

static AIOL_NOINLINE int aiol_stream_write_late(aioloop_transport *t, aiol_release_fn release) {
    if (t->resource.loop->closed)
        return release != NULL ? AIOLOOP_ECLOSED : 0;
    if (t->state == AIOL_TRANSPORT_OPEN) /* write_eof was called */
        return aiol_fail(t->resource.loop, AIOLOOP_EMISUSE, "write after write_eof");
    if (release != NULL)
        return AIOLOOP_ENOTCONN;
    return aiol_transport_dropped(t);
}

static AIOL_NOINLINE int aiol_stream_write_rest(aioloop_transport *t, const aioloop_buf *pieces, size_t count, size_t sent,
                                                aiol_release_fn release, void *arg);

/* True if a write may go straight to the system: nothing waits, and it is the first in this callback. */
AIOL_INLINE bool aiol_stream_may_try(const aioloop_transport *t) {
    return AIOL_LIKELY(t->state == AIOL_TRANSPORT_OPEN && (t->flags & AIOL_TRANSPORT_WRITE_ENDED) == 0 && t->writer == NULL &&
                       t->write_turn != t->resource.loop->turn);
}

/* The system was tried and took n of the pieces (or failed), which is not all. */
static AIOL_NOINLINE int aiol_stream_write_tried(aioloop_transport *t, const aioloop_buf *pieces, size_t count, int64_t n) {
    if (n < 0 && n != AIOL_PENDING) {
        aiol_stream_end(t, (int)n);
        return 0;
    }
    return aiol_stream_write_rest(t, pieces, count, n == AIOL_PENDING ? 0 : (size_t)n, NULL, NULL);
}

static AIOL_NOINLINE int aiol_stream_write_pieces(aioloop_transport *t, const aioloop_buf *pieces, size_t count,
                                                  aiol_release_fn release, void *arg) {
    aioloop *loop = t->resource.loop;
    aiol_engine *e = loop->engine;
    size_t size = 0;
    int64_t n;
    size_t i;
    for (i = 0; i < count; i++)
        size += pieces[i].size;
    if (size == 0 && release == NULL)
        return 0;
    if (t->state != AIOL_TRANSPORT_OPEN || (t->flags & AIOL_TRANSPORT_WRITE_ENDED) != 0)
        return aiol_stream_write_late(t, release);
    if (release != NULL || !aiol_stream_may_try(t))
        return aiol_stream_write_rest(t, pieces, count, 0, release, arg);
    t->write_turn = loop->turn;
    n = e->calls->attempt(e, t->recv.fd, pieces, (int)aiol_min_size(count, AIOL_IOV_MAX), false);
    return (uint64_t)n == size ? 0 : aiol_stream_write_tried(t, pieces, count, n);
}

static int aiol_stream_write(aioloop_transport *t, const void *data, size_t size) {
    aiol_engine *e = t->resource.loop->engine;
    aioloop_buf piece;
    int64_t n;
    piece.data = data;
    piece.size = size;
    if (AIOL_UNLIKELY(size == 0 || !aiol_stream_may_try(t)))
        return aiol_stream_write_pieces(t, &piece, 1, NULL, NULL);
    t->write_turn = t->resource.loop->turn;
    n = e->calls->attempt(e, t->recv.fd, &piece, 1, false);
    return AIOL_LIKELY((uint64_t)n == size) ? 0 : aiol_stream_write_tried(t, &piece, 1, n);
}

/* Queues what was not sent; it goes when the callback ends. */
static int aiol_stream_write_rest(aioloop_transport *t, const aioloop_buf *pieces, size_t count, size_t sent,
                                  aiol_release_fn release, void *arg) {
    aioloop *loop = t->resource.loop;
    size_t before = t->writer != NULL ? t->writer->bytes.size : 0;
    int err = aiol_stream_enqueue(t, pieces, count, sent, release, arg);
    size_t size;
    t->write_turn = loop->turn;
    if (err < 0) {
        aiol_stream_drop_empty_writer(t);
        if (sent == 0)
            return aiol_fail(loop, err, NULL);
        aiol_stream_end(t, err); /* part of it is sent: the stream would be torn */
        return 0;
    }
    if (t->writer->op.state == AIOL_OP_IDLE && t->writer->unsent.next == NULL) {
        aiol_list_append(&loop->unsent, &t->writer->unsent);
        loop->attention = true;
    }
    size = t->writer->bytes.size;
    if (release == NULL && sent == 0 && (t->flags & AIOL_TRANSPORT_WRITE_PAUSED) == 0 &&
        (size > t->high || size / AIOL_HIGH_WATER != before / AIOL_HIGH_WATER)) {
        /* What only waits for the end of the callback is no reason to pause; and so much gives the peer something to do. */
        err = aiol_stream_push(t);
        if (err < 0)
            aiol_stream_end(t, err);
    }
    if (t->state == AIOL_TRANSPORT_OPEN) {
        aiol_transport_maybe_pause(t);
        aiol_stream_drop_empty_writer(t);
    }
    return 0;
}

static int aiol_stream_write_eof(aioloop_transport *t) {
    aiol_engine *e = t->resource.loop->engine;
    if (t->state != AIOL_TRANSPORT_OPEN || (t->flags & AIOL_TRANSPORT_WRITE_ENDED) != 0 || t->resource.loop->closed)
        return 0;
    t->flags |= AIOL_TRANSPORT_WRITE_ENDED;
    if (t->writer == NULL)
        e->sockets->shutdown(e, t->recv.fd);
    return 0;
}

/* What only waits for the end of the callback goes now. Calls no user code. */
static bool aiol_stream_send_file(aioloop_transport *t) {
    aiol_writer *w = t->writer;
    int err;
    if (w == NULL)
        return true;
    err = aiol_stream_push(t);
    if (err < 0) {
        aiol_stream_end(t, err);
        return false;
    }
    aiol_transport_maybe_resume(t);
    if (w->bytes.head != NULL || w->bytes.done != NULL || w->op.state != AIOL_OP_IDLE)
        return false;
    aiol_list_remove(&w->unsent);
    aiol_writer_put(t);
    return true;
}

static void aiol_stream_file_ended(aioloop_transport *t) {
    if (t->state == AIOL_TRANSPORT_CLOSING && (t->writer == NULL || t->writer->bytes.size == 0))
        aiol_stream_end(t, 0);
    else
        aiol_stream_doom_if_over(t);
}

static const aiol_transport_calls aiol_stream_calls = {
    aiol_stream_write, aiol_stream_write_pieces, aiol_stream_write_eof,     true,                      aiol_stream_close,
    aiol_stream_end,   aiol_stream_pause_reading, aiol_stream_start_reading, aiol_stream_protocol_changed, aiol_stream_send_file,
    aiol_stream_file_ended, NULL,                     NULL,                      NULL,                         NULL,
};

/* ---- with the loop ---- */

/* The loop closes: the socket goes, nobody is told; lent memory is given back. */
static void aiol_stream_loop_closed(aiol_resource *resource) {
    aioloop_transport *t = AIOL_CONTAINER(resource, aioloop_transport, resource);
    aioloop *loop = resource->loop;
    aiol_engine *e = loop->engine;
    bool ours = loop->process == aiol_process_id();
    if (t->file != NULL)
        aiol_sendfile_loop_closed(t->file);
    if (t->recv.fd != AIOL_NO_SOCKET) {
        if (ours) {
            aiol_op_cancel(e, &t->recv);
            if (t->writer != NULL) {
                aiol_op_cancel(e, &t->writer->op);
                (void)aiol_stream_push(t);
            }
            e->calls->quiesce(e, t->recv.fd);
            if ((t->flags & AIOL_TRANSPORT_RESTORE) != 0)
                e->sockets->pipe_restore(e, t->recv.fd);
        }
        e->sockets->close(e, t->recv.fd);
        t->recv.fd = AIOL_NO_SOCKET;
    }
    t->state = AIOL_TRANSPORT_LOST;
    t->recv.state = AIOL_OP_IDLE;
    if (t->writer != NULL) {
        t->writer->op.state = AIOL_OP_IDLE;
        aiol_list_remove(&t->writer->unsent);
        aiol_bytes_clear(&t->writer->bytes, &loop->allocator);
        aiol_stream_release(t);
    }
}

static void aiol_stream_destroy(aiol_resource *resource) {
    aiol_transport_destroy(AIOL_CONTAINER(resource, aioloop_transport, resource));
}

static bool aiol_stream_is_open(const aiol_resource *resource) {
    return AIOL_CONTAINER(resource, const aioloop_transport, resource)->state < AIOL_TRANSPORT_ENDING;
}

static const aiol_resource_calls aiol_stream_resource = {"transport", aiol_stream_loop_closed, aiol_stream_destroy,
                                                         aiol_stream_is_open};

static const aiol_net_calls aiol_stream_net = {aiol_stream_flush, aiol_writer_free_spare};

/* ---- making ---- */

#define AIOL_ALIGNMENT 16u

static size_t aiol_align(size_t size) {
    return (size + AIOL_ALIGNMENT - 1) / AIOL_ALIGNMENT * AIOL_ALIGNMENT;
}

/* Copies an address; the path of a Unix one to *room, which moves on. */
static void aiol_stream_name(aioloop_address *to, const aioloop_address *from, char **room) {
    if (from == NULL)
        return;
    *to = *from;
    if (from->family == AIOLOOP_UNIX && from->path_size == 0) {
        to->u.path = "";
    } else if (from->family == AIOLOOP_UNIX) {
        memcpy(*room, from->u.path, from->path_size);
        to->u.path = *room;
        *room += from->path_size;
    }
}

static bool aiol_stream_is_internet(const aioloop_address *address) {
    return address != NULL && (address->family == AIOLOOP_INET || address->family == AIOLOOP_INET6);
}

static size_t aiol_stream_path_size(const aioloop_address *address) {
    return address != NULL && address->family == AIOLOOP_UNIX ? address->path_size : 0;
}

/* A transport for a connected socket, with the loop's reference; nobody is called yet. On failure the socket is still
 * the caller's. */
AIOLOOP_INTERNAL int aiol_stream_new(const aiol_stream_setup *setup, aioloop_transport **out) {
    aioloop *loop = setup->loop;
    size_t start = aiol_align(sizeof(aioloop_transport));
    size_t instance = aiol_align(setup->protocol->instance_size);
    size_t size = start + instance + aiol_stream_path_size(setup->local) + aiol_stream_path_size(setup->peer);
    aioloop_transport *t;
    char *room;
    int err = 0;
    if (setup->protocol->instance_size > SIZE_MAX / 2)
        return AIOLOOP_ENOMEM;
    t = (aioloop_transport *)aiol_alloc_zero(&loop->allocator, size);
    if (t == NULL)
        return AIOLOOP_ENOMEM;
    if (!setup->attached)
        err = loop->engine->calls->attach(loop->engine, setup->socket, setup->owner);
    if (err < 0) {
        aiol_free(&loop->allocator, t, size);
        return err;
    }
    t->block_size = size;
    t->calls = &aiol_stream_calls;
    t->protocol = setup->protocol;
    t->self = setup->protocol->instance_size != 0 ? (void *)((char *)t + start) : setup->arg;
    t->resource.context = aiol_map_ref(setup->context);
    t->server = setup->server;
    t->high = AIOL_HIGH_WATER;
    t->low = AIOL_HIGH_WATER / 4;
    t->write_turn = loop->turn - 1;
    t->recv.kind = AIOL_OP_RECV;
    t->recv.fd = setup->socket;
    t->recv.done = aiol_stream_received;
    t->recv.u.recv.internet = aiol_stream_is_internet(setup->local) || aiol_stream_is_internet(setup->peer);
    aiol_stream_protocol_changed(t);
    room = (char *)t + start + instance;
    aiol_stream_name(&t->local, setup->local, &room);
    aiol_stream_name(&t->peer, setup->peer, &room);
    t->resource.refs = 1;
    t->resource.site = setup->site;
    aiol_resource_add(loop, &t->resource, &aiol_stream_resource);
    loop->net = &aiol_stream_net;
    *out = t;
    return 0;
}

/* One that has not begun goes with its socket. */
static void aiol_stream_drop(aioloop_transport *t) {
    t->state = AIOL_TRANSPORT_LOST;
    aiol_stream_close_socket(t);
    if (t->server != NULL)
        aiol_server_lost(t->server, t);
    aioloop_transport_unref(t);
}

/* Calls the factory and connection_made, and starts reading. Below 0: the factory failed, and the transport is gone
 * with its socket. Only from the loop. */
AIOLOOP_INTERNAL int aiol_stream_begin(aioloop_transport *t, void *arg) {
    int err = aiol_transport_call_factory(t, arg);
    if (err < 0) {
        aiol_stream_drop(t);
        return err;
    }
    t->state = AIOL_TRANSPORT_OPEN;
    aiol_transport_call_made(t);
    aiol_stream_start_reading(t);
    return 0;
}

#endif
