/*
 * table.c - what engines over the system's descriptors have in common: which operation waits at which descriptor, what
 * a RECV or RECVFROM delivered and its owner did not take, and how bytes, datagrams and connections are taken from the
 * system directly.
 *
 * Each descriptor has at most one operation that waits to read (RECV, RECVFROM, ACCEPT, POLL) and one that waits to write
 * (SEND, SENDFILE, SENDTO, CONNECT, POLL). A change is noted (dirty) and told to the system before the next wait.
 *
 * A callback may end the very operation it was called for, and its owner: `current` is cleared by cancel, and after
 * each callback the operation is touched only if it is still current.
 */
#ifndef AIOL_IO_TABLE_C
#define AIOL_IO_TABLE_C

#include "io/op.h"

#define AIOL_TABLE_BUFFER (256u * 1024u)
#define AIOL_TABLE_LINE 64u /* of a processor's cache, or more */

/* FULL: the last send was cut, the next would block. ROOM: io_uring's epoll tells when there is room again. PIPE: is
 * read and written. POLLS: io_uring's requests cannot wait there, polls can. */
enum {
    AIOL_FD_TRANSPORT = 1,
    AIOL_FD_DIRTY = 2,
    AIOL_FD_FULL = 4,
    AIOL_FD_ROOM = 8,
    AIOL_FD_PIPE = 16,
    AIOL_FD_POLLS = 32
};

/* engine_flags. KEPT: on the list of sources with something to offer. ENDED: behind the stash comes op->u.recv.end. The
 * others are io_uring's. ARMED: the kernel holds a request of it. LEAVING: its cancellation is made; WAITING: it is to
 * be, and the operation is on the list of those. POLLED: what is armed is a poll. DIRECT: a RECV of large amounts, for
 * which a poll and reading into the one buffer that stays in the processor's cache is cheaper than requests that fill
 * all buffers ahead; LITTLE: its last reading was small. */
enum {
    AIOL_OP_KEPT = 1,
    AIOL_OP_ENDED = 2,
    AIOL_OP_ARMED = 4,
    AIOL_OP_LEAVING = 8,
    AIOL_OP_WAITING = 16,
    AIOL_OP_POLLED = 32,
    AIOL_OP_DIRECT = 64,
    AIOL_OP_LITTLE = 128
};

typedef struct aiol_fd {
    aiol_op *in;
    aiol_op *out;
    uint32_t generation; /* of the transport that has the number */
    uint16_t armed;      /* io_uring: requests that the kernel holds */
    uint8_t watched;     /* reactor: AIOL_READABLE | AIOL_WRITABLE, what the poller watches */
    uint8_t flags;
} aiol_fd;

/* Bytes a RECV delivered and its owner did not take. */
typedef struct aiol_stash {
    size_t start;
    size_t end;
    size_t block_size; /* the bytes follow */
} aiol_stash;

/* The same of a RECVFROM: a list of them. */
typedef struct aiol_kept {
    struct aiol_kept *next;
    int64_t n; /* its size, or a code */
    aioloop_address from;
    aiol_path_room room; /* of from; the bytes follow the struct */
} aiol_kept;

/* The first member of an engine. */
typedef struct aiol_table {
    aiol_engine base;
    unsigned without;
    bool watches; /* the system goes on telling until it is told not to (a poller) */
    aiol_fd *fds; /* by descriptor */
    size_t fds_capacity;
    aioloop_socket *dirty; /* room for every descriptor */
    size_t dirty_count;
    size_t dirty_capacity;
    aiol_op *kept; /* sources with something to offer, the oldest first */
    aiol_op **kept_end;
    aiol_op *current; /* whose callback runs */
    /* NULL, or asked at the end of a stream: the error that it is instead, or 0. */
    int64_t (*broken)(struct aiol_table *t, const aiol_op *op);
    unsigned char *block;  /* what buffer is in */
    unsigned char *buffer; /* at a place to which the system copies quickly; NULL: there is none yet */
#if AIOL_HAVE_MMSG
    aiol_batch *batch; /* NULL until the first */
#endif
} aiol_table;

static aiol_fd *aiol_table_at(aiol_table *t, aioloop_socket fd) {
    AIOL_ASSERT(fd >= 0 && (size_t)fd < t->fds_capacity);
    return &t->fds[fd];
}

