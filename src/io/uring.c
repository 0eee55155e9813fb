/*
 * uring.c - operations by Linux's io_uring.                                      (asyncio: proactor_events.py)
 *
 * Requests are made of what the table says (aiol_uring_prepare) and go to the kernel together with the wait: one call
 * per iteration. A RECV is a multishot request that takes buffers from a ring of ours; what it brings is handed on or
 * kept, and the buffer goes back at once. The user_data of a request is its operation, which stays until its last
 * completion has come; that of a cancellation is marked, since nobody needs its result.
 *
 *   a) A request holds the open file, and what completes may have been found before: so long as one is armed, a closed
 *      socket's peer sees no end and a closed listener still accepts. So cancel is followed, before the descriptor is
 *      closed (quiesce, and the end of a POLL, whose descriptor is the user's), by a call that runs what the kernel has
 *      postponed.
 *   b) A multishot poll fires once for a byte that nobody reads; watching needs one-shot polls, made anew before each
 *      wait.
 *   c) Buffers run dry when one socket takes them all: -ENOBUFS, and the request is over. It is made anew when they are
 *      back.
 *   d) A request belongs to the thread that made it: when that ends, the kernel cancels it, and it is made anew. With
 *      DEFER_TASKRUN the ring itself belongs to the first thread that enters it (EEXIST in others), so it is enabled by
 *      the first wait.
 *   e) An incremental ring (6.12) fills a buffer piece by piece; where the next piece lies follows from the order of
 *      completions.
 *   f) With completions in the kernel's overflow list, nothing is lost but a call is needed to get them.
 *   g) Polling the ring's descriptor does not end when the kernel has postponed something (DEFER_TASKRUN): for another
 *      main loop there is an eventfd that the kernel signals. When the cause was a write to another eventfd it does so
 *      only once (6.18), so it is registered anew after each signal.
 *   h) A multishot RECV on a Unix socket can forget the end: if it comes while the last bytes are taken, and more
 *      wakings than 128 have piled up before, the kernel (6.18) believes that it has told all. So only internet sockets
 *      get multishot ones; for others the request is made anew each time.
 *   i) What the program's other calls find in between (a direct send) overtakes requests: so no SEND is active when one
 *      is tried.
 *   j) A socket tells of a reset once. If a SEND was told, reading finds an end like any other; so what looks like one
 *      is the error of a SEND that stands in the completions.
 *   k) What waits for room is woken by the peer's end of file too, over and over: a SEND would be tried 128 times and
 *      then given to a thread that blocks, where a cancellation does not end it at once (6.18). So a SEND never waits:
 *      without room there is a poll, and where that finds nothing but the peer's end, an epoll, which can leave it out.
 *   l) Reading and writing FIFOs and devices that do not block is not waited for, nor can it be refused to wait
 *      (EOPNOTSUPP); for them there are polls. Also for pipes where a write may raise SIGPIPE, in the thread that enters.
 *   m) Datagrams are sent by a call, at once: they wait for nobody, and what has to be kept until the ring is entered had
 *      to be copied. They are received by a multishot request into buffers of their own, since each has to hold the
 *      largest one there is; but those of Unix sockets may be larger still.
 *
 * Sends without a copy (SEND_ZC) cost one and a half to two times as much at every size up to 1 MiB where it could be
 * measured (loopback, where the kernel copies in the end), so there are none.
 */
#ifndef AIOL_IO_URING_C
#define AIOL_IO_URING_C

#include "io/table.c"
#include "poll/wake.c"
#include "sys/uring.h"

#define AIOL_URING_ENTRIES 512u
#define AIOL_URING_COMPLETIONS 4096u
#define AIOL_URING_GATHERS 8       /* sends of several pieces in one submission */
#define AIOL_URING_MEMORY 0x80000u /* of all buffers */
#define AIOL_URING_BUFFERS_MAX 32u
#define AIOL_URING_PAGE 0x1000u
#define AIOL_URING_LARGE 0x4000u   /* bytes at once: read directly from then on */
#define AIOL_URING_SMALL 0x1000u   /* two such readings: no more */
#define AIOL_URING_QUEUED 0x4000u /* bytes: a larger write is tried at once, without a copy */

#define AIOL_URING_PLACES 32u      /* m): buffers of datagrams */
#define AIOL_URING_PLACE_HEAD (sizeof(aiol_uring_received) + sizeof(struct sockaddr_in6))
#define AIOL_URING_PLACE 0x100c0u  /* bytes of one; not a power of two, as AIOL_BATCH_ROOM */

/* In the lowest bits of user_data. */
enum { AIOL_URING_IS_CANCEL = 1, AIOL_URING_IS_ACCEPT = 2, AIOL_URING_TAGS = 3 };

typedef struct aiol_gather {
    struct msghdr message;
    struct iovec pieces[AIOL_IOV_MAX];
} aiol_gather;

typedef struct aiol_uring {
    aiol_table table;
    aiol_wake wake;
    aiol_op wake_op; /* a POLL of its reader */
    int room;        /* k): an epoll; -1: none yet */
    aiol_op room_op; /* a POLL of it */
    int fd;
    aiol_wake signal; /* g); reader -1: nobody has asked for it */
    bool enabled;
    bool proved; /* a multishot RECV has brought something */

    uint32_t *sq_head;
    uint32_t *sq_tail;
    uint32_t *sq_flags;
    uint32_t sq_mask;
    uint32_t sq_next;
    aiol_uring_entry *entries;
    size_t entries_size;

    uint32_t *cq_head;
    uint32_t *cq_tail;
    uint32_t cq_mask;
    uint32_t cq_next;
    uint32_t cq_fresh; /* what stands before was found earlier than the last wait, and may not be so any more */
    uint32_t cq_end;   /* of the harvest */
    uint32_t turn;     /* counts dispatches */
    uint32_t deferred; /* writes that are to go with the next wait */
    aiol_uring_completion *completions;
    unsigned char *rings;
    size_t rings_size;

    aiol_op *cancels; /* operations whose cancellation is to be made, the oldest first; op->engine points at what points at them */
    aiol_op **cancels_end;

    unsigned char *memory; /* the ring of buffers, a page; then the buffers */
    uint32_t buffer_count;
    uint32_t buffer_size;
    uint16_t buffer_tail;
    uint32_t used[AIOL_URING_BUFFERS_MAX]; /* e) */

    unsigned char *places; /* the same for datagrams, m); NULL: none yet */
    uint16_t places_tail;
    bool no_places;
    struct msghdr place_shape;

    unsigned gather_count;
    aiol_gather gathers[AIOL_URING_GATHERS];
} aiol_uring;

/* ---- the rings ---- */

#if defined(__TINYC__)
#define aiol_ring_load(place) (*(const volatile uint32_t *)(place))
#define aiol_ring_store(place, value) ((void)(*(volatile uint32_t *)(place) = (value)))
#define aiol_ring_store_16(place, value) ((void)(*(volatile uint16_t *)(place) = (value)))
#else
#define aiol_ring_load(place) __atomic_load_n(place, __ATOMIC_ACQUIRE)
#define aiol_ring_store(place, value) __atomic_store_n(place, value, __ATOMIC_RELEASE)
#define aiol_ring_store_16(place, value) __atomic_store_n(place, value, __ATOMIC_RELEASE)
#endif

static uint32_t aiol_uring_unsubmitted(const aiol_uring *u) {
    return u->sq_next - aiol_ring_load(u->sq_head);
}

/* Submits, and with GETEVENTS waits for at least `minimum` completions (timeout in ns, below 0: for ever). What the
 * kernel did not take stays in the ring for the next time. */
