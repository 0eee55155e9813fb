/*
 * sendfile.c - files sent over a connection.           (asyncio: base_events.sendfile, unix_events.sock_sendfile)
 *
 * Over a stream by SENDFILE operations, one after the other, once all that was written has gone; over a socket by direct
 * calls with a POLL in between. What cannot be sent so is copied: a thread reads a piece of the file (from a descriptor
 * of its own, since nobody can stop it), the loop writes it.
 *
 * Ending: aiol_sendfile_end says how, and when the SENDFILE is idle aiol_sendfile_settle completes the future, so that
 * what went is known. The struct goes when nothing refers to it: a POLL that the engine still owes, the callback of a
 * reading that is over, its node in the ready queue.
 */
#ifndef AIOL_NET_SENDFILE_C
#define AIOL_NET_SENDFILE_C

#include "api/executor.h"
#include "api/sendfile.h"
#include "net/sock.c"

#define AIOL_SENDFILE_SHARE ((size_t)0x400000) /* bytes in one iteration: about what a socket takes */
#define AIOL_SENDFILE_CHUNK 65536u             /* bytes read at once */

/* A piece of the file. It may outlive the loop with the thread that reads, so its memory is not the loop's. */
typedef struct aiol_file_chunk {
    aioloop_file file; /* its own */
    int64_t offset;    /* of what is read; -1: wherever the file stands */
    size_t wanted;
    size_t start; /* of what is not sent yet */
    size_t end;
    unsigned char bytes[AIOL_SENDFILE_CHUNK];
} aiol_file_chunk;

typedef struct aiol_sendfile {
    aiol_resource resource;
    aioloop_future *future;       /* NULL: it is done */
    aioloop_transport *transport; /* a reference; NULL: over a socket */
    aiol_op op;                   /* SENDFILE of a transport, POLL of a socket */
    aiol_node node;
    aioloop_file file;
    aiol_file_kind kind;
    int64_t offset; /* of the next byte */
    int64_t left;   /* to be sent; INT64_MAX: to the end */
    int64_t sent;
    int code; /* the outcome, once it is ending; 0: success */
    bool fallback;
    bool copying;
    bool ending;
    bool queued;             /* the node is in the ready queue */
    unsigned busy;           /* a function of this file works on it */
    aiol_file_chunk *chunk;  /* NULL: not copying, or a thread has it */
    aioloop_future *reading; /* by a thread, until its callback has come */
} aiol_sendfile;

static void aiol_sendfile_copy(aiol_sendfile *s);
static void aiol_sendfile_watch(aiol_sendfile *s);

/* ---- the end ---- */

static void aiol_file_chunk_free(void *pointer) {
    aiol_file_chunk *chunk = (aiol_file_chunk *)pointer;
    if (chunk == NULL)
        return;
    aiol_file_release(chunk->file);
    aiol_free(&aiol_default_allocator, chunk, sizeof(*chunk));
}

static void aiol_sendfile_destroy(aiol_resource *resource) {
    aiol_sendfile *s = AIOL_CONTAINER(resource, aiol_sendfile, resource);
    aioloop *loop = resource->loop;
    aiol_resource_remove(resource);
    aiol_file_chunk_free(s->chunk);
    if (s->transport != NULL && !loop->freeing)
        aioloop_transport_unref(s->transport);
    aiol_free(&loop->allocator, s, sizeof(*s));
}

static void aiol_sendfile_free_if_over(aiol_sendfile *s) {
    if (s->future == NULL && s->busy == 0 && !s->queued && s->reading == NULL && s->op.state == AIOL_OP_IDLE)
        aiol_sendfile_destroy(&s->resource);
}

static void aiol_sendfile_queue(aiol_sendfile *s) {
    if (s->queued)
        return;
    s->queued = true;
    aiol_queue_push(&s->resource.loop->ready, &s->node);
}