static void aiol_table_changed(aiol_table *t, aioloop_socket fd, aiol_fd *entry) {
    if ((entry->flags & AIOL_FD_DIRTY) != 0)
        return;
    entry->flags |= AIOL_FD_DIRTY;
    t->dirty[t->dirty_count++] = fd;
}

/* The operation waits at its descriptor from now on: to write, or to read. */
static int64_t aiol_table_wait_at(aiol_table *t, aiol_op *op, bool out) {
    aiol_fd *entry = aiol_table_at(t, op->fd);
    AIOL_ASSERT((out ? entry->out : entry->in) == NULL);
    if (out)
        entry->out = op;
    else
        entry->in = op;
    op->state = AIOL_OP_ACTIVE;
    op->engine = NULL;
    op->engine_flags = 0;
    op->link = NULL;
    aiol_table_changed(t, op->fd, entry);
    return AIOL_PENDING;
}

/* ---- the kept ---- */

static void aiol_table_keep(aiol_table *t, aiol_op *op) {
    if ((op->engine_flags & AIOL_OP_KEPT) != 0)
        return;
    op->engine_flags |= AIOL_OP_KEPT;
    op->link = NULL;
    *(t->kept != NULL ? t->kept_end : &t->kept) = op;
    t->kept_end = &op->link;
}

static void aiol_table_unkeep(aiol_table *t, aiol_op *op) {
    aiol_op **at;
    if ((op->engine_flags & AIOL_OP_KEPT) == 0)
        return;
    for (at = &t->kept; *at != op; at = &(*at)->link)
        ;
    *at = op->link;
    if (op->link == NULL)
        t->kept_end = at;
    op->engine_flags &= (uint8_t)~AIOL_OP_KEPT;
}

static void aiol_table_kept_free(aiol_table *t, aiol_kept *kept) {
    aiol_free(t->base.allocator, kept, sizeof(*kept) + (kept->n > 0 ? (size_t)kept->n : 0));
}

static void aiol_table_stash_free(aiol_table *t, aiol_op *op) {
    aiol_stash *stash = (aiol_stash *)op->engine;
    if (op->kind == AIOL_OP_RECVFROM) {
        while (op->engine != NULL) {
            aiol_kept *kept = (aiol_kept *)op->engine;
            op->engine = kept->next;
            aiol_table_kept_free(t, kept);
        }
        return;
    }
    if (stash != NULL)
        aiol_free(t->base.allocator, stash, stash->block_size);
    op->engine = NULL;
}

/* The operation leaves the engine. */
static void aiol_table_idle(aiol_table *t, aiol_op *op) {
    aiol_fd *entry = aiol_table_at(t, op->fd);
    if (entry->in == op)
        entry->in = NULL;
    if (entry->out == op)
        entry->out = NULL;
    op->state = AIOL_OP_IDLE;
    if (t->current == op)
        t->current = NULL;
    aiol_table_unkeep(t, op);
    aiol_table_stash_free(t, op);
    if (t->watches)
        aiol_table_changed(t, op->fd, entry);
}

static void aiol_table_finish(aiol_table *t, aiol_op *op, int64_t n) {
    aiol_table_idle(t, op);
    op->done(op, n, NULL);
}

static void aiol_table_stop(aiol_engine *e, aiol_op *op) {
    aiol_table *t = (aiol_table *)e;
    if (op->state != AIOL_OP_ACTIVE)
        return;
    op->state = AIOL_OP_STOPPED;
    aiol_table_unkeep(t, op);
    aiol_table_changed(t, op->fd, aiol_table_at(t, op->fd));
}

static void aiol_table_start(aiol_engine *e, aiol_op *op) {
    aiol_table *t = (aiol_table *)e;
    if (op->state != AIOL_OP_STOPPED)
        return;
    op->state = AIOL_OP_ACTIVE;
    if (op->engine != NULL || (op->engine_flags & AIOL_OP_ENDED) != 0)
        aiol_table_keep(t, op);
    aiol_table_changed(t, op->fd, aiol_table_at(t, op->fd));
}

