/*
 * reactor.c - operations over any poller: try, and if it would block, wait until it would not.
 *                                                                              (asyncio: selector_events.py)
 *
 * Each descriptor has at most one operation that waits to read (RECV, ACCEPT, POLL) and one that waits to write (SEND, CONNECT,
 * POLL). What the poller is to watch follows from them; differences are told to it in one go before the wait (dirty list), except
 * for POLL, whose descriptor is the user's and may be closed the moment it is removed.
 *
 * Stale events cannot hurt: an event counts only if the descriptor's generation is the one it was watched with, and the
 * operation was submitted before the harvest in which it was found (op->generation against harvest).
 *
 * A callback may end the very operation it was called for, and its owner: `current` is cleared by cancel, and after each
 * callback the operation is touched only if it is still current.
 */
#ifndef AIOL_IO_REACTOR_C
#define AIOL_IO_REACTOR_C

#include "io/op.h"
#include "poll/wake.c"

#define AIOL_REACTOR_BUFFER (256u * 1024u)

enum { AIOL_FD_TRANSPORT = 1, AIOL_FD_DIRTY = 2, AIOL_FD_FULL = 4 }; /* FULL: the last send was cut, the next would block */
enum { AIOL_OP_KEPT = 1 };                                            /* engine_flags: on the list of kept sources */

typedef struct aiol_reactor_fd {
    aiol_op *in;
    aiol_op *out;
    uint32_t generation;
    uint8_t watched; /* AIOL_READABLE | AIOL_WRITABLE: what the poller watches */
    uint8_t flags;
} aiol_reactor_fd;

/* Bytes a RECV delivered and its owner did not take. */
typedef struct aiol_stash {
    size_t start;
    size_t end;
    size_t block_size; /* the bytes follow */
} aiol_stash;

typedef struct aiol_reactor {
    aiol_engine base;
    aiol_poll poll;
    aiol_wake wake;
    aiol_op wake_op; /* a POLL of its reader */
    unsigned without;
    uint32_t harvest;
    aiol_reactor_fd *fds; /* by descriptor */
    size_t fds_capacity;
    aioloop_socket *dirty; /* room for every descriptor */
    size_t dirty_count;
    size_t dirty_capacity;
    aiol_op *kept;    /* sources with a stash to offer */
    aiol_op *current; /* whose callback runs */
    unsigned char *buffer;
    int ready_next;
    int ready_count;
    aiol_ready ready[AIOL_POLL_BATCH];
} aiol_reactor;

static aiol_reactor_fd *aiol_reactor_at(aiol_reactor *r, aioloop_socket fd) {
    AIOL_ASSERT(fd >= 0 && (size_t)fd < r->fds_capacity);
    return &r->fds[fd];
}

static unsigned aiol_reactor_wanted(const aiol_reactor_fd *entry) {
    return (entry->in != NULL && entry->in->state == AIOL_OP_ACTIVE ? (unsigned)AIOL_READABLE : 0u) |
           (entry->out != NULL ? (unsigned)AIOL_WRITABLE : 0u);
}

static void aiol_reactor_changed(aiol_reactor *r, aioloop_socket fd, aiol_reactor_fd *entry) {
    if ((entry->flags & AIOL_FD_DIRTY) != 0)
        return;
    entry->flags |= AIOL_FD_DIRTY;
    r->dirty[r->dirty_count++] = fd;
}

static int aiol_reactor_tell(aiol_reactor *r, aioloop_socket fd, aiol_reactor_fd *entry) {
    unsigned wanted = aiol_reactor_wanted(entry);
    int err;
    if (wanted == entry->watched)
        return 0;
    err = r->poll.poller->set(&r->poll, fd, entry->watched, wanted, entry->generation);
    if (err == 0 || wanted == 0)
        entry->watched = (uint8_t)wanted;
    return err;
}

/* ---- the kept ---- */

static void aiol_reactor_keep(aiol_reactor *r, aiol_op *op) {
    if ((op->engine_flags & AIOL_OP_KEPT) != 0)
        return;
    op->engine_flags |= AIOL_OP_KEPT;
    op->link = r->kept;
    r->kept = op;
}