/* The transport is free again. */
static void aiol_sendfile_leave(aiol_sendfile *s) {
    aioloop_transport *t = s->transport;
    bool held = (t->flags & AIOL_TRANSPORT_READ_HELD) != 0;
    t->file = NULL;
    t->flags &= (uint16_t)~AIOL_TRANSPORT_READ_HELD;
    if (!held)
        aioloop_transport_resume_reading(t);
    if ((t->flags & AIOL_TRANSPORT_FLOW_HELD) != 0)
        aiol_sendfile_queue(s);
    if (t->calls->file_ended != NULL)
        t->calls->file_ended(t);
}

/* All but completing the future, which is returned with the operation's reference. */
static aioloop_future *aiol_sendfile_let_go(aiol_sendfile *s) {
    aioloop_future *f = s->future;
    s->future = NULL;
    f->of.owner = NULL;
    if (s->kind.has_places)
        aiol_file_seek(s->file, s->offset);
    aiol_file_chunk_free(s->chunk);
    s->chunk = NULL;
    if (s->transport != NULL)
        aiol_sendfile_leave(s);
    return f;
}

static void aiol_sendfile_settle(aiol_sendfile *s) {
    int code = s->code;
    char text[AIOL_ERROR_TEXT_SIZE];
    aioloop_future *f;
    s->busy++;
    f = aiol_sendfile_let_go(s);
    if (code == AIOLOOP_ECANCELED) {
        aiol_future_end_cancelled(f, NULL);
    } else if (code < 0) {
        snprintf(text, sizeof(text), "send file %ld: %s", (long)s->file,
                 code == AIOLOOP_ENOTAVAILABLE ? "the system cannot do it by itself" : aioloop_strerror(code));
        aiol_future_fail(f, code, text);
    } else {
        aiol_future_finish_first(f, s->sent, NULL, NULL);
    }
    aiol_future_release(f);
    s->busy--;
}

/* It goes no further. True: all is over but the future. */
static bool aiol_sendfile_stop(aiol_sendfile *s, int code) {
    s->ending = true;
    s->code = code;
    if (s->reading != NULL)
        aioloop_future_cancel(s->reading, NULL); /* its callback comes */
    aiol_op_cancel(s->resource.loop->engine, &s->op);
    return s->transport == NULL || s->op.state == AIOL_OP_IDLE;
}

/* Allocates nothing unless it fails. The struct may be gone afterwards. */
static void aiol_sendfile_end(aiol_sendfile *s, int code) {
    if (s->ending)
        return;
    if (!aiol_sendfile_stop(s, code))
        return; /* done() comes */
    aiol_sendfile_settle(s);
    aiol_sendfile_free_if_over(s);
}

static bool aiol_sendfile_cancel(aioloop_future *future, void *owner) {
    aiol_sendfile *s = (aiol_sendfile *)owner;
    (void)future;
    if (s == NULL)
        return true; /* of a closed loop */
    if (s->ending || !aiol_sendfile_stop(s, AIOLOOP_ECANCELED))
        return false;
    aiol_future_release(aiol_sendfile_let_go(s));
    aiol_sendfile_free_if_over(s);
    return true;
}

AIOLOOP_INTERNAL void aiol_sendfile_give_up(aioloop_transport *t, int error) {
    aiol_sendfile_end(t->file, error != 0 ? error : AIOLOOP_ECONNABORTED);
}

/* The engine goes as a whole, but a socket of it must not have an operation when it is closed. */
AIOLOOP_INTERNAL void aiol_sendfile_loop_closed(aiol_sendfile *s) {
    aioloop *loop = s->resource.loop;
    if (s->transport != NULL && s->transport->file == s) {
        if (loop->process == aiol_process_id())
            aiol_op_cancel(loop->engine, &s->op);
        s->transport->file = NULL;
    }
    s->op.state = AIOL_OP_IDLE;
    s->ending = true;
    if (s->future != NULL)
        s->future->of.owner = NULL; /* it stays pending */
}

static void aiol_sendfile_closed(aiol_resource *resource) {
    aiol_sendfile_loop_closed(AIOL_CONTAINER(resource, aiol_sendfile, resource));
}