static size_t aiol_table_take(aiol_engine *e, aiol_op *op, void *to, size_t size) {
    aiol_table *t = (aiol_table *)e;
    aiol_stash *stash = (aiol_stash *)op->engine;
    size_t n;
    if (stash == NULL)
        return 0;
    n = aiol_min_size(size, stash->end - stash->start);
    memcpy(to, (const char *)(stash + 1) + stash->start, n);
    stash->start += n;
    if (stash->start == stash->end)
        aiol_table_stash_free(t, op);
    return n;
}

static aiol_op *aiol_table_watching(aiol_engine *e, aioloop_socket fd, unsigned event) {
    aiol_table *t = (aiol_table *)e;
    aiol_op *op;
    if (fd < 0 || (size_t)fd >= t->fds_capacity)
        return NULL;
    op = event == AIOL_POLL_READABLE ? t->fds[fd].in : t->fds[fd].out;
    return op != NULL && op->kind == AIOL_OP_POLL ? op : NULL;
}

static bool aiol_table_owned(aiol_engine *e, aioloop_socket fd) {
    aiol_table *t = (aiol_table *)e;
    return fd >= 0 && (size_t)fd < t->fds_capacity && (t->fds[fd].flags & AIOL_FD_TRANSPORT) != 0;
}

/* ---- descriptors ---- */

static int aiol_table_attach(aiol_engine *e, aioloop_socket fd, aiol_owner owner) {
    aiol_table *t = (aiol_table *)e;
    aiol_fd *entry;
    int err;
    err = owner == AIOL_OWNER_WATCHER ? aiol_descriptor_check(fd) : fd < 0 ? AIOLOOP_EINVAL : 0;
    if (err == 0)
        err = aiol_grow(e->allocator, &t->fds, &t->fds_capacity, sizeof(t->fds[0]), (size_t)fd + 1);
    if (err == 0)
        err = aiol_grow(e->allocator, &t->dirty, &t->dirty_capacity, sizeof(t->dirty[0]), t->fds_capacity);
    if (err == 0 && t->buffer == NULL && owner != AIOL_OWNER_WATCHER) {
        t->block = (unsigned char *)aiol_alloc(e->allocator, AIOL_TABLE_BUFFER + AIOL_TABLE_LINE);
        if (t->block == NULL)
            err = AIOLOOP_ENOMEM;
        else
            t->buffer = t->block + (AIOL_TABLE_LINE - (uintptr_t)t->block % AIOL_TABLE_LINE);
    }
    if (err < 0)
        return err;
    entry = &t->fds[fd];
    if ((entry->flags & AIOL_FD_TRANSPORT) != 0)
        return AIOLOOP_EMISUSE;
    if (owner == AIOL_OWNER_WATCHER)
        return 0;
    if (entry->in != NULL || entry->out != NULL)
        return AIOLOOP_EMISUSE;
    entry->flags |= AIOL_FD_TRANSPORT;
    entry->flags &= (uint8_t)~(AIOL_FD_FULL | AIOL_FD_ROOM | AIOL_FD_PIPE | AIOL_FD_POLLS);
    if (owner != AIOL_OWNER_TRANSPORT)
        entry->flags |= AIOL_FD_PIPE;
    if (owner == AIOL_OWNER_DEVICE)
        entry->flags |= AIOL_FD_POLLS;
    entry->generation++;
    entry->armed = 0;
    return 0;
}

static aioloop_time aiol_table_now(aiol_engine *e) {
    (void)e;
    return aiol_clock_now();
}

/* How long to wait, in nanoseconds; below 0: for ever. */
static int64_t aiol_table_timeout(const aiol_table *t, aioloop_time deadline) {
    int64_t timeout;
    if (t->kept != NULL || deadline <= 0)
        return 0;
    if (deadline == AIOLOOP_FOREVER)
        return -1;
    timeout = deadline - aiol_clock_now();
    return timeout < 0 ? 0 : timeout;
}

/* ---- reading ---- */

/* A RECV gets no more bytes; behind what is kept comes n: an end or an error. */
static void aiol_table_end(aiol_table *t, aiol_op *op, int64_t n) {
    op->engine_flags |= AIOL_OP_ENDED;
    op->u.recv.end = (int)n;
    if (op->state == AIOL_OP_ACTIVE)
        aiol_table_keep(t, op);
    aiol_table_changed(t, op->fd, aiol_table_at(t, op->fd));
}