static int aiol_uring_enter(aiol_uring *u, unsigned flags, unsigned minimum, int64_t timeout) {
    aiol_uring_wait wait;
    int64_t spec[2];
    long n;
    aiol_ring_store(u->sq_tail, u->sq_next);
    if (timeout < 0) {
        n = AIOL_SYS(io_uring_enter, syscall(AIOL_SYS_URING_ENTER, u->fd, aiol_uring_unsubmitted(u), minimum, flags,
                                             NULL, (size_t)0));
    } else {
        memset(&wait, 0, sizeof(wait));
        spec[0] = timeout / 1000000000;
        spec[1] = timeout % 1000000000;
        wait.timeout = (uint64_t)(uintptr_t)spec;
        n = AIOL_SYS(io_uring_enter, syscall(AIOL_SYS_URING_ENTER, u->fd, aiol_uring_unsubmitted(u), minimum,
                                             flags | AIOL_URING_EXT_ARG, &wait, sizeof(wait)));
    }
    if (aiol_uring_unsubmitted(u) == 0)
        u->gather_count = 0;
    if (n != -1)
        return 0;
    switch (errno) {
    case EINTR:
    case ETIME:
    case EAGAIN: /* no memory at this moment, or completions to be fetched first */
    case EBUSY:
    case ENOMEM:
        return 0;
    case EEXIST: /* d) */
        return AIOLOOP_EMISUSE;
    default:
        return aiol_error_from_errno(errno);
    }
}

/* Room for a request; NULL: not now. */
static aiol_uring_entry *aiol_uring_request(aiol_uring *u, int operation, aioloop_socket fd, const void *user_data) {
    aiol_uring_entry *entry;
    if (aiol_uring_unsubmitted(u) > u->sq_mask &&
        (aiol_uring_enter(u, 0, 0, -1) < 0 || aiol_uring_unsubmitted(u) > u->sq_mask))
        return NULL;
    entry = &u->entries[u->sq_next++ & u->sq_mask];
    memset(entry, 0, sizeof(*entry));
    entry->operation = (uint8_t)operation;
    entry->fd = fd;
    entry->user_data = (uint64_t)(uintptr_t)user_data;
    return entry;
}

static int aiol_uring_register(aiol_uring *u, unsigned what, const void *argument, unsigned count) {
    if (AIOL_SYS(io_uring_register, syscall(AIOL_SYS_URING_REGISTER, u->fd, what, argument, count)) == -1)
        return aiol_error_from_errno(errno);
    return 0;
}

/* ---- buffers ---- */

static void aiol_uring_give(aiol_uring *u, uint32_t id) {
    aiol_uring_buffer *ring = (aiol_uring_buffer *)(void *)u->memory;
    aiol_uring_buffer *place = &ring[u->buffer_tail++ & (u->buffer_count - 1)];
    u->used[id] = 0;
    place->address = (uint64_t)(uintptr_t)(u->memory + AIOL_URING_PAGE + (size_t)id * u->buffer_size);
    place->size = u->buffer_size;
    place->id = (uint16_t)id;
    aiol_ring_store_16(&ring[0].tail, u->buffer_tail);
}

static bool aiol_uring_register_buffers(aiol_uring *u, uint32_t count, unsigned flags) {
    aiol_uring_buffers buffers;
    memset(&buffers, 0, sizeof(buffers));
    buffers.address = (uint64_t)(uintptr_t)u->memory;
    buffers.entries = count;
    buffers.flags = (uint16_t)flags;
    u->buffer_count = count;
    u->buffer_size = AIOL_URING_MEMORY / count;
    return aiol_uring_register(u, AIOL_URING_REGISTER_BUFFERS, &buffers, 1) == 0;
}

/* The first RECV makes the buffers: a few large ones that are filled piece by piece, or many small ones. Without them
 * there are polls. */