static const aiol_resource_calls aiol_sendfile_resource = {"sendfile", aiol_sendfile_closed, aiol_sendfile_destroy,
                                                           aiol_combine_is_open};

/* ---- what goes ---- */

static void aiol_sendfile_went(aiol_sendfile *s, int64_t n) {
    s->offset += n;
    s->sent += n;
    if (s->left != INT64_MAX)
        s->left -= n;
}

/* How much to ask for next, limit at most: not more than there is, so that less means that there is no room. */
static size_t aiol_sendfile_next(const aiol_sendfile *s, size_t limit) {
    size_t size = (uint64_t)s->left < limit ? (size_t)s->left : limit;
    int64_t there = s->kind.size - s->offset;
    return there > 0 && (uint64_t)there < size ? (size_t)there : size;
}

static bool aiol_sendfile_is_lost(int code) {
    switch (code) {
    case AIOLOOP_EPIPE:
    case AIOLOOP_ECONNRESET:
    case AIOLOOP_ECONNABORTED:
    case AIOLOOP_ENOTCONN:
    case AIOLOOP_ETIMEDOUT:
    case AIOLOOP_ENETDOWN:
    case AIOLOOP_ENETUNREACH:
    case AIOLOOP_ENETRESET:
    case AIOLOOP_EHOSTUNREACH:
        return true;
    default:
        return false;
    }
}

static void aiol_sendfile_begin_copying(aiol_sendfile *s) {
    aiol_file_chunk *chunk;
    int err;
    if (!s->fallback) {
        aiol_sendfile_end(s, AIOLOOP_ENOTAVAILABLE);
        return;
    }
    chunk = (aiol_file_chunk *)aiol_alloc(&aiol_default_allocator, sizeof(*chunk));
    err = chunk == NULL ? AIOLOOP_ENOMEM : aiol_file_duplicate(s->file, &chunk->file);
    if (err < 0) {
        aiol_free(&aiol_default_allocator, chunk, sizeof(*chunk));
        aiol_sendfile_end(s, err);
        return;
    }
    chunk->start = 0;
    chunk->end = 0;
    s->chunk = chunk;
    s->copying = true;
    if (s->transport == NULL)
        aiol_sendfile_watch(s); /* so that it is known that this socket sends */
    if (!s->ending)
        aiol_sendfile_copy(s);
}

/* The fast way has ended: at the end of the file (0), or with an error. */
static void aiol_sendfile_fast_ended(aiol_sendfile *s, int64_t n) {
    if (n == AIOLOOP_ENOTAVAILABLE && s->sent == 0)
        aiol_sendfile_begin_copying(s);
    else if (s->transport != NULL && aiol_sendfile_is_lost((int)n))
        s->transport->calls->abort(s->transport, (int)n);
    else
        aiol_sendfile_end(s, (int)n);
}

/* ---- the fast way: over a transport ---- */

/* Sends as much as its share of this iteration allows, of which `used` bytes have gone. */
static void aiol_sendfile_go(aiol_sendfile *s, size_t used) {
    aiol_engine *e = s->resource.loop->engine;
    while (s->left != 0) {
        bool later = used >= AIOL_SENDFILE_SHARE;
        int64_t n;
        s->op.u.sendfile.file = s->file;
        s->op.u.sendfile.offset = s->offset;
        s->op.u.sendfile.count = aiol_sendfile_next(s, later ? AIOL_SENDFILE_SHARE : AIOL_SENDFILE_SHARE - used);
        s->op.u.sendfile.later = later;
        n = aiol_op_submit(e, &s->op);
        if (n == AIOL_PENDING)
            return;
        if (n <= 0) {
            aiol_sendfile_fast_ended(s, n);
            return;
        }
        aiol_sendfile_went(s, n);
        used += (size_t)n;
    }
    aiol_sendfile_end(s, 0);
}