/* Keeps what a RECV did not take, behind what is kept already. Without memory the stream ends there. */
static AIOL_NOINLINE void aiol_table_stash(aiol_table *t, aiol_op *op, const unsigned char *data, size_t size) {
    const aiol_stash *old = (const aiol_stash *)op->engine;
    size_t before = old == NULL ? 0 : old->end - old->start;
    aiol_stash *stash;
    stash = (aiol_stash *)aiol_alloc(t->base.allocator, sizeof(*stash) + before + size);
    if (stash == NULL) {
        aiol_table_end(t, op, AIOLOOP_ENOMEM);
        return;
    }
    stash->start = 0;
    stash->end = before + size;
    stash->block_size = sizeof(*stash) + before + size;
    if (before != 0)
        memcpy(stash + 1, (const char *)(old + 1) + old->start, before);
    memcpy((char *)(stash + 1) + before, data, size);
    aiol_table_stash_free(t, op);
    op->engine = stash;
    if (op->state == AIOL_OP_ACTIVE)
        aiol_table_keep(t, op);
}

/* Asks where the next bytes of a RECV go: *size of them at *to. False if nowhere now. */
static bool aiol_table_place(aiol_table *t, aiol_op *op, unsigned char **to, size_t *size) {
    void *buffer = NULL;
    t->current = op;
    *size = op->u.recv.dest(op, &buffer);
    *to = (unsigned char *)buffer;
    return t->current == op && op->state == AIOL_OP_ACTIVE && *size != 0;
}

/* Nothing to read, the end or an error. */
static AIOL_NOINLINE void aiol_table_read_ended(aiol_table *t, aiol_op *op, int64_t n) {
    if (n == AIOLOOP_EAGAIN)
        return;
    if (n == 0 && t->broken != NULL)
        n = t->broken(t, op);
    aiol_table_finish(t, op, n);
}

AIOL_INLINE int64_t aiol_table_read(const aiol_op *op, void *buffer, size_t size) {
    return AIOL_UNLIKELY(op->u.recv.pipe) ? aiol_pipe_read(op->fd, buffer, size) : aiol_socket_recv(op->fd, buffer, size);
}

/* Into memory of the receiver's. How much. */
static AIOL_NOINLINE size_t aiol_table_recv_into(aiol_table *t, aiol_op *op, const aiol_budget *budget) {
    size_t got = 0;
    while (op->u.recv.dest != NULL) { /* a callback may change it */
        unsigned char *to;
        size_t size;
        int64_t n;
        if (!aiol_table_place(t, op, &to, &size))
            break;
        n = aiol_table_read(op, to, size);
        if (n <= 0) {
            aiol_table_read_ended(t, op, n);
            break;
        }
        got += (size_t)n;
        t->current = op;
        op->done(op, n, to);
        if (t->current != op || (size_t)n < size || got >= budget->bytes || op->state != AIOL_OP_ACTIVE || *budget->halt)
            break;
    }
    return got;
}

/* Into the engine's buffer. How much. */
AIOL_INLINE size_t aiol_table_recv(aiol_table *t, aiol_op *op, const aiol_budget *budget) {
    size_t got = 0;
    while (op->u.recv.dest == NULL) { /* a callback may change it */
        int64_t n = aiol_table_read(op, t->buffer, AIOL_TABLE_BUFFER);
        size_t taken;
        if (AIOL_UNLIKELY(n <= 0)) {
            aiol_table_read_ended(t, op, n);
            break;
        }
        got += (size_t)n;
        t->current = op;
        taken = op->done(op, n, t->buffer);
        if (t->current != op)
            break;
        if (AIOL_UNLIKELY(taken < (size_t)n)) {
            aiol_table_stash(t, op, t->buffer + taken, (size_t)n - taken);
            break;
        }
        /* A short read has emptied the socket; the system tells when there is more. */
        if ((size_t)n < AIOL_TABLE_BUFFER || got >= budget->bytes || op->state != AIOL_OP_ACTIVE || *budget->halt)
            break;
    }
    return got;
}

/* ---- datagrams ---- */