static void aiol_reactor_unkeep(aiol_reactor *r, aiol_op *op) {
    aiol_op **at;
    if ((op->engine_flags & AIOL_OP_KEPT) == 0)
        return;
    for (at = &r->kept; *at != op; at = &(*at)->link)
        ;
    *at = op->link;
    op->link = NULL;
    op->engine_flags &= (uint8_t)~AIOL_OP_KEPT;
}

static void aiol_reactor_stash_free(aiol_reactor *r, aiol_op *op) {
    aiol_stash *stash = (aiol_stash *)op->engine;
    if (stash != NULL)
        aiol_free(r->base.allocator, stash, stash->block_size);
    op->engine = NULL;
}

/* The operation leaves the engine. */
static void aiol_reactor_idle(aiol_reactor *r, aiol_op *op) {
    aiol_reactor_fd *entry = aiol_reactor_at(r, op->fd);
    if (entry->in == op)
        entry->in = NULL;
    if (entry->out == op)
        entry->out = NULL;
    op->state = AIOL_OP_IDLE;
    aiol_reactor_unkeep(r, op);
    aiol_reactor_stash_free(r, op);
    aiol_reactor_changed(r, op->fd, entry);
}

static void aiol_reactor_finish(aiol_reactor *r, aiol_op *op, int64_t n) {
    aiol_reactor_idle(r, op);
    op->done(op, n, NULL);
}

/* ---- submitting ---- */

static int64_t aiol_reactor_arm(aiol_reactor *r, aiol_op *op, bool out) {
    aiol_reactor_fd *entry = aiol_reactor_at(r, op->fd);
    AIOL_ASSERT((out ? entry->out : entry->in) == NULL);
    if (out)
        entry->out = op;
    else
        entry->in = op;
    op->state = AIOL_OP_ACTIVE;
    op->generation = r->harvest;
    op->engine = NULL;
    op->engine_flags = 0;
    op->link = NULL;
    aiol_reactor_changed(r, op->fd, entry);
    return AIOL_PENDING;
}

/* The system was offered the pieces and took n bytes, or failed. Less than all: the next try would block. */
static AIOL_NOINLINE int64_t aiol_reactor_attempted(aiol_engine *e, aioloop_socket fd, const aioloop_buf *pieces, int count,
                                                    int64_t n) {
    size_t size = 0;
    int i;
    for (i = 0; i < count; i++)
        size += pieces[i].size;
    if ((uint64_t)n == size || (n < 0 && n != AIOLOOP_EAGAIN))
        return n;
    aiol_reactor_at((aiol_reactor *)e, fd)->flags |= AIOL_FD_FULL;
    return n < 0 ? AIOL_PENDING : n;
}

static int64_t aiol_reactor_attempt(aiol_engine *e, aioloop_socket fd, const aioloop_buf *pieces, int count) {
    int64_t n = aiol_socket_send(fd, pieces, count);
    if (AIOL_LIKELY(count == 1 && (uint64_t)n == pieces->size))
        return n;
    return aiol_reactor_attempted(e, fd, pieces, count, n);
}

static int64_t aiol_reactor_watch(aiol_reactor *r, aiol_op *op) {
    bool out = op->u.poll.events == AIOL_POLL_WRITABLE;
    aiol_reactor_fd *entry = aiol_reactor_at(r, op->fd);
    int err;
    aiol_reactor_arm(r, op, out);
    /* Told at once, for the answer; and always, because the user may have closed the number and opened it anew. */
    err = r->poll.poller->set(&r->poll, op->fd, entry->watched, aiol_reactor_wanted(entry), entry->generation);
    if (err < 0) {
        aiol_reactor_idle(r, op);
        return err;
    }
    entry->watched = (uint8_t)aiol_reactor_wanted(entry);
    return AIOL_PENDING;
}