/* The SENDFILE's done(). */
static size_t aiol_sendfile_done(aiol_op *op, int64_t n, const void *data) {
    aiol_sendfile *s = AIOL_CONTAINER(op, aiol_sendfile, op);
    aioloop *loop = s->resource.loop;
    (void)data;
    if (n > 0)
        aiol_sendfile_went(s, n);
    if (s->ending) {
        aiol_sendfile_settle(s);
        aiol_sendfile_free_if_over(s);
    } else if (n > 0) {
        aiol_sendfile_go(s, (size_t)n);
    } else {
        aiol_sendfile_fast_ended(s, n);
    }
    if (AIOL_UNLIKELY(loop->attention))
        aiol_callback_end(loop);
    return 0;
}

/* All that was written before has gone. */
AIOLOOP_INTERNAL void aiol_sendfile_drained(aiol_sendfile *s) {
    if (!s->copying && !s->ending && s->op.state == AIOL_OP_IDLE)
        aiol_sendfile_go(s, 0);
}

/* ---- the fast way: over a socket ---- */

/* Waits until the socket has room. */
static void aiol_sendfile_watch(aiol_sendfile *s) {
    aiol_engine *e = s->resource.loop->engine;
    int64_t n = AIOL_PENDING;
    if (s->op.state == AIOL_OP_IDLE)
        n = aiol_op_submit(e, &s->op);
    else
        e->calls->start(e, &s->op);
    if (n != AIOL_PENDING)
        aiol_sendfile_end(s, (int)n);
}

/* At most its share of this iteration. */
static void aiol_sendfile_try(aiol_sendfile *s) {
    aiol_engine *e = s->resource.loop->engine;
    size_t used = 0;
    int64_t n = 1;
    while (s->left != 0 && used < AIOL_SENDFILE_SHARE) {
        n = e->sockets->sendfile(e, s->op.fd, s->file, s->offset, aiol_sendfile_next(s, AIOL_SENDFILE_SHARE - used));
        if (n <= 0)
            break;
        aiol_sendfile_went(s, n);
        used += (size_t)n;
    }
    if (s->left == 0)
        aiol_sendfile_end(s, 0);
    else if (n > 0 || n == AIOLOOP_EAGAIN)
        aiol_sendfile_watch(s);
    else
        aiol_sendfile_fast_ended(s, n);
}

/* The POLL's done(). n below 0: the engine gave up; the attempt finds out why. */
static size_t aiol_sendfile_writable(aiol_op *op, int64_t n, const void *data) {
    aiol_sendfile *s = AIOL_CONTAINER(op, aiol_sendfile, op);
    (void)data;
    s->busy++;
    (void)n;
    if (!s->ending && s->copying)
        aiol_sendfile_copy(s);
    else if (!s->ending)
        aiol_sendfile_try(s);
    s->busy--;
    aiol_sendfile_free_if_over(s);
    return 0;
}

/* ---- copying ---- */

typedef struct aiol_file_reading {
    aiol_file_chunk *chunk;
} aiol_file_reading;

static int64_t aiol_file_chunk_read(aiol_file_chunk *chunk) {
    int64_t n = aiol_file_pread(chunk->file, chunk->bytes, chunk->wanted, chunk->offset);
    chunk->start = 0;
    chunk->end = n > 0 ? (size_t)n : 0;
    return n;
}

/* In a thread of the pool. */
static int64_t aiol_file_reading_run(void *arg, void **out) {
    aiol_file_reading *reading = (aiol_file_reading *)arg;
    int64_t n = aiol_file_chunk_read(reading->chunk);
    if (n >= 0) {
        *out = reading->chunk;
        reading->chunk = NULL;
    }
    return n;
}

static void aiol_file_reading_dispose(void *arg) {
    aiol_file_chunk_free(((aiol_file_reading *)arg)->chunk);
}

static void aiol_sendfile_was_read(aioloop_future *future, void *arg) {
    aiol_sendfile *s = (aiol_sendfile *)arg;
    aiol_file_chunk *chunk = NULL;
    int64_t n = AIOLOOP_ECANCELED;
    s->reading = NULL;
    s->busy++;
    if (!s->ending) {
        n = aioloop_future_result(future, &chunk);
        s->chunk = chunk;
        if (n > 0)
            aiol_sendfile_copy(s);
        else
            aiol_sendfile_end(s, (int)n);
    }
    aioloop_future_unref(future);
    s->busy--;
    aiol_sendfile_free_if_over(s);
}

