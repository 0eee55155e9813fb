/*
 * bench_uring.c - the echo server by hand on io_uring: what a C programmer writes who needs only this.
 *
 * As io_uring is meant to be used: a ring for one thread that runs its completions when that thread
 * enters the kernel, multishot accept and recv, buffers that the kernel chooses from a ring and
 * (since 6.12) fills piece by piece, sends straight from them, one io_uring_enter per turn. As in
 * bench_hand.c no handles that stay safe, no errors reported, and no flow control but that the
 * buffers run out.
 *
 *     bench_uring echo [--once] [--core N]     as in bench.h
 */
#define BENCH_NO_MAIN
#include "bench.h"
#include <linux/io_uring.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>

/* Newer than the headers of Debian 12. */
#define URING_BUFFERS_INCREMENTAL 2
#define URING_CQE_BUFFER_MORE (1u << 4)

#define URING_ENTRIES 512
#define URING_COMPLETIONS 8192
/* Few and large, filled piece by piece: with 16 of 64 KiB a message of 100 KiB costs a fifth more. */
#define URING_BUFFERS 4
#define URING_BUFFER_SIZE (256 * 1024)

/* What a completion is of: the lowest bits of user_data, the rest is the connection. */
enum { URING_RECV, URING_SEND, URING_ACCEPT, URING_CONTROL, URING_CLOSE, URING_WHAT = 7 };

/* Bytes of a buffer that are to be sent. */
struct piece {
    struct piece *next;
    char *data;
    uint32_t size;
    uint16_t buffer;
};

struct conn {
    struct piece *first, *last;         /* to be sent, in this order */
    struct conn *next_ready, *next_dry; /* on the lists below */
    int fd;
    bool receiving, sending;
};

/* A buffer may hold pieces of several connections. done: the kernel puts no more into it. */
struct buffer {
    uint32_t used, pieces;
    bool done;
};

static int uring_fd, uring_enter_fd;
static unsigned uring_enter_flags;
static bool uring_running = true;
static struct io_uring_sqe *uring_sqes;
static struct io_uring_cqe *uring_cqes;
static unsigned *uring_sq_head, *uring_sq_tail, *uring_cq_head, *uring_cq_tail;
static unsigned uring_sq_mask, uring_cq_mask, uring_sq_next;

static struct io_uring_buf_ring *uring_buffer_ring;
static char *uring_memory;
static struct buffer uring_buffers[URING_BUFFERS];
static uint16_t uring_buffer_tail;
static struct piece *uring_spare;
static struct conn *uring_ready;                             /* they have something to send */
static struct conn *uring_dry, **uring_dry_end = &uring_dry; /* no buffer was left for them */
static unsigned uring_free;                                  /* buffers that the kernel has */

/* ---- the rings ---- */

static void uring_enter(unsigned minimum) {
    unsigned count = uring_sq_next - __atomic_load_n(uring_sq_head, __ATOMIC_ACQUIRE);
    unsigned flags = uring_enter_flags | IORING_ENTER_GETEVENTS;
    long n;
    __atomic_store_n(uring_sq_tail, uring_sq_next, __ATOMIC_RELEASE);
    n = syscall(SYS_io_uring_enter, uring_enter_fd, count, minimum, flags, NULL, (size_t)0);
    bench_check(n >= 0 || errno == EINTR || errno == EAGAIN || errno == EBUSY, "io_uring_enter");
}

static struct io_uring_sqe *uring_sqe(int operation, int fd, struct conn *c, unsigned what) {
    struct io_uring_sqe *sqe;
    while (uring_sq_next - __atomic_load_n(uring_sq_head, __ATOMIC_ACQUIRE) > uring_sq_mask)
        uring_enter(0);
    sqe = &uring_sqes[uring_sq_next++ & uring_sq_mask];
    memset(sqe, 0, sizeof(*sqe));
    sqe->opcode = (uint8_t)operation;
    sqe->fd = fd;
    sqe->user_data = (uint64_t)(uintptr_t)c | what;
    return sqe;
}

static void *uring_map(size_t size, int fd, off_t place) {
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED | MAP_POPULATE;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, place);
    bench_check(memory != MAP_FAILED, "mmap");
    return memory;
}

static long uring_register(unsigned what, void *argument) {
    return syscall(SYS_io_uring_register, uring_fd, what, argument, 1);
}