static int64_t aiol_reactor_submit(aiol_engine *e, aiol_op *op) {
    aiol_reactor *r = (aiol_reactor *)e;
    int64_t n;
    switch ((aiol_op_kind)op->kind) {
    case AIOL_OP_SEND:
        n = AIOL_PENDING;
        if ((aiol_reactor_at(r, op->fd)->flags & AIOL_FD_FULL) == 0)
            n = aiol_reactor_attempt(e, op->fd, op->u.send.pieces, op->u.send.count);
        return n != AIOL_PENDING ? n : aiol_reactor_arm(r, op, true);
    case AIOL_OP_CONNECT:
        n = aiol_socket_connect(op->fd, op->u.connect.address);
        return n != AIOLOOP_EINPROGRESS ? n : aiol_reactor_arm(r, op, true);
    case AIOL_OP_POLL:
        return aiol_reactor_watch(r, op);
    case AIOL_OP_RECV:
    case AIOL_OP_ACCEPT:
        break;
    }
    return aiol_reactor_arm(r, op, false);
}

static int aiol_reactor_cancel(aiol_engine *e, aiol_op *op) {
    aiol_reactor *r = (aiol_reactor *)e;
    if (r->current == op)
        r->current = NULL;
    aiol_reactor_idle(r, op);
    if (op->kind == AIOL_OP_POLL) /* at once: the descriptor may be closed the next moment */
        aiol_reactor_tell(r, op->fd, aiol_reactor_at(r, op->fd));
    return 0;
}

static void aiol_reactor_stop(aiol_engine *e, aiol_op *op) {
    aiol_reactor *r = (aiol_reactor *)e;
    if (op->state != AIOL_OP_ACTIVE)
        return;
    op->state = AIOL_OP_STOPPED;
    aiol_reactor_unkeep(r, op);
    aiol_reactor_changed(r, op->fd, aiol_reactor_at(r, op->fd));
}

static void aiol_reactor_start(aiol_engine *e, aiol_op *op) {
    aiol_reactor *r = (aiol_reactor *)e;
    if (op->state != AIOL_OP_STOPPED)
        return;
    op->state = AIOL_OP_ACTIVE;
    if (op->engine != NULL)
        aiol_reactor_keep(r, op);
    aiol_reactor_changed(r, op->fd, aiol_reactor_at(r, op->fd));
}

static size_t aiol_reactor_take(aiol_engine *e, aiol_op *op, void *to, size_t size) {
    aiol_reactor *r = (aiol_reactor *)e;
    aiol_stash *stash = (aiol_stash *)op->engine;
    size_t n;
    if (stash == NULL)
        return 0;
    n = aiol_min_size(size, stash->end - stash->start);
    memcpy(to, (const char *)(stash + 1) + stash->start, n);
    stash->start += n;
    if (stash->start == stash->end)
        aiol_reactor_stash_free(r, op);
    return n;
}

static aiol_op *aiol_reactor_watching(aiol_engine *e, aioloop_socket fd, unsigned event) {
    aiol_reactor *r = (aiol_reactor *)e;
    aiol_op *op;
    if (fd < 0 || (size_t)fd >= r->fds_capacity)
        return NULL;
    op = event == AIOL_POLL_READABLE ? r->fds[fd].in : r->fds[fd].out;
    return op != NULL && op->kind == AIOL_OP_POLL ? op : NULL;
}

static bool aiol_reactor_owned(aiol_engine *e, aioloop_socket fd) {
    aiol_reactor *r = (aiol_reactor *)e;
    return fd >= 0 && (size_t)fd < r->fds_capacity && (r->fds[fd].flags & AIOL_FD_TRANSPORT) != 0;
}

/* ---- descriptors ---- */