/* Has a thread read the next piece. */
static void aiol_sendfile_read_elsewhere(aiol_sendfile *s) {
    aioloop *loop = s->resource.loop;
    aioloop_executor_options options;
    aiol_file_reading reading;
    aioloop_future *f;
    int err;
    memset(&options, 0, sizeof(options));
    options.copy_size = sizeof(reading);
    options.dispose = aiol_file_reading_dispose;
    options.dispose_result = aiol_file_chunk_free;
    reading.chunk = s->chunk;
    s->chunk = NULL;
    f = aioloop_future_ref(aioloop_run_in_executor(loop, NULL, aiol_file_reading_run, &reading, &options));
    err = aioloop_future_add_done_callback(f, aiol_sendfile_was_read, s);
    if (err == 0) {
        s->reading = f;
        return;
    }
    aioloop_future_cancel(f, NULL);
    aioloop_future_unref(f);
    aiol_sendfile_end(s, err);
}

/* Reads the next piece. False: a thread does, or it is over. */
static bool aiol_sendfile_read(aiol_sendfile *s) {
    aiol_file_chunk *chunk = s->chunk;
    int64_t n;
    chunk->wanted = (uint64_t)s->left < sizeof(chunk->bytes) ? (size_t)s->left : sizeof(chunk->bytes);
    chunk->offset = s->kind.has_places || s->offset != s->sent ? s->offset : -1;
    if (chunk->wanted == 0) {
        aiol_sendfile_end(s, 0);
        return false;
    }
    if (AIOLOOP_USE_THREADS) {
        s->resource.loop->engine->calls->stop(s->resource.loop->engine, &s->op); /* there is nothing to send for now */
        aiol_sendfile_read_elsewhere(s);
        return false;
    }
    n = aiol_file_chunk_read(chunk);
    if (n <= 0)
        aiol_sendfile_end(s, (int)n);
    return n > 0;
}

/* Sends of the piece what goes; false: nothing now, or it is over. */
static bool aiol_sendfile_send(aiol_sendfile *s) {
    aiol_engine *e = s->resource.loop->engine;
    aiol_file_chunk *chunk = s->chunk;
    const unsigned char *bytes = chunk->bytes + chunk->start;
    size_t size = chunk->end - chunk->start;
    aioloop_transport *t = s->transport;
    int64_t n;
    if (t != NULL) {
        if ((t->flags & AIOL_TRANSPORT_WRITE_PAUSED) != 0)
            return false; /* until it drains */
        n = t->calls->write(t, bytes, size);
        if (s->ending)
            return false; /* that was the end of the connection */
        n = n < 0 ? n : (int64_t)size;
    } else {
        n = e->sockets->send(e, s->op.fd, bytes, size, NULL);
    }
    if (n >= 0) {
        chunk->start += (size_t)n;
        aiol_sendfile_went(s, n);
    } else if (n == AIOLOOP_EAGAIN && t == NULL) {
        aiol_sendfile_watch(s);
    } else {
        aiol_sendfile_end(s, (int)n);
    }
    return n >= 0;
}

/* Reads and writes as far as it goes. */
static void aiol_sendfile_copy(aiol_sendfile *s) {
    size_t used = 0;
    bool goes = true;
    s->busy++;
    while (goes && !s->ending && s->reading == NULL && used < AIOL_SENDFILE_SHARE) {
        if (s->chunk->start != s->chunk->end) {
            used += s->chunk->end - s->chunk->start;
            goes = aiol_sendfile_send(s);
        } else {
            goes = aiol_sendfile_read(s);
        }
    }
    if (goes && !s->ending && s->reading == NULL)
        aiol_sendfile_queue(s);
    s->busy--;
    aiol_sendfile_free_if_over(s);
}