/* Keeps a datagram or an error for later. What there is no memory for is lost. */
static AIOL_NOINLINE void aiol_table_keep_datagram(aiol_table *t, aiol_op *op, int64_t n, const aiol_arrival *arrival) {
    size_t size = n > 0 ? (size_t)n : 0;
    aiol_kept *kept = (aiol_kept *)aiol_alloc(t->base.allocator, sizeof(*kept) + size);
    void **at;
    if (kept == NULL)
        return;
    memset(kept, 0, sizeof(*kept));
    kept->n = n;
    if (n >= 0) {
        kept->from = *arrival->from;
        if (kept->from.family == AIOLOOP_UNIX) {
            memcpy(kept->room.bytes, kept->from.u.path, kept->from.path_size);
            kept->from.u.path = kept->room.bytes;
        }
    }
    if (size != 0)
        memcpy(kept + 1, arrival->data, size);
    for (at = &op->engine; *at != NULL; at = (void **)&((aiol_kept *)*at)->next)
        ;
    *at = kept;
    if (op->state == AIOL_OP_ACTIVE)
        aiol_table_keep(t, op);
}

/* Hands on a datagram or an error, or keeps it if that is not possible now. False: the operation has gone. */
static bool aiol_table_arrived(aiol_table *t, aiol_op *op, int64_t n, const aiol_arrival *arrival, const aiol_budget *budget) {
    if (AIOL_UNLIKELY(op->state != AIOL_OP_ACTIVE || op->engine != NULL || *budget->halt)) {
        aiol_table_keep_datagram(t, op, n, arrival);
        return true;
    }
    t->current = op;
    op->done(op, n, n >= 0 ? arrival : NULL);
    return t->current == op;
}

/* What receiving has failed with. */
static AIOL_NOINLINE void aiol_table_receive_failed(aiol_table *t, aiol_op *op, int64_t n) {
    if (n == AIOLOOP_EAGAIN)
        return;
    if (n == AIOLOOP_EBADF || n == AIOLOOP_ENOTSOCK)
        aiol_table_finish(t, op, n);
    else
        op->done(op, n, NULL);
}

/* One datagram. True: it was taken, and more would be. */
static bool aiol_table_recvfrom_one(aiol_table *t, aiol_op *op, size_t *got, const aiol_budget *budget) {
    aioloop_address from;
    aiol_path_room room;
    aiol_arrival arrival;
    int64_t n = aiol_socket_recv_datagram(op->fd, t->buffer, AIOL_TABLE_BUFFER, &from, &room);
    if (n < 0 && n != AIOLOOP_EMSGSIZE) {
        aiol_table_receive_failed(t, op, n);
        return false;
    }
    arrival.data = t->buffer;
    arrival.from = &from;
    *got += n > 0 ? (size_t)n : 0;
    return aiol_table_arrived(t, op, n, &arrival, budget) && op->state == AIOL_OP_ACTIVE && !*budget->halt;
}

#if AIOL_HAVE_MMSG
/* Whether several can be received in a call. */
static bool aiol_table_has_batch(aiol_table *t, const aiol_op *op) {
    if (!op->u.recvfrom.internet || (t->without & AIOL_WITHOUT_MMSG) != 0)
        return false;
    if (t->batch == NULL)
        t->batch = aiol_batch_new(t->base.allocator);
    return t->batch != NULL;
}

/* The same for as many as there are; *count goes up by how many. False also when there were fewer than fit. */
static bool aiol_table_recvfrom_batch(aiol_table *t, aiol_op *op, int *count, size_t *got, const aiol_budget *budget) {
    int n = aiol_batch_recv(t->batch, op->fd);
    int i;
    if (n < 0) {
        aiol_table_receive_failed(t, op, n);
        return false;
    }
    *count += n;
    for (i = 0; i < n; i++) {
        aioloop_address from;
        aiol_path_room room;
        aiol_arrival arrival;
        int64_t size = aiol_batch_at(t->batch, i, &arrival.data, &from, &room);
        arrival.from = &from;
        *got += size > 0 ? (size_t)size : 0;
        if (!aiol_table_arrived(t, op, size, &arrival, budget))
            return false;
    }
    return n == AIOL_BATCH && op->state == AIOL_OP_ACTIVE && !*budget->halt;
}
#endif

/* Datagrams, as long as there are some and the budget lasts. Where one came alone so do the next, probably: only one
 * time in eight, and where there were several, it is worth asking for more. */