static int aiol_reactor_attach(aiol_engine *e, aioloop_socket fd, aiol_owner owner) {
    aiol_reactor *r = (aiol_reactor *)e;
    aiol_reactor_fd *entry;
    int err;
    err = owner == AIOL_OWNER_WATCHER ? aiol_descriptor_check(fd) : fd < 0 ? AIOLOOP_EINVAL : 0;
    if (err == 0)
        err = r->poll.poller->reserve(&r->poll, fd);
    if (err == 0)
        err = aiol_grow(e->allocator, &r->fds, &r->fds_capacity, sizeof(r->fds[0]), (size_t)fd + 1);
    if (err == 0)
        err = aiol_grow(e->allocator, &r->dirty, &r->dirty_capacity, sizeof(r->dirty[0]), r->fds_capacity);
    if (err == 0 && r->buffer == NULL && owner == AIOL_OWNER_TRANSPORT) {
        r->buffer = (unsigned char *)aiol_alloc(e->allocator, AIOL_REACTOR_BUFFER);
        err = r->buffer == NULL ? AIOLOOP_ENOMEM : 0;
    }
    if (err < 0)
        return err;
    entry = &r->fds[fd];
    if ((entry->flags & AIOL_FD_TRANSPORT) != 0)
        return AIOLOOP_EMISUSE;
    if (owner == AIOL_OWNER_WATCHER)
        return 0;
    if (entry->in != NULL || entry->out != NULL)
        return AIOLOOP_EMISUSE;
    entry->flags |= AIOL_FD_TRANSPORT;
    entry->flags &= (uint8_t)~AIOL_FD_FULL;
    entry->generation++;
    return 0;
}

static void aiol_reactor_quiesce(aiol_engine *e, aioloop_socket fd) {
    aiol_reactor *r = (aiol_reactor *)e;
    aiol_reactor_fd *entry = aiol_reactor_at(r, fd);
    AIOL_ASSERT(entry->in == NULL && entry->out == NULL);
    aiol_reactor_tell(r, fd, entry);
    entry->flags &= (uint8_t)~(AIOL_FD_TRANSPORT | AIOL_FD_FULL);
    entry->generation++;
}

/* ---- waiting ---- */

/* A descriptor the poller refuses fails its operations: told as an event of no descriptor's readiness. */
static int aiol_reactor_flush(aiol_engine *e) {
    aiol_reactor *r = (aiol_reactor *)e;
    while (r->dirty_count != 0) {
        aioloop_socket fd = r->dirty[r->dirty_count - 1];
        aiol_reactor_fd *entry = &r->fds[fd];
        int err = aiol_reactor_tell(r, fd, entry);
        if (err < 0)
            return err;
        entry->flags &= (uint8_t)~AIOL_FD_DIRTY;
        r->dirty_count--;
    }
    return 0;
}

/* What a descriptor's operations get that the poller refused: nobody would ever hear of them again. */
static void aiol_reactor_refuse(aiol_reactor *r, int err) {
    aioloop_socket fd = r->dirty[--r->dirty_count];
    aiol_reactor_fd *entry = &r->fds[fd];
    aiol_op *in = entry->in;
    entry->flags &= (uint8_t)~AIOL_FD_DIRTY;
    if (in != NULL)
        aiol_reactor_finish(r, in, err);
    entry = &r->fds[fd];
    if (entry->out != NULL)
        aiol_reactor_finish(r, entry->out, err);
}

static aioloop_time aiol_reactor_now(aiol_engine *e) {
    (void)e;
    return aiol_clock_now();
}

/* How long to wait, in nanoseconds; below 0: for ever. */
static int64_t aiol_reactor_timeout(const aiol_reactor *r, aioloop_time deadline) {
    int64_t timeout;
    if (r->kept != NULL || deadline <= 0)
        return 0;
    if (deadline == AIOLOOP_FOREVER)
        return -1;
    timeout = deadline - aiol_clock_now();
    return timeout < 0 ? 0 : timeout;
}

static int aiol_reactor_wait(aiol_engine *e, aioloop_time deadline) {
    aiol_reactor *r = (aiol_reactor *)e;
    int n;
    if (AIOL_UNLIKELY(r->ready_next < r->ready_count)) /* a halted dispatch left them */
        return 1;
    if (r->dirty_count != 0 && aiol_reactor_flush(e) < 0)
        return 1; /* dispatch tells whose it is */
    n = r->poll.poller->wait(&r->poll, aiol_reactor_timeout(r, deadline), r->ready);
    r->harvest++;
    r->ready_next = 0;
    r->ready_count = n < 0 ? 0 : n;
    return n != 0 ? n : r->kept != NULL;
}