/* The transport's buffer is full, or it has room again. */
AIOLOOP_INTERNAL void aiol_sendfile_flow(aiol_sendfile *s) {
    if (s->copying && !s->ending && s->busy == 0 && s->reading == NULL &&
        (s->transport->flags & AIOL_TRANSPORT_WRITE_PAUSED) == 0)
        aiol_sendfile_copy(s);
}

/* In the iteration after: goes on, or tells the protocol what it missed. */
static void aiol_sendfile_later(aioloop *loop, aiol_node *node) {
    aiol_sendfile *s = AIOL_CONTAINER(node, aiol_sendfile, node);
    s->queued = false;
    s->busy++;
    if (s->future != NULL && s->copying && !s->ending)
        aiol_sendfile_copy(s);
    else if (s->transport != NULL)
        aiol_transport_tell_flow(s->transport);
    s->busy--;
    aiol_sendfile_free_if_over(s);
    aiol_callback_end(loop);
}

/* ---- the beginning ---- */

typedef struct aiol_sendfile_call {
    aioloop_transport *transport;
    aioloop_socket socket;
    aioloop_file file;
    int64_t offset;
    int64_t count;
    bool fallback;
} aiol_sendfile_call;

static int aiol_sendfile_check_transport(aioloop *loop, const aioloop_transport *t, bool fallback) {
    if (t->resource.loop != loop)
        return aiol_fail(loop, AIOLOOP_EINVAL, "the transport belongs to another loop");
    if (t->state != AIOL_TRANSPORT_OPEN)
        return aiol_fail(loop, AIOLOOP_EMISUSE, "the transport is closing");
    if (aiol_endpoint_is(t))
        return aiol_fail(loop, AIOLOOP_EMISUSE, "a file cannot be sent as datagrams");
    if ((t->flags & AIOL_TRANSPORT_WRITE_ENDED) != 0)
        return aiol_fail(loop, AIOLOOP_EMISUSE, "sendfile after write_eof");
    if (aiol_transport_taken(t))
        return aiol_transport_busy(t);
    if ((t->flags & AIOL_TRANSPORT_PIPE) != 0 && !t->calls->can_write_eof)
        return aiol_fail(loop, AIOLOOP_ENOTAVAILABLE, "the transport only reads");
    if (t->calls->send_file == NULL && !fallback)
        return aiol_fail(loop, AIOLOOP_ENOTAVAILABLE, "files cannot be sent over this transport but by copying");
    return 0;
}

static int aiol_sendfile_check_socket(aioloop *loop, aioloop_socket socket) {
    aiol_engine *e = loop->engine;
    aiol_sock_call call;
    int family;
    int err = e->sockets->inspect(e, socket, AIOLOOP_SOCK_STREAM, &family);
    if (err < 0)
        return aiol_fail(loop, err, "socket %ld is no stream socket", (long)socket);
    memset(&call, 0, sizeof(call));
    call.kind = AIOL_SOCK_SENDALL;
    call.socket = socket;
    err = aiol_sock_check(loop, &call);
    if (err < 0)
        return err;
    err = e->calls->attach(e, socket, AIOL_OWNER_WATCHER);
    return err < 0 ? aiol_fail(loop, err, "socket %ld", (long)socket) : 0;
}

/* 0, or a code with its message stored. */
static int aiol_sendfile_check(aioloop *loop, const aiol_sendfile_call *call, aiol_file_kind *kind) {
    int err;
    if (call->offset < 0)
        return aiol_fail(loop, AIOLOOP_EINVAL, "offset must not be negative");
    if (call->count == 0 || call->count < -1)
        return aiol_fail(loop, AIOLOOP_EINVAL, "count must be positive, or -1: to the end");
    err = call->transport != NULL ? aiol_sendfile_check_transport(loop, call->transport, call->fallback)
                                  : aiol_sendfile_check_socket(loop, call->socket);
    if (err < 0)
        return err;
    err = aiol_file_inspect(call->file, kind);
    return err < 0 ? aiol_fail(loop, err, "file %ld: %s", (long)call->file, aioloop_strerror(err)) : 0;
}