static void uring_make(void) {
    struct io_uring_params p = {.cq_entries = URING_COMPLETIONS};
    struct io_uring_rsrc_update self = {.offset = UINT32_MAX};
    size_t sq_size, cq_size;
    char *rings;
    unsigned *array;
    p.flags = IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER |
              IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
    uring_fd = (int)syscall(SYS_io_uring_setup, URING_ENTRIES, &p);
    bench_check(uring_fd >= 0, "io_uring_setup");
    sq_size = p.sq_off.array + p.sq_entries * sizeof(unsigned);
    cq_size = p.cq_off.cqes + p.cq_entries * sizeof(*uring_cqes);
    rings = (char *)uring_map(sq_size > cq_size ? sq_size : cq_size, uring_fd, IORING_OFF_SQ_RING);
    uring_sqes = (struct io_uring_sqe *)uring_map(p.sq_entries * sizeof(*uring_sqes), uring_fd,
                                                  IORING_OFF_SQES);
    uring_sq_head = (unsigned *)(rings + p.sq_off.head);
    uring_sq_tail = (unsigned *)(rings + p.sq_off.tail);
    uring_sq_mask = p.sq_entries - 1;
    uring_cq_head = (unsigned *)(rings + p.cq_off.head);
    uring_cq_tail = (unsigned *)(rings + p.cq_off.tail);
    uring_cq_mask = p.cq_entries - 1;
    uring_cqes = (struct io_uring_cqe *)(rings + p.cq_off.cqes);
    array = (unsigned *)(rings + p.sq_off.array);
    for (unsigned i = 0; i < p.sq_entries; i++)
        array[i] = i;
    /* Known to the kernel by number, the ring need not be looked up among the files. */
    self.data = (uint64_t)(unsigned)uring_fd;
    uring_enter_fd = uring_fd;
    if (uring_register(IORING_REGISTER_RING_FDS, &self) == 1) {
        uring_enter_fd = (int)self.offset;
        uring_enter_flags = IORING_ENTER_REGISTERED_RING;
    }
}

/* ---- buffers ---- */

static void uring_give(unsigned id) {
    struct io_uring_buf *place =
        &uring_buffer_ring->bufs[uring_buffer_tail++ & (URING_BUFFERS - 1)];
    memset(&uring_buffers[id], 0, sizeof(uring_buffers[id]));
    uring_free++;
    place->addr = (uint64_t)(uintptr_t)(uring_memory + (size_t)id * URING_BUFFER_SIZE);
    place->len = URING_BUFFER_SIZE;
    place->bid = (uint16_t)id;
    __atomic_store_n(&uring_buffer_ring->tail, uring_buffer_tail, __ATOMIC_RELEASE);
}

static void uring_make_buffers(void) {
    struct io_uring_buf_reg reg = {.ring_entries = URING_BUFFERS};
    uring_buffer_ring = (struct io_uring_buf_ring *)uring_map(
        URING_BUFFERS * sizeof(struct io_uring_buf), -1, 0);
    uring_memory = (char *)uring_map((size_t)URING_BUFFERS * URING_BUFFER_SIZE, -1, 0);
    reg.ring_addr = (uint64_t)(uintptr_t)uring_buffer_ring;
    reg.pad = URING_BUFFERS_INCREMENTAL; /* newer headers call this field flags */
    if (uring_register(IORING_REGISTER_PBUF_RING, &reg) < 0) {
        reg.pad = 0;
        bench_check(uring_register(IORING_REGISTER_PBUF_RING, &reg) == 0, "io_uring_register");
    }
    for (unsigned id = 0; id < URING_BUFFERS; id++)
        uring_give(id);
}

/* ---- echo ---- */

static void echo_receive(struct conn *c) {
    struct io_uring_sqe *sqe = uring_sqe(IORING_OP_RECV, c->fd, c, URING_RECV);
    sqe->flags = IOSQE_BUFFER_SELECT;
    sqe->ioprio = IORING_RECV_MULTISHOT;
    c->receiving = true;
}

static void echo_send(struct conn *c) {
    struct io_uring_sqe *sqe = uring_sqe(IORING_OP_SEND, c->fd, c, URING_SEND);
    sqe->addr = (uint64_t)(uintptr_t)c->first->data;
    sqe->len = c->first->size;
    sqe->msg_flags = MSG_NOSIGNAL | MSG_WAITALL; /* all of it or an error */
    c->sending = true;
}

static void echo_drop(struct conn *c) {
    struct io_uring_sqe *sqe;
    if (c->receiving || c->first != NULL)
        return; /* the last completion will drop it */
    sqe = uring_sqe(IORING_OP_CLOSE, c->fd, NULL, URING_CLOSE);
    sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
    free(c);
    if (!bench_closed())
        uring_running = false;
}

static void echo_accepted(int fd) {
    struct conn *c;
    if (fd < 0)
        return;
    c = (struct conn *)bench_alloc(1, sizeof(*c));
    c->fd = fd;
    bench_nodelay(fd);
    bench_opened();
    echo_receive(c);
}

/* One piece is sent at a time, so they stay in order. What comes in the same turn is often one piece
 * in the buffer, so sends are made at its end. */