/* ---- dispatching ---- */

/* Keeps what a RECV did not take. */
static AIOL_NOINLINE void aiol_reactor_stash(aiol_reactor *r, aiol_op *op, const unsigned char *data, size_t size) {
    aiol_stash *stash = (aiol_stash *)aiol_alloc(r->base.allocator, sizeof(*stash) + size);
    if (stash == NULL) {
        aiol_reactor_finish(r, op, AIOLOOP_ENOMEM);
        return;
    }
    stash->start = 0;
    stash->end = size;
    stash->block_size = sizeof(*stash) + size;
    memcpy(stash + 1, data, size);
    op->engine = stash;
    if (op->state == AIOL_OP_ACTIVE)
        aiol_reactor_keep(r, op);
}

/* Asks where the next bytes of a RECV go: *size of them at *to. False if nowhere now. */
static bool aiol_reactor_place(aiol_reactor *r, aiol_op *op, unsigned char **to, size_t *size) {
    void *buffer = NULL;
    r->current = op;
    *size = op->u.recv.dest(op, &buffer);
    *to = (unsigned char *)buffer;
    return r->current == op && op->state == AIOL_OP_ACTIVE && *size != 0;
}

/* Into memory of the receiver's. */
static AIOL_NOINLINE void aiol_reactor_recv_into(aiol_reactor *r, aiol_op *op, const aiol_budget *budget) {
    size_t left = budget->bytes;
    while (op->u.recv.dest != NULL) { /* a callback may change it */
        unsigned char *to;
        size_t size;
        int64_t n;
        if (!aiol_reactor_place(r, op, &to, &size))
            return;
        n = aiol_socket_recv(op->fd, to, size);
        if (n == AIOLOOP_EAGAIN)
            return;
        if (n <= 0) {
            aiol_reactor_finish(r, op, n);
            return;
        }
        r->current = op;
        op->done(op, n, to);
        if (r->current != op || (size_t)n < size || (size_t)n >= left || op->state != AIOL_OP_ACTIVE || *budget->halt)
            return;
        if (AIOL_UNLIKELY(op->u.recv.dest == NULL)) /* its owner changed its mind; the poller tells again */
            return;
        left -= (size_t)n;
    }
}

/* Into the engine's buffer. */
static void aiol_reactor_recv(aiol_reactor *r, aiol_op *op, const aiol_budget *budget) {
    size_t left = budget->bytes;
    while (op->u.recv.dest == NULL) {
        int64_t n = aiol_socket_recv(op->fd, r->buffer, AIOL_REACTOR_BUFFER);
        size_t taken;
        if (AIOL_UNLIKELY(n <= 0)) {
            if (n != AIOLOOP_EAGAIN)
                aiol_reactor_finish(r, op, n);
            return;
        }
        r->current = op;
        taken = op->done(op, n, r->buffer);
        if (r->current != op)
            return;
        if (AIOL_UNLIKELY(taken < (size_t)n)) {
            aiol_reactor_stash(r, op, r->buffer + taken, (size_t)n - taken);
            return;
        }
        /* A short read has emptied the socket; the poller tells when there is more. */
        if ((size_t)n < AIOL_REACTOR_BUFFER || (size_t)n >= left || op->state != AIOL_OP_ACTIVE || *budget->halt)
            return;
        if (AIOL_UNLIKELY(op->u.recv.dest != NULL))
            return;
        left -= (size_t)n;
    }
}

static void aiol_reactor_accept(aiol_reactor *r, aiol_op *op, const aiol_budget *budget) {
    int left = op->u.accept.budget;
    do {
        aioloop_address peer;
        aiol_path_room room;
        aioloop_socket s = AIOL_NO_SOCKET;
        int err = aiol_socket_accept(op->fd, r->without, &s, &peer, &room);
        if (err == AIOLOOP_EAGAIN)
            return;
        if (err < 0) {
            aiol_reactor_finish(r, op, err);
            return;
        }
        r->current = op;
        op->done(op, s, &peer);
    } while (--left > 0 && r->current == op && op->state == AIOL_OP_ACTIVE && !*budget->halt);
}