static void aiol_table_recvfrom(aiol_table *t, aiol_op *op, const aiol_budget *budget) {
    bool several = op->u.recvfrom.alone % 8 == 0;
    int count = 0;
    size_t got = 0;
    bool more;
    op->u.recvfrom.alone++;
    t->current = op;
    do {
#if AIOL_HAVE_MMSG
        if (several && aiol_table_has_batch(t, op)) {
            more = aiol_table_recvfrom_batch(t, op, &count, &got, budget);
        } else
#endif
        {
            count++;
            more = aiol_table_recvfrom_one(t, op, &got, budget);
        }
    } while (several && more && count < AIOL_DATAGRAMS && got < budget->bytes);
    if (several && t->current == op)
        op->u.recvfrom.alone = count > 1 ? 0 : 1;
}

/* Offers those that were kept. */
static void aiol_table_offer_datagrams(aiol_table *t, aiol_op *op, const aiol_budget *budget) {
    aiol_kept *kept = (aiol_kept *)op->engine;
    op->engine = NULL;
    while (kept != NULL) {
        aiol_kept *next = kept->next;
        aiol_arrival arrival;
        bool there;
        arrival.data = kept + 1;
        arrival.from = &kept->from;
        if (op->state != AIOL_OP_ACTIVE || *budget->halt) {
            op->engine = kept;
            if (op->state == AIOL_OP_ACTIVE)
                aiol_table_keep(t, op);
            return;
        }
        there = aiol_table_arrived(t, op, kept->n, &arrival, budget);
        aiol_table_kept_free(t, kept);
        kept = next;
        if (!there)
            break;
    }
    while (kept != NULL) { /* it was cancelled meanwhile */
        aiol_kept *next = kept->next;
        aiol_table_kept_free(t, kept);
        kept = next;
    }
}

/* ---- connections, and what is kept of bytes ---- */

static void aiol_table_accept(aiol_table *t, aiol_op *op, const aiol_budget *budget) {
    int left = op->u.accept.budget;
    do {
        aioloop_address peer;
        aiol_path_room room;
        aioloop_socket s = AIOL_NO_SOCKET;
        int err = aiol_socket_accept(op->fd, t->without, &s, &peer, &room);
        if (err == AIOLOOP_EAGAIN)
            return;
        if (err < 0) {
            aiol_table_finish(t, op, err);
            return;
        }
        t->current = op;
        op->done(op, s, &peer);
    } while (--left > 0 && t->current == op && op->state == AIOL_OP_ACTIVE && !*budget->halt);
}

/* Hands bytes to a RECV that is `current`, and keeps what it does not take. Afterwards it is no more current if it is
 * gone. */
static void aiol_table_deliver(aiol_table *t, aiol_op *op, const unsigned char *data, size_t size, const aiol_budget *budget) {
    while (size != 0 && op->state == AIOL_OP_ACTIVE && !*budget->halt) {
        size_t offered = size;
        size_t taken;
        if (op->u.recv.dest != NULL) {
            unsigned char *to;
            if (!aiol_table_place(t, op, &to, &offered)) {
                if (t->current != op)
                    return;
                break;
            }
            offered = aiol_min_size(offered, size);
            memcpy(to, data, offered);
            op->done(op, (int64_t)offered, to);
            taken = offered;
        } else {
            taken = op->done(op, (int64_t)size, data);
        }
        if (t->current != op)
            return;
        data += taken;
        size -= taken;
        if (taken < offered)
            break;
    }
    if (AIOL_UNLIKELY(size != 0))
        aiol_table_stash(t, op, data, size);
}

/* Offers what every source on the list has, once. */
static void aiol_table_offer(aiol_table *t, const aiol_budget *budget) {
    aiol_op *op;
    size_t n = 0;
    for (op = t->kept; op != NULL; op = op->link)
        n++;
    for (; n > 0 && t->kept != NULL && !*budget->halt; n--) {
        aiol_stash *stash;
        op = t->kept;
        aiol_table_unkeep(t, op);
        t->current = op;
        if (op->kind == AIOL_OP_RECVFROM) {
            aiol_table_offer_datagrams(t, op, budget);
            if (t->current == op)
                aiol_table_changed(t, op->fd, aiol_table_at(t, op->fd));
            continue;
        }
        stash = (aiol_stash *)op->engine;
        if (stash != NULL) {
            op->engine = NULL; /* what is left of it goes into a new one */
            aiol_table_deliver(t, op, (const unsigned char *)(stash + 1) + stash->start, stash->end - stash->start, budget);
            aiol_free(t->base.allocator, stash, stash->block_size);
        }
        if (t->current != op || op->state != AIOL_OP_ACTIVE || op->engine != NULL)
            continue;
        if ((op->engine_flags & AIOL_OP_ENDED) == 0)
            aiol_table_changed(t, op->fd, aiol_table_at(t, op->fd));
        else if ((op->engine_flags & AIOL_OP_ARMED) == 0)
            aiol_table_finish(t, op, op->u.recv.end);
        else
            aiol_table_keep(t, op); /* until the kernel has given it back */
    }
}