/* Takes the transport. */
static void aiol_sendfile_enter(aiol_sendfile *s, aioloop_transport *t) {
    s->transport = aioloop_transport_ref(t);
    if ((t->flags & AIOL_TRANSPORT_READ_PAUSED) != 0)
        t->flags |= AIOL_TRANSPORT_READ_HELD;
    else
        aioloop_transport_pause_reading(t);
    t->file = s;
    s->op.kind = AIOL_OP_SENDFILE;
    s->op.fd = t->recv.fd;
    s->op.done = aiol_sendfile_done;
}

static void aiol_sendfile_start(aiol_sendfile *s) {
    aioloop_transport *t = s->transport;
    if (s->kind.regular && s->offset >= s->kind.size)
        aiol_sendfile_end(s, 0);
    else if (!s->kind.regular || (t != NULL && t->calls->send_file == NULL))
        aiol_sendfile_begin_copying(s);
    else if (t == NULL)
        aiol_sendfile_try(s);
    else if (t->calls->send_file(t) && !s->ending)
        aiol_sendfile_go(s, 0);
}

static aioloop_future *aiol_sendfile_new(aioloop *loop, const aiol_sendfile_call *call) {
    aiol_file_kind kind;
    aiol_sendfile *s;
    aioloop_future *f;
    int err;
    memset(&kind, 0, sizeof(kind));
    err = aiol_sendfile_check(loop, call, &kind);
    if (err < 0)
        return aiol_future_failed_now(loop, err);
    s = (aiol_sendfile *)aiol_alloc_zero(&loop->allocator, sizeof(*s));
    f = s == NULL ? NULL : aiol_future_new(loop, aiol_sendfile_cancel, s);
    if (f == NULL) {
        aiol_free(&loop->allocator, s, sizeof(*s));
        return aiol_future_failed(aiol_fail(loop, AIOLOOP_ENOMEM, NULL));
    }
    s->future = f;
    s->kind = kind;
    s->file = call->file;
    s->offset = call->offset;
    s->left = call->count == -1 ? INT64_MAX : call->count;
    s->fallback = call->fallback;
    s->node.run = aiol_sendfile_later;
    s->resource.site = f->site;
    aiol_resource_add(loop, &s->resource, &aiol_sendfile_resource);
    if (call->transport != NULL) {
        aiol_sendfile_enter(s, call->transport);
    } else {
        s->op.kind = AIOL_OP_POLL;
        s->op.fd = call->socket;
        s->op.done = aiol_sendfile_writable;
        s->op.u.poll.events = AIOL_POLL_WRITABLE;
    }
    s->busy++;
    aiol_sendfile_start(s);
    s->busy--;
    aiol_sendfile_free_if_over(s);
    return f;
}

AIOLOOP_API aioloop_future *(aioloop_sendfile)(aioloop *loop, aioloop_transport *transport, aioloop_file file,
                                               int64_t offset, int64_t count, const aioloop_sendfile_options *options) {
    aiol_sendfile_call call;
    int err = transport == NULL ? AIOLOOP_EINVAL : aiol_sock_refuse(loop);
    if (err < 0)
        return aiol_future_failed(err);
    call.transport = transport;
    call.socket = AIOL_NO_SOCKET;
    call.file = file;
    call.offset = offset;
    call.count = count;
    call.fallback = options == NULL || !options->no_fallback;
    return aiol_sendfile_new(loop, &call);
}

AIOLOOP_API aioloop_future *(aioloop_sock_sendfile)(aioloop *loop, aioloop_socket sock, aioloop_file file, int64_t offset,
                                                    int64_t count, const aioloop_sendfile_options *options) {
    aiol_sendfile_call call;
    int err = aiol_sock_refuse(loop);
    if (err < 0)
        return aiol_future_failed(err);
    call.transport = NULL;
    call.socket = sock;
    call.file = file;
    call.offset = offset;
    call.count = count;
    call.fallback = options == NULL || !options->no_fallback;
    return aiol_sendfile_new(loop, &call);
}

#endif