static void aiol_reactor_readable(aiol_reactor *r, aiol_op *op, const aiol_budget *budget) {
    if (op == NULL || op->state != AIOL_OP_ACTIVE || op->generation == r->harvest)
        return;
    if (AIOL_UNLIKELY(op->kind == AIOL_OP_POLL))
        op->done(op, AIOL_POLL_READABLE, NULL);
    else if (AIOL_UNLIKELY(op->kind == AIOL_OP_ACCEPT))
        aiol_reactor_accept(r, op, budget);
    else if (AIOL_UNLIKELY(op->engine != NULL))
        return; /* the stash goes first */
    else if (op->u.recv.dest == NULL)
        aiol_reactor_recv(r, op, budget);
    else
        aiol_reactor_recv_into(r, op, budget);
}

static void aiol_reactor_writable(aiol_reactor *r, aioloop_socket fd) {
    aiol_reactor_fd *entry = &r->fds[fd];
    aiol_op *op = entry->out;
    int64_t n;
    if (op == NULL || op->generation == r->harvest)
        return;
    entry->flags &= (uint8_t)~AIOL_FD_FULL;
    switch ((aiol_op_kind)op->kind) {
    case AIOL_OP_POLL:
        op->done(op, AIOL_POLL_WRITABLE, NULL);
        return;
    case AIOL_OP_CONNECT:
        aiol_reactor_finish(r, op, aiol_socket_connected(fd));
        return;
    default:
        n = aiol_reactor_attempt(&r->base, fd, op->u.send.pieces, op->u.send.count);
        if (n != AIOL_PENDING)
            aiol_reactor_finish(r, op, n);
        return;
    }
}

/* Offers every stash that there is now, once. */
static void aiol_reactor_offer(aiol_reactor *r, const aiol_budget *budget) {
    aiol_op *op;
    size_t n = 0;
    for (op = r->kept; op != NULL; op = op->link)
        n++;
    for (; n > 0 && r->kept != NULL && !*budget->halt; n--) {
        aiol_stash *stash;
        unsigned char *to;
        size_t size;
        size_t there;
        aiol_op **last = &r->kept;
        while ((*last)->link != NULL) /* the oldest */
            last = &(*last)->link;
        op = *last;
        aiol_reactor_unkeep(r, op);
        stash = (aiol_stash *)op->engine;
        if (op->u.recv.dest != NULL) {
            if (!aiol_reactor_place(r, op, &to, &size)) {
                if (r->current == op && op->state == AIOL_OP_ACTIVE && op->engine != NULL)
                    aiol_reactor_keep(r, op);
                continue;
            }
            there = aiol_min_size(size, stash->end - stash->start);
            memcpy(to, (char *)(stash + 1) + stash->start, there);
            stash->start += there;
            if (stash->start == stash->end)
                aiol_reactor_stash_free(r, op);
            r->current = op;
            op->done(op, (int64_t)there, to);
            if (r->current == op && op->state == AIOL_OP_ACTIVE && op->engine != NULL)
                aiol_reactor_keep(r, op);
        } else {
            const unsigned char *data = (const unsigned char *)(stash + 1) + stash->start;
            size_t taken;
            there = stash->end - stash->start;
            op->engine = NULL; /* what is left of it goes into a new one */
            r->current = op;
            taken = op->done(op, (int64_t)there, data);
            if (r->current == op && taken < there)
                aiol_reactor_stash(r, op, data + taken, there - taken);
            aiol_free(r->base.allocator, stash, stash->block_size);
        }
    }
}

/* What could not be told to the poller. */
static AIOL_NOINLINE void aiol_reactor_refuse_all(aiol_reactor *r, const aiol_budget *budget) {
    while (r->dirty_count != 0 && !*budget->halt) {
        int err = aiol_reactor_flush(&r->base);
        if (err == 0)
            break;
        aiol_reactor_refuse(r, err);
    }
}