/* ---- writing ---- */

AIOL_INLINE int64_t aiol_table_send(aiol_table *t, aioloop_socket fd, const aioloop_buf *pieces, int count) {
    if (AIOL_UNLIKELY((aiol_table_at(t, fd)->flags & AIOL_FD_PIPE) != 0))
        return aiol_pipe_write(fd, pieces, count, &t->without);
    return aiol_socket_send(fd, pieces, count);
}

/* The system was offered the pieces and took n bytes, or failed. Less than all: the next try would block. */
static AIOL_NOINLINE int64_t aiol_table_attempted(aiol_engine *e, aioloop_socket fd, const aioloop_buf *pieces, int count,
                                                  int64_t n) {
    size_t size = 0;
    int i;
    for (i = 0; i < count; i++)
        size += pieces[i].size;
    if ((uint64_t)n == size || (n < 0 && n != AIOLOOP_EAGAIN))
        return n;
    aiol_table_at((aiol_table *)e, fd)->flags |= AIOL_FD_FULL;
    return n < 0 ? AIOL_PENDING : n;
}

/* Tries to send datagrams. */
static int64_t aiol_table_attempt_to(aiol_engine *e, aioloop_socket fd, const aiol_datagram *first) {
    aiol_table *t = (aiol_table *)e;
    int64_t n = aiol_socket_send_datagrams(fd, t->without, first);
    if (n != AIOLOOP_EAGAIN)
        return n;
    aiol_table_at(t, fd)->flags |= AIOL_FD_FULL;
    return AIOL_PENDING;
}

/* What submitting a SENDTO does before it waits. */
static int64_t aiol_table_begin_sendto(aiol_table *t, const aiol_op *op) {
    if ((aiol_table_at(t, op->fd)->flags & AIOL_FD_FULL) != 0)
        return AIOL_PENDING;
    return aiol_table_attempt_to(&t->base, op->fd, op->u.sendto.first);
}

/* As the system's. */
static int64_t aiol_table_sendfile(const aiol_table *t, aioloop_socket s, aioloop_file file, int64_t offset, size_t count) {
    if ((t->without & AIOL_WITHOUT_SENDFILE) != 0)
        return AIOLOOP_ENOTAVAILABLE;
    return aiol_socket_sendfile(s, file, offset, count);
}

/* Tries a SENDFILE. Less than all: the next try would block, unless the file has ended, which that finds out. */
static int64_t aiol_table_attempt_file(aiol_table *t, const aiol_op *op) {
    int64_t n = aiol_table_sendfile(t, op->fd, op->u.sendfile.file, op->u.sendfile.offset, op->u.sendfile.count);
    if (n == AIOLOOP_EAGAIN || (n > 0 && (uint64_t)n < op->u.sendfile.count))
        aiol_table_at(t, op->fd)->flags |= AIOL_FD_FULL;
    return n == AIOLOOP_EAGAIN ? AIOL_PENDING : n;
}

/* What submitting one does before it waits. */
static int64_t aiol_table_begin_file(aiol_table *t, const aiol_op *op) {
    if (op->u.sendfile.later || (aiol_table_at(t, op->fd)->flags & AIOL_FD_FULL) != 0)
        return AIOL_PENDING;
    return aiol_table_attempt_file(t, op);
}

/* ---- the end ---- */

static void aiol_table_free(aiol_table *t) {
    const aioloop_allocator *a = t->base.allocator;
    aiol_free(a, t->fds, t->fds_capacity * sizeof(t->fds[0]));
    aiol_free(a, t->dirty, t->dirty_capacity * sizeof(t->dirty[0]));
    aiol_free(a, t->block, AIOL_TABLE_BUFFER + AIOL_TABLE_LINE);
#if AIOL_HAVE_MMSG
    if (t->batch != NULL)
        aiol_batch_free(a, t->batch);
#endif
}