static void echo_queue(struct conn *c, unsigned id, char *data, uint32_t size) {
    struct piece *piece = c->last;
    if (piece != NULL && !(c->sending && piece == c->first) && piece->data + piece->size == data &&
        piece->buffer == id) {
        piece->size += size;
        return;
    }
    piece = uring_spare;
    if (piece != NULL)
        uring_spare = piece->next;
    else
        piece = (struct piece *)bench_alloc(1, sizeof(*piece));
    piece->next = NULL;
    piece->data = data;
    piece->size = size;
    piece->buffer = (uint16_t)id;
    uring_buffers[id].pieces++;
    if (c->first != NULL) {
        c->last->next = piece;
        c->last = piece;
    } else {
        c->first = c->last = piece;
        c->next_ready = uring_ready;
        uring_ready = c;
    }
}

static void echo_send_ready(void) {
    while (uring_ready != NULL) {
        struct conn *c = uring_ready;
        uring_ready = c->next_ready;
        echo_send(c);
    }
}

static void echo_received(struct conn *c, int result, unsigned flags) {
    if (flags & IORING_CQE_F_BUFFER) {
        unsigned id = flags >> IORING_CQE_BUFFER_SHIFT;
        struct buffer *buffer = &uring_buffers[id];
        char *data = uring_memory + (size_t)id * URING_BUFFER_SIZE + buffer->used;
        buffer->done = !(flags & URING_CQE_BUFFER_MORE);
        uring_free -= buffer->done;
        if (result > 0) {
            buffer->used += (uint32_t)result;
            echo_queue(c, id, data, (uint32_t)result);
        } else if (buffer->done && buffer->pieces == 0) {
            uring_give(id);
        }
    }
    if (flags & IORING_CQE_F_MORE)
        return;
    c->receiving = false;
    if (result == -ENOBUFS) {
        c->receiving = true; /* it will be again */
        c->next_dry = NULL;
        *uring_dry_end = c;
        uring_dry_end = &c->next_dry;
    } else if (result > 0) {
        echo_receive(c);
    } else {
        echo_drop(c);
    }
}

static void echo_sent(struct conn *c, int result) {
    struct piece *piece = c->first;
    struct buffer *buffer = &uring_buffers[piece->buffer];
    bool all = result == (int)piece->size;
    c->sending = false;
    c->first = piece->next;
    if (c->first == NULL)
        c->last = NULL;
    if (--buffer->pieces == 0 && buffer->done)
        uring_give(piece->buffer);
    piece->next = uring_spare;
    uring_spare = piece;
    if (!all)
        shutdown(c->fd, SHUT_RDWR); /* so that the recv ends, and the sends behind this one */
    if (c->first != NULL)
        echo_send(c);
    else
        echo_drop(c);
}

/* One for each buffer, the longest dry first: all of them would only run dry again. False: there are
 * more, and what they could have. */
static bool echo_receive_again(void) {
    for (unsigned i = uring_free; i > 0 && uring_dry != NULL; i--) {
        struct conn *c = uring_dry;
        uring_dry = c->next_dry;
        if (uring_dry == NULL)
            uring_dry_end = &uring_dry;
        echo_receive(c);
    }
    return uring_dry == NULL || uring_free == 0;
}

static void echo_accept(int listener) {
    uring_sqe(IORING_OP_ACCEPT, listener, NULL, URING_ACCEPT)->ioprio = IORING_ACCEPT_MULTISHOT;
}

static void echo_watch_control(void) {
    uring_sqe(IORING_OP_POLL_ADD, 0, NULL, URING_CONTROL)->poll32_events = POLLIN;
}

static void bench_echo(void) {
    int listener;
    uring_make();
    uring_make_buffers();
    listener = bench_listen();
    bench_engine = "io_uring";
    echo_accept(listener);
    echo_watch_control();
    while (uring_running) {
        unsigned head = *uring_cq_head, tail;
        uring_enter(echo_receive_again() ? 1 : 0); /* 1: waits */
        tail = __atomic_load_n(uring_cq_tail, __ATOMIC_ACQUIRE);
        for (; head != tail; head++) {
            const struct io_uring_cqe *cqe = &uring_cqes[head & uring_cq_mask];
            uint64_t user_data = cqe->user_data;
            struct conn *c = (struct conn *)(uintptr_t)(user_data & ~(uint64_t)URING_WHAT);
            switch (user_data & URING_WHAT) {
            case URING_RECV:
                echo_received(c, cqe->res, cqe->flags);
                break;
            case URING_SEND:
                echo_sent(c, cqe->res);
                break;
            case URING_ACCEPT:
                echo_accepted(cqe->res);
                if (!(cqe->flags & IORING_CQE_F_MORE))
                    echo_accept(listener);
                break;
            case URING_CONTROL:
                uring_running = bench_control() && uring_running;
                echo_watch_control();
                break;
            }
        }
        __atomic_store_n(uring_cq_head, head, __ATOMIC_RELEASE);
        echo_send_ready();
    }
}

int main(int argc, char **argv) {
    struct bench_args args = bench_parse(argc, argv);
    if (strcmp(args.mode, "echo") != 0)
        return 2;
    bench_once = args.once;
    bench_pin(args.core);
    bench_files();
    bench_echo();
    return 0;
}