static int aiol_reactor_dispatch(aiol_engine *e, const aiol_budget *budget) {
    aiol_reactor *r = (aiol_reactor *)e;
    if (AIOL_UNLIKELY(r->dirty_count != 0))
        aiol_reactor_refuse_all(r, budget);
    if (AIOL_UNLIKELY(r->kept != NULL))
        aiol_reactor_offer(r, budget);
    while (r->ready_next < r->ready_count && !*budget->halt) {
        aiol_ready found = r->ready[r->ready_next];
        const aiol_reactor_fd *entry = &r->fds[found.fd];
        if (AIOL_UNLIKELY(found.events == (AIOL_READABLE | AIOL_WRITABLE)))
            r->ready[r->ready_next].events = AIOL_WRITABLE; /* comes after; a halt comes back for it */
        else
            r->ready_next++;
        if (AIOL_UNLIKELY(entry->generation != found.generation))
            continue;
        if (AIOL_LIKELY((found.events & AIOL_READABLE) != 0))
            aiol_reactor_readable(r, entry->in, budget);
        else
            aiol_reactor_writable(r, found.fd);
    }
    return r->kept != NULL || r->ready_next < r->ready_count ? 1 : 0;
}

/* ---- the rest ---- */

static int aiol_reactor_descriptor(aiol_engine *e) {
    aiol_reactor *r = (aiol_reactor *)e;
    return r->poll.poller->descriptor(&r->poll);
}

static void aiol_reactor_wake(aiol_engine *e) {
    aiol_wake_signal(&((aiol_reactor *)e)->wake);
}

static size_t aiol_reactor_woken(aiol_op *op, int64_t n, const void *data) {
    const aiol_reactor *r = AIOL_CONTAINER(op, const aiol_reactor, wake_op);
    (void)n;
    (void)data;
    aiol_wake_drain(&r->wake);
    return 0;
}

static void aiol_reactor_close(aiol_engine *e) {
    aiol_reactor *r = (aiol_reactor *)e;
    const aioloop_allocator *a = e->allocator;
    r->poll.poller->close(&r->poll);
    aiol_wake_close(&r->wake);
    aiol_free(a, r->fds, r->fds_capacity * sizeof(r->fds[0]));
    aiol_free(a, r->dirty, r->dirty_capacity * sizeof(r->dirty[0]));
    aiol_free(a, r->buffer, AIOL_REACTOR_BUFFER);
    aiol_free(a, r, sizeof(*r));
}

static void aiol_reactor_verify(aiol_engine *e) {
    const aiol_reactor *r = (const aiol_reactor *)(const void *)e;
    size_t dirty = 0;
    size_t i;
    for (i = 0; i < r->fds_capacity; i++) {
        const aiol_reactor_fd *entry = &r->fds[i];
        AIOL_VERIFY(entry->in == NULL || (entry->in->fd == (aioloop_socket)i && entry->in->state != AIOL_OP_IDLE));
        AIOL_VERIFY(entry->out == NULL || (entry->out->fd == (aioloop_socket)i && entry->out->state == AIOL_OP_ACTIVE));
        AIOL_VERIFY((entry->flags & AIOL_FD_DIRTY) != 0 || entry->watched == aiol_reactor_wanted(entry));
        if ((entry->flags & AIOL_FD_DIRTY) != 0)
            dirty++;
    }
    AIOL_VERIFY(dirty == r->dirty_count);
}

static const aiol_engine_calls aiol_reactor_calls = {
    aiol_reactor_close,  aiol_reactor_submit,     aiol_reactor_attempt,  aiol_reactor_cancel, aiol_reactor_stop,
    aiol_reactor_start,  aiol_reactor_take,       aiol_reactor_watching, aiol_reactor_owned, aiol_reactor_attach, aiol_reactor_quiesce,
    aiol_reactor_wait,   aiol_reactor_dispatch,   aiol_reactor_flush,    aiol_reactor_descriptor,
    aiol_reactor_wake,   aiol_reactor_close,      aiol_reactor_now,      aiol_reactor_verify,
};