static void aiol_table_verify(const aiol_table *t) {
    size_t dirty = 0;
    size_t i;
    for (i = 0; i < t->fds_capacity; i++) {
        const aiol_fd *entry = &t->fds[i];
        AIOL_VERIFY(entry->in == NULL || (entry->in->fd == (aioloop_socket)i && (entry->in->state == AIOL_OP_ACTIVE ||
                                                                                 entry->in->state == AIOL_OP_STOPPED)));
        AIOL_VERIFY(entry->out == NULL ||
                    (entry->out->fd == (aioloop_socket)i &&
                     (entry->out->state == AIOL_OP_ACTIVE || (entry->out->state == AIOL_OP_STOPPED && entry->out->kind == AIOL_OP_POLL))));
        if ((entry->flags & AIOL_FD_DIRTY) != 0)
            dirty++;
    }
    AIOL_VERIFY(dirty == t->dirty_count);
}

/* ---- sockets: the system's ---- */

static int aiol_system_open(aiol_engine *e, int family, int type, int protocol, aioloop_socket *out) {
    (void)e;
    return aiol_socket_open(family, type, protocol, out);
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
static int aiol_system_inspect(aiol_engine *e, aioloop_socket s, int type, int *family) {
    (void)e;
    return aiol_socket_inspect(s, type, family);
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

static int64_t aiol_system_recv(aiol_engine *e, aioloop_socket s, void *buffer, size_t size, aioloop_address *from,
                                aiol_path_room *room) {
    (void)e;
    return aiol_socket_recvfrom(s, buffer, size, from, room);
}
static int64_t aiol_system_send(aiol_engine *e, aioloop_socket s, const void *data, size_t size,
                                const aioloop_address *to) {
    (void)e;
    return aiol_socket_sendto(s, data, size, to);
}
static int64_t aiol_system_sendfile(aiol_engine *e, aioloop_socket s, aioloop_file file, int64_t offset, size_t count) {
    return aiol_table_sendfile((const aiol_table *)(const void *)e, s, file, offset, count);
}
static int aiol_system_accept(aiol_engine *e, aioloop_socket s, aioloop_socket *out, aioloop_address *peer,
                              aiol_path_room *room) {
    return aiol_socket_accept(s, ((aiol_table *)e)->without, out, peer, room);
}
static int aiol_system_connect(aiol_engine *e, aioloop_socket s, const aioloop_address *address) {
    (void)e;
    return aiol_socket_connect(s, address);
}
static int aiol_system_connected(aiol_engine *e, aioloop_socket s) {
    (void)e;
    return aiol_socket_connected(s);
}
static int aiol_system_blocks(aiol_engine *e, aioloop_socket s) {
    (void)e;
    return aiol_socket_blocks(s);
}

static int aiol_system_pipe_inspect(aiol_engine *e, aioloop_socket s, bool writes, aiol_pipe_kind *kind) {
    (void)e;
    return aiol_pipe_inspect(s, writes, kind);
}
static int aiol_system_pipe_adopt(aiol_engine *e, aioloop_socket s, bool *restore) {
    (void)e;
    return aiol_pipe_adopt(s, restore);
}
static void aiol_system_pipe_restore(aiol_engine *e, aioloop_socket s) {
    (void)e;
    aiol_pipe_restore(s);
}

static int aiol_system_spawn(aiol_engine *e, aiol_spawn *s) {
    s->without = e->without;
    return aiol_spawn_program(s);
}

static const aiol_socket_calls aiol_system_sockets = {
    aiol_system_open,    aiol_system_close, aiol_system_bind, aiol_system_listen,        aiol_system_shutdown,    aiol_system_set,
    aiol_system_inspect, aiol_system_adopt, aiol_system_name, aiol_system_peer, aiol_system_path_identify, aiol_system_path_remove,
    aiol_system_recv,    aiol_system_send,  aiol_system_sendfile, aiol_system_accept,    aiol_system_connect,     aiol_system_connected,
    aiol_system_blocks,  aiol_system_pipe_inspect, aiol_system_pipe_adopt, aiol_system_pipe_restore,
    aiol_system_spawn,
};

#endif
