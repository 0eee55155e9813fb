/*
 * reactor.c - operations over any poller: try, and if it would block, wait until it would not.
 *                                                                              (asyncio: selector_events.py)
 *
 * What the poller is to watch at a descriptor follows from the operations that wait there; differences are told to it
 * in one go before the wait, except for POLL, whose descriptor is the user's and may be closed the moment it is
 * removed.
 *
 * Stale events cannot hurt: an event counts only if the descriptor's generation is the one it was watched with, and the
 * operation was submitted before the harvest in which it was found (op->generation against harvest).
 */
#ifndef AIOL_IO_REACTOR_C
#define AIOL_IO_REACTOR_C

#include "io/table.c"
#include "poll/wake.c"

typedef struct aiol_reactor {
    aiol_table table;
    aiol_poll poll;
    aiol_wake wake;
    aiol_op wake_op; /* a POLL of its reader */
    uint32_t harvest;
    int ready_next;
    int ready_count;
    aiol_ready ready[AIOL_POLL_BATCH];
} aiol_reactor;

static unsigned aiol_reactor_wanted(const aiol_fd *entry) {
    return (entry->in != NULL && entry->in->state == AIOL_OP_ACTIVE ? (unsigned)AIOL_READABLE : 0u) |
           (entry->out != NULL && entry->out->state == AIOL_OP_ACTIVE ? (unsigned)AIOL_WRITABLE : 0u);
}

static int aiol_reactor_tell(aiol_reactor *r, aioloop_socket fd, aiol_fd *entry) {
    unsigned wanted = aiol_reactor_wanted(entry);
    int err;
    if (wanted == entry->watched)
        return 0;
    err = r->poll.poller->set(&r->poll, fd, entry->watched, wanted, entry->generation);
    if (err == 0 || wanted == 0)
        entry->watched = (uint8_t)wanted;
    return err;
}

/* ---- submitting ---- */

static int64_t aiol_reactor_arm(aiol_reactor *r, aiol_op *op, bool out) {
    op->generation = r->harvest;
    return aiol_table_wait_at(&r->table, op, out);
}

static int64_t aiol_reactor_attempt(aiol_engine *e, aioloop_socket fd, const aioloop_buf *pieces, int count, bool now) {
    int64_t n = aiol_table_send((aiol_table *)e, fd, pieces, count);
    (void)now;
    if (AIOL_LIKELY(count == 1 && (uint64_t)n == pieces->size))
        return n;
    return aiol_table_attempted(e, fd, pieces, count, n);
}

static int64_t aiol_reactor_watch(aiol_reactor *r, aiol_op *op) {
    bool out = op->u.poll.events == AIOL_POLL_WRITABLE;
    aiol_fd *entry = aiol_table_at(&r->table, op->fd);
    int err;
    aiol_reactor_arm(r, op, out);
    /* Told at once, for the answer; and always, because the user may have closed the number and opened it anew. */
    err = r->poll.poller->set(&r->poll, op->fd, entry->watched, aiol_reactor_wanted(entry), entry->generation);
    if (err < 0) {
        aiol_table_idle(&r->table, op);
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
        if ((aiol_table_at(&r->table, op->fd)->flags & AIOL_FD_FULL) == 0)
            n = aiol_reactor_attempt(e, op->fd, op->u.send.pieces, op->u.send.count, true);
        return n != AIOL_PENDING ? n : aiol_reactor_arm(r, op, true);
    case AIOL_OP_SENDFILE:
        n = aiol_table_begin_file(&r->table, op);
        return n != AIOL_PENDING ? n : aiol_reactor_arm(r, op, true);
    case AIOL_OP_SENDTO:
        n = aiol_table_begin_sendto(&r->table, op);
        return n != AIOL_PENDING ? n : aiol_reactor_arm(r, op, true);
    case AIOL_OP_CONNECT:
        n = aiol_socket_connect(op->fd, op->u.connect.address);
        return n != AIOLOOP_EINPROGRESS ? n : aiol_reactor_arm(r, op, true);
    case AIOL_OP_POLL:
        return aiol_reactor_watch(r, op);
    case AIOL_OP_RECV:
    case AIOL_OP_RECVFROM:
    case AIOL_OP_ACCEPT:
        break;
    }
    return aiol_reactor_arm(r, op, false);
}

static int aiol_reactor_cancel(aiol_engine *e, aiol_op *op) {
    aiol_reactor *r = (aiol_reactor *)e;
    aiol_table_idle(&r->table, op);
    if (op->kind == AIOL_OP_POLL) /* at once: the descriptor may be closed the next moment */
        aiol_reactor_tell(r, op->fd, aiol_table_at(&r->table, op->fd));
    return 0;
}