/* ---- sockets: the system's ---- */

static int aiol_system_open(aiol_engine *e, int family, aioloop_socket *out) {
    (void)e;
    return aiol_socket_open(family, out);
}
static int aiol_system_close(aiol_engine *e, aioloop_socket s) {
    (void)e;
    return aiol_socket_close(s);
}
static int aiol_system_bind(aiol_engine *e, aioloop_socket s, const aioloop_address *address) {
    (void)e;
    return aiol_socket_bind(s, address);
}
static int aiol_system_listen(aiol_engine *e, aioloop_socket s, int backlog) {
    (void)e;
    return aiol_socket_listen(s, backlog);
}
static int aiol_system_shutdown(aiol_engine *e, aioloop_socket s) {
    (void)e;
    return aiol_socket_shutdown(s);
}
static int aiol_system_set(aiol_engine *e, aioloop_socket s, aiol_socket_option option, int value) {
    (void)e;
    return aiol_socket_set(s, option, value);
}
static int aiol_system_inspect(aiol_engine *e, aioloop_socket s, int *family) {
    (void)e;
    return aiol_socket_inspect(s, family);
}
static int aiol_system_adopt(aiol_engine *e, aioloop_socket s) {
    (void)e;
    return aiol_socket_adopt(s);
}
static int aiol_system_name(aiol_engine *e, aioloop_socket s, aioloop_address *address, aiol_path_room *room) {
    (void)e;
    return aiol_socket_name(s, address, room);
}
static int aiol_system_peer(aiol_engine *e, aioloop_socket s, aioloop_address *address, aiol_path_room *room) {
    (void)e;
    return aiol_socket_peer(s, address, room);
}
static int aiol_system_path_identify(aiol_engine *e, const char *path, size_t size, aiol_path_identity *identity) {
    (void)e;
    return aiol_path_identify(path, size, identity);
}
static int aiol_system_path_remove(aiol_engine *e, const char *path, size_t size) {
    (void)e;
    return aiol_path_remove(path, size);
}

static const aiol_socket_calls aiol_system_sockets = {
    aiol_system_open,    aiol_system_close, aiol_system_bind, aiol_system_listen,        aiol_system_shutdown,    aiol_system_set,
    aiol_system_inspect, aiol_system_adopt, aiol_system_name, aiol_system_peer, aiol_system_path_identify, aiol_system_path_remove,
};

AIOLOOP_INTERNAL int aiol_reactor_open(const aiol_engine_setup *setup, const aiol_poller *poller, aiol_engine **out) {
    aiol_reactor *r = (aiol_reactor *)aiol_alloc_zero(setup->allocator, sizeof(*r));
    int err;
    if (r == NULL)
        return AIOLOOP_ENOMEM;
    r->base.name = poller->name;
    r->base.calls = &aiol_reactor_calls;
    r->base.sockets = &aiol_system_sockets;
    r->base.allocator = setup->allocator;
    r->without = setup->without;
    r->poll.poller = poller;
    r->poll.allocator = setup->allocator;
    r->poll.without = setup->without;
    err = poller->open(&r->poll);
    if (err < 0)
        goto free_reactor;
    err = aiol_wake_open(&r->wake, setup->without);
    if (err < 0)
        goto close_poller;
    r->wake_op.kind = AIOL_OP_POLL;
    r->wake_op.fd = r->wake.reader;
    r->wake_op.done = aiol_reactor_woken;
    r->wake_op.u.poll.events = AIOL_POLL_READABLE;
    err = aiol_reactor_attach(&r->base, r->wake.reader, AIOL_OWNER_WATCHER);
    if (err == 0)
        err = (int)aiol_reactor_submit(&r->base, &r->wake_op);
    if (err != AIOL_PENDING) {
        aiol_reactor_close(&r->base);
        return err;
    }
    *out = &r->base;
    return 0;
close_poller:
    poller->close(&r->poll);
free_reactor:
    aiol_free(setup->allocator, r, sizeof(*r));
    return err;
}

#endif