static bool aiol_uring_has_buffers(aiol_uring *u) {
    intptr_t memory;
    uint32_t id;
    if (AIOL_LIKELY(u->memory != NULL))
        return true;
    if ((u->table.without & AIOL_WITHOUT_BUFFER_RING) != 0)
        return false;
    u->table.without |= AIOL_WITHOUT_BUFFER_RING; /* unless all goes well */
    memory = AIOL_SYS(mmap, (intptr_t)mmap(NULL, AIOL_URING_PAGE + AIOL_URING_MEMORY, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory == -1)
        return false;
    u->memory = (unsigned char *)memory;
    if ((u->table.without & AIOL_WITHOUT_INCREMENTAL) != 0 ||
        !aiol_uring_register_buffers(u, 8, AIOL_URING_BUFFERS_INCREMENTAL)) {
        u->table.without |= AIOL_WITHOUT_INCREMENTAL;
        if (!aiol_uring_register_buffers(u, AIOL_URING_BUFFERS_MAX, 0)) {
            munmap(u->memory, AIOL_URING_PAGE + AIOL_URING_MEMORY);
            u->memory = NULL;
            return false;
        }
    }
    for (id = 0; id < u->buffer_count; id++)
        aiol_uring_give(u, id);
    u->table.without &= ~(unsigned)AIOL_WITHOUT_BUFFER_RING;
    return true;
}

static void aiol_uring_give_place(aiol_uring *u, uint32_t id) {
    aiol_uring_buffer *ring = (aiol_uring_buffer *)(void *)u->places;
    aiol_uring_buffer *place = &ring[u->places_tail++ & (AIOL_URING_PLACES - 1)];
    place->address = (uint64_t)(uintptr_t)(u->places + AIOL_URING_PAGE + (size_t)id * AIOL_URING_PLACE);
    place->size = AIOL_URING_PLACE;
    place->id = (uint16_t)id;
    aiol_ring_store_16(&ring[0].tail, u->places_tail);
}

/* The first RECVFROM makes them. */
static bool aiol_uring_has_places(aiol_uring *u) {
    const size_t size = AIOL_URING_PAGE + AIOL_URING_PLACES * AIOL_URING_PLACE;
    aiol_uring_buffers buffers;
    intptr_t memory;
    uint32_t id;
    if (AIOL_LIKELY(u->places != NULL))
        return true;
    if (u->no_places || (u->table.without & (AIOL_WITHOUT_BUFFER_RING | AIOL_WITHOUT_MULTISHOT)) != 0)
        return false;
    u->no_places = true; /* unless all goes well */
    memory = AIOL_SYS(mmap, (intptr_t)mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory == -1)
        return false;
    memset(&buffers, 0, sizeof(buffers));
    buffers.address = (uint64_t)memory;
    buffers.entries = AIOL_URING_PLACES;
    buffers.group = 1;
    if (aiol_uring_register(u, AIOL_URING_REGISTER_BUFFERS, &buffers, 1) < 0) {
        munmap((void *)memory, size);
        return false;
    }
    u->places = (unsigned char *)memory;
    u->place_shape.msg_namelen = (socklen_t)sizeof(struct sockaddr_in6);
    for (id = 0; id < AIOL_URING_PLACES; id++)
        aiol_uring_give_place(u, id);
    return true;
}

/* ---- requests ---- */

static bool aiol_uring_poll(aiol_uring *u, aiol_op *op, unsigned events) {
    aiol_uring_entry *entry = aiol_uring_request(u, AIOL_URING_POLL_ADD, op->fd, op);
    if (entry == NULL)
        return false;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    events <<= 16; /* 32 bits in halves, the lower one first */
#endif
    entry->operation_flags = events;
    op->engine_flags |= AIOL_OP_POLLED;
    return true;
}

static bool aiol_uring_recv(aiol_uring *u, const aiol_fd *at, aiol_op *op) {
    aiol_uring_entry *entry;
    if ((op->engine_flags & AIOL_OP_DIRECT) != 0 || (at->flags & AIOL_FD_POLLS) != 0 || !aiol_uring_has_buffers(u))
        return aiol_uring_poll(u, op, POLLIN);
    entry = aiol_uring_request(u, op->u.recv.pipe ? AIOL_URING_READ : AIOL_URING_RECV, op->fd, op);
    if (entry == NULL)
        return false;
    entry->flags = AIOL_URING_BUFFER_SELECT;
    if (op->u.recv.pipe)
        entry->offset = UINT64_MAX; /* it has no places */
    op->u.recv.multishot = op->u.recv.internet && (u->table.without & AIOL_WITHOUT_MULTISHOT) == 0; /* h) */
    if (op->u.recv.multishot)
        entry->priority = AIOL_URING_RECV_MULTISHOT;
    return true;
}

static bool aiol_uring_recvfrom(aiol_uring *u, aiol_op *op) {
    aiol_uring_entry *entry;
    if (!op->u.recvfrom.internet || (u->table.without & AIOL_WITHOUT_MULTISHOT) != 0 || !aiol_uring_has_places(u))
        return aiol_uring_poll(u, op, POLLIN);
    entry = aiol_uring_request(u, AIOL_URING_RECVMSG, op->fd, op);
    if (entry == NULL)
        return false;
    entry->address = (uint64_t)(uintptr_t)&u->place_shape;
    entry->size = 1;
    entry->flags = AIOL_URING_BUFFER_SELECT;
    entry->buffer_group = 1;
    entry->priority = AIOL_URING_RECV_MULTISHOT;
    return true;
}

static bool aiol_uring_accept(aiol_uring *u, aiol_op *op) {
    aiol_uring_entry *entry;
    if ((u->table.without & AIOL_WITHOUT_MULTISHOT) != 0)
        return aiol_uring_poll(u, op, POLLIN);
    entry = aiol_uring_request(u, AIOL_URING_ACCEPT, op->fd, (const char *)(const void *)op + AIOL_URING_IS_ACCEPT);
    if (entry == NULL)
        return false;
    entry->operation_flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
    entry->priority = AIOL_URING_ACCEPT_MULTISHOT;
    return true;
}

static bool aiol_uring_send(aiol_uring *u, const aiol_fd *at, aiol_op *op) {
    const aioloop_buf *pieces = op->u.send.pieces;
    bool several = op->u.send.count != 1;
    bool pipe = (at->flags & AIOL_FD_PIPE) != 0;
    int operation = pipe ? several ? AIOL_URING_WRITEV : AIOL_URING_WRITE : several ? AIOL_URING_SENDMSG : AIOL_URING_SEND;
    aiol_uring_entry *entry;
    aiol_gather *gather;
    if (several && u->gather_count == AIOL_URING_GATHERS && (aiol_uring_enter(u, 0, 0, -1) < 0 || u->gather_count != 0))
        return false;
    entry = aiol_uring_request(u, operation, op->fd, op);
    if (entry == NULL)
        return false;
    entry->operation_flags = pipe ? AIOL_URING_NOSIGNAL | AIOL_URING_NOWAIT : AIOL_MSG_NOSIGNAL | MSG_DONTWAIT; /* k) */
    if (pipe)
        entry->offset = UINT64_MAX;
    if (!several) {
        entry->address = (uint64_t)(uintptr_t)pieces->data;
        entry->size = (uint32_t)aiol_min_size(pieces->size, 0x40000000u);
        return true;
    }
    gather = &u->gathers[u->gather_count++];
    aiol_socket_message(&gather->message, gather->pieces, pieces, op->u.send.count);
    entry->address = pipe ? (uint64_t)(uintptr_t)gather->pieces : (uint64_t)(uintptr_t)&gather->message;
    entry->size = pipe ? (uint32_t)gather->message.msg_iovlen : 1;
    return true;
}

/* Whether a SEND has to wait for room first; l). */
static bool aiol_uring_must_poll(const aiol_uring *u, const aiol_fd *entry) {
    return (entry->flags & (AIOL_FD_FULL | AIOL_FD_POLLS)) != 0 ||
           ((entry->flags & AIOL_FD_PIPE) != 0 && (u->table.without & AIOL_WITHOUT_NOSIGNAL) != 0);
}

/* Makes an operation's request. False: no room now. */
static bool aiol_uring_arm(aiol_uring *u, aiol_fd *entry, aiol_op *op) {
    bool made = false;
    op->engine_flags &= (uint8_t)~AIOL_OP_POLLED;
    switch ((aiol_op_kind)op->kind) {
    case AIOL_OP_RECV:
        made = aiol_uring_recv(u, entry, op);
        break;
    case AIOL_OP_RECVFROM:
        made = aiol_uring_recvfrom(u, op);
        break;
    case AIOL_OP_ACCEPT:
        made = aiol_uring_accept(u, op);
        break;
    case AIOL_OP_SEND:
        made = aiol_uring_must_poll(u, entry) ? aiol_uring_poll(u, op, POLLOUT) : aiol_uring_send(u, entry, op);
        break;
    case AIOL_OP_SENDFILE:
    case AIOL_OP_SENDTO:
    case AIOL_OP_CONNECT:
        made = aiol_uring_poll(u, op, POLLOUT);
        break;
    case AIOL_OP_POLL:
        made = aiol_uring_poll(u, op, op->u.poll.events == AIOL_POLL_WRITABLE ? POLLOUT : POLLIN);
        break;
    }
    if (!made)
        return false;
    op->engine_flags |= AIOL_OP_ARMED;
    op->generation = entry->generation;
    entry->armed++;
    return true;
}

static bool aiol_uring_disarm(aiol_uring *u, aiol_op *op) {
    const char *tagged = (const char *)(const void *)op + AIOL_URING_IS_CANCEL;
    aiol_uring_entry *entry = aiol_uring_request(u, AIOL_URING_CANCEL, -1, tagged);
    if (entry == NULL)
        return false;
    entry->address = (uint64_t)(uintptr_t)op;
    if (op->kind == AIOL_OP_ACCEPT && (op->engine_flags & AIOL_OP_POLLED) == 0)
        entry->address += AIOL_URING_IS_ACCEPT;
    entry->flags = AIOL_URING_SKIP_SUCCESS;
    op->engine_flags |= AIOL_OP_LEAVING;
    return true;
}

/* Whether a source lacks a request. What is kept goes first. */
static bool aiol_uring_is_due(const aiol_op *in) {
    return in->state == AIOL_OP_ACTIVE && in->engine == NULL &&
           (in->engine_flags & (AIOL_OP_ARMED | AIOL_OP_ENDED)) == 0;
}

/* Whether the kernel is to give back a source's request. A poll takes nothing, so it may stay until the end. */
static bool aiol_uring_is_superfluous(const aiol_op *in) {
    if ((in->engine_flags & (AIOL_OP_ARMED | AIOL_OP_LEAVING)) != AIOL_OP_ARMED)
        return false;
    if ((in->engine_flags & (AIOL_OP_ENDED | AIOL_OP_POLLED)) != 0)
        return (in->engine_flags & AIOL_OP_ENDED) != 0;
    return in->state != AIOL_OP_ACTIVE || (in->engine_flags & AIOL_OP_DIRECT) != 0;
}

static void aiol_uring_cancel_later(aiol_uring *u, aiol_op *op) {
    op->engine_flags |= AIOL_OP_WAITING;
    op->link = NULL;
    op->engine = u->cancels_end;
    *u->cancels_end = op;
    u->cancels_end = &op->link;
}

static void aiol_uring_cancel_no_more(aiol_uring *u, aiol_op *op) {
    aiol_op **at = (aiol_op **)op->engine;
    op->engine_flags &= (uint8_t)~AIOL_OP_WAITING;
    *at = op->link;
    if (op->link != NULL)
        op->link->engine = at;
    else
        u->cancels_end = at;
    op->engine = NULL;
}

/* Brings the kernel's side of a descriptor up to date. False: no room now. */
static bool aiol_uring_update(aiol_uring *u, aiol_fd *entry) {
    aiol_op *in = entry->in;
    aiol_op *out = entry->out;
    if (in != NULL && aiol_uring_is_due(in) && !aiol_uring_arm(u, entry, in))
        return false;
    if (in != NULL && aiol_uring_is_superfluous(in) && !aiol_uring_disarm(u, in))
        return false;
    return out == NULL || out->state != AIOL_OP_ACTIVE || (out->engine_flags & AIOL_OP_ARMED) != 0 ||
           (entry->flags & AIOL_FD_ROOM) != 0 || aiol_uring_arm(u, entry, out);
}

/* Makes the requests that are due, as far as there is room. */
static int aiol_uring_prepare(aiol_uring *u) {
    aiol_table *t = &u->table;
    if (AIOL_UNLIKELY(!u->enabled)) {
        int err = aiol_uring_register(u, AIOL_URING_ENABLE, NULL, 0);
        if (err < 0)
            return err;
        u->enabled = true;
    }
    while (u->cancels != NULL) {
        aiol_op *op = u->cancels;
        if (!aiol_uring_disarm(u, op))
            return 0;
        aiol_uring_cancel_no_more(u, op);
    }
    while (t->dirty_count != 0) {
        aiol_fd *entry = &t->fds[t->dirty[t->dirty_count - 1]];
        if (!aiol_uring_update(u, entry))
            return 0;
        entry->flags &= (uint8_t)~AIOL_FD_DIRTY;
        t->dirty_count--;
    }
    return 0;
}

/* Whether there was no room for some request. */
static bool aiol_uring_is_behind(const aiol_uring *u) {
    return u->table.dirty_count != 0 || u->cancels != NULL;
}

/* Whose completion this is; NULL: nobody's. */
static aiol_op *aiol_uring_whose(const aiol_uring_completion *c) {
    if ((c->user_data & AIOL_URING_IS_CANCEL) != 0)
        return NULL;
    return (aiol_op *)(uintptr_t)(c->user_data & ~(uint64_t)AIOL_URING_TAGS);
}

/* a) The cancellations are made, and the kernel lets go: of one operation, or if that is NULL of all that the
 * descriptor's armed. One call runs no more than 20 pieces of what is postponed, and under load there is always more of
 * it. */
static void aiol_uring_settle(aiol_uring *u, aioloop_socket fd, const aiol_op *op) {
    const aiol_fd *entry = aiol_table_at(&u->table, fd);
    uint32_t wanted = op != NULL ? 1 : entry->armed;
    uint32_t at = u->cq_next;
    uint32_t found = 0;
    int tries;
    for (tries = 0; tries < 1000; tries++) {
        if (aiol_uring_prepare(u) < 0 || aiol_uring_enter(u, AIOL_URING_GETEVENTS, 0, -1) < 0)
            return;
        for (; at != aiol_ring_load(u->cq_tail); at++) {
            const aiol_uring_completion *c = &u->completions[at & u->cq_mask];
            const aiol_op *ended = (c->flags & AIOL_URING_F_MORE) == 0 ? aiol_uring_whose(c) : NULL;
            if (ended != NULL && (op != NULL ? ended == op : ended->fd == fd && ended->generation == entry->generation))
                found++;
        }
        if (found >= wanted || (aiol_uring_unsubmitted(u) == 0 && u->cancels == NULL &&
                                (aiol_ring_load(u->sq_flags) & AIOL_URING_SQ_TASKRUN) == 0))
            return;
    }
}

/* ---- operations ---- */

static void aiol_uring_leave_room(aiol_uring *u, aiol_fd *entry, aioloop_socket fd) {
    struct epoll_event none;
    memset(&none, 0, sizeof(none));
    (void)epoll_ctl(u->room, EPOLL_CTL_DEL, fd, &none);
    entry->flags &= (uint8_t)~(AIOL_FD_ROOM | AIOL_FD_FULL);
}

static int64_t aiol_uring_submit(aiol_engine *e, aiol_op *op) {
    aiol_fd *entry = aiol_table_at((aiol_table *)e, op->fd);
    bool out = op->kind == AIOL_OP_SEND || op->kind == AIOL_OP_SENDFILE || op->kind == AIOL_OP_SENDTO ||
               op->kind == AIOL_OP_CONNECT || (op->kind == AIOL_OP_POLL && op->u.poll.events == AIOL_POLL_WRITABLE);
    if (op->kind == AIOL_OP_CONNECT) {
        int err = aiol_socket_connect(op->fd, op->u.connect.address);
        if (err != AIOLOOP_EINPROGRESS)
            return err;
    }
    if (op->kind == AIOL_OP_SENDFILE) {
        int64_t n = aiol_table_begin_file((aiol_table *)e, op);
        if (n != AIOL_PENDING)
            return n;
    }
    if (op->kind == AIOL_OP_SENDTO) {
        int64_t n = aiol_table_begin_sendto((aiol_table *)e, op);
        if (n != AIOL_PENDING)
            return n;
    }
    if (out && AIOL_UNLIKELY((entry->flags & AIOL_FD_ROOM) != 0)) /* a watcher's, closed too early */
        aiol_uring_leave_room((aiol_uring *)e, entry, op->fd);
    return aiol_table_wait_at((aiol_table *)e, op, out);
}

/* A small write is copied and goes with the next wait, together with others; a large one is worth a call, and so is one
 * more than the ring has room for: what a broadcast copies stays bounded. */
static int64_t aiol_uring_attempt(aiol_engine *e, aioloop_socket fd, const aioloop_buf *pieces, int count, bool now) {
    aiol_uring *u = (aiol_uring *)e;
    size_t size = 0;
    int i;
    for (i = 0; i < count; i++)
        size += pieces[i].size;
    if (size <= AIOL_URING_QUEUED && !now && u->deferred < AIOL_URING_ENTRIES) {
        u->deferred++;
        return AIOL_PENDING;
    }
    return aiol_table_attempted(e, fd, pieces, count, aiol_table_send(&u->table, fd, pieces, count));
}

static int aiol_uring_cancel(aiol_engine *e, aiol_op *op) {
    aiol_uring *u = (aiol_uring *)e;
    bool leaving = (op->engine_flags & AIOL_OP_LEAVING) != 0;
    aiol_fd *entry = aiol_table_at(&u->table, op->fd);
    if (op == entry->out && (entry->flags & AIOL_FD_ROOM) != 0)
        aiol_uring_leave_room(u, entry, op->fd);
    aiol_table_idle(&u->table, op);
    if ((op->engine_flags & AIOL_OP_ARMED) == 0)
        return 0;
    op->state = AIOL_OP_CANCELLING;
    if (!leaving)
        aiol_uring_cancel_later(u, op);
    if (op->kind == AIOL_OP_POLL)
        aiol_uring_settle(u, op->fd, op);
    return AIOL_PENDING;
}

static void aiol_uring_quiesce(aiol_engine *e, aioloop_socket fd) {
    aiol_uring *u = (aiol_uring *)e;
    aiol_fd *entry = aiol_table_at(&u->table, fd);
    AIOL_ASSERT(entry->in == NULL && entry->out == NULL);
    if (entry->armed != 0)
        aiol_uring_settle(u, fd, NULL);
    entry->flags &= (uint8_t)~(AIOL_FD_TRANSPORT | AIOL_FD_FULL);
    entry->generation++;
    entry->armed = 0;
}

/* ---- waiting ---- */

static int aiol_uring_wait_for(aiol_engine *e, aioloop_time deadline) {
    aiol_uring *u = (aiol_uring *)e;
    int64_t timeout;
    int err;
    u->deferred = 0;
    err = aiol_uring_prepare(u);
    if (err < 0)
        return err;
    if (AIOL_UNLIKELY(u->cq_next != u->cq_end)) { /* a halt or a budget left them */
        err = aiol_uring_unsubmitted(u) == 0 ? 0 : aiol_uring_enter(u, 0, 0, -1);
        return err < 0 ? err : 1;
    }
    timeout = aiol_table_timeout(&u->table, deadline);
    u->cq_fresh = aiol_ring_load(u->cq_tail);
    if (u->cq_fresh != u->cq_next || aiol_uring_is_behind(u))
        timeout = 0;
    if (timeout != 0 || aiol_uring_unsubmitted(u) != 0 ||
        (aiol_ring_load(u->sq_flags) & (AIOL_URING_SQ_TASKRUN | AIOL_URING_SQ_OVERFLOW)) != 0)
        err = aiol_uring_enter(u, AIOL_URING_GETEVENTS, timeout != 0 ? 1 : 0, timeout == 0 ? -1 : timeout);
    u->cq_end = aiol_ring_load(u->cq_tail);
    return err < 0 ? err : u->cq_end != u->cq_next || u->table.kept != NULL;
}

/* g) Another main loop goes on: its eventfd shows what is found from now on, or has not been looked at. */
static void aiol_uring_reset_signal(aiol_uring *u) {
    uint64_t count;
    if (AIOL_SYS(read, read(u->signal.reader, &count, sizeof(count))) == -1 && errno == EAGAIN)
        return;
    (void)aiol_uring_register(u, AIOL_URING_UNREGISTER_EVENTFD, NULL, 0);
    if (aiol_uring_register(u, AIOL_URING_REGISTER_EVENTFD, &u->signal.reader, 1) < 0 ||
        aiol_ring_load(u->cq_tail) != u->cq_next ||
        (aiol_ring_load(u->sq_flags) & (AIOL_URING_SQ_TASKRUN | AIOL_URING_SQ_OVERFLOW)) != 0)
        aiol_wake_signal(&u->signal);
}

static int aiol_uring_flush(aiol_engine *e) {
    aiol_uring *u = (aiol_uring *)e;
    int tries;
    if (u->signal.reader != -1)
        aiol_uring_reset_signal(u);
    for (tries = 0; tries < 10; tries++) {
        int err = aiol_uring_prepare(u);
        if (err == 0 && aiol_uring_unsubmitted(u) != 0)
            err = aiol_uring_enter(u, 0, 0, -1);
        if (err < 0)
            return err;
        if (aiol_uring_unsubmitted(u) == 0 && !aiol_uring_is_behind(u))
            return u->table.kept != NULL ? AIOLOOP_EAGAIN : 0;
    }
    return AIOLOOP_EAGAIN; /* the caller looks again at once */
}

/* ---- dispatching ---- */

/* A request was cancelled that nobody wanted to be, or has to be made anew for another reason. */
static bool aiol_uring_is_passing(int result) {
    return result == -ECANCELED || result == -EINTR || result == -EAGAIN || result == -ENOBUFS;
}

/* The last completion of a cancelled operation: what had happened before is told. */
static void aiol_uring_cancelled(aiol_uring *u, aiol_op *op, int result) {
    bool sent = op->kind == AIOL_OP_SEND && result >= 0 && (op->engine_flags & AIOL_OP_POLLED) == 0;
    if ((op->engine_flags & AIOL_OP_WAITING) != 0)
        aiol_uring_cancel_no_more(u, op);
    op->state = AIOL_OP_IDLE;
    op->done(op, sent ? result : AIOLOOP_ECANCELED, NULL);
}

/* The buffer of a completion, if it has one: handed on or kept, and given back. */
static void aiol_uring_bytes(aiol_uring *u, aiol_op *op, const aiol_uring_completion *c, const aiol_budget *budget) {
    uint32_t id = c->flags >> 16;
    size_t size = c->result > 0 ? (size_t)c->result : 0;
    unsigned char *data;
    if ((c->flags & AIOL_URING_F_BUFFER) == 0)
        return;
    if (op->u.recv.multishot)
        u->proved = true;
    data = u->memory + AIOL_URING_PAGE + (size_t)id * u->buffer_size + u->used[id];
    u->used[id] += (uint32_t)size;
    if (size >= AIOL_URING_LARGE && (op->engine_flags & AIOL_OP_DIRECT) == 0 && op->state == AIOL_OP_ACTIVE) {
        op->engine_flags |= AIOL_OP_DIRECT;
        aiol_table_changed(&u->table, op->fd, aiol_table_at(&u->table, op->fd));
    }
    if (size != 0 && op->state != AIOL_OP_CANCELLING && (op->engine_flags & AIOL_OP_ENDED) == 0) {
        if (op->state == AIOL_OP_STOPPED || op->engine != NULL)
            aiol_table_stash(&u->table, op, data, size);
        else
            aiol_table_deliver(&u->table, op, data, size, budget);
    }
    /* Of an incremental ring, one that got nothing is still the kernel's. */
    if ((c->flags & AIOL_URING_F_BUFFER_MORE) == 0 && (size != 0 || (u->table.without & AIOL_WITHOUT_INCREMENTAL) != 0))
        aiol_uring_give(u, id);
}

/* The same for a datagram. */
static void aiol_uring_datagram(aiol_uring *u, aiol_op *op, const aiol_uring_completion *c, const aiol_budget *budget) {
    uint32_t id = c->flags >> 16;
    aiol_uring_received head;
    const unsigned char *place;
    aiol_sockaddr name;
    aioloop_address from;
    aiol_path_room room;
    aiol_arrival arrival;
    if ((c->flags & AIOL_URING_F_BUFFER) == 0)
        return;
    u->proved = true;
    place = u->places + AIOL_URING_PAGE + (size_t)id * AIOL_URING_PLACE;
    if (op->state != AIOL_OP_CANCELLING && c->result >= (int)AIOL_URING_PLACE_HEAD) {
        memcpy(&head, place, sizeof(head));
        memcpy(&name, place + sizeof(head), sizeof(struct sockaddr_in6));
        aiol_sockaddr_read(&name, (socklen_t)head.name_size, &from, &room);
        arrival.data = place + AIOL_URING_PLACE_HEAD;
        arrival.from = &from;
        aiol_table_arrived(&u->table, op, (int64_t)head.size, &arrival, budget);
    }
    aiol_uring_give_place(u, id);
}

/* The last completion of a RECVFROM's request. */
static void aiol_uring_datagrams_ended(aiol_uring *u, aiol_op *op, int result, const aiol_budget *budget) {
    int64_t n = result < 0 ? aiol_error_from_errno(-result) : 0;
    if (result >= 0 || aiol_uring_is_passing(result))
        return;
    if (result == -EINVAL && !u->proved) /* a kernel before 6.0 */
        u->table.without |= AIOL_WITHOUT_MULTISHOT;
    else if (n == AIOLOOP_EBADF || n == AIOLOOP_ENOTSOCK)
        aiol_table_finish(&u->table, op, n);
    else
        aiol_table_arrived(&u->table, op, n, NULL, budget);
}

/* The last completion of a RECV's request: an end, an error, or only a reason to make it anew. */
static void aiol_uring_receive_ended(aiol_uring *u, aiol_op *op, int result) {
    aiol_table *t = &u->table;
    int64_t n = result < 0 ? aiol_error_from_errno(-result) : 0;
    if (result == -EAGAIN && op->u.recv.pipe) /* l) */
        aiol_table_at(t, op->fd)->flags |= AIOL_FD_POLLS;
    if (result > 0 || aiol_uring_is_passing(result) || (op->engine_flags & AIOL_OP_ENDED) != 0)
        return;
    if (result == -EINVAL && op->u.recv.multishot && !u->proved) /* a kernel before 6.0 */
        t->without |= AIOL_WITHOUT_MULTISHOT;
    else if (op->state == AIOL_OP_ACTIVE && op->engine == NULL)
        aiol_table_finish(t, op, n);
    else
        aiol_table_end(t, op, n);
}

static void aiol_uring_accepted(aiol_uring *u, aiol_op *op, int result) {
    aiol_table *t = &u->table;
    if (result >= 0) {
        aioloop_address peer;
        aiol_path_room room;
        if (aiol_socket_peer(result, &peer, &room) < 0)
            memset(&peer, 0, sizeof(peer)); /* it is gone already; reading will tell */
        op->done(op, result, &peer);
    } else if (result == -EINVAL) { /* a kernel before 5.19 */
        u->table.without |= AIOL_WITHOUT_MULTISHOT;
    } else if (!aiol_uring_is_passing(result)) {
        aiol_table_finish(t, op, aiol_error_from_errno(-result));
    }
}

/* j) */
static int64_t aiol_uring_broken(aiol_table *t, const aiol_op *op) {
    const aiol_uring *u = (const aiol_uring *)(const void *)t;
    const aiol_op *out = aiol_table_at(t, op->fd)->out;
    uint32_t end = aiol_ring_load(u->cq_tail);
    uint32_t i;
    for (i = u->cq_next; out != NULL && i != end; i++) {
        const aiol_uring_completion *c = &u->completions[i & u->cq_mask];
        if (c->user_data == (uint64_t)(uintptr_t)out && c->result < 0 && !aiol_uring_is_passing(c->result))
            return aiol_error_from_errno(-c->result);
    }
    return 0;
}

/* Reads what is there without a request. */
static void aiol_uring_read(aiol_uring *u, aiol_op *op, const aiol_budget *budget) {
    aiol_table *t = &u->table;
    size_t got = op->u.recv.dest == NULL ? aiol_table_recv(t, op, budget) : aiol_table_recv_into(t, op, budget);
    if (t->current != op)
        return;
    if (got >= AIOL_URING_SMALL)
        op->engine_flags &= (uint8_t)~AIOL_OP_LITTLE;
    else if ((op->engine_flags & AIOL_OP_LITTLE) == 0)
        op->engine_flags |= AIOL_OP_LITTLE;
    else
        op->engine_flags &= (uint8_t)~(AIOL_OP_DIRECT | AIOL_OP_LITTLE);
}

/* Some sockets whose peers have ended have room again. */
static size_t aiol_uring_roomy(aiol_op *op, int64_t n, const void *data) {
    aiol_uring *u = AIOL_CONTAINER(op, aiol_uring, room_op);
    struct epoll_event events[16];
    int count;
    (void)n;
    (void)data;
    count = AIOL_SYS(epoll_wait, epoll_wait(u->room, events, (int)(sizeof(events) / sizeof(events[0])), 0));
    while (count-- > 0) {
        aioloop_socket fd = events[count].data.fd;
        aiol_fd *entry = aiol_table_at(&u->table, fd);
        aiol_uring_leave_room(u, entry, fd);
        aiol_table_changed(&u->table, fd, entry);
    }
    if (op->state == AIOL_OP_IDLE)
        (void)aiol_uring_submit(&u->table.base, op);
    return 0;
}

/* k) False: not possible. */
static bool aiol_uring_await_room(aiol_uring *u, aioloop_socket fd) {
    struct epoll_event event;
    if (u->room == -1) {
        u->room = AIOL_SYS(epoll_create1, epoll_create1(EPOLL_CLOEXEC));
        if (u->room == -1)
            return false;
        if (aiol_table_attach(&u->table.base, u->room, AIOL_OWNER_WATCHER) < 0) {
            close(u->room);
            u->room = -1;
            return false;
        }
        u->room_op.kind = AIOL_OP_POLL;
        u->room_op.fd = u->room;
        u->room_op.done = aiol_uring_roomy;
        u->room_op.u.poll.events = AIOL_POLL_READABLE;
        (void)aiol_uring_submit(&u->table.base, &u->room_op);
    }
    memset(&event, 0, sizeof(event));
    event.events = EPOLLOUT;
    event.data.fd = fd;
    if (AIOL_SYS(epoll_ctl, epoll_ctl(u->room, EPOLL_CTL_ADD, fd, &event)) == -1)
        return false;
    aiol_table_at(&u->table, fd)->flags |= AIOL_FD_ROOM;
    return true;
}

/* k) Whether a poll for room has found nothing but the peer's end, and something better waits now. */
static bool aiol_uring_has_no_room(aiol_uring *u, const aiol_op *op, int result) {
    return (result & (POLLOUT | POLLERR | POLLHUP | POLLNVAL)) == 0 && aiol_uring_await_room(u, op->fd);
}

/* A SEND was tried; without room a poll is made next. */
static void aiol_uring_sent(aiol_uring *u, aiol_op *op, int64_t n) {
    n = aiol_table_attempted(&u->table.base, op->fd, op->u.send.pieces, op->u.send.count, n);
    if (n != AIOL_PENDING)
        aiol_table_finish(&u->table, op, n);
}

/* A SEND that found no room is tried again, as are a SENDFILE and a SENDTO. */
static void aiol_uring_send_again(aiol_uring *u, aiol_op *op, int result) {
    if (aiol_uring_has_no_room(u, op, result))
        return;
    aiol_table_at(&u->table, op->fd)->flags &= (uint8_t)~AIOL_FD_FULL;
    if (op->kind != AIOL_OP_SEND) {
        int64_t n = op->kind == AIOL_OP_SENDFILE ? aiol_table_attempt_file(&u->table, op)
                                                 : aiol_table_attempt_to(&u->table.base, op->fd, op->u.sendto.first);
        if (n != AIOL_PENDING)
            aiol_table_finish(&u->table, op, n);
        return;
    }
    aiol_uring_sent(u, op, aiol_table_send(&u->table, op->fd, op->u.send.pieces, op->u.send.count));
}

static void aiol_uring_watched(aiol_uring *u, aiol_op *op, int result, bool fresh) {
    if (op->u.poll.events == AIOL_POLL_WRITABLE && aiol_uring_has_no_room(u, op, result))
        return;
    if (fresh || aiol_descriptor_is_ready(op->fd, op->u.poll.events))
        op->done(op, op->u.poll.events, NULL);
}

/* The socket of a RECV is readable, or the descriptor of another operation is ready. */
static void aiol_uring_polled(aiol_uring *u, aiol_op *op, int result, bool fresh, const aiol_budget *budget) {
    aiol_table *t = &u->table;
    if (aiol_uring_is_passing(result) || op->state != AIOL_OP_ACTIVE)
        return;
    if (result < 0)
        aiol_table_finish(t, op, aiol_error_from_errno(-result));
    else if (op->kind == AIOL_OP_CONNECT)
        aiol_table_finish(t, op, aiol_socket_connected(op->fd));
    else if (op->kind == AIOL_OP_POLL)
        aiol_uring_watched(u, op, result, fresh);
    else if (op->kind == AIOL_OP_SEND || op->kind == AIOL_OP_SENDFILE || op->kind == AIOL_OP_SENDTO)
        aiol_uring_send_again(u, op, result);
    else if (op->kind == AIOL_OP_ACCEPT)
        aiol_table_accept(t, op, budget);
    else if ((op->engine_flags & (AIOL_OP_KEPT | AIOL_OP_ENDED)) != 0)
        return; /* what is kept goes first */
    else if (op->kind == AIOL_OP_RECVFROM)
        aiol_table_recvfrom(t, op, budget);
    else
        aiol_uring_read(u, op, budget);
}

static void aiol_uring_complete(aiol_uring *u, aiol_op *op, const aiol_uring_completion *c, bool fresh,
                                const aiol_budget *budget) {
    aiol_table *t = &u->table;
    bool last = (c->flags & AIOL_URING_F_MORE) == 0;
    t->current = op;
    if (last) {
        aiol_fd *entry = op->fd >= 0 ? aiol_table_at(t, op->fd) : NULL;
        op->engine_flags &= (uint8_t)~(AIOL_OP_ARMED | AIOL_OP_LEAVING);
        if (entry != NULL && entry->generation == op->generation && entry->armed != 0)
            entry->armed--;
    }
    if (AIOL_UNLIKELY(op->state == AIOL_OP_CANCELLING)) {
        if (op->kind == AIOL_OP_RECVFROM)
            aiol_uring_datagram(u, op, c, budget);
        else
            aiol_uring_bytes(u, op, c, budget);
        if (op->kind == AIOL_OP_ACCEPT && c->result >= 0 && (op->engine_flags & AIOL_OP_POLLED) == 0)
            aiol_socket_close(c->result); /* as the system does with those that nobody has accepted */
        if (last)
            aiol_uring_cancelled(u, op, c->result);
        return;
    }
    if ((op->engine_flags & AIOL_OP_POLLED) != 0) {
        aiol_uring_polled(u, op, c->result, fresh, budget);
    } else if (op->kind == AIOL_OP_RECV) {
        aiol_uring_bytes(u, op, c, budget);
        if (last && t->current == op)
            aiol_uring_receive_ended(u, op, c->result);
    } else if (op->kind == AIOL_OP_RECVFROM) {
        aiol_uring_datagram(u, op, c, budget);
        if (last && t->current == op)
            aiol_uring_datagrams_ended(u, op, c->result, budget);
    } else if (op->kind == AIOL_OP_ACCEPT) {
        aiol_uring_accepted(u, op, c->result);
    } else if (c->result == -EOPNOTSUPP && (aiol_table_at(t, op->fd)->flags & AIOL_FD_PIPE) != 0) {
        aiol_table_at(t, op->fd)->flags |= AIOL_FD_POLLS; /* l) */
    } else if (c->result == -EAGAIN || !aiol_uring_is_passing(c->result)) {
        aiol_uring_sent(u, op, c->result >= 0 ? c->result : aiol_error_from_errno(-c->result));
    }
    if (last && t->current == op)
        aiol_table_changed(t, op->fd, aiol_table_at(t, op->fd)); /* to be made anew */
}

/* Whether its budget allows one more connection in this iteration. */
static bool aiol_uring_may_accept(const aiol_uring *u, aiol_op *op) {
    if (op->u.accept.turn != u->turn)
        op->u.accept.taken = 0;
    op->u.accept.turn = u->turn;
    return op->u.accept.taken++ < op->u.accept.budget || op->state == AIOL_OP_CANCELLING;
}

static int aiol_uring_dispatch(aiol_engine *e, const aiol_budget *budget) {
    aiol_uring *u = (aiol_uring *)e;
    if (AIOL_UNLIKELY(u->table.kept != NULL))
        aiol_table_offer(&u->table, budget);
    u->turn++;
    while (u->cq_next != u->cq_end && !*budget->halt) {
        aiol_uring_completion c = u->completions[u->cq_next & u->cq_mask];
        aiol_op *op = aiol_uring_whose(&c);
        bool fresh = (int32_t)(u->cq_next - u->cq_fresh) >= 0;
        if ((c.user_data & AIOL_URING_IS_ACCEPT) != 0 && !aiol_uring_may_accept(u, op))
            break; /* in the next iteration */
        aiol_ring_store(u->cq_head, ++u->cq_next);
        if (op != NULL)
            aiol_uring_complete(u, op, &c, fresh, budget);
    }
    return u->table.kept != NULL || u->cq_next != u->cq_end ? 1 : 0;
}

/* ---- the rest ---- */

static int aiol_uring_descriptor(aiol_engine *e) {
    aiol_uring *u = (aiol_uring *)e;
    aiol_wake signal;
    int err;
    if (u->signal.reader != -1)
        return u->signal.reader;
    err = aiol_wake_open(&signal, 0);
    if (err < 0)
        return err;
    err = aiol_uring_register(u, AIOL_URING_REGISTER_EVENTFD, &signal.reader, 1);
    if (err < 0) {
        aiol_wake_close(&signal);
        return err;
    }
    aiol_wake_signal(&signal); /* there may be something already */
    u->signal = signal;
    return signal.reader;
}

static void aiol_uring_wake(aiol_engine *e) {
    aiol_wake_signal(&((aiol_uring *)e)->wake);
}

static size_t aiol_uring_woken(aiol_op *op, int64_t n, const void *data) {
    aiol_uring *u = AIOL_CONTAINER(op, aiol_uring, wake_op);
    (void)n;
    (void)data;
    aiol_wake_drain(&u->wake);
    if (op->state == AIOL_OP_IDLE) /* the kernel gave up; threads must be able to wake us all the same */
        (void)aiol_uring_submit(&u->table.base, op);
    return 0;
}

/* Touches nothing that a forked child shares with its parent. */
static void aiol_uring_forget(aiol_engine *e) {
    aiol_uring *u = (aiol_uring *)e;
    if (u->rings != NULL)
        munmap(u->rings, u->rings_size);
    if (u->entries != NULL)
        munmap(u->entries, u->entries_size);
    if (u->fd != -1)
        close(u->fd);
    if (u->signal.reader != -1)
        aiol_wake_close(&u->signal);
    if (u->room != -1)
        close(u->room);
    if (u->memory != NULL)
        munmap(u->memory, AIOL_URING_PAGE + AIOL_URING_MEMORY);
    if (u->places != NULL)
        munmap(u->places, AIOL_URING_PAGE + AIOL_URING_PLACES * AIOL_URING_PLACE);
    aiol_wake_close(&u->wake);
    aiol_table_free(&u->table);
    aiol_free(e->allocator, u, sizeof(*u));
}

/* Connections that were made, and that nobody will accept. */
static void aiol_uring_close_accepted(aiol_uring *u) {
    for (; u->cq_next != aiol_ring_load(u->cq_tail); aiol_ring_store(u->cq_head, ++u->cq_next)) {
        const aiol_uring_completion *c = &u->completions[u->cq_next & u->cq_mask];
        if ((c->user_data & AIOL_URING_TAGS) == AIOL_URING_IS_ACCEPT && c->result >= 0)
            aiol_socket_close(c->result);
    }
}

static void aiol_uring_close(aiol_engine *e) {
    aiol_uring *u = (aiol_uring *)e;
    int tries = 0;
    if (u->enabled) { /* a): watchers' descriptors outlive the loop */
        const char *tagged = (const char *)(const void *)u + AIOL_URING_IS_CANCEL;
        aiol_uring_entry *entry = aiol_uring_request(u, AIOL_URING_CANCEL, -1, tagged);
        if (entry != NULL)
            entry->operation_flags = AIOL_URING_CANCEL_ALL | AIOL_URING_CANCEL_ANY;
        do {
            int err = aiol_uring_enter(u, AIOL_URING_GETEVENTS, 0, -1);
            aiol_uring_close_accepted(u); /* also of what was found before */
            if (err < 0)
                break;
        } while ((aiol_ring_load(u->sq_flags) & (AIOL_URING_SQ_TASKRUN | AIOL_URING_SQ_OVERFLOW)) != 0 && ++tries < 1000);
    }
    aiol_uring_forget(e);
}

static void aiol_uring_verify(aiol_engine *e) {
    const aiol_uring *u = (const aiol_uring *)(const void *)e;
    size_t i;
    aiol_table_verify(&u->table);
    for (i = 0; i < u->table.fds_capacity; i++) {
        const aiol_fd *entry = &u->table.fds[i];
        const aiol_op *in = entry->in;
        /* Whatever waits is armed, or will be: when it is told, when what is kept was taken, when it is started, or
         * when its callback, from which this may be called, returns. */
        AIOL_VERIFY(in == NULL || in == u->table.current || in->state == AIOL_OP_STOPPED ||
                    (in->engine_flags & (AIOL_OP_ARMED | AIOL_OP_KEPT)) != 0 || (entry->flags & AIOL_FD_DIRTY) != 0);
        AIOL_VERIFY(entry->out == NULL || entry->out == u->table.current || entry->out->state == AIOL_OP_STOPPED ||
                    (entry->out->engine_flags & AIOL_OP_ARMED) != 0 ||
                    (entry->flags & (AIOL_FD_DIRTY | AIOL_FD_ROOM)) != 0);
    }
}

static const aiol_engine_calls aiol_uring_calls = {
    aiol_uring_close,    aiol_uring_submit,   aiol_uring_attempt,  aiol_table_attempt_to, aiol_uring_cancel,     aiol_table_stop,
    aiol_table_start,    aiol_table_take,     aiol_table_watching, aiol_table_owned,      aiol_table_attach,
    aiol_uring_quiesce,  aiol_uring_wait_for, aiol_uring_dispatch, aiol_uring_flush,      aiol_uring_descriptor,
    aiol_uring_wake,     aiol_uring_forget,   aiol_table_now,      aiol_uring_verify,
};

/* ---- making ---- */

/* Without memory of the kernel's (some charge it to a limit of the user's) there are other engines. */
static int aiol_uring_refused(void) {
    return errno == ENOMEM ? AIOLOOP_ENOTAVAILABLE : aiol_error_from_errno(errno);
}

/* The best ring that the kernel makes and that is not to be done without. Where it is not the best of all, epoll is as
 * good, and serves unless this engine was asked for. */
static int aiol_uring_create(aiol_uring *u, bool named, aiol_uring_setup *setup) {
    static const struct {
        uint32_t flags;
        unsigned without;
    } rungs[] = {{AIOL_URING_SINGLE_ISSUER | AIOL_URING_DEFER_TASKRUN | AIOL_URING_TASKRUN_FLAG | AIOL_URING_SUBMIT_ALL,
                  AIOL_WITHOUT_DEFER_TASKRUN},
                 {AIOL_URING_COOP_TASKRUN | AIOL_URING_TASKRUN_FLAG | AIOL_URING_SUBMIT_ALL, AIOL_WITHOUT_COOP_TASKRUN},
                 {0, 0}};
    size_t i;
    for (i = 0; i < sizeof(rungs) / sizeof(rungs[0]); i++) {
        if ((u->table.without & rungs[i].without) != 0)
            continue;
        memset(setup, 0, sizeof(*setup));
        setup->flags = rungs[i].flags | AIOL_URING_CQSIZE | AIOL_URING_CLAMP | AIOL_URING_R_DISABLED;
        setup->cq_entries = AIOL_URING_COMPLETIONS;
        u->fd = AIOL_SYS(io_uring_setup, (int)syscall(AIOL_SYS_URING_SETUP, AIOL_URING_ENTRIES, setup));
        if (u->fd != -1)
            return (setup->features & AIOL_URING_FEATURES) == AIOL_URING_FEATURES ? 0 : AIOLOOP_ENOTAVAILABLE;
        if (errno != EINVAL || !named)
            break;
    }
    return aiol_uring_refused();
}

static int aiol_uring_map(aiol_uring *u, const aiol_uring_setup *setup) {
    uint32_t *array;
    intptr_t place;
    size_t size;
    uint32_t i;
    u->rings_size = setup->sq.array + setup->sq_entries * sizeof(uint32_t);
    size = setup->cq.completions + setup->cq_entries * sizeof(aiol_uring_completion);
    if (size > u->rings_size)
        u->rings_size = size;
    place = AIOL_SYS(mmap, (intptr_t)mmap(NULL, u->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->fd,
                                          AIOL_URING_MAP_RINGS));
    if (place == -1)
        return aiol_uring_refused();
    u->rings = (unsigned char *)place;
    u->entries_size = setup->sq_entries * sizeof(aiol_uring_entry);
    place = AIOL_SYS(mmap, (intptr_t)mmap(NULL, u->entries_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->fd,
                                          AIOL_URING_MAP_ENTRIES));
    if (place == -1)
        return aiol_uring_refused();
    u->entries = (aiol_uring_entry *)place;
    u->sq_head = (uint32_t *)(void *)(u->rings + setup->sq.head);
    u->sq_tail = (uint32_t *)(void *)(u->rings + setup->sq.tail);
    u->sq_flags = (uint32_t *)(void *)(u->rings + setup->sq.flags);
    u->sq_mask = setup->sq_entries - 1;
    array = (uint32_t *)(void *)(u->rings + setup->sq.array);
    for (i = 0; i < setup->sq_entries; i++)
        array[i] = i;
    u->cq_head = (uint32_t *)(void *)(u->rings + setup->cq.head);
    u->cq_tail = (uint32_t *)(void *)(u->rings + setup->cq.tail);
    u->cq_mask = setup->cq_entries - 1;
    u->completions = (aiol_uring_completion *)(void *)(u->rings + setup->cq.completions);
    return 0;
}

AIOLOOP_INTERNAL int aiol_uring_open(const aiol_engine_setup *setup, aiol_engine **out) {
    aiol_uring *u = (aiol_uring *)aiol_alloc_zero(setup->allocator, sizeof(*u));
    aiol_uring_setup kernel;
    int err;
    if (u == NULL)
        return AIOLOOP_ENOMEM;
    u->table.base.name = "io_uring";
    u->table.base.calls = &aiol_uring_calls;
    u->table.base.sockets = &aiol_system_sockets;
    u->table.base.allocator = setup->allocator;
    u->table.without = setup->without;
    u->table.broken = aiol_uring_broken;
    u->fd = -1;
    u->signal.reader = -1;
    u->room = -1;
    u->cancels_end = &u->cancels;
    err = aiol_wake_open(&u->wake, setup->without);
    if (err < 0) {
        aiol_free(setup->allocator, u, sizeof(*u));
        return err;
    }
    err = aiol_uring_create(u, setup->named, &kernel);
    if (err == 0)
        err = aiol_uring_map(u, &kernel);
    if (err == 0)
        err = aiol_table_attach(&u->table.base, u->wake.reader, AIOL_OWNER_WATCHER);
    if (err < 0) {
        aiol_uring_forget(&u->table.base);
        return err;
    }
    u->wake_op.kind = AIOL_OP_POLL;
    u->wake_op.fd = u->wake.reader;
    u->wake_op.done = aiol_uring_woken;
    u->wake_op.u.poll.events = AIOL_POLL_READABLE;
    (void)aiol_uring_submit(&u->table.base, &u->wake_op);
    *out = &u->table.base;
    return 0;
}

#endif