/* ---- descriptors ---- */

static int aiol_reactor_attach(aiol_engine *e, aioloop_socket fd, aiol_owner owner) {
    aiol_reactor *r = (aiol_reactor *)e;
    int err = fd < 0 ? AIOLOOP_EINVAL : r->poll.poller->reserve(&r->poll, fd);
    return err < 0 ? err : aiol_table_attach(e, fd, owner);
}

static void aiol_reactor_quiesce(aiol_engine *e, aioloop_socket fd) {
    aiol_reactor *r = (aiol_reactor *)e;
    aiol_fd *entry = aiol_table_at(&r->table, fd);
    AIOL_ASSERT(entry->in == NULL && entry->out == NULL);
    aiol_reactor_tell(r, fd, entry);
    entry->flags &= (uint8_t)~(AIOL_FD_TRANSPORT | AIOL_FD_FULL);
    entry->generation++;
}

/* ---- waiting ---- */

/* A descriptor the poller refuses fails its operations: told as an event of no descriptor's readiness. */
static int aiol_reactor_tell_all(aiol_reactor *r) {
    while (r->table.dirty_count != 0) {
        aioloop_socket fd = r->table.dirty[r->table.dirty_count - 1];
        aiol_fd *entry = &r->table.fds[fd];
        int err = aiol_reactor_tell(r, fd, entry);
        if (err < 0)
            return err;
        entry->flags &= (uint8_t)~AIOL_FD_DIRTY;
        r->table.dirty_count--;
    }
    return 0;
}

static int aiol_reactor_flush(aiol_engine *e) {
    aiol_reactor *r = (aiol_reactor *)e;
    int err = aiol_reactor_tell_all(r);
    return err == 0 && r->table.kept != NULL ? AIOLOOP_EAGAIN : err;
}

/* What a descriptor's operations get that the poller refused: nobody would ever hear of them again. */
static void aiol_reactor_refuse(aiol_reactor *r, int err) {
    aioloop_socket fd = r->table.dirty[--r->table.dirty_count];
    aiol_fd *entry = &r->table.fds[fd];
    aiol_op *in = entry->in;
    char byte;
    entry->flags &= (uint8_t)~AIOL_FD_DIRTY;
    if (in != NULL && in->kind == AIOL_OP_RECV && in->u.recv.pipe && aiol_pipe_read(fd, &byte, 1) == 0)
        aiol_table_finish(&r->table, in, 0); /* epoll refuses what is always ready, such as /dev/null */
    else if (in != NULL)
        aiol_table_finish(&r->table, in, err);
    entry = &r->table.fds[fd];
    if (entry->out != NULL)
        aiol_table_finish(&r->table, entry->out, err);
}

static int aiol_reactor_wait(aiol_engine *e, aioloop_time deadline) {
    aiol_reactor *r = (aiol_reactor *)e;
    int n;
    if (AIOL_UNLIKELY(r->ready_next < r->ready_count)) /* a halted dispatch left them */
        return 1;
    if (r->table.dirty_count != 0 && aiol_reactor_tell_all(r) < 0)
        return 1; /* dispatch tells whose it is */
    n = r->poll.poller->wait(&r->poll, aiol_table_timeout(&r->table, deadline), r->ready);
    r->harvest++;
    r->ready_next = 0;
    r->ready_count = n < 0 ? 0 : n;
    return n != 0 ? n : r->table.kept != NULL;
}

/* ---- dispatching ---- */

static void aiol_reactor_readable(aiol_reactor *r, aiol_op *op, const aiol_budget *budget) {
    if (op == NULL || op->state != AIOL_OP_ACTIVE || op->generation == r->harvest)
        return;
    if (AIOL_UNLIKELY(op->kind == AIOL_OP_POLL))
        op->done(op, AIOL_POLL_READABLE, NULL);
    else if (AIOL_UNLIKELY(op->kind == AIOL_OP_ACCEPT))
        aiol_table_accept(&r->table, op, budget);
    else if (AIOL_UNLIKELY(op->engine_flags != 0))
        return; /* what is kept goes first */
    else if (op->kind == AIOL_OP_RECVFROM)
        aiol_table_recvfrom(&r->table, op, budget);
    else if (op->u.recv.dest == NULL)
        aiol_table_recv(&r->table, op, budget);
    else
        aiol_table_recv_into(&r->table, op, budget);
}

static void aiol_reactor_writable(aiol_reactor *r, aioloop_socket fd) {
    aiol_fd *entry = &r->table.fds[fd];
    aiol_op *op = entry->out;
    int64_t n;
    if (op == NULL || op->state != AIOL_OP_ACTIVE || op->generation == r->harvest)
        return;
    entry->flags &= (uint8_t)~AIOL_FD_FULL;
    switch ((aiol_op_kind)op->kind) {
    case AIOL_OP_POLL:
        op->done(op, AIOL_POLL_WRITABLE, NULL);
        return;
    case AIOL_OP_CONNECT:
        aiol_table_finish(&r->table, op, aiol_socket_connected(fd));
        return;
    default:
        if (op->kind == AIOL_OP_SENDFILE)
            n = aiol_table_attempt_file(&r->table, op);
        else if (op->kind == AIOL_OP_SENDTO)
            n = aiol_table_attempt_to(&r->table.base, fd, op->u.sendto.first);
        else
            n = aiol_reactor_attempt(&r->table.base, fd, op->u.send.pieces, op->u.send.count, true);
        if (n != AIOL_PENDING)
            aiol_table_finish(&r->table, op, n);
        return;
    }
}

/* What could not be told to the poller. */
static AIOL_NOINLINE void aiol_reactor_refuse_all(aiol_reactor *r, const aiol_budget *budget) {
    while (r->table.dirty_count != 0 && !*budget->halt) {
        int err = aiol_reactor_tell_all(r);
        if (err == 0)
            break;
        aiol_reactor_refuse(r, err);
    }
}

static int aiol_reactor_dispatch(aiol_engine *e, const aiol_budget *budget) {
    aiol_reactor *r = (aiol_reactor *)e;
    if (AIOL_UNLIKELY(r->table.dirty_count != 0))
        aiol_reactor_refuse_all(r, budget);
    if (AIOL_UNLIKELY(r->table.kept != NULL))
        aiol_table_offer(&r->table, budget);
    while (r->ready_next < r->ready_count && !*budget->halt) {
        aiol_ready found = r->ready[r->ready_next];
        const aiol_fd *entry = &r->table.fds[found.fd];
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
    return r->table.kept != NULL || r->ready_next < r->ready_count ? 1 : 0;
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
    r->poll.poller->close(&r->poll);
    aiol_wake_close(&r->wake);
    aiol_table_free(&r->table);
    aiol_free(e->allocator, r, sizeof(*r));
}

static void aiol_reactor_verify(aiol_engine *e) {
    const aiol_reactor *r = (const aiol_reactor *)(const void *)e;
    size_t i;
    aiol_table_verify(&r->table);
    for (i = 0; i < r->table.fds_capacity; i++) {
        const aiol_fd *entry = &r->table.fds[i];
        AIOL_VERIFY((entry->flags & AIOL_FD_DIRTY) != 0 || entry->watched == aiol_reactor_wanted(entry));
    }
}

static const aiol_engine_calls aiol_reactor_calls = {
    aiol_reactor_close,  aiol_reactor_submit,     aiol_reactor_attempt,  aiol_table_attempt_to, aiol_reactor_cancel, aiol_table_stop,
    aiol_table_start,  aiol_table_take,       aiol_table_watching, aiol_table_owned, aiol_reactor_attach, aiol_reactor_quiesce,
    aiol_reactor_wait,   aiol_reactor_dispatch,   aiol_reactor_flush,    aiol_reactor_descriptor,
    aiol_reactor_wake,   aiol_reactor_close,      aiol_table_now,      aiol_reactor_verify,
};

AIOLOOP_INTERNAL int aiol_reactor_open(const aiol_engine_setup *setup, const aiol_poller *poller, aiol_engine **out) {
    aiol_reactor *r = (aiol_reactor *)aiol_alloc_zero(setup->allocator, sizeof(*r));
    int err;
    if (r == NULL)
        return AIOLOOP_ENOMEM;
    r->table.base.name = poller->name;
    r->table.base.calls = &aiol_reactor_calls;
    r->table.base.sockets = &aiol_system_sockets;
    r->table.base.allocator = setup->allocator;
    r->table.without = setup->without;
    r->table.watches = true;
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
    err = aiol_reactor_attach(&r->table.base, r->wake.reader, AIOL_OWNER_WATCHER);
    if (err == 0)
        err = (int)aiol_reactor_submit(&r->table.base, &r->wake_op);
    if (err != AIOL_PENDING) {
        aiol_reactor_close(&r->table.base);
        return err;
    }
    *out = &r->table.base;
    return 0;
close_poller:
    poller->close(&r->poll);
free_reactor:
    aiol_free(setup->allocator, r, sizeof(*r));
    return err;
}

#endif
